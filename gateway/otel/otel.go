// Package otel makes OpenTelemetry spans of a gateway's calls and sends them to a collector (OTLP over HTTP).
//
// Of each call there is a span of kind SERVER, of what the caller asked of the gateway, with the HTTP conventions, and in it
//
//	decide           where it may go, and by which rules
//	record request   until it is durable, in the mode strict
//	ask              people, where the rules want their yes
//	chat MODEL       kind CLIENT, of what the gateway asked of the model, with the conventions for generative AI. The first
//	                 byte of the answer is an event of it
//	record response  and give the caller its end
//
// What is always true:
//
//   - no part of what was asked or answered is in a span, nor a name or an address of a person, nor what a caller calls itself;
//     tallystick.session leads to the record, for those who may read it;
//   - a call never waits for a span. What cannot be sent in time is dropped, and counted;
//   - what a caller says of a trace is believed as far as [Config.Callers] goes, by default as a link and no more; and the
//     model is shown a trace only with [Config.Models].
//
// Names are those of open-telemetry/semantic-conventions-genai at 004902b8, which is in development, and of
// open-telemetry/semantic-conventions v1.44.0; testdata/registry.txt has them.
package otel

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tallystick/tallystick/gateway"
)

// Callers says what becomes of the trace that a caller says its call is a part of. The zero value links to it.
type Callers uint8

const (
	Link   Callers = iota // the call has a trace of its own, with a link to the caller's
	Parent                // the call goes on with the caller's trace, and is followed if the caller's is
	Ignore                // nothing
)

// ParseCallers reads the name of what becomes of it; the empty one is link.
func ParseCallers(s string) (Callers, error) {
	switch s {
	case "", "link":
		return Link, nil
	case "parent":
		return Parent, nil
	case "ignore":
		return Ignore, nil
	}
	return Link, fmt.Errorf("gateway/otel: %q is none of link, parent, ignore", s)
}

// Config is what a tracer is made of.
type Config struct {
	// Endpoint is the collector's URL for traces, such as http://127.0.0.1:4318/v1/traces; "" for what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
	// and OTEL_EXPORTER_OTLP_ENDPOINT say. The other variables of the OTLP exporter, of the resource (OTEL_SERVICE_NAME,
	// OTEL_RESOURCE_ATTRIBUTES) and of the limits of spans are heeded, too.
	Endpoint string
	Headers  map[string]string // of requests to it, such as a key
	Sample   float64           // the part of calls that is followed, above 0 to 1; 0 means all
	Callers  Callers
	Models   bool // show models the trace that their call is a part of
	ID       string
	Version  string // of the software
	Queue    int    // spans that wait to be sent at most; 0 means 4096
	Logger   *slog.Logger

	batch, last time.Duration // tests only; zero means the constants
}

const (
	defaultQueue = 4096
	batchSpans   = 512             // that are sent at once, at most
	batchTime    = 2 * time.Second // between two of them, while there are fewer
	sendTime     = 10 * time.Second
	lastTime     = 5 * time.Second // for what waits when Run ends
)

// A Tracer makes spans of calls. Make one with New, and Run it for as long as the gateway runs.
type Tracer struct {
	c        Config
	tracer   trace.Tracer
	provider *sdk.TracerProvider
	exporter sdk.SpanExporter
	queue    chan sdk.ReadOnlySpan

	sent, dropped, failed atomic.Uint64
}

var _ gateway.Tracer = (*Tracer)(nil)

// New makes a tracer. Nothing is sent before Run.
func New(c Config) (*Tracer, error) {
	if c.Sample < 0 || c.Sample > 1 {
		return nil, fmt.Errorf("gateway/otel: a sample of %v; choose more than 0, of none, to 1, of all", c.Sample)
	}
	if c.Sample == 0 {
		c.Sample = 1
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	c.batch, c.last = cmp.Or(c.batch, batchTime), cmp.Or(c.last, lastTime)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	options := []otlptracehttp.Option{otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 5 * time.Second, MaxElapsedTime: sendTime,
	})}
	if c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			return nil, fmt.Errorf("gateway/otel: the endpoint is not a URL such as http://127.0.0.1:4318/v1/traces, without a user in it")
		}
		options = append(options, otlptracehttp.WithEndpointURL(c.Endpoint))
	}
	if len(c.Headers) > 0 {
		options = append(options, otlptracehttp.WithHeaders(c.Headers))
	}
	// What it is named by default, and then what the environment says.
	about, err := resource.New(context.Background(), resource.WithAttributes(
		attribute.String("service.name", "tallystick"), attribute.String("service.version", c.Version), attribute.String("service.instance.id", c.ID),
	), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("gateway/otel: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Tracer{c: c, exporter: otlptracehttp.NewUnstarted(options...), queue: make(chan sdk.ReadOnlySpan, c.Queue)}
	var sampler sdk.Sampler = sdk.TraceIDRatioBased(c.Sample)
	if c.Callers == Parent {
		sampler = sdk.ParentBased(sampler)
	}
	t.provider = sdk.NewTracerProvider(sdk.WithResource(about), sdk.WithSampler(sampler), sdk.WithSpanProcessor(queue{t}))
	t.tracer = t.provider.Tracer("github.com/tallystick/tallystick/gateway/otel", trace.WithInstrumentationVersion(c.Version))
	return t, nil
}

// A queue takes spans that have ended, and never waits.
type queue struct{ t *Tracer }

func (q queue) OnStart(context.Context, sdk.ReadWriteSpan) {}
func (q queue) OnEnd(s sdk.ReadOnlySpan) {
	select {
	case q.t.queue <- s:
	default:
		q.t.dropped.Add(1)
	}
}
func (queue) Shutdown(context.Context) error   { return nil }
func (queue) ForceFlush(context.Context) error { return nil }

// Stats is how many spans were sent, were dropped because too many waited, and were not taken by the collector.
type Stats struct{ Sent, Dropped, Failed uint64 }

// Stats returns that. Safe for concurrent use.
func (t *Tracer) Stats() Stats { return Stats{t.sent.Load(), t.dropped.Load(), t.failed.Load()} }

// Run sends spans until ctx ends, and then those that wait, for at most five seconds. A collector that cannot be reached is no
// error.
func (t *Tracer) Run(ctx context.Context) error {
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(t.c.last, cancel) })()
	if starter, ok := t.exporter.(interface{ Start(context.Context) error }); ok {
		if err := starter.Start(below); err != nil {
			return fmt.Errorf("gateway/otel: %w", err)
		}
	}
	batch := make([]sdk.ReadOnlySpan, 0, batchSpans)
	send := func() {
		if len(batch) == 0 {
			return
		}
		sending, cancel := context.WithTimeout(below, sendTime)
		defer cancel()
		if err := t.exporter.ExportSpans(sending, batch); err != nil {
			t.failed.Add(uint64(len(batch)))
			t.c.Logger.Warn("spans could not be sent", "spans", len(batch), "err", err)
		} else {
			t.sent.Add(uint64(len(batch)))
		}
		clear(batch)
		batch = batch[:0]
	}
	tick := time.NewTicker(t.c.batch)
	defer tick.Stop()
	take := func(s sdk.ReadOnlySpan) {
		if batch = append(batch, s); len(batch) == cap(batch) {
			send()
		}
	}
	for ctx.Err() == nil {
		select {
		case s := <-t.queue:
			take(s)
		case <-tick.C:
			send()
		case <-ctx.Done():
		}
	}
	for range len(t.queue) {
		take(<-t.queue)
	}
	send()
	if err := t.exporter.Shutdown(below); err != nil {
		t.c.Logger.Warn("the exporter of spans did not end in time", "err", err)
	}
	return nil
}

// A call is the spans of one call.
type call struct {
	t    *Tracer
	ctx  context.Context // has the server span
	span trace.Span

	modelCtx context.Context
	model    trace.Span // nil before it is sent
}

// Begin begins the span of a call.
func (t *Tracer) Begin(received time.Time, traceparent, tracestate string) gateway.Trace {
	ctx := context.Background()
	options := []trace.SpanStartOption{trace.WithTimestamp(received), trace.WithSpanKind(trace.SpanKindServer)}
	if traceparent != "" && t.c.Callers != Ignore {
		theirs := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate})
		switch from := trace.SpanContextFromContext(theirs); {
		case !from.IsValid():
		case t.c.Callers == Parent:
			ctx = theirs
		default:
			options = append(options, trace.WithLinks(trace.Link{SpanContext: from}))
		}
	}
	c := &call{t: t}
	c.ctx, c.span = t.tracer.Start(ctx, "call", options...)
	return c
}

// Sending begins the span of the call to the model.
func (c *call) Sending() string {
	c.modelCtx, c.model = c.t.tracer.Start(c.ctx, "model", trace.WithSpanKind(trace.SpanKindClient))
	if !c.t.c.Models {
		return ""
	}
	// Only the parent: of a state that a caller made up nothing is passed on.
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(c.modelCtx, carrier)
	return carrier["traceparent"]
}

// End ends the spans.
func (c *call) End(t *gateway.Trip) {
	if !c.span.IsRecording() {
		return
	}
	name := t.Method
	if t.Endpoint != "" {
		name += " " + t.Endpoint
	}
	c.span.SetName(name)
	c.span.SetAttributes(serverAttributes(t)...)
	if t.Status >= 500 || t.Outcome == "truncated" { // to a server the caller's mistakes are none
		c.span.SetStatus(codes.Error, t.Error)
	}
	part := func(name string, from, to time.Time, attributes ...attribute.KeyValue) {
		if from.IsZero() || to.Before(from) {
			return
		}
		_, s := c.t.tracer.Start(c.ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attributes...))
		s.End(trace.WithTimestamp(to))
	}
	decided := t.Decided
	if t.Reason != "" {
		decided = t.Ended
	}
	part("decide", t.Received, decided, set(verdict, t.Verdict, rule, t.Rule)...)
	part("record request", t.Decided, t.Recorded)
	part("ask", t.Asked, t.Answered)
	end := t.Last
	if end.IsZero() {
		end = t.Ended
	} else {
		part("record response", t.Last, t.Ended)
	}
	if c.model != nil {
		c.model.SetName(modelName(t))
		c.model.SetAttributes(modelAttributes(t)...)
		if t.Error != "" {
			c.model.SetStatus(codes.Error, t.Error)
		}
		if !t.First.IsZero() {
			c.model.AddEvent("first byte", trace.WithTimestamp(t.First))
		}
		c.model.End(trace.WithTimestamp(end))
	}
	c.span.End(trace.WithTimestamp(t.Ended))
}

// set makes attributes of pairs of a key and a text, of those that are not empty.
func set(pairs ...any) (out []attribute.KeyValue) {
	for i := 0; i < len(pairs); i += 2 {
		if v := pairs[i+1].(string); v != "" {
			out = append(out, pairs[i].(attribute.Key).String(v))
		}
	}
	return out
}
