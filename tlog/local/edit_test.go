package local

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestEdits changes rows by valid writes of Pebble, as an insider would. Among the newest entries a start finds it; of the
// older ones Check and the scrub do, and a reader is never given the wrong entry.
func TestEdits(t *testing.T) {
	const size, rehash = 1000, 256
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	s := &signer{Signer: key, ledger: book}
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
	end := run(t, l)
	for n := 0; n < size; n += 100 {
		var leaves []tlog.Leaf
		for i := range 100 {
			leaves = append(leaves, leaf(1, n+i))
		}
		indices, err := l.Append(t.Context(), leaves...)
		if err != nil {
			t.Fatal(err)
		}
		book.ack(indices, leaves)
	}
	finish(t, l, end)

	edits := []struct {
		name  string
		edit  func(db *pebble.DB, b *pebble.Batch)
		start bool // found at start, else later
	}{
		{"a new entry", func(db *pebble.DB, b *pebble.Batch) { editEntry(t, db, b, 990) }, true},
		{"an old entry", func(db *pebble.DB, b *pebble.Batch) { editEntry(t, db, b, 5) }, false},
		{"an old entry and its tile", func(db *pebble.DB, b *pebble.Batch) {
			h := editEntry(t, db, b, 5)
			tile := must(get(db, tileKey(0, 0)))
			copy(tile[5*hashLen:], h[:])
			b.Set(tileKey(0, 0), tile, nil)
		}, true}, // it changes the root
		{"an old tile", func(db *pebble.DB, b *pebble.Batch) {
			tile := must(get(db, tileKey(0, 1)))
			tile[7] ^= 1
			b.Set(tileKey(0, 1), tile, nil)
		}, true},
		{"a deleted entry", func(db *pebble.DB, b *pebble.Batch) { b.Delete(entryKey(17), nil) }, false},
		{"a deleted new entry", func(db *pebble.DB, b *pebble.Batch) { b.Delete(entryKey(999), nil) }, true},
		{"an entry too many", func(db *pebble.DB, b *pebble.Batch) { b.Set(entryKey(size), []byte("\x00more"), nil) }, true},
		{"a payload", func(db *pebble.DB, b *pebble.Batch) { b.Set(payloadKey(4, 0), []byte("another"), nil) }, false},
		{"a deleted payload", func(db *pebble.DB, b *pebble.Batch) { b.Delete(payloadKey(4, 0), nil) }, false},
		{"a deleted digest", func(db *pebble.DB, b *pebble.Batch) {
			row := must(parseEntryRow(4, must(get(db, entryKey(4)))))
			key := digestKey(row.sum, 4)
			b.Delete(key[:], nil)
		}, false},
		{"a smaller size", func(db *pebble.DB, b *pebble.Batch) {
			row := make([]byte, sizeRowLen)
			r := must(recountFrom(db, 768))
			putSizeRow(row, must(r.extend(t.Context(), 900)), 0)
			b.Set(sizeKey(), row, nil)
		}, true},
		{"the tail and the size", func(db *pebble.DB, b *pebble.Batch) {
			row := make([]byte, sizeRowLen)
			r := must(recountFrom(db, 768))
			putSizeRow(row, must(r.extend(t.Context(), 900)), 0)
			b.Set(sizeKey(), row, nil)
			b.DeleteRange(entryKey(900), entryKey(size), nil)
			b.DeleteRange(checkpointKey(901), after(rowCheckpoint), nil)
		}, true},
		{"a root", func(db *pebble.DB, b *pebble.Batch) {
			row := must(get(db, sizeKey()))
			row[20] ^= 1
			b.Set(sizeKey(), row, nil)
		}, true},
		{"a kept checkpoint", func(db *pebble.DB, b *pebble.Batch) {
			signed := must(tlog.SignCheckpoint(tlog.Checkpoint{Origin: testOrigin, Size: size, Root: tlog.HashLeaf([]byte("x"))}, key))
			b.Set(checkpointKey(size), signed, nil)
		}, true},
		{"a kept checkpoint of another key", func(db *pebble.DB, b *pebble.Batch) {
			b.Set(checkpointKey(size), []byte("log.example/local\n1000\nAAAA\n\n— log.example/local AAAA\n"), nil)
		}, true},
		{"an older kept checkpoint", func(db *pebble.DB, b *pebble.Batch) {
			signed := must(tlog.SignCheckpoint(tlog.Checkpoint{Origin: testOrigin, Size: 3, Root: tlog.HashLeaf([]byte("x"))}, key))
			b.Set(checkpointKey(3), signed, nil)
		}, false},
	}
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			edited := vfs.NewMem()
			copyDir(t, fs, "/log", edited, "/log")
			db, err := pebble.Open("/log/pebble", &pebble.Options{FS: edited, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			e.edit(db, b)
			if err := b.Commit(pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			// Three ways to find it: the start, Check of a log opened for reading, the scrub of one that runs.
			at := &anchor{is: a.is}
			copied := vfs.NewMem()
			copyDir(t, edited, "/log", copied, "/log")
			got, err := start(t, copied, at, book, Config{Rehash: rehash})
			if want := map[bool]outcome{true: refused, false: found}[e.start]; got != want {
				t.Errorf("outcome %d, not %d: %v", got, want, err)
			}
			l, err := Open("/log", testConfig(t, Config{FS: edited, ReadOnly: true, Rehash: rehash, Latest: at}))
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Check(t.Context(), nil); err == nil && l.Quarantined() == nil {
				t.Error("Check of the log opened for reading finds nothing")
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if e.start {
				return
			}
			l = open(t, "/log", Config{FS: edited, Latest: at, Signer: &signer{Signer: key, ledger: book.clone()}, Rehash: rehash, ScrubEvery: time.Millisecond, ScrubRate: 1 << 30})
			end := run(t, l)
			await(t, "the scrub to find it", func() bool { return l.Quarantined() != nil })
			end()
			l.Close()
			// From now on a start looks at everything.
			l, err = Open("/log", testConfig(t, Config{FS: edited, Latest: at, Rehash: rehash}))
			if err != nil {
				t.Fatal(err)
			}
			inQuarantine(t, l, nil, newLedger(), "")
			l.Close()
			// With the right data back, the mark goes.
			if err := edited.RemoveAll("/log/pebble"); err != nil {
				t.Fatal(err)
			}
			copyDir(t, fs, "/log/pebble", edited, "/log/pebble")
			if err := reopened(t, edited, "/log", at, book.clone()); err != nil {
				t.Errorf("with the right data back: %v", err)
			}
			if marked, _ := exists(edited, "/log/QUARANTINE"); marked {
				t.Error("the mark of the quarantine stays")
			}
		})
	}
}

// TestEditsDeep edits tiles that no root of the whole tree depends on, because the tiles above them are full.
func TestEditsDeep(t *testing.T) {
	const size = 70_000
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}})
	end := run(t, l)
	leaves := make([]tlog.Leaf, 0, 4000)
	for n := range size {
		leaves = append(leaves, tlog.Leaf{Entry: fmt.Appendf(nil, "deep %d", n)})
		if len(leaves) == cap(leaves) || n == size-1 {
			indices, err := l.Append(t.Context(), leaves...)
			if err != nil {
				t.Fatal(err)
			}
			book.ack(indices, leaves)
			leaves = leaves[:0]
		}
	}
	finish(t, l, end)
	for _, e := range []struct {
		name  string
		tile  uint64
		start bool
	}{{"old", 3, false}, {"new", size/256 - 1, true}} {
		t.Run(e.name, func(t *testing.T) {
			edited := vfs.NewMem()
			copyDir(t, fs, "/log", edited, "/log")
			db, err := pebble.Open("/log/pebble", &pebble.Options{FS: edited, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			tile := must(get(db, tileKey(0, e.tile)))
			tile[99] ^= 1
			if err := db.Set(tileKey(0, e.tile), tile, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			l, err := Open("/log", testConfig(t, Config{FS: edited, Latest: &anchor{is: a.is}, Rehash: 1000, ReadOnly: true}))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if found := l.Quarantined() != nil; found != e.start {
				t.Errorf("found at start: %v", found)
			}
			if err := l.Check(t.Context(), nil); err == nil && !e.start {
				t.Error("Check finds nothing")
			}
			if _, err := l.Tile(t.Context(), tlog.Tile{Level: tlog.EntriesLevel, Index: e.tile, Width: tlog.TileWidth}); err == nil {
				t.Error("the reader serves entries that its tile of hashes denies")
			}
		})
	}
}

func editEntry(t testing.TB, db *pebble.DB, b *pebble.Batch, index uint64) tlog.Hash {
	v := must(get(db, entryKey(index)))
	v[len(v)-1] ^= 1
	if err := b.Set(entryKey(index), v, nil); err != nil {
		t.Fatal(err)
	}
	return tlog.HashLeaf(must(parseEntryRow(index, v)).entry)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}
