package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
)

// A versus is what a session's answer is held against: the answer of a sandbox to the same request, or that of another session.
type versus struct {
	*tally
	against, with    string
	credential, path string
	service, json    bool
	limit            time.Duration
}

// versus makes the flags for it.
func (t *tally) versus(fs *flag.FlagSet) *versus {
	v := &versus{tally: t}
	fs.StringVar(&v.against, "against", "", "send the request again, to the sandbox with this base `URL`, and compare the answers")
	fs.StringVar(&v.with, "with", "", "compare the answer with that of another `session`")
	fs.StringVar(&v.credential, "credential", "", "`where` the key is that the sandbox is shown: env:NAME or file:PATH; by default it is shown none")
	fs.StringVar(&v.path, "path", "", "the `path` to send to, after the base URL; by default the recorded one")
	fs.BoolVar(&v.service, "yes", false, "send it even to the service that the recorded call went to")
	fs.DurationVar(&v.limit, "timeout", 10*time.Minute, "how long a sandbox's answer may take, a `time` such as 2m")
	fs.BoolVar(&v.json, "json", false, "print the comparison as one line of JSON")
	return v
}

// wanted says whether anything is to be compared.
func (v *versus) wanted() bool { return v.against != "" || v.with != "" }

// exitTrouble is the exit code of a comparison that could not be made; one that finds a difference ends with exitFailed, as diff does.
const exitTrouble = 2

// compare fetches the session, has its request answered anew, or fetches the other one, and says what differs.
func (v *versus) compare(ctx context.Context, s *source, who audit.Asker, id record.ID) error {
	d, a, b, err := v.run(ctx, s, who, id)
	if misuse := new(cli.UsageError); errors.As(err, &misuse) {
		return err
	}
	if err != nil {
		return &exitError{fmt.Errorf("replay: %w", err), exitTrouble}
	}
	if v.json {
		err = cli.WriteJSON(v.stdout, struct {
			Against string `json:"against,omitempty"`
			replay.Diff
		}{v.against, d})
	} else {
		_, err = v.stdout.Write(tellDiff(d, a, b))
	}
	switch {
	case err != nil:
		return &exitError{err, exitTrouble}
	case !d.Same:
		return &exitError{nil, exitFailed}
	}
	return nil
}

func (v *versus) run(ctx context.Context, s *source, who audit.Asker, id record.ID) (d replay.Diff, a, b string, err error) {
	if v.against != "" && v.with != "" {
		return d, "", "", cli.Usagef("replay: --against and --with are two things")
	}
	if v.with != "" {
		other, err := record.ParseID(v.with)
		if err != nil {
			return d, "", "", cli.Usagef("replay: --with: %v", err)
		}
		one, err := v.sessions(ctx, s, who, audit.Compare, "with session "+v.with, []record.ID{id})
		if err != nil {
			return d, "", "", err
		}
		two, err := v.sessions(ctx, s, who, audit.Compare, "with session "+id.String(), []record.ID{other})
		if err != nil {
			return d, "", "", err
		}
		return replay.Compare(transcript.Of(one[0]), transcript.Of(two[0])), "the one", "the other", nil
	}
	to := replay.Target{Path: v.path, Upstream: v.service, Time: v.limit}
	if to.URL, err = url.Parse(v.against); err != nil {
		return d, "", "", cli.Usagef("replay: --against: %v", err)
	}
	if to.URL.User != nil || to.URL.RawQuery != "" || to.URL.Host == "" {
		return d, "", "", cli.Usagef("replay: --against takes a base URL such as http://127.0.0.1:8000/v1, without user and query; for keys there is --credential")
	}
	if v.limit <= 0 {
		return d, "", "", cli.Usagef("replay: --timeout is above 0")
	}
	if to.Credential, err = v.secret(v.credential); err != nil {
		return d, "", "", err
	}
	one, err := v.sessions(ctx, s, who, audit.Compare, "against "+to.URL.String(), []record.ID{id})
	if err != nil {
		return d, "", "", err
	}
	again, err := replay.Again(ctx, nil, one[0], to)
	if errors.Is(err, replay.ErrUpstream) {
		return d, "", "", fmt.Errorf("%w; say --yes if that is meant", err)
	}
	if err != nil {
		return d, "", "", err
	}
	d = replay.Compare(transcript.Of(one[0]), again)
	d.Notes = append(d.Notes, again.Notes...)
	return d, "the record", "the new answer", nil
}

// secret reads a credential from where it is said to be.
func (t *tally) secret(where string) (string, error) {
	if where == "" {
		return "", nil
	}
	var value string
	switch kind, name, _ := strings.Cut(where, ":"); kind {
	case "env":
		value, _ = t.lookup(name)
	case "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("--credential: %w", err)
		}
		value = string(b)
	default:
		return "", cli.Usagef("replay: --credential names where the credential is, env:NAME or file:PATH; it is not the credential itself")
	}
	if value = strings.TrimSpace(value); value == "" {
		return "", errors.New("--credential: there is nothing in it")
	}
	return value, nil
}

// tellDiff says in words how two answers differ, the weightiest first.
func tellDiff(d replay.Diff, a, b string) []byte {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	for _, side := range []struct {
		name string
		replay.Side
	}{{a, d.A}, {b, d.B}} {
		fmt.Fprintf(w, "%s\t%s\n", side.name, tellSide(side.Side))
	}
	w.Flush()
	fmt.Fprintln(&out)
	switch {
	case d.Exact:
		fmt.Fprintln(&out, "They are the same, to the byte.")
	case d.Same:
		fmt.Fprintln(&out, "They are the same, but for what is another one each time.")
	default:
		fmt.Fprintf(&out, "They differ, first in %s.\n", d.First.Tell(a, b))
	}
	rest := d.Differences
	if len(rest) > 0 && !d.Same {
		rest = rest[1:]
	}
	for i, x := range rest {
		if i == 40 {
			fmt.Fprintf(&out, "  and %s more\n", several(len(rest)-i, "difference"))
			break
		}
		more := ""
		if !x.Counts {
			more = " (does not count)"
		}
		fmt.Fprintf(&out, "  %s%s\n", x.Tell(a, b), more)
	}
	tellWords(&out, d.Words)
	for _, n := range d.Notes {
		fmt.Fprintf(&out, "note: %s\n", cli.Escape(n))
	}
	return out.Bytes()
}

// tellSide is an answer in one line.
func tellSide(s replay.Side) string {
	all := []string{fmt.Sprintf("status %d", s.Status), s.End}
	if s.Status == 0 {
		all = all[1:]
	}
	add := func(format string, a ...any) { all = append(all, fmt.Sprintf(format, a...)) }
	if s.Model != "" {
		add("of %s", cli.Escape(s.Model))
	}
	if s.Calls > 0 {
		add("%s", several(s.Calls, "tool call"))
	}
	if s.Usage.In >= 0 || s.Usage.Out >= 0 {
		add("%s in and %s out", atLeast(s.Usage.In), atLeast(s.Usage.Out))
	}
	if s.Events > 0 {
		add("%s", several(s.Events, "event"))
	}
	add("%s", several(s.Bytes, "byte"))
	if s.First >= 0 {
		add("first after %s", (time.Duration(s.First) * time.Microsecond).Round(100*time.Microsecond))
	}
	if s.Duration >= 0 {
		add("all after %s", (time.Duration(s.Duration) * time.Microsecond).Round(100*time.Microsecond))
	}
	if s.Masked {
		add("masked")
	}
	return strings.Join(all, ", ")
}

func atLeast(n int64) string {
	if n < 0 {
		return "? tokens"
	}
	return several(int(n), "token")
}

// tellWords shows the first places in which two texts differ, with some of what is around them: [-what only the first has-]
// {+what only the second has+}.
func tellWords(out *bytes.Buffer, words []replay.Span) {
	const around, most = 40, 10
	if words == nil {
		return
	}
	fmt.Fprintln(out, "\ntext, [-only the first-] {+only the second+}:")
	places := 0
	for i := 0; i < len(words) && places < most; i++ {
		if words[i].In == replay.InBoth {
			continue
		}
		places++
		line := ""
		if i > 0 {
			line = lastOf(words[i-1].Text, around)
		}
		for ; i < len(words) && words[i].In != replay.InBoth; i++ {
			marks := map[replay.Has][2]string{replay.InA: {"[-", "-]"}, replay.InB: {"{+", "+}"}}[words[i].In]
			line += marks[0] + firstOf(words[i].Text, 4*around) + marks[1]
		}
		if i < len(words) {
			line += firstOf(words[i].Text, around)
		}
		fmt.Fprintf(out, "  %s\n", cli.Escape(line))
	}
	if places == most {
		fmt.Fprintln(out, "  …")
	}
	fmt.Fprintln(out)
}

// firstOf and lastOf cut a text to about that many bytes, where a character begins.
func firstOf(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

func lastOf(s string, most int) string {
	if len(s) <= most {
		return s
	}
	from := len(s) - most
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return "…" + s[from:]
}
