package tlogtest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

// verify reads the whole world back. While the log runs, all that was acknowledged must become part of it first.
// Nobody appends meanwhile.
func (s *story) verify(t testing.TB) {
	t.Helper()
	if t.Failed() {
		t.FailNow()
	}
	ctx := s.context(t)
	var c tlog.Checkpoint
	if s.cancel != nil {
		c = s.await(ctx, t, s.ledger.acked())
	} else {
		var err error
		if c, err = s.observe(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.verifyEntries(ctx, t, c.Size)
	s.verifyTail(ctx, t, c.Size)
	s.verifyHistory(ctx, t, c)
	s.verifyRoots(ctx, t, c)
	s.verifyTiles(ctx, t, c.Size)
	s.verifyProofs(ctx, t, c)
	s.verifyPayloads(ctx, t, c.Size)
	if t.Failed() {
		t.FailNow()
	}
}

// verifyEntries compares every entry with the ledger, and makes the story's own tree of them.
func (s *story) verifyEntries(ctx context.Context, t testing.TB, size uint64) {
	for index := uint64(0); index < size; index += tlog.TileWidth {
		tile := tlog.TileAt(tlog.EntriesLevel, index, size)
		data, err := tlog.ReadTile(ctx, s.log, tile)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := tlog.ParseBundle(data, tile.Width)
		if err != nil {
			t.Fatalf("%s: %v", tile.Path(), err)
		}
		for i, entry := range entries {
			at := index + uint64(i)
			if err := s.ledger.match(at, entry); err != nil {
				t.Fatal(err)
			}
			if at == uint64(len(s.tree.leaves)) {
				s.tree.add(entry)
			}
		}
	}
}

// verifyTail compares the tail with what is published of it, and with all that it showed before.
func (s *story) verifyTail(ctx context.Context, t testing.TB, size uint64) {
	var all []tlog.Hash
	for {
		entries, err := s.log.Tail(ctx, uint64(len(all)), 0)
		if err != nil {
			t.Fatalf("the tail from %d on: %v", len(all), err)
		}
		if len(entries) == 0 {
			break
		}
		sum := 0
		for _, e := range entries {
			all = append(all, leafHash(e))
			sum += len(e)
		}
		if began := s.ledger.begun(); uint64(len(all)) > began {
			t.Fatalf("the tail shows %d entries where only %d leaves were ever appended", len(all), began)
		}
		if len(entries) > tlog.MaxTail || sum > tlog.MaxTailBytes {
			t.Errorf("one call of Tail returns %d entries of %d bytes", len(entries), sum)
		}
	}
	if uint64(len(all)) < size {
		t.Fatalf("the tail ends before entry %d, and %d are published", len(all), size)
	}
	for i, h := range s.tree.leaves[:size] {
		if all[i] != h {
			t.Fatalf("the tail shows another entry %d than is published", i)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range s.tailed {
		if i >= len(all) || all[i] != h {
			t.Fatalf("entry %d was shown in the tail, and is not what stands there now, of %d", i, len(all))
		}
	}
	s.tailed = all
	if entries, err := s.log.Tail(ctx, uint64(len(all))+1000, 0); err != nil || len(entries) > 0 {
		t.Errorf("the tail from behind the end on: %d entries, %v", len(entries), err)
	}
}

// verifyRoots compares every root that was published or signed with the entries. What was signed and not published
// waits for its entries to be.
func (s *story) verifyRoots(ctx context.Context, t testing.TB, newest tlog.Checkpoint) {
	s.mu.Lock()
	checkpoints := slices.Concat(slices.Collect(maps.Values(s.seen)), slices.Collect(maps.Keys(s.signed)))
	s.mu.Unlock()
	for _, c := range checkpoints {
		if c.Size > newest.Size {
			continue
		}
		if root := s.tree.root(c.Size); root != c.Root || c.Origin != s.set.Origin {
			t.Errorf("a checkpoint of %q of size %d has the root %s; the entries have %s", c.Origin, c.Size, c.Root, root)
		}
	}
	if s.w.Unanchored {
		return
	}
	anchored, err := s.set.Latest.Load(ctx, s.set.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := parseAnchor(anchored); err != nil || a.Size < newest.Size {
		t.Errorf("a checkpoint of size %d is published while the anchor remembers size %d, %v", newest.Size, a.Size, err)
	}
}

// verifyTiles compares every tile of the newest tree, and the edges of all earlier ones that were seen.
func (s *story) verifyTiles(ctx context.Context, t testing.TB, size uint64) {
	equal := func(tile tlog.Tile) {
		data, err := tlog.ReadTile(ctx, s.log, tile)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(data, s.tree.tile(tile.Level, tile.Index, tile.Width)) {
			t.Errorf("%s of a tree of size %d has other hashes than the entries", tile.Path(), size)
		}
	}
	for level := 0; size>>(tlog.TileHeight*level) > 0; level++ {
		nodes := size >> (tlog.TileHeight * level)
		for n := uint64(0); n < nodes; n += tlog.TileWidth {
			equal(tlog.TileAt(level, n, size))
		}
	}
	s.mu.Lock()
	earlier := slices.Sorted(maps.Keys(s.seen))
	s.mu.Unlock()
	for _, old := range earlier {
		if old == 0 || old > size {
			continue
		}
		for level := 0; old>>(tlog.TileHeight*level) > 0; level++ {
			equal(tlog.TileAt(level, old>>(tlog.TileHeight*level)-1, old))
		}
		tile := tlog.TileAt(tlog.EntriesLevel, old-1, old)
		if data, err := tlog.ReadTile(ctx, s.log, tile); err != nil {
			t.Errorf("of the tree of size %d: %v", old, err)
		} else if _, err := tlog.ParseBundle(data, tile.Width); err != nil {
			t.Errorf("%s: %v", tile.Path(), err)
		}
	}
	far := s.ledger.begun()/tlog.TileWidth + 1 // no leaf was ever appended there
	for _, tile := range []tlog.Tile{
		{Level: 0, Index: far, Width: 256},
		{Level: 0, Index: far, Width: 1},
		{Level: 0, Index: math.MaxUint64, Width: 256},
		{Level: 0, Index: math.MaxUint64 / 256, Width: 255},
		{Level: 1, Index: far, Width: 256},
		{Level: 7, Width: 1},
		{Level: 8, Width: 1},
		{Level: 63, Width: 1},
		{Level: tlog.EntriesLevel, Index: far, Width: 256},
		{Level: tlog.EntriesLevel, Index: far, Width: 1},
		{Level: tlog.EntriesLevel, Index: math.MaxUint64, Width: 256},
	} {
		if data, err := s.log.Tile(ctx, tile); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("%+v, which does not exist: %d bytes, %v", tile, len(data), err)
		}
	}
	for _, tile := range []tlog.Tile{{Width: 0}, {Width: -1}, {Width: 257}, {Level: -2, Width: 1}, {Level: 64, Width: 1}} {
		if data, err := s.log.Tile(ctx, tile); err == nil {
			t.Errorf("%+v, which cannot exist: %d bytes", tile, len(data))
		}
	}
}

// spread returns at most about n of the numbers below size: the edges and some between.
func spread(size, n uint64) []uint64 {
	step := max(1, size/n)
	var picked []uint64
	for i := uint64(0); i < size; i += step {
		picked = append(picked, i)
	}
	for _, i := range []uint64{0, 1, 254, 255, 256, 257, 65535, 65536, size - 2, size - 1} {
		if i < size {
			picked = append(picked, i)
		}
	}
	slices.Sort(picked)
	return slices.Compact(picked)
}

// verifyProofs has the log's tiles prove entries and earlier checkpoints.
func (s *story) verifyProofs(ctx context.Context, t testing.TB, newest tlog.Checkpoint) {
	tiles := tlog.Tiles{Reader: s.log, Size: newest.Size}
	for _, i := range spread(newest.Size, 60) {
		p, err := tiles.Inclusion(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyInclusion(s.tree.leaves[i], i, newest.Size, newest.Root, p); err != nil {
			t.Error(err)
		}
	}
	s.mu.Lock()
	earlier := slices.SortedFunc(maps.Values(s.seen), func(a, b tlog.Checkpoint) int { return int(a.Size) - int(b.Size) })
	s.mu.Unlock()
	for _, i := range spread(uint64(len(earlier)), 30) {
		old := earlier[i]
		if old.Size > newest.Size {
			continue
		}
		p, err := tiles.Consistency(ctx, old.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyConsistency(old.Size, newest.Size, old.Root, newest.Root, p); err != nil {
			t.Error(err)
		}
		if root, err := tiles.Root(ctx, old.Size); err != nil || root != old.Root {
			t.Errorf("the root of the first %d entries, from tiles: %s, %v; published was %s", old.Size, root, err, old.Root)
		}
	}
}

func (s *story) verifyPayloads(ctx context.Context, t testing.TB, size uint64) {
	kept, gone := s.ledger.payloads(size)
	for sum, want := range kept {
		if p, err := s.log.Payload(ctx, sum); err != nil || !bytes.Equal(p, want) {
			t.Errorf("the payload %s: %d bytes, %v; want %d bytes", sum, len(p), err, len(want))
		}
	}
	for _, sum := range append(gone, tlog.Hash{}, tlog.HashLeaf(nil)) {
		if p, err := s.log.Payload(ctx, sum); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("the payload %s, discarded or never there: %d bytes, %v", sum, len(p), err)
		}
	}
}

// verifyHistory reads all kept checkpoints, if the engine keeps any, and adds them to those that were seen.
func (s *story) verifyHistory(ctx context.Context, t testing.TB, newest tlog.Checkpoint) {
	h, ok := s.log.(tlog.History)
	if !ok {
		return
	}
	pages := func(page int) []uint64 {
		var all []uint64
		var after uint64
		for {
			sizes, err := h.Sizes(ctx, after, page)
			if err != nil {
				t.Fatalf("Sizes after %d: %v", after, err)
			}
			if len(sizes) > page {
				t.Fatalf("Sizes returns %d sizes where at most %d were asked for", len(sizes), page)
			}
			for _, size := range sizes {
				if size <= after {
					t.Fatalf("Sizes after %d returns %d", after, sizes)
				}
				after = size
			}
			all = append(all, sizes...)
			if len(sizes) == 0 || after >= newest.Size {
				return all
			}
		}
	}
	sizes := pages(1000)
	if few := pages(7); !slices.Equal(few, sizes) && s.cancel == nil {
		t.Errorf("Sizes returns %d sizes in pages of 7 and %d in pages of 1000", len(few), len(sizes))
	}
	if newest.Size > 0 && !slices.Contains(sizes, newest.Size) {
		t.Errorf("the newest checkpoint, of size %d, is not kept", newest.Size)
	}
	for _, size := range sizes {
		signed, err := h.CheckpointAt(ctx, size)
		if err != nil {
			t.Fatalf("the kept checkpoint of size %d: %v", size, err)
		}
		c, err := s.opened(signed)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size != size {
			t.Errorf("the kept checkpoint of size %d is of size %d", size, c.Size)
		}
		if err := s.see(c); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.CheckpointAt(ctx, s.ledger.begun()+1); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("a checkpoint that cannot exist: %v", err)
	}
}
