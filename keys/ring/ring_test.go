package ring

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A ring lives through a thousand things, and after each of them every key it ever handed
// out is what it was.
func TestLives(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			dir := filepath.Join(t.TempDir(), "keys", "ring")
			cfg := Config{Batch: 1 + rng.IntN(8)}
			cfg.Segment = cfg.Batch + rng.IntN(20)
			r := open(t, dir, cfg)
			w := world{}
			var ids []ID
			for range 100 {
				switch op := rng.IntN(10); {
				case op < 6 || len(ids) == 0:
					ids = append(ids, w.take(t, r, 1+rng.IntN(9))...)
				case op < 9:
					w.erase(t, r, ids[rng.IntN(len(ids))]) // also twice
				default:
					if err := r.Close(); err != nil {
						t.Fatal(err)
					}
					r = open(t, dir, cfg)
				}
				w.check(t, r, nil)
			}
			values := map[string]bool{}
			for _, key := range w {
				if key != nil && values[string(key)] {
					t.Fatal("two IDs have one key")
				}
				values[string(key)] = true
			}
			if len(segments(t, dir)) < 3 {
				t.Fatalf("%d segments: this test means to cross several", len(segments(t, dir)))
			}
		})
	}
}

// What lies on the disk is 64 bytes a key, no key in the clear, readable by its owner, and
// zeros where a key was erased.
func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ring")
	r := open(t, dir, Config{Batch: 10, Segment: 100})
	w := world{}
	ids := w.take(t, r, 100)
	segs := segments(t, dir)
	if len(segs) != 1 {
		t.Fatalf("%d segments, want 1", len(segs))
	}
	read := func() string {
		b, err := os.ReadFile(segs[0])
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != 8192+64*100 {
			t.Fatalf("segment of 100 keys has %d bytes", len(b))
		}
		return string(b)
	}
	before := read()
	for _, key := range w {
		if strings.Contains(before, string(key)) {
			t.Fatal("a key lies on the disk in the clear")
		}
	}
	w.erase(t, r, ids[41])
	after := read()
	off := 8192 + 64*41
	if after[:off] != before[:off] || after[off+64:] != before[off+64:] {
		t.Fatal("erasing one key changed other bytes")
	}
	if after[off:off+60] != strings.Repeat("\x00", 60) {
		t.Fatal("the slot of an erased key is not zeros")
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, segs[0]: 0o600, filepath.Join(dir, "ring"): 0o600} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", path, st.Mode().Perm(), mode)
		}
	}
}

// What was erased is in no file of the directory: not what stood in its slot, nor, after a Rewrap that ended or did not,
// what that was sealed with.
func TestErasedIsNowhere(t *testing.T) {
	dir, k := filepath.Join(t.TempDir(), "ring"), newTenant()
	cfg := Config{KEK: k, Batch: 8, Segment: 8, Pace: 8 * slotSize / 20} // twenty seconds a segment
	r := open(t, dir, cfg)
	w := world{}
	ids := w.take(t, r, 32)
	// sealed returns what stands for the key on the disk, without the nonce.
	sealed := func(id ID) []byte {
		t.Helper()
		b, err := os.ReadFile(r.path(id.segment()))
		if err != nil {
			t.Fatal(err)
		}
		return b[id.offset()+12:][:keySize+16]
	}
	var gone [][]byte
	erase := func(id ID) {
		t.Helper()
		gone = append(gone, sealed(id), w[id])
		w.erase(t, r, id)
	}
	check := func(when string) {
		t.Helper()
		files := 0
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			files++
			b, err := os.ReadFile(path)
			for i, g := range gone {
				if bytes.Contains(b, g) {
					t.Errorf("%s: %s holds what was erased, number %d", when, filepath.Base(path), i)
				}
			}
			return err
		})
		if err != nil || files != 1+4 {
			t.Fatalf("%s: %d files, %v", when, files, err)
		}
		w.check(t, r, nil)
	}
	if b, err := os.ReadFile(r.path(ids[3].segment())); err != nil || !bytes.Contains(b, sealed(ids[3])) {
		t.Fatalf("this test does not find what is there: %v", err)
	}
	for _, id := range []ID{ids[3], ids[9], ids[31]} {
		erase(id)
	}
	check("erased")

	// In the middle of a Rewrap, then broken off.
	k.rotate()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := r.Rewrap(ctx); done <- err }()
	var moving uint64
	for moving == 0 {
		r.mu.RLock()
		moving = r.moved
		r.mu.RUnlock()
		time.Sleep(time.Millisecond)
	}
	for _, id := range ids {
		if id.segment() == moving && w[id] != nil {
			erase(id)
			break
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	check("a Rewrap broken off")

	// And one that ends: nothing of before is left.
	for _, path := range append(segments(t, dir), filepath.Join(dir, ringFile)) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		h, err := parseHeader(b[:headerSize])
		if err != nil {
			t.Fatal(err)
		}
		gone = append(gone, h.sealed, h.wrapped)
		for off := slotsStart; off < len(b); off += slotSize {
			if slot := [slotSize]byte(b[off:]); slot != erasedSlot(newID(h.ring, h.segment, uint32((off-slotsStart)/slotSize))) {
				gone = append(gone, slot[:])
			}
		}
	}
	r.Close()
	cfg.Pace = -1
	r = open(t, dir, cfg)
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("a Rewrap")
}

// Ten thousand sessions cost some twenty syncs, and the tenant key is asked for the epoch alone.
func TestSyncsAreBounded(t *testing.T) {
	const n, batch = 10_000, 512
	kek := newKEK(1)
	d := newMemDisk()
	r := open(t, t.TempDir(), Config{KEK: kek, Batch: batch, Segment: 2 * batch, disk: d.disk()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	w := world{}
	w.take(t, r, n)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// One sync a batch, one of the directory a segment, and two for the ring's file.
	if batches := (n+batch-1)/batch + stockBatches; d.syncs > batches+(batches+1)/2+2 {
		t.Errorf("%d syncs for %d keys in at most %d batches", d.syncs, n, batches)
	}
	t.Logf("%d keys: %d syncs, %d segments, tenant key asked %d times", n, d.syncs, d.files(), kek.asked)
	w.check(t, r, nil)
	if kek.asked != 2 {
		t.Errorf("the tenant key was asked %d times, want 2: to wrap the epoch key and to unwrap it", kek.asked)
	}
	// An Erase costs one.
	ids := slices.Collect(maps.Keys(w))[:10]
	before := d.syncs
	for _, id := range ids {
		w.erase(t, r, id)
	}
	if n := d.syncs - before; n != len(ids) {
		t.Errorf("%d syncs for %d keys erased", n, len(ids))
	}
	w.check(t, r, nil)
}

func TestConcurrent(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("run=%v", running), func(t *testing.T) {
			r := open(t, t.TempDir(), Config{Batch: 16, Segment: 100})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg, runs sync.WaitGroup
			if running {
				runs.Go(func() { r.Run(ctx) })
				runs.Go(func() { r.Run(ctx) }) // one too many does no harm
			}
			worlds := make([]world, 8)
			for i := range worlds {
				worlds[i] = world{}
				wg.Go(func() {
					for j := range 100 {
						id, key, err := r.New(ctx)
						if err != nil {
							t.Error(err)
							return
						}
						worlds[i][id] = append([]byte(nil), key.Bytes()...)
						got, err := r.Open(ctx, id)
						if err != nil || string(got.Bytes()) != string(key.Bytes()) {
							t.Errorf("%v: error %v, or a wrong key", id, err)
							return
						}
						if j%5 == 0 {
							if err := r.Erase(ctx, id); err != nil {
								t.Error(err)
								return
							}
							worlds[i][id] = nil
						}
					}
				})
			}
			wg.Wait()
			cancel()
			runs.Wait()
			all := world{}
			for _, w := range worlds {
				for id, key := range w {
					if _, dup := all[id]; dup {
						t.Fatalf("%v was handed out twice", id)
					}
					all[id] = key
				}
				w.check(t, r, nil)
			}
		})
	}
}

// Readers that look while a key is being erased see the key or that it was erased, never
// something in between.
func TestReadWhileErasing(t *testing.T) {
	r := open(t, t.TempDir(), Config{})
	w := world{}
	for _, id := range w.take(t, r, 50) {
		var wg sync.WaitGroup
		done := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for last := false; ; {
					select {
					case <-done:
						last = true
					default:
					}
					key, err := r.Open(t.Context(), id)
					if errors.Is(err, ErrErased) {
						return
					}
					if last {
						t.Errorf("%v was erased, and is still there", id)
						return
					}
					if err != nil || string(key.Bytes()) != string(w[id]) {
						t.Errorf("%v: error %v, or a wrong key", id, err)
						return
					}
				}
			})
		}
		err := r.Erase(t.Context(), id)
		close(done)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A caller that waits for a disk that hangs can leave, and leaves nothing behind.
func TestNewLeavesWithItsContext(t *testing.T) {
	d := newMemDisk()
	r := open(t, t.TempDir(), Config{disk: d.disk()})
	hung, release := make(chan struct{}), make(chan struct{})
	d.setFault(func(op, path string) error {
		if op == "create" {
			close(hung)
			<-release
		}
		return nil
	})
	first := make(chan error)
	go func() {
		_, _, err := r.New(context.Background())
		first <- err
	}()
	<-hung
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() {
		_, _, err := r.New(ctx)
		second <- err
	}()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Fatalf("New with a canceled context: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Config{Batch: 4})
	w := world{}
	ids := w.take(t, r, 1)
	done := make(chan error)
	go func() { done <- r.Run(context.Background()) }()
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatalf("Run: %v", err)
	}
	if _, _, err := r.New(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("New: %v", err)
	}
	if _, err := r.Open(t.Context(), ids[0]); !errors.Is(err, ErrClosed) {
		t.Errorf("Open: %v", err)
	}
	if err := r.Erase(t.Context(), ids[0]); !errors.Is(err, ErrClosed) {
		t.Errorf("Erase: %v", err)
	}
	w.check(t, open(t, dir, Config{}), nil)
}

// What is closed writes no more: the directory may have another owner. And it waits for what is being written.
func TestCloseWaits(t *testing.T) {
	dir, d := t.TempDir(), newMemDisk()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{Batch: 4, disk: d.disk()})
		w := world{}
		id := w.take(t, r, 1)[0]
		inStock := <-r.stock
		r.stock <- inStock
		before := d.copy()[segmentName(id.segment())]
		moved, closed := make(chan error, 1), make(chan time.Duration, 1)
		d.setBefore(func(op, path string) {
			if op == "create" {
				time.Sleep(time.Minute)
			}
		})
		go func() { _, err := r.Rewrap(t.Context()); moved <- err }()
		time.Sleep(time.Second)
		d.setBefore(func(op, path string) {
			if op == "open" { // Erase has found the ring open
				d.setBefore(nil)
				begin := time.Now()
				go func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
					closed <- time.Since(begin)
				}()
				time.Sleep(time.Second)
			}
		})
		if err := r.Erase(t.Context(), id); !errors.Is(err, ErrClosed) {
			t.Errorf("Erase: %v", err)
		}
		if err := <-moved; !errors.Is(err, ErrClosed) {
			t.Errorf("Rewrap: %v", err)
		}
		if took := <-closed; took < 50*time.Second {
			t.Errorf("closed after %v, while a Rewrap writes", took)
		}
		if after := d.copy()[segmentName(id.segment())]; !bytes.Equal(before, after) {
			t.Error("it was written to")
		}
		if !bytes.Equal(inStock.key.Bytes(), make([]byte, keySize)) {
			t.Error("a key in stock is in memory")
		}
	})
}

// Run outlives a disk that is full for a minute: it tries again, ever more slowly, and then
// fills the stock.
func TestRunTriesAgain(t *testing.T) {
	d := newMemDisk()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log lines
		r := open(t, dir, Config{Batch: 8, disk: d.disk(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		d.setFault(func(op, path string) error {
			if op == "write" {
				return errInjected
			}
			return nil
		})
		go r.Run(t.Context())
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := log.count(); n < 10 || n > 25 {
			t.Errorf("%d attempts in a minute, want 10 to 25", n)
		}
		if d.files() != 0 {
			t.Errorf("%d files are left of attempts that failed", d.files())
		}
		d.setFault(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if ready, room := r.Stock(); ready != room {
			t.Errorf("stock of %d, room for %d", ready, room)
		}
		w := world{}
		w.take(t, r, 8) // one batch, and Run makes another without being waited for
		synctest.Wait()
		if ready, room := r.Stock(); ready != room {
			t.Errorf("stock of %d, room for %d", ready, room)
		}
		r.Close()
	})
}

// lines is where a log goes.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count() int { return strings.Count(l.String(), "\n") }

// The key of a segment is not unsealed again for each of its slots, and not kept for ever.
func TestSealsAreRemembered(t *testing.T) {
	r := open(t, t.TempDir(), Config{Batch: 4, Segment: 4})
	w := world{}
	w.take(t, r, 4*10)
	w.check(t, r, nil)
	if n := len(r.seals.m); n != 10 {
		t.Errorf("%d seals are remembered of 10 segments", n)
	}
	for i := range uint64(2 * maxSeals) {
		r.seals.put(i+1, cached{newEpoch(header{}), newSeal(new([keySize]byte))})
	}
	if len(r.seals.m) > maxSeals {
		t.Errorf("%d seals are remembered, want at most %d", len(r.seals.m), maxSeals)
	}
	w.check(t, r, nil)
}

func TestKeyDoesNotShow(t *testing.T) {
	r := open(t, t.TempDir(), Config{Batch: 1})
	_, key, err := r.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copy(key.Bytes(), "canarycanarycanarycanarycanaryca")
	type holder struct {
		Key    Key
		hidden Key
		deep   map[string]*Key
	}
	h := holder{key, key, map[string]*Key{"k": &key}}
	var out strings.Builder
	segmentKey, err := r.segmentKey(t.Context(), r.live.header)
	if err != nil {
		t.Fatal(err)
	}
	e := r.current.Load()
	epochKey, _, err := r.unwrap(t.Context(), time.Minute, e.wrapped, e.aad, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.seals.put(1, cached{e, r.live.seal})
	for _, v := range []any{key, &key, h, &h, []Key{key}, made{key: key}, []any{key}, r, []any{r}, struct{ r *Ring }{r}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%o", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
	}
	// As text, hex in both cases, decimal, octal.
	canaries := []string{"canary", "63616e617279", "63616E617279", "99 97 110 97", "143 141 156", "0x63, 0x61", "99,97,110", "Y2FuYXJ5"}
	for _, k := range [][]byte{segmentKey[:], epochKey[:]} {
		canaries = append(canaries, string(k), fmt.Sprintf("%x", k), fmt.Sprint(binary.LittleEndian.Uint32(k)), fmt.Sprint(binary.BigEndian.Uint32(k)))
	}
	for _, canary := range canaries {
		if strings.Contains(out.String(), canary) {
			t.Errorf("the key shows as %q", canary)
		}
	}
}

func TestBadConfig(t *testing.T) {
	kek := newKEK(1)
	for name, c := range map[string]struct {
		dir string
		cfg Config
	}{
		"no directory":   {"", Config{KEK: kek}},
		"no key":         {t.TempDir(), Config{}},
		"negative batch": {t.TempDir(), Config{KEK: kek, Batch: -1}},
		"huge batch":     {t.TempDir(), Config{KEK: kek, Batch: maxBatch + 1}},
		"small segment":  {t.TempDir(), Config{KEK: kek, Batch: 10, Segment: 9}},
		"huge segment":   {t.TempDir(), Config{KEK: kek, Segment: maxSegment + 1}},
	} {
		if r, err := Open(c.dir, c.cfg); err == nil {
			r.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// A Wrapper that does not keep its word is found out before a key depends on it.
func TestBadWrapper(t *testing.T) {
	var kept []byte
	for name, kek := range map[string]Wrapper{
		"keeps it for itself":      wrapper{func(key []byte) []byte { kept = bytes.Clone(key); return nil }, func([]byte) []byte { return bytes.Clone(kept) }},
		"wraps into nothing":       wrapper{wrap: func(key []byte) []byte { return nil }},
		"wraps into too much":      wrapper{wrap: func(key []byte) []byte { return make([]byte, maxWrapped+1) }},
		"gives back another":       wrapper{unwrap: func(w []byte) []byte { return append([]byte{w[0] ^ 1}, w[1:]...) }},
		"gives back something odd": wrapper{unwrap: func(w []byte) []byte { return w[1:] }},
	} {
		dir := t.TempDir()
		if r, err := Open(dir, Config{KEK: kek}); err == nil {
			r.Close()
			t.Errorf("%s: no error", name)
		}
		w := world{}
		w.take(t, open(t, dir, Config{}), 1) // and left nothing in the way
	}
}

type wrapper struct{ wrap, unwrap func([]byte) []byte }

func (w wrapper) Wrap(_ context.Context, dst, key, aad []byte) ([]byte, error) {
	if w.wrap == nil {
		return append(dst, key...), nil
	}
	return append(dst, w.wrap(key)...), nil
}

func (w wrapper) Unwrap(_ context.Context, dst, wrapped, aad []byte) ([]byte, error) {
	if w.unwrap == nil {
		return append(dst, wrapped...), nil
	}
	return append(dst, w.unwrap(wrapped)...), nil
}
