package replay

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

func target(t *testing.T, raw string) Target {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Target{URL: u}
}

// What is sent again is what was sent then, but for what was nobody else's: the credential is the one that is given, the host the
// target's, and what named that call does not name this one.
func TestAgainSends(t *testing.T) {
	var got *http.Request
	var body string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, says("ok"))
	}))
	defer s.Close()
	chat := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("ok")}
	for _, c := range []struct {
		recorded, base, path, want string
		anthropic                  bool
	}{
		{chatPath, "", "", chatPath, false},
		{chatPath, "/", "", chatPath, false},
		{chatPath, "/v1", "", chatPath, false},
		{chatPath, "/v1/", "", chatPath, false},
		{"/openai" + chatPath + "?api=2", "/v1", "", chatPath + "?api=2", false},
		{"/openai" + chatPath, "/sandbox", "", "/sandbox" + chatPath, false},
		{"/claude/v1/messages", "", "", "/v1/messages", true},
		{"/v1/proxy" + chatPath, "", "", chatPath, false},
		{"/ours/generate", "/x", "", "/x/ours/generate", false},
		{"/ours/generate", "/x", "/generate", "/x/generate", false},
	} {
		w := chat
		w.target, w.anthropic = c.recorded, c.anthropic
		to := target(t, s.URL+c.base)
		to.Path, to.Credential = c.path, "sk-sandbox"
		again, err := Again(t.Context(), nil, w.session(t), to)
		if err != nil {
			t.Fatalf("%s: %v", c.recorded, err)
		}
		if got.URL.RequestURI() != c.want || body != w.ask || got.Method != "POST" {
			t.Errorf("%s at %s: %s %s %s", c.recorded, c.base, got.Method, got.URL, body)
		}
		shown := map[bool]string{true: got.Header.Get("X-Api-Key"), false: got.Header.Get("Authorization")}
		if shown[c.anthropic] != map[bool]string{true: "sk-sandbox", false: "Bearer sk-sandbox"}[c.anthropic] || shown[!c.anthropic] != "" {
			t.Errorf("%s: shown %v", c.recorded, shown)
		}
		if h := got.Header; h.Get("Idempotency-Key") != "" || h.Get("Openai-Key") != "" || h.Get("Openai-Beta") != "x=1" || h.Get("Content-Type") != "application/json" || h.Get("Accept-Encoding") != "identity" {
			t.Errorf("%v", h)
		}
		if again.Answer.Status != 200 || len(again.Entries) != 0 {
			t.Errorf("%+v", again)
		}
	}
	if _, err := Again(t.Context(), nil, chat.session(t), target(t, s.URL)); err != nil {
		t.Fatal(err)
	}
	if h := got.Header; h.Get("Authorization") != "" || h.Get("X-Api-Key") != "" {
		t.Errorf("no credential was given, and %v was shown", h)
	}
}

// What an answer is like is read as one on record is, with the times at which its events came.
func TestAgainReads(t *testing.T) {
	chat := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams("a", "b"), finish: "[DONE]", events: []time.Duration{0, 0, 0, 0}}
	session := chat.session(t)
	synctest.Test(t, func(t *testing.T) {
		client := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			out := http.NewResponseController(w)
			out.Flush()
			for i, e := range strings.SplitAfter(strings.TrimSuffix(streams("a", "b"), "\n\n"), "\n\n") {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				io.WriteString(w, strings.TrimSuffix(e, "\n\n"))
				out.Flush()
				time.Sleep(time.Millisecond)
				io.WriteString(w, "\n\n")
				out.Flush()
			}
		}))
		again, err := Again(t.Context(), client, session, target(t, "http://sandbox.example/v1"))
		if err != nil {
			t.Fatal(err)
		}
		if again.Times.FirstByte() != time.Second || again.Times.Duration() != time.Second+64*time.Millisecond || len(again.Events) != 4 {
			t.Errorf("first %v, %v in all, %d events", again.Times.FirstByte(), again.Times.Duration(), len(again.Events))
		}
		for i, want := range []time.Duration{1, 12, 33, 64} {
			if again.Events[i].At != want*time.Millisecond {
				t.Errorf("event %d at %v", i, again.Events[i].At)
			}
		}
		if again.Reply() != "ab" || again.Outcome != record.Complete || !again.Session.IsZero() {
			t.Errorf("%+v", again)
		}
		d := Compare(transcript.Of(session), again)
		if want := `header, "Content-Type"`; len(d.Differences) != 1 || !strings.HasPrefix(d.First.String(), want) { // its charset
			t.Errorf("%+v", d.Differences)
		}
	})
}

// What cannot be sent is not, and says why; what comes back is taken as it is, and bounded.
func TestAgainBounds(t *testing.T) {
	asked := 0
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch body, _ := io.ReadAll(r.Body); {
		case r.URL.Path == "/elsewhere":
			t.Error("it was followed")
		case strings.Contains(string(body), "redirect"):
			http.Redirect(w, r, s.URL+"/elsewhere", http.StatusTemporaryRedirect)
		case strings.Contains(string(body), "endless"):
			w.Header().Set("Content-Type", "text/event-stream")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, ": %d\n", i); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		case strings.Contains(string(body), "silent"):
			<-r.Context().Done()
		case strings.Contains(string(body), "stalls"):
			io.WriteString(w, "{")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case strings.Contains(string(body), "cut"):
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, strings.TrimSuffix(streams("a"), "data: [DONE]\n\n"))
			http.NewResponseController(w).Flush()
			if strings.Contains(string(body), "off") {
				panic(http.ErrAbortHandler)
			}
		default:
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, says("x"))
		}
	}))
	defer s.Close()
	w := told{target: chatPath, model: "m-1", status: 200, head: jsonHead, answer: says("x")}
	send := func(prompt string, change func(*Target)) (*transcript.Transcript, error) {
		t.Helper()
		w.ask = asks("m-1", prompt, false)
		to := target(t, s.URL)
		to.Bytes = 100_000
		if change != nil {
			change(&to)
		}
		return Again(t.Context(), nil, w.session(t), to)
	}
	again, err := send("redirect", nil)
	if err != nil || again.Answer.Status != 307 || !slices.ContainsFunc(again.Notes, func(n string) bool { return strings.Contains(n, "not followed") }) {
		t.Errorf("%v %+v", err, again)
	}
	for prompt, want := range map[string]string{"endless": "over the limit", "stalls": "too long", "cut": "stopped before its protocol's end", "cut off": "cut before"} {
		again, err := send(prompt, func(to *Target) {
			if prompt == "stalls" {
				to.Time = 200 * time.Millisecond
			}
		})
		for limit := time.Second; err != nil && prompt == "stalls" && limit < time.Minute; limit *= 2 { // the head came too late already
			again, err = send(prompt, func(to *Target) { to.Time = limit })
		}
		if err != nil || again.Outcome != record.Truncated || !strings.Contains(again.Answer.Error, want) || len(again.Answer.Body) > 100_000 || Compare(again, again).A.End != "cut" {
			t.Errorf("%s: %v %+v", prompt, err, again)
		}
	}
	if _, err := send("silent", func(to *Target) { to.Time = 100 * time.Millisecond }); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("silent: %v", err)
	}
	// Of what is masked it says that it is not what was sent.
	again, err = send("card ⟦CARD:a⟧", nil)
	if err != nil || !slices.ContainsFunc(again.Notes, func(n string) bool { return strings.Contains(n, "masked") }) {
		t.Errorf("%v %+v", err, again)
	}
	before := asked
	w.upstream = s.URL
	if _, err := send("hi", nil); !errors.Is(err, ErrUpstream) {
		t.Errorf("the service itself: %v", err)
	}
	w.upstream = "HTTP://EXAMPLE.com:80/v1"
	if _, err := send("hi", func(to *Target) { to.URL, _ = url.Parse("http://example.COM") }); !errors.Is(err, ErrUpstream) {
		t.Errorf("the service itself: %v", err)
	}
	if _, err := send("hi", func(to *Target) { to.URL, _ = url.Parse("http://example.com.") }); !errors.Is(err, ErrUpstream) {
		t.Errorf("the service itself, by its whole name: %v", err)
	}
	w.upstream = ""
	for _, bad := range []string{"", "/x", "ftp://x", "http://", "http://u:p@127.0.0.1", "http://127.0.0.1/?a=1", "http://127.0.0.1/#a"} {
		if _, err := send("hi", func(to *Target) { to.URL, _ = url.Parse(bad) }); err == nil || !strings.Contains(err.Error(), "is a base URL") {
			t.Errorf("%q is a target", bad)
		}
	}
	packed := w
	packed.ask = "(left out: it is packed, and could not be masked)"
	if _, err := Again(t.Context(), nil, packed.session(t), target(t, s.URL)); !errors.Is(err, ErrRequest) {
		t.Errorf("packed: %v", err)
	}
	gone := w.session(t)
	gone.Entries = slices.Clone(gone.Entries)
	gone.Entries[0].Fields = nil
	if _, err := Again(t.Context(), nil, gone, target(t, s.URL)); !errors.Is(err, ErrRequest) {
		t.Errorf("erased: %v", err)
	}
	if asked != before {
		t.Errorf("it was sent %d times that should not be", asked-before)
	}
	w.upstream = s.URL
	if _, err := send("hi", func(to *Target) { to.Upstream = true }); err != nil || asked != before+1 {
		t.Errorf("the service, meant: %v", err)
	}
}

// A mock of a session answers its request, sent again, without a difference.
func TestAgainToMock(t *testing.T) {
	cut := told{
		target: "/v1/messages", model: "m-2", anthropic: true, ask: asks("m-2", "cut", true), status: 200, head: streamHead,
		answer: "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"a\",\"role\":\"assistant\",\"model\":\"m-2\",\"usage\":{\"input_tokens\":3}}}\n\n",
		events: []time.Duration{0}, outcome: record.Truncated, err: "cut",
	}
	for _, w := range []told{
		{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("hello")},
		{target: "/openai" + chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams("a", "b"), events: []time.Duration{0, 1000, 2000, 3000}, finish: "[DONE]"},
		{target: chatPath, model: "m-1", ask: asks("m-1", "limit", false), status: 429, head: [][2]string{{"Content-Type", "application/json"}, {"Retry-After", "1"}}, answer: `{"error":{"message":"slow"}}`},
		{target: "/v1/messages", model: "m-2", anthropic: true, ask: asks("m-2", "hi", false), status: 200, head: jsonHead, answer: message("a", "w", `{"x":[1]}`)},
		{target: "/any/thing?q=1", ask: "x=1", status: 201, head: [][2]string{{"Content-Type", "text/plain"}}, answer: "made"},
		{target: chatPath, model: "m-1", ask: asks("m-1", "no", false), status: 403, refused: "refused_by_rule", err: "that is not allowed"},
		{target: chatPath, model: "m-1", ask: asks("m-1", "no", false), status: 403, answer: `{"type":"error","error":{"message":"no"}}`, outcome: record.Denied, err: "no"},
		cut,
	} {
		session := w.session(t)
		s := mock(t, MockConfig{NoDelay: true}, session)
		again, err := Again(t.Context(), nil, session, target(t, s.URL))
		if err != nil {
			t.Fatal(err)
		}
		if d := Compare(transcript.Of(session), again); !d.Same || !d.Exact {
			t.Errorf("%s: %+v\n%s", w.target, d.Differences, again.Answer.Body)
		}
	}
}

// However a stream comes, its events are told apart in the same places.
func FuzzSplitter(f *testing.F) {
	f.Add("data: a\n\ndata: b\r\n\r\n: c\r\rd\r\n\n\n\n", uint8(3))
	f.Fuzz(func(t *testing.T, stream string, step uint8) {
		split := func(n int) (ends []int) {
			var s splitter
			for at := 0; at < len(stream); {
				at = min(at+n, len(stream))
				for {
					end := s.next([]byte(stream[:at]))
					if end == 0 {
						break
					}
					if len(ends) > 0 && end <= ends[len(ends)-1] || end > at {
						t.Fatalf("%q: %d after %v", stream, end, ends)
					}
					ends = append(ends, end)
				}
			}
			return ends
		}
		if a, b := split(len(stream)+1), split(int(step)+1); !slices.Equal(a, b) {
			t.Errorf("%q: %v at once, %v in steps of %d", stream, a, b, step+1)
		}
	})
}

// Whatever target a caller wrote, the request, and with it the credential, goes to the sandbox that was named.
func TestAgainGoesNowhereElse(t *testing.T) {
	to := &url.URL{Scheme: "http", Host: "sandbox.example:8000"}
	for target, want := range map[string]string{
		"/chat": "/chat", "@evil.example/chat": "/@evil.example/chat", ":p@evil.example/chat": "/:p@evil.example/chat", ".evil.example/chat": "/.evil.example/chat",
		"http://evil.example/chat": "/http://evil.example/chat", "//evil.example/chat": "//evil.example/chat", "*": "/*", "@evil.example/v1/chat": "/v1/chat",
	} {
		for _, path := range []string{"", "/sandbox"} {
			to := *to
			to.Path = path
			one := told{target: target, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("x")}
			req, _, err := requestOf(transcript.Of(one.session(t)), Target{URL: &to, Credential: "secret"})
			if err != nil {
				t.Errorf("%q: %v", target, err)
				continue
			}
			if u := req.URL; u.Host != to.Host || u.User != nil || u.Path != path+want {
				t.Errorf("%q to %s goes to %s", target, &to, u)
			}
		}
	}
}
