package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestDiskErrors lets operations on the disk fail while eight callers append. Nothing is acknowledged that is not on the
// disk: after the power is cut, and the disk is well again, all that was acknowledged is there.
func TestDiskErrors(t *testing.T) {
	is := func(suffix string, kinds ...errorfs.OpKind) func(errorfs.Op) bool {
		return func(op errorfs.Op) bool {
			if !strings.HasSuffix(op.Path, suffix) && !strings.HasPrefix(path.Base(op.Path), suffix) {
				return false
			}
			for _, k := range kinds {
				if op.Kind == k {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		name  string
		match func(errorfs.Op) bool
		err   error
		flush bool // make Pebble write tables
		goes  bool // the log goes on
	}{
		{"no space for the write-ahead log", is(".log", errorfs.OpFileWrite), syscall.ENOSPC, false, false},
		{"the write-ahead log cannot be written", is(".log", errorfs.OpFileWrite), syscall.EIO, false, false},
		{"the write-ahead log cannot be synced", is(".log", errorfs.OpFileSync, errorfs.OpFileSyncData), syscall.EIO, false, false},
		{"no space for a table", is(".sst", errorfs.OpFileWrite), syscall.ENOSPC, true, false},
		{"a table cannot be made", is(".sst", errorfs.OpCreate), syscall.ENOSPC, true, false},
		{"a table cannot be synced", is(".sst", errorfs.OpFileSync, errorfs.OpFileSyncData), syscall.EIO, true, false},
		{"the head file cannot be written", is("HEAD", errorfs.OpFileWriteAt), syscall.EIO, false, false},
		{"the head file cannot be synced", is("HEAD", errorfs.OpFileSync, errorfs.OpFileSyncData), syscall.EIO, false, false},
		{"the manifest cannot be written", is("MANIFEST", errorfs.OpFileWrite), syscall.EIO, true, false},
		{"nothing", func(errorfs.Op) bool { return false }, syscall.EIO, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mem, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
			var sick atomic.Bool
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if sick.Load() && c.match(op) {
					return c.err
				}
				return nil
			}))
			key, _ := tlogtest.Key(testOrigin)
			fatal := make(chan string, 100)
			l := open(t, "/log", Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}, Fatal: func(msg string) {
				fatal <- msg
				select {} // as the end of the process would
			}})
			end := run(t, l)
			fill(t, l, book, 9, 0, 20)
			awaitPublished(t, l, 20)
			ctx, stop := context.WithCancel(t.Context())
			var callers sync.WaitGroup
			var refused atomic.Int64
			for who := range 8 {
				callers.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						lf := leaf(who, n)
						indices, err := l.Append(ctx, lf)
						switch {
						case err == nil:
							book.ack(indices, []tlog.Leaf{lf})
						case ctx.Err() != nil:
							return
						case errors.Is(err, tlog.ErrHalted) || errors.Is(err, tlog.ErrFull):
							refused.Add(1)
							return
						default:
							t.Errorf("append: %v", err)
							return
						}
					}
				})
			}
			await(t, "some leaves", func() bool { return l.Size() > 100 })
			sick.Store(true)
			if c.flush {
				// The flush itself may wait for ever.
				go func() {
					defer func() { recover() }()
					l.db.AsyncFlush()
				}()
			}
			if c.goes {
				size := l.Size()
				await(t, "more leaves", func() bool { return l.Size() > size+100 })
				stop()
				callers.Wait()
				finish(t, l, end)
			} else {
				await(t, "all callers to be refused", func() bool { return refused.Load() == 8 })
				stop()
				callers.Wait()
				if err := end(); !errors.Is(err, tlog.ErrHalted) {
					t.Errorf("Run: %v", err)
				}
			}
			if _, err := l.Append(t.Context(), leaf(1, -1)); err == nil {
				t.Error("appended after the end")
			}
			select {
			case msg := <-fatal:
				t.Logf("fatal: %.100s", msg)
			default:
			}
			sick.Store(false) // or Pebble tries for ever
			if !c.goes {
				l.Close()
			}
			at := &anchor{is: a.is}
			if err := reopened(t, mem.CrashClone(vfs.CrashCloneCfg{}), "/log", at, book.clone()); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d acknowledged, 0 lost; background errors %d", len(book.acked), l.Stats().BackgroundErrors)
		})
	}
}

// TestReadErrors lets reads fail for a while: readers get errors, and right answers when the disk is well again. The log
// is open for reading only, because a background task of Pebble that fails ends one that is open for writing.
func TestReadErrors(t *testing.T) {
	mem, a, book := vfs.NewMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	l := open(t, "/log", Config{FS: mem, Latest: a, Signer: &signer{Signer: key, ledger: book}})
	end := run(t, l)
	fill(t, l, book, 1, 0, 600)
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)

	var sick atomic.Bool
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if sick.Load() && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
			return syscall.EIO
		}
		return nil
	}))
	l = open(t, "/log", Config{FS: fs, Latest: a, ReadOnly: true, Cache: 1})
	sick.Store(true)
	if _, err := l.Payload(t.Context(), sha256.Sum256(leaf(1, 1).Payload)); !errors.Is(err, syscall.EIO) {
		t.Errorf("a payload from a sick disk: %v", err)
	}
	if _, err := l.Tile(t.Context(), tlog.Tile{Level: tlog.EntriesLevel, Width: 256}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a tile from a sick disk: %v", err)
	}
	if err := l.Check(t.Context(), nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("a check of a sick disk: %v", err)
	}
	sick.Store(false)
	if err := book.holds(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	finish(t, l, nil)
}

// TestContext ends contexts while calls wait: what the sequencer has not taken is taken back, what it has is waited for.
func TestContext(t *testing.T) {
	a, book := new(anchor), newLedger()
	l := open(t, "/log", Config{FS: vfs.NewMem(), Latest: a})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ended, leaf(1, 0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("an ended context: %v", err)
	}
	// Nobody runs the log: the call waits until its context ends.
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := l.Append(ctx, leaf(1, 1))
		waiting <- err
	}()
	await(t, "the call to wait", func() bool { return l.Stats().Waiting == 1 })
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Fatalf("a withdrawn call: %v", err)
	}
	if n := l.Stats().Waiting; n != 0 {
		t.Fatalf("%d leaves wait after the call was withdrawn", n)
	}
	end := run(t, l)
	fill(t, l, book, 2, 0, 1)
	// Taken: the outcome is waited for, whatever the context says.
	l.writing.Lock() // holds the sequencer in build
	ctx, cancel = context.WithCancel(t.Context())
	lf := leaf(3, 0)
	var indices []uint64
	go func() {
		var err error
		indices, err = l.Append(ctx, lf)
		waiting <- err
	}()
	await(t, "the call to be taken", func() bool {
		l.queue.mu.Lock()
		defer l.queue.mu.Unlock()
		return l.queue.taken.leaves == 1
	})
	cancel()
	select {
	case err := <-waiting:
		t.Fatalf("a call that was taken came back: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	l.writing.Unlock()
	if err := <-waiting; err != nil {
		t.Fatalf("a call that was taken: %v", err)
	}
	book.ack(indices, []tlog.Leaf{lf})
	awaitPublished(t, l, 2)
	if l.Size() != 2 {
		t.Fatalf("%d entries", l.Size())
	}
	if err := book.holds(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)
	if _, err := l.Append(t.Context(), leaf(1, 5)); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("append after the end: %v", err)
	}
	if _, err := l.Tile(t.Context(), tlog.Tile{Level: tlog.EntriesLevel, Width: 1}); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := l.Run(t.Context()); err == nil {
		t.Error("Run again succeeds")
	}
}

// TestBusy fills the bounds: the call too many is answered at once, and one too large for them is let in alone.
func TestBusy(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		calls  int // that fit
		leaf   tlog.Leaf
	}{
		{"leaves", Config{MaxLeaves: 5}, 5, leaf(1, 0)},
		{"bytes", Config{MaxBytes: 3000}, 2, tlog.Leaf{Entry: make([]byte, 100), Payload: make([]byte, 1000)}},
		{"one larger than the bounds", Config{MaxBytes: 3000}, 1, tlog.Leaf{Entry: make([]byte, 100), Payload: make([]byte, 100000)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.FS, c.config.Latest = vfs.NewMem(), new(anchor)
			l := open(t, "/log", c.config)
			var calls sync.WaitGroup
			for i := range c.calls {
				calls.Go(func() {
					if _, err := l.Append(t.Context(), c.leaf); err != nil {
						t.Error(err)
					}
				})
				await(t, "the call to wait", func() bool { return l.Stats().Waiting == i+1 })
			}
			if _, err := l.Append(t.Context(), c.leaf); !errors.Is(err, tlog.ErrBusy) {
				t.Errorf("one too many: %v", err)
			}
			end := run(t, l)
			calls.Wait()
			if _, err := l.Append(t.Context(), c.leaf); err != nil {
				t.Errorf("with room again: %v", err)
			}
			if s := l.Stats(); s.Busy != 1 || s.Size != uint64(c.calls)+1 {
				t.Errorf("%+v", s)
			}
			finish(t, l, end)
		})
	}
}

func TestTooLarge(t *testing.T) {
	l := open(t, "/log", Config{FS: vfs.NewMem()})
	end := run(t, l)
	for name, leaves := range map[string][]tlog.Leaf{
		"entry":   {leaf(1, 1), {Entry: make([]byte, tlog.MaxEntry+1)}},
		"payload": {{Entry: []byte("e"), Payload: make([]byte, tlog.MaxPayload+1)}},
		"leaves":  make([]tlog.Leaf, MaxAppend+1),
	} {
		if _, err := l.Append(t.Context(), leaves...); !errors.Is(err, tlog.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Append(t.Context(), tlog.Leaf{}); err == nil {
		t.Error("an empty entry was appended")
	}
	if n := l.Size(); n != 0 {
		t.Errorf("%d entries", n)
	}
	finish(t, l, end)
}

// TestFull takes the space away and gives it back.
func TestFull(t *testing.T) {
	fs := vfs.NewMem()
	space := func(free uint64) {
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 40, UsedBytes: 1<<40 - free})
	}
	space(1 << 30)
	l := open(t, "/log", Config{FS: fs})
	end := run(t, l)
	if _, err := l.Append(t.Context(), leaf(1, 0)); err != nil {
		t.Fatal(err)
	}
	if there, err := exists(fs, "/log/ballast"); err != nil || !there {
		t.Errorf("no ballast: %v", err)
	}
	space(100 << 20)
	await(t, "ErrFull", func() bool {
		_, err := l.Append(t.Context(), leaf(1, 1))
		return errors.Is(err, tlog.ErrFull)
	})
	space(1 << 30)
	await(t, "space", func() bool {
		_, err := l.Append(t.Context(), leaf(1, 2))
		return err == nil
	})
	if s := l.Stats(); s.Full == 0 || s.Free != 1<<30 {
		t.Errorf("%+v", s)
	}
	finish(t, l, end)
}

// TestLargePayload appends payloads that go ahead of their batch in parts, and loses power in the middle of one.
func TestLargePayload(t *testing.T) {
	fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	config := Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}}
	l := open(t, "/log", config)
	end := run(t, l)
	var leaves []tlog.Leaf
	for i, size := range []int{partBytes - 1, partBytes, partBytes + 1, 3*partBytes + 7, 12 << 20} {
		p := make([]byte, size)
		for j := range p {
			p[j] = byte(j*j>>3 + i)
		}
		leaves = append(leaves, tlog.Leaf{Entry: fmt.Appendf(nil, "large %d", i), Payload: p})
	}
	for _, lf := range leaves {
		indices, err := l.Append(t.Context(), lf)
		if err != nil {
			t.Fatal(err)
		}
		book.ack(indices, []tlog.Leaf{lf})
	}
	awaitPublished(t, l, 5)
	if err := book.holds(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	// The parts of a sixth are on the disk, and its batch is not.
	if err := l.putPayload(nil, payloadAt{index: 5, payload: leaves[4].Payload}, true); err != nil {
		t.Fatal(err)
	}
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	disk, at := fs.CrashClone(vfs.CrashCloneCfg{}), &anchor{is: a.is}
	finish(t, l, end)
	l = open(t, "/log", Config{FS: disk, Latest: at, Signer: config.Signer})
	if left, err := anyRow(l.db, payloadKey(5, 0), after(rowPayload)); err != nil || left {
		t.Errorf("parts without a leaf are left: %v", err)
	}
	end = run(t, l)
	// The place is taken by a smaller one.
	fill(t, l, book, 1, 1, 3)
	awaitPublished(t, l, 8)
	if err := book.holds(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)
}

// TestDiscard discards payloads that lie in several places, while others append, and lets the same bytes come again.
func TestDiscard(t *testing.T) {
	fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}})
	end := run(t, l)
	secret := tlog.Leaf{Entry: []byte("who"), Payload: []byte("the secret")}
	sum := tlog.Hash(sha256.Sum256(secret.Payload))
	if err := l.Discard(t.Context(), sum); err != nil {
		t.Fatalf("what never was: %v", err)
	}
	for i := range 3 {
		secret.Entry = fmt.Appendf(nil, "who %d", i)
		if _, err := l.Append(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, l, book, 1, 0, 10)
	if p, err := l.Payload(t.Context(), sum); err != nil || string(p) != "the secret" {
		t.Fatalf("%q, %v", p, err)
	}
	// Callers append the same payload while it is discarded: once Discard has returned, nobody finds it any more.
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for who := range 4 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				l.Append(ctx, tlog.Leaf{Entry: fmt.Appendf(nil, "again %d %d", who, n), Payload: secret.Payload})
			}
		})
	}
	for range 2 {
		if err := l.Discard(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if p, err := l.Payload(t.Context(), sum); !errors.Is(err, tlog.ErrNotFound) {
				t.Fatalf("discarded, and there is %q, %v", p, err)
			}
		}
	}
	// It is durable when it has returned.
	a.mu.Lock()
	disk, at := fs.CrashClone(vfs.CrashCloneCfg{}), &anchor{is: a.is}
	a.mu.Unlock()
	stop()
	callers.Wait()
	finish(t, l, end)
	for name, left := range map[string]Config{"after the end": {FS: fs, Latest: a}, "after a loss of power": {FS: disk, Latest: at}} {
		left.ReadOnly = true
		l := open(t, "/log", left)
		if p, err := l.Payload(t.Context(), sum); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("%s there is %q, %v", name, p, err)
		}
		for i := range l.Size() {
			if rows, err := anyRow(l.db, payloadKey(i, 0), payloadKey(i+1, 0)); err != nil {
				t.Fatal(err)
			} else if row := must(parseEntryRow(i, must(get(l.db, entryKey(i))))); rows && row.sum == sum {
				t.Errorf("%s the bytes are in the store at %d", name, i)
			}
		}
		if err := l.Check(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
	}
}

// TestDiscardBetween discards a payload while the same bytes wait for the sequencer, checked and found harmless.
func TestDiscardBetween(t *testing.T) {
	fs, a := vfs.NewMem(), new(anchor)
	lf := tlog.Leaf{Entry: []byte("e"), Payload: []byte("the secret")}
	sum := tlog.Hash(sha256.Sum256(lf.Payload))
	l := open(t, "/log", Config{FS: fs, Latest: a})
	end := run(t, l)
	if _, err := l.Append(t.Context(), lf); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)
	l = open(t, "/log", Config{FS: fs, Latest: a})
	done := make(chan error)
	go func() {
		_, err := l.Append(t.Context(), lf, leaf(1, 1))
		done <- err
	}()
	await(t, "the call to wait", func() bool { return l.Stats().Waiting == 2 })
	if err := l.Discard(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	end = run(t, l)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		if rows, err := anyRow(l.db, payloadKey(i, 0), payloadKey(i+1, 0)); err != nil || rows {
			t.Errorf("the bytes are in the store at %d, %v", i, err)
		}
	}
	if _, err := l.Payload(t.Context(), sum); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := l.Payload(t.Context(), sha256.Sum256(leaf(1, 1).Payload)); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
}

// TestConfig refuses what is missing or does not fit, and says what to name.
func TestConfig(t *testing.T) {
	other, _ := tlogtest.Key("log.example/other")
	good := func() Config { return testConfig(t, Config{FS: vfs.NewMem()}) }
	for _, c := range []struct {
		name string
		edit func(*Config)
		says string
	}{
		{"no origin", func(c *Config) { c.Origin = "" }, "origin"},
		{"no verifier", func(c *Config) { c.Verifier = nil }, "public key"},
		{"another log's verifier", func(c *Config) { c.Origin = "log.example/other" }, "public key"},
		{"no signer", func(c *Config) { c.Signer = nil }, "no signer"},
		{"another log's signer", func(c *Config) { c.Signer = other }, "the signer is"},
		{"no anchor", func(c *Config) { c.Latest = nil }, "no anchor"},
	} {
		config := good()
		c.edit(&config)
		if _, err := Open("/log", config); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	c := good()
	c.ReadOnly = true
	if _, err := Open("/log", c); err == nil || !strings.Contains(err.Error(), "there is no log") {
		t.Errorf("reading what is not there: %v", err)
	}
}

// TestNewerFormat refuses, without quarantine, what a newer program wrote.
func TestNewerFormat(t *testing.T) {
	fs, a := vfs.NewMem(), new(anchor)
	l := open(t, "/log", Config{FS: fs, Latest: a})
	row := make([]byte, sizeRowLen)
	putSizeRow(row, *l.durable.Load(), 0)
	row[3]++
	if err := l.db.Set(sizeKey(), row, nil); err != nil {
		t.Fatal(err)
	}
	finish(t, l, nil)
	if _, err := Open("/log", testConfig(t, Config{FS: fs, Latest: a})); !errors.Is(err, errFormat) {
		t.Errorf("%v", err)
	}
	if there, _ := exists(fs, "/log/quarantine"); there {
		t.Error("quarantine over a newer format")
	}
}
