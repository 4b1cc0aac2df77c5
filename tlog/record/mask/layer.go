package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"unicode/utf8"
)

// A scratch is what one search works in. One search after the other has it.
type scratch struct {
	m     *Masker
	spans []span // what was found, in the text's own bytes
	canon []byte // the canonical forms of what was found
	found []span // in the layer at hand
	mac   *maker

	layers [maxLayers]layer
	near   []said
	code   []said
	keys   []hit
	parts  [maxParts]part
	form   []byte
	lens   []byte
	spare  []byte
	line   []byte
	mended []byte
	tried  []int32
	starts [][2]int // rules and keywords
	folds  [maxLayers][]byte

	doc      doc     // of the body at hand
	inside   doc     // of JSON in one of its strings
	one      channel // of a string by itself
	channels map[string]*channel
	key      []byte
	masks    []byte
	edits    []edit
	shadows  [][2]int // arrays that say again what a piece says
	findings Findings
	most     int // length of the longest body since the last wipe
	asked    int // how often the library of telephone numbers was
	spent    int // bytes that expressions which span lines were shown of the text at hand
}

// A layer is a text a little plainer than the one below it.
type layer struct {
	decoded []byte
	us, fs  []unit // of decoded over the layer below, and of what is folded over decoded
}

const (
	minEncoded = 14 // bytes of base64
	maxLayers  = 5  // the first only folds, each of the others undoes one level of escapes
	maxDepth   = 3  // encodings within encodings
)

// search finds what is in text[from:to]; what is around it is its context. It appends to s.spans, in order and without overlaps.
func (s *scratch) search(text []byte, from, to int, free bool, depth int) {
	base := len(s.spans)
	b := text
	var fs []unit
	if plain(b) < len(b) {
		l := &s.layers[0]
		l.fs = l.fs[:0]
		s.folds[0] = s.m.folding.fold(s.folds[0][:0], b, false, &l.fs)
		b, fs = s.folds[0], l.fs
	}
	f, t := forward(fs, from), forward(fs, to)
	s.found = s.found[:0]
	s.look(b, f, t, f, t, free, depth)
	s.torn(b, f, t, depth)
	for i := range s.found {
		sp := s.found[i]
		if len(fs) > 0 {
			sp.from, sp.to = back(fs, sp.from, sp.to)
		}
		s.spans = append(s.spans, sp)
	}
	for k := 1; k < maxLayers && escaped(b); k++ {
		l := &s.layers[k]
		l.us, l.fs = l.us[:0], l.fs[:0]
		if l.decoded = decode(l.decoded[:0], b, &l.us); len(l.us) == 0 {
			break
		}
		b = l.decoded
		if plain(l.decoded) < len(l.decoded) {
			s.folds[k] = s.m.folding.fold(s.folds[k][:0], l.decoded, true, &l.fs)
			b = s.folds[k]
		}
		f, t = forward(l.fs, forward(l.us, f)), forward(l.fs, forward(l.us, t))
		s.found = s.found[:0]
		s.around(b, f, t, l, free, depth)
		for i := range s.found {
			sp := s.found[i]
			for j := k; j > 0; j-- {
				sp.from, sp.to = back(s.layers[j].fs, sp.from, sp.to)
				sp.from, sp.to = back(s.layers[j].us, sp.from, sp.to)
			}
			if len(fs) > 0 {
				sp.from, sp.to = back(fs, sp.from, sp.to)
			}
			s.spans = append(s.spans, sp)
		}
	}
	s.spans = merge(s.spans, base)
	for i := base; i < len(s.spans); i++ { // a character that is opaque to the layers must not be widened beyond the value
		s.spans[i].from, s.spans[i].to = max(s.spans[i].from, from), min(s.spans[i].to, to)
	}
}

// merge brings what was found since base into order, and makes one of what overlaps: the longer says what it is.
func merge(all []span, base int) []span {
	spans := all[base:]
	if len(spans) < 2 {
		return all
	}
	slices.SortStableFunc(spans, func(a, b span) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return b.to - a.to
	})
	n := 0
	for _, sp := range spans[1:] {
		last := &spans[n]
		if sp.from >= last.to {
			n++
			spans[n] = sp
			continue
		}
		from, to := last.from, max(last.to, sp.to)
		if outranks(sp, *last) {
			*last = sp
		}
		last.from, last.to = from, to
	}
	return all[:base+n+1]
}

// outranks says which of two that overlap says what the value is: what must never be kept, then what is masked at all, then the longer.
func outranks(a, b span) bool {
	if always[a.kind] != always[b.kind] {
		return always[a.kind]
	}
	if (a.act == Keep) != (b.act == Keep) {
		return b.act == Keep
	}
	return a.to-a.from > b.to-b.from
}

// forward returns where in the layer the source's byte at p is, or what became of what it was part of.
func forward(us []unit, p int) int {
	lo, hi := 0, len(us) // the first unit that ends after p
	for lo < hi {
		if mid := (lo + hi) / 2; us[mid].to <= p {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(us) && us[lo].from <= p {
		return us[lo].at
	}
	if lo == 0 {
		return p
	}
	u := us[lo-1]
	return u.at + u.n + p - u.to
}

// around scans one layer where it is not the same as the one below: what is found elsewhere was found there.
func (s *scratch) around(b []byte, from, to int, l *layer, free bool, depth int) {
	const near = 300 // longer values that hold only one escape are none of ours
	for i := 0; i < len(l.us); {
		at := max(from, forward(l.fs, l.us[i].at)-near)
		end := forward(l.fs, l.us[i].at+l.us[i].n) + near
		for i++; i < len(l.us); i++ {
			p := forward(l.fs, l.us[i].at)
			if p > end+near {
				break
			}
			end = p + l.us[i].n + near
		}
		end = min(to, end)
		for at > from && b[at] > ' ' { // words are not cut
			at--
		}
		for end < to && b[end] > ' ' {
			end++
		}
		if at < end {
			s.look(b, at, end, from, to, free, depth)
		}
	}
}

// tornAround is how far around a tear the pieces may reach.
const tornAround = 160

// torn finds what the end of a line, or the beginning or end of bold type, tears in two: it looks at what is left if that is taken
// away, where numbers or addresses are on both sides. Keys are looked for across lines where their rules are.
func (s *scratch) torn(b []byte, from, to, depth int) {
	for i := from; i < to; {
		n := bytes.IndexByte(b[i:to], '\n')
		if n < 0 {
			break
		}
		at := i + n
		i = at + 1
		if at > from && b[at-1] == '\r' {
			at--
		}
		if at > from && i < to && isNumeric(b[at-1]) && isNumeric(b[i]) {
			s.mend(b, from, to, at, i, depth)
		}
	}
	for i := from; i < to; {
		n := bytes.Index(b[i:to], []byte("**"))
		if n < 0 {
			break
		}
		at := i + n
		for i = at + 2; i < to && b[i] == '*'; i++ {
		}
		if at > from && i < to && is(b[at-1], isDense) && is(b[i], isDense) {
			s.mend(b, from, to, at, i, depth)
		}
	}
}

// mend looks at b[from:to] around b[at:end] without it, for what is on both sides.
func (s *scratch) mend(b []byte, from, to, at, end, depth int) {
	lo, hi, digits := at, end, 0
	for ; lo > from && at-lo < tornAround && (is(b[lo-1], isDense|isLocal) || b[lo-1] == '@'); lo-- {
		if is(b[lo-1], isDigit) {
			digits++
		}
	}
	for ; hi < to && hi-end < tornAround && (is(b[hi], isDense|isLocal) || b[hi] == '@'); hi++ {
		if is(b[hi], isDigit) {
			digits++
		}
	}
	if hi-lo < 8 || digits < 2 && b[at] != '*' {
		return
	}
	s.mended = append(append(s.mended[:0], b[lo:at]...), b[end:hi]...)
	base, cut := len(s.found), at-lo
	s.look(s.mended, 0, len(s.mended), 0, len(s.mended), false, depth)
	k := base
	for _, sp := range s.found[base:] {
		if sp.from < cut && sp.to > cut && sp.kind != CVV && sp.kind != PIN {
			sp.from, sp.to = sp.from+lo, sp.to+lo+end-at
			s.found[k] = sp
			k++
		}
	}
	s.found = s.found[:k]
}

// isNumeric reports whether a byte may stand in a number or an address of numbers.
func isNumeric(c byte) bool { return is(c, isDigit) || c == '-' || c == '.' || c == '+' || c == ':' }

// look scans b[at:end] of one layer, of which the value is [from, to), and appends to s.found.
func (s *scratch) look(b []byte, at, end, from, to int, free bool, depth int) {
	v := view{scratch: s, b: b, from: from, to: to, free: free, depth: depth, opened: at, done: at, opaque: at, end: end}
	v.near = hearing{w: s.m.contexts, said: s.near[:0]}
	v.code = hearing{w: s.m.codes, said: s.code[:0]}
	if s.m.secrets != nil {
		v.keys = progress{w: s.m.secrets.words, hits: s.keys[:0]}
	}
	s.starts = s.starts[:0]
	s.spent = 0
	v.scan()
	v.listed()
	s.near, s.code, s.keys = v.near.said, v.code.said, v.keys.hits
}

// encoded looks into base64, and hexadecimal, of text.
func (v *view) encoded(from, to int) int {
	if v.depth >= maxDepth || from < v.decoded {
		return 0
	}
	b := v.b
	for at := from; at < to; {
		end := at
		for end < to && isBase64(b[end]) {
			end++
		}
		digits := end
		for end < to && b[end] == '=' && end-digits < 2 {
			end++
		}
		if digits-at >= minEncoded {
			if e := v.encodedRun(at, digits, end); e > 0 {
				return e
			}
		}
		at = end + 1
	}
	return 0
}

func isBase64(c byte) bool {
	return is(c, isDigit|isLetter) || c == '+' || c == '/' || c == '-' || c == '_'
}

// encodedRun looks into b[from:digits], which may be encoded text; with its padding it ends at end.
func (v *view) encodedRun(from, digits, end int) int {
	b := v.b
	run := b[from:digits]
	if len(run)%2 == 0 && len(run) >= 20 && allHex(run) {
		out := make([]byte, hex.DecodedLen(min(len(run), 256)))
		if _, err := hex.Decode(out, run[:2*len(out)]); err == nil && isText(out) {
			if 2*len(out) < len(run) {
				out = make([]byte, len(run)/2)
				hex.Decode(out, run)
			}
			if e := v.inner(out, from, digits); e > 0 {
				return e
			}
		}
	}
	var head [96]byte
	var raw [128]byte
	n := copy(raw[:], run)
	n, err := decode64(head[:], raw[:n/4*4])
	if err != nil || !isText(head[:n]) {
		return 0
	}
	// Base64 is broken into lines.
	joined := v.line[:0]
	joined = append(joined, run...)
	for end == digits && end < len(b) && (b[end] == '\n' || b[end] == '\r') {
		at := end + 1
		if b[end] == '\r' && at < len(b) && b[at] == '\n' {
			at++
		}
		to := at
		for to < len(b) && isBase64(b[to]) {
			to++
		}
		if to == at {
			break
		}
		joined = append(joined, b[at:to]...)
		digits, end = to, to
		for end < len(b) && b[end] == '=' && end-digits < 2 {
			end++
		}
	}
	v.line, v.decoded = joined, end
	out := make([]byte, len(joined)/4*3+3)
	if n, err = decode64(out, joined); err != nil {
		return 0
	}
	return v.inner(out[:n], from, end)
}

// decode64 decodes both alphabets, without padding.
func decode64(dst, src []byte) (int, error) {
	enc := base64.RawStdEncoding
	for _, c := range src {
		if c == '-' || c == '_' {
			enc = base64.RawURLEncoding
			break
		}
	}
	if len(src)%4 == 1 {
		src = src[:len(src)-1]
	}
	return enc.Decode(dst, src)
}

// isText reports whether b reads as text, of UTF-8 or of UTF-16 in Latin letters. The last character may be cut.
func isText(b []byte) bool {
	zeros, letters := 0, 0
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == 0:
			zeros++
		case c < ' ' && c != '\n' && c != '\r' && c != '\t':
			return false
		case c >= 0x80:
			if !utf8.FullRune(b[i:]) {
				return letters > 0
			}
			_, n := utf8.DecodeRune(b[i:])
			if n == 1 {
				return false
			}
			i += n
			continue
		default:
			letters++
		}
		i++
	}
	return letters >= 6 && (zeros == 0 || zeros*2 >= len(b)-1)
}

// inner searches what was decoded; if anything is found, all of what it was decoded from is masked.
func (v *view) inner(out []byte, from, to int) int {
	s := v.m.scratch()
	defer v.m.release(s)
	s.search(out, 0, len(out), true, v.depth+1)
	if len(s.spans) == 0 {
		return 0
	}
	best := s.spans[0]
	for _, sp := range s.spans[1:] {
		if always[sp.kind] && !always[best.kind] {
			best = sp
		}
	}
	return v.addRule(from, to, best.kind, best.rule, s.canon[best.at:best.end])
}
