package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// A strictCaller is one raw connection to a world.
type strictCaller struct {
	t testing.TB
	*net.TCPConn
	br *bufio.Reader
}

func (w *strictWorld) dial() *strictCaller {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return &strictCaller{w.t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *strictCaller) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads the next answer and wants it to have this status.
func (c *strictCaller) hear(status int) strictAnswer {
	c.t.Helper()
	a, err := readStrictAnswer(c.br, "GET")
	if err != nil {
		c.t.Fatalf("want an answer with status %d, got %v", status, err)
	}
	if a.status != status {
		c.t.Fatalf("want an answer with status %d, got %v", status, a)
	}
	return a
}

// hearRefusal wants a refusal with this code, that says it is the last answer, and then the end.
func (c *strictCaller) hearRefusal(status int, code string) {
	c.t.Helper()
	a := c.hear(status)
	if !a.close || !strings.Contains(a.body, `"code":"`+code+`"`) || !strings.Contains(a.body, `"type":"error"`) {
		c.t.Errorf("want a refusal with code %s, got %v", code, a)
	}
	c.hearEnd()
}

func (c *strictCaller) hearEnd() {
	c.t.Helper()
	if b, err := c.br.ReadByte(); err != io.EOF {
		c.t.Errorf("want the end of the connection, got %q, %v", b, err)
	}
}

func (w *strictWorld) want(want ...strictMessage) {
	w.t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		w.t.Errorf("forwarded %q, want %q", got, want)
	}
}

const strictGet = "GET /a HTTP/1.1\r\nHost: gw.test\r\n\r\n"

func strictPost(body string) string {
	return fmt.Sprintf("POST /p HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestStrictStories: what a caller does on one connection, and what it hears.
func TestStrictStories(t *testing.T) {
	get, post := strictMessage{"GET", "/a", ""}, strictMessage{"POST", "/p", "hello"}
	chunked := "POST /p HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	tests := []struct {
		name      string
		say       string
		answers   []int // the last one refuses if it is not 200
		code      string
		forwarded []strictMessage
		open      bool // the connection stays usable
	}{
		{"one", strictGet, []int{200}, "", []strictMessage{get}, true},
		{"two at once", strictGet + strictPost("hello"), []int{200, 200}, "", []strictMessage{get, post}, true},
		{"ten at once", strings.Repeat(strictPost("hello"), 10), slices.Repeat([]int{200}, 10), "", slices.Repeat([]strictMessage{post}, 10), true},
		{"CRLF between", strictPost("hello") + "\r\n" + strictGet, []int{200, 200}, "", []strictMessage{post, get}, true},
		{"two CRLF between", strictPost("hello") + "\r\n\r\n" + strictGet, []int{200, 400}, "bad_request_line", []strictMessage{post}, false},
		{"a good one and a bad one", strictGet + "GET /b HTTP/1.1\nHost: gw.test\n\n", []int{200, 400}, "bare_lf", []strictMessage{get}, false},
		{"a bad one and a good one", "GET /b HTTP/1.1\r\n\r\n" + strictGet, []int{400}, "missing_host", nil, false},
		{"chunked, then another", chunked + "5\r\nhello\r\n0\r\n\r\n" + strictGet, []int{200}, "", []strictMessage{post}, false},
		{"chunked in parts", chunked + "1;a=b\r\nh\r\n04\r\nello\r\n000;c=\"d;\\\"\"\r\nX-Sum: 1\r\nX-Other:\r\n\r\n", []int{200}, "", []strictMessage{post}, false},
		{"chunked and keep-alive", strings.Replace(chunked, "\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n", 1) + "5\r\nhello\r\n0\r\n\r\n" + strictGet, []int{200}, "", []strictMessage{post}, false},
		{"chunked and close", strings.Replace(chunked, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1) + "5\r\nhello\r\n0\r\n\r\n", []int{200}, "", []strictMessage{post}, false},
		{"a bad chunk", chunked + "5\r\nhello\r\n5\r\nhello0\r\n\r\n", []int{400}, "bad_chunk", nil, false},
		{"a chunk longer than its size", chunked + "5\r\nhelloXX0\r\n\r\n", []int{400}, "bad_chunk", nil, false},
		{"a chunk that ends in CR and no LF", chunked + "5\r\nhello\rX0\r\n\r\n", []int{400}, "bad_chunk", nil, false},
		{"long extensions", chunked + strings.Repeat("1;"+strings.Repeat("x", 1<<10)+"\r\nx\r\n", 16), []int{400}, "chunk_extensions", nil, false},
		{"a length in the trailer", chunked + "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", []int{400}, "bad_trailer", nil, false},
		{"an address in the trailer", chunked + "5\r\nhello\r\n0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", []int{400}, "bad_trailer", nil, false},
		{"bare LF behind the last chunk", chunked + "5\r\nhello\r\n0\r\n\n", []int{400}, "bad_chunk", nil, false},
		{"close", strings.Replace(strictGet, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1) + strictGet, []int{200}, "", []strictMessage{get}, false},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\nHost: gw.test\r\n\r\n" + strictGet, []int{200}, "", []strictMessage{get}, false},
		{"HTTP/1.0, kept alive", "GET /a HTTP/1.0\r\nHost: gw.test\r\nConnection: Keep-Alive\r\n\r\n" + strictGet, []int{200}, "", []strictMessage{get}, false},
		{"HTTP/1.0 without a host", "GET /a HTTP/1.0\r\n\r\n", []int{400}, "missing_host", nil, false},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{505}, "version_not_supported", nil, false},
		{"TLS", "\x16\x03\x01", []int{400}, "tls_on_plain_port", nil, false},
		{"CONNECT", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", []int{405}, "method_not_allowed", nil, false},
		{"lower case method", "get / HTTP/1.1\r\nHost: gw.test\r\n\r\n", []int{501}, "method_not_known", nil, false},
		{"unmet expectation", "POST / HTTP/1.1\r\nHost: gw.test\r\nExpect: tea\r\n\r\n", []int{417}, "expectation_failed", nil, false},
		{"other host", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", []int{421}, "host_not_served", nil, false},
		{"same host with a port", "GET /a HTTP/1.1\r\nHost: GW.test:8080\r\n\r\n", []int{200}, "", []strictMessage{get}, true},
		{"long head", "GET / HTTP/1.1\r\nHost: gw.test\r\nX: " + strings.Repeat("x", 20<<10), []int{431}, "head_too_large", nil, false},
		{"a head that just fits", "GET /a HTTP/1.1\r\nHost: gw.test\r\nX: " + strings.Repeat("x", 20<<10-len(strictGet)-5) + "\r\n\r\n" + strictGet, []int{200, 200}, "", []strictMessage{get, get}, true},
		{"many headers", "GET / HTTP/1.1\r\nHost: gw.test\r\n" + strings.Repeat("X:\r\n", 100), []int{431}, "too_many_headers", nil, false},
		{"long trailers", chunked + "0\r\n" + strings.Repeat("X: y\r\n", 33), []int{431}, "trailers_too_large", nil, false},
		{"too large", "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000001\r\n\r\n", []int{413}, "body_too_large", nil, false},
		{"too large in chunks", chunked + "1\r\nx\r\nf4240\r\n", []int{413}, "body_too_large", nil, false},
	}
	var mu sync.Mutex
	var refusals []string
	w := newStrictWorld(t, strictConfig{
		MaxHead: 20 << 10, MaxBody: 1_000_000, Hosts: []string{"gw.test"},
		OnRefuse: func(_ net.Addr, status int, code string) {
			mu.Lock()
			defer mu.Unlock()
			refusals = append(refusals, fmt.Sprint(status, " ", code))
		},
	}, nil)
	var told []string
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.t = t
			c := w.dial()
			c.say(test.say)
			for i, status := range test.answers {
				if status != 200 {
					told = append(told, fmt.Sprint(status, " ", test.code))
					c.hearRefusal(status, test.code)
				} else if a := c.hear(status); i == len(test.answers)-1 && a.close == test.open {
					t.Errorf("the last answer says close: %v, but stays open: %v", a.close, test.open)
				}
			}
			if test.open {
				c.say(strictGet)
				c.hear(200)
				test.forwarded = append(test.forwarded, get)
			} else {
				c.hearEnd()
			}
			w.want(test.forwarded...)
		})
	}
	w.t = t
	if !slices.Equal(refusals, told) {
		t.Errorf("OnRefuse was told %v, want %v", refusals, told)
	}
}

// TestStrictReuse: an ordinary client makes many calls over one connection, and a limit ends it politely.
func TestStrictReuse(t *testing.T) {
	w := newStrictWorld(t, strictConfig{MaxRequests: 33}, nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	fresh := 0
	trace := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			fresh++
		}
	}})
	for i := range 100 {
		body := strings.Repeat("x", i*i*10)
		r, err := http.NewRequestWithContext(trace, "POST", "http://"+w.addr+"/p", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, a.Body)
		a.Body.Close()
		w.want(strictMessage{"POST", "/p", body})
	}
	if fresh != 4 {
		t.Errorf("%d connections for 100 requests, 33 on each; want 4", fresh)
	}
}

// TestStrictSlow: a head or a body that drips in is cut off with an answer; a connection that says nothing, without.
func TestStrictSlow(t *testing.T) {
	conf := strictConfig{HeadTimeout: 60 * time.Millisecond, BodyTimeout: 60 * time.Millisecond, LingerTime: 100 * time.Millisecond}
	drip := func(c *strictCaller, s string) {
		go func() {
			for _, b := range []byte(s) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-t.Context().Done():
					return
				}
			}
		}()
	}
	t.Run("head", func(t *testing.T) {
		w := newStrictWorld(t, conf, nil)
		c := w.dial()
		drip(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 1000))
		c.hearRefusal(408, "head_timeout")
		w.want()
	})
	t.Run("body", func(t *testing.T) {
		w := newStrictWorld(t, conf, nil)
		c := w.dial()
		c.say(strictPost("hello"))
		c.hear(200)
		c.say(strictPost(strings.Repeat("x", 1000))[:60])
		drip(c, strings.Repeat("x", 900))
		c.hearRefusal(408, "body_timeout")
		w.want(strictMessage{"POST", "/p", "hello"})
	})
	t.Run("chunked body", func(t *testing.T) {
		w := newStrictWorld(t, conf, nil)
		c := w.dial()
		c.say("POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n")
		drip(c, strings.Repeat("1\r\nx\r\n", 100))
		c.hearRefusal(408, "body_timeout")
		w.want()
	})
	t.Run("server's body deadline", func(t *testing.T) {
		w := newStrictWorld(t, strictConfig{LingerTime: 100 * time.Millisecond}, func(s *fasthttp.Server) { s.ReadTimeout = 60 * time.Millisecond })
		c := w.dial()
		c.say(strictPost(strings.Repeat("x", 1000))[:60])
		c.hearRefusal(408, "body_timeout")
	})
	t.Run("nothing", func(t *testing.T) {
		w := newStrictWorld(t, conf, func(s *fasthttp.Server) { s.ReadTimeout = 60 * time.Millisecond })
		w.dial().hearEnd()
		c := w.dial()
		c.say("\r\n")
		c.hearEnd()
	})
	t.Run("idle, then a head in two parts", func(t *testing.T) {
		// The head begins before the server's idle deadline and ends after it: HeadTimeout holds, not that.
		idle := 200 * time.Millisecond
		w := newStrictWorld(t, strictConfig{}, func(s *fasthttp.Server) { s.IdleTimeout = idle })
		c := w.dial()
		c.say(strictGet)
		c.hear(200)
		c.say(strictGet[:5])
		<-time.After(idle + idle/2)
		c.say(strictGet[5:])
		c.hear(200)
		c.hearEnd()
	})
}

// TestStrictDeadlines: the server's deadline stands again wherever ours has ended, and cannot undo ours before.
func TestStrictDeadlines(t *testing.T) {
	t.Run("none of the server's", func(t *testing.T) {
		head, body := 150*time.Millisecond, 150*time.Millisecond
		w := newStrictWorld(t, strictConfig{HeadTimeout: head, BodyTimeout: body}, func(s *fasthttp.Server) { s.ReadTimeout, s.IdleTimeout = 0, 0 })
		c := w.dial()
		for range 2 {
			c.say(strictGet[:5])
			c.say(strictGet[5:])
			c.hear(200)
			<-time.After(head + head/2)
			post := strictPost("hello")
			c.say(post[:len(post)-1])
			c.say(post[len(post)-1:])
			c.hear(200)
			<-time.After(body + body/2)
		}
		c.CloseWrite()
		c.hearEnd()
	})
	t.Run("order", func(t *testing.T) {
		wire := &strictClock{}
		ln := newStrictListener(strictOne{c: wire}, strictConfig{})
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s, _ := strictOf(c)
		soon, late := time.Now().Add(time.Second), time.Now().Add(time.Hour)
		var ours time.Time
		for _, step := range []struct {
			name string
			do   func()
			want *time.Time
		}{
			{"the server's", func() { c.SetReadDeadline(late) }, &late},
			{"a body begins", func() { s.holdBody(); ours = wire.at }, &ours},
			{"the server has a later one", func() { c.SetReadDeadline(late) }, &ours},
			{"the server has none", func() { c.SetDeadline(time.Time{}) }, &ours},
			{"the server has an earlier one", func() { c.SetReadDeadline(soon) }, &soon},
			{"the body ends", s.restore, &soon},
			{"a head begins", func() { s.holdHead(); ours = wire.at }, &ours},
			{"the head goes on", func() { s.holdHead() }, &ours},
			{"the head ends", s.restore, &soon},
			{"the next body begins", func() { s.waiting = false; s.holdBody() }, &soon},
		} {
			step.do()
			if !wire.at.Equal(*step.want) || wire.at.IsZero() {
				t.Errorf("%s: the deadline is %v, want %v", step.name, wire.at, *step.want)
			}
		}
		if d := time.Until(ours); d < 5*time.Second || d > strictHeadTimeout {
			t.Errorf("the head's deadline is in %v", d)
		}
	})
}

// strictClock remembers the read deadline it was given.
type strictClock struct {
	net.Conn
	at time.Time
}

func (c *strictClock) SetReadDeadline(t time.Time) error  { c.at = t; return nil }
func (c *strictClock) SetWriteDeadline(t time.Time) error { return nil }

// TestStrictBomb: 512 MiB of framing for a body limit of 64 KiB are cut after at most twice the limits.
func TestStrictBomb(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	conf := strictConfig{MaxHead: 64 << 10, MaxBody: 64 << 10, LingerTime: 200 * time.Millisecond}
	for _, test := range []struct {
		name, start, repeat string
		status              int
	}{
		{"one extension", head + "1;x=", "y", 400},
		{"extensions", head, "1;x=" + strings.Repeat("y", 1000) + "\r\nz\r\n", 400},
		{"short extensions", head, "1;x\r\nz\r\n", 400},
		{"small chunks", head, "1\r\nz\r\n", 400},
		{"zeros", head, "0", 400},
		{"trailers", head + "0\r\n", "X: y\r\n", 431},
		{"a trailer", head + "0\r\nX: ", "y", 400},
		{"a head", "GET / HTTP/1.1\r\nX: ", "y", 431},
		{"CRLF", "", "\r\n", 400},
		{"refused early", "GET /\r\n", "y", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newStrictWorld(t, conf, nil)
			c := w.dial()
			go func() {
				block := []byte(test.start + strings.Repeat(test.repeat, 1+1<<20/len(test.repeat)))
				for range 512 {
					if _, err := c.Write(block); err != nil {
						return
					}
					block = block[:0]
					for len(block) < 1<<20 {
						block = append(block, test.repeat...)
					}
				}
			}()
			if a := c.hear(test.status); !a.close {
				t.Errorf("the answer %v does not close the connection", a)
			}
			for { // to the end, or to the reset that follows bytes nobody took
				if _, err := c.br.ReadByte(); err != nil {
					break
				}
			}
			if n, most := w.read.Load(), 2*(int64(conf.MaxHead)+conf.MaxBody); n > most {
				t.Errorf("took %d bytes, want at most %d", n, most)
			}
			w.want()
		})
	}
}

// TestStrictTooLarge: a client that is still sending, or that only then reads, gets to read why it was refused.
func TestStrictTooLarge(t *testing.T) {
	w := newStrictWorld(t, strictConfig{MaxBody: 1 << 20}, nil)
	head := "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 64000000\r\n\r\n"
	t.Run("reads while it sends", func(t *testing.T) {
		w.t = t
		for range 20 {
			c := w.dial()
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				c.Write([]byte(head))
				for b := make([]byte, 64<<10); ; {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
			if a := c.hear(413); !a.close {
				t.Errorf("answer %v", a)
			}
			c.hearEnd()
			c.Close()
			<-stopped
		}
	})
	t.Run("reads when it has sent", func(t *testing.T) {
		w.t = t
		for range 20 {
			c := w.dial()
			body := make([]byte, 1<<20+50_000)
			c.say(fmt.Sprintf("POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n\r\n", len(body)))
			c.say(string(body))
			c.hearRefusal(413, "body_too_large")
		}
	})
	t.Run("expects to continue", func(t *testing.T) {
		w.t = t
		c := w.dial()
		c.say(strings.Replace(head, "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1))
		c.hearRefusal(413, "body_too_large")
	})
	w.t = t
	w.want()
}

// TestStrictContinue: the client waits to be told to send its body.
func TestStrictContinue(t *testing.T) {
	head := "POST /p HTTP/1.1\r\nHost: gw.test\r\nexpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
	chunked := "POST /p HTTP/1.1\r\nHost: gw.test\r\nExpect: 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n\r\n"
	w := newStrictWorld(t, strictConfig{}, nil)
	c := w.dial()
	c.say(head)
	c.hear(100)
	c.say("hello")
	c.hear(200)
	c.say(chunked)
	c.hear(100)
	c.say("5\r\nhello\r\n0\r\n\r\n")
	c.hear(200)
	c.hearEnd()
	w.want(strictMessage{"POST", "/p", "hello"}, strictMessage{"POST", "/p", "hello"})

	// Told to go on, the client sends what is not a chunk: one refusal, and nothing of the server's behind it.
	c = w.dial()
	c.say(chunked)
	c.hear(100)
	c.say("5\nhello\n0\n\n")
	c.hearRefusal(400, "bad_chunk")
	w.want()

	// The server refuses the body, and the client sends it all the same.
	w = newStrictWorld(t, strictConfig{}, func(s *fasthttp.Server) { s.ExpectHandler = func(*fasthttp.RequestCtx) int { return 401 } })
	for range 20 {
		c = w.dial()
		c.say("POST /p HTTP/1.1\r\nHost: gw.test\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
		c.say(strings.Repeat("x", 1_000_000))
		c.hear(401)
		c.hearEnd()
	}
	w.want()
}

// TestStrictEarlyAnswer: a handler that streams bodies answers before it has read one; what is wrong with the body then
// changes nothing of the answer, and still ends the connection.
func TestStrictEarlyAnswer(t *testing.T) {
	read := make(chan error, 1)
	w := newStrictWorld(t, strictConfig{}, func(s *fasthttp.Server) {
		s.StreamRequestBody = true
		s.Handler = func(ctx *fasthttp.RequestCtx) {
			body := ctx.RequestBodyStream()
			ctx.SetBodyStreamWriter(func(bw *bufio.Writer) {
				bw.WriteString("early")
				bw.Flush()
				_, err := io.Copy(io.Discard, body)
				read <- err
			})
		}
	})
	c := w.dial()
	c.say("POST /p HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	r, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	early := make([]byte, 5)
	if _, err := io.ReadFull(r.Body, early); err != nil || string(early) != "early" {
		t.Fatalf("%q, %v", early, err)
	}
	c.say("5\nhello")
	if err := <-read; err == nil {
		t.Error("the handler read a malformed body to a good end")
	}
	if b, err := io.ReadAll(r.Body); len(b) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("behind the early answer: %q, %v; want it cut off", b, err)
	}
}

// TestStrictTLS: the same reading above TLS, known as such to the server; a plain connection is not.
func TestStrictTLS(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		tls, last bool
		version   uint16
		raw       string
	}
	heard := make(chan seen, 1)
	server := &fasthttp.Server{ReadTimeout: 5 * time.Second, Handler: func(ctx *fasthttp.RequestCtx) {
		s := seen{tls: ctx.IsTLS()}
		if state := ctx.TLSConnectionState(); state != nil {
			s.version = state.Version
		}
		if c, ok := strictOf(ctx.Conn()); ok {
			s.last, s.raw = c.lastRequest(), fmt.Sprintf("%T", c.raw())
		}
		heard <- s
	}}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(newStrictListener(tls.NewListener(ln, &tls.Config{Certificates: cert.TLS.Certificates}), strictConfig{}))
	}()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	for _, request := range []string{strictGet, "POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
		c, err := tls.Dial("tcp", ln.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, request)
		want := seen{true, strings.HasPrefix(request, "POST"), tls.VersionTLS13, "*net.TCPConn"}
		if got := <-heard; got != want {
			t.Errorf("the handler saw %+v, want %+v", got, want)
		}
		br := bufio.NewReader(c)
		if a, err := readStrictAnswer(br, "GET"); err != nil || a.status != 200 || a.close != want.last {
			t.Errorf("answer %v, %v", a, err)
		}
		if !want.last {
			io.WriteString(c, "GET / HTTP/1.1\n\n"+strings.Repeat("x", 100_000))
			a, err := readStrictAnswer(br, "GET")
			if err != nil || a.status != 400 || !a.close {
				t.Errorf("answer %v, %v", a, err)
			}
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("want the end, got %v", err)
		}
		c.Close()
	}
	if err := server.Shutdown(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}

	w := newStrictWorld(t, strictConfig{}, func(s *fasthttp.Server) {
		s.Handler = func(ctx *fasthttp.RequestCtx) {
			if ctx.IsTLS() || ctx.TLSConnectionState() != nil {
				t.Error("a plain connection passes for TLS")
			}
		}
	})
	c := w.dial()
	c.say(strictGet)
	c.hear(200)
	_, err = tls.Dial("tcp", w.addr, config)
	if plain := (tls.RecordHeaderError{}); !errors.As(err, &plain) || string(plain.RecordHeader[:]) != "HTTP/" {
		t.Errorf("a TLS client at the plain port got %v, want an HTTP answer", err)
	}
}

// TestStrictShutdown: a server that shuts down closes idle connections at once, lets a call finish, and says close.
func TestStrictShutdown(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	w := newStrictWorld(t, strictConfig{}, func(s *fasthttp.Server) {
		s.Handler = func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) == "/a" {
				return
			}
			close(inside)
			<-leave
		}
	})
	idle, busy := w.dial(), w.dial()
	idle.say(strictGet)
	idle.hear(200)
	busy.say(strictPost("hello"))
	<-inside
	done := make(chan error, 1)
	go func() { done <- w.server.Shutdown() }()
	idle.hearEnd()
	select {
	case err := <-done:
		t.Errorf("shut down with a call inside: %v", err)
	default:
	}
	close(leave)
	if a := busy.hear(200); !a.close {
		t.Errorf("answer %v while shutting down", a)
	}
	busy.hearEnd()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStrictConfig: the caller of newStrictListener words the refusals.
func TestStrictConfig(t *testing.T) {
	w := newStrictWorld(t, strictConfig{Refusal: func(status int, code, message string) []byte {
		return fmt.Appendf(nil, "[%d,%q,%q]", status, code, message)
	}}, nil)
	c := w.dial()
	c.say("GET / HTTP/1.1\nHost: gw.test\n\n")
	want := `[400,"bare_lf","the request head has a line that ends in LF without CR; end every line with CRLF"]`
	if a := c.hear(400); a.body != want {
		t.Errorf("%s, want %s", a.body, want)
	}
	c.hearEnd()

	c = w.dial()
	c.say("TRACE / HTTP/1.1\r\n")
	r, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("Allow") != headMethods || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Date") == "" {
		t.Errorf("headers %v", r.Header)
	}
}

// TestStrictLeaves: connections that ended in every way leave none of our goroutines behind.
func TestStrictLeaves(t *testing.T) {
	w := newStrictWorld(t, strictConfig{LingerTime: 50 * time.Millisecond}, nil)
	for i := range 200 {
		c := w.dial()
		c.say([]string{strictGet, "GET / HTTP/1.1\n", strictGet[:10], strictPost("hello")[:50], "", strictPost("hello")}[i%6])
		c.Close()
	}
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(5 * time.Second); ; {
		all := stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(all, []byte("(*strictConn)")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind:\n%s", all)
		}
		<-time.After(10 * time.Millisecond)
	}
}
