package mask

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A text is read through layers, each a little plainer than the one before: fold makes one character of all that look alike
// and drops what cannot be seen; decode undoes one level of escaping. What is found in a layer is carried back to the text
// by units, the places where a layer is not the same bytes as the one below.

// A unit is a place where a layer differs from what it was made of: src[from:to] became layer[at:at+n].
type unit struct{ at, n, from, to int }

// back returns where in the source the layer's bytes [from, to) come from, whole units only.
func back(us []unit, from, to int) (int, int) {
	return source(us, from, false), source(us, to-1, true)
}

// source returns the start, or the end, of what became the layer's byte at p.
func source(us []unit, p int, end bool) int {
	lo, hi := 0, len(us) // the last unit that is not after p
	for lo < hi {
		if mid := (lo + hi) / 2; us[mid].at <= p {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		if end {
			p++
		}
		return p
	}
	u := us[lo-1]
	if p < u.at+u.n {
		if end {
			return u.to
		}
		return u.from
	}
	p = u.to + p - u.at - u.n
	if end {
		p++
	}
	return p
}

// A folding says for each character what it is folded to: 0 for itself, dropped, or up to four ASCII characters,
// the first in the lowest byte. Characters of one page of 256 that are all themselves share page 0.
type folding struct {
	page  [0x200]uint16
	pages [][256]uint32
}

const (
	dropped = 0xffffffff
	opaque  = 0x01 // stands for a mask in every layer: nothing else becomes it
)

// lookalikes are letters that look like Latin ones: of Cyrillic and Greek, and a few others (Unicode TR 39, by hand).
const lookalikes = "аaеeоoрpсcуyхxіiјjѕsһhԁdԛqԝwАAВBЕEКKМMНHОOРPСCТTУYХXІIЈJЅSԌGԚQԜWΑAΒBΕEΖZΗHΙIΚKΜMΝNΟOΡPΤTΥYΧXοoνvαaιiρpυuκkτtɡgıiⅼlӏl"

// newFolding makes the table of Unicode as the libraries know it: a character whose compatibility decomposition is ASCII, marks
// left out, becomes that; a decimal digit of any script becomes the digit; what has no width is dropped.
func newFolding() *folding {
	f := &folding{pages: make([][256]uint32, 1)}
	set := func(r rune, v uint32) {
		if f.page[r>>8] == 0 {
			f.pages = append(f.pages, [256]uint32{})
			f.page[r>>8] = uint16(len(f.pages) - 1)
		}
		f.pages[f.page[r>>8]][r&0xff] = v
	}
	for r := rune(0x80); r < 0x20000; r++ {
		switch {
		case 0x3400 <= r && r < 0xa000, 0xac00 <= r && r < 0xd800, 0x12000 <= r && r < 0x16a00, 0x17000 <= r && r < 0x1b000:
			continue // ideographs, hangul, cuneiform and the like: themselves
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Cc, unicode.Variation_Selector), r == 0x115f, r == 0x1160, r == 0x3164, r == 0xffa0:
			if r != 0x85 {
				set(r, dropped)
				continue
			}
		}
		var packed uint32
		n := 0
		plain := func(c byte) bool {
			packed |= uint32(c) << (8 * n)
			n++
			return n <= 4
		}
		var p [utf8.UTFMax]byte
		whole := p[:utf8.EncodeRune(p[:], r)]
		if d := norm.NFKD.Properties(whole).Decomposition(); d != nil {
			whole = d
		}
		ok := true
		for ok && len(whole) > 0 {
			c, size := utf8.DecodeRune(whole)
			whole = whole[size:]
			switch {
			case c < 0x80:
				ok = plain(byte(c))
			case unicode.In(c, unicode.Mn):
			case unicode.Is(unicode.Nd, c):
				ok = plain('0' + nd(c))
			case unicode.Is(unicode.Pd, c) || c == 0x2212:
				ok = plain('-')
			case unicode.Is(unicode.Zs, c):
				ok = plain(' ')
			case c == 0x85 || c == 0x2028 || c == 0x2029:
				ok = plain('\n')
			case c == 0x2018 || c == 0x2019 || c == 0x201b || c == 0x2032:
				ok = plain('\'')
			case c == 0x201c || c == 0x201d || c == 0x201f || c == 0x2033:
				ok = plain('"')
			case c == 0x2024 || c == 0x3002 || c == 0xff61:
				ok = plain('.')
			case c == 0x2044 || c == 0x2215:
				ok = plain('/')
			case c == 0x2236 || c == 0xa789:
				ok = plain(':')
			default:
				ok = false
			}
		}
		if ok && n > 0 {
			set(r, packed)
		}
	}
	for i, rs := 0, []rune(lookalikes); i < len(rs); i += 2 {
		set(rs[i], uint32(rs[i+1]))
	}
	return f
}

// nd is the value of a decimal digit: the tables list each script's ten in order, without a gap.
func nd(r rune) byte {
	v := byte(0)
	for v < 9 && unicode.Is(unicode.Nd, r-rune(v)-1) {
		v++
	}
	if 0x1d7ce <= r && r <= 0x1d7ff { // five runs of ten that adjoin
		return byte((r - 0x1d7ce) % 10)
	}
	return v
}

func (f *folding) of(r rune) uint32 {
	switch {
	case r < 0x20000:
		return f.pages[f.page[r>>8]][r&0xff]
	case 0xe0020 <= r && r < 0xe007f: // tags: ASCII that is not shown
		return uint32(r - 0xe0000)
	case 0xe0000 <= r && r < 0xe0200:
		return dropped
	}
	return 0
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns how many bytes at the start of b are folded to themselves: ASCII without controls but for tab, line feed and
// carriage return.
func plain(b []byte) int {
	i := 0
	for i+8 <= len(b) {
		for ; i+32 <= len(b); i += 32 { // four at a time: most of a text is plain
			w, x, y, z := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:]), binary.LittleEndian.Uint64(b[i+16:]), binary.LittleEndian.Uint64(b[i+24:])
			if m := (w-0x20*ones)&^w | (x-0x20*ones)&^x | (y-0x20*ones)&^y | (z-0x20*ones)&^z | w | x | y | z |
				^w&(w+ones) | ^x&(x+ones) | ^y&(y+ones) | ^z&(z+ones); m&highs != 0 && (unplain(w)|unplain(x)|unplain(y)|unplain(z))&highs != 0 {
				break
			}
		}
		if i+8 > len(b) {
			break
		}
		for end := min(i+32, len(b)); i < end; i++ {
			if odd(b[i]) {
				return i
			}
		}
	}
	for ; i < len(b); i++ {
		if odd(b[i]) {
			return i
		}
	}
	return i
}

// unplain has the high bit set of each byte that is not ASCII, a control but for line feed and tab, or DEL; and perhaps of others, then.
func unplain(x uint64) uint64 {
	feed, tab, del := x^'\n'*ones, x^'\t'*ones, x^0x7f*ones
	feed = (feed&^highs + 0x7f*ones) | feed // its high bits: what is no line feed
	tab = (tab&^highs + 0x7f*ones) | tab
	return (x-0x20*ones)&^x&feed&tab | x | (del-ones)&^del
}

func odd(c byte) bool {
	return c >= 0x7f || c < 0x20 && c != '\t' && c != '\n' && c != '\r'
}

// fold appends src, folded. Units are appended to us unless it is nil.
// The first layer is made of the text; in a text that is a layer already, again, a mask is one opaque byte.
func (f *folding) fold(dst, src []byte, again bool, us *[]unit) []byte {
	for i := 0; i < len(src); {
		n := plain(src[i:])
		dst = append(dst, src[i:i+n]...)
		i += n
		for i < len(src) && odd(src[i]) {
			from, at := i, len(dst)
			if src[i] == opaque && again {
				dst = append(dst, opaque)
				i++
				continue
			} else if src[i] < 0x80 {
				i++ // a control: dropped
			} else {
				r, n := wide(src[i:])
				if r == '⟦' {
					if t := maskLen(src[i:]); t > 0 {
						dst = append(dst, opaque)
						i += t
						if us != nil {
							*us = append(*us, unit{at, 1, from, i})
						}
						continue
					}
				}
				v := uint32(0)
				if n > 1 {
					v = f.of(r)
				}
				if v == 0 {
					dst = append(dst, src[i:i+n]...)
					i += n
					continue
				}
				i += n
				if v != dropped {
					for ; v != 0; v >>= 8 {
						dst = append(dst, byte(v))
					}
				}
			}
			if us != nil {
				*us = append(*us, unit{at, len(dst) - at, from, i})
			}
		}
	}
	return dst
}

// wide decodes a character that is not ASCII. Two halves of a surrogate pair, each encoded by itself, are one character: so
// they come out of JSON strings that were cut between them.
func wide(b []byte) (rune, int) {
	r, n := utf8.DecodeRune(b)
	if n == 1 && len(b) >= 6 && b[0] == 0xed && b[1]&0xf0 == 0xa0 && b[3] == 0xed && b[4]&0xf0 == 0xb0 {
		hi := rune(b[1]&0xf)<<6 | rune(b[2]&0x3f)
		lo := rune(b[4]&0xf)<<6 | rune(b[5]&0x3f)
		return 0x10000 + hi<<10 + lo, 6
	}
	return r, n
}

// escaped reports whether there is anything in b that decode may undo.
func escaped(b []byte) bool {
	if bytes.IndexByte(b, '\\') < 0 && bytes.IndexByte(b, '%') < 0 && bytes.IndexByte(b, '&') < 0 {
		return false
	}
	var room [8]byte
	for i := nextEscape(b, 0); i < len(b); i = nextEscape(b, i+1) {
		if _, n := unescapeAt(room[:0], b[i:]); n > 0 {
			return true
		}
	}
	return false
}

// nextEscape returns where the next byte stands that an escape may begin with.
func nextEscape(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		s, p, a := x^'\\'*ones, x^'%'*ones, x^'&'*ones
		if m := ((s-ones)&^s | (p-ones)&^p | (a-ones)&^a) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(b) && b[i] != '%' && b[i] != '\\' && b[i] != '&' {
		i++
	}
	return i
}

// unescapeAt appends what the escape at the beginning of b stands for, and returns its length, or 0 where there is none.
func unescapeAt(dst, b []byte) ([]byte, int) {
	switch b[0] {
	case '%':
		if len(b) > 2 && nibble(b[1]) >= 0 && nibble(b[2]) >= 0 {
			return append(dst, byte(nibble(b[1])<<4|nibble(b[2]))), 3
		}
	case '&':
		if r, n := entity(b); n > 0 {
			return utf8.AppendRune(dst, r), n
		}
	case '\\':
		return unescape(dst, b)
	}
	return dst, 0
}

// decode appends src with one level of escapes undone: \uXXXX and the others of JSON and of programming languages, %XX of URLs,
// and character references of HTML. The result may have to be folded again.
func decode(dst, src []byte, us *[]unit) []byte {
	for i := 0; i < len(src); i++ {
		j := nextEscape(src, i)
		dst = append(dst, src[i:j]...)
		if i = j; i == len(src) {
			break
		}
		at, n := len(dst), 0
		dst, n = unescapeAt(dst, src[i:])
		if n == 0 {
			dst = append(dst, src[i])
			continue
		}
		if len(dst) == at+1 && odd(dst[at]) && dst[at] < 0x80 {
			dst = dst[:at] // a control would be dropped later, and opaque must not be written so
		}
		if us != nil {
			*us = append(*us, unit{at, len(dst) - at, i, i + n})
		}
		i += n - 1
	}
	return dst
}

func nibble(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// hexes reads exactly n hexadecimal digits.
func hexes(b []byte, n int) (v rune, ok bool) {
	if len(b) < n {
		return 0, false
	}
	for _, c := range b[:n] {
		d := nibble(c)
		if d < 0 {
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

// unescape appends what an escape that begins with a backslash stands for, and returns its length, or 0 where it is none. A half
// of a surrogate pair is appended as three bytes, so that it can meet the other half.
func unescape(dst, b []byte) ([]byte, int) {
	if len(b) < 2 {
		return dst, 0
	}
	switch b[1] {
	case '"', '\'', '/', '\\':
		return append(dst, b[1]), 2
	case 'n':
		return append(dst, '\n'), 2
	case 'r':
		return append(dst, '\r'), 2
	case 't':
		return append(dst, '\t'), 2
	case 'x':
		if v, ok := hexes(b[2:], 2); ok {
			return utf8.AppendRune(dst, v), 4
		}
	case 'u':
		if v, ok := hexes(b[2:], 4); ok {
			if v&0xfc00 == 0xd800 && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
				if lo, ok := hexes(b[8:], 4); ok && lo&0xfc00 == 0xdc00 {
					return utf8.AppendRune(dst, 0x10000+(v&0x3ff)<<10+lo&0x3ff), 12
				}
			}
			return appendHalf(dst, v), 6
		}
		if len(b) > 3 && b[2] == '{' {
			if end := bytes.IndexByte(b[:min(len(b), 10)], '}'); end > 3 {
				if v, ok := hexes(b[3:], end-3); ok && v <= unicode.MaxRune {
					return appendHalf(dst, v), end + 1
				}
			}
		}
	}
	return dst, 0
}

func appendHalf(dst []byte, v rune) []byte {
	if v&0xf800 == 0xd800 {
		return append(dst, 0xed, 0x80|byte(v>>6&0x3f), 0x80|byte(v&0x3f))
	}
	return utf8.AppendRune(dst, v)
}

// entities are the named character references that may stand inside a value.
var entities = [...]struct {
	name string
	r    rune
}{
	{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}, {"nbsp", ' '}, {"commat", '@'}, {"period", '.'}, {"hyphen", '-'},
	{"dash", '-'}, {"ndash", '-'}, {"mdash", '-'}, {"minus", '-'}, {"lowbar", '_'}, {"colon", ':'}, {"sol", '/'}, {"plus", '+'}, {"equals", '='},
	{"num", '#'}, {"percnt", '%'}, {"comma", ','}, {"Tab", '\t'}, {"NewLine", '\n'}, {"shy", 0xad}, {"zwj", 0x200d}, {"zwnj", 0x200c},
}

// entity reads a character reference of HTML. One by number may lack its semicolon.
func entity(b []byte) (rune, int) {
	if len(b) < 3 || b[0] != '&' {
		return 0, 0
	}
	if b[1] != '#' {
		for _, e := range entities {
			if n := len(e.name); len(b) > n+1 && b[n+1] == ';' && string(b[1:n+1]) == e.name {
				return e.r, n + 2
			}
		}
		return 0, 0
	}
	i, base := 2, rune(10)
	if b[2]|0x20 == 'x' {
		i, base = 3, 16
	}
	v, from := rune(0), i
	for ; i < len(b) && i-from < 8; i++ {
		d := rune(nibble(b[i]))
		if d < 0 || d >= base {
			break
		}
		v = v*base + d
	}
	if i == from || v > unicode.MaxRune {
		return 0, 0
	}
	if i < len(b) && b[i] == ';' {
		i++
	}
	return v, i
}
