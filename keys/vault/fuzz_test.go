package vault

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// FuzzAnswer has Vault answer anything to everything. Nothing comes out but what the pinned key signed and what is a
// checkpoint of the log, and errors repeat no secret.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"errors":[]}`, `{"errors":["Vault is sealed"]}`, `{"data":{"signature":"vault:v1:AAAA"}}`, `{"data":{"ciphertext":"vault:v1:AAAA"}}`, `{"data":{"plaintext":"AAAA"}}`,
		`{"data":{"data":{"checkpoint":"log.example/1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n","key":"x"},"metadata":{"version":1}},"auth":{"client_token":"t"}}`,
		`{"data":{"data":null,"metadata":{"version":3,"deletion_time":"x","destroyed":true}}}`, `{"data":{"type":"ed25519","keys":{"1":{"public_key":"AAAA"}},"latest_version":1}}`,
		`{"data":{"type":"ecdsa-p256","keys":{"1":{"public_key":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}}}`, `{"data":{"cas_required":true,"delete_version_after":"0s"}}`,
		`{"auth":{"client_token":"x","lease_duration":-1}}`, `{"auth":{"client_token":"x","lease_duration":9223372036854775807}}`,
	} {
		for _, status := range []int{200, 204, 307, 400, 403, 404, 500, 503} {
			f.Add(status, s)
		}
	}
	k := newFake().addKey(f, "log", Ed25519)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		fk := newFake()
		fk.fault = func(w http.ResponseWriter, r *http.Request, _ map[string]any) bool {
			if strings.Contains(r.URL.Path, "/auth/approle/") && status < 300 && !strings.Contains(body, "client_token") {
				return false // so that there is something to ask with
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
		c := fk.client(t, nil)
		check := func(err error) {
			if err != nil {
				wantNoTrace(t, err.Error())
				if strings.ContainsAny(err.Error(), "\n\x00\x1b") {
					t.Fatalf("%q", err)
				}
			}
		}
		s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, k.vkey(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		msg := checkpoint(3).Text()
		sig, err := s.Sign(msg)
		if err == nil && !s.Verifier().Verify(msg, sig) {
			t.Fatal("a signature that does not verify")
		}
		check(err)
		if s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, ""); err == nil && s.Name() != origin {
			t.Fatal("a key of another log")
		} else {
			check(err)
		}
		l, err := c.Latest(ref(t, "vault:secret/a"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Load(t.Context(), origin)
		if got != nil {
			if _, err := checkpointOf(origin, got); err != nil {
				t.Fatalf("it remembers %q", got)
			}
		}
		check(err)
		if err := l.Swap(t.Context(), origin, nil, msg); err == nil || !errors.Is(err, tlog.ErrConflict) {
			check(err)
		}
		kek, err := c.KEK(ref(t, "vault:transit/kek"))
		if err != nil {
			t.Fatal(err)
		}
		if w, err := kek.Wrap(t.Context(), nil, make([]byte, 32), nil); err == nil && kek.Version(w) == 0 {
			t.Fatalf("wrapped as %q", w)
		} else {
			check(err)
		}
		_, err = kek.Unwrap(t.Context(), nil, []byte("vault:v1:AAAA"), nil)
		check(err)
		sec, err := c.Secret(t.Context(), ref(t, "vault:secret/a#key"))
		if _, perr := keys.ParseCredential(sec.Reveal()); err == nil && perr != nil {
			t.Fatal("a credential that is none")
		}
		check(err)
	})
}
