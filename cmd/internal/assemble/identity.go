package assemble

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cert"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/gateway/oidc"
	"github.com/tallystick/tallystick/gateway/saml"
	"github.com/tallystick/tallystick/gateway/token"
)

// identity is what knows callers by other things than static keys.
type identity struct {
	identifiers []gateway.Identifier // in the order in which they are asked
	tokens      *token.Store         // nil for none
	issuers     *oidc.Identifier     // nil for none
	pages       gateway.Pages        // on which people log in; nil for none
	runs        []func(context.Context) error
}

// newIdentity makes what the configuration names, and has conf ask for client certificates where these make callers known.
// The order: who shows a certificate of somebody listed is that one, whatever token comes with it, for SDKs do not work
// without one.
func newIdentity(c *config.Config, env Env, refs *Keyring, conf *tls.Config) (*identity, error) {
	id, in := &identity{}, c.Gateway.Identity
	if k := in.Certificates; k != nil {
		list, err := certificates(k)
		if err != nil {
			return nil, err
		}
		if conf.ClientCAs, err = readRoots("gateway.identity.certificates.roots", k.Roots); err != nil {
			return nil, err
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
		id.identifiers = append(id.identifiers, list)
	}
	if in.Tokens != nil {
		store, err := token.Open(in.Tokens.Dir, env.Logger)
		if err != nil {
			return nil, fmt.Errorf("gateway.identity.tokens: %w", err)
		}
		id.tokens = store
		id.identifiers, id.runs = append(id.identifiers, store), append(id.runs, store.Run)
	}
	if len(in.Issuers) > 0 {
		issuers, err := issuersOf(in, env, refs)
		if err != nil {
			return nil, err
		}
		id.issuers = issuers
		id.identifiers, id.runs = append(id.identifiers, issuers), append(id.runs, issuers.Run)
	}
	if in.LogIns() {
		pages, err := id.logins(in, login.Config{Public: in.Public, At: login.Path, Life: in.Tokens.TokenLife(), Logger: env.Logger}, func(string) bool { return true })
		if err != nil {
			return nil, err
		}
		id.pages = pages
	}
	return id, nil
}

// logins makes the pages on which people log in, at those of who knows them that signs names.
func (id *identity) logins(in config.Identity, out login.Config, signs func(name string) bool) (*login.Pages, error) {
	out.Public, out.Tokens = strings.TrimSuffix(out.Public, "/"), id.tokens
	at := out.Public + out.At
	for _, is := range in.Issuers {
		if is.Client == nil || !signs(is.Name) {
			continue
		}
		l, err := id.issuers.Login(is.Name, at+login.Back)
		if err != nil {
			return nil, fmt.Errorf("gateway.identity: %w", err)
		}
		out.Providers = append(out.Providers, l)
	}
	for _, s := range in.SAML {
		if !signs(s.Name) {
			continue
		}
		metadata, err := os.ReadFile(s.Metadata)
		if err != nil {
			return nil, fmt.Errorf("gateway.identity.saml, %s: %w", s.Name, err)
		}
		sc := saml.Config{
			Name: s.Name, Metadata: metadata, Entity: cmp.Or(s.Entity, at+login.SAML+"/"+s.Name), Back: at + login.SAML,
			Subject: s.Subject, Email: s.Email, Groups: s.Groups,
		}
		if s.Cert != "" {
			pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
			if err != nil {
				return nil, fmt.Errorf("gateway.identity.saml, %s: %w", s.Name, err)
			}
			key, ok := pair.PrivateKey.(*rsa.PrivateKey)
			if !ok {
				return nil, fmt.Errorf("gateway.identity.saml, %s: the key in %s is not an RSA key", s.Name, s.Key)
			}
			sc.Key, sc.Certificate = key, pair.Leaf
		}
		l, err := saml.New(sc)
		if err != nil {
			return nil, fmt.Errorf("gateway.identity: %w", err)
		}
		out.Providers = append(out.Providers, l)
	}
	pages, err := login.New(out)
	if err != nil {
		return nil, fmt.Errorf("gateway.identity: %w", err)
	}
	return pages, nil
}

func certificates(k *config.Certificates) (*cert.List, error) {
	out := cert.Config{Revoked: k.Revoked}
	for _, c := range k.Callers {
		caller := cert.Caller{Name: c.Name, Key: c.Key, Groups: c.Groups, Routes: c.Routes, SPKI: c.SPKI, URI: c.URI, DNS: c.DNS, Email: c.Email}
		if c.Authority != "" {
			a, err := readCertificate(c.Authority)
			if err != nil {
				return nil, fmt.Errorf("gateway.identity.certificates: the authority of %q: %w", c.Name, err)
			}
			caller.Authority = a
		}
		out.Callers = append(out.Callers, caller)
	}
	list, err := cert.New(out)
	if err != nil {
		return nil, fmt.Errorf("gateway.identity.certificates: %w", err)
	}
	return list, nil
}

// readCertificate reads the one certificate of a PEM file.
func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("there is more than one certificate in %s; name the one", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func issuersOf(in config.Identity, env Env, refs *Keyring) (*oidc.Identifier, error) {
	out := oidc.Config{Logger: env.Logger}
	if in.Proxy != "" {
		proxy, err := url.Parse(in.Proxy)
		if err != nil || proxy.Host == "" {
			return nil, errors.New("gateway.identity.proxy is not the URL of a proxy, such as http://proxy.example:3128")
		}
		out.Proxy = http.ProxyURL(proxy)
	}
	for _, is := range in.Issuers {
		issuer := oidc.Issuer{
			Name: is.Name, URL: is.URL, JWKS: is.JWKS, Audiences: is.Audiences, Parties: is.Parties, Type: is.Type, Algorithms: is.Algorithms,
			Groups: is.Groups, Skew: time.Duration(is.Skew), Refresh: time.Duration(is.Refresh), Stale: time.Duration(is.Stale),
			CoolDown: time.Duration(is.CoolDown), Timeout: time.Duration(is.Timeout), MaxToken: is.MaxToken,
		}
		for _, r := range is.Require {
			issuer.Require = append(issuer.Require, oidc.Claim{Path: r.Path, Any: r.Any})
		}
		var err error
		if issuer.Roots, err = readRoots("gateway.identity.issuers, "+is.Name+": roots", is.Roots); err != nil {
			return nil, err
		}
		if is.Client != nil {
			issuer.Client = &oidc.Client{ID: is.Client.ID, Scopes: is.Client.Scopes}
			if !is.Client.Secret.IsZero() {
				secret, err := refs.Renewed(context.Background(), "gateway.identity.issuers, "+is.Name+": client.secret", is.Client.Secret)
				if err != nil {
					return nil, err
				}
				issuer.Client.Secret = secret
			}
		}
		out.Issuers = append(out.Issuers, issuer)
	}
	id, err := oidc.New(out)
	if err != nil {
		return nil, fmt.Errorf("gateway.identity: %w", err)
	}
	return id, nil
}
