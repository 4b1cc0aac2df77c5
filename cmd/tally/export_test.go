package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// Sessions are handed out in every format, from a running log and from a closed one, and it is on record which.
func TestExportFormats(t *testing.T) {
	p := newPlace(t)
	p.start("--no-samples")
	one, _, err := p.chat(http.DefaultClient, "What is a tally stick?", true)
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := p.chat(http.DefaultClient, "=1+1", false)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy")
	copyFile(t, p.vars["POLICY"], policy)
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := p.tally(append([]string{"export"}, args...)...)
		if code != 0 {
			t.Fatalf("export %v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	for _, where := range []string{"running", "closed"} {
		if where == "closed" {
			p.stop()
		}
		at := []string{"--data", p.data, "--reason", where}
		out := func(name string) string { return filepath.Join(dir, where+name) }

		run(append(at, one, two, "-o", out(".bundle"))...)
		if stdout, stderr, code := p.verify("bundle", out(".bundle"), "--policy", policy); code != 0 || strings.Count(stdout, "session-complete") != 2 {
			t.Fatalf("%s: exit %d: %s%s", where, code, stdout, stderr)
		}

		var har struct {
			Log struct {
				Entries []struct {
					Of struct{ Session string } `json:"_tallystick"`
				}
			}
		}
		if err := json.Unmarshal([]byte(run(append(at, one, two, "--format", "har", "-o", "-")...)), &har); err != nil || len(har.Log.Entries) != 2 || har.Log.Entries[1].Of.Session != two {
			t.Errorf("%s: %v, %+v", where, err, har)
		}
		if where == "running" { // the others are made of a bundle in the same way
			rows, err := csv.NewReader(strings.NewReader(run(append(at, one, two, "--format", "csv", "-o", "-")...))).ReadAll()
			if err != nil || len(rows) != 3 || rows[2][0] != two {
				t.Errorf("%v, %q", err, rows)
			}
			if s := run(append(at, two, one, "--format", "jsonl", "-o", "-")...); strings.Count(s, "\n") != 2 || !strings.Contains(s, "What is a tally stick?") || strings.Index(s, two) > strings.Index(s, one) {
				t.Errorf("%s", s)
			}
			if s := run(append(at, two, "--format", "jsonl-anthropic", "-o", "-")...); !strings.Contains(s, `"response":{`) {
				t.Errorf("%s", s)
			}
			if s := run(append(at, one, "--format", "curl", "-o", "-")...); !strings.Contains(s, "$KEY") || strings.Contains(s, p.vars["API_KEY"]) {
				t.Errorf("%s", s)
			}
			if s := run(append(at, one, "--format", "cast", "-o", "-")...); !strings.HasPrefix(s, `{"version":3,`) || !strings.HasSuffix(s, "\"x\",\"0\"]\n") {
				t.Errorf("%s", s)
			}
		}

		// The certificate is about the bundle beside it.
		run(append(at, one, "--format", "certificate", "-o", out(".html"), "--as", "Carol", "--policy", policy)...)
		page, err := os.ReadFile(out(".html"))
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := os.ReadFile(out(".bundle"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(page, fmt.Appendf(nil, "%x", sha256.Sum256(bundle))) || !bytes.Contains(page, []byte("Carol")) || !bytes.Contains(page, []byte(">"+where+"<")) || !bytes.Contains(page, []byte("claims hold")) {
			t.Errorf("%s: the certificate is not about its bundle: %.3000s", where, page)
		}
		if stdout, _, code := p.verify("bundle", out(".bundle"), "--policy", policy); code != 0 {
			t.Errorf("%s: exit %d: %s", where, code, stdout)
		}

		// What cannot be, and says so once.
		unknown := record.NewID(time.Now().Add(-time.Hour)).String()
		if _, errs, code := p.tally("export", unknown, "--data", p.data); code != exitFailed || strings.Count(errs, unknown) != 1 || !strings.Contains(errs, "no such session") {
			t.Errorf("%s: exit %d: %s", where, code, errs)
		}
	}
	for _, args := range [][]string{
		{one, two, "--format", "curl"}, {one, two, "--format", "cast"}, {one, one}, {one, "--format", "zip"}, {one, "--format", "certificate", "-o", "-"},
		{one, "--policy", policy}, {}, {"x"},
	} {
		if _, errs, code := p.tally(append([]string{"export", "--data", p.data}, args...)...); code != 64 {
			t.Errorf("export %v: exit %d: %s", args, code, errs)
		}
	}

	// A policy of somebody else's believes nothing of it: there is a page, and nothing to sign.
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("quorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := p.tally("export", one, "--data", p.data, "--format", "certificate", "-o", filepath.Join(dir, "false.html"), "--policy", other); code != exitFailed || !strings.Contains(errs, "not every claim") {
		t.Errorf("exit %d: %s", code, errs)
	}

	// All of it stands in the readers' trail, in words that tell what was handed out. (What
	// the closed log was asked for is there as well, but not published before its witness is there again.)
	tl := &tally{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), lookup: func(name string) (string, bool) { return p.state, name == "XDG_STATE_HOME" }}
	got := make(map[string]int)
	if err := tl.atDesk(context.Background(), &source{data: p.data}, func(ctx context.Context, d *audit.Desk) error {
		all, _, err := d.Trail(ctx, audit.Asker{Name: "dan", Reason: "a test", Roles: audit.Auditor}, 0, 1000)
		for _, r := range all {
			got[r.Reason+": "+r.What]++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{
		"export": 2, "export as HAR": 2, "export as CSV": 2, "export as JSON lines": 3, "export as a curl command": 1, "export as asciicast": 1, "certificate of custody": 1,
	} {
		if got["running: "+what] < n { // more, where a session had to be asked for again
			t.Errorf("%q is on record %d times, not %d: %v", what, got["running: "+what], n, got)
		}
	}
}
