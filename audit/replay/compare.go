package replay

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

// A Diff is two answers held against each other. What a model makes anew for every answer, and what says nothing of what was answered,
// is not compared: ids, times, fingerprints, how a stream was divided. Where a value is masked in one of the two, whatever stands
// there in the other is taken to be the same.
type Diff struct {
	// Same says that nothing differs that counts. Exact says that, and that the bodies are the same to the byte.
	Same  bool `json:"same"`
	Exact bool `json:"exact"`
	// First is the weightiest difference that counts; nil where Same.
	First *Difference `json:"first,omitempty"`
	// Differences are all of them, the weightiest first: how the answers ended, status, head, choices, tool calls, text, finish, usage,
	// and last what does not count. Of JSON there are the first hundred places at most.
	Differences []Difference `json:"differences,omitempty"`
	// Words are the first texts that differ, of the same choice, and where they do; none where all are the same.
	Words []Span `json:"words,omitempty"`
	A     Side   `json:"a"`
	B     Side   `json:"b"`
	// Notes say what may make answers differ that are to the same request, or look the same that are not.
	Notes []string `json:"notes,omitempty"`
}

// A Difference is one thing in which two answers differ.
type Difference struct {
	Part   string  `json:"part"`            // of the answer: one of the words below
	Where  string  `json:"where,omitempty"` // in it: a header's name, a choice, a place in JSON, a kind of token
	Call   *CallAt `json:"call,omitempty"`  // of a tool call
	In     Has     `json:"in"`              // which of the two have it at all
	A      string  `json:"a,omitempty"`
	B      string  `json:"b,omitempty"`
	Counts bool    `json:"counts"` // it is one to which Diff.Same pays heed
}

// The parts of an answer.
const (
	PartEnd       = "end" // whole, cut, or none
	PartStatus    = "status"
	PartHeader    = "header"
	PartChoices   = "choices" // how many
	PartCall      = "tool call"
	PartText      = "text"
	PartRefusal   = "refusal"
	PartReasoning = "reasoning"
	PartOther     = "other" // what a message has beside words and calls
	PartFinish    = "finish"
	PartUsage     = "usage"
	PartProblem   = "problem" // what went wrong, as the body says
	PartBody      = "body"    // in JSON place by place; it counts where there is no conversation in it
	PartEvents    = "events"
	PartModel     = "model" // that the answer names
)

// A CallAt says which tool call it is, and where in it.
type CallAt struct {
	Index int    `json:"index"` // among the calls of the answer, from 0
	Name  string `json:"name"`  // of the tool, in A, or in B where A has no such call
	// Path is the place in the arguments, such as .city or .days[0]; "" where all of them, or the whole call, differ.
	Path string `json:"path,omitempty"`
}

// String says in one line what differs. What callers and models wrote is quoted in it, and cannot do anything to a terminal.
func (d Difference) String() string { return d.Tell("a", "b") }

// Tell is String with names for the two answers.
func (d Difference) Tell(a, b string) string {
	where := d.Part
	switch {
	case d.Call != nil && d.Where == whereName:
		where = fmt.Sprintf("tool call %d, the name", d.Call.Index+1)
	case d.Call != nil:
		where = fmt.Sprintf("tool call %d, %s", d.Call.Index+1, short(d.Call.Name))
		if d.Where == whereArguments {
			where += ", arguments"
		}
		if d.Call.Path != "" {
			where += " at " + short(d.Call.Path)
		}
	case d.Where != "":
		where += ", " + short(d.Where)
	}
	switch d.In {
	case InA:
		return where + ": only in " + a + ": " + short(d.A)
	case InB:
		return where + ": only in " + b + ": " + short(d.B)
	}
	return where + ": " + short(d.A) + " in " + a + ", " + short(d.B) + " in " + b
}

// Where in a tool call.
const (
	whereName      = "name"
	whereArguments = "arguments"
)

// A Side is one of the two answers, in a few figures.
type Side struct {
	Session record.ID        `json:"session,omitzero"` // zero for an answer that is not on record
	Status  int              `json:"status,omitempty"`
	End     string           `json:"end"` // whole, cut, or none
	Model   string           `json:"model,omitempty"`
	Text    int              `json:"text_bytes"`
	Calls   int              `json:"tool_calls"`
	Finish  []string         `json:"finish,omitempty"`
	Usage   transcript.Usage `json:"usage"`
	Events  int              `json:"events"`
	Bytes   int              `json:"bytes"`
	// First and Duration are how long after it was sent the answer began, and how long it took, in microseconds; -1 where that is not
	// on record. They never count.
	First    int64 `json:"first_us"`
	Duration int64 `json:"duration_us"`
	Masked   bool  `json:"masked,omitempty"`
}

func sideOf(t *transcript.Transcript) Side {
	_, body := given(t)
	s := Side{
		Session: t.Session, Status: t.Answer.Status, End: endOf(t), Model: t.Answerer, Text: len(t.Reply()), Calls: len(t.Calls()), Usage: t.Usage,
		Events: len(t.Events), Bytes: len(body), First: -1, Duration: -1, Masked: masked(t),
	}
	for _, r := range t.Replies {
		s.Finish = append(s.Finish, r.Finish)
	}
	base := t.Times.Sent
	if base.IsZero() {
		base = t.Times.Received
	}
	if !base.IsZero() && !t.Times.First.Before(base) {
		s.First = since(base, t.Times.First).Microseconds()
	}
	if !base.IsZero() && !t.Times.Ended.Before(base) {
		s.Duration = since(base, t.Times.Ended).Microseconds()
	}
	return s
}

func endOf(t *transcript.Transcript) string {
	switch {
	case t.Answer.Status == 0:
		return "none"
	case broken(t):
		return "cut"
	}
	return "whole"
}

// Compare holds two answers against each other, whatever they are.
func Compare(a, b *transcript.Transcript) Diff {
	c := comparing{Diff: Diff{A: sideOf(a), B: sideOf(b)}}
	c.pair(PartEnd, "", c.A.End, c.B.End, true)
	c.pair(PartStatus, "", number(int64(c.A.Status)), number(int64(c.B.Status)), true)
	headA, bodyA := given(a)
	headB, bodyB := given(b)
	c.heads(headA, headB)
	if len(a.Replies) != len(b.Replies) {
		c.pair(PartChoices, "", strconv.Itoa(len(a.Replies)), strconv.Itoa(len(b.Replies)), true)
	}
	c.calls(a.Calls(), b.Calls())
	c.replies(a.Replies, b.Replies)
	c.pair(PartUsage, "in", tokens(a.Usage.In), tokens(b.Usage.In), true)
	c.pair(PartUsage, "out", tokens(a.Usage.Out), tokens(b.Usage.Out), true)
	switch {
	case len(a.Replies) == 0 && len(b.Replies) == 0:
		c.bodies(bodyA, bodyB, true)
	default:
		c.pair(PartProblem, "", a.Answer.Problem, b.Answer.Problem, true)
		if !a.Answer.Stream && !b.Answer.Stream && len(c.Differences) == 0 {
			c.bodies(bodyA, bodyB, false)
		}
	}
	c.pair(PartUsage, "read from a cache", tokens(a.Usage.CacheRead), tokens(b.Usage.CacheRead), false)
	c.pair(PartUsage, "written to a cache", tokens(a.Usage.CacheWrite), tokens(b.Usage.CacheWrite), false)
	c.pair(PartUsage, "reasoning", tokens(a.Usage.Reasoning), tokens(b.Usage.Reasoning), false)
	c.pair(PartModel, "", a.Answerer, b.Answerer, false)
	c.pair(PartEvents, "", strconv.Itoa(len(a.Events)), strconv.Itoa(len(b.Events)), false)
	c.Same = len(c.Differences) == 0 || !c.Differences[0].Counts
	if !c.Same {
		c.First = &c.Differences[0]
	}
	c.Exact = c.Same && string(bodyA) == string(bodyB)
	c.notes(a, b)
	return c.Diff
}

// A comparing is a comparison under way.
type comparing struct{ Diff }

func (c *comparing) add(d Difference) { c.Differences = append(c.Differences, d) }

// pair adds a difference of two texts, if they differ. One that is empty is not there.
func (c *comparing) pair(part, where, a, b string, counts bool) {
	if alike(a, b) {
		return
	}
	c.add(Difference{Part: part, Where: where, In: inOf(a, b), A: a, B: b, Counts: counts})
}

// inOf says which of two texts is there.
func inOf(a, b string) Has {
	switch {
	case a == "":
		return InB
	case b == "":
		return InA
	}
	return InBoth
}

// alike says whether two texts are the same but for what is masked in one of them.
func alike(a, b string) bool { return a == b || fits(a, b) || fits(b, a) }

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// tokens is a number of tokens, "" where it is not told.
func tokens(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// compared are the headers of an answer that are compared: those that change what a client makes of it.
var compared = []string{"Content-Type", "Content-Encoding", "Location", "Retry-After", "X-Should-Retry", "Openai-Version"}

func (c *comparing) heads(a, b []transcript.Header) {
	value := func(head []transcript.Header, name string) string {
		var all []string
		for _, h := range head {
			if strings.EqualFold(h.Name, name) {
				all = append(all, h.Value)
			}
		}
		return strings.Join(all, ", ")
	}
	for _, name := range compared {
		c.pair(PartHeader, name, value(a, name), value(b, name), true)
	}
}

// calls compares tool calls one by one, in their order.
func (c *comparing) calls(a, b []transcript.Call) {
	whole := func(t transcript.Call) string { return t.Name + "(" + t.Arguments + ")" }
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(b):
			c.add(Difference{Part: PartCall, Call: &CallAt{Index: i, Name: a[i].Name}, In: InA, A: whole(a[i]), Counts: true})
		case i >= len(a):
			c.add(Difference{Part: PartCall, Call: &CallAt{Index: i, Name: b[i].Name}, In: InB, B: whole(b[i]), Counts: true})
		default:
			c.call(i, a[i], b[i])
		}
	}
}

func (c *comparing) call(i int, a, b transcript.Call) {
	at := func(where, path, x, y string) {
		call := &CallAt{Index: i, Name: a.Name, Path: path}
		c.add(Difference{Part: PartCall, Where: where, Call: call, In: inOf(x, y), A: x, B: y, Counts: true})
	}
	if !alike(a.Name, b.Name) {
		at(whereName, "", a.Name, b.Name)
	}
	if alike(a.Arguments, b.Arguments) {
		return
	}
	x, xerr := decode([]byte(a.Arguments))
	y, yerr := decode([]byte(b.Arguments))
	if xerr != nil || yerr != nil {
		at(whereArguments, "", a.Arguments, b.Arguments)
		return
	}
	for _, d := range diffJSON(x, y, maxPlaces, nil) {
		at(whereArguments, d.Path, d.A, d.B)
	}
}

// maxPlaces is how many places of two JSON values are named.
const maxPlaces = 100

// replies compares what was said, choice by choice, kind by kind.
func (c *comparing) replies(a, b []transcript.Reply) {
	where := func(i int) string {
		if len(a) <= 1 && len(b) <= 1 {
			return ""
		}
		return "choice " + strconv.Itoa(i)
	}
	at := func(all []transcript.Reply, i int) (r transcript.Reply) {
		if i < len(all) {
			r = all[i]
		}
		return r
	}
	for i := range max(len(a), len(b)) {
		x, y := at(a, i), at(b, i)
		for _, part := range []struct {
			name string
			kind transcript.Kind
		}{
			{PartText, transcript.Text}, {PartRefusal, transcript.Refusal}, {PartReasoning, transcript.Reasoning},
		} {
			p, q := said(x, part.kind), said(y, part.kind)
			c.pair(part.name, where(i), p, q, true)
			if part.name == PartText && c.Words == nil && !alike(p, q) {
				c.Words = diffWords(p, q)
				c.firstWords(&c.Differences[len(c.Differences)-1])
			}
		}
		c.places(PartOther, where(i), rest(x), rest(y), true)
	}
	for i := range max(len(a), len(b)) {
		c.pair(PartFinish, where(i), at(a, i).Finish, at(b, i).Finish, true)
	}
}

// said are a reply's words of a kind.
func said(r transcript.Reply, kind transcript.Kind) string {
	var b strings.Builder
	for _, p := range r.Parts {
		if p.Kind == kind {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// rest is what a reply has beside words and calls, decoded.
func rest(r transcript.Reply) any {
	all := []any{}
	for _, p := range r.Parts {
		switch p.Kind {
		case transcript.Text, transcript.Refusal, transcript.Reasoning, transcript.ToolCall:
			continue
		}
		v, err := decode([]byte(p.Text))
		if err != nil {
			v = p.Text
		}
		if p.File != nil {
			v = fmt.Sprintf("%s %s %s, %d bytes", p.File.Type, p.File.Name, p.File.URL, p.File.Size)
		}
		all = append(all, v)
	}
	return all
}

// firstWords puts, in the place of two texts, where they first differ.
func (c *comparing) firstWords(d *Difference) {
	at := 0
	for i, s := range c.Words {
		if s.In == InBoth {
			at += len(s.Text)
			continue
		}
		d.Where = strings.TrimPrefix(d.Where+fmt.Sprintf(", from byte %d on", at), ", ")
		d.A, d.B, d.In = "", "", s.In
		if s.In == InB {
			d.B = s.Text
			return
		}
		d.A = s.Text
		if i+1 < len(c.Words) && c.Words[i+1].In == InB {
			d.B, d.In = c.Words[i+1].Text, InBoth
		}
		return
	}
}

// passing are the names of members that differ from answer to answer and say nothing of it.
var passing = regexp.MustCompile(`\.(id|created|created_at|completed_at|system_fingerprint|request_id|call_id|item_id|response_id|obfuscation|signature|encrypted_content)$`)

// bodies compares two bodies place by place, if they are JSON.
func (c *comparing) bodies(a, b []byte, counts bool) {
	if string(a) == string(b) {
		return
	}
	x, xerr := decode(a)
	y, yerr := decode(b)
	if xerr != nil || yerr != nil {
		c.pair(PartBody, "", string(a), string(b), counts)
		return
	}
	c.places(PartBody, "", x, y, counts)
}

// places adds the places in which two JSON values differ.
func (c *comparing) places(part, where string, x, y any, counts bool) {
	for _, d := range diffJSON(x, y, maxPlaces, passing.MatchString) {
		at := strings.TrimPrefix(where+", "+d.Path, ", ")
		c.add(Difference{Part: part, Where: at, In: inOf(d.A, d.B), A: d.A, B: d.B, Counts: counts})
	}
}

// notes says what else there is to know.
func (c *comparing) notes(a, b *transcript.Transcript) {
	say := func(s string) { c.Notes = append(c.Notes, s) }
	say("ids, times, fingerprints, and how a stream is divided into events are not compared")
	if masked(a) || masked(b) {
		say("values are masked: where one answer has a mask, whatever stands there in the other is taken to be the same; and a request that is masked is another request")
	}
	if a.Refused != "" || slices.Contains([]record.Outcome{record.Denied, record.Waiting, record.Resumed}, a.Outcome) {
		say("nothing of the first call was sent to a model: the gateway answered it")
	} else if why := unsteady(a); why != "" {
		say("the request lets a model answer otherwise each time: " + why)
	}
	for _, t := range []*transcript.Transcript{a, b} {
		if t.Erased || !shownWhole(t, record.Response, record.Refused) {
			say("not all of an answer is there: it was erased, or parts are withheld")
		}
	}
	if a.Answerer != "" && b.Answerer != "" && a.Answerer != b.Answerer {
		say("another model answered")
	}
}

// unsteady says why an answer need not be the same twice; "" where the request asks for what is.
func unsteady(t *transcript.Transcript) string {
	if t.Shape == transcript.HTTP || t.Shape == transcript.Embeddings || t.Shape == "" || t.Request.Method != http.MethodPost {
		return ""
	}
	seed := ""
	for _, p := range t.Request.Params {
		switch p.Name {
		case "temperature":
			if n, err := strconv.ParseFloat(p.Value, 64); err == nil && n == 0 {
				return "even with temperature 0 models are not wholly the same from call to call"
			}
		case "seed":
			seed = " (it has a seed, which most models do not promise to keep to)"
		}
	}
	return "it does not ask for temperature 0" + seed
}
