//go:build vault

package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/keys/vault"
)

// TestReadme follows the README's section on keys in Vault to the letter, with Vault's own command line: every command of it is
// run by a shell.
func TestReadme(t *testing.T) {
	s, _ := startVault(t)
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## Keys in Vault\n")
	section, _, ok := strings.Cut(rest, "\n## ")
	if !ok {
		t.Fatal("the README has no section on keys in Vault")
	}
	var blocks []string
	for _, b := range regexp.MustCompile(`(?m)(^    .*\n)+`).FindAllString(section, -1) {
		blocks = append(blocks, regexp.MustCompile(`(?m)^    `).ReplaceAllString(b, ""))
	}
	if len(blocks) != 6 || !strings.HasPrefix(blocks[2], "vault:\n") {
		t.Fatalf("the README does it in another way: %q", blocks)
	}

	h := &house{t: t, vault: s, name: "readme", origin: "log.example/2026", dir: t.TempDir()}
	bin, err := filepath.Abs(os.Getenv("VAULT"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"vault": bin, "tally": program(t, "tally")} {
		if err := os.Symlink(path, filepath.Join(h.dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	shell := func(script string) {
		t.Helper()
		c := exec.Command("sh", "-e", "-c", script)
		c.Dir = h.dir
		c.Env = append(h.command("tally").Env, "PATH="+filepath.Join(h.dir, "bin")+":"+os.Getenv("PATH"))
		if h.cmd != nil {
			c.Env = append(c.Env, fmt.Sprintf("PID=%d", h.cmd.Process.Pid))
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, script, out)
		}
	}
	shell(blocks[0])
	shell(blocks[1])
	var subst []string
	for _, p := range []string{"sign", "anchor", "wrap"} {
		subst = append(subst, strings.ToUpper(p)+"-ROLE", strings.TrimSpace(h.read(p+".role")))
	}
	h.who = strings.NewReplacer(append(subst, "https://vault.example:8200", s.url)...).Replace(blocks[2])
	h.init = h.read("keys.yaml")
	h.vkey = regexp.MustCompile(`(?m)^public_key: (\S+)$`).FindStringSubmatch(h.init)[1]
	caller := h.tally("keys", "new", "alice")
	h.caller, h.hash = regexp.MustCompile(`tk-\S+`).FindString(caller), regexp.MustCompile(`[0-9a-f]{64}`).FindString(caller)
	h.model = h.serveModel()
	s.do(t, "PUT", "sys/policies/acl/tallystick-model", `{"policy":"path \"secret/data/readme-model\" { capabilities = [\"read\"] }"}`)
	s.do(t, "POST", "auth/approle/role/tally-sign", `{"token_policies":"tallystick-sign,tallystick-model"}`)
	h.calls, h.reads = freePort(t), freePort(t)
	h.write("policy", "log "+h.vkey+"\nquorum none\n")
	h.configure("")
	h.start()
	defer h.kill()
	session, _, err := h.call("before")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks[3:5] {
		h.says("goes on with other keys", func() { shell(b) })
	}
	shell(blocks[5])
	h.tally("export", session, "--config", "tally.yaml", "-o", "session.bundle")
	h.verify(0, "bundle", "session.bundle", "--policy", "policy")
	after, _, err := h.call("after")
	if err != nil {
		t.Fatal(err)
	}
	h.complete([]string{session, after})
	h.verify(0, "log", "--url", "http://"+h.reads, "--policy", "policy")
	h.stop()
	h.start()
	h.complete([]string{session, after})
	h.cmd.Process.Signal(syscall.SIGTERM)
	<-h.gone
	if v := s.do(t, "GET", "transit/keys/log", "")["data"].(map[string]any); v["type"] != vault.Ed25519 || v["exportable"] != false {
		t.Errorf("the key: %v", v)
	}
}
