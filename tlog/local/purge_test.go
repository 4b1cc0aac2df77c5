package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// lies says in which files under dir the bytes are found.
func lies(t testing.TB, dir string, what []byte) (in []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // Pebble deletes in its own time
		}
		if err == nil && bytes.Contains(b, what) {
			in = append(in, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return in
}

// secretLeaf is one whose payload says canary at its beginning, in its middle and at its end.
func secretLeaf(n, size int) (tlog.Leaf, tlog.Hash) {
	canary := fmt.Appendf(nil, "the canary in payload %04d", n)
	p := bytes.Repeat([]byte{byte(n)}, size)
	for _, at := range []int{0, size / 2, size - len(canary)} {
		copy(p[at:], canary)
	}
	return tlog.Leaf{Entry: fmt.Appendf(nil, "entry of secret %d", n), Payload: p}, sha256.Sum256(p)
}

// TestPurge discards payloads that lie wherever a payload can lie, and looks for them in every file of the directory.
func TestPurge(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		// settle brings the payload to where it shall be when it is discarded; nil leaves it in a write-ahead log.
		settle func(l *Log) error
		reopen bool // discards in a later life
	}{
		{name: "in the write-ahead log", size: 400},
		{name: "in a table", size: 400, settle: func(l *Log) error { return l.db.Flush() }},
		{name: "in a table, and a write-ahead log that is kept for later", size: 400, settle: func(l *Log) error {
			return errors.Join(l.db.Flush(), l.db.Flush(), l.db.Flush())
		}},
		{name: "at the bottom", size: 400, settle: func(l *Log) error {
			return errors.Join(l.db.Flush(), l.db.Compact(context.Background(), []byte{0}, []byte{255}, false))
		}},
		{name: "in parts", size: 6 << 20},
		{name: "of an earlier life", size: 400, reopen: true},
		{name: "in parts of an earlier life", size: 6 << 20, reopen: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, a, book := t.TempDir(), new(anchor), newLedger()
			l := open(t, dir, Config{Latest: a})
			end := run(t, l)
			fill(t, l, book, 1, 0, 5)
			secret, sum := secretLeaf(1, c.size)
			other, _ := secretLeaf(2, c.size)
			at, err := l.Append(t.Context(), other, secret)
			if err != nil {
				t.Fatal(err)
			}
			book.ack(at[:1], []tlog.Leaf{other})
			fill(t, l, book, 2, 0, 5)
			if c.settle != nil {
				if err := c.settle(l); err != nil {
					t.Fatal(err)
				}
			}
			if c.reopen {
				finish(t, l, end)
				l = open(t, dir, Config{Latest: a})
				end = run(t, l)
			}
			canary := secret.Payload[:26]
			if in := lies(t, dir, canary); len(in) == 0 {
				t.Fatal("the payload is nowhere before it is discarded: this run shows nothing")
			}
			if err := l.Discard(t.Context(), sum); err != nil {
				t.Fatal(err)
			}
			if in := lies(t, dir, canary); len(in) == 0 {
				t.Log("the payload is nowhere once it is discarded: the purge has nothing to do")
			}
			if err := l.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
			if in := lies(t, dir, canary); len(in) > 0 {
				t.Errorf("after the purge the payload is in %q", in)
			}
			if in := lies(t, dir, other.Payload[:26]); len(in) == 0 {
				t.Error("the payload beside it is gone, too")
			}
			if marks := must(purgeMarks(l.db)); len(marks) > 0 {
				t.Errorf("still to be purged: %d", marks)
			}
			if err := l.Purge(t.Context()); err != nil {
				t.Errorf("with nothing to do: %v", err)
			}
			if err := l.Check(t.Context(), nil); err != nil {
				t.Error(err)
			}
			awaitPublished(t, l, l.Size())
			if err := book.holds(t.Context(), l); err != nil {
				t.Error(err)
			}
			finish(t, l, end)
			if in := lies(t, dir, canary); len(in) > 0 {
				t.Errorf("after the end the payload is in %q", in)
			}
			l = open(t, dir, Config{Latest: a})
			if err := l.Check(t.Context(), nil); err != nil {
				t.Error(err)
			}
			finish(t, l, nil)
		})
	}
}

// A purge while others append leaves nothing of what was discarded, and loses nothing of what was not. What is discarded
// meanwhile is purged the next time.
func TestPurgeUnderLoad(t *testing.T) {
	dir, a, book := t.TempDir(), new(anchor), newLedger()
	l := open(t, dir, Config{Latest: a})
	end := run(t, l)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var callers sync.WaitGroup
	for who := range 3 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				lf := leaf(10+who, n)
				at, err := l.Append(context.WithoutCancel(ctx), lf)
				if err != nil {
					t.Error(err)
					return
				}
				book.ack(at, []tlog.Leaf{lf})
			}
		})
	}
	const secrets = 12
	for n := range secrets {
		secret, sum := secretLeaf(n, 300+n*1000)
		if _, err := l.Append(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		if n%3 == 1 {
			go l.Purge(ctx)
		}
		if err := l.Discard(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	callers.Wait()
	for n := range secrets {
		secret, _ := secretLeaf(n, 300+n*1000)
		if in := lies(t, dir, secret.Payload[:26]); len(in) > 0 {
			t.Errorf("payload %d is in %q", n, in)
		}
	}
	awaitPublished(t, l, l.Size())
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
}

// What a life discarded and did not purge, the next one purges by itself.
func TestPurgeIsMadeUpFor(t *testing.T) {
	dir, a := t.TempDir(), new(anchor)
	l := open(t, dir, Config{Latest: a})
	end := run(t, l)
	secret, sum := secretLeaf(7, 5000)
	if _, err := l.Append(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Discard(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Purge(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a purge that was broken off: %v", err)
	}
	finish(t, l, end)
	l = open(t, dir, Config{Latest: a, PurgeEvery: time.Second})
	end = run(t, l)
	await(t, "the purge", func() bool { return len(must(purgeMarks(l.db))) == 0 })
	if in := lies(t, dir, secret.Payload[:26]); len(in) > 0 {
		t.Errorf("the payload is in %q", in)
	}
	finish(t, l, end)
	if err := l.Purge(t.Context()); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("in a closed log: %v", err)
	}
	l = open(t, dir, Config{Latest: a, ReadOnly: true})
	if err := l.Purge(t.Context()); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("in a log that is open for reading only: %v", err)
	}
	finish(t, l, nil)
}

// A purge that finds a table still being read says so when its patience ends, and forgets nothing.
func TestPurgeAwaitsReaders(t *testing.T) {
	dir, a := t.TempDir(), new(anchor)
	l := open(t, dir, Config{Latest: a})
	end := run(t, l)
	secret, sum := secretLeaf(7, 5000)
	if _, err := l.Append(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	it := must(l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowPayload}, UpperBound: after(rowPayload)}))
	it.First()
	if err := l.Discard(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, ErrRead)
	defer cancel()
	if err := l.Purge(short); err == nil {
		t.Error("nothing is said of the table that is still read")
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in := lies(t, dir, secret.Payload[:26]); len(in) > 0 {
		t.Errorf("the payload is in %q", in)
	}
	finish(t, l, end)
}

func TestPurgeSpans(t *testing.T) {
	for _, c := range []struct {
		marks []uint64
		want  []span
	}{
		{nil, nil},
		{[]uint64{5}, []span{{5, 5}}},
		{[]uint64{5, 6, 5 + purgeNear + 1, 5 + 2*purgeNear + 2}, []span{{5, 5 + purgeNear + 1}, {5 + 2*purgeNear + 2, 5 + 2*purgeNear + 2}}},
	} {
		if got := purgeSpans(c.marks); !slices.Equal(got, c.want) {
			t.Errorf("%d: %v, want %v", c.marks, got, c.want)
		}
	}
}
