package oidc

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// Nobody becomes known by bytes that no issuer signed, and no refusal repeats them.
func FuzzIdentify(f *testing.F) {
	id, _ := known(f, []*idp{newIDP(url0)}, nil)
	fine := rs256(good(nil))
	signed := fine[:strings.LastIndexByte(fine, '.')]
	f.Add([]byte(fine))
	for _, r := range recipes() {
		for _, token := range r.tokens[:min(len(r.tokens), 3)] {
			if len(token) < 4096 {
				f.Add([]byte(token))
			}
		}
	}
	word := regexp.MustCompile(`^[a-z_]+$`)
	f.Fuzz(func(t *testing.T, b []byte) {
		who, err := show(id, string(b))
		if (who == nil) == (err == nil) {
			t.Fatalf("%v and %v", who, err)
		}
		if err == nil && !strings.HasPrefix(string(b), signed) && !strings.Contains(string(b), "ImVjIn0") && !strings.Contains(string(b), "ImVkIn0") {
			t.Fatalf("%q is taken for a token of %s", b, who.Name)
		}
		if why := why(err); err != nil && why != "not mine" && why != "unknown" && !word.MatchString(why) {
			t.Fatalf("the reason %q", why)
		}
	})
}

// What is read as a token is read in the same way by go-jose.
func FuzzRead(f *testing.F) {
	for _, r := range recipes() {
		for _, token := range r.tokens[:min(len(r.tokens), 3)] {
			if len(token) < 4096 {
				f.Add([]byte(token))
			}
		}
	}
	all := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, a := range algorithms {
		all[i] = jose.SignatureAlgorithm(a)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tk, payload, err := split(b)
		if err != nil {
			return
		}
		jws, err := jose.ParseSignedCompact(string(b), all)
		if err != nil {
			return // which refuses more: a bad x5c, for one
		}
		if h := jws.Signatures[0].Header; h.KeyID != tk.kid || h.Algorithm != tk.alg {
			t.Fatalf("%q: key %q with %q, and go-jose reads %q with %q", b, tk.kid, tk.alg, h.KeyID, h.Algorithm)
		}
		if string(jws.UnsafePayloadWithoutVerification()) != string(payload) {
			t.Fatalf("%q: two payloads", b)
		}
	})
}

// A set of keys is read or refused, and each key that is taken can do what it is taken for.
func FuzzKeys(f *testing.F) {
	f.Add(marshal(jose.JSONWebKeySet{Keys: newIDP(url0).keys}))
	for _, name := range []string{"signature", "key", "crypto"} {
		var file struct {
			TestGroups []struct{ Public, Private json.RawMessage }
		}
		json.Unmarshal(must(os.ReadFile("testdata/wycheproof/json_web_"+name+"_test.json")), &file)
		for _, g := range file.TestGroups {
			f.Add([]byte(g.Public))
			f.Add([]byte(`{"keys":[` + string(g.Private) + `]}`))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, _, err := parseKeys(b)
		if err != nil {
			return
		}
		for _, k := range keys {
			served := 0
			for _, alg := range algorithms {
				if k.serves(alg) {
					served++
					k.verifies(alg).VerifySignature(t.Context(), "e30.e30.AAAA")
				}
			}
			if served == 0 || k.alg != "" && served != 1 {
				t.Fatalf("a key that serves %d algorithms, and says %q", served, k.alg)
			}
		}
	})
}
