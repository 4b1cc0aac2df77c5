// Package file keeps keys in files of this machine: the Ed25519 key a log signs its
// checkpoints with ([Signer], one line in the encoding of golang.org/x/mod/sumdb/note), and
// the key-encryption key of a ring of data keys ([KEK], 32 bytes in hex or base64).
//
// What is always true: a key is created once and never overwritten; when a Create has
// returned, the file and its name are on the disk; a file that others may read is not
// used; no error and no way of printing a Signer or a KEK shows a byte of a private key.
//
// What it does not do: defend a key against whoever is root here. For that, keep the log's
// key in Vault or in a KMS.
package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of a key file. A signer's line is its name (at most 255
// bytes) and some seventy more.
const maxFile = 4 << 10

// readLine returns the one line of the key file at path, without its newline. want says in
// errors what should have been there.
func readLine(path, want string) ([]byte, error) {
	if path == "" {
		return nil, fmt.Errorf("keys/file: no path given for %s", want)
	}
	// Not to block for ever on a named pipe; the mode of what was opened decides.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keys/file: there is no %s: %w", want, err)
	}
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", want, err)
	}
	defer f.Close()

	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", want, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("keys/file: %s is not a regular file; %s was expected", path, want)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("keys/file: %s is open to other users (mode %04o): run chmod 600 %s, and replace the key if it may have been read", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", want, err)
	}
	line := bytes.TrimSuffix(b, []byte("\n"))
	switch {
	case len(b) > maxFile:
		return nil, fmt.Errorf("keys/file: %s is longer than %d bytes; %s was expected", path, maxFile, want)
	case len(line) == 0:
		return nil, fmt.Errorf("keys/file: %s is empty; %s was expected", path, want)
	case bytes.ContainsAny(line, "\r\n"):
		return nil, fmt.Errorf("keys/file: %s has more than one line, or carriage returns; %s was expected", path, want)
	}
	return line, nil
}

// createLine writes line and a newline to a new file at path, readable by its owner only.
// The order: the content is on the disk before the name is, and both before it returns.
func createLine(path, line, what string) (err error) {
	if path == "" {
		return fmt.Errorf("keys/file: no path given for a new %s", what)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keys/file: a new %s never replaces an old file, move that away first: %w", what, err)
	}
	if err != nil {
		return fmt.Errorf("keys/file: new %s: %w", what, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path) // nobody was told of this key
			err = fmt.Errorf("keys/file: new %s: %w", what, err)
		}
	}()
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
