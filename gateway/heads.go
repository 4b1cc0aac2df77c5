package gateway

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"
)

// forwarded are the request headers that go on to the model, in lower case; a name that ends in '-' stands for all
// that begin so. Everything else stays here: credentials, cookies, what is between caller and gateway only, and what
// nobody thought of. A route can name more.
var forwarded = []string{
	"accept", "accept-language", "content-type", "content-encoding", "user-agent", "idempotency-key",
	"openai-", "anthropic-", "x-stainless-", "traceparent", "tracestate", "if-none-match", "if-modified-since", "range",
}

// returnedHeaders are the response headers that go back to the caller, in the same notation.
var returnedHeaders = []string{
	"content-type", "content-encoding", "content-language", "content-disposition", "content-range", "accept-ranges",
	"cache-control", "etag", "last-modified", "expires", "vary", "link", "location", "allow", "deprecation", "sunset", "warning",
	"retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id", "openai-", "anthropic-", "x-ratelimit-", "ratelimit",
}

// never are headers that pass in neither direction, whatever a route names.
var never = []string{
	"authorization", "x-api-key", "cookie", "set-cookie", "connection", "keep-alive", "proxy-", "te", "trailer",
	"transfer-encoding", "upgrade", "host", "content-length", "expect", "http2-settings", "tallystick-",
}

// maxHeader is the longest name of a header, in bytes, that passes.
const maxHeader = 64

// A lowered name is a header's name in lower case, without an allocation.
type lowered struct {
	b [maxHeader]byte
	n int
}

func lower[T string | []byte](name T) (l lowered, ok bool) {
	if len(name) > maxHeader {
		return l, false
	}
	l.n = len(name)
	for i := range len(name) {
		if l.b[i] = name[i]; 'A' <= l.b[i] && l.b[i] <= 'Z' {
			l.b[i] += 'a' - 'A'
		}
	}
	return l, true
}

func (l *lowered) in(list []string) bool {
	for _, w := range list {
		switch {
		case len(w) > l.n:
		case len(w) == l.n, w[len(w)-1] == '-':
			if string(l.b[:len(w)]) == w {
				return true
			}
		}
	}
	return false
}

// credentialEnds end the names of headers that bear a credential, whichever family they are of.
var credentialEnds = []string{"-key", "-token", "-secret", "-authorization", "-cookie", "-credential", "-password"}

// bears says whether a header may bear a credential, by its name.
func (l *lowered) bears() bool {
	name := string(l.b[:l.n])
	return name != "idempotency-key" && slices.ContainsFunc(credentialEnds, func(end string) bool { return strings.HasSuffix(name, end) })
}

// passes says whether a header passes: it is among the usual ones and bears no credential, or the route names it, and it is
// not one that never does.
func passes[T string | []byte](name T, usual, more []string) bool {
	l, ok := lower(name)
	if !ok || l.in(never) {
		return false
	}
	return l.in(usual) && !l.bears() || slices.ContainsFunc(more, func(m string) bool { return len(m) == l.n && strings.EqualFold(m, string(name)) })
}

func returned(name string, more []string) bool { return passes(name, returnedHeaders, more) }

// outgoing makes the head of the request to the model: what is allowed of the caller's, then the service credential,
// last, so that nothing of the caller's stands in its place.
func (c *call) outgoing(ctx *fasthttp.RequestCtx) http.Header {
	h := make(http.Header, 12)
	for name, v := range ctx.Request.Header.All() {
		switch {
		case !passes(name, forwarded, c.route.Forward):
		case equalFold(name, "idempotency-key"), equalFold(name, "x-idempotency-key"):
			// Under its canonical name the transport would take it for leave to send a request twice by itself, and
			// the record would know of one.
			n := strings.ToLower(string(name))
			h[n] = append(h[n], string(v))
		default:
			h.Add(string(name), string(v))
		}
	}
	if h.Get("User-Agent") == "" {
		h["User-Agent"] = nil // or the transport would make one up
	}
	// What comes back packed could not be read for its end.
	h.Set("Accept-Encoding", "identity")
	if c.showed = c.route.forms(); c.showed != nil {
		v := string(c.showed[0])
		if c.route.Scheme != "" {
			v = c.route.Scheme + " " + v
		}
		h.Set(c.route.Header, v)
	}
	return h
}

// recordedHead is a raw head as a record has it: a JSON array of [name, value], credentials left out.
func recordedHead(raw []byte) []byte {
	b := make([]byte, 0, len(raw)+len(raw)/4)
	b = append(b, '[')
	for line := range bytes.Lines(raw) {
		name, value, ok := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		if ok {
			b = appendPair(b, name, bytes.Trim(value, " \t"))
		}
	}
	return append(b, ']')
}

// recordedHeader is the same for a model's head, in the order of the names.
func recordedHeader(h http.Header) []byte {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	b := append(make([]byte, 0, 512), '[')
	for _, name := range names {
		for _, v := range h[name] {
			b = appendPair(b, name, v)
		}
	}
	return append(b, ']')
}

// secretHeaders hold what lets somebody in. Records have their names only.
var secretHeaders = []string{"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "set-cookie"}

func appendPair[T string | []byte](b []byte, name, value T) []byte {
	if b[len(b)-1] != '[' {
		b = append(b, ',')
	}
	b = appendText(append(b, '['), name)
	if l, ok := lower(name); ok && l.in(secretHeaders) {
		return append(b, `,"(left out)"]`...)
	}
	b = appendText(append(b, ','), value)
	return append(b, ']')
}

// appendText appends s as a JSON string; what is not UTF-8 in it is replaced.
func appendText[T string | []byte](b []byte, s T) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		b, _ = jsontext.AppendQuote(b, strings.ToValidUTF8(string(s), "\uFFFD"))
	}
	return b
}

// appendTime appends a time, if it is set, to what becomes a JSON object of times by name when its brace is closed.
func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	if b = append(b, ','); len(b) == 1 {
		b[0] = '{'
	}
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, `":"`...)
	b = t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	return append(b, '"')
}

// packed says whether a request's body has a content coding, under which its JSON cannot be read.
func packed(h *fasthttp.RequestHeader) bool {
	for name, v := range h.All() {
		if codes(name, v) {
			return true
		}
	}
	return false
}

// codes says whether a header says that the body has a content coding.
func codes(name, value []byte) bool {
	return equalFold(name, "content-encoding") && !equalFold(bytes.Trim(value, " \t"), "identity")
}
