package gateway

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestStats makes calls of every end and looks at what was counted of them.
func TestStats(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Models = []string{"fake-1", "fake-unused"} })
	call := func(path, body string, status int) {
		t.Helper()
		resp := w.post(path, body)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Fatalf("%s: status %d, want %d", path, resp.StatusCode, status)
		}
	}
	call("/v1/chat/completions", chat("hello", false), 200)
	call("/v1/chat/completions", chat("hello", true), 200)
	call("/v1/chat/completions", chat("/error 429 no", false), 429)
	call("/v1/chat/completions", chat("/cut 2 a long answer, which is cut", true), 200)
	call("/v1/chat/completions", strings.Replace(chat("hello", false), "fake-1", "fake-embed", 1), 404) // another model
	call("/v1/messages", `{"model":"fake-1","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}`, 200)
	call("/v1/chat/completions", `{"model":"fake-1","model":"fake-2"}`, 400)
	call("/nowhere", "", 404)
	if resp, err := w.doAs(t.Context(), "tk-nobody-0123456789", "GET", "/v1/models", ""); err != nil || resp.StatusCode != 401 {
		t.Fatal(resp, err)
	}

	s := w.g.Stats()
	if len(s.Routes) != 4 || s.Routes[0].Route != "openai" || s.Routes[1].Route != "anthropic" || s.Routes[3].Route != "" {
		t.Fatalf("routes: %+v", s.Routes)
	}
	openai, nowhere := s.Routes[0], s.Routes[3]
	for _, e := range []Ended{{"complete", "2xx", 2}, {"complete", "4xx", 2}, {"truncated", "2xx", 1}} {
		if !slices.Contains(openai.Ended, e) {
			t.Errorf("no %+v in %+v", e, openai.Ended)
		}
	}
	if len(openai.Ended) != 3 || openai.Begun != 5 || openai.InFlight != 0 {
		t.Errorf("%+v", openai)
	}
	if openai.Refused["invalid_json"] != 1 || nowhere.Refused["unknown_route"] != 1 || nowhere.Refused["invalid_api_key"] != 1 {
		t.Errorf("refused: %v, %v", openai.Refused, nowhere.Refused)
	}
	for name, h := range map[string]Histogram{"duration": openai.Duration, "first": openai.First, "before": openai.Before, "after": openai.After} {
		if h.Count() != 5 || h.Sum <= 0 || h.Sum > 600 {
			t.Errorf("%s: %d values, %v together", name, h.Count(), h.Sum)
		}
	}
	if openai.Input == 0 || openai.Output == 0 || openai.RequestBytes == 0 || openai.AnswerBytes == 0 {
		t.Errorf("%+v", openai)
	}
	if len(openai.Models) != 2 || openai.Models[0].Model != "other" || openai.Models[1].Model != "fake-1" {
		t.Fatalf("models: %+v", openai.Models)
	}
	m := openai.Models[1]
	for word, n := range map[string]uint64{"": 2, "429": 1, "truncated": 1} {
		if h := m.Durations[word]; h.Count() != n {
			t.Errorf("%d operations with the error %q, want %d", h.Count(), word, n)
		}
	}
	if m.Operation != "chat" || m.FirstChunk.Count() != 2 || m.Input.Count() == 0 || m.Input.Sum != float64(openai.Input) {
		t.Errorf("%+v", m)
	}
	if anthropic := s.Routes[1]; len(anthropic.Models) != 1 || anthropic.Models[0].Operation != "chat" || anthropic.Input == 0 {
		t.Errorf("%+v", anthropic)
	}
	if err := w.g.Ready(); err != nil {
		t.Error(err)
	}
}

// Without Config.Models none is told apart, whatever callers name.
func TestStatsWithoutModels(t *testing.T) {
	w := newWorld(t, nil)
	slurp(t, w.post("/v1/chat/completions", chat("hello", false)).Body)
	if m := w.g.Stats().Routes[0].Models; len(m) != 1 || m[0].Model != "" {
		t.Errorf("%+v", m)
	}
}

// TestStatsOfAsking counts what people are asked, and what they are waited for, which is no time of ours.
func TestStatsOfAsking(t *testing.T) {
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = time.Minute })
	done := make(chan *http.Response, 1)
	go func() { done <- w.post("/v1/chat/completions", ask("ask", "please")) }()
	id := w.waiting(carolsKey, 1)[0].ID
	if s := w.g.Stats(); s.Waiting != 1 || s.Oldest <= 0 || s.Routes[0].Verdicts["ask"] != 1 || s.Routes[0].InFlight != 1 {
		t.Errorf("%+v", s)
	}
	time.Sleep(50 * time.Millisecond) // is waited for, by people
	w.must(carolsKey, id, "approve")
	slurp(t, (<-done).Body)
	s := w.g.Stats()
	if s.Waiting != 0 || s.Approvals["asked"] != 1 || s.Approvals["granted"] != 1 {
		t.Errorf("%+v", s)
	}
	if r := s.Routes[0]; r.Before.Sum > r.Duration.Sum-0.05 {
		t.Errorf("waiting for people counts as time that we added: %v of %v", r.Before.Sum, r.Duration.Sum)
	}
}

// Whatever a call can be refused for has a name of its own among what is counted.
func TestReasons(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	// What callers of the gateway's own endpoints are told is not counted, nor are ends that have an outcome.
	others := []string{
		"already_decided", "answer_too_large", "approval_pending", "approval_used", "client_gone", "cross_site", "decided_before", "hook_refused",
		"look_first", "no_decision", "not_json", "not_published", "reason_needed", "receipt_unavailable", "record_too_large", "request_unavailable",
		"self_approval", "session_lost", "session_open", "stopping", "too_many_receipts", "unknown_approval", "unknown_path", "unknown_session",
		"upstream_error", "upstream_invalid", "upstream_timeout", "upstream_truncated", "bad_reason", "log_unavailable",
	}
	n := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			var code ast.Expr
			switch x := node.(type) {
			case *ast.CompositeLit:
				if id, ok := x.Type.(*ast.Ident); ok && id.Name == "refusal" && len(x.Elts) == 3 {
					code = x.Elts[1]
				}
			case *ast.CallExpr:
				if id, ok := x.Fun.(*ast.Ident); ok && id.Name == "refuse400" {
					code = x.Args[0]
				}
			}
			if lit, ok := code.(*ast.BasicLit); ok {
				n++
				if c, _ := strconv.Unquote(lit.Value); reasonIndex(c) == 0 && !slices.Contains(others, c) {
					t.Errorf("%s: the code %s is counted as other", f.Name(), c)
				}
			}
			return true
		})
	}
	if n < 50 || len(reasons) > len(counts{}.refused) || len(outcomes) != len(counts{}.ended) || len(errorKinds) > len(modelCounts{}.durations) {
		t.Errorf("%d codes, %d reasons, %d outcomes, %d kinds of errors", n, len(reasons), len(outcomes), len(errorKinds))
	}
}

// To count a call takes no memory.
func TestCountAllocates(t *testing.T) {
	r := &Route{Name: "openai", API: OpenAI}
	g := &Gateway{}
	g.numbers = newNumbers([]string{"fake-1"}, routes{{"/v1/chat/completions", r}})
	now := time.Now()
	c := &call{
		g: g, route: r, path: "/v1/chat/completions", model: "fake-1", outcome: record.Complete, status: 200, streamed: true,
		received: now, sent: now, first: now, modelEnd: now, tokens: spent{in: 3, out: 4},
	}
	if n := testing.AllocsPerRun(100, func() { c.count(now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	body := []byte(`{"id":"x","choices":[{"message":{"content":"a \"usage\" of words"}}],"usage":{"prompt_tokens":11,"completion_tokens":7}}`)
	if n := testing.AllocsPerRun(100, func() { usedTokens(OpenAI, body, false) }); n != 0 {
		t.Errorf("%v allocations for tokens", n)
	}
	stream := []byte("data: {\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n")
	if n := testing.AllocsPerRun(100, func() { usedTokens(OpenAI, stream, true) }); n != 0 {
		t.Errorf("%v allocations for a stream's tokens", n)
	}
}

func TestErrorKind(t *testing.T) {
	for _, c := range []struct {
		out    record.Outcome
		status int
		want   string
	}{
		{record.Complete, 200, ""}, {record.Complete, 304, ""}, {record.Complete, 429, "429"}, {record.Complete, 418, "_OTHER"},
		{record.Truncated, 200, "truncated"}, {record.Limit, 504, "limit"}, {record.Waiting, 409, "waiting"}, {record.Resumed, 409, "_OTHER"}, {outUnrecorded, 503, "unrecorded"},
	} {
		if got := errorKinds[errorKind(c.out, c.status)]; got != c.want {
			t.Errorf("%s, %d: %q, want %q", c.out, c.status, got, c.want)
		}
	}
}

// FuzzWalker holds the walker against a whole reading: of an object in order it sees every member, in order.
func FuzzWalker(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` {"a" : "x\\\"}" , "b":[{"c":"]"}],"d":-1.5e3 }`, `{"a":1`, `{"a"`, `[1]`, `{"a":tru,}`, `{"\\":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := make(map[string]string)
		n := 0
		for m := walk(b); m.next(); n++ {
			if n > len(b) {
				t.Fatal("it does not end")
			}
			var name string
			if json.Unmarshal([]byte(`"`+string(m.name)+`"`), &name) == nil {
				got[name] = string(m.value)
			}
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(b, &want) != nil {
			return
		}
		for name, v := range want {
			if got[name] != string(v) {
				t.Errorf("%q is %q, want %q", name, got[name], v)
			}
		}
	})
}

// TestStatsUnrecorded counts what the log does not take: what then does not pass, and in the mode open what does.
func TestStatsUnrecorded(t *testing.T) {
	for _, c := range []struct {
		mode Mode
		what string
		want func(s Stats, r RouteStats) bool
	}{
		{Strict, string(record.Request), func(s Stats, r RouteStats) bool {
			return s.Unrecorded["request"] == 1 && s.Unrecorded["response"] == 0 && slices.Equal(r.Ended, []Ended{{"unrecorded", "5xx", 1}}) && len(r.Models) == 0
		}},
		{Strict, "to " + string(record.Complete), func(s Stats, r RouteStats) bool {
			return s.Unrecorded["request"] == 0 && s.Unrecorded["response"] == 1 && slices.Equal(r.Ended, []Ended{{"unrecorded", "5xx", 1}})
		}},
		{Open, "to " + string(record.Complete), func(s Stats, r RouteStats) bool {
			return s.Unrecorded["response"] == 1 && s.Lost == 1 && slices.Equal(r.Ended, []Ended{{"complete", "2xx", 1}})
		}},
	} {
		t.Run(c.mode.String()+" "+c.what, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) { cfg.Mode = c.mode })
			w.faulty = true
			slurp(t, w.post("/v1/models", "").Body) // the boot is on record
			before := w.g.Stats().Routes[0]
			if len(before.Ended) != 1 {
				t.Fatalf("%+v", before)
			}
			w.log.Inject(onEntry(c.what, func() error { return tlog.ErrFull }))
			slurp(t, w.post("/v1/chat/completions", chat("hello", false)).Body)
			for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				s := w.g.Stats()
				r := s.Routes[0]
				if r.Ended = less(r.Ended, before.Ended); c.want(s, r) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%+v", s)
				}
			}
			w.log.Inject(tlogtest.Faults{})
		})
	}
}

// less takes away what was counted before.
func less(now, before []Ended) (out []Ended) {
	for _, e := range now {
		for _, b := range before {
			if b.Outcome == e.Outcome && b.Class == e.Class {
				e.Calls -= b.Calls
			}
		}
		if e.Calls > 0 {
			out = append(out, e)
		}
	}
	return out
}

// A bound belongs to its bucket, as Prometheus has it.
func TestHistogram(t *testing.T) {
	s := newScale(second, 0.5, 1)
	var h counted
	for _, v := range []time.Duration{0, 500 * time.Millisecond, 500*time.Millisecond + 1, time.Second, time.Second + 1, time.Hour} {
		h.add(s, int64(v))
	}
	if got := h.read(s); !slices.Equal(got.Counts, []uint64{2, 2, 2}) || got.Count() != 6 || got.Sum < 3603 || got.Sum > 3603.1 {
		t.Errorf("%+v", got)
	}
	for _, s := range []*scale{newScales().operation, newScales().tokens, newScales().call, newScales().added} {
		if len(s.bounds) > mostBounds || !slices.IsSorted(s.most) {
			t.Errorf("%v", s.bounds)
		}
	}
}
