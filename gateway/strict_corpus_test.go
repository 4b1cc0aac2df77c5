package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// A strictCase is a line of testdata/http.
type strictCase struct {
	ID     string `json:"id"`
	Expect string `json:"expect"`
	Raw    []byte `json:"raw_b64"`
}

func strictCases(t testing.TB) []strictCase {
	t.Helper()
	files, err := filepath.Glob("testdata/http/*.jsonl")
	if err != nil || len(files) != 3 {
		t.Fatalf("testdata/http: %v, %v", files, err)
	}
	var cases []strictCase
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for d := json.NewDecoder(bytes.NewReader(b)); ; {
			var c strictCase
			if err := d.Decode(&c); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			cases = append(cases, c)
		}
	}
	// Most of llhttp's requests name no host and fall at that. Given one, they are read to the end.
	line := []byte("\r\n")
	for _, c := range cases {
		if i := bytes.Index(c.Raw, line); strings.HasPrefix(c.ID, "llhttp") && i > 0 && !bytes.Contains(bytes.ToLower(c.Raw), []byte("host:")) {
			raw := slices.Concat(c.Raw[:i], []byte("\r\nHost: gw.test"), c.Raw[i:])
			cases = append(cases, strictCase{c.ID + " (with a host)", "any", raw})
		}
	}
	return cases
}

// strictCut says how many of the bytes that arrived a read gives out. 0 is all.
type strictCut func() int

type strictCutListener struct {
	net.Listener
	cut  *atomic.Pointer[strictCut]
	read *atomic.Int64
}

func (l strictCutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &strictCutConn{c.(*net.TCPConn), l}, nil
}

// strictCutConn gives a reader pieces of what it would get, and counts what it took.
type strictCutConn struct {
	*net.TCPConn
	l strictCutListener
}

func (c *strictCutConn) Read(p []byte) (int, error) {
	if cut := c.l.cut.Load(); cut != nil {
		if n := (*cut)(); n > 0 {
			p = p[:min(n, len(p))]
		}
	}
	n, err := c.TCPConn.Read(p)
	c.l.read.Add(int64(n))
	return n, err
}

// strictMessage is what a request means, by whoever read it.
type strictMessage struct{ method, target, body string }

// strictWorld is a caller's raw socket, the listener under test, fasthttp's server with a handler that forwards all it
// is given, and an upstream that records what reaches it.
type strictWorld struct {
	t      testing.TB
	addr   string
	server *fasthttp.Server
	cut    atomic.Pointer[strictCut]
	read   atomic.Int64 // bytes taken from callers
	client *http.Client

	mu        sync.Mutex
	forwarded []strictMessage // as the upstream's own parser understood them
	invalid   []string        // bytes at the upstream that are not strict HTTP/1.1
}

func newStrictWorld(t testing.TB, conf strictConfig, change func(*fasthttp.Server)) *strictWorld {
	t.Helper()
	w := &strictWorld{t: t}
	upstream := w.listen()
	go w.upstream(upstream)
	transport := &http.Transport{DisableCompression: true}
	w.client = &http.Client{Transport: transport}

	w.server = &fasthttp.Server{
		Handler:                      func(ctx *fasthttp.RequestCtx) { w.forward(ctx, "http://"+upstream.Addr().String()) },
		ReadBufferSize:               128 << 10,
		MaxRequestBodySize:           8 << 20,
		ReadTimeout:                  10 * time.Second,
		IdleTimeout:                  10 * time.Second,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		CloseOnShutdown:              true,
		Logger:                       log.New(io.Discard, "", 0),
	}
	if change != nil {
		change(w.server)
	}
	ln := w.listen()
	w.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(newStrictListener(strictCutListener{ln, &w.cut, &w.read}, conf)) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.server.ShutdownWithContext(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		upstream.Close()
	})
	return w
}

func (w *strictWorld) listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	return ln
}

// forward passes on all headers a caller sent but those of the connection: worse than any gateway should.
func (w *strictWorld) forward(ctx *fasthttp.RequestCtx, base string) {
	u, err := url.ParseRequestURI(string(ctx.Request.Header.RequestURI()))
	if err != nil {
		ctx.Error(err.Error(), 599)
		return
	}
	var body []byte
	if s := ctx.RequestBodyStream(); s == nil {
		body = ctx.Request.Body()
	} else if body, err = io.ReadAll(s); err != nil { // Body would make a body of the error's text
		ctx.Error(err.Error(), 599)
		return
	}
	out, err := http.NewRequest(string(ctx.Method()), base, bytes.NewReader(body))
	if err != nil {
		ctx.Error(err.Error(), 599)
		return
	}
	u.Scheme, u.Host = out.URL.Scheme, out.URL.Host
	out.URL = u
	for k, v := range ctx.Request.Header.All() {
		switch string(k) {
		case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Expect":
		default:
			out.Header.Add(string(k), string(v))
		}
	}
	answer, err := w.client.Do(out)
	if err != nil {
		ctx.Error(err.Error(), 502)
		return
	}
	defer answer.Body.Close()
	io.Copy(ctx, answer.Body)
}

// upstream records requests: the bytes as they came, and their meaning by net/http's parser.
func (w *strictWorld) upstream(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var raw bytes.Buffer
			br := bufio.NewReader(io.TeeReader(c, &raw))
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				w.mu.Lock()
				w.forwarded = append(w.forwarded, strictMessage{r.Method, r.RequestURI, string(body)})
				if err != nil || !isStrictRequest(raw.Bytes(), len(body)) {
					w.invalid = append(w.invalid, raw.String())
				}
				w.mu.Unlock()
				raw.Reset()
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
			}
		}()
	}
}

var strictGrammar = regexp.MustCompile("^(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /[!-~]* HTTP/1\\.1\r\n(?:[!#$%&'*+\\-.^_`|~0-9A-Za-z]+: [^\\x00-\\x08\\x0a-\\x1f\\x7f]*\r\n)+\r\n")

// isStrictRequest checks bytes against the grammar of RFC 9112, by other means than the code under test, and by those.
func isStrictRequest(raw []byte, body int) bool {
	head := strictGrammar.Find(raw)
	if head == nil {
		return false
	}
	h, bad := checkHead(head, nil)
	return bad == nil && !h.chunked && int(max(h.length, 0)) == body && len(raw) == len(head)+body
}

// take returns what was forwarded since the last take.
func (w *strictWorld) take() []strictMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, raw := range w.invalid {
		w.t.Errorf("forwarded bytes that are not a strict request: %q", raw)
	}
	f := w.forwarded
	w.forwarded, w.invalid = nil, nil
	return f
}

// A strictAnswer is what a caller read.
type strictAnswer struct {
	status int
	close  bool
	body   string
}

// send writes raw, ends the caller's side, and reads to the end.
func (w *strictWorld) send(raw []byte) ([]strictAnswer, error) {
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		c.Write(raw)
		c.(*net.TCPConn).CloseWrite()
	}()
	method := "GET"
	if bytes.HasPrefix(raw, []byte("HEAD ")) {
		method = "HEAD"
	}
	var answers []strictAnswer
	for br := bufio.NewReader(c); ; {
		if _, err := br.Peek(1); err == io.EOF {
			return answers, nil
		}
		a, err := readStrictAnswer(br, method)
		if err != nil {
			return answers, err
		}
		if a.status != 100 {
			answers = append(answers, a)
		}
	}
}

// readStrictAnswer reads one answer, also an interim one, to a request of this method.
func readStrictAnswer(br *bufio.Reader, method string) (strictAnswer, error) {
	r, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return strictAnswer{}, err
	}
	body, err := io.ReadAll(r.Body)
	return strictAnswer{r.StatusCode, r.Close, string(body)}, err
}

// strictMeaning is what net/http takes raw for: a reading of our own making would share our mistakes.
func strictMeaning(raw []byte) []strictMessage {
	var all []strictMessage
	br := bufio.NewReader(bytes.NewReader(raw))
	for {
		if b, _ := br.Peek(2); string(b) == "\r\n" {
			br.Discard(2)
		}
		r, err := http.ReadRequest(br)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return all
		}
		all = append(all, strictMessage{r.Method, r.RequestURI, string(body)})
	}
}

// strictJudge holds one case's outcome against what it expects.
func strictJudge(c strictCase, forwarded []strictMessage, answers []strictAnswer) error {
	for _, f := range forwarded {
		if strings.Contains(f.target, "smuggled") {
			return fmt.Errorf("forwarded %v", f)
		}
	}
	want := strictMeaning(c.Raw)
	if len(forwarded) > len(want) || !slices.Equal(forwarded, want[:len(forwarded)]) {
		return fmt.Errorf("forwarded %q, but the bytes mean %q", forwarded, want)
	}
	good, refused := 0, 0
	for i, a := range answers {
		switch {
		case a.status == 200 && refused == 0:
			good++
		case a.status >= 400 && a.status < 599 && a.status != 502 && a.close && i == len(answers)-1:
			refused++
			if !json.Valid([]byte(a.body)) && len(a.body) > 0 {
				return fmt.Errorf("refused with a body that is not JSON: %q", a.body)
			}
		default:
			return fmt.Errorf("answers %v", answers)
		}
	}
	if good != len(forwarded) {
		return fmt.Errorf("%d forwarded, answers %v", len(forwarded), answers)
	}
	switch c.Expect {
	case "ok":
		if good != 1 || refused != 0 {
			return fmt.Errorf("want it served once, got answers %v", answers)
		}
	case "reject":
		if good != 0 || refused != 1 {
			return fmt.Errorf("want it refused, got answers %v", answers)
		}
	case "either", "policy", "any":
		if good+refused == 0 {
			return errors.New("no answer")
		}
	default:
		return fmt.Errorf("unknown expectation %q", c.Expect)
	}
	return nil
}

// TestStrictCorpus sends every case raw, whole and in pieces, to servers that hold bodies and that stream them. The
// answer may not depend on the pieces.
func TestStrictCorpus(t *testing.T) {
	cases := strictCases(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	upTo := func(n int) *strictCut {
		cut := strictCut(func() int {
			mu.Lock()
			defer mu.Unlock()
			return 1 + rnd.IntN(n)
		})
		return &cut
	}
	cuts := []struct {
		name string
		cut  *strictCut
	}{{"whole", nil}, {"bytes", upTo(1)}, {"few", upTo(5)}, {"some", upTo(40)}}

	servers := []struct {
		name   string
		change func(*fasthttp.Server)
	}{
		{"buffered", nil},
		{"streaming", func(s *fasthttp.Server) { s.StreamRequestBody = true }},
		{"frugal", func(s *fasthttp.Server) { s.ReduceMemoryUsage = true }},
	}
	answered := make([]map[string][]strictAnswer, len(servers))
	for i, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			w := newStrictWorld(t, strictConfig{}, s.change)
			answered[i] = map[string][]strictAnswer{}
			served, refused := map[string]int{}, map[string]int{}
			for _, cut := range cuts {
				w.cut.Store(cut.cut)
				for _, c := range cases {
					if cut.cut != nil && len(c.Raw) > 10_000 && i > 0 {
						continue // one long case, cut once is enough
					}
					answers, err := w.send(c.Raw)
					if err == nil {
						err = strictJudge(c, w.take(), answers)
					}
					if err != nil {
						t.Errorf("%s, %s (%s): %v\n%.300q", cut.name, c.ID, c.Expect, err, c.Raw)
						continue
					}
					if first, ok := answered[0][c.ID]; ok && !slices.Equal(first, answers) {
						t.Errorf("%s, %s: answers %v, but whole %v", cut.name, c.ID, answers, first)
					}
					if cut.cut == nil {
						answered[i][c.ID] = answers
						if answers[0].status == 200 {
							served[c.Expect]++
						} else {
							refused[c.Expect]++
						}
					}
				}
			}
			t.Logf("served %v, refused %v", served, refused)
		})
	}
}
