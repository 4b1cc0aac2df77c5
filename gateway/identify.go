package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// A visitor is who sends a request: a caller, or a refusal where it is not known who. why is that of a Stranger, for
// credentials of a known kind that are not good, and "" for everything else.
type visitor struct {
	caller *Principal
	no     *refusal
	why    string
}

var noVisitor = visitor{no: unauthorized("the request shows no key; send the gateway's key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")}

func unauthorized(message string) *refusal {
	return &refusal{http.StatusUnauthorized, "invalid_api_key", message}
}

// visitor tells who sends the request of ctx. The connection has found it out before the body was read.
func (g *Gateway) visitor(ctx *fasthttp.RequestCtx) visitor {
	if c, ok := strictOf(ctx.Conn()); ok {
		return c.from
	}
	return noVisitor
}

// meet finds out who sends a request, from its checked head and from what its connection showed. Nothing else of a head is
// looked at for that: neither what a proxy before the gateway may have written, nor what a caller may.
func (g *Gateway) meet(c *strictConn, h *requestHead, raw []byte) (v visitor) {
	defer func() {
		if p := recover(); p != nil {
			g.numbers.panics.Add(1)
			g.log.Error("an identifier panicked", "panic", panicText(p), "stack", string(debug.Stack()))
			v = visitor{no: fault()}
		}
	}()
	var shown Shown
	if t, ok := c.Conn.(strictTLS); ok {
		if s := t.ConnectionState(); len(s.VerifiedChains) > 0 {
			shown.Cert = s.PeerCertificates[0]
		}
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		shown.Remote = a.AddrPort()
	}
	key := h.apiKey.in(raw)
	if !h.authorization.empty() {
		scheme, rest, _ := bytes.Cut(h.authorization.in(raw), []byte(" "))
		if !equalFold(scheme, "bearer") {
			return visitor{no: unauthorized("the Authorization header is not of the form `Bearer KEY`")}
		}
		rest = bytes.TrimLeft(rest, " ")
		if len(key) > 0 && !bytes.Equal(key, rest) {
			return visitor{no: unauthorized("the request shows two different keys; show one")}
		}
		key = rest
	}
	if len(key) > 0 {
		shown.Bearer = key
	}
	if shown.Bearer == nil && shown.Cert == nil {
		return noVisitor
	}
	return g.identify(g.stopping, shown)
}

// identify asks the identifiers in their order. The first that knows the kind of what is shown decides.
func (g *Gateway) identify(ctx context.Context, shown Shown) visitor {
	for _, id := range g.identifiers {
		p, err := id.Identify(ctx, shown)
		var no *Stranger
		switch {
		case errors.Is(err, ErrNotMine):
		case errors.As(err, &no):
			return visitor{no: unauthorized(no.Message), why: no.Why}
		case err == nil && (p == nil || p.Name == "" || !plainName(p.Name)):
			err = errors.New("an identifier names nobody")
			fallthrough
		case err != nil:
			g.log.Warn("who calls could not be found out", "err", err)
			return visitor{no: &refusal{http.StatusServiceUnavailable, "identity_unavailable", "who calls could not be found out now, so the call was not sent; try again"}}
		default:
			return visitor{caller: p}
		}
	}
	if shown.Bearer == nil {
		return visitor{no: unauthorized("the client certificate is of nobody who is known here, and the request shows no key")}
	}
	return visitor{no: unauthorized("the key is not one that this gateway knows; ask whoever runs it for a key")}
}

// Identify tells whose static key is shown; see [Identifier]. A key of nobody's may be of another kind.
func (cs callers) Identify(_ context.Context, s Shown) (*Principal, error) {
	if s.Bearer == nil {
		return nil, ErrNotMine
	}
	if p := cs[sha256.Sum256(s.Bearer)]; p != nil {
		return p, nil
	}
	return nil, ErrNotMine
}

// Strangers have a place in the log, but not all of it: so many refusals are on record at once, and then one in a while. The
// others are counted.
const (
	strangersAtOnce = 100
	strangersPause  = time.Second
)

// A ration lets some things happen at once, and then one in each pause.
type ration struct {
	most  int
	pause time.Duration

	mu   sync.Mutex
	used int       // under mu
	last time.Time // under mu: up to when what was used has been given back
}

func (r *ration) take(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if back := int(now.Sub(r.last) / r.pause); back >= r.used {
		r.used, r.last = 0, now
	} else if back > 0 {
		r.used -= back
		r.last = r.last.Add(time.Duration(back) * r.pause)
	}
	if r.used >= r.most {
		return false
	}
	r.used++
	return true
}

// turnAway answers a call of nobody who is known. That a credential of a known kind was not good is on record, within the
// ration; everything else is counted only.
func (c *call) turnAway(ctx *fasthttp.RequestCtx, v visitor) {
	if v.why == "" || !c.g.strangers.take(c.received) {
		c.g.turnedAway(v.no.code)
		c.g.answer(ctx, c.id, v.no)
		return
	}
	ctx.Request.ResetBody() // a stranger's words are not kept
	c.refuse(ctx, &refusal{v.no.status, v.no.code, v.no.message + " (" + v.why + ")"})
}

// name is the caller's, or "", which is nobody's.
func (c *call) name() string {
	if c.caller == nil {
		return ""
	}
	return c.caller.Name
}

// addCaller puts who calls into a record.
func addCaller(r *record.Record, p *Principal) {
	text := func(name, value string) {
		if value != "" {
			r.Add(name, []byte(value))
		}
	}
	text(record.FieldCaller, p.Name)
	text(record.FieldKey, p.Key)
	text(record.FieldHow, p.How)
	text(record.FieldIssuer, p.Issuer)
	text(record.FieldSubject, p.Subject)
	text(record.FieldEmail, p.Email)
	if len(p.Groups) > 0 {
		b, err := json.Marshal(p.Groups)
		if err == nil {
			r.Add(record.FieldGroups, b)
		}
	}
	if !p.At.IsZero() {
		r.Add(record.FieldAuthed, p.At.UTC().AppendFormat(nil, time.RFC3339))
	}
}
