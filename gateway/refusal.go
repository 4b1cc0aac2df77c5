package gateway

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// errorType is the word that the SDKs of both families know for a status.
func errorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

// body is the refusal in the one shape that the official SDKs of both families turn into a typed error. A zero
// session leaves request_id out.
func (r *refusal) body(session record.ID) []byte {
	type inner struct {
		Type    string  `json:"type"`
		Message string  `json:"message"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	b := struct {
		Type      string `json:"type"`
		Error     inner  `json:"error"`
		RequestID string `json:"request_id,omitempty"`
	}{"error", inner{errorType(r.status), r.message, nil, r.code}, ""}
	if !session.IsZero() {
		b.RequestID = session.String()
	}
	out, err := json.Marshal(b)
	if err != nil {
		return nil
	}
	return out
}

// answer gives a refusal to the caller. SDKs are told whether trying again can help: it cannot where the request, the
// key or the rules would have to change first.
func (g *Gateway) answer(ctx *fasthttp.RequestCtx, session record.ID, no *refusal) {
	ctx.Response.Reset()
	h := &ctx.Response.Header
	h.DisableNormalizing()
	ctx.SetStatusCode(no.status)
	h.SetContentType("application/json")
	if !session.IsZero() {
		id := session.String()
		h.Set(SessionHeader, id)
		h.Set("X-Request-Id", id)
		h.Set("Request-Id", id)
	}
	if no.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110 §15.5.2
	}
	switch {
	case no.code == pendingCode, no.code == usedCode:
		after := time.Second
		if no.code == pendingCode {
			after = g.book.c.Again
		}
		h.Set("X-Should-Retry", "true")
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	case no.status < 500:
		h.Set("X-Should-Retry", "false")
	case no.status == http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(1))
	}
	ctx.SetBody(no.body(session))
	ctx.SetWriteDeadline(g.writeTime(0))
}

// strangerBody is the largest body, in bytes, that is taken in from nobody who is known here.
const strangerBody = 64 << 10

// unreadable answers what fasthttp could not read: a body over its limit, or a caller that stopped in the middle. What is
// malformed the strict reading has refused.
func (g *Gateway) unreadable(ctx *fasthttp.RequestCtx, err error) {
	if c, ok := strictOf(ctx.Conn()); ok && c.refused.Load() {
		return // answered and counted by the connection
	}
	no := refuse400("bad_request", "the request could not be read; check it against HTTP/1.1 (RFC 9112)")
	if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		no = refusalBodyTooLarge(g.limits.Body)
	}
	g.turnedAway(no.code)
	g.answer(ctx, record.ID{}, no)
	ctx.SetConnectionClose()
}
