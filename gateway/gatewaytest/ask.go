package gatewaytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// ask is what a request wants, whatever its API.
type ask struct {
	model        string
	stream       bool
	includeUsage bool
	n            int    // choices
	limit        int    // of the answer, in tokens; 0: none
	prompt       string // the last text of the user's, directives included
	result       string // what a tool returned, when that is what the request ends with
	returned     bool   // it does
	tools        []tool
	forced       string // the tool that must be called
	noTools      bool   // none may be
	input        int    // tokens
}

// A tool is a function the model may call.
type tool struct {
	name   string
	schema json.RawMessage // of its arguments
}

// toolCall is a call of one.
type toolCall struct{ id, name, args string }

// stopReason is why a model stopped.
type stopReason uint8

const (
	stopped stopReason = iota
	atLimit
	calling
)

// answer is what the model says, before it has a shape.
type answer struct {
	deltas        []string // the text, as it streams
	endless       bool     // the deltas come again and again
	call          *toolCall
	stop          stopReason
	input, output int // tokens
}

func (a *answer) text() string { return strings.Join(a.deltas, "") }

// tokens is about what a tokenizer would count.
func tokens(s string) int { return (len(s) + 3) / 4 }

// answer decides what the model says to the request. It depends on the request alone, but for the id of a tool call.
func (c *call) answer(h http.Header) *answer {
	o, k := &c.orders, &c.ask
	a := &answer{input: k.input}
	if name, schema, ok := k.calls(o); ok {
		a.stop = calling
		a.call = &toolCall{name: name, args: arguments(schema, o.prompt)}
		a.output = tokens(a.call.args) + 4
		return a
	}
	var text string
	switch {
	case o.say:
		text = strings.TrimSpace(o.prompt)
	case o.size > 0:
		text = filler(o.size)
	case o.count > 0:
		text = filler(5 * o.count)
	case o.echoAuth:
		text = "The credential I was called with is " + credential(h) + " and I am not supposed to know it."
	case k.returned:
		text = "The tool returned: " + k.result
	default:
		text = compose(o.prompt)
	}
	if o.size == 0 && o.count == 0 && k.limit > 0 && tokens(text) > k.limit {
		text, a.stop = text[:runeStart(text, 4*k.limit)], atLimit
	}
	if o.incomplete {
		a.stop = atLimit
	}
	a.deltas = split(text, o.count)
	a.endless = o.endless && len(a.deltas) > 0
	a.output = tokens(text)
	return a
}

// calls tells which tool the model calls: the one a directive or the request forces, or the first one the prompt
// mentions. After a tool has returned it calls none.
func (k *ask) calls(o *orders) (name string, schema json.RawMessage, ok bool) {
	name = cmp.Or(o.tool, k.forced)
	if k.returned && o.tool == "" || k.noTools {
		return "", nil, false
	}
	for _, t := range k.tools {
		if t.name == name || name == "" && t.name != "" && strings.Contains(o.prompt, t.name) {
			return t.name, t.schema, true
		}
	}
	return name, nil, name != ""
}

// choose reads a tool_choice: "none", "auto", "required", or an object that names a kind, and maybe a tool.
func (k *ask) choose(raw json.RawMessage) {
	var kind string
	if json.Unmarshal(raw, &kind) != nil {
		var choice struct {
			Type, Name string
			Function   struct{ Name string }
		}
		if json.Unmarshal(raw, &choice) != nil {
			return
		}
		kind, k.forced = choice.Type, cmp.Or(choice.Name, choice.Function.Name)
	}
	switch kind {
	case "none":
		k.noTools = true
	case "required", "any":
		if len(k.tools) > 0 {
			k.forced = k.tools[0].name
		}
	}
}

// arguments makes up arguments that fit a JSON schema's properties.
func arguments(schema json.RawMessage, prompt string) string {
	var s struct {
		Properties map[string]struct {
			Type json.RawMessage
			Enum []json.RawMessage
		}
	}
	_ = json.Unmarshal(schema, &s) // no schema: no arguments
	word := "something"
	if words := strings.Fields(prompt); len(words) > 0 {
		word = cmp.Or(strings.Trim(words[len(words)-1], ".,;:!?\"'"), word)
	}
	args := make(map[string]any, len(s.Properties))
	for name, p := range s.Properties {
		var kind string
		_ = json.Unmarshal(p.Type, &kind) // a list of types counts as a string
		switch {
		case len(p.Enum) > 0:
			args[name] = p.Enum[0]
		case kind == "integer":
			args[name] = 1
		case kind == "number":
			args[name] = 0.5
		case kind == "boolean":
			args[name] = true
		case kind == "array":
			args[name] = []any{}
		case kind == "object":
			args[name] = struct{}{}
		case kind == "null":
			args[name] = nil
		default:
			args[name] = word
		}
	}
	return string(encode(args))
}

// compose answers a prompt.
func compose(prompt string) string {
	prompt = strings.TrimSpace(prompt)
	if prompt == "" {
		return "Hello! Ask me anything; I am a fake model and answer everything the same way."
	}
	said := prompt[:runeStart(prompt, 2000)]
	remarks := []string{
		"That is a good question, and I have no opinion on it.",
		"I would look at the records first.",
		"On the whole the evidence points one way, and it is not mine to say which.",
		"Let me put it plainly: it depends.",
		"Nothing in my training would contradict you.",
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(prompt))
	return fmt.Sprintf("You wrote: %s\n\n%s", said, remarks[h.Sum32()%uint32(len(remarks))])
}

// filler is n bytes of words.
func filler(n int) string {
	const words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua "
	return strings.Repeat(words, n/len(words)+1)[:n]
}

// maxDeltas is how many deltas a text comes in when the request does not say: one a word, or longer ones.
const maxDeltas = 256

// split cuts text into n deltas, or, when n is 0, before its words. Deltas end at runes, and none is empty, so that
// a short text may give fewer.
func split(text string, n int) (deltas []string) {
	if n == 0 {
		if n = strings.Count(text, " ") + 1; n <= maxDeltas {
			for {
				i := strings.IndexByte(text[min(1, len(text)):], ' ') + 1
				if i == 0 {
					break
				}
				deltas, text = append(deltas, text[:i]), text[i:]
			}
			if text != "" {
				deltas = append(deltas, text)
			}
			return deltas
		}
		n = maxDeltas
	}
	deltas = make([]string, 0, n)
	for i, start := 1, 0; i <= n; i++ {
		if end := runeStart(text, len(text)*i/n); end > start {
			deltas = append(deltas, text[start:end])
			start = end
		}
	}
	return deltas
}

// runeStart is the last place at or before i where a rune of s starts, or the end of s.
func runeStart(s string, i int) int {
	if i >= len(s) {
		return len(s)
	}
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return i
}

// contentText is the text of a message's content: a string, or parts of which some have text.
func contentText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var parts []struct {
		Text    string
		Content json.RawMessage // of a tool's result
	}
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		if p.Text != "" {
			texts = append(texts, p.Text)
		} else if p.Content != nil {
			texts = append(texts, contentText(p.Content))
		}
	}
	return strings.Join(texts, "\n")
}

// decode reads a JSON body, and says of a bad one what the provider would.
func (c *call) decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		message := "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
		if c.vendor == anthropic {
			message = "The request body is not valid JSON: " + err.Error()
		}
		return &failure{status: http.StatusBadRequest, message: message}
	}
	return nil
}

// begin takes in what all APIs have: the model must be there, and the prompt's directives are obeyed.
func (c *call) begin() error {
	switch {
	case c.ask.model == "" && c.vendor == anthropic:
		return missing("model", "model: Field required")
	case c.ask.model == "":
		return missing("model", "you must provide a model parameter")
	case !slices.Contains(c.m.cfg.Models, c.ask.model) && c.vendor == anthropic:
		return &failure{status: http.StatusNotFound, message: "model: " + c.ask.model}
	case !slices.Contains(c.m.cfg.Models, c.ask.model):
		return &failure{
			status: http.StatusNotFound, code: "model_not_found",
			message: fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", c.ask.model),
		}
	}
	return c.orders.parse(c.ask.prompt)
}

// missing is the error for a parameter that is not there.
func missing(param, message string) *failure {
	return &failure{status: http.StatusBadRequest, message: cmp.Or(message, fmt.Sprintf("Missing required parameter: '%s'.", param)), param: param, code: "missing_required_parameter"}
}
