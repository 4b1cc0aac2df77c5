package gatewaytest

import (
	"encoding/json"
	"net/http"
	"time"
)

// response is POST /v1/responses.
type response struct {
	ask     *ask
	a       *answer
	id      string
	item    string // the id of the one output item
	created int64
	failed  bool
	echo    responseEcho
	n       int // events sent
}

// responseEcho is what a response repeats of its request.
type responseEcho struct {
	Instructions json.RawMessage   `json:"instructions"`
	MaxOutput    *int              `json:"max_output_tokens"`
	Metadata     map[string]string `json:"metadata"`
	Parallel     *bool             `json:"parallel_tool_calls"`
	Previous     *string           `json:"previous_response_id"`
	Temperature  *float64          `json:"temperature"`
	ToolChoice   json.RawMessage   `json:"tool_choice"`
	Tools        []json.RawMessage `json:"tools"`
	TopP         *float64          `json:"top_p"`
}

func readResponse(c *call, r *http.Request, body []byte) (reply, error) {
	var req struct {
		Model  string
		Input  json.RawMessage
		Stream bool
		responseEcho
	}
	if err := c.decode(body, &req); err != nil {
		return nil, err
	}
	k := &c.ask
	*k = ask{model: req.Model, stream: req.Stream}
	if req.MaxOutput != nil {
		k.limit = *req.MaxOutput
	}
	for _, raw := range req.Tools {
		var t struct {
			Type, Name string
			Parameters json.RawMessage
		}
		if json.Unmarshal(raw, &t) == nil && t.Type == "function" {
			k.tools = append(k.tools, tool{t.Name, t.Parameters})
		}
	}
	k.choose(req.ToolChoice)
	k.input = tokens(contentText(req.Instructions))
	if err := k.takeInput(req.Input); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	one, yes := 1.0, true
	e := req.responseEcho
	e.Temperature, e.TopP = or(e.Temperature, &one), or(e.TopP, &one)
	e.Parallel = or(e.Parallel, &yes)
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	if e.Tools == nil {
		e.Tools = []json.RawMessage{}
	}
	if e.ToolChoice == nil {
		e.ToolChoice = json.RawMessage(`"auto"`)
	}
	if e.Instructions == nil {
		e.Instructions = json.RawMessage("null")
	}
	rep := &response{ask: k, a: c.answer(r.Header), id: "resp_" + c.id[4:], item: "msg_" + c.id[4:], created: time.Now().Unix(), failed: c.orders.failed, echo: e}
	if rep.a.call != nil {
		rep.item, rep.a.call.id = "fc_"+c.id[4:], "call_"+c.id[4:]
	}
	return rep, nil
}

func or[T any](p, otherwise *T) *T {
	if p != nil {
		return p
	}
	return otherwise
}

// takeInput reads the input: a text, or items.
func (k *ask) takeInput(raw json.RawMessage) error {
	var text string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		k.prompt = text
		k.input += tokens(text) + 3
		return nil
	}
	var items []struct {
		chatMessage
		Type   string
		Output json.RawMessage
	}
	if json.Unmarshal(raw, &items) != nil || len(items) == 0 {
		return missing("input", "")
	}
	messages := make([]chatMessage, len(items))
	for i, it := range items {
		messages[i] = it.chatMessage
		if it.Type == "function_call_output" {
			messages[i] = chatMessage{"tool", it.Output}
		}
	}
	k.take(messages)
	return nil
}

type responseItem struct {
	ID        string        `json:"id"`
	Type      string        `json:"type"`
	Status    string        `json:"status"`
	Role      string        `json:"role,omitempty"`
	Content   *[]outputText `json:"content,omitempty"`
	CallID    string        `json:"call_id,omitempty"`
	Name      string        `json:"name,omitempty"`
	Arguments *string       `json:"arguments,omitempty"`
}

type outputText struct {
	Type        string     `json:"type"`
	Text        string     `json:"text"`
	Annotations []struct{} `json:"annotations"`
	Logprobs    []struct{} `json:"logprobs"`
}

func textPart(text string) outputText {
	return outputText{"output_text", text, []struct{}{}, []struct{}{}}
}

// output is the one item of the answer; status is in_progress, completed or incomplete.
func (p *response) output(status string) responseItem {
	it := responseItem{ID: p.item, Type: "message", Status: status}
	if t := p.a.call; t != nil {
		it.Type, it.CallID, it.Name = "function_call", t.id, t.name
		args := ""
		if status != "in_progress" {
			args = t.args
		}
		it.Arguments = &args
		return it
	}
	it.Role, it.Content = "assistant", &[]outputText{}
	if status != "in_progress" {
		*it.Content = append(*it.Content, textPart(p.a.text()))
	}
	return it
}

type responseUsage struct {
	Input        int `json:"input_tokens"`
	InputDetails struct {
		Cached int `json:"cached_tokens"`
		Write  int `json:"cache_write_tokens"`
	} `json:"input_tokens_details"`
	Output        int `json:"output_tokens"`
	OutputDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	Total int `json:"total_tokens"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type responseBody struct {
	ID         string         `json:"id"`
	Object     string         `json:"object"`
	CreatedAt  int64          `json:"created_at"`
	Status     string         `json:"status"`
	Background bool           `json:"background"`
	Error      *responseError `json:"error"`
	Incomplete *struct {
		Reason string `json:"reason"`
	} `json:"incomplete_details"`
	responseEcho
	Model          string         `json:"model"`
	Output         []responseItem `json:"output"`
	AccessPrograms *struct{}      `json:"access_programs"`
	Reasoning      map[string]any `json:"reasoning"`
	ServiceTier    string         `json:"service_tier"`
	Text           map[string]any `json:"text"`
	TopLogprobs    int            `json:"top_logprobs"`
	Truncation     string         `json:"truncation"`
	Usage          *responseUsage `json:"usage"`
	User           *string        `json:"user"`
}

// body is the response in a status: in_progress, completed, incomplete or failed.
func (p *response) body(status string) responseBody {
	b := responseBody{
		ID: p.id, Object: "response", CreatedAt: p.created, Status: status, responseEcho: p.echo, Model: p.ask.model, Output: []responseItem{},
		Reasoning: map[string]any{"effort": nil, "summary": nil}, ServiceTier: "default",
		Text: map[string]any{"format": map[string]any{"type": "text"}, "verbosity": "medium"}, Truncation: "disabled",
	}
	switch status {
	case "in_progress":
		return b
	case "failed":
		b.Error = &responseError{"server_error", reason(http.StatusInternalServerError)}
	case "incomplete":
		b.Incomplete = &struct {
			Reason string `json:"reason"`
		}{"max_output_tokens"}
		fallthrough
	default:
		b.Output = append(b.Output, p.output(status))
		b.Usage = &responseUsage{Input: p.a.input, Output: p.a.output, Total: p.a.input + p.a.output}
	}
	return b
}

// status is how the response ends.
func (p *response) status() string {
	switch {
	case p.failed:
		return "failed"
	case p.a.stop == atLimit:
		return "incomplete"
	}
	return "completed"
}

func (p *response) whole() []byte { return encode(p.body(p.status())) }

// event numbers and names an event; fields is a struct's worth of JSON to stand behind its type.
func (p *response) event(name string, fields any) []byte {
	e := append([]byte("event: "), name...)
	e = append(e, "\ndata: {\"type\":\""...)
	e = append(e, name...)
	e = append(e, "\",\"sequence_number\":"...)
	e = append(e, encode(p.n)...)
	p.n++
	e = append(e, ',')
	e = append(e, encode(fields)[1:]...)
	return append(e, "\n\n"...)
}

type inResponse struct {
	Response responseBody `json:"response"`
}

type inItem struct {
	OutputIndex int          `json:"output_index"`
	Item        responseItem `json:"item"`
}

// inPart stands for everything said about a part of an item.
type inPart struct {
	ItemID       string      `json:"item_id"`
	OutputIndex  int         `json:"output_index"`
	ContentIndex *int        `json:"content_index,omitempty"`
	Part         *outputText `json:"part,omitempty"`
	Delta        *string     `json:"delta,omitempty"`
	Text         *string     `json:"text,omitempty"`
	Arguments    *string     `json:"arguments,omitempty"`
	Logprobs     *[]struct{} `json:"logprobs,omitempty"`
}

func (p *response) events(yield func([]byte, bool) bool) {
	send := func(name string, fields any) bool { return yield(p.event(name, fields), false) }
	status := p.status()
	if !send("response.created", inResponse{p.body("in_progress")}) || !send("response.in_progress", inResponse{p.body("in_progress")}) {
		return
	}
	if status != "failed" {
		if !send("response.output_item.added", inItem{0, p.output("in_progress")}) {
			return
		}
		if p.a.call != nil && !p.callEvents(send) || p.a.call == nil && !p.textEvents(send) {
			return
		}
		if !send("response.output_item.done", inItem{0, p.output(status)}) {
			return
		}
	}
	yield(p.event("response."+status, inResponse{p.body(status)}), true)
}

func (p *response) textEvents(send func(string, any) bool) bool {
	none, empty, text := &[]struct{}{}, textPart(""), p.a.text()
	whole := textPart(text)
	if !send("response.content_part.added", inPart{ItemID: p.item, ContentIndex: new(int), Part: &empty}) {
		return false
	}
	for again := true; again; again = p.a.endless {
		for i := range p.a.deltas {
			if !send("response.output_text.delta", inPart{ItemID: p.item, ContentIndex: new(int), Delta: &p.a.deltas[i], Logprobs: none}) {
				return false
			}
		}
	}
	return send("response.output_text.done", inPart{ItemID: p.item, ContentIndex: new(int), Text: &text, Logprobs: none}) &&
		send("response.content_part.done", inPart{ItemID: p.item, ContentIndex: new(int), Part: &whole})
}

func (p *response) callEvents(send func(string, any) bool) bool {
	for _, d := range argumentDeltas(p.a.call.args) {
		if !send("response.function_call_arguments.delta", inPart{ItemID: p.item, Delta: &d}) {
			return false
		}
	}
	return send("response.function_call_arguments.done", inPart{ItemID: p.item, Arguments: &p.a.call.args})
}

func (p *response) broken() []byte {
	return p.event("error", struct {
		Code    string  `json:"code"`
		Message string  `json:"message"`
		Param   *string `json:"param"`
	}{"server_error", reason(http.StatusInternalServerError), nil})
}
