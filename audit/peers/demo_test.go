package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// A demo is `tally demo` in a process of its own, with its directory.
type demo struct {
	once sync.Once
	err  error
	dir  string // of programs, data and state
	cmd  *exec.Cmd
	out  bytes.Buffer
	env  map[string]string // demo.env
}

// shown is the one demo of all tests.
var shown demo

func (d *demo) stop() {
	if d.cmd != nil {
		d.cmd.Process.Signal(syscall.SIGINT)
		done := make(chan error, 1)
		go func() { done <- d.cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(patience):
			d.cmd.Process.Kill()
		}
	}
	if d.dir != "" {
		os.RemoveAll(d.dir)
	}
}

func (d *demo) start() error {
	var err error
	if d.dir, err = os.MkdirTemp("", "tally-console-"); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", d.dir+string(filepath.Separator), "./cmd/tally", "./cmd/tally-verify")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	data := filepath.Join(d.dir, "data")
	d.cmd = exec.Command(filepath.Join(d.dir, "tally"), "demo", "--data", data, "--gateway", "127.0.0.1:0", "--log", "127.0.0.1:0", "--console", "127.0.0.1:0")
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	d.cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(d.dir, "state"), "OPENAI_API_KEY=", "OPENAI_BASE_URL=")
	if err := d.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		f, err := os.Open(filepath.Join(data, "demo.env"))
		if err == nil {
			defer f.Close()
			d.env = make(map[string]string)
			for s := bufio.NewScanner(f); s.Scan(); {
				name, value, _ := strings.Cut(s.Text(), "=")
				d.env[name] = value
			}
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the demo does not answer")
		}
	}
}

// theDemo starts the demo, the first time.
func theDemo(t *testing.T) *demo {
	t.Helper()
	shown.once.Do(func() { shown.err = shown.start() })
	if shown.err != nil {
		t.Fatalf("the demo: %v\n%s", shown.err, shown.out.String())
	}
	return &shown
}

// run runs one of the programs and returns what it says.
func (d *demo) run(t *testing.T, program string, args ...string) (stdout string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(t.Context(), filepath.Join(d.dir, program), args...)
	c.Stdout, c.Stderr = &out, &errs
	c.Dir = d.dir
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		t.Logf("%s %s: %s", program, strings.Join(args, " "), errs.String())
	}
	return out.String(), c.ProcessState.ExitCode()
}

// ask sends a chat request through the gateway, and returns the session and the status. The key is that of the demo's caller.
func (d *demo) ask(ctx context.Context, headers map[string]string, body any) (session string, status int, err error) {
	var raw bytes.Buffer
	e := json.NewEncoder(&raw)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return "", 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.env["GATEWAY_URL"]+"/v1/chat/completions", &raw)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Authorization", "Bearer "+d.env["API_KEY"])
	req.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Tallystick-Session"), resp.StatusCode, err
}

func (d *demo) mustAsk(t *testing.T, headers map[string]string, body any) (session string) {
	t.Helper()
	session, status, err := d.ask(t.Context(), headers, body)
	if err != nil || session == "" {
		t.Fatalf("a call: %d %v", status, err)
	}
	return session
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chat struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream,omitempty"`
	Messages []message `json:"messages"`
}

func (d *demo) chat(prompts ...string) chat {
	c := chat{Model: d.env["MODEL"]}
	for _, p := range prompts {
		c.Messages = append(c.Messages, message{"user", p})
	}
	return c
}

// A person is a browser in which somebody is signed in to the demo's console.
type person struct {
	*tab
	base string
}

// as opens a browser as one of the demo's personas, who has said why he looks if there is a reason.
func (d *demo) as(t *testing.T, who, reason string) *person {
	t.Helper()
	p := &person{open(t), d.env["CONSOLE_URL"]}
	p.goTo(p.base + "/login/")
	p.submit(`button[value="` + who + `"]`)
	p.until(`document.querySelector(".person")?.textContent.includes("` + who + `")`)
	if reason != "" {
		p.visit("/me")
		p.fill(`input[name="reason"]`, reason)
		p.submit(`form[action="/reason"] button`)
		p.until(`document.querySelector(".why .reason")`)
	}
	return p
}

func (p *person) visit(path string) {
	p.t.Helper()
	p.goTo(p.base + path)
}

// fill writes into a field, as somebody types.
func (p *person) fill(selector, text string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS(selector)))
	eval[any](p.tab, fmt.Sprintf("(document.querySelector(%q).select(), 0)", selector))
	p.do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

// submit clicks what leads to another page, and waits for that.
func (p *person) submit(selector string) {
	p.t.Helper()
	p.do(chromedp.ScrollIntoView(chromedp.CSS(selector)))
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		p.t.Fatalf("%s: %v\n%s", selector, err, p.text("body"))
	}
}

// found reads a page until it shows what must come.
func (p *person) found(path, want string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		p.visit(path)
		if strings.Contains(p.text("main"), want) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s does not show %s:\n%s", path, want, p.text("main"))
		}
	}
}
