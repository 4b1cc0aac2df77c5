package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

// TestForkIsSeen has an operator show the log's witness one continuation of his log and everybody else another. Whoever
// follows the log alone cannot know; with the witness's checkpoint beside it, the monitor finds both, keeps them, and
// does not go on.
func TestForkIsSeen(t *testing.T) {
	a := newApartment(t, false)
	seen := "http://" + a.background("what the witness shows", func(ctx context.Context, ln net.Listener) error {
		srv := &http.Server{Handler: a.cosigned.MonitorHandler()}
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		if err := srv.Serve(ln); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	// What an auditor trusts who has the log's key only.
	full, err := os.ReadFile(a.vars["POLICY"])
	if err != nil {
		t.Fatal(err)
	}
	logOnly, _, _ := strings.Cut(string(full), "\n")
	logOnly += "\nquorum none\n"
	trusted := filepath.Join(a.dir, "policy.log-only")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(trusted, logOnly)
	want := uint64(0)
	run := func(calls uint64) {
		t.Helper()
		a.log.start()
		a.gw.start()
		a.answers()
		for range calls {
			if _, _, err := a.chat(http.DefaultClient, "hello", false); err != nil {
				t.Fatalf("%v\n%s\n%s", err, a.log.out, a.gw.out)
			}
		}
		want += 2 * (calls + 1)
		await(t, "a checkpoint over every call", func() bool {
			resp, err := http.Get(a.vars["LOG_URL"] + "/checkpoint")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			signed, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				return false
			}
			c, err := tlog.UnverifiedCheckpoint(signed)
			return err == nil && c.Size >= want
		})
	}
	follow := func(state string, more ...string) (string, int) {
		t.Helper()
		out, errs, code := a.verify(append([]string{"monitor", "--once", "--url", a.vars["LOG_URL"], "--policy", trusted, "--state", filepath.Join(a.dir, state)}, more...)...)
		return out + errs, code
	}

	run(3)
	if out, code := follow("beside", "--witness-url", seen); code != 0 || strings.Contains(out, "FALSE") {
		t.Fatalf("an honest log: exit %d\n%s", code, out)
	}
	if out, code := follow("alone"); code != 0 {
		t.Fatalf("an honest log: exit %d\n%s", code, out)
	}
	a.gw.stop()
	a.log.stop()
	before := filepath.Join(a.dir, "before")
	copyTree(t, filepath.Join(a.dir, "data"), filepath.Join(before, "data"))
	copyTree(t, filepath.Join(a.state, "anchor"), filepath.Join(before, "anchor"))

	honest := want
	run(5) // one continuation, cosigned
	a.gw.stop()
	a.log.stop()

	// The other one, which the witness does not get to see.
	for from, to := range map[string]string{filepath.Join(before, "data"): filepath.Join(a.dir, "data"), filepath.Join(before, "anchor"): filepath.Join(a.state, "anchor")} {
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		copyTree(t, from, to)
	}
	write(a.vars["POLICY"], logOnly)
	want = honest
	run(9)

	if out, code := follow("alone"); code != 0 {
		t.Fatalf("the monitor that looks at the log alone: exit %d\n%s", code, out)
	}
	out, code := follow("beside", "--witness-url", seen)
	if code != 1 || !strings.Contains(out, "FALSE") || !strings.Contains(out, "evidence: ") {
		t.Fatalf("the monitor that asks the witness as well: exit %d\n%s", code, out)
	}
	// The evidence is two checkpoints that the log signed, or one and a proof; whoever has the key can check it.
	signed := 0
	for line := range strings.Lines(out) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), "evidence: "); ok {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			signed += strings.Count(string(text), "— log.example/apart ")
		}
	}
	if signed < 2 {
		t.Errorf("the evidence holds %d of the log's signatures\n%s", signed, out)
	}
	t.Log(out)
}
