// Package cel judges calls by rules that people write in CEL, the Common Expression Language (cel.dev). POLICY.md beside
// this file is the language for who writes them.
//
// What is always true:
//
//   - a policy never changes: its text, the SHA-256 of the text, and what it says of a call;
//   - a rule that refuses beats one that asks, and that one beats one that allows, in whatever order they stand; a call to
//     which none applies gets what the policy says of such a call, which it must say;
//   - a rule that cannot be evaluated, because a fact is unknown, a number overflows, the cost goes over its limit or
//     something panics, counts as one that asks, and is named;
//   - what can be absent is not read before has() has said that it is there: that, and all else that can be told without
//     a call, is an error when the policy is read;
//   - a policy that is nil, or was not read, refuses.
//
// The room does not decide what becomes of a judgement, and does not know where policies lie. It is the only home of
// cel-go.
package cel

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog"
)

// Names are those that a policy can speak of, as far as they are known where it is read. To speak of another is a mistake,
// since such a rule would never apply.
type Names struct {
	Routes   []string // the gateway's routes; nil if they are not known
	Findings []string // the kinds that the masker finds; nil if they are not known
}

// A Policy is a set of rules. A nil Policy and the zero Policy refuse everything. Safe for concurrent use.
type Policy struct {
	text      []byte
	version   tlog.Hash
	otherwise written
	rules     []*rule            // those that refuse, those that ask, those that allow; each in the text's order
	routes    map[string][]*rule // for the routes that rules name: of the rules, those that are for that route
	others    []*rule            // for all other routes
	quotas    []*quota
	always    []*gateway.Quota // the quotas, where all of them are for every call
	views     sync.Pool        // of *view
}

var _ gateway.Policy = (*Policy)(nil)

// A rule is one that is ready to be evaluated.
type rule struct {
	written
	program programs
}

// A quota is one, and what it is for.
type quota struct {
	gateway.Quota
	program programs // none for all calls
	routes  []string // nil for all
}

// Parse reads a policy. file is its name in mistakes; the policy does not keep it. The error is of all that is wrong with
// it, from top to bottom: each a *Mistake.
func Parse(file string, text []byte, names Names) (*Policy, error) {
	if len(text) > maxText {
		return nil, &Mistake{File: file, Line: 1, Column: 1, What: fmt.Sprintf("it has %d bytes, and %d are the most", len(text), maxText)}
	}
	l, err := newLanguage(names)
	if err != nil {
		return nil, err
	}
	d := newDocument(file, text)
	p := &Policy{text: slices.Clone(text), version: sha256.Sum256(text), routes: make(map[string][]*rule)}
	rules, quotas, otherwise := d.policy(names)
	p.otherwise = otherwise
	var most uint64
	compile := func(w *written) (program programs) {
		var slips []slip
		program, slips = l.compile(w.when)
		for _, s := range slips {
			d.slip(w, s)
		}
		if most += program.most; most > maxCostOfAll && most-program.most <= maxCostOfAll {
			d.slip(w, slip{1, 0, fmt.Sprintf("with this one, all expressions together could cost more than %d; loop less", maxCostOfAll)})
		}
		return program
	}
	for _, w := range rules {
		if w.when != "" { // otherwise it was said
			p.rules = append(p.rules, &rule{written: w, program: compile(&w)})
		}
	}
	for _, w := range quotas {
		q := &quota{Quota: w.quota, routes: w.routes}
		if w.when != "" {
			q.program = compile(&w)
		}
		p.quotas = append(p.quotas, q)
		p.always = append(p.always, &q.Quota)
	}
	if slices.ContainsFunc(p.quotas, func(q *quota) bool { return q.program.free != nil || q.routes != nil }) {
		p.always = nil
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(p.rules, func(a, b *rule) int { return int(a.then) - int(b.then) })
	for _, r := range p.rules {
		if r.routes == nil {
			p.others = append(p.others, r)
		}
		for _, name := range r.routes {
			p.routes[name] = nil
		}
	}
	for name := range p.routes {
		for _, r := range p.rules {
			if r.routes == nil || slices.Contains(r.routes, name) {
				p.routes[name] = append(p.routes[name], r)
			}
		}
	}
	return p, nil
}
