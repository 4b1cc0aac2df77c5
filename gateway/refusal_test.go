package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// refused is the shape of a refusal, as the SDKs of both families read it.
type refused struct {
	Type  string `json:"type"`
	Error struct {
		Type    string          `json:"type"`
		Message string          `json:"message"`
		Param   json.RawMessage `json:"param"`
		Code    string          `json:"code"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

// wantRefusal reads an answer and wants it to be the refusal with that status and code, in the one shape. session says
// whether the call has one.
func wantRefusal(t *testing.T, resp *http.Response, status int, code string, session bool) {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var r refused
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatalf("status %d: %v: %q", resp.StatusCode, err, b)
	}
	if resp.StatusCode != status || r.Error.Code != code || r.Type != "error" || r.Error.Message == "" || string(r.Error.Param) != "null" || r.Error.Type != errorType(status) {
		t.Errorf("status %d %s, want %d %s", resp.StatusCode, b, status, code)
	}
	if got := resp.Header.Get("WWW-Authenticate"); (got == "Bearer") != (status == 401) {
		t.Errorf("%d says www-authenticate %q", status, got)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("the type is %q", ct)
	}
	id := resp.Header.Get(SessionHeader)
	if !session {
		if id != "" || r.RequestID != "" {
			t.Errorf("the session %q %q of what was not read", id, r.RequestID)
		}
		return
	}
	if _, err := record.ParseID(id); err != nil || r.RequestID != id || resp.Header.Get("X-Request-Id") != id || resp.Header.Get("Request-Id") != id {
		t.Errorf("the session is %q in the head, %q in the body, %q and %q elsewhere", id, r.RequestID, resp.Header.Get("X-Request-Id"), resp.Header.Get("Request-Id"))
	}
	if got := resp.Header.Get("X-Should-Retry"); (got == "false") != (status < 500) {
		t.Errorf("%d says x-should-retry %q", status, got)
	}
	if got := resp.Header.Get("Retry-After"); (got != "") != (status == 503) {
		t.Errorf("%d says retry-after %q", status, got)
	}
}

// Whoever is refused is told so in the one shape; what is on record of it is what the row says.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) {
		cfg.Limits = Limits{Body: 200 << 10, Answer: 100 << 10, FirstByte: 200 * time.Millisecond}
		up := *cfg.Routes[0].Upstream
		up.Scheme = "https" // where nobody speaks TLS
		cfg.Routes = append(cfg.Routes, Route{Name: "no-tls", API: HTTP, Prefix: "/no-tls/", Upstream: &up})
		ln := loopback(t)
		ln.Close()
		nobody, err := url.Parse("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Routes = append(cfg.Routes, Route{Name: "nobody", API: HTTP, Prefix: "/nobody/", Upstream: nobody})
	})
	shed := 0
	for _, c := range []struct {
		name    string
		request string
		status  int
		code    string
		session bool   // it has one
		kept    string // on record: the kind or the outcome; "" for nothing, and counted as shed
	}{
		{"no key", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}", 401, "invalid_api_key", true, ""},
		{"an empty key", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer \r\nContent-Length: 2\r\n\r\n{}", 401, "invalid_api_key", true, ""},
		{"another key", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer nobody's\r\nContent-Length: 2\r\n\r\n{}", 401, "invalid_api_key", true, ""},
		{"the model's own key", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer " + canary + "\r\nContent-Length: 2\r\n\r\n{}", 401, "invalid_api_key", true, ""},
		{"a password", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Basic YTpi\r\nContent-Length: 2\r\n\r\n{}", 401, "invalid_api_key", true, ""},
		{"two keys", request("POST", "/v1/chat/completions", "{}", "X-Api-Key: "+bobKey), 401, "invalid_api_key", true, ""},
		{"a stranger's large body", fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nX-Api-Key: x\r\nContent-Length: %d\r\n\r\n%s", 100<<10, strings.Repeat(" ", 100<<10)), 401, "invalid_api_key", false, ""},
		{"no such route", request("POST", "/v2/x", "{}"), 404, "unknown_route", true, "refused"},
		{"no such endpoint of a known API", request("GET", "/v1/files", ""), 404, "unknown_route", true, "refused"},
		{"a route for others", strings.Replace(request("POST", "/v1/messages", "{}"), callerKey, bobKey, 1), 403, "route_not_allowed", true, "refused"},
		{"no JSON", request("POST", "/v1/chat/completions", `{"model":`), 400, "invalid_json", true, "refused"},
		{"a body over the limit", request("POST", "/v1/chat/completions", strings.Repeat(" ", 201<<10)), 413, "body_too_large", false, ""},
		{"no endpoint of the gateway's", request("GET", "/.tallystick/nothing", ""), 404, "unknown_path", false, "none"},
		{"a method the health has not", request("POST", "/.tallystick/health", "{}"), 404, "unknown_path", false, "none"},
		{"two lengths", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "duplicate_header", false, ""},
		{"no model there", request("GET", "/nobody/x", ""), 502, "upstream_error", true, "upstream_error"},
		{"no TLS there", request("GET", "/no-tls/x", ""), 502, "upstream_error", true, "upstream_error"},
		{"a model that hangs", request("POST", "/v1/chat/completions", chat("/hang", false)), 504, "upstream_timeout", true, "limit"},
		{"a model that closes", request("POST", "/v1/chat/completions", chat("/raw silent-close", false)), 502, "upstream_error", true, "upstream_error"},
		{"an answer of no status", request("POST", "/v1/chat/completions", chat("/raw status-999", false)), 502, "upstream_invalid", true, "upstream_error"},
		{"another protocol", request("POST", "/v1/chat/completions", chat("/raw 101-switching", false)), 502, "upstream_invalid", true, "upstream_error"},
		{"an answer that is cut", request("POST", "/v1/chat/completions", chat("/cut 20", false)), 502, "upstream_truncated", true, "truncated"},
		{"an answer over the limit", request("POST", "/v1/chat/completions", chat("/size 1MB", false)), 502, "answer_too_large", true, "limit"},
	} {
		conn := w.dial()
		go io.WriteString(conn, c.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			wantRefusal(t, resp, c.status, c.code, c.session)
			if c.kept == "" {
				shed++
			}
			if c.kept == "" || c.kept == "none" {
				return
			}
			k := w.session(resp.Header.Get(SessionHeader))
			e, r := k.last()
			if c.kept == "refused" {
				if len(k.entries) != 1 || e.Kind != record.Refused || e.Reason != c.code || get(r, record.FieldStatus) != fmt.Sprint(c.status) || get(r, record.FieldCaller) == "" {
					t.Errorf("on record are %d entries, the last %s %s", len(k.entries), e.Kind, e.Reason)
				}
				return
			}
			if e.Kind != record.Response || string(e.Outcome) != c.kept || get(r, record.FieldStatus) != fmt.Sprint(c.status) || get(r, record.FieldError) == "" {
				t.Errorf("on record as %s %s: %s, status %s", e.Kind, e.Outcome, get(r, record.FieldError), get(r, record.FieldStatus))
			}
		})
		conn.Close()
	}
	// The provider's own refusals are not ours: they pass as they came.
	for _, status := range []string{"400", "401", "403", "404", "429", "500", "503", "529"} {
		resp := w.post("/v1/chat/completions", chat("/error "+status, false))
		b := slurp(t, resp.Body)
		e, _ := w.session(resp.Header.Get(SessionHeader)).last()
		if fmt.Sprint(resp.StatusCode) != status || !strings.HasPrefix(b, `{"error":{"message":`) || e.Outcome != record.Complete || (status == "429") && resp.Header.Get("Retry-After-Ms") == "" {
			t.Errorf("the model's %s came as %d %s, on record as %s", status, resp.StatusCode, b, e.Outcome)
		}
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range w.entries() {
		told += int(e.Shed)
	}
	if told != shed {
		t.Errorf("%d calls of unknown callers are counted, there were %d", told, shed)
	}
}

// What cannot be recorded is not sent, and what was answered and cannot be recorded is withheld.
func TestRefusalsOfTheLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault  error
		says   string
		status int
		code   string
		breaks bool // the writer writes no more
	}{
		{tlog.ErrBusy, "slow down", 503, "record_unavailable", false},
		{fmt.Errorf("here: %w", tlog.ErrFull), "disk is full", 503, "record_unavailable", false},
		{tlog.ErrTooLarge, "too large", 413, "record_too_large", false},
		{tlog.ErrQuarantine, "quarantine", 503, "record_unavailable", true},
		{tlog.ErrHalted, "cannot be recorded", 503, "record_unavailable", true},
		{errors.New("no answer"), "cannot be recorded", 503, "record_unavailable", true},
	} {
		for _, kind := range []record.Kind{record.Request, record.Response} {
			for _, stream := range []bool{false, true} {
				t.Run(fmt.Sprint(c.fault, " ", kind, " stream=", stream), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, nil)
					w.faulty = true
					slurp(t, w.post("/v1/chat/completions", chat("the boot has begun", false)).Body)
					w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
						if holds(leaves, kind) {
							return c.fault
						}
						return nil
					}})
					resp := w.post("/v1/chat/completions", chat("hello there", stream))
					defer resp.Body.Close()
					switch {
					case kind == record.Request:
						b := *resp
						wantRefusal(t, &b, c.status, c.code, true)
						if w.model.Count() != 1 {
							t.Error("the model was called without a record")
						}
					case stream:
						if b, err := io.ReadAll(resp.Body); err == nil || strings.Contains(string(b), "[DONE]") {
							t.Errorf("the caller was given the end of what is not on record: %v, %s", err, b)
						}
					default:
						wantRefusal(t, resp, 503, "record_unavailable", true)
					}
					if !c.breaks {
						w.log.Inject(tlogtest.Faults{})
						if again := w.post("/v1/chat/completions", chat("again", false)); again.StatusCode != 200 {
							t.Errorf("when the log is well again: status %d", again.StatusCode)
						}
						return
					}
					// A quarantine is lived through, so that callers are told; from anything else only a restart helps.
					if !errors.Is(c.fault, tlog.ErrQuarantine) {
						if err := w.ended(); !errors.Is(err, tlog.ErrHalted) {
							t.Errorf("the gateway ended with %v", err)
						}
						return
					}
					again := w.post("/v1/chat/completions", chat("again", false))
					wantRefusal(t, again, 503, "record_unavailable", true)
					health, err := w.client.Get(w.base + "/.tallystick/health")
					if err != nil || health.StatusCode != 503 {
						t.Errorf("the health in quarantine: %v, %v", health, err)
					}
				})
			}
		}
	}
}

// Who is too many at the door is told so, and finds room when another has left.
func TestRefusalsAtTheDoor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Limits.Connections = 3 })
	var in []net.Conn
	for range 3 {
		conn := w.dial()
		send(t, conn, request("GET", "/.tallystick/health", ""))
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		in = append(in, conn)
	}
	resp, err := http.ReadResponse(bufio.NewReader(w.dial()), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, resp, 503, "too_many_connections", false)
	in[1].Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn := w.dial()
		send(t, conn, request("GET", "/.tallystick/health", ""))
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room though one has left")
		}
		time.Sleep(5 * time.Millisecond) // the gateway learns in its own time that one has left
	}
}

// Who connects and says nothing is let go of.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	cert, _ := selfSigned(t)
	for _, secure := range []bool{false, true} {
		w := newWorld(t, func(cfg *Config) {
			cfg.Limits.IdleTime, cfg.Limits.HeadTime = 100*time.Millisecond, 100*time.Millisecond
			if secure {
				cfg.TLS = tlsConfig(cert)
			}
		})
		for _, said := range []string{"", "G", "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n", "\x16\x03\x01\x00\x05"} {
			conn := w.dial()
			send(t, conn, said)
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if b, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("TLS %v, %q: %v after %q", secure, said, err, b)
			}
		}
	}
}

// A machine that is short of descriptors for a while takes connections again when it has some.
func TestShortOfDescriptors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.stop()
	g, err := New(w.g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := &shortListener{Listener: loopback(t)}
	ln.times.Store(5)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, ln) }()
	w.base = "http://" + ln.Addr().String()
	for range 3 {
		if resp := w.post("/v1/chat/completions", chat("hello", false)); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
		w.client.CloseIdleConnections()
		ln.times.Store(3)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A shortListener fails some times before it accepts.
type shortListener struct {
	net.Listener
	times atomic.Int64
}

func (l *shortListener) Accept() (net.Conn, error) {
	if l.times.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}
