// Package cli is the manners that our commands share: flags may stand before, between or after the arguments; a
// command that was called wrongly says so and exits with 64; and nothing that a stranger wrote reaches a terminal as it is.
package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ExitUsage is the exit code of a command that was called wrongly (EX_USAGE of sysexits.h).
const ExitUsage = 64

// A UsageError says what is wrong with the way a command was called, and what to do.
type UsageError struct{ Msg string }

func (e *UsageError) Error() string { return e.Msg }

// Usagef returns a UsageError.
func Usagef(format string, a ...any) error { return &UsageError{fmt.Sprintf(format, a...)} }

// NewFlags returns an empty set of flags that prints nothing by itself.
func NewFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// Parse reads the flags among args, wherever they stand, and returns the other arguments in their order. What follows
// "--" is no flag. The error is flag.ErrHelp if help was asked for, or else a UsageError.
func Parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, &UsageError{ours(err.Error())}
		}
		n := len(args) - fs.NArg() // what Parse took, the "--" included
		if n > 0 && args[n-1] == "--" && !isValue(fs, args[:n]) {
			return append(rest, fs.Args()...), nil
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	return rest, nil
}

// ours is what the flag package says of a mistake, in the words of our texts, where a flag has two hyphens.
func ours(msg string) string {
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		return "there is no flag --" + name
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		return "the flag --" + name + " needs a value"
	}
	return msg
}

// isValue says whether the last of the arguments that Parse took is the value of the flag before it.
func isValue(fs *flag.FlagSet, taken []string) bool {
	for i := 0; i < len(taken); i++ {
		name := strings.TrimLeft(taken[i], "-")
		if taken[i] == "--" || strings.Contains(name, "=") {
			continue
		}
		f := fs.Lookup(name)
		if f == nil {
			continue
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			continue
		}
		if i++; i == len(taken)-1 {
			return true
		}
	}
	return false
}

// Escape returns s as one line that does nothing to a terminal: control characters, those that turn the direction of
// writing, those that cannot be seen and bytes that are not UTF-8 become escapes as Go writes them.
func Escape(s string) string {
	var b []byte
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\x%02x`, s[i])
		case strconv.IsPrint(r):
			b = append(b, s[i:i+n]...)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b = append(b, q[1:len(q)-1]...)
		}
		i += n
	}
	return string(b)
}

// WriteJSON writes v as one line of JSON in ASCII, so that it can be shown as it is.
func WriteJSON(w io.Writer, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	out := make([]byte, 0, buf.Len())
	for _, r := range buf.String() {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	_, err := w.Write(out)
	return err
}
