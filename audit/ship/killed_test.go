package ship

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// beShipper makes the test binary be a follower of the log at that URL, with its files in the directory behind it: what is killed is
// a process of its own.
const beShipper = "SHIP_TEST_BE_SHIPPER"

func TestMain(m *testing.M) {
	if url := os.Getenv(beShipper); url != "" {
		if err := shipFrom(context.Background(), url, os.Args[1], false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func shipFrom(ctx context.Context, url, dir string, once bool) error {
	log, err := tiles.FromURL(url, http.DefaultClient, tiles.Limits{})
	if err != nil {
		return err
	}
	sink, err := Open("file:"+filepath.Join(dir, "out"), Options{})
	if err != nil {
		return err
	}
	s, err := New(Config{Name: "test", Log: log, Sink: sink, Mark: filepath.Join(dir, "mark"), Once: once})
	if err != nil {
		return err
	}
	return errors.Join(s.Run(ctx), sink.Close())
}

// A follower is killed again and again while the log grows, its file is moved away and torn, its mark is torn, and at the end
// nothing is missing.
func TestKilled(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	grow(t, l, 300)
	srv := httptest.NewServer(tiles.Handler(l, tiles.Options{}))
	defer srv.Close()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	kept := filepath.Join(dir, "kept.")
	shipped, killed := 0, 0
	for i := range 15 {
		cmd := exec.Command(os.Args[0], dir)
		cmd.Env = append(os.Environ(), beShipper+"="+srv.URL)
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		dead := make(chan error, 1)
		go func() { dead <- cmd.Wait() }()
		// Wait until it is at work, and kill it in the midst of it.
		before := size(out)
		until(t, "something is shipped", func() bool { return size(out) != before })
		for range rand.IntN(4) {
			grow(t, l, 1+rand.IntN(200))
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			if rand.IntN(4) == 0 {
				move(t, out, fmt.Sprint(kept, shipped))
				shipped++
			}
		}
		grow(t, l, 300)
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-dead; err == nil {
			t.Fatal("it ended by itself")
		}
		killed++
		switch i {
		case 5: // a disk that lost the end of what was written and not synced yet
			b, err := os.ReadFile(out)
			if err == nil {
				err = os.WriteFile(out, append(b, `{"id":"torn`...), 0o600)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		case 10:
			b, err := os.ReadFile(filepath.Join(dir, "mark"))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "mark"), b[:len(b)/2], 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		grow(t, l, 50)
	}
	if err := shipFrom(t.Context(), srv.URL, dir, true); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range shipped {
		b, err := os.ReadFile(fmt.Sprint(kept, i))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, split(b)...)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines = append(lines, split(b)...)
	if err := whole(l, lines, int(l.Size())); err != nil {
		t.Error(err)
	}
	t.Logf("%d kills, %d rotations; %d lines for %d entries", killed, shipped, len(lines), l.Size())
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return st.Size()
}

// move rotates a file away, if there is one.
func move(t *testing.T, from, to string) {
	t.Helper()
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(to, nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
