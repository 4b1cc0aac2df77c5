package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A made call is what its caller has of it.
type made struct {
	session           string
	request, response []byte
}

// make calls the gateway and reads the answer to its end, whatever it is.
func (w *world) make(method, path, body string) made {
	w.t.Helper()
	return w.makeAs(callerKey, method, path, body)
}

func (w *world) makeAs(key, method, path, body string) made {
	w.t.Helper()
	resp, err := w.doAs(context.Background(), key, method, path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("read the answer: %v after %q", err, b)
	}
	return made{resp.Header.Get(SessionHeader), []byte(body), b}
}

// ask asks for a receipt once.
func (w *world) ask(key, name string) (*http.Response, []byte) {
	w.t.Helper()
	resp, err := w.doAs(context.Background(), key, "GET", "/.tallystick/receipts/"+name, "")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, []byte(slurp(w.t, resp.Body))
}

// receipt asks for a receipt that there must be.
func (w *world) receipt(key, session string) ([]byte, http.Header) {
	w.t.Helper()
	resp, b := w.ask(key, session)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
		w.t.Fatalf("the receipt of %s: %s %v: %s", session, resp.Status, resp.Header, b)
	}
	return b, resp.Header
}

// proven asks until a receipt has its proof.
func (w *world) proven(key, session string) []byte {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, b := w.ask(key, session)
		if resp.StatusCode == 200 && resp.Header.Get("Retry-After") == "" {
			return b
		}
		if resp.StatusCode != 200 && resp.StatusCode != 404 && resp.StatusCode != 409 || time.Now().After(deadline) {
			w.t.Fatalf("the receipt of %s: %s: %s", session, resp.Status, b)
		}
	}
}

// forget makes the gateway forget which sessions ended lately.
func (w *world) forget() {
	w.g.recent.mu.Lock()
	defer w.g.recent.mu.Unlock()
	w.g.recent.at, w.g.recent.ring, w.g.recent.next = nil, nil, 0
}

// hold keeps the log from publishing until it is released.
func (w *world) hold() (release func()) {
	held := make(chan struct{})
	w.log.Inject(tlogtest.Faults{Publish: func(tlog.Checkpoint) error { <-held; return nil }})
	release = sync.OnceFunc(func() { close(held); w.log.Inject(tlogtest.Faults{}) })
	w.t.Cleanup(release) // before the world is audited
	return release
}

// check verifies a receipt as its caller can: what is proven, else promised, and that these are the caller's bytes.
func (w *world) check(raw []byte, m made) *record.Receipt {
	t := w.t
	t.Helper()
	r, err := record.ParseReceipt(raw)
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if r.Session.String() != m.session {
		t.Errorf("a receipt of %s instead of %s", r.Session, m.session)
	}
	var c tlog.Checkpoint
	if r.Checkpoint != nil {
		if c, _, err = tlog.OpenCheckpoint(r.Checkpoint, w.log.Verifier()); err != nil {
			t.Errorf("its checkpoint: %v", err)
		}
	}
	promised := make(map[uint64]tlog.Hash)
	if r.Promise != nil {
		start, err := record.ParseEntry(r.Start.Bytes)
		if err != nil || start.Kind != record.Start {
			t.Fatalf("its start entry is %s, %v", r.Start.Bytes, err)
		}
		p, err := r.Promise.Open(start.Promise)
		if err != nil || p.Origin != tlogtest.Origin || p.Boot != start.Boot || time.Since(p.Time) > time.Hour {
			t.Errorf("its promise: %+v, %v", p, err)
		}
		for _, l := range p.Leaves {
			promised[l.Index] = l.Leaf
		}
		if len(promised) != 1+len(r.Entries) {
			t.Errorf("it promises %d entries", len(promised))
		}
	}
	stands := func(e record.ReceiptEntry) {
		leaf := tlog.HashLeaf(e.Bytes)
		if l, ok := promised[e.Index]; ok && l != leaf || !ok && e.Proof == nil {
			t.Errorf("entry %d is neither proven nor promised", e.Index)
		}
		if e.Proof != nil {
			if err := tlog.VerifyInclusion(leaf, e.Index, c.Size, c.Root, e.Proof); err != nil {
				t.Error(err)
			}
		}
	}
	if r.Start != nil {
		stands(*r.Start)
	}
	for i, e := range r.Entries {
		stands(e)
		parsed, err := record.ParseEntry(e.Bytes)
		if err != nil || parsed.Session != r.Session {
			t.Fatalf("entry %d is %s, %v", e.Index, e.Bytes, err)
		}
		if len(e.Fields) == 0 {
			continue
		}
		leaves := make([]tlog.Hash, len(e.Fields))
		bodies := 0
		mine := m.request
		if parsed.Kind == record.Response {
			mine = m.response
		}
		for k := range e.Fields {
			f := &e.Fields[k]
			leaves[k] = f.Hash()
			switch {
			case f.Name == record.FieldBody:
				bodies++
				if f.Value != nil || f.Holding(mine) != f.Leaf {
					t.Errorf("the caller's bytes are not the body of entry %d", e.Index)
				}
				if f.Holding(append(bytes.Clone(mine), ' ')) == f.Leaf {
					t.Errorf("any bytes are the body of entry %d", e.Index)
				}
			case f.Name != "" && !slices.Contains(callersOwn, f.Name):
				t.Errorf("entry %d shows the field %s", e.Index, f.Name)
			}
		}
		if bodies != 1 {
			t.Errorf("entry %d has %d bodies", e.Index, bodies)
		}
		if len(leaves) != parsed.Fields || record.RootOf(leaves) != parsed.Root {
			t.Errorf("the fields of entry %d are not the record that it commits to", e.Index)
		}
		if i > 0 && parsed.Prev != tlog.HashLeaf(r.Entries[i-1].Bytes) {
			t.Errorf("entry %d does not follow the one before it", e.Index)
		}
	}
	return r
}

// shown returns the value of a field of a receipt's entry.
func shown(e record.ReceiptEntry, name string) string {
	for _, f := range e.Fields {
		if f.Name == name {
			return string(f.Value)
		}
	}
	return "(not shown)"
}

// At once after the answer there is a promise, later a proof, whatever the call was; and from memory or by a search it is
// the same.
func TestReceiptsOfCalls(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Overlap} {
		w := newWorld(t, func(cfg *Config) { cfg.Mode = mode })
		w.make("POST", "/v1/chat/completions", chat("first, so that the boot has begun", false))
		release := w.hold()
		var calls []made
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/chat/completions", chat("hello there", false)},
			{"POST", "/v1/chat/completions", chat("hello there", true)},
			{"POST", "/v1/messages", `{"model":"fake-1","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`},
			{"POST", "/v1/messages", `{"model":"fake-1","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}`},
			{"POST", "/v1/chat/completions", chat("/error 429 too much", false)},
			{"POST", "/v1/chat/completions", chat("/fin 20 hello out there", false)}, // a 502 of the gateway's own
			{"POST", "/v1/chat/completions", chat("/size 2MB hello", false)},
			{"GET", "/v1/models", ""},
			{"POST", "/any/v1/chat/completions?x=a+b%2Bc", chat("hello", true)},
		} {
			m := w.make(c.method, c.path, c.body)
			raw, h := w.receipt(callerKey, m.session)
			r := w.check(raw, m)
			if r.Promise == nil || h.Get("Retry-After") != "1" || r.Entries[0].Proof != nil || r.Entries[1].Proof != nil || len(r.Entries) != 2 {
				t.Errorf("%v %s: not a promise: %s", mode, c.path, raw)
			}
			q := r.Entries[0]
			if shown(q, record.FieldCaller) != "alice" || shown(q, record.FieldTarget) != c.path || shown(q, record.FieldSession) != m.session {
				t.Errorf("%v %s: it shows %+v", mode, c.path, q.Fields)
			}
			for _, secret := range []string{w.modelAt, "upstream", "remote", "headers"} {
				if bytes.Contains(raw, []byte(secret)) {
					t.Errorf("%v %s: %q stands in it", mode, c.path, secret)
				}
			}
			if resp, b := w.ask(callerKey, m.session+".tlog-proof"); resp.StatusCode != 409 || !strings.Contains(string(b), "not_published") || resp.Header.Get("Retry-After") != "1" {
				t.Errorf("%v %s: a proof before its checkpoint: %s: %s", mode, c.path, resp.Status, b)
			}
			calls = append(calls, m)
		}
		release()
		remembered := make([][]byte, len(calls))
		for i, m := range calls {
			remembered[i] = w.proven(callerKey, m.session)
		}
		w.forget()
		for i, m := range calls {
			for _, raw := range [][]byte{remembered[i], w.proven(callerKey, m.session)} {
				r := w.check(raw, m)
				if r.Promise != nil || r.Entries[0].Proof == nil || r.Entries[1].Proof == nil || len(r.Entries) != 2 || len(r.Entries[1].Fields) == 0 {
					t.Errorf("%v, call %d: not proven: %s", mode, i, raw)
				}
			}
			resp, b := w.ask(callerKey, m.session+".tlog-proof")
			f, err := tlog.ParseProofFile(b)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %v: %s", resp.Status, err, b)
			}
			p, err := tlog.ParsePolicy(w.log.Policy())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := f.Verify(p, tlog.HashLeaf(f.Extra)); err != nil {
				t.Error(err)
			}
			if e, err := record.ParseEntry(f.Extra); err != nil || e.Kind != record.Response || e.Session.String() != m.session {
				t.Errorf("it proves %s, %v", f.Extra, err)
			}
		}
	}
}

// Under load every caller has a receipt the moment it has its answer.
func TestReceiptsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 20 {
				body := chat(fmt.Sprintf("caller %d call %d", i, n), n%2 == 0)
				resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", body)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					t.Error(err)
					return
				}
				session := resp.Header.Get(SessionHeader)
				got, raw := w.ask(callerKey, session)
				if got.StatusCode != 200 {
					t.Errorf("%s: %s", got.Status, raw)
					return
				}
				w.check(raw, made{session, []byte(body), b})
			}
		})
	}
	all.Wait()
}

// A receipt is its caller's own: a session of somebody else, one that nobody had and what is no session are the same to
// whoever asks, and who shows no key is told nothing.
func TestReceiptsAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	const second = "tk-alice-second-key-0123"
	w := newWorld(t, func(cfg *Config) {
		cfg.Callers = append(cfg.Callers, Caller{Name: "alice", Key: "phone", SHA256: hashOf(second), Routes: []string{"any"}})
	})
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	w.proven(callerKey, m.session)
	for range 2 { // from memory, and by a search
		w.check(w.proven(second, m.session), m)
		unknown := record.NewID(time.Now()).String()
		var answers []string
		for _, name := range []string{
			m.session, unknown, unknown + ".tlog-proof", m.session + ".tlog-proof", "0198f2c1-7d3a-7b11-8c55-2f6e9a4b1d03", "ffffffff-7d3a-7b11-8c55-2f6e9a4b1d03",
			"00000000-0000-0000-0000-000000000000", "x", "", strings.ToUpper(m.session), m.session + "/", m.session + "?x=y", m.session + ".tlog-proof.tlog-proof",
		} {
			resp, b := w.ask(bobKey, name)
			if resp.StatusCode != 404 || resp.Header.Get("X-Should-Retry") != "false" || resp.Header.Get("Retry-After") != "" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s %v", name, resp.Status, resp.Header)
			}
			answers = append(answers, string(b))
		}
		if answers = slices.Compact(answers); len(answers) != 1 || !strings.Contains(answers[0], `"unknown_session"`) {
			t.Errorf("they differ: %q", answers)
		}
		w.forget()
	}
	for key, want := range map[string]int{"": 401, "tk-nobody": 401} {
		if resp, b := w.ask(key, m.session); resp.StatusCode != want || !strings.Contains(string(b), "authentication_error") {
			t.Errorf("with the key %q: %s: %s", key, resp.Status, b)
		}
	}
	req, err := http.NewRequest("GET", w.base+"/.tallystick/receipts/"+m.session, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", callerKey)
	if resp, err := w.client.Do(req); err != nil || resp.StatusCode != 200 {
		t.Errorf("with the key in the other header: %v, %v", resp, err)
	}
	for _, method := range []string{"POST", "HEAD", "DELETE"} {
		resp, err := w.do(t.Context(), method, "/.tallystick/receipts/"+m.session, "")
		if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET" {
			t.Errorf("%s: %v, %v", method, resp, err)
		}
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	shed := uint64(0)
	for _, e := range w.entries() {
		shed += e.Shed
	}
	if shed != 2 {
		t.Errorf("%d were turned away, and the log says %d", 2, shed)
	}
}

// Sessions of earlier lives of the gateway have receipts: those that ended, and those that it died in.
func TestReceiptsAfterAKill(t *testing.T) {
	t.Parallel()
	mortal := &mortalLog{}
	first := newWorld(t, func(cfg *Config) {
		mortal.Log = cfg.Log
		cfg.Log = mortal
		cfg.Limits.Drain = time.Millisecond
	})
	first.faulty = true
	var whole []made
	for i := range 4 {
		whole = append(whole, first.make("POST", "/v1/chat/completions", chat(fmt.Sprint("hello ", i), i%2 == 0)))
	}
	mortal.dead.Store(true)
	again := &world{t: t, log: first.log, keys: first.keys, journal: t.TempDir(), said: &lines{}, model: first.model, modelAt: first.modelAt, coder: first.coder}
	again.start(nil)
	for _, m := range whole {
		again.check(again.proven(callerKey, m.session), m)
	}

	w, readers, bodies := crash(t, nil, nil)
	all := w.closed(len(readers) + bodies)
	for _, r := range readers {
		id, err := record.ParseID(r.session)
		if err != nil {
			t.Fatal(err)
		}
		q, _ := all[id].records[0].Get(record.FieldBody)
		e, rec := all[id].last()
		kept, _ := rec.Get(record.FieldBody)
		got := w.check(w.proven(callerKey, r.session), made{r.session, q, kept})
		last, err := record.ParseEntry(got.Entries[1].Bytes)
		if err != nil || last.Outcome != record.Interrupted || last.Boot == all[id].entries[0].Boot || last.Seq != e.Seq {
			t.Errorf("it ends with %+v, %v", last, err)
		}
	}
}

// While a session runs there is no receipt of it yet.
func TestReceiptOfAnOpenSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := w.do(ctx, "POST", "/v1/chat/completions", chat("/stall 3 hello out there in the world", true))
	if err != nil {
		t.Fatal(err)
	}
	session := resp.Header.Get(SessionHeader)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got, b := w.ask(callerKey, session)
		if got.StatusCode == 409 && strings.Contains(string(b), "session_open") && got.Header.Get("Retry-After") == "1" && got.Header.Get("X-Should-Retry") == "true" {
			break
		}
		if got.StatusCode != 404 || time.Now().After(deadline) { // not published yet
			t.Fatalf("%s: %s", got.Status, b)
		}
	}
	if got, b := w.ask(bobKey, session); got.StatusCode != 409 {
		t.Errorf("that a session is open is public: %s: %s", got.Status, b)
	}
	cancel()
	r := w.check(w.proven(callerKey, session), made{session: session, request: []byte(chat("/stall 3 hello out there in the world", true)), response: w.recordedBody(session)})
	if e, err := record.ParseEntry(r.Entries[1].Bytes); err != nil || e.Outcome != record.ClientGone {
		t.Errorf("%+v, %v", e, err)
	}
}

// recordedBody returns the body of a session's response as it was recorded.
func (w *world) recordedBody(session string) []byte {
	_, r := w.session(session).last()
	b, _ := r.Get(record.FieldBody)
	return b
}

// A call that was refused has a receipt too.
func TestReceiptOfARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	body := `{"model":"fake-1","max_tokens":9,"messages":[]}`
	for _, c := range []struct{ key, path, body string }{{bobKey, "/v1/messages", body}, {callerKey, "/nowhere", "{}"}, {callerKey, "/v1/chat/completions", "{"}} {
		m := w.makeAs(c.key, "POST", c.path, c.body)
		for range 2 {
			r := w.check(w.proven(c.key, m.session), m)
			e, err := record.ParseEntry(r.Entries[0].Bytes)
			if err != nil || e.Kind != record.Refused || len(r.Entries) != 1 || shown(r.Entries[0], record.FieldStatus) == "(not shown)" {
				t.Errorf("%s: %+v, %v", c.path, e, err)
			}
			w.forget()
		}
	}
}

// What was erased is not in a receipt, and what is left is public.
func TestReceiptOfAnErasedSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	w.proven(callerKey, m.session)
	gone := func(tlog.Hash, []byte) ([]byte, error) { return nil, fmt.Errorf("discarded: %w", tlog.ErrNotFound) }
	keys := w.keys.keys
	for name, erase := range map[string]func(){
		"the payload": func() { w.log.Inject(tlogtest.Faults{Payload: gone}) },
		"the key": func() {
			w.keys.mu.Lock()
			defer w.keys.mu.Unlock()
			w.keys.keys = map[string][]byte{"k": nil} // and not none, lest new ones have old names
		},
	} {
		erase()
		for range 2 {
			r := w.check(w.proven(callerKey, m.session), m)
			if len(r.Entries) != 2 || len(r.Entries[0].Fields)+len(r.Entries[1].Fields) != 0 {
				t.Errorf("%s is gone and the receipt is %+v", name, r)
			}
			w.forget()
		}
		w.check(w.proven(bobKey, m.session), m)
		w.log.Inject(tlogtest.Faults{})
		w.keys.mu.Lock()
		w.keys.keys = keys
		w.keys.mu.Unlock()
	}
}

// In open an answer can be ahead of its record, and a record can be lost: there is a receipt when there is a record.
func TestReceiptsInOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Mode = Open })
	w.faulty = true
	w.proven(callerKey, w.make("POST", "/v1/chat/completions", chat("first", false)).session)
	held, release := make(chan struct{}, 100), make(chan struct{})
	w.log.Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error { held <- struct{}{}; <-release; return nil }})
	m := w.make("POST", "/v1/chat/completions", chat("hello there", true))
	<-held
	if resp, b := w.ask(callerKey, m.session); resp.StatusCode != 409 || !strings.Contains(string(b), "session_open") {
		t.Errorf("before the record: %s: %s", resp.Status, b)
	}
	if resp, _ := w.ask(bobKey, m.session); resp.StatusCode != 404 {
		t.Errorf("of another: %s", resp.Status)
	}
	close(release)
	w.log.Inject(tlogtest.Faults{})
	w.check(w.proven(callerKey, m.session), m)

	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	m = w.make("POST", "/v1/chat/completions", chat("lost", false))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, b := w.ask(callerKey, m.session)
		if resp.StatusCode == 404 && strings.Contains(string(b), `"session_lost"`) {
			break
		}
		if resp.StatusCode != 409 || time.Now().After(deadline) {
			t.Fatalf("of a session that was lost: %s: %s", resp.Status, b)
		}
	}
	if resp, b := w.ask(bobKey, m.session); resp.StatusCode != 404 || !strings.Contains(string(b), `"unknown_session"`) {
		t.Errorf("of another's that was lost: %s: %s", resp.Status, b)
	}
	early := record.NewID(time.Now())
	w.g.recent.put(recentSession{id: early, caller: "alice"}) // lost before there was a ticket
	if resp, b := w.ask(callerKey, early.String()); resp.StatusCode != 404 || !strings.Contains(string(b), `"session_lost"`) {
		t.Errorf("of a session that was lost at once: %s: %s", resp.Status, b)
	}
}

// A gateway that does not know which log it writes to promises nothing.
func TestReceiptsWithoutAPromise(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Origin = "" })
	w.make("POST", "/v1/chat/completions", chat("first", false))
	release := w.hold()
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	if resp, b := w.ask(callerKey, m.session); resp.StatusCode != 409 || !strings.Contains(string(b), `"not_published"`) {
		t.Errorf("%s: %s", resp.Status, b)
	}
	release()
	w.check(w.proven(callerKey, m.session), m)
	if e := w.entries()[0]; e.Promise != [32]byte{} {
		t.Error("its start entry states a key")
	}
	if _, err := New(Config{Log: w.log, Keys: w.keys, Journal: "x", ID: "x", Software: "x", Routes: w.g.cfg.Routes, Origin: "a b"}); err == nil {
		t.Error("it takes any origin")
	}
}

// What the log or the keys cannot give is told as that, never as a receipt that does not hold.
func TestReceiptsThatCannotBeMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	w.proven(callerKey, m.session)
	broken := errors.New("the disk is on fire")
	other := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/other"})
	foreign, err := other.Publish()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]tlogtest.Faults{
		"no payload to be read": {Payload: func(tlog.Hash, []byte) ([]byte, error) { return nil, broken }},
		"another payload":       {Payload: func(_ tlog.Hash, b []byte) ([]byte, error) { b[len(b)-1] ^= 1; return b, nil }},
		"no tile":               {Tile: func(tlog.Tile, []byte) ([]byte, error) { return nil, broken }},
		"another tree":          {Tile: tlogtest.Flip(0, 0)},
		"no checkpoint":         {Checkpoint: func([]byte) ([]byte, error) { return nil, broken }},
		"no such checkpoint":    {Checkpoint: func([]byte) ([]byte, error) { return []byte("x"), nil }},
		"another log":           {Checkpoint: func([]byte) ([]byte, error) { return foreign, nil }},
	} {
		w.log.Inject(f)
		for range 2 {
			resp, b := w.ask(callerKey, m.session)
			if resp.StatusCode != 503 || !strings.Contains(string(b), `"receipt_unavailable"`) || resp.Header.Get("Retry-After") != "1" || bytes.Contains(b, []byte("fire")) {
				t.Errorf("%s: %s: %s", name, resp.Status, b)
			}
			w.forget()
		}
		w.log.Inject(tlogtest.Faults{})
		w.check(w.proven(callerKey, m.session), m)
	}
	if !strings.Contains(w.said.String(), "the disk is on fire") {
		t.Error("and nobody who runs the gateway is told")
	}
}

// However many receipts hang, calls do not.
func TestReceiptsDoNotHoldCallsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	w.proven(callerKey, m.session)
	asked, release := make(chan struct{}, 100), make(chan struct{})
	w.log.Inject(tlogtest.Faults{Payload: func(_ tlog.Hash, b []byte) ([]byte, error) { asked <- struct{}{}; <-release; return b, nil }})
	statuses := make(chan int, 12)
	var all sync.WaitGroup
	for range cap(statuses) {
		all.Go(func() {
			resp, err := w.do(context.Background(), "GET", "/.tallystick/receipts/"+m.session, "")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		})
	}
	for range receiptsAtOnce {
		<-asked
	}
	w.load(50)
	for range cap(statuses) - receiptsAtOnce {
		if s := <-statuses; s != http.StatusTooManyRequests {
			t.Errorf("one that had no turn is answered %d", s)
		}
	}
	w.log.Inject(tlogtest.Faults{})
	close(release)
	all.Wait()
	for range receiptsAtOnce {
		if s := <-statuses; s != 200 {
			t.Errorf("one that had to wait is answered %d", s)
		}
	}
}

// Of one caller one search runs at a time, and of all two.
func TestSearchesTakeTurns(t *testing.T) {
	t.Parallel()
	const third = "tk-carol-0123456789abcdef"
	w := newWorld(t, func(cfg *Config) { cfg.Callers = append(cfg.Callers, Caller{Name: "carol", SHA256: hashOf(third)}) })
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	w.proven(callerKey, m.session)
	w.forget()
	asked, release := make(chan struct{}, 1000), make(chan struct{})
	w.log.Inject(tlogtest.Faults{Tile: func(_ tlog.Tile, b []byte) ([]byte, error) { asked <- struct{}{}; <-release; return b, nil }})
	var all sync.WaitGroup
	statuses := make(map[string]int)
	var mu sync.Mutex
	search := func(key string) {
		all.Go(func() {
			resp, err := w.doAs(context.Background(), key, "GET", "/.tallystick/receipts/"+m.session, "")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			mu.Lock()
			statuses[key] = resp.StatusCode
			mu.Unlock()
		})
		<-asked
	}
	search(callerKey)
	for range 2 {
		if resp, b := w.ask(callerKey, m.session); resp.StatusCode != 429 || !strings.Contains(string(b), `"too_many_receipts"`) || resp.Header.Get("X-Should-Retry") != "true" {
			t.Errorf("a second search of one caller: %s: %s", resp.Status, b)
		}
	}
	search(bobKey)
	if resp, b := w.ask(third, m.session); resp.StatusCode != 429 {
		t.Errorf("a third search: %s: %s", resp.Status, b)
	}
	w.log.Inject(tlogtest.Faults{})
	close(release)
	all.Wait()
	if statuses[callerKey] != 200 || statuses[bobKey] != 404 {
		t.Errorf("those who searched are answered %v", statuses)
	}
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := turns{making: make(chan struct{}, 1), searching: make(map[string]bool)}
		if err := ts.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := ts.take(t.Context()); err != noTurn || time.Since(began) != receiptWait {
			t.Errorf("with no turn to be had: %v after %v", err, time.Since(began))
		}
		go func() { time.Sleep(time.Second); ts.done() }()
		if err := ts.take(t.Context()); err != nil {
			t.Errorf("with a turn after a second: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ts.take(ctx); err == nil || err == noTurn {
			t.Errorf("with no time: %v", err)
		}
		if !ts.search("a") || ts.search("a") || !ts.search("b") || ts.search("c") {
			t.Error("one a caller, two in all")
		}
		ts.searched("a")
		if ts.search("b") || !ts.search("c") {
			t.Error("a turn that was given back")
		}
	})
}

// The newest sessions are remembered, and no more.
func TestRecent(t *testing.T) {
	var r recent
	ids := make([]record.ID, 2*recentSessions+7)
	for i := range ids {
		ids[i] = record.ID{byte(i >> 16), byte(i >> 8), byte(i), 15: 1}
		r.put(recentSession{id: ids[i], caller: fmt.Sprint(i)})
		if i%3 == 0 {
			r.put(recentSession{id: ids[i], caller: fmt.Sprint(i)}) // told again
		}
		if old := i - recentSessions; old >= 0 {
			if _, ok := r.get(ids[old]); ok {
				t.Fatalf("session %d is remembered after %d more", old, recentSessions)
			}
		}
		if s, ok := r.get(ids[max(0, i-recentSessions+1)]); !ok || s.caller != fmt.Sprint(max(0, i-recentSessions+1)) {
			t.Fatalf("after %d sessions the oldest of the newest is %+v", i, s)
		}
	}
	if len(r.ring) != recentSessions || len(r.at) != recentSessions {
		t.Errorf("%d and %d are remembered", len(r.ring), len(r.at))
	}
}

// The receipt is JSON for those who read no more of it than that.
func TestReceiptIsJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	m := w.make("POST", "/v1/chat/completions", chat("hello there", false))
	var doc struct {
		Format, Session string
		Entries         []struct {
			Entry struct{ Kind, Outcome string }
		}
	}
	raw, _ := w.receipt(callerKey, m.session)
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Format != record.ReceiptFormat || doc.Session != m.session || doc.Entries[1].Entry.Outcome != "complete" {
		t.Errorf("%+v, %v", doc, err)
	}
}
