package record_test

import (
	"runtime"
	"testing"

	. "github.com/tallystick/tallystick/tlog/record"
)

func newCoder(t testing.TB) *Coder {
	t.Helper()
	c, err := NewCoder(runtime.GOMAXPROCS(0))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
