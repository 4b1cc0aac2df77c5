package ring

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

const (
	ringFile   = "ring"
	segmentExt = ".seg"
)

func segmentName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentExt) }

// disk is what the ring asks of a file system for its segments. Tests put one here that
// fails, or forgets what was not synced.
type disk struct {
	create  func(path string) (file, error) // a new file, for writing; fs.ErrExist if there is one
	open    func(path string, flag int) (file, error)
	remove  func(path string) error
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
	remove: os.Remove,
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

// segment is the file being filled. Its owner is whoever holds making.
type segment struct {
	header header
	path   string
	f      file
	seal   cipher.AEAD
	next   uint32 // slots before it are on the disk
}

// extend makes n more keys and returns when they are on the disk, and the segment with them.
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
		b = appendSlot(b, id, key, s.seal)
		batch[i] = made{id, key}
	}
	if n, err := s.f.WriteAt(b, off); err != nil {
		return nil, err
	} else if n < len(b) {
		return nil, io.ErrShortWrite
	}
	if err := s.f.Datasync(); err != nil {
		return nil, err
	}
	if fresh {
		if err := d.syncDir(dir); err != nil {
			return nil, err
		}
	}
	s.next += uint32(n)
	return batch, nil
}

// leave closes the segment, and removes it if nothing of it was ever handed out: a full disk
// is not to be filled with what is left of attempts.
func (s *segment) leave(d *disk) {
	s.f.Close()
	if s.next == 0 {
		d.remove(s.path)
	}
}

// sealCache remembers the keys of segments that were read, so that the key-encryption key
// is not asked again for each slot. The zero value is empty.
type sealCache struct {
	mu sync.Mutex
	m  map[uint64]cipher.AEAD // guarded by mu, at most maxSeals
}

const maxSeals = 1024 // about a kilobyte each

func (c *sealCache) get(segment uint64) (cipher.AEAD, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seal, ok := c.m[segment]
	return seal, ok
}

func (c *sealCache) put(segment uint64, seal cipher.AEAD) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[uint64]cipher.AEAD)
	}
	for other := range c.m { // whichever comes first goes
		if len(c.m) < maxSeals {
			break
		}
		delete(c.m, other)
	}
	c.m[segment] = seal
}
