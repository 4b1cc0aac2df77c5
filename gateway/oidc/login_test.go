package oidc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

type secret string

func (s secret) Reveal() []byte { return []byte(s) }

const back = "https://gateway.example/back"

// An authority is an idp with people at it: it gives codes and takes them back.
type authority struct {
	*idp
	codes  map[string]url.Values                        // the requests that people agreed to
	claims func(asked url.Values) object                // of the ID token
	token  func(asked url.Values, access string) string // instead of a good ID token
	seen   []string                                     // what a client showed of itself
}

func newAuthority() *authority {
	a := &authority{idp: newIDP(url0), codes: make(map[string]url.Values)}
	a.claims = func(asked url.Values) object {
		return good(object{"aud": asked.Get("client_id"), "nonce": asked.Get("nonce")})
	}
	return a
}

// agree is the person who logs in: the browser's way back.
func (a *authority) agree(to string) url.Values {
	asked := must(url.Parse(to)).Query()
	code := rand.Text()
	a.codes[code] = asked
	return url.Values{"code": {code}, "state": {asked.Get("state")}, "iss": {url0}}
}

func (a *authority) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/token" {
		return a.idp.RoundTrip(r)
	}
	form := must(url.ParseQuery(string(must(io.ReadAll(r.Body)))))
	user, pass, _ := r.BasicAuth()
	a.seen = append(a.seen, user+":"+pass+":"+form.Get("client_id")+":"+form.Get("client_secret"))
	code := form.Get("code")
	asked, ok := a.codes[code]
	delete(a.codes, code) // whatever comes of it
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	if !ok || b64(sum[:]) != asked.Get("code_challenge") || asked.Get("code_challenge_method") != "S256" || form.Get("redirect_uri") != asked.Get("redirect_uri") {
		resp := reply(400, []byte(`{"error":"invalid_grant","error_description":"secret of the issuer"}`))
		resp.Header.Set("Content-Type", "application/json")
		return resp, nil
	}
	access := rand.Text()
	token := rs256(a.claims(asked))
	if a.token != nil {
		token = a.token(asked, access)
	}
	resp := reply(200, marshal(object{"access_token": access, "token_type": "Bearer", "expires_in": 60, "id_token": token}))
	resp.Header.Set("Content-Type", "application/json")
	return resp, nil
}

func newLogin(t *testing.T, a *authority, client Client) *Login {
	t.Helper()
	id, _ := known(t, []*idp{a.idp}, func(is *Issuer) { is.Client, is.Audiences = &client, nil })
	id.issuers[url0].client.Transport = a
	return must(id.Login("issuer-0", back))
}

func TestLogin(t *testing.T) {
	a := newAuthority()
	l := newLogin(t, a, Client{ID: "tally", Secret: secret("s3cret word")})
	begin := func() (to, memory string) {
		to, memory, err := l.Begin(t.Context(), rand.Text())
		if err != nil {
			t.Fatal(err)
		}
		return to, memory
	}
	finish := func(q url.Values, memory string) (string, error) {
		who, err := l.Finish(t.Context(), httptest.NewRequest("GET", back+"?"+q.Encode(), nil), memory)
		if err != nil {
			for _, secret := range []string{"secret of the issuer", "s3cret", q.Get("code"), memory} {
				if secret != "" && strings.Contains(err.Error(), secret) {
					t.Errorf("the error says %q: %v", secret, err)
				}
			}
			return "", err
		}
		return who.Name, nil
	}

	to, memory := begin()
	asked := must(url.Parse(to)).Query()
	if asked.Get("scope") != "openid email" || asked.Get("redirect_uri") != back || asked.Get("response_type") != "code" || strings.Contains(memory, asked.Get("state")) {
		t.Errorf("the browser is sent to %s", to)
	}
	q := a.agree(to)
	if who, err := finish(q, memory); err != nil || who != "issuer-0:00u1ab2c" {
		t.Fatalf("%v %v", who, err)
	}
	if got := a.seen[0]; got != "tally:s3cret+word::" {
		t.Errorf("the client showed %q", got)
	}
	if _, err := finish(q, memory); why(err) != "code" {
		t.Errorf("the code once more: %v", err)
	}
	// The code of another log-in: PKCE binds it to what was remembered when that began.
	_, other := begin()
	to, _ = begin()
	if _, err := finish(a.agree(to), other); why(err) != "code" {
		t.Errorf("another's code: %v", err)
	}
	if _, err := finish(a.agree(to), strings.Split(other, " ")[0]+" wrong"); why(err) != "code" {
		t.Errorf("a wrong verifier: %v", err)
	}
	// The nonce of another log-in, where the issuer does not look at the challenge.
	to, memory = begin()
	a.claims = func(url.Values) object { return good(object{"aud": "tally", "nonce": "of another"}) }
	if _, err := finish(a.agree(to), memory); why(err) != "nonce" {
		t.Errorf("another nonce: %v", err)
	}

	for _, c := range []struct {
		name   string
		change func(q url.Values)
		want   string
	}{
		{"another issuer answers", func(q url.Values) { q.Set("iss", "https://evil.example") }, "mixup"},
		{"an issuer twice", func(q url.Values) { q.Add("iss", "https://evil.example") }, "malformed"},
		{"a code twice", func(q url.Values) { q.Add("code", "x") }, "malformed"},
		{"it was declined", func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, "declined"},
		{"no code", func(q url.Values) { q.Del("code") }, "declined"},
		{"a code of nobody", func(q url.Values) { q.Set("code", "x") }, "code"},
	} {
		to, memory := begin()
		q := a.agree(to)
		c.change(q)
		if _, err := finish(q, memory); why(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// What the ID token must be like, that comes for a code.
func TestLoginToken(t *testing.T) {
	hash := func(access string) string { s := sha256.Sum256([]byte(access)); return b64(s[:16]) }
	for _, c := range []struct {
		name  string
		token func(asked url.Values, access string) string
		want  string
	}{
		{"with the hash of the access token", func(q url.Values, access string) string {
			return rs256(good(object{"aud": "tally", "nonce": q.Get("nonce"), "at_hash": hash(access)}))
		}, ""},
		{"with another's", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": "tally", "nonce": q.Get("nonce"), "at_hash": hash("x")}))
		}, "signature"},
		{"with one of another length", func(q url.Values, access string) string {
			s := sha512.Sum512([]byte(access))
			return rs256(good(object{"aud": "tally", "nonce": q.Get("nonce"), "at_hash": b64(s[:32])}))
		}, "signature"},
		{"for another audience", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": "gateway", "nonce": q.Get("nonce")}))
		}, "audience"},
		{"for several, given to us", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": []string{"x", "tally"}, "azp": "tally", "nonce": q.Get("nonce")}))
		}, ""},
		{"for several", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": []string{"x", "tally"}, "nonce": q.Get("nonce")}))
		}, "party"},
		{"given to another client", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": "tally", "azp": "x", "nonce": q.Get("nonce")}))
		}, "party"},
		{"of another issuer", func(q url.Values, _ string) string {
			return rs256(good(object{"iss": "https://evil.example", "aud": "tally", "nonce": q.Get("nonce")}))
		}, "issuer"},
		{"without a nonce", func(url.Values, string) string { return rs256(good(object{"aud": "tally"})) }, "nonce"},
		{"an access token", func(q url.Values, _ string) string {
			return sign(rsaKey(), object{"alg": "RS256", "kid": "rsa", "typ": "at+jwt"}, good(object{"aud": "tally", "nonce": q.Get("nonce")}))
		}, "type"},
		{"signed by somebody else", func(q url.Values, _ string) string {
			return sign(otherRSA(), object{"alg": "RS256", "kid": "rsa"}, good(object{"aud": "tally", "nonce": q.Get("nonce")}))
		}, "signature"},
		{"unsigned", func(q url.Values, _ string) string {
			return b64([]byte(`{"alg":"none"}`)) + "." + b64(marshal(good(object{"aud": "tally", "nonce": q.Get("nonce")}))) + "."
		}, "algorithm"},
		{"expired", func(q url.Values, _ string) string {
			return rs256(good(object{"aud": "tally", "nonce": q.Get("nonce"), "exp": time.Now().Unix() - 60}))
		}, "expired"},
		{"none at all", func(url.Values, string) string { return "" }, "malformed"},
	} {
		a := newAuthority()
		a.token = c.token
		l := newLogin(t, a, Client{ID: "tally"})
		to, memory, err := l.Begin(t.Context(), "state")
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Finish(t.Context(), httptest.NewRequest("GET", back+"?"+a.agree(to).Encode(), nil), memory)
		if why(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if a.seen[0] != "::tally:" {
			t.Errorf("a public client shows %q", a.seen[0])
		}
	}
}

// An issuer that says that it names itself must do so; one that is down, or does not know us, is no fault of the person.
func TestLoginTrouble(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(path string) (*http.Response, error)
		iss    string
		want   string
		says   string
	}{
		{"it says that it names itself", func(path string) (*http.Response, error) {
			if path == "/keys" {
				return nil, nil
			}
			return reply(200, marshal(object{"issuer": url0, "jwks_uri": url0 + "/keys", "authorization_endpoint": url0 + "/a", "token_endpoint": url0 + "/token",
				"authorization_response_iss_parameter_supported": true})), nil
		}, "", "mixup", ""},
		{"it does not", nil, "", "", ""},
		{"it is down", func(string) (*http.Response, error) { return nil, errors.New("no route") }, "", "unknown", "no route"},
		{"it has no place for log-ins", func(path string) (*http.Response, error) {
			if path == "/keys" {
				return nil, nil
			}
			return reply(200, marshal(object{"issuer": url0, "jwks_uri": url0 + "/keys"})), nil
		}, "", "unknown", "no good address"},
	} {
		a := newAuthority()
		a.answer = c.answer
		l := newLogin(t, a, Client{ID: "tally"})
		to, memory, err := l.Begin(t.Context(), "state")
		if err == nil {
			q := a.agree(to)
			q.Set("iss", c.iss)
			_, err = l.Finish(t.Context(), httptest.NewRequest("GET", back+"?"+q.Encode(), nil), memory)
		}
		if why(err) != c.want || c.says != "" && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	a := newAuthority()
	l := newLogin(t, a, Client{ID: "tally", Scopes: []string{}})
	for _, c := range []struct {
		status     int
		body, says string
	}{
		{401, `{"error":"invalid_client"}`, "status 401, invalid_client; see"}, {400, `{"error":"invalid_request"}`, "status 400, invalid_request; see"},
		{400, `{"error":"a word of its own"}`, "status 400; see"}, {500, "oops", "status 500"}, {200, "{}", "could be read"}, {200, "<", "could be read"},
	} {
		to, memory, _ := l.Begin(t.Context(), "state")
		q := a.agree(to)
		l.is.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			resp := reply(c.status, []byte(c.body))
			resp.Header.Set("Content-Type", "application/json")
			return resp, nil
		})
		_, err := l.Finish(context.Background(), httptest.NewRequest("GET", back+"?"+q.Encode(), nil), memory)
		if why(err) != "unknown" || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
