package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

// A file is what stands in the file of a token, which is called by its id.
type file struct {
	Version int       `json:"version"`
	SHA256  string    `json:"sha256"`
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	Principal string     `json:"principal"`
	Issuer    string     `json:"issuer,omitempty"`
	Subject   string     `json:"subject,omitempty"`
	Email     string     `json:"email,omitempty"`
	Groups    []string   `json:"groups,omitempty"`
	At        *time.Time `json:"at,omitempty"`
	Routes    []string   `json:"routes"` // null for all, which an empty list is not
}

// maxFile is the largest file of a token in bytes.
const maxFile = 256 << 10

func fileOf(sum [sha256.Size]byte, t *Token) file {
	p := t.Principal
	f := file{
		Version: 1, SHA256: hex.EncodeToString(sum[:]), Kind: t.Kind, Name: t.Name, Created: t.Created, Expires: t.Expires,
		Principal: p.Name, Issuer: p.Issuer, Subject: p.Subject, Email: p.Email, Groups: p.Groups, Routes: p.Routes,
	}
	if !p.At.IsZero() {
		f.At = &p.At
	}
	return f
}

// parse reads the file of the token called by name.
func parse(name string, b []byte) (sum [sha256.Size]byte, t *Token, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var f file
	if err := dec.Decode(&f); err != nil {
		return sum, nil, errors.New("it is not the JSON of a token")
	}
	if _, err := dec.Token(); err != io.EOF {
		return sum, nil, errors.New("something follows the token")
	}
	raw, err := hex.DecodeString(f.SHA256)
	if err != nil || len(raw) != sha256.Size {
		return sum, nil, errors.New("its sha256 is not one")
	}
	sum = [sha256.Size]byte(raw)
	switch {
	case f.Version != 1:
		return sum, nil, fmt.Errorf("its version is %d, and 1 is known here", f.Version)
	case id(sum) != name:
		return sum, nil, errors.New("it is the file of another token")
	case f.Kind != Bearer && f.Kind != Session:
		return sum, nil, errors.New("its kind is not known")
	case f.Principal == "" || len(f.Principal) > 200 || !plain(f.Principal):
		return sum, nil, errors.New("it names nobody")
	case f.Created.After(f.Expires) || f.Expires.Sub(f.Created) > Longest:
		return sum, nil, errors.New("it would live too long")
	}
	t = &Token{ID: name, Kind: f.Kind, Name: f.Name, Created: f.Created, Expires: f.Expires, Principal: &gateway.Principal{
		Name: f.Principal, Issuer: f.Issuer, Subject: f.Subject, Email: f.Email, Groups: f.Groups, Routes: f.Routes,
	}}
	if f.At != nil {
		t.Principal.At = *f.At
	}
	t.complete()
	return sum, t, nil
}

func isID(s string) bool { return len(s) == 24 && strings.Trim(s, "0123456789abcdef") == "" }

// reread makes what is in memory what is in the directory, if that has changed since it was read.
func (s *Store) reread() error {
	s.change.Lock()
	defer s.change.Unlock()
	st, err := os.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	// A change in the same instant as the last reading may have been missed: until some time has passed, look again.
	if st.ModTime().Equal(s.seen) && time.Since(s.seen) > 2*Notice {
		return nil
	}
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	there := make(map[string]bool, len(names))
	for _, n := range names {
		there[n.Name()] = true
	}
	s.mu.RLock()
	var gone, fresh []string
	for name := range s.files {
		if !there[name] {
			gone = append(gone, name)
		}
	}
	for name := range s.bad {
		if !there[name] {
			gone = append(gone, name)
		}
	}
	for name := range there {
		if _, ok := s.files[name]; !ok && !s.bad[name] {
			fresh = append(fresh, name)
		}
	}
	s.mu.RUnlock()

	for _, name := range gone {
		s.forget(name)
	}
	for _, name := range fresh {
		s.load(name)
	}
	s.seen = st.ModTime()
	return nil
}

// load reads one file into memory.
func (s *Store) load(name string) {
	path := filepath.Join(s.dir, name)
	if strings.HasSuffix(name, unfinished) {
		// Whoever wrote it for so long has died, and handed out nothing.
		if st, err := os.Stat(path); err == nil && time.Since(st.ModTime()) > time.Minute {
			os.Remove(path)
		}
		return
	}
	sum, t, err := func() (sum [sha256.Size]byte, t *Token, err error) {
		if !isID(name) {
			return sum, nil, errors.New("it is not called like a token")
		}
		f, err := os.Open(path)
		if err != nil {
			return sum, nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err != nil {
			return sum, nil, err
		}
		if len(b) > maxFile {
			return sum, nil, fmt.Errorf("it is over %d bytes", maxFile)
		}
		return parse(name, b)
	}()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.bad[name] = true
		s.log.Warn("token: a file of the store is no token and makes nobody known", "file", path, "error", err)
		return
	}
	if len(s.tokens) >= Most {
		s.log.Warn("token: the store is full, and a token was not read", "file", path)
		return
	}
	s.tokens[sum], s.files[name] = t, sum
}

// unfinished ends the names of files that are being written.
const unfinished = ".new"

// write puts content in the file called name, all of it or nothing, and returns when that is durable.
func (s *Store) write(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(path + unfinished) // which is not there any more, if all went well
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		os.Remove(path) // nobody is given the token
		return err
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
