package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// What cannot be read is an error, whatever was found until then, and never a verdict.
func TestLogUnreadable(t *testing.T) {
	boom := errors.New("boom")
	c := newChronicle(t)
	season(c)
	l := c.publish()
	for name, f := range map[string]func(s *served) tlog.Reader{
		"no tile of entries": func(s *served) tlog.Reader {
			s.tile = func(tile tlog.Tile, data []byte) ([]byte, error) {
				if tile.Level == tlog.EntriesLevel && tile.Index == 2 {
					return nil, tlog.ErrNotFound
				}
				return data, nil
			}
			return s
		},
		"no tile of hashes": func(s *served) tlog.Reader {
			s.tile = func(tile tlog.Tile, data []byte) ([]byte, error) {
				if tile.Level == 1 {
					return nil, boom
				}
				return data, nil
			}
			return s
		},
		"a tile cut short": func(s *served) tlog.Reader {
			s.tile = func(tile tlog.Tile, data []byte) ([]byte, error) { return data[:len(data)-1], nil }
			return s
		},
		"a kept checkpoint that is not there": func(s *served) tlog.Reader {
			s.checkpointAt = func(uint64, []byte) ([]byte, error) { return nil, tlog.ErrNotFound }
			return s
		},
		"no list of kept checkpoints": func(s *served) tlog.Reader {
			s.sizes = func(uint64, []uint64) ([]uint64, error) { return nil, boom }
			return s
		},
		"a list that does not rise": func(s *served) tlog.Reader {
			s.sizes = func(uint64, []uint64) ([]uint64, error) { return []uint64{12, 12}, nil }
			return s
		},
		"an unpublished log": func(*served) tlog.Reader { return tlogtest.NewLog(t) },
		"a size that nobody has": func(s *served) tlog.Reader {
			s.checkpoint = func([]byte) []byte {
				signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: 1 << 62, Root: tlog.Hash{1}}, logSigner(tlogtest.Origin))
				if err != nil {
					t.Error(err)
				}
				return signed
			}
			return s
		},
	} {
		r, err := CheckLog(t.Context(), f(&served{Log: l}), policy(t, ""), nil)
		var unreadable *Unreadable
		if !errors.As(err, &unreadable) || !has(r, LogReadable) || r.OK() {
			t.Errorf("%s: %v, false: %v", name, err, falseClaims(r))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CheckLog(ctx, l, policy(t, ""), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// A log without a history is none that cannot be read.
	s := &served{Log: l, sizes: func(uint64, []uint64) ([]uint64, error) { return nil, tlog.ErrNotFound }}
	for name, r := range map[string]tlog.Reader{"none by nature": plain{l}, "none kept": s} {
		rep := check(t, r, policy(t, ""))
		if !rep.OK() {
			t.Errorf("%s: %v", name, falseClaims(rep))
		}
		wantNotProven(t, rep, "earlier checkpoints agree")
	}
}

// What a thousand faults of one kind make is a list that a person can read.
func TestLogListsFew(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	for range 500 {
		w.seq++
		w.request()
		w.response(c.id(), record.Complete)
		w.gap(1)
	}
	r := check(t, c.publish(), policy(t, ""))
	if len(r.Findings) > 100 || len(r.NotProven) > 100 {
		t.Errorf("%d findings, %d not proven", len(r.Findings), len(r.NotProven))
	}
	wantDetail(t, r, NumbersWhole, "and 480 times more")
	wantNotProven(t, r, "480 further open sessions")
}

// The real pen, with calls side by side, losses, calls that were shed, and deaths in the middle.
func TestLogOfRealWriters(t *testing.T) {
	ctx := t.Context()
	l := tlogtest.NewLog(t)
	for boot := range 4 {
		w, err := record.NewWriter(record.WriterConfig{ID: "gw-1", Log: l, Reader: l, Software: "tally/1", Mode: "open", Heartbeat: 3 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		run, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- w.Run(run) }()
		left, err := w.Unfinished(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range left {
			writeResponse(ctx, t, w, u.Session, record.Interrupted, u.Leaf, nil)
		}
		var open []*record.Ticket
		for i := range 200 {
			id := record.NewID(time.Now())
			e := about(record.Request, id, requestRecord(id))
			sealed := []byte(fmt.Sprintf("sealed %s %s", record.Request, id))
			ticket, err := w.Submit(record.Draft{Entry: e, Payload: sealed})
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, ticket)
			switch {
			case i%10 == 3:
				continue // stays open
			case i%50 == 20:
				w.Lose(3, "busy")
				writeResponse(ctx, t, w, record.NewID(time.Now()), record.Complete, tlog.Hash{}, nil)
			case i%50 == 30:
				w.Shed(2)
			}
			writeResponse(ctx, t, w, id, record.Complete, tlog.Hash{}, ticket)
		}
		for _, ticket := range open {
			if err := ticket.Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if boot%2 == 0 {
			// It dies: nobody knows what became of its last append.
			l.Inject(tlogtest.Faults{Append: tlogtest.Always(errors.New("the disk is gone"))})
			if err := <-done; !errors.Is(err, tlog.ErrHalted) {
				t.Fatal(err)
			}
			l.Inject(tlogtest.Faults{})
		} else {
			stop()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if _, err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		r := check(t, l, policy(t, ""))
		// Three milliseconds are kept by no machine that has other things to do.
		if wrong := slices.DeleteFunc(falseClaims(r), func(c Claim) bool { return c == HeartbeatsSteady }); len(wrong) > 0 {
			show(t, r)
			t.Fatalf("after boot %d: false: %v", boot, wrong)
		}
		wantDetail(t, r, SessionsFinished, "but for 20 that are still open")
		wantDetail(t, r, LossesDeclared, fmt.Sprintf("%d entries lost", 12*(boot+1)))
	}
}

func writeResponse(ctx context.Context, t *testing.T, w *record.Writer, id record.ID, o record.Outcome, prev tlog.Hash, after *record.Ticket) {
	t.Helper()
	e := about(record.Response, id, responseRecord(id))
	e.Outcome, e.Prev = o, prev
	sealed := []byte(fmt.Sprintf("sealed %s %s", record.Response, id))
	ticket, err := w.Submit(record.Draft{Entry: e, Payload: sealed, After: after})
	if err == nil && after == nil {
		err = ticket.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The log among the vectors of the entry format obeys every rule of the writer, and lacks nothing when any one of its
// entries is left out that would go unseen, but for the last of a boot that ended in a crash.
func TestLogOfVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/writers.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Root    tlog.Hash
		Entries []string
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	without := func(left int) Report {
		c := newChronicle(t)
		for i, e := range v.Entries {
			if i != left {
				c.entries = append(c.entries, []byte(e))
			}
		}
		return check(t, c.publish(), policy(t, ""))
	}
	r := without(-1)
	if !r.OK() {
		show(t, r)
		t.Fatalf("false: %v", falseClaims(r))
	}
	wantDetail(t, r, RootMatches, v.Root.String())
	// What may be missing is what came last in a boot that did not stop.
	last := make(map[record.ID]int)
	for i, raw := range v.Entries {
		e, err := record.ParseEntry([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		last[e.Boot] = i
	}
	unseen := 0
	for i, raw := range v.Entries {
		if r := without(i); r.OK() {
			unseen++
			if e, _ := record.ParseEntry([]byte(raw)); last[e.Boot] != i {
				t.Errorf("entry %d is left out and nothing is false: %s", i, raw)
			}
		}
	}
	t.Logf("%d of %d entries, each the last of its boot, can be left out before anything was published", unseen, len(v.Entries))
}

func BenchmarkCheckLog(b *testing.B) {
	const n = 100_000
	l := manyEntries(b, n)
	trust := policy(b, "")
	for b.Loop() {
		r, err := CheckLog(b.Context(), l, trust, nil)
		if err != nil || !r.OK() {
			b.Fatal(err, falseClaims(r))
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
