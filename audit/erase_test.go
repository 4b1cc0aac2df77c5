package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// fates runs an order and returns what became of each session.
func (w *world) fates(o Order) ([]Fate, error) {
	w.t.Helper()
	var all []Fate
	err := w.desk.Erase(w.t.Context(), somebody, o, func(f Fate) error { all = append(all, f); return nil })
	w.published()
	return all, err
}

// is returns the one fate of an order for one session.
func (w *world) is(id record.ID, o Order) Fate {
	w.t.Helper()
	o.Sessions, o.Basis = []record.ID{id}, "GDPR Art. 17(1)(b)"
	all, err := w.fates(o)
	if err != nil || len(all) != 1 || all[0].Session != id {
		w.t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

// gone says whether all of a session's content is gone, or, with false, that all is there; anything between is an error.
func (w *world) gone(id record.ID) bool {
	w.t.Helper()
	chain, err := record.FindSession(context.Background(), w.log, w.published(), id, 0)
	if err != nil || len(chain) == 0 {
		w.t.Fatalf("session %s: %d entries, %v", id, len(chain), err)
	}
	gone := 0
	for _, f := range chain {
		if _, err := w.log.Payload(context.Background(), f.Entry.Payload); errors.Is(err, tlog.ErrNotFound) {
			gone++
		} else if err != nil {
			w.t.Fatal(err)
		}
	}
	if gone != 0 && gone != len(chain) {
		w.t.Errorf("session %s: %d of %d payloads are gone", id, gone, len(chain))
	}
	return gone > 0
}

// erased returns the sessions of the erasure entries, in their order.
func (w *world) erased() (ids []record.ID) {
	for _, e := range w.entries() {
		if e.Kind == record.Erasure {
			ids = append(ids, e.Session)
		}
	}
	return ids
}

// Of a thousand sessions one is erased: what it held is unrecoverable with every key still held, the others open, every proof of
// before and after verifies, and the bundle says who erased it, when, and on what ground.
func TestErase(t *testing.T) {
	w := newWorld(t)
	var ids []record.ID
	for range 1000 {
		ids = append(ids, w.session(record.NewID(time.Now())))
	}
	w.published()
	id := ids[500]
	before, err := w.desk.Export(t.Context(), somebody, id)
	if err != nil {
		t.Fatal(err)
	}
	if f := w.is(id, Order{Try: true}); f.Fate != Would || f.Payloads != 2 || w.gone(id) || len(w.erased()) > 0 {
		t.Errorf("to try it: %+v", f)
	}
	f := w.is(id, Order{})
	if f.Fate != Erased || f.Payloads != 2 || f.Bytes == 0 || f.Ended.IsZero() {
		t.Errorf("%+v", f)
	}
	if !w.gone(id) || !slices.Equal(w.erased(), []record.ID{id}) {
		t.Errorf("gone: %v; erased %v", w.gone(id), w.erased())
	}
	if f := w.is(id, Order{}); f.Fate != Already || len(w.erased()) != 1 {
		t.Errorf("the second time: %+v", f)
	}
	after, err := w.desk.Export(t.Context(), somebody, id)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(after), "asked in") || strings.Contains(string(after), "answered in") {
		t.Error("the bundle of the erased session shows what it held")
	}
	for name, bundle := range map[string][]byte{"before": before, "after": after} {
		report, err := verify.Check(bundle, w.trust())
		if err != nil || !report.OK() {
			t.Fatalf("the bundle of %s: %v %+v", name, err, report.Findings)
		}
		said := fmt.Sprint(report.NotProven)
		if want := "erased on"; strings.Contains(said, want) != (name == "after") {
			t.Errorf("the bundle of %s says %s", name, said)
		}
		if name == "after" && !(strings.Contains(said, `by "ann"`) && strings.Contains(said, "GDPR Art. 17(1)(b)")) {
			t.Errorf("it does not say by whom and why: %s", said)
		}
	}
	opened := 0
	err = w.desk.ended(t.Context(), time.Time{}, func(chain []record.Found) error {
		for _, l := range chain {
			if r, err := w.desk.record(t.Context(), l.Entry); (err != nil || len(r) == 0) && l.Entry.Session != id {
				return fmt.Errorf("session %s: %w", l.Entry.Session, err)
			} else if err == nil {
				opened++
			}
		}
		return nil
	})
	if err != nil || opened != 2*(len(ids)-1) {
		t.Errorf("%d records open: %v", opened, err)
	}
	size := w.published()
	ts := tlog.Tiles{Reader: w.log, Size: size}
	root, err := ts.Root(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	err = w.desk.scan(t.Context(), 0, size, func(i uint64, b []byte) error {
		p, err := ts.Inclusion(t.Context(), i)
		if err != nil {
			return err
		}
		return tlog.VerifyInclusion(tlog.HashLeaf(b), i, size, root, p)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is not to be erased, not there, or not asked for properly is told as such, and nothing is destroyed.
func TestEraseRefuses(t *testing.T) {
	w := newWorld(t)
	id := w.session(record.NewID(time.Now()))
	open := record.NewID(time.Now())
	q := w.write(record.Entry{Kind: record.Request, Session: open}, nil, "asked")
	w.published()
	for _, c := range []struct {
		who  Asker
		o    Order
		want error
	}{
		{Asker{}, Order{Sessions: []record.ID{id}, Basis: "b"}, ErrNobody},
		{Asker{Name: "ann"}, Order{Sessions: []record.ID{id}, Basis: "b"}, ErrNobody},
		{somebody, Order{Sessions: []record.ID{id}}, ErrNoBasis},
		{somebody, Order{Sessions: []record.ID{id}, Basis: " "}, ErrNoBasis},
		{somebody, Order{Basis: "b"}, errRequest},
		{somebody, Order{Sessions: []record.ID{id}, Caller: "x", Basis: "b"}, errRequest},
		{somebody, Order{Sessions: []record.ID{id}, Before: time.Now(), Basis: "b"}, errRequest},
	} {
		err := w.desk.Erase(t.Context(), c.who, c.o, func(f Fate) error { t.Errorf("%+v", f); return nil })
		if !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.o, err, c.want)
		}
	}
	if f := w.is(open, Order{}); f.Fate != Open {
		t.Errorf("a session that has not ended: %+v", f)
	}
	if f := w.is(record.NewID(time.Now()), Order{}); f.Fate != Unknown {
		t.Errorf("a session that nobody made: %+v", f)
	}
	if w.gone(id) || w.gone(open) || len(w.erased()) > 0 {
		t.Error("something was destroyed")
	}
	w.write(record.Entry{Kind: record.Response, Session: open, Outcome: record.Complete}, q, "answered")
	w.published()
	if f := w.is(open, Order{}); f.Fate != Erased || !w.gone(open) {
		t.Errorf("when it has ended: %+v", f)
	}
	// A key that is another ring's.
	chain, err := w.desk.find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := w.log.Payload(t.Context(), chain[1].Entry.Payload)
	if err != nil {
		t.Fatal(err)
	}
	name, err := record.KeyOf(sealed)
	if err != nil {
		t.Fatal(err)
	}
	key := w.keys.keys[name]
	delete(w.keys.keys, name)
	if f := w.is(id, Order{}); f.Fate != Failed || !strings.Contains(f.Why, "kept elsewhere") || len(w.erased()) != 1 {
		t.Errorf("with a key that is kept elsewhere: %+v", f)
	}
	// A key that was destroyed, and nobody said so.
	w.keys.keys[name] = nil
	if f := w.is(id, Order{}); f.Fate != Failed || !strings.Contains(f.Why, "no erasure of it is on record") {
		t.Errorf("with a key that is gone: %+v", f)
	}
	w.keys.keys[name] = key
	if w.gone(id) {
		t.Error("something was destroyed")
	}
}

// A payload that names another session's key does not have that key destroyed.
func TestEraseBelievesNoName(t *testing.T) {
	w := newWorld(t)
	victim := w.session(record.NewID(time.Now()))
	id := record.NewID(time.Now())
	r := of(record.FieldBody, "x")
	_, key, err := w.keys.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := record.Entry{Kind: record.Refused, Session: id, Reason: "by_rule", Root: r.Root(), Fields: len(r)}
	sealed, err := w.coder.Seal(r, key, "k0", record.Binding{Kind: e.Kind, Session: id, Root: e.Root})
	if err != nil {
		t.Fatal(err)
	}
	e.Payload, e.PayloadSize = record.Sum(sealed), int64(len(sealed))
	if _, err := w.pen.Write(t.Context(), record.Draft{Entry: e, Payload: sealed}); err != nil {
		t.Fatal(err)
	}
	w.published()
	if f := w.is(id, Order{}); f.Fate != Failed || !strings.Contains(f.Why, "does not open with the key that it names") {
		t.Errorf("%+v", f)
	}
	if _, err := w.desk.Export(t.Context(), somebody, victim); err != nil || len(w.erased()) > 0 {
		t.Errorf("%v; erased %v", err, w.erased())
	}
}

// A caller's sessions are erased, those that ended before a time, and those that are both; and that somebody went through all of
// them is on record.
func TestEraseChooses(t *testing.T) {
	w := newWorld(t)
	base := time.Now()
	call := func(caller string) record.ID {
		id := record.NewID(time.Now())
		q := w.put(record.Entry{Kind: record.Request, Session: id}, nil, of(record.FieldCaller, caller, record.FieldRoute, "openai", record.FieldBody, "b"))
		w.put(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, of(record.FieldBody, "a"))
		return id
	}
	a1, b1 := call("alice"), call("bob")
	w.published()
	time.Sleep(2 * time.Millisecond)
	middle := time.Now()
	a2, b2 := call("alice"), call("bob")
	w.published()
	said := func(all []Fate) (s string) {
		for _, f := range all {
			s += fmt.Sprintf("%s %s %s %s\n", f.Session, f.Fate, f.Caller, f.Route)
		}
		return s
	}
	line := func(id record.ID, fate, caller string) string {
		return fmt.Sprintf("%s %s %s openai\n", id, fate, caller)
	}
	for _, c := range []struct {
		o    Order
		want string
	}{
		{Order{Caller: "carol"}, ""},
		{Order{Before: base}, ""},
		{Order{Caller: "alice", Try: true}, line(a1, Would, "alice") + line(a2, Would, "alice")},
		{Order{Caller: "alice", Before: middle}, line(a1, Erased, "alice")},
		{Order{Caller: "alice"}, line(a2, Erased, "alice")},
		{Order{Before: middle}, fmt.Sprintf("%s %s  \n", a1, Already) + line(b1, Erased, "bob")},
	} {
		c.o.Basis = "a contract that ended"
		all, err := w.fates(c.o)
		if err != nil || said(all) != c.want {
			t.Errorf("%+v: %v\n%swant\n%s", c.o, err, said(all), c.want)
		}
	}
	if !w.gone(a1) || !w.gone(a2) || !w.gone(b1) || w.gone(b2) {
		t.Error("what is gone is not what was asked for")
	}
	if n := len(w.readings(record.ID{})); n != 6 {
		t.Errorf("%d orders are on record, of 6", n)
	}
}

// Approvals stay verifiable: of the session that used a yes after that of the one that asked was erased, and the other way round.
func TestEraseApproved(t *testing.T) {
	for _, c := range []struct{ asked, used bool }{{true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			w := newWorld(t)
			asked, used := w.approved()
			for id, erase := range map[record.ID]bool{asked: c.asked, used: c.used} {
				if !erase {
					continue
				}
				if f := w.is(id, Order{}); f.Fate != Erased {
					t.Fatalf("%+v", f)
				}
			}
			for _, id := range []record.ID{asked, used} {
				raw, err := w.desk.Export(t.Context(), somebody, id)
				if err != nil {
					t.Fatal(err)
				}
				b := w.holds(raw)
				if id == used && (len(b.Sessions) != 2 || b.Sessions[1].ID != asked) {
					t.Errorf("the bundle of the session that used the yes has %d sessions", len(b.Sessions))
				}
			}
		})
	}
}

// approved writes a session that people said yes to, and one that used their yes.
func (w *world) approved() (asked, used record.ID) {
	w.t.Helper()
	asked, used = record.NewID(time.Now()), record.NewID(time.Now())
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	facts := func(id record.ID) record.Record {
		return of(record.FieldSession, id.String(), record.FieldCaller, "alice", record.FieldRoute, "r", record.FieldMethod, "POST", record.FieldTarget, "/v1", record.FieldVerdict, "ask", record.FieldBody, "{}")
	}
	t1 := w.put(record.Entry{Kind: record.Request, Session: asked, Asks: true}, nil, facts(asked))
	t1 = w.put(record.Entry{Kind: record.Approval, Session: asked, Tag: tlog.Hash{1}, Until: until}, t1, of(record.FieldSession, asked.String(), record.FieldNeed, "1", record.FieldAsked, "[]", record.FieldUntil, until.Format(time.RFC3339Nano)))
	t1 = w.put(record.Entry{Kind: record.Approval, Session: asked, Reason: record.Granted}, t1, of(record.FieldSession, asked.String(), record.FieldActor, "carol", record.FieldActorHow, "key"))
	for range 600 { // of others, so that the yes is far away
		w.write(record.Entry{Kind: record.Refused, Session: record.NewID(time.Now()), Reason: "by_rule"}, nil, "x")
	}
	w.published()
	grant := w.leafOf(asked, record.Granted)
	t2 := w.put(record.Entry{Kind: record.Request, Session: used, Asks: true}, nil, facts(used))
	t2 = w.put(record.Entry{Kind: record.Approval, Session: used, Reason: record.Used, Grant: grant}, t2, of(record.FieldSession, used.String(), record.FieldApproval, asked.String()))
	w.put(record.Entry{Kind: record.Response, Session: asked, Outcome: record.Resumed}, t1, of(record.FieldSession, asked.String(), record.FieldTimes, "{}"))
	w.put(record.Entry{Kind: record.Response, Session: used, Outcome: record.Complete}, t2, of(record.FieldSession, used.String(), record.FieldStatus, "200"))
	w.published()
	return asked, used
}

// A fateful world fails, or dies, at the nth of the steps that change something.
type fateful struct {
	mu    sync.Mutex
	steps []string
	at    int  // the step that fails, from 1; 0 for none
	done  bool // it is done all the same, and nobody is told
	dead  bool // nothing works from then on
	fell  bool
}

var errFate = errors.New("so it was fated")

func (f *fateful) step(name string, do func() error) error {
	f.mu.Lock()
	f.steps = append(f.steps, name)
	n := len(f.steps)
	fell := f.fell && f.dead
	now := n == f.at
	f.fell = f.fell || now
	f.mu.Unlock()
	switch {
	case fell:
		return errFate
	case now && f.done:
		return errors.Join(do(), errFate)
	case now:
		return errFate
	}
	return do()
}

type fatefulLog struct {
	Log
	tlog.Appender
	f *fateful
}

func (l fatefulLog) Append(ctx context.Context, leaves ...tlog.Leaf) (at []uint64, err error) {
	if !strings.Contains(string(leaves[0].Entry), `"kind":"erasure"`) {
		return l.Appender.Append(ctx, leaves...)
	}
	err = l.f.step("append", func() (err error) {
		at, err = l.Appender.Append(ctx, leaves...)
		return err
	})
	return at, err
}

func (l fatefulLog) Discard(ctx context.Context, sum tlog.Hash) error {
	return l.f.step("discard", func() error { return l.Log.Discard(ctx, sum) })
}

type fatefulKeys struct {
	*memKeys
	f *fateful
}

func (k fatefulKeys) Erase(ctx context.Context, id string) error {
	return k.f.step("key", func() error { return k.memKeys.Erase(ctx, id) })
}

// notes are data that was derived from records.
type notes struct {
	f    *fateful
	mu   sync.Mutex
	have map[record.ID]bool
}

func (n *notes) Forget(_ context.Context, id record.ID) error {
	return n.f.step("derived", func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.have, id)
		return nil
	})
}

// memMark is a mark in memory.
type memMark struct{ n uint64 }

func (m *memMark) Load() (uint64, error) { return m.n, nil }
func (m *memMark) Save(n uint64) error   { m.n = n; return nil }

// At every step of an erasure something fails, or the process dies, with the step done or not. The next life, and whoever orders it
// again, finishes what is on record; and what is not on record is touched.
func TestEraseFaults(t *testing.T) {
	steps := []string{"discard", "append", "key", "key", "key", "key", "derived", "discard", "discard", "discard", "discard"}
	for at := range len(steps) + 1 {
		for _, c := range []struct {
			name       string
			done, dead bool
		}{{"fails", false, false}, {"fails and is done", true, false}, {"dies before", false, true}, {"dies after", true, true}} {
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprintf("step %d %s, again %v", at, c.name, again), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					id, other := record.NewID(time.Now()), w.session(record.NewID(time.Now()))
					q := w.write(record.Entry{Kind: record.Request, Session: id}, nil, "asked")
					q = w.write(record.Entry{Kind: record.Approval, Session: id}, q, "approved")
					q = w.write(record.Entry{Kind: record.Approval, Session: id, Reason: record.Agreed}, q, "approved")
					w.write(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, "answered")
					w.published()
					f := &fateful{at: at, done: c.done, dead: c.dead}
					kept := &notes{f: f, have: map[record.ID]bool{id: true, other: true}}
					log := fatefulLog{w.log, w.log, f}
					pen, err := record.NewWriter(record.WriterConfig{ID: "fated.desk", Log: log, Software: "tallystick/test", Mode: "none", Heartbeat: -1})
					if err != nil {
						t.Fatal(err)
					}
					ctx, end := context.WithCancel(t.Context())
					ended := make(chan error, 1)
					go func() { ended <- pen.Run(ctx) }()
					desk, err := NewDesk(log, fatefulKeys{w.keys, f}, pen)
					if err != nil {
						t.Fatal(err)
					}
					desk.Forgets(kept)
					order := Order{Sessions: []record.ID{id}, Basis: "b"}
					var fate Fate
					err = desk.Erase(t.Context(), somebody, order, func(f Fate) error { fate = f; return nil })
					if at == 0 && (err != nil || fate.Fate != Erased) || at > 0 && fate.Fate != Failed {
						t.Errorf("%+v, %v", fate, err)
					}
					end()
					<-ended // with an error, where the log did not answer
					if at == 0 && !slices.Equal(f.steps, steps) {
						t.Errorf("the steps are %q", f.steps)
					}
					w.published()
					announced := len(w.erased())
					if destroyed := w.touched(id); announced == 0 && destroyed {
						t.Error("something is destroyed, and nothing is on record")
					}
					// The next life.
					f.mu.Lock()
					f.at, f.dead = 0, false
					f.mu.Unlock()
					if w.desk, err = NewDesk(w.log, w.keys, w.writer("next.desk")); err != nil {
						t.Fatal(err)
					}
					w.desk.Forgets(kept)
					mark := &memMark{}
					if again {
						if got := w.is(id, Order{}); got.Fate != Erased && got.Fate != Already {
							t.Errorf("again: %+v", got)
						}
						announced = max(announced, 1)
					}
					if err := w.desk.Recover(t.Context(), mark); err != nil {
						t.Error(err)
					}
					if mark.n == 0 {
						t.Error("the mark was not moved")
					}
					w.published()
					if n := len(w.erased()); n < announced || n > announced+1 {
						t.Errorf("%d erasures are on record, of %d", n, announced)
					}
					if w.gone(id) != (announced > 0) {
						t.Errorf("gone: %v, and announced %d times", w.gone(id), announced)
					}
					if w.touched(id) != (announced > 0) {
						t.Error("keys and entry do not agree")
					}
					if announced > 0 && kept.have[id] || announced == 0 && !kept.have[id] || !kept.have[other] {
						t.Errorf("derived are %v, and it is announced %d times", kept.have, announced)
					}
					if w.gone(other) || w.touched(other) {
						t.Error("another session was erased")
					}
					if _, err := w.desk.Export(t.Context(), somebody, id); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// What could not be finished is tried again while the desk runs, and what an earlier life left is finished, too.
func TestEraseRun(t *testing.T) {
	w := newWorld(t)
	left, id := w.session(record.NewID(time.Now())), w.session(record.NewID(time.Now()))
	var r record.Record
	r.Add(record.FieldActor, []byte("ann"))
	if err := w.desk.writeEntry(t.Context(), record.Entry{Kind: record.Erasure, Session: left, Reason: onRequest}, r); err != nil {
		t.Fatal(err)
	}
	w.published()
	f := &fateful{at: 1} // the first key
	desk, err := NewDesk(w.log, fatefulKeys{w.keys, f}, w.writer("next.desk"))
	if err != nil {
		t.Fatal(err)
	}
	var fate Fate
	err = desk.Erase(t.Context(), somebody, Order{Sessions: []record.ID{id}, Basis: "b"}, func(f Fate) error { fate = f; return nil })
	if err != nil || fate.Fate != Failed || !strings.Contains(fate.Why, "tried again") || w.gone(id) {
		t.Fatalf("%+v, %v", fate, err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	mark := &memMark{}
	go func() { ended <- desk.Run(ctx, mark, func(err error) { t.Error(err) }) }()
	deadline := time.Now().Add(20 * time.Second)
	for _, id := range []record.ID{left, id} {
		for !w.gone(id) {
			if time.Now().After(deadline) {
				t.Fatalf("session %s is not finished", id)
			}
			time.Sleep(time.Millisecond)
		}
	}
	end()
	if err := <-ended; err != nil || mark.n == 0 {
		t.Errorf("%v; the mark is %d", err, mark.n)
	}
	// A mark of another log is not believed.
	late := w.session(record.NewID(time.Now()))
	if err := w.desk.writeEntry(t.Context(), record.Entry{Kind: record.Erasure, Session: late, Reason: onRequest}, r); err != nil {
		t.Fatal(err)
	}
	w.published()
	if desk, err = NewDesk(w.log, w.keys, w.writer("last.desk")); err != nil {
		t.Fatal(err)
	}
	mark.n = 1 << 40
	if err := desk.Recover(t.Context(), mark); err != nil || mark.n == 1<<40 || !w.gone(late) {
		t.Errorf("%v; the mark is %d", err, mark.n)
	}
}

// What is announced is finished when who ordered it has gone away, and not announced again when it is ordered again.
func TestEraseOnce(t *testing.T) {
	w := newWorld(t)
	ids := []record.ID{w.session(record.NewID(time.Now())), w.session(record.NewID(time.Now()))}
	w.published()
	f := &fateful{at: 3} // discard, append, and the first key
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	gone := false
	log := fatefulLog{w.log, leaving{w.log, func() {
		if gone {
			leave()
		}
	}}, f}
	pen, err := record.NewWriter(record.WriterConfig{ID: "once.desk", Log: log, Software: "tallystick/test", Mode: "none", Heartbeat: -1})
	if err != nil {
		t.Fatal(err)
	}
	run, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pen.Run(run) }()
	defer func() { end(); <-ended }()
	desk, err := NewDesk(log, fatefulKeys{w.keys, f}, pen)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{Failed, Erased} {
		var fate Fate
		err := desk.Erase(t.Context(), somebody, Order{Sessions: ids[:1], Basis: "b"}, func(f Fate) error { fate = f; return nil })
		if err != nil || fate.Fate != want || w.gone(ids[0]) != (i == 1) || len(w.erased()) != 1 {
			t.Errorf("%+v, %v; erased %v", fate, err, w.erased())
		}
	}
	gone = true
	desk.Erase(ctx, somebody, Order{Sessions: ids[1:], Basis: "b"}, func(Fate) error { return nil })
	if ctx.Err() == nil || !w.gone(ids[1]) || len(w.erased()) != 2 {
		t.Errorf("gone: %v; erased %v", w.gone(ids[1]), w.erased())
	}
}

// A leaving is a log that whoever waits for it leaves while it appends.
type leaving struct {
	tlog.Appender
	leave func()
}

func (l leaving) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	if strings.Contains(string(leaves[0].Entry), `"kind":"erasure"`) {
		l.leave()
	}
	return l.Appender.Append(ctx, leaves...)
}

// touched says whether any key of a session that is still named was destroyed, or any payload is gone.
func (w *world) touched(id record.ID) (touched bool) {
	w.t.Helper()
	chain, err := record.FindSession(context.Background(), w.log, w.published(), id, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range chain {
		sealed, err := w.log.Payload(context.Background(), f.Entry.Payload)
		if errors.Is(err, tlog.ErrNotFound) {
			touched = true
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		name, err := record.KeyOf(sealed)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.keys.Open(context.Background(), name); err != nil {
			touched = true
		}
	}
	return touched
}
