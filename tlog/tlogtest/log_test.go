package tlogtest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

func must(t *testing.T, l *Log, entries ...string) []uint64 {
	t.Helper()
	var leaves []tlog.Leaf
	for _, e := range entries {
		leaves = append(leaves, tlog.Leaf{Entry: []byte(e), Payload: []byte("of " + e)})
	}
	indices, err := l.Append(t.Context(), leaves...)
	if err != nil {
		t.Fatal(err)
	}
	return indices
}

func TestNewLogPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(t)
		if _, err := l.Checkpoint(t.Context()); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("before the first: %v", err)
		}
		must(t, l, "a", "b")
		time.Sleep(10 * time.Millisecond) // of the bubble
		signed, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := tlog.OpenCheckpoint(signed, l.Verifier())
		if err != nil || c.Size != 2 || c.Origin != l.Origin() {
			t.Errorf("%+v, %v", c, err)
		}
		entry, err := tlog.Tiles{Reader: l, Size: 2}.Entry(t.Context(), 1)
		if err != nil || string(entry) != "b" {
			t.Errorf("%q, %v", entry, err)
		}
		again, err := l.Publish()
		if err != nil || !bytes.Equal(again, signed) {
			t.Errorf("nothing grew, and Publish returns %q, %v", again, err)
		}
	})
}

// TestSame is why a test that fails here fails everywhere: the same leaves make the same bytes.
func TestSame(t *testing.T) {
	var first []byte
	for range 2 {
		l := Start(t, Config{Manual: true})
		must(t, l, "a", "b", "c")
		signed, err := l.Publish()
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = signed
		}
		if !bytes.Equal(signed, first) {
			t.Errorf("%s\n%s", signed, first)
		}
	}
	l := Start(t, Config{Manual: true})
	must(t, l, "a", "b", "C")
	fork, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tlog.OpenCheckpoint(fork, l.Verifier()); err != nil || bytes.Equal(fork, first) {
		t.Errorf("a fork under the same key: %v", err)
	}
	if want := "log " + l.VerifierKey() + "\nquorum none\n"; string(l.Policy()) != want {
		t.Errorf("the policy is %q", l.Policy())
	}
}

func TestFaults(t *testing.T) {
	ctx := t.Context()
	l := Start(t, Config{Manual: true})
	must(t, l, "a", "b", "c")
	l.Publish()
	for _, c := range []struct {
		name string
		f    Faults
		try  func() error // nil where the fault was felt
	}{
		{"always", Faults{Append: Always(tlog.ErrHalted)}, func() error {
			for range 3 {
				if _, err := l.Append(ctx, tlog.Leaf{Entry: []byte("x")}); !errors.Is(err, tlog.ErrHalted) {
					return errors.New("appended")
				}
			}
			return nil
		}},
		{"times", Faults{Append: Times(2, tlog.ErrBusy)}, func() error {
			for range 2 {
				if _, err := l.Append(ctx, tlog.Leaf{Entry: []byte("x")}); !errors.Is(err, tlog.ErrBusy) {
					return errors.New("appended")
				}
			}
			_, err := l.Append(ctx, tlog.Leaf{Entry: []byte("d")})
			return err
		}},
		{"delay", Faults{Append: Delay(time.Hour)}, func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if _, err := l.Append(ctx, tlog.Leaf{Entry: []byte("x")}); !errors.Is(err, context.DeadlineExceeded) {
				return errors.New("appended")
			}
			return nil
		}},
		{"appended", Faults{Appended: func(context.Context, []uint64) error { return tlog.ErrHalted }}, func() error {
			before := l.Size()
			if _, err := l.Append(ctx, tlog.Leaf{Entry: []byte("e")}); !errors.Is(err, tlog.ErrHalted) || l.Size() != before+1 {
				return errors.New("the outcome is known")
			}
			return nil
		}},
		{"publish", Faults{Publish: func(tlog.Checkpoint) error { return tlog.ErrQuarantine }}, func() error {
			if _, err := l.Publish(); !errors.Is(err, tlog.ErrQuarantine) {
				return errors.New("published")
			}
			return nil
		}},
		{"replace", Faults{Tile: Replace(1, []byte("bb"))}, func() error {
			tiles := tlog.Tiles{Reader: l, Size: 3}
			for i, want := range []string{"a", "bb", "c"} {
				if e, err := tiles.Entry(ctx, uint64(i)); err != nil || string(e) != want {
					return errors.Join(err, errors.New(string(e)))
				}
			}
			return nil
		}},
		{"flip", Faults{Tile: Flip(0, 2)}, func() error {
			data, err := l.Tile(ctx, tlog.Tile{Width: 3})
			if h := tlog.HashLeaf([]byte("c")); err != nil || data[64]^1 != h[0] || !bytes.Equal(data[65:], h[1:]) {
				return errors.New("not flipped")
			}
			return nil
		}},
		{"payload", Faults{Payload: func(tlog.Hash, []byte) ([]byte, error) { return []byte("forged"), nil }}, func() error {
			if p, err := l.Payload(ctx, payloadSum([]byte("of a"))); err != nil || string(p) != "forged" {
				return errors.New("genuine")
			}
			return nil
		}},
		{"checkpoint", Faults{Checkpoint: func(signed []byte) ([]byte, error) { return signed[:10], nil }}, func() error {
			now, _ := l.Checkpoint(ctx)
			then, _ := l.CheckpointAt(ctx, 3)
			if len(now) != 10 || len(then) != 10 {
				return errors.New("genuine")
			}
			return nil
		}},
	} {
		l.Inject(c.f)
		if err := c.try(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		l.Inject(Faults{})
	}
	if p, err := l.Payload(ctx, payloadSum([]byte("of a"))); err != nil || string(p) != "of a" {
		t.Errorf("healed, and the payload is %q, %v", p, err)
	}
	if l.Size() != 5 {
		t.Errorf("%d leaves were appended", l.Size())
	}
}

// TestImplied is a log that publishes at 3 and 5: it has no tile of 4.
func TestImplied(t *testing.T) {
	for _, prune := range []bool{false, true} {
		l := Start(t, Config{Manual: true, Prune: prune})
		for _, entries := range [][]string{{"a", "b", "c"}, {"d", "e"}, make([]string, 300)} {
			for i := range entries {
				if entries[i] == "" {
					entries[i] = "x"
				}
			}
			must(t, l, entries...)
			l.Publish()
		}
		must(t, l, "unpublished")
		for _, c := range []struct {
			tile tlog.Tile
			ok   bool
		}{
			{tlog.Tile{Width: 3}, !prune}, {tlog.Tile{Width: 4}, false}, {tlog.Tile{Width: 5}, !prune},
			{tlog.Tile{Width: 256}, true}, {tlog.Tile{Index: 1, Width: 49}, true}, {tlog.Tile{Index: 1, Width: 50}, false},
			{tlog.Tile{Level: tlog.EntriesLevel, Width: 5}, !prune}, {tlog.Tile{Level: 1, Width: 1}, true},
		} {
			if _, err := l.Tile(t.Context(), c.tile); (err == nil) != c.ok {
				t.Errorf("prune %v: %s: %v", prune, c.tile.Path(), err)
			}
		}
	}
}

// TestAnchored is the second writer: it loses, and signs and takes nothing any more.
func TestAnchored(t *testing.T) {
	anchor := new(Latest)
	a := Start(t, Config{Manual: true, Latest: anchor})
	b := Start(t, Config{Manual: true, Latest: anchor})
	must(t, a, "a", "b")
	must(t, b, "a", "B", "c")
	if _, err := a.Publish(); err != nil {
		t.Fatal(err)
	}
	_, err := b.Publish()
	var fork *tlog.ForkError
	if !errors.Is(err, tlog.ErrQuarantine) || !errors.As(err, &fork) {
		t.Errorf("the second writer publishes: %v", err)
	}
	if _, err := b.Append(t.Context(), tlog.Leaf{Entry: []byte("d")}); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("and appends: %v", err)
	}
	must(t, a, "c")
	if _, err := a.Publish(); err != nil {
		t.Error(err)
	}
	if err := anchor.Swap(t.Context(), Origin, []byte("x"), []byte("y")); !errors.Is(err, tlog.ErrConflict) {
		t.Errorf("Swap: %v", err)
	}
}

func TestOneAtATime(t *testing.T) {
	disk := new(Storage)
	l, err := Open(Config{Storage: disk})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Storage: disk}); err == nil {
		t.Error("two logs on one storage")
	}
	l.Close()
	l.Close()
	if _, err := l.Checkpoint(t.Context()); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := Open(Config{Storage: disk}); err != nil {
		t.Error(err)
	}
	if _, err := Open(Config{Origin: "a b"}); err == nil {
		t.Error("an origin with a space")
	}
}
