package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/mod/sumdb/note"
)

// seedKey is a key made of one byte, 32 times.
func seedKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

// vkey writes a verifier key as signed-note says, by other means than the product.
func vkey(name string, alg byte, pub []byte) string {
	id := sha256.Sum256([]byte(name + "\n" + string(rune(alg)) + string(pub)))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{alg}, pub...)))
}

// logKey returns the signer and the verifier key of a log.
func logKey(tb testing.TB, name string, b byte) (note.Signer, string) {
	tb.Helper()
	v := vkey(name, 1, seedKey(b).Public().(ed25519.PublicKey))
	parts := strings.Split(v, "+")
	seed := append([]byte{1}, bytes.Repeat([]byte{b}, ed25519.SeedSize)...)
	s, err := note.NewSigner("PRIVATE+KEY+" + parts[0] + "+" + parts[1] + "+" + base64.StdEncoding.EncodeToString(seed))
	if err != nil {
		tb.Fatal(err)
	}
	return s, v
}

func newVerifier(tb testing.TB, vkey string) note.Verifier {
	tb.Helper()
	v, err := note.NewVerifier(vkey)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

type checkpointCase struct {
	Name, Rule, Want string
	Note             []byte `json:"note_b64"`
}

func checkpointCases(tb testing.TB) (cases []checkpointCase, origin, key string) {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "checkpoints", "checkpoints.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var file struct {
		Origin, VKey string
		Cases        []checkpointCase
	}
	if err := json.Unmarshal(data, &file); err != nil {
		tb.Fatal(err)
	}
	return file.Cases, file.Origin, file.VKey
}

func TestCheckpointCases(t *testing.T) {
	cases, origin, key := checkpointCases(t)
	signer, sameKey := logKey(t, origin, 7)
	if key != sameKey {
		t.Fatalf("the key of the cases is %s, of the seed %s", key, sameKey)
	}
	// The case that is too large to store, and its neighbours at the limit.
	const root = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
	sign := func(text string) []byte {
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	extended := func(n int) []byte { return sign(origin + "\n42\n" + root + "\n" + strings.Repeat("x", n) + "\n") }
	room := tlog.MaxCheckpoint - len(extended(1)) + 1
	cases = append(cases,
		checkpointCase{"huge-text", "at most 64 KiB", "reject", extended(2 << 20)},
		checkpointCase{"large-text", "at most 64 KiB", "ok", extended(room)},
		checkpointCase{"too-large-text", "at most 64 KiB", "reject", extended(room + 1)},
	)
	// Cases of our own, beside those of the collection.
	good := string(sign(origin + "\n42\n" + root + "\n"))
	text, line, _ := strings.Cut(good, "\n\n")
	_, b64, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "— "), "\n"), " ")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(raw)
	bad[40] ^= 1
	badLine := "— " + origin + " " + base64.StdEncoding.EncodeToString(bad) + "\n"
	unknown := "— " + origin + " " + base64.StdEncoding.EncodeToString(append([]byte{1, 2, 3, 4}, raw[4:]...)) + "\n"
	loose := []byte(line)
	loose[len(loose)-3]++ // before the padding: only bits that decode to nothing
	for _, c := range []checkpointCase{
		{"good", "", "ok", []byte(good)},
		{"known-good-twice", "the same line again", "ok", []byte(good + line)},
		{"known-good+known-bad", "a known key that fails rejects the note, wherever it stands", "reject", []byte(good + badLine)},
		{"loose-base64", "base64 has one spelling", "reject", []byte(text + "\n\n" + string(loose))},
		{"key-of-other-id", "unknown keys are ignored", "ok", []byte(good + unknown)},
		{"sixteen-signatures", "16 at least", "ok", []byte(good + strings.Repeat(unknown, 15))},
		{"hundred-and-one-signatures", "100 at most", "reject", []byte(good + strings.Repeat(unknown, 100))},
		{"no-signature", "", "reject", []byte(text + "\n\n")},
		{"no-blank-line", "", "reject", []byte(text + "\n" + line)},
		{"no-final-newline", "", "reject", []byte(strings.TrimSuffix(good, "\n"))},
		{"blank-line-after", "", "reject", []byte(good + "\n")},
		{"not-utf8", "", "reject", sign(origin + "\n42\n" + root + "\n\xff\n")},
		{"empty", "", "reject", nil},
		{"newline", "", "reject", []byte("\n")},
		{"two-newlines", "", "reject", []byte("\n\n")},
		{"bom", "", "reject", []byte("\ufeff" + good)},
		{"leading-line", "", "reject", sign("\n" + origin + "\n42\n" + root + "\n")},
		{"root-31", "32 bytes", "reject", sign(origin + "\n42\n" + base64.StdEncoding.EncodeToString(make([]byte, 31)) + "\n")},
		{"root-33", "32 bytes", "reject", sign(origin + "\n42\n" + base64.StdEncoding.EncodeToString(make([]byte, 33)) + "\n")},
		{"root-unpadded", "padding", "reject", sign(origin + "\n42\n" + strings.TrimSuffix(root, "=") + "\n")},
		{"root-loose", "no loose bits", "reject", sign(origin + "\n42\n" + strings.Replace(root, "6s=", "6t=", 1) + "\n")},
		{"root-space", "", "reject", sign(origin + "\n42\n" + root + " \n")},
		{"size-minus", "", "reject", sign(origin + "\n-1\n" + root + "\n")},
		{"size-empty", "", "reject", sign(origin + "\n\n" + root + "\n")},
		{"size-arabic", "ASCII digits", "reject", sign(origin + "\n٤٢\n" + root + "\n")},
		{"size-2^63-1", "the largest", "ok", sign(origin + "\n9223372036854775807\n" + root + "\n")},
		{"size-00", "", "reject", sign(origin + "\n00\n" + tlog.EmptyRoot().String() + "\n")},
		{"empty-tree", "", "ok", sign(origin + "\n0\n" + tlog.EmptyRoot().String() + "\n")},
		{"origin-nbsp", "spaces", "reject", sign(origin + "\u00a0\n42\n" + root + "\n")},
	} {
		cases = append(cases, c)
	}

	rejected := 0
	for _, c := range cases {
		got, n, err := tlog.OpenCheckpoint(c.Note, newVerifier(t, key))
		if (err == nil) != (c.Want == "ok") {
			t.Errorf("%s (%s): want %s, got %v", c.Name, c.Rule, c.Want, err)
			continue
		}
		if err != nil {
			rejected++
			if got != (tlog.Checkpoint{}) || n != nil {
				t.Errorf("%s: rejected, and yet %v was returned", c.Name, got)
			}
			continue
		}
		if got.Origin != origin || len(n.Sigs) != 1 {
			t.Errorf("%s: origin %q, %d verified signatures", c.Name, got.Origin, len(n.Sigs))
		}
		if _, err := note.Open(c.Note, note.VerifierList(newVerifier(t, key))); err != nil {
			t.Errorf("%s: accepted here, and x/mod says %v", c.Name, err)
		}
	}
	t.Logf("%d cases, %d of them rejected", len(cases), rejected)
}

func TestOpenCheckpointErrors(t *testing.T) {
	s, key := logKey(t, "log.example/1", 1)
	_, other := logKey(t, "log.example/1", 2)
	_, stranger := logKey(t, "log.example/2", 3)
	signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: "log.example/1", Size: 3, Root: tlog.HashLeaf(nil)}, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tlog.OpenCheckpoint(signed); err == nil {
		t.Error("opened without a key")
	}
	if _, n, err := tlog.OpenCheckpoint(signed, newVerifier(t, key), newVerifier(t, other)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("one of two keys signed: %v", err)
	}
	if _, _, err := tlog.OpenCheckpoint(signed, newVerifier(t, key), newVerifier(t, key)); err == nil {
		t.Error("one key named twice")
	}
	var unverified *note.UnverifiedNoteError
	if _, _, err := tlog.OpenCheckpoint(signed, newVerifier(t, other)); !errors.As(err, &unverified) {
		t.Errorf("signed by nobody known: %v", err)
	}
	if _, _, err := tlog.OpenCheckpoint(signed, newVerifier(t, key), newVerifier(t, stranger)); err == nil || !strings.Contains(err.Error(), "log.example/2") {
		t.Errorf("a key of another log: %v", err)
	}
	var invalid *note.InvalidSignatureError
	if _, _, err := tlog.OpenCheckpoint(bytes.Replace(signed, []byte("\n3\n"), []byte("\n4\n"), 1), newVerifier(t, key)); !errors.As(err, &invalid) {
		t.Errorf("altered: %v", err)
	}
	if c, err := tlog.UnverifiedCheckpoint(bytes.Replace(signed, []byte("\n3\n"), []byte("\n4\n"), 1)); err != nil || c.Size != 4 {
		t.Errorf("unverified: %v, %v", c, err)
	}
	// Every single bit of a signed checkpoint counts.
	accepted := 0
	for bit := range 8 * len(signed) {
		b := bytes.Clone(signed)
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := tlog.OpenCheckpoint(b, newVerifier(t, key)); err == nil {
			accepted++
		}
	}
	if accepted != 0 {
		t.Errorf("%d of %d flipped bits were accepted", accepted, 8*len(signed))
	}
}

func TestSignCheckpoint(t *testing.T) {
	s, _ := logKey(t, "log.example/1", 1)
	root := tlog.HashLeaf(nil)
	for _, c := range []tlog.Checkpoint{
		{},
		{Origin: "log.example/2", Size: 1, Root: root},
		{Origin: "log.example/1", Size: 0, Root: root},
		{Origin: "log.example/1", Size: math.MaxInt64 + 1, Root: root},
	} {
		if _, err := tlog.SignCheckpoint(c, s); err == nil {
			t.Errorf("%v was signed", c)
		}
	}
}

// The rule for origins is note's rule for names of keys, and no control characters.
func TestCheckOrigin(t *testing.T) {
	good := []string{"a", "log.example/2026", "sum.golang.org", "日本.example/ログ", strings.Repeat("x", tlog.MaxOrigin), "a\ufffdb"}
	bad := []string{"", strings.Repeat("x", tlog.MaxOrigin+1), "a+b", "a b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "a\u0085b", "a\u009bb", "a\xffb",
		"a\u00a0b", "a\u1680b", "a\u2000b", "a\u2008b", "a\u200ab", "a\u2028b", "a\u2029b", "a\u202fb", "a\u205fb", "a\u3000b"}
	_, key := logKey(t, "log.example/1", 1)
	_, rest, _ := strings.Cut(key, "+")
	for _, o := range good {
		if err := tlog.CheckOrigin(o); err != nil {
			t.Errorf("%q: %v", o, err)
		}
	}
	for _, o := range bad {
		if tlog.CheckOrigin(o) == nil {
			t.Errorf("%q was taken for an origin", o)
		}
	}
	// What passes here is a name to x/mod as well: the error is of the key id, not of the name.
	for _, o := range good {
		if _, err := note.NewVerifier(o + "+" + rest); err == nil || !strings.Contains(err.Error(), "hash") {
			t.Errorf("x/mod on the name %q: %v", o, err)
		}
	}
}

func TestHashText(t *testing.T) {
	h := tlog.HashLeaf([]byte("x"))
	var back tlog.Hash
	text, err := h.MarshalText()
	if err != nil || back.UnmarshalText(text) != nil || back != h || string(text) != h.String() {
		t.Fatalf("%s read back as %s: %v", text, back, err)
	}
	s := h.String()
	for _, bad := range []string{"", s[:43], s + "=", s[:43] + "A", s[:42] + "==", "\n" + s[1:], s[:43] + "\n", s[:20] + "\r" + s[21:], s[:40] + "\n\n\n\n",
		strings.Repeat("\n", 44), strings.Repeat("=", 44), strings.Repeat("A", 44), strings.Repeat("_", 43) + "="} {
		if _, err := tlog.ParseHash(bad); err == nil {
			t.Errorf("%q was taken for a hash", bad)
		}
	}
	if back.UnmarshalText([]byte("no")) == nil || back != h {
		t.Error("a failed UnmarshalText changed the hash")
	}
	// One spelling each: of the 64 last letters before the padding, 16 end in the two zero bits.
	n := 0
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		if _, err := tlog.ParseHash(s[:42] + string(c) + "="); err == nil {
			n++
		}
	}
	if n != 16 {
		t.Errorf("%d last letters accepted, want 16", n)
	}
}

func TestHashLeaf(t *testing.T) {
	for _, n := range []int{0, 1, 31, 500, 1022, 1023, 1024, 1025, tlog.MaxEntry - 1, tlog.MaxEntry, tlog.MaxEntry + 1, 65535} {
		entry := bytes.Repeat([]byte{0xa5}, n)
		if got, want := tlog.HashLeaf(entry), tlog.Hash(sha256.Sum256(append([]byte{0}, entry...))); got != want {
			t.Errorf("leaf of %d bytes: %s, want %s", n, got, want)
		}
	}
	a, b := tlog.HashLeaf([]byte("a")), tlog.HashLeaf([]byte("b"))
	if got, want := tlog.HashChildren(a, b), tlog.Hash(sha256.Sum256(append(append([]byte{1}, a[:]...), b[:]...))); got != want {
		t.Errorf("children: %s, want %s", got, want)
	}
}

func FuzzCheckpoint(f *testing.F) {
	cases, _, key := checkpointCases(f)
	for _, c := range cases {
		f.Add(c.Note)
		text, _, _ := bytes.Cut(c.Note, []byte("\n\n"))
		f.Add(append(text, '\n'))
	}
	v := newVerifier(f, key)
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := tlog.ParseCheckpoint(data); err == nil {
			lines := bytes.SplitAfter(data, []byte("\n"))
			if got, want := c.Text(), bytes.Join(lines[:3], nil); !bytes.Equal(got, want) {
				t.Fatalf("%q reads back as %q", want, got)
			}
			if again, err := tlog.ParseCheckpoint(c.Text()); err != nil || again != c {
				t.Fatalf("%v is written and read as %v: %v", c, again, err)
			}
		}
		// What opens here opens with x/mod, and says the same.
		if c, n, err := tlog.OpenCheckpoint(data, v); err == nil {
			x, err := note.Open(data, note.VerifierList(v))
			if err != nil {
				t.Fatalf("accepted, and x/mod says %v", err)
			}
			if x.Text != n.Text || !bytes.HasPrefix([]byte(x.Text), c.Text()) || len(x.Sigs) != len(n.Sigs) || len(x.UnverifiedSigs) != len(n.UnverifiedSigs) {
				t.Fatalf("x/mod reads another note:\n%v\n%v", x, n)
			}
			if u, err := tlog.UnverifiedCheckpoint(data); err != nil || u != c {
				t.Fatalf("unverified it is %v: %v", u, err)
			}
		}
	})
}
