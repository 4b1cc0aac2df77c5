package keys

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// What a key that lies elsewhere can answer, named after the caller's next move. An error that is none of these says
// that the key could not be asked, or that its answer made no sense: ask again.
var (
	// ErrNotPinned: a signature came, and it is not one of the pinned version of the pinned key. It was thrown
	// away. Find out who changed the key; asking again will not help.
	ErrNotPinned = errors.New("keys: this is not by the pinned key")

	// ErrGone: there is no such key, or its pinned version may not sign any more, because it was deleted, trimmed or
	// archived. Have it brought back, or go on with another key under another origin.
	ErrGone = errors.New("keys: the pinned key is gone")

	// ErrDenied: whoever asks may not use this key. Give them the right to, or other credentials.
	ErrDenied = errors.New("keys: not allowed")
)

// A Signer signs a log's checkpoints with one version of one key, wherever that lies, and hands out no signature that
// its pinned public key does not verify. Printed, it is its public verifier key. It comes from [Pin], never changes, and
// is safe for concurrent use. It is a [note.Signer].
type Signer struct {
	ref      Reference
	vkey     string
	verifier note.Verifier
	sign     func(msg []byte) ([]byte, error)
}

var _ note.Signer = (*Signer)(nil)

// Pin returns the signer that has sign make signatures, and verifies each with vkey, the verifier key of a log: Ed25519
// (type 0x01 of c2sp.org/signed-note), ECDSA on P-256 (0x02, in ASN.1 DER) or ML-DSA-44 (0x06, behind a time); see
// tlog.LogVerifierKey. ref is where the key lies, with its version where there are any.
//
// sign must be safe for concurrent use and give up by itself: a note.Signer has no context.
func Pin(ref Reference, vkey string, sign func(msg []byte) ([]byte, error)) (*Signer, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	switch {
	case ref.versioned() && ref.Version == "":
		return nil, fmt.Errorf("keys: %s says no version, so whoever rotates the key changes what signs: add ?version= and the version", ref)
	case ref.Field != "":
		return nil, fmt.Errorf("keys: %s is a secret to be read, and no key to sign with: leave out #%s", ref, ref.Field)
	case sign == nil:
		return nil, fmt.Errorf("keys: nothing to sign with %s with", ref)
	}
	v, err := tlog.NewLogVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("pin %s: %w", ref, err)
	}
	return &Signer{ref, vkey, v, sign}, nil
}

// Name returns the name of the log.
func (s *Signer) Name() string { return s.verifier.Name() }

// KeyHash returns the key ID of c2sp.org/signed-note as a number.
func (s *Signer) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign returns the signature of msg by the pinned version of the key. The errors are ErrNotPinned, ErrGone, ErrDenied, or
// why the key could not be asked.
func (s *Signer) Sign(msg []byte) ([]byte, error) {
	sig, err := s.sign(msg)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.ref, err)
	}
	if !s.verifier.Verify(msg, sig) {
		return nil, fmt.Errorf("sign with %s: the signature does not verify with %.200s: %w", s.ref, s.vkey, ErrNotPinned)
	}
	return sig, nil
}

// Verifier returns the verifier of what s signs.
func (s *Signer) Verifier() note.Verifier { return s.verifier }

// VerifierKey returns the pinned public key in the form name+hash+base64, to be handed out.
func (s *Signer) VerifierKey() string { return s.vkey }

// Reference returns where the key lies.
func (s *Signer) Reference() Reference { return s.ref }

// String returns the verifier key.
func (s *Signer) String() string { return s.vkey }

// GoString returns the verifier key.
func (s *Signer) GoString() string { return s.vkey }

// Format writes the verifier key, whatever the verb.
func (s *Signer) Format(f fmt.State, verb rune) { io.WriteString(f, s.vkey) }

// MarshalText returns the verifier key.
func (s *Signer) MarshalText() ([]byte, error) { return []byte(s.vkey), nil }

// A Provider is a place that keeps keys.
type Provider interface {
	// Signer returns the signer of the log called origin, made by [Pin], with the key that ref names. vkey is the public
	// key to pin; where it is "", the provider pins the one it finds there now, and the caller keeps it for the next
	// time. ctx is for this call alone. The errors are those of Signer.Sign, and fs.ErrNotExist for a file.
	Signer(ctx context.Context, ref Reference, origin, vkey string) (*Signer, error)
}

// Providers are the places that are set up here, by the scheme of their references.
type Providers map[string]Provider

// Signer asks the provider of ref's scheme; see [Provider]. The key it gives is held against origin and vkey once more.
func (ps Providers) Signer(ctx context.Context, ref Reference, origin, vkey string) (*Signer, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	p := ps[ref.Scheme]
	if p == nil {
		return nil, fmt.Errorf("keys: %s: no %s is set up here", ref, ref.Scheme)
	}
	if err := tlog.CheckOrigin(origin); err != nil {
		return nil, err
	}
	s, err := p.Signer(ctx, ref, origin, vkey)
	if err != nil {
		return nil, err
	}
	if s.Name() != origin {
		return nil, fmt.Errorf("keys: %s is the key of %q, and the log is %q: %w", ref, s.Name(), origin, ErrNotPinned)
	}
	if vkey != "" && s.vkey != vkey {
		return nil, fmt.Errorf("keys: %s has the public key %.200s, and pinned is %.200s: %w", ref, s.vkey, vkey, ErrNotPinned)
	}
	return s, nil
}
