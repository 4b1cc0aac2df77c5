package mask

import (
	"bytes"
	"regexp"
	"slices"
)

// A piece is a part of a channel's text that lies together in the body: text[at:at+n] is what body[raw:end] says.
type piece struct {
	at, n    int
	raw, end int
	u0, u1   int  // its units in channel.us, by places in the piece and in body[raw:end]
	number   bool // a number of JSON: what takes its place is a string
	s0, s1   int  // in scratch.shadows: arrays that say the same once more
}

// A channel is a text that is searched as one, and its pieces. What is in no piece is context.
type channel struct {
	text   []byte
	from   int // where the value begins; it ends with the text, less the closing quote
	to     int
	free   bool
	json   bool // the pieces are strings of JSON
	pieces []piece
	us     []unit
	seen   int // of a stream: pieces
	lines  bool
	ruled  *rule // by path
}

func (c *channel) reset() {
	c.text, c.pieces, c.us = c.text[:0], c.pieces[:0], c.us[:0]
	c.from, c.to, c.free, c.json, c.lines, c.ruled = 0, 0, false, false, false, nil
}

// An edit puts masks[at:to] in the place of body[from:end].
type edit struct{ from, end, at, to int }

// unjson appends what a string of JSON says, and to us where that is not what stands there.
func unjson(dst, raw []byte, us *[]unit) []byte {
	base := len(dst)
	for i := 0; i < len(raw); {
		j := bytes.IndexByte(raw[i:], '\\')
		if j < 0 {
			return append(dst, raw[i:]...)
		}
		dst = append(dst, raw[i:i+j]...)
		i += j
		at, n := len(dst), 2
		c := byte(0)
		if i+1 < len(raw) {
			c = raw[i+1]
		}
		switch c { // the commonest first
		case 'n':
			dst = append(dst, '\n')
			*us = append(*us, unit{at - base, 1, i, i + 2})
			i += 2
			continue
		case '"', '\\':
			dst = append(dst, c)
			*us = append(*us, unit{at - base, 1, i, i + 2})
			i += 2
			continue
		}
		if dst, n = unescape(dst, raw[i:]); n == 0 {
			if n = 1; i+1 < len(raw) && (raw[i+1] == 'b' || raw[i+1] == 'f') {
				n = 2
			}
			dst = append(dst, ' ')
		}
		*us = append(*us, unit{at - base, len(dst) - at, i, i + n})
		i += n
	}
	return dst
}

// addString adds a string of JSON, body[raw:end], to the channel.
func (c *channel) addString(body []byte, raw, end int) {
	at, u0 := len(c.text), len(c.us)
	c.text = unjson(c.text, body[raw:end], &c.us)
	c.pieces = append(c.pieces, piece{at: at, n: len(c.text) - at, raw: raw, end: end, u0: u0, u1: len(c.us)})
}

// addRaw adds bytes that stand for themselves.
func (c *channel) addRaw(body []byte, raw, end int) {
	c.pieces = append(c.pieces, piece{at: len(c.text), n: end - raw, raw: raw, end: end, u0: len(c.us), u1: len(c.us)})
	c.text = append(c.text, body[raw:end]...)
}

// apply searches a channel and notes what is to be done to the body.
func (s *scratch) apply(c *channel) {
	base := len(s.spans)
	s.search(c.text, c.from, c.to, c.free, 0)
	if c.ruled != nil {
		s.rule(c, c.ruled, base)
	}
	if len(s.spans) > base {
		if c.json {
			s.nest(c, base)
		}
		s.write(c, s.spans[base:])
	}
	s.spans, s.canon = s.spans[:base], s.canon[:0]
}

// rule adds to what was found since base what a rule with a path finds in a channel that its path leads to.
func (s *scratch) rule(c *channel, r *rule, base int) {
	add := func(from, to int) {
		at := len(s.canon)
		s.canon = append(s.canon, c.text[from:to]...)
		s.spans = append(s.spans, span{from: from, to: to, kind: r.Kind, rule: r.Name, at: at, end: len(s.canon), act: r.Action})
	}
	if r.expr == nil {
		if c.to > c.from {
			s.spans = s.spans[:base]
			add(c.from, c.to)
		}
		return
	}
	matches(r.expr, c.text, c.from, c.to, add)
	s.spans = merge(s.spans, base)
}

// matches calls f for what an expression, or its first group, matches in b[from:to].
func matches(x *regexp.Regexp, b []byte, from, to int, f func(from, to int)) {
	for at := from; at < to; {
		m := x.FindSubmatchIndex(b[at:to])
		if m == nil {
			return
		}
		i, j := m[0], m[1]
		if len(m) > 2 && m[2] >= 0 {
			i, j = m[2], m[3]
		}
		if j > i {
			f(at+i, at+j)
		}
		at += max(m[1], 1)
	}
}

// nest keeps JSON that lies in a string what it is: there a mask takes the place of a whole number, in quotes, and goes not beyond the
// end of a string.
func (s *scratch) nest(c *channel, base int) {
	i := c.from
	for i < c.to && (c.text[i] == ' ' || c.text[i] == '\n' || c.text[i] == '\r' || c.text[i] == '\t') {
		i++
	}
	if i == c.to || c.text[i] != '{' && c.text[i] != '[' {
		return
	}
	d := &s.inside
	d.every = true
	d.parse(c.text, c.from, c.to)
	if len(d.nodes) < 2 {
		return
	}
	spans := s.spans[base:]
	for k := range spans {
		sp := &spans[k]
		for n := range d.nodes {
			nd := &d.nodes[n]
			if nd.nameTo > 0 && nd.nameFrom <= sp.from && sp.from < nd.nameTo {
				sp.to = min(sp.to, nd.nameTo)
				break
			}
			if nd.kind == inObject || nd.kind == inArray || sp.from >= nd.to && nd.to > nd.from || sp.to <= nd.from {
				continue
			}
			if nd.kind == aString {
				sp.from, sp.to = max(sp.from, nd.from), min(sp.to, nd.to)
			} else {
				sp.from, sp.to, sp.quoted = nd.from, nd.to, true
			}
			break
		}
	}
}

// write notes the edits that put masks where the spans of a channel are: all of a mask into the first piece that a span
// touches, nothing into the others.
func (s *scratch) write(c *channel, spans []span) {
	k := 0
	for _, sp := range spans {
		s.findings.add(sp.kind, sp.rule, 1)
		if sp.act == Keep {
			continue
		}
		at := len(s.masks)
		value := s.canon[sp.at:sp.end]
		if sp.quoted {
			s.masks = append(s.masks, `\"`...)
		}
		switch sp.act {
		case Token:
			s.masks = s.mac.append(s.masks, sp.kind, value)
		case Last4:
			s.masks = appendLast4(s.masks, sp.kind, value)
		default:
			s.masks = appendDropped(s.masks, sp.kind)
		}
		if sp.quoted {
			s.masks = append(s.masks, `\"`...)
		}
		end := len(s.masks)
		first := true
		for k < len(c.pieces) && c.pieces[k].at+c.pieces[k].n <= sp.from {
			k++
		}
		for j := k; j < len(c.pieces) && c.pieces[j].at < sp.to; j++ {
			p := &c.pieces[j]
			from, to := max(sp.from, p.at)-p.at, min(sp.to, p.at+p.n)-p.at
			if from >= to {
				continue
			}
			if us := c.us[p.u0:p.u1]; len(us) > 0 {
				from, to = back(us, from, to)
			}
			e := edit{p.raw + from, p.raw + to, at, end}
			if p.number {
				e = s.quote(p, at, end)
			} else if !first {
				e.at, e.to = 0, 0
			}
			first = false
			s.edits = append(s.edits, e)
			for _, sh := range s.shadows[p.s0:p.s1] {
				n := len(s.masks)
				s.masks = append(s.masks, "[]"...)
				s.edits = append(s.edits, edit{sh[0], sh[1], n, len(s.masks)})
			}
		}
	}
}

// quote is the edit that puts a mask in the place of a number.
func (s *scratch) quote(p *piece, at, end int) edit {
	n := len(s.masks)
	s.masks = append(append(append(s.masks, '"'), s.masks[at:end]...), '"')
	return edit{p.raw, p.end, n, len(s.masks)}
}

// finish appends the body with all edits made, and to sizes those of its events.
func (s *scratch) finish(dst, body []byte, sizes []int) []byte {
	if len(s.edits) == 0 {
		return append(dst, body...)
	}
	slices.SortStableFunc(s.edits, func(a, b edit) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return b.end - a.end
	})
	at := 0
	made := s.edits[:0] // those that do not overlap
	for _, e := range s.edits {
		if e.from < at {
			if e.end <= at {
				continue
			}
			e.from, e.at, e.to = at, 0, 0 // what is left of it goes too
		}
		dst = append(dst, body[at:e.from]...)
		dst = append(dst, s.masks[e.at:e.to]...)
		at = e.end
		made = append(made, e)
	}
	// An event ends where it did; one that ends within what a mask replaces, after the mask.
	end, was, is, grown := 0, 0, 0, 0
	for i, n := range sizes {
		end += n
		for len(made) > 0 && made[0].end <= end {
			grown += made[0].to - made[0].at - (made[0].end - made[0].from)
			made = made[1:]
		}
		is = end + grown
		if len(made) > 0 && made[0].from < end {
			is = made[0].from + grown + made[0].to - made[0].at
		}
		sizes[i] = is - was
		was = is
	}
	return append(dst, body[at:]...)
}

// wipe forgets what was in the buffers: of each so much as a body of the size of the largest can have filled.
func (s *scratch) wipe() {
	wipe(&s.canon, 4*s.most+256)
	for _, b := range [...]*[]byte{&s.form, &s.spare, &s.line, &s.mended, &s.masks, &s.one.text} {
		wipe(b, s.most+256)
	}
	for i := range s.layers {
		wipe(&s.layers[i].decoded, s.most+256)
		wipe(&s.folds[i], 2*s.most+256)
	}
	s.spans, s.edits, s.findings, s.most = s.spans[:0], s.edits[:0], nil, 0
	s.shadows, s.asked = s.shadows[:0], 0
	s.doc.b, s.inside.b = nil, nil
	for _, c := range s.channels {
		clear(c.text)
	}
	clear(s.channels)
}

// maxKept is the largest buffer, in bytes, that is kept for the next text.
const maxKept = 1 << 20

func wipe(b *[]byte, n int) {
	if cap(*b) > maxKept {
		*b = nil
		return
	}
	clear((*b)[:min(cap(*b), n)])
	*b = (*b)[:0]
}
