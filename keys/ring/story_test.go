package ring_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
)

var _ ring.Wrapper = (*file.KEK)(nil)

// An operator makes a key-encryption key and a ring, restarts with the wrong file, and then
// with the right one.
func TestWithKeyFile(t *testing.T) {
	dir := t.TempDir()
	right, wrong := filepath.Join(dir, "kek"), filepath.Join(dir, "other")
	kek, err := file.CreateKEK(right)
	if err != nil {
		t.Fatal(err)
	}
	other, err := file.CreateKEK(wrong)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek})
	if err != nil {
		t.Fatal(err)
	}
	id, key, err := r.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone, _, err := r.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Erase(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: other}); !errors.Is(err, ring.ErrWrongKEK) {
		t.Fatalf("with the wrong key: %v", err)
	}

	kek, err = file.LoadKEK(right)
	if err != nil {
		t.Fatal(err)
	}
	r, err = ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	again, err := r.Open(t.Context(), id)
	if err != nil || string(again.Bytes()) != string(key.Bytes()) {
		t.Fatalf("after a restart: error %v, or a wrong key", err)
	}
	if _, err := r.Open(t.Context(), gone); !errors.Is(err, ring.ErrErased) {
		t.Fatalf("an erased key: %v", err)
	}
	byName := ring.ByName{Ring: r}
	if _, err := byName.Open(t.Context(), gone.String()); !errors.Is(err, ring.ErrErased) || !errors.Is(err, tlog.ErrNotFound) {
		t.Fatalf("an erased key, by name: %v", err)
	}
	if k, err := byName.Open(t.Context(), id.String()); err != nil || string(k) != string(key.Bytes()) {
		t.Fatalf("by name: error %v, or a wrong key", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ring", "ring")); err != nil {
		t.Fatal(err)
	}
}
