package ring

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync leaves out what is not needed to read the file back: times, mostly.
func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}
