package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
)

const help = `Usage: tally-witness COMMAND [flags]

A witness of transparency logs (c2sp.org/tlog-witness): it cosigns what a log
submits if that continues everything it has cosigned of the log before.

  keygen NAME       make the witness's keys; prints their verifier keys
  serve             be the witness, until interrupted
  logs --state DIR  what a witness remembers of each log
  probe URL         ask any witness whether it keeps to the specification
  version           what this program is

Flags of keygen:
  --out DIR         where the key files go (.)
  --type TYPE       ed25519, mldsa44 or both (both)

Flags of serve:
  --listen ADDR     where logs submit; and monitors read, without another place
  --monitor-listen ADDR  where monitors read instead; may stand behind a cache
  --ops-listen ADDR where /metrics and /healthz are; nowhere if not given
  --keys FILE       a key of the witness; again, or with a comma, for another
  --logs FILE       the logs, read again when it changes: lines "log VKEY" and
                    last "quorum none", or a list of the witness network
  --state DIR       what it remembers; of this witness alone, never put back
  --tls-cert FILE, --tls-key FILE  for --listen and --monitor-listen
  --rate N          submissions a second, of all (2000); below 0 for no limit
  --rate-log N      new checkpoints a second of one log (10), and as many of what
                    others send of it again; below 0 for no limit
  --max-conns N     connections at once, for each address (1024)
  --clock-jump D    how far after its newest cosignature the clock may stand (8784h)
  --reload D        how often --logs and certificates are looked at (5s); SIGHUP
                    does it at once
  --debug           log refusals as well

Flags of probe:
  --log-key FILE    the key of the log that the probe plays
  --new-key FILE --name ORIGIN  make that key, and print what the witness must know
  --witness-key VKEY  a key of the witness; again for another
  --monitor URL     its monitoring prefix, if that is another one

--json, for logs, probe and version: JSON.

Exit codes: 0 all is well; 1 something could be read and is wrong: a state that is
damaged, a witness that deviates from a MUST; 2 something could not be done; 64 wrong usage.
`

// An invocation is one run of the command, with the flags of all its commands.
type invocation struct {
	stdout, stderr io.Writer
	json           bool

	out, keyType string

	listen, monitorListen, opsListen string
	keys                             stringList
	logs, state                      string
	tlsCert, tlsKey                  string
	rate, rateLog                    float64
	maxConns                         int
	clockJump                        time.Duration
	debug                            bool
	reload                           time.Duration // between two looks at the files

	logKey, newKey, name, monitor string
	witnessKeys                   stringList
}

// flagsOf says which flags go with which command.
var flagsOf = map[string]string{
	"keygen":  "out type",
	"serve":   "listen monitor-listen ops-listen keys logs state tls-cert tls-key rate rate-log max-conns clock-jump debug reload",
	"logs":    "state json",
	"probe":   "log-key new-key name witness-key monitor json",
	"version": "json",
	"help":    "",
}

// run is the whole command. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	v := &invocation{stdout: stdout, stderr: stderr}
	code, err := v.run(ctx, args)
	var usage *cli.UsageError
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, help)
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "tally-witness: %s\nTry tally-witness --help.\n", usage.Msg)
		return cli.ExitUsage
	case err != nil:
		fmt.Fprintf(stderr, "tally-witness: %s\n", cli.Escape(err.Error()))
		return 2
	}
	return code
}

func (v *invocation) run(ctx context.Context, args []string) (int, error) {
	fs := cli.NewFlags("tally-witness")
	fs.BoolVar(&v.json, "json", false, "")
	fs.StringVar(&v.out, "out", ".", "")
	fs.StringVar(&v.keyType, "type", "both", "")
	fs.StringVar(&v.listen, "listen", "", "")
	fs.StringVar(&v.monitorListen, "monitor-listen", "", "")
	fs.StringVar(&v.opsListen, "ops-listen", "", "")
	fs.Var(&v.keys, "keys", "")
	fs.StringVar(&v.logs, "logs", "", "")
	fs.StringVar(&v.state, "state", "", "")
	fs.StringVar(&v.tlsCert, "tls-cert", "", "")
	fs.StringVar(&v.tlsKey, "tls-key", "", "")
	fs.Float64Var(&v.rate, "rate", 0, "")
	fs.Float64Var(&v.rateLog, "rate-log", 0, "")
	fs.IntVar(&v.maxConns, "max-conns", 1024, "")
	fs.DurationVar(&v.clockJump, "clock-jump", 0, "")
	fs.BoolVar(&v.debug, "debug", false, "")
	fs.DurationVar(&v.reload, "reload", 5*time.Second, "")
	fs.StringVar(&v.logKey, "log-key", "", "")
	fs.StringVar(&v.newKey, "new-key", "", "")
	fs.StringVar(&v.name, "name", "", "")
	fs.StringVar(&v.monitor, "monitor", "", "")
	fs.Var(&v.witnessKeys, "witness-key", "")
	args, err := cli.Parse(fs, args)
	if err != nil {
		return 0, err
	}
	if len(args) == 0 {
		return 0, cli.Usagef("what shall it do? keygen, serve, logs, probe or version.")
	}
	command, args := args[0], args[1:]
	flags, ok := flagsOf[command]
	if !ok {
		return 0, cli.Usagef("%q is no command of it.", cli.Escape(command))
	}
	fs.Visit(func(f *flag.Flag) {
		if !strings.Contains(" "+flags+" ", " "+f.Name+" ") && err == nil {
			err = cli.Usagef("--%s does not go with %s.", f.Name, command)
		}
	})
	if err != nil {
		return 0, err
	}
	switch command {
	case "help":
		return 0, flag.ErrHelp
	case "keygen":
		return v.keygen(args)
	case "probe":
		return v.probe(ctx, args)
	}
	if len(args) != 0 {
		return 0, cli.Usagef("%s takes no argument.", command)
	}
	switch command {
	case "serve":
		return v.serve(ctx)
	case "logs":
		return v.listLogs()
	}
	return v.version()
}

// A stringList is a flag that may be given several times, or once with commas.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, ",") }

func (l *stringList) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

func (v *invocation) version() (int, error) {
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
		return 0, cli.WriteJSON(v.stdout, map[string]string{"version": version, "revision": revision, "go": runtime.Version(), "protocol": "c2sp.org/tlog-witness"})
	}
	_, err := fmt.Fprintf(v.stdout, "tally-witness %s, speaks c2sp.org/tlog-witness\n", strings.Join(strings.Fields(version+" "+revision+" "+runtime.Version()), " "))
	return 0, err
}
