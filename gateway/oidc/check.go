package oidc

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/gateway"
)

// fits says whether the issuer makes such tokens.
func (is *issuer) fits(t *token) error {
	switch {
	case len(t.raw) > is.MaxToken:
		return tooLong
	case !slices.Contains(is.Algorithms, t.alg):
		return wrongAlgorithm
	case is.Type == "access" && !t.access, is.Type == "id" && t.access:
		return wrongType
	}
	return nil
}

// meant says whether a token is for one of audiences, and returns which. A token for several says to whom it was given, so
// that what another of its audiences received is not good here (OpenID Connect Core §3.1.3.7).
func (is *issuer) meant(c *claims, audiences, parties []string) (string, error) {
	i := slices.IndexFunc(c.audience, func(a string) bool { return slices.Contains(audiences, a) })
	if i < 0 {
		return "", stranger("audience", "the token is for somebody else (aud); ask its issuer for one for this gateway")
	}
	switch {
	case parties != nil && !slices.Contains(parties, c.party),
		parties == nil && len(c.audience) > 1 && !slices.Contains(audiences, c.party):
		return "", stranger("party", "the token was given to a client that may not use this gateway (azp)")
	}
	return c.audience[i], nil
}

// timely says whether now lies in the time of a token.
func (is *issuer) timely(c *claims, now time.Time) error {
	switch {
	case c.ends.IsZero():
		return stranger("claims", "the token has no end (exp); tokens without one are not taken")
	case !now.Before(c.ends.Add(is.Skew)):
		return stranger("expired", "the token has expired; get a new one")
	case c.begins.After(now.Add(is.Skew)), c.issued.After(now.Add(is.Skew)):
		return stranger("early", "the token is not valid yet; compare the issuer's clock with the gateway's")
	}
	return nil
}

// principal is whom a token names.
func (is *issuer) principal(c *claims) (*gateway.Principal, error) {
	p := &gateway.Principal{
		Name: is.Name + ":" + c.subject, How: gateway.ByOIDC, Key: c.id,
		Issuer: c.issuer, Subject: c.subject, At: c.at, Until: c.ends,
	}
	// OpenID Connect Core §2: 255 ASCII characters at most. What only looks like another's name cannot be one then.
	if c.subject == "" || strings.TrimSpace(c.subject) != c.subject || len(p.Name) > maxName || !printable(c.subject, unicode.MaxASCII) {
		return nil, stranger("subject", "the token's subject (sub) is missing, too long or not of printable ASCII characters")
	}
	if len(p.Key) > 64 || !printable(p.Key, unicode.MaxASCII) {
		p.Key = "" // nothing depends on a jti
	}
	if p.At.IsZero() {
		p.At = c.issued
	}
	p.Email = c.email()
	for _, r := range is.Require {
		if !c.has(r) {
			return nil, stranger("required", "the token lacks something that this gateway requires of it; ask who runs the gateway")
		}
	}
	var ok bool
	if p.Groups, ok = is.groups(c); !ok {
		return nil, stranger("groups", "the token's groups are too many or too long, or stand elsewhere; have the issuer put in those alone that the gateway needs")
	}
	return p, nil
}

// printable says whether s has nothing that is not seen, and nothing beyond last.
func printable(s string, last rune) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r > last || !unicode.IsPrint(r) })
}

// email is the address, where the issuer says that it verified it. Some say so in a string.
func (c *claims) email() (s string) {
	switch string(c.all["email_verified"]) {
	case "true", `"true"`:
	default:
		return ""
	}
	if v := c.all["email"]; v.Kind() != '"' || json.Unmarshal(v, &s) != nil || len(s) > 254 || !printable(s, utf8.MaxRune) {
		return ""
	}
	return s
}

// has says whether a required claim is there.
func (c *claims) has(r Claim) bool {
	v := c.find(r.Path)
	if v == nil || v.Kind() == 'n' {
		return false
	}
	if len(r.Path) == 1 && r.Path[0] == "email" && c.email() == "" {
		return false
	}
	if len(r.Any) == 0 {
		return true
	}
	list, ok := texts(v)
	if !ok {
		list = []string{string(v)} // a number or a boolean is compared as it stands
	}
	return slices.ContainsFunc(list, func(s string) bool { return slices.Contains(r.Any, s) })
}

// groups are those that the token lists. Where it says that they must be asked for elsewhere they are not known, which is
// another thing than none. Of who is in no group, Vault says null.
func (is *issuer) groups(c *claims) ([]string, bool) {
	if is.Groups == nil {
		return nil, true
	}
	v := c.find(is.Groups)
	if v == nil || v.Kind() == 'n' {
		return nil, c.find([]string{"_claim_names", is.Groups[0]}) == nil
	}
	list, ok := texts(v)
	if !ok || len(list) > maxGroups {
		return nil, false
	}
	for _, g := range list {
		if g == "" || len(g) > maxGroup || !printable(g, utf8.MaxRune) {
			return nil, false
		}
	}
	return list, true
}

// A binding is the certificate that a token is bound to (RFC 8705 §3); the zero one is none.
type binding struct {
	sum   [sha256.Size]byte
	bound bool
}

// bound reads what the token is bound to. A token that is bound in another way (RFC 9449) cannot be told from a stolen one
// here.
func (c *claims) bound() (b binding, err error) {
	v, ok := c.all["cnf"]
	if !ok {
		return binding{}, nil
	}
	var cnf map[string]jsontext.Value
	var text string
	if v.Kind() != '{' || json.Unmarshal(v, &cnf) != nil || len(cnf) != 1 || json.Unmarshal(cnf["x5t#S256"], &text) != nil {
		return binding{}, unbound
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sum) != sha256.Size {
		return binding{}, unbound
	}
	return binding{[sha256.Size]byte(sum), true}, nil
}

func (b binding) check(cert *x509.Certificate) error {
	if b.bound && (cert == nil || sha256.Sum256(cert.Raw) != b.sum) {
		return unbound
	}
	return nil
}

var unbound = stranger("bound", "the token is bound to a key that was not shown with it (cnf); show the client certificate, or ask for a bearer token")
