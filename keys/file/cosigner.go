package file

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/tlog"
)

const wantCosigner = "cosigning key (one line, PRIVATE+KEY+name+hash+base64)"

// The signature types of c2sp.org/signed-note that cosigning keys have, which are also the first byte of their private
// form, before a seed of 32 bytes.
const (
	Ed25519Cosigner = 0x04
	MLDSA44Cosigner = 0x06
)

// CreateCosigner makes a new key with which the witness called name cosigns, of type Ed25519Cosigner or MLDSA44Cosigner,
// and writes it to a new file at path, mode 0600. The name should be a URL without its scheme and cannot be
// changed later. If path exists it is left alone and the error is fs.ErrExist.
func CreateCosigner(path, name string, alg byte) (*tlog.CosignatureSigner, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var seed [32]byte
	rand.Read(seed[:])
	s, err := newCosigner(name, alg, seed[:])
	if err != nil {
		return nil, fmt.Errorf("keys/file: new cosigning key: %w", err)
	}
	if err := createLine(path, cosignerLine(s, alg, seed[:]), "cosigning key"); err != nil {
		return nil, err
	}
	return s, nil
}

// LoadCosigner reads a cosigning key, of either type, from the file at path. It refuses a file that group or others may
// read or write, and one that holds something else. If there is no such file, the error is fs.ErrNotExist.
func LoadCosigner(path string) (*tlog.CosignatureSigner, error) {
	line, err := readLine(path, wantCosigner)
	if err != nil {
		return nil, err
	}
	s, err := parseCosigner(string(line))
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", path, err)
	}
	return s, nil
}

func newCosigner(name string, alg byte, seed []byte) (*tlog.CosignatureSigner, error) {
	switch alg {
	case Ed25519Cosigner:
		return tlog.NewCosigner(name, ed25519.NewKeyFromSeed(seed))
	case MLDSA44Cosigner:
		return tlog.NewMLDSACosigner(name, seed)
	}
	return nil, fmt.Errorf("type %#02x; a cosigning key has type %#02x or %#02x", alg, Ed25519Cosigner, MLDSA44Cosigner)
}

// cosignerLine is the private form: that of golang.org/x/mod/sumdb/note, with the key id of the cosigner.
func cosignerLine(s *tlog.CosignatureSigner, alg byte, seed []byte) string {
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", s.Name(), s.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{alg}, seed...)))
}

// parseCosigner reads exactly what cosignerLine writes. Its errors show nothing of line.
func parseCosigner(line string) (*tlog.CosignatureSigner, error) {
	bad := errors.New("this is not a " + wantCosigner)
	rest, ok := strings.CutPrefix(line, "PRIVATE+KEY+")
	f := strings.SplitN(rest, "+", 3)
	if !ok || len(f) < 3 || checkName(f[0]) != nil {
		return nil, bad
	}
	key, err := base64.StdEncoding.Strict().DecodeString(f[2])
	if err != nil || len(key) != 33 {
		return nil, bad
	}
	if key[0] == 0x01 {
		return nil, errors.New("this is the key of a log, and a witness does not cosign with one; make a cosigning key")
	}
	s, err := newCosigner(f[0], key[0], key[1:])
	if err != nil || cosignerLine(s, key[0], key[1:]) != line {
		return nil, bad
	}
	return s, nil
}

// LoadAny is Load for a log of whatever name the key has.
func LoadAny(path string) (*Signer, error) {
	line, err := readLine(path, wantSigner)
	if err != nil {
		return nil, err
	}
	s, err := parseSigner(string(line))
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", path, err)
	}
	return s, nil
}
