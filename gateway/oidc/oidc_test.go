package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

func TestPrincipal(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, func(is *Issuer) { is.Groups = []string{"realm_access", "roles"} })
	claims := good(object{"realm_access": object{"roles": []string{"a", "b"}}, "groups": nil})
	want := gateway.Principal{
		Name: "issuer-0:00u1ab2c", How: gateway.ByOIDC, Key: "t1", Issuer: url0, Subject: "00u1ab2c", Email: "alice@example.com", Groups: []string{"a", "b"},
		At: time.Unix(claims["auth_time"].(int64), 0), Until: time.Unix(claims["exp"].(int64), 0),
	}
	for _, key := range []struct {
		key any
		h   object
	}{
		{rsaKey(), object{"alg": "RS256", "kid": "rsa"}},
		{ecKey(), object{"alg": "ES256", "kid": "ec", "typ": "JWT"}},
		{edKey(), object{"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}},
		{ecKey(), object{"alg": "ES256"}}, // the only one for its algorithm
	} {
		who, err := show(id, sign(key.key, key.h, claims))
		if err != nil || !reflect.DeepEqual(*who, want) {
			t.Errorf("%v: %+v, %v", key.h, who, err)
		}
	}
	for _, c := range []struct {
		change object
		same   func(p *gateway.Principal) bool
	}{
		{object{"email_verified": false}, func(p *gateway.Principal) bool { return p.Email == "" }},
		{object{"email_verified": nil}, func(p *gateway.Principal) bool { return p.Email == "" }},
		{object{"email_verified": 1}, func(p *gateway.Principal) bool { return p.Email == "" }},
		{object{"email_verified": "true"}, func(p *gateway.Principal) bool { return p.Email == "alice@example.com" }},
		{object{"email": "a\u202e@example.com"}, func(p *gateway.Principal) bool { return p.Email == "" }},
		{object{"auth_time": nil, "iat": claims["iat"]}, func(p *gateway.Principal) bool { return p.At.Equal(time.Unix(claims["iat"].(int64), 0)) }},
		{object{"realm_access": nil}, func(p *gateway.Principal) bool { return p.Groups == nil }},
		{object{"realm_access": object{"roles": nil}}, func(p *gateway.Principal) bool { return p.Groups == nil }}, // null
		{object{"realm_access": object{"roles": "one"}}, func(p *gateway.Principal) bool { return len(p.Groups) == 1 }},
		{object{"jti": strings.Repeat("j", 100)}, func(p *gateway.Principal) bool { return p.Key == "" }},
		{object{"aud": []string{"gateway", "other"}, "azp": "gateway-2"}, func(p *gateway.Principal) bool { return p.Name == want.Name }},
		{object{"aud": []string{"other", "gateway"}, "client_id": "gateway"}, func(p *gateway.Principal) bool { return p.Name == want.Name }},
		{object{"sub": strings.Repeat("s", 191)}, func(p *gateway.Principal) bool { return len(p.Name) == 200 }},
		{object{"Sub": "admin", "SUB": "admin"}, func(p *gateway.Principal) bool { return p.Subject == "00u1ab2c" }}, // other names than sub
	} {
		who, err := show(id, rs256(good(c.change)))
		if err != nil || !c.same(who) {
			t.Errorf("%v: %+v, %v", c.change, who, err)
		}
	}
	if _, err := show(id, rs256(good(object{"sub": strings.Repeat("s", 192)}))); why(err) != "subject" {
		t.Errorf("a name that is too long: %v", err)
	}
	for _, kind := range []string{"", "tg-abc", "sk-proj-123", "🙂"} {
		if _, err := show(id, kind); why(err) != "not mine" {
			t.Errorf("%q: %v", kind, err)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct{ accepts, typ, want string }{
		{"", "", ""}, {"", "JWT", ""}, {"", "at+jwt", ""}, {"", "application/AT+JWT", ""},
		{"", "logout+jwt", "type"}, {"", "dpop+jwt", "type"}, {"", "JOSE", "type"}, {"", "secevent+jwt", "type"},
		{"access", "", "type"}, {"access", "JWT", "type"}, {"access", "at+jwt", ""},
		{"id", "at+jwt", "type"}, {"id", "JWT", ""},
	} {
		id, _ := known(t, []*idp{newIDP(url0)}, func(is *Issuer) { is.Type = c.accepts })
		h := object{"alg": "RS256", "kid": "rsa", "typ": c.typ}
		if _, err := show(id, sign(rsaKey(), h, good(nil))); why(err) != c.want {
			t.Errorf("%q where %q is taken: %v, want %q", c.typ, c.accepts, err, c.want)
		}
	}
	id, _ := known(t, []*idp{newIDP(url0)}, nil)
	logout := good(object{"events": object{"http://schemas.openid.net/event/backchannel-logout": object{}}})
	if _, err := show(id, rs256(logout)); why(err) != "type" {
		t.Errorf("a logout token without its typ: %v", err)
	}
}

func TestParties(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, func(is *Issuer) { is.Parties = []string{"cli"} })
	for _, c := range []struct {
		change object
		want   string
	}{
		{object{"azp": "cli"}, ""}, {object{"client_id": "cli"}, ""}, {nil, "party"}, {object{"azp": "gateway"}, "party"},
		{object{"azp": "other", "client_id": "cli"}, "party"}, {object{"aud": []string{"a", "gateway"}, "azp": "cli"}, ""},
		{object{"azp": 7}, "claims"},
	} {
		if _, err := show(id, rs256(good(c.change))); why(err) != c.want {
			t.Errorf("%v: %v, want %q", c.change, err, c.want)
		}
	}
}

func TestRequire(t *testing.T) {
	for _, c := range []struct {
		claim  Claim
		change object
		want   string
	}{
		{Claim{Path: []string{"hd"}, Any: []string{"example.com"}}, object{"hd": "example.com"}, ""},
		{Claim{Path: []string{"hd"}, Any: []string{"example.com"}}, object{"hd": "evil.com"}, "required"},
		{Claim{Path: []string{"hd"}, Any: []string{"example.com"}}, nil, "required"},
		{Claim{Path: []string{"amr"}, Any: []string{"mfa", "hwk"}}, object{"amr": []string{"pwd", "hwk"}}, ""},
		{Claim{Path: []string{"amr"}, Any: []string{"mfa"}}, object{"amr": []string{"pwd"}}, "required"},
		{Claim{Path: []string{"a", "b"}}, object{"a": object{"b": 1}}, ""},
		{Claim{Path: []string{"a", "b"}, Any: []string{"1"}}, object{"a": object{"b": 1}}, ""},
		{Claim{Path: []string{"a", "b"}}, object{"a": object{"b": json.RawMessage("null")}}, "required"},
		{Claim{Path: []string{"a", "b"}}, object{"a": "b"}, "required"},
		{Claim{Path: []string{"email"}, Any: []string{"alice@example.com"}}, nil, ""},
		{Claim{Path: []string{"email"}, Any: []string{"alice@example.com"}}, object{"email_verified": false}, "required"},
	} {
		id, _ := known(t, []*idp{newIDP(url0)}, func(is *Issuer) { is.Require = []Claim{c.claim} })
		if _, err := show(id, rs256(good(c.change))); why(err) != c.want {
			t.Errorf("%v of %v: %v, want %q", c.claim, c.change, err, c.want)
		}
	}
}

// A token that is bound to a certificate is good with that one alone, remembered or not.
func TestBound(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, nil)
	mine, other := must(x509.ParseCertificate(certificate())), must(x509.ParseCertificate(certificate()))
	sum := sha256.Sum256(mine.Raw)
	token := []byte(rs256(good(object{"cnf": object{"x5t#S256": b64(sum[:])}})))
	for range 2 {
		for cert, want := range map[*x509.Certificate]string{nil: "bound", other: "bound", mine: ""} {
			if _, err := id.Identify(context.Background(), gateway.Shown{Bearer: token, Cert: cert}); why(err) != want {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
	for _, cnf := range []any{object{"jkt": "x"}, object{"x5t#S256": "x"}, object{}, "x", object{"jkt": "x", "x5t#S256": b64(sum[:])}} {
		token := []byte(rs256(good(object{"cnf": cnf})))
		if _, err := id.Identify(context.Background(), gateway.Shown{Bearer: token, Cert: mine}); why(err) != "bound" {
			t.Errorf("%v: %v", cnf, err)
		}
	}
}

// Two issuers with one key: a token is its issuer's alone, and what one may do the other may not.
func TestTwoIssuers(t *testing.T) {
	const url1 = "https://other.example"
	a, b := newIDP(url0), newIDP(url1)
	id, _ := known(t, []*idp{a, b}, func(is *Issuer) {
		if is.URL == url1 {
			is.Audiences = []string{"b"}
		}
	})
	for _, c := range []struct {
		change object
		name   string
		want   string
	}{
		{nil, "issuer-0:00u1ab2c", ""},
		{object{"iss": url1, "aud": "b"}, "issuer-1:00u1ab2c", ""},
		{object{"iss": url1}, "", "audience"},
		{object{"aud": "b"}, "", "audience"},
	} {
		who, err := show(id, rs256(good(c.change)))
		if why(err) != c.want || who != nil && who.Name != c.name {
			t.Errorf("%v: %+v, %v", c.change, who, err)
		}
	}
	// Each has a key that the other has not, of one name.
	b.change(func() { b.keys[0].Key = otherRSA().Public() })
	id, _ = known(t, []*idp{a, b}, nil)
	for key, names := range map[any][2]string{rsaKey(): {"", "signature"}, otherRSA(): {"signature", ""}} {
		for i, url := range []string{url0, url1} {
			if _, err := show(id, sign(key, object{"alg": "RS256", "kid": "rsa"}, good(object{"iss": url}))); why(err) != names[i] {
				t.Errorf("%s: %v, want %q", url, err, names[i])
			}
		}
	}
}

func TestConfig(t *testing.T) {
	fine := Issuer{Name: "a", URL: url0, Audiences: []string{"x"}}
	for _, c := range []struct {
		change func(*Issuer)
		want   string
	}{
		{func(i *Issuer) {}, ""},
		{func(i *Issuer) { i.URL = "http://localhost:8080/realm" }, ""},
		{func(i *Issuer) { i.Name = "a:b" }, "name"},
		{func(i *Issuer) { i.Name = "" }, "name"},
		{func(i *Issuer) { i.URL = "http://issuer.example" }, "https"},
		{func(i *Issuer) { i.URL = "http://127.0.0.1.evil.com" }, "https"},
		{func(i *Issuer) { i.URL = url0 + "?a=b" }, "query"},
		{func(i *Issuer) { i.URL = "https://u:p@issuer.example" }, "user"},
		{func(i *Issuer) { i.JWKS = "http://issuer.example/keys" }, "https"},
		{func(i *Issuer) { i.Audiences = nil }, "serves nothing"},
		{func(i *Issuer) { i.Audiences = []string{""} }, "empty"},
		{func(i *Issuer) { i.Algorithms = []string{"HS256"} }, "HS256"},
		{func(i *Issuer) { i.Algorithms = []string{"none"} }, "none"},
		{func(i *Issuer) { i.Algorithms = []string{} }, "no algorithm"},
		{func(i *Issuer) { i.Type = "jwt" }, "type"},
		{func(i *Issuer) { i.Skew = time.Hour }, "clocks"},
		{func(i *Issuer) { i.Stale = time.Second }, "stale"},
		{func(i *Issuer) { i.MaxToken = 1 << 20 }, "tokens of"},
		{func(i *Issuer) { i.Require = []Claim{{}} }, "path"},
		{func(i *Issuer) { i.Client = &Client{} }, "no id"},
		{func(i *Issuer) { i.Client, i.JWKS = &Client{ID: "x"}, url0 }, "discovery"},
	} {
		is := fine
		c.change(&is)
		_, err := New(Config{Issuers: []Issuer{is}})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", is, err, c.want)
		}
	}
	for _, cfg := range []Config{{}, {Issuers: []Issuer{fine, fine}}, {Issuers: []Issuer{fine}, Remember: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// The vectors of Wycheproof, as far as their keys are public: the others are refused for that. An expectation that is not
// met stands here with its reason.
func TestWycheproof(t *testing.T) {
	count := make(map[string]int)
	for _, name := range []string{"signature", "key", "crypto"} {
		var file struct {
			TestGroups []struct {
				Comment         string
				Private, Public json.RawMessage
				Tests           []struct {
					TcID            int
					Comment, Result string
					JWS             json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(must(os.ReadFile("testdata/wycheproof/json_web_"+name+"_test.json")), &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.TestGroups {
			jwks := g.Public
			if jwks == nil {
				jwks = g.Private
			}
			if !strings.Contains(string(jwks), `"keys"`) {
				jwks = json.RawMessage(`{"keys":[` + string(jwks) + `]}`)
			}
			keys, _, err := parseKeys(jwks)
			if err != nil {
				t.Fatal(err)
			}
			set := &keySet{keys: keys}
			for _, c := range g.Tests {
				jws := strings.Trim(string(c.JWS), `"`) // one is in the JSON form
				verified := func() bool {
					tk, _, err := split([]byte(jws))
					if err != nil {
						return false
					}
					k, err := set.find(tk.kid, tk.alg)
					if err != nil {
						return false
					}
					_, err = k.verifies(tk.alg).VerifySignature(t.Context(), jws)
					return err == nil
				}()
				want := c.Result == "valid"
				if want && g.Public == nil {
					want = false // a key that is not public
					count["secret"]++
				}
				if name == "signature" && slices.Contains([]int{346, 347, 350, 351}, c.TcID) {
					want = false // RFC 7520's keys say that they are for PS256 and for "ES521", and sign with others
				}
				if verified != want {
					t.Errorf("%s %d (%s, %s): verified is %v", name, c.TcID, g.Comment, c.Comment, verified)
				}
				count[map[bool]string{true: "good", false: "refused"}[verified]]++
			}
		}
	}
	t.Log(count)
	if count["good"] < 30 {
		t.Errorf("only %d vectors verify: this test sees nothing", count["good"])
	}
}
