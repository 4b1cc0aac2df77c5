package masktest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Leak returns n bytes of a value, or all of a shorter one, that stand in a text, and nothing if none do.
func Leak(text []byte, value string, n int) string {
	for i := 0; i == 0 || i+n <= len(value); i++ {
		if part := value[i:min(i+n, len(value))]; part != "" && bytes.Contains(text, []byte(part)) {
			return part
		}
	}
	return ""
}

// Leaks looks for values, and for parts of them, in whatever somebody can read: in records, bundles, files and logs. Safe for
// concurrent use.
type Leaks struct {
	parts map[string]string // of partBytes: what of
	whole map[string]string
}

// partBytes is as short as it can be without being found by chance in megabytes of hashes.
const partBytes = 10

// NewLeaks looks for the values of the cases as they are, as the cases spell them, and both in URLs, base64 and hexadecimal digits;
// and for the values by their digits alone, and in escapes of JSON, HTML and URLs. Cases that nobody promises to mask are left out.
func NewLeaks(cases []Bypass) *Leaks {
	l := &Leaks{parts: make(map[string]string), whole: make(map[string]string)}
	for _, c := range cases {
		if !c.MustMask {
			continue
		}
		for _, s := range []string{c.Secret, c.Text} {
			l.add(c.ID, s)
			l.add(c.ID+" in a query", url.QueryEscape(s))
			l.add(c.ID+" in a path", url.PathEscape(s))
			for i := range min(3, len(s)) { // three bytes are four characters: the value may begin at any of the three
				b := base64.RawStdEncoding.EncodeToString([]byte(s[i:]))
				b = b[:len(b)-2] // and what follows it has a part in the last ones
				l.add(c.ID+" in base64", b)
				l.add(c.ID+" in base64 of URLs", strings.NewReplacer("+", "-", "/", "_").Replace(b))
			}
			l.whole[hex.EncodeToString([]byte(s))] = c.ID + " in hexadecimal digits"
			l.whole[strings.ToUpper(hex.EncodeToString([]byte(s)))] = c.ID + " in hexadecimal digits"
		}
		l.add(c.ID+" in JSON", escaped(c.Secret, `\u%04x`))
		l.add(c.ID+" in HTML", escaped(c.Secret, "&#%d;"))
		l.add(c.ID+" in percents", escaped(c.Secret, "%%%02X"))
		digits := strings.Map(func(r rune) rune {
			if '0' <= r && r <= '9' {
				return r
			}
			return -1
		}, c.Secret)
		if len(digits) >= partBytes-1 {
			l.add(c.ID+" by its digits", digits)
		}
	}
	return l
}

func escaped(s, format string) string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, format, r)
	}
	return b.String()
}

func (l *Leaks) add(name, s string) {
	if len(s) < partBytes {
		l.whole[s] = name
		return
	}
	for i := 0; i+partBytes <= len(s); i++ {
		if p := s[i : i+partBytes]; l.parts[p] == "" {
			l.parts[p] = name
		}
	}
}

// In returns what of the values stands in a text, with what is around it, or nothing.
func (l *Leaks) In(text []byte) string {
	for i := 0; i+partBytes <= len(text); i++ {
		if name, ok := l.parts[string(text[i:i+partBytes])]; ok {
			return around(text, i, name)
		}
	}
	for s, name := range l.whole {
		if i := bytes.Index(text, []byte(s)); i >= 0 {
			return around(text, i, name)
		}
	}
	return ""
}

func around(text []byte, i int, name string) string {
	from, to := max(0, i-100), min(len(text), i+100)
	for from < i && !utf8.RuneStart(text[from]) {
		from++
	}
	return fmt.Sprintf("%s: …%q…", name, text[from:to])
}
