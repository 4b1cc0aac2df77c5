package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/keys"
)

// Secret reads a credential for another service: the field of a KV v2 secret that ref names, vault:MOUNT/PATH#FIELD, the
// newest version or the one that ref says. It must be a string, and is judged as the content of a credential's file is.
func (c *Client) Secret(ctx context.Context, ref keys.Reference) (keys.Secret, error) {
	if _, err := ref.MarshalText(); err != nil {
		return keys.Secret{}, err
	}
	mount, path, ok := strings.Cut(ref.Path, "/")
	if ref.Scheme != keys.SchemeVault || ref.Field == "" || !ok {
		return keys.Secret{}, fmt.Errorf("keys/vault: %s is not the field of a secret: write vault:MOUNT/PATH#FIELD", ref)
	}
	v, found, err := c.readVersion(ctx, mount, path, ref.Version)
	switch {
	case err != nil:
		return keys.Secret{}, fmt.Errorf("keys/vault: %s: %w", ref, err)
	case !found:
		return keys.Secret{}, fmt.Errorf("keys/vault: %s: there is no such secret", ref)
	case v.Data[ref.Field] == nil:
		return keys.Secret{}, fmt.Errorf("keys/vault: %s: the secret has no such field", ref)
	}
	var text string
	if json.Unmarshal(v.Data[ref.Field], &text) != nil {
		return keys.Secret{}, fmt.Errorf("keys/vault: %s is not a string", ref)
	}
	s, err := keys.ParseCredential([]byte(text))
	if err != nil {
		return keys.Secret{}, fmt.Errorf("keys/vault: %s %w", ref, err)
	}
	return s, nil
}
