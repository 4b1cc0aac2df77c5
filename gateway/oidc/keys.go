package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A keySet is what an issuer had published at one time. It is never changed.
type keySet struct {
	keys   []*key
	sum    [sha256.Size]byte // of the document
	serial uint64            // another one where the document is another
	until  time.Time         // how long it is believed
}

// A key is a public key that can verify.
type key struct {
	id     string // "" where it has none
	alg    string // the one algorithm it is for; "" for all of its kind
	public crypto.PublicKey
}

// verifies returns the key as go-oidc wants it, to verify alg and nothing else.
func (k *key) verifies(alg string) oidc.KeySet { return oneKey{k.public, jose.SignatureAlgorithm(alg)} }

type oneKey struct {
	public crypto.PublicKey
	alg    jose.SignatureAlgorithm
}

// VerifySignature returns the payload of a token that the key signed.
func (k oneKey) VerifySignature(_ context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{k.alg})
	if err != nil {
		return nil, err
	}
	payload, err := jws.Verify(k.public)
	if err != nil {
		return nil, err
	}
	// go-jose takes a salt of any length, RFC 7518 §3.5 only one as long as the hash.
	if h, ok := map[jose.SignatureAlgorithm]crypto.Hash{jose.PS256: crypto.SHA256, jose.PS384: crypto.SHA384, jose.PS512: crypto.SHA512}[k.alg]; ok {
		w := h.New()
		io.WriteString(w, token[:strings.LastIndexByte(token, '.')])
		opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		if err := rsa.VerifyPSS(k.public.(*rsa.PublicKey), h, w.Sum(nil), jws.Signatures[0].Signature, opts); err != nil {
			return nil, err
		}
	}
	return payload, nil
}

// serves says whether alg is one for the key.
func (k *key) serves(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		return alg == map[elliptic.Curve]string{elliptic.P256(): oidc.ES256, elliptic.P384(): oidc.ES384, elliptic.P521(): oidc.ES512}[p.Curve]
	case ed25519.PublicKey:
		return alg == oidc.EdDSA
	}
	return false
}

// find returns the one key that kid names and that serves alg. Where several would, none does: which one was meant is not
// for whoever shows a token to choose. A token that names no key is verified where there is only one for it (OpenID
// Connect Core §10.1).
func (s *keySet) find(kid, alg string) (*key, error) {
	var found *key
	no := unknownKey
	for _, k := range s.keys {
		if kid != "" && k.id != kid {
			continue
		}
		if !k.serves(alg) {
			if kid != "" {
				no = wrongAlgorithm
			}
			continue
		}
		if found != nil {
			return nil, unknownKey
		}
		found = k
	}
	if found == nil {
		return nil, no
	}
	return found, nil
}

// parseKeys reads a JSON Web Key Set (RFC 7517 §5). Keys that are not public, not for signatures, weak, or of kinds that
// are not known here are passed over, and counted.
func parseKeys(b []byte) (keys []*key, passed int, err error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Keys == nil {
		return nil, 0, errors.New("what is found there is not a set of keys (RFC 7517)")
	}
	if len(doc.Keys) > maxKeys {
		return nil, 0, fmt.Errorf("it has %d keys, and over %d are not looked at", len(doc.Keys), maxKeys)
	}
	for _, v := range doc.Keys {
		k := parseKey(v)
		if k == nil {
			passed++
			continue
		}
		twice := func(o *key) bool {
			return o.id == k.id && o.alg == k.alg && o.public.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.public)
		}
		if !slices.ContainsFunc(keys, twice) {
			keys = append(keys, k)
		}
	}
	return keys, passed, nil
}

func parseKey(v jsontext.Value) *key {
	var m struct {
		Use string         `json:"use"`
		Alg string         `json:"alg"`
		Ops []string       `json:"key_ops"`
		D   jsontext.Value `json:"d"`
	}
	if json.Unmarshal(v, &m) != nil || m.D != nil ||
		m.Use != "" && m.Use != "sig" || m.Ops != nil && !slices.Contains(m.Ops, "verify") ||
		m.Alg != "" && !slices.Contains(algorithms, m.Alg) {
		return nil
	}
	var j jose.JSONWebKey
	if j.UnmarshalJSON(v) != nil || !j.IsPublic() || !j.Valid() {
		return nil
	}
	switch p := j.Key.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < 2048 || n > 8192 || p.E < 3 || p.E%2 == 0 || fromROCA(p.N) {
			return nil
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return nil
	}
	k := &key{id: j.KeyID, alg: m.Alg, public: j.Key}
	if !slices.ContainsFunc(algorithms, k.serves) {
		return nil // its alg is not one of its kind
	}
	return k
}

// fromROCA says whether a modulus has the form that CVE-2017-15361 gives its primes: a power of 65537 to every small prime.
// By chance one in 2^27 has.
func fromROCA(n *big.Int) bool {
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		rest, power := new(big.Int).Mod(n, big.NewInt(p)).Int64(), int64(1)
		for range p {
			if power = power * 65537 % p; power == rest {
				break
			}
		}
		if power != rest {
			return false
		}
	}
	return true
}
