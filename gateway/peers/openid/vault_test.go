//go:build vault

package openid

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/gateway/oidc"
	"github.com/tallystick/tallystick/gateway/token"
)

// A vault is HashiCorp Vault in its development mode, in memory, as a provider: alice, who is in staff and approvers, bob,
// who is in staff, and mallory, who is in neither, have passwords there; staff may log in at its clients.
type vault struct {
	*gate
	url    string
	root   string // a token that may do everything
	unseal string
	entity map[string]string // the ids of people, by their names
	app    client            // of a program that gets tokens for itself
}

// A client is one of the provider's.
type client struct{ id, secret string }

const (
	provider = "identity/oidc/provider/default"
	other    = "http://127.0.0.1:1/back" // where the app is sent back to
	email    = `{"email": {{identity.entity.metadata.email}}, "email_verified": true}`
)

type object map[string]any

// startVault starts the Vault that the variable VAULT names.
func startVault(t *testing.T) *vault {
	t.Helper()
	bin := os.Getenv("VAULT")
	if bin == "" {
		t.Fatal("the variable VAULT names no binary; make vault sets it")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	v := &vault{gate: newGate(t), url: "http://" + ln.Addr().String(), root: "root-of-the-tests", entity: make(map[string]string)}
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(bin, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+v.root, "-dev-listen-address="+ln.Addr().String())
	cmd.Env = append(os.Environ(), "VAULT_ADDR=", "VAULT_TOKEN=", "HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	key := regexp.MustCompile(`Unseal Key: (\S+)\n(?s:.*)Root Token: `)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		said, err := os.ReadFile(out.Name())
		if m := key.FindSubmatch(said); err == nil && m != nil {
			v.unseal = string(m[1])
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not start:\n%s", bin, said)
		}
	}
}

// ask asks with a token, or with none, and returns the status and the body.
func (v *vault) ask(token, method, path string, body any) (int, []byte) {
	v.t.Helper()
	var b []byte
	if body != nil {
		b, _ = json.Marshal(body)
	}
	r, err := http.NewRequest(method, v.url+"/v1/"+path, bytes.NewReader(b))
	if err != nil {
		v.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	resp, said := v.fetch(http.DefaultClient.Do(r))
	return resp.StatusCode, []byte(said)
}

// do asks as root, and wants it done.
func (v *vault) do(method, path string, body any) object {
	v.t.Helper()
	status, said := v.ask(v.root, method, path, body)
	if status >= 300 {
		v.t.Fatalf("%s %s: %d %s", method, path, status, said)
	}
	var out struct{ Data object }
	json.Unmarshal(said, &out)
	return out.Data
}

// newProvider starts a Vault and makes it a provider.
func newProvider(t *testing.T) *vault {
	v := startVault(t)
	v.do("POST", "sys/auth/userpass", object{"type": "userpass"})
	v.do("POST", "sys/policies/acl/ci", object{"policy": `path "identity/oidc/token/ci" { capabilities = ["read"] }`})
	accessor := v.do("GET", "sys/auth", nil)["userpass/"].(map[string]any)["accessor"]
	for _, name := range []string{"alice", "bob", "mallory"} {
		v.do("POST", "auth/userpass/users/"+name, object{"password": name + "'s", "token_policies": "ci"})
		v.entity[name] = v.do("POST", "identity/entity", object{"name": name, "metadata": object{"email": name + "@example.com"}})["id"].(string)
		v.do("POST", "identity/entity-alias", object{"name": name, "canonical_id": v.entity[name], "mount_accessor": accessor})
	}
	staff := v.do("POST", "identity/group", object{"name": "staff", "member_entity_ids": []string{v.entity["alice"], v.entity["bob"]}})["id"]
	v.do("POST", "identity/group", object{"name": "approvers", "member_entity_ids": []string{v.entity["alice"]}})
	v.do("POST", "identity/oidc/assignment/staff", object{"group_ids": []any{staff}})
	v.do("POST", "identity/oidc/scope/email", object{"template": email})
	v.do("POST", "identity/oidc/scope/groups", object{"template": `{"groups": {{identity.entity.groups.names}}}`})
	v.do("POST", provider, object{"allowed_client_ids": []string{"*"}, "scopes_supported": []string{"email", "groups"}})
	v.key("ci", "RS256")
	v.do("POST", "identity/oidc/role/ci", object{"key": "ci", "client_id": "tallystick", "ttl": "10m", "template": `{"groups": {{identity.entity.groups.names}}}`})
	v.app = v.client("app", "RS256", "confidential", other)
	return v
}

func (v *vault) key(name, algorithm string) {
	v.t.Helper()
	v.do("POST", "identity/oidc/key/"+name, object{"algorithm": algorithm, "allowed_client_ids": []string{"*"}})
}

// client makes a client with a key of its own.
func (v *vault) client(name, algorithm, kind, back string) client {
	v.t.Helper()
	v.key(name, algorithm)
	v.do("POST", "identity/oidc/client/"+name, object{"key": name, "client_type": kind, "redirect_uris": []string{back}, "assignments": []string{"staff"}, "id_token_ttl": "10m"})
	d := v.do("GET", "identity/oidc/client/"+name, nil)
	c := client{id: d["client_id"].(string)}
	c.secret, _ = d["client_secret"].(string)
	return c
}

func (v *vault) issuer() string { return v.url + "/v1/" + provider }

// believed is the issuer as a gateway has it.
func (v *vault) believed(c *oidc.Client) oidc.Issuer {
	return oidc.Issuer{
		Name: "vault", URL: v.issuer(), Audiences: []string{v.app.id}, Groups: []string{"groups"}, Client: c,
		CoolDown: time.Second, Refresh: 2 * time.Second,
	}
}

// gateway is the client of a gateway that people are sent back to.
func (v *vault) gateway(g *gate, name, algorithm, kind string) *oidc.Client {
	v.t.Helper()
	c := v.client(name, algorithm, kind, g.base+login.BackPath)
	out := &oidc.Client{ID: c.id, Scopes: []string{"email", "groups"}}
	if kind == "confidential" {
		out.Secret = plain(c.secret)
	}
	return out
}

// token logs somebody in at Vault itself.
func (v *vault) token(name string) (token string, ok bool) {
	v.t.Helper()
	_, said := v.ask("", "POST", "auth/userpass/login/"+name, object{"password": name + "'s"})
	var out struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	json.Unmarshal(said, &out)
	return out.Auth.Token, out.Auth.Token != ""
}

// authorize does what the page of Vault's at the address to does, for whoever has a token, and returns where it sends the
// browser back to, or the status where it does not.
func (v *vault) authorize(to, token string) (back string, status int) {
	v.t.Helper()
	u, err := url.Parse(to)
	if err != nil || u.Host != strings.TrimPrefix(v.url, "http://") || !strings.HasPrefix(u.Path, "/ui/vault/identity/oidc/provider/") {
		v.t.Fatalf("the browser is sent to %s", to)
	}
	status, said := v.ask(token, "GET", strings.TrimPrefix(u.Path, "/ui/vault/")+"?"+u.RawQuery, nil)
	var out struct{ Code, State, Error string }
	if err := json.Unmarshal(said, &out); err != nil || out.Code == "" && out.Error == "" {
		return "", status
	}
	q := url.Values{"state": {out.State}}
	if out.Code != "" {
		q.Set("code", out.Code)
	} else {
		q.Set("error", out.Error)
	}
	return u.Query().Get("redirect_uri") + "?" + q.Encode(), status
}

// begin begins a log-in at a gate.
func (g *gate) begin(c *http.Client) (to string) {
	g.t.Helper()
	resp, page := g.fetch(c.Get(g.base + login.Path + "/start?provider=vault"))
	if resp.StatusCode != http.StatusSeeOther {
		g.t.Fatalf("%s: %s", resp.Status, page)
	}
	return resp.Header.Get("Location")
}

// comes has somebody log in at Vault for a gate, and returns where the browser is sent back to.
func (v *vault) comes(g *gate, c *http.Client, name string) (back string) {
	v.t.Helper()
	to := g.begin(c)
	token, ok := v.token(name)
	if !ok {
		v.t.Fatalf("%s cannot log in at Vault", name)
	}
	back, status := v.authorize(to, token)
	if back == "" {
		v.t.Fatalf("Vault sends nobody back: %d", status)
	}
	return back
}

// idToken is one that the app got for itself by the code flow, from a provider.
func (v *vault) idToken(name, provider string) string {
	v.t.Helper()
	cfg := &oauth2.Config{
		ClientID: v.app.id, ClientSecret: v.app.secret, RedirectURL: other, Scopes: []string{"openid", "email", "groups"},
		Endpoint: oauth2.Endpoint{AuthURL: v.url + "/ui/vault/" + provider + "/authorize", TokenURL: v.url + "/v1/" + provider + "/token", AuthStyle: oauth2.AuthStyleInParams},
	}
	verifier := oauth2.GenerateVerifier()
	token, _ := v.token(name)
	back, status := v.authorize(cfg.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), token)
	u, err := url.Parse(back)
	if err != nil || u.Query().Get("code") == "" {
		v.t.Fatalf("no code: %d %s", status, back)
	}
	tokens, err := cfg.Exchange(v.t.Context(), u.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		v.t.Fatal(err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	return raw
}

// workload is an identity token, which Vault gives to whoever may have one.
func (v *vault) workload(name string) string {
	v.t.Helper()
	token, _ := v.token(name)
	status, said := v.ask(token, "GET", "identity/oidc/token/ci", nil)
	var out struct{ Data struct{ Token string } }
	if err := json.Unmarshal(said, &out); err != nil || out.Data.Token == "" {
		v.t.Fatalf("no identity token: %d %s", status, said)
	}
	return out.Data.Token
}

// TestVault has Vault as an OpenID Connect provider: for people, who get tokens of the gateway's own, and for programs, which
// show tokens of Vault's.
func TestVault(t *testing.T) {
	v := newProvider(t)
	v.open(v.believed(v.gateway(v.gate, "gateway", "RS256", "confidential")),
		oidc.Issuer{Name: "ci", URL: v.url + "/v1/identity/oidc", Audiences: []string{"tallystick"}, Groups: []string{"groups"}, CoolDown: time.Second, Refresh: 2 * time.Second})
	old := v.idToken("alice", provider) // of before its key was rotated
	v.eventually(old, "")
	for _, story := range []struct {
		name string
		tell func(*vault)
	}{
		{"people", (*vault).people},
		{"a person without e-mail", (*vault).unverified},
		{"a token for a program", (*vault).device},
		{"clients", (*vault).clients},
		{"tokens of Vault's", (*vault).bearer},
		{"rotation", func(v *vault) { v.rotation(old) }},
		{"disabled", (*vault).disabled},
		{"sealed", (*vault).sealed},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(v.in(t)) })
	}
}

// in is v in a test of its own.
func (v *vault) in(t *testing.T) *vault {
	g, w := *v.gate, *v
	g.t, w.gate = t, &g
	return &w
}

// people log in, or do not.
func (v *vault) people() {
	c := browser()
	to := v.begin(c)
	q, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, v.url+"/ui/vault/"+provider+"/authorize?") || q.Query().Get("code_challenge_method") != "S256" || q.Query().Get("scope") != "openid email groups" {
		v.t.Fatalf("the browser is sent to %s", to)
	}
	if status, said := v.ask("", "POST", "auth/userpass/login/alice", object{"password": "wrong"}); status != 400 {
		v.t.Errorf("a wrong password: %d %s", status, said)
	}
	if back, status := v.authorize(to, ""); back != "" || status != 403 {
		v.t.Errorf("nobody is sent back: %d %s", status, back)
	}
	back := v.comes(v.gate, c, "alice")
	resp, page := v.fetch(c.Get(back))
	if resp.StatusCode != 200 || !strings.Contains(page, "You are signed in as vault:"+v.entity["alice"]) {
		v.t.Fatalf("%s: %s", resp.Status, page)
	}
	list := v.tokens.List()
	if len(list) != 1 || list[0].Kind != token.Session {
		v.t.Fatalf("%+v", list)
	}
	p := list[0].Principal
	slices.Sort(p.Groups)
	if p.Name != "vault:"+v.entity["alice"] || p.Subject != v.entity["alice"] || p.Issuer != v.issuer() || p.Email != "alice@example.com" || !slices.Equal(p.Groups, []string{"approvers", "staff"}) {
		v.t.Errorf("%+v", p)
	}
	// The code and the state were for once.
	if resp, page := v.fetch(c.Get(back)); resp.StatusCode != 400 {
		v.t.Errorf("%s: %s", resp.Status, page)
	}
	// A code of hers, in a browser that began a log-in of its own, is of no use: the verifier is another.
	stolen, _ := url.Parse(v.comes(v.gate, c, "alice"))
	thief := browser()
	own, _ := url.Parse(v.begin(thief))
	q2 := stolen.Query()
	q2.Set("state", own.Query().Get("state"))
	stolen.RawQuery = q2.Encode()
	if resp, page := v.fetch(thief.Get(stolen.String())); resp.StatusCode != 401 || strings.Contains(page, "signed in as") {
		v.t.Errorf("a stolen code: %s: %s", resp.Status, page)
	}
	// Who has a password and may not log in here.
	c = browser()
	if resp, page := v.fetch(c.Get(v.comes(v.gate, c, "mallory"))); resp.StatusCode != 401 || !strings.Contains(page, "did not log you in") {
		v.t.Errorf("mallory: %s: %s", resp.Status, page)
	}
	if list := v.tokens.List(); len(list) != 1 {
		v.t.Errorf("%+v", list)
	}
}

// unverified has Vault say nothing of whether an address is verified, and nothing of an address.
func (v *vault) unverified() {
	defer v.do("POST", "identity/oidc/scope/email", object{"template": email})
	for template, want := range map[string]string{
		email: "bob@example.com",
		`{"email": {{identity.entity.metadata.email}}}`:                               "",
		`{"email": {{identity.entity.metadata.email}}, "email_verified": false}`:      "",
		`{"email": {{identity.entity.metadata.nothing}}, "email_verified": true}`:     "",
		`{"email": {{identity.entity.metadata.email}}, "email_verified": "true"}`:     "bob@example.com",
		`{"mail": {{identity.entity.metadata.email}}, "email_verified": true}`:        "",
		`{"email": {{identity.entity.groups.names}}, "email_verified": true}`:         "",
		`{"email": {{identity.entity.name}}, "email_verified": true, "azp": "other"}`: "bob",
	} {
		v.do("POST", "identity/oidc/scope/email", object{"template": template})
		if p, why := v.who(v.idToken("bob", provider)); why != "" || p.Email != want {
			v.t.Errorf("%s: %+v %s", template, p, why)
		}
	}
}

var words = regexp.MustCompile(`name="(word|code)" value="([^"]*)"`)

// device gives a program a token of the gateway's own, because bob says so.
func (v *vault) device() {
	var begun login.Begun
	_, said := v.fetch(http.PostForm(v.base+login.DevicePath, url.Values{"name": {"laptop"}}))
	if err := json.Unmarshal([]byte(said), &begun); err != nil || begun.Device == "" {
		v.t.Fatal(said)
	}
	c := browser()
	v.fetch(c.Get(v.comes(v.gate, c, "bob")))
	_, page := v.fetch(c.Get(begun.Complete))
	_, form, _ := strings.Cut(page, `action="`+login.Path+`/confirm"`)
	form, _, _ = strings.Cut(form, "</form>")
	send := url.Values{"decision": {"yes"}}
	for _, m := range words.FindAllStringSubmatch(form, -1) {
		send.Set(m[1], m[2])
	}
	if resp, page := v.fetch(c.PostForm(v.base+login.Path+"/confirm", send)); resp.StatusCode != 200 {
		v.t.Fatalf("%s: %s", resp.Status, page)
	}
	var given login.Given
	_, said = v.fetch(http.PostForm(v.base+login.TokenPath, url.Values{"device_code": {begun.Device}}))
	if err := json.Unmarshal([]byte(said), &given); err != nil || given.Token == "" {
		v.t.Fatal(said)
	}
	p, err := v.tokens.Identify(v.t.Context(), gateway.Shown{Bearer: []byte(given.Token)})
	if err != nil || p.Name != "vault:"+v.entity["bob"] || p.How != gateway.ByToken || p.Key != given.ID || p.Email != "bob@example.com" || !slices.Equal(p.Groups, []string{"staff"}) {
		v.t.Fatalf("%+v %v", p, err)
	}
	if err := v.tokens.Revoke(given.ID); err != nil {
		v.t.Fatal(err)
	}
	if p, err := v.tokens.Identify(v.t.Context(), gateway.Shown{Bearer: []byte(given.Token)}); err == nil {
		v.t.Errorf("it was revoked, and names %s", p.Name)
	}
}

// clients are of every kind that Vault has, and sign with everything that it can sign with.
func (v *vault) clients() {
	const known, unclear = "signed in as vault:", "does not say who you are"
	groups := func(any string) []oidc.Claim { return []oidc.Claim{{Path: []string{"groups"}, Any: []string{any}}} }
	for i, c := range []struct {
		name, algorithm, kind string
		change                func(*oidc.Issuer)
		status                int
		says                  string
	}{
		{"public", "RS256", "public", nil, 200, known},
		{"ES256", "ES256", "confidential", nil, 200, known},
		{"EdDSA", "EdDSA", "public", nil, 200, known},
		{"RS384", "RS384", "confidential", func(is *oidc.Issuer) { is.Algorithms = []string{"RS384"} }, 200, known},
		{"RS512", "RS512", "confidential", func(is *oidc.Issuer) { is.Algorithms = []string{"RS512"} }, 200, known},
		{"ES384", "ES384", "confidential", func(is *oidc.Issuer) { is.Algorithms = []string{"ES384"} }, 200, known},
		{"ES512", "ES512", "confidential", func(is *oidc.Issuer) { is.Algorithms = []string{"ES512"} }, 200, known},
		{"ES512, and nobody said so", "ES512", "confidential", nil, 401, "algorithm"},
		{"a wrong secret", "RS256", "confidential", func(is *oidc.Issuer) { is.Client.Secret = plain("wrong") }, 502, unclear},
		{"no secret", "RS256", "confidential", func(is *oidc.Issuer) { is.Client.Secret = nil }, 502, unclear},
		{"a scope that Vault does not have", "RS256", "confidential", func(is *oidc.Issuer) { is.Client.Scopes = []string{"unknown"} }, 200, known},
		{"groups elsewhere", "RS256", "confidential", func(is *oidc.Issuer) { is.Groups = []string{"roles"} }, 200, known},
		{"her group is required", "RS256", "confidential", func(is *oidc.Issuer) { is.Require = groups("approvers") }, 200, known},
		{"another group is", "RS256", "confidential", func(is *oidc.Issuer) { is.Require = groups("others") }, 401, "requires"},
	} {
		v.t.Run(c.name, func(t *testing.T) {
			v, g := v.in(t), newGate(t)
			is := v.believed(v.gateway(g, fmt.Sprint("client-", i), c.algorithm, c.kind))
			if c.change != nil {
				c.change(&is)
			}
			g.open(is)
			b := browser()
			resp, page := g.fetch(b.Get(v.comes(g, b, "alice")))
			if resp.StatusCode != c.status || !strings.Contains(page, c.says) {
				t.Errorf("%s: %s", resp.Status, page)
			}
		})
	}
}

// bearer shows tokens of Vault's at calls.
func (v *vault) bearer() {
	v.do("POST", "identity/oidc/provider/second", object{"allowed_client_ids": []string{"*"}, "scopes_supported": []string{"email"}})
	ours := v.idToken("alice", provider)
	p, why := v.who(ours)
	if why != "" || p.Name != "vault:"+v.entity["alice"] || p.How != gateway.ByOIDC || p.Issuer != v.issuer() || p.Email != "alice@example.com" || len(p.Groups) != 2 || p.Until.Before(time.Now()) {
		v.t.Fatalf("%+v %s", p, why)
	}
	workload := v.workload("alice")
	if p, why := v.who(workload); why != "" || p.Name != "ci:"+v.entity["alice"] || p.Issuer != v.url+"/v1/identity/oidc" || len(p.Groups) != 2 {
		v.t.Fatalf("%+v %s", p, why)
	}
	// One who may not log in at a client of the provider's has an identity token all the same: who may use what is for policies.
	if p, why := v.who(v.workload("mallory")); why != "" || p.Name != "ci:"+v.entity["mallory"] || len(p.Groups) != 0 {
		v.t.Errorf("%+v %s", p, why)
	}
	for what, c := range map[string]struct{ raw, why string }{
		"a changed one":                    {ours[:len(ours)-8] + "AAAAAAAA", "signature"},
		"of another provider in it":        {v.idToken("alice", "identity/oidc/provider/second"), "issuer"},
		"a head of one, a body of another": {strings.Split(ours, ".")[0] + "." + strings.Split(workload, ".")[1] + "." + strings.Split(workload, ".")[2], "key"},
	} {
		if _, why := v.who(c.raw); why != c.why {
			v.t.Errorf("%s is judged %q, want %q", what, why, c.why)
		}
	}
	token, _ := v.token("alice")
	if _, why := v.who(token); why == "" { // a token of Vault's own is a secret of hers, and no token for here
		v.t.Error("a Vault token makes somebody known")
	}
}

// rotation follows Vault's keys: it publishes the next one before it signs, and the last for as long as it is told to, and
// until its next round of a minute.
func (v *vault) rotation(first string) {
	rotate := func(ttl string) {
		v.t.Helper()
		v.do("POST", "identity/oidc/key/app/rotate", object{"verification_ttl": ttl})
	}
	rotate("1s")
	second := v.idToken("alice", provider)
	if _, why := v.who(second); why != "" {
		v.t.Errorf("a key that was published before it signed: %s", why)
	}
	rotate("1h")
	rotate("1h")
	rotate("1h")
	third := v.idToken("alice", provider)
	v.eventually(third, "")
	if _, why := v.who(second); why != "" {
		v.t.Errorf("a key that is published still: %s", why)
	}
	v.eventually(first, "key")
	for _, raw := range []string{second, third} {
		if _, why := v.who(raw); why != "" {
			v.t.Errorf("a key that is published still: %s", why)
		}
	}
}

// disabled disables alice at Vault: she cannot log in any more. What she has is good until it ends, or is revoked.
func (v *vault) disabled() {
	c := browser()
	v.fetch(c.Get(v.comes(v.gate, c, "alice")))
	raw := v.idToken("alice", provider)
	vaults, _ := v.token("alice")
	to := v.begin(c)
	slow := browser()
	late := v.comes(v.gate, slow, "alice")
	disable := func(yes bool) { v.do("POST", "identity/entity/id/"+v.entity["alice"], object{"disabled": yes}) }
	disable(true)
	if token, ok := v.token("alice"); ok {
		if back, status := v.authorize(to, token); back != "" {
			v.t.Errorf("who is disabled logs in and is sent back: %d %s", status, back)
		}
	}
	if back, status := v.authorize(to, vaults); back != "" {
		v.t.Errorf("with a token from before she is sent back: %d %s", status, back)
	}
	if resp, page := v.fetch(slow.Get(late)); resp.StatusCode != 502 {
		v.t.Errorf("%s: %s", resp.Status, page)
	}
	if _, why := v.who(raw); why != "" {
		v.t.Errorf("a token that has not ended: %s", why)
	}
	if resp, page := v.fetch(c.Get(v.base + login.Path)); !strings.Contains(page, "signed in as vault:"+v.entity["alice"]) {
		v.t.Errorf("her session is good until it ends: %s: %s", resp.Status, page)
	}
	for _, s := range v.tokens.List() {
		if s.Principal.Subject == v.entity["alice"] {
			if err := v.tokens.Revoke(s.ID); err != nil {
				v.t.Error(err)
			}
		}
	}
	if _, page := v.fetch(c.Get(v.base + login.Path)); strings.Contains(page, "signed in as") {
		v.t.Errorf("revoked: %s", page)
	}
	disable(false)
	if resp, page := v.fetch(c.Get(v.comes(v.gate, c, "alice"))); resp.StatusCode != 200 {
		v.t.Errorf("enabled again: %s: %s", resp.Status, page)
	}
}

// sealed seals Vault: who is known stays known, and who comes is told that it is not known now, and not that he is nobody.
func (v *vault) sealed() {
	raw := v.idToken("alice", provider)
	v.eventually(raw, "")
	c := browser()
	back := v.comes(v.gate, c, "alice")
	v.do("PUT", "sys/seal", nil)
	time.Sleep(3 * time.Second) // longer than between two fetches of the keys
	if _, why := v.who(raw); why != "" {
		v.t.Errorf("a token while Vault is sealed: %s", why)
	}
	if resp, page := v.fetch(c.Get(back)); resp.StatusCode != 502 {
		v.t.Errorf("a log-in while Vault is sealed: %s: %s", resp.Status, page)
	}
	if status, said := v.ask("", "PUT", "sys/unseal", object{"key": v.unseal}); status != 200 {
		v.t.Fatalf("%d %s", status, said)
	}
	v.eventually(v.idToken("alice", provider), "")
	if resp, page := v.fetch(c.Get(v.comes(v.gate, c, "alice"))); resp.StatusCode != 200 {
		v.t.Errorf("unsealed: %s: %s", resp.Status, page)
	}
}
