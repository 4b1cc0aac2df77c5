package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// What a model sends is passed on before it sends more: this one sends the next piece only when the caller has read
// the one before.
func TestLockStep(t *testing.T) {
	t.Parallel()
	sse := func(n int) (pieces []string) {
		for i := range n {
			pieces = append(pieces, fmt.Sprintf("data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", fmt.Sprint("word ", i)))
		}
		return pieces
	}
	var big []string
	for i := range 40 {
		big = append(big, strings.Repeat(string(rune('a'+i%26)), 1+(i*i*i*911)%70_000))
	}
	for _, c := range []struct {
		name, path, kind string
		pieces           []string
		end              string // comes with no need to read what was before
		sized            bool
	}{
		{"OpenAI", "/v1/chat/completions", "text/event-stream", sse(30), "data: [DONE]\n\n", false},
		{"OpenAI responses", "/v1/responses", "text/event-stream", []string{
			"event: response.created\ndata: {}\n\n", ": keep-alive\n\n", "event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n",
		}, "event: response.completed\ndata: {}\n\n", false},
		{"Anthropic", "/v1/messages", "text/event-stream; charset=utf-8", []string{
			"event: message_start\ndata: {}\n\n", "event: ping\r\ndata: {}\r\n\r\n", "event: content_block_delta\ndata: {\"a\":\ndata: 1}\n\n", ":\n", "\n",
		}, "event: message_stop\ndata: {}\n\n", false},
		{"events of another API", "/any/events", "text/event-stream", append(sse(5), "data: "+strings.Repeat("x", 100_000)+"\n\n"), "data: bye\n\n", false},
		{"lines of JSON", "/any/generate", "application/x-ndjson", []string{"{\"a\":1}\n", "{\"b\":", "2}\n", "\n"}, "{\"done\":true}\n", false},
		{"a long body of known length", "/any/file", "application/octet-stream", big, "z", true},
		{"the same on a known API", "/v1/models/x", "application/octet-stream", big, "z", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			read := make(chan struct{})
			w := newServedWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", c.kind)
				if c.sized {
					n := len(c.end)
					for _, p := range c.pieces {
						n += len(p)
					}
					if n <= wholeBytes {
						t.Errorf("%d bytes are not a long body", n)
					}
					rw.Header().Set("Content-Length", strconv.Itoa(n))
				}
				flush := http.NewResponseController(rw).Flush
				flush()
				for _, p := range c.pieces {
					io.WriteString(rw, p)
					flush()
					select {
					case <-read:
					case <-r.Context().Done():
						return
					}
				}
				io.WriteString(rw, c.end)
			}, nil)
			method, body := "POST", `{"model":"m"}`
			if c.sized {
				method, body = "GET", ""
			}
			resp, err := w.do(t.Context(), method, c.path, body)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if c.sized != (resp.ContentLength > 0) {
				t.Errorf("the length is %d", resp.ContentLength)
			}
			for i, p := range c.pieces {
				got := make([]byte, len(p))
				if n, err := io.ReadFull(resp.Body, got); err != nil || string(got) != p {
					t.Fatalf("piece %d: %v after %d bytes of %d", i, err, n, len(p))
				}
				read <- struct{}{}
			}
			if end := slurp(t, resp.Body); end != c.end {
				t.Errorf("the end is %q", end)
			}
			e, r := w.session(resp.Header.Get(SessionHeader)).last()
			if e.Outcome != record.Complete || get(r, record.FieldBody) != strings.Join(c.pieces, "")+c.end {
				t.Errorf("on record as %s with %d bytes", e.Outcome, len(get(r, record.FieldBody)))
			}
		})
	}
}

// What is over a limit ends the call: on record as that, with a refusal where nothing was passed on yet, and with a cut
// connection where something was.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, path, prompt string
		stream             bool
		limits             Limits
		status             int    // 0 for 200 and a cut
		code               string // of the refusal
	}{
		{"an answer of known length", "/v1", "/size 5000", false, Limits{Answer: 1000}, 502, "answer_too_large"},
		{"an answer in chunks", "/v1", "/raw sse-bytes /size 5000", false, Limits{Answer: 1000}, 502, "answer_too_large"},
		{"a stream", "/v1", "/endless hello", true, Limits{Answer: 100_000}, 0, ""},
		{"a stream of another API", "/any/v1", "/endless hello", true, Limits{Answer: 100_000}, 0, ""},
		{"a body of another API", "/any/v1", "/raw sse-bytes /size 50KB", false, Limits{Answer: 10_000}, 0, ""},
		{"an event", "/v1", "/events 2 /size 90000", true, Limits{Event: 20_000}, 0, ""},
		{"no head", "/v1", "/hang", false, Limits{FirstByte: 100 * time.Millisecond}, 504, "upstream_timeout"},
		{"no head of a stream", "/any/v1", "/hang", true, Limits{FirstByte: 100 * time.Millisecond}, 504, "upstream_timeout"},
		{"a silent body", "/v1", "/stall 20", false, Limits{Silence: 100 * time.Millisecond}, 504, "upstream_timeout"},
		{"a silent stream", "/v1", "/stall 3 hello out there in the world", true, Limits{Silence: 100 * time.Millisecond}, 0, ""},
		{"a silent stream of another API", "/any/v1", "/stall 3 hello out there in the world", true, Limits{Silence: 100 * time.Millisecond}, 0, ""},
		{"a body that drips", "/v1", "/drip 5ms", false, Limits{Total: 200 * time.Millisecond}, 504, "upstream_timeout"},
		{"a stream that drips", "/v1", "/drip 1ms /endless hello", true, Limits{Total: 400 * time.Millisecond}, 0, ""},
		{"a stream without an end", "/v1", "/slow 20ms /endless hello", true, Limits{Total: 300 * time.Millisecond}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) { cfg.Limits = c.limits })
			resp := w.post(c.path+"/chat/completions", chat(c.prompt, c.stream))
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if c.status == 0 {
				if resp.StatusCode != 200 || err == nil {
					t.Errorf("status %d, and a clean end after %d bytes", resp.StatusCode, len(body))
				}
				if len(body) == 0 && c.limits.Event == 0 {
					t.Error("nothing was passed on before the limit")
				}
			} else if resp.StatusCode != c.status || !strings.Contains(string(body), `"`+c.code+`"`) {
				t.Errorf("status %d: %s", resp.StatusCode, body)
			}
			e, r := w.session(resp.Header.Get(SessionHeader)).last()
			kept := get(r, record.FieldBody)
			if e.Outcome != record.Limit || !strings.HasPrefix(kept, string(body)) {
				t.Errorf("on record as %s (%s), with %d bytes of which the caller had %d", e.Outcome, get(r, record.FieldError), len(kept), len(body))
			}
			if err := w.model.Idle(t.Context()); err != nil {
				t.Error("the model was not let go of")
			}
		})
	}
}

// The record of a stream says of each event how long it was, and the parts make the whole.
func TestEventsAddUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, prompt := range []string{"hello", "/ping hello", "/drip 1us hello", "/raw sse-torn hello", "/raw sse-crlf hello", "/raw sse-cr hello", "/raw sse-bom hello", "/raw sse-bytes hello", "/raw sse-comments hello"} {
		resp := w.post("/v1/chat/completions", chat(prompt, true))
		body := slurp(t, resp.Body)
		_, r := w.session(resp.Header.Get(SessionHeader)).last()
		sum := 0
		for _, pair := range strings.Split(strings.Trim(get(r, record.FieldEvents), "[]"), "],[") {
			n, _, _ := strings.Cut(pair, ",")
			i, err := strconv.Atoi(n)
			if err != nil {
				t.Fatalf("%s: the table has %q", prompt, pair)
			}
			sum += i
		}
		if kept := get(r, record.FieldBody); kept != body || sum != len(body) {
			t.Errorf("%s: %d bytes were passed on, %d are on record, %d in the table", prompt, len(body), len(kept), sum)
		}
	}
}

// A caller that says HTTP/1.0 is answered in HTTP/1.1, streams in chunks, and gets no clean end of one that is cut. Those
// that say so are proxies, and read that.
func TestOldCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, c := range []struct {
		prompt string
		stream bool
		whole  bool
	}{{"hello", false, true}, {"hello", true, true}, {"/fin 3 hello out there in the world", true, false}} {
		conn := w.dial()
		send(t, conn, strings.Replace(request("POST", "/v1/chat/completions", chat(c.prompt, c.stream)), "HTTP/1.1", "HTTP/1.0", 1))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if !resp.Close || (err == nil) != c.whole {
			t.Errorf("%s: close %v, and an end with %v after %d bytes", c.prompt, resp.Close, err, len(body))
		}
	}
}
