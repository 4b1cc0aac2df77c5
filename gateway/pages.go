package gateway

import (
	"bytes"
	"io"
	"net/http"
	"net/url"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// Pages answer what lies under the gateway's own prefix and is not the gateway's itself, such as log-ins. Who asks is a
// parameter: it is nil for nobody who is known by a key, a token or a certificate; cookies are for the pages to read. What a
// request asks, and the answer, are whole in memory, and neither is on record. Safe for concurrent use.
type Pages interface {
	ServePage(w http.ResponseWriter, r *http.Request, from *Principal)
}

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
	g.cfg.Pages.ServePage(p, r, g.visitor(ctx).caller)
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
