package gatewaytest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// world is a Model behind a listener, and a client that keeps connections.
type world struct {
	*Model
	t      *testing.T
	url    string
	client *http.Client
}

func start(t *testing.T, cfg Config) *world {
	return startRun(t, cfg, (*Model).Run)
}

func startRun(t *testing.T, cfg Config, run func(*Model, context.Context, net.Listener) error) *world {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(m, ctx, ln) }()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &world{m, t, "http://" + ln.Addr().String(), &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: refuse}}
}

func (w *world) request(path, body string, header ...string) *http.Request {
	w.t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// do returns what the caller got, and how the body ended.
func (w *world) do(r *http.Request) (res *http.Response, body string, err error) {
	res, err = w.client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

// call does a request that must be answered whole.
func (w *world) call(path, body string, header ...string) (*http.Response, string) {
	w.t.Helper()
	res, got, err := w.do(w.request(path, body, header...))
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	return res, got
}

func quote(s string) string { b, _ := json.Marshal(s); return string(b) }

// apis are the requests every directive is tried on.
var apis = []struct {
	name, path, done string
	body             func(prompt string, stream bool) string
	header           []string
	text             func(body string) string // of an answer, streamed or not
}{
	{"chat", "/v1/chat/completions", "data: [DONE]\n\n", func(p string, s bool) string {
		return fmt.Sprintf(`{"model":"fake-1","stream":%v,"messages":[{"role":"system","content":"/cut 1 is no directive here"},{"role":"user","content":%s}]}`, s, quote(p))
	}, nil, func(b string) string {
		return gather(b, func(v map[string]any) string {
			return pick(v, "choices", "delta", "content") + pick(v, "choices", "message", "content")
		})
	}},
	{"completions", "/v1/completions", "data: [DONE]\n\n", func(p string, s bool) string {
		return fmt.Sprintf(`{"model":"fake-1","stream":%v,"prompt":%s}`, s, quote(p))
	}, nil, func(b string) string {
		return gather(b, func(v map[string]any) string { return pick(v, "choices", "text") })
	}},
	{"responses", "/v1/responses", "event: response.completed\n", func(p string, s bool) string {
		return fmt.Sprintf(`{"model":"fake-1","stream":%v,"input":[{"role":"user","content":[{"type":"input_text","text":%s}]}]}`, s, quote(p))
	}, nil, func(b string) string {
		return gather(b, func(v map[string]any) string {
			if v["object"] == "response" {
				return pick(v, "output", "content", "text")
			}
			return pick(v, "delta")
		})
	}},
	{"messages", "/v1/messages", "event: message_stop\n", func(p string, s bool) string {
		return fmt.Sprintf(`{"model":"fake-1","max_tokens":1000,"stream":%v,"messages":[{"role":"user","content":[{"type":"text","text":%s}]}]}`, s, quote(p))
	}, []string{"Anthropic-Version", "2023-06-01"}, func(b string) string {
		return gather(b, func(v map[string]any) string { return pick(v, "delta", "text") + pick(v, "content", "text") })
	}},
}

// gather joins what of finds in each JSON document of an answer.
func gather(body string, of func(map[string]any) string) string {
	var all strings.Builder
	for _, line := range strings.Split(body, "\n") {
		line = strings.TrimPrefix(line, "data: ")
		var v map[string]any
		if json.Unmarshal([]byte(line), &v) == nil {
			all.WriteString(of(v))
		}
	}
	return all.String()
}

// pick walks down an object; of a list it takes the first.
func pick(v any, path ...string) string {
	for _, p := range path {
		if l, ok := v.([]any); ok && len(l) > 0 {
			v = l[0]
		}
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func TestAnswers(t *testing.T) {
	w := start(t, Config{})
	for _, a := range apis {
		t.Run(a.name, func(t *testing.T) {
			for _, prompt := range []string{"Hello, how are you?", "/say exactly <this> & “that” 世界\n\nand  more", "", "/etc/passwd is no directive", " /say\tleading space"} {
				res, body := w.call(a.path, a.body(prompt, false), a.header...)
				if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
					t.Fatalf("%d %v %s", res.StatusCode, res.Header, body)
				}
				whole := a.text(body)
				if whole == "" {
					t.Fatalf("no text in %s", body)
				}
				if say, ok := strings.CutPrefix(strings.TrimSpace(prompt), "/say"); ok && whole != strings.TrimSpace(say) {
					t.Errorf("said %q for %q", whole, prompt)
				}
				if strings.Contains(body, `\u003c`) {
					t.Errorf("%s escapes what providers do not", body)
				}
				res, body = w.call(a.path, a.body(prompt, true), a.header...)
				if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
					t.Fatalf("%d %v %s", res.StatusCode, res.Header, body)
				}
				if got := a.text(body); got != whole {
					t.Errorf("streamed %q, whole %q", got, whole)
				}
				if !strings.Contains(body, a.done) {
					t.Errorf("the stream ends without %q: %s", a.done, body)
				}
			}
		})
	}
}

func TestEventNames(t *testing.T) {
	w := start(t, Config{})
	tools := `"tools":[{"type":"function","name":"look_up","input_schema":{"properties":{"city":{"type":"string"}}},"parameters":{"properties":{"city":{"type":"string"}}}}]`
	for _, c := range []struct{ path, body, want string }{
		{"/v1/responses", `{"model":"fake-1","stream":true,"input":"/say a b"}`, "response.created response.in_progress response.output_item.added response.content_part.added response.output_text.delta response.output_text.delta response.output_text.done response.content_part.done response.output_item.done response.completed"},
		{"/v1/responses", `{"model":"fake-1","stream":true,"input":"look_up Rome",` + tools + `}`, "response.created response.in_progress response.output_item.added response.function_call_arguments.delta response.function_call_arguments.delta response.function_call_arguments.delta response.function_call_arguments.done response.output_item.done response.completed"},
		{"/v1/responses", `{"model":"fake-1","stream":true,"input":"/failed"}`, "response.created response.in_progress response.failed"},
		{"/v1/messages", `{"model":"fake-1","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"/say a b"}]}`, "message_start content_block_start ping content_block_delta content_block_delta content_block_stop message_delta message_stop"},
		{"/v1/messages", `{"model":"fake-1","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"look_up Rome"}],` + tools + `}`, "message_start content_block_start ping content_block_delta content_block_delta content_block_delta content_block_delta content_block_stop message_delta message_stop"},
	} {
		_, body := w.call(c.path, c.body, "Anthropic-Version", "2023-06-01")
		var names []string
		for _, e := range strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n") {
			name, data, _ := strings.Cut(strings.TrimPrefix(e, "event: "), "\ndata: ")
			var v struct{ Type string }
			if err := json.Unmarshal([]byte(data), &v); err != nil || v.Type != name {
				t.Errorf("event %q carries type %q (%v)", name, v.Type, err)
			}
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.body, got, c.want)
		}
	}
}

func TestTools(t *testing.T) {
	w := start(t, Config{})
	chat := func(rest string) string {
		_, body := w.call("/v1/chat/completions", `{"model":"fake-1",`+rest+`}`)
		return body
	}
	const tools = `"tools":[{"type":"function","function":{"name":"wind"}},{"type":"function","function":{"name":"weather","parameters":{"properties":{"city":{"type":"string"},"days":{"type":"integer"},"unit":{"enum":["c","f"]},"all":{"type":"boolean"}}}}}]`
	user := func(p string) string { return `"messages":[{"role":"user","content":` + quote(p) + `}]` }
	const call = `"finish_reason":"tool_calls"`
	if b := chat(user("use weather for Rome.") + "," + tools); !strings.Contains(b, call) || !strings.Contains(b, `"name":"weather","arguments":"{\"all\":true,\"city\":\"Rome\",\"days\":1,\"unit\":\"c\"}"`) {
		t.Error(b)
	}
	for _, plain := range []string{
		user("use nothing") + "," + tools,
		user("use weather") + `,"tool_choice":"none",` + tools,
		`"messages":[{"role":"user","content":"use weather"},{"role":"assistant","tool_calls":[]},{"role":"tool","content":"sunny"}],` + tools,
	} {
		if b := chat(plain); strings.Contains(b, call) {
			t.Errorf("%s calls: %s", plain, b)
		}
	}
	for want, forced := range map[string]string{"wind": `"tool_choice":"required"`, "weather": `"tool_choice":{"type":"function","function":{"name":"weather"}}`} {
		if b := chat(user("hi") + "," + forced + "," + tools); !strings.Contains(b, call) || !strings.Contains(b, `"name":"`+want+`"`) {
			t.Errorf("%s: %s", forced, b)
		}
	}
	if b := chat(user("/tool made_up now")); !strings.Contains(b, `"name":"made_up","arguments":"{}"`) {
		t.Error(b)
	}
	if b := chat(`"messages":[{"role":"user","content":"use weather"},{"role":"tool","content":"sunny"}],` + tools); !strings.Contains(b, "sunny") {
		t.Error(b)
	}
}

func TestUsageAndChoices(t *testing.T) {
	w := start(t, Config{})
	_, body := w.call("/v1/chat/completions", `{"model":"fake-1","n":3,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"/say a b"}]}`)
	chunks := strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
	if len(chunks) != 3*4+2 {
		t.Fatalf("%d events, want 14: %s", len(chunks), body)
	}
	for _, c := range chunks[:12] {
		if !strings.Contains(c, `"usage":null`) {
			t.Errorf("no null usage in %s", c)
		}
	}
	if last := chunks[12]; !strings.Contains(last, `"choices":[],"usage":{"prompt_tokens":`) {
		t.Errorf("usage is in %s", last)
	}
	_, body = w.call("/v1/chat/completions", `{"model":"fake-1","stream":true,"messages":[{"role":"user","content":"/say a b"}]}`)
	if strings.Contains(body, "usage") {
		t.Errorf("usage, though not asked for: %s", body)
	}
	_, body = w.call("/v1/chat/completions", `{"model":"fake-1","max_tokens":3,"messages":[{"role":"user","content":"/say one two three four five six"}]}`)
	if !strings.Contains(body, `"finish_reason":"length"`) || !strings.Contains(body, `"content":"one two thre"`) {
		t.Error(body)
	}
}

func TestEmbeddings(t *testing.T) {
	w := start(t, Config{})
	get := func(rest string) (vs [][]float64) {
		_, body := w.call("/v1/embeddings", `{"model":"fake-embed-1",`+rest+`}`)
		var v struct{ Data []struct{ Embedding any } }
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		for _, d := range v.Data {
			var out []float64
			switch e := d.Embedding.(type) {
			case string:
				b, err := base64.StdEncoding.DecodeString(e)
				if err != nil {
					t.Fatal(err)
				}
				for ; len(b) > 0; b = b[4:] {
					bits := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
					out = append(out, float64(math.Float32frombits(bits)))
				}
			case []any:
				for _, x := range e {
					out = append(out, float64(float32(x.(float64))))
				}
			}
			vs = append(vs, out)
		}
		return vs
	}
	plain := get(`"input":["a","b","a"]`)
	if len(plain) != 3 || len(plain[0]) != 1536 || fmt.Sprint(plain[0]) != fmt.Sprint(plain[2]) || fmt.Sprint(plain[0]) == fmt.Sprint(plain[1]) {
		t.Fatalf("%d vectors", len(plain))
	}
	if coded := get(`"input":"a","encoding_format":"base64"`); fmt.Sprint(coded[0]) != fmt.Sprint(plain[0]) {
		t.Error("base64 says another vector")
	}
	short := get(`"input":[[1,2],[3]],"dimensions":8`)
	norm := 0.0
	for _, x := range short[1] {
		norm += x * x
	}
	if len(short) != 2 || len(short[0]) != 8 || math.Abs(norm-1) > 1e-6 {
		t.Errorf("%v, norm %v", short, norm)
	}
	if one := get(`"input":[1,2,3],"dimensions":2`); len(one) != 1 {
		t.Errorf("token numbers give %d vectors", len(one))
	}
}

func TestErrors(t *testing.T) {
	w := start(t, Config{Key: "sk-key", MaxBody: 4096})
	auth := []string{"Authorization", "Bearer sk-key", "Anthropic-Version", "2023-06-01"}
	const ok = `{"model":"fake-1","messages":[{"role":"user","content":"hi"}]}`
	for _, c := range []struct {
		name, path, body string
		header           []string
		status           int
		has              string
	}{
		{"no key", "/v1/chat/completions", ok, nil, 401, "You didn't provide an API key"},
		{"other key", "/v1/chat/completions", ok, []string{"Authorization", "Bearer sk-kez"}, 401, `"code":"invalid_api_key"`},
		{"key in x-api-key", "/v1/chat/completions", ok, []string{"X-Api-Key", "sk-key"}, 200, "chat.completion"},
		{"no key, messages", "/v1/messages", ok, nil, 401, `{"type":"error","error":{"type":"authentication_error"`},
		{"no key, directive", "/v1/chat/completions", `{"model":"fake-1","messages":[{"role":"user","content":"/error 500"}]}`, nil, 401, ""},
		{"no key, no route", "/v1/nothing", "", nil, 401, ""},
		{"no route", "/v1/nothing", ok, auth, 404, `Invalid URL (POST /v1/nothing)`},
		{"method", "/v1/chat/completions", "", auth, 405, "Not allowed to GET"},
		{"method, models", "/v1/models", ok, auth, 405, "Not allowed to POST"},
		{"no JSON", "/v1/chat/completions", "{", auth, 400, "could not parse the JSON body"},
		{"no JSON, messages", "/v1/messages", "{", auth, 400, `"type":"invalid_request_error"`},
		{"no version", "/v1/messages", ok, auth[:2], 400, "anthropic-version: header is required"},
		{"no model", "/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}]}`, auth, 400, "you must provide a model parameter"},
		{"no messages", "/v1/chat/completions", `{"model":"fake-1"}`, auth, 400, `"param":"messages","code":"missing_required_parameter"`},
		{"no input", "/v1/responses", `{"model":"fake-1"}`, auth, 400, "Missing required parameter: 'input'."},
		{"no max_tokens", "/v1/messages", ok, auth, 400, "max_tokens: Field required"},
		{"other model", "/v1/chat/completions", strings.Replace(ok, "fake-1", "gpt-9", 1), auth, 404, `"code":"model_not_found"`},
		{"other model, messages", "/v1/messages", strings.Replace(ok, "fake-1", "claude", 1), auth, 404, `"type":"not_found_error"`},
		{"other model, models", "/v1/models/gpt-9", "", auth[:2], 404, `"code":"model_not_found"`},
		{"long", "/v1/chat/completions", strings.Repeat(" ", 5000) + ok, auth, 413, "maximum size of 4096 bytes"},
		{"bad directive", "/v1/chat/completions", strings.Replace(ok, "hi", "/cut many", 1), auth, 400, "Directive /cut many: want a number"},
		{"no such fault", "/v1/chat/completions", strings.Replace(ok, "hi", "/raw nothing", 1), auth, 400, "no such fault"},
		{"bad dimensions", "/v1/embeddings", `{"model":"fake-1","input":"a","dimensions":-1}`, auth, 400, "dimensions"},
		{"asked for", "/v1/chat/completions", strings.Replace(ok, "hi", "/error 418", 1), auth, 418, "status 418"},
		{"asked for in a header", "/v1/models", "", append(auth[:2:2], "Fake-Model", "/error 503"), 503, "Overloaded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := w.call(c.path, c.body, c.header...)
			if res.StatusCode != c.status || !strings.Contains(body, c.has) {
				t.Errorf("%d %s, want %d with %s", res.StatusCode, body, c.status, c.has)
			}
			if res.StatusCode != 200 && !json.Valid([]byte(body)) {
				t.Errorf("the error is not JSON: %s", body)
			}
			if res.Header.Get("X-Request-Id") == "" && res.Header.Get("Request-Id") == "" {
				t.Error("no request id")
			}
		})
	}
	for status, kind := range map[string]string{"400": "invalid_request_error", "401": "authentication_error", "402": "billing_error", "403": "permission_error", "404": "not_found_error", "413": "request_too_large", "429": "rate_limit_error", "500": "api_error", "504": "timeout_error", "529": "overloaded_error"} {
		res, body := w.call("/v1/messages", strings.Replace(ok, `"hi"`, quote("/error "+status), 1)[:len(ok)-len(`"hi"`)+len(quote("/error "+status))-1]+`,"max_tokens":5}`, auth...)
		if fmt.Sprint(res.StatusCode) != status || !strings.Contains(body, `"type":"`+kind+`"`) {
			t.Errorf("%s: %d %s", status, res.StatusCode, body)
		}
		if retry := res.Header.Get("Retry-After"); (retry != "") != (status == "429" || status == "529") {
			t.Errorf("%s: retry-after %q", status, retry)
		}
	}
}

// Every fault that a stream or a body can have, in every API, and what a caller sees of it.
func TestEndings(t *testing.T) {
	w := start(t, Config{})
	events := func(body string) int { return strings.Count(body, "data: ") }
	for _, a := range apis {
		t.Run(a.name, func(t *testing.T) {
			do := func(prompt string, stream bool) (int, string, error) {
				res, body, err := w.do(w.request(a.path, a.body(prompt, stream), a.header...))
				if res == nil {
					return 0, "", err
				}
				return res.StatusCode, body, err
			}
			_, proper, err := do("one two three four five", true)
			if err != nil {
				t.Fatal(err)
			}
			all := events(proper)
			for _, c := range []struct {
				prompt string
				err    error
				events int
				done   bool
			}{
				{"/cut 3", syscall.ECONNRESET, 3, false},
				{"/cut 0", syscall.ECONNRESET, 0, false},
				{"/cut 99", syscall.ECONNRESET, all, true},
				{"/fin 3", io.ErrUnexpectedEOF, 3, false},
				{"/fin 0", io.ErrUnexpectedEOF, 0, false},
				{"/fin 99", io.ErrUnexpectedEOF, all, true},
				{"/end 3", nil, 3, false},
				{"/end 0", nil, 0, false},
				{"/end 99", nil, all - 1, false},
				{"/error-mid 3", nil, 4, false},
			} {
				_, body, err := do(c.prompt+" one two three four five", true)
				// A reset may overtake the last bytes sent before it, so up to one event may be missing.
				short := c.err == syscall.ECONNRESET && events(body) == c.events-1
				if !errors.Is(err, c.err) || events(body) != c.events && !short || strings.Contains(body, a.done) != c.done && !short {
					t.Errorf("%s: %v after %d events, want %v after %d: %s", c.prompt, err, events(body), c.err, c.events, body)
				}
				if strings.HasPrefix(c.prompt, "/error-mid") && !strings.Contains(body[strings.LastIndex(body, "data: "):], "error") {
					t.Errorf("%s: the last event is no error: %s", c.prompt, body)
				}
				if last, _ := w.Last(); (last.Outcome == Faulty) != (c.err != nil) && last.Outcome != Open {
					t.Errorf("%s: outcome %d", c.prompt, last.Outcome)
				}
			}
			for _, c := range []struct {
				prompt string
				err    error
				size   int
			}{
				{"/cut 20", syscall.ECONNRESET, 20},
				{"/fin 20", io.ErrUnexpectedEOF, 20},
				{"/end 20", nil, 20},
			} {
				_, body, err := do(c.prompt, false)
				if !errors.Is(err, c.err) || len(body) > c.size || len(body) < c.size && c.err != syscall.ECONNRESET {
					t.Errorf("%s, not streamed: %v after %d bytes: %s", c.prompt, err, len(body), body)
				}
			}
			if status, body, err := do("/error-mid 3", false); status != 500 || err != nil {
				t.Errorf("/error-mid, not streamed: %d %v %s", status, err, body)
			}
			if status, body, _ := do("/failed", a.name == "responses"); a.name == "responses" && !strings.Contains(body, "event: response.failed") || a.name != "responses" && status != 500 {
				t.Errorf("/failed: %d %s", status, body)
			}
			if _, body, _ := do("/incomplete", false); !strings.Contains(body, `"length"`) && !strings.Contains(body, `"max_output_tokens"`) && !strings.Contains(body, `"max_tokens"`) {
				t.Errorf("/incomplete: %s", body)
			}
		})
	}
}

func TestShapingDirectives(t *testing.T) {
	w := start(t, Config{})
	for _, a := range apis {
		t.Run(a.name, func(t *testing.T) {
			for _, stream := range []bool{false, true} {
				_, body := w.call(a.path, a.body("/size 1MB", stream), a.header...)
				if got := a.text(body); len(got) != 1<<20 || len(body) > 6<<20 {
					t.Errorf("/size 1MB: %d bytes of text in %d", len(got), len(body))
				}
			}
			_, body := w.call(a.path, a.body("/events 1000", true), a.header...)
			if n := strings.Count(body, "data: "); n < 1000 || n > 1010 {
				t.Errorf("/events 1000: %d events", n)
			}
			_, plain := w.call(a.path, a.body("/say a b c", true), a.header...)
			if a.name == "chat" {
				_, dripped := w.call(a.path, a.body("/drip 1us /say a b c", true), a.header...)
				if a.text(plain) != a.text(dripped) {
					t.Errorf("/drip: %s", dripped)
				}
			}
			_, pinged := w.call(a.path, a.body("/ping /say a b c", true), a.header...)
			if a.text(pinged) != "a b c" || strings.Count(pinged, "ping")+strings.Count(pinged, ": keep-alive\n\n") < 3 {
				t.Errorf("/ping: %s", pinged)
			}
		})
	}
}

// The canary: a credential that must turn up nowhere but where /echo-auth puts it.
func TestEchoAuth(t *testing.T) {
	w := start(t, Config{Key: "sk-canary"})
	for _, a := range apis {
		header := append([]string{"Authorization", "Bearer sk-canary"}, a.header...)
		for _, prompt := range []string{"/echo-auth", "/echo-auth /error 429"} {
			res, body := w.call(a.path, a.body(prompt, true), header...)
			if !strings.Contains(strings.ReplaceAll(body, `"content":" `, "")+a.text(body), "sk-canary") || res.Header.Get("X-Echo-Authorization") != "Bearer sk-canary" {
				t.Errorf("%s %s: %v %s", a.name, prompt, res.Header, body)
			}
		}
		if _, body := w.call(a.path, a.body("hi", false), header...); strings.Contains(body, "canary") {
			t.Errorf("%s tells the key unasked: %s", a.name, body)
		}
	}
}

func TestFlaky(t *testing.T) {
	w := start(t, Config{})
	a := apis[0]
	for retry, want := range map[string]int{"": 503, "0": 503, "1": 503, "2": 200, "x": 503} {
		if res, body := w.call(a.path, a.body("/flaky 2 hi", false), "X-Stainless-Retry-Count", retry); res.StatusCode != want {
			t.Errorf("retry %q: %d %s", retry, res.StatusCode, body)
		}
	}
}

// A caller that leaves is noticed whatever the model is doing, and no request stays open behind it.
func TestCallerLeaves(t *testing.T) {
	w := start(t, Config{})
	for _, prompt := range []string{"/hang", "/stall 3", "/stall 0", "/endless", "/endless /slow 1ms", "/slow 10s", "/wait 10s", "/drip 10s", "/raw silent", "/raw head-only"} {
		for _, a := range apis {
			ctx, cancel := context.WithCancel(t.Context())
			n := w.Count()
			failed := make(chan error, 1)
			go func() {
				_, _, err := w.do(w.request(a.path, a.body(prompt, true), a.header...).WithContext(ctx))
				failed <- err
			}()
			if err := w.Await(t.Context(), n+1); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("%s %s: %v", a.name, prompt, err)
			}
			limit, stop := context.WithTimeout(t.Context(), 5*time.Second)
			if err := w.Idle(limit); err != nil {
				t.Fatalf("%s %s: the request is still open", a.name, prompt)
			}
			stop()
			if last, _ := w.Last(); last.Outcome != Gone && last.Outcome != Faulty {
				t.Errorf("%s %s: outcome %d", a.name, prompt, last.Outcome)
			}
		}
	}
}

// A Model that ends lets nobody hang.
func TestRunEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx, ln) }()
	var callers sync.WaitGroup
	for _, prompt := range []string{"/hang", "/stall 2", "/raw silent", "/raw extra"} {
		callers.Go(func() {
			res, err := http.Post("http://"+ln.Addr().String()+apis[0].path, "application/json", strings.NewReader(apis[0].body(prompt, true)))
			if err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
	if err := m.Await(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	cancel()
	callers.Wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := m.Idle(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Run(t.Context(), ln); err == nil {
		t.Error("a closed listener is no error")
	}
}

func TestDelays(t *testing.T) {
	ask := func(t *testing.T, m *Model, prompt string) time.Duration {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, apis[0].path, strings.NewReader(apis[0].body(prompt, true)))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		m.Answer(r)
		return time.Since(start)
	}
	for _, c := range []struct {
		cfg    Config
		prompt string
		want   time.Duration
	}{
		{Config{}, "/say a b", 0},
		{Config{}, "/slow 50ms /say a b", 5 * 50 * time.Millisecond}, // role, a, b, finish, DONE
		{Config{}, "/wait 3s /slow 50ms /end 2 /say a b", 3*time.Second + 100*time.Millisecond},
		{Config{Delay: time.Second}, "/say a b", 5 * time.Second},
		{Config{Delay: time.Second, Wait: time.Minute}, "/slow 2s /say a b", 70 * time.Second},
		{Config{Wait: time.Minute}, "/error 500", time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			if got := ask(t, New(c.cfg), c.prompt); got != c.want {
				t.Errorf("%s took %v, want %v", c.prompt, got, c.want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	w := start(t, Config{Keep: 3, KeepBody: 10})
	if _, ok := w.Last(); ok || len(w.Requests()) > 0 {
		t.Error("something is remembered before anything came")
	}
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() { w.call("/v1/models", "") })
	}
	callers.Wait()
	for i := range 3 {
		w.call(fmt.Sprintf("/v1/completions?n=%d", i), `{"model":"fake-1","prompt":"hello"}`, "X-Mine", fmt.Sprint(i))
	}
	if err := w.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := w.Requests()
	if len(got) != 3 || w.Count() != 23 {
		t.Fatalf("%d remembered of %d", len(got), w.Count())
	}
	for i, r := range got {
		if r.N != 21+i || r.Method != "POST" || r.Target != fmt.Sprintf("/v1/completions?n=%d", i) || r.Header.Get("X-Mine") != fmt.Sprint(i) ||
			string(r.Body) != `{"model":"` || r.Size != 35 || r.Chunked || r.Outcome != Done || r.Proto != "HTTP/1.1" || r.Host == "" || r.Conn == "" {
			t.Errorf("%+v", r)
		}
	}
	if last, _ := w.Last(); last.N != 23 {
		t.Errorf("the last is %d", last.N)
	}

	none := start(t, Config{Keep: -1})
	none.call("/v1/models", "")
	if _, ok := none.Last(); ok || none.Count() != 1 || len(none.Requests()) != 0 {
		t.Error("remembered, though told not to")
	}
}

// Answer says byte for byte what a connection would carry.
func TestAnswerIsTheAnswer(t *testing.T) {
	m := New(Config{})
	for _, a := range apis {
		for _, prompt := range []string{"/say a b c", "/error 429", "/end 2", "/raw sse-crlf", "/fin 2"} {
			for _, stream := range []bool{false, true} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+a.path, strings.NewReader(a.body(prompt, stream)))
				if err != nil {
					t.Fatal(err)
				}
				if a.header != nil {
					r.Header.Set(a.header[0], a.header[1])
				}
				wire := m.Answer(r)
				br := bufio.NewReader(bytes.NewReader(wire.Bytes()))
				res, err := http.ReadResponse(br, r)
				if err != nil {
					t.Fatalf("%s %s: %v\n%s", a.name, prompt, err, wire.Bytes())
				}
				_, err = io.ReadAll(res.Body)
				if cut := prompt == "/fin 2"; (err != nil) != cut || (wire.End == Close) != cut {
					t.Errorf("%s %s: %v, end %d", a.name, prompt, err, wire.End)
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("%s %s: bytes behind the answer", a.name, prompt)
				}
			}
		}
	}
	if m.Count() != 0 {
		t.Error("Answer counts")
	}
}

func FuzzOrders(f *testing.F) {
	for _, s := range []string{"/cut 3 hi", "/size 1MB /events 9 x", "/drip /drip 5ms", "/raw status-000", " \t/say \n/hang", "/error 99", "/tool", "/size 99999999MB", "/slow -5s", "hello /cut 3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var o orders
		err := o.parse(s)
		if err == nil && !strings.HasSuffix(s, o.prompt) {
			t.Errorf("prompt %q is not the end of %q", o.prompt, s)
		}
		if o.at < 0 || o.size < 0 || o.size > 256<<20 || o.count < 0 {
			t.Errorf("%q: %+v", s, o)
		}
	})
}

func FuzzServe(f *testing.F) {
	for i, a := range apis {
		f.Add(uint8(i), a.body("hello /cut 3", true))
		f.Add(uint8(i), a.body("/end 2 look_up it", false))
	}
	f.Add(uint8(4), `{"model":"fake-1","input":[[1],"x",null],"dimensions":3}`)
	f.Add(uint8(5), `{"model":"fake-1","messages":[{"role":"user","content":[{"type":"tool_result","content":[{"text":"x"}]}]}],"tools":[{"name":"t","input_schema":{"properties":{"a":{"type":["string"]}}}}],"tool_choice":{"type":"any"}}`)
	paths := []string{"/v1/embeddings", "/v1/messages/count_tokens"}
	m := New(Config{})
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		if strings.Contains(body, "/") && !strings.Contains(body, "/end") {
			return // directives may hang, break, or ask for 256 MB
		}
		path := ""
		if i := int(which) % (len(apis) + len(paths)); i < len(apis) {
			path = apis[i].path
		} else {
			path = paths[i-len(apis)]
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Anthropic-Version", "2023-06-01")
		wire := m.Answer(r)
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(wire.Bytes())), r)
		if err != nil {
			t.Fatalf("%v\n%s", err, wire.Bytes())
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.Header.Get("Content-Type") == "application/json" && !strings.Contains(body, "/end") && !json.Valid(b) {
			t.Errorf("%s", b)
		}
	})
}

// BenchmarkServe is what the fake model itself costs a benchmark: over a kept connection, client included.
func BenchmarkServe(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	m := New(Config{Keep: -1})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx, ln) }()
	defer func() { cancel(); <-ended }()
	for _, c := range []struct {
		name, prompt string
		stream       bool
	}{{"json", "hello", false}, {"64-events", "/events 64", true}} {
		b.Run(c.name, func(b *testing.B) {
			body := apis[0].body(c.prompt, c.stream)
			b.ReportAllocs()
			for b.Loop() {
				res, err := http.Post("http://"+ln.Addr().String()+apis[0].path, "application/json", strings.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					b.Fatal(err)
				}
				_ = res.Body.Close()
			}
		})
	}
}
