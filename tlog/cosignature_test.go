package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

func TestCosignerAgainstTheText(t *testing.T) {
	key := seedKey(9)
	s, err := tlog.NewCosigner("witness.example/w1", key)
	if err != nil {
		t.Fatal(err)
	}
	want := vkey("witness.example/w1", 4, key.Public().(ed25519.PublicKey))
	if got := s.VerifierKey(); got != want {
		t.Fatalf("verifier key %s, want %s", got, want)
	}
	v, err := tlog.NewCosignatureVerifier(want)
	if err != nil {
		t.Fatal(err)
	}
	if v.Name() != s.Name() || v.KeyHash() != s.KeyHash() {
		t.Fatal("signer and verifier are of different names")
	}
	text := tlog.Checkpoint{Origin: "log.example/1", Size: 5, Root: tlog.HashLeaf(nil)}.Text()
	blob, err := s.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	at := binary.BigEndian.Uint64(blob)
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text), blob[8:]) {
		t.Fatal("the signature is not over the message of the specification")
	}
	if !v.Verify(text, blob) {
		t.Fatal("the signature does not verify")
	}
	for bit := range 8 * len(blob) {
		b := bytes.Clone(blob)
		b[bit/8] ^= 1 << (bit % 8)
		if v.Verify(text, b) {
			t.Fatalf("bit %d flipped, and it verifies", bit)
		}
	}
	// A key signs what it is asked to: times that may not stand in a cosignature fail all the same.
	for _, at := range []uint64{0, math.MaxInt64 + 1, math.MaxUint64} {
		sig := ed25519.Sign(key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))
		if v.Verify(text, append(binary.BigEndian.AppendUint64(nil, at), sig...)) {
			t.Errorf("time %d verifies", at)
		}
	}
	sig := ed25519.Sign(key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", uint64(math.MaxInt64), text))
	if !v.Verify(text, append(binary.BigEndian.AppendUint64(nil, math.MaxInt64), sig...)) {
		t.Error("the last time there is does not verify")
	}
	for _, short := range [][]byte{nil, blob[:7], blob[:8], blob[:71], append(bytes.Clone(blob), 0)} {
		if v.Verify(text, short) {
			t.Errorf("%d bytes verify", len(short))
		}
	}
	if _, err := s.Sign([]byte("anything\n")); err == nil {
		t.Error("it cosigned what is no checkpoint")
	}
	for _, name := range []string{"", "a b", "a+b"} {
		if _, err := tlog.NewCosigner(name, key); err == nil {
			t.Errorf("a witness called %q", name)
		}
	}
	if _, err := tlog.NewCosigner("w", key[:31]); err == nil {
		t.Error("half a key")
	}
}

// Verifier keys that others made, and what is wrong with some.
func TestVerifierKeys(t *testing.T) {
	// remora is a public witness; the key stands in github.com/transparency-dev/formats.
	const remora = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
	if _, err := tlog.NewCosignatureVerifier(remora); err != nil {
		t.Error(err)
	}
	_, log := logKey(t, "log.example/1", 1)
	for name, bad := range map[string]string{
		"a log's key":       log,
		"a short ML-DSA-44": vkey("w", 6, make([]byte, 1311)),
		"upper case":        strings.Replace(remora, "da77ade7", "DA77ADE7", 1),
		"another id":        strings.Replace(remora, "da77ade7", "da77ade8", 1),
		"no id":             strings.Replace(remora, "da77ade7", "", 1),
		"long id":           strings.Replace(remora, "da77ade7", "0da77ade7", 1),
		"no padding":        remora[:len(remora)-1],
		"a byte more":       vkey("w", 4, make([]byte, 33)),
		"a byte less":       vkey("w", 4, make([]byte, 31)),
		"a type of nobody":  vkey("w", 3, make([]byte, 32)),
		"no key":            "w+00000000+",
		"no parts":          "w",
		"two parts":         "w+00000000",
		"four parts":        remora + "+x",
		"a space":           vkey("w w", 4, make([]byte, 32)),
		"a carriage return": remora + "\r",
		"no name":           vkey("", 4, make([]byte, 32)),
	} {
		if _, err := tlog.NewCosignatureVerifier(bad); err == nil {
			t.Errorf("%s: %.60q was taken for a witness's key", name, bad)
		}
	}
}
