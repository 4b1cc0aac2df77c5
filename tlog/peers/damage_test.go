package peers

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/client"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A damaged log is one of ours that is served wrong.
type damaged struct {
	tlog.Reader
	tile       func(tlog.Tile, []byte) ([]byte, error)
	checkpoint func([]byte) ([]byte, error)
}

func (d damaged) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, err := d.Reader.Tile(ctx, t)
	if err == nil && d.tile != nil {
		return d.tile(t, bytes.Clone(data))
	}
	return data, err
}

func (d damaged) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := d.Reader.Checkpoint(ctx)
	if err == nil && d.checkpoint != nil {
		return d.checkpoint(signed)
	}
	return signed, err
}

// lost is a tile that is not there, in any width.
func lost(level int, index uint64) func(tlog.Tile, []byte) ([]byte, error) {
	return func(t tlog.Tile, data []byte) ([]byte, error) {
		if t.Level == level && t.Index == index {
			return nil, tlog.ErrNotFound
		}
		return data, nil
	}
}

// another returns the checkpoint of a log of the same name and key whose entry 7 is another.
func another(t *testing.T, size uint64) []byte {
	t.Helper()
	l := tlogtest.Start(t, tlogtest.Config{Origin: origin, Manual: true})
	var leaves []tlog.Leaf
	for i := range size {
		leaves = append(leaves, tlog.Leaf{Entry: entry(i)})
	}
	leaves[7].Entry = []byte("another entry 7")
	if _, err := l.Append(t.Context(), leaves...); err != nil {
		t.Fatal(err)
	}
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestDamage is the test of the peers: what is wrong, they notice. fsck reads everything; the checksum database
// authenticates every tile that a proof touches; we hash the proof up to the root.
func TestDamage(t *testing.T) {
	const size = 66_000
	for name, open := range map[string]func(*testing.T) engine{"memory": memory, "local": onDisk} {
		t.Run(name, func(t *testing.T) {
			e := open(t)
			e.grow(t, 0, size)
			fork := another(t, size)
			for _, c := range []struct {
				name  string
				d     damaged
				proof int64 // an entry whose proof needs what is wrong; -1 where hashes are not concerned
			}{
				{"a leaf hash", damaged{tile: tlogtest.Flip(0, 7)}, 6},
				{"the last leaf hash", damaged{tile: tlogtest.Flip(0, size-1)}, size - 2},
				{"a hash of level 1", damaged{tile: tlogtest.Flip(1, 3)}, 2 * 256},
				{"the last hash of level 1", damaged{tile: tlogtest.Flip(1, size/256-1)}, size - 1},
				{"the hash of level 2", damaged{tile: tlogtest.Flip(2, 0)}, size - 1},
				{"the first entry", damaged{tile: tlogtest.Replace(0, []byte("forged"))}, -1},
				{"an entry", damaged{tile: tlogtest.Replace(300, []byte("forged"))}, -1},
				{"the last entry", damaged{tile: tlogtest.Replace(size-1, []byte("forged"))}, -1},
				{"an entry and its hash", damaged{tile: func(t tlog.Tile, data []byte) ([]byte, error) {
					if t.Level == 0 && t.Index == 1 {
						h := tlog.HashLeaf([]byte("forged"))
						copy(data[44*32:], h[:])
					}
					return tlogtest.Replace(300, []byte("forged"))(t, data)
				}}, 300},
				{"no tile", damaged{tile: lost(0, 1)}, 300},
				{"no last tile", damaged{tile: lost(0, size/256)}, size - 1},
				{"no bundle", damaged{tile: lost(tlog.EntriesLevel, 2)}, -1},
				{"another root, well signed", damaged{checkpoint: func([]byte) ([]byte, error) { return fork, nil }}, 7},
				{"a signature", damaged{checkpoint: func(b []byte) ([]byte, error) {
					return bytes.Replace(b, []byte("\n66000\n"), []byte("\n65999\n"), 1), nil
				}}, -1},
			} {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.d.Reader = e
					f := serve(t, c.d)
					// One worker stops at a fault and leaves the rest waiting for it for ever; of four, three go on.
					if err := check(f, e.verifier, 4, time.Minute); err == nil || errors.Is(err, errHangs) {
						t.Errorf("Tessera's fsck: %v", err)
					}
					if c.proof < 0 {
						return
					}
					signed, err := c.d.Checkpoint(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					cp, _, err := tlog.OpenCheckpoint(signed, e.verifier)
					if err != nil {
						t.Fatal(err)
					}
					if err := theirs(t, f, cp, c.proof); err == nil {
						t.Errorf("x/mod proves entry %d", c.proof)
					}
					if err := ours(t, c.d, cp, uint64(c.proof)); err == nil {
						t.Errorf("we prove entry %d", c.proof)
					}
				})
			}
			if f := serve(t, e); theirs(t, f, must(t, e), 300) != nil || ours(t, e, must(t, e), 300) != nil {
				t.Error("a good log is not proven")
			}
		})
	}
}

func must(t *testing.T, e engine) tlog.Checkpoint {
	t.Helper()
	signed, err := e.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := tlog.OpenCheckpoint(signed, e.verifier)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// theirs proves an entry with the checksum database's code.
func theirs(t *testing.T, f *client.HTTPFetcher, c tlog.Checkpoint, i int64) error {
	tree := sumdb.Tree{N: int64(c.Size), Hash: sumdb.Hash(c.Root)}
	r := sumdb.TileHashReader(tree, tileReader{t.Context(), f})
	leaf, err := r.ReadHashes([]int64{sumdb.StoredHashIndex(0, i)})
	if err != nil {
		return err
	}
	p, err := sumdb.ProveRecord(tree.N, i, r)
	if err != nil {
		return err
	}
	return sumdb.CheckRecord(p, tree.N, tree.Hash, i, leaf[0])
}

// ours proves an entry with our code.
func ours(t *testing.T, r tlog.Reader, c tlog.Checkpoint, i uint64) error {
	tiles := tlog.Tiles{Reader: r, Size: c.Size}
	e, err := tiles.Entry(t.Context(), i)
	if err != nil {
		return err
	}
	p, err := tiles.Inclusion(t.Context(), i)
	if err != nil {
		return err
	}
	return tlog.VerifyInclusion(tlog.HashLeaf(e), i, c.Size, c.Root, p)
}
