package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog"
)

// The shape of a line is that of OpenAI's chat completions, as data sets for training and evaluation have it: messages, the reply as the
// last of them, and tools; and metadata beside them.
type (
	chatLine struct {
		Messages []any           `json:"messages"`
		Tools    json.RawMessage `json:"tools,omitempty"`
		Metadata metadata        `json:"metadata"`
	}
	chatMessage struct {
		Role       string     `json:"role"`
		Name       string     `json:"name,omitempty"`
		Content    *string    `json:"content"` // null where there are only calls
		Refusal    string     `json:"refusal,omitempty"`
		ToolCalls  []chatCall `json:"tool_calls,omitempty"`
		ToolCallID string     `json:"tool_call_id,omitempty"`
	}
	chatCall struct {
		ID       string       `json:"id"`
		Type     string       `json:"type"` // function
		Function chatFunction `json:"function"`
	}
	chatFunction struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}
)

// metadata says where a line comes from, and what is not in it.
type metadata struct {
	Session    string           `json:"session"`
	Origin     string           `json:"origin"`
	Leaf       tlog.Hash        `json:"leaf"` // of the entry that ends the session
	Time       string           `json:"time"`
	DurationMS *float64         `json:"duration_ms,omitempty"`
	Caller     string           `json:"caller,omitempty"`
	Route      string           `json:"route,omitempty"`
	Shape      transcript.Shape `json:"shape"` // of the call as it was
	Model      string           `json:"model,omitempty"`
	Outcome    string           `json:"outcome"`
	Status     int              `json:"status,omitempty"`
	Finish     string           `json:"finish,omitempty"`
	Usage      map[string]int64 `json:"usage,omitempty"`
	Params     map[string]any   `json:"params,omitempty"`
	Replied    bool             `json:"replied"`            // the last message is the model's reply
	Erased     bool             `json:"erased,omitempty"`   // a record of the session is gone
	LeftOut    []string         `json:"left_out,omitempty"` // in words, what the session has and this shape has no place for
	Notes      []string         `json:"notes,omitempty"`    // on how the session was read
}

func (c *cargo) metadata(s *session) metadata {
	m := metadata{
		Session: s.ID.String(), Origin: c.origin, Leaf: s.leaf(s.last()), Time: s.began().UTC().Format(time.RFC3339Nano), Caller: s.Caller.Name, Route: s.Route,
		Shape: s.Shape, Model: s.Model, Outcome: s.end(), Status: s.Answer.Status, Erased: s.Erased, Notes: s.Notes,
	}
	if d := s.Times.Duration(); d >= 0 {
		ms := millis(d)
		m.DurationMS = &ms
	}
	if len(s.Replies) > 0 {
		m.Finish = s.Replies[0].Finish
	}
	for _, u := range []struct {
		name string
		n    int64
	}{{"input_tokens", s.Usage.In}, {"output_tokens", s.Usage.Out}} {
		if u.n >= 0 {
			if m.Usage == nil {
				m.Usage = make(map[string]int64)
			}
			m.Usage[u.name] = u.n
		}
	}
	for _, p := range s.Request.Params {
		if isJSON([]byte(p.Value)) {
			if m.Params == nil {
				m.Params = make(map[string]any)
			}
			m.Params[p.Name] = json.RawMessage(p.Value)
		}
		if p.Name == "previous_response_id" || p.Name == "conversation" {
			m.LeftOut = append(m.LeftOut, "what was said before: it is not in the call, which names it by its "+p.Name)
		}
	}
	if n := len(s.Replies); n > 1 {
		m.LeftOut = append(m.LeftOut, fmt.Sprintf("%d further choices of the answer", n-1))
	}
	if len(s.Messages)+len(s.Replies) == 0 && !s.Erased {
		m.LeftOut = append(m.LeftOut, "the bodies: they hold no conversation that can be read")
	}
	return m
}

// leave counts what was left out, by what it is.
type leave map[string]int

func (l leave) words() []string {
	var all []string
	for what, n := range l {
		all = append(all, fmt.Sprintf("%d of %s", n, what))
	}
	slices.Sort(all)
	return all
}

func (c *cargo) jsonl() ([]byte, error) {
	return c.lines(func(s *session) any {
		l := chatLine{Messages: []any{}, Metadata: c.metadata(s)}
		left := make(leave)
		var asked struct {
			Messages []json.RawMessage `json:"messages"`
			Tools    json.RawMessage   `json:"tools"`
		}
		readable := isJSON(s.Request.Body) && json.Unmarshal(s.Request.Body, &asked) == nil
		if s.Shape == transcript.Chat && readable {
			// The messages as they were sent.
			for _, m := range asked.Messages {
				l.Messages = append(l.Messages, m)
			}
		} else {
			for _, m := range s.Messages {
				for _, cm := range chatMessages(m, left) {
					l.Messages = append(l.Messages, cm)
				}
			}
		}
		if readable {
			l.Tools = chatTools(asked.Tools, left)
		}
		if len(s.Replies) > 0 {
			r := s.Replies[0]
			for _, cm := range chatMessages(transcript.Message{Role: orAssistant(r.Role), Parts: r.Parts}, left) {
				l.Messages = append(l.Messages, cm)
				l.Metadata.Replied = true
			}
		}
		l.Metadata.LeftOut = append(l.Metadata.LeftOut, left.words()...)
		return l
	})
}

// lines writes one line for each session.
func (c *cargo) lines(of func(*session) any) ([]byte, error) {
	var b bytes.Buffer
	for i := range c.sessions {
		// An encoder's line has no line break in it, and raw JSON is compacted. It escapes U+2028 and U+2029, too, which end a line for
		// some readers.
		if err := json.NewEncoder(&b).Encode(of(&c.sessions[i])); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// isJSON says whether bytes can stand in a line as they are. Go's own judgement lets bytes pass that are not UTF-8.
func isJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

func orAssistant(role string) string {
	if role == "" {
		return "assistant"
	}
	return role
}

// chatMessages returns a message in the shape of chat completions: one, and one more for each result of a tool in it.
func chatMessages(m transcript.Message, left leave) []chatMessage {
	out := chatMessage{Role: m.Role, Name: m.Name}
	var results []chatMessage
	var words []string
	for _, p := range m.Parts {
		switch {
		case p.Kind == transcript.Text:
			words = append(words, p.Text)
		case p.Kind == transcript.Refusal:
			out.Refusal += p.Text
		case p.Kind == transcript.ToolCall && p.Call != nil:
			out.ToolCalls = append(out.ToolCalls, chatCall{p.Call.ID, "function", chatFunction{p.Call.Name, p.Call.Arguments}})
		case p.Kind == transcript.Result:
			r := chatMessage{Role: "tool", Content: &p.Text}
			if p.Call != nil {
				r.ToolCallID = p.Call.ID
			}
			results = append(results, r)
		default:
			left["the kind "+string(p.Kind)]++
		}
	}
	if len(words) > 0 || len(out.ToolCalls) == 0 && len(results) == 0 {
		text := strings.Join(words, "\n\n")
		out.Content = &text
	}
	if out.Content == nil && len(out.ToolCalls) == 0 {
		return results
	}
	// The API wants results right behind the calls that they answer, and a person's words after them.
	return append(results, out)
}

// A tool, in the spellings of the three APIs.
type tool struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Parameters  json.RawMessage `json:"parameters"`   // of responses
	InputSchema json.RawMessage `json:"input_schema"` // of messages
	Function    *struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"` // of chat
}

// tools reads a list of tools. Those that are no functions of the caller's are left out.
func tools(raw json.RawMessage, left leave) []tool {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var all []tool
	for _, r := range list {
		var t tool
		if err := json.Unmarshal(r, &t); err != nil {
			left["the tools, unreadable"]++
			continue
		}
		if f := t.Function; f != nil {
			t.Name, t.Description, t.Parameters = f.Name, f.Description, f.Parameters
		}
		if t.Parameters == nil {
			t.Parameters = t.InputSchema
		}
		if t.Name == "" || t.Type != "" && t.Type != "function" && t.Type != "custom" {
			left["the tools that the provider runs"]++
			continue
		}
		all = append(all, t)
	}
	return all
}

// chatTools returns tools in the shape of chat completions.
func chatTools(raw json.RawMessage, left leave) json.RawMessage {
	type function struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		Parameters  json.RawMessage `json:"parameters,omitempty"`
	}
	type chatTool struct {
		Type     string   `json:"type"`
		Function function `json:"function"`
	}
	var all []chatTool
	for _, t := range tools(raw, left) {
		all = append(all, chatTool{"function", function{t.Name, t.Description, t.Parameters}})
	}
	return list(all)
}

// list returns a list in JSON; nil of an empty one.
func list[T any](all []T) json.RawMessage {
	if len(all) == 0 {
		return nil
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil // of parts that were read as JSON this does not happen
	}
	return b
}
