package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// How much of a body becomes facts. Of what goes beyond, the fact is unknown; only a longer name of a model is refused.
const (
	maxModel     = 256    // bytes of a model's name
	maxMessages  = 10_000 // messages
	maxTools     = 1024   // tools
	maxParams    = 128    // other members
	maxParamName = 128    // bytes of a tool's, a role's or a member's name
	maxParamText = 256    // bytes of a member's string
	maxNested    = 8      // parts within parts
)

// A shape is what an endpoint's bodies look like.
type shape uint8

const (
	otherShape shape = iota
	chatShape
	completionsShape
	embeddingsShape
	responsesShape
	messagesShape
)

// shapeOf tells the shape of what is sent to a path of an API. A path that is not exactly an endpoint's has none: what
// lies below an endpoint, such as a batch of calls, has its model and messages deeper, if at all.
func shapeOf(api, path string) shape {
	switch api {
	case apiNames[OpenAI]:
		switch {
		case strings.HasSuffix(path, "/v1/chat/completions"):
			return chatShape
		case strings.HasSuffix(path, "/v1/responses"):
			return responsesShape
		case strings.HasSuffix(path, "/v1/embeddings"):
			return embeddingsShape
		case strings.HasSuffix(path, "/v1/completions"):
			return completionsShape
		}
	case apiNames[Anthropic]:
		if strings.HasSuffix(path, "/v1/messages") || strings.HasSuffix(path, "/v1/messages/count_tokens") {
			return messagesShape
		}
	}
	return otherShape
}

// outlined are the top-level members that become facts of their own, in one shape or another. Some readers take MODEL
// for model, so none may be spelled otherwise.
var outlined = []string{
	"model", "stream", "temperature", "max_tokens", "max_completion_tokens", "max_output_tokens",
	"messages", "system", "prompt", "input", "instructions", "tools", "functions",
}

// inner are the names that are read further down.
var inner = []string{
	"role", "type", "name", "content", "output", "summary", "arguments", "tool_calls", "function_call", "text", "refusal", "thinking",
	"input", "function", "custom",
}

// readBody fills in what a call's body says; Size, API and Path are set. It is an error if an API that speaks JSON is
// sent something that is not JSON of one meaning.
func (f *Facts) readBody(body []byte, packed bool) error {
	switch {
	case len(body) == 0:
		f.Known |= KnownBody // it is known to say nothing
		return nil
	case packed:
		return nil
	}
	if err := outlineBody(f, body); err != nil && f.API != apiNames[HTTP] {
		return err
	}
	return nil
}

// outlineBody reads of a JSON body what records and rules need. A body that is not JSON, or says a name twice, is an
// error: two readers could take it for two different requests, and what is recorded and decided must be what is sent. For
// the same reason the names that are read must be spelled as they are, and what stands under one and is not of its kind
// makes the fact unknown: a reader might still take "100" for 100.
func outlineBody(f *Facts, body []byte) error {
	o := outliner{dec: jsontext.NewDecoder(bytes.NewBuffer(body)), shape: shapeOf(f.API, f.Path)}
	err := o.body()
	if err != nil {
		o.facts = Facts{}
	}
	f.Model, f.Stream = o.facts.Model, o.facts.Stream
	f.MaxTokens, f.HasMaxTokens = o.facts.MaxTokens, o.facts.HasMaxTokens
	f.Temperature, f.HasTemperature = o.facts.Temperature, o.facts.HasTemperature
	f.Messages, f.Tools, f.Params = o.facts.Messages, o.facts.Tools, o.facts.Params
	f.Known = f.Known&^KnownBody | o.facts.Known
	return err
}

// An outliner reads one body.
type outliner struct {
	dec   *jsontext.Decoder
	shape shape
	facts Facts
	said  Known // what the body said, in whatever form
	lost  Known // what it said in a form that is not known
	spare []byte
}

func (o *outliner) body() error {
	if o.dec.PeekKind() != '{' {
		if err := o.dec.SkipValue(); err != nil {
			return plainJSON(err)
		}
		return onlyOne(o.dec)
	}
	if err := o.object(o.member); err != nil {
		return err
	}
	if err := onlyOne(o.dec); err != nil {
		return err
	}
	known := KnownBody
	if o.shape == otherShape {
		known = KnownParams | o.said
	}
	o.facts.Known = known &^ o.lost
	return nil
}

// object reads an object, of which each reads the members' values.
func (o *outliner) object(each func(name []byte) error) error {
	if _, err := o.dec.ReadToken(); err != nil {
		return plainJSON(err)
	}
	for o.dec.PeekKind() != '}' {
		raw, err := o.dec.ReadValue()
		if err != nil {
			return plainJSON(err)
		}
		name, own := o.unquote(raw)
		if own {
			name = bytes.Clone(name) // each may unquote, too
		}
		if err := each(name); err != nil {
			return err
		}
	}
	_, err := o.dec.ReadToken()
	return plainJSON(err)
}

// list reads a list, of which each reads the elements.
func (o *outliner) list(each func() error) error {
	if _, err := o.dec.ReadToken(); err != nil {
		return plainJSON(err)
	}
	for o.dec.PeekKind() != ']' {
		if err := each(); err != nil {
			return err
		}
	}
	_, err := o.dec.ReadToken()
	return plainJSON(err)
}

// skip reads past a value.
func (o *outliner) skip() error { return plainJSON(o.dec.SkipValue()) }

// lose reads past a value of which a fact could not be read.
func (o *outliner) lose(what Known) error {
	o.lost |= what
	return o.skip()
}

// value reads a value. It is valid as long as the body.
func (o *outliner) value() (jsontext.Value, error) {
	v, err := o.dec.ReadValue()
	return v, plainJSON(err)
}

// unquote returns what a JSON string says, and whether that lies in the spare room, where the next one overwrites it.
func (o *outliner) unquote(raw jsontext.Value) (text []byte, spare bool) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], false
	}
	o.spare, _ = jsontext.AppendUnquote(o.spare[:0], raw)
	return o.spare, true
}

// otherwise says whether a name is one of those, spelled otherwise.
func otherwise(name []byte, names []string) error {
	if !bytes.ContainsFunc(name, func(r rune) bool { return 'A' <= r && r <= 'Z' || r >= utf8.RuneSelf }) {
		return nil // it is one of them or none
	}
	for _, n := range names {
		if strings.EqualFold(n, string(name)) {
			return fmt.Errorf("it spells the name %q otherwise", n)
		}
	}
	return nil
}

// member reads a top-level member.
func (o *outliner) member(name []byte) error {
	f, null := &o.facts, o.dec.PeekKind() == 'n'
	switch string(name) {
	case "model":
		o.said |= KnownModel
		if null {
			return o.skip()
		}
		raw, err := o.text(KnownModel)
		if err == nil && len(raw) > maxModel {
			err = fmt.Errorf("the model's name is longer than %d bytes", maxModel)
		}
		f.Model = string(raw)
		return err
	case "stream":
		o.said |= KnownStream
		switch o.dec.PeekKind() {
		case 't':
			f.Stream = true
			return o.skip()
		case 'f', 'n':
			return o.skip()
		}
		return o.lose(KnownStream)
	case "temperature":
		o.said |= KnownTemperature
		if null {
			return o.skip()
		}
		v, err := o.value()
		if err != nil {
			return err
		}
		n, err := strconv.ParseFloat(string(v), 64)
		if v.Kind() != '0' || err != nil {
			o.lost |= KnownTemperature
			return nil
		}
		f.Temperature, f.HasTemperature = n, true
		return nil
	case "max_tokens":
		if o.shape != responsesShape {
			return o.maxTokens()
		}
	case "max_completion_tokens":
		if o.shape == chatShape {
			return o.maxTokens()
		}
	case "max_output_tokens":
		if o.shape == responsesShape {
			return o.maxTokens()
		}
	case "messages":
		if o.shape == chatShape || o.shape == messagesShape {
			return o.messages()
		}
	case "prompt":
		if o.shape == completionsShape {
			return o.messages()
		}
	case "input":
		if o.shape == responsesShape || o.shape == embeddingsShape {
			return o.messages()
		}
	case "system":
		if o.shape == messagesShape {
			return o.instructions()
		}
	case "instructions":
		if o.shape == responsesShape {
			return o.instructions()
		}
	case "tools":
		if o.shape == chatShape || o.shape == messagesShape || o.shape == responsesShape {
			return o.tools()
		}
	case "functions":
		if o.shape == chatShape {
			return o.tools()
		}
	default:
		if err := otherwise(name, outlined); err != nil {
			return err
		}
	}
	return o.param(name)
}

// text reads a string that is a fact. What it returns is valid until the next string is read.
func (o *outliner) text(what Known) ([]byte, error) {
	if o.dec.PeekKind() != '"' {
		return nil, o.lose(what)
	}
	raw, err := o.value()
	if err != nil {
		return nil, err
	}
	text, _ := o.unquote(raw)
	return text, nil
}

// maxTokens reads a limit of tokens. Of two that a body sets, the larger counts.
func (o *outliner) maxTokens() error {
	o.said |= KnownMaxTokens
	if o.dec.PeekKind() == 'n' {
		return o.skip()
	}
	v, err := o.value()
	if err != nil {
		return err
	}
	n, whole := number(v).(int64)
	if !whole {
		o.lost |= KnownMaxTokens
		return nil
	}
	if !o.facts.HasMaxTokens || n > o.facts.MaxTokens {
		o.facts.MaxTokens, o.facts.HasMaxTokens = n, true
	}
	return nil
}

// number is a JSON number as an int64 if it is whole, a float64, or nil where v is none or is beyond both.
func number(v jsontext.Value) any {
	if v.Kind() != '0' {
		return nil
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n
	}
	n, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return nil
	}
	if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
		return int64(n)
	}
	return n
}

// param reads a member that is no fact of its own.
func (o *outliner) param(name []byte) error {
	f := &o.facts
	if len(f.Params) == maxParams || len(name) > maxParamName {
		return o.lose(KnownParams)
	}
	p := Param{Name: string(name)}
	switch o.dec.PeekKind() {
	case 't', 'f':
		v, err := o.value()
		if err != nil {
			return err
		}
		p.Value = v.Kind() == 't'
	case '0':
		v, err := o.value()
		if err != nil {
			return err
		}
		p.Value = number(v)
	case '"':
		v, err := o.value()
		if err != nil {
			return err
		}
		if len(v) <= 6*maxParamText+2 {
			if text, _ := o.unquote(v); len(text) <= maxParamText {
				p.Value = string(text)
			}
		}
	default:
		if err := o.skip(); err != nil {
			return err
		}
	}
	if f.Params == nil {
		f.Params = make([]Param, 0, 8)
	}
	f.Params = append(f.Params, p)
	return nil
}

// messages reads a conversation: a list of messages, of items or of texts, or one text alone.
func (o *outliner) messages() error {
	o.said |= KnownMessages
	switch o.dec.PeekKind() {
	case 'n':
		return o.skip()
	case '"':
		return o.turn()
	case '[':
		if o.shape == completionsShape || o.shape == embeddingsShape {
			return o.prompts()
		}
		return o.list(o.turn)
	}
	return o.lose(KnownMessages)
}

// turn reads one element of a conversation.
func (o *outliner) turn() error {
	if len(o.facts.Messages) >= maxMessages {
		return o.lose(KnownMessages)
	}
	m := Message{}
	switch o.dec.PeekKind() {
	case '"':
		m.Role = "user"
		raw, err := o.value()
		if err != nil {
			return err
		}
		m.Size = textSize(raw)
	case '{':
		if err := o.message(&m); err != nil {
			return err
		}
	default:
		return o.lose(KnownMessages)
	}
	o.add(m)
	return nil
}

func (o *outliner) add(m Message) {
	if o.facts.Messages == nil {
		o.facts.Messages = make([]Message, 0, 8)
	}
	o.facts.Messages = append(o.facts.Messages, m)
}

// prompts reads a list of what is to be completed or embedded: texts, or tokens, or lists of tokens. Tokens are no text.
func (o *outliner) prompts() error {
	tokens := false
	err := o.list(func() error {
		switch o.dec.PeekKind() {
		case '"':
			return o.turn()
		case '[':
			if len(o.facts.Messages) >= maxMessages {
				return o.lose(KnownMessages)
			}
			o.add(Message{Role: "user", Parts: 1})
			return o.skip()
		case '0':
			tokens = true
			return o.skip()
		}
		return o.lose(KnownMessages)
	})
	if tokens {
		o.add(Message{Role: "user", Parts: 1})
	}
	return err
}

// instructions reads what the model is told before the conversation.
func (o *outliner) instructions() error {
	if o.dec.PeekKind() == 'n' {
		return o.skip()
	}
	o.said |= KnownMessages
	m := Message{Role: "system"}
	if err := o.content(&m, 0); err != nil {
		return err
	}
	o.facts.Messages = slices.Insert(o.facts.Messages, 0, m)
	return nil
}

// message reads a message of a conversation, or another item of it.
func (o *outliner) message(m *Message) error {
	role, typ := "", ""
	err := o.object(func(name []byte) error {
		switch string(name) {
		case "role":
			b, err := o.text(KnownMessages)
			role = o.word(b)
			return err
		case "type":
			b, err := o.text(KnownMessages)
			typ = o.word(b)
			return err
		case "content", "output", "summary":
			return o.content(m, 1)
		case "tool_calls", "function_call", "arguments":
			return o.json(m)
		case "id", "name", "call_id", "tool_call_id", "status":
			return o.skip()
		}
		if err := otherwise(name, inner); err != nil {
			return err
		}
		switch o.dec.PeekKind() {
		case '"':
			return o.json(m) // some models have text under other names
		case '{':
			m.Parts++
		}
		return o.skip()
	})
	switch typ {
	case "", "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning":
	default:
		m.Parts++
	}
	if m.Role = role; role == "" {
		m.Role = typ
	}
	return err
}

// json counts what a message says in JSON: a string's text, and of anything else the bytes.
func (o *outliner) json(m *Message) error {
	v, err := o.value()
	switch {
	case err != nil || v.Kind() == 'n':
	case v.Kind() == '"':
		m.Size += textSize(v)
	default:
		m.Size += len(v)
	}
	return err
}

// content reads what a message says: a text, or parts.
func (o *outliner) content(m *Message, depth int) error {
	if depth > maxNested {
		return o.lose(KnownMessages)
	}
	switch o.dec.PeekKind() {
	case '"':
		return o.json(m)
	case '{':
		return o.part(m, depth)
	case 'n':
		return o.skip()
	case '[':
		return o.list(func() error {
			switch o.dec.PeekKind() {
			case '"':
				return o.json(m)
			case '{':
				return o.part(m, depth)
			}
			return o.lose(KnownMessages)
		})
	}
	return o.lose(KnownMessages)
}

// part reads one part of what a message says.
func (o *outliner) part(m *Message, depth int) error {
	other := false // neither text nor talk with a tool
	typed, text := false, false
	err := o.object(func(name []byte) error {
		switch string(name) {
		case "type":
			b, err := o.text(KnownMessages)
			typed = true
			switch string(b) {
			case "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "thinking",
				"tool_use", "tool_result", "server_tool_use", "mcp_tool_use", "mcp_tool_result":
			default:
				other = true
			}
			return err
		case "text", "refusal", "thinking":
			text = true
			return o.json(m)
		case "input":
			return o.json(m)
		case "content":
			return o.content(m, depth+1)
		}
		if err := otherwise(name, inner); err != nil {
			return err
		}
		return o.skip()
	})
	if other || !typed && !text {
		m.Parts++
	}
	return err
}

// word is a role or a type. The usual ones are not made anew.
func (o *outliner) word(b []byte) string {
	switch string(b) {
	case "user":
		return "user"
	case "assistant":
		return "assistant"
	case "system":
		return "system"
	case "developer":
		return "developer"
	case "tool":
		return "tool"
	case "message":
		return "message"
	case "function_call":
		return "function_call"
	case "function_call_output":
		return "function_call_output"
	}
	if len(b) > maxParamName {
		o.lost |= KnownMessages
		return ""
	}
	return string(b)
}

// tools reads the tools that the model may use.
func (o *outliner) tools() error {
	o.said |= KnownTools
	switch o.dec.PeekKind() {
	case 'n':
		return o.skip()
	case '[':
		return o.list(o.tool)
	}
	return o.lose(KnownTools)
}

func (o *outliner) tool() error {
	if o.dec.PeekKind() != '{' || len(o.facts.Tools) == maxTools {
		return o.lose(KnownTools)
	}
	named, typ := "", ""
	err := o.object(func(name []byte) error {
		switch string(name) {
		case "name":
			b, err := o.text(KnownTools)
			named = string(b)
			return err
		case "type":
			b, err := o.text(KnownTools)
			typ = string(b)
			return err
		case "function", "custom":
			if o.dec.PeekKind() != '{' {
				return o.lose(KnownTools)
			}
			return o.object(func(name []byte) error {
				if string(name) == "name" {
					b, err := o.text(KnownTools)
					named = string(b)
					return err
				}
				if err := otherwise(name, inner); err != nil {
					return err
				}
				return o.skip()
			})
		}
		if err := otherwise(name, inner); err != nil {
			return err
		}
		return o.skip()
	})
	if named == "" {
		named = typ
	}
	if named == "" || len(named) > maxParamName {
		o.lost |= KnownTools
		return err
	}
	o.facts.Tools = append(o.facts.Tools, named)
	return err
}

// textSize is how many bytes a JSON string's text has.
func textSize(raw jsontext.Value) int {
	text := raw[1 : len(raw)-1]
	n := len(text)
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return n
		}
		if text[i+1] != 'u' {
			n, text = n-1, text[i+2:]
			continue
		}
		r, _ := strconv.ParseUint(string(text[i+2:i+6]), 16, 32)
		if 0xd800 <= r && r < 0xe000 { // the first half of a pair
			n, text = n-12+4, text[i+12:]
			continue
		}
		n, text = n-6+utf8.RuneLen(rune(r)), text[i+6:]
	}
}

func onlyOne(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the value")
	}
	return nil
}

// plainJSON says where a body stops being JSON, without quoting it.
func plainJSON(err error) error {
	if err == nil {
		return nil
	}
	var s *jsontext.SyntacticError
	if errors.As(err, &s) {
		what := "it is malformed"
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			what = "it says a name twice"
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
			what = "it ends too early"
		}
		return fmt.Errorf("%s at byte %d", what, s.ByteOffset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("it ends too early")
	}
	return errors.New("it is malformed")
}
