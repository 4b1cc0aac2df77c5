package ship

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// While lines are delivered, the mark says that they are not.
func TestMarkFollows(t *testing.T) {
	l := filled(t, 600)
	path := filepath.Join(t.TempDir(), "mark")
	marked := func() uint64 {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return 0
		}
		m, err := parseMark(b)
		if err != nil {
			t.Error(err)
		}
		return m.next
	}
	m := &memory{}
	m.fail = func(call int, lines [][]byte) error {
		if at, done := marked(), uint64(len(m.lines)); at != done {
			t.Errorf("delivery %d: the mark says %d, and %d have arrived", call, at, done)
		}
		return nil
	}
	s, err := New(Config{Log: l, Sink: m, Mark: path, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil || marked() != 600 {
		t.Errorf("%d are marked, %v", marked(), err)
	}
	if m.calls != 3 {
		t.Error(fmt.Sprint(m.calls, " deliveries of 600 entries in tiles of 256"))
	}
}
