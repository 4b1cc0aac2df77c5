//go:build !linux

package ring

import "os"

func datasync(f *os.File) error { return f.Sync() }
