package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cel"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

const policyUsage = `tally policy looks at the rules that judge calls, before a gateway judges by them.

  tally policy check FILE           read them, and say what is wrong with them
  tally policy try FILE SESSION...  say what they would have said of recorded calls

gateway/cel/POLICY.md tells how they are written; 'tally policy COMMAND --help' tells more of each.
`

func (t *tally) policy(ctx context.Context, args []string) error {
	return t.choose(ctx, "policy ", policyUsage, map[string]command{"check": t.policyCheck, "try": t.policyTry}, args)
}

func (t *tally) policyCheck(_ context.Context, args []string) error {
	fs := t.flags("policy check FILE [--config FILE]", `Reads a policy as a gateway would, and says all that is wrong with it: where, what, and what to
write instead. A configuration tells what routes there are; without it every name is one.`)
	var s source
	fs.StringVar(&s.data, "data", "", "the data `directory` of a log, for its configuration")
	fs.StringVar(&s.config, "config", "", "the configuration `file` of the gateway")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	var c *config.Config
	if s.data != "" || s.config != "" {
		if c, err = s.load(); err != nil {
			return err
		}
	}
	p, err := readPolicy(rest[0], c)
	if err != nil {
		return err
	}
	version := p.Version()
	fmt.Fprintf(t.stdout, "%s is a policy of %s and %s, version %s\n", cli.Escape(rest[0]),
		several(p.Rules(), "rule"), several(p.Quotas(), "quota"), hex.EncodeToString(version[:]))
	return nil
}

// readPolicy reads a policy, for the routes of a configuration if there is one.
func readPolicy(path string, c *config.Config) (*cel.Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var names cel.Names
	if c != nil {
		names = assemble.PolicyNames(&c.Gateway)
	}
	p, err := cel.Parse(path, text, names)
	if err != nil {
		return nil, fmt.Errorf("the policy is not taken:\n%w", err)
	}
	return p, nil
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (t *tally) policyTry(ctx context.Context, args []string) error {
	fs := t.flags("policy try FILE SESSION...", `Says what a policy would have said of calls that are on record, each at its time. That they were
read for it, by whom and why, goes on record first.`)
	var s source
	who := s.flags(fs, "to try a policy on it")
	rest, err := parse(fs, args, 2, 1000)
	if err != nil {
		return err
	}
	var ids []record.ID
	for _, arg := range rest[1:] {
		id, err := record.ParseID(arg)
		if err != nil {
			return cli.Usagef("policy try: %v", err)
		}
		ids = append(ids, id)
	}
	var c *config.Config
	if s.log == "" || s.config != "" || s.data != "" {
		if c, err = s.load(); err != nil {
			return err
		}
	}
	p, err := readPolicy(rest[0], c)
	if err != nil {
		return err
	}
	var routes []gateway.Route
	if c != nil {
		for _, r := range c.Gateway.Routes {
			api, err := gateway.ParseAPI(r.API)
			if err != nil {
				return err
			}
			routes = append(routes, gateway.Route{Name: r.Name, API: api})
		}
	}
	var verdicts [3]int
	otherwise := 0
	err = t.bundles(ctx, &s, *who, ids, func(id record.ID, bundle []byte) error {
		r, err := requestIn(bundle, id)
		if err != nil {
			return err
		}
		f, err := gateway.FactsOf(r, routes)
		if err != nil {
			return err
		}
		j := p.Judge(f)
		verdicts[j.Verdict]++
		if then, ok := r.Get(record.FieldVerdict); ok && string(then) != j.Verdict.String() {
			otherwise++
		}
		t.tried(id, f, r, j, p.Failures(f))
		return nil
	})
	if err != nil {
		return fmt.Errorf("policy try: %w", err)
	}
	fmt.Fprintf(t.stdout, "%s: %d refused, %d asked about, %d allowed; %d otherwise than they were judged\n", several(len(ids), "call"),
		verdicts[gateway.Refuse], verdicts[gateway.Ask], verdicts[gateway.Allow], otherwise)
	return nil
}

// tried tells what a policy says of one call.
func (t *tally) tried(id record.ID, f *gateway.Facts, r record.Record, j gateway.Judgement, failures []error) {
	by := func(rule string) string {
		if rule == "" {
			return "no rule"
		}
		return "the rule " + rule
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s by %s", id, j.Verdict, by(j.Rule))
	if then, ok := r.Get(record.FieldVerdict); ok {
		rule, _ := r.Get(record.FieldRule)
		fmt.Fprintf(&b, "; it was %s by %s", then, by(string(rule)))
	} else {
		b.WriteString("; no policy judged it")
	}
	fmt.Fprintf(&b, "\n    %s, route %q, model %q", f.Caller.Name, f.Route, f.Model)
	if j.Message != "" {
		fmt.Fprintf(&b, "\n    told: %s", j.Message)
	}
	if j.Verdict == gateway.Ask {
		groups := "all who approve"
		if len(j.Approval.Groups) > 0 {
			groups = strings.Join(j.Approval.Groups, ", ")
		}
		fmt.Fprintf(&b, "\n    asked: %d of %s", max(1, j.Approval.Count), groups)
	}
	for _, q := range j.Quotas {
		fmt.Fprintf(&b, "\n    counts against the quota %s", q.Name)
		if q.Tokens > 0 {
			fmt.Fprintf(&b, ", with up to %d tokens", f.Tokens())
		}
	}
	for _, err := range failures {
		fmt.Fprintf(&b, "\n    failed: %v", err)
	}
	fmt.Fprintln(t.stdout, printable(b.String()))
}

var errNoRequest = errors.New("its request is not in the record: it was erased, or the session is of something else")

// requestIn is the record of a session's request, or of its refusal.
func requestIn(bundle []byte, id record.ID) (record.Record, error) {
	b, err := verify.Parse(bundle)
	if err != nil {
		return nil, err
	}
	for _, s := range b.Sessions {
		if s.ID != id {
			continue
		}
		for _, e := range s.Entries {
			entry, err := record.ParseEntry(e.Bytes)
			if err != nil {
				return nil, err
			}
			if entry.Kind != record.Request && entry.Kind != record.Refused || len(e.Fields) == 0 {
				continue
			}
			var r record.Record
			for _, f := range e.Fields {
				if f.Shown != nil {
					r = append(r, *f.Shown)
				}
			}
			return r, nil
		}
	}
	return nil, errNoRequest
}
