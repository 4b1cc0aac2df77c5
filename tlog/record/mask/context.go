package mask

import (
	"slices"
	"strings"
)

// The words of context are looked for where a word begins, and most words are told from all of them by three letters.
type contextWords struct {
	bits  [1 << 15 / 32]uint32 // by key
	first [1 << 15]int16       // by key: where in groups its words are
	group [][]int32            // longest first
	list  []string
	kinds [][]Kind // by word
}

// A said is a word of context that was found: text[from:to].
type said struct{ from, to, word int32 }

// A hearing is how far a text was searched for words of context, and what was found, in the order of where it begins.
type hearing struct {
	w    *contextWords
	at   int
	said []said
}

// newContextWords makes the words of a table; what it has is folded, in lower case, and its parts are separated by single spaces.
func newContextWords(byWord map[string][]Kind) *contextWords {
	w := &contextWords{}
	for word := range byWord {
		if len(word) > 1 {
			w.list = append(w.list, word)
		}
	}
	slices.SortFunc(w.list, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	for i, word := range w.list {
		w.kinds = append(w.kinds, byWord[word])
		k := contextKey([]byte(word), 0)
		if w.bits[k/32]&(1<<(k%32)) == 0 {
			w.bits[k/32] |= 1 << (k % 32)
			w.first[k] = int16(len(w.group))
			w.group = append(w.group, nil)
		}
		w.group[w.first[k]] = append(w.group[w.first[k]], int32(i))
	}
	return w
}

// contextKey is made of the three bytes at i: five bits each, none for what separates words.
func contextKey(b []byte, i int) uint16 {
	k := fold5[b[i]] << 10
	if i+1 < len(b) {
		if k |= fold5[b[i+1]] << 5; i+2 < len(b) && fold5[b[i+1]] != 0 {
			k |= fold5[b[i+2]]
		}
	}
	return k
}

// fold5 is 1 to 26 for letters, 27 for digits, 28 to 31 for what is not ASCII, and 0 for everything else.
var fold5 = func() (t [256]uint16) {
	for i := range t {
		switch c := byte(i); {
		case c >= 0x80:
			t[i] = 28 + uint16(c&3)
		case is(c, isLetter):
			t[i] = uint16(c & 31)
		case is(c, isDigit):
			t[i] = 27
		}
	}
	return t
}()

// contextSpace is the byte itself in lower case, or a space for what may stand for one.
var contextSpace = func() (t [256]byte) {
	for i := range t {
		t[i] = lower(byte(i))
	}
	for _, c := range []byte("_-\n\t\r") {
		t[c] = ' '
	}
	return t
}()

// upTo searches on to the position to, but no earlier than from. What is skipped is never searched.
func (h *hearing) upTo(b []byte, from, to int) {
	i := max(h.at, from)
	if to = min(to, len(b)); i >= to {
		return
	}
	h.at = to
	w := h.w
	last := byte(0)
	if i > 0 {
		last = b[i-1]
	}
	for ; i < to; i++ {
		c, was := b[i], last
		last = c
		if fold5[c] == 0 || c < 0x80 && fold5[was] != 0 && was < 0x80 && !(isUpper(c) && !isUpper(was)) {
			continue
		}
		k := contextKey(b, i)
		if w.bits[k/32]&(1<<(k%32)) == 0 {
			continue
		}
		for _, n := range w.group[w.first[k]] {
			if end := i + len(w.list[n]); end <= len(b) && w.is(n, b[i:end]) && bounded(b, end) {
				h.said = append(h.said, said{int32(i), int32(end), n})
			}
		}
	}
}

func (w *contextWords) is(n int32, b []byte) bool {
	word := w.list[n]
	for i, c := range b {
		if contextSpace[c] != word[i] {
			return false
		}
	}
	return true
}

// bounded reports whether a word may end where no letter follows, or a digit does, or the case changes as in cardNumber.
func bounded(b []byte, end int) bool {
	return end == len(b) || !isWord(b[end]) || !isWord(b[end-1]) || is(b[end], isDigit) || isUpper(b[end]) && !isUpper(b[end-1])
}

// since returns what begins after from.
func (h *hearing) since(from int) []said {
	i := len(h.said)
	for i > 0 && int(h.said[i-1].from) > from {
		i--
	}
	return h.said[i:]
}

// How far before and after a value the words of its context are looked for, and how long they may be, in bytes.
const (
	before  = 80
	after   = 24
	longest = 64
	far     = 1 << 20
)

// distance returns how many bytes are between [from, to) and the nearest word of a kind's context, at most before, or far.
func (v *view) distance(kind Kind, from, to, most int) int {
	v.near.upTo(v.b, from-before-longest, to+after)
	return v.near.nearest(kind, from, to, most)
}

func (v *view) told(kind Kind, from, to, most int) bool {
	return v.distance(kind, from, to, most) < far
}

// distance is the same for a few short words that are asked for often: it searches no more than it must.
func (h *hearing) distance(b []byte, kind Kind, from, to, most int) int {
	h.upTo(b, from-before/2, to+after/2)
	return h.nearest(kind, from, to, most)
}

// nearest returns the distance to the nearest word that was found.
func (h *hearing) nearest(kind Kind, from, to, most int) int {
	best := far
	for _, s := range h.since(from - most - longest) {
		d := from - int(s.to)
		if start := int(s.from); start >= to {
			if start-to > after {
				break
			}
			d = 2*(start-to) + 1 // what comes after says less
		} else if d < 0 {
			continue
		}
		if d < best && d <= most && slices.Contains(h.w.kinds[s.word], kind) {
			best = d
		}
	}
	return best
}
