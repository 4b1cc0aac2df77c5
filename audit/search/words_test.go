package search

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
)

func TestFold(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"Hello, World!":         " hello world",
		"don't x_1 3.14":        " don t x 1 3 14",
		"naïve Zürich ÉCOLE":    " naive zurich ecole",
		"nai\u0308ve":           " naive",
		"Straße ﬁne ½ ①":        " straße fine 1 2 1",
		"東京タワー 42":              " 東 京 タ ワ ー 42",
		"Привет, МИР":           " привет мир",
		"⟦CARD:abcd2345⟧":       " card abcd2345",
		"⟦CARD:…1111⟧":          " card 1111",
		"\ue000c616c a":         " c616c a",
		"\xff\xfea\x00b":        " a b",
		"हिन्दी":                " हिनदी",
		"a\u200bb":              " a b",
		"{\"tool_name\":\"x\"}": " tool name x",
	} {
		if got := string(fold(nil, text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	long := strings.Repeat("é", 100)
	if got := string(fold(nil, long)); got != " "+strings.Repeat("e", 64) {
		t.Errorf("a long word: %q", got)
	}
}

// Whatever stands in a text, its words have no character that separates words or begins terms, and lie where they are said to.
func FuzzWalk(f *testing.F) {
	for _, s := range []string{"Hello, World!", "naïve ﬁ ½ 東京", "\xff\ue000", "⟦CARD:…1111⟧", "हिन्दी"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		last := 0
		walk(text, func(word []byte, from, to int) {
			if len(word) == 0 || len(word) > maxWord || !utf8.Valid(word) || strings.ContainsAny(string(word), " \"*\ue000") {
				t.Fatalf("%q", word)
			}
			if from < last || to <= from || to > len(text) {
				t.Fatalf("%q at %d to %d, after %d, of %d", word, from, to, last, len(text))
			}
			last = from
		})
	})
}

// A number is in one of the steps of a range exactly if it is in the range, but for the steps at its ends.
func TestCover(t *testing.T) {
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	last := uint64(0)
	for n := range int64(100_000) {
		if s := step(n); s < last || s > last+1 {
			t.Fatalf("%d is in step %d, after %d", n, s, last)
		} else {
			last = s
		}
	}
	if s := step(math.MaxInt64); s >= 4096 {
		t.Fatalf("the last step is %d", s)
	}
	for range 2000 {
		a, b := uint64(r.IntN(490)), uint64(r.IntN(490))
		terms := cover(tokens, a, b)
		if len(terms) > 40 {
			t.Errorf("%d terms from %d to %d", len(terms), a, b)
		}
		for s := range uint64(490) {
			in := false
			for level := range rungs {
				in = in || slices.Contains(terms, string(rung(nil, tokens, level, s>>(perRung*level))[1:]))
			}
			if in != (a <= s && s <= b) {
				t.Fatalf("from %d to %d, step %d: %v", a, b, s, in)
			}
		}
	}
}

// A value that is longer than a term has room for is another one than what it begins with, and begins with that.
func TestLongValues(t *testing.T) {
	long := strings.Repeat("name", 40)
	exact, other, begin := string(term(nil, caller, long, false)), string(term(nil, caller, long+"x", false)), string(term(nil, caller, long, true))
	if exact == other || !strings.HasPrefix(exact, begin) || !strings.HasPrefix(other, begin) {
		t.Errorf("%s\n%s\n%s", exact, other, begin)
	}
}

func TestSnippet(t *testing.T) {
	filler := strings.Repeat("lorem ipsum dolor sit amet ", 20)
	for _, c := range []struct {
		text, query string
		want        string // with brackets around what was found
	}{
		{"one two three", "two", "one [two] three"},
		{"one two three", `"two three"`, "one [two three]"},
		{"one\n\n two\tthree", `"ONE two"`, "[one two] three"},
		{"one two three", "-two caller:x", ""},
		{"one two three", "four", ""},
		{"naïve Zürich", "zurich", "naïve [Zürich]"},
		{"keys and keyed", "key*", "[keys] and [keyed]"},
		{"my ⟦CARD:abcd2345⟧ is", `"⟦CARD:abcd2345⟧"`, "my ⟦[CARD:abcd2345]⟧ is"},
		{"東京タワー", "京", "東[京]タワー"},
		{filler + "needle " + filler, "needle", "…dolor sit amet " + strings.Repeat("lorem ipsum dolor sit amet ", 3) + "[needle]" + strings.Repeat(" lorem ipsum dolor sit amet", 7) + " lorem…"},
	} {
		want, err := audit.ParseQuery(c.query, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		text, marks := snippet(c.text, want)
		shown, last := "", 0
		for _, m := range marks {
			shown += text[last:m[0]] + "[" + text[m[0]:m[1]] + "]"
			last = m[1]
		}
		if shown += text[last:]; shown != c.want {
			t.Errorf("%q in %.30q: %q, want %q", c.query, c.text, shown, c.want)
		}
	}
}

// A snippet is bounded, valid where the text is, and its marks lie in it, whatever the text is.
func FuzzSnippet(f *testing.F) {
	f.Add("one two  three", "two")
	f.Add(strings.Repeat("é\n", 300)+"two", "two")
	f.Add(strings.Repeat("two", 300), "two*")
	f.Fuzz(func(t *testing.T, text, query string) {
		want, err := audit.ParseQuery(query, time.Now())
		if err != nil {
			return
		}
		s, marks := snippet(text, want)
		if len(s) > 3*(4*around+20) || utf8.ValidString(text) && !utf8.ValidString(s) || strings.ContainsAny(s, "\n\r\t") {
			t.Fatalf("%q", s)
		}
		last := 0
		for _, m := range marks {
			if m[0] < last || m[1] < m[0] || m[1] > len(s) {
				t.Fatal(fmt.Sprint(marks, len(s)))
			}
			last = m[1]
		}
	})
}
