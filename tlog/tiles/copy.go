package tiles

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/tlog"
)

// copiers is how many tiles are on their way at once.
const copiers = 8

// Copy writes what src has published into the directory dst, which is made if need be, in the layout that FromDir
// reads and any web server can serve. With a tlog.History it copies the kept checkpoints too, and the partial tiles
// that only they imply.
//
// It copies and verifies nothing, so that what a log serves can be kept as it was served; verify the copy. It returns the
// checkpoint that src claims.
//
// The order is that of a log: tiles, then earlier checkpoints, then the newest one, each on the disk before the next.
// Whenever it stops, dst is a whole copy of an earlier tree or of none. Full tiles that are there are not read again, so a
// copy that stopped, or an old one, goes on where it ended. A directory never goes back: a log of another
// name, a smaller tree, or another root at the same size is refused. One Copy at a time may write to a directory.
func Copy(ctx context.Context, dst string, src tlog.Reader) (tlog.Checkpoint, error) {
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("the checkpoint to copy: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return c, err
	}
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return c, err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return c, err
	}
	defer root.Close()
	w := &copier{root: root, src: src, dirty: map[string]bool{".": true}}
	if err := w.continues(ctx, dst, c, signed); err != nil {
		return c, err
	}
	history, _ := src.(tlog.History)
	var sizes []uint64
	if history != nil {
		if sizes, err = keptSizes(ctx, history, c.Size); err != nil {
			return c, err
		}
	}
	if err := each(ctx, tilesOf(c.Size, sizes), w.tile); err != nil {
		return c, err
	}
	if err := w.sync(); err != nil {
		return c, err
	}
	err = each(ctx, slices.Values(sizes), func(ctx context.Context, size uint64) error {
		name := checkpointPath(size)
		w.touch(name)
		if _, err := root.Stat(name); err == nil {
			return nil
		}
		old, err := history.CheckpointAt(ctx, size)
		if size == c.Size && errors.Is(err, tlog.ErrNotFound) {
			old, err = signed, nil // a newer one has taken its place in the log
		}
		if err != nil {
			return fmt.Errorf("the kept checkpoint of size %d: %w", size, err)
		}
		return w.write(name, old)
	})
	if err == nil {
		err = w.sync()
	}
	if err == nil {
		err = w.write("checkpoint", signed)
	}
	if err == nil {
		err = w.sync()
	}
	return c, err
}

// keptSizes returns the sizes of all kept checkpoints up to that of the copy.
func keptSizes(ctx context.Context, h tlog.History, size uint64) ([]uint64, error) {
	var all []uint64
	for after := uint64(0); ; {
		page, err := h.Sizes(ctx, after, maxSizes)
		if errors.Is(err, tlog.ErrNotFound) {
			return nil, nil // a log behind HTTP that keeps none
		}
		if err != nil {
			return nil, fmt.Errorf("the kept checkpoints: %w", err)
		}
		for _, s := range page {
			if s <= after {
				return nil, fmt.Errorf("tiles: the kept checkpoints are not in order: %d after %d", s, after)
			}
			if after = s; s > size {
				return all, nil
			}
			all = append(all, s)
		}
		if len(page) == 0 {
			return all, nil
		}
	}
}

// tilesOf yields every tile of a tree of the given size, and the partial tiles that earlier sizes imply and that no full tile
// of this tree replaces.
func tilesOf(size uint64, earlier []uint64) iter.Seq[tlog.Tile] {
	return func(yield func(tlog.Tile) bool) {
		for level := tlog.EntriesLevel; level < 0 || size>>(tlog.TileHeight*level) > 0; level++ {
			nodes := size >> (tlog.TileHeight * max(level, 0))
			for n := range nodes / tlog.TileWidth {
				if !yield(tlog.Tile{Level: level, Index: n, Width: tlog.TileWidth}) {
					return
				}
			}
			edge, last := nodes/tlog.TileWidth, 0
			for _, s := range append(slices.Clone(earlier), size) {
				nodes := s >> (tlog.TileHeight * max(level, 0))
				width := int(nodes % tlog.TileWidth)
				if nodes/tlog.TileWidth != edge || width == last || width == 0 {
					continue
				}
				last = width
				if !yield(tlog.Tile{Level: level, Index: edge, Width: width}) {
					return
				}
			}
			if level >= 7 {
				return
			}
		}
	}
}

// each calls do for every item, several at a time, until one fails.
func each[T any](ctx context.Context, items iter.Seq[T], do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range copiers {
		wg.Go(func() {
			for item := range work {
				if err := do(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
	for item := range items {
		select {
		case work <- item:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

type copier struct {
	root *os.Root
	src  tlog.Reader

	mu    sync.Mutex
	dirty map[string]bool // directories whose names are not on the disk yet
}

// continues refuses a copy that would replace what dst holds by something that does not continue it.
func (w *copier) continues(ctx context.Context, dst string, c tlog.Checkpoint, signed []byte) error {
	d := &Dir{root: w.root, limits: Limits{}.withDefaults()}
	old, err := d.Checkpoint(ctx)
	if errors.Is(err, tlog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := tlog.UnverifiedCheckpoint(old)
	if err != nil {
		return fmt.Errorf("the checkpoint in %s: %w; copy into another directory", dst, err)
	}
	switch {
	case was.Origin != c.Origin:
		return fmt.Errorf("tiles: %s holds the log %q, not %q; copy into another directory", dst, was.Origin, c.Origin)
	case was.Size > c.Size:
		return fmt.Errorf("tiles: %s holds %d entries and the log now says that it has %d; keep the directory, it may be evidence",
			dst, was.Size, c.Size)
	case was.Size == c.Size && was.Root != c.Root:
		return &tlog.ForkError{A: old, B: signed, Reason: "the copy has another root at the same size"}
	}
	return nil
}

// tile copies one tile.
func (w *copier) tile(ctx context.Context, t tlog.Tile) error {
	name := t.Path()
	w.touch(name)
	if info, err := w.root.Stat(name); err == nil && info.Mode().IsRegular() {
		if t.Level != tlog.EntriesLevel && info.Size() == int64(t.Width*len(tlog.Hash{})) ||
			t.Level == tlog.EntriesLevel && info.Size() >= int64(2*t.Width) {
			return nil
		}
	}
	data, err := w.src.Tile(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.write(name, data)
}

// touch notes that the name of a file, and those of the directories above it, are to be on the disk after sync, even where
// the file is there already: the copy that wrote it may have ended before its own sync.
func (w *copier) touch(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d := path.Dir(name); !w.dirty[d]; d = path.Dir(d) {
		w.dirty[d] = true
	}
}

// write makes a file appear with all its bytes or not at all.
func (w *copier) write(name string, data []byte) error {
	if err := w.root.MkdirAll(path.Dir(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := w.root.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = w.root.Rename(name+".new", name)
	}
	if err != nil {
		w.root.Remove(name + ".new")
		return err
	}
	return nil
}

// sync brings the names of all files written to the disk.
func (w *copier) sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range w.dirty {
		f, err := w.root.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	w.dirty = map[string]bool{".": true}
	return nil
}
