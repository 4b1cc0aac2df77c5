package export

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
)

// nowhere is the base of a call that no route took, and that does not say at which host it was made.
const nowhere = "http://gateway.invalid"

// routed says whether it is on record to which base URL a call went, or would have gone.
func (s *session) routed() bool {
	u, err := url.Parse(s.Upstream)
	return err == nil && u.Host != ""
}

// base returns where a call went: the base URL of the model's API, as it is on record. Of one that no route took, the host at which
// it was made. Only what cannot mean anything to a shell or a browser but itself is in it.
func (s *session) base() string {
	u, err := url.Parse(s.Upstream)
	if err != nil || u.Host == "" {
		u = &url.URL{Scheme: "http", Host: transcript.HeaderOf(s.Request.Headers, "Host")}
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsFunc(u.Host, func(r rune) bool { return !plain(r, ".-:[]") }) {
		return nowhere
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r, "/.-_~%") }) {
		return nowhere
	}
	return u.Scheme + "://" + u.Host + path
}

func plain(r rune, also string) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(also, r)
}

// path returns the path and query of a call, as the caller spelt them, behind what the route put in its base URL's place: which
// that was is not on record, but of the known APIs all paths begin with /v1/. What cannot stand in a URL is escaped.
func (s *session) path() string {
	t := s.Request.Target
	if s.Shape != transcript.HTTP {
		p, _, _ := strings.Cut(t, "?")
		if i := strings.Index(p, "/v1/"); i > 0 {
			t = t[i:]
		}
	}
	if !strings.HasPrefix(t, "/") {
		t = "/" + t
	}
	var b strings.Builder
	for i := range len(t) {
		if c := t[i]; c > ' ' && c < 0x7f && !strings.ContainsRune("\"<>\\^`{|}#", rune(c)) {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// url returns where the call went, or would have gone.
func (s *session) url() string { return s.base() + s.path() }

// isText says whether bytes are text that programs show as such: UTF-8, with no control characters but those of lines.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
	}
	return true
}
