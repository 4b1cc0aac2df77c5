package assemble

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/otel"
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog/remote"
)

// A watchman tells those who run a house how it does. What the log tells the world, at /.tallystick/metrics of its read API, is a part
// of what is told here; how many calls there are, and where they go, is told here alone.
type watchman struct {
	h      *House
	c      *config.Config
	tracer *otel.Tracer // nil where nobody follows calls
	// followers are what is derived from the log, by their names: each says how many entries it has taken in.
	followers map[string]func() uint64
}

// newWatchman makes what follows calls, too, for the gateway to be told of.
func newWatchman(c *config.Config, env Env, refs *Keyring) (*watchman, error) {
	w := &watchman{c: c, followers: make(map[string]func() uint64)}
	t := c.Traces
	if t == nil {
		return w, nil
	}
	callers, err := otel.ParseCallers(t.Callers)
	if err != nil {
		return nil, err
	}
	out := otel.Config{
		Endpoint: t.Endpoint, Headers: make(map[string]string, len(t.Headers)), Sample: t.Sample, Callers: callers, Models: t.Models,
		ID: c.Gateway.ID, Version: env.Software, Queue: t.Queue, Logger: env.Logger,
	}
	for name, ref := range t.Headers {
		var secret keys.Secret
		if secret, err = refs.Credential(context.Background(), ref); err != nil {
			return nil, fmt.Errorf("traces.headers.%s: %w", name, err)
		}
		out.Headers[name] = string(secret.Reveal())
	}
	if w.tracer, err = otel.New(out); err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return w, nil
}

// follow has a gateway that is about to be made tell of its calls.
func (w *watchman) follow(gc *gateway.Config) {
	gc.Models = w.c.Ops.Models
	if w.tracer != nil {
		gc.Tracer = w.tracer
	}
}

// follows has it told how far something is that is derived from the log. Call it before Run.
func (h *House) follows(name string, entries func() uint64) { h.watch.followers[name] = entries }

// watched runs what watches for as long as do takes, and a little longer: the last calls are told of, too.
func (w *watchman) watched(ctx context.Context, at net.Listener, do func() error) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		ended <- together(ctx, func(ctx context.Context) error {
			if at == nil {
				return nil
			}
			if err := w.serve(ctx, at); err != nil {
				w.h.env.Logger.Error("nobody is told any more how everything does", "err", err)
			}
			return nil
		}, func(ctx context.Context) error {
			if w.tracer == nil {
				return nil
			}
			return w.tracer.Run(ctx)
		})
	}()
	err := do()
	cancel()
	return cmp.Or(err, <-ended)
}

// serve serves those who run the house until ctx ends.
func (w *watchman) serve(ctx context.Context, at net.Listener) error {
	srv := &http.Server{
		Handler: w.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(w.h.env.Logger.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(at); ctx.Err() == nil {
		return err
	}
	return nil
}

// handler is everything that those who run the house are told.
func (w *watchman) handler() http.Handler {
	if ix := w.h.Vault.search.index; ix != nil {
		w.followers["index"] = ix.Indexed
	}
	for _, s := range w.h.ships.all {
		w.followers["ship "+s.Status().Name] = func() uint64 { return s.Status().Next }
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.collectors()...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		all, ready := w.readiness()
		if !ready {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, says := range all {
			fmt.Fprintln(rw, says)
		}
	})
	if w.c.Ops.Private() || w.c.Ops.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		// Not cmdline: nobody knows what stands there.
		mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	}
	if !w.c.Ops.Private() {
		return mux
	}
	// A name that leads here is no name of this machine's own, but somebody's page in a browser on it.
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(rw, "this is told to this machine alone", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(rw, r)
	})
}

// readiness says of everything that a call needs how it is, in words, and if calls can pass. What can be behind without keeping a call
// is told and keeps nothing.
func (w *watchman) readiness() (all []string, ready bool) {
	ready = true
	say := func(what string, err error, well string, args ...any) {
		if err != nil {
			ready, well, args = false, "NOT READY: %v", []any{err}
		}
		all = append(all, what+": "+fmt.Sprintf(well, args...))
	}
	v := w.h.Vault
	size := uint64(0)
	if v.local != nil {
		s := v.local.Stats()
		size = s.Published
		err := s.Refuses
		if q := v.Quarantined(); q != nil {
			err = q
		}
		say("log", err, "it takes entries in; %d are durable", s.Size)
		err = nil
		if age := ago(s.SignedAt); s.Size > s.Signed && age > slowCheckpoint {
			err = fmt.Errorf("%d entries have no checkpoint, and the newest is from %v ago; see whether the anchor and the key can be reached", s.Size-s.Signed, age)
		}
		say("checkpoint", err, "%d entries are signed, %d published", s.Signed, s.Published)
		err = nil
		if s.Free > 0 && s.Free < noDisk/2 {
			err = fmt.Errorf("%d MiB are free; a full log takes nothing in, so make room", s.Free>>20)
		}
		say("disk", err, "%d MiB are free", s.Free>>20)
	}
	if g := w.h.Gateway; g != nil {
		say("gateway", g.Ready(), "calls pass; %d are under way on %d connections", w.underWay(), g.Stats().Connections)
	}
	if v.ring != nil {
		n, _ := v.ring.Stock()
		say("data keys", nil, "%d are ready", n)
	}
	for _, name := range slices.Sorted(maps.Keys(w.followers)) {
		n := w.followers[name]()
		say(name, nil, "%d entries behind", max(size, n)-n)
	}
	return all, ready
}

func (w *watchman) underWay() (n int64) {
	for _, r := range w.h.Gateway.Stats().Routes {
		n += r.InFlight
	}
	return n
}

// collectors are what metrics are made of.
func (w *watchman) collectors() []prometheus.Collector {
	all := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newRest(w)}
	if w.h.Vault.local != nil {
		all = append(all, newOnlookers(w.h.Vault))
	}
	if w.h.Gateway != nil {
		all = append(all, newMeter(w.h.Gateway))
	}
	return all
}

// A rest collects what is neither the log's nor the gateway's.
type rest struct {
	w                                          *watchman
	build, keysReady, keysRoom, waiting, spans *prometheus.Desc
	entries, lag                               *prometheus.Desc
}

func newRest(w *watchman) *rest {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tally_"+name, help, labels, nil)
	}
	return &rest{
		w:         w,
		build:     desc("build_info", "1, with what runs.", "software", "go"),
		keysReady: desc("data_keys_ready", "Data keys that are durable and not handed out."),
		keysRoom:  desc("data_keys_room", "How many there are when all is well."),
		waiting:   desc("remote_waiting_entries", "Of a log in another process: entries that it has not acknowledged."),
		spans:     desc("trace_spans_total", "Spans that were sent, dropped because too many waited, or not taken by the collector.", "result"),
		entries:   desc("follower_entries", "How many entries of the log something has taken in that is derived from it.", "follower"),
		lag:       desc("follower_lag_entries", "How many of those that are published it has not.", "follower"),
	}
}

// Describe names the metrics.
func (r *rest) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.build, r.keysReady, r.keysRoom, r.waiting, r.spans, r.entries, r.lag} {
		to <- d
	}
}

// Collect tells all of it that there is.
func (r *rest) Collect(to chan<- prometheus.Metric) {
	v := r.w.h.Vault
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(r.build, 1, r.w.h.env.Software, runtime.Version())
	if v.ring != nil {
		ready, room := v.ring.Stock()
		gauge(r.keysReady, float64(ready))
		gauge(r.keysRoom, float64(room))
	}
	if l, ok := v.Log.(interface{ Stats() remote.Stats }); ok {
		gauge(r.waiting, float64(l.Stats().Waiting))
	}
	if r.w.tracer != nil {
		s := r.w.tracer.Stats()
		for _, x := range []struct {
			result string
			n      uint64
		}{{"sent", s.Sent}, {"dropped", s.Dropped}, {"failed", s.Failed}} {
			to <- prometheus.MustNewConstMetric(r.spans, prometheus.CounterValue, float64(x.n), x.result)
		}
	}
	size := uint64(0)
	if v.local != nil {
		size = v.local.Stats().Published
	}
	for name, entries := range r.w.followers {
		n := entries()
		gauge(r.entries, float64(n), name)
		if v.local != nil {
			gauge(r.lag, float64(max(size, n)-n), name)
		}
	}
}
