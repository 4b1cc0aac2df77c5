package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestConfig is what no client is made of.
func TestConfig(t *testing.T) {
	good := Config{URL: "https://log.example", Origin: testOrigin, Writer: testWriter, Token: plain(testToken)}
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   string // "" where it is taken
	}{
		{"good", func(c *Config) {}, ""},
		{"a prefix", func(c *Config) { c.URL += "/log/" }, ""},
		{"loopback", func(c *Config) { c.URL = "http://127.0.0.1:8080" }, ""},
		{"loopback, IPv6", func(c *Config) { c.URL = "http://[::1]:8080" }, ""},
		{"loopback by name", func(c *Config) { c.URL = "http://localhost:8080" }, ""},
		{"a certificate", func(c *Config) { c.Token, c.TLS = nil, &tls.Config{Certificates: make([]tls.Certificate, 1)} }, ""},
		{"plain HTTP elsewhere", func(c *Config) { c.URL = "http://log.example" }, "https"},
		{"plain HTTP to something like the loopback", func(c *Config) { c.URL = "http://127.0.0.1.example" }, "https"},
		{"no URL", func(c *Config) { c.URL = "" }, "URL"},
		{"a URL of something else", func(c *Config) { c.URL = "ftp://log.example" }, "http"},
		{"a query", func(c *Config) { c.URL += "?x" }, "query"},
		{"a password", func(c *Config) { c.URL = "https://user:hidden@log.example" }, "password"},
		{"no origin", func(c *Config) { c.Origin = "" }, "origin"},
		{"no writer", func(c *Config) { c.Writer = "" }, "writer"},
		{"a writer that cannot be", func(c *Config) { c.Writer = "a/b" }, "writer"},
		{"no credential", func(c *Config) { c.Token = nil }, "credential"},
		{"no credential in TLS", func(c *Config) { c.Token, c.TLS = nil, new(tls.Config) }, "certificate"},
	} {
		conf := good
		c.change(&conf)
		_, err := New(conf)
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) && c.says != "credential" || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestMisconfigured is what only another configuration mends: Run ends at once and says what it is.
func TestMisconfigured(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	s := newSite(t)
	s.server.TLS = a.server
	s.start()
	website := httptest.NewServer(http.NotFoundHandler())
	defer website.Close()
	for _, c := range []struct {
		name   string
		change func(*Config)
		err    error // nil for any
		says   string
	}{
		{"a wrong token", func(c *Config) { c.Token = plain("wrong") }, ErrDenied, ""},
		{"an empty token", func(c *Config) { c.Token = plain("") }, ErrDenied, ""},
		{"a token and a line", func(c *Config) { c.Token = plain(testToken + "\n") }, ErrDenied, ""},
		{"another's writer", func(c *Config) { c.Writer = "gw-2" }, ErrDenied, ""},
		{"another log", func(c *Config) { c.Origin = "log.example/other" }, errOther, "log.example/other"},
		{"a path too many", func(c *Config) { c.URL += "/log" }, nil, "405"},
		{"a website", func(c *Config) { c.URL = website.URL }, nil, "404"},
		{"an authority that did not sign the server's certificate", func(c *Config) { c.TLS = foreign.client }, nil, "certificate"},
		{"plain HTTP to TLS", func(c *Config) { c.URL = "http://" + s.addr }, nil, "400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := s.config()
			conf.TLS = a.client
			c.change(&conf)
			l := s.client(conf)
			defer l.Close()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			waits := make(chan error, 1)
			go func() {
				_, err := l.Append(ctx, leaf("a"))
				waits <- err
			}()
			err := l.Run(ctx)
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Run: %v", err)
			}
			if aerr := <-waits; !errors.Is(aerr, err) {
				t.Errorf("Append: %v; Run: %v", aerr, err)
			}
		})
	}
}

// TestGarbage is a server that leases as it should and answers appends with something else. Nobody is told that his leaves
// are in the log; who was not told that they are not is told that nobody knows.
func TestGarbage(t *testing.T) {
	t.Parallel()
	good := func(w http.ResponseWriter, r *http.Request) {
		e, err := parseEpoch(r.Header.Get(headEpoch))
		if err != nil {
			t.Error(err)
		}
		w.Write(grant{tlogtest.Origin, e, 10}.append(nil))
	}
	says := func(status int, head http.Header, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for k, v := range head {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	raw := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(conn, answer)
				conn.Close()
			}
		}
	}
	verdict := func(word string) http.Header { return http.Header{headVerdict: {word}} }
	for _, c := range []struct {
		name   string
		append http.HandlerFunc
		lease  http.HandlerFunc // nil for a good one
		is     error            // what Append answers; nil for that nobody knows, when its context ends
	}{
		{"no index", says(200, nil, ""), nil, nil},
		{"a word", says(200, nil, "ok\n"), nil, nil},
		{"an index with a sign", says(200, nil, "+10\n"), nil, nil},
		{"an index that no tree has", says(200, nil, "9223372036854775807\n"), nil, nil},
		{"an index and more", says(200, nil, "10\n11\n"), nil, nil},
		{"an index that was given before", says(200, nil, "9\n"), nil, tlog.ErrQuarantine},
		{"a long answer", says(200, nil, strings.Repeat("1", 1<<20)), nil, nil},
		{"a redirect", says(307, http.Header{"Location": {"/elsewhere"}}, ""), nil, nil},
		{"a created", says(201, nil, "10\n"), nil, nil},
		{"a proxy's error", says(502, nil, "<html>Bad Gateway</html>"), nil, nil},
		{"a proxy's refusal", says(413, nil, "<html>Too Large</html>"), nil, nil},
		{"a proxy's busy", says(503, http.Header{"Retry-After": {"1"}}, ""), nil, nil},
		{"a word with another status", says(500, verdict("busy"), ""), nil, nil},
		{"an unknown word", says(503, verdict("tired"), ""), nil, nil},
		{"busy", says(503, verdict("busy"), ""), nil, tlog.ErrBusy},
		{"stale for ever", says(409, verdict("stale"), ""), nil, context.DeadlineExceeded},
		{"cut short for ever", says(408, verdict("cut-short"), ""), nil, context.DeadlineExceeded},
		{"no HTTP", raw("SSH-2.0-OpenSSH\r\n"), nil, nil},
		{"a long head", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), nil, nil},
		{"half an answer", raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n10"), nil, nil},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n10\n"), nil, nil},
		{"compressed", says(200, http.Header{"Content-Encoding": {"gzip"}}, "\x1f\x8b"), nil, nil},
		{"a lease of garbage", nil, says(200, nil, "<html>"), context.DeadlineExceeded},
		{"a lease without end", nil, says(200, nil, strings.Repeat("a", 1<<20)), context.DeadlineExceeded},
		{"a lease for somebody else", nil, says(200, nil, string(grant{tlogtest.Origin, firstEpoch, 10}.append(nil))), context.DeadlineExceeded},
		{"no lease", nil, says(500, nil, ""), context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			lease := c.lease
			if lease == nil {
				lease = good
			}
			mux.HandleFunc("POST /lease/", lease)
			if c.append != nil {
				mux.HandleFunc("POST /append/", func(w http.ResponseWriter, r *http.Request) {
					var all bytes.Buffer
					all.ReadFrom(r.Body)
					c.append(w, r)
				})
			}
			server := httptest.NewServer(mux)
			defer server.Close()
			l, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken), Stall: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer run(t, l)()
			ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
			defer cancel()
			indices, err := l.Append(ctx, leaf("a"))
			want := c.is
			if want == nil {
				want = context.DeadlineExceeded
			}
			if !errors.Is(err, want) {
				t.Errorf("Append: %d, %v", indices, err)
			}
			if unknown := errors.Is(err, errOpen); unknown && (c.is == context.DeadlineExceeded || c.is == tlog.ErrBusy) {
				t.Errorf("nothing can have been appended, and nobody is said to know: %v", err)
			}
		})
	}
}

// TestRolledBack is a log that was put back from an older copy of its disk, with an anchor that was put back too. Nobody
// sees it but who was told of an entry that is gone.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	l := s.client(s.config())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(context.Background()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := l.Append(ctx, leaf("a")); err != nil {
		t.Fatal(err)
	}
	p.quiet(t)
	remembered, err := s.set.Latest.Load(ctx, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	copied := s.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	if _, err := l.Append(ctx, leaf("b"), leaf("c")); err != nil {
		t.Fatal(err)
	}
	p.quiet(t)
	s.down()
	s.fs = copied
	s.set.Latest.(*tlogtest.Latest).Set(testOrigin, remembered)
	p = s.start()
	if _, err := l.Append(ctx, leaf("d")); !errors.Is(err, tlog.ErrQuarantine) || !errors.Is(err, errOther) {
		t.Errorf("Append: %v", err)
	}
	if err := <-ended; !errors.Is(err, errOther) {
		t.Errorf("Run: %v", err)
	}
	l.Close()
	if size := p.log.Size(); size != 1 {
		t.Errorf("the log has %d entries", size)
	}
}

// TestOneOfMany: where a server refuses one call of several that were sent together, the others are appended.
func TestOneOfMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	s.server.Check = func(_ string, entry []byte) error {
		if bytes.Contains(entry, []byte("bad")) {
			return errors.New("it is bad")
		}
		return nil
	}
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	inEngine, release := make(chan struct{}), make(chan struct{})
	h.set(func([]tlog.Leaf) error { h.set(nil, nil); close(inEngine); <-release; return nil }, nil)
	var wg sync.WaitGroup
	wg.Go(func() { g.append(ctx, l, leaf("first")) })
	<-inEngine // what follows waits together
	for i := range 20 {
		wg.Go(func() {
			name := "good"
			if i%7 == 3 {
				name = "bad"
			}
			_, err := g.append(ctx, l, leaf("%s %d", name, i))
			if bad := name == "bad"; bad != errors.Is(err, ErrRefused) || !bad && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for { // until all wait
		l.queue.mu.Lock()
		n := len(l.queue.small)
		l.queue.mu.Unlock()
		if n == 20 || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if size := p.log.Size(); size != 1+20-3 {
		t.Errorf("the log has %d entries", size)
	}
	g.verify(t, p)
}

// TestQueueBounds: what waits is bounded, and what waits is nobody's but the caller's, who may leave.
func TestQueueBounds(t *testing.T) {
	l, err := New(Config{URL: "http://127.0.0.1:1", Origin: testOrigin, Writer: testWriter, Token: plain(testToken), MaxLeaves: 4, MaxBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if _, err := l.Append(ctx, leaf("%d", i), leaf("%d too", i)); err != context.Canceled {
				t.Errorf("Append: %v", err)
			}
		})
	}
	for l.Stats().Waiting < 4 {
		time.Sleep(time.Millisecond)
	}
	if _, err := l.Append(ctx, leaf("one more")); err != tlog.ErrBusy {
		t.Errorf("one more: %v", err)
	}
	cancel()
	wg.Wait()
	if s := l.Stats(); s.Waiting != 0 || s.WaitingBytes != 0 {
		t.Errorf("room is taken for nobody: %+v", s)
	}
	// A call over the bounds comes in when there is no other.
	ctx, cancel = context.WithCancel(context.Background())
	wg.Go(func() { l.Append(ctx, tlog.Leaf{Entry: []byte("large"), Payload: make([]byte, 2000)}) })
	for l.Stats().Waiting < 1 {
		time.Sleep(time.Millisecond)
	}
	if _, err := l.Append(ctx, leaf("beside it")); err != tlog.ErrBusy {
		t.Errorf("beside a large one: %v", err)
	}
	cancel()
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Append(context.Background(), leaf("late")); err != tlog.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
}

// TestResolve is batches whose outcome is open, and where their leaves were seen: each place is given out once, to a batch
// that is there whole.
func TestResolve(t *testing.T) {
	type open struct {
		leaves      string // one letter each
		from, until uint64
		not         []span
	}
	for _, c := range []struct {
		name string
		log  string // from index 0; what nobody looks for is a dot
		open []open
		at   []int // where each is, or -1
	}{
		{"there", "..a", []open{{"a", 0, 3, nil}}, []int{2}},
		{"not there", "...", []open{{"a", 0, 3, nil}}, []int{-1}},
		{"too early", "a..", []open{{"a", 1, 3, nil}}, []int{-1}},
		{"too late", "..a", []open{{"a", 0, 2, nil}}, []int{-1}},
		{"reaches too far", ".ab", []open{{"ab", 0, 2, nil}}, []int{-1}},
		{"half", ".a.", []open{{"ab", 0, 3, nil}}, []int{-1}},
		{"apart", "a.b", []open{{"ab", 0, 3, nil}}, []int{-1}},
		{"in another order", "ba", []open{{"ab", 0, 2, nil}}, []int{-1}},
		{"half and whole", "aab", []open{{"ab", 0, 3, nil}}, []int{1}},
		{"two, both there", ".ba", []open{{"a", 0, 3, nil}, {"b", 0, 3, nil}}, []int{2, 1}},
		{"equal, both there", ".aa", []open{{"a", 0, 3, nil}, {"a", 0, 3, nil}}, []int{1, 2}},
		{"equal, one there", ".a.", []open{{"a", 0, 3, nil}, {"a", 0, 3, nil}}, []int{1, -1}},
		{"equal, from different times", "a.a", []open{{"a", 1, 3, nil}, {"a", 0, 3, nil}}, []int{2, 0}},
		{"the short one within the long one", ".ab", []open{{"a", 0, 3, nil}, {"ab", 0, 3, nil}}, []int{-1, 1}},
		{"the short one beside the long one", "aba", []open{{"a", 0, 3, nil}, {"ab", 0, 3, nil}}, []int{2, 0}},
		{"all equal", "aaa", []open{{"a", 0, 3, nil}, {"aa", 0, 3, nil}}, []int{2, 0}},
		{"acknowledged to another", ".a.", []open{{"a", 0, 3, []span{{1, 2}}}}, []int{-1}},
		{"acknowledged in part to another", ".aa", []open{{"aa", 0, 3, []span{{0, 2}}}}, []int{-1}},
		{"beside what was acknowledged", "aaa", []open{{"a", 0, 3, []span{{0, 1}, {2, 3}}}}, []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := New(Config{URL: "http://127.0.0.1:1", Origin: testOrigin, Writer: testWriter, Token: plain(testToken)})
			if err != nil {
				t.Fatal(err)
			}
			var seen []place
			for i, letter := range c.log {
				if letter != '.' {
					seen = append(seen, place{uint64(i), tlog.HashLeaf([]byte(string(letter)))})
				}
			}
			var calls []*call
			for _, o := range c.open {
				var leaves []tlog.Leaf
				for _, letter := range o.leaves {
					leaves = append(leaves, tlog.Leaf{Entry: []byte(string(letter))})
				}
				k, err := newCall(leaves)
				if err != nil {
					t.Fatal(err)
				}
				k.alone = true
				if err := l.queue.enter(k); err != nil {
					t.Fatal(err)
				}
				l.queue.mu.Lock()
				l.queue.air = 0 // nothing is on its way: the last outcome is open
				l.queue.mu.Unlock()
				b := l.queue.take(func() {})
				b.from, b.until, b.not, b.leafs = o.from, o.until, o.not, b.hashes()
				l.open = append(l.open, b)
				calls = append(calls, k)
			}
			l.resolve(seen)
			for i, k := range calls {
				at := -1
				if k.over {
					at = int(k.first)
				}
				if at != c.at[i] {
					t.Errorf("%s is at %d, want %d", c.open[i].leaves, at, c.at[i])
				}
			}
		})
	}
}

// TestAbandonedIsDropped: of a body that was not appended, what nobody waits for any more is not sent again.
func TestAbandonedIsDropped(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	arrived, answer := make(chan []tlog.Leaf), make(chan func(w http.ResponseWriter))
	mux := http.NewServeMux()
	var size atomic.Uint64
	mux.HandleFunc("POST /lease/", func(w http.ResponseWriter, r *http.Request) {
		e, err := parseEpoch(r.Header.Get(headEpoch))
		if err != nil {
			t.Error(err)
		}
		w.Write(grant{tlogtest.Origin, e, size.Load()}.append(nil))
	})
	mux.HandleFunc("POST /append/", func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		leaves, err := parseLeaves(body.Bytes())
		if err != nil {
			t.Error(err)
		}
		arrived <- leaves
		(<-answer)(w)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	l, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, l)()
	first := func(index int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			size.Add(1)
			fmt.Fprintf(w, "%d\n", index)
		}
	}
	var wg sync.WaitGroup
	call := func(ctx context.Context, name string, want error) (left chan struct{}) {
		left = make(chan struct{})
		wg.Go(func() {
			defer close(left)
			if _, err := l.Append(ctx, leaf("%s", name)); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		})
		return left
	}
	call(ctx, "ahead", nil)
	<-arrived
	short, leave := context.WithCancel(ctx)
	left := call(short, "abandoned", context.Canceled)
	call(ctx, "kept", nil)
	for l.Stats().Waiting < 3 {
		time.Sleep(time.Millisecond)
	}
	answer <- first(0)
	if both := <-arrived; len(both) != 2 {
		t.Errorf("%d leaves wait", len(both))
	}
	leave()
	<-left
	answer <- func(w http.ResponseWriter) {
		w.Header().Set(headVerdict, "stale")
		w.WriteHeader(http.StatusConflict)
	}
	if again := <-arrived; len(again) != 1 || string(again[0].Entry) != "entry kept" {
		t.Errorf("sent again: %q", again)
	}
	answer <- first(1)
	wg.Wait()
}

// TestSlicesGoBack: a caller who leaves a large call has his slices back when Append returns, whatever still sends them.
func TestSlicesGoBack(t *testing.T) {
	l, err := New(Config{URL: "http://127.0.0.1:1", Origin: testOrigin, Writer: testWriter, Token: plain(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, tlog.Leaf{Entry: []byte("large"), Payload: make([]byte, bulkBytes+1)})
		gone <- err
	}()
	for l.Stats().Waiting < 1 {
		time.Sleep(time.Millisecond)
	}
	b := l.queue.take(func() {}) // on its way from here on
	if n, err := b.body.Read(make([]byte, 1000)); n != 1000 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	leave()
	if err := <-gone; !errors.Is(err, errOpen) || !errors.Is(err, context.Canceled) {
		t.Errorf("Append: %v", err)
	}
	if n, err := b.body.Read(make([]byte, 1000)); n != 0 || err != errReleased {
		t.Errorf("%d bytes are read of what is the caller's again, %v", n, err)
	}
}

// TestRunEnds: what is on its way when Run is to end comes through, what waits does not, and afterwards nothing is taken.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	p := s.start()
	l := s.client(s.config())
	stop := run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	inEngine, release := make(chan struct{}), make(chan struct{})
	h.set(func([]tlog.Leaf) error { close(inEngine); <-release; return nil }, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := g.append(ctx, l, leaf("on its way")); err != nil {
			t.Errorf("on its way: %v", err)
		}
	})
	<-inEngine
	wg.Go(func() {
		if _, err := g.append(ctx, l, leaf("waits")); !errors.Is(err, tlog.ErrClosed) {
			t.Errorf("waits: %v", err)
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	time.Sleep(20 * time.Millisecond)
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := l.Append(ctx, leaf("late")); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	p.quiet(t)
	if _, err := l.Checkpoint(ctx); err != nil {
		t.Errorf("reads go on: %v", err)
	}
	if err := l.Run(ctx); err == nil {
		t.Error("Run runs twice")
	}
	g.verify(t, p)
}

// TestNoLeaks counts goroutines before and after both ends have lived through the worst.
func TestNoLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		s := newSite(t)
		p := s.start()
		l := s.client(s.config())
		stop := run(t, l)
		g := newLedger()
		enough := g.crowd(t, l, "crowd")
		for range 5 {
			time.Sleep(2 * time.Millisecond)
			p.ln.sever()
		}
		s.down()
		gone, leave := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, leave)
		if _, err := l.Append(gone, leaf("abandoned")); err == nil {
			t.Error("appended to a server that is down")
		}
		p = s.start()
		enough()
		g.verify(t, p)
		if err := stop(); err != nil {
			t.Error(err)
		}
		s.down()
	}()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}

// A silo takes what is appended and keeps nothing of it.
type silo struct {
	*tlogtest.Log
	size atomic.Uint64
}

func (s *silo) Append(_ context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	indices := make([]uint64, len(leaves))
	for i := range indices {
		indices[i] = s.size.Add(1) - 1
	}
	return indices, nil
}

func (s *silo) Size() uint64 { return s.size.Load() }

// TestMemory: a large payload is in memory once, at the server, on its way through both ends.
func TestMemory(t *testing.T) {
	e := &silo{Log: tlogtest.NewLog(t)}
	s, err := NewServer(e, ServerConfig{Origin: tlogtest.Origin, Clients: []Client{everything()}, Check: anything})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	defer server.Close()
	l, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, l)()
	large := tlog.Leaf{Entry: []byte("large"), Payload: make([]byte, 64<<20)}
	if _, err := l.Append(t.Context(), leaf("small")); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := l.Append(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(len(large.Payload))*5/4 {
		t.Errorf("%d MiB were allocated for a payload of %d MiB", grown>>20, len(large.Payload)>>20)
	}
}

// A pipe is a listener whose connections are in memory, for time that is not the machine's.
type pipe struct {
	conns chan net.Conn
	shut  chan struct{}
	close func()
}

func newPipe() *pipe {
	p := &pipe{conns: make(chan net.Conn), shut: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.shut) })
	return p
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { p.close(); return nil }
func (p *pipe) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	mine, its := net.Pipe()
	select {
	case p.conns <- its:
		return mine, nil
	case <-p.shut:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestTime is what takes long, in a time of its own: a server that is down, one that does not answer, an anchor that is out
// of reach while leaves are looked for, and a lease that grows old.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := new(tlogtest.Storage)
		log := tlogtest.Start(t, tlogtest.Config{Storage: storage})
		var asked atomic.Int64
		open := func() (p *pipe, stop func()) {
			s, err := NewServer(log, ServerConfig{Origin: tlogtest.Origin, Clients: []Client{everything()}, Check: anything})
			if err != nil {
				t.Fatal(err)
			}
			p = newPipe()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx, p) }()
			return p, func() {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("the server ends: %v", err)
				}
			}
		}
		var at atomic.Pointer[pipe]
		l, err := New(Config{URL: "http://127.0.0.1", Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken)})
		if err != nil {
			t.Fatal(err)
		}
		l.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			asked.Add(1)
			return at.Load().dial(ctx, network, addr)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		p, stop := open()
		at.Store(p)
		go func() { ended <- l.Run(ctx) }()
		took := func(name string, least, most time.Duration, leaves ...tlog.Leaf) {
			t.Helper()
			begun := time.Now()
			if _, err := l.Append(ctx, leaves...); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if d := time.Since(begun); d < least || d > most {
				t.Errorf("%s: took %v; want %v to %v", name, d, least, most)
			}
		}
		took("at once", 0, time.Millisecond, leaf("a"))

		// A lease that nobody used for a while is taken anew.
		leases := l.Stats().Leases
		took("at once", 0, time.Millisecond, leaf("b"))
		if n := l.Stats().Leases; n != leases {
			t.Errorf("%d leases for an append", n-leases)
		}
		time.Sleep(leaseFor + time.Second)
		took("with an old lease", 0, time.Millisecond, leaf("c"))
		if n := l.Stats().Leases; n != leases+1 {
			t.Errorf("%d leases after %v", n-leases, leaseFor)
		}

		// A server that is down for ten minutes.
		stop()
		asked.Store(0)
		time.AfterFunc(10*time.Minute, func() {
			p, stop = open()
			at.Store(p)
		})
		took("a server that is down", 10*time.Minute, 10*time.Minute+longWait, leaf("d"))
		if n := asked.Load(); n < 100 || n > 300 {
			t.Errorf("%d connections were tried in ten minutes", n)
		}

		// An engine that takes its time: longer than the client waits for an answer, which then waits for the lease.
		log.Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error { time.Sleep(50 * time.Second); return nil }})
		took("a slow engine", 50*time.Second, 52*time.Second, leaf("e"))

		// The answer is lost, and no checkpoint comes for a while: nobody waits for it.
		log.Inject(tlogtest.Faults{})
		var once sync.Once
		log.Inject(tlogtest.Faults{
			Appended: func(context.Context, []uint64) error {
				once.Do(func() { time.Sleep(40 * time.Second) })
				return nil
			},
			Publish: func(tlog.Checkpoint) error { time.Sleep(3 * time.Minute); return nil },
		})
		took("an anchor out of reach", 40*time.Second, 42*time.Second, leaf("f"))
		log.Inject(tlogtest.Faults{})

		// A tail is waited for as long as is asked for, within bounds; and no longer than until there is one, or the server ends.
		tail := func(name string, wait, least, most time.Duration, entries int) {
			t.Helper()
			begun := time.Now()
			got, err := l.Tail(ctx, log.Size(), wait)
			if d := time.Since(begun); err != nil || len(got) != entries || d < least || d > most {
				t.Errorf("%s: %d entries, %v, after %v; want %d after %v to %v", name, len(got), err, d, entries, least, most)
			}
		}
		tail("no wait", 0, 0, time.Millisecond, 0)
		tail("seven seconds", 7*time.Second, 7*time.Second, 8*time.Second, 0)
		tail("an hour", time.Hour, l.cfg.Stall/2, l.cfg.Stall/2+time.Second, 0)
		time.AfterFunc(3*time.Second, func() { log.Append(ctx, leaf("g")) })
		tail("until there is more", 10*time.Second, 3*time.Second, 4*time.Second, 1)
		short, leave := context.WithTimeout(ctx, time.Second)
		if _, err := l.Tail(short, log.Size(), 10*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller who leaves: %v", err)
		}
		leave()
		gone := make(chan struct{})
		time.AfterFunc(2*time.Second, func() { stop(); close(gone) })
		tail("until the server ends", 10*time.Second, 2*time.Second, 3*time.Second, 0)
		<-gone
		p, stop = open()
		at.Store(p)
		tail("at the next server", time.Second, time.Second, 2*time.Second, 0)
		if size := log.Size(); size != 7 {
			t.Errorf("seven leaves were appended, and the log has %d", size)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		l.Close()
		stop()
	})
}

// TestBackoff: each failure waits longer than half of what the one before could, up to a limit, and never nothing.
func TestBackoff(t *testing.T) {
	for n := range 100 {
		for range 100 {
			d := backoff(n + 1)
			most := longWait
			if n < 10 {
				most = min(longWait, firstWait<<n)
			}
			if d < most/2 || d > most {
				t.Fatalf("after %d failures: %v", n+1, d)
			}
		}
	}
}

// TestPayloadServed: what is served under a digest and has another is not returned.
func TestPayloadServed(t *testing.T) {
	log := tlogtest.NewLog(t)
	s := newServer(t, log, everything())
	server := httptest.NewServer(s)
	defer server.Close()
	l, err := New(Config{URL: server.URL, Origin: tlogtest.Origin, Writer: testWriter, Token: plain(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there := leaf("there")
	there.Payload = make([]byte, 100_000)
	rand.Read(there.Payload)
	if _, err := log.Append(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	sum := tlog.Hash(sha256.Sum256(there.Payload))
	if got, err := l.Payload(t.Context(), sum); err != nil || !bytes.Equal(got, there.Payload) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	log.Inject(tlogtest.Faults{Payload: func(_ tlog.Hash, p []byte) ([]byte, error) { p[7] ^= 1; return p, nil }})
	if got, err := l.Payload(t.Context(), sum); err == nil || got != nil {
		t.Errorf("a payload that was changed: %d bytes, %v", len(got), err)
	}
	log.Inject(tlogtest.Faults{Payload: func(tlog.Hash, []byte) ([]byte, error) { return nil, errors.New("input/output error") }})
	if _, err := l.Payload(t.Context(), sum); !errors.Is(err, errFailed) || strings.Contains(err.Error(), "input/output") {
		t.Errorf("a payload that cannot be read: %v", err)
	}
}
