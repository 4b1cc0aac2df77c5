package vault

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// What must never be shown has this in it.
const canary = "c4n4ry-"

const origin = "log.example/1"

// A fake is a Vault in memory that answers as Vault does, in its words, where this room asks it; and whose faults can be
// chosen, also those that a real one will not produce.
type fake struct {
	// fault is asked before everything else. It may answer by itself, and returns whether it has.
	fault func(w http.ResponseWriter, r *http.Request, body map[string]any) bool
	// lose is asked after an answer was made. If true the answer never arrives.
	lose func(r *http.Request) bool
	// signing is told what is about to be signed, with mu held. It may be nil.
	signing func(msg []byte)

	ttl, max time.Duration // of tokens that are made; 0 for ever
	batch    bool          // tokens cannot be renewed

	mu       sync.Mutex
	sealed   bool
	asked    []string // method and path, in order
	tokens   map[string]*fakeToken
	made     int
	keys     map[string]*fakeKey
	kv       map[string]*fakeSecret
	engine   map[string]any // config of the KV engine
	policies map[string]string
	wraps    map[string]wrap
	secretID string
}

type wrap struct {
	path string
	data map[string]any
}

type fakeToken struct {
	made, until time.Time // until zero: for ever
	denied      []string  // paths beginning so are not allowed
}

type fakeKey struct {
	kind     string
	versions []any // crypto.Signer or cipher.AEAD
	min      int   // for encryption and signatures
	minOpen  int
}

type fakeSecret struct {
	settings map[string]any
	versions []fakeVersion
}

type fakeVersion struct {
	data      map[string]any
	deleted   string
	destroyed bool
}

func newFake() *fake {
	return &fake{
		tokens:   map[string]*fakeToken{canary + "root": {}},
		keys:     map[string]*fakeKey{},
		kv:       map[string]*fakeSecret{},
		engine:   map[string]any{"cas_required": false, "delete_version_after": "0s", "max_versions": 0},
		policies: map[string]string{},
		wraps:    map[string]wrap{},
		secretID: canary + "secret-id",
	}
}

func (f *fake) addKey(t testing.TB, name, kind string) *fakeKey {
	t.Helper()
	k := &fakeKey{kind: kind}
	f.keys[name] = k
	k.rotate(t)
	return k
}

func (k *fakeKey) rotate(t testing.TB) {
	t.Helper()
	switch k.kind {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k.versions = append(k.versions, key)
	case ECDSAP256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k.versions = append(k.versions, key)
	default:
		var key [32]byte
		rand.Read(key[:])
		block, err := aes.NewCipher(key[:])
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			t.Fatal(err)
		}
		k.versions = append(k.versions, aead)
	}
}

// vkey is the verifier key of a version, counted from 1.
func (k *fakeKey) vkey(t testing.TB, version int) string {
	t.Helper()
	v, err := tlog.LogVerifierKey(origin, k.versions[version-1].(crypto.Signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// RoundTrip lets a client ask the fake without a network, and so in virtual time.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	serve := f.handler()
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }()
		serve(w, r)
	}()
	select {
	case p := <-done:
		if p == errCut {
			return nil, io.ErrUnexpectedEOF
		}
		if p != nil {
			panic(p)
		}
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// errCut is what a handler panics with to cut the connection.
var errCut = http.ErrAbortHandler

func refuse(w http.ResponseWriter, status int, errs ...string) {
	if errs == nil {
		errs = []string{}
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": errs})
}

func reply(w http.ResponseWriter, data map[string]any) {
	json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": nil, "warnings": nil, "auth": nil})
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.handler()(w, r) }

// handler answers with the faults that are chosen now.
func (f *fake) handler() http.HandlerFunc {
	f.mu.Lock()
	fault, lose, sealed := f.fault, f.lose, f.sealed
	f.mu.Unlock()
	return func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		raw, _ := io.ReadAll(r.Body)
		json.Unmarshal(raw, &body)
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
		f.mu.Unlock()
		if fault != nil && fault(w, r, body) {
			return
		}
		if sealed {
			refuse(w, 503, "Vault is sealed")
			return
		}
		f.mu.Lock()
		f.serve(w, r, body)
		f.mu.Unlock()
		if lose != nil && lose(r) {
			panic(errCut)
		}
	}
}

// newToken makes a token, with f.mu held.
func (f *fake) newToken() string {
	f.made++
	name := fmt.Sprintf("%stoken-%d", canary, f.made)
	tok := &fakeToken{made: time.Now()}
	if f.ttl > 0 {
		tok.until = tok.made.Add(f.ttl)
	}
	f.tokens[name] = tok
	return name
}

// life is what an answer says about the life of a token.
func (f *fake) life(tok *fakeToken) (seconds int64, renewable bool) {
	if tok.until.IsZero() {
		return 0, false
	}
	return int64(time.Until(tok.until) / time.Second), !f.batch
}

func (f *fake) replyAuth(w http.ResponseWriter, name string) {
	seconds, renewable := f.life(f.tokens[name])
	json.NewEncoder(w).Encode(map[string]any{"data": nil, "auth": map[string]any{"client_token": name, "accessor": "a", "lease_duration": seconds, "renewable": renewable}})
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request, body map[string]any) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	text := func(name string) string { s, _ := body[name].(string); return s }
	switch path {
	case "auth/approle/login", "auth/other/approle/login":
		if text("role_id") != "role-1" || text("secret_id") != f.secretID {
			refuse(w, 400, "invalid role or secret ID")
			return
		}
		f.replyAuth(w, f.newToken())
		return
	case "auth/kubernetes/login", "auth/jwt/login":
		if text("role") != "tally" || text("jwt") != canary+"jwt" {
			refuse(w, 403, "permission denied")
			return
		}
		f.replyAuth(w, f.newToken())
		return
	case "auth/cert/login":
		if r.TLS != nil && len(r.TLS.PeerCertificates) == 0 || text("name") != "tally" {
			refuse(w, 400, "client certificate must be supplied")
			return
		}
		f.replyAuth(w, f.newToken())
		return
	case "sys/wrapping/lookup":
		wr, ok := f.wraps[text("token")]
		if !ok {
			refuse(w, 400, "wrapping token is not valid or does not exist")
			return
		}
		reply(w, map[string]any{"creation_path": wr.path, "creation_ttl": 60})
		return
	case "sys/wrapping/unwrap":
		name := r.Header.Get("X-Vault-Token")
		wr, ok := f.wraps[name]
		if !ok {
			refuse(w, 400, "wrapping token is not valid or does not exist")
			return
		}
		delete(f.wraps, name)
		reply(w, wr.data)
		return
	}
	name := r.Header.Get("X-Vault-Token")
	tok := f.tokens[name]
	if name == "" {
		refuse(w, 403, "permission denied")
		return
	}
	if tok == nil || !tok.until.IsZero() && !time.Now().Before(tok.until) {
		refuse(w, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	for _, d := range tok.denied {
		if strings.HasPrefix(path, d) {
			refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
			return
		}
	}
	switch {
	case path == "auth/token/lookup-self":
		seconds, renewable := f.life(tok)
		data := map[string]any{"ttl": seconds, "renewable": renewable, "id": name, "expire_time": nil}
		if !tok.until.IsZero() {
			data["expire_time"] = tok.until.Format(time.RFC3339Nano)
		}
		reply(w, data)
	case path == "auth/token/renew-self":
		if f.batch {
			refuse(w, 400, "lease is not renewable")
			return
		}
		tok.until = time.Now().Add(f.ttl)
		if most := tok.made.Add(f.max); f.max > 0 && tok.until.After(most) {
			tok.until = most
		}
		f.replyAuth(w, name)
	case strings.HasPrefix(path, "sys/policies/acl/"):
		f.policies[strings.TrimPrefix(path, "sys/policies/acl/")] = text("policy")
		w.WriteHeader(204)
	case strings.HasPrefix(path, "transit/"):
		f.serveTransit(w, r, strings.TrimPrefix(path, "transit/"), body)
	case strings.HasPrefix(path, "secret/"):
		f.serveKV(w, r, strings.TrimPrefix(path, "secret/"), body)
	default:
		refuse(w, 404, fmt.Sprintf("no handler for route %q. route entry not found.", path))
	}
}

func (f *fake) serveTransit(w http.ResponseWriter, r *http.Request, path string, body map[string]any) {
	text := func(name string) string { s, _ := body[name].(string); return s }
	verb, rest, _ := strings.Cut(path, "/")
	name, more, _ := strings.Cut(rest, "/")
	k := f.keys[name]
	version := 0
	if v := text("key_version"); v != "" {
		version, _ = strconv.Atoi(v)
	}
	pick := func() bool {
		switch {
		case version == 0:
			version = len(k.versions)
		case version > len(k.versions):
			refuse(w, 500, fmt.Sprintf("1 error occurred:\n\t* requested version for %s is higher than the latest key version\n\n", map[string]string{"sign": "signing"}[verb]))
			return false
		case version < k.min:
			refuse(w, 500, "1 error occurred:\n\t* requested version for signing is less than the minimum encryption key version\n\n")
			return false
		}
		return true
	}
	switch verb {
	case "keys":
		if r.Method == "GET" {
			if k == nil {
				refuse(w, 404)
				return
			}
			reply(w, k.describe())
			return
		}
		if more == "rotate" {
			k.rotate(panicking{})
		} else if k == nil {
			f.addKey(panicking{}, name, text("type"))
		}
		w.WriteHeader(204)
	case "sign":
		if k == nil {
			refuse(w, 400, "signing key not found")
			return
		}
		if k.kind != Ed25519 && k.kind != ECDSAP256 {
			refuse(w, 400, "key type "+k.kind+" does not support signing")
			return
		}
		if !pick() {
			return
		}
		msg, err := base64.StdEncoding.DecodeString(text("input"))
		if err != nil {
			refuse(w, 400, "unable to decode input as base64")
			return
		}
		if f.signing != nil {
			f.signing(msg)
		}
		reply(w, map[string]any{"signature": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(signWith(k.versions[version-1], msg))), "key_version": version})
	case "encrypt":
		if k == nil {
			refuse(w, 400, "encryption key not found")
			return
		}
		if !pick() {
			return
		}
		plain, _ := base64.StdEncoding.DecodeString(text("plaintext"))
		aad, _ := base64.StdEncoding.DecodeString(text("associated_data"))
		sealed := k.versions[version-1].(cipher.AEAD).Seal(nil, nil, plain, aad)
		reply(w, map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(sealed)), "key_version": version})
	case "decrypt":
		if k == nil {
			refuse(w, 400, "encryption key not found")
			return
		}
		parts := strings.Split(text("ciphertext"), ":")
		n := 0
		if len(parts) == 3 {
			n, _ = strconv.Atoi(strings.TrimPrefix(parts[1], "v"))
		}
		switch {
		case n == 0:
			refuse(w, 400, "invalid ciphertext: no prefix")
			return
		case n > len(k.versions):
			refuse(w, 400, "invalid ciphertext: version is too new")
			return
		case n < k.minOpen:
			refuse(w, 400, "ciphertext or signature version is disallowed by policy (too old)")
			return
		}
		sealed, err := base64.StdEncoding.DecodeString(parts[2])
		if err != nil {
			refuse(w, 400, "invalid ciphertext: could not decode base64")
			return
		}
		aad, _ := base64.StdEncoding.DecodeString(text("associated_data"))
		plain, err := k.versions[n-1].(cipher.AEAD).Open(nil, nil, sealed, aad)
		if err != nil {
			refuse(w, 400, "cipher: message authentication failed")
			return
		}
		reply(w, map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)})
	}
}

func signWith(key any, msg []byte) []byte {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, msg)
	case *ecdsa.PrivateKey:
		h := sha256.Sum256(msg)
		sig, err := ecdsa.SignASN1(rand.Reader, k, h[:])
		if err != nil {
			panic(err)
		}
		return sig
	}
	panic("no key to sign with")
}

func (k *fakeKey) describe() map[string]any {
	versions := map[string]any{}
	for i, v := range k.versions {
		if i+1 < k.min {
			continue
		}
		switch v := v.(type) {
		case ed25519.PrivateKey:
			versions[strconv.Itoa(i+1)] = map[string]any{"name": "ed25519", "public_key": base64.StdEncoding.EncodeToString(v.Public().(ed25519.PublicKey))}
		case *ecdsa.PrivateKey:
			der, _ := x509.MarshalPKIXPublicKey(v.Public())
			versions[strconv.Itoa(i+1)] = map[string]any{"name": "P-256", "public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
		default:
			versions[strconv.Itoa(i+1)] = 1700000000
		}
	}
	return map[string]any{"type": k.kind, "keys": versions, "latest_version": len(k.versions), "derived": false, "exportable": false, "allow_plaintext_backup": false}
}

func (f *fake) serveKV(w http.ResponseWriter, r *http.Request, path string, body map[string]any) {
	if path == "config" {
		reply(w, f.engine)
		return
	}
	verb, path, _ := strings.Cut(path, "/")
	s := f.kv[path]
	switch {
	case verb == "metadata" && r.Method == "GET":
		if s == nil {
			refuse(w, 404)
			return
		}
		data := map[string]any{"cas_required": false, "delete_version_after": "0s", "max_versions": 0, "current_version": len(s.versions)}
		for k, v := range s.settings {
			data[k] = v
		}
		reply(w, data)
	case verb == "metadata":
		if s == nil {
			s = &fakeSecret{}
			f.kv[path] = s
		}
		s.settings = body
		w.WriteHeader(204)
	case verb == "data" && r.Method == "GET":
		n := 0
		if s != nil {
			n = len(s.versions)
		}
		if v := r.URL.Query().Get("version"); v != "" {
			n, _ = strconv.Atoi(v)
		}
		if s == nil || n < 1 || n > len(s.versions) {
			refuse(w, 404)
			return
		}
		v := s.versions[n-1]
		data := map[string]any{"data": v.data, "metadata": map[string]any{"version": n, "created_time": "2026-01-01T00:00:00Z", "deletion_time": v.deleted, "destroyed": v.destroyed}}
		if v.deleted != "" || v.destroyed {
			data["data"] = nil
			w.WriteHeader(404)
		}
		reply(w, data)
	case verb == "data":
		if s == nil {
			s = &fakeSecret{}
		}
		options, _ := body["options"].(map[string]any)
		cas, ok := options["cas"].(float64)
		if !ok && (f.engine["cas_required"] == true || s.settings["cas_required"] == true) {
			refuse(w, 400, "check-and-set parameter required for this call")
			return
		}
		if ok && int(cas) != len(s.versions) {
			refuse(w, 400, "check-and-set parameter did not match the current version")
			return
		}
		f.kv[path] = s
		data, _ := body["data"].(map[string]any)
		s.versions = append(s.versions, fakeVersion{data: data})
		reply(w, map[string]any{"version": len(s.versions), "destroyed": false, "deletion_time": ""})
	}
}

// panicking is a testing.TB for where none is at hand.
type panicking struct{ testing.TB }

func (panicking) Helper()           {}
func (panicking) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// requests returns what was asked since the last time, without what does log-ins.
func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, a := range f.asked {
		if !strings.Contains(a, " auth/") && !strings.Contains(a, " sys/wrapping/") {
			out = append(out, a)
		}
	}
	f.asked = nil
	return out
}

// logIns counts what was made since the beginning.
func (f *fake) logIns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

// revoke makes all tokens unknown.
func (f *fake) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
}

// journal collects what is logged, for a look at the end.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// wantNoTrace looks for canaries in any of the forms that a careless hand gives them.
func wantNoTrace(t testing.TB, out string) {
	t.Helper()
	for _, s := range []string{canary, "c4n4ry", fmt.Sprintf("%x", canary[:6]), base64.StdEncoding.EncodeToString([]byte(canary))[:8]} {
		if strings.Contains(out, s) {
			t.Errorf("a secret shows as %q in %s", s, out)
		}
	}
}

// client returns a client of the fake that logs in by AppRole, and looks through all that it logged when the test ends.
func (f *fake) client(t testing.TB, change func(*Config)) *Client {
	t.Helper()
	log := new(journal)
	cfg := Config{
		Address:   "https://vault.example:8200",
		Login:     Login{AppRole: &AppRole{RoleID: "role-1", SecretID: keys.Credential{Env: "SECRET_ID"}}},
		Lookup:    func(string) (string, bool) { return f.secretID, true },
		Logger:    newLogger(log),
		transport: f,
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wantNoTrace(t, log.String()) })
	return c
}

// write puts a secret into a file for a Login to read.
func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ref(t testing.TB, s string) keys.Reference {
	t.Helper()
	r, err := keys.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func checkpoint(size uint64) tlog.Checkpoint {
	if size == 0 {
		return tlog.Checkpoint{Origin: origin, Root: tlog.EmptyRoot()}
	}
	return tlog.Checkpoint{Origin: origin, Size: size, Root: tlog.HashLeaf([]byte{byte(size)})}
}

func newLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
