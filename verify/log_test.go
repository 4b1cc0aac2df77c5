package verify

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A served log is one that somebody stands in front of.
type served struct {
	*tlogtest.Log
	checkpoint   func(signed []byte) []byte
	checkpointAt func(size uint64, signed []byte) ([]byte, error)
	tile         func(t tlog.Tile, data []byte) ([]byte, error)
	sizes        func(after uint64, sizes []uint64) ([]uint64, error)
}

func (s *served) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := s.Log.Checkpoint(ctx)
	if err == nil && s.checkpoint != nil {
		signed = s.checkpoint(signed)
	}
	return signed, err
}

func (s *served) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	signed, err := s.Log.CheckpointAt(ctx, size)
	if s.checkpointAt != nil {
		return s.checkpointAt(size, signed)
	}
	return signed, err
}

func (s *served) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, err := s.Log.Tile(ctx, t)
	if err == nil && s.tile != nil {
		return s.tile(t, data)
	}
	return data, err
}

func (s *served) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	sizes, err := s.Log.Sizes(ctx, after, max)
	if err == nil && s.sizes != nil {
		return s.sizes(after, sizes)
	}
	return sizes, err
}

// A plain log has no history.
type plain struct{ tlog.Reader }

// season is a log of several boots of two gateways, of which one dies twice.
func season(c *chronicle) (a, b *writer, left record.ID) {
	a, b = c.writer("gw-1"), c.writer("gw-2")
	a.start()
	b.start()
	for range 150 {
		x, y := a.request(), b.request()
		c.mark()
		a.response(x, record.Complete)
		z := a.request()
		a.approval(z)
		b.response(y, record.ClientGone)
		a.response(z, record.Denied)
		a.refused()
	}
	left = a.request()
	a.heartbeat()
	b.gap(7)
	b.heartbeat()
	also := a.request()
	a.start() // it died
	a.heartbeat()
	a.response(left, record.Interrupted)
	a.start() // it died again, with one of two closed
	a.response(also, record.Interrupted)
	left = a.request()
	a.stop()
	c.mark()
	a.start()
	a.heartbeat()
	return a, b, left
}

// check checks and wants no error.
func check(t *testing.T, r tlog.Reader, trust Trust) Report {
	t.Helper()
	rep, err := CheckLog(t.Context(), r, trust, nil)
	if err != nil {
		show(t, rep)
		t.Fatal(err)
	}
	return rep
}

func TestLogHolds(t *testing.T) {
	c := newChronicle(t)
	_, _, left := season(c)
	l := c.publish()
	var told []uint64
	r, err := CheckLog(t.Context(), l, policy(t, ""), func(done, size uint64) { told = append(told, done, size) })
	if err != nil || !r.OK() {
		show(t, r)
		t.Fatal(err)
	}
	size := uint64(len(c.entries))
	if n := len(told); n < 8 || told[0] != 256 || told[n-2] != size || told[n-1] != size {
		t.Errorf("progress of %d entries: %d", size, told)
	}
	for _, c := range []Claim{CheckpointSigned, CheckpointCosigned, LogReadable, EntryCanonical, TilesMatch, RootMatches, HistoryConsistent, BootsOrdered, NumbersWhole, LossesDeclared, SessionChain, SessionsFinished, HeartbeatTrue, TimesOrdered} {
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Claim == c }) {
			t.Errorf("nothing is said of %s", c)
		}
	}
	wantDetail(t, r, LossesDeclared, "gw-2 lost its numbers")
	wantDetail(t, r, LossesDeclared, "7 entries lost, in 1 gap")
	wantDetail(t, r, HistoryConsistent, "152 kept checkpoints")
	wantDetail(t, r, BootsOrdered, "5 boots of 2 writers")
	wantDetail(t, r, SessionsFinished, "but for 1")
	wantNotProven(t, r, "session "+left.String(), "gw-1 still lives", "gw-2 still lives", "of gw-1, whose last entry is of", "7 lost entries", "no witness was required")
}

func wantDetail(t *testing.T, r Report, c Claim, detail string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Claim == c && strings.Contains(f.Detail, detail) {
			return
		}
	}
	show(t, r)
	t.Errorf("%s does not say %q", c, detail)
}

func wantNotProven(t *testing.T, r Report, words ...string) {
	t.Helper()
	all := strings.Join(r.NotProven, "\n")
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("it does not say that %q is not proven:\n%s", w, all)
		}
	}
}

// Logs of every size near the edges of tiles, with a checkpoint kept at every size, are what they are.
func TestLogEverySize(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	for len(c.entries) < 2*tlog.TileWidth+3 {
		c.mark()
		w.heartbeat()
	}
	l := c.publish()
	for _, size := range []uint64{1, 2, 3, 255, 256, 257, 511, 512, 513, 515} {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		r := check(t, &served{Log: l, checkpoint: func([]byte) []byte { return signed }}, policy(t, ""))
		if !r.OK() {
			show(t, r)
			t.Errorf("size %d: false: %v", size, falseClaims(r))
		}
		wantDetail(t, r, HistoryConsistent, fmt.Sprintf("%d kept", size))
	}
	empty := newChronicle(t).publish()
	if r := check(t, empty, policy(t, "")); !r.OK() {
		t.Errorf("a log without entries: %v", falseClaims(r))
	}
}

// A tree of three levels: more than 65,536 leaves.
func TestLogThreeLevels(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a log of 70,000 entries")
	}
	l := manyEntries(t, 70_000)
	r := check(t, l, policy(t, ""))
	if !r.OK() {
		show(t, r)
	}
	wantDetail(t, r, TilesMatch, "277 tiles") // 274 of leaves, 2 above them, 1 above these
	for _, bad := range []struct {
		level int
		n     uint64
	}{{0, 69_998}, {1, 0}, {1, 255}, {1, 272}, {2, 0}} {
		l.Inject(tlogtest.Faults{Tile: tlogtest.Flip(bad.level, bad.n)})
		if r := check(t, l, policy(t, "")); !slices.Equal(falseClaims(r), []Claim{TilesMatch}) {
			t.Errorf("hash %d of level %d served wrong: false: %v", bad.n, bad.level, falseClaims(r))
		}
	}
}

// manyEntries makes a log of n entries, mostly sessions.
func manyEntries(t testing.TB, n int) *tlogtest.Log {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	w.leaf = nil
	w.leaf = make(map[record.ID]tlog.Hash)
	var waiting []record.ID
	for i := 0; len(c.entries) < n-1; i++ {
		id := record.ID{1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), 15: 1}
		w.open[id] = uint64(len(c.entries))
		e := record.Entry{Kind: record.Request, Session: id, Root: tlog.Hash{1}, Fields: 9, Payload: tlog.Hash{2}, PayloadSize: 999}
		w.put(e)
		waiting = append(waiting, id)
		if len(waiting) > 16 {
			id, waiting = waiting[0], waiting[1:]
			e.Kind, e.Session, e.Prev, e.Outcome = record.Response, id, w.leaf[id], record.Complete
			delete(w.open, id)
			delete(w.leaf, id)
			w.put(e)
		}
		if i%1000 == 999 {
			w.heartbeat()
			c.mark()
		}
	}
	return c.publish()
}

// Whatever an operator does to a log, or a gateway writes that is not so, is a claim by its name.
func TestLogFalse(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim Claim
		more  []Claim // what else is false because of it
		says  string  // part of the detail
		story func(c *chronicle, a, b *writer, left record.ID)
		serve func(l *served, entries int)
	}{
		// The operator, with the log's key or without it.
		{name: "an entry edited", claim: TilesMatch, more: []Claim{RootMatches, HistoryConsistent, SessionChain},
			serve: func(l *served, _ int) {
				l.tile = func(tile tlog.Tile, data []byte) ([]byte, error) {
					if tile.Level == tlog.EntriesLevel && tile.Index == 0 {
						data = bytes.Replace(data, []byte(`"client_gone"`), []byte(`"upstream_ok"`), 0)
						data = bytes.Replace(data, []byte(`"fields":3`), []byte(`"fields":4`), 1)
					}
					return data, nil
				}
			}},
		{name: "an entry that is none", claim: EntryCanonical, more: []Claim{TilesMatch, RootMatches, HistoryConsistent, NumbersWhole, SessionChain},
			serve: func(l *served, _ int) {
				l.tile = func(tile tlog.Tile, data []byte) ([]byte, error) {
					return tlogtest.Replace(3, []byte("garbage"))(tile, data)
				}
			}},
		{name: "a tile of leaves edited", claim: TilesMatch, serve: flip(0, 300)},
		{name: "a tile above edited", claim: TilesMatch, serve: flip(1, 1)},
		{name: "the last leaf edited", claim: TilesMatch, serve: func(l *served, n int) { flip(0, uint64(n-1))(l, n) }},
		{name: "an earlier checkpoint of another history", claim: HistoryConsistent, serve: func(l *served, _ int) {
			l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) {
				if size != 44 {
					return signed, nil
				}
				return tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: size, Root: tlog.Hash{1}}, logSigner(tlogtest.Origin))
			}
		}},
		{name: "an earlier checkpoint under another key", claim: HistoryConsistent, serve: func(l *served, _ int) {
			l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) {
				c, err := tlog.UnverifiedCheckpoint(signed)
				if err != nil {
					return nil, err
				}
				return tlog.SignCheckpoint(c, impostor("another"))
			}
		}},
		{name: "an earlier checkpoint of another size in its place", claim: HistoryConsistent, serve: func(l *served, _ int) {
			l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) {
				if size != 44 {
					return signed, nil
				}
				return l.Log.CheckpointAt(context.Background(), 52)
			}
		}},
		{name: "a checkpoint with another root", claim: RootMatches, serve: func(l *served, n int) {
			l.checkpoint = func([]byte) []byte {
				signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: uint64(n), Root: tlog.Hash{1}}, logSigner(tlogtest.Origin))
				if err != nil {
					panic(err)
				}
				return signed
			}
		}},
		{name: "a checkpoint under another key", claim: CheckpointSigned, more: []Claim{CheckpointCosigned}, serve: func(l *served, n int) {
			l.checkpoint = func(signed []byte) []byte {
				c, _ := tlog.UnverifiedCheckpoint(signed)
				signed, err := tlog.SignCheckpoint(c, impostor("another"))
				if err != nil {
					panic(err)
				}
				return signed
			}
			l.tile = func(tlog.Tile, []byte) ([]byte, error) { panic("what hangs from nobody's word is read") }
		}},

		// Numbers.
		{name: "a number skipped", claim: NumbersWhole, story: func(_ *chronicle, a, _ *writer, _ record.ID) { a.seq++; a.heartbeat() }},
		{name: "a number twice", claim: NumbersWhole, story: func(_ *chronicle, a, _ *writer, _ record.ID) { a.seq--; a.heartbeat() }},
		{name: "an entry left out", claim: NumbersWhole, more: []Claim{SessionChain, HeartbeatTrue},
			story: func(c *chronicle, a, _ *writer, _ record.ID) {
				id := a.request()
				c.entries = c.entries[:len(c.entries)-1]
				a.heartbeat()
				a.response(id, record.Complete)
			}},
		{name: "a gap that names numbers that are there", claim: NumbersWhole, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.seq--
			a.gap(3)
		}},
		{name: "a gap that names too few", claim: NumbersWhole, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.seq += 2
			a.gap(3)
		}},

		// Boots.
		{name: "a boot without a start", claim: BootsOrdered, story: func(c *chronicle, a, _ *writer, _ record.ID) { a.boot = c.id(); a.heartbeat() }},
		{name: "a writer without a start", claim: BootsOrdered, story: func(c *chronicle, _, _ *writer, _ record.ID) {
			x := c.writer("gw-3")
			x.boot, x.seq = c.id(), 1
			x.heartbeat()
		}},
		{name: "an entry after the stop", claim: BootsOrdered, story: func(_ *chronicle, a, _ *writer, _ record.ID) { a.stop(); a.heartbeat() }},
		{name: "two boots at a time", claim: BootsOrdered, says: "which ended when", story: func(c *chronicle, a, _ *writer, _ record.ID) {
			old := *a
			a.start()
			old.put(record.Entry{Kind: record.Heartbeat, Beat: true, Open: 1, Floor: a.open[onlyKey(a.open)]})
		}},
		{name: "two writers in one boot", claim: BootsOrdered, says: "writes in the boot", story: func(_ *chronicle, a, b *writer, _ record.ID) {
			boot := b.boot
			b.boot = a.boot
			b.heartbeat()
			b.boot, b.seq = boot, b.seq-1
			b.heartbeat()
		}},
		{name: "a boot starts twice", claim: BootsOrdered, story: func(c *chronicle, a, _ *writer, _ record.ID) {
			boot := a.boot
			a.edit(func(e *record.Entry) { e.Boot = boot }).start()
			a.boot = boot
		}},

		// Times.
		{name: "time goes back", claim: TimesOrdered, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.edit(func(e *record.Entry) { e.Time = began }).heartbeat()
		}},
		{name: "time goes back and on again", claim: TimesOrdered, story: func(c *chronicle, a, _ *writer, _ record.ID) {
			now := c.now
			a.edit(func(e *record.Entry) { e.Time = now.Add(time.Hour) }).heartbeat()
			a.heartbeat()
		}},

		// Sessions.
		{name: "a response without a request", claim: SessionChain, story: func(c *chronicle, a, _ *writer, _ record.ID) {
			id := c.id()
			a.leaf[id] = tlog.Hash{1}
			a.response(id, record.Complete)
		}},
		{name: "a second response", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			id := a.request()
			leaf := a.leaf[id]
			a.response(id, record.Complete)
			a.leaf[id] = leaf
			a.response(id, record.Truncated)
		}},
		{name: "a response to another request", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x, y := a.request(), a.request()
			a.leaf[x], a.leaf[y] = a.leaf[y], a.leaf[x]
			a.response(x, record.Complete)
			a.response(y, record.Complete)
		}},
		{name: "a response that passes over an approval", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x := a.request()
			leaf := a.leaf[x]
			a.approval(x)
			a.leaf[x] = leaf
			a.response(x, record.Complete)
		}},
		{name: "an approval of what is over", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x := a.request()
			a.response(x, record.Complete)
			a.approval(x)
		}},
		{name: "a second request", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x := a.request()
			e := about(record.Request, x, requestRecord(x))
			a.put(e)
		}},
		{name: "a response by another gateway", claim: SessionChain, story: func(_ *chronicle, a, b *writer, _ record.ID) {
			x := a.request()
			b.leaf[x] = a.leaf[x]
			b.response(x, record.Complete)
		}},
		{name: "a response that refers to nothing, to a request that is there", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x := a.request()
			a.gap(1)
			a.leaf[x] = tlog.Hash{}
			a.response(x, record.Complete)
		}},
		{name: "a refusal of what is under way", claim: SessionChain, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			x := a.request()
			e := about(record.Refused, x, requestRecord(x))
			e.Reason = "late"
			a.put(e)
		}},
		{name: "a session given up at a stop", claim: SessionsFinished, more: []Claim{HeartbeatTrue}, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			clear(a.open)
			a.stop()
		}},
		{name: "a session given up after a crash", claim: SessionsFinished, more: []Claim{HeartbeatTrue}, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.request()
			clear(a.open)
			a.start()
			x := a.request()
			a.heartbeat()
			a.response(x, record.Complete)
			a.heartbeat()
		}},
		{name: "one of two sessions given up", claim: SessionsFinished, more: []Claim{HeartbeatTrue}, story: func(_ *chronicle, a, _ *writer, left record.ID) {
			a.request()
			delete(a.open, left)
			a.heartbeat()
			a.heartbeat()
		}},
		{name: "a heartbeat counts too many", claim: HeartbeatTrue, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.edit(func(e *record.Entry) { e.Open++ }).heartbeat()
		}},
		{name: "a heartbeat with another floor", claim: HeartbeatTrue, story: func(_ *chronicle, a, _ *writer, _ record.ID) {
			a.edit(func(e *record.Entry) { e.Floor-- }).heartbeat()
		}},

		// Losses.
		{name: "a response whose request was lost and not declared", claim: LossesDeclared, story: func(c *chronicle, a, _ *writer, _ record.ID) {
			a.response(c.id(), record.Complete)
			a.stop()
		}},
		{name: "more lost than declared, at a crash", claim: LossesDeclared, story: func(c *chronicle, a, _ *writer, _ record.ID) {
			a.gap(1)
			a.response(c.id(), record.Complete)
			a.response(c.id(), record.Complete)
			a.start()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := newChronicle(t)
			a, b, left := season(ch)
			if c.story != nil {
				c.story(ch, a, b, left)
			}
			s := &served{Log: ch.publish()}
			if c.serve != nil {
				c.serve(s, len(ch.entries))
			}
			r := check(t, s, policy(t, ""))
			want := append([]Claim{c.claim}, c.more...)
			got := falseClaims(r)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				show(t, r)
				t.Errorf("false: %v, want %v", got, want)
			}
			wantDetail(t, r, c.claim, c.says)
			if c.serve == nil {
				// Whoever followed it while it grew was told the same, bit by bit.
				if got := followed(t, s.Log, policy(t, "")); !slices.Equal(got, want) {
					t.Errorf("a follower was told of: %v, want %v", got, want)
				}
			}
		})
	}
}

func onlyKey(m map[record.ID]uint64) record.ID {
	for k := range m {
		return k
	}
	return record.ID{}
}

func flip(level int, n uint64) func(*served, int) {
	return func(l *served, _ int) { l.tile = tlogtest.Flip(level, n) }
}

// An operator who holds the log's key writes an entry anew, and every tile, and signs it all again: the one checkpoint
// that was kept, here or by anybody, tells.
func TestLogRewritten(t *testing.T) {
	honest := newChronicle(t)
	season(honest)
	before := honest.publish()

	changed := newChronicle(t)
	season(changed)
	changed.entries[4] = bytes.Replace(changed.entries[4], []byte(`"size":52`), []byte(`"size":51`), 1)
	if bytes.Equal(changed.entries[4], honest.entries[4]) {
		t.Fatal("nothing was changed")
	}
	after := changed.publish()
	if r := check(t, plain{after}, policy(t, "")); has(r, HistoryConsistent) || has(r, TilesMatch) || has(r, RootMatches) {
		t.Fatalf("the rewritten log is not what it was meant to be: %v", falseClaims(r))
	}
	one := uint64(401)
	kept, err := before.Sizes(t.Context(), one, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := check(t, &served{Log: after,
		sizes: func(after uint64, _ []uint64) ([]uint64, error) {
			return slices.DeleteFunc(slices.Clone(kept), func(s uint64) bool { return s <= after }), nil
		},
		checkpointAt: func(size uint64, _ []byte) ([]byte, error) { return before.CheckpointAt(t.Context(), size) },
	}, policy(t, ""))
	if !has(r, HistoryConsistent) {
		t.Errorf("false: %v", falseClaims(r))
	}
}

// A kept checkpoint of another log that the policy knows, be it over the same entries, is none of this one's.
func TestLogOfTwoNames(t *testing.T) {
	c := newChronicle(t)
	season(c)
	const other = "log.example/other"
	s := &served{Log: c.publish(), checkpointAt: func(size uint64, signed []byte) ([]byte, error) {
		c, err := tlog.UnverifiedCheckpoint(signed)
		if err != nil {
			return nil, err
		}
		c.Origin = other
		return tlog.SignCheckpoint(c, logSigner(other))
	}}
	_, vkey := tlogtest.Key(other)
	p, err := tlog.ParsePolicy([]byte("log " + vkey + "\n" + string(policy(t, "").Policy.Text())))
	if err != nil {
		t.Fatal(err)
	}
	r := check(t, s, Trust{Policy: p})
	if got := falseClaims(r); !slices.Equal(got, []Claim{HistoryConsistent}) {
		t.Errorf("false: %v", got)
	}
}

// What witnesses saw and when brackets what entries state.
func TestLogBracketed(t *testing.T) {
	at := newCosigner(t, "witness.example/a", began)
	for _, c := range []struct {
		name  string
		claim Claim
		edit  func(w *writer)
	}{
		{"as it was", "", func(w *writer) { w.heartbeat() }},
		{"clocks a little apart", "", func(w *writer) {
			w.edit(func(e *record.Entry) { e.Time = e.Time.Add(4 * time.Minute) }).heartbeat()
		}},
		{"back-dated into the time before a checkpoint without it", TimesBracketed, func(w *writer) {
			w.start()
			w.edit(func(e *record.Entry) { e.Time = began }).start()
		}},
		{"from the future", TimesBracketed, func(w *writer) {
			w.edit(func(e *record.Entry) { e.Time = e.Time.Add(time.Hour) }).heartbeat()
		}},
		{"from the future, and then not", TimesBracketed, func(w *writer) {
			w.edit(func(e *record.Entry) { e.Time = e.Time.Add(time.Hour) }).heartbeat()
			w.start()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := newChronicle(t)
			w := ch.writer("gw-1")
			w.start()
			times := make(map[uint64]time.Time)
			mark := func() {
				ch.mark()
				times[uint64(len(ch.entries))] = ch.now
			}
			for range 5 {
				w.heartbeat()
				mark()
				ch.now = ch.now.Add(time.Hour)
			}
			c.edit(w)
			times[uint64(len(ch.entries))] = ch.now
			l := &served{Log: ch.publish()}
			sign := func(size uint64, signed []byte) []byte {
				at.at = times[size]
				return cosign(t, signed, at)
			}
			l.checkpoint = func(signed []byte) []byte { return sign(uint64(len(ch.entries)), signed) }
			l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) { return sign(size, signed), nil }
			r := check(t, l, policy(t, "all", at))
			var want []Claim
			if c.claim != "" {
				want = []Claim{c.claim}
			}
			if got := falseClaims(r); !slices.Equal(got, want) {
				show(t, r)
				t.Errorf("false: %v, want %v", got, want)
			}
			if c.claim == "" {
				wantDetail(t, r, TimesBracketed, "by 6 cosigned checkpoints")
				wantDetail(t, check(t, plain{l}, policy(t, "all", at)), TimesBracketed, "by 1 cosigned checkpoint;")
			}
		})
	}
}
