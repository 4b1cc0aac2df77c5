package oidc

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tallystick/tallystick/gateway"
)

// Keys are made once: RSA takes its time.
var (
	rsaKey, otherRSA = sync.OnceValue(newRSA), sync.OnceValue(newRSA)
	ecKey            = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey            = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) })
)

func newRSA() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const url0 = "https://issuer.example"

// An idp is an issuer that answers in this process, and counts what it was asked.
type idp struct {
	url string

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	asked  map[string]int                            // requests by path
	answer func(path string) (*http.Response, error) // nil, or instead of what is right; (nil, nil) is what is right
}

func newIDP(url string) *idp {
	return &idp{url: url, asked: make(map[string]int), keys: []jose.JSONWebKey{
		{KeyID: "rsa", Algorithm: "RS256", Use: "sig", Key: rsaKey().Public()},
		{KeyID: "ec", Use: "sig", Key: ecKey().Public()},
		{KeyID: "ed", Use: "sig", Key: edKey().Public()},
	}}
}

func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[r.URL.Path]++
	if p.answer != nil {
		if resp, err := p.answer(r.URL.Path); resp != nil || err != nil {
			return resp, err
		}
	}
	switch r.URL.String() {
	case p.url + "/.well-known/openid-configuration":
		return reply(200, marshal(map[string]any{
			"issuer": p.url, "jwks_uri": p.url + "/keys", "authorization_endpoint": p.url + "/authorize", "token_endpoint": p.url + "/token",
		})), nil
	case p.url + "/keys":
		return reply(200, marshal(jose.JSONWebKeySet{Keys: p.keys})), nil
	}
	return reply(404, nil), nil
}

func (p *idp) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) fetched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked["/keys"]
}

func reply(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(bytes.NewReader(body))}
}

func marshal(v any) []byte { return must(json.Marshal(v)) }

// known is an identifier of issuers that answer in this process, running.
func known(t testing.TB, idps []*idp, change func(*Issuer)) (*Identifier, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	cfg := Config{Logger: slog.New(slog.NewTextHandler(&locked{w: log}, nil))}
	for i, p := range idps {
		is := Issuer{Name: fmt.Sprintf("issuer-%d", i), URL: p.url, Audiences: []string{"gateway", "gateway-2"}, Groups: []string{"groups"}}
		if change != nil {
			change(&is)
		}
		cfg.Issuers = append(cfg.Issuers, is)
	}
	id, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range idps {
		id.issuers[p.url].client.Transport = p
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- id.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return id, log
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

type object = map[string]any

// good are the claims of a good token.
func good(change object) object {
	now := time.Now().Unix()
	c := object{
		"iss": url0, "sub": "00u1ab2c", "aud": "gateway", "exp": now + 600, "iat": now - 10, "auth_time": now - 60,
		"email": "alice@example.com", "email_verified": true, "groups": []string{"eng", "approvers"}, "jti": "t1",
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

var b64 = base64.RawURLEncoding.EncodeToString

// sign makes a token. Its header and payload are objects, or bytes as they stand.
func sign(key any, header, payload any) string {
	raw := func(v any) []byte {
		if b, ok := v.([]byte); ok {
			return b
		}
		return marshal(v)
	}
	h := raw(header)
	var alg struct{ Alg string }
	json.Unmarshal(h, &alg)
	input := b64(h) + "." + b64(raw(payload))
	return input + "." + b64(signature(key, alg.Alg, input))
}

func signature(key any, alg, input string) []byte {
	sum := sha256.Sum256([]byte(input))
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			return must(rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		}
		return must(rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:]))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			panic(err)
		}
		b := make([]byte, 64)
		r.FillBytes(b[:32])
		s.FillBytes(b[32:])
		return b
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(input))
		return m.Sum(nil)
	}
	panic(fmt.Sprintf("a key of type %T", key))
}

func rs256(claims object) string { return sign(rsaKey(), object{"alg": "RS256", "kid": "rsa"}, claims) }

func show(id *Identifier, token string) (*gateway.Principal, error) {
	return id.Identify(context.Background(), gateway.Shown{Bearer: []byte(token)})
}

// why is the word of a refusal, "" for none, "not mine", or "unknown" for what could not be found out.
func why(err error) string {
	var s *gateway.Stranger
	switch {
	case err == nil:
		return ""
	case errors.Is(err, gateway.ErrNotMine):
		return "not mine"
	case errors.As(err, &s):
		return s.Why
	}
	return "unknown"
}
