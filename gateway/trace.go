package gateway

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// A Tracer follows calls, each from its beginning to its end; see gateway/otel. It must not wait, whatever happens to those it
// tells. Safe for concurrent use.
type Tracer interface {
	// Begin is told that a call of a known caller has begun, and what the caller says of the trace that it is a part of: the
	// values of traceparent and tracestate (W3C Trace Context), which are anybody's word, and "" where there are none.
	Begin(received time.Time, traceparent, tracestate string) Trace
}

// A Trace is one call's.
type Trace interface {
	// Sending is told that the call is about to be sent, and returns what its model is to be shown as traceparent; "" for
	// what the caller sent, if anything.
	Sending() (traceparent string)
	// End is told of the call once it is over, once.
	End(t *Trip)
}

// A Trip is what a [Tracer] is told of a call that is over. No part of it is content: it has neither what was asked nor what
// was answered, no path that a caller chose and no name of a person. Words that a caller or a model chose, of which there are
// those that name a model, an answer and why it ended, are left out where they do not look like that.
type Trip struct {
	Session   record.ID
	Route     string // "" where none was found
	API       API
	Method    string
	Endpoint  string // the path that the route's API has, with the route's prefix; a prefix ends in a slash
	Operation string // chat, text_completion or embeddings; "" for another
	Provider  string // in the words of the conventions for generative AI; "" where it is not known
	Model     string // that was asked for, masked where its route masks
	Stream    bool   // that was asked for
	MaxTokens int64  // the most that was asked for, 0 for no limit
	Host      string // the model's
	Port      int

	Verdict string // the policy's; "" where there is none
	Rule    string // the name of the rule that decided
	Reason  string // the code by which the call was refused; "" where it was let in
	Outcome string // as that of Ended, or "refused"
	Status  int    // that the caller was given
	Error   string // one of few words for what went wrong; "" for nothing

	Answer                  AnswerFacts
	RequestSize, AnswerSize int64 // bytes of bodies

	// Times; what has not happened has none. Asked and Answered are of the people that were asked, and Last is of the model.
	Received, Decided, Asked, Answered, Recorded, Sent, First, Last, Ended time.Time
}

// AnswerFacts are what an answer says of itself.
type AnswerFacts struct {
	Status                              int // 0 for none
	Model, ID                           string
	Finish                              []string // why it ended, of each choice
	Input, Output, CacheRead, CacheMade int64    // tokens; -1 where it does not say
}

// traced begins to follow a call, if anybody does.
func (c *call) traced(ctx *fasthttp.RequestCtx) {
	if c.g.cfg.Tracer == nil {
		return
	}
	var parent, state string
	for name, v := range ctx.Request.Header.All() {
		switch {
		case equalFold(name, "traceparent"):
			parent = string(v)
		case equalFold(name, "tracestate"):
			state = string(v)
		}
	}
	c.trace = c.g.cfg.Tracer.Begin(c.received, parent, state)
}

// tell tells who follows the call that it is over. no is why it was not let in; nil where it was.
func (c *call) tell(no *refusal, now time.Time) {
	if c.trace == nil {
		return
	}
	t := &Trip{
		Session: c.id, Method: c.method, Status: c.status, Outcome: string(c.outcome), Error: errorKinds[errorKind(c.outcome, c.status)],
		RequestSize: c.facts.Size, AnswerSize: int64(c.answerSize), Stream: c.facts.Stream, MaxTokens: c.facts.MaxTokens,
		Answer: c.answer, Received: c.received, Decided: c.decided, Asked: c.asked, Answered: c.heard, Recorded: c.recorded,
		Sent: c.sent, First: c.first, Last: c.modelEnd, Ended: now,
	}
	t.Answer.Status = c.modelStatus
	t.Answer.Input, t.Answer.Output, t.Answer.CacheRead, t.Answer.CacheMade = c.tokens.in, c.tokens.out, c.tokens.cacheRead, c.tokens.cache
	if !c.asked.IsZero() && c.heard.IsZero() {
		t.Answered = now // it ends with the waiting
	}
	if no != nil {
		t.Outcome, t.Status, t.Reason, t.Error = "refused", no.status, no.code, reasons[reasonIndex(no.code)]
	}
	if c.judged {
		t.Verdict, t.Rule = c.judgement.Verdict.String(), c.judgement.Rule
	}
	if r := c.route; r != nil {
		t.Route, t.API, t.Provider = r.Name, r.API, r.provider()
		t.Endpoint = c.g.routes.find(c.path).path
		if op := r.API.operation(c.path); op >= 0 {
			t.Operation = operations[op]
		}
		t.Model = nameOf([]byte(c.model))
		if c.masked != nil {
			t.Model = nameOf(c.masked.model)
		}
		t.Host, t.Port = r.host()
	}
	trace := c.trace
	c.trace = nil
	trace.End(t)
}

// nameOf is a word that names a model, an answer or an end, and "" for what does not look like one: at most 128 letters, digits
// and ._:/+- with a letter among them, and @ only before a date or a version in digits, so that it is no address of a person.
func nameOf(b []byte) string {
	if len(b) == 0 || len(b) > 128 {
		return ""
	}
	letters := false
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			letters = true
		case '0' <= c && c <= '9':
		case c == '@':
			for _, d := range b[i+1:] {
				if d < '0' || d > '9' {
					return ""
				}
			}
		case strings.IndexByte("._:/+-", c) < 0:
			return ""
		}
	}
	if !letters {
		return ""
	}
	return string(b)
}

// quoted is nameOf for a JSON string without escapes.
func quoted(b []byte) string {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return ""
	}
	return nameOf(b[1 : len(b)-1])
}

// answerFacts reads what an answer says of itself, but for tokens.
func answerFacts(api API, body []byte, stream bool) (f AnswerFacts) {
	if api == HTTP {
		return f
	}
	if !stream {
		f.read(body, true)
		return f
	}
	for event := range dataWith(body, []byte(`"model"`)) {
		f.read(event, true) // each chunk of the one family has it, and is like the first
		break
	}
	for _, word := range []string{`"finish_reason"`, `"stop_reason"`, `"response.completed"`, `"response.incomplete"`} {
		for event := range dataWith(body, []byte(word)) {
			f.read(event, true)
		}
	}
	return f
}

// read takes what one object says: an answer, or the event of one, in which it looks a level deeper.
func (f *AnswerFacts) read(b []byte, event bool) {
	responses := false
	var status []byte
	for m := walk(b); m.next(); {
		switch string(m.name) {
		case "model":
			f.Model = quoted(m.value)
		case "id":
			f.ID = quoted(m.value)
		case "stop_reason":
			f.finish(m.value)
		case "object":
			responses = string(m.value) == `"response"`
		case "status":
			status = m.value
		case "message", "response", "delta":
			if event {
				f.read(m.value, false)
			}
		case "choices":
			for rest := bytes.TrimPrefix(m.value, []byte("[")); ; {
				n := valueEnd(trimSpace(rest))
				if n <= 0 {
					break
				}
				rest = trimSpace(rest)
				for c := walk(rest[:n]); c.next(); {
					if string(c.name) == "finish_reason" {
						f.finish(c.value)
					}
				}
				rest = bytes.TrimPrefix(trimSpace(rest[n:]), []byte(","))
			}
		}
	}
	if responses && string(status) != `"in_progress"` {
		f.finish(status)
	}
}

// maxFinish is how many choices' ends are told of.
const maxFinish = 16

func (f *AnswerFacts) finish(b []byte) {
	if word := quoted(b); word != "" && len(f.Finish) < maxFinish {
		f.Finish = append(f.Finish, word)
	}
}

// host returns where the model is.
func (r *Route) host() (string, int) {
	port := map[string]int{"http": 80, "https": 443}[r.Upstream.Scheme]
	if _, p, err := net.SplitHostPort(r.Upstream.Host); err == nil {
		port, _ = strconv.Atoi(p)
	}
	return r.Upstream.Hostname(), port
}

// provider names who answers on a route, in the words that open-telemetry/semantic-conventions-genai has for
// gen_ai.provider.name: by the host where that tells, else by what the API is named after.
func (r *Route) provider() string {
	host := strings.ToLower(r.Upstream.Hostname())
	for _, p := range [...]struct{ end, name string }{
		{".openai.azure.com", "azure.ai.openai"}, {".inference.ai.azure.com", "azure.ai.inference"}, {".amazonaws.com", "aws.bedrock"},
		{"generativelanguage.googleapis.com", "gcp.gemini"}, {"aiplatform.googleapis.com", "gcp.vertex_ai"}, {".x.ai", "x_ai"},
		{".groq.com", "groq"}, {".mistral.ai", "mistral_ai"}, {".deepseek.com", "deepseek"}, {".perplexity.ai", "perplexity"},
		{".cohere.com", "cohere"}, {".moonshot.ai", "moonshot_ai"},
	} {
		if strings.HasSuffix(host, p.end) {
			return p.name
		}
	}
	if r.API == HTTP {
		return ""
	}
	return r.API.String()
}

// tellModel shows the model where in a trace the call is, if somebody wants that.
func (c *call) tellModel(h http.Header) {
	if c.trace == nil {
		return
	}
	if parent := c.trace.Sending(); parent != "" {
		h.Set("Traceparent", parent)
		h.Del("Tracestate")
	}
}
