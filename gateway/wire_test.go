package gateway

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// Callers can come by TLS, and are spoken to in HTTP/1.1 whatever they offer.
func TestTLSIn(t *testing.T) {
	t.Parallel()
	cert, pool := selfSigned(t)
	w := newWorld(t, func(cfg *Config) {
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	})
	w.base = "https://localhost:" + strings.Split(w.at, ":")[1]
	w.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	for i := range 4 {
		resp := w.post("/v1/chat/completions", chat("hello", i%2 == 1))
		body := slurp(t, resp.Body)
		if resp.StatusCode != 200 || resp.ProtoMajor != 1 || resp.TLS == nil {
			t.Errorf("status %d in %s", resp.StatusCode, resp.Proto)
		}
		if e, r := w.session(resp.Header.Get(SessionHeader)).last(); e.Outcome != record.Complete || get(r, record.FieldBody) != body {
			t.Errorf("on record as %s", e.Outcome)
		}
	}
	// Plain HTTP where TLS is expected, and the other way round, end; nobody hangs.
	conn := w.dial()
	send(t, conn, request("GET", "/v1/models", ""))
	if b, _ := io.ReadAll(conn); bytes.Contains(b, []byte("200")) {
		t.Errorf("%q", b)
	}
}

// tlsModel starts a model that speaks TLS, in HTTP/2 or not, and adds it to a configuration.
func tlsModel(t *testing.T, h2 bool, h http.Handler) (*httptest.Server, func(*Config)) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.EnableHTTP2 = h2
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, func(cfg *Config) {
		up, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Roots = x509.NewCertPool()
		cfg.Roots.AddCert(srv.Certificate())
		for i := range cfg.Routes {
			cfg.Routes[i].Upstream = up
		}
	}
}

// Models can be reached by TLS, in HTTP/1.1 and in HTTP/2, and a cut of theirs is one in either.
func TestTLSOut(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2=", h2), func(t *testing.T) {
			t.Parallel()
			var major atomic.Int64
			model := gatewaytest.New(gatewaytest.Config{Key: canary})
			_, change := tlsModel(t, h2, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				major.Store(int64(r.ProtoMajor))
				cut, _ := url.ParseQuery(r.URL.RawQuery)
				if n := cut.Get("abort"); n != "" {
					var bytes int
					fmt.Sscan(n, &bytes)
					rw = &aborting{ResponseWriter: rw, left: bytes}
				}
				model.ServeHTTP(rw, r)
			}))
			w := newWorld(t, change)
			for _, c := range []struct{ path, body string }{
				{"/v1/chat/completions", chat("hello", false)},
				{"/v1/chat/completions", chat("hello", true)},
				{"/v1/responses", `{"model":"fake-1","stream":true,"input":"hello"}`},
				{"/any/v1/chat/completions", chat("hello", true)},
				{"/any/v1/chat/completions", chat("/size 3MB", false)},
			} {
				resp := w.post(c.path, c.body)
				body := slurp(t, resp.Body)
				e, r := w.session(resp.Header.Get(SessionHeader)).last()
				if resp.StatusCode != 200 || e.Outcome != record.Complete || get(r, record.FieldBody) != body {
					t.Errorf("%s: status %d, on record as %s: %s", c.body, resp.StatusCode, e.Outcome, get(r, record.FieldError))
				}
				if got := major.Load(); got != map[bool]int64{false: 1, true: 2}[h2] {
					t.Errorf("the model was spoken to in HTTP/%d", got)
				}
				for _, at := range []int{0, 1, 100, len(body) / 2, len(body) - 1} {
					resp := w.post(fmt.Sprintf("%s?abort=%d", c.path, at), c.body)
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode == 200 && err == nil {
						t.Errorf("%s, cut at %d: a clean end after %d bytes", c.body, at, len(b))
					}
					if e, _ := w.session(resp.Header.Get(SessionHeader)).last(); e.Outcome == record.Complete {
						t.Errorf("%s, cut at %d: on record as %s", c.body, at, e.Outcome)
					}
				}
			}
			// A caller who leaves ends the call in HTTP/2, too, where the connection is others' as well.
			conn := w.dial()
			before := model.Count()
			send(t, conn, request("POST", "/v1/chat/completions", chat("/hang", false)))
			if err := model.Await(t.Context(), before+1); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := model.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// aborting lets some bytes of an answer pass and then breaks it off.
type aborting struct {
	http.ResponseWriter
	left int
}

func (a *aborting) Write(p []byte) (int, error) {
	if len(p) <= a.left {
		a.left -= len(p)
		return a.ResponseWriter.Write(p)
	}
	a.ResponseWriter.Write(p[:a.left])
	http.NewResponseController(a.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func (a *aborting) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// A model whose certificate nobody vouches for, or which speaks an old TLS, is not called.
func TestTLSOutIsChecked(t *testing.T) {
	t.Parallel()
	var called atomic.Int64
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) })
	srv, change := tlsModel(t, false, h)
	for name, c := range map[string]func(*Config){
		"unknown": func(cfg *Config) { change(cfg); cfg.Roots = x509.NewCertPool() },
		"another name": func(cfg *Config) {
			change(cfg)
			cfg.Routes[0].Upstream.Host = "localhost:" + srv.URL[strings.LastIndex(srv.URL, ":")+1:]
		},
	} {
		w := newWorld(t, c)
		resp := w.post("/v1/chat/completions", `{}`)
		wantRefusal(t, resp, 502, "upstream_error", true)
		e, r := w.session(resp.Header.Get(SessionHeader)).last()
		if e.Outcome != record.UpstreamError || !strings.Contains(get(r, record.FieldError), "certificate") {
			t.Errorf("%s: on record as %s: %s", name, e.Outcome, get(r, record.FieldError))
		}
	}
	if called.Load() > 0 {
		t.Error("a model was called whose certificate is not good")
	}
}

// Answers without a body, with an empty one, and packed ones pass as they are.
func TestAnswersOfAllKinds(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, `{"choices":[]}`)
	z.Close()
	w := newServedWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		switch kind := r.URL.Query().Get("kind"); kind {
		case "204", "304":
			if r.URL.Query().Get("type") != "" {
				h.Set("Content-Type", "text/event-stream")
			}
			h.Set("Etag", `"e"`)
			rw.WriteHeader(map[string]int{"204": 204, "304": 304}[kind])
		case "empty":
			h.Set("Content-Length", "0")
		case "empty-chunked":
			http.NewResponseController(rw).Flush()
		case "sized":
			h.Set("Content-Type", "application/json")
			h.Set("Content-Length", "17")
			if r.Method != "HEAD" {
				io.WriteString(rw, `{"a":"seventeen"}`)
			}
		case "gzip":
			h.Set("Content-Type", "application/json")
			h.Set("Content-Encoding", "gzip")
			rw.Write(packed.Bytes())
		case "html":
			h.Set("Content-Type", "text/html")
			rw.WriteHeader(418)
			io.WriteString(rw, "<p>no</p>")
		}
	}, nil)
	for _, c := range []struct {
		method, kind string
		status       int
		length       int64
		body         string
		header, want string
	}{
		{"POST", "204", 204, 0, "", "Etag", `"e"`},
		{"POST", "204&type=sse", 204, 0, "", "Etag", `"e"`},
		{"GET", "304", 304, 0, "", "Etag", `"e"`},
		{"GET", "304&type=sse", 304, 0, "", "Etag", `"e"`},
		{"POST", "empty", 200, 0, "", "Content-Length", "0"},
		{"POST", "empty-chunked", 200, -1, "", "", ""},
		{"HEAD", "sized", 200, 17, "", "Content-Type", "application/json"},
		{"HEAD", "empty", 200, -1, "", "", ""},
		{"HEAD", "204", 204, 0, "", "", ""},
		{"GET", "sized", 200, 17, `{"a":"seventeen"}`, "Content-Type", "application/json"},
		{"POST", "gzip", 200, int64(packed.Len()), packed.String(), "Content-Encoding", "gzip"},
		{"POST", "html", 418, 9, "<p>no</p>", "Content-Type", "text/html"},
	} {
		for _, prefix := range []string{"/v1/models/x", "/any/x"} {
			for range 2 { // the second on the same connections
				body := `{}`
				if c.method != "POST" {
					body = ""
				}
				resp, err := w.do(t.Context(), c.method, prefix+"?kind="+c.kind, body)
				if err != nil {
					t.Fatalf("%s %s: %v", c.method, c.kind, err)
				}
				got := slurp(t, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.status || got != c.body || resp.Header.Get(c.header) != c.want && c.header != "" {
					t.Errorf("%s %s on %s: status %d, %q, %v", c.method, c.kind, prefix, resp.StatusCode, got, resp.Header)
				}
				if c.length > 0 && resp.ContentLength != c.length && resp.ContentLength != -1 {
					t.Errorf("%s %s on %s: the length is %d, want %d", c.method, c.kind, prefix, resp.ContentLength, c.length)
				}
				e, r := w.session(resp.Header.Get(SessionHeader)).last()
				if e.Outcome != record.Complete || get(r, record.FieldBody) != c.body || get(r, record.FieldStatus) != fmt.Sprint(c.status) {
					t.Errorf("%s %s on %s: on record as %s with status %s", c.method, c.kind, prefix, e.Outcome, get(r, record.FieldStatus))
				}
			}
		}
	}
}
