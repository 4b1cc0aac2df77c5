package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// A vigil is the answer to a call for an event stream, about which people take longer to decide than a caller is kept waiting
// without a word: the head of a stream, then comments, and then what the model answers. An error can be told as an event only
// from there on, which SDKs raise as an error of no particular kind; that is why it comes after the silent wait, and not at
// once. The server reads it on the connection's goroutine.
type vigil struct {
	c    *call
	ctx  *fasthttp.RequestCtx
	tee  *tee // the model's answer, once there is one
	over bool
}

// vigilPause is how long a caller hears nothing in between: less than what proxies and SDKs wait for.
const vigilPause = 10 * time.Second

// vigil answers a caller that goes on waiting.
func (c *call) vigil(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.DisableNormalizing()
	ctx.SetStatusCode(http.StatusOK)
	h.SetContentType("text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set(SessionHeader, c.id.String())
	c.allow(ctx, 0)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.SetBodyStream(&vigil{c: c, ctx: ctx}, -1)
}

// Read is not for use: the server lets the vigil write.
func (v *vigil) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SupportsBodyWriteTo tells the server to let the vigil write.
func (v *vigil) SupportsBodyWriteTo() bool { return true }

// WriteTo waits for people, and then for the model.
func (v *vigil) WriteTo(w io.Writer) (n int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = v.fail(p)
		}
	}()
	write := func(b []byte) error {
		v.ctx.Conn().SetWriteDeadline(v.c.g.writeTime(len(b)))
		m, err := w.Write(b)
		n += int64(m)
		return err
	}
	no, err := v.wait(write)
	if err != nil {
		return n, err
	}
	if no == nil {
		no = v.send()
	}
	if no != nil {
		v.over = true
		return n, write(v.event(no.body(v.c.id)))
	}
	m, err := v.tee.WriteTo(w)
	return n + m, err
}

// wait says, every now and then, that people are waited for. It returns nil when the call may be sent, what to tell the caller
// when it may not, and an error when there is nobody to tell.
func (v *vigil) wait(write func([]byte) error) (*refusal, error) {
	c, b, q := v.c, v.c.g.book, v.c.question
	c.heard = time.Time{}
	defer c.waiting(time.Now())
	comment := fmt.Appendf(nil, ": waiting for approval %s\n\n", q.id)
	if err := write(comment); err != nil {
		return nil, err // and Close ends the call
	}
	pause := time.NewTicker(vigilPause)
	defer pause.Stop()
	for {
		ours, state, changed := b.take(c)
		switch {
		case ours:
			if err := c.useYes(); err != nil {
				return c.unused(err), nil
			}
			c.cleared = true
			return nil, nil
		case state == denied || state == expired:
			return c.notSent(b.refusal(q), record.Denied), nil
		case state == used || state == unasked:
			return c.usedByOther(), nil
		case c.ctx.Err() != nil || c.g.draining.Err() != nil:
			no := c.later()
			if no == nil {
				continue // it was decided at the last moment
			}
			if v.over = true; errors.Is(context.Cause(c.ctx), errGone) {
				return nil, errGone
			}
			return no, nil
		}
		select {
		case <-pause.C:
			if err := write(comment); err != nil {
				return nil, err
			}
		case <-changed:
		case <-c.ctx.Done():
		case <-c.g.draining.Done():
		}
	}
}

// send calls the model. What is no event stream becomes an event that says what went wrong.
func (v *vigil) send() *refusal {
	c := v.c
	resp, body, err := c.send(v.ctx)
	if err != nil {
		return c.ending(err)
	}
	if !isStream(resp) {
		b, rest, err := c.whole(resp, body)
		c.modelEnd = time.Now()
		body.Close()
		if err == nil && rest {
			err = errAnswer
		}
		if err != nil {
			return c.ending(err)
		}
		c.strike(b)
		if err := c.recordResponse(answered{status: resp.StatusCode, header: resp.Header, body: b, outcome: record.Complete}); err != nil {
			c.over()
			return unavailableAnswer()
		}
		c.over()
		return modelsRefusal(resp.StatusCode, b)
	}
	t := c.tee(v.ctx, resp, body)
	if err := t.begin(nil); err != nil {
		t.finish(err)
		t.Close()
		return unavailableAnswer()
	}
	v.tee = t
	return nil
}

// modelsRefusal is what a model said instead of a stream.
func modelsRefusal(status int, body []byte) *refusal {
	var said struct {
		Error struct {
			Message string `json:"message"`
			Code    any    `json:"code"`
		} `json:"error"`
	}
	no := &refusal{status, "upstream_error", fmt.Sprintf("the model answered with status %d and no stream", status)}
	if json.Unmarshal(body, &said) == nil && said.Error.Message != "" {
		no.message = said.Error.Message
		if code, ok := said.Error.Code.(string); ok && code != "" {
			no.code = code
		}
	}
	return no
}

// event makes an error event of a refusal's body, as the route's API has it.
func (v *vigil) event(body []byte) []byte {
	var b bytes.Buffer
	if v.c.route.API == Anthropic {
		b.WriteString("event: error\n")
	}
	fmt.Fprintf(&b, "data: %s\n\n", body)
	return b.Bytes()
}

// fail ends a vigil that met a fault of ours.
func (v *vigil) fail(p any) error {
	v.c.panicked(p)
	v.end()
	return errors.New("gateway: a fault of its own ended the answer")
}

// Close is called by the server when it asks for no more.
func (v *vigil) Close() error {
	if v.tee != nil {
		return v.tee.Close()
	}
	if !v.over {
		v.c.left.Store(true)
		v.end()
	}
	return nil
}

// end ends a call before the model has answered. Its question stays; without one it has an end of its own.
func (v *vigil) end() {
	v.over = true
	switch c := v.c; {
	case c.ended:
	case !c.cleared && c.mine && c.g.book.leave(c, true):
		c.ended = true
		c.stillOpen(499)
		c.over()
	case !c.cleared:
		c.notSent(&refusal{499, "client_gone", "the caller left"}, record.ClientGone)
	default:
		c.cancel(errGone)
		c.ending(errGone)
	}
}
