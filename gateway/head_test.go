package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// TestHeadTargets: what a request target may be.
func TestHeadTargets(t *testing.T) {
	good := []string{
		"/", "/a", "/a/", "/v1/chat/completions", "/v1beta/models/gemini-2:generateContent?alt=sse", "/a+b%2Bc?x=a+b%2Bc",
		"/model/anthropic.claude-3%3A0/invoke", "/%C3%A9", "/a?", "/a?b?c/d//e/../f", "/a?x=%00%0d%0a%2f%25", "/a?filter[x]=1",
		"/...", "/.a", "/..a", "/a.", "/a..", "/a;v=1", "/~x", "/%7Ex", "/a=b&c,d!$'()*@:",
	}
	bad := []string{
		"", "*", "a", "http://evil.test/", "//", "//evil.test/", "/a//b", "/a//", "/.", "/..", "/./a", "/a/../b", "/a/.", "/a/..", "/a/..?x", "/a/..;/b", "/.;x/",
		"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/%2e%2e/a", "/%2E", "/a%25", "/a%00", "/a%0a", "/a%7f", "/%66irst", "/a%2Db", "/a%5fb", "/a%3",
		"/a%", "/a%zz", "/a%%41", "/a?%", "/a?%4", "/a?%gg", "/a#b", "/a?b#c", `/a\b`, `/a?b\c`, "/a\"", "/<a>", "/a|b", "/a^b", "/a`b", "/a{b}", "/a?{b}",
		"/a\x00", "/a\t", "/a\x7f", "/\xff", "/é", "/a?\xff", "/a[b]",
	}
	for _, target := range good {
		if bad := checkTarget([]byte(target)); bad != nil {
			t.Errorf("%q: %v", target, bad)
		}
	}
	for _, target := range bad {
		if bad := checkTarget([]byte(target)); bad == nil || bad.code != "bad_target" {
			t.Errorf("%q: %v, want bad_target", target, bad)
		}
	}
}

// TestHeadHosts: what a Host header may be, and which of them are served.
func TestHeadHosts(t *testing.T) {
	for _, host := range []string{
		"a", "gw.test", "GW.Test.", "gw_1.test", "gw.test:1", "gw.test:65535", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080", "[::ffff:1.2.3.4]", strings.Repeat("a", 255) + ":80",
	} {
		if _, _, ok := splitHost([]byte(host)); !ok {
			t.Errorf("%q refused", host)
		}
	}
	for _, host := range []string{
		"", ":", ":80", "a:", "a:0", "a:080", "a:65536", "a:123456", "a:b", "a:8 0", "a:80:80", "a b", "a,b", "a@b", "u:p@a", "a/b", "a?b", "a#b", "a%2eb", "a\\b", "a..b", ".a", ".", "é", "a\xff",
		"[", "[]", "[:]", "[::1", "::1", "[::1]80", "[::1%25eth0]", "[g::1]", "[::1]:", "[::1]]", "a[::1]", "a\tb", "a!", "a*", strings.Repeat("a", 256),
	} {
		if _, _, ok := splitHost([]byte(host)); ok {
			t.Errorf("%q taken", host)
		}
	}
	h := headReader{rules: &headRules{hosts: []string{"gw.test", "api.test:8443"}}}
	for host, served := range map[string]bool{
		"gw.test": true, "GW.TEST:1": true, "api.test:8443": true, "api.test": false, "api.test:1": false, "gw.test.": false, "agw.test": false, "gw.tes": false,
	} {
		if bad := h.checkHost([]byte(host)); (bad == nil) != served || bad != nil && bad.status != 421 {
			t.Errorf("%q: %v, want served: %v", host, bad, served)
		}
	}
}

// TestHeadRefusals: one fault each, and the code that names it.
func TestHeadRefusals(t *testing.T) {
	const line, host = "POST / HTTP/1.1\r\n", "Host: gw.test\r\n"
	for _, test := range []struct{ head, code string }{
		{line + host + "Content-Length: 3\r\n\r\n", ""},
		{line + "HOST:\t gw.test \t\r\ncontent-type:\r\nX-Any: \x80\xff\t\"\\\r\n\r\n", ""},
		{line + host + "X: a\r\nX: b\r\n\r\n", ""},
		{line + host + "Transfer-Encoding:\tCHUNKED\t\r\n\r\n", ""},
		{line + host + "Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\n", ""},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", ""},
		{"DELETE / HTTP/1.1\r\n" + host + "Content-Length: 7\r\n\r\n", ""},
		{line + host, "head_truncated"},
		{line + host + "\r\nx", "bytes_after_head"},
		{"", "head_truncated"},
		{"\r\n" + line + host + "\r\n", "bad_request_line"},
		{line + host + "X: a\n\r\n", "bare_lf"},
		{line + host + "\n", "bare_lf"},
		{line + host + "X: a\rb\r\n\r\n", "bare_cr"},
		{line + host + "X: a\r\r\n\r\n", "bare_cr"},
		{"POST  / HTTP/1.1\r\n" + host + "\r\n", "bad_target"},
		{"POST /  HTTP/1.1\r\n" + host + "\r\n", "bad_target"},
		{"POST / HTTP/1.1 \r\n" + host + "\r\n", "bad_request_line"},
		{"POST /\r\n" + host + "\r\n", "bad_request_line"},
		{"POST\r\n" + host + "\r\n", "bad_request_line"},
		{"PO\x00ST / HTTP/1.1\r\n" + host + "\r\n", "bad_request_line"},
		{"POST / http/1.1\r\n" + host + "\r\n", "bad_request_line"},
		{"POST / HTTP/1.11\r\n" + host + "\r\n", "bad_request_line"},
		{"POST / HTTP/1.2\r\n" + host + "\r\n", "version_not_supported"},
		{"POST / HTTP/0.9\r\n" + host + "\r\n", "version_not_supported"},
		{"TRACE / HTTP/1.1\r\n" + host + "\r\n", "method_not_allowed"},
		{"QUERY / HTTP/1.1\r\n" + host + "\r\n", "method_not_known"},
		{line + " X: a\r\n" + host + "\r\n", "folded_header"},
		{line + host + "X: a\r\n b\r\n\r\n", "folded_header"},
		{line + host + "X: a\r\n\tb\r\n\r\n", "folded_header"},
		{line + host + "X\r\n\r\n", "bad_header_line"},
		{line + host + ": a\r\n\r\n", "bad_header_name"},
		{line + host + "X : a\r\n\r\n", "bad_header_name"},
		{line + host + "X Y: a\r\n\r\n", "bad_header_name"},
		{line + host + "X_Y: a\r\n\r\n", "bad_header_name"},
		{line + host + "X.Y: a\r\n\r\n", "bad_header_name"},
		{line + host + "X\xe9: a\r\n\r\n", "bad_header_name"},
		{line + host + "X\x00: a\r\n\r\n", "bad_header_name"},
		{line + host + "(X): a\r\n\r\n", "bad_header_name"},
		{line + host + "X: a\x00\r\n\r\n", "bad_header_value"},
		{line + host + "X: 12345678\x7f\r\n\r\n", "bad_header_value"},
		{line + host + "X: 123456\x0b8\r\n\r\n", "bad_header_value"},
		{line + "\r\n", "missing_host"},
		{line + "Host:\r\n\r\n", "bad_host"},
		{line + host + host + "\r\n", "duplicate_header"},
		{line + host + "Authorization: a\r\nAUTHORIZATION: a\r\n\r\n", "duplicate_header"},
		{line + host + "Content-Type: a\r\nContent-Type: a\r\n\r\n", "duplicate_header"},
		{line + host + "X-Api-Key: a\r\nx-api-key: b\r\n\r\n", "duplicate_header"},
		{line + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "duplicate_header"},
		{line + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "duplicate_header"},
		{line + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "two_lengths"},
		{line + host + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", "two_lengths"},
		{line + host + "Content-Length:\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 1,1\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: +1\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 01\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 0x1\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 1 1\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 1000000000000000\r\n\r\n", "bad_content_length"},
		{line + host + "Content-Length: 4000000000\r\n\r\n", "body_too_large"},
		{line + host + "Transfer-Encoding: identity\r\n\r\n", "bad_transfer_encoding"},
		{line + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", "bad_transfer_encoding"},
		{line + host + "Transfer-Encoding:\r\n\r\n", "bad_transfer_encoding"},
		{"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", "bad_transfer_encoding"},
		{line + host + "Connection: close, Host\r\n\r\n", "bad_connection"},
		{line + host + "Connection: upgrade\r\n\r\n", "bad_connection"},
		{line + host + "Connection: close\r\nConnection: close\r\n\r\n", "duplicate_header"},
		{line + host + "Upgrade: h2c\r\n\r\n", "header_not_allowed"},
		{line + host + "TE: trailers\r\n\r\n", "header_not_allowed"},
		{line + host + "Trailer: X\r\n\r\n", "header_not_allowed"},
		{line + host + "Proxy-Authorization: x\r\n\r\n", "header_not_allowed"},
		{line + host + "proxy-connection: keep-alive\r\n\r\n", "header_not_allowed"},
		{line + host + "HTTP2-Settings: x\r\n\r\n", "header_not_allowed"},
		{line + host + "Expect: 200-ok\r\n\r\n", "expectation_failed"},
		{line + host + "Expect: 100-continue, x\r\n\r\n", "expectation_failed"},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\n", "body_not_allowed"},
		{"HEAD / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", "body_not_allowed"},
		{"OPTIONS / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\n", "body_not_allowed"},
		{line + host + strings.Repeat("X:\r\n", 100) + "\r\n", "too_many_headers"},
		{"\x16\x03\x01", "tls_on_plain_port"},
		{" POST / HTTP/1.1\r\n" + host + "\r\n", "bad_request_line"},
	} {
		code, bad := "", (*refusal)(nil)
		if _, bad = checkHead([]byte(test.head), &headRules{maxBody: 1 << 20}); bad != nil {
			code = bad.code
		}
		if code != test.code {
			t.Errorf("%q: %v, want %q", test.head, bad, test.code)
		}
		if bad != nil && (!strings.ContainsAny(bad.message, ";,") || bad.status < 400) {
			t.Errorf("%q: %d %q does not say what to do", test.head, bad.status, bad.message)
		}
	}
}

// TestHeadSingletons: every header that may come once is refused twice, and no other.
func TestHeadSingletons(t *testing.T) {
	for _, name := range strings.Fields(`Host Content-Length Transfer-Encoding Connection Expect Content-Type Content-Encoding Content-Range
		Authorization Api-Key X-Api-Key X-Goog-Api-Key Cookie From User-Agent Origin Referer Idempotency-Key Date Max-Forwards Range If-Range
		If-Modified-Since If-Unmodified-Since`) {
		if k := knownField([]byte(strings.ToUpper(name))); k == fieldOther || k == fieldForbidden {
			t.Errorf("%s may be repeated", name)
		}
	}
	for _, name := range strings.Fields(`Accept Accept-Encoding X-Forwarded-For Via Warning Te1 Hosts Xost Content-Lengti Prox Proxy Traceparent Anthropic-Beta`) {
		if k := knownField([]byte(name)); k != fieldOther {
			t.Errorf("%s is taken for another header", name)
		}
	}
}

// TestHeadText: the fast check of values agrees with the table at every place and for every byte.
func TestHeadText(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				b := bytes.Repeat([]byte{'a'}, n)
				b[at] = byte(c)
				if want := c == '\t' || c >= 0x20 && c != 0x7f; isFieldText(b) != want {
					t.Fatalf("byte %#x at %d of %d: want %v", c, at, n, want)
				}
			}
		}
	}
	for c := range 1 << 16 {
		b := []byte{byte(c), byte(c >> 8), 0x80, 0x20, 0x7e, 0x21, 0xff, '\t'}
		want := headByte[b[0]]&headByte[b[1]]&byteText != 0
		if isFieldText(b) != want {
			t.Fatalf("%x: want %v", b, want)
		}
	}
}

// TestChunkExtensions: what may stand behind a chunk size.
func TestChunkExtensions(t *testing.T) {
	for _, ext := range []string{"", ";a", ";a=b", ";a=", ";a;b;c=d", `;a="b c"`, `;a="\"\\";b`, `;a=""`, ";a=\"\t\x80\""} {
		if !isChunkExtension([]byte(ext)) {
			t.Errorf("%q refused", ext)
		}
	}
	for _, ext := range []string{";", ";;", ";=", ";=b", " ;a", "; a", ";a =b", ";a= b", ";a b", ";a=b c", `;a="`, `;a="\`, `;a="\"`, `;a="b"c`, ";a=\"\x00\"", ";a=\"\\\x00\"", ";a\x00", ";a=\x7f", ";a=b,"} {
		if isChunkExtension([]byte(ext)) {
			t.Errorf("%q taken", ext)
		}
	}
}

// TestChunkSizes: canonical sizes are given out for any that are read.
func TestChunkSizes(t *testing.T) {
	for _, test := range []struct{ line, out, code string }{
		{"5", "5\r\n", ""}, {"0005;x", "5\r\n", ""}, {"F", "f\r\n", ""}, {"10", "10\r\n", ""}, {"fFfFf", "fffff\r\n", ""}, {"00000000000000a", "a\r\n", ""},
		{"0", "", ""}, {"000", "", ""},
		{"", "", "bad_chunk"}, {" 5", "", "bad_chunk"}, {"5 ", "", "bad_chunk"}, {"+5", "", "bad_chunk"}, {"-5", "", "bad_chunk"}, {"0x5", "", "bad_chunk"},
		{"5g", "", "bad_chunk"}, {"5\t;a", "", "bad_chunk"}, {"0000000000000005", "", "bad_chunk"}, {"100001", "", "body_too_large"}, {"fffffffffffffff", "", "body_too_large"},
	} {
		var k chunkReader
		code := ""
		if bad := k.sizeLine([]byte(test.line), 1<<20); bad != nil {
			code = bad.code
		}
		if out := string(k.out[:k.len]); out != test.out || code != test.code {
			t.Errorf("%q: %q, %q; want %q, %q", test.line, out, code, test.out, test.code)
		}
	}
}

// headSeeds are requests to start fuzzing from: the corpus, and what it lacks.
func headSeeds(f *testing.F) {
	for i, c := range strictCases(f) {
		if len(c.Raw) < 2000 && (i < 300 || i%20 == 0) {
			f.Add(c.Raw)
		}
	}
	f.Add(strictSample(1000, 10))
	f.Add([]byte("\r\n\r\n" + strictGet))
	f.Add([]byte("\r\n" + strictGet + "\r\n" + strictPost("hello") + "\r\n\r\n"))
	f.Add([]byte("POST /a/b;c=d/~e?f=%00[g] HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-Continue\r\nConnection: Keep-Alive\r\nTransfer-Encoding: chunked\r\n\r\nA;b=\"c\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n"))
}

// FuzzHead: whatever checkHead accepts, net/http and fasthttp accept, with the same meaning, to the same byte; and its
// answer does not depend on how the bytes arrive.
func FuzzHead(f *testing.F) {
	headSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
			b = b[:i+4]
		}
		h, bad := checkHead(b, nil)

		var pieces headReader
		var n int
		var late *refusal
		for i := 1; i <= len(b) && n == 0 && late == nil; i++ {
			n, late = pieces.read(b[:i])
		}
		switch {
		case bad == nil && (n != len(b) || pieces.head != h):
			t.Fatalf("whole %+v, in pieces %d, %+v, %v", h, n, pieces.head, late)
		case bad != nil && late == nil && n == 0 && bad.code == "head_truncated":
		case bad != nil && (late == nil || *late != *bad):
			t.Fatalf("whole %v, in pieces %v", bad, late)
		}
		if bad != nil {
			return
		}

		br := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("net/http: %v", err)
		}
		length := max(h.length, 0)
		if h.chunked {
			length = -1
		}
		if r.Method != string(h.method.in(b)) || r.RequestURI != string(h.target.in(b)) || r.Host != string(h.host.in(b)) ||
			r.ContentLength != length || (len(r.TransferEncoding) > 0) != h.chunked || r.ProtoAtLeast(1, 1) == h.http10 || br.Buffered() > 0 {
			t.Fatalf("net/http reads %+v, we %+v", r, h)
		}
		if r.Close != (h.close || h.http10 && r.Header.Get("Connection") == "") {
			t.Fatalf("net/http: close %v, we %v", r.Close, h.close)
		}

		br.Reset(bytes.NewReader(b))
		var fh fasthttp.RequestHeader
		if err := fh.Read(br); err != nil {
			t.Fatalf("fasthttp: %v", err)
		}
		if !h.chunked && h.length < 0 {
			length = -2
		}
		if !bytes.Equal(fh.Method(), h.method.in(b)) || !bytes.Equal(fh.RequestURI(), h.target.in(b)) || !bytes.Equal(fh.Host(), h.host.in(b)) ||
			int64(fh.ContentLength()) != length || fh.IsHTTP11() == h.http10 || br.Buffered() > 0 {
			t.Fatalf("fasthttp reads %q, we %+v", fh.String(), h)
		}
	})
}

// strictWire is a client that has sent all it will.
type strictWire struct {
	net.Conn
	in      []byte
	cut     int
	written bytes.Buffer
}

func (c *strictWire) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	if c.cut > 0 {
		p = p[:min(len(p), c.cut)]
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *strictWire) Write(p []byte) (int, error)      { return c.written.Write(p) }
func (c *strictWire) SetReadDeadline(time.Time) error  { return nil }
func (c *strictWire) SetWriteDeadline(time.Time) error { return nil }
func (c *strictWire) RemoteAddr() net.Addr             { return nil }

// strictReleased reads all that a server would be given of raw, and the refusal that came after it.
func strictReleased(t *testing.T, raw []byte, cut, size int) (out []byte, code string) {
	ln := newStrictListener(strictOne{c: &strictWire{in: raw, cut: cut}}, strictConfig{
		MaxHead: 5 << 10, MaxBody: 10 << 10,
		OnRefuse: func(_ net.Addr, _ int, c string) { code += c },
	})
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for p := make([]byte, size); ; {
		n, err := c.Read(p)
		out = append(out, p[:n]...)
		if n == 0 && err == nil {
			t.Fatal("a read of nothing")
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out, code
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzStrictConn: what a connection gives out is the same however its bytes arrive and however it is read, and means to
// net/http what the raw bytes mean.
func FuzzStrictConn(f *testing.F) {
	headSeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, code := strictReleased(t, raw, 0, 64<<10)
		for _, cut := range []struct{ in, out int }{{1, 1}, {7, 13}, {0, 3}, {3, 1000}} {
			if o, c := strictReleased(t, raw, cut.in, cut.out); !bytes.Equal(o, out) || c != code {
				t.Fatalf("whole %q, %q; in pieces of %d and %d %q, %q", out, code, cut.in, cut.out, o, c)
			}
		}
		got, want := strictMeaning(out), strictMeaning(raw)
		if len(got) > len(want) {
			t.Fatalf("gives out %q, got %q", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("gives out %q, got %q", got[i], want[i])
			}
		}
		if len(got) == 0 && code == "" && len(raw) > 2 {
			t.Fatal("neither read nor refused")
		}
	})
}
