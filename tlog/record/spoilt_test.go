package record_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// badEntries are what must not be read, each made of a good entry by one change.
func badEntries(t testing.TB) []badEntryVector {
	t.Helper()
	by := make(map[string]string)
	for _, x := range append(exampleLog(t), exampleEntries()...) {
		b, err := x.Entry.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		by[x.Name] = string(b)
	}
	var vs []badEntryVector
	add := func(name, entry string) { vs = append(vs, badEntryVector{name, entry}) }
	swap := func(name, of, old, new string) {
		t.Helper()
		if strings.Count(by[of], old) != 1 {
			t.Fatalf("%s: %q is %d times in %s", name, old, strings.Count(by[of], old), by[of])
		}
		add(name, strings.Replace(by[of], old, new, 1))
	}
	cut := func(name, of, part string) { // a part, from its name to the comma or brace after its value
		t.Helper()
		re := regexp.MustCompile(`,"` + part + `":(?:\{[^}]*\}|"[^"]*"|[0-9]+)`)
		if len(re.FindAllString(by[of], -1)) != 1 {
			t.Fatalf("%s: %q in %s", name, part, by[of])
		}
		add(name, re.ReplaceAllString(by[of], ""))
	}

	add("nothing", "")
	add("an empty object", "{}")
	add("null", "null")
	add("an array", "["+by["request"]+"]")
	add("a line break after", by["request"]+"\n")
	add("a space before", " "+by["request"])
	add("two entries", by["request"]+by["response"])
	add("a byte order mark", "\ufeff"+by["request"])
	add("over 4096 bytes", by["request"]+strings.Repeat(" ", 4096))
	add("in UTF-16", "{\x00\"\x00v\x00\"\x00")
	swap("version 0", "request", `{"v":1`, `{"v":0`)
	swap("version 2", "request", `{"v":1`, `{"v":2`)
	swap("version 01", "request", `{"v":1`, `{"v":01`)
	swap("version 1.0", "request", `{"v":1`, `{"v":1.0`)
	swap("version as text", "request", `{"v":1`, `{"v":"1"`)
	swap("version twice", "request", `{"v":1`, `{"v":1,"v":1`)
	swap("no version", "request", `{"v":1,`, `{`)
	swap("kind in capitals", "request", `"kind":"request"`, `"kind":"Request"`)
	swap("key in capitals", "request", `"kind"`, `"Kind"`)
	swap("key twice, in two cases", "request", `,"kind":"request"`, `,"kind":"request","KIND":"request"`)
	swap("unknown kind", "request", `"request"`, `"requests"`)
	swap("empty kind", "request", `"request"`, `""`)
	swap("kind after by", "request", `"kind":"request","by":"gw-1"`, `"by":"gw-1","kind":"request"`)
	swap("a space after a colon", "request", `"by":`, `"by": `)
	swap("a space after a comma", "request", `,"by"`, `, "by"`)
	swap("an escape of a letter", "request", `"by":"gw-1"`, `"by":"\u0067w-1"`)
	swap("an escape in a key", "request", `"by"`, `"\u0062y"`)
	swap("an escaped slash", "start", `tally/1`, `tally\/1`)
	swap("writer with a capital", "request", `gw-1`, `Gw-1`)
	swap("writer with a space", "request", `gw-1`, `gw 1`)
	swap("writer with an umlaut", "request", `gw-1`, `gwü1`)
	swap("writer with an at sign", "request", `gw-1`, `a@b`)
	swap("writer of no characters", "request", `gw-1`, ``)
	swap("writer of 65 characters", "longest response", strings.Repeat("w", 64), strings.Repeat("w", 65))
	swap("boot in capitals", "request", `"boot":"0198f2c1`, `"boot":"0198F2C1`)
	swap("boot without hyphens", "request", `"boot":"0198f2c1-`, `"boot":"0198f2c1`)
	swap("boot of zeros", "shortest start", `00000000-0000-0000-0000-000000000001`, `00000000-0000-0000-0000-000000000000`)
	swap("session of zeros", "request", idOf("plain").String(), `00000000-0000-0000-0000-000000000000`)
	swap("session in braces", "request", idOf("plain").String(), `{`+idOf("plain").String()+`}`)
	swap("session null", "request", `"`+idOf("plain").String()+`"`, `null`)
	swap("a number as a float", "request", `"seq":3`, `"seq":3.0`)
	swap("a number with an exponent", "request", `"seq":3`, `"seq":3e0`)
	swap("a number with a leading zero", "request", `"seq":3`, `"seq":03`)
	swap("a number with a sign", "request", `"seq":3`, `"seq":+3`)
	swap("a negative number", "request", `"seq":3`, `"seq":-3`)
	swap("minus zero", "start", `"seq":0`, `"seq":-0`)
	swap("a number as text", "request", `"seq":3`, `"seq":"3"`)
	swap("no number", "request", `"seq":3`, `"seq":`)
	swap("2^63", "longest response", `"seq":9223372036854775807`, `"seq":9223372036854775808`)
	swap("2^64+3", "request", `"seq":3`, `"seq":18446744073709551619`)
	swap("a huge number", "request", `"seq":3`, `"seq":`+strings.Repeat("9", 400))
	swap("start that is not number 0", "start", `"seq":0`, `"seq":1`)
	swap("number 0 that is no start", "request", `"seq":3`, `"seq":0`)
	swap("time with an offset", "shortest start", `.000000Z`, `.000000+00:00`)
	swap("time in milliseconds", "shortest start", `.000000Z`, `.000Z`)
	swap("time in nanoseconds", "shortest start", `.000000Z`, `.000000000Z`)
	swap("time with a comma", "shortest start", `.000000Z`, `,000000Z`)
	swap("time with a small t", "shortest start", `01T00`, `01t00`)
	swap("time with a blank", "shortest start", `01T00`, `01 00`)
	swap("a leap second", "longest access", `23:59:59.999999Z`, `23:59:60.000000Z`)
	swap("hour 24", "longest access", `T23:59:59.999999Z`, `T24:00:00.000000Z`)
	swap("30 February", "one session open since the log's first entry", `2024-02-29`, `2024-02-30`)
	swap("29 February of a common year", "one session open since the log's first entry", `2024-02-29`, `2023-02-29`)
	swap("1999", "shortest start", `2000-01-01`, `1999-12-31`)
	swap("year 10000", "longest access", `9999-12-31`, `10000-12-31`)
	swap("unknown outcome", "response", `"complete"`, `"completed"`)
	swap("outcome in capitals", "response", `"complete"`, `"COMPLETE"`)
	swap("empty outcome", "response", `"complete"`, `""`)
	swap("hash without padding", "response", hashOf("root response").String(), strings.TrimSuffix(hashOf("root response").String(), "="))
	root := hashOf("root request").String()
	swap("hash in the URL alphabet", "request", root, strings.NewReplacer("+", "-", "/", "_").Replace(root))
	swap("hash in hex", "response", hashOf("root response").String(), strings.Repeat("ab", 32))
	swap("hash with loose bits", "response", hashOf("root response").String(), loosened(hashOf("root response")))
	swap("prev of zeros", "response", `"prev":"`+leafOf(t, by["request"]).String(), `"prev":"`+tlog.Hash{}.String())
	swap("prev null", "response", `"`+leafOf(t, by["request"]).String()+`"`, `null`)
	swap("a record of no fields", "response", `"fields":8`, `"fields":0`)
	swap("a record of 65 fields", "longest response", `"fields":64`, `"fields":65`)
	swap("a payload of no bytes", "longest response", `"size":268435456`, `"size":0`)
	swap("a payload over the limit", "longest response", `"size":268435456`, `"size":268435457`)
	swap("a record without its count", "response", `,"fields":8`, ``)
	swap("a record with one thing more", "response", `"fields":8}`, `"fields":8,"x":1}`)
	swap("one thing more", "response", `{"v":1`, `{"v":1,"x":1`)
	swap("one thing more at the end", "stop, with a reason", `"reason":"upgrade"}`, `"reason":"upgrade","note":"hello"}`)
	swap("a comma at the end", "stop, with a reason", `"upgrade"}`, `"upgrade",}`)
	swap("a comment", "request", `{"v":1`, `{/**/"v":1`)
	swap("reason with a space", "refused", `policy_denied`, `policy denied`)
	swap("reason with a capital", "refused", `policy_denied`, `Policy_denied`)
	swap("empty reason", "refused", `policy_denied`, ``)
	swap("reason of 41 characters", "longest refused", strings.Repeat("r", 40), strings.Repeat("r", 41))
	swap("software with a space", "start", `tally/1.0.0`, `tally 1.0.0`)
	swap("software with an at sign", "start", `tally/1.0.0`, `jane@x.example`)
	swap("software of 65 characters", "longest start", strings.Repeat("Z", 64), strings.Repeat("Z", 65))
	swap("unknown mode", "start", `"strict"`, `"lenient"`)
	swap("beat of zero", "start that says when it beats", `"beat":1`, `"beat":0`)
	swap("beat over a day", "start that promises and says when it beats", `"beat":86400000`, `"beat":86400001`)
	swap("beat with a leading zero", "start that says when it beats", `"beat":1`, `"beat":01`)
	swap("beat as a text", "start that says when it beats", `"beat":1`, `"beat":"1"`)
	swap("promise of zeros", "start that promises and says when it beats", hashOf("promise").String(), tlog.Hash{}.String())
	swap("promise of 31 bytes", "start that promises and says when it beats", hashOf("promise").String(), base64.StdEncoding.EncodeToString(make([]byte, 31)))
	swap("promise before the beat", "start that promises and says when it beats", `"beat":86400000,"promise":"`+hashOf("promise").String()+`"`, `"promise":"`+hashOf("promise").String()+`","beat":86400000`)
	swap("policy 0", "refused by a policy", `"policy":1`, `"policy":0`)
	swap("policy that judged before it was", "refused by a policy", `"policy":1`, `"policy":2`)
	swap("policy with a leading zero", "refused by a policy", `"policy":1`, `"policy":01`)
	swap("policy as a text", "refused by a policy", `"policy":1`, `"policy":"1"`)
	swap("a verdict that is not stated", "request that was judged and waits for people", `"verdict":"ask"`, `"verdict":"allow"`)
	swap("a verdict before the policy", "request that was judged and waits for people", `"policy":9223372036854775806,"verdict":"ask"`, `"verdict":"ask","policy":9223372036854775806`)
	swap("a tag of zeros", "question", hashOf("tag").String(), tlog.Hash{}.String())
	swap("a question without an end", "question", `,"until":"2026-01-02T15:04:05.000001Z"`, ``)
	swap("a question that ends as it is asked", "question", `"until":"2026-01-02T15:04:05.000001Z"`, `"until":"2026-01-02T15:04:05.000000Z"`)
	swap("a question that is an answer", "question", `,"ask"`, `,"reason":"granted","ask"`)
	swap("a grant of zeros", "use of a yes", hashOf("grant").String(), tlog.Hash{}.String())
	swap("a grant that is not used", "use of a yes", `"used"`, `"granted"`)
	cut("a use of nothing", "use of a yes", "grant")
	swap("open before it has begun", "heartbeat, nothing open", `"count":0,"floor":0`, `"count":0,"floor":1`)
	swap("open in another order", "heartbeat, nothing open", `"count":0,"floor":0`, `"floor":0,"count":0`)
	swap("open with two of three", "heartbeat, nothing open", `,"shed":0`, ``)
	swap("gap that ends before it begins", "gap of one", `"from":1,"to":1`, `"from":2,"to":1`)
	swap("gap from the boot's start", "gap of one", `"from":1`, `"from":0`)
	swap("gap that does not end before its entry", "gap of one", `"to":1`, `"to":2`)
	swap("gap that ends long before its entry", "gap of one", `"seq":2`, `"seq":3`)
	swap("gap from the future", "gap of one", `"since":"2000-01-01`, `"since":"9999-12-31T23:59:59.999999Z","x":"2000-01-01`)

	for _, x := range []struct{ of, part string }{
		{"start", "software"}, {"start", "mode"}, {"stop", "open"}, {"heartbeat, one open", "open"}, {"request", "session"}, {"request", "record"},
		{"request", "payload"}, {"response", "session"}, {"response", "outcome"}, {"response", "record"}, {"response", "payload"},
		{"refused", "session"}, {"refused", "reason"}, {"refused", "record"}, {"refused", "payload"}, {"policy", "record"},
		{"policy without a payload", "record"}, {"approval asked", "session"}, {"approval asked", "prev"}, {"approval asked", "record"},
		{"approval asked", "payload"}, {"access", "record"}, {"access", "payload"}, {"erasure", "session"}, {"erasure", "reason"},
		{"erasure", "record"}, {"gap", "gap"}, {"gap", "reason"}, {"request", "kind"}, {"request", "by"}, {"request", "boot"},
		{"request", "seq"}, {"request", "time"},
	} {
		cut(x.of+" without "+x.part, x.of, x.part)
	}
	// Every part in every kind that must not have it.
	parts := []struct{ name, text string }{
		{"session", `,"session":"` + idOf("plain").String() + `"`}, {"prev", `,"prev":"` + hashOf("a").String() + `"`}, {"outcome", `,"outcome":"complete"`},
		{"record", `,"record":{"root":"` + hashOf("a").String() + `","fields":1}`}, {"payload", `,"payload":{"sha256":"` + hashOf("a").String() + `","size":1}`},
		{"open", `,"open":{"count":0,"floor":0,"shed":0}`}, {"gap", `,"gap":{"from":1,"to":1,"since":"2026-01-02T15:04:05.000000Z"}`},
		{"reason", `,"reason":"because"`}, {"software", `,"software":"x"`}, {"mode", `,"mode":"none"`},
		{"beat", `,"beat":10000`}, {"promise", `,"promise":"` + hashOf("a").String() + `"`},
		{"policy", `,"policy":1`}, {"verdict", `,"verdict":"ask"`}, {"ask", `,"ask":{"tag":"` + hashOf("a").String() + `","until":"2026-01-02T15:04:06.000000Z"}`},
		{"grant", `,"grant":"` + hashOf("a").String() + `"`},
	}
	for _, k := range []string{"start", "stop", "heartbeat", "request", "response", "refused", "policy", "approval", "access", "erasure", "gap"} {
		seq := "2"
		if k == "start" {
			seq = "0"
		}
		for _, wrong := range parts {
			if strings.Contains(" "+entryParts[k], " "+wrong.name) {
				continue
			}
			b := `{"v":1,"kind":"` + k + `","by":"gw-1","boot":"` + idOf("gw-1 boot 1").String() + `","seq":` + seq + `,"time":"2026-01-02T15:04:05.000000Z"`
			for _, p := range parts {
				if strings.Contains(" "+entryParts[k], " "+p.name+"+") || p == wrong {
					b += p.text
				}
			}
			add("a "+k+" entry with "+wrong.name, b+"}")
		}
	}
	return vs
}

func leafOf(t testing.TB, entry string) tlog.Hash {
	t.Helper()
	if _, err := ParseEntry([]byte(entry)); err != nil {
		t.Fatal(err)
	}
	return tlog.HashLeaf([]byte(entry))
}

// loosened spells a hash with a last character whose unused bits are not zero.
func loosened(h tlog.Hash) string {
	s := []byte(h.String())
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	s[42] = alphabet[strings.IndexByte(alphabet, s[42])+1]
	return string(s)
}

func badRecords(t testing.TB) (vs []badVector) {
	t.Helper()
	add := func(name string, b []byte) { vs = append(vs, badVector{name, b}) }
	rs := exampleRecords()
	one, err := rs[0].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	three, err := rs[2].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	// A field of record one: length at 5, name "session" at 6, salt at 13, length of the value at 29, value at 33.
	add("nothing", []byte{})
	add("the magic", one[:4])
	add("no fields", []byte("TSR1\x00"))
	add("other magic", with(one, 3, '2'))
	add("one byte more", append(bytes.Clone(one), 0))
	add("one byte less", one[:len(one)-1])
	add("one field more than there is", with(one, 4, 2))
	add("one field less than there is", with(three, 4, 2))
	add("a name of no bytes", []byte("TSR1\x01\x00"+strings.Repeat("s", 16)+"\x00\x00\x00\x00"))
	add("a name with a capital", with(one, 6, 'S'))
	add("a name with a zero byte", with(one, 6, 0))
	add("a name of 65 bytes", []byte("TSR1\x01\x41"+strings.Repeat("n", 65)+strings.Repeat("s", 16)+"\x00\x00\x00\x00"))
	add("a value of 4 GiB", with(one, 29, 0xff, 0xff, 0xff, 0xff))
	add("a value longer by one", with(one, 32, one[32]+1))
	add("a value shorter by one", with(one, 32, one[32]-1))
	add("ends within the salt", one[:20])
	add("ends within the length", one[:31])
	twice := append(bytes.Clone(one), one[5:]...)
	twice[4] = 2
	add("one name twice", twice)
	many := []byte("TSR1\x41")
	for i := range 65 {
		many = append(many, 2, 'a'+byte(i/26), 'a'+byte(i%26))
		many = append(many, strings.Repeat("s", 16)+"\x00\x00\x00\x00"...)
	}
	add("65 fields", many)
	return vs
}

func exampleOpenings(t testing.TB) (vs []openingVector) {
	t.Helper()
	add := func(name string, valid bool, root tlog.Hash, of int, o Opening) {
		v := openingVector{Name: name, Valid: valid, Root: root, Of: of, Index: o.Index, Count: o.Count, Field: vectorOf(o.Field), Proof: append([]tlog.Hash{}, o.Proof...)}
		v.Field.Salt, v.Field.Value = bytes.Clone(v.Field.Salt), bytes.Clone(v.Field.Value)
		vs = append(vs, v)
	}
	for _, r := range exampleRecords() {
		for i := range r {
			o, err := r.Open(i)
			if err != nil {
				t.Fatal(err)
			}
			add("field "+string(rune('0'+i))+" of "+recordName(r), true, r.Root(), len(r), o)
		}
	}
	r := exampleRecords()[6]
	bad := func(name string, change func(o *Opening, root *tlog.Hash, of *int)) {
		o, err := r.Open(4)
		if err != nil {
			t.Fatal(err)
		}
		o.Field.Value = bytes.Clone(o.Field.Value)
		root, of := r.Root(), len(r)
		change(&o, &root, &of)
		add(name, false, root, of, o)
	}
	bad("value changed", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Value[0] ^= 1 })
	bad("value longer", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Value = append(o.Field.Value, 0) })
	bad("value gone", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Value = nil })
	bad("salt changed", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Salt[15] ^= 0x80 })
	bad("name changed", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Name = "callex" })
	bad("a letter moved from name to value", func(o *Opening, _ *tlog.Hash, _ *int) {
		o.Field.Name, o.Field.Value = "calle", append([]byte("r"), o.Field.Value...)
	})
	bad("a name that no field has", func(o *Opening, _ *tlog.Hash, _ *int) { o.Field.Name = "Caller" })
	bad("root changed", func(_ *Opening, root *tlog.Hash, _ *int) { root[0] ^= 1 })
	bad("the entry states another number of fields", func(_ *Opening, _ *tlog.Hash, of *int) { *of = 8 })
	bad("both state another number of fields", func(o *Opening, _ *tlog.Hash, of *int) { o.Count, *of = 9, 9 })
	bad("another index", func(o *Opening, _ *tlog.Hash, _ *int) { o.Index = 5 })
	bad("an index outside", func(o *Opening, _ *tlog.Hash, _ *int) { o.Index = 7 })
	bad("an index below zero", func(o *Opening, _ *tlog.Hash, _ *int) { o.Index = -1 })
	bad("a proof too short", func(o *Opening, _ *tlog.Hash, _ *int) { o.Proof = o.Proof[:len(o.Proof)-1] })
	bad("a proof too long", func(o *Opening, _ *tlog.Hash, _ *int) { o.Proof = append(o.Proof, tlog.Hash{}) })
	bad("a proof in another order", func(o *Opening, _ *tlog.Hash, _ *int) { o.Proof[0], o.Proof[1] = o.Proof[1], o.Proof[0] })
	bad("no proof", func(o *Opening, _ *tlog.Hash, _ *int) { o.Proof = nil })
	bad("a record of no fields", func(o *Opening, root *tlog.Hash, of *int) {
		o.Index, o.Count, *of, *root, o.Proof = 0, 0, 0, tlog.EmptyRoot(), nil
	})
	bad("a record of 65 fields", func(o *Opening, _ *tlog.Hash, of *int) { o.Count, *of = 65, 65 })
	return vs
}

// rawFrame is a zstd frame (RFC 8878) of raw blocks, which needs no compressor: descriptor 0xa0, one segment and four
// bytes of size.
func rawFrame(plain []byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, byte(len(plain)), byte(len(plain) >> 8), byte(len(plain) >> 16), byte(len(plain) >> 24)}
	for {
		n := min(len(plain), 128<<10)
		h := n << 3
		if n == len(plain) {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16))
		b = append(b, plain[:n]...)
		if plain = plain[n:]; len(plain) == 0 {
			return b
		}
	}
}

// sealWith seals packed bytes as FORMAT.md says, with a nonce that is not random: for vectors only.
func sealWith(t testing.TB, packed, key, nonce []byte, keyID string, b Binding) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	header := append([]byte("TSP1"), byte(len(keyID)))
	header = append(header, keyID...)
	out := append(bytes.Clone(header), nonce...)
	return gcm.Seal(out, nonce, packed, sealedFor(header, string(b.Kind), sessionText(b.Session), b.Root[:]))
}

func sessionText(id ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func examplePayloads(t testing.TB) (vs []payloadVector) {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	rs := exampleRecords()
	key := hashOf("key")
	base := payloadVector{Key: key[:], KeyID: "ring-1/2026/0001", Kind: Response, Session: idOf("plain").String()}
	add := func(name string, valid bool, r Record, pack func([]byte) []byte, change func(*payloadVector)) *payloadVector {
		v := base
		v.Name, v.Valid, v.Root = name, valid, r.Root()
		var err error
		if v.Plain, err = r.Append(nil); err != nil {
			t.Fatal(err)
		}
		var session ID
		if change != nil {
			change(&v)
		}
		if v.Session != "" {
			if session, err = ParseID(v.Session); err != nil {
				t.Fatal(err)
			}
		}
		nonce := hashOf("nonce " + name)
		v.Payload = sealWith(t, pack(v.Plain), v.Key, nonce[:12], v.KeyID, Binding{Kind: v.Kind, Session: session, Root: v.Root})
		v.Sum = Sum(v.Payload)
		if !valid {
			v.Plain = nil
		}
		vs = append(vs, v)
		return &vs[len(vs)-1]
	}
	squeeze := func(b []byte) []byte { return enc.EncodeAll(b, nil) }
	same := func(*payloadVector) {}

	add("one raw block", true, rs[0], rawFrame, same)
	add("compressed", true, rs[8], squeeze, same)
	add("compressed, with a checksum and a window", true, rs[8], func(b []byte) []byte { return sum.EncodeAll(b, nil) }, same)
	add("no session", true, rs[3], squeeze, func(v *payloadVector) { v.Kind, v.Session = Policy, "" })
	add("key id of one byte", true, rs[1], rawFrame, func(v *payloadVector) { v.KeyID = "\x00" })
	add("key id of 64 bytes", true, rs[1], rawFrame, func(v *payloadVector) { v.KeyID = strings.Repeat("k", 64) })

	window := func(descriptor byte) func([]byte) []byte { // a raw frame with a window in place of its single segment
		return func(b []byte) []byte {
			f := rawFrame(b)
			return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x80, descriptor}, f[5:]...)
		}
	}
	add("a window of 8 MiB", true, rs[1], window(13<<3), same)
	add("a window of 9 MiB", false, rs[1], window(13<<3|1), same)

	// What is spoilt from here on is the second of all, which opens; it is large enough for the compressor to
	// state its size.
	whole := rs[8]
	// One bit of each part, under a binding that is right.
	n := len(base.KeyID)
	for _, x := range []struct {
		name string
		at   int
	}{
		{"magic", 0}, {"length of the key id", 4}, {"key id", 5}, {"nonce", 5 + n}, {"nonce's end", 5 + n + 11}, {"ciphertext", 5 + n + 12}, {"tag", -16}, {"tag's end", -1},
	} {
		v := add("bit flipped in the "+x.name, false, whole, squeeze, same)
		at := x.at
		if at < 0 {
			at += len(v.Payload)
		}
		v.Payload[at] ^= 1
	}
	add("one byte more", false, whole, squeeze, same).Payload = append(vs[len(vs)-1].Payload, 0)
	add("one byte less", false, whole, squeeze, same).Payload = vs[len(vs)-1].Payload[:len(vs[len(vs)-1].Payload)-1]
	add("header only", false, whole, squeeze, same).Payload = vs[len(vs)-1].Payload[:5+n]
	add("nothing", false, whole, squeeze, same).Payload = []byte{}
	other := hashOf("another key")
	add("another key", false, whole, squeeze, same).Key = other[:]
	add("a key of 16 bytes", false, whole, squeeze, same).Key = other[:16]
	add("another kind", false, whole, squeeze, same).Kind = Request
	add("another session", false, whole, squeeze, same).Session = idOf("elsewhere").String()
	add("no session where there was one", false, whole, squeeze, same).Session = ""
	add("another root", false, whole, squeeze, same).Root = rs[3].Root()
	// From here on they unseal, and what is inside is wrong.
	add("another record than the root's", false, whole, squeeze, func(v *payloadVector) { v.Root = rs[3].Root() })
	inside := func(name string, pack func(plain []byte) []byte) { add(name, false, whole, pack, same) }
	inside("a byte after the record", func(b []byte) []byte { return squeeze(append(b, 0)) })
	inside("no zstd", func(b []byte) []byte { return b })
	inside("no bytes", func(b []byte) []byte { return nil })
	inside("a byte after the frame", func(b []byte) []byte { return append(squeeze(b), 0) })
	inside("two frames", func(b []byte) []byte { return append(rawFrame(b[:20]), rawFrame(b[20:])...) })
	inside("an empty frame after", func(b []byte) []byte { return append(squeeze(b), rawFrame(nil)...) })
	inside("a skippable frame before", func(b []byte) []byte { return append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00hi"), squeeze(b)...) })
	inside("a skippable frame after", func(b []byte) []byte { return append(squeeze(b), "\x50\x2a\x4d\x18\x02\x00\x00\x00hi"...) })
	inside("no size stated", func(b []byte) []byte {
		f := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38, byte(len(b)<<3 | 1), byte(len(b) >> 5), byte(len(b) >> 13)}
		return append(f, b...)
	})
	inside("a size too small", func(b []byte) []byte { f := rawFrame(b); f[5]--; return f })
	inside("a size too large", func(b []byte) []byte { f := rawFrame(b); f[5]++; return f })
	inside("a size of 192 MiB and one, in one block", func(b []byte) []byte { f := rawFrame(b); copy(f[5:], []byte{1, 0, 0, 12}); return f })
	inside("a dictionary", func(b []byte) []byte {
		f := rawFrame(b)
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa1, 7}, f[5:]...)
	})
	inside("dictionary 0", func(b []byte) []byte {
		f := rawFrame(b)
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa1, 0}, f[5:]...)
	})
	inside("a block of the reserved type", func(b []byte) []byte { f := rawFrame(b); f[9] |= 6; return f })
	inside("a bomb: 1 GiB of zeros, stated", func([]byte) []byte { return bomb(1<<30, true)[:40] })
	inside("a bomb: 16 MiB of zeros, not stated", func([]byte) []byte { return bomb(16<<20, false) })
	inside("a bomb: 16 MiB of zeros, stated as 1 KiB", func([]byte) []byte {
		f := bomb(16<<20, true)
		copy(f[5:], []byte{0, 4, 0, 0, 0, 0, 0, 0})
		return f
	})
	return vs
}

// bomb is a zstd frame of zeros in blocks that repeat one byte: four bytes make 128 KiB.
func bomb(size int, stated bool) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38} // a window of 128 KiB
	if stated {
		b = []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}
		for i := range 8 {
			b = append(b, byte(size>>(8*i)))
		}
	}
	for ; size > 0; size -= 128 << 10 {
		n := min(size, 128<<10)
		h := n<<3 | 1<<1
		if size <= 128<<10 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 0)
	}
	return b
}
