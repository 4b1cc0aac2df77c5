package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cel"
)

// Decide measures calls that rules judge against the same calls without rules, each through a gateway of its own with a log of
// its own, in the mode strict, before one fake model each.
type Decide struct {
	Dir     string
	Rules   int // each is evaluated at every call; the last one lets it pass
	Callers int
	Rounds  int           // of each, in turns
	Time    time.Duration // of a round
}

// policy is rules of the kinds that people write, none of which decides early.
func (c Decide) policy() (gateway.Policy, error) {
	kinds := []string{
		`"nobody-%d" in caller.groups`,
		`has(request.model) && request.model.startsWith("other-%d")`,
		`request.size > 10000000 + %d`,
		`has(request.max_tokens) && request.max_tokens > 1000000 + %d`,
		`request.messages.exists(m, m.role == "tool-%d")`,
	}
	var b strings.Builder
	b.WriteString("otherwise: refuse\nrules:\n")
	for i := range c.Rules - 1 {
		then := []string{"refuse", "ask"}[i%2]
		fmt.Fprintf(&b, "  - name: rule-%d\n    when: '%s'\n    then: %s\n", i, fmt.Sprintf(kinds[i%len(kinds)], i), then)
	}
	b.WriteString("  - name: staff\n    when: '\"staff\" in caller.groups'\n    then: allow\n")
	return cel.Parse("bench", []byte(b.String()), cel.Names{})
}

// Run measures calls a second, and in the note what a call takes with and without rules, and what a decision takes alone.
func (c Decide) Run(ctx context.Context) (Result, error) {
	r := Result{Name: fmt.Sprintf("decide %d rules, %d callers", c.Rules, c.Callers), Unit: "call/s"}
	p, err := c.policy()
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp(c.Dir, "tally-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pass := Pass{Callers: c.Callers, Rounds: c.Rounds, Time: c.Time}
	var bases [2]string
	var stops []func() error
	stop := func() (err error) {
		for _, s := range stops {
			err = errors.Join(err, s())
		}
		return err
	}
	for i := range bases {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return r, errors.Join(err, stop())
		}
		pass.policy = []gateway.Policy{nil, p}[i]
		_, base, s, err := pass.open(ctx, sub)
		if err != nil {
			return r, errors.Join(err, stop())
		}
		bases[i], stops = base, append(stops, s)
	}
	var without, with []time.Duration
	for range c.Rounds {
		for _, arm := range []struct {
			base string
			rate *[]float64
			took *[]time.Duration
		}{{bases[0], &r.Peer, &without}, {bases[1], &r.Ours, &with}} {
			rate, took, err := pass.load(ctx, arm.base)
			if err != nil {
				return r, errors.Join(err, stop())
			}
			*arm.rate = append(*arm.rate, rate)
			*arm.took = append(*arm.took, took...)
		}
	}
	alone, err := c.alone(p)
	r.Note = fmt.Sprintf("p50 %v against %v: %v more; p99 %v against %v; a decision alone %v",
		percentile(with, 50).Round(time.Microsecond), percentile(without, 50).Round(time.Microsecond),
		(percentile(with, 50) - percentile(without, 50)).Round(time.Microsecond),
		percentile(with, 99).Round(10*time.Microsecond), percentile(without, 99).Round(10*time.Microsecond), alone.Round(10*time.Nanosecond))
	return r, errors.Join(err, stop())
}

// alone is what one decision takes.
func (c Decide) alone(p gateway.Policy) (time.Duration, error) {
	f := &gateway.Facts{
		Caller: &gateway.Principal{Name: "bench", How: gateway.ByKey, Groups: []string{"staff", "bench"}},
		Route:  "openai", API: "openai", Method: "POST", Path: "/v1/chat/completions", Size: 5500, Model: "fake-1",
		Messages: []gateway.Message{{Role: "user", Size: 5400}}, Known: gateway.KnownCaller | gateway.KnownBody, Now: time.Now(),
	}
	const n = 20_000
	begin := time.Now()
	for range n {
		if j := p.Judge(f); j.Verdict != gateway.Allow {
			return 0, fmt.Errorf("bench: the rules say %s by %q", j.Verdict, j.Rule)
		}
	}
	return time.Since(begin) / n, nil
}
