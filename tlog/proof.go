package tlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A Proof is the list of hashes, from the leaf towards the root, of RFC 6962 §2.1.1 and §2.1.2.
type Proof []Hash

func (p Proof) slices() [][]byte {
	s := make([][]byte, len(p))
	for i := range p {
		s[i] = p[i][:]
	}
	return s
}

// VerifyInclusion says whether the leaf hash is at index in the tree of that size and root.
func VerifyInclusion(leaf Hash, index, size uint64, root Hash, p Proof) error {
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], p.slices(), root[:]); err != nil {
		return fmt.Errorf("tlog: entry %d is not proven to be in the tree of size %d: %w", index, size, err)
	}
	return nil
}

// VerifyConsistency says whether the tree of size2 continues the tree of size1. The rules at the edges are those of
// c2sp.org/tlog-witness: from size 0 the proof is empty, as it is between equal sizes, whose roots must be equal.
func VerifyConsistency(size1, size2 uint64, root1, root2 Hash, p Proof) error {
	switch {
	case size1 > size2:
		return fmt.Errorf("tlog: a tree of size %d cannot continue one of size %d", size2, size1)
	case size1 == 0 && root1 != EmptyRoot():
		return errors.New("tlog: a tree of size 0 has another root than the empty tree")
	case size1 == 0 || size1 == size2:
		if len(p) != 0 {
			return fmt.Errorf("tlog: a consistency proof from size %d to size %d must be empty", size1, size2)
		}
		if size1 == size2 && root1 != root2 {
			return fmt.Errorf("tlog: two trees of size %d have different roots", size1)
		}
		return nil
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, size1, size2, p.slices(), root1[:], root2[:]); err != nil {
		return fmt.Errorf("tlog: the tree of size %d is not proven to continue that of size %d: %w", size2, size1, err)
	}
	return nil
}

// Tiles computes roots and proofs of one tree from its tiles. A proof reads at most two tiles a level. What it
// returns is as trustworthy as the tiles: verify against a signed root.
type Tiles struct {
	Reader Reader
	Size   uint64
}

// node returns the hash of a perfect subtree.
func (ts Tiles) node(ctx context.Context, id compact.NodeID, seen map[Tile][]Hash) (Hash, error) {
	level := int(id.Level) / TileHeight
	k := id.Level % TileHeight
	first := id.Index << k
	t := TileAt(level, first, ts.Size)
	hs, ok := seen[t]
	if !ok {
		data, err := ReadTile(ctx, ts.Reader, t)
		if err != nil {
			return Hash{}, err
		}
		if hs, err = ParseHashes(data, t.Width); err != nil {
			return Hash{}, err
		}
		seen[t] = hs
	}
	from := int(first % TileWidth)
	if from+1<<k > len(hs) {
		return Hash{}, fmt.Errorf("tlog: %s is too narrow for node %d of level %d", t.Path(), id.Index, id.Level)
	}
	return foldPerfect(hs[from : from+1<<k]), nil
}

// foldPerfect returns the root of a perfect tree over a power of two of hashes.
func foldPerfect(hs []Hash) Hash {
	if len(hs) == 1 {
		return hs[0]
	}
	var buf [TileWidth / 2]Hash
	n := len(hs) / 2
	for i := range n {
		buf[i] = HashChildren(hs[2*i], hs[2*i+1])
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			buf[i] = HashChildren(buf[2*i], buf[2*i+1])
		}
	}
	return buf[0]
}

func (ts Tiles) prove(ctx context.Context, nodes proof.Nodes) (Proof, error) {
	seen := make(map[Tile][]Hash)
	hs := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h, err := ts.node(ctx, id, seen)
		if err != nil {
			return nil, err
		}
		hs[i] = h[:]
	}
	hs, err := nodes.Rehash(hs, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	p := make(Proof, len(hs))
	for i := range hs {
		copy(p[i][:], hs[i])
	}
	return p, nil
}

// Inclusion proves the entry at index.
func (ts Tiles) Inclusion(ctx context.Context, index uint64) (Proof, error) {
	nodes, err := proof.Inclusion(index, ts.Size)
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	return ts.prove(ctx, nodes)
}

// Consistency proves that this tree continues its first old entries. From none, or all of them, the proof is empty.
func (ts Tiles) Consistency(ctx context.Context, old uint64) (Proof, error) {
	if old == 0 || old == ts.Size {
		return Proof{}, nil
	}
	nodes, err := proof.Consistency(old, ts.Size)
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	return ts.prove(ctx, nodes)
}

// Root computes the root of the first size entries, which must not be more than the tree has.
func (ts Tiles) Root(ctx context.Context, size uint64) (Hash, error) {
	if size > ts.Size {
		return Hash{}, fmt.Errorf("tlog: the root of %d entries of a tree of size %d", size, ts.Size)
	}
	return ts.rangeRoot(ctx, 0, size, make(map[Tile][]Hash))
}

// Entry returns the entry at index, unproven.
func (ts Tiles) Entry(ctx context.Context, index uint64) ([]byte, error) {
	if index >= ts.Size {
		return nil, fmt.Errorf("entry %d of a tree of size %d: %w", index, ts.Size, ErrNotFound)
	}
	t := TileAt(EntriesLevel, index, ts.Size)
	data, err := ReadTile(ctx, ts.Reader, t)
	if err != nil {
		return nil, err
	}
	entries, err := ParseBundle(data, t.Width)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Path(), err)
	}
	return entries[index%TileWidth], nil
}
