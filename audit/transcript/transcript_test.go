package transcript

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// holds checks what is true of every transcript, whatever it is of.
func holds(t *testing.T, x *Transcript) {
	t.Helper()
	if _, err := json.Marshal(x); err != nil {
		t.Errorf("it cannot be written as JSON: %v", err)
	}
	var raw []byte
	said := make(map[[2]int]string)
	names := make(map[[2]int]string)
	for i, e := range x.Events {
		raw = append(raw, e.Raw...)
		if i > 0 && e.At < x.Events[i-1].At {
			t.Errorf("event %d is before event %d", i, i-1)
		}
		for _, d := range e.Says {
			p := part(x, d.Choice, d.Part)
			if p == nil || p.Kind != d.Kind {
				t.Fatalf("event %d adds to part %d of choice %d, which is %v", i, d.Part, d.Choice, p)
			}
			said[[2]int{d.Choice, d.Part}] += d.Text
			names[[2]int{d.Choice, d.Part}] += d.Name
		}
	}
	if !bytes.HasPrefix(x.Answer.Body, raw) || len(raw) < len(x.Answer.Body) && len(x.Events) > 0 && len(x.Notes) == 0 {
		t.Errorf("the events have %d bytes that are not the body's %d", len(raw), len(x.Answer.Body))
	}
	for at, text := range said {
		p := part(x, at[0], at[1])
		whole := p.Text
		if p.Kind == ToolCall {
			whole = p.Call.Arguments
			if names[at] != p.Call.Name {
				t.Errorf("the name of call %v came as %q, and is %q", at, names[at], p.Call.Name)
			}
		}
		if text != whole && !(text == "" && p.Kind == ToolCall) {
			t.Errorf("part %v came as %q, and is %q", at, text, whole)
		}
	}
	for _, m := range x.Messages {
		for _, p := range m.Parts {
			sound(t, p)
		}
	}
	for _, r := range x.Replies {
		for _, p := range r.Parts {
			sound(t, p)
		}
	}
	if len(x.Notes) > mostNotes {
		t.Errorf("%d notes", len(x.Notes))
	}
	x.Text()
	x.Reply()
	x.Calls()
}

// sound checks that a part has what its kind has.
func sound(t *testing.T, p Part) {
	t.Helper()
	if (p.Kind == ToolCall || p.Kind == Result) != (p.Call != nil) || (p.Kind == Media) != (p.File != nil) {
		t.Errorf("a part of the kind %s with %v and %v", p.Kind, p.Call, p.File)
	}
}

func part(x *Transcript, choice, at int) *Part {
	for i := range x.Replies {
		if r := &x.Replies[i]; r.Choice == choice && at < len(r.Parts) {
			return &r.Parts[at]
		}
	}
	return nil
}

// recorded reads the sessions of a bundle.
func recorded(t testing.TB, name string) []verify.Session {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "bundles", name+".bundle"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := verify.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b.Sessions
}

const (
	stick = "You wrote: What is a tally stick?\n\nLet me put it plainly: it depends."
	split = "You wrote: Who split it, and why?\n\nOn the whole the evidence points one way, and it is not mine to say which."
)

// What a gateway recorded of a fake model, in every shape, whole and as a stream.
func TestRecorded(t *testing.T) {
	none := Usage{-1, -1, -1, -1, -1}
	for _, c := range []struct {
		name    string
		shape   Shape
		outcome record.Outcome
		status  int
		events  int
		reply   string
		finish  string
		call    string
		usage   Usage
		problem string
	}{
		{"chat-false", Chat, record.Complete, 200, 0, stick, "stop", "", Usage{18, 18, 0, -1, 0}, ""},
		{"chat-true", Chat, record.Complete, 200, 17, stick, "stop", "", Usage{18, 18, 0, -1, 0}, ""},
		{"chat-tool-false", Chat, record.Complete, 200, 0, "", "tool_calls", `refund {"cents":1,"order":"broken"}`, Usage{12, 11, 0, -1, 0}, ""},
		{"chat-tool-true", Chat, record.Complete, 200, 8, "", "tool_calls", `refund {"cents":1,"order":"broken"}`, none, ""},
		{"completions-false", Completions, record.Complete, 200, 0, stick, "stop", "", Usage{9, 18, -1, -1, -1}, ""},
		{"completions-true", Completions, record.Complete, 200, 15, stick, "stop", "", none, ""},
		{"messages-false", Messages, record.Complete, 200, 0, split, "end_turn", "", Usage{15, 28, 0, 0, -1}, ""},
		{"messages-true", Messages, record.Complete, 200, 28, split, "end_turn", "", Usage{15, 28, 0, 0, -1}, ""},
		{"messages-tool-false", Messages, record.Complete, 200, 0, "", "tool_use", `refund {"order":"broken"}`, Usage{29, 9, 0, 0, -1}, ""},
		{"messages-tool-true", Messages, record.Complete, 200, 10, "", "tool_use", `refund {"order":"broken"}`, Usage{29, 9, 0, 0, -1}, ""},
		{"responses-false", Responses, record.Complete, 200, 0, stick, "completed", "", Usage{15, 18, 0, -1, 0}, ""},
		{"responses-true", Responses, record.Complete, 200, 21, stick, "completed", "", Usage{15, 18, 0, -1, 0}, ""},
		{"responses-tool-false", Responses, record.Complete, 200, 0, "", "completed", `refund {"order":"broken"}`, Usage{12, 9, 0, -1, 0}, ""},
		{"responses-tool-true", Responses, record.Complete, 200, 9, "", "completed", `refund {"order":"broken"}`, Usage{12, 9, 0, -1, 0}, ""},
		{"embeddings", Embeddings, record.Complete, 404, 0, "", "", "", none, "The model `fake-embed` does not exist or you do not have access to it. (model_not_found)"},
		{"masked", Chat, record.Complete, 200, 10, "Charge ⟦CARD:5h3xakbuj3vnlgwyqwje⟧, ⟦EMAIL:5sj4yymzm75nh5z65to6⟧, please.", "stop", "", none, ""},
		{"error", Chat, record.Complete, 429, 0, "", "", "", none, "Rate limit reached for requests per min. Please try again in 20ms. (rate_limit_exceeded)"},
		{"error-mid", Messages, record.UpstreamError, 200, 4, "", "", "", Usage{11, 1, 0, 0, -1}, "Overloaded (overloaded_error)"},
		{"cut", Chat, record.Truncated, 200, 4, "You wrote: Tell", "", "", none, ""},
		{"failed", Responses, record.Complete, 200, 3, "", "failed", "", none, "The server had an error while processing your request. (server_error)"},
		{"comments", Chat, record.Complete, 200, 12, "You wrote: Hello\n\nI would look at the records first.", "stop", "", none, ""},
		{"nomodel", HTTP, "", 404, 0, "", "", "", none, ""},
		{"badjson", Chat, "", 400, 0, "", "", "", none, ""},
		{"denied", Chat, record.Denied, 403, 0, "", "", "", none, "the call was denied (01a21439-aed1-77bd-91f1-9f6d66ac278a, rule risky-model): certainly not (approval_denied)"},
	} {
		x := Of(recorded(t, c.name)[0])
		holds(t, x)
		finish, call := "", ""
		if len(x.Replies) > 0 {
			finish = x.Replies[0].Finish
		}
		for _, one := range x.Calls() {
			call += one.Name + " " + one.Arguments
		}
		if x.Shape != c.shape || x.Outcome != c.outcome || x.Answer.Status != c.status || len(x.Events) != c.events || x.Reply() != c.reply ||
			finish != c.finish || call != c.call || x.Usage != c.usage || x.Answer.Problem != c.problem {
			t.Errorf("%s: %s %s %d, %d events, %q, finish %q, calls %q, %v, %q", c.name, x.Shape, x.Outcome, x.Answer.Status, len(x.Events), x.Reply(), finish, call, x.Usage, x.Answer.Problem)
		}
		if x.Open || x.Erased || len(x.Notes) > 0 || x.Caller.Name != "demo" || x.Caller.How != "key" || x.Times.Received.IsZero() || x.Request.Method != "POST" || len(x.Request.Headers) == 0 {
			t.Errorf("%s: %+v", c.name, x)
		}
		if c.events > 0 && (x.Times.FirstByte() < 0 || x.Times.Duration() < x.Times.FirstByte()+x.Events[c.events-1].At) {
			t.Errorf("%s: the last event came after the end: %+v", c.name, x.Times)
		}
		if c.outcome == record.Complete && c.status == 200 && c.name != "failed" && x.Answerer != "fake-1" {
			t.Errorf("%s: answered by %q", c.name, x.Answerer)
		}
	}
}

func TestRecordedRequest(t *testing.T) {
	x := Of(recorded(t, "chat-true")[0])
	if want := []Message{
		{Role: "system", Parts: []Part{{Kind: Text, Text: "Be brief."}}}, {Role: "user", Parts: []Part{{Kind: Text, Text: "/slow 10ms What is a tally stick?"}}},
	}; !reflect.DeepEqual(x.Messages, want) {
		t.Errorf("messages: %v", x.Messages)
	}
	if want := []Param{{"stream_options", `{"include_usage":true}`}, {"temperature", "0.5"}}; !slices.Equal(x.Request.Params, want) || !x.Request.Stream {
		t.Errorf("params: %v", x.Request.Params)
	}
	for _, name := range []string{"chat-tool-true", "messages-tool-true", "responses-tool-true"} {
		if x := Of(recorded(t, name)[0]); !slices.Equal(x.Request.Tools, []Tool{{"refund", "Pays money back"}}) {
			t.Errorf("%s: tools %v", name, x.Request.Tools)
		}
	}
	x = Of(recorded(t, "masked")[0])
	if len(x.Findings) != 4 || x.Findings[0] != (Finding{"request", "CARD", "", 1}) || x.Findings[3].In != "answer" {
		t.Errorf("findings: %v", x.Findings)
	}
	masks := 0
	for _, e := range x.Events {
		if e.Masked {
			masks++
		}
	}
	if masks != 2 {
		t.Errorf("%d events have masks", masks)
	}
	if x := Of(recorded(t, "nomodel")[0]); x.Refused != "unknown_route" || !strings.Contains(x.Answer.Error, "no route") {
		t.Errorf("refused: %q %q", x.Refused, x.Answer.Error)
	}
}

// What people were asked, what they said, and who used what they said.
func TestRecordedApproval(t *testing.T) {
	both := recorded(t, "asked")
	used, asked := Of(both[0]), Of(both[1])
	holds(t, used)
	holds(t, asked)
	a := asked.Approval
	if asked.Outcome != record.Resumed || a == nil || a.Rule != "risky-model" || a.Need != 1 || !slices.Equal(a.Groups, []string{"approvers"}) ||
		a.Until.Sub(a.Asked) < 14*time.Minute || !strings.Contains(a.Message, "another person's yes") || !a.Used.IsZero() || !a.Expired.IsZero() {
		t.Errorf("the question: %+v", a)
	}
	if len(a.Words) != 1 || !a.Words[0].Yes() || a.Words[0].Actor != "approver" || a.Words[0].Reason != "it is Tuesday" || a.Words[0].How != "key" {
		t.Errorf("the answer: %+v", a.Words)
	}
	if u := used.Approval; u == nil || u.Of != asked.Session || u.Used.IsZero() || !u.Asked.IsZero() || used.Verdict != "ask" {
		t.Errorf("the use: %+v", used.Approval)
	}
	if d := Of(recorded(t, "denied")[0]).Approval; len(d.Words) != 1 || d.Words[0].Yes() || d.Words[0].Said != record.No || d.Words[0].Reason != "certainly not" {
		t.Errorf("the no: %+v", d)
	}
}

// A call is a session that a test makes.
type call struct {
	target, request string
	head            string // of the answer, as on record
	answer          string
	events          string // the table
	status          string
}

var begun = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func (c call) session(t testing.TB) verify.Session {
	t.Helper()
	id, err := record.ParseID("0198f2c1-667b-7728-960c-f5ec8c385e21")
	if err != nil {
		t.Fatal(err)
	}
	s := verify.Session{ID: id}
	add := func(e record.Entry, fields ...string) {
		var r record.Record
		for i := 0; i < len(fields); i += 2 {
			if fields[i+1] != "" {
				r.Add(fields[i], []byte(fields[i+1]))
			}
		}
		e.By, e.Boot, e.Session, e.Seq, e.Time = "gw", id, id, uint64(len(s.Entries)+1), begun
		e.Root, e.Fields, e.Payload, e.PayloadSize = r.Root(), len(r), tlog.HashLeaf(nil), 1
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Entries = append(s.Entries, verify.Entry{Index: uint64(len(s.Entries)), Bytes: b, Fields: verify.Fields(r, func(string) bool { return true })})
	}
	add(record.Entry{Kind: record.Request}, record.FieldSession, id.String(), record.FieldMethod, "POST", record.FieldTarget, c.target, record.FieldBody, c.request,
		record.FieldTimes, `{"received":"2026-01-02T15:04:05.000000Z"}`)
	add(record.Entry{Kind: record.Response, Outcome: record.Complete}, record.FieldSession, id.String(), record.FieldStatus, c.status, record.FieldHeaders, c.head,
		record.FieldEvents, c.events, record.FieldBody, c.answer,
		record.FieldTimes, `{"received":"2026-01-02T15:04:05.000000Z","sent":"2026-01-02T15:04:05.010000Z","first":"2026-01-02T15:04:05.250000Z","ended":"2026-01-02T15:04:06.000000Z"}`)
	return s
}

const (
	jsonHead   = `[["Content-Type","application/json"]]`
	streamHead = `[["Content-Type","text/event-stream; charset=utf-8"]]`
)

// events writes data as a stream of events, each with the name that its type says if named, and the table of it: one every millisecond.
func events(named bool, data ...string) (body, table string) {
	rows := []byte("[")
	for _, d := range data {
		e := "data: " + d + "\n\n"
		if typ := valueOf([]byte(d)).get("type").text(); named && typ != "" {
			e = "event: " + typ + "\n" + e
		}
		body += e
		rows = record.AppendEvent(rows, record.Event{Bytes: len(e), After: time.Millisecond})
	}
	return body, string(rows) + "]"
}

// told writes parts in a short form.
func told(parts []Part) string {
	var all []string
	for _, p := range parts {
		text := string(p.Kind) + " " + p.Text
		if p.Call != nil {
			text += fmt.Sprintf("%s(%s)%s", p.Call.Name, p.Call.Arguments, p.Call.ID)
		}
		if p.File != nil {
			text += strings.Join(strings.Fields(fmt.Sprintf("%s %q %s %d", p.File.Type, p.File.Name, p.File.URL, p.File.Size)), " ")
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// Answers as the providers' own documentation has them, whole and as streams: reasoning, refusals, several choices, several calls at
// once, caches.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, target string
		named        bool
		data         []string // one: a whole answer
		want         []string // the parts of each reply
		finish       string
		usage        Usage
		notes        int
	}{
		{
			"chat with reasoning and two calls", "/v1/chat/completions", false,
			[]string{`{"object":"chat.completion","model":"m-2","choices":[{"index":0,"message":{"role":"assistant","content":"I \u0068elp.","refusal":null,"reasoning_content":"Hm.","tool_calls":[{"id":"c1","type":"function","function":{"name":"a","arguments":"{\"x\":1}"}},{"id":"c2","type":"custom","custom":{"name":"b","input":"free"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":12}}}`},
			[]string{`text I help.; reasoning Hm.; call a({"x":1})c1; call b(free)c2`}, "tool_calls", Usage{100, 20, 64, -1, 12}, 0,
		},
		{
			"the same as a stream", "/v1/chat/completions", false,
			[]string{
				`{"object":"chat.completion.chunk","model":"m-2","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`,
				`{"choices":[{"index":0,"delta":{"reasoning_content":"H"}}]}`, `{"choices":[{"index":0,"delta":{"reasoning_content":"m."}}]}`,
				`{"choices":[{"index":0,"delta":{"content":"I h"}}]}`, `{"choices":[{"index":0,"delta":{"content":"elp."}}]}`,
				`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c2","function":{"name":"b","arguments":""}}]}}]}`,
				`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"a","arguments":"{\"x\""}},{"index":1,"function":{"arguments":"fr"}}]}}]}`,
				`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"ee"}},{"index":0,"function":{"arguments":":1}"}}]}}]}`,
				`{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`,
				`{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":64}}}`, `[DONE]`,
			},
			[]string{`reasoning Hm.; text I help.; call b(free)c2; call a({"x":1})c1`}, "tool_calls", Usage{100, 20, 64, -1, -1}, 0,
		},
		{
			"two choices, crossed, one of which is a refusal", "/v1/chat/completions", false,
			[]string{
				`{"choices":[{"index":1,"delta":{"role":"assistant","refusal":"No"}}]}`, `{"choices":[{"index":0,"delta":{"content":"Ye"}}]}`,
				`{"choices":[{"index":1,"delta":{"refusal":"."}},{"index":0,"delta":{"content":"s"}}]}`, `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, `[DONE]`,
			},
			[]string{"text Yes", "refusal No."}, "", Usage{-1, -1, -1, -1, -1}, 0,
		},
		{
			"an old function call", "/v1/chat/completions", false,
			[]string{`{"choices":[{"index":0,"message":{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},"finish_reason":"function_call"}]}`},
			[]string{"call f({})"}, "function_call", Usage{-1, -1, -1, -1, -1}, 0,
		},
		{
			"messages with thought, words, a call without arguments, and caches", "/v1/messages", true,
			[]string{
				`{"type":"message_start","message":{"model":"m-3","role":"assistant","content":[],"usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":1000,"output_tokens":1}}}`,
				`{"type":"ping"}`, `{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
				`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me"}}`, `{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":" see."}}`,
				`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCg=="}}`, `{"type":"content_block_stop","index":0}`,
				`{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}`, `{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Well."}}`, `{"type":"content_block_stop","index":1}`,
				`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"now","input":{}}}`, `{"type":"content_block_stop","index":2}`,
				`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t2","name":"pay","input":{}}}`, `{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\": "}}`,
				`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"1}"}}`, `{"type":"content_block_stop","index":3}`,
				`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":42}}`, `{"type":"message_stop"}`,
			},
			[]string{`reasoning Let me see.; text Well.; call now({})t1; call pay({"a": 1})t2`}, "tool_use", Usage{1015, 42, 1000, 5, -1}, 0,
		},
		{
			"a whole message", "/v1/messages", true,
			[]string{`{"type":"message","role":"assistant","model":"m-3","content":[{"type":"redacted_thinking","data":"Zm9v"},{"type":"text","text":"Well."},{"type":"tool_use","id":"t2","name":"pay","input":{"a":1}},{"type":"web_search_tool_result","content":[]}],"stop_reason":"tool_use","usage":{"input_tokens":10,"output_tokens":42}}`},
			[]string{`other {"type":"redacted_thinking","data":"Zm9v"}; text Well.; call pay({"a":1})t2; other {"type":"web_search_tool_result","content":[]}`}, "tool_use", Usage{10, 42, -1, -1, -1}, 0,
		},
		{
			"a response with reasoning, words, two calls and a search", "/v1/responses", true,
			[]string{
				`{"type":"response.created","response":{"model":"m-4","output":[]}}`, `{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"r","summary":[]}}`,
				`{"type":"response.reasoning_summary_text.delta","output_index":0,"summary_index":0,"delta":"Thin"}`, `{"type":"response.reasoning_summary_text.delta","output_index":0,"summary_index":0,"delta":"king"}`,
				`{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"Thinking"}]}}`,
				`{"type":"response.output_item.added","output_index":1,"item":{"type":"web_search_call","id":"w","status":"in_progress"}}`,
				`{"type":"response.output_item.done","output_index":1,"item":{"type":"web_search_call","id":"w","status":"completed"}}`,
				`{"type":"response.output_item.added","output_index":2,"item":{"type":"message","role":"assistant","content":[]}}`,
				`{"type":"response.content_part.added","output_index":2,"content_index":0,"part":{"type":"output_text","text":""}}`,
				`{"type":"response.output_text.delta","output_index":2,"content_index":0,"delta":"Wel"}`, `{"type":"response.output_text.delta","output_index":2,"content_index":0,"delta":"l."}`,
				`{"type":"response.output_text.done","output_index":2,"content_index":0,"text":"Well."}`,
				`{"type":"response.output_item.added","output_index":3,"item":{"type":"function_call","call_id":"k1","name":"pay","arguments":""}}`,
				`{"type":"response.function_call_arguments.delta","output_index":3,"delta":"{\"a\""}`, `{"type":"response.function_call_arguments.delta","output_index":3,"delta":":1}"}`,
				`{"type":"response.function_call_arguments.done","output_index":3,"arguments":"{\"a\":1}"}`,
				`{"type":"response.output_item.done","output_index":4,"item":{"type":"custom_tool_call","call_id":"k2","name":"run","input":"ls"}}`,
				`{"type":"response.completed","response":{"model":"m-4","status":"completed","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"Thinking"}]},{"type":"web_search_call","id":"w","status":"completed"},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Well."}]},{"type":"function_call","call_id":"k1","name":"pay","arguments":"{\"a\":1}"},{"type":"custom_tool_call","call_id":"k2","name":"run","input":"ls"}],"usage":{"input_tokens":30,"output_tokens":9,"input_tokens_details":{"cached_tokens":16},"output_tokens_details":{"reasoning_tokens":4}}}}`,
			},
			[]string{`reasoning Thinking; other {"type":"web_search_call","id":"w","status":"completed"}; text Well.; call pay({"a":1})k1; call run(ls)k2`}, "completed", Usage{30, 9, 16, -1, 4}, 0,
		},
		{
			"a whole response that was not finished", "/v1/responses", true,
			[]string{`{"object":"response","model":"m-4","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"error":null,"output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"We"},{"type":"refusal","refusal":"no"}]}],"usage":{"input_tokens":3,"output_tokens":1}}`},
			[]string{"text We; refusal no"}, "max_output_tokens", Usage{3, 1, -1, -1, -1}, 0,
		},
		{
			"a response whose end says something else", "/v1/responses", true,
			[]string{
				`{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"Yes"}`, `{"type":"response.output_text.done","output_index":0,"content_index":0,"text":"No"}`,
				`{"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"No"}]}]}}`,
			},
			[]string{"text Yes"}, "completed", Usage{-1, -1, -1, -1, -1}, 1,
		},
		{
			"a response of which only the end came", "/v1/responses", true,
			[]string{`{"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"No"}]}]}}`, `{"type":"response.unknown.delta","delta":"x"}`},
			[]string{"text No"}, "completed", Usage{-1, -1, -1, -1, -1}, 0,
		},
		{
			"a response of which only the ends of parts came", "/v1/responses", true,
			[]string{
				`{"type":"response.refusal.done","output_index":0,"content_index":0,"refusal":"No"}`, `{"type":"response.output_text.done","output_index":1,"content_index":0,"text":"Yes"}`,
				`{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","call_id":"k","name":"f"}}`, `{"type":"response.function_call_arguments.done","output_index":2,"arguments":"{}"}`,
				`{"type":"response.output_item.added","output_index":3,"item":{"type":"custom_tool_call","call_id":"l","name":"g"}}`, `{"type":"response.custom_tool_call_input.done","output_index":3,"input":"x"}`,
				`{"type":"response.reasoning_text.delta","output_index":4,"content_index":0,"delta":"Hm"}`, `{"type":"response.output_audio_transcript.delta","output_index":5,"delta":"La"}`, `{"type":"response.refusal.delta","output_index":6,"content_index":0,"delta":"Nay"}`,
				`{"type":"response.custom_tool_call_input.delta","output_index":3,"delta":"y"}`, `{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"content_filter"}}}`,
			},
			[]string{"refusal No; text Yes; call f({})k; call g(xy)l; reasoning Hm; text La; refusal Nay"}, "content_filter", Usage{-1, -1, -1, -1, -1}, 0,
		},
		{
			"what breaks off", "/v1/chat/completions", false,
			[]string{`{"model":"m-2","choices":[{"index":0,"message":{"role":"assistant","content":"it is \u00e`},
			[]string{"text it is "}, "", Usage{-1, -1, -1, -1, -1}, 1,
		},
	} {
		s := call{target: c.target, request: `{}`, head: jsonHead, answer: c.data[0], status: "200"}
		if len(c.data) > 1 {
			s.head = streamHead
			s.answer, s.events = events(c.named, c.data...)
		}
		x := Of(s.session(t))
		holds(t, x)
		var got []string
		finish := ""
		for _, r := range x.Replies {
			got = append(got, told(r.Parts))
			finish += r.Finish
			if r.Finish != "" && c.finish == "" {
				finish = ""
			}
		}
		if !slices.Equal(got, c.want) || finish != c.finish || x.Usage != c.usage || len(x.Notes) != c.notes {
			t.Errorf("%s:\n%q\nfinish %q, usage %v, notes %q", c.name, got, finish, x.Usage, x.Notes)
		}
		for i, e := range x.Events {
			if e.At != time.Duration(i+1)*time.Millisecond {
				t.Errorf("%s: event %d at %s", c.name, i, e.At)
			}
		}
		if len(c.data) == 1 {
			continue
		}
		// The same without a table, with carriage returns, and with a table that is not the body's.
		for name, change := range map[string]func(*call){
			"no table":        func(s *call) { s.events = "" },
			"another's table": func(s *call) { s.events = "[[1,2]]" },
			"CRLF": func(s *call) {
				s.events = ""
				s.answer = strings.ReplaceAll(s.answer, "\n", "\r\n")
			},
			"CR": func(s *call) {
				s.answer = strings.ReplaceAll(s.answer, "\n", "\r")
			},
			"one event":      func(s *call) { s.events = fmt.Sprintf("[[%d,0]]", len(s.answer)) },
			"event by event": func(s *call) { s.events = "[[1,0]" + strings.Repeat(",[1,0]", len(s.answer)-1) + "]" },
		} {
			s := s
			change(&s)
			x := Of(s.session(t))
			if name != "another's table" && name != "one event" {
				holds(t, x)
			}
			var again []string
			for _, r := range x.Replies {
				again = append(again, told(r.Parts))
			}
			if !slices.Equal(again, c.want) {
				t.Errorf("%s, %s: %q %q", c.name, name, again, x.Notes)
			}
		}
	}
}
