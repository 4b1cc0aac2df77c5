package oidc

import (
	"context"
	"testing"

	"github.com/tallystick/tallystick/gateway"
)

// A token that is remembered: one hash and one look-up.
func BenchmarkIdentifyWarm(b *testing.B) {
	id, _ := known(b, []*idp{newIDP(url0)}, nil)
	s := gateway.Shown{Bearer: []byte(rs256(good(nil)))}
	if _, err := id.Identify(context.Background(), s); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := id.Identify(context.Background(), s); err != nil {
				b.Error(err)
			}
		}
	})
}

// A token that is shown for the first time, and a stranger's.
func BenchmarkIdentifyCold(b *testing.B) {
	id, _ := known(b, []*idp{newIDP(url0)}, nil)
	for _, c := range []struct{ name, token, want string }{
		{"RS256", rs256(good(nil)), ""},
		{"ES256", sign(ecKey(), object{"alg": "ES256", "kid": "ec"}, good(nil)), ""},
		{"EdDSA", sign(edKey(), object{"alg": "EdDSA", "kid": "ed"}, good(nil)), ""},
		{"forged", sign(otherRSA(), object{"alg": "RS256", "kid": "rsa"}, good(nil)), "signature"},
		{"expired", rs256(good(object{"exp": 1})), "expired"},
		{"unknown key", sign(otherRSA(), object{"alg": "RS256", "kid": "x"}, good(nil)), "key"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				id.cache = newCache(2)
				if _, err := show(id, c.token); why(err) != c.want {
					b.Fatal(err)
				}
			}
		})
	}
}
