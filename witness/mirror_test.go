package witness

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/binary"
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

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A fakeMirror is a mirror by the book, as far as its faults let it. Its pending checkpoint is kept by a fake witness.
type fakeMirror struct {
	pending *fake
	key     *tlog.CosignatureSigner

	mu      sync.Mutex
	entries [][]byte
	note    []byte // its own checkpoint
	uploads []mirrorInfo
	most    int // packages in one upload

	// Faults; nil is none. before may answer itself and return true; after so many packages an upload is cut off.
	before func(rw http.ResponseWriter, at mirrorInfo) bool
	cut    int
	answer func(lines []byte) []byte
}

func newFakeMirror(t testing.TB) *fakeMirror {
	return &fakeMirror{pending: newFake(t, "pending"), key: cosigners(t, "mirror.example")[1]}
}

// set sets the fault before while the mirror runs.
func (m *fakeMirror) set(before func(http.ResponseWriter, mirrorInfo) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = before
}

func (m *fakeMirror) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/mirror/") {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.note == nil {
			http.NotFound(rw, r)
			return
		}
		rw.Write(m.note)
		return
	}
	if r.URL.Path != "/add-entries" {
		m.pending.ServeHTTP(rw, r)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	zip, err := gzip.NewReader(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/octet-stream" || r.Header.Get("Content-Encoding") != "gzip" {
		http.Error(rw, "not compressed", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(zip)
	if err != nil {
		panic(err)
	}
	take := func(n int) []byte {
		b := body[:n]
		body = body[n:]
		return b
	}
	number := func() int { return int(binary.BigEndian.Uint16(take(2))) }
	origin := string(take(number()))
	start, end := binary.BigEndian.Uint64(take(8)), binary.BigEndian.Uint64(take(8))
	at := mirrorInfo{size: end, next: start, ticket: bytes.Clone(take(number()))}
	m.uploads = append(m.uploads, at)
	if m.before != nil && m.before(rw, at) {
		return
	}
	m.pending.mu.Lock()
	c, signed := m.pending.c, m.pending.note
	m.pending.mu.Unlock()
	next := uint64(len(m.entries))
	switch {
	case origin != tlogtest.Origin:
		http.Error(rw, "unknown log", http.StatusNotFound)
		return
	case end != c.Size || start > next:
		m.info(rw, http.StatusConflict, c.Size)
		return
	}
	packages := 0
	for start < end && len(body) > 0 {
		first := start &^ (tlog.TileWidth - 1)
		stop := min(end, first+tlog.TileWidth)
		all := slices.Clone(m.entries[first:start])
		for range stop - start {
			all = append(all, bytes.Clone(take(number())))
		}
		proof := make(tlog.Proof, take(1)[0])
		for i := range proof {
			copy(proof[i][:], take(32))
		}
		if err := tlog.VerifySubtreeConsistency(first, stop, end, rootOf(all), c.Root, proof); err != nil {
			http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		if stop > uint64(len(m.entries)) {
			m.entries = append(m.entries[:first], all...)
		}
		start = stop
		if packages++; packages == m.cut {
			break
		}
	}
	m.most = max(m.most, packages)
	if start < end {
		m.info(rw, http.StatusAccepted, end)
		return
	}
	blob, err := m.key.Sign(c.Text())
	if err != nil {
		panic(err)
	}
	lines := appendSignatureLine(nil, m.key.Name(), m.key.KeyHash(), blob)
	logOnly, _, _ := bytes.Cut(signed, []byte("— "+m.pending.keys[0].Name()))
	m.note = append(bytes.Clone(logOnly), lines...)
	if m.answer != nil {
		lines = m.answer(lines)
	}
	rw.Write(lines)
}

func (m *fakeMirror) info(rw http.ResponseWriter, status int, size uint64) {
	rw.Header().Set("Content-Type", "text/x.tlog.mirror-info")
	rw.WriteHeader(status)
	rw.Write(mirrorInfo{size: size, next: uint64(len(m.entries)), ticket: fmt.Appendf(nil, "ticket %d", len(m.entries))}.append(nil))
}

// rootOf hashes entries as RFC 6962 says it, and not as we do.
func rootOf(entries [][]byte) tlog.Hash {
	switch n := len(entries); n {
	case 0:
		return tlog.EmptyRoot()
	case 1:
		return tlog.HashLeaf(entries[0])
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		return tlog.HashChildren(rootOf(entries[:k]), rootOf(entries[k:]))
	}
}

func mirrorOf(t *testing.T, l chain, f *fakeMirror) (*Mirror, *MirrorConfig) {
	t.Helper()
	p, err := tlog.ParsePolicy(l.Policy())
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMirror(MirrorConfig{Policy: p, Origin: l.Origin(), Reader: l, Keys: []string{f.key.VerifierKey()},
		Submission: "http://mirror/", Monitoring: "http://mirror/mirror", Client: &http.Client{Transport: wires{"mirror": f}}})
	if err != nil {
		t.Fatal(err)
	}
	return m, &m.c
}

// A log and its mirror through sizes on both sides of every edge, with restarts and uploads that are cut off.
func TestMirror(t *testing.T) {
	for _, cut := range []int{0, 1, 2} {
		t.Run(fmt.Sprint("cut after ", cut), func(t *testing.T) {
			l, f := newChain(t, 0, ""), newFakeMirror(t)
			f.cut = cut
			m, c := mirrorOf(t, l, f)
			c.Packages = 3
			for _, size := range []uint64{0, 1, 2, 255, 256, 257, 300, 511, 512, 700, 2600, 2601} {
				signed := l.grow(t, int(size-l.Size()), "")
				if size > 500 && size%2 == 0 {
					m, c = mirrorOf(t, l, f) // it starts again, and knows nothing
					c.Packages = 3
				}
				out, err := m.Push(t.Context())
				if err != nil {
					t.Fatal(size, err)
				}
				if v, err := tlog.NewCosignatureVerifier(f.key.VerifierKey()); err != nil || !bytes.HasPrefix(out, signed) || !opens(out, l.Verifier(), v) {
					t.Errorf("%v\n%s", err, out)
				}
				if c, err := tlog.UnverifiedCheckpoint(signed); err != nil || uint64(len(f.entries)) != size || rootOf(f.entries) != c.Root {
					t.Errorf("the mirror has %d entries of %d, %v", len(f.entries), size, err)
				}
				if s := m.Stats(); s.Size != size || s.Err != nil || time.Since(s.Cosigned) > time.Hour || s.Name != "mirror.example" {
					t.Errorf("status %+v", s)
				}
				n := len(f.uploads)
				if again, err := m.Push(t.Context()); err != nil || !bytes.Equal(again, out) || len(f.uploads) != n {
					t.Error("what is there was pushed again")
				}
			}
			if most := cmp.Or(cut, 3); f.most != most {
				t.Errorf("%d packages in one upload", f.most)
			}
			tickets := 0
			for _, at := range f.uploads {
				if len(at.ticket) > 0 {
					tickets++
					if want := fmt.Sprint("ticket ", at.next); string(at.ticket) != want {
						t.Errorf("at %d the ticket is %q", at.next, at.ticket)
					}
				}
			}
			if tickets == 0 {
				t.Error("no ticket was given back")
			}
		})
	}
}

func opens(signed []byte, keys ...note.Verifier) bool {
	n, err := note.Open(signed, note.VerifierList(keys...))
	return err == nil && len(n.Sigs) == len(keys) && len(n.UnverifiedSigs) == 0
}

// Every way in which a mirror can be bad ends a push with an error that says it, and the next push may be good.
func TestBadMirror(t *testing.T) {
	const kind = "text/x.tlog.mirror-info"
	answers := func(status int, kind, body string) func(*testing.T, chain, *fakeMirror) {
		return func(_ *testing.T, _ chain, f *fakeMirror) {
			f.before = func(rw http.ResponseWriter, _ mirrorInfo) bool {
				rw.Header().Set("Content-Type", kind)
				rw.WriteHeader(status)
				io.WriteString(rw, body)
				return true
			}
		}
	}
	for _, c := range []struct {
		name  string
		fault func(t *testing.T, l chain, f *fakeMirror)
		says  string
	}{
		{"down", func(_ *testing.T, _ chain, f *fakeMirror) { f.pending.before = answersOf(500) }, "500"},
		{"refuses entries", answers(403, "", "log is not mirrored"), "403"},
		{"no pending checkpoint", answers(422, "", "no"), "422"},
		{"takes nothing", answers(202, kind, "600\n0\n\n"), "takes no more"},
		{"knows no kind", answers(409, "text/plain", "600\n0\n\n"), "does not say where it is"},
		{"a line short", answers(409, kind, "600\n0\n"), "does not say where it is"},
		{"a line too many", answers(409, kind, "600\n0\n\n\n"), "does not say where it is"},
		{"no number", answers(409, kind, "600\n-1\n\n"), "does not say where it is"},
		{"no base64", answers(409, kind, "600\n0\n!\n"), "does not say where it is"},
		{"a ticket over the limit", answers(409, kind, "600\n0\n"+strings.Repeat("A", 87384)+"\n"), "does not say where it is"},
		{"more than there is", answers(202, kind, "600\n601\n\n"), "601 entries of 600"},
		{"another checkpoint", answers(409, kind, "700\n0\n\n"), "somebody else pushes"},
		{"signs something else", func(t *testing.T, _ chain, f *fakeMirror) {
			f.answer = func([]byte) []byte {
				blob := must(f.key.Sign(tlog.Checkpoint{Origin: tlogtest.Origin, Root: tlog.EmptyRoot()}.Text()))
				return appendSignatureLine(nil, f.key.Name(), f.key.KeyHash(), blob)
			}
		}, "does not verify"},
		{"signs nothing", func(_ *testing.T, _ chain, f *fakeMirror) { f.answer = func([]byte) []byte { return nil } }, "no signature lines"},
		{"another key", func(t *testing.T, _ chain, f *fakeMirror) { f.key = cosigners(t, "mirror.example")[0] }, "no cosignature by"},
		{"is ahead", func(t *testing.T, l chain, f *fakeMirror) { f.pending.c.Size = 700 }, "an old view"},
		{"confused", func(t *testing.T, l chain, f *fakeMirror) {
			n := uint64(0)
			f.pending.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				n++
				conflict(rw, n)
				return true
			}
		}, "another size 4 times"},
		{"has another tree and shows nothing", func(t *testing.T, _ chain, f *fakeMirror) {
			f.pending.saw(t, newChain(t, 500, "other").at(t, 500))
		}, "cannot be had"},
		{"has another tree", func(t *testing.T, _ chain, f *fakeMirror) {
			f.pending.saw(t, newChain(t, 500, "other").at(t, 500))
			f.note = f.pending.note
		}, "does not continue"},
		{"refuses this tree and shows a later one", func(t *testing.T, l chain, f *fakeMirror) {
			f.pending.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				f.note = l.grow(t, 5, "")
				rw.WriteHeader(422)
				return true
			}
		}, "may be a later one of ours"},
		{"the log shows what it did not sign", func(t *testing.T, l chain, _ *fakeMirror) {
			l.Inject(tlogtest.Faults{Checkpoint: func(signed []byte) ([]byte, error) {
				return bytes.Replace(signed, []byte("600"), []byte("601"), 1), nil
			}})
		}, "invalid signature"},
		{"the log shows another entry", func(t *testing.T, l chain, _ *fakeMirror) {
			l.Inject(tlogtest.Faults{Tile: tlogtest.Replace(300, []byte("another"))})
		}, "422"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, f := newChain(t, 600, ""), newFakeMirror(t)
			m, _ := mirrorOf(t, l, f)
			c.fault(t, l, f)
			out, err := m.Push(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) || out != nil {
				t.Fatalf("%v", err)
			}
			if got, want := errors.As(err, new(*tlog.ForkError)), c.name == "has another tree"; got != want {
				t.Errorf("a fork is seen: %v", got)
			}
			if s := m.Stats(); s.Failures != 1 || s.Err == nil {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// Run follows a log: it pushes what grows, slows down while nothing works, and ends with its context, or with a fork.
func TestMirrorRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := newChain(t, 10, ""), newFakeMirror(t)
		m, c := mirrorOf(t, l, f)
		c.Interval = time.Second
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		for range 5 {
			l.grow(t, 300, "")
			time.Sleep(2 * time.Second)
			if s := m.Stats(); s.Size != l.Size() {
				t.Errorf("status %+v of %d entries", s, l.Size())
			}
		}
		tries := 0
		f.set(func(rw http.ResponseWriter, _ mirrorInfo) bool { tries++; rw.WriteHeader(500); return true })
		l.grow(t, 1, "")
		time.Sleep(time.Hour)
		f.set(nil)
		if tries < 12 || tries > 25 {
			t.Errorf("%d tries in an hour", tries)
		}
		time.Sleep(6 * time.Minute)
		if s := m.Stats(); s.Size != l.Size() || s.Failures != 0 {
			t.Errorf("status %+v of %d entries", s, l.Size())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.pending.saw(t, newChain(t, 50, "other").at(t, 50))
		f.note = f.pending.note
		m, _ = mirrorOf(t, l, f)
		if err := m.Run(t.Context()); !errors.As(err, new(*tlog.ForkError)) {
			t.Error(err)
		}
	})
}

// A log that shows less than it did is not pushed, and goes on when it shows more again.
func TestMirrorOldView(t *testing.T) {
	l, f := newChain(t, 300, ""), newFakeMirror(t)
	m, _ := mirrorOf(t, l, f)
	old := l.at(t, 300)
	l.grow(t, 300, "")
	if _, err := m.Push(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.Inject(tlogtest.Faults{Checkpoint: func([]byte) ([]byte, error) { return old, nil }})
	if _, err := m.Push(t.Context()); err == nil || !strings.Contains(err.Error(), "an old view") {
		t.Error(err)
	}
	l.Inject(tlogtest.Faults{})
	l.grow(t, 300, "")
	if _, err := m.Push(t.Context()); err != nil || len(f.entries) != 900 {
		t.Errorf("the mirror has %d entries: %v", len(f.entries), err)
	}
	// A mirror that says once that it has more is asked again.
	l.grow(t, 300, "")
	f.pending.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 5000); return true }
	if _, err := m.Push(t.Context()); err == nil || !strings.Contains(err.Error(), "an old view") {
		t.Error(err)
	}
	f.pending.before = nil
	if _, err := m.Push(t.Context()); err != nil || len(f.entries) != 1200 {
		t.Errorf("the mirror has %d entries: %v", len(f.entries), err)
	}
}

func TestMirrorConfig(t *testing.T) {
	l, f := newChain(t, 0, ""), newFakeMirror(t)
	_, ok := mirrorOf(t, l, f)
	for name, change := range map[string]func(*MirrorConfig){
		"no policy":      func(c *MirrorConfig) { c.Policy = nil },
		"no log":         func(c *MirrorConfig) { c.Reader = nil },
		"no key":         func(c *MirrorConfig) { c.Keys = nil },
		"a log's key":    func(c *MirrorConfig) { c.Keys = []string{l.VerifierKey()} },
		"a key twice":    func(c *MirrorConfig) { c.Keys = append(c.Keys, c.Keys[0]) },
		"another log":    func(c *MirrorConfig) { c.Origin = "log.example/other" },
		"no submission":  func(c *MirrorConfig) { c.Submission = "" },
		"bad monitoring": func(c *MirrorConfig) { c.Monitoring = "mirror" },
	} {
		c := *ok
		change(&c)
		if _, err := NewMirror(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzMirrorInfo(f *testing.F) {
	f.Add([]byte("600\n0\n\n"))
	f.Add(mirrorInfo{size: 1 << 62, next: 7, ticket: []byte("ticket")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &response{status: http.StatusAccepted, kind: "text/x.tlog.mirror-info", body: b}
		if i, err := parseMirrorInfo(r); err == nil && !bytes.Equal(i.append(nil), b) {
			t.Errorf("%q reads as %+v, which is written %q", b, i, i.append(nil))
		}
	})
}

func FuzzConflict(f *testing.F) {
	f.Add([]byte("0\n"))
	f.Add([]byte("18446744073709551615\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &response{status: http.StatusConflict, kind: "text/x.tlog.size", body: b}
		if n, err := r.size(); err == nil && fmt.Sprintf("%d\n", n) != string(b) {
			t.Errorf("%q reads as %d", b, n)
		}
	})
}

// Whatever a witness answers, what is taken of it verifies, and nothing else is.
func FuzzCosignatures(f *testing.F) {
	fk := newFake(f, "a", cosigners(f, "witness.example/a")...)
	signer, vkey := tlogtest.Key(tlogtest.Origin)
	signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: 9, Root: tlog.HashLeaf(nil)}, signer)
	if err != nil {
		f.Fatal(err)
	}
	policy := "log " + vkey + "\n"
	keys := make(map[keyID]bool)
	for i, k := range fk.keys {
		policy += fmt.Sprintf("witness w%d %s\n", i, k.VerifierKey())
		keys[keyID{k.Name(), k.KeyHash()}] = true
	}
	p, err := tlog.ParsePolicy([]byte(policy + "quorum none\n"))
	if err != nil {
		f.Fatal(err)
	}
	o, err := newOffer(p, tlogtest.Origin, signed)
	if err != nil {
		f.Fatal(err)
	}
	good := fk.sign(o.text, time.Now())
	f.Add(good)
	f.Add(bytes.SplitAfter(good, []byte("\n"))[0])
	f.Add([]byte("— a b\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		lines, stated, err := cosignatures(p, keys, o, body, 1<<62)
		if err != nil {
			return
		}
		out := slices.Concat(append([][]byte{o.signed}, lines...)...)
		c, cosigs, err := p.Check(out)
		if err != nil || c != o.c || len(cosigs) != len(lines) || len(cosigs) == 0 || stated == 0 {
			t.Errorf("%v: %d of %d lines verify:\n%s", err, len(cosigs), len(lines), out)
		}
	})
}
