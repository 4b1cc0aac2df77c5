package tlog_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

// A vector is a file of testdata/merkle; which of the fields it has goes by its folder.
type vector struct {
	LeafIdx  uint64 `json:"leafIdx"`
	TreeSize uint64 `json:"treeSize"`
	Start    uint64 `json:"start"`
	End      uint64 `json:"end"`
	Size     uint64 `json:"size"`
	Size1    uint64 `json:"size1"`
	Size2    uint64 `json:"size2"`

	Root     []byte   `json:"root"`
	LeafHash []byte   `json:"leafHash"`
	Root1    []byte   `json:"root1"`
	Root2    []byte   `json:"root2"`
	Proof    [][]byte `json:"proof"`

	WantErr bool `json:"wantErr"`
}

var errNoHash = errors.New("not a hash of 32 bytes")

// verify gives the vector to the verifier of its folder. What is not 32 bytes long cannot be written as a Hash, which
// rejects it; unless widen makes a hash of it.
func (v *vector) verify(folder string, widen func([]byte) []byte) error {
	bad := false
	hash := func(b []byte) (h tlog.Hash) {
		if widen != nil {
			b = widen(b)
		}
		bad = bad || len(b) != len(h)
		copy(h[:], b)
		return h
	}
	var p tlog.Proof
	for _, b := range v.Proof {
		p = append(p, hash(b))
	}
	root, leaf, root1, root2 := v.Root, v.LeafHash, v.Root1, v.Root2
	var err error
	switch folder {
	case "inclusion":
		err = tlog.VerifyInclusion(hash(leaf), v.LeafIdx, v.TreeSize, hash(root), p)
	case "consistency":
		err = tlog.VerifyConsistency(v.Size1, v.Size2, hash(root1), hash(root2), p)
	case "subtreeinclusion":
		err = tlog.VerifySubtreeInclusion(hash(leaf), v.LeafIdx, v.Start, v.End, hash(root), p)
	case "subtreeconsistency":
		err = tlog.VerifySubtreeConsistency(v.Start, v.End, v.Size, hash(root1), hash(root2), p)
	}
	if bad {
		return errNoHash
	}
	return err
}

// ourRule lists the vectors that our own rule decides otherwise than their wantErr.
var ourRule = map[string]string{
	"consistency/additional/sizes-are-equal-one-and-proof-is-empty.json":                                                          "the roots, though equal, have 12 bytes",
	"subtreeconsistency/additional/sizes-are-equal-one-and-proof-is-empty.json":                                                   "the roots, though equal, have 12 bytes",
	"subtreeconsistency/additional/subtree-is-empty-sizes-are-equal-zero-subtree-root-valid-tree-root-random-proof-is-empty.json": "the root of the tree has 12 bytes",
	"subtreeconsistency/additional/subtree-is-empty-sizes-are-equal-one-subtree-root-valid-tree-root-random-proof-is-empty.json":  "the root of the tree has 12 bytes",
}

// ourRuleWidened lists them once placeholders are made hashes of 32 bytes.
var ourRuleWidened = map[string]string{
	"consistency/additional/size1-is-zero-and-size2-is-not-zero.json": "tlog-witness: every tree continues the empty one, by an empty proof, if root1 is the root of the empty tree",
}

func TestMerkleVectors(t *testing.T) {
	// Roots such as "don't care 1" stand for hashes: with them widened, a vector is not rejected for their length
	// alone. What is empty stays so.
	widen := func(b []byte) []byte {
		if len(b) == 0 || len(b) == 32 {
			return b
		}
		h := sha256.Sum256(b)
		return h[:]
	}
	for _, test := range []struct {
		name      string
		widen     func([]byte) []byte
		otherwise map[string]string
	}{
		{"as they are", nil, ourRule},
		{"placeholders widened", widen, ourRuleWidened},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, rejected, met := 0, 0, 0
			root := filepath.Join("testdata", "merkle")
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !strings.HasSuffix(path, ".json") {
					return err
				}
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				var v vector
				if err := json.Unmarshal(data, &v); err != nil {
					return err
				}
				rel, err := filepath.Rel(root, path)
				if err != nil {
					return err
				}
				rel = filepath.ToSlash(rel)
				n++
				want := v.WantErr
				if _, ok := test.otherwise[rel]; ok {
					want = !want
					met++
				}
				folder, _, _ := strings.Cut(rel, "/")
				got := v.verify(folder, test.widen)
				if v.WantErr && got != nil {
					rejected++
				}
				if (got != nil) != want {
					t.Errorf("%s: got error %v, want one: %v", rel, got, want)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if n != 518 || met != len(test.otherwise) {
				t.Errorf("%d vectors, %d of them decided by our own rule; want 518 and %d", n, met, len(test.otherwise))
			}
			t.Logf("%d vectors; of 482 to be rejected, %d were; %d decided by our own rule", n, rejected, met)
		})
	}
}
