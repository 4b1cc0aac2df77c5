package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestRollback puts the whole directory back as it was k entries ago, for k from 1 to 100. The anchor knows better: no
// restored log signs anything.
func TestRollback(t *testing.T) {
	const n = 101
	fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	s := &signer{Signer: key, ledger: book}
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: s})
	end := run(t, l)
	var backups []*vfs.MemFS
	for i := range n {
		fill(t, l, book, 1, i, 1)
		awaitPublished(t, l, uint64(i+1))
		backups = append(backups, fs.CrashClone(vfs.CrashCloneCfg{}))
	}
	finish(t, l, end)
	refused := 0
	for k := 1; k < n; k++ {
		old := backups[n-1-k]
		before := book.signatures()
		l, err := Open("/log", testConfig(t, Config{FS: old, Latest: a, Signer: s}))
		if err != nil {
			t.Fatal(err)
		}
		inQuarantine(t, l, nil, book, "lost some, or is an old copy")
		if book.signatures() == before {
			refused++
		}
		if err := book.partly(t.Context(), l); err != nil {
			t.Errorf("%d behind: what it still serves: %v", k, err)
		}
		l.Close()
	}
	t.Logf("%d of %d rollbacks refused without a signature", refused, n-1)

	// With the head file elsewhere the anchor need not even answer.
	down := &anchor{onLoad: func() error { return errDown }}
	for _, k := range []int{1, 50} {
		copyDir(t, fs, "/log", backups[n-1-k], "/now", "pebble")
		l, err := Open("/log", testConfig(t, Config{FS: backups[n-1-k], Latest: down, Signer: s, Head: "/now/HEAD"}))
		if err != nil {
			t.Fatal(err)
		}
		inQuarantine(t, l, nil, book, "the head file knows 101 entries")
		l.Close()
	}
}

// partly compares what a log in quarantine serves with the ledger: what verifies against its checkpoint must not be
// wrong, but much may be missing.
func (g *ledger) partly(ctx context.Context, l *Log) error {
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		return nil
	}
	c, _, err := tlog.OpenCheckpoint(signed, l.cfg.Verifier)
	if err != nil {
		return err
	}
	tiles := tlog.Tiles{Reader: l, Size: c.Size}
	failures := 0 // a damaged block fails all its rows, slowly
	for index, lf := range g.clone().acked {
		if failures > 10 {
			break
		}
		e, err := tiles.Entry(ctx, index)
		if err != nil {
			failures++
			continue
		}
		proof, err := tiles.Inclusion(ctx, index)
		if err != nil || tlog.VerifyInclusion(tlog.HashLeaf(e), index, c.Size, c.Root, proof) != nil {
			failures++
			continue
		}
		if !bytes.Equal(e, lf.Entry) {
			return wrongf("entry %d is served and proven, and is not what was acknowledged", index)
		}
		if len(lf.Payload) == 0 {
			continue
		}
		if p, err := l.Payload(ctx, sha256.Sum256(lf.Payload)); err != nil {
			failures++
		} else if !bytes.Equal(p, lf.Payload) {
			return wrongf("the payload of entry %d is not what was appended", index)
		}
	}
	return nil
}

// unclean is the disk of a log of n entries whose process died, with an anchor that knows the first of them only.
func unclean(t testing.TB, n int) (*vfs.MemFS, *anchor, *ledger) {
	fs, a, book := vfs.NewCrashableMem(), new(anchor), newLedger()
	key, _ := tlogtest.Key(testOrigin)
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}})
	end := run(t, l)
	fill(t, l, book, 1, 0, 10)
	awaitPublished(t, l, 10)
	a.faults(func([]byte) (bool, error) { return false, errDown }, func() error { return errDown })
	fill(t, l, book, 1, 10, n-10)
	disk := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := l.head.sync(l.Size()); err != nil { // the process died, the machine did not: what was written to HEAD is there
		t.Fatal(err)
	}
	putFile(t, disk, "/log/HEAD", getFile(t, fs, "/log/HEAD"))
	l.halt(errors.New("died"))
	end()
	a.faults(nil, nil)
	return disk, &anchor{is: a.is}, book
}

// files returns the names in the store that match.
func files(t testing.TB, fs vfs.FS, match func(string) bool) []string {
	t.Helper()
	names, err := fs.List("/log/pebble")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !match(n) })
	slices.Sort(names)
	for i := range names {
		names[i] = "/log/pebble/" + names[i]
	}
	return names
}

func suffix(s string) func(string) bool {
	return func(name string) bool { return strings.HasSuffix(name, s) }
}

// outcome of a start on damaged files.
type outcome int

const (
	harmless outcome = iota
	refused
	found // by Check or by a reader, after a start that saw nothing
	wrong
)

// start opens a damaged log, and reads and checks everything it serves. Nothing may be wrong; quarantine may be.
func start(t testing.TB, fs vfs.FS, a tlog.Latest, book *ledger, c Config) (outcome, error) {
	t.Helper()
	key, _ := tlogtest.Key(testOrigin)
	book = book.clone()
	c.FS, c.Latest, c.Signer = fs, a, &signer{Signer: key, ledger: book}
	l, err := Open("/log", testConfig(t, c))
	if err != nil {
		return refused, err
	}
	defer l.Close()
	if err := l.Quarantined(); err != nil {
		signs := book.signatures()
		run(t, l)()
		if book.signatures() != signs {
			return wrong, errors.New("signed in quarantine")
		}
		if err := book.partly(t.Context(), l); err != nil {
			return wrong, err
		}
		return refused, err
	}
	if err := run(t, l)(); err != nil && !errors.Is(err, tlog.ErrQuarantine) {
		return wrong, err
	}
	if err := book.holds(t.Context(), l); err != nil {
		// A payload whose digest row an insider deleted looks as if it had never been. Check knows better.
		if isWrong(err) && (!strings.HasPrefix(err.Error(), "the payload") || l.Check(t.Context(), nil) == nil) {
			return wrong, err
		}
		return found, err
	}
	if err := l.Check(t.Context(), nil); err != nil {
		return found, err
	}
	return harmless, nil
}

// TestWriteAheadLog deletes the write-ahead log of a log whose process died, and cuts it at many lengths. Pebble opens
// all of these without a word. HEAD knows how much there was.
func TestWriteAheadLog(t *testing.T) {
	disk, a, book := unclean(t, 60)
	logs := files(t, disk, suffix(".log"))
	last := logs[len(logs)-1]
	content := getFile(t, disk, last)
	whole := len(bytes.TrimRight(content, "\x00"))
	counts := make(map[outcome]int)
	try := func(name string, damage func(fs *vfs.MemFS), must outcome) {
		t.Helper()
		fs := disk.CrashClone(vfs.CrashCloneCfg{})
		damage(fs)
		got, err := start(t, fs, &anchor{is: a.is}, book, Config{})
		counts[got]++
		if got == wrong || (must == refused && got != refused) {
			t.Errorf("%s: outcome %d, %v", name, got, err)
		}
	}
	try("untouched", func(*vfs.MemFS) {}, harmless)
	if counts[harmless] != 1 {
		t.Fatal("the untouched log is not sound")
	}
	try("deleted", func(fs *vfs.MemFS) { fs.Remove(last) }, refused)
	try("emptied", func(fs *vfs.MemFS) { putFile(t, fs, last, nil) }, refused)
	for n := 1; n < whole; n += max(1, whole/100) {
		try(fmt.Sprintf("cut to %d of %d bytes", n, whole), func(fs *vfs.MemFS) { putFile(t, fs, last, content[:n]) }, refused)
	}
	try("the last byte cut", func(fs *vfs.MemFS) { putFile(t, fs, last, content[:whole-1]) }, wrong)
	t.Logf("refused %d, harmless %d", counts[refused], counts[harmless])
}

// TestBitFlips flips one bit at about 120 places of each kind of file. Whatever Pebble makes of it, no wrong answer is
// given and nothing acknowledged is silently gone.
func TestBitFlips(t *testing.T) {
	died, a, book := unclean(t, 60)
	// The same log at rest in tables, without anything in the write-ahead log.
	rest := died.CrashClone(vfs.CrashCloneCfg{})
	restAnchor, restBook := &anchor{is: a.is}, book.clone()
	key, _ := tlogtest.Key(testOrigin)
	l := open(t, "/log", Config{FS: rest, Latest: restAnchor, Signer: &signer{Signer: key, ledger: restBook}})
	end := run(t, l)
	fill(t, l, restBook, 2, 0, 30)
	bare := make([]tlog.Leaf, 250) // for a full tile
	for i := range bare {
		bare[i].Entry = fmt.Appendf(nil, "bare %d", i)
	}
	indices, err := l.Append(t.Context(), bare...)
	if err != nil {
		t.Fatal(err)
	}
	restBook.ack(indices, bare)
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	finish(t, l, end)
	rest = rest.CrashClone(vfs.CrashCloneCfg{})

	prefix := func(p string) func(string) bool {
		return func(n string) bool { return strings.HasPrefix(n, p) }
	}
	for _, kind := range []struct {
		name  string
		disk  *vfs.MemFS
		a     *anchor
		book  *ledger
		paths []string
	}{
		{"table", rest, restAnchor, restBook, files(t, rest, suffix(".sst"))},
		{"write-ahead log", died, a, book, files(t, died, suffix(".log"))},
		{"manifest", rest, restAnchor, restBook, files(t, rest, prefix("MANIFEST"))},
		{"manifest of an unclean stop", died, a, book, files(t, died, prefix("MANIFEST"))},
		{"head file", rest, restAnchor, restBook, []string{"/log/HEAD"}},
		{"options", rest, restAnchor, restBook, files(t, rest, prefix("OPTIONS"))},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			counts := make(map[outcome]int)
			for _, path := range kind.paths {
				content := getFile(t, kind.disk, path)
				whole := len(bytes.TrimRight(content, "\x00"))
				step := max(1, whole*len(kind.paths)/120)
				offsets := []int{}
				for i := 0; i < whole; i += step {
					offsets = append(offsets, i)
				}
				if path == "/log/HEAD" {
					offsets = offsets[:0]
					for i := range headContent {
						offsets = append(offsets, i, headSlot+i)
					}
				}
				for n, i := range offsets {
					if testing.Short() && n%6 != 0 {
						continue
					}
					fs := kind.disk.CrashClone(vfs.CrashCloneCfg{})
					b := bytes.Clone(content)
					b[i] ^= 1 << (i % 8)
					putFile(t, fs, path, b)
					got, err := start(t, fs, &anchor{is: kind.a.is}, kind.book, Config{})
					counts[got]++
					if got == wrong {
						t.Errorf("bit %d of byte %d of %s: %v", i%8, i, path, err)
					}
				}
			}
			t.Logf("%s, %d files: refused at start %d, found by a reader or Check %d, harmless %d, wrong %d",
				kind.name, len(kind.paths), counts[refused], counts[found], counts[harmless], counts[wrong])
			if len(kind.paths) == 0 {
				t.Error("there are no such files")
			}
		})
	}
}

// TestAnchorFlips flips every bit of the anchor's file.
func TestAnchorFlips(t *testing.T) {
	disk, a, book := unclean(t, 40)
	dir := t.TempDir()
	at, err := latest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.Swap(t.Context(), testOrigin, nil, a.is); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*[0-9a-f]"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	good, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[outcome]int)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(names[0], b, 0o644); err != nil {
			t.Fatal(err)
		}
		signed := 0
		key, _ := tlogtest.Key(testOrigin)
		s := &signer{Signer: key, ledger: book.clone(), before: func() error { signed++; return nil }}
		l, err := Open("/log", testConfig(t, Config{FS: disk.CrashClone(vfs.CrashCloneCfg{}), Latest: at, Signer: s, AnchorTimeout: 30 * time.Millisecond}))
		if err != nil {
			t.Fatal(err)
		}
		err = run(t, l)()
		if err == nil || signed > 0 {
			counts[wrong]++
			t.Errorf("byte %d: %d signatures, %v", i, signed, err)
		} else {
			counts[refused]++
		}
		l.Close()
	}
	t.Logf("%d flips: refused %d", len(good), counts[refused])
	if err := os.WriteFile(names[0], good, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := start(t, disk, at, book, Config{}); got != harmless {
		t.Errorf("with the right anchor again: %v", err)
	}
}

// TestLostStore starts where the store, the head file or the anchor is gone.
func TestLostStore(t *testing.T) {
	disk, a, book := unclean(t, 40)
	for _, c := range []struct {
		name   string
		lose   func(fs *vfs.MemFS, a *anchor)
		reason string // of the quarantine; "" for none
	}{
		{"nothing", func(*vfs.MemFS, *anchor) {}, ""},
		{"the store", func(fs *vfs.MemFS, _ *anchor) { fs.RemoveAll("/log/pebble") }, "there is no store"},
		{"the store and the head file", func(fs *vfs.MemFS, _ *anchor) {
			fs.RemoveAll("/log/pebble")
			fs.Remove("/log/HEAD")
		}, "there is no store"},
		{"the store, and what the anchor knew", func(fs *vfs.MemFS, a *anchor) {
			fs.RemoveAll("/log/pebble")
			a.is = nil
		}, "there is no store"},
		{"the head file", func(fs *vfs.MemFS, _ *anchor) { fs.Remove("/log/HEAD") }, "the head file /log/HEAD is gone"},
		{"what the anchor knew", func(_ *vfs.MemFS, a *anchor) { a.is = nil }, "the anchor remembers nothing"},
		{"the anchor's newest", func(_ *vfs.MemFS, a *anchor) {
			a.is = tlog.Checkpoint{Origin: testOrigin, Size: 0, Root: tlog.EmptyRoot()}.Text()
		}, "the anchor remembers 0 entries"},
		{"the anchor's sense", func(_ *vfs.MemFS, a *anchor) { a.is = []byte("gone\n") }, "no checkpoint of this log"},
		{"the anchor's right log", func(_ *vfs.MemFS, a *anchor) {
			a.is = bytes.Replace(a.is, []byte(testOrigin), []byte("log.example/other"), 1)
		}, "no checkpoint of this log"},
		{"the marker of the manifest", func(fs *vfs.MemFS, _ *anchor) {
			for _, n := range files(t, fs, func(n string) bool { return strings.HasPrefix(n, "marker.manifest") }) {
				fs.Remove(n)
			}
		}, "there is no store"},
		{"the manifest", func(fs *vfs.MemFS, _ *anchor) {
			for _, n := range files(t, fs, func(n string) bool { return strings.HasPrefix(n, "MANIFEST") }) {
				fs.Remove(n)
			}
		}, "cannot be opened"},
		{"the head file's log", func(fs *vfs.MemFS, _ *anchor) {
			h := openHead(fs, "/log/HEAD", "log.example/other")
			if err := h.create(state{0, tlog.EmptyRoot()}); err != nil {
				t.Fatal(err)
			}
		}, "neither slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, at := disk.CrashClone(vfs.CrashCloneCfg{}), &anchor{is: a.is}
			c.lose(fs, at)
			key, _ := tlogtest.Key(testOrigin)
			book := book.clone()
			l, err := Open("/log", testConfig(t, Config{FS: fs, Latest: at, Signer: &signer{Signer: key, ledger: book}}))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if c.reason == "" {
				if err := l.Quarantined(); err != nil {
					t.Fatal(err)
				}
				return
			}
			inQuarantine(t, l, nil, book, c.reason)
		})
	}
	t.Run("the head file, accepted", func(t *testing.T) {
		fs := disk.CrashClone(vfs.CrashCloneCfg{})
		fs.Remove("/log/HEAD")
		if got, err := start(t, fs, &anchor{is: a.is}, book, Config{NewHead: true}); got != harmless {
			t.Fatal(got, err)
		}
		if got, err := start(t, fs, &anchor{is: a.is}, book, Config{}); got == wrong {
			t.Fatal(got, err)
		}
	})
	t.Run("the store, while the anchor is down", func(t *testing.T) {
		_, err := Open("/log", testConfig(t, Config{FS: vfs.NewMem(), Latest: &anchor{onLoad: func() error { return errDown }}}))
		if !errors.Is(err, errDown) {
			t.Fatalf("a new log without asking the anchor: %v", err)
		}
	})
}

// TestManifestSpared damages the manifest so that Pebble, opened for writing, would delete tables, and checks that a start
// has left every file as it was.
func TestManifestSpared(t *testing.T) {
	disk, a, book := unclean(t, 40)
	// A store whose tables were flushed one by one, and whose write-ahead logs are overwritten since.
	db, err := pebble.Open("/log/pebble", &pebble.Options{FS: disk, FormatMajorVersion: pebble.FormatNewest, DisableAutomaticCompactions: true, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := db.Set(sizeKey(), must(get(db, sizeKey())), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	manifests := files(t, disk, func(n string) bool { return strings.HasPrefix(n, "MANIFEST") })
	path := manifests[len(manifests)-1]
	content := getFile(t, disk, path)
	tables := func(fs vfs.FS) int { return len(files(t, fs, suffix(".sst"))) }
	before, lossy := tables(disk), 0
	for i := range content {
		flip := func() *vfs.MemFS {
			fs := vfs.NewMem()
			copyDir(t, disk, "/log", fs, "/log")
			b := bytes.Clone(content)
			b[i] ^= 1 << (i % 8)
			putFile(t, fs, path, b)
			return fs
		}
		naive := flip()
		db, err := pebble.Open("/log/pebble", &pebble.Options{FS: naive, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
		if err != nil {
			continue
		}
		_, err = get(db, entryKey(39))
		db.Close()
		if err == nil {
			continue
		}
		lossy++
		fs := flip()
		got, err := start(t, fs, &anchor{is: a.is}, book, Config{})
		if got != refused {
			t.Errorf("byte %d: outcome %d, %v", i, got, err)
		}
		if n := tables(fs); n != before {
			t.Errorf("byte %d: %d of %d tables are left", i, n, before)
		}
	}
	t.Logf("%d of %d flips of the manifest lose entries without an error in Pebble; all refused, no table deleted", lossy, len(content))
	if lossy == 0 {
		t.Error("the test shows nothing")
	}
}

// TestCopyBeside runs a copy of the directory beside the original. One of the two wins each compare-and-swap, the other
// signs nothing any more, and no two signatures contradict each other.
func TestCopyBeside(t *testing.T) {
	for try := range 20 {
		fs, a := vfs.NewMem(), new(anchor)
		key, _ := tlogtest.Key(testOrigin)
		books := []*ledger{newLedger(), newLedger()}
		l := open(t, "/log", Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: books[0]}})
		end := run(t, l)
		fill(t, l, newLedger(), 1, 0, 10)
		finish(t, l, end)
		copyDir(t, fs, "/log", fs, "/copy")
		var logs []*Log
		var ends []func() error
		for i, dir := range []string{"/log", "/copy"} {
			l := open(t, dir, Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: books[i]}})
			logs, ends = append(logs, l), append(ends, run(t, l))
		}
		lost := func() bool { return logs[0].Quarantined() != nil || logs[1].Quarantined() != nil }
		for n := 0; !lost(); n++ {
			for who, l := range logs {
				if _, err := l.Append(t.Context(), leaf(100+who, n)); err != nil && !errors.Is(err, tlog.ErrQuarantine) {
					t.Fatal(err)
				}
			}
		}
		if logs[0].Quarantined() != nil && logs[1].Quarantined() != nil {
			t.Fatalf("try %d: both lost", try)
		}
		for i, l := range logs {
			if l.Quarantined() != nil {
				inQuarantine(t, l, ends[i], books[i], "another writer")
				l.Close()
			} else {
				finish(t, l, ends[i])
			}
		}
		for size, root := range books[0].signed {
			if other, both := books[1].signed[size]; both && other != root {
				t.Errorf("try %d: two roots were signed for size %d", try, size)
			}
		}
	}
}

// TestSecondHandle refuses a second log on one directory, in this process and in another, and says who has it.
func TestSecondHandle(t *testing.T) {
	dir := t.TempDir()
	a := new(anchor)
	l := open(t, dir, Config{Latest: a})
	if _, err := Open(dir, testConfig(t, Config{Latest: a})); err == nil || !strings.Contains(err.Error(), "another process has this log open") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second handle: %v", err)
	}
	exe := must(os.Executable())
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "LOCAL_CHILD=open", "LOCAL_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("another process has this log open")) {
		t.Errorf("another process: %v, %s", err, out)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Config{Latest: a})
	finish(t, l, nil)
}

// TestReadOnly opens a log for reading: it changes nothing, not even where it finds damage, and Check tells how far it is.
func TestReadOnly(t *testing.T) {
	disk, a, _ := unclean(t, 300)
	listing := func() (names []string) {
		for _, dir := range []string{"/log", "/log/pebble"} {
			ns, err := disk.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(ns)
			names = append(names, ns...)
		}
		return slices.DeleteFunc(names, func(n string) bool { return n == "LOCK" })
	}
	before := listing()
	l := open(t, "/log", Config{FS: disk, Latest: a, ReadOnly: true})
	var told []uint64
	if err := l.Check(t.Context(), func(done, total uint64) {
		if total != 300 {
			t.Errorf("%d of %d", done, total)
		}
		told = append(told, done)
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(told) || told[len(told)-1] != 300 {
		t.Errorf("progress %v", told)
	}
	if _, err := l.Append(t.Context(), leaf(1, 0)); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := l.Discard(t.Context(), tlog.Hash{}); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("discard: %v", err)
	}
	if err := l.Run(t.Context()); err == nil {
		t.Error("Run succeeds")
	}
	if c, err := l.Checkpoint(t.Context()); err != nil || len(c) == 0 {
		t.Errorf("checkpoint: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a.is = nil
	l, err := Open("/log", testConfig(t, Config{FS: disk, Latest: a, ReadOnly: true}))
	if err != nil || l.Quarantined() == nil {
		t.Fatalf("a forgetful anchor: %v", err)
	}
	l.Close()
	if now := listing(); !slices.Equal(now, before) {
		t.Errorf("reading changed the directory from %v to %v", before, now)
	}
}

// TestScrub lets the scrub find nothing.
func TestScrub(t *testing.T) {
	book := newLedger()
	l := open(t, "/log", Config{FS: vfs.NewMem(), ScrubEvery: time.Millisecond})
	end := run(t, l)
	fill(t, l, book, 1, 0, 100)
	scrubs := l.Stats().Scrubs
	await(t, "scrubs", func() bool { return l.Stats().Scrubs > scrubs+3 })
	finish(t, l, end)
}
