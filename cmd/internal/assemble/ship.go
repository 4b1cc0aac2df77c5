package assemble

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/ship"
	"github.com/tallystick/tallystick/cmd/internal/config"
)

// shipAgain is how long a follower that was refused, or met another log than it had shipped, waits before it looks whether somebody
// has seen to it.
const shipAgain = 5 * time.Minute

// shipping are the followers of a house.
type shipping struct {
	conf  []config.Ship
	sinks []ship.Sink
	all   []*ship.Shipper
	env   Env
}

// newShipping opens the sinks, of which nothing is connected yet. Their tokens are kept fresh by what runs the keyring.
func newShipping(c *config.Config, env Env, refs *Keyring) (*shipping, error) {
	s := &shipping{conf: c.Ship, env: env}
	for _, k := range c.Ship {
		what := "ship." + k.Name
		o := ship.Options{Header: k.Header, Scheme: k.Scheme}
		var err error
		if o.Roots, err = readRoots(what+".roots", k.Roots); err != nil {
			return nil, err
		}
		if k.TLS.Cert != "" {
			cert, err := tls.LoadX509KeyPair(k.TLS.Cert, k.TLS.Key)
			if err != nil {
				return nil, fmt.Errorf("%s.tls: %w", what, err)
			}
			o.Cert = &cert
		}
		if !k.Token.IsZero() {
			if o.Token, err = refs.Renewed(context.Background(), "the token of "+what, k.Token); err != nil {
				return nil, err
			}
		}
		sink, err := ship.Open(k.To, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		s.sinks = append(s.sinks, sink)
	}
	return s, nil
}

// follow says what is followed: the log, and where metadata is shipped, the desk.
func (s *shipping) follow(h *House) error {
	for i, k := range s.conf {
		c := ship.Config{Name: k.Name, Log: h.Vault.Log, Sink: s.sinks[i], Mark: k.Mark, From: k.From, Fields: k.Fields, Logger: s.env.Logger}
		if k.Metadata() {
			c.Desk = h.desk
			c.Who = audit.Asker{Name: h.Vault.c.Gateway.ID, Reason: "shipping to " + k.Name + ", as configured", Roles: audit.Admin}
		}
		f, err := ship.New(c)
		if err != nil {
			return fmt.Errorf("ship.%s: %w", k.Name, err)
		}
		h.follows("ship."+k.Name, func() uint64 { return f.Status().Next })
		s.all = append(s.all, f)
	}
	return nil
}

// run ships until ctx ends, and closes the sinks. What stops one follower stops nothing else: it is said, and looked at again.
func (s *shipping) run(ctx context.Context) error {
	var runs []func(context.Context) error
	for i, f := range s.all {
		runs = append(runs, func(ctx context.Context) error {
			for {
				err := f.Run(ctx)
				if ctx.Err() != nil {
					return nil
				}
				s.env.Logger.Error("nothing is shipped until somebody sees to it", "ship", s.conf[i].Name, "next_look", shipAgain, "err", err)
				select {
				case <-time.After(shipAgain):
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	err := together(ctx, runs...)
	for _, sink := range s.sinks {
		err = errors.Join(err, sink.Close())
	}
	return err
}
