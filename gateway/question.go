package gateway

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Approvals say how people are asked for their yes, where a policy wants one. The zero value is of a gateway that cannot
// ask: what needs a yes is then refused.
type Approvals struct {
	// Key, of 32 bytes, lets this gateway know again what it asked before a restart, and the gateways of one log what each
	// of them asked. All that share a log share it. Without one nobody is asked.
	Key []byte
	// Groups are whose members decide where a rule names no group; without any they are nobody.
	Groups []string
	// Glass are the groups whose members may give a yes alone, in an emergency: for others, never for themselves.
	Glass []string
	// Within is how long people have where a rule does not say, and the longest that a rule can give them; zero means 15
	// minutes and a day.
	Within, Longest time.Duration
	// Hold is how long a caller is kept waiting on its connection, without a word, before it is told to come back; zero
	// means 50 seconds, less than most proxies wait, and a negative time none at all.
	Hold time.Duration
	// Again is after how long a caller that was told to come back does so, where it goes by Retry-After; zero means 15
	// seconds. SDKs come back twice by themselves, and heed at most a minute.
	Again time.Duration
	// URL is the base URL under which approvers find this gateway, for messages; "" for no links.
	URL string
	// Pages is the URL under which people see and decide approvals in a browser, each at Pages/ID, for messages; "" for URL.
	Pages string
	// Notify is told what happens to questions, for messages to people. It must not wait, and not call the gateway. nil for
	// nobody.
	Notify func(Notice)
	// Hooks read decisions that others send on, by their names in the path; see ownPrefix + "hooks/NAME".
	Hooks map[string]Hook
	// Tail is the log, where other gateways write to it too and share the key; nil for a log of one gateway.
	Tail tlog.Tailer
}

const (
	defaultWithin = 15 * time.Minute
	mostWithin    = 24 * time.Hour
	defaultHold   = 50 * time.Second

	approvalKeyBytes = 32
	maxQuestions     = 10_000    // that are open at a time
	maxOfCaller      = 100       // and of one caller
	maxSealed        = 256 << 20 // bytes of requests that are kept so that people can look before the log is published
	defaultAgain     = 15 * time.Second
	readyWait        = 10 * time.Second
	rememberEnded    = 5 * time.Minute
)

// The codes of answers after which an SDK that sends its request again by itself gets further.
const (
	pendingCode = "approval_pending"
	usedCode    = "approval_used"
)

func (a *Approvals) check() error {
	for _, d := range []time.Duration{a.Within, a.Longest} {
		if d < 0 || d > 30*24*time.Hour {
			return fmt.Errorf("gateway: people have %v to decide; choose at most 30 days, and zero means the default", d)
		}
	}
	switch u, err := url.Parse(a.URL); {
	case a.Key != nil && len(a.Key) != approvalKeyBytes:
		return fmt.Errorf("gateway: a key of %d bytes for approvals; it has %d", len(a.Key), approvalKeyBytes)
	case err != nil || a.URL != "" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https"):
		return fmt.Errorf("gateway: approvers do not find the gateway under %q; give an http or https URL", a.URL)
	}
	return nil
}

// An asked is how far a question is.
type asked uint8

const (
	onItsWay asked = iota // its entries are not in the log yet
	waiting               // for people
	granted               // they said yes, and nobody used it yet
	using                 // somebody's use is on its way into the log
	used
	denied
	expired
	unasked // it could not be recorded
)

func (s asked) String() string {
	return [...]string{"on_its_way", "waiting", "granted", "using", "used", "denied", "expired", "unasked"}[s]
}

// A question is what people are asked about one call. The session that asked has an open request in the log until the
// question has an end: its entries are written by whoever has the turn, or by the call itself once its yes is being used.
type question struct {
	id      record.ID // of the session that asked
	caller  string
	email   string
	route   string
	model   string
	method  string
	target  string
	rule    string
	message string
	need    int
	groups  []string
	asked   time.Time
	until   time.Time
	valid   time.Duration // how long a yes can be used, at most until then; 0 for that
	tag     tlog.Hash
	sum     callSum // under book.mu, where only the tag was known at first
	foreign string  // the gateway that asked, if it is another

	turn chan struct{} // holds a value while somebody adds to the session's chain
	// Owned by who has the turn.
	request record.Found   // the session's first entry; Index only where it was read back
	last    *record.Ticket // the newest entry, if it is of this boot,
	prev    tlog.Hash      // and else its leaf hash

	// Under book.mu.
	state   asked
	yeses   []person
	why     string    // what who said no gave as reason
	grant   tlog.Hash // the leaf hash of the yes
	useBy   time.Time // when it is over
	by      record.ID // the session that uses it, or used it
	held    bool      // the call that asked still waits on its connection, and writes its own end
	closed  bool      // the end of the session that asked is in the log, or is another's to write
	sealed  []byte    // the request's payload, until the log serves it; nil if it is too much to keep
	looked  map[string]bool
	forget  time.Time     // when an ended question is not known any more
	changed chan struct{} // closed when state changes, and replaced
	// Where gateways share the log, what it says: which use of grant is the first in it, and where the question ended otherwise.
	use firstUse
	end uint64 // 0 for nowhere
}

// A firstUse is the entry that used a yes before all others.
type firstUse struct {
	index   uint64
	leaf    tlog.Hash
	session record.ID
}

// usedFirst says whether the first use of the yes counts: it stands before the end of the question.
func (q *question) usedFirst() bool {
	return !q.use.session.IsZero() && (q.end == 0 || q.use.index < q.end)
}

// A person is who decides.
type person struct{ name, email string }

// same says whether two are one, as far as can be told. Whoever verify takes for one is one here too.
func (p person) same(q person) bool {
	a, b := strings.ToLower(strings.TrimSpace(p.email)), strings.ToLower(strings.TrimSpace(q.email))
	return p.name == q.name || a != "" && strings.EqualFold(a, b)
}

// A callSum tells one call from another: who asks for what, to the byte.
type callSum [sha256.Size]byte

// attempts are headers that are sent on and tell of the attempt, not of the call: an SDK that tries again changes them.
var attempts = []string{"x-stainless-", "traceparent", "tracestate", "idempotency-key", "x-idempotency-key"}

// sum tells what a call is, for approvals: FORMAT.md §6.9.
func (c *call) sum(ctx *fasthttp.RequestCtx) (sum callSum) {
	h := sha256.New()
	part := func(b []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part([]byte(c.caller.Name))
	part([]byte(c.route.Name))
	part([]byte(c.method))
	part(ctx.Request.Header.RequestURI())
	var heads []byte
	for name, v := range ctx.Request.Header.All() {
		if l, ok := lower(name); ok && passes(name, forwarded, c.route.Forward) && !l.in(attempts) {
			heads = append(append(append(append(heads, l.b[:l.n]...), ": "...), v...), '\n')
		}
	}
	part(heads)
	part(ctx.Request.Body())
	h.Sum(sum[:0])
	return sum
}

// tagOf is what stands in a question's entry. h is HMAC-SHA-256 with the key.
func tagOf(h hash.Hash, session record.ID, sum callSum) (tag tlog.Hash) {
	h.Reset()
	h.Write(session[:])
	h.Write(sum[:])
	h.Sum(tag[:0])
	return tag
}

// A book has the questions that are open, and for a while those that have ended.
type book struct {
	g *Gateway
	c Approvals

	wake     chan struct{} // holds a value while there may be something to write
	restored chan struct{} // closed when the questions of earlier boots are known

	mu     sync.Mutex
	byID   map[record.ID]*question
	byCall map[callSum]*question
	tagged map[record.ID]*question // those of which only the tag tells what they are about
	kept   int                     // bytes in sealed
	next   uint64                  // where gateways share a log: the first entry that was not read
	read   chan struct{}           // closed when next rises, and replaced
	news   chan struct{}           // closed when anything of what approvers see changes, and replaced
}

func newBook(g *Gateway, c Approvals) *book {
	if c.Longest == 0 {
		c.Longest = mostWithin
	}
	if c.Within == 0 {
		c.Within = min(defaultWithin, c.Longest)
	}
	if c.Hold == 0 {
		c.Hold = defaultHold
	}
	if c.Again == 0 {
		c.Again = defaultAgain
	}
	return &book{
		g: g, c: c, wake: make(chan struct{}, 1), restored: make(chan struct{}), read: make(chan struct{}), news: make(chan struct{}),
		byID: make(map[record.ID]*question), byCall: make(map[callSum]*question), tagged: make(map[record.ID]*question),
	}
}

func (b *book) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// becomes changes a question's state and tells who waits for that. b.mu is held.
func (b *book) becomes(q *question, s asked) {
	q.state = s
	close(q.changed)
	q.changed = make(chan struct{})
	if s >= used {
		q.forget = time.Now().Add(rememberEnded)
		if s == used {
			q.forget = time.Now()
		}
		b.kept -= len(q.sealed)
		q.sealed = nil
	}
	b.poke()
	b.tell()
}

// tell tells who follows the approvals that they have changed. b.mu is held.
func (b *book) tell() {
	close(b.news)
	b.news = make(chan struct{})
}

// ready waits until the questions of earlier boots are known: until then nobody can tell what was asked before.
func (b *book) ready() *refusal {
	select {
	case <-b.restored:
		return nil
	default:
	}
	wait := time.NewTimer(readyWait)
	defer wait.Stop()
	select {
	case <-b.restored:
		return nil
	case <-wait.C:
	case <-b.g.draining.Done():
	}
	return &refusal{http.StatusServiceUnavailable, "approvals_unavailable", "the gateway has not found out yet what people were asked before it started; try again"}
}

// enter finds the question about a call, or makes a new one, which is the caller's to have recorded: mine. A call that was
// denied is refused for as long as the no is remembered.
func (b *book) enter(c *call, ctx *fasthttp.RequestCtx) (q *question, mine bool, no *refusal) {
	a, sum := c.judgement.Approval, c.sum(ctx)
	b.recognize(sum)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch q = b.byCall[sum]; {
	case !q.stands(): // or its yes was used: the same call again is asked about again
	case q.state >= used:
		return nil, false, b.refusal(q)
	default:
		return q, false, nil
	}
	if len(a.Groups) == 0 {
		a.Groups = b.c.Groups
	}
	own, open := 0, 0
	for _, o := range b.byID {
		if o.state < used {
			if open++; o.caller == c.caller.Name {
				own++
			}
		}
	}
	switch {
	case b.c.Key == nil, len(a.Groups) == 0:
		return nil, false, &refusal{http.StatusForbidden, "approval_impossible", "the rules of this gateway want people to say yes to this call, and it has nobody to ask; tell whoever runs it"}
	case own >= maxOfCaller, open >= maxQuestions:
		return nil, false, &refusal{http.StatusTooManyRequests, "too_many_approvals", "people have too many of your calls to decide about; wait until they have"}
	}
	within := a.Within
	if within == 0 {
		within = b.c.Within
	}
	now := time.Now()
	target, model := string(ctx.Request.Header.RequestURI()), c.model
	if c.masked != nil { // what the record has is what people are shown
		target, model = string(c.masked.target), string(c.masked.model)
	}
	q = &question{
		id: c.id, caller: c.caller.Name, email: c.caller.Email, route: c.route.Name, model: model, method: c.method, target: target,
		rule: c.judgement.Rule, message: c.judgement.Message, need: max(1, a.Count), groups: slices.Clone(a.Groups),
		asked: now, until: now.Add(min(within, b.c.Longest)).UTC().Truncate(time.Microsecond), tag: tagOf(hmac.New(sha256.New, b.c.Key), c.id, sum), sum: sum,
		valid: a.Valid, turn: make(chan struct{}, 1), held: true, changed: make(chan struct{}),
	}
	b.byID[q.id], b.byCall[sum] = q, q
	return q, true, nil
}

// stands says whether a question decides about its call, or will. book.mu is held.
func (q *question) stands() bool {
	return q != nil && q.state != used && q.state != unasked
}

// recognize looks for a call among the questions of which only the tag is known, one that is open first. There can be many of
// these, so b.mu is not held meanwhile.
func (b *book) recognize(sum callSum) {
	var some []*question
	b.mu.Lock()
	if !b.byCall[sum].stands() {
		for _, t := range b.tagged {
			if t.stands() {
				some = append(some, t)
			}
		}
	}
	b.mu.Unlock()
	if len(some) == 0 {
		return
	}
	h := hmac.New(sha256.New, b.c.Key)
	some = slices.DeleteFunc(some, func(t *question) bool { return tagOf(h, t.id, sum) != t.tag })
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range some {
		if q := b.byCall[sum]; t.stands() && (!q.stands() || q.state >= used && t.state < used) {
			b.byCall[sum], t.sum = t, sum
		}
	}
}

// refusal is what a caller is told whose call people decided against.
func (b *book) refusal(q *question) *refusal {
	if q.state == expired {
		return &refusal{http.StatusForbidden, "approval_expired", fmt.Sprintf("nobody approved the call in time (%s%s), so it is refused", q.id, q.byRule())}
	}
	message := fmt.Sprintf("the call was denied (%s%s)", q.id, q.byRule())
	if q.why != "" {
		message += ": " + q.why
	}
	return &refusal{http.StatusForbidden, "approval_denied", message}
}

func (q *question) byRule() string {
	if q.rule == "" {
		return ""
	}
	return ", rule " + q.rule
}

// pending is what a caller is told who comes back later.
func (b *book) pending(q *question) *refusal {
	message := "the rules of this gateway want people to say yes to this call"
	if q.message != "" {
		message = q.message
	}
	where := ""
	switch {
	case q.foreign != "":
		where = "; it was asked at " + q.foreign
	case b.where(q) != "":
		where = "; approvers decide at " + b.where(q)
	}
	return &refusal{http.StatusConflict, pendingCode, fmt.Sprintf(
		"%s (approval %s%s%s). Send the same request again: once it is approved it passes, until %s", message, q.id, q.byRule(), where, q.until.UTC().Format(time.RFC3339))}
}

// A notice tells what happened to a question. No part of it is content.
type Notice struct {
	Event     string // asked, agreed, granted, broke_glass, denied, expired
	Approval  record.ID
	Caller    string
	Route     string
	Model     string
	Rule      string
	Message   string // the rule's
	Need, Got int    // how many yeses are needed, and are there
	Groups    []string
	Until     time.Time
	URL       string // where it is decided; "" for nowhere
	Actor     string // who did it
	Reason    string // and why, in the actor's words
}

// notify tells of a question. b.mu is not held.
func (b *book) notify(q *question, event string, got int, actor, reason string) {
	if q.foreign != "" {
		return
	}
	if i := eventIndex(event); i >= 0 {
		b.g.numbers.approvals[i].Add(1)
	}
	if b.c.Notify == nil {
		return
	}
	n := Notice{
		Event: event, Approval: q.id, Caller: q.caller, Route: q.route, Model: q.model, Rule: q.rule, Message: q.message,
		Need: q.need, Got: got, Groups: q.groups, Until: q.until, Actor: actor, Reason: reason,
	}
	n.URL = b.where(q)
	b.c.Notify(n)
}

// where returns the URL at which people decide a question; "" for none that is known.
func (b *book) where(q *question) string {
	switch {
	case b.c.Pages != "":
		return b.c.Pages + "/" + q.id.String()
	case b.c.URL != "":
		return b.c.URL + approvalsPrefix + q.id.String()
	}
	return ""
}

// asking is the trip of a call that needs people's yes: the request and the question on record, or the request alone where
// the question is there; the wait; the use of the yes on record. When it returns true the call may be sent, once. When it
// returns false the call has been answered.
func (c *call) asking(ctx *fasthttp.RequestCtx) bool {
	if err := c.recordQuestion(ctx); err != nil {
		c.unasked(ctx, err)
		return false
	}
	c.recorded = time.Now()
	if !c.hold(ctx) {
		return false
	}
	if err := c.useYes(); err != nil {
		c.say(ctx, c.unused(err))
		return false
	}
	c.cleared = true
	return true
}

// recordQuestion puts the request into the log and, where it is this call that asks, the question. Both are durable when
// it returns nil, whatever the mode, and whether the caller is still there.
func (c *call) recordQuestion(ctx *fasthttp.RequestCtx) error {
	q, b := c.question, c.g.book
	d, err := c.draft(record.Entry{Kind: record.Request, Asks: true, Policy: c.policy}, c.requestRecord(ctx))
	if err != nil {
		return err
	}
	if c.request, err = c.g.writer.Submit(d); err != nil {
		return err
	}
	if !c.mine {
		return c.g.settled(c.request)
	}
	r := make(record.Record, 0, 6)
	r.Add(record.FieldSession, []byte(c.id.String()))
	r.Add(record.FieldRule, []byte(q.rule))
	r.Add(record.FieldNeed, strconv.AppendInt(nil, int64(q.need), 10))
	groups, err := json.Marshal(q.groups)
	if err != nil {
		return err
	}
	r.Add(record.FieldAsked, groups)
	r.Add(record.FieldUntil, []byte(q.until.Format(time.RFC3339Nano)))
	if q.valid > 0 {
		r.Add(record.FieldValid, []byte(q.valid.String()))
	}
	if q.message != "" {
		r.Add(record.FieldReason, []byte(q.message))
	}
	a, err := c.draft(record.Entry{Kind: record.Approval, Tag: q.tag, Until: q.until}, r)
	if err != nil {
		return err
	}
	a.After, a.Together, a.Before = c.request, true, q.until
	t, err := c.g.writer.Submit(a)
	if err == nil {
		if err = c.g.settled(c.request); err == nil {
			err = c.g.settled(t)
		}
	}
	if unknown(err) {
		c.last = t // it may come to be in the log, and what is written after it stands behind it
	}
	if err != nil {
		return err
	}
	e, err := record.ParseEntry(c.request.Entry())
	if err != nil {
		return err
	}
	q.request = record.Found{Index: c.request.Index(), Bytes: c.request.Entry(), Entry: e}
	q.last, c.last = t, t
	b.mu.Lock()
	if b.kept+len(d.Payload) <= maxSealed {
		q.sealed = d.Payload
		b.kept += len(d.Payload)
	}
	b.becomes(q, waiting)
	b.mu.Unlock()
	b.notify(q, "asked", 0, c.caller.Name, "")
	return nil
}

// unasked ends a call about which nobody could be asked. If its request is on record, its end is too.
func (c *call) unasked(ctx *fasthttp.RequestCtx, err error) {
	b := c.g.book
	if c.mine {
		b.mu.Lock()
		b.becomes(c.question, unasked)
		c.question.closed = true
		b.mu.Unlock()
	}
	defer c.over()
	c.g.numbers.unRequest.Add(1)
	c.g.log.Warn("a call that needs a yes could not be recorded and was not sent", "session", c.id, "err", err)
	no := unavailable(err)
	if c.request != nil {
		c.recordResponse(answered{status: no.status, body: no.body(c.id), outcome: record.Internal, err: c.safe(err)})
	}
	c.outcome, c.status = outUnrecorded, no.status
	c.g.answer(ctx, c.id, no)
}

// hold waits for people, as long as a caller is kept waiting. It returns true when there is a yes, which is now this call's
// to use. Otherwise it has answered.
func (c *call) hold(ctx *fasthttp.RequestCtx) bool {
	b, q := c.g.book, c.question
	c.asked = time.Now()
	defer c.waiting(c.asked)
	hold := c.judgement.Approval.Hold
	if hold == 0 {
		hold = b.c.Hold
	}
	limit := time.NewTimer(max(0, hold))
	defer limit.Stop()
	for over := false; ; {
		ours, state, changed := b.take(c)
		switch {
		case ours:
			return true
		case state == denied || state == expired:
			c.say(ctx, c.notSent(b.refusal(q), record.Denied))
			return false
		case state == used || state == unasked:
			c.say(ctx, c.usedByOther())
			return false
		case over && hold > 0 && c.waitsForEvents():
			c.vigil(ctx)
			return false
		case over:
			if no := c.later(); no != nil {
				c.say(ctx, no)
				return false
			}
		}
		select {
		case <-changed:
		case <-limit.C:
			over = true
		case <-c.ctx.Done():
			over = true
		case <-c.g.draining.Done():
			over = true
		}
	}
}

// waitsForEvents says whether the call is for an event stream, in which its caller can be told that it has to wait.
func (c *call) waitsForEvents() bool {
	return c.facts.Stream && c.route.API != HTTP && c.ctx.Err() == nil && c.g.draining.Err() == nil
}

// say gives the caller an answer that is not the model's.
func (c *call) say(ctx *fasthttp.RequestCtx, no *refusal) {
	c.g.answer(ctx, c.id, no)
	if c.left.Load() {
		ctx.SetConnectionClose()
	}
}

// later lets a call go whose caller comes back later, and returns what to tell it; nil where something was decided at the last
// moment. The session of the call that asked stays open for as long as its question.
func (c *call) later() *refusal {
	b := c.g.book
	no := b.pending(c.question)
	switch {
	case !c.mine && c.left.Load():
		return c.notSent(no, record.ClientGone)
	case !c.mine:
		return c.notSent(no, record.Waiting)
	case !b.leave(c, false):
		return nil
	}
	c.ended = true
	c.stillOpen(no.status)
	c.over()
	return no
}

// stillOpen says, for those who count, that a call has gone whose question has not ended.
func (c *call) stillOpen(status int) {
	c.outcome, c.status = record.Waiting, status
	if c.left.Load() {
		c.outcome = record.ClientGone
	}
}

// waiting adds to the time that people were waited for.
func (c *call) waiting(since time.Time) {
	c.heard = time.Now()
	c.waited += c.heard.Sub(since)
}

// usedByOther ends a call that waited for a yes which another session used, or which could not be asked for.
func (c *call) usedByOther() *refusal {
	out := record.Waiting
	if c.mine {
		out = record.Resumed
	}
	return c.notSent(&refusal{http.StatusConflict, usedCode, "the approval that this call waited for was used by another session; send it again, and people are asked again"}, out)
}

// take gives a call the yes, if there is one and nobody has it.
func (b *book) take(c *call) (ours bool, state asked, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := c.question
	if !q.canTake(c) {
		return false, q.state, q.changed
	}
	if q.by = c.id; c.mine {
		c.last = q.last
	}
	b.becomes(q, using)
	return true, using, nil
}

// canTake says whether there is a yes for a call that is still wanted. book.mu is held.
func (q *question) canTake(c *call) bool {
	return q.state == granted && c.ctx.Err() == nil && time.Now().Before(q.useBy)
}

// leave makes the question outlive the call that asked. It does not where there is something for the call to take: it looks
// again, unless it may not take a yes.
func (b *book) leave(c *call, notEvenYes bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := c.question
	if q.state == onItsWay { // a fault of ours came before it was asked
		b.becomes(q, unasked)
		q.closed = true
	}
	if q.state >= used || q.canTake(c) && !notEvenYes {
		return false
	}
	q.held = false
	b.poke()
	return true
}

// notSent puts it on record that a call has ended of which nothing was sent, and returns what to tell its caller.
func (c *call) notSent(no *refusal, out record.Outcome) *refusal {
	b, q := c.g.book, c.question
	if c.mine {
		c.last = q.last
	}
	err := c.recordResponse(answered{status: no.status, body: no.body(c.id), outcome: out, err: no.message})
	if c.mine {
		b.mu.Lock()
		q.held = false
		q.closed = err == nil || unknown(err)
		b.poke()
		b.mu.Unlock()
	}
	c.over()
	if err != nil {
		return unavailableAnswer()
	}
	return no
}

// errUsed is why a yes cannot be used: the log has another's use of it before.
var errUsed = errors.New("another session has used the approval")

// unknown says whether err leaves open if an entry came to be in the log. Then nothing that would contradict it is written after
// it by this boot: the next one reads what is there.
func unknown(err error) bool {
	return errors.Is(err, tlog.ErrHalted) || errors.Is(err, errNoWord)
}

// useYes puts the use of the yes into the log. When it returns nil, this call and no other may be sent.
func (c *call) useYes() error {
	b, q := c.g.book, c.question
	free := true // the use is certainly not in the log, so the yes is another's to take, also after a fault of ours
	defer func() {
		if free {
			b.giveBack(q)
		}
	}()
	r := make(record.Record, 0, 2)
	r.Add(record.FieldSession, []byte(c.id.String()))
	r.Add(record.FieldApproval, []byte(q.id.String()))
	d, err := c.draft(record.Entry{Kind: record.Approval, Reason: record.Used, Grant: q.grant}, r)
	if err != nil {
		return err
	}
	if d.After, d.Together, d.Before = c.request, true, q.useBy; c.mine {
		d.After = q.last
	}
	t, err := c.g.writer.Submit(d)
	if err == nil {
		free = false
		err = c.g.settled(t)
	}
	if err != nil {
		if free = !unknown(err); !free {
			c.last = t
		}
		return err
	}
	c.last = t
	if c.mine {
		q.last = t
	}
	ours, err := b.first(c.g.silenced, q, t)
	if err != nil {
		return err // nobody knows
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !ours {
		b.lost(q, expired)
		return errUsed
	}
	q.closed = c.mine || q.foreign != "" // for then this call's own end is the session's
	b.becomes(q, used)
	return nil
}

// giveBack takes a yes back from a call that did not use it.
func (b *book) giveBack(q *question) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.by = record.ID{}
	b.lost(q, granted)
}

// lost says what became of a question whose yes a call did not get: what the log says, and else s. b.mu is held.
func (b *book) lost(q *question, s asked) {
	switch {
	case q.usedFirst():
		q.by = q.use.session
		s = used
	case q.end != 0:
		s = expired
	}
	b.becomes(q, s)
}

// unused ends a call that had a yes and could not use it, and returns what to tell its caller.
func (c *call) unused(err error) *refusal {
	c.g.log.Warn("an approval could not be used, so the call was not sent", "session", c.id, "approval", c.question.id, "err", err)
	switch {
	case errors.Is(err, errUsed):
		return c.usedByOther()
	case c.mine && c.g.book.leave(c, true):
		c.ended = true
		c.outcome, c.status = outUnrecorded, http.StatusServiceUnavailable
		c.over()
		return unavailable(err)
	}
	return c.notSent(unavailable(err), record.Internal)
}

// textOf returns a field of a record as a string; "" where it has none.
func textOf(r record.Record, name string) string {
	v, _ := r.Get(name)
	return string(bytes.Clone(v))
}
