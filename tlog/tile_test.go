package tlog_test

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

var tilePaths = []struct {
	tile tlog.Tile
	path string
}{
	{tlog.Tile{Level: 0, Index: 0, Width: 256}, "tile/0/000"},
	{tlog.Tile{Level: 0, Index: 0, Width: 1}, "tile/0/000.p/1"},
	{tlog.Tile{Level: 3, Index: 999, Width: 255}, "tile/3/999.p/255"},
	{tlog.Tile{Level: 0, Index: 1000, Width: 256}, "tile/0/x001/000"},
	{tlog.Tile{Level: 0, Index: 1234067, Width: 256}, "tile/0/x001/x234/067"},
	{tlog.Tile{Level: 1, Index: 1234067, Width: 7}, "tile/1/x001/x234/067.p/7"},
	{tlog.Tile{Level: 63, Index: 12, Width: 256}, "tile/63/012"},
	{tlog.Tile{Level: tlog.EntriesLevel, Index: 273, Width: 256}, "tile/entries/273"},
	{tlog.Tile{Level: tlog.EntriesLevel, Index: 1234067, Width: 16}, "tile/entries/x001/x234/067.p/16"},
	{tlog.Tile{Level: 0, Index: math.MaxInt64 / 256, Width: 255}, "tile/0/x036/x028/x797/x018/x963/967.p/255"},
}

var badTilePaths = []string{
	"", "tile", "tile/", "tile/0", "tile/0/", "/tile/0/000", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/x000/000", "tile/0/x001/0", "tile/0/001/000",
	"tile/0/x001/x000", "tile/0/x001/x234/x067", "tile/0/x001/234/067", "tile/0/x1/234", "tile/0/1234", "tile/00/000", "tile/64/000", "tile/256/000", "tile/-1/000", "tile/+1/000",
	"tile/entries", "tile/entries/", "tile/entry/000", "tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0", "tile/0/000.p/00", "tile/0/000.p/01",
	"tile/0/000.p/256", "tile/0/000.p/-1", "tile/0/000.p/+1", "tile/0/000.p/1/", "tile/0/000.p/1.p/1", "tile/0/000/", "tile/0/000 ", "tile/0/ 00", "tile/0/0x0", "tile/0/x00/000",
	"tile/0/../000", "tile/0//000", "tile/0/x001//000", "tile/0/xx01/000", "tile/0/x001/000\n", "tile/0/٠٠٠", "tile/0/x036/x028/x797/x018/x963/968",
	"tile/0/x018/x446/x744/x073/x709/x551/616", "tile/0/" + strings.Repeat("x000/", 20) + "000",
}

func TestTilePath(t *testing.T) {
	for _, test := range tilePaths {
		if got := test.tile.Path(); got != test.path {
			t.Errorf("%v: path %s, want %s", test.tile, got, test.path)
		}
		if got, err := tlog.ParseTilePath(test.path); err != nil || got != test.tile {
			t.Errorf("%s: %v, %v, want %v", test.path, got, err, test.tile)
		}
	}
	for _, bad := range badTilePaths {
		if got, err := tlog.ParseTilePath(bad); err == nil {
			t.Errorf("%q was taken for the path of %v", bad, got)
		}
	}
}

func TestTileAt(t *testing.T) {
	for _, test := range []struct {
		level   int
		n, size uint64
		want    tlog.Tile
	}{
		{0, 0, 1, tlog.Tile{Level: 0, Index: 0, Width: 1}},
		{0, 255, 256, tlog.Tile{Level: 0, Index: 0, Width: 256}},
		{0, 256, 257, tlog.Tile{Level: 0, Index: 1, Width: 1}},
		{1, 0, 256, tlog.Tile{Level: 1, Index: 0, Width: 1}},
		{1, 0, 511, tlog.Tile{Level: 1, Index: 0, Width: 1}},
		{2, 1, 3 << 16, tlog.Tile{Level: 2, Index: 0, Width: 3}},
		{tlog.EntriesLevel, 600, 700, tlog.Tile{Level: tlog.EntriesLevel, Index: 2, Width: 188}},
		{0, math.MaxInt64 - 1, math.MaxInt64, tlog.Tile{Level: 0, Index: math.MaxInt64 / 256, Width: 255}},
		{7, 0, math.MaxInt64, tlog.Tile{Level: 7, Index: 0, Width: 127}},
	} {
		if got := tlog.TileAt(test.level, test.n, test.size); got != test.want {
			t.Errorf("TileAt(%d, %d, %d) is %v, want %v", test.level, test.n, test.size, got, test.want)
		}
	}
}

func FuzzTilePath(f *testing.F) {
	for _, test := range tilePaths {
		f.Add(test.path)
	}
	for _, bad := range badTilePaths {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tile, err := tlog.ParseTilePath(path)
		if err != nil {
			return
		}
		if got := tile.Path(); got != path {
			t.Fatalf("%q reads as %v, whose path is %q", path, tile, got)
		}
		if tile.Width < 1 || tile.Width > tlog.TileWidth || tile.Level < tlog.EntriesLevel || tile.Index > math.MaxInt64/tlog.TileWidth {
			t.Fatalf("%q is the path of no tile: %v", path, tile)
		}
	})
}

func TestBundle(t *testing.T) {
	long := bytes.Repeat([]byte{1}, math.MaxUint16)
	var b []byte
	entries := [][]byte{[]byte("one"), {}, long, []byte("\x00")}
	for _, e := range entries {
		b = tlog.AppendBundleEntry(b, e)
	}
	got, err := tlog.ParseBundle(b, len(entries))
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if !bytes.Equal(got[i], entries[i]) || cap(got[i]) != len(got[i]) {
			t.Errorf("entry %d is %d bytes with room for %d", i, len(got[i]), cap(got[i]))
		}
	}
	for _, width := range []int{0, 1, 3, 5, 256} {
		if _, err := tlog.ParseBundle(b, width); err == nil {
			t.Errorf("a bundle of %d entries was taken for one of %d", len(entries), width)
		}
	}
	for cut := range 12 {
		if _, err := tlog.ParseBundle(b[:cut], 2); err == nil && cut != 7 {
			t.Errorf("a bundle cut at byte %d was read", cut)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("an entry of 65,536 bytes was written")
		}
	}()
	tlog.AppendBundleEntry(nil, append(long, 1))
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte("\x00\x01a\x00\x00"), 2)
	f.Add([]byte("\x00\x01a\x00\x02b"), 2)
	f.Add([]byte("\xff\xffa"), 1)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		if width < 0 || width > tlog.TileWidth {
			return
		}
		entries, err := tlog.ParseBundle(data, width)
		if err != nil {
			return
		}
		if len(entries) != width {
			t.Fatalf("%d entries, want %d", len(entries), width)
		}
		var back []byte
		for _, e := range entries {
			back = tlog.AppendBundleEntry(back, e)
		}
		if !bytes.Equal(back, data) {
			t.Fatalf("%q is written again as %q", data, back)
		}
	})
}

func TestParseHashes(t *testing.T) {
	a, b := tlog.HashLeaf([]byte("a")), tlog.HashLeaf([]byte("b"))
	data := append(bytes.Clone(a[:]), b[:]...)
	got, err := tlog.ParseHashes(data, 2)
	if err != nil || got[0] != a || got[1] != b {
		t.Fatalf("%v, %v", got, err)
	}
	for _, width := range []int{0, 1, 3} {
		if _, err := tlog.ParseHashes(data, width); err == nil {
			t.Errorf("two hashes were taken for %d", width)
		}
	}
}
