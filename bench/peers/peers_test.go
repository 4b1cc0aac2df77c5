package main

import (
	"testing"

	"github.com/tallystick/tallystick/bench/masking"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// The two machines find the same with the same expression, so what differs between them is how fast.
func TestSameFinds(t *testing.T) {
	cases, err := masktest.Cases()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := masking.Regexp(), re2Finder()
	found := 0
	for _, c := range cases {
		a, b := ours.Find([]byte(c.Text)), theirs.Find([]byte(c.Text))
		if a != b {
			t.Errorf("%q: %d and %d", c.Text, a, b)
		}
		found += a
	}
	if found < 100 {
		t.Errorf("%d finds: this test sees nothing", found)
	}
}
