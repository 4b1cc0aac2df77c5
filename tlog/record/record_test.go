package record_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

func recordOf(n int) Record {
	var r Record
	for i := range n {
		r = append(r, Field{Name: fmt.Sprintf("f%d", i), Salt: saltOf(fmt.Sprint(n, i)), Value: []byte(strings.Repeat("v", i*i))})
	}
	return r
}

// The record tree of every size is the tree that two other implementations build, its openings are their proofs, and
// they verify them.
func TestRecordTreeDifferential(t *testing.T) {
	proven := 0
	for n := 1; n <= MaxFields; n++ {
		r := recordOf(n)
		root := r.Root()

		// golang.org/x/mod hashes what it calls data: a field's leaf without the 0x00 in front.
		var stored []sumdb.Hash
		for i, f := range r {
			data := append(append(append(f.Salt[:len(f.Salt):len(f.Salt)], byte(len(f.Name))), f.Name...), f.Value...)
			if h := sumdb.RecordHash(data); h != sumdb.Hash(f.Hash()) {
				t.Fatalf("field %d of %d has the leaf %s; x/mod says %s", i, n, f.Hash(), h)
			}
			hs, err := sumdb.StoredHashes(int64(i), data, hashes(stored))
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, hs...)
		}
		if h, err := sumdb.TreeHash(int64(n), hashes(stored)); err != nil || h != sumdb.Hash(root) {
			t.Fatalf("%d fields have the root %s; x/mod says %s, %v", n, root, h, err)
		}

		// transparency-dev/merkle builds it leaf by leaf.
		c := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
		for _, h := range r.Hashes() {
			if err := c.Append(h[:], nil); err != nil {
				t.Fatal(err)
			}
		}
		if h, err := c.GetRootHash(nil); err != nil || !bytes.Equal(h, root[:]) {
			t.Fatalf("%d fields have the root %s; merkle says %x, %v", n, root, h, err)
		}

		for i := range r {
			o, err := r.Open(i)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.Verify(root, n); err != nil {
				t.Fatal(err)
			}
			p, err := sumdb.ProveRecord(int64(n), int64(i), hashes(stored))
			if err != nil || len(p) != len(o.Proof) {
				t.Fatalf("field %d of %d: a proof of %d hashes; x/mod has %d, %v", i, n, len(o.Proof), len(p), err)
			}
			var raw [][]byte
			for j := range p {
				if p[j] != sumdb.Hash(o.Proof[j]) {
					t.Fatalf("field %d of %d: hash %d of the proof differs from x/mod's", i, n, j)
				}
				raw = append(raw, o.Proof[j][:])
			}
			leaf := o.Field.Hash()
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(n), leaf[:], raw, root[:]); err != nil {
				t.Fatal(err)
			}
			proven++

			if n > 20 && n < 62 {
				continue
			}
			// Nothing else is proven by it.
			for j := range o.Proof {
				o.Proof[j][i%32] ^= 1
				if o.Verify(root, n) == nil {
					t.Fatalf("field %d of %d: proven with hash %d changed", i, n, j)
				}
				o.Proof[j][i%32] ^= 1
			}
			for k := range n + 1 {
				if o.Index = k; k != i && o.Verify(root, n) == nil {
					t.Fatalf("field %d of %d is proven to be field %d", i, n, k)
				}
			}
			// A path fits trees of neighbouring sizes too, which is why the entry states the number.
			o.Index = i
			for k := range MaxFields + 2 {
				if k != n && o.Verify(root, k) == nil {
					t.Fatalf("field %d of %d is proven to be one of %d", i, n, k)
				}
			}
		}
		for _, i := range []int{-1, n} {
			if _, err := r.Open(i); err == nil {
				t.Fatalf("field %d of %d was opened", i, n)
			}
		}
	}
	t.Logf("%d openings", proven)
	if RootOf(nil) != tlog.EmptyRoot() {
		t.Error("no leaves have another root than the empty tree")
	}
}

func hashes(stored []sumdb.Hash) sumdb.HashReaderFunc {
	return func(indexes []int64) ([]sumdb.Hash, error) {
		hs := make([]sumdb.Hash, len(indexes))
		for i, x := range indexes {
			hs[i] = stored[x]
		}
		return hs, nil
	}
}

// The same value twice makes two leaves that have nothing in common, in one record and in two: nobody without the
// salt can say that they are the same, or guess what they are.
func TestSalts(t *testing.T) {
	seen := map[tlog.Hash]bool{}
	salts := map[[SaltBytes]byte]bool{{}: true}
	for range 500 {
		var r Record
		r.Add("a", []byte("yes"))
		r.Add("b", []byte("yes"))
		for _, f := range r {
			if seen[f.Hash()] || salts[f.Salt] {
				t.Fatal("a salt or a leaf came twice")
			}
			seen[f.Hash()], salts[f.Salt] = true, true
		}
	}
	for pin := range 10_000 { // a dictionary of short values, with no salt, the zero salt, and by itself
		v := fmt.Appendf(nil, "%04d", pin)
		for _, guess := range []tlog.Hash{tlog.HashLeaf(v), (&Field{Name: "a", Value: v}).Hash()} {
			if seen[guess] {
				t.Fatal("guessed")
			}
		}
	}
}

func TestFieldHashAllocatesNothing(t *testing.T) {
	for _, size := range []int{0, 10, 1000, 100_000} {
		f := Field{Name: FieldBody, Salt: saltOf("x"), Value: make([]byte, size)}
		if n := testing.AllocsPerRun(100, func() { f.Hash() }); n != 0 {
			t.Errorf("hashing a field of %d bytes allocates %v times", size, n)
		}
	}
}

func TestRecordLimits(t *testing.T) {
	good := recordOf(2)
	big := make([]byte, MaxRecord+1)
	for name, r := range map[string]Record{
		"no fields":          {},
		"65 fields":          recordOf(65),
		"one name twice":     {good[0], good[1], good[0]},
		"a name of none":     {{Name: ""}},
		"a name of 65":       {{Name: strings.Repeat("n", 65)}},
		"a capital":          {{Name: "A"}},
		"a space":            {{Name: "a b"}},
		"a slash":            {{Name: "a/b"}},
		"a letter of others": {{Name: "ä"}},
		"a value too large":  {{Name: "a", Value: big}},
	} {
		if b, err := r.Append(nil); err == nil || b != nil {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if v, ok := good.Get("f1"); !ok || string(v) != "v" {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := good.Get("f2"); ok {
		t.Error("got a field that is not there")
	}
	// Parsing aliases, and gives no value room to grow over its neighbour.
	b, err := good.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(r[0].Value, "overwritten"...)
	if r[1].Hash() != good[1].Hash() {
		t.Error("a value grew over its neighbour")
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range exampleRecords() {
		b, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, v := range badRecords(f) {
		f.Add(v.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		fields, other := readPlain(b)
		if (err == nil) != (other == nil) {
			t.Fatalf("%v; the second reading: %v", err, other)
		}
		if err != nil {
			return
		}
		if again, err := r.Append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("written again as %x, %v", again, err)
		}
		var leaves [][]byte
		for _, f := range fields {
			leaves = append(leaves, f.leaf())
		}
		if root := r.Root(); !bytes.Equal(treeRoot(leaves), root[:]) {
			t.Fatal("the second reading has another root")
		}
	})
}

// Whatever an opening says, both readings say the same of it.
func FuzzOpening(f *testing.F) {
	for i, v := range exampleOpenings(f) {
		if i%5 != 0 {
			continue
		}
		var p []byte
		for _, h := range v.Proof {
			p = append(p, h[:]...)
		}
		f.Add(v.Field.Name, v.Field.Salt, v.Field.Value, v.Index, v.Count, v.Of, p, v.Root[:])
	}
	f.Fuzz(func(t *testing.T, name string, salt, value []byte, index, count, of int, path, root []byte) {
		if len(salt) != SaltBytes || len(root) != 32 {
			return
		}
		o := Opening{Index: index, Count: count, Field: Field{Name: name, Value: value}}
		copy(o.Field.Salt[:], salt)
		var raw [][]byte
		for len(path) >= 32 {
			o.Proof = append(o.Proof, tlog.Hash(path[:32]))
			raw, path = append(raw, path[:32]), path[32:]
		}
		one := o.Verify(tlog.Hash(root), of)
		two := checkOpening(field{name, string(salt), string(value)}, index, count, raw, root, of)
		if (one == nil) != (two == nil) {
			t.Fatalf("%v; the second reading: %v", one, two)
		}
	})
}

// The same for openings that are nearly right, which chance alone does not find.
func TestOpeningsNearlyRight(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	held := 0
	for range 20_000 {
		r := recordOf(1 + rnd.IntN(12))
		o, err := r.Open(rnd.IntN(len(r)))
		if err != nil {
			t.Fatal(err)
		}
		root, of := r.Root(), len(r)
		for range rnd.IntN(3) {
			switch rnd.IntN(7) {
			case 0:
				o.Index += rnd.IntN(3) - 1
			case 1:
				o.Count += rnd.IntN(3) - 1
			case 2:
				of += rnd.IntN(3) - 1
			case 3:
				if len(o.Proof) > 0 {
					o.Proof = o.Proof[:len(o.Proof)-1]
				}
			case 4:
				o.Proof = append(o.Proof, r[0].Hash())
			case 5:
				if len(o.Proof) > 1 {
					o.Proof = append(tlog.Proof{o.Proof[1], o.Proof[0]}, o.Proof[2:]...)
				}
			case 6:
				o.Field = r[rnd.IntN(len(r))]
			}
		}
		var raw [][]byte
		for i := range o.Proof {
			raw = append(raw, o.Proof[i][:])
		}
		one := o.Verify(root, of)
		two := checkOpening(field{o.Field.Name, string(o.Field.Salt[:]), string(o.Field.Value)}, o.Index, o.Count, raw, root[:], of)
		if (one == nil) != (two == nil) {
			t.Fatalf("%+v: %v; the second reading: %v", o, one, two)
		}
		if one == nil {
			held++
		}
	}
	t.Logf("%d of 20000 held", held)
}
