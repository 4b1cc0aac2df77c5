package assemble

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/file"
)

const opsKey = "tk-alice-0123456789abcdef"

// What is planted in the calls of TestOps, wherever a caller can put it.
var planted = []string{
	"plantedprompt", "4111111111111111", "alice", "example.org", "plantedquery", "plantedagent", "+15550100", "0123456789abcdef", "sk-planted-credential", "hunter2", "plantedmodel",
}

// opsHouse builds a house that tells how it does, before a fake model.
func opsHouse(t *testing.T, more string) (*House, Listeners) {
	t.Helper()
	dir := t.TempDir()
	if _, err := file.Create(filepath.Join(dir, "log.key"), origin); err != nil {
		t.Fatal(err)
	}
	if _, err := file.CreateKEK(filepath.Join(dir, "kek.key")); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("model.key", "sk-planted-credential\n")
	write("collector.key", "hunter2\n")
	write("rules.yaml", "otherwise: allow\nrules:\n  - name: never\n    when: has(request.model) && request.model == 'fake-no'\n    then: refuse\n")
	model := gatewaytest.New(gatewaytest.Config{Key: "sk-planted-credential"})
	models := listen(t)
	mctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { model.Run(mctx, models) })
	t.Cleanup(func() { stop(); running.Wait() })
	sum := sha256.Sum256([]byte(opsKey))
	write("tally.yaml", fmt.Sprintf(`log: local:data/log
origin: %s
key: log.key
anchor: dir:anchor
max_unanchored: 200
data_keys: {dir: data/ring, kek: kek.key}
listen: 127.0.0.1:0
gateway:
  id: gw-1
  listen: 127.0.0.1:0
  journal: data/journal
  policy: rules.yaml
  approvals: {groups: [approvers]}
  callers:
    - {name: alice@example.org, email: alice@example.org, sha256: %s}
  routes:
    - {name: openai, api: openai, upstream: "http://%s", credential: {file: model.key}}
%s`, origin, hex.EncodeToString(sum[:]), models.Addr(), more))
	c, err := config.Load(filepath.Join(dir, "tally.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := Build(c, Env{Logger: slog.New(slog.DiscardHandler), Software: "tallystick/test"})
	if err != nil {
		t.Fatal(err)
	}
	return h, Listeners{Calls: listen(t), Reads: listen(t), Ops: listen(t)}
}

// TestOps makes calls with everything private in them, and reads all that those who run the house are told: metrics, words, profiles
// and spans have their numbers, and nothing of what was planted.
func TestOps(t *testing.T) {
	var spans bytes.Buffer
	var mu sync.Mutex
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Api-Key") != "hunter2" {
			t.Errorf("the collector is shown %q", r.Header.Get("Api-Key"))
		}
		io.Copy(&spans, r.Body)
	}))
	defer collector.Close()
	h, at := opsHouse(t, "ship: [{name: siem, to: 'file:"+filepath.Join(t.TempDir(), "entries.jsonl")+"'}]\nops: {listen: 127.0.0.1:9464, models: [fake-1]}\ntraces: {endpoint: '"+collector.URL+"', headers: {api-key: {file: collector.key}}}\n")
	h.follows("another", func() uint64 { return 3 })
	if h.watch.c.Ops.Listen != "127.0.0.1:9464" {
		t.Fatal(h.watch.c.Ops)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, at) }()
	base := "http://" + at.Ops.Addr().String()
	await(t, "everything to be ready", func() bool {
		resp, err := http.Get(base + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	prompt := "plantedprompt 4111111111111111 alice@example.org +15550100 " + opsKey
	call := func(key, path, model string, stream bool, status int) {
		t.Helper()
		body := fmt.Sprintf(`{"model":%q,"stream":%t,"user":"alice@example.org","messages":[{"role":"user","content":%q}]}`, model, stream, prompt)
		req, _ := http.NewRequest("POST", "http://"+at.Calls.Addr().String()+path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", "plantedagent alice@example.org")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); resp.StatusCode != status {
			t.Fatalf("%s: %d, want %d: %s", path, resp.StatusCode, status, b)
		}
	}
	call(opsKey, "/v1/chat/completions?q=plantedquery", "fake-1", false, 200)
	call(opsKey, "/v1/chat/completions", "fake-1", true, 200)
	call(opsKey, "/v1/chat/completions", "plantedmodel alice@example.org", false, 404)
	call(opsKey, "/v1/chat/completions", "fake-no", false, 403)
	call(opsKey, "/plantedprompt/4111111111111111", "fake-1", false, 404)
	call("tk-plantedprompt-hunter2", "/v1/chat/completions", "fake-1", false, 401)

	_, text := get(t, base+"/metrics")
	for _, line := range []string{
		`tally_gateway_calls_total{api="openai",code="2xx",outcome="complete",route="openai"} 2`,
		`tally_gateway_calls_total{api="openai",code="4xx",outcome="complete",route="openai"} 1`,
		`tally_gateway_calls_begun_total{api="openai",route="openai"} 3`,
		`tally_gateway_calls_in_flight{api="openai",route="openai"} 0`,
		`tally_gateway_refusals_total{api="openai",reason="policy_denied",route="openai"} 1`,
		`tally_gateway_refusals_total{api="",reason="unknown_route",route=""} 1`,
		`tally_gateway_refusals_total{api="",reason="invalid_api_key",route=""} 1`,
		`tally_gateway_decisions_total{api="openai",route="openai",verdict="allow"} 3`,
		`tally_gateway_decisions_total{api="openai",route="openai",verdict="refuse"} 1`,
		`tally_gateway_call_duration_seconds_count{api="openai",route="openai"} 3`,
		`tally_gateway_overhead_seconds_count{api="openai",route="openai",stage="before_send"} 3`,
		`tally_gateway_overhead_seconds_count{api="openai",route="openai",stage="after_answer"} 3`,
		`tally_gateway_approvals_waiting 0`, `tally_gateway_approvals_total{event="asked"} 0`, `tally_gateway_ready 1`,
		`tally_gateway_unrecorded_total{what="request"} 0`, `tally_log_takes_entries{origin="log.example/watched"} 1`,
		`tally_follower_entries{follower="another"} 3`, `tally_follower_lag_entries{follower="index"}`, `tally_follower_lag_entries{follower="ship siem"}`, `tally_build_info{go="` + runtime.Version() + `",software="tallystick/test"} 1`,
		`gen_ai_client_operation_time_to_first_chunk_seconds_count`, `go_goroutines`, `process_resident_memory_bytes`, `tally_data_keys_ready`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("there is no %s", line)
		}
	}
	for _, like := range []string{
		`gen_ai_client_token_usage_count\{gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="fake-1",gen_ai_token_type="input",server_address="127.0.0.1",server_port="\d+",tallystick_route="openai"\} [12]`,
		`gen_ai_client_operation_duration_seconds_count\{error_type="404",gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="other",`,
		`gen_ai_client_operation_duration_seconds_count\{error_type="",gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="fake-1",`,
		`tally_gateway_tokens_total\{api="openai",route="openai",type="output"\} [1-9]`,
	} {
		if !regexp.MustCompile(like).MatchString(text) {
			t.Errorf("there is no %s", like)
		}
	}
	// Prometheus's own linter has its say, of what is ours.
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMeter(h.Gateway), newRest(h.watch), newOnlookers(h.Vault))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if code, says := get(t, base+"/readyz"); code != 200 || !strings.Contains(says, "gateway: calls pass") || !strings.Contains(says, "another: ") || !strings.Contains(says, "index: ") {
		t.Errorf("%d %s", code, says)
	}
	if code, says := get(t, base+"/healthz"); code != 200 || says != "ok\n" {
		t.Errorf("%d %s", code, says)
	}
	told := text
	for _, path := range []string{"/readyz", "/healthz", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/threadcreate?debug=1"} {
		code, says := get(t, base+path)
		if told += says; code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := get(t, base+"/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("the command line is told: %d", code)
	}
	// To a page in a browser on this machine nothing is told.
	req, _ := http.NewRequest("GET", base+"/metrics", nil)
	req.Host = "rebound.example"
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Error(resp, err)
	}
	// Nothing of it is on the public read API.
	public := "http://" + at.Reads.Addr().String()
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/debug/pprof/"} {
		if code, _ := get(t, public+path); code == http.StatusOK {
			t.Errorf("%s is public", path)
		}
	}
	if _, says := get(t, public+"/.tallystick/metrics"); strings.Contains(says, "tally_gateway") || strings.Contains(says, "gen_ai") || !strings.Contains(says, "tally_log_size") {
		t.Errorf("the public metrics are %s", says)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if spans.Len() == 0 {
		t.Error("no span was sent")
	}
	for _, p := range planted {
		if strings.Contains(told, p) {
			t.Errorf("%q is told", p)
		}
		if bytes.Contains(spans.Bytes(), []byte(p)) {
			t.Errorf("%q is in spans", p)
		}
	}
}

func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestNotReady takes away what calls need, and reads in words what is missing.
func TestNotReady(t *testing.T) {
	h, at := opsHouse(t, "ops: {listen: 127.0.0.1:9464}\n")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, at) }()
	base := "http://" + at.Ops.Addr().String()
	says := func(code int, words string) func() bool {
		return func() bool {
			resp, err := http.Get(base + "/readyz")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return err == nil && resp.StatusCode == code && strings.Contains(string(b), words)
		}
	}
	await(t, "everything to be ready", says(200, "log: it takes entries in"))
	anchor := h.Vault.c.AnchorDir()
	if err := errors.Join(os.Rename(anchor, anchor+".aside"), os.WriteFile(anchor, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	await(t, "the log to take nothing", func() bool {
		req, _ := http.NewRequest("POST", "http://"+at.Calls.Addr().String()+"/v1/chat/completions", strings.NewReader(`{"model":"fake-1","messages":[]}`))
		req.Header.Set("Authorization", "Bearer "+opsKey)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
		return says(503, "log: NOT READY: ")()
	})
	if m := metrics(t, base+"/metrics"); m["tally_log_takes_entries"] != 0 {
		t.Errorf("%v", m["tally_log_takes_entries"])
	}
	if code, _ := get(t, base+"/healthz"); code != 200 {
		t.Errorf("the process lives, and healthz says %d", code)
	}
	if err := errors.Join(os.Remove(anchor), os.Rename(anchor+".aside", anchor)); err != nil {
		t.Fatal(err)
	}
	await(t, "everything to be ready again", says(200, "log: it takes entries in"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Where others can reach it, what is told has no profiles in it, unless somebody says so.
func TestProfiles(t *testing.T) {
	h, _ := opsHouse(t, "ops: {listen: 10.0.0.1:9464}\n")
	defer h.Vault.Close()
	for _, profiles := range []bool{false, true} {
		h.watch.c.Ops.Profiles = profiles
		rw := httptest.NewRecorder()
		h.watch.handler().ServeHTTP(rw, httptest.NewRequest("GET", "http://tally.internal:9464/debug/pprof/", nil))
		if (rw.Code == 200) != profiles {
			t.Errorf("profiles %v: %d", profiles, rw.Code)
		}
		rw = httptest.NewRecorder()
		h.watch.handler().ServeHTTP(rw, httptest.NewRequest("GET", "http://tally.internal:9464/healthz", nil))
		if rw.Code != 200 {
			t.Errorf("%d", rw.Code)
		}
	}
}
