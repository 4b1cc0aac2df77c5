package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// answerOK answers every request with a small body, and keeps the connection.
func answerOK(*gatewaytest.Model, *http.Request) gatewaytest.Wire {
	return gatewaytest.Wire{Parts: [][]byte{[]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")}, End: gatewaytest.Keep}
}

// raw makes one request of the given head lines and returns the answer.
func (w *world) raw(method, target, body string, lines ...string) *http.Response {
	w.t.Helper()
	conn := w.dial()
	send(w.t, conn, request(method, target, body, lines...))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// fields are the lines of a head by lower-case name, the request line left out.
func fields(head []byte) map[string][]string {
	m := make(map[string][]string)
	for i, line := range strings.Split(strings.TrimSpace(string(head)), "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && i > 0 {
			m[strings.ToLower(name)] = append(m[strings.ToLower(name)], strings.TrimSpace(value))
		}
	}
	return m
}

// What reaches a model is what is allowed, under a head that reads strictly, and the credential in one place.
func TestWhatReachesTheModel(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, answerOK, func(cfg *Config) {
		cfg.Routes[0].Forward = []string{"X-Wanted", "x-idempotency-key"}
	})
	passing := []string{
		"Accept: application/json", "accept-language: de", "User-Agent: sdk/1 (x; y)", "OpenAI-Organization: org-1", "openai-project: p",
		"X-Stainless-Retry-Count: 1", "x-stainless-timeout: 60", "Idempotency-Key: i-1", "X-Idempotency-Key: i-2", "traceparent: 00-abc-def-01",
		"Anthropic-Version: 2023-06-01", "anthropic-beta: a-1,b-2", "x-wanted: yes", "If-None-Match: \"e\"",
	}
	staying := []string{
		"Cookie: a=b", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "Forwarded: for=1.2.3.4",
		"X-Real-Ip: 10.0.0.1", "Via: 1.1 x", "Referer: http://x/", "Origin: http://x", "From: a@b", "Tallystick-Session: forged",
		"Tallystick-Caller: root", "X-Anything: 1", "Max-Forwards: 3", "Accept-Encoding: gzip, br", "Priority: u=1", "Cache-Control: no-cache",
		"X-Http-Method-Override: DELETE", "Content-Language: de", "Sec-Fetch-Site: cross-site", "Keep-Alive: timeout=5",
	}
	body := `{"model":"m"}`
	resp := w.raw("POST", "/v1/chat/completions?a=b", body, append(slices.Clone(passing), staying...)...)
	if got := slurp(t, resp.Body); resp.StatusCode != 200 {
		t.Fatalf("status %d: %s", resp.StatusCode, got)
	}
	last, _ := w.model.Last()
	if _, bad := checkHead(last.Head, &headRules{hosts: []string{w.modelAt}}); bad != nil {
		t.Errorf("what was sent is not strict: %v\n%s", bad, last.Head)
	}
	got := fields(last.Head)
	want := map[string][]string{
		"host": {w.modelAt}, "authorization": {"Bearer " + canary}, "accept-encoding": {"identity"},
		"content-type": {"application/json"}, "content-length": {fmt.Sprint(len(body))},
	}
	for _, l := range passing {
		name, value, _ := strings.Cut(l, ": ")
		want[strings.ToLower(name)] = []string{value}
	}
	for name, values := range got {
		if !slices.Equal(values, want[name]) {
			t.Errorf("the model was sent %s: %q, want %q", name, values, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("the model was not sent %v", want)
	}
	if string(last.Body) != body || last.Target != "/v1/chat/completions?a=b" {
		t.Errorf("the model was sent %s %s", last.Target, last.Body)
	}
	// Without a User-Agent of the caller's there is none.
	w.raw("GET", "/v1/models", "").Body.Close()
	last, _ = w.model.Last()
	if got := fields(last.Head); got["user-agent"] != nil || got["content-length"] != nil || got["accept-encoding"][0] != "identity" {
		t.Errorf("of its own accord the gateway sends\n%s", last.Head)
	}
}

// Every request of the strict reading's corpus that is read and answered reaches the model under a head that is strict.
func TestWhatIsSentIsStrict(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, answerOK, nil)
	for _, target := range []string{"/any/", "/any/a", "/any/a/b?c", "/any/?", "/any/x?q=a+b%2Bc&d=%41%7e", "/any/~user/-._", "/any/a;b=c,d", "/any/a:b@c", "/any/(a)'!*$&+=", "/any/%C3%A9"} {
		resp := w.raw("GET", target, "")
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == 400 {
			continue // the strict reading's affair
		}
		last, _ := w.model.Last()
		if want := strings.TrimSuffix(strings.Replace(target, "/any", "", 1), "?"); last.Target != want && last.Target != want+"?" {
			t.Errorf("%s reached the model as %s", target, last.Target)
		}
		if _, bad := checkHead(last.Head, nil); bad != nil {
			t.Errorf("%s: %v\n%s", target, bad, last.Head)
		}
	}
}

// A base path of the upstream stands in for the route's prefix, and the rest of the path goes on as it came.
func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ prefix, upstream, path, query, want string }{
		{"/", "https://m", "/v1/models", "", "https://m/v1/models"},
		{"/", "https://m/", "/v1/models", "a=b", "https://m/v1/models?a=b"},
		{"/azure/", "https://m/openai/deployments/x", "/azure/v1/chat/completions", "api-version=1", "https://m/openai/deployments/x/v1/chat/completions?api-version=1"},
		{"/a/b/", "http://m:81/base/", "/a/b/c%20d/e+f", "", "http://m:81/base/c%20d/e+f"},
		{"/a/", "http://m/b%2Fc", "/a/d", "", "http://m/b%2Fc/d"},
		{"/a/", "http://m", "/a/", "", "http://m/"},
	} {
		up, err := url.Parse(c.upstream)
		if err != nil {
			t.Fatal(err)
		}
		u, err := (&Route{Prefix: c.prefix, Upstream: up}).address(c.path, c.query)
		if err != nil || u.String() != c.want {
			t.Errorf("%s below %s: %v, %v; want %s", c.path, c.prefix, u, err, c.want)
		}
	}
}

// Headers that claim an identity change neither who is on record nor what the model is sent.
func TestSpoofedIdentity(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, answerOK, nil)
	names := []string{
		"X-Audit-User", "X-User", "X-User-Id", "X-Username", "X-Remote-User", "Remote-User", "X-Authenticated-User", "X-Auth-User",
		"X-Auth-Request-User", "X-Auth-Request-Email", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Principal",
		"X-Identity", "X-Tenant", "X-Org", "X-Caller", "X-Client-Id", "X-Client-Cert", "X-Ssl-Client-S-Dn", "X-Webauth-User", "X-Goog-Authenticated-User-Email",
		"X-Ms-Client-Principal-Name", "X-Amzn-Oidc-Identity", "X-Original-User", "X-Impersonate-User", "Impersonate-User", "X-Consumer-Username",
		"X-Credential-Identifier", "Tallystick-Caller", "Tallystick-Principal", "tallystick-session", "TALLYSTICK-KEY", "X-Tallystick-Caller",
		"Proxy-User", "Via", "Cookie", "X-Api-User", "X-Real-User",
	}
	refused := 0
	for _, name := range names {
		for _, lines := range [][]string{
			{name + ": root"},
			{strings.ToLower(name) + ": root"},
			{name + ": root", strings.ToUpper(name) + ": bob"},
			{strings.ReplaceAll(name, "-", "_") + ": root"},
			{name + " : root"},
			{"Connection: " + name, name + ": root"},
		} {
			calls := w.model.Count()
			resp := w.raw("POST", "/v1/chat/completions", `{}`, lines...)
			resp.Body.Close()
			if resp.StatusCode == 400 {
				if refused++; w.model.Count() != calls {
					t.Errorf("%q was refused and sent", lines)
				}
				continue
			}
			last, _ := w.model.Last()
			for field, values := range fields(last.Head) {
				if slices.Contains(values, "root") || slices.Contains(values, "bob") {
					t.Errorf("%q: the model was sent %s: %q", lines, field, values)
				}
			}
			q := w.session(resp.Header.Get(SessionHeader)).records[0]
			if get(q, record.FieldCaller) != "alice" {
				t.Errorf("%q: on record is %q", lines, get(q, record.FieldCaller))
			}
		}
	}
	t.Logf("%d names in 6 spellings: %d refused by the strict reading, none believed", len(names), refused)
}

// A connection that carried one caller's call never carries another's.
func TestConnectionsAreNotShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	owner := make(map[string]string)
	for i := range 40 {
		key := []string{callerKey, bobKey}[i%2]
		path := []string{"/v1/chat/completions", "/any/v1/chat/completions"}[i/2%2]
		resp, err := w.doAs(t.Context(), key, "POST", path, chat("hello", i%3 == 0))
		if err != nil {
			t.Fatal(err)
		}
		slurp(t, resp.Body)
		last, _ := w.model.Last()
		mine := key + path
		if was := owner[last.Conn]; was != "" && was != mine {
			t.Errorf("the connection %s carried calls of %s and of %s", last.Conn, was, mine)
		}
		owner[last.Conn] = mine
	}
	if len(owner) > 8 {
		t.Errorf("%d connections for 40 calls, one after the other, of two callers on two routes", len(owner))
	}
}

// A redirect is the caller's to follow, or not.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, path := range []string{"/v1", "/any/v1"} {
		before := w.model.Count()
		resp := w.post(path+"/chat/completions", chat("/raw redirect", false))
		resp.Body.Close()
		if resp.StatusCode != 307 || w.model.Count() != before+1 {
			t.Errorf("status %d after %d calls", resp.StatusCode, w.model.Count()-before)
		}
	}
}

// A request of which a byte was written is sent once, whatever its headers promise; a kept connection that the model has
// closed meanwhile costs nothing.
func TestNoRequestIsSentTwice(t *testing.T) {
	t.Parallel()
	var drop atomic.Bool
	w := newRawWorld(t, func(_ *gatewaytest.Model, r *http.Request) gatewaytest.Wire {
		switch {
		case !drop.Load():
			return answerOK(nil, nil)
		case strings.Contains(r.URL.RawQuery, "reset"):
			return gatewaytest.Wire{End: gatewaytest.Reset}
		case strings.Contains(r.URL.RawQuery, "half"):
			return gatewaytest.Wire{Parts: [][]byte{[]byte("HTTP/1.1 200")}}
		}
		return gatewaytest.Wire{}
	}, func(cfg *Config) { cfg.Routes[0].Forward = []string{"X-Idempotency-Key"} })
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, how := range []string{"close", "reset", "half"} {
			for _, kept := range []bool{false, true} {
				drop.Store(false)
				if kept {
					w.raw("POST", "/v1/chat/completions", `{}`).Body.Close()
				}
				drop.Store(true)
				before := w.model.Count()
				body := ""
				if method != "DELETE" {
					body = `{"model":"m"}`
				}
				resp := w.raw(method, "/v1/chat/completions?"+how, body, "Idempotency-Key: k", "X-Idempotency-Key: k")
				if b := slurp(t, resp.Body); resp.StatusCode != 502 {
					t.Errorf("%s, %s: status %d: %s", method, how, resp.StatusCode, b)
				}
				if n := w.model.Count() - before; n != 1 {
					t.Errorf("%s, %s, on a kept connection %v: the model saw it %d times", method, how, kept, n)
				}
			}
		}
	}
	// A model that closes every connection after its answer, without saying so. A call that was written before the end
	// came is lost, and not sent again.
	drop.Store(false)
	w2 := newRawWorld(t, func(*gatewaytest.Model, *http.Request) gatewaytest.Wire {
		return gatewaytest.Wire{Parts: answerOK(nil, nil).Parts, End: gatewaytest.Close}
	}, nil)
	answered := 0
	for range 50 {
		resp := w2.raw("POST", "/v1/chat/completions", `{}`, "Idempotency-Key: k")
		if b := slurp(t, resp.Body); resp.StatusCode == 200 {
			answered++
		} else if resp.StatusCode != 502 {
			t.Errorf("status %d: %s", resp.StatusCode, b)
		}
	}
	if n := w2.model.Count(); n > 50 || answered < 25 {
		t.Errorf("the model saw 50 calls %d times, and %d were answered", n, answered)
	}
}

// A body reaches the model byte for byte, in length and in chunks, up to the limit.
func TestBodiesReachTheModel(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[[]byte]
	w := newRawWorld(t, func(_ *gatewaytest.Model, r *http.Request) gatewaytest.Wire {
		b, _ := io.ReadAll(r.Body)
		got.Store(&b)
		return answerOK(nil, nil)
	}, func(cfg *Config) { cfg.Limits.Body = 1 << 20 })
	for _, n := range []int{0, 1, 4095, 4096, 4097, 65536, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		for _, chunked := range []bool{false, true} {
			body := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
			req, err := http.NewRequest("POST", w.base+"/any/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+callerKey)
			if req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(n); chunked {
				req.ContentLength = -1
			} else if n == 0 {
				req.Body = http.NoBody
			}
			empty := []byte{}
			got.Store(&empty)
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatalf("%d bytes, in chunks %v: %v", n, chunked, err)
			}
			b := slurp(t, resp.Body)
			if n > 1<<20 {
				if resp.StatusCode != 413 || !strings.Contains(b, "request_too_large") {
					t.Errorf("%d bytes, in chunks %v: status %d: %s", n, chunked, resp.StatusCode, b)
				}
				continue
			}
			if resp.StatusCode != 200 || !bytes.Equal(*got.Load(), body) {
				t.Errorf("%d bytes, in chunks %v: status %d: %s; the model got %d", n, chunked, resp.StatusCode, b, len(*got.Load()))
			}
		}
	}
}
