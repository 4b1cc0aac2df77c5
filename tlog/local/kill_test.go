package local

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

// TestMain makes this binary the other process of some tests.
func TestMain(m *testing.M) {
	if what := os.Getenv("LOCAL_CHILD"); what != "" {
		if err := child(what, os.Getenv("LOCAL_DIR")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child opens the log in dir and, if that is what is asked, appends until it is killed and says what was acknowledged.
func child(what, dir string) error {
	signer, vkey := tlogtest.Key(testOrigin)
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	at, err := latest.Open(filepath.Join(dir, "anchor"))
	if err != nil {
		return err
	}
	l, err := Open(filepath.Join(dir, "log"), Config{Origin: testOrigin, Signer: signer, Verifier: verifier, Latest: at, Interval: 5 * time.Millisecond})
	if what == "open" {
		l, err = Open(dir, Config{Origin: testOrigin, Signer: signer, Verifier: verifier, Latest: at})
	}
	if err != nil {
		return err
	}
	if err := l.Quarantined(); err != nil || what == "open" {
		return err
	}
	go l.Run(context.Background())
	failed := make(chan error)
	for who := range 8 {
		go func() {
			for n := 0; ; n++ {
				lf := leaf(os.Getpid()<<8+who, n)
				indices, err := l.Append(context.Background(), lf)
				if err != nil {
					failed <- err
					return
				}
				// One write a line: a killed process leaves whole ones.
				os.Stdout.Write(fmt.Appendf(nil, "%d %d %d\n", indices[0], os.Getpid()<<8+who, n))
			}
		}()
	}
	return <-failed
}

// TestKill kills the process at any time, on a real disk. What it acknowledged is there, and HEAD knew all of it.
func TestKill(t *testing.T) {
	const kills = 15
	dir := t.TempDir()
	exe := must(os.Executable())
	book := newLedger()
	rng := rand.New(rand.NewPCG(3, 3))
	at := must(latest.Open(filepath.Join(dir, "anchor")))
	key, _ := tlogtest.Key(testOrigin)
	slowest := time.Duration(0)
	for kill := range kills {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "LOCAL_CHILD=append", "LOCAL_DIR="+dir)
		out := must(cmd.StdoutPipe())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		acks := 0
		var timer *time.Timer
		for lines.Scan() {
			var index uint64
			var who, n int
			if _, err := fmt.Sscan(lines.Text(), &index, &who, &n); err != nil {
				t.Fatalf("kill %d: the child says %q", kill, lines.Text())
			}
			book.ack([]uint64{index}, []tlog.Leaf{leaf(who, n)})
			if acks++; acks == 1 {
				timer = time.AfterFunc(time.Duration(rng.IntN(100))*time.Millisecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait()
		timer.Stop()
		head, err := openHead(vfs.Default, filepath.Join(dir, "log", "HEAD"), testOrigin).load()
		if err != nil {
			t.Fatal(err)
		}
		for index := range book.acked {
			if index >= head.size {
				t.Fatalf("kill %d: entry %d was acknowledged and HEAD knows %d", kill, index, head.size)
			}
		}
		if kill%5 != 4 {
			continue // the next child opens it
		}
		begun := time.Now()
		l := open(t, filepath.Join(dir, "log"), Config{Latest: at, Signer: &signer{Signer: key, ledger: book}})
		slowest = max(slowest, time.Since(begun))
		end := run(t, l)
		awaitPublished(t, l, head.size)
		finish(t, l, end)
		l = open(t, filepath.Join(dir, "log"), Config{Latest: at, Signer: &signer{Signer: key, ledger: book}})
		if err := book.holds(t.Context(), l); err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		finish(t, l, nil)
	}
	t.Logf("%d kills, %d acknowledged leaves, 0 lost; the slowest start took %v", kills, len(book.acked), slowest)
}
