package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = `log: local:data/log
origin: log.example/2026
key: keys/log.key
anchor: dir:/elsewhere/anchor
data_keys: {dir: data/ring, kek: keys/kek.key}
listen: 127.0.0.1:8081
gateway:
  id: gw-1
  listen: 127.0.0.1:8080
  journal: data/journal
  limits: {silence: 90s, body: 1048576}
  callers:
    - {name: alice, sha256: "00"}
  routes:
    - name: openai
      api: openai
      upstream: https://api.openai.com
      credential: {file: model.key}
`

func TestParse(t *testing.T) {
	c, err := Parse([]byte(good), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ got, want string }{
		{c.LogDir(), "/etc/tally/data/log"}, {c.AnchorDir(), "/elsewhere/anchor"}, {c.Head, "/elsewhere/anchor/HEAD"},
		{must(t, c, c.Key), "file:/etc/tally/keys/log.key"}, {must(t, c, c.DataKeys.KEK), "file:/etc/tally/keys/kek.key"}, {c.Operators, "/etc/tally/data/operator.token"},
		{c.Gateway.Routes[0].Credential.File, "/etc/tally/model.key"}, {c.Gateway.Journal, "/etc/tally/data/journal"},
	} {
		if p.got != p.want {
			t.Errorf("%q, want %q", p.got, p.want)
		}
	}
	if time.Duration(c.Gateway.Limits.Silence) != 90*time.Second || c.Gateway.Limits.Body != 1<<20 {
		t.Errorf("limits %+v", c.Gateway.Limits)
	}
}

// A file that is named by a relative path is no other one.
func TestRelative(t *testing.T) {
	text := strings.Replace(good, "dir:/elsewhere/anchor", "dir:anchor", 1)
	c, err := Parse([]byte(text), "conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ got, want string }{
		{c.LogDir(), "conf/data/log"}, {c.AnchorDir(), "conf/anchor"}, {c.Head, "conf/anchor/HEAD"}, {c.Operators, "conf/data/operator.token"},
		{c.DataKeys.Dir, "conf/data/ring"}, {c.Gateway.Journal, "conf/data/journal"}, {c.ApprovalsKey(), "conf/data/approvals.key"},
	} {
		if p.got != p.want {
			t.Errorf("%q, want %q", p.got, p.want)
		}
	}
}

func must(t *testing.T, c *Config, key string) string {
	t.Helper()
	ref, err := c.Reference(key)
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

// Every wrong file is refused with the word that leads to the fault.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "listen: 127.0.0.1:8081", "listens: 127.0.0.1:8081", "listens"},
		{"an unknown key deep down", "silence: 90s", "silense: 90s", "silense"},
		{"no log", "log: local:data/log", "", "log is missing"},
		{"another kind of log", "local:data/log", "cluster:x", "local:DIR"},
		{"another kind of anchor", "dir:/elsewhere/anchor", "s3:x", "dir:DIR"},
		{"an anchor in no engine", "dir:/elsewhere/anchor", "vault:x", "anchor"},
		{"a key that nobody pinned", "keys/log.key", "vault:transit/log?version=1", "public_key"},
		{"a key-encryption key in a cloud", "keys/kek.key", "awskms:alias/kek", "data_keys.kek"},
		{"a former one in a cloud", "kek: keys/kek.key", "kek: keys/kek.key, former: [\"old.key\", \"awskms:alias/kek\"]", "data_keys.former"},
		{"an origin with a space", "log.example/2026", "log example", "origin"},
		{"a duration without unit", "90s", "90", "length of time"},
		{"a negative duration", "90s", "-1s", "length of time"},
		{"an id with capitals", "gw-1", "GW", "gateway.id"},
		{"another api", "api: openai", "api: grpc", "openai, anthropic, http"},
		{"an upstream that is no URL", "https://api.openai.com", `"http://[::1"`, "openai"},
		{"no routes", "  routes:", "  hosts:", ""},
		{"a list where a word belongs", "origin: log.example/2026", "origin: [a]", "origin"},
		{"half a certificate", "  journal:", "  tls: {cert: x}\n  journal:", "both cert and key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(good, c.old, c.new, 1)), ".")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not speak of %q", err, c.want)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(empty); err == nil || !strings.Contains(err.Error(), "empty.yaml") {
		t.Errorf("an empty file: %v", err)
	}
}

// No file makes the reader panic or take longer than its length allows.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("log: &a [*a]"))
	f.Add([]byte("a: {b: [c, {d: e}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b, "/x")
		if err == nil && (c.Origin == "" || len(c.Gateway.Routes) == 0) {
			t.Errorf("accepted without what it needs: %q", b)
		}
	})
}
