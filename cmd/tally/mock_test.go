package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A rehearsing is `tally mock`, running.
type rehearsing struct {
	cmd *exec.Cmd
	out *lockedBuffer
	url string
}

// mock starts the command and waits until it says where it serves.
func (p *place) mock(args ...string) *rehearsing {
	p.t.Helper()
	r := &rehearsing{cmd: p.command(append([]string{"mock"}, args...)...), out: &lockedBuffer{}}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			r.cmd.Process.Kill()
			r.cmd.Wait()
		}
	})
	await(p.t, "the mock serves", func() bool {
		r.url = regexp.MustCompile(`http://[0-9.:]+`).FindString(r.out.String())
		return r.url != "" && strings.HasSuffix(r.out.String(), "\n\n")
	})
	return r
}

// What was recorded is served by a mock, which a comparison finds the same; a model that answers otherwise is found out, down to
// the first tool call that differs; and every look is on record.
func TestMockAndCompare(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	call := func(body string) string {
		t.Helper()
		req, err := p.request(t.Context(), "/v1/chat/completions", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body) // some are cut
		return resp.Header.Get("Tallystick-Session")
	}
	const tools = `"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}}]`
	asked := func(prompt string, stream bool) string {
		return fmt.Sprintf(`{"model":"fake-1","stream":%t,%s,"messages":[{"role":"user","content":%q}]}`, stream, tools, prompt)
	}
	streamed, tool, toolStreamed := call(asked("/say one two three", true)), call(asked("Call get_weather for Oslo", false)), call(asked("Call get_weather for Oslo", true))
	limit, cut := call(asked("/error 429", false)), call(asked("/cut 3 /say one two three four", true))
	other := call(asked("/say one 2 three", true))
	all := []string{streamed, tool, toolStreamed, limit, cut}
	await(t, "the calls are published", func() bool {
		resp, err := http.Get(p.vars["LOG_URL"] + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK && p.kinds()[record.Response] == 6
	})

	m := p.mock(append([]string{"--data", p.data, "--reason", "a rehearsal"}, all...)...)
	for _, want := range []string{"recorded sessions", streamed, "cut", "POST /v1/chat/completions", "429", "asks no model"} {
		if !strings.Contains(m.out.String(), want) {
			t.Errorf("it says nothing of %s:\n%s", want, m.out)
		}
	}
	for _, id := range all {
		if out, errs, code := p.tally("replay", id, "--against", m.url, "--data", p.data); code != 0 || !strings.Contains(out, "They are the same, to the byte.") {
			t.Errorf("%s: exit %d: %s%s", id, code, out, errs)
		}
	}

	// Those that a query finds, once the index has them; the newest entries it may not have yet.
	await(t, "a query finds it", func() bool {
		out, errs, code := p.tally("search", "outcome:truncated", "--data", p.data, "--json")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		return strings.Contains(out, cut)
	})
	if found := p.mock("--query", "outcome:truncated", "--data", p.data); !strings.Contains(found.out.String(), "1 recorded session ") || !strings.Contains(found.out.String(), cut) {
		t.Errorf("a query finds something else:\n%s", found.out)
	}

	// A model that calls the tool otherwise.
	to, err := url.Parse(m.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = func(r *http.Response) error {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		if b = bytes.ReplaceAll(b, []byte(`\"Oslo\"`), []byte(`\"Rome\"`)); r.Header.Get("Content-Type") != "application/json" {
			b = bytes.ReplaceAll(b, []byte("get_weather"), []byte("get_time")) // what it is called with comes in pieces
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		r.Header.Set("Content-Length", strconv.Itoa(len(b)))
		return nil
	}
	changed := httptest.NewServer(proxy)
	defer changed.Close()
	for id, want := range map[string]replay.Difference{
		tool:         {Where: "arguments", Call: &replay.CallAt{Name: "get_weather", Path: ".city"}, A: `"Oslo"`, B: `"Rome"`},
		toolStreamed: {Where: "name", Call: &replay.CallAt{Name: "get_weather"}, A: "get_weather", B: "get_time"},
	} {
		want.Part, want.In, want.Counts = replay.PartCall, replay.InBoth, true
		out, errs, code := p.tally("replay", id, "--against", changed.URL+"/v1", "--log", p.vars["LOG_URL"])
		if say := "They differ, first in " + want.Tell("the record", "the new answer") + ".\n"; code != 1 || !strings.Contains(out, say) || errs != "" {
			t.Errorf("%s: exit %d: %s%s", id, code, out, errs)
		}
		out, errs, code = p.tally("replay", id, "--against", changed.URL, "--data", p.data, "--json")
		var d struct {
			Against string
			Same    bool
			First   replay.Difference
		}
		if err := json.Unmarshal([]byte(out), &d); err != nil || code != 1 || errs != "" {
			t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
		}
		if d.Same || d.Against != changed.URL || !reflect.DeepEqual(d.First, want) {
			t.Errorf("%+v", d)
		}
	}

	// Two that are on record.
	if out, errs, code := p.tally("replay", streamed, "--with", other, "--data", p.data); code != 1 || !strings.Contains(out, `"two" in the one, "2" in the other`) || !strings.Contains(out, "one [-two-]{+2+} three") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if out, errs, code := p.tally("replay", streamed, "--with", streamed, "--data", p.data); code != 0 {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}

	// The service itself is asked only if that is meant, and shown nothing but what is given.
	config, err := os.ReadFile(filepath.Join(p.data, configFile))
	if err != nil {
		t.Fatal(err)
	}
	model := regexp.MustCompile(`upstream: "(http://[^"]+)"`).FindStringSubmatch(string(config))
	if model == nil {
		t.Fatalf("no upstream in %s", config)
	}
	if out, errs, code := p.tally("replay", streamed, "--against", model[1], "--data", p.data); code != 2 || !strings.Contains(errs, "say --yes") || out != "" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if out, errs, code := p.tally("replay", streamed, "--against", model[1], "--yes", "--data", p.data); code != 1 || !strings.Contains(out, `status: "200" in the record, "401" in the new answer`) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	key := "file:" + filepath.Join(p.data, "model.key")
	if out, errs, code := p.tally("replay", streamed, "--against", model[1], "--yes", "--credential", key, "--data", p.data); code != 0 || !strings.Contains(out, "They are the same, but for what is another one each time.") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if out, errs, code := p.tally("replay", streamed, "--against", "http://127.0.0.1:1", "--data", p.data); code != 2 || !strings.Contains(errs, "was not answered") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}

	m.cmd.Process.Signal(os.Interrupt)
	if err := m.cmd.Wait(); err != nil || !regexp.MustCompile(`\d+ requests, \d+ with a recorded answer; \d+ events, sent `).MatchString(m.out.String()) {
		t.Errorf("the mock ended with %v:\n%s", err, m.out)
	}
	// 5 served, 5 + 4 sent again, 2 × 2 held against each other, 4 more, and 1 that was found.
	looks := 0
	await(t, "every look is on record", func() bool {
		looks = 0
		p.entries(func(e record.Entry) {
			if e.Kind == record.Access && !e.Session.IsZero() {
				looks++
			}
		})
		return looks >= 5+5+4+4+4+1
	})
	if looks != 5+5+4+4+4+1 {
		t.Errorf("%d looks are on record", looks)
	}

	// Of a log that is closed, and of bundles without any log.
	bundle := filepath.Join(t.TempDir(), "session.bundle")
	if _, errs, code := p.tally("export", tool, "-o", bundle, "--data", p.data); code != 0 {
		t.Fatal(errs)
	}
	p.stop()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--session", streamed + "," + tool, "--data", p.data}, []string{tool, streamed}},
		{[]string{"--bundle", bundle, "--data", "nowhere"}, []string{tool}},
		{[]string{"--query", "two -four", "--data", p.data}, []string{streamed}},
	} {
		m := p.mock(append(c.args, "--once", "--speed", "100", "--match", "request")...)
		for _, id := range c.want {
			body := map[string]string{tool: asked("Call get_weather for Oslo", false), streamed: asked("/say one two three", true)}[id]
			resp, err := http.Post(m.url+"/v1/chat/completions", "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || resp.Header.Get("Tallystick-Mock") != id {
				t.Errorf("%v: %s, %v: %s", c.args, resp.Status, err, b)
			}
			resp.Body.Close()
		}
		if err := m.cmd.Wait(); err != nil || strings.Count(m.out.String(), ", by request\n") != len(c.want) {
			t.Errorf("%v: %v:\n%s", c.args, err, m.out)
		}
	}
	if out, errs, code := p.tally("mock", "--query", "nowhere-to-be-found", "--data", p.data); code != 1 || !strings.Contains(errs, "finds no session") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	for _, bad := range [][]string{
		{}, {"x"}, {"--session", "x"}, {streamed, "--query", "x"}, {"--query", "nothing:x"}, {streamed, "--listen", "0.0.0.0:0"}, {streamed, "--listen", ":0"}, {streamed, "--match", "luck"}, {streamed, "--speed", "0"},
	} {
		if out, errs, code := p.tally(append([]string{"mock", "--data", p.data}, bad...)...); code != 64 {
			t.Errorf("mock %v: exit %d: %s%s", bad, code, out, errs)
		}
	}
	for _, bad := range [][]string{
		{"--against", "http://u:p@127.0.0.1"}, {"--against", "http://127.0.0.1/?key=1"}, {"--against", "x"}, {"--against", "http://127.0.0.1", "--with", tool}, {"--with", "x"},
		{"--against", "http://127.0.0.1", "--credential", "sk-123"},
	} {
		if out, errs, code := p.tally(append([]string{"replay", streamed, "--data", p.data}, bad...)...); code != 64 {
			t.Errorf("replay %v: exit %d: %s%s", bad, code, out, errs)
		}
	}
}

// A session that is in a bundle only because another one used its yes is not served in that one's place.
func TestMockOfApproved(t *testing.T) {
	asked, used := record.NewID(time.Now()), record.NewID(time.Now())
	entry := func(index uint64, e record.Entry, fields ...string) verify.Entry {
		var r record.Record
		for i := 0; i < len(fields); i += 2 {
			r.Add(fields[i], []byte(fields[i+1]))
		}
		e.By, e.Boot, e.Seq, e.Time = "gw", asked, index+1, time.Now().UTC().Truncate(time.Microsecond)
		e.Root, e.Fields, e.Payload, e.PayloadSize = r.Root(), len(r), tlog.HashLeaf(nil), 1
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return verify.Entry{Index: index, Bytes: b, Fields: verify.Fields(r, func(string) bool { return true })}
	}
	leaf := tlog.HashLeaf([]byte("a yes"))
	bundle := verify.Bundle{Origin: "log.example", Checkpoint: []byte("log.example\n"), Sessions: []verify.Session{
		{ID: used, Entries: []verify.Entry{
			entry(2, record.Entry{Kind: record.Request, Session: used, Asks: true}, record.FieldMethod, "POST", record.FieldTarget, "/v1/chat/completions", record.FieldBody, "{}"),
			entry(3, record.Entry{Kind: record.Approval, Session: used, Prev: leaf, Reason: record.Used, Grant: leaf}, record.FieldApproval, asked.String()),
			entry(4, record.Entry{Kind: record.Response, Session: used, Prev: leaf, Outcome: record.Complete}, record.FieldStatus, "200", record.FieldBody, "{}"),
		}},
		{ID: asked, Entries: []verify.Entry{
			entry(0, record.Entry{Kind: record.Request, Session: asked, Asks: true}, record.FieldMethod, "POST", record.FieldTarget, "/v1/chat/completions", record.FieldBody, "{}"),
			entry(5, record.Entry{Kind: record.Response, Session: asked, Prev: leaf, Outcome: record.Resumed}, record.FieldStatus, "409", record.FieldBody, "{}"),
		}},
	}}
	raw, err := bundle.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "one")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := sessionsInFiles([]string{path})
	if err != nil || len(got) != 1 || got[0].ID != used {
		t.Errorf("%v, %d sessions", err, len(got))
	}
	bundle.Sessions = bundle.Sessions[1:]
	if raw, err = bundle.Append(nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err = sessionsInFiles([]string{path, path}); err != nil || len(got) != 2 || got[0].ID != asked {
		t.Errorf("%v, %d sessions", err, len(got))
	}
	if _, err := sessionsInFiles([]string{os.Args[0]}); err == nil {
		t.Error("a program is a bundle")
	}
}
