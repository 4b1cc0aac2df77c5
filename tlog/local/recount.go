package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
	"github.com/transparency-dev/merkle/compact"
)

// A recount reads entries back from the store and hashes them again, believing neither the sequencer's memory nor its
// code. It is the only way to a root that is anchored or signed, and the same at start, before every signature, in the
// daily scrub and in Check.
//
// Three computations must agree: a compact range of transparency-dev/merkle over the hashed entries; our own edge
// over the same hashes, whose every full tile must be the row that stands in the store; and the root of those rows.
type recount struct {
	store  pebble.Reader
	edge   edge
	rng    *compact.Range
	arena  arena
	budget *budget // nil for as fast as possible
	// seen is called for each entry, if set. The row aliases the store's memory.
	seen func(index uint64, row entryRow) error
}

// An arena makes the small slices that a compact range wants, many from one piece of memory.
type arena struct{ free []tlog.Hash }

func (a *arena) put(h tlog.Hash) []byte {
	if len(a.free) == 0 {
		a.free = make([]tlog.Hash, tlog.TileWidth)
	}
	p := &a.free[0]
	a.free, *p = a.free[1:], h
	return p[:]
}

// recountFrom starts behind the first size entries, whose hashes it takes from the tiles of the store. What they are
// worth shows in the root that comes out at the end. size must be a multiple of tlog.TileWidth.
func recountFrom(store pebble.Reader, size uint64) (*recount, error) {
	r := &recount{store: store}
	if err := r.edge.load(store, size); err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(r.edge.stack))
	for i := range hashes {
		h := r.edge.stack[i]
		hashes[i] = h[:]
	}
	var err error
	factory := compact.RangeFactory{Hash: func(left, right []byte) []byte {
		return r.arena.put(tlog.HashChildren(tlog.Hash(left), tlog.Hash(right)))
	}}
	r.rng, err = factory.NewRange(0, size, hashes)
	return r, err
}

// load fills an empty edge from the full tiles of the store, for a size that is a multiple of tlog.TileWidth.
func (e *edge) load(store pebble.Reader, size uint64) error {
	e.size = size
	for level := 1; level < tileLevels; level++ {
		nodes := size >> (tlog.TileHeight * level)
		for i := nodes - nodes%tlog.TileWidth; i < nodes; i++ {
			hs, err := storedTile(store, level-1, i)
			if err != nil {
				return err
			}
			e.tiles[level] = append(e.tiles[level], fold(hs))
		}
	}
	e.restack()
	return nil
}

// storedTile reads a full tile.
func storedTile(store pebble.Reader, level int, index uint64) ([]tlog.Hash, error) {
	v, closer, err := store.Get(tileKey(level, index))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, damagef("tile %d of level %d is missing", index, level)
	}
	if err != nil {
		return nil, fmt.Errorf("tile %d of level %d: %w", index, level, err)
	}
	defer closer.Close()
	hs, err := tlog.ParseHashes(v, tlog.TileWidth)
	if err != nil {
		return nil, damagef("tile %d of level %d: %v", index, level, err)
	}
	return hs, nil
}

// extend counts up to size and returns the state found, on which all three computations agree. After an error the
// recount is of no further use.
func (r *recount) extend(ctx context.Context, size uint64) (state, error) {
	if err := r.entries(ctx, size); err != nil {
		return state{}, err
	}
	own := r.edge.state()
	b, err := r.rng.GetRootHash(nil)
	if err != nil {
		return state{}, err
	}
	byRange := tlog.EmptyRoot()
	if len(b) > 0 {
		byRange = tlog.Hash(b)
	}
	byTiles, err := tlog.Tiles{Reader: storeTiles{r.store, &r.edge}, Size: size}.Root(ctx, size)
	if err != nil {
		return state{}, err
	}
	if own.root != byRange || own.root != byTiles {
		return state{}, damagef("the root of %d entries is %s by the compact range, %s by the tiles and %s by the edge", size, byRange, byTiles, own.root)
	}
	return own, nil
}

// entries hashes the entries up to size.
func (r *recount) entries(ctx context.Context, size uint64) error {
	if size <= r.edge.size {
		if size < r.edge.size {
			return damagef("the log has %d entries where %d were counted before", size, r.edge.size)
		}
		return nil
	}
	return eachEntry(r.store, r.edge.size, size, func(index uint64, row entryRow) error {
		h := tlog.HashLeaf(row.entry)
		if err := r.rng.Append(r.arena.put(h), nil); err != nil {
			return err
		}
		if err := r.edge.add(h, r.compare); err != nil {
			return err
		}
		if r.seen != nil {
			if err := r.seen(index, row); err != nil {
				return err
			}
		}
		return r.budget.spend(ctx, len(row.entry))
	})
}

// compare holds a completed tile against the row in the store.
func (r *recount) compare(level int, index uint64, hs []tlog.Hash) error {
	v, closer, err := r.store.Get(tileKey(level, index))
	if errors.Is(err, pebble.ErrNotFound) {
		return damagef("tile %d of level %d is missing", index, level)
	}
	if err != nil {
		return fmt.Errorf("tile %d of level %d: %w", index, level, err)
	}
	defer closer.Close()
	if !sameTile(v, hs) {
		return damagef("tile %d of level %d is not what its entries hash to", index, level)
	}
	return nil
}

// storeTiles is a tlog.Reader of the hash tiles of a store and an edge.
type storeTiles struct {
	store pebble.Reader
	edge  *edge
}

func (s storeTiles) Checkpoint(context.Context) ([]byte, error) { return nil, tlog.ErrNotFound }

func (s storeTiles) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if t.Level < 0 || t.Level >= tileLevels || t.Width < 1 || t.Width > tlog.TileWidth {
		return nil, tlog.ErrNotFound
	}
	if nodes := s.edge.size >> (tlog.TileHeight * t.Level); nodes/tlog.TileWidth == t.Index {
		hs := s.edge.tiles[t.Level]
		if t.Width > len(hs) {
			return nil, tlog.ErrNotFound
		}
		return joinHashes(nil, hs[:t.Width]), nil
	}
	hs, err := storedTile(s.store, t.Level, t.Index)
	if err != nil {
		return nil, err
	}
	return joinHashes(nil, hs[:t.Width]), nil
}

// A budget paces reading: so many bytes a second, in slices of a few milliseconds.
type budget struct {
	rate  int // bytes a second
	spent int
	since time.Time
}

// spend waits when more was read than the rate allows, and looks at ctx from time to time. A nil budget only looks.
func (b *budget) spend(ctx context.Context, n int) error {
	if b == nil {
		return ctx.Err()
	}
	b.spent += n + 64
	if b.spent < b.rate/100 {
		return nil
	}
	if b.since.IsZero() {
		b.since = time.Now()
	}
	wait := time.Duration(float64(b.spent)/float64(b.rate)*float64(time.Second)) - time.Since(b.since)
	b.spent, b.since = 0, time.Now().Add(max(wait, 0))
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
