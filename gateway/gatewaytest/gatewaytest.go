// Package gatewaytest is a fake model: the HTTP APIs of OpenAI and Anthropic, answered from the prompt alone, with
// every fault a gateway has to survive. The demonstration, the tests and the benchmarks call it in place of a provider.
//
// It answers
//
//	POST /v1/chat/completions        JSON and event stream, tools, n, stream_options.include_usage
//	POST /v1/completions             JSON and event stream
//	POST /v1/responses               JSON and event stream, function tools
//	POST /v1/embeddings              float and base64
//	GET  /v1/models, /v1/models/ID   in Anthropic's shape when anthropic-version is set, else in OpenAI's
//	POST /v1/messages                JSON and event stream, tools
//	POST /v1/messages/count_tokens
//
// in the shapes the official SDKs parse, errors included. The text of an answer depends on the request alone; ids
// count up from 1; times are the clock's. It is always true that a Model does nothing by chance and nothing it was
// not asked to do, that it remembers what it received (Requests), and that its constructor starts nothing.
//
// # Directives
//
// Words at the start of the last user message, or of the header Fake-Model, steer the answer. What follows them is
// the prompt; a word that is no directive ends them. N counts events of a stream, or bytes of a JSON body when the
// answer is not streamed; DUR is a duration such as 50ms; SIZE is such as 64KB or 1MB.
//
//	/say             the answer is exactly the rest of the prompt
//	/size SIZE       the answer is SIZE bytes long
//	/events N        the answer's text comes in N deltas
//	/endless         deltas until the caller leaves
//	/tool NAME       call the tool NAME, whether the request has it or not
//	/incomplete      the model stops at its token limit: finish_reason length, response.incomplete, max_tokens
//	/failed          the Responses API ends with response.failed; the others answer 500
//	/echo-auth       the credential received stands in the text, in headers, and in the message of an error
//
//	/wait DUR        nothing, not even a head, for DUR
//	/hang            no head until the caller leaves
//	/slow DUR        DUR before each event
//	/drip [DUR]      the body byte by byte, DUR (2ms) apart
//	/ping            a keep-alive before each event
//	/stall N         N, then silence until the caller leaves
//
//	/error STATUS    the provider's error; 429, 503 and 529 with retry-after and retry-after-ms
//	/flaky N         503 while x-stainless-retry-count is below N, then the answer
//	/error-mid N     N, then the provider's error event; 500 when the answer is not streamed
//	/cut N           N, then a connection reset
//	/fin N           N, then the connection closes, without the chunk that ends a body
//	/end N           N, then a clean end of the transport, without the protocol's own end
//	/raw FAULT       the answer, broken at the HTTP level; Faults lists how
//
// After /cut N or /fin N with an N beyond the last event, the protocol has ended and the transport has not.
package gatewaytest

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ChatModel and EmbeddingModel are the models a Model has when Config names none.
const (
	ChatModel      = "fake-1"
	EmbeddingModel = "fake-embed-1"
)

// Config says how a Model is to behave. The zero value answers everybody at once.
type Config struct {
	// Key is the credential every request must carry, as "Authorization: Bearer KEY" or "X-Api-Key: KEY".
	// Empty: none is asked for.
	Key string
	// Models are the names it answers to, each to every kind of request; others get 404. Empty: ChatModel and
	// EmbeddingModel.
	Models []string
	// Delay is waited before each event of a stream, as by /slow.
	Delay time.Duration
	// Wait is waited before each head, as by /wait.
	Wait time.Duration
	// Keep is how many requests are remembered, the newest. 0: 1,024. Negative: none, they are only counted.
	Keep int
	// KeepBody is how many bytes of each body are remembered. 0: 64 KiB.
	KeepBody int
	// MaxBody is the longest body accepted, in bytes; a longer one gets 413. 0: 64 MiB.
	MaxBody int64
}

// A Model is a fake model. It is an http.Handler, safe for concurrent use. Directives that break HTTP need the
// handler to own an HTTP/1.1 connection; over HTTP/2 they get 500.
type Model struct {
	cfg    Config
	ids    atomic.Uint64
	ledger ledger
}

// New returns a Model. It starts nothing.
func New(cfg Config) *Model {
	if len(cfg.Models) == 0 {
		cfg.Models = []string{ChatModel, EmbeddingModel}
	}
	if cfg.Keep == 0 {
		cfg.Keep = 1024
	}
	if cfg.KeepBody == 0 {
		cfg.KeepBody = 64 << 10
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 64 << 20
	}
	m := &Model{cfg: cfg}
	m.ledger.keep = cfg.Keep
	return m
}

// Run serves HTTP/1.1 on ln until ctx is done, then closes ln and every connection. It returns nil when ctx ended
// it, and else the error of ln.
func (m *Model) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           m,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // frees the handlers of hijacked connections too
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); ctx.Err() == nil || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("fake model: %w", err)
	}
	return nil
}

// vendor is whose manners a route has.
type vendor uint8

const (
	openAI vendor = iota
	anthropic
)

// A reply is an answer in the shape of one API.
type reply interface {
	// whole is the answer that is not streamed.
	whole() []byte
	// events yields the events of the stream; last marks the protocol's own end.
	events(yield func(event []byte, last bool) bool)
	// broken is the error event this API sends in place of the rest.
	broken() []byte
}

// A failure is an error of the provider's, before it has a shape.
type failure struct {
	status  int
	message string
	code    string // OpenAI's alone, as param is
	param   string
}

func (f *failure) Error() string { return f.message }

// call is one request on its way through ServeHTTP.
type call struct {
	m      *Model
	vendor vendor
	path   string // of the route, without a model's name
	id     string // request id
	orders orders
	ask    ask
	header http.Header // of the answer
}

// ServeHTTP answers one request. The order: it is remembered before anything is looked at; the credential comes
// before the body's meaning; directives come after both, so that they cannot be used without the key.
func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, tooLong := readBody(r.Body, m.cfg.MaxBody)
	e := m.ledger.open(r, body, m.cfg.KeepBody)
	outcome := Gone
	defer func() { m.ledger.close(e, outcome) }()
	outcome = m.serve(w, r, body, tooLong)
}

func (m *Model) serve(w http.ResponseWriter, r *http.Request, body []byte, tooLong bool) Outcome {
	c := &call{m: m, id: fmt.Sprintf("req_%016x", m.ids.Add(1)), header: w.Header()}
	c.route(r)
	c.headers()
	rep, err := c.read(r, body, tooLong)
	if err == nil {
		err = c.orders.refusal(r.Header)
	}
	if !sleep(r.Context(), max(c.orders.wait, m.cfg.Wait)) {
		return Gone
	}
	if c.orders.hang {
		<-r.Context().Done()
		return Gone
	}
	var f *failure
	switch {
	case errors.As(err, &f):
		c.fail(w, r, f)
		return Failed
	case c.orders.breaks():
		return c.breakOff(w, r, rep)
	case c.ask.stream:
		return c.stream(w, r, rep)
	default:
		return c.plain(w, r, rep)
	}
}

// readBody reads a body, or finds it longer than limit. What arrived before a caller left is kept.
func readBody(r io.Reader, limit int64) (body []byte, tooLong bool) {
	if r == nil {
		return nil, false
	}
	body, _ = io.ReadAll(io.LimitReader(r, limit+1))
	return body, int64(len(body)) > limit
}

// route finds whose manners and which endpoint the request asks for.
func (c *call) route(r *http.Request) {
	c.path = r.URL.Path
	switch {
	case strings.HasPrefix(c.path, "/v1/messages"):
		c.vendor = anthropic
	case c.path == "/v1/models" || strings.HasPrefix(c.path, "/v1/models/"):
		c.path = "/v1/models"
		if r.Header.Get("Anthropic-Version") != "" {
			c.vendor = anthropic
		}
	}
}

// headers sets what real providers set on every answer.
func (c *call) headers() {
	h := c.header
	if c.vendor == anthropic {
		h.Set("Request-Id", c.id)
		h.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-00000000fa4e")
		h.Set("Anthropic-Ratelimit-Requests-Limit", "4000")
		h.Set("Anthropic-Ratelimit-Requests-Remaining", "3999")
		return
	}
	h.Set("X-Request-Id", c.id)
	h.Set("Openai-Organization", "fake")
	h.Set("Openai-Version", "2020-10-01")
	h.Set("Openai-Processing-Ms", "7")
	h.Set("X-Ratelimit-Limit-Requests", "5000")
	h.Set("X-Ratelimit-Remaining-Requests", "4999")
}

// read turns the request into a reply, or into the failure the provider would answer.
func (c *call) read(r *http.Request, body []byte, tooLong bool) (reply, error) {
	if c.m.cfg.Key != "" && !carries(r.Header, c.m.cfg.Key) {
		return nil, c.unauthorized(r.Header)
	}
	if err := c.orders.parse(r.Header.Get("Fake-Model")); err != nil {
		return nil, err
	}
	if tooLong {
		return nil, &failure{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("Request exceeds the maximum size of %d bytes", c.m.cfg.MaxBody)}
	}
	ends := endpoints[c.path]
	switch {
	case ends.read == nil:
		return nil, &failure{status: http.StatusNotFound, message: fmt.Sprintf("Invalid URL (%s %s)", r.Method, r.URL.Path)}
	case r.Method != ends.method:
		return nil, &failure{status: http.StatusMethodNotAllowed, message: fmt.Sprintf("Not allowed to %s on %s.", r.Method, r.URL.Path), code: "method_not_supported"}
	case c.vendor == anthropic && r.Header.Get("Anthropic-Version") == "":
		return nil, &failure{status: http.StatusBadRequest, message: "anthropic-version: header is required"}
	}
	rep, err := ends.read(c, r, body)
	if err != nil {
		return nil, err
	}
	if c.orders.failed && c.path != "/v1/responses" || c.orders.ending == failing && !c.ask.stream {
		return nil, &failure{status: http.StatusInternalServerError, message: reason(http.StatusInternalServerError)}
	}
	if c.orders.echoAuth {
		for _, name := range []string{"Authorization", "X-Api-Key"} {
			if v := r.Header.Get(name); v != "" {
				c.header.Set("X-Echo-"+name, v)
			}
		}
	}
	return rep, nil
}

// endpoints are the routes a Model has.
var endpoints = map[string]struct {
	method string
	read   func(c *call, r *http.Request, body []byte) (reply, error)
}{
	"/v1/chat/completions":      {http.MethodPost, readChat},
	"/v1/completions":           {http.MethodPost, readCompletion},
	"/v1/responses":             {http.MethodPost, readResponse},
	"/v1/embeddings":            {http.MethodPost, readEmbedding},
	"/v1/models":                {http.MethodGet, readModels},
	"/v1/messages":              {http.MethodPost, readMessage},
	"/v1/messages/count_tokens": {http.MethodPost, readCount},
}

// carries tells whether h holds the key in one of the places a caller may put it.
func carries(h http.Header, key string) bool {
	for _, got := range []string{strings.TrimPrefix(h.Get("Authorization"), "Bearer "), h.Get("X-Api-Key")} {
		if subtle.ConstantTimeCompare([]byte(got), []byte(key)) == 1 {
			return true
		}
	}
	return false
}

// credential is what the caller sent, as it sent it.
func credential(h http.Header) string {
	if v := h.Get("Authorization"); v != "" {
		return v
	}
	return h.Get("X-Api-Key")
}

func (c *call) unauthorized(h http.Header) *failure {
	f := &failure{status: http.StatusUnauthorized, code: "invalid_api_key", message: "Incorrect API key provided."}
	switch {
	case c.vendor == anthropic:
		f.message = "invalid x-api-key"
	case credential(h) == "":
		f.message, f.code = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth.", ""
	}
	return f
}

// fail answers with a provider's error.
func (c *call) fail(w http.ResponseWriter, r *http.Request, f *failure) {
	g := *f
	if c.orders.echoAuth {
		g.message += " Credential provided: " + credential(r.Header) + "."
	}
	body := openAIError(&g)
	if c.vendor == anthropic {
		body = anthropicError(&g, c.id)
	}
	switch f.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, statusOverloaded:
		c.header.Set("Retry-After", "1")
		c.header.Set("Retry-After-Ms", "20")
	}
	c.header.Set("Content-Type", "application/json")
	c.header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	_, _ = w.Write(body)
}

// statusOverloaded is Anthropic's 529.
const statusOverloaded = 529

// plain answers with a JSON body.
func (c *call) plain(w http.ResponseWriter, r *http.Request, rep reply) Outcome {
	o := &c.orders
	body := rep.whole()
	c.header.Set("Content-Type", "application/json")
	if o.ending != toEnd {
		body = body[:min(o.at, len(body))]
	}
	if o.ending == stalling {
		c.header.Set("Content-Length", strconv.Itoa(len(rep.whole())))
	} else {
		c.header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if !o.write(w, r, body) {
		return Gone
	}
	if o.ending == stalling {
		<-r.Context().Done()
		return Gone
	}
	return Done
}

// stream answers with an event stream.
func (c *call) stream(w http.ResponseWriter, r *http.Request, rep reply) Outcome {
	o := &c.orders
	c.header.Set("Content-Type", "text/event-stream; charset=utf-8")
	c.header.Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	n, outcome := 0, Done
	rep.events(func(event []byte, last bool) bool {
		switch {
		case o.ending == ending && last:
			return false
		case o.ending != toEnd && n == o.at:
			switch o.ending {
			case stalling:
				<-r.Context().Done()
				outcome = Gone
			case failing:
				if !o.write(w, r, rep.broken()) {
					outcome = Gone
				}
			}
			return false
		}
		n++
		if !sleep(r.Context(), max(o.slow, c.m.cfg.Delay)) || o.ping && !o.write(w, r, c.keepAlive()) || !o.write(w, r, event) {
			outcome = Gone
			return false
		}
		return true
	})
	return outcome
}

// keepAlive is what the provider sends when it has nothing to say.
func (c *call) keepAlive() []byte {
	if c.vendor == anthropic {
		return anthropicEvent("ping", struct {
			Type string `json:"type"`
		}{"ping"})
	}
	return []byte(": keep-alive\n\n")
}

// write sends p and flushes it, and reports whether the caller is still there.
func (o *orders) write(w http.ResponseWriter, r *http.Request, p []byte) bool {
	flush := http.NewResponseController(w).Flush
	if o.drip == 0 {
		_, err := w.Write(p)
		return err == nil && flush() == nil && r.Context().Err() == nil
	}
	for i := range p {
		if _, err := w.Write(p[i : i+1]); err != nil || flush() != nil || !sleep(r.Context(), o.drip) {
			return false
		}
	}
	return true
}

// sleep waits for d, and reports whether the caller is still there.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// encode writes JSON as providers do, with <, > and & as they are.
func encode(v any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // the types are our own
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}
