package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
)

// A nullLog takes everything at once and keeps nothing.
type nullLog struct{ size atomic.Uint64 }

func (l *nullLog) Append(_ context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	end := l.size.Add(uint64(len(leaves)))
	indices := make([]uint64, len(leaves))
	for i := range indices {
		indices[i] = end - uint64(len(leaves)-i)
	}
	return indices, nil
}
func (l *nullLog) Checkpoint(context.Context) ([]byte, error)         { return nil, tlog.ErrNotFound }
func (l *nullLog) Tile(context.Context, tlog.Tile) ([]byte, error)    { return nil, tlog.ErrNotFound }
func (l *nullLog) Payload(context.Context, tlog.Hash) ([]byte, error) { return nil, tlog.ErrNotFound }

// A cannedModel answers without a wire.
type cannedModel struct {
	header http.Header
	body   []byte
	length int64
}

func (m *cannedModel) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: m.header.Clone(), Body: io.NopCloser(bytes.NewReader(m.body)),
		ContentLength: m.length, TransferEncoding: map[bool][]string{true: {"chunked"}}[m.length < 0], Request: r,
	}, nil
}

// A deafConn is a caller's connection that takes everything.
type deafConn struct{ net.Conn }

func (deafConn) Write(p []byte) (int, error)        { return len(p), nil }
func (deafConn) Read([]byte) (int, error)           { select {} }
func (deafConn) Close() error                       { return nil }
func (deafConn) LocalAddr() net.Addr                { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (deafConn) RemoteAddr() net.Addr               { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
func (deafConn) SetDeadline(time.Time) error        { return nil }
func (deafConn) SetReadDeadline(time.Time) error    { return nil }
func (deafConn) SetWriteDeadline(t time.Time) error { return nil }

// benchGateway is a gateway that runs, with a model that answers without a wire, or by one if m is nil.
func benchGateway(b *testing.B, mode Mode, m *cannedModel) *benched {
	b.Helper()
	up, err := url.Parse("http://model.example")
	if err != nil {
		b.Fatal(err)
	}
	g, err := New(Config{
		ID: "gw", Software: "x/1", Log: &nullLog{}, Origin: "log.example/bench", Keys: &memKeys{}, Journal: b.TempDir(), Mode: mode, Heartbeat: time.Hour,
		Routes:  []Route{{Name: "openai", API: OpenAI, Upstream: up, Credential: plain(canary)}},
		Callers: []Caller{{Name: "alice", SHA256: hashOf(callerKey)}},
	})
	if err != nil {
		b.Fatal(err)
	}
	if m != nil {
		g.pools.of(g.routes[0].route, "alice").RegisterProtocol("http", m)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, ln) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return &benched{g, ln.Addr().String()}
}

type benched struct {
	*Gateway
	at string
}

// BenchmarkServe is what a call costs in our own code: no sockets, and a log that takes everything at once. Its prompt
// and its answer are 2 KiB and 1 KiB of text.
func BenchmarkServe(b *testing.B) {
	body := fmt.Sprintf(`{"model":"fake-1","stream":%%v,"messages":[{"role":"user","content":%q}]}`, "/size 1KB "+strings.Repeat("a word or two, ", 2<<10/15))
	model := gatewaytest.New(gatewaytest.Config{})
	for _, stream := range []bool{false, true} {
		ask := fmt.Sprintf(body, stream)
		r, err := http.NewRequest("POST", "http://m/v1/chat/completions", strings.NewReader(ask))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(bufioOf(model.Answer(r).Bytes()), r)
		if err != nil {
			b.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			b.Fatal(err)
		}
		m := &cannedModel{header: resp.Header, body: answer, length: resp.ContentLength}
		head := strings.TrimSuffix(request("POST", "/v1/chat/completions", ask, "Accept: application/json", "User-Agent: OpenAI/Go 3.96.0", "X-Stainless-Lang: go",
			"X-Stainless-Os: Linux", "X-Stainless-Arch: x64", "X-Stainless-Runtime: go", "X-Stainless-Retry-Count: 0", "X-Stainless-Timeout: 600", "Idempotency-Key: stainless-retry-1"), ask)
		for _, mode := range []Mode{Strict, Open} {
			b.Run(fmt.Sprintf("%v/stream=%v", mode, stream), func(b *testing.B) {
				g := benchGateway(b, mode, m)
				b.ReportAllocs()
				b.SetBytes(int64(len(ask) + len(answer)))
				b.RunParallel(func(pb *testing.PB) {
					var ctx fasthttp.RequestCtx
					wire := head + ask
					for pb.Next() {
						ctx.Init2(deafConn{}, quiet{}, false)
						if err := ctx.Request.Read(bufioOf([]byte(wire))); err != nil {
							b.Error(err)
							return
						}
						g.handle(&ctx)
						if ctx.Response.StatusCode() != 200 {
							b.Errorf("status %d", ctx.Response.StatusCode())
							return
						}
						if stream {
							if _, err := ctx.Response.WriteTo(io.Discard); err != nil {
								b.Error(err)
								return
							}
						}
						ctx.Request.Reset()
						ctx.Response.Reset()
					}
				})
			})
		}
	}
}

// BenchmarkPass is the same with sockets: a caller that writes and reads bytes, and a model that does.
func BenchmarkPass(b *testing.B) {
	ask := `{"model":"fake-1","messages":[{"role":"user","content":"` + strings.Repeat("a word or two, ", 2<<10/15) + `"}]}`
	wire := []byte(request("POST", "/v1/chat/completions", ask))
	body := `{"choices":[{"message":{"content":"` + strings.Repeat("a word or two, ", 1<<10/15) + `"}}]}`
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	model, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer model.Close()
	go func() {
		for {
			conn, err := model.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				for n := 0; ; {
					m, err := conn.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte(`"}]}`)) {
						conn.Write(answer)
						n = 0
					}
				}
			}()
		}
	}()
	g := benchGateway(b, Strict, nil)
	up := *g.routes[0].route.Upstream
	up.Host = model.Addr().String()
	g.routes[0].route.Upstream = &up
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", g.at)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buf := make([]byte, 64<<10)
		for pb.Next() {
			if _, err := conn.Write(wire); err != nil {
				b.Error(err)
				return
			}
			for n := 0; !bytes.HasSuffix(buf[:n], []byte(`"}}]}`)); {
				m, err := conn.Read(buf[n:])
				if err != nil {
					b.Error(err)
					return
				}
				n += m
			}
		}
	})
}
