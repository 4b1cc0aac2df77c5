package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// What must be masked, in every spelling that is promised, goes through a strict gateway in every place of a call, at once,
// streaming, refused, and interrupted when the gateway stops. Then it is in no record, no bundle, no file and no line that the
// gateway said; and streams have on record what masking their whole text gives.
func TestNothingLeaks(t *testing.T) {
	if direct {
		t.Skip("a model keeps no records")
	}
	cases, err := masktest.Bypasses()
	if err != nil {
		t.Fatal(err)
	}
	leaks := masktest.NewLeaks(cases)
	secrets, err := mask.DefaultSecrets()
	if err != nil {
		t.Fatal(err)
	}
	m, err := mask.New(mask.Config{Key: bytes.Repeat([]byte("m"), 32), Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(t.TempDir()) // of all directories of this test
	t.Cleanup(func() {               // when all that runs here has ended
		files, size := scan(t, dir, leaks)
		t.Logf("nothing in %d files of %d bytes", files, size)
	})
	said := &lines{}
	ln := listen(t)
	fake := gatewaytest.New(gatewaytest.Config{Key: modelKey})
	run(t, func(ctx context.Context) error { return fake.Run(ctx, ln) })
	l, _ := openLog(t)
	keys := openRing(t)
	masks := func(c *gateway.Config) {
		c.Logger = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
		for i := range c.Routes {
			c.Routes[i].Mask = m
		}
	}
	base := through(t, "http://"+ln.Addr().String(), l, keys, masks)

	calls, answered := 0, make(map[string]int)
	want := make(map[string]string) // what streams say on record, by session
	do := func(c *masktest.Bypass, place, target, header, body string) (session string) {
		t.Helper()
		if leaks.In([]byte(target+"\n"+header+"\n"+unquoted(body))) == "" {
			t.Fatalf("%s, %s: nothing is sent: this test sees nothing", c.ID, place)
		}
		resp, _, err := raw(base, target, header, body)
		if err != nil {
			t.Fatalf("%s, %s: %v", c.ID, place, err)
		}
		if calls++; resp.StatusCode == http.StatusOK {
			answered[place]++
		}
		return resp.Header.Get(gateway.SessionHeader)
	}
	const completions, messages = "/v1/chat/completions", "/anthropic/v1/messages"
	auth, hello := "Authorization: Bearer "+callerKey, asked("hello", false)
	must := 0
	for i := range cases {
		c := &cases[i]
		if !c.MustMask {
			continue
		}
		must++
		masked, _ := m.Text(nil, []byte(c.Text))
		do(c, "a prompt", completions, auth, asked("/say "+c.Text, false))
		do(c, "a prompt among words", completions, auth, asked("Remember "+c.Text+" for me", false))
		want[do(c, "a stream", completions, auth, asked("/events 7 /say "+c.Text, true))] = string(masked)
		want[do(c, "a stream of messages", messages, auth+"\r\nAnthropic-Version: 2023-06-01", asked("/events 5 /say "+c.Text, true))] = string(masked)
		do(c, "a query", completions+"?note="+url.QueryEscape(c.Text), auth, hello)
		do(c, "a path", "/nowhere/"+url.PathEscape(c.Text), auth, hello)
		do(c, "a header", completions, auth+"\r\nX-Note: "+c.Text, hello)
		do(c, "a model", completions, auth, strings.Replace(hello, `"fake-1"`, quoted(c.Text), 1))
		do(c, "a wrong key", completions, "Authorization: Bearer "+c.Text, hello)
		do(c, "no JSON", completions, auth, `{"messages":"`+c.Text)
		do(c, "another role", completions, auth, strings.Replace(hello, `[{`, `[{"role":"system","name":`+quoted(c.Text)+`,"content":[{"type":"text","text":`+quoted(c.Text)+`}]},{`, 1))
	}
	for _, place := range []string{"a prompt", "a prompt among words", "a stream", "a stream of messages", "a query", "another role"} {
		if answered[place] != must {
			t.Errorf("%s: %d of %d calls were answered", place, answered[place], must)
		}
	}
	if answered["a header"] < must/2 {
		t.Errorf("%d of %d headers were taken", answered["a header"], must)
	}

	stopped := t.TempDir()
	var streams sync.WaitGroup
	t.Run("stop", func(t *testing.T) {
		base := through(t, "http://"+ln.Addr().String(), l, keys, func(c *gateway.Config) {
			masks(c)
			c.ID, c.Journal, c.Limits.Drain = "gw-stopped", stopped, 100*time.Millisecond
		})
		heard := make(chan error, must)
		for i := range cases {
			c := &cases[i]
			if !c.MustMask {
				continue
			}
			calls++
			// The value is in the first half of what is said, and the model falls silent behind it.
			body := asked("/events 10 /stall 8 /say "+c.Text+" "+strings.Repeat("and so on ", 3+len(c.Text)/10), true)
			streams.Go(func() {
				conn, r, err := open(base, completions, auth, body)
				if err != nil {
					heard <- err
					return
				}
				defer conn.Close()
				events := 0
				for events < 8 && err == nil {
					var line string
					if line, err = r.ReadString('\n'); strings.HasPrefix(line, "data: ") {
						events++
					}
				}
				heard <- err
				io.Copy(io.Discard, r) // until the gateway ends it
			})
		}
		for range must {
			if err := <-heard; err != nil {
				t.Error(err)
			}
		}
		if files, size := scan(t, stopped, leaks); files == 0 || size == 0 {
			t.Errorf("%d bytes in %d files: no stream is in the journal", size, files)
		}
		scan(t, dir, leaks)
	}) // and here the gateway has stopped
	streams.Wait()

	pen, err := record.NewWriter(record.WriterConfig{ID: "desk", Log: l, Software: "tallystick/peers", Mode: "none"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, pen.Run)
	desk, err := audit.NewDesk(l, readOnly{keys}, pen)
	if err != nil {
		t.Fatal(err)
	}
	ended, records := written(t, l, keys.Open)
	tokens, interrupted, matched := 0, 0, 0
	for _, r := range records {
		for _, f := range r {
			if found := leaks.In(f.Value); found != "" {
				t.Errorf("%s of a record has %s", f.Name, found)
			}
			tokens += bytes.Count(f.Value, []byte("⟦"))
		}
	}
	for id, e := range ended {
		body, _ := e.record.Get(record.FieldBody)
		text := spoken(body)
		if found := leaks.In([]byte(text)); found != "" {
			t.Errorf("session %s says, in pieces, %s", id, found)
		}
		if w, ok := want[id.String()]; ok && text != w {
			t.Errorf("session %s says %q, want %q", id, text, w)
		} else if ok {
			matched++
		}
		if e.outcome != record.Complete && strings.Contains(text, "and so on") {
			interrupted++
		}
		bundle, err := desk.Export(t.Context(), audit.Asker{Name: "auditor", Reason: "a test", Roles: audit.Auditor}, id)
		if err != nil {
			t.Fatal(err)
		}
		if found := leaks.In(bundle); found != "" {
			t.Errorf("the bundle of session %s has %s", id, found)
		}
	}
	if matched != 2*must || interrupted != must || tokens < 10*must {
		t.Errorf("%d cases: %d streams say what they should, %d were interrupted; %d masks", must, matched, interrupted, tokens)
	}
	heard := said.bytes()
	if found := leaks.In(heard); found != "" {
		t.Errorf("the gateway said %s", found)
	}
	if len(heard) == 0 {
		t.Error("the gateway said nothing: this test sees nothing")
	}
	t.Logf("%d cases in %d calls; nothing in %d records of %d sessions, their bundles, and %d bytes of log lines; %d masks", must, calls, len(records), len(ended), len(heard), tokens)
}

// asked is the body of a call of either API.
func asked(prompt string, stream bool) string {
	return fmt.Sprintf(`{"model":"fake-1","max_tokens":1000,"stream":%v,"messages":[{"role":"user","content":%s}]}`, stream, quoted(prompt))
}

func quoted(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s)
	return strings.TrimSpace(b.String())
}

// unquoted is a body with what JSON escapes in it, where it is JSON.
func unquoted(body string) string {
	var v any
	if json.Unmarshal([]byte(body), &v) != nil {
		return body
	}
	return fmt.Sprint(v)
}

// open sends a call as it is given, which no client of Go's would.
func open(base, target, header, body string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gateway\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", target, header, len(body), body)
	return conn, bufio.NewReader(conn), err
}

// raw makes such a call, and reads the answer to its end.
func raw(base, target, header, body string) (*http.Response, []byte, error) {
	conn, r, err := open(base, target, header, body)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

var pieces = regexp.MustCompile(`"delta":\{(?:"role":"assistant",)?(?:"type":"text_delta",)?"(?:content|text)":("(?:[^"\\]|\\.)*")`)

// spoken is what the events of a stream say.
func spoken(body []byte) string {
	var b strings.Builder
	for _, p := range pieces.FindAllSubmatch(body, -1) {
		var s string
		json.Unmarshal(p[1], &s)
		b.WriteString(s)
	}
	return b.String()
}

// scan looks through all files below a directory.
func scan(t *testing.T, dir string, leaks *masktest.Leaks) (files, size int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		files++
		size += len(b)
		if found := leaks.In(b); found != "" {
			t.Errorf("%s has %s", path, found)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return files, size
}

// ignoreGone: what runs removes files while they are looked through.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// An ending is the last record of a session.
type ending struct {
	record  record.Record
	outcome record.Outcome
}

// written opens every record of a log, once every session in it has ended.
func written(t *testing.T, l *local.Log, key func(context.Context, string) ([]byte, error)) (ended map[record.ID]ending, all []record.Record) {
	t.Helper()
	coder, err := record.NewCoder(1)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		signed, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := tlog.UnverifiedCheckpoint(signed)
		if err != nil {
			t.Fatal(err)
		}
		begun := 0
		ended, all = make(map[record.ID]ending), nil
		for i := range c.Size {
			b, err := tlog.Tiles{Reader: l, Size: c.Size}.Entry(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			e, err := record.ParseEntry(b)
			if err != nil {
				t.Fatal(err)
			}
			if e.Fields == 0 {
				continue
			}
			r, err := coder.Read(t.Context(), &e, l.Payload, key)
			if err != nil {
				t.Fatal(err)
			}
			switch all = append(all, r); e.Kind {
			case record.Request:
				begun++
			case record.Response:
				ended[e.Session] = ending{r, e.Outcome}
			}
		}
		if begun > 0 && begun == len(ended) {
			return ended, all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions have not ended", begun-len(ended))
		}
	}
}

// lines keeps what was written. Safe for concurrent use.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}
