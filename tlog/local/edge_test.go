package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// definition is the root by RFC 6962 §2.1, word for word.
func definition(leaves []tlog.Hash) tlog.Hash {
	switch len(leaves) {
	case 0:
		return tlog.EmptyRoot()
	case 1:
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return tlog.HashChildren(definition(leaves[:k]), definition(leaves[k:]))
}

// TestEdge grows an edge over two full tiles of level 1 and compares roots, tiles and the edge's two forms on the way.
func TestEdge(t *testing.T) {
	const n = 2*65536 + 300
	leaves := make([]tlog.Hash, n)
	for i := range leaves {
		leaves[i] = tlog.HashLeaf(fmt.Append(nil, i))
	}
	tiles := make(map[tlog.Tile][]tlog.Hash)
	var e edge
	compared := 0
	for i, h := range leaves {
		if i < 600 || i%4999 == 0 || i%65536 < 2 || i%65536 > 65534 {
			if got, want := e.root(), definition(leaves[:i]); got != want {
				t.Fatalf("root of %d", i)
			}
			again := *e.clone()
			again.restack()
			if !slices.Equal(again.stack, e.stack) {
				t.Fatalf("the two forms of the edge of %d disagree", i)
			}
			compared++
		}
		err := e.add(h, func(level int, index uint64, hs []tlog.Hash) error {
			tile := tlog.Tile{Level: level, Index: index, Width: tlog.TileWidth}
			if _, twice := tiles[tile]; twice || len(hs) != tlog.TileWidth {
				t.Fatalf("%s twice, or of %d hashes", tile.Path(), len(hs))
			}
			tiles[tile] = slices.Clone(hs)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if e.state().root != definition(leaves) || len(tiles) != 2*256+1+2 {
		t.Errorf("%d full tiles", len(tiles))
	}
	for tile, hs := range tiles {
		width := 1 << (tlog.TileHeight * tile.Level)
		for i, h := range hs {
			first := (int(tile.Index)*tlog.TileWidth + i) * width
			if tile.Level > 0 && i%50 != 0 {
				continue
			}
			if h != definition(leaves[first:first+width]) {
				t.Fatalf("hash %d of %s", i, tile.Path())
			}
		}
	}
	t.Logf("%d roots and %d tiles as defined", compared, len(tiles))
}

// TestHead writes the head file many times, tears every write at every byte, and loads what is left.
func TestHead(t *testing.T) {
	fs := vfs.NewMem()
	fs.MkdirAll("/log", 0o755)
	at := func(n uint64) state {
		if n == 0 {
			return state{0, tlog.EmptyRoot()}
		}
		return state{n, tlog.HashLeaf(fmt.Append(nil, n))}
	}
	h := openHead(fs, "/log/HEAD", testOrigin)
	if err := h.create(at(0)); err != nil {
		t.Fatal(err)
	}
	if s, err := h.load(); err != nil || s != at(0) {
		t.Fatal(s, err)
	}
	if err := h.open(); err != nil {
		t.Fatal(err)
	}
	load := func(b []byte) (state, error) {
		fs := vfs.NewMem()
		putFile(t, fs, "/HEAD", b)
		return openHead(fs, "/HEAD", testOrigin).load()
	}
	torn := 0
	for n := uint64(1); n < 20; n++ {
		before := getFile(t, fs, "/log/HEAD")
		if err := h.write(at(n)); err != nil {
			t.Fatal(err)
		}
		after := getFile(t, fs, "/log/HEAD")
		if s, err := load(after); err != nil || s != at(n) {
			t.Fatal(s, err)
		}
		for i := range after {
			if before[i] == after[i] {
				continue
			}
			// The first i bytes of the write arrived.
			b := append(bytes.Clone(after[:i]), before[i:]...)
			if s, err := load(b); err != nil || (s != at(n-1) && s != at(n)) {
				t.Fatalf("write %d torn at %d: %v, %v", n, i, s, err)
			}
			torn++
		}
	}
	h.close()
	if _, err := openHead(fs, "/log/HEAD", "log.example/other").load(); err == nil {
		t.Error("another log's head file was read")
	}
	t.Logf("%d torn writes leave the old state or the new", torn)
}

// FuzzHead looks for head files that are read as something else than what was written.
func FuzzHead(f *testing.F) {
	fs := vfs.NewMem()
	h := openHead(fs, "/HEAD", testOrigin)
	if err := h.create(state{7, tlog.HashLeaf(nil)}); err != nil {
		f.Fatal(err)
	}
	f.Add(getFile(f, fs, "/HEAD"))
	f.Add([]byte{})
	f.Add([]byte(headMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		putFile(t, fs, "/HEAD", b)
		h := openHead(fs, "/HEAD", testOrigin)
		s, err := h.load()
		if err != nil {
			return
		}
		want := make([]byte, headContent)
		h.put(want, h.seq, s)
		slot := int(h.seq%2) * headSlot
		if !bytes.Equal(b[slot:slot+headContent], want) {
			t.Errorf("read as %v, which is written otherwise", s)
		}
	})
}

// FuzzRows looks for rows that are parsed as something else than what was written.
func FuzzRows(f *testing.F) {
	for _, lf := range []tlog.Leaf{{Entry: []byte("e")}, {Entry: []byte("entry"), Payload: []byte("payload")}} {
		b := make([]byte, entryRowLen(lf))
		putEntryRow(b, lf, tlog.HashLeaf(lf.Payload))
		f.Add(b)
	}
	b := make([]byte, sizeRowLen)
	putSizeRow(b, state{5, tlog.HashLeaf(nil)}, 99)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseEntryRow(0, b); err == nil {
			lf := tlog.Leaf{Entry: r.entry}
			if r.paid {
				lf.Payload = []byte("p")
			}
			again := make([]byte, entryRowLen(lf))
			putEntryRow(again, lf, r.sum)
			if !bytes.Equal(again, b) {
				t.Errorf("an entry row is parsed as %q", r.entry)
			}
		}
		if s, err := parseSizeRow(b); err == nil {
			again := make([]byte, sizeRowLen)
			putSizeRow(again, s, 0)
			if !bytes.Equal(again[:12+hashLen], b[:12+hashLen]) || len(b) != sizeRowLen {
				t.Errorf("a size row is parsed as %v", s)
			}
		}
	})
}

// TestBudget paces: a megabyte at ten a second takes a tenth of one, and an ended context is seen.
func TestBudget(t *testing.T) {
	b := &budget{rate: 10 << 20}
	begun := time.Now()
	for range 1024 {
		if err := b.spend(t.Context(), 1024-64); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(begun); d < 80*time.Millisecond {
		t.Errorf("a megabyte took %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.spend(ctx, 100<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
