package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		rest string
		name string
		yes  bool
		bad  bool
	}{
		{args: "a b", rest: "a b"},
		{args: "--name n a -yes b", rest: "a b", name: "n", yes: true},
		{args: "a b --name=n", rest: "a b", name: "n"},
		{args: "a -- --name b", rest: "a --name b"},
		{args: "-- -yes", rest: "-yes"},
		{args: "--name -- a", rest: "a", name: "--"},
		{args: "a --name -- b --yes", rest: "a b", name: "--", yes: true},
		{args: "--yes -- a -- b", rest: "a -- b", yes: true},
		{args: "- --yes", rest: "-", yes: true},
		{args: "a --nome n", bad: true},
		{args: "a --name", bad: true},
		{args: ""},
	} {
		fs := NewFlags("test")
		name, yes := fs.String("name", "", ""), fs.Bool("yes", false, "")
		rest, err := Parse(fs, strings.Fields(c.args))
		var usage *UsageError
		switch {
		case c.bad != errors.As(err, &usage):
			t.Errorf("%q: %v", c.args, err)
		case !c.bad && (!slices.Equal(rest, strings.Fields(c.rest)) || *name != c.name || *yes != c.yes):
			t.Errorf("%q: %q, name %q, yes %v", c.args, rest, *name, *yes)
		}
	}
	if _, err := Parse(NewFlags("test"), []string{"a", "--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain – ünïcode 漢字":     "plain – ünïcode 漢字",
		"a\x1b[31mred":           `a\x1b[31mred`,
		"two\nlines\r\t":         `two\nlines\r\t`,
		"\u202egnp.exe":          `\u202egnp.exe`,
		"C1 \u009b31m":           `C1 \u009b31m`,
		"bad \xff utf8":          `bad \xff utf8`,
		"zero\u200bwidth\ufeff":  `zero\u200bwidth\ufeff`,
		"del\x7f and \\ and \"'": `del\x7f and \ and "'`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	in := "é 漢 \U0001f600 \x1b \u009b \u202e \x7f <&>"
	var buf bytes.Buffer
	if err := WriteJSON(&buf, []string{in}); err != nil {
		t.Fatal(err)
	}
	for i, c := range buf.Bytes() {
		if c > '~' || c < ' ' && i != buf.Len()-1 {
			t.Errorf("byte %#x at %d of %q", c, i, buf.Bytes())
		}
	}
	var out []string
	if err := json.Unmarshal(buf.Bytes(), &out); err != nil || out[0] != in {
		t.Errorf("%q, %v", out, err)
	}
}
