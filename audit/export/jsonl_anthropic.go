package export

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/tallystick/tallystick/audit/transcript"
)

// The shape of a line is that of Anthropic's messages: the body of the request, the body of the response, and metadata beside them.
type (
	pairLine struct {
		Request  any      `json:"request"`
		Response any      `json:"response"` // null where there is no reply
		Metadata metadata `json:"metadata"`
	}
	asked struct {
		Model    string          `json:"model,omitempty"`
		System   string          `json:"system,omitempty"`
		Messages []turn          `json:"messages"`
		Tools    json.RawMessage `json:"tools,omitempty"`
	}
	turn struct {
		Role    string `json:"role"`
		Content []any  `json:"content"`
	}
	reply struct {
		ID      string           `json:"id,omitempty"`
		Type    string           `json:"type"` // message
		Role    string           `json:"role"` // assistant
		Model   string           `json:"model,omitempty"`
		Content []any            `json:"content"`
		Stop    *string          `json:"stop_reason"`
		StopSeq *string          `json:"stop_sequence"`
		Usage   map[string]int64 `json:"usage,omitempty"`
	}
	textBlock struct {
		Type string `json:"type"` // text
		Text string `json:"text"`
	}
	thinkingBlock struct {
		Type     string `json:"type"` // thinking
		Thinking string `json:"thinking"`
	}
	useBlock struct {
		Type  string          `json:"type"` // tool_use
		ID    string          `json:"id"`
		Name  string          `json:"name"`
		Input json.RawMessage `json:"input"`
	}
	resultBlock struct {
		Type    string `json:"type"` // tool_result
		ID      string `json:"tool_use_id"`
		Content string `json:"content"`
	}
)

func (c *cargo) jsonlAnthropic() ([]byte, error) {
	return c.lines(func(s *session) any {
		l := pairLine{Metadata: c.metadata(s)}
		left := make(leave)
		if s.Shape == transcript.Messages && isJSON(s.Request.Body) {
			l.Request = json.RawMessage(s.Request.Body)
		} else {
			l.Request = anthropicRequest(s, left)
		}
		switch {
		case len(s.Replies) == 0:
		case s.Shape == transcript.Messages && !s.Answer.Stream && isJSON(s.Answer.Body):
			l.Response, l.Metadata.Replied = json.RawMessage(s.Answer.Body), true
		default:
			l.Response, l.Metadata.Replied = anthropicReply(s, left), true
		}
		l.Metadata.LeftOut = append(l.Metadata.LeftOut, left.words()...)
		return l
	})
}

// anthropicRequest writes a conversation of another API as a request to messages. Neighbours in one role become one turn, and results of
// tools are the user's, as that API has it.
func anthropicRequest(s *session, left leave) asked {
	out := asked{Model: s.Model, Messages: []turn{}}
	var system []string
	for _, m := range s.Messages {
		role := m.Role
		switch role {
		case "system", "developer":
			for _, p := range m.Parts {
				if p.Kind == transcript.Text {
					system = append(system, p.Text)
				} else {
					left["the kind "+string(p.Kind)+" in what the system says"]++
				}
			}
			continue
		case "assistant":
		default:
			role = "user"
		}
		blocks := anthropicBlocks(m.Parts, left)
		if len(blocks) == 0 {
			continue
		}
		if n := len(out.Messages); n > 0 && out.Messages[n-1].Role == role {
			out.Messages[n-1].Content = append(out.Messages[n-1].Content, blocks...)
			continue
		}
		out.Messages = append(out.Messages, turn{role, blocks})
	}
	out.System = strings.Join(system, "\n\n")
	var sent struct {
		Tools json.RawMessage `json:"tools"`
	}
	if isJSON(s.Request.Body) && json.Unmarshal(s.Request.Body, &sent) == nil {
		type anthropicTool struct {
			Name        string          `json:"name"`
			Description string          `json:"description,omitempty"`
			InputSchema json.RawMessage `json:"input_schema"`
		}
		var all []anthropicTool
		for _, t := range tools(sent.Tools, left) {
			if t.Parameters == nil {
				t.Parameters = json.RawMessage(`{"type":"object"}`)
			}
			all = append(all, anthropicTool{t.Name, t.Description, t.Parameters})
		}
		out.Tools = list(all)
	}
	return out
}

func anthropicReply(s *session, left leave) reply {
	r := reply{Type: "message", Role: "assistant", Model: s.Answerer, Content: anthropicBlocks(s.Replies[0].Parts, left)}
	if r.Model == "" {
		r.Model = s.Model
	}
	if r.Content == nil {
		r.Content = []any{}
	}
	if why := stopReason(s.Replies[0].Finish); why != "" {
		r.Stop = &why
	}
	if s.Usage.In >= 0 && s.Usage.Out >= 0 {
		r.Usage = map[string]int64{"input_tokens": s.Usage.In, "output_tokens": s.Usage.Out}
	}
	var start struct {
		ID      string `json:"id"`
		Message struct {
			ID string `json:"id"`
		} `json:"message"`
	}
	if len(s.Events) == 0 {
		if json.Unmarshal(s.Answer.Body, &start) == nil {
			r.ID = start.ID
		}
		return r
	}
	for _, e := range s.Events {
		if e.Type == "message_start" && json.Unmarshal(dataOf(e.Raw), &start) == nil {
			r.ID = start.Message.ID
			break
		}
	}
	return r
}

// dataOf returns the data of an event.
func dataOf(raw []byte) []byte {
	var data []byte
	for line := range bytes.Lines(raw) {
		if d, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(data, d...)
		}
	}
	return data
}

// stopReason says in Anthropic's words why a model stopped.
func stopReason(finish string) string {
	switch finish {
	case "stop", "completed":
		return "end_turn"
	case "length", "max_output_tokens", "incomplete":
		return "max_tokens"
	case "tool_calls", "function_call":
		return "tool_use"
	case "content_filter":
		return "refusal"
	}
	return finish
}

func anthropicBlocks(parts []transcript.Part, left leave) []any {
	var all []any
	for _, p := range parts {
		switch {
		case p.Kind == transcript.Text, p.Kind == transcript.Refusal:
			all = append(all, textBlock{"text", p.Text})
		case p.Kind == transcript.Reasoning:
			all = append(all, thinkingBlock{"thinking", p.Text})
		case p.Kind == transcript.ToolCall && p.Call != nil:
			input := json.RawMessage(p.Call.Arguments)
			if !isJSON(input) || !bytes.HasPrefix(bytes.TrimSpace(input), []byte("{")) {
				input = json.RawMessage("{}")
				if p.Call.Arguments != "" {
					left["the arguments of calls, which are no JSON object"]++
				}
			}
			all = append(all, useBlock{"tool_use", p.Call.ID, p.Call.Name, input})
		case p.Kind == transcript.Result:
			b := resultBlock{Type: "tool_result", Content: p.Text}
			if p.Call != nil {
				b.ID = p.Call.ID
			}
			all = append(all, b)
		default:
			left["the kind "+string(p.Kind)]++
		}
	}
	return all
}
