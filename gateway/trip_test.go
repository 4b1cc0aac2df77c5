package gateway

import (
	"io"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog/record"
)

// A call of each kind passes, is recorded whole, and the record says what the caller and the model saw.
func TestCallsPassAndAreRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, c := range []struct {
		name, method, path, body string
		finish                   string
	}{
		{"chat", "POST", "/v1/chat/completions", chat("hello there", false), ""},
		{"chat stream", "POST", "/v1/chat/completions", chat("hello there", true), "[DONE]"},
		{"responses", "POST", "/v1/responses", `{"model":"fake-1","input":"hello"}`, ""},
		{"responses stream", "POST", "/v1/responses", `{"model":"fake-1","stream":true,"input":"hello"}`, "response.completed"},
		{"embeddings", "POST", "/v1/embeddings", `{"model":"fake-embed-1","input":"hello"}`, ""},
		{"completions stream", "POST", "/v1/completions", `{"model":"fake-1","stream":true,"prompt":"hello"}`, "[DONE]"},
		{"models", "GET", "/v1/models", "", ""},
		{"messages", "POST", "/v1/messages", `{"model":"fake-1","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, ""},
		{"messages stream", "POST", "/v1/messages", `{"model":"fake-1","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}`, "message_stop"},
		{"any", "POST", "/any/v1/chat/completions?x=a+b%2Bc", chat("hello", false), ""},
		{"any stream", "POST", "/any/v1/chat/completions", chat("hello", true), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := w.do(t.Context(), c.method, c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body := slurp(t, resp.Body)
			if resp.StatusCode != 200 {
				t.Fatalf("status %d: %s", resp.StatusCode, body)
			}
			k := w.session(resp.Header.Get(SessionHeader))
			if len(k.entries) != 2 || k.entries[0].Kind != record.Request {
				t.Fatalf("the session has %d entries", len(k.entries))
			}
			e, r := k.last()
			if e.Kind != record.Response || e.Outcome != record.Complete {
				t.Errorf("it ended as %s %s: %s", e.Kind, e.Outcome, get(r, record.FieldError))
			}
			if get(r, record.FieldBody) != body {
				t.Errorf("the record's body is not what the caller got:\n%q\n%q", get(r, record.FieldBody), body)
			}
			if get(r, record.FieldFinish) != c.finish {
				t.Errorf("finish %q, want %q", get(r, record.FieldFinish), c.finish)
			}
			q := k.records[0]
			if get(q, record.FieldBody) != c.body || get(q, record.FieldCaller) != "alice" || get(q, record.FieldTarget) != c.path {
				t.Errorf("the request's record is %q %q %q", get(q, record.FieldBody), get(q, record.FieldCaller), get(q, record.FieldTarget))
			}
			last, _ := w.model.Last()
			if string(last.Body) != c.body {
				t.Errorf("the model got %q", last.Body)
			}
			if strings.Contains(get(q, record.FieldHeaders), callerKey) {
				t.Error("the caller's key is on record")
			}
		})
	}
}

// An answer that stops before its end is cut for the caller and truncated on record.
func TestCutAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, c := range []struct {
		prompt string
		stream bool
		want   record.Outcome
	}{
		{"/cut 3 hello out there in the world", true, record.Truncated},
		{"/fin 3 hello out there in the world", true, record.Truncated},
		{"/end 3 hello out there in the world", true, record.Truncated},
		{"/fin 999 hello out there in the world", true, record.Truncated},
		{"/cut 20 hello out there in the world", false, record.Truncated},
		{"/fin 20 hello out there in the world", false, record.Truncated},
		{"/error-mid 3 hello out there in the world", true, record.UpstreamError},
	} {
		t.Run(c.prompt, func(t *testing.T) {
			resp := w.post("/v1/chat/completions", chat(c.prompt, c.stream))
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if c.want == record.Truncated && c.stream && err == nil {
				t.Errorf("the caller was given a clean end: %q", body)
			}
			if !c.stream && resp.StatusCode != 502 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if strings.Contains(string(body), "[DONE]") && c.want == record.Truncated {
				t.Errorf("the caller was given the end of a cut stream: %q", body)
			}
			e, r := w.session(resp.Header.Get(SessionHeader)).last()
			if e.Outcome != c.want {
				t.Errorf("on record as %s (%s), want %s", e.Outcome, get(r, record.FieldError), c.want)
			}
			if c.stream && get(r, record.FieldBody) != string(body) && !strings.HasPrefix(get(r, record.FieldBody), string(body)) {
				t.Errorf("the record has %q, the caller %q", get(r, record.FieldBody), body)
			}
		})
	}
}
