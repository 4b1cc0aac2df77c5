package otel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A receiver is a collector that keeps what it is sent.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	raw    bytes.Buffer // under mu
	spans  []*spans.Span
	about  map[string]string // of the resource
	header http.Header
}

func receive(t *testing.T) *receiver {
	r := &receiver{about: make(map[string]string)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		var m collector.ExportTraceServiceRequest
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(b, &m) != nil {
			t.Errorf("%s %s: %v", req.Method, req.URL, err)
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.raw.Write(b)
		r.header = req.Header
		for _, rs := range m.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				r.about[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				r.spans = append(r.spans, ss.Spans...)
			}
		}
		out, _ := proto.Marshal(&collector.ExportTraceServiceResponse{})
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.Write(out)
	}))
	t.Cleanup(r.Close)
	return r
}

// of returns the spans of one trace by their names, the server's as "".
func (r *receiver) of(t *testing.T, session string) map[string]*spans.Span {
	t.Helper()
	out := make(map[string]*spans.Span)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Kind == spans.Span_SPAN_KIND_SERVER && values(s)["tallystick.session"] == session {
			out[""] = s
		}
	}
	if out[""] == nil {
		t.Fatalf("no span of the session %s among %d", session, len(r.spans))
	}
	for _, s := range r.spans {
		if bytes.Equal(s.TraceId, out[""].TraceId) && s != out[""] && bytes.Equal(s.ParentSpanId, out[""].SpanId) {
			out[s.Name] = s
			if s.StartTimeUnixNano < out[""].StartTimeUnixNano || s.EndTimeUnixNano > out[""].EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
				t.Errorf("%s is from %d to %d, in a call from %d to %d", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano, out[""].StartTimeUnixNano, out[""].EndTimeUnixNano)
			}
		}
	}
	return out
}

func values(s *spans.Span) map[string]string {
	out := make(map[string]string)
	for _, a := range s.Attributes {
		out[a.Key] = text(a.Value)
	}
	return out
}

func text(v *common.AnyValue) string {
	switch x := v.Value.(type) {
	case *common.AnyValue_StringValue:
		return x.StringValue
	case *common.AnyValue_IntValue:
		return fmt.Sprint(x.IntValue)
	case *common.AnyValue_ArrayValue:
		var all []string
		for _, e := range x.ArrayValue.Values {
			all = append(all, text(e))
		}
		return strings.Join(all, ",")
	}
	return fmt.Sprint(v)
}

const key = "tk-alice-0123456789abcdef"

type oneDataKey [record.KeyBytes]byte

func (k *oneDataKey) New(context.Context) (string, []byte, error) { return "k", bytes.Clone(k[:]), nil }
func (k *oneDataKey) Open(context.Context, string) ([]byte, error) {
	return bytes.Clone(k[:]), nil
}

// rules let people decide about what a body's user says.
type rules struct{}

func (rules) Text() []byte       { return []byte("rules") }
func (rules) Version() tlog.Hash { return sha256.Sum256([]byte("rules")) }
func (rules) Judge(f *gateway.Facts) gateway.Judgement {
	if f.Model == "fake-no" {
		return gateway.Judgement{Verdict: gateway.Refuse, Rule: "never"}
	}
	if f.Model == "fake-ask" {
		return gateway.Judgement{Verdict: gateway.Ask, Rule: "risky", Approval: gateway.Approval{Groups: []string{"approvers"}, Within: time.Second}}
	}
	return gateway.Judgement{Verdict: gateway.Allow, Rule: "rest"}
}

// A world is a gateway whose calls are followed.
type world struct {
	t     *testing.T
	model *gatewaytest.Model
	base  string
	stop  func() // the gateway, and then the tracer
}

func newWorld(t *testing.T, tracer *Tracer) *world {
	t.Helper()
	w := &world{t: t, model: gatewaytest.New(gatewaytest.Config{Models: []string{gatewaytest.ChatModel, gatewaytest.EmbeddingModel, "fake-ask"}, KeepBody: 1 << 10})}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	models, calls := listen(), listen()
	up, _ := url.Parse("http://" + models.Addr().String())
	sum := sha256.Sum256([]byte(key))
	c := gateway.Config{
		ID: "gw", Software: "test", Log: tlogtest.NewLog(t), Origin: tlogtest.Origin, Keys: new(oneDataKey), Journal: t.TempDir(),
		Routes:    []gateway.Route{{Name: "openai", API: gateway.OpenAI, Upstream: up}, {Name: "anthropic", API: gateway.Anthropic, Upstream: up}, {Name: "any", API: gateway.HTTP, Prefix: "/any/", Upstream: up}},
		Callers:   []gateway.Caller{{Name: "alice@example.org", SHA256: hex.EncodeToString(sum[:]), Email: "alice@example.org"}},
		Policy:    rules{},
		Approvals: gateway.Approvals{Key: make([]byte, 32), Groups: []string{"approvers"}},
	}
	if tracer != nil {
		c.Tracer = tracer
	}
	g, err := gateway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.base = "http://" + calls.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	tctx, end := context.WithCancel(context.Background())
	var gw, below sync.WaitGroup
	below.Go(func() { w.model.Run(tctx, models) })
	if tracer != nil {
		below.Go(func() {
			if err := tracer.Run(tctx); err != nil {
				t.Error(err)
			}
		})
	}
	gw.Go(func() {
		if err := g.Run(ctx, calls); err != nil {
			t.Error(err)
		}
	})
	w.stop = sync.OnceFunc(func() { http.DefaultClient.CloseIdleConnections(); cancel(); gw.Wait(); end(); below.Wait() })
	t.Cleanup(w.stop)
	return w
}

// call calls, and returns the session.
func (w *world) call(path, body string, status int, headers ...string) string {
	w.t.Helper()
	req, err := http.NewRequest("POST", w.base+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body) // a cut one, too
	if resp.StatusCode != status {
		w.t.Fatalf("%s: %d, want %d: %s", path, resp.StatusCode, status, b)
	}
	return resp.Header.Get(gateway.SessionHeader)
}

func chat(model, prompt string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":99,"messages":[{"role":"user","content":%q}]}`, model, stream, prompt)
}

// What is private in the calls of TestSpans, wherever a caller can put it.
var private = []string{
	"plantedprompt", "4111111111111111", "alice", "example.org", "tk-", "0123456789abcdef", "plantedquery", "plantedagent", "+15550100", "hunter2",
}

// TestSpans makes calls of every kind and reads what a collector is sent of them.
func TestSpans(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=ns,service.version=overridden")
	r := receive(t)
	tracer, err := New(Config{Endpoint: r.URL + "/v1/traces", Headers: map[string]string{"X-Collector-Key": "hunter2"}, ID: "gw", Version: "9"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, tracer)
	prompt := "plantedprompt 4111111111111111 alice@example.org " + key + " +15550100"
	own := []string{"User-Agent", "plantedagent alice@example.org", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	whole := w.call("/v1/chat/completions?q=plantedquery", chat("fake-1", prompt, false), 200, own...)
	if got, _ := w.model.Last(); got.Header.Get("Traceparent") != own[3] {
		t.Errorf("the model is shown the trace %q", got.Header.Get("Traceparent")) // the caller's passes, as ever
	}
	stream := w.call("/v1/chat/completions", chat("fake-1", prompt, true), 200)
	messages := w.call("/v1/messages", chat("fake-1", prompt, true), 200)
	limited := w.call("/v1/chat/completions", chat("fake-1", "/error 429 "+prompt, false), 429)
	cut := w.call("/v1/chat/completions", chat("fake-1", "/cut 3 "+prompt, true), 200)
	refused := w.call("/v1/chat/completions", chat("fake-no", prompt, false), 403)
	asked := w.call("/v1/chat/completions", chat("fake-ask", prompt, false), 403)
	nowhere := w.call("/plantedprompt/4111111111111111", "{}", 404)
	odd := w.call("/v1/chat/completions", chat("alice@example.org", prompt, false), 404)
	any := w.call("/any/plantedprompt", prompt, 404)
	w.stop() // and with that all is sent

	if s := tracer.Stats(); s.Sent != uint64(len(r.spans)) || s.Dropped+s.Failed != 0 {
		t.Errorf("%+v, %d received", s, len(r.spans))
	}
	if r.header.Get("X-Collector-Key") != "hunter2" || r.about["service.name"] != "tallystick" || r.about["service.instance.id"] != "gw" || r.about["service.namespace"] != "ns" {
		t.Errorf("%v, %v", r.header, r.about)
	}
	for _, p := range private {
		if bytes.Contains(r.raw.Bytes(), []byte(p)) {
			t.Errorf("%q stands in what was sent", p)
		}
	}
	same := func(session, name string, want map[string]string) *spans.Span {
		t.Helper()
		s := r.of(t, session)[name]
		if s == nil {
			t.Fatalf("no span %q of %s", name, session)
		}
		got := values(s)
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %q, want %q", s.Name, k, got[k], v)
			}
		}
		return s
	}
	s := same(whole, "", map[string]string{
		"http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": "200", "tallystick.route": "openai",
		"tallystick.outcome": "complete", "tallystick.verdict": "allow", "tallystick.rule": "rest", "error.type": "",
	})
	if s.Name != "POST /v1/chat/completions" || len(s.Links) != 1 || hex.EncodeToString(s.Links[0].TraceId) != "0af7651916cd43dd8448eb211c80319c" || len(s.ParentSpanId) != 0 || s.Status.GetCode() != spans.Status_STATUS_CODE_UNSET {
		t.Errorf("%v", s)
	}
	m := same(whole, "chat fake-1", map[string]string{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "fake-1", "gen_ai.response.model": "fake-1",
		"gen_ai.request.max_tokens": "99", "gen_ai.response.finish_reasons": "stop", "server.address": "127.0.0.1", "http.response.status_code": "200", "tallystick.session": whole,
	})
	if v := values(m); m.Kind != spans.Span_SPAN_KIND_CLIENT || v["gen_ai.usage.input_tokens"] == "" || v["gen_ai.usage.output_tokens"] == "" || v["gen_ai.response.id"] == "" || v["gen_ai.request.stream"] != "" || len(m.Events) != 1 {
		t.Errorf("%v", m)
	}
	for _, name := range []string{"decide", "record request", "record response"} {
		same(whole, name, nil)
	}
	m = same(stream, "chat fake-1", map[string]string{"gen_ai.response.model": "fake-1", "gen_ai.response.finish_reasons": "stop"})
	if v := values(m); v["gen_ai.request.stream"] == "" || v["gen_ai.response.time_to_first_chunk"] == "" {
		t.Errorf("%v", m)
	}
	same(messages, "chat fake-1", map[string]string{"gen_ai.provider.name": "anthropic", "gen_ai.response.model": "fake-1", "gen_ai.response.finish_reasons": "end_turn"})
	if m = same(limited, "chat fake-1", map[string]string{"error.type": "429"}); m.Status.GetCode() != spans.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", m)
	}
	same(limited, "", map[string]string{"error.type": "", "http.response.status_code": "429"})
	same(cut, "", map[string]string{"error.type": "truncated", "tallystick.outcome": "truncated"})
	same(cut, "chat fake-1", map[string]string{"error.type": "truncated", "http.response.status_code": "200"})
	same(refused, "", map[string]string{"tallystick.outcome": "refused", "tallystick.reason": "policy_denied", "tallystick.verdict": "refuse", "tallystick.rule": "never"})
	if all := r.of(t, refused); len(all) != 2 || all["decide"] == nil {
		t.Errorf("of a call that was refused there is %v", all)
	}
	same(asked, "", map[string]string{"tallystick.outcome": "denied", "tallystick.verdict": "ask", "tallystick.rule": "risky"})
	if all := r.of(t, asked); all["ask"] == nil || all["record request"] == nil || all["chat fake-ask"] != nil {
		t.Errorf("of a call that nobody said yes to there is %v", all)
	}
	same(nowhere, "", map[string]string{"tallystick.reason": "unknown_route", "http.route": ""})
	same(odd, "chat", map[string]string{"gen_ai.request.model": "", "error.type": "404"})
	same(any, "POST", map[string]string{"gen_ai.operation.name": "", "http.response.status_code": "404"})
	registered(t, r)
}

// registered holds every attribute against the registry of the conventions, by name and type.
func registered(t *testing.T, r *receiver) {
	t.Helper()
	list, err := os.ReadFile("testdata/registry.txt")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^([\w.]+) (\S+)$`).FindAllStringSubmatch(string(list), -1) {
		kinds[m[1]] = m[2]
	}
	seen := make(map[string]bool)
	for _, s := range r.spans {
		for _, a := range s.Attributes {
			kind := "any"
			switch a.Value.Value.(type) {
			case *common.AnyValue_StringValue:
				kind = "string"
			case *common.AnyValue_IntValue:
				kind = "int"
			case *common.AnyValue_BoolValue:
				kind = "boolean"
			case *common.AnyValue_DoubleValue:
				kind = "double"
			case *common.AnyValue_ArrayValue:
				kind = "string[]"
			}
			if seen[a.Key] = true; !strings.HasPrefix(a.Key, "tallystick.") && kinds[a.Key] != kind {
				t.Errorf("%s: the registry has %s as %q, and it is %s", s.Name, a.Key, kinds[a.Key], kind)
			}
		}
	}
	for name := range r.about {
		if kinds[name] == "" {
			t.Errorf("the resource has %s", name)
		}
	}
	if len(seen) < 20 {
		t.Errorf("%d attributes were seen: this test sees nothing", len(seen))
	}
}

// What becomes of the trace that a caller says its call is in, and what a model is shown.
func TestPropagation(t *testing.T) {
	const theirs = "0af7651916cd43dd8448eb211c80319c"
	for _, c := range []struct {
		callers Callers
		models  bool
		flags   string
		want    string // linked, within, alone, or nothing at all
	}{
		{Link, false, "01", "linked"}, {Link, true, "00", "linked"}, {Parent, true, "01", "within"}, {Parent, false, "00", "nothing"},
		{Ignore, true, "01", "alone"}, {Parent, true, "zz", "alone"},
	} {
		t.Run(fmt.Sprint(c.callers, c.models, c.flags), func(t *testing.T) {
			r := receive(t)
			tracer, err := New(Config{Endpoint: r.URL + "/v1/traces", Callers: c.callers, Models: c.models})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, tracer)
			parent := "00-" + theirs + "-b7ad6b7169203331-" + c.flags
			session := w.call("/v1/chat/completions", chat("fake-1", "hello", false), 200, "traceparent", parent, "tracestate", "vendor=plantedstate")
			shown, _ := w.model.Last()
			w.stop()
			if c.want == "nothing" {
				if len(r.spans) != 0 || shown.Header.Get("Traceparent") != parent {
					t.Errorf("%d spans; the model is shown %s", len(r.spans), shown.Header.Get("Traceparent"))
				}
				return
			}
			all := r.of(t, session)
			s := all[""]
			got := "alone"
			switch {
			case hex.EncodeToString(s.TraceId) == theirs && hex.EncodeToString(s.ParentSpanId) == "b7ad6b7169203331":
				got = "within"
			case len(s.Links) == 1 && hex.EncodeToString(s.Links[0].TraceId) == theirs:
				got = "linked"
			}
			want := parent
			if c.models {
				want = fmt.Sprintf("00-%x-%x-01", s.TraceId, all["chat fake-1"].SpanId)
			}
			if h := shown.Header; got != c.want || h.Get("Traceparent") != want || (h.Get("Tracestate") == "") != c.models {
				t.Errorf("it is %s; the model is shown %s and %q, want %s", got, h.Get("Traceparent"), h.Get("Tracestate"), want)
			}
		})
	}
}

// A collector that does not answer keeps no call, and not the end of the gateway; what cannot wait is dropped, and counted.
func TestSlowCollector(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(release)
	tracer, err := New(Config{Endpoint: slow.URL, Queue: 4, batch: time.Millisecond, last: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, tracer)
	for end := time.Now().Add(time.Minute); tracer.Stats().Dropped == 0; {
		w.call("/v1/chat/completions", chat("fake-1", "hello", false), 200)
		if time.Now().After(end) {
			t.Fatal("nothing is dropped")
		}
	}
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the end took %v", took)
	}
	if s := tracer.Stats(); s.Sent != 0 || s.Failed == 0 {
		t.Errorf("%+v", s)
	}
}

// Of a sample of one in many most calls are not followed, and of none is a part.
func TestSample(t *testing.T) {
	r := receive(t)
	tracer, err := New(Config{Endpoint: r.URL + "/v1/traces", Sample: 0.25})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, tracer)
	const calls = 60
	for range calls {
		w.call("/v1/chat/completions", chat("fake-1", "hello", false), 200)
	}
	w.stop()
	n := 0
	for _, s := range r.spans {
		if s.Kind == spans.Span_SPAN_KIND_SERVER {
			n++
		}
	}
	if n == 0 || n == calls || len(r.spans) != 5*n { // with 2 in 10^8 each
		t.Errorf("%d calls of %d were followed, by %d spans", n, calls, len(r.spans))
	}
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]Config{
		"sample": {Sample: 2}, "below": {Sample: -1}, "endpoint": {Endpoint: "127.0.0.1:4318"}, "user": {Endpoint: "http://me:hunter2@127.0.0.1"},
	} {
		if _, err := New(c); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseCallers("everything"); err == nil {
		t.Error("everything is taken")
	}
	for _, s := range []string{"", "link", "parent", "ignore"} {
		if _, err := ParseCallers(s); err != nil {
			t.Error(err)
		}
	}
	if !slices.IsSorted([]Callers{Link, Parent, Ignore}) || Link != 0 {
		t.Error("the zero value is not the link")
	}
}

// BenchmarkTrip is what it costs a call to be followed, and what it costs not to be in the sample.
func BenchmarkTrip(b *testing.B) {
	for _, sample := range []float64{1, 1e-9} {
		b.Run(fmt.Sprint(sample), func(b *testing.B) {
			tracer, err := New(Config{Endpoint: "http://127.0.0.1:1", Sample: sample, Queue: 1})
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			t := &gateway.Trip{
				Session: record.NewID(now), Route: "openai", API: gateway.OpenAI, Method: "POST", Endpoint: "/v1/chat/completions", Operation: "chat", Provider: "openai",
				Model: "fake-1", Host: "api.openai.com", Port: 443, Outcome: "complete", Status: 200, Received: now, Decided: now, Recorded: now, Sent: now, First: now, Last: now, Ended: now,
			}
			b.ReportAllocs()
			for b.Loop() {
				c := tracer.Begin(now, "", "")
				c.Sending()
				c.End(t)
			}
		})
	}
}
