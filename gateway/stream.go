package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// A tee is an answer on its way through: what arrives is journaled, then passed on, and the end is withheld until the
// response is on record. The server reads it on the connection's goroutine and sends what each step gives at once.
type tee struct {
	c      *call
	conn   net.Conn
	resp   *http.Response
	body   *answerBody
	events bool // an event stream that is read as one
	size   int  // of the body, -1 if it is not known
	scan   eventScanner
	track  *track // in the journal
	*workings

	last  time.Time
	ready []byte // may be passed on; lies in out
	held  []byte // the end, withheld
	carry []byte // the beginning of what may be the credential, withheld
	gone  []byte // the same, too little to tell, and passed on
	seen  endKind
	mark  string // the protocol's end as it was seen
	err   error  // what comes when ready is empty
	over  bool
}

// workings are a tee's buffers. One tee after the other has them.
type workings struct {
	buf   []byte // what one read of the model takes
	kept  []byte // everything that has come, for the record
	table []byte // of events: a JSON array of [bytes, microseconds since the one before]
	out   []byte // what ready is cut from

	frames, plain []byte // the track's
}

const (
	readBytes   = 8 << 10 // what one read of a model takes
	maxWorkings = 1 << 20 // the largest buffer, in bytes, that is kept for the next stream
)

// work gives a tee its buffers.
func (g *Gateway) work() *workings {
	if w, ok := g.spareWork.Get().(*workings); ok {
		return w
	}
	return &workings{buf: make([]byte, readBytes)}
}

// takeBack takes the buffers back once nothing of the answer is needed any more. What stood in them is wiped.
func (g *Gateway) takeBack(w *workings) {
	most := len(w.kept) + 16
	for _, b := range []*[]byte{&w.kept, &w.table, &w.out, &w.frames, &w.plain, &w.buf} {
		clear((*b)[:min(cap(*b), most)])
		if cap(*b) > maxWorkings {
			*b = nil
		}
		*b = (*b)[:0]
	}
	w.buf = w.buf[:readBytes]
	g.spareWork.Put(w)
}

// stream answers with what comes, as it comes. head has come already.
func (c *call) stream(ctx *fasthttp.RequestCtx, resp *http.Response, body *answerBody, head []byte) {
	s := c.tee(ctx, resp, body)
	if err := s.begin(head); err != nil {
		s.finish(err)
		s.Close()
		c.g.answer(ctx, c.id, unavailableAnswer())
		return
	}
	c.head(ctx, resp)
	c.allow(ctx, 0)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.SetBodyStream(s, s.size)
}

// tee returns the tee of an answer.
func (c *call) tee(ctx *fasthttp.RequestCtx, resp *http.Response, body *answerBody) *tee {
	s := &tee{c: c, conn: ctx.Conn(), resp: resp, body: body, events: isStream(resp), size: -1, workings: c.g.work(), last: c.first}
	s.scan.Max = c.g.limits.Event
	if s.events {
		s.table = append(s.table, '[')
	} else if resp.ContentLength >= 0 && !c.route.MaskAnswers {
		s.size = int(resp.ContentLength)
	}
	return s
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
	if s.track, err = c.g.journal.begin(c.id, c.keyName, c.key, s.frames, s.plain); err == nil {
		err = s.track.head(s.resp.StatusCode, recordedHeader(s.resp.Header), c.first)
	}
	if err := s.unjournaled(err); err != nil {
		return err
	}
	if len(head) > 0 {
		s.ready = s.out[:0]
		return s.take(head)
	}
	return nil
}

// unjournaled decides what a journal that cannot be written means: the end of the stream, or in open nothing.
func (s *tee) unjournaled(err error) error {
	if err == nil {
		return nil
	}
	s.c.g.numbers.torn.Add(1)
	if s.c.g.cfg.Mode == Open {
		return nil
	}
	return fmt.Errorf("%w: %w", errLog, err)
}

// next returns what has come and may be passed on, and waits for more when there is none. The bytes are good until the
// next call.
func (s *tee) next() (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, s.fail(p)
		}
	}()
	for len(s.ready) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		s.fill()
	}
	b, s.ready = s.ready, nil
	return b, nil
}

// Read is next for whoever brings a buffer.
func (s *tee) Read(p []byte) (int, error) {
	b, err := s.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	s.ready = b[n:]
	s.conn.SetWriteDeadline(s.c.g.writeTime(n))
	return n, nil
}

// SupportsBodyWriteTo tells the server to let the tee write.
func (s *tee) SupportsBodyWriteTo() bool { return true }

// WriteTo passes the answer on: each step in one write to the server, which makes a chunk of it and sends that. A body
// of known length the server would gather in a buffer first, so that goes to the connection itself, behind the head,
// which is there already.
func (s *tee) WriteTo(w io.Writer) (n int64, err error) {
	if s.size >= 0 {
		w = s.conn
	}
	for {
		b, err := s.next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		s.conn.SetWriteDeadline(s.c.g.writeTime(len(b)))
		m, err := w.Write(b)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

// fill reads once from the model.
func (s *tee) fill() {
	n, err := s.body.Read(s.buf)
	s.ready = s.out[:0]
	defer func() { s.out = s.ready[:0] }()
	if n > 0 {
		if terr := s.take(s.buf[:n]); terr != nil {
			err = terr
		}
	}
	if err != nil {
		s.finish(err)
	}
}

// take is step 7 for the bytes of one read: strike out, journal, then make ready. b may be changed.
func (s *tee) take(b []byte) error {
	var err error
	if !s.events {
		err = s.pass(s.strikeAcross(b), false)
	} else {
		err = s.scan.Scan(b, func(raw []byte, ev event) error {
			s.c.strike(raw)
			if end := terminal(s.c.route.API.protocol(), ev); end != endNone && s.seen == endNone {
				s.seen = end
				s.mark = markOf(end, ev)
			}
			return s.pass(raw, true)
		})
	}
	if jerr := s.unjournaled(s.track.flush()); err == nil {
		err = jerr
	}
	if errors.Is(err, errLog) {
		s.ready = s.ready[:0] // not in the journal, so it does not pass
	}
	return err
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

// pass takes a piece for the journal and makes it ready, or withholds it when it is the end.
func (s *tee) pass(b []byte, event bool) error {
	if len(b) == 0 {
		return nil
	}
	now := time.Now()
	gap := now.Sub(s.last)
	s.last = now
	s.track.piece(b, gap)
	s.kept = append(s.kept, b...)
	if event {
		s.table = record.AppendEvent(s.table, record.Event{Bytes: len(b), After: gap})
	}
	switch {
	case s.c.route.MaskAnswers: // all of it is withheld, and masked at the end
	case s.seen != endNone:
		s.held = append(s.held, b...)
	case s.size >= 0 && len(s.kept) >= s.size:
		// The last bytes of a body of known length: all but one may go, and one is enough to withhold the whole.
		s.ready = append(s.ready, b[:len(b)-1]...)
		s.held = append(s.held, b[len(b)-1])
	default:
		s.ready = append(s.ready, b...)
	}
	return nil
}

// strikeAcross strikes the credential out of bytes that come in pieces: the end of a piece that tells of its beginning
// waits for the next. Less than that goes on at once, and is remembered, so that what follows it is struck out.
func (s *tee) strikeAcross(b []byte) []byte {
	if s.c.route.Credential == nil {
		return b
	}
	passed := len(s.gone)
	if passed+len(s.carry) > 0 {
		b = slices.Concat(s.gone, s.carry, b)
	}
	s.c.strike(b)
	begun := len(b) - s.c.begun(b) // where it may begin
	next := len(b)                 // where what waits does
	if len(b)-begun >= s.c.route.telling() {
		next = max(begun, passed)
	}
	s.gone, s.carry = bytes.Clone(b[begun:max(begun, next)]), bytes.Clone(b[next:])
	return b[passed:next]
}

// rest makes ready what was waiting for more when the end came.
func (s *tee) rest(whole bool) error {
	rest := s.carry
	s.carry = nil
	if s.events {
		rest = bytes.Clone(s.scan.Rest())
		s.c.strike(rest)
	}
	if !whole {
		s.c.strikeEnd(s.gone, rest)
	}
	err := s.pass(rest, s.events)
	if err == nil {
		err = s.unjournaled(s.track.flush())
	}
	return err
}

// finish is step 8: err is io.EOF when the transport came to its own end. When the response is on record, what was
// withheld becomes ready; an answer that is not whole ends in an error instead, which cuts the caller's connection.
func (s *tee) finish(err error) {
	if s.over {
		return
	}
	s.over = true
	c := s.c
	c.modelEnd = time.Now()
	whole := errors.Is(err, io.EOF)
	if !errors.Is(err, errLog) {
		if rerr := s.rest(whole); rerr != nil {
			whole, err = false, rerr
		}
	}
	if whole {
		err = nil
		if !s.ended() {
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
	why := c.safe(err)
	logged := c.recordResponse(answered{
		status: s.resp.StatusCode, header: s.resp.Header, body: s.kept, events: s.table, finish: s.mark, outcome: out, err: why,
	})
	s.release(logged == nil)
	switch {
	case err != nil:
		s.err = fmt.Errorf("gateway: the answer is cut: %s", out)
		c.g.log.Warn("a stream was cut", "session", c.id, "outcome", out, "err", why)
	case logged != nil:
		s.err = errLog
	case c.route.MaskAnswers:
		s.ready = append(s.ready, c.given...)
		s.err = io.EOF
	default:
		s.ready = append(s.ready, s.held...)
		s.err = io.EOF
	}
	s.held = nil
}

// ended says whether an answer whose transport came to its end came to its own: by the protocol where it has an end,
// else by the transport where that can tell an end from a cut, else by being one JSON value.
func (s *tee) ended() bool {
	if s.events && s.c.route.API != HTTP && s.resp.StatusCode < 300 {
		return s.seen != endNone
	}
	return ended(s.resp) || !s.events && isJSON(s.kept)
}

// release lets go of the journal, of the model and of the call.
func (s *tee) release(logged bool) {
	s.track.end(logged)
	s.body.Close()
	s.c.over()
}

// fail ends a stream that met a fault of ours: on record as internal, and cut.
func (s *tee) fail(p any) error {
	s.over, s.ready = true, nil
	s.err = errors.New("gateway: a fault of its own ended the answer")
	c := s.c
	c.panicked(p)
	logged := false
	defer func() { s.release(logged) }()
	if c.ended {
		return s.err // it met the fault while it was being recorded, or after
	}
	logged = nil == c.recordResponse(answered{
		status: s.resp.StatusCode, header: s.resp.Header, body: s.kept, outcome: record.Internal, err: "a fault of the gateway",
	})
	return s.err
}

// Close is called by the server when it asks for no more: after the end, or when the caller did not take what was written.
// Then the model's call is ended, or seen through to its end where the gateway lingers, and the session put on record.
func (s *tee) Close() error {
	if s.workings == nil {
		return nil
	}
	if !s.over {
		s.deserted()
	}
	if s.track != nil {
		s.frames, s.plain = s.track.frames, s.track.plain
	}
	s.c.g.takeBack(s.workings)
	s.workings, s.ready = nil, nil
	return nil
}

// deserted ends an answer whose caller is gone.
func (s *tee) deserted() {
	defer func() {
		if p := recover(); p != nil {
			s.fail(p)
		}
	}()
	s.c.left.Store(true)
	if s.c.g.cfg.Linger {
		for s.err == nil {
			s.fill()
		}
		return
	}
	s.c.cancel(errGone)
	s.finish(errGone)
}
