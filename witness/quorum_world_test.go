package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A chain is a log in memory, with its key in hand. Two chains of one origin have one key.
type chain struct{ *tlogtest.Log }

// newChain returns a log that publishes when it is told. Where words is empty, chains are equal as far as they go.
func newChain(t *testing.T, size int, words string) chain {
	t.Helper()
	l := chain{tlogtest.Start(t, tlogtest.Config{Manual: true})}
	l.grow(t, size, words)
	return l
}

// grow appends n entries and returns the checkpoint.
func (l chain) grow(t *testing.T, n int, words string) []byte {
	t.Helper()
	if n > 0 {
		var leaves []tlog.Leaf
		for i := range n {
			leaves = append(leaves, tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d %s", l.Size()+uint64(i), words)})
		}
		if _, err := l.Append(t.Context(), leaves...); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// at returns the checkpoint of an earlier size, which was published.
func (l chain) at(t *testing.T, size uint64) []byte {
	t.Helper()
	signed, err := l.CheckpointAt(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// prove proves a checkpoint of this log to continue an earlier one.
func (l chain) prove(signed []byte) func(context.Context, uint64) (tlog.Proof, error) {
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		panic(err)
	}
	return tlog.Tiles{Reader: l, Size: c.Size}.Consistency
}

// A fake is a witness by the book, as far as its faults let it.
type fake struct {
	name  string
	log   note.Verifier
	keys  []*tlog.CosignatureSigner
	mu    sync.Mutex
	c     tlog.Checkpoint // the newest that it cosigned
	note  []byte
	asked []time.Time // when each submission came
	last  *addCheckpoint

	// Faults; nil is none. before may answer itself and return true. answer changes the signature lines. monitor changes
	// the checkpoint that is shown; nil bytes are 404.
	before  func(rw http.ResponseWriter, r *http.Request, req *addCheckpoint) bool
	answer  func(req *addCheckpoint, lines []byte) []byte
	monitor func(signed []byte) []byte
}

func newFake(t testing.TB, name string, keys ...*tlog.CosignatureSigner) *fake {
	if keys == nil {
		keys = cosigners(t, "witness.example/"+name)[:1]
	}
	_, vkey := tlogtest.Key(tlogtest.Origin)
	v, err := tlog.NewLogVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &fake{name: name, log: v, keys: keys, c: tlog.Checkpoint{Origin: tlogtest.Origin, Root: tlog.EmptyRoot()}}
}

func (f *fake) submissions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// has returns the newest checkpoint that it cosigned.
func (f *fake) has() tlog.Checkpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.c
}

// saw makes a witness have cosigned a checkpoint, with no questions asked.
func (f *fake) saw(t *testing.T, signed []byte) {
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c, f.note = c, append(bytes.Clone(signed), f.sign(string(c.Text()), time.Now())...)
}

func (f *fake) sign(text string, at time.Time) []byte {
	var lines []byte
	for _, k := range f.keys {
		blob, err := k.SignAt([]byte(text), uint64(at.Unix()))
		if err != nil {
			panic(err)
		}
		lines = appendSignatureLine(lines, k.Name(), k.KeyHash(), blob)
	}
	return lines
}

func (f *fake) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		f.mu.Lock()
		signed := f.note
		f.mu.Unlock()
		if f.monitor != nil {
			signed = f.monitor(signed)
		}
		if signed == nil || !strings.HasSuffix(r.URL.Path, "/"+originSum(tlogtest.Origin)+"/checkpoint") {
			http.NotFound(rw, r)
			return
		}
		rw.Write(signed)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	req, err := parseAddCheckpoint(body)
	if err != nil || !strings.HasSuffix(r.URL.Path, "/add-checkpoint") {
		http.Error(rw, "bad request", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.asked, f.last = append(f.asked, time.Now()), req
	f.mu.Unlock()
	if f.before != nil && f.before(rw, r, req) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, _, err := tlog.OpenCheckpoint(req.signed, f.log)
	switch {
	case err != nil:
		http.Error(rw, "who are you", http.StatusForbidden)
		return
	case req.old > c.Size:
		http.Error(rw, "old is larger", http.StatusBadRequest)
		return
	case req.old != f.c.Size:
		conflict(rw, f.c.Size)
		return
	}
	if err := tlog.VerifyConsistency(f.c.Size, c.Size, f.c.Root, c.Root, req.proof); err != nil {
		http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	lines := f.sign(req.text, time.Now())
	f.c, f.note = c, append(bytes.Clone(req.signed), lines...)
	if f.answer != nil {
		lines = f.answer(req, lines)
	}
	rw.Write(lines)
}

func conflict(rw http.ResponseWriter, size uint64) {
	rw.Header().Set("Content-Type", "text/x.tlog.size")
	rw.WriteHeader(http.StatusConflict)
	fmt.Fprintf(rw, "%d\n", size)
}

// wires is a network in memory, of handlers by host, so that time in a bubble of synctest can pass on it.
type wires map[string]http.Handler

var errRefused = errors.New("connection refused")

func (w wires) RoundTrip(req *http.Request) (*http.Response, error) {
	h := w[req.URL.Host]
	if h == nil {
		return nil, errRefused
	}
	ctx := req.Context()
	pr, pw := io.Pipe()
	rw := &wire{header: make(http.Header), body: pw, head: make(chan struct{})}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	go func() {
		h.ServeHTTP(rw, req)
		rw.WriteHeader(http.StatusOK)
		pw.Close()
	}()
	select {
	case <-rw.head:
	case <-ctx.Done():
		pr.CloseWithError(ctx.Err())
		return nil, ctx.Err()
	}
	context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	return &http.Response{StatusCode: rw.status, Header: rw.header, Body: wireBody{pr, ctx}, Request: req, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// A wireBody fails as a body of net/http does when its request is over.
type wireBody struct {
	*io.PipeReader
	ctx context.Context
}

func (b wireBody) Read(p []byte) (int, error) {
	n, err := b.PipeReader.Read(p)
	if err != nil && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

// A wire is the answer under way.
type wire struct {
	header http.Header
	status int
	body   *io.PipeWriter
	head   chan struct{}
	once   sync.Once
}

func (w *wire) Header() http.Header { return w.header }

func (w *wire) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.header = status, w.header.Clone()
		close(w.head)
	})
}

func (w *wire) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// world is a policy over fakes, and the wires to them.
func world(t *testing.T, quorum string, fakes ...*fake) (QuorumConfig, wires) {
	t.Helper()
	_, vkey := tlogtest.Key(tlogtest.Origin)
	text := "log " + vkey + "\n"
	w := make(wires)
	var names []string
	for _, f := range fakes {
		for i, k := range f.keys {
			name := f.name
			if i > 0 {
				name = fmt.Sprintf("%s-%d", f.name, i)
			}
			text += fmt.Sprintf("witness %s %s http://%s/w\n", name, k.VerifierKey(), f.name)
			names = append(names, name)
		}
		w[f.name] = f
	}
	if quorum == "none" {
		text += "quorum none\n"
	} else {
		text += fmt.Sprintf("group q %s %s\nquorum q\n", quorum, strings.Join(names, " "))
	}
	p, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return QuorumConfig{Policy: p, Origin: tlogtest.Origin, Client: &http.Client{Transport: w}}, w
}

func mustQuorum(t *testing.T, c QuorumConfig) *Quorum {
	t.Helper()
	q, err := NewQuorum(c)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// cosignedBy returns who cosigned a note, by the policy's names, having verified all of it.
func cosignedBy(t *testing.T, p *tlog.Policy, signed []byte) []string {
	t.Helper()
	_, cosigs, err := p.Check(signed)
	var quorum *tlog.QuorumError
	if err != nil && !errors.As(err, &quorum) {
		t.Fatalf("what came back is no checkpoint: %v\n%s", err, signed)
	}
	var names []string
	for _, w := range p.Witnesses() {
		v, err := tlog.NewCosignatureVerifier(w.Key)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(cosigs, func(c tlog.Cosignature) bool { return c.Name == v.Name() && c.KeyID == v.KeyHash() }) {
			names = append(names, w.Name)
		}
	}
	return names
}

func statusOf(q *Quorum, name string) Status {
	all := q.Stats()
	return all[slices.IndexFunc(all, func(s Status) bool { return s.Name == name })]
}
