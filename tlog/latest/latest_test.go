package latest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

const origin = "log.example/latest"

func text(size uint64) []byte {
	root := tlog.EmptyRoot()
	if size > 0 {
		root = tlog.HashLeaf(fmt.Appendf(nil, "%d", size))
	}
	return tlog.Checkpoint{Origin: origin, Size: size, Root: root}.Text()
}

func open(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func load(t testing.TB, d *Dir) []byte {
	t.Helper()
	b, err := d.Load(t.Context(), origin)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSwap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchor")
	d := open(t, path)
	ctx := t.Context()
	if b := load(t, d); b != nil {
		t.Fatalf("a new anchor remembers %q", b)
	}
	signed := append(text(3), "\n— "+origin+" AAAA\n"...)
	for i, step := range []struct {
		old, new []byte
		err      error
		is       []byte
	}{
		{text(1), text(2), tlog.ErrConflict, nil},
		{nil, text(1), nil, text(1)},
		{nil, text(1), tlog.ErrConflict, text(1)},
		{text(1), text(2), nil, text(2)},
		{text(1), text(3), tlog.ErrConflict, text(2)},
		{text(2), signed, nil, signed},
		{signed[:len(signed)-1], text(4), tlog.ErrConflict, signed},
		{signed, text(4), nil, text(4)},
	} {
		if err := d.Swap(ctx, origin, step.old, step.new); !errors.Is(err, step.err) {
			t.Fatalf("step %d: %v, not %v", i, err, step.err)
		}
		// Whoever opens the directory next sees the same.
		for _, d := range []*Dir{d, open(t, path)} {
			if b := load(t, d); !bytes.Equal(b, step.is) {
				t.Fatalf("step %d: %q is remembered, not %q", i, b, step.is)
			}
		}
	}
	other, err := d.Load(ctx, "other.example")
	if err != nil || other != nil {
		t.Fatalf("another log: %q, %v", other, err)
	}
}

func TestSwapRefuses(t *testing.T) {
	d := open(t, t.TempDir())
	for name, content := range map[string][]byte{
		"nothing":       nil,
		"no checkpoint": []byte("hello\n"),
		"another log":   bytes.Replace(text(1), []byte(origin), []byte("other.example"), 1),
		"too long":      append(text(1), bytes.Repeat([]byte("x\n"), tlog.MaxCheckpoint)...),
		"cut off":       append(text(1), '\n'),
	} {
		if err := d.Swap(t.Context(), origin, nil, content); err == nil || errors.Is(err, tlog.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b := load(t, d); b != nil {
		t.Fatalf("%q is remembered", b)
	}
}

// TestForeign damages the file in many ways: what is no checkpoint of the log is an error, and is not replaced.
func TestForeign(t *testing.T) {
	d := open(t, t.TempDir())
	if err := d.Swap(t.Context(), origin, nil, text(7)); err != nil {
		t.Fatal(err)
	}
	good := load(t, d)
	path := d.file(origin)
	type damage struct {
		name    string
		content []byte
	}
	damages := []damage{{"emptied", nil}, {"zeroed", make([]byte, len(good))}, {"foreign", []byte("#!/bin/sh\n")}}
	for n := range good {
		damages = append(damages, damage{fmt.Sprintf("cut to %d", n), good[:n]})
	}
	refused, plausible := 0, 0
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		damages = append(damages, damage{fmt.Sprintf("bit flipped in byte %d", i), b})
	}
	for _, c := range damages {
		if err := os.WriteFile(path, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := d.Load(t.Context(), origin)
		if err == nil {
			// Another number or root is as good a checkpoint as any: the log, which knows its tree, sees it.
			plausible++
			if !bytes.Equal(b, c.content) {
				t.Errorf("%s: loaded as %q", c.name, b)
			}
			continue
		}
		refused++
		if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name the file: %v", c.name, err)
		}
		if err := d.Swap(t.Context(), origin, c.content, text(8)); err == nil || errors.Is(err, tlog.ErrConflict) {
			t.Errorf("%s: replaced: %v", c.name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, c.content) {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
	t.Logf("%d of %d damages refused here, %d are other checkpoints", refused, len(damages), plausible)
}

// TestDeath ends a Swap before each of its steps: what is remembered is the old or the new, and the next one works.
func TestDeath(t *testing.T) {
	for _, step := range []struct {
		name string
		is   uint64
	}{{"create", 1}, {"write", 1}, {"sync", 1}, {"rename", 1}, {"sync directory", 2}} {
		t.Run(step.name, func(t *testing.T) {
			path := t.TempDir()
			d := open(t, path)
			if err := d.Swap(t.Context(), origin, nil, text(1)); err != nil {
				t.Fatal(err)
			}
			died := errors.New("died")
			d.step = func(name string) error {
				if name == step.name {
					return died
				}
				return nil
			}
			if err := d.Swap(t.Context(), origin, text(1), text(2)); !errors.Is(err, died) {
				t.Fatalf("%v", err)
			}
			d = open(t, path)
			if b := load(t, d); !bytes.Equal(b, text(step.is)) {
				t.Fatalf("%q is remembered, not size %d", b, step.is)
			}
			if err := d.Swap(t.Context(), origin, text(step.is), text(3)); err != nil {
				t.Fatal(err)
			}
			if b := load(t, d); !bytes.Equal(b, text(3)) {
				t.Fatalf("%q is remembered", b)
			}
		})
	}
}

func TestLockHonoursContext(t *testing.T) {
	d := open(t, t.TempDir())
	unlock, err := d.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := d.Swap(ctx, origin, nil, text(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	unlock()
	if err := d.Swap(t.Context(), origin, nil, text(1)); err != nil {
		t.Fatal(err)
	}
}

// TestMain makes this binary the other process of TestKill.
func TestMain(m *testing.M) {
	if path := os.Getenv("LATEST_CHILD"); path != "" {
		child(path)
		return
	}
	os.Exit(m.Run())
}

// child counts up for ever and says each size that was accepted.
func child(path string) {
	d, err := Open(path)
	if err != nil {
		panic(err)
	}
	for {
		old, err := d.Load(context.Background(), origin)
		if err != nil {
			panic(err)
		}
		var size uint64
		if old != nil {
			c, err := tlog.ParseCheckpoint(old)
			if err != nil {
				panic(err)
			}
			size = c.Size
		}
		err = d.Swap(context.Background(), origin, old, text(size+1))
		if errors.Is(err, tlog.ErrConflict) {
			continue
		}
		if err != nil {
			panic(err)
		}
		fmt.Println(size + 1)
	}
}

// TestKill lets processes race and kills them at any time. No size is accepted twice, none that was accepted is
// forgotten, and there is never anything but a checkpoint.
func TestKill(t *testing.T) {
	path := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const kills = 60
	var mu sync.Mutex
	accepted := make(map[string]int)
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			for range kills / 3 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10+rng.IntN(60))*time.Millisecond)
				cmd := exec.CommandContext(ctx, exe)
				cmd.Env = append(os.Environ(), "LATEST_CHILD="+path)
				cmd.Stderr = os.Stderr
				out, _ := cmd.Output()
				cancel()
				mu.Lock()
				for _, line := range strings.Fields(string(out)) {
					accepted[line]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	c, err := tlog.ParseCheckpoint(load(t, open(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	for size, times := range accepted {
		var n uint64
		fmt.Sscan(size, &n)
		if times != 1 || n > c.Size {
			t.Errorf("size %s was accepted %d times, and %d is remembered", size, times, c.Size)
		}
	}
	t.Logf("%d kills, %d swaps accepted, %d remembered", kills, len(accepted), c.Size)
	if len(accepted) < kills {
		t.Errorf("only %d swaps were accepted: the race was none", len(accepted))
	}
}

// FuzzCheck looks for content that passes for a checkpoint of the log and is none.
func FuzzCheck(f *testing.F) {
	f.Add(text(0))
	f.Add(append(text(3), "\n— "+origin+" AAAA\n"...))
	f.Add([]byte("\n\n"))
	f.Add(append(text(1), "extension\n"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if check(origin, b) != nil {
			return
		}
		if !bytes.HasPrefix(b, []byte(origin+"\n")) || b[len(b)-1] != '\n' || len(b) > tlog.MaxCheckpoint {
			t.Errorf("accepted %q", b)
		}
	})
}
