package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// Whoever has one of an act's roles may, whoever has none may not, and then nothing is on record and nothing is shown: every
// method of the desk, every set of roles.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	id := w.session(record.NewID(time.Now()))
	w.published()
	tries := []struct {
		name string
		act  Act
		do   func(who Asker) ([]byte, error)
	}{
		{"view", View, func(who Asker) ([]byte, error) {
			s, err := w.desk.View(t.Context(), who, id, "")
			return fmt.Append(nil, s.Entries), err
		}},
		{"export", Export, func(who Asker) ([]byte, error) { return w.desk.Export(t.Context(), who, id) }},
		{"fields", Names, func(who Asker) ([]byte, error) {
			names, err := w.desk.Fields(t.Context(), who, id)
			return []byte(strings.Join(names, " ")), err
		}},
		{"disclose", Disclose, func(who Asker) ([]byte, error) { return w.desk.Disclose(t.Context(), who, id, "request.body") }},
		{"unseal", Unseal, func(who Asker) ([]byte, error) {
			b, err := w.desk.Unseal(t.Context(), who, id, "")
			if errors.Is(err, ErrNoField) {
				err = nil // there is none, which one is told who may know
			}
			return b, err
		}},
		{"trail", Trail, func(who Asker) ([]byte, error) {
			all, _, err := w.desk.Trail(t.Context(), who, 0, 10)
			return fmt.Append(nil, all), err
		}},
		{"feed", Derive, func(who Asker) (got []byte, err error) {
			enough := errors.New("enough")
			err = w.desk.Feed(t.Context(), who, "a test", 0, func(_ context.Context, batch []Seen) error {
				got = fmt.Append(nil, batch)
				return enough
			})
			if err == enough {
				err = nil
			}
			return got, err
		}},
		{"erase", Erase, func(who Asker) (got []byte, err error) {
			err = w.desk.Erase(t.Context(), who, Order{Sessions: []record.ID{id}, Basis: "b", Try: true}, func(f Fate) error {
				got = fmt.Append(got, f)
				return nil
			})
			return got, err
		}},
		{"retain", Erase, func(who Asker) ([]byte, error) {
			return nil, w.desk.Retain(t.Context(), who, true, func(Fate) error { return nil })
		}},
		{"announce", Rekey, func(who Asker) ([]byte, error) { return nil, w.desk.Announce(t.Context(), who, "keys") }},
		{"rewrap", Rekey, func(who Asker) ([]byte, error) {
			said, err := w.desk.Rewrap(t.Context(), who)
			return []byte(said), err
		}},
	}
	for act := Play; act <= Compare; act++ {
		tries = append(tries, struct {
			name string
			act  Act
			do   func(who Asker) ([]byte, error)
		}{act.String(), act, func(who Asker) ([]byte, error) { return w.desk.Bundle(t.Context(), who, act, "detail", id) }})
	}
	for _, try := range tries {
		if try.act.May() == 0 || try.act.May() == Operator {
			t.Errorf("%s is for %s: this test sees nothing", try.name, try.act.May())
		}
		for roles := range Operator + 1 {
			before := w.published()
			got, err := try.do(Asker{Name: "ann", Reason: "a test", Roles: roles})
			if may := roles.Any(try.act.May()); may && err != nil {
				t.Errorf("%s by %s: %v", try.name, roles, err)
			} else if !may && (!errors.Is(err, ErrRole) || len(bytes.Trim(got, "[]")) > 0 || w.written(before)) {
				t.Errorf("%s by %s: %d bytes, on record: %v, %v", try.name, roles, len(got), w.written(before), err)
			}
		}
	}
	if _, err := w.desk.Bundle(t.Context(), somebody, View, "", id); err == nil {
		t.Error("a view took a bundle")
	}
}

func (w *world) erase(id record.ID, basis string) {
	w.t.Helper()
	err := w.desk.Erase(w.t.Context(), somebody, Order{Sessions: []record.ID{id}, Basis: basis}, func(f Fate) error {
		if f.Fate != Erased {
			w.t.Errorf("session %s: %s", id, f.Fate)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// written says whether the desk wrote anything from an entry on: its pen's start entry may come at any time.
func (w *world) written(from uint64) bool {
	w.t.Helper()
	ts := tlog.Tiles{Reader: w.log, Size: w.published()}
	for i := from; i < ts.Size; i++ {
		b, err := ts.Entry(context.Background(), i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			w.t.Fatal(err)
		}
		if e.Kind != record.Start {
			return true
		}
	}
	return false
}

// Names and words are read back as they are written, and nothing else is.
func TestRolesAndActsAreNamed(t *testing.T) {
	for act := View; act.known(); act++ {
		if back, err := ParseAct(act.String()); err != nil || back != act {
			t.Errorf("%q: %v, %v", act, back, err)
		}
	}
	for i, name := range roleNames {
		if r, err := ParseRole(name); err != nil || r != 1<<i || r.String() != name {
			t.Errorf("%q: %v, %v", name, r, err)
		}
	}
	for _, s := range []string{"", "nobody", "Admin", "viewer, admin", "root"} {
		if _, err := ParseRole(s); err == nil {
			t.Errorf("%q is a role", s)
		}
		if _, err := ParseAct(s); err == nil {
			t.Errorf("%q is an act", s)
		}
	}
	if Act(0).May() != 0 || Act(200).May() != 0 || Act(200).String() == "" {
		t.Error("what is no act may be done")
	}
}

// A session is shown as it stands: waiting for its answer, ended, erased.
func TestView(t *testing.T) {
	w := newWorld(t)
	id := record.NewID(time.Now())
	q := w.write(record.Entry{Kind: record.Request, Session: id}, nil, "asked")
	w.published()
	kinds := func() string {
		t.Helper()
		s, err := w.desk.View(t.Context(), somebody, id, "the request")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range s.Entries {
			parsed, err := record.ParseEntry(e.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s:%d", parsed.Kind, len(e.Fields)))
		}
		return strings.Join(out, " ")
	}
	if got := kinds(); got != "request:1" {
		t.Errorf("open: %s", got)
	}
	w.write(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, "answered")
	w.published()
	if got := kinds(); got != "request:1 response:1" {
		t.Errorf("ended: %s", got)
	}
	w.erase(id, "b")
	w.published()
	if got := kinds(); got != "request:0 response:0 erasure:4" {
		t.Errorf("erased: %s", got)
	}
	if _, err := w.desk.View(t.Context(), somebody, record.NewID(time.Now()), ""); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("one that there is not: %v", err)
	}
	views := 0
	for _, e := range w.entries() {
		if e.Kind == record.Access {
			views++
		}
	}
	if views != 4 {
		t.Errorf("%d looks are on record, of 4", views)
	}
}

// A feed gives every entry once and in order, goes on as the log grows, and begins where it is told to; what was erased or is
// another desk's is said to be missing. Nothing is fed that could not be recorded.
func TestFeed(t *testing.T) {
	w := newWorld(t)
	gone, strange := w.session(record.NewID(time.Now())), record.NewID(time.Now())
	other := &memKeys{keys: make(map[string][]byte)}
	for range 1000 { // so that its keys have other names
		other.New(t.Context())
	}
	mine := w.keys
	w.keys = other
	w.session(strange)
	w.keys = mine
	for range 400 {
		w.session(record.NewID(time.Now()))
	}
	w.published()
	w.erase(gone, "b")
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	err := w.desk.Feed(t.Context(), somebody, "a test", 0, func(context.Context, []Seen) error { t.Error("it was fed"); return nil })
	if !errors.Is(err, tlog.ErrFull) {
		t.Errorf("with a full log: %v", err)
	}
	w.log.Inject(tlogtest.Faults{})
	for _, from := range []uint64{0, 1, 255, 256, 300} {
		size := w.published()
		ctx, cancel := context.WithCancel(t.Context())
		next, more := from, false
		err := w.desk.Feed(ctx, somebody, "a test", from, func(_ context.Context, batch []Seen) error {
			if len(batch) == 0 || len(batch) > 256 {
				t.Errorf("a batch of %d", len(batch))
			}
			for _, s := range batch {
				if s.Index != next {
					t.Fatalf("entry %d comes where %d should", s.Index, next)
				}
				next++
				erased := s.Entry.Session == gone && s.Entry.Kind != record.Erasure
				want := error(nil)
				switch {
				case erased:
					want = tlog.ErrNotFound
				case s.Entry.Session == strange:
					want = ErrNotHere
				}
				if !errors.Is(s.Missing, want) || (s.Record == nil) != (want != nil || s.Entry.PayloadSize == 0) {
					t.Errorf("entry %d, %s: %d fields, %v", s.Index, s.Entry.Kind, len(s.Record), s.Missing)
				}
			}
			if next >= size && !more {
				more = true
				w.session(record.NewID(time.Now())) // it is fed as well
				size = w.published()
			} else if more && next >= size {
				cancel()
			}
			return nil
		})
		if err != nil || !more {
			t.Errorf("from %d: %v", from, err)
		}
	}
	broken := errors.New("no room")
	if err := w.desk.Feed(t.Context(), somebody, "a test", 0, func(context.Context, []Seen) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("what is fed fails: %v", err)
	}
}

// The trail has every reading, newest first, page by page, and that it was read.
func TestTrail(t *testing.T) {
	w := newWorld(t)
	var ids []record.ID
	for range 150 {
		ids = append(ids, w.session(record.NewID(time.Now())))
		w.published()
		who := somebody
		who.Reason = fmt.Sprintf("case %d", len(ids))
		if _, err := w.desk.View(t.Context(), who, ids[len(ids)-1], ""); err != nil {
			t.Fatal(err)
		}
	}
	w.erase(ids[0], "GDPR Art. 17")
	w.published()
	if _, err := w.desk.Disclose(t.Context(), somebody, ids[1], "request.body"); err != nil {
		t.Fatal(err)
	}
	w.published()
	var all []Reading
	pages, last := 0, uint64(1)<<62
	for before := uint64(0); ; pages++ {
		page, next, err := w.desk.Trail(t.Context(), somebody, before, 40)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if r.Index >= last {
				t.Fatalf("%d after %d", r.Index, last)
			}
			last = r.Index
		}
		all = append(all, page...)
		if before = next; next == 0 {
			break
		}
	}
	all = slices.DeleteFunc(all, func(r Reading) bool { return r.What == Trail.String() }) // as far as that is published already
	if len(all) < 152 || pages < 3 {
		t.Fatalf("%d readings on %d pages", len(all), pages)
	}
	if r := all[0]; r.What != "disclose" || len(r.Fields) != 1 || r.Fields[0] != "request.body" || r.Actor != "ann" {
		t.Errorf("the newest: %+v", r)
	}
	if r := all[1]; r.Kind != record.Erasure || r.Basis != "GDPR Art. 17" || r.Session != ids[0] {
		t.Errorf("before it: %+v", r)
	}
	if r := all[2]; r.What != "view" || r.Reason != "case 150" || r.Session != ids[149] {
		t.Errorf("and before that: %+v", r)
	}
	w.published()
	again, _, err := w.desk.Trail(t.Context(), somebody, 0, 1)
	if err != nil || len(again) != 1 || again[0].What != "who read what" {
		t.Errorf("that it was read: %+v, %v", again, err)
	}
	for _, most := range []int{0, -1, 1001} {
		if _, _, err := w.desk.Trail(t.Context(), somebody, 0, most); !errors.Is(err, errRequest) {
			t.Errorf("%d readings: %v", most, err)
		}
	}
}

// slowKeys are keys that for a while are not opened.
type slowKeys struct {
	Keys
	fails atomic.Int32
}

func (k *slowKeys) Open(ctx context.Context, id string) ([]byte, error) {
	if k.fails.Add(-1) >= 0 {
		return nil, errors.New("the vault is sealed")
	}
	return k.Keys.Open(ctx, id)
}

// What cannot be read for a moment is not passed over: nobody would ever look for it again.
func TestFeedWaits(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.session(record.NewID(time.Now()))
	}
	size := w.published()
	keys := &slowKeys{Keys: w.desk.keys}
	keys.fails.Store(9)
	w.desk.keys = keys
	enough := errors.New("enough")
	var all []Seen
	err := w.desk.Feed(t.Context(), somebody, "a test", 0, func(_ context.Context, batch []Seen) error {
		if all = append(all, batch...); uint64(len(all)) >= size {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Missing != nil || s.Record == nil && s.Entry.PayloadSize > 0 {
			t.Errorf("entry %d, %s: %d fields, %v", s.Index, s.Entry.Kind, len(s.Record), s.Missing)
		}
	}
}
