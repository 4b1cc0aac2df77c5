package openid

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

// heard is what a process says.
type heard struct {
	mu  sync.Mutex
	buf bytes.Buffer // under mu
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(b)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

// port returns an address that was free a moment ago.
func port(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A person logs in to the console of a whole tally at the provider, comes back to the page that was wanted, has the role that the
// configuration gives her, and signs out.
func TestConsole(t *testing.T) {
	dir := t.TempDir()
	tally := filepath.Join(dir, "tally")
	if out, err := exec.Command("go", "build", "-C", "../../..", "-o", tally, "./cmd/tally").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := "http://" + port(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{gate: &gate{t: t}, issuer: "http://" + ln.Addr().String()}
	w.store = &rotating{Storage: storage.NewStorageWithClients(storage.NewUserStore(w.issuer), map[string]*storage.Client{
		"tally": storage.WebClient("tally", "secret-of-the-console", at+"/login/back"),
	})}
	w.store.rotate(t, 1)
	srv := &http.Server{Handler: exampleop.SetupServer(w.issuer, w.store, slog.New(slog.DiscardHandler), false)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })

	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tally, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tally %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	run("keys", "new-log", "log.example/x", "log.key")
	run("keys", "new-kek", "kek.key")
	for name, text := range map[string]string{"model.key": "sk-nobody-asks\n", "client.secret": "secret-of-the-console\n", "tally.yaml": fmt.Sprintf(`log: local:data/log
origin: log.example/x
key: log.key
anchor: dir:anchor
data_keys: {dir: data/ring, kek: kek.key}
listen: 127.0.0.1:0
console:
  listen: %s
  public: %s
  people: {"idp:id1": [viewer]}
gateway:
  id: gw-1
  listen: 127.0.0.1:0
  journal: data/journal
  identity:
    public: https://gw.example
    tokens: {dir: data/tokens}
    issuers:
      - {name: idp, url: %q, audiences: [api], client: {id: tally, secret: {file: client.secret}}}
  routes:
    - {name: openai, api: openai, upstream: "http://127.0.0.1:9", credential: {file: model.key}}
`, strings.TrimPrefix(at, "http://"), at, w.issuer)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := &heard{}
	cmd := exec.Command(tally, "serve", "--config", "tally.yaml")
	cmd.Dir, cmd.Stderr = dir, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	for deadline := time.Now().Add(patience); !strings.Contains(said.String(), "console="+at); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("it ended with %v: %s", err, said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %s", said)
		}
	}

	c := browser()
	resp, _ := w.fetch(c.Get(at + "/search?q=x"))
	_, page := w.fetch(c.Get(at + resp.Header.Get("Location")))
	start := regexp.MustCompile(`href="([^"]*/start\?provider=idp[^"]*)"`).FindStringSubmatch(page)
	if start == nil {
		t.Fatalf("%s: %s", resp.Header.Get("Location"), page)
	}
	resp, page = w.fetch(c.Get(at + strings.ReplaceAll(start[1], "&amp;", "&")))
	if !strings.HasPrefix(resp.Header.Get("Location"), w.issuer+"/auth?") {
		t.Fatalf("%s: %s", resp.Status, page)
	}
	back, page := w.logIn(c, resp.Header.Get("Location"), "verysecure")
	if !strings.HasPrefix(back, at+"/login/back?") {
		t.Fatalf("%q: %s", back, page)
	}
	_, page = w.fetch(c.Get(back))
	next := regexp.MustCompile(`content="0;url=([^"]*)"`).FindStringSubmatch(page)
	if next == nil || next[1] != "/search?q=x" {
		t.Fatalf("%s", page)
	}
	if _, page := w.fetch(c.Get(at + "/me")); !strings.Contains(page, "idp:id1") || !strings.Contains(page, w.issuer) {
		t.Errorf("%s", page)
	}
	for path, want := range map[string]int{"/": http.StatusOK, "/trail": http.StatusForbidden, "/settings": http.StatusForbidden, "/approvals": http.StatusForbidden} {
		if resp, page := w.fetch(c.Get(at + path)); resp.StatusCode != want {
			t.Errorf("%s: %s: %s", path, resp.Status, page)
		}
	}
	if resp, _ := w.fetch(c.PostForm(at+"/logout", url.Values{})); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("%s", resp.Status)
	}
	if resp, _ := w.fetch(c.Get(at + "/me")); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("signed in after signing out: %s", resp.Status)
	}
	cmd.Process.Signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
