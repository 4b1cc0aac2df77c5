package file

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

const wantSigner = "log signing key (one line, PRIVATE+KEY+name+hash+base64)"

// maxName is the longest name of a log, in bytes: c2sp.org/tlog-cosignature gives an
// origin's length in one byte.
const maxName = 255

// Signer signs a log's checkpoints with an Ed25519 key (signature type 0x01 of
// c2sp.org/signed-note). Printed, it is its public verifier key. It is immutable and safe
// for concurrent use.
type Signer struct {
	signer   note.Signer
	verifier note.Verifier
	vkey     string
}

var _ note.Signer = (*Signer)(nil)

// Create makes a new signing key for the log called name and writes it to a new file at
// path, mode 0600. The name is the origin of the log's checkpoints and cannot be changed
// later: it should be a URL without its scheme, has 1 to 255 bytes, and no space, plus
// sign or control character. If path exists it is left alone and the error is fs.ErrExist.
func Create(path, name string) (*Signer, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	skey, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, fmt.Errorf("keys/file: new log signing key: %w", err)
	}
	s, err := parseSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("keys/file: new log signing key: %w", err)
	}
	if err := createLine(path, skey, "log signing key"); err != nil {
		return nil, err
	}
	return s, nil
}

// Load reads the signing key of the log called name from the file at path. It refuses a
// file that group or others may read or write, one that holds something else, and the key
// of a log with another name. If there is no such file, the error is fs.ErrNotExist.
func Load(path, name string) (*Signer, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	line, err := readLine(path, fmt.Sprintf("%s of the log %q", wantSigner, name))
	if err != nil {
		return nil, err
	}
	s, err := parseSigner(string(line))
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", path, err)
	}
	if s.Name() != name {
		return nil, fmt.Errorf("keys/file: %s holds the key of the log %q, not of %q: the name of the key and the origin of the log must be the same", path, s.Name(), name)
	}
	return s, nil
}

// checkName accepts what can be both a key name of c2sp.org/signed-note and an origin of
// c2sp.org/tlog-checkpoint.
func checkName(name string) error {
	var why string
	switch {
	case name == "":
		why = "it is empty"
	case len(name) > maxName:
		why = fmt.Sprintf("it has %d bytes, and %d are allowed", len(name), maxName)
	case !utf8.ValidString(name):
		why = "it is not UTF-8"
	case strings.IndexFunc(name, unicode.IsSpace) >= 0:
		why = "it contains a space"
	case strings.Contains(name, "+"):
		why = "it contains a plus sign"
	case strings.IndexFunc(name, unicode.IsControl) >= 0:
		why = "it contains a control character"
	default:
		return nil
	}
	return fmt.Errorf("keys/file: %q cannot be the name of a log: %s", name, why)
}

// parseSigner parses the private form of a key. Its errors show nothing of skey but a
// name that passed for one.
func parseSigner(skey string) (*Signer, error) {
	if _, err := note.NewVerifier(skey); err == nil {
		return nil, errors.New("this is a verifier key, the public half; the private one begins with PRIVATE+KEY+")
	}
	bad := errors.New("this is not a " + wantSigner)
	// By hand what note keeps to itself: the seed, for the public half.
	rest, ok := strings.CutPrefix(skey, "PRIVATE+KEY+")
	f := strings.Split(rest, "+")
	if !ok || len(f) < 3 || checkName(f[0]) != nil {
		return nil, bad
	}
	// Base64 has plus signs of its own.
	key, err := base64.StdEncoding.Strict().DecodeString(strings.Join(f[2:], "+"))
	if err != nil || len(key) != 1+ed25519.SeedSize || strings.ContainsAny(skey, "\r\n") {
		return nil, bad
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, bad // also when the hash is not that of name and key: a damaged line
	}
	pub := ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), pub)
	if err != nil {
		return nil, bad
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil || verifier.KeyHash() != signer.KeyHash() {
		return nil, bad
	}
	return &Signer{signer, verifier, vkey}, nil
}

// Name returns the name of the log.
func (s *Signer) Name() string { return s.signer.Name() }

// KeyHash returns the key ID of c2sp.org/signed-note as a number.
func (s *Signer) KeyHash() uint32 { return s.signer.KeyHash() }

// Sign returns the 64-byte Ed25519 signature of msg.
func (s *Signer) Sign(msg []byte) ([]byte, error) { return s.signer.Sign(msg) }

// Verifier returns the verifier of what s signs.
func (s *Signer) Verifier() note.Verifier { return s.verifier }

// VerifierKey returns the public key in the form name+hash+base64, to be handed out.
func (s *Signer) VerifierKey() string { return s.vkey }

// String returns the verifier key.
func (s *Signer) String() string { return s.vkey }

// GoString returns the verifier key.
func (s *Signer) GoString() string { return s.vkey }

// Format writes the verifier key, whatever the verb.
func (s *Signer) Format(f fmt.State, verb rune) { io.WriteString(f, s.vkey) }

// MarshalText returns the verifier key.
func (s *Signer) MarshalText() ([]byte, error) { return []byte(s.vkey), nil }
