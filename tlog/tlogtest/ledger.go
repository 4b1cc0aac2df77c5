package tlogtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/tallystick/tallystick/tlog"
)

// The outcomes of an Append, as its caller knows them.
type outcome int

const (
	unknown outcome = iota // may or may not be in the log
	acknowledged
	refused
)

// A group is the leaves of one Append.
type group struct {
	leaves  []tlog.Leaf
	outcome outcome
	at      uint64 // index of the first leaf: where it was acknowledged, or else found
	found   bool   // seen in the log
}

type member struct {
	*group
	i int
}

// A ledger is what the callers of Append know. Safe for concurrent use.
type ledger struct {
	mu        sync.Mutex
	rand      *rand.Rand
	made      int
	leaves    uint64            // that were ever given to Append and not refused
	next      uint64            // after the last index that was acknowledged
	at        map[uint64]member // what was acknowledged or found
	entries   map[string]member // what is unknown and not found yet; entries are unique
	discarded map[tlog.Hash]bool
}

// leaf makes a leaf that no other equals, most of them with a payload.
func (l *ledger) leaf() tlog.Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rand == nil {
		l.rand = rand.New(rand.NewPCG(1, 2))
	}
	l.made++
	size := 150 + l.rand.IntN(500)
	switch l.rand.IntN(40) {
	case 0:
		size = 0
	case 1:
		size = tlog.MaxEntry
	}
	leaf := tlog.Leaf{Entry: l.fill(fmt.Sprintf("%x\n", l.made), size)}
	switch l.rand.IntN(20) {
	case 0, 1, 2, 3:
	case 4:
		leaf.Payload = l.fill(fmt.Sprintf("p%x\n", l.made), 100<<10)
	default:
		leaf.Payload = l.fill(fmt.Sprintf("p%x\n", l.made), l.rand.IntN(2000))
	}
	return leaf
}

// fill returns name and then arbitrary bytes up to size.
func (l *ledger) fill(name string, size int) []byte {
	b := []byte(name)
	for len(b) < size {
		b = append(b, byte(l.rand.Uint32()))
	}
	return b
}

// small makes a leaf without payload.
func (l *ledger) small() tlog.Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	return tlog.Leaf{Entry: fmt.Appendf(nil, "%x", l.made)}
}

// begin notes that leaves are about to be appended, and says which index was acknowledged to anyone by now: those of
// these leaves will be higher.
func (l *ledger) begin(leaves []tlog.Leaf) (g *group, floor uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil {
		l.at = make(map[uint64]member)
		l.entries = make(map[string]member)
		l.discarded = make(map[tlog.Hash]bool)
	}
	g = new(group)
	for i, leaf := range leaves {
		g.leaves = append(g.leaves, tlog.Leaf{Entry: bytes.Clone(leaf.Entry), Payload: bytes.Clone(leaf.Payload)})
		l.entries[string(leaf.Entry)] = member{g, i}
	}
	l.leaves += uint64(len(leaves))
	return g, l.next
}

func (l *ledger) begun() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaves
}

// refuse notes that the group is not in the log and never will be.
func (l *ledger) refuse(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.outcome = refused
	l.leaves -= uint64(len(g.leaves))
}

// acknowledge notes the indices that Append returned.
func (l *ledger) acknowledge(g *group, floor uint64, indices []uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(indices) != len(g.leaves) {
		return fmt.Errorf("%d leaves were appended and %d indices returned", len(g.leaves), len(indices))
	}
	g.outcome = acknowledged
	for i, index := range indices {
		if index != indices[0]+uint64(i) {
			return fmt.Errorf("the leaves of one group have the indices %d", indices)
		}
		if was, ok := l.at[index]; ok {
			return fmt.Errorf("index %d was given to %.40q and to %.40q", index, was.leaves[was.i].Entry, g.leaves[i].Entry)
		}
		if index < floor {
			return fmt.Errorf("index %d was given after %d had been acknowledged", index, floor-1)
		}
		l.at[index] = member{g, i}
		l.next = max(l.next, index+1)
		delete(l.entries, string(g.leaves[i].Entry))
	}
	if len(indices) > 0 {
		g.at = indices[0]
	}
	return nil
}

// acked returns the size that a log of all that was acknowledged has at least.
func (l *ledger) acked() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// match says whether entry may stand at index, in a log that nobody appends to at the moment.
func (l *ledger) match(index uint64, entry []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.at[index]
	if !ok {
		if m, ok = l.entries[string(entry)]; !ok || m.outcome != unknown {
			return fmt.Errorf("entry %d is %.60q, which was never appended, was refused, or stands elsewhere too", index, entry)
		}
		delete(l.entries, string(entry))
		if !m.found {
			m.group.found, m.group.at = true, index-uint64(m.i)
		}
		l.at[index] = m
	}
	if !bytes.Equal(m.leaves[m.i].Entry, entry) {
		return fmt.Errorf("entry %d is %.60q and was acknowledged as %.60q", index, entry, m.leaves[m.i].Entry)
	}
	if m.at+uint64(m.i) != index {
		return fmt.Errorf("entry %d is leaf %d of a group that begins at %d", index, m.i, m.at)
	}
	// A group is whole: before a leaf stands the leaf before it in the group, or the last leaf of another.
	if index == 0 {
		return nil
	}
	switch before, ok := l.at[index-1]; {
	case !ok:
		return fmt.Errorf("entry %d was read before entry %d", index, index-1)
	case m.i > 0 && before.group != m.group:
		return fmt.Errorf("entry %d is leaf %d of a group, and entry %d is of another", index, m.i, index-1)
	case m.i == 0 && before.i+1 != len(before.leaves):
		return fmt.Errorf("entry %d cuts a group after %d of its %d leaves", index, before.i+1, len(before.leaves))
	}
	return nil
}

// payloads returns what must be readable of a log of that size, and what must not.
func (l *ledger) payloads(size uint64) (kept map[tlog.Hash][]byte, gone []tlog.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept = make(map[tlog.Hash][]byte)
	for index, m := range l.at {
		if p := m.leaves[m.i].Payload; p != nil && index < size {
			if sum := tlog.Hash(sha256.Sum256(p)); !l.discarded[sum] {
				kept[sum] = p
			}
		}
	}
	for sum := range l.discarded {
		gone = append(gone, sum)
	}
	return kept, gone
}

func (l *ledger) discard(sum tlog.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.discarded[sum] = true
}

// A tree computes roots and tiles by the definitions of RFC 6962 §2.1 and c2sp.org/tlog-tiles, with nothing of the
// product.
type tree struct {
	leaves  []tlog.Hash
	perfect map[[2]uint64]tlog.Hash // roots of perfect trees, by first leaf and number of leaves
}

func (t *tree) add(entry []byte) { t.leaves = append(t.leaves, leafHash(entry)) }

func leafHash(entry []byte) tlog.Hash { return sha256.Sum256(append([]byte{0}, entry...)) }

// root is MTH(D[0:n]).
func (t *tree) root(n uint64) tlog.Hash {
	if n == 0 {
		return sha256.Sum256(nil)
	}
	return t.mth(0, n)
}

// mth is MTH(D[from:from+n]) for n > 0.
func (t *tree) mth(from, n uint64) tlog.Hash {
	if n == 1 {
		return t.leaves[from]
	}
	k := uint64(1) // the largest power of two below n
	for 2*k < n {
		k *= 2
	}
	key := [2]uint64{from, n}
	if h, ok := t.perfect[key]; ok && 2*k == n {
		return h
	}
	left, right := t.mth(from, k), t.mth(from+k, n-k)
	h := tlog.Hash(sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...)))
	if 2*k == n {
		if t.perfect == nil {
			t.perfect = make(map[[2]uint64]tlog.Hash)
		}
		t.perfect[key] = h
	}
	return h
}

// tile returns the bytes of a tile of hashes.
func (t *tree) tile(level int, n uint64, width int) []byte {
	below := uint64(1) << (8 * level) // leaves under one hash of the tile
	var data []byte
	for i := range uint64(width) {
		h := t.mth((n*256+i)*below, below)
		data = append(data, h[:]...)
	}
	return data
}
