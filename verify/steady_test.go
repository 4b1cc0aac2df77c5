package verify

import (
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// after lets time pass until just before the next entry, which is then stamped that long after the one before.
func (c *chronicle) after(d time.Duration) { c.now = c.now.Add(d - 250*time.Millisecond) }

// A boot keeps the beat that it states, or else is silent, and whoever reads the log is told.
func TestLogSteady(t *testing.T) {
	const beat, most, over = 10 * time.Second, 30 * time.Second, 30*time.Second + 250*time.Millisecond
	for _, c := range []struct {
		name      string
		silent    bool
		says      string
		notProven string
		story     func(c *chronicle, w *writer)
	}{
		{name: "as it should be", story: func(c *chronicle, w *writer) {
			for range 5 {
				c.after(beat)
				w.heartbeat()
			}
			c.after(beat)
			w.stop()
		}},
		{name: "as late as it may be", story: func(c *chronicle, w *writer) {
			for range 3 {
				c.after(most)
				w.heartbeat()
			}
			c.after(most)
			w.stop()
		}},
		{name: "the first is late", silent: true, says: "silent for 30.25s", story: func(c *chronicle, w *writer) {
			c.after(over)
			w.heartbeat()
		}},
		{name: "one is late, among much traffic", silent: true, story: func(c *chronicle, w *writer) {
			w.heartbeat()
			for range 4 {
				c.after(8 * time.Second)
				w.response(w.request(), record.Complete)
			}
			w.heartbeat()
		}},
		{name: "the stop is late", silent: true, story: func(c *chronicle, w *writer) {
			w.heartbeat()
			c.after(over)
			w.stop()
		}},
		{name: "it crashed long after its last heartbeat", silent: true, story: func(c *chronicle, w *writer) {
			w.heartbeat()
			c.after(over)
			w.refused()
			w.start()
			w.heartbeat()
		}},
		{name: "it writes on and does not beat", silent: true, notProven: "whether gw-1 still lives", story: func(c *chronicle, w *writer) {
			w.heartbeat()
			c.after(over)
			w.refused()
		}},
		{name: "it crashed, and came back next day", notProven: "whose next boot began at 2026-11-03", story: func(c *chronicle, w *writer) {
			w.heartbeat()
			c.after(24 * time.Hour)
			w.start()
			w.heartbeat()
		}},
		{name: "it stopped, and came back next day", story: func(c *chronicle, w *writer) {
			w.heartbeat()
			w.stop()
			c.after(24 * time.Hour)
			w.start()
			w.heartbeat()
		}},
		{name: "a declared loss is no heartbeat", silent: true, story: func(c *chronicle, w *writer) {
			w.heartbeat()
			c.after(over)
			w.gap(3)
			w.heartbeat()
		}},
		{name: "the other writer's heartbeats are its own", silent: true, says: "gw-1 beats every 10s", story: func(c *chronicle, w *writer) {
			x := c.writer("gw-2")
			x.every = beat
			x.start()
			for range 4 {
				c.after(beat)
				x.heartbeat()
			}
			w.heartbeat()
		}},
		{name: "another boot with another beat", story: func(c *chronicle, w *writer) {
			w.stop()
			w.every = time.Hour
			w.start()
			c.after(3 * time.Hour)
			w.heartbeat()
		}},
		{name: "a boot that states none may be silent", notProven: "whether 1 boot fell silent", story: func(c *chronicle, w *writer) {
			w.stop()
			w.every = 0
			w.start()
			c.after(3 * time.Hour)
			w.heartbeat()
		}},
		{name: "silent twice", silent: true, says: "silent for 1h0m0s", story: func(c *chronicle, w *writer) {
			c.after(time.Minute)
			w.heartbeat()
			c.after(time.Hour)
			w.heartbeat()
		}},
		{name: "a clock that was set back", story: func(c *chronicle, w *writer) {
			// As the pen does it: the time stands still until the clock is there again.
			now := c.now
			for range 8 {
				w.edit(func(e *record.Entry) { e.Time = now }).heartbeat()
			}
			c.now = now
			c.after(beat)
			w.heartbeat()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := newChronicle(t)
			w := ch.writer("gw-1")
			w.every = beat
			w.start()
			c.story(ch, w)
			r := check(t, ch.publish(), policy(t, ""))
			var want []Claim
			if c.silent {
				want = []Claim{HeartbeatsSteady}
			}
			if got := falseClaims(r); !slices.Equal(got, want) {
				show(t, r)
				t.Errorf("false: %v, want %v", got, want)
			}
			wantDetail(t, r, HeartbeatsSteady, c.says)
			wantNotProven(t, r, c.notProven)
		})
	}
	// Where no boot states a beat, nothing is claimed.
	ch := newChronicle(t)
	ch.writer("gw-1").start()
	r := check(t, ch.publish(), policy(t, ""))
	for _, f := range r.Findings {
		if f.Claim == HeartbeatsSteady {
			t.Errorf("claimed of nobody: %+v", f)
		}
	}
	wantNotProven(t, r, "whether 1 boot fell silent")
}

// A boot that is silent while witnesses watch is told by one claim or another, whatever it writes afterwards: with the
// true times it was silent; with times that fill the silence it has back-dated; and if it never writes again, that is told.
func TestLogSilentBeforeWitnesses(t *testing.T) {
	const beat = 10 * time.Second
	for _, c := range []struct {
		name  string
		claim Claim
		then  func(c *chronicle, w *writer, from time.Time)
	}{
		{"it tells the truth", HeartbeatsSteady, func(c *chronicle, w *writer, _ time.Time) { w.heartbeat() }},
		{"it fills up what it left out", TimesBracketed, func(c *chronicle, w *writer, from time.Time) {
			to := c.now
			for at := from.Add(beat); at.Before(to); at = at.Add(beat) {
				w.edit(func(e *record.Entry) { e.Time = at }).heartbeat()
			}
			c.now = to
			w.heartbeat()
		}},
		{"it lives in the past from now on", TimesBracketed, func(c *chronicle, w *writer, from time.Time) {
			w.edit(func(e *record.Entry) { e.Time = from.Add(beat) }).heartbeat()
		}},
		{"it is gone", "", func(c *chronicle, w *writer, _ time.Time) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := newChronicle(t)
			w, x := ch.writer("gw-1"), ch.writer("gw-2")
			w.every, x.every = beat, beat
			w.start()
			x.start()
			w.heartbeat()
			from := ch.now
			seen := make(map[uint64]time.Time)
			mark := func() {
				ch.mark()
				seen[uint64(len(ch.entries))] = ch.now
			}
			for range 360 {
				ch.after(beat)
				x.heartbeat()
				mark()
			}
			c.then(ch, w, from)
			x.heartbeat()
			mark()
			at := newCosigner(t, "witness.example/a", began)
			l := &served{Log: ch.publish()}
			sign := func(size uint64, signed []byte) []byte {
				at.at = seen[size]
				return cosign(t, signed, at)
			}
			l.checkpoint = func(signed []byte) []byte { return sign(uint64(len(ch.entries)), signed) }
			l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) { return sign(size, signed), nil }
			r := check(t, l, policy(t, "all", at))
			var want []Claim
			if c.claim != "" {
				want = []Claim{c.claim}
			} else {
				wantNotProven(t, r, "whether gw-1 still lives", "it ended without a stop entry, or has been silent since")
			}
			if got := falseClaims(r); !slices.Equal(got, want) {
				show(t, r)
				t.Errorf("false: %v, want %v", got, want)
			}
		})
	}
}
