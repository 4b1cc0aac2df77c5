package tlog_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	xtlog "golang.org/x/mod/sumdb/tlog"
)

// A memTree is a tree of random leaf hashes, of which every prefix is a tree too. It keeps all perfect nodes:
// levels[l][i] is over the leaves [i<<l, (i+1)<<l).
type memTree struct {
	entries [][]byte
	levels  [][]tlog.Hash
	stored  []xtlog.Hash // the same tree as x/mod stores it
}

func newMemTree(tb testing.TB, n int, seed uint64) *memTree {
	tb.Helper()
	m := new(memTree)
	rng := rand.New(rand.NewPCG(seed, 0))
	reader := m.xReader()
	for i := range n {
		e := binary.BigEndian.AppendUint64(nil, rng.Uint64())[:1+rng.IntN(8)]
		m.entries = append(m.entries, e)
		h := tlog.HashLeaf(e)
		for l := 0; ; l++ {
			if l == len(m.levels) {
				m.levels = append(m.levels, nil)
			}
			m.levels[l] = append(m.levels[l], h)
			if k := len(m.levels[l]); k%2 != 0 {
				break
			} else {
				h = tlog.HashChildren(m.levels[l][k-2], h)
			}
		}
		hs, err := xtlog.StoredHashes(int64(i), e, reader)
		if err != nil {
			tb.Fatal(err)
		}
		m.stored = append(m.stored, hs...)
	}
	return m
}

func (m *memTree) xReader() xtlog.HashReader {
	return xtlog.HashReaderFunc(func(indexes []int64) ([]xtlog.Hash, error) {
		out := make([]xtlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = m.stored[x]
		}
		return out, nil
	})
}

// A memReader serves the tiles of one size, by the letter: partial tiles are those that a tree of that size has, unless
// pruned says that those with a full tile in their place are gone.
type memReader struct {
	*memTree
	size   uint64
	pruned uint64 // size of a newer tree whose full tiles replaced the partial ones
	reads  map[tlog.Tile]int
	spoil  func(t tlog.Tile, data []byte) []byte
}

func (r *memReader) Checkpoint(context.Context) ([]byte, error) { return nil, tlog.ErrNotFound }

func (r *memReader) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	if r.reads != nil {
		r.reads[t]++
	}
	span := uint64(1)
	if t.Level > 0 {
		span <<= tlog.TileHeight * t.Level
	}
	nodes, newer := r.size/span, r.pruned/span
	first := t.Index * tlog.TileWidth
	due := min(int(nodes)-int(first), tlog.TileWidth)
	full := first+tlog.TileWidth <= max(nodes, newer)
	switch {
	case t.Width == tlog.TileWidth && full:
	case t.Width == due && due > 0 && !(full && r.pruned > 0):
	default:
		return nil, tlog.ErrNotFound
	}
	var data []byte
	if t.Level == tlog.EntriesLevel {
		for _, e := range r.entries[first : first+uint64(t.Width)] {
			data = tlog.AppendBundleEntry(data, e)
		}
	} else {
		for _, h := range r.levels[t.Level*tlog.TileHeight][first : first+uint64(t.Width)] {
			data = append(data, h[:]...)
		}
	}
	if r.spoil != nil {
		data = r.spoil(t, data)
	}
	return data, nil
}

func (m *memTree) tiles(size uint64) tlog.Tiles {
	return tlog.Tiles{Reader: &memReader{memTree: m, size: size}, Size: size}
}

func xProof(p tlog.Proof) []xtlog.Hash {
	out := make([]xtlog.Hash, len(p))
	for i, h := range p {
		out[i] = xtlog.Hash(h)
	}
	return out
}

func sameProof(p tlog.Proof, x []xtlog.Hash) bool { return slices.Equal(xProof(p), x) }

// compareInclusion holds one inclusion proof of ours against x/mod's and both verifiers.
func (m *memTree) compareInclusion(t *testing.T, ts tlog.Tiles, root tlog.Hash, index uint64) tlog.Proof {
	t.Helper()
	p, err := ts.Inclusion(t.Context(), index)
	if err != nil {
		t.Fatalf("Inclusion(%d) of size %d: %v", index, ts.Size, err)
	}
	x, err := xtlog.ProveRecord(int64(ts.Size), int64(index), m.xReader())
	if err != nil {
		t.Fatal(err)
	}
	if !sameProof(p, x) {
		t.Fatalf("Inclusion(%d) of size %d is another proof than x/mod's", index, ts.Size)
	}
	leaf := m.levels[0][index]
	if err := tlog.VerifyInclusion(leaf, index, ts.Size, root, p); err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifySubtreeInclusion(leaf, index, 0, ts.Size, root, p); err != nil {
		t.Fatal(err)
	}
	if err := xtlog.CheckRecord(x, int64(ts.Size), xtlog.Hash(root), int64(index), xtlog.Hash(leaf)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (m *memTree) compareConsistency(t *testing.T, ts tlog.Tiles, root tlog.Hash, old uint64, oldRoot tlog.Hash) tlog.Proof {
	t.Helper()
	p, err := ts.Consistency(t.Context(), old)
	if err != nil {
		t.Fatalf("Consistency(%d) of size %d: %v", old, ts.Size, err)
	}
	if err := tlog.VerifyConsistency(old, ts.Size, oldRoot, root, p); err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifySubtreeConsistency(0, old, ts.Size, oldRoot, root, p); err != nil {
		t.Fatal(err)
	}
	if old == 0 {
		return p // x/mod has no such proof
	}
	x, err := xtlog.ProveTree(int64(ts.Size), int64(old), m.xReader())
	if err != nil {
		t.Fatal(err)
	}
	if !sameProof(p, x) {
		t.Fatalf("Consistency(%d) of size %d is another proof than x/mod's", old, ts.Size)
	}
	if old < ts.Size { // x/mod's CheckTree refuses equal sizes
		if err := xtlog.CheckTree(x, int64(ts.Size), xtlog.Hash(root), int64(old), xtlog.Hash(oldRoot)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (m *memTree) root(t *testing.T, ts tlog.Tiles) tlog.Hash {
	t.Helper()
	root, err := ts.Root(t.Context(), ts.Size)
	if err != nil {
		t.Fatal(err)
	}
	want := tlog.EmptyRoot()
	if ts.Size > 0 {
		x, err := xtlog.TreeHash(int64(ts.Size), m.xReader())
		if err != nil {
			t.Fatal(err)
		}
		want = tlog.Hash(x)
	}
	if root != want {
		t.Fatalf("the root of size %d is %s, x/mod has %s", ts.Size, root, want)
	}
	return root
}

func TestTilesAgainstXMod(t *testing.T) {
	const small, large = 600, 70_000
	m := newMemTree(t, large, 1)
	rng := rand.New(rand.NewPCG(2, 2))
	proofs := 0

	roots := make([]tlog.Hash, small+1)
	for size := range uint64(small + 1) {
		ts := m.tiles(size)
		roots[size] = m.root(t, ts)
		// Every index and old size of the small trees, and of the others the edges and some between.
		var indices []uint64
		if size <= 130 {
			for i := range size {
				indices = append(indices, i)
			}
		} else {
			indices = []uint64{0, 255, 256, size - 1, size / 2}
			for range 12 {
				indices = append(indices, rng.Uint64N(size))
			}
		}
		for _, i := range indices {
			if i < size {
				m.compareInclusion(t, ts, roots[size], i)
				m.compareConsistency(t, ts, roots[size], i, roots[i])
				proofs += 2
			}
		}
		m.compareConsistency(t, ts, roots[size], size, roots[size])
	}

	sizes := []uint64{65535, 65536, 65537, large}
	for range 60 {
		sizes = append(sizes, 1+rng.Uint64N(large))
	}
	for _, size := range sizes {
		ts := m.tiles(size)
		root := m.root(t, ts)
		for range 12 {
			i := rng.Uint64N(size)
			m.compareInclusion(t, ts, root, i)
			m.compareConsistency(t, ts, root, i, m.root(t, m.tiles(i)))
			proofs += 2
		}
	}
	t.Logf("%d proofs equal to those of x/mod, over every size to %d and %d sizes to %d", proofs, small, len(sizes), large)
}

// Every bit of a proof, every wrong place and every wrong length is seen.
func TestProofsSpoilt(t *testing.T) {
	m := newMemTree(t, 5000, 3)
	rng := rand.New(rand.NewPCG(4, 4))
	refused := 0
	refuse := func(what string, errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err == nil {
				t.Fatalf("%s was accepted", what)
			}
			refused++
		}
	}
	for _, size := range []uint64{2, 3, 7, 8, 255, 256, 257, 1000 + rng.Uint64N(3000), 5000} {
		ts := m.tiles(size)
		root := m.root(t, ts)
		index, old := rng.Uint64N(size), 1+rng.Uint64N(size-1)
		leaf, oldRoot := m.levels[0][index], m.root(t, m.tiles(old))
		inclusion := m.compareInclusion(t, ts, root, index)
		consistency := m.compareConsistency(t, ts, root, old, oldRoot)

		spoil := func(p tlog.Proof, verify func(tlog.Proof) []error) {
			for i := range p {
				for bit := range 256 {
					q := slices.Clone(p)
					q[i][bit/8] ^= 1 << (bit % 8)
					refuse(fmt.Sprintf("size %d: hash %d with bit %d flipped", size, i, bit), verify(q)...)
				}
				refuse("a proof without one of its hashes", verify(slices.Delete(slices.Clone(p), i, i+1))...)
				refuse("a proof with one hash twice", verify(slices.Insert(slices.Clone(p), i, p[i]))...)
				if i > 0 && p[i] != p[i-1] {
					q := slices.Clone(p)
					q[i], q[i-1] = q[i-1], q[i]
					refuse("a proof out of order", verify(q)...)
				}
			}
			refuse("a proof that goes on", verify(append(slices.Clone(p), tlog.Hash{}))...)
		}
		spoil(inclusion, func(p tlog.Proof) []error {
			return []error{
				tlog.VerifyInclusion(leaf, index, size, root, p),
				tlog.VerifySubtreeInclusion(leaf, index, 0, size, root, p),
				tlog.VerifySubtreeConsistency(index, index+1, size, leaf, root, p),
			}
		})
		spoil(consistency, func(p tlog.Proof) []error {
			return []error{
				tlog.VerifyConsistency(old, size, oldRoot, root, p),
				tlog.VerifySubtreeConsistency(0, old, size, oldRoot, root, p),
			}
		})
		for bit := range 256 {
			flip := func(h tlog.Hash) tlog.Hash { h[bit/8] ^= 1 << (bit % 8); return h }
			refuse("a spoilt leaf or root",
				tlog.VerifyInclusion(flip(leaf), index, size, root, inclusion),
				tlog.VerifyInclusion(leaf, index, size, flip(root), inclusion),
				tlog.VerifySubtreeInclusion(flip(leaf), index, 0, size, root, inclusion),
				tlog.VerifySubtreeInclusion(leaf, index, 0, size, flip(root), inclusion),
				tlog.VerifyConsistency(old, size, flip(oldRoot), root, consistency),
				tlog.VerifyConsistency(old, size, oldRoot, flip(root), consistency),
				tlog.VerifySubtreeConsistency(0, old, size, flip(oldRoot), root, consistency),
				tlog.VerifySubtreeConsistency(0, old, size, oldRoot, flip(root), consistency))
		}
		for i := range min(size, 400) {
			if i != index {
				refuse("a wrong index", tlog.VerifyInclusion(leaf, i, size, root, inclusion), tlog.VerifySubtreeInclusion(leaf, i, 0, size, root, inclusion))
			}
		}
		refuse("an index outside", tlog.VerifyInclusion(leaf, size, size, root, inclusion))
	}
	t.Logf("%d spoilt proofs refused", refused)
}

func TestConsistencyEdges(t *testing.T) {
	empty, a, b := tlog.EmptyRoot(), tlog.HashLeaf([]byte("a")), tlog.HashLeaf([]byte("b"))
	one := tlog.Proof{a}
	for _, test := range []struct {
		name         string
		size1, size2 uint64
		root1, root2 tlog.Hash
		proof        tlog.Proof
		ok           bool
	}{
		{"the empty tree continues itself", 0, 0, empty, empty, nil, true},
		{"two roots of the empty tree", 0, 0, empty, a, nil, false},
		{"the empty tree with a wrong root", 0, 0, a, a, nil, false},
		{"from the empty tree", 0, 5, empty, a, nil, true},
		{"from the empty tree, an empty proof that is not nil", 0, 5, empty, a, tlog.Proof{}, true},
		{"from the empty tree with a proof", 0, 5, empty, a, one, false},
		{"from the empty tree with a wrong root", 0, 5, b, a, nil, false},
		{"the same tree", 7, 7, a, a, nil, true},
		{"the same size, another root", 7, 7, a, b, nil, false},
		{"the same tree with a proof", 7, 7, a, a, one, false},
		{"backwards", 8, 7, a, a, nil, false},
		{"onward without a proof", 1, 2, a, a, nil, false},
		{"onward", 1, 2, a, tlog.HashChildren(a, b), tlog.Proof{b}, true},
	} {
		if err := tlog.VerifyConsistency(test.size1, test.size2, test.root1, test.root2, test.proof); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// Proofs of trees too large to build: random hashes make some root, and both verifiers must find the same one.
func TestInclusionOfVastTrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	random := func() (h tlog.Hash) {
		for i := range h {
			h[i] = byte(rng.Uint32())
		}
		return h
	}
	for range 2000 {
		size := 1 + rng.Uint64N(1<<(1+rng.UintN(63)))
		index := rng.Uint64N(size)
		nodes, err := proof.Inclusion(index, size)
		if err != nil {
			t.Fatal(err)
		}
		begin, end := 0, 0
		_, begin, end = nodes.Ephem()
		n := len(nodes.IDs)
		if end > begin {
			n -= end - begin - 1
		}
		leaf, p, slices := random(), make(tlog.Proof, n), make([][]byte, n)
		for i := range p {
			p[i] = random()
			slices[i] = p[i][:]
		}
		root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, index, size, leaf[:], slices)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyInclusion(leaf, index, size, tlog.Hash(root), p); err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifySubtreeInclusion(leaf, index, 0, size, tlog.Hash(root), p); err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifySubtreeConsistency(index, index+1, size, leaf, tlog.Hash(root), p); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			if tlog.VerifySubtreeInclusion(leaf, index, 0, size, tlog.Hash(root), p[:n-1]) == nil {
				t.Fatal("a short proof was accepted")
			}
		}
	}
}

// mth is the definition of RFC 6962 §2.1, word for word, over leaf hashes.
func mth(leaves []tlog.Hash) tlog.Hash {
	switch n := len(leaves); n {
	case 0:
		return tlog.EmptyRoot()
	case 1:
		return leaves[0]
	default:
		k := 1 << (bits.Len(uint(n-1)) - 1)
		return tlog.HashChildren(mth(leaves[:k]), mth(leaves[k:]))
	}
}

// validSubtree is the definition of the draft, word for word.
func validSubtree(start, end uint64) bool {
	if start > end {
		return false
	}
	ceil := uint64(1)
	for ceil < end-start {
		ceil *= 2
	}
	return start%ceil == 0
}

func TestSubtrees(t *testing.T) {
	m := newMemTree(t, 1300, 6)
	rng := rand.New(rand.NewPCG(7, 7))
	valid, proofs := 0, 0
	check := func(ts tlog.Tiles, root tlog.Hash, start, end uint64) {
		ctx := t.Context()
		if tlog.ValidSubtree(start, end) != validSubtree(start, end) {
			t.Fatalf("ValidSubtree(%d, %d) is %v", start, end, !validSubtree(start, end))
		}
		sub, err := ts.SubtreeRoot(ctx, start, end)
		if !validSubtree(start, end) {
			_, err2 := ts.SubtreeConsistency(ctx, start, end)
			_, err3 := ts.SubtreeInclusion(ctx, start, start, end)
			if err == nil || err2 == nil || err3 == nil {
				t.Fatalf("[%d, %d) was taken for a subtree", start, end)
			}
			return
		}
		valid++
		if err != nil {
			t.Fatal(err)
		}
		if want := mth(m.levels[0][start:end]); sub != want {
			t.Fatalf("the root of [%d, %d) is %s, by definition %s", start, end, sub, want)
		}
		p, err := ts.SubtreeConsistency(ctx, start, end)
		if err != nil {
			t.Fatal(err)
		}
		proofs++
		if err := tlog.VerifySubtreeConsistency(start, end, ts.Size, sub, root, p); err != nil {
			t.Fatal(err)
		}
		switch {
		case start == 0 && end > 0: // an ordinary consistency proof
			q, err := ts.Consistency(ctx, end)
			if err != nil || !slices.Equal(p, q) {
				t.Fatalf("the proof of [0, %d) in %d is not the consistency proof: %v", end, ts.Size, err)
			}
		case end == start+1: // an ordinary inclusion proof
			q, err := ts.Inclusion(ctx, start)
			if err != nil || !slices.Equal(p, q) {
				t.Fatalf("the proof of [%d, %d) in %d is not the inclusion proof: %v", start, end, ts.Size, err)
			}
		}
		wrong := sub
		wrong[rng.IntN(32)] ^= 1 << rng.IntN(8)
		if tlog.VerifySubtreeConsistency(start, end, ts.Size, wrong, root, p) == nil {
			t.Fatal("a wrong root of the subtree was accepted")
		}
		if end == start {
			return
		}
		if len(p) > 0 {
			q := slices.Clone(p)
			q[rng.IntN(len(q))][rng.IntN(32)] ^= 1 << rng.IntN(8)
			if tlog.VerifySubtreeConsistency(start, end, ts.Size, sub, root, q) == nil ||
				tlog.VerifySubtreeConsistency(start, end, ts.Size, sub, root, p[1:]) == nil ||
				tlog.VerifySubtreeConsistency(start, end, ts.Size, sub, root, append(slices.Clone(p), p[0])) == nil {
				t.Fatal("a spoilt subtree proof was accepted")
			}
		}
		index := start + rng.Uint64N(end-start)
		in, err := ts.SubtreeInclusion(ctx, index, start, end)
		if err != nil {
			t.Fatal(err)
		}
		proofs++
		if err := tlog.VerifySubtreeInclusion(m.levels[0][index], index, start, end, sub, in); err != nil {
			t.Fatal(err)
		}
		if index != start && tlog.VerifySubtreeInclusion(m.levels[0][index], start, start, end, sub, in) == nil {
			t.Fatal("a wrong index was accepted")
		}
		if tlog.VerifySubtreeInclusion(m.levels[0][index], end, start, end, sub, in) == nil {
			t.Fatal("an index outside was accepted")
		}
	}
	for size := range uint64(41) {
		ts := m.tiles(size)
		root := m.root(t, ts)
		for end := range size + 1 {
			for start := range end + 1 {
				check(ts, root, start, end)
			}
		}
		if _, err := ts.SubtreeConsistency(t.Context(), 0, size+1); err == nil {
			t.Fatal("a subtree larger than the tree was proven")
		}
	}
	for range 1500 {
		size := 257 + rng.Uint64N(1300-256)
		ts := m.tiles(size)
		n := 1 << rng.UintN(11)
		start := rng.Uint64N(size) / uint64(n) * uint64(n)
		check(ts, m.root(t, ts), start, min(size, start+1+rng.Uint64N(uint64(n))))
	}
	// What a proof leaves out is not zero.
	a, zero := m.levels[0][0], tlog.Hash{}
	for _, err := range []error{
		tlog.VerifySubtreeConsistency(0, 1, 2, a, tlog.HashChildren(a, zero), nil),
		tlog.VerifySubtreeConsistency(1, 2, 2, a, tlog.HashChildren(zero, a), nil),
		tlog.VerifySubtreeConsistency(0, 3, 4, tlog.HashChildren(zero, a), tlog.HashChildren(zero, tlog.HashChildren(a, zero)), tlog.Proof{a}),
		tlog.VerifySubtreeConsistency(0, 3, 4, tlog.HashChildren(zero, a), tlog.HashChildren(zero, tlog.HashChildren(a, a)), tlog.Proof{a, a}),
		tlog.VerifySubtreeInclusion(a, 0, 0, 2, tlog.HashChildren(a, zero), nil),
	} {
		if err == nil {
			t.Error("a short proof was filled up with zeros")
		}
	}
	for _, test := range []struct {
		start, end uint64
		want       bool
	}{
		{0, 1<<64 - 1, true}, {1, 1<<63 + 2, false}, {1 << 63, 1<<64 - 1, true}, {1 << 63, 1<<63 + 1, true},
		{1 << 62, 1<<63 + 1, false}, {1<<64 - 1, 1<<64 - 1, true}, {1<<64 - 2, 1<<64 - 1, true}, {2, 1, false},
	} {
		if got := tlog.ValidSubtree(test.start, test.end); got != test.want {
			t.Errorf("ValidSubtree(%d, %d) is %v", test.start, test.end, got)
		}
	}
	t.Logf("%d subtrees, %d proofs", valid, proofs)
}

// A proof reads at most two tiles a level, each once.
func TestTilesReadFew(t *testing.T) {
	m := newMemTree(t, 70_000, 8)
	rng := rand.New(rand.NewPCG(9, 9))
	for range 300 {
		size := 1 + rng.Uint64N(70_000)
		r := &memReader{memTree: m, size: size, reads: make(map[tlog.Tile]int)}
		ts := tlog.Tiles{Reader: r, Size: size}
		for _, prove := range []func(context.Context, uint64) (tlog.Proof, error){ts.Inclusion, ts.Consistency} {
			clear(r.reads)
			if _, err := prove(t.Context(), rng.Uint64N(size)); err != nil {
				t.Fatal(err)
			}
			perLevel := make(map[int]int)
			for tile, n := range r.reads {
				if n > 1 {
					t.Fatalf("%s was read %d times", tile.Path(), n)
				}
				if perLevel[tile.Level]++; perLevel[tile.Level] > 2 {
					t.Fatalf("size %d: more than two tiles of level %d", size, tile.Level)
				}
			}
		}
	}
}

// Where a partial tile gave way to the full one, its head is taken.
func TestTilesFromFullTiles(t *testing.T) {
	m := newMemTree(t, 2000, 10)
	for _, size := range []uint64{1, 255, 256, 257, 700, 1500} {
		ts := tlog.Tiles{Reader: &memReader{memTree: m, size: size, pruned: 2000}, Size: size}
		root, want := m.root(t, ts), m.root(t, m.tiles(size))
		if root != want {
			t.Fatalf("size %d: another root from full tiles", size)
		}
		for _, i := range []uint64{0, size / 2, size - 1} {
			p, err := ts.Inclusion(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			e, err := ts.Entry(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.VerifyInclusion(tlog.HashLeaf(e), i, size, root, p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTilesFaults(t *testing.T) {
	m := newMemTree(t, 600, 11)
	errDisk := errors.New("the disk is gone")
	r := &memReader{memTree: m, size: 600}
	ts := tlog.Tiles{Reader: r, Size: 600}
	if _, err := ts.Inclusion(t.Context(), 600); err == nil {
		t.Error("an entry outside the tree was proven")
	}
	if _, err := ts.Consistency(t.Context(), 601); err == nil {
		t.Error("a smaller tree was proven to continue a larger one")
	}
	if _, err := ts.Root(t.Context(), 601); err == nil {
		t.Error("a root of more entries than there are")
	}
	if _, err := ts.Entry(t.Context(), 600); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("an entry outside the tree: %v", err)
	}
	for name, spoil := range map[string]func(tlog.Tile, []byte) []byte{
		"short": func(_ tlog.Tile, b []byte) []byte { return b[:len(b)-1] },
		"long":  func(_ tlog.Tile, b []byte) []byte { return append(b, 0) },
		"empty": func(_ tlog.Tile, b []byte) []byte { return nil },
	} {
		for _, pruned := range []uint64{0, 600} {
			r.spoil, r.pruned = spoil, pruned
			for _, tile := range []tlog.Tile{{Level: 0, Width: 256}, {Level: 0, Index: 2, Width: 88}, {Level: tlog.EntriesLevel, Width: 256}, {Level: tlog.EntriesLevel, Index: 2, Width: 88}} {
				if b, err := tlog.ReadTile(t.Context(), r, tile); err == nil {
					t.Errorf("%s tile: %s was read, %d bytes", name, tile.Path(), len(b))
				}
			}
			for _, i := range []uint64{3, 599} {
				if _, err := ts.Inclusion(t.Context(), i); err == nil {
					t.Errorf("%s tile: a proof of %d", name, i)
				}
				if _, err := ts.Entry(t.Context(), i); err == nil {
					t.Errorf("%s tile: entry %d", name, i)
				}
			}
		}
	}
	// One wrong bit in any tile that a proof reads is seen against the root.
	r.spoil, r.pruned = nil, 0
	root := m.root(t, ts)
	for bit := range 8 * 88 * 32 {
		r.spoil = func(tile tlog.Tile, b []byte) []byte {
			if tile.Index == 2 && tile.Level == 0 {
				b[bit/8] ^= 1 << (bit % 8)
			}
			return b
		}
		p, err := ts.Inclusion(t.Context(), 520)
		if err != nil {
			t.Fatal(err)
		}
		// The leaf's own hash is not part of its proof.
		if err := tlog.VerifyInclusion(m.levels[0][520], 520, 600, root, p); err == nil && bit/256 != 520-512 {
			t.Fatalf("bit %d of the tile was flipped and the proof holds", bit)
		}
	}
	broken := tlog.Tiles{Reader: brokenReader{errDisk}, Size: 600}
	if _, err := broken.Root(t.Context(), 600); !errors.Is(err, errDisk) {
		t.Errorf("the reader's error was lost: %v", err)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Checkpoint(context.Context) ([]byte, error)      { return nil, r.err }
func (r brokenReader) Tile(context.Context, tlog.Tile) ([]byte, error) { return nil, r.err }
