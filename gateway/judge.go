package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog/record"
)

// An inForce is the policy that is in force, and the number of the entry that put it on record; 0 where that has none yet.
type inForce struct {
	Policy
	entry uint64
}

// errNoPolicy is why a call cannot be judged: the policy is not on record yet.
// errNotBegun is why no call can be recorded: the gateway's own first entry is not on record yet.
var errNotBegun = errors.New("the gateway's start is not on record yet")

var errNoPolicy = errors.New("the policy is not on record yet")

// SetPolicy makes p judge the calls from now on. It is in force when it is on record, with its text, and SetPolicy has
// returned nil; until then the one before it is. Run must be running. In the mode open a policy that the log does not take is
// in force all the same, and the requests that it judged name none.
func (g *Gateway) SetPolicy(ctx context.Context, p Policy) error {
	g.policing.Lock()
	defer g.policing.Unlock()
	return g.setPolicy(ctx, p)
}

// setPolicy is SetPolicy for who holds g.policing.
func (g *Gateway) setPolicy(ctx context.Context, p Policy) error {
	version := p.Version()
	var r record.Record
	r.Add(record.FieldPolicy, []byte(hex.EncodeToString(version[:])))
	r.Add(record.FieldRules, p.Text())
	n, err := g.announce(ctx, r)
	if err != nil && g.cfg.Mode != Open {
		return fmt.Errorf("gateway: the policy could not be recorded, so it is not in force: %w", err)
	}
	if err != nil {
		g.log.Error("the policy could not be recorded, and is in force all the same", "err", err)
	}
	if g.law.Swap(&inForce{p, n}) == nil {
		close(g.lawful)
	}
	g.log.Info("a policy is in force", "version", hex.EncodeToString(version[:6]), "entry", n)
	return nil
}

// announce writes a policy entry and returns its number in the boot.
func (g *Gateway) announce(ctx context.Context, r record.Record) (uint64, error) {
	t, err := g.write(ctx, record.Entry{Kind: record.Policy}, r)
	if err != nil {
		return 0, err
	}
	written, err := record.ParseEntry(t.Entry())
	return written.Seq, err
}

// write appends an entry that is no part of a session's chain, sealed under a key of its own, and waits until it is durable.
func (g *Gateway) write(ctx context.Context, e record.Entry, r record.Record) (*record.Ticket, error) {
	name, key, err := g.cfg.Keys.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	defer clear(key)
	d, err := g.coder.Draft(e, r, key, name)
	if err != nil {
		return nil, err
	}
	return g.writer.Write(ctx, d)
}

// enforce puts the first policy in force, trying again while the log takes nothing. One that is set meanwhile is not undone.
func (g *Gateway) enforce(ctx context.Context) {
	first := func() error {
		g.policing.Lock()
		defer g.policing.Unlock()
		if g.law.Load() != nil {
			return nil
		}
		return g.setPolicy(ctx, g.cfg.Policy)
	}
	for g.cfg.Policy != nil {
		err := first()
		if err == nil || ctx.Err() != nil {
			return
		}
		g.log.Warn("the policy is not on record yet, so no call passes", "err", err)
		select {
		case <-time.After(closePause):
		case <-ctx.Done():
		}
	}
}

// hasPolicy says whether calls are judged.
func (g *Gateway) hasPolicy() bool { return g.cfg.Policy != nil || g.law.Load() != nil }

// lawNow returns the policy in force. A call that comes while the first is on its way into the log waits for it; in the mode
// open it does not, and is judged by it all the same.
func (g *Gateway) lawNow() *inForce {
	if law := g.law.Load(); law != nil {
		return law
	}
	if g.cfg.Mode == Open {
		return &inForce{g.cfg.Policy, 0}
	}
	wait := time.NewTimer(policyWait)
	defer wait.Stop()
	select {
	case <-g.lawful:
	case <-wait.C:
	case <-g.draining.Done():
	}
	return g.law.Load()
}

// policyWait is how long a call waits for the first policy to be on record.
const policyWait = 5 * time.Second

// judge lets the policy decide, and finds what people are to be asked. Nothing is said where there is no policy.
func (c *call) judge(ctx *fasthttp.RequestCtx) (no *refusal) {
	if !c.g.hasPolicy() {
		return nil
	}
	law := c.g.lawNow()
	if law == nil {
		return unavailable(errNoPolicy)
	}
	f := &c.facts
	f.Caller, f.Now = c.caller, c.received
	f.Known |= KnownCaller
	c.policy, c.version = law.entry, law.Version()
	c.judged = true
	c.judgement = law.Judge(f)
	c.route.counts.verdicts[min(c.judgement.Verdict, Allow)].Add(1)
	if c.judgement.Verdict != Refuse {
		var over *OverQuota
		if c.reserved, over = c.g.meter.Reserve(c.caller.Name, c.judgement.Quotas, f.Tokens()); over != nil {
			c.retry = over.RetryAfter
			return &refusal{http.StatusTooManyRequests, "quota_exceeded", over.Error()}
		}
	}
	switch c.judgement.Verdict {
	case Ask:
		if no = c.g.book.ready(); no == nil {
			c.question, c.mine, no = c.g.book.enter(c, ctx)
		}
		if no != nil {
			c.reserved.Cancel()
		}
		return no
	case Refuse:
		message := c.judgement.Message
		if message == "" {
			message = "the rules of this gateway do not let this call pass"
		}
		if c.judgement.Rule != "" {
			message += " (rule " + c.judgement.Rule + ")"
		}
		return &refusal{http.StatusForbidden, "policy_denied", message}
	}
	return nil
}

// addJudgement adds to a request's record what the policy said.
func (c *call) addJudgement(r *record.Record) {
	if !c.judged {
		return
	}
	r.Add(record.FieldPolicy, []byte(hex.EncodeToString(c.version[:])))
	r.Add(record.FieldVerdict, []byte(c.judgement.Verdict.String()))
	if c.judgement.Rule != "" {
		r.Add(record.FieldRule, []byte(c.judgement.Rule))
	}
	if len(c.judgement.Failed) > 0 {
		r.Add(record.FieldFailed, []byte(strings.Join(c.judgement.Failed, "\n")))
	}
}
