package gatewaytest

import (
	"encoding/json"
	"net/http"
	"time"
)

// anthropicError shapes a failure as Anthropic does.
func anthropicError(f *failure, id string) []byte {
	kind := "invalid_request_error"
	switch f.status {
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusPaymentRequired:
		kind = "billing_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case http.StatusGatewayTimeout:
		kind = "timeout_error"
	case http.StatusServiceUnavailable, statusOverloaded:
		kind = "overloaded_error"
	default:
		if f.status >= 500 {
			kind = "api_error"
		}
	}
	type detail struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	return encode(struct {
		Type      string `json:"type"`
		Error     detail `json:"error"`
		RequestID string `json:"request_id"`
	}{"error", detail{kind, f.message}, id})
}

// anthropicEvent is an event of Anthropic's streams: named twice.
func anthropicEvent(name string, v any) []byte {
	b := encode(v)
	e := make([]byte, 0, len(b)+len(name)+17)
	e = append(append(append(e, "event: "...), name...), "\ndata: "...)
	return append(append(e, b...), "\n\n"...)
}

// message is POST /v1/messages.
type message struct {
	ask *ask
	a   *answer
	id  string // of the message
	req string // of the request
}

type messagesRequest struct {
	Model      string
	Messages   []chatMessage
	System     json.RawMessage
	Stream     bool
	MaxTokens  *int            `json:"max_tokens"`
	ToolChoice json.RawMessage `json:"tool_choice"`
	Tools      []struct {
		Name   string
		Schema json.RawMessage `json:"input_schema"`
	}
}

// readMessages is what messages and count_tokens have in common.
func readMessages(c *call, body []byte) (*messagesRequest, error) {
	var req messagesRequest
	if err := c.decode(body, &req); err != nil {
		return nil, err
	}
	k := &c.ask
	*k = ask{model: req.Model, stream: req.Stream, input: tokens(contentText(req.System))}
	if len(req.Messages) == 0 {
		return nil, missing("messages", "messages: Field required")
	}
	for _, t := range req.Tools {
		k.tools = append(k.tools, tool{t.Name, t.Schema})
		k.input += tokens(t.Name) + tokens(string(t.Schema))
	}
	k.choose(req.ToolChoice)
	messages := req.Messages
	if n := len(messages) - 1; toolResult(messages[n]) {
		messages[n].Role = "tool"
	}
	k.take(messages)
	return &req, c.begin()
}

// toolResult tells whether a user's message brings what a tool returned.
func toolResult(m chatMessage) bool {
	var parts []struct{ Type string }
	if json.Unmarshal(m.Content, &parts) != nil {
		return false
	}
	for _, p := range parts {
		if p.Type == "tool_result" {
			return true
		}
	}
	return false
}

func readMessage(c *call, r *http.Request, body []byte) (reply, error) {
	req, err := readMessages(c, body)
	if err != nil {
		return nil, err
	}
	if req.MaxTokens == nil {
		return nil, missing("max_tokens", "max_tokens: Field required")
	}
	c.ask.limit = *req.MaxTokens
	m := &message{&c.ask, c.answer(r.Header), "msg_" + c.id[4:], c.id}
	if m.a.call != nil {
		m.a.call.id = "toolu_" + c.id[4:]
	}
	return m, nil
}

func readCount(c *call, _ *http.Request, body []byte) (reply, error) {
	if _, err := readMessages(c, body); err != nil {
		return nil, err
	}
	c.ask.stream = false
	return document(encode(struct {
		Input int `json:"input_tokens"`
	}{c.ask.input})), nil
}

type messageUsage struct {
	CacheCreation *cacheCreation `json:"cache_creation,omitempty"`
	CacheWritten  int            `json:"cache_creation_input_tokens"`
	CacheRead     int            `json:"cache_read_input_tokens"`
	Geo           *string        `json:"inference_geo"`
	Input         int            `json:"input_tokens"`
	Output        int            `json:"output_tokens"`
	OutputDetails *struct{}      `json:"output_tokens_details"`
	ServerTools   *struct{}      `json:"server_tool_use"`
	ServiceTier   string         `json:"service_tier,omitempty"`
	Speed         *string        `json:"speed"`
}

type cacheCreation struct {
	Hour    int `json:"ephemeral_1h_input_tokens"`
	Minutes int `json:"ephemeral_5m_input_tokens"`
}

// deltaUsage is the part of the usage that the end of a stream tells.
type deltaUsage struct {
	CacheWritten  int       `json:"cache_creation_input_tokens"`
	CacheRead     int       `json:"cache_read_input_tokens"`
	Input         int       `json:"input_tokens"`
	Output        int       `json:"output_tokens"`
	OutputDetails *struct{} `json:"output_tokens_details"`
	ServerTools   *struct{} `json:"server_tool_use"`
}

type messageBody struct {
	ID           string       `json:"id"`
	Type         string       `json:"type"`
	Role         string       `json:"role"`
	Model        string       `json:"model"`
	Content      []any        `json:"content"`
	StopReason   *string      `json:"stop_reason"`
	StopSequence *string      `json:"stop_sequence"`
	StopDetails  *struct{}    `json:"stop_details"`
	Container    *struct{}    `json:"container"`
	Diagnostics  *struct{}    `json:"diagnostics"`
	Usage        messageUsage `json:"usage"`
}

type textBlock struct {
	Type      string    `json:"type"`
	Text      string    `json:"text"`
	Citations *struct{} `json:"citations"`
}

type toolUse struct {
	Type   string          `json:"type"`
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Input  json.RawMessage `json:"input"`
	Caller struct {
		Type string `json:"type"`
	} `json:"caller"`
}

func (m *message) toolUse(input string) toolUse {
	t := toolUse{Type: "tool_use", ID: m.a.call.id, Name: m.a.call.name, Input: json.RawMessage(input)}
	t.Caller.Type = "direct"
	return t
}

// stopReason is Anthropic's stop_reason.
func (m *message) stopReason() *string {
	s := [...]string{"end_turn", "max_tokens", "tool_use"}[m.a.stop]
	return &s
}

// body is the message as it begins, without content.
func (m *message) body() messageBody {
	return messageBody{
		ID: m.id, Type: "message", Role: "assistant", Model: m.ask.model, Content: []any{},
		Usage: messageUsage{CacheCreation: &cacheCreation{}, Input: m.a.input, Output: 1, ServiceTier: "standard"},
	}
}

func (m *message) whole() []byte {
	b := m.body()
	b.StopReason, b.Usage.Output = m.stopReason(), m.a.output
	if m.a.call != nil {
		b.Content = append(b.Content, m.toolUse(m.a.call.args))
	} else {
		b.Content = append(b.Content, textBlock{"text", m.a.text(), nil})
	}
	return encode(b)
}

func (m *message) events(yield func([]byte, bool) bool) {
	type event struct {
		Type    string       `json:"type"`
		Message *messageBody `json:"message,omitempty"`
		Index   *int         `json:"index,omitempty"`
		Block   any          `json:"content_block,omitempty"`
		Delta   any          `json:"delta,omitempty"`
		Usage   *deltaUsage  `json:"usage,omitempty"`
	}
	type textDelta struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	type inputDelta struct {
		Type string `json:"type"`
		Part string `json:"partial_json"`
	}
	send := func(e event) bool { return yield(anthropicEvent(e.Type, e), false) }
	b, zero := m.body(), 0
	if !send(event{Type: "message_start", Message: &b}) {
		return
	}
	var block any = textBlock{Type: "text"}
	deltas := m.a.deltas
	if m.a.call != nil {
		block, deltas = m.toolUse("{}"), append([]string{""}, argumentDeltas(m.a.call.args)...)
	}
	if !send(event{Type: "content_block_start", Index: &zero, Block: block}) || !send(event{Type: "ping"}) {
		return
	}
	for again := true; again; again = m.a.endless {
		for _, d := range deltas {
			var delta any = textDelta{"text_delta", d}
			if m.a.call != nil {
				delta = inputDelta{"input_json_delta", d}
			}
			if !send(event{Type: "content_block_delta", Index: &zero, Delta: delta}) {
				return
			}
		}
	}
	end := struct {
		Reason    *string   `json:"stop_reason"`
		Sequence  *string   `json:"stop_sequence"`
		Details   *struct{} `json:"stop_details"`
		Container *struct{} `json:"container"`
	}{Reason: m.stopReason()}
	if !send(event{Type: "content_block_stop", Index: &zero}) ||
		!send(event{Type: "message_delta", Delta: end, Usage: &deltaUsage{Input: m.a.input, Output: m.a.output}}) {
		return
	}
	yield(anthropicEvent("message_stop", event{Type: "message_stop"}), true)
}

func (m *message) broken() []byte {
	return append(append([]byte("event: error\ndata: "), anthropicError(&failure{status: statusOverloaded, message: "Overloaded"}, m.req)...), "\n\n"...)
}

// anthropicModels is GET /v1/models in Anthropic's shape, of one model or of all.
func anthropicModels(names []string, single bool) document {
	type model struct {
		Type         string    `json:"type"`
		ID           string    `json:"id"`
		DisplayName  string    `json:"display_name"`
		CreatedAt    string    `json:"created_at"`
		Capabilities *struct{} `json:"capabilities"`
		DeprecatedAt *string   `json:"deprecated_at"`
		Lifecycle    *struct{} `json:"lifecycle"`
		Line         *struct{} `json:"line"`
		RetiresAt    *string   `json:"retires_at"`
		MaxInput     int       `json:"max_input_tokens"`
		MaxTokens    int       `json:"max_tokens"`
	}
	data := make([]model, len(names))
	for i, id := range names {
		data[i] = model{Type: "model", ID: id, DisplayName: id, CreatedAt: time.Unix(birth, 0).UTC().Format(time.RFC3339), MaxInput: 200_000, MaxTokens: 64_000}
	}
	if single {
		return encode(data[0])
	}
	return encode(struct {
		Data    []model `json:"data"`
		HasMore bool    `json:"has_more"`
		First   string  `json:"first_id"`
		Last    string  `json:"last_id"`
	}{data, false, names[0], names[len(names)-1]})
}
