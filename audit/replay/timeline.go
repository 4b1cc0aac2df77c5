package replay

import (
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
)

// What says what a moment of a session is.
type What string

// What happens in a session, in the order in which it does.
const (
	Received What = "request" // it was there
	Asked    What = "asked"   // people were asked
	Said     What = "said"    // one of them said yes or no
	Expired  What = "expired" // nobody did, or nobody used the yes, in time
	Used     What = "used"    // a yes was used
	Sent     What = "sent"    // the request went to the model
	Begun    What = "begun"   // the answer began
	Came     What = "came"    // an event of it, or all of one that has none on record
	Ended    What = "ended"
)

// A Moment is one thing that happened.
type Moment struct {
	What What
	// At is when, after the request was there. It is never before that of the moment before it; what has no time on record has
	// that one's, and is not Known.
	At    time.Duration
	Known bool
	Event *transcript.Event // of Came; nil for a whole answer
	Word  *transcript.Word  // of Said
	// Silence is how long nothing had come, where that is a second or more and the answer had begun.
	Silence time.Duration
}

// stall is how long nothing comes where that is worth a mark.
const stall = time.Second

// Timeline returns what happened in a session, moment by moment. There is always one, and the first one is at 0.
func Timeline(t *transcript.Transcript) []Moment {
	l := &line{begin: t.Times.Received}
	if l.begin.IsZero() && len(t.Entries) > 0 {
		l.begin = t.Entries[0].Time
	}
	l.add(Moment{What: Received}, l.begin)
	if a := t.Approval; a != nil {
		if !a.Asked.IsZero() {
			l.add(Moment{What: Asked}, a.Asked)
		}
		for i := range a.Words {
			l.add(Moment{What: Said, Word: &a.Words[i]}, a.Words[i].Time)
		}
		if !a.Expired.IsZero() {
			l.add(Moment{What: Expired}, a.Expired)
		}
		if !a.Used.IsZero() {
			l.add(Moment{What: Used}, a.Used)
		}
	}
	if !t.Times.Sent.IsZero() {
		l.add(Moment{What: Sent}, t.Times.Sent)
	}
	if !t.Times.First.IsZero() {
		l.add(Moment{What: Begun}, t.Times.First)
	}
	for i := range t.Events {
		e := &t.Events[i]
		var at time.Time
		if e.At >= 0 && !t.Times.First.IsZero() {
			at = t.Times.First.Add(e.At)
		}
		l.add(Moment{What: Came, Event: e}, at)
	}
	end := t.Times.Ended
	if end.IsZero() && t.Refused != "" {
		end = l.begin
	}
	if len(t.Events) == 0 && len(t.Answer.Body) > 0 {
		l.add(Moment{What: Came}, end)
	}
	if !t.Open {
		l.add(Moment{What: Ended}, end)
	}
	return l.moments
}

// A line is a timeline while it is put together.
type line struct {
	begin   time.Time
	moments []Moment
}

func (l *line) add(m Moment, at time.Time) {
	was := Moment{}
	if n := len(l.moments); n > 0 {
		was = l.moments[n-1]
	}
	m.At = was.At
	if !at.IsZero() && !l.begin.IsZero() {
		m.Known, m.At = true, max(at.Sub(l.begin), was.At)
	}
	if gap := m.At - was.At; gap >= stall && (was.What == Begun || was.What == Came) {
		m.Silence = gap
	}
	l.moments = append(l.moments, m)
}

// Compress returns the moments with no silence longer than a limit. Where it is 0 they stay as they are.
func Compress(moments []Moment, limit time.Duration) []Moment {
	if limit <= 0 {
		return moments
	}
	var out []Moment
	var was, cut time.Duration
	for _, m := range moments {
		if gap := m.At - was; gap > limit {
			cut += gap - limit
		}
		was = m.At
		m.At -= cut
		out = append(out, m)
	}
	return out
}
