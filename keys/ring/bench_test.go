package ring

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkNew is a New that finds a key in stock: what a session pays.
func BenchmarkNew(b *testing.B) {
	r := open(b, b.TempDir(), Config{Batch: maxBatch})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if len(r.stock) == 0 {
			b.StopTimer()
			for cap(r.stock)-len(r.stock) >= r.batch {
				if err := r.restock(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
		}
		if _, _, err := r.New(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNewSustained is as many New as Run can keep up with: sealing, writing and syncing
// included.
func BenchmarkNewSustained(b *testing.B) {
	r := open(b, b.TempDir(), Config{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.New(ctx); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	<-done
}

func BenchmarkOpen(b *testing.B) {
	r := open(b, b.TempDir(), Config{})
	id, _, err := r.New(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Open(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkErase(b *testing.B) {
	r := open(b, b.TempDir(), Config{})
	id, _, err := r.New(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := r.Erase(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTenantKey is New and Open with a tenant key that takes a millisecond to answer, as
// one in Vault may, with its answers being kept and without. asked/op is how often it was
// asked.
func BenchmarkTenantKey(b *testing.B) {
	const n = 4096
	for _, op := range []string{"New", "Open"} {
		for _, cache := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/cache=%v", op, cache), func(b *testing.B) {
				k := newTenant()
				k.setFault(func(context.Context) (func([]byte) []byte, error) {
					time.Sleep(time.Millisecond)
					return nil, nil
				})
				cfg := Config{KEK: k, Batch: 512, Segment: 512}
				if !cache {
					cfg.MaxStale = 1
				}
				r := open(b, b.TempDir(), cfg)
				ids := make([]ID, n)
				for i := range ids { // in eight segments
					for len(r.stock) == 0 {
						if err := r.restock(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
					ids[i] = (<-r.stock).id
				}
				k.questions()
				i := 0
				for b.Loop() {
					var err error
					if op == "New" {
						_, _, err = r.New(b.Context())
					} else {
						_, err = r.Open(b.Context(), ids[i%n])
					}
					if err != nil {
						b.Fatal(err)
					}
					i++
				}
				b.ReportMetric(float64(k.questions())/float64(i), "asked/op")
			})
		}
	}
}

// BenchmarkRewrap is what a key costs that is moved to another epoch.
func BenchmarkRewrap(b *testing.B) {
	r := open(b, b.TempDir(), Config{Batch: maxBatch, Pace: -1})
	for range 8 {
		if err := r.restock(b.Context()); err != nil {
			b.Fatal(err)
		}
		for len(r.stock) > 0 {
			<-r.stock
		}
	}
	keys := 0
	for b.Loop() {
		m, err := r.Rewrap(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		keys += m.Keys
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(keys), "ns/key")
}
