package ring

import (
	"context"
	"errors"
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

	"github.com/tallystick/tallystick/keys"
)

// An operator rotates the tenant key, has the ring move, and retires what the ring does not
// need. A thief with a backup of before finds in it what was erased since; after, nothing.
func TestRewrap(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	cfg := Config{KEK: k, Batch: 4, Segment: 8, disk: d.disk()}
	r := open(t, dir, cfg)
	w := world{}
	ids := w.take(t, r, 30) // the last segment is being filled
	w.erase(t, r, ids[3])
	before := d.copy()
	w.erase(t, r, ids[4])
	w.erase(t, r, ids[20])

	k.rotate()
	needed := func(want ...Need) {
		t.Helper()
		if got, err := r.Needed(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Fatalf("needed: %v, %v, want %v", got, err, want)
		}
	}
	needed(Need{k, 1, 4})
	k.questions()
	if m, err := r.Rewrap(t.Context()); err != nil || m != (Moved{Epoch: 2, Segments: 4, Keys: 32 - 3}) {
		t.Fatalf("%+v, %v", m, err)
	}
	if n := k.questions(); n != 2 {
		t.Errorf("the tenant key was asked %d times, want 2: to wrap the epoch key and to unwrap it", n)
	}
	w.check(t, r, nil)
	after := d.copy()
	if files := slices.Sorted(maps.Keys(after)); !slices.Equal(files, slices.Sorted(maps.Keys(before))) {
		t.Errorf("other files than before: %v", files)
	}
	if n := len(r.known()); n != 1 {
		t.Errorf("%d epochs are in memory", n)
	}
	w.take(t, r, 5) // from the stock, and from a new segment
	w.check(t, r, nil)
	needed(Need{k, 2, 5})
	if n := k.questions(); n != 0 {
		t.Errorf("the tenant key was asked %d times", n)
	}

	steals := func(what string, files map[string][]byte, want ...ID) {
		t.Helper()
		got := loot(t, k, files, d.copy())
		for id, key := range got[1] {
			if mine, ok := w[id]; ok && string(mine) != string(key) {
				t.Errorf("%s: from the ring as it is, a thief has %v, which is erased or another", what, id)
			}
		}
		if want == nil && len(got[0]) > 0 {
			t.Errorf("%s: a thief opens %d keys", what, len(got[0]))
		}
		for _, id := range want {
			if got[0][id] == nil {
				t.Errorf("%s: a thief does not open %v: is this a thief?", what, id)
			}
		}
	}
	steals("the old version being there", before, ids[0], ids[4], ids[20])
	k.retire(2)
	steals("the old version being retired", before)
	w.erase(t, r, ids[0])
	steals("one more being erased", before)
	steals("one more being erased, with a backup made since", after, ids[0])
	r.Close()
	r = open(t, dir, cfg)
	w.check(t, r, nil)

	// The old backup, as a ring; and a segment of it, put into this one.
	other := t.TempDir()
	if _, err := Open(other, Config{KEK: k, disk: restored(other, before).disk()}); !errors.Is(err, keys.ErrGone) {
		t.Errorf("the old backup: %v", err)
	}
	path := filepath.Join(dir, segmentName(ids[3].segment()))
	good := d.copy()[filepath.Base(path)]
	d.inodes[path].now = before[filepath.Base(path)]
	r.Close()
	r = open(t, dir, cfg)
	but := map[ID]error{}
	for id := range w {
		if id.segment() == ids[3].segment() {
			but[id] = keys.ErrGone
		}
	}
	but[ids[3]] = nil // it was erased in the backup too
	w.check(t, r, but)
	if n := len(r.known()); n != 1 {
		t.Errorf("%d epochs are in memory, and one opens", n)
	}
	if _, err := r.Needed(t.Context()); !errors.Is(err, keys.ErrGone) {
		t.Errorf("needed, with a segment that does not open: %v", err)
	}
	k.rotate()
	if m, err := r.Rewrap(t.Context()); !errors.Is(err, keys.ErrGone) || !strings.Contains(err.Error(), filepath.Base(path)) || m.Segments != 4 {
		t.Errorf("a segment that does not open: %+v, %v", m, err)
	}
	d.inodes[path].now = good
	w.check(t, r, nil)
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Error(err)
	}
	w.check(t, r, nil)
}

// cuts is a ring of three segments, with which a test does many times what ends badly.
type cuts struct {
	dir   string
	k     *tenant
	cfg   Config
	files map[string][]byte
	w     world
	live  []ID
}

func newCuts(t *testing.T) *cuts {
	c := &cuts{dir: t.TempDir(), k: newTenant(), w: world{}}
	d := newMemDisk()
	c.cfg = Config{KEK: c.k, Batch: 4, Segment: 8, disk: d.disk()}
	r := open(t, c.dir, c.cfg)
	ids := c.w.take(t, r, 20)
	for _, i := range []int{0, 9, 10} {
		c.w.erase(t, r, ids[i])
	}
	r.Close()
	c.files = d.copy()
	for _, id := range ids {
		if c.w[id] != nil {
			c.live = append(c.live, id)
		}
	}
	c.k.rotate()
	return c
}

// finish opens the ring on d, wants the world, moves it all, and wants the world again, and a
// thief with the files of the beginning to open nothing.
func (c *cuts) finish(t *testing.T, d *memDisk, w world) {
	t.Helper()
	cfg := c.cfg
	cfg.disk = d.disk()
	r, err := Open(c.dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.check(t, r, nil)
	for name := range d.copy() {
		if strings.HasSuffix(name, unfinished) {
			t.Fatalf("%s is left", name)
		}
	}
	needs, err := r.Needed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.k.retire(1)
	c.k.retire(needs[0].Version)
	w.check(t, r, nil)
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.k.retire(c.k.newest())
	d = d.crash(rand.New(rand.NewPCG(0, 0))) // what Rewrap says is done is on the disk
	r.Close()
	cfg.disk = d.disk()
	if r, err = Open(c.dir, cfg); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.check(t, r, nil)
	got := loot(t, c.k, c.files, d.copy())
	if len(got[0]) > 0 {
		t.Fatalf("a thief with the old files opens %d keys", len(got[0]))
	}
	for id, key := range got[1] {
		if mine, ok := w[id]; ok && string(mine) != string(key) {
			t.Fatalf("a thief opens %v, which is erased or another", id)
		}
	}
}

// The power is cut before every operation of a Rewrap, and a key is erased before every
// operation before that: what an Erase said is erased stays so, and all else opens.
func TestRewrapInterrupted(t *testing.T) {
	c := newCuts(t)
	rng := rand.New(rand.NewPCG(1, 2))
	erased := 0
	// run returns how many operations there were.
	run := func(cut, eraseAt int) (ops int) {
		d := restored(c.dir, c.files)
		cfg := c.cfg
		cfg.disk = d.disk()
		r, err := Open(c.dir, cfg)
		if err != nil {
			t.Fatal(err)
		}
		w := maps.Clone(c.w)
		victim := c.live[rng.IntN(len(c.live))]
		var mu sync.Mutex
		erasing, done := false, make(chan error, 1)
		d.setBefore(func(op, path string) {
			mu.Lock()
			if erasing {
				mu.Unlock()
				return // it is the Erase that asks
			}
			ops++
			n := ops
			erasing = n == eraseAt
			mu.Unlock()
			if n == cut {
				d.setFault(func(string, string) error { return errInjected })
			}
			if n != eraseAt {
				return
			}
			go func() { done <- r.Erase(t.Context(), victim) }()
			select {
			case err := <-done:
				done <- err
			case <-time.After(2 * time.Millisecond): // it waits for the segment to be put in its place
			}
			mu.Lock()
			erasing = false
			mu.Unlock()
		})
		_, err = r.Rewrap(t.Context())
		d.setBefore(nil)
		if reached := ops >= cut; reached != (err != nil) || err != nil && !errors.Is(err, errInjected) {
			t.Fatalf("%d operations, cut before %d: %v", ops, cut, err)
		}
		doubtful := false
		if eraseAt > 0 && eraseAt <= ops {
			if err := <-done; err == nil {
				w[victim] = nil
				erased++
			} else {
				doubtful = true
			}
		}
		after := d.crash(rng)
		r.Close() // after the cut: what it does now does not reach the disk
		if doubtful {
			cfg.disk = after.disk()
			if r, err = Open(c.dir, cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Open(t.Context(), victim); errors.Is(err, ErrErased) {
				w[victim] = nil // it has happened, or it has not
			}
			r.Close()
		}
		c.finish(t, after, w)
		return ops
	}
	all := run(1<<30, 0)
	runs := 1
	for cut := 1; cut <= all+1; cut++ {
		run(cut, 0)
		for range 6 {
			run(cut, 1+rng.IntN(cut))
			runs += 1
		}
	}
	t.Logf("%d operations of one Rewrap, %d runs, %d keys erased meanwhile", all, runs, erased)
}

// Whatever fails while a segment is being moved, Rewrap says so, no Erase that says it is
// done was lost, nothing is left lying about, and the next Rewrap works.
func TestRewrapFails(t *testing.T) {
	c := newCuts(t)
	for _, op := range []string{"list", "open", "create", "write", "short", "sync", "rename", "syncdir", "read"} {
		for nth := 1; ; nth++ {
			d := restored(c.dir, c.files)
			cfg := c.cfg
			cfg.disk = d.disk()
			r, err := Open(c.dir, cfg)
			if err != nil {
				t.Fatal(err)
			}
			w := maps.Clone(c.w)
			seen := 0
			d.short = op == "short"
			d.setFault(func(o, path string) error {
				if o == op || op == "short" && o == "write" {
					if seen++; seen == nth {
						return errInjected
					}
				}
				return nil
			})
			m, err := r.Rewrap(t.Context())
			d.setFault(nil)
			if seen < nth {
				if err != nil {
					t.Errorf("%s: %v", op, err)
				}
				r.Close()
				break
			}
			if err == nil && op != "read" { // the second header may be whole
				t.Errorf("%s %d fails, and Rewrap does not", op, nth)
			}
			if (op == "read" || op == "open") && err != nil && m.Segments != 2 {
				t.Errorf("%s %d fails for one segment, and %d of the other two were moved: %v", op, nth, m.Segments, err)
			}
			for name := range d.copy() {
				if strings.HasSuffix(name, unfinished) {
					t.Errorf("%s %d fails, and %s is left", op, nth, name)
				}
			}
			w.check(t, r, nil)
			// If the name of the copy is not on the disk, an Erase sees to it.
			for _, id := range c.live[:3] {
				w.erase(t, r, id)
			}
			after := d.crash(rand.New(rand.NewPCG(uint64(nth), 0)))
			if _, err := r.Rewrap(t.Context()); err != nil {
				t.Errorf("%s %d failed, and Rewrap again: %v", op, nth, err)
			}
			w.check(t, r, nil)
			r.Close()
			c.finish(t, after, w)
			c.finish(t, d, w)
		}
	}
}

// What is damaged stays where it is, with the epoch it needs, until somebody decides; all
// else moves.
func TestRewrapLeavesWhatIsDamaged(t *testing.T) {
	k, d, dir := newTenant(), newMemDisk(), t.TempDir()
	cfg := Config{KEK: k, Batch: 4, Segment: 4, disk: d.disk()}
	r := open(t, dir, cfg)
	w := world{}
	ids := w.take(t, r, 16)
	bad := ids[5]
	at := func(id ID) *byte { return &d.inodes[r.path(id.segment())].now[id.offset()+20] }
	*at(bad) ^= 1
	k.rotate()
	m, err := r.Rewrap(t.Context())
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), bad.String()) || m.Segments != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	w.check(t, r, map[ID]error{bad: ErrCorrupt})
	needs, err := r.Needed(t.Context())
	if want := []Need{{k, 1, 1}, {k, 2, 3}}; err != nil || !slices.Equal(needs, want) {
		t.Fatalf("needed: %v, %v, want %v", needs, err, want)
	}
	// Restored, it moves.
	*at(bad) ^= 1
	if m, err := r.Rewrap(t.Context()); err != nil || m.Segments != 4 {
		t.Fatalf("%+v, %v", m, err)
	}
	w.check(t, r, nil)
	// Damaged in a way that a CRC does not show, and then given up.
	var slot [slotSize]byte
	b := d.inodes[r.path(bad.segment())].now[bad.offset():]
	copy(slot[:], b)
	slot[20] ^= 1
	fixCRC(&slot, bad)
	copy(b, slot[:])
	if _, err := r.Rewrap(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	w.erase(t, r, bad)
	if m, err := r.Rewrap(t.Context()); err != nil || m.Segments != 4 {
		t.Fatalf("%+v, %v", m, err)
	}
	w.check(t, r, nil)
	// A segment without a header.
	whole := slices.Clone(d.inodes[r.path(bad.segment())].now)
	copy(d.inodes[r.path(bad.segment())].now, make([]byte, slotsStart))
	m, err = r.Rewrap(t.Context())
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), segmentName(bad.segment())) || m.Segments != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	if needs, err := r.Needed(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("needed, with a segment that has no header: %v, %v", needs, err)
	}
	d.inodes[r.path(bad.segment())].now = whole
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t, r, nil)
	// One with room at its end that was never written to.
	n := d.inodes[r.path(bad.segment())]
	n.now = append(n.now, make([]byte, 3*slotSize)...)
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t, r, nil)
	// Not more is said than can be read.
	many := w.take(t, r, 100)
	for _, id := range many {
		*at(id) ^= 1
	}
	if _, err := r.Rewrap(t.Context()); !errors.Is(err, ErrCorrupt) || strings.Count(err.Error(), "\n") > 15 || !strings.Contains(err.Error(), "more") {
		t.Error(err)
	}
	for _, id := range many {
		*at(id) ^= 1
	}
	w.check(t, r, nil)
}

// A ring comes from one tenant key to another, here from one without versions.
func TestFormer(t *testing.T) {
	old, k, dir := newKEK(1), newTenant(), t.TempDir()
	r := open(t, dir, Config{KEK: old, Batch: 4, Segment: 4})
	w := world{}
	w.take(t, r, 8)
	r.Close()
	if _, err := Open(dir, Config{KEK: k}); !errors.Is(err, ErrWrongKEK) {
		t.Fatalf("without the former key: %v", err)
	}
	cfg := Config{KEK: k, Former: []Wrapper{newKEK(2), old}, Batch: 4, Segment: 4}
	cfg.MaxStale = 1
	r = open(t, dir, cfg)
	k.questions()
	w.check(t, r, nil)
	if n := k.questions(); n != 0 {
		t.Errorf("the new key was asked %d times what the former one wrapped", n)
	}
	r.Close()
	cfg.MaxStale = 0
	r = open(t, dir, cfg)
	if needs, err := r.Needed(t.Context()); err != nil || !slices.Equal(needs, []Need{{old, 0, 2}}) {
		t.Fatalf("needed: %v, %v", needs, err)
	}
	w.take(t, r, 4)
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t, r, nil)
	if needs, err := r.Needed(t.Context()); err != nil || !slices.Equal(needs, []Need{{k, 1, 3}}) {
		t.Fatalf("needed: %v, %v", needs, err)
	}
	r.Close()
	r = open(t, dir, Config{KEK: k, Batch: 4, Segment: 4})
	w.check(t, r, nil)
	r.Close()
	if _, err := Open(dir, Config{KEK: old}); !errors.Is(err, ErrWrongKEK) {
		t.Fatalf("with the former key alone: %v", err)
	}
}

// A segment that only a tenant key opens that is not there any more stays, and holds nothing else up.
func TestFormerIsGone(t *testing.T) {
	old, k, dir, d := newKEK(1), newTenant(), t.TempDir(), newMemDisk()
	cfg := Config{KEK: old, Batch: 4, Segment: 4, disk: d.disk()}
	r := open(t, dir, cfg)
	w := world{}
	ids := w.take(t, r, 12)
	r.Close()
	cfg.KEK, cfg.Former = k, []Wrapper{old}
	r = open(t, dir, cfg)
	stays := ids[5].segment()
	slot := &d.inodes[r.path(stays)].now[ids[5].offset()+20]
	*slot ^= 1
	if m, err := r.Rewrap(t.Context()); !errors.Is(err, ErrCorrupt) || m.Segments != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	*slot ^= 1
	r.Close()
	cfg.Former = nil
	r = open(t, dir, cfg)
	if m, err := r.Rewrap(t.Context()); !errors.Is(err, ErrWrongKEK) || m.Segments != 2 {
		t.Errorf("%+v, %v", m, err)
	}
	but := map[ID]error{}
	for _, id := range ids {
		if id.segment() == stays {
			but[id] = ErrWrongKEK
		}
	}
	w.check(t, r, but)
	if needs, err := r.Needed(t.Context()); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("needed: %v, %v", needs, err)
	}
}

// What is begun while a Rewrap begins is of its epoch already, and is not moved.
func TestBegunSince(t *testing.T) {
	k, d := newTenant(), newMemDisk()
	r := open(t, t.TempDir(), Config{KEK: k, Batch: 4, Segment: 4, disk: d.disk()})
	w := world{}
	w.take(t, r, 8)
	d.setBefore(func(op, path string) {
		if op == "list" {
			d.setBefore(nil)
			w.take(t, r, 4)
		}
	})
	if m, err := r.Rewrap(t.Context()); err != nil || m != (Moved{2, 2, 8}) {
		t.Errorf("%+v, %v", m, err)
	}
	w.check(t, r, nil)
}

// A Rewrap takes its time, and ends soon when it is told to.
func TestRewrapPace(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		const n = 1 << 15
		cfg := Config{KEK: k, Batch: maxBatch, Segment: maxBatch, Pace: n * slotSize / 60, disk: d.disk()}
		r := open(t, dir, cfg)
		w := world{}
		ids := w.take(t, r, n)
		begin := time.Now()
		if _, err := r.Rewrap(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 55*time.Second || took > 65*time.Second {
			t.Errorf("a ring that is a minute's worth took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		m, err := r.Rewrap(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || m.Segments != 1 {
			t.Errorf("%+v, %v", m, err)
		}
		second := make(chan error)
		begin = time.Now()
		go func() { _, err := r.Rewrap(t.Context()); second <- err }()
		time.Sleep(20 * time.Second)
		w.erase(t, r, ids[n-1]) // meanwhile
		w.take(t, r, 1)
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if needs, err := r.Needed(brief); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("needed, meanwhile: %v, %v", needs, err)
		}
		if m, err := r.Rewrap(brief); !errors.Is(err, context.DeadlineExceeded) || m != (Moved{}) {
			t.Errorf("another one, meanwhile: %+v, %v", m, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-second; !errors.Is(err, ErrClosed) || time.Since(begin) > 23*time.Second {
			t.Errorf("closed: %v, after %v", err, time.Since(begin))
		}
		if _, err := r.Rewrap(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after that: %v", err)
		}
		if _, err := r.Needed(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("needed, after that: %v", err)
		}
		cfg.Pace = -1
		r = open(t, dir, cfg)
		begin = time.Now()
		if m, err := r.Rewrap(t.Context()); err != nil || m.Keys != n+maxBatch-1 || time.Since(begin) > 0 {
			t.Errorf("%+v, %v, after %v", m, err, time.Since(begin))
		}
		w.check(t, r, nil)
		r.Close()
	})
}

// Who is always interrupted gets rid of the oldest epoch all the same.
func TestRewrapOldestFirst(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 4, Segment: 4, Pace: 4 * slotSize, disk: d.disk()}) // a segment a second
		w := world{}
		w.take(t, r, 4*10)
		needed := func(want ...Need) {
			t.Helper()
			if got, err := r.Needed(t.Context()); err != nil || !slices.Equal(got, want) {
				t.Errorf("needed: %v, %v, want %v", got, err, want)
			}
		}
		for i, want := range [][]Need{{{k, 1, 6}, {k, 2, 4}}, {{k, 1, 2}, {k, 2, 4}, {k, 3, 4}}, {{k, 2, 2}, {k, 3, 4}, {k, 4, 4}}, {{k, 3, 2}, {k, 4, 4}, {k, 5, 4}}} {
			k.rotate()
			ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
			if m, err := r.Rewrap(ctx); !errors.Is(err, context.DeadlineExceeded) || m.Segments != 4 {
				t.Errorf("%d: %+v, %v", i, m, err)
			}
			cancel()
			needed(want...)
			k.retire(want[0].Version)
			w.check(t, r, nil)
		}
		r.Close()
	})
}

// While it is not known whether the disk has the name of the file that took a segment's place,
// no Erase says that it has the zeros, and nothing is said to be needed no more.
func TestDoubtfulName(t *testing.T) {
	c := newCuts(t)
	d := restored(c.dir, c.files)
	cfg := c.cfg
	cfg.disk = d.disk()
	r := open(t, c.dir, cfg)
	w := maps.Clone(c.w)
	// The ring's own file may be either.
	noSync := func(op, path string) error {
		if op == "syncdir" {
			return errInjected
		}
		return nil
	}
	d.setFault(noSync)
	if m, err := r.Rewrap(t.Context()); !errors.Is(err, errInjected) || m != (Moved{}) {
		t.Fatalf("%+v, %v", m, err)
	}
	if needs, err := r.Needed(t.Context()); !errors.Is(err, errInjected) {
		t.Errorf("needed: %v, %v", needs, err)
	}
	d.setFault(nil)
	if needs, err := r.Needed(t.Context()); err != nil || !slices.Equal(needs, []Need{{c.k, 1, 3}, {c.k, 2, 0}}) {
		t.Fatalf("needed: %v, %v", needs, err)
	}
	syncs := 0
	d.setFault(func(op, path string) error {
		if op == "syncdir" {
			if syncs++; syncs > 1 { // the first is for the ring's file
				return errInjected
			}
		}
		return nil
	})
	if m, err := r.Rewrap(t.Context()); !errors.Is(err, errInjected) || m.Segments != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	for range 2 {
		for _, id := range c.live {
			if err := r.Erase(t.Context(), id); !errors.Is(err, errInjected) {
				t.Errorf("Erase: %v", err)
			}
			w[id] = nil
		}
		if needs, err := r.Needed(t.Context()); !errors.Is(err, errInjected) {
			t.Errorf("needed: %v, %v", needs, err)
		}
		// Nor does another life know more.
		d.setFault(noSync)
		r.Close()
		r = open(t, c.dir, cfg)
	}
	d.setFault(nil)
	for _, id := range c.live {
		w.erase(t, r, id)
	}
	cut := d.crash(rand.New(rand.NewPCG(0, 0)))
	r.Close()
	c.finish(t, cut, w)
}

// A Rewrap that could not begin leaves the ring in an epoch that its file may not have any more: both are needed.
func TestDoubtfulEpoch(t *testing.T) {
	k, d := newTenant(), newMemDisk()
	r := open(t, t.TempDir(), Config{KEK: k, Batch: 4, disk: d.disk()})
	k.rotate()
	d.setFault(func(op, path string) error {
		if op == "syncdir" {
			return errInjected
		}
		return nil
	})
	if _, err := r.Rewrap(t.Context()); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	d.setFault(nil)
	if needs, err := r.Needed(t.Context()); err != nil || !slices.Equal(needs, []Need{{k, 1, 0}, {k, 2, 0}}) {
		t.Errorf("needed: %v, %v", needs, err)
	}
	w := world{}
	w.take(t, r, 4)
	w.check(t, r, nil)
}

// An Erase that has had the directory synced does not vouch for a name that came after.
func TestNameAfterTheSync(t *testing.T) {
	k, d, dir := newTenant(), newMemDisk(), t.TempDir()
	w := world{}
	r := open(t, dir, Config{KEK: k, Batch: 4, disk: d.disk()})
	id := w.take(t, r, 1)[0]
	r.Close()
	disk := d.disk()
	sync, hooked := disk.syncDir, false
	renames, erased, moved := make(chan bool), make(chan bool), make(chan error)
	disk.syncDir = func(dir string) error {
		err := sync(dir)
		if hooked {
			return err
		}
		hooked = true
		go func() { _, err := r.Rewrap(t.Context()); moved <- err }()
		select {
		case <-renames:
			close(erased)
		case <-time.After(50 * time.Millisecond): // it waits for the Erase
			close(erased)
		}
		return err
	}
	r = open(t, dir, Config{KEK: k, Batch: 4, disk: disk})
	d.setBefore(func(op, path string) {
		if op == "rename" {
			d.setBefore(nil)
			select {
			case renames <- true:
			case <-erased:
			}
			<-erased
			time.Sleep(20 * time.Millisecond)
		}
	})
	d.setFault(func(op, path string) error {
		if op == "list" { // no more than the ring's own file
			return errInjected
		}
		return nil
	})
	w.erase(t, r, id)
	if err := <-moved; !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ringFile)
	if r.current.Load().number != 2 || d.durable[path] != d.inodes[path] {
		t.Error("the disk does not have the new epoch's file")
	}
	w.check(t, r, nil)
}

// Everything at once, on a real disk.
func TestRewrapConcurrent(t *testing.T) {
	k := newTenant()
	dir := t.TempDir()
	r := open(t, dir, Config{KEK: k, Batch: 8, Segment: 32, Pace: -1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg, runs sync.WaitGroup
	runs.Go(func() { r.Run(ctx) })
	worlds := make([]world, 4)
	stop := make(chan struct{})
	for i := range worlds {
		worlds[i] = world{}
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			var ids []ID
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n < 200 {
					id, key, err := r.New(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					ids = append(ids, id)
					worlds[i][id] = append([]byte(nil), key.Bytes()...)
				}
				id := ids[rng.IntN(len(ids))]
				got, err := r.Open(ctx, id)
				switch want := worlds[i][id]; {
				case want == nil && !errors.Is(err, ErrErased), want != nil && (err != nil || string(got.Bytes()) != string(want)):
					t.Errorf("%v, erased: %v: error %v, or a wrong key", id, want == nil, err)
					return
				}
				if id := ids[rng.IntN(len(ids))]; n%3 == 0 {
					if err := r.Erase(ctx, id); err != nil {
						t.Error(err)
						return
					}
					worlds[i][id] = nil
				}
			}
		})
	}
	for range 10 {
		k.rotate()
		if _, err := r.Rewrap(ctx); err != nil {
			t.Error(err)
		}
		needs, err := r.Needed(ctx)
		if err != nil || len(needs) != 1 || needs[0].Version != k.newest() {
			t.Errorf("needed: %v, %v", needs, err)
		}
		k.retire(k.newest())
	}
	close(stop)
	wg.Wait()
	cancel()
	runs.Wait()
	r.Close()
	r = open(t, dir, Config{KEK: k})
	for _, w := range worlds {
		w.check(t, r, nil)
	}
}

// An Open that has found a segment's file, which is then replaced, and its epoch retired,
// looks again.
func TestOpenWhileItsSegmentMoves(t *testing.T) {
	k, d := newTenant(), newMemDisk()
	r := open(t, t.TempDir(), Config{KEK: k, Batch: 4, Segment: 4, disk: d.disk()})
	w := world{}
	id := w.take(t, r, 4)[2]
	reads := 0
	d.setBefore(func(op, path string) {
		if op != "read" {
			return
		}
		if reads++; reads == 2 { // of the header, the slot having been read
			d.setBefore(nil)
			k.rotate()
			if _, err := r.Rewrap(t.Context()); err != nil {
				t.Error(err)
			}
			k.retire(2)
		}
	})
	w.check(t, r, nil)
	if _, err := r.Open(t.Context(), id); err != nil || reads < 2 {
		t.Errorf("%v, after %d reads", err, reads)
	}
}

// testdata/v1 becomes a ring of the present format: at once for what is new, by a Rewrap for
// what is old.
func TestVersion1Moves(t *testing.T) {
	dir, w := fixture(t, "v1")
	kek := newKEK('k')
	r := open(t, dir, Config{KEK: kek, Batch: 4})
	w.check(t, r, nil)
	w.take(t, r, 3)
	for id, key := range w {
		if id.segment() == 0xd284d0d01d444fe3 && key != nil {
			w.erase(t, r, id)
			break
		}
	}
	kek.asked = 0
	w.check(t, r, nil)
	if kek.asked != 0 {
		t.Errorf("the tenant key was asked %d times for a segment that was read", kek.asked)
	}
	r.Close()
	r = open(t, dir, Config{KEK: kek, Batch: 4})
	kek.asked = 0
	w.check(t, r, nil)
	if kek.asked != 1 {
		t.Errorf("the tenant key was asked %d times, want once for the old segment", kek.asked)
	}
	if needs, err := r.Needed(t.Context()); err != nil || !slices.Equal(needs, []Need{{kek, 0, 2}}) {
		t.Errorf("needed: %v, %v", needs, err)
	}
	if m, err := r.Rewrap(t.Context()); err != nil || m.Segments != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	w.check(t, r, nil)
	r.Close()
	for _, name := range append(segments(t, dir), filepath.Join(dir, ringFile)) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int{0, headerTwin} {
			if h, err := parseHeader(b[off : off+headerSize]); err != nil || h.epoch != 2 {
				t.Errorf("%s: epoch %d, %v", name, h.epoch, err)
			}
		}
	}
	w.check(t, open(t, dir, Config{KEK: kek}), nil)
	dir, _ = fixture(t, "v1")
	if _, err := Open(dir, Config{KEK: newKEK(1)}); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("with another key: %v", err)
	}
	// A ring that could not be given its first epoch is what it was.
	dir, w = fixture(t, "v1")
	kek.setDown(errInjected)
	if _, err := Open(dir, Config{KEK: kek}); !errors.Is(err, errInjected) {
		t.Errorf("without its key: %v", err)
	}
	kek.setDown(nil)
	w.check(t, open(t, dir, Config{KEK: kek}), nil)
}

// A life of one ring, at random: keys are made and erased, backups are made and restored, the
// power is cut, and the tenant key is rotated and retired with a Rewrap between that ends or
// does not. Every key opens as it should. What a thief with all the backups opens is never
// anything that was erased before a Rewrap whose old versions were then retired.
func TestStory(t *testing.T) {
	stolen, dead := 0, 0
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 7))
		dir, d, k := t.TempDir(), newMemDisk(), newTenant()
		cfg := Config{KEK: k, Batch: 1 + rng.IntN(6), Pace: -1}
		cfg.Segment = cfg.Batch + rng.IntN(12)
		type backup struct {
			files          map[string][]byte
			w              world
			perhaps        []ID // were being erased when it was made
			oldest, newest int  // versions of the tenant key
		}
		var backups []backup
		backUp := func(w world, perhaps ...ID) {
			b := backup{d.copy(), maps.Clone(w), perhaps, k.newest(), 0}
			for _, file := range b.files {
				if h, err := parseHeader(file[:min(len(file), headerSize)]); err == nil {
					b.oldest, b.newest = min(b.oldest, k.Version(h.wrapped)), max(b.newest, k.Version(h.wrapped))
				}
			}
			backups = append(backups, b)
		}
		w, safe := world{}, map[ID]bool{} // safe: erased, and in no backup that opens
		var r *Ring
		start := func() {
			cfg.disk = d.disk()
			var err error
			if r, err = Open(dir, cfg); err != nil {
				t.Fatal(err)
			}
		}
		start()
		some := func() (ids []ID) {
			all := slices.SortedFunc(maps.Keys(w), func(a, b ID) int { return slices.Compare(a[:], b[:]) })
			for range min(len(all), 1+rng.IntN(3)) {
				ids = append(ids, all[rng.IntN(len(all))])
			}
			return ids
		}
		// settle does again what may have happened or not.
		settle := func(doubtful []ID) {
			for _, id := range doubtful {
				w.erase(t, r, id)
			}
		}
		retire := func(erased []ID) {
			needs, err := r.Needed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			k.retire(needs[0].Version)
			for _, id := range erased {
				safe[id] = true
			}
			var files []map[string][]byte
			for _, b := range backups {
				files = append(files, b.files)
			}
			for i, found := range loot(t, k, append(files, d.copy())...) {
				if i == len(backups) {
					for id, key := range found {
						if mine, ok := w[id]; ok && string(mine) != string(key) {
							t.Fatalf("seed %d: from the ring itself a thief has %v", seed, id)
						}
					}
					continue
				}
				if backups[i].newest < k.min && len(found) > 0 {
					t.Fatalf("seed %d: a thief opens %d keys of a backup of version %d, version %d being the first", seed, len(found), backups[i].newest, k.min)
				}
				for id := range found {
					stolen++
					if safe[id] {
						t.Fatalf("seed %d: a thief has %v, which was erased before a Rewrap", seed, id)
					}
				}
			}
		}
		for range 60 {
			switch op := rng.IntN(20); {
			case op < 5:
				w.take(t, r, 1+rng.IntN(9))
			case op < 8:
				for _, id := range some() {
					w.erase(t, r, id)
				}
			case op < 10:
				backUp(w)
			case op < 11:
				r.Close()
				start()
			case op < 13: // a power cut, while keys are made or erased
				left := rng.IntN(6)
				d.setFault(func(op, path string) error {
					if left--; left < 0 {
						return errInjected
					}
					return nil
				})
				var doubtful []ID
				for _, id := range some() {
					if err := r.Erase(t.Context(), id); err == nil {
						w[id] = nil
					} else {
						doubtful = append(doubtful, id)
					}
				}
				for range rng.IntN(10) {
					if id, key, err := r.New(t.Context()); err == nil {
						w[id] = append([]byte(nil), key.Bytes()...)
					}
				}
				d = d.crash(rng)
				r.Close()
				start()
				settle(doubtful)
			case op < 14 && len(backups) > 0: // the disk is lost
				b := backups[rng.IntN(len(backups))]
				there := restored(dir, b.files)
				r.Close()
				cfg.disk = there.disk()
				again, err := Open(dir, cfg)
				if b.oldest < k.min { // a part of it is worthless, or all
					if err == nil {
						again.Close()
					} else if !errors.Is(err, keys.ErrGone) {
						t.Fatal(err)
					}
					dead++
					start()
					break
				}
				if err != nil {
					t.Fatalf("seed %d: a backup of version %d, version %d being the first: %v", seed, b.oldest, k.min, err)
				}
				r, d, w = again, there, maps.Clone(b.w)
				settle(b.perhaps)
				for id, key := range w {
					if key != nil {
						delete(safe, id) // it lives again
					}
				}
				// Whatever lived in between is nobody's now, but a thief's.
				for id := range safe {
					if _, ok := w[id]; !ok {
						delete(safe, id)
					}
				}
			case op < 17: // a Rewrap that ends before its time
				if rng.IntN(3) > 0 {
					k.rotate()
				}
				left := rng.IntN(60)
				ctx, cancel := context.WithCancel(t.Context())
				crash := rng.IntN(2) == 0
				d.setFault(func(op, path string) error {
					if left--; left < 0 {
						if crash {
							return errInjected
						}
						cancel()
					}
					return nil
				})
				_, err := r.Rewrap(ctx)
				cancel()
				d.setFault(nil)
				if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				if crash {
					d = d.crash(rng)
					r.Close()
					start()
				}
				retire(nil)
			default: // one that ends well, while keys are erased and a backup is made
				k.rotate()
				var before, meanwhile []ID
				for id, key := range w {
					if key == nil {
						before = append(before, id)
					}
				}
				meanwhile = some()
				at, copyAt := 1+rng.IntN(60), 1+rng.IntN(60)
				was := maps.Clone(w)
				done := make(chan error, 1)
				var mu sync.Mutex
				d.setBefore(func(op, path string) {
					mu.Lock()
					at--
					copyAt--
					erase, copy := at == 0, copyAt == 0
					mu.Unlock()
					if copy {
						backUp(was, meanwhile...)
					}
					if erase {
						go func() {
							var err error
							for _, id := range meanwhile {
								err = errors.Join(err, r.Erase(context.Background(), id))
							}
							done <- err
						}()
					}
				})
				if _, err := r.Rewrap(t.Context()); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				begun := at <= 0
				mu.Unlock()
				if begun {
					if err := <-done; err != nil {
						t.Fatal(err)
					}
					for _, id := range meanwhile {
						w[id] = nil
					}
				}
				d.setBefore(nil)
				retire(before)
			}
			w.check(t, r, nil)
		}
		r.Close()
	}
	t.Logf("a thief had %d keys of backups that were not erased in time, %d backups were worthless", stolen, dead)
}
