package remote

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

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

const benchEntry, benchLeaf = 350, 2048

// BenchmarkAppend compares durable appends of leaves of 2 KB over TLS on the loopback, client and server in this process,
// with the same appends to tlog/local in a fresh directory of the same disk. The two take turns and the medians are
// compared: a shared disk drifts by more than they differ. Set TMPDIR to choose the disk.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 16, 64, 256, 1024} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) { compare(b, producers, 1) })
	}
	// As package record's writer appends: one call at a time, of many leaves.
	for _, leaves := range []int{16, 256} {
		b.Run(fmt.Sprintf("producers=1/leaves=%d", leaves), func(b *testing.B) { compare(b, 1, leaves) })
	}
}

func compare(b *testing.B, producers, leaves int) {
	const rounds = 9
	var there, here, ratio []float64
	for b.Loop() {
		for range rounds {
			h, r := rate(b, producers, leaves, false), rate(b, producers, leaves, true)
			here, there, ratio = append(here, h), append(there, r), append(ratio, r/h)
		}
	}
	b.ReportMetric(median(there), "leaves/s")
	b.ReportMetric(median(here), "local/s")
	b.ReportMetric(median(ratio), "ratio")
	b.ReportMetric(0, "ns/op")
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// rate returns how many leaves a second are appended.
func rate(b *testing.B, producers, leaves int, remote bool) float64 {
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := newSite(b)
	s.dir, s.fs, s.interval = dir, vfs.Default, 100*time.Millisecond
	a := newAuthority(b)
	s.server.TLS = a.server
	p := s.start()
	defer s.down()
	var log tlog.Appender = p.log
	if remote {
		c := s.config()
		c.TLS = a.client
		l := s.client(c)
		defer run(b, l)()
		log = l
	}
	var done atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	begun := time.Now()
	time.AfterFunc(500*time.Millisecond, func() { stop.Store(true) })
	for range producers {
		wg.Go(func() {
			buf := make([]byte, benchLeaf*leaves)
			rand.Read(buf)
			call := make([]tlog.Leaf, leaves)
			for i := 0; !stop.Load(); i++ {
				for j := range call {
					leaf := buf[j*benchLeaf : (j+1)*benchLeaf]
					copy(leaf, fmt.Sprintf("%016x", i))
					copy(leaf[benchEntry:], fmt.Sprintf("%016x", i))
					call[j] = tlog.Leaf{Entry: leaf[:benchEntry], Payload: leaf[benchEntry:]}
				}
				if _, err := log.Append(context.Background(), call...); err != nil {
					b.Error(err)
					return
				}
				done.Add(int64(leaves))
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(begun).Seconds()
}
