package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// A tee is an answer on its way through: what arrives is journaled, then passed on, and the end is withheld until the
// response is on record. fasthttp reads it on the connection's goroutine and sends what each Read returns at once.
type tee struct {
	c      *call
	conn   net.Conn
	resp   *http.Response
	body   *answerBody
	events bool // an event stream that is read as one
	scan   eventScanner
	track  *track // in the journal

	buf   []byte // what one read of the model takes
	kept  []byte // everything that has come, for the record
	table []byte // of events: a JSON array of [bytes, microseconds since the one before]
	last  time.Time
	out   []byte // what ready is cut from
	ready []byte // may be passed on
	held  []byte // the end, withheld
	carry []byte // the beginning of what may be the credential
	seen  endKind
	mark  string // the protocol's end as it was seen
	cut   int    // how often the credential was struck out
	err   error  // what Read returns once ready is empty
	over  bool
}

// stream answers with what comes, as it comes. head has come already.
func (c *call) stream(ctx *fasthttp.RequestCtx, resp *http.Response, body *answerBody, head []byte) {
	s := &tee{c: c, conn: ctx.Conn(), resp: resp, body: body, events: isStream(resp), buf: make([]byte, 16<<10), last: c.first}
	s.scan.Max = c.g.limits.Event
	if s.events {
		s.table = append(make([]byte, 0, 1024), '[')
	}
	if err := s.begin(head); err != nil {
		s.finish(err)
		c.g.answer(ctx, c.id, unavailableAnswer())
		return
	}
	c.head(ctx, resp)
	ctx.Response.ImmediateHeaderFlush = true
	c.allow(s.conn, 0)
	size := -1
	if resp.ContentLength >= 0 && !s.events {
		size = int(resp.ContentLength)
	}
	ctx.SetBodyStream(s, size)
}

// begin opens the journal for the answer and holds back, where the mode asks for it, until the request is durable.
func (s *tee) begin(head []byte) error {
	c := s.c
	if c.g.cfg.Mode == Overlap {
		if err := c.request.Wait(c.ctx); err != nil {
			return fmt.Errorf("%w: %w", errLog, err)
		}
	}
	var err error
	if s.track, err = c.g.journal.begin(c.id, c.keyName, c.key); err == nil {
		err = s.track.head(s.resp.StatusCode, recordedHeader(s.resp.Header, c), c.sent, c.first)
	}
	if err == nil && len(head) > 0 {
		err = s.take(bytes.Clone(head))
	}
	return s.unjournaled(err)
}

// unjournaled decides what a journal that cannot be written means: the end of the stream, or in open nothing.
func (s *tee) unjournaled(err error) error {
	if err == nil || s.c.g.cfg.Mode == Open && !errors.Is(err, errTooLong) {
		return nil
	}
	if errors.Is(err, errTooLong) {
		return err
	}
	return fmt.Errorf("%w: %w", errLog, err)
}

// Read gives the caller what has come and may be passed on, and waits for more when there is none.
func (s *tee) Read(p []byte) (n int, err error) {
	defer func() {
		if f := recover(); f != nil {
			s.c.g.log.Error("a stream panicked", "session", s.c.id, "panic", fmt.Sprint(f), "stack", string(debug.Stack()))
			n, err = 0, s.fail()
		}
	}()
	for len(s.ready) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n = copy(p, s.ready)
	s.ready = s.ready[n:]
	s.c.allow(s.conn, n)
	return n, nil
}

// fill reads once from the model.
func (s *tee) fill() {
	n, err := s.body.Read(s.buf)
	s.ready = s.out[:0]
	defer func() { s.out = s.ready[:0] }()
	if n > 0 {
		if terr := s.unjournaled(s.take(s.buf[:n])); terr != nil {
			err = terr
		}
	}
	if err != nil {
		s.finish(err)
	}
}

// take is step 7 for the bytes of one read: strike out, journal, then make ready. b may be changed.
func (s *tee) take(b []byte) error {
	if !s.events {
		b = s.strikeAcross(b)
		return s.pass(b, false)
	}
	return s.scan.Scan(b, func(raw []byte, ev event) error {
		raw, n := s.c.strike(raw)
		s.cut += n
		if end := terminal(s.c.route.API.protocol(), ev); end != endNone && s.seen == endNone {
			s.seen = end
			s.mark = markOf(end, ev)
		}
		return s.pass(raw, true)
	})
}

// markOf names the protocol's end: the event's type, or its data where that is the marker itself.
func markOf(end endKind, ev event) string {
	switch {
	case end == endError:
		return "error"
	case string(ev.Data) == "[DONE]":
		return "[DONE]"
	case len(ev.Type) > 0:
		return string(ev.Type)
	}
	return "end"
}

// pass journals a piece and makes it ready, or withholds it when it is the end.
func (s *tee) pass(b []byte, event bool) error {
	if len(b) == 0 {
		return nil
	}
	now := time.Now()
	gap := now.Sub(s.last)
	s.last = now
	if err := s.track.piece(b, gap); err != nil && s.c.g.cfg.Mode != Open {
		return err
	}
	s.kept = append(s.kept, b...)
	if event {
		s.table = appendEvent(s.table, len(b), gap)
	}
	switch {
	case s.seen != endNone:
		s.held = append(s.held, b...)
	case !event && s.resp.ContentLength >= 0 && int64(len(s.kept)) >= s.resp.ContentLength:
		// The last bytes of a body of known length: all but one may go, and one is enough to withhold the whole.
		s.ready = append(s.ready, b[:len(b)-1]...)
		s.held = append(s.held, b[len(b)-1])
	default:
		s.ready = append(s.ready, b...)
	}
	return nil
}

func appendEvent(table []byte, n int, gap time.Duration) []byte {
	if table[len(table)-1] != '[' {
		table = append(table, ',')
	}
	table = strconv.AppendInt(append(table, '['), int64(n), 10)
	table = strconv.AppendInt(append(table, ','), max(0, gap.Microseconds()), 10)
	return append(table, ']')
}

// strikeAcross strikes the credential out of bytes that come in pieces: the end of a piece that could be its beginning
// waits for the next.
func (s *tee) strikeAcross(b []byte) []byte {
	if s.c.route.Credential == nil {
		return b
	}
	if len(s.carry) > 0 {
		b = append(s.carry, b...)
		s.carry = nil
	}
	b, n := s.c.strike(b)
	s.cut += n
	secret := s.c.route.Credential.Reveal()
	for k := min(len(secret)-1, len(b)); k > 0; k-- {
		if bytes.HasSuffix(b, secret[:k]) {
			s.carry = bytes.Clone(b[len(b)-k:])
			return b[:len(b)-k]
		}
	}
	return b
}

// finish is step 8: err is io.EOF when the transport came to its own end. When the response is on record, what was
// withheld becomes ready; an answer that is not whole ends in an error instead, which cuts the caller's connection.
func (s *tee) finish(err error) {
	if s.over {
		return
	}
	s.over = true
	c := s.c
	whole := errors.Is(err, io.EOF)
	var rest []byte
	if s.events {
		rest, _ = c.strike(bytes.Clone(s.scan.Rest()))
	} else {
		rest, s.carry = s.carry, nil
	}
	if len(rest) > 0 {
		s.unjournaled(s.pass(rest, s.events))
	}
	if whole {
		err = nil
		if protocolEnd := s.events && c.route.API != HTTP && s.resp.StatusCode < 300; protocolEnd && s.seen == endNone || !protocolEnd && !ended(s.resp) {
			err = errCut
		}
	}
	if s.events {
		s.table = append(s.table, ']')
	}
	out := outcomeOf(c, err)
	switch {
	case err == nil && c.left.Load():
		out = record.ClientGone // seen through to the end without the caller
	case err == nil && s.seen == endError:
		out = record.UpstreamError
	}
	a := answered{
		status: s.resp.StatusCode, header: s.resp.Header, body: s.kept, events: s.table, finish: s.mark, struck: s.cut,
		outcome: out, err: c.safe(err),
	}
	logged := c.recordResponse(c.g.stopping, a)
	s.track.end(logged == nil)
	s.body.Close()
	c.over()
	switch {
	case err != nil:
		s.err = fmt.Errorf("gateway: the answer is cut: %s", out)
		c.g.log.Warn("a stream was cut", "session", c.id, "outcome", out, "err", c.safe(err))
	case logged != nil:
		s.err = errLog
	default:
		s.ready = append(s.ready, s.held...)
		s.err = io.EOF
	}
	s.kept, s.held = nil, nil
}

// fail ends a stream that met a fault of ours.
func (s *tee) fail() error {
	if !s.over {
		s.over = true
		s.c.recordResponse(s.c.g.stopping, answered{status: s.resp.StatusCode, header: s.resp.Header, body: s.kept, outcome: record.Internal, err: "a fault of the gateway"})
		s.track.end(false)
		s.body.Close()
		s.c.over()
	}
	s.err = errors.New("gateway: a fault of its own ended the answer")
	return s.err
}

// Close is called by fasthttp when it reads no more: after the end, or when the caller did not take what was written. Then
// the model's call is ended, or seen through to its end where the gateway lingers, and the session put on record.
func (s *tee) Close() error {
	if s.over {
		return nil
	}
	s.c.left.Store(true)
	if s.c.g.cfg.Linger {
		for s.err == nil {
			s.fill()
		}
		return nil
	}
	s.c.cancel(errGone)
	s.finish(errGone)
	return nil
}
