package kms

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"errors"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// sigstore reads what is signed here, with both keys and with either.
func TestSignEnvelope(t *testing.T) {
	const kind = "application/vnd.example+json"
	var signers []*keys.Signer
	var verifiers []signature.Verifier
	for _, sv := range []signature.SignerVerifier{load(t, newEd25519(t)), load(t, newECDSA(t, elliptic.P256()))} {
		s, err := Pin(t.Context(), here, origin, "", sv, 0)
		if err != nil {
			t.Fatal(err)
		}
		signers, verifiers = append(signers, s), append(verifiers, sv)
	}
	for _, payload := range []string{`{"a":"<é> \u0000"}`, "\x00\xff", ""} {
		raw, err := SignEnvelope(t.Context(), kind, append([]byte(nil), payload...), signers...)
		if err != nil {
			t.Fatal(err)
		}
		var read []byte
		for i, v := range verifiers {
			if err := dsse.WrapVerifier(v, dsse.WithExpectedPayloadType(kind), dsse.WithDecodedPayload(&read)).VerifySignature(bytes.NewReader(raw), nil); err != nil || string(read) != payload {
				t.Errorf("%q, signer %d: read as %q, %v", payload, i, read, err)
			}
		}
		both := dsse.WrapMultiVerifierWithOpts(kind, 2, verifiers, dsse.WithDecodedPayload(&read))
		if err := both.VerifySignature(bytes.NewReader(raw), nil); err != nil || string(read) != payload {
			t.Errorf("%q: read as %q, %v", payload, read, err)
		}
		other := load(t, newEd25519(t))
		if err := dsse.WrapVerifier(other).VerifySignature(bytes.NewReader(raw), nil); err == nil {
			t.Errorf("%q: another key verifies it", payload)
		}
	}
}

func TestSignEnvelopeRefuses(t *testing.T) {
	c := &client{SignerVerifier: load(t, newEd25519(t))}
	good, err := Pin(t.Context(), here, origin, "", c.SignerVerifier, 0)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := Pin(t.Context(), here, origin, "", c, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.set(func(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil })
	pq, err := tlog.NewMLDSACosigner(origin, make([]byte, tlog.MLDSASeedSize))
	if err != nil {
		t.Fatal(err)
	}
	checkpoints, err := keys.Pin(here, pq.VerifierKey(), pq.Sign)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		kind    string
		signers []*keys.Signer
		want    error
	}{
		"nobody":           {t.Context(), "a/b", nil, errAny},
		"no type":          {t.Context(), "", []*keys.Signer{good}, errAny},
		"a type, spaced":   {t.Context(), "a b", []*keys.Signer{good}, errAny},
		"a type, accented": {t.Context(), "a/é", []*keys.Signer{good}, errAny},
		"cancelled":        {over, "a/b", []*keys.Signer{good}, context.Canceled},
		"one of two fails": {t.Context(), "a/b", []*keys.Signer{good, bad}, keys.ErrNotPinned},
		"ML-DSA-44":        {t.Context(), "a/b", []*keys.Signer{checkpoints}, errAny},
	} {
		raw, err := SignEnvelope(c.ctx, c.kind, []byte("x"), c.signers...)
		if err == nil || raw != nil || c.want != errAny && !errors.Is(err, c.want) {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
}
