package tlog

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
)

// A subtree is the tree over the entries [start, end) of a log, where start is a multiple of the least power of two
// that is not below end-start (draft-ietf-plants-merkle-tree-certs-03, §4.1). So it is a tree like any other,
// moved: entry start is its first. Every perfect node of it is a node of the log's tree, and only its right edge is its own.

// ValidSubtree says whether [start, end) is a subtree. The empty interval is one, wherever it lies.
func ValidSubtree(start, end uint64) bool {
	switch {
	case start > end:
		return false
	case start == 0 || end-start <= 1:
		return true
	}
	n := bits.Len64(end - start - 1) // 2^n is the least power that is not below; of n = 64 no start but 0 is a multiple
	return start&(1<<n-1) == 0
}

// VerifySubtreeInclusion says whether the leaf hash is at index in the subtree [start, end) with that root. index
// counts from the beginning of the log.
func VerifySubtreeInclusion(leaf Hash, index, start, end uint64, root Hash, p Proof) error {
	if !ValidSubtree(start, end) {
		return fmt.Errorf("tlog: [%d, %d) is not a subtree", start, end)
	}
	if index < start || index >= end {
		return fmt.Errorf("tlog: entry %d is not in the subtree [%d, %d)", index, start, end)
	}
	if err := verifySubtree(index-start, index-start+1, end-start, leaf, root, p); err != nil {
		return fmt.Errorf("tlog: entry %d is not proven to be in the subtree [%d, %d): %w", index, start, end, err)
	}
	return nil
}

// VerifySubtreeConsistency says whether the subtree [start, end) with root is part of the tree of that size and
// treeRoot. An empty subtree is part of every tree that reaches it, by an empty proof and with the root of the empty
// tree; a subtree that is the whole tree has an empty proof.
func VerifySubtreeConsistency(start, end, size uint64, root, treeRoot Hash, p Proof) error {
	if !ValidSubtree(start, end) || end > size {
		return fmt.Errorf("tlog: [%d, %d) is not a subtree of a tree of size %d", start, end, size)
	}
	if start == end {
		if root != EmptyRoot() || len(p) != 0 {
			return fmt.Errorf("tlog: the empty subtree [%d, %d) needs an empty proof and the root of the empty tree", start, end)
		}
		return nil
	}
	if err := verifySubtree(start, end, size, root, treeRoot, p); err != nil {
		return fmt.Errorf("tlog: the subtree [%d, %d) is not proven to be part of the tree of size %d: %w", start, end, size, err)
	}
	return nil
}

// verifySubtree computes both roots from root and the proof, and compares. The subtree is valid and not empty.
func verifySubtree(start, end, size uint64, root, treeRoot Hash, p Proof) error {
	w := subtreeWalk{start: start, end: end, root: root, rest: p}
	sub, tree, ok := w.roots(0, size, true)
	switch {
	case !ok:
		return fmt.Errorf("the proof of %d hashes is too short", len(p))
	case len(w.rest) != 0:
		return fmt.Errorf("the proof of %d hashes is %d too long", len(p), len(w.rest))
	case sub != root:
		return fmt.Errorf("the proof makes %s of the subtree, whose root is %s", sub, root)
	case tree != treeRoot:
		return fmt.Errorf("the proof makes the root %s, not %s", tree, treeRoot)
	}
	return nil
}

// A subtreeWalk is the verifier's half of SUBTREE_SUBPROOF (§4.4 of the draft): it goes down the same path as the
// prover, and takes from the proof, in the order of writing, what the prover put into it.
type subtreeWalk struct {
	start, end uint64
	root       Hash
	rest       Proof
}

// roots returns what the proof makes of the part of the subtree that lies in the tree over [lo, hi), and of that whole
// tree. known says that this part is the subtree itself, whose root the verifier has; otherwise the proof has
// it. It goes at most 64 levels deep.
func (w *subtreeWalk) roots(lo, hi uint64, known bool) (sub, tree Hash, ok bool) {
	start, end := max(w.start, lo), min(w.end, hi)
	if start == lo && end == hi {
		if known {
			return w.root, w.root, true
		}
		h, ok := w.next()
		return h, h, ok
	}
	// The left side is the largest perfect tree that leaves something to the right.
	mid := lo + 1<<(bits.Len64(hi-lo-1)-1)
	switch {
	case end <= mid:
		sub, tree, ok = w.roots(lo, mid, known)
		right, more := w.next()
		return sub, HashChildren(tree, right), ok && more
	case start >= mid:
		sub, tree, ok = w.roots(mid, hi, known)
		left, more := w.next()
		return sub, HashChildren(left, tree), ok && more
	}
	// It lies on both sides, so it begins where this tree does, and the left side is part of both.
	sub, tree, ok = w.roots(mid, hi, false)
	left, more := w.next()
	return HashChildren(left, sub), HashChildren(left, tree), ok && more
}

func (w *subtreeWalk) next() (Hash, bool) {
	if len(w.rest) == 0 {
		return Hash{}, false
	}
	h := w.rest[0]
	w.rest = w.rest[1:]
	return h, true
}

// SubtreeRoot computes the root of the subtree [start, end), which must be part of the tree.
func (ts Tiles) SubtreeRoot(ctx context.Context, start, end uint64) (Hash, error) {
	if !ValidSubtree(start, end) || end > ts.Size {
		return Hash{}, fmt.Errorf("tlog: [%d, %d) is not a subtree of a tree of size %d", start, end, ts.Size)
	}
	return ts.rangeRoot(ctx, start, end, make(map[Tile][]Hash))
}

// rangeRoot computes the root of a subtree, empty or not, from its perfect nodes.
func (ts Tiles) rangeRoot(ctx context.Context, start, end uint64, seen map[Tile][]Hash) (Hash, error) {
	if start == end {
		return EmptyRoot(), nil
	}
	var root Hash
	ids := compact.RangeNodes(start, end, nil)
	for i := len(ids) - 1; i >= 0; i-- {
		h, err := ts.node(ctx, ids[i], seen)
		if err != nil {
			return Hash{}, err
		}
		if i == len(ids)-1 {
			root = h
		} else {
			root = HashChildren(h, root)
		}
	}
	return root, nil
}

// SubtreeInclusion proves the entry at index, counted from the beginning of the log, to be in the subtree [start, end).
func (ts Tiles) SubtreeInclusion(ctx context.Context, index, start, end uint64) (Proof, error) {
	if !ValidSubtree(start, end) || end > ts.Size {
		return nil, fmt.Errorf("tlog: [%d, %d) is not a subtree of a tree of size %d", start, end, ts.Size)
	}
	if index < start {
		return nil, fmt.Errorf("tlog: entry %d is not in the subtree [%d, %d)", index, start, end)
	}
	nodes, err := proof.Inclusion(index-start, end-start)
	if err != nil {
		return nil, fmt.Errorf("tlog: entry %d in the subtree [%d, %d): %w", index, start, end, err)
	}
	for i, id := range nodes.IDs {
		nodes.IDs[i].Index += start >> id.Level
	}
	return ts.prove(ctx, nodes)
}

// SubtreeConsistency proves that the subtree [start, end) is part of this tree.
func (ts Tiles) SubtreeConsistency(ctx context.Context, start, end uint64) (Proof, error) {
	if !ValidSubtree(start, end) || end > ts.Size {
		return nil, fmt.Errorf("tlog: [%d, %d) is not a subtree of a tree of size %d", start, end, ts.Size)
	}
	if start == end {
		return Proof{}, nil
	}
	// From the root down to the subtree; the proof is written from there up, so it is turned round at the end.
	type span struct{ lo, hi uint64 }
	var spans []span
	lo, hi, known := uint64(0), ts.Size, true
	for lo < start || hi > end {
		mid := lo + 1<<(bits.Len64(hi-lo-1)-1)
		switch {
		case end <= mid:
			spans, hi = append(spans, span{mid, hi}), mid
		case start >= mid:
			spans, lo = append(spans, span{lo, mid}), mid
		default:
			spans, lo, start, known = append(spans, span{lo, mid}), mid, mid, false
		}
	}
	if !known {
		spans = append(spans, span{lo, hi})
	}
	seen := make(map[Tile][]Hash)
	p := make(Proof, 0, len(spans))
	for i := len(spans) - 1; i >= 0; i-- {
		h, err := ts.rangeRoot(ctx, spans[i].lo, spans[i].hi, seen)
		if err != nil {
			return nil, err
		}
		p = append(p, h)
	}
	return p, nil
}
