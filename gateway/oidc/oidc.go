// Package oidc tells callers by tokens that others issued, JSON Web Tokens (RFC 7519) of any number of OpenID Connect
// issuers, and logs people in at such issuers by the code flow with PKCE (OpenID Connect Core §3.1, RFC 7636).
//
// What is always true:
//
//   - a token has one reading or none: three parts of strict base64url, JSON without duplicate names, one issuer, an
//     audience that was named for it, an end;
//   - strangers cause no requests: keys are fetched by Run, at its times, and for a key that is not known at most once in
//     a cool-down, however many ask;
//   - a key is one that the issuer publishes over TLS, and serves an algorithm that the issuer may use and the key has.
//     What a token says of keys itself (jwk, jku, x5u, x5c) is never looked at;
//   - keys that could not be fetched for too long are known no longer, and neither is a token they had verified;
//   - nothing of a token, of a code or of an issuer's answer stands in an error. What was verified becomes a
//     [gateway.Principal], and is on record as such.
//
// A token is as good as its issuer says until it ends: whether it was revoked there is not asked.
package oidc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/tallystick/tallystick/gateway"
)

// Config is what an Identifier is made of.
type Config struct {
	Issuers []Issuer // at least one
	// Remember is how many verified tokens are remembered, so that they need not be verified at every call; default
	// 20,000. Those that were not shown for a while are forgotten first.
	Remember int
	// Proxy says through which proxy issuers are reached; nil for none.
	Proxy  func(*http.Request) (*url.URL, error)
	Logger *slog.Logger // nil for none
}

// An Issuer is somebody whose tokens are believed, and what they must be like.
type Issuer struct {
	// Name begins the names of the issuer's principals, before a colon: 1 to 32 of a-z, 0-9, '-'. It is never changed and
	// never given to another issuer: records know people by it.
	Name string
	// URL is the issuer as it stands in the claim iss, byte for byte, and where its discovery document is found (OpenID
	// Connect Discovery §4). It is https, or http on a loopback address.
	URL string
	// JWKS is where the issuer's keys are found, for issuers without a discovery document; "" for what that says.
	JWKS string

	// Audiences are the values of aud that tokens for this gateway have; one of them must be there. With none, tokens are
	// not taken from callers, and people can only log in at the issuer.
	Audiences []string
	// Parties are those to whom tokens may have been given (azp, or client_id); nil for anybody. A token for several
	// audiences names its party in any case, which then is one of Parties, or of Audiences where there are none.
	Parties []string
	// Type is "access" for access tokens of RFC 9068 alone (typ at+jwt), "id" for anything but these, "" for both.
	Type string
	// Algorithms are those the issuer may sign with, of RS256 to RS512, PS256 to PS512, ES256 to ES512 and EdDSA; nil for
	// RS256, PS256, ES256 and EdDSA.
	Algorithms []string
	// Require lists claims that a token must have.
	Require []Claim
	// Groups is the path of the claim that lists the principal's groups, such as {"groups"} or {"realm_access", "roles"}:
	// an array of strings, or one string. Nil for no groups.
	Groups []string

	// Skew is how far the issuer's clock may be from this one's; default 30 s, at most 1 min.
	Skew time.Duration
	// Refresh is the time between two fetches of the keys; default 5 min. A key that the issuer withdrew is believed for so
	// long.
	Refresh time.Duration
	// Stale is how old the keys may become while the issuer cannot be reached; default 1 h.
	Stale time.Duration
	// CoolDown is the shortest time between two fetches, however many tokens come with unknown keys; default 10 s.
	CoolDown time.Duration
	// Timeout is for a request to the issuer, and how long a call waits for its keys; default 10 s.
	Timeout time.Duration
	// MaxToken is the longest token in bytes; default 16 KiB, at most 64 KiB.
	MaxToken int
	Roots    *x509.CertPool // for the issuer's certificate; nil for the system's

	// Client is what this gateway is at the issuer, for people to log in; nil where nobody does.
	Client *Client
}

// A Claim is one that a token must have.
type Claim struct {
	Path []string // such as {"hd"}
	Any  []string // the values of which it is, or has, one, as strings; nil for any. The claim email counts only if verified
}

// algorithms are all that an issuer may use, in the names of RFC 7518 and RFC 8037. None of them is symmetric.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// Limits of what is read, in bytes or of things.
const (
	maxName     = 200 // of a principal, as gateway.Principal says
	maxGroups   = 256
	maxGroup    = 256
	maxDocument = 512 << 10 // of a discovery document or a set of keys
	maxKeys     = 100
)

func (i Issuer) filled() (Issuer, error) {
	i.Skew = cmp.Or(i.Skew, 30*time.Second)
	i.Refresh = cmp.Or(i.Refresh, 5*time.Minute)
	i.Stale = cmp.Or(i.Stale, time.Hour)
	i.CoolDown = cmp.Or(i.CoolDown, 10*time.Second)
	i.Timeout = cmp.Or(i.Timeout, 10*time.Second)
	i.MaxToken = cmp.Or(i.MaxToken, 16<<10)
	if i.Algorithms == nil {
		i.Algorithms = []string{oidc.RS256, oidc.PS256, oidc.ES256, oidc.EdDSA}
	}
	if i.Name == "" || len(i.Name) > 32 || strings.Trim(i.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return i, fmt.Errorf("oidc: the issuer's name %q is not 1 to 32 of a-z, 0-9, '-'", i.Name)
	}
	if err := goodURL(i.URL); err != nil {
		return i, fmt.Errorf("oidc: issuer %s: its URL %w", i.Name, err)
	}
	if strings.ContainsRune(i.URL, '?') { // OpenID Connect Discovery §3
		return i, fmt.Errorf("oidc: issuer %s: its URL has a query", i.Name)
	}
	if i.JWKS != "" {
		if err := goodURL(i.JWKS); err != nil {
			return i, fmt.Errorf("oidc: issuer %s: the URL of its keys %w", i.Name, err)
		}
	}
	switch {
	case len(i.Audiences) == 0 && i.Client == nil:
		return i, fmt.Errorf("oidc: issuer %s: it has no audiences and no client, so that it serves nothing; name the aud of tokens for this gateway", i.Name)
	case slices.Contains(i.Audiences, ""), slices.Contains(i.Parties, ""):
		return i, fmt.Errorf("oidc: issuer %s: an audience or a party is empty", i.Name)
	case i.Type != "" && i.Type != "access" && i.Type != "id":
		return i, fmt.Errorf("oidc: issuer %s: the type of its tokens %q is none of access, id", i.Name, i.Type)
	case len(i.Algorithms) == 0:
		return i, fmt.Errorf("oidc: issuer %s: it may sign with no algorithm", i.Name)
	case i.Skew < 0 || i.Skew > time.Minute:
		return i, fmt.Errorf("oidc: issuer %s: clocks %v apart; choose at most 1m", i.Name, i.Skew)
	case i.Refresh < time.Second || i.CoolDown < time.Second || i.Timeout < 0 || i.Stale < i.Refresh:
		return i, fmt.Errorf("oidc: issuer %s: refresh and cool-down are at least 1s, and stale is not shorter than refresh", i.Name)
	case i.MaxToken < 256 || i.MaxToken > 64<<10:
		return i, fmt.Errorf("oidc: issuer %s: tokens of %d bytes; choose 256 to 64 KiB", i.Name, i.MaxToken)
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(algorithms, a) {
			return i, fmt.Errorf("oidc: issuer %s: the algorithm %q is none of %s", i.Name, a, strings.Join(algorithms, ", "))
		}
	}
	for _, c := range i.Require {
		if len(c.Path) == 0 || slices.Contains(c.Path, "") {
			return i, fmt.Errorf("oidc: issuer %s: a required claim has no path", i.Name)
		}
	}
	if i.Client != nil {
		switch {
		case i.JWKS != "":
			return i, fmt.Errorf("oidc: issuer %s: people log in where a discovery document says; leave out the URL of the keys", i.Name)
		case i.Client.ID == "":
			return i, fmt.Errorf("oidc: issuer %s: the client has no id", i.Name)
		}
	}
	return i, nil
}

// goodURL says what is wrong with the address of something that is believed.
func goodURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("is not an absolute URL without user and fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (u.Hostname() == "127.0.0.1" || u.Hostname() == "::1" || u.Hostname() == "localhost"):
		return nil
	}
	return errors.New("must be https: who can change what comes from there can be anybody")
}

// An Identifier tells the principals of its issuers. Make one with New, and Run it once: before, no keys are known.
// Safe for concurrent use.
type Identifier struct {
	issuers map[string]*issuer // by URL
	cache   *cache
}

var _ gateway.Identifier = (*Identifier)(nil)

// New returns an Identifier. It asks nothing of anybody.
func New(cfg Config) (*Identifier, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("oidc: no issuers")
	}
	if cfg.Remember < 0 {
		return nil, fmt.Errorf("oidc: %d tokens to remember", cfg.Remember)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	id := &Identifier{issuers: make(map[string]*issuer), cache: newCache(cmp.Or(cfg.Remember, 20_000))}
	names := make(map[string]bool)
	for _, given := range cfg.Issuers {
		is, err := given.filled()
		if err != nil {
			return nil, err
		}
		if names[is.Name] || id.issuers[is.URL] != nil {
			return nil, fmt.Errorf("oidc: issuer %s: its name or its URL is another's too", is.Name)
		}
		names[is.Name] = true
		id.issuers[is.URL] = newIssuer(is, cfg)
	}
	return id, nil
}

// Run fetches the keys of the issuers and keeps them fresh until ctx ends.
func (id *Identifier) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, is := range id.issuers {
		all.Go(func() { is.run(ctx) })
	}
	all.Wait()
	return nil
}

// Identify tells whose token is shown; see [gateway.Identifier]. What has no dot in it is not a token of this kind.
func (id *Identifier) Identify(ctx context.Context, s gateway.Shown) (*gateway.Principal, error) {
	if !slices.Contains(s.Bearer, '.') {
		return nil, gateway.ErrNotMine
	}
	sum := sha256.Sum256(s.Bearer)
	now := time.Now()
	if e := id.cache.get(sum); e.good(now) {
		if err := e.bound.check(s.Cert); err != nil {
			return nil, err
		}
		return e.principal, nil
	}

	t, err := read(s.Bearer)
	if err != nil {
		return nil, err
	}
	is := id.issuers[t.claims.issuer]
	if is == nil || len(is.Audiences) == 0 {
		return nil, stranger("issuer", "the token was issued by somebody who is not known here; get one from an issuer that is")
	}
	e, err := is.identify(ctx, t, now)
	if err != nil {
		return nil, err
	}
	if err := e.bound.check(s.Cert); err != nil {
		return nil, err
	}
	id.cache.put(sum, e)
	return e.principal, nil
}

// identify tells whose token t is. The order is from what costs nothing to what costs most, and a key is asked for last.
func (is *issuer) identify(ctx context.Context, t *token, now time.Time) (*entry, error) {
	if err := is.fits(t); err != nil {
		return nil, err
	}
	audience, err := is.meant(t.claims, is.Audiences, is.Parties)
	if err != nil {
		return nil, err
	}
	if err := is.timely(t.claims, now); err != nil {
		return nil, err
	}
	p, err := is.principal(t.claims)
	if err != nil {
		return nil, err
	}
	bound, err := t.claims.bound()
	if err != nil {
		return nil, err
	}
	_, set, err := is.signed(ctx, t, audience)
	if err != nil {
		return nil, err
	}
	return &entry{principal: p, until: p.Until.Add(is.Skew), bound: bound, issuer: is, set: set.serial}, nil
}

// signed says whether the issuer signed t, and with keys of which set. go-oidc reads the token once more and in its own
// way, with the key that was chosen here: a token passes where both readings agree.
func (is *issuer) signed(ctx context.Context, t *token, audience string) (*oidc.IDToken, *keySet, error) {
	k, set, err := is.key(ctx, t.kid, t.alg)
	if err != nil {
		return nil, nil, err
	}
	verifier := oidc.NewVerifier(is.URL, k.verifies(t.alg), &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: []string{t.alg},
		Now:                  func() time.Time { return time.Now().Add(-is.Skew) },
	})
	known, err := verifier.Verify(ctx, t.raw)
	if err != nil { // which may have words of the token
		return nil, nil, stranger("signature", "the token's signature does not hold; get a new one")
	}
	return known, set, nil
}

func stranger(why, message string) *gateway.Stranger {
	return &gateway.Stranger{Why: why, Message: message}
}
