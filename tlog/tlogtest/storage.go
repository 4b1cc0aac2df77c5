package tlogtest

import (
	"bytes"
	"errors"
	"slices"
	"sort"
	"sync"

	"github.com/tallystick/tallystick/tlog"
)

// Storage is what is left of a memory log when the process is gone. The zero value is empty.
type Storage struct {
	mu          sync.Mutex
	open        bool
	entries     [][]byte
	grown       chan struct{} // closed when entries has grown; nil while nobody waits for it
	levels      [][]tlog.Hash // levels[l][i] is the root of the 256^l leaves from i·256^l
	edge        []tlog.Hash   // roots of the perfect trees that make up the whole, the largest first
	payloads    map[tlog.Hash][]byte
	discarded   map[tlog.Hash]bool
	sizes       []uint64          // of the published checkpoints, ascending
	checkpoints map[uint64][]byte // by size
}

func (s *Storage) lock() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		return errors.New("tlogtest: the storage is open; close the other log first")
	}
	s.open = true
	if s.payloads == nil {
		s.payloads = make(map[tlog.Hash][]byte)
		s.discarded = make(map[tlog.Hash]bool)
		s.checkpoints = make(map[uint64][]byte)
	}
	return nil
}

func (s *Storage) unlock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = false
}

func (s *Storage) size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.entries))
}

// append copies the leaves.
func (s *Storage) append(leaves []tlog.Leaf) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
	indices := make([]uint64, len(leaves))
	for i, leaf := range leaves {
		indices[i] = uint64(len(s.entries))
		s.entries = append(s.entries, bytes.Clone(leaf.Entry))
		h := tlog.HashLeaf(leaf.Entry)
		s.grow(0, h)
		s.edge = append(s.edge, h)
		for n := len(s.entries); n%2 == 0; n /= 2 {
			last := len(s.edge) - 1
			s.edge[last-1] = tlog.HashChildren(s.edge[last-1], s.edge[last])
			s.edge = s.edge[:last]
		}
		if leaf.Payload != nil {
			if sum := payloadSum(leaf.Payload); !s.discarded[sum] {
				s.payloads[sum] = bytes.Clone(leaf.Payload)
			}
		}
	}
	return indices
}

// grow adds a hash to a level and, where that fills a tile, the tile's root to the level above.
func (s *Storage) grow(level int, h tlog.Hash) {
	if level == len(s.levels) {
		s.levels = append(s.levels, nil)
	}
	s.levels[level] = append(s.levels[level], h)
	if n := len(s.levels[level]); n%tlog.TileWidth == 0 {
		hs := slices.Clone(s.levels[level][n-tlog.TileWidth:])
		for ; len(hs) > 1; hs = hs[:len(hs)/2] {
			for i := range len(hs) / 2 {
				hs[i] = tlog.HashChildren(hs[2*i], hs[2*i+1])
			}
		}
		s.grow(level+1, hs[0])
	}
}

// tail returns what is durable from an index on, as much as one call may, or what is closed when there is more.
func (s *Storage) tail(from uint64) (entries [][]byte, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from >= uint64(len(s.entries)) {
		if s.grown == nil {
			s.grown = make(chan struct{})
		}
		return nil, s.grown
	}
	sum := 0
	for _, e := range s.entries[from:] {
		if sum += len(e); sum > tlog.MaxTailBytes || len(entries) == tlog.MaxTail {
			break
		}
		entries = append(entries, bytes.Clone(e))
	}
	return entries, nil
}

// head returns the size and root of all that is durable.
func (s *Storage) head() (uint64, tlog.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.edge) == 0 {
		return 0, tlog.EmptyRoot()
	}
	root := s.edge[len(s.edge)-1]
	for i := len(s.edge) - 2; i >= 0; i-- {
		root = tlog.HashChildren(s.edge[i], root)
	}
	return uint64(len(s.entries)), root
}

func (s *Storage) publish(size uint64, signed []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, size)
	s.checkpoints[size] = signed
}

func (s *Storage) newest() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sizes) == 0 {
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(s.checkpoints[s.sizes[len(s.sizes)-1]]), nil
}

func (s *Storage) checkpointAt(size uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	signed, ok := s.checkpoints[size]
	if !ok {
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(signed), nil
}

func (s *Storage) sizesAfter(after uint64, max int) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := sort.Search(len(s.sizes), func(i int) bool { return s.sizes[i] > after })
	return slices.Clone(s.sizes[from:min(len(s.sizes), from+max)])
}

// publishedTile returns a tile that a published checkpoint implies.
func (s *Storage) publishedTile(t tlog.Tile, prune bool) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	level := max(t.Level, 0)
	if len(s.sizes) == 0 || level > 7 || t.Width < 1 || t.Width > tlog.TileWidth {
		return nil, tlog.ErrNotFound
	}
	nodes := s.sizes[len(s.sizes)-1] >> (tlog.TileHeight * level) // of this level, published
	if t.Index > nodes/tlog.TileWidth {
		return nil, tlog.ErrNotFound
	}
	end := t.Index*tlog.TileWidth + uint64(t.Width)
	if end > nodes {
		return nil, tlog.ErrNotFound
	}
	if t.Width < tlog.TileWidth {
		implied := sort.Search(len(s.sizes), func(i int) bool { return s.sizes[i]>>(tlog.TileHeight*level) >= end })
		if s.sizes[implied]>>(tlog.TileHeight*level) != end {
			return nil, tlog.ErrNotFound
		}
		if prune && (t.Index+1)*tlog.TileWidth <= nodes {
			return nil, tlog.ErrNotFound
		}
	}
	return s.tile(t)
}

// tile returns any tile of what is durable; s.mu is held.
func (s *Storage) tile(t tlog.Tile) ([]byte, error) {
	from, to := t.Index*tlog.TileWidth, t.Index*tlog.TileWidth+uint64(t.Width)
	var data []byte
	if t.Level == tlog.EntriesLevel {
		if to > uint64(len(s.entries)) {
			return nil, tlog.ErrNotFound
		}
		for _, e := range s.entries[from:to] {
			data = tlog.AppendBundleEntry(data, e)
		}
		return data, nil
	}
	if t.Level < 0 || t.Level >= len(s.levels) || to > uint64(len(s.levels[t.Level])) {
		return nil, tlog.ErrNotFound
	}
	for _, h := range s.levels[t.Level][from:to] {
		data = append(data, h[:]...)
	}
	return data, nil
}

func (s *Storage) payload(sum tlog.Hash) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sealed, ok := s.payloads[sum]
	if !ok {
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(sealed), nil
}

func (s *Storage) discard(sum tlog.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.payloads, sum)
	s.discarded[sum] = true
}
