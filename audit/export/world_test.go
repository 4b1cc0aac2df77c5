package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A call is what a test records.
type call struct {
	method, target string
	headers        [][2]string
	body           string
	status         int
	answerHeaders  [][2]string
	answer         string
	events         [][2]int64 // bytes, microseconds
	outcome        record.Outcome
	refused        string
	more           map[string]string // further fields of the request
	unsent         bool
}

var began = time.Date(2026, 11, 25, 19, 27, 6, 810594000, time.UTC)

// bundleOf makes a bundle of calls. Its proofs are none: that is not what is tested with it.
func bundleOf(t testing.TB, calls ...call) []byte {
	t.Helper()
	b := &verify.Bundle{Origin: "log.example/test", Checkpoint: []byte("log.example/test\n40\n" + tlog.EmptyRoot().String() + "\n\n— log.example/test MaIT5jAw\n")}
	boot := record.NewID(began)
	for i, c := range calls {
		id := record.NewID(began.Add(time.Duration(i) * time.Second))
		s := verify.Session{ID: id}
		last := tlog.Hash{}
		add := func(e record.Entry, r record.Record) {
			e.By, e.Boot, e.Seq, e.Session = "gw-1", boot, uint64(2*i+len(s.Entries)+1), id
			e.Root, e.Fields, e.PayloadSize = r.Root(), len(r), 100
			if e.Kind != record.Request && e.Kind != record.Refused {
				e.Prev = last
			}
			raw, err := e.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			last = tlog.HashLeaf(raw)
			s.Entries = append(s.Entries, verify.Entry{Index: uint64(2*i + len(s.Entries)), Bytes: raw, Fields: verify.Fields(r, func(string) bool { return true })})
		}
		stamp := func(d time.Duration) string { return began.Add(d).Format("2006-01-02T15:04:05.000000Z") }
		text := func(r *record.Record, name, v string) {
			if v != "" {
				r.Add(name, []byte(v))
			}
		}
		var r record.Record
		text(&r, record.FieldSession, id.String())
		text(&r, record.FieldCaller, "alice")
		text(&r, record.FieldRoute, "openai")
		if c.more[record.FieldUpstream] == "" {
			text(&r, record.FieldUpstream, "https://api.example.com")
		}
		if c.more[record.FieldModel] == "" {
			text(&r, record.FieldModel, "fake-1")
		}
		text(&r, record.FieldMethod, c.method)
		text(&r, record.FieldTarget, c.target)
		text(&r, record.FieldHeaders, pairsOf(t, c.headers))
		text(&r, record.FieldTimes, `{"received":"`+stamp(0)+`"}`)
		for name, v := range c.more {
			text(&r, name, v)
		}
		r.Add(record.FieldBody, []byte(c.body))
		if c.refused != "" {
			text(&r, record.FieldStatus, fmt.Sprint(c.status))
			text(&r, record.FieldError, "it may not")
			add(record.Entry{Kind: record.Refused, Reason: c.refused, Time: began}, r)
			b.Sessions = append(b.Sessions, s)
			continue
		}
		add(record.Entry{Kind: record.Request, Time: began}, r)
		var a record.Record
		text(&a, record.FieldSession, id.String())
		text(&a, record.FieldStatus, fmt.Sprint(c.status))
		times := `{"received":"` + stamp(0) + `","sent":"` + stamp(1500*time.Microsecond) + `","first":"` + stamp(21500*time.Microsecond) + `","ended":"` + stamp(334293*time.Microsecond) + `"}`
		if c.unsent {
			times = `{"received":"` + stamp(0) + `","ended":"` + stamp(334293*time.Microsecond) + `"}`
		}
		text(&a, record.FieldTimes, times)
		text(&a, record.FieldHeaders, pairsOf(t, c.answerHeaders))
		if c.events != nil {
			v, err := json.Marshal(c.events)
			if err != nil {
				t.Fatal(err)
			}
			text(&a, record.FieldEvents, string(v))
		}
		a.Add(record.FieldBody, []byte(c.answer))
		out := c.outcome
		if out == "" {
			out = record.Complete
		}
		add(record.Entry{Kind: record.Response, Outcome: out, Time: began.Add(400 * time.Millisecond)}, a)
		b.Sessions = append(b.Sessions, s)
	}
	raw, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func pairsOf(t testing.TB, hs [][2]string) string {
	if hs == nil {
		hs = [][2]string{}
	}
	b, err := json.Marshal(hs)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// as exports and fails the test where that fails.
func as(t testing.TB, f Format, bundle []byte) []byte {
	t.Helper()
	name, kind, b, err := As(f, bundle, About{By: "carol", Reason: "case 12", At: began, Software: "tallystick/0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if name == "" || kind == "" || bytes.ContainsAny([]byte(name), `/\ `) {
		t.Errorf("%s: the name %q, the type %q", f, name, kind)
	}
	return b
}

// stream makes a stream of events and the table of its pieces, 20 ms apart.
func stream(events ...string) (body string, table [][2]int64) {
	for _, e := range events {
		body += e
		table = append(table, [2]int64{int64(len(e)), 20000})
	}
	return body, table
}

func chunk(delta string) string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"fake-1-2026","choices":[{"index":0,"delta":` + delta + `,"finish_reason":null}]}` + "\n\n"
}

const chatRequest = `{"model":"fake-1","stream":true,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"What is a tally stick?"}],"tools":[{"type":"function","function":{"name":"look_up","description":"looks it up","parameters":{"type":"object","properties":{"q":{"type":"string"}}}}}],"temperature":0.5}`

var jsonHead = [][2]string{{"Host", "127.0.0.1:8080"}, {"Content-Type", "application/json"}, {"Authorization", "(left out)"}, {"User-Agent", "probe/1"}, {"Content-Length", "99"}}

// chatStream is a streamed chat with a call of a tool.
func chatStream() call {
	body, table := stream(
		chunk(`{"role":"assistant","content":""}`), chunk(`{"content":"A stick, "}`), chunk(`{"content":"split in two."}`),
		chunk(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look_up","arguments":"{\"q\":"}}]}`),
		chunk(`{"tool_calls":[{"index":0,"function":{"arguments":"\"tally\"}"}}]}`),
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"fake-1-2026","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}`+"\n\n",
		"data: [DONE]\n\n")
	return call{
		method: "POST", target: "/v1/chat/completions?trace=a%20b&x", headers: jsonHead, body: chatRequest, status: 200,
		answerHeaders: [][2]string{{"Content-Type", "text/event-stream; charset=utf-8"}}, answer: body, events: table,
	}
}

// message is an Anthropic call that is answered at once.
func message() call {
	return call{
		method: "POST", target: "/v1/messages", headers: [][2]string{{"Content-Type", "application/json"}, {"X-Api-Key", "(left out)"}, {"Anthropic-Version", "2023-06-01"}},
		body:   `{"model":"claude-x","max_tokens":64,"system":"Be brief.","messages":[{"role":"user","content":[{"type":"text","text":"hello"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGVsbG8="}}]},{"role":"assistant","content":[{"type":"tool_use","id":"tu_1","name":"look_up","input":{"q":"x"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"tu_1","content":"found"},{"type":"text","text":"so?"}]}],"tools":[{"name":"look_up","description":"looks it up","input_schema":{"type":"object"}}]}`,
		status: 200, answerHeaders: [][2]string{{"Content-Type", "application/json"}},
		answer: `{"id":"msg_1","type":"message","role":"assistant","model":"claude-x-1","content":[{"type":"text","text":"Hi."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}`,
		more:   map[string]string{record.FieldModel: "claude-x"},
	}
}

// response is a call of the responses API.
func response() call {
	return call{
		method: "POST", target: "/v1/responses", headers: jsonHead,
		body:   `{"model":"fake-1","instructions":"Be brief.","previous_response_id":"resp_0","input":[{"role":"user","content":[{"type":"input_text","text":"weather?"}]}],"tools":[{"type":"function","name":"look_up","parameters":{"type":"object"}},{"type":"web_search"}]}`,
		status: 200, answerHeaders: [][2]string{{"Content-Type", "application/json"}},
		answer: `{"id":"resp_1","object":"response","status":"completed","model":"fake-1-2026","output":[{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}]},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Rain."}]},{"type":"function_call","call_id":"call_9","name":"look_up","arguments":"{\"q\":\"rain\"}"}],"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}`,
	}
}
