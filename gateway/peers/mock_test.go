package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	claudeoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// What both SDKs make of recorded answers that a mock serves is what they made of them when they were recorded: text, tool calls,
// usage, why it stopped, errors of the model and of the gateway, and streams that break off.
func TestMock(t *testing.T) {
	if direct {
		t.Skip("a model keeps no records")
	}
	ln := listen(t)
	run(t, func(ctx context.Context) error {
		return gatewaytest.New(gatewaytest.Config{Key: modelKey}).Run(ctx, ln)
	})
	l, _ := openLog(t)
	keys := openRing(t)
	base := through(t, "http://"+ln.Addr().String(), l, keys, nil)
	recorded := &sessions{}
	want := rehearse(t, base+"/v1", base+"/anthropic", recorded)

	pen, err := record.NewWriter(record.WriterConfig{ID: "desk", Log: l, Software: "tallystick/peers", Mode: "none"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, pen.Run)
	desk, err := audit.NewDesk(l, readOnly{keys}, pen)
	if err != nil {
		t.Fatal(err)
	}
	var played []verify.Session
	for _, id := range recorded.all() {
		bundle := ended(t, func() ([]byte, error) {
			return desk.Bundle(t.Context(), audit.Asker{Name: "sdk", Reason: "a rehearsal", Roles: audit.Auditor}, audit.Mock, "", id)
		})
		b, err := verify.Parse(bundle)
		if err != nil {
			t.Fatal(err)
		}
		played = append(played, b.Sessions[0])
	}
	if len(played) < 30 || len(played) != recorded.calls {
		t.Fatalf("%d sessions of %d calls", len(played), recorded.calls)
	}
	for name, c := range map[string]replay.MockConfig{
		"at once": {NoDelay: true}, "as it was": {}, "each once": {Once: true, Speed: 4}, "in order": {Match: replay.InOrder, NoDelay: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := replay.NewMock(c, played...)
			if err != nil {
				t.Fatal(err)
			}
			s := httptest.NewServer(m)
			defer s.Close()
			served := &sessions{header: replay.MockHeader}
			got := rehearse(t, s.URL+"/v1", s.URL, served)
			for _, call := range slices.Sorted(maps.Keys(want)) {
				if got[call] != want[call] {
					t.Errorf("%s:\n%s\nin the place of\n%s", call, got[call], want[call])
				}
			}
			if ids := served.all(); !slices.Equal(ids, recorded.all()) {
				t.Errorf("served %v\nof %v", ids, recorded.all())
			}
		})
	}
}

// ended waits until a session has ended and is published.
func ended(t *testing.T, ask func() ([]byte, error)) []byte {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		b, err := ask()
		if err == nil {
			return b
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sessions are those that answers name, and how many calls there were.
type sessions struct {
	header string
	mu     sync.Mutex
	calls  int
	ids    []record.ID
}

// all returns them in the order in which they were recorded.
func (s *sessions) all() []record.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(slices.Values(s.ids), func(a, b record.ID) int { return bytes.Compare(a[:], b[:]) })
}

func (s *sessions) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	name := s.header
	if name == "" {
		name = gateway.SessionHeader
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if id, err := record.ParseID(resp.Header.Get(name)); err == nil {
		s.ids = append(s.ids, id)
	}
	return resp, nil
}

// rehearse makes calls with both SDKs, one after the other, and returns what each came to.
func rehearse(t *testing.T, openaiBase, anthropicBase string, through http.RoundTripper) map[string]string {
	t.Helper()
	hc := &http.Client{Transport: through, Timeout: 30 * time.Second}
	o := openai.NewClient(option.WithBaseURL(openaiBase), option.WithAPIKey(callerKey), option.WithMaxRetries(0), option.WithHTTPClient(hc))
	a := anthropic.NewClient(claudeoption.WithoutEnvironmentDefaults(), claudeoption.WithBaseURL(anthropicBase), claudeoption.WithAPIKey(callerKey),
		claudeoption.WithMaxRetries(0), claudeoption.WithHTTPClient(hc))
	ctx := t.Context()
	got := make(map[string]string)
	put := func(call string, v any, err error) {
		var oe *openai.Error
		var ae *anthropic.Error
		switch {
		case errors.As(err, &oe):
			got[call] = fmt.Sprintf("%d %s %s %s %s", oe.StatusCode, oe.Type, oe.Code, oe.Message, oe.Response.Header.Get("X-Request-Id"))
		case errors.As(err, &ae):
			got[call] = fmt.Sprintf("%d %s %s", ae.StatusCode, ae.Error(), ae.RequestID)
			got[call] = strings.ReplaceAll(got[call], anthropicBase, "") // which the SDK says
		case err != nil:
			got[call] = fmt.Sprintf("%T after %v", err, v)
		default:
			got[call] = fmt.Sprint(v)
		}
	}

	tools := chat("Call get_weather for Oslo")
	tools.Tools = weather()
	for call, params := range map[string]openai.ChatCompletionNewParams{
		"chat": chat("/say Hello & <welcome>, 世界"), "chat calls a tool": tools, "chat at its limit": chat("/incomplete /say one"),
		"chat refused by the model": chat("/error 429"), "chat fails": chat("/error 500"),
	} {
		whole, err := o.Chat.Completions.New(ctx, params)
		if whole == nil {
			whole = &openai.ChatCompletion{}
		}
		put(call, whole.RawJSON(), err)
		params.StreamOptions.IncludeUsage = param.NewOpt(true)
		stream := o.Chat.Completions.NewStreaming(ctx, params)
		var acc openai.ChatCompletionAccumulator
		raw := ""
		for stream.Next() {
			acc.AddChunk(stream.Current())
			raw += stream.Current().RawJSON() + "\n"
		}
		put(call+", streamed", raw, stream.Err())
		if len(acc.Choices) > 0 {
			m := acc.Choices[0].Message
			got[call+", gathered"] = fmt.Sprint(m.Content, m.ToolCalls, acc.Usage, acc.Choices[0].FinishReason)
		}
	}
	for _, how := range []string{"/cut 3", "/end 3", "/error-mid 3"} {
		stream := o.Chat.Completions.NewStreaming(ctx, chat(how+" /say one two three four five"))
		n := 0
		for stream.Next() {
			n++
		}
		if stream.Err() == nil {
			t.Errorf("%s: a clean end", how)
		}
		put("chat, "+how, n, stream.Err())
	}
	for call, prompt := range map[string]string{"responses": "/say one two", "responses calls a tool": "Call get_weather for Oslo", "responses fails": "/failed"} {
		params := responses.ResponseNewParams{
			Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt(prompt)},
			Tools: []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{
				Name: "get_weather", Strict: param.NewOpt(false), Parameters: map[string]any{"properties": map[string]any{"city": map[string]any{"type": "string"}}},
			}}},
		}
		whole, err := o.Responses.New(ctx, params)
		if whole == nil {
			whole = &responses.Response{}
		}
		put(call, whole.RawJSON(), err)
		stream := o.Responses.NewStreaming(ctx, params)
		raw := ""
		for stream.Next() {
			raw += stream.Current().RawJSON() + "\n"
		}
		put(call+", streamed", raw, stream.Err())
	}
	vectors, err := o.Embeddings.New(ctx, openai.EmbeddingNewParams{
		Model: gatewaytest.EmbeddingModel, Dimensions: param.NewOpt[int64](16), Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	put("embeddings", vectors.RawJSON(), nil)
	list, err := o.Models.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	put("models", list.RawJSON(), nil)
	put("refused by the gateway", "", o.Post(ctx, "nowhere", map[string]any{"a": 1}, nil))

	uses := message("Call get_weather for Oslo")
	uses.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name: "get_weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}},
	}}}
	for call, params := range map[string]anthropic.MessageNewParams{
		"messages": message("/say Hello & <welcome>, 世界"), "messages, a tool": uses, "messages at its limit": message("/incomplete /say one"),
		"messages refused by the model": message("/error 429"), "messages overloaded": message("/error 529"),
	} {
		whole, err := a.Messages.New(ctx, params)
		if whole == nil {
			whole = &anthropic.Message{}
		}
		put(call, whole.RawJSON(), err)
		m, names, err := gather(t, a.Messages.NewStreaming(ctx, params))
		put(call+", streamed", fmt.Sprint(names, m.Content, m.StopReason, m.Usage), err)
	}
	for _, how := range []string{"/cut 3", "/end 3"} {
		_, names, err := gather(t, a.Messages.NewStreaming(ctx, message(how+" /say one two three four five")))
		if err == nil {
			t.Errorf("%s: a clean end", how)
		}
		put("messages, "+how, names, err)
	}
	return got
}
