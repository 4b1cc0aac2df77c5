package gateway

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// An answer is what a model would have said to a call, as the bytes of a connection.
type wireAnswer struct {
	name, path, body string
	wire             []byte
	whole            string // the body
	framing          string
}

// answers are real answers of every API, each in every framing that HTTP has for it.
func answers(t *testing.T) (all []wireAnswer) {
	t.Helper()
	model := gatewaytest.New(gatewaytest.Config{})
	tools := `"tools":[{"type":"function","function":{"name":"look","parameters":{"properties":{"at":{"type":"string"}}}}}]`
	for _, c := range []struct{ name, path, body string }{
		{"chat", "/v1/chat/completions", chat("/say yes", false)},
		{"chat stream", "/v1/chat/completions", chat("/say a b", true)},
		{"chat stream with usage and a tool", "/v1/chat/completions", `{"model":"fake-1","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"/tool look here"}],` + tools + `}`},
		{"completion stream", "/v1/completions", `{"model":"fake-1","stream":true,"prompt":"/say a b"}`},
		{"responses", "/v1/responses", `{"model":"fake-1","input":"/say a"}`},
		{"responses stream", "/v1/responses", `{"model":"fake-1","stream":true,"input":"/say a"}`},
		{"embeddings", "/v1/embeddings", `{"model":"fake-embed-1","encoding_format":"base64","dimensions":8,"input":"a"}`},
		{"messages", "/v1/messages", `{"model":"fake-1","max_tokens":9,"messages":[{"role":"user","content":"/say a"}]}`},
		{"messages stream", "/v1/messages", `{"model":"fake-1","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"/say a"}]}`},
		{"chat of another API", "/any/v1/chat/completions", chat("/say yes", false)},
		{"chat stream of another API", "/any/v1/chat/completions", chat("/say yes", true)},
	} {
		r, err := http.NewRequest("POST", "http://model"+strings.TrimPrefix(c.path, "/any"), strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Anthropic-Version", "2023-06-01")
		parts := model.Answer(r).Parts
		resp, err := http.ReadResponse(bufioOf(bytes.Join(parts, nil)), r)
		if err != nil {
			t.Fatal(err)
		}
		body := slurp(t, resp.Body)
		kind := resp.Header.Get("Content-Type")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: status %d: %s", c.name, resp.StatusCode, body)
		}
		head := "HTTP/1.1 200 OK\r\nContent-Type: " + kind + "\r\n"
		add := func(framing, wire string) {
			all = append(all, wireAnswer{c.name + ", " + framing, c.path, c.body, []byte(wire), body, framing})
		}
		var chunks strings.Builder
		for rest := body; rest != ""; {
			n := min(len(rest), 97)
			fmt.Fprintf(&chunks, "%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		add("chunked", head+"Transfer-Encoding: chunked\r\n\r\n"+chunks.String()+"0\r\n\r\n")
		if !strings.Contains(kind, "event-stream") || strings.HasPrefix(c.path, "/any") {
			add("of known length", head+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
		}
		if !strings.HasPrefix(c.path, "/any") || !strings.Contains(kind, "event-stream") {
			add("ended by the connection", head+"Connection: close\r\n\r\n"+body)
		}
	}
	return all
}

var everyByte = flag.Bool("every", false, "cut every answer at every byte, and not only one in each framing: a minute and a half")

// Answers that are cut at any byte, by an end or by a reset, are never complete: not on record, and not for the caller.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	all := answers(t)
	w := newRawWorld(t, func(_ *gatewaytest.Model, r *http.Request) gatewaytest.Wire {
		q := r.URL.Query()
		i, _ := strconv.Atoi(q.Get("answer"))
		at, _ := strconv.Atoi(q.Get("at"))
		end := gatewaytest.Close
		if q.Get("end") == "reset" {
			end = gatewaytest.Reset
		}
		return gatewaytest.Wire{Parts: [][]byte{all[i].wire[:at]}, End: end}
	}, nil)

	type cut struct {
		answer, at int
		end        string
	}
	var mu sync.Mutex
	made := make(map[string]cut)
	cuts := make(chan cut)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for c := range cuts {
				a := &all[c.answer]
				resp, err := w.do(context.Background(), "POST", fmt.Sprintf("%s?answer=%d&at=%d&end=%s", a.path, c.answer, c.at, c.end), a.body)
				if err != nil {
					t.Errorf("%s at %d by %s: %v", a.name, c.at, c.end, err)
					continue
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				whole := resp.StatusCode == 200 && err == nil
				if want := c.at == len(a.wire) && c.end == "close"; want && (!whole || string(got) != a.whole) {
					t.Errorf("%s, whole: status %d, %v: %q", a.name, resp.StatusCode, err, got)
				} else if !want && whole {
					t.Errorf("%s, %d of %d bytes, then a %s: the caller was given a clean end of %q", a.name, c.at, len(a.wire), c.end, got)
				} else if resp.StatusCode == 200 && !strings.HasPrefix(a.whole, string(got)) {
					t.Errorf("%s at %d: the caller was given %q", a.name, c.at, got)
				}
				mu.Lock()
				made[resp.Header.Get(SessionHeader)] = c
				mu.Unlock()
			}
		})
	}
	n := 0
	for i := range all {
		every := *everyByte
		switch all[i].name {
		case "chat, of known length", "chat stream, chunked", "messages stream, ended by the connection":
			every = true
		}
		for at := range len(all[i].wire) + 1 {
			if !every && at%23 != i%23 && at < len(all[i].wire)-24 {
				continue
			}
			cuts <- cut{i, at, "close"}
			n++
			if at%7 == i%7 && at < len(all[i].wire) {
				cuts <- cut{i, at, "reset"}
				n++
			}
		}
	}
	close(cuts)
	callers.Wait()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	outcomes := make(map[record.Outcome]int)
	for _, e := range w.entries() {
		if e.Kind != record.Response {
			continue
		}
		c, ok := made[e.Session.String()]
		if !ok {
			t.Fatalf("the session %s was nobody's", e.Session)
		}
		a := &all[c.answer]
		if (e.Outcome == record.Complete) != (c.at == len(a.wire) && c.end == "close") {
			t.Errorf("%s, %d of %d bytes, then a %s: on record as %s", a.name, c.at, len(a.wire), c.end, e.Outcome)
		}
		outcomes[e.Outcome]++
		delete(made, e.Session.String())
	}
	if len(made) > 0 {
		t.Errorf("%d calls are not on record", len(made))
	}
	t.Logf("%d answers in %d framings, %d cuts: %v", 11, len(all), n, outcomes)
}
