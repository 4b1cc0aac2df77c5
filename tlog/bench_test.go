package tlog_test

import (
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

func BenchmarkHashLeaf(b *testing.B) {
	for _, n := range []int{64, 400, tlog.MaxEntry} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			entry := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				tlog.HashLeaf(entry)
			}
		})
	}
}

func BenchmarkHashChildren(b *testing.B) {
	l, r := tlog.HashLeaf([]byte("l")), tlog.HashLeaf([]byte("r"))
	b.ReportAllocs()
	for b.Loop() {
		l = tlog.HashChildren(l, r)
	}
}

// The claims of the two comments, where a test can see them.
func TestHashesDoNotAllocate(t *testing.T) {
	short, long := make([]byte, 400), make([]byte, tlog.MaxEntry)
	var h tlog.Hash
	for name, f := range map[string]func(){
		"HashLeaf of 400 bytes":      func() { h = tlog.HashLeaf(short) },
		"HashLeaf of MaxEntry bytes": func() { h = tlog.HashLeaf(long) },
		"HashChildren":               func() { h = tlog.HashChildren(h, h) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkInclusion(b *testing.B) {
	m := newMemTree(b, 70_000, 1)
	ts := m.tiles(70_000)
	root, err := ts.Root(b.Context(), ts.Size)
	if err != nil {
		b.Fatal(err)
	}
	p, err := ts.Inclusion(b.Context(), 12_345)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("prove", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ts.Inclusion(b.Context(), 12_345); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := tlog.VerifyInclusion(m.levels[0][12_345], 12_345, ts.Size, root, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify by subtree", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := tlog.VerifySubtreeInclusion(m.levels[0][12_345], 12_345, 0, ts.Size, root, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
