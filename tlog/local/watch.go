package local

import (
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A watchFS tells at once when a write-ahead log could not be written or synced. Pebble tells those who wait for the sync,
// and panics with its locks in a state past repair when somebody else makes it begin another log meanwhile: the sooner
// nobody writes any more, the better.
type watchFS struct {
	vfs.FS
	failed func(error)
	renew  *atomic.Bool // a write-ahead log is not written over an old one, which is deleted
}

func (w watchFS) Unwrap() vfs.FS { return w.FS }

func (w watchFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.Create(name, category)
	return w.watch(name, f, err)
}

func (w watchFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if w.renew.Load() {
		if err := w.FS.Remove(oldname); err != nil {
			return w.watch(newname, nil, err)
		}
		return w.Create(newname, category)
	}
	f, err := w.FS.ReuseForWrite(oldname, newname, category)
	return w.watch(newname, f, err)
}

func (w watchFS) watch(name string, f vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return f, err
	}
	if err != nil {
		w.failed(err)
		return f, err
	}
	return watchFile{f, w.failed}, nil
}

// A watchFile is a write-ahead log.
type watchFile struct {
	vfs.File
	failed func(error)
}

func (f watchFile) saw(err error) error {
	if err != nil {
		f.failed(err)
	}
	return err
}

func (f watchFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.saw(err)
}

func (f watchFile) Sync() error     { return f.saw(f.File.Sync()) }
func (f watchFile) SyncData() error { return f.saw(f.File.SyncData()) }
func (f watchFile) Close() error    { return f.saw(f.File.Close()) }

func (f watchFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.saw(err)
}
