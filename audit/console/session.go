package console

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

const (
	eventsPage = 1000      // events of a timeline on a page
	pageText   = 512 << 10 // bytes of content on a page, as far as that can be cut
	pieceText  = 64 << 10
	factText   = 4 << 10 // bytes of a fact, which is a line mostly
	pageTurns  = 500     // messages of a conversation, and twice as many parts
	pageRows   = 200     // parameters, and tools
)

// A sessionPage is one session.
type sessionPage struct {
	*transcript.Transcript
	ID       record.ID
	How      string // outcome, refused or open
	Asked    []turn
	Answered []turn
	More     int  // messages and parts that are left out
	Asks     part // the request's body
	Answers  part
	AskBody  string // where more of it is
	AnsBody  string
	Phases   []phase
	Timeline timeline
	Chain    []link
	Fields   []fieldName
	Formats  []formatChoice
	Sealed   []string
}

// A turn is a message of the conversation, cut to what fits on a page.
type turn struct {
	Role, Name, Finish string
	Choice             int // of several, from 1; 0 where there is one
	Parts              []piece
}

// A piece is a part of one.
type piece struct {
	Kind string
	Text string
	Cut  int // bytes that are left out
	Call *transcript.Call
	File *transcript.File
}

// A phase is a stretch of a call's time, for the bar over the timeline.
type phase struct {
	Name, Class string
	From        time.Time
	Took        time.Duration
	X, W        string
}

// Legend names each kind of stretch once.
func (p *sessionPage) Legend() (all []phase) {
	for _, one := range p.Phases {
		if i := slices.IndexFunc(all, func(l phase) bool { return l.Name == one.Name }); i >= 0 {
			all[i].Took += one.Took
		} else {
			all = append(all, one)
		}
	}
	return all
}

// A timeline is the events of an answer, a page of them.
type timeline struct {
	Rows       []eventRow
	From, To   int // indices, To not included
	Total      int
	Prev, Next string // where other pages are; "" for none
	Ticks      []eventTick
	Timed      bool
	Long       time.Duration
}

type eventRow struct {
	N       int
	Micros  int64 // since the answer began; -1 for not known
	At, Gap time.Duration
	Stall   bool // the gap is long, beside the others
	Bytes   int
	Type    string
	Says    string
	Call    bool // what it says is of a tool's call
	Think   bool
	Ended   string
	Problem string
	Masked  bool
	Raw     string
	Cut     int
}

// Mark says whether there is something about an event that somebody wants to jump to.
func (r eventRow) Mark() bool {
	return r.Masked || r.Stall || r.Problem != "" || r.Type == transcript.Cut
}

type eventTick struct {
	X, Class string
}

// A link is one entry of a session's chain.
type link struct {
	record.Found
	Leaf   tlog.Hash
	Linked string // what its prev is: "first", "follows", "broken", or "" where the kind has none
	Name   string // as fields are addressed
	Fields []fieldName
}

// A fieldName is a field of a record.
type fieldName struct {
	Full, Name string
	Bytes      int
	Where      string // the page that shows it
}

type formatChoice struct {
	Word, Says string
	Checked    bool
}

// about is what people are told of the formats.
var about = map[export.Format]string{
	export.Bundle:         "Bundle: evidence, which tally-verify checks offline",
	export.HAR:            "HAR 1.2: for browsers' tools and proxies",
	export.CURL:           "curl: the request as a command",
	export.JSONL:          "JSON lines, in OpenAI's shape",
	export.JSONLAnthropic: "JSON lines, in Anthropic's shape",
	export.Cast:           "asciicast v3: the answer as it was typed",
	export.CSV:            "CSV: a row for a spreadsheet",
	export.Certificate:    "Certificate of custody: a draft to print and sign",
}

// sessionID reads the ID in a path.
func sessionID(v *visit) (record.ID, error) {
	id, err := record.ParseID(v.req.PathValue("session"))
	if err != nil {
		return id, fmt.Errorf("%w: %w", tlog.ErrNotFound, err)
	}
	return id, nil
}

func (o *Console) session(v *visit) error {
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	from, _ := strconv.Atoi(v.req.URL.Query().Get("from"))
	detail := ""
	if from > 0 {
		detail = fmt.Sprintf("from event %d on", from)
	}
	s, err := o.c.Desk.View(v.req.Context(), v.asker(), id, detail)
	if err != nil {
		return err
	}
	page := readSession(s, from)
	return o.show(v, http.StatusOK, "session", "Session "+id.String(), page, "player.js", "proof.js")
}

// readSession makes the page of a session.
func readSession(s verify.Session, from int) *sessionPage {
	t := transcript.Of(s)
	p := &sessionPage{Transcript: t, ID: s.ID, How: string(t.Outcome)}
	switch {
	case t.Refused != "":
		p.How = "refused"
	case p.How == "":
		p.How = "open"
	}
	for _, fact := range []*string{&t.Caller.Name, &t.Caller.Key, &t.Caller.Issuer, &t.Caller.Subject, &t.Caller.Email, &t.Route, &t.Upstream, &t.Model, &t.Answerer, &t.Rule,
		&t.Request.Method, &t.Request.Target, &t.Answer.Finish, &t.Answer.Error, &t.Answer.Problem, &t.Answer.Kept} {
		*fact = brief(*fact)
	}
	left, turns, pieces := pageText, pageTurns, 2*pageTurns
	first := func(n int, of *int) int { // as many as are shown
		shown := min(n, *of)
		*of -= shown
		p.More += n - shown
		return shown
	}
	for _, m := range t.Messages[:first(len(t.Messages), &turns)] {
		p.Asked = append(p.Asked, turn{Role: brief(m.Role), Name: brief(m.Name), Parts: cutParts(m.Parts[:first(len(m.Parts), &pieces)], &left)})
	}
	left, turns, pieces = max(left, pieceText), max(turns, pageTurns/5), max(pieces, pageTurns/5) // something of the answer is always there
	for _, r := range t.Replies[:first(len(t.Replies), &turns)] {
		one := turn{Role: brief(r.Role), Finish: brief(r.Finish), Parts: cutParts(r.Parts[:first(len(r.Parts), &pieces)], &left)}
		if len(t.Replies) > 1 {
			one.Choice = r.Choice + 1
		}
		p.Answered = append(p.Answered, one)
	}
	t.Request.Params, t.Request.Tools = t.Request.Params[:min(len(t.Request.Params), pageRows)], t.Request.Tools[:min(len(t.Request.Tools), pageRows)]
	for i := range t.Request.Params {
		one := &t.Request.Params[i]
		one.Name, one.Value = brief(one.Name), brief(one.Value)
	}
	for i := range t.Request.Tools {
		one := &t.Request.Tools[i]
		one.Name, one.Description = brief(one.Name), brief(one.Description)
	}
	p.Asks, p.Answers = partOf(t.Request.Body, 1), partOf(t.Answer.Body, 1)
	p.Phases = phases(t)
	p.Timeline = timelineOf(t, from)
	p.chain(s)
	for _, f := range export.Formats() {
		p.Formats = append(p.Formats, formatChoice{string(f), about[f], f == export.Bundle})
	}
	return p
}

// cutParts returns parts of a message as far as they fit.
func cutParts(parts []transcript.Part, left *int) []piece {
	var all []piece
	for _, p := range parts {
		one := piece{Kind: string(p.Kind), File: p.File}
		one.Text, one.Cut = cut(p.Text, left)
		if p.Call != nil {
			c := *p.Call
			n := 0
			c.Name, n = cut(c.Name, left)
			one.Cut += n
			c.Arguments, n = cut(c.Arguments, left)
			one.Cut += n
			one.Call = &c
		}
		all = append(all, one)
	}
	return all
}

// cut returns the beginning of a text, and how many bytes are left out of it.
func cut(s string, left *int) (string, int) {
	n := min(len(s), pieceText, *left)
	if n < len(s) {
		n = edge([]byte(s[:n+1]), n)
	}
	*left -= n
	return s[:n], len(s) - n
}

// brief cuts what is a line mostly, and says so.
func brief(s string) string {
	left := factText
	s, more := cut(s, &left)
	if more > 0 {
		s += fmt.Sprintf(" … and %s bytes more, in the body", count(more))
	}
	return s
}

// phases returns the stretches of a call's time that are on record.
func phases(t *transcript.Transcript) []phase {
	var all []phase
	add := func(name, class string, from, to time.Time) {
		if !from.IsZero() && !to.Before(from) {
			all = append(all, phase{Name: name, Class: class, From: from, Took: to.Sub(from)})
		}
	}
	ts := t.Times
	from := ts.Received
	if a := t.Approval; a != nil && !a.Asked.IsZero() && len(a.Words) > 0 {
		last := a.Words[len(a.Words)-1].Time
		add("in the gateway, before it was sent", "c5", from, a.Asked)
		add("waited for people", "c3", a.Asked, last)
		from = last
	}
	add("in the gateway, before it was sent", "c5", from, ts.Sent)
	add("until the answer began", "c4", ts.Sent, ts.First)
	add("while it came", "c1", ts.First, ts.Ended)
	if len(all) == 0 {
		add("altogether", "c1", ts.Received, ts.Ended)
	}
	var begin, end time.Time
	for _, p := range all {
		if begin.IsZero() || p.From.Before(begin) {
			begin = p.From
		}
		if to := p.From.Add(p.Took); to.After(end) {
			end = to
		}
	}
	whole := max(end.Sub(begin), 1)
	for i := range all {
		p := &all[i]
		p.X, p.W = at(1000*float64(p.From.Sub(begin))/float64(whole)), at(max(1000*float64(p.Took)/float64(whole), 1.5))
	}
	return all
}

func timelineOf(t *transcript.Transcript, from int) timeline {
	n := len(t.Events)
	from = min(max(from, 0), max(n-1, 0)) / eventsPage * eventsPage
	l := timeline{From: from, To: min(from+eventsPage, n), Total: n}
	if from > 0 {
		l.Prev = "?from=" + strconv.Itoa(from-eventsPage) + "#timeline"
	}
	if l.To < n {
		l.Next = "?from=" + strconv.Itoa(l.To) + "#timeline"
	}
	for _, e := range t.Events {
		l.Timed = l.Timed || e.At >= 0
		l.Long = max(l.Long, e.At)
	}
	left := pageText
	usual := 4 * l.Long / time.Duration(max(n, 1))
	for i := l.From; i < l.To; i++ {
		e := &t.Events[i]
		r := eventRow{N: i, Micros: -1, At: e.At, Gap: -1, Bytes: len(e.Raw), Type: e.Type, Ended: e.Ended, Problem: e.Problem, Masked: e.Masked}
		if e.At >= 0 {
			r.Micros = e.At.Microseconds()
			r.Gap = e.At
			if i > 0 {
				r.Gap = e.At - max(t.Events[i-1].At, 0)
			}
			r.Stall = r.Gap > usual && r.Gap >= 250*time.Millisecond
		}
		for _, d := range e.Says {
			r.Says += d.Name + d.Text
			r.Call = r.Call || d.Kind == transcript.ToolCall
			r.Think = r.Think || d.Kind == transcript.Reasoning
		}
		r.Says, _ = cut(r.Says, &left)
		r.Raw, r.Cut = cut(string(e.Raw), &left)
		l.Rows = append(l.Rows, r)
	}
	if l.Timed && l.Long > 0 {
		step := max(1, n/600)
		for i := 0; i < n; i += step {
			e := &t.Events[i]
			if e.At < 0 {
				continue
			}
			class := "c1"
			switch {
			case e.Masked:
				class = "c6"
			case e.Problem != "":
				class = "c3"
			case len(e.Says) > 0 && e.Says[0].Kind == transcript.ToolCall:
				class = "c4"
			case len(e.Says) == 0:
				class = "c5"
			}
			l.Ticks = append(l.Ticks, eventTick{at(1000 * float64(e.At) / float64(l.Long)), class})
		}
	}
	return l
}

// chain lists a session's entries, and the names of their fields as they are disclosed by.
func (p *sessionPage) chain(s verify.Session) {
	var before tlog.Hash
	n := make(map[record.Kind]int)
	for i, e := range s.Entries {
		l := link{Leaf: tlog.HashLeaf(e.Bytes)}
		l.Index, l.Bytes = e.Index, e.Bytes
		entry, err := record.ParseEntry(e.Bytes)
		if err == nil {
			l.Entry = entry
		}
		switch {
		case entry.Kind == record.Erasure || entry.Kind == record.Access:
		case i == 0 && entry.Prev == (tlog.Hash{}):
			l.Linked = "first"
		case entry.Prev == before:
			l.Linked = "follows"
		case entry.Prev != (tlog.Hash{}):
			l.Linked = "broken"
		}
		if entry.Kind != record.Erasure && entry.Kind != record.Access {
			before = l.Leaf
		}
		l.Name = string(entry.Kind)
		if k := entry.Kind; k == record.Approval || k == record.Erasure {
			n[k]++
			l.Name += "-" + strconv.Itoa(n[k])
		}
		sealed := slices.ContainsFunc(e.Fields, func(f verify.Field) bool { return f.Shown == nil })
		for _, f := range e.Fields {
			if f.Shown == nil {
				continue // the original of a field that is masked, whose name is withheld as well
			}
			if sealed && bytes.Contains(f.Shown.Value, []byte("⟦")) {
				p.Sealed = append(p.Sealed, l.Name+"."+f.Shown.Name)
			}
			one := fieldName{Full: l.Name + "." + f.Shown.Name, Name: f.Shown.Name, Bytes: len(f.Shown.Value), Where: partAt(s.ID, e.Index, f.Shown.Name, 1)}
			l.Fields = append(l.Fields, one)
			p.Fields = append(p.Fields, one)
			switch {
			case f.Shown.Name == record.FieldBody && entry.Kind == record.Request:
				p.AskBody = partAt(s.ID, e.Index, f.Shown.Name, 2)
			case f.Shown.Name == record.FieldBody && (entry.Kind == record.Response || entry.Kind == record.Refused):
				p.AnsBody = partAt(s.ID, e.Index, f.Shown.Name, 2)
			}
		}
		p.Chain = append(p.Chain, l)
	}
}

// A bodyPage is a part of one field.
type bodyPage struct {
	ID         record.ID
	Entry      uint64
	Field      string
	Part       part
	Prev, Next string
}

// partAt is where a part of a field is shown.
func partAt(id record.ID, index uint64, field string, part int) string {
	q := url.Values{"entry": {strconv.FormatUint(index, 10)}, "field": {field}}
	if part > 1 {
		q.Set("part", strconv.Itoa(part))
	}
	return "/sessions/" + id.String() + "/body?" + q.Encode()
}

// body shows a part of one field. It is a reading of its own.
func (o *Console) body(v *visit) error {
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	q := v.req.URL.Query()
	name := q.Get("field")
	index, err := strconv.ParseUint(q.Get("entry"), 10, 63)
	if err == nil {
		err = record.CheckName(name)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	n, _ := strconv.Atoi(q.Get("part"))
	n = max(n, 1)
	s, err := o.c.Desk.View(v.req.Context(), v.asker(), id, fmt.Sprintf("part %d of %s in entry %d", n, name, index))
	if err != nil {
		return err
	}
	for _, e := range s.Entries {
		for _, f := range e.Fields {
			if e.Index != index || f.Shown == nil || f.Shown.Name != name {
				continue
			}
			page := bodyPage{ID: id, Entry: index, Field: name, Part: partOf(f.Shown.Value, n)}
			if page.Part.N > 1 {
				page.Prev = partAt(id, index, name, page.Part.N-1)
			}
			if page.Part.N < page.Part.Of {
				page.Next = partAt(id, index, name, page.Part.N+1)
			}
			return o.show(v, http.StatusOK, "body", name+" of session "+id.String(), page)
		}
	}
	return fmt.Errorf("%w: session %s has no %s in entry %d", audit.ErrNoField, id, name, index)
}

// bundle answers with the session's bundle, for the browser to check. What it is for is to play the session back and to hold it
// against its proofs: to hand a bundle out is an export.
func (o *Console) bundle(v *visit) error {
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	b, err := o.c.Desk.Bundle(v.req.Context(), v.asker(), audit.Play, "with its proofs, which the browser checks", id)
	if err != nil {
		return err
	}
	return v.bytes("application/json", b)
}

// bytes answers with something that is no page.
func (v *visit) bytes(kind string, b []byte) error {
	v.w.Header().Set("Content-Type", kind)
	v.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	v.w.Write(b)
	return nil
}

// attachment answers with a file, which the browser saves and does not show.
func (v *visit) attachment(name, kind string, b []byte) error {
	v.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	return v.bytes(kind, b)
}
