package vault

import (
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
)

// caOf returns the certificate of a test server, in PEM.
func caOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestConfig(t *testing.T) {
	token := Login{Token: keys.Credential{Env: "VAULT_TOKEN"}}
	secret := keys.Credential{Env: "X"}
	for _, row := range []struct {
		name string
		cfg  Config
		err  string
	}{
		{"https", Config{Address: "https://vault.example:8200", Login: token}, ""},
		{"http here", Config{Address: "http://127.0.0.1:8200", Login: token}, ""},
		{"http here, IPv6", Config{Address: "http://[::1]:8200", Login: token}, ""},
		{"http here, by name", Config{Address: "http://localhost:8200", Login: token}, ""},
		{"http there, allowed", Config{Address: "http://vault:8200", AllowHTTP: true, Login: token}, ""},
		{"a socket", Config{Address: "unix:///run/vault.sock", Login: token}, ""},
		{"a path", Config{Address: "https://proxy.example/vault", Login: token}, ""},
		{"all of them", Config{Address: "https://v", Namespace: "team", CACertPEM: "", TLSServerName: "v", Proxy: "http://proxy:3128", Header: http.Header{"X-Team": {"a"}}, Timeout: time.Second, Login: token}, ""},
		{"AppRole", Config{Address: "https://v", Login: Login{AppRole: &AppRole{RoleID: "r", SecretID: secret, Mount: "team/approle"}}}, ""},
		{"Kubernetes", Config{Address: "https://v", Login: Login{Kubernetes: &Kubernetes{Role: "r"}}}, ""},
		{"JWT", Config{Address: "https://v", Login: Login{JWT: &JWT{Role: "r", Token: secret}}}, ""},

		{"nothing", Config{}, "no address"},
		{"no log-in", Config{Address: "https://v"}, "no way to log in"},
		{"http there", Config{Address: "http://vault:8200", Login: token}, "plain http to another machine"},
		{"http to a name like this one's", Config{Address: "http://localhost.example:8200", Login: token}, "plain http to another machine"},
		{"no scheme", Config{Address: "vault.example:8200", Login: token}, "is not https://"},
		{"another scheme", Config{Address: "ftp://vault.example", Login: token}, "is not https://"},
		{"no host", Config{Address: "https://", Login: token}, "is not https://"},
		{"no URL", Config{Address: "https://[", Login: token}, "is not a URL"},
		{"a password", Config{Address: "https://me:" + canary + "@vault.example", Login: token}, "leave it out"},
		{"a query", Config{Address: "https://vault.example?x=1", Login: token}, "query"},
		{"two log-ins", Config{Address: "https://v", Login: Login{Token: secret, Kubernetes: &Kubernetes{Role: "r"}}}, "keep one"},
		{"AppRole without a role-id", Config{Address: "https://v", Login: Login{AppRole: &AppRole{SecretID: secret}}}, "role-id"},
		{"AppRole without a secret-id", Config{Address: "https://v", Login: Login{AppRole: &AppRole{RoleID: "r"}}}, "secret-id"},
		{"Kubernetes without a role", Config{Address: "https://v", Login: Login{Kubernetes: &Kubernetes{}}}, "role"},
		{"JWT without a token", Config{Address: "https://v", Login: Login{JWT: &JWT{Role: "r"}}}, "reference to the token"},
		{"a certificate log-in without one", Config{Address: "https://v", Login: Login{Cert: &Cert{}}}, "client certificate"},
		{"a mount that climbs", Config{Address: "https://v", Login: Login{Kubernetes: &Kubernetes{Role: "r", Mount: "../../sys"}}}, "cannot be the mount"},
		{"half a certificate", Config{Address: "https://v", ClientCert: "a", Login: token}, "both its files"},
		{"no such certificate", Config{Address: "https://v", ClientCert: "/nonexistent/a", ClientKey: "/nonexistent/b", Login: token}, "/nonexistent/a"},
		{"no such authority", Config{Address: "https://v", CACert: "/nonexistent/ca", Login: token}, "/nonexistent/ca"},
		{"an authority that is none", Config{Address: "https://v", CACertPEM: "x", Login: token}, "authorities"},
		{"a timeout too long", Config{Address: "https://v", Timeout: time.Hour, Login: token}, "choose up to"},
		{"a negative timeout", Config{Address: "https://v", Timeout: -1, Login: token}, "choose up to"},
		{"a proxy that is none", Config{Address: "https://v", Proxy: "proxy", Login: token}, "proxy"},
		{"a header of Vault's", Config{Address: "https://v", Header: http.Header{"x-vault-token": {canary}}, Login: token}, "Vault's own protocol"},
	} {
		c, err := New(row.cfg)
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) || (c == nil) != (err != nil) {
			t.Errorf("%s: %v, want %q", row.name, err, row.err)
		}
		if err != nil {
			wantNoTrace(t, err.Error())
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	env := map[string]string{}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	set := func(pairs ...string) {
		clear(env)
		for i := 0; i < len(pairs); i += 2 {
			env[pairs[i]] = pairs[i+1]
		}
	}
	set("VAULT_ADDR", "https://vault.example:8200", "VAULT_NAMESPACE", "team/a", "VAULT_CACERT", "ca.pem", "VAULT_CACERT_BYTES", "PEM", "VAULT_CAPATH", "cas",
		"VAULT_CLIENT_CERT", "c.pem", "VAULT_CLIENT_KEY", "k.pem", "VAULT_TLS_SERVER_NAME", "v", "VAULT_SKIP_VERIFY", "true", "VAULT_PROXY_ADDR", "http://proxy",
		"VAULT_HTTP_PROXY", "http://other", "VAULT_HEADERS", `{"X-Team":"a"}`, "VAULT_SRV_LOOKUP", "1", "VAULT_CLIENT_TIMEOUT", "7", "VAULT_TOKEN", canary,
		"VAULT_MAX_RETRIES", "x", "VAULT_WRAP_TTL", "1h", "VAULT_DISABLE_REDIRECTS", "x", "VAULT_AGENT_ADDR", "")
	got, err := FromEnvironment(lookup)
	if err != nil {
		t.Fatal(err)
	}
	got.Lookup = nil
	want := Config{
		Address: "https://vault.example:8200", Namespace: "team/a", CACert: "ca.pem", CACertPEM: "PEM", CAPath: "cas", ClientCert: "c.pem", ClientKey: "k.pem",
		TLSServerName: "v", SkipVerify: true, Proxy: "http://proxy", Header: http.Header{"X-Team": {"a"}}, SRVLookup: true, Timeout: 7 * time.Second,
		Login: Login{Token: keys.Credential{Env: "VAULT_TOKEN"}},
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
	wantNoTrace(t, fmt.Sprintf("%+v", got))
	set("VAULT_ADDR", "https://a", "VAULT_AGENT_ADDR", "unix:///run/agent.sock", "VAULT_HTTP_PROXY", "http://other", "VAULT_CLIENT_TIMEOUT", "1m")
	if got, err = FromEnvironment(lookup); err != nil || got.Address != "unix:///run/agent.sock" || got.Proxy != "http://other" || got.Timeout != time.Minute || !got.Login.Token.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, row := range [][2]string{
		{"VAULT_SKIP_VERIFY", canary}, {"VAULT_SRV_LOOKUP", canary}, {"VAULT_CLIENT_TIMEOUT", canary}, {"VAULT_CLIENT_TIMEOUT", "-"}, {"VAULT_HEADERS", canary}, {"VAULT_HEADERS", `{"a":1}`},
	} {
		set(row[0], row[1])
		if _, err := FromEnvironment(lookup); err == nil || !strings.Contains(err.Error(), row[0]) {
			t.Errorf("%s=%s: %v", row[0], row[1], err)
		} else {
			wantNoTrace(t, err.Error())
		}
	}
	set()
	if _, err := FromEnvironment(lookup); err != nil {
		t.Errorf("an empty environment: %v", err)
	}
}

// TestEnvironmentIsNotRead fills the process's own environment with what the library would follow by itself.
func TestEnvironmentIsNotRead(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_ADDR": "https://elsewhere.example", "VAULT_TOKEN": canary + "environment\x01", "VAULT_NAMESPACE": "elsewhere", "VAULT_HEADERS": `{"X-Other":"1"}`,
		"VAULT_WRAP_TTL": "1h", "VAULT_AGENT_ADDR": "https://agent.example", "VAULT_MAX_RETRIES": "5",
	} {
		t.Setenv(name, value)
	}
	f := newFake()
	f.addKey(t, "log", Ed25519)
	f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		if r.Host != "vault.example:8200" || strings.Contains(r.Header.Get("X-Vault-Token"), "environment") || r.Header.Get("X-Other") != "" || r.Header.Get("X-Vault-Wrap-TTL") != "" {
			t.Errorf("it asks %s with %v", r.Host, r.Header)
		}
		if ns := r.Header.Get("X-Vault-Namespace"); ns != "team/a" || r.Header.Get("X-Vault-Request") != "true" || r.Header.Get("X-Team") != "b" {
			t.Errorf("it asks with %v", r.Header)
		}
		return false
	}
	c := f.client(t, func(cfg *Config) { cfg.Namespace, cfg.Header = "team/a", http.Header{"X-Team": {"b"}} })
	if _, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, ""); err != nil {
		t.Error(err)
	}
}

// TestNothingShows prints a client that is logged in, every way there is.
func TestNothingShows(t *testing.T) {
	f := newFake()
	f.addKey(t, "log", Ed25519)
	c := f.client(t, nil)
	s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
	if err != nil {
		t.Fatal(err)
	}
	kek, err := c.KEK(ref(t, "vault:transit/kek"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Latest(ref(t, "vault:secret/a"))
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		C   *Client
		c   *Client
		s   session
		k   *KEK
		any any
	}
	now, _ := c.current()
	var out strings.Builder
	for _, v := range []any{c, s, kek, *kek, l, now, holder{c, c, now, kek, c}, &holder{c, c, now, kek, l}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%z"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	wantNoTrace(t, out.String())
	if got := c.String(); got != "https://vault.example:8200 by approle" {
		t.Errorf("a client prints %s", got)
	}
}
