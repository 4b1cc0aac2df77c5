package record_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

type promiseVector struct {
	Name      string    `json:"name"`
	Valid     bool      `json:"valid"`
	Key       tlog.Hash `json:"key"` // of the start entry, spelt as there
	Text      string    `json:"text"`
	Signature []byte    `json:"signature"`
}

func promiseKey(name string) (ed25519.PrivateKey, [32]byte) {
	seed := hashOf("promise key " + name)
	private := ed25519.NewKeyFromSeed(seed[:])
	return private, [32]byte(private.Public().(ed25519.PublicKey))
}

func promiseOf(indices ...uint64) Promise {
	p := Promise{Origin: "log.example/2026", Boot: idOf("gw-1 boot 1"), Time: epoch.Add(1500 * time.Millisecond)}
	for _, i := range indices {
		p.Leaves = append(p.Leaves, Promised{Index: i, Leaf: hashOf("leaf " + string(rune('a'+i%26)))})
	}
	return p
}

// examplePromises are promises as they are made, and what must not be taken for one. Where it is the text that is wrong,
// the signature over it is right.
func examplePromises(t testing.TB) []promiseVector {
	t.Helper()
	var vs []promiseVector
	private, public := promiseKey("gw-1")
	text := func(p Promise) string {
		b, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	add := func(name string, valid bool, text string) {
		vs = append(vs, promiseVector{name, valid, public, text, ed25519.Sign(private, []byte(text))})
	}
	call := promiseOf(0, 3, 6)
	sixteen := promiseOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1<<63-1)
	sixteen.Origin, sixteen.Time = strings.Repeat("o", tlog.MaxOrigin), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
	add("a call", true, text(call))
	add("one entry", true, text(promiseOf(7)))
	add("the longest", true, text(sixteen))

	good := text(call)
	swap := func(name, old, new string) {
		t.Helper()
		if strings.Count(good, old) != 1 {
			t.Fatalf("%s: %q is %d times in %q", name, old, strings.Count(good, old), good)
		}
		add(name, false, strings.Replace(good, old, new, 1))
	}
	leaf := hashOf("leaf d").String()
	add("nothing", false, "")
	swap("another version", "v1", "v2")
	swap("no header", "tallystick promise v1\n", "")
	swap("no origin", "log.example/2026", "")
	swap("an origin with a space", "log.example/2026", "log.example 2026")
	swap("an origin that is too long", "log.example/2026", strings.Repeat("o", tlog.MaxOrigin+1))
	swap("a boot in capitals", call.Boot.String(), strings.ToUpper(call.Boot.String()))
	swap("a boot of zeros", call.Boot.String(), ID{}.String())
	swap("a time in milliseconds", ".500000Z", ".500Z")
	swap("a time with an offset", ".500000Z", ".500000+00:00")
	swap("30 February", "2026-01-02", "2026-02-30")
	swap("carriage returns", "Z\n", "Z\r\n")
	swap("an index with a leading zero", "\n3 ", "\n03 ")
	swap("an index with a sign", "\n3 ", "\n+3 ")
	swap("an index of 2^63", "\n6 ", "\n9223372036854775808 ")
	swap("indices that fall", "\n3 ", "\n7 ")
	swap("an index twice", "\n3 ", "\n6 ")
	swap("two blanks", "\n3 ", "\n3  ")
	swap("no blank", "\n3 ", "\n3")
	swap("a leaf without padding", leaf, strings.TrimSuffix(leaf, "="))
	swap("a leaf with loose bits", leaf, loosened(hashOf("leaf d")))
	add("no entry", false, good[:strings.Index(good, "\n0 ")+1])
	add("17 entries", false, strings.Replace(text(sixteen), "\n9223372036854775807 ", "\n15 "+leaf+"\n9223372036854775807 ", 1))
	add("no line break at the end", false, strings.TrimSuffix(good, "\n"))
	add("a line break more", false, good+"\n")
	add("a blank at the end", false, good+" ")

	spoil := func(name string, change func(*promiseVector)) {
		v := vs[0]
		v.Name, v.Valid, v.Signature = name, false, slices.Clone(v.Signature)
		change(&v)
		vs = append(vs, v)
	}
	spoil("another origin", func(v *promiseVector) { v.Text = strings.Replace(v.Text, "2026\n", "2027\n", 1) })
	spoil("another boot", func(v *promiseVector) {
		v.Text = strings.Replace(v.Text, call.Boot.String(), idOf("gw-1 boot 2").String(), 1)
	})
	spoil("another time", func(v *promiseVector) { v.Text = strings.Replace(v.Text, ".5", ".6", 1) })
	spoil("another index", func(v *promiseVector) { v.Text = strings.Replace(v.Text, "\n3 ", "\n4 ", 1) })
	spoil("another leaf", func(v *promiseVector) { v.Text = strings.Replace(v.Text, leaf, hashOf("leaf e").String(), 1) })
	spoil("an entry less", func(v *promiseVector) { v.Text = text(promiseOf(0, 3)) })
	spoil("another key", func(v *promiseVector) { _, v.Key = promiseKey("gw-2") })
	spoil("a bit of the signature", func(v *promiseVector) { v.Signature[0] ^= 1 })
	spoil("a signature cut off", func(v *promiseVector) { v.Signature = v.Signature[:63] })
	spoil("no signature", func(v *promiseVector) { v.Signature = []byte{} })
	spoil("a signature with the order added to S", func(v *promiseVector) {
		s := big.NewInt(0).SetBytes(reversed(v.Signature[32:]))
		order, _ := big.NewInt(0).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
		copy(v.Signature[32:], reversed(s.Add(s, order).FillBytes(make([]byte, 32))))
	})
	// The neutral element as key and R, and an S of 0: this verifies, whatever was signed.
	spoil("a key of small order", func(v *promiseVector) {
		v.Key = tlog.Hash{0: 1}
		v.Signature = make([]byte, 64)
		v.Signature[0] = 1
	})
	return vs
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

func (v promiseVector) signed() (s SignedPromise, whole bool) {
	s.Text = []byte(v.Text)
	return s, copy(s.Signature[:], v.Signature) == len(s.Signature) && len(v.Signature) == len(s.Signature)
}

func TestVectorsPromises(t *testing.T) {
	for _, v := range same(t, "promises.json", func() []promiseVector { return examplePromises(t) }) {
		s, whole := v.signed()
		p, err := s.Open(v.Key)
		if (err == nil && whole) != v.Valid {
			t.Errorf("%s: %v", v.Name, err)
		}
		if other := readPromise(v.Text, v.Signature, v.Key[:]); (other == nil) != v.Valid {
			t.Errorf("%s: the second reading: %v", v.Name, other)
		}
		if !v.Valid {
			continue
		}
		if again, err := p.Append(nil); err != nil || string(again) != v.Text {
			t.Errorf("%s: written again as %q, %v", v.Name, again, err)
		}
		for i := range 8 * len(v.Text) {
			b := []byte(v.Text)
			b[i/8] ^= 1 << (i % 8)
			if _, err := (&SignedPromise{b, s.Signature}).Open(v.Key); !errors.Is(err, ErrPromise) {
				t.Fatalf("%s: with bit %d flipped: %v", v.Name, i, err)
			}
		}
	}
}

// Keys by which anybody could promise are none, whatever they sign: every one that CCTV knows.
func TestPromiseKeysOfSmallOrder(t *testing.T) {
	b, err := os.ReadFile("../testdata/cctv/ed25519vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []struct {
		Key, Sig, Msg string
		Flags         []string
	}
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	verified := 0
	for _, v := range vs {
		key, err := hex.DecodeString(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := hex.DecodeString(v.Sig)
		if err != nil {
			t.Fatal(err)
		}
		small := slices.Contains(v.Flags, "low_order_A")
		if small && ed25519.Verify(key, []byte(v.Msg), sig) {
			verified++
		}
		if smallOrder(key) != small {
			t.Errorf("the second reading of the key %s, which is of small order: %v", v.Key, small)
		}
		s := SignedPromise{Text: []byte(v.Msg), Signature: [64]byte(sig)}
		_, err = s.Open([32]byte(key))
		if refused := err != nil && strings.Contains(err.Error(), "small order"); refused != small {
			t.Errorf("the key %s is of small order: %v; %v", v.Key, small, err)
		}
	}
	if verified == 0 {
		t.Error("no signature by such a key verifies otherwise: this test has shown nothing")
	}
}

func TestPromiseIsNotMade(t *testing.T) {
	private, _ := promiseKey("gw-1")
	for name, change := range map[string]func(*Promise){
		"without an origin":    func(p *Promise) { p.Origin = "" },
		"with a broken origin": func(p *Promise) { p.Origin = "a\nb" },
		"without a boot":       func(p *Promise) { p.Boot = ID{} },
		"without a time":       func(p *Promise) { p.Time = time.Time{} },
		"in nanoseconds":       func(p *Promise) { p.Time = p.Time.Add(1) },
		"in another zone":      func(p *Promise) { p.Time = p.Time.In(time.FixedZone("", 3600)) },
		"of nothing":           func(p *Promise) { p.Leaves = nil },
		"of 17":                func(p *Promise) { p.Leaves = slices.Repeat(p.Leaves, 6)[:17] },
		"out of order":         func(p *Promise) { p.Leaves[0].Index = 9 },
		"of one twice":         func(p *Promise) { p.Leaves[0].Index = p.Leaves[1].Index },
		"of 2^63":              func(p *Promise) { p.Leaves[2].Index = 1 << 63 },
	} {
		p := promiseOf(0, 3, 6)
		change(&p)
		if s, err := p.Sign(private); err == nil || !strings.Contains(err.Error(), ": ") {
			t.Errorf("%s: %q, %v", name, s.Text, err)
		}
	}
}

func FuzzPromise(f *testing.F) {
	for _, v := range examplePromises(f) {
		f.Add([]byte(v.Text))
	}
	private, public := promiseKey("gw-1")
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePromise(text)
		if other := readPromise(string(text), ed25519.Sign(private, text), public[:]); (err == nil) != (other == nil) {
			t.Fatalf("%v; the second reading: %v", err, other)
		}
		if err != nil {
			return
		}
		s, err := p.Sign(private)
		if err != nil || !bytes.Equal(s.Text, text) {
			t.Fatalf("written again as %q, %v", s.Text, err)
		}
		if _, err := s.Open(public); err != nil {
			t.Fatal(err)
		}
	})
}
