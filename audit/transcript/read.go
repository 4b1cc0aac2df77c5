package transcript

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// How much is read. A transcript may be some ten times as large as the bodies that it is of, and no more.
const (
	mostBody  = 64 << 20 // bytes of a body that are read for what they mean; as bytes a body is there whole
	mostParts = 1 << 18  // messages, parts, calls, events and deltas together
	mostNotes = 32
)

// A reader makes one transcript.
type reader struct {
	t    *Transcript
	left int // how many more parts it may make

	missing []Entry        // whose records are not here
	events  []record.Event // the table; nil where there is none, or none that is the body's
	drafts  []*draft       // of replies
	choices map[int]*draft
	pieces  map[place]*piece
	now     *Event // the one that is read, nil while a whole body is
}

// Of reads a session. It never fails, and does not keep s, but Bytes in it may lie in those of s.
func Of(s verify.Session) *Transcript {
	t := &Transcript{Session: s.ID, Open: true, Shape: HTTP, Usage: Usage{-1, -1, -1, -1, -1}, Entries: make([]Entry, 0, len(s.Entries))}
	r := &reader{t: t, left: mostParts, choices: make(map[int]*draft), pieces: make(map[place]*piece)}
	for i := range s.Entries {
		r.entry(&s.Entries[i])
	}
	if len(s.Entries) == 0 {
		r.note("the session has no entries here")
	}
	if !t.Erased { // or else that says it
		for _, e := range r.missing {
			r.note("the record of entry %d, %s, is not here", e.Index, e.Kind)
		}
	}
	r.request()
	r.answer()
	if r.left <= 0 {
		r.note("it has more parts than are read, which are %d", mostParts)
	}
	return t
}

// take counts a part, and says whether it may still be made.
func (r *reader) take() bool {
	r.left--
	return r.left > 0
}

// note says something of what is not as it should be, once.
func (r *reader) note(format string, a ...any) {
	if len(r.t.Notes) >= mostNotes {
		return
	}
	text := fmt.Sprintf(format, a...)
	for _, n := range r.t.Notes {
		if n == text {
			return
		}
	}
	r.t.Notes = append(r.t.Notes, text)
}

// fields are those of a record that are shown.
type fields struct {
	r     *reader
	of    *verify.Entry
	shown int
}

// bytes returns a field's value.
func (f fields) bytes(name string) []byte {
	for i := range f.of.Fields {
		if s := f.of.Fields[i].Shown; s != nil && s.Name == name {
			return s.Value
		}
	}
	return nil
}

func (f fields) text(name string) string { return strings.ToValidUTF8(string(f.bytes(name)), "\uFFFD") }

func (f fields) int(name string) int {
	b := f.bytes(name)
	if b == nil {
		return 0
	}
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 0 {
		f.bad(name)
		return 0
	}
	return n
}

func (f fields) lines(name string) []string {
	if b := f.bytes(name); len(b) > 0 {
		return strings.Split(f.text(name), "\n")
	}
	return nil
}

func (f fields) time(name string) time.Time {
	b := f.bytes(name)
	if b == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		f.bad(name)
	}
	return t
}

// json reads a field that is JSON, if it is there.
func (f fields) json(name string, into any) {
	if b := f.bytes(name); b != nil && json.Unmarshal(b, into) != nil {
		f.bad(name)
	}
}

func (f fields) bad(name string) {
	f.r.note("the field %s of entry %d cannot be read", name, f.of.Index)
}

func (f fields) headers() []Header {
	var pairs [][]string
	f.json(record.FieldHeaders, &pairs)
	var headers []Header
	for _, p := range pairs {
		if len(p) != 2 {
			f.bad(record.FieldHeaders)
			return nil
		}
		headers = append(headers, Header{p[0], p[1]})
	}
	return headers
}

func (f fields) findings(in string) (all []Finding) {
	var rows [][]json.RawMessage
	f.json(record.FieldFindings, &rows)
	for _, row := range rows {
		found := Finding{In: in}
		if len(row) != 3 || json.Unmarshal(row[0], &found.Kind) != nil || json.Unmarshal(row[1], &found.Rule) != nil || json.Unmarshal(row[2], &found.Count) != nil {
			f.bad(record.FieldFindings)
			break
		}
		all = append(all, found)
	}
	return all
}

// entry reads one entry and what is shown of its record.
func (r *reader) entry(of *verify.Entry) {
	t := r.t
	e, err := record.ParseEntry(of.Bytes)
	if err != nil {
		r.note("entry %d cannot be read: %v", of.Index, err)
		return
	}
	f := fields{r: r, of: of}
	for i := range of.Fields {
		if of.Fields[i].Shown != nil {
			f.shown++
		}
	}
	t.Entries = append(t.Entries, Entry{
		Index: of.Index, Kind: e.Kind, By: e.By, Time: e.Time, Outcome: e.Outcome, Reason: e.Reason, Fields: e.Fields, Shown: f.shown,
	})
	switch {
	case e.Kind == record.Erasure:
		t.Erased = true
		t.Erasures = append(t.Erasures, Erasure{
			Time: e.Time, Cause: e.Reason, Actor: f.text(record.FieldActor), Reason: f.text(record.FieldReason), Basis: f.text(record.FieldBasis),
		})
	case len(of.Fields) == 0 && e.Fields > 0:
		r.missing = append(r.missing, t.Entries[len(t.Entries)-1])
	case f.shown < len(of.Fields):
		r.note("of the record of entry %d, %s, %d of %d fields are withheld", of.Index, e.Kind, len(of.Fields)-f.shown, len(of.Fields))
	}
	switch e.Kind {
	case record.Request:
		r.asked(f)
	case record.Approval:
		r.approval(&e, f)
	case record.Response:
		t.Open, t.Outcome = false, e.Outcome
		r.answered(f)
	case record.Refused:
		t.Open, t.Refused = false, e.Reason
		r.asked(f)
		t.Answer.Status, t.Answer.Error = f.int(record.FieldStatus), f.text(record.FieldError)
	}
}

// asked reads the record of a request, or of its refusal.
func (r *reader) asked(f fields) {
	t := r.t
	t.Caller = Caller{
		Name: f.text(record.FieldCaller), Key: f.text(record.FieldKey), How: f.text(record.FieldHow), Issuer: f.text(record.FieldIssuer),
		Subject: f.text(record.FieldSubject), Email: f.text(record.FieldEmail), At: f.time(record.FieldAuthed),
	}
	f.json(record.FieldGroups, &t.Caller.Groups)
	t.Remote, t.Route, t.Upstream, t.Model = f.text(record.FieldRemote), f.text(record.FieldRoute), f.text(record.FieldUpstream), f.text(record.FieldModel)
	t.Policy, t.Verdict, t.Rule = f.text(record.FieldPolicy), f.text(record.FieldVerdict), f.text(record.FieldRule)
	t.Failed = f.lines(record.FieldFailed)
	t.Request = Request{
		Method: f.text(record.FieldMethod), Target: f.text(record.FieldTarget), Headers: f.headers(), Body: f.bytes(record.FieldBody),
	}
	f.json(record.FieldTimes, &t.Times)
	t.Findings = append(t.Findings, f.findings("request")...)
}

// answered reads the record of a response.
func (r *reader) answered(f fields) {
	t := r.t
	t.Answer = Answer{
		Status: f.int(record.FieldStatus), Headers: f.headers(), Body: f.bytes(record.FieldBody), Finish: f.text(record.FieldFinish),
		Error: f.text(record.FieldError), Kept: f.text(record.FieldKept), Redacted: f.int(record.FieldRedacted),
	}
	f.json(record.FieldTimes, &t.Times)
	t.Findings = append(t.Findings, f.findings("answer")...)
	kind, _, _ := mime.ParseMediaType(HeaderOf(t.Answer.Headers, "Content-Type"))
	t.Answer.Stream = kind == "text/event-stream"
	if table := f.bytes(record.FieldEvents); table != nil {
		var err error
		if r.events, err = record.ParseEvents(table, len(t.Answer.Body)); err != nil {
			r.note("when its events came cannot be read: %v", err)
		}
	}
}

// approval reads what is on record of a question.
func (r *reader) approval(e *record.Entry, f fields) {
	if r.t.Approval == nil {
		r.t.Approval = &Approval{}
	}
	a := r.t.Approval
	switch {
	case e.Tag != tlog.Hash{}:
		a.Asked, a.Until = e.Time, e.Until
		a.Rule, a.Message, a.Valid = f.text(record.FieldRule), f.text(record.FieldReason), f.text(record.FieldValid)
		a.Need = f.int(record.FieldNeed)
		f.json(record.FieldAsked, &a.Groups)
	case e.Reason == record.Expired:
		a.Expired = e.Time
	case e.Reason == record.Used:
		a.Used = e.Time
		if of, err := record.ParseID(f.text(record.FieldApproval)); err == nil && of != r.t.Session {
			a.Of = of
		}
	default:
		a.Words = append(a.Words, Word{
			Time: e.Time, Said: e.Reason, Actor: f.text(record.FieldActor), Email: f.text(record.FieldActorEmail), How: f.text(record.FieldActorHow),
			Reason: f.text(record.FieldReason),
		})
	}
}

// HeaderOf returns the value of the first header of that name, in any case; "" for none.
func HeaderOf(headers []Header, name string) string {
	for _, h := range headers {
		if strings.EqualFold(h.Name, name) {
			return h.Value
		}
	}
	return ""
}

// readable returns a body if it is to be read for what it means. what is whose it is.
func (r *reader) readable(body Bytes, headers []Header, what string) []byte {
	if coding := HeaderOf(headers, "Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") && len(body) > 0 {
		r.note("the body of the %s is packed (%.20s) and is shown as it is", what, coding)
		return nil
	}
	if len(body) > mostBody {
		r.note("the body of the %s has %d bytes; those after the first %d are not read for what they mean", what, len(body), mostBody)
		body = body[:mostBody]
	}
	return body
}

// whole says of a body that is to be JSON whether it is, in a note if it is not.
func (r *reader) whole(body []byte, what string) {
	if !json.Valid(body) {
		r.note("the body of the %s is not whole JSON and is read as far as it goes", what)
	}
}

// answer reads the answer's body, and its events.
func (r *reader) answer() {
	t := r.t
	body := r.readable(t.Answer.Body, t.Answer.Headers, "answer")
	switch {
	case t.Answer.Stream:
		r.stream(body)
	default:
		if v := valueOf(body); v.kind() == '{' {
			r.body(v)
			if len(r.drafts) > 0 || t.Answer.Problem != "" {
				r.whole(body, "answer")
			}
		}
		r.cut(func(e *Event) { e.Type = Piece })
	}
	slices.SortFunc(r.drafts, func(a, b *draft) int { return a.Choice - b.Choice })
	for _, d := range r.drafts {
		t.Replies = append(t.Replies, d.reply())
	}
}

// cut makes the events of the table, of which each is told.
func (r *reader) cut(each func(*Event)) {
	at, from := time.Duration(0), 0
	for _, row := range r.events {
		if !r.take() {
			return
		}
		if at += row.After; at < 0 { // over 292 years
			at = 1<<63 - 1
		}
		r.t.Events = append(r.t.Events, Event{Raw: r.t.Answer.Body[from : from+row.Bytes], At: at})
		from += row.Bytes
		each(&r.t.Events[len(r.t.Events)-1])
	}
}

// stream reads a stream of events. Where there is a table, an event is a row of it, and has what ends in its bytes.
func (r *reader) stream(body []byte) {
	t := r.t
	var ends []int // of the table's events, in the body
	r.cut(func(e *Event) {
		end := len(e.Raw)
		if len(ends) > 0 {
			end += ends[len(ends)-1]
		}
		ends = append(ends, end)
		e.Type = Comment
	})
	at, from := 0, 0
	next := func(b block) *Event {
		if r.events == nil {
			if !r.take() {
				return nil
			}
			t.Events = append(t.Events, Event{Raw: t.Answer.Body[from:b.end], At: -1, Type: Comment})
			from = b.end
			return &t.Events[len(t.Events)-1]
		}
		for at < len(ends) && ends[at] < b.to {
			at++
		}
		if at == len(ends) {
			return nil // there were more than are read
		}
		return &t.Events[at]
	}
	cut := blocks(body, func(b block) bool {
		e := next(b)
		if e == nil {
			return false
		}
		if b.dispatched {
			r.now = e
			r.event(b.name, b.data)
		}
		return r.left > 0
	})
	r.now = nil
	if cut {
		if n := len(t.Events); n > 0 && t.Events[n-1].Type == Comment {
			t.Events[n-1].Type = Cut
		}
		r.note("the last event has no end, and a client hears nothing of it")
	}
	for i := range t.Events {
		t.Events[i].Masked = masked(t.Events[i].Raw)
	}
}

// masked says whether a mask stands in b: ⟦KIND⟧, ⟦KIND:token⟧ or ⟦KIND:…last4⟧, as tlog/record/mask writes them.
func masked(b []byte) bool {
	for {
		_, after, ok := bytes.Cut(b, []byte("⟦"))
		if !ok {
			return false
		}
		n := 0
		for n < len(after) && ('A' <= after[n] && after[n] <= 'Z' || after[n] == '_') {
			n++
		}
		if n >= 2 && (bytes.HasPrefix(after[n:], []byte(":")) || bytes.HasPrefix(after[n:], []byte("⟧"))) {
			return true
		}
		b = after
	}
}
