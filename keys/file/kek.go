package file

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/tallystick/tallystick/keys"
)

const (
	wantKEK = "key-encryption key (one line, 32 bytes in hex or base64)"
	kekSize = 32
)

// KEK is a key-encryption key: it wraps other keys, and is never used on data. What it
// wraps is nonce[12] || ciphertext || tag[16] of AES-256-GCM with a random nonce, so 28
// bytes longer than what went in; at most 2^32 keys may be wrapped with one KEK. It is
// immutable and safe for concurrent use.
type KEK struct {
	// A closure, because fmt reaches into unexported fields without asking for
	// methods, and an AEAD begins with its key.
	aead func() cipher.AEAD
}

// CreateKEK makes a new key-encryption key and writes it in hex to a new file at path, mode
// 0600. If path exists it is left alone and the error is fs.ErrExist. Whoever loses this
// file loses everything wrapped with it: keep a copy elsewhere.
func CreateKEK(path string) (*KEK, error) {
	var key [kekSize]byte
	rand.Read(key[:])
	k, err := newKEK(key[:])
	if err != nil {
		return nil, fmt.Errorf("keys/file: new key-encryption key: %w", err)
	}
	if err := createLine(path, hex.EncodeToString(key[:]), "key-encryption key"); err != nil {
		return nil, err
	}
	return k, nil
}

// LoadKEK reads a key-encryption key from the file at path: 64 hex digits, or 43 or 44
// characters of standard or URL base64. It refuses a file that group or others may read or
// write. If there is no such file, the error is fs.ErrNotExist.
func LoadKEK(path string) (*KEK, error) {
	line, err := readLine(path, wantKEK)
	if err != nil {
		return nil, err
	}
	key, err := parseKEK(string(line))
	if err != nil {
		return nil, fmt.Errorf("keys/file: %s: %w", path, err)
	}
	return newKEK(key)
}

// parseKEK decodes the text of a key. The length says which alphabet it is in.
func parseKEK(s string) ([]byte, error) {
	var key []byte
	err := errors.New("neither")
	switch len(s) {
	case hex.EncodedLen(kekSize):
		key, err = hex.DecodeString(s)
	case base64.StdEncoding.EncodedLen(kekSize):
		if key, err = base64.StdEncoding.Strict().DecodeString(s); err != nil {
			key, err = base64.URLEncoding.Strict().DecodeString(s)
		}
	case base64.RawStdEncoding.EncodedLen(kekSize):
		if key, err = base64.RawStdEncoding.Strict().DecodeString(s); err != nil {
			key, err = base64.RawURLEncoding.Strict().DecodeString(s)
		}
	}
	// The decoders skip line breaks, and their errors quote what they read.
	if err != nil || len(key) != kekSize {
		return nil, errors.New("this is not a " + wantKEK)
	}
	if [kekSize]byte(key) == [kekSize]byte{} {
		return nil, errors.New("this key-encryption key is all zeros: a placeholder, not a key")
	}
	return key, nil
}

func newKEK(key []byte) (*KEK, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &KEK{func() cipher.AEAD { return aead }}, nil
}

// Wrap appends the wrapped form of key to dst. aad is bound to it: Unwrap wants the same.
func (k *KEK) Wrap(_ context.Context, dst, key, aad []byte) ([]byte, error) {
	return k.aead().Seal(dst, nil, key, aad), nil
}

// Unwrap appends the key in wrapped to dst. If wrapped was not made by this KEK with this
// aad, or was changed since, the error is keys.ErrWrongKey.
func (k *KEK) Unwrap(_ context.Context, dst, wrapped, aad []byte) ([]byte, error) {
	out, err := k.aead().Open(dst, nil, wrapped, aad)
	if err != nil {
		return nil, keys.ErrWrongKey
	}
	return out, nil
}

const redactedKEK = "[key-encryption key]"

// String does not show the key.
func (k *KEK) String() string { return redactedKEK }

// GoString does not show the key.
func (k *KEK) GoString() string { return redactedKEK }

// Format does not show the key, whatever the verb.
func (k *KEK) Format(f fmt.State, verb rune) { io.WriteString(f, redactedKEK) }

// MarshalText does not show the key.
func (k *KEK) MarshalText() ([]byte, error) { return []byte(redactedKEK), nil }
