package search

import (
	"encoding/hex"
	"hash/fnv"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// maxText is how many bytes of a session's words are indexed.
	maxText = 4 << 20
	// maxWord is how many bytes of one word are; two that begin with the same 64 are one.
	maxWord = 64
	// mark begins terms that are no words. No word has it.
	mark = '\ue000'
)

// walk calls f with each word of a text, in lower case and without accents, and where in the text it stands, in bytes. A word is
// letters and digits in a row; of writing that has no blanks, one letter. f must not keep the word.
func walk(text string, f func(word []byte, from, to int)) {
	var buf [maxWord]byte
	word, from, end := buf[:0], 0, 0
	flush := func() {
		if len(word) > 0 {
			f(word, from, end)
		}
		word = buf[:0]
	}
	add := func(r rune, at, next int) {
		if len(word) == 0 {
			from = at
		}
		if end = next; len(word)+utf8.RuneLen(r) <= maxWord {
			word = utf8.AppendRune(word, r)
		}
	}
	for i, next := 0, 0; i < len(text); i = next {
		c := text[i]
		next = i + 1
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			add(rune(c), i, next)
			continue
		case 'A' <= c && c <= 'Z':
			add(rune(c)+'a'-'A', i, next)
			continue
		case c < utf8.RuneSelf:
			flush()
			continue
		}
		p := norm.NFKD.PropertiesString(text[i:])
		size := max(p.Size(), 1)
		next = i + size
		plain := text[i:next]
		if d := p.Decomposition(); d != nil {
			plain = string(d)
		}
		for _, r := range plain {
			switch {
			case unicode.Is(unicode.Mn, r):
			case r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.Is(unicode.Mc, r):
				flush()
			case unicode.In(r, unblanked...):
				flush()
				add(r, i, next)
				flush()
			default:
				add(unicode.ToLower(r), i, next)
			}
		}
	}
	flush()
}

// unblanked is writing that puts no blanks between words.
var unblanked = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar}

// fold appends the words of a text, each with a blank before it.
func fold(dst []byte, text string) []byte {
	walk(text, func(word []byte, _, _ int) { dst = append(append(dst, ' '), word...) })
	return dst
}

// A kind is what a term that is no word is about.
type kind byte

const (
	every    kind = 'a' // every session has it
	caller   kind = 'c'
	grouped  kind = 'g'
	model    kind = 'm'
	route    kind = 'r'
	outcome  kind = 'o'
	rule     kind = 'u'
	verdict  kind = 'v'
	approval kind = 'p'
	finding  kind = 'f'
	status   kind = 's'
	tokens   kind = 't' // t0, t1, t2, by coarseness; see ladder
	duration kind = 'd'
)

// longValue is how many bytes of a value stand in its term as they are.
const longValue = 96

// term appends, with a blank before it, the term of a value of some kind; begin leaves out what ends one that is too long, so that
// longer ones begin with it.
func term(dst []byte, k kind, value string, begin bool) []byte {
	dst = utf8.AppendRune(append(dst, ' '), mark)
	dst = append(dst, byte(k))
	value = strings.ToLower(value)
	dst = hex.AppendEncode(dst, []byte(value[:min(len(value), longValue)]))
	if len(value) > longValue && !begin {
		h := fnv.New128a()
		h.Write([]byte(value))
		dst = hex.AppendEncode(append(dst, 'z'), h.Sum(nil))
	}
	return dst
}

// A ladder is how numbers become terms: eight steps from each power of two to the next, so that a step is an eighth to a ninth of the
// number wide; eight of them make one of a coarser ladder, and eight of those one of the coarsest. A range of numbers is then a few
// terms, and the rows at its two ends are looked at themselves.
const (
	rungs   = 3
	perRung = 3 // bits
)

func step(n int64) uint64 {
	u := uint64(max(n, 0))
	if u < 8 {
		return u
	}
	e := uint64(bits.Len64(u) - 1)
	return 8*(e-2) + u>>(e-3)&7
}

func rung(dst []byte, k kind, level int, n uint64) []byte {
	dst = utf8.AppendRune(append(dst, ' '), mark)
	dst = append(dst, byte(k), '0'+byte(level))
	for shift := 8; shift >= 0; shift -= 4 { // steps are fewer than 4096
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// climb appends the terms of a number.
func climb(dst []byte, k kind, n int64) []byte {
	s := step(n)
	for level := range rungs {
		dst = rung(dst, k, level, s)
		s >>= perRung
	}
	return dst
}

// cover returns the terms of all steps from one to another, both included.
func cover(k kind, from, to uint64) (terms []string) {
	const mask = 1<<perRung - 1
	add := func(level int, n uint64) { terms = append(terms, string(rung(nil, k, level, n)[1:])) }
	for level := 0; from <= to; level++ {
		if level == rungs-1 {
			for ; from <= to; from++ {
				add(level, from)
			}
			break
		}
		for from&mask != 0 && from <= to {
			add(level, from)
			from++
		}
		for from <= to && to&mask != mask {
			add(level, to)
			if to == 0 {
				return terms
			}
			to--
		}
		if from > to {
			break
		}
		from, to = from>>perRung, to>>perRung
	}
	return terms
}

// distinct returns the terms of a folded text, each once.
func distinct(text string) []string {
	seen := make(map[string]struct{})
	var out []string
	for w := range strings.FieldsSeq(text) {
		if _, ok := seen[w]; !ok {
			seen[w] = struct{}{}
			out = append(out, w)
		}
	}
	return out
}
