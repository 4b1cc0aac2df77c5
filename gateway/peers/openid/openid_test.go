package openid

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/gateway/oidc"
	"github.com/tallystick/tallystick/gateway/token"
)

// A key signs, and its public half is published.
type key struct {
	id      string
	private *rsa.PrivateKey
}

func (k key) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k key) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k key) Use() string                                 { return "sig" }
func (k key) ID() string                                  { return k.id }
func (k key) Key() any                                    { return k.private }

type public struct{ key }

func (p public) Key() any { return &p.private.PublicKey }

// rotating is the provider's storage with keys that change: the last one signs, all are published.
type rotating struct {
	*storage.Storage
	mu   sync.Mutex
	keys []key // under mu
}

// rotate adds a key, and withdraws all but the last n.
func (r *rotating) rotate(t *testing.T, n int) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, key{rand.Text(), private})
	r.keys = r.keys[max(0, len(r.keys)-n):]
}

func (r *rotating) SigningKey(context.Context) (op.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[len(r.keys)-1], nil
}

func (r *rotating) KeySet(context.Context) (all []op.Key, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.keys {
		all = append(all, public{k})
	}
	return all, nil
}

func (r *rotating) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// plain is a Secret in the clear.
type plain string

func (p plain) Reveal() []byte { return []byte(p) }

// patience is how long what takes moments, or Vault's round of a minute, may take on a loaded machine.
const patience = 5 * time.Minute

// A gate is what a gateway has to know people and programs: pages on which people log in, tokens, and issuers.
type gate struct {
	t        *testing.T
	base     string // of the pages
	pages    *login.Pages
	tokens   *token.Store
	identify *oidc.Identifier
}

// newGate returns a gate that serves nothing yet, but has its address.
func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		g.pages.ServePage(rw, r, nil, func(*gateway.Principal, string, string) error { return nil })
	}))
	t.Cleanup(front.Close)
	g.base = front.URL
	return g
}

// open opens the gate to people and tokens of some issuers. People log in at those that have a client.
func (g *gate) open(issuers ...oidc.Issuer) {
	g.t.Helper()
	var err error
	if g.identify, err = oidc.New(oidc.Config{Issuers: issuers}); err != nil {
		g.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { g.identify.Run(ctx); close(ended) }()
	g.t.Cleanup(func() { stop(); <-ended })
	if g.tokens, err = token.Open(g.t.TempDir(), nil); err != nil {
		g.t.Fatal(err)
	}
	cfg := login.Config{Public: g.base, Tokens: g.tokens}
	for _, is := range issuers {
		if is.Client == nil {
			continue
		}
		l, err := g.identify.Login(is.Name, g.base+login.BackPath)
		if err != nil {
			g.t.Fatal(err)
		}
		cfg.Providers = append(cfg.Providers, l)
	}
	if g.pages, err = login.New(cfg); err != nil {
		g.t.Fatal(err)
	}
}

// A world is a provider, and a gate at which people log in by it.
type world struct {
	*gate
	issuer string
	other  string // where a client of its own is sent back to
	store  *rotating
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{gate: newGate(t), issuer: "http://" + ln.Addr().String(), other: "http://127.0.0.1:1/back"}
	w.store = &rotating{Storage: storage.NewStorageWithClients(storage.NewUserStore(w.issuer), map[string]*storage.Client{
		"gateway": storage.WebClient("gateway", "a secret of the gateway's", w.base+login.BackPath),
		"app":     storage.WebClient("app", "a secret of the app's", w.other),
	})}
	w.store.rotate(t, 1)
	srv := &http.Server{Handler: exampleop.SetupServer(w.issuer, w.store, slog.New(slog.DiscardHandler), false)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })

	w.open(oidc.Issuer{
		Name: "idp", URL: w.issuer, Audiences: []string{"app"}, CoolDown: time.Second, Refresh: 2 * time.Second, Stale: time.Minute,
		Client: &oidc.Client{ID: "gateway", Secret: plain("a secret of the gateway's")},
	})
	return w
}

func browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (g *gate) fetch(resp *http.Response, err error) (*http.Response, string) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp, string(b)
}

var hidden = regexp.MustCompile(`name="id" value="([^"]*)"`)

// logIn follows a browser from the provider's address to where it is sent back to, or to the page where a password was wrong.
func (w *world) logIn(c *http.Client, to, password string) (back, page string) {
	w.t.Helper()
	resp, _ := w.fetch(c.Get(to))
	form := resp.Header.Get("Location")
	if strings.HasPrefix(form, "/") {
		form = w.issuer + form
	}
	_, page = w.fetch(c.Get(form))
	m := hidden.FindStringSubmatch(page)
	if m == nil {
		w.t.Fatalf("the provider shows no form: %s %s", resp.Status, page)
	}
	u, _ := url.Parse(w.issuer)
	resp, page = w.fetch(c.PostForm(w.issuer+"/login/username", url.Values{"id": {m[1]}, "username": {"test-user@" + u.Hostname()}, "password": {password}}))
	if resp.StatusCode != http.StatusFound {
		return "", page
	}
	next := resp.Header.Get("Location")
	if strings.HasPrefix(next, "/") {
		next = w.issuer + next
	}
	resp, page = w.fetch(c.Get(next))
	return resp.Header.Get("Location"), page
}

// idToken is one that the app got for itself by the code flow.
func (w *world) idToken() string {
	w.t.Helper()
	cfg := &oauth2.Config{
		ClientID: "app", ClientSecret: "a secret of the app's", RedirectURL: w.other, Scopes: []string{"openid", "email"},
		Endpoint: oauth2.Endpoint{AuthURL: w.issuer + "/auth", TokenURL: w.issuer + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
	verifier := oauth2.GenerateVerifier()
	back, page := w.logIn(browser(), cfg.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), "verysecure")
	u, err := url.Parse(back)
	if err != nil || u.Query().Get("code") == "" {
		w.t.Fatalf("no code: %s %s", back, page)
	}
	tokens, err := cfg.Exchange(w.t.Context(), u.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		w.t.Fatal(err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	return raw
}

func (g *gate) who(raw string) (*gateway.Principal, string) {
	p, err := g.identify.Identify(g.t.Context(), gateway.Shown{Bearer: []byte(raw)})
	var s *gateway.Stranger
	switch {
	case err == nil:
		return p, ""
	case errors.As(err, &s):
		return nil, s.Why
	}
	return nil, err.Error()
}

// eventually asks until a token is judged as wanted.
func (g *gate) eventually(raw, want string) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		_, why := g.who(raw)
		if why == want {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the token is judged %q, want %q", why, want)
		}
	}
}

// A person logs in at the provider by the code flow and has a session at the gateway.
func TestLogIn(t *testing.T) {
	w := newWorld(t)
	c := browser()
	for _, password := range []string{"wrong", "verysecure"} {
		resp, page := w.fetch(c.Get(w.base + login.Path + "/start?provider=idp"))
		to := resp.Header.Get("Location")
		if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, w.issuer+"/auth?") {
			t.Fatalf("%s to %s: %s", resp.Status, to, page)
		}
		q, _ := url.Parse(to)
		for _, name := range []string{"code_challenge", "nonce", "state"} {
			if q.Query().Get(name) == "" {
				t.Errorf("the browser is sent without %s", name)
			}
		}
		back, page := w.logIn(c, to, password)
		if password == "wrong" {
			if back != "" || len(w.tokens.List()) != 0 {
				t.Fatalf("%s %s", back, page)
			}
			continue
		}
		resp, page = w.fetch(c.Get(back))
		if resp.StatusCode != 200 || !strings.Contains(page, "You are signed in as idp:id1") {
			t.Fatalf("%s: %s", resp.Status, page)
		}
		// The code and the state were for once.
		if resp, page := w.fetch(c.Get(back)); resp.StatusCode != 400 {
			t.Errorf("%s: %s", resp.Status, page)
		}
	}
	list := w.tokens.List()
	if len(list) != 1 || list[0].Principal.Name != "idp:id1" || list[0].Principal.Issuer != w.issuer || list[0].Kind != token.Session {
		t.Errorf("%+v", list)
	}
	// A code of another log-in, in a browser that began one of its own, is of no use.
	resp, _ := w.fetch(c.Get(w.base + login.Path + "/start?provider=idp"))
	back, _ := w.logIn(c, resp.Header.Get("Location"), "verysecure")
	mallory := browser()
	resp, _ = w.fetch(mallory.Get(w.base + login.Path + "/start?provider=idp"))
	own, _ := url.Parse(resp.Header.Get("Location"))
	stolen, _ := url.Parse(back)
	q := stolen.Query()
	q.Set("state", own.Query().Get("state"))
	stolen.RawQuery = q.Encode()
	if resp, page := w.fetch(mallory.Get(stolen.String())); resp.StatusCode != 401 || strings.Contains(page, "signed in as") {
		t.Errorf("a stolen code: %s: %s", resp.Status, page)
	}
}

// Tokens of the provider make callers known, while its keys are rotated: a new key is known as soon as it signs, and one that
// was withdrawn is not for long.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	first := w.idToken()
	p, why := w.who(first)
	if why != "" || p.Name != "idp:id1" || p.How != gateway.ByOIDC || p.Issuer != w.issuer {
		t.Fatalf("%+v %s", p, why)
	}
	if _, why := w.who(first[:len(first)-6] + "AAAAAA"); why != "signature" && why != "malformed" {
		t.Errorf("a changed token is judged %q", why)
	}
	w.store.rotate(t, 2)
	second := w.idToken()
	if first == second {
		t.Fatal("the same token")
	}
	w.eventually(second, "")
	if _, why := w.who(first); why != "" {
		t.Errorf("the key before is published still, and its token is judged %s", why)
	}
	w.store.rotate(t, 1)
	w.eventually(first, "key")
	w.eventually(second, "key")
	third := w.idToken()
	w.eventually(third, "")
}
