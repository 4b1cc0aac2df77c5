//go:build vault

package peers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
)

const rootToken = "root-of-the-tests"

// startVault starts the Vault that the variable VAULT names, in its development mode: in memory, unsealed, with KV v2 at
// secret/. It returns the key that unseals it, too.
func startVault(t *testing.T, args ...string) (s *server, unseal string) {
	t.Helper()
	bin := os.Getenv("VAULT")
	if bin == "" {
		t.Fatal("the variable VAULT names no binary; make vault sets it")
	}
	addr := freePort(t)
	cmd := exec.Command(bin, append([]string{"server", "-dev", "-dev-root-token-id=" + rootToken, "-dev-listen-address=" + addr, "-dev-no-store-token"}, args...)...)
	cmd.Env = append(os.Environ(), "VAULT_ADDR=", "VAULT_TOKEN=", "HOME="+t.TempDir())
	scheme := "http://"
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "-dev-tls") }) {
		scheme = "https://"
	}
	s = start(t, cmd, rootToken, func(line string) string {
		if key, ok := strings.CutPrefix(line, "Unseal Key: "); ok {
			unseal = key
		}
		if strings.HasPrefix(line, "Root Token: ") {
			return scheme + addr
		}
		return ""
	})
	return s, unseal
}

// TestVault tells the story to Vault itself, and what only that can do: policies, log-ins, tokens that end, seals.
func TestVault(t *testing.T) {
	s, unseal := startVault(t)
	s.do(t, "POST", "sys/mounts/transit", `{"type":"transit"}`)
	story(t, s)
	s.do(t, "POST", "secret/config", `{"cas_required":false}`)
	t.Run("policies", func(t *testing.T) { policyStory(t, s) })
	t.Run("log-ins", func(t *testing.T) { loginStory(t, s) })
	t.Run("tokens that end", func(t *testing.T) { tokenStory(t, s) })
	seal := func() { s.do(t, "PUT", "sys/seal", "") }
	open := func() { s.do(t, "PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, unseal)) }
	t.Run("sealed", func(t *testing.T) {
		c := s.client(t, s.root)
		s.do(t, "POST", "transit/keys/sealed", `{"type":"ed25519"}`)
		signer, err := c.Signer(t.Context(), ref(t, "vault:transit/sealed?version=1"), origin, "")
		if err != nil {
			t.Fatal(err)
		}
		seal()
		if _, err := signer.Sign([]byte("a\n")); err == nil || !strings.Contains(err.Error(), "503, sealed or not ready: unseal it") || errors.Is(err, keys.ErrGone) || errors.Is(err, keys.ErrDenied) {
			t.Errorf("sealed: %v", err)
		}
		open()
		await(t, "a signature", func() error { _, err := signer.Sign([]byte("a\n")); return err })
	})
	t.Run("a log, and a seal", func(t *testing.T) { logStory(t, s, seal, open) })
	s.do(t, "POST", "transit/keys/log/config", `{"deletion_allowed":true}`)
	s.do(t, "DELETE", "transit/keys/log", "")
	s.do(t, "DELETE", "secret/metadata/log/"+hexOf(origin), "")
	t.Run("a log, and a Vault that hangs", func(t *testing.T) {
		logStory(t, s, func() { s.signal(t, syscall.SIGSTOP) }, func() { s.signal(t, syscall.SIGCONT) })
	})
}

func hexOf(origin string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(origin))) }

// token makes a token with these policies and no other.
func (s *server) token(t *testing.T, ttl string, policies ...string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"policies": policies, "no_default_policy": false, "ttl": ttl})
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, "POST", "auth/token/create", string(b))["auth"].(map[string]any)["client_token"].(string)
}

// try asks with a token, by other means than ours, and returns the status.
func (s *server) try(t *testing.T, token, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", token)
	if method == "PATCH" {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// policyStory sets a log up with Init, as an administrator, runs it with tokens that have its policies and no more, and
// then steals each of them.
func policyStory(t *testing.T, s *server) {
	ctx := t.Context()
	admin := s.client(t, s.root)
	for _, kind := range []string{vault.Ed25519, vault.ECDSAP256} {
		t.Run(kind, func(t *testing.T) {
			name, tenant := "log-"+kind, "tenant-"+kind
			setup := vault.Setup{Origin: origin, Signer: ref(t, "vault:transit/"+name), Type: kind, Anchor: ref(t, "vault:secret/anchors-"+kind), KEK: ref(t, "vault:transit/"+tenant), Policies: name}
			first, err := admin.Init(ctx, setup)
			if err != nil {
				t.Fatal(err)
			}
			again, err := admin.Init(ctx, setup)
			if err != nil || again.Signer.VerifierKey() != first.Signer.VerifierKey() {
				t.Fatalf("a second time: %v, %v", again, err)
			}
			t.Log(strings.Join(first.Did, "; "))
			// The log runs with these.
			sign, anchor, wrap := s.token(t, "1h", name+"-sign"), s.token(t, "1h", name+"-anchor"), s.token(t, "1h", name+"-wrap")
			signer, err := s.client(t, sign).Signer(ctx, first.Signer.Reference(), origin, first.Signer.VerifierKey())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tlog.SignCheckpoint(checkpoint(3), signer); err != nil {
				t.Errorf("a token to sign does not sign: %v", err)
			}
			l, err := s.client(t, anchor).Latest(setup.Anchor)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := l.Load(ctx, origin); err != nil || got != nil {
				t.Errorf("a token to anchor does not load: %q, %v", got, err)
			}
			if err := errors.Join(l.Swap(ctx, origin, nil, checkpoint(0).Text()), l.Swap(ctx, origin, checkpoint(0).Text(), checkpoint(3).Text())); err != nil {
				t.Errorf("a token to anchor does not swap: %v", err)
			}
			kek, err := s.client(t, wrap).KEK(setup.KEK)
			if err != nil {
				t.Fatal(err)
			}
			key, wrapped, err := kek.NewDataKey(ctx, []byte("a"))
			if err != nil {
				t.Fatalf("a token to wrap does not wrap: %v", err)
			}
			if got, err := kek.Unwrap(t.Context(), nil, wrapped, []byte("a")); err != nil || !bytes.Equal(got, key) {
				t.Errorf("a token to wrap does not unwrap: %v", err)
			}
			if again, err := kek.Rewrap(ctx, wrapped, []byte("a")); err != nil || len(again) == 0 {
				t.Errorf("a token to wrap does not wrap again: %v", err)
			}
			// None of them reads a public key; who has to pin one is told so.
			if _, err := s.client(t, sign).Signer(ctx, first.Signer.Reference(), origin, ""); !errors.Is(err, keys.ErrDenied) {
				t.Errorf("a token to sign reads the key: %v", err)
			}
			// A second version, which nobody but the next policy allows.
			next, err := admin.Rotate(ctx, first.Signer)
			if err != nil {
				t.Fatal(err)
			}
			late, err := s.client(t, sign).Signer(ctx, next.Reference(), origin, next.VerifierKey())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := late.Sign([]byte("a\n")); !errors.Is(err, keys.ErrDenied) {
				t.Errorf("another version than the policy's signs: %v", err)
			}
			both, err := vault.SignPolicy(name+"-sign", first.Signer, next)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(map[string]string{"policy": both.Text})
			s.do(t, "PUT", "sys/policies/acl/"+both.Name, string(text))
			if _, err := tlog.SignCheckpoint(checkpoint(4), signer, late); err != nil {
				t.Errorf("the overlap of a rotation: %v", err)
			}

			path := "anchors-" + kind + "/" + hexOf(origin)
			input := base64.StdEncoding.EncodeToString([]byte("a\n"))
			version, _ := s.do(t, "GET", "secret/metadata/"+path, "")["data"].(map[string]any)["current_version"].(float64)
			sayOld := func(cas int) string {
				b, _ := json.Marshal(map[string]any{"options": map[string]any{"cas": cas}, "data": map[string]any{"checkpoint": string(checkpoint(0).Text())}})
				return string(b)
			}
			stolen := []struct {
				what, method, path, body string
				may                      []string // whose token may
			}{
				{"sign, as the log does", "PUT", "transit/sign/" + name, signBody(kind, input, "1"), []string{sign}},
				{"sign, with the newest version", "PUT", "transit/sign/" + name, `{"input":"` + input + `"}`, nil},
				{"sign, with version 0", "PUT", "transit/sign/" + name, signBody(kind, input, "0"), nil},
				{"sign, with a number for a version", "PUT", "transit/sign/" + name, `{"input":"` + input + `","key_version":3}`, nil},
				{"sign what is hashed", "PUT", "transit/sign/" + name, `{"input":"` + input + `","key_version":"1","prehashed":true}`, nil},
				{"sign, by another hash", "PUT", "transit/sign/" + name + "/sha1", signBody(kind, input, "1"), nil},
				{"sign, by another hash, as asked", "PUT", "transit/sign/" + name, `{"input":"` + input + `","key_version":"1","hash_algorithm":"sha1"}`, nil},
				{"sign many", "PUT", "transit/sign/" + name, `{"input":"` + input + `","key_version":"1","batch_input":[{"input":"` + input + `"}]}`, nil},
				{"sign with another key", "PUT", "transit/sign/ed25519", signBody(kind, input, "1"), nil},
				{"read the key", "GET", "transit/keys/" + name, "", nil},
				{"list keys", "LIST", "transit/keys", "", nil},
				{"rotate", "POST", "transit/keys/" + name + "/rotate", `{}`, nil},
				{"configure the key", "POST", "transit/keys/" + name + "/config", `{"exportable":true,"allow_plaintext_backup":true,"deletion_allowed":true}`, nil},
				{"trim", "POST", "transit/keys/" + name + "/trim", `{"min_available_version":1}`, nil},
				{"export", "GET", "transit/export/signing-key/" + name, "", nil},
				{"export a version", "GET", "transit/export/signing-key/" + name + "/1", "", nil},
				{"back up", "GET", "transit/backup/" + name, "", nil},
				{"restore over it", "POST", "transit/restore/" + name, `{"backup":"x","force":true}`, nil},
				{"delete the key", "DELETE", "transit/keys/" + name, "", nil},
				{"make a key", "POST", "transit/keys/new", `{}`, nil},
				{"make a key by encrypting", "PUT", "transit/encrypt/new", `{"plaintext":"` + input + `"}`, nil},
				{"wrap", "PUT", "transit/encrypt/" + tenant, `{"plaintext":"` + input + `"}`, []string{wrap}},
				{"unwrap", "PUT", "transit/decrypt/" + tenant, `{"ciphertext":"` + string(wrapped) + `","associated_data":"YQ=="}`, []string{wrap}},
				{"export the KEK", "GET", "transit/export/encryption-key/" + tenant, "", nil},
				{"data keys of the engine", "PUT", "transit/datakey/plaintext/" + tenant, `{}`, nil},
				{"rotate the KEK", "POST", "transit/keys/" + tenant + "/rotate", `{}`, nil},
				{"read the anchor", "GET", "secret/data/" + path, "", []string{anchor}},
				{"read its settings", "GET", "secret/metadata/" + path, "", []string{anchor}},
				{"write the anchor blindly", "POST", "secret/data/" + path, `{"data":{"checkpoint":"x"}}`, nil},
				{"write the anchor from an old version", "POST", "secret/data/" + path, sayOld(int(version) - 1), nil},
				{"write the anchor as if it were new", "POST", "secret/data/" + path, sayOld(0), nil},
				{"patch the anchor", "PATCH", "secret/data/" + path, sayOld(int(version)), nil},
				{"delete the anchor", "DELETE", "secret/data/" + path, "", nil},
				{"delete a version of it", "POST", "secret/delete/" + path, fmt.Sprintf(`{"versions":[%v]}`, version), nil},
				{"undelete a version of it", "POST", "secret/undelete/" + path, `{"versions":[1]}`, nil},
				{"destroy a version of it", "PUT", "secret/destroy/" + path, fmt.Sprintf(`{"versions":[%v]}`, version), nil},
				{"forget all of it", "DELETE", "secret/metadata/" + path, "", nil},
				{"require no check-and-set", "POST", "secret/metadata/" + path, `{"cas_required":false}`, nil},
				{"require no check-and-set of the engine", "POST", "secret/config", `{"cas_required":false}`, nil},
				{"read another secret", "GET", "secret/data/openai", "", nil},
				{"write another anchor", "POST", "secret/data/anchors-" + kind + "/" + hexOf("log.example/other"), sayOld(0), nil},
				{"rewrite its own policy", "PUT", "sys/policies/acl/" + name + "-sign", `{"policy":"path \"*\" { capabilities = [\"sudo\"] }"}`, nil},
				{"unmount", "DELETE", "sys/mounts/transit", "", nil},
				{"seal", "PUT", "sys/seal", "", nil},
				{"make a token that may more", "POST", "auth/token/create", `{"policies":["root"]}`, nil},
			}
			for _, a := range stolen {
				for who, token := range map[string]string{"sign": sign, "anchor": anchor, "wrap": wrap} {
					status, says := s.try(t, token, a.method, a.path, a.body)
					if may := slices.Contains(a.may, token); may != (status < 300) {
						t.Errorf("a token to %s tries to %s: %d %s", who, a.what, status, says)
					}
				}
			}
			// What a policy of Vault cannot keep a thief of the anchor's token from: an old checkpoint as a new version. It is
			// there for all to see, and the versions before it too. The token to sign cannot.
			status, says := s.try(t, anchor, "POST", "secret/data/"+path, sayOld(int(version)))
			if status != 200 {
				t.Errorf("the known limit is not there any more; say so in Latest: %d %s", status, says)
			}
			if got, err := l.Load(ctx, origin); err != nil || !bytes.Equal(got, checkpoint(0).Text()) {
				t.Errorf("%q, %v", got, err)
			}
			if v := s.do(t, "GET", fmt.Sprintf("secret/data/%s?version=%v", path, version), ""); !strings.Contains(fmt.Sprint(v), "checkpoint") {
				t.Errorf("the version before it is gone: %v", v)
			}
		})
	}
}

func signBody(kind, input, version string) string {
	body := map[string]any{"input": input, "key_version": version}
	if kind == vault.ECDSAP256 {
		body["hash_algorithm"], body["marshaling_algorithm"] = "sha2-256", "asn1"
	}
	b, _ := json.Marshal(body)
	return string(b)
}

// loginStory logs in by every method that this Vault has.
func loginStory(t *testing.T, s *server) {
	ctx := t.Context()
	s.do(t, "POST", "transit/keys/logins", `{"type":"ed25519"}`)
	s.do(t, "PUT", "sys/policies/acl/logins", `{"policy":"path \"transit/keys/logins\" { capabilities = [\"read\"] }"}`)
	works := func(what string, c *vault.Client) {
		t.Helper()
		if _, err := c.Signer(ctx, ref(t, "vault:transit/logins?version=1"), origin, ""); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails := func(what string, c *vault.Client, says string) {
		t.Helper()
		_, err := c.Signer(ctx, ref(t, "vault:transit/logins?version=1"), origin, "")
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", what, err, says)
		}
	}
	s.do(t, "POST", "sys/auth/approle", `{"type":"approle"}`)
	s.do(t, "POST", "auth/approle/role/tally", `{"token_policies":"logins","token_ttl":"1h","secret_id_num_uses":3}`)
	role := s.do(t, "GET", "auth/approle/role/tally/role-id", "")["data"].(map[string]any)["role_id"].(string)
	secret := func() string {
		return s.do(t, "POST", "auth/approle/role/tally/secret-id", `{}`)["data"].(map[string]any)["secret_id"].(string)
	}
	wrapped := func(path string) string {
		r, err := http.NewRequest("POST", s.url+"/v1/"+path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", s.root)
		r.Header.Set("X-Vault-Wrap-TTL", "10m")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var m struct {
			Wrap struct{ Token string } `json:"wrap_info"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil || m.Wrap.Token == "" {
			t.Fatalf("wrapped %s: %v", path, err)
		}
		return m.Wrap.Token
	}
	approle := func(secret string, wrapped bool) *vault.Client {
		return s.open(t, vault.Login{AppRole: &vault.AppRole{RoleID: role, SecretID: keys.Credential{File: file(t, secret)}, Wrapped: wrapped}})
	}
	works("AppRole", approle(secret(), false))
	fails("AppRole, a wrong secret-id", approle("wrong", false), "invalid role or secret ID")
	w := wrapped("auth/approle/role/tally/secret-id")
	c := approle(w, true)
	works("AppRole, wrapped", c)
	fails("AppRole, wrapped, opened before", approle(w, true), "has been opened before")
	fails("AppRole, wrapped elsewhere", approle(wrapped("sys/wrapping/wrap"), true), "somebody has replaced it")
	s.do(t, "POST", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, s.token(t, "1h")))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, "POST", "sys/auth/jwt", `{"type":"jwt"}`)
	config, _ := json.Marshal(map[string]any{"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}, "bound_issuer": "issuer.example"})
	s.do(t, "POST", "auth/jwt/config", string(config))
	s.do(t, "POST", "auth/jwt/role/tally", `{"role_type":"jwt","user_claim":"sub","bound_audiences":["vault"],"token_policies":"logins","token_ttl":"1h"}`)
	jwt := func(aud string) *vault.Client {
		return s.open(t, vault.Login{JWT: &vault.JWT{Role: "tally", Token: keys.Credential{File: file(t, signJWT(t, key, aud))}}})
	}
	works("JWT", jwt("vault"))
	fails("JWT for somebody else", jwt("other"), "log in to Vault: by jwt: PUT auth/jwt/login")
	// The log-in of Kubernetes is the same question at another mount.
	s.do(t, "POST", "sys/auth/cluster", `{"type":"jwt"}`)
	s.do(t, "POST", "auth/cluster/config", string(config))
	s.do(t, "POST", "auth/cluster/role/tally", `{"role_type":"jwt","user_claim":"sub","bound_audiences":["vault"],"token_policies":"logins"}`)
	works("Kubernetes", s.open(t, vault.Login{Kubernetes: &vault.Kubernetes{Mount: "cluster", Role: "tally", Token: file(t, signJWT(t, key, "vault"))}}))

	works("token", s.client(t, s.token(t, "1h", "logins")))
	fails("a token that is none", s.client(t, "hvs.nobody"), "not valid here")
}

func signJWT(t *testing.T, key *ecdsa.PrivateKey, aud string) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	now := time.Now()
	claims, _ := json.Marshal(map[string]any{"iss": "issuer.example", "sub": "tally", "aud": aud, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	text := b64([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// tokenStory lives with tokens of a few seconds, in real time: renewed up to their greatest age, replaced after that,
// replaced when they are revoked. Who signs all the while notices nothing.
func tokenStory(t *testing.T, s *server) {
	s.do(t, "POST", "transit/keys/tokens", `{"type":"ed25519"}`)
	s.do(t, "PUT", "sys/policies/acl/tokens", `{"policy":"path \"transit/sign/tokens\" { capabilities = [\"update\"] }"}`)
	s.do(t, "POST", "auth/approle/role/short", `{"token_policies":"tokens","token_ttl":"6s","token_max_ttl":"15s"}`)
	role := s.do(t, "GET", "auth/approle/role/short/role-id", "")["data"].(map[string]any)["role_id"].(string)
	secret := s.do(t, "POST", "auth/approle/role/short/secret-id", `{}`)["data"].(map[string]any)["secret_id"].(string)
	admin := s.client(t, s.root)
	pinned, err := admin.Signer(t.Context(), ref(t, "vault:transit/tokens?version=1"), origin, "")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var log bytes.Buffer
	said := func() string { mu.Lock(); defer mu.Unlock(); return log.String() }
	c, err := vault.New(vault.Config{
		Address: s.url, Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil)),
		Login: vault.Login{AppRole: &vault.AppRole{RoleID: role, SecretID: keys.Credential{File: file(t, secret)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	signer, err := c.Signer(ctx, pinned.Reference(), origin, pinned.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	// Until the third log-in at least: two greatest ages.
	await(t, "three log-ins", func() error {
		if _, err := signer.Sign([]byte("a\n")); err != nil {
			t.Errorf("while tokens come and go: %v", err)
		}
		if n := strings.Count(said(), "logged in to Vault"); n < 3 {
			return fmt.Errorf("%d log-ins", n)
		}
		return nil
	})
	s.do(t, "PUT", "sys/leases/revoke-force/auth/approle", "")
	await(t, "a signature after all tokens were revoked", func() error { _, err := signer.Sign([]byte("a\n")); return err })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strings.Contains(said(), "hvs.") || strings.Contains(said(), secret) {
		t.Errorf("the log shows a secret:\n%s", said())
	}
	// A token that was handed out and has ended is told.
	c = s.client(t, s.token(t, "2s", "tokens"))
	if signer, err = c.Signer(t.Context(), pinned.Reference(), origin, pinned.VerifierKey()); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of a token", func() error {
		if _, err := signer.Sign([]byte("a\n")); errors.Is(err, keys.ErrDenied) {
			return nil
		} else {
			return fmt.Errorf("not denied: %v", err)
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestVaultTLS logs in with a client certificate, which is replaced on the way.
func TestVaultTLS(t *testing.T) {
	dir := t.TempDir()
	s, _ := startVault(t, "-dev-tls", "-dev-tls-cert-dir="+dir)
	ca := filepath.Join(dir, "vault-ca.pem")
	admin, err := vault.New(vault.Config{Address: s.url, CACert: ca, Login: vault.Login{Token: keys.Credential{File: file(t, s.root)}}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	b, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatalf("the authority of this Vault: %v", err)
	}
	http.DefaultTransport.(*http.Transport).TLSClientConfig.RootCAs = pool
	t.Cleanup(func() { http.DefaultTransport.(*http.Transport).TLSClientConfig.RootCAs = nil })
	s.do(t, "POST", "sys/mounts/transit", `{"type":"transit"}`)
	s.do(t, "POST", "transit/keys/log", `{"type":"ed25519"}`)
	s.do(t, "POST", "sys/auth/cert", `{"type":"cert"}`)
	s.do(t, "PUT", "sys/policies/acl/log", `{"policy":"path \"transit/keys/log\" { capabilities = [\"read\"] }"}`)
	certPath, keyPath := filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	first := clientCert(t, certPath, keyPath)
	body, _ := json.Marshal(map[string]any{"certificate": first, "policies": "log"})
	s.do(t, "POST", "auth/cert/certs/tally", string(body))
	if _, err := admin.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, ""); err != nil {
		t.Error(err)
	}
	c, err := vault.New(vault.Config{Address: s.url, CACert: ca, ClientCert: certPath, ClientKey: keyPath, Login: vault.Login{Cert: &vault.Cert{Role: "tally"}}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
		return err
	}
	if err := ask(); err != nil {
		t.Errorf("a log-in by certificate: %v", err)
	}
	second := clientCert(t, certPath, keyPath)
	body, _ = json.Marshal(map[string]any{"certificate": second, "policies": "log"})
	s.do(t, "POST", "auth/cert/certs/tally", string(body))
	s.do(t, "PUT", "sys/leases/revoke-force/auth/cert", "")
	await(t, "a log-in with the next certificate", ask)
	stranger, err := vault.New(vault.Config{Address: s.url, Login: vault.Login{Token: keys.Credential{File: file(t, s.root)}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, ""); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority nobody named: %v", err)
	}
}

// clientCert writes a new certificate for a client, signed by itself, and returns it in PEM.
func clientCert(t *testing.T, certPath, keyPath string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "tally"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(certPath, cert, 0o600), os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return string(cert)
}
