package tlog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
)

// ecdsaKeySize is the length in bytes of the one DER encoding of a P-256 key, a SubjectPublicKeyInfo with an uncompressed
// point.
const ecdsaKeySize = 91

// parseECDSAKey reads a P-256 key from a SubjectPublicKeyInfo, in the one encoding it has. signed-note allows P-384 and
// P-521 too, which nobody signs checkpoints with. Its error continues a sentence about the key.
func parseECDSAKey(der []byte) (*ecdsa.PublicKey, error) {
	bad := errors.New("is no SubjectPublicKeyInfo of a point on P-256")
	any, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, bad
	}
	pub, ok := any.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, bad
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, der) {
		return nil, bad
	}
	return pub, nil
}

// An ecdsaVerifier verifies logs' signatures of type 0x02: ECDSA on P-256 over the SHA-256 of the note's text, in ASN.1 DER
// (RFC 3279 §2.2.3). A signature has a twin that verifies too, so it is no name for what it signs.
type ecdsaVerifier struct {
	key verifierKey
	pub *ecdsa.PublicKey
}

func (v *ecdsaVerifier) Name() string    { return v.key.name }
func (v *ecdsaVerifier) KeyHash() uint32 { return v.key.hash }

func (v *ecdsaVerifier) Verify(msg, sig []byte) bool {
	sum := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(v.pub, sum[:], sig)
}

// LogVerifierKey returns the verifier key of the log called origin with this public key: an ed25519.PublicKey, an
// *ecdsa.PublicKey on P-256 or an ML-DSA-44 *mldsa.PublicKey.
func LogVerifierKey(origin string, public crypto.PublicKey) (string, error) {
	if err := CheckOrigin(origin); err != nil {
		return "", err
	}
	var vkey string
	switch k := public.(type) {
	case ed25519.PublicKey:
		vkey = formatVerifierKey(origin, algEd25519, k)
	case *ecdsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return "", fmt.Errorf("tlog: the key of %q: %w", origin, err)
		}
		vkey = formatVerifierKey(origin, algECDSA, der)
	case *mldsa.PublicKey:
		vkey = formatVerifierKey(origin, algMLDSA44, k.Bytes())
	default:
		return "", fmt.Errorf("tlog: a key of type %T is not one a log signs with: Ed25519, ECDSA on P-256 or ML-DSA-44", public)
	}
	if _, err := NewLogVerifier(vkey); err != nil {
		return "", err
	}
	return vkey, nil
}

var _ note.Verifier = (*ecdsaVerifier)(nil)
