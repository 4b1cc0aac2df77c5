package peers

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDemo runs the demo with its keys in the engines, twice in one directory. An administrator is asked the first time
// alone; and a directory that was begun so is not started in another way.
func TestDemo(t *testing.T) {
	t.Parallel()
	s := startTransit(t)
	s.do(t, "POST", "secret/config", `{"cas_required":true}`)
	h := &house{t: t, vault: s, dir: t.TempDir()}
	for range 2 {
		demoStory(h, h.command("tally", "demo", "--vault", "--data", "demo", "--gateway", "127.0.0.1:0", "--log", "127.0.0.1:0"))
	}
	if text := h.read("demo/tally.yaml"); strings.Contains(text, "log.key") || strings.Contains(text, "kek.key") || !strings.Contains(text, "key: vault:transit/demo-") {
		t.Errorf("the keys are elsewhere:\n%s", text)
	}
	out, err := h.command("tally", "demo", "--data", "demo").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "start it with --vault") {
		t.Errorf("without Vault: %v %s", err, out)
	}
	h.write("demo/log.key", "a key")
	out, err = h.command("tally", "demo", "--vault", "--data", "demo").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "leave --vault out") {
		t.Errorf("where keys are in files: %v %s", err, out)
	}
}

// demoStory runs a demo in the directory demo until the auditor's tool has seen its log.
func demoStory(h *house, demo *exec.Cmd) {
	t := h.t
	t.Helper()
	out := new(lockedBuffer)
	demo.Stdout, demo.Stderr = out, out
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- demo.Wait() }()
	defer demo.Process.Kill()
	await(t, "the demo to answer", func() error {
		select {
		case err := <-gone:
			t.Fatalf("it ended with %v\n%s", err, out)
		default:
		}
		_, err := os.Stat(filepath.Join(h.dir, "demo", "demo.env"))
		return err
	})
	url := regexp.MustCompile(`(?m)^LOG_URL=(\S+)$`).FindStringSubmatch(h.read("demo/demo.env"))[1]
	await(t, "the log to be published", func() error {
		c := h.command("tally-verify", "log", "--url", url, "--policy", "demo/policy")
		if b, err := c.CombinedOutput(); err != nil {
			return errors.Join(err, errors.New(string(b)))
		}
		return nil
	})
	demo.Process.Signal(os.Interrupt)
	if err := <-gone; err != nil {
		t.Errorf("the demo ended with %v\n%s", err, out)
	}
}
