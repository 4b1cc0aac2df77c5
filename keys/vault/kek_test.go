package vault

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/ring"
)

var _ ring.Wrapper = (*KEK)(nil)

func TestKEK(t *testing.T) {
	f := newFake()
	k := f.addKey(t, "tenant", "aes256-gcm96")
	c := f.client(t, nil)
	kek, err := c.KEK(ref(t, "vault:transit/tenant"))
	if err != nil {
		t.Fatal(err)
	}
	for _, aad := range [][]byte{nil, []byte("segment 7")} {
		for _, key := range [][]byte{make([]byte, 32), bytes.Repeat([]byte{7}, 32), {}} {
			dst := []byte("before ")
			wrapped, err := kek.Wrap(t.Context(), dst, key, aad)
			if err != nil || !bytes.HasPrefix(wrapped, dst) || len(wrapped) > 200 {
				t.Fatalf("%q, %v", wrapped, err)
			}
			got, err := kek.Unwrap(t.Context(), dst, wrapped[len(dst):], aad)
			if err != nil || !bytes.Equal(got, append(bytes.Clone(dst), key...)) {
				t.Errorf("%x, %v", got, err)
			}
		}
	}
	key, wrapped, err := kek.NewDataKey(t.Context(), []byte("a"))
	if err != nil || len(key) != DataKeySize {
		t.Fatalf("%x, %v", key, err)
	}
	another, _, err := kek.NewDataKey(t.Context(), []byte("a"))
	if err != nil || bytes.Equal(key, another) {
		t.Errorf("two data keys are one: %v", err)
	}
	unwraps := func(wrapped, aad []byte, want error) {
		t.Helper()
		got, err := kek.Unwrap(t.Context(), nil, wrapped, aad)
		if !errors.Is(err, want) || want == nil && !bytes.Equal(got, key) || want != nil && got != nil {
			t.Errorf("%q: %x, %v, want %v", wrapped, got, err, want)
		}
	}
	unwraps(wrapped, []byte("a"), nil)
	unwraps(wrapped, []byte("b"), keys.ErrWrongKey)
	unwraps(wrapped, nil, keys.ErrWrongKey)
	for _, bad := range [][]byte{nil, []byte("x"), []byte("vault:v1"), []byte("vault:v1:"), []byte("vault:v1:AAAA"), []byte("vault:v1:!"), []byte("vault:v9:AAAA"), []byte("vault:vx:AAAA"), []byte("vault:v:AAAA"), []byte("vault:v0:AAAA"), wrapped[:len(wrapped)-4], append(bytes.Clone(wrapped), "AAAA"...)} {
		unwraps(bad, []byte("a"), keys.ErrWrongKey)
	}
	for text, want := range map[string]int{
		string(wrapped): 1, "vault:v12:AAAA": 12, "vault:v1:": 1, "": 0, "vault:v1": 0, "vault:v0:AAAA": 0, "vault:v01:AAAA": 0, "vault:v+1:AAAA": 0, "vault:v-1:AAAA": 0,
		"1:AAAA": 0, "vault:v:AAAA": 0, "vault:v99999999999999999999:AAAA": 0,
	} {
		if got := kek.Version([]byte(text)); got != want {
			t.Errorf("%q is of version %d, want %d", text, got, want)
		}
	}
	// Rotated: the old is read by the old version, and wrapped again by the new one.
	k.rotate(t)
	unwraps(wrapped, []byte("a"), nil)
	again, err := kek.Rewrap(t.Context(), wrapped, []byte("a"))
	if err != nil || !strings.HasPrefix(string(again), "vault:v2:") {
		t.Fatalf("%q, %v", again, err)
	}
	unwraps(again, []byte("a"), nil)
	if _, err := kek.Rewrap(t.Context(), wrapped, []byte("b")); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("rewrapped with other associated data: %v", err)
	}
	pinned, err := c.KEK(ref(t, "vault:transit/tenant?version=1"))
	if err != nil {
		t.Fatal(err)
	}
	if first, err := pinned.Wrap(t.Context(), nil, key, nil); err != nil || !strings.HasPrefix(string(first), "vault:v1:") {
		t.Errorf("with version 1: %q, %v", first, err)
	}
	// Archived, and gone.
	k.min, k.minOpen = 2, 2
	unwraps(wrapped, []byte("a"), keys.ErrGone)
	unwraps(again, []byte("a"), nil)
	if _, err := pinned.Wrap(t.Context(), nil, key, nil); !errors.Is(err, keys.ErrGone) {
		t.Errorf("with an archived version: %v", err)
	}
	f.addKey(t, "tenant", "aes256-gcm96").rotate(t)
	unwraps(again, []byte("a"), keys.ErrWrongKey)
	delete(f.keys, "tenant")
	unwraps(again, []byte("a"), keys.ErrGone)
	if _, _, err := kek.NewDataKey(t.Context(), nil); !errors.Is(err, keys.ErrGone) {
		t.Errorf("without a key: %v", err)
	}
	for _, answer := range []string{`{"ciphertext":""}`, `{"ciphertext":"x"}`, `{"ciphertext":"vault:v1"}`, `{"plaintext":"!"}`, `{"plaintext":7}`, `{}`} {
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			fmt.Fprintf(w, `{"data":%s}`, answer)
			return true
		}
		if got, err := kek.Wrap(t.Context(), nil, key, nil); err == nil {
			t.Errorf("%s: wrapped as %q", answer, got)
		}
		if got, err := kek.Unwrap(t.Context(), nil, again, nil); err == nil {
			t.Errorf("%s: unwrapped as %q", answer, got)
		}
	}
	for _, bad := range []string{"vault:transit/tenant#x", "file:tenant"} {
		if _, err := c.KEK(ref(t, bad)); err == nil {
			t.Errorf("%s is a KEK", bad)
		}
	}
}

// TestRing keeps a ring of data keys under a key in Vault, over restarts and an outage.
func TestRing(t *testing.T) {
	f := newFake()
	f.addKey(t, "tenant", "aes256-gcm96")
	f.addKey(t, "other", "aes256-gcm96")
	c := f.client(t, nil)
	open := func(dir, name string) (*ring.Ring, error) {
		kek, err := c.KEK(ref(t, "vault:transit/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return ring.Open(dir, ring.Config{KEK: kek})
	}
	dir := t.TempDir()
	r, err := open(dir, "tenant")
	if err != nil {
		t.Fatal(err)
	}
	id, key, err := r.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.sealed = true
	if _, _, err := r.New(t.Context()); err != nil {
		t.Errorf("there is stock, and Vault is away: %v", err)
	}
	r.Close()
	if _, err := open(dir, "tenant"); err == nil || errors.Is(err, ring.ErrWrongKEK) {
		t.Errorf("opened without Vault: %v", err)
	}
	f.sealed = false
	if _, err := open(dir, "other"); !errors.Is(err, ring.ErrWrongKEK) {
		t.Errorf("opened with another key: %v", err)
	}
	f.keys["tenant"].rotate(t)
	if r, err = open(dir, "tenant"); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := r.Open(t.Context(), id); err != nil || !bytes.Equal(got.Bytes(), key.Bytes()) {
		t.Errorf("after a rotation: %v", err)
	}
}

func TestSecret(t *testing.T) {
	f := newFake()
	v := func(data map[string]any) fakeVersion { return fakeVersion{data: data} }
	f.kv["team/openai"] = &fakeSecret{versions: []fakeVersion{
		v(map[string]any{"key": canary + "old"}), v(map[string]any{"key": canary + "new", "lines": "a\nb", "empty": "", "number": 7, "null": nil, "object": map[string]any{"a": canary}}),
	}}
	f.kv["deleted"] = &fakeSecret{versions: []fakeVersion{{data: map[string]any{"key": "x"}, deleted: "2026-01-02T03:04:05Z"}}}
	c := f.client(t, nil)
	for _, row := range []struct{ ref, want, err string }{
		{"vault:secret/team/openai#key", canary + "new", ""},
		{"vault:secret/team/openai?version=1#key", canary + "old", ""},
		{"vault:secret/team/openai?version=3#key", "", "no such secret"},
		{"vault:secret/team/openai#lines", "", "more than one line"},
		{"vault:secret/team/openai#empty", "", "is empty"},
		{"vault:secret/team/openai#number", "", "is not a string"},
		{"vault:secret/team/openai#null", "", "is empty"},
		{"vault:secret/team/openai#object", "", "is not a string"},
		{"vault:secret/team/openai#other", "", "no such field"},
		{"vault:secret/team#key", "", "no such secret"},
		{"vault:secret/deleted#key", "", "version 1 was deleted"},
		{"vault:nowhere/team/openai#key", "", "no handler for route"},
		{"vault:secret/team/openai", "", "not the field of a secret"},
		{"file:key", "", "not the field of a secret"},
	} {
		s, err := c.Secret(t.Context(), ref(t, row.ref))
		if string(s.Reveal()) != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %v, want %q", row.ref, err, row.err)
		}
		if err != nil {
			wantNoTrace(t, err.Error())
		}
	}
}
