package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

const testOrigin = "log.example/local"

// An anchor is a tlog.Latest that lives elsewhere than the disk. Its faults can be chosen.
type anchor struct {
	mu     sync.Mutex
	is     []byte
	loads  int
	onSwap func(new []byte) (apply bool, err error) // nil for no fault
	onLoad func() error
}

func (a *anchor) Load(context.Context, string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.loads++
	if a.onLoad != nil {
		if err := a.onLoad(); err != nil {
			return nil, err
		}
	}
	return bytes.Clone(a.is), nil
}

func (a *anchor) Swap(_ context.Context, _ string, old, new []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	apply, err := true, error(nil)
	if a.onSwap != nil {
		apply, err = a.onSwap(new)
	}
	if !apply {
		return err
	}
	if !bytes.Equal(a.is, old) {
		return tlog.ErrConflict
	}
	a.is = bytes.Clone(new)
	return err
}

func (a *anchor) faults(onSwap func(new []byte) (bool, error), onLoad func() error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onSwap, a.onLoad = onSwap, onLoad
}

// A ledger is what an outsider knows: every leaf that was acknowledged, and every checkpoint that was signed.
type ledger struct {
	mu     sync.Mutex
	acked  map[uint64]tlog.Leaf
	signed map[uint64]tlog.Hash
	fork   error
	signs  int
}

func newLedger() *ledger {
	return &ledger{acked: make(map[uint64]tlog.Leaf), signed: make(map[uint64]tlog.Hash)}
}

// clone is what the outsider knows now.
func (g *ledger) clone() *ledger {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &ledger{acked: maps.Clone(g.acked), signed: maps.Clone(g.signed), fork: g.fork, signs: g.signs}
}

func (g *ledger) ack(indices []uint64, leaves []tlog.Leaf) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, index := range indices {
		if _, twice := g.acked[index]; twice && g.fork == nil {
			g.fork = fmt.Errorf("index %d was acknowledged twice", index)
		}
		g.acked[index] = leaves[i]
	}
}

func (g *ledger) signatures() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.signs
}

// A signer writes down in a ledger what it signs. Its faults can be chosen.
type signer struct {
	note.Signer
	ledger *ledger
	before func() error
	after  func(sig []byte) ([]byte, error)
}

func (s *signer) Sign(msg []byte) ([]byte, error) {
	if s.before != nil {
		if err := s.before(); err != nil {
			return nil, err
		}
	}
	sig, err := s.Signer.Sign(msg)
	if err != nil {
		return nil, err
	}
	c, err := tlog.ParseCheckpoint(msg)
	if err != nil {
		return nil, err
	}
	g := s.ledger
	g.mu.Lock()
	if root, again := g.signed[c.Size]; again && root != c.Root && g.fork == nil {
		g.fork = fmt.Errorf("two roots were signed for size %d", c.Size)
	}
	g.signed[c.Size] = c.Root
	g.signs++
	g.mu.Unlock()
	if s.after != nil {
		return s.after(sig)
	}
	return sig, nil
}

// testConfig is a Config for tests: quick, and with the key of the origin.
func testConfig(t testing.TB, c Config) Config {
	t.Helper()
	or(&c.Origin, testOrigin)
	key, vkey := tlogtest.Key(c.Origin)
	if c.Signer == nil {
		c.Signer = key
	}
	if c.Verifier == nil {
		var err error
		if c.Verifier, err = note.NewVerifier(vkey); err != nil {
			t.Fatal(err)
		}
	}
	if c.Latest == nil {
		c.Latest = new(anchor)
	}
	or(&c.Interval, 2*time.Millisecond)
	or(&c.Cache, 1<<20)
	if os.Getenv("LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return c
}

// open opens a log that is expected to be sound.
func open(t testing.TB, dir string, c Config) *Log {
	t.Helper()
	l, err := Open(dir, testConfig(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Quarantined(); err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs a log and returns what ends it, which returns Run's answer.
func run(t testing.TB, l *Log) (end func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var once sync.Once
	var err error
	return func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-ended:
			case <-time.After(time.Minute):
				err = errors.New("Run does not end")
			}
		})
		return err
	}
}

// finish ends Run and closes the log; both must succeed.
func finish(t testing.TB, l *Log, end func() error) {
	t.Helper()
	if end != nil {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// leaf makes the nth leaf of somebody, some with a payload.
func leaf(who, n int) tlog.Leaf {
	rng := rand.New(rand.NewPCG(uint64(who), uint64(n)))
	l := tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d of %d, %x", n, who, rng.Uint64())}
	if n%3 != 0 {
		l.Payload = make([]byte, rng.IntN(300)+1)
		for i := range l.Payload {
			l.Payload[i] = byte(rng.Uint32())
		}
		copy(l.Payload, fmt.Sprintf("%d/%d", who, n))
	}
	return l
}

// fill appends n leaves one by one and notes them.
func fill(t testing.TB, l *Log, g *ledger, who, from, n int) {
	t.Helper()
	for i := range n {
		lf := leaf(who, from+i)
		indices, err := l.Append(t.Context(), lf)
		if err != nil {
			t.Fatal(err)
		}
		g.ack(indices, []tlog.Leaf{lf})
	}
}

// published waits until the log shows a checkpoint of at least that size.
func awaitPublished(t testing.TB, l *Log, size uint64) {
	t.Helper()
	await(t, fmt.Sprintf("a checkpoint of size %d", size), func() bool {
		p := l.published.Load()
		return p != nil && p.size >= size
	})
}

// await waits until what is said is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// holds compares a log with what an outsider knows. Errors of the log are passed on as such; wrong answers are
// wrongError.
func (g *ledger) holds(ctx context.Context, l *Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fork != nil {
		return wrongf("%v", g.fork)
	}
	signed, err := l.Checkpoint(ctx)
	if errors.Is(err, tlog.ErrNotFound) && len(g.acked) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	c, _, err := tlog.OpenCheckpoint(signed, l.cfg.Verifier)
	if err != nil {
		return wrongf("%v", err)
	}
	tiles := tlog.Tiles{Reader: l, Size: c.Size}
	var naive edge
	roots := map[uint64]tlog.Hash{0: tlog.EmptyRoot()}
	for first := uint64(0); first < c.Size; first += tlog.TileWidth {
		t := tlog.TileAt(tlog.EntriesLevel, first, c.Size)
		data, err := tlog.ReadTile(ctx, l, t)
		if err != nil {
			return err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return wrongf("%v", err)
		}
		for i, e := range entries {
			index := first + uint64(i)
			if lf, ok := g.acked[index]; ok && !bytes.Equal(lf.Entry, e) {
				return wrongf("entry %d is %q, and %q was acknowledged", index, e, lf.Entry)
			}
			naive.add(tlog.HashLeaf(e), func(int, uint64, []tlog.Hash) error { return nil })
			roots[index+1] = naive.root()
		}
	}
	if roots[c.Size] != c.Root {
		return wrongf("the entries hash to %s and the checkpoint of size %d says %s", roots[c.Size], c.Size, c.Root)
	}
	if root, err := tiles.Root(ctx, c.Size); err != nil {
		return err
	} else if root != c.Root {
		return wrongf("the tiles have root %s and the checkpoint of size %d says %s", root, c.Size, c.Root)
	}
	for size, root := range g.signed {
		if size <= c.Size && roots[size] != root {
			return wrongf("root %s was signed for size %d, which has %s now", root, size, roots[size])
		}
	}
	for index, lf := range g.acked {
		if index >= c.Size {
			return wrongf("entry %d was acknowledged and is lost: the log has %d", index, c.Size)
		}
		if len(lf.Payload) == 0 {
			continue
		}
		data, err := l.Payload(ctx, sha256.Sum256(lf.Payload))
		if errors.Is(err, tlog.ErrNotFound) {
			return wrongf("the payload of entry %d was acknowledged and is lost", index)
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(data, lf.Payload) {
			return wrongf("the payload of entry %d is not what was appended", index)
		}
	}
	return nil
}

// A wrongError is a promise broken, as against an error that says that something is wrong.
type wrongError struct{ error }

func wrongf(format string, args ...any) error { return wrongError{fmt.Errorf(format, args...)} }

func isWrong(err error) bool {
	var w wrongError
	return errors.As(err, &w)
}

// reopened opens what a crash left, lets it publish, and compares it with the ledger. What it signs goes into the ledger.
func reopened(t testing.TB, fs vfs.FS, dir string, a *anchor, g *ledger) error {
	key, _ := tlogtest.Key(testOrigin)
	l, err := Open(dir, testConfig(t, Config{Latest: a, FS: fs, Signer: &signer{Signer: key, ledger: g}}))
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Quarantined(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		return err
	}
	if err := g.holds(t.Context(), l); err != nil {
		return err
	}
	return l.Check(t.Context(), nil)
}

// copyDir copies a directory between file systems, or within one.
func copyDir(t testing.TB, from vfs.FS, src string, to vfs.FS, dst string, skip ...string) {
	t.Helper()
	if err := to.MkdirAll(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := from.List(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if slices.Contains(skip, name) {
			continue
		}
		path := from.PathJoin(src, name)
		st, err := from.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.IsDir() {
			copyDir(t, from, path, to, to.PathJoin(dst, name), skip...)
			continue
		}
		putFile(t, to, to.PathJoin(dst, name), getFile(t, from, path))
	}
}

func getFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size())
	if len(b) > 0 {
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func putFile(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := syncDir(fs, fs.PathDir(path)); err != nil {
		t.Fatal(err)
	}
}
