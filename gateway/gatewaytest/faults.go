package gatewaytest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A Verdict is what a gateway may make of a fault.
type Verdict uint8

// The verdicts on a fault. Under none of them may bytes that were no part of the answer reach this caller, or the
// next one on the connection.
const (
	Refuse Verdict = iota // the caller must not be led to believe it has a complete answer
	Pass                  // HTTP and the event stream allow it: the caller must get the answer
	Either                // wrong or odd, and harmless once it is put in order: the caller gets the answer, or none
)

// A Fault is one way in which /raw breaks an answer at the HTTP level.
type Fault struct {
	Name string
	Does string
	Want Verdict

	wire func(p proper) Wire
}

// Faults lists what /raw knows.
func Faults() []Fault { return append([]Fault(nil), faults...) }

func findFault(name string) (Fault, bool) {
	for _, f := range faults {
		if f.Name == name {
			return f, true
		}
	}
	return Fault{}, false
}

// proper is an answer before it is broken.
type proper struct {
	header http.Header // without framing
	frames [][]byte    // the body, an event each when it streams
}

func (p proper) body() []byte { return bytes.Join(p.frames, nil) }

func (p proper) length() string { return fmt.Sprintf("Content-Length: %d", len(p.body())) }

const (
	statusOK  = "HTTP/1.1 200 OK"
	chunkedTE = "Transfer-Encoding: chunked"
	lastChunk = "0\r\n\r\n"
)

// head is the head of a 200 with the header lines behind the proper ones.
func (p proper) head(lines ...string) []byte { return head(statusOK, p.header, lines...) }

// sized is the answer with a Content-Length, and the lines.
func (p proper) sized(lines ...string) Wire {
	return Wire{Parts: [][]byte{p.head(append(lines, p.length())...), p.body()}, End: Keep}
}

// status is the answer with another status line.
func (p proper) status(line string) Wire {
	return Wire{Parts: [][]byte{head(line, p.header, p.length()), p.body()}, End: Keep}
}

// chunked is the answer with a chunk for each frame, and the header lines.
func (p proper) chunked(lines ...string) Wire {
	parts := [][]byte{p.head(append(lines, chunkedTE)...)}
	for _, f := range p.frames {
		parts = append(parts, chunk(f))
	}
	return Wire{Parts: append(parts, []byte(lastChunk)), End: Keep}
}

// framed is a body under a head with these lines; nothing else tells where it ends.
func (p proper) framed(body []byte, end Ending, lines ...string) Wire {
	return Wire{Parts: [][]byte{p.head(lines...), body}, End: end}
}

// respelled is the answer as a stream that says the same in other bytes.
func (p proper) respelled(re func(event []byte) []byte) Wire {
	q := p
	q.frames = nil
	for _, f := range p.frames {
		q.frames = append(q.frames, re(f))
	}
	return q.chunked()
}

// last replaces what comes after the chunk before the last.
func (w Wire) last(end Ending, bytes string) Wire {
	w.Parts[len(w.Parts)-1] = []byte(bytes)
	w.End = end
	return w
}

// spliced is the chunked answer with one chunk written otherwise: raw has the middle one's data for %s, and its
// length for the first verb when it has two.
func (p proper) spliced(raw func(data []byte) string) Wire {
	w := p.chunked()
	i := len(p.frames) / 2
	w.Parts[1+i] = []byte(raw(p.frames[i]))
	w.End = Close
	return w
}

// stray is a whole answer nobody asked for. No client can tell one that comes behind the next request from the answer
// to that request: what keeps it from a stranger is that different callers do not share connections.
const stray = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Stray: 1\r\nContent-Length: 23\r\n\r\n{\"stray\":\"unsolicited\"}"

func repeat(s string, n int) string { return strings.Repeat(s, n) }

var faults = []Fault{
	// The status line.
	{"status-000", "status 000", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 000 Zero") }},
	{"status-099", "status 099", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 099 Below") }},
	{"status-600", "status 600, outside every class", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 600 Beyond") }},
	{"status-999", "status 999", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 999 Request Denied") }},
	{"status-2000", "a status of four digits", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 2000 OK") }},
	{"status-20", "a status of two digits", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 20 OK") }},
	{"status-signed", "status +200", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 +200 OK") }},
	{"status-text", "no status", Refuse, func(p proper) Wire { return p.status("HTTP/1.1 OK") }},
	{"status-bare", "no reason", Pass, func(p proper) Wire { return p.status("HTTP/1.1 200 ") }},
	{"version-1.0", "HTTP/1.0 with a length", Pass, func(p proper) Wire {
		return Wire{Parts: [][]byte{head("HTTP/1.0 200 OK", p.header, p.length()), p.body()}, End: Close}
	}},
	{"version-1.0-chunked", "HTTP/1.0, chunked", Either, func(p proper) Wire {
		w := p.chunked()
		w.Parts[0] = bytes.Replace(w.Parts[0], []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)
		w.End = Close
		return w
	}},
	{"version-2.0", "HTTP/2.0 in text", Either, func(p proper) Wire { return p.status("HTTP/2.0 200 OK") }},
	{"version-9.9", "HTTP/9.9", Either, func(p proper) Wire { return p.status("HTTP/9.9 200 OK") }},
	{"version-other", "another protocol's status line", Refuse, func(p proper) Wire { return p.status("ICY 200 OK") }},
	{"version-0.9", "a body without a head", Refuse, func(p proper) Wire { return Wire{Parts: [][]byte{p.body()}} }},

	// Answers before the answer, and instead of it.
	{"100-continue", "100 Continue first", Pass, func(p proper) Wire {
		w := p.sized()
		w.Parts = append([][]byte{[]byte("HTTP/1.1 100 Continue\r\n\r\n")}, w.Parts...)
		return w
	}},
	{"103-hints", "103 Early Hints first, with headers of its own", Pass, func(p proper) Wire {
		w := p.sized()
		w.Parts = append([][]byte{[]byte("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nX-Hint: 1\r\n\r\n")}, w.Parts...)
		return w
	}},
	{"1xx-flood", "10,000 informational answers first", Either, func(p proper) Wire {
		w := p.sized()
		w.Parts = append([][]byte{[]byte(repeat("HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n", 10_000))}, w.Parts...)
		return w
	}},
	{"101-switching", "101 Switching Protocols, unasked", Refuse, func(p proper) Wire {
		return Wire{Parts: [][]byte{[]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), p.body()}}
	}},
	{"204-body", "204 No Content, with a body", Either, func(p proper) Wire { return p.status("HTTP/1.1 204 No Content") }},
	{"304-body", "304 Not Modified, with a body", Either, func(p proper) Wire { return p.status("HTTP/1.1 304 Not Modified") }},
	{"redirect", "307 to an address inside", Either, func(p proper) Wire {
		return Wire{Parts: [][]byte{[]byte("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n")}, End: Keep}
	}},

	// Header fields.
	{"header-lf", "lines end with LF alone", Either, func(p proper) Wire {
		w := p.sized()
		w.Parts[0] = bytes.ReplaceAll(w.Parts[0], []byte("\r\n"), []byte("\n"))
		return w
	}},
	{"header-cr", "a bare CR in a value", Refuse, func(p proper) Wire { return p.sized("X-Evil: a\rSet-Cookie: evil=1") }},
	{"header-nul", "a NUL in a value", Refuse, func(p proper) Wire { return p.sized("X-Evil: a\x00b") }},
	{"header-ctl", "control characters in a value", Either, func(p proper) Wire { return p.sized("X-Evil: \x1b[31m\x07") }},
	{"header-8bit", "bytes above 127 in a value", Pass, func(p proper) Wire { return p.sized("X-Odd: \xff\xfe\xe2\x82\xac") }},
	{"header-fold", "a folded value", Either, func(p proper) Wire { return p.sized("X-Evil: a\r\n Set-Cookie: evil=1") }},
	{"header-fold-length", "the length in a folded line", Either, func(p proper) Wire {
		return p.framed(p.body(), Keep, strings.Replace(p.length(), ": ", ":\r\n ", 1))
	}},
	{"header-space-colon", "a space before the colon", Either, func(p proper) Wire {
		return p.framed(p.body(), Close, strings.Replace(p.length(), ":", " :", 1))
	}},
	{"header-space-name", "a space in a name", Either, func(p proper) Wire { return p.sized("X Evil: 1") }},
	{"header-no-name", "no name", Refuse, func(p proper) Wire { return p.sized(": evil") }},
	{"header-no-colon", "no colon", Either, func(p proper) Wire { return p.sized("X-Evil") }},
	{"header-big", "a value of 2 MB", Either, func(p proper) Wire { return p.sized("X-Big: " + repeat("x", 2<<20)) }},
	{"header-many", "50,000 header fields", Either, func(p proper) Wire { return p.sized(strings.TrimSuffix(repeat("X-Many: 1\r\n", 50_000), "\r\n")) }},
	{"header-hop", "hop-by-hop fields, one of them named in Connection", Pass, func(p proper) Wire {
		return p.sized("Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=99", "Proxy-Authenticate: Basic realm=x", "Proxy-Connection: keep-alive", "Upgrade: h2c", "Te: trailers")
	}},
	{"header-forged", "fields only the gateway or the site may set", Pass, func(p proper) Wire {
		return p.sized("Tallystick-Session: forged", "Set-Cookie: evil=1", "Access-Control-Allow-Origin: *", "Strict-Transport-Security: max-age=0", "Alt-Svc: h3=\":443\"", "Clear-Site-Data: \"*\"")
	}},
	{"type-html", "the answer calls itself text/html", Pass, func(p proper) Wire {
		p.header.Set("Content-Type", "text/html")
		return p.sized()
	}},

	// Length.
	{"length-twice", "two lengths that differ", Refuse, func(p proper) Wire { return p.sized("Content-Length: 5") }},
	{"length-twice-same", "the length twice", Pass, func(p proper) Wire { return p.sized(p.length()) }},
	{"length-list", "two lengths in one field", Refuse, func(p proper) Wire { return p.framed(p.body(), Keep, p.length()+", 5") }},
	{"length-chunked", "a length, and chunks", Either, func(p proper) Wire { return p.chunked("Content-Length: 5") }},
	{"length-negative", "length -1", Refuse, func(p proper) Wire { return p.framed(p.body(), Close, "Content-Length: -1") }},
	{"length-signed", "a length with a sign", Refuse, func(p proper) Wire {
		return p.framed(p.body(), Close, strings.Replace(p.length(), ": ", ": +", 1))
	}},
	{"length-hex", "a length in hexadecimal", Refuse, func(p proper) Wire {
		return p.framed(p.body(), Close, fmt.Sprintf("Content-Length: %#x", len(p.body())))
	}},
	{"length-huge", "a length no integer holds", Refuse, func(p proper) Wire {
		return p.framed(p.body(), Close, "Content-Length: 99999999999999999999")
	}},
	{"length-more", "FIN before the promised length", Refuse, func(p proper) Wire {
		return p.framed(p.body(), Close, fmt.Sprintf("Content-Length: %d", len(p.body())+100))
	}},
	{"length-more-reset", "reset before the promised length", Refuse, func(p proper) Wire {
		return p.framed(p.body(), Reset, fmt.Sprintf("Content-Length: %d", len(p.body())+100))
	}},
	{"length-less", "a body longer than promised", Either, func(p proper) Wire {
		return p.framed(p.body(), Keep, fmt.Sprintf("Content-Length: %d", len(p.body())-1))
	}},
	{"length-none", "neither length nor chunks: FIN ends the body", Pass, func(p proper) Wire { return p.framed(p.body(), Close, "Connection: close") }},
	{"length-none-reset", "neither length nor chunks, and a reset", Refuse, func(p proper) Wire { return p.framed(p.body(), Reset, "Connection: close") }},

	// Chunks.
	{"coding-unknown", "transfer coding xchunked", Refuse, func(p proper) Wire { return p.framed(chunk(p.body()), Close, "Transfer-Encoding: xchunked") }},
	{"coding-list", "transfer codings gzip, chunked", Refuse, func(p proper) Wire {
		return p.framed(append(chunk(p.body()), lastChunk...), Keep, "Transfer-Encoding: gzip, chunked")
	}},
	{"coding-twice", "chunked twice", Refuse, func(p proper) Wire { return p.chunked(chunkedTE) }},
	{"coding-space", "a space before the colon of Transfer-Encoding", Either, func(p proper) Wire {
		return p.framed(append(chunk(p.body()), lastChunk...), Close, "Transfer-Encoding : chunked")
	}},
	{"chunk-cut", "FIN inside a chunk", Refuse, func(p proper) Wire {
		return p.chunked().last(Close, "40\r\ndata: {\"half\"")
	}},
	{"chunk-cut-reset", "reset inside a chunk", Refuse, func(p proper) Wire {
		return p.chunked().last(Reset, "40\r\ndata: {\"half\"")
	}},
	{"chunk-no-end", "FIN where the last chunk should be", Refuse, func(p proper) Wire { return p.chunked().last(Close, "") }},
	{"chunk-no-end-reset", "reset where the last chunk should be", Refuse, func(p proper) Wire { return p.chunked().last(Reset, "") }},
	{"chunk-half-end", "FIN inside the last chunk", Refuse, func(p proper) Wire { return p.chunked().last(Close, "0\r\n") }},
	{"chunk-none", "FIN before the first chunk", Refuse, func(p proper) Wire { return Wire{Parts: [][]byte{p.head(chunkedTE)}} }},
	{"chunk-bad-end", "other bytes than CRLF behind a chunk's data", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("%x\r\n%sXX", len(d), d) })
	}},
	{"chunk-long-data", "more data than the chunk's size", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("%x\r\n%s\r\n", len(d)-1, d) })
	}},
	{"chunk-size-word", "a chunk size that is no number", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("zz\r\n%s\r\n", d) })
	}},
	{"chunk-size-negative", "a negative chunk size", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("-1\r\n%s\r\n", d) })
	}},
	{"chunk-size-0x", "a chunk size with 0x", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("%#x\r\n%s\r\n", len(d), d) })
	}},
	{"chunk-size-huge", "a chunk size no integer holds", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("fffffffffffffffff\r\n%s\r\n", d) })
	}},
	{"chunk-ext", "a chunk extension", Pass, func(p proper) Wire {
		w := p.spliced(func(d []byte) string { return fmt.Sprintf("%x;name=value\r\n%s\r\n", len(d), d) })
		w.End = Keep
		return w
	}},
	{"chunk-ext-huge", "a chunk extension of 4 MB", Refuse, func(p proper) Wire {
		return p.spliced(func(d []byte) string { return fmt.Sprintf("%x;%s\r\n%s\r\n", len(d), repeat("x", 4<<20), d) })
	}},
	{"chunk-trailer", "a trailer, with fields a head would not be believed", Pass, func(p proper) Wire {
		return p.chunked("Trailer: X-Late").last(Keep, "0\r\nX-Late: 1\r\nContent-Length: 5\r\nSet-Cookie: evil=1\r\n\r\n")
	}},

	// The connection.
	{"silent-close", "FIN without a byte", Refuse, func(proper) Wire { return Wire{} }},
	{"silent-reset", "reset without a byte", Refuse, func(proper) Wire { return Wire{End: Reset} }},
	{"silent", "not a byte until the caller leaves", Refuse, func(proper) Wire { return Wire{End: Silent} }},
	{"head-half", "FIN inside the head", Refuse, func(p proper) Wire { h := p.head(p.length()); return Wire{Parts: [][]byte{h[:len(h)/2]}} }},
	{"head-only", "a head, then silence until the caller leaves", Refuse, func(p proper) Wire {
		return Wire{Parts: [][]byte{p.head(p.length())}, End: Silent}
	}},
	{"garbage", "bytes of no protocol", Refuse, func(proper) Wire { return Wire{Parts: [][]byte{[]byte("\x16\x03\x01\x00\x05garbage\x00\xff\r\n\r\n")}} }},
	{"extra", "a second answer nobody asked for, with the first", Either, func(p proper) Wire {
		w := p.sized()
		return Wire{Parts: [][]byte{append(w.Bytes(), stray...)}, End: Keep}
	}},
	{"extra-late", "a second answer nobody asked for, 30 ms later on the idle connection", Either, func(p proper) Wire {
		w := p.sized()
		return Wire{Parts: [][]byte{w.Bytes(), []byte(stray)}, Pause: 30 * time.Millisecond, End: Keep}
	}},

	// The body.
	{"gzip", "compressed though nobody asked", Pass, func(p proper) Wire { return p.zipped(p.body()) }},
	{"gzip-false", "says it is compressed and is not", Either, func(p proper) Wire { return p.sized("Content-Encoding: gzip") }},
	{"gzip-bomb", "64 MB of zeros, compressed", Either, func(p proper) Wire { return p.zipped(make([]byte, 64<<20)) }},
	{"sse-crlf", "lines of the stream end with CRLF", Pass, func(p proper) Wire {
		return p.respelled(func(e []byte) []byte { return bytes.ReplaceAll(e, []byte("\n"), []byte("\r\n")) })
	}},
	{"sse-cr", "lines of the stream end with CR; the official SDKs do not read such a stream", Pass, func(p proper) Wire {
		return p.respelled(func(e []byte) []byte { return bytes.ReplaceAll(e, []byte("\n"), []byte("\r")) })
	}},
	{"sse-bom", "a byte order mark at the start of the stream", Pass, func(p proper) Wire {
		p.frames = append([][]byte{[]byte("\xef\xbb\xbf: hello\n\n")}, p.frames...)
		return p.chunked()
	}},
	{"sse-comments", "comments between and inside events", Pass, func(p proper) Wire {
		return p.respelled(func(e []byte) []byte { return append([]byte(": a\n\n: b\n"), e...) })
	}},
	{"sse-one-chunk", "the whole stream in one chunk", Pass, func(p proper) Wire {
		p.frames = [][]byte{p.body()}
		return p.chunked()
	}},
	{"sse-bytes", "each byte of the stream in its own chunk", Pass, func(p proper) Wire {
		body := p.body()
		p.frames = nil
		for i := range body {
			p.frames = append(p.frames, body[i:i+1])
		}
		w := p.chunked()
		return Wire{Parts: [][]byte{w.Bytes()}, End: Keep}
	}},
	{"sse-torn", "events torn across chunks, and joined in one", Pass, func(p proper) Wire {
		body := p.body()
		p.frames = nil
		for n := 7; len(body) > 0; n = n*5%97 + 1 {
			i := min(n, len(body))
			p.frames, body = append(p.frames, body[:i]), body[i:]
		}
		return p.chunked()
	}},
}

// zipped is a compressed body.
func (p proper) zipped(body []byte) Wire {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body)
	_ = z.Close() // a buffer takes all
	return p.framed(b.Bytes(), Keep, "Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", b.Len()))
}
