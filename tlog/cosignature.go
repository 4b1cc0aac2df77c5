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

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
)

// The signature types of signed-note that a log or a witness may have here.
const (
	algEd25519     = 0x01 // a log's signature over the note's text
	algECDSA       = 0x02 // a log's ECDSA P-256 signature over the note's text, where its key service has no Ed25519
	algCosignature = 0x04 // a witness's Ed25519 signature over a time and the note's text
	algMLDSA44     = 0x06 // a witness's or a log's ML-DSA-44 signature over a time and a subtree
)

// keySize is the length of a public key in bytes, by signature type.
func keySize(alg byte) int {
	switch alg {
	case algMLDSA44:
		return mldsa.MLDSA44PublicKeySize
	case algECDSA:
		return ecdsaKeySize
	}
	return ed25519.PublicKeySize
}

// signatureSize is the length of a witness's signature in bytes, by signature type; the time is not counted.
func signatureSize(alg byte) int {
	if alg == algMLDSA44 {
		return mldsa.MLDSA44SignatureSize
	}
	return ed25519.SignatureSize
}

// A Cosignature says that at Time the largest tree a witness had seen of the log was the one of the checkpoint
// (c2sp.org/tlog-cosignature).
type Cosignature struct {
	Name  string // of the witness's key, not what a policy calls it
	KeyID uint32
	Time  uint64 // POSIX seconds, never 0, at most 2^63-1
}

// lastSecond is the last one before the year 10000, with which the calendars of formats end.
const lastSecond = 253402300799

// At returns the time in UTC. One after the year 9999 is the last second of that year: a witness may state what it likes,
// and the time is one that can be written down all the same.
func (c Cosignature) At() time.Time { return time.Unix(int64(min(c.Time, lastSecond)), 0).UTC() }

// A verifierKey is a vkey of signed-note, one that has exactly one spelling.
type verifierKey struct {
	text string
	name string
	hash uint32
	alg  byte
	pub  []byte
}

// keyHash returns the key id: the first four bytes of SHA-256(name || "\n" || type || public key), and for an ECDSA key
// those of SHA-256(public key).
func keyHash(name string, alg byte, pub []byte) uint32 {
	if alg == algECDSA {
		sum := sha256.Sum256(pub)
		return binary.BigEndian.Uint32(sum[:])
	}
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
	case algEd25519, algECDSA, algCosignature, algMLDSA44:
	default:
		return k, fmt.Errorf("the key of %q has type %#02x; known are 0x01, 0x02, 0x04 and 0x06", name, k.alg)
	}
	if len(k.pub) != keySize(k.alg) {
		return k, fmt.Errorf("the key of %q has %d bytes, and its type %d", name, len(k.pub), keySize(k.alg))
	}
	if k.alg == algECDSA {
		if _, err := parseECDSAKey(k.pub); err != nil {
			return k, fmt.Errorf("the key of %q %w", name, err)
		}
	}
	if want := formatVerifierKey(name, k.alg, k.pub); want != s {
		return k, fmt.Errorf("the key of %q has another key id than its name and bytes make, which is %08x", name, keyHash(name, k.alg, k.pub))
	}
	k.hash = keyHash(name, k.alg, k.pub)
	return k, nil
}

// verifier returns what verifies with the key.
func (k verifierKey) verifier() note.Verifier {
	switch k.alg {
	case algEd25519, algCosignature:
		return &ed25519Verifier{k}
	case algECDSA:
		pub, err := parseECDSAKey(k.pub)
		if err != nil {
			panic(err) // it was parsed before
		}
		return &ecdsaVerifier{k, pub}
	}
	pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), k.pub)
	if err != nil {
		panic(err) // any bytes of the right number are a key
	}
	return &mldsaVerifier{k, pub}
}

// An ed25519Verifier verifies logs' signatures and witnesses' cosignatures, by the type of its key.
type ed25519Verifier struct{ key verifierKey }

func (v *ed25519Verifier) Name() string    { return v.key.name }
func (v *ed25519Verifier) KeyHash() uint32 { return v.key.hash }

func (v *ed25519Verifier) Verify(msg, sig []byte) bool {
	if v.key.alg == algCosignature {
		t, ok := cosignatureTime(v.key.alg, sig)
		if !ok {
			return false
		}
		msg, sig = cosignedMessage(t, msg), sig[8:]
	}
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(v.key.pub, msg, sig)
}

// An mldsaVerifier verifies ML-DSA-44 cosignatures of checkpoints, a log's own among them. Extension lines of a checkpoint
// are not covered by one; whoever reads them needs an Ed25519 signature as well.
type mldsaVerifier struct {
	key verifierKey
	pub *mldsa.PublicKey
}

func (v *mldsaVerifier) Name() string    { return v.key.name }
func (v *mldsaVerifier) KeyHash() uint32 { return v.key.hash }

func (v *mldsaVerifier) Verify(msg, sig []byte) bool {
	t, ok := cosignatureTime(algMLDSA44, sig)
	if !ok {
		return false
	}
	c, err := ParseCheckpoint(msg)
	if err != nil {
		return false
	}
	return verifyMLDSA(v.pub, subtreeMessage(v.key.name, t, c.Origin, 0, c.Size, c.Root), sig[8:]) == nil
}

// verifyMLDSA verifies a signature of ML-DSA.Verify (FIPS 204), with the empty context.
func verifyMLDSA(pub *mldsa.PublicKey, msg, sig []byte) error {
	return mldsa.Verify(pub, msg, sig, nil)
}

// cosignatureTime reads the time before a cosignature's signature, which must be one that may stand there.
func cosignatureTime(alg byte, blob []byte) (uint64, bool) {
	if len(blob) != 8+signatureSize(alg) {
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

// subtreeMessage is what an ML-DSA-44 cosignature signs: the structure cosigned_message of c2sp.org/tlog-cosignature. Name
// and origin have at most MaxOrigin bytes.
func subtreeMessage(name string, t uint64, origin string, start, end uint64, root Hash) []byte {
	msg := append(make([]byte, 0, 80+len(name)+len(origin)), "subtree/v1\n\x00"...)
	msg = append(append(msg, byte(len(name))), name...)
	msg = binary.BigEndian.AppendUint64(msg, t)
	msg = append(append(msg, byte(len(origin))), origin...)
	msg = binary.BigEndian.AppendUint64(msg, start)
	msg = binary.BigEndian.AppendUint64(msg, end)
	return append(msg, root[:]...)
}

// NewCosignatureVerifier returns what verifies the cosignatures (c2sp.org/tlog-cosignature, Ed25519 or ML-DSA-44) of the
// witness with this verifier key. A log's Ed25519 or ECDSA key is an error: it cosigns nothing. A time of zero or over
// 2^63-1 fails; whether it is plausible is for the caller to say.
func NewCosignatureVerifier(vkey string) (note.Verifier, error) {
	k, err := parseVerifierKey(vkey)
	if err == nil {
		err = k.ofWitness()
	}
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	return k.verifier(), nil
}

// NewLogVerifier returns what verifies the checkpoints that the log with this verifier key signs, with Ed25519, with ECDSA
// on P-256 or, with a time before it as in a cosignature, ML-DSA-44.
func NewLogVerifier(vkey string) (note.Verifier, error) {
	k, err := parseVerifierKey(vkey)
	if err == nil {
		err = k.ofLog()
	}
	if err != nil {
		return nil, fmt.Errorf("tlog: %w", err)
	}
	return k.verifier(), nil
}

// ofLog says whether a log can have the key.
func (k verifierKey) ofLog() error {
	if k.alg == algCosignature {
		return fmt.Errorf("the key of %q is a witness's, of type 0x04; a log has one of type 0x01, 0x02 or 0x06", k.name)
	}
	return nil
}

// ofWitness says whether a witness can have the key.
func (k verifierKey) ofWitness() error {
	if k.alg == algEd25519 || k.alg == algECDSA {
		return fmt.Errorf("the key of %q is a log's, of type %#02x; a witness has one of type 0x04 or 0x06", k.name, k.alg)
	}
	return nil
}

// VerifySubtreeCosignature says whether blob, what follows the key id in a signature line, is the cosignature of the
// witness with this ML-DSA-44 verifier key over the subtree [start, end) of the log origin, one that states no time.
func VerifySubtreeCosignature(vkey, origin string, start, end uint64, root Hash, blob []byte) error {
	k, err := parseVerifierKey(vkey)
	if err != nil {
		return fmt.Errorf("tlog: %w", err)
	}
	if k.alg != algMLDSA44 {
		return fmt.Errorf("tlog: the key of %q has type %#02x; subtrees are cosigned with one of type 0x06", k.name, k.alg)
	}
	if err := checkSubtree(origin, start, end); err != nil {
		return err
	}
	if len(blob) != 8+signatureSize(algMLDSA44) || binary.BigEndian.Uint64(blob) != 0 {
		return errors.New("tlog: the cosignature of a subtree is a time of zero and an ML-DSA-44 signature")
	}
	pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), k.pub)
	if err != nil {
		return fmt.Errorf("tlog: %w", err)
	}
	if err := verifyMLDSA(pub, subtreeMessage(k.name, 0, origin, start, end, root), blob[8:]); err != nil {
		return fmt.Errorf("tlog: %s has not cosigned the subtree [%d, %d) of %q with that root: %w", k.name, start, end, origin, err)
	}
	return nil
}

func checkSubtree(origin string, start, end uint64) error {
	if err := CheckOrigin(origin); err != nil {
		return err
	}
	if !ValidSubtree(start, end) || start == end {
		return fmt.Errorf("tlog: [%d, %d) is no subtree to cosign", start, end)
	}
	return nil
}

// A CosignatureSigner cosigns checkpoints as a witness does, with the time of day. It signs nothing but checkpoint
// texts and subtrees, and says nothing about what they are worth: whoever calls it has checked the proof and written
// down the result. With an ML-DSA-44 key it is also what a log signs with beside its Ed25519 key; the name is then the
// log's. It is a [note.Signer], safe for concurrent use.
type CosignatureSigner struct {
	name string
	alg  byte
	pub  []byte
	hash uint32
	sign func(msg []byte) ([]byte, error)
}

// NewCosigner returns the signer of the witness called name, with Ed25519. Its key is used for nothing else, and by no
// witness of another name: what it signs does not say the name.
func NewCosigner(name string, key ed25519.PrivateKey) (*CosignatureSigner, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("tlog: an Ed25519 private key has %d bytes, not %d", ed25519.PrivateKeySize, len(key))
	}
	return newCosigner(name, algCosignature, key.Public().(ed25519.PublicKey), func(msg []byte) ([]byte, error) {
		return ed25519.Sign(key, msg), nil
	})
}

// MLDSASeedSize is the length of an ML-DSA-44 private key in bytes: of the seed that makes it (FIPS 204 §3.6.3).
const MLDSASeedSize = mldsa.PrivateKeySize

// NewMLDSACosigner returns the signer of the witness or log called name, with the ML-DSA-44 key that the seed of
// MLDSASeedSize bytes makes.
func NewMLDSACosigner(name string, seed []byte) (*CosignatureSigner, error) {
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
	if err != nil {
		return nil, fmt.Errorf("tlog: an ML-DSA-44 private key: %w", err)
	}
	return newCosigner(name, algMLDSA44, key.PublicKey().Bytes(), func(msg []byte) ([]byte, error) {
		return key.Sign(nil, msg, nil)
	})
}

func newCosigner(name string, alg byte, pub []byte, sign func([]byte) ([]byte, error)) (*CosignatureSigner, error) {
	if err := CheckOrigin(name); err != nil {
		return nil, err
	}
	return &CosignatureSigner{name: name, alg: alg, pub: pub, hash: keyHash(name, alg, pub), sign: sign}, nil
}

// Name returns the name.
func (s *CosignatureSigner) Name() string { return s.name }

// KeyHash returns the key id.
func (s *CosignatureSigner) KeyHash() uint32 { return s.hash }

// VerifierKey returns the key for a policy's witness line, or for a log line if it is a log's.
func (s *CosignatureSigner) VerifierKey() string { return formatVerifierKey(s.name, s.alg, s.pub) }

// Subtrees says whether the key can cosign subtrees.
func (s *CosignatureSigner) Subtrees() bool { return s.alg == algMLDSA44 }

// Sign returns the time and the signature over it and msg, the text of a checkpoint.
func (s *CosignatureSigner) Sign(msg []byte) ([]byte, error) {
	now := time.Now().Unix()
	if now <= 0 {
		return nil, errors.New("tlog: the clock is before 1970; set it, and cosign again")
	}
	return s.SignAt(msg, uint64(now))
}

// SignAt is Sign with a time of the caller's choice, in seconds since 1970, which is not zero.
func (s *CosignatureSigner) SignAt(msg []byte, t uint64) ([]byte, error) {
	c, err := ParseCheckpoint(msg)
	if err != nil {
		return nil, fmt.Errorf("cosign: %w", err)
	}
	if t == 0 || t > math.MaxInt64 {
		return nil, fmt.Errorf("tlog: a cosignature cannot state the time %d", t)
	}
	if s.alg == algMLDSA44 {
		return s.blob(t, subtreeMessage(s.name, t, c.Origin, 0, c.Size, c.Root))
	}
	return s.blob(t, cosignedMessage(t, msg))
}

// SignSubtree returns the cosignature of the subtree [start, end) of a log, not empty, with a time of zero: it says that
// the subtree is part of all that was seen of the log, and nothing of when. Only an ML-DSA-44 key can.
func (s *CosignatureSigner) SignSubtree(origin string, start, end uint64, root Hash) ([]byte, error) {
	if !s.Subtrees() {
		return nil, fmt.Errorf("tlog: the key of %q is of type %#02x; subtrees are cosigned with one of type 0x06", s.name, s.alg)
	}
	if err := checkSubtree(origin, start, end); err != nil {
		return nil, err
	}
	return s.blob(0, subtreeMessage(s.name, 0, origin, start, end, root))
}

func (s *CosignatureSigner) blob(t uint64, msg []byte) ([]byte, error) {
	sig, err := s.sign(msg)
	if err != nil {
		return nil, fmt.Errorf("cosign as %s: %w", s.name, err)
	}
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(sig)), t), sig...), nil
}
