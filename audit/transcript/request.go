package transcript

import (
	"cmp"
	"strings"
)

// shapeOf tells the shape of a request by its path, whatever stands before it, and where that says nothing by the body.
func shapeOf(t *Transcript, body value) Shape {
	path, _, _ := strings.Cut(t.Request.Target, "?")
	for _, s := range []struct {
		end   string
		shape Shape
	}{
		{"/chat/completions", Chat}, {"/completions", Completions}, {"/embeddings", Embeddings}, {"/responses", Responses},
		{"/messages", Messages}, {"/messages/count_tokens", Messages},
	} {
		if strings.HasSuffix(path, s.end) {
			return s.shape
		}
	}
	if body.get("messages").kind() == '[' && body.get("model").kind() == '"' {
		if HeaderOf(t.Request.Headers, "Anthropic-Version") != "" {
			return Messages
		}
		return Chat
	}
	return HTTP
}

// request reads what was asked for.
func (r *reader) request() {
	t := r.t
	body := r.readable(t.Request.Body, t.Request.Headers, "request")
	v := valueOf(body)
	if t.Shape = shapeOf(t, v); v.kind() != '{' || t.Shape == HTTP {
		return
	}
	r.whole(body, "request")
	var system []Part
	v.members(func(name string, m value) {
		switch name {
		case "model":
			t.Model = cmp.Or(t.Model, m.text())
		case "stream":
			t.Request.Stream = m.yes()
		case "system", "instructions":
			system = append(system, r.parts(m)...)
		case "messages":
			r.messages(m)
		case "input", "prompt":
			r.input(m)
		case "tools", "functions":
			r.tools(m)
		default:
			if r.take() {
				t.Request.Params = append(t.Request.Params, Param{name, strings.ToValidUTF8(string(m), "\uFFFD")})
			}
		}
	})
	if len(system) > 0 {
		t.Messages = append([]Message{{Role: "system", Parts: system}}, t.Messages...)
	}
}

// parts reads a content: a string, a part, or a list of them.
func (r *reader) parts(v value) (all []Part) {
	switch {
	case v.kind() == '[':
		v.items(func(p value) bool {
			if r.take() {
				all = append(all, r.part(p))
			}
			return r.left > 0
		})
	case v.there() && r.take():
		all = append(all, r.part(v))
	}
	return all
}

// messages reads the messages of a conversation.
func (r *reader) messages(v value) {
	v.items(func(m value) bool {
		r.message(m)
		return r.left > 0
	})
}

func (r *reader) message(v value) {
	if !r.take() {
		return
	}
	var m Message
	var of string // the call whose result it is
	var thought, calls []Part
	v.members(func(name string, x value) {
		switch name {
		case "role":
			m.Role = x.text()
		case "name":
			m.Name = x.text()
		case "tool_call_id":
			of = x.text()
		case "content":
			m.Parts = append(m.Parts, r.parts(x)...)
		case "reasoning_content", "reasoning":
			if s := x.text(); s != "" && r.take() {
				thought = append(thought, Part{Kind: Reasoning, Text: s})
			}
		case "refusal":
			if s := x.text(); s != "" && r.take() {
				m.Parts = append(m.Parts, Part{Kind: Refusal, Text: s})
			}
		case "tool_calls":
			x.items(func(c value) bool {
				if r.take() {
					calls = append(calls, callOfChat(c.get("id").text(), either(c.get("function"), c.get("custom"))))
				}
				return r.left > 0
			})
		case "function_call":
			if x.there() && r.take() {
				calls = append(calls, callOfChat("", x))
			}
		}
	})
	m.Parts = append(append(thought, m.Parts...), calls...)
	if of != "" || m.Role == "tool" || m.Role == "function" {
		for i := range m.Parts {
			if p := &m.Parts[i]; p.Kind == Text {
				p.Kind, p.Call = Result, &Call{ID: of, Name: m.Name}
			}
		}
	}
	r.t.Messages = append(r.t.Messages, m)
}

func callOfChat(id string, v value) Part {
	return Part{Kind: ToolCall, Call: &Call{ID: id, Name: v.get("name").text(), Arguments: textOrJSON(either(v.get("arguments"), v.get("input")))}}
}

// input reads what responses, completions and embeddings are asked with: a string, a list of strings, or a list of items.
func (r *reader) input(v value) {
	add := func(role string, parts ...Part) {
		if r.take() {
			r.t.Messages = append(r.t.Messages, Message{Role: role, Parts: parts})
		}
	}
	if v.kind() == '"' {
		add("user", r.part(v))
		return
	}
	v.items(func(item value) bool {
		switch {
		case item.kind() == '"':
			add("user", r.part(item))
		case item.kind() != '{':
			// Tokens, as numbers: they say nothing to people.
			r.note("the request is given as tokens, and not as text")
			return false
		case item.get("role").there():
			r.message(item)
		case item.get("type").text() == "reasoning":
			add("assistant", append(r.thoughts(item.get("summary")), r.thoughts(item.get("content"))...)...)
		default:
			part := r.part(item)
			role := "assistant"
			if part.Kind == Result {
				role = "tool"
			}
			add(role, part)
		}
		return r.left > 0
	})
}

// thoughts reads a list of texts of what a model thought.
func (r *reader) thoughts(v value) []Part {
	parts := r.parts(v)
	for i := range parts {
		parts[i].Kind = Reasoning
	}
	return parts
}

// tools reads which tools a model may call.
func (r *reader) tools(v value) {
	v.items(func(tool value) bool {
		of := either(either(tool.get("function"), tool.get("custom")), tool)
		name := cmp.Or(of.get("name").text(), tool.get("type").text())
		if r.take() {
			r.t.Request.Tools = append(r.t.Request.Tools, Tool{name, of.get("description").text()})
		}
		return r.left > 0
	})
}
