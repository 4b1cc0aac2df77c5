package cert

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string) authority {
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)))), k}
}

func (a authority) sign(change func(*x509.Certificate)) *x509.Certificate {
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "batch"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"Batch.example.com"}, EmailAddresses: []string{"batch@example.com"}, URIs: []*url.URL{must(url.Parse("spiffe://example.com/batch"))},
	}
	if change != nil {
		change(tmpl)
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key))))
}

func sum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

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
	return err.Error()
}

func TestIdentify(t *testing.T) {
	a, b := newAuthority("a"), newAuthority("b")
	leaf := a.sign(nil)
	other := a.sign(func(c *x509.Certificate) { c.DNSNames, c.EmailAddresses, c.URIs = nil, nil, nil })
	for _, c := range []struct {
		name string
		cfg  Config
		cert *x509.Certificate
		want string
	}{
		{"by its key", Config{Callers: []Caller{{Name: "batch", SPKI: strings.ToUpper(sum(leaf.RawSubjectPublicKeyInfo))}}}, leaf, ""},
		{"by URI", Config{Callers: []Caller{{Name: "batch", URI: "spiffe://example.com/batch"}}}, leaf, ""},
		{"by DNS", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}}, leaf, ""},
		{"by email", Config{Callers: []Caller{{Name: "batch", Email: "batch@example.com"}}}, leaf, ""},
		{"by what is like its URI", Config{Callers: []Caller{{Name: "batch", URI: "spiffe://example.com/bat"}}}, leaf, "unlisted"},
		{"by a wildcard", Config{Callers: []Caller{{Name: "batch", DNS: "*.example.com"}}}, leaf, "unlisted"},
		{"by its common name", Config{Callers: []Caller{{Name: "batch", DNS: "batch"}}}, leaf, "unlisted"},
		{"a name in another place", Config{Callers: []Caller{{Name: "batch", DNS: "batch@example.com"}}}, leaf, "unlisted"},
		{"without names", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}}, other, "unlisted"},
		{"signed by whom it must", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com", Authority: a.cert}}}, leaf, ""},
		{"signed by another", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com", Authority: a.cert}}}, b.sign(nil), "unlisted"},
		{"signed by another that names the first", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com", Authority: a.cert}}},
			b.sign(func(c *x509.Certificate) { c.AuthorityKeyId = a.cert.SubjectKeyId }), "unlisted"},
		{"one name, two authorities", Config{Callers: []Caller{{Name: "other", DNS: "batch.example.com", Authority: b.cert}, {Name: "batch", DNS: "batch.example.com", Authority: a.cert}}}, leaf, ""},
		{"two callers' names", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}, {Name: "other", Email: "batch@example.com"}}}, leaf, "ambiguous"},
		{"two names of one caller", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}, {Name: "batch", Email: "batch@example.com"}}}, leaf, ""},
		{"its key before its names", Config{Callers: []Caller{{Name: "other", DNS: "batch.example.com"}, {Name: "batch", SPKI: sum(leaf.RawSubjectPublicKeyInfo)}}}, leaf, ""},
		{"revoked", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}, Revoked: []string{sum(leaf.Raw)}}, leaf, "revoked"},
		{"its key revoked", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}, Revoked: []string{sum(leaf.RawSubjectPublicKeyInfo)}}, leaf, "revoked"},
		{"another revoked", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}, Revoked: []string{sum(other.Raw)}}, leaf, ""},
		{"none", Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}}, nil, "not mine"},
	} {
		l, err := New(c.cfg)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for range 2 {
			who, err := l.Identify(context.Background(), gateway.Shown{Cert: c.cert})
			if why(err) != c.want || (who == nil) != (err != nil) || who != nil && (who.Name != "batch" || who.How != gateway.ByCert || !who.Until.Equal(leaf.NotAfter)) {
				t.Errorf("%s: %+v, %v, want %q", c.name, who, err, c.want)
			}
			// A key beside it changes nothing but where the certificate is of nobody.
			want := c.want
			if want == "unlisted" {
				want = "not mine"
			}
			if _, err := l.Identify(context.Background(), gateway.Shown{Cert: c.cert, Bearer: []byte("unused")}); why(err) != want {
				t.Errorf("%s, with a key: %v, want %q", c.name, err, want)
			}
		}
	}
}

// A connection may be open longer than its certificate is good.
func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaf := newAuthority("a").sign(nil)
		l := must(New(Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com"}}}))
		for range 2 {
			if _, err := l.Identify(context.Background(), gateway.Shown{Cert: leaf}); err != nil {
				t.Error(err)
			}
			time.Sleep(30 * time.Minute)
		}
		time.Sleep(time.Second)
		for _, s := range []gateway.Shown{{Cert: leaf}, {Cert: leaf, Bearer: []byte("unused")}} {
			if _, err := l.Identify(context.Background(), s); why(err) != "expired" {
				t.Error(err)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	a := newAuthority("a").cert
	for _, cfg := range []Config{
		{},
		{Callers: []Caller{{Name: "", DNS: "a"}}},
		{Callers: []Caller{{Name: "a\n", DNS: "a"}}},
		{Callers: []Caller{{Name: "a"}}},
		{Callers: []Caller{{Name: "a", DNS: "a", URI: "b"}}},
		{Callers: []Caller{{Name: "a", SPKI: "00"}}},
		{Callers: []Caller{{Name: "a", DNS: "A"}}},
		{Callers: []Caller{{Name: "a", DNS: "x"}, {Name: "b", DNS: "x"}}},
		{Callers: []Caller{{Name: "a", DNS: "x", Authority: a}, {Name: "b", DNS: "x"}}},
		{Callers: []Caller{{Name: "a", DNS: "x", Authority: a}, {Name: "b", DNS: "x", Authority: a}}},
		{Callers: []Caller{{Name: "a", DNS: "x"}}, Revoked: []string{"00"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	a := newAuthority("a")
	l := must(New(Config{Callers: []Caller{{Name: "batch", DNS: "batch.example.com", Authority: a.cert}}}))
	s := gateway.Shown{Cert: a.sign(nil)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Identify(context.Background(), s); err != nil {
			b.Fatal(err)
		}
	}
}
