package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/tallystick/tallystick/gateway"
)

// A Client is what this gateway is at an issuer, as it was registered there.
type Client struct {
	ID     string
	Secret gateway.Secret // nil for a public client
	// Scopes are asked for beside openid; nil for email.
	Scopes []string
}

// A Login logs people in at one issuer, in two steps between which the browser is there: Begin and Finish. It remembers
// nothing itself. Safe for concurrent use.
type Login struct {
	is   *issuer
	back string
}

// Login returns the log-in of the issuer called name, which must have a Client. back is the URL the issuer sends browsers
// back to, as it is registered there.
func (id *Identifier) Login(name, back string) (*Login, error) {
	for _, is := range id.issuers {
		if is.Name != name || is.Client == nil {
			continue
		}
		if err := goodURL(back); err != nil {
			return nil, fmt.Errorf("oidc: issuer %s: the URL to come back to %w", name, err)
		}
		return &Login{is, back}, nil
	}
	return nil, fmt.Errorf("oidc: there is no issuer %q with a client for people to log in", name)
}

// Name is the issuer's name here.
func (l *Login) Name() string { return l.is.Name }

// Begin returns where the browser is to be sent, and what is to be remembered for Finish. state comes back with the
// browser: it is random, and good for once.
func (l *Login) Begin(ctx context.Context, state string) (to, memory string, err error) {
	m, err := l.metadata(ctx)
	if err != nil {
		return "", "", err
	}
	nonce, verifier := rand.Text(), oauth2.GenerateVerifier()
	return l.oauth(m).AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), nonce + " " + verifier, nil
}

// Finish tells who came back with the request r, whose state is the one that Begin was given, from what Begin returned as
// memory. It must be called once at most for each Begin. Errors are those of a [gateway.Identifier].
func (l *Login) Finish(ctx context.Context, r *http.Request, memory string) (*gateway.Principal, error) {
	m, err := l.metadata(ctx)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	for _, name := range []string{"code", "iss", "error"} {
		if len(q[name]) > 1 {
			return nil, stranger("malformed", "the issuer's answer has a parameter twice; log in again")
		}
	}
	// RFC 9207: who answered is not who was asked, where the browser was led to another one in between.
	if iss := q.Get("iss"); iss != m.Issuer && (iss != "" || m.SaysIssuer) {
		return nil, stranger("mixup", "the answer came from another issuer than was asked; log in again")
	}
	if q.Get("error") != "" || q.Get("code") == "" {
		return nil, stranger("declined", "the issuer did not log you in; log in again, or ask who runs the issuer")
	}
	nonce, verifier, ok := strings.Cut(memory, " ")
	if !ok {
		return nil, errors.New("oidc: this log-in was not begun here")
	}
	raw, access, err := l.exchange(ctx, m, q.Get("code"), verifier)
	if err != nil {
		return nil, err
	}
	return l.is.person(ctx, raw, access, nonce)
}

// exchange gives the code for tokens.
func (l *Login) exchange(ctx context.Context, m *metadata, code, verifier string) (id, access string, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.is.Timeout)
	defer cancel()
	tokens, err := l.oauth(m).Exchange(oidc.ClientContext(ctx, l.is.client), code, oauth2.VerifierOption(verifier))
	// Of the error only its kind is told: the rest is the issuer's answer.
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == "invalid_grant":
		return "", "", stranger("code", "the issuer does not know the code that the browser brought, or it was used; log in again")
	case errors.As(err, &refused):
		says := fmt.Sprintf("status %d", refused.Response.StatusCode)
		if slices.Contains(refusals, refused.ErrorCode) {
			says += ", " + refused.ErrorCode
		}
		if refused.Response.StatusCode/100 == 4 {
			says += "; see whether it knows this client and its secret, and whether the person may use it"
		}
		return "", "", fmt.Errorf("oidc: issuer %s gives no tokens for a code: %s", l.is.Name, says)
	case err != nil:
		if u := new(url.Error); errors.As(err, &u) {
			return "", "", fmt.Errorf("oidc: issuer %s gives no tokens for a code: %w", l.is.Name, u)
		}
		return "", "", fmt.Errorf("oidc: issuer %s gives no tokens for a code that could be read", l.is.Name)
	}
	raw, _ := tokens.Extra("id_token").(string)
	return raw, tokens.AccessToken, nil
}

// refusals are what RFC 6749 §5.2 has an issuer say, but for invalid_grant. Vault says invalid_request where the person may
// not log in any more.
var refusals = []string{"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}

// person tells whom the ID token names that came for a code (OpenID Connect Core §3.1.3.7).
func (is *issuer) person(ctx context.Context, raw, access, nonce string) (*gateway.Principal, error) {
	t, err := read([]byte(raw))
	if err != nil {
		return nil, err
	}
	switch {
	case t.claims.issuer != is.URL:
		return nil, stranger("issuer", "the issuer's token names another issuer")
	case len(t.raw) > is.MaxToken:
		return nil, tooLong
	case !slices.Contains(is.Algorithms, t.alg):
		return nil, wrongAlgorithm
	case t.access:
		return nil, wrongType
	case t.claims.issued.IsZero():
		return nil, stranger("claims", "the issuer's token does not say when it was issued (iat)")
	case t.claims.party != "" && t.claims.party != is.Client.ID:
		return nil, stranger("party", "the issuer's token was given to another client")
	case subtle.ConstantTimeCompare([]byte(t.claims.nonce), []byte(nonce)) != 1:
		return nil, stranger("nonce", "the issuer's token is of another log-in; log in again")
	}
	audience, err := is.meant(t.claims, []string{is.Client.ID}, nil)
	if err != nil {
		return nil, err
	}
	if err := is.timely(t.claims, time.Now()); err != nil {
		return nil, err
	}
	p, err := is.principal(t.claims)
	if err != nil {
		return nil, err
	}
	known, _, err := is.signed(ctx, t, audience)
	if err != nil {
		return nil, err
	}
	if t.claims.accessHash != "" && known.VerifyAccessToken(access) != nil {
		return nil, stranger("signature", "the issuer's tokens do not belong together; log in again")
	}
	return p, nil
}

// metadata is what the issuer's discovery document said last. It waits for the first one.
func (l *Login) metadata(ctx context.Context) (*metadata, error) {
	m := l.is.metadata.Load()
	if m == nil {
		_, _, err := l.is.key(ctx, "", l.is.Algorithms[0]) // which waits for a fetch; the key itself is not wanted
		if m = l.is.metadata.Load(); m == nil {
			return nil, err
		}
	}
	for _, u := range []string{m.Authorize, m.Token} {
		if goodURL(u) != nil {
			return nil, fmt.Errorf("oidc: issuer %s publishes no good address for log-ins", l.is.Name)
		}
	}
	return m, nil
}

func (l *Login) oauth(m *metadata) *oauth2.Config {
	c := l.is.Client
	cfg := &oauth2.Config{
		ClientID:    c.ID,
		RedirectURL: l.back,
		Scopes:      append([]string{oidc.ScopeOpenID}, c.Scopes...),
		// RFC 8414 §2: without a word on it, client_secret_basic.
		Endpoint: oauth2.Endpoint{AuthURL: m.Authorize, TokenURL: m.Token, AuthStyle: oauth2.AuthStyleInHeader},
	}
	if c.Scopes == nil {
		cfg.Scopes = append(cfg.Scopes, oidc.ScopeEmail)
	}
	if c.Secret == nil || m.AuthMethods != nil && !slices.Contains(m.AuthMethods, "client_secret_basic") {
		cfg.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	if c.Secret != nil {
		cfg.ClientSecret = string(c.Secret.Reveal())
	}
	return cfg
}
