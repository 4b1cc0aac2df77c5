package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A mortal log is one whose gateway dies before the log does: from then on nothing of the gateway's reaches it.
type mortalLog struct {
	Log
	dead atomic.Bool
}

func (l *mortalLog) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	if l.dead.Load() {
		return nil, errors.New("the dead do not write")
	}
	return l.Log.Append(ctx, leaves...)
}

// copyDir copies the files of a directory as they are now.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// A reader reads an answer in its own time and remembers what it saw.
type reader struct {
	session string
	mu      sync.Mutex
	saw     bytes.Buffer
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.saw.Write(p)
}

func (r *reader) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.saw.String()
}

// crash is a world whose gateway dies in the middle of streams: a second world on the same log, with the journal as it
// was when the first one died, and what the callers had seen by then. change is for the second.
func crash(t *testing.T, harm func(dir string), change func(*Config)) (second *world, readers []*reader, bodies int) {
	t.Helper()
	mortal := &mortalLog{}
	first := newWorld(t, func(cfg *Config) {
		mortal.Log = cfg.Log
		cfg.Log = mortal
		cfg.Limits.Drain = time.Millisecond
	})
	first.faulty = true
	ctx, leave := context.WithCancel(t.Context())
	t.Cleanup(leave)
	var ready sync.WaitGroup
	for i, c := range []struct{ path, prompt string }{
		{"/v1", "/stall 5 /say " + cardInAnswer + " there in the world"},
		{"/v1", "/slow 1ms /endless hello"},
		{"/v1", "/slow 200us /endless hello and more"},
		{"/any/v1", "/slow 1ms /endless hello"},
		{"/any/v1", "/drip 100us /endless hello"},
		{"/v1", "/echo-auth /slow 1ms /stall 14"},
	} {
		r := &reader{}
		readers = append(readers, r)
		ready.Add(1)
		go func() {
			resp, err := first.do(ctx, "POST", c.path+"/chat/completions", chat(c.prompt, true))
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				ready.Done()
				return
			}
			defer resp.Body.Close()
			r.session = resp.Header.Get(SessionHeader)
			io.CopyN(r, resp.Body, 300)
			ready.Done()
			io.Copy(r, resp.Body)
		}()
	}
	// And some whose answer has not begun.
	bodies = 3
	for range bodies {
		go first.do(ctx, "POST", "/v1/chat/completions", chat("/hang", false))
	}
	ready.Wait()
	if err := first.model.Await(t.Context(), len(readers)+bodies); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond) // to die at some time
	mortal.dead.Store(true)
	for i, r := range readers {
		readers[i] = &reader{session: r.session}
		readers[i].Write([]byte(r.seen()))
	}
	dir := copyDir(t, first.journal)
	if harm != nil {
		harm(dir)
	}
	second = &world{t: t, log: first.log, keys: first.keys, journal: dir, said: &lines{}, model: first.model, modelAt: first.modelAt, coder: first.coder}
	second.start(change)
	return second, readers, bodies
}

// closed waits until no session is open, and returns them all.
func (w *world) closed(n int) map[record.ID]keptSession {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		all := w.sessions()
		done := 0
		for _, k := range all {
			if e, _ := k.last(); e.Kind == record.Response {
				done++
			}
		}
		if done == n && len(all) == n {
			return all
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("of %d sessions %d are closed, want %d", len(all), done, n)
		}
		time.Sleep(5 * time.Millisecond) // the gateway closes them in its own time
	}
}

// After a crash every session that was open ends as interrupted, with all that its caller had seen.
func TestCrash(t *testing.T) {
	t.Parallel()
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			w, readers, bodies := crash(t, nil, nil)
			all := w.closed(len(readers) + bodies)
			for i, r := range readers {
				id, err := record.ParseID(r.session)
				if err != nil {
					t.Fatal(err)
				}
				e, rec := all[id].last()
				body := get(rec, record.FieldBody)
				if e.Outcome != record.Interrupted || !strings.HasPrefix(body, r.seen()) {
					t.Errorf("stream %d is on record as %s with %d bytes; its caller had seen %d", i, e.Outcome, len(body), len(r.seen()))
				}
				if get(rec, record.FieldStatus) != "200" || !strings.Contains(get(rec, record.FieldHeaders), "text/event-stream") || !strings.Contains(get(rec, record.FieldKept), "bytes of the answer") {
					t.Errorf("stream %d: status %s, headers %s, kept %s", i, get(rec, record.FieldStatus), get(rec, record.FieldHeaders), get(rec, record.FieldKept))
				}
				t.Logf("stream %d: the caller had seen %d bytes, %d are on record", i, len(r.seen()), len(body))
				delete(all, id)
			}
			for _, k := range all {
				if e, rec := k.last(); e.Outcome != record.Interrupted || !strings.HasPrefix(get(rec, record.FieldKept), "nothing of an answer") {
					t.Errorf("a call without an answer is on record as %s: %s", e.Outcome, get(rec, record.FieldKept))
				}
			}
			// The next life serves, and leaves nothing of the last one on the disk.
			w.load(5)
			if err := w.stop(); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(w.journal, "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// However the journal was harmed, every session is closed, and none with bytes that were not its own.
func TestCrashWithAHarmedJournal(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func([]byte) []byte{
		"cut":              func(b []byte) []byte { return b[:len(b)*2/3] },
		"empty":            func([]byte) []byte { return nil },
		"zeros at the end": func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		"another length":   func(b []byte) []byte { b[0] ^= 1; return b },
		"one bit":          func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"twice":            func(b []byte) []byte { return append(b, b...) },
		"noise before":     func(b []byte) []byte { return append([]byte("noise"), b...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, readers, bodies := crash(t, func(dir string) {
				files, _ := filepath.Glob(filepath.Join(dir, "*"))
				for _, f := range files {
					b, err := os.ReadFile(f)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(f, harm(b), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}, nil)
			all := w.closed(len(readers) + bodies)
			for i, r := range readers {
				id, _ := record.ParseID(r.session)
				e, rec := all[id].last()
				body, kept := get(rec, record.FieldBody), get(rec, record.FieldKept)
				if e.Outcome != record.Interrupted {
					t.Errorf("stream %d is on record as %s", i, e.Outcome)
				}
				if n := min(len(body), len(r.seen())); body[:n] != r.seen()[:n] {
					t.Errorf("stream %d: on record is %q, its caller had seen %q", i, body, r.seen())
				}
				if len(body) < len(r.seen()) && !strings.Contains(kept, "damaged") && name != "empty" {
					t.Errorf("stream %d: %d bytes of %d, and the record says %q", i, len(body), len(r.seen()), kept)
				}
			}
		})
	}
}

// Sessions are closed also where the log takes them only now and then, each once, and where their keys are gone.
func TestCrashBesideABusyLog(t *testing.T) {
	t.Parallel()
	for _, keys := range []bool{true, false} {
		asked := 0 // the writer asks one at a time
		var w *world
		w, readers, bodies := crash(t, nil, func(cfg *Config) {
			if !keys {
				cfg.Keys = forgetful{cfg.Keys}
			}
			cfg.Log.(*tlogtest.Log).Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error {
				time.Sleep(2 * time.Millisecond) // so that they come in several batches
				if asked++; asked%2 == 0 {
					return tlog.ErrBusy
				}
				return nil
			}})
		})
		all := w.closed(len(readers) + bodies)
		for _, r := range readers {
			id, _ := record.ParseID(r.session)
			k := all[id]
			if len(k.entries) != 2 {
				t.Errorf("a session has %d entries", len(k.entries))
			}
			_, rec := k.last()
			if keys && !strings.HasPrefix(get(rec, record.FieldBody), r.seen()) || !keys && !strings.Contains(get(rec, record.FieldKept), "damaged") {
				t.Errorf("with keys %v: %d bytes on record, %s", keys, len(get(rec, record.FieldBody)), get(rec, record.FieldKept))
			}
		}
		w.log.Inject(tlogtest.Faults{})
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}
}

// forgetful keys open nothing.
type forgetful struct{ Keys }

func (forgetful) Open(context.Context, string) ([]byte, error) { return nil, errors.New("no such key") }

// While streams are under way nothing that was said stands readable in the journal; when they are over it is empty.
func TestJournalIsSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const prompt, said = "an unmistakable question", "an unmistakable answer"
	ctx, leave := context.WithCancel(t.Context())
	for _, path := range []string{"/v1", "/any/v1"} {
		resp, err := w.do(ctx, "POST", path+"/chat/completions", chat("/stall 6 /say "+said+" to "+prompt, true))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 900)
		if _, err := io.ReadFull(resp.Body, got); err != nil || !strings.Contains(string(got), "unmistakable") {
			t.Fatalf("%v: %s", err, got)
		}
	}
	files, _ := filepath.Glob(filepath.Join(w.journal, "*"))
	if len(files) != 1 {
		t.Fatalf("the journal is %q", files)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 2000 {
		t.Errorf("the journal has %d bytes", len(b))
	}
	for _, word := range []string{"unmistakable", "question", "answer", "content", "data:", "choices", "chunk", "200", "text/event-stream", canary, callerKey, "alice"} {
		if bytes.Contains(b, []byte(word)) {
			t.Errorf("the journal says %q", word)
		}
	}
	fi, err := os.Stat(files[0])
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the journal can be read by %v, %v", fi.Mode(), err)
	}
	leave()
}

// A segment is left when it is full, and deleted when the last session in it has ended.
func TestJournalTurns(t *testing.T) {
	t.Parallel()
	dir, keys := t.TempDir(), &memKeys{}
	j := newJournal(dir, record.NewID(time.Now()), keys)
	j.full = 10_000
	if err := j.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); j.run(ctx) }()
	segments := func() []string {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	begin := func() *track {
		name, key, _ := keys.New(ctx)
		tr, err := j.begin(record.NewID(time.Now()), name, key, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	until := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); len(segments()) != n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d segments, want %d", len(segments()), n)
			}
		}
	}
	long, short := begin(), begin()
	for _, tr := range []*track{long, short} {
		tr.piece(make([]byte, 6000), 0)
		if err := tr.flush(); err != nil {
			t.Fatal(err)
		}
	}
	until(2)
	short.end(true)
	long.piece([]byte("it goes on in its own segment"), 0)
	if err := long.flush(); err != nil {
		t.Fatal(err)
	}
	next := begin()
	if next.seg == long.seg {
		t.Error("a new session is written to a full segment")
	}
	next.end(true)
	next.end(true) // once
	until(2)
	long.end(true)
	until(1)
	cancel()
	<-done
	if err := j.close(); err != nil {
		t.Error(err)
	}
	until(0)
}

// A segment that cannot be written is left: the stream that met it is cut, the next one has another. What was in it
// already is there for the next life.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	resp := w.post("/v1/chat/completions", chat("/stall 3 hello out there in the world", true))
	if _, err := io.ReadFull(resp.Body, make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	w.session(resp.Header.Get(SessionHeader))
	break1 := func() {
		w.g.journal.mu.Lock()
		defer w.g.journal.mu.Unlock()
		w.g.journal.current.file.Close() // from now on it fails
	}
	break1()
	wantRefusal(t, w.post("/v1/chat/completions", chat("hello", true)), 503, "record_unavailable", true)
	for range 3 {
		if got := slurp(t, w.post("/v1/chat/completions", chat("hello", true)).Body); !strings.HasSuffix(got, "[DONE]\n\n") {
			t.Errorf("the stream after it: %q", got)
		}
	}
	// In the middle of a stream.
	resp = w.post("/v1/chat/completions", chat("/slow 10ms /endless hello", true))
	if _, err := io.ReadFull(resp.Body, make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	break1()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a stream that cannot be journaled has a clean end")
	}
	if e, r := w.session(resp.Header.Get(SessionHeader)).last(); e.Outcome != record.Internal {
		t.Errorf("on record as %s: %s", e.Outcome, get(r, record.FieldError))
	}
	if got := slurp(t, w.post("/v1/chat/completions", chat("hello", true)).Body); !strings.HasSuffix(got, "[DONE]\n\n") {
		t.Errorf("the stream after it: %q", got)
	}
	// A body needs no journal.
	break1()
	if resp := w.post("/v1/chat/completions", chat("hello", false)); resp.StatusCode != 200 {
		t.Errorf("a body beside a journal that fails: status %d", resp.StatusCode)
	}
}

// A directory has one gateway at a time.
func TestJournalIsOneGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.load(1)
	g, err := New(w.g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context(), loopback(t)); err == nil || !strings.Contains(err.Error(), "another gateway's") {
		t.Errorf("a second gateway in one directory: %v", err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if g, err = New(w.g.cfg); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(ctx, loopback(t)); err != nil {
		t.Errorf("when the first has gone: %v", err)
	}
	for _, bad := range []string{filepath.Join(w.journal, "file", "below"), "/proc/nothing"} {
		os.WriteFile(filepath.Join(w.journal, "file"), nil, 0o600)
		cfg := w.g.cfg
		cfg.Journal = bad
		if g, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		if err := g.Run(t.Context(), loopback(t)); err == nil || !strings.Contains(err.Error(), "stream journal") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	os.Remove(filepath.Join(w.journal, "file"))
}

// written is a segment with the pieces of some sessions, and what is in it.
func written(t testing.TB, keys *memKeys) (segment []byte, truth map[record.ID]string) {
	t.Helper()
	j := newJournal(t.TempDir(), record.NewID(time.Now()), keys)
	if err := j.open(); err != nil {
		t.Fatal(err)
	}
	truth = make(map[record.ID]string)
	var tracks []*track
	for range 3 {
		name, key, _ := keys.New(context.Background())
		tr, err := j.begin(record.NewID(time.Now()), name, key, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.head(200, []byte(`[["Content-Type","text/plain"]]`), time.Now()); err != nil {
			t.Fatal(err)
		}
		tracks = append(tracks, tr)
	}
	for i := range 12 {
		tr := tracks[i%len(tracks)]
		for k := range 1 + i%2 {
			piece := fmt.Sprintf("piece %d of %s, ", i*10+k, tr.session)
			truth[tr.session] += piece
			tr.piece([]byte(piece), time.Millisecond)
		}
		if err := tr.flush(); err != nil {
			t.Fatal(err)
		}
	}
	segment, err := os.ReadFile(j.current.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return segment, truth
}

// readSegment reads a segment as the next life does.
func readSegment(t testing.TB, keys Keys, segment []byte, truth map[record.ID]string) remnants {
	t.Helper()
	wanted := make(map[record.ID]bool)
	for id := range truth {
		wanted[id] = true
	}
	all := remnants{of: make(map[record.ID]*remnant)}
	if err := all.read(context.Background(), bytes.NewReader(segment), wanted, keys); err != nil {
		t.Fatal(err)
	}
	return all
}

// A segment that was cut at any byte, or has any bit flipped, gives of every session a beginning and nothing else, and
// what is missing without a trace is missing from the end of the file.
func TestJournalHarmedAnywhere(t *testing.T) {
	t.Parallel()
	keys := &memKeys{}
	segment, truth := written(t, keys)
	whole := readSegment(t, keys, segment, truth)
	if whole.damaged || len(whole.of) != len(truth) {
		t.Fatalf("unharmed: %+v", whole)
	}
	for id, m := range whole.of {
		if string(m.body) != truth[id] || m.torn || m.status != 200 || m.pieces < 4 || !bytes.HasSuffix(m.table, []byte("]")) {
			t.Errorf("unharmed: %q, %d pieces, %s", m.body, m.pieces, m.table)
		}
	}
	check := func(what string, all remnants) (missing bool) {
		for id := range truth {
			m := all.of[id]
			if m == nil {
				missing = true
				continue
			}
			if !strings.HasPrefix(truth[id], string(m.body)) {
				t.Fatalf("%s: %q", what, m.body)
			}
			if len(m.body) < len(truth[id]) && !m.torn {
				missing = true
			}
		}
		return missing
	}
	for at := range segment {
		all := readSegment(t, keys, segment[:at], truth)
		check(fmt.Sprintf("cut at %d", at), all)
		flipped := bytes.Clone(segment)
		flipped[at] ^= 1 << (at % 8)
		all = readSegment(t, keys, flipped, truth)
		// A flipped session's name takes a frame away, and with it the order of those after it; the last of a session
		// leaves no such trace.
		if check(fmt.Sprintf("flipped at %d", at), all) && !all.damaged && at < len(segment)/2 {
			t.Errorf("flipped at %d: something is missing and nothing says so", at)
		}
	}
	t.Logf("%d bytes, cut and flipped at each", len(segment))
}

func FuzzFrames(f *testing.F) {
	keys := &memKeys{}
	segment, truth := written(f, keys)
	f.Add(segment)
	f.Add(segment[:len(segment)/2])
	f.Add([]byte{0, 0, 0, 21})
	f.Add(append([]byte{0, 0, 0, 21}, make([]byte, 21)...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, err := readFrames(bytes.NewReader(b), func(fr frame) {
			if n += len(fr.aad) + len(fr.sealed); n > len(b) {
				t.Fatal("more was read than there is")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		all := readSegment(t, keys, b, truth)
		for id, m := range all.of {
			if !strings.HasPrefix(truth[id], string(m.body)) {
				t.Fatalf("%s: %q", id, m.body)
			}
		}
	})
}
