package config

import (
	"os"
	"strings"
	"testing"
	"time"
)

const withIdentity = `  tls: {cert: gw.pem, key: gw.key}
  identity:
    certificates:
      roots: clients.pem
      callers:
        - {name: batch, uri: spiffe://example.org/batch, groups: [machines], routes: [openai], authority: mesh.pem}
      revoked: ["00"]
    tokens: {dir: data/tokens, life: 8h}
    public: https://gateway.example
    saml:
      - {name: entra, metadata: entra.xml, email: mail, groups: groups, cert: saml.pem, key: saml.key}
    proxy: http://proxy.example:3128
    issuers:
      - name: okta
        url: https://example.okta.com
        audiences: [tallystick]
        type: access
        require: [{path: [hd], any: [example.com]}]
        groups: [realm_access, roles]
        stale: 2h
        roots: okta.pem
        client: {id: tallystick, secret: {file: okta.secret}, scopes: [email, groups]}
  journal:`

func TestIdentity(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(good, "  journal:", withIdentity, 1)), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	id := c.Gateway.Identity
	for _, p := range []struct{ got, want string }{
		{id.Certificates.Roots, "/etc/tally/clients.pem"}, {id.Certificates.Callers[0].Authority, "/etc/tally/mesh.pem"}, {id.Tokens.Dir, "/etc/tally/data/tokens"},
		{id.Issuers[0].Roots, "/etc/tally/okta.pem"}, {id.Issuers[0].Client.Secret.File, "/etc/tally/okta.secret"},
		{id.SAML[0].Metadata, "/etc/tally/entra.xml"}, {id.SAML[0].Cert, "/etc/tally/saml.pem"}, {id.SAML[0].Key, "/etc/tally/saml.key"},
		{strings.Join(id.Issuers[0].Groups, "."), "realm_access.roles"}, {id.Issuers[0].Require[0].Any[0], "example.com"},
	} {
		if p.got != p.want {
			t.Errorf("%q, want %q", p.got, p.want)
		}
	}
	if id.Tokens.TokenLife() != 8*time.Hour || (&Tokens{}).TokenLife() != 12*time.Hour {
		t.Error("the life of tokens")
	}
	// Without static keys, too.
	if _, err := Parse([]byte(strings.Replace(strings.Replace(good, "  journal:", withIdentity, 1), "  callers:\n    - {name: alice, sha256: \"00\"}\n", "", 1)), "/"); err != nil {
		t.Error(err)
	}
}

// Every wrong file is refused with the word that leads to the fault.
func TestIdentityRefuses(t *testing.T) {
	file := strings.Replace(good, "  journal:", withIdentity, 1)
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "audiences:", "audience:", "audience"},
		{"an unknown key of a claim", "path: [hd]", "claim: [hd]", "claim"},
		{"certificates without TLS", "  tls: {cert: gw.pem, key: gw.key}\n", "", "gateway.tls"},
		{"certificates by nobody", "      roots: clients.pem\n", "", "certificates.roots is missing"},
		{"certificates of nobody", "        - {name: batch, uri: spiffe://example.org/batch, groups: [machines], routes: [openai], authority: mesh.pem}", "", "certificates.callers is empty"},
		{"a route that there is none of", "routes: [openai]", "routes: [other]", `"other"`},
		{"tokens nowhere", "dir: data/tokens, ", "", "tokens.dir is missing"},
		{"tokens for ever", "life: 8h", "life: 200h", "168h"},
		{"an issuer without a name", "name: okta", "name: \"\"", "number 1: name is missing"},
		{"an issuer without a URL", "        url: https://example.okta.com\n", "", "number 1: url is missing"},
		{"a static caller of an issuer's", "name: alice", "name: okta:alice", "okta:alice"},
		{"a certificate's caller of an issuer's", "name: batch", "name: okta:batch", "okta:batch"},
		{"log-ins nowhere", "    public: https://gateway.example\n", "", "identity.public is missing"},
		{"log-ins without tokens", "    tokens: {dir: data/tokens, life: 8h}\n", "", "identity.tokens"},
		{"a provider without metadata", "metadata: entra.xml, ", "", "number 1: metadata is missing"},
		{"a provider with an issuer's name", "name: entra", "name: okta", "called okta"},
		{"a provider with half a key", ", key: saml.key", "", "both cert and key"},
		{"a static caller of a provider's", "name: alice", "name: entra:alice", "entra:alice"},
		{"a client without id", "id: tallystick, ", "", "client.id is missing"},
		{"a time without unit", "stale: 2h", "stale: 2", "length of time"},
		{"a groups claim that is a word", "groups: [realm_access, roles]", "groups: roles", "groups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(file, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(file, c.old, c.new, 1)), ".")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not speak of %q", err, c.want)
			}
		})
	}
	i := strings.Index(file, "    issuers:")
	j := strings.Index(file, "  journal:")
	if _, err := Parse([]byte(file[:i]+file[j:]), "."); err == nil || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("a proxy to nobody: %v", err)
	}
	if _, err := Parse([]byte(strings.Replace(good, "  journal:", "  identity: {public: https://gateway.example, tokens: {dir: x}}\n  journal:", 1)), "."); err == nil || !strings.Contains(err.Error(), "identity.public") {
		t.Errorf("log-ins by nobody: %v", err)
	}
	if _, err := Parse([]byte(strings.Replace(file, "name: alice", "name: oktavia", 1)), "."); err != nil {
		t.Errorf("a name that is no issuer's: %v", err)
	}
	if _, err := Parse([]byte(strings.Replace(good, "  callers:\n    - {name: alice, sha256: \"00\"}\n", "", 1)), "."); err == nil || !strings.Contains(err.Error(), "gateway.identity") {
		t.Errorf("nobody may call: %v", err)
	}
}

// The README's way to say who callers are is one that is read, and so is what it says of retention.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Who callers are\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, block, ok := strings.Cut(section, "\n    gateway:\n")
	if block, _, ok = strings.Cut(block, "\n\n"); !ok {
		t.Fatal("the README does not say any more who callers are")
	}
	var lines []string
	for line := range strings.SplitSeq(block, "\n") {
		lines = append(lines, strings.TrimPrefix(line, "    "))
	}
	c, err := Parse([]byte(strings.Replace(good, "  journal:", strings.Join(lines, "\n")+"\n  journal:", 1)), "/x")
	if err != nil {
		t.Fatal(err)
	}
	if id := c.Gateway.Identity; len(id.Issuers) != 1 || len(id.SAML) != 1 || id.Issuers[0].Client.Secret.File != "/x/keys/okta.secret" || id.Certificates.Callers[0].Name != "batch" {
		t.Errorf("%+v", id)
	}
	_, block, _ = strings.Cut(string(b), "\n    retention:\n")
	block, _, _ = strings.Cut(block, "\n\n")
	if c, err = Parse([]byte("retention:\n"+block+"\n"+good), "/x"); err != nil || len(c.Retention) != 3 {
		t.Errorf("retention: %v, of\n%s", err, block)
	}
}
