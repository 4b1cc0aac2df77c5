package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	sumdb "golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false) // Tessera tells its progress
	klog.SetOutput(io.Discard)
	m.Run()
}

const origin = "log.example/peers"

// sizes are on both sides of every edge that a tree of three levels of tiles has.
var sizes = []uint64{0, 1, 2, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_537, 65_792, 70_000}

// An engine is one of ours, run for the length of a test.
type engine struct {
	tlog.Log
	verifier note.Verifier
	publish  func(t *testing.T, size uint64) // returns when the checkpoint of exactly that size is published
}

// entry is what stands at an index: of several lengths, and the longest there is.
func entry(i uint64) []byte {
	e := fmt.Appendf(nil, "entry %d ", i)
	if i%10_007 == 0 {
		return append(e, bytes.Repeat([]byte("x"), tlog.MaxEntry-len(e))...)
	}
	return append(e, bytes.Repeat([]byte("."), int(i%97))...)
}

func (e engine) grow(t *testing.T, from, to uint64) {
	t.Helper()
	for from < to {
		var leaves []tlog.Leaf
		for ; from < to && len(leaves) < 500; from++ {
			leaves = append(leaves, tlog.Leaf{Entry: entry(from)})
		}
		if _, err := e.Append(t.Context(), leaves...); err != nil {
			t.Fatal(err)
		}
	}
	e.publish(t, to)
}

func memory(t *testing.T) engine {
	l := tlogtest.Start(t, tlogtest.Config{Origin: origin, Manual: true, Prune: true})
	return engine{l, l.Verifier(), func(t *testing.T, _ uint64) {
		if _, err := l.Publish(); err != nil {
			t.Fatal(err)
		}
	}}
}

func onDisk(t *testing.T) engine {
	signer, vkey := tlogtest.Key(origin)
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	l, err := local.Open(t.TempDir(), local.Config{Origin: origin, Signer: signer, Verifier: verifier, Latest: new(tlogtest.Latest),
		Interval: time.Millisecond, Ballast: -1, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine{l, verifier, func(t *testing.T, size uint64) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			signed, err := l.Checkpoint(t.Context())
			if err == nil {
				c, _, err := tlog.OpenCheckpoint(signed, verifier)
				if err != nil {
					t.Fatal(err)
				}
				if c.Size == size {
					return
				}
			} else if size == 0 && errors.Is(err, tlog.ErrNotFound) {
				return // a log may have no checkpoint before its first entry
			}
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal("no checkpoint of size ", size)
			}
		}
	}}
}

// serve serves a log on the loopback and returns Tessera's way to read it.
func serve(t *testing.T, r tlog.Reader) *client.HTTPFetcher {
	t.Helper()
	s := httptest.NewServer(tiles.Handler(r, tiles.Options{}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, &http.Client{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bundleHasher returns the leaf hashes of an entry bundle, with nothing of ours.
func bundleHasher(bundle []byte) ([][]byte, error) {
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

var errHangs = errors.New("fsck does not end")

// check runs Tessera's fsck. On a damaged log it returns an error, or panics, or waits for workers that have gone: each is a
// log that it does not call good.
func check(f fsck.Fetcher, v note.Verifier, workers uint, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- fmt.Errorf("fsck panics: %v", p)
			}
		}()
		result <- fsck.New(origin, v, f, bundleHasher, fsck.Opts{N: workers}).Check(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return errHangs
	}
}

func TestMemory(t *testing.T) { grown(t, memory) }
func TestLocal(t *testing.T)  { grown(t, onDisk) }

// grown has every peer check a log at every size, over HTTP and copied into a directory.
func grown(t *testing.T, open func(*testing.T) engine) {
	e := open(t)
	f := serve(t, e)
	dir := t.TempDir()
	var tracker *client.LogStateTracker
	var have uint64
	var earlier []tlog.Checkpoint
	for _, size := range sizes {
		e.grow(t, have, size)
		have = size
		c, raw, _, err := client.FetchCheckpoint(t.Context(), f.ReadCheckpoint, e.verifier, origin)
		if size == 0 && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.Size != size {
			t.Fatalf("the checkpoint is of size %d, not %d", c.Size, size)
		}
		root := tlog.Hash(c.Hash)
		ours, _, err := tlog.OpenCheckpoint(raw, e.verifier)
		if err != nil || ours.Root != root || ours.Size != size {
			t.Fatalf("they read size %d, root %s, and we %+v, %v", size, root, ours, err)
		}
		for _, workers := range []uint{1, 4} {
			if workers == 1 && size > 1000 && size != sizes[len(sizes)-1] {
				continue // slow
			}
			if err := check(f, e.verifier, workers, time.Minute); err != nil {
				t.Errorf("size %d: Tessera's fsck over HTTP: %v", size, err)
			}
		}
		if _, err := tiles.Copy(t.Context(), dir, e); err != nil {
			t.Fatal(err)
		}
		if err := check(client.FileFetcher{Root: dir}, e.verifier, 2, time.Minute); err != nil {
			t.Errorf("size %d: Tessera's fsck in a directory: %v", size, err)
		}
		if size > 0 {
			if tracker == nil {
				tracker, err = client.NewLogStateTracker(t.Context(), f.ReadTile, nil, e.verifier, origin, client.UnilateralConsensus(f.ReadCheckpoint))
			} else {
				_, _, _, err = tracker.Update(t.Context())
			}
			if err != nil || tracker.Latest().Size != size {
				t.Errorf("size %d: Tessera's tracker is at %d: %v", size, tracker.Latest().Size, err)
			}
			tessera(t, f, ours, earlier)
			checksumDatabase(t, f, ours, earlier)
			earlier = append(earlier, ours)
		}
	}
	t.Logf("%d sizes up to %d", len(sizes), have)
}

// picked are indices worth a proof: the edges, and some between.
func picked(size uint64) []uint64 {
	var p []uint64
	for _, i := range []uint64{0, 1, 254, 255, 256, 257, 511, 512, 999, 30_000, 65_279, 65_280, 65_534, 65_535, 65_536, 65_791, size / 2, size - 2, size - 1} {
		if i < size {
			p = append(p, i)
		}
	}
	slices.Sort(p)
	return slices.Compact(p)
}

// tessera has Tessera's client read entries and build proofs, and the merkle library verify them.
func tessera(t *testing.T, f *client.HTTPFetcher, c tlog.Checkpoint, earlier []tlog.Checkpoint) {
	t.Helper()
	ctx := t.Context()
	pb, err := client.NewProofBuilder(ctx, c.Size, f.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range picked(c.Size) {
		bundle, err := client.GetEntryBundle(ctx, f.ReadEntryBundle, i/256, c.Size)
		if err != nil || !bytes.Equal(bundle.Entries[i%256], entry(i)) {
			t.Fatalf("size %d: entry %d: %v", c.Size, i, err)
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(bundle.Entries[i%256])
		theirs, err := pb.InclusionProof(ctx, i)
		if err != nil {
			t.Fatalf("size %d: Tessera's proof of entry %d: %v", c.Size, i, err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, c.Size, leaf, theirs, c.Root[:]); err != nil {
			t.Errorf("size %d: entry %d: %v", c.Size, i, err)
		}
		var p tlog.Proof
		for _, h := range theirs {
			p = append(p, tlog.Hash(h))
		}
		if err := tlog.VerifyInclusion(tlog.Hash(leaf), i, c.Size, c.Root, p); err != nil {
			t.Errorf("we do not take their proof: %v", err)
		}
	}
	for _, old := range earlier {
		theirs, err := pb.ConsistencyProof(ctx, old.Size, c.Size)
		if err != nil {
			t.Fatalf("Tessera's proof from size %d to %d: %v", old.Size, c.Size, err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, c.Size, theirs, old.Root[:], c.Root[:]); err != nil {
			t.Errorf("from size %d to %d: %v", old.Size, c.Size, err)
		}
	}
}

// A tileReader is how the checksum database reads tiles. Its paths name the height, ours do not.
type tileReader struct {
	ctx context.Context
	f   *client.HTTPFetcher
}

func (r tileReader) Height() int                      { return 8 }
func (r tileReader) SaveTiles([]sumdb.Tile, [][]byte) {}
func (r tileReader) ReadTiles(ts []sumdb.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range ts {
		data, err := r.f.ReadTile(r.ctx, uint64(t.L), uint64(t.N), uint8(t.W)) // 256 is 0, the full tile
		if err != nil {
			return nil, err
		}
		if len(data) < t.W*sumdb.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", t.Path(), len(data))
		}
		all = append(all, data[:t.W*sumdb.HashSize])
	}
	return all, nil
}

// checksumDatabase has golang.org/x/mod authenticate the tiles, build proofs and check them.
func checksumDatabase(t *testing.T, f *client.HTTPFetcher, c tlog.Checkpoint, earlier []tlog.Checkpoint) {
	t.Helper()
	tree := sumdb.Tree{N: int64(c.Size), Hash: sumdb.Hash(c.Root)}
	r := sumdb.TileHashReader(tree, tileReader{t.Context(), f})
	if root, err := sumdb.TreeHash(tree.N, r); err != nil || root != tree.Hash {
		t.Errorf("size %d: the root is %v, %v", c.Size, root, err)
	}
	for _, i := range picked(c.Size) {
		p, err := sumdb.ProveRecord(tree.N, int64(i), r)
		if err != nil {
			t.Fatalf("size %d: x/mod's proof of entry %d: %v", c.Size, i, err)
		}
		if err := sumdb.CheckRecord(p, tree.N, tree.Hash, int64(i), sumdb.RecordHash(entry(i))); err != nil {
			t.Errorf("size %d: entry %d: %v", c.Size, i, err)
		}
	}
	for _, old := range earlier {
		if old.Size == c.Size {
			continue
		}
		p, err := sumdb.ProveTree(tree.N, int64(old.Size), r)
		if err != nil {
			t.Fatalf("x/mod's proof from size %d to %d: %v", old.Size, c.Size, err)
		}
		if err := sumdb.CheckTree(p, tree.N, tree.Hash, int64(old.Size), sumdb.Hash(old.Root)); err != nil {
			t.Errorf("from size %d to %d: %v", old.Size, c.Size, err)
		}
	}
}
