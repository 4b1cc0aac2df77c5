package vault

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// The types of transit keys that sign checkpoints.
const (
	Ed25519   = "ed25519"
	ECDSAP256 = "ecdsa-p256"
)

// What a transit engine says, in every version from 1.14 on, when a key or its version is not there any more or may not be
// used. The status is 400 for some and 500 for others.
var gone = []string{
	"key not found", "no existing key named", "no handler for route",
	"higher than the latest key version", "less than the minimum encryption key version",
	"no such key version", "does not contain a private part", "disallowed by policy (too old)",
}

// Signer returns the signer of the log called origin with the transit key that ref names, vault:MOUNT/NAME?version=N, of type
// ed25519 or ecdsa-p256, not derived. vkey is its pinned public key; then nothing is asked now, and the token needs no
// more than to sign. Where vkey is "", the public key is read and pinned, and the token must be allowed to read
// MOUNT/keys/NAME.
//
// Each signature is asked for with the version, must say that it is of that version, and is verified with the pinned key.
func (c *Client) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if err := isTransit(ref); err != nil {
		return nil, err
	}
	if vkey == "" {
		k, err := c.transitKey(ctx, ref)
		if err != nil {
			return nil, err
		}
		pub, err := k.public(ref)
		if err != nil {
			return nil, err
		}
		if k.Exportable || k.PlaintextBackup {
			c.log.Warn("this key can be taken out of Vault; make another one for a log", "key", ref)
		}
		if vkey, err = tlog.LogVerifierKey(origin, pub); err != nil {
			return nil, err
		}
	}
	body := map[string]any{"key_version": ref.Version} // a string, so that a policy can compare it
	if isECDSA(vkey) {
		body["hash_algorithm"], body["marshaling_algorithm"] = "sha2-256", "asn1"
	}
	return keys.Pin(ref, vkey, func(msg []byte) ([]byte, error) {
		ctx, cancel := c.patience()
		defer cancel()
		return c.sign(ctx, ref, body, msg)
	})
}

// isTransit says whether ref can name a transit key.
func isTransit(ref keys.Reference) error {
	if _, err := ref.MarshalText(); err != nil {
		return err
	}
	if ref.Scheme != keys.SchemeVault || ref.Field != "" {
		return fmt.Errorf("keys/vault: %s is not a transit key: write vault:MOUNT/NAME?version=N", ref)
	}
	return nil
}

func transitRequest(ref keys.Reference, method, verb string, body map[string]any) request {
	mount, name := ref.Split()
	return request{method: method, path: mount + "/" + verb + "/" + name, body: body}
}

// isECDSA says whether a verifier key is of the type 0x02.
func isECDSA(vkey string) bool {
	f := strings.SplitN(vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(f[len(f)-1])
	return err == nil && len(key) > 0 && key[0] == 0x02
}

// sign asks for one signature. Whether it is one is for keys.Signer to say.
func (c *Client) sign(ctx context.Context, ref keys.Reference, with map[string]any, msg []byte) ([]byte, error) {
	body := map[string]any{"input": base64.StdEncoding.EncodeToString(msg)}
	for k, v := range with {
		body[k] = v
	}
	r := transitRequest(ref, http.MethodPut, "sign", body)
	var data struct{ Signature string }
	if err := c.call(ctx, r, &data); err != nil {
		switch {
		case says(err, gone...):
			return nil, fmt.Errorf("%w: %w", keys.ErrGone, err)
		case says(err, "does not support signing"):
			return nil, fmt.Errorf("%w: %w", keys.ErrNotPinned, err)
		}
		return nil, err
	}
	prefix, b64, ok := cutLast(data.Signature, ":")
	version, isVault := strings.CutPrefix(prefix, "vault:v")
	if !ok || !isVault {
		return nil, r.senseless("no signature of a transit engine in it")
	}
	if version != ref.Version {
		return nil, fmt.Errorf("Vault signed with version %.20q instead of %s: %w", version, ref.Version, keys.ErrNotPinned)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil {
		return nil, r.senseless("a signature that is not base64")
	}
	return sig, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// A transitKey is what MOUNT/keys/NAME tells.
type transitKey struct {
	Type            string `json:"type"`
	Derived         bool   `json:"derived"`
	Exportable      bool   `json:"exportable"`
	PlaintextBackup bool   `json:"allow_plaintext_backup"`
	Latest          int    `json:"latest_version"`
	Signing         bool   `json:"supports_signing"`
	Encryption      bool   `json:"supports_encryption"`
	// Keys holds an object for each version of a key that signs, and a time of one that encrypts.
	Keys map[string]any `json:"keys"`
}

func (c *Client) transitKey(ctx context.Context, ref keys.Reference) (transitKey, error) {
	var k transitKey
	r := transitRequest(ref, http.MethodGet, "keys", nil)
	err := c.call(ctx, r, &k)
	if isNothing(err) || says(err, gone...) {
		return k, fmt.Errorf("keys/vault: %s: there is no such key: %w: %w", ref, keys.ErrGone, err)
	}
	if err == nil && k.Type == "" {
		err = r.senseless("no key in it")
	}
	if err != nil {
		return k, fmt.Errorf("keys/vault: %s: read its public key: %w", ref, err)
	}
	return k, nil
}

// public returns the public key of ref's version.
func (k transitKey) public(ref keys.Reference) (crypto.PublicKey, error) {
	bad := func(why string) error { return fmt.Errorf("keys/vault: %s %s", ref, why) }
	switch {
	case k.Type != Ed25519 && k.Type != ECDSAP256:
		return nil, bad(fmt.Sprintf("is of type %.40q; a log signs with %s or %s", k.Type, Ed25519, ECDSAP256))
	case k.Derived:
		return nil, bad("is derived, and so many keys in one; make one that is not")
	case ref.Version == "":
		return nil, bad(fmt.Sprintf("says no version: add ?version=%d for the newest", k.Latest))
	}
	v, ok := k.Keys[ref.Version].(map[string]any)
	if !ok {
		if n, err := strconv.Atoi(ref.Version); err == nil && n > k.Latest {
			return nil, fmt.Errorf("%w: the key has %d versions", bad("names a version that was never made"), k.Latest)
		}
		return nil, fmt.Errorf("%w: %w", bad("names a version that is archived or trimmed"), keys.ErrGone)
	}
	text, _ := v["public_key"].(string)
	if k.Type == Ed25519 {
		pub, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(pub) != ed25519.PublicKeySize {
			return nil, bad("has no public key in it that makes sense")
		}
		return ed25519.PublicKey(pub), nil
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, bad("has no public key in it that makes sense")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, bad("has no public key in it that makes sense")
	}
	return pub, nil
}

// Rotate makes a new version of the transit key that old signs with, and returns the signer with that: for a while a log
// signs with both. The token must be allowed to update MOUNT/keys/NAME/rotate and to read MOUNT/keys/NAME, as no token
// of a running log is. old goes on working until its version is archived. A policy that names the version must name
// the new one too: see [SignPolicy].
func (c *Client) Rotate(ctx context.Context, old *keys.Signer) (*keys.Signer, error) {
	ref := old.Reference()
	if err := isTransit(ref); err != nil {
		return nil, err
	}
	before, err := c.transitKey(ctx, ref)
	if err != nil {
		return nil, err
	}
	r := transitRequest(ref, http.MethodPut, "keys", map[string]any{})
	r.path += "/rotate"
	if err := c.call(ctx, r, nil); err != nil {
		return nil, fmt.Errorf("keys/vault: rotate %s: %w", ref, err)
	}
	after, err := c.transitKey(ctx, ref)
	if err != nil {
		return nil, err
	}
	if after.Latest != before.Latest+1 {
		return nil, fmt.Errorf("keys/vault: %s had %d versions and has %d: somebody else rotates it too; agree on one, and pin that", ref, before.Latest, after.Latest)
	}
	ref.Version = strconv.Itoa(after.Latest)
	return c.Signer(ctx, ref, old.Name(), "")
}
