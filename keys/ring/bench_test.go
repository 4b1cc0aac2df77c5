package ring

import (
	"context"
	"testing"
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
				if err := r.restock(); err != nil {
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
