package gateway

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// strictConfig says what a strict listener reads. The zero value is usable: a field left zero takes its default.
type strictConfig struct {
	MaxHead     int      // bytes of request line and headers; default 64 KiB. The server's ReadBufferSize must be at least 64 bytes larger
	MaxBody     int64    // bytes of body data; default 4 MiB. The server's MaxRequestBodySize must be at least as large
	MaxFields   int      // header lines; default 100
	MaxRequests int      // requests on one connection; 0 is without limit
	Hosts       []string // hosts served, "name" (any port) or "name:port", without case; nil is any valid host

	HeadTimeout time.Duration // from the first byte of a head to its last; default 10 s
	BodyTimeout time.Duration // from the first wait for a body to its last byte; default 60 s
	LingerTime  time.Duration // most time to take in what a client still sends after its answer; default 3 s

	// From says who sends a request with that head, which is raw; nil is nobody is asked, and everybody may send as much. It
	// is called once for each head, on the connection's goroutine, before anything of the body is taken in. Of nobody who
	// is known at most strangerBody is taken in: what is longer is refused with From's own refusal.
	From func(c *strictConn, h *requestHead, raw []byte) visitor
	// Refusal makes the JSON body of a refusal; nil is a body in the shape the OpenAI and Anthropic clients read.
	// It is called on the connection's goroutine.
	Refusal func(status int, code, message string) []byte
	// OnRefuse is told of every refusal; nil is nobody. It must not block.
	OnRefuse func(remote net.Addr, status int, code string)
}

const (
	strictMaxHead     = 64 << 10
	strictMaxBody     = 4 << 20
	strictHeadTimeout = 10 * time.Second
	strictBodyTimeout = 60 * time.Second
	strictLingerTime  = 3 * time.Second

	strictBuffer = 8 << 10               // bytes read ahead on a connection, until a head needs more
	strictQuiet  = time.Second           // a client that sends nothing for so long after a refusal is let go
	strictPause  = 50 * time.Millisecond // the same after an ordinary last answer
	strictTail   = "Connection: close\r\n\r\n"
	strictKeep   = "close     " // replaces "keep-alive" in place
)

// A strictListener gives out connections that read strictly.
type strictListener struct {
	net.Listener
	conf  strictConfig
	rules headRules
	big   sync.Pool // of *[]byte, MaxHead long: for the few heads that do not fit strictBuffer
}

// newStrictListener stands between ln, whose connections may be TCP or TLS already, and fasthttp's server. A server
// given its connections sees only requests with exactly one meaning, each as if it were alone on the wire:
//
//  1. a head is read whole and checked (checkHead) before the server sees its first byte
//  2. a body of known length is passed through and counted
//  3. a chunked body is passed on rechunked: no extensions, no trailers, its end only once the whole of it was good
//  4. a read never returns bytes of the request after; so the server has sent the answer to one before it can ask for
//     the next, and a refusal comes after the answers it follows
//  5. after a chunked request, one in HTTP/1.0, one that says Connection: close, the last that MaxRequests allows, and
//     any refusal, nothing more is read. The server is told so with a Connection: close in the head, and says it in its
//     answer. No disagreement about where such a request ended can then make another out of what follows
//
// What is refused is answered here, in the server's place, and the connection is closed after the client had a fair
// chance to read the answer. The server sees an end of file, or io.ErrUnexpectedEOF inside a body; what it then
// writes, its ErrorHandler's words included, is dropped.
//
// A head reaches the server as it came, but for Connection: close where rule 5 wants it. 100 Continue is the server's to
// say; while the client waits for it, no deadline of ours runs.
func newStrictListener(ln net.Listener, c strictConfig) net.Listener {
	strictDefault(&c.MaxHead, strictMaxHead)
	strictDefault(&c.MaxBody, strictMaxBody)
	strictDefault(&c.HeadTimeout, strictHeadTimeout)
	strictDefault(&c.BodyTimeout, strictBodyTimeout)
	strictDefault(&c.LingerTime, strictLingerTime)
	if c.Refusal == nil {
		c.Refusal = refusalBody
	}
	l := &strictListener{Listener: ln, conf: c, rules: headRules{fields: c.MaxFields, hosts: c.Hosts, maxBody: c.MaxBody}}
	l.big.New = func() any { b := make([]byte, c.MaxHead); return &b }
	return l
}

func strictDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// refusalBody is the one error body that the OpenAI and the Anthropic clients both turn into a typed error.
func refusalBody(status int, code, message string) []byte {
	var b struct {
		Type  string `json:"type"`
		Error struct {
			Type    string  `json:"type"`
			Message string  `json:"message"`
			Param   *string `json:"param"`
			Code    string  `json:"code"`
		} `json:"error"`
	}
	b.Type, b.Error.Type, b.Error.Message, b.Error.Code = "error", "invalid_request_error", message, code
	out, err := json.Marshal(&b)
	if err != nil {
		return nil
	}
	return out
}

func (l *strictListener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &strictConn{Conn: inner, l: l}
	c.head.reset(&l.rules)
	if t, ok := inner.(strictTLS); ok {
		return &strictTLSConn{strictConn: c, tls: t}, nil
	}
	return c, nil
}

// strictTLS is how fasthttp tells a TLS connection from another, so a strictConn must have these methods exactly if
// the connection below has them.
type strictTLS interface {
	Handshake() error
	ConnectionState() tls.ConnectionState
}

type strictTLSConn struct {
	*strictConn
	tls strictTLS
}

func (c *strictTLSConn) Handshake() error                     { return c.tls.Handshake() }
func (c *strictTLSConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// strictOf finds the strict connection behind the one a server was given.
func strictOf(c net.Conn) (*strictConn, bool) {
	switch c := c.(type) {
	case *strictConn:
		return c, true
	case *strictTLSConn:
		return c.strictConn, true
	}
	return nil, false
}

type strictState uint8

const (
	strictHead    strictState = iota // between requests, or inside a head
	strictRelease                    // a checked head is being given out
	strictFixed                      // a body with Content-Length
	strictChunked                    // a chunked body
	strictOver                       // nothing more is given out
)

// A strictConn is read by one goroutine at a time, the server's. Deadlines may be set and the connection closed from
// others.
//
// Deadlines have two owners. The server sets its own (ReadTimeout, IdleTimeout) through SetReadDeadline and they hold
// while it waits for a request to begin. From the first byte of a head to its last HeadTimeout holds in their place,
// because the server's was set for something else: the wait before. While a body is awaited the earlier of the server's
// and BodyTimeout holds. After each, the server's is put back.
type strictConn struct {
	net.Conn
	l *strictListener

	// The reading goroutine's.
	state    strictState
	last     bool // no request follows this one
	begun    bool // bytes of this request were read past the optional CRLF
	skipped  bool // the one CRLF allowed before a request was read
	requests int
	head     headReader
	chunks   chunkReader
	release  int      // bytes of the head left to give out
	tail     string   // what is given out behind them
	left     int64    // bytes of a fixed body left to give out
	taken    int64    // bytes read from the client since this request began
	waiting  bool     // BodyTimeout was looked at for this body
	from     visitor  // who sends this request
	maxBody  int64    // how much of a body it may send
	pending  *refusal // to be made at the next read, after what was read before it
	end      error    // what reads return in strictOver
	buf      []byte   // buf[r:w] was read from the client and not given out
	r, w     int
	small    []byte
	big      *[]byte // what buf is part of, if borrowed from the listener

	answered atomic.Bool  // an answer to this request was begun
	refused  atomic.Bool  // a refusal was written: nothing else may be
	linger   atomic.Int64 // how long Close waits for a quiet client; 0 is not at all

	mu    sync.Mutex
	asked time.Time // the server's read deadline; under mu
	own   time.Time // ours, zero if none holds; under mu
}

// lastRequest tells whether the request given out most recently is the last on this connection. The server's answer
// then carries Connection: close without the handler's help.
func (c *strictConn) lastRequest() bool { return c.last }

// raw returns the connection at the bottom: the TCP connection below TLS and whatever else wraps it.
func (c *strictConn) raw() net.Conn {
	n := c.Conn
	for {
		w, ok := n.(interface{ NetConn() net.Conn })
		if !ok {
			return n
		}
		n = w.NetConn()
	}
}

// Read gives out the next bytes of the current request, or of the next if that one is over; see newStrictListener.
func (c *strictConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for {
		switch c.state {
		case strictHead:
			if err := c.readHead(); err != nil {
				return 0, err
			}
		case strictRelease:
			if n += c.releaseHead(p); c.release > 0 || len(c.tail) > 0 {
				return n, nil
			}
			if c.state == strictHead || c.state == strictOver || n == len(p) {
				return n, nil
			}
		case strictFixed:
			return c.readFixed(p, n)
		case strictChunked:
			m, err := c.readChunked(p[n:], n == 0)
			if n += m; n > 0 || err != nil {
				return n, err
			}
		default:
			return 0, c.end
		}
	}
}

// readHead reads until a whole head was checked. That the server asks for it means it has written its last answer.
func (c *strictConn) readHead() error {
	c.answered.Store(false)
	c.linger.Store(0)
	for {
		if !c.begun && !c.skipped && c.w-c.r >= 2 && c.buf[c.r] == '\r' && c.buf[c.r+1] == '\n' {
			c.r += 2
			c.skipped = true
		}
		if c.r < c.w {
			b := c.buf[c.r:min(c.w, c.r+c.l.conf.MaxHead)]
			if len(b) > 1 || b[0] != '\r' || c.skipped {
				c.begun = true
				n, bad := c.head.read(b)
				if bad == nil && n == 0 && len(b) == c.l.conf.MaxHead {
					bad = &refusal{http.StatusRequestHeaderFieldsTooLarge, "head_too_large",
						"the request head is longer than the " + strconv.Itoa(c.l.conf.MaxHead) + " bytes taken here; send fewer or shorter headers"}
				}
				if bad != nil {
					return c.refuse(bad)
				}
				if n > 0 {
					return c.accept(n)
				}
			}
			c.holdHead()
		}
		if err := c.fill(); err != nil {
			return c.headCut(err)
		}
	}
}

// headCut ends a connection on which no head, or only part of one, arrived. One without is nobody's fault.
func (c *strictConn) headCut(err error) error {
	if c.r < c.w {
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return c.refuse(&refusal{http.StatusRequestTimeout, "head_timeout", "the request head did not arrive in time; send it at once"})
		case err == io.EOF:
			return c.refuse(refusalHeadCut())
		}
	}
	return c.over(io.EOF)
}

// accept takes note of what the checked head, n bytes long at c.r, means, and of who sent it.
func (c *strictConn) accept(n int) error {
	h := &c.head.head
	c.restore()
	c.from, c.maxBody = visitor{}, c.l.conf.MaxBody
	if f := c.l.conf.From; f != nil {
		if c.from = f(c, h, c.buf[c.r:c.r+n]); c.from.no != nil {
			c.maxBody = min(c.maxBody, strangerBody)
		}
		if h.length > c.maxBody {
			return c.refuse(c.from.no)
		}
	}
	c.requests++
	c.last = h.chunked || h.http10 || h.close || c.l.conf.MaxRequests > 0 && c.requests >= c.l.conf.MaxRequests
	c.release, c.tail = n, ""
	if c.last && !h.close {
		if h.connection.empty() {
			c.release, c.tail = n-2, strictTail
		} else {
			copy(h.connection.in(c.buf[c.r:]), strictKeep)
		}
	}
	c.left = max(h.length, 0)
	c.state = strictRelease
	return nil
}

// releaseHead gives out what it can of a checked head, and with its last byte moves on.
func (c *strictConn) releaseHead(p []byte) int {
	n := copy(p, c.buf[c.r:c.r+c.release])
	c.r += n
	c.release -= n
	if c.release > 0 {
		return n
	}
	m := copy(p[n:], c.tail)
	c.tail = c.tail[m:]
	n += m
	if len(c.tail) > 0 {
		return n
	}
	h := &c.head.head
	if c.last && !h.close && h.connection.empty() {
		c.r += 2 // the empty line, which the tail brought along
	}
	switch {
	case h.chunked:
		c.chunks.reset()
		c.state = strictChunked
	case c.left > 0:
		c.state = strictFixed
	default:
		c.finish()
	}
	return n
}

// readFixed gives out bytes of a body of known length behind the n already in p, and waits for some only if n is 0.
func (c *strictConn) readFixed(p []byte, n int) (int, error) {
	if c.r < c.w {
		m := copy(p[n:], c.buf[c.r:min(int64(c.w), int64(c.r)+c.left)])
		c.r += m
		c.left -= int64(m)
		n += m
	}
	if n == 0 {
		c.holdBody()
		m, err := c.readInner(p[:min(int64(len(p)), c.left)])
		if err != nil {
			return 0, c.bodyCut(err)
		}
		c.left -= int64(m)
		n = m
	}
	if c.left == 0 {
		c.finish()
	}
	return n, nil
}

// readChunked gives out bytes of a chunked body, rechunked. It returns 0 and nil only if it may not wait.
func (c *strictConn) readChunked(p []byte, wait bool) (int, error) {
	k := &c.chunks
	n := 0
	for n < len(p) {
		if k.pos < k.len {
			m := copy(p[n:], k.out[k.pos:k.len])
			k.pos += m
			n += m
			continue
		}
		if k.phase == chunkDone {
			break
		}
		if c.pending != nil {
			if n > 0 || !wait {
				return n, nil
			}
			return 0, c.refuse(c.pending)
		}
		if k.phase == chunkData {
			m := copy(p[n:], c.buf[c.r:min(int64(c.w), int64(c.r)+k.left)])
			c.r += m
			if m == 0 {
				if n > 0 || !wait {
					return n, nil
				}
				c.holdBody()
				var err error
				if m, err = c.readInner(p[:min(int64(len(p)), k.left)]); err != nil {
					return 0, c.bodyCut(err)
				}
			}
			n += m
			if k.left -= int64(m); k.left == 0 {
				k.phase = chunkDataEnd
			}
			continue
		}
		used, bad := k.next(c.buf[c.r:c.w], c.maxBody)
		c.r += used
		if bad != nil && c.maxBody < c.l.conf.MaxBody && bad.status == http.StatusRequestEntityTooLarge {
			bad = c.from.no
		}
		c.pending = bad
		if used == 0 && bad == nil {
			if n > 0 || !wait {
				return n, nil
			}
			c.holdBody()
			if err := c.fill(); err != nil {
				return 0, c.bodyCut(err)
			}
		}
	}
	if k.phase == chunkDone && k.pos == k.len {
		c.finish()
	}
	return n, nil
}

// bodyCut ends a connection on which a body did not arrive whole.
func (c *strictConn) bodyCut(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.refuse(&refusal{http.StatusRequestTimeout, "body_timeout", "the request body did not arrive in time; send it without pauses, or ask the operator for a longer limit"})
	case err == io.EOF:
		return c.refuse(refuse400("body_truncated", "the request body ended before its announced length or last chunk; send all of it"))
	}
	return c.over(err)
}

// finish ends the current request, whose last byte is being given out.
func (c *strictConn) finish() {
	c.restore()
	if c.last {
		c.over(io.EOF)
		return
	}
	c.state = strictHead
	c.begun, c.skipped, c.waiting = false, false, false
	c.head.reset(&c.l.rules)
	c.taken = int64(c.w - c.r)
}

func (c *strictConn) over(err error) error {
	c.state = strictOver
	c.end = err
	return err
}

// fill reads more from the client into the buffer, which it moves, or exchanges for a larger one, if it is full.
func (c *strictConn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if c.big != nil {
			c.l.big.Put(c.big)
			c.buf, c.big = c.small, nil
		}
		if c.buf == nil {
			c.small = make([]byte, min(strictBuffer, max(c.l.conf.MaxHead, chunkLine+2)))
			c.buf = c.small
		}
	}
	if c.w == len(c.buf) {
		b := c.buf
		if c.r == 0 {
			c.big, _ = c.l.big.Get().(*[]byte)
			c.buf = *c.big
		}
		c.w = copy(c.buf, b[c.r:c.w])
		c.r = 0
	}
	n, err := c.readInner(c.buf[c.w:])
	c.w += n
	return err
}

// readInner reads from the client once. It returns bytes or an error, never both and never neither.
func (c *strictConn) readInner(p []byte) (int, error) {
	for range 100 {
		n, err := c.Conn.Read(p)
		c.taken += int64(n)
		if n > 0 {
			return n, nil // an error beside them comes again
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// holdHead sets the deadline of a head that has begun, once.
func (c *strictConn) holdHead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own.IsZero() {
		c.own = time.Now().Add(c.l.conf.HeadTimeout)
		c.Conn.SetReadDeadline(c.own) // a closed connection says so when read
	}
}

// holdBody sets the deadline of a body, once, if the server's is later or none.
func (c *strictConn) holdBody() {
	if c.waiting {
		return
	}
	c.waiting = true
	c.mu.Lock()
	defer c.mu.Unlock()
	t := time.Now().Add(c.l.conf.BodyTimeout)
	c.own = t
	if c.asked.IsZero() || t.Before(c.asked) {
		c.Conn.SetReadDeadline(t)
	}
}

// restore puts the server's deadline back in place of ours.
func (c *strictConn) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.own.IsZero() {
		c.own = time.Time{}
		c.Conn.SetReadDeadline(c.asked)
	}
}

// SetReadDeadline sets the server's deadline; see strictConn for when it holds.
func (c *strictConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = t
	if !c.own.IsZero() && (t.IsZero() || c.own.Before(t)) {
		t = c.own
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *strictConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write passes the server's answer on, unless the request was refused and answered already: then the server's word
// comes too late and is dropped.
func (c *strictConn) Write(p []byte) (int, error) {
	if c.refused.Load() {
		return len(p), nil
	}
	if !c.answered.Load() && !isInterimAnswer(p) {
		c.answered.Store(true)
		switch {
		case c.state == strictFixed || c.state == strictChunked:
			c.linger.Store(int64(strictQuiet)) // the client is still sending
		case c.last:
			c.linger.Store(int64(strictPause)) // the client may have sent more
		}
	}
	return c.Conn.Write(p)
}

// isInterimAnswer tells whether an answer is a 1xx one, which another follows.
func isInterimAnswer(p []byte) bool {
	const proto = "HTTP/1.1 "
	return len(p) > len(proto) && string(p[:len(proto)]) == proto && p[len(proto)] == '1'
}

// Close ends the connection. If the client may not have finished sending, it first takes in for a short while what comes
// and drops it, so that the answer is not lost to a reset: only on the goroutine that wrote that answer, never when the
// server closes connections that are idle.
func (c *strictConn) Close() error {
	if d := c.linger.Swap(0); d > 0 {
		c.drain(time.Duration(d))
	}
	return c.Conn.Close()
}

// refuse answers a request in the server's place and ends the connection. The answers to the requests before it have
// been written: the server asked to read.
func (c *strictConn) refuse(bad *refusal) error {
	end := io.EOF
	if c.state != strictHead {
		end = io.ErrUnexpectedEOF // the server has a head and waits for its body
	}
	c.over(end)
	if f := c.l.conf.OnRefuse; f != nil {
		f(c.RemoteAddr(), bad.status, bad.code)
	}
	if c.answered.Load() || c.refused.Swap(true) {
		// The server has begun an answer of its own; half of another would not help the client. It is cut off.
		c.refused.Store(true)
		return c.end
	}
	body := c.l.conf.Refusal(bad.status, bad.code, bad.message)
	b := make([]byte, 0, 256+len(body))
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(bad.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(bad.status)...)
	if bad.status == http.StatusMethodNotAllowed || bad.status == http.StatusNotImplemented {
		b = append(b, "\r\nAllow: "+headMethods...)
	}
	if bad.status == http.StatusUnauthorized {
		b = append(b, "\r\nWWW-Authenticate: Bearer"...)
	}
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\nConnection: close\r\n\r\n"...)
	if !c.head.head.isHead {
		b = append(b, body...)
	}
	c.Conn.SetWriteDeadline(time.Now().Add(c.l.conf.LingerTime))
	if _, err := c.Conn.Write(b); err == nil {
		c.drain(strictQuiet)
	}
	return c.end
}

// drain ends our side of the connection and reads on for a while: until the client ends its own, is quiet for so
// long, LingerTime is over, or the request has used up the bytes it could have had if it had been good.
func (c *strictConn) drain(quiet time.Duration) {
	w, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	below := c.raw()
	scratch, _ := c.l.big.Get().(*[]byte)
	defer c.l.big.Put(scratch)
	budget := int64(c.l.conf.MaxHead) + c.l.conf.MaxBody + c.l.conf.MaxBody/10 + chunkOverhead - c.taken
	over := time.Now().Add(c.l.conf.LingerTime)
	for budget > 0 {
		t := time.Now().Add(quiet)
		if t.After(over) {
			t = over
		}
		if below.SetReadDeadline(t) != nil {
			return
		}
		n, err := below.Read((*scratch)[:min(int64(len(*scratch)), budget)])
		if err != nil {
			return
		}
		budget -= int64(n)
	}
}
