package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tally-witness": main})
}

// The stories are in testdata/script.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"start":  start,
			"stop":   stop,
			"get":    get,
			"until":  until,
			"sum":    sum,
			"cert":   cert,
			"only":   only,
			"concat": concat,
		},
	})
}

// TestBounds: whoever sends slowly, or a long head, does not hold a place for long, at any address.
func TestBounds(t *testing.T) {
	h := &house{log: slog.New(slog.DiscardHandler), maxConns: 2}
	if err := h.add("submit", "127.0.0.1:0", http.NotFoundHandler(), nil); err != nil {
		t.Fatal(err)
	}
	s := h.rooms[0].server
	for name, limit := range map[string]time.Duration{"head": s.ReadHeaderTimeout, "request": s.ReadTimeout, "answer": s.WriteTimeout, "idle": s.IdleTimeout} {
		if limit <= 0 || limit > 2*time.Minute {
			t.Errorf("%s: %v", name, limit)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	for _, c := range []struct {
		size, status int
	}{{1 << 10, 404}, {24 << 10, 431}} {
		req, err := http.NewRequest("GET", h.rooms[0].url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", strings.Repeat("x", c.size))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("a head of %d bytes: %d, want %d", c.size, resp.StatusCode, c.status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// exits runs a command and wants one exit code: exits 64 tally-witness
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// A process is a witness that runs.
type process struct {
	cmd  *exec.Cmd
	urls map[string]string // submit, monitor, ops
	keys []string
	log  *lockedBuffer
}

// A lockedBuffer is written by a process and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// launch starts the command in dir and returns when it says where it serves; it serves by then.
func launch(dir string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command("tally-witness", append([]string{"serve"}, args...)...), urls: make(map[string]string), log: new(lockedBuffer)}
	p.cmd.Dir, p.cmd.Stderr = dir, p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	want := map[string]bool{"submit": true}
	for _, a := range args {
		if a == "--monitor-listen" || a == "--ops-listen" {
			want[strings.TrimSuffix(strings.TrimPrefix(a, "--"), "-listen")] = true
		}
	}
	for len(want) > 0 && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name == "key" {
			p.keys = append(p.keys, value)
			continue
		}
		p.urls[name] = value
		delete(want, name)
	}
	if len(want) > 0 {
		p.cmd.Wait()
		return nil, fmt.Errorf("it has not begun to serve:\n%s", p.log)
	}
	go io.Copy(io.Discard, out)
	return p, nil
}

// start starts a witness, whose addresses are then $SUBMIT, $MONITOR and $OPS, its keys $KEY1 and $KEY2, and its process
// $PID: start ARG...
func start(ts *testscript.TestScript, neg bool, args []string) {
	p, err := launch(ts.MkAbs("."), args...)
	ts.Check(err)
	ts.Defer(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	for name, url := range p.urls {
		ts.Setenv(strings.ToUpper(name), url)
	}
	for i, k := range p.keys {
		ts.Setenv(fmt.Sprintf("KEY%d", i+1), k)
	}
	ts.Setenv("PID", strconv.Itoa(p.cmd.Process.Pid))
	processes.Store(p.cmd.Process.Pid, p)
}

// processes are those that stories have started, by their ids.
var processes sync.Map

// running returns the witness that a story started last.
func running(ts *testscript.TestScript) *process {
	pid, err := strconv.Atoi(ts.Getenv("PID"))
	ts.Check(err)
	p, ok := processes.Load(pid)
	if !ok {
		ts.Fatalf("no witness runs")
	}
	return p.(*process)
}

// stop interrupts the witness, wants exit code 0, and leaves what it logged in a file: stop FILE
func stop(ts *testscript.TestScript, neg bool, args []string) {
	p := running(ts)
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	if err := p.cmd.Wait(); err != nil {
		ts.Fatalf("%v\n%s", err, p.log)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(p.log.String()), 0o644))
}

// get fetches an address into a file, its status in the first line, its headers after it: get URL FILE
func get(ts *testscript.TestScript, neg bool, args []string) {
	text, err := fetch(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o644))
}

func fetch(url string) (string, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var head bytes.Buffer
	if resp.TLS != nil {
		fmt.Fprintf(&head, "over %s\nfrom %s\n", resp.Proto, resp.TLS.PeerCertificates[0].Subject.CommonName)
	}
	resp.Header.Write(&head)
	return fmt.Sprintf("%d\n%s\n%s", resp.StatusCode, head.Bytes(), b), nil
}

// until waits until an address answers with a text somewhere: until URL TEXT
func until(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(time.Minute)
	for {
		text, err := fetch(args[0])
		if err == nil && strings.Contains(text, args[1]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v\n%s", args[0], err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sum puts the name that monitors give a log into $SUM: sum ORIGIN
func sum(ts *testscript.TestScript, neg bool, args []string) {
	s := sha256.Sum256([]byte(args[0]))
	ts.Setenv("SUM", hex.EncodeToString(s[:]))
}

// cert makes a certificate for NAME and its key: cert NAME CERTFILE KEYFILE
func cert(ts *testscript.TestScript, neg bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	template.Subject.CommonName = args[0]
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for file, block := range map[string]*pem.Block{args[1]: {Type: "CERTIFICATE", Bytes: der}, args[2]: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		ts.Check(os.WriteFile(ts.MkAbs(file), pem.EncodeToMemory(block), 0o600))
	}
}

// only wants a directory to have just these files: only DIR FILE...
func only(ts *testscript.TestScript, neg bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		got = append(got, filepath.Base(e.Name()))
	}
	if strings.Join(got, " ") != strings.Join(args[1:], " ") {
		ts.Fatalf("%s has %q", args[0], got)
	}
}

// concat puts a file of others' content into the place of another, at once: concat FILE FILE...
func concat(ts *testscript.TestScript, neg bool, args []string) {
	var all []byte
	for _, name := range args[1:] {
		all = append(all, ts.ReadFile(name)...)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".new"), all, 0o644))
	ts.Check(os.Rename(ts.MkAbs(args[0]+".new"), ts.MkAbs(args[0])))
}
