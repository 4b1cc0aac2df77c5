package oidc

import (
	"bytes"
	"compress/flate"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A recipe is what comes of one of the recipes in testdata: tokens, each of which is refused with the same word.
type recipe struct {
	why    string
	tokens []string
	where  string // the test it is told in, where that is another one
}

// Each recipe has one outcome here, and each outcome a recipe.
func TestRecipes(t *testing.T) {
	var file struct {
		Cases []struct{ ID, Mutate, Why string }
	}
	if err := json.Unmarshal(must(os.ReadFile("testdata/jwt_attack_recipes.json")), &file); err != nil {
		t.Fatal(err)
	}
	recipes := recipes()
	if len(file.Cases) != 64 || len(recipes) != 64 {
		t.Errorf("%d recipes, %d outcomes", len(file.Cases), len(recipes))
	}
	p := newIDP(url0)
	id, log := known(t, []*idp{p}, nil)
	if _, err := show(id, rs256(good(nil))); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Cases {
		r, ok := recipes[c.ID]
		if !ok {
			t.Errorf("%s: no outcome", c.ID)
			continue
		}
		if r.where != "" {
			continue
		}
		for i, token := range r.tokens {
			who, err := show(id, token)
			if (who != nil) != (r.why == "") || why(err) != r.why {
				t.Errorf("%s, token %d: %v, %v, want %s (%s)", c.ID, i, who, err, r.why, c.Mutate)
			}
			if err != nil && leaks(err.Error(), token) {
				t.Errorf("%s: the refusal says something of the token: %v", c.ID, err)
			}
		}
	}
	// Not one of them made a request of its own: one fetch at the start, one at most for the first unknown key.
	if n := p.fetched(); n > 2 {
		t.Errorf("the keys were fetched %d times", n)
	}
	if leaks(log.String(), rs256(good(nil))) {
		t.Errorf("the log says something of a token: %s", log)
	}
}

// leaks says whether text has something that only a token has.
func leaks(text, token string) bool {
	for _, part := range strings.Split(token, ".") {
		if len(part) > 8 && strings.Contains(text, part[:8]) {
			return true
		}
	}
	return strings.Contains(text, "00u1ab2c") || strings.Contains(text, "alice@")
}

func recipes() map[string]recipe {
	now := time.Now().Unix()
	claims := good(nil)
	head := func(change object) object {
		h := object{"alg": "RS256", "kid": "rsa"}
		for k, v := range change {
			h[k] = v
		}
		return h
	}
	whole := rs256(claims)
	parts := strings.Split(whole, ".")
	changed := func(change object) []string { return []string{rs256(good(change))} }
	of := func(why string, tokens ...string) recipe { return recipe{why: why, tokens: tokens} }
	out := make(map[string]recipe)

	for _, alg := range []string{"none", "None", "NONE", "nOnE", "none ", "\tnone", ""} {
		unsigned := b64(marshal(object{"alg": alg})) + "." + parts[1]
		name := "alg-none-'" + strings.ReplaceAll(alg, "\t", `\t`) + "'"
		out[name] = of("algorithm", unsigned+".", b64(marshal(object{"alg": alg, "kid": "rsa"}))+"."+parts[1]+"."+parts[2])
		// With one dot it is not a token at all.
		if _, err := read([]byte(unsigned)); why(err) != "malformed" {
			panic(name)
		}
	}
	out["null-sig"] = of("signature", parts[0]+"."+parts[1]+".", b64(marshal(object{"alg": "ES256", "kid": "ec"}))+"."+parts[1]+".")

	pub := rsaKey().Public().(*rsa.PublicKey)
	spki := must(x509.MarshalPKIXPublicKey(pub))
	jwk := marshal(jose.JSONWebKey{KeyID: "rsa", Algorithm: "RS256", Use: "sig", Key: pub})
	hmacWith := func(keys ...[]byte) recipe {
		r := of("algorithm")
		for _, k := range keys {
			r.tokens = append(r.tokens, sign(k, head(object{"alg": "HS256"}), claims))
		}
		return r
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	out["hs-confusion-pem"] = hmacWith(asPEM, bytes.TrimSpace(asPEM))
	out["hs-confusion-der"] = hmacWith(spki)
	out["hs-confusion-pkcs1"] = hmacWith(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(pub)}))
	out["hs-confusion-jwk"] = hmacWith(jwk)

	// A stranger who brings its own key. It may call the key as it likes.
	brings := func(change object) recipe {
		mine := func(kid any) string {
			h := head(change)
			h["kid"] = kid
			return sign(otherRSA(), h, claims)
		}
		return of("signature", mine("rsa"), sign(otherRSA(), head(change), claims))
	}
	out["jwk-embedded"] = brings(object{"jwk": json.RawMessage(marshal(jose.JSONWebKey{KeyID: "rsa", Key: otherRSA().Public()}))})
	out["jku"] = brings(object{"jku": "https://attacker.example/keys"})
	out["jku-userinfo"] = brings(object{"jku": "https://issuer.example@attacker.example/"})
	out["jku-openredirect"] = brings(object{"jku": url0 + "/out?to=https://attacker.example/keys"})
	out["x5u"] = brings(object{"x5u": "https://attacker.example/cert"})
	out["x5c"] = brings(object{"x5c": []string{base64.StdEncoding.EncodeToString(certificate())}})

	kid := func(kid any) recipe { return of("key", sign(otherRSA(), head(object{"kid": kid}), claims)) }
	out["kid-../../../../dev/null"] = kid("../../../../dev/null")
	out["kid-/proc/sys/kernel/ran"] = kid("/proc/sys/kernel/randomize_va_space")
	out["kid-' UNION SELECT 'k"] = kid("' UNION SELECT 'k")
	out["kid-|sleep 5"] = kid("|sleep 5")
	out["kid-http://127.0.0.1/"] = kid("http://127.0.0.1/")
	out["kid-key\x00"] = kid("key\x00")
	out["kid-aaaaaaaaaaaaaaaaaaaa"] = of("key", kid(strings.Repeat("a", 60)).tokens[0], kid(strings.Repeat("a", 3000)).tokens[0])
	out["kid-"] = kid("")
	out["kid-0"] = kid("0")
	flood := of("key")
	for range 1000 {
		flood.tokens = append(flood.tokens, parts2(object{"alg": "RS256", "kid": rand.Text()}, parts))
	}
	out["kid-unknown-flood"] = flood

	out["crit-unknown"] = of("critical", sign(rsaKey(), head(object{"crit": []string{"exp2"}, "exp2": 1}), claims), sign(rsaKey(), head(object{"crit": []string{}}), claims))
	out["crit-b64"] = of("critical", sign(rsaKey(), head(object{"crit": []string{"b64"}, "b64": false}), claims), sign(rsaKey(), head(object{"b64": true}), claims))

	ec := sign(ecKey(), object{"alg": "ES256", "kid": "ec"}, claims)
	ecInput, ecSig := ec[:strings.LastIndexByte(ec, '.')+1], must(base64.RawURLEncoding.DecodeString(ec[strings.LastIndexByte(ec, '.')+1:]))
	r, s := new(big.Int).SetBytes(ecSig[:32]), new(big.Int).SetBytes(ecSig[32:])
	out["es256-zero"] = of("signature", ecInput+b64(make([]byte, 64)))
	out["es256-der"] = of("signature", ecInput+b64(must(asn1.Marshal(struct{ R, S *big.Int }{r, s}))))
	// RFC 7518 §3.4 asks for neither form of s, and half of all signatures have the high one. The two are one token with one
	// jti, of one principal.
	low := new(big.Int).Sub(elliptic.P256().Params().N, s).FillBytes(make([]byte, 32))
	out["es256-nminus"] = of("", ec, ecInput+b64(append(ecSig[:32:32], low...)))
	out["rs-to-ps"] = of("signature",
		func() string {
			in := b64(marshal(head(nil))) + "." + parts[1]
			return in + "." + b64(signature(rsaKey(), "PS256", in))
		}(),
	)
	out["eddsa-conf"] = of("algorithm", sign(edKey(), head(object{"alg": "EdDSA"}), claims), sign(ecKey(), head(object{"alg": "ES256"}), claims),
		sign(rsaKey(), head(object{"alg": "PS256"}), claims)) // the key says that it is for RS256

	out["dup-claim"] = of("malformed", rs256Raw(`{"sub":"admin",`+string(marshal(claims))[1:]), rs256Raw(string(marshal(claims))[:len(marshal(claims))-1]+`,"x":{"a":1,"a":2}}`))
	out["dup-header"] = of("malformed", sign(rsaKey(), []byte(`{"alg":"none","kid":"rsa","alg":"RS256"}`), claims))
	out["b64-padding"] = of("malformed", whole+"=", whole+"==", parts[0]+"=."+parts[1]+"."+parts[2], whole[:40]+"\n"+whole[40:], " "+whole, whole+" ",
		strings.NewReplacer("-", "+", "_", "/").Replace(whole)+"+/", parts[0]+"."+parts[1][:len(parts[1])-1]+"."+parts[2]+"\r\n")
	out["4-segments"] = of("malformed", whole+".d", "."+whole, whole+".")
	jwe := func(header object) string {
		return b64(marshal(header)) + "." + b64([]byte("key")) + "." + b64([]byte("iv")) + "." + b64(deflated()) + "." + b64([]byte("tag"))
	}
	out["5-segments-jwe"] = of("encrypted", jwe(object{"alg": "RSA-OAEP", "enc": "A256GCM"}), jwe(object{"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2147483647}))
	out["zip-bomb-jwe"] = of("encrypted", jwe(object{"alg": "dir", "enc": "A128GCM", "zip": "DEF"}))
	out["many-dots"] = of("size", strings.Repeat(".", 1e6))

	out["exp-past"] = of("expired", changed(object{"exp": now - 600})...)
	out["exp-missing"] = of("claims", changed(object{"exp": nil})...)
	out["exp-string"] = of("claims", changed(object{"exp": "9999999999"})...)
	out["exp-float-huge"] = of("claims", changed(object{"exp": 1e308})[0], rs256Raw(`{"iss":"`+url0+`","sub":"a","aud":"gateway","exp":1e309}`))
	out["exp-neg-null"] = of("claims", changed(object{"exp": -1})[0], changed(object{"exp": json.RawMessage("null")})[0], changed(object{"exp": 0})[0])
	out["nbf-future"] = of("early", changed(object{"nbf": now + 600})...)
	out["iat-future"] = of("early", changed(object{"iat": now + 300})...)
	out["iss-prefix"] = of("issuer", changed(object{"iss": "https://issuer.example.evil.com"})[0], changed(object{"iss": url0 + "/"})[0],
		changed(object{"iss": "https://ISSUER.example"})[0], changed(object{"iss": "issuer.example"})[0], changed(object{"iss": ""})[0], changed(object{"iss": nil})[0])
	out["aud-array"] = of("party", changed(object{"aud": []string{"other", "gateway"}})[0], changed(object{"aud": []string{"other", "gateway"}, "azp": "other"})[0])
	out["aud-substring"] = of("audience", changed(object{"aud": "gateway-evil"})[0], changed(object{"aud": []string{"gatewa", "y"}})[0], changed(object{"aud": "Gateway"})[0])
	out["aud-missing"] = of("audience", changed(object{"aud": nil})[0], changed(object{"aud": []string{}})[0])
	out["typ-id-as-access"] = recipe{where: "TestTypes"}
	out["nonce-replay"] = recipe{where: "TestLogin"}
	out["state-missing"] = recipe{where: "gateway/login, TestAnswers"}
	out["code-replay"] = recipe{where: "TestLogin"}
	out["pkce-downgrade"] = recipe{where: "TestLogin"}
	out["mixup-iss"] = recipe{where: "TestLogin"}
	out["sub-unicode"] = of("subject", changed(object{"sub": "admin\u200b"})[0], changed(object{"sub": "\uff41dmin"})[0], changed(object{"sub": "admin "})[0], changed(object{"sub": "a\x7f"})[0], changed(object{"sub": ""})[0])
	out["email-unverified"] = recipe{where: "TestPrincipal"}
	out["groups-overage"] = of("groups", changed(object{"groups": strings.Split(strings.Repeat("g,", 300)+"g", ",")})[0],
		changed(object{"groups": nil, "_claim_names": object{"groups": "src1"}, "_claim_sources": object{"src1": object{"endpoint": "https://attacker.example"}}})[0],
		changed(object{"groups": (*int)(nil), "_claim_names": object{"groups": "src1"}})[0], // null
		changed(object{"groups": []any{"a", 1}})[0], changed(object{"groups": []any{"a", nil}})[0])
	out["key-rotated"] = recipe{where: "TestRotation"}
	out["jwks-down"] = recipe{where: "TestDown"}
	return out
}

// parts2 is a token with another header and the old signature.
func parts2(header object, parts []string) string {
	return b64(marshal(header)) + "." + parts[1] + "." + parts[2]
}

func rs256Raw(payload string) string {
	return sign(rsaKey(), object{"alg": "RS256", "kid": "rsa"}, []byte(payload))
}

func deflated() []byte {
	var b bytes.Buffer
	w := must(flate.NewWriter(&b, 9))
	w.Write(make([]byte, 1<<20))
	w.Close()
	return b.Bytes()
}

func certificate() []byte {
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	return must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k))
}

// 10,000 groups are more than a token may be long.
func TestHuge(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, nil)
	many := make([]string, 10_000)
	for i := range many {
		many[i] = rand.Text()
	}
	for _, groups := range [][]string{many, many[:800]} {
		if _, err := show(id, rs256(good(object{"groups": groups}))); why(err) != "size" {
			t.Errorf("%d groups: %v", len(groups), err)
		}
	}
}
