package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// TestTail is an anchor out of reach, so that nothing is published: the tail has what is durable all the same, and nothing
// else has.
func TestTail(t *testing.T) {
	t.Parallel()
	var a anchor
	fs := vfs.NewMem()
	l := open(t, "/log", Config{Latest: &a, FS: fs, LastWait: 10 * time.Millisecond})
	away := errors.New("the anchor is away")
	a.faults(func([]byte) (bool, error) { return false, away }, func() error { return away })
	end := run(t, l)
	ctx := t.Context()
	for i := range 10 {
		lf := leaf(0, i)
		if _, err := l.Append(ctx, lf); err != nil {
			t.Fatal(err)
		}
		entries, err := l.Tail(ctx, uint64(i), 0)
		if err != nil || len(entries) != 1 || !bytes.Equal(entries[0], lf.Entry) {
			t.Fatalf("the tail after entry %d was acknowledged: %q, %v", i, entries, err)
		}
	}
	if entries, err := l.Tail(ctx, 4, time.Hour); err != nil || len(entries) != 6 || !bytes.Equal(entries[0], leaf(0, 4).Entry) {
		t.Errorf("the tail from 4 on: %q, %v", entries, err)
	}
	for _, from := range []uint64{10, 11, 1 << 40, ^uint64(0)} {
		if entries, err := l.Tail(ctx, from, 0); err != nil || len(entries) > 0 {
			t.Errorf("the tail from %d on: %q, %v", from, entries, err)
		}
	}
	if _, err := l.Checkpoint(ctx); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a checkpoint: %v", err)
	}
	if data, err := l.Tile(ctx, tlog.Tile{Level: tlog.EntriesLevel, Width: 1}); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a bundle that is not published: %q, %v", data, err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Tail(gone, 10, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := end(); !errors.Is(err, ErrUnsigned) {
		t.Errorf("Run ended: %v", err)
	}
	if entries, err := l.Tail(ctx, 9, 0); err != nil || len(entries) != 1 {
		t.Errorf("the tail after Run: %q, %v", entries, err)
	}
	finish(t, l, nil)
	for _, from := range []uint64{0, 10} {
		if _, err := l.Tail(ctx, from, 0); !errors.Is(err, tlog.ErrClosed) {
			t.Errorf("the tail of a closed log from %d on: %v", from, err)
		}
	}
	a.faults(nil, nil)
	l = open(t, "/log", Config{Latest: &a, FS: fs, ReadOnly: true})
	if entries, err := l.Tail(ctx, 0, 0); err != nil || len(entries) != 10 {
		t.Errorf("the tail of a log that is only read: %d entries, %v", len(entries), err)
	}
	finish(t, l, nil)
}

// TestTailWaits is many who wait for what comes next, and hear of every entry once; and of a log that stops.
func TestTailWaits(t *testing.T) {
	t.Parallel()
	l := open(t, "/log", Config{FS: vfs.NewMem()})
	end := run(t, l)
	const n = 200
	var wg, heard sync.WaitGroup
	for range 8 {
		heard.Add(1)
		wg.Go(func() {
			all := sync.OnceFunc(heard.Done)
			defer all()
			var have uint64
			for have < n {
				entries, err := l.Tail(t.Context(), have, time.Hour)
				if err != nil || len(entries) == 0 {
					t.Errorf("the tail from %d on, waited for: %d entries, %v", have, len(entries), err)
					return
				}
				for _, e := range entries {
					if !bytes.Equal(e, leaf(0, int(have)).Entry) {
						t.Errorf("entry %d is %q", have, e)
					}
					have++
				}
			}
			all()
			if _, err := l.Tail(t.Context(), n, time.Hour); !errors.Is(err, tlog.ErrHalted) {
				t.Errorf("the tail of a log that halts: %v", err)
			}
		})
	}
	for i := range n {
		if _, err := l.Append(t.Context(), leaf(0, i)); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := l.Tail(t.Context(), n, time.Millisecond); err != nil || len(entries) > 0 {
		t.Errorf("waited in vain: %q, %v", entries, err)
	}
	heard.Wait()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if entries, err := l.Tail(short, n, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller who leaves: %q, %v", entries, err)
	}
	l.halt(errors.New("the disk is gone"))
	wg.Wait()
	if entries, err := l.Tail(t.Context(), n-1, 0); err != nil || len(entries) != 1 {
		t.Errorf("the last entry of a log that halted: %q, %v", entries, err)
	}
	end()
	l.Close()
}

// TestTailIsBounded: one call returns so many entries, and so many bytes, and the next goes on where it ended.
func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	l := open(t, "/log", Config{FS: vfs.NewMem()})
	end := run(t, l)
	var leaves []tlog.Leaf
	for i := range tlog.MaxTail {
		leaves = append(leaves, tlog.Leaf{Entry: fmt.Appendf(nil, "%d", i)})
	}
	for range 2 {
		if _, err := l.Append(t.Context(), leaves...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range leaves {
		leaves[i].Entry = bytes.Repeat([]byte{byte(i)}, tlog.MaxEntry-i%2)
	}
	if _, err := l.Append(t.Context(), leaves[:600]...); err != nil {
		t.Fatal(err)
	}
	var counts []int
	var from uint64
	for {
		entries, err := l.Tail(t.Context(), from, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		sum := 0
		for _, e := range entries {
			sum += len(e)
		}
		if sum > tlog.MaxTailBytes {
			t.Errorf("%d bytes in one call", sum)
		}
		from += uint64(len(entries))
		counts = append(counts, len(entries))
	}
	if want := []int{tlog.MaxTail, tlog.MaxTail, 256, 256, 88}; fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("the tail comes in calls of %d entries; want %d", counts, want)
	}
	finish(t, l, end)
}

// TestTailInQuarantine: what the anchor contradicts is shown to nobody but as far as it was published.
func TestTailInQuarantine(t *testing.T) {
	t.Parallel()
	fs, a := vfs.NewMem(), new(anchor)
	l := open(t, "/log", Config{FS: fs, Latest: a})
	end := run(t, l)
	if _, err := l.Append(t.Context(), leaf(0, 0)); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)
	a.is = tlog.Checkpoint{Origin: testOrigin, Size: 1, Root: tlog.Hash{1}}.Text()
	l, err := Open("/log", testConfig(t, Config{FS: fs, Latest: a}))
	if err != nil {
		t.Fatal(err)
	}
	end = run(t, l)
	await(t, "quarantine", func() bool { return l.Quarantined() != nil })
	for _, from := range []uint64{0, 1} {
		if entries, err := l.Tail(t.Context(), from, time.Minute); !errors.Is(err, tlog.ErrQuarantine) {
			t.Errorf("the tail from %d on: %q, %v", from, entries, err)
		}
	}
	if _, err := l.Checkpoint(t.Context()); err != nil {
		t.Errorf("what was published: %v", err)
	}
	end()
	l.Close()
}
