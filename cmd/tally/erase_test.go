package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// What was planted in sessions, and what became of it on the disk.
type planted struct {
	words  []string          // plain
	sealed map[string][]byte // pieces of sealed payloads, by what they are
	keys   map[string][]byte // sealed data keys
}

// holdings reads, in a closed data directory, what it has of sessions beside their words.
func (p *place) holdings(what *planted, ids ...string) {
	p.t.Helper()
	what.sealed, what.keys = make(map[string][]byte), make(map[string][]byte)
	c, err := config.Load(filepath.Join(p.data, configFile))
	if err != nil {
		p.t.Fatal(err)
	}
	l, err := assemble.OpenReadOnly(c, assemble.Env{LookupEnv: os.LookupEnv, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	signed, err := l.Checkpoint(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	at, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, s := range ids {
		id, err := record.ParseID(s)
		if err != nil {
			p.t.Fatal(err)
		}
		chain, err := record.FindSession(context.Background(), l, at.Size, id, 0)
		if err != nil || len(chain) == 0 {
			p.t.Fatalf("session %s: %d entries, %v", s, len(chain), err)
		}
		for _, f := range chain {
			sealed, err := l.Payload(context.Background(), f.Entry.Payload)
			if err != nil {
				p.t.Fatal(err)
			}
			name, err := record.KeyOf(sealed)
			if err != nil {
				p.t.Fatal(err)
			}
			body := sealed[len("TSP1")+1+len(name):]
			for part, from := range map[string]int{"beginning": 0, "middle": len(body) / 2, "end": len(body) - 24} {
				what.sealed[fmt.Sprintf("the %s of the payload of entry %d", part, f.Index)] = bytes.Clone(body[from : from+24])
			}
			key, err := ring.ParseID(name)
			if err != nil {
				p.t.Fatal(err)
			}
			seg, err := os.ReadFile(filepath.Join(p.data, "ring", fmt.Sprintf("%x.seg", key[4:12])))
			if err != nil {
				p.t.Fatal(err)
			}
			slot := 8192 + 64*int(binary.BigEndian.Uint32(key[12:]))
			what.keys[fmt.Sprintf("the sealed data key of entry %d", f.Index)] = bytes.Clone(seg[slot : slot+60])
		}
	}
}

// lies says what of it is found, and in which file of the data directory or the state directory.
func (p *place) lies(what *planted) (found []string) {
	p.t.Helper()
	search := make(map[string][]byte)
	for _, w := range what.words {
		search["the words "+w] = []byte(w)
	}
	for _, m := range []map[string][]byte{what.sealed, what.keys} {
		for k, v := range m {
			search[k] = v
		}
	}
	files := 0
	for _, dir := range []string{p.data, p.state} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			for name, bytesOf := range search {
				if bytes.Contains(b, bytesOf) {
					found = append(found, name+" in "+path)
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a running store deletes files
			p.t.Fatal(err)
		}
	}
	if files < 10 {
		p.t.Fatalf("only %d files were looked at", files)
	}
	slices.Sort(found)
	return found
}

// What a caller sent, what was streamed to it, and what an approver wrote are planted, erased, and looked for in every file: the
// words, the sealed bytes and the sealed keys. So it is when the process is killed in between, and when nothing was running.
func TestErasedIsGone(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"running", "killed", "closed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.start("--no-samples")
			p.env = []string{"TALLYSTICK_GATEWAY=" + p.vars["GATEWAY_URL"], "TALLYSTICK_KEY=" + p.vars["APPROVER_KEY"]}
			must := func(args ...string) string {
				t.Helper()
				stdout, stderr, code := p.tally(args...)
				if code != 0 {
					t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
				}
				return stdout
			}
			what := &planted{words: []string{"marzipan heliotrope", "bassoon periwinkle", "velvet rutabaga"}}
			streamed, answer, err := p.chat(http.DefaultClient, "/slow 2ms /say "+strings.Repeat("bassoon periwinkle and ", 40), true)
			if err != nil || !strings.Contains(answer, "bassoon") {
				t.Fatalf("%v: %s", err, answer)
			}
			prompted, _, err := p.chat(http.DefaultClient, "never say marzipan heliotrope. /size 30KB", false)
			if err != nil {
				t.Fatal(err)
			}
			kept, _, err := p.chat(http.DefaultClient, "what is kept", false)
			if err != nil {
				t.Fatal(err)
			}
			asked := p.approve("velvet rutabaga, I said yes to that")
			policy := filepath.Join(t.TempDir(), "policy")
			copyFile(t, p.vars["POLICY"], policy)
			ids := []string{streamed, prompted, asked}
			bundles := t.TempDir()
			for _, id := range append(ids, kept) {
				must("export", id, "--data", p.data, "-o", filepath.Join(bundles, id+".before"))
			}
			p.stop()
			p.holdings(what, ids...)
			if found := p.lies(what); len(found) < len(what.sealed)+len(what.keys) {
				t.Fatalf("of %d sealed pieces and %d keys these are found before: %q", len(what.sealed), len(what.keys), found)
			}

			order := append([]string{"erase", "--data", p.data, "--reason", "they asked for it", "--basis", "GDPR Art. 17(1)(b)"}, ids...)
			if how != "closed" {
				p.start("--no-samples")
			}
			if dry := must(append(order, "--dry-run")...); strings.Count(dry, audit.Would) != len(ids) {
				t.Errorf("to try it:\n%s", dry)
			}
			switch how {
			case "killed":
				if said := must(order...); strings.Count(said, "  "+audit.Erased+"  ") != len(ids) {
					t.Errorf("%s", said)
				}
				p.kill()
				p.start("--no-samples")
				if said := must(append(order, "--now")...); strings.Count(said, audit.Already) != len(ids) {
					t.Errorf("again:\n%s", said)
				}
			default:
				if said := must(append(order, "--now")...); strings.Count(said, "  "+audit.Erased+"  ") != len(ids) {
					t.Errorf("%s", said)
				}
			}
			if found := p.lies(what); len(found) > 0 {
				t.Errorf("found after it was erased: %q", found)
			}
			if how == "closed" {
				p.start("--no-samples")
			}
			must("keys", "rewrap", "--data", p.data)
			for _, id := range append(ids, kept) {
				after := filepath.Join(bundles, id+".after")
				must("export", id, "--data", p.data, "-o", after)
				for _, file := range []string{filepath.Join(bundles, id+".before"), after} {
					stdout, stderr, code := p.verify("bundle", file, "--policy", policy)
					if code != 0 {
						t.Errorf("bundle %s: exit %d\n%s%s", file, code, stdout, stderr)
					}
					said := regexp.MustCompile(`erased on \S+ by "[^"]+" on the ground of "GDPR Art. 17\(1\)\(b\)"`).MatchString(stdout)
					if said != (file == after && id != kept) {
						t.Errorf("bundle %s says %s", file, stdout)
					}
				}
			}
			p.stop()
			static := filepath.Join(t.TempDir(), "static")
			must("export", "--all", "-o", static, "--data", p.data)
			if stdout, stderr, code := p.verify("log", "--dir", static, "--policy", policy); code != 0 {
				t.Errorf("the log: exit %d\n%s%s", code, stdout, stderr)
			}
			if found := p.lies(what); len(found) > 0 {
				t.Errorf("found at the end: %q", found)
			}
			must("fsck", "--data", p.data)
		})
	}
}

// approve makes a call that needs somebody's yes, gives it for a reason, and returns its session.
func (p *place) approve(reason string) (session string) {
	p.t.Helper()
	done := make(chan got, 1)
	go func() {
		req, err := p.request(context.Background(), "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"risky"}]}`, askedModel))
		if err != nil {
			done <- got{0, err.Error()}
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- got{0, err.Error()}
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		done <- got{resp.StatusCode, string(b)}
	}()
	await(p.t, "it waits", func() bool {
		stdout, _, _ := p.tally("approvals")
		session = regexp.MustCompile(`(?m)^([0-9a-f-]{36}) +waiting `).FindString(stdout)
		return session != ""
	})
	session = strings.Fields(session)[0]
	if _, errs, code := p.tally("approve", session, "--yes", "--reason", reason); code != 0 {
		p.t.Fatalf("exit %d: %s", code, errs)
	}
	if g := <-done; g.code != 200 {
		p.t.Fatalf("%+v", g)
	}
	return session
}

// Rules of retention refuse what people order, and erase what is due, on the command line.
func TestRetention(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	var ids []string
	for _, prompt := range []string{"one", "two", "three"} {
		id, _, err := p.chat(http.DefaultClient, prompt, false)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids { // which waits until it is published
		if _, errs, code := p.tally("export", id, "--data", p.data, "-o", "-"); code != 0 {
			t.Fatalf("export: exit %d: %s", code, errs)
		}
	}
	p.stop()
	text, err := os.ReadFile(filepath.Join(p.data, configFile))
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(p.data, "retention.yaml")
	write := func(retention string) {
		t.Helper()
		if err := os.WriteFile(rules, append(slices.Clone(text), retention...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\nretention:\n  - {name: case, sessions: [" + ids[0] + "], hold: case 17}\n  - {name: books, sessions: [" + ids[1] + "], keep: 2y}\n  - {name: all, erase_after: 0d}\n")
	file := filepath.Join(p.data, "sessions")
	if err := os.WriteFile(file, []byte("# of a complaint\n"+ids[0]+"\n\n"+ids[1]+" # another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := p.tally("erase", "--config", rules, "--session-file", file, "--reason", "r", "--basis", "b")
	if code != 1 || strings.Count(out, "  "+audit.Kept+": ") != 2 || !strings.Contains(out, "case 17") || !strings.Contains(out, "by the rule books") || !strings.Contains(errs, "kept: 2") {
		t.Errorf("exit %d:\n%s%s", code, out, errs)
	}
	out, errs, code = p.tally("retain", "--config", rules, "--dry-run")
	if code != 0 || !strings.HasPrefix(out, ids[2]+"  "+audit.Would) || strings.Count(out, "\n") != 1 {
		t.Errorf("exit %d:\n%s%s", code, out, errs)
	}
	out, errs, code = p.tally("retain", "--config", rules, "--now", "--json")
	if code != 0 || !strings.HasPrefix(out, `{"session":"`+ids[2]+`","fate":"erased"`) || strings.Count(out, "\n") != 1 || !strings.Contains(errs, "off the log's disk") {
		t.Errorf("exit %d:\n%s%s", code, out, errs)
	}
	write("\nretention:\n  - {name: books, sessions: [" + ids[1] + "], keep: 2y}\n")
	out, errs, code = p.tally("erase", "--config", rules, "--before", "0d", "--reason", "the case is closed", "--basis", "b")
	if code != 1 || !strings.Contains(out, ids[0]+"  "+audit.Erased) || !strings.Contains(out, ids[1]+"  "+audit.Kept) || !strings.Contains(out, ids[2]+"  "+audit.Already) {
		t.Errorf("exit %d:\n%s%s", code, out, errs)
	}
	p.start("--no-samples")
	await(t, "the erasures are published", func() bool { return p.kinds()[record.Erasure] == 2 })
	p.stop()
}

// What runs applies the rules on schedule, and goes by other rules when it is told to read its file again.
func TestRetainsOnSchedule(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	var ids []string
	for range 2 {
		id, _, err := p.chat(http.DefaultClient, "hello", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, errs, code := p.tally("export", id, "--data", p.data, "-o", "-"); code != 0 {
			t.Fatalf("export: exit %d: %s", code, errs)
		}
		ids = append(ids, id)
	}
	p.stop()
	text, err := os.ReadFile(filepath.Join(p.data, configFile))
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(p.data, "retention.yaml")
	write := func(retention string) {
		t.Helper()
		if err := os.WriteFile(rules, append(slices.Clone(text), retention...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\nretain_every: 50ms\nretention:\n  - {name: case, sessions: [" + ids[0] + "], hold: case 17}\n  - {name: all, erase_after: 0d}\n")
	out := &lockedBuffer{}
	p.cmd = p.command("serve", "--config", rules)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	erased := func() int { return strings.Count(out.String(), "msg=retention erased=1") }
	await(t, "the one that is not held is erased", func() bool { return erased() == 1 })
	time.Sleep(300 * time.Millisecond) // in which the other could be, wrongly
	if erased() != 1 {
		t.Errorf("a hold held nothing:\n%s", out)
	}
	write("\nretain_every: 50ms\nretention:\n  - {name: all, erase_after: 0d}\n")
	p.cmd.Process.Signal(syscall.SIGHUP)
	await(t, "the hold is off and the other is erased", func() bool { return erased() == 2 })
	p.kill() // in order it would wait for its witness, which ended with the demo
	said, errs, code := p.tally("erase", "--config", rules, "--before", "0d", "--dry-run", "--reason", "r", "--basis", "b")
	if code != 0 || strings.Count(said, audit.Already) != 2 {
		t.Errorf("exit %d\n%s%s", code, said, errs)
	}
}

// The process is killed at random while it erases. After the next start every session is there whole, and nothing of its erasure is
// on record, or gone for good, and on record; and the order is carried out when it is given again.
func TestKilledErasing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for round := range 3 {
		p.start("--no-samples")
		var calls sync.WaitGroup
		for range 12 {
			calls.Go(func() {
				if _, _, err := p.chat(http.DefaultClient, "what is to be erased", false); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		order := []string{"erase", "--data", p.data, "--before", "0d", "--reason", "r", "--basis", "b"}
		published := func() (n int) {
			for _, o := range p.outcomes() {
				if o == record.Complete {
					n++
				}
			}
			return n
		}
		if first, _, err := p.chat(http.DefaultClient, "the last", false); err != nil {
			t.Fatal(err)
		} else if _, errs, code := p.tally("export", first, "--data", p.data, "-o", "-"); code != 0 {
			t.Fatal(errs)
		}
		if n := published(); n != 13*(round+1) {
			t.Fatalf("%d sessions are published", n)
		}
		c := p.command(order...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+rand.IntN(60)) * time.Millisecond) // somewhere in it
		p.kill()
		c.Process.Kill()
		c.Wait()

		p.start("--no-samples")
		// What is recovered: every session that stands in an erasure entry, and no other, is gone.
		var announced map[record.ID]bool
		await(t, "the erasures are finished", func() bool {
			announced = make(map[record.ID]bool)
			p.entries(func(e record.Entry) {
				if e.Kind == record.Erasure {
					announced[e.Session] = true
				}
			})
			out, errs, code := p.tally(append(order, "--dry-run", "--json")...)
			if code != 0 {
				t.Fatal(errs)
			}
			for id := range announced {
				if strings.Contains(out, `{"session":"`+id.String()+`","fate":"`+audit.Would) {
					return false
				}
			}
			return strings.Count(out, `"fate":"`+audit.Already) == len(announced)
		})
		t.Logf("killed after %d erasures", len(announced)-13*round)
		if out, errs, code := p.tally(append(order, "--now")...); code != 0 || strings.Count(out, audit.Erased+"  ") != 13*(round+1)-len(announced) {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
		p.stop()
		if _, errs, code := p.tally("fsck", "--data", p.data); code != 0 {
			t.Error(errs)
		}
	}
}

// The README's way to erase, followed beside the demo, and its rules, which the configuration takes.
func TestReadmeErasing(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## Erasing\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	commands := regexp.MustCompile(`(?m)^    bin/tally (erase .*)$`).FindAllStringSubmatch(section, -1)
	_, yaml, ok := strings.Cut(section, "\n    retention:\n")
	yaml, _, _ = strings.Cut(yaml, "\n\n")
	if len(commands) != 2 || !ok {
		t.Fatalf("the README erases in another way: %s", section)
	}
	p := newPlace(t)
	p.start("--no-samples")
	session, _, err := p.chat(http.DefaultClient, "hello", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, errs, code := p.tally("export", session, "--data", p.data, "-o", "-"); code != 0 {
		t.Fatalf("export: exit %d: %s", code, errs)
	}
	for i, c := range commands {
		var args []string
		for n, part := range strings.Split(c[1], `"`) {
			if n%2 == 1 {
				args = append(args, part)
				continue
			}
			args = append(args, strings.Fields(strings.NewReplacer("$SESSION", session, "--data demo", "--data "+p.data).Replace(part))...)
		}
		if out, errs, code := p.tally(args...); code != 0 || strings.Contains(out, audit.Erased) != (i == 1) {
			t.Errorf("%q: exit %d\n%s%s", args, code, out, errs)
		}
	}
	p.stop()
	whole := "log: local:log\norigin: log.example/x\nkey: k\nanchor: dir:a\nlisten: :0\ndata_keys: {dir: r, kek: k}\ngateway:\n  id: gw-1\n  listen: :0\n  journal: j\n" +
		"  callers: [{name: alice, sha256: \"00\"}]\n  routes: [{name: openai, api: openai, upstream: \"https://api.openai.com\"}]\nretention:\n" + regexp.MustCompile(`(?m)^    `).ReplaceAllString(yaml, "") + "\n"
	c, err := config.Parse([]byte(whole), ".")
	if err != nil || len(c.Retention) != 3 || c.Retention[2].Hold == "" {
		t.Errorf("%v\n%s", err, whole)
	}
}

func TestEraseUsage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	id := record.NewID(time.Now()).String()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{id}, 64, "--reason"},
		{[]string{id, "--reason", "r"}, 64, "--basis"},
		{[]string{"--reason", "r", "--basis", "b"}, 64, "name sessions"},
		{[]string{"x", "--reason", "r", "--basis", "b"}, 64, "id"},
		{[]string{id, "--caller", "a", "--reason", "r", "--basis", "b"}, 64, "not both"},
		{[]string{"--before", "yesterday", "--reason", "r", "--basis", "b"}, 64, "90d"},
		{[]string{"--session-file", "nowhere", "--reason", "r", "--basis", "b"}, 1, "nowhere"},
		{[]string{id, "--reason", "r", "--basis", "b"}, 1, "say where the log is"},
	} {
		_, errs, code := p.tally(append([]string{"erase"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit %d: %s", c.args, code, errs)
		}
	}
}

func TestParseBefore(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"2026-01-31": "2026-01-31T00:00:00Z", "2026-01-31T12:00:00+02:00": "2026-01-31T10:00:00Z", "90d": "2026-08-27T12:00:00Z", "2y": "2024-11-25T12:00:00Z", "0d": "2026-11-25T12:00:00Z",
		"": "", "90": "", "31.1.2026": "", "2026-02-30": "", "1h": "",
	} {
		at, err := parseBefore(s, now)
		if (err == nil) != (want != "") || err == nil && at.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q is %s, %v", s, at, err)
		}
	}
}

func FuzzParseSessions(f *testing.F) {
	f.Add("# nothing\n\n" + record.NewID(time.Now()).String() + " # one\n")
	f.Add("x\n")
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := parseSessions(strings.NewReader(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, id := range ids {
			if id.IsZero() {
				t.Error("a session without an id")
			}
			fmt.Fprintln(&again, id)
		}
		if back, err := parseSessions(strings.NewReader(again.String())); err != nil || !slices.Equal(back, ids) {
			t.Errorf("%q is %v, and read again %v, %v", text, ids, back, err)
		}
	})
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{`{"session":"0198f2c1-667b-7728-960c-f5ec8c385e21","fate":"erased"}`, `{"done":true}`, `{"done":false,"error":"x"}`, `{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fate, last, err := parseLine(b)
		if err == nil && (last == nil) == (fate.Fate == "") {
			t.Errorf("%q is %+v and %+v", b, fate, last)
		}
		if last != nil && err == nil && !last.Done && last.Error == "" {
			t.Errorf("%q ends an answer, and says nothing", b)
		}
	})
}
