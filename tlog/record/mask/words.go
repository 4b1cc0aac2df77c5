package mask

import "fmt"

// A words is an Aho-Corasick automaton over a set of words, whatever their case in ASCII: one step of a table for each
// byte of the text, and at each byte the words that end there.
type words struct {
	class [256]uint8 // of a byte; 0 for bytes that stand in no word
	width int        // classes
	next  []int32    // [state+class]: the next state; its complement, if words end there. A state is a multiple of width
	ends  [][]uint16 // by state over width: the words that end there, longest first
	size  []int32    // bytes of each word
}

// maxWords is the largest number of words in one automaton.
const maxWords = 1 << 16

// newWords builds the automaton. A word's number is its index; an empty word is never found. Bytes of alike are taken for its
// first.
func newWords(list []string, alike ...byte) (*words, error) {
	if len(list) > maxWords {
		return nil, fmt.Errorf("%d words; %d is the most", len(list), maxWords)
	}
	w := &words{width: 1, size: make([]int32, len(list))}
	if len(alike) > 0 { // spaces and what is written for them
		w.width++
		for _, c := range alike {
			w.class[c] = 1
		}
	}
	for i, word := range list {
		w.size[i] = int32(len(word))
		for j := range len(word) {
			if c := lower(word[j]); w.class[c] == 0 {
				w.class[c] = uint8(w.width) // 256 less the capitals: it fits
				w.width++
			}
		}
	}
	for c := byte('A'); c <= 'Z'; c++ {
		w.class[c] = w.class[lower(c)]
	}
	grow := func() int32 {
		w.next = append(w.next, make([]int32, w.width)...)
		w.ends = append(w.ends, nil)
		return int32(len(w.ends) - 1)
	}
	grow()
	for i, word := range list {
		if word == "" {
			continue
		}
		at := int32(0)
		for j := range len(word) {
			to := int(at)*w.width + int(w.class[word[j]])
			if w.next[to] == 0 {
				n := grow()
				w.next[to] = n
			}
			at = w.next[to]
		}
		w.ends[at] = append(w.ends[at], uint16(i))
	}
	// Breadth first: when a state is reached, what its shorter suffix leads to is known.
	fail := make([]int32, len(w.ends))
	var queue []int32
	for c := range w.width {
		if s := w.next[c]; s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		w.ends[s] = append(w.ends[s], w.ends[fail[s]]...)
		for c := range w.width {
			to := int(s)*w.width + c
			down := w.next[int(fail[s])*w.width+c]
			if n := w.next[to]; n != 0 {
				fail[n] = down
				queue = append(queue, n)
			} else {
				w.next[to] = down
			}
		}
	}
	for i, n := range w.next {
		if w.next[i] = n * int32(w.width); len(w.ends[n]) > 0 {
			w.next[i] = ^w.next[i]
		}
	}
	return w, nil
}

// in reports whether any of the words stands in b.
func (w *words) in(b []byte) bool {
	state := int32(0)
	for _, c := range b {
		if state = w.next[state+int32(w.class[c])]; state < 0 {
			return true
		}
	}
	return false
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c &^ 0x20
	}
	return c
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}
