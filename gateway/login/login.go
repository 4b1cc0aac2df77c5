// Package login serves the pages on which people log in, and gives them the gateway's own tokens: a session for the browser,
// and tokens for programs, by the device flow of RFC 8628.
//
// What is always true:
//
//   - who somebody is, a [Provider] says; here nobody has a password;
//   - an answer of a provider's is good for once, within ten minutes, in the browser that asked;
//   - a program is given a token when the person who is signed in has seen its code and said yes, on a page of this
//     gateway's. The token ends when that person's session does, and goes to the program alone;
//   - nothing changes by following a link: what changes something is a POST from a page of this gateway's, with a word
//     that only such a page has;
//   - that a person logged in or out, or was given a token or revoked one, is on record in the gateway's log; of a session
//     and a token that is so before anybody has it. What commands do to the store is not on record;
//   - pages run no script, but for the one line that sends a SAML response on, and stand in no frame.
//
// The same pages, at a place of their own and with a home elsewhere, let people in where something else is shown to them, such as
// records: then they log in and out, and no program gets a token there.
//
// Log-ins that are under way are in memory: a restart ends them. Sessions and tokens are in the store.
package login

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/token"
)

// Where the pages lie, from the gateway's root.
const (
	Path       = "/.tallystick/login"
	BackPath   = Path + Back
	SAMLPath   = Path + SAML
	DevicePath = Path + "/device" // a program asks for a code (RFC 8628 §3.1)
	TokenPath  = Path + "/token"  // and polls for its token (§3.4)
	TokensPath = "/.tallystick/tokens"
)

// And from where the pages lie.
const (
	Back = "/back" // where OpenID Connect issuers send browsers back to
	SAML = "/saml" // where SAML responses are posted to, and below it the metadata for each provider
)

// A Provider logs people in elsewhere, in two steps between which the browser is there. See the Logins of gateway/oidc and
// gateway/saml.
type Provider interface {
	// Name is what the provider is called here.
	Name() string
	// Begin returns where the browser is sent, and what is to be remembered for Finish. state comes back with it.
	Begin(ctx context.Context, state string) (to, memory string, err error)
	// Finish tells who came back with r. Errors are those of a gateway.Identifier.
	Finish(ctx context.Context, r *http.Request, memory string) (*gateway.Principal, error)
}

// Config is what Pages are made of.
type Config struct {
	Public    string       // where browsers find the gateway: https://gateway.example, or http on a loopback address
	Tokens    *token.Store // who makes it runs it
	Providers []Provider   // in the order in which they are offered
	// Life is how long a session lives, and with it the tokens that were given in it; default 12 hours, at most token.Longest.
	Life   time.Duration
	Logger *slog.Logger // nil for none
	// At is where the pages lie, by default Path.
	At string
	// Home is where people go on who have logged in, from the root: what is served there is another's. By default it is a page of
	// these, on which programs are given tokens; with a home elsewhere none are.
	Home string
}

const (
	underWay   = 10 * time.Minute // for a log-in, and for a code to be confirmed
	maxPending = 10_000           // log-ins under way
	eachLogin  = 1_000            // of them from one address
	maxDevices = 1_000            // codes that wait
	eachDevice = 100              // of them from one address
	interval   = 2 * time.Second  // between two polls of a program
	maxForm    = 512 << 10        // bytes of what is posted
	maxTo      = 2000             // bytes of where somebody goes on
)

// Pages are what lies under Path and TokensPath. Make them with New. Safe for concurrent use.
type Pages struct {
	cfg      Config
	origin   string // of Public
	at       string // where they lie
	home     string // where people go on
	session  string // what sessions that are opened here are called; no others are good here
	secure   bool
	key      []byte // for words that only pages of this process have
	log      *slog.Logger
	mux      *http.ServeMux
	logins   *table[pending]
	devices  *table[*device] // by the SHA-256 of what the program has
	byCode   *table[*device] // by the code that people see
	provider map[string]Provider
}

var _ gateway.Pages = (*Pages)(nil)

// pending is a log-in that is under way.
type pending struct {
	provider Provider
	memory   string
	browser  [sha256.Size]byte // of the cookie of the browser that asked
	to       string            // where the person goes on
}

// New returns Pages.
func New(cfg Config) (*Pages, error) {
	u, err := url.Parse(cfg.Public)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("login: where browsers find the gateway is %q; give a URL such as https://gateway.example", cfg.Public)
	}
	local := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && local) {
		return nil, errors.New("login: browsers must find the gateway over https: who reads a session can be anybody")
	}
	if cfg.Tokens == nil || len(cfg.Providers) == 0 {
		return nil, errors.New("login: no store for tokens, or nobody who logs people in")
	}
	cfg.Life = cmp.Or(cfg.Life, 12*time.Hour)
	if cfg.Life < time.Minute || cfg.Life > token.Longest {
		return nil, fmt.Errorf("login: a session of %v; choose 1m to %v", cfg.Life, token.Longest)
	}
	cfg.At = cmp.Or(cfg.At, Path)
	p := &Pages{
		cfg: cfg, origin: u.Scheme + "://" + u.Host, at: cfg.At, home: cmp.Or(cfg.Home, cfg.At), secure: u.Scheme == "https", key: make([]byte, 32), log: cfg.Logger,
		logins: newTable[pending](maxPending, eachLogin), devices: newTable[*device](maxDevices, maxDevices), byCode: newTable[*device](maxDevices, eachDevice),
		provider: make(map[string]Provider),
	}
	rand.Read(p.key)
	if p.session = "browser"; !p.givesTokens() {
		p.session += " at " + p.at
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	for _, o := range cfg.Providers {
		if p.provider[o.Name()] != nil {
			return nil, fmt.Errorf("login: two providers are called %s", o.Name())
		}
		p.provider[o.Name()] = o
	}
	p.mux = http.NewServeMux()
	p.mux.HandleFunc("GET "+p.at, p.welcome)
	p.mux.HandleFunc("GET "+p.at+"/{$}", p.welcome)
	p.mux.HandleFunc("GET "+p.at+"/start", p.start)
	p.mux.HandleFunc("GET "+p.at+SAML+"/{name}", p.metadata)
	p.mux.HandleFunc("GET "+p.at+"/style.css", p.style)
	if p.givesTokens() {
		p.mux.HandleFunc("POST "+p.at+"/confirm", p.confirm)
		p.mux.HandleFunc("POST "+DevicePath, p.begin)
	}
	return p, nil
}

// givesTokens says whether programs are given tokens here.
func (p *Pages) givesTokens() bool { return p.home == p.at }

// ServePage answers a request. from is who makes it, if that is known by more than a cookie.
func (p *Pages) ServePage(w http.ResponseWriter, r *http.Request, from *gateway.Principal, note gateway.Note) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy)
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if r.Method == http.MethodPost {
		if err := r.ParseForm(); err != nil {
			p.fail(w, http.StatusBadRequest, "What was sent cannot be read.")
			return
		}
	}
	if p.givesTokens() && (r.URL.Path == TokensPath || strings.HasPrefix(r.URL.Path, TokensPath+"/")) {
		p.tokens(w, r, from, note)
		return
	}
	switch what := r.Method + " " + r.URL.Path; { // what is put on record
	case what == "GET "+p.at+Back:
		p.back(w, r, note)
	case what == "POST "+p.at+SAML:
		p.posted(w, r, note)
	case what == "POST "+p.at+"/out" && p.givesTokens():
		p.out(w, r, note)
	case what == "POST "+p.at+"/revoke" && p.givesTokens():
		p.revoke(w, r, note)
	case what == "POST "+TokenPath && p.givesTokens():
		p.poll(w, r, note)
	default:
		p.mux.ServeHTTP(w, r)
	}
}

// cookie is the name of a cookie: under TLS one that no other host and no plain connection can set, and another one for pages
// elsewhere, of which there may be some at another port of this host.
func (p *Pages) cookie(name string) string {
	if !p.givesTokens() {
		name += strings.ReplaceAll(p.at, "/", "-")
	}
	if p.secure {
		return "__Host-" + name
	}
	return name
}

const (
	loginCookie   = "tallystick-login"
	sessionCookie = "tallystick-session"
)

func (p *Pages) set(w http.ResponseWriter, name, value string, life time.Duration, same http.SameSite) {
	c := &http.Cookie{Name: p.cookie(name), Value: value, Path: "/", HttpOnly: true, Secure: p.secure, SameSite: same, MaxAge: int(life.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

func (p *Pages) read(r *http.Request, name string) string {
	c, err := r.Cookie(p.cookie(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// Person tells who is signed in with the browser that makes a request, and the session. One that was opened at other pages is none
// here: they may let in whom these do not, and for longer.
func (p *Pages) Person(r *http.Request) (*token.Token, bool) {
	t, err := p.cfg.Tokens.Session(p.read(r, sessionCookie))
	return t, err == nil && t.Name == p.session
}

// word is what only pages of this gateway's have, for one session and one purpose.
func (p *Pages) word(t *token.Token, purpose string) string {
	m := hmac.New(sha256.New, p.key)
	m.Write([]byte(t.ID + "\n" + purpose))
	return hex.EncodeToString(m.Sum(nil))
}

// same says whether a POST comes from a page of this gateway's that the person of the session was shown.
func (p *Pages) same(r *http.Request, t *token.Token, purpose string) bool {
	o, s := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if s != "" && s != "same-origin" {
		return false
	}
	// From a page with the Referrer-Policy no-referrer, as ours are, a form's POST has the origin null: Fetch, "append a request
	// Origin header".
	if o != "" && o != p.origin && !(o == "null" && s == "same-origin") {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(r.PostForm.Get("word")), []byte(p.word(t, purpose))) == 1
}

// welcome shows who logs people in; or who is signed in, what waits for a yes, and the tokens, where people go on here.
func (p *Pages) welcome(w http.ResponseWriter, r *http.Request) {
	code := normal(r.URL.Query().Get("code"))
	t, ok := p.Person(r)
	if !ok && !p.givesTokens() && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		// Who follows a link of another site's, such as one in a message, may well be signed in: a strict cookie comes along from here.
		p.show(w, http.StatusOK, "welcome", map[string]any{"To": r.URL.RequestURI(), "Refresh": r.URL.RequestURI()})
		return
	}
	if !ok {
		names := make([]string, 0, len(p.cfg.Providers))
		for _, o := range p.cfg.Providers {
			names = append(names, o.Name())
		}
		p.show(w, http.StatusOK, "choose", map[string]any{"Code": code, "To": r.URL.Query().Get("to"), "Providers": names, "Start": p.at + "/start"})
		return
	}
	if !p.givesTokens() {
		http.Redirect(w, r, p.local(r.URL.Query().Get("to")), http.StatusSeeOther)
		return
	}
	data := map[string]any{
		"Who": t.Principal.Name, "Email": t.Principal.Email, "Until": t.Expires.UTC().Format("2006-01-02 15:04 UTC"), "Asked": code != "",
		"Out": p.at + "/out", "OutWord": p.word(t, "out"), "Revoke": p.at + "/revoke", "RevokeWord": p.word(t, "revoke"),
	}
	if d, ok := p.byCode.get(code); ok && code != "" && d.waits() {
		data["Device"] = map[string]string{"Code": shown(code), "Name": d.name, "From": d.from}
		data["Confirm"], data["ConfirmWord"], data["Raw"] = p.at+"/confirm", p.word(t, "confirm "+code), code
	}
	var mine []map[string]string
	for _, o := range p.cfg.Tokens.List() {
		if o.Kind == token.Bearer && o.Principal.Name == t.Principal.Name {
			mine = append(mine, map[string]string{"ID": o.ID, "Name": o.Name, "Until": o.Expires.UTC().Format("2006-01-02 15:04 UTC")})
		}
	}
	data["Tokens"] = mine
	p.show(w, http.StatusOK, "home", data)
}

// start sends the browser to a provider.
func (p *Pages) start(w http.ResponseWriter, r *http.Request) {
	o := p.provider[r.URL.Query().Get("provider")]
	if o == nil {
		p.fail(w, http.StatusNotFound, "Nobody of that name logs people in here.")
		return
	}
	state := rand.Text()
	to, memory, err := o.Begin(r.Context(), state)
	if err != nil {
		p.log.Warn("a log-in could not begin", "provider", o.Name(), "err", err)
		p.fail(w, http.StatusBadGateway, "The provider cannot be reached now. Try again, or ask who runs the gateway.")
		return
	}
	browser := p.read(r, loginCookie)
	if len(browser) != len(state) {
		browser = rand.Text()
	}
	onward := p.local(r.URL.Query().Get("to"))
	if code := normal(r.URL.Query().Get("code")); code != "" && p.givesTokens() {
		onward = p.at + "?code=" + url.QueryEscape(code)
	}
	if !p.logins.put(state, pending{o, memory, sha256.Sum256([]byte(browser)), onward}, from(r)) {
		p.fail(w, http.StatusServiceUnavailable, "Too many people log in at once. Try again in a minute.")
		return
	}
	// Lax: it must come back from the provider's site.
	p.set(w, loginCookie, browser, underWay, http.SameSiteLaxMode)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// local is where somebody goes on who came for to: there, if that is a page of this origin's, and else home.
func (p *Pages) local(to string) string {
	u, err := url.Parse(to)
	if p.givesTokens() || err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") ||
		strings.Contains(to, `\`) || len(to) > maxTo || strings.HasPrefix(to, p.at) {
		return p.home
	}
	return to
}

// back finishes a log-in at an OpenID Connect issuer.
func (p *Pages) back(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	p.finish(w, r, r.URL.Query()["state"], note)
}

// posted finishes a log-in at a SAML provider. Its POST comes from another site, so that no cookie is with it: the page sends
// itself what it got.
func (p *Pages) posted(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	if p.read(r, loginCookie) == "" && r.PostForm.Get("again") == "" {
		w.Header().Set("Content-Security-Policy", policy+"; script-src '"+onwardHash+"'")
		p.show(w, http.StatusOK, "onward", map[string]any{"To": p.at + SAML, "Response": r.PostForm.Get("SAMLResponse"), "State": r.PostForm.Get("RelayState"), "Script": onward})
		return
	}
	p.finish(w, r, r.PostForm["RelayState"], note)
}

// finish tells who came back, and opens a session: which is on record before the browser has it.
func (p *Pages) finish(w http.ResponseWriter, r *http.Request, state []string, note gateway.Note) {
	browser := sha256.Sum256([]byte(p.read(r, loginCookie)))
	var l pending
	ok := len(state) == 1
	if ok {
		l, ok = p.logins.takeIf(state[0], func(l pending) bool { return subtle.ConstantTimeCompare(l.browser[:], browser[:]) == 1 })
	}
	if !ok {
		p.fail(w, http.StatusBadRequest, "This log-in was not begun in this browser, was finished before, or took too long. Log in again.")
		return
	}
	who, err := l.provider.Finish(r.Context(), r, l.memory)
	var no *gateway.Stranger
	switch {
	case errors.As(err, &no):
		p.log.Info("a log-in was refused", "provider", l.provider.Name(), "why", no.Why)
		p.fail(w, http.StatusUnauthorized, "You are not logged in: "+no.Message+".")
		return
	case err != nil:
		p.log.Warn("a log-in failed", "provider", l.provider.Name(), "err", err)
		p.fail(w, http.StatusBadGateway, "The provider cannot be reached now, or does not say who you are. Log in again, or ask who runs the gateway.")
		return
	}
	life := p.cfg.Life
	if who.How == gateway.BySAML && !who.Until.IsZero() { // a session there ends when it says; an ID token's end is not that
		life = min(life, time.Until(who.Until))
	}
	value, t, err := p.mint(who, token.Session, p.session, life, "log-in", note)
	if err != nil {
		p.log.Error("a session could not be opened", "err", err)
		p.fail(w, http.StatusServiceUnavailable, "You are not logged in: the gateway cannot keep your session now. Try again.")
		return
	}
	if old, ok := p.Person(r); ok {
		p.end(old, old.Principal, "log-out", note)
	}
	p.log.Info("somebody logged in", "provider", l.provider.Name(), "principal", who.Name, "session", t.ID)
	p.set(w, loginCookie, "", 0, http.SameSiteLaxMode)
	p.set(w, sessionCookie, value, time.Until(t.Expires), http.SameSiteStrictMode)
	// Not a redirect: that would be one from the provider's site, and a strict cookie would not come along.
	p.show(w, http.StatusOK, "welcome", map[string]any{"Who": who.Name, "To": l.to, "Refresh": l.to})
}

// mint makes a token of who, and puts that on record. One of which that cannot be done is not handed out.
func (p *Pages) mint(who *gateway.Principal, kind token.Kind, name string, life time.Duration, why string, note gateway.Note) (string, *token.Token, error) {
	value, t, err := p.cfg.Tokens.Mint(who, kind, name, life)
	if err != nil {
		return "", nil, err
	}
	if err := note(who, why, described(t)+", until "+t.Expires.UTC().Format(time.RFC3339)); err != nil {
		return "", nil, errors.Join(fmt.Errorf("it could not be recorded: %w", err), p.cfg.Tokens.Revoke(t.ID))
	}
	return value, t, nil
}

// end revokes a token and puts on record by whom. It is revoked whether that can be recorded or not: nobody waits for the
// log to be rid of a token that somebody stole.
func (p *Pages) end(t *token.Token, who *gateway.Principal, why string, note gateway.Note) error {
	if err := p.cfg.Tokens.Revoke(t.ID); err != nil {
		return err
	}
	if err := note(who, why, described(t)); err != nil {
		p.log.Error("that a token was revoked could not be recorded", "principal", who.Name, "token", t.ID, "err", err)
	}
	return nil
}

func described(t *token.Token) string {
	s := string(t.Kind) + " token " + t.ID
	if t.Name != "" {
		s += " for " + t.Name
	}
	return s
}

// metadata describes the gateway to a SAML provider.
func (p *Pages) metadata(w http.ResponseWriter, r *http.Request) {
	o, ok := p.provider[r.PathValue("name")].(interface{ Metadata() ([]byte, error) })
	if !ok {
		p.fail(w, http.StatusNotFound, "No provider of that name has metadata.")
		return
	}
	b, err := o.Metadata()
	if err != nil {
		p.log.Error("metadata could not be made", "err", err)
		p.fail(w, http.StatusInternalServerError, "The gateway met a fault of its own.")
		return
	}
	w.Header().Set("Content-Type", "application/samlmetadata+xml")
	w.Write(b)
}

// signedIn is who makes a POST from a page of ours, or nobody, who is told.
func (p *Pages) signedIn(w http.ResponseWriter, r *http.Request, purpose string) *token.Token {
	t, ok := p.Person(r)
	switch {
	case !ok:
		p.fail(w, http.StatusUnauthorized, "You are not signed in, or not any more. Log in again.")
	case !p.same(r, t, purpose):
		p.fail(w, http.StatusForbidden, "This was not sent from a page of this gateway's that you were shown. Nothing was done.")
	default:
		return t
	}
	return nil
}

// confirm says yes or no to a program that waits.
func (p *Pages) confirm(w http.ResponseWriter, r *http.Request) {
	code := normal(r.PostForm.Get("code"))
	t := p.signedIn(w, r, "confirm "+code)
	if t == nil {
		return
	}
	d, ok := p.byCode.get(code)
	if !ok || !d.decide(t, r.PostForm.Get("decision") == "yes") {
		p.fail(w, http.StatusGone, "Nothing waits for that code any more. Run the command again.")
		return
	}
	p.log.Info("a code was decided", "principal", t.Principal.Name, "name", d.name, "from", d.from, "yes", r.PostForm.Get("decision") == "yes")
	p.show(w, http.StatusOK, "done", map[string]any{"Yes": r.PostForm.Get("decision") == "yes", "Name": d.name, "To": p.at})
}

// revoke ends one of the person's tokens.
func (p *Pages) revoke(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	t := p.signedIn(w, r, "revoke")
	if t == nil {
		return
	}
	if err := p.revokeOf(t.Principal, r.PostForm.Get("id"), note); err != nil && !errors.Is(err, token.ErrNotFound) {
		p.log.Error("a token could not be revoked", "err", err)
		p.fail(w, http.StatusServiceUnavailable, "The token could not be revoked. Try again.")
		return
	}
	http.Redirect(w, r, p.at, http.StatusSeeOther)
}

// revokeOf ends a token if it is who's.
func (p *Pages) revokeOf(who *gateway.Principal, id string, note gateway.Note) error {
	list := p.cfg.Tokens.List()
	i := slices.IndexFunc(list, func(t token.Token) bool { return t.ID == id && t.Principal.Name == who.Name })
	if i < 0 {
		return token.ErrNotFound
	}
	return p.end(&list[i], who, "revocation", note)
}

// out ends the session.
func (p *Pages) out(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	if p.signedIn(w, r, "out") != nil {
		p.SignOut(w, r, note)
	}
}

// SignOut ends the session of the browser that makes a request, if there is one, and shows who logs people in. Whoever calls it
// knows that the request comes from a page of the same origin.
func (p *Pages) SignOut(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	if t, ok := p.Person(r); ok {
		if err := p.end(t, t.Principal, "log-out", note); err != nil && !errors.Is(err, token.ErrNotFound) {
			p.log.Error("a session could not be ended", "err", err)
		}
	}
	p.set(w, sessionCookie, "", 0, http.SameSiteStrictMode)
	http.Redirect(w, r, p.at, http.StatusSeeOther)
}

// tokens lists the caller's own tokens, and revokes them. A cookie is nothing here.
func (p *Pages) tokens(w http.ResponseWriter, r *http.Request, from *gateway.Principal, note gateway.Note) {
	if from == nil {
		p.api(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	id, one := strings.CutPrefix(r.URL.Path, TokensPath+"/")
	switch {
	case !one && r.Method == http.MethodGet:
		list := []Listed{}
		for _, t := range p.cfg.Tokens.List() {
			if t.Principal.Name == from.Name {
				list = append(list, Listed{t.ID, string(t.Kind), t.Name, t.Created, t.Expires, t.ID == from.Key && from.How == gateway.ByToken})
			}
		}
		p.api(w, http.StatusOK, list)
	case one && r.Method == http.MethodDelete:
		switch err := p.revokeOf(from, id, note); {
		case errors.Is(err, token.ErrNotFound):
			p.api(w, http.StatusNotFound, map[string]string{"error": "unknown_token"})
		case err != nil:
			p.log.Error("a token could not be revoked", "err", err)
			p.api(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		p.api(w, http.StatusMethodNotAllowed, map[string]string{"error": "method_not_allowed"})
	}
}

// A Listed is a token as its owner sees it.
type Listed struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	This    bool      `json:"this"` // it is the one that was shown
}

func (p *Pages) api(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // what is said to somebody who has gone is nobody's loss
}

func plain(s string) bool {
	return len(s) <= 100 && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
