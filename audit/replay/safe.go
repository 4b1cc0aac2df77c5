package replay

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Safe returns text that does nothing to a terminal, whoever wrote it: control characters, those that turn the direction of writing,
// those that cannot be seen, and bytes that are not UTF-8 become escapes as Go writes them. Line breaks and tabs stay.
func Safe(s string) string {
	if isSafe(s) {
		return s
	}
	b := make([]byte, 0, len(s)+len(s)/8)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'x', hex[s[i]>>4], hex[s[i]&15])
		case r == '\r' && strings.HasPrefix(s[i:], "\r\n"): // a line break of the other kind
		case shown(r):
			b = append(b, s[i:i+n]...)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b = append(b, q[1:len(q)-1]...)
		}
		i += n
	}
	return string(b)
}

func shown(r rune) bool { return r == '\n' || r == '\t' || strconv.IsPrint(r) }

func isSafe(s string) bool {
	for i, r := range s {
		if !shown(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return false
		}
	}
	return true
}

// SafeLine is Safe for what is to be one line: line breaks and tabs become escapes, too.
func SafeLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(Safe(s))
}
