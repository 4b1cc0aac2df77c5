package oidc

import (
	"bytes"
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A token is a JSON Web Token in the compact form (RFC 7515 §7.1), read and not yet believed.
type token struct {
	raw    string
	alg    string // of all that an issuer may use
	kid    string // "" where the header has none
	access bool   // typ says at+jwt
	claims *claims
}

// maxRead is the longest token that is read at all, in bytes, before it is known what its issuer allows.
const maxRead = 64 << 10

// read reads a token, whoever signed it. What it refuses is refused for all issuers.
func read(b []byte) (*token, error) {
	t, payload, err := split(b)
	if err != nil {
		return nil, err
	}
	if t.claims, err = readClaims(payload); err != nil {
		return nil, err
	}
	return t, nil
}

// split reads all of a token but the claims, and returns these as they stand.
func split(b []byte) (t *token, payload []byte, err error) {
	if len(b) > maxRead {
		return nil, nil, tooLong
	}
	// RFC 7515 §2 knows no padding and no white space; the decoder would skip line ends.
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return nil, nil, malformed
		}
	}
	switch bytes.Count(b, []byte{'.'}) {
	case 2:
	case 4:
		return nil, nil, stranger("encrypted", "encrypted tokens are not read here; have the issuer sign tokens and not encrypt them")
	default:
		return nil, nil, malformed
	}
	parts := bytes.Split(b, []byte{'.'})
	header, err := decode(parts[0])
	if err != nil {
		return nil, nil, malformed
	}
	if payload, err = decode(parts[1]); err != nil {
		return nil, nil, malformed
	}
	t = &token{raw: string(b)}
	if err := t.readHeader(header); err != nil {
		return nil, nil, err
	}
	if len(parts[2]) == 0 {
		return nil, nil, stranger("signature", "the token is not signed; get a signed one")
	}
	return t, payload, nil
}

var (
	malformed = stranger("malformed", "what was shown is not a well-formed token (RFC 7519); get a new one")
	tooLong   = stranger("size", "the token is too long for this gateway; ask for one with fewer claims")
)

func decode(part []byte) ([]byte, error) {
	return base64.RawURLEncoding.Strict().AppendDecode(nil, part)
}

func (t *token) readHeader(b []byte) error {
	var h struct {
		Alg  string         `json:"alg"`
		Kid  *string        `json:"kid"`
		Typ  string         `json:"typ"`
		Crit jsontext.Value `json:"crit"`
		B64  jsontext.Value `json:"b64"`
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return malformed
	}
	// Whatever is critical (RFC 7515 §4.1.11) would have to be understood here, and nothing is.
	if h.Crit != nil || h.B64 != nil {
		return stranger("critical", "the token asks for an extension that is not known here (crit); have the issuer leave it out")
	}
	if !slices.Contains(algorithms, h.Alg) {
		return wrongAlgorithm
	}
	t.alg = h.Alg
	if h.Kid != nil {
		if *h.Kid == "" || len(*h.Kid) > 255 {
			return unknownKey
		}
		t.kid = *h.Kid
	}
	// RFC 8725 §3.11: a token of another kind, such as logout+jwt, is not one for calls.
	switch strings.TrimPrefix(strings.ToLower(h.Typ), "application/") {
	case "", "jwt":
	case "at+jwt":
		t.access = true
	default:
		return wrongType
	}
	return nil
}

var (
	wrongAlgorithm = stranger("algorithm", "the token is signed with an algorithm that its issuer may not use here")
	wrongType      = stranger("type", "the token is of a kind that is not for calls; show an access token, or an ID token where these are taken")
	unknownKey     = stranger("key", "the token is signed with a key that its issuer does not publish; get a new one")
	wrongClaims    = stranger("claims", "the token has a claim of the wrong form; have the issuer follow RFC 7519 and OpenID Connect Core")
)

// claims are the payload of a token. The ones that this room knows are of the type they must have; the rest is as it came.
type claims struct {
	issuer, subject, party, id string
	audience                   []string
	nonce, accessHash          string
	ends, begins, issued, at   time.Time // zero where they are missing
	all                        map[string]jsontext.Value
}

func readClaims(b []byte) (*claims, error) {
	c := &claims{}
	// No name may come twice, at any depth, and names differ where their bytes do.
	if err := json.Unmarshal(b, &c.all); err != nil || c.all == nil {
		return nil, malformed
	}
	good := true
	text := func(name string) (s string) {
		if v, ok := c.all[name]; ok && (v.Kind() != '"' || json.Unmarshal(v, &s) != nil) {
			good = false
		}
		return s
	}
	date := func(name string) (t time.Time) {
		if v, ok := c.all[name]; ok {
			if t, ok = numericDate(v); !ok {
				good = false
			}
		}
		return t
	}
	c.issuer, c.subject, c.id, c.nonce, c.accessHash = text("iss"), text("sub"), text("jti"), text("nonce"), text("at_hash")
	if c.party = text("azp"); c.party == "" {
		c.party = text("client_id") // RFC 9068 §2.2
	}
	c.ends, c.begins, c.issued, c.at = date("exp"), date("nbf"), date("iat"), date("auth_time")
	if v, ok := c.all["aud"]; ok {
		if c.audience, ok = texts(v); !ok {
			good = false
		}
	}
	if !good {
		return nil, wrongClaims
	}
	// A security event (RFC 8417), such as a logout token without its typ, is signed by the same issuer for the same
	// audience, and is about its subject, not by it.
	if _, ok := c.all["events"]; ok {
		return nil, wrongType
	}
	return c, nil
}

// numericDate is that of RFC 7519 §2: seconds since 1970 as a number, not as a string of digits.
func numericDate(v jsontext.Value) (time.Time, bool) {
	var f float64
	if v.Kind() != '0' || json.Unmarshal(v, &f) != nil || !(f > 0 && f < 253402300800) { // the year 10000
		return time.Time{}, false
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), true
}

// texts reads an array of strings, or one string.
func texts(v jsontext.Value) (list []string, ok bool) {
	switch v.Kind() {
	case '"':
		list = make([]string, 1)
		return list, json.Unmarshal(v, &list[0]) == nil
	case '[':
		return list, json.Unmarshal(v, &list) == nil
	}
	return nil, false
}

// find returns the claim at a path, or nil.
func (c *claims) find(path []string) jsontext.Value {
	in := c.all
	for i, name := range path {
		v, ok := in[name]
		if !ok {
			return nil
		}
		if i == len(path)-1 {
			return v
		}
		in = nil
		if v.Kind() != '{' || json.Unmarshal(v, &in) != nil {
			return nil
		}
	}
	return nil
}
