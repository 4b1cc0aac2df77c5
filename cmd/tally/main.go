// Command tally is the operator's: it runs the gateway and the log, and reads records for those who may.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tally{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv, terminal: isTerminal(os.Stdin) && isTerminal(os.Stdout)}
	os.Exit(t.run(ctx, os.Args[1:]))
}

// A tally is one run of the command: what it may touch of the world.
type tally struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool)
	terminal       bool // somebody sees stdout and answers at stdin
}

// isTerminal says whether a file may be a terminal. It takes the null device for one, which answers nothing.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

const usage = `tally records every call to a model in a log that nobody can alter unseen.

Run it:
  tally demo                  run everything here, before a fake model or yours, and show what to try
  tally serve --config FILE   run the gateway and the log as a file says
  tally fsck                  read everything that a closed log has stored and hash it again
  tally reindex               make the index of sessions again from the log

Judge calls, and say yes to those that need it:
  tally policy check FILE     read the rules that judge calls, and say what is wrong with them
  tally policy try FILE SESSION...
                              say what they would have said of recorded calls
  tally approvals             list the calls that wait for your yes
  tally approve [ID]          show one of them whole, and say yes
  tally deny ID --reason TEXT say no

Look at what is on record:
  tally search QUERY          find sessions, by words, fields, and values that are masked
  tally show SESSION          show what was asked, answered, judged and masked
  tally replay SESSION        play the answer back as it came, at its own times

Hand out what is on record:
  tally export SESSION        write a bundle that tally-verify checks without us, or with --format
                              what others read: HAR, curl, JSON lines, asciicast, CSV, a certificate
  tally export --all -o DIR   write a static copy of the whole public log
  tally ship --to ADDRESS     follow the public log, and hand what is new in it to a SIEM
  tally disclose SESSION --fields NAME,NAME
                              write a bundle that shows these fields and nothing else
  tally unseal SESSION --identity FILE --reason TEXT
                              write what was masked as it was, for who can open it

Rehearse what is on record:
  tally mock SESSION...       serve recorded answers as a model would, with their own timing
  tally replay SESSION --against URL
                              send the request again, to a sandbox, and say what differs

Erase what is on record:
  tally erase SESSION... --reason TEXT --basis TEXT
                              destroy what records hold; also by --caller and --before
  tally retain                erase what the rules of retention want erased by now

Keys and people:
  tally keys new NAME         make a key for a caller; 'tally keys' has those of logs and data
  tally login                 get a token from a gateway where people log in
  tally tokens list           list the tokens you have; 'tokens revoke ID' ends one

  tally version               say which build this is

'tally COMMAND --help' tells more of each.
`

// Exit codes beside 0, done, and cli.ExitUsage, not understood.
const (
	exitFailed = 1
	exitStore  = 70 // the store cannot go on: start again when its disk is in order
)

func (t *tally) run(ctx context.Context, args []string) int {
	return t.exit(t.choose(ctx, "", usage, map[string]command{
		"demo": t.demo, "serve": t.serve, "fsck": t.fsck,
		"policy": t.policy, "approvals": t.approvals, "approve": t.approve, "deny": t.deny,
		"export": t.export, "ship": t.ship, "disclose": t.disclose, "unseal": t.unseal,
		"search": t.search, "reindex": t.reindex,
		"show": t.showSession, "replay": t.replay, "mock": t.mock,
		"erase": t.erase, "retain": t.retain,
		"keys": t.keys, "login": t.login, "tokens": t.tokens,
		"version": t.version,
	}, args))
}
