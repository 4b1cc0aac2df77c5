package gateway

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strconv"
)

// A refusal says why a request was not read: the HTTP status, a short code for machines and counters, and a sentence
// for a person that names what is wrong and what to do about it. It quotes header names at most, never values.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return "gateway: " + r.code + ": " + r.message }

func refuse400(code, message string) *refusal { return &refusal{http.StatusBadRequest, code, message} }

// headRules are the parts of a head check that differ between listeners. The zero value is usable.
type headRules struct {
	fields  int      // most header lines in a head; 0 means headMaxFields
	hosts   []string // hosts served, "name" (any port) or "name:port", compared without case; nil means any valid host
	maxBody int64    // largest Content-Length, in bytes; 0 means not checked
}

const headMaxFields = 100

// A headSpan is a piece of a head, as offsets from its first byte. It stays true when the bytes move.
type headSpan struct{ off, end int }

func (s headSpan) in(head []byte) []byte { return head[s.off:s.end] }
func (s headSpan) empty() bool           { return s.off == s.end }

// A requestHead is what a checked head means. No second reading of the same bytes is possible for a recipient that
// follows RFC 9112, nor for one that is lenient in a way known to us.
type requestHead struct {
	method     headSpan // one of the methods of headMethods
	target     headSpan // origin-form
	host       headSpan // host or host:port
	connection headSpan // value of Connection, empty if absent

	authorization, apiKey headSpan // values of Authorization and of X-Api-Key, empty if absent

	length  int64 // Content-Length in bytes; -1 if absent
	chunked bool  // Transfer-Encoding: chunked
	http10  bool
	close   bool // the client said Connection: close
	isHead  bool // the method is HEAD
}

// headMethods are the methods read; it is also the value of the Allow header.
const headMethods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// checkHead reads one whole request head, from the first byte of the request line to the empty line and nothing more,
// and either says what it means or why it is refused. It is the same reading a connection gives to a head that arrives
// piece by piece, so it serves as well to check a head about to be sent. A nil rules is the zero headRules.
//
// What is asked beyond RFC 9112: CRLF ends every line; no folding; header names without "_" and "." (software that
// turns names into variables takes X_Y and X.Y for X-Y); one Host, valid and without user info, in HTTP/1.0 as well;
// Content-Length or Transfer-Encoding but not both, the one canonical, the other exactly "chunked"; origin-form targets
// in which a path has one spelling; Connection is close or keep-alive; no Upgrade, TE, Trailer, Proxy-*; no body on GET,
// HEAD, OPTIONS; the headers that carry identity or framing at most once.
func checkHead(head []byte, rules *headRules) (requestHead, *refusal) {
	var h headReader
	h.reset(rules)
	n, bad := h.read(head)
	switch {
	case bad != nil:
		return requestHead{}, bad
	case n == 0:
		return requestHead{}, refusalHeadCut()
	case n != len(head):
		return requestHead{}, refuse400("bytes_after_head", "there are bytes after the empty line that ends the head; pass the head alone")
	}
	return h.head, nil
}

func refusalHeadCut() *refusal {
	return refuse400("head_truncated", "the request ended before the empty line that closes its head; send the whole head")
}

// A headReader checks a head line by line as it arrives. Its answer depends on the bytes alone, never on how they were
// cut into pieces: lines are judged in order, each only once its end, or a fault before its end, is in view.
type headReader struct {
	rules  *headRules
	head   requestHead
	next   int    // where the line being read starts
	scan   int    // no CR or LF between next and here
	fields int    // header lines seen
	seen   uint32 // singletons seen, one bit each
	begun  bool   // the request line has been read
}

func (h *headReader) reset(rules *headRules) { *h = headReader{rules: rules} }

// read looks at all bytes of the head that have arrived, which must begin with those it was shown before. It returns
// the length of the head once it is complete and good, 0 while more is needed.
func (h *headReader) read(b []byte) (int, *refusal) {
	if !h.begun && len(b) > 0 {
		if bad := checkFirstByte(b[0]); bad != nil {
			return 0, bad
		}
	}
	for {
		i := bytes.IndexByte(b[h.scan:], '\r')
		if i < 0 {
			if bytes.IndexByte(b[h.scan:], '\n') >= 0 {
				return 0, refusalBareLF()
			}
			h.scan = len(b)
			return 0, nil
		}
		if bytes.IndexByte(b[h.scan:h.scan+i], '\n') >= 0 {
			return 0, refusalBareLF()
		}
		h.scan += i
		if h.scan+1 == len(b) {
			return 0, nil
		}
		if b[h.scan+1] != '\n' {
			return 0, refuse400("bare_cr", "the request head has a CR that is not followed by LF; end every line with CRLF and send no other CR")
		}
		start, end := h.next, h.scan
		h.next, h.scan = end+2, end+2
		var bad *refusal
		switch {
		case !h.begun:
			h.begun = true
			bad = h.requestLine(b, start, end)
		case start == end:
			return h.next, h.finish(b)
		default:
			bad = h.field(b, start, end)
		}
		if bad != nil {
			return 0, bad
		}
	}
}

func refusalBareLF() *refusal {
	return refuse400("bare_lf", "the request head has a line that ends in LF without CR; end every line with CRLF")
}

// checkFirstByte judges the one byte that tells another protocol from HTTP, so that nobody waits for a line to end that
// never will.
func checkFirstByte(c byte) *refusal {
	switch {
	case c == 0x16:
		return refuse400("tls_on_plain_port", "this port speaks plain HTTP and got the start of a TLS handshake; use http://, or the port that serves https://")
	case c == '\r', c == '\n', headByte[c]&byteToken != 0:
		return nil
	}
	return refuse400("bad_request_line", "the request does not begin with a method; send METHOD /path HTTP/1.1")
}

// requestLine reads METHOD SP target SP HTTP/1.x.
func (h *headReader) requestLine(b []byte, start, end int) *refusal {
	line := b[start:end]
	m := bytes.IndexByte(line, ' ')
	if m <= 0 {
		return refuseRequestLine()
	}
	for _, c := range line[:m] {
		if headByte[c]&byteToken == 0 {
			return refuseRequestLine()
		}
	}
	v := bytes.LastIndexByte(line, ' ')
	if v == m {
		return refuseRequestLine()
	}
	version := line[v+1:]
	switch {
	case string(version) == "HTTP/1.1":
	case string(version) == "HTTP/1.0":
		h.head.http10 = true
	case len(version) == 8 && string(version[:5]) == "HTTP/" && isHeadDigit(version[5]) && version[6] == '.' && isHeadDigit(version[7]):
		return &refusal{http.StatusHTTPVersionNotSupported, "version_not_supported", "only HTTP/1.1 and HTTP/1.0 are spoken on this port; send HTTP/1.1"}
	default:
		return refuseRequestLine()
	}
	h.head.method = headSpan{start, start + m}
	h.head.target = headSpan{start + m + 1, start + v}
	h.head.length = -1
	switch string(line[:m]) {
	case "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	case "HEAD":
		h.head.isHead = true
	case "CONNECT", "TRACE":
		return &refusal{http.StatusMethodNotAllowed, "method_not_allowed", "CONNECT and TRACE are not served; use one of " + headMethods}
	default:
		return &refusal{http.StatusNotImplemented, "method_not_known", "the method is not known here (methods are upper case); use one of " + headMethods}
	}
	return checkTarget(h.head.target.in(b))
}

func refuseRequestLine() *refusal {
	return refuse400("bad_request_line", "the request line is malformed; send METHOD /path HTTP/1.1 with one space between the parts")
}

// checkTarget reads an origin-form target (RFC 9112 §3.2.1). A path has one spelling: no escape for what needs none, none
// for what would change the segments or the escaping once decoded, no empty or dot segments.
func checkTarget(t []byte) *refusal {
	bad := func(message string) *refusal { return refuse400("bad_target", message) }
	if len(t) == 0 || t[0] != '/' {
		return bad("the request target must be a path that begins with /; send the scheme and host in neither target nor path")
	}
	i := 0
	for i < len(t) && t[i] != '?' {
		c := t[i]
		switch {
		case c == '/':
			i++
			if i < len(t) && t[i] == '/' {
				return bad("the path has an empty segment (//); write it with single slashes")
			}
			if isDotSegment(t[i:]) {
				return bad("the path has a . or .. segment; write the path it leads to")
			}
		case c == '%':
			v, ok := headEscape(t[i:])
			if !ok {
				return bad("the path has a % that two hexadecimal digits do not follow; write a percent sign as part of an escape only")
			}
			if v < 0x20 || v == 0x7f || v == '/' || v == '\\' || v == '%' || v != '~' && headByte[v]&byteUnreserved != 0 {
				return bad("the path escapes a letter, digit, dot, slash, backslash, percent sign or control character; write it plainly or leave it out")
			}
			i += 3
		case headByte[c]&bytePath != 0:
			i++
		default:
			return bad("the path has a character that RFC 3986 does not allow there; escape it as %XX")
		}
	}
	for i < len(t) {
		c := t[i]
		switch {
		case c == '%':
			if _, ok := headEscape(t[i:]); !ok {
				return bad("the query has a % that two hexadecimal digits do not follow; write a percent sign as %25")
			}
			i += 3
		case headByte[c]&byteQuery != 0:
			i++
		default:
			return bad("the query has a character that RFC 3986 does not allow there; escape it as %XX")
		}
	}
	return nil
}

// isDotSegment tells whether t begins with a segment that is "." or "..", also one with a ";" parameter, which some
// servers cut off before they resolve dots.
func isDotSegment(t []byte) bool {
	n := 0
	for n < len(t) && n < 2 && t[n] == '.' {
		n++
	}
	return n > 0 && (n == len(t) || t[n] == '/' || t[n] == '?' || t[n] == ';')
}

// headEscape decodes the %XX t begins with.
func headEscape(t []byte) (byte, bool) {
	if len(t) < 3 {
		return 0, false
	}
	hi, lo := headHex(t[1]), headHex(t[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

func headHex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func isHeadDigit(c byte) bool { return '0' <= c && c <= '9' }

// field reads one header line.
func (h *headReader) field(b []byte, start, end int) *refusal {
	h.fields++
	most := headMaxFields
	if h.rules != nil && h.rules.fields > 0 {
		most = h.rules.fields
	}
	if h.fields > most {
		return &refusal{http.StatusRequestHeaderFieldsTooLarge, "too_many_headers", "the request head has more than " + strconv.Itoa(most) + " header lines; send fewer"}
	}
	line := b[start:end]
	n, bad := checkFieldLine(line)
	if bad != nil {
		return bad
	}
	name := line[:n]
	v := headSpan{start + n + 1, end}
	for v.off < v.end && isOWS(b[v.off]) {
		v.off++
	}
	for v.off < v.end && isOWS(b[v.end-1]) {
		v.end--
	}
	value := v.in(b)

	k := knownField(name)
	if k == fieldOther {
		return nil
	}
	if k == fieldForbidden {
		return refuse400("header_not_allowed", "the header "+headName(name)+" asks something of the connection that is not offered here; leave it out")
	}
	if h.seen&(1<<k) != 0 {
		return refuse400("duplicate_header", "the header "+headName(name)+" was sent twice; send it once")
	}
	h.seen |= 1 << k

	switch k {
	case fieldHost:
		h.head.host = v
		return h.checkHost(value)
	case fieldContentLength:
		n, ok := parseLength(value)
		if !ok {
			return refuse400("bad_content_length", "Content-Length must be a decimal number of at most 15 digits without sign or leading zeros; send the number of bytes in the body")
		}
		h.head.length = n
	case fieldTransferEncoding:
		if !equalFold(value, "chunked") {
			return refuse400("bad_transfer_encoding", "the only transfer coding understood is chunked, and alone; send Transfer-Encoding: chunked or a Content-Length")
		}
		h.head.chunked = true
	case fieldConnection:
		switch {
		case equalFold(value, "close"):
			h.head.close = true
		case equalFold(value, "keep-alive"):
		default:
			return refuse400("bad_connection", "Connection may say close or keep-alive and nothing else; leave out the rest")
		}
		h.head.connection = v
	case fieldAuthorization:
		h.head.authorization = v
	case fieldXAPIKey:
		h.head.apiKey = v
	case fieldExpect:
		if !equalFold(value, "100-continue") {
			return &refusal{http.StatusExpectationFailed, "expectation_failed", "the only expectation met is 100-continue; leave out the Expect header"}
		}
	}
	return nil
}

// checkFieldLine reads "name: value" and returns the length of the name. Names are tokens without "_" and "."; values
// hold anything but control characters, of which a tab is not one.
func checkFieldLine(line []byte) (int, *refusal) {
	n := 0
	for n < len(line) && headByte[line[n]]&byteName != 0 {
		n++
	}
	if n == 0 || n == len(line) || line[n] != ':' {
		return 0, refuseFieldName(line, n)
	}
	if !isFieldText(line[n+1:]) {
		return 0, refuse400("bad_header_value", "the value of the header "+headName(line[:n])+" has a control character in it; send printable characters, spaces and tabs")
	}
	return n, nil
}

// refuseFieldName says what is wrong with a line whose name ends, or should, at n.
func refuseFieldName(line []byte, n int) *refusal {
	switch {
	case n == 0 && isOWS(line[0]):
		return refuse400("folded_header", "a header line begins with a space or tab; folded headers are not read, send each header on one line")
	case n == len(line):
		return refuse400("bad_header_line", "a header line has no colon; send Name: value")
	case n == 0 && line[0] == ':':
		return refuse400("bad_header_name", "a header has no name; send Name: value")
	case line[n] == '_' || line[n] == '.':
		return refuse400("bad_header_name", "a header name has an underscore or dot in it, which other software may take for a dash; use letters, digits and dashes")
	case isOWS(line[n]):
		return refuse400("bad_header_name", "a header name has a space or tab in or after it; put the colon right behind the name")
	}
	return refuse400("bad_header_name", "a header name has a character in it that is not allowed; use letters, digits and dashes")
}

// headName returns a name for a message: tokens need no quotes, but may be as long as a head.
func headName(name []byte) string { return string(name[:min(len(name), 64)]) }

func isOWS(c byte) bool { return c == ' ' || c == '\t' }

// isFieldText tells whether b has no control character but tabs, eight bytes at a time.
func isFieldText(b []byte) bool {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		del := w ^ 0x7f*ones
		// Both tests may err towards finding something; they never miss.
		if (w-0x20*ones)&^w&highs|(del-ones)&^del&highs == 0 {
			continue
		}
		for _, c := range b[:8] {
			if headByte[c]&byteText == 0 {
				return false
			}
		}
	}
	for _, c := range b {
		if headByte[c]&byteText == 0 {
			return false
		}
	}
	return true
}

// parseLength reads a canonical decimal of at most 15 digits, so that it fits every integer and float it may meet.
func parseLength(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 15 || v[0] == '0' && len(v) > 1 {
		return 0, false
	}
	var n int64
	for _, c := range v {
		if !isHeadDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// finish judges the head as a whole.
func (h *headReader) finish(b []byte) *refusal {
	switch {
	case h.seen&(1<<fieldHost) == 0:
		return refuse400("missing_host", "the request has no Host header; send one, in HTTP/1.0 too")
	case h.head.chunked && h.head.length >= 0:
		return refuse400("two_lengths", "the request has both Content-Length and Transfer-Encoding; send one of them")
	case h.head.chunked && h.head.http10:
		return refuse400("bad_transfer_encoding", "HTTP/1.0 has no Transfer-Encoding; send HTTP/1.1 or a Content-Length")
	}
	if h.head.chunked || h.head.length > 0 {
		switch string(h.head.method.in(b)) {
		case "GET", "HEAD", "OPTIONS":
			return refuse400("body_not_allowed", "a body on GET, HEAD or OPTIONS has no meaning; leave it out or use POST")
		}
	}
	if h.rules != nil && h.rules.maxBody > 0 && h.head.length > h.rules.maxBody {
		return refusalBodyTooLarge(h.rules.maxBody)
	}
	return nil
}

func refusalBodyTooLarge(most int64) *refusal {
	return &refusal{http.StatusRequestEntityTooLarge, "body_too_large", "the request body is larger than the " + strconv.FormatInt(most, 10) + " bytes taken here; send less, or ask the operator to raise the limit"}
}

// checkHost reads host[:port] and compares it with the hosts served.
func (h *headReader) checkHost(v []byte) *refusal {
	name, port, ok := splitHost(v)
	if !ok {
		return refuse400("bad_host", "the Host header is not a host name or address with an optional port; send Host: name or Host: name:port")
	}
	if h.rules == nil || h.rules.hosts == nil {
		return nil
	}
	for _, s := range h.rules.hosts {
		if equalFold(v, s) || len(port) > 0 && equalFold(name, s) {
			return nil
		}
	}
	return &refusal{http.StatusMisdirectedRequest, "host_not_served", "the host named in the Host header is not served here; use the name the operator published"}
}

// splitHost reads a host name (letters, digits, dash, underscore; labels not empty, a dot may end it), an IPv4 address or
// a bracketed IPv6 address, and a port from 1 to 65535 if there is a colon.
func splitHost(v []byte) (name, port []byte, ok bool) {
	if len(v) == 0 || len(v) > 255+6 {
		return nil, nil, false
	}
	i := 0
	if v[0] == '[' {
		i = bytes.IndexByte(v, ']') + 1
		if i < 4 {
			return nil, nil, false
		}
		for _, c := range v[1 : i-1] {
			if headHex(c) < 0 && c != ':' && c != '.' {
				return nil, nil, false
			}
		}
	} else {
		label := 0
		for i < len(v) && v[i] != ':' {
			switch c := v[i]; {
			case c == '.':
				if label == 0 {
					return nil, nil, false
				}
				label = 0
			case headByte[c]&byteHost != 0:
				label++
			default:
				return nil, nil, false
			}
			i++
		}
		if i == 0 || i > 255 {
			return nil, nil, false
		}
	}
	if i == len(v) {
		return v, nil, true
	}
	port = v[i+1:]
	if v[i] != ':' || len(port) == 0 || len(port) > 5 || port[0] == '0' {
		return nil, nil, false
	}
	n, ok := parseLength(port)
	return v[:i], port, ok && n <= 65535
}

// equalFold compares b with the ASCII string s without case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		d := s[i]
		if c == d {
			continue
		}
		if c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z' {
			return false
		}
	}
	return true
}
