package vault

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/keys"
)

const wantPolicies = `tallystick-sign
# Sign checkpoints of log.example/1.
path "transit/sign/log" {
  capabilities        = ["update"]
  required_parameters = ["input", "key_version"]
  allowed_parameters  = {
    "input"                = []
    "key_version"          = ["1"]
  }
}
tallystick-anchor
# The anchor of log.example/1.
path "secret/data/tallystick/anchor/ORIGIN" {
  capabilities = ["create", "update", "read"]
}
path "secret/metadata/tallystick/anchor/ORIGIN" {
  capabilities = ["read"]
}
path "secret/config" {
  capabilities = ["read"]
}
tallystick-wrap
# Wrap and unwrap data keys with vault:transit/tenant.
path "transit/encrypt/tenant" {
  capabilities = ["update"]
}
path "transit/decrypt/tenant" {
  capabilities = ["update"]
}
`

func TestInit(t *testing.T) {
	f := newFake()
	c := f.client(t, nil)
	setup := Setup{Origin: origin, Signer: ref(t, "vault:transit/log"), Anchor: ref(t, "vault:secret/tallystick/anchor"), KEK: ref(t, "vault:transit/tenant")}
	var vkey string
	for round := range 2 { // the second time finds everything
		done, err := c.Init(t.Context(), setup)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, p := range done.Policies {
			text.WriteString(p.Name + "\n" + p.Text)
			if f.policies[p.Name] != p.Text {
				t.Errorf("%s was written as %q", p.Name, f.policies[p.Name])
			}
		}
		if got := strings.ReplaceAll(text.String(), strings.TrimPrefix(anchorPath(origin), "tallystick/anchor/"), "ORIGIN"); got != wantPolicies {
			t.Errorf("the policies are\n%s", got)
		}
		if done.Signer.Reference() != ref(t, "vault:transit/log?version=1") || done.Signer.VerifierKey() != f.keys["log"].vkey(t, 1) {
			t.Errorf("%s of %s", done.Signer, done.Signer.Reference())
		}
		if vkey != "" && vkey != done.Signer.VerifierKey() {
			t.Error("another key")
		}
		vkey = done.Signer.VerifierKey()
		made := slices.ContainsFunc(done.Did, func(s string) bool { return strings.HasPrefix(s, "made the key vault:transit/log") })
		if made != (round == 0) || len(done.Did) != 7 {
			t.Errorf("it did %q", done.Did)
		}
		l, err := c.Latest(setup.Anchor)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Load(t.Context(), origin); err != nil {
			t.Errorf("the anchor it made: %v", err)
		}
	}
	// A rotated key: the newest version, and a policy for that.
	f.keys["log"].rotate(t)
	done, err := c.Init(t.Context(), Setup{Origin: origin, Signer: setup.Signer, Policies: "ours"})
	if err != nil || done.Signer.Reference().Version != "2" || len(done.Policies) != 1 || done.Policies[0].Name != "ours-sign" || !strings.Contains(done.Policies[0].Text, `["2"]`) {
		t.Errorf("%+v, %v", done, err)
	}
	done, err = c.Init(t.Context(), Setup{Origin: origin, Signer: ref(t, "vault:transit/ec"), Type: ECDSAP256})
	if err != nil || !strings.Contains(done.Policies[0].Text, `"marshaling_algorithm" = ["asn1"]`) {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestInitRefuses(t *testing.T) {
	good := Setup{Origin: origin, Signer: ref(t, "vault:transit/log"), Anchor: ref(t, "vault:secret/a"), KEK: ref(t, "vault:transit/tenant")}
	for _, row := range []struct {
		name   string
		change func(*Setup)
		fault  string // what is denied
		err    string
	}{
		{"no origin", func(s *Setup) { s.Origin = "" }, "", "an origin has"},
		{"no key", func(s *Setup) { s.Signer = keys.Reference{} }, "", "begins with"},
		{"a file", func(s *Setup) { s.Signer = ref(t, "file:log") }, "", "is not a transit key"},
		{"RSA", func(s *Setup) { s.Type = "rsa-4096" }, "", "not \"rsa-4096\""},
		{"of another type", func(s *Setup) { s.Type = ECDSAP256; s.Signer = ref(t, "vault:transit/ed") }, "", "name another key"},
		{"one that can be exported", func(s *Setup) { s.Signer = ref(t, "vault:transit/exportable") }, "", "taken out of Vault"},
		{"a KEK that signs", func(s *Setup) { s.KEK = ref(t, "vault:transit/ed") }, "", "aes256-gcm96"},
		{"an anchor that is none", func(s *Setup) { s.Anchor = ref(t, "file:a") }, "", "no place for an anchor"},
		{"no engine", func(s *Setup) { s.Signer = ref(t, "vault:nowhere/log") }, "", "no handler"},
		{"not allowed to make keys", func(*Setup) {}, "POST transit/keys/", "make the key"},
		{"not allowed to read keys", func(*Setup) {}, "GET transit/keys/", "read its public key"},
		{"not allowed to write policies", func(*Setup) {}, "PUT sys/policies/", "write the policy tallystick-sign"},
		{"not allowed to set check-and-set", func(*Setup) {}, "POST secret/metadata/", "permission denied"},
	} {
		f := newFake()
		f.addKey(t, "ed", Ed25519)
		f.addKey(t, "exportable", Ed25519)
		c := f.client(t, nil)
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			path := strings.TrimPrefix(r.URL.Path, "/v1/")
			if r.Method == "GET" && path == "transit/keys/exportable" {
				d := f.keys["exportable"].describe()
				d["exportable"] = true
				reply(w, d)
				return true
			}
			if row.fault != "" && strings.HasPrefix(r.Method+" "+path, row.fault) {
				refuse(w, 403, "permission denied")
				return true
			}
			return false
		}
		s := good
		row.change(&s)
		if _, err := c.Init(t.Context(), s); err == nil || !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %v, want %q", row.name, err, row.err)
		}
	}
}

func TestSignPolicyRefuses(t *testing.T) {
	f := newFake()
	f.addKey(t, "log", Ed25519)
	f.addKey(t, "other", Ed25519)
	c := f.client(t, nil)
	var ss []*keys.Signer
	for _, name := range []string{"log", "other"} {
		s, err := c.Signer(t.Context(), ref(t, "vault:transit/"+name+"?version=1"), origin, "")
		if err != nil {
			t.Fatal(err)
		}
		ss = append(ss, s)
	}
	elsewhere, err := keys.Pin(keys.Reference{Scheme: keys.SchemeFile, Path: "a"}, ss[0].VerifierKey(), func([]byte) ([]byte, error) { return nil, errors.New("x") })
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]*keys.Signer{nil, ss, {elsewhere}} {
		if p, err := SignPolicy("p", bad...); err == nil {
			t.Errorf("a policy: %v", p)
		}
	}
	if _, err := c.Rotate(t.Context(), elsewhere); err == nil {
		t.Error("a file was rotated")
	}
}
