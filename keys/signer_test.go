package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

const origin = "log.example/1"

var here = Reference{Scheme: SchemeVault, Path: "transit/log", Version: "1"}

// A kind of key, and how it signs.
type kind struct {
	name string
	vkey string
	sign func(msg []byte) ([]byte, error)
}

func vkeyOf(t *testing.T, name string, pub crypto.PublicKey) string {
	t.Helper()
	v, err := tlog.LogVerifierKey(name, pub)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func kinds(t *testing.T, name string) []kind {
	t.Helper()
	edPub, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	seed := make([]byte, tlog.MLDSASeedSize)
	rand.Read(seed)
	pq, err := tlog.NewMLDSACosigner(name, seed)
	if err != nil {
		t.Fatal(err)
	}
	return []kind{
		{"Ed25519", vkeyOf(t, name, edPub), func(msg []byte) ([]byte, error) { return ed25519.Sign(ed, msg), nil }},
		{"ECDSA", vkeyOf(t, name, ec.Public()), func(msg []byte) ([]byte, error) {
			h := sha256.Sum256(msg)
			return ecdsa.SignASN1(rand.Reader, ec, h[:])
		}},
		{"ML-DSA-44", pq.VerifierKey(), pq.Sign},
	}
}

// TestPin signs a checkpoint with a key of each kind. Nothing comes out that its key does not verify.
func TestPin(t *testing.T) {
	all, others := kinds(t, origin), kinds(t, origin)
	cp := tlog.Checkpoint{Origin: origin, Size: 7, Root: tlog.HashLeaf(nil)}
	for i, k := range all {
		t.Run(k.name, func(t *testing.T) {
			s, err := Pin(here, k.vkey, k.sign)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := tlog.SignCheckpoint(cp, s)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := tlog.OpenCheckpoint(signed, s.Verifier()); err != nil {
				t.Error(err)
			}
			if s.Name() != origin || s.VerifierKey() != k.vkey || s.Reference() != here || s.KeyHash() != s.Verifier().KeyHash() {
				t.Errorf("%s of %s", s, s.Reference())
			}
			secret := errors.New("no answer")
			for what, c := range map[string]struct {
				sign func([]byte) ([]byte, error)
				want error
			}{
				"another key":            {others[i].sign, ErrNotPinned},
				"another kind of key":    {all[(i+1)%len(all)].sign, ErrNotPinned},
				"a signature of another": {func([]byte) ([]byte, error) { return k.sign([]byte("log.example/1\n8\n" + cp.Root.String() + "\n")) }, ErrNotPinned},
				"a bit flipped": {func(msg []byte) ([]byte, error) {
					sig, err := k.sign(msg)
					sig[len(sig)-1] ^= 1
					return sig, err
				}, ErrNotPinned},
				"nothing":        {func([]byte) ([]byte, error) { return nil, nil }, ErrNotPinned},
				"a byte more":    {func(msg []byte) ([]byte, error) { sig, err := k.sign(msg); return append(sig, 0), err }, ErrNotPinned},
				"no answer":      {func([]byte) ([]byte, error) { return []byte("and a signature"), secret }, secret},
				"the key's gone": {func([]byte) ([]byte, error) { return nil, fmt.Errorf("x: %w", ErrGone) }, ErrGone},
			} {
				s, err := Pin(here, k.vkey, c.sign)
				if err != nil {
					t.Fatal(err)
				}
				sig, err := s.Sign(cp.Text())
				if sig != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), here.String()) {
					t.Errorf("%s: signature %x, error %v", what, sig, err)
				}
				if _, err := tlog.SignCheckpoint(cp, s); !errors.Is(err, c.want) {
					t.Errorf("%s: a checkpoint: %v", what, err)
				}
			}
		})
	}
}

func TestPinRefuses(t *testing.T) {
	k := kinds(t, origin)[0]
	witness, err := tlog.NewCosigner(origin, ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		ref  Reference
		vkey string
		sign func([]byte) ([]byte, error)
		err  string
	}{
		{"no version", Reference{Scheme: SchemeVault, Path: "transit/log"}, k.vkey, k.sign, "add ?version="},
		{"no version, Azure", Reference{Scheme: SchemeAzure, Path: "a.b/c"}, k.vkey, k.sign, "add ?version="},
		{"a secret", Reference{Scheme: SchemeVault, Path: "transit/log", Version: "1", Field: "x"}, k.vkey, k.sign, "leave out #x"},
		{"no reference", Reference{}, k.vkey, k.sign, "begins with"},
		{"no key", here, "", k.sign, "not <name>"},
		{"a witness's key", here, witness.VerifierKey(), k.sign, "a witness's"},
		{"no way to sign", here, k.vkey, nil, "nothing to sign"},
	} {
		if _, err := Pin(c.ref, c.vkey, c.sign); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
	if _, err := Pin(Reference{Scheme: SchemeFile, Path: "a"}, k.vkey, k.sign); err != nil {
		t.Errorf("a file has no version: %v", err)
	}
}

func TestSignerShows(t *testing.T) {
	k := kinds(t, origin)[0]
	s, err := Pin(here, k.vkey, k.sign)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %x\n", s, s, s, s, s)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", s)
	if n := strings.Count(out.String(), k.vkey); n != 6 {
		t.Errorf("the verifier key shows %d times in %s", n, out.String())
	}
}

// A provider that gives what it was given.
type fixed struct {
	s   *Signer
	err error
}

func (f fixed) Signer(context.Context, Reference, string, string) (*Signer, error) { return f.s, f.err }

func TestProviders(t *testing.T) {
	k, foreign := kinds(t, origin)[0], kinds(t, "log.example/2")[0]
	pin := func(k kind) *Signer {
		s, err := Pin(here, k.vkey, k.sign)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	down := errors.New("down")
	for _, c := range []struct {
		name   string
		p      Providers
		ref    Reference
		origin string
		vkey   string
		want   error // errAny for any
	}{
		{"pinned now", Providers{SchemeVault: fixed{s: pin(k)}}, here, origin, "", nil},
		{"pinned before", Providers{SchemeVault: fixed{s: pin(k)}}, here, origin, k.vkey, nil},
		{"another key", Providers{SchemeVault: fixed{s: pin(k)}}, here, origin, kinds(t, origin)[0].vkey, ErrNotPinned},
		{"another log", Providers{SchemeVault: fixed{s: pin(foreign)}}, here, origin, "", ErrNotPinned},
		{"down", Providers{SchemeVault: fixed{err: down}}, here, origin, "", down},
		{"not set up", Providers{SchemeFile: fixed{s: pin(k)}}, here, origin, "", errAny},
		{"nothing set up", nil, here, origin, "", errAny},
		{"no reference", Providers{"": fixed{s: pin(k)}}, Reference{}, origin, "", errAny},
		{"no origin", Providers{SchemeVault: fixed{s: pin(k)}}, here, "", "", errAny},
	} {
		s, err := c.p.Signer(t.Context(), c.ref, c.origin, c.vkey)
		switch {
		case c.want == nil && (err != nil || s.VerifierKey() != k.vkey):
			t.Errorf("%s: %v, %v", c.name, s, err)
		case c.want == errAny && err == nil, c.want != nil && c.want != errAny && !errors.Is(err, c.want):
			t.Errorf("%s: %v, %v", c.name, s, err)
		case c.want != nil && s != nil:
			t.Errorf("%s: a signer besides an error", c.name)
		}
	}
	var _ note.Signer = pin(k)
}

var errAny = errors.New("any")
