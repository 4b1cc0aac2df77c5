package verify

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// books are those that the writers of a log keep, kept again from what they wrote: the numbers of each boot, which
// sessions are open, and how steadily each boot beats. They hold what is open and one line for each boot; what has ended is
// forgotten.
type books struct {
	pens   map[string]*pen
	owners map[record.ID]string // of all boots
	begun  []record.ID          // the same boots, in the order in which they began
	open   map[record.ID]*session
	yeses  yeses
	tally

	// Of this reading.
	wrong   wrongs
	crashed listed[string]  // boots that ended without a stop
	gaps    listed[Finding] // told, and not false
}

// A tally is what the books count.
type tally struct {
	Boots    int    `json:"boots"`
	Paced    int    `json:"paced"` // boots that say how often they beat
	Sessions int    `json:"sessions"`
	Refused  int    `json:"refused"`
	Beats    int    `json:"beats"` // heartbeats and stops
	Gaps     int    `json:"gaps"`
	Lost     uint64 `json:"lost"`              // entries, by declaration
	Shed     uint64 `json:"shed"`              // calls
	Approved int    `json:"approved,omitzero"` // sessions that used a yes
	Judged   int    `json:"judged,omitzero"`   // requests and refusals that name a policy
}

// A listed is a list of which only the first are kept and the others counted.
type listed[T any] struct {
	first []T
	more  int
}

func (l *listed[T]) add(x T) {
	if len(l.first) == maxListed {
		l.more++
		return
	}
	l.first = append(l.first, x)
}

// A pen is one writer.
type pen struct {
	boot    record.ID
	next    uint64    // number of the boot
	last    time.Time // of the boot
	stopped bool      // the boot has its stop entry

	// Of the boot: numbers declared lost, and entries that refer to nothing because what they would refer to was lost.
	lost, orphans uint64

	// Of the boot: how often it beats, by its start, or 0; and the time of its newest heartbeat, or of its start.
	every time.Duration
	beat  time.Time

	policies []uint64 // of the boot: the numbers of its policy entries

	open  int        // of its sessions
	order []*session // by index, those that have ended not all dropped yet
}

type session struct {
	id    record.ID
	by    string
	index uint64    // of the request
	leaf  tlog.Hash // of its newest entry
	ended bool

	asks bool      // people must say yes
	used bool      // it used a yes that counts
	void bool      // it used one that does not
	ask  *question // what people were asked; nil where nothing was
}

// entry goes on with the books.
func (b *books) entry(st *statement) {
	p := b.number(st)
	e := &st.record
	switch e.Kind {
	case record.Gap:
		n := e.To - e.From + 1
		p.lost = plus(p.lost, n)
		b.Lost = plus(b.Lost, n)
		b.Gaps++
		b.gaps.add(Finding{Claim: LossesDeclared, Subject: subjectEntry(st.index), OK: true,
			Detail: fmt.Sprintf("%s lost its numbers %d to %d, from %s on: %s", e.By, e.From, e.To, stamp(e.Since), e.Reason)})
	case record.Request:
		b.request(p, st)
	case record.Approval, record.Response:
		b.follow(p, st)
	case record.Policy:
		p.policies = append(p.policies[max(0, len(p.policies)-maxPolicies):], e.Seq)
	case record.Refused:
		b.Refused++
		b.judged(p, st)
		if s := b.open[e.Session]; s != nil {
			b.wrong.add(SessionChain, subjectEntry(st.index), "a refusal in the session %s, which %s began", e.Session, subjectEntry(s.index))
		}
	case record.Erasure:
		if s := b.open[e.Session]; s != nil {
			b.wrong.add(SessionChain, subjectEntry(st.index), "it erases the session %s, which %s began and which has not ended", e.Session, subjectEntry(s.index))
		}
	case record.Heartbeat, record.Stop:
		b.beat(p, st)
	}
	if e.Kind == record.Stop {
		p.stopped = true
	}
}

// plus adds, and goes no further than there are numbers.
func plus(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return math.MaxUint64
}

// number sees to the writer's boot, number and time.
func (b *books) number(st *statement) *pen {
	e, subject := &st.record, subjectEntry(st.index)
	p := b.pens[e.By]
	if p == nil {
		p = new(pen)
		b.pens[e.By] = p
	}
	owner, known := b.owners[e.Boot]
	switch {
	case known && owner != e.By:
		b.wrong.add(BootsOrdered, subject, "%s writes in the boot %s of %s", e.By, e.Boot, owner)
		return p
	case e.Kind == record.Start:
		if known {
			b.wrong.add(BootsOrdered, subject, "the boot %s of %s starts a second time", e.Boot, e.By)
		}
		b.begin(p, st)
		return p
	case e.Boot == p.boot:
	case known:
		b.wrong.add(BootsOrdered, subject, "it is of the boot %s of %s, which ended when %s began", e.Boot, e.By, p.boot)
		return p
	default:
		b.wrong.add(BootsOrdered, subject, "it is of the boot %s of %s, which has no start entry", e.Boot, e.By)
		b.begin(p, st)
		return p
	}
	if p.stopped {
		b.wrong.add(BootsOrdered, subject, "it comes after the stop entry of the boot %s of %s", e.Boot, e.By)
	}
	first := e.Seq
	if e.Kind == record.Gap {
		first = e.From
	}
	if first != p.next {
		b.wrong.add(NumbersWhole, subject, "its number in the boot %s of %s is %d and should be %d", e.Boot, e.By, first, p.next)
	}
	p.next = e.Seq + 1
	if e.Time.Before(p.last) {
		b.wrong.add(TimesOrdered, subject, "it states %s, and an entry of %s before it %s", stamp(e.Time), e.By, stamp(p.last))
	} else {
		p.last = e.Time
	}
	if e.Kind == record.Heartbeat || e.Kind == record.Stop {
		b.steady(p, e.By)
		p.beat = p.last
	}
	return p
}

// silence is how many beats may pass between two heartbeats.
const silence = 3

// steady sees whether a boot was silent between its start or a heartbeat and what it wrote last.
func (b *books) steady(p *pen, by string) {
	if long := p.last.Sub(p.beat); p.every > 0 && long > silence*p.every {
		b.wrong.add(HeartbeatsSteady, "boot "+p.boot.String(), "%s beats every %s, and was silent for %s, from %s to %s", by, p.every, long, stamp(p.beat), stamp(p.last))
		p.beat = p.last // it is told once
	}
}

// begin begins a boot; whatever boot the writer had is over.
func (b *books) begin(p *pen, st *statement) {
	e := &st.record
	b.endBoot(p, e.By)
	if !p.boot.IsZero() && !p.stopped {
		b.crashed.add(fmt.Sprintf("the boot %s of %s, whose last entry is of %s and whose next boot began at %s", p.boot, e.By, stamp(p.last), stamp(e.Time)))
	}
	b.Boots++
	if _, known := b.owners[e.Boot]; !known {
		b.begun = append(b.begun, e.Boot)
	}
	b.owners[e.Boot] = e.By
	p.boot, p.next, p.last, p.stopped = e.Boot, e.Seq+1, e.Time, false
	p.lost, p.orphans, p.policies = 0, 0, nil
	p.every, p.beat = e.Every, e.Time
	if p.every > 0 {
		b.Paced++
	}
}

// endBoot sees whether a boot that is over was silent before its end, and declared what it lost.
func (b *books) endBoot(p *pen, by string) {
	b.steady(p, by)
	if p.orphans > p.lost {
		b.wrong.add(LossesDeclared, "boot "+p.boot.String(), "%s has %d entries that refer to none, and declared %d lost", by, p.orphans, p.lost)
		p.lost, p.orphans = 0, 0 // it is told once
	}
}

func (b *books) request(p *pen, st *statement) {
	e := &st.record
	if s := b.open[e.Session]; s != nil {
		b.wrong.add(SessionChain, subjectEntry(st.index), "a second request of the session %s, which %s began", e.Session, subjectEntry(s.index))
		return
	}
	b.Sessions++
	b.judged(p, st)
	s := &session{id: e.Session, by: e.By, index: st.index, leaf: st.leaf, asks: e.Asks}
	b.open[s.id] = s
	p.open++
	p.order = append(p.order, s)
}

// follow sees to an approval or a response.
func (b *books) follow(p *pen, st *statement) {
	e, subject := &st.record, subjectEntry(st.index)
	s := b.open[e.Session]
	switch {
	case s == nil && e.Prev == tlog.Hash{}:
		b.Sessions++
		p.orphans++ // to be made good by a declared loss
		return
	case s == nil:
		b.wrong.add(SessionChain, subject, "a %s in the session %s, which is not open: it has no request, or has ended", e.Kind, e.Session)
		return
	case s.by != e.By:
		b.wrong.add(SessionChain, subject, "a %s by %s in the session %s of %s", e.Kind, e.By, e.Session, s.by)
		return
	case e.Prev != s.leaf:
		b.wrong.add(SessionChain, subject, "a %s that does not refer to the entry before it in the session %s, which %s began", e.Kind, e.Session, subjectEntry(s.index))
	}
	s.leaf = st.leaf
	if e.Kind == record.Approval {
		b.approval(s, st)
		return
	}
	b.approvalAtEnd(s, st)
	b.close(p, s)
}

func (b *books) close(p *pen, s *session) {
	s.ended = true
	delete(b.open, s.id)
	b.yeses.forget(s)
	p.open--
	if len(p.order) > 2*p.open+64 {
		p.order = slices.DeleteFunc(p.order, func(s *session) bool { return s.ended })
	}
}

// floor returns the smallest index of an open session's request, or 0 when none is open.
func (p *pen) floor() uint64 {
	for len(p.order) > 0 && p.order[0].ended {
		p.order = p.order[1:]
	}
	if len(p.order) == 0 {
		return 0
	}
	return p.order[0].index
}

// beat holds what a heartbeat or a stop states against the books. A session that the writer no longer counts and that
// has no response was given up.
func (b *books) beat(p *pen, st *statement) {
	e, subject := &st.record, subjectEntry(st.index)
	b.Beats++
	b.Shed = plus(b.Shed, e.Shed)
	open, floor := uint64(p.open), p.floor()
	if e.Open == open && e.Floor == floor {
		return
	}
	b.wrong.add(HeartbeatTrue, subject, "%s states %d open sessions from entry %d on, and there are %d from entry %d on", e.By, e.Open, e.Floor, open, floor)
	for _, s := range slices.Clone(p.order) {
		if !s.ended && (e.Open == 0 || s.index < e.Floor) {
			b.wrong.add(SessionsFinished, "session "+s.id.String(), "its request is %s; it has no response, and %s of %s no longer counts it as open", subjectEntry(s.index), subject, e.By)
			b.close(p, s)
		}
	}
}

// end is called when the log was read.
func (b *books) end() {
	for _, by := range slices.Sorted(maps.Keys(b.pens)) {
		p := b.pens[by]
		if p.stopped {
			b.endBoot(p, by)
			continue
		}
		b.steady(p, by) // so far
	}
}

// notProven says what the books leave open. newest is the newest time that a witness vouches for, or zero.
func (b *books) notProven(r *Report, newest time.Time) {
	open := slices.SortedFunc(maps.Values(b.open), func(a, b *session) int {
		if a.index < b.index {
			return -1
		}
		return 1
	})
	for i, s := range open {
		if i == maxListed {
			r.notProven("how %d further open sessions end", len(open)-i)
			break
		}
		r.notProven("how the session %s ends: its request, %s by %s, has no response yet", s.id, subjectEntry(s.index), s.by)
	}
	listed := 0
	for _, by := range slices.Sorted(maps.Keys(b.pens)) {
		p := b.pens[by]
		if p.stopped {
			continue
		}
		if listed++; listed > maxListed {
			r.notProven("whether further writers still live")
			break
		}
		since := ""
		if long := newest.Sub(p.last); p.every > 0 && long > silence*p.every+ClockSkew {
			since = fmt.Sprintf("; it beats every %s and witnesses saw the log %s later: it ended without a stop entry, or has been silent since", p.every, long)
		}
		r.notProven("whether %s still lives: its last boot has no stop entry, and its last entry is of %s%s", by, stamp(p.last), since)
		if p.orphans > p.lost {
			r.notProven("what %d entries of %s refer to: it has not yet said that they were lost", p.orphans-p.lost, by)
		}
	}
	for _, boot := range b.crashed.first {
		r.notProven("what came last in %s: it ended without a stop entry, as in a crash", boot)
	}
	if b.crashed.more > 0 {
		r.notProven("what came last in %d further boots that ended without a stop entry", b.crashed.more)
	}
	if n := b.Boots - b.Paced; n > 0 {
		r.notProven("whether %s fell silent: without a beat in the start entry nobody knows when to expect a heartbeat", count(n, "boot", "boots"))
	}
	if b.Approved > 0 {
		r.notProven("who said yes to %s, and to what: records have it, and a bundle shows them", count(b.Approved, "session", "sessions"))
	}
	if b.Lost > 0 {
		r.notProven("what the %d lost entries would have said", b.Lost)
	}
	if b.Shed > 0 {
		r.notProven("what the %d calls were that were turned away before their caller was known, and left no entry", b.Shed)
	}
}
