package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// pools keep connections to models, a pool for each route and caller: a connection that carried one principal's call
// never carries another's, so that an answer that came unasked can reach nobody else. The client is net/http's, which
// can be cancelled, tells a cut answer from a whole one, and throws away a connection on which more came than was due.
type pools struct {
	roots  *x509.CertPool
	limits Limits

	mu   sync.Mutex
	open map[poolKey]*pool // under mu
}

type poolKey struct {
	route  *Route
	caller string
}

type pool struct {
	transport *http.Transport
	used      time.Time
}

// maxPools bounds how many callers' connections are kept; beyond it the one idle longest is closed.
const maxPools = 1024

func newPools(roots *x509.CertPool, l Limits) *pools {
	return &pools{roots: roots, limits: l, open: make(map[poolKey]*pool)}
}

// of returns the transport for a caller on a route.
func (p *pools) of(r *Route, caller string) *http.Transport {
	key := poolKey{r, caller}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.open[key]; t != nil {
		t.used = now
		return t.transport
	}
	if len(p.open) >= maxPools {
		var oldest poolKey
		for k, t := range p.open {
			if o := p.open[oldest]; o == nil || t.used.Before(o.used) {
				oldest = k
			}
		}
		go p.open[oldest].transport.CloseIdleConnections()
		delete(p.open, oldest)
	}
	t := &pool{transport: newTransport(r, p.roots, p.limits), used: now}
	p.open[key] = t
	return t.transport
}

// close closes the connections that carry no call.
func (p *pools) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.open {
		t.transport.CloseIdleConnections()
	}
}

// newTransport returns a client for one route. It follows no redirect (a RoundTripper never does), asks for no
// compression, and dials the route's host only.
func newTransport(r *Route, roots *x509.CertPool, l Limits) *http.Transport {
	literal, _ := netip.ParseAddr(r.Upstream.Hostname())
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// Addresses of the link, where clouds keep their metadata, are nobody's model, whatever a name resolves to.
			if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && a.Addr().Unmap().IsLinkLocalUnicast() && !literal.IsValid() {
				conn.Close()
				return nil, fmt.Errorf("%s resolves to the link-local address %s", r.Upstream.Hostname(), a.Addr())
			}
			return newLine(conn, r.Upstream.Scheme == "https"), nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// errAnswer says that what a model answered cannot be passed on.
var errAnswer = errors.New("the model's answer is not one that can be passed on")

// errCut says that an answer stopped before its end, where the transport itself could not tell.
var errCut = errors.New("the model's answer stopped before its end")

// An answerBody is a model's body while it is read: every read may take Limits.Silence, and at most Limits.Answer bytes
// come.
type answerBody struct {
	c       *call
	body    io.ReadCloser
	silence *time.Timer // runs while the model is waited for
	read    int64
	line    *line // nil over HTTP/2
	turn    int
}

// send calls the model and returns its head, checked, and its body. The body, or an error, ends with the call's context.
func (c *call) send(ctx *fasthttp.RequestCtx) (*http.Response, *answerBody, error) {
	to, err := c.route.address(c.path, c.query)
	if err != nil {
		return nil, nil, err
	}
	l := c.g.limits
	cancel := c.cancel
	a := &answerBody{c: c}
	req := (&http.Request{
		Method: c.method, URL: to, Host: to.Host, Header: c.outgoing(ctx),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(httptrace.WithClientTrace(c.ctx, a.trace()))
	if body := ctx.Request.Body(); len(body) > 0 {
		// Bytes that a late write of the transport may still read after this call: the server's buffer is used again
		// for the next request, so the call has its own.
		own := bytes.Clone(body)
		req.ContentLength = int64(len(own))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(own)), nil }
		req.Body, _ = req.GetBody()
	} else if c.method == http.MethodPost || c.method == http.MethodPut || c.method == http.MethodPatch {
		req.Body = http.NoBody
	}
	c.tellModel(req.Header)
	a.silence = time.AfterFunc(l.FirstByte, func() { cancel(errSilence) })
	c.sent = time.Now()
	resp, err := c.g.pools.of(c.route, c.caller.Name).RoundTrip(req)
	a.silence.Stop()
	if err != nil {
		if cause := context.Cause(c.ctx); cause != nil {
			err = cause
		}
		return nil, nil, err
	}
	c.first, c.modelStatus = time.Now(), resp.StatusCode
	a.body = resp.Body
	c.strikeHead(resp.Header)
	if err := checkAnswer(resp); err != nil {
		a.Close()
		return nil, nil, err
	}
	if coding := resp.Header.Get("Content-Encoding"); c.route.MaskAnswers && coding != "" && coding != "identity" {
		a.Close()
		return nil, nil, errAnswer // it is packed, though it was asked not to be, and cannot be masked
	}
	if resp.ContentLength > l.Answer && c.method != http.MethodHead {
		a.Close()
		return nil, nil, errTooMuch
	}
	return resp, a, nil
}

// checkAnswer says whether an answer's head can be passed on.
func checkAnswer(resp *http.Response) error {
	if resp.StatusCode < 200 || resp.StatusCode > 599 {
		return fmt.Errorf("%w: status %d", errAnswer, resp.StatusCode)
	}
	return nil
}

// Read reads as its owner allows. io.EOF means that the transport came to its own end.
func (a *answerBody) Read(p []byte) (int, error) {
	l := a.c.g.limits
	a.silence.Reset(l.Silence)
	n, err := a.body.Read(p)
	a.silence.Stop()
	a.read += int64(n)
	if a.read > l.Answer {
		return 0, errTooMuch
	}
	if err == io.EOF {
		a.line.leave(a.turn)
	} else if err != nil {
		if cause := context.Cause(a.c.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close lets go of the answer. What was not read makes its connection unfit for another call.
func (a *answerBody) Close() error {
	a.silence.Stop()
	a.line.leave(a.turn)
	return a.body.Close()
}

// wholeBytes is the largest body that is taken in before any of it is passed on.
const wholeBytes = 1 << 20

// ended says whether the transport of an answer tells its end from a cut: by a length, by chunks, by HTTP/2.
func ended(resp *http.Response) bool {
	return resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.ProtoMajor >= 2
}

// isStream says whether an answer is an event stream that can be read.
func isStream(resp *http.Response) bool {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return t == "text/event-stream" && (resp.Header.Get("Content-Encoding") == "" || resp.Header.Get("Content-Encoding") == "identity")
}

// whole takes in an answer that is a body and not a stream: one of a known and moderate length, or, on a route whose
// API does not stream but as events, any of moderate length. With rest it is a stream after all, of which head has come.
func (c *call) whole(resp *http.Response, body *answerBody) (head []byte, rest bool, err error) {
	if c.method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return nil, false, nil
	}
	if isStream(resp) {
		return nil, true, nil
	}
	known := resp.ContentLength >= 0 && resp.ContentLength <= wholeBytes
	if !known && (c.route.API == HTTP || resp.ContentLength > wholeBytes) {
		return nil, true, nil
	}
	size := int64(8 << 10)
	if known {
		size = resp.ContentLength
	}
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(body, wholeBytes+1)); err != nil {
		return nil, false, err
	}
	if b.Len() > wholeBytes {
		return b.Bytes(), true, nil
	}
	if !ended(resp) && !isJSON(b.Bytes()) {
		return nil, false, errCut
	}
	return b.Bytes(), false, nil
}

// isJSON says whether b is one JSON object or array: an end of its own, where the transport has none. No beginning of
// such a value is one.
func isJSON(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 || b[0] != '{' && b[0] != '[' {
		return false
	}
	return json.Valid(b)
}
