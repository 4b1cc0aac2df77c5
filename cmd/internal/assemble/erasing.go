package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys/ring"
)

// Open returns the key of that name: audit.ErrNotHere, where it is none of this ring's.
func (d dataKeys) Open(ctx context.Context, name string) ([]byte, error) {
	key, err := d.ByName.Open(ctx, name)
	return key, elsewhere(err)
}

// Erase destroys the key of that name.
func (d dataKeys) Erase(ctx context.Context, name string) error {
	return elsewhere(d.ByName.Erase(ctx, name))
}

func elsewhere(err error) error {
	if errors.Is(err, ring.ErrUnknown) {
		return fmt.Errorf("%w: %w", audit.ErrNotHere, err)
	}
	return err
}

// KeepTo has the vault's desks go by the rules of retention of a configuration from now on.
func (v *Vault) KeepTo(c *config.Config) error {
	rules, err := c.Rules()
	if err != nil {
		return err
	}
	v.rules.Store(&rules)
	return nil
}

// retention returns the rules of now.
func (v *Vault) retention() audit.Retention {
	if r := v.rules.Load(); r != nil {
		return *r
	}
	return nil
}

// Mark is where the vault's desks remember up to which entry erasures are carried out: the file "erasures" in the data directory.
func (v *Vault) Mark() audit.Mark { return markFile(filepath.Join(v.c.Dir(), "erasures")) }

// A markFile holds a number and a line break. One that is gone or damaged means the beginning: it saves looking, and no more.
type markFile string

func (m markFile) Load() (uint64, error) {
	b, err := os.ReadFile(string(m))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("erasures: %w", err)
	}
	n, err := strconv.ParseUint(string(bytes.TrimSuffix(b, []byte("\n"))), 10, 63)
	if err != nil {
		return 0, nil
	}
	return n, nil
}

func (m markFile) Save(n uint64) error {
	next := string(m) + ".new"
	err := os.WriteFile(next, fmt.Appendf(nil, "%d\n", n), 0o600)
	if err == nil {
		err = os.Rename(next, string(m))
	}
	if err != nil {
		return fmt.Errorf("erasures: %w", err)
	}
	return nil
}

// erasing finishes erasures that were broken off.
func (h *House) erasing(ctx context.Context) error {
	return h.desk.Run(ctx, h.Vault.Mark(), func(err error) {
		h.env.Logger.Error("an erasure is on record and not finished", "err", err)
	})
}

// retains has the rules of retention applied once in a period, first a minute after the start.
func (h *House) retains(ctx context.Context) error {
	c := h.Vault.c
	t := time.NewTimer(min(time.Minute, c.RetainPeriod()))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		fates := make(map[string]int)
		err := h.desk.Retain(ctx, audit.Asker{Name: c.Gateway.ID, Reason: "retention, on schedule", Roles: audit.Admin}, false, func(f audit.Fate) error {
			if fates[f.Fate]++; f.Fate == audit.Failed {
				h.env.Logger.Error("retention", "session", f.Session, "err", f.Why)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			h.env.Logger.Error("retention", "err", err)
		}
		if n := fates[audit.Erased]; n > 0 {
			h.env.Logger.Info("retention", "erased", n)
		}
		t.Reset(c.RetainPeriod())
	}
}
