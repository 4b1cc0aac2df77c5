package tlog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// The signature types of signed-note that a log or a witness may have here.
const (
	algEd25519     = 0x01 // a log's signature over the note's text
	algCosignature = 0x04 // a witness's Ed25519 signature over a time and the note's text
	algMLDSA44     = 0x06 // ML-DSA-44 over a time and a subtree; carried, not verified
)

// keySize is the length of a public key in bytes, by signature type.
func keySize(alg byte) int {
	if alg == algMLDSA44 {
		return 1312
	}
	return ed25519.PublicKeySize
}

// A Cosignature says that at Time the largest tree a witness had seen of the log was the one of the checkpoint
// (c2sp.org/tlog-cosignature).
type Cosignature struct {
	Name  string // of the witness's key, not what a policy calls it
	KeyID uint32
	Time  uint64 // POSIX seconds, never 0, at most 2^63-1
}

// A verifierKey is a vkey of signed-note, one that has exactly one spelling.
type verifierKey struct {
	text string
	name string
	hash uint32
	alg  byte
	pub  []byte
}

// keyHash returns the key id: the first four bytes of SHA-256(name || "\n" || type || public key).
func keyHash(name string, alg byte, pub []byte) uint32 {
	d := sha256.New()
	d.Write([]byte(name))
	d.Write([]byte{'\n', alg})
	d.Write(pub)
	return binary.BigEndian.Uint32(d.Sum(nil))
}

func formatVerifierKey(name string, alg byte, pub []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, alg, pub), base64.StdEncoding.EncodeToString(append([]byte{alg}, pub...)))
}

func parseVerifierKey(s string) (verifierKey, error) {
	name, rest, _ := strings.Cut(s, "+")
	_, key64, ok := strings.Cut(rest, "+")
	if !ok {
		return verifierKey{}, fmt.Errorf("the key %.100q is not <name>+<8 hex digits>+<base64>", s)
	}
	if err := CheckOrigin(name); err != nil {
		return verifierKey{}, fmt.Errorf("the key %.100q has a name that cannot be one", s)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(key) == 0 {
		return verifierKey{}, fmt.Errorf("the key of %q is not standard base64", name)
	}
	k := verifierKey{text: s, name: name, alg: key[0], pub: key[1:]}
	switch k.alg {
	case algEd25519, algCosignature, algMLDSA44:
	default:
		return k, fmt.Errorf("the key of %q has type %#02x; known are 0x01, 0x04 and 0x06", name, k.alg)
	}
	if len(k.pub) != keySize(k.alg) {
		return k, fmt.Errorf("the key of %q has %d bytes, and its type %d", name, len(k.pub), keySize(k.alg))
	}
	if want := formatVerifierKey(name, k.alg, k.pub); want != s {
		return k, fmt.Errorf("the key of %q has another key id than its name and bytes make, which is %08x", name, keyHash(name, k.alg, k.pub))
	}
	k.hash = keyHash(name, k.alg, k.pub)
	return k, nil
}

// verifier returns what verifies with the key, or nil when nothing here does.
func (k verifierKey) verifier() note.Verifier {
	if k.alg == algMLDSA44 {
		return nil
	}
	return &ed25519Verifier{k}
}

// An ed25519Verifier verifies logs' signatures and witnesses' cosignatures, by the type of its key.
type ed25519Verifier struct{ key verifierKey }

func (v *ed25519Verifier) Name() string    { return v.key.name }
func (v *ed25519Verifier) KeyHash() uint32 { return v.key.hash }

func (v *ed25519Verifier) Verify(msg, sig []byte) bool {
	if v.key.alg == algCosignature {
		t, ok := cosignatureTime(sig)
		if !ok {
			return false
		}
		msg, sig = cosignedMessage(t, msg), sig[8:]
	}
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(v.key.pub, msg, sig)
}

// cosignatureTime reads the time before a cosignature's signature, which must be one that may stand there.
func cosignatureTime(blob []byte) (uint64, bool) {
	if len(blob) != 8+ed25519.SignatureSize {
		return 0, false
	}
	t := binary.BigEndian.Uint64(blob)
	return t, t != 0 && t <= math.MaxInt64
}

// cosignedMessage is what an Ed25519 cosignature signs.
func cosignedMessage(t uint64, text []byte) []byte {
	msg := append(make([]byte, 0, 64+len(text)), "cosignature/v1\ntime "...)
	msg = strconv.AppendUint(msg, t, 10)
	msg = append(msg, '\n')
	return append(msg, text...)
}

// NewCosignatureVerifier returns what verifies the cosignatures (c2sp.org/tlog-cosignature, Ed25519) of the witness
// with this verifier key. Keys of other types are errors: a log's key cosigns nothing, and ML-DSA-44 is not verified
// by this package. A time of zero or over 2^63-1 fails; whether it is plausible is for the caller to say.
func NewCosignatureVerifier(vkey string) (note.Verifier, error) {
	k, err := parseVerifierKey(vkey)
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	if k.alg != algCosignature {
		return nil, fmt.Errorf("tlog: the key of %q has type %#02x; an Ed25519 cosignature needs one of type 0x04", k.name, k.alg)
	}
	return k.verifier(), nil
}

// A CosignatureSigner cosigns checkpoints as a witness does, with the time of day. It signs nothing but checkpoint
// texts, and says nothing about what the checkpoint is worth: whoever calls it has checked the consistency proof and
// written down the result. It is a [note.Signer], safe for concurrent use.
type CosignatureSigner struct {
	name string
	key  ed25519.PrivateKey
	hash uint32
}

// NewCosigner returns the signer of the witness called name. Its key is used for nothing else.
func NewCosigner(name string, key ed25519.PrivateKey) (*CosignatureSigner, error) {
	if err := CheckOrigin(name); err != nil {
		return nil, err
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("tlog: an Ed25519 private key has %d bytes, not %d", ed25519.PrivateKeySize, len(key))
	}
	s := &CosignatureSigner{name: name, key: key}
	s.hash = keyHash(name, algCosignature, s.public())
	return s, nil
}

func (s *CosignatureSigner) public() []byte { return s.key.Public().(ed25519.PublicKey) }

// Name returns the witness's name.
func (s *CosignatureSigner) Name() string { return s.name }

// KeyHash returns the key id.
func (s *CosignatureSigner) KeyHash() uint32 { return s.hash }

// VerifierKey returns the key for a policy's witness line.
func (s *CosignatureSigner) VerifierKey() string {
	return formatVerifierKey(s.name, algCosignature, s.public())
}

// Sign returns the time and the signature over it and msg, the text of a checkpoint.
func (s *CosignatureSigner) Sign(msg []byte) ([]byte, error) {
	if _, err := ParseCheckpoint(msg); err != nil {
		return nil, fmt.Errorf("cosign: %w", err)
	}
	now := time.Now().Unix()
	if now <= 0 {
		return nil, errors.New("tlog: the clock is before 1970; set it, and cosign again")
	}
	t := uint64(now)
	return append(binary.BigEndian.AppendUint64(nil, t), ed25519.Sign(s.key, cosignedMessage(t, msg))...), nil
}
