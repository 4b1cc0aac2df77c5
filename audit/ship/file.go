package ship

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A file has lines appended. What somebody moves away or removes between two deliveries is left alone, as logrotate wants it, and
// the next lines go into a new file. A line that was written by half, by a death or a full disk, is ended where it broke off, and
// the whole one follows on a line of its own.
type file struct {
	path string
	f    *os.File
	torn bool // it may end within a line
}

func (s *file) String() string { return "file:" + s.path }

func (s *file) Deliver(_ context.Context, lines [][]byte) error {
	if err := s.reopen(); err != nil {
		return fmt.Errorf("ship: %w", err)
	}
	var all []byte
	if s.torn {
		all = append(all, '\n')
	}
	for _, l := range lines {
		all = append(all, l...)
	}
	s.torn = true
	_, err := s.f.Write(all)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// After a failed sync nobody knows what is on the disk, and to sync again says nothing of it: what is written again is.
		return fmt.Errorf("ship: %w", errors.Join(err, s.Close()))
	}
	s.torn = false
	return nil
}

// reopen makes s.f the file that has the name now.
func (s *file) reopen() error {
	if s.f != nil {
		named, err := os.Stat(s.path)
		open, oerr := s.f.Stat()
		if err == nil && oerr == nil && os.SameFile(named, open) {
			return nil
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	torn, err := endsTorn(f)
	if err == nil {
		err = syncDir(filepath.Dir(s.path)) // or a new file's name may be lost with what is synced in it
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.f, s.torn = f, torn
	return nil
}

// endsTorn says whether a file ends within a line.
func endsTorn(f *os.File) (bool, error) {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 || !st.Mode().IsRegular() {
		return false, err
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], st.Size()-1)
	return last[0] != '\n', err
}

func (s *file) Close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}
