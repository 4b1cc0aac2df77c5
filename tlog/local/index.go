package local

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// The index of digests says at which entries a payload may lie: a d row for every entry with a payload, under the
// beginning of the digest. It is derived from the entry rows, which hold whole digests, and follows the publisher's
// reading of them: digests are the only keys of the store that come in no order, and a memtable takes ten thousand of them,
// sorted, at a fraction of what it asks for them one by one between the callers and their sync. The i row says up to
// where the index reaches; whoever looks for a digest reads the entries behind that as well. Nothing of it need be
// synced: what a crash takes of it is made again from the same rows.

// A digestRow is a d row before it is written.
type digestRow struct{ prefix, index uint64 }

func newDigestRow(sum tlog.Hash, index uint64) digestRow {
	return digestRow{binary.BigEndian.Uint64(sum[:]), index}
}

func compareDigestRows(a, b digestRow) int {
	return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.index, b.index))
}

// A fresh holds the d rows of the entries that the publisher has read and that are not yet indexed.
type fresh struct {
	from uint64 // the first entry it has read, with a payload or not
	rows []digestRow
}

func (f *fresh) add(index uint64, row entryRow) error {
	if row.paid {
		f.rows = append(f.rows, newDigestRow(row.sum, index))
	}
	return nil
}

// indexChunk is the most rows and entries that go into one batch of the index.
const indexChunk = 1 << 14

// extendIndex brings the index up to what the publisher has counted. What it has no fresh rows of, because the process
// or a reading ended before they were written, it reads again.
func (l *Log) extendIndex(ctx context.Context) error {
	p := &l.publisher
	defer func() { p.fresh = fresh{p.counted.size, p.fresh.rows[:0]} }()
	return l.withStore(func(db *pebble.DB) error {
		from, to := l.indexed.Load(), p.counted.size
		if from == p.fresh.from {
			rows := p.fresh.rows
			for len(rows) > indexChunk {
				if err := l.indexUpTo(db, rows[indexChunk].index, rows[:indexChunk]); err != nil {
					return err
				}
				rows = rows[indexChunk:]
			}
			return l.indexUpTo(db, to, rows)
		}
		for from < to {
			f, next := fresh{from: from}, min(from+indexChunk, to)
			if err := eachEntry(db, from, next, f.add); err != nil {
				return err
			}
			if err := l.indexUpTo(db, next, f.rows); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			from = next
		}
		return nil
	})
}

// indexUpTo writes the rows, which it sorts, of the entries behind the index that come before to.
func (l *Log) indexUpTo(db *pebble.DB, to uint64, rows []digestRow) error {
	if to == l.indexed.Load() {
		return nil
	}
	slices.SortFunc(rows, compareDigestRows)
	b := db.NewBatchWithSize(len(rows)*(digestKeyLen+4) + 64)
	defer b.Close()
	for _, r := range rows {
		op := b.SetDeferred(digestKeyLen, 0)
		op.Key[0] = rowDigest
		binary.BigEndian.PutUint64(op.Key[1:], r.prefix)
		binary.BigEndian.PutUint64(op.Key[9:], r.index)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if err := b.Set(indexedKey(), binary.BigEndian.AppendUint64(nil, to), nil); err != nil {
		return err
	}
	if err := l.unbroken(func() error { return db.Apply(b, pebble.NoSync) }); err != nil {
		return err
	}
	l.indexed.Store(to)
	return nil
}

// readIndexed reads up to which entry the index of a store reaches.
func readIndexed(store pebble.Reader, size uint64) (uint64, error) {
	v, err := get(store, indexedKey())
	if errors.Is(err, tlog.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 || binary.BigEndian.Uint64(v) > size {
		return 0, damagef("the index of digests reaches to %x, and the log has %d entries", v, size)
	}
	return binary.BigEndian.Uint64(v), nil
}

// eachPaid calls f with the index of every entry before the size, in order, whose payload has that digest, until f
// returns errEnough. With noEntry for a size it looks at all rows, durable or not.
func (l *Log) eachPaid(store pebble.Reader, sum tlog.Hash, size uint64, f func(index uint64) error) error {
	indexed := l.indexed.Load() // before the rows are looked at: what is indexed meanwhile is found in the tail
	lower, upper := digestKey(sum, 0), digestKey(sum, indexed)
	it, err := store.NewIter(&pebble.IterOptions{LowerBound: lower[:], UpperBound: upper[:]})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		index := indexOf(it.Key())
		v, err := get(store, entryKey(index))
		if errors.Is(err, tlog.ErrNotFound) {
			return damagef("entry %d is missing, and stands in the index of digests", index)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		row, err := parseEntryRow(index, v)
		if err != nil {
			return err
		}
		if !row.paid || row.sum != sum {
			continue // another digest with the same beginning
		}
		if err := f(index); err != nil {
			return unlessEnough(err)
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	return unlessEnough(eachEntry(store, indexed, size, func(index uint64, row entryRow) error {
		if !row.paid || row.sum != sum {
			return nil
		}
		return f(index)
	}))
}

func unlessEnough(err error) error {
	if err == errEnough {
		return nil
	}
	return err
}

var errEnough = errors.New("enough")
