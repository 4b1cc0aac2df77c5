package transcript

import (
	"cmp"
	"encoding/base64"
	"strings"
)

// A place is where in an answer something is said, piece by piece: a choice, a channel of it, and where in that.
type place struct {
	choice  int
	channel channel
	index   int
	sub     int
}

// A channel is one of the lines on which an answer comes.
type channel uint8

const (
	wordsOf channel = iota
	thoughtsOf
	refusalOf
	callOf
	soundOf
	blockOf // of Anthropic's
	summaryOf
	itemOf
)

// A draft is a reply while it is put together.
type draft struct {
	Reply
	pieces []*piece
}

// A piece is a part while it is put together.
type piece struct {
	Part
	at   int  // in the draft
	told bool // an event has said what it is
	said strings.Builder
	bare string // what it is if nothing is said
}

// reply is the draft when all is said.
func (d *draft) reply() Reply {
	d.Parts = make([]Part, len(d.pieces))
	for i, p := range d.pieces {
		text := p.said.String()
		if p.Kind == ToolCall {
			p.Call.Arguments = cmp.Or(text, p.bare)
		} else {
			p.Text += text
		}
		d.Parts[i] = p.Part
	}
	return d.Reply
}

// choice returns the draft of a reply; nil where there are too many.
func (r *reader) choice(n int) *draft {
	d := r.choices[n]
	if d == nil && r.take() {
		d = &draft{Reply: Reply{Choice: n}}
		r.choices[n] = d
		r.drafts = append(r.drafts, d)
	}
	return d
}

// piece returns the piece at a place, and makes it if there is none; nil where there are too many.
func (r *reader) piece(at place, kind Kind) *piece {
	p := r.pieces[at]
	if p != nil {
		return p
	}
	d := r.choice(at.choice)
	if d == nil || !r.take() {
		return nil
	}
	p = &piece{Part: Part{Kind: kind}, at: len(d.pieces)}
	if kind == ToolCall {
		p.Call = &Call{}
	}
	r.pieces[at] = p
	d.pieces = append(d.pieces, p)
	return p
}

// say adds words at a place.
func (r *reader) say(at place, kind Kind, text string) {
	if text == "" {
		return
	}
	p := r.piece(at, kind)
	if p == nil {
		return
	}
	p.said.WriteString(text)
	r.tell(at, p, text)
}

// tell notes what the event at hand adds.
func (r *reader) tell(at place, p *piece, text string) {
	if r.now == nil || !r.take() {
		return
	}
	d := Delta{Choice: at.choice, Part: p.at, Kind: p.Kind, Text: text}
	if p.Call != nil && !p.told {
		d.Name = p.Call.Name
	}
	p.told = true
	r.now.Says = append(r.now.Says, d)
}

// again takes what is said of a place as a whole: where nothing was said before, it is said now, and else it should be the same.
func (r *reader) again(at place, kind Kind, text string) {
	p := r.pieces[at]
	if p == nil || p.said.Len() == 0 {
		r.say(at, kind, text)
		return
	}
	if text != "" && p.said.String() != text && !masked([]byte(text)) {
		r.note("what the answer says at its end is not what it said piece by piece; it is shown as it came")
	}
}

// call says of a tool call what it is.
func (r *reader) call(at place, id, name, bare string) {
	_, there := r.pieces[at]
	p := r.piece(at, ToolCall)
	if p == nil || p.Call == nil {
		return
	}
	p.Call.ID, p.Call.Name, p.bare = cmp.Or(p.Call.ID, id), cmp.Or(p.Call.Name, name), cmp.Or(p.bare, bare)
	if !there {
		r.tell(at, p, "")
	}
}

// put takes a part that comes whole.
func (r *reader) put(at place, part Part) {
	if r.pieces[at] != nil {
		return
	}
	if p := r.piece(at, part.Kind); p != nil {
		p.Part = part
		if part.Call != nil {
			p.bare = part.Call.Arguments
		}
		r.tell(at, p, part.Text)
	}
}

// finish says why a choice ended.
func (r *reader) finish(n int, why string) {
	if why == "" {
		return
	}
	if d := r.choice(n); d != nil {
		d.Finish = why
	}
	if r.now != nil {
		r.now.Ended = why
	}
}

// role says whose a choice is.
func (r *reader) role(n int, role string) {
	if role == "" {
		return
	}
	if d := r.choice(n); d != nil {
		d.Role = role
	}
}

// A top has the members that answers, and events of answers, have at their top.
type top struct {
	typ, object, choices, model, usage, failure, message, response, delta, block, item, part, output, content, stop, incomplete, status value
	text, arguments, refusal, input, role                                                                                               value
	index, outputIndex, contentIndex, summaryIndex                                                                                      int
}

func topOf(v value) (t top) {
	small := func(v value) int { return int(min(max(v.int(), 0), 1<<30)) }
	v.members(func(name string, m value) {
		switch name {
		case "type":
			t.typ = m
		case "object":
			t.object = m
		case "choices":
			t.choices = m
		case "model":
			t.model = m
		case "usage":
			t.usage = m
		case "error":
			t.failure = m
		case "message":
			t.message = m
		case "response":
			t.response = m
		case "delta":
			t.delta = m
		case "content_block":
			t.block = m
		case "item":
			t.item = m
		case "part":
			t.part = m
		case "output":
			t.output = m
		case "content":
			t.content = m
		case "stop_reason":
			t.stop = m
		case "incomplete_details":
			t.incomplete = m
		case "status":
			t.status = m
		case "text":
			t.text = m
		case "arguments":
			t.arguments = m
		case "refusal":
			t.refusal = m
		case "input":
			t.input = m
		case "role":
			t.role = m
		case "index":
			t.index = small(m)
		case "output_index":
			t.outputIndex = small(m)
		case "content_index":
			t.contentIndex = small(m)
		case "summary_index":
			t.summaryIndex = small(m)
		}
	})
	return t
}

// body reads an answer that is one JSON value.
func (r *reader) body(v value) {
	t := topOf(v)
	r.common(&t)
	switch {
	case t.choices.kind() == '[':
		r.chat(&t)
	case t.output.kind() == '[':
		r.response(&t)
	case t.content.kind() == '[':
		r.role(0, t.role.text())
		r.blocks(t.content)
		r.finish(0, t.stop.text())
	}
}

// event reads an event of a stream: what it is, and what it adds.
func (r *reader) event(name, data []byte) {
	e := r.now
	if e.Type == Comment {
		e.Type = Data
	}
	if string(data) == "[DONE]" {
		e.Type = "[DONE]"
		return
	}
	v := valueOf(data)
	t := topOf(v)
	if e.Type = t.typ.text(); e.Type == "" {
		e.Type = cmp.Or(t.object.text(), Data)
	}
	if len(name) > 0 && string(name) != "message" {
		e.Type = strings.ToValidUTF8(string(name), "\uFFFD")
	}
	if v.kind() != '{' {
		return
	}
	r.common(&t)
	if rest, ok := strings.CutPrefix(e.Type, "response."); ok {
		r.responseEvent(rest, &t)
		return
	}
	switch e.Type {
	case "message_start":
		m := topOf(t.message)
		r.common(&m)
		r.role(0, m.role.text())
		r.blocks(m.content)
	case "content_block_start":
		r.block(t.index, t.block)
	case "content_block_delta":
		r.blockDelta(t.index, t.delta)
	case "message_delta":
		r.finish(0, t.delta.get("stop_reason").text())
	case "error":
		if !t.failure.there() {
			r.problem(v)
		}
	default:
		if t.choices.kind() == '[' {
			r.chat(&t)
		}
	}
}

// common reads what all answers have.
func (r *reader) common(t *top) {
	if m := t.model.text(); m != "" {
		r.t.Answerer = m
	}
	r.usage(t.usage)
	if t.failure.there() {
		r.problem(t.failure)
	}
}

// problem reads an error.
func (r *reader) problem(v value) {
	text := v.text()
	if v.kind() == '{' {
		text = v.get("message").text()
		if kind := cmp.Or(v.get("code").text(), v.get("type").text()); kind != "" && kind != "error" {
			text += " (" + kind + ")"
		}
	}
	if text = cmp.Or(text, string(v[:min(len(v), 1000)])); text == "" {
		return
	}
	r.t.Answer.Problem = cmp.Or(r.t.Answer.Problem, text)
	if r.now != nil {
		r.now.Problem = text
	}
}

// usage reads a usage of either family. Of several the largest of each number counts: in a stream they grow.
func (r *reader) usage(v value) {
	if v.kind() != '{' {
		return
	}
	prompt, input, output, completion := int64(-1), int64(-1), int64(-1), int64(-1)
	u := &r.t.Usage
	v.members(func(name string, m value) {
		n := m.int()
		switch name {
		case "prompt_tokens":
			prompt = n
		case "completion_tokens":
			completion = n
		case "input_tokens":
			input = n
		case "output_tokens":
			output = n
		case "cache_read_input_tokens":
			u.CacheRead = max(u.CacheRead, n)
		case "cache_creation_input_tokens":
			u.CacheWrite = max(u.CacheWrite, n)
		case "prompt_tokens_details", "input_tokens_details":
			u.CacheRead = max(u.CacheRead, count(m.get("cached_tokens")))
		case "completion_tokens_details", "output_tokens_details":
			u.Reasoning = max(u.Reasoning, count(m.get("reasoning_tokens")))
		}
	})
	if prompt >= 0 || completion >= 0 {
		u.In, u.Out = max(u.In, prompt), max(u.Out, completion)
		return
	}
	// Anthropic counts what came from the cache, and went into it, apart.
	all := int64(-1)
	for _, n := range []int64{input, count(v.get("cache_creation_input_tokens")), count(v.get("cache_read_input_tokens"))} {
		if n >= 0 {
			if all = max(all, 0) + n; all < 0 {
				all = 1<<63 - 1
			}
		}
	}
	u.In, u.Out = max(u.In, all), max(u.Out, output)
}

// count is a number of what is there.
func count(v value) int64 {
	if len(v) == 0 {
		return -1
	}
	return v.int()
}

// chat reads the choices of a chat completion, of a piece of one, or of a completion.
func (r *reader) chat(t *top) {
	pos := 0
	t.choices.items(func(c value) bool {
		n, why := pos, ""
		pos++
		var said value
		var text value
		c.members(func(name string, m value) {
			switch name {
			case "index":
				n = int(min(max(m.int(), 0), 1<<30))
			case "message", "delta":
				said = m
			case "text":
				text = m
			case "finish_reason":
				why = m.text()
			}
		})
		r.say(place{n, wordsOf, 0, 0}, Text, text.text())
		r.chatMessage(n, said)
		r.finish(n, why)
		return r.left > 0
	})
}

// chatMessage reads what a choice says, or adds.
func (r *reader) chatMessage(n int, v value) {
	v.members(func(name string, m value) {
		switch name {
		case "role":
			r.role(n, m.text())
		case "content":
			if m.kind() == '[' {
				i := 0
				m.items(func(p value) bool {
					part := r.part(p)
					if part.Kind == Text || part.Kind == Reasoning {
						r.say(place{n, wordsOf, i, 0}, part.Kind, part.Text)
					} else {
						r.put(place{n, wordsOf, i, 0}, part)
					}
					i++
					return r.left > 0
				})
				return
			}
			r.say(place{n, wordsOf, 0, 0}, Text, m.text())
		case "reasoning_content", "reasoning":
			r.say(place{n, thoughtsOf, 0, 0}, Reasoning, m.text())
		case "refusal":
			r.say(place{n, refusalOf, 0, 0}, Refusal, m.text())
		case "tool_calls":
			pos := 0
			m.items(func(c value) bool {
				i := pos
				pos++
				if at := c.get("index").int(); at >= 0 {
					i = int(min(at, 1<<30))
				}
				r.chatCall(place{n, callOf, i, 0}, c.get("id").text(), either(c.get("function"), c.get("custom")))
				return r.left > 0
			})
		case "function_call":
			if m.there() {
				r.chatCall(place{n, callOf, -1, 0}, "", m)
			}
		case "audio":
			r.say(place{n, soundOf, 0, 0}, Text, m.get("transcript").text())
		}
	})
}

// chatCall reads a tool call, or what is added to one.
func (r *reader) chatCall(at place, id string, v value) {
	r.call(at, id, v.get("name").text(), "")
	for _, name := range []string{"arguments", "input"} {
		r.say(at, ToolCall, textOrJSON(v.get(name)))
	}
}

// either is the first of two that is there.
func either(a, b value) value {
	if a.there() {
		return a
	}
	return b
}

// textOrJSON is what a string says, or a value that is there and none, as it stands.
func textOrJSON(v value) string {
	if v.kind() == '"' || !v.there() {
		return v.text()
	}
	return strings.ToValidUTF8(string(v), "\uFFFD")
}

// blocks reads the content of a message of Anthropic's.
func (r *reader) blocks(v value) {
	i := 0
	v.items(func(b value) bool {
		r.block(i, b)
		i++
		return r.left > 0
	})
}

// block reads a block of content, whole or as it begins.
func (r *reader) block(i int, v value) {
	at := place{0, blockOf, i, 0}
	switch part := r.part(v); part.Kind {
	case Text, Reasoning:
		r.say(at, part.Kind, part.Text)
	case ToolCall:
		r.call(at, part.Call.ID, part.Call.Name, part.Call.Arguments)
	default:
		r.put(at, part)
	}
}

func (r *reader) blockDelta(i int, v value) {
	at := place{0, blockOf, i, 0}
	v.members(func(name string, m value) {
		switch name {
		case "text":
			r.say(at, Text, m.text())
		case "thinking":
			r.say(at, Reasoning, m.text())
		case "partial_json":
			r.say(at, ToolCall, m.text())
		}
	})
}

// response reads a whole response. What was said before by its events is not said again.
func (r *reader) response(t *top) {
	i := 0
	t.output.items(func(v value) bool {
		r.item(i, v, true)
		i++
		return r.left > 0
	})
	r.finish(0, cmp.Or(t.incomplete.get("reason").text(), t.status.text()))
}

// item reads an item of a response's output: whole, or as it begins.
func (r *reader) item(i int, v value, whole bool) {
	t := topOf(v)
	switch typ := t.typ.text(); typ {
	case "message":
		r.role(0, t.role.text())
		j := 0
		t.content.items(func(c value) bool {
			r.itemPart(place{0, wordsOf, i, j}, c)
			j++
			return r.left > 0
		})
	case "reasoning":
		for _, list := range []struct {
			v       value
			channel channel
		}{{v.get("summary"), summaryOf}, {t.content, thoughtsOf}} {
			j := 0
			list.v.items(func(c value) bool {
				r.again(place{0, list.channel, i, j}, Reasoning, c.get("text").text())
				j++
				return r.left > 0
			})
		}
	default:
		part := r.part(v)
		at := place{0, itemOf, i, 0}
		switch {
		case part.Kind == ToolCall:
			at.channel = callOf
			r.call(at, part.Call.ID, part.Call.Name, "")
			r.again(at, ToolCall, part.Call.Arguments)
		case whole && t.typ.there():
			r.put(at, part)
		}
	}
}

// itemPart reads a part of a message of a response.
func (r *reader) itemPart(at place, v value) {
	switch part := r.part(v); part.Kind {
	case Text, Refusal, Reasoning:
		r.again(at, part.Kind, part.Text)
	default:
		r.put(at, part)
	}
}

// responseEvent reads an event of a response, named without its beginning.
func (r *reader) responseEvent(name string, t *top) {
	words := place{0, wordsOf, t.outputIndex, t.contentIndex}
	call := place{0, callOf, t.outputIndex, 0}
	delta := t.delta.text()
	switch name {
	case "created", "queued", "in_progress":
		whole := topOf(t.response)
		r.common(&whole)
	case "completed", "incomplete", "failed":
		whole := topOf(t.response)
		r.common(&whole)
		r.response(&whole)
	case "output_item.added":
		r.item(t.outputIndex, t.item, false)
	case "output_item.done":
		r.item(t.outputIndex, t.item, true)
	case "content_part.added", "content_part.done":
		r.itemPart(words, t.part)
	case "output_text.delta":
		r.say(words, Text, delta)
	case "output_text.done":
		r.again(words, Text, t.text.text())
	case "refusal.delta":
		r.say(words, Refusal, delta)
	case "refusal.done":
		r.again(words, Refusal, t.refusal.text())
	case "reasoning_text.delta":
		r.say(place{0, thoughtsOf, t.outputIndex, t.contentIndex}, Reasoning, delta)
	case "reasoning_summary_text.delta":
		r.say(place{0, summaryOf, t.outputIndex, t.summaryIndex}, Reasoning, delta)
	case "audio.transcript.delta", "output_audio_transcript.delta", "audio_transcript.delta":
		r.say(place{0, soundOf, t.outputIndex, 0}, Text, delta)
	case "function_call_arguments.delta", "mcp_call_arguments.delta", "custom_tool_call_input.delta":
		r.say(call, ToolCall, delta)
	case "function_call_arguments.done", "mcp_call_arguments.done":
		r.again(call, ToolCall, t.arguments.text())
	case "custom_tool_call_input.done":
		r.again(call, ToolCall, t.input.text())
	}
}

// part reads a part of a message, of whatever family.
func (r *reader) part(v value) Part {
	switch typ := v.get("type").text(); typ {
	case "tool_result", "mcp_tool_result":
		return Part{Kind: Result, Text: r.flat(v.get("content")), Call: &Call{ID: v.get("tool_use_id").text()}}
	case "function_call_output", "custom_tool_call_output":
		return Part{Kind: Result, Text: r.flat(v.get("output")), Call: &Call{ID: v.get("call_id").text()}}
	default:
		return flatPart(typ, v)
	}
}

// flatPart reads a part that has no other parts in it, or is taken to have none.
func flatPart(typ string, v value) Part {
	if v.kind() == '"' {
		return Part{Kind: Text, Text: v.text()}
	}
	text := func(names ...string) string { return textOrJSON(v.get(names...)) }
	switch typ {
	case "text", "input_text", "output_text":
		return Part{Kind: Text, Text: text("text")}
	case "summary_text", "reasoning_text":
		return Part{Kind: Reasoning, Text: text("text")}
	case "thinking":
		return Part{Kind: Reasoning, Text: text("thinking")}
	case "refusal":
		return Part{Kind: Refusal, Text: text("refusal")}
	case "tool_use", "server_tool_use", "mcp_tool_use":
		return Part{Kind: ToolCall, Call: &Call{text("id"), text("name"), text("input")}}
	case "function_call", "mcp_call":
		return Part{Kind: ToolCall, Call: &Call{cmp.Or(text("call_id"), text("id")), text("name"), text("arguments")}}
	case "custom_tool_call":
		return Part{Kind: ToolCall, Call: &Call{cmp.Or(text("call_id"), text("id")), text("name"), text("input")}}
	case "image_url", "input_image", "image", "input_audio", "audio", "file", "input_file", "document", "video_url", "input_video":
		return Part{Kind: Media, File: fileOf(typ, v)}
	}
	if typ == "" && v.get("text").kind() == '"' {
		return Part{Kind: Text, Text: text("text")}
	}
	return Part{Kind: Other, Text: textOrJSON(v)}
}

// flat is the words of a content that is a string or a list of parts, the parts on lines of their own.
func (r *reader) flat(v value) string {
	if v.kind() != '[' {
		return textOrJSON(v)
	}
	var lines []string
	v.items(func(p value) bool {
		part := flatPart(p.get("type").text(), p)
		if part.Kind == Media {
			part.Text = "[" + part.File.Type + "]"
		}
		lines = append(lines, part.Text)
		return r.take()
	})
	return strings.Join(lines, "\n")
}

// fileOf reads what is said of an image, a sound or a file, wherever its family says it.
func fileOf(typ string, v value) *File {
	typ, _, _ = strings.Cut(strings.TrimPrefix(typ, "input_"), "_")
	f := &File{Type: typ}
	at := func(u string) {
		if head, data, ok := strings.Cut(u, ","); ok && strings.HasPrefix(head, "data:") {
			kind, _, _ := strings.Cut(strings.TrimPrefix(head, "data:"), ";")
			f.Type, f.Size = cmp.Or(kind, f.Type), base64.RawStdEncoding.DecodedLen(len(strings.TrimRight(data, "=")))
		} else if u != "" {
			f.URL = u
		}
	}
	var read func(v value, deep int)
	read = func(v value, deep int) {
		v.members(func(name string, m value) {
			switch name {
			case "image_url", "video_url", "file_url", "url":
				at(m.text())
			case "media_type":
				f.Type = cmp.Or(m.text(), f.Type)
			case "format":
				f.Type = typ + "/" + m.text()
			case "filename", "title", "file_id":
				f.Name = cmp.Or(f.Name, m.text())
			case "data", "file_data":
				if data := m.text(); strings.HasPrefix(data, "data:") {
					at(data)
				} else {
					f.Size = base64.RawStdEncoding.DecodedLen(len(strings.TrimRight(data, "=")))
				}
			}
			if deep == 0 && m.kind() == '{' {
				read(m, 1) // image_url, source, input_audio, file
			}
		})
	}
	read(v, 0)
	return f
}
