package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/vault"
)

// vaultFile, in the demo's directory, says which keys in Vault it was begun with.
const vaultFile = "vault.keys"

// keepInVault makes, on the first run, the log's keys and the place of its anchor in Vault, and returns on every run what
// the configuration says of them. That it comes as whoever VAULT_TOKEN is, an administrator perhaps, is for demos alone.
func (d *demonstration) keepInVault(ctx context.Context, origin, path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = d.beginInVault(ctx, origin)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
	}
	if err != nil {
		return "", fmt.Errorf("--vault: %w", err)
	}
	return string(b), nil
}

func (d *demonstration) beginInVault(ctx context.Context, origin string) ([]byte, error) {
	admin, err := d.administrator()
	if err != nil {
		return nil, err
	}
	name := "demo-" + filepath.Base(origin)
	s := vault.Setup{
		Origin:     origin,
		Signer:     keys.Reference{Scheme: keys.SchemeVault, Path: "transit/" + name},
		Anchor:     keys.Reference{Scheme: keys.SchemeVault, Path: "secret/" + name},
		KEK:        keys.Reference{Scheme: keys.SchemeVault, Path: "transit/" + name + "-tenant"},
		NoPolicies: true,
	}
	done, err := admin.Init(ctx, s)
	if err != nil {
		return nil, err
	}
	return []byte(configured(s, done.Signer, "ring")), nil
}
