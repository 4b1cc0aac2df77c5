package export

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
)

// mostArgument is the longest body that is an argument of the command, in bytes. One argument has at most 128 KiB on Linux.
const mostArgument = 64 << 10

// curl writes a command that makes the call of a session again: for a POSIX shell, with curl and, where the body is no printable text,
// with base64. $KEY stands in the place of the credential, which is not on record, and $BASE, where it is set, in that of the
// base URL, so that it can be sent to a gateway or a mock. Everything that a caller wrote stands between single quotes, in base64, or not
// at all, and nothing in it can end the quotes, move a terminal's cursor, or be taken for an option or a file.
func (c *cargo) curl() ([]byte, error) {
	s := &c.sessions[0]
	if s.Request.Method == "" {
		return nil, fmt.Errorf("what session %s asked is not shown, or was erased: there is nothing to send", s.ID)
	}
	args := []string{"curl"}
	arg := func(words ...string) { args = append(args, strings.Join(words, " ")) }
	switch {
	case s.Request.Method == "HEAD":
		arg("--head")
	case isToken(s.Request.Method):
		arg("--request", quote(s.Request.Method))
	}
	arg("--globoff", "--path-as-is")
	if s.Request.Stream {
		arg("--no-buffer")
	}
	base := nowhere // a host that a caller named is not where anybody shows a key
	if s.routed() {
		base = s.base()
	}
	arg("--url", `"${BASE:-`+base+`}"`+quote(s.path()))
	left := 0
	for _, h := range s.Request.Headers {
		switch word := credential(h.Name); {
		case computed(h.Name):
		case word != "":
			arg("--header", word)
		case secret(h.Name), !isToken(h.Name), !printable(h.Value), strings.Contains(h.Value, "\n"):
			left++
		case h.Value == "":
			arg("--header", quote(h.Name+";")) // which is how curl sends one that is empty
		default:
			arg("--header", quote(h.Name+": "+h.Value))
		}
	}
	for _, name := range []string{"Accept", "User-Agent", "Content-Type"} {
		if transcript.HeaderOf(s.Request.Headers, name) == "" { // curl would add its own
			arg("--header", quote(name+":"))
		}
	}
	body := s.Request.Body
	b := fmt.Appendf(nil, "# session %s\n", s.ID)
	if left > 0 {
		b = fmt.Appendf(b, "# left out: %d headers, of which the value is not on record or cannot be written here\n", left)
	}
	switch {
	case len(body) > mostArgument || !printable(string(body)):
		arg("--data-binary", "@-")
		b = append(b, "base64 -d <<'END' |\n"...)
		for lines := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(body)), 76) {
			b = append(append(b, lines...), '\n')
		}
		b = append(b, "END\n"...)
	case len(body) > 0:
		arg("--data-raw", quote(string(body)))
	}
	b = append(b, strings.Join(args, " \\\n  ")...)
	return append(b, '\n'), nil
}

// quote writes a word for a shell, in which nothing but a single quote means anything.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// printable says whether text can be pasted into a terminal, and shows there as what it is: no control characters but line breaks, and none
// that cannot be seen or turn the direction of writing.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// isToken says whether s is a token of HTTP (RFC 9110 §5.6.2), as methods and names of headers are.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r, "!#$%&'*+-.^_`|~") })
}

// computed says whether a header is about a connection or a transfer, of which curl makes its own.
func computed(name string) bool {
	switch strings.ToLower(name) {
	case "host", "content-length", "connection", "transfer-encoding", "expect", "accept-encoding", "keep-alive", "te", "trailer", "upgrade":
		return true
	}
	return false
}

// secret says whether a header holds what lets somebody in, and so has no value on record.
func secret(name string) bool {
	switch strings.ToLower(name) {
	case "authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "set-cookie":
		return true
	}
	return false
}

// credential returns the word of the header in which $KEY goes; "" of all others.
func credential(name string) string {
	switch strings.ToLower(name) {
	case "authorization":
		return `"Authorization: Bearer $KEY"`
	case "x-api-key", "api-key", "x-goog-api-key":
		return `"` + strings.ToLower(name) + `: $KEY"`
	}
	return ""
}
