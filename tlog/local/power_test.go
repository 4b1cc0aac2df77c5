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
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestPowerLoss cuts the power at 1,000 moments under eight producers, while checkpoints are anchored, signed and shown,
// and loses none, half or all of what was not synced. Each time the log must come up, hold all that was acknowledged,
// and continue all that was signed. Every so often the log that goes on is itself one that lost power.
func TestPowerLoss(t *testing.T) {
	r := losePower(t, 1000, func(fs vfs.FS) vfs.FS { return fs })
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
