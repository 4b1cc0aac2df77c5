package original

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/tallystick/tallystick/tlog/record"
)

// newIdentity makes an identity, and returns the file and its recipient.
func newIdentity(t testing.TB, hybrid bool) (file, recipient string) {
	t.Helper()
	if hybrid {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		return "# a comment\n" + id.String() + "\n", id.Recipient().String()
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return "# a comment\n" + id.String() + "\n", id.Recipient().String()
}

func identity(t testing.TB, file string) Identity {
	t.Helper()
	id, err := ParseIdentity(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// What is sealed is in the record, is not to be seen there, and each recipient opens it alone, to the byte; nobody else does.
func TestAdd(t *testing.T) {
	_, stranger := newIdentity(t, false)
	for _, hybrid := range []bool{false, true} {
		file1, to1 := newIdentity(t, hybrid)
		file2, to2 := newIdentity(t, hybrid)
		s, err := NewSealer([]string{to1, to2})
		if err != nil {
			t.Fatal(err)
		}
		for _, exact := range []string{"", "4111 1111 1111 1111", strings.Repeat("4111 1111 1111 1111 ", 10000), "\x00\xff\x1b"} {
			var r record.Record
			r.Add(record.FieldBody, []byte("[CARD]"))
			if err := s.Add(&r, record.FieldBody, []byte(exact)); err != nil {
				t.Fatal(err)
			}
			sealed, ok := r.Get("original.body")
			if !ok || len(r) != 2 || len(exact) > 16 && bytes.Contains(sealed, []byte(exact[:16])) {
				t.Fatalf("the record has %d fields, and %d bytes of an original", len(r), len(sealed))
			}
			if over := len(sealed) - len(exact) - len(exact)/(64<<10)*16; over > 500 && !hybrid || over > 5000 {
				t.Errorf("an original of %d bytes costs %d more", len(exact), over)
			}
			plain, err := r.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if r, err = record.ParseRecord(plain); err != nil {
				t.Fatal(err)
			}
			sealed, _ = r.Get("original.body")
			for _, file := range []string{file1, file2, file1 + file2} {
				got, err := identity(t, file).Open(sealed)
				if err != nil || string(got) != exact {
					t.Errorf("%d bytes, not %d: %v", len(got), len(exact), err)
				}
			}
			other, _ := newIdentity(t, hybrid)
			if got, err := identity(t, other).Open(sealed); !errors.Is(err, ErrNotFor) || got != nil {
				t.Errorf("another identity: %d bytes, %v", len(got), err)
			}
			if got, err := (Identity{}).Open(sealed); !errors.Is(err, ErrNotFor) || got != nil {
				t.Errorf("no identity: %d bytes, %v", len(got), err)
			}
		}
		// What is no field, or has no original; what is recorded as it is; and no sealer at all.
		r := record.Record{{Name: record.FieldBody, Value: []byte("as it is")}, {Name: "original.model"}, {Name: strings.Repeat("a", record.MaxName)}}
		for _, name := range []string{"Body", "", "original.model", "model", strings.Repeat("a", record.MaxName)} {
			if err := s.Add(&r, name, []byte("x")); err == nil || len(r) != 3 {
				t.Errorf("%q has an original", name)
			}
		}
		if err := s.Add(&r, record.FieldBody, []byte("as it is")); err != nil || len(r) != 3 {
			t.Errorf("nothing was masked: %v, %d fields", err, len(r))
		}
		if err := (*Sealer)(nil).Add(&r, record.FieldBody, []byte("x")); err != nil || len(r) != 3 {
			t.Errorf("nobody to seal to: %v, %d fields", err, len(r))
		}
		if hybrid {
			if _, err := NewSealer([]string{to1, stranger}); err == nil {
				t.Error("one recipient holds against a quantum computer, and the other does not")
			}
		}
	}
}

// A list of recipients that is none is refused, and not repeated: it may be a secret.
func TestNewSealerRefuses(t *testing.T) {
	file, to := newIdentity(t, false)
	secret := strings.TrimSpace(strings.TrimPrefix(file, "# a comment\n"))
	many := make([]string, MaxRecipients+1)
	for i := range many {
		many[i] = to
	}
	for name, list := range map[string][]string{
		"none": nil, "empty": {""}, "an identity": {secret}, "both": {to, secret}, "changed": {to[:10] + string(to[10]^1) + to[11:]}, "ssh": {"ssh-ed25519 AAAA"}, "a plugin": {"age1yubikey1abc"},
		"two in one": {to + "," + to}, "with a space": {" " + to}, "too many": many, "no hybrid": {"age1pq1" + to[4:]},
	} {
		if _, err := NewSealer(list); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "comments": "# only\n", "a recipient": to + "\n", "half": secret[:40] + "\n", "two in a line": secret + " " + secret, "too long": secret + "\n" + strings.Repeat("#\n", maxIdentities/2), "too many": strings.Repeat(secret+"\n", MaxRecipients+1),
	} {
		if _, err := ParseIdentity(strings.NewReader(text)); err == nil || strings.Contains(err.Error(), secret[:30]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of a changed original nothing is opened, whichever bit it is; nor of one that was cut anywhere.
func TestOpenIsWhole(t *testing.T) {
	file, to := newIdentity(t, false)
	s, err := NewSealer([]string{to})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.seal([]byte("4111 1111 1111 1111"))
	if err != nil {
		t.Fatal(err)
	}
	id := identity(t, file)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1 << (i % 8)
		if got, err := id.Open(bad); err == nil || got != nil {
			t.Errorf("byte %d changed: %q", i, got)
		}
		if got, err := id.Open(sealed[:i]); err == nil || got != nil {
			t.Errorf("cut at %d: %q", i, got)
		}
	}
	if got, err := id.Open(append(bytes.Clone(sealed), 0)); err == nil || got != nil {
		t.Errorf("a byte behind: %q", got)
	}
}

// A vector is an original, as tlog/record/testdata/vectors/README.md describes it.
type vector struct {
	Name     string `json:"name"`
	Valid    bool   `json:"valid"`
	Identity string `json:"identity"`
	Record   []byte `json:"record"` // plain bytes of a record with a field original.body
	Exact    []byte `json:"exact"`  // what that holds, if it is valid
}

const vectorFile = "../testdata/vectors/originals.json"

// The vectors open for ever. They are not made again: what is sealed is different every time.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile(vectorFile)
	if errors.Is(err, fs.ErrNotExist) {
		writeVectors(t)
		t.Fatalf("%s was missing and has been written; look at it", vectorFile)
	}
	var vs []vector
	if err == nil {
		err = json.Unmarshal(raw, &vs)
	}
	if err != nil || len(vs) < 10 {
		t.Fatalf("%d vectors, %v", len(vs), err)
	}
	for _, v := range vs {
		r, err := record.ParseRecord(v.Record)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		sealed, _ := r.Get(record.FieldOriginal + record.FieldBody)
		got, err := identity(t, v.Identity).Open(sealed)
		if (err == nil) != v.Valid || !bytes.Equal(got, v.Exact) {
			t.Errorf("%s: %q, %v", v.Name, got, err)
		}
	}
}

func writeVectors(t *testing.T) {
	exact := []byte(`{"model":"m","messages":[{"role":"user","content":"my card is 4111 1111 1111 1111"}]}`)
	file, to := newIdentity(t, false)
	file2, to2 := newIdentity(t, false)
	pq, pqTo := newIdentity(t, true)
	var vs []vector
	add := func(name string, valid bool, identity string, sealed, exact []byte) {
		r := record.Record{
			{Name: record.FieldBody, Salt: [16]byte{1}, Value: []byte(`{"model":"m","messages":[{"role":"user","content":"my card is [CARD]"}]}`)},
			{Name: record.FieldOriginal + record.FieldBody, Salt: [16]byte{2}, Value: sealed},
		}
		plain, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, vector{name, valid, strings.TrimPrefix(identity, "# a comment\n"), plain, exact})
	}
	seal := func(exact []byte, to ...string) []byte {
		s, err := NewSealer(to)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.seal(exact)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := seal(exact, to)
	add("one recipient", true, file, one, exact)
	add("the second of two recipients", true, file2, seal(exact, to, to2), exact)
	add("two identities", true, file2+strings.TrimPrefix(file, "# a comment\n"), one, exact)
	add("nothing", true, file, seal(nil, to), nil)
	add("no text", true, file, seal([]byte{0, 0xff, 0x1b}, to), []byte{0, 0xff, 0x1b})
	add("a hybrid recipient", true, pq, seal(exact, pqTo), exact)
	add("another identity", false, file2, one, nil)
	add("a hybrid identity for another", false, pq, one, nil)
	add("cut by a byte", false, file, one[:len(one)-1], nil)
	add("cut in its head", false, file, one[:50], nil)
	add("no bytes", false, file, nil, nil)
	add("a byte more", false, file, append(bytes.Clone(one), 0), nil)
	bad := bytes.Clone(one)
	bad[len(bad)-20] ^= 1
	add("a bit of the content changed", false, file, bad, nil)
	bad = bytes.Clone(one)
	bad[60] ^= 1
	add("a bit of the head changed", false, file, bad, nil)
	add("the exact bytes, not sealed", false, file, exact, nil)
	var b bytes.Buffer
	w := armor.NewWriter(&b)
	w.Write(one)
	w.Close()
	add("armored", false, file, b.Bytes(), nil)
	b.Reset()
	scrypt, err := age.NewScryptRecipient("password")
	if err != nil {
		t.Fatal(err)
	}
	scrypt.SetWorkFactor(4)
	aw, err := age.Encrypt(&b, scrypt)
	if err != nil {
		t.Fatal(err)
	}
	aw.Write(exact)
	aw.Close()
	add("for a passphrase", false, file, b.Bytes(), nil)
	out, err := json.MarshalIndent(vs, "", "\t")
	if err == nil {
		err = os.WriteFile(filepath.FromSlash(vectorFile), append(out, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever bytes stand in the place of an original, nothing opens but what was sealed.
func FuzzOpen(f *testing.F) {
	file, to := newIdentity(f, false)
	s, err := NewSealer([]string{to})
	if err != nil {
		f.Fatal(err)
	}
	exact := []byte("4111 1111 1111 1111")
	sealed, err := s.seal(exact)
	if err != nil {
		f.Fatal(err)
	}
	id := identity(f, file)
	f.Add(sealed, file)
	f.Add(sealed[:100], to)
	f.Add(sealed[:0], to+"\n"+to)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 a\n"), "AGE-SECRET-KEY-1")
	f.Fuzz(func(t *testing.T, b []byte, identities string) {
		got, err := id.Open(b)
		if err == nil && bytes.Equal(b, sealed) != bytes.Equal(got, exact) {
			t.Fatalf("%q opens as %q", b, got)
		}
		if err != nil && got != nil {
			t.Fatal("an error, and bytes")
		}
		ids, err := ParseIdentity(io.LimitReader(strings.NewReader(identities), 1<<20))
		if err == nil {
			ids.Open(sealed)
		}
		if s, err := NewSealer(strings.Split(identities, "\n")); (s == nil) != (err != nil) {
			t.Fatalf("a sealer, %t, and %v", s != nil, err)
		}
	})
}
