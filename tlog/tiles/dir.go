package tiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A Dir is a log in a directory: the files checkpoint, tile/… and checkpoints/<size>, with the contents that Handler
// serves under these paths. Nothing outside the directory is read, wherever its links point. Safe for concurrent
// use.
type Dir struct {
	root   *os.Root
	limits Limits

	mu     sync.Mutex
	sizes  []uint64  // of checkpoints/, ascending
	listed time.Time // when sizes was read; zero for never
	mtime  time.Time // of checkpoints/ at that moment
}

var (
	_ tlog.Reader  = (*Dir)(nil)
	_ tlog.History = (*Dir)(nil)
)

// FromDir opens a directory, which must exist. Close it when it is no longer read.
func FromDir(dir string, limits Limits) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the log's directory: %w", err)
	}
	return &Dir{root: root, limits: limits.withDefaults()}, nil
}

// Close ends the use of the directory.
func (d *Dir) Close() error { return d.root.Close() }

// read returns a regular file of at most limit bytes.
func (d *Dir) read(ctx context.Context, path string, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe in the way must not keep us waiting
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s in %s: %w", path, d.root.Name(), tlog.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", path, d.root.Name(), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s in %s is not a regular file", path, d.root.Name())
	}
	if info.Size() > int64(limit) {
		return nil, fmt.Errorf("%s in %s has %d bytes, over the limit of %d", path, d.root.Name(), info.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)))
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", path, d.root.Name(), err)
	}
	return data, nil
}

// Checkpoint implements tlog.Reader.
func (d *Dir) Checkpoint(ctx context.Context) ([]byte, error) {
	return d.read(ctx, "checkpoint", d.limits.Checkpoint)
}

// Tile implements tlog.Reader. A tile of hashes has the right length; a bundle has at most the limit.
func (d *Dir) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	path, err := tilePath(t)
	if err != nil {
		return nil, err
	}
	data, err := d.read(ctx, path, d.limits.tile(t))
	if err != nil {
		return nil, err
	}
	if err := checkLength(t, len(data)); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", path, d.root.Name(), err)
	}
	return data, nil
}

// CheckpointAt implements tlog.History.
func (d *Dir) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	return d.read(ctx, checkpointPath(size), d.limits.Checkpoint)
}

func checkpointPath(size uint64) string { return "checkpoints/" + strconv.FormatUint(size, 10) }

// Sizes implements tlog.History.
func (d *Dir) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.list(); err != nil {
		return nil, err
	}
	from := sort.Search(len(d.sizes), func(i int) bool { return d.sizes[i] > after })
	return slices.Clone(d.sizes[from:min(len(d.sizes), from+max)]), nil
}

// list reads the names in checkpoints/ unless the directory is as it was then. A directory that changed less than a
// second before it was read may have changed again since without its time telling. d.mu is held.
func (d *Dir) list() error {
	f, err := d.root.Open("checkpoints")
	if errors.Is(err, fs.ErrNotExist) {
		d.sizes = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("the kept checkpoints: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("the kept checkpoints: %w", err)
	}
	if !d.listed.IsZero() && info.ModTime().Equal(d.mtime) && d.listed.Sub(d.mtime) > time.Second {
		return nil
	}
	listed := time.Now()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("the kept checkpoints: %w", err)
	}
	d.sizes = d.sizes[:0]
	for _, name := range names {
		if size, ok := parseSize(name); ok {
			d.sizes = append(d.sizes, size)
		}
	}
	slices.Sort(d.sizes)
	d.listed, d.mtime = listed, info.ModTime()
	return nil
}
