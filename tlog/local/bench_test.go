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
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

const benchEntry, benchLeaf = 350, 2048

// BenchmarkAppend compares durable appends of leaves of 2 KB with synced commits of 2 KB by the same number of
// goroutines straight to Pebble, opened with the same options in a fresh directory of the same disk. The two take turns
// and the medians are compared: a shared disk drifts by more than they differ. Set TMPDIR to choose the disk.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 16, 64, 256, 1024} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			const rounds = 7
			var ours, raw []float64
			for b.Loop() {
				for range rounds {
					raw = append(raw, rawRate(b, producers, time.Second))
					ours = append(ours, appendRate(b, producers, time.Second))
				}
			}
			o, r := median(ours), median(raw)
			b.ReportMetric(o, "leaves/s")
			b.ReportMetric(r, "raw/s")
			b.ReportMetric(o/r, "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// producing runs n goroutines that call one until the time is over and returns how many calls a second succeeded.
func producing(b *testing.B, n int, d time.Duration, one func(buf []byte) error) float64 {
	var done atomic.Int64
	var wg sync.WaitGroup
	var stop atomic.Bool
	begun := time.Now()
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
	return float64(done.Load()) / time.Since(begun).Seconds()
}

func rawRate(b *testing.B, producers int, d time.Duration) float64 {
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
	return producing(b, producers, d, func(buf []byte) error {
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

func appendRate(b *testing.B, producers int, d time.Duration) float64 {
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
	rate := producing(b, producers, d, func(buf []byte) error {
		_, err := l.Append(ctx, tlog.Leaf{Entry: buf[:benchEntry], Payload: buf[benchEntry:]})
		return err
	})
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	return rate
}
