package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A tree is a log's tree as its entries make it, built again from the left.
type tree struct {
	levels   [][]tlog.Hash // above 0: what is in the last, not yet full tile of each level
	edge     []tlog.Hash   // roots of the perfect trees over all full tiles of leaves, the largest first
	full     uint64        // full tiles of leaves
	leaves   []tlog.Hash   // of the last tile, if it is not full
	compared int           // tiles that were compared with what the log serves
}

type levelTile struct {
	tile   tlog.Tile
	hashes []tlog.Hash
}

// add adds a full tile of leaves and returns the tiles above that this fills.
func (t *tree) add(leaves []tlog.Hash) []levelTile {
	h := record.RootOf(leaves)
	t.edge = append(t.edge, h)
	t.full++
	for n := t.full; n%2 == 0; n /= 2 {
		last := len(t.edge) - 1
		t.edge[last-1] = tlog.HashChildren(t.edge[last-1], t.edge[last])
		t.edge = t.edge[:last]
	}
	var filled []levelTile
	n := t.full // nodes of the level
	for level := 1; ; level++ {
		for level >= len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		t.levels[level] = append(t.levels[level], h)
		if len(t.levels[level]) < tlog.TileWidth {
			return filled
		}
		hs := t.levels[level]
		t.levels[level] = nil
		filled = append(filled, levelTile{tlog.Tile{Level: level, Index: n/tlog.TileWidth - 1, Width: tlog.TileWidth}, hs})
		h = record.RootOf(hs)
		n /= tlog.TileWidth
	}
}

// root returns the root over all full tiles and these leaves after them.
func (t *tree) root(leaves []tlog.Hash) tlog.Hash {
	edge := t.edge
	var root tlog.Hash
	switch {
	case len(leaves) > 0:
		root = record.RootOf(leaves)
	case len(edge) > 0:
		root, edge = edge[len(edge)-1], edge[:len(edge)-1]
	default:
		return tlog.EmptyRoot()
	}
	for i := len(edge) - 1; i >= 0; i-- {
		root = tlog.HashChildren(edge[i], root)
	}
	return root
}

// A past is the checkpoints that a log kept, in order.
type past struct {
	history tlog.History // nil if there is none
	judge   judge
	upTo    uint64 // the size that is being checked
	sizes   []uint64
	after   uint64 // all sizes up to here were taken
	over    bool
	count   int
}

// pageSizes is how many sizes are asked for at a time.
const pageSizes = 1000

// at returns the kept checkpoint of exactly that size, or nil. It is called with every size once, ascending.
func (p *past) at(ctx context.Context, size uint64) ([]byte, error) {
	if p.history == nil {
		return nil, nil
	}
	if len(p.sizes) == 0 && !p.over {
		if err := p.page(ctx); err != nil {
			return nil, err
		}
	}
	if len(p.sizes) == 0 || p.sizes[0] != size {
		return nil, nil
	}
	p.sizes = p.sizes[1:]
	signed, err := p.history.CheckpointAt(ctx, size)
	if size == p.upTo && errors.Is(err, tlog.ErrNotFound) {
		return nil, nil // it was the newest, is checked as such, and a newer one has taken its place in the log
	}
	if err != nil {
		return nil, fmt.Errorf("kept checkpoint of size %d: %w", size, err)
	}
	p.count++
	return signed, nil
}

func (p *past) page(ctx context.Context) error {
	sizes, err := p.history.Sizes(ctx, p.after, pageSizes)
	if errors.Is(err, tlog.ErrNotFound) && p.count == 0 {
		p.history = nil // a log that says so has none
		return nil
	}
	if err != nil {
		return fmt.Errorf("sizes of kept checkpoints: %w", err)
	}
	p.over = len(sizes) == 0
	for i, s := range sizes {
		if s <= p.after {
			return fmt.Errorf("sizes of kept checkpoints: %d after %d; they must rise", s, p.after)
		}
		if p.after = s; s > p.upTo {
			sizes, p.over = sizes[:i], true
			break
		}
	}
	p.sizes = sizes
	return nil
}

// A clock holds the times that entries state against those of cosignatures. Between two cosigned checkpoints there is
// room for what was written then, and ClockSkew on either side.
type clock struct {
	checkpoints int       // that were cosigned
	floor       time.Time // a quorum knew of no more than an earlier checkpoint then
	newest      time.Time // by then a quorum had seen the newest that was cosigned
	latest      at        // the latest time of all entries, until one was found false
}

// An at is a time and the entry that states it.
type at struct {
	Index uint64    `json:"index"`
	Time  time.Time `json:"time"`
}

func (c *clock) entry(w wrongs, st *statement) {
	t := st.record.Time
	if !c.floor.IsZero() && t.Before(c.floor.Add(-ClockSkew)) {
		w.add(TimesBracketed, subjectEntry(st.index), "it states %s, and witnesses had seen the log without it at %s: it was back-dated, or its writer's clock is wrong, or the log left it waiting", stamp(t), stamp(c.floor))
	}
	if t.After(c.latest.Time) {
		c.latest = at{st.index, t}
	}
}

// seen is told of a signed checkpoint over all entries until now.
func (c *clock) seen(w wrongs, cp witnessed) {
	if len(cp.cosigs) == 0 {
		return
	}
	c.checkpoints++
	if c.latest.Time.After(cp.by.Add(ClockSkew)) {
		w.add(TimesBracketed, subjectEntry(c.latest.Index), "it states %s, and witnesses had seen it by %s", stamp(c.latest.Time), stamp(cp.by))
		c.latest = at{} // it is told once
	}
	if cp.from.After(c.floor) {
		c.floor = cp.from
	}
	if cp.by.After(c.newest) {
		c.newest = cp.by
	}
}
