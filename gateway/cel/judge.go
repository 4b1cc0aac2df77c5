package cel

import (
	"errors"
	"fmt"
	"slices"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog"
)

// Version is the SHA-256 of Text; of a nil Policy, the zero hash.
func (p *Policy) Version() tlog.Hash {
	if p == nil {
		return tlog.Hash{}
	}
	return p.version
}

// Text is the policy as it was written, for the caller to keep.
func (p *Policy) Text() []byte {
	if p == nil {
		return nil
	}
	return slices.Clone(p.text)
}

// Rules is how many there are.
func (p *Policy) Rules() int {
	if p == nil {
		return 0
	}
	return len(p.rules)
}

// Quotas is how many there are.
func (p *Policy) Quotas() int {
	if p == nil {
		return 0
	}
	return len(p.quotas)
}

// Judge says what becomes of a call. It goes through the rules for the call's route in an order that makes the
// judgement the same wherever in the text they stand:
//
//  1. those that refuse: the first that applies decides, and nothing more is looked at
//  2. those that ask: the first that applies, or fails, decides
//  3. unless a rule has failed, those that allow, to the last of them: any could fail
//
// Where a rule failed and none that refuses applies, the call is asked about. What is not refused counts against all
// quotas that are for it.
func (p *Policy) Judge(f *gateway.Facts) gateway.Judgement {
	if p == nil || p.text == nil {
		return gateway.Judgement{Verdict: gateway.Refuse}
	}
	v, _ := p.views.Get().(*view)
	if v == nil {
		v = new(view)
	}
	v.look(f)
	defer func() {
		v.look(nil)
		p.views.Put(v)
	}()
	frame, err := interpreter.NewExecutionFrame(v)
	if err != nil {
		return gateway.Judgement{Verdict: gateway.Refuse}
	}
	defer frame.Close()
	much := v.much()
	j := p.judge(v, frame, much)
	if j.Verdict != gateway.Refuse {
		j.Quotas = p.counted(v, frame, much)
	}
	return j
}

// counted are the quotas that a call counts against. One of which that cannot be told is among them.
func (p *Policy) counted(v *view, frame *interpreter.ExecutionFrame, much bool) (quotas []*gateway.Quota) {
	if len(p.quotas) == len(p.always) {
		return p.always
	}
	for _, q := range p.quotas {
		if q.routes != nil && !slices.Contains(q.routes, v.f.Route) {
			continue
		}
		if q.program.free != nil {
			if applies, err := q.program.eval(v, frame, much); !applies && err == nil {
				continue
			}
		}
		quotas = append(quotas, &q.Quota)
	}
	return quotas
}

func (p *Policy) judge(v *view, frame *interpreter.ExecutionFrame, much bool) (j gateway.Judgement) {
	var allows *rule
	for _, r := range p.of(v.f.Route) {
		if r.then == gateway.Allow && len(j.Failed) > 0 {
			break
		}
		applies, err := r.program.eval(v, frame, much)
		if err != nil {
			j.Failed = append(j.Failed, r.name)
		}
		switch {
		case applies && r.then == gateway.Refuse:
			j.Verdict, j.Rule, j.Message = r.then, r.name, r.message
			return j
		case (applies || err != nil) && r.then == gateway.Ask:
			j.Verdict, j.Rule, j.Message, j.Approval = r.then, r.name, r.message, r.approval
			return j
		case applies && allows == nil:
			allows = r
		}
	}
	switch {
	case len(j.Failed) > 0:
		j.Verdict, j.Rule = gateway.Ask, j.Failed[0]
	case allows != nil:
		j.Verdict, j.Rule = gateway.Allow, allows.name
	default:
		j.Verdict, j.Message, j.Approval = p.otherwise.then, p.otherwise.message, p.otherwise.approval
	}
	return j
}

// of are the rules for a route.
func (p *Policy) of(route string) []*rule {
	if rules, ok := p.routes[route]; ok {
		return rules
	}
	return p.others
}

// Failures says why rules and quotas cannot be evaluated for a call: of each that Judge would name, and of those behind it,
// the name and the reason. It is for people who look at a policy; Judge costs less.
func (p *Policy) Failures(f *gateway.Facts) (failures []error) {
	if p == nil {
		return nil
	}
	v := new(view)
	v.look(f)
	for _, r := range p.of(f.Route) {
		if _, err := r.program.eval(v, nil, true); err != nil {
			failures = append(failures, fmt.Errorf("rule %s: %w", r.name, err))
		}
	}
	for _, q := range p.quotas {
		if q.program.free == nil || q.routes != nil && !slices.Contains(q.routes, f.Route) {
			continue
		}
		if _, err := q.program.eval(v, nil, true); err != nil {
			failures = append(failures, fmt.Errorf("quota %s: %w", q.Name, err))
		}
	}
	return failures
}

var errNoTruth = errors.New("it is neither true nor false")

// eval evaluates an expression: where there is not much to go through, in a frame of the view that several can have one
// after the other. CEL turns what panics into an error.
func (p programs) eval(v *view, frame *interpreter.ExecutionFrame, much bool) (bool, error) {
	var out ref.Val
	var err error
	if much {
		out, _, err = p.bounded.Eval(v)
	} else {
		out, _, err = p.free.Eval(frame)
	}
	if err != nil {
		return false, err
	}
	switch out {
	case types.True:
		return true, nil
	case types.False:
		return false, nil
	}
	return false, errNoTruth
}

// much says whether a call has so many facts that the cost of loops is worth counting.
func (v *view) much() bool {
	f := v.f
	n := len(f.Messages) + len(f.Tools) + len(f.Params) + len(f.Findings)
	if f.Caller != nil {
		n += len(f.Caller.Groups)
	}
	return n > 256 || len(f.Path) > 1024
}
