package oidc

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tallystick/tallystick/gateway"
)

// by is a token by a key of a name.
func by(key any, kid string, change object) string {
	return sign(key, object{"alg": "RS256", "kid": kid}, good(change))
}

// A key is believed as long as the issuer publishes it, and at once when it does; a token that was remembered falls with
// its key.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(url0)
		id, _ := known(t, []*idp{p}, nil)
		long := object{"exp": time.Now().Unix() + 86400}
		old, new := by(rsaKey(), "rsa", long), by(otherRSA(), "rsa-2", long)
		check := func(step, token, want string) {
			t.Helper()
			if _, err := show(id, token); why(err) != want {
				t.Errorf("%s: %v, want %q", step, err, want)
			}
		}
		check("first", old, "")
		check("not published", new, "key")
		p.change(func() {
			p.keys = append(p.keys, jose.JSONWebKey{KeyID: "rsa-2", Algorithm: "RS256", Use: "sig", Key: otherRSA().Public()})
		})
		check("in the cool-down", new, "key")
		time.Sleep(10 * time.Second)
		check("after it", new, "")
		check("the old one goes on", old, "")
		p.change(func() { p.keys = p.keys[1:] })
		check("it was withdrawn, and that is not known yet", old, "")
		time.Sleep(5*time.Minute + time.Second)
		check("now it is", old, "key")
		check("the new one goes on", new, "")
		// The name of the old key is given to another one.
		p.change(func() {
			p.keys = append(p.keys, jose.JSONWebKey{KeyID: "rsa", Algorithm: "RS256", Use: "sig", Key: otherRSA().Public()})
		})
		time.Sleep(5*time.Minute + time.Second)
		check("signed with what had the name", old, "signature")
		// Two keys of one name and one algorithm: nobody can say which is meant.
		p.change(func() {
			p.keys = append(p.keys, jose.JSONWebKey{KeyID: "rsa", Algorithm: "RS256", Use: "sig", Key: rsaKey().Public()})
		})
		time.Sleep(5*time.Minute + time.Second)
		check("two of one name", old, "key")
	})
}

// While the issuer is down its keys go on until they are stale; then nothing can be said of its tokens, which is not to
// say that they are bad.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(url0)
		id, log := known(t, []*idp{p}, nil)
		token := by(rsaKey(), "rsa", object{"exp": time.Now().Unix() + 86400})
		if _, err := show(id, token); err != nil {
			t.Fatal(err)
		}
		p.change(func() { p.answer = func(string) (*http.Response, error) { return nil, errors.New("no route to host") } })
		time.Sleep(59 * time.Minute)
		fresh := by(rsaKey(), "rsa", object{"exp": time.Now().Unix() + 86400, "jti": "another"})
		for _, known := range []string{token, fresh} {
			if _, err := show(id, known); err != nil {
				t.Errorf("within an hour: %v", err)
			}
		}
		if _, err := show(id, by(otherRSA(), "rsa-2", nil)); why(err) != "unknown" {
			t.Errorf("of a new key it cannot be said that it is a bad one: %v", err)
		}
		time.Sleep(2 * time.Minute)
		for range 3 {
			if who, err := show(id, token); who != nil || why(err) != "unknown" || !strings.Contains(err.Error(), "no route to host") {
				t.Errorf("after an hour: %v %v", who, err)
			}
		}
		p.change(func() { p.answer = nil })
		time.Sleep(11 * time.Second)
		if _, err := show(id, token); err != nil {
			t.Errorf("it is up again: %v", err)
		}
		if !strings.Contains(log.String(), "could not be fetched") || leaks(log.String(), token) {
			t.Errorf("the log: %s", log)
		}
	})
}

// However many unknown keys strangers name, the issuer is asked by the clock.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(url0)
		id, _ := known(t, []*idp{p}, nil)
		if _, err := show(id, by(rsaKey(), "rsa", nil)); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(by(rsaKey(), "rsa", object{"exp": time.Now().Unix() + 86400}), ".")
		for range 60 {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if _, err := show(id, parts2(object{"alg": "RS256", "kid": rand.Text()}, parts)); why(err) != "key" {
						t.Errorf("%v", err)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Second)
		}
		if n := p.fetched(); n < 5 || n > 8 {
			t.Errorf("6000 unknown keys in a minute: %d fetches, want one in 10 s", n)
		}
	})
}

// An issuer that does not answer holds up nobody whose key is known, and others for a bounded time.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(url0)
		id, _ := known(t, []*idp{p}, nil)
		token := by(rsaKey(), "rsa", nil)
		if _, err := show(id, token); err != nil {
			t.Fatal(err)
		}
		hang := make(chan struct{})
		defer close(hang)
		id.issuers[url0].client.Transport = hanging{hang}
		time.Sleep(10 * time.Second)
		begun := time.Now()
		if _, err := show(id, by(otherRSA(), "rsa-2", nil)); why(err) != "unknown" || time.Since(begun) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		begun = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(20 * time.Second) // the cool-down
		if _, err := id.Identify(ctx, gateway.Shown{Bearer: []byte(by(otherRSA(), "rsa-3", nil))}); why(err) != "unknown" {
			t.Errorf("a caller who does not wait: %v", err)
		}
		begun = time.Now()
		for _, known := range []string{token, by(rsaKey(), "rsa", object{"jti": "fresh"})} {
			if _, err := show(id, known); err != nil || time.Since(begun) != 0 {
				t.Errorf("a known key after %v: %v", time.Since(begun), err)
			}
		}
	})
}

type hanging struct{ until chan struct{} }

func (h hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-h.until:
	case <-r.Context().Done():
	}
	return nil, errors.New("hung up")
}

// Before Run there are no keys, and a call waits for them no longer than it may.
func TestNotRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := must(New(Config{Issuers: []Issuer{{Name: "a", URL: url0, Audiences: []string{"gateway"}}}}))
		begun := time.Now()
		if _, err := show(id, by(rsaKey(), "rsa", nil)); why(err) != "unknown" || time.Since(begun) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}

// Clocks may be as far apart as was said, and not more; remembered tokens end like others.
func TestSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id, _ := known(t, []*idp{newIDP(url0)}, nil)
		now := time.Now()
		at := func(d time.Duration) int64 { return now.Add(d).Unix() }
		for _, c := range []struct {
			change object
			want   string
		}{
			{object{"exp": at(-29 * time.Second)}, ""},
			{object{"exp": at(-30 * time.Second)}, "expired"},
			{object{"nbf": at(30 * time.Second)}, ""},
			{object{"nbf": at(31 * time.Second)}, "early"},
			{object{"iat": at(30 * time.Second)}, ""},
			{object{"iat": at(31 * time.Second)}, "early"},
			{object{"exp": float64(at(0)) - 29.5}, ""},
			{object{"exp": float64(at(0)) - 30.5}, "expired"},
		} {
			if _, err := show(id, rs256(good(c.change))); why(err) != c.want {
				t.Errorf("%v: %v, want %q", c.change, err, c.want)
			}
		}
		token := rs256(good(object{"exp": at(time.Minute)}))
		for _, c := range []struct {
			at   time.Duration
			want string
		}{{0, ""}, {90*time.Second - 1, ""}, {90 * time.Second, "expired"}} {
			time.Sleep(time.Until(now.Add(c.at)))
			if _, err := show(id, token); why(err) != c.want {
				t.Errorf("after %v: %v, want %q", c.at, err, c.want)
			}
		}
	})
}

// What an issuer may answer, and what of it is believed.
func TestAnswers(t *testing.T) {
	many := make([]jose.JSONWebKey, 101)
	for i := range many {
		many[i] = jose.JSONWebKey{KeyID: rand.Text(), Key: ecKey().Public()}
	}
	doc := func(change object) []byte {
		m := object{"issuer": url0, "jwks_uri": url0 + "/keys"}
		for k, v := range change {
			m[k] = v
		}
		return marshal(m)
	}
	redirect := reply(302, nil)
	redirect.Header.Set("Location", "https://attacker.example/keys")
	for _, c := range []struct {
		path string
		resp *http.Response
		want string // of the error; "" for none
	}{
		{"/keys", reply(200, append(marshal(jose.JSONWebKeySet{Keys: newIDP(url0).keys}), make([]byte, maxDocument)...)), "over 524288 bytes"},
		{"/keys", reply(200, marshal(jose.JSONWebKeySet{Keys: many})), "101 keys"},
		{"/keys", redirect, "redirect"},
		{"/keys", reply(500, []byte("secret of the issuer")), "status 500"},
		{"/keys", reply(200, []byte("<html>")), "not a set of keys"},
		{"/keys", reply(200, []byte("{}")), "not a set of keys"},
		{"/keys", reply(200, []byte(`{"keys":[],"keys":[]}`)), "not a set of keys"},
		{"/.well-known/openid-configuration", reply(200, doc(object{"issuer": url0 + "/"})), "calls itself something else"},
		{"/.well-known/openid-configuration", reply(200, doc(object{"issuer": "https://evil.example"})), "calls itself something else"},
		{"/.well-known/openid-configuration", reply(200, doc(object{"jwks_uri": "http://issuer.example/keys"})), "https"},
		{"/.well-known/openid-configuration", reply(200, doc(object{"jwks_uri": "file:///etc/passwd"})), "jwks_uri"},
		{"/.well-known/openid-configuration", reply(200, []byte("{")), "not a discovery document"},
		{"/.well-known/openid-configuration", reply(404, nil), "status 404"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newIDP(url0)
			p.answer = func(path string) (*http.Response, error) {
				if path == c.path {
					return c.resp, nil
				}
				return nil, nil
			}
			id, _ := known(t, []*idp{p}, nil)
			synctest.Wait()
			_, err := show(id, rs256(good(nil)))
			if why(err) != "unknown" || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v, want %q", c.path, err, c.want)
			}
		})
	}
	// Keys of other kinds beside the good ones do no harm.
	keys, passed, err := parseKeys([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB"},7,` +
		`{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"},` + string(marshal(newIDP(url0).keys[1])) + "," + string(marshal(newIDP(url0).keys[1])) + `]}`))
	if err != nil || len(keys) != 1 || passed != 5 {
		t.Errorf("%d keys, %d passed over, %v", len(keys), passed, err)
	}
}

// A certificate that nobody vouches for, and one that somebody does; and plain HTTP where it stays on this machine.
func TestTLS(t *testing.T) {
	p := newIDP("")
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		u := must(url.Parse(p.url))
		p.mu.Unlock()
		r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
		resp, err := p.RoundTrip(r)
		if err != nil {
			panic(err)
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
	for _, c := range []struct {
		name  string
		start func(http.Handler) *httptest.Server
		trust bool
		want  string
	}{
		{"plain, on the loopback", httptest.NewServer, false, ""},
		{"a certificate of nobody", httptest.NewTLSServer, false, "certificate"},
		{"a certificate of a known root", httptest.NewTLSServer, true, ""},
	} {
		s := c.start(serve)
		p.change(func() { p.url = s.URL })
		is := Issuer{Name: "a", URL: s.URL, Audiences: []string{"gateway"}}
		if c.trust {
			is.Roots = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		}
		id := must(New(Config{Issuers: []Issuer{is}}))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- id.Run(ctx) }()
		_, err := show(id, rs256(good(object{"iss": s.URL})))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		stop()
		<-ended
		s.Close()
	}
}

// What is remembered is bounded, and many may ask at once.
func TestCache(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, nil)
	id.cache = newCache(64)
	often := sign(edKey(), object{"alg": "EdDSA", "kid": "ed"}, good(nil))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				who, err := show(id, sign(edKey(), object{"alg": "EdDSA", "kid": "ed"}, good(object{"jti": rand.Text(), "sub": "other"})))
				if err != nil || who.Subject != "other" {
					t.Errorf("%v %v", who, err)
				}
				if who, err = show(id, often); err != nil || who.Subject != "00u1ab2c" {
					t.Errorf("%v %v", who, err)
				}
			}
		})
	}
	all.Wait()
	id.cache.mu.Lock()
	defer id.cache.mu.Unlock()
	if n := len(id.cache.young) + len(id.cache.old); n > 64 || n < 32 {
		t.Errorf("%d tokens are remembered, want at most 64", n)
	}
}
