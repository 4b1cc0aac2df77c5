package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/verify"
)

const help = `Usage: tally-verify COMMAND [flags]

Checks what somebody hands you against keys that you trust, and says claim by
claim what holds, what is false, and what is not proven.

  bundle FILE                 sessions with their entries, proofs and checkpoint
  receipt FILE                what a caller kept of a call: a promise, or a proof
      [--request FILE]        and that these are the bytes that were sent,
      [--response FILE]       and these the ones that came back
      [--url URL | --dir DIR] and that the log still says so
  proof FILE [--entry FILE]   one entry (.tlog-proof); its bytes, if FILE lacks them
  log --url URL | --dir DIR   every entry, tile and kept checkpoint of a log: no
                              number, session, heartbeat or approval missing, no
                              time false
      [--checkpoint PATH]...  and that it continues checkpoints that were kept
                              elsewhere: a file, or a directory of such files
  monitor --url URL... --state DIR
                              the same for what is new, as long as it runs; keeps
                              two checkpoints that contradict each other, and ends
      [--witness-url URL]...  also what witnesses saw, at their monitoring prefixes,
      [--witnesses]           or at the addresses that the policy has for them;
      [--peer URL]...         and what others are shown of the same log
      [--interval 10s] [--max-age 1h] [--patience 5m]
                              how often; how old a cosignature may be; how long the
                              log may be away or uncosigned before that is told
      [--webhook URL] [--webhook-secret FILE]
                              POST what is told as JSON, with an HMAC-SHA-256
      [--once] [--full] [--keep-going]
                              one round; first all again from the first entry; also
                              after a contradiction
  version                     what this program is

Flags, before or after the arguments:
  --policy FILE   whom to believe: logs, witnesses, and how many of these
                  (c2sp.org/tlog-policy); $TALLY_POLICY if it is not given
  --key VKEY      the same for one log whose checkpoints no witness need sign
  --json          one JSON object: verdict, findings, not_proven, error, and of a
                  bundle that withholds something, disclosed and withheld; of
                  monitor one line for each event

FILE may be - for standard input.

Exit codes: 0 every claim holds; 1 something could be read and is false;
2 something could not be read; 64 wrong usage.
`

const noPolicy = `whom shall it believe? Name a policy with --policy FILE, or the log's key with --key VKEY.
Ask the log's operator for either, by another way than the one by which the rest
came: who hands you both may have made both. A policy looks like this:

  log example.com/log+1234abcd+AbCd...
  witness w1 example.org/w+5678abcd+BCde...
  quorum w1
`

// An invocation is one run of the command.
type invocation struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	policy, key    string
	checkpoints    []string
	json           bool
}

// run is the whole command. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	v := &invocation{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv}
	code, err := v.run(ctx, args)
	var usage *cli.UsageError
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "tally-verify: %s\n", usage.Msg)
		if !strings.Contains(usage.Msg, "\n") {
			fmt.Fprintln(stderr, "Try tally-verify --help.")
		}
		return cli.ExitUsage
	case err != nil:
		fmt.Fprintf(stderr, "tally-verify: %s\n", cli.Escape(err.Error()))
		return 2
	}
	return code
}

func (v *invocation) run(ctx context.Context, args []string) (int, error) {
	fs := cli.NewFlags("tally-verify")
	fs.StringVar(&v.policy, "policy", "", "")
	fs.StringVar(&v.key, "key", "", "")
	fs.BoolVar(&v.json, "json", false, "")
	fs.Func("checkpoint", "", func(s string) error { v.checkpoints = append(v.checkpoints, s); return nil })
	entry, dir := fs.String("entry", "", ""), fs.String("dir", "", "")
	var urls []string
	fs.Func("url", "", func(s string) error { urls = append(urls, s); return nil })
	var mon monitoring
	mon.register(fs)
	request, response := fs.String("request", "", ""), fs.String("response", "", "")
	args, err := cli.Parse(fs, args)
	if err != nil {
		return 0, err
	}
	if len(args) == 0 {
		return 0, cli.Usagef("what shall it check? A bundle, a receipt, a proof, or a log.")
	}
	command, args := args[0], args[1:]
	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case given["entry"] && command != "proof":
		return 0, cli.Usagef("--entry goes with proof.")
	case (given["request"] || given["response"]) && command != "receipt":
		return 0, cli.Usagef("--request and --response go with receipt.")
	case given["checkpoint"] && command != "log":
		return 0, cli.Usagef("--checkpoint goes with log.")
	case (given["url"] && command != "monitor" || given["dir"]) && command != "log" && command != "receipt":
		return 0, cli.Usagef("--url and --dir go with log and with receipt, and --url with monitor.")
	case len(urls) > 1 && command != "monitor":
		return 0, cli.Usagef("%s takes one --url, not %d.", command, len(urls))
	case given["url"] && given["dir"]:
		return 0, cli.Usagef("--url and --dir are two answers to one question; give one.")
	}
	for _, name := range monitorFlags {
		if given[name] && command != "monitor" {
			return 0, cli.Usagef("--%s goes with monitor.", name)
		}
	}
	switch command {
	case "help":
		return 0, flag.ErrHelp
	case "version":
		return v.version(args)
	case "bundle", "proof", "receipt":
		if len(args) != 1 {
			return 0, cli.Usagef("%s takes one FILE, not %d.", command, len(args))
		}
	case "log":
		if len(args) != 0 || given["url"] == given["dir"] {
			return 0, cli.Usagef("log takes --url URL or --dir DIR, and nothing else.")
		}
	case "monitor":
		if len(args) != 0 || len(urls) == 0 || mon.state == "" {
			return 0, cli.Usagef("monitor takes --url URL and --state DIR.")
		}
	default:
		return 0, cli.Usagef("%q is no command of it.", cli.Escape(command))
	}
	trust, err := v.trust()
	if err != nil {
		return v.report(verify.Report{}, err)
	}
	url := ""
	if len(urls) > 0 {
		url = urls[0]
	}
	switch command {
	case "monitor":
		return v.monitor(ctx, urls, &mon, trust)
	case "bundle":
		return v.bundle(args[0], trust)
	case "proof":
		return v.proof(args[0], *entry, trust)
	case "receipt":
		return v.receipt(ctx, args[0], *request, *response, url, *dir, trust)
	}
	return v.log(ctx, url, *dir, trust)
}

func (v *invocation) bundle(file string, trust verify.Trust) (int, error) {
	raw, err := v.read(file, verify.MaxBundle)
	if err != nil {
		return v.unread(verify.BundleReadable, "bundle", err)
	}
	return v.report(verify.Check(raw, trust))
}

func (v *invocation) proof(file, entryFile string, trust verify.Trust) (int, error) {
	if file == "-" && entryFile == "-" {
		return 0, cli.Usagef("the proof and the entry cannot both come from standard input.")
	}
	raw, err := v.read(file, tlog.MaxProofFile)
	if err != nil {
		return v.unread(verify.ProofReadable, "proof", err)
	}
	var entry []byte
	if entryFile != "" {
		if entry, err = v.read(entryFile, tlog.MaxEntry); err != nil {
			return v.unread(verify.ProofReadable, "entry", err)
		}
		if entry == nil {
			entry = []byte{} // an empty file is an entry that is none, not no entry
		}
	}
	r, err := verify.CheckProof(raw, entry, trust)
	if errors.Is(err, verify.ErrNoEntry) {
		return 0, cli.Usagef("the file proves an entry and does not hold it: name the file with its bytes by --entry FILE.")
	}
	return v.report(r, err)
}

func (v *invocation) receipt(ctx context.Context, file, request, response, url, dir string, trust verify.Trust) (int, error) {
	raw, err := v.read(file, record.MaxReceipt)
	if err != nil {
		return v.unread(verify.ReceiptReadable, "receipt", err)
	}
	var beside verify.Beside
	piped := file == "-"
	for _, b := range []struct {
		what, file string
		into       *[]byte
	}{{"request", request, &beside.Request}, {"response", response, &beside.Response}} {
		if b.file == "" {
			continue
		}
		if b.file == "-" && piped {
			return 0, cli.Usagef("only one of the files can come from standard input.")
		}
		piped = piped || b.file == "-"
		got, err := v.read(b.file, record.MaxRecord)
		if err != nil {
			return v.unread(verify.ReceiptReadable, b.what, err)
		}
		*b.into = append([]byte{}, got...) // a body of no bytes is one all the same
	}
	if url != "" || dir != "" {
		l, done, err := v.place(url, dir)
		if err != nil {
			return v.unread(verify.LogReadable, "log", err)
		}
		defer done()
		beside.Log = l
	}
	return v.report(verify.CheckReceipt(ctx, raw, beside, trust))
}

// place opens a log where it is to be found, and returns with what to let go of it.
func (v *invocation) place(url, dir string) (tlog.Reader, func() error, error) {
	if dir != "" {
		d, err := tiles.FromDir(dir, tiles.Limits{})
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	u, err := tiles.FromURL(url, &http.Client{Timeout: time.Minute}, tiles.Limits{})
	if err != nil {
		return nil, nil, cli.Usagef("--url: %s", cli.Escape(err.Error()))
	}
	return u, func() error { return nil }, nil
}

func (v *invocation) log(ctx context.Context, url, dir string, trust verify.Trust) (int, error) {
	var err error
	if trust.Kept, err = v.kept(); err != nil {
		return v.unread(verify.CheckpointsHonoured, "checkpoint", err)
	}
	r, done, err := v.place(url, dir)
	if err != nil {
		return v.unread(verify.LogReadable, "log", err)
	}
	defer done()
	rep, err := verify.CheckLog(ctx, r, trust, v.progress())
	held := slices.ContainsFunc(rep.Findings, func(f verify.Finding) bool { return f.Claim == verify.CheckpointsHonoured })
	if err == nil && rep.OK() && len(trust.Kept) > 0 && !held {
		err = &verify.Unreadable{What: "checkpoint", Err: errors.New("none of those that were brought along is signed by this log, so it was held against nothing")}
	}
	return v.report(rep, err)
}

// progress tells how far the reading of a long log has come, for people.
func (v *invocation) progress() func(done, size uint64) {
	if v.json {
		return nil
	}
	last := time.Now()
	return func(done, size uint64) {
		if time.Since(last) >= 5*time.Second {
			last = time.Now()
			fmt.Fprintf(v.stderr, "tally-verify: %d of %d entries\n", done, size)
		}
	}
}

// trust is what --policy, --key or the environment says.
func (v *invocation) trust() (verify.Trust, error) {
	if v.policy != "" && v.key != "" {
		return verify.Trust{}, cli.Usagef("--policy and --key are two answers to one question; give one.")
	}
	if v.policy == "" && v.key == "" {
		if v.policy = v.getenv("TALLY_POLICY"); v.policy == "" {
			return verify.Trust{}, cli.Usagef("%s", strings.TrimSuffix(noPolicy, "\n"))
		}
	}
	if v.key != "" {
		if len(strings.Fields(v.key)) != 1 || strings.TrimSpace(v.key) != v.key {
			return verify.Trust{}, cli.Usagef("--key takes one key, <name>+<8 hex digits>+<base64>.")
		}
		p, err := tlog.ParsePolicy([]byte("log " + v.key + "\nquorum none\n"))
		if err != nil {
			return verify.Trust{}, cli.Usagef("--key: %s", cli.Escape(err.Error()))
		}
		return verify.Trust{Policy: p}, nil
	}
	text, err := v.read(v.policy, tlog.MaxPolicy)
	if err != nil {
		return verify.Trust{}, fmt.Errorf("policy: %w", err)
	}
	p, err := tlog.ParsePolicy(text)
	if err != nil {
		return verify.Trust{}, fmt.Errorf("policy %s: %w", v.policy, err)
	}
	return verify.Trust{Policy: p}, nil
}

// read returns a file of at most max bytes.
func (v *invocation) read(file string, max int64) ([]byte, error) {
	var in io.Reader = v.stdin
	var buf bytes.Buffer
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			if st.Size() > max {
				return nil, fmt.Errorf("%s has %d bytes, over the limit of %d", file, st.Size(), max)
			}
			buf.Grow(int(st.Size()) + bytes.MinRead)
		}
		in = f
	}
	if _, err := buf.ReadFrom(io.LimitReader(in, max+1)); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > max {
		return nil, fmt.Errorf("%s has more than %d bytes, the limit", file, max)
	}
	return buf.Bytes(), nil
}

func (v *invocation) version(args []string) (int, error) {
	if len(args) != 0 {
		return 0, cli.Usagef("version takes no argument.")
	}
	version, revision := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	if v.json {
		return 0, cli.WriteJSON(v.stdout, map[string]string{"version": version, "revision": revision, "go": runtime.Version(), "bundle": verify.Format, "receipt": record.ReceiptFormat})
	}
	_, err := fmt.Fprintf(v.stdout, "tally-verify %s, reads %s, %s\n", strings.Join(strings.Fields(version+" "+revision+" "+runtime.Version()), " "), verify.Format, record.ReceiptFormat)
	return 0, err
}
