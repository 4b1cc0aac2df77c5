package peers

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/saml/samltest"
)

// said is what a process says.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer // under mu
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// port returns the port of an address that was free a moment ago.
func port(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, p, _ := net.SplitHostPort(ln.Addr().String())
	return p
}

// Somebody logs in to a console in earnest, and to the gateway, in a real browser and at a provider of another site: with cookies that
// do not come along from there, pages that run one line of script, and forms whose origin is kept to itself.
func TestSignInBySAML(t *testing.T) {
	d := theDemo(t) // for the programs
	idp := samltest.New(t)
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		c := exec.Command(filepath.Join(d.dir, "tally"), args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("tally %v: %v: %s", args, err, out)
		}
	}
	run("keys", "new-log", "log.example/x", "log.key")
	run("keys", "new-kek", "kek.key")
	// For a browser localhost and 127.0.0.1, where the provider is, are two sites.
	desk, gate := port(t), port(t)
	at, gw := "http://localhost:"+desk, "http://localhost:"+gate
	for name, text := range map[string]string{"model.key": "sk-nobody-asks\n", "idp.xml": string(idp.Metadata()), "tally.yaml": fmt.Sprintf(`log: local:data/log
origin: log.example/x
key: log.key
anchor: dir:anchor
data_keys: {dir: data/ring, kek: kek.key}
listen: 127.0.0.1:0
console:
  listen: 127.0.0.1:%s
  public: %s
  roles: {auditor: [staff]}
gateway:
  id: gw-1
  listen: 127.0.0.1:%s
  journal: data/journal
  identity:
    public: %s
    tokens: {dir: data/tokens}
    saml:
      - {name: idp, metadata: idp.xml, email: %q, groups: %q}
  routes:
    - {name: openai, api: openai, upstream: "http://127.0.0.1:9", credential: {file: model.key}}
`, desk, at, gate, gw, samltest.EmailAttribute, samltest.GroupsAttribute)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says := &said{}
	c := exec.Command(filepath.Join(d.dir, "tally"), "serve", "--config", "tally.yaml")
	c.Dir, c.Stderr = dir, says
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() { c.Process.Kill() })
	for deadline := time.Now().Add(patience); !strings.Contains(says.String(), "console="+at); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("it ended with %v: %s", err, says)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %s", says)
		}
	}
	for name, where := range map[string]string{"console": at + "/login/saml/idp", "gateway": gw + "/.tallystick/login/saml/idp"} {
		resp, err := http.Get(where)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", where, resp.Status, err)
		}
		idp.Register(name, b)
	}

	// From a page of the console's to the provider's form, and back to that page.
	p := &person{open(t), at}
	p.visit("/log")
	p.until(`document.title === "Tallystick" && document.querySelector("a.button")?.textContent.includes("Log in with idp")`)
	p.shot("sign-in")
	p.submit("a.button")
	p.until(`document.querySelector('input[name="user"]')`)
	p.fill(`input[name="user"]`, samltest.User)
	p.fill(`input[name="password"]`, samltest.Password)
	p.submit(`input[type="submit"], button[type="submit"]`)
	p.until(`location.href === "` + at + `/log" && document.querySelector(".person")?.textContent === "idp:` + samltest.Email + `"`)
	p.visit("/me")
	if text := p.text("main"); !strings.Contains(text, samltest.Email) || !strings.Contains(text, "auditor") {
		t.Errorf("%s", text)
	}

	// A link on another site's page leads in, though the cookie is not sent with its first request.
	p.goTo(site(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>a message</title><a href="%s/settings?from=a&amp;message=1">here</a>`, at)
	})))
	p.submit("a")
	p.until(`location.href === "` + at + `/settings?from=a&message=1" && document.querySelector("h1")?.textContent === "Settings"`)

	// At the gateway of the same host she logs in for herself, and out, and stays signed in here.
	p.goTo(gw + "/.tallystick/login")
	p.until(`document.querySelector("h1")?.textContent === "Log in to this gateway"`)
	p.submit("a.button")
	p.until(`location.pathname === "/.tallystick/login" && document.querySelector("h1")?.textContent === "You are signed in as idp:` + samltest.Email + `" && document.querySelector("form")`)
	p.submit(`form[action$="/out"] button`)
	p.until(`document.querySelector("h1")?.textContent === "Log in to this gateway"`)
	p.visit("/me")
	p.until(`document.querySelector("h1")?.textContent === "Who you are here"`)
	p.submit(`form[action="/logout"] button`)
	p.until(`document.querySelector("h1")?.textContent === "Log in to Tallystick"`)
	p.visit("/me")
	p.until(`document.querySelector("h1")?.textContent === "Log in to Tallystick"`)

	c.Process.Signal(syscall.SIGINT)
	if err := <-ended; err != nil {
		t.Errorf("%v: %s", err, says)
	}
}
