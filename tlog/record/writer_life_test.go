package record_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// ctx ends at every point of a life: Run returns without an error, nobody is left waiting, and there is a stop entry if
// and only if the writer knew what earlier boots had left open.
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
			return stationOn(t, l, nil), false, "start request"
		},
		"while a tile is read": func(t *testing.T) (*station, bool, string) {
			l := tlogtest.NewLog(t)
			s := stationOn(t, l, func(c *WriterConfig) { c.ID = "other" }).run(t)
			if _, err := s.Unfinished(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.end(t)
			return stationOn(t, l, func(c *WriterConfig) { c.Reader = slow{l} }), false, "start request"
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
				tickets := []*Ticket{submit(t, s.Writer, draft(Request, idOf("a"), nil))}
				done := goRun(s, ctx)
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
						if err := ticket.Wait(t.Context()); (err == nil) != strings.Contains(want, "request") && !errors.Is(err, tlog.ErrBusy) {
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
	if err := ticket.Wait(t.Context()); err != nil && !errors.Is(err, broken) {
		t.Errorf("a ticket: %v", err)
	}
	if _, err := s.Submit(draft(Request, idOf("c"), nil)); !errors.Is(err, broken) {
		t.Errorf("Submit after the end: %v", err)
	}
	if _, err := s.Unfinished(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Unfinished: %v", err)
	}
}

// A log that goes away while it is read for what was left open, and can be read a while later, ends nobody: the writer lives on
// meanwhile, and finds all of it then.
func TestWriterReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := tlogtest.NewLog(t)
		first := stationOn(t, l, nil)
		first.run(t)
		write(t, first.Writer, draft(Request, idOf("left open"), nil))
		first.gate.set(func(int) error { return errors.New("crash") })
		first.Submit(draft(Refused, idOf("lost"), nil))
		<-first.done
		away := errors.New("connection refused")
		var reads, outage atomic.Int64
		l.Inject(tlogtest.Faults{
			Tile: func(_ tlog.Tile, data []byte) ([]byte, error) {
				if reads.Add(1) == 1 {
					outage.Store(1000)
				}
				if outage.Load() > 0 {
					return nil, away
				}
				return data, nil
			},
			Checkpoint: func(signed []byte) ([]byte, error) {
				if outage.Load() > 0 && outage.Add(-1) > 0 {
					return nil, away
				}
				return signed, nil
			},
		})
		s := stationOn(t, l, nil).run(t)
		write(t, s.Writer, draft(Request, idOf("a"), nil))
		us, err := s.Unfinished(t.Context())
		if err != nil || len(us) != 1 || us[0].Session != idOf("left open") || reads.Load() < 2 {
			t.Errorf("unfinished: %+v, %v, after %d reads", us, err, reads.Load())
		}
		s.stop()
		if err := <-s.done; err != nil {
			t.Error(err)
		}
	})
}

// A log that takes entries and cannot publish, because its key or its anchor is out of reach, holds nobody up who starts
// then. Until it can there are no heartbeats, for those would forget what earlier boots left open; after that all is said.
func TestWriterStartsUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := tlogtest.Start(t, tlogtest.Config{Manual: true})
		first := stationOn(t, l, nil)
		first.run(t)
		write(t, first.Writer, draft(Request, idOf("left open"), nil))
		first.gate.set(func(int) error { return errors.New("crash") })
		first.Submit(draft(Refused, idOf("lost"), nil))
		<-first.done
		s := stationOn(t, l, func(c *WriterConfig) { c.Heartbeat = time.Minute }).run(t)
		a := write(t, s.Writer, draft(Request, idOf("a"), nil))
		write(t, s.Writer, draft(Request, idOf("b"), nil))
		time.Sleep(time.Hour)
		write(t, s.Writer, draft(Response, idOf("a"), a))
		if got := kindsOf(slices.Concat(s.gate.written()...)); got != "start request request response" {
			t.Errorf("while nothing is published: %q", got)
		}
		if _, err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		us, err := s.Unfinished(t.Context())
		if err != nil || len(us) != 1 || us[0].Session != idOf("left open") || us[0].Boot != first.Boot() {
			t.Errorf("unfinished: %+v, %v", us, err)
		}
		synctest.Wait()
		es := slices.Concat(s.gate.written()...)
		if beat := es[len(es)-1]; beat.Kind != Heartbeat || beat.Open != 2 || beat.Floor != us[0].Index {
			t.Errorf("the first heartbeat: %+v", beat)
		}
		s.stop()
		if err := <-s.done; err != nil {
			t.Error(err)
		}
	})
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
