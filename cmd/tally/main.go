// Command tally is the operator's: it runs the gateway and the log, and reads records for those who may.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tallystick/tallystick/cmd/internal/cli"
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

  tally demo                 run everything here, before a fake model or yours, and show what to try
  tally serve --config FILE  run the gateway and the log as a file says
  tally export SESSION       write a bundle that tally-verify checks without us
  tally disclose SESSION --fields NAME,NAME
                             write one that shows these fields and nothing else
  tally export --all         write a static copy of the whole public log
  tally policy check FILE    read the rules that judge calls, and say what is wrong with them
  tally policy try FILE SESSION...
                             say what they would have said of recorded calls
  tally approvals            list the calls that wait for your yes
  tally approve ID           show one of them whole, and say yes; deny ID says no
  tally fsck                 read everything that is stored and hash it again
  tally keys new NAME        make a key for a caller; also new-log, new-kek, init and rotate for
                             a log's keys, and rewrap for data keys
  tally login                get a token from a gateway where people log in
  tally tokens list          list the tokens you have; also revoke ID
  tally version              say which build this is

'tally COMMAND --help' tells more of each.
`

// Exit codes beside 0, done, and cli.ExitUsage, not understood.
const (
	exitFailed = 1
	exitStore  = 70 // the store cannot go on: start again when its disk is in order
)

func (t *tally) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(t.stderr, usage)
		return cli.ExitUsage
	}
	commands := map[string]func(context.Context, []string) error{
		"demo": t.demo, "serve": t.serve, "export": t.export, "disclose": t.disclose, "fsck": t.fsck, "keys": t.keys, "login": t.login, "tokens": t.tokens, "policy": t.policy, "version": t.version,
		"approvals": t.approvals, "approve": t.approve, "deny": t.deny,
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(t.stdout, usage)
		return 0
	}
	command := commands[args[0]]
	if command == nil {
		fmt.Fprintf(t.stderr, "tally: there is no command %q\n\n%s", args[0], usage)
		return cli.ExitUsage
	}
	return t.exit(command(ctx, args[1:]))
}
