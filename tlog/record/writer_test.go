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
		"disk full":    {before: fmt.Errorf("%w: %w", tlog.ErrHalted, tlog.ErrFull), cause: tlog.ErrFull},
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
