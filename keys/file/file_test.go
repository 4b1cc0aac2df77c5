package file

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
)

// The example keys of golang.org/x/mod/sumdb/note.
const (
	peter     = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
	peterSeed = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
	peterVkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
)

const origin = "log.example.com/tally"

func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// A key is created, loaded by another process, and signs what its verifier key accepts.
func TestSigner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	created, err := Create(path, origin)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", st.Mode())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.NewSigner(strings.TrimSuffix(string(content), "\n")); err != nil {
		t.Errorf("note does not take the file's line: %v", err)
	}

	s, err := Load(path, origin)
	if err != nil {
		t.Fatal(err)
	}
	if s.VerifierKey() != created.VerifierKey() || s.Name() != origin || s.Verifier().Name() != origin || s.KeyHash() != s.Verifier().KeyHash() {
		t.Errorf("loaded %v, created %v", s, created)
	}
	signed, err := note.Sign(&note.Note{Text: origin + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, s)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []note.Verifier{v, s.Verifier()} {
		if n, err := note.Open(signed, note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
			t.Errorf("%v", err)
		}
	}

	_, err = Create(path, origin)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("creating it again: %v", err)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(content) {
		t.Errorf("creating it again changed it: %v", err)
	}
	other, err := Create(filepath.Join(t.TempDir(), "log.key"), origin)
	if err != nil || other.VerifierKey() == s.VerifierKey() {
		t.Errorf("two keys are one: %v", err)
	}
}

func TestSignerVector(t *testing.T) {
	for _, end := range []string{"", "\n"} {
		s, err := Load(write(t, peter+end, 0o600), "PeterNeumann")
		if err != nil {
			t.Fatal(err)
		}
		if s.VerifierKey() != peterVkey {
			t.Errorf("verifier key %s, want %s", s.VerifierKey(), peterVkey)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	long := strings.Repeat("x", maxFile)
	for _, c := range []struct {
		name, content, origin, err string
		mode                       os.FileMode
	}{
		{"another log's", peter, origin, `of the log "PeterNeumann", not of "log.example.com/tally"`, 0o600},
		{"group may read", peter, "PeterNeumann", "run chmod 600 FILE", 0o640},
		{"others may read", peter, "PeterNeumann", "run chmod 600 FILE", 0o604},
		{"group may write", peter, "PeterNeumann", "run chmod 600 FILE", 0o620},
		{"all may", peter, "PeterNeumann", "run chmod 600 FILE", 0o666},
		{"empty", "", "PeterNeumann", "is empty", 0o600},
		{"newline", "\n", "PeterNeumann", "is empty", 0o600},
		{"two lines", peter + "\n" + peter + "\n", "PeterNeumann", "more than one line", 0o600},
		{"two newlines", peter + "\n\n", "PeterNeumann", "more than one line", 0o600},
		{"carriage return", peter + "\r\n", "PeterNeumann", "carriage returns", 0o600},
		{"verifier key", peterVkey, "PeterNeumann", "this is a verifier key", 0o600},
		{"space after", peter + " ", "PeterNeumann", "not a log signing key", 0o600},
		{"space before", " " + peter, "PeterNeumann", "not a log signing key", 0o600},
		{"wrong hash", strings.Replace(peter, "c74f20a3", "c74f20a4", 1), "PeterNeumann", "not a log signing key", 0o600},
		{"another name, same hash", strings.Replace(peter, "Peter", "Petra", 1), "PetraNeumann", "not a log signing key", 0o600},
		{"changed seed", strings.Replace(peter, "AYEK", "AYEL", 1), "PeterNeumann", "not a log signing key", 0o600},
		{"cut", peter[:len(peter)-4], "PeterNeumann", "not a log signing key", 0o600},
		{"no name", strings.Replace(peter, "PeterNeumann", "", 1), "PeterNeumann", "not a log signing key", 0o600},
		{"seed only", peterSeed, "PeterNeumann", "not a log signing key", 0o600},
		{"PEM", "-----BEGIN PRIVATE KEY-----", "PeterNeumann", "not a log signing key", 0o600},
		{"prefix", "PRIVATE+KEY+", "PeterNeumann", "not a log signing key", 0o600},
		{"too long", peter + long, "PeterNeumann", "longer than", 0o600},
	} {
		path := write(t, c.content, c.mode)
		_, err := Load(path, c.origin)
		want := strings.ReplaceAll(c.err, "FILE", path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %q", c.name, err, want)
			continue
		}
		wantNoTrace(t, err.Error())
	}
}

// What is not a file in the usual sense is refused, without waiting for it.
func TestLoadRefusesPlaces(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for path, want := range map[string]string{
		fifo: "not a regular file", dir: "not a regular file", "/dev/null": "not a regular file", "": "no path given", missing: missing,
	} {
		if _, err := Load(path, origin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%q): %v, want %q", path, err, want)
		}
		if _, err := LoadKEK(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("LoadKEK(%q): %v, want %q", path, err, want)
		}
	}
	_, err := Load(missing, origin)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "PRIVATE+KEY+name+hash+base64") || !strings.Contains(err.Error(), origin) {
		t.Errorf("a missing key: %v", err)
	}
	if _, err := LoadKEK(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "32 bytes") {
		t.Errorf("a missing key-encryption key: %v", err)
	}
	for _, path := range []string{"", filepath.Join(missing, "key"), dir} {
		if _, err := Create(path, origin); err == nil {
			t.Errorf("Create(%q): no error", path)
		}
		if _, err := CreateKEK(path); err == nil {
			t.Errorf("CreateKEK(%q): no error", path)
		}
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made at %s", missing)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"a", origin, "example.com/log/2026", "schlüssel.example", strings.Repeat("x", 255)} {
		path := filepath.Join(t.TempDir(), "key")
		if _, err := Create(path, name); err != nil {
			t.Errorf("Create %q: %v", name, err)
		} else if _, err := Load(path, name); err != nil {
			t.Errorf("Load %q: %v", name, err)
		}
	}
	for _, name := range []string{"", " ", "a b", "a+b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "a\u00a0b", "a\u2028b", "a\u0085b", "a\xffb", strings.Repeat("x", 256)} {
		path := filepath.Join(t.TempDir(), "key")
		if _, err := Create(path, name); err == nil {
			t.Errorf("Create %q: no error", name)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Create %q left a file", name)
		}
		if _, err := Load(path, name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load %q: %v, want to hear of the name", name, err)
		}
	}
}

const (
	kekHex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeefb"
)

func TestKEK(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	k, err := CreateKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600 (%v)", st.Mode(), err)
	}
	key, aad := []byte(strings.Repeat("k", 32)), []byte("place")
	wrapped, err := k.Wrap(t.Context(), []byte("before"), key, aad)
	if err != nil || !strings.HasPrefix(string(wrapped), "before") || len(wrapped) != 6+60 {
		t.Fatalf("Wrap: %d bytes, %v", len(wrapped), err)
	}
	wrapped = wrapped[6:]
	again, err := k.Wrap(t.Context(), nil, key, aad)
	if err != nil || string(again) == string(wrapped) {
		t.Errorf("one key is wrapped twice alike: %v", err)
	}

	loaded, err := LoadKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := loaded.Unwrap(t.Context(), []byte("before"), wrapped, aad)
	if err != nil || string(got) != "before"+string(key) {
		t.Errorf("Unwrap: %q, %v", got, err)
	}
	other, err := CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unwrap(t.Context(), nil, wrapped, aad); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := k.Unwrap(t.Context(), nil, wrapped, []byte("elsewhere")); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("other associated data: %v", err)
	}
	for i := range wrapped {
		bad := append([]byte(nil), wrapped...)
		bad[i] ^= 1
		if got, err := k.Unwrap(t.Context(), nil, bad, aad); !errors.Is(err, keys.ErrWrongKey) || got != nil {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if got, err := k.Unwrap(t.Context(), nil, wrapped[:i], aad); !errors.Is(err, keys.ErrWrongKey) || got != nil {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}

	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateKEK(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating it again: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(content) {
		t.Errorf("creating it again changed it: %v", err)
	}
}

// One key in every form that is read, and forms that are not.
func TestKEKForms(t *testing.T) {
	raw, err := hex.DecodeString(kekHex)
	if err != nil {
		t.Fatal(err)
	}
	first, err := LoadKEK(write(t, kekHex, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := first.Wrap(t.Context(), nil, raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{
		kekHex + "\n", strings.ToUpper(kekHex),
		base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw) + "\n", base64.URLEncoding.EncodeToString(raw),
		base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	} {
		k, err := LoadKEK(write(t, form, 0o600))
		if err != nil {
			t.Errorf("form of %d characters: %v", len(form), err)
			continue
		}
		if got, err := k.Unwrap(t.Context(), nil, wrapped, nil); err != nil || string(got) != string(raw) {
			t.Errorf("form of %d characters is another key: %v", len(form), err)
		}
	}
	for _, c := range []struct {
		name, content, err string
		mode               os.FileMode
	}{
		{"empty", "", "is empty", 0o600},
		{"binary", string(raw), "was expected", 0o600},
		{"short", kekHex[2:], "not a key-encryption key", 0o600},
		{"long", kekHex + "00", "not a key-encryption key", 0o600},
		{"odd", kekHex + "0", "not a key-encryption key", 0o600},
		{"not hex", "g" + kekHex[1:], "not a key-encryption key", 0o600},
		{"prefixed", "0x" + kekHex[2:], "not a key-encryption key", 0o600},
		{"space", kekHex + " ", "not a key-encryption key", 0o600},
		{"two lines", kekHex + "\n" + kekHex, "more than one line", 0o600},
		{"24 bytes", base64.StdEncoding.EncodeToString(raw[:24]), "not a key-encryption key", 0o600},
		{"loose last bits", base64.StdEncoding.EncodeToString(raw)[:42] + "/=", "not a key-encryption key", 0o600},
		{"zeros", strings.Repeat("0", 64), "all zeros", 0o600},
		{"zeros in base64", base64.StdEncoding.EncodeToString(make([]byte, 32)), "all zeros", 0o600},
		{"log signing key", peter, "not a key-encryption key", 0o600},
		{"group may read", kekHex, "run chmod 600 FILE", 0o640},
	} {
		path := write(t, c.content, c.mode)
		if c.name == "binary" { // holds a newline or not, never mind: it is refused
			c.err = ""
		}
		_, err := LoadKEK(path)
		want := strings.ReplaceAll(c.err, "FILE", path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %q", c.name, err, want)
			continue
		}
		wantNoTrace(t, err.Error())
	}
}

// wantNoTrace looks for pieces of the private keys of these tests.
func wantNoTrace(t *testing.T, out string) {
	t.Helper()
	seed, err := base64.StdEncoding.DecodeString(peterSeed)
	if err != nil {
		t.Fatal(err)
	}
	kek, err := hex.DecodeString(kekHex)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{seed[1:], kek} {
		for _, s := range []string{
			string(secret[:6]), hex.EncodeToString(secret[:6]), strings.ToUpper(hex.EncodeToString(secret[:6])),
			base64.StdEncoding.EncodeToString(secret[:6]), fmt.Sprint(secret[:6])[1:10], fmt.Sprintf("%#v", secret[:6])[7:20],
			// As it begins a key schedule, word by word.
			fmt.Sprint(binary.LittleEndian.Uint32(secret)), fmt.Sprint(binary.BigEndian.Uint32(secret)), fmt.Sprintf("%x", binary.LittleEndian.Uint32(secret)),
		} {
			if strings.Contains(out, s) {
				t.Errorf("a private key shows as %q", s)
			}
		}
	}
	if strings.Contains(out, peterSeed[4:12]) {
		t.Error("a private key shows in part")
	}
}

func TestNothingShows(t *testing.T) {
	s, err := Load(write(t, peter, 0o600), "PeterNeumann")
	if err != nil {
		t.Fatal(err)
	}
	k, err := LoadKEK(write(t, kekHex, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Signer *Signer
		KEK    *KEK
		signer *Signer
		kek    *KEK
		s      Signer
		k      KEK
	}
	h := holder{s, k, s, k, *s, *k}
	var out strings.Builder
	for _, v := range []any{s, *s, k, *k, h, &h, []any{s, k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%o", "%p", "%z"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	wantNoTrace(t, out.String())
	if fmt.Sprint(s) != peterVkey {
		t.Errorf("a Signer prints %v", s)
	}
}

func FuzzSigner(f *testing.F) {
	f.Add(peter)
	f.Add(peterVkey)
	f.Add("PRIVATE+KEY+a+b+c")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseSigner(line)
		if err != nil {
			if len(line) > 60 && strings.Contains(err.Error(), line[40:]) {
				t.Fatal("the error repeats the line")
			}
			return
		}
		if checkName(s.Name()) != nil || !strings.HasPrefix(s.VerifierKey(), s.Name()+"+") {
			t.Fatalf("key of the log %q", s.Name())
		}
		if _, err := note.NewSigner(line); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzKEK(f *testing.F) {
	f.Add(kekHex)
	f.Add("ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7vs=")
	f.Add("ABEiM0RVZneImaq7zN3u_wARIjNEVWZ3iJmqu8zd7vs")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := parseKEK(line)
		if err != nil {
			if len(line) > 20 && strings.Contains(err.Error(), line) {
				t.Fatal("the error repeats the line")
			}
			return
		}
		if len(key) != 32 {
			t.Fatalf("key of %d bytes", len(key))
		}
		forms := []string{hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), base64.URLEncoding.EncodeToString(key),
			base64.RawStdEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key)}
		for _, form := range forms {
			if form == line || strings.EqualFold(form, line) && len(line) == 64 {
				return
			}
		}
		t.Fatalf("%q is no form of the key it was read as", line)
	})
}
