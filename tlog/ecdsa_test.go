package tlog_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// ecdsaKey is the verifier key of the public Rekor log, as it is published for clients of signed notes.
const ecdsaKey = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="

// ecdsaSigner signs as a key service would, with a key made anew.
type ecdsaSigner struct {
	name string
	key  *ecdsa.PrivateKey
}

func newECDSASigner(t *testing.T, name string) ecdsaSigner {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ecdsaSigner{name, key}
}

func (s ecdsaSigner) Name() string { return s.name }

func (s ecdsaSigner) KeyHash() uint32 {
	der, _ := x509.MarshalPKIXPublicKey(s.key.Public())
	h := sha256.Sum256(der)
	return uint32(h[0])<<24 | uint32(h[1])<<16 | uint32(h[2])<<8 | uint32(h[3])
}

func (s ecdsaSigner) Sign(msg []byte) ([]byte, error) {
	h := sha256.Sum256(msg)
	return ecdsa.SignASN1(rand.Reader, s.key, h[:])
}

// ecdsaVkey writes a verifier key by the words of signed-note.
func ecdsaVkey(name string, der []byte) string {
	id := sha256.Sum256(der)
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{2}, der...)))
}

// TestWycheproofECDSA gives the vectors to the verifier of a log's key: those in ASN.1 with their results, and those in
// r||s to be refused, all of them.
func TestWycheproofECDSA(t *testing.T) {
	for _, f := range []struct {
		name string
		der  bool
	}{{"ecdsa_secp256r1_sha256_test.json", true}, {"ecdsa_secp256r1_sha256_p1363_test.json", false}} {
		var file struct {
			NumberOfTests int
			TestGroups    []struct {
				PublicKeyDer string
				Tests        []struct {
					TcId                      int
					Comment, Msg, Sig, Result string
				}
			}
		}
		readJSON(t, "testdata/wycheproof/"+f.name, &file)
		n, valid := 0, 0
		for _, g := range file.TestGroups {
			v, err := tlog.NewLogVerifier(ecdsaVkey("log.example/1", unhex(t, g.PublicKeyDer)))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range g.Tests {
				n++
				if c.Result == "valid" {
					valid++
				}
				want := c.Result == "valid" && f.der
				if got := v.Verify(unhex(t, c.Msg), unhex(t, c.Sig)); got != want {
					t.Errorf("%s %d, %s: %v, and it is %s", f.name, c.TcId, c.Comment, got, c.Result)
				}
			}
		}
		if n != file.NumberOfTests || valid == 0 || valid == n {
			t.Errorf("%s: %d of %d vectors, %d valid", f.name, n, file.NumberOfTests, valid)
		}
		t.Logf("%s: %d vectors, %d of them valid", f.name, n, valid)
	}
}

// TestECDSALog signs a checkpoint with ECDSA alone and beside Ed25519, and reads it in all ways.
func TestECDSALog(t *testing.T) {
	c := newCast(t)
	s := newECDSASigner(t, "log.example/1")
	vkey, err := tlog.LogVerifierKey("log.example/1", s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil || vkey != ecdsaVkey("log.example/1", der) {
		t.Fatalf("verifier key %s, want %s", vkey, ecdsaVkey("log.example/1", der))
	}
	ec, err := tlog.NewLogVerifier(vkey)
	if err != nil || ec.Name() != s.name || ec.KeyHash() != s.KeyHash() {
		t.Fatalf("%v, %v", ec, err)
	}
	ed, err := tlog.NewLogVerifier(c.logKey)
	if err != nil {
		t.Fatal(err)
	}
	cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
	signed, err := tlog.SignCheckpoint(cp, c.log, s)
	if err != nil {
		t.Fatal(err)
	}
	for what, keys := range map[string][]note.Verifier{"Ed25519": {ed}, "ECDSA": {ec}, "both": {ed, ec}} {
		got, n, err := tlog.OpenCheckpoint(signed, keys...)
		if err != nil || got != cp || len(n.Sigs) != len(keys) {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
	}
	if _, _, err := c.mustParse(t, "log LOG\nlog "+vkey+"\nquorum none\n").Check(signed); err != nil {
		t.Error(err)
	}
	spoilt := strings.Replace(string(signed), signatureLine(t, signed, 1), signatureLine(t, spoil(t, cp, s), 0), 1)
	if _, _, err := tlog.OpenCheckpoint([]byte(spoilt), ed, ec); err == nil {
		t.Error("a wrong second signature passes")
	}
	if _, err := tlog.NewCosignatureVerifier(vkey); err == nil || !strings.Contains(err.Error(), "is a log's") {
		t.Errorf("a log's key was taken for a witness's: %v", err)
	}
}

// TestECDSAKeys has every key that is not P-256 in its one encoding, or not of its id, refused.
func TestECDSAKeys(t *testing.T) {
	if _, err := tlog.NewLogVerifier(ecdsaKey); err != nil {
		t.Errorf("the key of a real log: %v", err)
	}
	p256 := newECDSASigner(t, "l").key
	der, err := x509.MarshalPKIXPublicKey(p256.Public())
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der384, err := x509.MarshalPKIXPublicKey(p384.Public())
	if err != nil {
		t.Fatal(err)
	}
	offCurve := append([]byte(nil), der...)
	offCurve[len(offCurve)-1] ^= 1
	k1 := append([]byte(nil), der...) // the same length, of the curve secp256k1
	copy(k1, unhex(t, "3056301006072a8648ce3d020106052b8104000a034200"))
	compressed := unhex(t, "3039301306072a8648ce3d020106082a8648ce3d030107032200")
	compressed = append(compressed, elliptic.MarshalCompressed(elliptic.P256(), p256.X, p256.Y)...)
	for what, bad := range map[string]string{
		"P-384":          ecdsaVkey("l", der384),
		"off the curve":  ecdsaVkey("l", offCurve),
		"secp256k1":      ecdsaVkey("l", k1),
		"compressed":     ecdsaVkey("l", compressed),
		"a byte more":    ecdsaVkey("l", append(der[:len(der):len(der)], 0)),
		"a byte less":    ecdsaVkey("l", der[:len(der)-1]),
		"nothing":        ecdsaVkey("l", nil),
		"zeros":          ecdsaVkey("l", make([]byte, len(der))),
		"its id by name": vkey("l", 2, der),
	} {
		if v, err := tlog.NewLogVerifier(bad); err == nil {
			t.Errorf("%s: %s passes", what, v.Name())
		}
	}
	mldsaKey, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), mldsaSeed(1))
	if err != nil {
		t.Fatal(err)
	}
	mldsa65, err := mldsa.NewPrivateKey(mldsa.MLDSA65(), mldsaSeed(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		origin string
		public any
		ok     bool
	}{
		{"Ed25519", "l", seedKey(1).Public(), true},
		{"P-256", "l", p256.Public(), true},
		{"ML-DSA-44", "l", mldsaKey.PublicKey(), true},
		{"ML-DSA-65", "l", mldsa65.PublicKey(), false},
		{"P-384", "l", p384.Public(), false},
		{"a point that is none", "l", &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}, false},
		{"too short", "l", ed25519.PublicKey("short"), false},
		{"a private key", "l", seedKey(1), false},
		{"nothing", "l", nil, false},
		{"a name with a plus", "l+", p256.Public(), false},
	} {
		v, err := tlog.LogVerifierKey(c.origin, c.public)
		if (err == nil) != c.ok {
			t.Errorf("%s: %q, %v", c.what, v, err)
		}
	}
}
