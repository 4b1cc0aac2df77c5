//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package monitor

import (
	"io"
	"os"
)

// lockFile opens the file; where there is no lock that ends with its process, one monitor to a directory is left to whoever
// starts them.
func lockFile(path string) (io.Closer, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644) }

// syncDir does nothing where a directory cannot be synced.
func syncDir(string) error { return nil }
