package kms

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
)

const password = "a password of tests"

func readTest(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes a file of a key, and a reference to it.
func write(t testing.TB, content []byte, mode os.FileMode) keys.Reference {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return keys.Reference{Scheme: keys.SchemeFile, Path: path}
}

// publicOf reads what OpenSSL says is the public key.
func publicOf(t testing.TB, name string) string {
	t.Helper()
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(readTest(t, name))
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := tlog.LogVerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func TestPEM(t *testing.T) {
	for name, public := range map[string]string{
		"ed25519.pem": "ed25519.pub", "ed25519-pbkdf2.pem": "ed25519.pub",
		"p256.pem": "p256.pub", "p256-ec.pem": "p256.pub", "p256-scrypt.pem": "p256.pub", "p256-sigstore.pem": "p256.pub",
	} {
		ref := write(t, readTest(t, name), 0o400)
		p := PEM{Password: keys.NewSecret([]byte(password))}
		slow := strings.Contains(name, "scrypt") || strings.Contains(name, "sigstore") // so once is enough
		for _, vkey := range []string{publicOf(t, public), ""} {
			if slow && vkey == "" {
				continue
			}
			s, err := keys.Providers{keys.SchemeFile: p}.Signer(t.Context(), ref, origin, vkey)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s.VerifierKey() != publicOf(t, public) || s.Reference() != ref {
				t.Errorf("%s: %s of %s", name, s, s.Reference())
			}
			wantSigns(t, s)
		}
		if slow {
			continue
		}
		if _, err := p.Signer(t.Context(), ref, origin, vkeyOf(t, load(t, newEd25519(t)))); !errors.Is(err, keys.ErrNotPinned) {
			t.Errorf("%s: another key pinned: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Signer(ctx, ref, origin, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", name, err)
		}
	}
}

// Files that are not PEM are somebody else's to read.
func TestPEMElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	made, err := file.Create(path, origin)
	if err != nil {
		t.Fatal(err)
	}
	ref := keys.Reference{Scheme: keys.SchemeFile, Path: path}
	s, err := PEM{Else: file.Provider{}}.Signer(t.Context(), ref, origin, made.VerifierKey())
	if err != nil || s.VerifierKey() != made.VerifierKey() {
		t.Fatalf("%v, %v", s, err)
	}
	wantSigns(t, s)
	if _, err := (PEM{}).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "is not PEM") {
		t.Error(err)
	}
	if _, err := (PEM{}).Signer(t.Context(), here, origin, ""); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Error(err)
	}
}

func TestPEMRefuses(t *testing.T) {
	whole := string(readTest(t, "ed25519.pem"))
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		password, err string
	}{
		{"group may read", whole, 0o640, "", "run chmod 600"},
		{"others may write", whole, 0o602, "", "run chmod 600"},
		{"empty", "", 0o600, "", "is not PEM"},
		{"long", whole + strings.Repeat("\n", maxPEM), 0o600, "", "longer than"},
		{"text", "hunter2", 0o600, "", "is not PEM"},
		{"DER", "0\x2e\x02\x01\x00", 0o600, "", "is not PEM"},
		{"cut off", whole[:len(whole)-5], 0o600, "", "damaged PEM"},
		{"a letter changed", strings.Replace(whole, "MC4C", "MD4C", 1), 0o600, "", "no private key, or a damaged one"},
		{"two", whole + whole, 0o600, "", "more than one PEM block"},
		{"text before", "x\n" + whole, 0o600, "", "is not PEM"},
		{"text behind", whole + "x", 0o600, "", "more than one PEM block"},
		{"a broken one before", "-----BEGIN X-----\n!\n" + whole, 0o600, "", "more than one PEM block"},
		{"public", string(readTest(t, "ed25519.pub")), 0o600, "", "public key; the private one"},
		{"a certificate", strings.ReplaceAll(whole, "PRIVATE KEY", "CERTIFICATE"), 0o600, "", "type \"CERTIFICATE\""},
		{"PKCS #1", strings.ReplaceAll(whole, "PRIVATE KEY", "RSA PRIVATE KEY"), 0o600, "", "type \"RSA PRIVATE KEY\""},
		{"mislabelled", strings.ReplaceAll(whole, "PRIVATE KEY", "EC PRIVATE KEY"), 0o600, "", "no private key, or a damaged one"},
		{"RSA", string(readTest(t, "rsa.pem")), 0o600, "", "type *rsa.PrivateKey"},
		{"X25519", string(readTest(t, "x25519.pem")), 0o600, "", "type *ecdh.PrivateKey"},
		{"P-384", string(readTest(t, "p384.pem")), 0o600, "", "a key on P-384"},
		{"the old encryption", string(readTest(t, "p256-old.pem")), 0o600, password, "openssl pkcs8 -topk8"},
		{"PBES1", string(readTest(t, "p256-pbes1.pem")), 0o600, password, "does not open"},
		{"no password", string(readTest(t, "ed25519-pbkdf2.pem")), 0o600, "", "none is given"},
		{"no password, sigstore", string(readTest(t, "p256-sigstore.pem")), 0o600, "", "none is given"},
		{"another password", string(readTest(t, "ed25519-pbkdf2.pem")), 0o600, password + "x", "does not open"},
		{"another password, scrypt", string(readTest(t, "p256-scrypt.pem")), 0o600, password + "x", "does not open"},
		{"another password, sigstore", string(readTest(t, "p256-sigstore.pem")), 0o600, password + "x", "does not open"},
		{"said to be encrypted", strings.ReplaceAll(whole, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), 0o600, password, "does not open"},
		{"said to be sigstore's", strings.ReplaceAll(whole, "PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY"), 0o600, password, "does not open"},
	} {
		ref := write(t, []byte(c.content), c.mode)
		s, err := PEM{Password: keys.NewSecret([]byte(c.password))}.Signer(t.Context(), ref, origin, "")
		if err == nil || s != nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), ref.Path) {
			t.Errorf("%s: %v, %v; want %q", c.name, s, err, c.err)
			continue
		}
		wantNoTrace(t, err.Error(), c.content)
	}
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "not a regular file", pipe: "not a regular file", "": "private key"} {
		if _, err := (PEM{}).Signer(t.Context(), keys.Reference{Scheme: keys.SchemeFile, Path: path}, origin, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := (PEM{}).Signer(t.Context(), keys.Reference{Scheme: keys.SchemeFile, Path: filepath.Join(dir, "x")}, origin, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// wantNoTrace looks for the password, for what a file holds that is short, and for pieces of its private key.
func wantNoTrace(t testing.TB, out, content string) {
	t.Helper()
	secrets := []string{password}
	if 0 < len(content) && len(content) < 10 {
		secrets = append(secrets, content)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey([]byte(content), nil)
	if err != nil {
		key = nil
	}
	var secret []byte
	switch k := key.(type) {
	case ed25519.PrivateKey:
		secret = k.Seed()
	case *ecdsa.PrivateKey:
		secret, _ = k.Bytes()
	}
	for i := 0; i+6 <= len(secret); i += 6 {
		part := secret[i : i+6]
		secrets = append(secrets, string(part), fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), base64.StdEncoding.EncodeToString(part), strings.Trim(fmt.Sprint(part), "[]"))
	}
	for _, s := range secrets {
		if i := strings.Index(out, s); i >= 0 {
			t.Errorf("%q shows in …%q", s, out[max(0, i-100):min(len(out), i+100)])
		}
	}
}

func TestNothingShows(t *testing.T) {
	for _, name := range []string{"ed25519.pem", "p256.pem"} {
		p := PEM{Password: keys.NewSecret([]byte(password))}
		s, err := p.Signer(t.Context(), write(t, readTest(t, name), 0o600), origin, "")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for _, v := range []any{p, &p, s, *s, []any{s}, struct{ s *keys.Signer }{s}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		}
		wantNoTrace(t, out.String(), string(readTest(t, name)))
	}
}

func FuzzPEM(f *testing.F) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ed25519") || e.Name() == "p256-ec.pem" || e.Name() == "p256-old.pem" {
			f.Add(readTest(f, e.Name()))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Without a password: with one, the fuzzer learns what takes long.
		sv, err := PEM{}.load(b)
		if err != nil {
			block, _ := pem.Decode(b)
			for i := 0; block != nil && i+12 <= len(block.Bytes); i += 12 {
				part := block.Bytes[i : i+12]
				for _, p := range []string{string(part), fmt.Sprintf("%x", part), base64.StdEncoding.EncodeToString(part)} {
					if strings.Contains(err.Error(), p) {
						t.Fatalf("%q shows in %v", p, err)
					}
				}
			}
			return
		}
		if s, err := Pin(t.Context(), here, origin, "", sv, 0); err == nil {
			wantSigns(t, s)
		}
	})
}
