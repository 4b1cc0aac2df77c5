package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// beTally makes the test binary be the command: what is killed in these tests is a process of its own.
const beTally = "TALLY_TEST_BE_TALLY"

func TestMain(m *testing.M) {
	if os.Getenv(beTally) != "" {
		main()
	}
	os.Exit(m.Run())
}

// verifier builds tally-verify once and returns its path.
var verifier = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tally-verify")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tally-verify")
	out, err := exec.Command("go", "build", "-o", path, "github.com/tallystick/tallystick/cmd/tally-verify").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tally-verify: %v\n%s", err, out)
	}
	return path, nil
})

// A place is a data directory with the state directory that belongs to it, and what runs there.
type place struct {
	t     *testing.T
	data  string
	state string
	env   []string // further environment
	cmd   *exec.Cmd
	out   *lockedBuffer
	vars  map[string]string // of demo.env
}

func newPlace(t *testing.T) *place {
	return &place{t: t, data: filepath.Join(t.TempDir(), "data"), state: t.TempDir()}
}

// tally runs the command to its end.
func (p *place) tally(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	c := p.command(args...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	return p.finish(c, &o, &e)
}

func (p *place) finish(c *exec.Cmd, o, e *bytes.Buffer) (string, string, int) {
	p.t.Helper()
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

func (p *place) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append([]string{beTally + "=1", "XDG_STATE_HOME=" + p.state, "PATH=" + os.Getenv("PATH")}, p.env...)
	c.Dir = filepath.Dir(p.data)
	return c
}

// verify runs tally-verify to its end.
func (p *place) verify(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	path, err := verifier()
	if err != nil {
		p.t.Fatal(err)
	}
	c := exec.Command(path, args...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	return p.finish(c, &o, &e)
}

// start runs the demo and waits until it answers.
func (p *place) start(args ...string) {
	p.t.Helper()
	p.launch(args...)
	if err := p.ready(30 * time.Second); err != nil {
		p.kill()
		p.t.Fatalf("%v\n%s", err, p.out)
	}
}

func (p *place) launch(args ...string) {
	p.t.Helper()
	os.Remove(filepath.Join(p.data, demoEnv))
	p.cmd = p.command(append([]string{"demo", "--data", p.data, "--gateway", "127.0.0.1:0", "--log", "127.0.0.1:0", "--console", "127.0.0.1:0"}, args...)...)
	p.out = &lockedBuffer{}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.kill)
}

// ready waits for demo.env.
func (p *place) ready(limit time.Duration) error {
	end := time.Now().Add(limit)
	for time.Now().Before(end) {
		if f, err := os.Open(filepath.Join(p.data, demoEnv)); err == nil {
			defer f.Close()
			p.vars = make(map[string]string)
			for s := bufio.NewScanner(f); s.Scan(); {
				k, v, _ := strings.Cut(s.Text(), "=")
				p.vars[k] = v
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond) // another process writes it
	}
	return errors.New("the demo did not come to answer")
}

// kill ends the process at once.
func (p *place) kill() {
	if p.cmd != nil && p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// stop ends the process in order.
func (p *place) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(os.Interrupt)
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("the demo ended with %v\n%s", err, p.out)
	}
}

func (p *place) request(ctx context.Context, path, body string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.vars["GATEWAY_URL"]+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.vars["API_KEY"])
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// chat makes one call and returns its session and answer; err tells whether the answer came to its end.
func (p *place) chat(client *http.Client, prompt string, stream bool) (session, answer string, err error) {
	req, err := p.request(context.Background(), "/v1/chat/completions",
		fmt.Sprintf(`{"model":"fake-1","stream":%t,"messages":[{"role":"user","content":%q}]}`, stream, prompt))
	if err != nil {
		return "", "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return resp.Header.Get(gateway.SessionHeader), string(b), err
}

// outcomes reads the running log and returns how each session ended; "" for one that has not.
func (p *place) outcomes() map[string]record.Outcome {
	p.t.Helper()
	out := make(map[string]record.Outcome)
	p.entries(func(e record.Entry) {
		switch e.Kind {
		case record.Request:
			out[e.Session.String()] = ""
		case record.Response:
			out[e.Session.String()] = e.Outcome
		}
	})
	return out
}

// kinds counts the entries of the running log.
func (p *place) kinds() map[record.Kind]int {
	p.t.Helper()
	out := make(map[record.Kind]int)
	p.entries(func(e record.Entry) { out[e.Kind]++ })
	return out
}

// entries reads the running log.
func (p *place) entries(do func(record.Entry)) {
	p.t.Helper()
	r, err := tiles.FromURL(p.vars["LOG_URL"], http.DefaultClient, tiles.Limits{})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx := context.Background()
	signed, err := r.Checkpoint(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		p.t.Fatal(err)
	}
	for next := uint64(0); next < c.Size; {
		t := tlog.TileAt(tlog.EntriesLevel, next, c.Size)
		b, err := tlog.ReadTile(ctx, r, t)
		if err != nil {
			p.t.Fatal(err)
		}
		entries, err := tlog.ParseBundle(b, t.Width)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, b := range entries {
			e, err := record.ParseEntry(b)
			if err != nil {
				p.t.Fatal(err)
			}
			do(e)
		}
		next += uint64(t.Width)
	}
}
