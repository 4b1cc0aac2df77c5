package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tally-verify": main})
}

// The stories are in testdata/script. Each begins with the vectors of package verify and a log in the directory log,
// whose key is in $KEY and whose policy in log.policy.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			if err := os.CopyFS(env.WorkDir, os.DirFS("../../verify/testdata")); err != nil {
				return err
			}
			if err := bareProof(env.WorkDir); err != nil {
				return err
			}
			return makeLog(t, env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"edit":   edit,
			"reseal": reseal,
			"serve":  serve,
			"sparse": sparse,
			"glob":   glob,
			"damage": damage,
		},
	})
}

// bareProof makes a proof file without its entry, and the entry.
func bareProof(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "day.tlog-proof"))
	if err != nil {
		return err
	}
	f, err := tlog.ParseProofFile(raw)
	if err != nil {
		return err
	}
	entry := f.Extra
	f.Extra = nil
	if raw, err = f.Append(nil); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "bare.tlog-proof"), raw, 0o644), os.WriteFile(filepath.Join(dir, "entry.json"), entry, 0o644))
}

// makeLog writes the log of a gateway that had 300 calls, died in one, and came back.
func makeLog(t *testing.T, env *testscript.Env) error {
	ctx := context.Background()
	l := tlogtest.NewLog(t)
	if err := boot(ctx, l, false); err != nil {
		return err
	}
	if err := boot(ctx, l, true); err != nil {
		return err
	}
	if _, err := l.Publish(); err != nil {
		return err
	}
	if _, err := tiles.Copy(ctx, filepath.Join(env.WorkDir, "log"), l); err != nil {
		return err
	}
	if err := forge(ctx, t, filepath.Join(env.WorkDir, "forged"), l); err != nil {
		return err
	}
	env.Setenv("ESC", "\x1b")
	env.Setenv("KEY", l.VerifierKey())
	env.Setenv("SIZE", strconv.FormatUint(l.Size(), 10))
	return os.WriteFile(filepath.Join(env.WorkDir, "log.policy"), l.Policy(), 0o644)
}

// forge writes the same log with another outcome of its last call, as whoever has its key and its disk can: every tile
// made anew, and signed.
func forge(ctx context.Context, t *testing.T, dir string, l *tlogtest.Log) error {
	other := tlogtest.Start(t, tlogtest.Config{Manual: true})
	ts := tlog.Tiles{Reader: l, Size: l.Size()}
	for i := range ts.Size {
		b, err := ts.Entry(ctx, i)
		if err != nil {
			return err
		}
		if i == ts.Size-2 {
			b = bytes.Replace(b, []byte(`"complete"`), []byte(`"truncated"`), 1)
		}
		if _, err := other.Append(ctx, tlog.Leaf{Entry: b}); err != nil {
			return err
		}
	}
	if _, err := other.Publish(); err != nil {
		return err
	}
	_, err := tiles.Copy(ctx, dir, other)
	return err
}

// boot is one life of the gateway: 150 calls, of which the last stays open if it does not end in order.
func boot(ctx context.Context, l *tlogtest.Log, orderly bool) error {
	w, err := record.NewWriter(record.WriterConfig{ID: "gw-1", Log: l, Reader: l, Software: "tally/1", Mode: "strict"})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.Run(run) }()
	left, err := w.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, u := range left {
		if _, err := w.Write(ctx, draft(record.Response, u.Session, u.Leaf, nil)); err != nil {
			return err
		}
	}
	var last *record.Ticket
	for i := range 150 {
		id := record.NewID(time.Now())
		if last, err = w.Submit(draft(record.Request, id, tlog.Hash{}, nil)); err != nil {
			return err
		}
		if i == 149 && !orderly {
			break
		}
		if last, err = w.Submit(draft(record.Response, id, tlog.Hash{}, last)); err != nil {
			return err
		}
	}
	if err := last.Wait(ctx); err != nil {
		return err
	}
	if !orderly {
		l.Inject(tlogtest.Faults{Append: tlogtest.Always(errors.New("power cut"))})
		defer l.Inject(tlogtest.Faults{})
	}
	stop()
	if err := <-done; (err == nil) != orderly {
		return fmt.Errorf("a boot ended with %v", err)
	}
	return nil
}

func draft(k record.Kind, id record.ID, prev tlog.Hash, after *record.Ticket) record.Draft {
	var r record.Record
	r.Add(record.FieldSession, []byte(id.String()))
	sealed := []byte("sealed " + string(k) + id.String())
	e := record.Entry{Kind: k, Session: id, Prev: prev, Root: r.Root(), Fields: len(r), Payload: record.Sum(sealed), PayloadSize: int64(len(sealed))}
	if k == record.Response {
		e.Outcome = record.Complete
	}
	return record.Draft{Entry: e, Payload: sealed, After: after}
}

// exits runs a command and wants one exit code: exits 64 tally-verify
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

// edit replaces the first of some bytes in a file; both may have Go's escapes: edit FILE OLD NEW
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	old, err := unescape(args[1])
	ts.Check(err)
	now, err := unescape(args[2])
	ts.Check(err)
	data := []byte(ts.ReadFile(args[0]))
	if !bytes.Contains(data, []byte(old)) {
		ts.Fatalf("%s does not contain %q", args[0], old)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Replace(data, []byte(old), []byte(now), 1), 0o644))
}

func unescape(s string) (string, error) {
	return strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
}

// reseal makes the first line of a bundle fit the rest: reseal FILE
func reseal(ts *testscript.TestScript, neg bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	_, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		ts.Fatalf("no first line")
	}
	sum := sha256.Sum256(body)
	data = append([]byte(verify.Format+" sha256:"+hex.EncodeToString(sum[:])+"\n"), body...)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// serve serves the log in a directory until the story ends, and puts its address into $URL: serve DIR
func serve(ts *testscript.TestScript, neg bool, args []string) {
	d, err := tiles.FromDir(ts.MkAbs(args[0]), tiles.Limits{})
	ts.Check(err)
	s := httptest.NewServer(tiles.Handler(d, tiles.Options{}))
	ts.Defer(func() { s.Close(); d.Close() })
	ts.Setenv("URL", s.URL)
}

// sparse makes a file of so many zeros that take no room: sparse FILE BYTES
func sparse(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o644))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// glob wants exactly one file of a pattern; of evidence it gives the two checkpoints plain names: glob PATTERN
func glob(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if neg || len(files) != 1 {
		ts.Fatalf("%d files: %q", len(files), files)
	}
	if name, ok := strings.CutSuffix(files[0], ".json"); ok {
		for _, which := range []string{"a", "b"} {
			signed, err := os.ReadFile(name + "." + which + ".checkpoint")
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(filepath.Dir(name), which), signed, 0o644))
		}
	}
}

// damage flips a bit of what a monitor remembers: damage DIR
func damage(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*", "state"))
	ts.Check(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		b[len(b)/2] ^= 1
		ts.Check(os.WriteFile(f, b, 0o644))
	}
}

// A monitor that is told to stop says what has come of it, and that nothing was found.
func TestMonitorStops(t *testing.T) {
	l := tlogtest.NewLog(t)
	if err := boot(t.Context(), l, true); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Publish(); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(tiles.Handler(l, tiles.Options{}))
	defer s.Close()
	dir := t.TempDir()
	policy, secret := filepath.Join(dir, "policy"), filepath.Join(dir, "secret")
	if err := errors.Join(os.WriteFile(policy, l.Policy(), 0o644), os.WriteFile(secret, []byte("s\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &waiting{until: "grown", then: cancel}
	var errs bytes.Buffer
	code := run(ctx, []string{"monitor", "--url", s.URL, "--state", filepath.Join(dir, "state"), "--policy", policy, "--interval", "1ms", "--webhook", s.URL, "--webhook-secret", secret},
		strings.NewReader(""), out, &errs, func(string) string { return "" })
	if code != 0 || errs.Len() > 0 || !strings.Contains(out.String(), "stopped") || strings.Contains(out.String(), "ALERT") {
		t.Errorf("exit code %d\n%s%s", code, out, &errs)
	}
}

// waiting is an output that does something when it has said something.
type waiting struct {
	bytes.Buffer
	until string
	then  func()
}

func (w *waiting) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if strings.Contains(w.String(), w.until) {
		w.then()
	}
	return n, err
}
