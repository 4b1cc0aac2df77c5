package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// Pages answer what lies under the gateway's own prefix and is not the gateway's itself, such as log-ins. Who asks is a
// parameter: it is nil for nobody who is known by a key, a token or a certificate; cookies are for the pages to read. What a
// request asks, and the answer, are whole in memory. Neither is on record: what people did there is, where note is told of it.
// Safe for concurrent use.
type Pages interface {
	ServePage(w http.ResponseWriter, r *http.Request, from *Principal, note Note)
}

// A Note puts on record, as an access entry, that somebody did something here that is no call, such as to log in: who, why
// in a word ("log-in"), and what, in words; and from where, which is the address of the request. It is durable when nil is
// returned. Nothing that strangers can cause is worth one.
type Note func(who *Principal, why, what string) error

// A page is the answer that Pages make.
type page struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (p *page) Header() http.Header { return p.header }

func (p *page) WriteHeader(status int) {
	if p.status == 0 {
		p.status = status
	}
}

func (p *page) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return p.body.Write(b)
}

// servePage has the pages answer. What they are given is theirs: they may keep it, and the server's buffers may not be.
func (g *Gateway) servePage(ctx *fasthttp.RequestCtx) {
	target := string(ctx.Request.Header.RequestURI())
	u, err := url.ParseRequestURI(target)
	if err != nil {
		g.answer(ctx, record.ID{}, refuse400("bad_request", "the request's target cannot be read"))
		return
	}
	body := bytes.Clone(ctx.Request.Body())
	r := (&http.Request{
		Method: string(ctx.Method()), URL: u, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Host: string(ctx.Request.Header.Host()), RemoteAddr: ctx.RemoteAddr().String(),
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)), TLS: ctx.TLSConnectionState(),
	}).WithContext(g.stopping)
	for name, v := range ctx.Request.Header.All() {
		r.Header.Add(string(name), string(v))
	}
	p := &page{header: make(http.Header)}
	g.cfg.Pages.ServePage(p, r, g.visitor(ctx).caller, g.Note(r.RemoteAddr))
	p.WriteHeader(http.StatusOK)
	ctx.SetStatusCode(p.status)
	for name, values := range p.header {
		for _, v := range values {
			ctx.Response.Header.Add(name, v)
		}
	}
	ctx.SetBody(p.body.Bytes())
	ctx.SetWriteDeadline(g.writeTime(p.body.Len()))
}

// Note returns the Note of what people do from an address, for pages that are served beside the gateway's own address.
func (g *Gateway) Note(from string) Note {
	return func(who *Principal, why, what string) error {
		entry := make(record.Record, 0, 6)
		addActor(&entry, who)
		entry.Add(record.FieldRemote, []byte(from))
		entry.Add(record.FieldReason, []byte(why))
		entry.Add(record.FieldWhat, []byte(what))
		work, cancel := context.WithTimeout(g.stopping, lookTime)
		defer cancel()
		return g.recordAccess(work, record.ID{}, entry)
	}
}

// recordAccess writes an access entry, about a session or about none. It is durable when this returns nil.
func (g *Gateway) recordAccess(ctx context.Context, session record.ID, r record.Record) error {
	_, err := g.write(ctx, record.Entry{Kind: record.Access, Session: session}, r)
	return err
}

// addActor puts who did something into a record.
func addActor(r *record.Record, p *Principal) {
	r.Add(record.FieldActor, []byte(p.Name))
	r.Add(record.FieldActorHow, []byte(p.How))
	if p.Email != "" {
		r.Add(record.FieldActorEmail, []byte(p.Email))
	}
}
