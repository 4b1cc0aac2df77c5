package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// The head file remembers, outside the store, how far the log was acknowledged: two slots, each in a disk block of
// its own, written in turn. A slot is
//
//	magic[8] sequence[8] size[8] root[32] origin[8] crc[4]
//
// big-endian, where origin is the beginning of the SHA-256 of the log's origin and crc is Castagnoli's over all before
// it. The valid slot with the higher sequence counts. A torn or rotten slot leaves the other, which is at most one
// batch older; two bad slots are a contradiction.
const (
	headMagic   = "tallyhd1"
	headSlot    = 4096
	headFile    = 2 * headSlot
	headContent = 8 + 8 + 8 + hashLen + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type head struct {
	fs     vfs.FS
	path   string
	origin [8]byte

	mu     sync.Mutex // guards what follows
	file   vfs.File
	seq    uint64
	state  state
	synced uint64 // the size that was last synced by this process
	buf    [headContent]byte
}

func openHead(fs vfs.FS, path, origin string) *head {
	h := &head{fs: fs, path: path}
	sum := sha256.Sum256([]byte(origin))
	copy(h.origin[:], sum[:])
	return h
}

// load reads the file. It returns os.ErrNotExist where there is none and a damageError where it cannot be believed.
func (h *head) load() (state, error) {
	f, err := h.fs.Open(h.path)
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	b := make([]byte, headFile)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return state{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	found := false
	for i := range 2 {
		if n < i*headSlot+headContent {
			continue
		}
		seq, st, ok := h.parse(b[i*headSlot : i*headSlot+headContent])
		if ok && int(seq%2) == i && (!found || seq > h.seq) {
			found, h.seq, h.state = true, seq, st
		}
	}
	if !found {
		return state{}, damagef("neither slot of the head file %s can be read", h.path)
	}
	return h.state, nil
}

func (h *head) parse(b []byte) (seq uint64, s state, ok bool) {
	end := headContent - 4
	if string(b[:8]) != headMagic || crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) ||
		!bytes.Equal(b[24+hashLen:end], h.origin[:]) {
		return 0, s, false
	}
	s.size = binary.BigEndian.Uint64(b[16:])
	copy(s.root[:], b[24:])
	return binary.BigEndian.Uint64(b[8:]), s, true
}

// create makes the file for an empty log, or for the state s where the old file was lost and that was accepted.
func (h *head) create(s state) error {
	if err := h.fs.MkdirAll(h.fs.PathDir(h.path), 0o755); err != nil {
		return err
	}
	temp := h.path + ".new"
	f, err := h.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, headFile)
	h.put(b[:headContent], 0, s)
	h.put(b[headSlot:headSlot+headContent], 1, s)
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := h.fs.Rename(temp, h.path); err != nil {
		return err
	}
	return syncDir(h.fs, h.fs.PathDir(h.path))
}

func (h *head) put(b []byte, seq uint64, s state) {
	copy(b, headMagic)
	binary.BigEndian.PutUint64(b[8:], seq)
	binary.BigEndian.PutUint64(b[16:], s.size)
	copy(b[24:], s.root[:])
	copy(b[24+hashLen:], h.origin[:])
	end := headContent - 4
	binary.BigEndian.PutUint32(b[end:], crc32.Checksum(b[:end], castagnoli))
}

// open makes the file writable. load was called before.
func (h *head) open() error {
	f, err := h.fs.OpenReadWrite(h.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.file = f
	return nil
}

// write notes s. When it returns, the end of this process cannot undo it; the end of the machine's power can.
func (h *head) write(s state) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return tlog.ErrClosed
	}
	h.put(h.buf[:], h.seq+1, s)
	if _, err := h.file.WriteAt(h.buf[:], int64((h.seq+1)%2)*headSlot); err != nil {
		return fmt.Errorf("head file: %w", err)
	}
	h.seq++
	h.state = s
	return nil
}

// sync returns when the file durably knows that size, which was written before.
func (h *head) sync(size uint64) error {
	h.mu.Lock()
	f, known, synced := h.file, h.state.size, h.synced
	h.mu.Unlock()
	if f == nil {
		return tlog.ErrClosed
	}
	if size <= synced {
		return nil
	}
	if err := f.SyncData(); err != nil {
		return fmt.Errorf("head file: %w", err)
	}
	h.mu.Lock()
	h.synced = max(h.synced, known)
	h.mu.Unlock()
	return nil
}

func (h *head) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil
	}
	f := h.file
	h.file = nil
	err := f.SyncData()
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a directory durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeFile puts a small file in place so that after a crash there is all of it or none.
func writeFile(fs vfs.FS, path string, content []byte) error {
	temp := path + ".new"
	f, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	// Pebble's file systems may scribble over what they are given.
	if _, err = f.Write(bytes.Clone(content)); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := fs.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(path))
}

func exists(fs vfs.FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
