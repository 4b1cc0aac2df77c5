// Package cert tells callers by the client certificate that the TLS handshake verified.
//
// A certificate makes known whom the list says: by its public key, or by one of its subject alternative names, to the byte.
// What stands in its subject makes nobody known. A certificate is revoked by listing it.
package cert

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/gateway"
)

// A Caller is a principal and one way to know its certificates: exactly one of SPKI, URI, DNS and Email is set.
type Caller struct {
	Name   string // of the principal; stands in records
	Key    string // the certificate's own name, where a principal has several
	Groups []string
	Routes []string // the names of the routes it may use; nil for all

	SPKI  string // hex SHA-256 of the subject's public key info
	URI   string // a subject alternative name, such as spiffe://example.org/ns/prod/sa/batch
	DNS   string // in lower case
	Email string

	// Authority is who must have signed the certificate, where the gateway trusts several that could give each other's
	// names; nil for any that the handshake trusts.
	Authority *x509.Certificate
}

// Config is what a List is made of.
type Config struct {
	Callers []Caller
	// Revoked lists the hex SHA-256 of certificates, or of their subject's public key infos.
	Revoked []string
}

// A List knows callers by certificates. Make one with New. Its content is never changed. Safe for
// concurrent use.
type List struct {
	callers map[string][]*Caller // by kind and value
	revoked map[[sha256.Size]byte]bool

	mu    sync.Mutex
	known map[[sha256.Size]byte]known // by the certificate's SHA-256
}

// known is what was found out of one certificate.
type known struct {
	principal *gateway.Principal
	err       error
}

var _ gateway.Identifier = (*List)(nil)

// New returns a List. Two callers that one certificate of one authority would make known are an error.
func New(cfg Config) (*List, error) {
	if len(cfg.Callers) == 0 {
		return nil, errors.New("cert: nobody is listed")
	}
	l := &List{callers: make(map[string][]*Caller), revoked: make(map[[sha256.Size]byte]bool), known: make(map[[sha256.Size]byte]known)}
	for _, given := range cfg.Callers {
		c := &given
		if c.Name == "" || !plain(c.Name) || !plain(c.Key) {
			return nil, fmt.Errorf("cert: the name %q or the key %q of a caller is empty, longer than 200 bytes or has control characters", c.Name, c.Key)
		}
		var ways []string
		for kind, value := range map[string]*string{"spki": &c.SPKI, "uri": &c.URI, "dns": &c.DNS, "email": &c.Email} {
			if *value == "" {
				continue
			}
			if kind == "spki" {
				if *value = strings.ToLower(*value); !isSum(*value) {
					return nil, fmt.Errorf("cert: the spki of caller %q is not 64 hex digits of SHA-256", c.Name)
				}
			}
			if kind == "dns" && *value != strings.ToLower(*value) {
				return nil, fmt.Errorf("cert: the dns name of caller %q is not in lower case", c.Name)
			}
			ways = append(ways, kind+" "+*value)
		}
		if len(ways) != 1 {
			return nil, fmt.Errorf("cert: caller %q is to be known by %d things; set one of spki, uri, dns, email", c.Name, len(ways))
		}
		for _, o := range l.callers[ways[0]] {
			if o.Authority == nil || c.Authority == nil || o.Authority.Equal(c.Authority) {
				return nil, fmt.Errorf("cert: the callers %q and %q are known by the same certificates", o.Name, c.Name)
			}
		}
		l.callers[ways[0]] = append(l.callers[ways[0]], c)
	}
	for _, r := range cfg.Revoked {
		sum, err := hex.DecodeString(r)
		if err != nil || len(sum) != sha256.Size {
			return nil, errors.New("cert: what is revoked is not 64 hex digits of SHA-256")
		}
		l.revoked[[sha256.Size]byte(sum)] = true
	}
	return l, nil
}

func isSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

func plain(s string) bool {
	return len(s) <= 200 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// maxKnown is how many certificates are remembered at a time.
const maxKnown = 10_000

// Identify tells whose certificate is shown; see [gateway.Identifier]. A certificate of nobody who is listed is of another
// kind where a bearer credential is shown too: machines in a mesh have certificates of the mesh. Whom a listed one makes
// known, a bearer credential beside it does not change: SDKs do not work without one, whatever it is.
func (l *List) Identify(_ context.Context, s gateway.Shown) (*gateway.Principal, error) {
	if s.Cert == nil {
		return nil, gateway.ErrNotMine
	}
	sum := sha256.Sum256(s.Cert.Raw)
	l.mu.Lock()
	k, ok := l.known[sum]
	l.mu.Unlock()
	if !ok {
		k.principal, k.err = l.tell(s.Cert, sum)
		l.mu.Lock()
		if len(l.known) >= maxKnown {
			clear(l.known)
		}
		l.known[sum] = k
		l.mu.Unlock()
	}
	// A connection may outlive its certificate.
	if now := time.Now(); now.Before(s.Cert.NotBefore) || now.After(s.Cert.NotAfter) {
		return nil, stranger("expired", "the client certificate is not valid now; get a new one")
	}
	if errors.Is(k.err, unlisted) && s.Bearer != nil {
		return nil, gateway.ErrNotMine
	}
	return k.principal, k.err
}

func stranger(why, message string) *gateway.Stranger {
	return &gateway.Stranger{Why: why, Message: message}
}

var unlisted = stranger("unlisted", "the client certificate is of nobody who is known here; ask who runs the gateway")

// tell finds the one caller whom a certificate makes known.
func (l *List) tell(c *x509.Certificate, sum [sha256.Size]byte) (*gateway.Principal, error) {
	spki := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	if l.revoked[sum] || l.revoked[spki] {
		return nil, stranger("revoked", "the client certificate was revoked; get a new one")
	}
	// Before all others whoever is listed with this very key.
	if p := l.from(c, "spki "+hex.EncodeToString(spki[:])); len(p) == 1 {
		return p[0], nil
	}
	var found []*gateway.Principal
	for _, u := range c.URIs {
		found = append(found, l.from(c, "uri "+u.String())...)
	}
	for _, d := range c.DNSNames {
		found = append(found, l.from(c, "dns "+strings.ToLower(d))...)
	}
	for _, e := range c.EmailAddresses {
		found = append(found, l.from(c, "email "+e)...)
	}
	switch len(found) {
	case 0:
		return nil, unlisted
	case 1:
		return found[0], nil
	}
	for _, p := range found[1:] {
		if p.Name != found[0].Name || p.Key != found[0].Key {
			return nil, stranger("ambiguous", "the client certificate has the names of several callers; get one for each")
		}
	}
	return found[0], nil
}

// from returns the principals that a way leads to, of callers whose authority signed c.
func (l *List) from(c *x509.Certificate, way string) (found []*gateway.Principal) {
	for _, k := range l.callers[way] {
		if k.Authority != nil && c.CheckSignatureFrom(k.Authority) != nil {
			continue
		}
		_, subject, _ := strings.Cut(way, " ")
		issuer := c.Issuer.String()
		found = append(found, &gateway.Principal{
			Name: k.Name, How: gateway.ByCert, Key: k.Key, Issuer: strings.ToValidUTF8(issuer[:min(len(issuer), 500)], "\uFFFD"), Subject: subject,
			Groups: k.Groups, Routes: k.Routes, Until: c.NotAfter,
		})
	}
	return found
}
