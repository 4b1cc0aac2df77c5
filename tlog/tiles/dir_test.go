package tiles

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func fromDir(t testing.TB, dir string) *Dir {
	t.Helper()
	d, err := FromDir(dir, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// whole verifies all that a reader has against its own checkpoint: every entry, every tile, every kept checkpoint.
// It returns the size.
func whole(t testing.TB, l *tlogtest.Log, r interface {
	tlog.Reader
	tlog.History
}) uint64 {
	t.Helper()
	ctx := t.Context()
	signed, err := r.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	newest, _, err := tlog.OpenCheckpoint(signed, l.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	same := func(tile tlog.Tile) {
		got, err := r.Tile(ctx, tile)
		if errors.Is(err, tlog.ErrNotFound) {
			got, err = tlog.ReadTile(ctx, r, tile)
		}
		want, werr := tlog.ReadTile(ctx, l, tile)
		if err != nil || werr != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, %v", tile.Path(), err, werr)
		}
	}
	var after uint64
	for after < newest.Size {
		sizes, err := r.Sizes(ctx, after, 100)
		if err != nil || len(sizes) == 0 {
			t.Fatalf("sizes after %d: %d, %v", after, sizes, err)
		}
		for _, size := range sizes {
			after = size
			signed, err := r.CheckpointAt(ctx, size)
			if err != nil {
				t.Fatal(err)
			}
			c, _, err := tlog.OpenCheckpoint(signed, l.Verifier())
			if err != nil || c.Size != size {
				t.Fatalf("the checkpoint of size %d is of %d, %v", size, c.Size, err)
			}
			root, err := tlog.Tiles{Reader: r, Size: size}.Root(ctx, size)
			if err != nil || root != c.Root {
				t.Errorf("the root of size %d: %v", size, err)
			}
			for level := tlog.EntriesLevel; level < 3; level++ {
				if nodes := size >> (8 * max(level, 0)); nodes > 0 {
					same(tlog.TileAt(level, nodes-1, size))
				}
			}
		}
	}
	for level := tlog.EntriesLevel; level < 3; level++ {
		for n := uint64(0); n < newest.Size>>(8*max(level, 0)); n += 256 {
			same(tlog.TileAt(level, n, newest.Size))
		}
	}
	return newest.Size
}

func TestCopy(t *testing.T) {
	l := grown(t, 1, 3, 250, 255)
	dst := filepath.Join(t.TempDir(), "a", "copy")
	var sizes uint64
	for _, size := range []uint64{0, 256, 256, 257, 300, 513, 1000, 66_000, 66_001} {
		if size > 0 {
			grow(t, l, size)
		}
		c, err := Copy(t.Context(), dst, l)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			size = 255
		}
		sizes = whole(t, l, fromDir(t, dst))
		if sizes < size || c.Size != sizes {
			t.Errorf("a log of %d entries has a copy of %d, and Copy returns %d", size, sizes, c.Size)
		}
	}
	// Any web server can serve it, and a copy can be copied.
	u := fromURL(t, serve(t, http.FileServer(http.Dir(dst))), Limits{})
	again := t.TempDir()
	if _, err := Copy(t.Context(), again, fromDir(t, dst)); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, l, fromDir(t, again)); got != sizes {
		t.Errorf("the copy of the copy has %d", got)
	}
	if _, err := Copy(t.Context(), t.TempDir(), struct{ tlog.Reader }{u}); err != nil {
		t.Error(err)
	}
	h := fromURL(t, serve(t, Handler(fromDir(t, dst), Options{})), Limits{})
	if got := whole(t, l, h); got != sizes {
		t.Errorf("over HTTP the copy has %d", got)
	}
	overHTTP := t.TempDir()
	if _, err := Copy(t.Context(), overHTTP, h); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, l, fromDir(t, overHTTP)); got != sizes {
		t.Errorf("copied over HTTP it has %d", got)
	}
	filepath.WalkDir(dst, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || strings.HasSuffix(path, ".new") {
			t.Errorf("left behind: %s, %v", path, err)
		}
		return nil
	})
}

// failing fails after so many reads, which it counts.
type failing struct {
	*tlogtest.Log
	left  *atomic.Int64
	reads *atomic.Int64
}

var errStop = errors.New("the source is gone")

func (f failing) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if f.left.Add(-1) < 0 {
		return nil, errStop
	}
	f.reads.Add(1)
	return f.Log.Tile(ctx, t)
}
func (f failing) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	if f.left.Add(-1) < 0 {
		return nil, errStop
	}
	return f.Log.CheckpointAt(ctx, size)
}

// TestCopyStops stops a copy after every read that it makes. What is in the directory then is the old tree, whole; and the next
// copy reads only what is missing.
func TestCopyStops(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	grow(t, l, 3, 400)
	base := t.TempDir()
	if _, err := Copy(t.Context(), base, l); err != nil {
		t.Fatal(err)
	}
	grow(t, l, 401, 900, 1500, 1501)
	stops, all := 0, int64(0)
	for n := int64(0); ; n++ {
		dst := t.TempDir()
		if err := os.CopyFS(dst, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		src := failing{l, new(atomic.Int64), new(atomic.Int64)}
		src.left.Store(n)
		_, err := Copy(t.Context(), dst, src)
		if err == nil {
			break
		}
		stops++
		if !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		first := src.reads.Load()
		d := fromDir(t, dst)
		if size := whole(t, l, d); size != 400 {
			t.Fatalf("stopped after %d reads, the copy has %d entries", n, size)
		}
		src.left.Store(1 << 40)
		if _, err := Copy(t.Context(), dst, src); err != nil {
			t.Fatal(err)
		}
		if size := whole(t, l, d); size != 1501 {
			t.Fatalf("stopped after %d reads and resumed, the copy has %d entries", n, size)
		}
		if n == 0 {
			all = src.reads.Load()
		}
		if got := src.reads.Load(); got != all {
			t.Errorf("stopped after %d tiles and resumed, the copy read %d of %d", first, got, all)
		}
	}
	if stops < 10 {
		t.Errorf("the copy was stopped %d times only", stops)
	}
}

// TestCopyNeverGoesBack is what a directory keeps against the log it was copied from.
func TestCopyNeverGoesBack(t *testing.T) {
	a, b := grown(t, 300), tlogtest.Start(t, tlogtest.Config{Manual: true})
	dst := t.TempDir()
	if _, err := Copy(t.Context(), dst, a); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dst)
	if _, err := b.Append(t.Context(), tlog.Leaf{Entry: []byte("another past")}); err != nil {
		t.Fatal(err)
	}
	grow(t, b, 200)
	if _, err := Copy(t.Context(), dst, b); err == nil || !strings.Contains(err.Error(), "evidence") {
		t.Errorf("a smaller log: %v", err)
	}
	grow(t, b, 300)
	var fork *tlog.ForkError
	if _, err := Copy(t.Context(), dst, b); !errors.As(err, &fork) || len(fork.A) == 0 || len(fork.B) == 0 {
		t.Errorf("a fork: %v", err)
	}
	other := tlogtest.Start(t, tlogtest.Config{Origin: "other.example", Manual: true})
	grow(t, other, 400)
	if _, err := Copy(t.Context(), dst, other); err == nil || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("another log: %v", err)
	}
	if !slices.Equal(snapshot(t, dst), before) {
		t.Error("and something was written")
	}
	for _, damaged := range []func([]byte) ([]byte, error){
		func(b []byte) ([]byte, error) { return b[:30], nil },
		func([]byte) ([]byte, error) { return nil, tlog.ErrNotFound },
	} {
		a.Inject(tlogtest.Faults{Checkpoint: damaged})
		if _, err := Copy(t.Context(), dst, a); err == nil {
			t.Error("a damaged checkpoint is copied")
		}
	}
	if !slices.Equal(snapshot(t, dst), before) {
		t.Error("and something was written")
	}
}

// TestCopyIsFaithful is a log that lies: the copy lies too, byte for byte, and is evidence.
func TestCopyIsFaithful(t *testing.T) {
	l := grown(t, 300)
	l.Inject(tlogtest.Faults{Tile: tlogtest.Replace(7, []byte("a lie"))})
	dst := t.TempDir()
	if _, err := Copy(t.Context(), dst, l); err != nil {
		t.Fatal(err)
	}
	e, err := tlog.Tiles{Reader: fromDir(t, dst), Size: 300}.Entry(t.Context(), 7)
	if err != nil || string(e) != "a lie" {
		t.Errorf("%q, %v", e, err)
	}
}

func snapshot(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, rerr := os.ReadFile(path)
			files, err = append(files, path+" "+tlog.HashLeaf(b).String()), rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDirHostile is directories made by others.
func TestDirHostile(t *testing.T) {
	outside := t.TempDir()
	write := func(path string, data []byte) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "secret"), []byte("secret"))
	write(filepath.Join(outside, "5"), []byte("secret"))
	link := func(to string) func(path string) error {
		return func(path string) error { return os.Symlink(to, path) }
	}
	tile := func(d *Dir) error { _, err := d.Tile(t.Context(), tlog.Tile{Width: 3}); return err }
	checkpoint := func(d *Dir) error { _, err := d.Checkpoint(t.Context()); return err }
	for _, c := range []struct {
		name string
		path string
		make func(path string) error
		ask  func(d *Dir) error
		says string
	}{
		{"nothing", "x", func(string) error { return nil }, checkpoint, "not found"},
		{"absolute link", "checkpoint", link(filepath.Join(outside, "secret")), checkpoint, "escapes"},
		{"relative link", "checkpoint", link("../" + filepath.Base(outside) + "/secret"), checkpoint, "escapes"},
		{"link to itself", "checkpoint", link("checkpoint"), checkpoint, "symbolic link"},
		{"link to the disk", "checkpoint", link("/dev/zero"), checkpoint, "escapes"},
		{"linked directory", "checkpoints", link(outside), func(d *Dir) error { _, err := d.CheckpointAt(t.Context(), 5); return err }, "escapes"},
		{"linked directory listed", "checkpoints", link(outside), func(d *Dir) error { _, err := d.Sizes(t.Context(), 0, 9); return err }, "escapes"},
		{"linked tiles", "tile", link(outside), tile, "escapes"},
		{"link within", "checkpoint", func(path string) error {
			return errors.Join(os.WriteFile(path+"2", []byte("x"), 0o644), os.Symlink("checkpoint2", path))
		}, checkpoint, ""},
		{"directory", "checkpoint", func(path string) error { return os.Mkdir(path, 0o755) }, checkpoint, "not a regular file"},
		{"pipe", "checkpoint", func(path string) error { return syscall.Mkfifo(path, 0o644) }, checkpoint, "not a regular file"},
		{"large checkpoint", "checkpoint", func(path string) error { return os.WriteFile(path, make([]byte, tlog.MaxCheckpoint+1), 0o644) }, checkpoint, "over the limit"},
		{"huge file", "checkpoint", func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40))
		}, checkpoint, "over the limit"},
		{"long tile", "tile/0/000.p/3", func(path string) error { return os.WriteFile(path, make([]byte, 97), 0o644) }, tile, "over the limit of 96"},
		{"short tile", "tile/0/000.p/3", func(path string) error { return os.WriteFile(path, make([]byte, 95), 0o644) }, tile, "95 bytes where 96 are due"},
		{"file in the way", "tile/0", func(path string) error { return os.WriteFile(path, nil, 0o644) }, tile, "not a directory"},
		{"sizes that are none", "checkpoints/07", func(path string) error { return os.WriteFile(path, nil, 0o644) }, func(d *Dir) error {
			if sizes, err := d.Sizes(t.Context(), 0, 9); err != nil || len(sizes) != 0 {
				return errors.New("sizes")
			}
			return nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), c.make(path)); err != nil {
				t.Fatal(err)
			}
			err := c.ask(fromDir(t, dir))
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
	if _, err := FromDir(filepath.Join(outside, "nowhere"), Limits{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// TestDirFollows is a directory that is copied into while it is read: new checkpoints are seen, however coarse the clock of
// the file system.
func TestDirFollows(t *testing.T) {
	l := grown(t, 1)
	dst := t.TempDir()
	d := fromDir(t, dst)
	if sizes, err := d.Sizes(t.Context(), 0, 9); err != nil || len(sizes) != 0 {
		t.Errorf("%d, %v", sizes, err)
	}
	for i := range uint64(30) {
		grow(t, l, 20+i)
		if _, err := Copy(t.Context(), dst, l); err != nil {
			t.Fatal(err)
		}
		if sizes, err := d.Sizes(t.Context(), 0, 100); err != nil || len(sizes) != int(2+i) || sizes[len(sizes)-1] != 20+i {
			t.Fatalf("%d, %v", sizes, err)
		}
	}
	// A clock that did not tick between two writes.
	info, err := os.Stat(filepath.Join(dst, "checkpoints"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Join(dst, "checkpoints/49"), filepath.Join(dst, "checkpoints/490")),
		os.Chtimes(filepath.Join(dst, "checkpoints"), info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if sizes, err := d.Sizes(t.Context(), 0, 100); err != nil || sizes[len(sizes)-1] != 490 {
		t.Fatalf("%d, %v", sizes, err)
	}
	// An old directory is listed once.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dst, "checkpoints"), old, old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if sizes, err := d.Sizes(t.Context(), 0, 100); err != nil || len(sizes) != 31 {
			t.Fatalf("%d, %v", sizes, err)
		}
	}
	was := d.listed
	if _, err := d.Sizes(t.Context(), 0, 100); err != nil || d.listed != was {
		t.Errorf("listed again: %v", err)
	}
}
