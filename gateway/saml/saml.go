// Package saml logs people in at SAML 2.0 identity providers, by the web browser profile (saml-profiles-2.0-os §4.1): the
// request goes by redirect, the response comes by the browser's POST.
//
// What is always true:
//
//   - a response has one reading or none: base64 once, XML without a document type, entities of its own, comments and
//     processing instructions, one assertion;
//   - what is read is what the provider signed, by the certificates of its metadata and with no SHA-1; a response, or an
//     assertion, that is not signed makes nobody known;
//   - a response answers one request of this gateway's, to the browser that made it, once. What a provider sends unasked is
//     refused;
//   - nothing of a response stands in an error. What was verified becomes a [gateway.Principal], and is on record as such.
package saml

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/crewjam/saml"

	"github.com/tallystick/tallystick/gateway"
)

// Config is what a Login is made of.
type Config struct {
	// Name begins the names of the provider's principals, before a colon: 1 to 32 of a-z, 0-9, '-'. It is never changed and
	// never given to another provider: records know people by it.
	Name string
	// Metadata is the provider's, an EntityDescriptor (saml-metadata-2.0-os §2.3.2). Its certificates are believed, so it must
	// come from the provider by a safe way.
	Metadata []byte
	// Entity is what this gateway is called at the provider, and Back the URL that responses are posted to. Both are
	// registered there.
	Entity, Back string

	// Subject is the attribute whose value names a person, never changes and is never given to another; "" for the NameID,
	// which then must not be a transient one.
	Subject string
	// Email is the attribute with a person's e-mail address, "" for none. Name one only if the provider verifies addresses.
	Email string
	// Groups is the attribute with the names of a person's groups, "" for none.
	Groups string

	// Key and Certificate sign requests, and open assertions that were encrypted for this gateway; nil for neither.
	Key         *rsa.PrivateKey
	Certificate *x509.Certificate
}

// Limits of what is read, in bytes or of things.
const (
	maxName     = 200 // of a principal, as gateway.Principal says
	maxGroups   = 256
	maxGroup    = 256
	maxResponse = 256 << 10 // base64 decoded
	maxUsed     = 100_000   // assertions that are remembered as used
)

const rsaSHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"

// A Login logs people in at one provider, in two steps between which the browser is there: Begin and Finish. It remembers
// only which assertions were used. Safe for concurrent use.
type Login struct {
	cfg Config
	sp  saml.ServiceProvider
}

// New returns a Login. It asks nothing of anybody.
func New(cfg Config) (*Login, error) {
	if cfg.Name == "" || len(cfg.Name) > 32 || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return nil, fmt.Errorf("saml: the provider's name %q is not 1 to 32 of a-z, 0-9, '-'", cfg.Name)
	}
	fail := func(format string, args ...any) (*Login, error) {
		return nil, fmt.Errorf("saml: provider %s: "+format, append([]any{cfg.Name}, args...)...)
	}
	back, err := url.Parse(cfg.Back)
	if err != nil || !good(cfg.Back) {
		return fail("the URL that responses are posted to must be https: who can read one can be anybody")
	}
	if cfg.Entity == "" {
		return fail("it has no name for this gateway")
	}
	if (cfg.Key == nil) != (cfg.Certificate == nil) {
		return fail("it needs both a key and its certificate, or neither")
	}
	m, err := readMetadata(cfg.Metadata)
	if err != nil {
		return fail("its metadata: %w", err)
	}
	l := &Login{cfg: cfg, sp: saml.ServiceProvider{
		EntityID: cfg.Entity, AcsURL: *back, IDPMetadata: m,
		AssertionConsumerServiceBindings: []string{saml.HTTPPostBinding},
		LogoutBindings:                   []string{},
		MetadataOmitValidUntil:           true,
		AuthnNameIDFormat:                saml.PersistentNameIDFormat,
		RejectUnknownConditions:          true,
		RejectSHA1Signatures:             true,
		RejectExpiredIDPMetadata:         true,
		RequireSignedResponseForCBC:      true,
		LimitRelayStateLength:            true,
		ReplayCache:                      &used{until: make(map[string]time.Time)},
	}}
	if cfg.Subject != "" {
		l.sp.AuthnNameIDFormat = saml.UnspecifiedNameIDFormat
	}
	if cfg.Key != nil {
		l.sp.Key, l.sp.Certificate, l.sp.SignatureMethod = crypto.Signer(cfg.Key), cfg.Certificate, rsaSHA256
	}
	if to := l.sp.GetSSOBindingLocation(saml.HTTPRedirectBinding); !good(to) {
		return fail("its metadata names no https address for log-ins by redirect (HTTP-Redirect)")
	}
	return l, nil
}

// good says whether s is the address of something that is believed.
func good(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "127.0.0.1" || u.Hostname() == "::1" || u.Hostname() == "localhost")
}

// readMetadata reads the description of one provider.
func readMetadata(b []byte) (*saml.EntityDescriptor, error) {
	seen, err := scan(b, maxResponse)
	if err != nil {
		return nil, err
	}
	if seen.root != "EntityDescriptor" {
		return nil, fmt.Errorf("it is a %q, not an EntityDescriptor; take out of it the one provider's", seen.root)
	}
	m := new(saml.EntityDescriptor)
	if err := xml.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if m.EntityID == "" || len(m.IDPSSODescriptors) != 1 {
		return nil, fmt.Errorf("it is of an entity without a name, or with %d descriptions of an identity provider; it needs one", len(m.IDPSSODescriptors))
	}
	certs := 0
	for _, k := range m.IDPSSODescriptors[0].KeyDescriptors {
		if k.Use != "" && k.Use != "signing" {
			continue
		}
		for _, c := range k.KeyInfo.X509Data.X509Certificates {
			der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(c.Data), ""))
			if err == nil {
				_, err = x509.ParseCertificate(der)
			}
			if err != nil {
				return nil, fmt.Errorf("a certificate in it cannot be read: %w", err)
			}
			certs++
		}
	}
	if certs == 0 {
		return nil, errors.New("it has no certificate to verify signatures with")
	}
	return m, nil
}

// A seen is what a scan saw: the name of the root, and how many elements there are of those names.
type seen struct {
	root                              string
	assertions, encrypted, signatures int
}

// scan reads XML once, as a stream, and refuses what could be read in another way: a document type, entities, comments,
// processing instructions, more than one assertion.
func scan(b []byte, most int) (s seen, err error) {
	if len(b) > most {
		return s, fmt.Errorf("it is over %d bytes", most)
	}
	if !utf8.Valid(b) {
		return s, errors.New("it is not UTF-8")
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Entity = nil
	depth := 0
	for {
		at := d.InputOffset()
		t, err := d.RawToken()
		if t == nil {
			if err != io.EOF {
				return s, errors.New("it is not well-formed XML")
			}
			break
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth == 0 && s.root != "" {
				return s, errors.New("it has two roots")
			}
			if s.root == "" {
				s.root = t.Name.Local
			}
			switch t.Name.Local {
			case "Assertion":
				s.assertions++
			case "EncryptedAssertion":
				s.encrypted++
			case "Signature":
				s.signatures++
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.ProcInst:
			if at != 0 || t.Target != "xml" {
				return s, errors.New("it has a processing instruction")
			}
		case xml.Comment:
			return s, errors.New("it has a comment")
		case xml.Directive:
			return s, errors.New("it has a document type")
		}
	}
	switch {
	case s.root == "" || depth != 0:
		return s, errors.New("it is not well-formed XML")
	case s.assertions+s.encrypted > 1:
		return s, errors.New("it has several assertions")
	}
	return s, nil
}

// Name is the provider's name here.
func (l *Login) Name() string { return l.cfg.Name }

// Metadata describes this gateway to the provider (saml-metadata-2.0-os).
func (l *Login) Metadata() ([]byte, error) {
	b, err := xml.MarshalIndent(l.sp.Metadata(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("saml: provider %s: %w", l.cfg.Name, err)
	}
	return append(b, '\n'), nil
}

// Begin returns where the browser is to be sent, and what is to be remembered for Finish. state comes back with the browser,
// as RelayState: it is random, of at most 80 bytes, and good for once.
func (l *Login) Begin(_ context.Context, state string) (to, memory string, err error) {
	req, err := l.sp.MakeAuthenticationRequest(l.sp.GetSSOBindingLocation(saml.HTTPRedirectBinding), saml.HTTPRedirectBinding, saml.HTTPPostBinding)
	if err != nil {
		return "", "", fmt.Errorf("saml: provider %s: %w", l.cfg.Name, err)
	}
	u, err := req.Redirect(state, &l.sp)
	if err != nil {
		return "", "", fmt.Errorf("saml: provider %s: %w", l.cfg.Name, err)
	}
	return u.String(), req.ID, nil
}

// Finish tells who came back with the POST r, whose form was parsed and whose RelayState is the state that Begin was given,
// from what Begin returned as memory. It must be called once at most for each Begin. Errors are those of a
// [gateway.Identifier]. Until is when the provider says that the session there ends, zero if it does not.
func (l *Login) Finish(_ context.Context, r *http.Request, memory string) (*gateway.Principal, error) {
	if memory == "" {
		return nil, errors.New("saml: this log-in was not begun here")
	}
	form := r.PostForm["SAMLResponse"]
	if r.Method != http.MethodPost || len(form) != 1 {
		return nil, malformed
	}
	text := strings.NewReplacer("\r", "", "\n", "").Replace(form[0]) // some providers break lines
	if len(text) > base64.StdEncoding.EncodedLen(maxResponse) {
		return nil, malformed
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, malformed
	}
	seen, err := scan(b, maxResponse)
	switch {
	case err != nil || seen.root != "Response":
		return nil, malformed
	case seen.signatures == 0 && seen.encrypted == 0:
		return nil, unsigned
	}
	a, err := l.sp.ParseXMLResponse(b, []string{memory}, l.sp.AcsURL)
	if err != nil {
		return nil, why(err)
	}
	return l.principal(a)
}

func stranger(why, message string) *gateway.Stranger {
	return &gateway.Stranger{Why: why, Message: message}
}

var malformed = stranger("malformed", "what the provider's answer says cannot be read in one way; log in again, or ask who runs the provider")

var unsigned = stranger("signature", "the provider's answer is not signed by the provider; log in again")

// why says what is wrong with a response, by what the library tells of it.
func why(err error) error {
	var invalid *saml.InvalidResponseError
	if errors.As(err, &invalid) {
		err = invalid.PrivateErr
	}
	var status saml.ErrBadStatus
	switch {
	case errors.As(err, &status):
		return stranger("declined", "the provider did not log you in; log in again, or ask who runs the provider")
	case errors.Is(err, saml.ErrAssertionReplayed):
		return stranger("replayed", "the provider's answer was used before; log in again")
	case errors.Is(err, saml.ErrUnsupported):
		return stranger("unsupported", "the provider's answer is signed in a way, or under a condition, that is not taken here; ask who runs the provider")
	case errors.Is(err, saml.ErrExpired) && errors.Is(err, saml.ErrInvalidSignature):
		return stranger("metadata", "what is known here of the provider has expired; ask who runs the gateway for its new metadata")
	case errors.Is(err, saml.ErrInvalidSignature):
		return unsigned
	case errors.Is(err, saml.ErrIssuerMismatch):
		return stranger("issuer", "the answer came from another provider than was asked; log in again")
	case errors.Is(err, saml.ErrAudienceMismatch):
		return stranger("audience", "the provider's answer is for somebody else; log in again")
	case errors.Is(err, saml.ErrDestinationMismatch):
		return stranger("recipient", "the provider's answer is for another address; log in again")
	case errors.Is(err, saml.ErrRequestIDMismatch):
		return stranger("request", "the provider's answer is not to this log-in; log in again")
	case errors.Is(err, saml.ErrExpired):
		return stranger("expired", "the provider's answer has expired; log in again")
	case errors.Is(err, saml.ErrNotYetValid):
		return stranger("early", "the provider's answer is not valid yet; compare the provider's clock with the gateway's")
	case errors.Is(err, saml.ErrDecryptionFailed):
		return stranger("encrypted", "the provider's answer was encrypted for somebody else; ask who runs the provider")
	}
	return malformed
}

// principal is whom an assertion names.
func (l *Login) principal(a *saml.Assertion) (*gateway.Principal, error) {
	p := &gateway.Principal{How: gateway.BySAML, Issuer: a.Issuer.Value}
	if l.cfg.Subject == "" {
		id := a.Subject.NameID
		if id == nil || id.Format == string(saml.TransientNameIDFormat) {
			return nil, stranger("subject", "the provider gives you another name at every log-in; have it send a persistent NameID, or an attribute that names you")
		}
		p.Subject = id.Value
	} else if values := l.values(a, l.cfg.Subject); len(values) == 1 {
		p.Subject = values[0]
	}
	p.Name = l.cfg.Name + ":" + p.Subject
	// What only looks like another's name cannot be one.
	if p.Subject == "" || strings.TrimSpace(p.Subject) != p.Subject || len(p.Name) > maxName || !printable(p.Subject, unicode.MaxASCII) {
		return nil, stranger("subject", "the name that the provider gives you is missing, too long or not of printable ASCII characters")
	}
	if l.cfg.Email != "" {
		if values := l.values(a, l.cfg.Email); len(values) == 1 && len(values[0]) <= 254 && strings.Count(values[0], "@") == 1 && printable(values[0], utf8.MaxRune) {
			p.Email = values[0]
		}
	}
	if l.cfg.Groups != "" {
		p.Groups = l.values(a, l.cfg.Groups)
		if len(p.Groups) > maxGroups || slices.ContainsFunc(p.Groups, func(g string) bool { return g == "" || len(g) > maxGroup || !printable(g, utf8.MaxRune) }) {
			return nil, stranger("groups", "the groups that the provider names are too many or too long; have it name those alone that the gateway needs")
		}
	}
	for _, s := range a.AuthnStatements {
		if p.At.IsZero() || s.AuthnInstant.Before(p.At) {
			p.At = s.AuthnInstant
		}
		if e := s.SessionNotOnOrAfter; e != nil && (p.Until.IsZero() || e.Before(p.Until)) {
			p.Until = *e
		}
	}
	p.At = cmp.Or(p.At, a.IssueInstant)
	if !p.Until.IsZero() && !time.Now().Before(p.Until) {
		return nil, stranger("expired", "the session at the provider has ended; log in again")
	}
	return p, nil
}

// values are those of the attribute called name, whichever statement it stands in.
func (l *Login) values(a *saml.Assertion, name string) (all []string) {
	for _, s := range a.AttributeStatements {
		for _, attr := range s.Attributes {
			if attr.Name != name {
				continue
			}
			for _, v := range attr.Values {
				if !v.Nil {
					all = append(all, strings.TrimSpace(v.Value))
				}
			}
		}
	}
	return all
}

// printable says whether s has nothing that is not seen, and nothing beyond last.
func printable(s string, last rune) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r > last || !unicode.IsPrint(r) })
}

// used remembers which assertions were used, until nobody would take them any more.
type used struct {
	mu    sync.Mutex
	until map[string]time.Time // under mu, by the assertion's ID
	swept time.Time            // under mu
}

// Consume takes note that an assertion was used.
func (u *used) Consume(id string, until time.Time) error {
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.swept) > time.Minute || len(u.until) >= maxUsed {
		for k, t := range u.until {
			if now.After(t) {
				delete(u.until, k)
			}
		}
		u.swept = now
	}
	if _, ok := u.until[id]; ok {
		return saml.ErrAssertionReplayed
	}
	if len(u.until) >= maxUsed {
		return errors.New("too many people log in at once")
	}
	u.until[id] = until
	return nil
}
