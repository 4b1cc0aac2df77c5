package ring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/keys"
)

// testKEK is a key-encryption key in memory, which can be made to fail.
type testKEK struct {
	aead cipher.AEAD

	mu    sync.Mutex
	down  error // guarded by mu: what Wrap and Unwrap answer, if anything
	asked int   // guarded by mu
}

func newKEK(b byte) *testKEK {
	var key [32]byte
	for i := range key {
		key[i] = b
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &testKEK{aead: aead}
}

func (k *testKEK) ask() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return k.down
}

func (k *testKEK) setDown(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = err
}

func (k *testKEK) Wrap(_ context.Context, dst, key, aad []byte) ([]byte, error) {
	if err := k.ask(); err != nil {
		return nil, err
	}
	return k.aead.Seal(dst, nil, key, aad), nil
}

func (k *testKEK) Unwrap(_ context.Context, dst, wrapped, aad []byte) ([]byte, error) {
	if err := k.ask(); err != nil {
		return nil, err
	}
	out, err := k.aead.Open(dst, nil, wrapped, aad)
	if err != nil {
		return nil, keys.ErrWrongKey
	}
	return out, nil
}

// memDisk is a disk in memory that knows what was synced and what was not.
type memDisk struct {
	mu      sync.Mutex
	inodes  map[string]*inode // by path, as a running process sees them
	durable map[string]*inode // the names a power cut leaves
	syncs   int
	fault   func(op, path string) error // asked before each operation; guarded by mu
	short   bool                        // the next write with a fault writes half, and says so
	before  func(op, path string)       // called before each operation; guarded by mu
}

type inode struct {
	now, synced []byte
	pending     []write // since the last sync, oldest first
}

type write struct {
	off int64
	b   []byte
}

func newMemDisk() *memDisk {
	return &memDisk{inodes: map[string]*inode{}, durable: map[string]*inode{}}
}

func (d *memDisk) check(op, path string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op, path)
}

// gate calls before, which may use the disk.
func (d *memDisk) gate(op, path string) {
	d.mu.Lock()
	before := d.before
	d.mu.Unlock()
	if before != nil {
		before(op, path)
	}
}

func (d *memDisk) setBefore(f func(op, path string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = f
}

// copy returns what stands on the disk now, by name: a backup.
func (d *memDisk) copy() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := map[string][]byte{}
	for path, n := range d.inodes {
		files[filepath.Base(path)] = slices.Clone(n.now)
	}
	return files
}

// restored returns a disk with such files in dir.
func restored(dir string, files map[string][]byte) *memDisk {
	d := newMemDisk()
	for name, b := range files {
		n := &inode{now: slices.Clone(b), synced: slices.Clone(b)}
		d.inodes[filepath.Join(dir, name)], d.durable[filepath.Join(dir, name)] = n, n
	}
	return d
}

func (d *memDisk) setFault(f func(op, path string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

func (d *memDisk) disk() *disk {
	return &disk{
		create: func(path string) (file, error) {
			d.gate("create", path)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("create", path); err != nil {
				return nil, err
			}
			if d.inodes[path] != nil {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrExist}
			}
			d.inodes[path] = &inode{}
			return &memFile{d: d, n: d.inodes[path], path: path}, nil
		},
		open: func(path string, flag int) (file, error) {
			d.gate("open", path)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("open", path); err != nil {
				return nil, err
			}
			if d.inodes[path] == nil {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return &memFile{d: d, n: d.inodes[path], path: path, ro: flag == os.O_RDONLY}, nil
		},
		rename: func(from, to string) error {
			d.gate("rename", from)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("rename", from); err != nil {
				return err
			}
			if d.inodes[from] == nil {
				return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
			}
			d.inodes[to] = d.inodes[from]
			delete(d.inodes, from)
			return nil
		},
		remove: func(path string) error {
			d.gate("remove", path)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("remove", path); err != nil {
				return err
			}
			if d.inodes[path] == nil {
				return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
			}
			delete(d.inodes, path)
			return nil
		},
		list: func(dir string) (names []string, err error) {
			d.gate("list", dir)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("list", dir); err != nil {
				return nil, err
			}
			for path := range d.inodes {
				names = append(names, filepath.Base(path))
			}
			return names, nil
		},
		syncDir: func(dir string) error {
			d.gate("syncdir", dir)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.check("syncdir", dir); err != nil {
				return err
			}
			d.syncs++
			d.durable = maps.Clone(d.inodes)
			return nil
		},
	}
}

// crash returns the disk after a power cut: what was synced, and of what was not, any part
// in any order, by sectors. A name that was not synced is what it was or what it became.
func (d *memDisk) crash(rng *rand.Rand) *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newMemDisk()
	names := maps.Clone(d.durable)
	for path := range d.inodes {
		names[path] = d.durable[path]
	}
	for _, path := range slices.Sorted(maps.Keys(names)) {
		n := names[path]
		if rng.IntN(2) == 0 {
			n = d.inodes[path]
		}
		if n == nil {
			continue
		}
		b := append([]byte(nil), n.synced...)
		for _, w := range n.pending {
			for off := int64(0); off < int64(len(w.b)); {
				end := min(int64(len(w.b)), off+512-(w.off+off)%512)
				if rng.IntN(2) == 0 {
					b = writeAt(b, w.off+off, w.b[off:end])
				}
				off = end
			}
		}
		after.inodes[path] = &inode{now: b, synced: append([]byte(nil), b...)}
	}
	after.durable = maps.Clone(after.inodes)
	return after
}

func writeAt(b []byte, off int64, p []byte) []byte {
	if grow := off + int64(len(p)) - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[off:], p)
	return b
}

type memFile struct {
	d      *memDisk
	n      *inode
	path   string
	ro     bool
	closed bool
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.gate("read", f.path)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.check("read", f.path); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.gate("write", f.path)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.ro || f.closed {
		return 0, fs.ErrInvalid
	}
	err := f.d.check("write", f.path)
	if err != nil {
		if !f.d.short {
			return 0, err
		}
		p, err = p[:len(p)/2], nil // a file system that lies by omission
	}
	f.n.now = writeAt(f.n.now, off, p)
	f.n.pending = append(f.n.pending, write{off, append([]byte(nil), p...)})
	return len(p), err
}

func (f *memFile) Datasync() error {
	f.d.gate("sync", f.path)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.check("sync", f.path); err != nil {
		// As Linux does it: told once, and what was dirty is now taken for clean.
		f.n.pending = nil
		return err
	}
	f.d.syncs++
	f.n.synced = append([]byte(nil), f.n.now...)
	f.n.pending = nil
	return nil
}

func (f *memFile) Close() error {
	f.closed = true
	return nil
}

var errInjected = errors.New("injected")

// files returns how many segments there are, and unfinished files.
func (d *memDisk) files() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.inodes {
		if filepath.Base(path) != ringFile {
			n++
		}
	}
	return n
}

// open opens a ring for a test, which is closed at its end.
func open(t testing.TB, dir string, cfg Config) *Ring {
	t.Helper()
	if cfg.KEK == nil {
		cfg.KEK = newKEK(1)
	}
	r, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// world is what a test knows must be true of a ring.
type world map[ID][]byte // nil when erased

// take asks for n new keys and remembers them.
func (w world) take(t testing.TB, r *Ring, n int) (ids []ID) {
	t.Helper()
	for range n {
		id, key, err := r.New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, dup := w[id]; dup {
			t.Fatalf("%v was handed out twice", id)
		}
		w[id] = append([]byte(nil), key.Bytes()...)
		ids = append(ids, id)
	}
	return ids
}

func (w world) erase(t testing.TB, r *Ring, id ID) {
	t.Helper()
	if err := r.Erase(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w[id] = nil
}

// check opens every key, and wants the same bytes or the right error. but holds errors that
// are wanted for once.
func (w world) check(t testing.TB, r *Ring, but map[ID]error) {
	t.Helper()
	for id, want := range w {
		key, err := r.Open(t.Context(), id)
		wantErr := but[id]
		if wantErr == nil && want == nil {
			wantErr = ErrErased
		}
		switch {
		case wantErr != nil:
			if !errors.Is(err, wantErr) || key.Bytes() != nil {
				t.Fatalf("%v: key %x, error %v; want error %v", id, key.Bytes(), err, wantErr)
			}
		case err != nil:
			t.Fatal(err)
		case string(key.Bytes()) != string(want):
			t.Fatalf("%v: a wrong key", id)
		}
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentExt))
	if err != nil {
		t.Fatal(err)
	}
	return names
}
