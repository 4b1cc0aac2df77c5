package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// The rows of the store. A key is one letter and big-endian numbers, so rows that were written together lie together.
//
//	e index              → flags, digest of the payload if there is one, entry
//	p index part         → up to partBytes of the payload
//	d digest[:8] index   → nothing; where a payload may lie whose digest begins so
//	i                    → up to which entry there are d rows
//	x digest             → nothing; the payload was discarded and never comes back
//	g index              → nothing; a payload was discarded there whose bytes may still be in the files
//	t level tile         → 256 hashes of 32 bytes, written when the tile is full
//	c size               → a signed checkpoint
//	s                    → format, size, root, time of the last batch
const (
	rowEntry      = 'e'
	rowPayload    = 'p'
	rowDigest     = 'd'
	rowIndexed    = 'i'
	rowDiscarded  = 'x'
	rowPurge      = 'g'
	rowTile       = 't'
	rowCheckpoint = 'c'
	rowSize       = 's'
)

// format is the version of these rows. A store of a newer one is refused. In format 1 the d rows had whole digests and
// were written with the entries; without an i row, they are made anew.
const format = 2

// partBytes is the most that one payload row holds, so that no batch grows past what a memtable takes.
const partBytes = 1 << 20

// hasPayload is the only flag of an entry row.
const hasPayload = 1

const hashLen = len(tlog.Hash{})

// digestKeyLen is what a d row takes, all of it in its key.
const digestKeyLen = 1 + 8 + 8

func appendIndexKey(b []byte, row byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, row), n)
}

func entryKey(index uint64) []byte { return appendIndexKey(make([]byte, 0, 9), rowEntry, index) }
func checkpointKey(size uint64) []byte {
	return appendIndexKey(make([]byte, 0, 9), rowCheckpoint, size)
}
func discardedKey(sum tlog.Hash) []byte { return append([]byte{rowDiscarded}, sum[:]...) }
func sizeKey() []byte                   { return []byte{rowSize} }
func indexedKey() []byte                { return []byte{rowIndexed} }

func payloadKey(index uint64, part int) []byte {
	return binary.BigEndian.AppendUint16(appendIndexKey(make([]byte, 0, 11), rowPayload, index), uint16(part))
}

func digestKey(sum tlog.Hash, index uint64) (k [digestKeyLen]byte) {
	k[0] = rowDigest
	copy(k[1:9], sum[:])
	binary.BigEndian.PutUint64(k[9:], index)
	return k
}

func tileKey(level int, index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{rowTile, byte(level)}, index)
}

// after returns the first key behind all keys of the row.
func after(row byte) []byte { return []byte{row + 1} }

// An entryRow is the value of an e row.
type entryRow struct {
	entry []byte
	sum   tlog.Hash // digest of the payload, if paid
	paid  bool
}

func entryRowLen(leaf tlog.Leaf) int {
	n := 1 + len(leaf.Entry)
	if len(leaf.Payload) > 0 {
		n += hashLen
	}
	return n
}

// putEntryRow fills b, which has entryRowLen bytes.
func putEntryRow(b []byte, leaf tlog.Leaf, sum tlog.Hash) {
	b[0] = 0
	n := 1
	if len(leaf.Payload) > 0 {
		b[0] = hasPayload
		n += copy(b[1:], sum[:])
	}
	copy(b[n:], leaf.Entry)
}

func parseEntryRow(index uint64, v []byte) (r entryRow, err error) {
	switch {
	case len(v) > 0 && v[0] == 0:
		r.entry = v[1:]
	case len(v) > 1+hashLen && v[0] == hasPayload:
		r.paid = true
		copy(r.sum[:], v[1:])
		r.entry = v[1+hashLen:]
	}
	if len(r.entry) == 0 || len(r.entry) > tlog.MaxEntry {
		return entryRow{}, damagef("the row of entry %d is not one", index)
	}
	return r, nil
}

// noEntry is an index that no entry has, and behind every entry.
const noEntry = ^uint64(0)

// eachEntry calls f for the rows of the entries from the one index to before the other, of which none may be missing;
// noEntry ends with the last row. A row aliases the store's memory.
func eachEntry(store pebble.Reader, from, to uint64, f func(index uint64, row entryRow) error) error {
	if from >= to {
		return nil
	}
	it, err := store.NewIter(&pebble.IterOptions{LowerBound: entryKey(from), UpperBound: entryKey(to)})
	if err != nil {
		return err
	}
	defer it.Close()
	index := from
	for ok := it.First(); ok; ok = it.Next() {
		if indexOf(it.Key()) != index {
			return damagef("entry %d is missing", index)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		row, err := parseEntryRow(index, v)
		if err != nil {
			return err
		}
		if err := f(index, row); err != nil {
			return err
		}
		index++
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	if index != to && to != noEntry {
		return damagef("entry %d is missing", index)
	}
	return nil
}

// A state is the size of a tree and its root.
type state struct {
	size uint64
	root tlog.Hash
}

func (s state) checkpoint(origin string) tlog.Checkpoint {
	return tlog.Checkpoint{Origin: origin, Size: s.size, Root: s.root}
}

const sizeRowLen = 4 + 8 + hashLen + 8

// putSizeRow fills b, which has sizeRowLen bytes. The time is in nanoseconds since 1970 and only tells people.
func putSizeRow(b []byte, s state, nanos int64) {
	binary.BigEndian.PutUint32(b, format)
	binary.BigEndian.PutUint64(b[4:], s.size)
	copy(b[12:], s.root[:])
	binary.BigEndian.PutUint64(b[12+hashLen:], uint64(nanos))
}

// errFormat says that a newer program wrote the store.
var errFormat = errors.New("a newer version of this program wrote the store; use that one")

func parseSizeRow(v []byte) (state, error) {
	if len(v) < 4 {
		return state{}, damagef("the size row has %d bytes", len(v))
	}
	if f := binary.BigEndian.Uint32(v); f > format && f < 1<<16 {
		return state{}, fmt.Errorf("format %d: %w", f, errFormat)
	} else if f == 0 || f > format || len(v) != sizeRowLen {
		return state{}, damagef("the size row has format %d and %d bytes", f, len(v))
	}
	s := state{size: binary.BigEndian.Uint64(v[4:])}
	copy(s.root[:], v[12:])
	if s.size > math.MaxInt64 || (s.size == 0 && s.root != tlog.EmptyRoot()) {
		return state{}, damagef("the size row has size %d and root %s", s.size, s.root)
	}
	return s, nil
}

// indexOf reads the number at the end of a key.
func indexOf(key []byte) uint64 {
	if len(key) < 8 {
		return math.MaxUint64
	}
	return binary.BigEndian.Uint64(key[len(key)-8:])
}

// joinHashes writes the hashes of a tile side by side.
func joinHashes(b []byte, hs []tlog.Hash) []byte {
	for i := range hs {
		b = append(b, hs[i][:]...)
	}
	return b
}

func sameTile(row []byte, hs []tlog.Hash) bool {
	if len(row) != len(hs)*hashLen {
		return false
	}
	for i := range hs {
		if !bytes.Equal(row[i*hashLen:(i+1)*hashLen], hs[i][:]) {
			return false
		}
	}
	return true
}
