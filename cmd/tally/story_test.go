package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A session is handed to an auditor, from a running log and from a closed one; and what is not so is found.
func TestExportAndVerify(t *testing.T) {
	p := newPlace(t)
	p.start()
	session, _, err := p.chat(http.DefaultClient, "hello", true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy") // the running log's address goes with it; keep a copy
	copyFile(t, p.vars["POLICY"], policy)
	running, byURL, closed := filepath.Join(dir, "running"), filepath.Join(dir, "url"), filepath.Join(dir, "closed")
	mustRun := func(_, stderr string, code int) {
		t.Helper()
		if code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
	}
	mustRun(p.tally("export", session, "-o", running, "--data", p.data))
	mustRun(p.tally("export", session, "-o", byURL, "--log", p.vars["LOG_URL"], "--reason", "a test"))
	mustRun(p.tally("export", "--all", "-o", filepath.Join(dir, "copy"), "--log", p.vars["LOG_URL"]))
	mustRun(p.verify("log", "--dir", filepath.Join(dir, "copy"), "--policy", policy))
	mustRun(p.verify("log", "--url", p.vars["LOG_URL"], "--policy", policy))
	p.stop()
	mustRun(p.tally("export", session, "-o", closed, "--data", p.data))
	mustRun(p.tally("fsck", "--data", p.data))
	for _, b := range []string{running, byURL, closed} {
		stdout, stderr, code := p.verify("bundle", b, "--policy", policy)
		if code != 0 {
			t.Fatalf("%s: exit %d: %s%s", b, code, stdout, stderr)
		}
	}

	// Some bits of a real bundle; every bit of a small one is the verify room's business.
	good, err := os.ReadFile(closed)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		bad := bytes.Clone(good)
		i := rand.IntN(len(bad) * 8)
		bad[i/8] ^= 1 << (i % 8)
		path := filepath.Join(dir, "flipped")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, _, code := p.verify("bundle", path, "--policy", policy)
		if code != 1 && code != 2 || !strings.Contains(stdout, "FALSE") {
			t.Fatalf("bit %d flipped: exit %d and no claim is named:\n%s", i, code, stdout)
		}
	}

	// The same name, another log.
	other := newPlace(t)
	other.start("--no-samples")
	stdout, _, code := p.verify("bundle", closed, "--policy", other.vars["POLICY"])
	if code != 1 || !strings.Contains(stdout, "checkpoint-signed") {
		t.Errorf("with another log's policy: exit %d\n%s", code, stdout)
	}

	// A session that nobody made.
	_, stderr, code := p.tally("export", record.NewID(time.Now()).String(), "--data", p.data)
	if code != 1 || !strings.Contains(stderr, "no such session") {
		t.Errorf("export of a session that is not there: exit %d: %s", code, stderr)
	}
}

// A data directory that was put back to an older copy, or has lost the end of its write-ahead log, is refused: reads are
// served, nothing is signed, no call passes.
func TestRolledBack(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, p *place, old string)
	}{
		{"older copy", func(t *testing.T, p *place, old string) {
			if err := os.RemoveAll(p.data); err != nil {
				t.Fatal(err)
			}
			copyTree(t, old, p.data)
		}},
		{"only the log is older", func(t *testing.T, p *place, old string) {
			if err := os.RemoveAll(filepath.Join(p.data, "log")); err != nil {
				t.Fatal(err)
			}
			copyTree(t, filepath.Join(old, "log"), filepath.Join(p.data, "log"))
		}},
		{"the last WAL is gone", func(t *testing.T, p *place, _ string) {
			if err := os.Remove(lastWAL(t, p)); err != nil {
				t.Fatal(err)
			}
		}},
		{"the last WAL is cut", func(t *testing.T, p *place, _ string) {
			wal := lastWAL(t, p)
			fi, err := os.Stat(wal)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(wal, fi.Size()/2); err != nil {
				t.Fatal(err)
			}
		}},
		{"the log is gone", func(t *testing.T, p *place, _ string) {
			if err := os.RemoveAll(filepath.Join(p.data, "log")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			p.start("--no-samples")
			call := func(n int) {
				for i := range n {
					if _, _, err := p.chat(http.DefaultClient, fmt.Sprint("call ", i), false); err != nil {
						t.Fatal(err)
					}
				}
			}
			call(5)
			p.kill()
			old := filepath.Join(t.TempDir(), "old")
			copyTree(t, p.data, old)
			p.start("--no-samples")
			call(20)
			p.kill() // with the write-ahead log as it is in earnest: full
			c.harm(t, p, old)
			anchored := readTree(t, filepath.Join(p.state, "tallystick", "anchor"))

			p.start("--no-samples")
			await(t, "quarantine is spoken of", func() bool { return strings.Contains(p.out.String(), "QUARANTINE") })
			_, _, err := p.chat(http.DefaultClient, "one more", false)
			if err == nil || !strings.Contains(err.Error(), "record_unavailable") {
				t.Errorf("a call in quarantine: %v", err)
			}
			time.Sleep(300 * time.Millisecond) // three times the interval in which a checkpoint would be signed
			// Nothing is signed that was not anchored before, and the anchor has not moved.
			for path, b := range readTree(t, filepath.Join(p.state, "tallystick", "anchor")) {
				if !bytes.Equal(b, anchored[path]) {
					t.Errorf("%s has changed:\n%q\n%q", path, anchored[path], b)
				}
			}
			if n := len(evidence(t, p)); n == 0 {
				t.Error("no evidence was written")
			}
			p.cmd.Process.Signal(os.Interrupt)
			if p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with exit code %d", p.cmd.ProcessState.ExitCode())
			}
		})
	}
}

func evidence(t *testing.T, p *place) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(p.data, "log", "quarantine", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// lastWAL returns the newest write-ahead log that has something in it.
func lastWAL(t *testing.T, p *place) string {
	t.Helper()
	var last string
	err := filepath.WalkDir(filepath.Join(p.data, "log"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".log") {
			if fi, err := d.Info(); err == nil && fi.Size() > 0 && path > last {
				last = path
			}
		}
		return err
	})
	if err != nil || last == "" {
		t.Fatalf("no write-ahead log: %v", err)
	}
	return last
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS widens modes; keys are refused when others can read them.
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readTree returns every file below a directory.
func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The service credential is on the wire and nowhere else, even when the model sends it back in every way it can.
func TestCredentialIsNowhere(t *testing.T) {
	p := newPlace(t)
	p.start()
	key, err := os.ReadFile(filepath.Join(p.data, "model.key"))
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.TrimSpace(key)
	var answers bytes.Buffer
	for _, c := range []struct {
		prompt string
		stream bool
	}{
		{"/echo-auth hello", false}, {"/echo-auth hello", true}, {"/echo-auth /error 401 hello", false}, {"/echo-auth /error 500 hello", true},
		{"/echo-auth /error-mid 2 hello", true}, {"/echo-auth /cut 3 hello", true}, {"/raw bad-status hello", false},
	} {
		req, err := p.request(t.Context(), "/v1/chat/completions",
			fmt.Sprintf(`{"model":"fake-1","stream":%t,"messages":[{"role":"user","content":%q}]}`, c.stream, c.prompt))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&answers, resp.Header)
		b, _ := io.ReadAll(resp.Body) // some are cut
		answers.Write(b)
		resp.Body.Close()
		session := resp.Header.Get("Tallystick-Session")
		out := filepath.Join(t.TempDir(), "bundle")
		if _, stderr, code := p.tally("export", session, "-o", out, "--data", p.data); code != 0 {
			t.Fatalf("export: %s", stderr)
		}
		b, err = os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		answers.Write(b)
	}
	if !bytes.Contains(answers.Bytes(), []byte("****")) {
		t.Error("nothing was struck out: the model did not send the credential back, and this shows nothing")
	}
	p.stop()
	if bytes.Contains(answers.Bytes(), secret) {
		t.Error("the credential is in an answer or a bundle")
	}
	if strings.Contains(p.out.String(), string(secret)) {
		t.Error("the credential is in what the command printed")
	}
	for _, dir := range []string{p.data, p.state} {
		for path, b := range readTree(t, dir) {
			if bytes.Contains(b, secret) && filepath.Base(path) != "model.key" {
				t.Errorf("the credential is in %s", path)
			}
			if k := p.vars["API_KEY"]; bytes.Contains(b, []byte(k)) && filepath.Base(path) != apiKeyFile {
				t.Errorf("the caller's key is in %s", path)
			}
		}
	}
}

// What is configured wrongly is told so that the next move is plain.
func TestBadConfigurations(t *testing.T) {
	p := newPlace(t)
	p.start("--no-samples")
	p.stop()
	good, err := os.ReadFile(filepath.Join(p.data, configFile))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	swap := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("the configuration has no %q", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		before func(dir string)
		want   string
	}{
		{"an unknown key", swap("gateway:", "gateway:\n  colour: red"), nil, "colour"},
		{"a key twice", swap("origin:", "origin: x.example/1\norigin:"), nil, "origin"},
		{"not YAML", func(string) string { return "log: [" }, nil, "tally.yaml"},
		{"no origin", swap("origin: ", "# "), nil, "origin is missing"},
		{"no such key file", swap("key: log.key", "key: none.key"), nil, "none.key"},
		{"a key that others can read", func(s string) string { return s }, func(dir string) { os.Chmod(filepath.Join(dir, "log.key"), 0o644) }, "chmod 600"},
		{"a key of another log", swap("origin: demo", "origin: other"), nil, "other"},
		{"a wrong mode", swap("journal: journal", "journal: journal\n  mode: quick"), nil, "strict, overlap, open"},
		{"no such variable", swap("file: model.key", "env: NO_SUCH_VARIABLE"), nil, "NO_SUCH_VARIABLE"},
		{"a secret in place of its name", swap("file: model.key", "env: sk-verysecret"), nil, "not repeated"},
		{"a port in use", swap(`listen: "127.0.0.1:0"`, `listen: "`+taken.Addr().String()+`"`), nil, "in use"},
		{"a wrong KEK", func(s string) string { return s }, func(dir string) {
			os.WriteFile(filepath.Join(dir, "kek.key"), []byte("not a key\n"), 0o600)
		}, "kek.key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			copyTree(t, p.data, dir)
			if c.before != nil {
				c.before(dir)
			}
			path := filepath.Join(dir, configFile)
			if err := os.WriteFile(path, []byte(c.change(string(good))), 0o600); err != nil {
				t.Fatal(err)
			}
			_, stderr, code := p.tally("serve", "--config", path)
			if code != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d, and it does not speak of %q:\n%s", code, c.want, stderr)
			}
			if strings.Contains(stderr, "sk-verysecret") {
				t.Error("the secret is repeated")
			}
		})
	}
}

// Wrong usage exits with 64 and says on stderr what is wrong; help exits with 0, on stdout.
func TestUsage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := os.MkdirAll(p.data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 64, "which of these shall it do?"},
		{"frob", 64, `there is no command "frob"; try tally --help`},
		{"demo --frob", 64, "demo: there is no flag --frob; try tally demo --help"},
		{"demo --data", 64, "the flag --data needs a value"},
		{"demo now", 64, `"now" is one argument too many`},
		{"export", 64, "name a session"},
		{"serve", 64, "--config FILE"},
		{"keys", 64, "which of these shall it do?"},
		{"keys frob", 64, `there is no command "keys frob"; try tally keys --help`},
		{"keys new", 64, "keys new: an argument is missing; try tally keys new --help"},
		{"serve --config nowhere.yaml", 1, "nowhere.yaml"},
		{"fsck --data nowhere", 1, "nowhere"},
		{"version", 0, ""},
		{"keys new alice", 0, ""},
		{"help keys rotate", 0, ""},
	} {
		if stdout, stderr, code := p.tally(strings.Fields(c.args)...); code != c.code || !strings.Contains(stderr, c.want) || (stdout == "") != (c.code != 0) {
			t.Errorf("tally %s: exit %d, want %d and %q: %s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
	// Whatever a help text names is there and has help of its own.
	named := regexp.MustCompile(`(?m)^  tally (([a-z][a-z-]* ?)+)`)
	for _, under := range []string{"", "keys ", "policy ", "tokens "} {
		help, _, code := p.tally(strings.Fields(under + "--help")...)
		all := named.FindAllStringSubmatch(help, -1)
		if code != 0 || len(all) < 2 {
			t.Errorf("tally %s--help: exit %d: %s", under, code, help)
		}
		for _, m := range all {
			name := strings.TrimSpace(m[1])
			if stdout, stderr, code := p.tally(strings.Fields(name + " --help")...); code != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: tally "+name) {
				t.Errorf("tally %s --help: exit %d: %s%s", name, code, stdout, stderr)
			}
		}
	}
}

// On a full disk calls are refused before they are sent, and when there is room again they pass; nothing is lost.
func TestFullDisk(t *testing.T) {
	p := newPlace(t)
	if err := os.MkdirAll(p.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", p.data, "tmpfs", 0, "size=400m"); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v); the store's own tests inject a full one", err)
	}
	t.Cleanup(func() {
		p.kill()
		if out, err := exec.Command("umount", p.data).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	p.start("--no-samples")
	kept, _, err := p.chat(http.DefaultClient, "while there is room", false)
	if err != nil {
		t.Fatal(err)
	}
	fill := filepath.Join(p.data, "fill")
	if err := os.WriteFile(fill, make([]byte, 310<<20), 0o600); err != nil {
		t.Logf("the disk took no more: %v", err)
	}
	await(t, "a call is refused", func() bool {
		_, _, err := p.chat(http.DefaultClient, "no room", false)
		return err != nil && strings.Contains(err.Error(), "record_unavailable") && strings.Contains(err.Error(), "disk is full")
	})
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	await(t, "a call passes again", func() bool {
		_, _, err := p.chat(http.DefaultClient, "room again", false)
		return err == nil
	})
	if o := p.outcomes()[kept]; o != record.Complete {
		t.Errorf("the session from before is on record as %q", o)
	}
	if out, errs, code := p.verify("log", "--url", p.vars["LOG_URL"], "--policy", p.vars["POLICY"]); code != 0 {
		t.Errorf("tally-verify log: exit %d\n%s%s", code, out, errs)
	}
	p.stop()
}

// await asks until it is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); {
		if time.Now().After(end) {
			t.Fatalf("%s: it did not come to that", what)
		}
		time.Sleep(50 * time.Millisecond) // another process decides
	}
}
