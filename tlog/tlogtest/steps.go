package tlogtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// append appends one group, as often as it takes where the log is busy, and writes down what came of it. The leaves
// belong to the log only until Append returns, so they are overwritten then.
func (s *story) append(ctx context.Context, t testing.TB, leaves ...tlog.Leaf) ([]uint64, error) {
	g, floor := s.ledger.begin(leaves)
	for {
		indices, err := s.log.Append(ctx, leaves...)
		switch {
		case err == nil:
			if err := s.ledger.acknowledge(g, floor, indices); err != nil {
				t.Error(err)
			}
			for _, leaf := range leaves {
				clear(leaf.Entry)
				clear(leaf.Payload)
			}
			return indices, nil
		case errors.Is(err, tlog.ErrBusy) && ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			continue
		case errors.Is(err, tlog.ErrBusy), errors.Is(err, tlog.ErrFull), errors.Is(err, tlog.ErrTooLarge):
			s.ledger.refuse(g)
		}
		for _, leaf := range leaves {
			clear(leaf.Entry)
			clear(leaf.Payload)
		}
		return nil, err
	}
}

// must appends one group, which has to succeed. Then the tail has it.
func (s *story) must(ctx context.Context, t testing.TB, leaves ...tlog.Leaf) []uint64 {
	t.Helper()
	last := leaves[len(leaves)-1]
	last.Entry = bytes.Clone(last.Entry)
	indices, err := s.append(ctx, t, leaves...)
	if err != nil {
		t.Fatalf("Append of %d leaves: %v", len(leaves), err)
	}
	at := indices[len(indices)-1]
	if entries, err := s.log.Tail(ctx, at, 0); err != nil {
		t.Fatalf("the tail from %d on: %v", at, err)
	} else if len(entries) == 0 || !bytes.Equal(entries[0], last.Entry) {
		t.Errorf("the tail does not show entry %d, which was acknowledged", at)
	}
	return indices
}

// follow reads the tail, as one client among many, until ctx ends.
func (s *story) follow(ctx context.Context, l tlog.Log) {
	for ctx.Err() == nil {
		s.mu.Lock()
		from := uint64(len(s.tailed))
		s.mu.Unlock()
		entries, err := l.Tail(ctx, from, 20*time.Millisecond)
		if err != nil {
			select { // it may come back
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
		s.mu.Lock()
		for _, e := range entries {
			s.tailed = append(s.tailed, leafHash(e))
		}
		s.mu.Unlock()
	}
}

// leaves makes n leaves.
func (s *story) leaves(n int) []tlog.Leaf {
	leaves := make([]tlog.Leaf, n)
	for i := range leaves {
		leaves[i] = s.ledger.leaf()
	}
	return leaves
}

// empty is a log that nobody ran: it has nothing, and Append waits.
func (s *story) empty(t testing.TB) {
	s.open(t)
	ctx := s.context(t)
	if c, err := s.observe(ctx); err == nil && c.Size != 0 || err != nil && !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("the checkpoint of an empty log: %+v, %v", c, err)
	}
	for _, tile := range []tlog.Tile{{Level: 0, Width: 1}, {Level: 0, Width: 256}, {Level: tlog.EntriesLevel, Width: 1}, {Level: 1, Width: 1}} {
		if data, err := s.log.Tile(ctx, tile); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("%s of an empty log: %d bytes, %v", tile.Path(), len(data), err)
		}
	}
	if entries, err := s.log.Tail(ctx, 0, time.Millisecond); err != nil || len(entries) > 0 {
		t.Errorf("the tail of an empty log: %d entries, %v", len(entries), err)
	}
	if _, err := s.log.Payload(ctx, tlog.Hash{1}); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a payload of an empty log: %v", err)
	}
	if s.w.Elsewhere {
		return
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if indices, err := s.append(short, t, s.leaves(2)...); err == nil {
		t.Errorf("Append did not wait for Run: it returned %d", indices)
	} else if short.Err() == nil {
		t.Errorf("Append did not wait for Run: %v", err)
	}
}

// first is the first leaf.
func (s *story) first(t testing.TB) {
	s.run()
	s.must(s.context(t), t, s.leaves(1)...)
	s.verify(t)
}

// edges is a checkpoint on each side of a full tile.
func (s *story) edges(t testing.TB) {
	ctx := s.context(t)
	for _, size := range []uint64{4, 5, 255, 256, 257, 511, 512, 513} {
		if have := s.ledger.acked(); have < size {
			s.must(ctx, t, s.leaves(int(size-have))...)
		}
		s.verify(t)
	}
}

// crowd is many who append, singles and groups, and some who watch.
func (s *story) crowd(t testing.TB) {
	ctx := s.context(t)
	watch, stop := context.WithCancel(ctx)
	var watchers, writers sync.WaitGroup
	defer func() { stop(); watchers.Wait() }()
	for range 3 {
		watchers.Go(func() {
			for watch.Err() == nil {
				if _, err := s.observe(watch); err != nil && watch.Err() == nil {
					t.Error(err)
					return
				}
				select {
				case <-watch.Done():
				case <-time.After(500 * time.Microsecond):
				}
			}
		})
	}
	watchers.Go(func() { s.follow(watch, s.log) })
	for w := range 24 {
		writers.Go(func() {
			for i := range 12 {
				n := 1
				if (w+i)%3 == 0 {
					n = 2 + (w*i)%7
				}
				if _, err := s.append(ctx, t, s.leaves(n)...); err != nil {
					t.Errorf("Append of %d leaves: %v", n, err)
					return
				}
			}
		})
	}
	writers.Wait()
	s.verify(t)
}

// twice is the same leaf more than once: a log records what happened, as often as it happened.
func (s *story) twice(t testing.TB) {
	ctx := s.context(t)
	leaf := tlog.Leaf{Entry: []byte("twice"), Payload: []byte("sealed twice")}
	same := func() tlog.Leaf {
		return tlog.Leaf{Entry: slices.Clone(leaf.Entry), Payload: slices.Clone(leaf.Payload)}
	}
	all := s.must(ctx, t, same())
	all = append(all, s.must(ctx, t, same())...)
	all = append(all, s.must(ctx, t, same(), same())...)
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 {
		t.Errorf("one leaf appended four times has the indices %d", all)
	}
	s.verify(t)
}

// refused is what no log takes.
func (s *story) refused(t testing.TB) {
	ctx := s.context(t)
	ok := func() tlog.Leaf { return s.ledger.leaf() }
	long := tlog.Leaf{Entry: make([]byte, tlog.MaxEntry+1)}
	for _, c := range []struct {
		name   string
		leaves []tlog.Leaf
		err    error // nil for any
	}{
		{"long entry", []tlog.Leaf{long}, tlog.ErrTooLarge},
		{"very long entry", []tlog.Leaf{{Entry: make([]byte, 70_000)}}, tlog.ErrTooLarge},
		{"long entry at the end of a group", []tlog.Leaf{ok(), ok(), long}, tlog.ErrTooLarge},
		{"long entry at the head of a group", []tlog.Leaf{long, ok()}, tlog.ErrTooLarge},
		{"long payload", []tlog.Leaf{{Entry: []byte("long payload"), Payload: make([]byte, tlog.MaxPayload+1)}}, tlog.ErrTooLarge},
		{"empty entry", []tlog.Leaf{{Payload: []byte("of an empty entry")}}, nil},
		{"empty entry in a group", []tlog.Leaf{ok(), {}, ok()}, nil},
	} {
		indices, err := s.log.Append(ctx, c.leaves...) // beside the ledger, which knows of no such leaves
		if err == nil || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v; want %v", c.name, indices, err, c.err)
		}
	}
	s.must(ctx, t, ok(), ok())
	s.verify(t)
}

// cancelled is callers who lose patience before and while they wait.
func (s *story) cancelled(t testing.TB) {
	ctx := s.context(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if indices, err := s.append(gone, t, s.leaves(3)...); err == nil {
		t.Errorf("Append with a context that has ended returns %d", indices)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			impatient, cancel := context.WithTimeout(ctx, time.Duration(i)*50*time.Microsecond)
			defer cancel()
			if _, err := s.append(impatient, t, s.leaves(1+i%4)...); err != nil && impatient.Err() == nil {
				t.Errorf("Append: %v", err)
			}
		})
	}
	wg.Wait()
	s.must(ctx, t, s.leaves(2)...)
	s.verify(t)
}

// discard is payloads made unreadable, while their entries stay.
func (s *story) discard(t testing.TB) {
	ctx := s.context(t)
	small := []byte("a payload to discard")
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = byte(i * i >> 7)
	}
	keep := []byte("a payload to keep")
	sums := []tlog.Hash{sha256.Sum256(small), sha256.Sum256(large)}
	s.must(ctx, t, tlog.Leaf{Entry: []byte("discard 1"), Payload: small}, tlog.Leaf{Entry: []byte("discard 2"), Payload: large},
		tlog.Leaf{Entry: []byte("discard 3"), Payload: keep})
	s.verify(t)
	for range 2 {
		for _, sum := range sums {
			if err := s.log.Discard(ctx, sum); err != nil {
				t.Errorf("Discard: %v", err)
			}
			s.ledger.discard(sum)
			if p, err := s.log.Payload(ctx, sum); !errors.Is(err, tlog.ErrNotFound) {
				t.Errorf("a discarded payload is read: %d bytes, %v", len(p), err)
			}
		}
	}
	s.verify(t)
}

// reopen ends Run with leaves that nobody saw published, and opens the log again.
func (s *story) reopen(t testing.TB) {
	ctx := s.context(t)
	s.must(ctx, t, s.leaves(5)...)
	if err := s.stop(t); err != nil {
		t.Errorf("Run ended: %v", err)
	}
	before, err := s.observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if acked := s.ledger.acked(); before.Size < acked && !s.w.Elsewhere {
		t.Errorf("Run ended with a checkpoint of %d entries where %d leaves were acknowledged", before.Size, acked)
	}
	s.close()
	s.open(t)
	s.verify(t)
	s.run()
	s.verify(t)
	s.must(ctx, t, s.leaves(3)...)
	s.verify(t)
}

// crash ends the log in the middle of the crowd, several times.
func (s *story) crash(t testing.TB) {
	for range 5 {
		ctx, cancel := context.WithCancel(s.context(t))
		var acked atomic.Int64
		enough := make(chan struct{})
		var writers, follower sync.WaitGroup
		follow, unfollow := context.WithCancel(ctx)
		follower.Go(func() { s.follow(follow, s.log) })
		for w := range 16 {
			writers.Go(func() {
				for {
					if _, err := s.append(ctx, t, s.leaves(1+w%4)...); err != nil {
						return
					}
					if acked.Add(1) == 100 {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(s.patience):
			t.Error("100 leaves are not appended in time")
		}
		s.w.Crash(s.t, s.log)
		cancel()
		writers.Wait()
		s.stop(t) // whatever it says
		unfollow()
		follower.Wait()
		s.open(t)
		s.verify(t)
		s.run()
		s.must(s.context(t), t, s.leaves(2)...)
		s.verify(t)
	}
}

// large is tiles of level 2.
func (s *story) large(t testing.TB) {
	if testing.Short() {
		t.Log("left out, being slow: a log of", s.w.Large, "entries")
		return
	}
	ctx := s.context(t)
	for {
		have := s.ledger.acked()
		if have >= s.w.Large {
			break
		}
		leaves := make([]tlog.Leaf, min(512, s.w.Large-have))
		for i := range leaves {
			leaves[i] = s.ledger.small()
		}
		s.must(ctx, t, leaves...)
	}
	s.verify(t)
}
