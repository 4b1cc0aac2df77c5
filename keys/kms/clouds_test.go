//go:build kms_cloud

package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
)

func clouds() keys.Providers {
	return keys.Providers{
		keys.SchemeAWS: AWS{LookupEnv: os.LookupEnv}, keys.SchemeGCP: GCP{LookupEnv: os.LookupEnv}, keys.SchemeAzure: Azure{LookupEnv: os.LookupEnv},
	}
}

// A service is one cloud's, as far as one key of it goes: what it answers, a test changes while it runs.
type service struct {
	mu     sync.Mutex
	key    *ecdsa.PrivateKey // signs
	public crypto.PublicKey  // that it shows
	fault  string            // what the next answers are instead
	hold   chan struct{}     // until it is closed, nothing is answered
	calls  []string          // what was asked for, with the key and version
}

// ask writes down a call and says what is wrong.
func (s *service) ask(call string) (fault string) {
	s.mu.Lock()
	s.calls = append(s.calls, call)
	fault, hold := s.fault, s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return fault
}

func (s *service) set(f func(s *service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *service) signature(t testing.TB, digest []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(digest) != sha256.Size {
		t.Errorf("a digest of %d bytes was to be signed", len(digest))
	}
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest)
	if err != nil {
		t.Error(err)
	}
	return sig
}

func (s *service) spki(t testing.TB) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	der, err := x509.MarshalPKIXPublicKey(s.public)
	if err != nil {
		t.Error(err)
	}
	return der
}

// called returns the calls since it was asked last.
func (s *service) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// story goes through what can happen with one key of a cloud. faults are what its service can refuse with, and what that
// means to us; odd are answers that make no sense; secret is what must show nowhere.
func story(t *testing.T, s *service, p func(timeout time.Duration) keys.Provider, ref keys.Reference, faults map[string]error, odd []string, secret string) {
	t.Helper()
	signer := func(vkey string) (*keys.Signer, error) {
		return keys.Providers{ref.Scheme: p(0)}.Signer(t.Context(), ref, origin, vkey)
	}
	refused := func(fault string, sig any, err, want error) {
		t.Helper()
		if err == nil || want != errAny && !errors.Is(err, want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1500 {
			t.Errorf("%s: %v, %v", fault, sig, err)
		} else if t.Logf("%s: %v", fault, err); strings.Contains(err.Error(), secret) {
			t.Errorf("%s: a secret shows: %v", fault, err)
		}
	}
	good, err := signer("")
	if err != nil {
		t.Fatal(err)
	}
	wantSigns(t, good)
	if good.Reference() != ref {
		t.Errorf("%s", good.Reference())
	}
	again, err := signer(good.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	wantSigns(t, again)
	if _, err := signer(vkeyOf(t, load(t, newEd25519(t)))); !errors.Is(err, keys.ErrNotPinned) {
		t.Errorf("another key pinned: %v", err)
	}

	// The service signs with another key than it shows, and shows another than it did.
	whole := s.key
	other := newECDSA(t, whole.Curve)
	s.set(func(s *service) { s.key = other })
	if sig, err := good.Sign(checkpoint.Text()); !errors.Is(err, keys.ErrNotPinned) || sig != nil {
		t.Errorf("another key's signature: %x, %v", sig, err)
	}
	s.set(func(s *service) { s.public = other.Public() })
	if _, err := signer(good.VerifierKey()); !errors.Is(err, keys.ErrNotPinned) {
		t.Errorf("another key there: %v", err)
	}
	if sig, err := good.Sign(checkpoint.Text()); !errors.Is(err, keys.ErrNotPinned) || sig != nil {
		t.Errorf("another key there, and its signature: %x, %v", sig, err)
	}
	s.set(func(s *service) { s.key, s.public = whole, whole.Public() })
	wantSigns(t, good)

	for fault, want := range faults {
		s.set(func(s *service) { s.fault = fault })
		sig, err := good.Sign(checkpoint.Text())
		refused(fault, sig, err, want)
		fresh, err := signer(good.VerifierKey())
		refused(fault+", at the start", fresh, err, want)
	}
	for _, fault := range odd {
		s.set(func(s *service) { s.fault = fault })
		fresh, err := signer(good.VerifierKey())
		if err == nil {
			_, err = fresh.Sign(checkpoint.Text())
		}
		refused(fault, fresh, err, errAny)
	}
	s.set(func(s *service) { s.fault = "" })
	wantSigns(t, good)

	// It does not answer.
	hold := make(chan struct{})
	s.set(func(s *service) { s.hold = hold })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p(0).Signer(ctx, ref, origin, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := p(0).Signer(ctx, ref, origin, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.set(func(s *service) { s.hold = nil })
	soon, err := p(2*time.Second).Signer(t.Context(), ref, origin, "")
	if err != nil {
		t.Fatal(err)
	}
	s.set(func(s *service) { s.hold = hold })
	if _, err := soon.Sign(checkpoint.Text()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer to Sign: %v", err)
	}
	s.set(func(s *service) { s.hold = nil })
	close(hold)
	wantSigns(t, good)
}
