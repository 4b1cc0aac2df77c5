package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

var write = flag.Bool("write", false, "write the vectors in testdata again; for a new format only")

// vector compares with a file that is kept for ever.
func vector(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *write {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: what is written now is not what was written when the format was made", path)
	}
}

// The vectors are what the first version wrote, byte for byte: what an auditor was handed once can be read for ever.
func TestVectors(t *testing.T) {
	d := newDay(t)
	b := d.bundle(t, d.first, d.second, d.third, d.erased)
	b.Sessions[0].Entries[0].Fields = Fields(requestRecord(d.first), func(n string) bool { return n != record.FieldBody })
	b.Sessions[1].Entries[0].Fields = nil
	vector(t, "day.bundle", appendBundle(t, b))
	vector(t, "day.policy", policy(t, "all", d.witnesses...).Policy.Text())

	c, err := tlog.UnverifiedCheckpoint(d.signed)
	if err != nil {
		t.Fatal(err)
	}
	e := b.Sessions[0].Entries[1]
	p := tlog.ProofFile{Extra: e.Bytes, Index: e.Index, Proof: e.Proof, Checkpoint: d.signed}
	raw, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	vector(t, "day.tlog-proof", raw)
	if c.Size != 12 {
		t.Errorf("the day has %d entries", c.Size)
	}
}

func TestBundleIsJSON(t *testing.T) {
	raw, err := os.ReadFile("testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := bytes.Cut(raw, []byte("\n"))
	var doc struct {
		Format, Origin, Checkpoint string
		Sessions                   []struct {
			ID      string
			Entries []struct {
				Index  uint64
				Entry  struct{ Kind, Session string }
				Proof  []string
				Fields []struct{ Name, Salt, Text, Base64, Withheld string }
			}
		}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	b, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if doc.Format != Format || doc.Origin != b.Origin || doc.Checkpoint != string(b.Checkpoint) || len(doc.Sessions) != 4 {
		t.Errorf("read as JSON: %+v", doc)
	}
	shown, withheld := 0, 0
	for i, s := range doc.Sessions {
		for k, e := range s.Entries {
			if e.Entry.Session != s.ID || e.Index != b.Sessions[i].Entries[k].Index || len(e.Fields) != len(b.Sessions[i].Entries[k].Fields) {
				t.Errorf("entry %d read as JSON: %+v", e.Index, e)
			}
			for n, f := range e.Fields {
				want := b.Sessions[i].Entries[k].Fields[n]
				switch {
				case f.Withheld != "":
					withheld++
				case f.Text != string(want.Shown.Value) && f.Base64 == "":
					t.Errorf("field %s of entry %d: %q", f.Name, e.Index, f.Text)
				default:
					shown++
				}
			}
		}
	}
	if shown != 23 || withheld != 1 {
		t.Errorf("%d fields shown, %d withheld", shown, withheld)
	}
}

func TestBundleText(t *testing.T) {
	for _, c := range []struct {
		value, want string
	}{
		{"", `"text":""`},
		{"a\"b\\c\nd\re\tf", `"text":"a\"b\\c\nd\re\tf"`},
		{"<&> é 漢 \u2028 \ufeff \u00a0", "\"text\":\"<&> é 漢 \u2028 \ufeff \u00a0\""},
		{"\x00", `"base64":"AA=="`},
		{"a\x1b[31m", `"base64":"YRtbMzFt"`},
		{"\x7f", `"base64":"fw=="`},
		{"\u0085", `"base64":"woU="`},
		{"\u009f", `"base64":"wp8="`},
		{"\xff", `"base64":"/w=="`},
		{"\xc2", `"base64":"wg=="`},
		{"\xed\xa0\x80", `"base64":"7aCA"`}, // half of a surrogate pair
	} {
		f := Field{Shown: &record.Field{Name: "x", Value: []byte(c.value)}}
		got, err := f.append(nil)
		if err != nil || !strings.Contains(string(got), c.want) {
			t.Errorf("%q: %s, %v; want %s", c.value, got, err, c.want)
		}
		s := &scanner{b: got}
		if back := s.field(); s.err != nil || string(back.Shown.Value) != c.value {
			t.Errorf("%q read back: %v", c.value, s.err)
		}
	}
}

// What no writer writes, Append does not write and Parse does not read, though JSON would have it mean the same.
func TestBundleHasOneForm(t *testing.T) {
	good, err := os.ReadFile("testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(string) string{
		"another order":     func(s string) string { return swap(s, `"index":1,"entry":`, `"entry":1,"index":`) },
		"a space":           func(s string) string { return swap(s, `"sessions":[`, `"sessions": [`) },
		"no line break":     func(s string) string { return swap(s, "\n{\"id\"", "{\"id\"") },
		"an unknown member": func(s string) string { return swap(s, `{"index":1,`, `{"note":"x","index":1,`) },
		"a member twice":    func(s string) string { return swap(s, `{"index":1,`, `{"index":2,"index":1,`) },
		"another case":      func(s string) string { return swap(s, `"index":1,`, `"Index":1,`) },
		"a leading zero":    func(s string) string { return swap(s, `"index":1,`, `"index":01,`) },
		"a fraction":        func(s string) string { return swap(s, `"index":1,`, `"index":1.0,`) },
		"an exponent":       func(s string) string { return swap(s, `"index":1,`, `"index":1e0,`) },
		"a negative index":  func(s string) string { return swap(s, `"index":1,`, `"index":-1,`) },
		"an index of 2^63":  func(s string) string { return swap(s, `"index":1,`, `"index":9223372036854775808,`) },
		"a long escape":     func(s string) string { return swap(s, `"text":"message_stop"`, `"text":"\u006dessage_stop"`) },
		"an escaped slash":  func(s string) string { return swap(s, `"origin":"log.example/`, `"origin":"log.example\/`) },
		"text in base64":    func(s string) string { return swap(s, `"text":"200"`, `"base64":"MjAw"`) },
		"base64 with loose bit": func(s string) string {
			return swap(s, `"salt":"c3RhdHVzLi4uLi4uLi4uLg=="`, `"salt":"c3RhdHVzLi4uLi4uLi4uLh=="`)
		},
		"base64 unpadded": func(s string) string {
			return swap(s, `"salt":"c3RhdHVzLi4uLi4uLi4uLg=="`, `"salt":"c3RhdHVzLi4uLi4uLi4uLg"`)
		},
		"a field with both":     func(s string) string { return swap(s, `"text":"200"}`, `"text":"200","withheld":""}`) },
		"an upper-case id":      func(s string) string { return swap(s, `{"id":"019a`, `{"id":"019A`) },
		"an upper-case name":    func(s string) string { return swap(s, `"name":"caller"`, `"name":"Caller"`) },
		"a raw tab":             func(s string) string { return swap(s, `"text":"200"`, "\"text\":\"2\t0\"") },
		"a raw line break":      func(s string) string { return swap(s, `"text":"200"`, "\"text\":\"2\n0\"") },
		"a control in text":     func(s string) string { return swap(s, `"text":"200"`, "\"text\":\"2\x7f0\"") },
		"text that is no UTF-8": func(s string) string { return swap(s, `"text":"200"`, "\"text\":\"2\xff0\"") },
		"base64 on two lines":   func(s string) string { return swap(s, `"salt":"c3Rhd`, "\"salt\":\"c3\nRhd") },
		"a value on two lines":  func(s string) string { return swap(s, `"base64":"H4sI`, "\"base64\":\"H4sI\n") },
		"a hash on two lines":   func(s string) string { return swap(s, `"proof":["`, "\"proof\":[\"\n") },
		"a proof of 64 hashes": func(s string) string {
			h := `"` + tlog.Hash{}.String() + `"`
			return swap(s, `"proof":[`, `"proof":[`+strings.Repeat(h+",", 60))
		},
		"65 fields": func(s string) string {
			return swap(s, `"fields":[`, `"fields":[`+strings.Repeat("\n"+`{"withheld":"`+tlog.Hash{}.String()+`"},`, 62))
		},
		"an entry with a comma":   func(s string) string { return swap(s, `"entry":{`, `"entry":{,`) },
		"an entry of 5,000 bytes": func(s string) string { return swap(s, `"entry":{`, `"entry":{"a":"`+strings.Repeat("a", 5000)+`",`) },
		"an entry that is a list": func(s string) string { return swap(s, `"entry":{`, `"entry":[],"was":{`) },
		"a line at the end":       func(s string) string { return s + "\n" },
		"no line at the end":      func(s string) string { return strings.TrimSuffix(s, "\n") },
		"a second document":       func(s string) string { return s + "{}\n" },
		"an array":                func(s string) string { return "[" + s + "]" },
		"no sessions":             func(s string) string { return s[:strings.Index(s, "[\n")] + "[\n]}\n" },
		"another format": func(s string) string {
			return swap(s, `"format":"tallystick-bundle/v1"`, `"format":"tallystick-bundle/v2"`)
		},
		"CRLF":              func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"a byte order mark": func(s string) string { return "\ufeff" + s },
	} {
		t.Run(name, func(t *testing.T) {
			bad := []byte(string(good[:bundleHead]) + edit(string(good[bundleHead:])))
			if bytes.Equal(good, bad) {
				t.Fatal("the edit changes nothing")
			}
			seal(bad)
			if b, err := Parse(bad); err == nil {
				t.Errorf("read: %+v", b)
			}
			r, err := Check(bad, Trust{})
			if err == nil && !has(r, BundleCanonical) || err != nil && !has(r, BundleReadable) {
				t.Errorf("false: %v, error: %v", falseClaims(r), err)
			}
		})
	}
}

func swap(s, old, new string) string { return strings.Replace(s, old, new, 1) }

func has(r Report, c Claim) bool {
	for _, f := range falseClaims(r) {
		if f == c {
			return true
		}
	}
	return false
}

func TestBundleHead(t *testing.T) {
	good, err := os.ReadFile("testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	head, body := string(good[:bundleHead]), string(good[bundleHead:])
	for _, c := range []struct {
		name, raw, says string
	}{
		{"nothing", "", "does not begin"},
		{"something else", "PK\x03\x04", "does not begin"},
		{"the body alone", body, "does not begin"},
		{"the next version", strings.Replace(head, "v1", "v2", 1) + body, "version"},
		{"a byte order mark", "\ufeff" + head + body, "byte order mark"},
		{"CRLF", head[:len(head)-1] + "\r\n" + body, "first line"},
		{"half a line", head[:40], "first line"},
		{"a long digest", head[:len(head)-1] + "0\n" + body, "first line"},
		{"spaces", " " + head + body, "does not begin"},
		{"too much", string(make([]byte, 1)), "does not begin"},
	} {
		r, err := Check([]byte(c.raw), Trust{})
		var unreadable *Unreadable
		if !errors.As(err, &unreadable) || !strings.Contains(err.Error(), c.says) || !has(r, BundleReadable) {
			t.Errorf("%s: %v, false: %v", c.name, err, falseClaims(r))
		}
		if _, err := Parse([]byte(c.raw)); err == nil {
			t.Errorf("%s: parsed", c.name)
		}
	}
	upper := strings.ToUpper(head[len(bundleMagic):])
	r, err := Check([]byte(bundleMagic+upper+body), Trust{})
	if err != nil || !has(r, BundleIntact) {
		t.Errorf("a digest in capitals: %v, false: %v", err, falseClaims(r))
	}
}

// A bundle over the limit is refused before a byte of it is looked at, and one that would be is not written.
func TestBundleLimits(t *testing.T) {
	huge := make([]byte, MaxBundle+1) // never touched
	if _, err := Check(huge, Trust{}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("over the limit: %v", err)
	}
	one := `{"index":0,"entry":{},"proof":[],"fields":[]}`
	head := `{"format":"tallystick-bundle/v1","origin":"o","checkpoint":"","sessions":[` + "\n" + `{"id":"01980000-0000-7000-8000-000000000001","entries":[` + "\n"
	for n, want := range map[int]string{MaxEntries: "", MaxEntries + 1: "entries"} {
		_, err := parseBody([]byte(head + strings.Repeat(one+",\n", n-1) + one + "\n]}\n]}\n"))
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d entries: %v", n, err)
		}
	}
	d := newDay(t)
	for name, edit := range map[string]func(b *Bundle){
		"no session":         func(b *Bundle) { b.Sessions = nil },
		"no entry":           func(b *Bundle) { b.Sessions[0].Entries = nil },
		"no id":              func(b *Bundle) { b.Sessions[0].ID = record.ID{} },
		"a control":          func(b *Bundle) { b.Origin = "a\x1bb" },
		"not UTF-8":          func(b *Bundle) { b.Checkpoint = []byte{0xff} },
		"an index over 2^63": func(b *Bundle) { b.Sessions[0].Entries[0].Index = 1 << 63 },
		"an entry of text":   func(b *Bundle) { b.Sessions[0].Entries[0].Bytes = []byte("text") },
		"two entries in one": func(b *Bundle) { b.Sessions[0].Entries[0].Bytes = []byte(`{},"x":{}`) },
		"space about":        func(b *Bundle) { b.Sessions[0].Entries[0].Bytes = []byte(` {}`) },
		"a long entry": func(b *Bundle) {
			b.Sessions[0].Entries[0].Bytes = []byte(`{"a":"` + strings.Repeat("a", tlog.MaxEntry) + `"}`)
		},
		"a long proof": func(b *Bundle) { b.Sessions[0].Entries[0].Proof = make(tlog.Proof, maxProof+1) },
		"many entries": func(b *Bundle) { b.Sessions[0].Entries = make([]Entry, MaxEntries+1) },
		"many fields":  func(b *Bundle) { b.Sessions[0].Entries[0].Fields = make([]Field, record.MaxFields+1) },
		"both":         func(b *Bundle) { b.Sessions[0].Entries[0].Fields[0].Withheld = tlog.Hash{1} },
		"a bad name":   func(b *Bundle) { b.Sessions[0].Entries[0].Fields[0].Shown = &record.Field{Name: `a"`} },
		"a long value": func(b *Bundle) {
			b.Sessions[0].Entries[0].Fields[0].Shown = &record.Field{Name: "a", Value: make([]byte, record.MaxRecord+1)}
		},
	} {
		b := d.bundle(t, d.first)
		edit(b)
		if _, err := b.Append(nil); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestAppendAppends(t *testing.T) {
	d := newDay(t)
	b := d.bundle(t, d.first)
	raw := appendBundle(t, b)
	after, err := b.Append([]byte("before"))
	if err != nil || string(after) != "before"+string(raw) {
		t.Errorf("appended something else: %v", err)
	}
	back, err := Parse(raw)
	if err != nil || !reflect.DeepEqual(back, b) {
		t.Errorf("read back: %v", err)
	}
}

func FuzzBundle(f *testing.F) {
	for _, name := range []string{"day.bundle", "approvals.bundle"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[bundleHead:])
		f.Add(raw[bundleHead : len(raw)/2])
	}
	f.Add([]byte(`{"format":"tallystick-bundle/v1","origin":"o","checkpoint":"","sessions":[` + "\n" +
		`{"id":"01980000-0000-7000-8000-000000000001","entries":[` + "\n" +
		`{"index":0,"entry":{"a":"}\"{"},"proof":[],"fields":[` + "\n" + `{"name":"a","salt":"AAAAAAAAAAAAAAAAAAAAAA==","base64":"AA=="}` + "\n]}\n]}\n]}\n"))
	text, err := os.ReadFile("testdata/day.policy")
	if err != nil {
		f.Fatal(err)
	}
	p, err := tlog.ParsePolicy(text)
	if err != nil {
		f.Fatal(err)
	}
	want, err := os.ReadFile("testdata/day.bundle")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw := append([]byte(bundleMagic+strings.Repeat("0", 64)+"\n"), body...)
		seal(raw)
		b, err := Parse(raw)
		if err == nil {
			again, err := b.Append(nil)
			if err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("not what was read: %v\n%q\n%q", err, raw, again)
			}
			if !json.Valid(body) {
				t.Fatal("it is no JSON")
			}
		}
		r, cerr := Check(raw, Trust{Policy: p})
		switch {
		case cerr != nil && !has(r, BundleReadable):
			t.Fatalf("unreadable without saying so: %v", cerr)
		case cerr == nil && (err == nil) == has(r, BundleCanonical):
			t.Fatalf("Parse says %v and Check %v", err, falseClaims(r))
		case r.OK() && !sameProofs(raw, want):
			t.Fatalf("believed: %q", raw)
		}
	})
}

// sameProofs says whether all entries of a bundle are entries of another: a bundle may leave out and withhold, and
// nothing else.
func sameProofs(raw, of []byte) bool {
	a, err := Parse(raw)
	if err != nil {
		return false
	}
	b, err := Parse(of)
	if err != nil {
		return false
	}
	known := make(map[string]bool)
	for _, s := range b.Sessions {
		for _, e := range s.Entries {
			known[string(e.Bytes)] = true
		}
	}
	for _, s := range a.Sessions {
		for _, e := range s.Entries {
			if !known[string(e.Bytes)] {
				return false
			}
		}
	}
	return true
}
