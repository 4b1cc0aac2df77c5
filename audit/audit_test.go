package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// memKeys keeps data keys in memory.
type memKeys struct {
	mu        sync.Mutex
	keys      map[string][]byte
	rewrapped int
}

func (k *memKeys) New(context.Context) (string, []byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := make([]byte, record.KeyBytes)
	rand.Read(key)
	id := fmt.Sprintf("k%d", len(k.keys))
	k.keys[id] = key
	return id, bytes.Clone(key), nil
}

func (k *memKeys) Erase(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.keys[id]; !ok {
		return ErrNotHere
	}
	k.keys[id] = nil
	return nil
}

func (k *memKeys) Rewrap(ctx context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rewrapped++
	return "sealed anew", ctx.Err()
}

func (k *memKeys) Open(_ context.Context, id string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[id]
	switch {
	case !ok:
		return nil, ErrNotHere
	case key == nil:
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(key), nil
}

// A world is a log with a gateway's pen and a desk.
type world struct {
	t     *testing.T
	log   *tlogtest.Log
	keys  *memKeys
	coder *record.Coder
	pen   *record.Writer // the gateway's
	desk  *Desk
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, log: tlogtest.NewLog(t), keys: &memKeys{keys: make(map[string][]byte)}}
	var err error
	if w.coder, err = record.NewCoder(1); err != nil {
		t.Fatal(err)
	}
	w.pen = w.writer("gw")
	if w.desk, err = NewDesk(w.log, w.keys, w.writer("desk")); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) writer(id string) *record.Writer {
	w.t.Helper()
	pen, err := record.NewWriter(record.WriterConfig{ID: id, Log: w.log, Software: "tallystick/test", Mode: "none", Heartbeat: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pen.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return pen
}

// write seals a record and appends its entry.
func (w *world) write(e record.Entry, after *record.Ticket, value string) *record.Ticket {
	w.t.Helper()
	var r record.Record
	r.Add(record.FieldBody, []byte(value))
	id, key, err := w.keys.New(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	e.Root, e.Fields = r.Root(), len(r)
	sealed, err := w.coder.Seal(r, key, id, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		w.t.Fatal(err)
	}
	e.Payload, e.PayloadSize = record.Sum(sealed), int64(len(sealed))
	t, err := w.pen.Write(w.t.Context(), record.Draft{Entry: e, Payload: sealed, After: after})
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// session writes a whole session and returns its ID.
func (w *world) session(id record.ID) record.ID {
	w.t.Helper()
	q := w.write(record.Entry{Kind: record.Request, Session: id}, nil, "asked in "+id.String())
	w.write(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, "answered in "+id.String())
	return id
}

// published waits until everything appended is published, and returns how much that is; a pen may append more at any time.
func (w *world) published() uint64 {
	w.t.Helper()
	signed, err := w.log.Publish()
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Size
}

func (w *world) entries() []record.Entry {
	w.t.Helper()
	ts := tlog.Tiles{Reader: w.log, Size: w.published()}
	var all []record.Entry
	for i := range ts.Size {
		b, err := ts.Entry(context.Background(), i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

var somebody = Asker{Name: "ann", Reason: "a complaint", Roles: Operator}

// Every session is found, wherever it lies, and its bundle verifies; that it was shown is on record before.
func TestExport(t *testing.T) {
	w := newWorld(t)
	var ids []record.ID
	for range 300 { // more than one bundle of entries
		ids = append(ids, w.session(record.NewID(time.Now())))
	}
	// One whose ID is from long ago, and one from the future: they are found all the same.
	ids = append(ids, w.session(record.NewID(time.Now().Add(-24*time.Hour))), w.session(record.NewID(time.Now().Add(24*time.Hour))))
	w.published()
	policy, err := tlog.ParsePolicy(w.log.Policy())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 127, 128, 255, 299, 300, 301} {
		bundle, err := w.desk.Export(t.Context(), somebody, ids[i])
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		report, err := verify.Check(bundle, verify.Trust{Policy: policy})
		if err != nil || !report.OK() {
			t.Fatalf("session %d: %v %+v", i, err, report.Findings)
		}
		if !bytes.Contains(bundle, []byte("answered in "+ids[i].String())) {
			t.Errorf("session %d: the bundle does not show the answer", i)
		}
	}
	if _, err := w.desk.Export(t.Context(), somebody, ids[3], ids[4]); err != nil {
		t.Errorf("two sessions: %v", err)
	}
	accesses := 0
	for _, e := range w.entries() {
		if e.Kind == record.Access {
			accesses++
		}
	}
	if accesses != 10 {
		t.Errorf("%d readings are on record, of 10", accesses)
	}
}

// Nothing is shown to nobody, for no reason, or when the reading cannot be recorded.
func TestNothingIsShownUnrecorded(t *testing.T) {
	w := newWorld(t)
	id := w.session(record.NewID(time.Now()))
	w.published()
	for _, who := range []Asker{{}, {Name: "ann"}, {Reason: "a complaint"}, {Name: " ", Reason: "x"}} {
		if b, err := w.desk.Export(t.Context(), who, id); err == nil || b != nil {
			t.Errorf("%+v was shown %d bytes", who, len(b))
		}
	}
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	if b, err := w.desk.Export(t.Context(), somebody, id); !errors.Is(err, tlog.ErrFull) || b != nil {
		t.Errorf("with a full log %d bytes were shown: %v", len(b), err)
	}
	w.log.Inject(tlogtest.Faults{})
	if _, err := w.desk.Export(t.Context(), somebody, id); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// What is not there, not over, or not what the log commits to is told as such.
func TestExportRefuses(t *testing.T) {
	w := newWorld(t)
	id := w.session(record.NewID(time.Now()))
	open := record.NewID(time.Now())
	w.write(record.Entry{Kind: record.Request, Session: open}, nil, "asked")
	w.published()
	if _, err := w.desk.Export(t.Context(), somebody, record.NewID(time.Now())); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a session that nobody made: %v", err)
	}
	if _, err := w.desk.Export(t.Context(), somebody, open); !errors.Is(err, ErrOpen) {
		t.Errorf("a session that has not ended: %v", err)
	}
	if _, err := w.desk.Export(t.Context(), somebody); err == nil {
		t.Error("no session is a bundle")
	}
	w.log.Inject(tlogtest.Faults{Payload: func(_ tlog.Hash, b []byte) ([]byte, error) {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b, nil
	}})
	if b, err := w.desk.Export(t.Context(), somebody, id); err == nil || b != nil {
		t.Errorf("a payload that was changed was shown: %v", err)
	}
	w.log.Inject(tlogtest.Faults{Tile: tlogtest.Flip(0, 0)})
	if b, err := w.desk.Export(t.Context(), somebody, id); err == nil || b != nil {
		t.Errorf("an entry was shown with a proof that does not hold: %v", err)
	}
}

func TestHandler(t *testing.T) {
	w := newWorld(t)
	id := w.session(record.NewID(time.Now()))
	w.published()
	const token = "op-0123456789abcdef0123"
	srv := httptest.NewServer(Handler(w.desk, sha256.Sum256([]byte(token)), slog.New(slog.DiscardHandler)))
	defer srv.Close()
	for _, c := range []struct {
		name, path, auth, actor string
		want                    int
	}{
		{"as it should be", "export/" + id.String(), "Bearer " + token, "ann", 200},
		{"no token", "export/" + id.String(), "", "ann", 401},
		{"another token", "export/" + id.String(), "Bearer op-x", "ann", 401},
		{"no bearer", "export/" + id.String(), token, "ann", 401},
		{"not an id", "export/..%2f", "Bearer " + token, "ann", 400},
		{"nobody's session", "export/" + record.NewID(time.Now()).String(), "Bearer " + token, "ann", 404},
		{"and another", "export/" + id.String() + "?also=" + record.NewID(time.Now()).String(), "Bearer " + token, "ann", 404},
		{"and itself", "export/" + id.String() + "?also=" + id.String(), "Bearer " + token, "ann", 400},
		{"and nothing", "export/" + id.String() + "?also=x", "Bearer " + token, "ann", 400},
		{"nobody asks", "export/" + id.String(), "Bearer " + token, "", 400},
		{"another path", "elsewhere", "Bearer " + token, "ann", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+Prefix+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", c.auth)
			req.Header.Set("Tallystick-Actor", c.actor)
			req.Header.Set("Tallystick-Reason", "a test")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var body bytes.Buffer
			body.ReadFrom(resp.Body)
			if resp.StatusCode != c.want {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, c.want, body.String())
			}
			if c.want != 200 && strings.Contains(body.String(), "asked in") {
				t.Error("content was shown")
			}
		})
	}
}

// The data keys are sealed anew for somebody, for a reason, and not before that is on record.
func TestRewrap(t *testing.T) {
	w := newWorld(t)
	for _, who := range []Asker{{}, {Name: "ann"}, {Reason: "a rotation"}} {
		if _, err := w.desk.Rewrap(t.Context(), who); !errors.Is(err, ErrNobody) {
			t.Errorf("%+v: %v", who, err)
		}
	}
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	if _, err := w.desk.Rewrap(t.Context(), somebody); !errors.Is(err, tlog.ErrFull) {
		t.Errorf("with a full log: %v", err)
	}
	w.log.Inject(tlogtest.Faults{})
	if w.keys.rewrapped != 0 {
		t.Fatalf("sealed anew %d times, and nobody stands on record", w.keys.rewrapped)
	}
	const token = "op-0123456789abcdef0123"
	srv := httptest.NewServer(Handler(w.desk, sha256.Sum256([]byte(token)), slog.New(slog.DiscardHandler)))
	defer srv.Close()
	for auth, want := range map[string]int{"": 401, "Bearer " + token: 200} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+Prefix+"rewrap", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		req.Header.Set("Tallystick-Actor", somebody.Name)
		req.Header.Set("Tallystick-Reason", somebody.Reason)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		body.ReadFrom(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || (body.String() == "sealed anew") != (want == 200) {
			t.Errorf("%q: status %d, want %d: %s", auth, resp.StatusCode, want, body.String())
		}
	}
	w.published()
	policies := 0
	for _, e := range w.entries() {
		if e.Kind == record.Policy {
			policies++
		}
	}
	if w.keys.rewrapped != 1 || policies != 1 {
		t.Errorf("sealed anew %d times, and on record %d times", w.keys.rewrapped, policies)
	}
}
