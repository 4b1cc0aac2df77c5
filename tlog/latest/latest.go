// Package latest remembers the newest checkpoint of each log, in a directory: the anchor of a log whose operator has a
// second disk, and no Vault.
//
// There is one file for each log, named by the SHA-256 of its origin in hexadecimal, whose content is the checkpoint
// and nothing else. It is replaced as a whole, by compare-and-swap, under a lock that holds between processes.
// What is always true:
//
//   - what Swap accepted, and what Load returned, is on the disk and is not forgotten by a loss of power;
//   - whoever dies in the middle of a Swap leaves the old checkpoint or the new one, and never holds up the next;
//   - a file that is not a checkpoint of its log is an error for people, never silently replaced.
//
// It does not verify signatures, and does not say which of two checkpoints is the newer: that is for the log, which
// knows its tree. An anchor is worth what separates it from the log's own disk: put it on another one.
package latest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/sys/unix"
)

// A Dir is an anchor in a directory. It is safe for concurrent use, and so are several on one directory, in one
// process or in many.
type Dir struct {
	path string
	step func(name string) error // for tests: called before each step, whose failure it can be
}

var _ tlog.Latest = (*Dir)(nil)

// Open uses the directory path, making it if it is missing. A network file system is refused: neither locks nor syncs
// can be relied on there.
func Open(path string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("latest: no directory for the anchor: name one, on another disk than the log's")
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	if err := refuseNetwork(path); err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	d := &Dir{path: path, step: func(string) error { return nil }}
	// Both the directory and its name must survive what the first checkpoint in it survives.
	for _, dir := range []string{path, filepath.Dir(path)} {
		if err := syncDir(dir); err != nil {
			return nil, fmt.Errorf("latest: %w", err)
		}
	}
	return d, nil
}

func (d *Dir) file(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(d.path, hex.EncodeToString(sum[:]))
}

// Load returns what is remembered for origin, or nil; see [tlog.Latest]. Content that is no checkpoint of that log is
// an error that names the file.
func (d *Dir) Load(ctx context.Context, origin string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := d.read(origin)
	if err != nil {
		return nil, err
	}
	// A Swap may have died between its rename and its sync. Whoever is told of its checkpoint will rely on it.
	if err := syncDir(d.path); err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	return b, nil
}

// Swap replaces old by new; see [tlog.Latest]. new must be a checkpoint of that log, signed or not. It waits for the
// lock until ctx ends. An error other than tlog.ErrConflict leaves the outcome unknown: load again.
func (d *Dir) Swap(ctx context.Context, origin string, old, new []byte) error {
	if err := check(origin, new); err != nil {
		return fmt.Errorf("latest: nothing was changed: %w", err)
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	is, err := d.read(origin)
	if err != nil {
		return err
	}
	if !bytes.Equal(is, old) {
		return tlog.ErrConflict
	}
	if err := d.replace(d.file(origin), new); err != nil {
		return fmt.Errorf("latest: %w", err)
	}
	return nil
}

func (d *Dir) read(origin string) ([]byte, error) {
	path := d.file(origin)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, tlog.MaxCheckpoint+1))
	if err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	if err := check(origin, b); err != nil {
		return nil, fmt.Errorf("latest: %s does not hold a checkpoint of the log %s; put the right one back: %w", path, origin, err)
	}
	return b, nil
}

// check says whether b is a checkpoint of origin, signed or not.
func check(origin string, b []byte) error {
	if len(b) > tlog.MaxCheckpoint {
		return fmt.Errorf("over %d bytes", tlog.MaxCheckpoint)
	}
	text := b
	if i := bytes.Index(b, []byte("\n\n")); i >= 0 {
		text = b[:i+1]
		if len(b) == i+2 || b[len(b)-1] != '\n' {
			return errors.New("the signatures of the checkpoint are cut off")
		}
	}
	c, err := tlog.ParseCheckpoint(text)
	if err != nil {
		return err
	}
	if c.Origin != origin {
		return fmt.Errorf("it is of the log %q", c.Origin)
	}
	return nil
}

// lock takes the lock of the directory. The end of the process releases it.
func (d *Dir) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.path, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("latest: lock %s: %w", f.Name(), err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			f.Close()
			return nil, fmt.Errorf("latest: waiting for the lock of %s, nothing was changed: %w", d.path, ctx.Err())
		}
	}
}

// replace puts content in the place of the file, all of it or nothing, and returns when that is durable.
func (d *Dir) replace(path string, content []byte) error {
	temp := path + ".new" // the lock's holder's own, and whatever a dead one left there is overwritten
	if err := d.step("create"); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.step("write"); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := d.step("sync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := d.step("rename"); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if err := d.step("sync directory"); err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
