package transcript

import (
	"mime"
	"strings"
)

// Reply returns the words of the first choice: what the model said, without what it thought. A refusal is words, too.
func (t *Transcript) Reply() string {
	if len(t.Replies) == 0 {
		return ""
	}
	return WordsOf(t.Replies[0].Parts)
}

// WordsOf returns the words of parts, their texts and refusals, one after the other with a line break between two.
func WordsOf(parts []Part) string {
	var all []string
	for _, p := range parts {
		if (p.Kind == Text || p.Kind == Refusal) && p.Text != "" {
			all = append(all, p.Text)
		}
	}
	return strings.Join(all, "\n")
}

// Calls returns the tools that the model wanted to call, of all choices, in their order.
func (t *Transcript) Calls() []Call {
	var all []Call
	for _, r := range t.Replies {
		for _, p := range r.Parts {
			if p.Kind == ToolCall {
				all = append(all, *p.Call)
			}
		}
	}
	return all
}

// Text returns all words of the session, for an index of words: prompts, replies, names of tools, their arguments and results, and
// what the caller was told went wrong. What is not text, such as an image, is not in it.
func (t *Transcript) Text() string {
	var w words
	for _, m := range t.Messages {
		w.parts(m.Parts)
	}
	for _, tool := range t.Request.Tools {
		w.add(tool.Name)
		w.add(tool.Description)
	}
	for _, p := range t.Request.Params {
		w.json([]byte(p.Value))
	}
	if len(t.Messages) == 0 {
		w.body(t.Request.Body, t.Request.Headers)
	}
	for _, r := range t.Replies {
		w.parts(r.Parts)
	}
	if len(t.Replies) == 0 && t.Answer.Problem == "" {
		w.body(t.Answer.Body, t.Answer.Headers)
	}
	w.add(t.Answer.Problem)
	if !strings.Contains(t.Answer.Problem, t.Answer.Error) {
		w.add(t.Answer.Error)
	}
	return w.String()
}

// words are put together, each piece on a line of its own.
type words struct{ strings.Builder }

func (w *words) add(s string) {
	if s == "" || isBlob(s) {
		return
	}
	if w.Len() > 0 {
		w.WriteByte('\n')
	}
	w.WriteString(s)
}

func (w *words) parts(parts []Part) {
	for _, p := range parts {
		if p.Call != nil {
			w.add(p.Call.Name)
			w.text(p.Call.Arguments)
		}
		if p.File != nil {
			w.add(p.File.Name)
			w.add(p.File.URL)
		}
		if p.Kind == Other || p.Kind == Result {
			w.text(p.Text)
		} else {
			w.add(p.Text)
		}
	}
}

// text adds what may be JSON: of that the strings, of other text all of it.
func (w *words) text(s string) {
	if v := valueOf([]byte(s)); v.kind() != '{' && v.kind() != '[' {
		w.add(s)
		return
	}
	w.json([]byte(s))
}

// json adds the strings of one JSON value after the other, names of members left out.
func (w *words) json(b []byte) {
	for i := 0; i < len(b); {
		switch b[i] {
		case '"':
			end, _ := stringEnd(b, i)
			if next := skipSpace(b, end); next == len(b) || b[next] != ':' {
				w.add(value(b[i:end]).text())
			}
			i = end
		default:
			i++
		}
	}
}

// body adds the words of a body of no known shape.
func (w *words) body(b Bytes, headers []Header) {
	if HeaderOf(headers, "Content-Encoding") != "" {
		return
	}
	b = b[:min(len(b), mostBody)]
	kind, _, _ := mime.ParseMediaType(HeaderOf(headers, "Content-Type"))
	switch k := valueOf(b).kind(); {
	case k == '{' || k == '[':
		w.json(b)
	case kind == "text/event-stream":
		blocks(b, func(e block) bool {
			w.text(string(e.data))
			return true
		})
	case strings.HasPrefix(kind, "text/"), strings.HasSuffix(kind, "json"), strings.HasSuffix(kind, "xml"), kind == "application/x-www-form-urlencoded":
		w.add(strings.ToValidUTF8(string(b), "\uFFFD"))
	}
}

// leastBlob is how long what looks like base 64 must be to be none of anybody's words.
const leastBlob = 512

// isBlob says whether a string is something packed into text, and no words.
func isBlob(s string) bool {
	if strings.HasPrefix(s, "data:") {
		if head, _, ok := strings.Cut(s, ","); ok && strings.HasSuffix(head, ";base64") {
			return true
		}
	}
	if len(s) < leastBlob {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '/', c == '-', c == '_', c == '=', c == '\n', c == '\r':
		default:
			return false
		}
	}
	return true
}
