package ship

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func TestOpen(t *testing.T) {
	for _, to := range []string{
		"file:/var/log/x.jsonl", "https://siem.example/in?key=k", "http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost/", "syslog+tls://h:6514",
		"syslog+tcp://127.0.0.1:601", "syslog+unix:/run/s",
	} {
		s, err := Open(to, Options{})
		if err != nil || strings.Contains(s.String(), "key=k") || strings.Contains(s.String(), "/in") {
			t.Errorf("%s: %v, %v", to, s, err)
		}
	}
	for _, to := range []string{
		"", "file:", "/var/log/x", "http://siem.example/", "https://u:p@siem.example/", "https:///x", "syslog+tcp://10.0.0.1:601", "syslog+tls://h",
		"syslog+tls://h:1/x", "syslog+unix:", "syslog://h:1", "ftp://h/", "://",
	} {
		if s, err := Open(to, Options{}); err == nil {
			t.Errorf("%q is %v", to, s)
		} else if strings.Contains(err.Error(), "p@") {
			t.Errorf("%v", err)
		}
	}
}

// run ships a whole log once.
func run(t *testing.T, l *tlogtest.Log, s Sink, mark string) error {
	t.Helper()
	sh, err := New(Config{Name: "test", Log: l, Sink: s, Mark: mark, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	return sh.Run(t.Context())
}

// A file is moved away, removed, cut within a line, and truncated, and nothing is missing from all of them together.
func TestFile(t *testing.T) {
	l := filled(t, 5)
	dir := t.TempDir()
	path, mark := filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "mark")
	s, err := Open("file:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ship := func() {
		t.Helper()
		if err := run(t, l, s, mark); err != nil {
			t.Fatal(err)
		}
		grow(t, l, 5)
	}
	ship()
	ship()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // as logrotate's create does
		t.Fatal(err)
	}
	ship()
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ship()
	// Another life finds the file as a death has left it: within a line.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole4, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := append(bytes.Clone(whole4), whole4[:40]...)
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	ship()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(last, append(torn, '\n')) {
		t.Error("a line that was torn is not ended")
	}
	if n := bytes.Count(kept, []byte("\n")); n != 5 {
		t.Errorf("%d lines in the file that took the other's place", n)
	}
	all := bytes.Join([][]byte{first, kept, last}, nil)
	if err := whole(l, split(all), 25); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// A directory that is gone is waited for, as everything is that may come back.
	s, err = Open("file:"+filepath.Join(dir, "no", "out"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Deliver(t.Context(), [][]byte{[]byte("{}\n")}); err == nil || errors.As(err, new(*RefusedError)) {
		t.Error(err)
	}
}

type token string

func (k token) Reveal() []byte { return []byte(k) }

// An endpoint, and what it answers, one after the other; the last again and again.
type siem struct {
	mu      sync.Mutex
	answers []int
	header  http.Header
	most    int // bytes it takes at once; 0 for any number
	bodies  []string
	seen    []http.Header
}

func (s *siem) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z, err := gzip.NewReader(req.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b, err := io.ReadAll(z)
	if err != nil || req.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.seen = append(s.seen, req.Header)
	code := 200
	if len(s.answers) > 0 {
		code = s.answers[0]
		s.answers = s.answers[1:]
	}
	if s.most > 0 && len(b) > s.most {
		code = http.StatusRequestEntityTooLarge
	}
	for k, v := range s.header {
		w.Header()[k] = v
	}
	if code < 300 {
		s.bodies = append(s.bodies, string(b))
	}
	w.WriteHeader(code)
	io.WriteString(w, "because\x1b[2J")
}

func TestEndpoint(t *testing.T) {
	for _, c := range []struct {
		name    string
		siem    *siem
		o       Options
		refused bool
		posts   int
	}{
		{name: "taken", siem: &siem{}, posts: 1},
		{name: "accepted", siem: &siem{answers: []int{202}}, posts: 1},
		{name: "no content", siem: &siem{answers: []int{204}}, posts: 1},
		{name: "unavailable, and then not", siem: &siem{answers: []int{503, 500}}, posts: 3},
		{name: "too many, and then not", siem: &siem{answers: []int{429, 408}, header: http.Header{"Retry-After": {"0"}}}, posts: 3},
		{name: "too large, by halves", siem: &siem{most: 3000}, posts: 7},
		{name: "one is too large", siem: &siem{most: 10}, refused: true},
		{name: "unauthorized", siem: &siem{answers: []int{401}}, refused: true},
		{name: "bad", siem: &siem{answers: []int{400}}, refused: true},
		{name: "elsewhere", siem: &siem{answers: []int{307}, header: http.Header{"Location": {"/x"}}}, refused: true},
		{name: "not modified", siem: &siem{answers: []int{304}}, refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := filled(t, 20)
			srv := httptest.NewTLSServer(c.siem)
			defer srv.Close()
			c.o.Roots = x509.NewCertPool()
			c.o.Roots.AddCert(srv.Certificate())
			c.o.Token = token("s3cret")
			s, err := Open(srv.URL+"/in?key=k", c.o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			err = run(t, l, s, filepath.Join(t.TempDir(), "mark"))
			if refused := new(RefusedError); c.refused != errors.As(err, &refused) || !c.refused && err != nil {
				t.Fatal(err)
			}
			if err != nil && (strings.ContainsAny(err.Error(), "\x1b") || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "key=k") || strings.Contains(err.Error(), "/in")) {
				t.Errorf("%q", err)
			}
			if c.refused {
				return
			}
			if err := whole(l, split([]byte(strings.Join(c.siem.bodies, ""))), 20); err != nil {
				t.Error(err)
			}
			if len(c.siem.seen) != c.posts {
				t.Errorf("%d requests, not %d", len(c.siem.seen), c.posts)
			}
			for _, h := range c.siem.seen {
				if h.Get("Authorization") != "Bearer s3cret" || h.Get("Content-Type") != "application/x-ndjson" || h.Get("Content-Encoding") != "gzip" {
					t.Errorf("%v", h)
				}
			}
		})
	}
	// Who is not who it should be is not told anything.
	h := &siem{}
	srv := httptest.NewTLSServer(h)
	defer srv.Close()
	srv.Config.ErrorLog = nil
	s, err := Open(srv.URL, Options{Roots: x509.NewCertPool(), Token: token("s3cret")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Deliver(t.Context(), [][]byte{[]byte("{}\n")}); err == nil || len(h.seen) > 0 {
		t.Errorf("%v", err)
	}
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "x": 0, began.Add(time.Minute).Format(http.TimeFormat): time.Minute, began.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(in, began); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	h = &siem{}
	plain := httptest.NewServer(h)
	defer plain.Close()
	s, err = Open(plain.URL, Options{Token: token("t"), Scheme: "Splunk"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(plain.URL, Options{Token: token("t"), Header: "X-Key"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Sink{s, other} {
		if err := s.Deliver(t.Context(), [][]byte{[]byte("{}\n")}); err != nil {
			t.Error(err)
		}
	}
	if len(h.seen) != 2 || h.seen[0].Get("Authorization") != "Splunk t" || h.seen[1].Get("X-Key") != "t" {
		t.Errorf("%v", h.seen)
	}
}

// A collector reads syslog messages from connections, and does as it is told with each of them.
type collector struct {
	mu       sync.Mutex
	messages []string
	conns    int
	each     func(conn int, c net.Conn) (stop bool)
}

func (k *collector) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		k.conns++
		n := k.conns
		k.mu.Unlock()
		go func() {
			defer c.Close()
			if k.each != nil && k.each(n, c) {
				return
			}
			r := bufio.NewReader(c)
			for {
				size, err := r.ReadString(' ')
				if err != nil {
					return
				}
				length, err := strconv.Atoi(strings.TrimSuffix(size, " "))
				if err != nil {
					return
				}
				b := make([]byte, length)
				if _, err := io.ReadFull(r, b); err != nil {
					return
				}
				k.mu.Lock()
				k.messages = append(k.messages, string(b))
				k.mu.Unlock()
			}
		}()
	}
}

var rfc5424 = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) tallystick - ([!-~]{1,32}) - (\{.*\})$`)

func (k *collector) lines(t *testing.T) []string {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, m := range k.messages {
		p := rfc5424.FindStringSubmatch(m)
		if p == nil || p[1] != "110" || p[3] != "gw-1" || p[4] != "heartbeat" {
			t.Fatalf("no message: %q", m)
		}
		all = append(all, p[5])
	}
	return all
}

func TestSyslog(t *testing.T) {
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS() // for its certificate
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	reset := func(n int) func(int, net.Conn) bool {
		return func(conn int, c net.Conn) bool {
			if conn > n {
				return false
			}
			// It dies with what it has read in part: the kernel resets the connection.
			io.ReadFull(c, make([]byte, 1000))
			if c, ok := c.(*net.TCPConn); ok {
				c.SetLinger(0)
			}
			return true
		}
	}
	for _, c := range []struct {
		name, scheme string
		each         func(int, net.Conn) bool
		conns        int
	}{
		{"tcp", "syslog+tcp", nil, 3},
		{"tls", "syslog+tls", nil, 3},
		{"unix", "syslog+unix", nil, 3},
		{"tcp, reset twice", "syslog+tcp", reset(2), 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := filled(t, 600)
			k := &collector{each: c.each}
			var ln net.Listener
			var err error
			to := ""
			switch c.scheme {
			case "syslog+unix":
				path := filepath.Join(t.TempDir(), "s")
				ln, err = net.Listen("unix", path)
				to = "syslog+unix:" + path
			default:
				if ln, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
					to = c.scheme + "://" + ln.Addr().String()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.scheme == "syslog+tls" {
				ln = tls.NewListener(ln, &tls.Config{Certificates: srv.TLS.Certificates})
			}
			defer ln.Close()
			go k.serve(ln)
			s, err := Open(to, Options{Roots: roots})
			if err != nil {
				t.Fatal(err)
			}
			if err := run(t, l, s, filepath.Join(t.TempDir(), "mark")); err != nil {
				t.Fatal(err)
			}
			if err := whole(l, k.lines(t), 600); err != nil {
				t.Error(err)
			}
			if k.conns != c.conns {
				t.Errorf("%d connections, not %d", k.conns, c.conns)
			}
		})
	}
	// One that reads and never says so has not acknowledged.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	end := make(chan struct{})
	defer close(end)
	k := &collector{each: func(_ int, c net.Conn) bool { io.Copy(io.Discard, c); <-end; return true }}
	go k.serve(ln)
	s, err := Open("syslog+tcp://"+ln.Addr().String(), Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	line := heartbeats(t, 0, 1)[0].Entry
	if err := s.Deliver(t.Context(), [][]byte{append([]byte(`{"time":"2026-11-02T09:30:00Z","kind":"heartbeat","entry":`), append(line, "}\n"...)...)}); err == nil || errors.As(err, new(*RefusedError)) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Deliver(ctx, nil); err == nil {
		t.Error("it delivers although it was told not to")
	}
}

func TestSeverity(t *testing.T) {
	for entry, want := range map[string]string{
		`{"kind":"refused","entry":{"by":"g"}}`: "<108>1 ", `{"kind":"response","entry":{"by":"g","outcome":"denied"}}`: "<108>1 ",
		`{"kind":"response","entry":{"by":"g","outcome":"complete"}}`: "<110>1 ", `{"kind":"access","entry":{"by":"g"}}`: "<109>1 ",
	} {
		m, err := message([]byte(entry + "\n"))
		if err != nil || !bytes.HasPrefix(m, []byte(want)) || !bytes.HasSuffix(m, []byte(entry)) {
			t.Errorf("%s: %q, %v", entry, m, err)
		}
	}
}
