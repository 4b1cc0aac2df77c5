package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"mime"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/original"
)

// What is masked is the record, not the traffic: the model gets what was sent and the caller what was answered, unless its route
// has it otherwise, and between the two a copy is made that can be written down. Only the stream journal has an answer as it
// was, sealed, for as long as it comes.

// A masked is a request as its record has it.
type masked struct {
	headers, target, body, model []byte
	exact                        []byte // of the body, if it was masked
}

// mask makes what the record has of a request, once, where its route masks, and tells the rules what was found. Of a call that
// found no route it is the strictest that there is: the first route's that masks.
func (c *call) mask(ctx *fasthttp.RequestCtx) {
	m := c.g.mask
	if c.route != nil {
		m = c.route.Mask
	}
	if m == nil || c.masked != nil {
		return
	}
	h := &ctx.Request.Header
	w := &masked{}
	var found mask.Findings
	part := func(out []byte, f mask.Findings) []byte {
		found.Add(f)
		return out
	}
	w.headers, _ = m.Headers(nil, recordedHead(h.RawHeaders())) // the caller's addresses, say: rules are about what it asks
	w.target = part(m.Target(nil, h.RequestURI()))
	w.model, _ = m.Text(nil, []byte(c.model)) // which is in the body, and counted there
	body := ctx.Request.Body()
	if c.masked = w; packed(h) {
		w.body, w.exact = []byte(notKept), c.exactly(&c.nonces[0], body)
		return // and what is in it nobody knows
	}
	w.body = part(m.Body(make([]byte, 0, len(body)+len(body)/16), string(h.ContentType()), body))
	if !bytes.Equal(w.body, body) {
		w.exact = c.exactly(&c.nonces[0], body)
	}
	c.facts.Findings = findingsOf(found)
	c.facts.Known |= KnownFindings
}

// notKept stands in a record for a body that is packed: what is in it cannot be masked, so it is not written down.
const notKept = "(left out: it is packed, and could not be masked)"

// addFindings puts into a record what the masker found: an empty list says that it looked.
func addFindings(r *record.Record, found []Finding) {
	rows := make([][3]any, len(found))
	for i, x := range found {
		rows[i] = [3]any{x.Kind, x.Rule, x.Count}
	}
	if b, err := json.Marshal(rows); err == nil {
		r.Add(record.FieldFindings, b)
	}
}

func findingsOf(found mask.Findings) []Finding {
	out := make([]Finding, len(found))
	for i, f := range found {
		out[i] = Finding{Kind: string(f.Kind), Rule: f.Rule, Count: f.Count}
	}
	return out
}

// maskAnswer masks what the record has of an answer: the head, and the body with its table of events. What cannot be masked
// is left out.
func maskAnswer(m *mask.Masker, header []byte, contentType, coding string, body, events []byte) (h, b, table []byte, found mask.Findings) {
	if header != nil {
		var f mask.Findings
		header, f = m.Headers(nil, header)
		found.Add(f)
	}
	if coding != "" && coding != "identity" {
		return header, []byte(notKept), nil, found
	}
	if kind, _, _ := mime.ParseMediaType(contentType); events != nil && kind == "text/event-stream" {
		if out, table, f, err := m.Stream(nil, body, events); err == nil {
			found.Add(f)
			return header, out, table, found
		}
	}
	out, f := m.Body(nil, contentType, body) // and what is known of its pieces is true of it no more
	found.Add(f)
	return header, out, nil, found
}

// headOf reads from a recorded head what a body is.
func headOf(header []byte) (contentType, coding string) {
	var list [][2]string
	if json.Unmarshal(header, &list) != nil {
		return "", ""
	}
	for _, h := range list {
		switch {
		case strings.EqualFold(h[0], "content-type"):
			contentType = h[1]
		case strings.EqualFold(h[0], "content-encoding"):
			coding = h[1]
		}
	}
	return contentType, coding
}

// addAnswer adds to a response's record what the model said, masked where the route masks.
func (c *call) addAnswer(r *record.Record, a *answered) {
	var exact []byte // the head as it was
	if a.header != nil {
		exact = recordedHeader(a.header)
	}
	header, body, events := exact, a.body, a.events
	if c.route != nil && c.route.Mask != nil {
		var found mask.Findings
		header, body, events, found = maskAnswer(c.route.Mask, header, a.header.Get("Content-Type"), a.header.Get("Content-Encoding"), body, events)
		addFindings(r, findingsOf(found))
	}
	if header != nil {
		r.Add(record.FieldHeaders, header)
	}
	if events != nil {
		r.Add(record.FieldEvents, events)
	}
	r.Add(record.FieldBody, body)
	if !bytes.Equal(body, a.body) && !(c.route != nil && c.route.MaskAnswers) {
		r.Add(record.FieldExact, c.exactly(&c.nonces[1], a.body))
	}
	if c.given = body; c.route != nil && c.route.Mask != nil && c.route.Originals != nil {
		if header != nil {
			c.keep(r, record.FieldHeaders, exact)
		}
		c.keep(r, record.FieldBody, a.body)
	}
}

// exactly commits to the bytes of a body of which the record has a masked copy, so that its caller can show them, who gets the
// nonce with its receipt.
func (c *call) exactly(nonce *[]byte, body []byte) []byte {
	*nonce = make([]byte, record.NonceBytes)
	rand.Read(*nonce)
	return record.Exactly(*nonce, body)
}

// keep seals into a record what one of its fields was before it was masked, if it was. A record without it is better than none.
func (c *call) keep(r *record.Record, name string, exact []byte) {
	if err := c.route.Originals.Add(r, name, exact); err != nil {
		c.g.log.Error("an original could not be sealed, and is not kept", "session", c.id, "field", name, "err", err)
	}
}

// maskOf finds what masks the record of a session that an earlier boot left open, and what seals originals: those of its route. Where
// that cannot be told the masker is that of any route that masks, so that nothing is written down that should not be.
func (g *Gateway) maskOf(ctx context.Context, u record.Unfinished) (*mask.Masker, *original.Sealer) {
	if g.mask == nil {
		return nil, nil
	}
	name, err := g.routeOf(ctx, u)
	if err != nil {
		return g.mask, nil
	}
	for i := range g.routes {
		if r := g.routes[i].route; r.Name == name {
			return r.Mask, r.Originals
		}
	}
	return g.mask, nil
}

// routeOf reads from its request which route a session took.
func (g *Gateway) routeOf(ctx context.Context, u record.Unfinished) (string, error) {
	t, err := g.published(ctx)
	if err != nil {
		return "", err
	}
	raw, err := (tlog.Tiles{Reader: g.cfg.Log, Size: t.Size}).Entry(ctx, u.Index)
	if err != nil {
		return "", err
	}
	e, err := record.ParseEntry(raw)
	if err != nil {
		return "", err
	}
	r, err := g.coder.Read(ctx, &e, g.cfg.Log.Payload, g.cfg.Keys.Open)
	if err != nil {
		return "", err
	}
	return textOf(r, record.FieldRoute), nil
}
