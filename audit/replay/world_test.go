package replay

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A told is a session as a test tells it. What is "" is not on record.
type told struct {
	target, model, ask string // POST to target
	anthropic          bool   // its request names a version of that API
	status             int
	head               [][2]string
	answer             string
	events             []time.Duration // when each event of the answer came, after it began; the events end in blank lines
	first, ended       time.Duration   // after it was sent
	outcome            record.Outcome
	err, finish        string
	refused            string // a code; then nothing was sent
	upstream           string
	unsent             bool // nothing was sent to a model
}

var epoch = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

var made int

// session puts it into the form of one that is on record.
func (w told) session(t testing.TB) verify.Session {
	t.Helper()
	made++
	sent := epoch.Add(time.Duration(made) * time.Minute)
	id := record.NewID(sent)
	var req, resp record.Record
	add := func(r *record.Record, name, value string) {
		if value != "" {
			r.Add(name, []byte(value))
		}
	}
	head := [][2]string{{"Content-Type", "application/json"}, {"Authorization", "(left out)"}, {"Idempotency-Key", "k1"}, {"Openai-Key", "sk-1"}, {"Openai-Beta", "x=1"}}
	if w.anthropic {
		head = append(head, [2]string{"Anthropic-Version", "2023-06-01"})
	}
	add(&req, record.FieldUpstream, w.upstream)
	add(&req, record.FieldModel, w.model)
	add(&req, record.FieldMethod, "POST")
	add(&req, record.FieldTarget, w.target)
	add(&req, record.FieldHeaders, string(pairs(head)))
	req.Add(record.FieldTimes, spellTimes(map[string]time.Time{"received": sent}))
	req.Add(record.FieldBody, []byte(w.ask))
	if w.refused != "" {
		add(&req, record.FieldStatus, strconv.Itoa(w.status))
		add(&req, record.FieldError, w.err)
		s := unrecorded(id, sent, piece{kind: record.Request, fields: req})
		e := record.Entry{
			Kind: record.Refused, By: "gw", Boot: id, Seq: 1, Time: sent, Session: id, Reason: w.refused,
			Root: tlog.HashLeaf(nil), Fields: len(req), Payload: tlog.HashLeaf(nil), PayloadSize: 1,
		}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Entries[0].Bytes = b
		return s
	}
	if w.status != 0 {
		add(&resp, record.FieldStatus, strconv.Itoa(w.status))
	}
	if w.head != nil {
		resp.Add(record.FieldHeaders, pairs(w.head))
	}
	add(&resp, record.FieldError, w.err)
	add(&resp, record.FieldFinish, w.finish)
	times := map[string]time.Time{"received": sent, "sent": sent, "first": sent.Add(w.first), "ended": sent.Add(w.ended)}
	if w.unsent {
		delete(times, "sent")
		delete(times, "first")
	}
	resp.Add(record.FieldTimes, spellTimes(times))
	if w.events != nil {
		table, last := []byte("["), time.Duration(0)
		parts := strings.SplitAfter(w.answer, "\n\n")
		for i, at := range w.events {
			table = record.AppendEvent(table, record.Event{Bytes: len(parts[i]), After: at - last})
			last = at
		}
		resp.Add(record.FieldEvents, append(table, ']'))
	}
	resp.Add(record.FieldBody, []byte(w.answer))
	if w.outcome == "" {
		w.outcome = record.Complete
	}
	s := unrecorded(id, sent, piece{kind: record.Request, fields: req}, piece{kind: record.Response, outcome: w.outcome, fields: resp})
	if len(s.Entries) != 2 {
		t.Fatal("the session cannot be spelt")
	}
	return s
}

var (
	jsonHead   = [][2]string{{"Content-Type", "application/json"}, {"X-Request-Id", "req_1"}, {"Date", "Fri, 02 Jan 2026 15:04:05 GMT"}, {"Set-Cookie", "(left out)"}, {"Connection", "keep-alive"}, {"Transfer-Encoding", "chunked"}, {"Content-Length", "7"}}
	streamHead = [][2]string{{"Content-Type", "text/event-stream; charset=utf-8"}, {"X-Request-Id", "req_2"}}
)

// asks is the body of a request for a chat.
func asks(model, prompt string, stream bool) string {
	return `{"model":` + strconv.Quote(model) + `,"stream":` + strconv.FormatBool(stream) + `,"messages":[{"role":"user","content":` + strconv.Quote(prompt) + `}]}`
}

// says is the answer to one.
func says(text string) string {
	return `{"id":"c1","object":"chat.completion","created":1,"model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":` + strconv.Quote(text) + `},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`
}

// streams is the answer to one as a stream, a word an event.
func streams(words ...string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(`data: {"id":"c1","object":"chat.completion.chunk","model":"m-1","choices":[{"index":0,"delta":{"content":` + strconv.Quote(w) + `},"finish_reason":null}]}` + "\n\n")
	}
	b.WriteString(`data: {"id":"c1","object":"chat.completion.chunk","model":"m-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n")
	b.WriteString("data: [DONE]\n\n")
	return b.String()
}
