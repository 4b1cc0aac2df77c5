package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A reply is what a server answered.
type reply struct {
	status int
	head   http.Header
	body   string
}

// ask makes a request of a handler.
func ask(h http.Handler, method, path string, head map[string]string, body []byte) reply {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	for k, v := range head {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

func newServer(t testing.TB, e Engine, clients ...Client) *Server {
	t.Helper()
	s, err := NewServer(e, ServerConfig{Origin: tlogtest.Origin, Clients: clients, Check: anything})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// asks returns the heads of a request for a lease.
func asks(token string, e epoch) map[string]string {
	head := bearer(token)
	head[headEpoch] = e.String()
	return head
}

// leased takes a lease and returns the heads of an append under it.
func leased(t testing.TB, s *Server, token, writer string, e epoch) map[string]string {
	t.Helper()
	head := asks(token, e)
	r := ask(s, "POST", "/lease/"+writer, head, nil)
	if g, err := parseGrant([]byte(r.body)); r.status != 200 || err != nil || g.epoch != e {
		t.Fatalf("a lease: %d %q, %v", r.status, r.body, err)
	}
	head["Content-Type"] = typeLeaves
	return head
}

var firstEpoch, secondEpoch = epoch{[8]byte{1}, 1}, epoch{[8]byte{1}, 2}

// TestWho is what each client may do, and what it is told where it may not. What it is told does not depend on what
// there is.
func TestWho(t *testing.T) {
	log := tlogtest.NewLog(t)
	const writes, reads, discards = "token of one who writes", "token of one who reads", "token of one who discards"
	s := newServer(t, log,
		Client{Name: "writes", Tokens: []string{digest([]byte("an older token")), digest([]byte(writes))}, Writers: []string{"gw-1", "gw-1.desk"}},
		Client{Name: "reads", Tokens: []string{digest([]byte(reads))}, Payloads: true},
		Client{Name: "discards", Tokens: []string{digest([]byte(discards))}, Discard: true})
	there := leaf("there")
	if _, err := log.Append(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	payload := payloadPath(sha256.Sum256(there.Payload))
	other := payloadPath(tlog.Hash{1})
	gone := payloadPath(sha256.Sum256([]byte("to be discarded")))
	type want map[string]int // status by token
	all := func(status int) want { return want{writes: status, reads: status, discards: status} }
	for i, c := range []struct {
		method, path string
		want         want
	}{
		{"POST", "/lease/gw-1", want{writes: 200, reads: 403, discards: 403}},
		{"POST", "/lease/gw-1.desk", want{writes: 200, reads: 403, discards: 403}},
		{"POST", "/lease/gw-2", all(403)},
		{"POST", "/lease/", all(403)},
		{"POST", "/lease/gw-1/", all(403)},
		{"POST", "/lease/gw%2d1", all(404)},
		{"POST", "/lease/gw-1?x", all(404)},
		{"GET", "/lease/gw-1", want{writes: 400, reads: 403, discards: 403}},
		{"POST", "/append/gw-1", want{writes: 400, reads: 403, discards: 403}},
		{"POST", "/append/gw-2", all(403)},
		{"GET", payload, want{writes: 403, reads: 200, discards: 403}},
		{"GET", other, want{writes: 403, reads: 404, discards: 403}},
		{"GET", "/payload/", want{writes: 403, reads: 404, discards: 403}},
		{"GET", strings.ToUpper(payload[:len("/payload/")]) + payload[len("/payload/"):], all(404)},
		{"GET", "/payload/" + strings.ToUpper(payload[len("/payload/"):]), want{writes: 403, reads: 404, discards: 403}},
		{"GET", payload + "0", want{writes: 403, reads: 404, discards: 403}},
		{"HEAD", payload, want{writes: 403, reads: 400, discards: 403}},
		{"PUT", payload, want{writes: 403, reads: 400, discards: 403}},
		{"DELETE", gone, want{writes: 403, reads: 403, discards: 200}},
		{"GET", "/tail/0", all(200)},
		{"GET", "/tail/1", all(200)},
		{"GET", "/tail/1?wait=1", all(200)},
		{"GET", "/tail/1?wait=0", all(200)},
		{"GET", "/tail/9223372036854775807", all(200)},
		{"GET", "/tail/9223372036854775808", all(404)},
		{"GET", "/tail/", all(404)},
		{"GET", "/tail/01", all(404)},
		{"GET", "/tail/-1", all(404)},
		{"GET", "/tail/0/", all(404)},
		{"GET", "/tail/%30", all(404)},
		{"GET", "/tail/0?", all(404)},
		{"GET", "/tail/0?wait", all(404)},
		{"GET", "/tail/0?wait=1s", all(404)},
		{"GET", "/tail/0?wait=1&wait=2", all(404)},
		{"GET", "/tail/0?x=1", all(404)},
		{"POST", "/tail/0", all(400)},
		{"HEAD", "/tail/0", all(400)},
		{"DELETE", "/payload/x", want{writes: 403, reads: 403, discards: 404}},
	} {
		for token, status := range c.want {
			e := epoch{[8]byte{9}, uint64(i + 1)}
			if r := ask(s, c.method, c.path, asks(token, e), nil); r.status != status || strings.Contains(r.body, token) {
				t.Errorf("%s: %s %s: %d %q, want %d", token, c.method, c.path, r.status, r.body, status)
			}
		}
		// Nobody is told the same, whoever he says he is and whatever there is.
		if strings.HasPrefix(c.path, "/PAY") {
			continue
		}
		for name, head := range map[string]map[string]string{
			"nobody": nil, "a wrong token": bearer("token of one who write"), "an empty token": bearer(""), "no token": {"Authorization": "Bearer"},
			"the digest": bearer(digest([]byte(writes))), "another scheme": {"Authorization": "Basic " + writes}, "two in one": bearer(writes + ", " + reads),
			"a cookie": {"Cookie": "token=" + writes}, "a query": {"X-Token": writes},
		} {
			r := ask(s, c.method, c.path, head, nil)
			want := errUnknownClient.Error() + "\n"
			if r.status != 401 || r.body != want || r.head.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: %s %s: %d %q", name, c.method, c.path, r.status, r.body)
			}
		}
	}
	// What is public is for everybody, and a wrong token is no hindrance.
	for _, path := range []string{"/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1", "/checkpoints"} {
		for _, head := range []map[string]string{nil, bearer("wrong"), bearer(writes)} {
			awaitSize(t, log, 1)
			if r := ask(s, "GET", path, head, nil); r.status != 200 {
				t.Errorf("GET %s: %d %q", path, r.status, r.body)
			}
		}
	}
	for _, path := range []string{"/", "/lease", "/append", "/payload", "/tail", "/leases/gw-1", "//lease/gw-1", "/x/lease/gw-1"} {
		if r := ask(s, "POST", path, bearer(writes), nil); r.status != 404 && r.status != 405 {
			t.Errorf("POST %s: %d %q", path, r.status, r.body)
		}
	}
	if got, err := log.Payload(t.Context(), sha256.Sum256(there.Payload)); err != nil || len(got) == 0 {
		t.Errorf("the payload that nobody discarded: %v", err)
	}
}

func awaitSize(t testing.TB, r tlog.Reader, size uint64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		signed, err := r.Checkpoint(context.Background())
		if err == nil {
			if c, err := tlog.UnverifiedCheckpoint(signed); err == nil && c.Size >= size {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no checkpoint of %d entries appears", size)
		}
	}
}

// TestTail: what is durable and not published is shown to clients, and to nobody else at any address.
func TestTail(t *testing.T) {
	log := tlogtest.Start(t, tlogtest.Config{Manual: true})
	h := newServer(t, log, everything())
	server := httptest.NewServer(h)
	defer server.Close()
	l, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if entries, err := l.Tail(t.Context(), 0, 0); err != nil || len(entries) > 0 {
		t.Errorf("the tail of an empty log: %q, %v", entries, err)
	}
	if _, err := log.Append(t.Context(), leaf("public")); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for i := range 3 {
		lf := leaf("not public yet, %d", i)
		if _, err := log.Append(t.Context(), lf); err != nil {
			t.Fatal(err)
		}
		want = append(want, lf.Entry)
	}
	for from := range want {
		if got, err := l.Tail(t.Context(), uint64(1+from), time.Minute); err != nil || !slices.EqualFunc(got, want[from:], bytes.Equal) {
			t.Errorf("the tail from %d on: %q, %v", 1+from, got, err)
		}
	}
	for _, path := range []string{"/tail/0", "/tail/1", "/tail/1?wait=1", "/tile/entries/000", "/tile/entries/000.p/4", "/tile/entries/000.p/1", "/tile/0/000.p/4", "/checkpoint", "/checkpoints"} {
		for name, head := range map[string]map[string]string{"nobody": nil, "a wrong token": bearer("wrong")} {
			if r := ask(h, "GET", path, head, nil); strings.Contains(r.body, "not public yet") || strings.HasPrefix(path, "/tail/") && (r.status != 401 || r.body != errUnknownClient.Error()+"\n") {
				t.Errorf("%s: GET %s: %d %q", name, path, r.status, r.body)
			}
		}
	}
	other, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain("wrong")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if entries, err := other.Tail(t.Context(), 0, 0); !errors.Is(err, ErrDenied) {
		t.Errorf("with a wrong token: %q, %v", entries, err)
	}
	broken := errors.New("bad block")
	log.Inject(tlogtest.Faults{Tail: func(uint64, [][]byte) ([][]byte, error) { return nil, broken }})
	if entries, err := l.Tail(t.Context(), 0, 0); !errors.Is(err, errFailed) || strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("from a disk that cannot be read: %q, %v", entries, err)
	}
}

// TestTokensTwice: a request with two Authorization fields has none.
func TestTokensTwice(t *testing.T) {
	s := newServer(t, tlogtest.NewLog(t), everything())
	req := httptest.NewRequest("POST", "/lease/"+testWriter, nil)
	req.Header["Authorization"] = []string{"Bearer " + testToken, "Bearer " + testToken}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	if w.Code != 401 {
		t.Errorf("two tokens: %d", w.Code)
	}
}

// TestCertificates is who a client certificate makes of its holder.
func TestCertificates(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	client := func(c *authority, template x509.Certificate) tls.Certificate {
		if template.ExtKeyUsage == nil {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}
		return c.issue(&template)
	}
	spiffe := mustURL(t, "spiffe://example/gw-3")
	pinned := client(foreign, x509.Certificate{DNSNames: []string{"gw-2.example"}})
	old := time.Now().Add(-time.Hour)
	expired := client(foreign, x509.Certificate{NotBefore: old.Add(-time.Hour), NotAfter: old})
	// A certificate of an authority below ours, with that authority's own.
	between := &authority{t: t}
	between.cert, between.key = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	below := client(between, x509.Certificate{DNSNames: []string{"gw-2.example"}})
	chained := below
	chained.Certificate = append(chained.Certificate[:1:1], between.cert.Raw)

	s := newSite(t)
	s.server.TLS, s.server.Roots = a.server, a.pool
	s.server.Clients = []Client{
		{Name: "pinned", Keys: []string{digest(pinned.Leaf.RawSubjectPublicKeyInfo), digest(expired.Leaf.RawSubjectPublicKeyInfo)}, Writers: []string{"pinned"}},
		{Name: "named", Names: []string{"gw-2.example", spiffe.String()}, Tokens: []string{digest([]byte(testToken))}, Writers: []string{"named"}},
	}
	s.start()
	asked := uint64(0)
	for _, c := range []struct {
		name  string
		cert  *tls.Certificate
		token string
		as    string // "" for nobody
	}{
		{"nothing", nil, "", ""},
		{"a pinned key, of whatever authority", &pinned, "", "pinned"},
		{"a pinned key whose certificate has expired", &expired, "", "pinned"},
		{"a DNS name", ref(client(a, x509.Certificate{DNSNames: []string{"x.example", "gw-2.example"}})), "", "named"},
		{"a URI", ref(client(a, x509.Certificate{URIs: []*url.URL{spiffe}})), "", "named"},
		{"a name of another authority", ref(client(foreign, x509.Certificate{DNSNames: []string{"gw-2.example"}})), "", ""},
		{"no name that is known", ref(client(a, x509.Certificate{DNSNames: []string{"gw-20.example", "*.example"}})), "", ""},
		{"the name as a common name", ref(client(a, x509.Certificate{Subject: pkix.Name{CommonName: "gw-2.example"}})), "", ""},
		{"the name in other letters", ref(client(a, x509.Certificate{DNSNames: []string{"GW-2.example"}})), "", ""},
		{"a name, expired", ref(client(a, x509.Certificate{DNSNames: []string{"gw-2.example"}, NotBefore: old.Add(-time.Hour), NotAfter: old})), "", ""},
		{"a name, for the future", ref(client(a, x509.Certificate{DNSNames: []string{"gw-2.example"}, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)})), "", ""},
		{"a name, for servers", ref(client(a, x509.Certificate{DNSNames: []string{"gw-2.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})), "", ""},
		{"a name from an authority between, which is not shown", &below, "", ""},
		{"a name from an authority between", &chained, "", "named"},
		{"a name and a wrong token", ref(client(a, x509.Certificate{DNSNames: []string{"gw-2.example"}})), "wrong", ""},
		{"a certificate that is nobody's and a token", ref(client(foreign, x509.Certificate{})), testToken, "named"},
		{"a token over TLS", nil, testToken, "named"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := &tls.Config{RootCAs: a.pool}
			if c.cert != nil {
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
			}
			tr := &http.Transport{TLSClientConfig: conf}
			defer tr.CloseIdleConnections()
			for _, as := range []string{"pinned", "named", "pinned"} { // the second time it is remembered
				req, err := http.NewRequest("POST", "https://"+s.addr+"/lease/"+as, nil)
				if err != nil {
					t.Fatal(err)
				}
				asked++
				req.Header.Set(headEpoch, epoch{[8]byte{1}, asked}.String())
				if c.token != "" {
					req.Header.Set("Authorization", "Bearer "+c.token)
				}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				want := 403
				switch c.as {
				case "":
					want = 401
				case as:
					want = 200
				}
				if resp.StatusCode != want {
					t.Errorf("as %s: status %d, want %d", as, resp.StatusCode, want)
				}
			}
		})
	}
	t.Run("an old TLS", func(t *testing.T) {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
		if err == nil {
			conn.Close()
			t.Error("TLS 1.1 is spoken")
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		do := func(path string, head map[string]string, body []byte) (*http.Response, string) {
			req, err := http.NewRequest("POST", "https://"+s.addr+path, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range head {
				req.Header.Set(k, v)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return resp, string(b)
		}
		head := asks(testToken, epoch{[8]byte{1}, asked + 1})
		resp, body := do("/lease/named", head, nil)
		if _, err := parseGrant([]byte(body)); resp.ProtoMajor != 2 || err != nil {
			t.Fatalf("%s %d %q, %v", resp.Proto, resp.StatusCode, body, err)
		}
		head["Content-Type"] = typeLeaves
		if resp, body := do("/append/named", head, encode([]tlog.Leaf{leaf("h2"), {Entry: []byte("large"), Payload: make([]byte, 5<<20)}})); resp.StatusCode != 200 || body != "0\n" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	})
}

func ref[T any](v T) *T { return &v }

// TestRefused is what is no append, and what is none any more. Nothing of it is appended.
func TestRefused(t *testing.T) {
	log := tlogtest.NewLog(t)
	s, err := NewServer(log, ServerConfig{
		Origin: tlogtest.Origin, Clients: []Client{everything()}, MaxBytes: 1 << 20,
		Check: func(writer string, entry []byte) error {
			if !bytes.HasPrefix(entry, []byte(writer+" ")) {
				return fmt.Errorf("it is not by %s", writer)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := tlog.Leaf{Entry: []byte(testWriter + " says"), Payload: []byte("p")}
	good := encode([]tlog.Leaf{mine})
	older := leased(t, s, testToken, testWriter, firstEpoch)
	head := leased(t, s, testToken, testWriter, secondEpoch)
	with := func(k, v string) map[string]string {
		h := make(map[string]string)
		for k, v := range head {
			h[k] = v
		}
		h[k] = v
		return h
	}
	for _, c := range []struct {
		name   string
		head   map[string]string
		body   []byte
		status int
		word   string
		says   string
	}{
		{"an older lease", older, good, 409, "stale", ""},
		{"a lease that nobody has", with(headEpoch, epoch{[8]byte{1}, 3}.String()), good, 409, "stale", ""},
		{"a lease of another client", with(headEpoch, epoch{[8]byte{2}, 2}.String()), good, 409, "stale", ""},
		{"no lease", with(headEpoch, ""), good, 400, "refused", "epoch"},
		{"no lease that can be", with(headEpoch, "1"), good, 400, "refused", "epoch"},
		{"another type", with("Content-Type", "application/octet-stream"), good, 400, "refused", typeLeaves},
		{"an encoding", with("Content-Encoding", "gzip"), good, 400, "refused", typeLeaves},
		{"no body", head, []byte{}, 400, "refused", ""},
		{"half a body", head, good[:len(good)-1], 400, "refused", ""},
		{"garbage", head, bytes.Repeat([]byte("garbage "), 100), 413, "too-large", "leaves"},
		{"an entry by somebody else", head, encode([]tlog.Leaf{mine, {Entry: []byte("gw-2 says")}}), 400, "refused", "entry 1: it is not by gw-1"},
		{"a long entry", head, append(appendCount(nil, 1), 0x10, 0x01, 0, 0, 0, 0, 'x'), 413, "too-large", "4097"},
	} {
		r := ask(s, "POST", "/append/"+testWriter, c.head, c.body)
		if r.status != c.status || r.head.Get(headVerdict) != c.word || !strings.Contains(r.body, c.says) {
			t.Errorf("%s: %d %s %q", c.name, r.status, r.head.Get(headVerdict), r.body)
		}
	}
	t.Run("a length that is not stated", func(t *testing.T) {
		req := httptest.NewRequest("POST", "/append/"+testWriter, struct{ io.Reader }{bytes.NewReader(good)})
		for k, v := range head {
			req.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if w.Code != 400 || !strings.Contains(w.Body.String(), "length") {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	})
	t.Run("a length over every limit", func(t *testing.T) {
		req := httptest.NewRequest("POST", "/append/"+testWriter, bytes.NewReader(good))
		for k, v := range head {
			req.Header.Set(k, v)
		}
		req.ContentLength = maxBody + 1
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if w.Code != 413 {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	})
	if log.Size() != 0 {
		t.Errorf("%d entries were appended", log.Size())
	}
	if r := ask(s, "POST", "/append/"+testWriter, head, good); r.status != 200 || r.body != "0\n" {
		t.Errorf("an append: %d %q", r.status, r.body)
	}
}

// TestLeases is who gets a lease, and who has one then.
func TestLeases(t *testing.T) {
	s := newServer(t, tlogtest.NewLog(t), everything())
	good := encode([]tlog.Leaf{leaf("a")})
	lease := func(e epoch) string {
		r := ask(s, "POST", "/lease/"+testWriter, asks(testToken, e), nil)
		return r.head.Get(headVerdict)
	}
	can := func(e epoch) bool {
		head := asks(testToken, e)
		head["Content-Type"] = typeLeaves
		r := ask(s, "POST", "/append/"+testWriter, head, good)
		if r.status != 200 && r.head.Get(headVerdict) != "stale" {
			t.Errorf("an append under %s: %d %q", e, r.status, r.body)
		}
		return r.status == 200
	}
	a, b, c := [8]byte{'a'}, [8]byte{'b'}, [8]byte{'c'}
	var asked []epoch
	for _, k := range []struct {
		e   epoch
		say string // "" for that the lease is given
		can epoch  // the only one asked for that may append then
	}{
		{epoch{a, 2}, "", epoch{a, 2}},
		{epoch{a, 2}, "stale", epoch{a, 2}}, // a duplicate, or one that was overtaken, changes nothing
		{epoch{a, 1}, "stale", epoch{a, 2}},
		{epoch{a, 5}, "", epoch{a, 5}},
		{epoch{b, 1}, "", epoch{b, 1}},
		{epoch{a, 6}, "fenced", epoch{b, 1}},
		{epoch{b, 2}, "", epoch{b, 2}},
		{epoch{c, 9}, "", epoch{c, 9}},
		{epoch{a, 7}, "fenced", epoch{c, 9}},
		{epoch{b, 3}, "fenced", epoch{c, 9}},
		{epoch{c, 10}, "", epoch{c, 10}},
	} {
		if say := lease(k.e); say != k.say {
			t.Errorf("a lease for %s: %q, want %q", k.e, say, k.say)
		}
		asked = append(asked, k.e)
		for _, e := range asked {
			if may := e == k.can; can(e) != may {
				t.Errorf("after %s was asked for, an append under %s: %v, want %v", k.e, e, !may, may)
			}
		}
	}
	for _, bad := range []string{"", "x", strings.Repeat("0", 32), firstEpoch.String() + "0"} {
		head := bearer(testToken)
		head[headEpoch] = bad
		if r := ask(s, "POST", "/lease/"+testWriter, head, nil); r.status != 400 {
			t.Errorf("a lease for %q: %d %q", bad, r.status, r.body)
		}
	}
	for i := range 1000 { // a gateway that does not come to rest
		if say := lease(epoch{[8]byte{1, byte(i), byte(i >> 8)}, 1}); say != "" {
			t.Fatalf("lease %d: %s", i, say)
		}
	}
	if n := len(s.leases[testWriter].past); n > maxPast {
		t.Errorf("%d clients are remembered", n)
	}
}

// TestBusy: bodies in memory are bounded, and a body that is larger than the bound comes in when there is no other.
func TestBusy(t *testing.T) {
	log := tlogtest.NewLog(t)
	s, err := NewServer(log, ServerConfig{Origin: tlogtest.Origin, Clients: []Client{everything()}, Check: anything, MaxBytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	head := leased(t, s, testToken, testWriter, firstEpoch)
	inEngine, release := make(chan struct{}), make(chan struct{})
	log.Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error {
		inEngine <- struct{}{}
		<-release
		return nil
	}})
	body := func(n int) []byte { return encode([]tlog.Leaf{{Entry: []byte("e"), Payload: make([]byte, n)}}) }
	var wg sync.WaitGroup
	var first, second reply
	wg.Go(func() { first = ask(s, "POST", "/append/"+testWriter, head, body(50_000)) })
	<-inEngine
	if r := ask(s, "POST", "/append/"+testWriter, head, body(10)); r.status != 503 || r.head.Get(headVerdict) != "busy" || r.head.Get("Retry-After") != "1" {
		t.Errorf("beside a large body: %d %s %q", r.status, r.head.Get(headVerdict), r.body)
	}
	release <- struct{}{}
	wg.Wait()
	wg.Go(func() { second = ask(s, "POST", "/append/"+testWriter, head, body(4000)) })
	<-inEngine
	wg.Go(func() {
		if r := ask(s, "POST", "/append/"+testWriter, head, body(4000)); r.status != 200 {
			t.Errorf("beside a small body: %d %q", r.status, r.body)
		}
	})
	<-inEngine
	close(release)
	wg.Wait()
	if first.status != 200 || second.status != 200 {
		t.Errorf("%d %q, %d %q", first.status, first.body, second.status, second.body)
	}
	if s.inRoom != 0 {
		t.Errorf("%d bytes are still counted", s.inRoom)
	}
}

// TestEngineErrors sends what an engine answers to the client, and sees what the server does from then on.
func TestEngineErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		is   error
		ends bool // the server gives no more leases
	}{
		{fmt.Errorf("7 entries are durable and not yet anchored: %w", tlog.ErrBusy), tlog.ErrBusy, false},
		{fmt.Errorf("3 bytes left: %w", tlog.ErrFull), tlog.ErrFull, false},
		{fmt.Errorf("9 leaves: %w", tlog.ErrTooLarge), tlog.ErrTooLarge, false},
		{fmt.Errorf("%w: %w", tlog.ErrHalted, tlog.ErrFull), tlog.ErrHalted, true},
		{fmt.Errorf("%w: evidence", tlog.ErrQuarantine), tlog.ErrQuarantine, true},
		{tlog.ErrClosed, tlog.ErrClosed, true},
		{errors.New("input/output error"), tlog.ErrHalted, true},
		{context.DeadlineExceeded, tlog.ErrHalted, true},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.hook()
			p := s.start()
			l := s.client(s.config())
			run(t, l)
			g := newLedger()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if _, err := g.append(ctx, l, leaf("before")); err != nil {
				t.Fatal(err)
			}
			h.set(func([]tlog.Leaf) error { return c.err }, nil)
			_, err := g.append(ctx, l, leaf("refused"))
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.err.Error()) {
				t.Errorf("Append: %v", err)
			}
			h.set(nil, nil)
			after := make(chan error, 1)
			go func() {
				_, err := g.append(ctx, l, leaf("after"))
				if errors.Is(err, c.is) && c.ends { // the server's last breath
					_, err = g.append(ctx, l, leaf("after that"))
				}
				after <- err
			}()
			if c.is == tlog.ErrQuarantine { // it is read on, until it is told to end
				p.quiet(t)
				if err := <-after; !errors.Is(err, tlog.ErrQuarantine) {
					t.Errorf("Append afterwards: %v", err)
				}
				if _, err := l.Checkpoint(ctx); err != nil {
					t.Errorf("reads go on: %v", err)
				}
				p.stop()
			}
			if c.ends { // the process ends, and the next one goes on
				select {
				case perr := <-p.served:
					if !errors.Is(perr, c.is) {
						t.Errorf("the server ends with %v", perr)
					}
				case <-ctx.Done():
					t.Fatal("the server does not end")
				}
				p.served <- nil
				s.down()
				p = s.start()
			}
			if c.is == tlog.ErrQuarantine {
				_, err = g.append(ctx, l, leaf("after a restart"))
			} else {
				err = <-after
			}
			if err != nil {
				t.Errorf("Append afterwards: %v", err)
			}
			g.verify(t, p)
		})
	}
}

// TestQuarantine is a log whose anchor remembers another past. It is read, and nothing is appended.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	l := s.client(s.config())
	stop := run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := g.append(ctx, l, leaf("before")); err != nil {
		t.Fatal(err)
	}
	p.quiet(t)
	s.down()
	other := tlog.Checkpoint{Origin: testOrigin, Size: 1, Root: tlog.Hash{1}}
	s.set.Latest.(*tlogtest.Latest).Set(testOrigin, other.Text())
	s.start()
	if _, err := l.Append(ctx, leaf("refused")); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("Append: %v", err)
	}
	if _, err := l.Checkpoint(ctx); err != nil {
		t.Errorf("the checkpoint: %v", err)
	}
	if _, err := l.Payload(ctx, sha256.Sum256(leaf("before").Payload)); err != nil {
		t.Errorf("a payload: %v", err)
	}
	if entries, err := l.Tail(ctx, 0, 0); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("the tail: %q, %v", entries, err)
	}
	if err := l.Discard(ctx, sha256.Sum256(leaf("before").Payload)); !errors.Is(err, tlog.ErrQuarantine) {
		t.Errorf("Discard: %v", err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run ends: %v", err)
	}
}

// TestSlowPeers is peers that send or take what they have to, but slowly. None of them holds the server up for long, and
// nobody else waits for them.
func TestSlowPeers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.server.Stall = 300 * time.Millisecond
	s.server.Connections = 8
	s.server.Clients[0].Writers = []string{testWriter, "other"}
	s.start()
	l := s.client(s.config())
	run(t, l)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conf := s.config()
	conf.Writer = "other"
	lease, err := s.client(conf).takeLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("POST /append/%s HTTP/1.1\r\nHost: log\r\nAuthorization: Bearer %s\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n",
		conf.Writer, testToken, headEpoch, lease.epoch, typeLeaves)
	for _, c := range []struct{ name, send string }{
		{"nothing", ""},
		{"half a head", "POST /append/gw-1 HTTP/1.1\r\nHost: log\r\nX: "},
		{"no body", head},
		{"half a body", head + "half"},
		{"half a body of nobody", "POST /append/gw-1 HTTP/1.1\r\nHost: log\r\nContent-Length: 100000\r\n\r\nhalf"},
		{"a body where none belongs", "GET /checkpoint HTTP/1.1\r\nHost: log\r\nContent-Length: 100000\r\n\r\nhalf"},
		{"a body to a lease", fmt.Sprintf("POST /lease/%s HTTP/1.1\r\nHost: log\r\nAuthorization: Bearer %s\r\nContent-Length: 100000\r\n\r\nhalf", conf.Writer, testToken)},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, c.send)
			if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the server does not hang up: %v", err)
			}
		})
	}
	// One who reads nothing of a long answer, while another reads all of it.
	large := tlog.Leaf{Entry: []byte("large"), Payload: make([]byte, 32<<20)}
	rand.Read(large.Payload)
	if _, err := l.Append(ctx, large); err != nil {
		t.Fatal(err)
	}
	deaf, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	fmt.Fprintf(deaf, "GET %s HTTP/1.1\r\nHost: log\r\nAuthorization: Bearer %s\r\n\r\n", payloadPath(sha256.Sum256(large.Payload)), testToken)
	if got, err := l.Payload(ctx, sha256.Sum256(large.Payload)); err != nil || !bytes.Equal(got, large.Payload) {
		t.Errorf("a large payload: %d bytes, %v", len(got), err)
	}
}

// TestConnections: no more are served at a time than may be, and when one ends the next is.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.server.Connections = 2
	s.start()
	get := func(conn net.Conn) error {
		fmt.Fprintf(conn, "GET /lease/x HTTP/1.1\r\nHost: log\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		resp.Body.Close()
		return nil
	}
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	for _, conn := range conns[:2] {
		if err := get(conn); err != nil {
			t.Fatal(err)
		}
	}
	third := make(chan error, 1)
	go func() { third <- get(conns[2]) }()
	select {
	case err := <-third:
		t.Errorf("a third connection is served, %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	conns[0].Close()
	if err := <-third; err != nil {
		t.Error(err)
	}
}

// TestNothingSecretIsSaid looks for the token in everything that is logged and answered, at both ends.
func TestNothingSecretIsSaid(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var mu sync.Mutex
	var said bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&lockedWriter{&mu, &said}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.server.Logger, s.logger = logger, logger
	s.server.Clients[0].Writers = []string{testWriter, "other"}
	s.start()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	say := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&said, "%v %+v %#v\n", err, err, err)
	}
	l := s.client(s.config())
	stop := run(t, l)
	_, err := l.Append(ctx, leaf("a"))
	say(err)
	say(l.Discard(ctx, tlog.Hash{}))
	_, err = l.Payload(ctx, tlog.Hash{1})
	say(err)
	for _, c := range []func(*Config){
		func(c *Config) { c.Token = plain(testToken + "x") },
		func(c *Config) { c.Token = plain(testToken + "\n") },
		func(c *Config) { c.Writer = "nobodys" },
		func(c *Config) { c.Origin = "log.example/other" },
		func(c *Config) { c.URL = "http://user:" + testToken + "@" + s.addr },
		func(c *Config) { c.URL = "http://user:" + testToken + "@example.com" },
		func(c *Config) { c.URL = "http://" + testToken + "@ /" },
	} {
		conf := s.config()
		c(&conf)
		l, err := New(conf)
		say(err)
		if err == nil {
			say(l.Run(ctx))
			_, err := l.Append(ctx, leaf("b"))
			say(err)
			l.Close()
		}
	}
	s.down()
	short, leave := context.WithTimeout(ctx, 200*time.Millisecond)
	defer leave()
	_, err = l.Append(short, leaf("c"))
	say(err)
	say(stop())
	mu.Lock()
	defer mu.Unlock()
	if said.Len() < 1000 {
		t.Errorf("hardly anything is said: %s", &said)
	}
	for _, secret := range []string{testToken, digest([]byte(testToken)), hex.EncodeToString([]byte(testToken))} {
		if i := strings.Index(said.String(), secret); i >= 0 {
			t.Errorf("a secret is said: …%s…", said.String()[max(0, i-200):i+len(secret)])
		}
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// TestServerConfig is what cannot be served.
func TestServerConfig(t *testing.T) {
	log := tlogtest.NewLog(t)
	good := func() ServerConfig {
		return ServerConfig{Origin: tlogtest.Origin, Clients: []Client{everything()}, Check: anything}
	}
	sum := digest([]byte("x"))
	for _, c := range []struct {
		name   string
		change func(*ServerConfig)
		says   string
	}{
		{"no origin", func(c *ServerConfig) { c.Origin = "" }, "origin"},
		{"no check", func(c *ServerConfig) { c.Check = nil }, "checks"},
		{"a client without a name", func(c *ServerConfig) { c.Clients[0].Name = "" }, "no name"},
		{"a client with a name that is a line", func(c *ServerConfig) { c.Clients[0].Name = "a\nb" }, "no name"},
		{"two of one name", func(c *ServerConfig) { c.Clients = append(c.Clients, Client{Name: "gateway", Keys: []string{sum}}) }, "two clients"},
		{"a client without a credential", func(c *ServerConfig) { c.Clients[0].Tokens = nil }, "no credential"},
		{"a token instead of its digest", func(c *ServerConfig) { c.Clients[0].Tokens = []string{testToken} }, "digest"},
		{"one token for two", func(c *ServerConfig) {
			c.Clients = append(c.Clients, Client{Name: "b", Tokens: []string{digest([]byte(testToken))}})
		}, "twice"},
		{"one key for two", func(c *ServerConfig) {
			c.Clients = []Client{{Name: "a", Keys: []string{sum}}, {Name: "b", Keys: []string{strings.ToUpper(sum)}}}
		}, "twice"},
		{"a key that is none", func(c *ServerConfig) { c.Clients[0].Keys = []string{sum[1:]} }, "digest"},
		{"one certificate's name for two", func(c *ServerConfig) {
			c.Roots = x509.NewCertPool()
			c.Clients = []Client{{Name: "a", Names: []string{"x"}}, {Name: "b", Names: []string{"x"}}}
		}, "twice"},
		{"names without an authority", func(c *ServerConfig) { c.Clients[0].Names = []string{"x"} }, "authority"},
		{"a writer that cannot be", func(c *ServerConfig) { c.Clients[0].Writers = []string{"gw/1"} }, "writer"},
	} {
		conf := good()
		c.change(&conf)
		if _, err := NewServer(log, conf); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), testToken) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if s, err := NewServer(log, good()); err != nil {
		t.Error(err)
	} else if ln, err := net.Listen("tcp", "0.0.0.0:0"); err == nil {
		if err := s.Run(t.Context(), ln); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("plain HTTP on every address: %v", err)
		}
	}
}
