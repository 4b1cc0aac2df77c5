package console

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A span is a piece of recorded text, as the template "text" writes it. Only its characters are content: html/template escapes them.
type span struct {
	Kind string // "" as it stands, "mask" for what stands in a masked value's place, "odd" for what could not be seen, "hit" for what was looked for
	Text string // of an odd one, its name
	Note string // what it is, for whoever points at it
}

// masked matches masks as tlog/record/mask writes them: ⟦KIND⟧, ⟦KIND:token⟧, ⟦KIND:…1111⟧.
var masked = regexp.MustCompile(`⟦([A-Z][A-Z0-9_]{0,39})(?::([^⟦⟧\x00-\x1f]{1,80}))?⟧`)

// spans takes a recorded text apart. What it returns has everything that stands in the text, and nothing else: what is invisible,
// turns the direction of writing, or is no text at all stands in it by its name.
func spans(s string) []span {
	var all []span
	for s != "" {
		m := masked.FindStringSubmatchIndex(s)
		if m == nil {
			return seen(all, s)
		}
		all = seen(all, s[:m[0]])
		note := "masked: " + strings.ToLower(s[m[2]:m[3]])
		if m[4] >= 0 {
			note += "; the same value has the same mask"
		}
		for _, p := range seen(nil, s[m[0]:m[1]]) {
			if p.Kind == "" {
				p.Kind, p.Note = "mask", note
			}
			all = append(all, p)
		}
		s = s[m[1]:]
	}
	return all
}

// shownText is how a recorded text stands in a page, without the marks: for a module, which can only write text.
func shownText(s string) string {
	var b strings.Builder
	for _, p := range spans(s) {
		if p.Kind == "odd" {
			p.Text = "[" + p.Text + "]"
		}
		b.WriteString(p.Text)
	}
	return b.String()
}

// seen appends the spans of a text without masks.
func seen(all []span, s string) []span {
	var as strings.Builder // it stands, since the last odd one
	plain := func() {
		if as.Len() > 0 {
			all = append(all, span{Text: as.String()})
			as.Reset()
		}
	}
	from, marks := 0, 0
	var before rune // the last character that stands for itself
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		name := ""
		switch {
		case r == utf8.RuneError && n == 1:
			name = fmt.Sprintf(`\x%02x`, s[i])
		case r == '\n' || r == '\t' || r == '\r' && strings.HasPrefix(s[i+1:], "\n"):
			marks = 0
		case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
			// As many as any writing needs; more are heaped up to cover what stands around.
			if marks++; marks > 4 || invisible(r) && !joins(r, before, s[i+n:]) {
				name = runeName(r)
			}
		default:
			if marks = 0; invisible(r) && !joins(r, before, s[i+n:]) {
				name = runeName(r)
			}
		}
		if name == "" {
			if before = r; r == '\r' { // the line break behind it stands for both
				as.WriteString(s[from:i])
				from = i + n
			}
			i += n
			continue
		}
		as.WriteString(s[from:i])
		plain()
		all = append(all, span{Kind: "odd", Text: name, Note: oddNote(r, n)})
		i += n
		from, before = i, 0
	}
	as.WriteString(s[from:])
	plain()
	return all
}

// invisible says whether a reader would not see a character, or not where it stands.
func invisible(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r < 0xa0: // controls
		return true
	case r < 0x300:
		return r == 0xa0 || r == 0xad
	case slices.Contains(blank, r):
		return true
	}
	return unicode.In(r, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp, unicode.Co, unicode.Variation_Selector, unicode.Noncharacter_Code_Point) ||
		!unicode.IsGraphic(r) // not assigned
}

// blank are letters, marks and symbols that look like nothing.
var blank = []rune{0x34f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180c, 0x180d, 0x180f, 0x2800, 0x3164, 0xffa0, 0xfffc, 0x1d159}

// joins says whether a character that is invisible by itself belongs to an emoji between its neighbours.
func joins(r, before rune, after string) bool {
	switch r {
	case 0xfe0f: // shown as a picture
		return unicode.Is(unicode.So, before) || unicode.Is(unicode.Sm, before) || '0' <= before && before <= '9' || before == '#' || before == '*'
	case 0x200d:
		next, _ := utf8.DecodeRuneInString(after)
		return (unicode.Is(unicode.So, before) || unicode.Is(unicode.Sk, before) || before == 0xfe0f) && unicode.Is(unicode.So, next)
	}
	return false
}

// runeName is how an odd character stands in a text.
func runeName(r rune) string {
	if n, ok := oddNames[r]; ok {
		return n[0]
	}
	return fmt.Sprintf("U+%04X", r)
}

func oddNote(r rune, n int) string {
	if r == utf8.RuneError && n == 1 {
		return "a byte that is no text"
	}
	if n, ok := oddNames[r]; ok {
		return fmt.Sprintf("U+%04X, %s", r, n[1])
	}
	return fmt.Sprintf("U+%04X, which is not seen", r)
}

// oddNames are the short names of those that are met most, and what they do.
var oddNames = map[rune][2]string{
	0x00: {"NUL", "a null character"}, 0x07: {"BEL", "a bell"}, 0x08: {"BS", "a backspace"}, 0x0d: {"CR", "a carriage return"},
	0x1b: {"ESC", "begins a command to a terminal"}, 0x7f: {"DEL", "a delete character"}, 0xa0: {"NBSP", "a space that does not break"},
	0xad: {"SHY", "a soft hyphen"}, 0x200b: {"ZWSP", "a space of no width"}, 0x200c: {"ZWNJ", "keeps letters apart"},
	0x200d: {"ZWJ", "joins letters"}, 0x200e: {"LRM", "a mark from left to right"}, 0x200f: {"RLM", "a mark from right to left"},
	0x202a: {"LRE", "turns writing to left-to-right"}, 0x202b: {"RLE", "turns writing to right-to-left"}, 0x202c: {"PDF", "ends a turn of writing"},
	0x202d: {"LRO", "forces writing to left-to-right"}, 0x202e: {"RLO", "forces writing to right-to-left"}, 0x2028: {"LS", "a line separator"},
	0x2029: {"PS", "a paragraph separator"}, 0x2060: {"WJ", "joins words"}, 0x2066: {"LRI", "turns writing to left-to-right"},
	0x2067: {"RLI", "turns writing to right-to-left"}, 0x2068: {"FSI", "turns writing"}, 0x2069: {"PDI", "ends a turn of writing"},
	0xfeff: {"BOM", "a byte order mark"},
}

// partBytes is how much of a body is on a page; the rest is on pages of its own.
const partBytes = 64 << 10

// A part is one page's worth of a long text.
type part struct {
	Text     string
	N, Of    int // the first is 1
	From, To int // bytes
	Bytes    int // of the whole
}

// partOf returns a part of a body; parts end between characters. One that there is not is the last.
func partOf(body []byte, n int) part { return partOfSize(body, n, partBytes) }

func partOfSize(body []byte, n, most int) part {
	of := max(1, (len(body)+most-1)/most)
	n = min(max(n, 1), of)
	from, to := edge(body, (n-1)*most), edge(body, n*most)
	return part{Text: string(body[from:to]), N: n, Of: of, From: from, To: to, Bytes: len(body)}
}

// edge moves an offset back to where a character begins.
func edge(body []byte, at int) int {
	if at >= len(body) {
		return len(body)
	}
	for back := 0; back < utf8.UTFMax && at-back > 0; back++ {
		if utf8.RuneStart(body[at-back]) {
			return at - back
		}
	}
	return at
}
