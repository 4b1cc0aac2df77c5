package monitor

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/tlog"
)

// proven reads one piece of evidence and wants it to be one, by its files and the policy alone: the log signed both, and no
// history has both, or the log shows less than it did.
func (w *world) proven(file string) evidence {
	t := w.t
	t.Helper()
	said, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var e evidence
	if err := json.Unmarshal(said, &e); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if e.Format != evidenceFormat || e.Reason == "" || e.Log == "" || e.URL == "" || e.Time.IsZero() {
		t.Errorf("%s: %+v", file, e)
	}
	open := func(name string) tlog.Checkpoint {
		signed, err := os.ReadFile(filepath.Join(filepath.Dir(file), name))
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := w.policy("none").Check(signed)
		if err != nil || c.Origin != e.Log {
			t.Fatalf("%s: %v", name, err)
		}
		return c
	}
	a, b := open(e.A), open(e.B)
	switch {
	case a.Size > b.Size:
		t.Errorf("%s: the sizes are %d and %d", file, a.Size, b.Size)
	case a == b:
		t.Errorf("%s: the two are one", file)
	case a.Size == b.Size, e.Kind == Rollback, e.Kind == Unproven:
	case e.Prefix == nil || *e.Prefix == a.Root:
		t.Errorf("%s: nothing is proven of sizes %d and %d", file, a.Size, b.Size)
	default:
		if err := tlog.VerifyConsistency(a.Size, b.Size, *e.Prefix, b.Root, e.Proof); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	return e
}
