package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/tlog/record"
)

const (
	chatPath        = "/v1/chat/completions"
	responsesPath   = "/v1/responses"
	completionsPath = "/v1/completions"
	embeddingsPath  = "/v1/embeddings"
	messagesPath    = "/v1/messages"
)

// outlineOf outlines a body that was sent to a path of an API, whatever was known before.
func outlineOf(api API, path, body string) (*Facts, error) {
	f := &Facts{API: api.String(), Path: path, Known: KnownCaller | KnownTools, Model: "of before", Tools: []string{"of before"}}
	err := outlineBody(f, []byte(body))
	return f, err
}

// The model's name is read as whoever reads JSON reads it.
func TestOutlineModel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ body, model, bad string }{
		{`{"model":"gpt"}`, "gpt", ""},
		{` {"a":{"model":"no"},"b":["model"],"model" : "yes" , "c":1} `, "yes", ""},
		{`{"mod\u0065l":"g\u0070t"}`, "gpt", ""},
		{`{"model":7}`, "", ""},
		{`{"model":null}`, "", ""},
		{`{}`, "", ""},
		{`[]`, "", ""},
		{`"model"`, "", ""},
		{`{"model":"a","model":"b"}`, "", "says a name twice at byte 13"},
		{`{"model":"a","mod\u0065l":"b"}`, "", "says a name twice"},
		{`{"x":{"y":1,"y":2}}`, "", "says a name twice"},
		{`{"messages":[{"role":"user","role":"system"}]}`, "", "says a name twice"},
		{`{"model":"a","Model":"b"}`, "", "otherwise"},
		{`{"MODEL":"b"}`, "", "otherwise"},
		{`{"Stream":true}`, "", `"stream" otherwise`},
		{`{"max_toKens":1}`, "", `"max_tokens" otherwise`}, // with a Kelvin sign
		{`{"messages":[{"Role":"user"}]}`, "", `"role" otherwise`},
		{`{"messages":[{"content":[{"TEXT":"x"}]}]}`, "", `"text" otherwise`},
		{`{"tools":[{"function":{"Name":"x"}}]}`, "", `"name" otherwise`},
		{`{"model":"` + strings.Repeat("m", 257) + `"}`, "", "longer than 256"},
		{`{"model":"a"`, "", "ends too early"},
		{``, "", "ends too early"},
		{`{"messages":[`, "", "ends too early"},
		{`{"messages":[{"content":[{`, "", "ends too early"},
		{`{"tools":[`, "", "ends too early"},
		{`{"model":`, "", "ends too early"},
		{`{"stream":`, "", "ends too early"},
		{`{"model":"a"}{}`, "", "after the value"},
		{`{"model":"a"} x`, "", "after the value"},
		{`[] []`, "", "after the value"},
		{"{\"model\":\"a\xff\"}", "", "malformed"},
		{`{"model":"\ud800"}`, "", "malformed"},
		{"\xef\xbb\xbf{}", "", "malformed"},
		{`{"model":"a",}`, "", "malformed"},
		{`{'model':"a"}`, "", "malformed"},
		{`NaN`, "", "malformed"},
	} {
		f, err := outlineOf(OpenAI, chatPath, c.body)
		if f.Model != c.model || (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s: %q, %v", c.body, f.Model, err)
		}
		if err != nil && f.Known != KnownCaller {
			t.Errorf("%s: of a body that could not be read %b is known", c.body, f.Known)
		}
	}
}

// What each API's bodies become. Of what is not said here, all is known and absent.
func TestOutline(t *testing.T) {
	t.Parallel()
	one := func(role string, size, parts int) []Message { return []Message{{role, size, parts}} }
	for _, c := range []struct {
		api        API
		path, body string
		lost       Known
		want       Facts
	}{
		// OpenAI, chat completions.
		{OpenAI, chatPath, `{"model":"gpt","messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"h\u00e9llo \ud83d\ude00\n"}],"stream":true,"temperature":0,"max_tokens":10,"n":2,"top_p":0.5,"user":"u","logprobs":true,"stop":["x"],"seed":null}`, 0,
			Facts{Model: "gpt", Stream: true, HasTemperature: true, MaxTokens: 10, HasMaxTokens: true,
				Messages: []Message{{"system", 8, 0}, {"user", 12, 0}},
				Params:   []Param{{"n", int64(2)}, {"top_p", 0.5}, {"user", "u"}, {"logprobs", true}, {"stop", nil}, {"seed", nil}}}},
		{OpenAI, "/x" + chatPath, `{"max_tokens":7,"max_completion_tokens":1e2,"max_output_tokens":3}`, 0,
			Facts{MaxTokens: 100, HasMaxTokens: true, Params: []Param{{"max_output_tokens", int64(3)}}}},
		{OpenAI, chatPath, `{"max_completion_tokens":7,"max_tokens":5.0}`, 0, Facts{MaxTokens: 7, HasMaxTokens: true}},
		{OpenAI, chatPath, `{"messages":[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},{"type":"input_audio","input_audio":{}},"d"]}]}`, 0,
			Facts{Messages: one("user", 4, 2)}},
		{OpenAI, chatPath, `{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},{"role":"tool","tool_call_id":"1","content":"42"}],"tools":[{"type":"function","function":{"parameters":{"properties":{"Name":{}}},"name":"add"}},{"type":"custom","custom":{"name":"grep"}}],"functions":[{"name":"old"}]}`, 0,
			Facts{Messages: []Message{{"assistant", 12, 0}, {"tool", 2, 0}}, Tools: []string{"add", "grep", "old"}}},
		{OpenAI, chatPath, `{"messages":[{"role":"assistant","reasoning_content":"hm","audio":{"id":"x"},"refusal":null,"name":"bob"}]}`, 0, Facts{Messages: one("assistant", 2, 1)}},
		{OpenAI, chatPath, `{"messages":[{"role":"user","content":{"type":"text","text":"abc"}}]}`, 0, Facts{Messages: one("user", 3, 0)}},
		{OpenAI, chatPath, `{"messages":[{"content":[{"text":"abc"},{"type":"new","text":"de"},{}]}]}`, 0, Facts{Messages: one("", 5, 2)}},
		{OpenAI, chatPath, `{"messages":null,"tools":null,"max_tokens":null,"temperature":null,"stream":null,"model":null}`, 0, Facts{}},
		{OpenAI, chatPath, `{}`, 0, Facts{}},
		{OpenAI, chatPath, `{"input":"x","prompt":"y","system":"z"}`, 0, Facts{Params: []Param{{"input", "x"}, {"prompt", "y"}, {"system", "z"}}}},

		// What is not of its kind is unknown: a model might take it for what it looks like.
		{OpenAI, chatPath, `{"model":["gpt"],"stream":"true","max_tokens":"100","temperature":"1","messages":{},"tools":"x"}`,
			KnownModel | KnownStream | KnownMaxTokens | KnownTemperature | KnownMessages | KnownTools, Facts{}},
		{OpenAI, chatPath, `{"max_tokens":0.5,"temperature":1e999,"stream":1}`, KnownMaxTokens | KnownTemperature | KnownStream, Facts{}},
		{OpenAI, chatPath, `{"max_tokens":9223372036854775808}`, KnownMaxTokens, Facts{}},
		{OpenAI, chatPath, `{"max_tokens":1,"max_completion_tokens":"2"}`, KnownMaxTokens, Facts{MaxTokens: 1, HasMaxTokens: true}},
		{OpenAI, chatPath, `{"messages":[{"role":7}]}`, KnownMessages, Facts{Messages: one("", 0, 0)}},
		{OpenAI, chatPath, `{"messages":[7]}`, KnownMessages, Facts{}},
		{OpenAI, chatPath, `{"messages":[{"role":"user","content":[7]}]}`, KnownMessages, Facts{Messages: one("user", 0, 0)}},
		{OpenAI, chatPath, `{"messages":[{"role":"user","content":7}]}`, KnownMessages, Facts{Messages: one("user", 0, 0)}},
		{OpenAI, chatPath, `{"tools":[{}]}`, KnownTools, Facts{}},
		{OpenAI, chatPath, `{"tools":[{"function":"x","name":"y"}]}`, KnownTools, Facts{Tools: []string{"y"}}},
		{OpenAI, chatPath, `{"big":1e999,"n":"` + strings.Repeat("x", 257) + `","m":"` + strings.Repeat(`\u0061`, 256) + `"}`, 0,
			Facts{Params: []Param{{"big", nil}, {"n", nil}, {"m", strings.Repeat("a", 256)}}}},
		{OpenAI, chatPath, `{"` + strings.Repeat("x", 129) + `":1}`, KnownParams, Facts{}},
		{OpenAI, chatPath, `[{"model":"x"}]`, KnownBody, Facts{}},

		// The other endpoints of OpenAI.
		{OpenAI, completionsPath, `{"prompt":"abc","max_tokens":1}`, 0, Facts{Messages: one("user", 3, 0), MaxTokens: 1, HasMaxTokens: true}},
		{OpenAI, completionsPath, `{"prompt":["abc","d"]}`, 0, Facts{Messages: []Message{{"user", 3, 0}, {"user", 1, 0}}}},
		{OpenAI, embeddingsPath, `{"input":[1,2,3]}`, 0, Facts{Messages: one("user", 0, 1)}},
		{OpenAI, embeddingsPath, `{"input":[[1,2],[3]],"dimensions":8}`, 0, Facts{Messages: []Message{{"user", 0, 1}, {"user", 0, 1}}, Params: []Param{{"dimensions", int64(8)}}}},
		{OpenAI, embeddingsPath, `{"input":[{}]}`, KnownMessages, Facts{}},
		{OpenAI, responsesPath, `{"model":"gpt","input":"abc","instructions":"Be kind.","max_output_tokens":5,"max_tokens":9,"previous_response_id":"resp_1","tools":[{"type":"web_search"},{"type":"function","name":"add"}]}`, 0,
			Facts{Model: "gpt", Messages: []Message{{"system", 8, 0}, {"user", 3, 0}}, MaxTokens: 5, HasMaxTokens: true, Tools: []string{"web_search", "add"},
				Params: []Param{{"max_tokens", int64(9)}, {"previous_response_id", "resp_1"}}}},
		{OpenAI, responsesPath, `{"input":[{"role":"user","content":[{"type":"input_text","text":"abc"},{"type":"input_image","image_url":"data:"}]},{"type":"function_call","name":"add","arguments":"{}","call_id":"1"},{"type":"function_call_output","call_id":"1","output":"42"},{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"xxxx"},{"type":"item_reference","id":"i"}]}`, 0,
			Facts{Messages: []Message{{"user", 3, 1}, {"function_call", 2, 0}, {"function_call_output", 2, 0}, {"reasoning", 6, 0}, {"item_reference", 0, 1}}}},

		// Anthropic.
		{Anthropic, messagesPath, `{"model":"claude","max_tokens":5,"messages":[{"role":"user","content":"abc"}],"system":[{"type":"text","text":"Be kind.","cache_control":{"type":"ephemeral"}}],"tools":[{"name":"add","input_schema":{"type":"object"}},{"type":"web_search_20250305","name":"web_search"}],"mcp_servers":[{}],"metadata":{"user_id":"x"}}`, 0,
			Facts{Model: "claude", MaxTokens: 5, HasMaxTokens: true, Messages: []Message{{"system", 8, 0}, {"user", 3, 0}}, Tools: []string{"add", "web_search"},
				Params: []Param{{"mcp_servers", nil}, {"metadata", nil}}}},
		{Anthropic, messagesPath + "/count_tokens", `{"system":"Be kind.","messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"42"},{"type":"image","source":{"data":"AAAA"}}]},{"type":"document","source":{"type":"text","data":"long"},"title":"t"}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"tool_use","id":"1","name":"add","input":{"a":1}}]}]}`, 0,
			Facts{Messages: []Message{{"system", 8, 0}, {"user", 2, 2}, {"assistant", 9, 0}}}},
		{Anthropic, messagesPath, `{"messages":[{"role":"user","content":` + strings.Repeat(`[{"type":"tool_result","content":`, 20) + `"x"` + strings.Repeat(`}]`, 20) + `}]}`, KnownMessages, Facts{Messages: one("user", 0, 0)}},

		// Where the endpoint is not known, what is not said on top is not known: it can lie deeper, or be said otherwise.
		{Anthropic, messagesPath + "/batches", `{"requests":[{"custom_id":"a","params":{"model":"claude"}}]}`, KnownBody &^ KnownParams, Facts{Params: []Param{{"requests", nil}}}},
		{HTTP, "/any/generate", `{"model":"m","stream":false,"max_tokens":3,"messages":[{"role":"user"}],"x":1}`, KnownTemperature | KnownMessages | KnownTools,
			Facts{Model: "m", MaxTokens: 3, HasMaxTokens: true, Params: []Param{{"messages", nil}, {"x", int64(1)}}}},
		{OpenAI, "/v1/chat/completions/abc", `{"metadata":{}}`, KnownBody &^ KnownParams, Facts{Params: []Param{{"metadata", nil}}}},
	} {
		f, err := outlineOf(c.api, c.path, c.body)
		c.want.API, c.want.Path, c.want.Known = c.api.String(), c.path, KnownCaller|KnownBody&^c.lost
		if err != nil || !reflect.DeepEqual(*f, c.want) {
			t.Errorf("%s %.200s: %v\n got %+v\nwant %+v", c.path, c.body, err, *f, c.want)
		}
	}
}

// More than is kept of a body is unknown, and costs no more than to read it.
func TestOutlineMuch(t *testing.T) {
	t.Parallel()
	many := func(n int, each, sep string) string { return strings.TrimSuffix(strings.Repeat(each+sep, n), sep) }
	params := make([]string, maxParams+1)
	for i := range params {
		params[i] = `"p` + strconv.Itoa(i) + `":1`
	}
	for _, c := range []struct {
		body string
		lost Known
	}{
		{`{"messages":[` + many(maxMessages, `{"role":"user"}`, ",") + `]}`, 0},
		{`{"messages":[` + many(maxMessages+1, `{"role":"user"}`, ",") + `]}`, KnownMessages},
		{`{"tools":[` + many(maxTools, `{"name":"x"}`, ",") + `]}`, 0},
		{`{"tools":[` + many(maxTools+1, `{"name":"x"}`, ",") + `]}`, KnownTools},
		{`{` + strings.Join(params[1:], ",") + `}`, 0},
		{`{` + strings.Join(params, ",") + `}`, KnownParams},
		{`{"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, 0},
		{`{"messages":[{"role":"` + strings.Repeat("x", 129) + `"}]}`, KnownMessages},
		{`{"tools":[{"name":"` + strings.Repeat("x", 129) + `"}]}`, KnownTools},
	} {
		f, err := outlineOf(OpenAI, chatPath, c.body)
		if err != nil || f.Known != KnownCaller|KnownBody&^c.lost {
			t.Errorf("%.60s…: %b, %v", c.body, f.Known, err)
		}
	}
	f, err := outlineOf(OpenAI, embeddingsPath, `{"input":[`+many(maxMessages+1, `"x"`, ",")+`]}`)
	if err != nil || f.Known&KnownMessages != 0 || len(f.Messages) > maxMessages {
		t.Errorf("%d messages, %v", len(f.Messages), err)
	}
	f, err = outlineOf(OpenAI, embeddingsPath, `{"input":[`+many(maxMessages+1, `[1]`, ",")+`]}`)
	if err != nil || f.Known&KnownMessages != 0 || len(f.Messages) > maxMessages {
		t.Errorf("%d messages, %v", len(f.Messages), err)
	}
}

// What a call's facts are told from: an empty body says nothing, and that is known; one that cannot be read is unknown.
func TestReadBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		api    API
		body   string
		packed bool
		known  Known
		bad    bool
	}{
		{OpenAI, "", false, KnownBody, false},
		{OpenAI, "", true, KnownBody, false},
		{OpenAI, `{"model":"x"}`, true, 0, false},
		{OpenAI, `{"model":"x"}`, false, KnownBody, false},
		{OpenAI, `{"model":"x"`, false, 0, true},
		{Anthropic, `{"model":"x"`, false, 0, true},
		{HTTP, `{"model":"x"`, false, 0, false},
		{HTTP, `{"model":"x","model":"y"}`, false, 0, false},
		{HTTP, `{"model":"x"}`, false, KnownModel | KnownParams, false},
	} {
		f := &Facts{API: c.api.String(), Path: map[API]string{OpenAI: chatPath, Anthropic: messagesPath}[c.api]}
		if err := f.readBody([]byte(c.body), c.packed); (err != nil) != c.bad || f.Known != c.known {
			t.Errorf("%v %s: %b, %v", c.api, c.body, f.Known, err)
		}
	}
}

// FactsOf has of a record what the gateway had of the call, but for what is not on record.
func TestFactsOf(t *testing.T) {
	t.Parallel()
	fields := func(kv ...string) (r record.Record) {
		for i := 0; i < len(kv); i += 2 {
			r.Add(kv[i], []byte(kv[i+1]))
		}
		return r
	}
	r := fields("caller", "alice", "key", "laptop", "route", "main", "method", "POST", "target", "/v1/chat/completions?x=1",
		"headers", `[["Host","x"],["Content-Encoding","identity"]]`, "times", `{"received":"2026-01-02T03:04:05.000006Z"}`, "body", `{"model":"gpt"}`)
	f, err := FactsOf(r, nil)
	if err != nil || f.Caller.Name != "alice" || f.Caller.Key != "laptop" || f.Route != "main" || f.API != "openai" || f.Method != "POST" ||
		f.Path != chatPath || f.Model != "gpt" || f.Size != 15 || f.Known != KnownBody || f.Now.Nanosecond() != 6000 {
		t.Errorf("%+v, %v", f, err)
	}
	r = fields("caller", "okta:1", "method", "POST", "target", "/", record.FieldHow, ByOIDC, record.FieldIssuer, "https://okta.example", record.FieldSubject, "1",
		record.FieldEmail, "a@example.com", record.FieldGroups, `["staff","dev"]`, record.FieldAuthed, "2026-01-02T03:00:00Z",
		record.FieldFindings, `[["CARD","",2],["SECRET","aws",1]]`, "body", "")
	if f, err := FactsOf(r, nil); err != nil || f.Known != KnownCaller|KnownFindings|KnownBody || !slices.Equal(f.Findings, []Finding{{"CARD", "", 2}, {"SECRET", "aws", 1}}) ||
		f.Caller.How != ByOIDC || f.Caller.Issuer != "https://okta.example" || f.Caller.Subject != "1" || f.Caller.Email != "a@example.com" ||
		!slices.Equal(f.Caller.Groups, []string{"staff", "dev"}) || f.Caller.At.Hour() != 3 || !f.Caller.Until.IsZero() {
		t.Errorf("%+v, %+v, %v", f, f.Caller, err)
	}
	for _, c := range []struct {
		r      record.Record
		routes []Route
		api    string
		known  Known
	}{
		{fields("caller", "a", "method", "POST", "target", "/x/v1/messages", "body", `{}`), nil, "anthropic", KnownBody},
		{fields("caller", "a", "method", "POST", "target", "/x/v1/messages/batches", "body", `{}`), nil, "anthropic", KnownParams},
		{fields("caller", "a", "method", "POST", "target", "/x/v1/messages", "route", "r", "body", `{}`), []Route{{Name: "q"}, {Name: "r", API: HTTP}}, "http", KnownParams},
		{fields("caller", "a", "method", "POST", "target", "/v1/messages", "body", `{}`, "headers", `[["content-encoding","gzip"]]`), nil, "anthropic", 0},
		{fields("caller", "a", "method", "POST", "target", "/v1/messages", "body", `{`), nil, "anthropic", 0},
		{fields("caller", "a", "method", "GET", "target", "/v1/models/x", "body", ``), nil, "openai", KnownBody},
		{fields("caller", "a", "method", "GET", "target", "/elsewhere"), nil, "http", 0}, // the body was erased, or never recorded
	} {
		f, err := FactsOf(c.r, c.routes)
		if err != nil || f.API != c.api || f.Known != c.known {
			t.Errorf("%v: %+v, %v", c.r, f, err)
		}
	}
	for _, r := range []record.Record{
		fields("status", "200", "body", "{}"), fields("caller", "a", "method", "GET"),
		fields("caller", "a", "method", "POST", "target", "/", record.FieldFindings, `[["CARD",1,1]]`), fields("caller", "a", "method", "POST", "target", "/", record.FieldAuthed, "x"),
		fields("caller", "a", "method", "POST", "target", "/", record.FieldGroups, `{}`), fields("caller", "a", "method", "POST", "target", "/", "times", "x"), fields("caller", "a", "method", "POST", "target", "/", "headers", "x"),
	} {
		if f, err := FactsOf(r, nil); err == nil {
			t.Errorf("%v: %+v", r, f)
		}
	}
}

// The bodies that fuzzing starts from.
var outlineSeeds = []string{
	`{"model":"gpt"}`, `{"mod\u0065l":"g\u0070t","stream":true}`, `{"model":"a","Model":"b"}`, `{"a":{"model":"x"},"model":"y"}`,
	`{"messages":[{"role":"user","content":[{"type":"text","text":"\ud83d\ude00"},{"type":"image"}],"tool_calls":[{"a":1}]}],"max_tokens":1e2,"temperature":0.5}`,
	`{"input":[{"type":"function_call_output","output":"x"},{"type":"reasoning","summary":[]},"y"],"instructions":"z","max_output_tokens":1,"tools":[{"type":"web_search"}]}`,
	`{"input":[1,[2]],"prompt":["a","b"]}`, `{"system":[{"type":"text","text":"a"}],"messages":[{"content":[{"type":"tool_result","content":[{"text":"b"}]}]}],"tools":[{"name":"n"},{"custom":{"name":"c"}}]}`,
}

func FuzzOutlineBody(f *testing.F) {
	for _, c := range jsonCases(f) {
		if len(c.Raw) < 1000 {
			f.Add(uint8(0), c.Raw)
		}
	}
	for _, s := range outlineSeeds {
		for shape := range fuzzShapes {
			f.Add(uint8(shape), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		s := fuzzShapes[int(n)%len(fuzzShapes)]
		given := bytes.Clone(b)
		facts, err := outlineOf(s.api, s.path, string(b))
		if !bytes.Equal(b, given) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			// An error is for the caller: it says where and what, and quotes nothing.
			if s := err.Error(); s == "" || len(s) > 100 || !utf8.ValidString(s) {
				t.Fatalf("the error is %q", s)
			}
			return
		}
		if !json.Valid(b) {
			t.Fatalf("%q passed and is not JSON", b)
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		if err := saidOnce(dec); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		// Whoever reads it, strictly or with the standard library's leniency, reads the same.
		var lenient struct {
			Model       any
			Stream      any
			Temperature any
		}
		if json.Unmarshal(b, &lenient) == nil && facts.Known&KnownParams != 0 {
			if name, _ := lenient.Model.(string); name != facts.Model {
				t.Fatalf("%q: the model is read as %q and as %q", b, facts.Model, name)
			}
			if stream, _ := lenient.Stream.(bool); stream != facts.Stream {
				t.Fatalf("%q: stream is read as %v and as %v", b, facts.Stream, stream)
			}
			if n, ok := lenient.Temperature.(float64); n != facts.Temperature || ok != facts.HasTemperature {
				t.Fatalf("%q: the temperature is read as %v and as %v", b, facts.Temperature, n)
			}
		}
		want := slowOutline(s.api, s.path, b)
		if !reflect.DeepEqual(facts, want) {
			t.Fatalf("%s %q:\n got %+v\nwant %+v", s.path, b, facts, want)
		}
	})
}

var fuzzShapes = []struct {
	api  API
	path string
}{{OpenAI, chatPath}, {OpenAI, responsesPath}, {OpenAI, completionsPath}, {OpenAI, embeddingsPath}, {Anthropic, messagesPath}, {HTTP, "/x"}}

// slowOutline reads a body as outlineBody does, in another way: from a tree. The body is one that outlineBody takes.
func slowOutline(api API, path string, body []byte) *Facts {
	f := &Facts{API: api.String(), Path: path, Known: KnownCaller}
	var members members
	if json.Unmarshal(body, &members) != nil {
		return f
	}
	said, lost := KnownParams, Known(0)
	all := path != "/x"
	// fact takes a member for a fact, if it is there and is not null.
	fact := func(name string, k Known, take func(v json.RawMessage) bool) {
		v, ok := members.take(name)
		if said |= map[bool]Known{ok: k}[true]; ok && string(v) != "null" && !take(v) {
			lost |= k
		}
	}
	fact("model", KnownModel, func(v json.RawMessage) bool { return v[0] == '"' && json.Unmarshal(v, &f.Model) == nil })
	fact("stream", KnownStream, func(v json.RawMessage) bool {
		f.Stream = string(v) == "true"
		return f.Stream || string(v) == "false"
	})
	fact("temperature", KnownTemperature, func(v json.RawMessage) bool {
		f.HasTemperature = json.Unmarshal(v, &f.Temperature) == nil
		return f.HasTemperature
	})
	for _, name := range map[string][]string{chatPath: {"max_tokens", "max_completion_tokens"}, responsesPath: {"max_output_tokens"}}[path] {
		fact(name, KnownMaxTokens, func(v json.RawMessage) bool { return slowTokens(f, v) })
	}
	if path != chatPath && path != responsesPath {
		fact("max_tokens", KnownMaxTokens, func(v json.RawMessage) bool { return slowTokens(f, v) })
	}
	if name := map[string]string{chatPath: "messages", messagesPath: "messages", responsesPath: "input", embeddingsPath: "input", completionsPath: "prompt"}[path]; name != "" {
		fact(name, KnownMessages, func(v json.RawMessage) bool {
			if v[0] == '"' {
				f.Messages = append(f.Messages, Message{Role: "user", Size: len(str(v))})
				return true
			}
			var list []json.RawMessage
			if json.Unmarshal(v, &list) != nil {
				return false
			}
			good, tokens := true, false
			for _, e := range list {
				prompts := name != "messages" && path != responsesPath
				switch {
				case e[0] == '"':
					f.Messages = append(f.Messages, Message{Role: "user", Size: len(str(e))})
				case e[0] == '{' && !prompts:
					m, ok := slowMessage(e)
					f.Messages, good = append(f.Messages, m), good && ok
				case e[0] == '[' && prompts:
					f.Messages = append(f.Messages, Message{Role: "user", Parts: 1})
				case strings.ContainsRune("-0123456789", rune(e[0])) && prompts:
					tokens = true
				default:
					good = false
				}
			}
			if tokens {
				f.Messages = append(f.Messages, Message{Role: "user", Parts: 1})
			}
			return good
		})
	}
	if name := map[string]string{messagesPath: "system", responsesPath: "instructions"}[path]; name != "" {
		fact(name, KnownMessages, func(v json.RawMessage) bool {
			m := Message{Role: "system"}
			ok := slowContent(&m, v, 0)
			f.Messages = append([]Message{m}, f.Messages...)
			return ok
		})
	}
	// Tools and functions come in the body's order.
	for _, m := range slices.Clone(members) {
		if all && (m.name == "tools" && (path == chatPath || path == messagesPath || path == responsesPath) || m.name == "functions" && path == chatPath) {
			fact(m.name, KnownTools, func(v json.RawMessage) bool {
				var list []json.RawMessage
				good := json.Unmarshal(v, &list) == nil
				for _, e := range list {
					good = slowTool(f, e) && good
				}
				return good
			})
		}
	}
	for _, m := range members {
		if len(m.name) > maxParamName || len(f.Params) == maxParams {
			lost |= KnownParams
			continue
		}
		f.Params = append(f.Params, Param{m.name, slowScalar(m.value)})
	}
	if all {
		said = KnownBody
	}
	f.Known |= said &^ lost
	return f
}

type named struct {
	name  string
	value json.RawMessage
}

// members are an object's, in their order.
type members []named

func (ms *members) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return fmt.Errorf("no object: %v, %v", tok, err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		m := named{name: name.(string)}
		if err := dec.Decode(&m.value); err != nil {
			return err
		}
		*ms = append(*ms, m)
	}
	return nil
}

func (ms *members) take(name string) (json.RawMessage, bool) {
	i := slices.IndexFunc(*ms, func(m named) bool { return m.name == name })
	if i < 0 {
		return nil, false
	}
	v := (*ms)[i].value
	*ms = slices.Delete(*ms, i, i+1)
	return v, true
}

func str(v json.RawMessage) (s string) { json.Unmarshal(v, &s); return s }

func slowScalar(v json.RawMessage) any {
	var x any
	dec := json.NewDecoder(bytes.NewReader(v))
	dec.UseNumber()
	dec.Decode(&x)
	switch x := x.(type) {
	case bool:
		return x
	case string:
		if len(x) <= maxParamText {
			return x
		}
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		if n, err := x.Float64(); err == nil {
			if -1<<53 < n && n < 1<<53 && n == float64(int64(n)) {
				return int64(n)
			}
			return n
		}
	}
	return nil
}

func slowTokens(f *Facts, v json.RawMessage) bool {
	n, ok := slowScalar(v).(int64)
	if ok && (!f.HasMaxTokens || n > f.MaxTokens) {
		f.HasMaxTokens, f.MaxTokens = true, n
	}
	return ok
}

func slowMessage(v json.RawMessage) (m Message, good bool) {
	var ms members
	json.Unmarshal(v, &ms)
	good = true
	word := func(name string) string {
		v, ok := ms.take(name)
		good = good && (!ok || v[0] == '"' && len(str(v)) <= maxParamName)
		return map[bool]string{true: str(v)}[good]
	}
	m.Role = word("role")
	typ := word("type")
	if m.Role == "" {
		m.Role = typ
	}
	for _, name := range []string{"content", "output", "summary"} {
		if v, ok := ms.take(name); ok {
			good = slowContent(&m, v, 1) && good
		}
	}
	for _, name := range []string{"tool_calls", "function_call", "arguments"} {
		if v, ok := ms.take(name); ok && v[0] != '"' && string(v) != "null" {
			m.Size += len(v)
		} else if ok {
			m.Size += len(str(v))
		}
	}
	for _, name := range []string{"id", "name", "call_id", "tool_call_id", "status"} {
		ms.take(name)
	}
	for _, other := range ms {
		switch other.value[0] {
		case '"':
			m.Size += len(str(other.value))
		case '{':
			m.Parts++
		}
	}
	if !slices.Contains([]string{"", "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning"}, typ) {
		m.Parts++
	}
	return m, good
}

func slowContent(m *Message, v json.RawMessage, depth int) bool {
	if depth > maxNested {
		return false
	}
	switch {
	case v[0] == '"':
		m.Size += len(str(v))
	case v[0] == '{':
		return slowPart(m, v, depth)
	case v[0] == '[':
		var list []json.RawMessage
		json.Unmarshal(v, &list)
		good := true
		for _, e := range list {
			switch e[0] {
			case '"':
				m.Size += len(str(e))
			case '{':
				good = slowPart(m, e, depth) && good
			default:
				good = false
			}
		}
		return good
	case string(v) != "null":
		return false
	}
	return true
}

func slowPart(m *Message, v json.RawMessage, depth int) bool {
	var ms members
	json.Unmarshal(v, &ms)
	typ, typed := ms.take("type")
	good := !typed || typ[0] == '"'
	text := false
	for _, name := range []string{"text", "refusal", "thinking", "input"} {
		v, ok := ms.take(name)
		text = text || ok && name != "input"
		switch {
		case !ok || string(v) == "null":
		case v[0] == '"':
			m.Size += len(str(v))
		default:
			m.Size += len(v)
		}
	}
	if v, ok := ms.take("content"); ok {
		good = slowContent(m, v, depth+1) && good
	}
	usual := []string{"text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "thinking", "tool_use", "tool_result", "server_tool_use", "mcp_tool_use", "mcp_tool_result"}
	if typed && !slices.Contains(usual, str(typ)) || !typed && !text {
		m.Parts++
	}
	return good
}

func slowTool(f *Facts, v json.RawMessage) bool {
	var ms members
	if json.Unmarshal(v, &ms) != nil {
		return false
	}
	name, typ, good := "", "", true
	for _, m := range ms {
		switch m.name {
		case "name":
			good, name = good && m.value[0] == '"', str(m.value)
		case "type":
			good, typ = good && m.value[0] == '"', str(m.value)
		case "function", "custom":
			var deeper members
			good = json.Unmarshal(m.value, &deeper) == nil && good
			if v, ok := deeper.take("name"); ok {
				good, name = good && v[0] == '"', str(v)
			}
		}
	}
	if name == "" {
		name = typ
	}
	if name == "" || len(name) > maxParamName {
		return false
	}
	f.Tools = append(f.Tools, name)
	return good
}

func FuzzTextSize(f *testing.F) {
	for _, s := range []string{`"abc"`, `"\u0061\ud83d\ude00\n\\\"é"`, `"\u00e9\u20ac"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := jsontext.Value(b)
		if v.Kind() != '"' || !v.IsValid() {
			return
		}
		v = bytes.TrimSpace(v)
		text, err := jsontext.AppendUnquote(nil, v)
		if err == nil && textSize(v) != len(text) {
			t.Fatalf("%s is said to have %d bytes and has %d", v, textSize(v), len(text))
		}
	})
}

// What it costs to know what a body says.
func BenchmarkOutlineBody(b *testing.B) {
	turn := `{"role":"user","content":"` + strings.Repeat("All work and no play. ", 20) + `"},{"role":"assistant","content":[{"type":"text","text":"` + strings.Repeat("Quite so. ", 20) + `"}]},`
	for _, c := range []struct {
		name  string
		turns int
	}{{"short", 1}, {"long", 40}, {"huge", 1600}} {
		body := []byte(`{"model":"gpt-5","stream":true,"max_tokens":1000,"temperature":0.2,"top_p":1,"user":"u-1","messages":[` + strings.TrimSuffix(strings.Repeat(turn, c.turns), ",") + `]}`)
		for _, full := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/full=%v", c.name, full), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					f := Facts{API: "openai", Path: chatPath}
					if !full {
						f.Path = ""
					}
					if err := outlineBody(&f, body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
