package assemble

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cel"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record/mask"
)

// lookAtPolicy is the time between two looks at the policy's file.
const lookAtPolicy = time.Second

// readPolicy reads and parses the policy that a configuration names.
func readPolicy(g *config.Gateway) (gateway.Policy, error) {
	text, err := os.ReadFile(g.Policy)
	if err != nil {
		return nil, fmt.Errorf("gateway.policy: %w", err)
	}
	return parsePolicy(g, text)
}

func parsePolicy(g *config.Gateway, text []byte) (gateway.Policy, error) {
	p, err := cel.Parse(g.Policy, text, PolicyNames(g))
	if err != nil {
		return nil, fmt.Errorf("gateway.policy: %w", err)
	}
	return p, nil
}

// PolicyNames are the names that a policy for that gateway can speak of.
func PolicyNames(g *config.Gateway) (names cel.Names) {
	for _, r := range g.Routes {
		names.Routes = append(names.Routes, r.Name)
	}
	if g.Masking == nil {
		return names
	}
	for _, k := range mask.Kinds() {
		names.Findings = append(names.Findings, string(k))
	}
	for _, s := range g.Masking.Sets {
		for kind := range s.Lists {
			names.Findings = append(names.Findings, kind)
		}
		for kind := range s.Files {
			names.Findings = append(names.Findings, kind)
		}
		for _, r := range s.Rules {
			names.Findings = append(names.Findings, r.Kind)
		}
	}
	return names
}

// A law keeps what judges calls to what the policy's file says. A text that is seen for the first time may be half of what
// somebody is about to write, so that it is taken when the next look finds the same; or at once when somebody asks for that.
// One that has a mistake in it is told, once, and changes nothing.
type law struct {
	set  func(context.Context, gateway.Policy) error
	log  *slog.Logger
	asks chan *config.Gateway // holds at most one: what run goes on by, at once

	// Owned by run.
	g       *config.Gateway
	inForce tlog.Hash // the SHA-256 of the text in force; zero before there is one
	seen    sight     // the last look
	told    sight     // of which it was said that it is not taken
	late    bool      // it was said that the log does not take the policy
}

// A sight is what a look at the file found: a text, or why it cannot be read.
type sight struct {
	sum   tlog.Hash
	fault string
}

// newLaw goes by the file that g names; p is the policy that the gateway begins with, or nil. set puts another in force.
func newLaw(g *config.Gateway, p gateway.Policy, set func(context.Context, gateway.Policy) error, log *slog.Logger) *law {
	l := &law{set: set, log: log, asks: make(chan *config.Gateway, 1), g: g}
	if p != nil {
		l.inForce = p.Version()
	}
	l.seen.sum = l.inForce
	return l
}

// ask has the law go by another configuration, and look at its policy at once. It does not wait. One at a time may ask.
func (l *law) ask(g *config.Gateway) {
	select {
	case <-l.asks:
	default:
	}
	l.asks <- g
}

// run looks at the file until ctx ends.
func (l *law) run(ctx context.Context) error {
	tick := time.NewTicker(lookAtPolicy)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case g := <-l.asks:
			if g.Policy == "" && l.inForce != (tlog.Hash{}) {
				l.log.Error("the file names no policy any more, and the one in force stays: start the gateway again to be without one")
				continue
			}
			l.g, l.told = g, sight{}
			l.look(ctx, true)
		case <-tick.C:
			l.look(ctx, false)
		}
	}
}

// look reads the file, and takes what is new in it.
func (l *law) look(ctx context.Context, atOnce bool) {
	if l.g.Policy == "" {
		return
	}
	text, err := os.ReadFile(l.g.Policy)
	now := sight{sum: sha256.Sum256(text)}
	if err != nil {
		now.fault = err.Error()
	}
	still := now == l.seen
	l.seen = now
	switch {
	case err == nil && now.sum == l.inForce:
		l.told = sight{}
		return
	case !still && !atOnce, now == l.told:
		return
	}
	var p gateway.Policy
	if err == nil {
		p, err = parsePolicy(l.g, text)
	}
	if err != nil {
		l.told = now
		l.log.Error("the policy is not taken, and the one before it stays in force", "file", l.g.Policy, "err", err)
		return
	}
	if err := l.set(ctx, p); err != nil {
		if !l.late {
			l.log.Error("the policy is not on record yet, and the one before it stays in force", "file", l.g.Policy, "err", err)
		}
		l.late = true // it is tried again at the next look
		return
	}
	l.inForce, l.told, l.late = now.sum, sight{}, false
}
