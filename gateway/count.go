package gateway

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// What a gateway counts it counts in atomics that are made before the first call, for each route its own: to count takes no
// lock, and no memory. What is counted has the gateway's own words for names: routes, outcomes, reasons, and of models those
// of Config.Models. Nothing that a caller or a model can make up is one.

// Stats is what a gateway has done since it was made, and what it does now. No part of it is content.
type Stats struct {
	Routes []RouteStats // in the order of the configuration; the last, without a name, has what found no route

	Connections int // open now
	// Approvals counts what happened to questions, by the Event of a Notice.
	Approvals map[string]uint64
	Waiting   int           // questions that people have not answered
	Oldest    time.Duration // for how long the oldest of these has waited

	// Unrecorded counts what could not be written down: the request, of which then nothing was sent unless the mode is open; the
	// response, which was then withheld unless the mode is open; and pieces of an answer in the journal.
	Unrecorded map[string]uint64
	Lost       uint64 // in the mode open: sessions that passed and are not on record
	Untold     uint64 // of them, those that no gap entry tells of yet
	Struck     uint64 // times that the service credential was struck out of an answer
	Panics     uint64
}

// RouteStats is what was counted of one route. What is zero everywhere is left out of maps and lists.
type RouteStats struct {
	Route    string // "" for none
	API      API
	Provider string // in the words of the conventions for generative AI; "" where it is not known
	Host     string // the model's
	Port     int
	Begun    uint64 // calls that were let in, to be asked about, recorded and sent
	InFlight int64  // those of them that have not ended
	Ended    []Ended
	Refused  map[string]uint64 // by the code of the answer, "other" for what has none of its own
	Verdicts map[string]uint64 // by what the policy said

	Duration Histogram // seconds from the request's arrival to the end of its answer, of calls that were let in
	First    Histogram // seconds from sending to the head of the model's answer
	Before   Histogram // seconds that we added before sending, without the time that people took to decide
	After    Histogram // seconds that we added after the model's end

	RequestBytes, AnswerBytes uint64 // of bodies
	Input, Output             uint64 // tokens, as answers say

	Models []ModelStats // of operations that the conventions for generative AI have a name for
}

// Ended counts calls that ended in one way.
type Ended struct {
	// Outcome is that of the response's entry, or "unrecorded" where there is none because the log did not take it.
	Outcome string
	Class   string // of the status that the caller was given, such as 2xx
	Calls   uint64
}

// ModelStats is what was counted of one operation with one model.
type ModelStats struct {
	Operation string // chat, text_completion or embeddings
	Model     string // one of Config.Models, "other", or "" where that has none
	// Durations are seconds from sending to the model's end, by what went wrong; "" for nothing.
	Durations     map[string]Histogram
	FirstChunk    Histogram // seconds from sending to the first byte of a stream
	Input, Output Histogram // tokens of one call
}

// A Histogram is how often values were how large.
type Histogram struct {
	Bounds []float64 // upper ones, which belong to their bucket
	Counts []uint64  // of values in each bucket, and behind the last bound in one more
	Sum    float64
}

// Count returns how many values there were.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// A scale has the bounds of histograms. Values are whole: nanoseconds, or tokens.
type scale struct {
	bounds []float64
	most   []int64 // the same, as whole numbers
	unit   float64 // of one
}

func newScale(unit float64, bounds ...float64) *scale {
	s := &scale{bounds: bounds, unit: unit}
	for _, b := range bounds {
		s.most = append(s.most, int64(b/unit+0.5))
	}
	return s
}

const second = 1e-9 // a nanosecond's worth

// scales are those of the conventions for generative AI, and two for what is ours.
type scales struct{ operation, tokens, call, added *scale }

func newScales() *scales {
	return &scales{
		// open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md at 004902b8.
		operation: newScale(second, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
		tokens:    newScale(1, 1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
		call:      newScale(second, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
		added:     newScale(second, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
	}
}

// mostBounds is how many bounds a scale has at most.
const mostBounds = 16

// A counted histogram is one that is being counted.
type counted struct {
	counts [mostBounds + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *counted) add(s *scale, v int64) {
	i := 0
	for i < len(s.most) && v > s.most[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

func (h *counted) read(s *scale) Histogram {
	out := Histogram{Bounds: s.bounds, Counts: make([]uint64, len(s.bounds)+1), Sum: float64(h.sum.Load()) * s.unit}
	for i := range out.Counts {
		out.Counts[i] = h.counts[i].Load()
	}
	return out
}

// outUnrecorded is the outcome of a call that has no entry with one.
const outUnrecorded record.Outcome = "unrecorded"

// counts are a route's.
type counts struct {
	begun, asked, answered atomic.Uint64
	active                 atomic.Int64
	ended                  [10][5]atomic.Uint64 // by outcomes, and by the class of the status
	refused                [64]atomic.Uint64    // by reasons
	verdicts               [Allow + 1]atomic.Uint64
	input, output          atomic.Uint64

	duration, first, before, after counted

	models []modelCounts // by operation, and of each by model
}

type modelCounts struct {
	durations             [32]atomic.Pointer[counted] // by errorKinds; made when first counted
	firstChunk, ins, outs counted
}

// numbers are the gateway's.
type numbers struct {
	*scales
	nowhere *counts // what found no route
	models  []string
	model   map[string]int // into models

	approvals                   [len(events)]atomic.Uint64
	unRequest, unResponse, torn atomic.Uint64 // Unrecorded
	lost, struck, panics        atomic.Uint64
}

// events are those of a Notice.
var events = [...]string{"asked", "agreed", "granted", record.Glass, "denied", "expired"}

func eventIndex(event string) int { return slices.Index(events[:], event) }

// newNumbers makes what routes count in.
func newNumbers(models []string, rs routes) *numbers {
	n := &numbers{scales: newScales(), model: make(map[string]int)}
	if len(models) == 0 {
		n.models = []string{""}
	} else {
		n.models = append([]string{"other"}, models...)
	}
	for i, m := range models {
		n.model[m] = i + 1
	}
	fresh := func() *counts { return &counts{models: make([]modelCounts, len(operations)*len(n.models))} }
	for _, m := range rs {
		if m.route.counts == nil {
			m.route.counts = fresh()
		}
	}
	n.nowhere = fresh()
	return n
}

// operations are what calls of the known APIs do, by the end of their path, in the words of the conventions for generative AI.
var operations = [...]string{"chat", "text_completion", "embeddings"}

// operation says what a call does, as an index into operations; -1 for what has no name.
func (a API) operation(path string) int {
	switch {
	case a == HTTP:
		return -1
	case a == Anthropic && strings.HasSuffix(path, "/v1/messages"), strings.HasSuffix(path, "/v1/chat/completions"), strings.HasSuffix(path, "/v1/responses"):
		return 0
	case strings.HasSuffix(path, "/v1/completions"):
		return 1
	case strings.HasSuffix(path, "/v1/embeddings"):
		return 2
	}
	return -1
}

// outcomes are what Ended.Outcome can be.
var outcomes = [...]record.Outcome{
	record.Complete, record.Truncated, record.Denied, record.ClientGone, record.UpstreamError, record.Limit, record.Internal,
	record.Interrupted, record.Waiting, outUnrecorded,
}

func outcomeIndex(o record.Outcome) int {
	if o == record.Resumed {
		o = record.Waiting // of which the one that asked is a part
	}
	return max(0, slices.Index(outcomes[:], o))
}

// errorKinds are what error.type can be: a status of the model's, or an outcome. What is none of them is _OTHER.
var errorKinds = [...]string{
	"", "_OTHER", "400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "504", "529",
	string(record.Truncated), string(record.ClientGone), string(record.UpstreamError), string(record.Limit), string(record.Internal), string(record.Interrupted),
	string(record.Denied), string(record.Waiting), string(outUnrecorded),
}

// errorKind says what went wrong with a call, as an index into errorKinds; 0 for nothing. status is what its caller was given.
func errorKind(o record.Outcome, status int) int {
	word := string(o)
	if o == record.Complete {
		if status < 400 {
			return 0
		}
		for i, t := range errorKinds[2:] {
			if n, err := strconv.Atoi(t); err == nil && n == status {
				return i + 2
			}
		}
		return 1
	}
	if i := slices.Index(errorKinds[2:], word); i >= 0 {
		return i + 2
	}
	return 1
}

// reasons are the codes of refusals of calls. What is none of them is counted as other, the first.
var reasons = [...]string{
	"other",
	// The reading.
	"bad_chunk", "bad_connection", "bad_content_length", "bad_header_line", "bad_header_name", "bad_header_value", "bad_host", "bad_request",
	"bad_request_line", "bad_target", "bad_trailer", "bad_transfer_encoding", "bare_cr", "bare_lf", "body_not_allowed", "body_timeout",
	"body_too_large", "body_truncated", "bytes_after_head", "chunk_extensions", "chunk_overhead", "duplicate_header", "expectation_failed",
	"folded_header", "head_timeout", "head_too_large", "head_truncated", "header_not_allowed", "host_not_served", "method_not_allowed",
	"method_not_known", "missing_host", "tls_on_plain_port", "too_many_connections", "too_many_headers", "trailers_too_large", "two_lengths",
	"version_not_supported",
	// Who calls, and by which rules.
	"identity_unavailable", "invalid_api_key", "internal", "invalid_json", "unknown_route", "route_not_allowed", "policy_denied",
	"quota_exceeded", "approval_impossible", "approval_denied", "approval_expired", "approvals_unavailable", "too_many_approvals", "record_unavailable",
}

// reasonIndex is searched for refusals only, which are rarer than calls.
func reasonIndex(code string) int { return max(0, slices.Index(reasons[:], code)) }

// class is what of a status is counted, as an index.
func class(status int) int { return min(max(status/100, 1), 5) - 1 }

// of returns what a route counts in.
func (n *numbers) of(r *Route) *counts {
	if r == nil {
		return n.nowhere
	}
	return r.counts
}

// turnedAway counts a request that has no entry of its own in the log, and why.
func (g *Gateway) turnedAway(code string) {
	g.writer.Shed(1)
	g.numbers.nowhere.refused[reasonIndex(code)].Add(1)
}

// count counts a call that was let in and has ended. It allocates nothing but for the first error of its kind.
func (c *call) count(now time.Time) {
	n, k := c.g.numbers, c.route.counts
	k.active.Add(-1)
	k.ended[outcomeIndex(c.outcome)][class(c.status)].Add(1)
	k.duration.add(n.call, int64(now.Sub(c.received)))
	k.asked.Add(uint64(c.facts.Size))
	k.answered.Add(uint64(c.answerSize))
	n.struck.Add(uint64(c.struck))
	if c.sent.IsZero() {
		return
	}
	k.before.add(n.added, int64(c.sent.Sub(c.received)-c.waited))
	end := c.modelEnd
	if end.IsZero() {
		end = now
	} else {
		k.after.add(n.added, int64(now.Sub(end)))
	}
	if !c.first.IsZero() {
		k.first.add(n.operation, int64(c.first.Sub(c.sent)))
	}
	op := c.route.API.operation(c.path)
	if op < 0 {
		return
	}
	m := &k.models[op*len(n.models)+n.model[c.model]]
	h := &m.durations[errorKind(c.outcome, c.status)]
	if h.Load() == nil {
		h.CompareAndSwap(nil, new(counted))
	}
	h.Load().add(n.operation, int64(end.Sub(c.sent)))
	if c.streamed && !c.first.IsZero() {
		m.firstChunk.add(n.operation, int64(c.first.Sub(c.sent)))
	}
	if c.tokens.in >= 0 {
		k.input.Add(uint64(c.tokens.in))
		m.ins.add(n.tokens, c.tokens.in)
	}
	if c.tokens.out >= 0 {
		k.output.Add(uint64(c.tokens.out))
		m.outs.add(n.tokens, c.tokens.out)
	}
}

// Stats returns what the gateway has counted. Safe for concurrent use; numbers that belong together may be a call apart.
func (g *Gateway) Stats() Stats {
	n := g.numbers
	s := Stats{
		Connections: int(g.server.GetOpenConnectionsCount()), Approvals: make(map[string]uint64, len(events)),
		Unrecorded: map[string]uint64{"request": n.unRequest.Load(), "response": n.unResponse.Load(), "journal": n.torn.Load()},
		Lost:       n.lost.Load(), Untold: g.writer.Untold(), Struck: n.struck.Load(), Panics: n.panics.Load(),
	}
	for i, e := range events {
		s.Approvals[e] = n.approvals[i].Load()
	}
	s.Waiting, s.Oldest = g.book.waiting(time.Now())
	seen := make(map[*Route]bool)
	for i := range g.cfg.Routes {
		for _, m := range g.routes {
			if m.route.Name == g.cfg.Routes[i].Name && !seen[m.route] {
				seen[m.route] = true
				r := m.route.counts.read(n, m.route.Name, m.route.API)
				r.Provider = m.route.provider()
				r.Host, r.Port = m.route.host()
				s.Routes = append(s.Routes, r)
			}
		}
	}
	s.Routes = append(s.Routes, n.nowhere.read(n, "", HTTP))
	return s
}

func (k *counts) read(n *numbers, route string, api API) RouteStats {
	s := RouteStats{
		Route: route, API: api, Begun: k.begun.Load(), InFlight: k.active.Load(), Refused: make(map[string]uint64), Verdicts: make(map[string]uint64),
		Duration: k.duration.read(n.call), First: k.first.read(n.operation), Before: k.before.read(n.added), After: k.after.read(n.added),
		RequestBytes: k.asked.Load(), AnswerBytes: k.answered.Load(), Input: k.input.Load(), Output: k.output.Load(),
	}
	for i := range k.ended {
		for j := range k.ended[i] {
			if calls := k.ended[i][j].Load(); calls > 0 {
				s.Ended = append(s.Ended, Ended{string(outcomes[i]), string(rune('1'+j)) + "xx", calls})
			}
		}
	}
	for i, reason := range reasons {
		if r := k.refused[i].Load(); r > 0 {
			s.Refused[reason] = r
		}
	}
	for v := range k.verdicts {
		if c := k.verdicts[v].Load(); c > 0 {
			s.Verdicts[Verdict(v).String()] = c
		}
	}
	for op, operation := range operations {
		for i, model := range n.models {
			m := &k.models[op*len(n.models)+i]
			out := ModelStats{
				Operation: operation, Model: model, Durations: make(map[string]Histogram),
				FirstChunk: m.firstChunk.read(n.operation), Input: m.ins.read(n.tokens), Output: m.outs.read(n.tokens),
			}
			for e, word := range errorKinds {
				if h := m.durations[e].Load(); h != nil {
					out.Durations[word] = h.read(n.operation)
				}
			}
			if len(out.Durations) > 0 {
				s.Models = append(s.Models, out)
			}
		}
	}
	return s
}

// waiting says how many questions people have not answered, and for how long the oldest has waited.
func (b *book) waiting(now time.Time) (n int, oldest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.byID {
		if q.state == waiting && q.foreign == "" {
			n++
			oldest = max(oldest, now.Sub(q.asked))
		}
	}
	return n, oldest
}

// Ready says why no call can pass now, or nil.
func (g *Gateway) Ready() error {
	switch {
	case g.draining.Err() != nil:
		return errStopping
	case g.writer.Begun() == nil && g.cfg.Mode != Open:
		return errNotBegun
	case g.cfg.Policy != nil && g.law.Load() == nil && g.cfg.Mode != Open:
		return errNoPolicy
	}
	return g.writer.Broken()
}
