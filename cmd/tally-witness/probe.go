package main

import (
	"bufio"
	"context"
	"fmt"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/witness"
)

// A probeReport is what --json shows.
type probeReport struct {
	URL      string                `json:"url"`
	Origin   string                `json:"origin"`
	Conforms bool                  `json:"conforms"` // to every MUST that was asked
	Results  []witness.ProbeResult `json:"results"`
	Error    string                `json:"error"` // "" unless the probe did not come to its end
}

func (v *invocation) probe(ctx context.Context, args []string) (int, error) {
	if v.newKey != "" {
		return v.newLogKey(args)
	}
	switch {
	case v.name != "":
		return 0, cli.Usagef("--name goes with --new-key: a key that exists has its name.")
	case len(args) != 1:
		return 0, cli.Usagef("probe takes one URL, the witness's submission prefix, not %d.", len(args))
	case v.logKey == "":
		return 0, cli.Usagef("as which log? Name its key by --log-key FILE; make one by --new-key FILE --name ORIGIN.")
	}
	key, err := file.LoadAny(v.logKey)
	if err != nil {
		return 0, err
	}
	r := probeReport{URL: args[0], Origin: key.Name(), Conforms: true}
	r.Results, err = witness.Probe(ctx, witness.ProbeConfig{URL: args[0], Monitor: v.monitor, Log: key, Keys: v.witnessKeys})
	for _, c := range r.Results {
		if c.Level == witness.Must && c.Verdict == witness.Deviates {
			r.Conforms = false
		}
	}
	code := 0
	switch {
	case err != nil:
		r.Error, r.Conforms, code = err.Error(), false, 2
	case !r.Conforms:
		code = 1
	}
	if v.json {
		if r.Results == nil {
			r.Results = []witness.ProbeResult{}
		}
		return code, cli.WriteJSON(v.stdout, r)
	}
	if printErr := v.print(r); printErr != nil {
		return 0, printErr
	}
	return code, err
}

// print writes a line for each case, and for those that deviate what was wanted and why.
func (v *invocation) print(r probeReport) error {
	w := bufio.NewWriter(v.stdout)
	wide := 0
	for _, c := range r.Results {
		wide = max(wide, len(c.ID))
	}
	counts := make(map[witness.Verdict]int)
	must := 0
	for _, c := range r.Results {
		counts[c.Verdict]++
		word := map[witness.Verdict]string{witness.Conforms: "ok", witness.Skipped: "skipped", witness.Deviates: "DEVIATES"}[c.Verdict]
		fmt.Fprintf(w, "%-8s  %-6s  %-*s  %s\n", word, c.Level, wide, c.ID, cli.Escape(c.Answered))
		if c.Verdict == witness.Deviates {
			fmt.Fprintf(w, "%8s  asked: %s\n%8s  wanted: %s\n%8s  for: %s\n", "", c.Asks, "", c.Wants, "", c.Says)
			if c.Level == witness.Must {
				must++
			}
		}
	}
	if r.Error == "" {
		fmt.Fprintf(w, "%d ok, %d skipped, %d deviate, %d of them from a MUST\n", counts[witness.Conforms], counts[witness.Skipped], counts[witness.Deviates], must)
	}
	return w.Flush()
}

// newLogKey makes the key of a log that has nothing to do but probe.
func (v *invocation) newLogKey(args []string) (int, error) {
	switch {
	case len(args) != 0 || v.logKey != "":
		return 0, cli.Usagef("--new-key makes a key and asks nobody: give the witness's operator what it prints, and probe then.")
	case v.name == "":
		return 0, cli.Usagef("what is the log called? Name it by --name ORIGIN, a URL without its scheme such as example.org/probe.")
	}
	key, err := file.Create(v.newKey, v.name)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(v.stderr, "%s: use it for probes alone. The witness must know its log by this line:\n", v.newKey)
	fmt.Fprintf(v.stdout, "log %s\n", key.VerifierKey())
	return 0, nil
}
