package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"

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
	var other *exitError
	if errors.As(err, &other) && other.error == nil {
		return other.code
	}
	fmt.Fprintf(t.stderr, "tally: %s\n", printable(err.Error()))
	if other != nil {
		return other.code
	}
	return exitFailed
}

// An exitError ends the command with a code that says more than that it failed. With no error in it, all has been said.
type exitError struct {
	error
	code int
}

func (e *exitError) Error() string {
	if e.error == nil {
		return ""
	}
	return e.error.Error()
}

func (e *exitError) Unwrap() error { return e.error }

// printable keeps control characters of foreign text from the terminal; line breaks stay.
func printable(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = cli.Escape(lines[i])
	}
	return strings.Join(lines, "\n")
}

// A command does what its arguments say.
type command func(ctx context.Context, args []string) error

// choose runs the one of several commands that args begin with. Under is what they share before their own names, usage what
// is printed of them all.
func (t *tally) choose(ctx context.Context, under, usage string, commands map[string]command, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(t.stderr, usage)
		return cli.Usagef("which of these shall it do?")
	}
	switch name, rest := args[0], args[1:]; name {
	case "help", "-h", "-help", "--help":
		if len(rest) > 0 {
			return t.choose(ctx, under, usage, commands, append(slices.Clone(rest), "--help"))
		}
		fmt.Fprint(t.stdout, usage)
		return nil
	default:
		do := commands[name]
		if do == nil {
			return cli.Usagef("there is no command %q; try tally %s--help", under+name, under)
		}
		return do(ctx, rest)
	}
}

// flags makes a command's flags. synopsis is how it is called, help what it does.
func (t *tally) flags(synopsis, help string) *flag.FlagSet {
	words := strings.Fields(synopsis)
	n := 1
	for n < len(words) && 'a' <= words[n][0] && words[n][0] <= 'z' {
		n++
	}
	fs := cli.NewFlags("tally " + strings.Join(words[:n], " "))
	fs.Usage = func() {
		fmt.Fprintf(t.stdout, "Usage: tally %s\n\n%s\n", synopsis, strings.TrimSpace(help))
		writeFlags(t.stdout, fs)
	}
	return fs
}

// writeFlags writes what flags there are, with two hyphens, as everywhere in our texts.
func writeFlags(out io.Writer, fs *flag.FlagSet) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprintln(w)
			first = false
		}
		value, text := flag.UnquoteUsage(f)
		hyphens := "--"
		if len(f.Name) == 1 {
			hyphens = "-"
		}
		if value != "" {
			value = " " + strings.ToUpper(value)
		}
		if f.DefValue != "" && f.DefValue != "false" {
			text += " (" + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %s%s%s\t%s\n", hyphens, f.Name, value, text)
	})
	w.Flush()
}

// parse reads flags and arguments in any order, and wants between least and most arguments.
func parse(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	help := fs.Usage
	fs.Usage = func() {} // of a mistake, one line is enough
	rest, err := cli.Parse(fs, args)
	name := strings.TrimPrefix(fs.Name(), "tally ")
	switch {
	case errors.Is(err, flag.ErrHelp):
		help()
		return nil, err
	case err != nil:
		return nil, cli.Usagef("%s: %s; try %s --help", name, cli.Escape(err.Error()), fs.Name())
	case len(rest) < least:
		return nil, cli.Usagef("%s: an argument is missing; try %s --help", name, fs.Name())
	case len(rest) > most:
		return nil, cli.Usagef("%s: %q is one argument too many; try %s --help", name, rest[most], fs.Name())
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
