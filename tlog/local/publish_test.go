package local

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

var errDown = errors.New("the anchor cannot be reached")

// TestCutInPublish cuts the power at each step of publish, losing all that was not synced. The next start converges:
// what was anchored is signed exactly again, and everything acknowledged is published.
func TestCutInPublish(t *testing.T) {
	steps := []struct {
		name string
		// hook arranges for cut to be called at the step, of the publishing of a tree of at least 20 entries.
		hook     func(a *anchor, s *signer, cut func(anchored []byte))
		anchored bool // the anchor has the checkpoint that the cut hit
	}{
		{"before the swap", func(a *anchor, _ *signer, cut func([]byte)) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					cut(a.is)
				}
				return true, nil
			}
		}, false},
		{"after the swap", func(a *anchor, _ *signer, cut func([]byte)) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					cut(bytes.Clone(new))
				}
				return true, nil
			}
		}, true},
		{"before the signature", func(a *anchor, s *signer, cut func([]byte)) {
			s.before = func() error {
				if sizeOf(a.is) >= 20 {
					cut(a.is)
				}
				return nil
			}
		}, true},
		{"after the signature", func(a *anchor, s *signer, cut func([]byte)) {
			s.after = func(sig []byte) ([]byte, error) {
				if sizeOf(a.is) >= 20 {
					cut(a.is)
				}
				return sig, nil
			}
		}, true},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
			key, _ := tlogtest.Key(testOrigin)
			s := &signer{Signer: key, ledger: book}
			var disk *vfs.MemFS
			var anchored []byte
			var known *ledger
			done := make(chan struct{})
			var once sync.Once
			step.hook(a, s, func(is []byte) {
				once.Do(func() {
					known = book.clone()
					disk, anchored = fs.CrashClone(vfs.CrashCloneCfg{}), is
					close(done)
				})
			})
			l := open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
			end := run(t, l)
			fill(t, l, book, 1, 0, 30)
			<-done
			finish(t, l, end)

			// What was anchored when the power went is what must be signed first.
			var resigned []uint64
			again := &signer{Signer: key, ledger: known}
			at := &anchor{is: anchored}
			again.before = func() error {
				resigned = append(resigned, sizeOf(at.is))
				return nil
			}
			l = open(t, "/log", Config{FS: disk, Latest: at, Signer: again})
			finish(t, l, run(t, l))
			l = open(t, "/log", Config{FS: disk, Latest: at, Signer: again})
			if err := known.holds(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			finish(t, l, nil)
			if step.anchored && (len(resigned) == 0 || resigned[0] != sizeOf(anchored)) {
				t.Errorf("the anchor had %d and the first signature was for %v", sizeOf(anchored), resigned)
			}
			t.Logf("cut at %d anchored and %d acknowledged; signed then: %v", sizeOf(anchored), len(known.acked), resigned)
		})
	}
}

func sizeOf(text []byte) uint64 {
	if len(text) == 0 {
		return 0
	}
	c, err := tlog.ParseCheckpoint(text)
	if err != nil {
		panic(err)
	}
	return c.Size
}

// TestAnchorAndSignerFaults lets the anchor and the signer fail in every way while the process lives. Either the log
// converges and holds all, or it is in quarantine and signs nothing more.
func TestAnchorAndSignerFaults(t *testing.T) {
	foreign := tlog.Checkpoint{Origin: testOrigin, Size: 25, Root: tlog.HashLeaf([]byte("somebody else's"))}.Text()
	// times returns a fault of Swap for the first n swaps of 20 entries or more.
	times := func(n int, apply bool, err error) func(*anchor, *signer) {
		return func(a *anchor, _ *signer) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) < 20 || n == 0 {
					return true, nil
				}
				n--
				return apply, err
			}
		}
	}
	cases := []struct {
		name       string
		fault      func(*anchor, *signer)
		quarantine string // what the reason says
	}{
		{"a swap times out, not applied", times(1, false, errDown), ""},
		{"a swap times out, applied", times(1, true, errDown), ""},
		{"swaps time out five times, not applied", times(5, false, errDown), ""},
		{"a swap times out, and is applied after we looked", func(a *anchor, _ *signer) {
			var late []byte
			done := false
			a.onSwap = func(new []byte) (bool, error) {
				switch {
				case done || sizeOf(new) < 20:
					return true, nil
				case late == nil:
					late = bytes.Clone(new)
					return false, errDown
				}
				a.is, done = late, true // the first arrives now, before the second
				return true, nil
			}
		}, ""},
		{"a swap times out, and then nothing can be reached", func(a *anchor, _ *signer) {
			swaps, loads := 0, 0
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 && swaps == 0 {
					swaps++
					return true, errDown
				}
				return true, nil
			}
			a.onLoad = func() error {
				if swaps > 0 && loads < 5 {
					loads++
					return errDown
				}
				return nil
			}
		}, ""},
		{"another writer was first", func(a *anchor, _ *signer) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					a.is = foreign
				}
				return true, nil
			}
		}, "another writer"},
		{"another writer was first, and the anchor cannot be asked who", func(a *anchor, _ *signer) {
			down := 0
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					a.is, down = foreign, 3
				}
				return true, nil
			}
			a.onLoad = func() error {
				if down > 0 {
					down--
					return errDown
				}
				return nil
			}
		}, "another writer"},
		{"a swap times out, and another writer was first", func(a *anchor, _ *signer) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					a.is = foreign
					return false, errDown
				}
				return true, nil
			}
		}, "another writer"},
		{"the same checkpoint was put there by a copy", func(a *anchor, _ *signer) {
			a.onSwap = func(new []byte) (bool, error) {
				if sizeOf(new) >= 20 {
					a.is = bytes.Clone(new)
				}
				return true, nil
			}
		}, "another writer"},
		{"the signer fails five times", func(a *anchor, s *signer) {
			n := 0
			s.before = func() error {
				if n++; n <= 5 {
					return errors.New("sealed")
				}
				return nil
			}
		}, ""},
		{"the signer gives a wrong signature five times", func(a *anchor, s *signer) {
			n := 0
			s.after = func(sig []byte) ([]byte, error) {
				if n++; n <= 5 {
					sig[3] ^= 4
				}
				return sig, nil
			}
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs, a, book := vfs.NewMem(), new(anchor), newLedger()
			key, _ := tlogtest.Key(testOrigin)
			s := &signer{Signer: key, ledger: book}
			c.fault(a, s)
			l := open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
			end := run(t, l)
			for n := range 40 {
				lf := leaf(1, n)
				indices, err := l.Append(t.Context(), lf)
				if err != nil {
					if c.quarantine == "" || !errors.Is(err, tlog.ErrQuarantine) {
						t.Fatal(err)
					}
					break
				}
				book.ack(indices, []tlog.Leaf{lf})
			}
			if c.quarantine == "" {
				awaitPublished(t, l, 40)
				if err := end(); err != nil {
					t.Fatal(err)
				}
				if err := book.holds(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				finish(t, l, nil)
				if err := reopened(t, fs, "/log", a, book); err != nil {
					t.Fatal(err)
				}
				return
			}
			await(t, "quarantine", func() bool { return l.Quarantined() != nil })
			inQuarantine(t, l, end, book, c.quarantine)
			var fork *tlog.ForkError
			if !errors.As(l.Quarantined(), &fork) || fork.A == nil || fork.B == nil {
				t.Errorf("the evidence is %+v", fork)
			}
			finish(t, l, nil)
		})
	}
}

// inQuarantine checks what is promised of a log in quarantine: it serves what it published, appends and signs nothing,
// and has written down why.
func inQuarantine(t testing.TB, l *Log, end func() error, book *ledger, reason string) {
	t.Helper()
	q := l.Quarantined()
	if !errors.Is(q, tlog.ErrQuarantine) || !strings.Contains(q.Error(), reason) {
		t.Errorf("quarantine over %q, not over %q", q, reason)
	}
	signs := book.signatures()
	if end == nil {
		end = run(t, l)
	}
	if _, err := l.Append(t.Context(), leaf(99, 0)); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("append in quarantine: %v", err)
	}
	if err := l.Discard(t.Context(), tlog.Hash{}); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("discard in quarantine: %v", err)
	}
	if err := end(); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("Run in quarantine: %v", err)
	}
	if now := book.signatures(); now != signs {
		t.Errorf("%d signatures in quarantine", now-signs)
	}
	if _, err := l.Checkpoint(t.Context()); err != nil && !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("checkpoint in quarantine: %v", err)
	}
	fs := l.cfg.FS
	places, err := fs.List(l.cfg.Evidence)
	if err != nil || len(places) == 0 {
		t.Errorf("no evidence: %v", err)
		return
	}
	slices.Sort(places)
	place := fs.PathJoin(l.cfg.Evidence, places[len(places)-1])
	if readme := getFile(t, fs, fs.PathJoin(place, "README.txt")); !bytes.Contains(readme, []byte(reason)) {
		t.Errorf("the evidence does not say %q:\n%s", reason, readme)
	}
	var fork *tlog.ForkError
	if errors.As(q, &fork) {
		for name, want := range map[string][]byte{"a": fork.A, "b": fork.B} {
			if want != nil && !bytes.Equal(getFile(t, fs, fs.PathJoin(place, name)), want) {
				t.Errorf("the evidence %s is not what was found", name)
			}
		}
	}
}

// TestAnchorDown takes the anchor away: the log goes on until MaxUnanchored, then answers ErrBusy, signs nothing, and
// resumes by itself. A start in the meantime is no different.
func TestAnchorDown(t *testing.T) {
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	s := &signer{Signer: key, ledger: book}
	config := Config{FS: fs, Latest: a, Signer: s, MaxUnanchored: 20, AnchorTimeout: 100 * time.Millisecond}
	l := open(t, "/log", config)
	end := run(t, l)
	fill(t, l, book, 1, 0, 10)
	awaitPublished(t, l, 10)

	down := func() error { return errDown }
	a.faults(func([]byte) (bool, error) { return false, errDown }, down)
	signs := book.signatures()
	fill(t, l, book, 1, 10, 21)
	if _, err := l.Append(t.Context(), leaf(1, 31)); !errors.Is(err, tlog.ErrBusy) {
		t.Fatalf("31 entries, 10 of them anchored: %v", err)
	}
	if err := end(); !errors.Is(err, errDown) {
		t.Fatalf("Run ends with entries unanchored: %v", err)
	}
	finish(t, l, nil)

	l = open(t, "/log", config)
	end = run(t, l)
	await(t, "the anchor to be asked", func() bool { return l.Stats().AnchorErrors > 3 })
	if _, err := l.Append(t.Context(), leaf(1, 31)); !errors.Is(err, tlog.ErrBusy) {
		t.Fatalf("after a start: %v", err)
	}
	if n := book.signatures(); n != signs {
		t.Fatalf("%d signatures without an anchor", n-signs)
	}
	a.faults(nil, nil)
	awaitPublished(t, l, 31)
	fill(t, l, book, 1, 31, 10)
	awaitPublished(t, l, 41)
	finish(t, l, end)
	if err := reopened(t, fs, "/log", a, book); err != nil {
		t.Fatal(err)
	}
}

// TestUnanchoredAge is TestAnchorDown by time.
func TestUnanchoredAge(t *testing.T) {
	a, book := new(anchor), newLedger()
	l := open(t, "/log", Config{FS: vfs.NewMem(), Latest: a, MaxUnanchoredAge: 20 * time.Millisecond})
	a.faults(func([]byte) (bool, error) { return false, errDown }, nil)
	end := run(t, l)
	fill(t, l, book, 1, 0, 1)
	await(t, "ErrBusy", func() bool {
		_, err := l.Append(t.Context(), leaf(1, 1))
		return errors.Is(err, tlog.ErrBusy)
	})
	a.faults(nil, nil)
	await(t, "room", func() bool {
		_, err := l.Append(t.Context(), leaf(1, 2))
		return err == nil
	})
	finish(t, l, end)
}

// TestHangingAnchor lets the anchor hang: appends go on meanwhile.
func TestHangingAnchor(t *testing.T) {
	hang := &hanging{release: make(chan struct{}), hung: make(chan struct{})}
	book := newLedger()
	l := open(t, "/log", Config{FS: vfs.NewMem(), Latest: hang})
	end := run(t, l)
	fill(t, l, book, 1, 0, 1)
	<-hang.hung
	fill(t, l, book, 1, 1, 50)
	close(hang.release)
	awaitPublished(t, l, 51)
	finish(t, l, end)
}

type hanging struct {
	anchor
	once          sync.Once
	release, hung chan struct{}
}

func (h *hanging) Swap(ctx context.Context, origin string, old, new []byte) error {
	h.once.Do(func() { close(h.hung) })
	select {
	case <-h.release:
	case <-ctx.Done():
		return ctx.Err()
	}
	return h.anchor.Swap(ctx, origin, old, new)
}

// TestKept keeps the last checkpoint of each second, and the newest; every width of a tile stays readable.
func TestKept(t *testing.T) {
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	s := &signer{Signer: key, ledger: book}
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
	end := run(t, l)
	for i := range uint64(5) {
		fill(t, l, book, 1, int(i), 1)
		awaitPublished(t, l, i+1)
	}
	// All of that came within a second or so; age makes what is kept now stay.
	await(t, "a second", func() bool { return l.now() > int64(1100*time.Millisecond) })
	fill(t, l, book, 1, 5, 1)
	awaitPublished(t, l, 6)
	finish(t, l, end)
	l = open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
	defer l.Close()
	sizes, err := l.Sizes(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(sizes) == 0 || len(sizes) > 3 || sizes[len(sizes)-1] != 6 {
		t.Fatalf("kept checkpoints %v of six", sizes)
	}
	for _, size := range sizes {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		if c, _, err := tlog.OpenCheckpoint(signed, l.cfg.Verifier); err != nil || c.Size != size {
			t.Fatalf("checkpoint kept for %d: %d, %v", size, c.Size, err)
		}
	}
	if _, err := l.CheckpointAt(t.Context(), 7); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a checkpoint of the future: %v", err)
	}
	for w := 1; w <= 6; w++ {
		for _, level := range []int{0, tlog.EntriesLevel} {
			if _, err := l.Tile(t.Context(), tlog.Tile{Level: level, Width: w}); err != nil {
				t.Errorf("width %d of level %d: %v", w, level, err)
			}
		}
	}
	if _, err := l.Tile(t.Context(), tlog.Tile{Width: 7}); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a tile beyond the checkpoint: %v", err)
	}
}

// TestRecountAgain publishes after a read failed in the middle of a recount: it begins again behind the last full tile,
// and must find what it had found.
func TestRecountAgain(t *testing.T) {
	book := newLedger()
	l := open(t, "/log", Config{FS: vfs.NewMem()})
	end := run(t, l)
	fill(t, l, book, 1, 0, 300)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.publisher.recount = nil
	if err := l.reread(t.Context(), *l.durable.Load()); err != nil || l.publisher.recount == nil {
		t.Fatalf("begun again: %v", err)
	}
	l.publisher.recount = nil
	l.publisher.counted.root[0] ^= 1
	var damage *damageError
	if err := l.reread(t.Context(), *l.durable.Load()); !errors.As(err, &damage) {
		t.Errorf("another root than before: %v", err)
	}
}
