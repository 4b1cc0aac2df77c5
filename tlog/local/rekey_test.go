package local

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/mod/sumdb/note"
)

// logKeyPair makes the nth key of the test log.
func logKeyPair(t testing.TB, n byte) Key {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	vkey, err := tlog.LogVerifierKey(testOrigin, private.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.NewLogVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return Key{edSigner{v, private}, v}
}

// An edSigner signs as a log does.
type edSigner struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s edSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// TestRekey rotates the log's key while it appends: first both sign, then the new one alone. Whoever knows one of the keys
// follows through the overlap, and the log itself believes what its former key signed, also after a start.
func TestRekey(t *testing.T) {
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	one, two, three := logKeyPair(t, 1), logKeyPair(t, 2), logKeyPair(t, 3)
	l := open(t, "/log", Config{FS: fs, Latest: a, Signer: one.Signer, Verifier: one.Verifier, Interval: time.Millisecond})
	end := run(t, l)
	n := 0
	grow := func() {
		t.Helper()
		fill(t, l, book, 1, n, 20)
		n += 20
		awaitPublished(t, l, uint64(n))
	}
	signedBy := func(keys ...Key) {
		t.Helper()
		signed := must(l.Checkpoint(t.Context()))
		for _, k := range []Key{one, two, three} {
			want := false
			for _, by := range keys {
				want = want || by.Verifier.KeyHash() == k.Verifier.KeyHash()
			}
			if _, _, err := tlog.OpenCheckpoint(signed, k.Verifier); (err == nil) != want {
				t.Errorf("at %d: signed by key %08x: %v", n, k.Verifier.KeyHash(), err)
			}
		}
	}
	grow()
	signedBy(one)
	// Kept checkpoints of each key: of a second the last stays.
	pass := func() {
		since := l.now()
		await(t, "a second to pass", func() bool { return l.now() > since+int64(1100*time.Millisecond) })
	}
	pass()
	if err := l.Rekey(Config{Signer: one.Signer, Verifier: one.Verifier, Also: []Key{two}}); err != nil {
		t.Fatal(err)
	}
	grow()
	signedBy(one, two)
	pass()
	if err := l.Rekey(Config{Signer: two.Signer, Verifier: two.Verifier}); err != nil {
		t.Fatal(err)
	}
	grow()
	grow()
	signedBy(two)
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]Config{
		"no key":              {},
		"another log's":       {Signer: one.Signer, Verifier: must(tlog.NewLogVerifier(must(tlog.LogVerifierKey("log.example/other", ed25519.PublicKey(make([]byte, 32))))))},
		"a pair that is none": {Signer: one.Signer, Verifier: two.Verifier},
		"a witness":           {Signer: two.Signer, Verifier: two.Verifier, Cosigner: newWitness(t)},
	} {
		if err := l.Rekey(c); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	signedBy(two)
	finish(t, l, end)

	config := Config{FS: fs, Latest: a, Signer: two.Signer, Verifier: two.Verifier, Former: []note.Verifier{one.Verifier}}
	l = open(t, "/log", config)
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	end = run(t, l)
	grow()
	finish(t, l, end)
	// Without the former key what it signed is nobody's word; that is told, and what to do.
	config.Former, config.ReadOnly = nil, true
	l = open(t, "/log", config)
	if err := l.Check(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "kept for size") {
		t.Errorf("%v", err)
	}
	if err := l.Rekey(Config{Signer: two.Signer, Verifier: two.Verifier}); !errors.Is(err, tlog.ErrClosed) {
		t.Errorf("rekey of a log that is read only: %v", err)
	}
	l.Close()
}
