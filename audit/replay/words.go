package replay

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Span is a stretch of text that two answers share, or that only one of them has.
type Span struct {
	In   Has    `json:"in"`
	Text string `json:"text"`
}

// Has says which of two answers has something.
type Has string

const (
	InBoth Has = "both"
	InA    Has = "a"
	InB    Has = "b"
)

// maxEdits bounds how many words may have been taken out and put in before two texts are held to be unlike each other between their
// common beginning and end: what is found by then costs maxEdits squared.
const maxEdits = 1000

// diffWords returns what two texts have in common and what only one of them has, by words: those of InBoth and InA together are a,
// those of InBoth and InB are b. What is replaced stands first, what it is replaced with behind it.
func diffWords(a, b string) []Span {
	before, after := splitWords(a), splitWords(b)
	head := 0
	for head < len(before) && head < len(after) && before[head] == after[head] {
		head++
	}
	tail := 0
	for tail < len(before)-head && tail < len(after)-head && before[len(before)-1-tail] == after[len(after)-1-tail] {
		tail++
	}
	var s spans
	s.add(InBoth, before[:head]...)
	s.script(before[head:len(before)-tail], after[head:len(after)-tail])
	s.add(InBoth, before[len(before)-tail:]...)
	return s.all()
}

// splitWords cuts a text into words, runs of white space, and single other characters. Joined they are the text.
func splitWords(s string) []string {
	var words []string
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if kind := kindOf(r); kind != other {
			for n < len(s) {
				next, more := utf8.DecodeRuneInString(s[n:])
				if kindOf(next) != kind {
					break
				}
				n += more
			}
		}
		words = append(words, s[:n])
		s = s[n:]
	}
	return words
}

const (
	other = iota
	word
	space
)

func kindOf(r rune) int {
	switch {
	case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r), r == '_':
		return word
	case unicode.IsSpace(r):
		return space
	}
	return other
}

// spans are gathered so that between two stretches that both have, there is one that only a has at most, and one that only b has.
type spans struct {
	done       []Span
	same, a, b strings.Builder
}

func (s *spans) add(in Has, words ...string) {
	for _, w := range words {
		switch in {
		case InBoth:
			if s.a.Len()+s.b.Len() > 0 {
				s.flush()
			}
			s.same.WriteString(w)
		case InA:
			s.a.WriteString(w)
		case InB:
			s.b.WriteString(w)
		}
	}
}

func (s *spans) flush() {
	for _, p := range []struct {
		in   Has
		text *strings.Builder
	}{{InBoth, &s.same}, {InA, &s.a}, {InB, &s.b}} {
		if p.text.Len() > 0 {
			s.done = append(s.done, Span{p.in, p.text.String()})
			p.text.Reset()
		}
	}
}

func (s *spans) all() []Span {
	s.flush()
	return s.done
}

// script adds a shortest way from a to b (E. Myers, An O(ND) Difference Algorithm and Its Variations, 1986), or, where that takes more
// than maxEdits steps, all of a and all of b.
func (s *spans) script(a, b []string) {
	if len(a) == 0 || len(b) == 0 {
		s.add(InA, a...)
		s.add(InB, b...)
		return
	}
	trace := furthest(a, b)
	if trace == nil {
		s.add(InA, a...)
		s.add(InB, b...)
		return
	}
	// Back from the end: each step is one word taken out or put in, and before it a run that both have.
	type step struct {
		in   Has
		word string
	}
	var back []step
	x, y := len(a), len(b)
	for d := len(trace) - 1; d >= 0; d-- {
		k := x - y
		px, py := 0, 0
		if d > 0 {
			was := trace[d-1]
			from := k - 1
			if k == -d || k != d && was.at(k-1) < was.at(k+1) {
				from = k + 1
			}
			px = was.at(from)
			py = px - from
		}
		for x > px && y > py {
			x, y = x-1, y-1
			back = append(back, step{InBoth, a[x]})
		}
		switch {
		case x > px:
			x--
			back = append(back, step{InA, a[x]})
		case y > py:
			y--
			back = append(back, step{InB, b[y]})
		}
	}
	for i := len(back) - 1; i >= 0; i-- {
		s.add(back[i].in, back[i].word)
	}
}

// A front is how far in a one comes with as many edits as it has the number, for each diagonal x-y from minus that number on.
type front []int

func (f front) at(k int) int {
	if i := k + len(f)/2; i >= 0 && i < len(f) {
		return f[i]
	}
	return -1
}

// furthest returns the front for every number of edits until the ends are reached; nil where that takes too many.
func furthest(a, b []string) []front {
	var trace []front
	for d := 0; d <= min(len(a)+len(b), maxEdits); d++ {
		f := make(front, 2*d+1)
		for i := range f {
			f[i] = -1
		}
		for k := -d; k <= d; k += 2 {
			x := 0
			if d > 0 {
				was := trace[d-1]
				if k == -d || k != d && was.at(k-1) < was.at(k+1) {
					x = was.at(k + 1)
				} else {
					x = was.at(k-1) + 1
				}
			}
			y := x - k
			if x < 0 || x > len(a) || y < 0 || y > len(b) {
				continue // beyond an edge: nothing leads on from there
			}
			for x < len(a) && y < len(b) && a[x] == b[y] {
				x, y = x+1, y+1
			}
			f[k+d] = x
			if x == len(a) && y == len(b) {
				return append(trace, f)
			}
		}
		trace = append(trace, f)
	}
	return nil
}
