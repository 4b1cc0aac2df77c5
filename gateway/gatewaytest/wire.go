package gatewaytest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync"
	"time"
)

// An Ending is what becomes of a connection when the last byte of a Wire is written.
type Ending uint8

// The endings of a Wire.
const (
	Close  Ending = iota // FIN; whatever the caller still says is read and dropped
	Reset                // RST
	Keep                 // the next request on it is answered
	Silent               // held open, and silent, until the caller closes it
)

// A Wire is an answer as the bytes of a connection. The zero value closes without a word.
type Wire struct {
	Parts [][]byte      // written one by one
	Pause time.Duration // before each part but the first
	End   Ending
}

// Bytes returns the parts as one.
func (w Wire) Bytes() []byte { return bytes.Join(w.Parts, nil) }

// Answer returns the answer to r as bytes: the head, then a chunk for each event. Nothing is sent, and r is not
// among Requests. Delays a directive asks for are waited for here; a directive that has no end needs r's context to
// have one.
func (m *Model) Answer(r *http.Request) Wire {
	out := Wire{End: Keep}
	w := &wireWriter{sink: func(p []byte) error { out.Parts = append(out.Parts, bytes.Clone(p)); return nil }}
	body, tooLong := readBody(r.Body, m.cfg.MaxBody)
	if w.serve(m, r, body, tooLong); w.broken != nil {
		return *w.broken
	}
	return out
}

// RunRaw reads HTTP/1.1 requests on ln and answers each with the bytes answer gives, until ctx is done; then it
// closes ln and every connection, waits for them, and returns nil. It is for what net/http would not write, and for
// what is to be asserted about a head byte by byte: Requests have their Head. answer may be called for several
// connections at once; it may read r's body, and call m.Answer(r) for the proper answer. A connection whose request
// cannot be read is closed.
func (m *Model) RunRaw(ctx context.Context, ln net.Listener, answer func(r *http.Request) Wire) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("fake model: %w", err)
		}
		conns.Go(func() {
			m.converse(ctx, conn, bufio.NewReader(conn), func(_ *wireWriter, r *http.Request, _ []byte) Wire { return answer(r) })
		})
	}
}

// converse answers the requests on conn until one of them or ctx ends it. answer returns what is to be written, or
// writes by itself and returns a Wire that is empty and keeps the connection.
func (m *Model) converse(ctx context.Context, conn net.Conn, br *bufio.Reader, answer func(w *wireWriter, r *http.Request, body []byte) Wire) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		r, head, body, err := readRequest(br, m.cfg.MaxBody)
		if err != nil {
			return
		}
		r = r.WithContext(ctx)
		r.RemoteAddr = conn.RemoteAddr().String()
		e := m.ledger.open(r, body, m.cfg.KeepBody)
		m.ledger.note(e, head)
		wire := answer(&wireWriter{sink: func(p []byte) error { _, err := conn.Write(p); return err }}, r, body)
		outcome := wire.send(ctx, conn)
		m.ledger.close(e, outcome)
		if outcome != Done {
			return
		}
	}
}

// maxHead bounds a request's head.
const maxHead = 1 << 20

// readRequest reads a request whole, its head as it stood.
func readRequest(br *bufio.Reader, maxBody int64) (r *http.Request, head, body []byte, err error) {
	for {
		line, err := br.ReadSlice('\n')
		head = append(head, line...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, nil, nil, err
		}
		if len(head) > maxHead {
			return nil, nil, nil, fmt.Errorf("fake model: the request's head is longer than %d bytes", maxHead)
		}
		if bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			break
		}
	}
	if r, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(head))); err != nil {
		return nil, nil, nil, err
	}
	var from io.Reader = io.LimitReader(br, max(r.ContentLength, 0))
	chunked := slices.Contains(r.TransferEncoding, "chunked")
	if chunked {
		from = httputil.NewChunkedReader(br)
	}
	if body, err = io.ReadAll(io.LimitReader(from, maxBody+1)); err != nil {
		return nil, nil, nil, err
	}
	if int64(len(body)) > maxBody || !chunked && int64(len(body)) < r.ContentLength {
		return nil, nil, nil, fmt.Errorf("fake model: a body of %d bytes, %d promised, %d allowed", len(body), r.ContentLength, maxBody)
	}
	for chunked { // the trailer
		line, err := br.ReadSlice('\n')
		if err != nil {
			return nil, nil, nil, err
		}
		chunked = len(bytes.TrimRight(line, "\r\n")) > 0
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r, head, body, nil
}

// send writes the wire and brings about its end. Done means that the connection goes on.
func (w Wire) send(ctx context.Context, conn net.Conn) Outcome {
	for i, p := range w.Parts {
		if i > 0 && !sleep(ctx, w.Pause) {
			return Gone
		}
		if _, err := conn.Write(p); err != nil {
			return Gone
		}
	}
	switch w.End {
	case Keep:
		return Done
	case Reset:
		if c, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			_ = c.SetLinger(0)
		}
	case Silent:
		_, _ = io.Copy(io.Discard, conn)
	case Close:
		// A close with bytes unread would be a reset.
		if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = io.Copy(io.Discard, conn)
		}
	}
	_ = conn.Close()
	return Faulty
}

// wireWriter is an http.ResponseWriter that writes HTTP/1.1 itself.
type wireWriter struct {
	sink    func(p []byte) error
	broken  *Wire // what a directive wants in place of the answer
	header  http.Header
	status  int
	begun   bool
	chunked bool
	buf     bytes.Buffer
}

// serve lets m answer r, and ends the body.
func (w *wireWriter) serve(m *Model, r *http.Request, body []byte, tooLong bool) {
	m.serve(w, r, body, tooLong)
	if w.broken != nil {
		return
	}
	if !w.begun && w.Header().Get("Content-Length") == "" {
		w.header.Set("Content-Length", strconv.Itoa(w.buf.Len()))
	}
	_ = w.FlushError()
	if w.chunked {
		_ = w.sink([]byte("0\r\n\r\n"))
	}
}

func (w *wireWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *wireWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *wireWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.buf.Write(p)
}

// FlushError writes what there is: the head first, then the body as a chunk, or as it is when its length is known.
func (w *wireWriter) FlushError() error {
	if !w.begun {
		w.begun = true
		w.WriteHeader(http.StatusOK)
		if w.chunked = w.Header().Get("Content-Length") == ""; w.chunked {
			w.header.Set("Transfer-Encoding", "chunked")
		}
		if err := w.sink(head(fmt.Sprintf("HTTP/1.1 %d %s", w.status, http.StatusText(w.status)), w.header)); err != nil {
			return err
		}
	}
	p := w.buf.Bytes()
	if len(p) == 0 {
		return nil
	}
	if w.chunked {
		p = chunk(p)
	}
	w.buf.Reset()
	return w.sink(p)
}

// head is a status line and header fields, in the order of their names, and then the lines.
func head(status string, h http.Header, lines ...string) []byte {
	var b bytes.Buffer
	b.WriteString(status + "\r\n")
	_ = h.Write(&b) // a buffer takes all
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// chunk is p as a chunk of a chunked body.
func chunk(p []byte) []byte {
	b := strconv.AppendInt(nil, int64(len(p)), 16)
	b = append(b, "\r\n"...)
	b = append(b, p...)
	return append(b, "\r\n"...)
}

// breakOff answers as a directive wants it broken, on the connection itself. A connection that is kept goes on
// being answered here: net/http does not take it back.
func (c *call) breakOff(w http.ResponseWriter, r *http.Request, rep reply) Outcome {
	wire := c.wire(r, rep)
	if ww, ok := w.(*wireWriter); ok {
		ww.broken = &wire
		return Faulty
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.fail(w, r, &failure{status: http.StatusInternalServerError, message: "Directive: the connection cannot be broken: " + err.Error()})
		return Failed
	}
	_ = conn.SetDeadline(time.Time{})
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	outcome := wire.send(ctx, conn)
	if outcome == Done {
		c.m.converse(ctx, conn, rw.Reader, func(w *wireWriter, r *http.Request, body []byte) Wire {
			if w.serve(c.m, r, body, false); w.broken != nil {
				return *w.broken
			}
			return Wire{End: Keep}
		})
		outcome = Faulty
	}
	return outcome
}

// wire is the answer as a directive wants it broken.
func (c *call) wire(r *http.Request, rep reply) Wire {
	p := proper{header: c.header}
	p.header.Set("Content-Type", "application/json")
	p.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if c.ask.stream {
		p.header.Set("Content-Type", "text/event-stream; charset=utf-8")
		p.header.Set("Cache-Control", "no-cache")
		limit := 1 << 16
		if c.orders.ending != toEnd {
			limit = c.orders.at
		}
		rep.events(func(event []byte, _ bool) bool {
			if len(p.frames) == limit {
				return false
			}
			p.frames = append(p.frames, event)
			return true
		})
	} else {
		body := rep.whole()
		p.frames = [][]byte{body[:len(body)/2], body[len(body)/2:]}
	}
	if f, ok := findFault(c.orders.raw); ok {
		return f.wire(p)
	}
	out := Wire{Pause: max(c.orders.slow, c.m.cfg.Delay), End: Close}
	if c.orders.ending == cutting {
		out.End = Reset
	}
	if c.ask.stream {
		out.Parts = p.chunked().Parts
		out.Parts = out.Parts[:len(out.Parts)-1]
	} else {
		body := p.body()
		out.Parts = [][]byte{p.head(fmt.Sprintf("Content-Length: %d", len(body))), body[:min(c.orders.at, len(body))]}
	}
	return out
}
