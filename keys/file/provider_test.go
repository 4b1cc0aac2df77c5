package file

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
)

func TestProvider(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log key?#")
	made, err := Create(path, "log.example/1")
	if err != nil {
		t.Fatal(err)
	}
	other, err := Create(filepath.Join(dir, "other"), "log.example/1")
	if err != nil {
		t.Fatal(err)
	}
	all := keys.Providers{keys.SchemeFile: Provider{}}
	ref, err := keys.ParseReference("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	for _, vkey := range []string{"", made.VerifierKey()} {
		s, err := all.Signer(t.Context(), ref, "log.example/1", vkey)
		if err != nil {
			t.Fatal(err)
		}
		if s.VerifierKey() != made.VerifierKey() || s.Reference() != ref {
			t.Errorf("%s of %s", s, s.Reference())
		}
		signed, err := note.Sign(&note.Note{Text: "log.example/1\n"}, s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, note.VerifierList(made.Verifier())); err != nil {
			t.Error(err)
		}
	}
	if _, err := all.Signer(t.Context(), ref, "log.example/1", other.VerifierKey()); !errors.Is(err, keys.ErrNotPinned) {
		t.Errorf("another key pinned: %v", err)
	}
	if _, err := all.Signer(t.Context(), ref, "log.example/2", ""); err == nil {
		t.Error("the key of another log")
	}
	ref.Path += "x"
	if _, err := all.Signer(t.Context(), ref, "log.example/1", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := (Provider{}).Signer(t.Context(), keys.Reference{Scheme: keys.SchemeVault, Path: "transit/k", Version: "1"}, "log.example/1", ""); err == nil {
		t.Error("a key of Vault was read from a file")
	}
}
