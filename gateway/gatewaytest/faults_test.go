package gatewaytest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What net/http's client makes of every fault: it gets what is to pass, and never takes what is to be refused for a
// whole answer. So the table asks of a gateway no more than a sound client can give.
func TestFaults(t *testing.T) {
	w := start(t, Config{})
	names := make(map[string]bool)
	for _, f := range Faults() {
		if names[f.Name] || f.Does == "" || strings.ContainsAny(f.Name, " \t") {
			t.Errorf("%q: not a name, or not alone with it", f.Name)
		}
		names[f.Name] = true
		t.Run(f.Name, func(t *testing.T) {
			for _, stream := range []bool{true, false} {
				if !stream && strings.HasPrefix(f.Name, "sse-") {
					continue
				}
				r := w.request(apis[0].path, apis[0].body("/raw "+f.Name+" /say one two three", stream))
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				if f.Name == "silent" || f.Name == "head-only" {
					time.AfterFunc(50*time.Millisecond, cancel)
				}
				res, body, err := w.do(r.WithContext(ctx))
				cancel()
				whole := err == nil && res.StatusCode == 200 && apis[0].text(body) == "one two three" && (!stream || strings.Contains(body, apis[0].done))
				switch {
				case f.Want == Pass && (err != nil || res.StatusCode != 200):
					t.Errorf("stream %v: %v %s", stream, err, body)
				case f.Want == Pass && !whole && f.Name != "gzip" && f.Name != "sse-cr" && f.Name != "sse-crlf":
					t.Errorf("stream %v: %s", stream, body)
				case f.Want == Refuse && whole:
					t.Errorf("stream %v: taken for a whole answer", stream)
				}
				// The Model lives on. On the same connection net/http may give the next caller what lies there:
				// it looks for unsolicited bytes, but a request may come before it has looked.
				w.client.CloseIdleConnections()
				if _, next := w.call(apis[0].path, apis[0].body("/say next", false)); apis[0].text(next) != "next" {
					t.Errorf("the next call got %s", next)
				}
			}
		})
	}
}

// The fault that made fasthttp's client hand one caller another's answer: the connection stays open, the stray
// answer lies on it, and the requests after it are answered on it too.
func TestExtraAnswer(t *testing.T) {
	w := start(t, Config{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var all []byte
	send := func(prompt, until string) {
		r := w.request(apis[0].path, apis[0].body(prompt, false))
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		for !bytes.Contains(all, []byte(until)) {
			b := make([]byte, 4096)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("%v after %s", err, all)
			}
			all = append(all, b[:n]...)
		}
	}
	send("/raw extra /say alice", `{"stray":"unsolicited"}`)
	send("/say bob", `"content":"bob"`)
	send("/say carol", `"content":"carol"`)
	if n := bytes.Count(all, []byte("HTTP/1.1 200 OK\r\n")); n != 4 {
		t.Errorf("%d answers to 3 requests, want 4", n)
	}
	_ = conn.Close()
	if err := w.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.Count() != 3 {
		t.Errorf("%d requests counted", w.Count())
	}
}

// RunRaw with the proper answer of each API, cut at every byte by FIN, and here and there by a reset: the client
// never sees a whole answer unless it got every byte.
func TestRawCutEverywhere(t *testing.T) {
	w := startRun(t, Config{}, func(m *Model, ctx context.Context, ln net.Listener) error {
		return m.RunRaw(ctx, ln, func(r *http.Request) Wire {
			whole := m.Answer(r).Bytes()
			cut, err := strconv.Atoi(r.Header.Get("X-Cut"))
			if err != nil {
				return Wire{Parts: [][]byte{whole}, End: Keep}
			}
			out := Wire{Parts: [][]byte{whole[:min(cut, len(whole))]}}
			if r.Header.Get("X-Reset") != "" {
				out.End = Reset
			}
			return out
		})
	})
	w.client.Transport.(*http.Transport).DisableKeepAlives = true
	for _, a := range apis {
		cuts := 0
		for _, c := range []struct {
			reset string
			step  int
		}{{"", 1}, {"1", 41}} {
			for cut := 0; cut < 1<<15; cut += c.step {
				r := w.request(a.path, a.body("/say a", true), a.header...)
				r.Header.Set("X-Cut", strconv.Itoa(cut))
				r.Header.Set("X-Reset", c.reset)
				res, body, err := w.do(r)
				if err == nil {
					if !strings.Contains(body, a.done) || res.StatusCode != 200 {
						t.Fatalf("%s cut at %d: no error, and %q", a.name, cut, body)
					}
					break
				}
				cuts++
			}
		}
		if cuts < 500 {
			t.Errorf("%s: whole after %d cuts", a.name, cuts)
		}
		t.Logf("%s: %d cuts, none taken for whole", a.name, cuts)
	}
	last, ok := w.Last()
	if !ok || !bytes.HasPrefix(last.Head, []byte("POST /v1/messages HTTP/1.1\r\nHost: ")) || !bytes.HasSuffix(last.Head, []byte("\r\n\r\n")) {
		t.Errorf("head %q", last.Head)
	}
}

func TestRawRequests(t *testing.T) {
	w := startRun(t, Config{MaxBody: 100}, func(m *Model, ctx context.Context, ln net.Listener) error {
		return m.RunRaw(ctx, ln, func(r *http.Request) Wire {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			return Wire{Parts: [][]byte{[]byte("HTTP/1.1 200 OK\r\nContent-Length: "), []byte("4\r\n\r\n"), []byte(string(body)[:4])}, Pause: time.Millisecond, End: Keep}
		})
	})
	talk := func(in string) string {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, in); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		out, _ := io.ReadAll(conn)
		return string(out)
	}
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
	for _, c := range []struct{ name, in, want string }{
		{"length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", ok + "abcd"},
		{"chunks and another", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\nX: 1\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n1234", ok + "abcd" + ok + "1234"},
		{"short body", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc", ""},
		{"long body", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n" + strings.Repeat("x", 101), ""},
		{"no request", "hello\r\n\r\n", ""},
		{"half a head", "POST /a HTTP/1.1\r\nHost", ""},
		{"endless head", "POST /a HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead), ""},
	} {
		if got := talk(c.in); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if w.Count() != 3 {
		t.Errorf("%d requests counted, want 3", w.Count())
	}
}
