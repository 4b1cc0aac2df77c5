package record

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A draft that is nothing without the one before it is not written when that was lost, and is when it was not.
func TestWriterTogether(t *testing.T) {
	log := tlogtest.NewLog(t)
	w, err := NewWriter(WriterConfig{ID: "gw-1", Log: log, Software: "test/1", Mode: "open", Heartbeat: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	made := func(k Kind, s ID, after *Ticket) Draft {
		e := Entry{Kind: k, Session: s, Root: tlog.HashLeaf([]byte("root")), Fields: 1, Payload: Sum([]byte("p")), PayloadSize: 1}
		if k == Response {
			e.Outcome = Complete
		}
		return Draft{Entry: e, Payload: []byte("p"), After: after, Together: true}
	}
	pair := func(s ID) (first, second error) {
		a, err := w.Submit(made(Request, s, nil))
		if err != nil {
			t.Fatal(err)
		}
		first = a.Wait(ctx)
		log.Inject(tlogtest.Faults{})
		b, err := w.Submit(made(Response, s, a))
		if err != nil {
			t.Fatal(err)
		}
		return first, b.Wait(ctx)
	}
	if first, second := pair(NewID(time.Now())); first != nil || second != nil {
		t.Errorf("nothing lost: %v, %v", first, second)
	}
	size := log.Size()
	log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrBusy)})
	if first, second := pair(NewID(time.Now())); !errors.Is(first, tlog.ErrBusy) || !errors.Is(second, tlog.ErrBusy) {
		t.Errorf("the first lost: %v, %v", first, second)
	}
	if log.Size() != size {
		t.Errorf("%d entries of a session whose request was lost", log.Size()-size)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What would be stamped too late is not written, takes no number, and holds nobody up.
func TestWriterLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := tlogtest.NewLog(t)
		w, err := NewWriter(WriterConfig{ID: "gw-1", Log: log, Software: "test/1", Mode: "strict", Heartbeat: -1})
		if err != nil {
			t.Fatal(err)
		}
		draft := func(before time.Duration) Draft {
			e := Entry{Kind: Access, Root: tlog.HashLeaf([]byte("root")), Fields: 1, Payload: Sum([]byte("p")), PayloadSize: 1}
			return Draft{Entry: e, Payload: []byte("p"), Before: time.Now().Add(before)}
		}
		var tickets []*Ticket
		for _, before := range []time.Duration{time.Minute, time.Second, time.Second + time.Microsecond, time.Hour} {
			k, err := w.Submit(draft(before))
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, k)
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for i, late := range []bool{false, true, false, false} {
			if err := tickets[i].Wait(ctx); errors.Is(err, ErrLate) != late || !late && err != nil {
				t.Errorf("draft %d: %v", i, err)
			}
		}
		if log.Size() != 4 {
			t.Errorf("%d entries", log.Size())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
