package gatewaytest

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"strings"
	"time"
)

// openAIError shapes a failure as OpenAI does.
func openAIError(f *failure) []byte {
	kind := "invalid_request_error"
	switch {
	case f.status == http.StatusTooManyRequests:
		kind = "requests"
	case f.status >= 500:
		kind = "server_error"
	}
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	return encode(struct {
		Error detail `json:"error"`
	}{detail{f.message, kind, orNull(f.param), orNull(f.code)}})
}

// orNull is a string that is null in JSON when it is empty.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// dataEvent is an event of OpenAI's older streams: data alone.
func dataEvent(v any) []byte {
	b := encode(v)
	e := make([]byte, 0, len(b)+8)
	return append(append(append(e, "data: "...), b...), "\n\n"...)
}

var doneEvent = []byte("data: [DONE]\n\n")

// brokenEvent is the error in the middle of OpenAI's older streams.
func brokenEvent() []byte {
	e := append([]byte("data: "), openAIError(&failure{status: 500, message: reason(500)})...)
	return append(e, "\n\n"...)
}

type usage struct {
	Prompt     int         `json:"prompt_tokens"`
	Completion int         `json:"completion_tokens"`
	Total      int         `json:"total_tokens"`
	In         *usageInput `json:"prompt_tokens_details,omitempty"`
	Out        *usageOut   `json:"completion_tokens_details,omitempty"`
}

type usageInput struct {
	Cached int `json:"cached_tokens"`
	Audio  int `json:"audio_tokens"`
}

type usageOut struct {
	Reasoning int `json:"reasoning_tokens"`
	Audio     int `json:"audio_tokens"`
	Accepted  int `json:"accepted_prediction_tokens"`
	Rejected  int `json:"rejected_prediction_tokens"`
}

func usageOf(a *answer, n int) *usage {
	return &usage{a.input, a.output * n, a.input + a.output*n, &usageInput{}, &usageOut{}}
}

// finish is OpenAI's finish_reason.
func (s stopReason) finish() string { return [...]string{"stop", "length", "tool_calls"}[s] }

// chat is POST /v1/chat/completions.
type chat struct {
	ask     *ask
	a       *answer
	id      string
	created int64
}

// chatMessage is a message of the request's, as far as a fake model reads it.
type chatMessage struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// take reads messages: the last text of the user's is the prompt, and a tool's result at the end is answered.
func (k *ask) take(messages []chatMessage) {
	for i, m := range messages {
		text := contentText(m.Content)
		k.input += tokens(text) + 3
		last := i == len(messages)-1
		switch {
		case m.Role == "user" && text != "":
			k.prompt = text
		case m.Role == "tool" && last:
			k.returned, k.result = true, text
		}
	}
}

func readChat(c *call, r *http.Request, body []byte) (reply, error) {
	var req struct {
		Model     string
		Messages  []chatMessage
		Stream    bool
		N         int
		MaxTokens int `json:"max_tokens"`
		MaxOut    int `json:"max_completion_tokens"`
		Options   struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		Tools []struct {
			Function struct {
				Name       string
				Parameters json.RawMessage
			}
		}
		ToolChoice json.RawMessage `json:"tool_choice"`
	}
	if err := c.decode(body, &req); err != nil {
		return nil, err
	}
	k := &c.ask
	*k = ask{model: req.Model, stream: req.Stream, includeUsage: req.Options.IncludeUsage, n: cmp.Or(req.N, 1), limit: cmp.Or(req.MaxOut, req.MaxTokens)}
	if len(req.Messages) == 0 {
		return nil, missing("messages", "")
	}
	if k.n < 1 || k.n > 16 {
		return nil, &failure{status: http.StatusBadRequest, message: fmt.Sprintf("Invalid value for 'n': %d.", req.N), param: "n"}
	}
	for _, t := range req.Tools {
		k.tools = append(k.tools, tool{t.Function.Name, t.Function.Parameters})
	}
	k.choose(req.ToolChoice)
	k.take(req.Messages)
	if err := c.begin(); err != nil {
		return nil, err
	}
	ch := &chat{k, c.answer(r.Header), "chatcmpl-" + c.id[4:], time.Now().Unix()}
	if ch.a.call != nil {
		ch.a.call.id = "call_" + c.id[4:]
	}
	return ch, nil
}

type chatFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type chatTool struct {
	Index    *int         `json:"index,omitempty"` // in streams alone
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function chatFunction `json:"function"`
}

func (c *chat) whole() []byte {
	type message struct {
		Role        string     `json:"role"`
		Content     *string    `json:"content"`
		ToolCalls   []chatTool `json:"tool_calls,omitempty"`
		Refusal     *string    `json:"refusal"`
		Annotations []struct{} `json:"annotations"`
	}
	type choice struct {
		Index    int       `json:"index"`
		Message  message   `json:"message"`
		Logprobs *struct{} `json:"logprobs"`
		Finish   string    `json:"finish_reason"`
	}
	m := message{Role: "assistant", Annotations: []struct{}{}}
	if t := c.a.call; t != nil {
		m.ToolCalls = []chatTool{{ID: t.id, Type: "function", Function: chatFunction{t.name, t.args}}}
	} else {
		text := c.a.text()
		m.Content = &text
	}
	choices := make([]choice, c.ask.n)
	for i := range choices {
		choices[i] = choice{Index: i, Message: m, Finish: c.a.stop.finish()}
	}
	return encode(struct {
		ID          string   `json:"id"`
		Object      string   `json:"object"`
		Created     int64    `json:"created"`
		Model       string   `json:"model"`
		Choices     []choice `json:"choices"`
		Usage       *usage   `json:"usage"`
		ServiceTier string   `json:"service_tier"`
		Fingerprint string   `json:"system_fingerprint"`
	}{c.id, "chat.completion", c.created, c.ask.model, choices, usageOf(c.a, c.ask.n), "default", "fp_fake"})
}

type chatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []chatTool `json:"tool_calls,omitempty"`
}

type chatChoice struct {
	Index    int       `json:"index"`
	Delta    chatDelta `json:"delta"`
	Logprobs *struct{} `json:"logprobs"`
	Finish   *string   `json:"finish_reason"`
}

type chatChunk struct {
	ID          string       `json:"id"`
	Object      string       `json:"object"`
	Created     int64        `json:"created"`
	Model       string       `json:"model"`
	ServiceTier string       `json:"service_tier"`
	Fingerprint string       `json:"system_fingerprint"`
	Choices     []chatChoice `json:"choices"`
	Usage       *usage       `json:"usage,omitempty"`
}

// chatChunkUsage is a chunk of a stream that will tell the usage: null until it does.
type chatChunkUsage struct {
	chatChunk
	Usage *usage `json:"usage"`
}

func (c *chat) chunk(choices []chatChoice, u *usage) []byte {
	chunk := chatChunk{ID: c.id, Object: "chat.completion.chunk", Created: c.created, Model: c.ask.model, ServiceTier: "default", Fingerprint: "fp_fake", Choices: choices}
	if c.ask.includeUsage {
		return dataEvent(chatChunkUsage{chunk, u})
	}
	return dataEvent(chunk)
}

func (c *chat) events(yield func([]byte, bool) bool) {
	empty, finish := "", c.a.stop.finish()
	send := func(d chatDelta, finish *string) bool {
		for i := range c.ask.n {
			if !yield(c.chunk([]chatChoice{{Index: i, Delta: d, Finish: finish}}, nil), false) {
				return false
			}
		}
		return true
	}
	first := chatDelta{Role: "assistant", Content: &empty}
	if c.a.call != nil {
		first.Content = nil
		first.ToolCalls = []chatTool{{Index: new(int), ID: c.a.call.id, Type: "function", Function: chatFunction{Name: c.a.call.name}}}
	}
	if !send(first, nil) {
		return
	}
	if c.a.call != nil {
		for _, part := range argumentDeltas(c.a.call.args) {
			if !send(chatDelta{ToolCalls: []chatTool{{Index: new(int), Function: chatFunction{Arguments: part}}}}, nil) {
				return
			}
		}
	}
	for again := true; again; again = c.a.endless {
		for i := range c.a.deltas {
			if !send(chatDelta{Content: &c.a.deltas[i]}, nil) {
				return
			}
		}
	}
	if !send(chatDelta{}, &finish) {
		return
	}
	if c.ask.includeUsage && !yield(c.chunk([]chatChoice{}, usageOf(c.a, c.ask.n)), false) {
		return
	}
	yield(doneEvent, true)
}

func (c *chat) broken() []byte { return brokenEvent() }

// argumentDeltas cuts a tool's arguments where tokens would end: nowhere in particular.
func argumentDeltas(args string) []string { return split(args, (len(args)+5)/6) }

// completion is POST /v1/completions.
type completion struct {
	ask     *ask
	a       *answer
	id      string
	created int64
}

func readCompletion(c *call, r *http.Request, body []byte) (reply, error) {
	var req struct {
		Model     string
		Prompt    json.RawMessage
		Stream    bool
		N         int
		MaxTokens int `json:"max_tokens"`
		Options   struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := c.decode(body, &req); err != nil {
		return nil, err
	}
	prompts, err := inputs(req.Prompt, "prompt")
	if err != nil {
		return nil, err
	}
	c.ask = ask{model: req.Model, stream: req.Stream, includeUsage: req.Options.IncludeUsage, n: len(prompts), limit: req.MaxTokens, prompt: prompts[0]}
	for _, p := range prompts {
		c.ask.input += tokens(p)
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	return &completion{&c.ask, c.answer(r.Header), "cmpl-" + c.id[4:], time.Now().Unix()}, nil
}

// inputs reads a string, strings, or token numbers. It returns at least one.
func inputs(raw json.RawMessage, param string) ([]string, error) {
	var one string
	if len(raw) > 0 && json.Unmarshal(raw, &one) == nil && raw[0] == '"' {
		return []string{one}, nil
	}
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) != nil || len(many) == 0 {
		return nil, missing(param, "")
	}
	texts := make([]string, 0, len(many))
	for _, m := range many {
		var s string
		switch m[0] {
		case '"':
			if err := json.Unmarshal(m, &s); err != nil {
				return nil, missing(param, "")
			}
		case '[':
			s = string(m)
		default: // token numbers of one input
			return []string{string(raw)}, nil
		}
		texts = append(texts, s)
	}
	return texts, nil
}

type completionChoice struct {
	Text     string    `json:"text"`
	Index    int       `json:"index"`
	Logprobs *struct{} `json:"logprobs"`
	Finish   *string   `json:"finish_reason"`
}

type completionBody struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *usage             `json:"usage,omitempty"`
}

func (c *completion) body(choices []completionChoice, u *usage) completionBody {
	if u != nil {
		u.In, u.Out = nil, nil
	}
	return completionBody{c.id, "text_completion", c.created, c.ask.model, choices, u}
}

func (c *completion) finish() *string {
	s := min(c.a.stop, atLimit).finish()
	return &s
}

// spoken is the answer without tools: this API has none.
func (c *completion) spoken() []string {
	if c.a.call != nil {
		return []string{c.a.call.args}
	}
	return c.a.deltas
}

func (c *completion) whole() []byte {
	choices := make([]completionChoice, c.ask.n)
	for i := range choices {
		choices[i] = completionChoice{Text: strings.Join(c.spoken(), ""), Index: i, Finish: c.finish()}
	}
	return encode(c.body(choices, usageOf(c.a, c.ask.n)))
}

func (c *completion) events(yield func([]byte, bool) bool) {
	send := func(text string, finish *string) bool {
		for i := range c.ask.n {
			if !yield(dataEvent(c.body([]completionChoice{{Text: text, Index: i, Finish: finish}}, nil)), false) {
				return false
			}
		}
		return true
	}
	for again := true; again; again = c.a.endless {
		for _, d := range c.spoken() {
			if !send(d, nil) {
				return
			}
		}
	}
	if !send("", c.finish()) {
		return
	}
	if c.ask.includeUsage && !yield(dataEvent(c.body([]completionChoice{}, usageOf(c.a, c.ask.n))), false) {
		return
	}
	yield(doneEvent, true)
}

func (c *completion) broken() []byte { return brokenEvent() }

// document is an answer that is never streamed.
type document []byte

func (d document) whole() []byte                  { return d }
func (d document) events(func([]byte, bool) bool) {}
func (d document) broken() []byte                 { return nil }

// maxDimensions bounds an embedding: 3,072 is what the largest real model has.
const maxDimensions = 3072

func readEmbedding(c *call, r *http.Request, body []byte) (reply, error) {
	var req struct {
		Model      string
		Input      json.RawMessage
		Dimensions int
		Format     string `json:"encoding_format"`
	}
	if err := c.decode(body, &req); err != nil {
		return nil, err
	}
	texts, err := inputs(req.Input, "input")
	if err != nil {
		return nil, err
	}
	c.ask = ask{model: req.Model, prompt: texts[0]}
	if err := c.begin(); err != nil {
		return nil, err
	}
	dims := cmp.Or(req.Dimensions, 1536)
	switch {
	case dims < 1 || dims > maxDimensions:
		return nil, &failure{status: http.StatusBadRequest, message: fmt.Sprintf("Invalid value for 'dimensions': want 1 to %d.", maxDimensions), param: "dimensions"}
	case len(texts) > 2048:
		return nil, &failure{status: http.StatusBadRequest, message: "Invalid 'input': array too long. Expected at most 2048.", param: "input"}
	case req.Format != "" && req.Format != "float" && req.Format != "base64":
		return nil, &failure{status: http.StatusBadRequest, message: "Invalid value for 'encoding_format'.", param: "encoding_format"}
	}
	type embedding struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	data := make([]embedding, len(texts))
	input := 0
	for i, t := range texts {
		input += tokens(t)
		var v any
		v = vector(t, dims)
		if req.Format == "base64" {
			b := new(bytes.Buffer)
			_ = binary.Write(b, binary.LittleEndian, v) // a buffer takes all
			v = base64.StdEncoding.EncodeToString(b.Bytes())
		}
		data[i] = embedding{"embedding", i, v}
	}
	return document(encode(struct {
		Object string      `json:"object"`
		Data   []embedding `json:"data"`
		Model  string      `json:"model"`
		Usage  any         `json:"usage"`
	}{"list", data, c.ask.model, struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	}{input, input}})), nil
}

// vector is a unit vector that depends on the text alone.
func vector(text string, dims int) []float32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	state := h.Sum64()
	v := make([]float64, dims)
	norm := 0.0
	for i := range v {
		state = state*6364136223846793005 + 1442695040888963407
		v[i] = float64(int64(state>>11))/(1<<52) - 1
		norm += v[i] * v[i]
	}
	out := make([]float32, dims)
	for i := range v {
		out[i] = float32(v[i] / math.Sqrt(norm))
	}
	return out
}

// birth is when every fake model was made: the first of January 2026.
const birth = 1767225600

func readModels(c *call, r *http.Request, _ []byte) (reply, error) {
	models := c.m.cfg.Models
	name, single := strings.CutPrefix(r.URL.Path, "/v1/models/")
	if single {
		c.ask.model = name
		if err := c.begin(); err != nil {
			return nil, err
		}
		models = []string{name}
	}
	if c.vendor == anthropic {
		return anthropicModels(models, single), nil
	}
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	data := make([]model, len(models))
	for i, id := range models {
		data[i] = model{id, "model", birth, "fake"}
	}
	if single {
		return document(encode(data[0])), nil
	}
	return document(encode(struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", data})), nil
}
