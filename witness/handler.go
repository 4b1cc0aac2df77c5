package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the whole protocol at one prefix: POST add-checkpoint, POST sign-subtree if the witness has a key that can,
// and what MonitorHandler serves. For another prefix than the root of a host, put http.StripPrefix before it. An address has
// one spelling; whatever else is asked for is not found, and nobody is sent elsewhere. Bodies are bounded; how long a client
// may take over a request is for the http.Server to say.
func (w *Witness) Handler() http.Handler {
	submissions := map[string]http.Handler{
		"/add-checkpoint": w.metrics.instrument("add-checkpoint", w.submission(func(r *http.Request, body []byte) ([]byte, error) {
			return w.addCheckpoint(r.Context(), body)
		})),
	}
	if slices.ContainsFunc(w.keys, func(k witnessKey) bool { return k.Subtrees() }) {
		submissions["/sign-subtree"] = w.metrics.instrument("sign-subtree", w.submission(func(_ *http.Request, body []byte) ([]byte, error) {
			return w.signSubtree(body)
		}))
	}
	monitor := w.MonitorHandler()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h, ok := submissions[r.URL.EscapedPath()]
		if !ok {
			h = monitor
		}
		h.ServeHTTP(rw, r)
	})
}

// MonitorHandler serves GET <hex SHA-256 of an origin>/checkpoint: the newest checkpoint cosigned of that log, with the log's
// signatures and ours. It is as new as the last answer, and may be cached for ten seconds.
func (w *Witness) MonitorHandler() http.Handler {
	return w.metrics.instrument("checkpoint", http.HandlerFunc(w.monitor))
}

// originSum names a log in the monitoring address.
func originSum(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

func (w *Witness) monitor(rw http.ResponseWriter, r *http.Request) {
	sum, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/checkpoint")
	if !ok || len(sum) != hex.EncodedLen(sha256.Size) {
		plain(rw, http.StatusNotFound, "there is nothing at this address")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed(rw, "GET, HEAD")
		return
	}
	h := rw.Header()
	h.Set("Access-Control-Allow-Origin", "*") // auditors may sit in a browser
	h.Set("Cache-Control", "public, max-age=10")
	w.mu.RLock()
	l := w.sums[sum]
	w.mu.RUnlock()
	var s *seen
	if l != nil {
		s = l.shown.Load()
	}
	if s == nil || s.note == nil {
		plain(rw, http.StatusNotFound, "this witness has cosigned no checkpoint of such a log")
		return
	}
	digest := sha256.Sum256(s.note)
	etag := `"` + hex.EncodeToString(digest[:16]) + `"`
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(s.note)))
	rw.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		rw.Write(s.note)
	}
}

// submission is what both requests that ask for signatures have in common.
func (w *Witness) submission(serve func(r *http.Request, body []byte) ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			notAllowed(rw, "POST")
			return
		}
		lines, err := w.read(rw, r, serve)
		var no *refusal
		switch {
		case err == nil:
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			rw.Write(lines)
		case errors.As(err, &no):
			w.metrics.refusals.WithLabelValues(no.reason).Inc()
			w.log.Debug("refused", "path", r.URL.Path, "status", no.status, "reason", no.reason, "err", no.err)
			no.write(rw)
		}
	})
}

// read takes the body of a submission, if there is a place for it, and serves it. Its error is a *refusal.
func (w *Witness) read(rw http.ResponseWriter, r *http.Request, serve func(*http.Request, []byte) ([]byte, error)) ([]byte, error) {
	if wait := w.overall.take(w.now()); wait > 0 {
		return nil, &refusal{status: http.StatusTooManyRequests, reason: "overall-limit", retry: wait, err: errors.New("too many submissions; slow down")}
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, MaxRequest))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, refuse(http.StatusRequestEntityTooLarge, "too-large", fmt.Errorf("the body is over the limit of %d bytes", MaxRequest))
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "cut-off", errors.New("the body could not be read to its end"))
	}
	return serve(r, body)
}

// A refusal is an answer that is not a signature.
type refusal struct {
	status int
	reason string        // for metrics: one word of a fixed set
	size   uint64        // of the newest cosigned checkpoint, for 409
	retry  time.Duration // after which it may be tried again; 0 for nothing said
	err    error         // for the client
}

func refuse(status int, reason string, err error) *refusal {
	return &refusal{status: status, reason: reason, err: err}
}

func (r *refusal) Error() string { return r.err.Error() }

func (r *refusal) write(rw http.ResponseWriter) {
	if r.retry > 0 {
		rw.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(r.retry.Seconds())), 10))
	}
	if r.status == http.StatusConflict {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(r.status)
		fmt.Fprintf(rw, "%d\n", r.size)
		return
	}
	plain(rw, r.status, r.Error())
}

// notAllowed answers another method than those in allow.
func notAllowed(rw http.ResponseWriter, allow string) {
	rw.Header().Set("Allow", allow)
	plain(rw, http.StatusMethodNotAllowed, "this address takes "+allow)
}

func plain(rw http.ResponseWriter, status int, text string) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	fmt.Fprintln(rw, text)
}

// A bucket lets through so many a second, on average: it fills at that rate and holds two seconds' worth, and ten at least.
// A nil bucket lets everything through.
type bucket struct {
	rate, full float64

	mu   sync.Mutex
	has  float64
	last time.Time
}

// newBucket returns a full bucket, or nil for a rate below zero.
func newBucket(rate float64) *bucket {
	if rate < 0 {
		return nil
	}
	full := max(2*rate, 10)
	return &bucket{rate: rate, full: full, has: full}
}

// take takes one out, and returns 0; or else how long it will be until there is one.
func (b *bucket) take(now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.has = min(b.full, b.has+b.rate*max(0, now.Sub(b.last).Seconds()))
	}
	b.last = now
	if b.has >= 1 {
		b.has--
		return 0
	}
	return time.Duration((1 - b.has) / b.rate * float64(time.Second))
}

// orDefault returns v, or d for the zero value.
func orDefault(v, d float64) float64 {
	if v == 0 {
		return d
	}
	return v
}

// metrics are those of one witness. They are counted also where nobody gathers them.
type metrics struct {
	requests       *prometheus.CounterVec
	duration       *prometheus.HistogramVec
	inFlight       *prometheus.GaugeVec
	refusals       *prometheus.CounterVec
	contradictions *prometheus.CounterVec
	size, time     *prometheus.GaugeVec
	logs           prometheus.Gauge
	storeErrors    prometheus.Counter
	clockErrors    prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tally_witness", Name: n, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(name("http_requests_total", "Requests answered.")), []string{"endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tally_witness", Name: "http_request_duration_seconds", Help: "Time from the head of a request to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"endpoint"}),
		inFlight:       prometheus.NewGaugeVec(prometheus.GaugeOpts(name("http_requests_in_flight", "Requests not answered yet.")), []string{"endpoint"}),
		refusals:       prometheus.NewCounterVec(prometheus.CounterOpts(name("refusals_total", "Submissions that were not cosigned.")), []string{"reason"}),
		contradictions: prometheus.NewCounterVec(prometheus.CounterOpts(name("contradictions_total", "Signed checkpoints that contradict what a log signed before: fork, or unproven.")), []string{"origin", "kind"}),
		size:           prometheus.NewGaugeVec(prometheus.GaugeOpts(name("log_size", "Size of the newest cosigned checkpoint.")), []string{"origin"}),
		time:           prometheus.NewGaugeVec(prometheus.GaugeOpts(name("log_cosigned_timestamp_seconds", "Time that the newest cosignature states.")), []string{"origin"}),
		logs:           prometheus.NewGauge(prometheus.GaugeOpts(name("logs", "Logs on the list."))),
		storeErrors:    prometheus.NewCounter(prometheus.CounterOpts(name("store_errors_total", "Checkpoints that could not be stored."))),
		clockErrors:    prometheus.NewCounter(prometheus.CounterOpts(name("clock_errors_total", "Checkpoints not cosigned because the clock was wrong."))),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.inFlight, m.refusals, m.contradictions, m.size, m.time, m.logs, m.storeErrors, m.clockErrors} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) instrument(endpoint string, h http.Handler) http.Handler {
	l := prometheus.Labels{"endpoint": endpoint}
	return promhttp.InstrumentHandlerInFlight(m.inFlight.With(l),
		promhttp.InstrumentHandlerDuration(m.duration.MustCurryWith(l),
			promhttp.InstrumentHandlerCounter(m.requests.MustCurryWith(l), h)))
}
