package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// ownPrefix is where the gateway's own endpoints lie. No route can.
const ownPrefix = "/.tallystick/"

// SessionHeader names the session in every answer to a call whose caller is known.
const SessionHeader = "Tallystick-Session"

// handle answers one request. A fault of ours answers 500 and ends the call; the process and the other calls live.
func (g *Gateway) handle(ctx *fasthttp.RequestCtx) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("a handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			g.answer(ctx, record.ID{}, &refusal{http.StatusInternalServerError, "internal", "the gateway met a fault of its own; the call was ended"})
			ctx.SetConnectionClose()
		}
	}()
	if bytes.HasPrefix(ctx.Request.Header.RequestURI(), []byte(ownPrefix)) {
		g.own(ctx)
		return
	}
	g.serve(ctx)
}

// own serves the gateway's own endpoints.
func (g *Gateway) own(ctx *fasthttp.RequestCtx) {
	if string(ctx.Request.Header.RequestURI()) != ownPrefix+"health" || !ctx.IsGet() && !ctx.IsHead() {
		g.answer(ctx, record.ID{}, &refusal{http.StatusNotFound, "unknown_path", "the gateway has no such endpoint; " + ownPrefix + "health tells whether it lives"})
		return
	}
	if err := g.writer.Broken(); err != nil {
		ctx.SetStatusCode(http.StatusServiceUnavailable)
		ctx.SetBodyString("the log takes no records\n")
		return
	}
	ctx.SetBodyString("ok\n")
}

// A call is one trip through the gateway.
type call struct {
	g       *Gateway
	id      record.ID
	route   *Route
	caller  *Caller
	model   string
	method  string
	path    string // raw, without query
	query   string
	keyName string
	key     []byte

	received time.Time
	sent     time.Time
	first    time.Time

	ctx    context.Context // ends with the call: a limit, the caller gone, the gateway stopping
	cancel context.CancelCauseFunc
	watch  *watch
	left   atomic.Bool // the caller is gone

	// request is the request entry on its way; nil while there is none, and in the mode open when it was lost.
	request *record.Ticket
	lost    bool // in the mode open: this session will leave no entries
}

// Why a call was ended before the answer was.
var (
	errGone     = errors.New("the caller left")
	errSilence  = errors.New("the model sent nothing for too long")
	errTotal    = errors.New("the call took too long")
	errTooMuch  = errors.New("the answer is over the limit")
	errStopping = errors.New("the gateway stopped")
	errLog      = errors.New("the answer could not be recorded")
)

// serve is the trip of a call, in its order. Step 1, the strict reading, is behind us: the connection did it.
func (g *Gateway) serve(ctx *fasthttp.RequestCtx) {
	g.active.Add(1)
	defer g.active.Add(-1)
	c := &call{g: g, received: time.Now()}
	c.id = record.NewID(c.received)

	// 2. Identify: who calls, by the key it shows.
	var no *refusal
	if c.caller, no = g.identify(ctx); no != nil {
		g.writer.Shed(1)
		g.answer(ctx, c.id, no)
		return
	}

	// 3. Decide: where the call may go.
	if no = c.decide(ctx); no != nil {
		c.refuse(ctx, no)
		return
	}

	// 5. Record the request. In strict, it is durable when this returns.
	if no = c.recordRequest(ctx); no != nil {
		g.answer(ctx, c.id, no)
		return
	}

	// 6. Send: a fresh request, with the service credential.
	c.ctx, c.cancel = context.WithCancelCause(g.stopping)
	defer c.rescue(ctx)
	c.watch = watchCaller(ctx.Conn(), func() {
		c.left.Store(true)
		if !g.cfg.Linger {
			c.cancel(errGone)
		}
	})
	resp, body, err := c.send(ctx)
	if err != nil {
		c.end(ctx, err)
		return
	}

	// 7 and 8. Tee and record the response: a body at once, a stream as it comes.
	whole, rest, err := c.whole(resp, body)
	switch {
	case err != nil:
		body.Close()
		c.end(ctx, err)
	case rest:
		c.stream(ctx, resp, body, whole)
	default:
		body.Close()
		c.give(ctx, resp, whole)
	}
}

// identify finds the caller by the key in Authorization or X-Api-Key. Two different keys are no key.
func (g *Gateway) identify(ctx *fasthttp.RequestCtx) (*Caller, *refusal) {
	var key []byte
	for name, v := range ctx.Request.Header.All() {
		switch {
		case equalFold(name, "authorization"):
			scheme, rest, _ := bytes.Cut(v, []byte(" "))
			if !equalFold(scheme, "bearer") {
				return nil, unauthorized("the Authorization header is not of the form `Bearer KEY`")
			}
			v = bytes.TrimLeft(rest, " ")
		case equalFold(name, "x-api-key"):
		default:
			continue
		}
		if key != nil && !bytes.Equal(key, v) {
			return nil, unauthorized("the request shows two different keys; show one")
		}
		key = v
	}
	if len(key) == 0 {
		return nil, unauthorized("the request shows no key; send the gateway's key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
	}
	c := g.callers[sha256.Sum256(key)]
	if c == nil {
		return nil, unauthorized("the key is not one that this gateway knows; ask whoever runs it for a key")
	}
	return c, nil
}

func unauthorized(message string) *refusal {
	return &refusal{http.StatusUnauthorized, "invalid_api_key", message}
}

// decide finds the route and says whether the caller may use it, and reads of the body what records and rules need.
func (c *call) decide(ctx *fasthttp.RequestCtx) *refusal {
	c.method = string(ctx.Request.Header.Method())
	c.path, c.query, _ = strings.Cut(string(ctx.Request.Header.RequestURI()), "?")
	c.route = c.g.routes.match(c.path)
	if c.route == nil {
		return &refusal{http.StatusNotFound, "unknown_route", "no route of this gateway has that path; check the base URL, or ask whoever runs it for a route"}
	}
	if len(c.caller.Routes) > 0 && !slices.Contains(c.caller.Routes, c.route.Name) {
		return &refusal{http.StatusForbidden, "route_not_allowed", "the key may not use the route " + c.route.Name}
	}
	if c.route.API == HTTP || len(ctx.Request.Body()) == 0 || len(ctx.Request.Header.Peek("Content-Encoding")) > 0 {
		return nil
	}
	model, err := outlineBody(ctx.Request.Body())
	if err != nil {
		return &refusal{http.StatusBadRequest, "invalid_json", "the body is not JSON of one meaning: " + err.Error()}
	}
	c.model = model
	return nil
}

// refuse answers a call that goes nowhere, and records that it was refused. The record is not waited for: nothing
// happened that could be lost but the asking.
func (c *call) refuse(ctx *fasthttp.RequestCtx, no *refusal) {
	r := c.requestRecord(ctx)
	r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(no.status), 10))
	r.Add(record.FieldError, []byte(no.message))
	if d, err := c.draft(ctx, record.Entry{Kind: record.Refused, Reason: no.code}, r); err == nil {
		if _, err := c.g.writer.Submit(d); err != nil {
			c.g.writer.Shed(1)
		}
	}
	c.g.answer(ctx, c.id, no)
}

// requestRecord is what is known of a call before it is sent.
func (c *call) requestRecord(ctx *fasthttp.RequestCtx) record.Record {
	r := make(record.Record, 0, 14)
	r.Add(record.FieldSession, []byte(c.id.String()))
	r.Add(record.FieldCaller, []byte(c.caller.Name))
	if c.caller.Key != "" {
		r.Add(record.FieldKey, []byte(c.caller.Key))
	}
	r.Add(record.FieldRemote, []byte(ctx.RemoteAddr().String()))
	if c.route != nil {
		r.Add(record.FieldRoute, []byte(c.route.Name))
		r.Add(record.FieldUpstream, []byte(c.route.Upstream.String()))
	}
	if c.model != "" {
		r.Add(record.FieldModel, []byte(c.model))
	}
	r.Add(record.FieldMethod, ctx.Request.Header.Method())
	r.Add(record.FieldTarget, ctx.Request.Header.RequestURI())
	r.Add(record.FieldHeaders, recordedHead(ctx.Request.Header.RawHeaders()))
	r.Add(record.FieldTimes, appendTimes(nil, "received", c.received))
	r.Add(record.FieldBody, ctx.Request.Body())
	return r
}

// draft seals a record and makes the entry's draft of it.
func (c *call) draft(ctx context.Context, e record.Entry, r record.Record) (record.Draft, error) {
	if c.key == nil {
		var err error
		if c.keyName, c.key, err = c.g.cfg.Keys.New(ctx); err != nil {
			return record.Draft{}, fmt.Errorf("data key: %w", err)
		}
	}
	e.Session, e.Root, e.Fields = c.id, r.Root(), len(r)
	sealed, err := c.g.coder.Seal(r, c.key, c.keyName, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		return record.Draft{}, err
	}
	e.Payload, e.PayloadSize = record.Sum(sealed), int64(len(sealed))
	return record.Draft{Entry: e, Payload: sealed}, nil
}

// recordRequest puts the request into the log: until it is durable in strict, on its way otherwise.
func (c *call) recordRequest(ctx *fasthttp.RequestCtx) *refusal {
	d, err := c.draft(ctx, record.Entry{Kind: record.Request}, c.requestRecord(ctx))
	if err == nil {
		c.request, err = c.g.writer.Submit(d)
	}
	if err == nil && c.g.cfg.Mode == Strict {
		err = c.request.Wait(ctx)
	}
	switch {
	case err == nil:
		return nil
	case c.g.cfg.Mode == Open:
		c.request, c.lost = nil, true
		c.g.log.Warn("a call passes unrecorded", "session", c.id, "err", err)
		c.g.writer.Lose(1, "log_unavailable")
		return nil
	}
	return unavailable(err)
}

// unavailable is the answer when nothing can be recorded, and so nothing passes.
func unavailable(err error) *refusal {
	message := "the call cannot be recorded, so it was not sent; try again"
	switch {
	case errors.Is(err, tlog.ErrBusy):
		message = "more calls are waiting to be recorded than the log can take, so this one was not sent; slow down and try again"
	case errors.Is(err, tlog.ErrFull):
		message = "the log's disk is full, so the call was not sent; whoever runs the gateway must free space"
	case errors.Is(err, tlog.ErrQuarantine):
		message = "the log is in quarantine, so the call was not sent; whoever runs the gateway must look at the evidence"
	}
	return &refusal{http.StatusServiceUnavailable, "record_unavailable", message}
}

// give answers with a whole body, once its record is durable.
func (c *call) give(ctx *fasthttp.RequestCtx, resp *http.Response, body []byte) {
	defer c.over()
	body, struck := c.strike(body)
	out := record.Complete
	if c.left.Load() {
		out = record.ClientGone
	}
	a := answered{status: resp.StatusCode, header: resp.Header, body: body, struck: struck, outcome: out}
	if err := c.recordResponse(ctx, a); err != nil {
		c.g.answer(ctx, c.id, unavailableAnswer())
		return
	}
	c.head(ctx, resp)
	if ctx.IsHead() {
		ctx.Response.SkipBody = true
		if n := resp.ContentLength; n > 0 {
			ctx.Response.Header.SetContentLength(int(n))
		}
	} else {
		ctx.Response.SetBodyRaw(body)
	}
	c.allow(ctx.Conn(), len(body))
}

func unavailableAnswer() *refusal {
	return &refusal{http.StatusServiceUnavailable, "record_unavailable", "the model answered but the answer could not be recorded, so it is withheld; look at the gateway's log before trying again"}
}

// end answers a call that got no answer, or none that can be passed on, and records how it ended.
func (c *call) end(ctx *fasthttp.RequestCtx, err error) {
	defer c.over()
	out := outcomeOf(c, err)
	no := &refusal{http.StatusBadGateway, "upstream_error", "the model could not be reached; try again later"}
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errGone):
		no = &refusal{499, "client_gone", "the caller left"}
	case errors.Is(cause, errSilence), errors.Is(cause, errTotal):
		no = &refusal{http.StatusGatewayTimeout, "upstream_timeout", "the model did not answer in time"}
	case errors.Is(cause, errStopping):
		no = &refusal{http.StatusServiceUnavailable, "stopping", "the gateway is stopping; try again"}
	case errors.Is(err, errTooMuch):
		no = &refusal{http.StatusBadGateway, "answer_too_large", "the model's answer is over the gateway's limit"}
	case errors.Is(err, errAnswer):
		no = &refusal{http.StatusBadGateway, "upstream_invalid", "the model's answer is not one that can be passed on"}
	case out == record.Truncated:
		no = &refusal{http.StatusBadGateway, "upstream_truncated", "the model's answer stopped before its end"}
	}
	if errors.Is(err, errLog) {
		no = unavailableAnswer()
	}
	body := no.body(c.id)
	c.g.log.Warn("a call failed", "session", c.id, "outcome", out, "err", c.safe(err))
	a := answered{status: no.status, body: body, outcome: out, err: c.safe(err)}
	if err := c.recordResponse(ctx, a); err != nil {
		no = unavailableAnswer()
	}
	c.g.answer(ctx, c.id, no)
}

// outcomeOf says how a call ended: with err nil, whole.
func outcomeOf(c *call, err error) record.Outcome {
	switch cause := context.Cause(c.ctx); {
	case err == nil:
		return record.Complete
	case errors.Is(cause, errGone):
		return record.ClientGone
	case errors.Is(cause, errSilence), errors.Is(cause, errTotal), errors.Is(err, errTooMuch), errors.Is(err, errTooLong):
		return record.Limit
	case errors.Is(cause, errStopping):
		return record.Interrupted
	case errors.Is(err, errLog):
		return record.Internal
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errCut):
		return record.Truncated
	case c.first.IsZero():
		return record.UpstreamError
	}
	return record.Truncated
}

// answered is what a call ended with: what its response record is made of.
type answered struct {
	status  int
	header  http.Header // the model's; nil if it sent none
	body    []byte
	events  []byte // the table of events, of a stream
	finish  string // the protocol's own end, of a stream
	struck  int
	outcome record.Outcome
	err     string
}

// recordResponse puts the response into the log. Unless the mode is open it returns when the response, and with it
// the request, is durable.
func (c *call) recordResponse(ctx context.Context, a answered) error {
	if c.lost {
		return nil
	}
	ended := time.Now()
	r := make(record.Record, 0, 10)
	r.Add(record.FieldSession, []byte(c.id.String()))
	r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(a.status), 10))
	if a.header != nil {
		r.Add(record.FieldHeaders, recordedHeader(a.header, c))
	}
	if a.events != nil {
		r.Add(record.FieldEvents, a.events)
	}
	if a.finish != "" {
		r.Add(record.FieldFinish, []byte(a.finish))
	}
	if a.struck > 0 {
		r.Add(record.FieldRedacted, strconv.AppendInt(nil, int64(a.struck), 10))
	}
	if a.err != "" {
		r.Add(record.FieldError, []byte(a.err))
	}
	r.Add(record.FieldTimes, appendTimes(nil, "received", c.received, "sent", c.sent, "first", c.first, "ended", ended))
	r.Add(record.FieldBody, a.body)
	d, err := c.draft(ctx, record.Entry{Kind: record.Response, Outcome: a.outcome}, r)
	if err != nil {
		return c.unrecorded(err)
	}
	d.After = c.request
	t, err := c.g.writer.Submit(d)
	if err != nil {
		return c.unrecorded(err)
	}
	if c.g.cfg.Mode == Open {
		c.g.late.Add(1)
		go func() {
			defer c.g.late.Done()
			<-t.Done()
			if err := t.Wait(context.Background()); err != nil {
				c.unrecorded(err)
			}
		}()
		return nil
	}
	// Not by the call's own context: what is written will be durable whether the caller waits or not, and the caller
	// must not have the end before it is.
	if err := t.Wait(context.WithoutCancel(ctx)); err != nil {
		return c.unrecorded(err)
	}
	return nil
}

// unrecorded counts a session whose end could not be recorded. In open it passes; otherwise the caller is not given
// what is not on record.
func (c *call) unrecorded(err error) error {
	c.g.log.Error("a response could not be recorded", "session", c.id, "err", err)
	if c.g.cfg.Mode == Open {
		c.g.writer.Lose(1, "log_unavailable")
		return nil
	}
	return err
}

// over lets go of what the call held.
func (c *call) over() {
	c.watch.stop()
	c.cancel(nil)
	clear(c.key)
}

// strike puts asterisks where the service credential stands in b, in place, and says how often it did.
func (c *call) strike(b []byte) ([]byte, int) {
	if c.route.Credential == nil {
		return b, 0
	}
	secret, n := c.route.Credential.Reveal(), 0
	for from := 0; ; n++ {
		i := bytes.Index(b[from:], secret)
		if i < 0 {
			return b, n
		}
		from += i
		for j := range secret {
			b[from+j] = '*'
		}
		from += len(secret)
	}
}

// safe is the text of an error without the service credential.
func (c *call) safe(err error) string {
	if err == nil {
		return ""
	}
	s, _ := c.strike([]byte(err.Error()))
	return string(s)
}

// head gives the caller the head of the model's answer.
func (c *call) head(ctx *fasthttp.RequestCtx, resp *http.Response) {
	ctx.Response.Header.DisableNormalizing()
	ctx.SetStatusCode(resp.StatusCode)
	for name, values := range resp.Header {
		if !returned(name, c.route.Return) {
			continue
		}
		for _, v := range values {
			b, _ := c.strike([]byte(v))
			ctx.Response.Header.AddBytesV(name, b)
		}
	}
	ctx.Response.Header.Set(SessionHeader, c.id.String())
}

// allow gives the caller time to take n bytes: the deadline is for each thing written, never for a whole stream.
func (c *call) allow(conn net.Conn, n int) {
	conn.SetWriteDeadline(time.Now().Add(c.g.limits.WriteTime + time.Duration(n>>16)*time.Second))
}

// rescue ends a call that met a fault of ours: on record as internal, answered with 500.
func (c *call) rescue(ctx *fasthttp.RequestCtx) {
	p := recover()
	if p == nil {
		return
	}
	c.g.log.Error("a call panicked", "session", c.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	defer c.over()
	no := &refusal{http.StatusInternalServerError, "internal", "the gateway met a fault of its own; the call was ended"}
	c.recordResponse(ctx, answered{status: no.status, body: no.body(c.id), outcome: record.Internal, err: "a fault of the gateway"})
	c.g.answer(ctx, c.id, no)
	ctx.SetConnectionClose()
}
