package assemble

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/witness"
)

// watched serves, beside the public log, what whoever watches over it wants to know. Nothing of it is secret: numbers and
// times of checkpoints, and how those do who look on.
//
//	GET /.tallystick/health     200, or 503 and why nothing is taken in; in words
//	GET /.tallystick/metrics    in Prometheus's text format; cmd/tally/alerts.yaml has rules for it
func watched(mux *http.ServeMux, v *Vault) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newOnlookers(v))
	mux.Handle("GET "+audit.Prefix+"metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET "+audit.Prefix+"health", func(w http.ResponseWriter, _ *http.Request) {
		s := v.local.Stats()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if s.Refuses != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "nothing is taken in:", s.Refuses)
		} else {
			fmt.Fprintln(w, "ok")
		}
		fmt.Fprintf(w, "%d entries, %d anchored, %d signed, %d published\n", s.Size, s.Anchored, s.Signed, s.Published)
		fmt.Fprintf(w, "the newest checkpoint is from %v ago, the published one from %v ago\n", ago(s.SignedAt), ago(s.PublishedAt))
		if s.Unanchored > 0 {
			fmt.Fprintf(w, "entries wait for the anchor since %v ago\n", s.Unanchored.Round(time.Millisecond))
		}
	})
}

func ago(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

// onlookers collect the metrics of a log in this process. Times are timestamps, so that an age is as of whenever it is asked
// for; but for the age of what waits, which is by a clock that only goes forward.
type onlookers struct {
	v   *Vault
	log []logMetric
	// Of witnesses and mirrors, by their names.
	size, cosigned, failures, faults *prometheus.Desc
}

// A logMetric is one figure of a log.
type logMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(s local.Stats) float64
}

func newOnlookers(v *Vault) *onlookers {
	origin := prometheus.Labels{"origin": v.c.Origin}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tally_log_"+name, help, labels, origin)
	}
	o := &onlookers{
		v:        v,
		size:     desc("onlooker_size", "Size of the newest checkpoint that a witness or mirror cosigned.", "kind", "name"),
		cosigned: desc("onlooker_cosigned_timestamp_seconds", "Time that its newest cosignature states.", "kind", "name"),
		failures: desc("onlooker_failures", "How often in a row it could not be reached, or did not cosign.", "kind", "name"),
		faults:   desc("onlooker_faults_total", "How often it lied, forgot, or signed something else.", "kind", "name"),
	}
	gauge := func(name, help string, of func(s local.Stats) float64) {
		o.log = append(o.log, logMetric{desc(name, help), prometheus.GaugeValue, of})
	}
	count := func(name, help string, of func(s local.Stats) uint64) {
		o.log = append(o.log, logMetric{desc(name, help), prometheus.CounterValue, func(s local.Stats) float64 { return float64(of(s)) }})
	}
	gauge("size", "Durable entries.", func(s local.Stats) float64 { return float64(s.Size) })
	gauge("anchored_size", "Entries that the anchor knows.", func(s local.Stats) float64 { return float64(s.Anchored) })
	gauge("checkpoint_size", "Size of the newest signed checkpoint.", func(s local.Stats) float64 { return float64(s.Signed) })
	gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was signed, or the log opened if that was later.", func(s local.Stats) float64 { return seconds(s.SignedAt) })
	gauge("published_size", "Size of the newest checkpoint that readers see.", func(s local.Stats) float64 { return float64(s.Published) })
	gauge("published_timestamp_seconds", "When that was published, or the log opened if that was later.", func(s local.Stats) float64 { return seconds(s.PublishedAt) })
	gauge("unanchored_entries", "Entries that are durable and that the anchor does not know.", func(s local.Stats) float64 { return float64(s.Size) - float64(s.Anchored) })
	gauge("unanchored_age_seconds", "For how long there have been such entries.", func(s local.Stats) float64 { return s.Unanchored.Seconds() })
	gauge("waiting_entries", "Entries on their way to the disk.", func(s local.Stats) float64 { return float64(s.Waiting) })
	gauge("takes_entries", "1 while entries are taken in.", func(s local.Stats) float64 { return flag(s.Refuses == nil) })
	gauge("stopped", "1 when none will be taken in before the log is opened again.", func(s local.Stats) float64 { return flag(s.Err != nil) })
	gauge("quarantined", "1 when the log contradicts what is remembered of it.", func(local.Stats) float64 { return flag(v.Quarantined() != nil) })
	gauge("disk_free_bytes", "Free on the store's disk when it was last looked at.", func(s local.Stats) float64 { return float64(s.Free) })
	count("entries_total", "Entries appended since the log was opened.", func(s local.Stats) uint64 { return s.Leaves })
	count("checkpoints_total", "Checkpoints signed since then.", func(s local.Stats) uint64 { return s.Checkpoints })
	count("busy_total", "Appends refused because too much was on its way, or not anchored.", func(s local.Stats) uint64 { return s.Busy })
	count("full_total", "Appends refused because the disk was full.", func(s local.Stats) uint64 { return s.Full })
	count("anchor_errors_total", "Times that the anchor did not answer, or not as it must.", func(s local.Stats) uint64 { return s.AnchorErrors })
	count("sign_errors_total", "Signatures that were not made, or not by the pinned key.", func(s local.Stats) uint64 { return s.SignErrors })
	count("cosign_errors_total", "Checkpoints that too few witnesses cosigned in time.", func(s local.Stats) uint64 { return s.CosignErrors })
	count("disk_slow_total", "Writes that took over five seconds.", func(s local.Stats) uint64 { return s.DiskSlow })
	count("write_stalls_total", "Times that the store held writes back.", func(s local.Stats) uint64 { return s.WriteStalls })
	count("background_errors_total", "Flushes and compactions of the store that failed.", func(s local.Stats) uint64 { return s.BackgroundErrors })
	count("scrubs_total", "Times that everything was read and hashed again.", func(s local.Stats) uint64 { return s.Scrubs })
	return o
}

// Describe names the metrics.
func (o *onlookers) Describe(to chan<- *prometheus.Desc) {
	for _, m := range o.log {
		to <- m.desc
	}
	for _, d := range []*prometheus.Desc{o.size, o.cosigned, o.failures, o.faults} {
		to <- d
	}
}

// Collect measures once, and tells all of it.
func (o *onlookers) Collect(to chan<- prometheus.Metric) {
	s := o.v.local.Stats()
	for _, m := range o.log {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(s))
	}
	if q := o.v.quorum.Load(); q != nil {
		for _, s := range q.Stats() {
			o.tell(to, "witness", s)
		}
	}
	for _, m := range o.v.mirrors {
		o.tell(to, "mirror", m.Stats())
	}
}

func (o *onlookers) tell(to chan<- prometheus.Metric, kind string, s witness.Status) {
	to <- prometheus.MustNewConstMetric(o.size, prometheus.GaugeValue, float64(s.Size), kind, s.Name)
	if !s.Cosigned.IsZero() {
		to <- prometheus.MustNewConstMetric(o.cosigned, prometheus.GaugeValue, seconds(s.Cosigned), kind, s.Name)
	}
	to <- prometheus.MustNewConstMetric(o.failures, prometheus.GaugeValue, float64(s.Failures), kind, s.Name)
	to <- prometheus.MustNewConstMetric(o.faults, prometheus.CounterValue, float64(s.Faults), kind, s.Name)
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
