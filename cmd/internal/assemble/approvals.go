package assemble

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys"
)

// approvals reads how people are asked. Where nothing is said of it, nobody is.
func approvals(c *config.Config, refs *Keyring) (out gateway.Approvals, err error) {
	a := c.Gateway.Approvals
	if a == nil {
		return out, nil
	}
	out = gateway.Approvals{
		Groups: a.Groups, Glass: a.Glass, Within: time.Duration(a.Within), Longest: time.Duration(a.Longest), Hold: time.Duration(a.Hold),
		Again: time.Duration(a.Again), URL: a.URL,
	}
	if out.Key, err = approvalsKey(c, refs); err != nil {
		return out, fmt.Errorf("gateway.approvals.key: %w", err)
	}
	return out, nil
}

// approvalsKey reads the key of approvals, or makes one where none is named.
func approvalsKey(c *config.Config, refs *Keyring) ([]byte, error) {
	ref := c.Gateway.Approvals.Key
	if ref.IsZero() {
		ref = config.Credential{Credential: keys.Credential{File: c.ApprovalsKey()}}
		if err := CreateApprovalsKey(ref.File); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	secret, err := refs.Credential(context.Background(), ref)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(secret.Reveal()))
	if err != nil || len(key) != 32 {
		return nil, errors.New("it is not 64 hex digits; `tally keys new-approvals FILE` makes one")
	}
	return key, nil
}

// CreateApprovalsKey makes a key for approvals in a file, which must not be there.
func CreateApprovalsKey(path string) error {
	return createSecret(path, hex.EncodeToString(random(32)))
}

// createSecret writes a secret into a file of its owner's alone, which must not be there.
func createSecret(path, secret string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}
