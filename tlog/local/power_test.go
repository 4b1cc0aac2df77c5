package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestPowerLoss cuts the power at 1,000 moments (100 with -short) under eight producers, while checkpoints are anchored, signed and shown,
// and loses none, half or all of what was not synced. Each time the log must come up, hold all that was acknowledged,
// and continue all that was signed. Every so often the log that goes on is itself one that lost power.
func TestPowerLoss(t *testing.T) {
	points := 1000
	if testing.Short() {
		points = 100
	}
	r := losePower(t, points, func(fs vfs.FS) vfs.FS { return fs })
	t.Logf("%s", r)
	if r.failed > 0 {
		t.Errorf("%d of %d failed, the first: %v", r.failed, r.points, r.first)
	}
}

// TestPowerLossUnsynced is the same with a disk that ignores syncs of the write-ahead log: the test must see the loss.
func TestPowerLossUnsynced(t *testing.T) {
	r := losePower(t, 60, func(fs vfs.FS) vfs.FS { return lyingFS{fs} })
	t.Logf("%s; the first: %v", r, r.first)
	if r.failed < r.points/2 {
		t.Errorf("only %d of %d failed: the test does not see a loss", r.failed, r.points)
	}
}

type lossReport struct {
	points, failed, acked, signed int
	first                         error
}

func (r lossReport) String() string {
	return fmt.Sprintf("%d power losses with %d acknowledged leaves and %d signatures behind them, %d failed", r.points, r.acked, r.signed, r.failed)
}

func losePower(t *testing.T, points int, wrap func(vfs.FS) vfs.FS) lossReport {
	const perRound = 50
	var mu sync.Mutex
	var report lossReport
	slots := make(chan struct{}, 4) // checks at once
	var checks sync.WaitGroup
	rng := rand.New(rand.NewPCG(7, 7))
	fs, at, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	for round := 0; report.points < points; round++ {
		key, _ := tlogtest.Key(testOrigin)
		l, err := Open("/log", testConfig(t, Config{Latest: at, FS: wrap(fs), Signer: &signer{Signer: key, ledger: book}}))
		if err == nil {
			err = l.Quarantined()
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		end := run(t, l)
		ctx, stop := context.WithCancel(t.Context())
		var producers sync.WaitGroup
		tokens := make(chan struct{})
		for who := range 8 {
			producers.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-tokens:
					case <-ctx.Done():
						return
					}
					leaves := []tlog.Leaf{leaf(round*8+who, n)}
					if n%5 == 0 {
						leaves = append(leaves, leaf(round*8+who, -n-1))
					}
					indices, err := l.Append(ctx, leaves...)
					if errors.Is(err, tlog.ErrBusy) {
						continue
					}
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("append: %v", err)
						}
						return
					}
					book.ack(indices, leaves)
				}
			})
		}
		var clone *vfs.MemFS
		var cloneAnchor *anchor
		var known *ledger
		for range perRound {
			for range 1 + rng.IntN(5) {
				tokens <- struct{}{}
			}
			for until := time.Now().Add(time.Duration(rng.IntN(1000)) * time.Microsecond); time.Now().Before(until); {
				runtime.Gosched()
			}
			percent := []int{0, 50, 100}[report.points%3]
			cut := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(rng.Uint64(), 1))}
			// What was acknowledged is taken before the cut. The anchor is elsewhere and keeps what it has: it must
			// not move during the cut, nor may anything be signed that it did not remember then.
			known = book.clone()
			at.mu.Lock()
			clone = fs.CrashClone(cut)
			cloneAnchor = &anchor{is: at.is}
			known.signed = book.clone().signed
			at.mu.Unlock()
			mu.Lock()
			report.points++
			report.acked += len(known.acked)
			report.signed += len(known.signed)
			mu.Unlock()
			point := report.points
			disk, a, k := clone.CrashClone(vfs.CrashCloneCfg{}), cloneAnchor.is, known.clone()
			slots <- struct{}{}
			checks.Go(func() {
				defer func() { <-slots }()
				err := reopened(t, wrap(disk), "/log", &anchor{is: a}, k)
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					report.failed++
					if report.first == nil {
						report.first = fmt.Errorf("power loss %d, %d %% kept: %w", point, percent, err)
					}
				}
			})
		}
		stop()
		producers.Wait()
		l.halt(errors.New("power lost"))
		end()
		checks.Wait()
		if report.failed == 0 && round%3 != 2 {
			fs, at, book = clone, cloneAnchor, known
			continue
		}
		fs, at, book = vfs.NewCrashableMem(), new(anchor), newLedger()
	}
	return report
}

// A lyingFS says that it synced the write-ahead log, and did not.
type lyingFS struct{ vfs.FS }

type lyingFile struct{ vfs.File }

func (lyingFile) Sync() error     { return nil }
func (lyingFile) SyncData() error { return nil }

func (l lyingFS) lie(name string, f vfs.File, err error) (vfs.File, error) {
	if err == nil && strings.HasSuffix(name, ".log") {
		f = lyingFile{f}
	}
	return f, err
}

func (l lyingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return l.lie(name, f, err)
}

func (l lyingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(old, name, c)
	return l.lie(name, f, err)
}

func (l lyingFS) Unwrap() vfs.FS { return l.FS }

// TestCutInOpen cuts the power before every single operation on the disk of a start: of a new log, of one whose process
// died, and of one that comes out of quarantine. The start after that must do.
//
// A disk that keeps the name of Pebble's new marker and loses that of the manifest it marks, made before it in the same
// directory, ends in quarantine, with nothing lost. File systems with a journal keep names in the order they were made.
func TestCutInOpen(t *testing.T) {
	died, diedAnchor, diedBook := unclean(t, 40)
	marked := died.CrashClone(vfs.CrashCloneCfg{})
	putFile(t, marked, "/log/QUARANTINE", []byte("here\n"))
	for _, c := range []struct {
		name string
		disk *vfs.MemFS
		a    *anchor
		book *ledger
	}{
		{"new", vfs.NewCrashableMem(), new(anchor), newLedger()},
		{"died", died, diedAnchor, diedBook},
		{"out of quarantine", marked, diedAnchor, diedBook},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cuts, refused := 0, 0
			for percent := 0; percent <= 100; percent += 50 {
				for n := 1; ; n++ {
					if testing.Short() && n%8 != 0 {
						continue
					}
					disk := c.disk.CrashClone(vfs.CrashCloneCfg{})
					cut := &cutFS{mem: disk, at: int64(n), cfg: vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(n), 9))}}
					l, err := Open("/log", testConfig(t, Config{FS: cut.wrap(), Latest: &anchor{is: c.a.is}}))
					if err == nil {
						err = l.Quarantined()
						l.Close()
					}
					if err != nil {
						t.Fatalf("the start itself: %v", err)
					}
					after := cut.clone()
					if after == nil {
						break // the start has fewer operations
					}
					cuts++
					err = reopened(t, after, "/log", &anchor{is: c.a.is}, c.book.clone())
					if percent == 50 && errors.Is(err, tlog.ErrQuarantine) && strings.Contains(err.Error(), "could not open manifest") {
						refused++
					} else if err != nil {
						t.Errorf("cut before operation %d, %d %% kept: %v", n, percent, err)
					}
				}
			}
			t.Logf("%d cuts, %d in quarantine", cuts, refused)
			if cuts < 10 {
				t.Error("too few")
			}
		})
	}
}

// A cutFS clones a disk before one of the operations that change it.
type cutFS struct {
	mem *vfs.MemFS
	at  int64
	cfg vfs.CrashCloneCfg

	mu   sync.Mutex
	n    int64
	left *vfs.MemFS
}

func (c *cutFS) wrap() vfs.FS {
	return linkFS{errorfs.Wrap(c.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpLink {
			c.tick()
		}
		return nil
	})), c}
}

func (c *cutFS) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n++; c.n == c.at {
		c.left = c.mem.CrashClone(c.cfg)
	}
}

func (c *cutFS) clone() *vfs.MemFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// A linkFS keeps Link, which takes the lock of a MemFS twice, apart from the cloning.
type linkFS struct {
	vfs.FS
	cut *cutFS
}

func (l linkFS) Link(old, new string) error {
	l.cut.tick()
	l.cut.mu.Lock()
	defer l.cut.mu.Unlock()
	return l.FS.Link(old, new)
}

func (l linkFS) Unwrap() vfs.FS { return l.FS }
