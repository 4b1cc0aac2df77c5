package mask

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tallystick/tallystick/tlog/record"
)

// ErrEvents is a table of events that is not one of the body's: keep the body sealed, or mask it without the table.
var ErrEvents = errors.New("mask: the table of events does not belong to the body")

// Stream appends a recorded stream of events (text/event-stream) with masks in it to dst, and returns its table anew: a JSON array of
// [bytes, microseconds], as records have it. Events keep their number and their times; only their sizes change.
//
// What the events say piece by piece is searched as a whole, each channel by itself: the content, the reasoning, the arguments of each
// tool call, the log-probabilities' tokens and the transcript of each choice or block, of OpenAI's chat and responses, Anthropic's
// messages, and likewise whatever else sends JSON or text. A mask stands in the first event that had a part of the value; from the
// others the rest of it is gone. Where an event says again what others said, as the last ones do, it is masked again.
func (m *Masker) Stream(dst, body, table []byte) (masked, newTable []byte, f Findings, err error) {
	events, err := record.ParseEvents(bytes.TrimSpace(table), len(body))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrEvents, err)
	}
	sizes := make([]int, len(events))
	for i, e := range events {
		sizes[i] = e.Bytes
	}
	masked, sizes, f = m.stream(dst, body, sizes)
	newTable = append(newTable, '[')
	for i, e := range events {
		newTable = record.AppendEvent(newTable, record.Event{Bytes: sizes[i], After: e.After})
	}
	return masked, append(newTable, ']'), f, nil
}

// stream masks a stream, and changes sizes to what they are then.
func (m *Masker) stream(dst, body []byte, sizes []int) ([]byte, []int, Findings) {
	s := m.scratch()
	defer m.release(s)
	s.most = len(body)
	s.events(body)
	return s.finish(dst, body, sizes), sizes, s.findings
}

// A reading is a stream while it is read.
type reading struct {
	*scratch
	order []*channel
	known bool              // it speaks a protocol whose pieces go on where the last ended
	clean map[string]string // by place: what was there last and had nothing in it
	marks []mark            // of the event at hand
	kind  []byte            // of the event at hand
}

// A mark is a member that tells one channel from another: the object it is in, and its value.
type mark struct {
	parent int32
	value  []byte
}

// events masks a text/event-stream (WHATWG HTML, 9.2.6).
func (s *scratch) events(body []byte) {
	t := reading{scratch: s, clean: make(map[string]string)}
	if s.channels == nil {
		s.channels = make(map[string]*channel)
	}
	var lines [][2]int // of data, of the event at hand
	at, feed := 0, -1
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		at = 3
	}
	for at < len(body) {
		if feed < at { // a line ends with LF, CR, or both
			if feed = len(body); bytes.IndexByte(body[at:], '\n') >= 0 {
				feed = at + bytes.IndexByte(body[at:], '\n')
			}
		}
		end, next := feed, feed+1
		if n := bytes.IndexByte(body[at:feed], '\r'); n >= 0 {
			if end = at + n; end+1 < feed || feed == len(body) {
				next = end + 1
			}
		}
		switch line := body[at:end]; {
		case len(line) == 0:
			t.event(body, lines)
			lines = lines[:0]
		case bytes.HasPrefix(line, []byte("data:")):
			from := at + 5
			if from < end && body[from] == ' ' {
				from++
			}
			lines = append(lines, [2]int{from, end})
		default:
			s.text(body, at, end, at, false)
		}
		at = next
	}
	t.event(body, lines)
	for _, c := range t.order {
		t.whole(body, c)
	}
}

// event takes an event whose data are the lines.
func (t *reading) event(body []byte, lines [][2]int) {
	if len(lines) == 1 {
		from, to := lines[0][0], lines[0][1]
		for from < to && (body[from] == ' ' || body[from] == '\t') {
			from++
		}
		if from < to && (body[from] == '{' || body[from] == '[') {
			err := t.doc.parse(body, from, to)
			t.document(body)
			if err != nil { // cut, or none: what is between its strings counts too
				t.text(body, from, to, from, false)
			}
			return
		}
	}
	for i, l := range lines {
		c := t.channel([]byte("data"), "data")
		if i > 0 {
			c.text = append(c.text, '\n')
		}
		c.addRaw(body, l[0], l[1])
	}
}

// channel returns the channel of a place, which it makes if there is none. Its name is its context unless it is bland.
func (t *reading) channel(key []byte, name string) *channel {
	c := t.channels[string(key)]
	if c == nil {
		c = &channel{}
		t.channels[string(key)] = c
		t.order = append(t.order, c)
		if c.free = bland[name] || name == "token" || name == "tokens"; !c.free {
			c.text = append(append(c.text, name[max(0, len(name)-64):]...), `": "`...)
		}
		c.from = len(c.text)
		c.json = string(key) != "data"
		c.lines = !deltas[name]
	}
	return c
}

// deltas are the names of members that hold pieces of text; of others it is not known whether they do.
var deltas = map[string]bool{
	"content": true, "text": true, "delta": true, "arguments": true, "partial_json": true, "thinking": true, "reasoning": true,
	"reasoning_content": true, "reasoning_text": true, "refusal": true, "transcript": true, "token": true, "tokens": true, "response": true,
	"completion": true, "input": true,
}

// apart are the names of members that say something by themselves in every event.
var apart = map[string]bool{
	"id": true, "object": true, "model": true, "type": true, "role": true, "name": true, "finish_reason": true, "stop_reason": true,
	"status": true, "item_id": true, "event_id": true, "call_id": true, "response_id": true, "system_fingerprint": true, "service_tier": true,
	"obfuscation": true, "signature": true, "encrypted_content": true, "format": true, "created_at": true, "url": true, "stop_sequence": true,
}

// document takes the values of an event of JSON: each to its channel, or by itself.
func (t *reading) document(body []byte) {
	d := &t.doc
	t.marks, t.kind = t.marks[:0], nil
	for i := range d.nodes {
		n := &d.nodes[i]
		if n.nameTo == 0 || n.kind != aString && n.kind != aNumber {
			if n.nameTo > 0 && n.parent == 0 && string(body[n.nameFrom:n.nameTo]) == "choices" {
				t.known = true
			}
			continue
		}
		switch string(body[n.nameFrom:n.nameTo]) {
		case "index", "output_index", "content_index", "summary_index", "item_id":
			t.marks = append(t.marks, mark{n.parent, body[n.from:n.to]})
		case "type":
			if n.parent == 0 {
				t.kind = body[n.from:n.to]
				t.known = t.known || bytes.HasPrefix(t.kind, []byte("response.")) || bytes.HasPrefix(t.kind, []byte("content_block_")) ||
					bytes.HasPrefix(t.kind, []byte("message_"))
			}
		}
	}
	for i := range d.nodes {
		n := &d.nodes[i]
		if n.kind != aString && (n.kind != aNumber || n.to-n.from < 5) {
			t.member(n, int32(i))
			continue
		}
		if n.nameTo > n.nameFrom {
			t.named(body, n.nameFrom, n.nameTo)
		}
		if n.from == n.to {
			continue
		}
		name := d.name(n)
		key, probabilities := t.placeOf(int32(i), t.marks, t.kind)
		if n.kind == aNumber || apart[string(name)] && !probabilities || probabilities && bytes.Contains(key, []byte(".top_logprobs")) {
			raw := body[n.from:n.to]
			if string(raw) == t.clean[string(key)] {
				continue
			}
			before := len(t.edits)
			t.value(n, int32(i), name)
			if len(t.edits) == before && len(raw) <= 64 {
				t.clean[string(key)] = string(raw)
			}
			continue
		}
		t.add(t.channel(key, string(name)), n, int32(i), probabilities)
	}
}

// add adds a string of the doc to a channel.
func (s *scratch) add(c *channel, n *node, i int32, probabilities bool) {
	c.addString(s.doc.b, n.from, n.to)
	if probabilities {
		p := &c.pieces[len(c.pieces)-1]
		p.s0 = len(s.shadows)
		for j := n.parent + 1; j > 0 && int(j) < len(s.doc.nodes) && s.doc.nodes[j].from < s.doc.nodes[n.parent].to; j++ {
			o := &s.doc.nodes[j]
			if o.parent != n.parent || o.nameTo == 0 || o.kind != inArray {
				continue
			}
			switch string(s.doc.b[o.nameFrom:o.nameTo]) {
			case "bytes", "top_logprobs":
				s.shadows = append(s.shadows, [2]int{o.from, o.to})
			}
		}
		p.s1 = len(s.shadows)
	}
	if s.m.paths && c.ruled == nil {
		c.ruled = s.ruleAt(i)
	}
}

// placeOf writes where in events a value is: the kind of event, the names that lead to it, and the marks of what it is in. Of tokens with
// their probabilities those of one list go on where the last ended.
func (s *scratch) placeOf(i int32, marks []mark, kind []byte) (key []byte, probabilities bool) {
	d := &s.doc
	key = append(s.key[:0], kind...)
	for j := i; j >= 0; j = d.nodes[j].parent {
		n := &d.nodes[j]
		for _, m := range marks {
			if m.parent == j {
				key = append(append(key, '='), m.value...)
			}
		}
		if n.nameTo > 0 {
			name := d.b[n.nameFrom:n.nameTo]
			key = append(append(key, '.'), name...)
			if string(name) == "logprobs" && !probabilities {
				probabilities = true
				key = unplaced(key)
			}
		} else if n.parent >= 0 && d.nodes[n.parent].kind == inArray {
			marked := false
			for _, m := range marks {
				marked = marked || m.parent == j
			}
			if !marked {
				key = strconv.AppendInt(append(key, '#'), int64(n.pos), 10)
			}
		}
	}
	s.key = key
	return key, probabilities
}

// whole searches a channel when all of it has come.
func (t *reading) whole(body []byte, c *channel) {
	c.to = len(c.text)
	base := len(t.spans)
	t.search(c.text, c.from, c.to, c.free, 0)
	if !t.known && len(c.pieces) > 1 || c.lines && len(c.pieces) > 1 {
		t.byLine(c, base)
	}
	if c.ruled != nil {
		t.rule(c, c.ruled, base)
	}
	if len(t.spans) > base {
		if c.json {
			t.nest(c, base)
		}
		t.write(c, t.spans[base:])
	}
	t.spans, t.canon = t.spans[:base], t.canon[:0]
}

// byLine searches a channel as lines, each piece one: it is not known that they go on where the last ended.
func (t *reading) byLine(c *channel, base int) {
	l := &t.one
	l.reset()
	l.text = append(l.text, c.text[:c.from]...)
	for i, p := range c.pieces {
		if i > 0 {
			l.text = append(l.text, '\n')
		}
		l.pieces = append(l.pieces, piece{at: len(l.text), n: p.n})
		l.text = append(l.text, c.text[p.at:p.at+p.n]...)
	}
	from := len(t.spans)
	t.search(l.text, c.from, len(l.text), false, 0)
	k := 0
	for i := from; i < len(t.spans); i++ {
		sp := &t.spans[i]
		for k < len(l.pieces)-1 && l.pieces[k+1].at <= sp.from {
			k++
		}
		sp.from = c.pieces[k].at + min(sp.from-l.pieces[k].at, c.pieces[k].n)
		e := k
		for e < len(l.pieces)-1 && l.pieces[e+1].at < sp.to {
			e++
		}
		sp.to = c.pieces[e].at + min(sp.to-l.pieces[e].at, c.pieces[e].n)
	}
	// What overlaps with what was found in the whole is a part of it.
	n := from
	for _, sp := range t.spans[from:] {
		if !slices.ContainsFunc(t.spans[base:from], func(w span) bool { return w.from < sp.to && sp.from < w.to }) {
			t.spans[n] = sp
			n++
		}
	}
	t.spans = merge(t.spans[:n], base)
}

// unplaced takes the places in lists out of a key.
func unplaced(key []byte) []byte {
	n := 0
	for i := 0; i < len(key); i++ {
		if key[i] == '#' {
			for i+1 < len(key) && is(key[i+1], isDigit) {
				i++
			}
			continue
		}
		key[n] = key[i]
		n++
	}
	return key[:n]
}
