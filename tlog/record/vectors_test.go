package record_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// The vectors, as testdata/vectors/README.md describes them. []byte is base64 in JSON.
type (
	entryVector struct {
		Name  string    `json:"name"`
		Entry string    `json:"entry"`
		Leaf  tlog.Hash `json:"leaf"`
	}
	badEntryVector struct {
		Name  string `json:"name"`
		Entry string `json:"entry"`
	}
	logVector struct {
		Entries    []entryVector      `json:"entries"`
		Root       tlog.Hash          `json:"root"`
		Unfinished []unfinishedVector `json:"unfinished"`
	}
	unfinishedVector struct {
		Writer string              `json:"writer"`
		Size   uint64              `json:"size"`
		Found  []unfinishedSession `json:"found"`
	}
	unfinishedSession struct {
		Session ID        `json:"session"`
		Boot    ID        `json:"boot"`
		Index   uint64    `json:"index"`
		Leaf    tlog.Hash `json:"leaf"`
	}
	fieldVector struct {
		Name  string `json:"name"`
		Salt  []byte `json:"salt"`
		Value []byte `json:"value"`
	}
	recordVector struct {
		Name   string        `json:"name"`
		Fields []fieldVector `json:"fields"`
		Leaves []tlog.Hash   `json:"leaves"`
		Root   tlog.Hash     `json:"root"`
		Plain  []byte        `json:"plain"`
	}
	badVector struct {
		Name  string `json:"name"`
		Bytes []byte `json:"bytes"`
	}
	openingVector struct {
		Name  string      `json:"name"`
		Valid bool        `json:"valid"`
		Root  tlog.Hash   `json:"root"`   // of the entry
		Of    int         `json:"fields"` // of the entry
		Index int         `json:"index"`
		Count int         `json:"count"`
		Field fieldVector `json:"field"`
		Proof []tlog.Hash `json:"proof"`
	}
	payloadVector struct {
		Name    string    `json:"name"`
		Valid   bool      `json:"valid"`
		Key     []byte    `json:"key"`
		KeyID   string    `json:"key_id"`
		Kind    Kind      `json:"kind"`
		Session string    `json:"session"` // empty for none
		Root    tlog.Hash `json:"root"`
		Payload []byte    `json:"payload"`
		Sum     tlog.Hash `json:"sum"`
		Plain   []byte    `json:"plain"` // the record
	}
	originalVector struct {
		Name     string `json:"name"`
		Valid    bool   `json:"valid"`
		Identity string `json:"identity"`
		Record   []byte `json:"record"`
		Exact    []byte `json:"exact"`
	}
)

// vectors reads one file of vectors. One that is not there is made, and the test fails so that somebody looks at it:
// vectors are made once.
func vectors[T any](t testing.TB, name string, make func() T) T {
	t.Helper()
	path := filepath.Join("testdata", "vectors", name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && make != nil {
		b := asJSON(t, make())
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was not there and has been made; look at it, and run the test again", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

// same says whether a file of vectors is what would be made of the examples today.
func same[T any](t *testing.T, name string, make func() T) T {
	t.Helper()
	v := vectors(t, name, make)
	if got, want := asJSON(t, make()), asJSON(t, v); !bytes.Equal(got, want) {
		for i, line := range bytes.Split(want, []byte("\n")) {
			if g := bytes.Split(got, []byte("\n")); i >= len(g) || !bytes.Equal(g[i], line) {
				t.Fatalf("%s, line %d: the format has changed\nit was %s\nand now %s", name, i+1, line, append(g, nil)[min(i, len(g))])
			}
		}
		t.Fatalf("%s: the format has changed", name)
	}
	return v
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func entryVectors(t testing.TB, examples []example) []entryVector {
	t.Helper()
	var vs []entryVector
	for _, x := range examples {
		b, err := x.Entry.Append(nil)
		if err != nil {
			t.Fatalf("%s: %v", x.Name, err)
		}
		vs = append(vs, entryVector{x.Name, string(b), tlog.HashLeaf(b)})
	}
	return vs
}

func checkEntries(t *testing.T, vs []entryVector) {
	t.Helper()
	for _, v := range vs {
		e, err := ParseEntry([]byte(v.Entry))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if b, err := e.Append(nil); err != nil || string(b) != v.Entry {
			t.Errorf("%s: written again as %s, %v", v.Name, b, err)
		}
		if _, err := readEntry([]byte(v.Entry)); err != nil {
			t.Errorf("%s: the second reading: %v", v.Name, err)
		}
		if !bytes.Equal(leafHash([]byte(v.Entry)), v.Leaf[:]) {
			t.Errorf("%s: the second reading has another leaf", v.Name)
		}
	}
}

func TestVectorsEntries(t *testing.T) {
	checkEntries(t, same(t, "entries.json", func() []entryVector { return entryVectors(t, exampleEntries()) }))
}

func TestVectorsLog(t *testing.T) {
	v := same(t, "log.json", func() logVector { return makeLog(t) })
	checkEntries(t, v.Entries)
	l := newReading()
	var leaves [][]byte
	at := 0
	for size := range uint64(len(v.Entries) + 1) {
		for _, writer := range []string{"gw-1", "gw-2.eu", "desk"} {
			u := v.Unfinished[at]
			if at++; u.Writer != writer || u.Size != size {
				t.Fatalf("unfinished[%d] is of %s at %d", at-1, u.Writer, u.Size)
			}
			if len(l.open[writer]) != len(u.Found) {
				t.Errorf("at %d %s has %d open; the second reading has %d", size, writer, len(u.Found), len(l.open[writer]))
			}
			for _, f := range u.Found {
				if i, ok := l.open[writer][f.Session.String()]; !ok || uint64(i) != f.Index || l.newst[f.Session.String()] != f.Leaf.String() {
					t.Errorf("at %d %s has %v open, which the second reading has not", size, writer, f)
				}
			}
		}
		if size == uint64(len(v.Entries)) {
			break
		}
		if err := l.next(int64(size), []byte(v.Entries[size].Entry)); err != nil {
			t.Errorf("entry %d, %s: %v", size, v.Entries[size].Name, err)
		}
		leaves = append(leaves, v.Entries[size].Leaf[:])
	}
	if !bytes.Equal(treeRoot(leaves), v.Root[:]) {
		t.Error("the second reading has another root")
	}
}

func makeLog(t *testing.T) logVector {
	var v logVector
	v.Entries = entryVectors(t, exampleLog(t))
	var leaves []tlog.Hash
	var r bundles
	for size := range uint64(len(v.Entries) + 1) {
		for _, writer := range []string{"gw-1", "gw-2.eu", "desk"} {
			us, err := FindUnfinished(t.Context(), r, writer, size)
			if err != nil {
				t.Fatal(err)
			}
			u := unfinishedVector{Writer: writer, Size: size, Found: []unfinishedSession{}}
			for _, s := range us {
				u.Found = append(u.Found, unfinishedSession{s.Session, s.Boot, s.Index, s.Leaf})
			}
			v.Unfinished = append(v.Unfinished, u)
		}
		if size < uint64(len(v.Entries)) {
			r = append(r, []byte(v.Entries[size].Entry))
			leaves = append(leaves, v.Entries[size].Leaf)
		}
	}
	v.Root = RootOf(leaves)
	return v
}

func TestVectorsBadEntries(t *testing.T) {
	for _, v := range same(t, "entries-bad.json", func() []badEntryVector { return badEntries(t) }) {
		if _, err := ParseEntry([]byte(v.Entry)); err == nil {
			t.Errorf("%s: is read: %s", v.Name, v.Entry)
		} else if !strings.HasPrefix(err.Error(), "record: ") || len(err.Error()) > 300 {
			t.Errorf("%s: %v", v.Name, err)
		}
		if _, err := readEntry([]byte(v.Entry)); err == nil {
			t.Errorf("%s: the second reading reads it: %s", v.Name, v.Entry)
		}
	}
}

func vectorOf(f Field) fieldVector { return fieldVector{f.Name, f.Salt[:], f.Value} }

func (v fieldVector) field() Field {
	f := Field{Name: v.Name, Value: v.Value}
	copy(f.Salt[:], v.Salt)
	return f
}

func (v fieldVector) other() field { return field{v.Name, string(v.Salt), string(v.Value)} }

func recordName(r Record) string {
	return []string{"", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}[len(r)]
}

func TestVectorsRecords(t *testing.T) {
	vs := same(t, "records.json", func() (vs []recordVector) {
		for _, r := range exampleRecords() {
			v := recordVector{Name: recordName(r), Leaves: r.Hashes(), Root: r.Root()}
			for _, f := range r {
				v.Fields = append(v.Fields, vectorOf(f))
			}
			var err error
			if v.Plain, err = r.Append(nil); err != nil {
				t.Fatal(err)
			}
			vs = append(vs, v)
		}
		return vs
	})
	for _, v := range vs {
		r, err := ParseRecord(v.Plain)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if b, err := r.Append(nil); err != nil || !bytes.Equal(b, v.Plain) {
			t.Errorf("%s: written again as other bytes, %v", v.Name, err)
		}
		if r.Root() != v.Root {
			t.Errorf("%s: another root", v.Name)
		}
		fields, err := readPlain(v.Plain)
		if err != nil || len(fields) != len(v.Fields) {
			t.Errorf("%s: the second reading: %v", v.Name, err)
			continue
		}
		var leaves [][]byte
		for i, f := range fields {
			if f != v.Fields[i].other() {
				t.Errorf("%s: the second reading of field %d: %v", v.Name, i, f)
			}
			if !bytes.Equal(f.leaf(), v.Leaves[i][:]) {
				t.Errorf("%s: the second reading has another leaf %d", v.Name, i)
			}
			leaves = append(leaves, f.leaf())
		}
		if !bytes.Equal(treeRoot(leaves), v.Root[:]) {
			t.Errorf("%s: the second reading has another root", v.Name)
		}
	}
}

func TestVectorsBadRecords(t *testing.T) {
	for _, v := range same(t, "records-bad.json", func() []badVector { return badRecords(t) }) {
		if _, err := ParseRecord(v.Bytes); err == nil {
			t.Errorf("%s: is read", v.Name)
		}
		if _, err := readPlain(v.Bytes); err == nil {
			t.Errorf("%s: the second reading reads it", v.Name)
		}
	}
}

func TestVectorsOpenings(t *testing.T) {
	for _, v := range same(t, "openings.json", func() []openingVector { return exampleOpenings(t) }) {
		o := Opening{Index: v.Index, Count: v.Count, Field: v.Field.field(), Proof: v.Proof}
		if err := o.Verify(v.Root, v.Of); (err == nil) != v.Valid {
			t.Errorf("%s: %v", v.Name, err)
		}
		var proof [][]byte
		for i := range v.Proof {
			proof = append(proof, v.Proof[i][:])
		}
		if err := checkOpening(v.Field.other(), v.Index, v.Count, proof, v.Root[:], v.Of); (err == nil) != v.Valid {
			t.Errorf("%s: the second reading: %v", v.Name, err)
		}
	}
}

// The payloads are kept as they were made: another compressor makes other bytes of the same record, all of them good.
func TestVectorsPayloads(t *testing.T) {
	c := newCoder(t)
	for _, v := range vectors(t, "payloads.json", func() []payloadVector { return examplePayloads(t) }) {
		var session ID
		if v.Session != "" {
			session, _ = ParseID(v.Session)
		}
		r, err := c.Open(v.Payload, v.Key, Binding{Kind: v.Kind, Session: session, Root: v.Root})
		if (err == nil) != v.Valid {
			t.Errorf("%s: %v", v.Name, err)
		}
		plain, err := openPayload(v.Payload, v.Key, string(v.Kind), v.Session, v.Root[:])
		if (err == nil) != v.Valid {
			t.Errorf("%s: the second reading: %v", v.Name, err)
		}
		if !v.Valid {
			continue
		}
		if b, err := r.Append(nil); err != nil || !bytes.Equal(b, v.Plain) || !bytes.Equal(plain, v.Plain) {
			t.Errorf("%s: another record, %v", v.Name, err)
		}
		if id, err := KeyOf(v.Payload); err != nil || id != v.KeyID {
			t.Errorf("%s: the key %q, %v", v.Name, id, err)
		}
		if !bytes.Equal(sha(v.Payload), v.Sum[:]) || Sum(v.Payload) != v.Sum {
			t.Errorf("%s: another digest", v.Name)
		}
	}
}

// Every example that FORMAT.md shows is a vector: a comment in front of the block names it.
func TestFormatExamples(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, v := range vectors[logVector](t, "log.json", nil).Entries {
		want["log.json: "+v.Name] = v.Entry
		want["log.json: "+v.Name+", leaf"] = v.Leaf.String()
	}
	for _, v := range vectors[[]recordVector](t, "records.json", nil) {
		want["records.json: "+v.Name+", plain"] = hexLines(v.Plain)
		var leaves []string
		for _, l := range v.Leaves {
			leaves = append(leaves, l.String())
		}
		want["records.json: "+v.Name+", leaves"] = strings.Join(leaves, "\n")
		want["records.json: "+v.Name+", root"] = v.Root.String()
	}
	for _, v := range vectors[[]openingVector](t, "openings.json", nil) {
		var proof []string
		for _, h := range v.Proof {
			proof = append(proof, h.String())
		}
		want["openings.json: "+v.Name+", proof"] = strings.Join(proof, "\n")
	}
	for _, v := range vectors[[]payloadVector](t, "payloads.json", nil) {
		want["payloads.json: "+v.Name+", payload"] = hexLines(v.Payload)
		want["payloads.json: "+v.Name+", key"] = hexLines(v.Key)
	}
	for _, v := range vectors[[]promiseVector](t, "promises.json", nil) {
		want["promises.json: "+v.Name+", key"] = v.Key.String()
		want["promises.json: "+v.Name+", text"] = strings.TrimSuffix(v.Text, "\n")
		want["promises.json: "+v.Name+", signature"] = hexLines(v.Signature)
	}
	for _, v := range vectors[[]originalVector](t, "originals.json", nil) {
		want["originals.json: "+v.Name+", identity"] = strings.TrimSuffix(v.Identity, "\n")
		want["originals.json: "+v.Name+", record"] = hexLines(v.Record)
	}
	blocks := regexp.MustCompile("(?s)<!-- (.*?) -->\n```\n(.*?)\n```").FindAllSubmatch(doc, -1)
	if len(blocks) < 10 {
		t.Errorf("FORMAT.md shows %d examples", len(blocks))
	}
	for _, b := range blocks {
		w, ok := want[string(b[1])]
		if !ok {
			t.Errorf("FORMAT.md shows %q, which is no vector", b[1])
		} else if string(b[2]) != w {
			t.Errorf("FORMAT.md shows %q as\n%s\nand it is\n%s", b[1], b[2], w)
		}
	}
	// And the prose's grammar is the one that the second reading has.
	re := regexp.MustCompile("(?s)```regexp\n(.*?)```").FindSubmatch(doc)
	if re == nil {
		t.Fatal("FORMAT.md has no regular expression of an entry")
	}
	if got := strings.ReplaceAll(string(re[1]), "\n", ""); got != plainRegexp(entryForm.String()) {
		t.Errorf("FORMAT.md has another regular expression than the second reading:\n%s\n%s", got, plainRegexp(entryForm.String()))
	}
}

// plainRegexp leaves out the names of groups.
func plainRegexp(s string) string {
	s = regexp.MustCompile(`\(\?P<[a-z0-9]+>`).ReplaceAllString(s, "(")
	s = strings.ReplaceAll(s, "(?:", "(")
	return strings.TrimSuffix(strings.TrimPrefix(s, `\A`), `\z`)
}

func hexLines(b []byte) string {
	var lines []string
	for len(b) > 0 {
		n := min(len(b), 32)
		lines = append(lines, hexString(b[:n]))
		b = b[n:]
	}
	return strings.Join(lines, "\n")
}

func hexString(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}
