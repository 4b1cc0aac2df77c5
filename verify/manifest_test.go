package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// A maker signs manifests in tests. Its signatures are the same every time.
type maker struct {
	vkey  string
	sign  func(msg []byte) []byte
	keyid string // what it says in an envelope
}

func ed25519Maker(name string) maker {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	key := ed25519.NewKeyFromSeed(seed)
	vkey, err := note.NewEd25519VerifierKey(name, key.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	return maker{vkey: vkey, sign: func(msg []byte) []byte { return ed25519.Sign(key, msg) }}
}

func ecdsaMaker(t testing.TB, name string) maker {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := tlog.LogVerifierKey(name, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return maker{vkey: vkey, sign: func(msg []byte) []byte {
		sum := sha256.Sum256(msg)
		sig, err := key.Sign(nil, sum[:], crypto.SHA256) // deterministic, RFC 6979
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}}
}

func (m maker) verifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := NewMakerVerifier(m.vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// enclose writes an envelope, as keys/kms does.
func enclose(kind string, payload []byte, by ...maker) []byte {
	type sig struct {
		KeyID string `json:"keyid,omitempty"`
		Sig   []byte `json:"sig"`
	}
	var sigs []sig
	for _, m := range by {
		sigs = append(sigs, sig{m.keyid, m.sign(preAuth(kind, payload))})
	}
	raw, _ := json.Marshal(struct {
		Payload     []byte `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []sig  `json:"signatures"`
	}{payload, kind, sigs})
	return raw
}

func dayBundle(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func dayManifest(t testing.TB) *Manifest {
	t.Helper()
	m, err := NewManifest("day.bundle", dayBundle(t), `Ada "the exporter" <ada@example.com>`, began.Add(36*time.Hour+500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func appendManifest(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors are what the first version wrote, byte for byte.
func TestManifestVectors(t *testing.T) {
	ed, ec := ed25519Maker("maker.example/ed25519"), ecdsaMaker(t, "maker.example/ecdsa")
	payload := appendManifest(t, dayManifest(t))
	vector(t, "day.manifest.json", payload)
	envelope := enclose(ManifestType, payload, ed, ec)
	vector(t, "day.manifest", envelope)
	vector(t, "day.makers", []byte(ed.vkey+"\n"+ec.vkey+"\n"))

	r, err := CheckManifest(envelope, dayBundle(t), ed.verifier(t), ec.verifier(t))
	if err != nil || !r.OK() || len(r.Findings) != 3 {
		show(t, r)
		t.Fatal(err)
	}
	if by := r.Findings[0].Detail; by != "by "+keyOf(ed.vkey)+", "+keyOf(ec.vkey) {
		t.Errorf("signed %s", by)
	}
}

// TestPAE is the example of DSSE's protocol.md, which has its signature as r and s in a row.
func TestPAE(t *testing.T) {
	msg := preAuth("http://example.com/HelloWorld", []byte("hello world"))
	if string(msg) != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Fatalf("%q", msg)
	}
	number := func(s string) *big.Int { n, _ := new(big.Int).SetString(s, 10); return n }
	x := number("46950820868899156662930047687818585632848591499744589407958293238635476079160")
	y := number("5640078356564379163099075877009565129882514886557779369047442380624545832820")
	point := append([]byte{4}, x.FillBytes(make([]byte, 32))...)
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(point, y.FillBytes(make([]byte, 32))...))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(msg)
	if !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("the example's signature is not verified over these bytes")
	}
}

// One change to a manifest, its envelope or its bundle, and what of it is false.
func TestCheckManifest(t *testing.T) {
	ed, ec, other := ed25519Maker("maker.example/ed25519"), ecdsaMaker(t, "maker.example/ecdsa"), ed25519Maker("other.example")
	bundle := dayBundle(t)
	d := newDay(t)
	elsewhere := appendBundle(t, d.bundle(t, d.first))
	signed := func(edit func(m *Manifest)) []byte {
		m := dayManifest(t)
		edit(m)
		return enclose(ManifestType, appendManifest(t, m), ed)
	}
	payload := appendManifest(t, dayManifest(t))
	whole := enclose(ManifestType, payload, ed)
	for _, c := range []struct {
		name             string
		envelope, bundle []byte
		makers           []maker
		wrong            Claim // false, or
		unreadable       string
	}{
		{name: "untouched", envelope: whole},
		{name: "by either", envelope: whole, makers: []maker{ec, ed}},
		{name: "a second signature of nobody known", envelope: enclose(ManifestType, payload, other, ed)},
		{name: "one maker's signature under another's key id", envelope: enclose(ManifestType, payload, maker{"", ed.sign, keyOf(other.vkey)})},
		{name: "a signature that fails beside one that does not", envelope: enclose(ManifestType, payload, maker{"", other.sign, keyOf(ed.vkey)}, ed)},
		{name: "renamed", envelope: signed(func(m *Manifest) { m.Name = "b" })},
		{name: "nobody is believed", envelope: whole, makers: []maker{}, wrong: ManifestSigned},
		{name: "another maker", envelope: whole, makers: []maker{other, ec}, wrong: ManifestSigned},
		{name: "another maker's signature", envelope: enclose(ManifestType, payload, maker{"", other.sign, keyOf(ed.vkey)}), wrong: ManifestSigned},
		{name: "a signature of nothing", envelope: enclose(ManifestType, payload, maker{sign: func([]byte) []byte { return []byte{} }}), wrong: ManifestSigned},
		{name: "no signature", envelope: bytes.Replace(enclose(ManifestType, payload), []byte("null"), []byte("[]"), 1), wrong: ManifestSigned},
		{name: "signed without the type", envelope: enclose(ManifestType, payload, maker{sign: func([]byte) []byte { return ed.sign(payload) }}), wrong: ManifestSigned},
		{name: "signed as another type", envelope: enclose(ManifestType, payload, maker{sign: func([]byte) []byte { return ed.sign(preAuth("text/plain", payload)) }}), wrong: ManifestSigned},
		{name: "another payload", envelope: bytes.Replace(whole, []byte(base64.StdEncoding.EncodeToString(payload)), []byte(base64.StdEncoding.EncodeToString(bytes.Replace(payload, []byte("Ada"), []byte("Eva"), 1))), 1), wrong: ManifestSigned},
		{name: "another type", envelope: enclose("text/plain", payload, ed), unreadable: "manifest"},
		{name: "no manifest", envelope: enclose(ManifestType, []byte("{}"), ed), unreadable: "manifest"},
		{name: "a manifest with a space", envelope: enclose(ManifestType, append(slices.Clone(payload), ' '), ed), unreadable: "manifest"},
		{name: "no manifest, of nobody known", envelope: enclose(ManifestType, []byte("{}"), other), wrong: ManifestSigned},
		{name: "another size", envelope: signed(func(m *Manifest) { m.Size++ }), wrong: ManifestMatches},
		{name: "another digest", envelope: signed(func(m *Manifest) { m.SHA256[31] ^= 1 }), wrong: ManifestMatches},
		{name: "another origin", envelope: signed(func(m *Manifest) { m.Origin = "log.example/else" }), wrong: ManifestMatches},
		{name: "another tree", envelope: signed(func(m *Manifest) { m.TreeSize++ }), wrong: ManifestMatches},
		{name: "another root", envelope: signed(func(m *Manifest) { m.Root[0] ^= 1 }), wrong: ManifestMatches},
		{name: "a session less", envelope: signed(func(m *Manifest) { m.Sessions = m.Sessions[1:] }), wrong: ManifestMatches},
		{name: "a session twice", envelope: signed(func(m *Manifest) { m.Sessions = append(m.Sessions, m.Sessions[0]) }), wrong: ManifestMatches},
		{name: "another order", envelope: signed(func(m *Manifest) { slices.Reverse(m.Sessions) }), wrong: ManifestMatches},
		{name: "another bundle", envelope: whole, bundle: elsewhere, wrong: ManifestMatches},
		{name: "no bundle", envelope: whole, bundle: []byte{}, wrong: ManifestMatches},
		{name: "a bundle that is none", envelope: signed(func(m *Manifest) { m.SHA256, m.Size = sha256.Sum256([]byte("x")), 1 }), bundle: []byte("x"), unreadable: "bundle"},
		{name: "no envelope", envelope: []byte("x"), unreadable: "manifest"},
	} {
		if c.bundle == nil {
			c.bundle = bundle
		}
		if c.makers == nil {
			c.makers = []maker{ed}
		}
		var makers []note.Verifier
		for _, m := range c.makers {
			makers = append(makers, m.verifier(t))
		}
		r, err := CheckManifest(c.envelope, c.bundle, makers...)
		var unreadable *Unreadable
		switch errors.As(err, &unreadable); {
		case c.unreadable != "":
			if unreadable == nil || unreadable.What != c.unreadable || r.OK() {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.wrong == "":
			if !r.OK() || len(r.Findings) != 3 || len(r.NotProven) == 0 {
				t.Errorf("%s: %+v", c.name, r)
			}
		default:
			if got := falseClaims(r); !slices.Equal(got, []Claim{c.wrong}) || len(r.NotProven) == 0 && c.wrong == ManifestSigned {
				t.Errorf("%s: false are %v", c.name, got)
			}
		}
	}
}

// What no writer writes, Append does not write and ParseManifest does not read.
func TestManifestHasOneForm(t *testing.T) {
	good := string(appendManifest(t, dayManifest(t)))
	if _, err := ParseManifest([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(string) string{
		"a space":           func(s string) string { return swap(s, `"size":`, `"size": `) },
		"a line break":      func(s string) string { return s + "\n" },
		"another order":     func(s string) string { return swap(s, `{"format":"tallystick-bundle-manifest/v1",`, `{`) },
		"a member twice":    func(s string) string { return swap(s, `"name":`, `"name":"x","name":`) },
		"an unknown member": func(s string) string { return swap(s, `"name":`, `"x":1,"name":`) },
		"another case":      func(s string) string { return swap(s, `"name":`, `"Name":`) },
		"another format":    func(s string) string { return swap(s, `manifest/v1"`, `manifest/v2"`) },
		"a long escape":     func(s string) string { return swap(s, `"day.bundle"`, `"\u0064ay.bundle"`) },
		"a directory":       func(s string) string { return swap(s, `"day.bundle"`, `"../day.bundle"`) },
		"a Windows path":    func(s string) string { return swap(s, `"day.bundle"`, `"c:\\day.bundle"`) },
		"a parent":          func(s string) string { return swap(s, `"day.bundle"`, `".."`) },
		"no name":           func(s string) string { return swap(s, `"day.bundle"`, `""`) },
		"a long name":       func(s string) string { return swap(s, `"day.bundle"`, `"`+strings.Repeat("a", 256)+`"`) },
		"a name on two":     func(s string) string { return swap(s, `"day.bundle"`, `"day\nbundle"`) },
		"a control":         func(s string) string { return swap(s, `"day.bundle"`, "\"day\x7f\"") },
		"not UTF-8":         func(s string) string { return swap(s, `"day.bundle"`, "\"day\xff\"") },
		"upper-case hex":    func(s string) string { return swap(s, `"sha256":"`, `"sha256":"A`) },
		"a short digest":    func(s string) string { i := strings.Index(s, `"sha256":"`) + 10; return s[:i] + s[i+2:] },
		"size 0":            func(s string) string { return swap(s, `"size":`, `"size":0,"was":`) },
		"a negative size":   func(s string) string { return swap(s, `"size":`, `"size":-`) },
		"a fraction":        func(s string) string { return swap(s, `"size":`, `"size":1.`) },
		"an exponent":       func(s string) string { return swap(s, `"size":`, `"size":1e`) },
		"a leading zero":    func(s string) string { return swap(s, `"size":`, `"size":0`) },
		"a huge size":       func(s string) string { return swap(s, `"size":`, `"size":1000000000`) },
		"an origin, spaced": func(s string) string { return swap(s, `"origin":"`, `"origin":"a `) },
		"an empty tree":     func(s string) string { return swap(s, `"checkpoint":{"size":12`, `"checkpoint":{"size":0`) },
		"a loose root":      func(s string) string { return swap(s, `"root":"`, `"root":"=`) },
		"no sessions": func(s string) string {
			return s[:strings.Index(s, `["`)] + `[]` + s[strings.Index(s, `],"made_by"`)+1:]
		},
		"sessions of null":   func(s string) string { return swap(s, `"sessions":["`, `"sessions":[null,"`) },
		"an upper-case id":   func(s string) string { return swap(s, `["019a`, `["019A`) },
		"nobody":             func(s string) string { return swap(s, `"made_by":"`, `"made_by":"","x":"`) },
		"another zone":       func(s string) string { return swap(s, `:00Z"`, `:00+00:00"`) },
		"a part of a second": func(s string) string { return swap(s, `:00Z"`, `:00.5Z"`) },
		"no such second":     func(s string) string { return swap(s, `:00Z"`, `:61Z"`) },
		"before 1970":        func(s string) string { return swap(s, `"made_at":"2026`, `"made_at":"1969`) },
		"cut off":            func(s string) string { return s[:len(s)-1] },
		"nothing":            func(string) string { return "" },
		"null":               func(string) string { return "null" },
		"a list":             func(s string) string { return "[" + s + "]" },
		"two":                func(s string) string { return s + s },
	} {
		bad := edit(good)
		if bad == good {
			t.Errorf("%s: nothing was changed", name)
		}
		if m, err := ParseManifest([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
}

// DSSE says what readers of its envelope must take, in whatever spelling; and some things readers would differ on.
func TestEnvelopeSpellings(t *testing.T) {
	ed := ed25519Maker("maker.example/ed25519")
	payload := appendManifest(t, dayManifest(t))
	ed.keyid = keyOf(ed.vkey)
	whole := string(enclose(ManifestType, payload, ed))
	sig := base64.StdEncoding.EncodeToString(ed.sign(preAuth(ManifestType, payload)))
	b64, url := base64.StdEncoding.EncodeToString(payload), base64.URLEncoding.EncodeToString(payload)
	plain := `"payload":"` + b64 + `","payloadType":"` + ManifestType + `",`
	for name, s := range map[string]string{
		"with a key id":               whole,
		"as DSSE's library writes it": `{"payloadType":"` + ManifestType + `","payload":"` + b64 + `","signatures":[{"keyid":"","sig":"` + sig + `"}]}`,
		"indented":                    strings.NewReplacer(",", " ,\r\n\t", ":", " : ", "{", "{\n").Replace(strings.ReplaceAll(whole, `"keyid":"`+keyOf(ed.vkey)+`",`, "")),
		"another order":               `{"signatures":[{"sig":"` + sig + `","keyid":""}],` + plain[:len(plain)-1] + `}`,
		"no key id":                   `{` + plain + `"signatures":[{"sig":"` + sig + `"}]}`,
		"the URL alphabet":            strings.NewReplacer(b64, url, sig, base64.URLEncoding.EncodeToString(ed.sign(preAuth(ManifestType, payload)))).Replace(whole),
		"members unknown":             swap(swap(whole, `{"payload"`, `{"v":{"payload":[1,{"sig":2}]},"payload"`), `{"keyid"`, `{"cert":null,"keyid"`),
		"an escape":                   swap(whole, `"payloadType"`, `"\u0070ayloadType"`),
		"a line break at the end":     whole + "\n",
		"a signature of nothing, too": swap(whole, `"signatures":[`, `"signatures":[{"sig":""},`),
	} {
		if r, err := CheckManifest([]byte(s), dayBundle(t), ed.verifier(t)); err != nil || !r.OK() {
			t.Errorf("%s: %v %+v", name, err, r)
		}
	}
	for name, s := range map[string]string{
		"nothing":                  "",
		"a list":                   "[" + whole + "]",
		"null":                     "null",
		"two":                      whole + whole,
		"a byte order mark":        "\ufeff" + whole,
		"cut off":                  whole[:len(whole)-1],
		"not UTF-8":                swap(whole, `{"keyid"`, "{\"x\":\"\xff\",\"keyid\""),
		"the payload twice":        swap(whole, `"payload":`, `"payload":"","payload":`),
		"the payload twice, apart": swap(whole, `"signatures":`, `"payload":"","signatures":`),
		"the type twice":           swap(whole, `"payloadType":`, `"payloadType":"x","payloadType":`),
		"the signatures twice":     swap(whole, `"signatures":`, `"signatures":[],"signatures":`),
		"a signature twice":        swap(whole, `"sig":`, `"sig":"","sig":`),
		"a key id twice":           swap(whole, `"keyid":`, `"keyid":"","keyid":`),
		"another case":             swap(whole, `"payload":`, `"Payload":"","payload":`),
		"another case of sig":      swap(whole, `"sig":`, `"SIG":"","sig":`),
		"no payload":               swap(whole, `"payload":`, `"x":`),
		"no type":                  swap(whole, `"payloadType":`, `"x":`),
		"no signatures":            swap(whole, `"signatures":`, `"x":`),
		"signatures of null":       swap(whole, `"signatures":`, `"signatures":null,"x":`),
		"a payload of null":        swap(whole, `"payload":`, `"payload":null,"x":`),
		"a signature less its sig": swap(whole, `"sig":`, `"x":`),
		"a signature of null":      swap(whole, `"signatures":[`, `"signatures":[null,`),
		"a number":                 swap(whole, `"sig":`, `"sig":1,"x":`),
		"a payload of bytes":       swap(whole, `"payload":`, `"payload":[1],"x":`),
		"no padding":               strings.ReplaceAll(whole, "=", ""),
		"both alphabets":           swap(whole, b64, "+-"+b64[2:]),
		"base64 on two lines":      swap(whole, b64, b64[:4]+`\n`+b64[4:]),
		"seventeen signatures":     swap(whole, `"signatures":[`, `"signatures":[`+strings.Repeat(`{"sig":""},`, 16)),
		"too large":                whole + strings.Repeat(" ", MaxManifest),
	} {
		var unreadable *Unreadable
		if r, err := CheckManifest([]byte(s), dayBundle(t), ed.verifier(t)); !errors.As(err, &unreadable) || unreadable.What != "manifest" || r.OK() {
			t.Errorf("%s: %v %+v", name, err, r)
		}
	}
}

func TestMakerVerifier(t *testing.T) {
	ed, ec := ed25519Maker("maker.example/ed25519").vkey, ecdsaMaker(t, "maker.example/ecdsa").vkey
	for _, vkey := range []string{ed, ec} {
		if v, err := NewMakerVerifier(vkey); err != nil || !strings.HasPrefix(vkey, fmt.Sprintf("%s+%08x+", v.Name(), v.KeyHash())) {
			t.Errorf("%s: %v", vkey, err)
		}
	}
	pq, err := tlog.NewMLDSACosigner("maker.example", make([]byte, tlog.MLDSASeedSize))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.SplitN(ed, "+", 3)[1]
	for name, vkey := range map[string]string{
		"nothing":      "",
		"another name": swap(ed, "maker", "Maker"),
		"another id":   swap(ed, id, "00000000"),
		"loose base64": ed[:len(ed)-1],
		"a witness's":  newCosigner(t, "maker.example", began).VerifierKey(),
		"ML-DSA-44":    pq.VerifierKey(),
	} {
		if v, err := NewMakerVerifier(vkey); err == nil {
			t.Errorf("%s: read as %s", name, v.Name())
		}
	}
}

func TestNewManifestRefuses(t *testing.T) {
	bundle := dayBundle(t)
	for _, c := range []struct {
		name, by string
		bundle   []byte
		at       time.Time
	}{
		{"a/b", "me", bundle, began},
		{"", "me", bundle, began},
		{"b", "", bundle, began},
		{"b", "me\n", bundle, began},
		{"b", "me", bundle[:len(bundle)-1], began},
		{"b", "me", nil, began},
		{"b", "me", bundle, time.Time{}},
	} {
		if m, err := NewManifest(c.name, c.bundle, c.by, c.at); err == nil {
			t.Errorf("%q by %q: %+v", c.name, c.by, m)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(appendManifest(f, dayManifest(f)))
	f.Add([]byte(`{"format":"tallystick-bundle-manifest/v1"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := ParseManifest(payload)
		if err != nil {
			return
		}
		again, err := m.Append(nil)
		if err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("read and written again: %v\n%s\n%s", err, payload, again)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	ed := ed25519Maker("maker.example/ed25519")
	whole := enclose(ManifestType, appendManifest(f, dayManifest(f)), ed)
	f.Add(whole)
	f.Add([]byte(`{"payload":"","payloadType":"` + ManifestType + `","signatures":[{"sig":""}]}`))
	f.Add([]byte(`{"signatures":[{"sig":"-_==","keyid":null,"x":[{}]}],"payload":"-w==","payloadType":"` + ManifestType + `","y":1e9}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseEnvelope(raw)
		if err != nil {
			return
		}
		// What this reader takes, a lenient one takes too, and reads the same.
		var doc struct {
			PayloadType, Payload string
			Signatures           []struct{ Sig string }
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatalf("not JSON: %v", err)
		}
		payload, err := decodeEither(doc.Payload)
		if err != nil || doc.PayloadType != ManifestType || !bytes.Equal(payload, e.payload) || len(doc.Signatures) != len(e.sigs) {
			t.Fatalf("read as %q and %q", payload, e.payload)
		}
		for i, s := range doc.Signatures {
			if b, err := decodeEither(s.Sig); err != nil || !bytes.Equal(b, e.sigs[i]) {
				t.Fatalf("signature %d: %q and %q", i, b, e.sigs[i])
			}
		}
	})
}
