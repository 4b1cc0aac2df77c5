package gateway

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// strictReplay is a client that sends the same bytes for ever, one request a read.
type strictReplay struct {
	net.Conn
	request []byte
	at      int
}

func (c *strictReplay) Read(p []byte) (int, error) {
	if c.at == len(c.request) {
		c.at = 0
	}
	n := copy(p, c.request[c.at:])
	c.at += n
	return n, nil
}
func (c *strictReplay) Write(p []byte) (int, error)     { return len(p), nil }
func (c *strictReplay) SetReadDeadline(time.Time) error { return nil }
func (c *strictReplay) Close() error                    { return nil }

type strictOne struct {
	net.Listener
	c net.Conn
}

func (l strictOne) Accept() (net.Conn, error) { return l.c, nil }

func strictReplayed(tb testing.TB, request []byte) net.Conn {
	c, err := newStrictListener(strictOne{c: &strictReplay{request: request}}, strictConfig{}).Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// strictSample is a call as a client library makes it, with a head and a body of about these sizes.
func strictSample(head, body int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /v1/chat/completions?stream=true HTTP/1.1\r\nHost: gateway.example.com:8443\r\nUser-Agent: OpenAI/JS 6.49.0\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nX-Stainless-Lang: js\r\nX-Stainless-Retry-Count: 0\r\n"+
		"X-Stainless-Runtime: node\r\nX-Stainless-Timeout: 600\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Length: %d\r\n", body)
	fmt.Fprintf(&b, "Authorization: Bearer %s\r\n\r\n", strings.Repeat("e", max(0, head-b.Len()-28)))
	b.Write(bytes.Repeat([]byte("x"), body))
	return b.Bytes()
}

// TestStrictAllocations: once a connection has its buffer, requests cost none.
func TestStrictAllocations(t *testing.T) {
	for _, size := range []struct{ head, body int }{{1 << 10, 0}, {1 << 10, 6 << 10}, {1 << 10, 100 << 10}, {20 << 10, 6 << 10}} {
		request := strictSample(size.head, size.body)
		c := strictReplayed(t, request)
		p := make([]byte, 64<<10)
		read := func() {
			for n := 0; n < len(request); {
				m, err := c.Read(p)
				if err != nil {
					t.Fatal(err)
				}
				n += m
			}
		}
		read()
		if n := testing.AllocsPerRun(100, read); n >= 1 {
			t.Errorf("%d + %d bytes: %v allocations a request", size.head, size.body, n)
		}
	}
}

// BenchmarkStrictRead is the cost of reading strictly, without a network: a head of 1 KB and a body of 6 KB.
func BenchmarkStrictRead(b *testing.B) {
	request := strictSample(1<<10, 6<<10)
	c := strictReplayed(b, request)
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(request)))
	b.ReportAllocs()
	for b.Loop() {
		for n := 0; n < len(request); {
			m, err := c.Read(p)
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}
}

// BenchmarkStrictHead is the check alone.
func BenchmarkStrictHead(b *testing.B) {
	head := strictSample(1<<10, 0)
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if _, bad := checkHead(head, nil); bad != nil {
			b.Fatal(bad)
		}
	}
}

// BenchmarkStrictServe is a call over loopback through fasthttp, with and without the strict listener.
func BenchmarkStrictServe(b *testing.B) {
	for _, strict := range []bool{false, true} {
		b.Run(fmt.Sprintf("strict=%v", strict), func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			addr := ln.Addr().String()
			if strict {
				ln = newStrictListener(ln, strictConfig{})
			}
			server := &fasthttp.Server{ReadBufferSize: 65 << 10, ReadTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second,
				Handler: func(ctx *fasthttp.RequestCtx) { ctx.WriteString("ok") }}
			go server.Serve(ln)
			defer server.Shutdown()
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			request, answer := strictSample(1<<10, 6<<10), make([]byte, 1024)
			b.SetBytes(int64(len(request)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Read(answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
