package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
)

// The README's way to run it in earnest, followed to the letter but for addresses: make the keys, write its file, serve,
// call, export, verify.
func TestReadmeInEarnest(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "    log: local:data/log\n")
	yaml, _, ok := strings.Cut("    log: local:data/log\n"+rest, "\n\nThen `bin/tally serve")
	if !ok {
		t.Fatal("the README has no configuration any more")
	}
	yaml = regexp.MustCompile(`(?m)^    `).ReplaceAllString(yaml, "")

	p := newPlace(t)
	dir := filepath.Dir(p.data)
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := p.tally(args...)
		if code != 0 {
			t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	out := run("keys", "new-log", "log.example/2026", "keys/log.key")
	vkey := regexp.MustCompile(`log\.example/2026\+\S+`).FindString(out)
	run("keys", "new-kek", "keys/kek.key")
	out = run("keys", "new", "alice")
	key := regexp.MustCompile(`tk-\S+`).FindString(out)
	hash := regexp.MustCompile(`[0-9a-f]{64}`).FindString(out)
	if vkey == "" || key == "" || hash == "" {
		t.Fatalf("the commands print no keys: %q", out)
	}

	model, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gatewaytest.New(gatewaytest.Config{Key: "sk-real-model-key"}).Run(ctx, model) }()
	t.Cleanup(func() { cancel(); <-ended })
	if err := os.WriteFile(filepath.Join(dir, "anthropic"), []byte("sk-real-model-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml = strings.NewReplacer(
		"/srv/elsewhere/anchor", filepath.Join(p.state, "anchor"), "127.0.0.1:8081", "127.0.0.1:0", "127.0.0.1:8080", "127.0.0.1:0",
		"THE-HASH", hash, "https://api.openai.com", "http://"+model.Addr().String(), "https://api.anthropic.com", "http://"+model.Addr().String(),
		"/run/secrets/anthropic", "anthropic", "http://127.0.0.1:8000", "http://"+model.Addr().String(),
	).Replace(yaml)
	if err := os.WriteFile(filepath.Join(dir, "tally.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = []string{"OPENAI_API_KEY=sk-real-model-key"}
	var said *lockedBuffer
	var where []string
	serve := func(args ...string) {
		t.Helper()
		p.cmd = p.command(append([]string{"serve", "--config", "tally.yaml"}, args...)...)
		said = &lockedBuffer{}
		p.cmd.Stderr = said
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, "it serves", func() bool {
			where = regexp.MustCompile(`gateway=(\S+) log=(\S+)`).FindStringSubmatch(said.String())
			return where != nil
		})
		p.vars = map[string]string{"GATEWAY_URL": where[1], "LOG_URL": where[2], "API_KEY": key}
	}
	interrupt := func() {
		t.Helper()
		p.cmd.Process.Signal(os.Interrupt)
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("serve ended with %v: %s", err, said)
		}
	}
	t.Cleanup(p.kill)
	serve()
	session, answer, err := p.chat(http.DefaultClient, "hello", true)
	if err != nil || !strings.Contains(answer, "[DONE]") {
		t.Fatalf("%v: %s", err, answer)
	}
	req, err := p.request(ctx, "/ours/chat/completions", `{"model":"fake-1","messages":[{"role":"user","content":"hello"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the route without a credential is answered by the model itself, with 401: %v %v", resp, err)
	}
	policy := filepath.Join(dir, "policy")
	if err := os.WriteFile(policy, []byte("log "+vkey+"\nquorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, "session.bundle")
	run("export", session, "--config", "tally.yaml", "-o", bundle)
	if out, errs, code := p.verify("bundle", bundle, "--policy", policy); code != 0 {
		t.Errorf("bundle: exit %d\n%s%s", code, out, errs)
	}
	if out, errs, code := p.verify("log", "--url", where[2], "--policy", policy); code != 0 {
		t.Errorf("log: exit %d\n%s%s", code, out, errs)
	}
	interrupt()
	run("export", session, "--config", "tally.yaml", "-o", bundle)
	run("fsck", "--config", "tally.yaml")
	if strings.Contains(said.String(), "sk-real-model-key") {
		t.Error("the credential is in what serve says")
	}

	// The head file is lost: what the log then says to do is done.
	if err := os.Remove(filepath.Join(p.state, "anchor", "HEAD")); err != nil {
		t.Fatal(err)
	}
	serve()
	if !strings.Contains(said.String(), "--new-head") {
		t.Errorf("without its head file the log says: %s", said)
	}
	p.kill()
	serve("--new-head")
	if _, _, err := p.chat(http.DefaultClient, "hello", false); err != nil {
		t.Errorf("with a new head: %v\n%s", err, said)
	}
	interrupt()
	serve()
	if _, _, err := p.chat(http.DefaultClient, "hello", false); err != nil {
		t.Errorf("after a new head: %v\n%s", err, said)
	}
	interrupt()
}

// The README's way to keep a receipt, followed beside the demo; curl is not there everywhere, so its part is done here.
func TestReadmeReceipt(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## Keep a receipt\n")
	section, _, ok := strings.Cut(rest, "\n## ")
	if !ok {
		t.Fatal("the README does not say any more how to keep a receipt")
	}
	ask := regexp.MustCompile(`(?m)^    echo '(.*)' > ask$`).FindStringSubmatch(section)
	path := regexp.MustCompile(`curl -s -o receipt \$GATEWAY_URL(\S+)\$SESSION -H "Authorization: Bearer \$API_KEY"`).FindStringSubmatch(section)
	check := regexp.MustCompile(`(?m)^    bin/tally-verify (.*)$`).FindStringSubmatch(section)
	if ask == nil || path == nil || check == nil {
		t.Fatalf("the README keeps a receipt in another way: %s", section)
	}

	p := newPlace(t)
	p.start("--no-samples")
	dir := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(method, path, body string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.vars["GATEWAY_URL"]+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.vars["API_KEY"])
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v: %s", path, resp.Status, err, b)
		}
		return resp, b
	}
	body := ask[1] + "\n" // as echo has it
	resp, answer := do("POST", "/v1/chat/completions", body)
	session := resp.Header.Get("Tallystick-Session")
	write("ask", []byte(body))
	write("answer", answer)
	args := strings.Fields(strings.ReplaceAll(check[1], "demo/policy", p.vars["POLICY"]))
	for i, a := range args[1:] {
		if a == "receipt" || a == "ask" || a == "answer" {
			args[1+i] = filepath.Join(dir, a)
		}
	}
	verify := func(want int, word string, more ...string) string {
		t.Helper()
		stdout, stderr, code := p.verify(append(args, more...)...)
		if code != want || !strings.Contains(stdout, word) {
			t.Errorf("exit %d, want %d and %q:\n%s%s", code, want, word, stdout, stderr)
		}
		return stdout
	}
	_, receipt := do("GET", path[1]+session, "")
	write("receipt", receipt)
	verify(0, "request-matches")
	await(t, "the log has published it", func() bool {
		resp, b := do("GET", path[1]+session, "")
		if resp.Header.Get("Retry-After") != "" {
			return false
		}
		write("receipt", b)
		return true
	})
	if out := verify(0, "entry-in-tree"); strings.Contains(out, "promise") {
		t.Errorf("a proof speaks of promises:\n%s", out)
	}
	_, proof := do("GET", path[1]+session+".tlog-proof", "")
	write("session.tlog-proof", proof)
	if out, errs, code := p.verify("proof", filepath.Join(dir, "session.tlog-proof"), "--policy", p.vars["POLICY"]); code != 0 {
		t.Errorf("proof: exit %d\n%s%s", code, out, errs)
	}
	write("receipt", receipt) // the first one, a promise perhaps
	verify(0, "log's checkpoint", "--url", p.vars["LOG_URL"])
	answer[len(answer)/2] ^= 1
	write("answer", answer)
	verify(1, "FALSE  response-matches")
}

// The README's way to show a part of a session that was masked, followed beside the demo.
func TestReadmeShown(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## What is written down, and what is shown of it\n")
	section, _, ok := strings.Cut(rest, "\n## ")
	body := regexp.MustCompile(`(?m)curl .* \$GATEWAY_URL(\S+) [^']*'Content-Type: application/json' -d '(.*)'$`).FindStringSubmatch(section)
	commands := regexp.MustCompile(`(?m)^    bin/tally(-verify)? (.*)$`).FindAllStringSubmatch(section, -1)
	if !ok || body == nil || len(commands) < 3 {
		t.Fatalf("the README shows a part in another way: %s", section)
	}

	p := newPlace(t)
	p.start("--no-samples")
	req, err := p.request(t.Context(), body[1], body[2])
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	names := strings.NewReplacer("$SESSION", resp.Header.Get("Tallystick-Session"), "demo/policy", p.vars["POLICY"],
		"--data demo", "--data "+p.data, "shown.bundle", filepath.Join(t.TempDir(), "shown.bundle"))
	for i, want := range []string{"request.body\n", "", "⟦CARD:"} {
		do := p.tally
		if commands[i][1] != "" {
			do = p.verify
		}
		if out, errs, code := do(strings.Fields(names.Replace(commands[i][2]))...); code != 0 || !strings.Contains(out, want) || strings.Contains(out, "4111") {
			t.Errorf("%s: exit %d\n%s%s", commands[i][0], code, out, errs)
		}
	}
}

// The README's searches, made beside the demo, find its sample calls.
func TestReadmeSearch(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## Finding sessions\n")
	section, _, ok := strings.Cut(rest, "\n## ")
	commands := regexp.MustCompile(`(?m)^    bin/tally search '(.*)' (--json )?--reason "(.*)" --data demo$`).FindAllStringSubmatch(section, -1)
	if !ok || len(commands) != 3 {
		t.Fatalf("the README searches in another way: %s", section)
	}
	p := newPlace(t)
	p.start()
	for i, want := range []string{"⟦CARD:", "⟦CARD:", `"outcome":"refused"`} {
		args := []string{"search", commands[i][1], "--reason", commands[i][3], "--data", p.data}
		if commands[i][2] != "" {
			args = append(args, "--json")
		}
		await(t, commands[i][1]+" is found", func() bool {
			out, errs, code := p.tally(args...)
			if code != 0 || strings.Contains(out, "4111 1111") {
				t.Fatalf("exit %d: %s%s", code, out, errs)
			}
			return strings.Contains(out, want)
		})
	}
	if out, errs, code := p.tally("reindex", "--data", p.data); code != 0 {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// The README's console is one that a configuration can have, with the README's way to log in.
func TestReadmeConsole(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(from string) string {
		t.Helper()
		_, rest, ok := strings.Cut(string(text), "\n    "+from)
		yaml, _, end := strings.Cut("    "+from+rest, "\n\n")
		if !ok || !end {
			t.Fatalf("the README has no %s any more", from)
		}
		return regexp.MustCompile(`(?m)^    `).ReplaceAllString(yaml, "") + "\n"
	}
	console, identity := block("console:\n"), block("gateway:\n      tls:")
	base := "log: local:log\norigin: log.example/x\nkey: k\nanchor: dir:a\nlisten: :0\ndata_keys: {dir: r, kek: k}\n" + console + identity +
		"  id: gw-1\n  listen: :0\n  journal: j\n  routes: [{name: openai, api: openai, upstream: \"https://api.openai.com\"}]\n"
	c, err := config.Parse([]byte(base), "/etc/tally")
	if err != nil {
		t.Fatalf("%v\n%s", err, base)
	}
	if got := c.Console.RolesOf("okta:1", []string{"compliance", "support"}); got != audit.Viewer|audit.Auditor {
		t.Errorf("compliance and support are %s", got)
	}
}

// A lockedBuffer is written by the process and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
