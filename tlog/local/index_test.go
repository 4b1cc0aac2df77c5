package local

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// indexed returns the d rows of a store and up to where they reach.
func indexed(t testing.TB, db pebble.Reader) (rows []digestRow, to uint64) {
	t.Helper()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowDigest}, UpperBound: after(rowDigest)})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		rows = append(rows, digestRow{binary.BigEndian.Uint64(it.Key()[1:]), indexOf(it.Key())})
	}
	return rows, must(readIndexed(db, noEntry))
}

// wantIndex holds the index of a store against the leaves that were appended.
func wantIndex(t testing.TB, l *Log, book *ledger) {
	t.Helper()
	var want []digestRow
	for index, lf := range book.acked {
		if len(lf.Payload) > 0 {
			want = append(want, newDigestRow(sha256.Sum256(lf.Payload), index))
		}
	}
	slices.SortFunc(want, compareDigestRows)
	rows, to := indexed(t, l.db)
	if !slices.Equal(rows, want) || to != l.Size() || l.indexed.Load() != to {
		t.Errorf("%d rows up to %d (%d), not %d up to %d", len(rows), to, l.indexed.Load(), len(want), l.Size())
	}
}

// TestIndex looks for payloads before, while and after their digests are indexed, in stores that lost some of the index,
// all of it, or have that of the first format.
func TestIndex(t *testing.T) {
	fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	l := open(t, "/log", Config{FS: fs, Latest: a})
	end := run(t, l)
	fill(t, l, book, 1, 0, 700)
	awaitPublished(t, l, 700)
	if err := book.holds(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)

	// What a crash, or another program, may leave of the index.
	for _, e := range []struct {
		name string
		edit func(db *pebble.DB, b *pebble.Batch)
	}{
		{"whole", func(*pebble.DB, *pebble.Batch) {}},
		{"lost", func(_ *pebble.DB, b *pebble.Batch) {
			b.DeleteRange([]byte{rowDigest}, after(rowDigest), nil)
			b.Delete(indexedKey(), nil)
		}},
		{"half lost", func(db *pebble.DB, b *pebble.Batch) {
			rows, _ := indexed(t, db)
			for _, r := range rows {
				if r.index >= 333 {
					key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{rowDigest}, r.prefix), r.index)
					b.Delete(key, nil)
				}
			}
			b.Set(indexedKey(), binary.BigEndian.AppendUint64(nil, 333), nil)
		}},
		{"of the first format", func(db *pebble.DB, b *pebble.Batch) {
			b.DeleteRange([]byte{rowDigest}, after(rowDigest), nil)
			b.Delete(indexedKey(), nil)
			for index, lf := range book.acked {
				if len(lf.Payload) > 0 {
					sum := sha256.Sum256(lf.Payload)
					b.Set(binary.BigEndian.AppendUint64(append([]byte{rowDigest}, sum[:]...), index), nil, nil)
				}
			}
			row := must(get(db, sizeKey()))
			binary.BigEndian.PutUint32(row, 1)
			b.Set(sizeKey(), row, nil)
		}},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			edited, at, book := vfs.NewMem(), &anchor{is: a.is}, book.clone()
			copyDir(t, fs, "/log", edited, "/log")
			db, err := pebble.Open("/log/pebble", &pebble.Options{FS: edited, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			e.edit(db, b)
			if err := errors.Join(b.Commit(pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
			l := open(t, "/log", Config{FS: edited, Latest: at})
			for what, look := range map[string]func() error{
				"what the ledger knows": func() error { return book.holds(t.Context(), l) },
				"everything":            func() error { return l.Check(t.Context(), nil) },
			} {
				if err := look(); err != nil {
					t.Errorf("%s, before the index is brought up: %v", what, err)
				}
			}
			end := run(t, l)
			fill(t, l, book, 2, 0, 300)
			awaitPublished(t, l, 1000)
			await(t, "the index", func() bool { return l.indexed.Load() == 1000 })
			if err := book.holds(t.Context(), l); err != nil {
				t.Error(err)
			}
			if e.name != "of the first format" { // whose rows stay, and are in nobody's way
				wantIndex(t, l, book)
			}
			if err := l.Check(t.Context(), nil); err != nil {
				t.Error(err)
			}
			finish(t, l, end)
		})
	}
}

// TestIndexDelayed looks for payloads, and discards one, while nothing is indexed because nothing can be anchored.
func TestIndexDelayed(t *testing.T) {
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	l := open(t, "/log", Config{FS: fs, Latest: a})
	end := run(t, l)
	fill(t, l, book, 1, 0, 30)
	awaitPublished(t, l, 30)
	out := errors.New("no answer")
	a.faults(func([]byte) (bool, error) { return false, out }, func() error { return out })
	fill(t, l, book, 1, 30, 1) // the attempt that gets stuck
	await(t, "the anchor to fail", func() bool { return l.Stats().AnchorErrors > 0 })
	fill(t, l, book, 1, 31, 70)
	twice := leaf(1, 1)
	indices, err := l.Append(t.Context(), twice) // its digest stands in the index and behind it
	if err != nil {
		t.Fatal(err)
	}
	if to := l.indexed.Load(); to > 31 {
		t.Fatalf("indexed up to %d", to)
	}
	for index, lf := range book.acked {
		if len(lf.Payload) == 0 {
			continue
		}
		if _, err := l.Payload(t.Context(), sha256.Sum256(lf.Payload)); err != nil {
			t.Errorf("payload of entry %d: %v", index, err)
		}
	}
	for _, n := range []int{1, 50} {
		sum := sha256.Sum256(leaf(1, n).Payload)
		if err := l.Discard(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Payload(t.Context(), sum); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("discarded: %v", err)
		}
	}
	for _, index := range []uint64{1, 50, indices[0]} {
		if rows, err := anyRow(l.db, payloadKey(index, 0), payloadKey(index+1, 0)); err != nil || rows {
			t.Errorf("the payload of entry %d is in the store, %v", index, err)
		}
	}
	a.faults(nil, nil)
	awaitPublished(t, l, 102)
	await(t, "the index", func() bool { return l.indexed.Load() == 102 })
	book.ack(indices, []tlog.Leaf{twice})
	wantIndex(t, l, book)
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
}

// TestIndexAlike finds a payload among others whose digests begin alike.
func TestIndexAlike(t *testing.T) {
	l := open(t, "/log", Config{FS: vfs.NewMem()})
	book := newLedger()
	end := run(t, l)
	fill(t, l, book, 1, 0, 60)
	await(t, "the index", func() bool { return l.indexed.Load() == 60 })
	sum := sha256.Sum256(leaf(1, 50).Payload)
	for _, index := range []uint64{0, 1, 2} { // without a payload, and with others
		key := digestKey(sum, index)
		if err := l.db.Set(key[:], nil, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	if err := l.Discard(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	delete(book.acked, 50)
	if err := book.holds(t.Context(), l); err != nil {
		t.Errorf("with that one discarded: %v", err)
	}
	finish(t, l, end)
}
