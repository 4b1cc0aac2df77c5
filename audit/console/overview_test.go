package console

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// Sessions are counted over the shortest time that has all of the last day, or over what somebody chose; and not again until ten
// times as long has gone as it took, however many look.
func TestOverviewCounts(t *testing.T) {
	w := newWorld(t)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	w.console.now = func() time.Time { return now }
	counts, took := 0, time.Second
	w.index.count = func() { counts++; now = now.Add(took) }
	at := func(age time.Duration) audit.Hit {
		return audit.Hit{Began: now.Add(-age), Ended: now.Add(-age), Outcome: "complete", In: -1, Out: -1}
	}
	current := func(query string) string {
		t.Helper()
		page := visitor{w, "ann", audit.Approver, ""}.get("/" + query).Body.String()
		_, page, _ = strings.Cut(page, `" aria-current="true">`)
		word, _, _ := strings.Cut(page, "<")
		return word
	}
	for _, c := range []struct {
		ages []time.Duration
		want string
	}{{nil, "24h"}, {[]time.Duration{time.Minute}, "10m"}, {[]time.Duration{time.Minute, 40 * time.Minute}, "1h"}, {[]time.Duration{time.Minute, 5 * time.Hour}, "24h"}, {[]time.Duration{40 * 24 * time.Hour}, "24h"}} {
		w.index.hits = nil
		for _, age := range c.ages {
			w.index.hits = append(w.index.hits, at(age))
		}
		now = now.Add(time.Minute) // what was counted is out of date
		for i := range w.index.hits {
			w.index.hits[i].Began = w.index.hits[i].Began.Add(time.Minute)
		}
		if got := current(""); got != c.want {
			t.Errorf("sessions %v ago: %s", c.ages, got)
		}
	}
	if got := current("?range=30d"); got != "30d" {
		t.Errorf("chosen: %s", got)
	}
	if got := current("?range=7y"); got != "24h" {
		t.Errorf("a range that there is not: %s", got)
	}
	now = now.Add(time.Hour)
	counts = 0
	for range 5 {
		current("?range=7d")
	}
	if counts != 1 {
		t.Errorf("counted %d times", counts)
	}
	now = now.Add(10*took + time.Millisecond)
	if current("?range=7d"); counts != 2 {
		t.Errorf("counted %d times, when it was out of date", counts)
	}
}

// Charts are drawn within their frame, and every number in them stands in a table too.
func TestCharts(t *testing.T) {
	starts := make([]time.Time, 48)
	for i := range starts {
		starts[i] = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 30 * time.Minute)
	}
	a, b := make([]float64, 48), make([]float64, 48)
	a[3], b[3], a[47] = 7, 5, 1
	c := bars("x", "X", starts, 30*time.Minute, plainNumber, series{"a", "c1", a}, series{"b", "c3", b})
	if len(c.Rects) != 3 || len(c.Rows) != 2 || !slices.Equal(c.Rows[0].Cells, []string{"7", "5"}) || !strings.Contains(c.Says, "8 a, 5 b; most, 12, in the 30 minutes from 2026-11-25 01:30 UTC") {
		t.Errorf("%+v\n%s", c.Rects, c.Says)
	}
	if c := bars("x", "X", starts, time.Minute, plainNumber, series{"a", "c1", make([]float64, 48)}); c.Says != "Nothing in this time." || len(c.Rects) > 0 {
		t.Errorf("of nothing: %+v", c)
	}
	for i := range b {
		b[i] = -1
	}
	b[10], b[11], b[20] = 0.5, 2, 1
	l := lines("y", "Y", starts, time.Hour, secondsText, series{"b", "c1", b})
	if len(l.Lines) != 1 || len(l.Rects) != 3 || l.Lines[0].Points == "" || !strings.HasPrefix(l.Says, "At most 2.00 s (b), in the hour from") {
		t.Errorf("%+v\n%s", l, l.Says)
	}
	for f, want := range map[float64]float64{0: 3, 1: 3, 3: 3, 4: 4.5, 10: 12, 12: 12, 13: 15, 100: 120, 0.4: 0.45, 95: 120, 1e6: 1.2e6} {
		if got := above(f); got < f || got/want > 1.0001 || got/want < 0.9999 {
			t.Errorf("above %v is %v, want %v", f, got, want)
		}
	}
}

// Numbers, sizes and times are written for people.
func TestWritten(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(1234567): "1\u202f234\u202f567", count(int64(-1)): "–", count(uint64(999)): "999", count(0.25): "0.25", count(1e6): "1\u202f000\u202f000",
		size(-1): "–", size(999): "999 B", size(1000): "1.00 kB", size(65536): "65.5 kB", size(28463865856): "28.5 GB",
		short(-1): "–", short(0): "0", short(28 * time.Microsecond): "28.0 µs", short(1400 * time.Millisecond): "1.40 s", short(5 * time.Minute): "5 min", short(50 * time.Hour): "2 days",
		offset(-1): "–", offset(1279300 * time.Microsecond): "1279.300", measure(Number{"", 12, ""}): "12", measure(Number{"", 3, "checkpoints"}): "3 checkpoints", measure(Number{"", 2.5, "seconds"}): "2.50 s",
		who("alice", ""): "alice", who("alice", "a@b.example"): "alice <a@b.example>", who("a@b.example", "a@b.example"): "a@b.example",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for outcome, want := range map[string]string{"complete": "good", "open": "calm", "": "calm", "waiting": "calm", "refused": "warn", "truncated": "warn", "denied": "warn", "upstream_error": "bad", "interrupted": "bad"} {
		if got := tone(outcome); got != want {
			t.Errorf("%s is %s, want %s", outcome, got, want)
		}
	}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{0: "just now", 30 * time.Second: "30 s ago", 5 * time.Minute: "5 min ago", 5 * time.Hour: "5 hours ago", 72 * time.Hour: "3 days ago", -10 * time.Minute: "in 10 min"} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// The stretches of a call's time lie side by side, and what waited for people is no time of the gateway's.
func TestPhases(t *testing.T) {
	at := func(ms int) time.Time {
		return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	}
	p := &sessionPage{Phases: phases(&transcript.Transcript{
		Times:    transcript.Times{Received: at(0), Sent: at(1000), First: at(1500), Ended: at(2000)},
		Approval: &transcript.Approval{Asked: at(100), Words: []transcript.Word{{Time: at(300)}, {Time: at(900)}}},
	})}
	var got []string
	for _, one := range p.Phases {
		got = append(got, one.Class+" "+one.X+" "+one.W)
	}
	if want := []string{"c5 0 50", "c3 50 400", "c5 450 50", "c4 500 250", "c1 750 250"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if l := p.Legend(); len(l) != 4 || l[0].Took != 200*time.Millisecond || l[1].Took != 800*time.Millisecond {
		t.Errorf("%+v", l)
	}
	if got := phases(&transcript.Transcript{}); len(got) > 0 {
		t.Errorf("of nothing: %+v", got)
	}
	if got := phases(&transcript.Transcript{Times: transcript.Times{Received: at(0), Ended: at(10)}}); len(got) != 1 || got[0].Took != 10*time.Millisecond {
		t.Errorf("of the ends alone: %+v", got)
	}
}

// An entry that does not name the one before it is said to be out of place.
func TestChain(t *testing.T) {
	id := record.NewID(time.Now())
	entry := func(e record.Entry) verify.Entry {
		t.Helper()
		e.By, e.Boot, e.Seq, e.Session, e.Time = "gw", record.ID{1}, 1, id, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
		e.Root, e.Fields, e.Payload, e.PayloadSize = tlog.Hash{1}, 1, tlog.Hash{2}, 1
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return verify.Entry{Bytes: b}
	}
	first := entry(record.Entry{Kind: record.Request})
	linked := func(all ...verify.Entry) (got []string) {
		for _, l := range readSession(verify.Session{ID: id, Entries: all}, 0).Chain {
			got = append(got, l.Linked)
		}
		return got
	}
	good := entry(record.Entry{Kind: record.Response, Outcome: record.Complete, Prev: tlog.HashLeaf(first.Bytes)})
	bad := entry(record.Entry{Kind: record.Response, Outcome: record.Complete, Prev: tlog.Hash{7}})
	gone := entry(record.Entry{Kind: record.Erasure, Reason: "request"})
	if got, want := linked(first, good, gone), []string{"first", "follows", ""}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := linked(first, bad), []string{"first", "broken"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Numbers that are missing in a writer's life are counted, those that it announced as lost are not, and only what was asked for is read.
func TestLeafThrough(t *testing.T) {
	w := newWorld(t)
	append1 := func(e record.Entry) {
		t.Helper()
		e.By, e.Time = "other", time.Date(2026, 11, 25, 12, 0, 0, int(e.Seq)*1000, time.UTC)
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.log.Append(t.Context(), tlog.Leaf{Entry: b}); err != nil {
			t.Fatal(err)
		}
	}
	silent, honest := record.ID{1}, record.ID{2}
	append1(record.Entry{Kind: record.Start, Boot: silent, Software: "x/1", Mode: "strict"})
	append1(record.Entry{Kind: record.Heartbeat, Boot: silent, Seq: 1, Beat: true})
	append1(record.Entry{Kind: record.Heartbeat, Boot: silent, Seq: 4, Beat: true})
	append1(record.Entry{Kind: record.Start, Boot: honest, Software: "x/1", Mode: "strict"})
	append1(record.Entry{Kind: record.Gap, Boot: honest, Seq: 3, From: 1, To: 2, Since: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Reason: "log_busy"})
	size := w.publish()
	var page bookPage
	page.Head = &head{Size: size}
	if err := w.console.leafThrough(t.Context(), &page); err != nil {
		t.Fatal(err)
	}
	missing := make(map[record.ID]uint64)
	for _, b := range page.Boots {
		missing[b.ID] = b.Missing
	}
	if missing[silent] != 2 || missing[honest] != 0 || len(page.Gaps) != 1 || page.Gaps[0].From != 1 || page.Gaps[0].To != 2 {
		t.Errorf("missing: %v, gaps %+v", missing, page.Gaps)
	}
	rec := visitor{w, "ann", audit.Viewer, ""}.get("/log")
	if body := rec.Body.String(); !strings.Contains(body, "2 missing") || !strings.Contains(body, "log_busy") {
		t.Errorf("the page: %d %s", rec.Code, body)
	}
	var read []uint64
	if err := w.console.entries(t.Context(), size, 1, 3, func(index uint64, _ record.Entry) { read = append(read, index) }); err != nil || !slices.Equal(read, []uint64{1, 2}) {
		t.Errorf("of 1 to 3: %v, %v", read, err)
	}
}
