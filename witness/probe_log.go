package witness

import (
	"context"
	"crypto/sha256"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// A smallLog is a log in memory, whose leaves follow from its name: so one that was witnessed yesterday is the same today.
// Not safe for concurrent use while it grows.
type smallLog struct {
	origin  string
	signers []note.Signer
	leaves  []tlog.Hash
}

var _ tlog.Reader = (*smallLog)(nil)

// grow makes the log have size leaves, if it has less.
func (l *smallLog) grow(size uint64) {
	for i := uint64(len(l.leaves)); i < size; i++ {
		l.leaves = append(l.leaves, tlog.HashLeaf(fmt.Appendf(nil, "leaf %d of %s, a log for conformance probes", i, l.origin)))
	}
}

// Checkpoint implements tlog.Reader. Nothing is published.
func (l *smallLog) Checkpoint(context.Context) ([]byte, error) { return nil, tlog.ErrNotFound }

// Tile implements tlog.Reader, for tiles of hashes.
func (l *smallLog) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	var out []byte
	for i := range t.Width {
		h, ok := l.perfect(t.Level*tlog.TileHeight, t.Index*tlog.TileWidth+uint64(i))
		if !ok {
			return nil, tlog.ErrNotFound
		}
		out = append(out, h[:]...)
	}
	return out, nil
}

// perfect returns node i of a level of the tree.
func (l *smallLog) perfect(level int, i uint64) (tlog.Hash, bool) {
	if level < 0 || level > 32 || (i+1)<<level > uint64(len(l.leaves)) {
		return tlog.Hash{}, false
	}
	if level == 0 {
		return l.leaves[i], true
	}
	left, _ := l.perfect(level-1, 2*i)
	right, _ := l.perfect(level-1, 2*i+1)
	return tlog.HashChildren(left, right), true
}

func (l *smallLog) tree(size uint64) tlog.Tiles {
	l.grow(size)
	return tlog.Tiles{Reader: l, Size: size}
}

// at returns the log's tree of that size.
func (l *smallLog) at(size uint64) tlog.Checkpoint {
	return tlog.Checkpoint{Origin: l.origin, Size: size, Root: must(l.tree(size).Root(context.Background(), size))}
}

// prove proves that the tree of size continues that of old, which is not larger.
func (l *smallLog) prove(old, size uint64) tlog.Proof {
	return must(l.tree(size).Consistency(context.Background(), old))
}

// fork returns a tree of that size that the log does not have.
func (l *smallLog) fork(size uint64) tlog.Checkpoint {
	return tlog.Checkpoint{Origin: l.origin, Size: size, Root: sha256.Sum256(fmt.Appendf(nil, "another tree of size %d", size))}
}

// sign signs a checkpoint, also one that no reader accepts, with extension lines if there are any.
func (l *smallLog) sign(c tlog.Checkpoint, extensions ...string) []byte {
	text := string(c.Text())
	for _, x := range extensions {
		text += x + "\n"
	}
	return l.signText(text)
}

func (l *smallLog) signText(text string) []byte {
	return must(note.Sign(&note.Note{Text: text}, l.signers...))
}

// body returns the request that takes a witness from old to size as it should be.
func (l *smallLog) body(old, size uint64) []byte {
	r := addCheckpoint{old: old, proof: l.prove(old, size), signed: l.sign(l.at(size))}
	return r.append(nil)
}

// must is for what cannot fail: everything is in memory, and signers were tried when the probe began.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
