package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/witness"
)

// A shown is a log whose published checkpoint is the cosigned one.
type shown struct {
	tlog.Reader
	signed []byte
}

func (s shown) Checkpoint(context.Context) ([]byte, error) { return s.signed, nil }

// A log that asks four witnesses of four makers, by a policy of nested groups. What they cosigned, Tessera's fsck and
// torchwood's client, policy and proofs take, over HTTP and by the same policy file.
func TestQuorum(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/quorum", Manual: true})
	all := []outsider{litewitness(t, l.VerifierKey()), sunlight(t, l.VerifierKey()), omniwitness(t, l.VerifierKey()), ours(t, l.VerifierKey())}
	file := policyOf(l.VerifierKey(), "3", all...)
	q := quorumOf(t, l.Origin(), file, all...)
	theirPolicy, err := torchwood.ParsePolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1, 0, 254, 1, 600} {
		signed := grow(t, l, n, "")
		out, err := q.Cosign(t.Context(), signed, prover(t, l, signed))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range q.Stats() {
			if s.Err != nil || s.Faults != 0 || s.Size != l.Size() {
				t.Errorf("%+v", s)
			}
		}
		// litewitness has one key, the others have two.
		if _, n, err := torchwood.VerifyCheckpoint(out, theirPolicy); err != nil || len(n.Sigs) != 8 || len(n.UnverifiedSigs) != 0 {
			t.Fatalf("torchwood's policy: %v\n%s", err, out)
		}
		checkedByOthers(t, l, out, theirPolicy)
	}
}

func quorumOf(t *testing.T, origin string, file []byte, all ...outsider) *witness.Quorum {
	t.Helper()
	p, err := tlog.ParsePolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	q, err := witness.NewQuorum(witness.QuorumConfig{Policy: p, Origin: origin, Monitoring: monitoring(all...), All: true, Interval: 10 * time.Millisecond, Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// checkedByOthers serves a log with its cosigned checkpoint, and has others read and check it.
func checkedByOthers(t *testing.T, l *tlogtest.Log, cosigned []byte, policy torchwood.Policy) {
	t.Helper()
	s := httptest.NewServer(tiles.Handler(shown{l, cosigned}, tiles.Options{}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if l.Size() > 0 { // it takes no empty log
		u, err := url.Parse(s.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		f, err := client.NewHTTPFetcher(u, &http.Client{})
		if err != nil {
			t.Fatal(err)
		}
		if err := fsck.New(l.Origin(), l.Verifier(), f, leafHashes, fsck.Opts{N: 2}).Check(ctx); err != nil {
			t.Errorf("size %d: Tessera's fsck: %v", l.Size(), err)
		}
	}
	fetcher, err := torchwood.NewTileFetcher(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := torchwood.VerifyCheckpoint(raw, policy)
	if err != nil {
		t.Fatal(err)
	}
	if c.N == 0 {
		return
	}
	reader, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	read := int64(0)
	for i, entry := range reader.AllEntries(ctx, c.Tree, 0) {
		if want := fmt.Sprintf("entry %d ", i); string(entry) != want || i != read {
			t.Fatalf("entry %d is %q", i, entry)
		}
		read++
	}
	if err := reader.Err(); err != nil || read != c.N {
		t.Errorf("torchwood's client read %d of %d entries: %v", read, c.N, err)
	}
	ts := tlog.Tiles{Reader: l, Size: uint64(c.N)}
	for _, i := range []uint64{0, uint64(c.N) / 2, uint64(c.N) - 1} {
		p, err := ts.Inclusion(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		file, err := (&tlog.ProofFile{Index: i, Proof: p, Checkpoint: cosigned}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := torchwood.VerifyProof(policy, sumdb.RecordHash(fmt.Appendf(nil, "entry %d ", i)), file); err != nil {
			t.Errorf("torchwood and our proof of entry %d: %v", i, err)
		}
	}
}

// leafHashes reads an entry bundle with nothing of ours.
func leafHashes(bundle []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, e := range b.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return hashes, nil
}

// Cosignatures of both kinds, made by each of those who can, are taken by each of the others: ours by torchwood's code,
// which is Sunlight's, and all of theirs by ours. A bit changed, none of them takes it.
func TestBothKinds(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/kinds", Manual: true})
	all := []outsider{sunlight(t, l.VerifierKey()), omniwitness(t, l.VerifierKey()), ours(t, l.VerifierKey())}
	q := quorumOf(t, l.Origin(), policyOf(l.VerifierKey(), "all", all...), all...)
	signed := grow(t, l, 300, "")
	out, err := q.Cosign(t.Context(), signed, prover(t, l, signed))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		for i, vkey := range o.keys {
			mine, err := tlog.NewCosignatureVerifier(vkey)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := torchwood.NewCosignatureVerifier(vkey)
			if err != nil {
				t.Fatal(err)
			}
			for whose, v := range map[string]note.Verifier{"ours": mine, "torchwood's": theirs} {
				n, err := note.Open(out, note.VerifierList(v))
				if err != nil || len(n.Sigs) != 1 {
					t.Errorf("%s, key %d, by %s: %v", o.name, i, whose, err)
				}
				changed := bytes.Replace(out, []byte("\n300\n"), []byte("\n301\n"), 1)
				if _, err := note.Open(changed, note.VerifierList(v)); err == nil {
					t.Errorf("%s, key %d, by %s: another checkpoint is taken", o.name, i, whose)
				}
			}
		}
	}
}

// A log that was put back to an old copy asks before it signs. Sunlight and our own witness show what they have; litewitness
// can only say it, which holds the start all the same.
func TestRollback(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/rollback", Manual: true})
	lite, sun, our := litewitness(t, l.VerifierKey()), sunlight(t, l.VerifierKey()), ours(t, l.VerifierKey())
	old := grow(t, l, 100, "")
	newest := grow(t, l, 100, "")
	all := []outsider{lite, sun, our}
	if _, err := quorumOf(t, l.Origin(), policyOf(l.VerifierKey(), "all", all...), all...).Cosign(t.Context(), newest, prover(t, l, newest)); err != nil {
		t.Fatal(err)
	}
	for _, o := range []outsider{sun, our} {
		_, err := quorumOf(t, l.Origin(), policyOf(l.VerifierKey(), "any", o, lite), o, lite).Cosign(t.Context(), old, prover(t, l, old))
		var fork *tlog.ForkError
		if !errors.As(err, &fork) || !bytes.Equal(fork.A, old) || !bytes.HasPrefix(fork.B, newest) {
			t.Errorf("%s: %v", o.name, err)
		}
	}
	_, err := quorumOf(t, l.Origin(), policyOf(l.VerifierKey(), "any", lite), lite).Cosign(t.Context(), old, prover(t, l, old))
	var quorum *tlog.QuorumError
	if !errors.As(err, &quorum) {
		t.Errorf("litewitness: %v", err)
	}
	// Another history than that which they cosigned, of the same size, of a smaller and of a larger one.
	for _, n := range []int{50, 200, 300} {
		forked := tlogtest.Start(t, tlogtest.Config{Origin: l.Origin(), Manual: true})
		signed := grow(t, forked, n, "other")
		for _, o := range []outsider{sun, our} {
			_, err := quorumOf(t, l.Origin(), policyOf(l.VerifierKey(), "any", o, lite), o, lite).Cosign(t.Context(), signed, prover(t, forked, signed))
			if !errors.As(err, new(*tlog.ForkError)) {
				t.Errorf("%s, with %d other entries: %v", o.name, n, err)
			}
		}
	}
}

// omniwitness's load test, against our server: many logs at once, each of which grows by an entry with every request. It ends
// by itself when an answer is not what it wants, or comes too late, and otherwise as fast as the timers of the machine let
// it: so it is ended here, when enough has been cosigned.
func TestLoad(t *testing.T) {
	const logs = "40"
	var vkeys []string
	for line := range strings.Lines(run(t, "loadtest", "-log_count", logs)) {
		if _, key, ok := strings.Cut(line, "PublicKey: "); ok {
			vkeys = append(vkeys, strings.Trim(strings.TrimSpace(key), `"'`))
		}
	}
	if len(vkeys) != 40 {
		t.Fatalf("the load test has the logs %v", vkeys)
	}
	o := ours(t, vkeys...)
	load := start(t, t.TempDir(), "loadtest", "-logtostderr", "-target", o.submission, "-log_count", logs, "-start_qps", "100", "-success_qps", "100000", "-timeout", "20s")
	begun := time.Now()
	for cosigned := uint64(0); cosigned < 500; time.Sleep(100 * time.Millisecond) {
		select {
		case <-load.ended:
			t.Fatalf("the load test ended: %s", load.said.String())
		default:
		}
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("%d cosigned in two minutes", cosigned)
		}
		cosigned = 0
		for _, vkey := range vkeys {
			origin, _, _ := strings.Cut(vkey, "+")
			if signed := seen(t, o, origin); signed != nil {
				c, err := tlog.UnverifiedCheckpoint(signed)
				if err != nil {
					t.Fatal(err)
				}
				cosigned += c.Size
			}
		}
	}
	t.Logf("500 cosigned in %v", time.Since(begun).Round(time.Millisecond))
}

// seen is what a witness shows of a log, nil for nothing.
func seen(t *testing.T, o outsider, origin string) []byte {
	t.Helper()
	resp, err := http.Get(o.monitoring + "/" + originHash(origin) + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	return body
}

// A mirror of Sunlight's takes the log in uploads of several packages, and shows it: every tile equal to ours.
func TestMirror(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/mirror", Manual: true})
	o := sunlight(t, l.VerifierKey())
	p, err := tlog.ParsePolicy(l.Policy())
	if err != nil {
		t.Fatal(err)
	}
	var m *witness.Mirror
	restart := func() {
		m, err = witness.NewMirror(witness.MirrorConfig{Policy: p, Origin: l.Origin(), Reader: l, Keys: []string{o.mirrorKey},
			Submission: o.submission, Monitoring: o.mirror, Packages: 3, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
	}
	restart()
	theirs, err := tiles.FromURL(o.mirror+"/"+originHash(l.Origin()), gunzips, tiles.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := tlog.NewCosignatureVerifier(o.mirrorKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 100, 155, 1, 2000, 0, 300, 65_536} {
		signed := grow(t, l, n, "")
		out, err := m.Push(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 2000 {
			restart() // it does not know what is there, and finds out
		}
		if opened, err := note.Open(out, note.VerifierList(l.Verifier(), key)); err != nil || len(opened.Sigs) != 2 || !bytes.HasPrefix(out, signed) {
			t.Errorf("%v\n%s", err, out)
		}
		// The newest timestamp is its own; text and the log's signature are ours.
		if shown, err := theirs.Checkpoint(t.Context()); err != nil || !bytes.HasPrefix(shown, signed) {
			t.Errorf("the mirror shows, %v:\n%s", err, shown)
		}
		compareTiles(t, l, theirs, l.Size())
	}
}

// compareTiles reads the tiles of a tree from two places, all those of a small one and some of a large one.
func compareTiles(t *testing.T, a, b tlog.Reader, size uint64) {
	t.Helper()
	for level := tlog.EntriesLevel; level < 3; level++ {
		nodes := size >> (tlog.TileHeight * max(level, 0))
		var indices []uint64
		for n := uint64(0); n < nodes; n += tlog.TileWidth {
			if i := n / tlog.TileWidth; i < 3 || i%50 == 0 || n+2*tlog.TileWidth > nodes {
				indices = append(indices, n)
			}
		}
		for _, n := range indices {
			tile := tlog.TileAt(level, n, size)
			ours, err := tlog.ReadTile(t.Context(), a, tile)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := tlog.ReadTile(t.Context(), b, tile)
			if err != nil || !slices.Equal(ours, theirs) {
				t.Errorf("%s: %v", tile.Path(), err)
			}
		}
	}
}
