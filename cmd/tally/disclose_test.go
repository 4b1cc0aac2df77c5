package main

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// One field of a call is shown to an outsider, from a running log and from a closed one. The auditor's tool names it, and what was
// withheld cannot be found in the file.
func TestDisclose(t *testing.T) {
	p := newPlace(t)
	p.start("--no-samples")
	session, answer, err := p.chat(http.DefaultClient, "a very private question", false)
	if err != nil {
		t.Fatal(err)
	}
	id, err := record.ParseID(session)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy")
	copyFile(t, p.vars["POLICY"], policy)
	running, closed, whole := filepath.Join(dir, "running"), filepath.Join(dir, "closed"), filepath.Join(dir, "whole")
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := p.tally(args...)
		if code != 0 {
			t.Fatalf("tally %s: exit %d: %s", strings.Join(args, " "), code, stderr)
		}
		return stdout + stderr
	}
	names := strings.Fields(run("disclose", session, "--list", "--data", p.data))
	said := run("disclose", session, "--fields", "caller, response.status", "-o", running, "--data", p.data, "--reason", "asked for")
	if !strings.Contains(said, "It shows request.caller response.status\n") {
		t.Errorf("it says: %s", said)
	}
	if _, stderr, code := p.tally("disclose", session, "--fields", "body", "-o", filepath.Join(dir, "none"), "--data", p.data); code != 1 || !strings.Contains(stderr, "request.body or response.body") {
		t.Errorf("which body? exit %d: %s", code, stderr)
	}
	await(t, "three readings are on record", func() bool {
		n := 0
		p.entries(func(e record.Entry) {
			if e.Kind == record.Access && e.Session == id {
				n++
			}
		})
		return n >= 3 // more, where it was not published yet and was asked for again
	})
	p.stop()
	run("disclose", session, "--fields", "response.*", "-o", closed, "--data", p.data)
	if _, stderr, code := p.tally("disclose", session, "--fields", "password", "-o", filepath.Join(dir, "none"), "--data", p.data); code != 1 || !strings.Contains(stderr, `no "password"`) {
		t.Errorf("what is not there: exit %d: %s", code, stderr)
	}
	run("export", session, "-o", whole, "--data", p.data)
	for _, args := range [][]string{{session}, {session, "--list", "--fields", "status"}, {"x", "--list"}, {}} {
		if _, stderr, code := p.tally(append([]string{"disclose", "--data", p.data}, args...)...); code != 64 || stderr == "" {
			t.Errorf("tally disclose %q: exit %d: %s", args, code, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("a file was written of what cannot be shown")
	}

	// What stands in the records, all of it.
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	b, err := verify.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	holds := make(map[string]record.Field)
	for _, e := range b.Sessions[0].Entries {
		st, err := record.ParseEntry(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range e.Fields {
			holds[string(st.Kind)+"."+f.Shown.Name] = *f.Shown
		}
	}
	if len(names) != len(holds) {
		t.Errorf("%d names of %d fields: %s", len(names), len(holds), names)
	}
	for _, name := range names {
		if _, ok := holds[name]; !ok {
			t.Errorf("there is no field %s", name)
		}
	}
	for file, want := range map[string]string{running: "request.caller response.status", closed: "response."} {
		stdout, stderr, code := p.verify("bundle", file, "--policy", policy)
		if code != 0 {
			t.Fatalf("%s: exit %d: %s%s", file, code, stdout, stderr)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown, withheld, err := inBundle(raw)
		if err != nil || len(shown)+withheld != len(holds) {
			t.Errorf("%s shows %s and withholds %d, of %d: %v", file, shown, withheld, len(holds), err)
		}
		if file == running && strings.Join(shown, " ") != want || !strings.HasPrefix(shown[len(shown)-1], "response.") {
			t.Errorf("%s shows %s", file, shown)
		}
		for name, f := range holds {
			salt := bytes.Contains(raw, []byte(base64.StdEncoding.EncodeToString(f.Salt[:])))
			if is := strings.Contains(" "+strings.Join(shown, " ")+" ", " "+name+" "); is != salt {
				t.Errorf("%s: %s is shown, %t; its salt is there, %t", file, name, is, salt)
			}
			if file == running && len(f.Value) > 8 && f.Name != record.FieldSession && bytes.Contains(raw, f.Value) {
				t.Errorf("%s: the value of %s is there", file, name)
			}
		}
		if bytes.Contains(raw, []byte("very private")) && file == running || bytes.Contains(raw, []byte("choices")) && file == running {
			t.Errorf("%s shows what was said", file)
		}
	}
	if !strings.Contains(answer, "choices") || !bytes.Contains(holds["request.body"].Value, []byte("very private")) {
		t.Error("this shows nothing: the call has another content")
	}
}
