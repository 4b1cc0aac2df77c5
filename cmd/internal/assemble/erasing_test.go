package assemble

import (
	"os"
	"path/filepath"
	"testing"
)

// What the mark file says is a number, or nothing; and nothing is lost by nothing.
func TestMarkFile(t *testing.T) {
	m := markFile(filepath.Join(t.TempDir(), "erasures"))
	for _, c := range []struct {
		text string
		want uint64
	}{{"", 0}, {"12\n", 12}, {"12", 12}, {"-1\n", 0}, {"x\n", 0}, {"12\n13\n", 0}, {"99999999999999999999\n", 0}} {
		if err := os.WriteFile(string(m), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := m.Load(); n != c.want || err != nil {
			t.Errorf("%q is %d, %v", c.text, n, err)
		}
	}
	if err := os.Remove(string(m)); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Load(); n != 0 || err != nil {
		t.Errorf("without a file: %d, %v", n, err)
	}
	for _, want := range []uint64{7, 1 << 40} {
		if err := m.Save(want); err != nil {
			t.Fatal(err)
		}
		if n, err := m.Load(); n != want || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(string(m))); len(files) != 1 || err != nil {
		t.Errorf("%v, %v", files, err)
	}
	if err := markFile(filepath.Join(string(m), "x")).Save(1); err == nil {
		t.Error("a mark that cannot be saved is said to be")
	}
}
