package peers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/vault"
)

// A server is a Vault, or a part of one, that runs as a process on loopback.
type server struct {
	url  string
	root string // a token that may do everything
	cmd  *exec.Cmd
}

// patience is how long what takes moments may take on a loaded machine.
const patience = time.Minute

// startTransit starts the engines alone.
func startTransit(t *testing.T, args ...string) *server {
	t.Helper()
	return start(t, exec.Command(program(t, "transit"), args...), "root", func(line string) string {
		if strings.HasPrefix(line, "http://") {
			return line
		}
		return ""
	})
}

// start starts a server, which ends with the test, and waits until one of its lines gives its address.
func start(t *testing.T, cmd *exec.Cmd, root string, address func(line string) string) *server {
	t.Helper()
	in, err := cmd.StdinPipe() // its end is the server's
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{root: root, cmd: cmd}
	t.Cleanup(func() {
		s.signal(t, syscall.SIGCONT)
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	found := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(io.TeeReader(out, &said))
		for lines.Scan() {
			if a := address(lines.Text()); a != "" {
				found <- a
				break
			}
		}
		close(found)
		io.Copy(io.Discard, out)
	}()
	select {
	case a, ok := <-found:
		if !ok {
			t.Fatalf("%s said nothing of an address:\n%s", cmd.Path, said.String())
		}
		s.url = a
	case <-time.After(patience):
		t.Fatalf("%s does not start", cmd.Path)
	}
	return s
}

// signal stops the server (SIGSTOP: it hangs, its connections stay) or lets it go on.
func (s *server) signal(t *testing.T, sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !strings.Contains(err.Error(), "finished") {
		t.Error(err)
	}
}

// do asks as root, by other means than ours. It wants a status below 300, or the one that is given.
func (s *server) do(t *testing.T, method, path, body string, want ...int) map[string]any {
	t.Helper()
	r, err := http.NewRequest(method, s.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", s.root)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 && resp.StatusCode >= 300 || len(want) > 0 && resp.StatusCode != want[0] {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	var m map[string]any
	json.Unmarshal(b, &m)
	return m
}

// client returns a client that logs in with a token.
func (s *server) client(t *testing.T, token string) *vault.Client {
	t.Helper()
	return s.open(t, vault.Login{Token: keys.Credential{File: file(t, token)}})
}

func (s *server) open(t *testing.T, login vault.Login) *vault.Client {
	t.Helper()
	c, err := vault.New(vault.Config{Address: s.url, Login: login, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func file(t *testing.T, content string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, content)
	return f.Name()
}

func ref(t *testing.T, s string) keys.Reference {
	t.Helper()
	r, err := keys.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
