package saml

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/crewjam/saml"
	"github.com/crewjam/saml/xmlenc"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/saml/samltest"
)

const back = "https://gateway.example/.tallystick/login/saml"

func whyOf(err error) string {
	var s *gateway.Stranger
	switch {
	case err == nil:
		return ""
	case errors.As(err, &s):
		return s.Why
	}
	return err.Error()
}

// newLogin registers a gateway at a provider.
func newLogin(t *testing.T, p *samltest.Provider, change func(*Config)) *Login {
	t.Helper()
	cfg := Config{
		Name: "idp", Metadata: p.Metadata(), Entity: "https://gateway.example/saml", Back: back,
		Email: samltest.EmailAttribute, Groups: samltest.GroupsAttribute,
	}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	p.Register("gateway", m)
	return l
}

// answer logs alice in and returns the form with which her browser comes back, and what is remembered for it.
func answer(t *testing.T, l *Login, p *samltest.Provider) (form url.Values, memory string) {
	t.Helper()
	to, memory, err := l.Begin(context.Background(), "state-1")
	if err != nil {
		t.Fatal(err)
	}
	post, form := p.LogIn(p.Browser, to)
	if post != back || form.Get("RelayState") != "state-1" {
		t.Fatalf("the browser is sent to %s with %s", post, form.Get("RelayState"))
	}
	return form, memory
}

func finish(l *Login, form url.Values, memory string) (*gateway.Principal, error) {
	r, err := http.NewRequest("POST", back, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	return l.Finish(context.Background(), r, memory)
}

// text changes the text of a response that came.
func text(t *testing.T, form url.Values, f func(string) string) url.Values {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(form.Get("SAMLResponse"))
	if err != nil {
		t.Fatal(err)
	}
	after := f(string(b))
	if after == string(b) {
		t.Fatal("nothing was changed")
	}
	return url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString([]byte(after))}, "RelayState": form["RelayState"]}
}

// tree changes the elements of a response that came.
func tree(t *testing.T, form url.Values, f func(response, assertion *etree.Element)) url.Values {
	return text(t, form, func(s string) string {
		doc := etree.NewDocument()
		if err := doc.ReadFromString(s); err != nil {
			t.Fatal(err)
		}
		f(doc.Root(), doc.Root().FindElement("./Assertion"))
		s, err := doc.WriteToString()
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// unsign takes the signature out of an element.
func unsign(e *etree.Element) *etree.Element {
	s := e.SelectElement("Signature")
	e.RemoveChild(s)
	return s
}

// forge makes another assertion of one: of mallory's, who is in the group of approvers, unsigned.
func forge(a *etree.Element) *etree.Element {
	e := a.Copy()
	unsign(e)
	e.CreateAttr("ID", "id-evil")
	e.FindElement("./Subject/NameID").SetText("mallory@example.com")
	return e
}

func TestLogIn(t *testing.T) {
	t.Parallel()
	p := samltest.New(t)
	for _, c := range []struct {
		name   string
		cfg    func(*Config)
		change func(*saml.Assertion)
		form   func(url.Values) url.Values
		want   gateway.Principal
	}{
		{"whole", nil, nil, nil, gateway.Principal{Name: "idp:alice@example.com", Subject: "alice@example.com", Email: samltest.Email, Groups: samltest.Groups()}},
		{"the assertion alone is signed", nil, nil, func(f url.Values) url.Values {
			return tree(t, f, func(r, _ *etree.Element) { unsign(r) })
		}, gateway.Principal{Name: "idp:alice@example.com", Subject: "alice@example.com", Email: samltest.Email, Groups: samltest.Groups()}},
		{"no attributes asked for", func(c *Config) { c.Email, c.Groups = "", "" }, nil, nil, gateway.Principal{Name: "idp:alice@example.com", Subject: "alice@example.com"}},
		{"named by an attribute", func(c *Config) { c.Subject, c.Email, c.Groups = "uid", "", "" }, func(a *saml.Assertion) {
			a.Subject.NameID.Format, a.Subject.NameID.Value = string(saml.TransientNameIDFormat), "x"
			a.AttributeStatements = []saml.AttributeStatement{{Attributes: []saml.Attribute{{Name: "uid", Values: []saml.AttributeValue{{Type: "xs:string", Value: "u-17"}}}}}}
		}, nil, gateway.Principal{Name: "idp:u-17", Subject: "u-17"}},
		{"base64 in lines", nil, nil, func(f url.Values) url.Values {
			s := f.Get("SAMLResponse")
			f.Set("SAMLResponse", s[:76]+"\r\n"+s[76:])
			return f
		}, gateway.Principal{Name: "idp:alice@example.com", Subject: "alice@example.com", Email: samltest.Email, Groups: samltest.Groups()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLogin(t, p, c.cfg)
			p.Change(c.change)
			defer p.Change(nil)
			begun := time.Now().Add(-time.Minute)
			form, memory := answer(t, l, p)
			if c.form != nil {
				form = c.form(form)
			}
			got, err := finish(l, form, memory)
			if err != nil {
				t.Fatal(whyOf(err), err)
			}
			if got.Name != c.want.Name || got.Subject != c.want.Subject || got.Email != c.want.Email || !slices.Equal(got.Groups, c.want.Groups) ||
				got.How != gateway.BySAML || got.Issuer != p.Entity() || got.At.Before(begun) || got.Routes != nil {
				t.Errorf("%+v", got)
			}
			// Once is all.
			if _, err := finish(l, form, memory); whyOf(err) != "replayed" {
				t.Errorf("it is taken twice: %v", err)
			}
		})
	}
}

// A session lasts no longer than the first of its ends, and was begun at the first of its beginnings, in whichever order
// they are stated.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	p := samltest.New(t)
	l := newLogin(t, p, nil)
	now := time.Now().UTC().Truncate(time.Second)
	at := func(d time.Duration) *time.Time { end := now.Add(d); return &end }
	for _, c := range []struct {
		name string
		ends []*time.Time
		want *time.Time // nil for none
		why  string
	}{
		{"no end", []*time.Time{nil}, nil, ""},
		{"one", []*time.Time{at(2 * time.Hour)}, at(2 * time.Hour), ""},
		{"the first is the earliest", []*time.Time{at(time.Hour), at(3 * time.Hour)}, at(time.Hour), ""},
		{"the last is", []*time.Time{at(3 * time.Hour), at(time.Hour)}, at(time.Hour), ""},
		{"one between", []*time.Time{at(3 * time.Hour), at(time.Hour), at(2 * time.Hour)}, at(time.Hour), ""},
		{"beside one without end", []*time.Time{nil, at(time.Hour), nil}, at(time.Hour), ""},
		{"one has passed", []*time.Time{at(3 * time.Hour), at(-time.Minute)}, nil, "expired"},
		{"one has passed, and it is the first", []*time.Time{at(-time.Minute), at(3 * time.Hour)}, nil, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Change(func(a *saml.Assertion) {
				one := a.AuthnStatements[0]
				a.AuthnStatements = nil
				for i, end := range c.ends {
					one.SessionNotOnOrAfter, one.AuthnInstant = end, now.Add(time.Duration(i)*time.Second)
					if i == 0 && len(c.ends) > 1 {
						one.AuthnInstant = now.Add(time.Minute)
					}
					a.AuthnStatements = append(a.AuthnStatements, one)
				}
			})
			defer p.Change(nil)
			form, memory := answer(t, l, p)
			got, err := finish(l, form, memory)
			if whyOf(err) != c.why {
				t.Fatalf("%q, want %q: %v", whyOf(err), c.why, err)
			}
			if err != nil {
				return
			}
			if c.want == nil && !got.Until.IsZero() || c.want != nil && !got.Until.Equal(*c.want) {
				t.Errorf("it ends at %v, want %v", got.Until, c.want)
			}
			if want := now.Add(time.Duration(min(1, len(c.ends)-1)) * time.Second); !got.At.Equal(want) {
				t.Errorf("it began at %v, want %v", got.At, want)
			}
		})
	}
}

// An assertion that was encrypted for this gateway is opened, one for another is not; requests are signed.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	p := samltest.New(t)
	key, cert := samltest.Keypair(t)
	l := newLogin(t, p, func(c *Config) { c.Key, c.Certificate = key, cert })
	to, _, err := l.Begin(t.Context(), "s")
	if err != nil || !strings.Contains(to, "&Signature=") {
		t.Errorf("%s %v", to, err)
	}
	form, memory := answer(t, l, p)
	b, _ := base64.StdEncoding.DecodeString(form.Get("SAMLResponse"))
	if !bytes.Contains(b, []byte("EncryptedAssertion")) || bytes.Contains(b, []byte(samltest.Email)) {
		t.Fatalf("it is not encrypted: %s", b)
	}
	if who, err := finish(l, form, memory); err != nil || who.Email != samltest.Email {
		t.Fatal(who, err)
	}
	// Encrypted without integrity, it is opened only if the response around it is signed.
	cbc := xmlenc.OAEP()
	cbc.BlockCipher, cbc.DigestMethod = xmlenc.AES128CBC, &xmlenc.SHA1
	p.EncryptBy(cbc)
	form, memory = answer(t, l, p)
	if who, err := finish(l, tree(t, form, func(r, _ *etree.Element) { unsign(r) }), memory); whyOf(err) != "signature" {
		t.Errorf("%v %v", who, err)
	}
	if who, err := finish(l, form, memory); err != nil || who.Email != samltest.Email {
		t.Error(who, err)
	}
	form, memory = answer(t, l, p)
	other, err := New(Config{Name: "idp", Metadata: p.Metadata(), Entity: "https://gateway.example/saml", Back: back})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := finish(other, form, memory); whyOf(err) == "" {
		t.Error("somebody without the key reads it")
	}
}

// Every way to come as somebody else, or again, or from elsewhere.
func TestAttacks(t *testing.T) {
	t.Parallel()
	p := samltest.New(t)
	l := newLogin(t, p, nil)
	other := samltest.New(t)
	day := 24 * time.Hour

	type row struct {
		name   string
		change func(*saml.Assertion) // before it is signed
		form   func(*testing.T, url.Values) url.Values
		memory func(string) string
		want   string // why it is refused
	}
	elements := func(f func(r, a *etree.Element)) func(*testing.T, url.Values) url.Values {
		return func(t *testing.T, v url.Values) url.Values { return tree(t, v, f) }
	}
	words := func(pairs ...string) func(*testing.T, url.Values) url.Values {
		return func(t *testing.T, v url.Values) url.Values { return text(t, v, strings.NewReplacer(pairs...).Replace) }
	}
	raw := func(s string) func(*testing.T, url.Values) url.Values {
		return func(*testing.T, url.Values) url.Values { return url.Values{"SAMLResponse": {s}} }
	}
	doctype := func(d string) func(*testing.T, url.Values) url.Values {
		return func(t *testing.T, v url.Values) url.Values {
			return text(t, v, func(s string) string {
				return d + strings.Replace(s[strings.Index(s, "<samlp:Response"):], "alice@example.com", "&a;", 1)
			})
		}
	}
	for _, c := range []row{
		// Signatures.
		{"nothing is signed", nil, elements(func(r, a *etree.Element) { unsign(r); unsign(a) }), nil, "signature"},
		{"the assertion was changed", nil, words("alice@example.com", "mallory@example.com"), nil, "signature"},
		{"the assertion was changed, and is signed alone", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			a.FindElement("./Subject/NameID").SetText("mallory@example.com")
		}), nil, "signature"},
		{"the response was changed and the assertion was not", nil, elements(func(r, _ *etree.Element) { r.CreateAttr("Consent", "x") }), nil, "signature"},
		{"an attribute was added", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			v := a.FindElement("./AttributeStatement/Attribute/AttributeValue")
			w := v.Copy()
			w.SetText("admins")
			v.Parent().AddChild(w)
		}), nil, "signature"},
		{"the signature is another element's", nil, elements(func(r, a *etree.Element) { s := unsign(r); unsign(a); a.InsertChildAt(1, s) }), nil, "signature"},
		{"the signature's digest is empty", nil, elements(func(r, a *etree.Element) { unsign(r); a.FindElement(".//DigestValue").SetText("") }), nil, "signature"},
		{"the signature refers to nothing", nil, elements(func(r, a *etree.Element) { unsign(r); a.FindElement(".//Reference").CreateAttr("URI", "") }), nil, "signature"},
		{"the signature has no reference", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			i := a.FindElement(".//SignedInfo")
			i.RemoveChild(i.SelectElement("Reference"))
		}), nil, "signature"},
		{"an HMAC with the public key", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			a.FindElement(".//SignatureMethod").CreateAttr("Algorithm", "http://www.w3.org/2000/09/xmldsig#hmac-sha256")
		}), nil, "signature"},
		{"a transform that leaves out everything", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			a.FindElement(".//Transforms/Transform").CreateAttr("Algorithm", "http://www.w3.org/TR/1999/REC-xpath-19991116")
		}), nil, "signature"},
		{"a certificate beside the provider's", nil, func(t *testing.T, v url.Values) url.Values {
			o, _ := answer(t, newLogin(t, other, nil), other)
			return text(t, o, func(s string) string { return strings.ReplaceAll(s, other.URL, p.URL) })
		}, nil, "signature"},

		// Wrapping: the signed assertion is there still, and another is to be read (XSW1 to XSW8).
		{"wrapped: a response around the signed one, in its signature", nil, elements(func(r, a *etree.Element) {
			old := r.Copy()
			unsign(old)
			r.CreateAttr("ID", "id-evil")
			a.FindElement("./Subject/NameID").SetText("mallory@example.com")
			r.SelectElement("Signature").AddChild(old)
		}), nil, "malformed"},
		{"wrapped: another assertion before", nil, elements(func(r, a *etree.Element) { unsign(r); r.InsertChildAt(a.Index(), forge(a)) }), nil, "malformed"},
		{"wrapped: another assertion behind", nil, elements(func(r, a *etree.Element) { unsign(r); r.AddChild(forge(a)) }), nil, "malformed"},
		{"wrapped: the signed one in the other", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			e := forge(a)
			e.AddChild(r.RemoveChild(a).(*etree.Element))
			r.AddChild(e)
		}), nil, "malformed"},
		{"wrapped: the signed one in the other's signature", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			e := forge(a)
			s := a.SelectElement("Signature").Copy()
			r.RemoveChild(a)
			unsign(a)
			s.CreateElement("ds:Object").AddChild(a)
			e.InsertChildAt(1, s)
			r.AddChild(e)
		}), nil, "malformed"},
		{"wrapped: the signed one in extensions", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			r.AddChild(forge(a))
			r.CreateElement("samlp:Extensions").AddChild(r.RemoveChild(a).(*etree.Element))
		}), nil, "malformed"},
		{"wrapped: the other one under the same ID", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			e := forge(a)
			e.CreateAttr("ID", a.SelectAttrValue("ID", ""))
			r.InsertChildAt(a.Index(), e)
		}), nil, "malformed"},
		{"wrapped: the other one in advice of the signed", nil, elements(func(r, a *etree.Element) { unsign(r); a.CreateElement("saml:Advice").AddChild(forge(a)) }), nil, "malformed"},
		{"wrapped: the other one of another namespace", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			e := forge(a)
			e.CreateAttr("xmlns:saml", "urn:x")
			r.InsertChildAt(a.Index(), e)
		}), nil, "malformed"},
		{"wrapped: an encrypted one beside", nil, elements(func(r, _ *etree.Element) { unsign(r); r.CreateElement("saml:EncryptedAssertion") }), nil, "malformed"},
		{"a second NameID", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			a.SelectElement("Subject").CreateElement("saml:NameID").SetText("mallory@example.com")
		}), nil, "signature"},

		// One name, two readings.
		{"a comment in the name", func(a *saml.Assertion) { a.Subject.NameID.Value = "alice@example.com.evil.example" }, words("alice@example.com.evil", "alice@example.com<!-- -->.evil"), nil, "malformed"},
		{"a processing instruction in the name", func(a *saml.Assertion) { a.Subject.NameID.Value = "alice@example.com.evil.example" }, words("alice@example.com.evil", "alice@example.com<?x?>.evil"), nil, "malformed"},
		{"an entity of its own", nil, doctype(`<!DOCTYPE r [<!ENTITY a "alice@example.com">]>`), nil, "malformed"},
		{"an entity from a file", nil, doctype(`<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>`), nil, "malformed"},
		{"an entity from elsewhere", nil, doctype(`<!DOCTYPE r [<!ENTITY % d SYSTEM "http://127.0.0.1:1/x.dtd">%d;]>`), nil, "malformed"},
		{"entities of entities", nil, doctype(`<!DOCTYPE r [<!ENTITY b "xxxxxxxxxx"><!ENTITY a "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>`), nil, "malformed"},
		{"a document type alone", nil, func(t *testing.T, v url.Values) url.Values {
			return text(t, v, func(s string) string { return "<!DOCTYPE r>" + s })
		}, nil, "malformed"},
		{"an entity nobody declared", nil, words("alice@example.com", "alice@example.com&a;"), nil, "malformed"},
		{"two roots", nil, func(t *testing.T, v url.Values) url.Values {
			return text(t, v, func(s string) string { return s + "<x/>" })
		}, nil, "malformed"},
		{"another encoding", nil, func(t *testing.T, v url.Values) url.Values {
			return text(t, v, func(s string) string { return `<?xml version="1.0" encoding="UTF-7"?>` + s })
		}, nil, "malformed"},

		// For whom, by whom, to what.
		{"for another audience", func(a *saml.Assertion) { a.Conditions.AudienceRestrictions[0].Audience.Value = "https://other.example" }, nil, nil, "audience"},
		{"for nobody in particular", func(a *saml.Assertion) { a.Conditions.AudienceRestrictions = nil }, nil, nil, "audience"},
		{"for us and, in another restriction, for another", func(a *saml.Assertion) {
			a.Conditions.AudienceRestrictions = append(a.Conditions.AudienceRestrictions, saml.AudienceRestriction{Audience: saml.Audience{Value: "https://other.example"}})
		}, nil, nil, "audience"},
		{"to another recipient", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].SubjectConfirmationData.Recipient = "https://other.example/acs"
		}, nil, nil, "recipient"},
		{"to no recipient", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].SubjectConfirmationData.Recipient = ""
		}, nil, nil, "recipient"},
		{"to another destination", nil, elements(func(r, _ *etree.Element) { unsign(r); r.CreateAttr("Destination", "https://other.example/acs") }), nil, "recipient"},
		{"by another issuer", func(a *saml.Assertion) { a.Issuer.Value = "https://other.example" }, nil, nil, "issuer"},
		{"by nobody", func(a *saml.Assertion) { a.Issuer.Value = "" }, nil, nil, "issuer"},
		{"in a response by another", nil, elements(func(r, _ *etree.Element) { unsign(r); r.SelectElement("Issuer").SetText("https://other.example") }), nil, "issuer"},
		{"to another request", nil, nil, func(string) string { return "id-0000" }, "request"},
		{"an assertion to another request", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].SubjectConfirmationData.InResponseTo = "id-0000"
		}, nil, nil, "request"},
		{"an assertion to no request", func(a *saml.Assertion) { a.Subject.SubjectConfirmations[0].SubjectConfirmationData.InResponseTo = "" }, nil, nil, "request"},
		{"a response to no request", nil, elements(func(r, _ *etree.Element) { unsign(r); r.RemoveAttr("InResponseTo") }), nil, "request"},
		{"not begun here", nil, nil, func(string) string { return "" }, "saml: this log-in was not begun here"},
		{"declined", nil, elements(func(r, _ *etree.Element) {
			unsign(r)
			r.FindElement("./Status/StatusCode").CreateAttr("Value", "urn:oasis:names:tc:SAML:2.0:status:Responder")
		}), nil, "declined"},

		{"under a condition that nobody knows", nil, elements(func(r, a *etree.Element) {
			unsign(r)
			unsign(a)
			c := a.SelectElement("Conditions").CreateElement("saml:Condition")
			c.CreateAttr("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
			c.CreateAttr("xsi:type", "x:OnlyOnSundays")
			c.CreateAttr("xmlns:x", "urn:x")
			i := a.Index()
			r.RemoveChild(a)
			r.InsertChildAt(i, p.Sign(a))
		}), nil, "unsupported"},

		// When.
		{"expired", func(a *saml.Assertion) { a.Conditions.NotOnOrAfter = time.Now().Add(-day) }, nil, nil, "expired"},
		{"not valid yet", func(a *saml.Assertion) { a.Conditions.NotBefore = time.Now().Add(day) }, nil, nil, "early"},
		{"issued long ago", func(a *saml.Assertion) { a.IssueInstant = time.Now().Add(-day) }, nil, nil, "expired"},
		{"issued tomorrow", func(a *saml.Assertion) { a.IssueInstant = time.Now().Add(day) }, nil, nil, "early"},
		{"the confirmation expired", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].SubjectConfirmationData.NotOnOrAfter = time.Now().Add(-day)
		}, nil, nil, "expired"},
		{"the confirmation has no end", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].SubjectConfirmationData.NotOnOrAfter = time.Time{}
		}, nil, nil, "expired"},
		{"the response was issued long ago", nil, elements(func(r, _ *etree.Element) { unsign(r); r.CreateAttr("IssueInstant", "2020-01-01T00:00:00Z") }), nil, "expired"},
		{"the session has ended", func(a *saml.Assertion) {
			end := time.Now().Add(-time.Minute)
			a.AuthnStatements[0].SessionNotOnOrAfter = &end
		}, nil, nil, "expired"},

		// What is missing, and who it is.
		{"no conditions", func(a *saml.Assertion) { a.Conditions = nil }, nil, nil, "malformed"},
		{"no log-in", func(a *saml.Assertion) { a.AuthnStatements = nil }, nil, nil, "malformed"},
		{"no confirmation", func(a *saml.Assertion) { a.Subject.SubjectConfirmations = nil }, nil, nil, "malformed"},
		{"a confirmation by a key", func(a *saml.Assertion) {
			a.Subject.SubjectConfirmations[0].Method = "urn:oasis:names:tc:SAML:2.0:cm:holder-of-key"
		}, nil, nil, "malformed"},
		{"no name", func(a *saml.Assertion) { a.Subject.NameID = nil }, nil, nil, "malformed"},
		{"an empty name", func(a *saml.Assertion) { a.Subject.NameID.Value = "" }, nil, nil, "subject"},
		{"a name of spaces", func(a *saml.Assertion) { a.Subject.NameID.Value = " alice@example.com" }, nil, nil, "subject"},
		{"a name in lines", func(a *saml.Assertion) { a.Subject.NameID.Value = "alice@example.com\nx" }, nil, nil, "subject"},
		{"a name that looks like hers", func(a *saml.Assertion) { a.Subject.NameID.Value = "аlice@example.com" }, nil, nil, "subject"},
		{"a name too long", func(a *saml.Assertion) { a.Subject.NameID.Value = strings.Repeat("a", 300) }, nil, nil, "subject"},
		{"a name for this log-in alone", func(a *saml.Assertion) { a.Subject.NameID.Format = string(saml.TransientNameIDFormat) }, nil, nil, "subject"},
		{"too many groups", func(a *saml.Assertion) {
			var values []saml.AttributeValue
			for i := range maxGroups + 1 {
				values = append(values, saml.AttributeValue{Value: fmt.Sprint("g", i)})
			}
			a.AttributeStatements[0].Attributes = []saml.Attribute{{Name: samltest.GroupsAttribute, Values: values}}
		}, nil, nil, "groups"},

		// What is no response.
		{"nothing", nil, raw(""), nil, "malformed"},
		{"no base64", nil, raw("<samlp:Response/>"), nil, "malformed"},
		{"no XML", nil, raw(base64.StdEncoding.EncodeToString([]byte("{}"))), nil, "malformed"},
		{"no UTF-8", nil, raw(base64.StdEncoding.EncodeToString([]byte("<Response>\xff</Response>"))), nil, "malformed"},
		{"an assertion alone", nil, func(t *testing.T, v url.Values) url.Values {
			return text(t, v, func(s string) string {
				i, j := strings.Index(s, "<saml:Assertion"), strings.LastIndex(s, "</samlp:Response>")
				return s[i:j]
			})
		}, nil, "malformed"},
		{"an end that does not belong", nil, words("</saml:NameID>", "</saml:NameId>"), nil, "malformed"},
		{"too much", nil, raw(base64.StdEncoding.EncodeToString([]byte("<Response>" + strings.Repeat(" ", maxResponse) + "</Response>"))), nil, "malformed"},
		{"very deep", nil, raw(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("<Response>", 10_000) + strings.Repeat("</Response>", 10_000)))), nil, "signature"},
		{"two of them", nil, func(_ *testing.T, v url.Values) url.Values {
			v.Add("SAMLResponse", v.Get("SAMLResponse"))
			return v
		}, nil, "malformed"},
		{"an artifact", nil, func(_ *testing.T, v url.Values) url.Values { return url.Values{"SAMLart": {"AAQAAA=="}} }, nil, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Change(c.change)
			defer p.Change(nil)
			form, memory := answer(t, l, p)
			if c.form != nil {
				form = c.form(t, form)
			}
			if c.memory != nil {
				memory = c.memory(memory)
			}
			who, err := finish(l, form, memory)
			if whyOf(err) != c.want || who != nil {
				t.Errorf("%v %q, want %q: %v", who, whyOf(err), c.want, err)
			}
			if err != nil && (strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "mallory")) {
				t.Errorf("the error has words of the answer: %v", err)
			}
		})
	}
	t.Run("signed with SHA-1", func(t *testing.T) {
		p := samltest.New(t)
		l := newLogin(t, p, nil)
		p.SignBy(dsig.RSASHA1SignatureMethod)
		form, memory := answer(t, l, p)
		if who, err := finish(l, form, memory); whyOf(err) != "unsupported" {
			t.Errorf("%v %v", who, err)
		}
	})
	t.Run("the answer to another's log-in", func(t *testing.T) {
		mallory, _ := answer(t, l, p)
		_, memory := answer(t, l, p)
		if who, err := finish(l, mallory, memory); whyOf(err) != "request" {
			t.Errorf("%v %v", who, err)
		}
	})
	t.Run("the provider's keys have expired", func(t *testing.T) {
		old := newLogin(t, p, func(c *Config) {
			c.Metadata = bytes.Replace(c.Metadata, []byte("<IDPSSODescriptor "), []byte(`<IDPSSODescriptor validUntil="2020-01-01T00:00:00Z" `), 1)
			if i := bytes.Index(c.Metadata, []byte(` validUntil="`)); i >= 0 {
				j := i + len(` validUntil="`)
				k := j + bytes.IndexByte(c.Metadata[j:], '"')
				c.Metadata = slices.Concat(c.Metadata[:j], []byte("2020-01-01T00:00:00Z"), c.Metadata[k:])
			}
		})
		form, memory := answer(t, old, p)
		if who, err := finish(old, form, memory); whyOf(err) != "metadata" {
			t.Errorf("%v %v", who, err)
		}
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	p := samltest.New(t)
	key, _ := samltest.Keypair(t)
	m := string(p.Metadata())
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"as it is", func(*Config) {}, ""},
		{"no name", func(c *Config) { c.Name = "" }, "name"},
		{"a name with a colon", func(c *Config) { c.Name = "a:b" }, "name"},
		{"responses in the clear", func(c *Config) { c.Back = "http://gateway.example/" }, "https"},
		{"no entity", func(c *Config) { c.Entity = "" }, "no name for this gateway"},
		{"a key without certificate", func(c *Config) { c.Key = key }, "both"},
		{"no metadata", func(c *Config) { c.Metadata = nil }, "XML"},
		{"our own metadata", func(c *Config) {
			l := newLogin(t, p, nil)
			c.Metadata, _ = l.Metadata()
		}, "identity provider"},
		{"metadata of many", func(c *Config) { c.Metadata = []byte("<EntitiesDescriptor>" + m + "</EntitiesDescriptor>") }, "EntityDescriptor"},
		{"metadata with an entity", func(c *Config) { c.Metadata = []byte("<!DOCTYPE x>" + m) }, "document type"},
		{"no certificate", func(c *Config) { c.Metadata = []byte(strings.ReplaceAll(m, `use="signing"`, `use="encryption"`)) }, "certificate"},
		{"half a certificate", func(c *Config) {
			c.Metadata = []byte(strings.Replace(m, "<X509Certificate xmlns=\"http://www.w3.org/2000/09/xmldsig#\">MII", "<X509Certificate xmlns=\"http://www.w3.org/2000/09/xmldsig#\">MIJ", 1))
		}, "certificate in it cannot be read"},
		{"log-ins in the clear", func(c *Config) { c.Metadata = []byte(strings.ReplaceAll(m, p.URL+"/sso", "http://idp.example/sso")) }, "https address for log-ins"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Name: "idp", Metadata: []byte(m), Entity: "e", Back: back}
			c.change(&cfg)
			_, err := New(cfg)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Whatever comes back with a browser, it makes nobody known who did not log in.
func FuzzFinish(f *testing.F) {
	p := samltest.New(f)
	l, err := New(Config{Name: "idp", Metadata: p.Metadata(), Entity: "e", Back: back})
	if err != nil {
		f.Fatal(err)
	}
	m, err := l.Metadata()
	if err != nil {
		f.Fatal(err)
	}
	p.Register("gateway", m)
	to, memory, err := l.Begin(f.Context(), "s")
	if err != nil {
		f.Fatal(err)
	}
	_, form := p.LogIn(p.Browser, to)
	b, err := base64.StdEncoding.DecodeString(form.Get("SAMLResponse"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"/>`))
	f.Add([]byte(`<!DOCTYPE a><a/>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		who, err := finish(l, url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString(b)}}, memory)
		if (who == nil) == (err == nil) || who != nil && who.Name != "idp:"+samltest.Email {
			t.Fatalf("%v %v", who, err)
		}
	})
}
