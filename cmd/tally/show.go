package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

func (t *tally) showSession(ctx context.Context, args []string) error {
	fs := t.flags("show SESSION [--json | --wire]", `Shows a session, ended or not: who asked what, who said yes, what was answered and when, what was
masked, and its entries in the log. That it was looked at, by whom and why, goes on record first.
Control characters in what is recorded are shown as escapes. It proves nothing: export does.`)
	var s source
	asJSON := fs.Bool("json", false, "print all of it as one line of JSON")
	wire := fs.Bool("wire", false, "print heads, bodies and events as they were, in place of what they say")
	who := s.flags(fs, "looked at on the command line")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if *asJSON && *wire {
		return cli.Usagef("show: --json has all of it; leave out --wire")
	}
	id, err := record.ParseID(rest[0])
	if err != nil {
		return cli.Usagef("show: %v", err)
	}
	session, err := t.view(ctx, &s, *who, id)
	if err != nil {
		return fmt.Errorf("show: %w", err)
	}
	x := transcript.Of(session)
	if *asJSON {
		return cli.WriteJSON(t.stdout, x)
	}
	var b bytes.Buffer
	showHead(&b, x)
	if *wire {
		showWire(&b, x)
	} else {
		showWords(&b, x)
	}
	showEntries(&b, x)
	_, err = t.stdout.Write(b.Bytes())
	return err
}

// view looks at one session, in a running log or in a closed one.
func (t *tally) view(ctx context.Context, s *source, who audit.Asker, id record.ID) (verify.Session, error) {
	raw, err := t.ask(ctx, s, who, id, "view/"+id.String(), func(ctx context.Context, desk *audit.Desk) ([]byte, error) {
		session, err := desk.View(ctx, who, id, "")
		if err != nil {
			return nil, err
		}
		return audit.AppendView(nil, session)
	})
	if err != nil {
		return verify.Session{}, err
	}
	return audit.ParseView(raw)
}

// day is a moment as it is shown, to the millisecond.
func day(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05.000 MST") }

func showHead(out io.Writer, x *transcript.Transcript) {
	fmt.Fprintf(out, "session %s\n", x.Session)
	line := func(name, format string, a ...any) {
		fmt.Fprintf(out, "  %-9s %s\n", name, replay.SafeLine(fmt.Sprintf(format, a...)))
	}
	if c := x.Caller; c.Name != "" {
		text := c.Name
		if how := strings.Join(strings.Fields(c.How+" "+c.Key), " "); how != "" {
			text += " by " + how
		}
		if c.Email != "" || c.Subject != "" {
			text += ", " + cmp.Or(c.Email, c.Subject)
		}
		if c.Issuer != "" {
			text += " of " + c.Issuer
		}
		if len(c.Groups) > 0 {
			text += ", in " + strings.Join(c.Groups, ", ")
		}
		line("caller", "%s, from %s", text, cmp.Or(x.Remote, "an address that is not here"))
	} else if x.Remote != "" {
		line("caller", "nobody who is known, from %s", x.Remote)
	}
	if x.Request.Method != "" {
		text := x.Request.Method + " " + x.Request.Target
		if x.Request.Stream {
			text += ", as a stream"
		}
		line("call", "%s", text)
	}
	if x.Model != "" {
		text := x.Model
		if x.Answerer != "" && x.Answerer != x.Model {
			text += ", answered by " + x.Answerer
		}
		line("model", "%s", text)
	}
	if x.Route != "" {
		line("route", "%s to %s", x.Route, x.Upstream)
	}
	if !x.Times.Received.IsZero() {
		line("received", "%s", day(x.Times.Received))
	}
	if x.Verdict != "" {
		text := x.Verdict
		if x.Rule != "" {
			text += " by the rule " + x.Rule
		}
		if len(x.Failed) > 0 {
			text += ", rules that failed: " + strings.Join(x.Failed, ", ")
		}
		if len(x.Policy) >= 12 {
			text += ", policy " + x.Policy[:12] + "…"
		}
		line("judged", "%s", text)
	}
	if a := x.Approval; a != nil {
		showApproval(line, x, a)
	}
	if x.Answer.Status != 0 {
		text := fmt.Sprintf("status %d", x.Answer.Status)
		if d := x.Times.FirstByte(); d >= 0 {
			text += fmt.Sprintf(", first byte after %s", seconds(d))
		}
		if d := x.Times.Duration(); d >= 0 {
			text += fmt.Sprintf(", end after %s", seconds(d))
		}
		if n := len(x.Events); n > 0 {
			text += fmt.Sprintf(", %d events", n)
		}
		line("answer", "%s", text)
	}
	line("outcome", "%s", replay.TellEnd(x))
	if text := findings(x.Findings); text != "" {
		line("masked", "%s", text)
	}
	for _, e := range x.Erasures {
		line("erased", "%s by %s: %s; on the ground of %s", day(e.Time), cmp.Or(e.Actor, "a rule of retention"), cmp.Or(e.Reason, e.Cause), cmp.Or(e.Basis, "nothing that is here"))
	}
	for _, n := range x.Notes {
		line("note", "%s", n)
	}
}

func showApproval(line func(name, format string, a ...any), x *transcript.Transcript, a *transcript.Approval) {
	tell := func(at time.Time, text string) {
		if !at.IsZero() {
			line("approval", "%s  %s", day(at), text)
		}
	}
	tell(a.Asked, replay.TellQuestion(a))
	for _, w := range a.Words {
		tell(w.Time, replay.TellWord(w))
	}
	tell(a.Expired, "nobody said yes in time, or used the yes")
	if a.Of.IsZero() {
		tell(a.Used, "the yes is used")
	} else {
		tell(a.Used, "the yes that session "+a.Of.String()+" got is used")
	}
	if x.Open && a.Used.IsZero() && a.Expired.IsZero() {
		line("approval", "it waits")
	}
}

// findings says what the masker saw, and where.
func findings(all []transcript.Finding) string {
	var text []string
	for _, in := range []string{"request", "answer"} {
		var kinds []string
		for _, f := range all {
			if f.In == in {
				kinds = append(kinds, fmt.Sprintf("%s %d", cmp.Or(f.Rule, f.Kind), f.Count))
			}
		}
		if len(kinds) > 0 {
			text = append(text, fmt.Sprintf("in the %s: %s", in, strings.Join(kinds, ", ")))
		}
	}
	return strings.Join(text, "; ")
}

// showWords writes what was said.
func showWords(out io.Writer, x *transcript.Transcript) {
	if len(x.Request.Tools) > 0 {
		names := make([]string, len(x.Request.Tools))
		for i, tool := range x.Request.Tools {
			names[i] = tool.Name
		}
		section(out, "tools that the model may call", strings.Join(names, ", "))
	}
	if len(x.Request.Params) > 0 {
		var text []string
		for _, p := range x.Request.Params {
			text = append(text, p.Name+" "+p.Value)
		}
		section(out, "parameters", strings.Join(text, "\n"))
	}
	for _, m := range x.Messages {
		parts(out, strings.TrimSpace(cmp.Or(m.Role, "item")+" "+m.Name), m.Parts)
	}
	if len(x.Messages) == 0 {
		body(out, "request", x.Request.Body)
	}
	for _, r := range x.Replies {
		title := "answer"
		if len(x.Replies) > 1 {
			title = fmt.Sprintf("answer %d of %d", r.Choice+1, len(x.Replies))
		}
		parts(out, title, r.Parts)
	}
	switch {
	case x.Answer.Problem != "":
		section(out, "error", x.Answer.Problem)
	case len(x.Replies) == 0:
		body(out, "answer", x.Answer.Body)
	}
}

func parts(out io.Writer, title string, all []transcript.Part) {
	text := make([]string, len(all))
	for i, p := range all {
		text[i] = replay.TellPart(p)
	}
	section(out, title, strings.Join(text, "\n"))
}

func body(out io.Writer, title string, b transcript.Bytes) {
	if len(b) > 0 {
		section(out, title+", as it was", string(b))
	}
}

// section writes text under a title.
func section(out io.Writer, title, text string) {
	fmt.Fprintf(out, "\n%s\n", replay.SafeLine(title))
	for l := range strings.Lines(replay.Safe(text)) {
		fmt.Fprintln(out, strings.TrimRight("  "+l, " \n"))
	}
}

// showWire writes heads, bodies and events as they were.
func showWire(out io.Writer, x *transcript.Transcript) {
	head := func(first string, headers []transcript.Header) string {
		all := []string{first}
		for _, h := range headers {
			all = append(all, replay.SafeLine(h.Name+": "+h.Value))
		}
		return strings.Join(all, "\n")
	}
	section(out, "request", head(x.Request.Method+" "+x.Request.Target, x.Request.Headers)+"\n\n"+string(x.Request.Body))
	if x.Answer.Status == 0 {
		return
	}
	text := head(fmt.Sprintf("status %d", x.Answer.Status), x.Answer.Headers)
	if len(x.Events) == 0 {
		text += "\n\n" + string(x.Answer.Body)
	}
	section(out, "answer", text)
	for i, e := range x.Events {
		at := "at a time that is not on record"
		if e.At >= 0 {
			at = fmt.Sprintf("+%.6f s", e.At.Seconds())
			if first := x.Times.FirstByte(); first >= 0 {
				at = fmt.Sprintf("%.6f s after the request, ", (first+e.At).Seconds()) + at
			}
		}
		masked := ""
		if e.Masked {
			masked = ", masked"
		}
		section(out, fmt.Sprintf("event %d, %s, %s, %d B%s", i+1, e.Type, at, len(e.Raw), masked), string(e.Raw))
	}
}

// showEntries writes which entries of the log are about the session.
func showEntries(out io.Writer, x *transcript.Transcript) {
	fmt.Fprintf(out, "\nentries in the log\n")
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, e := range x.Entries {
		what := strings.Join(strings.Fields(string(e.Outcome)+" "+e.Reason), ", ")
		fields := fmt.Sprintf("%d fields", e.Fields)
		if e.Shown == 0 && e.Fields > 0 {
			fields = "not here"
		}
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\tby %s\t%s\n", e.Index, e.Kind, what, day(e.Time), e.By, fields)
	}
	w.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
