package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	strictjson "github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Approvers decide at the gateway that asked them:
//
//	GET  /.tallystick/approvals       what waits for who asks, without any content
//	GET  /.tallystick/approvals/ID    one of them with the whole request; that it was looked at is on record first
//	POST /.tallystick/approvals/ID    {"decision": "approve", "deny" or "break_glass", "reason": "…"}
//	POST /.tallystick/hooks/NAME      a decision that another system sends on, and signs
//
// Who asks shows what a caller shows. Nothing is decided by a GET, so that a link can be followed by whatever follows links;
// a POST is JSON, which no other site's form can send. An approval that is not his to decide is for everybody the same as
// one that there never was.
const (
	approvalsPath   = ownPrefix + "approvals"
	approvalsPrefix = approvalsPath + "/"
	hooksPrefix     = ownPrefix + "hooks/"

	lookTime  = 30 * time.Second // how long a look or a decision may take
	maxReason = 2000             // bytes of a reason
	minGlass  = 10               // and of one for which the glass is broken
)

// A Hook reads decisions that another system sends on. It says whose they are, and of which approval, once it knows that the
// system sent it, and now.
type Hook interface {
	Read(header func(name string) string, body []byte) (HookAnswer, error)
}

// A HookAnswer is a decision that was sent on.
type HookAnswer struct {
	Approval record.ID
	Decision string // approve, deny or break_glass
	Reason   string
	Who      *Principal
}

var (
	noSuchApproval      = &refusal{http.StatusNotFound, "unknown_approval", "there is no such approval that is yours to decide at this gateway; it may have ended, or be asked at another"}
	unknownDecision     = &refusal{http.StatusServiceUnavailable, "record_unavailable", "it is not known yet what is on record about the approval; look again in a while"}
	unavailableDecision = &refusal{http.StatusServiceUnavailable, "record_unavailable", "the decision could not be recorded, so it does not count; try again"}
	notJSON             = &refusal{http.StatusUnsupportedMediaType, "not_json", "a decision is sent as application/json"}
	crossSite           = &refusal{http.StatusForbidden, "cross_site", "the request comes from a page of another site"}
)

// A Question is an approval as approvers see it: a call that waits for people.
type Question struct {
	ID      string     `json:"id"`
	State   string     `json:"state"`
	Yours   bool       `json:"yours,omitempty"` // the asker's own call, which others decide about
	Glass   bool       `json:"glass,omitempty"` // the asker may let it pass alone, in an emergency
	Caller  string     `json:"caller"`
	Email   string     `json:"email,omitempty"`
	Route   string     `json:"route"`
	Model   string     `json:"model,omitempty"`
	Method  string     `json:"method"`
	Target  string     `json:"target"`
	Rule    string     `json:"rule,omitempty"`
	Message string     `json:"message,omitempty"`
	Need    int        `json:"need"`
	Yes     []string   `json:"yes"`
	Groups  []string   `json:"groups"`
	Asked   time.Time  `json:"asked"`
	Until   time.Time  `json:"until"`
	Request *WholeCall `json:"request,omitempty"` // where the asker may decide, and looks at this one
}

// A WholeCall is the request that is decided about, as it is on record.
type WholeCall struct {
	Leaf    tlog.Hash         `json:"leaf"` // of its entry in the log
	Fields  map[string]string `json:"fields"`
	Headers json.RawMessage   `json:"headers,omitempty"`
	Body    *string           `json:"body,omitempty"`        // as text,
	Base64  []byte            `json:"body_base64,omitempty"` // or, where it is not text, as it is
}

// view describes a question to p. b.mu is held.
func (b *book) view(q *question, p *Principal) Question {
	v := Question{
		ID: q.id.String(), State: q.state.String(), Yours: person{p.Name, p.Email}.same(person{q.caller, q.email}), Caller: q.caller, Email: q.email,
		Route: q.route, Model: q.model, Method: q.method, Target: q.target, Rule: q.rule, Message: q.message, Need: q.need,
		Yes: []string{}, Groups: q.groups, Asked: q.asked.UTC(), Until: q.until, Glass: b.mayDecide(p, q, glass),
	}
	for _, y := range q.yeses {
		v.Yes = append(v.Yes, y.name)
	}
	return v
}

// A Refused is why an approver does not get what he asks for: in a code for programs, in words for people, and by the HTTP
// status that fits.
type Refused struct {
	Status        int
	Code, Message string
}

func (r *Refused) Error() string { return "gateway: " + r.Code + ": " + r.Message }

// Approvals lists what is open and p's to decide, and what is p's own, the oldest first, without any content. It is what
// approvers get over HTTP; see also Look and Decide, whose errors are of the type *[Refused].
func (g *Gateway) Approvals(p *Principal) []Question { return g.book.list(p) }

// ApprovalsChanged returns a channel that is closed when any approval has changed, or a new one has come.
func (g *Gateway) ApprovalsChanged() <-chan struct{} {
	g.book.mu.Lock()
	defer g.book.mu.Unlock()
	return g.book.news
}

// Look shows one approval. Whose it is to decide sees the whole request, and that he did is on record before. An approval that
// is neither p's to decide nor p's own is for p the same as one that there never was.
func (g *Gateway) Look(ctx context.Context, p *Principal, id record.ID) (Question, error) {
	if no := g.book.ready(); no != nil {
		return Question{}, no.told()
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	v, no := g.book.look(ctx, id, p)
	return v, no.told()
}

// Decide takes p's word on an approval at which p has looked, "approve", "deny" or "break_glass", and says how it stands then.
// The word is durable when the error is nil. A reason is needed but for a plain yes.
func (g *Gateway) Decide(ctx context.Context, p *Principal, id record.ID, decision, reason string) (Question, error) {
	if no := g.book.ready(); no != nil {
		return Question{}, no.told()
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	v, no := g.decided(ctx, id, p, decision, reason)
	return v, no.told()
}

// told returns the error that says so to who is not on HTTP.
func (no *refusal) told() error {
	if no == nil {
		return nil
	}
	return &Refused{no.status, no.code, no.message}
}

// serveApprovals answers approvers.
func (g *Gateway) serveApprovals(ctx *fasthttp.RequestCtx, path string) {
	out, no := g.approvalsFor(ctx, path)
	g.answerApproval(ctx, out, no)
}

// answerApproval answers whoever looks at approvals or decides about them.
func (g *Gateway) answerApproval(ctx *fasthttp.RequestCtx, out any, no *refusal) {
	if no == nil {
		body, err := json.Marshal(out)
		if err != nil {
			no = fault()
		} else {
			ctx.SetContentType("application/json")
			ctx.SetBody(append(body, '\n'))
			ctx.SetWriteDeadline(g.writeTime(len(body)))
		}
	}
	if no != nil {
		g.answer(ctx, record.ID{}, no)
	}
	h := &ctx.Response.Header
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
}

func (g *Gateway) approvalsFor(ctx *fasthttp.RequestCtx, path string) (any, *refusal) {
	from := g.visitor(ctx)
	p := from.caller
	if p == nil {
		g.writer.Shed(1)
		return nil, from.no
	}
	work, cancel := context.WithTimeout(g.stopping, lookTime)
	defer cancel()
	if path == approvalsPath {
		if !ctx.IsGet() {
			return nil, &refusal{http.StatusMethodNotAllowed, "method_not_allowed", "approvals are listed with GET, and decided with a POST to one of them"}
		}
		return map[string][]Question{"approvals": g.book.list(p)}, nil
	}
	id, err := record.ParseID(strings.TrimPrefix(path, approvalsPrefix))
	if err != nil {
		return nil, noSuchApproval
	}
	if no := g.book.ready(); no != nil {
		return nil, no
	}
	switch {
	case ctx.IsGet():
		return g.book.look(work, id, p)
	case !ctx.IsPost():
		return nil, &refusal{http.StatusMethodNotAllowed, "method_not_allowed", "an approval is looked at with GET, and decided with POST"}
	}
	if no := g.sameSite(ctx); no != nil {
		return nil, no
	}
	var in struct {
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
	}
	if err := strictjson.Unmarshal(ctx.Request.Body(), &in, strictjson.RejectUnknownMembers(true)); err != nil {
		return nil, &refusal{http.StatusBadRequest, "invalid_json", `a decision is {"decision": "approve", "deny" or "break_glass", "reason": "…"}`}
	}
	return g.decided(work, id, p, in.Decision, in.Reason)
}

// decided takes a decision and says how the question is now.
func (g *Gateway) decided(ctx context.Context, id record.ID, p *Principal, what, reason string) (v Question, no *refusal) {
	d, ok := parseDecision(what)
	reason = strings.TrimSpace(reason)
	switch {
	case !ok:
		return v, &refusal{http.StatusBadRequest, "no_decision", "a decision is one of approve, deny, break_glass"}
	case len(reason) > maxReason || !utf8.ValidString(reason):
		return v, &refusal{http.StatusBadRequest, "bad_reason", "a reason is text of at most 2000 bytes"}
	case d != yes && reason == "", d == glass && len(reason) < minGlass:
		return v, &refusal{http.StatusBadRequest, "reason_needed", "say why: whoever denies gives a reason, and whoever breaks the glass one that others understand"}
	}
	q, no := g.book.decide(ctx, id, p, d, reason)
	if no != nil {
		return v, no
	}
	g.book.mu.Lock()
	defer g.book.mu.Unlock()
	return g.book.view(q, p), nil
}

// sameSite refuses what a page of another site makes a browser send. What is shown to the gateway to say who asks no browser
// adds by itself; this is so that it stays true if that changes.
func (g *Gateway) sameSite(ctx *fasthttp.RequestCtx) *refusal {
	h := &ctx.Request.Header
	if kind, _, _ := strings.Cut(string(h.ContentType()), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return notJSON
	}
	if site := h.Peek("Sec-Fetch-Site"); len(site) > 0 && string(site) != "same-origin" && string(site) != "none" {
		return crossSite
	}
	if origin := h.Peek("Origin"); len(origin) > 0 {
		u, err := url.Parse(string(origin))
		own, _ := url.Parse(g.book.c.URL)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, string(h.Host())) && !(own.Host != "" && strings.EqualFold(u.Host, own.Host)) {
			return crossSite
		}
	}
	return nil
}

// list returns what is open and p's to decide, or p's own, the oldest first.
func (b *book) list(p *Principal) []Question {
	out := []Question{}
	b.mu.Lock()
	for _, q := range b.byID {
		if q.foreign == "" && q.state != onItsWay && q.state < used && (b.mayLook(p, q) || q.caller == p.Name) {
			out = append(out, b.view(q, p))
		}
	}
	b.mu.Unlock()
	slices.SortFunc(out, func(a, b Question) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// look shows a question. Whose it is to decide sees the whole request, and that he did is on record before.
func (b *book) look(ctx context.Context, id record.ID, p *Principal) (v Question, no *refusal) {
	b.mu.Lock()
	q := b.byID[id]
	if q == nil || q.foreign != "" || q.state == onItsWay || !b.mayLook(p, q) && q.caller != p.Name {
		b.mu.Unlock()
		return v, noSuchApproval
	}
	v, over := b.view(q, p), q.state >= used
	b.mu.Unlock()
	if v.Yours || !b.mayLook(p, q) || over {
		return v, nil
	}
	var r record.Record
	addActor(&r, p)
	r.Add(record.FieldReason, []byte("to decide about the approval"))
	r.Add("what", []byte("request"))
	if err := b.g.recordAccess(ctx, q.id, r); err != nil {
		b.g.log.Error("a look could not be recorded, so nothing is shown", "approval", q.id, "err", err)
		return Question{}, &refusal{http.StatusServiceUnavailable, "record_unavailable", "the look could not be recorded, so nothing is shown; try again"}
	}
	fields, err := b.requestOf(ctx, q)
	if err != nil {
		b.g.log.Error("a request that is asked about cannot be read", "approval", q.id, "err", err)
		return Question{}, &refusal{http.StatusServiceUnavailable, "request_unavailable", "the request cannot be read now; try again"}
	}
	w := &WholeCall{Leaf: tlog.HashLeaf(q.request.Bytes), Fields: make(map[string]string)}
	for _, f := range fields {
		switch {
		case f.Name == record.FieldHeaders && json.Valid(f.Value):
			w.Headers = json.RawMessage(bytes.Clone(f.Value))
		case f.Name == record.FieldBody && utf8.Valid(f.Value):
			s := string(f.Value)
			w.Body = &s
		case f.Name == record.FieldBody:
			w.Base64 = bytes.Clone(f.Value)
		case utf8.Valid(f.Value):
			w.Fields[f.Name] = string(f.Value)
		}
	}
	v.Request = w
	b.mu.Lock()
	defer b.mu.Unlock()
	if q.looked == nil {
		q.looked = make(map[string]bool)
	}
	q.looked[p.Name] = true
	return v, nil
}

// serveHook takes a decision that another system sends on.
func (g *Gateway) serveHook(ctx *fasthttp.RequestCtx, name string) {
	hook := g.book.c.Hooks[name]
	if hook == nil || !ctx.IsPost() {
		g.writer.Shed(1)
		g.answer(ctx, record.ID{}, &refusal{http.StatusNotFound, "unknown_path", "the gateway takes no decisions there"})
		return
	}
	a, err := hook.Read(func(name string) string { return string(ctx.Request.Header.Peek(name)) }, ctx.Request.Body())
	if err == nil && (a.Who == nil || a.Who.Name == "") {
		err = errors.New("the hook names nobody")
	}
	if err != nil {
		g.log.Warn("a decision that was sent on is refused", "hook", name, "err", err)
		g.writer.Shed(1)
		g.answer(ctx, record.ID{}, &refusal{http.StatusUnauthorized, "hook_refused", "what was sent is not signed as it must be, is too old, or is no decision of somebody known here"})
		return
	}
	work, cancel := context.WithTimeout(g.stopping, lookTime)
	defer cancel()
	no := g.book.ready()
	var out Question
	if no == nil {
		out, no = g.decided(work, a.Approval, a.Who, a.Decision, a.Reason)
	}
	g.answerApproval(ctx, out, no)
}
