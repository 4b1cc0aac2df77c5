package search

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// What is counted is what one counts who looks at every session: of any time, while sessions are open and after they ended, and not of
// what was erased. What cannot be counted in time is the oldest, and it is said from when on all were.
func TestCount(t *testing.T) {
	r := rand.New(rand.NewPCG(3, uint64(time.Now().UnixNano())))
	base := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	w := newWorld(t, true)
	var open []*call
	for i := range 400 {
		c := someCall(r, base.Add(time.Duration(i)*time.Second+time.Duration(r.IntN(5000))*time.Millisecond))
		if c.begin(t, w.testLog); c.outcome != "" && r.IntN(20) == 0 {
			open = append(open, c)
			continue
		}
		c.end(t, w.testLog)
	}
	check := func() {
		t.Helper()
		w.caughtUp(t)
		p, err := w.ix.Find(t.Context(), nil, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			from := base.Add(time.Duration(r.IntN(450)-20) * time.Second)
			to, spans := from.Add(time.Duration(1+r.IntN(300))*time.Second), 1+r.IntN(20)
			want := audit.NewStats(from, to, spans)
			for i := range p.Hits {
				want.Add(&p.Hits[i])
			}
			want.Sum()
			got, err := w.ix.Count(t.Context(), from, to, spans)
			if err != nil || !reflect.DeepEqual(got.Spans, want.Spans) || !reflect.DeepEqual(got.All, want.All) || !got.Since.IsZero() || got.Indexed != p.Indexed {
				t.Fatalf("from %v to %v in %d: %v\n%+v\nwant\n%+v", from, to, spans, err, got, want)
			}
		}
	}
	check()
	for _, c := range open[:len(open)/2] {
		c.at = base.Add(time.Hour) // that it ended
		c.took = 0
		c.end(t, w.testLog)
	}
	check()
	p, err := w.ix.Find(t.Context(), nil, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	w.erase(p.Hits[0].Session)
	w.add(t, record.Entry{Kind: record.Erasure, Session: p.Hits[0].Session, Time: base.Add(2 * time.Hour), Reason: "request"}, nil)
	check()
	got, err := w.ix.s.count(t.Context(), base.Add(-time.Hour), base.Add(time.Hour), 1, 0)
	if err != nil || got.Since.IsZero() {
		t.Errorf("in no time: since %v, %v", got.Since, err)
	}
}
