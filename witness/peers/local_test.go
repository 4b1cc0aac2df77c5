package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// An engine is tlog/local with real witnesses, two of which are enough.
type engine struct {
	*local.Log
	stop func() error // ends Run and closes
}

func openEngine(t *testing.T, dir, origin string, file []byte, all ...outsider) engine {
	t.Helper()
	signer, vkey := tlogtest.Key(origin)
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := latest.Open(filepath.Join(dir, "anchor"))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := local.Open(filepath.Join(dir, "log"), local.Config{Origin: origin, Signer: signer, Verifier: verifier, Latest: anchor, Ballast: -1, MinFree: -1,
		Interval: 10 * time.Millisecond, CosignEvery: 20 * time.Millisecond, Cosigner: quorumOf(t, origin, file, all...), Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stopped := false
	e := engine{l, func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-ended, l.Close())
	}}
	t.Cleanup(func() { e.stop() })
	return e
}

// await waits until the engine has published so many entries, or says why it will not.
func (e engine) await(t *testing.T, size uint64) error {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := e.Quarantined(); err != nil {
			return err
		}
		if e.Stats().Published >= size {
			return nil
		}
	}
	t.Fatalf("after a minute: %+v", e.Stats())
	return nil
}

// The engine of this house publishes what real witnesses have cosigned. Put back to an old copy, anchor and all, it asks
// them before it signs anything, and is told.
func TestLocal(t *testing.T) {
	const origin = "log.example/local"
	_, vkey := tlogtest.Key(origin)
	all := []outsider{litewitness(t, vkey), sunlight(t, vkey), ours(t, vkey)}
	file := policyOf(vkey, "2", all...)
	theirs, err := torchwood.ParsePolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	dir, old := t.TempDir(), filepath.Join(t.TempDir(), "old")
	for _, size := range []uint64{100, 200} {
		e := openEngine(t, dir, origin, file, all...)
		for e.Size() < size {
			if _, err := e.Append(t.Context(), tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d", e.Size())}); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.await(t, size); err != nil {
			t.Fatal(err)
		}
		signed, err := e.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c, _, err := torchwood.VerifyCheckpoint(signed, theirs); err != nil || c.N != int64(size) {
			t.Errorf("torchwood: %v\n%s", err, signed)
		}
		if err := e.stop(); err != nil {
			t.Fatal(err)
		}
		if size == 100 {
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	e := openEngine(t, old, origin, file, all...)
	before := e.Stats().Checkpoints
	go e.Append(t.Context(), tlog.Leaf{Entry: []byte("another entry 100")})
	err = e.await(t, 101)
	var fork *tlog.ForkError
	if !errors.Is(err, tlog.ErrQuarantine) || !errors.As(err, &fork) {
		t.Fatalf("an old copy goes on: %v", err)
	}
	for i, signed := range [][]byte{fork.A, fork.B} {
		c, _, err := tlog.OpenCheckpoint(signed, must(note.NewVerifier(vkey)))
		if want := []uint64{100, 200}[i]; err != nil || c.Size != want {
			t.Errorf("the evidence is of size %d, not %d: %v", c.Size, want, err)
		}
	}
	if n := e.Stats().Checkpoints; n != before {
		t.Errorf("%d checkpoints were signed", n-before)
	}
	t.Logf("%s", fork.Reason)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
