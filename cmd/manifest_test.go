package cmd

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/kms"
	"github.com/tallystick/tallystick/verify"
)

// Manifests are signed in one room and verified in another, which do not know each other, and sigstore is the third that
// reads them.
func TestManifests(t *testing.T) {
	bundle, err := os.ReadFile("../verify/testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	m, err := verify.NewManifest("day.bundle", bundle, "alice", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var signers []*keys.Signer
	var makers []note.Verifier
	var theirs []signature.Verifier
	for _, name := range []string{"ed25519", "p256"} {
		pem, err := os.ReadFile("../keys/kms/testdata/" + name + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := keys.Providers{keys.SchemeFile: kms.PEM{}}.Signer(t.Context(), keys.Reference{Scheme: keys.SchemeFile, Path: path}, "maker.example/"+name, "")
		if err != nil {
			t.Fatal(err)
		}
		v, err := verify.NewMakerVerifier(s.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		pub, err := os.ReadFile("../keys/kms/testdata/" + name + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		k, err := cryptoutils.UnmarshalPEMToPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		their, err := signature.LoadVerifier(k, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		signers, makers, theirs = append(signers, s), append(makers, v), append(theirs, their)
	}
	ours, err := kms.SignEnvelope(t.Context(), verify.ManifestType, payload, signers...)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range signers {
		r, err := verify.CheckManifest(ours, bundle, makers[i])
		if err != nil || !r.OK() || !strings.Contains(r.Findings[0].Detail, s.Name()) {
			t.Errorf("%s: %+v, %v", s, r, err)
		}
		var read []byte
		v := dsse.WrapVerifier(theirs[i], dsse.WithExpectedPayloadType(verify.ManifestType), dsse.WithDecodedPayload(&read))
		if err := v.VerifySignature(bytes.NewReader(ours), nil); err != nil || !bytes.Equal(read, payload) {
			t.Errorf("%s: sigstore reads %q, %v", s, read, err)
		}
		pem, err := os.ReadFile(s.Reference().Path)
		if err != nil {
			t.Fatal(err)
		}
		key, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, nil)
		if err != nil {
			t.Fatal(err)
		}
		sv, err := signature.LoadSignerVerifier(key, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []signature.Signer{dsse.WrapSigner(sv, verify.ManifestType), dsse.WrapMultiSigner(verify.ManifestType, sv)} {
			raw, err := w.SignMessage(bytes.NewReader(payload))
			if err != nil {
				t.Fatal(err)
			}
			if r, err := verify.CheckManifest(raw, bundle, makers...); err != nil || !r.OK() {
				t.Errorf("%s: signed by sigstore: %+v, %v", s, r, err)
			}
		}
	}
}

// sigstore verifies the vector that is kept for ever.
func TestManifestVector(t *testing.T) {
	envelope, err := os.ReadFile("../verify/testdata/day.manifest")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../verify/testdata/day.manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, pub := range makersOf(t) {
		v, err := signature.LoadVerifier(pub, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		var read []byte
		if err := dsse.WrapVerifier(v, dsse.WithExpectedPayloadType(verify.ManifestType), dsse.WithDecodedPayload(&read)).VerifySignature(bytes.NewReader(envelope), nil); err != nil || !bytes.Equal(read, want) {
			t.Errorf("%s: %q, %v", name, read, err)
		}
	}
}

// makersOf reads the public keys that made the vector, without the room that does so elsewhere.
func makersOf(t *testing.T) map[string]crypto.PublicKey {
	t.Helper()
	b, err := os.ReadFile("../verify/testdata/day.makers")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]crypto.PublicKey)
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), "+", 3)
		key, err := base64.StdEncoding.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		switch key[0] {
		case 1:
			all[f[0]] = ed25519.PublicKey(key[1:])
		case 2:
			if all[f[0]], err = x509.ParsePKIXPublicKey(key[1:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(all) != 2 {
		t.Fatalf("%d makers", len(all))
	}
	return all
}
