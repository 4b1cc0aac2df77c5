package record_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// A clock that goes back stops time in the log until it has caught up.
func TestWriterTimeNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, nil)
		ahead := time.Now().Add(time.Hour).UTC()
		s.SetLast(ahead)
		s.run(t)
		for range 5 {
			write(t, s.Writer, draft(Refused, NewID(time.Now()), nil))
			time.Sleep(time.Minute)
		}
		s.SetLost(1, ahead.Add(time.Minute))
		write(t, s.Writer, draft(Refused, NewID(time.Now()), nil))
		time.Sleep(2 * time.Hour)
		late := write(t, s.Writer, draft(Refused, NewID(time.Now()), nil))
		s.end(t)
		es := entries(t, s.log)
		for _, e := range es[:8] {
			if e.Time != ahead {
				t.Errorf("%s %d at %v", e.Kind, e.Seq, e.Time)
			}
		}
		if e := es[late.Index()]; e.Time != time.Now().UTC().Truncate(time.Microsecond) {
			t.Errorf("after the clock has caught up the time is %v", e.Time)
		}
		if es[7].Kind != Gap || es[7].Time != ahead || es[7].Since != ahead {
			t.Errorf("%+v", es[7])
		}
	})
}

// What is lost is in a gap entry that covers exactly its numbers, whenever the log takes it.
func TestWriterLose(t *testing.T) {
	t.Run("before the start", func(t *testing.T) {
		s := newStation(t, nil)
		s.Lose(2, "early")
		s.run(t)
		write(t, s.Writer, draft(Refused, idOf("a"), nil))
		s.end(t)
		es := entries(t, s.log)
		for _, e := range es {
			if e.Kind == Gap && (e.From != 1 && e.From != 2 || e.To != e.From+1 || e.Reason != "early") {
				t.Errorf("%+v", e)
			}
		}
		if len(es) != 4 || es[3].Seq != 5 {
			t.Errorf("%s up to %d", kindsOf(es), es[len(es)-1].Seq)
		}
	})
	t.Run("just before the end", func(t *testing.T) {
		for range 20 {
			s := newStation(t, nil).run(t)
			write(t, s.Writer, draft(Refused, idOf("a"), nil))
			s.Lose(7, "late")
			s.end(t)
			es := entries(t, s.log)
			if kindsOf(es) != "start refused gap stop" || es[2].From != 2 || es[2].To != 8 || es[3].Seq != 10 {
				t.Fatalf("%s, %+v", kindsOf(es), es[2])
			}
		}
	})
	t.Run("while the log is busy", func(t *testing.T) {
		s := newStation(t, nil).run(t)
		write(t, s.Writer, draft(Refused, idOf("a"), nil))
		first := time.Now().UTC().Truncate(time.Microsecond)
		s.gate.set(func(int) error { return tlog.ErrBusy })
		for i := range 5 {
			if _, err := s.Write(t.Context(), draft(Refused, idOf("b"), nil)); !errors.Is(err, tlog.ErrBusy) {
				t.Fatal(err)
			}
			s.Lose(uint64(i), []string{"none", "first", "second", "third", "fourth"}[i])
		}
		s.gate.set(nil)
		b := write(t, s.Writer, draft(Refused, idOf("b"), nil))
		s.end(t)
		es := entries(t, s.log)
		var total uint64
		for i, e := range es {
			if e.Kind != Gap {
				continue
			}
			// One gap entry or two: the last loss may come when the log has just taken what was lost before.
			if total += e.To - e.From + 1; e.Reason != "first" && (e.Reason != "fourth" || e.To-e.From != 3) || e.Since.Before(first) || e.Since.After(es[b.Index()].Time) || es[i-1].Seq+1 != e.From {
				t.Errorf("%+v", e)
			}
		}
		if total != 10 {
			t.Errorf("%d numbers in gaps: %s", total, kindsOf(es))
		}
	})
	t.Run("again, while the first is refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, nil)
			s.gate.before = func(n int) error {
				if n == 1 {
					time.Sleep(time.Minute)
					s.Lose(2, "second")
					return tlog.ErrBusy
				}
				return nil
			}
			s.run(t)
			synctest.Wait()
			s.Lose(1, "first")
			first := time.Now().UTC()
			time.Sleep(time.Hour)
			s.end(t)
			es := entries(t, s.log)
			if kindsOf(es) != "start gap stop" || es[1].To-es[1].From != 2 || es[1].Reason != "first" || es[1].Since != first {
				t.Errorf("%s %+v", kindsOf(es), es[1])
			}
		})
	})
	t.Run("for no reason that can be written", func(t *testing.T) {
		for _, reason := range []string{"", "Disk full", strings.Repeat("x", 41), "naïve"} {
			s := newStation(t, nil).run(t)
			write(t, s.Writer, draft(Refused, idOf("a"), nil))
			s.Lose(1, reason)
			s.end(t)
			if es := entries(t, s.log); kindsOf(es) != "start refused gap stop" || es[2].Reason != "unspecified" {
				t.Errorf("%q: %s %+v", reason, kindsOf(es), es[2])
			}
		}
	})
	t.Run("by many, with refusals", func(t *testing.T) {
		s := newStation(t, func(c *WriterConfig) { c.Heartbeat = time.Millisecond })
		rnd := rand.New(rand.NewPCG(3, 4))
		s.gate.before = func(n int) error {
			if n > 0 && rnd.IntN(3) == 0 {
				return tlog.ErrFull
			}
			return nil
		}
		s.run(t)
		var lost, kept, shed uint64
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for j := range 30 {
					_, err := s.Write(t.Context(), draft(Refused, idOf(fmt.Sprint(i, j)), nil))
					if err != nil {
						s.Lose(1, "full")
						s.Shed(2)
					}
					mu.Lock()
					if err != nil {
						lost++
						shed += 2
					} else {
						kept++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		s.gate.set(nil)
		s.end(t)
		var gaps, told, refused uint64
		for _, e := range entries(t, s.log) {
			switch e.Kind {
			case Gap:
				gaps += e.To - e.From + 1
			case Refused:
				refused++
			}
			told += e.Shed
		}
		if gaps != lost || refused != kept || told != shed {
			t.Errorf("%d lost and %d in gaps, %d kept and %d there, %d shed and %d told", lost, gaps, kept, refused, shed, told)
		}
	})
}

// Heartbeats come at their interval with or without traffic, first in their batch, and say what is open.
func TestWriterHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, func(c *WriterConfig) { c.Heartbeat = 0 }).run(t)
		time.Sleep(35 * time.Second)
		synctest.Wait()
		if got := kindsOf(slices.Concat(s.gate.written()...)); got != "start heartbeat heartbeat heartbeat" {
			t.Fatal(got)
		}
		a := write(t, s.Writer, draft(Request, idOf("a"), nil))
		b := write(t, s.Writer, draft(Request, idOf("b"), nil))
		s.Shed(3)
		time.Sleep(10 * time.Second)
		write(t, s.Writer, draft(Response, idOf("a"), a))
		s.Shed(4)
		// The log is slow; meanwhile a heartbeat comes due and drafts wait.
		hold := make(chan struct{})
		s.gate.set(func(int) error { <-hold; return nil })
		submit(t, s.Writer, draft(Request, idOf("c"), nil))
		time.Sleep(15 * time.Second)
		done := submit(t, s.Writer, draft(Response, idOf("b"), b))
		close(hold)
		if err := done.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		s.end(t)
		var said []string
		for _, batch := range s.gate.written() {
			for i, e := range batch {
				if e.Kind == Heartbeat && i != 0 {
					t.Errorf("a heartbeat in place %d of its batch", i)
				}
				if e.Beat {
					said = append(said, fmt.Sprint(e.Open, " above ", e.Floor, " and ", e.Shed))
				}
			}
		}
		es := entries(t, s.log) // where each is held against what is open in truth
		if want := "0 above 0 and 0, 0 above 0 and 0, 0 above 0 and 0, 2 above 4 and 3"; !strings.HasPrefix(strings.Join(said, ", "), want) {
			t.Errorf("said %q", said)
		}
		if last := es[len(es)-1]; last.Kind != Stop || last.Open != 1 || last.Shed != 0 {
			t.Errorf("%+v", last)
		}
	})
}

// A heartbeat that the log would not take is tried again soon, so that the silence is no longer than the trouble was; and it
// tells what the one before was to tell.
func TestWriterHeartbeatRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, func(c *WriterConfig) { c.Heartbeat = 0 }).run(t)
		synctest.Wait()
		s.Shed(3)
		s.gate.set(func(int) error { return tlog.ErrFull })
		time.Sleep(25*time.Second + 50*time.Millisecond)
		s.gate.set(nil)
		s.Shed(4)
		time.Sleep(9 * time.Second)
		s.end(t)
		es := entries(t, s.log)
		if kindsOf(es) != "start heartbeat heartbeat stop" || es[1].Shed != 7 || es[2].Shed != 0 || es[3].Shed != 0 {
			t.Fatalf("%s, %d, %d and %d shed", kindsOf(es), es[1].Shed, es[2].Shed, es[3].Shed)
		}
		if late := es[1].Time.Sub(es[0].Time); late > 26*time.Second {
			t.Errorf("the first heartbeat came %s after the start, when the log took none for 25 s", late)
		}
		if next := es[2].Time.Sub(es[0].Time); next != 30*time.Second {
			t.Errorf("the one after it came %s after the start", next)
		}
	})
}

// A draft at fault takes no number and holds nobody else up; nor does it make the writer tell anything twice.
func TestWriterDraftAtFault(t *testing.T) {
	s := newStation(t, nil)
	bad := draft(Refused, idOf("bad"), nil)
	bad.Entry.Reason = "Not a word"
	hold := make(chan struct{})
	s.gate.before = func(n int) error {
		if n == 1 {
			<-hold
		}
		return nil
	}
	s.run(t)
	first := submit(t, s.Writer, draft(Refused, idOf("1"), nil))
	s.Lose(2, "lost")
	var good, faulty []*Ticket
	for i := range 10 {
		good = append(good, submit(t, s.Writer, draft(Refused, idOf(fmt.Sprint("g", i)), nil)))
		faulty = append(faulty, submit(t, s.Writer, bad))
	}
	close(hold)
	for _, g := range append(good, first) {
		if err := g.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, f := range faulty {
		if err := f.Wait(t.Context()); err == nil || errors.Is(err, tlog.ErrHalted) {
			t.Error(err)
		}
	}
	s.Shed(5)
	s.end(t)
	es := entries(t, s.log)
	var lost, shed uint64
	for _, e := range es {
		shed += e.Shed
		if e.Kind == Gap {
			lost += e.To - e.From + 1
		}
	}
	if lost != 2 || shed != 5 || es[len(es)-1].Seq != 1+1+10+2+1 {
		t.Errorf("%d lost, %d shed, %s", lost, shed, kindsOf(es))
	}

	// A heartbeat's batch that ends with one.
	s = newStation(t, func(c *WriterConfig) { c.Heartbeat = time.Millisecond }).run(t)
	for range 50 {
		s.Shed(1)
		if _, err := s.Write(t.Context(), bad); err == nil {
			t.Fatal("written")
		}
	}
	s.end(t)
	shed = 0
	for _, e := range entries(t, s.log) {
		shed += e.Shed
	}
	if shed != 50 {
		t.Errorf("50 shed and %d told", shed)
	}
}

// Prev names the entry before, wherever it is: in the same batch, in an earlier one, beyond one that was lost.
func TestWriterPrev(t *testing.T) {
	s := newStation(t, nil)
	hold, in := make(chan struct{}), make(chan struct{}, 100)
	refuse := false
	s.gate.before = func(n int) error {
		if n == 0 {
			return nil
		}
		in <- struct{}{}
		<-hold
		if refuse {
			return tlog.ErrBusy
		}
		return nil
	}
	s.run(t)
	prev := func(ticket *Ticket) tlog.Hash {
		t.Helper()
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		e, err := ParseEntry(ticket.Entry())
		if err != nil {
			t.Fatal(err)
		}
		return e.Prev
	}
	round := func(refused bool, f func()) { // what f submits goes in one batch
		block := submit(t, s.Writer, draft(Refused, NewID(time.Now()), nil))
		<-in
		f()
		refuse = false
		hold <- struct{}{}
		if err := block.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-in
		refuse = refused
		hold <- struct{}{}
	}
	// All of a session in one batch.
	var a, b, c *Ticket
	round(false, func() {
		a = submit(t, s.Writer, draft(Request, idOf("one"), nil))
		b = submit(t, s.Writer, draft(Approval, idOf("one"), a))
		c = submit(t, s.Writer, draft(Response, idOf("one"), b))
	})
	if prev(b) != a.Leaf() || prev(c) != b.Leaf() {
		t.Error("in one batch: another prev")
	}
	if c.Index() != a.Index()+2 {
		t.Error("the test did not make one batch")
	}
	// In three, of which the second is lost.
	round(false, func() { a = submit(t, s.Writer, draft(Request, idOf("two"), nil)) })
	if a.Wait(t.Context()) != nil {
		t.Fatal()
	}
	round(true, func() { b = submit(t, s.Writer, draft(Approval, idOf("two"), a)) })
	if err := b.Wait(t.Context()); !errors.Is(err, tlog.ErrBusy) {
		t.Fatal(err)
	}
	s.Lose(1, "busy")
	round(false, func() { c = submit(t, s.Writer, draft(Response, idOf("two"), b)) })
	if prev(c) != a.Leaf() {
		t.Error("one lost: another prev")
	}
	// The first is lost, and with it all there was; an approval cannot be without a request.
	round(true, func() { a = submit(t, s.Writer, draft(Request, idOf("three"), nil)) })
	if err := a.Wait(t.Context()); !errors.Is(err, tlog.ErrBusy) {
		t.Fatal(err)
	}
	s.Lose(1, "busy")
	round(false, func() {
		b = submit(t, s.Writer, draft(Approval, idOf("three"), a))
		c = submit(t, s.Writer, draft(Response, idOf("three"), b))
	})
	if err := b.Wait(t.Context()); err == nil {
		t.Error("an approval of nothing")
	}
	if prev(c) != (tlog.Hash{}) {
		t.Error("all lost: a prev")
	}
	// What the draft says itself stands, if there is nothing else, and stands in for what is lost.
	round(false, func() { a = submit(t, s.Writer, draft(Request, idOf("four"), nil)) })
	if a.Wait(t.Context()) != nil {
		t.Fatal()
	}
	d := draft(Approval, idOf("four"), nil)
	d.Entry.Prev = a.Leaf()
	round(true, func() { b = submit(t, s.Writer, d) })
	if err := b.Wait(t.Context()); !errors.Is(err, tlog.ErrBusy) {
		t.Fatal(err)
	}
	round(false, func() { c = submit(t, s.Writer, draft(Response, idOf("four"), b)) })
	if prev(c) != a.Leaf() {
		t.Error("a prev of its own was forgotten")
	}
	close(hold)
	s.end(t)
	entries(t, s.log)
}
