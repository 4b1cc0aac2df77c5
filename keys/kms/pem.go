package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/tallystick/tallystick/keys"
)

// maxPEM bounds what is read of a key file, in bytes. A key there has some three hundred.
const maxPEM = 16 << 10

// PEM makes signers of the keys that references file:PATH name, where the file is PEM: an Ed25519 key, or an ECDSA key on
// P-256, in one block of the type
//
//	PRIVATE KEY                     PKCS #8, RFC 5958
//	EC PRIVATE KEY                  RFC 5915
//	ENCRYPTED PRIVATE KEY           PKCS #8 under a password, with PBES2 of RFC 8018
//	ENCRYPTED SIGSTORE PRIVATE KEY  PKCS #8 under a password, as cosign keeps it: scrypt and NaCl's secretbox
//
// and nothing else but white space. The older encryption of PEM, with DEK-Info in its headers, is refused: it does not
// notice a wrong password.
type PEM struct {
	// Password is that of all encrypted keys; the zero Secret is none. It is not used on others.
	Password keys.Secret

	// Else makes signers of the files that are not PEM, as that of keys/file does; nil refuses them.
	Else keys.Provider
}

var _ keys.Provider = PEM{}

// Signer reads the key of ref's file and pins it, for the log called origin; its public key must be vkey where that is given.
// It refuses a file that group or others may read or write. See [keys.Provider].
func (p PEM) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if ref.Scheme != keys.SchemeFile {
		return nil, fmt.Errorf("keys/kms: %s is no file", ref)
	}
	b, err := readKeyFile(ref.Path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) {
		if p.Else == nil {
			return nil, fmt.Errorf("keys/kms: %s is not PEM; a private key in PEM was expected", ref.Path)
		}
		return p.Else.Signer(ctx, ref, origin, vkey)
	}
	sv, err := p.load(b)
	if err != nil {
		return nil, fmt.Errorf("keys/kms: %s: %w", ref.Path, err)
	}
	return Pin(ctx, ref, origin, vkey, sv, 0)
}

// load reads the key in b. Its errors show nothing of b.
func (p PEM) load(b []byte) (signature.SignerVerifier, error) {
	block, rest := pem.Decode(b)
	switch {
	case block == nil:
		return nil, errors.New("this is damaged PEM")
	case len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN "+block.Type+"-----")):
		return nil, errors.New("this is more than one PEM block; keep the private key alone in its file")
	case len(block.Headers) > 0:
		return nil, errors.New("this PEM has headers, as keys under the older encryption have; write it again as PKCS #8: openssl pkcs8 -topk8")
	}
	password := p.Password.Reveal()
	switch block.Type {
	case string(cryptoutils.PrivateKeyPEMType), string(cryptoutils.ECPrivateKeyPEMType):
	case "ENCRYPTED PRIVATE KEY", string(cryptoutils.EncryptedSigstorePrivateKeyPEMType):
		if len(password) == 0 {
			return nil, errors.New("this key is under a password, and none is given")
		}
	case "PUBLIC KEY":
		return nil, errors.New("this is a public key; the private one is needed")
	default:
		return nil, fmt.Errorf("this is PEM of the type %.40q, which is not one of those for private keys of logs", block.Type)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(b, func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		if strings.HasPrefix(block.Type, "ENCRYPTED ") {
			return nil, errors.New("this key does not open with the password given, or is damaged")
		}
		return nil, errors.New("this is no private key, or a damaged one")
	}
	switch key.(type) {
	case ed25519.PrivateKey, *ecdsa.PrivateKey: // P-256 or not is said by the one who makes a verifier key of it
	default:
		return nil, fmt.Errorf("this is a private key of type %T; a log has one of Ed25519, or of ECDSA on P-256", key)
	}
	return signature.LoadSignerVerifier(key, crypto.SHA256)
}

// readKeyFile reads a private key's file as keys/file does: a regular one that belongs to its owner alone.
func readKeyFile(path string) ([]byte, error) {
	// Not to block for ever on a named pipe; the mode of what was opened decides.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keys/kms: there is no private key: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("keys/kms: private key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("keys/kms: private key: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("keys/kms: %s is not a regular file; a private key was expected", path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("keys/kms: %s is open to other users (mode %04o): run chmod 600 %s, and replace the key if it may have been read", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("keys/kms: private key: %w", err)
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("keys/kms: %s is longer than %d bytes; a private key was expected", path, maxPEM)
	}
	return b, nil
}
