package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/original"
)

// sealed writes, into a closed log, a session whose bodies were masked and are sealed as they were.
func (p *place) sealed(s *original.Sealer, asked, answered string) record.ID {
	p.t.Helper()
	check := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(p.data, configFile))
	check(err)
	// The data key first: a ring has one owner at a time.
	kek, err := file.LoadKEK(filepath.Join(p.data, "kek.key"))
	check(err)
	r, err := ring.Open(c.DataKeys.Dir, ring.Config{KEK: kek})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	name, key, err := ring.ByName{Ring: r}.New(ctx)
	check(err)
	cancel()
	check(<-done)
	check(r.Close())

	env := (&tally{stderr: p.t.Output(), lookup: os.LookupEnv}).env(slog.New(slog.DiscardHandler))
	env.Brief = true
	v, err := assemble.OpenVault(c, env)
	check(err)
	pen, err := record.NewWriter(record.WriterConfig{ID: "gw-test", Log: v.Log, Software: "test", Mode: "none", Heartbeat: time.Minute})
	check(err)
	coder, err := record.NewCoder(1)
	check(err)
	id := record.NewID(time.Now())
	check(assemble.While(context.Background(), v, pen, func(ctx context.Context) error {
		var after *record.Ticket
		for _, x := range []struct{ kind, masked, exact string }{{"request", "my card is [CARD]", asked}, {"response", "so it is [CARD]", answered}} {
			var r record.Record
			r.Add(record.FieldSession, []byte(id.String()))
			r.Add(record.FieldBody, []byte(x.masked))
			if err := s.Add(&r, record.FieldBody, []byte(x.exact)); err != nil {
				return err
			}
			e := record.Entry{Kind: record.Kind(x.kind), Session: id, Root: r.Root(), Fields: len(r)}
			if e.Kind == record.Response {
				e.Outcome = record.Complete
			}
			payload, err := coder.Seal(r, key, name, record.Binding{Kind: e.Kind, Session: id, Root: e.Root})
			if err != nil {
				return err
			}
			e.Payload, e.PayloadSize = record.Sum(payload), int64(len(payload))
			if after, err = pen.Write(ctx, record.Draft{Entry: e, Payload: payload, After: after}); err != nil {
				return err
			}
		}
		return nil
	}))
	return id
}

// In an emergency somebody with the identity, and a reason, sees what was sent. Nobody else does; who did is on record; and neither
// the exact bytes nor the identity are anywhere on the disk.
func TestUnseal(t *testing.T) {
	p := newPlace(t)
	p.start("--no-samples")
	masked, _, err := p.chat(http.DefaultClient, "nothing is sealed of this", false)
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mine, others := filepath.Join(dir, "mine"), filepath.Join(dir, "others")
	for path, k := range map[string]*age.X25519Identity{mine: key, others: other} {
		if err := os.WriteFile(path, []byte("# created: today\n"+k.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := original.NewSealer([]string{key.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	asked, answered := "my card is 4111 1111 1111 1111\x00\x1b[2J", "so it is 4111 1111 1111 1111"
	id := p.sealed(s, asked, answered)
	p.start("--no-samples") // which publishes it
	policy := filepath.Join(dir, "policy")
	copyFile(t, p.vars["POLICY"], policy)
	for _, running := range []bool{true, false} {
		if !running {
			p.stop()
		}
		for _, x := range []struct {
			args []string
			want string // of standard output
			code int
			says string
		}{
			{[]string{id.String(), "--identity", mine, "--field", "request.body", "--reason", "an emergency"}, asked, 0, ""},
			{[]string{id.String(), "--identity", mine, "--field", "response.body", "--reason", "an emergency"}, answered, 0, ""},
			{[]string{id.String(), "--identity", mine, "--reason", "an emergency"}, "", 1, "request.original.body and response.original.body"},
			{[]string{id.String(), "--identity", others, "--field", "request.body", "--reason", "an emergency"}, "", 1, "sealed to others"},
			{[]string{masked, "--identity", mine, "--reason", "an emergency"}, "", 1, "no sealed originals"},
			{[]string{id.String(), "--identity", mine, "--field", "request.body"}, "", 64, "say why"},
			{[]string{id.String(), "--identity", mine, "--field", "request.body", "--reason", " "}, "", 64, "say why"},
			{[]string{id.String(), "--field", "request.body", "--reason", "an emergency"}, "", 64, "--identity"},
			{[]string{id.String(), "--identity", filepath.Join(dir, "none"), "--field", "request.body", "--reason", "an emergency"}, "", 1, "no such file"},
			{[]string{id.String(), "--identity", policy, "--field", "request.body", "--reason", "an emergency"}, "", 1, "not an identity file"},
			{[]string{"x", "--identity", mine, "--reason", "an emergency"}, "", 64, "not an id"},
		} {
			if !running && x.code == 1 && !strings.Contains(x.says, "others") {
				continue // each opens the log, which takes its time, and tells nothing new
			}
			stdout, stderr, code := p.tally(append([]string{"unseal", "--data", p.data}, x.args...)...)
			if stdout != x.want || code != x.code || !strings.Contains(stderr, x.says) {
				t.Errorf("running %t, %s: exit %d, %q: %s", running, x.args, code, stdout, stderr)
			}
			if strings.Contains(stdout+stderr, "AGE-SECRET-KEY-1") || code != 0 && strings.Contains(stderr, "4111") {
				t.Errorf("running %t, %s: it says too much: %s", running, x.args, stderr)
			}
		}
		out := filepath.Join(dir, "out")
		if _, stderr, code := p.tally("unseal", id.String(), "--data", p.data, "--identity", mine, "--field", "request.body", "--reason", "an emergency", "-o", out); code != 0 {
			t.Errorf("exit %d: %s", code, stderr)
		}
		b, err := os.ReadFile(out)
		if err != nil || string(b) != asked {
			t.Fatalf("%q is written: %v", b, err)
		}
		if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("others can read it: %v, %v", st.Mode(), err)
		}
		os.Remove(out)
		if running { // two were unsealed, one in vain, one for another's identity, one into a file
			await(t, "five readings are on record", func() bool {
				n := 0
				p.entries(func(e record.Entry) {
					if e.Kind == record.Access && e.Session == id {
						n++
					}
				})
				return n >= 5
			})
		}
	}
	for _, where := range []string{p.data, p.state} {
		for path, b := range readTree(t, where) {
			for what, secret := range map[string]string{"the card": "4111 1111", "an identity": "AGE-SECRET", "an age file": "age-encryption.org"} {
				if bytes.Contains(b, []byte(secret)) {
					t.Errorf("%s is in %s", what, path)
				}
			}
		}
	}
}
