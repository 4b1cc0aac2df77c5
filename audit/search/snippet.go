package search

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/verify"
)

// around is how many bytes of a text are shown before what was found, at most, and after it twice as many.
const around = 100

// Snippet cuts a few words around what was looked for out of a session's text; see [audit.Index].
func (ix *Index) Snippet(s verify.Session, want audit.Wanted) (string, [][2]int) {
	return snippet(textOf(transcript.Of(s)), want)
}

func snippet(text string, want audit.Wanted) (string, [][2]int) {
	var found [][2]int // in text
	var words []string
	var places [][2]int
	walk(text, func(word []byte, from, to int) {
		words = append(words, string(word))
		places = append(places, [2]int{from, to})
	})
	for i := range want {
		t := &want[i]
		if t.Field != audit.ByText || t.Not {
			continue
		}
		for _, phrase := range phrases(t) {
			for _, at := range occurrences(words, strings.Fields(string(phrase)), t.Prefix) {
				found = append(found, [2]int{places[at[0]][0], places[at[1]][1]})
			}
		}
	}
	if len(found) == 0 {
		return "", nil
	}
	slices.SortFunc(found, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(b[1], a[1])) })
	return cut(text, found)
}

// most is how many occurrences of a phrase are looked for.
const mostFound = 64

// occurrences returns the first and the last word of each place where words stand in a row.
func occurrences(words, phrase []string, prefix bool) (at [][2]int) {
	for i := 0; i+len(phrase) <= len(words) && len(at) < mostFound; i++ {
		n := 0
		for n < len(phrase) && (words[i+n] == phrase[n] || prefix && n == len(phrase)-1 && strings.HasPrefix(words[i+n], phrase[n])) {
			n++
		}
		if n == len(phrase) {
			at = append(at, [2]int{i, i + n - 1})
		}
	}
	return at
}

// cut returns the text around the first of the places, on one line, and where in it the places are that are in it.
func cut(text string, found [][2]int) (string, [][2]int) {
	from, to := max(found[0][0]-around, 0), min(found[0][1]+2*around, found[0][0]+4*around, len(text))
	for from > 0 && !utf8.RuneStart(text[from]) {
		from--
	}
	for to < len(text) && !utf8.RuneStart(text[to]) {
		to++
	}
	// Whole words, where there are any.
	if blank := strings.IndexFunc(text[from:found[0][0]], unicode.IsSpace); from > 0 && blank >= 0 {
		from += blank
	}
	if end := min(found[0][1], to); to < len(text) {
		if blank := strings.LastIndexFunc(text[end:to], unicode.IsSpace); blank >= 0 {
			to = end + blank
		}
	}
	var b strings.Builder
	if from > 0 {
		b.WriteString("…")
	}
	var marks [][2]int
	blank := true
	i, begun := 0, -1
	for at, r := range text[from:to] {
		at += from
		if begun >= 0 && at >= found[i][1] {
			marks = append(marks, [2]int{begun, b.Len()})
			begun = -1
			i++
		}
		for begun < 0 && i < len(found) && found[i][0] < at {
			i++ // it begins inside another
		}
		if unicode.IsSpace(r) {
			if !blank {
				b.WriteByte(' ')
			}
			blank = true
			continue
		}
		blank = false
		if begun < 0 && i < len(found) && found[i][0] == at {
			begun = b.Len()
		}
		b.WriteRune(r)
	}
	if begun >= 0 {
		marks = append(marks, [2]int{begun, b.Len()})
	}
	out := strings.TrimRight(b.String(), " ")
	if to < len(text) {
		out += "…"
	}
	return out, marks
}
