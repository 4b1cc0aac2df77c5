package ring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	ringFile   = "ring"
	segmentExt = ".seg"
	unfinished = ".new" // ends the name of a file that is not whole yet
)

func segmentName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentExt) }

// segmentOf is the inverse of segmentName. Zero is no segment's id.
func segmentOf(name string) uint64 {
	digits, ok := strings.CutSuffix(name, segmentExt)
	id, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || segmentName(id) != name {
		return 0
	}
	return id
}

// disk is what the ring asks of a file system for its files. Tests put one here that
// fails, or forgets what was not synced.
type disk struct {
	create  func(path string) (file, error) // a new file, for writing; fs.ErrExist if there is one
	open    func(path string, flag int) (file, error)
	rename  func(from, to string) error // to, if there is one, gives place
	remove  func(path string) error     // fs.ErrNotExist if there is none
	list    func(dir string) (names []string, err error)
	syncDir func(dir string) error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Datasync() error // what was written, and the length that finds it, is on the disk
}

var realDisk = disk{
	create: func(path string) (file, error) {
		return osOpen(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	},
	open:   osOpen,
	rename: os.Rename,
	remove: os.Remove,
	list: func(dir string) (names []string, err error) {
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return d.Readdirnames(-1)
	},
	syncDir: func(dir string) error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	},
}

func osOpen(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

type osFile struct{ *os.File }

func (f osFile) Datasync() error { return datasync(f.File) }

// mkdirSynced makes dir and what is missing above it, each name on the disk before the
// next is made.
func mkdirSynced(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := mkdirSynced(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return nil // if it is a file, taking the lock or the first look inside says so
	}
	if err != nil {
		return err
	}
	return realDisk.syncDir(filepath.Dir(dir))
}

// writeAll is a write of which nothing may be missing.
func writeAll(f file, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// segment is the file being filled. Its owner is whoever holds making.
type segment struct {
	header header
	epoch  *epoch
	path   string
	f      file
	seal   *seal
	next   uint32 // slots before it are on the disk
}

// extend makes n more keys and returns when they are on the disk, and the segment with them.
// A segment has its name only with its first keys in it: what lies under a segment's name
// and is not whole was damaged, and is not what a crash left.
func (s *segment) extend(d *disk, dir string, n int) ([]made, error) {
	fresh := s.next == 0
	off := newID(s.header.ring, s.header.segment, s.next).offset()
	b := make([]byte, 0, slotsStart+n*slotSize)
	if fresh {
		off = 0
		b = appendHeaders(b, s.header)
	}
	batch := make([]made, n)
	for i := range batch {
		// Each by itself: a session that lasts must not keep a whole batch in memory.
		key := newKey(new([keySize]byte))
		rand.Read(key.Bytes())
		id := newID(s.header.ring, s.header.segment, s.next+uint32(i))
		var err error
		if b, err = appendSlot(b, id, key.Bytes(), s.seal); err != nil {
			return nil, err
		}
		batch[i] = made{id, key}
	}
	if err := writeAll(s.f, b, off); err != nil {
		return nil, err
	}
	if err := s.f.Datasync(); err != nil {
		return nil, err
	}
	if fresh {
		if err := d.rename(s.path+unfinished, s.path); err != nil {
			return nil, err
		}
		if err := d.syncDir(dir); err != nil {
			return nil, err
		}
	}
	s.next += uint32(n)
	return batch, nil
}

// leave closes the segment and drops its key, and removes the file if nothing of it was ever
// handed out: a full disk is not to be filled with what is left of attempts.
func (s *segment) leave(d *disk) {
	s.seal.drop()
	s.f.Close()
	if s.next == 0 {
		d.remove(s.path + unfinished)
		d.remove(s.path)
	}
}

// sealCache remembers the keys of segments that were read. The zero value is empty.
type sealCache struct {
	mu sync.Mutex
	m  map[uint64]cached // guarded by mu, at most maxSeals
}

// cached is the key of a segment, and the epoch it hangs on.
type cached struct {
	epoch *epoch
	seal  *seal
}

const maxSeals = 1024 // about a kilobyte each

func (c *sealCache) get(segment uint64) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.m[segment]
	return s, ok
}

// put remembers s, unless another was quicker, and returns what is remembered.
func (c *sealCache) put(segment uint64, s cached) cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[uint64]cached)
	}
	if old, ok := c.m[segment]; ok {
		if old.epoch == s.epoch {
			s.seal.drop()
			return old
		}
		old.seal.drop()
		delete(c.m, segment)
	}
	for other, old := range c.m { // whichever comes first goes
		if len(c.m) < maxSeals {
			break
		}
		old.seal.drop()
		delete(c.m, other)
	}
	c.m[segment] = s
	return s
}

// drop forgets the keys for which out is true.
func (c *sealCache) drop(out func(segment uint64, s cached) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for segment, s := range c.m {
		if out(segment, s) {
			s.seal.drop()
			delete(c.m, segment)
		}
	}
}
