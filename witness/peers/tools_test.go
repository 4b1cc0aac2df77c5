package peers

import (
	"bytes"
	"context"
	"encoding/json"
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

	"k8s.io/klog/v2"
)

// The programs of the other side, in the versions of go.mod.
var programs = []string{
	"filippo.io/sunlight/cmd/skylight",
	"filippo.io/sunlight/cmd/sunlight",
	"filippo.io/torchwood/cmd/litewitness",
	"github.com/transparency-dev/witness/cmd/omniwitness",
	"./loadtest", // see mendLoadTest
}

var bin string // where they are built, for as long as the tests run

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "witness-peers-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		klog.LogToStderr(false) // Tessera tells its progress
		klog.SetOutput(io.Discard)
		return m.Run()
	}())
}

// build builds the programs, once. Its error says what the go command said.
var build = sync.OnceValue(func() error {
	overlay, err := mendLoadTest()
	if err != nil {
		return err
	}
	_, err = goCommand(append([]string{"build", "-ldflags=-s -w", "-overlay", overlay, "-o", bin + string(os.PathSeparator)}, programs...)...)
	return err
})

func goCommand(args ...string) (string, error) {
	var failed bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, failed.Bytes())
	}
	return string(out), nil
}

// mendLoadTest writes an overlay for the go command in which this module has omniwitness's load test, mended so that it can
// begin with an empty log. As it is, it ends at once: it asks for a consistency proof from size 0, and the merkle library
// that it is built with has none.
func mendLoadTest() (overlay string, err error) {
	out, err := goCommand("mod", "download", "-json", "github.com/transparency-dev/witness") // listing it does not fetch it
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil || module.Dir == "" {
		return "", fmt.Errorf("go mod download says nothing of where the load test is: %v\n%s", err, out)
	}
	path := filepath.Join(module.Dir, "cmd", "loadtest", "loadtest.go")
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	const asks = "\tnodes, err := proof.Consistency(l.witnessedSize, l.size)\n"
	if strings.Count(string(src), asks) != 1 {
		return "", fmt.Errorf("%s is not what it was: see whether it still needs mending", path)
	}
	mended := filepath.Join(bin, "loadtest.go")
	src = []byte(strings.Replace(string(src), asks, "\tif l.witnessedSize == 0 {\n\t\treturn cpSigned, l.size, nil\n\t}\n"+asks, 1))
	if err := os.WriteFile(mended, src, 0o600); err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, "loadtest", "loadtest.go"): mended}})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(bin, "overlay.json")
	return overlay, os.WriteFile(overlay, replace, 0o600)
}

// unreachable are the words by which the go command says that it did not reach the module proxy.
var unreachable = []string{"dial tcp", "no such host", "connection refused", "i/o timeout", "TLS handshake", "module lookup disabled"}

// tool returns the path of a program. Where modules are missing and the proxy cannot be reached, the test is skipped; not so in CI.
func tool(t testing.TB, name string) string {
	t.Helper()
	if err := build(); err != nil {
		for _, s := range unreachable {
			if strings.Contains(err.Error(), s) && os.Getenv("CI") != "true" {
				t.Skipf("SKIPPED, NOTHING WAS TESTED: the module proxy cannot be reached, so %s cannot be built: %v", name, err)
			}
		}
		t.Fatal(err)
	}
	return filepath.Join(bin, name)
}

// A program is one that runs.
type program struct {
	said  lockedBuffer
	ended chan struct{} // closed when it has
}

// start runs a program until the test ends, and shows what it said if the test failed.
func start(t testing.TB, dir, name string, args ...string) *program {
	t.Helper()
	p := &program{ended: make(chan struct{})}
	cmd := exec.Command(tool(t, name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &p.said, &p.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.said.String())
		}
	})
	return p
}

// run runs a program to its end.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

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

// freePort returns an address on the loopback where nobody listened a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// await waits until a server answers at url, whatever it says.
func await(t testing.TB, url string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			return
		}
	}
	t.Fatalf("nobody answers at %s", url)
}
