package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// selfSigned makes a certificate for this machine, and the pool that trusts it.
func selfSigned(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func tlsConfig(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }

// request is a request as the bytes of a connection.
func request(method, path, body string, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n", method, path, callerKey)
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

// dial opens a connection to the gateway that the test reads and writes itself.
func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.at)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func send(t testing.TB, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Fatal(err)
	}
}

// only returns the one session there is, once it has ended.
func (w *world) only() keptSession {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		all := w.sessions()
		for _, k := range all {
			if e, _ := k.last(); len(all) == 1 && e.Kind != record.Request {
				return k
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d sessions, or one without an end", len(all))
		}
		time.Sleep(5 * time.Millisecond) // the session ends in its own time: there is nobody to ask
	}
}

// A caller who leaves before the first byte of an answer ends the model's work at once, in whatever way it leaves.
func TestCallerLeavesBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	cert, pool := selfSigned(t)
	secure := func(version uint16) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: version, MaxVersion: version})
		}
	}
	clear := func(c net.Conn) net.Conn { return c }
	shut := func(c, _ net.Conn) { c.Close() }
	for _, c := range []struct {
		name  string
		wrap  func(net.Conn) net.Conn
		leave func(c, below net.Conn)
		ahead bool // a second request was sent
	}{
		{"close", clear, shut, false},
		{"half a close", clear, func(_, below net.Conn) { below.(*net.TCPConn).CloseWrite() }, false},
		{"reset", clear, func(_, below net.Conn) { below.(*net.TCPConn).SetLinger(0); below.Close() }, false},
		{"close behind a request sent ahead", clear, shut, true},
		{"TLS 1.2", secure(tls.VersionTLS12), shut, false},
		{"TLS 1.3", secure(tls.VersionTLS13), shut, false},
		{"TLS 1.2, goodbye only", secure(tls.VersionTLS12), func(c, _ net.Conn) { c.(*tls.Conn).CloseWrite() }, false},
		{"TLS 1.3, goodbye only", secure(tls.VersionTLS13), func(c, _ net.Conn) { c.(*tls.Conn).CloseWrite() }, false},
		{"TLS 1.3, cut below", secure(tls.VersionTLS13), func(_, below net.Conn) { below.Close() }, false},
		{"TLS 1.3 behind a request sent ahead", secure(tls.VersionTLS13), shut, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) {
				if strings.HasPrefix(c.name, "TLS") {
					cfg.TLS = tlsConfig(cert)
				}
			})
			below := w.dial()
			conn := c.wrap(below)
			ask := request("POST", "/v1/chat/completions", chat("/hang", false))
			send(t, conn, ask)
			if err := w.model.Await(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if c.ahead {
				send(t, conn, ask)
			}
			began := time.Now()
			c.leave(conn, below)
			if err := w.model.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			if took > 2*time.Second {
				t.Errorf("the model was let go of after %v", took)
			}
			t.Logf("the model was let go of after %v", took.Round(10*time.Microsecond))
			if last, _ := w.model.Last(); last.Outcome != gatewaytest.Gone {
				t.Errorf("the model saw outcome %d", last.Outcome)
			}
			if e, r := w.only().last(); e.Outcome != record.ClientGone {
				t.Errorf("on record as %s: %s", e.Outcome, get(r, record.FieldError))
			}
		})
	}
}

// A caller who leaves a stream that is silent, or that it does not read, ends it, and the record has all that it saw.
func TestCallerLeavesAStream(t *testing.T) {
	t.Parallel()
	for _, prompt := range []string{"/stall 3 hello out there in the world", "/slow 20ms /endless hello", "/endless hello"} {
		t.Run(prompt, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			ctx, leave := context.WithCancel(t.Context())
			resp, err := w.do(ctx, "POST", "/v1/chat/completions", chat(prompt, true))
			if err != nil {
				t.Fatal(err)
			}
			saw := make([]byte, 200)
			if _, err := io.ReadFull(resp.Body, saw); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			leave()
			resp.Body.Close()
			if err := w.model.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the model was let go of after %v", took)
			}
			e, r := w.only().last()
			if e.Outcome != record.ClientGone || !strings.HasPrefix(get(r, record.FieldBody), string(saw)) {
				t.Errorf("on record as %s, %s, with %d bytes", e.Outcome, get(r, record.FieldError), len(get(r, record.FieldBody)))
			}
		})
	}
}

// Where the gateway lingers, a call is seen through to its end without its caller, and the whole answer is on record.
func TestLinger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, prompt string
		stream       bool
		read         int // bytes of the answer before the caller leaves
	}{
		{"before a body", "/wait 60ms hello out there", false, 0},
		{"before a stream", "/wait 60ms hello out there", true, 0},
		{"in a stream", "/slow 10ms /events 12", true, 300},
		{"before an answer that is cut", "/wait 60ms /cut 3 hello out there", true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) { cfg.Linger = true })
			conn := w.dial()
			send(t, conn, request("POST", "/v1/chat/completions", chat(c.prompt, c.stream)))
			if err := w.model.Await(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, conn, int64(c.read)); err != nil {
				t.Fatal(err)
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
			e, r := w.only().last()
			body, want := get(r, record.FieldBody), record.ClientGone
			if strings.Contains(c.prompt, "/cut") {
				want = record.Truncated
			} else if end := map[bool]string{false: "}", true: "data: [DONE]\n\n"}[c.stream]; !strings.HasSuffix(body, end) {
				t.Errorf("the record ends before the answer: …%q", body[max(0, len(body)-80):])
			}
			if e.Outcome != want {
				t.Errorf("on record as %s: %s", e.Outcome, get(r, record.FieldError))
			}
		})
	}
}

// A caller who does not read holds up nothing but its own call, and that for a bounded time in bounded memory.
func TestCallerWhoDoesNotRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ path, body string }{
		{"/v1/chat/completions", chat("/endless hello", true)},
		{"/any/v1/chat/completions", chat("/endless hello", true)},
		{"/any/v1/chat/completions", chat("/size 48MB", false)},
		{"/v1/chat/completions", chat("/size 48MB", false)},
	} {
		t.Run(c.path+" "+c.body, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) { cfg.Limits.WriteTime = 300 * time.Millisecond })
			conn := w.dial()
			conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			send(t, conn, request("POST", c.path, c.body))
			e, r := w.only().last()
			if e.Outcome != record.ClientGone {
				t.Errorf("on record as %s: %s", e.Outcome, get(r, record.FieldError))
			}
			if n := len(get(r, record.FieldBody)); n > 16<<20 {
				t.Errorf("%d bytes were taken in for a caller who took none", n)
			} else {
				t.Logf("%d bytes had been taken in", n)
			}
			if err := w.model.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Requests that were sent ahead are answered in their order: the watch takes nothing of them away.
func TestRequestsSentAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	conn := w.dial()
	var all strings.Builder
	const n = 6
	for i := range n {
		all.WriteString(request("POST", "/v1/chat/completions", chat(fmt.Sprintf("/wait 20ms /say number %d", i), i%2 == 1)))
	}
	send(t, conn, all.String())
	br := bufio.NewReader(conn)
	for i := range n {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body := slurp(t, resp.Body)
		if resp.StatusCode != 200 || !strings.Contains(body, fmt.Sprint(i)) {
			t.Errorf("answer %d: status %d: %s", i, resp.StatusCode, body)
		}
		if e, _ := w.session(resp.Header.Get(SessionHeader)).last(); e.Outcome != record.Complete {
			t.Errorf("answer %d is on record as %s", i, e.Outcome)
		}
	}
}

// Nothing that was set for one call is left for the next on its connection.
func TestConnectionIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	const short = 150 * time.Millisecond
	w := newWorld(t, func(cfg *Config) { cfg.Limits.WriteTime = short })
	conn := w.dial()
	br := bufio.NewReader(conn)
	answer := func(what string) {
		t.Helper()
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if body := slurp(t, resp.Body); resp.StatusCode != 200 {
			t.Fatalf("%s: status %d: %s", what, resp.StatusCode, body)
		}
	}
	pause := func() { time.Sleep(2 * short) } // past what was set: that is the test
	for _, stream := range []bool{false, true} {
		send(t, conn, request("POST", "/v1/chat/completions", chat("hello", stream)))
		answer("a call")
		pause()
		send(t, conn, "GET /.tallystick/health HTTP/1.1\r\nHost: gateway\r\n\r\n")
		answer("the health, later")
		body := chat("hello", stream)
		send(t, conn, strings.TrimSuffix(request("POST", "/v1/chat/completions", body, "Expect: 100-continue"), body))
		if line, err := br.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
			t.Fatalf("a caller who asks first is answered %q, %v", line, err)
		}
		br.ReadString('\n')
		pause()
		send(t, conn, body)
		answer("a call that asked first")
		pause()
	}
}

// Callers who leave at any time leave nothing behind. No other test runs beside this one.
func TestLeaversLeaveNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.load(8)
	for i := range 150 {
		conn := w.dial()
		send(t, conn, request("POST", "/v1/chat/completions", chat(fmt.Sprintf("/slow 1ms /events %d", 2+i%7), i%3 > 0)))
		if i%2 == 0 {
			time.Sleep(time.Duration(i%13) * 300 * time.Microsecond) // to leave in the middle of it
		}
		conn.Close()
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if n := w.g.active.Load(); n != 0 {
		t.Errorf("%d calls are still counted as under way", n)
	}
	noneLeft(t)
}

// noneLeft looks for goroutines of gateways that have ended, and of their connections to models. It can be asked only
// where no other test runs a gateway.
func noneLeft(t *testing.T) {
	t.Helper()
	b := make([]byte, 8<<20)
	deadline := time.Now().Add(5 * time.Second)
	for {
		var found []string
		for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
			switch {
			case strings.Contains(g, "gateway.noneLeft"), strings.Contains(g, "testing.(*T).Parallel"), strings.Contains(g, "gateway.newWorldWith.func"):
			case strings.Contains(g, "tallystick/gateway."), strings.Contains(g, "http.(*persistConn)"), strings.Contains(g, "fasthttp.(*Server)"):
				found = append(found, g)
			}
		}
		if len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines are left:\n%s", len(found), strings.Join(found, "\n\n"))
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
