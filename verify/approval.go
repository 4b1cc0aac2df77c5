package verify

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A question is what people were asked about a session, and what became of it (tlog/record/FORMAT.md §6.9).
type question struct {
	Until time.Time `json:"until"`
	Yes   tlog.Hash `json:"yes,omitzero"`    // the leaf hash of the last yes that was needed
	Ended string    `json:"ended,omitempty"` // the reason of what ended it: a no, time, or the use of its yes
}

// answer goes on with a question by an approval entry of the session that asked, or says why it cannot be one.
func (q *question) answer(st *statement) error {
	e := &st.record
	switch e.Reason {
	case record.Agreed, record.Granted, record.Glass, record.No:
		switch {
		case q.Ended != "" || q.Yes != tlog.Hash{}:
			return errors.New("an answer to a question that was answered or had ended")
		case !e.Time.Before(q.Until):
			return fmt.Errorf("an answer of %s to a question that ended at %s", stamp(e.Time), stamp(q.Until))
		case e.Reason == record.No:
			q.Ended = record.No
		case e.Reason != record.Agreed:
			q.Yes = st.leaf
		}
	case record.Expired:
		switch q.Ended {
		case record.No, record.Expired:
			return errors.New("the end of a question that had ended")
		case "": // or else its yes was used before, and that counts
			q.Ended = record.Expired
		}
	default:
		return fmt.Errorf("an approval entry that is neither a question nor an answer: %q", e.Reason)
	}
	return nil
}

// yeses are the open sessions that asked and got a yes, by its leaf hash. Its methods are told of the approval entries and the ends
// of sessions in the order of the log.
type yeses map[tlog.Hash]*session

// approval goes on with an open session by an approval entry. An error is why it is none that can stand there.
func (y yeses) approval(s *session, st *statement) error {
	e := &st.record
	switch {
	case s.used || s.void:
		return errors.New("an approval entry after the use of a yes")
	case e.Tag != tlog.Hash{}:
		if s.ask != nil || !s.asks {
			return errors.New("a question where one was asked before, or none is due")
		}
		s.ask = &question{Until: e.Until}
	case e.Reason == record.Used:
		return y.use(s, st)
	case s.ask != nil:
		err := s.ask.answer(st)
		if err == nil && s.ask.Yes == st.leaf {
			y[st.leaf] = s
		}
		return err
	case s.asks: // or else it is an entry of before there were questions
		return errors.New("an answer where nothing was asked")
	}
	return nil
}

// use sees whether a yes is used that is there, for the first time.
func (y yeses) use(s *session, st *statement) error {
	asked := y[st.record.Grant]
	switch {
	case asked == nil || asked.ask.Ended != "":
		s.void = true // somebody was faster, or nobody said yes: nothing may be sent, and at its end that is seen to
	case asked != s && s.ask != nil:
		return fmt.Errorf("people were asked in it, and it uses the yes that the session %s got", asked.id)
	case !st.record.Time.Before(asked.ask.Until):
		return fmt.Errorf("a yes is used at %s that was good until %s", stamp(st.record.Time), stamp(asked.ask.Until))
	default:
		asked.ask.Ended, s.used = record.Used, true
	}
	return nil
}

// end sees whether a session that has ended as one that was sent had a yes, if it needed one.
func (y yeses) end(s *session, o record.Outcome) error {
	switch {
	case s.used || !s.asks && !s.void || unsent(o):
		return nil
	case s.void:
		return fmt.Errorf("it ended as %s, and the yes that it used was used before, had ended, or is none", o)
	}
	return fmt.Errorf("it ended as %s, needed a yes, and used none", o)
}

// forget is called when a session is open no more: what it asked has ended with it.
func (y yeses) forget(s *session) {
	if s.ask != nil {
		delete(y, s.ask.Yes)
	}
}

// unsent are the outcomes of a session of which nothing went to the model, or need not have.
func unsent(o record.Outcome) bool {
	switch o {
	case record.Denied, record.Waiting, record.Resumed, record.ClientGone, record.Limit, record.Internal, record.Interrupted:
		return true
	}
	return false
}

// approval goes on with the books by an approval entry of an open session.
func (b *books) approval(s *session, st *statement) {
	switch err := b.yeses.approval(s, st); {
	case err != nil:
		b.wrong.add(ApprovalGiven, subjectEntry(st.index), "in the session %s: %v", s.id, err)
	case s.used:
		b.Approved++ // once: whatever follows a use is an error
	}
}

// approvalAtEnd goes on with the books by the response of an open session.
func (b *books) approvalAtEnd(s *session, st *statement) {
	subject := "session " + s.id.String()
	if err := b.yeses.end(s, st.record.Outcome); err != nil {
		b.wrong.add(ApprovalGiven, subject, "%s: %v", subjectEntry(st.index), err)
	}
	if st.record.Outcome == record.Resumed && (s.used || s.ask == nil || s.ask.Ended != record.Used) {
		b.wrong.add(ApprovalGiven, subject, "%s: it ended as resumed, and no other session used a yes that it got", subjectEntry(st.index))
	}
}

// judged sees whether the policy that a request or a refusal names is on record.
func (b *books) judged(p *pen, st *statement) {
	e := &st.record
	if e.Policy == 0 {
		return
	}
	b.Judged++
	if slices.Contains(p.policies, e.Policy) {
		return
	}
	b.wrong.add(PolicyNamed, subjectEntry(st.index), "it was judged by the policy with the number %d of the boot %s of %s, and that is no policy entry", e.Policy, e.Boot, e.By)
}

// maxPolicies is how many earlier policies of a boot a request can name.
const maxPolicies = 1000

// A decision is a session of a bundle with approvals, as far as the bundle shows them.
type decision struct {
	*session
	request, question, use, end *shown    // nil where there is none
	answers                     []*shown  // up to the yes
	from                        *decision // who got the yes that it used
	wrong                       error     // the first of its approvals that cannot be
}

// A shown is an entry with what the bundle shows of its record.
type shown struct {
	statement
	fields []Field
}

// text returns the value of a field. It is unknown where it is withheld or may be; where all is shown and it is not there, it is
// known to be absent.
func (x *shown) text(name string) (value string, has, known bool) {
	if x == nil {
		return "", false, false
	}
	known = len(x.fields) > 0
	for _, f := range x.fields {
		switch {
		case f.Shown == nil:
			known = false
		case f.Shown.Name == name:
			return string(f.Shown.Value), true, true
		}
	}
	return "", false, known
}

// decisions goes through the approvals of a bundle's sessions in the order of the log, as the books of a whole log do. It returns
// one for each session, nil for those that need no yes and have no approvals.
func decisions(b *Bundle) []*decision {
	type step struct {
		d *decision
		x *shown
	}
	var steps []step
	all := make([]*decision, len(b.Sessions))
	for i := range b.Sessions {
		from := len(steps)
		d := &decision{session: &session{id: b.Sessions[i].ID}}
		approvals := false
		for k := range b.Sessions[i].Entries {
			e := &b.Sessions[i].Entries[k]
			x := &shown{fields: e.Fields}
			if x.record, x.err = record.ParseEntry(e.Bytes); x.err != nil {
				d.wrong = fmt.Errorf("%s is no entry, and may have been an answer", subjectEntry(e.Index))
				continue
			}
			x.index, x.leaf = e.Index, tlog.HashLeaf(e.Bytes)
			switch x.record.Kind {
			case record.Request:
				verdict, _, _ := x.text(record.FieldVerdict)
				d.request, d.asks = x, x.record.Asks || verdict == "ask"
			case record.Approval, record.Response:
				approvals = approvals || x.record.Kind == record.Approval
				steps = append(steps, step{d, x})
			}
		}
		if d.asks || approvals {
			all[i] = d
		} else {
			steps = steps[:from]
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.x.index, b.x.index) })
	open, given := make(yeses), make(map[tlog.Hash]*decision)
	for _, s := range steps {
		if err := s.d.step(s.x, open, given); err != nil && s.d.wrong == nil {
			s.d.wrong = fmt.Errorf("%s: %w", subjectEntry(s.x.index), err)
		}
	}
	return all
}

// step goes on with a decision by one of its entries. given has whose the yeses are that were met so far.
func (d *decision) step(x *shown, open yeses, given map[tlog.Hash]*decision) error {
	e := &x.record
	if e.Kind == record.Response {
		d.end = x
		err := open.end(d.session, e.Outcome)
		open.forget(d.session)
		if err != nil && d.void && d.from == nil {
			err = errors.New("the yes that it used is in no session of this bundle, or comes later, or is none: ask for a bundle that has it")
		}
		return err
	}
	if err := open.approval(d.session, &x.statement); err != nil {
		return err
	}
	switch {
	case e.Tag != tlog.Hash{}:
		d.question = x
	case e.Reason == record.Used:
		d.use, d.from = x, given[e.Grant]
	case d.ask != nil && d.ask.Ended == "":
		if d.answers = append(d.answers, x); d.ask.Yes == x.leaf {
			given[x.leaf] = d
		}
	}
	return nil
}

// approved judges, in a bundle, whether a session that needed people's yes has it: by others than the caller, for the same
// call, in time, and before anything was sent.
func (r *Report) approved(d *decision) {
	subject := "session " + d.id.String()
	if d.wrong != nil {
		r.isFalse(ApprovalGiven, subject, "%v", d.wrong)
		return
	}
	sent, err := sentAt(d.end)
	switch {
	case !d.asks && !d.used && !d.void: // none was needed
	case err != nil:
		r.isFalse(ApprovalGiven, subject, "%v", err)
	case d.used:
		r.given(d, subject, sent)
	case d.end == nil: // it has no end, and that is told
	case !sent.IsZero():
		r.isFalse(ApprovalGiven, subject, "it ended as %s and used no yes that counts, and was sent at %s all the same", d.end.record.Outcome, stamp(sent))
	default:
		r.holds(ApprovalGiven, subject, "it used no yes that counts, and ended as %s: nothing was sent", d.end.record.Outcome)
	}
}

// given judges the yes that a session used by what records show of it.
func (r *Report) given(d *decision, subject string, sent time.Time) {
	a := d.from
	people, open, err := a.people(d.request)
	if err == nil && a != d {
		var same bool
		same, err = sameCall(a.request, d.request)
		open = open || !same
	}
	used := d.use.record.Time
	of, named, _ := d.use.text(record.FieldApproval)
	yes := a.answers[len(a.answers)-1]
	switch {
	case err != nil:
	case named && of != a.id.String():
		err = fmt.Errorf("%s says that it uses the yes of %.40q, and uses that of the session %s", subjectEntry(d.use.index), of, a.id)
	case !sent.IsZero() && sent.Before(used.Add(-ClockSkew)):
		err = fmt.Errorf("it was sent at %s, before the yes was used at %s", stamp(sent), stamp(used))
	}
	switch {
	case err != nil:
		r.isFalse(ApprovalGiven, subject, "%v", err)
		return
	case open:
		r.notProven("who approved %s, and that it was for the same call: records of the requests, the question or the answers are not shown, or not all of them", subject)
		r.holds(ApprovalGiven, subject, "it used the yes of %s", subjectEntry(yes.index))
	default:
		r.holds(ApprovalGiven, subject, "by %s, with %s, for this call, before it was sent", people, subjectEntry(yes.index))
	}
	r.notProven("that whoever approved %s may approve: the gateway says so; or that no session outside of this bundle had used the same yes: check the whole log for that", subject)
}

// people returns who said yes to what d asked: other people than the callers of its request and of the one that was sent, each
// once, and as many as were asked for. open says that it is not shown.
func (d *decision) people(sent *shown) (who string, open bool, err error) {
	callers, emails := make(map[string]bool), make(map[string]bool)
	for _, x := range []*shown{d.request, sent} {
		name, _, known := x.text(record.FieldCaller)
		mail, _, knownMail := x.text(record.FieldEmail)
		if known && name == "" {
			return "", false, fmt.Errorf("%s does not say whose call it is", subjectEntry(x.index))
		}
		open = open || !known || !knownMail
		callers[name], emails[strings.ToLower(mail)] = true, true
	}
	asked, _, known := d.question.text(record.FieldNeed)
	open = open || !known
	need, err := strconv.Atoi(asked)
	if known && (err != nil || need < 1) {
		return "", false, fmt.Errorf("the question, %s, asks for %.20q people", subjectEntry(d.question.index), asked)
	}
	var names []string
	for _, x := range d.answers {
		name, _, known := x.text(record.FieldActor)
		mail, _, knownMail := x.text(record.FieldActorEmail)
		mail = strings.ToLower(mail)
		switch {
		case known && name == "":
			return "", false, fmt.Errorf("%s does not say whose answer it is", subjectEntry(x.index))
		case name != "" && callers[name], mail != "" && emails[mail]:
			return "", false, fmt.Errorf("%s is an answer by the caller, or by one who said yes before: %q %s", subjectEntry(x.index), name, mail)
		}
		callers[name], emails[mail] = true, true
		open = open || !known || !knownMail
		names = append(names, strconv.Quote(name))
	}
	who = strings.Join(names, " and ")
	switch glass := d.answers[len(d.answers)-1].record.Reason == record.Glass; {
	case glass:
		who += ", who broke the glass"
	case len(names) < need:
		return "", false, fmt.Errorf("%s said yes, and %d were needed", count(len(names), "person", "people"), need)
	}
	return who, open, nil
}

// sameCall says whether two requests are the same call, as far as records show it: what is neither shown to be the same nor to be
// another leaves it open.
func sameCall(a, b *shown) (bool, error) {
	all := true
	for _, name := range []string{record.FieldCaller, record.FieldRoute, record.FieldMethod, record.FieldTarget, record.FieldBody} {
		x, hasX, knownX := a.text(name)
		y, hasY, knownY := b.text(name)
		switch {
		case !knownX || !knownY:
			all = false
		case x != y || hasX != hasY:
			return false, fmt.Errorf("what was approved has another %s than what was sent", name)
		}
	}
	return all, nil
}

// sentAt returns when a call was sent, by the record of its response; zero where that is not shown, or was not sent.
func sentAt(end *shown) (time.Time, error) {
	var times struct {
		Sent time.Time `json:"sent"`
	}
	text, has, _ := end.text(record.FieldTimes)
	if !has {
		return times.Sent, nil
	}
	if err := json.Unmarshal([]byte(text), &times); err != nil {
		return times.Sent, fmt.Errorf("the times of %s cannot be read: %w", subjectEntry(end.index), err)
	}
	return times.Sent, nil
}
