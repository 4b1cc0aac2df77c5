package local

import (
	"slices"

	"github.com/tallystick/tallystick/tlog"
)

// tileLevels is how many levels of tiles a tree of fewer than 2^63 leaves has.
const tileLevels = 8

// An edge is the right edge of a tree: all that an append needs to know of it.
//
// It holds the same nodes twice, each form for its use: stack has the roots of the perfect subtrees that make the
// tree, the largest first, as many as size has bits set; tiles has the hashes of the one tile of each level that is
// not yet full. An append costs one hash on average, a root as many as the stack is high.
type edge struct {
	size  uint64
	stack []tlog.Hash
	tiles [tileLevels][]tlog.Hash
}

// add appends a leaf and calls full for each tile it completes, lowest level first. The slice is valid during the call.
func (e *edge) add(leaf tlog.Hash, full func(level int, index uint64, hs []tlog.Hash) error) error {
	h := leaf
	e.tiles[0] = append(e.tiles[0], h)
	height := 0
	for n := e.size; n&1 == 1; n >>= 1 {
		last := len(e.stack) - 1
		h = tlog.HashChildren(e.stack[last], h)
		e.stack = e.stack[:last]
		height++
		if height%tlog.TileHeight != 0 {
			continue
		}
		level := height/tlog.TileHeight - 1
		if err := full(level, n>>1, e.tiles[level]); err != nil {
			return err
		}
		e.tiles[level] = e.tiles[level][:0]
		e.tiles[level+1] = append(e.tiles[level+1], h)
	}
	e.stack = append(e.stack, h)
	e.size++
	return nil
}

// root returns the root of the tree.
func (e *edge) root() tlog.Hash {
	if e.size == 0 {
		return tlog.EmptyRoot()
	}
	i := len(e.stack) - 1
	h := e.stack[i]
	for i--; i >= 0; i-- {
		h = tlog.HashChildren(e.stack[i], h)
	}
	return h
}

func (e *edge) state() state { return state{e.size, e.root()} }

// clone copies what is used of e.
func (e *edge) clone() *edge {
	c := &edge{size: e.size, stack: slices.Clone(e.stack)}
	for i := range e.tiles {
		c.tiles[i] = slices.Clone(e.tiles[i])
	}
	return c
}

// restack computes stack from size and tiles.
func (e *edge) restack() {
	e.stack = e.stack[:0]
	for level := tileLevels - 1; level >= 0; level-- {
		hs := e.tiles[level]
		for bit := tlog.TileWidth / 2; bit > 0; bit /= 2 {
			if len(hs)&bit == 0 {
				continue
			}
			from := len(hs) &^ (2*bit - 1)
			e.stack = append(e.stack, fold(hs[from:from+bit]))
		}
	}
}

// fold returns the root of a perfect tree over a power of two of hashes, at most a tile of them.
func fold(hs []tlog.Hash) tlog.Hash {
	var buf [tlog.TileWidth]tlog.Hash
	n := copy(buf[:], hs)
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			buf[i] = tlog.HashChildren(buf[2*i], buf[2*i+1])
		}
	}
	return buf[0]
}
