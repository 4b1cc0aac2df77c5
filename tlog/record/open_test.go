package record_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// bundles is a reader of entry tiles whose newest checkpoint covers all of them: of partial tiles it has the last one
// only.
type bundles [][]byte

func (b bundles) Checkpoint(context.Context) ([]byte, error) { return nil, tlog.ErrNotFound }

func (b bundles) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	if t.Level != tlog.EntriesLevel || t != tlog.TileAt(t.Level, t.Index*tlog.TileWidth, uint64(len(b))) {
		return nil, tlog.ErrNotFound
	}
	var data []byte
	for _, e := range b[t.Index*tlog.TileWidth:][:t.Width] {
		data = tlog.AppendBundleEntry(data, e)
	}
	return data, nil
}

// counting counts how far back is read.
type counting struct {
	tlog.Reader
	oldest uint64 // the lowest tile asked for
	reads  int
}

func (c *counting) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	c.reads++
	c.oldest = min(c.oldest, t.Index)
	return c.Reader.Tile(ctx, t)
}

// A pen is a writer reduced to what it states: the entries of one boot, and the book of open sessions.
type pen struct {
	id   string
	boot ID
	seq  uint64
}

func (p *pen) entry(t testing.TB, k Kind, change func(*Entry)) []byte {
	t.Helper()
	e := Entry{Kind: k, By: p.id, Boot: p.boot, Seq: p.seq, Time: epoch}
	switch k {
	case Start:
		e.Software, e.Mode = "t/1", "strict"
	case Heartbeat, Stop:
		e.Beat = true
	case Gap:
		e.From, e.To, e.Seq, e.Since, e.Reason = p.seq, p.seq+2, p.seq+3, epoch, "busy"
	default:
		e.Root, e.Fields, e.Payload, e.PayloadSize = hashOf("r"), 1, hashOf("p"), 1
	}
	if change != nil {
		change(&e)
	}
	b, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.seq = e.Seq + 1
	return b
}

// A world is a log that several writers write to, and the truth about what each has open.
type world struct {
	t    testing.TB
	rnd  *rand.Rand
	log  bundles
	pens []*pen
	open []map[ID]Unfinished // by pen: what is open in truth
	book []map[ID]uint64     // by pen: what the process knows; nil while it is down
	at   []uint64            // by pen: the index that its last heartbeat or stop bounds, or 0
	n    uint64
}

func newWorld(t testing.TB, seed uint64, writers int) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 7))}
	for i := range writers {
		w.pens = append(w.pens, &pen{id: fmt.Sprintf("gw-%d", i)})
		w.open = append(w.open, map[ID]Unfinished{})
		w.book = append(w.book, nil)
		w.at = append(w.at, 0)
	}
	return w
}

func (w *world) id() (id ID) {
	w.n++
	return idOf(fmt.Sprint(w.rnd.Uint64(), w.n))
}

func (w *world) add(i int, k Kind, change func(*Entry)) (uint64, tlog.Hash) {
	b := w.pens[i].entry(w.t, k, change)
	w.log = append(w.log, b)
	return uint64(len(w.log) - 1), tlog.HashLeaf(b)
}

func (w *world) found(index uint64) Found {
	e, err := ParseEntry(w.log[index])
	if err != nil {
		w.t.Fatal(err)
	}
	return Found{index, w.log[index], e}
}

// find looks for what writer i left open, and compares it with the truth.
func (w *world) find(i int) []Unfinished {
	w.t.Helper()
	c := &counting{Reader: w.log, oldest: 1 << 62}
	found, err := FindUnfinished(w.t.Context(), c, w.pens[i].id, uint64(len(w.log)))
	if err != nil {
		w.t.Fatal(err)
	}
	if len(found) != len(w.open[i]) {
		w.t.Fatalf("%s at %d: found %d open, and %d are", w.pens[i].id, len(w.log), len(found), len(w.open[i]))
	}
	for j, u := range found {
		if !reflect.DeepEqual(w.open[i][u.Session], u) {
			w.t.Fatalf("%s: found %v, and it is %v", w.pens[i].id, u, w.open[i][u.Session])
		}
		if j > 0 && found[j-1].Index >= u.Index {
			w.t.Fatalf("%s: not the oldest first", w.pens[i].id)
		}
	}
	if len(w.log) > 0 {
		if last, bound := uint64(len(w.log)-1)/tlog.TileWidth, w.at[i]/tlog.TileWidth; c.oldest < bound || c.reads > int(last-bound)+1 {
			w.t.Fatalf("%s: read back to tile %d in %d reads, and the floor is in tile %d of %d", w.pens[i].id, c.oldest, c.reads, bound, last)
		}
	}
	return found
}

func (w *world) beat(i int, k Kind) {
	count, floor := uint64(len(w.book[i])), uint64(0)
	for _, at := range w.book[i] {
		if floor == 0 || at < floor {
			floor = at
		}
	}
	index, _ := w.add(i, k, func(e *Entry) { e.Open, e.Floor = count, floor })
	w.at[i] = index
	if count > 0 {
		w.at[i] = floor
	}
}

// step is one thing that happens.
func (w *world) step() {
	i := w.rnd.IntN(len(w.pens))
	if w.book[i] == nil { // a boot: find what is open, and know it from then on
		w.pens[i].boot, w.pens[i].seq = w.id(), 0
		w.add(i, Start, nil)
		if w.rnd.IntN(5) == 0 {
			return // it dies before it has looked
		}
		w.book[i] = map[ID]uint64{}
		for _, u := range w.find(i) {
			w.book[i][u.Session] = u.Index
		}
		return
	}
	any := func() (u Unfinished, ok bool) {
		var all []Unfinished
		for _, u := range w.open[i] {
			all = append(all, u)
		}
		if len(all) == 0 {
			return u, false
		}
		oldest := all[0]
		for _, u := range all {
			if u.Index < oldest.Index {
				oldest = u
			}
		}
		if w.rnd.IntN(2) == 0 {
			return oldest, true
		}
		for _, u := range all {
			if u.Index > oldest.Index {
				oldest = u
			}
		}
		return oldest, true
	}
	switch x := w.rnd.IntN(100); {
	case x < 40:
		id := w.id()
		index, leaf := w.add(i, Request, func(e *Entry) { e.Session = id })
		w.open[i][id] = Unfinished{Session: id, Boot: w.pens[i].boot, Index: index, Leaf: leaf}
		w.book[i][id] = index
	case x < 82:
		if u, ok := any(); ok {
			w.add(i, Response, func(e *Entry) { e.Session, e.Outcome, e.Prev = u.Session, Complete, u.Leaf })
			delete(w.open[i], u.Session)
			delete(w.book[i], u.Session)
		}
	case x < 86:
		if u, ok := any(); ok {
			if u.Entries == nil {
				u.Entries = []Found{w.found(u.Index)}
			}
			var index uint64
			index, u.Leaf = w.add(i, Approval, func(e *Entry) {
				e.Session, e.Prev = u.Session, u.Leaf
				if w.rnd.IntN(2) == 0 {
					e.Reason = Granted
				}
			})
			u.Entries = append(slices.Clone(u.Entries), w.found(index))
			if u.Entries[len(u.Entries)-1].Entry.Reason == Granted {
				u.By = ID{}
			}
			w.open[i][u.Session] = u
			over := false
			if u.Entries[len(u.Entries)-1].Entry.Reason == Granted && w.rnd.IntN(3) == 0 { // it is over, and a use comes too late
				over = true
				var at uint64
				at, leaf := w.add(i, Approval, func(e *Entry) { e.Session, e.Prev, e.Reason = u.Session, u.Leaf, Expired })
				grant := u.Leaf
				u.Leaf = leaf
				u.Entries = append(u.Entries, w.found(at))
				w.open[i][u.Session] = u
				if k, by := w.rnd.IntN(len(w.pens)), w.id(); w.book[k] != nil {
					used, leaf := w.add(k, Request, func(e *Entry) { e.Session = by })
					b := Unfinished{Session: by, Boot: w.pens[k].boot, Index: used, Entries: []Found{w.found(used)}, Uses: true}
					used, b.Leaf = w.add(k, Approval, func(e *Entry) { e.Session, e.Prev, e.Reason, e.Grant = by, leaf, Used, grant })
					b.Entries = append(b.Entries, w.found(used))
					w.open[k][by], w.book[k][by] = b, b.Index
				}
			}
			if !over && u.By.IsZero() && u.Entries[len(u.Entries)-1].Entry.Reason == Granted && w.rnd.IntN(2) == 0 { // and its yes is used, by a session of anybody's
				for range 2 { // the second is too late
					k, by := w.rnd.IntN(len(w.pens)), w.id()
					if w.book[k] == nil {
						break
					}
					used, leaf := w.add(k, Request, func(e *Entry) { e.Session = by })
					b := Unfinished{Session: by, Boot: w.pens[k].boot, Index: used, Entries: []Found{w.found(used)}, Uses: true}
					used, b.Leaf = w.add(k, Approval, func(e *Entry) { e.Session, e.Prev, e.Reason, e.Grant = by, leaf, Used, u.Leaf })
					b.Entries = append(b.Entries, w.found(used))
					w.open[k][by], w.book[k][by] = b, b.Index
					if u.By.IsZero() {
						u.By = by
					}
				}
				w.open[i][u.Session] = u
			}
		}
	case x < 90:
		id := w.id()
		w.add(i, Refused, func(e *Entry) { e.Session, e.Reason = id, "no" })
	case x < 91:
		w.add(i, Response, func(e *Entry) { e.Session, e.Outcome = w.id(), Truncated }) // whose request was lost
	case x < 93:
		w.add(i, Gap, nil)
	case x < 95:
		w.add(i, Policy, nil)
	case x < 98:
		w.beat(i, Heartbeat)
	case x < 99:
		w.beat(i, Stop)
		w.book[i] = nil
	default:
		w.book[i] = nil // a crash
	}
}

// In random lives of one to three writers in one log, what is found open is what is open, and no tile below the floor
// is read.
func TestFindUnfinishedAgainstModel(t *testing.T) {
	found := 0
	for seed := range uint64(30) {
		w := newWorld(t, seed, 1+int(seed%3))
		for range 1200 {
			w.step()
		}
		l := newReading()
		for i, e := range w.log {
			if seed%10 != 0 {
				break
			}
			if err := l.next(int64(i), e); err != nil {
				t.Fatalf("seed %d: the test's own log, entry %d: %v\n%s", seed, i, err, e)
			}
		}
		for i := range w.pens {
			found += len(w.find(i))
		}
	}
	t.Logf("%d sessions found open at the end of 30 lives", found)
}

// The floor may lie anywhere, at the edges of tiles too.
func TestFindUnfinishedFloors(t *testing.T) {
	for _, floor := range []uint64{0, 1, 255, 256, 257, 511, 512, 600} {
		w := newWorld(t, 1, 2)
		w.pens[0].boot, w.pens[1].boot = w.id(), w.id()
		w.book[0] = map[ID]uint64{}
		w.pens[0].seq, w.pens[1].seq = 1, 1
		for uint64(len(w.log)) < floor {
			w.add(1, Policy, nil)
		}
		id := w.id()
		index, leaf := w.add(0, Request, func(e *Entry) { e.Session = id })
		w.open[0][id] = Unfinished{Session: id, Boot: w.pens[0].boot, Index: index, Leaf: leaf}
		w.book[0][id] = index
		for len(w.log) < 700 {
			w.add(1, Policy, nil)
		}
		w.beat(0, Heartbeat)
		for len(w.log) < 800 {
			w.add(1, Policy, nil)
		}
		if got := w.find(0); len(got) != 1 || got[0].Index != floor {
			t.Errorf("floor %d: %v", floor, got)
		}
		// With nothing open the heartbeat itself is the floor.
		w.add(0, Response, func(e *Entry) { e.Session, e.Outcome, e.Prev = id, Complete, leaf })
		delete(w.open[0], id)
		delete(w.book[0], id)
		w.beat(0, Stop)
		w.find(0)
	}
}

func TestFindUnfinishedFaults(t *testing.T) {
	w := newWorld(t, 3, 1)
	for len(w.log) < 300 {
		w.step()
	}
	w.log[290] = []byte("{}")
	if _, err := FindUnfinished(t.Context(), w.log, "gw-0", 300); err == nil {
		t.Error("an entry that is none was passed over")
	}
	if _, err := FindUnfinished(t.Context(), w.log, "gw-0", 299); err == nil {
		t.Error("a tile of a size that nobody published was read")
	}
	if found, err := FindUnfinished(t.Context(), w.log, "gw-0", 0); err != nil || len(found) != 0 {
		t.Error("an empty log", found, err)
	}
}

// A checkpoint is awaited while there is none, while it cannot be read, and while it is too small.
func TestAwait(t *testing.T) {
	r := &growing{}
	c, err := Await(t.Context(), r, 5)
	if err != nil || c.Size != 6 || r.reads < 8 {
		t.Errorf("%+v after %d reads, %v", c, r.reads, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Await(ctx, &growing{}, 1<<40); err == nil {
		t.Error("waited for nothing")
	}
	for _, bad := range []string{"", "x", "a\nb\n\n", "o\n1\n" + hashOf("a").String() + "\n"} {
		if _, err := Await(t.Context(), fixed(bad), 0); err == nil {
			t.Errorf("%q passed for a checkpoint", bad)
		}
	}
}

type fixed string

func (f fixed) Checkpoint(context.Context) ([]byte, error)      { return []byte(f), nil }
func (f fixed) Tile(context.Context, tlog.Tile) ([]byte, error) { return nil, tlog.ErrNotFound }

type growing struct{ reads uint64 }

func (g *growing) Checkpoint(context.Context) ([]byte, error) {
	g.reads++
	if g.reads < 3 {
		return nil, tlog.ErrNotFound
	}
	c := tlog.Checkpoint{Origin: "o", Size: g.reads - 2, Root: hashOf("r")}
	return append(c.Text(), "\n— o AAAAAAAA\n"...), nil
}

func (g *growing) Tile(context.Context, tlog.Tile) ([]byte, error) { return nil, tlog.ErrNotFound }
