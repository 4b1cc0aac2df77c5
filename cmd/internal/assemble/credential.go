package assemble

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys"
)

// renewal is the time between two looks at where a credential is kept.
const renewal = 30 * time.Second

// A credential is a secret for somebody else that is read anew while the gateway runs, so that it can be changed where it is
// kept: first the new one is put there, and a minute later the old one is ended.
type credential struct {
	what string // it is
	load func(context.Context) (keys.Secret, error)
	log  *slog.Logger
	now  atomic.Pointer[keys.Secret]
}

var _ gateway.Secret = (*credential)(nil)

// Reveal returns the secret as it was at the last look that found a good one.
func (c *credential) Reveal() []byte { return c.now.Load().Reveal() }

// look reads the secret.
func (c *credential) look(ctx context.Context) error {
	s, err := c.load(ctx)
	if err == nil {
		err = gateway.CheckCredential(s.Reveal())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.what, err)
	}
	if was := c.now.Swap(&s); was != nil && !bytes.Equal(was.Reveal(), s.Reveal()) {
		c.log.InfoContext(ctx, "a credential was renewed", "what", c.what)
	}
	return nil
}

// run looks again and again until ctx ends. What cannot be read now stays what it was.
func (c *credential) run(ctx context.Context) error {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := c.look(ctx); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "a credential could not be read and stays what it was", "err", err)
			}
		}
	}
}

// Renewed returns a credential, of which what says what it is. What runs the keyring keeps it fresh.
func (k *Keyring) Renewed(ctx context.Context, what string, c config.Credential) (gateway.Secret, error) {
	out := &credential{what: what, load: func(ctx context.Context) (keys.Secret, error) { return k.Credential(ctx, c) }, log: k.env.Logger}
	if out.log == nil {
		out.log = slog.New(slog.DiscardHandler)
	}
	if err := out.look(ctx); err != nil {
		return nil, err
	}
	k.Runs = append(k.Runs, out.run)
	return out, nil
}
