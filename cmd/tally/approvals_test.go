package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// An office is a gateway that asks people, its fake model, and whoever is told.
type office struct {
	*place
	model    *gatewaytest.Model
	keys     map[string]string // of callers, by name
	said     *lockedBuffer
	messages chan string // to the other system
}

const signingSecret = "8f742231b10e8888abcd99yyyzzz85a5"

// newOffice serves with a policy that asks one person about calls with a tool, two about those with tools of payment.
func newOffice(t *testing.T) *office {
	t.Helper()
	o := furnish(t)
	o.serve()
	return o
}

// furnish makes an office that does not serve yet.
func furnish(t *testing.T) *office {
	t.Helper()
	o := &office{place: newPlace(t), keys: make(map[string]string), messages: make(chan string, 64)}
	if err := os.Mkdir(filepath.Join(filepath.Dir(o.data), "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := o.tally(args...)
		if code != 0 {
			t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	run("keys", "new-log", "log.example/asking", "keys/log.key")
	run("keys", "new-kek", "keys/kek.key")
	run("keys", "new-approvals", "keys/approvals.key")
	run("keys", "new-webhook", "keys/webhook.secret")
	callers := ""
	for _, c := range []struct{ name, groups string }{{"alice", "approvers"}, {"bob", "approvers"}, {"carol", "approvers"}, {"erin", "oncall"}} {
		out := run("keys", "new", c.name)
		o.keys[c.name] = regexp.MustCompile(`tk-\S+`).FindString(out)
		callers += fmt.Sprintf("    - {name: %s, sha256: %s, groups: [%s]}\n", c.name, regexp.MustCompile(`[0-9a-f]{64}`).FindString(out), c.groups)
		o.write(c.name+".key", o.keys[c.name]+"\n")
	}
	told := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		o.messages <- string(b)
	}))
	t.Cleanup(told.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.model = gatewaytest.New(gatewaytest.Config{Key: "sk-model"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.model.Run(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-ended })
	o.write("model.key", "sk-model\n")
	o.write("signing.secret", signingSecret+"\n")
	o.write("rules.yaml", `otherwise: allow
rules:
  - name: payment
    when: request.tools.exists(t, t.startsWith('pay'))
    then: ask
    message: two people say yes to payments
    approval: {count: 2}
  - name: tools
    when: request.tools.size() > 0
    then: ask
`)
	o.write("tally.yaml", fmt.Sprintf(`log: local:data/log
origin: log.example/asking
key: keys/log.key
anchor: dir:anchor
data_keys: {dir: data/ring, kek: keys/kek.key}
listen: 127.0.0.1:0
gateway:
  id: gw-1
  listen: 127.0.0.1:0
  journal: data/journal
  policy: rules.yaml
  approvals:
    groups: [approvers]
    glass: [oncall]
    hold: 1m
    url: https://gw.example
    key: {file: keys/approvals.key}
    notify:
      - {url: %q, kind: json, secret: {file: keys/webhook.secret}}
    hooks:
      slack:
        kind: slack
        secret: {file: signing.secret}
        people:
          U0BOB: {name: bob, groups: [approvers]}
  callers:
%s  routes:
    - {name: openai, api: openai, upstream: "http://%s", credential: {file: model.key}}
`, told.URL, callers, ln.Addr()))
	return o
}

// serve serves until the test ends, or somebody ends it before.
func (o *office) serve() {
	o.t.Helper()
	o.said = &lockedBuffer{}
	o.cmd = o.command("serve", "--config", "tally.yaml")
	o.cmd.Stderr = o.said
	if err := o.cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(o.kill)
	var where []string
	await(o.t, "it serves", func() bool {
		where = regexp.MustCompile(`gateway=(\S+) log=(\S+)`).FindStringSubmatch(o.said.String())
		return where != nil
	})
	o.vars = map[string]string{"GATEWAY_URL": where[1], "LOG_URL": where[2]}
}

func (o *office) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(o.data), name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// as runs a command as one of the callers.
func (o *office) as(name string, args ...string) (stdout, stderr string, code int) {
	o.t.Helper()
	return o.tally(append(args, "--gateway", o.vars["GATEWAY_URL"], "--key-file", name+".key")...)
}

// A got is what a caller got.
type got struct {
	code int
	body string
}

// calling calls the model with a tool and a prompt as one of the callers, and gives the answer when it is there.
func (o *office) calling(name, tool, prompt string) <-chan got {
	done := make(chan got, 1)
	content, err := json.Marshal(prompt)
	if err != nil {
		o.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"model":"fake-1","messages":[{"role":"user","content":%s}]`, content)
	if tool != "" {
		body += fmt.Sprintf(`,"tools":[{"type":"function","function":{"name":%q}}]`, tool)
	}
	body += "}"
	go func() {
		req, err := o.request(context.Background(), "/v1/chat/completions", body)
		if err != nil {
			o.t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+o.keys[name])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			o.t.Error(err)
			done <- got{}
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		done <- got{resp.StatusCode, string(b)}
	}()
	return done
}

// told awaits a message and returns the approval that it is about.
func (o *office) told(event string) (id string) {
	o.t.Helper()
	select {
	case s := <-o.messages:
		var m struct {
			Type string
			Data struct{ Approval string }
		}
		if err := json.Unmarshal([]byte(s), &m); err != nil || m.Type != "approval."+event || strings.Contains(s, "terminal") {
			o.t.Fatalf("%v: %s", err, s)
		}
		return m.Data.Approval
	case <-time.After(20 * time.Second):
		o.t.Fatalf("nobody is told of %s\n%s", event, o.said)
	}
	return ""
}

// People are asked, see the whole of what they are asked about, and decide on the command line.
func TestApprovals(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	expect := func(who string, want int, word string, args ...string) string {
		t.Helper()
		stdout, stderr, code := o.as(who, args...)
		if code != want || !strings.Contains(stdout+stderr, word) {
			t.Errorf("%s: tally %q: exit %d, want %d and %q:\n%s%s", who, args, code, want, word, stdout, stderr)
		}
		for _, s := range []string{stdout, stderr} {
			if strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (r < ' ' || 0x7f <= r && r < 0xa0 || r == '\u202e') }) {
				t.Errorf("tally %q: what it prints does something to a terminal: %q", args, s)
			}
		}
		return stdout
	}
	expect("carol", 0, "nothing waits for you", "approvals")
	if g := <-o.calling("alice", "", "plain"); g.code != 200 {
		t.Fatalf("%+v", g)
	}

	// One yes, of another person, after a look at all of it.
	done := o.calling("alice", "shell", "a terminal\x1b[2J\u202e\u0085 "+strings.Repeat("long ", 3000)+"end")
	id := o.told("asked")
	out := expect("carol", 0, id, "approvals")
	if !regexp.MustCompile(`(?m)^` + id + ` +waiting +0 of 1 +1\d\S+ +alice +fake-1 +tools$`).MatchString(out) {
		t.Errorf("the list has it otherwise:\n%s", out)
	}
	expect("alice", 0, "alice (you)", "approvals")
	expect("erin", 0, id, "approvals") // who may break the glass is told, too
	out = expect("carol", 0, id, "approvals", "--json")
	if !json.Valid([]byte(out)) || strings.Count(out, "\n") != 1 {
		t.Errorf("%q", out)
	}
	expect("carol", 64, "say --yes", "approve", id)
	expect("alice", 1, "your own", "approve", id, "--yes")
	expect("alice", 1, "self_approval", "deny", id, "--reason", "mine")
	expect("carol", 1, "unknown_approval", "approve", record.NewID(time.Now()).String(), "--yes")
	expect("carol", 64, "id of an approval", "approve", "https://gw.example/.tallystick/approvals/"+id, "--yes")
	expect("carol", 64, "--reason", "deny", id)
	expect("carol", 64, "--reason", "approve", id, "--break-glass", "--yes")
	expect("carol", 1, "unknown_approval", "approve", id, "--break-glass", "--yes", "--reason", "the house is on fire")
	if o.model.Count() != 1 {
		t.Fatal("something went to the model")
	}
	out = expect("carol", 0, "approved: the call passes, once", "approve", id, "--yes", "--reason", "looks well")
	for _, want := range []string{`"content": "a terminal\u001b[2J\u202e\u0085 long`, strings.Repeat("long ", 3000) + "end", "caller     alice", "rule       tools", "route      openai", `"name": "shell"`, "Content-Type: application/json", "verdict    ask"} {
		if !strings.Contains(out, want) {
			t.Errorf("the approver is not shown %q:\n%s", want, out)
		}
	}
	if g := <-done; g.code != 200 {
		t.Errorf("%+v", g)
	}
	if o.told("granted") != id {
		t.Error("another approval is told of")
	}
	expect("carol", 1, "", "approve", id, "--yes")

	// Two of them, and the second by a button in Slack; before it a look.
	done = o.calling("alice", "pay_invoice", "pay")
	id = o.told("asked")
	expect("carol", 0, "your yes is on record: 1 of 2", "approve", id, "--yes")
	o.told("agreed")
	expect("carol", 1, "decided_before", "approve", id, "--yes")
	press := func() (int, string) {
		payload := fmt.Sprintf(`{"type":"block_actions","user":{"id":"U0BOB"},"actions":[{"type":"button","action_id":"approve","value":%q}]}`, id)
		body, stamp := "payload="+url.QueryEscape(payload), fmt.Sprint(time.Now().Unix())
		h := hmac.New(sha256.New, []byte(signingSecret))
		fmt.Fprintf(h, "v0:%s:%s", stamp, body)
		req, err := http.NewRequest("POST", o.vars["GATEWAY_URL"]+"/.tallystick/hooks/slack", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("X-Slack-Request-Timestamp", stamp)
		req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(h.Sum(nil)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, body := press(); code != 428 {
		t.Errorf("a button without a look: %d %s", code, body)
	}
	// He looks, and does not decide there.
	expect("bob", 64, "say --yes", "approve", id)
	o.look("bob", id)
	await(t, "the button counts after the look", func() bool { code, _ := press(); return code == 200 })
	if g := <-done; g.code != 200 {
		t.Errorf("%+v", g)
	}
	o.told("granted")

	// No, which the caller is told, and the glass, which everybody is.
	done = o.calling("alice", "shell", "no")
	id = o.told("asked")
	expect("bob", 0, "denied", "deny", id, "--reason", "not on a Friday")
	if g := <-done; g.code != 403 || !strings.Contains(g.body, "not on a Friday") {
		t.Errorf("%+v", g)
	}
	o.told("denied")
	done = o.calling("alice", "pay", "fire")
	id = o.told("asked")
	expect("erin", 0, "THE GLASS IS BROKEN", "approve", id, "--break-glass", "--yes", "--reason", "the house is on fire")
	if g := <-done; g.code != 200 {
		t.Errorf("%+v", g)
	}
	o.told("broke_glass")
	if !strings.Contains(o.said.String(), "BROKE THE GLASS") {
		t.Error("nobody is told that the glass was broken")
	}
	if n := o.model.Count(); n != 4 {
		t.Errorf("the model got %d calls", n)
	}

	// The rules change while it runs, and a mistake in them changes nothing.
	o.write("rules.yaml", "otherwise: maybe\n")
	await(t, "the mistake is told", func() bool { return strings.Contains(o.said.String(), "rules.yaml:1:12") })
	if g := <-o.calling("alice", "", "still"); g.code != 200 {
		t.Errorf("%+v", g)
	}
	o.write("rules.yaml", "otherwise: refuse\n")
	await(t, "the rules are others", func() bool {
		g := <-o.calling("alice", "", "now")
		return g.code == 403 && strings.Contains(g.body, "policy_denied")
	})
	// And so they do when the file names others, and says so.
	o.write("others.yaml", "otherwise: allow\n")
	b, err := os.ReadFile(filepath.Join(filepath.Dir(o.data), "tally.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o.write("tally.yaml", strings.Replace(string(b), "rules.yaml", "others.yaml", 1))
	if err := o.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, "the rules are those of another file", func() bool { return (<-o.calling("alice", "", "then")).code == 200 })
	o.stop()
}

// look looks at an approval without deciding.
func (o *office) look(name, id string) {
	o.t.Helper()
	req, err := http.NewRequest("GET", o.vars["GATEWAY_URL"]+"/.tallystick/approvals/"+id, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.keys[name])
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		o.t.Fatal(resp, err)
	}
	resp.Body.Close()
}

// At a terminal the person is asked, and only y is a yes.
func TestConfirms(t *testing.T) {
	for in, want := range map[string]bool{"y\n": true, "Y\n": true, "yes\n": true, " y \n": true, "\n": false, "n\n": false, "": false, "y": false, "yo\n": false, "approve\n": false} {
		var out bytes.Buffer
		c := &tally{stdin: strings.NewReader(in), stdout: &out}
		if got := c.confirms("approve?"); got != want || !strings.Contains(out.String(), "approve? [y/N]") {
			t.Errorf("%q: %v, %q", in, got, out.String())
		}
	}
}

// Nobody is asked for a key twice, and it goes to the gateway that was named and to no other.
func TestKnock(t *testing.T) {
	env := map[string]string{"XDG_STATE_HOME": t.TempDir()}
	c := &tally{stdout: io.Discard, stderr: io.Discard, lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok }}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("tk-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := c.tokenFile(&url.URL{Scheme: "https", Host: "gw.example:8443"})
	if err == nil {
		err = keep(kept, "gt-kept")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, gateway, key string
		d                  door
		base, shown        string // or what is wrong
	}{
		{"nothing", "", "", door{}, "", "TALLYSTICK_GATEWAY"},
		{"no key", "https://gw.example", "", door{}, "", "tally login"},
		{"from the environment", "https://gw.example", "tk-env", door{}, "https://gw.example/.tallystick/", "tk-env"},
		{"flags go first", "https://gw.example", "tk-env", door{gateway: "http://127.0.0.1:8080/", keyFile: file}, "http://127.0.0.1:8080/.tallystick/", "tk-file"},
		{"what a log-in has kept", "https://gw.example:8443", "", door{}, "https://gw.example:8443/.tallystick/", "gt-kept"},
		{"no URL", "gw.example", "tk-env", door{}, "", "not where a gateway is"},
		{"in the clear", "http://gw.example", "tk-env", door{}, "", "use https"},
		{"two lines", "https://gw.example", "tk-env\nX-Other: 1", door{}, "", "more than one line"},
		{"no such file", "https://gw.example", "", door{keyFile: file + "x"}, "", "--key-file"},
		{"no such roots", "https://gw.example", "tk-env", door{roots: file}, "", "no certificate"},
	} {
		env["TALLYSTICK_GATEWAY"], env["TALLYSTICK_KEY"] = row.gateway, row.key
		if row.key == "" {
			delete(env, "TALLYSTICK_KEY")
		}
		g, err := c.knock(row.d)
		switch {
		case row.base == "" && (err == nil || !strings.Contains(err.Error(), row.shown)):
			t.Errorf("%s: %v", row.name, err)
		case row.base != "" && (err != nil || g.base != row.base || g.key != row.shown):
			t.Errorf("%s: %v %+v", row.name, err, g)
		}
	}
	var shown []string
	away := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown = append(shown, r.Header.Get("Authorization")) }))
	defer away.Close()
	from := httptest.NewServer(http.RedirectHandler(away.URL, http.StatusTemporaryRedirect))
	defer from.Close()
	g, err := c.knock(door{gateway: from.URL, keyFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.get(t.Context(), "approvals"); err == nil || len(shown) > 0 {
		t.Errorf("%v, and another was shown %q", err, shown)
	}
}

// The README's way through an approval, followed beside the demo; curl is not there everywhere, so its part is done here.
func TestReadmeApproval(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## Who may call what, and who says yes\n")
	section, _, ok := strings.Cut(rest, "\n## ")
	if !ok {
		t.Fatal("the README does not say any more who says yes")
	}
	body := regexp.MustCompile(`(?m)curl -i \$GATEWAY_URL(\S+) [^']*'Content-Type: application/json' -d '(.*)'$`).FindStringSubmatch(section)
	export := strings.Contains(section, "    export TALLYSTICK_GATEWAY=$GATEWAY_URL TALLYSTICK_KEY=$APPROVER_KEY\n    bin/tally approvals\n    bin/tally approve\n")
	if body == nil || !export {
		t.Fatalf("the README approves in another way: %s", section)
	}
	p := newPlace(t)
	p.start("--no-samples")
	await(t, "the demo says the same", func() bool { // what it says comes through a pipe
		said := p.out.String()
		return strings.Contains(said, " approve --gateway "+p.vars["GATEWAY_URL"]+" --key-file ") && strings.Contains(said, `-d '`+body[2]+`'`)
	})
	rules, _, _ := strings.Cut(section, "\n\nBeside the running demo")
	_, rules, _ = strings.Cut(rules, "`demo/rules.yaml`:\n\n")
	file, err := os.ReadFile(filepath.Join(p.data, rulesFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(rules) {
		if !strings.Contains(string(file), strings.TrimSpace(line)) {
			t.Errorf("the demo's rules do not have %q", line)
		}
	}

	p.env = []string{"TALLYSTICK_GATEWAY=" + p.vars["GATEWAY_URL"], "TALLYSTICK_KEY=" + p.vars["APPROVER_KEY"]}
	call := func() <-chan got {
		done := make(chan got, 1)
		go func() {
			req, err := p.request(context.Background(), body[1], body[2])
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			done <- got{resp.StatusCode, string(b)}
		}()
		return done
	}
	id := func() (id string) {
		await(t, "it waits", func() bool {
			stdout, _, _ := p.tally("approvals")
			id = regexp.MustCompile(`(?m)^([0-9a-f-]{36}) +waiting `).FindString(stdout)
			return id != ""
		})
		return strings.Fields(id)[0]
	}
	// At the terminal; this process is the command.
	atTerminal := func(in string, args ...string) (string, int) {
		var out bytes.Buffer
		c := &tally{stdin: strings.NewReader(in), stdout: &out, stderr: &out, terminal: true, lookup: func(name string) (string, bool) {
			for _, v := range p.env {
				if k, v, _ := strings.Cut(v, "="); k == name {
					return v, true
				}
			}
			return "", false
		}}
		code := c.run(t.Context(), args)
		return out.String(), code
	}
	if out, code := atTerminal("y\n", "approve"); code != 1 || !strings.Contains(out, "nothing waits for you") {
		t.Errorf("exit %d: %s", code, out)
	}
	done := call()
	first := id()
	if out, code := atTerminal("\n", "approve"); code != 1 || !strings.Contains(out, "nothing is decided") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := atTerminal("y\n", "approve"); code != 0 || !strings.Contains(out, `"content": "hello"`) || !strings.Contains(out, "approved: the call passes, once") {
		t.Errorf("exit %d: %s", code, out)
	}
	if g := <-done; g.code != 200 {
		t.Errorf("%+v", g)
	}
	policy := filepath.Join(t.TempDir(), "policy")
	copyFile(t, p.vars["POLICY"], policy)
	bundle := filepath.Join(t.TempDir(), "bundle")
	if _, errs, code := p.tally("export", first, "-o", bundle, "--data", p.data); code != 0 {
		t.Fatalf("export: %s", errs)
	}
	if out, errs, code := p.verify("bundle", bundle, "--policy", policy); code != 0 || !strings.Contains(out, "approve") {
		t.Errorf("bundle: exit %d\n%s%s", code, out, errs)
	}
	done = call()
	if _, errs, code := p.tally("deny", id(), "--reason", "enough"); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	if g := <-done; g.code != 403 {
		t.Errorf("%+v", g)
	}
	if _, errs, code := p.tally("policy", "check", filepath.Join(p.data, rulesFile)); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}

	// What is in earnest is what the configuration takes.
	_, yaml, _ := strings.Cut(section, "`tally.yaml` has\n\n    gateway:\n")
	yaml, _, _ = strings.Cut(yaml, "\n\n")
	yaml = regexp.MustCompile(`(?m)^    `).ReplaceAllString(yaml, "")
	whole := "log: local:log\norigin: log.example/x\nkey: k\nanchor: dir:a\nlisten: :0\ndata_keys: {dir: r, kek: k}\ngateway:\n  id: gw-1\n  listen: :0\n  journal: j\n  routes: [{name: openai, api: openai, upstream: \"https://api.openai.com\"}]\n" + yaml + "\n"
	c, err := config.Parse([]byte(whole), ".")
	if err != nil || len(c.Gateway.Approvals.Notify) != 1 || c.Gateway.Callers[0].Name != "carol" {
		t.Errorf("%v\n%s", err, whole)
	}
	p.stop()
}
