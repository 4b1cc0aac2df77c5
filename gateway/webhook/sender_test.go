package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
)

// hostile is a notice of which everything that others wrote means something to somebody.
func hostile(event string) gateway.Notice {
	return gateway.Notice{
		Event: event, Approval: record.NewID(time.Now()), Caller: "<!channel> *eve*\n<https://evil.example|the console>\u202e&amp;", Route: "openai",
		Model: "<@U012AB3CD>" + strings.Repeat("m", 5000), Rule: "risky", Message: "see `wiki`\r\n> <!here>", Need: 2, Got: 1, Groups: []string{"approvers", "<!everyone>"},
		Until: time.Now().Add(time.Hour), URL: "https://gw.example/.tallystick/approvals/x?a=1&b=<2>|3", Actor: "dave <x>", Reason: "because\x1b[31m <@U1>",
	}
}

// Of a message to Slack, what others wrote is text of one line, in a type that has no links and mentions in it.
func TestSlackMessage(t *testing.T) {
	for _, event := range []string{"asked", "agreed", "granted", "broke_glass", "denied", "expired", "another"} {
		n := hostile(event)
		b, err := slackMessage(&n, true)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Text   string
			Blocks []json.RawMessage
		}
		if err := json.Unmarshal(b, &m); err != nil || len(m.Blocks) < 3 {
			t.Fatalf("%v %s", err, b)
		}
		if m.Text != headline(&n)+" (approval "+n.Approval.String()+")" {
			t.Errorf("%s: %q", event, m.Text)
		}
		var all any
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "*eve* \\u0026lt;https") || !strings.Contains(string(b), "see `wiki`  \\u0026gt;") {
			t.Errorf("%s: %s", event, b)
		}
		texts := 0
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case []any:
				for _, v := range v {
					walk(v)
				}
			case map[string]any:
				s, isText := v["text"].(string)
				switch kind := v["type"]; {
				case kind == "plain_text":
					texts++
					if strings.ContainsAny(s, "<>\n\r\x1b\u202e") || strings.Contains(strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "").Replace(s), "&") || len([]rune(s)) > 3000 || v["emoji"] != false {
						t.Errorf("%s: %q", event, s)
					}
				case kind == "mrkdwn":
					for _, foreign := range []string{n.Caller, n.Model, n.Rule, n.Message, n.Actor, n.Reason, n.Route} {
						if strings.Contains(s, foreign[:min(8, len(foreign))]) {
							t.Errorf("%s: what others wrote is marked up: %q", event, s)
						}
					}
					if strings.Count(s, "<") != 1 || !strings.Contains(s, "<https://gw.example/.tallystick/approvals/x?a=1&amp;b=%3C2%3E%7C3>") {
						t.Errorf("%s: %q", event, s)
					}
				case isText && v["blocks"] == nil:
					t.Errorf("%s: a text without a type: %q", event, s)
				}
				for _, v := range v {
					walk(v)
				}
			}
		}
		walk(all)
		if texts < 5 {
			t.Errorf("%s: %d texts", event, texts)
		}
		// There are buttons where there is something to decide, and somebody who reads what they send.
		buttons := strings.Count(string(b), `"action_id":"approve"`) + strings.Count(string(b), `"action_id":"deny"`)
		if open := event == "asked" || event == "agreed"; open != (buttons == 2) || open != strings.Contains(string(b), `"value":"`+n.Approval.String()) {
			t.Errorf("%s: %d buttons", event, buttons)
		}
		if b, err := slackMessage(&n, false); err != nil || strings.Contains(string(b), "action_id") {
			t.Errorf("%s: %v %s", event, err, b)
		}
		if loud := strings.Contains(m.Text, "THE GLASS WAS BROKEN") && strings.Contains(string(b), "\U0001F6A8"); loud != (event == "broke_glass") {
			t.Errorf("%s: loud %v", event, loud)
		}
	}
}

// What goes out is signed so that a Reader, or anybody else's, knows it, and has the notice in it and nothing else.
func TestSigned(t *testing.T) {
	var mu sync.Mutex
	var got []sent
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		s := sent{make(map[string]string), string(b)}
		for name := range r.Header {
			s.head[name] = r.Header.Get(name)
		}
		got = append(got, s)
	}))
	defer srv.Close()
	s, err := NewSender(SenderConfig{Targets: []Target{{URL: srv.URL, Secret: plain(ourSecret)}, {URL: srv.URL, Kind: Slack}}})
	if err != nil {
		t.Fatal(err)
	}
	n := gateway.Notice{Event: "asked", Approval: record.NewID(time.Now()), Caller: "alice", Route: "openai", Model: "m", Rule: "risky", Need: 1, Groups: []string{"approvers"}, Until: time.Now().Add(time.Hour)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s.Notify(n)
	go func() { ended <- s.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		k := len(got)
		mu.Unlock()
		if k == 2 || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 {
		t.Fatalf("%d came", len(got))
	}
	r := newReader(t, JSON)
	standards := 0
	for _, m := range got {
		if strings.Contains(m.body, `"blocks"`) {
			if m.head[HeaderSignature] != "" {
				t.Error("the message to Slack is signed")
			}
			continue
		}
		standards++
		if _, _, err := r.verify(m.header, []byte(m.body)); err != nil {
			t.Errorf("%v: %+v", err, m)
		}
		var in struct {
			Type string
			Data map[string]any
		}
		if err := json.Unmarshal([]byte(m.body), &in); err != nil || in.Type != "approval.asked" || in.Data["approval"] != n.Approval.String() || in.Data["caller"] != "alice" || in.Data["actor"] != nil {
			t.Errorf("%v %s", err, m.body)
		}
	}
	if standards != 1 {
		t.Errorf("%d of them are Standard Webhooks", standards)
	}
}

// A world in which the other side answers as it is told, in a time that does not pass by itself.
type other struct {
	mu    sync.Mutex
	says  func(n int, r *http.Request) (int, http.Header)
	came  []time.Time
	ids   []string
	sigs  []string
	hangs bool
}

func (o *other) RoundTrip(r *http.Request) (*http.Response, error) {
	o.mu.Lock()
	o.came = append(o.came, time.Now())
	o.ids, o.sigs = append(o.ids, r.Header.Get(HeaderID)), append(o.sigs, r.Header.Get(HeaderSignature))
	n := len(o.came)
	o.mu.Unlock()
	if o.hangs {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	status, head := o.says(n, r)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: status, Header: head, Body: io.NopCloser(strings.NewReader("no"))}, nil
}

// What is not taken is tried again where that may help, at longer and longer intervals, and then lost; who notifies does not
// wait in any of these cases.
func TestTriedAgain(t *testing.T) {
	always := func(status int) func(int, *http.Request) (int, http.Header) {
		return func(int, *http.Request) (int, http.Header) { return status, nil }
	}
	for _, c := range []struct {
		name   string
		says   func(int, *http.Request) (int, http.Header)
		within time.Duration // until when the question is open
		tries  int
		lost   uint64
		least  time.Duration // from the first to the last try
		most   time.Duration
	}{
		{"taken", always(204), time.Hour, 1, 0, 0, 0},
		{"refused", always(400), time.Hour, 1, 1, 0, 0},
		{"not there", always(404), time.Hour, 1, 1, 0, 0},
		{"not wanted", always(410), time.Hour, 1, 1, 0, 0},
		{"a redirect", always(302), time.Hour, 1, 1, 0, 0},
		{"a fault that goes away", func(n int, _ *http.Request) (int, http.Header) { return []int{500, 502, 200}[n-1], nil }, time.Hour, 3, 0, 3 * time.Second, 5 * time.Second},
		{"a fault that stays", always(500), time.Hour, maxTries, 1, 2 * time.Minute, 3 * time.Minute},
		{"nobody answers", always(0), time.Hour, maxTries, 1, 2 * time.Minute, 3 * time.Minute},
		{"too many", func(n int, _ *http.Request) (int, http.Header) {
			return []int{429, 200}[n-1], http.Header{"Retry-After": {"40"}}
		}, time.Hour, 2, 0, 40 * time.Second, 40 * time.Second},
		{"for too long", func(n int, _ *http.Request) (int, http.Header) {
			return []int{503, 200}[n-1], http.Header{"Retry-After": {"86400"}}
		}, time.Hour, 2, 0, longest, longest},
		{"a question that is over", always(500), 4 * time.Second, 3, 1, 2 * time.Second, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := &other{says: c.says}
			var said bytes.Buffer
			s, err := NewSender(SenderConfig{Targets: []Target{{URL: "https://hooks.example/secret-path", Secret: plain(ourSecret)}}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			s.lines[0].client.Transport = o
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			s.Notify(gateway.Notice{Event: "asked", Until: time.Now().Add(c.within)})
			time.Sleep(time.Hour)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if len(o.came) != c.tries || s.Lost() != c.lost {
				t.Fatalf("%s: %d tries, %d lost: %s", c.name, len(o.came), s.Lost(), said.String())
			}
			if d := o.came[len(o.came)-1].Sub(o.came[0]); d < c.least || d > c.most {
				t.Errorf("%s: it took %v", c.name, d)
			}
			for i := range o.ids {
				if o.ids[i] != o.ids[0] || i > 0 && o.sigs[i] == o.sigs[i-1] {
					t.Errorf("%s: ids %q, signatures %q", c.name, o.ids, o.sigs)
				}
			}
			if strings.Contains(said.String(), "secret-path") {
				t.Errorf("%s: the URL is in what it says: %s", c.name, said.String())
			}
		})
	}
}

// The queue has an end, what one address does not take keeps nobody else, and what waits at the end has one more try.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &other{hangs: true}
		var delivered atomic.Int64
		well := &other{says: func(int, *http.Request) (int, http.Header) { delivered.Add(1); return 200, nil }}
		s, err := NewSender(SenderConfig{Targets: []Target{{URL: "https://dead.example", Kind: Slack}, {URL: "https://well.example", Kind: Slack}}})
		if err != nil {
			t.Fatal(err)
		}
		s.lines[0].client.Transport, s.lines[1].client.Transport = dead, well
		for range queued + 10 {
			s.Notify(gateway.Notice{Event: "asked", Until: time.Now().Add(time.Hour)})
		}
		if s.Lost() != 20 {
			t.Errorf("%d are lost", s.Lost())
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if n := delivered.Load(); n != queued {
			t.Errorf("%d are delivered beside an address that hangs", n)
		}
		cancel()
		synctest.Wait()
		s.Notify(gateway.Notice{Event: "denied"}) // too late for Run, and nobody waits for it
		begun := time.Now()
		if err := <-done; err != nil || time.Since(begun) > lastTime {
			t.Errorf("%v, after %v", err, time.Since(begun))
		}
	})
	for _, last := range []int{200, 500} {
		synctest.Test(t, func(t *testing.T) { testLast(t, last) })
	}
}

// testLast has one message fail, and then Run end. The other side's last answer is given.
func testLast(t *testing.T, last int) {
	o := &other{says: func(n int, _ *http.Request) (int, http.Header) { return []int{500, last}[n-1], nil }}
	s, err := NewSender(SenderConfig{Targets: []Target{{URL: "https://x.example", Kind: Slack}}})
	if err != nil {
		t.Fatal(err)
	}
	s.lines[0].client.Transport = o
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.Notify(gateway.Notice{Event: "granted"})
	synctest.Wait()
	cancel()
	if err := <-done; err != nil || len(o.came) != 2 || (s.Lost() == 0) != (last == 200) {
		t.Errorf("%v, %d tries, %d lost", err, len(o.came), s.Lost())
	}
}

// Messages go to the address that was named, and to no other.
func TestNowhereElse(t *testing.T) {
	var reached atomic.Int64
	away := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer away.Close()
	from := httptest.NewServer(http.RedirectHandler(away.URL, http.StatusTemporaryRedirect))
	defer from.Close()
	s, err := NewSender(SenderConfig{Targets: []Target{{URL: from.URL, Kind: Slack}}})
	if err != nil {
		t.Fatal(err)
	}
	if wait, err := s.lines[0].post(t.Context(), &message{body: []byte("{}")}); wait >= 0 || err == nil || !strings.Contains(err.Error(), "307") || reached.Load() != 0 {
		t.Errorf("%v %v, and %d were sent on", wait, err, reached.Load())
	}
	for _, ip := range []string{"169.254.169.254:80", "[fe80::1]:443", "[fe80::1%eth0]:443", "[::ffff:169.254.169.254]:80", "224.0.0.1:80", "0.0.0.0:80", "[::]:80", "[fd00:ec2::254]:80", "[::ffff:0.0.0.0]:80"} {
		if err := notLinkLocal("tcp", ip, nil); !errors.Is(err, errLink) {
			t.Errorf("%s: %v", ip, err)
		}
	}
	for _, ip := range []string{"127.0.0.1:80", "10.0.0.7:443", "[2001:db8::1]:443"} {
		if err := notLinkLocal("tcp", ip, nil); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	s, err = NewSender(SenderConfig{Targets: []Target{{URL: "https://169.254.169.254/latest", Kind: Slack}}})
	if err != nil {
		t.Fatal(err)
	}
	if wait, err := s.lines[0].post(t.Context(), &message{body: []byte("{}")}); wait >= 0 || !errors.Is(err, errLink) {
		t.Errorf("%v %v", wait, err)
	}
}

func TestSenderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		t          Target
	}{
		{"no URL", "URL", Target{}},
		{"another scheme", "URL", Target{URL: "ftp://secret.example/x"}},
		{"a password in it", "URL", Target{URL: "https://user:secret@hooks.example/"}},
		{"plain HTTP", "use https", Target{URL: "http://hooks.example/secret"}},
		{"no secret", "no secret", Target{URL: "https://hooks.example/secret"}},
		{"a bad secret", "whsec_", Target{URL: "https://hooks.example/secret", Secret: plain("secret")}},
		{"a secret for Slack", "not signed", Target{URL: "https://hooks.example/secret", Kind: Slack, Secret: plain(ourSecret)}},
		{"another kind", "no kind", Target{URL: "https://hooks.example/", Kind: 7}},
	} {
		_, err := NewSender(SenderConfig{Targets: []Target{c.t}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "/secret") || strings.Contains(err.Error(), ":secret") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if s, err := NewSender(SenderConfig{}); err != nil || s.Run(t.Context()) != nil {
		t.Error("a Sender to nobody")
	}
	if _, err := ParseKind("teams"); err == nil {
		t.Error("a kind that there is none of")
	}
	if k, err := ParseKind("slack"); err != nil || k != Slack {
		t.Error(k, err)
	}
}
