package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
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

// SessionHeader names the session in the answer to every call. Of a call whose caller is not known nothing is on record.
const SessionHeader = "Tallystick-Session"

// handle answers one request. A fault of ours answers 500 and ends the call; the process and the other calls live.
func (g *Gateway) handle(ctx *fasthttp.RequestCtx) {
	defer func() {
		if p := recover(); p != nil {
			g.numbers.panics.Add(1)
			g.log.Error("a handler panicked", "panic", panicText(p), "stack", string(debug.Stack()))
			g.answer(ctx, record.ID{}, fault())
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
	path := string(ctx.Request.Header.RequestURI())
	if name, ok := strings.CutPrefix(path, receiptsPrefix); ok {
		g.serveReceipt(ctx, name)
		return
	}
	if path == approvalsPath || strings.HasPrefix(path, approvalsPrefix) {
		g.serveApprovals(ctx, path)
		return
	}
	if name, ok := strings.CutPrefix(path, hooksPrefix); ok {
		g.serveHook(ctx, name)
		return
	}
	if path != ownPrefix+"health" && g.cfg.Pages != nil {
		g.servePage(ctx)
		return
	}
	if path != ownPrefix+"health" || !ctx.IsGet() && !ctx.IsHead() {
		g.answer(ctx, record.ID{}, &refusal{http.StatusNotFound, "unknown_path", "the gateway has no such endpoint; " + ownPrefix + "health tells whether it lives, " + receiptsPrefix + "SESSION gives a receipt, " + approvalsPath + " says what waits for a yes"})
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
	caller  *Principal // nil where it is not known who calls
	model   string
	method  string
	path    string // raw, without query
	query   string
	keyName string
	key     []byte

	given     []byte    // the answer's body as it is written down
	nonces    [2][]byte // of the exact bytes of what was masked, request and answer
	masked    *masked   // what of the request is written down, where that is not what was sent
	facts     Facts
	judged    bool // by a policy
	judgement Judgement
	version   tlog.Hash // of the policy
	policy    uint64    // the number of its entry

	reserved *Reservation  // what the call holds of its quotas
	retry    time.Duration // after which it would have room in them
	tokens   spent         // as the answer says

	question *question // what people are asked about the call; nil for nothing
	mine     bool      // by this session
	cleared  bool      // the call may be sent

	received time.Time
	sent     time.Time
	first    time.Time
	modelEnd time.Time     // when the model had no more to say
	waited   time.Duration // for people
	// For who follows it alone.
	decided, asked, heard, recorded time.Time

	// What it came to, for those who count.
	outcome     record.Outcome
	status      int // that its caller was given
	answerSize  int // bytes of the model's body
	streamed    bool
	answer      AnswerFacts // for who follows the call
	modelStatus int         // 0 for none
	trace       Trace       // nil for nobody, and once it has ended

	ctx    context.Context // ends with the call: a limit, the caller gone, the gateway stopping
	cancel context.CancelCauseFunc
	total  *time.Timer
	watch  *watch
	left   atomic.Bool // the caller is gone

	// request is the request entry on its way; nil while there is none, and in the mode open when it was lost.
	request *record.Ticket
	last    *record.Ticket // the newest entry of the session before its end, where that is not the request
	lost    bool           // in the mode open: this session will leave no entries
	ended   bool           // its response was drafted: there is no second
	struck  int            // how often the service credential was struck out
	showed  forms          // of the credential that the model was shown
}

// Why a call was ended before the answer was.
var (
	errGone     = errors.New("the caller left")
	errSilence  = errors.New("the model sent nothing for too long")
	errTotal    = errors.New("the call took too long")
	errTooMuch  = errors.New("the answer is over the limit")
	errStopping = errors.New("the gateway stopped")
	errLog      = errors.New("the answer could not be recorded")
	errNoWord   = errors.New("the log had not answered when the gateway stopped")
)

// serve is the trip of a call, in its order. Step 1, the strict reading, is behind us: the connection did it.
func (g *Gateway) serve(ctx *fasthttp.RequestCtx) {
	c := &call{g: g, received: time.Now(), tokens: untold, outcome: record.Internal, status: http.StatusInternalServerError}
	c.id = record.NewID(c.received)
	defer c.rescue(ctx)

	// 2. Identify: who calls. The connection knows by what it was shown.
	from := g.visitor(ctx)
	if c.caller = from.caller; c.caller == nil {
		c.turnAway(ctx, from)
		return
	}

	c.traced(ctx)

	// 3. Decide: where the call may go, and by which rules.
	no := c.decide(ctx)
	if no == nil {
		c.mask(ctx)
		no = c.judge(ctx)
	}
	if no != nil {
		c.refuse(ctx, no)
		return
	}

	c.decided = time.Now()

	// From here on the call ends early if its caller leaves, if it takes too long, or if the gateway stops.
	c.begin(ctx)

	// 4. Ask, if the rules say so: people, and until they have said yes nothing goes on.
	if c.question != nil {
		if !c.asking(ctx) {
			return
		}
	} else if err := c.recordRequest(ctx); err != nil { // 5. Record the request. In strict, it is durable when this returns.
		c.unsent(ctx, err)
		return
	}

	// 6. Send: a fresh request, with the service credential.
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

// begin starts the clock and the watch of a call. over ends both.
func (c *call) begin(ctx *fasthttp.RequestCtx) {
	c.g.active.Add(1)
	c.route.counts.begun.Add(1)
	c.route.counts.active.Add(1)
	var cancel context.CancelCauseFunc
	c.ctx, cancel = context.WithCancelCause(c.g.stopping)
	c.cancel = cancel
	c.total = time.AfterFunc(c.g.limits.Total, func() { cancel(errTotal) })
	c.watch = watchCaller(ctx.Conn(), func() {
		c.left.Store(true)
		if !c.g.cfg.Linger {
			cancel(errGone)
		}
	})
}

// over lets go of what the call held. Twice is nothing.
func (c *call) over() {
	if c.cancel == nil {
		return
	}
	switch {
	case c.sent.IsZero():
		c.reserved.Cancel()
	default:
		c.reserved.Settle(c.tokens.both())
	}
	c.watch.stop()
	c.total.Stop()
	c.cancel(nil)
	c.cancel = nil
	clear(c.key)
	c.key = nil // what is sealed after this gets another, never zeros
	c.g.active.Add(-1)
	now := time.Now()
	c.count(now)
	c.tell(nil, now)
}

// decide finds the route and says whether the caller may use it, and reads of the body what records and rules need.
func (c *call) decide(ctx *fasthttp.RequestCtx) *refusal {
	c.method = string(ctx.Request.Header.Method())
	c.path, c.query, _ = strings.Cut(string(ctx.Request.Header.RequestURI()), "?")
	c.route = c.g.routes.match(c.path)
	if c.route == nil {
		return &refusal{http.StatusNotFound, "unknown_route", "no route of this gateway has that path; check the base URL, or ask whoever runs it for a route"}
	}
	if c.caller.Routes != nil && !slices.Contains(c.caller.Routes, c.route.Name) {
		return &refusal{http.StatusForbidden, "route_not_allowed", "the key may not use the route " + c.route.Name}
	}
	f := &c.facts
	f.API, f.Path, f.Method, f.Route, f.Size = c.route.API.String(), c.path, c.method, c.route.Name, int64(len(ctx.Request.Body()))
	if c.route.API == HTTP && !c.g.hasPolicy() {
		return nil
	}
	if err := f.readBody(ctx.Request.Body(), packed(&ctx.Request.Header)); err != nil {
		return &refusal{http.StatusBadRequest, "invalid_json", "the body is not JSON of one meaning: " + err.Error()}
	}
	if c.route.API != HTTP {
		c.model = f.Model
	}
	return nil
}

// refuse answers a call that goes nowhere, and records that it was refused. The record is not waited for: nothing
// happened that could be lost but the asking.
func (c *call) refuse(ctx *fasthttp.RequestCtx, no *refusal) {
	r := c.requestRecord(ctx)
	r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(no.status), 10))
	r.Add(record.FieldError, []byte(no.message))
	d, err := c.draft(record.Entry{Kind: record.Refused, Reason: no.code, Policy: c.policy}, r)
	if err == nil {
		var t *record.Ticket
		if t, err = c.g.writer.Submit(d); err == nil {
			c.g.recent.put(recentSession{c.id, c.name(), nil, t, c.nonces})
		}
	}
	if err != nil {
		c.g.writer.Shed(1)
	}
	c.g.numbers.of(c.route).refused[reasonIndex(no.code)].Add(1)
	c.tell(no, time.Now())
	clear(c.key)
	c.g.answer(ctx, c.id, no)
	if c.retry > 0 {
		ctx.Response.Header.Set("Retry-After", strconv.Itoa(int(math.Ceil(c.retry.Seconds()))))
		ctx.Response.Header.Set("X-Should-Retry", strconv.FormatBool(c.retry <= mostRetry))
	}
}

// mostRetry is the longest time for which an SDK is told to wait and try again by itself.
const mostRetry = time.Minute

// requestRecord is what is known of a call before it is sent.
func (c *call) requestRecord(ctx *fasthttp.RequestCtx) record.Record {
	target, headers, body, model := ctx.Request.Header.RequestURI(), []byte(nil), ctx.Request.Body(), []byte(c.model)
	if c.mask(ctx); c.masked != nil {
		target, headers, body, model = c.masked.target, c.masked.headers, c.masked.body, c.masked.model
	} else {
		headers = recordedHead(ctx.Request.Header.RawHeaders())
	}
	r := make(record.Record, 0, 29)
	r.Add(record.FieldSession, []byte(c.id.String()))
	if c.caller != nil {
		addCaller(&r, c.caller)
	}
	r.Add(record.FieldRemote, []byte(ctx.RemoteAddr().String()))
	if c.route != nil {
		r.Add(record.FieldRoute, []byte(c.route.Name))
		r.Add(record.FieldUpstream, []byte(c.route.Upstream.String()))
	}
	if c.model != "" {
		r.Add(record.FieldModel, model)
	}
	r.Add(record.FieldMethod, ctx.Request.Header.Method())
	r.Add(record.FieldTarget, target)
	r.Add(record.FieldHeaders, headers)
	r.Add(record.FieldTimes, append(appendTime(nil, "received", c.received), '}'))
	c.addJudgement(&r)
	if c.facts.Known&KnownFindings != 0 {
		addFindings(&r, c.facts.Findings)
	}
	r.Add(record.FieldBody, body)
	if c.masked != nil && c.masked.exact != nil {
		r.Add(record.FieldExact, c.masked.exact)
	}
	if c.masked != nil && c.route != nil && c.route.Originals != nil {
		c.keep(&r, record.FieldTarget, ctx.Request.Header.RequestURI())
		c.keep(&r, record.FieldHeaders, recordedHead(ctx.Request.Header.RawHeaders()))
		c.keep(&r, record.FieldBody, ctx.Request.Body())
	}
	return r
}

// draft seals a record and makes the entry's draft of it.
func (c *call) draft(e record.Entry, r record.Record) (record.Draft, error) {
	if c.key == nil {
		ctx, err := c.ctx, error(nil)
		if ctx == nil {
			ctx = c.g.silenced // it is refused before it has begun
		}
		if c.keyName, c.key, err = c.g.newKey(ctx); err != nil {
			return record.Draft{}, fmt.Errorf("data key: %w", err)
		}
	}
	e.Session = c.id
	return c.g.coder.Draft(e, r, c.key, c.keyName)
}

// recordRequest puts the request into the log: until it is durable in strict, on its way otherwise.
func (c *call) recordRequest(ctx *fasthttp.RequestCtx) error {
	d, err := c.draft(record.Entry{Kind: record.Request, Policy: c.policy}, c.requestRecord(ctx))
	if err == nil {
		c.request, err = c.g.writer.Submit(d)
	}
	if err == nil && c.g.cfg.Mode == Strict {
		err = c.request.Wait(c.ctx)
	}
	c.recorded = time.Now()
	if err != nil && c.g.cfg.Mode == Open {
		c.request, c.lost = nil, true
		c.unrecorded(err)
		return nil
	}
	return err
}

// unsent answers a call that was not sent because its request could not be recorded. If the call ended while the log
// had the request in hand, the request may come to be on record, and then its end must be too.
func (c *call) unsent(ctx *fasthttp.RequestCtx, err error) {
	if c.request != nil && context.Cause(c.ctx) != nil {
		c.end(ctx, context.Cause(c.ctx))
		return
	}
	defer c.over()
	c.outcome, c.status = outUnrecorded, http.StatusServiceUnavailable
	c.g.numbers.unRequest.Add(1)
	c.g.log.Warn("a call could not be recorded and was not sent", "session", c.id, "err", err)
	c.g.answer(ctx, c.id, unavailable(err))
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
	case errors.Is(err, tlog.ErrTooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, "record_too_large", "the call is too large to be recorded, so it was not sent; send a smaller one"}
	}
	return &refusal{http.StatusServiceUnavailable, "record_unavailable", message}
}

// give answers with a whole body, once its record is durable.
func (c *call) give(ctx *fasthttp.RequestCtx, resp *http.Response, body []byte) {
	c.modelEnd = time.Now()
	c.strike(body)
	out := record.Complete
	if c.left.Load() {
		out = record.ClientGone
	}
	err := c.recordResponse(answered{status: resp.StatusCode, header: resp.Header, body: body, outcome: out})
	c.over()
	if err != nil {
		c.g.answer(ctx, c.id, unavailableAnswer())
		return
	}
	c.head(ctx, resp)
	if c.route.MaskAnswers {
		body = c.given
	}
	c.allow(ctx, len(body))
	if ctx.IsHead() {
		ctx.Response.SkipBody = true
		if n := resp.ContentLength; n > 0 {
			ctx.Response.Header.SetContentLength(int(n))
		}
		return
	}
	ctx.Response.SetBodyRaw(body)
}

// fault is the answer where the fault is the gateway's.
func fault() *refusal {
	return &refusal{http.StatusInternalServerError, "internal", "the gateway met a fault of its own; the call was ended"}
}

func unavailableAnswer() *refusal {
	return &refusal{http.StatusServiceUnavailable, "record_unavailable", "the model answered but the answer could not be recorded, so it is withheld; look at the gateway's log before trying again"}
}

// end answers a call that got no answer, or none that can be passed on, and records how it ended.
func (c *call) end(ctx *fasthttp.RequestCtx, err error) {
	c.g.answer(ctx, c.id, c.ending(err))
	if c.left.Load() {
		ctx.SetConnectionClose() // what it sent ahead nobody waits for
	}
}

// ending puts it on record how a call ended that got no answer, and returns what to tell its caller.
func (c *call) ending(err error) *refusal {
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
	why := c.safe(err)
	c.g.log.Warn("a call failed", "session", c.id, "outcome", out, "err", why)
	if err := c.recordResponse(answered{status: no.status, body: no.body(c.id), outcome: out, err: why}); err != nil {
		no = unavailableAnswer()
	}
	c.over()
	return no
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
	case c.first.IsZero(), errors.Is(err, errAnswer):
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
	outcome record.Outcome
	err     string
}

// recordResponse puts the response into the log, once. Unless the mode is open it returns when the response, and with
// it the request, is durable.
func (c *call) recordResponse(a answered) error {
	if !c.ended {
		c.outcome, c.status, c.answerSize, c.streamed = a.outcome, a.status, len(a.body), a.events != nil
		if a.header != nil {
			c.tokens = usedTokens(c.route.API, a.body, c.streamed)
			if c.trace != nil {
				c.answer = answerFacts(c.route.API, a.body, c.streamed)
			}
		}
	}
	if c.lost && !c.ended && c.route.MaskAnswers {
		c.addAnswer(new(record.Record), &a) // for its caller alone
	}
	if c.lost || c.ended {
		return nil
	}
	c.ended = true
	d, err := c.draft(record.Entry{Kind: record.Response, Outcome: a.outcome}, c.responseRecord(a))
	if err != nil {
		return c.unrecorded(err)
	}
	d.After, d.Together = cmp.Or(c.last, c.request), true
	t, err := c.g.writer.Submit(d)
	if err != nil {
		return c.unrecorded(err)
	}
	c.g.recent.put(recentSession{c.id, c.caller.Name, c.request, t, c.nonces})
	if c.g.cfg.Mode == Open {
		c.g.late.Go(func() {
			if err := c.g.settled(t); err != nil {
				c.unrecorded(err)
			}
		})
		return nil
	}
	if err := c.g.settled(t); err != nil {
		return c.unrecorded(err)
	}
	return nil
}

// settled waits until an entry is durable. That does not depend on the call's own context: what is on its way will be
// durable whether the caller waits or not, and nobody may have the end of an answer before it is. It ends, unanswered,
// only when the gateway has waited long enough for its last words.
func (g *Gateway) settled(t *record.Ticket) error {
	err := t.Wait(g.silenced)
	if err != nil && errors.Is(err, g.silenced.Err()) {
		err = errNoWord
	}
	return err
}

// responseRecord is what is known of a call when it has ended.
func (c *call) responseRecord(a answered) record.Record {
	r := make(record.Record, 0, 10)
	r.Add(record.FieldSession, []byte(c.id.String()))
	r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(a.status), 10))
	if a.finish != "" {
		r.Add(record.FieldFinish, []byte(a.finish))
	}
	if c.struck > 0 {
		r.Add(record.FieldRedacted, strconv.AppendInt(nil, int64(c.struck), 10))
	}
	if a.err != "" {
		r.Add(record.FieldError, []byte(a.err))
	}
	times := make([]byte, 0, 192)
	times = appendTime(times, "received", c.received)
	times = appendTime(times, "sent", c.sent)
	times = appendTime(times, "first", c.first)
	r.Add(record.FieldTimes, append(appendTime(times, "ended", time.Now()), '}'))
	c.addAnswer(&r, &a)
	return r
}

// unrecorded counts a session that could not be recorded, or not to its end. In open it passes; otherwise the caller is
// not given what is not on record.
func (c *call) unrecorded(err error) error {
	c.g.log.Error("a session could not be recorded", "session", c.id, "err", err)
	if c.sent.IsZero() {
		c.g.numbers.unRequest.Add(1)
	} else {
		c.g.numbers.unResponse.Add(1)
	}
	if c.g.cfg.Mode == Open {
		c.g.numbers.lost.Add(1)
		c.g.writer.Lose(1, "log_unavailable")
		c.g.recent.put(recentSession{c.id, c.caller.Name, nil, nil, c.nonces})
		return nil
	}
	c.outcome, c.status = outUnrecorded, http.StatusServiceUnavailable
	return err
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
			ctx.Response.Header.Add(name, v)
		}
	}
	ctx.Response.Header.Set(SessionHeader, c.id.String())
}

// allow gives the caller time to take n bytes. The server ends the time with the answer.
func (c *call) allow(ctx *fasthttp.RequestCtx, n int) {
	ctx.SetWriteDeadline(c.g.writeTime(n))
}

// writeTime is when n bytes that are written now must have been taken: the time is for each thing written, never for a
// whole stream.
func (g *Gateway) writeTime(n int) time.Time {
	return time.Now().Add(g.limits.WriteTime + time.Duration(n>>16)*time.Second)
}

// rescue ends a call that met a fault of ours: on record as internal, answered with 500.
func (c *call) rescue(ctx *fasthttp.RequestCtx) {
	p := recover()
	if p == nil {
		return
	}
	defer c.over()
	c.panicked(p)
	no := fault()
	switch {
	case c.mine && !c.cleared && c.g.book.leave(c, true): // its end is the question's
	case c.request != nil:
		c.recordResponse(answered{status: no.status, body: no.body(c.id), outcome: record.Internal, err: "a fault of the gateway"})
	}
	c.g.answer(ctx, c.id, no)
	ctx.SetConnectionClose()
}

func (c *call) panicked(p any) {
	c.g.numbers.panics.Add(1)
	c.g.log.Error("a call panicked", "session", c.id, "panic", panicText(p), "stack", string(debug.Stack()))
}

// panicText is what a panic says, where that is the runtime's own word: of any other it could be somebody's secret.
func panicText(p any) string {
	if err, ok := p.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("a %T", p)
}
