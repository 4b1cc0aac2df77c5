// Package samltest runs a SAML identity provider on the loopback, for tests: that of github.com/crewjam/saml.
package samltest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/crewjam/saml"
	"github.com/crewjam/saml/samlidp"
	"github.com/crewjam/saml/xmlenc"
	dsig "github.com/russellhaering/goxmldsig"
)

// User and Password are those of the one person that the provider knows; Email and Groups are what it says of her.
const (
	User     = "alice"
	Password = "correct horse"
	Email    = "alice@example.com"

	EmailAttribute  = "urn:oid:0.9.2342.19200300.100.1.3"
	GroupsAttribute = "urn:oid:1.3.6.1.4.1.5923.1.1.1.1"
)

// Groups are alice's.
func Groups() []string { return []string{"staff", "approvers"} }

// A Provider is one that runs until its test ends.
type Provider struct {
	URL     string
	Browser *http.Client // one that may be used again
	t       testing.TB
	idp     *samlidp.Server

	mu     sync.Mutex
	change func(*saml.Assertion) // under mu
}

// Keypair makes a key and a certificate of its own for it.
func Keypair(t testing.TB) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "saml"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// New starts a provider.
func New(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{t: t, Browser: Browser()}
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.idp.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	p.URL = srv.URL
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	key, cert := Keypair(t)
	p.idp, err = samlidp.New(samlidp.Options{URL: *at, Signer: key, Certificate: cert, Store: &samlidp.MemoryStore{}, Logger: log.New(io.Discard, "", 0)})
	if err != nil {
		t.Fatal(err)
	}
	p.idp.IDP.AssertionMaker = p
	p.put("/users/"+User, fmt.Sprintf(`{"name":%q,"password":%q,"email":%q,"groups":["%s"]}`, User, Password, Email, strings.Join(Groups(), `","`)))
	return p
}

func (p *Provider) put(path, body string) {
	p.t.Helper()
	req, err := http.NewRequest("PUT", p.URL+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
		p.t.Fatalf("PUT %s: %s %s", path, resp.Status, b)
	}
}

// MakeAssertion makes an assertion and changes it before it is signed.
func (p *Provider) MakeAssertion(req *saml.IdpAuthnRequest, session *saml.Session) error {
	if err := (saml.DefaultAssertionMaker{}).MakeAssertion(req, session); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.change != nil {
		p.change(req.Assertion)
	}
	return nil
}

// Change has the assertions from now on be changed before they are signed; nil for not at all.
func (p *Provider) Change(f func(*saml.Assertion)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change = f
}

// SignBy has the provider sign by another method than RSA with SHA-256.
func (p *Provider) SignBy(method string) { p.idp.IDP.SignatureMethod = method }

// EncryptBy has the provider encrypt assertions in another way.
func (p *Provider) EncryptBy(e xmlenc.Encrypter) { p.idp.IDP.AssertionEncrypter = e }

// Sign signs an element that has no signature, by the provider's key.
func (p *Provider) Sign(e *etree.Element) *etree.Element {
	p.t.Helper()
	ctx, err := dsig.NewSigningContext(p.idp.IDP.Signer, [][]byte{p.idp.IDP.Certificate.Raw})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	signed, err := ctx.SignEnveloped(e)
	if err != nil {
		p.t.Fatal(err)
	}
	return signed
}

// Metadata is the provider's.
func (p *Provider) Metadata() []byte {
	b, err := xml.Marshal(p.idp.IDP.Metadata())
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// Entity is what the provider is called.
func (p *Provider) Entity() string { return p.URL + "/metadata" }

// Register makes somebody with that metadata known to the provider.
func (p *Provider) Register(name string, metadata []byte) {
	p.t.Helper()
	p.put("/services/"+name, string(metadata))
}

// Browser returns a client like a browser, which follows no redirect by itself.
func Browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: time.Minute}
}

var (
	action = regexp.MustCompile(`action="([^"]*)"`)
	input  = regexp.MustCompile(`<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"`)
)

// Form reads the first form of a page: where it goes and its values.
func Form(page string) (to string, values url.Values) {
	values = make(url.Values)
	if m := action.FindStringSubmatch(page); m != nil {
		to = html.UnescapeString(m[1])
	}
	for _, m := range input.FindAllStringSubmatch(page, -1) {
		values.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return to, values
}

// LogIn follows a browser, which has given its password to the provider, from the address that a log-in sends it to, to the
// form with the response that the browser would post: where to, and what.
func (p *Provider) LogIn(browser *http.Client, to string) (post string, form url.Values) {
	p.t.Helper()
	page := func(resp *http.Response, err error) string {
		if err != nil {
			p.t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			p.t.Fatalf("the provider answers %s: %s %v", resp.Status, b, err)
		}
		return string(b)
	}
	at, err := url.Parse(p.URL)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(browser.Jar.Cookies(at)) == 0 { // it has no session there
		page(browser.PostForm(p.URL+"/login", url.Values{"user": {User}, "password": {Password}}))
	}
	post, form = Form(page(browser.Get(to)))
	if form.Get("SAMLResponse") == "" {
		p.t.Fatalf("the provider gives no response: %v", form)
	}
	return post, form
}
