package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/gateway/saml/samltest"
	"github.com/tallystick/tallystick/gateway/token"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// An issuer is an OpenID Connect issuer that has one key, and takes for granted who logs in.
type issuer struct {
	URL  string
	mint func(claims map[string]any) string // makes tokens of it

	mu    sync.Mutex
	codes map[string]map[string]any // under mu: the claims of who was let in, by code
}

// letIn has the issuer let somebody in whose browser came with an address, and returns the code to go back with.
func (is *issuer) letIn(to string, claims map[string]any) url.Values {
	u, _ := url.Parse(to)
	code := rand.Text()
	is.mu.Lock()
	defer is.mu.Unlock()
	is.codes[code] = map[string]any{"nonce": u.Query().Get("nonce"), "aud": u.Query().Get("client_id")}
	maps.Copy(is.codes[code], claims)
	return url.Values{"code": {code}, "state": {u.Query().Get("state")}}
}

// newIssuer runs one.
func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	is := &issuer{codes: make(map[string]map[string]any)}
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]any{"issuer": srv.URL, "jwks_uri": srv.URL + "/keys", "authorization_endpoint": srv.URL + "/auth", "token_endpoint": srv.URL + "/token"})
		case "/keys":
			json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}})
		case "/token":
			is.mu.Lock()
			claims, ok := is.codes[r.FormValue("code")]
			delete(is.codes, r.FormValue("code"))
			is.mu.Unlock()
			if !ok {
				http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]any{"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "id_token": is.mint(claims)})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	is.URL = srv.URL
	is.mint = func(claims map[string]any) string {
		t.Helper()
		all := map[string]any{"iss": srv.URL, "aud": "tallystick", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
		for k, v := range claims {
			all[k] = v
		}
		body, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		signed := b64([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + b64(body)
		sum := sha256.Sum256([]byte(signed))
		sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + b64(sig)
	}
	return is
}

// spoofed are forty headers that claim an identity, and a cookie of somebody's.
var spoofed = []string{
	"X-Audit-User", "X-User", "X-User-Id", "X-Username", "X-Remote-User", "Remote-User", "X-Authenticated-User", "X-Auth-User", "X-Auth-Request-User",
	"X-Auth-Request-Email", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Forwarded-Client-Cert", "X-Principal", "X-Identity",
	"X-Tenant", "X-Org", "X-Caller", "X-Client-Id", "X-Client-Cert", "X-Ssl-Client-S-Dn", "X-Webauth-User", "X-Goog-Authenticated-User-Email", "X-Goog-Iap-Jwt-Assertion",
	"X-Ms-Client-Principal-Name", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Data", "Cf-Access-Jwt-Assertion", "X-Original-User", "X-Impersonate-User", "Impersonate-User",
	"X-Consumer-Username", "X-Credential-Identifier", "Tallystick-Caller", "Tallystick-Principal", "X-Tallystick-User", "X-Api-User", "X-Real-User", "Api-Key",
}

// The same call is recorded with the right principal, whether it comes with a static key, a client certificate, a token of an
// issuer or a token after a SAML log-in, and no header of the caller's changes that.
func TestIdentities(t *testing.T) {
	a := newApartment(t, true)
	idp := samltest.New(t)
	there := newIssuer(t)
	at, mint := there.URL, there.mint
	base := strings.Replace(a.vars["GATEWAY_URL"], "http://", "https://", 1)
	b, err := os.ReadFile(filepath.Join(a.dir, "gw.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	spki := regexp.MustCompile(`keys: \[([0-9a-f]{64})\]`)
	logFile, err := os.ReadFile(filepath.Join(a.dir, "log.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "  callers:\n", fmt.Sprintf(`  tls: {cert: server.crt, key: server.key}
  identity:
    public: %s
    certificates:
      roots: ca.crt
      callers:
        - {name: batch, key: "2026", spki: %s, groups: [machines]}
    tokens: {dir: gwdata/tokens, life: 1h}
    issuers:
      - {name: okta, url: %q, audiences: [tallystick], groups: [groups]}
    saml:
      - {name: idp, metadata: idp.xml, email: %q, groups: %q}
  callers:
`, base, spki.FindStringSubmatch(string(logFile))[1], at, samltest.EmailAttribute, samltest.GroupsAttribute), 1)
	for name, b := range map[string][]byte{"gw.yaml": []byte(text), "idp.xml": idp.Metadata()} {
		if err := os.WriteFile(filepath.Join(a.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.env = append(a.env, "SSL_CERT_FILE="+filepath.Join(a.dir, "ca.crt"), "TALLYSTICK_GATEWAY="+base)
	a.log.start()
	a.gw.start()

	roots := x509.NewCertPool()
	if ca, err := os.ReadFile(filepath.Join(a.dir, "ca.crt")); err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "client.crt"), filepath.Join(a.dir, "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	client := func(certs ...tls.Certificate) *http.Client {
		jar, _ := cookiejar.New(nil)
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	plain, machine, browser := client(), client(pair), client()
	fetch := func(resp *http.Response, err error) (*http.Response, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := plain.Get(base + "/.tallystick/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the gateway does not answer\n%s\n%s", a.gw.out, a.log.out)
		}
	}

	// A person logs in: the command shows a code, the browser goes to the provider and back, and says yes.
	_, metadata := fetch(plain.Get(base + login.SAMLPath + "/idp"))
	idp.Register("gateway", []byte(metadata))
	cmd, out := a.command("login", "--name", "laptop"), &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	var open, code string
	for deadline := time.Now().Add(time.Minute); code == ""; time.Sleep(10 * time.Millisecond) {
		if m := regexp.MustCompile(`Open  (\S+)\nCode  (\S+)\n`).FindStringSubmatch(out.String()); m != nil {
			open, code = m[1], m[2]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the command shows no code: %s", out)
		}
	}
	_, page := fetch(browser.Get(open))
	start := regexp.MustCompile(`href="([^"]*/start\?[^"]*)"`).FindStringSubmatch(page)
	if start == nil {
		t.Fatalf("%s", page)
	}
	resp, _ := fetch(browser.Get(base + strings.ReplaceAll(start[1], "&amp;", "&")))
	to, form := idp.LogIn(idp.Browser, resp.Header.Get("Location"))
	_, page = fetch(client().PostForm(to, form)) // from another site: without cookies
	to, form = samltest.Form(page)
	_, page = fetch(browser.PostForm(base+to, form))
	next := regexp.MustCompile(`content="0;url=([^"]*)"`).FindStringSubmatch(page)
	if next == nil {
		t.Fatalf("%s", page)
	}
	_, page = fetch(browser.Get(base + next[1]))
	if !strings.Contains(page, ">"+code+"<") || !strings.Contains(page, "laptop") {
		t.Fatalf("the page shows no code %s: %s", code, page)
	}
	_, form = samltest.Form(page)
	form.Set("decision", "yes")
	if resp, page := fetch(browser.PostForm(base+login.Path+"/confirm", form)); resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, page)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("tally login: %v\n%s", err, out)
		}
	case <-time.After(time.Minute):
		t.Fatalf("tally login goes on: %s", out)
	}
	kept := regexp.MustCompile(`The token is in (\S+):`).FindStringSubmatch(out.String())
	if kept == nil {
		t.Fatalf("%s", out)
	}
	if st, err := os.Stat(kept[1]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	raw, err := os.ReadFile(kept[1])
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.TrimSpace(string(raw))
	if !strings.HasPrefix(mine, token.Prefix) || strings.Contains(out.String(), mine) {
		t.Errorf("the token is %.5s..., and the command said %s", mine, out)
	}
	where, _ := url.Parse(base)
	var session string
	for _, c := range browser.Jar.Cookies(where) {
		if c.Name == "__Host-tallystick-session" {
			session = c.Value
		}
	}
	if session == "" {
		t.Error("the browser has no session")
	}

	okta := mint(map[string]any{"sub": "00u1", "email": "carol@example.com", "email_verified": true, "groups": []string{"staff"}, "jti": "t-1"})
	call := func(c *http.Client, bearer string, spoof bool) (int, string, string) {
		t.Helper()
		req, err := http.NewRequest("POST", base+"/v1/chat/completions", strings.NewReader(`{"model":"fake-1","messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		if spoof {
			for _, name := range spoofed {
				req.Header.Set(name, "root")
			}
			req.Header.Set("Cookie", "__Host-tallystick-session="+session)
		}
		resp, b := fetch(c.Do(req))
		return resp.StatusCode, resp.Header.Get(gateway.SessionHeader), b
	}
	var said strings.Builder
	for _, c := range []struct {
		name   string
		client *http.Client
		bearer string
		want   map[string]string
	}{
		{"a static key", plain, a.vars["API_KEY"], map[string]string{record.FieldCaller: "alice", record.FieldHow: "key", record.FieldSubject: "", record.FieldEmail: ""}},
		{"a client certificate", machine, "", map[string]string{record.FieldCaller: "batch", record.FieldHow: "cert", record.FieldKey: "2026", record.FieldGroups: `["machines"]`}},
		{"a certificate beside a word that SDKs cannot do without", machine, "none", map[string]string{record.FieldCaller: "batch", record.FieldHow: "cert"}},
		{"a token of an issuer", plain, okta, map[string]string{record.FieldCaller: "okta:00u1", record.FieldHow: "oidc", record.FieldIssuer: at, record.FieldSubject: "00u1", record.FieldEmail: "carol@example.com", record.FieldGroups: `["staff"]`, record.FieldKey: "t-1"}},
		{"a token after a SAML log-in", plain, mine, map[string]string{record.FieldCaller: "idp:" + samltest.Email, record.FieldHow: "token", record.FieldIssuer: idp.Entity(), record.FieldSubject: samltest.Email, record.FieldEmail: samltest.Email, record.FieldGroups: `["staff","approvers"]`}},
	} {
		for _, spoof := range []bool{false, true} {
			status, id, answer := call(c.client, c.bearer, spoof)
			if status != 200 {
				t.Errorf("%s: %d %s", c.name, status, answer)
				continue
			}
			file := filepath.Join(a.dir, id+".bundle")
			if _, errs, code := a.tally("export", id, "--log", a.vars["DESK_URL"], "--token-file", "gwdata/operator.token", "-o", file); code != 0 {
				t.Fatalf("export: %s", errs)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			said.Write(raw)
			bundle, err := verify.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			for _, f := range bundle.Sessions[0].Entries[0].Fields {
				if f.Shown != nil {
					got[f.Shown.Name] = string(f.Shown.Value)
				}
			}
			for name, want := range c.want {
				if got[name] != want {
					t.Errorf("%s, spoofed %v: %s is on record as %q, want %q", c.name, spoof, name, got[name], want)
				}
			}
			last, _ := a.model.Last()
			for _, secret := range []string{c.bearer, session, "root"} {
				if len(secret) > 3 && strings.Contains(string(last.Head), secret) && secret != "none" {
					t.Errorf("%s, spoofed %v: the model was sent %s", c.name, spoof, last.Head)
				}
			}
		}
	}
	for _, no := range []string{"nobody's", mine + "x", okta[:len(okta)-2], mint(map[string]any{"sub": "00u1", "aud": "other"}), session} {
		if status, _, b := call(plain, no, true); status != 401 || !strings.Contains(b, "invalid_api_key") {
			t.Errorf("%.20s...: %d %s", no, status, b)
		}
	}

	// The token is listed and revoked.
	list, errs, exit := a.tally("tokens", "list")
	if exit != 0 || !strings.Contains(list, "this one") || strings.Count(list, "\n") != 2 {
		t.Fatalf("%s%s", list, errs)
	}
	all, errs, exit := a.tally("tokens", "list", "--config", "gw.yaml")
	if exit != 0 || strings.Count(all, "idp:"+samltest.Email) != 2 {
		t.Errorf("%s%s", all, errs)
	}
	id := regexp.MustCompile(`([0-9a-f]{24})  bearer`).FindStringSubmatch(list)
	if id == nil {
		t.Fatal(list)
	}
	if out, errs, exit := a.tally("tokens", "revoke", id[1]); exit != 0 || !strings.Contains(out, "is revoked") {
		t.Errorf("%s%s", out, errs)
	}
	if status, _, _ := call(plain, mine, false); status != 401 {
		t.Errorf("a revoked token: %d", status)
	}
	if _, errs, exit := a.tally("tokens", "list"); exit != 1 || !strings.Contains(errs, "tally login") {
		t.Errorf("%d %s", exit, errs)
	}
	// The session that is left is ended by whoever runs the gateway.
	id = regexp.MustCompile(`([0-9a-f]{24})  session`).FindStringSubmatch(all)
	if out, errs, exit := a.tally("tokens", "revoke", id[1], "--config", "gw.yaml"); exit != 0 {
		t.Errorf("%s%s", out, errs)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, page := fetch(browser.Get(base + login.Path)); strings.Contains(page, "Log in with idp") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the session lives on")
		}
	}
	for _, secret := range []string{mine, session, okta, a.vars["API_KEY"], "sk-model"} {
		if strings.Contains(said.String(), secret) || strings.Contains(a.gw.out.String(), secret) {
			t.Errorf("%.10s... is on record, or was said", secret)
		}
	}
}

// What the commands say to who is not where they expect.
func TestLoginRefuses(t *testing.T) {
	p := newPlace(t)
	nobody := freePort(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"login"}, 64, "--gateway URL"},
		{[]string{"login", "--gateway", "gateway.example"}, 1, "such as https://"},
		{[]string{"login", "--gateway", "http://gateway.example"}, 1, "in the clear"},
		{[]string{"login", "--gateway", "https://gateway.example/v1"}, 1, "such as https://"},
		{[]string{"login", "--gateway", "http://" + nobody}, 1, "refused"},
		{[]string{"tokens", "list", "--gateway", "http://" + nobody}, 1, "you have no token"},
		{[]string{"tokens", "revoke"}, 64, "an argument is missing"},
		{[]string{"tokens", "lists"}, 64, "no command \"tokens lists\""},
	} {
		if _, errs, code := p.tally(c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d: %s", c.args, code, errs)
		}
	}
}
