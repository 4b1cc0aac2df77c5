package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// MaxSpans is in how many spans one call counts at most.
const MaxSpans = 500

// Stats are numbers over the sessions that began in a time, by spans of equal length. They are no reading of anybody's record, and
// nothing in them names anybody.
type Stats struct {
	From  time.Time     `json:"from"`
	To    time.Time     `json:"to"` // not included
	Span  time.Duration `json:"span"`
	Spans []Count       `json:"spans"` // in order
	All   Count         `json:"all"`
	// Since is from when on all were counted, where those before it were too many to count; zero where all were.
	Since   time.Time `json:"since,omitzero"`
	Indexed uint64    `json:"indexed"` // entries of the log that were counted; newer ones are not yet
	Size    uint64    `json:"size"`    // of the log

	durations, firsts [][]time.Duration // by span
}

// A Count is what there was in one span.
type Count struct {
	From      time.Time      `json:"from"`
	Sessions  int            `json:"sessions"`           // that began in it, however they ended
	Outcomes  map[string]int `json:"outcomes,omitempty"` // by Hit.Outcome
	Refusals  map[string]int `json:"refusals,omitempty"` // by Hit.Refusal
	In        int64          `json:"tokens_in"`          // of those that say
	Out       int64          `json:"tokens_out"`
	Duration  Quantiles      `json:"duration"`   // of those that ended and were not refused
	FirstByte Quantiles      `json:"first_byte"` // of those of which it is known
}

// Quantiles say how long N took: half of them no longer than P50.
type Quantiles struct {
	N                  int
	P50, P90, P99, Max time.Duration
}

// A Counter is an [Index] that counts.
type Counter interface {
	// Count counts the sessions that began from one time on and before another, in that many spans: with [NewStats], [Stats.Add] and
	// [Stats.Sum], or to the same effect. It sets Indexed.
	Count(ctx context.Context, from, to time.Time, spans int) (*Stats, error)
}

// Stats counts sessions, in 1 to MaxSpans spans. Nothing of it goes on record: it says nothing of any one of them.
func (d *Desk) Stats(ctx context.Context, from, to time.Time, spans int) (*Stats, error) {
	if d.index == nil {
		return nil, ErrNoIndex
	}
	c, ok := d.index.(Counter)
	if !ok {
		return nil, fmt.Errorf("%w: the one there is does not count", ErrNoIndex)
	}
	if spans < 1 || spans > MaxSpans || !from.Before(to) {
		return nil, fmt.Errorf("%w: count from a time to a later one, in 1 to %d spans", errRequest, MaxSpans)
	}
	s, err := c.Count(ctx, from, to, spans)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	if s.Size, err = d.size(ctx); errors.Is(err, tlog.ErrNotFound) {
		err = nil // nothing is published yet
	}
	return s, err
}

// NewStats returns numbers over nothing yet. Spans are whole milliseconds: the last may end after to.
func NewStats(from, to time.Time, spans int) *Stats {
	span := max((to.Sub(from)/time.Duration(spans) + time.Millisecond - 1).Truncate(time.Millisecond), time.Millisecond)
	s := &Stats{From: from.UTC(), To: to.UTC(), Span: span, Spans: make([]Count, spans),
		durations: make([][]time.Duration, spans), firsts: make([][]time.Duration, spans)}
	for i := range s.Spans {
		s.Spans[i].From = s.From.Add(time.Duration(i) * span)
	}
	s.All.From = s.From
	return s
}

// Add counts a session, of which Began, Ended, Outcome, Refusal, In, Out, Duration and FirstByte are looked at. One that began at
// another time is not counted.
func (s *Stats) Add(h *Hit) {
	if h.Began.Before(s.From) || !h.Began.Before(s.To) {
		return
	}
	i := min(int(h.Began.Sub(s.From)/s.Span), len(s.Spans)-1)
	for _, c := range [...]*Count{&s.Spans[i], &s.All} {
		c.Sessions++
		c.Outcomes = inc(c.Outcomes, h.Outcome)
		if h.Refusal != "" {
			c.Refusals = inc(c.Refusals, h.Refusal)
		}
		c.In += max(h.In, 0)
		c.Out += max(h.Out, 0)
	}
	if !h.Ended.IsZero() && h.Outcome != "refused" {
		s.durations[i] = append(s.durations[i], h.Duration)
	}
	if h.FirstByte > 0 {
		s.firsts[i] = append(s.firsts[i], h.FirstByte)
	}
}

func inc(m map[string]int, k string) map[string]int {
	if m == nil {
		m = make(map[string]int)
	}
	m[k]++
	return m
}

// Sum says how long things took, once everything is added.
func (s *Stats) Sum() {
	for i := range s.Spans {
		s.Spans[i].Duration, s.Spans[i].FirstByte = quantiles(s.durations[i]), quantiles(s.firsts[i])
	}
	s.All.Duration, s.All.FirstByte = quantiles(slices.Concat(s.durations...)), quantiles(slices.Concat(s.firsts...))
}

// quantiles sorts what it is given.
func quantiles(all []time.Duration) (q Quantiles) {
	if q.N = len(all); q.N == 0 {
		return q
	}
	slices.Sort(all)
	// The smallest that at least that many in a hundred are not above.
	at := func(percent int) time.Duration { return all[(q.N*percent+99)/100-1] }
	q.P50, q.P90, q.P99, q.Max = at(50), at(90), at(99), all[q.N-1]
	return q
}
