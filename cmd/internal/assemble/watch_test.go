package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/witness"
)

const origin = "log.example/watched"

// TestWatched runs a log with a witness that can be turned off, and reads health and metrics as whoever watches over it
// does. The rules in cmd/tally/alerts.yaml speak of metrics that there are.
func TestWatched(t *testing.T) {
	dir := t.TempDir()
	log, err := file.Create(filepath.Join(dir, "log.key"), origin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := file.CreateCosigner(filepath.Join(dir, "witness.key"), "witness.example/w", file.Ed25519Cosigner)
	if err != nil {
		t.Fatal(err)
	}
	list, err := witness.ParseLogList([]byte("log " + log.VerifierKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := witness.OpenStore(filepath.Join(dir, "witness"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	theirs := prometheus.NewRegistry()
	w, err := witness.New(t.Context(), witness.Config{Keys: []*tlog.CosignatureSigner{key}, Logs: list, State: store, Evidence: store, Limits: witness.Limits{Log: -1}, Metrics: theirs})
	if err != nil {
		t.Fatal(err)
	}
	outside := httptest.NewServer(w.Handler())
	defer outside.Close()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy", fmt.Sprintf("log %s\nwitness w %s %s\nquorum w\n", log.VerifierKey(), key.VerifierKey(), outside.URL))
	write("tally.yaml", `log: local:data/log
origin: `+origin+`
key: log.key
anchor: dir:anchor
policy: policy
max_unanchored: 20
witnesses: {interval: 50ms, wait: 1s, timeout: 1s}
listen: 127.0.0.1:0
serve_log:
  listen: 127.0.0.1:0
  clients:
    - {name: gw, tokens: ["`+strings.Repeat("0", 64)+`"], writers: [gw]}
`)
	c, err := config.Load(filepath.Join(dir, "tally.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := Build(c, Env{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	at := Listeners{Reads: listen(t), Appends: listen(t)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, at) }()
	base := "http://" + at.Reads.Addr().String() + "/.tallystick/"
	fill := func(n int) (err error) {
		for i := 0; i < n && err == nil; i++ {
			_, err = h.Vault.Log.Append(t.Context(), tlog.Leaf{Entry: []byte("an entry")})
		}
		return err
	}
	await := func(what string, so func(m map[string]float64) bool) map[string]float64 {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			m := metrics(t, base+"metrics")
			if so(m) {
				return m
			}
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s: %v", what, m)
			}
		}
	}

	if err := fill(5); err != nil {
		t.Fatal(err)
	}
	m := await("everything to be published", func(m map[string]float64) bool { return m["tally_log_published_size"] == 5 })
	now := float64(time.Now().Unix())
	for name, want := range map[string]float64{
		"tally_log_size": 5, "tally_log_anchored_size": 5, "tally_log_checkpoint_size": 5, "tally_log_entries_total": 5,
		"tally_log_unanchored_entries": 0, "tally_log_unanchored_age_seconds": 0, "tally_log_takes_entries": 1, "tally_log_stopped": 0,
		"tally_log_quarantined": 0, "tally_log_onlooker_size": 5, "tally_log_onlooker_failures": 0, "tally_log_onlooker_faults_total": 0,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"tally_log_checkpoint_timestamp_seconds", "tally_log_published_timestamp_seconds", "tally_log_onlooker_cosigned_timestamp_seconds"} {
		if age := now - m[name]; age < -5 || age > 300 {
			t.Errorf("%s is %v, %v seconds ago", name, m[name], age)
		}
	}
	if code, says := get(t, base+"health"); code != http.StatusOK || !strings.HasPrefix(says, "ok\n5 entries, 5 anchored, 5 signed, 5 published\n") {
		t.Errorf("health: %d %s", code, says)
	}
	rules(t, newOnlookers(h.Vault), theirs)

	// Nobody cosigns.
	outside.Close()
	if err := fill(5); err != nil {
		t.Fatal(err)
	}
	await("the witness to be missed", func(m map[string]float64) bool {
		return m["tally_log_onlooker_failures"] > 0 && m["tally_log_cosign_errors_total"] > 0 && m["tally_log_checkpoint_size"] == 10 && m["tally_log_published_size"] == 5
	})
	// The anchor is away, and comes back.
	anchor, aside := filepath.Join(dir, "anchor"), filepath.Join(dir, "aside")
	if err := errors.Join(os.Rename(anchor, aside), os.WriteFile(anchor, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for err = fill(1); err == nil; err = fill(1) {
	}
	m = await("the anchor to be missed", func(m map[string]float64) bool { return m["tally_log_anchor_errors_total"] > 0 })
	if m["tally_log_takes_entries"] != 0 || m["tally_log_busy_total"] == 0 || m["tally_log_unanchored_entries"] != 21 || m["tally_log_unanchored_age_seconds"] <= 0 {
		t.Errorf("without an anchor: %v", m)
	}
	if code, says := get(t, base+"health"); code != http.StatusServiceUnavailable || !strings.Contains(says, "nothing is taken in: 21 entries are durable and not yet anchored") {
		t.Errorf("health: %d %s", code, says)
	}
	if err := errors.Join(os.Remove(anchor), os.Rename(aside, anchor)); err != nil {
		t.Fatal(err)
	}
	await("it to go on", func(m map[string]float64) bool {
		return m["tally_log_takes_entries"] == 1 && m["tally_log_checkpoint_size"] == m["tally_log_size"]
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// metrics reads Prometheus's text, by the metrics' names alone.
func metrics(t *testing.T, url string) map[string]float64 {
	t.Helper()
	code, text := get(t, url)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	out := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^(\w+)(?:\{.*\})? (\S+)$`).FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[m[1]] = v
	}
	return out
}

// rules holds the rules and the dashboard of cmd/tally against the metrics there are, which are listed beside them. What their
// expressions are worth otherwise is looked at in cmd/peers.
func rules(t *testing.T, theirs ...prometheus.Collector) {
	t.Helper()
	var lines []string
	there := make(map[string]bool)
	for _, c := range append(theirs, newMeter(nil), newRest(nil), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		descs := make(chan *prometheus.Desc)
		go func() {
			defer close(descs)
			c.Describe(descs)
		}()
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s", d)
			}
			if there[m[1]] = true; !strings.HasPrefix(m[1], "go_") && !strings.HasPrefix(m[1], "process_") {
				var labels []string
				for _, l := range labelled.FindAllStringSubmatch(m[3]+" "+strings.ReplaceAll(m[4], "<nil>", ""), -1) {
					labels = append(labels, l[1])
				}
				lines = append(lines, fmt.Sprintf("%s{%s}\t%s\n", m[1], strings.Join(labels, ","), m[2]))
			}
		}
	}
	slices.Sort(lines)
	list := "# What `tally serve` tells at GET /metrics on the address of ops, and tally-witness on its own, beside what is usual of a process in\n# Go (go_ and process_).\n" + strings.Join(slices.Compact(lines), "")
	const path = "../../tally/metrics.txt"
	if os.Getenv("WRITE_METRICS") != "" {
		if err := os.WriteFile(path, []byte(list), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(path); err != nil || string(kept) != list {
		t.Errorf("%s is not what there is (%v); WRITE_METRICS=1 writes it", path, err)
	}

	known := func(where, expr string) (n int) {
		for _, m := range regexp.MustCompile(`\b(?:tally|gen_ai_client|go|process)_\w+`).FindAllString(expr, -1) {
			base := regexp.MustCompile(`_(?:bucket|sum|count)$`).ReplaceAllString(m, "")
			if n++; !there[m] && !there[base] {
				t.Errorf("%s: there is no metric %s", where, m)
			}
		}
		return n
	}
	text, err := os.ReadFile("../../tally/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			found := known(r.Alert, r.Expr)
			if n += found; found == 0 || r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s: a rule that says too little: %+v", g.Name, r)
			}
		}
	}
	if text, err = os.ReadFile("../../tally/dashboard.json"); err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, x := range p.Targets {
			found := known(p.Title, x.Expr)
			if n += found; found == 0 {
				t.Errorf("%s: %s", p.Title, x.Expr)
			}
		}
	}
	if n < 60 {
		t.Errorf("%d metrics in all rules and panels: this test sees nothing", n)
	}
}

var (
	described = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*)", constLabels: \{(.*)\}, variableLabels: (.*)\}$`)
	labelled  = regexp.MustCompile(`([a-z_]+)(?:="[^"]*")?`)
)
