package vault

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// TestSigner signs checkpoints with keys of both types, with the public key pinned before and pinned now.
func TestSigner(t *testing.T) {
	for _, kind := range []string{Ed25519, ECDSAP256} {
		t.Run(kind, func(t *testing.T) {
			f := newFake()
			k := f.addKey(t, "log", kind)
			k.rotate(t)
			c := f.client(t, nil)
			all := keys.Providers{keys.SchemeVault: c}
			for _, version := range []int{1, 2} {
				at := ref(t, "vault:transit/log?version="+string(rune('0'+version)))
				for _, vkey := range []string{k.vkey(t, version), ""} {
					s, err := all.Signer(t.Context(), at, origin, vkey)
					if err != nil {
						t.Fatal(err)
					}
					if s.VerifierKey() != k.vkey(t, version) || s.Reference() != at || s.Name() != origin {
						t.Errorf("%s of %s", s, s.Reference())
					}
					signed, err := tlog.SignCheckpoint(checkpoint(7), s)
					if err != nil {
						t.Fatal(err)
					}
					if _, _, err := tlog.OpenCheckpoint(signed, s.Verifier()); err != nil {
						t.Error(err)
					}
					if kind == Ed25519 {
						v, err := note.NewVerifier(s.VerifierKey())
						if err != nil {
							t.Fatal(err)
						}
						if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
							t.Errorf("to x/mod's note: %v", err)
						}
					}
				}
			}
			want := []string{"PUT transit/sign/log", "GET transit/keys/log", "PUT transit/sign/log"}
			if got := f.requests(); !slices.Equal(got, append(want, want...)) {
				t.Errorf("it asked %q", got)
			}
		})
	}
}

// TestSignsWithVersion looks at what is asked for: the version, always, and neither a digest nor a batch.
func TestSignsWithVersion(t *testing.T) {
	f := newFake()
	k := f.addKey(t, "log", ECDSAP256)
	e := f.addKey(t, "ed", Ed25519)
	var bodies []map[string]any
	f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		if strings.Contains(r.URL.Path, "/sign/") {
			bodies = append(bodies, body)
		}
		return false
	}
	c := f.client(t, nil)
	for name, k := range map[string]*fakeKey{"log": k, "ed": e} {
		s, err := c.Signer(t.Context(), ref(t, "vault:transit/"+name+"?version=1"), origin, k.vkey(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sign([]byte("log.example/1\n")); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range bodies {
		if b["key_version"] != "1" || b["input"] != base64.StdEncoding.EncodeToString([]byte("log.example/1\n")) {
			t.Errorf("asked with %v", b)
		}
		for _, name := range []string{"prehashed", "batch_input", "context", "algorithm"} {
			if _, ok := b[name]; ok {
				t.Errorf("asked with %s", name)
			}
		}
	}
	if len(bodies) != 2 {
		t.Fatalf("%d signatures", len(bodies))
	}
	slices.SortFunc(bodies, func(a, b map[string]any) int { return len(a) - len(b) })
	if len(bodies[0]) != 2 || len(bodies[1]) != 4 || bodies[1]["hash_algorithm"] != "sha2-256" || bodies[1]["marshaling_algorithm"] != "asn1" {
		t.Errorf("asked with %v", bodies)
	}
}

// TestKeyChanged lets somebody do to a key whatever Vault lets them. No signature comes out that is not by the pinned key,
// and the signer says whether it is gone or another.
func TestKeyChanged(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(t *testing.T, f *fake, k *fakeKey)
		want   error // nil: it goes on
	}{
		{"nothing", func(*testing.T, *fake, *fakeKey) {}, nil},
		{"rotated", func(t *testing.T, f *fake, k *fakeKey) { k.rotate(t); k.rotate(t) }, nil},
		{"rotated, and archived", func(t *testing.T, f *fake, k *fakeKey) { k.rotate(t); k.min = 3 }, keys.ErrGone},
		{"deleted", func(t *testing.T, f *fake, k *fakeKey) { delete(f.keys, "log") }, keys.ErrGone},
		{"deleted, and made again", func(t *testing.T, f *fake, k *fakeKey) { f.addKey(t, "log", Ed25519) }, keys.ErrGone},
		{"replaced by one with as many versions", func(t *testing.T, f *fake, k *fakeKey) { f.addKey(t, "log", Ed25519).rotate(t) }, keys.ErrNotPinned},
		{"replaced by another type", func(t *testing.T, f *fake, k *fakeKey) { f.addKey(t, "log", ECDSAP256).rotate(t) }, keys.ErrNotPinned},
		{"replaced by one to encrypt", func(t *testing.T, f *fake, k *fakeKey) { f.addKey(t, "log", "aes256-gcm96").rotate(t) }, keys.ErrNotPinned},
		{"its versions in another order", func(t *testing.T, f *fake, k *fakeKey) { slices.Reverse(k.versions) }, keys.ErrNotPinned},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake()
			k := f.addKey(t, "log", Ed25519)
			k.rotate(t)
			c := f.client(t, nil)
			s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=2"), origin, k.vkey(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sign([]byte("a\n")); err != nil {
				t.Fatal(err)
			}
			row.change(t, f, k)
			sig, err := s.Sign([]byte("b\n"))
			if !errors.Is(err, row.want) || (err == nil) != (sig != nil) {
				t.Errorf("%x, %v, want %v", sig, err, row.want)
			}
			if err != nil && !strings.Contains(err.Error(), "vault:transit/log?version=2") {
				t.Errorf("it does not say which key: %v", err)
			}
			t.Log(err)
		})
	}
}

// TestForgedSignatures has Vault, or whoever answers in its place, sign wrongly.
func TestForgedSignatures(t *testing.T) {
	f := newFake()
	k := f.addKey(t, "log", Ed25519)
	k.rotate(t)
	other := f.addKey(t, "other", Ed25519)
	other.rotate(t)
	c := f.client(t, nil)
	s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=2"), origin, k.vkey(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	msg := checkpoint(3).Text()
	b64 := func(key any, msg []byte) string { return base64.StdEncoding.EncodeToString(signWith(key, msg)) }
	good := b64(k.versions[1], msg)
	for _, row := range []struct {
		name, signature string
		want            error
	}{
		{"as it must be", "vault:v2:" + good, nil},
		{"another version's", "vault:v1:" + b64(k.versions[0], msg), keys.ErrNotPinned},
		{"another version's under the name of this", "vault:v2:" + b64(k.versions[0], msg), keys.ErrNotPinned},
		{"this version's under the name of another", "vault:v1:" + good, keys.ErrNotPinned},
		{"another key's", "vault:v2:" + b64(other.versions[1], msg), keys.ErrNotPinned},
		{"of another checkpoint", "vault:v2:" + b64(k.versions[1], checkpoint(4).Text()), keys.ErrNotPinned},
		{"zeros", "vault:v2:" + base64.StdEncoding.EncodeToString(make([]byte, 64)), keys.ErrNotPinned},
		{"too short", "vault:v2:" + good[:40], keys.ErrNotPinned},
		{"nothing behind the prefix", "vault:v2:", keys.ErrNotPinned},
		{"version 02", "vault:v02:" + good, keys.ErrNotPinned},
		{"version 2 of something", "vault:v2x:" + good, keys.ErrNotPinned},
		{"no prefix", good, errAny},
		{"another prefix", "openbao:v2:" + good, errAny},
		{"a prefix and a half", "vault:v2:vault:v2:" + good, keys.ErrNotPinned},
		{"not base64", "vault:v2:" + good[:20] + "!" + good[21:], errAny},
		{"URL base64 without padding", "vault:v2:" + strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(good), "="), errAny},
		{"a line break", "vault:v2:" + good[:20] + "\n" + good[20:], nil}, // what base64 leaves out is no signature's
		{"nothing", "", errAny},
	} {
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			if !strings.Contains(r.URL.Path, "/sign/") {
				return false
			}
			reply(w, map[string]any{"signature": row.signature, "key_version": 2})
			return true
		}
		sig, err := s.Sign(msg)
		switch {
		case row.want == nil && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.want != nil && (err == nil || sig != nil), row.want == keys.ErrNotPinned && !errors.Is(err, keys.ErrNotPinned), row.want == errAny && errors.Is(err, keys.ErrNotPinned):
			t.Errorf("%s: %x, %v", row.name, sig, err)
		}
	}
}

var errAny = errors.New("any")

// TestPublicKey pins nothing that is no key of a log.
func TestPublicKey(t *testing.T) {
	f := newFake()
	k := f.addKey(t, "log", Ed25519)
	f.addKey(t, "kek", "aes256-gcm96")
	k.rotate(t)
	k.rotate(t)
	k.min = 2
	c := f.client(t, nil)
	good := k.describe()
	for _, row := range []struct {
		name, ref, err string
		is             error
		change         func(map[string]any)
	}{
		{"version 3", "vault:transit/log?version=3", "", nil, nil},
		{"archived", "vault:transit/log?version=1", "archived or trimmed", keys.ErrGone, nil},
		{"never made", "vault:transit/log?version=4", "the key has 3 versions", nil, nil},
		{"no version", "vault:transit/log", "add ?version=3", nil, nil},
		{"no key", "vault:transit/nobody?version=1", "no such key", keys.ErrGone, nil},
		{"no engine", "vault:nowhere/log?version=1", "no handler", keys.ErrGone, nil},
		{"to encrypt", "vault:transit/kek?version=1", "is of type", nil, nil},
		{"a secret", "vault:transit/log#x", "is not a transit key", nil, nil},
		{"a file", "file:log", "is not a transit key", nil, nil},
		{"derived", "vault:transit/log?version=2", "is derived", nil, func(d map[string]any) { d["derived"] = true }},
		{"RSA", "vault:transit/log?version=2", "is of type", nil, func(d map[string]any) { d["type"] = "rsa-4096" }},
		{"a short key", "vault:transit/log?version=2", "makes sense", nil, func(d map[string]any) {
			d["keys"] = map[string]any{"2": map[string]any{"public_key": "AAAA"}}
		}},
		{"no key in it", "vault:transit/log?version=2", "makes sense", nil, func(d map[string]any) {
			d["keys"] = map[string]any{"2": map[string]any{}}
		}},
		{"a PEM that is none", "vault:transit/log?version=2", "makes sense", nil, func(d map[string]any) {
			d["type"] = ECDSAP256
			d["keys"] = map[string]any{"2": map[string]any{"public_key": "-----BEGIN"}}
		}},
		{"another shape", "vault:transit/log?version=2", "another shape", nil, func(d map[string]any) { d["keys"] = 7 }},
	} {
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			if row.change == nil || !strings.Contains(r.URL.Path, "/keys/") {
				return false
			}
			d := map[string]any{}
			for k, v := range good {
				d[k] = v
			}
			row.change(d)
			reply(w, d)
			return true
		}
		s, err := c.Signer(t.Context(), ref(t, row.ref), origin, "")
		if row.err == "" {
			if err != nil || s.VerifierKey() != k.vkey(t, 3) {
				t.Errorf("%s: %v, %v", row.name, s, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), row.err) || row.is != nil && !errors.Is(err, row.is) {
			t.Errorf("%s: %v, want %q", row.name, err, row.err)
		}
	}
}

// TestRotate goes from one version to the next, signing with both for a while.
func TestRotate(t *testing.T) {
	f := newFake()
	k := f.addKey(t, "log", Ed25519)
	c := f.client(t, nil)
	old, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
	if err != nil {
		t.Fatal(err)
	}
	next, err := c.Rotate(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	if next.Reference() != ref(t, "vault:transit/log?version=2") || next.VerifierKey() != k.vkey(t, 2) {
		t.Errorf("%s of %s", next, next.Reference())
	}
	signed, err := tlog.SignCheckpoint(checkpoint(9), old, next)
	if err != nil {
		t.Fatal(err)
	}
	for _, vs := range [][]note.Verifier{{old.Verifier()}, {next.Verifier()}, {old.Verifier(), next.Verifier()}} {
		if _, _, err := tlog.OpenCheckpoint(signed, vs...); err != nil {
			t.Error(err)
		}
	}
	p, err := SignPolicy("both", old, next)
	if err != nil || !strings.Contains(p.Text, `"key_version"          = ["1", "2"]`) {
		t.Errorf("%v, %v", p, err)
	}
	// Somebody else rotates at the same time.
	f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		if strings.HasSuffix(r.URL.Path, "/rotate") {
			k.rotate(t)
		}
		return false
	}
	if _, err := c.Rotate(t.Context(), next); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("two at once: %v", err)
	}
}

// TestSignerGivesUp hangs. A signer has no context, and ends by itself.
func TestSignerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := f.addKey(t, "log", Ed25519)
		c := f.client(t, nil)
		s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, k.vkey(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			<-r.Context().Done()
			return true
		}
		begun := time.Now()
		if _, err := s.Sign([]byte("a\n")); err == nil {
			t.Error("signed by nobody")
		}
		if took := time.Since(begun); took > 2*DefaultTimeout {
			t.Errorf("it took %v", took)
		}
		f.fault = nil
		time.Sleep(time.Minute)
		if _, err := s.Sign([]byte("a\n")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestSignTogether signs from many sides, while the tokens are taken away. All go on, with one log-in among them.
func TestSignTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := f.addKey(t, "log", Ed25519)
		c := f.client(t, nil)
		s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, k.vkey(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 20 {
						if _, err := s.Sign([]byte("a\n")); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Second)
					}
				})
			}
			time.Sleep(10500 * time.Millisecond)
			f.revoke()
			wg.Wait()
		}
		if n := f.logIns(); n != 4 {
			t.Errorf("%d log-ins", n)
		}
	})
}
