package peers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
	"github.com/anthropics/anthropic-sdk-go/packages/ssestream"
)

// claude is Anthropic's SDK, and the count of its attempts.
func claude(t *testing.T, opts ...option.RequestOption) (*anthropic.Client, *attempts) {
	t.Helper()
	_, base, key := world(t)
	a := &attempts{t: t}
	opts = append([]option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		option.WithBaseURL(base), option.WithAPIKey(key), option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Timeout: 10 * time.Second}), option.WithMiddleware(a.middleware),
	}, opts...)
	c := anthropic.NewClient(opts...)
	return &c, a
}

func message(prompt string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: model, MaxTokens: 1000, System: []anthropic.TextBlockParam{{Text: "Be short."}},
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
	}
}

// gather reads a stream to its end into a message.
func gather(t *testing.T, stream *ssestream.Stream[anthropic.MessageStreamEventUnion]) (m anthropic.Message, names []string, err error) {
	t.Helper()
	for stream.Next() {
		ev := stream.Current()
		shape(t, ev)
		names = append(names, ev.Type)
		if err := m.Accumulate(ev); err != nil {
			t.Errorf("%s: %v", ev.RawJSON(), err)
		}
	}
	return m, names, stream.Err()
}

func TestAnthropicMessages(t *testing.T) {
	c, _ := claude(t)
	got, err := c.Messages.New(t.Context(), message("/say Hello & <welcome>, 世界"))
	if err != nil {
		t.Fatal(err)
	}
	shape(t, got)
	if len(got.Content) != 1 || got.Content[0].Text != "Hello & <welcome>, 世界" || got.StopReason != "end_turn" || got.Usage.OutputTokens == 0 {
		t.Errorf("%s", got.RawJSON())
	}
	if got, err = c.Messages.New(t.Context(), message("/incomplete /say one")); err != nil || got.StopReason != "max_tokens" {
		t.Errorf("%v %v", got, err)
	}
	token, _ := claude(t, option.WithHeaderDel("X-Api-Key"), option.WithHeader("Authorization", "Bearer "+key()))
	if _, err := token.Messages.New(t.Context(), message("hi")); err != nil {
		t.Errorf("with the key as a bearer token: %v", err)
	}
}

func TestAnthropicStream(t *testing.T) {
	c, _ := claude(t)
	got, names, err := gather(t, c.Messages.NewStreaming(t.Context(), message("/ping /say one two three")))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Content) != 1 || got.Content[0].Text != "one two three" || got.StopReason != "end_turn" || got.Usage.OutputTokens < 3 {
		t.Errorf("%+v", got)
	}
	const want = "message_start content_block_start content_block_delta content_block_delta content_block_delta content_block_stop message_delta message_stop"
	if strings.Join(names, " ") != want {
		t.Errorf("heard %q", names)
	}
}

func TestAnthropicTools(t *testing.T) {
	c, _ := claude(t)
	params := message("Call get_weather for Oslo")
	params.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name: "get_weather", Description: param.NewOpt("The weather of a city"),
		InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}},
	}}}
	whole, err := c.Messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, whole)
	streamed, _, err := gather(t, c.Messages.NewStreaming(t.Context(), params))
	if err != nil {
		t.Fatal(err)
	}
	for how, got := range map[string]anthropic.Message{"whole": *whole, "streamed": streamed} {
		if got.StopReason != "tool_use" || len(got.Content) != 1 {
			t.Fatalf("%s: %+v", how, got)
		}
		use := got.Content[0].AsToolUse()
		var args struct{ City string }
		if err := json.Unmarshal(use.Input, &args); err != nil || args.City != "Oslo" || use.Name != "get_weather" || use.ID == "" {
			t.Errorf("%s: %s(%s), %v", how, use.Name, use.Input, err)
		}
		params.Messages = append(params.Messages[:1:1], got.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(use.ID, "rain", false)))
		next, err := c.Messages.New(t.Context(), params)
		if err != nil || next.StopReason != "end_turn" || !strings.Contains(next.Content[0].Text, "rain") {
			t.Errorf("%s: after the tool returned: %v %v", how, next, err)
		}
	}
}

func TestAnthropicCountTokens(t *testing.T) {
	c, _ := claude(t)
	count := func(prompt string) int64 {
		got, err := c.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
			Model: model, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
		})
		if err != nil {
			t.Fatal(err)
		}
		shape(t, got)
		return got.InputTokens
	}
	if short, long := count("hi"), count(strings.Repeat("hi there ", 100)); short < 1 || long < 10*short {
		t.Errorf("%d and %d tokens", short, long)
	}
}

func TestAnthropicModels(t *testing.T) {
	c, _ := claude(t)
	page, err := c.Models.List(t.Context(), anthropic.ModelListParams{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Data) == 0 || page.Data[0].ID != model {
		t.Fatalf("%s", page.RawJSON())
	}
	shape(t, page.Data[0])
	one, err := c.Models.Get(t.Context(), model, anthropic.ModelGetParams{})
	if err != nil || one.ID != model {
		t.Errorf("%v %v", one, err)
	}
}

func TestAnthropicErrors(t *testing.T) {
	for _, w := range []struct {
		prompt, model string
		opts          []option.RequestOption
		status        int
		kind          string
		tries         int // with as many allowed, and two where one is wanted
		retryAfter    bool
	}{
		{prompt: "/error 400", status: 400, kind: "invalid_request_error", tries: 1},
		{prompt: "hi", opts: []option.RequestOption{option.WithAPIKey("sk-other")}, status: 401, kind: "authentication_error", tries: 1},
		{prompt: "/error 403", status: 403, kind: "permission_error", tries: 1},
		{prompt: "hi", model: "no-such", status: 404, kind: "not_found_error", tries: 1},
		{prompt: "/error 413", status: 413, kind: "request_too_large", tries: 1},
		{prompt: "/error 429", status: 429, kind: "rate_limit_error", tries: 3, retryAfter: true},
		{prompt: "/error 500", status: 500, kind: "api_error", tries: 2},
		{prompt: "/error 529", status: 529, kind: "overloaded_error", tries: 3, retryAfter: true},
	} {
		t.Run(w.prompt+w.model, func(t *testing.T) {
			t.Parallel()
			c, a := claude(t, append(w.opts, option.WithMaxRetries(max(w.tries-1, 1)))...)
			params := message(w.prompt)
			if w.model != "" {
				params.Model = anthropic.Model(w.model)
			}
			for _, stream := range []bool{false, true} {
				var err error
				if stream {
					s := c.Messages.NewStreaming(t.Context(), params)
					for s.Next() {
						t.Error("an event before the error")
					}
					err = s.Err()
				} else {
					_, err = c.Messages.New(t.Context(), params)
				}
				var e *anthropic.Error
				if !errors.As(err, &e) {
					t.Fatalf("%T %v", err, err)
				}
				if e.StatusCode != w.status || string(e.Type()) != w.kind || e.RequestID == "" {
					t.Errorf("%d %q %q: %s", e.StatusCode, e.Type(), e.RequestID, e.RawJSON())
				}
				if a.n != w.tries {
					t.Errorf("%d attempts, want %d", a.n, w.tries)
				}
				if (e.Response.Header.Get("Retry-After") != "") != w.retryAfter {
					t.Errorf("retry-after is %q", e.Response.Header.Get("Retry-After"))
				}
			}
		})
	}
}

func TestAnthropicRetriesUntilItWorks(t *testing.T) {
	c, a := claude(t, option.WithMaxRetries(2))
	got, err := c.Messages.New(t.Context(), message("/flaky 2 /say at last"))
	if err != nil || got.Content[0].Text != "at last" || a.n != 3 {
		t.Errorf("%v after %d attempts", err, a.n)
	}
}

func TestAnthropicBrokenStreams(t *testing.T) {
	for _, w := range []struct {
		prompt string
		is     error
	}{
		{"/error-mid 4", nil},
		{"/cut 4", syscall.ECONNRESET},
		{"/fin 4", io.ErrUnexpectedEOF},
		{"/end 4", nil},
		{"/raw chunk-no-end", io.ErrUnexpectedEOF},
		{"/raw chunk-bad-end", nil},
	} {
		t.Run(w.prompt, func(t *testing.T) {
			t.Parallel()
			c, a := claude(t, option.WithMaxRetries(2))
			m, names, err := gather(t, c.Messages.NewStreaming(t.Context(), message(w.prompt+" /say one two three four five")))
			var told *anthropic.Error
			switch {
			case w.prompt == "/end 4" && direct:
				if err != nil || m.StopReason != "" {
					t.Errorf("%v, stop reason %q; so this SDK knows a clean early end after all", err, m.StopReason)
				}
			case err == nil:
				t.Errorf("a clean end after %q", names)
			case direct && w.is != nil && !errors.Is(err, w.is):
				t.Errorf("%v, want %v", err, w.is)
			case w.prompt == "/error-mid 4" && (!errors.As(err, &told) || told.Type() != "overloaded_error"):
				t.Errorf("%T %v", err, err)
			}
			if a.n != 1 {
				t.Errorf("%d attempts", a.n)
			}
		})
	}
}

func TestAnthropicBrokenAnswers(t *testing.T) {
	for _, prompt := range []string{"/cut 20", "/fin 20", "/raw length-more", "/raw silent-close", "/raw status-000"} {
		t.Run(prompt, func(t *testing.T) {
			t.Parallel()
			c, _ := claude(t)
			got, err := c.Messages.New(t.Context(), message(prompt))
			if direct && prompt == "/raw status-000" {
				if err != nil {
					t.Errorf("%v; so this SDK knows that 0 is no status after all", err)
				}
				return
			}
			if err == nil {
				t.Errorf("no error, and %s", got.RawJSON())
			}
		})
	}
}

func TestAnthropicGivesUp(t *testing.T) {
	c, _ := claude(t)
	for _, prompt := range []string{"/hang", "/stall 2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		stream := c.Messages.NewStreaming(ctx, message(prompt))
		for stream.Next() {
		}
		if !errors.Is(stream.Err(), context.DeadlineExceeded) {
			t.Errorf("%s: %v", prompt, stream.Err())
		}
		cancel()
	}
}
