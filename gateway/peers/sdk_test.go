package peers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
)

const model = gatewaytest.ChatModel

// attempts counts the requests a client has made of its last call, and sees that each carries its number.
type attempts struct {
	t *testing.T
	n int
}

func (a *attempts) middleware(r *http.Request, next func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	got := r.Header.Get("X-Stainless-Retry-Count")
	if got == "0" {
		a.n = 0
	}
	if got != strconv.Itoa(a.n) {
		a.t.Errorf("attempt %d says it is number %q", a.n, got)
	}
	a.n++
	return next(r)
}

// client is OpenAI's SDK, and the count of its attempts.
func client(t *testing.T, opts ...option.RequestOption) (*openai.Client, *attempts) {
	t.Helper()
	base, _, key := world(t)
	a := &attempts{t: t}
	opts = append([]option.RequestOption{
		option.WithBaseURL(base), option.WithAPIKey(key), option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Timeout: 10 * time.Second}), option.WithMiddleware(a.middleware),
	}, opts...)
	c := openai.NewClient(opts...)
	return &c, a
}

func chat(prompt string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("Be short."), openai.UserMessage(prompt)},
	}
}

func TestOpenAIChat(t *testing.T) {
	c, _ := client(t)
	params := chat("/say Hello & <welcome>, 世界")
	params.N = param.NewOpt[int64](2)
	got, err := c.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, got)
	if len(got.Choices) != 2 || got.Choices[1].Message.Content != "Hello & <welcome>, 世界" || got.Choices[0].FinishReason != "stop" || got.Usage.TotalTokens == 0 {
		t.Errorf("%s", got.RawJSON())
	}
}

func TestOpenAIChatStream(t *testing.T) {
	c, _ := client(t)
	for _, usage := range []bool{false, true} {
		params := chat("/say one two three")
		if usage {
			params.StreamOptions.IncludeUsage = param.NewOpt(true)
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		var acc openai.ChatCompletionAccumulator
		chunks := 0
		for stream.Next() {
			chunk := stream.Current()
			shape(t, chunk)
			if !acc.AddChunk(chunk) {
				t.Errorf("the accumulator refuses %s", chunk.RawJSON())
			}
			chunks++
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if len(acc.Choices) != 1 || acc.Choices[0].Message.Content != "one two three" || acc.Choices[0].FinishReason != "stop" {
			t.Errorf("after %d chunks: %+v", chunks, acc.ChatCompletion)
		}
		if (acc.Usage.TotalTokens > 0) != usage {
			t.Errorf("usage asked for: %v, told: %d", usage, acc.Usage.TotalTokens)
		}
	}
}

func weather() []openai.ChatCompletionToolUnionParam {
	return []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name:        "get_weather",
		Description: param.NewOpt("The weather of a city"),
		Parameters: shared.FunctionParameters{
			"type":       "object",
			"properties": map[string]any{"city": map[string]any{"type": "string"}, "days": map[string]any{"type": "integer"}},
		},
	})}
}

func TestOpenAITools(t *testing.T) {
	c, _ := client(t)
	params := chat("Call get_weather for Oslo")
	params.Tools = weather()
	whole, err := c.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, whole)

	stream := c.Chat.Completions.NewStreaming(t.Context(), params)
	var acc openai.ChatCompletionAccumulator
	deltas := 0
	var finished openai.FinishedChatCompletionToolCall
	for stream.Next() {
		chunk := stream.Current()
		shape(t, chunk)
		acc.AddChunk(chunk)
		if len(chunk.Choices) > 0 && len(chunk.Choices[0].Delta.ToolCalls) > 0 {
			deltas++
		}
		if call, ok := acc.JustFinishedToolCall(); ok {
			finished = call
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if deltas < 3 || finished.Name != "get_weather" || finished.ID == "" {
		t.Errorf("%d deltas, finished %+v", deltas, finished)
	}
	for how, got := range map[string]openai.ChatCompletion{"whole": *whole, "streamed": acc.ChatCompletion} {
		if len(got.Choices) != 1 || got.Choices[0].FinishReason != "tool_calls" || len(got.Choices[0].Message.ToolCalls) != 1 {
			t.Fatalf("%s: %+v", how, got)
		}
		call := got.Choices[0].Message.ToolCalls[0]
		var args struct {
			City string
			Days int
		}
		if err := json.Unmarshal([]byte(call.Function.Arguments), &args); err != nil || args.City != "Oslo" || args.Days != 1 || call.Function.Name != "get_weather" {
			t.Errorf("%s: %s(%s), %v", how, call.Function.Name, call.Function.Arguments, err)
		}
		params.Messages = append(params.Messages[:2:2], got.Choices[0].Message.ToParam(), openai.ToolMessage("rain", call.ID))
		next, err := c.Chat.Completions.New(t.Context(), params)
		if err != nil || !strings.Contains(next.Choices[0].Message.Content, "rain") {
			t.Errorf("%s: after the tool returned: %v %v", how, next, err)
		}
	}
}

func TestOpenAIResponses(t *testing.T) {
	c, _ := client(t)
	params := responses.ResponseNewParams{Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt("/say one two")}}
	got, err := c.Responses.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, got)
	if got.OutputText() != "one two" || got.Status != "completed" || got.Usage.TotalTokens == 0 {
		t.Errorf("%s", got.RawJSON())
	}
	params.Input.OfString = param.NewOpt("/incomplete /say one two")
	if got, err = c.Responses.New(t.Context(), params); err != nil || got.Status != "incomplete" || got.IncompleteDetails.Reason != "max_output_tokens" {
		t.Errorf("%v %v", got, err)
	}
}

func TestOpenAIResponsesStream(t *testing.T) {
	c, _ := client(t)
	params := responses.ResponseNewParams{
		Model: model,
		Tools: []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{
			Name: "get_weather", Strict: param.NewOpt(false),
			Parameters: map[string]any{"properties": map[string]any{"city": map[string]any{"type": "string"}}},
		}}},
	}
	for _, w := range []struct {
		prompt, last, text string
		calls              bool
	}{
		{"/say one two three", "response.completed", "one two three", false},
		{"Call get_weather for Oslo", "response.completed", "", true},
		{"/incomplete /say one", "response.incomplete", "one", false},
		{"/failed", "response.failed", "", false},
	} {
		params.Input = responses.ResponseNewParamsInputUnion{OfString: param.NewOpt(w.prompt)}
		stream := c.Responses.NewStreaming(t.Context(), params)
		var text, args, last string
		var final responses.Response
		next := int64(0)
		for stream.Next() {
			ev := stream.Current()
			shape(t, ev)
			if ev.SequenceNumber != next {
				t.Errorf("%s: event %d has number %d", w.prompt, next, ev.SequenceNumber)
			}
			next++
			switch ev := ev.AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				text += ev.Delta
			case responses.ResponseFunctionCallArgumentsDeltaEvent:
				args += ev.Delta
			case responses.ResponseCompletedEvent:
				final = ev.Response
			}
			last = ev.Type
		}
		if err := stream.Err(); err != nil {
			t.Fatalf("%s: %v", w.prompt, err)
		}
		if last != w.last || text != w.text || (args == `{"city":"Oslo"}`) != w.calls {
			t.Errorf("%s: ends with %s, text %q, arguments %q", w.prompt, last, text, args)
		}
		if w.last == "response.completed" && (final.OutputText() != w.text || len(final.Output) != 1) {
			t.Errorf("%s: %s", w.prompt, final.RawJSON())
		}
	}
}

func TestOpenAIEmbeddings(t *testing.T) {
	c, _ := client(t)
	params := openai.EmbeddingNewParams{
		Model: gatewaytest.EmbeddingModel, Dimensions: param.NewOpt[int64](16),
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}},
	}
	got, err := c.Embeddings.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, got)
	norm := 0.0
	for _, x := range got.Data[1].Embedding {
		norm += x * x
	}
	if len(got.Data) != 2 || len(got.Data[1].Embedding) != 16 || math.Abs(norm-1) > 1e-5 || got.Usage.TotalTokens == 0 {
		t.Errorf("%s", got.RawJSON())
	}
}

func TestOpenAICompletions(t *testing.T) {
	c, _ := client(t)
	params := openai.CompletionNewParams{Model: model, Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("/say one two")}}
	got, err := c.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, got)
	if got.Choices[0].Text != "one two" || got.Choices[0].FinishReason != "stop" {
		t.Errorf("%s", got.RawJSON())
	}
	stream := c.Completions.NewStreaming(t.Context(), params)
	text := ""
	for stream.Next() {
		shape(t, stream.Current())
		text += stream.Current().Choices[0].Text
	}
	if stream.Err() != nil || text != "one two" {
		t.Errorf("%q %v", text, stream.Err())
	}
}

func TestOpenAIModels(t *testing.T) {
	c, _ := client(t)
	page, err := c.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	for _, m := range page.Data {
		shape(t, m)
		ids = append(ids, m.ID)
	}
	if !slices.Contains(ids, model) {
		t.Errorf("%q", ids)
	}
	one, err := c.Models.Get(t.Context(), model)
	if err != nil || one.ID != model {
		t.Errorf("%v %v", one, err)
	}
	if _, err := c.Models.Get(t.Context(), "no-such"); status(err) != 404 {
		t.Errorf("%v", err)
	}
}

// status is the status of an error of OpenAI's SDK, or 0.
func status(err error) int {
	var e *openai.Error
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

func TestOpenAIErrors(t *testing.T) {
	for _, w := range []struct {
		prompt, model  string
		opts           []option.RequestOption
		status         int
		kind, code     string
		tries          int // with as many allowed, and two where one is wanted
		retryAfter, id bool
	}{
		{prompt: "/error 400", status: 400, kind: "invalid_request_error", tries: 1},
		{prompt: "hi", opts: []option.RequestOption{option.WithAPIKey("sk-other")}, status: 401, kind: "invalid_request_error", code: "invalid_api_key", tries: 1},
		{prompt: "/error 401", status: 401, kind: "invalid_request_error", code: "invalid_api_key", tries: 1},
		{prompt: "/error 403", status: 403, kind: "invalid_request_error", code: "model_not_allowed", tries: 1},
		{prompt: "hi", model: "no-such", status: 404, kind: "invalid_request_error", code: "model_not_found", tries: 1},
		{prompt: "/error 422", status: 422, kind: "invalid_request_error", tries: 1},
		{prompt: "/error 429", status: 429, kind: "requests", code: "rate_limit_exceeded", tries: 3, retryAfter: true},
		{prompt: "/error 500", status: 500, kind: "server_error", tries: 2},
		{prompt: "/error 503", status: 503, kind: "server_error", tries: 3, retryAfter: true},
	} {
		t.Run(w.prompt+w.model, func(t *testing.T) {
			t.Parallel()
			c, a := client(t, append(w.opts, option.WithMaxRetries(max(w.tries-1, 1)))...)
			params := chat(w.prompt)
			if w.model != "" {
				params.Model = w.model
			}
			for _, stream := range []bool{false, true} {
				var err error
				if stream {
					s := c.Chat.Completions.NewStreaming(t.Context(), params)
					for s.Next() {
						t.Error("an event before the error")
					}
					err = s.Err()
				} else {
					_, err = c.Chat.Completions.New(t.Context(), params)
				}
				var e *openai.Error
				if !errors.As(err, &e) {
					t.Fatalf("%T %v", err, err)
				}
				kind := w.kind
				if !direct && len(w.opts) > 0 {
					kind = "authentication_error" // the gateway's own refusal, in the one shape for both families
				}
				if e.StatusCode != w.status || e.Type != kind || e.Code != w.code || e.Message == "" {
					t.Errorf("%d %q %q %q: %s", e.StatusCode, e.Type, e.Code, e.Message, e.RawJSON())
				}
				if a.n != w.tries {
					t.Errorf("%d attempts, want %d", a.n, w.tries)
				}
				if e.Response.Header.Get("X-Request-Id") == "" {
					t.Error("no request id")
				}
				if (e.Response.Header.Get("Retry-After") != "") != w.retryAfter {
					t.Errorf("retry-after is %q", e.Response.Header.Get("Retry-After"))
				}
			}
		})
	}
}

func TestOpenAIRetriesUntilItWorks(t *testing.T) {
	c, a := client(t, option.WithMaxRetries(2))
	got, err := c.Chat.Completions.New(t.Context(), chat("/flaky 2 /say at last"))
	if err != nil || got.Choices[0].Message.Content != "at last" || a.n != 3 {
		t.Errorf("%v after %d attempts", err, a.n)
	}
}

// A stream that breaks off is an error and never a clean end, whatever was said before.
func TestOpenAIBrokenStreams(t *testing.T) {
	for _, w := range []struct {
		prompt string
		is     error
		events int // at most
	}{
		{"/error-mid 3", nil, 3},
		{"/cut 3", syscall.ECONNRESET, 3},
		{"/fin 3", io.ErrUnexpectedEOF, 3},
		{"/end 3", nil, 3},
		{"/cut 0", syscall.ECONNRESET, 0},
		{"/raw chunk-cut", io.ErrUnexpectedEOF, 99},
		{"/raw chunk-bad-end", nil, 99},
	} {
		t.Run(w.prompt, func(t *testing.T) {
			t.Parallel()
			c, a := client(t, option.WithMaxRetries(2))
			stream := c.Chat.Completions.NewStreaming(t.Context(), chat(w.prompt+" /say one two three four five"))
			n := 0
			for stream.Next() {
				n++
			}
			err := stream.Err()
			var told *ssestream.StreamError
			switch {
			case w.prompt == "/end 3" && direct:
				if err != nil {
					t.Errorf("%v; so this SDK knows a clean early end after all", err)
				}
			case w.prompt == "/raw chunk-cut" && err == nil:
				// The SDK stops reading at [DONE] and never meets what is wrong behind it.
			case err == nil:
				t.Errorf("a clean end after %d events", n)
			case direct && w.is != nil && !errors.Is(err, w.is):
				t.Errorf("%v, want %v", err, w.is)
			case w.prompt == "/error-mid 3" && (!errors.As(err, &told) || !strings.Contains(string(told.Event.Data), "server_error")):
				t.Errorf("%T %v", err, err)
			}
			if n > w.events || a.n != 1 {
				t.Errorf("%d events in %d attempts", n, a.n)
			}
		})
	}
}

func TestOpenAIBrokenAnswers(t *testing.T) {
	for _, prompt := range []string{"/cut 20", "/fin 20", "/raw length-more", "/raw silent-close", "/raw status-000"} {
		t.Run(prompt, func(t *testing.T) {
			t.Parallel()
			c, _ := client(t)
			got, err := c.Chat.Completions.New(t.Context(), chat(prompt))
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
	c, _ := client(t)
	stream := c.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{
		Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt("/error-mid 4 hello")},
	})
	var last responses.ResponseStreamEventUnion
	for stream.Next() {
		last = stream.Current()
		shape(t, last)
	}
	if e, ok := last.AsAny().(responses.ResponseErrorEvent); stream.Err() != nil || !ok || e.Code != "server_error" {
		t.Errorf("the stream of a response ends with %s, %v", last.RawJSON(), stream.Err())
	}
}

func TestOpenAIGivesUp(t *testing.T) {
	c, _ := client(t)
	for _, prompt := range []string{"/hang", "/stall 2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		stream := c.Chat.Completions.NewStreaming(ctx, chat(prompt))
		for stream.Next() {
		}
		if !errors.Is(stream.Err(), context.DeadlineExceeded) {
			t.Errorf("%s: %v", prompt, stream.Err())
		}
		cancel()
	}
}
