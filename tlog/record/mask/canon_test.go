package mask

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"unicode"
)

// What is read eight and more bytes at a time reads the same as byte by byte.
func TestManyAtATime(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		b := make([]byte, rng.IntN(80))
		for i := range b {
			if b[i] = byte(0x20 + rng.IntN(0x5f)); rng.IntN(40) == 0 {
				b[i] = byte(rng.IntN(0x100))
			} else if rng.IntN(3) > 0 {
				b[i] = "abc \n"[rng.IntN(5)]
			}
		}
		want := bytes.IndexFunc(b, func(r rune) bool { return r >= 0x7f || r < ' ' && r != '\n' && r != '\r' && r != '\t' })
		if want < 0 {
			want = len(b)
		}
		if got := plain(b); got != want {
			t.Fatalf("plain(%q) is %d, not %d", b, got, want)
		}
		// next may stop early, within a long run, but never late.
		if got, first := next(b, 0), bytes.IndexAny(b, "0123456789@:"); first >= 0 && got > first || first < 0 && got < len(b) && is(b[got], isDigit) {
			t.Fatalf("next(%q) is %d, not %d", b, got, first)
		}
	}
}

// Every place in a layer comes from a place in the text, in order, and goes back to it.
func TestUnits(t *testing.T) {
	f := newFolding()
	for _, s := range []string{"a４１１b", "\u200d4\u200d1", "x\u00adＡ\u0301ﬃ½x", "é日本語e", "\x00a\x01", "⟦CARD⟧a⟦CARD:…1111⟧", "𝟒𝟏", "\xff\xfe1", ""} {
		var us []unit
		b := f.fold(nil, []byte(s), false, &us)
		last := 0
		for i := range b {
			from, to := back(us, i, i+1)
			if from < 0 || to > len(s) || from > to || from < last && from != last {
				t.Fatalf("%q to %q: %d comes from %d to %d", s, b, i, from, to)
			}
			last = from
			if at := forward(us, from); at > i || at < 0 {
				t.Fatalf("%q to %q: %d comes from %d, which goes to %d", s, b, i, from, at)
			}
		}
		if at := forward(us, len(s)); at != len(b) {
			t.Fatalf("%q to %q: the end goes to %d", s, b, at)
		}
	}
}

// Digits of every script are digits, and nothing becomes a digit that is none.
func TestFolding(t *testing.T) {
	f := newFolding()
	for r := rune(0x80); r < 0x1ffff; r++ {
		v := f.of(r)
		if unicode.Is(unicode.Nd, r) && (v < '0' || v > '9') {
			t.Errorf("%U %c is folded to %#x", r, r, v)
		}
		if '0' <= v && v <= '9' && !unicode.Is(unicode.N, r) && !unicode.Is(unicode.So, r) {
			t.Errorf("%U %c is folded to %c", r, r, v)
		}
	}
	for in, want := range map[string]string{"ｊａｎｅ＠ｅｘ．ｃｏｍ": "jane@ex.com", "4\u200b1\ufeff1": "411", "café": "cafe", "a\u00a0b\u2011c": "a b-c", "раураl": "paypal", "日本": "日本"} {
		if got := string(f.fold(nil, []byte(in), false, nil)); got != want {
			t.Errorf("%q is folded to %q, not %q", in, got, want)
		}
	}
}

// One level of escapes is undone at a time.
func TestDecode(t *testing.T) {
	for in, want := range map[string]string{
		`\u0034\u0031`: "41", "%34%31": "41", "&#52;&#x31;": "41", `\\u0034`: `\u0034`, "%2534": "%34", "&amp;#52;": "&#52;", `\x34\/`: "4/", `\ud835\udfd2`: "𝟒", `\u{34}`: "4",
		"100% &c \\q": "100% &c \\q", "%zz &#; &x;": "%zz &#; &x;", `\u00`: `\u00`, "a&commat;b&period;c": "a@b.c",
	} {
		var us []unit
		if got := string(decode(nil, []byte(in), &us)); got != want {
			t.Errorf("%q is decoded to %q, not %q", in, got, want)
		}
		if (len(us) > 0) != (in != want) || in != want && !escaped([]byte(in)) {
			t.Errorf("%q: %d units, escaped %v", in, len(us), escaped([]byte(in)))
		}
	}
}
