package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Two gateways write to one log in a third process, and have the same key of approvals: what is asked at one and approved there
// passes at the other, once.
func TestSharedApprovals(t *testing.T) {
	t.Parallel()
	a := newApartment(t, false)
	stdout, stderr, code := a.tally("keys", "new", "carol")
	if code != 0 {
		t.Fatal(stderr)
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
	write("carol.key", regexp.MustCompile(`tk-\S+`).FindString(stdout)+"\n")
	write("rules.yaml", "otherwise: allow\nrules:\n  - {name: always, when: 'request.messages.exists(m, m.size > 20)', then: ask}\n")
	one := strings.Replace(read("gw.yaml"), "  callers:\n", fmt.Sprintf("  policy: rules.yaml\n  approvals: {groups: [approvers], hold: none}\n  callers:\n    - {name: carol, sha256: %s, groups: [approvers]}\n", regexp.MustCompile(`[0-9a-f]{64}`).FindString(stdout)), 1)
	write("gw.yaml", one)
	// Without the key it does not begin.
	if _, stderr, code := a.tally("serve", "--config", "gw.yaml"); code != 1 || !strings.Contains(stderr, "gateway.approvals.key is missing") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if _, stderr, code := a.tally("keys", "new-approvals", "approvals.key"); code != 0 {
		t.Fatal(stderr)
	}
	one = strings.Replace(one, "hold: none", "hold: none, key: {file: approvals.key}", 1)
	// Each takes the port that is free when it begins. The log is first, for the others have to be told where it is.
	anyPort := func(name, text string) {
		t.Helper()
		write(name, regexp.MustCompile(`(?m)^( *listen:) .*`).ReplaceAllString(text, "$1 127.0.0.1:0"))
	}
	where := func(r *running, what string) (at string) {
		t.Helper()
		await(t, "it serves", func() bool {
			if m := regexp.MustCompile(` ` + what + `=(\S+)`).FindStringSubmatch(r.out.String()); m != nil {
				at = m[1]
			}
			return at != "" || r.ended()
		})
		if at == "" {
			t.Fatal(r.out)
		}
		return at
	}
	anyPort("log.yaml", strings.Replace(read("log.yaml"), "writers: [gw-1, gw-1.desk]", "writers: [gw-1, gw-1.desk, gw-2, gw-2.desk]", 1))
	a.log.start()
	one = regexp.MustCompile(`(?m)^log: .*`).ReplaceAllString(one, "log: http://"+where(a.log, "appends"))
	anyPort("gw.yaml", one)
	anyPort("gw2.yaml", strings.NewReplacer("id: gw-1", "id: gw-2", "gwdata", "gw2data").Replace(one))
	if err := os.MkdirAll(filepath.Join(a.dir, "gw2data"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := &running{a: a, config: "gw2.yaml"}
	a.gw.start()
	second.start()
	first, elsewhere := where(a.gw, "gateway"), where(second, "gateway")
	// at makes a call, and says what became of it: a status, or a word.
	at := func(url, prompt string) (session, word string) {
		t.Helper()
		a.vars["GATEWAY_URL"] = url
		session, _, err := a.chat(http.DefaultClient, prompt, false)
		if err == nil {
			return session, "200"
		}
		return session, err.Error()
	}
	for _, url := range []string{first, elsewhere} {
		a.vars["GATEWAY_URL"] = url
		a.answers()
	}
	sent := func() (n int) {
		for _, r := range a.model.Requests() {
			if strings.Contains(string(r.Body), "about which is asked") {
				n++
			}
		}
		return n
	}
	// A gateway that has not heard yet what another asked asks itself. That is right, and not what this is about.
	prompt, id := "", ""
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		prompt = fmt.Sprintf("a long prompt, about which is asked, after %v", pause)
		var word string
		if id, word = at(first, prompt); !strings.Contains(word, "approval_pending") {
			t.Fatalf("%s, %s", id, word)
		}
		time.Sleep(pause)
		if _, word = at(elsewhere, prompt); strings.Contains(word, "approval_pending") && strings.Contains(word, id) {
			break
		}
		if pause > 20*time.Second {
			t.Fatalf("the other gateway does not hear of it: %s\n%s", word, second.out)
		}
	}
	if out, errs, code := a.tally("approve", id, "--yes", "--gateway", elsewhere, "--key-file", "carol.key"); code != 1 || !strings.Contains(errs, "unknown_approval") {
		t.Errorf("approved where it was not asked: exit %d: %s%s", code, out, errs)
	}
	if out, errs, code := a.tally("approve", id, "--yes", "--gateway", first, "--key-file", "carol.key"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	await(t, "it passes at the other", func() bool { _, word := at(elsewhere, prompt); return word == "200" })
	if n := sent(); n != 1 {
		t.Errorf("the model got %d calls", n)
	}
	for _, url := range []string{first, elsewhere} {
		if _, word := at(url, prompt); word == "200" {
			t.Errorf("the yes was used twice, at %s", url)
		}
	}
	if n := sent(); n != 1 {
		t.Errorf("the model got %d calls", n)
	}
}
