package ring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tallystick/tallystick/keys"
)

// lockDir takes the directory for this process. The lock is gone when the file is closed,
// and so when the process dies.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("keys/ring: %w", err)
	}
	switch err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		d.Close()
		return nil, fmt.Errorf("ring %s: another process has it open, stop that one or ask it: %w", dir, ErrInUse)
	case err != nil:
		d.Close()
		return nil, fmt.Errorf("keys/ring: locking %s: %w", dir, err)
	}
	return d, nil
}

// load learns the ring's id and proves the key-encryption key, or makes a new ring.
func (r *Ring) load() error {
	b, err := os.ReadFile(filepath.Join(r.dir, ringFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r.create()
	}
	if err != nil {
		return err
	}
	h, second, err := readHeader(bytes.NewReader(b))
	if err != nil || h.kind != kindRing {
		return fmt.Errorf("its file %q cannot be read, restore it from a backup: %w", ringFile, ErrCorrupt)
	}
	if second {
		r.log.Warn("keys/ring: the first header of the ring is damaged, the second was used: copy the file from a backup", "file", filepath.Join(r.dir, ringFile))
	}
	zero, err := r.unwrap(h)
	if err != nil {
		return err
	}
	if [keySize]byte(zero) != [keySize]byte{} {
		return ErrWrongKEK
	}
	r.id = h.ring
	return nil
}

// create makes a new ring. The order: the file is complete under another name and synced,
// renamed, and the name synced; so there is a whole one or none.
func (r *Ring) create() error {
	// A ring that lost its file must not become a new ring.
	names, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), segmentExt) {
			return fmt.Errorf("it has segments but no file %q, restore that from a backup: %w", ringFile, ErrCorrupt)
		}
	}
	rand.Read(r.id[:])
	h := header{kind: kindRing, ring: r.id}
	if err := r.wrap(&h, make([]byte, keySize)); err != nil {
		return err
	}
	path := filepath.Join(r.dir, ringFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(appendHeaders(nil, h)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return r.disk.syncDir(r.dir)
}

// wrap puts the wrapped form of key into h, having seen that it can be unwrapped: a
// key-encryption key that only wraps would lose every key, and be noticed at the first read.
func (r *Ring) wrap(h *header, key []byte) error {
	w, err := r.kek.Wrap(context.Background(), nil, key, h.aad())
	if err != nil {
		return fmt.Errorf("wrapping with the key-encryption key: %w", err)
	}
	if len(w) == 0 || len(w) > maxWrapped {
		return fmt.Errorf("the key-encryption key wraps a key into %d bytes, and there is room for 1 to %d", len(w), maxWrapped)
	}
	h.wrapped = w
	back, err := r.unwrap(*h)
	if err != nil {
		return err
	}
	if [keySize]byte(back) != [keySize]byte(key) {
		return fmt.Errorf("the key-encryption key does not give back what it wrapped: %w", ErrWrongKEK)
	}
	return nil
}

// unwrap returns the key in h, keySize bytes.
func (r *Ring) unwrap(h header) ([]byte, error) {
	key, err := r.kek.Unwrap(context.Background(), nil, h.wrapped, h.aad())
	switch {
	case errors.Is(err, keys.ErrWrongKey):
		return nil, ErrWrongKEK
	case err != nil:
		return nil, fmt.Errorf("unwrapping with the key-encryption key: %w", err)
	case len(key) != keySize:
		return nil, ErrWrongKEK
	}
	return key, nil
}
