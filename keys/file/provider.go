package file

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
)

// Provider makes signers of the keys that references file:PATH name: Ed25519 keys as [Create] makes them, and ML-DSA-44
// keys as [CreateCosigner] does. It holds nothing.
type Provider struct{}

var _ keys.Provider = Provider{}

// Signer reads the key of the log called origin from ref's file, as [Load] does, and pins its public key, which must be
// vkey where that is given. See [keys.Provider].
func (Provider) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if ref.Scheme != keys.SchemeFile {
		return nil, fmt.Errorf("keys/file: %s is no file", ref)
	}
	s, err := load(ref.Path, origin)
	if err != nil {
		return nil, err
	}
	if vkey != "" && vkey != s.VerifierKey() {
		return nil, fmt.Errorf("keys/file: %s has the public key %s, and pinned is %.200s: %w", ref.Path, s.VerifierKey(), vkey, keys.ErrNotPinned)
	}
	return keys.Pin(ref, s.VerifierKey(), s.Sign)
}

// load reads a log's key of either kind.
func load(path, origin string) (interface {
	note.Signer
	VerifierKey() string
}, error) {
	if c, err := LoadCosigner(path); err == nil && c.Subtrees() {
		if c.Name() != origin {
			return nil, fmt.Errorf("keys/file: %s is a key of %q, not of the log %q", path, c.Name(), origin)
		}
		return c, nil
	}
	return Load(path, origin)
}
