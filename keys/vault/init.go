package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// anchorVersions is how many versions of an anchor are kept for people: half a minute of a busy log.
const anchorVersions = 256

// A Policy is an ACL policy of Vault. Vault's default policy, which tokens have besides, lets them renew themselves.
type Policy struct {
	Name string
	Text string
}

// SignPolicy allows to sign with the versions that the signers have of one transit key, and nothing else: not to read the
// key, rotate, export or delete it, nor to sign with another version or by another scheme. Two signers are for the
// overlap of a rotation.
func SignPolicy(name string, signers ...*keys.Signer) (Policy, error) {
	if len(signers) == 0 {
		return Policy{}, errors.New("keys/vault: a policy to sign, for no key")
	}
	ref := signers[0].Reference()
	var versions []string
	scheme := ""
	for _, s := range signers {
		r := s.Reference()
		versions = append(versions, strconv.Quote(r.Version))
		if isECDSA(s.VerifierKey()) {
			scheme = "    \"hash_algorithm\"       = [\"sha2-256\"]\n    \"marshaling_algorithm\" = [\"asn1\"]\n"
		}
		r.Version = ref.Version
		if r != ref {
			return Policy{}, fmt.Errorf("keys/vault: %s and %s are not versions of one key", ref, s.Reference())
		}
	}
	if err := isTransit(ref); err != nil {
		return Policy{}, err
	}
	return Policy{name, fmt.Sprintf(`# Sign checkpoints of %s.
path "%s" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"                = []
    "key_version"          = [%s]
%s  }
}
`, signers[0].Name(), transitRequest(ref, "", "sign", nil).path, strings.Join(versions, ", "), scheme)}, nil
}

// Policy allows to read the anchor of one log and to replace it by check-and-set. It does not allow to delete, destroy or
// undelete versions, nor to change what check-and-set rests on.
func (l *Latest) Policy(name, origin string) Policy {
	return Policy{name, fmt.Sprintf(`# The anchor of %s.
path "%s" {
  capabilities = ["create", "update", "read"]
}
path "%s" {
  capabilities = ["read"]
}
path "%s/config" {
  capabilities = ["read"]
}
`, origin, l.mount+"/data/"+l.path(origin), l.mount+"/metadata/"+l.path(origin), l.mount)}
}

// Policy allows to wrap and unwrap with one key that is there, and nothing else.
func (k *KEK) Policy(name string) Policy {
	return Policy{name, fmt.Sprintf(`# Wrap and unwrap data keys with %s.
path "%s" {
  capabilities = ["update"]
}
path "%s" {
  capabilities = ["update"]
}
`, k, transitRequest(k.ref, "", "encrypt", nil).path, transitRequest(k.ref, "", "decrypt", nil).path)}
}

// A Setup is what a log is to have in Vault. The engines must be there.
type Setup struct {
	Origin string

	// Signer is the transit key, vault:MOUNT/NAME. One that is there is used, in its newest version. Type is Ed25519
	// or ECDSAP256; "" means Ed25519.
	Signer keys.Reference
	Type   string

	// Anchor is where anchors lie, vault:MOUNT/PATH; the zero Reference leaves it out.
	Anchor keys.Reference

	// KEK is the transit key that wraps data keys, vault:MOUNT/NAME; the zero Reference leaves it out.
	KEK keys.Reference

	// Policies begins the names of the policies; "" means tallystick.
	Policies string
	// NoPolicies leaves them to somebody else: they are told, and not written.
	NoPolicies bool
}

// A Ready is what Init has made.
type Ready struct {
	Signer   *keys.Signer // with the version to be written into the configuration, and the verifier key to be pinned
	Policies []Policy     // as they were written to Vault, unless they were not to be: <Policies>-sign, -anchor and -wrap
	Did      []string     // what was done, a sentence each
}

// Init makes what a log needs, as somebody who administers Vault: keys that cannot be exported, an anchor that takes
// check-and-set alone, and for each the least policy. Running it again changes nothing but policies. What is there and
// unfit is an error, and left alone. No token is made: that is for whoever sets up the log-in, with these policies.
func (c *Client) Init(ctx context.Context, s Setup) (Ready, error) {
	var done Ready
	did := func(format string, args ...any) { done.Did = append(done.Did, fmt.Sprintf(format, args...)) }
	if s.Policies == "" {
		s.Policies = "tallystick"
	}
	if s.Type == "" {
		s.Type = Ed25519
	}
	if err := tlog.CheckOrigin(s.Origin); err != nil {
		return done, err
	}
	if s.Type != Ed25519 && s.Type != ECDSAP256 {
		return done, fmt.Errorf("keys/vault: a log signs with %s or %s, not %.40q", Ed25519, ECDSAP256, s.Type)
	}
	k, made, err := c.ensureKey(ctx, s.Signer, s.Type)
	if err != nil {
		return done, err
	}
	if made {
		did("made the key %s, of type %s", s.Signer, k.Type)
	} else {
		did("found the key %s, of type %s", s.Signer, k.Type)
	}
	ref := s.Signer
	ref.Version = strconv.Itoa(k.Latest)
	if done.Signer, err = c.Signer(ctx, ref, s.Origin, ""); err != nil {
		return done, err
	}
	did("pinned %s: %s", ref, done.Signer.VerifierKey())
	sign, err := SignPolicy(s.Policies+"-sign", done.Signer)
	if err != nil {
		return done, err
	}
	done.Policies = append(done.Policies, sign)
	if !s.Anchor.IsZero() {
		l, err := c.Latest(s.Anchor)
		if err != nil {
			return done, err
		}
		if err := l.prepare(ctx, s.Origin); err != nil {
			return done, err
		}
		did("made check-and-set the only way to write the anchor, vault:%s/%s", l.mount, l.path(s.Origin))
		done.Policies = append(done.Policies, l.Policy(s.Policies+"-anchor", s.Origin))
	}
	if !s.KEK.IsZero() {
		_, made, err := c.ensureKey(ctx, s.KEK, "aes256-gcm96")
		if err != nil {
			return done, err
		}
		if made {
			did("made the key %s, of type aes256-gcm96", s.KEK)
		} else {
			did("found the key %s, of type aes256-gcm96", s.KEK)
		}
		kek, err := c.KEK(s.KEK)
		if err != nil {
			return done, err
		}
		done.Policies = append(done.Policies, kek.Policy(s.Policies+"-wrap"))
	}
	for _, p := range done.Policies {
		if s.NoPolicies {
			break
		}
		if err := c.WritePolicy(ctx, p); err != nil {
			return done, err
		}
		did("wrote the policy %s", p.Name)
	}
	return done, nil
}

// WritePolicy writes a policy, as somebody who may, over one of that name.
func (c *Client) WritePolicy(ctx context.Context, p Policy) error {
	r := request{method: http.MethodPut, path: "sys/policies/acl/" + p.Name, body: map[string]any{"policy": p.Text}}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("keys/vault: write the policy %s: %w", p.Name, err)
	}
	return nil
}

// ensureKey makes a transit key of the type, or finds one that is fit to be used.
func (c *Client) ensureKey(ctx context.Context, ref keys.Reference, kind string) (k transitKey, made bool, err error) {
	if err := isTransit(ref); err != nil {
		return k, false, err
	}
	k, err = c.transitKey(ctx, ref)
	if errors.Is(err, keys.ErrGone) {
		r := transitRequest(ref, http.MethodPost, "keys", map[string]any{"type": kind, "exportable": false, "allow_plaintext_backup": false})
		if err := c.call(ctx, r, nil); err != nil {
			return k, false, fmt.Errorf("keys/vault: make the key %s: %w", ref, err)
		}
		made = true
		k, err = c.transitKey(ctx, ref)
	}
	switch {
	case err != nil:
		return k, made, err
	case k.Type != kind:
		return k, made, fmt.Errorf("keys/vault: %s is of type %.40q, and was to be of %s: name another key", ref, k.Type, kind)
	case k.Derived:
		return k, made, fmt.Errorf("keys/vault: %s is derived, and so many keys in one: name another key", ref)
	case k.Exportable || k.PlaintextBackup:
		return k, made, fmt.Errorf("keys/vault: %s can be taken out of Vault: name another key", ref)
	}
	return k, made, nil
}

// prepare makes check-and-set the only way to write the anchor of origin.
func (l *Latest) prepare(ctx context.Context, origin string) error {
	r := request{method: http.MethodPost, path: l.mount + "/metadata/" + l.path(origin), body: map[string]any{
		"cas_required": true, "delete_version_after": "0s", "max_versions": anchorVersions, "custom_metadata": map[string]any{"origin": origin},
	}}
	if err := l.c.call(ctx, r, nil); err != nil {
		return l.errorf(origin, err)
	}
	if _, err := l.inspect(ctx, origin); err != nil {
		return l.errorf(origin, err)
	}
	return nil
}
