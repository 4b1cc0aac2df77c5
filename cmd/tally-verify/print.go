package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/verify"
)

// The verdicts. They and the names of the JSON fields are part of what the command promises.
const (
	verdictOK         = "ok"
	verdictFalse      = "false"
	verdictUnreadable = "unreadable"
)

// An answer is what --json prints.
type answer struct {
	Verdict   string           `json:"verdict"`
	Findings  []verify.Finding `json:"findings"`
	NotProven []string         `json:"not_proven"`
	Error     string           `json:"error"` // "" unless something could not be read
	Evidence  []evidence       `json:"evidence,omitempty"`
	// Of a bundle that withholds something, where every claim holds.
	*disclosure
}

// An evidence is two checkpoints that the log signed and no history can have.
type evidence struct {
	A      string `json:"a"` // as it was kept
	B      string `json:"b"` // as the log shows it now
	Reason string `json:"reason"`
}

// unread reports that a file could not be read, under the claim that it can.
func (v *invocation) unread(c verify.Claim, what string, err error) (int, error) {
	if usage := new(cli.UsageError); errors.As(err, &usage) {
		return 0, err
	}
	r := verify.Report{Findings: []verify.Finding{{Claim: c, Subject: what, Detail: err.Error()}}}
	return v.report(r, &verify.Unreadable{What: what, Err: err})
}

// report prints a report and what kept it from being whole, and returns the exit code.
func (v *invocation) report(r verify.Report, err error) (int, error) {
	var usage *cli.UsageError
	if errors.As(err, &usage) {
		return 0, err
	}
	a := answer{Verdict: verdictOK, Findings: r.Findings, NotProven: r.NotProven}
	code := 0
	switch {
	case err != nil:
		a.Verdict, a.Error, code = verdictUnreadable, err.Error(), 2
	case !r.OK():
		a.Verdict, code = verdictFalse, 1
	}
	for _, f := range r.Forks {
		a.Evidence = append(a.Evidence, evidence{string(f.A), string(f.B), f.Reason})
	}
	rows := maxRows
	if v.json {
		rows = maxAnswerRows
	}
	a.disclosure = disclosureOf(r.Proven, rows)
	if v.json {
		if a.Findings == nil {
			a.Findings = []verify.Finding{}
		}
		if a.NotProven == nil {
			a.NotProven = []string{}
		}
		return code, cli.WriteJSON(v.stdout, a)
	}
	return code, v.print(a)
}

// print writes one line for each finding, what is disclosed and withheld where something is, what is not proven, and the
// verdict last.
func (v *invocation) print(a answer) error {
	w := bufio.NewWriter(v.stdout)
	wrong, wide := 0, 0
	for _, f := range a.Findings {
		wide = max(wide, len(f.Claim))
	}
	for _, f := range a.Findings {
		word := "ok"
		if !f.OK {
			word = "FALSE"
			wrong++
		}
		fmt.Fprintf(w, "%-5s  %-*s  %s", word, wide, f.Claim, cli.Escape(f.Subject))
		if f.Detail != "" {
			fmt.Fprintf(w, ": %s", cli.Escape(f.Detail))
		}
		fmt.Fprintln(w)
	}
	if a.disclosure != nil {
		a.disclosure.print(w)
	}
	if len(a.NotProven) > 0 {
		fmt.Fprintln(w, "\nnot proven:")
		for _, s := range a.NotProven {
			fmt.Fprintf(w, "  - %s\n", cli.Escape(s))
		}
	}
	if n := len(a.Evidence); n > 0 {
		e := a.Evidence[0]
		fmt.Fprintf(w, "\nevidence: two checkpoints of one log that no history can have. Keep both.\n  %s\n\n", cli.Escape(e.Reason))
		for _, note := range []string{e.A, e.B} {
			for line := range strings.Lines(note) {
				fmt.Fprintf(w, "    %s\n", cli.Escape(strings.TrimSuffix(line, "\n")))
			}
			fmt.Fprintln(w)
		}
		if n > 1 {
			fmt.Fprintf(w, "  and %d such pairs more, which --json shows\n", n-1)
		}
	}
	if len(a.Findings) > 0 {
		fmt.Fprintln(w)
	}
	switch a.Verdict {
	case verdictOK:
		fmt.Fprintf(w, "verdict: ok, all %d claims hold\n", len(a.Findings))
	case verdictFalse:
		fmt.Fprintf(w, "verdict: FALSE, %d of %d claims do not hold\n", wrong, len(a.Findings))
	default:
		fmt.Fprintf(w, "verdict: unreadable, %s\n", cli.Escape(a.Error))
	}
	return w.Flush()
}
