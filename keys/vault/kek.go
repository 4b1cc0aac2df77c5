package vault

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/keys"
)

// DataKeySize is the length of a data key, in bytes.
const DataKeySize = 32

// A KEK is a key-encryption key in a transit engine, of type aes256-gcm96: it wraps other keys and never leaves Vault. What
// it wraps is the engine's text, vault:vN:BASE64, some 50 bytes longer than four thirds of what went in; it says by which
// version, so old ones are unwrapped after a rotation.
//
// Associated data is bound to what is wrapped. That is why data keys are made here and not by the engine's datakey,
// and rewrapped here and not by its rewrap: neither takes any.
//
// Its token may update MOUNT/encrypt/NAME and MOUNT/decrypt/NAME, and should not create: to encrypt with a key that is
// not there makes it, in Vault. A KEK is safe for concurrent use.
type KEK struct {
	c   *Client
	ref keys.Reference
}

// KEK returns the key-encryption key that ref names: vault:MOUNT/NAME. It wraps with the newest version, or where ref says one
// with that. Nothing is asked now.
func (c *Client) KEK(ref keys.Reference) (*KEK, error) {
	if err := isTransit(ref); err != nil {
		return nil, err
	}
	return &KEK{c, ref}, nil
}

// String returns the reference.
func (k *KEK) String() string { return k.ref.String() }

// Wrap appends the wrapped form of key to dst. aad is bound to it: Unwrap wants the same.
func (k *KEK) Wrap(ctx context.Context, dst, key, aad []byte) ([]byte, error) {
	body := map[string]any{"plaintext": base64.StdEncoding.EncodeToString(key)}
	if k.ref.Version != "" {
		body["key_version"] = k.ref.Version
	}
	var data struct{ Ciphertext string }
	r := k.request("encrypt", body, aad)
	if err := k.c.call(ctx, r, &data); err != nil {
		return nil, k.explain("wrap", err)
	}
	if k.Version([]byte(data.Ciphertext)) == 0 {
		return nil, r.senseless("no ciphertext of a transit engine in it")
	}
	return append(dst, data.Ciphertext...), nil
}

// Unwrap appends the key in wrapped to dst. If wrapped was not made by this key with this aad, or was changed since, the
// error is keys.ErrWrongKey. If it was made by a version that may not be used any more, it is keys.ErrGone.
func (k *KEK) Unwrap(ctx context.Context, dst, wrapped, aad []byte) ([]byte, error) {
	if k.Version(wrapped) == 0 {
		return nil, keys.ErrWrongKey
	}
	r := k.request("decrypt", map[string]any{"ciphertext": string(wrapped)}, aad)
	var data struct{ Plaintext *string }
	if err := k.c.call(ctx, r, &data); err != nil {
		if says(err, "message authentication failed", "invalid ciphertext") {
			return nil, keys.ErrWrongKey
		}
		return nil, k.explain("unwrap", err)
	}
	if data.Plaintext == nil {
		return nil, r.senseless("no plaintext in it")
	}
	key, err := base64.StdEncoding.Strict().AppendDecode(dst, []byte(*data.Plaintext))
	if err != nil {
		return nil, r.senseless("a plaintext that is not base64")
	}
	return key, nil
}

// Rewrap returns the key in wrapped, wrapped again by the newest version, with the same aad. The key passes through this
// process, and nowhere else.
func (k *KEK) Rewrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	key, err := k.Unwrap(ctx, nil, wrapped, aad)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return k.Wrap(ctx, nil, key, aad)
}

// NewDataKey returns a new key of DataKeySize random bytes, and its wrapped form, to which aad is bound.
func (k *KEK) NewDataKey(ctx context.Context, aad []byte) (key, wrapped []byte, err error) {
	key = make([]byte, DataKeySize)
	rand.Read(key)
	if wrapped, err = k.Wrap(ctx, nil, key, aad); err != nil {
		return nil, nil, err
	}
	return key, wrapped, nil
}

func (k *KEK) request(verb string, body map[string]any, aad []byte) request {
	if len(aad) > 0 {
		body["associated_data"] = base64.StdEncoding.EncodeToString(aad)
	}
	return transitRequest(k.ref, http.MethodPut, verb, body)
}

func (k *KEK) explain(what string, err error) error {
	if says(err, gone...) {
		err = fmt.Errorf("%w: %w", keys.ErrGone, err)
	}
	return fmt.Errorf("keys/vault: %s with %s: %w", what, k.ref, err)
}

// Version returns the version of the key that wrapped this, from 1, or 0 if it is no text of a transit engine. Versions
// before the lowest that is still needed can be archived (min_decryption_version), and then trimmed.
func (k *KEK) Version(wrapped []byte) int {
	version, _, ok := strings.Cut(strings.TrimPrefix(string(wrapped), "vault:v"), ":")
	n, err := strconv.Atoi(version)
	if !ok || err != nil || n < 1 || !strings.HasPrefix(string(wrapped), fmt.Sprintf("vault:v%d:", n)) {
		return 0
	}
	return n
}
