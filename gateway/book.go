package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A decision is what a person says of a question.
type decision uint8

const (
	yes decision = iota
	no
	glass // a yes that needs nobody else's
)

// decide takes a person's word on a question. When it returns nil, that is durable. What it refuses it refuses with what
// to tell the person. Whoever is asked has looked at the whole request before he says yes.
func (b *book) decide(ctx context.Context, id record.ID, p *Principal, what decision, reason string) (*question, *refusal) {
	b.mu.Lock()
	q := b.byID[id]
	b.mu.Unlock()
	if q == nil || !b.mayDecide(p, q, what) {
		return nil, noSuchApproval
	}
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	}
	who := person{p.Name, p.Email}
	b.mu.Lock()
	refused := b.refuses(q, who, what)
	got := len(q.yeses)
	b.mu.Unlock()
	if refused != nil {
		return nil, refused
	}
	e := record.Entry{Kind: record.Approval, Reason: record.No}
	switch {
	case what == glass:
		e.Reason = record.Glass
	case what == yes && got+1 >= q.need:
		e.Reason = record.Granted
	case what == yes:
		e.Reason = record.Agreed
	}
	r := make(record.Record, 0, 6)
	r.Add(record.FieldSession, []byte(q.id.String()))
	addActor(&r, p)
	r.Add(record.FieldReason, []byte(reason))
	t, err := b.add(ctx, q, e, r, q.until)
	if err != nil {
		if errors.Is(err, record.ErrLate) {
			return nil, questionOver(expired)
		}
		b.g.log.Error("a decision could not be recorded", "approval", q.id, "err", err)
		if unknown(err) {
			return nil, unknownDecision
		}
		return nil, unavailableDecision
	}
	b.mu.Lock()
	event := "denied"
	switch e.Reason {
	case record.No:
		q.why = reason
		b.becomes(q, denied)
	case record.Agreed:
		event = "agreed"
		q.yeses = append(q.yeses, who)
		b.tell()
	default:
		event = "granted"
		q.yeses = append(q.yeses, who)
		q.grant = t.Leaf()
		q.yesUntil(time.Now())
		b.lost(q, granted) // another gateway may have used it already
	}
	got = len(q.yeses)
	b.mu.Unlock()
	if what == glass {
		event = record.Glass
		b.g.log.Error("SOMEBODY BROKE THE GLASS: a call passes on one person's word", "approval", q.id, "by", p.Name, "reason", reason, "caller", q.caller, "rule", q.rule)
	}
	b.notify(q, event, got, p.Name, reason)
	return q, nil
}

// yesUntil says how long a yes that is given now can be used.
func (q *question) yesUntil(now time.Time) {
	if q.useBy = q.until; q.valid > 0 && now.Add(q.valid).Before(q.until) {
		q.useBy = now.Add(q.valid)
	}
}

// refuses says why a person's word on a question is not taken. b.mu is held.
func (b *book) refuses(q *question, who person, what decision) *refusal {
	switch {
	case who.same(person{q.caller, q.email}):
		return &refusal{http.StatusForbidden, "self_approval", "nobody decides about a call of his own"}
	case q.state == using && q.by.IsZero(): // something about it is on its way into the log
		return unknownDecision
	case q.state != waiting:
		return questionOver(q.state)
	case slices.ContainsFunc(q.yeses, who.same):
		return &refusal{http.StatusConflict, "decided_before", "you have said yes already, and another person's is needed"}
	case what != no && !q.looked[who.name]:
		return &refusal{http.StatusPreconditionRequired, "look_first", "look at the whole request before you decide: GET " + approvalsPrefix + q.id.String()}
	}
	return nil
}

// questionOver says that there is nothing to decide any more.
func questionOver(s asked) *refusal {
	what := map[asked]string{
		onItsWay: "is not on record yet; try again", granted: "has been approved", using: "has been approved", used: "has been approved, and its call sent",
		denied: "has been denied", expired: "has ended without an answer in time", unasked: "was never on record",
	}[s]
	return &refusal{http.StatusConflict, "already_decided", "the approval " + what}
}

// mayDecide says whether p is somebody who is asked, or may break the glass where that is what he does: no more than that, so
// that it is always loud. Whether it is his own call is said later, in words.
func (b *book) mayDecide(p *Principal, q *question, what decision) bool {
	groups := q.groups
	if what == glass {
		groups = b.c.Glass
	}
	return q.foreign == "" && anyOf(p.Groups, groups)
}

// mayLook says whether p is somebody who may come to decide.
func (b *book) mayLook(p *Principal, q *question) bool {
	return b.mayDecide(p, q, yes) || b.mayDecide(p, q, glass)
}

func anyOf(some, of []string) bool {
	return slices.ContainsFunc(some, func(s string) bool { return slices.Contains(of, s) })
}

// add appends an entry to the chain of the session that asked, sealed under its data key, and waits until it is durable.
// The caller has the turn. Where nobody knows whether the entry is in the log, the question is the next boot's.
func (b *book) add(ctx context.Context, q *question, e record.Entry, r record.Record, before time.Time) (*record.Ticket, error) {
	d, err := b.draft(ctx, q, e, r)
	if err != nil {
		return nil, err
	}
	d.After, d.Together, d.Before = q.last, q.last != nil, before
	if q.last == nil {
		d.Entry.Prev = q.prev
	}
	t, err := b.g.writer.Submit(d)
	if err == nil {
		err = b.g.settled(t)
	}
	if unknown(err) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if q.closed = true; q.state < used {
			q.state, q.by = using, record.ID{}
		}
	}
	if err != nil {
		return nil, err
	}
	q.last = t
	return t, nil
}

// draft seals a record with the key of a session's request, or with another where that does not open.
func (b *book) draft(ctx context.Context, q *question, e record.Entry, r record.Record) (record.Draft, error) {
	var name string
	var key []byte
	request := &q.request.Entry
	payload, err := b.payload(q)(ctx, request.Payload)
	if err == nil {
		if name, err = record.KeyOf(payload); err == nil {
			key, err = b.g.cfg.Keys.Open(ctx, name)
		}
	}
	if err != nil {
		if name, key, err = b.g.cfg.Keys.New(ctx); err != nil {
			return record.Draft{}, fmt.Errorf("data key: %w", err)
		}
	}
	defer clear(key)
	e.Session = request.Session
	return b.g.coder.Draft(e, r, key, name)
}

// run expires questions, ends the sessions whose callers have gone, and forgets what is over, until ctx ends.
func (b *book) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		b.tidy(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.wake:
		}
	}
}

func (b *book) tidy(ctx context.Context) {
	now := time.Now()
	var late, done []*question
	b.mu.Lock()
	for id, q := range b.byID {
		switch {
		case q.state == waiting && !now.Before(q.until), q.state == granted && !now.Before(q.useBy):
			late = append(late, q)
		case q.state >= used && !q.held && !q.closed && q.foreign == "":
			done = append(done, q)
		case q.state >= used && (q.closed || q.foreign != "") && !now.Before(q.forget):
			delete(b.byID, id)
			delete(b.tagged, id)
			if b.byCall[q.sum] == q {
				delete(b.byCall, q.sum)
			}
		}
	}
	b.mu.Unlock()
	together(late, func(q *question) { b.expire(ctx, q) })
	together(done, func(q *question) { b.end(ctx, q) })
}

// tidyTogether is how many questions are seen to at once: the log takes their entries together.
const tidyTogether = 64

func together(some []*question, do func(*question)) {
	var all sync.WaitGroup
	places := make(chan struct{}, tidyTogether)
	for _, q := range some {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(q)
		})
	}
	all.Wait()
}

// expire ends a question to which nobody has answered in time, or whose yes nobody has used.
func (b *book) expire(ctx context.Context, q *question) {
	if q.foreign != "" {
		b.mu.Lock()
		defer b.mu.Unlock()
		if q.state == waiting || q.state == granted {
			b.becomes(q, expired)
		}
		return
	}
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	default:
		return // somebody decides at this moment
	}
	b.mu.Lock()
	over := q.state != waiting && q.state != granted
	if !over {
		q.state = using // nobody takes the yes now. Whoever waits is told at the end
		q.by = record.ID{}
	}
	b.mu.Unlock()
	if over {
		return
	}
	var r record.Record
	r.Add(record.FieldSession, []byte(q.id.String()))
	t, err := b.add(ctx, q, record.Entry{Kind: record.Approval, Reason: record.Expired}, r, time.Time{})
	s := expired
	if err == nil && b.c.Tail != nil {
		// Another gateway may have used the yes before.
		err = b.readTo(b.g.silenced, t.Index())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t != nil && q.end == 0 {
		q.end = t.Index()
	}
	if q.usedFirst() {
		s = used
	}
	switch {
	case unknown(err): // or it is on record, and what else is there nobody knows: the next boot ends it
	case err != nil:
		b.g.log.Warn("an approval that nobody gave could not be ended on record yet", "approval", q.id, "err", err)
		q.state = waiting
		if q.grant != (tlog.Hash{}) {
			q.state = granted
		}
	default:
		if q.by = q.use.session; s == used {
			b.becomes(q, used)
			return
		}
		b.becomes(q, expired)
		go b.notify(q, "expired", len(q.yeses), "", "")
	}
}

// end closes the session that asked, whose caller is gone.
func (b *book) end(ctx context.Context, q *question) {
	q.turn <- struct{}{}
	defer func() { <-q.turn }()
	b.mu.Lock()
	e := record.Entry{Kind: record.Response, Outcome: record.Denied}
	why := ""
	switch {
	case q.closed || q.held:
		b.mu.Unlock()
		return
	case q.state == used:
		e.Outcome, why = record.Resumed, "the session "+q.by.String()+" used the approval"
	default:
		why = b.refusal(q).message
	}
	b.mu.Unlock()
	var r record.Record
	r.Add(record.FieldSession, []byte(q.id.String()))
	r.Add(record.FieldError, []byte(why))
	r.Add(record.FieldTimes, append(appendTime(nil, "ended", time.Now()), '}'))
	_, err := b.add(ctx, q, e, r, time.Time{})
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		q.closed = true
	} else if ctx.Err() == nil {
		b.g.log.Warn("the session of an approval could not be closed yet", "approval", q.id, "err", err)
	}
}

// restoreAll takes up the questions that earlier boots left open, so that people can go on. It returns the sessions whose
// records are gone, of which there is nothing to decide. While the keys are out of reach it waits for them: a yes that was
// given is not given up.
func (b *book) restoreAll(ctx context.Context, asked []record.Unfinished) (gone []record.Unfinished) {
	for _, u := range asked {
		for {
			err := b.restore(ctx, u)
			if err == nil || ctx.Err() != nil {
				break
			}
			b.g.log.Error("a question that an earlier boot left open cannot be taken up", "approval", u.Session, "err", err)
			if errors.Is(err, tlog.ErrNotFound) || errors.Is(err, errNoQuestion) {
				gone = append(gone, u)
				break
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return gone
}

var errNoQuestion = errors.New("there is no question in it that can be read")

// restore takes up a question that an earlier boot left open, or says that it cannot be read.
func (b *book) restore(ctx context.Context, u record.Unfinished) error {
	q := &question{id: u.Session, request: u.Entries[0], prev: u.Leaf, turn: make(chan struct{}, 1), changed: make(chan struct{}), state: waiting}
	for i := range u.Entries {
		e := &u.Entries[i].Entry
		var away error // what the record is made of cannot be fetched now
		r, err := b.g.coder.Read(ctx, e, func(ctx context.Context, sum tlog.Hash) (payload []byte, err error) {
			payload, away = b.g.cfg.Log.Payload(ctx, sum)
			return payload, away
		}, func(ctx context.Context, name string) (key []byte, err error) {
			key, away = b.g.cfg.Keys.Open(ctx, name)
			return key, away
		})
		switch {
		case err != nil && away == nil: // nor ever
			return fmt.Errorf("%w: entry %d: %w", errNoQuestion, u.Entries[i].Index, err)
		case err != nil:
			return fmt.Errorf("entry %d: %w", u.Entries[i].Index, err)
		}
		switch {
		case e.Kind == record.Request:
			q.caller, q.email = textOf(r, record.FieldCaller), textOf(r, record.FieldEmail)
			q.route, q.model = textOf(r, record.FieldRoute), textOf(r, record.FieldModel)
			q.method, q.target = textOf(r, record.FieldMethod), textOf(r, record.FieldTarget)
		case e.Tag != tlog.Hash{}:
			q.tag, q.until, q.asked = e.Tag, e.Until, e.Time
			q.rule, q.message = textOf(r, record.FieldRule), textOf(r, record.FieldReason)
			q.valid, _ = time.ParseDuration(textOf(r, record.FieldValid))
			if q.need, err = strconv.Atoi(textOf(r, record.FieldNeed)); err == nil {
				err = json.Unmarshal([]byte(textOf(r, record.FieldAsked)), &q.groups)
			}
			if err != nil {
				return fmt.Errorf("%w: entry %d: %w", errNoQuestion, u.Entries[i].Index, err)
			}
		case e.Reason == record.Agreed, e.Reason == record.Granted, e.Reason == record.Glass:
			q.yeses = append(q.yeses, person{textOf(r, record.FieldActor), textOf(r, record.FieldActorEmail)})
			if e.Reason != record.Agreed {
				q.grant, q.state = tlog.HashLeaf(u.Entries[i].Bytes), granted
				q.yesUntil(e.Time)
			}
		case e.Reason == record.No:
			q.why, q.state = textOf(r, record.FieldReason), denied
		case e.Reason == record.Expired:
			q.state = expired
		}
	}
	if q.tag == (tlog.Hash{}) {
		return errNoQuestion
	}
	if !u.By.IsZero() {
		q.state, q.by = used, u.By
	}
	if q.state >= used {
		q.forget = time.Now().Add(rememberEnded)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byID[q.id], b.tagged[q.id] = q, q
	b.poke()
	b.tell()
	return nil
}

// requestOf returns the record of the request that is asked about.
func (b *book) requestOf(ctx context.Context, q *question) (record.Record, error) {
	return b.g.coder.Read(ctx, &q.request.Entry, b.payload(q), b.g.cfg.Keys.Open)
}

// payload returns what fetches the payload of a question's request, which is kept here until the log serves it.
func (b *book) payload(q *question) func(ctx context.Context, sum tlog.Hash) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sealed := q.sealed; sealed != nil {
		return func(context.Context, tlog.Hash) ([]byte, error) { return bytes.Clone(sealed), nil }
	}
	return b.g.cfg.Log.Payload
}

// follow reads what the gateways of one log write, as soon as it is in the log for good, until ctx ends: which questions
// there are, what became of them, and who used a yes first.
func (b *book) follow(ctx context.Context) {
	if b.c.Tail == nil {
		return
	}
	begun := false
	for pause := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if !begun {
			if err := b.begin(ctx); err != nil {
				b.g.log.Warn("what other gateways asked cannot be read", "err", err)
				pause = time.Second
				continue
			}
			begun = true
		}
		b.mu.Lock()
		next := b.next
		b.mu.Unlock()
		entries, err := b.c.Tail.Tail(ctx, next, tailWait)
		if err != nil && ctx.Err() == nil {
			b.g.log.Warn("what other gateways asked cannot be read", "from", next, "err", err)
			pause = time.Second
			continue
		}
		if pause = 0; len(entries) == 0 {
			pause = 50 * time.Millisecond
			continue
		}
		b.mu.Lock()
		for i, e := range entries {
			b.heard(next+uint64(i), e)
		}
		b.next = next + uint64(len(entries))
		close(b.read)
		b.read = make(chan struct{})
		b.mu.Unlock()
	}
}

// tailWait is how long the log may wait for entries before it says that there are none.
const tailWait = 5 * time.Second

// What is in an entry that says something of a question.
var (
	saysApproval = []byte(`"kind":"approval"`)
	saysResponse = []byte(`"kind":"response"`)
)

// heard takes an entry of the log. b.mu is held.
func (b *book) heard(index uint64, raw []byte) {
	if !bytes.Contains(raw, saysApproval) && (len(b.tagged) == 0 || !bytes.Contains(raw, saysResponse)) {
		return
	}
	e, err := record.ParseEntry(raw)
	if err != nil {
		b.g.log.Error("the log has an entry that cannot be read", "index", index, "err", err)
		return
	}
	leaf := tlog.HashLeaf(raw)
	if e.Kind == record.Approval && e.Reason == record.Used {
		for _, q := range b.byID {
			if q.grant == e.Grant && q.use.session.IsZero() {
				q.use = firstUse{index, leaf, e.Session}
				if q.usedFirst() && q.state == granted {
					q.by = e.Session
					b.becomes(q, used)
				}
			}
		}
		return
	}
	// Where a question ended, and what its yes is, must be known before a use is heard, whoever asked: whoever is at this gateway
	// to say the yes may not have gone on yet.
	q := b.byID[e.Session]
	over := e.Kind == record.Response || e.Reason == record.No || e.Reason == record.Expired
	said := e.Reason == record.Granted || e.Reason == record.Glass
	switch {
	case e.Tag != tlog.Hash{}:
		if q == nil && e.By != b.g.cfg.ID && e.Until.After(time.Now()) {
			q = &question{id: e.Session, foreign: e.By, tag: e.Tag, asked: e.Time, until: e.Until, state: waiting, changed: make(chan struct{}), closed: true}
			b.byID[q.id], b.tagged[q.id] = q, q
		}
		return
	case q == nil:
		return
	case over && q.end == 0:
		q.end = index
	case said && q.grant == tlog.Hash{}:
		q.grant = leaf
	}
	if q.foreign == "" {
		return // of our own we know more
	}
	switch open := q.state == waiting || q.state == granted; {
	case said && q.state == waiting:
		q.useBy = q.until
		b.becomes(q, granted)
	case !over || !open:
	case e.Reason == record.Expired:
		b.becomes(q, expired)
	case e.Reason == record.No, e.Outcome == record.Denied:
		b.becomes(q, denied)
	default: // it ended with a fault of the gateway that asked, and can be asked again
		b.becomes(q, unasked)
	}
}

// readTo waits until follow has read the entry at index.
func (b *book) readTo(ctx context.Context, index uint64) error {
	for {
		b.mu.Lock()
		next, read := b.next, b.read
		b.mu.Unlock()
		if next > index {
			return nil
		}
		select {
		case <-read:
		case <-ctx.Done():
			return errNoWord
		}
	}
}

// first says whether the use of a yes, which is durable, is the first in the log.
func (b *book) first(ctx context.Context, q *question, t *record.Ticket) (bool, error) {
	if b.c.Tail == nil {
		return true, nil
	}
	if err := b.readTo(ctx, t.Index()); err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return q.usedFirst() && q.use.leaf == t.Leaf(), nil
}

// begin says where follow begins: at the first entry that can be about a question that is still open.
func (b *book) begin(ctx context.Context) error {
	t, err := b.g.published(ctx)
	if err != nil {
		return err
	}
	from, err := record.Since(ctx, b.g.cfg.Log, t.Size, time.Now().Add(-b.c.Longest))
	if err == nil {
		b.mu.Lock()
		b.next = from
		b.mu.Unlock()
	}
	return err
}

func (d decision) String() string { return [...]string{"approve", "deny", "break_glass"}[d] }

// parseDecision reads a decision's word.
func parseDecision(s string) (decision, bool) {
	for _, d := range []decision{yes, no, glass} {
		if strings.EqualFold(s, d.String()) {
			return d, true
		}
	}
	return no, false
}
