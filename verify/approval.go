package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A question is what people were asked about a session, and what became of it (tlog/record/FORMAT.md §6.9).
type question struct {
	Until time.Time `json:"until,omitzero"`
	Yes   tlog.Hash `json:"yes,omitzero"`   // the leaf hash of the last yes that was needed
	Ended bool      `json:"ended,omitzero"` // by a no, by time, or by the use of its yes
}

// unsent are the outcomes of a session of which nothing went to the model, or need not have.
func unsent(o record.Outcome) bool {
	switch o {
	case record.Denied, record.Waiting, record.Resumed, record.ClientGone, record.Limit, record.Internal, record.Interrupted:
		return true
	}
	return false
}

// answer goes on with a question by an approval entry of the session that asked, or says why it cannot be one.
func (q *question) answer(st *statement) error {
	e := &st.record
	answered := q.Ended || q.Yes != tlog.Hash{}
	switch e.Reason {
	case record.Agreed, record.Granted, record.Glass, record.No:
		switch {
		case answered:
			return errors.New("an answer to a question that was answered or had ended")
		case !e.Time.Before(q.Until):
			return fmt.Errorf("an answer of %s to a question that ended at %s", stamp(e.Time), stamp(q.Until))
		}
		if e.Reason == record.Granted || e.Reason == record.Glass {
			q.Yes = st.leaf
		}
		q.Ended = e.Reason == record.No
	case record.Expired:
		q.Ended = true // if the yes was used before, it had ended
	}
	return nil
}

// approval goes on with the books by an approval entry of an open session.
func (b *books) approval(s *session, st *statement) {
	e, subject := &st.record, subjectEntry(st.index)
	switch {
	case e.Tag != tlog.Hash{}:
		if s.ask != nil || s.used || !s.asks {
			b.wrong.add(ApprovalGiven, subject, "a question in the session %s, in which one was asked before, or of which none is due", s.id)
			return
		}
		s.ask = &question{Until: e.Until}
	case e.Reason == record.Used:
		b.use(s, st)
	case s.ask != nil:
		if err := s.ask.answer(st); err != nil {
			b.wrong.add(ApprovalGiven, subject, "in the session %s %v", s.id, err)
		}
		if s.ask.Yes == st.leaf {
			b.yeses[st.leaf] = s
		}
	case s.asks && e.Reason != "":
		b.wrong.add(ApprovalGiven, subject, "an answer in the session %s, in which nothing was asked", s.id)
	}
}

// use sees whether a yes is used that is there, for the first time.
func (b *books) use(s *session, st *statement) {
	subject := subjectEntry(st.index)
	asked := b.yeses[st.record.Grant]
	switch {
	case s.used:
		b.wrong.add(ApprovalGiven, subject, "the session %s uses a second yes", s.id)
	case asked == nil || asked.ask.Ended:
		s.void = true // somebody was faster: nothing may be sent, and at its end that is seen to
	case asked != s && s.ask != nil:
		b.wrong.add(ApprovalGiven, subject, "the session %s asked, and uses the yes that %s got", s.id, asked.id)
	case !st.record.Time.Before(asked.ask.Until):
		b.wrong.add(ApprovalGiven, subject, "a yes is used at %s that was good until %s", stamp(st.record.Time), stamp(asked.ask.Until))
	default:
		asked.ask.Ended, s.used = true, true
		b.Approved++
	}
}

// approvalAtEnd sees whether a session that has ended as one that was sent had a yes.
func (b *books) approvalAtEnd(s *session, st *statement) {
	if s.ask != nil {
		delete(b.yeses, s.ask.Yes)
	}
	if !s.asks && !s.void || s.used || unsent(st.record.Outcome) {
		return
	}
	why := "it needed a yes and used none"
	if s.void {
		why = "the yes that it used was used before, or is none"
	}
	b.wrong.add(ApprovalGiven, "session "+s.id.String(), "it ended with %s as %s, and %s", subjectEntry(st.index), st.record.Outcome, why)
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

// approved judges, in a bundle, whether a session that needed people's yes has it: by others than the caller, for the same
// call, in time, and before anything was sent.
// yeses has those of the bundle.
func (r *Report) approved(s *Session, entries []statement, yeses func() map[tlog.Hash]*approval) {
	subject := "session " + s.ID.String()
	request := showing(s, entries, 0)
	verdict, _ := request.text(record.FieldVerdict)
	end := request
	var use *shown
	for i := range entries {
		switch e := &entries[i].record; {
		case e.Kind == record.Response:
			end = showing(s, entries, i)
		case e.Kind == record.Approval && e.Reason == record.Used:
			if use != nil {
				r.isFalse(ApprovalGiven, subject, "it uses a yes twice: %s and %s", subjectEntry(use.st.index), subjectEntry(entries[i].index))
				return
			}
			use = showing(s, entries, i)
		}
	}
	if !request.st.record.Asks && verdict != "ask" && use == nil {
		return // none was needed
	}
	if use == nil {
		switch o := end.st.record.Outcome; {
		case end.st.record.Kind != record.Response: // it has no end, and that is told
		case !unsent(o):
			r.isFalse(ApprovalGiven, subject, "it needed a yes, used none, and ended as %s", o)
		default:
			r.holds(ApprovalGiven, subject, "it needed a yes, used none, and ended as %s: nothing was sent", o)
		}
		return
	}
	a := yeses()[use.st.record.Grant]
	if a == nil {
		r.isFalse(ApprovalGiven, subject, "the yes that it uses is in no session of this bundle, or is none: ask for a bundle that has it, as an export does")
		return
	}
	if err := r.yes(a, request, use, end, subject); err != nil {
		r.isFalse(ApprovalGiven, subject, "%v", err)
	}
}

// A shown is an entry with what the bundle shows of its record.
type shown struct {
	st     *statement
	fields []Field
}

func showing(s *Session, entries []statement, i int) *shown {
	return &shown{&entries[i], s.Entries[i].Fields}
}

// text returns the value of a field that is shown.
func (s *shown) text(name string) (string, bool) {
	for _, f := range s.fields {
		if f.Shown != nil && f.Shown.Name == name {
			return string(f.Shown.Value), true
		}
	}
	return "", false
}

// An approval is a question in a bundle, and the answers to it.
type approval struct {
	request, question *shown
	answers           []*shown
}

// findApprovals returns the questions of a bundle that got a yes, by the leaf hash of the yes, with the answers up to it.
func findApprovals(b *Bundle) map[tlog.Hash]*approval {
	found := make(map[tlog.Hash]*approval)
	for i := range b.Sessions {
		s := &b.Sessions[i]
		entries := make([]statement, len(s.Entries))
		a := &approval{}
		for k := range s.Entries {
			st := &entries[k]
			st.index, st.leaf = s.Entries[k].Index, tlog.HashLeaf(s.Entries[k].Bytes)
			if st.record, st.err = record.ParseEntry(s.Entries[k].Bytes); st.err != nil {
				continue
			}
			switch e := &st.record; {
			case e.Kind == record.Request && a.request == nil:
				a.request = showing(s, entries, k)
			case e.Kind != record.Approval:
			case e.Tag != tlog.Hash{}:
				a.question = showing(s, entries, k)
			default:
				a.answers = append(a.answers, showing(s, entries, k))
				if e.Reason == record.Granted || e.Reason == record.Glass {
					whole := *a
					found[st.leaf] = &whole
				}
			}
		}
	}
	return found
}

// yes judges an approval for the session that uses it. An error is why it is none.
func (r *Report) yes(a *approval, request, use, end *shown, subject string) error {
	last := a.answers[len(a.answers)-1]
	if a.request == nil || a.question == nil || last.st.index >= use.st.index {
		return fmt.Errorf("what it uses as a yes, %s, answers no question, or comes later", subjectEntry(last.st.index))
	}
	q := question{Until: a.question.st.record.Until}
	for _, x := range a.answers {
		if err := q.answer(x.st); err != nil {
			return fmt.Errorf("%s: %w", subjectEntry(x.st.index), err)
		}
	}
	if q.Ended {
		return fmt.Errorf("the question ended before %s", subjectEntry(last.st.index))
	}
	if !use.st.record.Time.Before(q.Until) {
		return fmt.Errorf("the yes was used at %s, and was good until %s", stamp(use.st.record.Time), stamp(q.Until))
	}
	people, open, err := persons(a, request, last.st.record.Reason == record.Glass)
	if err != nil {
		return err
	}
	if a.request.st.leaf != request.st.leaf {
		same, err := sameCall(a.request, request)
		if err != nil {
			return err
		}
		open = open || !same
	}
	if err := sentAfter(use, end); err != nil {
		return err
	}
	if open {
		r.notProven("who approved %s, and that it was for the same call: the records of question, answers or requests are not shown", subject)
		r.holds(ApprovalGiven, subject, "it used the yes of %s, once among what is here", subjectEntry(last.st.index))
		return nil
	}
	r.holds(ApprovalGiven, subject, "by %s, with %s, for this call, before it was sent", people, subjectEntry(last.st.index))
	return nil
}

// persons returns who approved: other people than the caller, each once, and as many as were asked for. open says that it
// is not shown.
func persons(a *approval, request *shown, glass bool) (who string, open bool, err error) {
	caller, ok := a.request.text(record.FieldCaller)
	other, ok2 := request.text(record.FieldCaller)
	needText, ok3 := a.question.text(record.FieldNeed)
	if !ok || !ok2 || !ok3 {
		return "", true, nil
	}
	need, err := strconv.Atoi(needText)
	if err != nil || need < 1 {
		return "", false, fmt.Errorf("the question, %s, asks for %.20q people", subjectEntry(a.question.st.index), needText)
	}
	mail, _ := a.request.text(record.FieldEmail)
	seen := map[string]bool{}
	var b bytes.Buffer
	for _, x := range a.answers {
		name, ok := x.text(record.FieldActor)
		if !ok {
			return "", true, nil
		}
		theirs, _ := x.text(record.FieldActorEmail)
		switch {
		case name == caller || name == other || mail != "" && theirs == mail:
			return "", false, fmt.Errorf("%s is an answer by the caller, %q", subjectEntry(x.st.index), name)
		case seen[name]:
			return "", false, fmt.Errorf("%s is a second answer by %q", subjectEntry(x.st.index), name)
		}
		if seen[name] = true; b.Len() > 0 {
			b.WriteString(" and ")
		}
		fmt.Fprintf(&b, "%q", name)
	}
	if len(seen) < need && !glass {
		return "", false, fmt.Errorf("%d people said yes, and %d were needed", len(seen), need)
	}
	if glass {
		b.WriteString(", who broke the glass")
	}
	return b.String(), false, nil
}

// sameCall says whether two requests are the same call, as far as records show it.
func sameCall(a, b *shown) (bool, error) {
	all := true
	for _, name := range []string{record.FieldCaller, record.FieldRoute, record.FieldMethod, record.FieldTarget, record.FieldBody} {
		x, ok := a.text(name)
		y, ok2 := b.text(name)
		switch {
		case !ok || !ok2:
			all = false
		case x != y:
			return false, fmt.Errorf("what was approved has another %s than what was sent", name)
		}
	}
	return all, nil
}

// sentAfter says whether the response to a call that used a yes is older than the use, or states that the call was sent
// before it.
func sentAfter(use, end *shown) error {
	if end.st.record.Kind != record.Response {
		return nil
	}
	text, ok := end.text(record.FieldTimes)
	if !ok {
		return nil
	}
	var times struct {
		Sent time.Time `json:"sent"`
	}
	if err := json.Unmarshal([]byte(text), &times); err != nil {
		return fmt.Errorf("the times of %s cannot be read: %w", subjectEntry(end.st.index), err)
	}
	if used := use.st.record.Time; !times.Sent.IsZero() && times.Sent.Before(used.Add(-ClockSkew)) {
		return fmt.Errorf("it was sent at %s, before the yes was used at %s", stamp(times.Sent), stamp(used))
	}
	return nil
}
