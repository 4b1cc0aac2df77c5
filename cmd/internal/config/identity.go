package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Identity says how callers are known by other things than static keys: by a client certificate, by a token of the
// gateway's own, or by a token of another issuer. A static key decides before all of them, and a certificate of somebody
// who is listed before any token.
type Identity struct {
	Certificates *Certificates `yaml:"certificates"`
	Tokens       *Tokens       `yaml:"tokens"`
	Issuers      []Issuer      `yaml:"issuers"`
	SAML         []SAML        `yaml:"saml"`
	// Public is where browsers find the gateway, for people to log in: https://gateway.example. It needs tokens, and an issuer
	// with a client or a SAML provider. At an issuer, PUBLIC/.tallystick/login/back is registered to come back to.
	Public string `yaml:"public"`
	// Proxy is the URL of a proxy through which issuers are reached; by default none.
	Proxy string `yaml:"proxy"`
}

// Certificates are those of clients. They need gateway.tls.
type Certificates struct {
	Roots   string       `yaml:"roots"`   // a PEM file of the authorities that sign client certificates
	Callers []CertCaller `yaml:"callers"` // whom they make known
	Revoked []string     `yaml:"revoked"` // SHA-256 of certificates, or of their public keys (SubjectPublicKeyInfo), in hex
}

// CertCaller is a principal and one way to know its certificates: exactly one of spki, uri, dns and email.
type CertCaller struct {
	Name      string   `yaml:"name"`
	Key       string   `yaml:"key"` // the certificate's own name, where a principal has several
	Groups    []string `yaml:"groups"`
	Routes    []string `yaml:"routes"`    // by default all
	SPKI      string   `yaml:"spki"`      // SHA-256 of the public key (SubjectPublicKeyInfo), in hex
	URI       string   `yaml:"uri"`       // a subject alternative name, such as spiffe://example.org/ns/prod/sa/batch
	DNS       string   `yaml:"dns"`       // the same, in lower case
	Email     string   `yaml:"email"`     // the same
	Authority string   `yaml:"authority"` // a PEM file of the one authority that may give this name; by default any of roots
}

// Tokens are the gateway's own, which people and programs are given after a log-in.
type Tokens struct {
	Dir  string   `yaml:"dir"`  // a directory for the gateway's user alone
	Life Duration `yaml:"life"` // how long a token lives; by default 12h, at most 168h
}

// Issuer is somebody whose tokens are believed (JSON Web Tokens of OpenID Connect), and what they must be like.
//
// Vault can be one, at https://vault.example:8200/v1/identity/oidc/provider/NAME. The client then asks for its scopes,
// scopes: [email, groups], and the template of its scope for e-mail says "email_verified": true too: an address that is not
// verified counts for nothing. Who was disabled there logs in no more, but has what was given before until that ends or is
// revoked.
type Issuer struct {
	// Name begins the names of the issuer's principals, before a colon. It is never changed: records know people by it.
	Name string `yaml:"name"`
	// URL is the issuer as it stands in its tokens, byte for byte, and where its discovery document is found.
	URL        string        `yaml:"url"`
	JWKS       string        `yaml:"jwks"`       // where its keys are, for issuers without a discovery document
	Audiences  []string      `yaml:"audiences"`  // the values of aud that tokens for this gateway have; one must be there
	Parties    []string      `yaml:"parties"`    // those to whom tokens may have been given (azp, client_id); by default anybody
	Type       string        `yaml:"type"`       // access for access tokens alone (typ at+jwt), id for none of these; by default both
	Algorithms []string      `yaml:"algorithms"` // by default RS256, PS256, ES256 and EdDSA
	Require    []Claim       `yaml:"require"`    // claims that a token must have
	Groups     []string      `yaml:"groups"`     // the path of the claim with the groups, such as [groups] or [realm_access, roles]
	Skew       Duration      `yaml:"skew"`       // how far its clock may be from ours; by default 30s, at most 1m
	Refresh    Duration      `yaml:"refresh"`    // between two fetches of its keys; by default 5m
	Stale      Duration      `yaml:"stale"`      // how old its keys may become while it cannot be reached; by default 1h
	CoolDown   Duration      `yaml:"cool_down"`  // the shortest time between two fetches; by default 10s
	Timeout    Duration      `yaml:"timeout"`    // of one request to it; by default 10s
	MaxToken   int           `yaml:"max_token"`  // the longest token in bytes; by default 16384
	Roots      string        `yaml:"roots"`      // a PEM file of the authorities that its certificate comes from; by default the system's
	Client     *IssuerClient `yaml:"client"`     // what this gateway is there, for people to log in; by default nobody does
}

// IssuerClient is what this gateway is at an issuer, as it was registered there.
type IssuerClient struct {
	ID     string     `yaml:"id"`
	Secret Credential `yaml:"secret"` // env: NAME, file: PATH or vault: MOUNT/PATH#FIELD; by default none, for a public client
	Scopes []string   `yaml:"scopes"` // beside openid; by default email
}

// SAML is an identity provider at which people log in (SAML 2.0, web browser profile).
type SAML struct {
	// Name begins the names of the provider's principals, before a colon. It is never changed: records know people by it.
	Name     string `yaml:"name"`
	Metadata string `yaml:"metadata"` // a file with the provider's, which must come from there by a safe way
	// Entity is what this gateway is called there; by default the URL of its metadata, PUBLIC/.tallystick/login/saml/NAME.
	Entity  string `yaml:"entity"`
	Subject string `yaml:"subject"` // the attribute that names a person for ever; by default the NameID
	Email   string `yaml:"email"`   // the attribute with the e-mail address, if the provider verifies it; by default none
	Groups  string `yaml:"groups"`  // the attribute with the groups; by default none
	Cert    string `yaml:"cert"`    // a PEM file with a certificate, and
	Key     string `yaml:"key"`     // one with its RSA key, to sign requests and to open encrypted assertions; by default neither
}

// Claim is one that a token must have.
type Claim struct {
	Path []string `yaml:"path"` // such as [hd]
	Any  []string `yaml:"any"`  // the values of which it is, or has, one; by default any
}

// TokenLife is how long tokens of the gateway's own live.
func (t *Tokens) TokenLife() time.Duration {
	if t.Life == 0 {
		return 12 * time.Hour
	}
	return time.Duration(t.Life)
}

// checkIdentity says what is wrong with who may call.
func (g *Gateway) checkIdentity() error {
	id := g.Identity
	if len(g.Callers) == 0 && id.Certificates == nil && id.Tokens == nil && len(id.Issuers) == 0 {
		return errors.New("gateway.callers is empty, so nobody could call; make a key with `tally keys new NAME` and name its hash here, or say under gateway.identity how callers are known")
	}
	if k := id.Certificates; k != nil {
		switch {
		case g.TLS.Cert == "":
			return errors.New("gateway.identity.certificates is here and no gateway.tls; client certificates are shown over TLS alone")
		case k.Roots == "":
			return missing(need{"gateway.identity.certificates.roots", k.Roots, "client-authorities.pem"})
		case len(k.Callers) == 0:
			return errors.New("gateway.identity.certificates.callers is empty, so that a certificate makes nobody known; list whom, each with one of spki, uri, dns, email")
		}
		for _, caller := range k.Callers {
			for _, name := range caller.Routes {
				if !slices.ContainsFunc(g.Routes, func(r Route) bool { return r.Name == name }) {
					return fmt.Errorf("the caller %q may use the route %q, which there is none of", caller.Name, name)
				}
			}
		}
	}
	if t := id.Tokens; t != nil {
		if err := missing(need{"gateway.identity.tokens.dir", t.Dir, "data/tokens"}); err != nil {
			return err
		}
		if t.TokenLife() > 7*24*time.Hour {
			return fmt.Errorf("gateway.identity.tokens.life is %v; choose at most 168h", t.TokenLife())
		}
	}
	if err := id.checkLogins(); err != nil {
		return err
	}
	if id.Proxy != "" && len(id.Issuers) == 0 {
		return errors.New("gateway.identity.proxy is here and no issuer that is reached through it; take it out")
	}
	for i, is := range id.Issuers {
		if err := missing(need{fmt.Sprintf("gateway.identity.issuers, number %d: name", i+1), is.Name, "okta"}, need{fmt.Sprintf("gateway.identity.issuers, number %d: url", i+1), is.URL, "https://example.okta.com"}); err != nil {
			return err
		}
	}
	// A name is one principal's. Those of an issuer's are its own to give.
	givers := make(map[string]bool)
	for _, is := range id.Issuers {
		givers[is.Name] = true
	}
	for _, s := range id.SAML {
		if givers[s.Name] {
			return fmt.Errorf("gateway.identity: an issuer or a provider beside another is called %s; give it a name of its own", s.Name)
		}
		givers[s.Name] = true
	}
	for giver := range givers {
		mine := func(name string) error {
			if strings.HasPrefix(name, giver+":") {
				return fmt.Errorf("the caller %q would have a name as the issuer %s gives them; choose one that does not begin with %s:", name, giver, giver)
			}
			return nil
		}
		for _, k := range g.Callers {
			if err := mine(k.Name); err != nil {
				return err
			}
		}
		if id.Certificates == nil {
			continue
		}
		for _, k := range id.Certificates.Callers {
			if err := mine(k.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// LogIns says whether people can log in.
func (id *Identity) LogIns() bool {
	return len(id.SAML) > 0 || slices.ContainsFunc(id.Issuers, func(is Issuer) bool { return is.Client != nil })
}

// checkLogins says what is wrong with how people log in.
func (id *Identity) checkLogins() error {
	switch {
	case id.LogIns() && id.Public == "":
		return missing(need{"gateway.identity.public", id.Public, "https://gateway.example"})
	case id.LogIns() && id.Tokens == nil:
		return errors.New("people log in, and there is no gateway.identity.tokens to keep what they are given; give it, for example tokens: {dir: data/tokens}")
	case id.Public != "" && !id.LogIns():
		return errors.New("gateway.identity.public is here, and nobody who logs people in; give an issuer a client, or name a provider under saml")
	}
	for i, s := range id.SAML {
		n := fmt.Sprintf("gateway.identity.saml, number %d: ", i+1)
		if err := missing(need{n + "name", s.Name, "entra"}, need{n + "metadata", s.Metadata, "entra.xml"}); err != nil {
			return err
		}
		if (s.Cert == "") != (s.Key == "") {
			return fmt.Errorf("%sit needs both cert and key, or neither", n)
		}
	}
	for _, is := range id.Issuers {
		if is.Client != nil && is.Client.ID == "" {
			return missing(need{"gateway.identity.issuers, " + is.Name + ": client.id", is.Client.ID, "tallystick"})
		}
	}
	return nil
}

// resolve makes every path absolute or relative to where the program runs.
func (id *Identity) resolve(at func(*string)) {
	if k := id.Certificates; k != nil {
		at(&k.Roots)
		for i := range k.Callers {
			at(&k.Callers[i].Authority)
		}
	}
	if id.Tokens != nil {
		at(&id.Tokens.Dir)
	}
	for i := range id.Issuers {
		at(&id.Issuers[i].Roots)
		if c := id.Issuers[i].Client; c != nil {
			at(&c.Secret.File)
		}
	}
	for i := range id.SAML {
		at(&id.SAML[i].Metadata)
		at(&id.SAML[i].Cert)
		at(&id.SAML[i].Key)
	}
}
