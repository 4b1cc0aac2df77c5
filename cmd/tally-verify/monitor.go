package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/verify"
	"github.com/tallystick/tallystick/verify/monitor"
)

// A monitoring is what the flags say that go with monitor only.
type monitoring struct {
	state, webhook, secret     string
	interval, maxAge, patience time.Duration
	full, once, keepGoing      bool
	witnesses, peers           []string
	asked                      bool // the witnesses at the addresses that the policy has
}

// monitorFlags are the names of those flags.
var monitorFlags = []string{"state", "interval", "max-age", "patience", "webhook", "webhook-secret", "witness-url", "witnesses", "peer", "full", "once", "keep-going"}

func (m *monitoring) register(fs *flag.FlagSet) {
	fs.StringVar(&m.state, "state", "", "")
	fs.DurationVar(&m.interval, "interval", 10*time.Second, "")
	fs.DurationVar(&m.maxAge, "max-age", time.Hour, "")
	fs.DurationVar(&m.patience, "patience", 5*time.Minute, "")
	fs.StringVar(&m.webhook, "webhook", "", "")
	fs.StringVar(&m.secret, "webhook-secret", "", "")
	fs.Func("witness-url", "", func(s string) error { m.witnesses = append(m.witnesses, s); return nil })
	fs.BoolVar(&m.asked, "witnesses", false, "")
	fs.Func("peer", "", func(s string) error { m.peers = append(m.peers, s); return nil })
	fs.BoolVar(&m.full, "full", false, "")
	fs.BoolVar(&m.once, "once", false, "")
	fs.BoolVar(&m.keepGoing, "keep-going", false, "")
}

// maxSecret is the longest secret of a webhook, in bytes.
const maxSecret = 4096

// monitor follows logs until ctx ends.
func (v *invocation) monitor(ctx context.Context, urls []string, f *monitoring, trust verify.Trust) (int, error) {
	c := monitor.Config{
		URLs: urls, Policy: trust.Policy, Dir: f.state, Tell: v.event,
		Witnesses: f.witnesses, Peers: f.peers,
		Interval: f.interval, MaxAge: f.maxAge, Patience: f.patience,
		Full: f.full, Once: f.once, KeepGoing: f.keepGoing,
	}
	if f.asked {
		for _, w := range trust.Policy.Witnesses() {
			if w.URL != "" {
				c.Witnesses = append(c.Witnesses, w.URL)
			}
		}
	}
	if f.webhook != "" {
		c.Webhook = &monitor.Webhook{URL: f.webhook}
	}
	if f.secret != "" {
		if c.Webhook == nil {
			return 0, cli.Usagef("--webhook-secret goes with --webhook.")
		}
		secret, err := v.read(f.secret, maxSecret)
		if err != nil {
			return 0, fmt.Errorf("the webhook's secret: %w", err)
		}
		if c.Webhook.Secret = bytes.TrimRight(secret, "\r\n"); len(c.Webhook.Secret) == 0 {
			return 0, errors.New("the webhook's secret is empty")
		}
	}
	m, err := monitor.New(c)
	if err != nil {
		return 0, cli.Usagef("%s", cli.Escape(err.Error()))
	}
	err = m.Run(ctx)
	var found *monitor.Found
	if errors.As(err, &found) {
		return 1, nil // and was told
	}
	return 0, err
}

// levels are the words that the lines begin with.
var levels = map[monitor.Level]string{monitor.Note: "ok", monitor.Alert: "ALERT", monitor.Finding: "FALSE"}

// event prints one line, and one for each piece of evidence.
func (v *invocation) event(e monitor.Event) {
	if v.json {
		cli.WriteJSON(v.stdout, e)
		return
	}
	log := e.Log
	if log == "" {
		log = e.URL
	}
	fmt.Fprintf(v.stdout, "%s  %-5s  %-13s  %s: ", e.Time.Format(time.RFC3339), levels[e.Level], e.Kind, cli.Escape(log))
	if e.Claim != "" {
		fmt.Fprintf(v.stdout, "%s: ", e.Claim)
	}
	if e.Subject != "" {
		fmt.Fprintf(v.stdout, "%s: ", cli.Escape(e.Subject))
	}
	fmt.Fprintln(v.stdout, cli.Escape(e.Reason))
	for _, file := range e.Evidence {
		fmt.Fprintf(v.stdout, "    evidence: %s\n", cli.Escape(file))
	}
}
