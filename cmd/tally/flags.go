package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/cli"
)

// release is the version of the software, as it stands in start entries.
const release = "0.1.0"

// software is the name and version that go on record.
func software() string { return "tallystick/" + release }

// exit says what went wrong, if anything did, and returns the exit code.
func (t *tally) exit(err error) int {
	var misuse *cli.UsageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &misuse):
		fmt.Fprintf(t.stderr, "tally: %s\n", misuse.Msg)
		return cli.ExitUsage
	}
	fmt.Fprintf(t.stderr, "tally: %s\n", printable(err.Error()))
	return exitFailed
}

// printable keeps control characters of foreign text from the terminal; line breaks stay.
func printable(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = cli.Escape(lines[i])
	}
	return strings.Join(lines, "\n")
}

// flags makes a command's flags. synopsis is its first line of help, help the rest.
func (t *tally) flags(synopsis, help string) *flag.FlagSet {
	fs := flag.NewFlagSet("tally "+strings.Fields(synopsis)[0], flag.ContinueOnError)
	fs.SetOutput(t.stderr)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "usage: tally %s\n\n%s\n", synopsis, help)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads flags and arguments in any order, and wants between least and most arguments.
func parse(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	rest, err := cli.Parse(fs, args)
	if err != nil {
		return nil, err
	}
	if len(rest) < least || len(rest) > most {
		fs.Usage()
		return nil, cli.Usagef("%s: %d arguments", fs.Name(), len(rest))
	}
	return rest, nil
}

func (t *tally) version(_ context.Context, args []string) error {
	fs := t.flags("version", "Says which build this is.")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "%s %s %s/%s\n", software(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
				fmt.Fprintf(t.stdout, "%s %s\n", s.Key, s.Value)
			}
		}
	}
	return nil
}
