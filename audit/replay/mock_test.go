package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

const chatPath = "/v1/chat/completions"

// mock serves sessions until the test ends.
func mock(t *testing.T, c MockConfig, sessions ...verify.Session) *httptest.Server {
	t.Helper()
	m, err := NewMock(c, sessions...)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	return s
}

// post makes a call and returns all there is of its answer.
func post(t *testing.T, url, body string) (resp *http.Response, answer string, err error) {
	t.Helper()
	resp, err = http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// Events come at the times at which they came when they were recorded, exactly, whatever is between them, and as many times faster as
// is asked for.
func TestMockTimes(t *testing.T) {
	at := []time.Duration{2 * time.Millisecond, 3 * time.Millisecond, 3*time.Millisecond + 7*time.Microsecond, 250 * time.Millisecond, 4 * time.Second}
	w := told{
		target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams("a", "b", "c"),
		events: at, first: 120 * time.Millisecond, ended: 5 * time.Second, finish: "[DONE]",
	}
	for _, c := range []struct {
		cfg   MockConfig
		times float64
	}{{MockConfig{}, 1}, {MockConfig{Speed: 1}, 1}, {MockConfig{Speed: 8}, 8}, {MockConfig{Speed: 0.25}, 0.25}, {MockConfig{NoDelay: true}, 0}} {
		s := w.session(t)
		synctest.Test(t, func(t *testing.T) {
			var late []time.Duration
			c.cfg.Served = func(s Served) { late = s.Late }
			m, err := NewMock(c.cfg, s)
			if err != nil {
				t.Fatal(err)
			}
			client := inMemory(t, m)
			start := time.Now()
			resp, err := client.Post("http://localhost"+chatPath, "application/json", strings.NewReader(w.ask))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			due := func(d time.Duration) time.Duration {
				if c.times == 0 {
					return 0
				}
				return time.Duration(float64(d) / c.times)
			}
			if got := time.Since(start); got != due(w.first) {
				t.Errorf("×%v: the head after %v, want %v", c.times, got, due(w.first))
			}
			r := bufio.NewReader(resp.Body)
			for i := range at {
				line, err := r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if got, want := time.Since(start), due(w.first+at[i]); got != want {
					t.Errorf("×%v: event %d after %v, want %v: %s", c.times, i, got, want, line)
				}
				r.ReadString('\n')
			}
			if _, err := r.ReadByte(); err != io.EOF || time.Since(start) != due(w.ended) {
				t.Errorf("×%v: the end after %v, %v", c.times, time.Since(start), err)
			}
			synctest.Wait()
			if len(late) != len(at) || slices.Max(late) != 0 {
				t.Errorf("×%v: late by %v", c.times, late)
			}
		})
	}
}

// inMemory returns a client of a handler that is served over pipes, so that a test's own time passes.
func inMemory(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	ln := pipes{make(chan net.Conn), make(chan struct{})}
	srv := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(&ln) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case ln.conns <- there:
			return here, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.Close()
		<-ended
	})
	return &http.Client{Transport: tr}
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// An answer that did not come as a stream comes at once, when it was there; what took its time before anything was sent took it of the
// caller, too.
func TestMockTimesWhole(t *testing.T) {
	whole := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("x"), first: time.Second, ended: 3 * time.Second}
	denied := whole
	denied.head, denied.outcome, denied.status, denied.unsent = nil, record.Denied, 403, true
	for _, w := range []told{whole, denied} {
		s := w.session(t)
		synctest.Test(t, func(t *testing.T) {
			m, err := NewMock(MockConfig{}, s)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			resp, err := inMemory(t, m).Post("http://localhost"+chatPath, "application/json", strings.NewReader(w.ask))
			if err != nil {
				t.Fatal(err)
			}
			head := time.Since(start)
			b, err := io.ReadAll(resp.Body)
			if err != nil || string(b) != w.answer || head != 3*time.Second || time.Since(start) != head {
				t.Errorf("the head after %v, all after %v, %v: %s", head, time.Since(start), err, b)
			}
		})
	}
}

// A reader that is slow makes the events late that it does not take, and none after them.
func TestMockSlowReader(t *testing.T) {
	w := told{
		target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams("a", "b", "c"),
		events: []time.Duration{0, time.Second, 2 * time.Second, 10 * time.Second, 10 * time.Second}, ended: 10 * time.Second, finish: "[DONE]",
	}
	s := w.session(t)
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMock(MockConfig{}, s)
		if err != nil {
			t.Fatal(err)
		}
		client := inMemory(t, m)
		start := time.Now()
		resp, err := client.Post("http://localhost"+chatPath, "application/json", strings.NewReader(w.ask))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.Sleep(5 * time.Second)
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != w.answer || time.Since(start) != 10*time.Second {
			t.Errorf("after %v, %v: %s", time.Since(start), err, b)
		}
	})
}

// What is served is what was answered, by whatever request it can be found.
func TestMockServes(t *testing.T) {
	a := told{target: chatPath + "?x=1", model: "m-1", ask: `{"model":"m-1","messages":[{"role":"user","content":"hi"}],"temperature":0}`, status: 200, head: jsonHead, answer: says("hello")}
	limit := told{
		target: "/claude/v1/messages", model: "m-2", anthropic: true, ask: `{"model":"m-2","max_tokens":9,"messages":[{"role":"user","content":"more"}]}`, status: 429,
		head: [][2]string{{"Content-Type", "application/json"}, {"Retry-After", "7"}, {"Request-Id", "req_9"}}, answer: `{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}`,
	}
	sa, sl := a.session(t), limit.session(t)
	seen := make(chan Served, 1)
	s := mock(t, MockConfig{Match: InOrder, Served: func(s Served) { seen <- s }}, sa, sl)
	for _, c := range []struct {
		path, body string
		want       record.ID
		by         Match
	}{
		{chatPath + "?x=1", a.ask, sa.ID, ByRequest},
		{chatPath + "?x=1", "{ \"temperature\": 0,\n\"messages\": [{\"content\":\"\\u0068i\",\"role\":\"user\"}], \"model\":\"m-1\"}", sa.ID, ByRequest},
		{"/openai" + chatPath + "?x=1", a.ask, sa.ID, ByRequest},
		{chatPath, strings.Replace(a.ask, "0}", "1}", 1), sa.ID, ByMessage},
		{chatPath, asks("m-1", "hi", false), sa.ID, ByMessage},
		{chatPath, asks("m-9", "hi", false), sa.ID, InOrder},
		{chatPath, asks("m-1", "ho", false), sa.ID, InOrder},
		{"/v1/messages", limit.ask, sl.ID, ByRequest},
		{"/claude/v1/messages", limit.ask, sl.ID, ByRequest},
	} {
		resp, got, err := post(t, s.URL+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		want, status := a, 200
		if c.want == sl.ID {
			want, status = limit, 429
		}
		if got != want.answer || resp.StatusCode != status || resp.Header.Get(MockHeader) != c.want.String() || resp.ContentLength != int64(len(got)) {
			t.Errorf("%s %s: %s %s %v", c.path, c.body, resp.Status, got, resp.Header)
		}
		if last := <-seen; last.Session != c.want || last.By != c.by {
			t.Errorf("%s %s: %s by %s", c.path, c.body, last.Session, last.By)
		}
	}
	resp, _, _ := post(t, s.URL+"/v1/messages", limit.ask)
	<-seen
	if resp.Header.Get("Retry-After") != "7" || resp.Header.Get("Request-Id") != "req_9" {
		t.Errorf("%v", resp.Header)
	}
	resp, _, _ = post(t, s.URL+chatPath, a.ask)
	<-seen
	if d := resp.Header.Get("Date"); resp.Header.Get("X-Request-Id") != "req_1" || len(resp.Header["Set-Cookie"]) > 0 || d == jsonHead[2][1] {
		t.Errorf("%v", resp.Header)
	}
}

// What cannot be matched gets an error that both families of clients understand, and is told what came nearest.
func TestMockUnmatched(t *testing.T) {
	first := told{target: chatPath, model: "m-1", ask: asks("m-1", "the first of all", false), status: 200, head: jsonHead, answer: says("1")}
	second := told{target: chatPath, model: "m-1", ask: asks("m-1", "the second", true), status: 200, head: streamHead, answer: streams("2"), events: []time.Duration{0, 0, 0}}
	for _, c := range []struct {
		match      Match
		path, body string
		say        string
	}{
		{ByRequest, chatPath, asks("m-1", "the first of none", false), `matches this request by request; the nearest of 2 is FIRST; its body differs at ".messages[0].content": recorded "\"the first of all\"", asked "\"the first of none\""`},
		{ByMessage, chatPath, asks("m-1", "the first of none", false), `by message; the nearest of 2 is FIRST; the user's last words were "the first of all", and are "the first of none"`},
		{ByRequest, chatPath + "?a=1", asks("m-1", "the first of all", false), "the query differs"},
		{InOrder, "/v1/embeddings", `{}`, `of POST "/v1/chat/completions"`},
		{ByMessage, chatPath, asks("m-1", "the second", false), "SECOND, which was streamed; this request asks for no stream"},
		{ByRequest, chatPath, `{"model":`, "the bodies differ"},
		{ByRequest, chatPath, "\x1b[31m\xff", "the bodies differ"},
	} {
		a, b := first.session(t), second.session(t)
		s := mock(t, MockConfig{Match: c.match}, a, b)
		resp, got, err := post(t, s.URL+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		say := strings.NewReplacer("FIRST", a.ID.String(), "SECOND", b.ID.String()).Replace(c.say)
		v, _ := decode([]byte(got))
		whole, _ := v.(map[string]any)
		inner, _ := whole["error"].(map[string]any)
		message, _ := inner["message"].(string)
		if resp.StatusCode != 404 || whole["type"] != "error" || inner["type"] != "not_found_error" || inner["code"] != "no_recorded_session" || !strings.Contains(message, say) {
			t.Errorf("%s %q: %s %s, want %s", c.path, c.body, resp.Status, got, say)
		}
		if resp.Header.Get(MockHeader) != "none" || resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%v", resp.Header)
		}
	}
}

// Nobody who asks for a stream is given anything else, or the other way round, unless the same was asked then.
func TestMockStreamed(t *testing.T) {
	whole := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("x")}
	s := mock(t, MockConfig{Match: InOrder}, whole.session(t))
	if _, got, err := post(t, s.URL+chatPath, asks("m-1", "hi", true)); err != nil || !strings.Contains(got, "which was not streamed; this request asks for a stream") {
		t.Errorf("%v %s", err, got)
	}
}

// Of several that match the one is served that was served least, in their order; once, where each is to be served once.
func TestMockOrder(t *testing.T) {
	var all []verify.Session
	for i := range 3 {
		all = append(all, told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says(fmt.Sprint(i))}.session(t))
	}
	which := func(t *testing.T, s *httptest.Server, prompt string) string {
		t.Helper()
		resp, answer, err := post(t, s.URL+chatPath, asks("m-1", prompt, false))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			return answer
		}
		for i, one := range all {
			if resp.Header.Get(MockHeader) == one.ID.String() {
				return fmt.Sprint(i)
			}
		}
		return "?"
	}
	s := mock(t, MockConfig{Match: InOrder}, all...)
	got := ""
	for _, prompt := range []string{"hi", "ho", "hi", "hi", "ho", "hi", "hi"} {
		got += which(t, s, prompt)
	}
	if got != "0120120" {
		t.Errorf("in the order %s", got)
	}
	m, err := NewMock(MockConfig{Match: InOrder, Once: true}, all...)
	if err != nil {
		t.Fatal(err)
	}
	s = httptest.NewServer(m)
	defer s.Close()
	for i := range all {
		select {
		case <-m.Done():
			t.Errorf("done after %d", i)
		default:
		}
		if got := which(t, s, "hi"); got != fmt.Sprint(i) {
			t.Errorf("once: %s in the place of %d", got, i)
		}
	}
	<-m.Done()
	if got := which(t, s, "hi"); !strings.Contains(got, "all_served") {
		t.Errorf("after all: %s", got)
	}
	// What was served is not served again, though something else is left.
	other := told{target: chatPath, model: "m-1", ask: asks("m-1", "ho", false), status: 200, head: jsonHead, answer: says("ho")}.session(t)
	s1 := mock(t, MockConfig{Once: true}, all[0], other)
	if a, b, c := which(t, s1, "hi"), which(t, s1, "hi"), which(t, s1, "ho"); a != "0" || !strings.Contains(b, "which has been served") || c != "?" {
		t.Errorf("%s %s %s", a, b, c)
	}
	// Many at once: each is served once, whoever asks.
	m, err = NewMock(MockConfig{Match: InOrder, Once: true}, all...)
	if err != nil {
		t.Fatal(err)
	}
	s2 := httptest.NewServer(m)
	defer s2.Close()
	var mu sync.Mutex
	count := make(map[string]int)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			resp, err := http.Post(s2.URL+chatPath, "application/json", strings.NewReader(asks("m-1", "hi", false)))
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			mu.Lock()
			count[resp.Header.Get(MockHeader)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	for _, one := range all {
		if count[one.ID.String()] != 1 {
			t.Errorf("%v", count)
		}
	}
}

// A conversation goes on: the answer after a tool has said something is found by where it stands, whatever the tool says now.
func TestMockConversation(t *testing.T) {
	turn := func(tool string) string {
		return `{"model":"m-1","messages":[{"role":"user","content":"weather?"},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"w","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"` + tool + `"}]}`
	}
	one := told{target: chatPath, model: "m-1", ask: asks("m-1", "weather?", false), status: 200, head: jsonHead, answer: says("call")}.session(t)
	two := told{target: chatPath, model: "m-1", ask: turn("rain at 12:00"), status: 200, head: jsonHead, answer: says("it rains")}.session(t)
	s := mock(t, MockConfig{Match: ByMessage}, one, two)
	for _, c := range []struct {
		body string
		want record.ID
	}{{turn("rain at 11:00"), two.ID}, {asks("m-1", "weather?", false), one.ID}, {turn("rain at 13:00"), two.ID}, {turn("rain at 12:00"), two.ID}, {asks("m-1", "weather?", false), one.ID}} {
		if resp, _, err := post(t, s.URL+chatPath, c.body); err != nil || resp.Header.Get(MockHeader) != c.want.String() {
			t.Errorf("%s: %v, %v", c.body, resp, err)
		}
	}
}

// What was cut is cut, after the same bytes; what the caller was not given is not given.
func TestMockCut(t *testing.T) {
	whole := streams("a", "b", "c")
	parts := strings.SplitAfter(whole, "\n\n")
	now := []time.Duration{0, 0, 0, 0, 0}
	for _, c := range []struct {
		name string
		w    told
		want string // "" for no answer at all
	}{
		{"in the middle of a stream", told{answer: parts[0] + parts[1], events: now[:2], status: 200, head: streamHead, outcome: record.Truncated, err: "cut"}, parts[0] + parts[1]},
		{"in the middle of an event", told{answer: parts[0] + parts[1][:9], events: now[:2], status: 200, head: streamHead, outcome: record.Truncated, err: "cut"}, parts[0] + parts[1][:9]},
		{"after the protocol's end", told{answer: whole, events: now, status: 200, head: streamHead, outcome: record.Truncated, err: "cut", finish: "[DONE]"}, strings.Join(parts[:4], "")},
		{"before an event", told{status: 200, head: streamHead, events: []time.Duration{}, outcome: record.Truncated, err: "cut"}, ""},
		{"a body", told{answer: `{"a":`, status: 200, head: [][2]string{{"Content-Type", "application/json"}, {"Content-Length", "2000000"}}, outcome: record.Limit, err: "too long"}, `{"a":`},
		{"with the gateway", told{answer: parts[0], events: now[:1], status: 200, head: streamHead, outcome: record.Interrupted}, parts[0]},
		{"with the gateway, before anything", told{outcome: record.Interrupted}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.w.target, c.w.model, c.w.ask = chatPath, "m-1", asks("m-1", "hi", true)
			session := c.w.session(t)
			var served Served
			ended := make(chan struct{})
			s := mock(t, MockConfig{Served: func(s Served) { served = s; close(ended) }}, session)
			resp, got, err := post(t, s.URL+chatPath, c.w.ask)
			if err == nil || got != c.want || resp == nil && c.w.status != 0 {
				t.Errorf("%v: %q", err, got)
			}
			if <-ended; !served.Cut || served.Status != c.w.status {
				t.Errorf("%+v", served)
			}
		})
	}
}

// A gateway's own answers are whole, in the shape in which the gateway gave them.
func TestMockRefused(t *testing.T) {
	w := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 403, refused: "refused_by_rule", err: "calls of this model are not allowed"}
	denied := told{target: chatPath, model: "m-1", ask: asks("m-1", "ho", false), status: 403, answer: `{"type":"error","error":{"type":"permission_error"}}`, outcome: record.Denied, err: "denied"}
	a, b := w.session(t), denied.session(t)
	s := mock(t, MockConfig{}, a, b)
	resp, got, err := post(t, s.URL+chatPath, w.ask)
	want := `{"type":"error","error":{"type":"permission_error","message":"calls of this model are not allowed","param":null,"code":"refused_by_rule"},"request_id":"` + a.ID.String() + `"}`
	if err != nil || resp.StatusCode != 403 || got != want || resp.Header.Get("X-Should-Retry") != "false" || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Request-Id") != a.ID.String() {
		t.Errorf("%v %s %v", err, got, resp)
	}
	resp, got, err = post(t, s.URL+chatPath, denied.ask)
	if err != nil || resp.StatusCode != 403 || got != denied.answer || resp.Header.Get("X-Request-Id") != b.ID.String() {
		t.Errorf("%v %s %v", err, got, resp)
	}
}

// Of a call that people have not decided about the caller is told to come again; what has no type is given none.
func TestMockHeads(t *testing.T) {
	waits := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 409, answer: `{"type":"error"}`, outcome: record.Waiting, err: "waits"}
	plain := told{target: "/any", ask: "x", status: 200, head: [][2]string{{"X-Request-Id", "1"}}, answer: "<html>"}
	s := mock(t, MockConfig{}, waits.session(t), plain.session(t))
	if resp, _, err := post(t, s.URL+chatPath, waits.ask); err != nil || resp.StatusCode != 409 || resp.Header.Get("X-Should-Retry") != "true" || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %v", err, resp)
	}
	if resp, got, err := post(t, s.URL+"/any", "x"); err != nil || got != plain.answer || len(resp.Header["Content-Type"]) > 0 {
		t.Errorf("%v %v", err, resp)
	}
}

func TestFits(t *testing.T) {
	long := strings.Repeat("x", maxMasked)
	for _, c := range []struct {
		recorded, asked string
		want            bool
	}{
		{"", "", true}, {"a", "a", true}, {"a", "b", false},
		{"⟦CARD⟧", "", true}, {"⟦CARD⟧", "4111", true}, {"⟦CARD:abc⟧", "4111", true}, {"⟦CARD:…1111⟧", "4111", true},
		{"a⟦CARD⟧b", "a4111b", true}, {"a⟦CARD⟧b", "a4111", false}, {"a⟦CARD⟧b", "4111b", false}, {"a⟦CARD⟧b", "ab", true}, {"a⟦X⟧a", "a", false},
		{"a⟦X⟧b⟦Y⟧c", "a1b2c", true}, {"a⟦X⟧b⟦Y⟧c", "a1c2b", false}, {"⟦X⟧⟦Y⟧", "12", true},
		{"a⟦X⟧b⟦Y⟧c", `a1"b2c`, false}, {"a⟦X⟧b⟦Y⟧c", `a1b2"c`, false}, {"a⟦X⟧b", `a"b`, false},
		{"a⟦X⟧b", "a" + long + "b", true}, {"a⟦X⟧b", "a" + long + "xb", false}, {"a⟦X⟧b⟦Y⟧c", "a" + long + "b2c", true}, {"a⟦X⟧b⟦Y⟧c", "a" + long + "xb2c", false},
		{"⟦x⟧", "1", false}, {"⟦⟧", "1", false}, {"⟦CARD", "1", false}, {"⟦CARD:\"⟧", "1", false},
	} {
		if got := fits(c.recorded, c.asked); got != c.want {
			t.Errorf("%.60q as %.60q: %v", c.recorded, c.asked, got)
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"/", "/", true}, {"/v1/", "/", false}, {"/v1/x", "/v1/x", true}, {"/a/v1/x", "/v1/x", true}, {"/v1/x", "/a/v1/x", true}, {"/av1/x", "v1/x", false},
		{"/v1/y", "/v1/x", false}, {"", "", true}, {"/x", "", false},
	} {
		if got := samePath(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}

// A mask in what was recorded stands for whatever is there now, and for nothing beyond it.
func TestMockMasked(t *testing.T) {
	w := told{target: chatPath, model: "m-1", ask: asks("m-1", "card ⟦CARD:abc123⟧ for ⟦EMAIL⟧, please", false), status: 200, head: jsonHead, answer: says("⟦CARD:abc123⟧ it is")}
	session := w.session(t)
	s := mock(t, MockConfig{Match: ByMessage}, session)
	for _, c := range []struct {
		prompt string
		ok     bool
	}{
		{"card 4111 1111 1111 1111 for x@example.com, please", true},
		{"card ⟦CARD:abc123⟧ for ⟦EMAIL⟧, please", true},
		{"card  for , please", true},
		{"card 4111 1111 1111 1111 for x@example.com, please!", false},
		{"a card 4111 1111 1111 1111 for x@example.com, please", false},
		{"card 4111 \" for \" for x, please", false},
	} {
		resp, got, err := post(t, s.URL+chatPath, asks("m-1", c.prompt, false))
		if err != nil || (resp.StatusCode == 200) != c.ok || c.ok && got != w.answer {
			t.Errorf("%s: %v %s", c.prompt, err, got)
		}
	}
	m, _ := NewMock(MockConfig{}, session)
	if all := m.Playing(); len(all) != 1 || !all[0].Masked {
		t.Errorf("%+v", all)
	}
}

func TestMockModels(t *testing.T) {
	one := told{target: chatPath, model: "m-2", ask: asks("m-2", "hi", false), status: 200, head: jsonHead, answer: says("x")}.session(t)
	two := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("x")}.session(t)
	s := mock(t, MockConfig{Match: InOrder}, one, two, one)
	get := func(path, version string) (int, string) {
		req, _ := http.NewRequest("GET", s.URL+path, nil)
		if version != "" {
			req.Header.Set("Anthropic-Version", version)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		path, version string
		status        int
		want          string
	}{
		{"/v1/models", "", 200, `{"object":"list","data":[{"id":"m-1","object":"model","created":` + fmt.Sprint(two.ID.Time().Unix()) + `,"owned_by":"tallystick-mock"},{"id":"m-2",`},
		{"/openai/v1/models", "", 200, `"id":"m-2"`},
		{"/v1/models/m-2", "", 200, `{"id":"m-2","object":"model"`},
		{"/v1/models/m-3", "", 404, "no_recorded_session"},
		{"/v1/models/", "", 404, "no_recorded_session"},
		{"/v1/modelsx", "", 404, "no_recorded_session"},
		{"/v1/models", "2023-06-01", 200, `"has_more":false,"first_id":"m-1","last_id":"m-2"`},
		{"/v1/models/m-1", "2023-06-01", 200, `{"type":"model","id":"m-1","display_name":"m-1","created_at":"2026-`},
	} {
		if status, got := get(c.path, c.version); status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s: %d %s", c.path, status, got)
		}
	}
}

// A page in somebody's browser, whose own name leads to this machine, is told nothing.
func TestMockHost(t *testing.T) {
	session := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("secret")}.session(t)
	for _, any := range []bool{false, true} {
		s := mock(t, MockConfig{AnyHost: any}, session)
		for host, here := range map[string]bool{
			"localhost": true, "LOCALHOST.:80": true, "a.localhost:1": true, "127.0.0.1": true, "127.8.8.8:9": true, "[::1]:8": true, "[::ffff:127.0.0.1]": true,
			"evil.example": false, "localhost.evil.example:80": false, "10.0.0.1": false, "notlocalhost": false, "[::2]:1": false, "127.0.0.1.evil.example": false,
		} {
			req, _ := http.NewRequest("POST", s.URL+chatPath, strings.NewReader(asks("m-1", "hi", false)))
			req.Host = host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if (resp.StatusCode == 200) != (here || any) || strings.Contains(string(b), "secret") != (here || any) {
				t.Errorf("%s: %s %s", host, resp.Status, b)
			}
		}
	}
}

func TestMockRefusesSessions(t *testing.T) {
	good := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("x")}
	whole := good.session(t)
	open := whole
	open.Entries = open.Entries[:1]
	gone := good.session(t)
	gone.Entries = slices.Clone(gone.Entries)
	for i := range gone.Entries {
		gone.Entries[i].Fields = nil
	}
	part := good.session(t) // its answer's body is withheld
	last := &part.Entries[1]
	last.Fields = slices.Clone(last.Fields)
	for i, f := range last.Fields {
		if f.Shown.Name == record.FieldBody {
			last.Fields[i] = verify.Field{Withheld: f.Shown.Hash()}
		}
	}
	for s, say := range map[*verify.Session]string{&open: "has not ended", &gone: "not all", &part: "not all"} {
		if err := Servable(*s); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", say, err)
		}
	}
	odd := good
	odd.status = 42
	for name, s := range map[string]verify.Session{"open": open, "erased": gone, "odd": odd.session(t), "empty": {ID: whole.ID}} {
		if err := Servable(s); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := NewMock(MockConfig{}, whole, s); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Servable(whole); err != nil {
		t.Error(err)
	}
	if _, err := NewMock(MockConfig{}); err == nil {
		t.Error("a mock of nothing")
	}
	if _, err := NewMock(MockConfig{Speed: -1}, whole); err == nil {
		t.Error("a mock that goes back")
	}
}

// A client that leaves ends its answer, and hinders nobody.
func TestMockClientLeaves(t *testing.T) {
	w := told{
		target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams("a"),
		events: []time.Duration{0, time.Hour, time.Hour}, ended: time.Hour, finish: "[DONE]",
	}
	ended := make(chan Served, 1)
	s := mock(t, MockConfig{Served: func(s Served) { ended <- s }}, w.session(t))
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+chatPath, strings.NewReader(w.ask))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"a"`) {
		t.Fatalf("%q %v", line, err)
	}
	cancel()
	resp.Body.Close()
	if got := <-ended; !got.Left || len(got.Late) != 1 {
		t.Errorf("%+v", got)
	}
}

// How late events are on this machine, with as many answers at once as the benchmark is told to run.
func BenchmarkMockDrift(b *testing.B) {
	var at []time.Duration
	var words []string
	for i := range 98 {
		words = append(words, fmt.Sprintf("word %d ", i))
	}
	for i := range 100 {
		at = append(at, time.Duration(i)*5*time.Millisecond)
	}
	w := told{
		target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams(words...),
		events: at, first: 10 * time.Millisecond, ended: 600 * time.Millisecond, finish: "[DONE]",
	}
	m, err := NewMock(MockConfig{}, w.session(b))
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewServer(m)
	defer s.Close()
	var mu sync.Mutex
	var late []time.Duration
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			start := time.Now()
			resp, err := http.Post(s.URL+chatPath, "application/json", strings.NewReader(w.ask))
			if err != nil {
				b.Error(err)
				return
			}
			r := bufio.NewReader(resp.Body)
			for i := range at {
				r.ReadString('\n')
				r.ReadString('\n')
				mu.Lock()
				late = append(late, time.Since(start)-w.first-at[i])
				mu.Unlock()
			}
			resp.Body.Close()
		}
	})
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2])/1e6, "ms-median")
	b.ReportMetric(float64(late[len(late)*99/100])/1e6, "ms-p99")
	b.ReportMetric(float64(late[len(late)-1])/1e6, "ms-max")
}
