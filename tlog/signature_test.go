package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/mod/sumdb/note"
)

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWycheproofEd25519 gives the vectors to the verifier of a log's key.
func TestWycheproofEd25519(t *testing.T) {
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			PublicKey struct{ Pk string }
			Tests     []struct {
				TcId                      int
				Comment, Msg, Sig, Result string
			}
		}
	}
	readJSON(t, "testdata/wycheproof/ed25519_test.json", &file)
	n, valid := 0, 0
	for _, g := range file.TestGroups {
		v, err := tlog.NewLogVerifier(vkey("log.example/1", 1, unhex(t, g.PublicKey.Pk)))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Tests {
			n++
			want := c.Result == "valid"
			if want {
				valid++
			}
			if got := v.Verify(unhex(t, c.Msg), unhex(t, c.Sig)); got != want {
				t.Errorf("%d, %s: %v, and it is %s", c.TcId, c.Comment, got, c.Result)
			}
		}
	}
	if n != file.NumberOfTests || valid == 0 || valid == n {
		t.Errorf("%d of %d vectors, %d valid", n, file.NumberOfTests, valid)
	}
}

// TestWycheproofMLDSA gives the vectors to what every ML-DSA-44 verifier here checks with, which knows the empty context
// only: with another it must refuse what is valid with that one.
func TestWycheproofMLDSA(t *testing.T) {
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			PublicKey string
			Tests     []struct {
				TcId                           int
				Comment, Msg, Sig, Ctx, Result string
			}
		}
	}
	readJSON(t, "testdata/wycheproof/mldsa_44_verify_test.json", &file)
	n, valid := 0, 0
	for _, g := range file.TestGroups {
		pub := unhex(t, g.PublicKey)
		_, err := tlog.NewCosignatureVerifier(vkey("w", 6, pub))
		if (err == nil) != (len(pub) == 1312) {
			t.Errorf("a key of %d bytes: %v", len(pub), err)
		}
		for _, c := range g.Tests {
			n++
			want := c.Result == "valid" && c.Ctx == ""
			if want {
				valid++
			}
			if err := tlog.VerifyMLDSA(pub, unhex(t, c.Msg), unhex(t, c.Sig)); (err == nil) != want {
				t.Errorf("%d, %s: %v, and it is %s with the context %q", c.TcId, c.Comment, err, c.Result, c.Ctx)
			}
		}
	}
	if n != file.NumberOfTests || valid == 0 || valid == n {
		t.Errorf("%d of %d vectors, %d valid", n, file.NumberOfTests, valid)
	}
}

// TestEdgesEd25519 gives every edge case of points to the verifier. The wanted answers are those of the common formula, as
// Go, OpenSSL and browsers have it: what is not canonical in R, and what only verifies when multiplied by the cofactor,
// is refused, and everything else accepted.
func TestEdgesEd25519(t *testing.T) {
	var cases []struct {
		Number        int
		Key, Sig, Msg string
		Flags         []string
	}
	readJSON(t, "testdata/cctv/ed25519vectors.json", &cases)
	if len(cases) != 914 {
		t.Errorf("%d cases", len(cases))
	}
	accepted := 0
	for _, c := range cases {
		v, err := tlog.NewLogVerifier(vkey("log.example/1", 1, unhex(t, c.Key)))
		if err != nil {
			t.Fatal(err)
		}
		want := !slices.Contains(c.Flags, "non_canonical_R") && !slices.Contains(c.Flags, "low_order_residue")
		if want {
			accepted++
		}
		if got := v.Verify([]byte(c.Msg), unhex(t, c.Sig)); got != want {
			t.Errorf("case %d, %v: %v", c.Number, c.Flags, got)
		}
	}
	if accepted == 0 || accepted == len(cases) {
		t.Errorf("%d of %d are to be accepted", accepted, len(cases))
	}
}

func mldsaSeed(n byte) []byte { return bytes.Repeat([]byte{n}, tlog.MLDSASeedSize) }

// TestMLDSAAgainstTheText makes the signed message by the words of the specification and holds signer and verifier
// against it, in both directions.
func TestMLDSAAgainstTheText(t *testing.T) {
	const name, origin = "witness.example/w1", "log.example/1"
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), mldsaSeed(9))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tlog.NewMLDSACosigner(name, mldsaSeed(9))
	if err != nil {
		t.Fatal(err)
	}
	want := vkey(name, 6, key.PublicKey().Bytes())
	if got := s.VerifierKey(); got != want {
		t.Fatalf("verifier key %.60s, want %.60s", got, want)
	}
	v, err := tlog.NewCosignatureVerifier(want)
	if err != nil {
		t.Fatal(err)
	}
	if v.Name() != s.Name() || v.KeyHash() != s.KeyHash() {
		t.Fatal("signer and verifier are of different names")
	}
	root := tlog.HashLeaf(nil)
	message := func(t, start, end uint64) []byte {
		b := []byte("subtree/v1\n\x00")
		b = append(append(b, byte(len(name))), name...)
		b = binary.BigEndian.AppendUint64(b, t)
		b = append(append(b, byte(len(origin))), origin...)
		b = binary.BigEndian.AppendUint64(b, start)
		b = binary.BigEndian.AppendUint64(b, end)
		return append(b, root[:]...)
	}
	text := tlog.Checkpoint{Origin: origin, Size: 5, Root: root}.Text()
	blob, err := s.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	at := binary.BigEndian.Uint64(blob)
	if len(blob) != 8+2420 || mldsa.Verify(key.PublicKey(), message(at, 0, 5), blob[8:], nil) != nil {
		t.Fatal("the signature is not over the message of the specification")
	}
	if !v.Verify(text, blob) {
		t.Fatal("the signature does not verify")
	}
	if !v.Verify(append(bytes.Clone(text), "an extension\n"...), blob) {
		t.Error("an extension line got in the way of a signature that does not cover it")
	}
	for bit := 0; bit < 8*len(blob); bit += 37 {
		b := bytes.Clone(blob)
		b[bit/8] ^= 1 << (bit % 8)
		if v.Verify(text, b) {
			t.Fatalf("bit %d flipped, and it verifies", bit)
		}
	}
	for _, other := range []tlog.Checkpoint{{Origin: origin, Size: 6, Root: root}, {Origin: origin + "x", Size: 5, Root: root}, {Origin: origin, Size: 5, Root: tlog.HashLeaf([]byte("x"))}} {
		if v.Verify(other.Text(), blob) {
			t.Errorf("it verifies for %+v", other)
		}
	}
	for _, at := range []uint64{0, math.MaxInt64 + 1} {
		sig, err := key.Sign(nil, message(at, 0, 5), nil)
		if err != nil {
			t.Fatal(err)
		}
		if v.Verify(text, append(binary.BigEndian.AppendUint64(nil, at), sig...)) {
			t.Errorf("time %d verifies", at)
		}
		if _, err := s.SignAt(text, at); err == nil {
			t.Errorf("it stated the time %d", at)
		}
	}
	for _, short := range [][]byte{nil, blob[:8], blob[:len(blob)-1], append(bytes.Clone(blob), 0)} {
		if v.Verify(text, short) {
			t.Errorf("%d bytes verify", len(short))
		}
	}
	if v.Verify([]byte("anything\n"), blob) {
		t.Error("what is no checkpoint verifies")
	}

	sub, err := s.SignSubtree(origin, 4, 6, root)
	if err != nil {
		t.Fatal(err)
	}
	if binary.BigEndian.Uint64(sub) != 0 || mldsa.Verify(key.PublicKey(), message(0, 4, 6), sub[8:], nil) != nil {
		t.Error("the subtree's signature is not over the message of the specification")
	}
	if err := tlog.VerifySubtreeCosignature(want, origin, 4, 6, root, sub); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another subtree":        tlog.VerifySubtreeCosignature(want, origin, 4, 5, root, sub),
		"no subtree":             tlog.VerifySubtreeCosignature(want, origin, 3, 6, root, sub),
		"a checkpoint's":         tlog.VerifySubtreeCosignature(want, origin, 0, 5, root, blob),
		"another root":           tlog.VerifySubtreeCosignature(want, origin, 4, 6, tlog.EmptyRoot(), sub),
		"the key of another log": tlog.VerifySubtreeCosignature(vkey("w2", 6, key.PublicKey().Bytes()), origin, 4, 6, root, sub),
	} {
		if err == nil {
			t.Errorf("%s: it verifies", what)
		}
	}
	for _, bad := range [][2]uint64{{3, 6}, {6, 6}, {6, 4}} {
		if _, err := s.SignSubtree(origin, bad[0], bad[1], root); err == nil {
			t.Errorf("it cosigned %v", bad)
		}
	}
	ed, err := tlog.NewCosigner(name, seedKey(9))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ed.SignSubtree(origin, 4, 6, root); err == nil {
		t.Error("an Ed25519 key cosigned a subtree")
	}
	for _, seed := range [][]byte{nil, mldsaSeed(9)[:31], append(mldsaSeed(9), 9)} {
		if _, err := tlog.NewMLDSACosigner(name, seed); err == nil {
			t.Errorf("a seed of %d bytes", len(seed))
		}
	}
}

// TestTwoKeys has a log sign with both of its keys: whoever knows one of them is content, whoever knows both wants
// both right, and none stands for the other.
func TestTwoKeys(t *testing.T) {
	c := newCast(t)
	pq, err := tlog.NewMLDSACosigner("log.example/1", mldsaSeed(3))
	if err != nil {
		t.Fatal(err)
	}
	cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
	signed, err := tlog.SignCheckpoint(cp, c.log, pq)
	if err != nil {
		t.Fatal(err)
	}
	ed, err := tlog.NewLogVerifier(c.logKey)
	if err != nil {
		t.Fatal(err)
	}
	post, err := tlog.NewLogVerifier(pq.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for what, keys := range map[string][]note.Verifier{"Ed25519": {ed}, "ML-DSA-44": {post}, "both": {ed, post}} {
		got, n, err := tlog.OpenCheckpoint(signed, keys...)
		if err != nil || got != cp || len(n.Sigs) != len(keys) || len(n.Sigs)+len(n.UnverifiedSigs) != 2 {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
	}
	p := c.mustParse(t, "log LOG\nlog "+pq.VerifierKey()+"\nquorum none\n")
	if _, _, err := p.Check(signed); err != nil {
		t.Error(err)
	}
	spoilt := strings.Replace(string(signed), signatureLine(t, signed, 1), signatureLine(t, spoil(t, cp, pq), 0), 1)
	if _, _, err := tlog.OpenCheckpoint([]byte(spoilt), ed); err != nil {
		t.Errorf("whoever does not know the second key: %v", err)
	}
	if _, _, err := tlog.OpenCheckpoint([]byte(spoilt), ed, post); err == nil {
		t.Error("a wrong second signature passes")
	}
	if _, err := tlog.SignCheckpoint(cp); err == nil {
		t.Error("signed by nobody")
	}
	other, err := tlog.NewMLDSACosigner("log.example/2", mldsaSeed(3))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tlog.SignCheckpoint(cp, c.log, other); err == nil {
		t.Error("signed by another log's key")
	}
	if _, err := tlog.NewLogVerifier(c.witnessKeys[0]); err == nil {
		t.Error("a witness's key was taken for a log's")
	}
	if _, err := tlog.NewLogVerifier(vkey("l", 1, make([]byte, ed25519.PublicKeySize+1))); err == nil {
		t.Error("a key too long")
	}
}

// spoil signs another checkpoint than the one given.
func spoil(t *testing.T, c tlog.Checkpoint, s note.Signer) []byte {
	t.Helper()
	c.Size++
	signed, err := tlog.SignCheckpoint(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func signatureLine(t *testing.T, signed []byte, n int) string {
	t.Helper()
	_, sigs, ok := strings.Cut(string(signed), "\n\n")
	lines := strings.SplitAfter(sigs, "\n")
	if !ok || n >= len(lines) {
		t.Fatalf("no signature line %d in %q", n, signed)
	}
	return lines[n]
}
