package gateway

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// A model that sends the service credential back finds it struck out, wherever it put it. That it stands in no record, no
// journal and no line of the gateway's own the world's audit looks for in every test.
func TestCredentialIsStruckOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	messages := func(prompt string, stream bool) string {
		return fmt.Sprintf(`{"model":"fake-1","max_tokens":99,"stream":%v,"messages":[{"role":"user","content":%q}]}`, stream, prompt)
	}
	for _, c := range []struct{ path, body string }{
		{"/v1/chat/completions", chat("/echo-auth", false)},
		{"/v1/chat/completions", chat("/echo-auth", true)},
		{"/v1/chat/completions", chat("/echo-auth /drip 1us", true)},
		{"/v1/chat/completions", chat("/echo-auth /error 400", false)},
		{"/v1/chat/completions", chat("/echo-auth /error 401", true)},
		{"/v1/chat/completions", chat("/echo-auth /error-mid 14", true)},
		{"/v1/chat/completions", chat("/echo-auth /raw sse-bytes", true)},
		{"/v1/chat/completions", chat("/echo-auth /raw sse-torn", true)},
		{"/v1/chat/completions", chat("/echo-auth /raw sse-cr", true)},
		{"/v1/chat/completions", chat("/echo-auth /raw sse-one-chunk", false)},
		{"/v1/responses", `{"model":"fake-1","input":"/echo-auth"}`},
		{"/v1/responses", `{"model":"fake-1","stream":true,"input":"/echo-auth"}`},
		{"/v1/completions", `{"model":"fake-1","stream":true,"prompt":"/echo-auth"}`},
		{"/v1/messages", messages("/echo-auth", false)},
		{"/v1/messages", messages("/echo-auth", true)},
		{"/v1/messages", messages("/echo-auth /error 529", true)},
		{"/any/v1/chat/completions", chat("/echo-auth", false)},
		{"/any/v1/chat/completions", chat("/echo-auth", true)},
		{"/any/v1/chat/completions", chat("/echo-auth /raw sse-bytes", false)},
		{"/any/v1/chat/completions", chat("/echo-auth /raw sse-torn", false)},
		{"/any/v1/messages", messages("/echo-auth /drip 1us", true)},
	} {
		resp := w.post(c.path, c.body)
		all, err := httputil.DumpResponse(resp, true)
		if err != nil {
			t.Fatalf("%s %s: %v", c.path, c.body, err)
		}
		if i := strings.Index(string(all), canary); i >= 0 {
			t.Errorf("%s %s: the caller was given the credential: …%q", c.path, c.body, all[max(0, i-40):])
		}
		_, r := w.session(resp.Header.Get(SessionHeader)).last()
		stars := strings.Count(string(all), strings.Repeat("*", len(canary)))
		if n, _ := strconv.Atoi(get(r, record.FieldRedacted)); n < 1 || n < stars {
			t.Errorf("%s %s: struck out %d times, %d seen by the caller:\n%s", c.path, c.body, n, stars, all)
		}
	}
}

// Where an answer comes in pieces, the credential is struck out wherever it is split, and what goes before a cut in it
// tells nothing of the rest.
func TestCredentialInPieces(t *testing.T) {
	t.Parallel()
	next := make(chan gatewaytest.Wire, 1)
	w := newRawWorld(t, func(*gatewaytest.Model, *http.Request) gatewaytest.Wire { return <-next }, nil)
	r := w.g.routes.match("/any/x")
	telling := r.telling()
	text := "it is sk-can, no: " + canary + ", or s, or sk-ca" + canary + canary[:telling-1] + " or " + canary
	struck := strings.ReplaceAll(text, canary, strings.Repeat("*", len(canary)))
	for _, c := range []struct{ name, path, head string }{
		{"a stream of bytes", "/any/x", "Content-Type: text/plain"},
		{"events", "/any/x", "Content-Type: text/event-stream"},
		{"events that end", "/v1/chat/completions", "Content-Type: text/event-stream"},
	} {
		events := strings.Contains(c.head, "event")
		whole, want := text, struck
		if events {
			whole, want = "data: "+text+"\n\n", "data: "+struck+"\n\n"
		}
		if strings.HasPrefix(c.path, "/v1") {
			whole, want = whole+"data: [DONE]\n\n", want+"data: [DONE]\n\n"
		}
		chunk := func(s string) string {
			if s == "" {
				return ""
			}
			return fmt.Sprintf("%x\r\n%s\r\n", len(s), s)
		}
		head := "HTTP/1.1 200 OK\r\n" + c.head + "\r\nTransfer-Encoding: chunked\r\n\r\n"
		for at := range len(whole) + 1 {
			// In two pieces, so far apart that they are read as two.
			next <- gatewaytest.Wire{Parts: [][]byte{[]byte(head + chunk(whole[:at])), []byte(chunk(whole[at:]) + "0\r\n\r\n")}, Pause: 200e3, End: gatewaytest.Keep}
			resp := w.post(c.path, `{}`)
			got := slurp(t, resp.Body)
			if got != want {
				if len(got) != len(want) || strings.Contains(got, canary[telling:]) {
					t.Fatalf("%s, split at %d: %q", c.name, at, got)
				}
				// The little that tells nothing was gone already when the rest came.
				for i := range got {
					if got[i] != want[i] && got[i] != whole[i] {
						t.Fatalf("%s, split at %d: %q", c.name, at, got)
					}
				}
				if n := strings.Count(want, "*") - strings.Count(got, "*"); n >= telling {
					t.Fatalf("%s, split at %d: %d bytes of the credential: %q", c.name, at, n, got)
				}
			}
			// Cut.
			next <- gatewaytest.Wire{Parts: [][]byte{[]byte(head + chunk(whole[:at]))}, End: gatewaytest.Close}
			resp = w.post(c.path, `{}`)
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				t.Fatalf("%s, cut at %d: a clean end", c.name, at)
			}
			for k := len(canary); k >= telling; k-- {
				if strings.HasSuffix(string(b), canary[:k]) && !strings.HasSuffix(struck, canary[:k]) {
					t.Fatalf("%s, cut at %d: %d bytes of the credential: %q", c.name, at, k, b)
				}
			}
			if strings.Contains(string(b), canary) {
				t.Fatalf("%s, cut at %d: the credential: %q", c.name, at, b)
			}
		}
	}
}

// The credential in the parts of an answer that are not its body, and in what cannot be read at all.
func TestCredentialAroundTheBody(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	answers := []string{
		ok + "X-Request-Id: " + canary + "\r\nContent-Length: 2\r\n\r\n{}",
		ok + "X-Echo: a " + canary + " and " + canary + "\r\nX-Echo: " + canary + "\r\nContent-Length: 2\r\n\r\n{}",
		ok + "X-" + canary + ": 1\r\nContent-Length: 2\r\n\r\n{}",
		ok + "Openai-" + canary + ": 1\r\nContent-Length: 2\r\n\r\n{}",
		ok + "Link: <https://x/?key=" + canary + ">\r\nContent-Type: application/json; k=" + canary + "\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 " + canary + "\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 302 Found\r\nLocation: http://x/" + canary + "\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: " + canary + "\r\n\r\n" + ok + "Content-Length: 2\r\n\r\n{}",
		ok + "Trailer: X-Echo\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Echo: " + canary + "\r\n\r\n",
		"HTTP/1.1 " + canary + "\r\n\r\n",
		canary + "\r\n\r\n",
		ok + canary + "\r\n\r\n",
		ok + "Transfer-Encoding: " + canary + "\r\n\r\n",
		ok + "Content-Length: " + canary + "\r\n\r\n",
		ok + "Content-Length: 2\r\nContent-Length: " + canary + "\r\n\r\n{}",
		ok + "Transfer-Encoding: chunked\r\n\r\n" + canary + "\r\n{}\r\n0\r\n\r\n",
	}
	w := newRawWorld(t, func(_ *gatewaytest.Model, r *http.Request) gatewaytest.Wire {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		return gatewaytest.Wire{Parts: [][]byte{[]byte(answers[n])}, End: gatewaytest.Close}
	}, func(cfg *Config) {
		for i := range cfg.Routes {
			cfg.Routes[i].Return = []string{"X-Echo", "X-" + canary}
		}
	})
	for i, answer := range answers {
		for _, path := range []string{"/v1/chat/completions", "/any/x"} {
			resp := w.post(fmt.Sprint(path, "?", i), `{}`)
			head, err := httputil.DumpResponse(resp, false)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if all := strings.ToLower(string(head) + string(body)); strings.Contains(all, canary) {
				t.Errorf("%q on %s: the caller was given the credential:\n%s", answer, path, all)
			}
			k := w.session(resp.Header.Get(SessionHeader))
			for _, r := range k.records {
				for _, f := range r {
					if strings.Contains(strings.ToLower(string(f.Value)), canary) {
						t.Errorf("%q on %s: on record: %s: %s", answer, path, f.Name, f.Value)
					}
				}
			}
		}
	}
	if said := strings.ToLower(w.said.String()); strings.Contains(said, canary) {
		t.Errorf("the gateway said it:\n%s", said)
	}
}

// A credential that JSON spells otherwise is struck out in that spelling too.
func TestCredentialAsJSONSpellsIt(t *testing.T) {
	t.Parallel()
	const odd = `pa"ss/wo\rd<&>=end`
	next := make(chan string, 1)
	w := newRawWorld(t, func(*gatewaytest.Model, *http.Request) gatewaytest.Wire {
		body := <-next
		return gatewaytest.Wire{Parts: [][]byte{fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)}, End: gatewaytest.Keep}
	}, func(cfg *Config) { cfg.Routes[0].Credential = plain(odd) })
	for _, spelled := range []string{odd, `pa\"ss/wo\\rd<&>=end`, `pa\"ss/wo\\rd\u003c\u0026\u003e=end`, `pa\"ss\/wo\\rd<&>=end`, `pa\"ss\/wo\\rd\u003c\u0026\u003e=end`} {
		next <- `{"key":"` + spelled + `"}`
		if got, want := slurp(t, w.post("/v1/chat/completions", `{}`).Body), `{"key":"`+strings.Repeat("*", len(spelled))+`"}`; got != want {
			t.Errorf("%s: %s", spelled, got)
		}
	}
}
