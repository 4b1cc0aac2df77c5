package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// withStore calls f with the store, which stays open meanwhile.
func (l *Log) withStore(f func(*pebble.DB) error) error {
	l.open.RLock()
	defer l.open.RUnlock()
	switch {
	case l.closed:
		return tlog.ErrClosed
	case l.db == nil:
		return l.stopReason() // quarantine without a store that could be opened
	}
	return f(l.db)
}

// Checkpoint returns the newest published checkpoint, from memory; see [tlog.Reader].
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	p := l.published.Load()
	if p == nil {
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(p.signed), nil
}

// Tile returns a tile of the published tree, of any width that it ever had; see [tlog.Reader]. Nothing beyond the
// published checkpoint is shown. Entries are hashed and compared with their tile of hashes before they leave.
func (l *Log) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := l.published.Load()
	if p == nil {
		return nil, tlog.ErrNotFound
	}
	level := max(t.Level, 0)
	if t.Level < tlog.EntriesLevel || level >= tileLevels || t.Width < 1 || t.Width > tlog.TileWidth {
		return nil, tlog.ErrNotFound
	}
	nodes := p.size >> (tlog.TileHeight * level)
	if t.Index > nodes/tlog.TileWidth || t.Index*tlog.TileWidth+uint64(t.Width) > nodes {
		return nil, tlog.ErrNotFound
	}
	if t.Level == tlog.EntriesLevel {
		return l.bundle(p, t)
	}
	return l.hashes(p, t)
}

// hashes returns a tile of hashes: from the cache, from the edge, or from the store.
func (l *Log) hashes(p *published, t tlog.Tile) ([]byte, error) {
	full := tlog.Tile{Level: t.Level, Index: t.Index, Width: tlog.TileWidth}
	if data := l.tiles.get(full); data != nil {
		return bytes.Clone(data[:t.Width*hashLen]), nil
	}
	if p.edge != nil && (p.edge.size>>(tlog.TileHeight*t.Level))/tlog.TileWidth == t.Index {
		return joinHashes(nil, p.edge.tiles[t.Level][:t.Width]), nil
	}
	var data []byte
	err := l.withStore(func(db *pebble.DB) error {
		v, closer, err := db.Get(tileKey(t.Level, t.Index))
		if errors.Is(err, pebble.ErrNotFound) {
			return tlog.ErrNotFound
		}
		if err != nil {
			return err
		}
		defer closer.Close()
		if len(v) != tlog.TileBytes {
			return damagef("%s has %d bytes", full.Path(), len(v))
		}
		data = bytes.Clone(v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.tiles.put(full, data)
	return bytes.Clone(data[:t.Width*hashLen]), nil
}

// bundle returns an entry bundle.
func (l *Log) bundle(p *published, t tlog.Tile) ([]byte, error) {
	if data := l.tiles.get(t); data != nil {
		return bytes.Clone(data), nil
	}
	hs, err := l.hashes(p, tlog.Tile{Level: 0, Index: t.Index, Width: t.Width})
	if err != nil {
		return nil, err
	}
	var data []byte
	err = l.withStore(func(db *pebble.DB) error {
		first := t.Index * tlog.TileWidth
		return eachEntry(db, first, first+uint64(t.Width), func(index uint64, row entryRow) error {
			n := int(index-first) * hashLen
			if h := tlog.HashLeaf(row.entry); !bytes.Equal(h[:], hs[n:n+hashLen]) {
				return damagef("entry %d is not what was appended: its hash is another than in the tree", index)
			}
			data = tlog.AppendBundleEntry(data, row.entry)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Path(), err)
	}
	if t.Width == tlog.TileWidth {
		l.tiles.put(t, data)
		return bytes.Clone(data), nil
	}
	return data, nil
}

// Sizes implements [tlog.History].
func (l *Log) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	p := l.published.Load()
	if p == nil || max <= 0 || after >= p.size {
		return nil, nil
	}
	var sizes []uint64
	err := l.withStore(func(db *pebble.DB) error {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: checkpointKey(after + 1), UpperBound: checkpointKey(p.size + 1)})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok && len(sizes) < max; ok = it.Next() {
			sizes = append(sizes, indexOf(it.Key()))
		}
		return it.Error()
	})
	return sizes, err
}

// CheckpointAt implements [tlog.History]. Of the checkpoints that were published within a second the last is kept, so the
// newest may be gone when the next has come.
func (l *Log) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	p := l.published.Load()
	if p == nil || size > p.size {
		return nil, tlog.ErrNotFound
	}
	if size == p.size {
		return bytes.Clone(p.signed), nil
	}
	var signed []byte
	err := l.withStore(func(db *pebble.DB) (err error) {
		signed, err = get(db, checkpointKey(size))
		return err
	})
	return signed, err
}

// get reads a row, or tlog.ErrNotFound.
func get(store pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := store.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, tlog.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return bytes.Clone(v), nil
}

// Payload returns the sealed bytes of that digest, which were hashed on the way out; see [tlog.Payloads].
func (l *Log) Payload(ctx context.Context, sum tlog.Hash) ([]byte, error) {
	var data []byte
	err := l.withStore(func(db *pebble.DB) error {
		return l.eachPaid(db, sum, l.Size(), func(index uint64) (err error) {
			if data, err = l.keptPayload(db, index, sum); err == nil {
				err = errEnough
			}
			return err
		})
	})
	if err == nil && data == nil {
		err = tlog.ErrNotFound
	}
	return data, err
}

// keptPayload reads the payload of an entry, which is tlog.ErrNotFound once it was discarded.
func (l *Log) keptPayload(store pebble.Reader, index uint64, sum tlog.Hash) ([]byte, error) {
	data, err := readPayload(store, index, sum)
	if err == nil {
		return data, nil
	}
	if gone, gerr := l.isDiscarded(store, sum); gerr == nil && gone {
		err = tlog.ErrNotFound
	}
	return nil, err
}

// readPayload puts the parts of a payload together and compares their digest.
func readPayload(store pebble.Reader, index uint64, sum tlog.Hash) ([]byte, error) {
	it, err := store.NewIter(&pebble.IterOptions{LowerBound: payloadKey(index, 0), UpperBound: payloadKey(index+1, 0)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var data []byte
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("payload of entry %d: %w", index, err)
		}
		data = append(data, v...)
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("payload of entry %d: %w", index, err)
	}
	if len(data) == 0 {
		return nil, damagef("the payload of entry %d is missing and was not discarded", index)
	}
	if sha256.Sum256(data) != sum {
		return nil, damagef("the payload of entry %d has another digest than when it was appended", index)
	}
	return data, nil
}

// isDiscarded says whether the payload with that digest was discarded.
func (l *Log) isDiscarded(store pebble.Reader, sum tlog.Hash) (bool, error) {
	if l.discards.Load() == 0 {
		return false, nil
	}
	_, err := get(store, discardedKey(sum))
	if errors.Is(err, tlog.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Discard deletes the payload and remembers that it did, durably, so that the same bytes are not stored again when they
// are appended again; see [tlog.Payloads]. The bytes leave the disk with the next [Log.Purge]: what must be unreadable
// at once is made so by destroying its key. A digest that no payload has is no error.
func (l *Log) Discard(ctx context.Context, sum tlog.Hash) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.stopReason(); err != nil {
		return err
	}
	if l.cfg.ReadOnly {
		return fmt.Errorf("discard in a log opened for reading only: %w", tlog.ErrClosed)
	}
	return l.withStore(func(db *pebble.DB) error {
		b := db.NewBatch()
		defer b.Close()
		found, err := l.discard(db, b, sum)
		if err != nil || !found {
			return err
		}
		return l.settle(b)
	})
}

// discard applies the batch that deletes a payload, between two batches of the sequencer.
func (l *Log) discard(db *pebble.DB, b *pebble.Batch, sum tlog.Hash) (found bool, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	err = l.eachPaid(db, sum, noEntry, func(index uint64) error {
		found = true
		n := b.Count()
		if err := deleteRows(db, b, payloadKey(index, 0), payloadKey(index+1, 0)); err != nil || b.Count() == n {
			return err
		}
		return b.Set(purgeKey(index), nil, nil)
	})
	if err != nil || !found {
		return false, err
	}
	if err := b.Set(discardedKey(sum), nil, nil); err != nil {
		return false, err
	}
	if err := l.apply(db, b); err != nil {
		return false, err
	}
	l.discards.Add(1)
	return true, nil
}

// deleteRows deletes the rows that exist from lower to before upper.
func deleteRows(store pebble.Reader, b *pebble.Batch, lower, upper []byte) error {
	it, err := store.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := b.Delete(it.Key(), nil); err != nil {
			return err
		}
	}
	return it.Error()
}

// bar finds out which payloads of an item were discarded before, in the caller's goroutine.
func (l *Log) bar(it *item) error {
	it.barred = l.discards.Load()
	if it.barred == 0 {
		return nil
	}
	return l.withStore(func(db *pebble.DB) error { return l.barIn(db, it) })
}

// barAgain is bar for the sequencer, which holds l.writing, when something was discarded meanwhile.
func (l *Log) barAgain(it *item) error {
	it.barred = l.discards.Load()
	return l.barIn(l.db, it)
}

func (l *Log) barIn(db *pebble.DB, it *item) error {
	it.drop = nil
	for i, leaf := range it.leaves {
		if len(leaf.Payload) == 0 {
			continue
		}
		gone, err := l.isDiscarded(db, it.sums[i])
		if err != nil {
			return err
		}
		if gone {
			if it.drop == nil {
				it.drop = make([]bool, len(it.leaves))
			}
			it.drop[i] = true
		}
	}
	return nil
}

// A tileCache keeps full tiles that were read lately. A slot holds the last tile whose name falls on it.
type tileCache struct {
	hashes  [512]atomic.Pointer[cachedTile]
	bundles [64]atomic.Pointer[cachedTile]
}

type cachedTile struct {
	tile tlog.Tile
	data []byte
}

func (c *tileCache) slot(t tlog.Tile) *atomic.Pointer[cachedTile] {
	if t.Level == tlog.EntriesLevel {
		return &c.bundles[t.Index%uint64(len(c.bundles))]
	}
	return &c.hashes[(t.Index+uint64(t.Level)*131)%uint64(len(c.hashes))]
}

func (c *tileCache) get(t tlog.Tile) []byte {
	if e := c.slot(t).Load(); e != nil && e.tile == t {
		return e.data
	}
	return nil
}

func (c *tileCache) put(t tlog.Tile, data []byte) {
	c.slot(t).Store(&cachedTile{t, data})
}
