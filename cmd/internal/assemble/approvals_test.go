package assemble

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys"
)

// The key of approvals is made once, for its owner alone.
func TestApprovalsKey(t *testing.T) {
	c := &config.Config{Log: "local:" + filepath.Join(t.TempDir(), "data", "log"), Gateway: config.Gateway{Approvals: &config.Approvals{}}}
	refs := NewKeyring(c, Env{})
	first, _, err := approvals(c, Env{}, refs)
	if err != nil || len(first.Key) != 32 {
		t.Fatalf("%v %x", err, first.Key)
	}
	if st, err := os.Stat(c.ApprovalsKey()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if second, _, err := approvals(c, Env{}, refs); err != nil || !bytes.Equal(second.Key, first.Key) {
		t.Errorf("%v %x", err, second.Key)
	}
	if err := CreateApprovalsKey(c.ApprovalsKey()); err == nil {
		t.Error("another key took its place")
	}
	if err := os.WriteFile(c.ApprovalsKey(), []byte("0123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := approvals(c, Env{}, refs); err == nil || !strings.Contains(err.Error(), "64 hex digits") {
		t.Error(err)
	}
	// A key that is named is not made.
	c.Gateway.Approvals.Key.File = filepath.Join(t.TempDir(), "none")
	if _, _, err := approvals(c, Env{}, refs); err == nil {
		t.Error("a key was made")
	}
}

// Webhooks are made of what the file refers to, and what is wrong with one is said with its place and without its secrets.
func TestWebhooks(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out.secret")
	if err := CreateWebhookSecret(out); err != nil {
		t.Fatal(err)
	}
	file := func(s string) config.Credential {
		return config.Credential{Credential: keys.Credential{File: s}}
	}
	env := func(s string) config.Credential {
		return config.Credential{Credential: keys.Credential{Env: s}}
	}
	e := Env{LookupEnv: func(name string) (string, bool) {
		v, ok := map[string]string{"SLACK_URL": "https://hooks.slack.example/services/T0/B0/verysecret", "SIGNING": "8f742231b10e8888abcd99yyyzzz85a5", "PLAIN": "http://hooks.example/verysecret", "BAD": "verysecret"}[name]
		return v, ok
	}}
	carol := map[string]config.Person{"U1": {Name: "carol", Groups: []string{"approvers"}}}
	for _, c := range []struct {
		name, want string
		change     func(*config.Approvals)
	}{
		{"all is well", "", func(*config.Approvals) {}},
		{"no such variable", "number 2: url_from", func(a *config.Approvals) { a.Notify[1].URLFrom = env("NONE") }},
		{"plain HTTP", "address 2: hooks.example", func(a *config.Approvals) { a.Notify[1].URLFrom = env("PLAIN") }},
		{"a secret of another form", "address 1", func(a *config.Approvals) { a.Notify[0].Secret = env("BAD") }},
		{"no such secret", "number 1: secret", func(a *config.Approvals) { a.Notify[0].Secret = file(filepath.Join(dir, "none")) }},
		{"no such roots", "number 1: roots", func(a *config.Approvals) { a.Notify[0].Roots = filepath.Join(dir, "none") }},
		{"a hook's secret of another form", "hooks.slack: ", func(a *config.Approvals) {
			a.Hooks["slack"] = config.Hook{Kind: "slack", Secret: env("BAD"), People: carol}
		}},
		{"no such secret of a hook", "hooks.slack.secret", func(a *config.Approvals) {
			a.Hooks["slack"] = config.Hook{Kind: "slack", Secret: env("NONE"), People: carol}
		}},
	} {
		a := &config.Approvals{
			Notify: []config.Notify{{URL: "https://hooks.example/tally", Kind: "json", Secret: file(out)}, {URLFrom: env("SLACK_URL"), Kind: "slack"}},
			Hooks:  map[string]config.Hook{"slack": {Kind: "slack", Secret: env("SIGNING"), People: carol}, "ours": {Kind: "json", Secret: file(out), People: carol}},
		}
		c.change(a)
		conf := &config.Config{Log: "local:" + filepath.Join(dir, "data", "log"), Gateway: config.Gateway{Approvals: a}}
		got, sender, err := approvals(conf, e, NewKeyring(conf, e))
		switch {
		case c.want == "" && (err != nil || sender == nil || got.Notify == nil || len(got.Hooks) != 2):
			t.Errorf("%s: %v %+v", c.name, err, got)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "verysecret")):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
