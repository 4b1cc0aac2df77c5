package local

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	dto "github.com/prometheus/client_model/go"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
)

const benchEntry, benchLeaf = 350, 2048

// BenchmarkAppend compares durable appends of leaves of 2 KB with synced commits of 2 KB by the same number of
// goroutines straight to Pebble, opened with the same options in a fresh directory of the same disk. The two take turns
// and the medians are compared: a shared disk drifts by more than they differ. Set TMPDIR to choose the disk.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 16, 64, 256, 1024} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			const rounds = 9
			var ours, raw, ratio, oursCPU, rawCPU, oursSyncs, rawSyncs []float64
			for b.Loop() {
				for range rounds {
					r, o := rawRate(b, producers, 500*time.Millisecond), appendRate(b, producers, 500*time.Millisecond)
					raw, rawCPU, rawSyncs = append(raw, r.rate), append(rawCPU, r.cpu), append(rawSyncs, r.syncs)
					ours, oursCPU, oursSyncs = append(ours, o.rate), append(oursCPU, o.cpu), append(oursSyncs, o.syncs)
					ratio = append(ratio, o.rate/r.rate)
				}
			}
			b.ReportMetric(median(ours), "leaves/s")
			b.ReportMetric(median(raw), "raw/s")
			b.ReportMetric(median(ratio), "ratio")
			b.ReportMetric(median(oursCPU), "cpu-µs/leaf")
			b.ReportMetric(median(rawCPU), "cpu-µs/raw")
			b.ReportMetric(median(oursSyncs), "leaves/sync")
			b.ReportMetric(median(rawSyncs), "raw/sync")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// producing runs n goroutines that call one until the time is over and returns how many calls a second succeeded.
func producing(b *testing.B, n int, d time.Duration, db func() *pebble.DB, one func(buf []byte) error) measured {
	var done atomic.Int64
	var wg sync.WaitGroup
	var stop atomic.Bool
	begun, cpu, syncs := time.Now(), cpuTime(b), walSyncs(b, db())
	time.AfterFunc(d, func() { stop.Store(true) })
	for range n {
		wg.Go(func() {
			buf := make([]byte, benchLeaf)
			rand.Read(buf)
			for i := 0; !stop.Load(); i++ {
				copy(buf, fmt.Sprintf("%016x", i))
				copy(buf[benchEntry:], fmt.Sprintf("%016x", i))
				if err := one(buf); err != nil {
					b.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	n64 := float64(done.Load())
	return measured{
		rate:  n64 / time.Since(begun).Seconds(),
		cpu:   float64((cpuTime(b) - cpu).Microseconds()) / n64,
		syncs: n64 / (walSyncs(b, db()) - syncs),
	}
}

// measured is a rate a second, microseconds of processor time a leaf, and leaves a sync of the write-ahead log.
type measured struct{ rate, cpu, syncs float64 }

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func walSyncs(b *testing.B, db *pebble.DB) float64 {
	var m dto.Metric
	if err := db.Metrics().LogWriter.FsyncLatency.Write(&m); err != nil {
		b.Fatal(err)
	}
	return float64(m.Histogram.GetSampleCount())
}

func rawRate(b *testing.B, producers int, d time.Duration) measured {
	dir, err := os.MkdirTemp("", "raw")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l := &Log{dir: dir, cfg: benchConfig(b)}
	if err := l.cfg.defaults(dir); err != nil {
		b.Fatal(err)
	}
	l.broken = make(chan struct{})
	if err := os.Mkdir(dir+"/pebble", 0o755); err != nil {
		b.Fatal(err)
	}
	if err := l.openStore(false); err != nil {
		b.Fatal(err)
	}
	defer l.closer()
	defer l.db.Close()
	var next atomic.Uint64
	return producing(b, producers, d, func() *pebble.DB { return l.db }, func(buf []byte) error {
		batch := l.db.NewBatch()
		defer batch.Close()
		if err := batch.Set(entryKey(next.Add(1)), buf, nil); err != nil {
			return err
		}
		return batch.Commit(pebble.Sync)
	})
}

func benchConfig(b *testing.B) Config {
	signer, vkey := tlogtest.Key("log.example/bench")
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		b.Fatal(err)
	}
	return Config{Origin: "log.example/bench", Signer: signer, Verifier: verifier, Latest: new(tlogtest.Latest)}
}

func appendRate(b *testing.B, producers int, d time.Duration) measured {
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := Open(dir, benchConfig(b))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	rate := producing(b, producers, d, func() *pebble.DB { return l.db }, func(buf []byte) error {
		_, err := l.Append(ctx, tlog.Leaf{Entry: buf[:benchEntry], Payload: buf[benchEntry:]})
		return err
	})
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	return rate
}
