package record_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A gate stands in front of a log's Append, remembers each batch that came through, and can hold or refuse it.
type gate struct {
	tlog.Appender
	mu      sync.Mutex
	n       int
	batches [][]Entry
	before  func(n int) error // of the n-th Append, from 0; nil for none
	after   func(n int, indices []uint64) ([]uint64, error)
}

func (g *gate) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	g.mu.Lock()
	n, before, after := g.n, g.before, g.after
	g.n++
	g.mu.Unlock()
	if before != nil {
		if err := before(n); err != nil {
			return nil, err
		}
	}
	indices, err := g.Appender.Append(ctx, leaves...)
	if err == nil {
		var batch []Entry
		for _, l := range leaves {
			e, err := ParseEntry(l.Entry)
			if err != nil {
				panic(err)
			}
			batch = append(batch, e)
		}
		g.mu.Lock()
		g.batches = append(g.batches, batch)
		g.mu.Unlock()
		if after != nil {
			return after(n, indices)
		}
	}
	return indices, err
}

func (g *gate) set(before func(int) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = before
}

// written returns the batches that went through.
func (g *gate) written() [][]Entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.batches)
}

// A station is a writer, its log, and the gate between them.
type station struct {
	*Writer
	log  *tlogtest.Log
	gate *gate
	stop context.CancelFunc
	done chan error
}

// newStation makes a writer on a log of its own.
func newStation(t testing.TB, change func(*WriterConfig)) *station {
	return stationOn(t, tlogtest.NewLog(t), change)
}

func stationOn(t testing.TB, l *tlogtest.Log, change func(*WriterConfig)) *station {
	t.Helper()
	s := &station{log: l, gate: &gate{Appender: l}, done: make(chan error, 1)}
	cfg := WriterConfig{ID: "gw-1", Log: s.gate, Reader: l, Software: "test/1", Mode: "strict", Heartbeat: -1}
	if change != nil {
		change(&cfg)
	}
	w, err := NewWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Writer = w
	return s
}

// run runs the writer until the test ends or s.stop is called.
func (s *station) run(t testing.TB) *station {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	s.stop = cancel
	go func() {
		s.done <- s.Run(ctx)
		close(over)
	}()
	t.Cleanup(func() { cancel(); <-over })
	return s
}

// end stops the writer in order.
func (s *station) end(t testing.TB) {
	t.Helper()
	s.stop()
	if err := <-s.done; err != nil {
		t.Fatalf("Run: %v", err)
	}
	if count, bytes := s.Held(); count != 0 || bytes != 0 {
		t.Errorf("at its end the writer counts %d drafts and %d bytes", count, bytes)
	}
}

// entries returns all entries of a log, after the second reading has found every rule of the writer obeyed.
func entries(t testing.TB, l *tlogtest.Log) []Entry {
	t.Helper()
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := tlog.OpenCheckpoint(signed, l.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	var es []Entry
	forward := newReading()
	ts := tlog.Tiles{Reader: l, Size: c.Size}
	for i := range c.Size {
		b, err := ts.Entry(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if err := forward.next(int64(i), b); err != nil {
			t.Errorf("entry %d: %v\n%s", i, err, b)
		}
		e, err := ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	return es
}

// kindsOf tells entries in short.
func kindsOf(es []Entry) string {
	var s []string
	for _, e := range es {
		s = append(s, string(e.Kind))
	}
	return strings.Join(s, " ")
}

func draft(k Kind, session ID, after *Ticket) Draft {
	payload := fmt.Appendf(nil, "payload of %s %s", k, session)
	d := Draft{Entry: Entry{Kind: k, Session: session, Root: hashOf("root"), Fields: 1}, After: after}
	switch k {
	case Response:
		d.Entry.Outcome = Complete
	case Refused:
		d.Entry.Reason = "no"
	}
	return withPayload(d, payload)
}

func withPayload(d Draft, p []byte) Draft {
	d.Payload = p
	d.Entry.Payload, d.Entry.PayloadSize = Sum(p), int64(len(p))
	return d
}

func submit(t testing.TB, w *Writer, d Draft) *Ticket {
	t.Helper()
	ticket, err := w.Submit(d)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func write(t testing.TB, w *Writer, d Draft) *Ticket {
	t.Helper()
	ticket, err := w.Write(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

// 64 producers at once, a log that is busy now and then, heartbeats all the time: every number is there once, in
// order, and every ticket tells where its entry is.
func TestWriterManyProducers(t *testing.T) {
	s := newStation(t, func(c *WriterConfig) { c.Heartbeat = time.Millisecond; c.MaxQueue = 50 })
	rnd := rand.New(rand.NewPCG(1, 2))
	busy := 0
	s.gate.before = func(int) error {
		if rnd.IntN(8) == 0 { // called by Run alone
			busy++
			return fmt.Errorf("wrapped: %w", tlog.ErrBusy)
		}
		return nil
	}
	s.run(t)
	persist := func(d Draft) *Ticket {
		for {
			ticket, err := s.Write(t.Context(), d)
			if err == nil {
				return ticket
			}
			if !errors.Is(err, tlog.ErrBusy) {
				t.Error(err)
				return nil
			}
			s.Shed(1)
		}
	}
	var mu sync.Mutex
	var tickets []*Ticket
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 20 {
				id := idOf(fmt.Sprint(i, " ", j))
				a := persist(draft(Request, id, nil))
				b := persist(draft(Response, id, a))
				mu.Lock()
				tickets = append(tickets, a, b)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.end(t)
	es := entries(t, s.log)
	for _, ticket := range tickets {
		e, err := ParseEntry(ticket.Entry())
		if err != nil || es[ticket.Index()] != e || tlog.HashLeaf(ticket.Entry()) != ticket.Leaf() {
			t.Fatalf("entry %d is %+v and its ticket has %+v, %v", ticket.Index(), es[ticket.Index()], e, err)
		}
	}
	beats := 0
	for _, e := range es {
		if e.Kind == Heartbeat {
			beats++
		}
	}
	if last := es[len(es)-1]; len(es) != len(tickets)+beats+2 || last.Kind != Stop || last.Seq != uint64(len(es)-1) || busy == 0 {
		t.Errorf("%d entries, %d tickets, %d heartbeats, %d times busy, the last is %+v", len(es), len(tickets), beats, busy, last)
	}
	t.Logf("%d entries in %d batches, %d of them heartbeats, %d refused batches", len(es), len(s.gate.written()), beats, busy)
}

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

// The log said that it took nothing: the numbers are given again, and the writer goes on.
func TestWriterRefusedGivesNumbersBack(t *testing.T) {
	for _, cause := range []error{tlog.ErrBusy, tlog.ErrFull, tlog.ErrTooLarge} {
		s := newStation(t, nil).run(t)
		a := write(t, s.Writer, draft(Request, idOf("a"), nil))
		s.gate.set(func(int) error { return fmt.Errorf("entry 3: %w", cause) })
		lost := submit(t, s.Writer, draft(Request, idOf("b"), nil))
		if err := lost.Wait(t.Context()); !errors.Is(err, cause) || lost.Entry() != nil {
			t.Errorf("%v: %v", cause, err)
		}
		s.gate.set(nil)
		b := write(t, s.Writer, draft(Response, idOf("a"), a))
		if e, err := ParseEntry(b.Entry()); err != nil || e.Seq != 2 {
			t.Errorf("%v: number %d, %v", cause, e.Seq, err)
		}
		s.end(t)
		if got := kindsOf(entries(t, s.log)); got != "start request response stop" {
			t.Errorf("%v: %s", cause, got)
		}
	}
}

// Nobody knows whether the log took it: the writer ends, and everybody who waits or comes later is told so.
func TestWriterUnknownOutcome(t *testing.T) {
	for name, fault := range map[string]struct {
		before error
		after  func(int, []uint64) ([]uint64, error)
		cause  error
	}{
		"before":       {before: errors.New("connection reset")},
		"a time-out":   {before: fmt.Errorf("post: %w", context.DeadlineExceeded), cause: context.DeadlineExceeded},
		"a cancel":     {before: fmt.Errorf("post: %w", context.Canceled), cause: context.Canceled},
		"quarantine":   {before: tlog.ErrQuarantine, cause: tlog.ErrQuarantine},
		"closed":       {before: tlog.ErrClosed, cause: tlog.ErrClosed},
		"halted":       {before: tlog.ErrHalted, cause: tlog.ErrHalted},
		"durable":      {after: func(int, []uint64) ([]uint64, error) { return nil, errors.New("no answer") }},
		"few indices":  {after: func(_ int, is []uint64) ([]uint64, error) { return is[:0], nil }},
		"many indices": {after: func(_ int, is []uint64) ([]uint64, error) { return append(is, 9), nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStation(t, func(c *WriterConfig) { c.Heartbeat = time.Millisecond }).run(t)
			write(t, s.Writer, draft(Request, idOf("a"), nil))
			hold := make(chan struct{})
			s.gate.mu.Lock()
			s.gate.after = fault.after
			s.gate.before = func(int) error { <-hold; return fault.before }
			s.gate.mu.Unlock()
			var waiting []*Ticket // some in the batch, some in the queue
			for i := range 50 {
				waiting = append(waiting, submit(t, s.Writer, draft(Request, idOf(fmt.Sprint(i)), nil)))
			}
			s.Lose(3, "lost")
			close(hold)
			for i, ticket := range waiting {
				if err := ticket.Wait(t.Context()); !errors.Is(err, tlog.ErrHalted) || ticket.Entry() != nil {
					t.Fatalf("ticket %d: %v", i, err)
				}
			}
			err := <-s.done
			for what, err := range map[string]error{"Run": err, "Broken": s.Broken()} {
				if !errors.Is(err, tlog.ErrHalted) || fault.cause != nil && !errors.Is(err, fault.cause) {
					t.Errorf("%s: %v", what, err)
				}
				if strings.Count(err.Error(), tlog.ErrHalted.Error()) != 1 {
					t.Errorf("%s says it twice: %v", what, err)
				}
			}
			if _, err := s.Submit(draft(Request, idOf("late"), nil)); !errors.Is(err, tlog.ErrHalted) {
				t.Errorf("Submit: %v", err)
			}
			if count, bytes := s.Held(); count != 0 || bytes != 0 {
				t.Errorf("%d drafts, %d bytes", count, bytes)
			}
			for _, e := range entries(t, s.log) {
				if e.Kind == Stop {
					t.Error("a writer that does not know what is in the log has stopped in order")
				}
			}
		})
	}
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

// What a heartbeat was to tell the next one tells, if the log would not take it.
func TestWriterHeartbeatRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, func(c *WriterConfig) { c.Heartbeat = 0 }).run(t)
		synctest.Wait()
		s.Shed(3)
		s.gate.set(func(int) error { return tlog.ErrFull })
		time.Sleep(25 * time.Second)
		s.gate.set(nil)
		s.Shed(4)
		time.Sleep(10 * time.Second)
		s.end(t)
		if es := entries(t, s.log); kindsOf(es) != "start heartbeat stop" || es[1].Shed != 7 || es[2].Shed != 0 {
			t.Errorf("%s, %d and %d shed", kindsOf(es), es[1].Shed, es[2].Shed)
		}
	})
}

// What is too much for one batch goes in the next, though nothing new wakes the writer.
func TestWriterLargeBatches(t *testing.T) {
	s := newStation(t, nil)
	big := withPayload(draft(Refused, idOf("a"), nil), make([]byte, 5<<20))
	var tickets []*Ticket
	for range 4 {
		tickets = append(tickets, submit(t, s.Writer, big))
	}
	other := withPayload(draft(Refused, idOf("a"), nil), make([]byte, 9<<20))
	tickets = append(tickets, submit(t, s.Writer, other), submit(t, s.Writer, draft(Refused, idOf("a"), nil)))
	s.run(t)
	for _, ticket := range tickets {
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.gate.written()); n != 1+5+1 {
		t.Errorf("%d batches", n)
	}
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

func TestSubmitRefuses(t *testing.T) {
	s := newStation(t, nil)
	for _, k := range []Kind{Start, Stop, Heartbeat, Gap} {
		if _, err := s.Submit(Draft{Entry: Entry{Kind: k}}); err == nil {
			t.Errorf("a %s entry was taken", k)
		}
	}
	d := draft(Refused, idOf("a"), nil)
	d.Entry.PayloadSize++
	if _, err := s.Submit(d); err == nil {
		t.Error("a payload of another size was taken")
	}
	d = draft(Refused, idOf("a"), nil)
	d.Payload = nil
	if _, err := s.Submit(d); err == nil {
		t.Error("a payload that is not there was taken")
	}
	big := draft(Refused, idOf("a"), nil)
	big.Payload = make([]byte, tlog.MaxPayload+1)
	big.Entry.PayloadSize = int64(len(big.Payload))
	if _, err := s.Submit(big); !errors.Is(err, tlog.ErrTooLarge) {
		t.Errorf("a payload over the limit: %v", err)
	}
	for name, c := range map[string]WriterConfig{
		"no log":         {ID: "a", Software: "x", Mode: "none"},
		"no id":          {Log: s.log, Software: "x", Mode: "none"},
		"a bad id":       {Log: s.log, ID: "A b", Software: "x", Mode: "none"},
		"no software":    {Log: s.log, ID: "a", Mode: "none"},
		"a bad software": {Log: s.log, ID: "a", Software: "x y", Mode: "none"},
		"no mode":        {Log: s.log, ID: "a", Software: "x"},
		"a bad mode":     {Log: s.log, ID: "a", Software: "x", Mode: "loose"},
	} {
		if _, err := NewWriter(c); err == nil {
			t.Errorf("a writer with %s", name)
		}
	}
}

// What waits is bounded by number and by bytes, and the bounds are given back whatever becomes of it.
func TestWriterQueueLimits(t *testing.T) {
	s := newStation(t, func(c *WriterConfig) { c.MaxQueue = 5; c.MaxQueueBytes = 1000 })
	big := withPayload(draft(Refused, idOf("big"), nil), make([]byte, 5000))
	small := withPayload(draft(Refused, idOf("small"), nil), make([]byte, 100))
	held := func(count, bytes int) {
		t.Helper()
		if c, b := s.Held(); c != count || b != bytes {
			t.Errorf("%d drafts and %d bytes wait, not %d and %d", c, b, count, bytes)
		}
	}
	hold, in := make(chan struct{}), make(chan struct{}, 9)
	s.gate.before = func(n int) error {
		if n == 0 {
			return nil
		}
		in <- struct{}{}
		<-hold
		return []error{nil, nil, tlog.ErrBusy, nil, errors.New("unknown")}[n]
	}
	s.run(t)
	round := func(want error) {
		t.Helper()
		one := submit(t, s.Writer, big) // alone it may be over the limit
		<-in                            // it is being appended, and still counts
		held(1, 5000)
		if _, err := s.Submit(small); !errors.Is(err, tlog.ErrBusy) {
			t.Errorf("over the bytes: %v", err)
		}
		hold <- struct{}{}
		if err := one.Wait(t.Context()); !errors.Is(err, want) {
			t.Errorf("%v", err)
		}
	}
	empty := func() {
		t.Helper()
		for begin := time.Now(); ; {
			if c, b := s.Held(); c == 0 && b == 0 {
				return
			}
			if time.Since(begin) > 10*time.Second {
				t.Fatal("what was done still counts")
			}
			runtime.Gosched()
		}
	}
	round(nil)
	empty()
	round(tlog.ErrBusy)
	empty()
	one := submit(t, s.Writer, small)
	<-in
	for range 4 {
		submit(t, s.Writer, small)
	}
	held(5, 500)
	if _, err := s.Submit(small); !errors.Is(err, tlog.ErrBusy) {
		t.Errorf("over the number: %v", err)
	}
	hold <- struct{}{}
	if err := one.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	<-in
	close(hold)
	if err := <-s.done; !errors.Is(err, tlog.ErrHalted) {
		t.Error(err)
	}
	held(0, 0)
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

// ctx ends at every point of a life: Run returns without an error, nobody is left waiting, and there is a stop entry if
// and only if the writer had begun.
func TestWriterEndsAnywhere(t *testing.T) {
	stations := map[string]func(t *testing.T) (s *station, stopped bool, kinds string){
		"before it runs": func(t *testing.T) (*station, bool, string) {
			s := newStation(t, nil)
			return s, false, ""
		},
		"while the log does not run": func(t *testing.T) (*station, bool, string) {
			l, err := tlogtest.Open(tlogtest.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return stationOn(t, l, nil), false, ""
		},
		"while the log takes no start": func(t *testing.T) (*station, bool, string) {
			s := newStation(t, nil)
			s.gate.before = func(int) error { return tlog.ErrFull }
			return s, false, ""
		},
		"while there is no checkpoint": func(t *testing.T) (*station, bool, string) {
			l := tlogtest.Start(t, tlogtest.Config{Manual: true})
			if _, err := l.Append(t.Context(), tlog.Leaf{Entry: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			return stationOn(t, l, nil), false, "start"
		},
		"while a tile is read": func(t *testing.T) (*station, bool, string) {
			l := tlogtest.NewLog(t)
			s := stationOn(t, l, func(c *WriterConfig) { c.ID = "other" }).run(t)
			if _, err := s.Unfinished(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.end(t)
			return stationOn(t, l, func(c *WriterConfig) { c.Reader = slow{l} }), false, "start"
		},
		"at rest": func(t *testing.T) (*station, bool, string) {
			return newStation(t, nil), true, "start request stop"
		},
		"at rest, with calls lost": func(t *testing.T) (*station, bool, string) {
			s := newStation(t, nil)
			s.gate.before = func(n int) error {
				if n == 1 {
					s.Lose(1, "busy")
					return tlog.ErrBusy
				}
				return nil
			}
			return s, true, "start gap stop"
		},
		"while a batch is appended": func(t *testing.T) (*station, bool, string) {
			s := newStation(t, nil)
			s.gate.before = func(n int) error {
				if n > 0 {
					time.Sleep(time.Hour)
				}
				return nil
			}
			return s, true, "start request request request stop"
		},
		"while the log is busy for a moment": func(t *testing.T) (*station, bool, string) {
			s := newStation(t, nil)
			s.gate.before = func(n int) error {
				if n == 2 || n == 3 {
					return tlog.ErrBusy
				}
				return nil
			}
			return s, true, "start request stop"
		},
	}
	for name, make := range stations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stopped, want := make(t)
				had := s.log.Size()
				ctx, cancel := context.WithCancel(context.Background())
				if name == "before it runs" {
					cancel()
				}
				done := goRun(s, ctx)
				tickets := []*Ticket{submit(t, s.Writer, draft(Request, idOf("a"), nil))}
				time.Sleep(time.Minute)
				synctest.Wait()
				if name == "while a batch is appended" {
					tickets = append(tickets, submit(t, s.Writer, draft(Request, idOf("b"), nil)), submit(t, s.Writer, draft(Request, idOf("c"), nil)))
				}
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run: %v", err)
				}
				for _, ticket := range tickets {
					select {
					case <-ticket.Done():
						if err := ticket.Wait(t.Context()); (err == nil) != stopped && !errors.Is(err, tlog.ErrBusy) {
							t.Errorf("a ticket: %v", err)
						}
					default:
						t.Error("a ticket is left waiting")
					}
				}
				if _, err := s.Submit(draft(Request, idOf("late"), nil)); !errors.Is(err, tlog.ErrClosed) {
					t.Errorf("Submit after the end: %v", err)
				}
				if err := s.Broken(); err != nil {
					t.Errorf("Broken after an orderly end: %v", err)
				}
				if _, err := s.Unfinished(t.Context()); (err == nil) != stopped || err != nil && !errors.Is(err, tlog.ErrClosed) {
					t.Errorf("Unfinished after the end: %v", err)
				}
				if count, bytes := s.Held(); count != 0 || bytes != 0 {
					t.Errorf("%d drafts and %d bytes still count", count, bytes)
				}
				if got := kindsOf(slices.Concat(s.gate.written()...)); got != want {
					t.Errorf("wrote %q after %d entries, not %q", got, had, want)
				}
				s.log.Close()
			})
		})
	}
}

func goRun(s *station, ctx context.Context) chan error {
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return done
}

// slow is a reader whose tiles do not come before its ctx ends.
type slow struct{ *tlogtest.Log }

func (s slow) Tile(ctx context.Context, _ tlog.Tile) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A log that cannot be read ends the writer with that, and nobody is told of an unknown outcome.
func TestWriterCannotRead(t *testing.T) {
	l := tlogtest.NewLog(t)
	first := stationOn(t, l, nil).run(t)
	write(t, first.Writer, draft(Request, idOf("a"), nil))
	first.end(t)
	broken := errors.New("bad sector")
	l.Inject(tlogtest.Faults{Tile: func(tlog.Tile, []byte) ([]byte, error) { return nil, broken }})
	s := stationOn(t, l, nil)
	ticket := submit(t, s.Writer, draft(Request, idOf("b"), nil))
	err := s.Run(t.Context())
	if !errors.Is(err, broken) || errors.Is(err, tlog.ErrHalted) || !strings.Contains(err.Error(), "unfinished") {
		t.Errorf("Run: %v", err)
	}
	if err := ticket.Wait(t.Context()); !errors.Is(err, broken) {
		t.Errorf("a ticket: %v", err)
	}
	if _, err := s.Unfinished(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Unfinished: %v", err)
	}
}

// A gateway that starts beside a full disk comes to life when there is room; meanwhile callers are told.
func TestWriterStartsBesideAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, nil)
		s.gate.before = func(n int) error {
			if n < 50 {
				return tlog.ErrFull
			}
			return nil
		}
		s.run(t)
		full := 0
		for {
			_, err := s.Write(t.Context(), draft(Refused, idOf("a"), nil))
			if err == nil {
				break
			}
			if !errors.Is(err, tlog.ErrFull) {
				t.Fatal(err)
			}
			full++
		}
		s.end(t)
		if got := kindsOf(entries(t, s.log)); got != "start refused stop" || full < 40 {
			t.Errorf("%s, refused %d times", got, full)
		}
	})
}

// A log that takes no stop entry does not keep the writer for ever.
func TestWriterStopRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, nil).run(t)
		write(t, s.Writer, draft(Refused, idOf("a"), nil))
		s.gate.set(func(int) error { return tlog.ErrFull })
		s.Lose(1, "full")
		s.stop()
		if err := <-s.done; !errors.Is(err, tlog.ErrFull) || errors.Is(err, tlog.ErrHalted) {
			t.Error(err)
		}
	})
}

// Lives of real writers with one name, one after the other, beside another writer: orderly ends, crashes before and
// after a batch was durable, and every boot finds and closes exactly what is open.
func TestWriterLives(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Interval: time.Millisecond, Prune: true})
	beside := stationOn(t, l, func(c *WriterConfig) { c.ID = "gw-2" }).run(t)
	rnd := rand.New(rand.NewPCG(9, 9))
	closed, crashes := 0, 0
	for life := range 40 {
		s := stationOn(t, l, func(c *WriterConfig) { c.Heartbeat = time.Duration(1+rnd.IntN(5)) * time.Millisecond })
		if rnd.IntN(3) == 0 { // it will crash
			at, lost := 1+rnd.IntN(12), rnd.IntN(2) == 0
			s.gate.before = func(n int) error {
				if n == at && lost {
					return errors.New("crash")
				}
				return nil
			}
			s.gate.after = func(n int, is []uint64) ([]uint64, error) {
				if n == at {
					return nil, errors.New("crash")
				}
				return is, nil
			}
			crashes++
		}
		s.run(t)
		us, err := s.Unfinished(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, u := range us {
			d := draft(Response, u.Session, nil)
			d.Entry.Outcome, d.Entry.Prev = Interrupted, u.Leaf
			if _, err := s.Write(t.Context(), d); err == nil {
				closed++
			}
		}
		for i := range 6 {
			wg.Go(func() {
				for j := range 5 {
					id := idOf(fmt.Sprint(life, i, j))
					a, err := s.Write(t.Context(), draft(Request, id, nil))
					if err != nil {
						return
					}
					if j == 1 {
						a, err = s.Write(t.Context(), draft(Approval, id, a))
					}
					if j == 3 || err != nil {
						return // left open
					}
					if _, err := s.Write(t.Context(), draft(Response, id, a)); err != nil {
						return
					}
					beside.Write(t.Context(), draft(Refused, idOf(fmt.Sprint("beside", life, i, j)), nil))
				}
			})
		}
		wg.Wait()
		s.stop()
		if err := <-s.done; err != nil && !errors.Is(err, tlog.ErrHalted) {
			t.Fatal(err)
		}
	}
	beside.end(t)
	last := stationOn(t, l, nil).run(t)
	us, err := last.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last.end(t)
	// What is open is what a reader from the front finds open; and the heartbeats said so too.
	open := map[ID]uint64{}
	es := entries(t, l)
	for i, e := range es {
		switch {
		case e.By != "gw-1":
		case e.Kind == Request:
			open[e.Session] = uint64(i)
		case e.Kind == Response:
			delete(open, e.Session)
		}
	}
	if len(us) != len(open) {
		t.Errorf("%d unfinished, and %d are open", len(us), len(open))
	}
	for _, u := range us {
		if at, ok := open[u.Session]; !ok || at != u.Index {
			t.Errorf("%+v is not open", u)
		}
	}
	t.Logf("%d entries, %d lives planned to crash, %d sessions closed by a later boot, %d left", len(es), crashes, closed, len(us))
}

// A writer without a reader has nothing to find.
func TestWriterWithoutReader(t *testing.T) {
	s := newStation(t, func(c *WriterConfig) { c.Reader = nil; c.Mode = "none" }).run(t)
	if us, err := s.Unfinished(t.Context()); err != nil || len(us) != 0 {
		t.Error(us, err)
	}
	s.end(t)
}

// Wait gives up with its ctx; the entry does not.
func TestTicketWait(t *testing.T) {
	s := newStation(t, nil)
	ticket := submit(t, s.Writer, draft(Refused, idOf("a"), nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ticket.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Unfinished(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.run(t)
	if err := ticket.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ticket.Wait(ctx); err != nil {
		t.Errorf("what is done is told whatever ctx says: %v", err)
	}
	s.end(t)
}
