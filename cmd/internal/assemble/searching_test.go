package assemble

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/tlog"
)

// oneKey is a key in memory.
type oneKey struct{ key []byte }

func (k *oneKey) New(context.Context) (string, []byte, error) {
	k.key = make([]byte, 32)
	return "a", make([]byte, 32), nil
}

func (k *oneKey) Open(_ context.Context, name string) ([]byte, error) {
	if k.key == nil || name != "a" {
		return nil, tlog.ErrNotFound
	}
	return make([]byte, 32), nil
}

func (k *oneKey) Erase(context.Context, string) error {
	k.key = nil
	return nil
}

// With search off there is no index, and none stays that nothing is forgotten in.
func TestSearchIsOff(t *testing.T) {
	dir := t.TempDir()
	c := &config.Config{Log: "local:" + filepath.Join(dir, "log"), Gateway: config.Gateway{ID: "gw-1"}}
	keys := &oneKey{}
	for _, begin := range []bool{true, false, true} {
		s := &searching{}
		if err := s.open(c, keys, slog.New(slog.DiscardHandler), true); err != nil || s.index == nil || keys.key == nil {
			t.Fatalf("there is no index: %v", err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		off := *c
		off.Search = "off"
		s = &searching{}
		if err := s.open(&off, keys, slog.New(slog.DiscardHandler), begin); err != nil || s.index != nil || keys.key != nil {
			t.Errorf("off: %v, an index: %v, its key: %v", err, s.index != nil, keys.key != nil)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "search")); err != nil || len(left) > 0 {
			t.Errorf("there is still %v, %v", left, err)
		}
	}
}
