package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// TestRotate gives a log that runs, with callers, another key, first beside the old one and then alone. What was handed out
// before verifies for ever; who has either key follows through the overlap; who missed it is told by name.
func TestRotate(t *testing.T) {
	a := newApartment(t, false) // for its model and its files
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := a.tally(args...)
		if code != 0 {
			t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
		}
		return stdout + stderr
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	model := a.background("the model", gatewaytest.New(gatewaytest.Config{Key: "sk-model"}).Run)
	caller := run("keys", "new", "bob")
	a.vars["API_KEY"] = regexp.MustCompile(`tk-\S+`).FindString(caller)
	vkey := strings.Fields(read("policy"))[1]
	write("one.policy", "log "+vkey+"\nquorum none\n")
	calls, reads := freePort(t), freePort(t)
	write("one.yaml", fmt.Sprintf(`# One process.
log: local:one/log
origin: log.example/apart
key: log.key # the first
anchor: dir:%s/one
policy: one.policy
data_keys: {dir: one/ring, kek: kek.key}
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
`, a.state, reads, calls, regexp.MustCompile(`[0-9a-f]{64}`).FindString(caller), model))
	if err := os.MkdirAll(filepath.Join(a.dir, "one"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.vars["GATEWAY_URL"], a.vars["LOG_URL"] = "http://"+calls, "http://"+reads
	one := &running{a: a, config: "one.yaml"}
	a.log, a.gw = one, one
	one.start()
	a.answers()

	stop, ended := make(chan struct{}), make(chan struct{})
	l := &ledger{whole: make(map[string]bool), begun: make(map[string]bool), kill: func() {}}
	go func() { defer close(ended); l.call(a.place, 0, stop) }()
	bundle := func(name string) string {
		t.Helper()
		session, _, err := a.chat(http.DefaultClient, name, false)
		if err != nil {
			t.Fatal(err)
		}
		run("export", session, "--config", "one.yaml", "-o", name)
		return filepath.Join(a.dir, name)
	}
	verify := func(file, policy string, want int) {
		t.Helper()
		if out, errs, code := a.verify("bundle", file, "--policy", filepath.Join(a.dir, policy)); code != want {
			t.Errorf("%s by %s: exit %d, not %d\n%s%s", file, policy, code, want, out, errs)
		} else if want == 1 && !strings.Contains(out, "FALSE  checkpoint-signed") {
			t.Errorf("%s by %s: another claim than the checkpoint's\n%s", file, policy, out)
		}
	}
	turn := func(args ...string) {
		t.Helper()
		run(append([]string{"keys", "rotate", "--config", "one.yaml"}, args...)...)
		before := strings.Count(one.out.String(), "goes on with other keys")
		one.cmd.Process.Signal(syscall.SIGHUP)
		await(t, "the log to take the keys up", func() bool { return strings.Count(one.out.String(), "goes on with other keys") > before })
	}

	before := bundle("before.bundle")
	write("old.policy", read("one.policy"))
	turn("--to", "next.key")
	both := bundle("both.bundle")
	if s := read("one.yaml"); !strings.Contains(s, "# One process.") || !strings.Contains(s, "also_keys:") {
		t.Errorf("the file:\n%s", s)
	}
	write("new.policy", strings.Replace(read("one.policy"), "log "+vkey+"\n", "", 1))
	for _, c := range []struct {
		policy string
		want   int
	}{{"old.policy", 0}, {"new.policy", 0}, {"one.policy", 0}} {
		verify(both, c.policy, c.want)
	}
	verify(before, "new.policy", 1)
	if _, errs, code := a.tally("keys", "rotate", "--config", "one.yaml", "--to", "third.key"); code == 0 || !strings.Contains(errs, "under way") {
		t.Errorf("a second rotation within the first: exit %d: %s", code, errs)
	}

	turn("--finish")
	after := bundle("after.bundle")
	verify(after, "old.policy", 1)
	for _, file := range []string{before, both, after} {
		verify(file, "one.policy", 0)
	}
	if _, errs, code := a.tally("keys", "rotate", "--config", "one.yaml", "--finish"); code == 0 || !strings.Contains(errs, "no rotation is under way") {
		t.Errorf("finished twice: exit %d: %s", code, errs)
	}
	close(stop)
	<-ended
	out, errs, code := a.verify("log", "--url", a.vars["LOG_URL"], "--policy", filepath.Join(a.dir, "one.policy"))
	if code != 0 {
		t.Errorf("tally-verify log: exit %d\n%s%s", code, out, errs)
	}
	if n := a.kinds()[record.Policy]; n != 2 {
		t.Errorf("%d entries say that the keys changed", n)
	}
	one.stop()
	// A start finds what former keys signed, and believes it.
	one.start()
	a.answers()
	if outcomes := a.settled(); len(outcomes) < len(l.whole) {
		t.Errorf("%d sessions on record, and %d were answered", len(outcomes), len(l.whole))
	}
	one.stop()
	if out, errs, code := a.tally("fsck", "--config", "one.yaml"); code != 0 {
		t.Errorf("fsck: exit %d: %s%s", code, out, errs)
	}
}
