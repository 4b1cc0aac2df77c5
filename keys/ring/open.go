package ring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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

// load learns the ring's id and has its epoch key unwrapped, or makes a new ring, or makes
// one of the first version into one that has epochs.
func (r *Ring) load(ctx context.Context) error {
	segments, err := r.tidy()
	if err != nil {
		return err
	}
	h, second, err := r.readRing()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if segments { // a ring that lost its file must not become a new ring
			return fmt.Errorf("it has segments but no file %q, restore that from a backup: %w", ringFile, ErrCorrupt)
		}
		rand.Read(r.id[:])
		return r.enter(ctx, 1)
	case err != nil:
		return err
	}
	if second {
		r.log.Warn("keys/ring: the first header of the ring is damaged, the second was used: a Rewrap writes both anew", "file", filepath.Join(r.dir, ringFile))
	}
	r.id = h.ring
	if h.epoch == 0 {
		zero, _, err := r.unwrap(ctx, r.timeout, h.wrapped, h.aad(), -1)
		if err != nil {
			return err
		}
		if zero != [keySize]byte{} {
			return ErrWrongKEK
		}
		return r.enter(ctx, 1)
	}
	e := r.epochOf(h)
	if err := r.ready(ctx, e); err != nil {
		return err
	}
	if e.by > 0 {
		r.log.Warn("keys/ring: the epoch key is still wrapped by a former tenant key", "epoch", e.number)
	}
	r.current.Store(e)
	return nil
}

// tidy takes away what was being written when a life ended, and says whether there are
// segments.
func (r *Ring) tidy() (segments bool, err error) {
	names, err := r.disk.list(r.dir)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		of, ok := strings.CutSuffix(name, unfinished)
		switch {
		case ok && (of == ringFile || segmentOf(of) != 0):
			if err := r.disk.remove(filepath.Join(r.dir, name)); err != nil {
				return false, err
			}
		case segmentOf(name) != 0:
			segments = true
		}
	}
	return segments, nil
}

// readRing returns the header of the ring's file, and whether it was the second.
func (r *Ring) readRing() (header, bool, error) {
	f, err := r.disk.open(filepath.Join(r.dir, ringFile), os.O_RDONLY)
	if err != nil {
		return header{}, false, err
	}
	defer f.Close()
	h, second, err := readHeader(f)
	if err == nil && !h.ofRing() {
		err = ErrCorrupt
	}
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("its file %q cannot be read, restore it from a backup: %w", ringFile, err)
	}
	return h, second, err
}

// enter begins epoch number: from here on it is the current one, on the disk and here. The
// order: the ring's file is complete under another name and synced, renamed, and the name
// synced; so there is a whole one or the one before. Either will do: no segment is of an
// epoch that its own header does not hold.
func (r *Ring) enter(ctx context.Context, number uint64) error {
	e, h, err := r.mint(ctx, number)
	if err != nil {
		return err
	}
	if err := r.saveRing(h); err != nil {
		e.drop()
		return err
	}
	unlock, err := r.lock(ctx, r.making)
	if err != nil {
		e.drop()
		return err
	}
	defer unlock()
	if r.live != nil {
		r.live.leave(r.disk)
		r.live = nil
	}
	r.epochsMu.Lock()
	r.epochs[h.epochName()] = e
	r.epochsMu.Unlock()
	r.current.Store(e)
	return nil
}

func (r *Ring) saveRing(h header) error {
	path := filepath.Join(r.dir, ringFile)
	f, err := r.createOver(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err = writeAll(f, appendHeaders(nil, h), 0); err == nil {
		err = f.Datasync()
	}
	if err == nil {
		r.swap.Lock()
		defer r.swap.Unlock()
		err = r.replace(path)
	}
	if err != nil {
		r.disk.remove(path + unfinished)
	}
	return err
}

// replace puts the file that createOver made, which is whole and synced, in the place of the one at path. The
// caller holds swap alone.
func (r *Ring) replace(path string) error {
	r.doubtful.Store(true)
	if err := r.disk.rename(path+unfinished, path); err != nil {
		return err
	}
	return r.settle()
}

// createOver makes the file that is to take the place of the one at path. What an attempt
// left that could not be taken away gives place too.
func (r *Ring) createOver(path string) (file, error) {
	if err := r.disk.remove(path + unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r.disk.create(path + unfinished)
}
