package mask

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A span is what was found in a text, or in a layer of it.
type span struct {
	from, to int
	kind     Kind
	rule     string // of a secret, or of the configuration
	at, end  int    // of the value in its canonical form, in scratch.canon
	act      Action
	quoted   bool // it takes the place of a number in JSON that lies in a string
}

// A view is one layer of a text while it is searched.
type view struct {
	*scratch
	b        []byte
	from, to int  // the value in it; what is before and after is its context
	free     bool // the value stands by itself: no name says that it is something else
	depth    int  // how many encodings it was taken out of
	opened   int  // from here on it is searched
	done     int  // up to here everything was found that will be
	end      int  // up to here it is looked for
	opaque   int  // up to here secrets were looked for
	decoded  int  // up to here what was encoded was looked into

	near hearing  // words of context
	code hearing  // those of security codes and personal numbers
	keys progress // words of secrets
}

// A progress is how far a text was searched for words, and what was found.
type progress struct {
	w     *words
	state int32
	at    int
	hits  []hit
}

// A hit is a word that ends before end.
type hit struct{ end, word int32 }

// upTo searches on to the position to, but no earlier than from. What is skipped is never searched.
func (p *progress) upTo(b []byte, from, to int) {
	if from > p.at {
		p.at, p.state = from, 0
	}
	to = min(to, len(b))
	w, state := p.w, p.state
	for p.at < to {
		state = w.next[state+int32(w.class[b[p.at]])]
		p.at++
		if state < 0 {
			state = ^state
			for _, word := range w.ends[state/int32(w.width)] {
				p.hits = append(p.hits, hit{int32(p.at), int32(word)})
			}
		}
	}
	p.state = state
}

// since returns the hits that end after from.
func (p *progress) since(from int) []hit {
	i := len(p.hits)
	for i > 0 && int(p.hits[i-1].end) > from {
		i--
	}
	return p.hits[i:]
}

// What a byte is, by bits.
const (
	isDigit  = 1 << iota
	isLetter // of ASCII
	isDense  // may stand inside a secret
	isLocal  // may stand in the local part of an address
	isHex
)

var classes = func() (c [256]uint8) {
	for i := range c {
		b := byte(i)
		switch {
		case '0' <= b && b <= '9':
			c[i] = isDigit | isDense | isLocal
		case isAlnum(b):
			c[i] = isLetter | isDense | isLocal
		case b >= 0x80:
			c[i] = isLocal
		}
		if nibble(b) >= 0 {
			c[i] |= isHex
		}
	}
	for _, b := range []byte("_-+/=.~:%") {
		c[b] |= isDense
	}
	for _, b := range []byte("._%+-") {
		c[b] |= isLocal
	}
	return c
}()

func is(c byte, what uint8) bool { return classes[c]&what != 0 }

func isWord(c byte) bool { return is(c, isDigit|isLetter) }

// minDense is the length from which a run of dense bytes is looked at even if no digit is in it.
const minDense = 16

// next returns where the next byte stands that may belong to a value: a digit, a colon, an @, or any byte of a run of eight
// that a long word may have. It reads eight bytes at a time.
func next(b []byte, i int) int {
	const top, tilde = highs, ^uint64(highs)
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		t := x & tilde
		digits := (t + (0x80-0x30)*ones) &^ (t + (0x80-0x3b)*ones) // 0 to 9 and the colon
		ats := ^((t ^ '@'*ones) + 0x7f*ones)
		if m := (digits | ats) &^ x & top; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
		if dense := (t + (0x80-0x2b)*ones) &^ x & top; dense == top {
			return i
		}
	}
	for i < len(b) && !(is(b[i], isDigit) || b[i] == '@' || b[i] == ':') {
		i++
	}
	return i
}

// scan finds what there is in one layer.
func (v *view) scan() {
	for i := next(v.b, v.done); i < v.end; i = next(v.b, i) {
		j := v.look(i)
		if j <= i {
			j = i + 1
		}
		i = j
	}
}

// look finds what stands at or around i, and returns where to look on.
func (v *view) look(i int) int {
	if i < v.done {
		return v.done
	}
	b := v.b
	if i >= v.opaque {
		if end := v.dense(i); end > i {
			return end
		}
	}
	switch c := b[i]; {
	case c == '@' && (v.m.on.email || v.m.on.secret):
		if end := v.email(i); end > i {
			return end
		}
		return i + 1
	case c == ':':
		if end := v.colons(i); end > i {
			return end
		}
		return i + 1
	case is(c, isDigit):
		return v.number(i)
	}
	for i++; i < len(b) && is(b[i], isLetter); i++ {
	}
	return i
}

// add notes a find, with its value in canonical form, and returns its end.
func (v *view) add(from, to int, kind Kind, canon []byte) int {
	return v.addRule(from, to, kind, "", canon)
}

func (v *view) addRule(from, to int, kind Kind, rule string, canon []byte) int {
	from, to = max(from, v.from), min(to, v.to)
	if from >= to {
		return 0
	}
	at := len(v.canon)
	v.canon = append(v.canon, canon...)
	v.found = append(v.found, span{from: from, to: to, kind: kind, rule: rule, at: at, end: len(v.canon), act: v.m.actions[kind]})
	v.done = max(v.done, to)
	return to
}

// email finds the address around an @, or the user and password of a URL.
func (v *view) email(i int) int {
	b := v.b
	from := i
	for from > v.done && i-from < 128 && (is(b[from-1], isLocal) || oneOf(b[from-1], "!#$&'*/=?^`{|}")) {
		from--
	}
	// What may stand in an address and more often stands before it is not taken for part of it.
	for j := i - 1; j >= from; j-- {
		if oneOf(b[j], "!#$&'*/=?^`{|}") && !v.quotedLocal(from, i) {
			from = j + 1
			break
		}
	}
	for from < i && oneOf(b[from], ".-_%+'*") && !(b[from] == '_' || b[from] == '+') {
		from++
	}
	if from > 1 && b[from-1] == ':' {
		if end := v.userinfo(from, i); end > 0 {
			return end
		}
	}
	if !v.m.on.email {
		return 0
	}
	to, ok := v.domain(i + 1)
	if !ok {
		// An address that was cut by the end of a line.
		if to < len(b) && to > i+1 && (b[to] == '\n' || b[to] == '\r') {
			j := to
			for j < len(b) && (b[j] == '\n' || b[j] == '\r') && j < to+2 {
				j++
			}
			joined := append(append(v.spare[:0], b[i+1:to]...), b[j:min(len(b), j+128)]...)
			v.spare = joined
			w := view{b: joined, to: len(joined), scratch: v.scratch}
			if n, ok := w.domain(0); ok && n > to-i-1 && from < i {
				to = j + n - (to - i - 1)
				canon := append(append(v.form[:0], b[from:i+1]...), joined[:n]...)
				v.form = canon
				return v.add(from, to, Email, bytes.ToLower(canon))
			}
		}
		return 0
	}
	if from == i || b[i-1] == '.' {
		return 0
	}
	v.form = lowered(v.form[:0], b[from:to])
	return v.add(from, to, Email, v.form)
}

// quotedLocal reports whether what is before an @ reads as a local part of RFC 5322 and not as anything else.
func (v *view) quotedLocal(from, at int) bool {
	if from > 0 && !oneOf(v.b[from-1], " \n\t<(\"") || oneOf(v.b[from], "/'*`{|=?&") {
		return false
	}
	for _, c := range v.b[from:at] {
		if oneOf(c, "/=?{|&") {
			return false
		}
	}
	return true
}

// domain returns the end of the domain that begins at i, and whether it is one: labels, and a last one of letters.
func (v *view) domain(i int) (int, bool) {
	b, start := v.b, i
	last, dots := i, 0
	for i < len(b) && i-start < 255 {
		c := b[i]
		if isWord(c) || c >= 0x80 || c == '-' && i > last {
			i++
			continue
		}
		if c != '.' || i == last || i+1 >= len(b) || !(isWord(b[i+1]) || b[i+1] >= 0x80) {
			break
		}
		i++
		last = i
		dots++
	}
	for i > last && b[i-1] == '-' {
		i--
	}
	for dots > 0 { // 1.2.3 is no end of a domain
		n := i - last
		if n >= 2 && !is(b[last], isDigit) && !is(b[i-1], isDigit) || n > 4 && bytes.HasPrefix(b[last:i], []byte("xn--")) {
			return i, true
		}
		i = last - 1
		last = bytes.LastIndexByte(b[start:i], '.') + 1 + start
		dots--
	}
	return i, false
}

// userinfo finds USER:PASSWORD of a URL whose @ is at i; the password begins at from or before.
func (v *view) userinfo(from, i int) int {
	b := v.b
	start := from - 1
	for start > 0 && i-start < 256 && b[start-1] > ' ' && b[start-1] != '/' && b[start-1] != '"' && b[start-1] != '\'' && b[start-1] < 0x80 {
		start--
	}
	if !v.m.on.secret || start < 3 || start < v.done || string(b[start-3:start]) != "://" || i-start < 3 {
		return 0
	}
	colon := bytes.IndexByte(b[start:i], ':')
	if colon < 0 || start+colon+1 == i || b[start+colon+1] == '$' || b[start+colon+1] == '<' || b[start+colon+1] == '{' {
		return 0
	}
	return v.addRule(start, i, Secret, "url-password", b[start:i])
}

func lowered(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, lower(c))
	}
	return dst
}

// colons finds addresses of IPv6 and of IEEE 802 in the run of hexadecimal digits and separators around i.
func (v *view) colons(i int) int {
	b := v.b
	from, to := i, i
	for from > v.done && i-from < 48 && (is(b[from-1], isHex) || b[from-1] == ':') {
		from--
	}
	two := 0
	for to < len(b) && to-from < 48 && (is(b[to], isHex) || b[to] == ':' || b[to] == '.') {
		if b[to] == ':' {
			two++
		}
		to++
	}
	for to > from && (b[to-1] == '.' || b[to-1] == ':' && (to < from+2 || b[to-2] != ':')) {
		to--
	}
	if two < 2 || to-from < 2 || to <= i || from > 0 && isWord(b[from-1]) || to < len(b) && isWord(b[to]) {
		return 0
	}
	if b[from] == ':' && b[from+1] != ':' { // the colon of what is before it
		from++
	}
	if v.m.on.mac && mac(b[from:to]) {
		v.form = lowered(v.form[:0], b[from:to])
		return v.add(from, to, MAC, v.form)
	}
	if !v.m.on.ip {
		return 0
	}
	digits, groups := false, 0
	for j := from; j < to; j++ {
		digits = digits || is(b[j], isDigit)
		if b[j] != ':' && (j == from || b[j-1] == ':') {
			groups++
		}
	}
	if groups == 0 && !v.only(from, v.prefixLength(to, 128)) && !v.told(IP, from, to, 24) || groups > 0 && !digits && groups < 4 {
		return 0
	}
	a, err := netip.ParseAddr(string(b[from:to])) // the only allocation, and for what has the colons of an address
	if err != nil {
		return 0
	}
	if to < len(b) && b[to] == '%' {
		for to++; to < len(b) && isWord(b[to]); to++ {
		}
	}
	return v.add(from, v.prefixLength(to, 128), IP, a.AppendTo(v.form[:0]))
}

// prefixLength returns the end of a prefix length that begins at i, or i.
func (v *view) prefixLength(i, most int) int {
	n, j := 0, i+1
	for ; j < len(v.b) && j < i+4 && is(v.b[j], isDigit); j++ {
		n = n*10 + int(v.b[j]-'0')
	}
	if i < len(v.b) && v.b[i] == '/' && j > i+1 && n <= most && (j == len(v.b) || !isWord(v.b[j])) {
		return j
	}
	return i
}

// mac reports whether b is six pairs of digits with the same separator, or three groups of four with dots.
func mac(b []byte) bool {
	every, sep := 3, byte(0)
	switch {
	case len(b) == 17 && (b[2] == ':' || b[2] == '-'):
		sep = b[2]
	case len(b) == 14 && b[4] == '.':
		every, sep = 5, '.'
	default:
		return false
	}
	for i, c := range b {
		if i%every == every-1 {
			if c != sep {
				return false
			}
		} else if !is(c, isHex) {
			return false
		}
	}
	return true
}

// dashedMAC finds an address of IEEE 802 with dashes or dots around i.
func (v *view) dashedMAC(i int) int {
	b := v.b
	if !v.m.on.mac {
		return 0
	}
	from := i
	for from > v.done && i-from < 17 && (is(b[from-1], isHex) || b[from-1] == '-' || b[from-1] == '.') {
		from--
	}
	if from > 0 && isWord(b[from-1]) {
		return 0
	}
	for _, n := range [...]int{17, 14} {
		if to := from + n; to <= len(b) && to > i && mac(b[from:to]) && (to == len(b) || !isWord(b[to]) && !(b[to] == b[from+2] && n == 17)) {
			if n == 14 && !v.told(MAC, from, to, 32) {
				letters := false
				for _, c := range b[from:to] {
					letters = letters || is(c, isLetter)
				}
				if !letters {
					continue
				}
			}
			v.form = lowered(v.form[:0], b[from:to])
			return v.add(from, to, MAC, v.form)
		}
	}
	return 0
}

// quad finds an address of IPv4 whose first digit is at from.
func (v *view) quad(from int) int {
	b := v.b
	i := from
	for part := range 4 {
		n, at := 0, i
		for i < len(b) && i-at < 4 && is(b[i], isDigit) {
			n = n*10 + int(b[i]-'0')
			i++
		}
		if i == at || i-at > 3 || n > 255 || i-at > 1 && b[at] == '0' {
			return 0
		}
		if part < 3 {
			if i >= len(b) || b[i] != '.' {
				return 0
			}
			i++
		}
	}
	if i < len(b) && (isWord(b[i]) || b[i] == '.' && i+1 < len(b) && is(b[i+1], isDigit)) {
		return 0
	}
	if from > 0 && (b[from-1] == '.' || isWord(b[from-1])) || v.wordBefore(from, "version", "release", "ver", "v") {
		return 0
	}
	canon := b[from:i]
	return v.add(from, v.prefixLength(i, 32), IP, canon)
}

// wordBefore reports whether one of the words, in lower case, stands before i.
func (v *view) wordBefore(i int, list ...string) bool {
	for i > 0 && (v.b[i-1] == ' ' || v.b[i-1] == ':' || v.b[i-1] == '=') {
		i--
	}
	from := i
	for from > 0 && i-from < 16 && is(v.b[from-1], isLetter) {
		from--
	}
	for _, w := range list {
		if len(w) == i-from && bytes.EqualFold(v.b[from:i], []byte(w)) {
			return true
		}
	}
	return false
}

// only reports whether [from, to) is all that the text says, but perhaps for a few more numbers like it.
func (v *view) only(from, to int) bool {
	if !v.free {
		return false
	}
	return numbersOnly(v.b[v.from:from]) && numbersOnly(v.b[to:v.to])
}

// numbersOnly reports whether a short text has nothing in it but words that are as long as a number of some kind, and have digits.
func numbersOnly(b []byte) bool {
	words, size, digits := 0, 0, false
	for i := 0; i <= len(b); i++ {
		if i < len(b) && b[i] > ' ' {
			if b[i] >= 0x80 {
				return false
			}
			if isWord(b[i]) {
				size++
				digits = digits || is(b[i], isDigit)
			}
			continue
		}
		if size > 0 && (size < 7 || !digits) {
			return false
		}
		if size > 0 {
			if words++; words > 8 {
				return false
			}
		}
		size, digits = 0, false
	}
	return true
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
