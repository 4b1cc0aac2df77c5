package transcript

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// What is asked, in the words of each provider.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		target, body string
		shape        Shape
		want         []string // role, name, parts
		notes        int
	}{
		{
			"/openai/deployments/x/chat/completions?api-version=1",
			`{"model":"m","messages":[{"role":"developer","content":"Be kind."},
			{"role":"user","name":"ann","content":[{"type":"text","text":"What is this?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}},{"type":"image_url","image_url":{"url":"https://a.example/b,c.png"}},{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERg=="}}]},
			{"role":"assistant","content":null,"reasoning_content":"Hm.","tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{\"a\":1}"}}]},
			{"role":"tool","tool_call_id":"c1","content":"a cat"},{"role":"function","name":"old","content":"b"},{"role":"assistant","refusal":"No."},7]}`,
			Chat,
			[]string{
				"developer: text Be kind.",
				`user ann: text What is this?; media image/png "" 8; media image "" https://a.example/b,c.png 0; media audio/wav "" 4; media application/pdf "a.pdf" 4`,
				`assistant: reasoning Hm.; call look({"a":1})c1`, "tool: result a cat()c1", "function old: result bold()", "assistant: refusal No.", ": ",
			}, 0,
		},
		{
			"/v1/messages",
			`{"model":"m","system":[{"type":"text","text":"Be kind.","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"Look"},
			{"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":"x"},{"type":"tool_use","id":"t1","name":"look","input":{"a":1}}]},
			{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"a"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]},{"type":"tool_result","tool_use_id":"t2","content":"b"}]},
			{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}},{"type":"document","title":"Law","source":{"type":"url","url":"https://a.example/l.pdf"}},{"type":"who_knows","x":1}]}]}`,
			Messages,
			[]string{
				"system: text Be kind.", "user: text Look", `assistant: reasoning Hm.; call look({"a":1})t1`, "user: result a\n[image/png]()t1; result b()t2",
				`user: media image/png "" 8; media document "Law" https://a.example/l.pdf 0; other {"type":"who_knows","x":1}`,
			}, 0,
		},
		{
			"/v1/responses",
			`{"model":"m","instructions":"Be kind.","input":[{"role":"user","content":"Look"},{"type":"message","role":"user","content":[{"type":"input_text","text":"here"},{"type":"input_image","image_url":"https://a.example/b.png"},{"type":"input_file","filename":"a.pdf","file_data":"JVBERg=="}]},
			{"type":"reasoning","summary":[{"type":"summary_text","text":"Hm."}],"encrypted_content":"gAAA"},{"type":"function_call","call_id":"k","name":"look","arguments":"{}"},{"type":"function_call_output","call_id":"k","output":"a cat"},{"type":"item_reference","id":"i"}]}`,
			Responses,
			[]string{
				"system: text Be kind.", "user: text Look", `user: text here; media image "" https://a.example/b.png 0; media file "a.pdf" 4`, "assistant: reasoning Hm.",
				"assistant: call look({})k", "tool: result a cat()k", `assistant: other {"type":"item_reference","id":"i"}`,
			}, 0,
		},
		{"/v1/completions", `{"model":"m","prompt":["a","b"]}`, Completions, []string{"user: text a", "user: text b"}, 0},
		{"/v1/completions", `{"model":"m","prompt":[[1,2],[3]]}`, Completions, nil, 1},
		{"/v1/embeddings", `{"model":"m","input":"a"}`, Embeddings, []string{"user: text a"}, 0},
		{"/api/chat", `{"model":"m","messages":[{"role":"user","content":"a"}]}`, Chat, []string{"user: text a"}, 0},
		{"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"it breaks o`, Chat, []string{"user: text it breaks o"}, 1},
		{"/v1/chat/completions", `{"model":"m","messages":"none","tools":{"a":1},"stream":"yes"}`, Chat, nil, 0},
		{"/v1/chat/completions", `not JSON`, Chat, nil, 0},
		{"/upload", `{"anything":1}`, HTTP, nil, 0},
		{"/upload", "", HTTP, nil, 0},
	} {
		x := Of(call{target: c.target, request: c.body, status: "200"}.session(t))
		holds(t, x)
		var got []string
		for _, m := range x.Messages {
			got = append(got, strings.TrimSpace(m.Role+" "+m.Name)+": "+told(m.Parts))
		}
		if x.Shape != c.shape || !slices.Equal(got, c.want) || len(x.Notes) != c.notes {
			t.Errorf("%s: %s\n%q\n%q %q", c.target, x.Shape, got, c.want, x.Notes)
		}
		if string(x.Request.Body) != c.body || x.Request.Stream {
			t.Errorf("%s: the body is %q", c.target, x.Request.Body)
		}
	}
}

// The words of a session, for an index: all of them, and nothing that is packed.
func TestText(t *testing.T) {
	blob := strings.Repeat("iVBORw0KGgoAAAANSUhEUg", 40)
	x := Of(call{
		target:  "/v1/chat/completions",
		request: `{"model":"m","user":"u-17","messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"Caf\u00e9 & co"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + blob + `"}},{"type":"other_blob","data":"` + blob + `","alt":"a picture"},{"type":"file","file":{"filename":"contract.pdf"}},{"type":"image_url","image_url":{"url":"https://a.example/cat"}}]}],"tools":[{"type":"function","function":{"name":"refund","description":"Pays back"}}]}`,
		head:    jsonHead, status: "200",
		answer: `{"choices":[{"message":{"content":"Of course.","reasoning_content":"Shall I?","tool_calls":[{"id":"c","function":{"name":"refund","arguments":"{\"order\":\"seventeen\",\"n\":1}"}}]}}]}`,
	}.session(t))
	text := x.Text()
	for _, want := range []string{"u-17", "Be kind.", "Café & co", "a picture", "contract.pdf", "https://a.example/cat", "refund", "Pays back", "Of course.", "Shall I?", "seventeen"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	if strings.Contains(text, "iVBOR") {
		t.Error("an image is in it")
	}
	if x.Reply() != "Of course." {
		t.Errorf("reply %q", x.Reply())
	}
	for _, c := range []struct{ head, answer, want string }{
		{`[["Content-Type","application/x-ndjson"]]`, "{\"message\":{\"content\":\"Hel\"}}\n{\"message\":{\"content\":\"lo\"}}\n", "Hel\nlo"},
		{`[["Content-Type","text/plain"]]`, "plain words", "plain words"},
		{`[["Content-Type","image/png"]]`, "\x89PNG words", ""},
		{`[["Content-Type","text/event-stream"]]`, "data: {\"a\":\"words\"}\n\ndata: more\n\n", "words\nmore"},
		{`[["Content-Type","application/json"],["Content-Encoding","gzip"]]`, "\x1f\x8b", ""},
		{`[["Content-Type","application/json"]]`, `{"error":{"message":"too fast","type":"rate","code":null}}`, "too fast (rate)"},
		{`[["Content-Type","application/json"]]`, `{"error":"too fast"}`, "too fast"},
		{`[["Content-Type","application/json"]]`, `{"error":["x"]}`, `["x"]`},
	} {
		x := Of(call{target: "/x", request: `{"q":"asked"}`, head: c.head, answer: c.answer, status: "200"}.session(t))
		holds(t, x)
		if got := x.Text(); got != strings.TrimSpace("asked\n"+c.want) {
			t.Errorf("%s: %q", c.answer, got)
		}
	}
}

// A session that is open, erased, disclosed in part, or not to be read.
func TestNotThere(t *testing.T) {
	whole := recorded(t, "chat-true")[0]
	open := verify.Session{ID: whole.ID, Entries: whole.Entries[:1]}
	if x := Of(open); !x.Open || x.Outcome != "" || len(x.Messages) != 2 || len(x.Notes) > 0 {
		t.Errorf("open: %+v", x)
	}
	gone := verify.Session{ID: whole.ID}
	for _, e := range whole.Entries {
		gone.Entries = append(gone.Entries, verify.Entry{Index: e.Index, Bytes: e.Bytes})
	}
	e := record.Entry{Kind: record.Erasure, By: "desk", Boot: whole.ID, Session: whole.ID, Seq: 9, Time: begun, Reason: "request", Fields: 2, PayloadSize: 1}
	var r record.Record
	r.Add(record.FieldActor, []byte("ann"))
	r.Add(record.FieldBasis, []byte("Article 17"))
	e.Root, e.Payload = r.Root(), r.Root()
	b, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if x := Of(gone); x.Erased || len(x.Notes) != 2 {
		t.Errorf("not here: %+v", x)
	}
	gone.Entries = append(gone.Entries, verify.Entry{Index: 99, Bytes: b, Fields: verify.Fields(r, func(string) bool { return true })})
	x := Of(gone)
	holds(t, x)
	if !x.Erased || x.Outcome != record.Complete || len(x.Erasures) != 1 || x.Erasures[0].Actor != "ann" || x.Erasures[0].Basis != "Article 17" || len(x.Notes) != 0 || x.Entries[0].Fields != 15 || x.Entries[0].Shown != 0 || x.Text() != "" {
		t.Errorf("erased: %+v", x)
	}
	disclosed := verify.Session{ID: whole.ID}
	for _, e := range whole.Entries {
		d := verify.Entry{Index: e.Index, Bytes: e.Bytes}
		for _, f := range e.Fields {
			if f.Shown.Name != record.FieldCaller {
				f = verify.Field{Withheld: f.Shown.Hash()}
			}
			d.Fields = append(d.Fields, f)
		}
		disclosed.Entries = append(disclosed.Entries, d)
	}
	if x := Of(disclosed); x.Caller.Name != "demo" || len(x.Notes) != 2 || x.Entries[0].Shown != 1 || x.Entries[0].Fields != 15 || x.Times.Duration() != -1 || x.Times.FirstByte() != -1 {
		t.Errorf("disclosed: %+v", x)
	}
	if x := Of(verify.Session{Entries: []verify.Entry{{Bytes: []byte("{}")}}}); len(x.Notes) != 1 || !x.Open {
		t.Errorf("no entry: %+v", x)
	}
	if x := Of(verify.Session{}); len(x.Notes) != 1 {
		t.Errorf("nothing: %+v", x)
	}
	// Fields that are not what they should be are left out, and said.
	bad := call{target: "/x", head: "[[1]]", events: "[[1]", status: "many", answer: "a"}.session(t)
	x = Of(bad)
	holds(t, x)
	if x.Answer.Status != 0 || x.Answer.Headers != nil || len(x.Notes) != 3 || string(x.Answer.Body) != "a" {
		t.Errorf("bad fields: %q %+v", x.Notes, x.Answer)
	}
}

// Every field of a record that has a meaning is read.
func TestFields(t *testing.T) {
	s := call{target: "/x", status: "200"}.session(t)
	set := func(at int, fields ...string) {
		r := record.Record{}
		for i := 0; i < len(fields); i += 2 {
			r.Add(fields[i], []byte(fields[i+1]))
		}
		s.Entries[at].Fields = verify.Fields(r, func(string) bool { return true })
	}
	set(0, record.FieldCaller, "ann", record.FieldKey, "ann-2", record.FieldHow, "oidc", record.FieldIssuer, "https://idp.example", record.FieldSubject, "17",
		record.FieldEmail, "ann@idp.example", record.FieldGroups, `["a","b"]`, record.FieldAuthed, "2026-01-02T15:00:00Z", record.FieldRemote, "192.0.2.1:5",
		record.FieldRoute, "openai", record.FieldUpstream, "http://model.example", record.FieldModel, "m", record.FieldPolicy, "abc", record.FieldVerdict, "ask",
		record.FieldRule, "r", record.FieldFailed, "x\ny", record.FieldFindings, `[["CARD","",2],["OTHER","ticket",1]]`, record.FieldTimes, `{"received":"2026-01-02T15:04:05Z"}`)
	set(1, record.FieldStatus, "503", record.FieldFinish, "[DONE]", record.FieldRedacted, "3", record.FieldError, "it broke", record.FieldKept, "5 bytes",
		record.FieldTimes, `{"first":"2026-01-02T15:04:06Z","closed":"2026-01-02T16:00:00Z"}`, record.FieldFindings, `[["EMAIL","",1]]`)
	x := Of(s)
	holds(t, x)
	if want := (Caller{"ann", "ann-2", "oidc", "https://idp.example", "17", "ann@idp.example", []string{"a", "b"}, begun.Add(-245 * time.Second)}); !reflect.DeepEqual(x.Caller, want) {
		t.Errorf("caller: %+v", x.Caller)
	}
	if x.Remote != "192.0.2.1:5" || x.Route != "openai" || x.Upstream != "http://model.example" || x.Model != "m" || x.Policy != "abc" || x.Verdict != "ask" || x.Rule != "r" ||
		!slices.Equal(x.Failed, []string{"x", "y"}) {
		t.Errorf("%+v", x)
	}
	if want := []Finding{{"request", "CARD", "", 2}, {"request", "OTHER", "ticket", 1}, {"answer", "EMAIL", "", 1}}; !slices.Equal(x.Findings, want) {
		t.Errorf("findings: %v", x.Findings)
	}
	if want := (Answer{Status: 503, Finish: "[DONE]", Error: "it broke", Kept: "5 bytes", Redacted: 3}); !reflect.DeepEqual(x.Answer, want) || len(x.Notes) > 0 {
		t.Errorf("answer: %+v %q", x.Answer, x.Notes)
	}
	if x.Times.FirstByte() != time.Second || x.Times.Duration() != -1 || x.Times.Closed.IsZero() {
		t.Errorf("times: %+v", x.Times)
	}
	// And each that cannot be read is said, once.
	set(0, record.FieldGroups, `{}`, record.FieldAuthed, "yesterday", record.FieldFindings, `[["CARD",2]]`, record.FieldTimes, `{"received":7}`)
	set(1, record.FieldStatus, "-1", record.FieldRedacted, "many", record.FieldFindings, `[[1,"",1]]`, record.FieldTimes, "[]", record.FieldHeaders, `[["a"]]`)
	x = Of(s)
	if len(x.Notes) != 9 || x.Findings != nil || !x.Times.Received.IsZero() || x.Answer.Status != 0 || !x.Caller.At.IsZero() {
		t.Errorf("%q", x.Notes)
	}
}

// An event is what it is named, or else what its data is; only what is an event of its protocol adds to an answer.
func TestEventTypes(t *testing.T) {
	for _, c := range []struct{ stream, types, reply, problem string }{
		{"event: ping\ndata: {\"type\":\"pong\"}\n\n", "ping", "", ""},
		{"event: message\ndata: {\"type\":\"pong\"}\n\n", "pong", "", ""},
		{"data: {\"object\":\"thing\"}\n\ndata: {}\n\ndata: words\n\n: x\n\ndata: [DONE]\n\n", "thing data data [DONE]", "", ""},
		{"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: x\n", "data comment", "a", ""},
		{"event: content_block_delta\ndata: {\"index\":0,\"delta\":{\"text\":\"a\"}}\n\n", "content_block_delta", "a", ""},
		{"event: other\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"a\"}}\n\n", "other", "", ""},
		{"event: error\ndata: {\"type\":\"error\",\"code\":\"busy\",\"message\":\"later\"}\n\n", "error", "", "later (busy)"},
		{"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"later\"}}\n\n", "error", "", "later (overloaded_error)"},
		{"data: {\"error\":{\"message\":\"later\"}}\n\ndata: {\"error\":{\"message\":\"never\"}}\n\n", "data data", "", "later"},
		{"event: error\ndata: later\n\n", "error", "", ""},
		{"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}", "data cut", "a", ""},
	} {
		x := Of(call{target: "/v1/x", head: streamHead, answer: c.stream, status: "200"}.session(t))
		holds(t, x)
		var types []string
		for _, e := range x.Events {
			types = append(types, e.Type)
		}
		if got := strings.Join(types, " "); got != c.types || x.Reply() != c.reply || x.Answer.Problem != c.problem || strings.Contains(c.types, "cut") != (len(x.Notes) == 1) {
			t.Errorf("%q: types %q, reply %q, problem %q, notes %q", c.stream, got, x.Reply(), x.Answer.Problem, x.Notes)
		}
	}
}

// A mask is told from what looks like one; what is packed is not unpacked, and said.
func TestMaskedAndPacked(t *testing.T) {
	for in, want := range map[string]bool{
		"a ⟦CARD⟧": true, "⟦US_SSN:abc⟧": true, "⟦CARD:…1111⟧": true, "⟦⟦AB⟧": true, "⟦C⟧": false, "⟦card⟧": false, "⟦": false, "": false, "⟦CARD": false, "⟦CARD x⟧": false,
	} {
		if masked([]byte(in)) != want {
			t.Errorf("%q: %v", in, !want)
		}
	}
	x := Of(call{target: "/v1/x", request: "\x1f\x8b", head: `[["content-encoding","gzip"],["Content-Type","text/event-stream"]]`, answer: "data: a\n\n", status: "200"}.session(t))
	if len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "packed (gzip)") || len(x.Events) != 0 || x.Text() != "" {
		t.Errorf("%q %v", x.Notes, x.Events)
	}
	x = Of(call{target: "/v1/x", head: `[["Content-Encoding","Identity"],["Content-Type","text/event-stream"]]`, answer: "data: a\n\n", status: "200"}.session(t))
	if len(x.Notes) != 0 || len(x.Events) != 1 {
		t.Errorf("%q %v", x.Notes, x.Events)
	}
	all := "azAZ09+/-_=\n\r"
	for s, want := range map[string]bool{
		strings.Repeat(all, 40): true, strings.Repeat("a", leastBlob): true, strings.Repeat("a", leastBlob-1): false, strings.Repeat("a", leastBlob) + " ": false,
		"data:image/png;base64,aaaa": true, "data:text/plain,hello": false, "data:": false, "words": false,
	} {
		if isBlob(s) != want {
			t.Errorf("%.60q: %v", s, !want)
		}
	}
}

// In JSON a time is a number of microseconds, and bytes that are no text are in base 64.
func TestJSON(t *testing.T) {
	s := call{target: "/x", request: "\xff", head: streamHead, answer: "data: a\n\n", events: "[[9,1500]]", status: "200"}.session(t)
	b, err := json.Marshal(Of(s))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Times struct {
			First    string `json:"first"`
			FirstUS  int64  `json:"first_us"`
			Duration int64  `json:"duration_us"`
		}
		Request struct{ Body struct{ Base64 string } }
		Events  []struct {
			At   int64 `json:"at_us"`
			Raw  string
			Type string
		}
		Usage map[string]int64
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if got.Times.FirstUS != 250_000 || got.Times.Duration != 1_000_000 || got.Times.First != "2026-01-02T15:04:05.25Z" || got.Request.Body.Base64 != "/w==" ||
		len(got.Events) != 1 || got.Events[0].At != 1500 || got.Events[0].Raw != "data: a\n\n" || got.Events[0].Type != Data || got.Usage["cache_read"] != -1 {
		t.Errorf("%s", b)
	}
}

// What took no time is not what is not on record.
func TestTimesInJSON(t *testing.T) {
	b, err := json.Marshal(Times{Received: begun, First: begun})
	if want := `{"received":"2026-01-02T15:04:05Z","first":"2026-01-02T15:04:05Z","first_us":0,"duration_us":-1}`; err != nil || string(b) != want {
		t.Errorf("%s: %v", b, err)
	}
}

// Each stream has the events that a client hears, and no others.
func TestEventCases(t *testing.T) {
	b, err := os.ReadFile("testdata/sse/sse_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	type heard struct{ Type, Data string }
	var file struct {
		Cases []struct {
			Name, Input string
			Events      []heard
		}
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.Cases) != 45 {
		t.Fatalf("%d cases: %v", len(file.Cases), err)
	}
	for _, c := range file.Cases {
		var got []heard
		last := 0
		blocks([]byte(c.Input), func(e block) bool {
			if e.to > e.end || e.to < last {
				t.Errorf("%s: a block ends at %d and %d", c.Name, e.to, e.end)
			}
			last = e.end
			if e.dispatched {
				got = append(got, heard{string(e.name), string(e.data)})
				if got[len(got)-1].Type == "" {
					got[len(got)-1].Type = "message"
				}
			}
			return true
		})
		if !slices.Equal(got, c.Events) {
			t.Errorf("%s: heard %q, want %q", c.Name, got, c.Events)
		}
		if last != len(c.Input) {
			t.Errorf("%s: the blocks end at %d of %d", c.Name, last, len(c.Input))
		}
	}
}

// Values read as encoding/json reads them, where they are JSON, and as far as they go where they break off.
func TestValues(t *testing.T) {
	for in, want := range map[string]string{
		`"a\"b"`: `a"b`, `"a\\"`: `a\`, `"\ud83d\ude00"`: "😀", `"\ud83d"`: "\uFFFD", `"a`: "a", `"a\`: "a", `"a\u12`: "a", `"a\ud83d\ude0`: "a\uFFFD", `"a\\\"`: `a\"`, `"`: "", `""`: "",
		`"a\q"`: `a\q`, "\"a\xff\"": "a\uFFFD", `7`: "", ``: "", `null`: "",
	} {
		if got := valueOf([]byte(in)).text(); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	v := valueOf([]byte(` { "a" : [1, {"b":"]}"} , [] ] , "a\u0062" : -1e3,"n":null , "a":{"c":[2,3]}, "x"`))
	if v.get("a", "c").kind() != '[' || string(v.get("ab")) != "-1e3" || v.get("n").there() || v.get("x") != nil || v.get("a", "c", "d") != nil {
		t.Errorf("members: %s", v)
	}
	for in, want := range map[string]int64{"0": 0, "17": 17, "-1": -1, "1.5": -1, "99999999999999999999": -1, "9223372036854775807": 1<<63 - 1, `"7"`: -1, "": -1} {
		if got := value(in).int(); got != want {
			t.Errorf("%s: %d, want %d", in, got, want)
		}
	}
}

// What is meant to harm costs no more than it weighs: millions of parts, deep nesting, and names without end.
func TestBounds(t *testing.T) {
	const n = mostParts + 1<<10
	rep := strings.Repeat
	for name, c := range map[string]call{
		"messages":         {target: "/v1/chat/completions", request: `{"model":"m","messages":[{}` + rep(`,{}`, n) + `]}`},
		"parts":            {target: "/v1/messages", request: `{"model":"m","messages":[{"content":[1` + rep(`,1`, n) + `]}]}`},
		"parameters":       {target: "/v1/messages", request: `{"a":1` + rep(`,"a":1`, n) + `}`},
		"tools":            {target: "/v1/messages", request: `{"tools":[1` + rep(`,1`, n) + `]}`},
		"deep":             {target: "/v1/messages", request: `{"messages":` + rep(`[`, n)},
		"deeper":           {target: "/v1/messages", request: `{"messages":` + rep(`{"a":`, n)},
		"deep results":     {target: "/v1/messages", request: `{"messages":[{"content":[` + rep(`{"type":"tool_result","content":[`, n/16)},
		"backslashes":      {target: "/v1/messages", request: `{"messages":[{"content":"` + rep(`\`, n)},
		"escaped quotes":   {target: "/v1/messages", request: `{"messages":[{"content":"` + rep(`\"`, n)},
		"deep output":      {answer: `{"output":[` + rep(`{"type":"message","content":[`, n/16), head: jsonHead},
		"choices":          {answer: `{"choices":[1` + rep(`,1`, n) + `]}`, head: jsonHead},
		"choices by index": {answer: `{"choices":[{}` + many(n/16, `,{"index":%d,"message":{"content":"a"}}`) + `]}`, head: jsonHead},
		"calls":            {answer: `{"choices":[{"message":{"tool_calls":[{}` + rep(`,{}`, n) + `]}}]}`, head: jsonHead},
		"output":           {answer: `{"output":[1` + rep(`,1`, n) + `]}`, head: jsonHead},
		"events":           {answer: rep("data\n\n", n), head: streamHead},
		"comments":         {answer: rep(":\n", n), head: streamHead},
		"rows":             {answer: "a", events: "[[1,0]" + rep(",[0,0]", n) + "]", head: streamHead},
		"times":            {answer: "a", events: "[[1,9223372036854775]" + rep(",[0,9223372036854775]", 10) + "]", head: streamHead},
		"lines":            {answer: "data: {}\n" + rep("data\n", n) + "\n", head: streamHead},
		"deltas":           {answer: rep(`data: {"choices":[{"delta":{"content":"a"}}]}`+"\n\n", n/8), head: streamHead},
		"masks":            {answer: "data: " + rep("⟦", n) + "\n\n", head: streamHead},
	} {
		c.status = "200"
		x := Of(c.session(t))
		if got := len(x.Messages) + len(x.Events) + len(x.Replies) + len(x.Request.Params) + len(x.Request.Tools); got > mostParts {
			t.Errorf("%s: %d parts", name, got)
		}
		if string(x.Answer.Body) != c.answer || string(x.Request.Body) != c.request {
			t.Errorf("%s: the bodies are not whole", name)
		}
		if n := len(x.Text()); n > 2*(len(c.answer)+len(c.request)) {
			t.Errorf("%s: %d bytes of text", name, n)
		}
	}
}

func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func FuzzTranscript(f *testing.F) {
	for _, name := range []string{"chat-true", "chat-tool-false", "messages-tool-true", "responses-true", "failed", "masked", "comments"} {
		s := recorded(f, name)[0]
		var fs []string
		for _, e := range s.Entries {
			for _, field := range []string{record.FieldTarget, record.FieldBody, record.FieldHeaders, record.FieldEvents} {
				v := ""
				for _, g := range e.Fields {
					if g.Shown.Name == field {
						v = string(g.Shown.Value)
					}
				}
				fs = append(fs, v)
			}
		}
		f.Add(fs[0], fs[1], fs[6], fs[5], fs[7])
	}
	f.Add("/v1/messages", `{"messages":[{"content":[{"type":"image","source":{"data":"data:a;base64,b"}}]}]}`, jsonHead, `{"content":[{"type":"tool_use"}]}`, "")
	f.Add("/v1/responses", `{"input":[{"type":"reasoning"}]}`, streamHead, "data: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"message\",\"content\":[{\"type\":\"function_call\"}]}}\r\r", "[[1,1],[81,5]]")
	f.Fuzz(func(t *testing.T, target, request, head, answer, events string) {
		s := call{target: target, request: request, head: head, answer: answer, events: events, status: "200"}.session(t)
		before := make([][]byte, 0, 8)
		for _, e := range s.Entries {
			for _, g := range e.Fields {
				before = append(before, bytes.Clone(g.Shown.Value))
			}
		}
		x := Of(s)
		holds(t, x)
		i := 0
		for _, e := range s.Entries {
			for _, g := range e.Fields {
				if !bytes.Equal(g.Shown.Value, before[i]) {
					t.Fatalf("the field %s was changed", g.Shown.Name)
				}
				i++
			}
		}
		if !reflect.DeepEqual(x, Of(s)) {
			t.Fatal("read again it is another")
		}
	})
}

// What an index pays for each session.
func BenchmarkText(b *testing.B) {
	for _, name := range []string{"chat-false", "chat-true", "responses-true"} {
		s := recorded(b, name)[0]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Of(s).Text()
			}
		})
	}
}
