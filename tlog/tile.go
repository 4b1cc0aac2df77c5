package tlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	// TileHeight is the height of a tile in levels of the tree.
	TileHeight = 8
	// TileWidth is the number of hashes, or entries, in a full tile.
	TileWidth = 1 << TileHeight
	// TileBytes is the size of a full tile of hashes.
	TileBytes = TileWidth * len(Hash{})
	// EntriesLevel is the Level of a tile that holds entries instead of hashes.
	EntriesLevel = -1
	// maxTileEntry is the longest entry that an entry bundle can hold.
	maxTileEntry = math.MaxUint16
)

// A Tile names one tile by the rules of c2sp.org/tlog-tiles: hash i of tile n on level l is the root of the
// 256^l leaves from (n·256+i)·256^l. Width is 256 for a full tile and 1 to 255 for a partial one.
type Tile struct {
	Level int // 0 upwards, or EntriesLevel
	Index uint64
	Width int
}

// TileAt returns the tile on level that holds node index n of that level in a tree of the given size. n must lie
// within the tree, whose size is below 2^63. The tile is as wide as that size makes it.
func TileAt(level int, n, size uint64) Tile {
	nodes := size
	if level > 0 {
		nodes = size >> (TileHeight * level)
	}
	t := Tile{Level: level, Index: n / TileWidth, Width: TileWidth}
	if end := (t.Index + 1) * TileWidth; end > nodes {
		t.Width = int(nodes - t.Index*TileWidth)
	}
	return t
}

// Path returns the tile's path relative to the log's prefix, for example "tile/0/x001/067.p/3".
func (t Tile) Path() string {
	b := make([]byte, 0, 48)
	b = append(b, "tile/"...)
	if t.Level == EntriesLevel {
		b = append(b, "entries"...)
	} else {
		b = strconv.AppendInt(b, int64(t.Level), 10)
	}
	s := strconv.FormatUint(t.Index, 10)
	for len(s)%3 != 0 {
		s = "0" + s
	}
	for ; len(s) > 3; s = s[3:] {
		b = append(b, "/x"...)
		b = append(b, s[:3]...)
	}
	b = append(b, '/')
	b = append(b, s...)
	if t.Width != TileWidth {
		b = append(b, ".p/"...)
		b = strconv.AppendInt(b, int64(t.Width), 10)
	}
	return string(b)
}

// ParseTilePath is the exact inverse of Path, for the tiles that a tree of fewer than 2^63 leaves can have: so a
// tile's Index times TileWidth never overflows. Levels up to 63 are read, as the specification has them.
func ParseTilePath(path string) (Tile, error) {
	bad := fmt.Errorf("tlog: not a tile path: %.100q", path)
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return Tile{}, bad
	}
	level, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return Tile{}, bad
	}
	t := Tile{Level: EntriesLevel, Width: TileWidth}
	if level != "entries" {
		l, err := strconv.ParseUint(level, 10, 8)
		if err != nil || l > 63 {
			return Tile{}, bad
		}
		t.Level = int(l)
	}
	if full, width, ok := strings.Cut(rest, ".p/"); ok {
		w, err := strconv.ParseUint(width, 10, 8)
		if err != nil || w == 0 {
			return Tile{}, bad
		}
		rest, t.Width = full, int(w)
	}
	// The groups of three digits, without the marks between them; the comparison below sees to their places.
	digits := strings.ReplaceAll(strings.ReplaceAll(rest, "x", ""), "/", "")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64/TileWidth {
		return Tile{}, bad
	}
	t.Index = n
	if t.Path() != path {
		return Tile{}, bad
	}
	return t, nil
}

// AppendBundleEntry appends one entry to an entry bundle: its length as uint16, big-endian, then its bytes. An entry
// of more than 65,535 bytes has no place in the format; it panics, rather than write a bundle that means something else.
func AppendBundleEntry(bundle, entry []byte) []byte {
	if len(entry) > maxTileEntry {
		panic(fmt.Sprintf("tlog: an entry of %d bytes in an entry bundle, which takes %d", len(entry), maxTileEntry))
	}
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...)
}

// bundleEnd returns where the first width entries of an entry bundle end.
func bundleEnd(data []byte, width int) (int, error) {
	end := 0
	for i := range width {
		if len(data)-end < 2 {
			return 0, fmt.Errorf("tlog: an entry bundle ends after %d of %d entries", i, width)
		}
		n := int(binary.BigEndian.Uint16(data[end:]))
		if end += 2; len(data)-end < n {
			return 0, fmt.Errorf("tlog: an entry bundle ends within entry %d of %d", i, width)
		}
		end += n
	}
	return end, nil
}

// checkBundle says whether data is an entry bundle of exactly width entries.
func checkBundle(data []byte, width int) error {
	end, err := bundleEnd(data, width)
	if err == nil && end != len(data) {
		err = fmt.Errorf("tlog: an entry bundle has %d bytes after its %d entries", len(data)-end, width)
	}
	return err
}

// ParseBundle splits an entry bundle into exactly width entries, which alias data.
func ParseBundle(data []byte, width int) ([][]byte, error) {
	if err := checkBundle(data, width); err != nil {
		return nil, err
	}
	entries := make([][]byte, width)
	for i := range entries {
		n := int(binary.BigEndian.Uint16(data))
		entries[i], data = data[2:2+n:2+n], data[2+n:]
	}
	return entries, nil
}

// ParseHashes splits a tile of hashes, which must hold exactly width of them.
func ParseHashes(data []byte, width int) ([]Hash, error) {
	if err := checkTile(data, Tile{Width: width}); err != nil {
		return nil, err
	}
	hs := make([]Hash, width)
	for i := range hs {
		copy(hs[i][:], data[i*len(Hash{}):])
	}
	return hs, nil
}

// ReadTile reads a tile from r, taking the head of the full tile where r no longer has the partial one.
// The bytes have the shape of the tile, its width of hashes or of entries, and are otherwise unproven.
func ReadTile(ctx context.Context, r Reader, t Tile) ([]byte, error) {
	data, err := r.Tile(ctx, t)
	if t.Width != TileWidth && errors.Is(err, ErrNotFound) {
		data, err = r.Tile(ctx, Tile{Level: t.Level, Index: t.Index, Width: TileWidth})
		if err == nil {
			data, err = cutTile(data, t)
		}
	}
	if err == nil {
		err = checkTile(data, t)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Path(), err)
	}
	return data, nil
}

// checkTile says whether data has the shape of t.
func checkTile(data []byte, t Tile) error {
	if t.Level == EntriesLevel {
		return checkBundle(data, t.Width)
	}
	if len(data) != t.Width*len(Hash{}) {
		return fmt.Errorf("tlog: a tile of %d hashes has %d bytes, not %d", t.Width, len(data), t.Width*len(Hash{}))
	}
	return nil
}

// cutTile returns the head of a full tile that makes the partial tile t.
func cutTile(full []byte, t Tile) ([]byte, error) {
	if err := checkTile(full, Tile{Level: t.Level, Index: t.Index, Width: TileWidth}); err != nil {
		return nil, fmt.Errorf("the full tile in its place: %w", err)
	}
	end := t.Width * len(Hash{})
	if t.Level == EntriesLevel {
		var err error
		if end, err = bundleEnd(full, t.Width); err != nil {
			return nil, err
		}
	}
	return full[:end], nil
}
