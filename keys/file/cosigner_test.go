package file

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

const witnessName = "witness.example/w1"

// A cosigning key of either type is created, loaded again, and cosigns what its verifier key accepts.
func TestCosigner(t *testing.T) {
	text := tlog.Checkpoint{Origin: origin, Size: 1, Root: tlog.HashLeaf([]byte("x"))}.Text()
	for _, alg := range []byte{Ed25519Cosigner, MLDSA44Cosigner} {
		path := filepath.Join(t.TempDir(), "witness.key")
		created, err := CreateCosigner(path, witnessName, alg)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("type %#02x: %v, %v", alg, st.Mode(), err)
		}
		s, err := LoadCosigner(path)
		if err != nil {
			t.Fatal(err)
		}
		if s.VerifierKey() != created.VerifierKey() || s.Subtrees() != (alg == MLDSA44Cosigner) {
			t.Errorf("type %#02x: loaded %s, created %s", alg, s.VerifierKey(), created.VerifierKey())
		}
		v, err := tlog.NewCosignatureVerifier(s.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		blob, err := s.Sign(text)
		if err != nil || !v.Verify(text, blob) {
			t.Errorf("type %#02x: what it signs does not verify: %v", alg, err)
		}
		if _, err := CreateCosigner(path, witnessName, alg); !errors.Is(err, fs.ErrExist) {
			t.Errorf("type %#02x: creating it again: %v", alg, err)
		}
		other, err := CreateCosigner(filepath.Join(t.TempDir(), "witness.key"), witnessName, alg)
		if err != nil || other.VerifierKey() == s.VerifierKey() {
			t.Errorf("type %#02x: two keys are one: %v", alg, err)
		}
		if _, err := Load(path, witnessName); err == nil {
			t.Errorf("type %#02x: it passes for a log's key", alg)
		}
	}
}

func TestCosignerRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := CreateCosigner(path, witnessName, Ed25519Cosigner); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := strings.TrimSuffix(string(b), "\n")
	head := strings.Join(strings.SplitN(good, "+", 5)[:4], "+") + "+"
	seed := good[len(head):]
	retyped := func(alg byte) string {
		raw, err := base64.StdEncoding.DecodeString(seed)
		if err != nil {
			t.Fatal(err)
		}
		raw[0] = alg
		return head + base64.StdEncoding.EncodeToString(raw)
	}
	for _, c := range []struct {
		name, content, err string
		mode               os.FileMode
	}{
		{"a log's key", peter, "the key of a log", 0o600},
		{"group may read", good, "run chmod 600", 0o640},
		{"another name", strings.Replace(good, "w1", "w2", 1), "not a cosigning key", 0o600},
		{"cut", good[:len(good)-4], "not a cosigning key", 0o600},
		{"another type", retyped(MLDSA44Cosigner), "not a cosigning key", 0o600},
		{"unknown type", retyped(0x08), "not a cosigning key", 0o600},
		{"seed only", seed, "not a cosigning key", 0o600},
		{"two lines", good + "\n" + good + "\n", "more than one line", 0o600},
		{"empty", "", "is empty", 0o600},
	} {
		_, err := LoadCosigner(write(t, c.content, c.mode))
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			continue
		}
		if strings.Contains(err.Error(), seed[4:20]) || strings.Contains(err.Error(), peterSeed[4:20]) {
			t.Errorf("%s: the error shows the key: %v", c.name, err)
		}
	}
	if _, err := LoadCosigner(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing key: %v", err)
	}
	if _, err := CreateCosigner(filepath.Join(t.TempDir(), "key"), "a b", Ed25519Cosigner); err == nil {
		t.Error("a name with a space")
	}
	if _, err := CreateCosigner(filepath.Join(t.TempDir(), "key"), witnessName, 0x01); err == nil {
		t.Error("a cosigning key of a log's type")
	}
}

func TestLoadAny(t *testing.T) {
	s, err := LoadAny(write(t, peter, 0o600))
	if err != nil || s.Name() != "PeterNeumann" {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := LoadAny(write(t, peterVkey, 0o600)); err == nil {
		t.Error("a verifier key passes for a private one")
	}
}
