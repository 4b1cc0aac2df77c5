package assemble

import (
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tallystick/tallystick/gateway"
)

// A meter collects what a gateway has counted. It names routes, APIs, outcomes and reasons, which are ours, and of models those of the
// configuration alone. Beside what is ours it has the histograms that the conventions for generative AI describe
// (open-telemetry/semantic-conventions-genai at 004902b8, docs/gen-ai/gen-ai-metrics.md), as Prometheus writes their names.
type meter struct {
	gateway *gateway.Gateway

	begun, calls, inFlight, refusals, decisions, requestBytes, answerBytes, tokens *prometheus.Desc // by route
	duration, first, overhead                                                      *prometheus.Desc
	approvals, waiting, oldest, unrecorded, lost, untold, struck, panics           *prometheus.Desc
	connections, ready                                                             *prometheus.Desc
	genDuration, genChunk, genTokens                                               *prometheus.Desc
}

func newMeter(g *gateway.Gateway) *meter {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tally_gateway_"+name, help, labels, nil)
	}
	of := func(name, help string, labels ...string) *prometheus.Desc {
		return desc(name, help, append([]string{"route", "api"}, labels...)...)
	}
	gen := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gen_ai_client_"+name, help, append([]string{
			"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "server_address", "server_port", "tallystick_route",
		}, labels...), nil)
	}
	return &meter{
		gateway:      g,
		begun:        of("calls_begun_total", "Calls that were let in, to be asked about, recorded and sent."),
		calls:        of("calls_total", "Of these, those that have ended, by the outcome on record and the class of the status that the caller was given.", "outcome", "code"),
		inFlight:     of("calls_in_flight", "Of these, those that have not ended."),
		refusals:     of("refusals_total", "Requests that were not let in, by the code of the answer. Those that cannot be read, or come from nobody who is known, have no route.", "reason"),
		decisions:    of("decisions_total", "What the policy said.", "verdict"),
		requestBytes: of("request_bytes_total", "Bodies of requests, in bytes."),
		answerBytes:  of("answer_bytes_total", "Bodies of models' answers, in bytes."),
		tokens:       of("tokens_total", "Tokens that models say they used.", "type"),
		duration:     of("call_duration_seconds", "From a request's arrival to the end of its answer, people's time to decide included."),
		first:        of("first_byte_seconds", "From sending a call to the head of the model's answer."),
		overhead:     of("overhead_seconds", "What the gateway added: before_send, without the time that people took to decide, and after_answer, until the answer's end was on record.", "stage"),
		approvals:    desc("approvals_total", "What happened to questions to people.", "event"),
		waiting:      desc("approvals_waiting", "Questions that people have not answered."),
		oldest:       desc("approvals_oldest_seconds", "For how long the oldest of these has waited."),
		unrecorded:   desc("unrecorded_total", "Requests, responses, and pieces of answers in the journal, that could not be written down. Unless the mode is open nothing of them passed.", "what"),
		lost:         desc("lost_total", "In the mode open: sessions that passed and are not on record."),
		untold:       desc("untold_sessions", "Of these, those that no gap entry tells of yet."),
		struck:       desc("credentials_struck_total", "Times that a service credential was struck out of an answer."),
		panics:       desc("panics_total", "Faults of the gateway's own that ended a call."),
		connections:  desc("connections", "Connections of callers."),
		ready:        desc("ready", "1 while calls can pass."),
		genDuration:  gen("operation_duration_seconds", "GenAI operation duration.", "error_type"),
		genChunk:     gen("operation_time_to_first_chunk_seconds", "Time to receive the first chunk of a stream."),
		genTokens:    gen("token_usage", "Number of input and output tokens used.", "gen_ai_token_type"),
	}
}

// Describe names the metrics.
func (m *meter) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.begun, m.calls, m.inFlight, m.refusals, m.decisions, m.requestBytes, m.answerBytes, m.tokens, m.duration, m.first, m.overhead,
		m.approvals, m.waiting, m.oldest, m.unrecorded, m.lost, m.untold, m.struck, m.panics, m.connections, m.ready,
		m.genDuration, m.genChunk, m.genTokens,
	} {
		to <- d
	}
}

// Collect tells what was counted.
func (m *meter) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counts := func(d *prometheus.Desc, of map[string]uint64, labels ...string) {
		for _, word := range slices.Sorted(maps.Keys(of)) {
			count(d, of[word], append(slices.Clone(labels), word)...)
		}
	}
	spread := func(d *prometheus.Desc, h gateway.Histogram, labels ...string) {
		below, n := make(map[float64]uint64, len(h.Bounds)), uint64(0)
		for i, b := range h.Bounds {
			n += h.Counts[i]
			below[b] = n
		}
		to <- prometheus.MustNewConstHistogram(d, h.Count(), h.Sum, below, labels...)
	}
	s := m.gateway.Stats()
	for _, r := range s.Routes {
		of := []string{r.Route, r.API.String()}
		if r.Route == "" { // which is none
			of[1] = ""
			counts(m.refusals, r.Refused, of...)
			continue
		}
		with := func(word string) []string { return append(slices.Clone(of), word) }
		count(m.begun, r.Begun, of...)
		gauge(m.inFlight, float64(r.InFlight), of...)
		for _, e := range r.Ended {
			count(m.calls, e.Calls, append(with(e.Outcome), e.Class)...)
		}
		counts(m.refusals, r.Refused, of...)
		counts(m.decisions, r.Verdicts, of...)
		count(m.requestBytes, r.RequestBytes, of...)
		count(m.answerBytes, r.AnswerBytes, of...)
		count(m.tokens, r.Input, with("input")...)
		count(m.tokens, r.Output, with("output")...)
		spread(m.duration, r.Duration, of...)
		spread(m.first, r.First, of...)
		spread(m.overhead, r.Before, with("before_send")...)
		spread(m.overhead, r.After, with("after_answer")...)
		for _, x := range r.Models {
			of := []string{x.Operation, r.Provider, x.Model, r.Host, strconv.Itoa(r.Port), r.Route}
			for _, word := range slices.Sorted(maps.Keys(x.Durations)) {
				spread(m.genDuration, x.Durations[word], append(slices.Clone(of), word)...)
			}
			if x.FirstChunk.Count() > 0 {
				spread(m.genChunk, x.FirstChunk, of...)
			}
			spread(m.genTokens, x.Input, append(slices.Clone(of), "input")...)
			spread(m.genTokens, x.Output, append(slices.Clone(of), "output")...)
		}
	}
	counts(m.approvals, s.Approvals)
	gauge(m.waiting, float64(s.Waiting))
	gauge(m.oldest, s.Oldest.Seconds())
	counts(m.unrecorded, s.Unrecorded)
	count(m.lost, s.Lost)
	gauge(m.untold, float64(s.Untold))
	count(m.struck, s.Struck)
	count(m.panics, s.Panics)
	gauge(m.connections, float64(s.Connections))
	gauge(m.ready, flag(m.gateway.Ready() == nil))
}
