package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// programs are built once, where they lie, into a directory that goes when the tests have ended.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// program returns the path of one of the product's commands, of transit or of beside.
func program(t *testing.T, name string) string {
	t.Helper()
	p := &programs
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "tallystick-peers-"); p.err != nil {
			return
		}
		for _, b := range []struct{ in, what string }{{"../..", "./cmd/tally"}, {"../..", "./cmd/tally-verify"}, {"../..", "./cmd/tally-bench"}, {"transit", "."}, {".", "./beside"}} {
			build := exec.Command("go", "build", "-o", p.dir+string(filepath.Separator), b.what)
			build.Dir = b.in
			if out, err := build.CombinedOutput(); err != nil {
				p.err = fmt.Errorf("go build %s in %s: %v\n%s", b.what, b.in, err, out)
				return
			}
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return filepath.Join(p.dir, name)
}

// A house is the product as somebody runs it who keeps its keys in Vault: a directory with a configuration that "tally keys
// init" began, and the process that serves it, before a fake model.
type house struct {
	t      *testing.T
	vault  *server
	origin string
	name   string // of its keys, its anchor and its policies in Vault
	dir    string
	who    string // the identities at Vault, as the configuration says them
	init   string // what "tally keys init" printed for the configuration
	vkey   string
	caller string // the caller's key
	hash   string
	model  string // its address
	// credential is where the model's key is, as the configuration says it.
	credential string
	calls      string // addresses
	reads      string
	cmd        *exec.Cmd
	out        *lockedBuffer
	gone       chan struct{} // closed when the process has ended, and end is set
	end        error
}

// newHouse sets up a house's keys in Vault. who makes the identities with which its process then comes; nil has it come with the
// token of the server.
func newHouse(t *testing.T, s *server, kind string, who func(h *house) string) *house {
	t.Helper()
	h := &house{t: t, vault: s, dir: t.TempDir(), name: fmt.Sprintf("h%d", time.Now().UnixNano())}
	h.origin = "log.example/" + h.name
	args := []string{"keys", "init", h.origin, "--type", kind, "--sign", "vault:transit/" + h.name, "--anchor", "vault:secret/" + h.name, "--wrap", "vault:transit/" + h.name + "-tenant"}
	if who == nil {
		args = append(args, "--no-policies")
	} else {
		args = append(args, "--policies", h.name)
	}
	var ok bool
	if _, h.init, ok = strings.Cut(h.tally(args...), "# For the configuration:\n"); !ok {
		t.Fatal("keys init says nothing for the configuration")
	}
	h.vkey = regexp.MustCompile(`(?m)^public_key: (\S+)$`).FindStringSubmatch(h.init)[1]
	// A second time it changes nothing, for somebody who logged in with Vault's own tool.
	h.write(".vault-token", s.root)
	again := h.command("tally", args...)
	again.Env = slices.DeleteFunc(again.Env, func(v string) bool { return strings.HasPrefix(v, "VAULT_TOKEN=") })
	if out, err := again.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), h.init) {
		t.Errorf("keys init says another thing the second time: %v\n%s\nand said:\n%s", err, out, h.init)
	}
	if err := os.Remove(filepath.Join(h.dir, ".vault-token")); err != nil {
		t.Error(err)
	}
	caller := h.tally("keys", "new", "alice")
	h.caller, h.hash = regexp.MustCompile(`tk-\S+`).FindString(caller), regexp.MustCompile(`[0-9a-f]{64}`).FindString(caller)
	h.write("vault.token", s.root+"\n")
	h.who = fmt.Sprintf("vault: {address: %q, timeout: 1s, login: {token: {file: vault.token}}}\n", s.url)
	if who != nil {
		h.who = who(h)
	}
	h.model = h.serveModel()
	h.calls, h.reads = freePort(t), freePort(t)
	h.write("policy", "log "+h.vkey+"\nquorum none\n")
	h.configure("")
	return h
}

// configure writes the configuration, with further lines.
func (h *house) configure(more string) {
	h.t.Helper()
	h.write("tally.yaml", fmt.Sprintf(`log: local:data/log
origin: %s
policy: policy
%s
%s%slisten: %s
gateway:
  id: gw
  listen: %s
  journal: data/journal
  callers:
    - {name: alice, sha256: %s}
  routes:
    - {name: openai, api: openai, upstream: "http://%s", credential: %s}
`, h.origin, h.init, h.who, more, h.reads, h.calls, h.hash, h.model, h.credential))
}

func (h *house) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// serveModel runs a fake model until the test ends. Its key lies in Vault.
func (h *house) serveModel() string {
	h.t.Helper()
	h.vault.do(h.t, "PUT", "secret/data/"+h.name+"-model", `{"data":{"key":"sk-model"}}`)
	h.credential = "{vault: secret/" + h.name + "-model#key}"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gatewaytest.New(gatewaytest.Config{Key: "sk-model"}).Run(ctx, ln) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("the model: %v", err)
		}
	})
	return ln.Addr().String()
}

// command is one of the product's, as an administrator of Vault would run it.
func (h *house) command(name string, args ...string) *exec.Cmd {
	h.t.Helper()
	c := exec.Command(program(h.t, name), args...)
	c.Dir = h.dir
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "VAULT_ADDR=" + h.vault.url, "VAULT_TOKEN=" + h.vault.root, "VAULT_CLIENT_TIMEOUT=20"}
	return c
}

// tally runs the operator's command to its end, which must be a good one.
func (h *house) tally(args ...string) string {
	h.t.Helper()
	c := h.command("tally", args...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		h.t.Fatalf("tally %v: %v: %s", args, err, errs.String())
	}
	return string(out) + errs.String()
}

// verify runs the auditor's command, which must end with that code.
func (h *house) verify(want int, args ...string) string {
	h.t.Helper()
	c := h.command("tally-verify", args...)
	c.Env = nil
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	if code := c.ProcessState.ExitCode(); code != want {
		h.t.Errorf("tally-verify %v: exit %d, want %d\n%s", args, code, want, out)
	}
	return string(out)
}

// launch starts the process. It does not come as an administrator.
func (h *house) launch() {
	h.t.Helper()
	h.cmd = h.command("tally", "serve", "--config", "tally.yaml")
	h.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir}
	h.out = new(lockedBuffer)
	h.cmd.Stdout, h.cmd.Stderr = h.out, h.out
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	cmd, gone := h.cmd, make(chan struct{})
	h.gone = gone
	go func() {
		h.end = cmd.Wait()
		close(gone)
	}()
	h.t.Cleanup(h.kill)
}

// start starts the process and waits until calls pass.
func (h *house) start() {
	h.t.Helper()
	h.launch()
	await(h.t, "calls to pass", func() error {
		if h.ended() {
			h.t.Fatalf("it ended with %v\n%s", h.end, h.out)
		}
		_, _, err := h.call("are you there")
		return err
	})
}

func (h *house) ended() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

func (h *house) kill() {
	h.cmd.Process.Kill()
	<-h.gone
}

func (h *house) stop() {
	h.t.Helper()
	h.cmd.Process.Signal(os.Interrupt)
	if <-h.gone; h.end != nil {
		h.t.Errorf("it ended with %v\n%s", h.end, h.out)
	}
}

// says has the process do something, and waits until it says what is wanted, once more.
func (h *house) says(what string, do func()) {
	h.t.Helper()
	before := strings.Count(h.out.String(), what)
	do()
	await(h.t, "the process to say "+what, func() error {
		if strings.Count(h.out.String(), what) == before {
			return errors.New(h.out.String())
		}
		return nil
	})
}

// reload tells the process to read its file again, and waits until it has taken it.
func (h *house) reload() {
	h.t.Helper()
	h.says("goes on with other keys", func() { h.cmd.Process.Signal(syscall.SIGHUP) })
}

// statusError is an answer of the gateway that is not 200.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// call makes one call. The session was answered whole when there is no error.
func (h *house) call(prompt string) (session, answer string, err error) {
	body, err := json.Marshal(map[string]any{"model": gatewaytest.ChatModel, "messages": []any{map[string]any{"role": "user", "content": prompt}}})
	if err != nil {
		return "", "", err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+h.calls+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+h.caller)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &statusError{resp.StatusCode, string(b)}
	}
	return resp.Header.Get("Tallystick-Session"), string(b), err
}

// get reads from the log's listener.
func (h *house) get(path string) (int, []byte, error) {
	client := http.Client{Timeout: patience}
	resp, err := client.Get("http://" + h.reads + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// metric reads one figure.
func (h *house) metric(name string) (float64, error) {
	_, b, err := h.get("/.tallystick/metrics")
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^tally_log_` + name + `\{[^}]*\} (\S+)$`).FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("no metric %s in %s", name, b)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// settle waits until everything that is there now is published, and returns the checkpoint.
func (h *house) settle() []byte {
	h.t.Helper()
	var size float64
	await(h.t, "the log to say how large it is", func() (err error) { size, err = h.metric("size"); return err })
	var signed []byte
	await(h.t, "everything to be published", func() error {
		code, b, err := h.get("/checkpoint")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("checkpoint: %d %s %v", code, b, err)
		}
		c, err := tlog.UnverifiedCheckpoint(b)
		if err == nil && float64(c.Size) < size {
			err = fmt.Errorf("%d of %v entries are\n%s", c.Size, size, h.out)
		}
		signed = b
		return err
	})
	return signed
}

// outcomes reads the log, as whoever likes can, and returns how each session ended; "" for one that has not.
func (h *house) outcomes() map[string]record.Outcome {
	h.t.Helper()
	ctx := h.t.Context()
	r, err := tiles.FromURL("http://"+h.reads, http.DefaultClient, tiles.Limits{})
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(h.settle())
	if err != nil {
		h.t.Fatal(err)
	}
	out := make(map[string]record.Outcome)
	for next := uint64(0); next < c.Size; {
		tile := tlog.TileAt(tlog.EntriesLevel, next, c.Size)
		b, err := tlog.ReadTile(ctx, r, tile)
		if err != nil {
			h.t.Fatal(err)
		}
		entries, err := tlog.ParseBundle(b, tile.Width)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, b := range entries {
			e, err := record.ParseEntry(b)
			if err != nil {
				h.t.Fatal(err)
			}
			switch e.Kind {
			case record.Request:
				out[e.Session.String()] = ""
			case record.Response:
				out[e.Session.String()] = e.Outcome
			}
		}
		next += uint64(tile.Width)
	}
	return out
}

// complete says that all sessions are on record, whole.
func (h *house) complete(sessions []string) {
	h.t.Helper()
	outcomes := h.outcomes()
	for _, s := range sessions {
		if o := outcomes[s]; o != record.Complete {
			h.t.Errorf("the session %s was answered whole, and is on record as %q", s, o)
		}
	}
}

// A lookout reads the checkpoint of a log over and over again, and opens each with verifiers that are not ours: whatever is
// signed must be signed by keys that are known, and by nobody else, and must not get smaller.
type lookout struct {
	h     *house
	stop  chan struct{}
	ended chan struct{}

	mu    sync.Mutex
	known []note.Verifier
	seen  []sighting // in order
}

// A sighting is a checkpoint that was not there the time before.
type sighting struct {
	tlog.Checkpoint
	keys map[uint32]bool // whose signatures are on it
}

func (h *house) look(vkeys ...string) *lookout {
	h.t.Helper()
	l := &lookout{h: h, stop: make(chan struct{}), ended: make(chan struct{})}
	for _, k := range vkeys {
		l.know(k)
	}
	go func() {
		defer close(l.ended)
		var last []byte
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			code, b, err := h.get("/checkpoint")
			if err == nil && code == http.StatusOK && !bytes.Equal(b, last) {
				l.see(b)
				last = b
			}
		}
	}()
	h.t.Cleanup(l.end)
	return l
}

func (l *lookout) know(vkey string) {
	l.h.t.Helper()
	v, err := formats.NewVerifier(vkey)
	if err != nil {
		l.h.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = append(l.known, v)
}

func (l *lookout) see(signed []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := note.Open(signed, note.VerifierList(l.known...))
	if err != nil || len(n.UnverifiedSigs) > 0 {
		l.h.t.Errorf("a checkpoint with a key that nobody knows: %v\n%s", err, signed)
		return
	}
	c, err := tlog.ParseCheckpoint([]byte(n.Text))
	if err != nil {
		l.h.t.Errorf("%v\n%s", err, signed)
		return
	}
	s := sighting{c, make(map[uint32]bool)}
	for _, sig := range n.Sigs {
		s.keys[sig.Hash] = true
	}
	if k := len(l.seen); k > 0 && (c.Size < l.seen[k-1].Size || c.Size == l.seen[k-1].Size && c.Root != l.seen[k-1].Root) {
		l.h.t.Errorf("a checkpoint of %d entries after one of %d", c.Size, l.seen[k-1].Size)
	}
	l.seen = append(l.seen, s)
}

// sightings returns what was seen.
func (l *lookout) sightings() []sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]sighting(nil), l.seen...)
}

func (l *lookout) end() {
	select {
	case <-l.ended:
	default:
		close(l.stop)
		<-l.ended
	}
}

// freePort returns an address that was free: processes that are killed come back to it. It is below those that the system
// gives out to connections, one of which could have taken it before the process does.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err != nil {
			continue
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// A lockedBuffer is written by a process and read by the test.
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
