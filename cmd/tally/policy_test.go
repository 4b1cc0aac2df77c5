package main

import (
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/cel"
	"github.com/tallystick/tallystick/tlog/record"
)

func writePolicy(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyCheck(t *testing.T) {
	p := newPlace(t)
	const text = "otherwise: refuse\nrules:\n  - {name: a, when: request.stream, then: allow, routes: [elsewhere]}\nquotas:\n  - {name: b, concurrent: 2}\n"
	good := writePolicy(t, text)
	parsed, err := cel.Parse("", []byte(text), cel.Names{})
	if err != nil {
		t.Fatal(err)
	}
	version := parsed.Version()
	stdout, stderr, code := p.tally("policy", "check", good)
	if want := good + " is a policy of 1 rule and 1 quota, version " + hex.EncodeToString(version[:]) + "\n"; code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}

	bad := writePolicy(t, "otherwise: refuse\nrules:\n  - name: a\n    when: request.modle == 'x'\n    then: allow\n  - name: b\n    when: caller.email == 'x'\n    than: ask\n")
	stdout, stderr, code = p.tally("policy", "check", bad)
	for _, want := range []string{
		bad + ":4:18: rule a: there is no field modle; write request.model\n", bad + ":7:11: rule b: caller.email can be absent; write `has(caller.email) && …`", bad + ":8:5: a rule has no \"than\"; write then\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 4 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}

	for _, args := range [][]string{{"policy"}, {"policy", "chekc", good}, {"policy", "check"}, {"policy", "try", good}, {"policy", "try", good, "nothing"}} {
		if stdout, stderr, code := p.tally(args...); code != 64 || stdout != "" || !strings.Contains(stderr, "policy") {
			t.Errorf("%q: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
	if _, stderr, code := p.tally("policy", "check", filepath.Join(t.TempDir(), "none")); code != 1 || !strings.Contains(stderr, "none") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// A policy is tried on calls that passed, of a running log and of a closed one; that they were read is on record.
func TestPolicyTry(t *testing.T) {
	p := newPlace(t)
	p.start("--no-samples")
	var sessions []string
	for _, stream := range []bool{true, false} {
		session, _, err := p.chat(http.DefaultClient, "hello", stream)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, session)
	}
	policy := writePolicy(t, `
otherwise: allow
rules:
  - name: no-streams
    when: request.stream
    then: refuse
    message: answers are read whole here
  - name: failing
    when: request.size / (request.size - request.size) > 0
    then: refuse
quotas:
  - name: tokens
    tokens: 1000
    window: 1h
`)
	check := func(how string, args ...string) {
		t.Helper()
		stdout, stderr, code := p.tally(append([]string{"policy", "try", policy, sessions[0], sessions[1]}, args...)...)
		if code != 0 {
			t.Fatalf("%s: exit %d: %s%s", how, code, stdout, stderr)
		}
		for _, want := range []string{
			sessions[0] + "  refuse by the rule no-streams", "\n    told: answers are read whole here\n",
			sessions[1] + "  ask by the rule failing", "\n    asked: 1 of all who approve\n", "\n    counts against the quota tokens, with up to 2 tokens\n",
			"\n    failed: rule failing: ", "model \"fake-1\"", "\n2 calls: 1 refused, 1 asked about, 0 allowed; ",
		} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%s: it does not say %q:\n%s", how, want, stdout)
			}
		}
	}
	check("running", "--data", p.data)
	check("by URL", "--log", p.vars["LOG_URL"], "--reason", "a test")
	accesses := 0
	for end := time.Now().Add(30 * time.Second); accesses < 4 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // until they are published
		accesses = 0
		p.entries(func(e record.Entry) {
			if e.Kind == record.Access {
				accesses++
			}
		})
	}
	if accesses < 4 { // a call that has just ended may be asked for again
		t.Errorf("%d access entries of two readings of two calls", accesses)
	}
	p.stop()
	check("closed", "--data", p.data)
	wrong := writePolicy(t, "otherwise: allow\nrules:\n  - {name: a, when: true, then: refuse, routes: [nowhere]}\n")
	if _, stderr, code := p.tally("policy", "try", wrong, sessions[0], "--data", p.data); code != 1 || !strings.Contains(stderr, "there is no route nowhere") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, stderr, code := p.tally("policy", "try", policy, "00000000-0000-7000-8000-000000000000", "--data", p.data); code != 1 || !strings.Contains(stderr, "policy try") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
