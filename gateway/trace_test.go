package gateway

import (
	"bytes"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestNameOf(t *testing.T) {
	for in, want := range map[string]string{
		"gpt-5": "gpt-5", "claude-3-5@20240620": "claude-3-5@20240620", "meta/llama:70b": "meta/llama:70b", "": "", "alice@example.org": "",
		"4111111111111111": "", "two words": "", "a\nb": "", "naïve": "", strings.Repeat("a", 129): "", "<script>": "",
	} {
		if got := nameOf([]byte(in)); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestAnswerFacts(t *testing.T) {
	stream := func(events ...string) string { return "data: " + strings.Join(events, "\n\ndata: ") + "\n\n" }
	for _, c := range []struct {
		name   string
		api    API
		body   string
		stream bool
		want   AnswerFacts
	}{
		{"chat", OpenAI, `{"id":"chatcmpl-1","model":"m-1","choices":[{"finish_reason":"stop","message":{"content":"\"model\":\"x\""}},{"finish_reason":"length"}]}`, false, AnswerFacts{Model: "m-1", ID: "chatcmpl-1", Finish: []string{"stop", "length"}}},
		{"a chat's stream", OpenAI, stream(`{"id":"c","model":"m","choices":[{"delta":{},"finish_reason":null}]}`, `{"id":"c","model":"m","choices":[{"finish_reason":"tool_calls"}]}`, `[DONE]`), true, AnswerFacts{Model: "m", ID: "c", Finish: []string{"tool_calls"}}},
		{"messages", Anthropic, `{"id":"msg_1","model":"m","stop_reason":"end_turn","content":[{"input":{"stop_reason":"planted"}}]}`, false, AnswerFacts{Model: "m", ID: "msg_1", Finish: []string{"end_turn"}}},
		{"a stream of messages", Anthropic, stream(`{"type":"message_start","message":{"id":"msg_1","model":"m","stop_reason":null}}`, `{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}`), true, AnswerFacts{Model: "m", ID: "msg_1", Finish: []string{"max_tokens"}}},
		{"responses", OpenAI, `{"id":"resp_1","object":"response","status":"completed","model":"m"}`, false, AnswerFacts{Model: "m", ID: "resp_1", Finish: []string{"completed"}}},
		{"a stream of responses", OpenAI, stream(`{"type":"response.created","response":{"id":"r","object":"response","status":"in_progress","model":"m"}}`, `{"type":"response.completed","response":{"id":"r","object":"response","status":"completed","model":"m"}}`), true, AnswerFacts{Model: "m", ID: "r", Finish: []string{"completed"}}},
		{"words", OpenAI, `{"id":"not an id","model":"me@example.org","choices":[{"finish_reason":"because of 4111"}]}`, false, AnswerFacts{}},
		{"another API", HTTP, `{"model":"m"}`, false, AnswerFacts{}},
	} {
		if got := answerFacts(c.api, []byte(c.body), c.stream); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// Whatever a model answers, what it says of itself is read and is short.
func FuzzAnswerFacts(f *testing.F) {
	f.Add([]byte(`{"id":"c","model":"m","choices":[{"finish_reason":"stop"}]}`), true)
	f.Add([]byte("data: {\"message\":{\"model\":\"m\"}}\n\n"), false)
	f.Add(bytes.Repeat([]byte(`{"delta":`), 1000), true)
	f.Fuzz(func(t *testing.T, body []byte, stream bool) {
		a := answerFacts(OpenAI, body, stream)
		if len(a.Model) > 128 || len(a.ID) > 128 || len(a.Finish) > maxFinish {
			t.Errorf("%+v", a)
		}
	})
}

func TestProvider(t *testing.T) {
	for host, want := range map[string]string{
		"api.openai.com": "openai", "mine.openai.azure.com": "azure.ai.openai", "api.groq.com": "groq", "127.0.0.1:8080": "openai", "evilgroq.com": "openai",
	} {
		if got := (&Route{API: OpenAI, Upstream: &url.URL{Scheme: "https", Host: host}}).provider(); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
	if h, p := (&Route{Upstream: &url.URL{Scheme: "https", Host: "api.example"}}).host(); h != "api.example" || p != 443 {
		t.Error(h, p)
	}
}

// A tripKeeper keeps the trip that it is told of.
type tripKeeper struct{ trip *Trip }

func (*tripKeeper) Sending() string { return "" }
func (e *tripKeeper) End(t *Trip)   { e.trip = t }

// Of a route that masks, who follows calls is told of models as they are written down.
func TestMaskedModelIsTold(t *testing.T) {
	r := &Route{Name: "openai", API: OpenAI, Upstream: &url.URL{Scheme: "https", Host: "api.example"}}
	for _, m := range []*masked{nil, {model: []byte("masked-1")}} {
		e := &tripKeeper{}
		c := &call{g: &Gateway{}, route: r, model: "plain-1", masked: m, trace: e}
		c.tell(nil, time.Now())
		if want := map[bool]string{true: "plain-1", false: "masked-1"}[m == nil]; e.trip.Model != want || c.trace != nil {
			t.Errorf("%s, want %s", e.trip.Model, want)
		}
	}
}
