package audit

import (
	"testing"
	"time"
)

// Numbers are counted by when a session began, to the edges of a time, and say how long most took.
func TestStats(t *testing.T) {
	from := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	s := NewStats(from, from.Add(time.Hour), 6)
	hit := func(at time.Duration, outcome, refusal string, in int64, took time.Duration) {
		h := Hit{Began: from.Add(at), Outcome: outcome, Refusal: refusal, In: in, Out: 2 * in, Duration: took}
		if outcome != "open" {
			h.Ended = h.Began.Add(took)
		}
		if refusal == "" {
			h.FirstByte = took / 2
		}
		s.Add(&h)
	}
	hit(-time.Nanosecond, "complete", "", 1, time.Second) // before
	hit(time.Hour, "complete", "", 1, time.Second)        // after
	for i := range 100 {
		hit(0, "complete", "", 3, time.Duration(i+1)*time.Second)
	}
	hit(10*time.Minute-time.Nanosecond, "refused", "policy", -1, 0)
	hit(time.Hour-time.Nanosecond, "open", "", -1, 0)
	s.Sum()
	first, last := s.Spans[0], s.Spans[5]
	if first.Sessions != 101 || first.Outcomes["complete"] != 100 || first.Refusals["policy"] != 1 || first.In != 300 || first.Out != 600 {
		t.Errorf("the first span: %+v", first)
	}
	if q := first.Duration; q != (Quantiles{100, 50 * time.Second, 90 * time.Second, 99 * time.Second, 100 * time.Second}) {
		t.Errorf("how long they took: %+v", q)
	}
	if q := first.FirstByte; q.N != 100 || q.P50 != 25*time.Second {
		t.Errorf("until the first byte: %+v", q)
	}
	if last.Sessions != 1 || last.Outcomes["open"] != 1 || last.Duration.N != 0 || !last.From.Equal(from.Add(50*time.Minute)) {
		t.Errorf("the last span: %+v", last)
	}
	if s.All.Sessions != 102 || s.All.Duration != first.Duration || s.Spans[1].Sessions != 0 || s.Spans[1].Duration != (Quantiles{}) {
		t.Errorf("all: %+v, and an empty one %+v", s.All, s.Spans[1])
	}
	if one := quantiles([]time.Duration{7}); one != (Quantiles{1, 7, 7, 7, 7}) {
		t.Errorf("of one: %+v", one)
	}
}
