package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// TestRewrap gives a gateway another key for its data keys, has it seal them anew while it runs, and destroys the old key. What
// was recorded before is read as ever; a backup of the ring from before opens for nobody.
func TestRewrap(t *testing.T) {
	p := newApartment(t, false) // for its model and its files
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := p.tally(args...)
		if code != 0 {
			t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	at := func(name string) string { return filepath.Join(p.dir, name) }
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(at("one.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(old, new string) {
		t.Helper()
		b, err := os.ReadFile(at("one.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), old) {
			t.Fatalf("the file has no %q:\n%s", old, b)
		}
		write(strings.Replace(string(b), old, new, 1))
	}
	chat := func(prompt string) string {
		t.Helper()
		session, _, err := p.chat(http.DefaultClient, prompt, false)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	model := p.background("the model", gatewaytest.New(gatewaytest.Config{Key: "sk-model"}).Run)
	caller := must("keys", "new", "bob")
	p.vars["API_KEY"] = regexp.MustCompile(`tk-\S+`).FindString(caller)
	calls, reads := freePort(t), freePort(t)
	write(fmt.Sprintf(`log: local:one/log
origin: log.example/apart
key: log.key
anchor: dir:%s/one
data_keys:
  dir: one/ring
  kek: kek.key
listen: %s
gateway:
  id: gw-1
  listen: %s
  journal: one/journal
  callers:
    - {name: bob, sha256: %s}
  routes:
    - name: openai
      api: openai
      upstream: http://%s
      credential: {file: model.key}
`, p.state, reads, calls, regexp.MustCompile(`[0-9a-f]{64}`).FindString(caller), model))
	if err := os.MkdirAll(at("one"), 0o700); err != nil {
		t.Fatal(err)
	}
	both, err := os.ReadFile(p.vars["POLICY"])
	if err != nil {
		t.Fatal(err)
	}
	policy := at("one.policy") // the same log, and no witness
	if err := os.WriteFile(policy, []byte("log "+strings.Fields(string(both))[1]+"\nquorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.vars["GATEWAY_URL"], p.vars["LOG_URL"] = "http://"+calls, "http://"+reads
	one := &running{a: p, config: "one.yaml"}
	p.log, p.gw = one, one
	start := func() {
		t.Helper()
		one.start()
		p.answers()
	}

	start()
	session := chat("before")
	one.stop()
	copyTree(t, at("one/ring"), at("one/backup"))

	must("keys", "new-kek", at("next.key"))
	edit("  kek: kek.key\n", "  kek: next.key\n  former: [kek.key]\n")
	start()
	if _, errs, code := p.tally("keys", "rewrap", "--config", "one.yaml", "--reason", " "); code != 1 || !strings.Contains(errs, "400") {
		t.Errorf("for no reason: exit %d: %s", code, errs)
	}
	said := must("keys", "rewrap", "--config", "one.yaml", "--reason", "a test")
	if !strings.HasPrefix(said, "epoch 2: ") || !strings.HasSuffix(said, "\nneeded: file:next.key\n") || strings.Count(said, "\n") != 2 {
		t.Errorf("it said:\n%s", said)
	}
	after := chat("after")
	one.stop()

	if err := os.Remove(at("kek.key")); err != nil {
		t.Fatal(err)
	}
	edit("  former: [kek.key]\n", "")
	if said := must("keys", "rewrap", "--config", "one.yaml"); !strings.HasPrefix(said, "epoch 3: ") { // in a closed one
		t.Errorf("it said:\n%s", said)
	}
	start()
	for _, id := range []string{session, after} {
		file := at(id)
		must("export", id, "--config", "one.yaml", "-o", file)
		if stdout, stderr, code := p.verify("bundle", file, "--policy", policy); code != 0 {
			t.Errorf("exit %d: %s%s", code, stdout, stderr)
		}
	}
	if n := p.kinds()[record.Policy]; n != 2 {
		t.Errorf("it is on record %d times, want 2", n)
	}
	one.stop()

	edit("  dir: one/ring\n", "  dir: one/backup\n")
	if _, errs, code := p.tally("export", session, "--config", "one.yaml"); code != 1 || !strings.Contains(errs, "wrong tenant key") {
		t.Errorf("with the ring of before: exit %d: %s", code, errs)
	}
}
