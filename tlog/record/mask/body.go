package mask

import (
	"bytes"
	"mime"
	"strings"
)

// Text appends text with masks in it to dst.
func (m *Masker) Text(dst, text []byte) ([]byte, Findings) {
	return m.run(dst, text, func(s *scratch) { s.text(text, 0, len(text), 0, true) })
}

// JSON appends a body of JSON with masks in it to dst: in strings, in JSON that lies in strings, in the place of numbers, and in
// names. The name of a member is context of its value. What is no JSON is masked as text.
func (m *Masker) JSON(dst, body []byte) ([]byte, Findings) {
	return m.run(dst, body, func(s *scratch) { s.json(body, 0, len(body)) })
}

// Headers appends a record's list of headers, a JSON array of [name, value], with masks in the values to dst.
func (m *Masker) Headers(dst, list []byte) ([]byte, Findings) {
	return m.run(dst, list, func(s *scratch) {
		d := &s.doc
		if d.parse(list, 0, len(list)) != nil {
			s.text(list, 0, len(list), 0, false)
			return
		}
		name := []byte(nil)
		for i := range d.nodes {
			if n := &d.nodes[i]; n.kind == aString {
				if n.pos%2 == 0 {
					name = list[n.from:n.to]
					continue
				}
				s.value(n, int32(i), name)
			}
		}
	})
}

// Target appends a request's target, or any URL, with masks in it to dst.
func (m *Masker) Target(dst, target []byte) ([]byte, Findings) {
	return m.run(dst, target, func(s *scratch) { s.urlForm(target, 0, len(target)) })
}

// Body appends a body of a media type, as Content-Type says it, with masks in it to dst: JSON, lists of JSON, events, forms, multipart,
// and anything else as text. A body that is compressed must be unpacked before.
func (m *Masker) Body(dst []byte, contentType string, body []byte) ([]byte, Findings) {
	if t, _, err := mime.ParseMediaType(contentType); err == nil && t == "text/event-stream" {
		dst, _, f := m.stream(dst, body, nil)
		return dst, f
	}
	return m.run(dst, body, func(s *scratch) { s.body(contentType, body, 0, len(body), 0) })
}

// run lends a search what it needs, and appends the body with the edits that it noted.
func (m *Masker) run(dst, body []byte, search func(*scratch)) ([]byte, Findings) {
	s := m.scratch()
	defer m.release(s)
	s.most = len(body)
	search(s)
	return s.finish(dst, body, nil), s.findings
}

// text masks body[from:to]; from context on it is its context.
func (s *scratch) text(body []byte, from, to, context int, free bool) {
	base := len(s.spans)
	text := body[context:to]
	s.search(text, from-context, len(text), free, 0)
	s.wrote(text, context, base)
}

// wrote writes back what was found since base in a text that stands in the body as it is, at raw.
func (s *scratch) wrote(text []byte, raw, base int) {
	if len(s.spans) > base {
		c := channel{text: text, pieces: []piece{{n: len(text), raw: raw, end: raw + len(text)}}}
		s.write(&c, s.spans[base:])
	}
	s.spans, s.canon = s.spans[:base], s.canon[:0]
}

// urlForm masks a form or a target: as it stands, and with its pluses as the spaces that they are.
func (s *scratch) urlForm(body []byte, from, to int) {
	base := len(s.spans)
	text := body[from:to]
	s.search(text, 0, len(text), false, 0)
	if bytes.IndexByte(text, '+') >= 0 {
		s.search(bytes.ReplaceAll(text, []byte{'+'}, []byte{' '}), 0, len(text), false, 0)
		s.spans = merge(s.spans, base)
	}
	s.wrote(text, from, base)
}

// json masks body[from:to] as JSON, or as text if it is none.
func (s *scratch) json(body []byte, from, to int) {
	d := &s.doc
	if d.parse(body, from, to) != nil {
		s.text(body, from, to, from, true)
		return
	}
	s.document(body)
}

// document masks the JSON that was parsed last.
func (s *scratch) document(body []byte) {
	d := &s.doc
	var tokens []*channel
	for i := range d.nodes {
		n := &d.nodes[i]
		if n.kind == aString && n.nameTo > 0 && string(body[n.nameFrom:n.nameTo]) == "token" || n.kind == aString && string(d.name(n)) == "tokens" {
			if key, probabilities := s.placeOf(int32(i), nil, nil); probabilities && !bytes.Contains(key, []byte(".top_logprobs")) {
				tokens = s.token(tokens, key, n, int32(i))
				continue
			}
		}
		s.member(n, int32(i))
	}
	for _, c := range tokens {
		c.to = len(c.text)
		s.apply(c)
	}
}

// token adds a token of a list with probabilities to its channel, and returns the channels there are then.
func (s *scratch) token(all []*channel, key []byte, n *node, i int32) []*channel {
	if s.channels == nil {
		s.channels = make(map[string]*channel)
	}
	c := s.channels[string(key)]
	if c == nil {
		c = &channel{free: true, json: true}
		s.channels[string(key)] = c
		all = append(all, c)
	}
	s.add(c, n, i, true)
	return all
}

// member masks one value of the doc and its name.
func (s *scratch) member(n *node, i int32) {
	d := &s.doc
	if n.nameTo > n.nameFrom {
		s.named(d.b, n.nameFrom, n.nameTo)
	}
	if n.kind == aString || n.kind == aNumber {
		s.value(n, i, d.name(n))
	} else if n.kind == aWord && s.m.paths {
		if r := s.ruleAt(i); r != nil && r.expr == nil {
			s.value(n, i, nil)
		}
	}
}

// named masks a member's name, if there may be anything in it.
func (s *scratch) named(b []byte, from, to int) {
	if name := b[from:to]; len(name) > 4 && (len(name) >= minDense || next(name, 0) < len(name) || escaped(name) || plain(name) < len(name)) {
		c := &s.one
		c.reset()
		c.addString(b, from, to)
		c.to = len(c.text)
		s.apply(c)
	}
}

// bland are names that say nothing of what their values are.
var bland = map[string]bool{
	"": true, "content": true, "text": true, "value": true, "input": true, "output": true, "message": true, "messages": true, "prompt": true,
	"arguments": true, "partial_json": true, "delta": true, "data": true, "result": true, "query": true, "q": true, "body": true, "response": true,
	"answer": true, "completion": true, "instructions": true, "system": true, "parts": true, "thinking": true, "reasoning": true, "reasoning_content": true,
	"transcript": true, "refusal": true, "args": true, "params": true, "parameters": true, "description": true, "note": true, "notes": true,
}

// value masks a string or a number of the doc, of which name is what the value is called, as it is written.
func (s *scratch) value(n *node, i int32, name []byte) {
	d := &s.doc
	raw := d.b[n.from:n.to]
	if len(raw) < 3 && !s.m.paths && s.m.lists == nil && len(s.m.rules) == 0 {
		return
	}
	if n.kind == aNumber && !allDigits(raw) && !s.m.paths {
		return
	}
	c := &s.one
	c.reset()
	c.json = n.kind == aString
	name = name[max(0, len(name)-64):]
	if len(name) > 0 {
		c.text = unjson(c.text, name, &c.us)
		c.us = c.us[:0]
		c.text = append(c.text, `": `...)
		if n.kind == aString {
			c.text = append(c.text, '"')
		}
		c.from = len(c.text)
	}
	if n.kind == aString {
		c.addString(d.b, n.from, n.to)
	} else {
		c.addRaw(d.b, n.from, n.to)
		c.pieces[0].number = true
	}
	c.to = len(c.text)
	c.text = append(c.text, '"')
	c.free = len(name) <= 20 && bland[string(name)]
	if s.m.paths {
		c.ruled = s.ruleAt(i)
	}
	s.apply(c)
}

// ruleAt returns the rule whose path leads to a node of the doc, or nil.
func (s *scratch) ruleAt(i int32) *rule {
	for k := range s.m.rules {
		if r := &s.m.rules[k]; r.path != nil && s.doc.at(r.path, i) {
			return r
		}
	}
	return nil
}

// body masks body[from:to] by its media type.
func (s *scratch) body(contentType string, body []byte, from, to, context int) {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t = ""
	}
	switch {
	case t == "application/x-www-form-urlencoded":
		s.urlForm(body, from, to)
	case strings.HasPrefix(t, "multipart/") && params["boundary"] != "" && context == 0:
		s.multipart(body, from, to, params["boundary"])
	case t == "application/x-ndjson" || t == "application/jsonl" || t == "application/json-lines":
		s.jsonLines(body, from, to)
	default:
		head := bytes.TrimLeft(body[from:to], " \t\r\n\xef\xbb\xbf")
		if len(head) > 0 && (head[0] == '{' || head[0] == '[' || head[0] == '"') || strings.HasSuffix(t, "json") {
			if d := &s.doc; d.parse(body, to-len(head), to) == nil {
				s.json(body, to-len(head), to)
			} else if len(head) > 0 && head[0] == '{' && bytes.IndexByte(head, '\n') > 0 {
				s.jsonLines(body, from, to)
			} else {
				s.text(body, from, to, from, true)
			}
			return
		}
		if context > 0 {
			s.text(body, from, to, context, false)
		} else {
			s.text(body, from, to, from, true)
		}
	}
}

// jsonLines masks body[from:to] as lines of JSON. Lines that are none are text, as many as stand together: a value may be torn by
// the end of a line.
func (s *scratch) jsonLines(body []byte, from, to int) {
	text := from // up to at
	for at := from; at < to; {
		end := to
		if n := bytes.IndexByte(body[at:to], '\n'); n >= 0 {
			end = at + n
		}
		if s.doc.parse(body, at, end) == nil {
			if text < at {
				s.text(body, text, at, text, true)
			}
			s.document(body)
			text = end
		}
		at = end + 1
	}
	if text < to {
		s.text(body, text, to, text, true)
	}
}

// multipart masks the parts of a body. A part's own header is its context, and is masked too.
func (s *scratch) multipart(body []byte, from, to int, boundary string) {
	mark := []byte("--" + boundary)
	at := from
	for at < to {
		n := bytes.Index(body[at:to], mark)
		if n < 0 {
			n = to - at
		}
		if part := at; n > 0 {
			s.part(body, part, at+n)
		}
		at += n + len(mark)
	}
}

func (s *scratch) part(body []byte, from, to int) {
	end := from
	for _, gap := range [...]string{"\r\n\r\n", "\n\n"} {
		if n := bytes.Index(body[from:to], []byte(gap)); n >= 0 {
			end = from + n + len(gap)
			break
		}
	}
	if end == from {
		s.text(body, from, to, from, false)
		return
	}
	s.text(body, from, end, from, false)
	contentType := ""
	for line := range bytes.Lines(body[from:end]) {
		if name, v, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(bytes.TrimSpace(name), []byte("content-type")) {
			contentType = string(bytes.TrimSpace(v))
		}
	}
	s.body(contentType, body, end, to, max(from, 1))
}

// Found is where in a text, in bytes, something was found.
type Found struct {
	From, To int
	Kind     Kind
	Rule     string
}

// Find returns what Text would mask, in order. Nothing overlaps.
func (m *Masker) Find(text []byte) []Found {
	s := m.scratch()
	defer m.release(s)
	s.most = len(text)
	s.search(text, 0, len(text), true, 0)
	var all []Found
	for _, sp := range s.spans {
		all = append(all, Found{sp.from, sp.to, sp.kind, sp.rule})
	}
	return all
}
