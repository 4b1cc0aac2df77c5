package local

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A witness is one honest witness and the client that asks it, in this process: it cosigns what continues what it saw,
// and remembers that. Its faults can be chosen.
type witness struct {
	key *tlog.CosignatureSigner

	mu    sync.Mutex
	seen  tlog.Checkpoint // Origin is "" before the first
	words []byte          // the checkpoint it saw, as the log signed it
	asks  int
	fault func(signed []byte) ([]byte, error) // nil for none
	all   []tlog.Checkpoint
}

func newWitness(t testing.TB) *witness {
	t.Helper()
	key, err := tlog.NewCosigner("witness.example/w", tlogKey(7))
	if err != nil {
		t.Fatal(err)
	}
	return &witness{key: key}
}

func tlogKey(n byte) ed25519.PrivateKey {

	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// policy names the test log and the witness.
func (w *witness) policy(t testing.TB) *tlog.Policy {
	t.Helper()
	_, vkey := tlogtest.Key(testOrigin)
	p, err := tlog.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness w %s\nquorum w\n", vkey, w.key.VerifierKey()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *witness) set(fault func([]byte) ([]byte, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = fault
}

func (w *witness) asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asks
}

func (w *witness) clone() *witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &witness{key: w.key, seen: w.seen, words: w.words}
}

func (w *witness) Cosign(ctx context.Context, signed []byte, prove func(context.Context, uint64) (tlog.Proof, error)) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asks++
	if w.fault != nil {
		return w.fault(signed)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	if w.seen.Origin != "" {
		fork := &tlog.ForkError{A: signed, B: w.words, Reason: fmt.Sprintf("the witness knows %d entries with root %s, and was shown %d", w.seen.Size, w.seen.Root, c.Size)}
		if w.seen.Size > c.Size {
			return nil, fork
		}
		p, err := prove(ctx, w.seen.Size)
		if err != nil {
			return nil, err
		}
		if tlog.VerifyConsistency(w.seen.Size, c.Size, w.seen.Root, c.Root, p) != nil {
			return nil, fork
		}
	}
	w.seen, w.words = c, signed
	w.all = append(w.all, c)
	return w.sign(signed)
}

func (w *witness) sign(signed []byte) ([]byte, error) {
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	blob, err := w.key.Sign(append(bytes.Clone(text), '\n'))
	if err != nil {
		return nil, err
	}
	blob = append(binary.BigEndian.AppendUint32(nil, w.key.KeyHash()), blob...)
	return fmt.Appendf(bytes.Clone(signed), "— %s %s\n", w.key.Name(), base64.StdEncoding.EncodeToString(blob)), nil
}

var errAway = errors.New("the witness is away")

func away([]byte) ([]byte, error) { return nil, errAway }

func witnessed(t testing.TB, w *witness, c Config) Config {
	c.Cosigner, c.Policy = w, w.policy(t)
	or(&c.CosignEvery, 3*time.Millisecond)
	return c
}

// accepted says whether everything that the log shows, and kept, is cosigned.
func accepted(t testing.TB, l *Log, p *tlog.Policy) {
	t.Helper()
	signed, err := l.Checkpoint(t.Context())
	if errors.Is(err, tlog.ErrNotFound) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Check(signed); err != nil {
		t.Errorf("published: %v", err)
	}
	sizes, err := l.Sizes(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range sizes {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.Check(signed); err != nil {
			t.Errorf("kept and shown, size %d: %v", size, err)
		}
	}
}

// TestCosigned publishes only what the witness cosigned, whether it answers, is away, or comes back, over starts.
func TestCosigned(t *testing.T) {
	fs, a, book, w := vfs.NewMem(), new(anchor), newLedger(), newWitness(t)
	key, _ := tlogtest.Key(testOrigin)
	config := func() Config {
		return witnessed(t, w, Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}})
	}
	w.set(away)
	l := open(t, "/log", config())
	end := run(t, l)
	fill(t, l, book, 1, 0, 20)
	await(t, "the witness to be asked", func() bool { return w.asked() > 2 })
	if _, err := l.Checkpoint(t.Context()); !errors.Is(err, tlog.ErrNotFound) {
		t.Errorf("published without a witness: %v", err)
	}
	if n := book.signatures(); n != 1 || book.signed[0] != tlog.EmptyRoot() {
		t.Errorf("%d signatures before the witness answered; the empty tree's is the only one", n)
	}
	w.set(nil)
	awaitPublished(t, l, 20)
	fill(t, l, book, 1, 20, 30)
	awaitPublished(t, l, 50)
	accepted(t, l, w.policy(t))
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	// Away again: anchored, signed and kept, not published.
	w.set(away)
	fill(t, l, book, 1, 50, 10)
	await(t, "the checkpoint to be kept", func() bool { v := l.kept.Load(); return v.size == 60 })
	if p := l.published.Load(); p.size != 50 {
		t.Errorf("published at %d", p.size)
	}
	if got := must(a.Load(t.Context(), testOrigin)); !bytes.HasPrefix(got, []byte(testOrigin+"\n60\n")) {
		t.Errorf("anchored: %q", got)
	}
	accepted(t, l, w.policy(t))
	finish(t, l, end)

	// A start with the witness away: the newest checkpoint that was cosigned is shown, and nothing is signed.
	before := book.signatures()
	l = open(t, "/log", config())
	if p := l.published.Load(); p.size != 50 {
		t.Errorf("after a start published at %d", p.size)
	}
	end = run(t, l)
	fill(t, l, book, 1, 60, 5)
	asks := w.asked()
	await(t, "the witness to be asked again", func() bool { return w.asked() > asks+2 })
	if n := book.signatures(); n != before {
		t.Errorf("%d signatures after a start without the witness", n-before)
	}
	w.set(nil)
	awaitPublished(t, l, 65)
	accepted(t, l, w.policy(t))
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
	if w.seen.Size != 65 {
		t.Errorf("the witness saw %d entries", w.seen.Size)
	}
}

// TestWitnessKnowsMore puts the store back to an old copy, and with it the anchor and the head file: only the witness
// remembers. Not one signature is made.
func TestWitnessKnowsMore(t *testing.T) {
	key, _ := tlogtest.Key(testOrigin)
	for _, c := range []struct {
		name         string
		old, between int // entries in the copy, and made after it
		after        int // entries appended to the copy before the witness is asked
	}{
		{"put back by one", 10, 1, 0},
		{"put back by many", 300, 500, 0},
		{"put back and grown past it", 20, 5, 40},
		{"put back and grown to the same size", 20, 5, 5},
		{"put back to nothing", 0, 30, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs, a, book, w := vfs.NewMem(), new(anchor), newLedger(), newWitness(t)
			start := func(fs vfs.FS, a *anchor, book *ledger) (*Log, func() error) {
				l := open(t, "/log", witnessed(t, w, Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}}))
				return l, run(t, l)
			}
			l, end := start(fs, a, book)
			fill(t, l, book, 1, 0, c.old)
			awaitPublished(t, l, uint64(c.old))
			finish(t, l, end)
			old, oldAnchor := vfs.NewMem(), &anchor{is: bytes.Clone(a.is)}
			copyDir(t, fs, "/log", old, "/log")
			if c.old == 0 {
				old, oldAnchor = vfs.NewMem(), new(anchor)
			}
			l, end = start(fs, a, book)
			fill(t, l, book, 1, c.old, c.between)
			awaitPublished(t, l, uint64(c.old+c.between))
			finish(t, l, end)

			known := w.clone()
			forged := newLedger()
			w.set(away)
			l, end = start(old, oldAnchor, forged)
			if c.after > 0 {
				fill(t, l, newLedger(), 2, 0, c.after)
			}
			w.set(nil)
			await(t, "the quarantine", func() bool { return l.Quarantined() != nil })
			var fork *tlog.ForkError
			if !errors.As(l.Quarantined(), &fork) || !bytes.Equal(fork.B, known.words) {
				t.Errorf("%v", l.Quarantined())
			}
			for size := range forged.signed {
				if size > uint64(c.old) {
					t.Errorf("signed at %d", size)
				}
			}
			if _, err := l.Append(t.Context(), leaf(3, 1)); !errors.Is(err, tlog.ErrQuarantine) {
				t.Errorf("append: %v", err)
			}
			if end(); w.seen != known.seen {
				t.Errorf("the witness was led astray: %+v", w.seen)
			}
			l.Close()
			if names, err := old.List("/log/quarantine"); err != nil || len(names) == 0 {
				t.Errorf("no evidence: %v", err)
			}
		})
	}
}

// TestUnwitnessed starts without asking, because it was told to.
func TestUnwitnessed(t *testing.T) {
	fs, a, book, w := vfs.NewMem(), new(anchor), newLedger(), newWitness(t)
	w.set(away)
	c := witnessed(t, w, Config{FS: fs, Latest: a, Unwitnessed: true})
	l := open(t, "/log", c)
	end := run(t, l)
	fill(t, l, book, 1, 0, 20)
	await(t, "a checkpoint", func() bool { v := l.kept.Load(); return v != nil && v.size == 20 })
	if l.published.Load() != nil {
		t.Error("published without a witness")
	}
	w.set(nil)
	awaitPublished(t, l, 20)
	finish(t, l, end)
}

// TestNoPolicy publishes what too few have cosigned, because nothing asks for more, and takes what came.
func TestNoPolicy(t *testing.T) {
	w := newWitness(t)
	few := errors.New("too few")
	w.set(func(signed []byte) ([]byte, error) {
		got, err := w.sign(signed)
		return got, errors.Join(err, &tlog.QuorumError{Origin: testOrigin, Quorum: "two"}, few)
	})
	l := open(t, "/log", Config{FS: vfs.NewMem(), Cosigner: w, CosignEvery: time.Millisecond, Unwitnessed: true})
	end := run(t, l)
	fill(t, l, newLedger(), 1, 0, 5)
	awaitPublished(t, l, 5)
	accepted(t, l, w.policy(t))
	if l.Stats().CosignErrors == 0 {
		t.Error("nothing was counted")
	}
	finish(t, l, end)
}

// TestBadCosigner gives back what is not what was submitted. None of it is published, and a good answer afterwards is.
func TestBadCosigner(t *testing.T) {
	key, _ := tlogtest.Key(testOrigin)
	other, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: testOrigin, Size: 1 << 20, Root: tlog.HashLeaf([]byte("x"))}, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]func(w *witness, signed []byte) ([]byte, error){
		"nothing":            func(*witness, []byte) ([]byte, error) { return nil, nil },
		"garbage":            func(*witness, []byte) ([]byte, error) { return []byte("garbage\n"), nil },
		"another checkpoint": func(w *witness, _ []byte) ([]byte, error) { return w.sign(other) },
		"no cosignature":     func(_ *witness, signed []byte) ([]byte, error) { return signed, nil },
		"no signature of ours": func(w *witness, signed []byte) ([]byte, error) {
			got, err := w.sign(signed)
			text, sigs, _ := strings.Cut(string(got), "\n\n")
			_, theirs, _ := strings.Cut(sigs, "\n")
			return []byte(text + "\n\n" + theirs), err
		},
		"a wrong cosignature": func(w *witness, signed []byte) ([]byte, error) {
			got, err := w.sign(signed)
			return bytes.Replace(got, got[len(got)-8:len(got)-3], []byte("AAAAA"), 1), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWitness(t)
			w.set(func(signed []byte) ([]byte, error) { return fault(w, signed) })
			l := open(t, "/log", witnessed(t, w, Config{FS: vfs.NewMem(), Unwitnessed: true}))
			end := run(t, l)
			fill(t, l, newLedger(), 1, 0, 5)
			await(t, "the witness to be asked", func() bool { return w.asked() > 2 })
			if p := l.published.Load(); p != nil {
				t.Errorf("published: %q", p.signed)
			}
			w.set(nil)
			awaitPublished(t, l, 5)
			accepted(t, l, w.policy(t))
			finish(t, l, end)
		})
	}
}

// TestTwoLogKeys signs with an ML-DSA-44 key beside the first, and with all keys or none.
func TestTwoLogKeys(t *testing.T) {
	pq, err := tlog.NewMLDSACosigner(testOrigin, bytes.Repeat([]byte{5}, tlog.MLDSASeedSize))
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.NewLogVerifier(pq.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	fs, a, book := vfs.NewMem(), new(anchor), newLedger()
	l := open(t, "/log", Config{FS: fs, Latest: a})
	end := run(t, l)
	fill(t, l, book, 1, 0, 5)
	awaitPublished(t, l, 5)
	finish(t, l, end)
	// The second key comes later: what was signed before is still believed.
	l = open(t, "/log", Config{FS: fs, Latest: a, Also: []Key{{pq, v}}})
	end = run(t, l)
	fill(t, l, book, 1, 5, 5)
	awaitPublished(t, l, 10)
	signed := must(l.Checkpoint(t.Context()))
	if _, n, err := tlog.OpenCheckpoint(signed, v); err != nil || len(n.UnverifiedSigs) != 1 {
		t.Errorf("%v: %q", err, signed)
	}
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
	// And goes again.
	l = open(t, "/log", Config{FS: fs, Latest: a})
	end = run(t, l)
	fill(t, l, book, 1, 10, 5)
	awaitPublished(t, l, 15)
	finish(t, l, end)

	// One of the keys does not sign, or another than the pinned one does: nothing is published.
	stranger, err := tlog.NewMLDSACosigner(testOrigin, bytes.Repeat([]byte{6}, tlog.MLDSASeedSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open("/log", testConfig(t, Config{FS: fs, Latest: a, Also: []Key{{stranger, v}}})); err == nil || !strings.Contains(err.Error(), "the signer is") {
		t.Errorf("%v", err)
	}
	sick := &signer{Signer: pq, ledger: newLedger(), before: func() error { return errors.New("no answer") }}
	l = open(t, "/log", Config{FS: fs, Latest: a, Also: []Key{{sick, v}}, LastWait: 50 * time.Millisecond})
	end = run(t, l)
	fill(t, l, book, 1, 15, 1)
	await(t, "the signer to fail", func() bool { return l.Stats().SignErrors > 1 })
	if p := l.published.Load(); p.size != 15 {
		t.Errorf("published at %d", p.size)
	}
	end()
	l.Close()
}

// TestCosignedThroughPowerLoss loses power at random moments. What was published is cosigned, the witness is never
// contradicted, and the log goes on.
func TestCosignedThroughPowerLoss(t *testing.T) {
	losses := 60
	if testing.Short() {
		losses = 15
	}
	rng := rand.New(rand.NewPCG(3, 4))
	fs, a, book, w := vfs.NewCrashableMem(), new(anchor), newLedger(), newWitness(t)
	key, _ := tlogtest.Key(testOrigin)
	n := 0
	for range losses {
		l := open(t, "/log", witnessed(t, w, Config{FS: fs, Latest: a, Signer: &signer{Signer: key, ledger: book}, Interval: time.Millisecond, CosignEvery: time.Millisecond}))
		end := run(t, l)
		for range rng.IntN(20) {
			fill(t, l, book, 1, n, 1)
			n++
		}
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
		// The order of the copies is that of what they know: nobody outside may lag behind the disk's copy.
		w.mu.Lock()
		a.mu.Lock()
		disk := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		a.mu.Unlock()
		w.mu.Unlock()
		l.halt(errors.New("power lost"))
		end()
		l.Close()
		fs = disk
	}
	l := open(t, "/log", witnessed(t, w, Config{FS: fs, Latest: a}))
	end := run(t, l)
	fill(t, l, book, 1, n, 1)
	awaitPublished(t, l, l.Size())
	accepted(t, l, w.policy(t))
	if err := book.holds(t.Context(), l); err != nil {
		t.Error(err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finish(t, l, end)
}

// TestStoryCosigned tells the story of tlogtest to a log with a witness.
func TestStoryCosigned(t *testing.T) {
	t.Parallel()
	tlogtest.Run(t, func(t *testing.T) tlogtest.World {
		fs, w := vfs.NewMem(), newWitness(t)
		return tlogtest.World{
			Open: func(t testing.TB, s tlogtest.Setting) tlog.Log {
				return open(t, "/log", Config{Origin: s.Origin, Signer: s.Signer, Verifier: s.Verifier, Latest: s.Latest, FS: fs, Cosigner: w, CosignEvery: 2 * time.Millisecond})
			},
			Close: func(t testing.TB, l tlog.Log) {
				if err := l.(*Log).Close(); err != nil {
					t.Error(err)
				}
			},
			Large: 3000,
		}
	})
}
