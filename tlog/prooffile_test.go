package tlog_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

// proofFile makes a file for one entry of a tree, cosigned by W0 and W1.
func proofFile(tb testing.TB, c *cast, size, index uint64) (*tlog.ProofFile, tlog.Hash) {
	tb.Helper()
	m := newMemTree(tb, int(size), 20)
	ts := m.tiles(size)
	root, err := ts.Root(tb.Context(), size)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := ts.Inclusion(tb.Context(), index)
	if err != nil {
		tb.Fatal(err)
	}
	signed := c.sign(tb, tlog.Checkpoint{Origin: "log.example/1", Size: size, Root: root}, 0, 1)
	return &tlog.ProofFile{Extra: []byte("extra\x00"), Index: index, Proof: p, Checkpoint: signed}, m.levels[0][index]
}

func TestProofFile(t *testing.T) {
	c := newCast(t)
	p := c.mustParse(t, "ALL\ngroup g all W0 W1\nquorum g\n")
	f, leaf := proofFile(t, c, 700, 300)
	data, err := f.Append([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.TrimPrefix(data, []byte("before"))
	if !bytes.HasPrefix(data, []byte("c2sp.org/tlog-proof@v1\nextra ZXh0cmEA\nindex 300\n")) {
		t.Errorf("the file begins with %.60q", data)
	}
	g, err := tlog.ParseProofFile(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.Append(nil)
	if err != nil || !bytes.Equal(again, data) {
		t.Fatalf("read and written again it is %q: %v", again, err)
	}
	cp, cosigs, err := g.Verify(p, leaf)
	if err != nil || cp.Size != 700 || len(cosigs) != 2 {
		t.Fatalf("%v, %v, %v", cp, cosigs, err)
	}

	// Each bit of the file counts, but for the extra data, which nothing authenticates.
	accepted := 0
	for bit := range 8 * len(data) {
		b := bytes.Clone(data)
		b[bit/8] ^= 1 << (bit % 8)
		if g, err := tlog.ParseProofFile(b); err == nil {
			if !bytes.Equal(g.Extra, f.Extra) {
				continue
			}
			if _, _, err := g.Verify(p, leaf); err == nil {
				accepted++
				t.Errorf("bit %d was flipped: %q", bit, b)
			}
		}
	}
	t.Logf("%d bits flipped, %d accepted", 8*len(data), accepted)

	if _, _, err := g.Verify(p, tlog.HashLeaf([]byte("another"))); err == nil {
		t.Error("another entry was proven")
	}
	var quorum *tlog.QuorumError
	strict := c.mustParse(t, "ALL\ngroup g all W0 W1 W2\nquorum g\n")
	if cp, cosigs, err := g.Verify(strict, leaf); !errors.As(err, &quorum) || cp.Size != 700 || len(cosigs) != 2 {
		t.Errorf("a witness too few: %v, %v, %v", cp, cosigs, err)
	}
	if _, _, err := g.Verify(strict, tlog.HashLeaf([]byte("another"))); err == nil || errors.As(err, &quorum) {
		t.Errorf("another entry and a witness too few: %v", err)
	}
	if _, _, err := g.Verify(nil, leaf); err == nil {
		t.Error("no policy is content")
	}

	// The tree of one entry needs no hashes.
	f, leaf = proofFile(t, c, 1, 0)
	f.Extra = nil
	if data, err = f.Append(nil); err != nil || !bytes.HasPrefix(data, []byte("c2sp.org/tlog-proof@v1\nindex 0\n\nlog.example/1\n1\n")) {
		t.Fatalf("%q, %v", data, err)
	}
	if g, err = tlog.ParseProofFile(data); err != nil || g.Extra != nil || len(g.Proof) != 0 {
		t.Fatalf("%v, %v", g, err)
	}
	if _, _, err := g.Verify(p, leaf); err != nil {
		t.Error(err)
	}
}

func TestProofFileRefused(t *testing.T) {
	c := newCast(t)
	f, _ := proofFile(t, c, 700, 300)
	good, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	sub := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	first := f.Proof[0].String()
	rows := map[string]string{
		"nothing":             "",
		"a header alone":      "c2sp.org/tlog-proof@v1\n",
		"another version":     sub("@v1", "@v2"),
		"no header":           sub("c2sp.org/tlog-proof@v1\n", ""),
		"carriage returns":    strings.ReplaceAll(string(good), "\n", "\r\n"),
		"a space behind":      sub("index 300", "index 300 "),
		"two spaces":          sub("index 300", "index  300"),
		"a leading zero":      sub("index 300", "index 0300"),
		"a plus sign":         sub("index 300", "index +300"),
		"a minus sign":        sub("index 300", "index -300"),
		"no number":           sub("index 300", "index "),
		"no index":            sub("index 300\n", ""),
		"index twice":         sub("index 300\n", "index 300\nindex 300\n"),
		"index first":         sub("extra ZXh0cmEA\nindex 300\n", "index 300\nextra ZXh0cmEA\n"),
		"extra twice":         sub("extra ZXh0cmEA\n", "extra ZXh0cmEA\nextra ZXh0cmEA\n"),
		"empty extra":         sub("extra ZXh0cmEA\n", "extra \n"),
		"extra alone":         "c2sp.org/tlog-proof@v1\nextra ZXh0cmEA\n\n" + string(f.Checkpoint),
		"extra without space": sub("extra ZXh0cmEA\n", "extra\n"),
		"extra unpadded":      sub("extra ZXh0cmEA\n", "extra ZXh0cmE\n"),
		"extra of loose bits": sub("extra ZXh0cmEA\n", "extra ZXh0cmF=\n"),
		"extra with a return": sub("extra ZXh0cmEA\n", "extra ZXh0\rcmEA\n"),
		"an unknown line":     sub("index 300\n", "index 300\nsize 700\n"),
		"a short hash":        sub(first, first[:43]),
		"a long hash":         sub(first, first+"="),
		"a hash of urls":      sub(first, strings.Repeat("_", 43)+"="),
		"an empty line":       sub(first+"\n", first+"\n\n"),
		"no empty line":       sub("\n\nlog.example", "\nlog.example"),
		"no checkpoint":       string(good[:bytes.Index(good, []byte("log.example"))]),
		"an index outside":    sub("index 300", "index 700"),
		"a vast index":        sub("index 300", "index 9223372036854775808"),
		"a vaster index":      sub("index 300", "index 18446744073709551616"),
		"too many hashes":     sub("index 300\n", "index 300\n"+strings.Repeat(first+"\n", 60)),
		"no signature":        string(good[:bytes.LastIndex(good, []byte("\n\n"))+2]),
		"cut off":             string(good[:len(good)-1]),
		"too much extra":      sub("ZXh0cmEA", base64.StdEncoding.EncodeToString(make([]byte, tlog.MaxProofExtra+1))),
		"too large":           string(good) + strings.Repeat("x", tlog.MaxProofFile),
	}
	for name, data := range rows {
		if f, err := tlog.ParseProofFile([]byte(data)); err == nil {
			t.Errorf("%s: read as index %d with %d hashes", name, f.Index, len(f.Proof))
		}
	}
	f.Extra = make([]byte, tlog.MaxProofExtra)
	if data, err := f.Append(nil); err != nil {
		t.Error(err)
	} else if _, err := tlog.ParseProofFile(data); err != nil {
		t.Error(err)
	}

	for name, f := range map[string]tlog.ProofFile{
		"no checkpoint":    {},
		"an index outside": {Index: 700, Checkpoint: f.Checkpoint},
		"a vast index":     {Index: math.MaxUint64, Checkpoint: f.Checkpoint},
		"too much extra":   {Extra: make([]byte, tlog.MaxProofExtra+1), Checkpoint: f.Checkpoint},
		"too many hashes":  {Proof: make(tlog.Proof, 64), Checkpoint: f.Checkpoint},
		"no signature":     {Checkpoint: []byte("log.example/1\n1\n" + tlog.Hash{}.String() + "\n")},
	} {
		if _, err := f.Append(nil); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
}

// The largest file that can be written is read.
func TestProofFileLargest(t *testing.T) {
	origin := strings.Repeat("o", tlog.MaxOrigin)
	s, _ := logKey(t, origin, 1)
	signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: origin, Size: math.MaxInt64, Root: tlog.Hash{}}, s)
	if err != nil {
		t.Fatal(err)
	}
	for line := "— x " + base64.StdEncoding.EncodeToString(make([]byte, 3000)) + "\n"; len(signed)+len(line) <= tlog.MaxCheckpoint; {
		signed = append(signed, line...)
	}
	signed = append(signed, "— x "+strings.Repeat("AAAA", (tlog.MaxCheckpoint-len(signed)-7)/4)+"\n"...)
	f := tlog.ProofFile{Extra: make([]byte, tlog.MaxProofExtra), Index: math.MaxInt64 - 1, Proof: make(tlog.Proof, 63), Checkpoint: signed}
	data, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > tlog.MaxProofFile || len(data) < tlog.MaxProofFile-512 {
		t.Errorf("the largest file has %d bytes, the limit is %d", len(data), tlog.MaxProofFile)
	}
	if _, err := tlog.ParseProofFile(data); err != nil {
		t.Error(err)
	}
}

func FuzzProofFile(f *testing.F) {
	c := newCast(f)
	p := c.mustParse(f, "ALL\nquorum none\n")
	file, leaf := proofFile(f, c, 700, 300)
	good, err := file.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("extra ZXh0cmEA\n"), nil, 1))
	f.Add(bytes.Replace(good, []byte("index 300"), []byte("index 301"), 1))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := tlog.ParseProofFile(data)
		if err != nil {
			return
		}
		back, err := file.Append(nil)
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%q is written again as %q: %v", data, back, err)
		}
		if _, _, err := file.Verify(p, leaf); err == nil && file.Index != 300 {
			t.Fatalf("proven at index %d: %q", file.Index, data)
		}
	})
}
