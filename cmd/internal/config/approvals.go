package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Approvals say how people are asked, where the policy wants their yes. Without them nobody is, and such a call is refused.
// With Slack, whose app has https://gw-1.example/.tallystick/hooks/slack as its interactivity URL:
//
//	approvals:
//	  groups: [approvers]
//	  url: https://gw-1.example
//	  notify:
//	    - {url_from: {file: keys/slack.url}, kind: slack}
//	  hooks:
//	    slack:
//	      kind: slack
//	      secret: {env: SLACK_SIGNING_SECRET}
//	      people:
//	        U012AB3CD: {name: carol, email: carol@example.org, groups: [approvers]}
//
// A button there says yes for somebody only who has looked at the request before, here (look_first, 428). What is sent and
// taken is described in gateway/webhook.
type Approvals struct {
	Groups  []string `yaml:"groups"`  // whose members decide where a rule names no group
	Glass   []string `yaml:"glass"`   // whose members may say yes alone, in an emergency
	Within  Duration `yaml:"within"`  // how long people have where a rule does not say; by default 15m
	Longest Duration `yaml:"longest"` // the longest that a rule can give them; by default 24h
	Hold    Hold     `yaml:"hold"`    // how long a caller is kept waiting before it is told to come back, or none; by default 50s
	Again   Duration `yaml:"again"`   // after how long it then does, where it goes by Retry-After; by default 15s
	// URL is the URL under which approvers find this very gateway, for messages; by default none. Where there is a console, they are
	// led to its page instead.
	URL string `yaml:"url"`
	// Key is 64 hex digits, by which the gateway knows again what it asked before a restart; `tally keys new-approvals`
	// makes one. The gateways of one log have the same. By default approvals.key in the data directory, which is made
	// when it is missing.
	Key Credential `yaml:"key"`
	// Shared says whether other gateways write to the log, so that a yes that was asked for at one can be used at another.
	// By default they do where the log is in another process.
	Shared *bool           `yaml:"shared"`
	Notify []Notify        `yaml:"notify"` // who is told of questions, and of what became of them
	Hooks  map[string]Hook `yaml:"hooks"`  // who may send decisions on, by the name at the end of /.tallystick/hooks/NAME
}

// Notify is an address that is told of questions. Nothing of a call's content is.
type Notify struct {
	URL string `yaml:"url"`
	// URLFrom is where the URL is, for those whose URL is itself a secret, as Slack's is.
	URLFrom Credential `yaml:"url_from"`
	Kind    string     `yaml:"kind"`   // json, signed as Standard Webhooks are, or slack
	Secret  Credential `yaml:"secret"` // for json: whsec_ and base64; `tally keys new-webhook` makes one
	Roots   string     `yaml:"roots"`  // a PEM file of the authorities that its certificate comes from; by default the system's
}

// Hook is another system that sends on what people decided there.
type Hook struct {
	Kind   string            `yaml:"kind"`   // json, signed as Standard Webhooks are, or slack, for the buttons in Slack's messages
	Secret Credential        `yaml:"secret"` // for json: whsec_ and base64; for slack: the app's signing secret
	People map[string]Person `yaml:"people"` // who they are here, by what they are called there
}

// Person is who decides in another system. The name, and the groups, are those that the gateway knows the same person by: a
// person has to have looked at a request, here, before a yes that comes by a hook counts.
type Person struct {
	Name   string   `yaml:"name"`
	Email  string   `yaml:"email"`
	Groups []string `yaml:"groups"`
}

// The kinds of webhooks.
const (
	KindJSON  = "json"
	KindSlack = "slack"
)

// Hold is a length of time, or none: then it is negative.
type Hold time.Duration

// UnmarshalText reads a length of time or the word none.
func (h *Hold) UnmarshalText(b []byte) error {
	if string(b) == "none" {
		*h = -1
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(b); err != nil {
		return fmt.Errorf("%w, nor none", err)
	}
	if *h = Hold(d); d == 0 {
		*h = -1
	}
	return nil
}

// SharedApprovals says whether other gateways write to the log, too.
func (c *Config) SharedApprovals() bool {
	if a := c.Gateway.Approvals; a != nil && a.Shared != nil {
		return *a.Shared
	}
	return !c.HasLog()
}

// ApprovalsKey is the file in which the key of approvals is made where none is named.
func (c *Config) ApprovalsKey() string { return filepath.Join(c.Dir(), "approvals.key") }

// checkApprovals says what is wrong with how people are asked.
func (c *Config) checkApprovals() error {
	a := c.Gateway.Approvals
	switch {
	case a == nil:
		return nil
	case c.Gateway.Policy == "":
		return errors.New("gateway.approvals is here and no gateway.policy, so that nobody would be asked; give the policy, for example policy: policy.yaml")
	case a.Key.IsZero() && c.SharedApprovals():
		return errors.New("gateway.approvals.key is missing: all gateways that write to this log must have the same; make it with `tally keys new-approvals FILE` and give it to each, or say shared: false if this gateway is the only one")
	}
	for i, n := range a.Notify {
		at := fmt.Sprintf("gateway.approvals.notify, number %d", i+1)
		switch {
		case (n.URL == "") == n.URLFrom.IsZero():
			return fmt.Errorf("%s needs one of url and url_from", at)
		case n.Kind != KindJSON && n.Kind != KindSlack:
			return fmt.Errorf("%s: the kind %q is none of json, slack", at, n.Kind)
		case n.Kind == KindJSON && n.Secret.IsZero():
			return fmt.Errorf("%s: secret is missing, so nobody could tell that the message is ours; make one with `tally keys new-webhook FILE` and give it, for example secret: {file: FILE}", at)
		case n.Kind == KindSlack && !n.Secret.IsZero():
			return fmt.Errorf("%s: messages to Slack are not signed; take secret out", at)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Hooks)) {
		h, at := a.Hooks[name], "gateway.approvals.hooks."+name
		switch {
		case !isHookName(name):
			return fmt.Errorf("gateway.approvals.hooks: the name %q stands in a path; it has 1 to 64 of a-z, 0-9, '-'", name)
		case h.Kind != KindJSON && h.Kind != KindSlack:
			return fmt.Errorf("%s: the kind %q is none of json, slack", at, h.Kind)
		case h.Secret.IsZero():
			return fmt.Errorf("%s: secret is missing, so anybody could decide; give it, for example secret: {env: SLACK_SIGNING_SECRET}", at)
		case len(h.People) == 0:
			return fmt.Errorf("%s: people is empty, so nobody could decide by it; list them by what they are called there", at)
		}
		for id, p := range h.People {
			if p.Name == "" || len(p.Groups) == 0 {
				return fmt.Errorf("%s.people.%s needs a name and groups: those that this gateway knows the person by", at, id)
			}
		}
	}
	return nil
}

func isHookName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-')
	})
}

// resolve makes every path absolute or relative to where the program runs.
func (a *Approvals) resolve(at func(*string)) {
	if a == nil {
		return
	}
	at(&a.Key.File)
	for i := range a.Notify {
		at(&a.Notify[i].URLFrom.File)
		at(&a.Notify[i].Secret.File)
		at(&a.Notify[i].Roots)
	}
	for name, h := range a.Hooks {
		at(&h.Secret.File)
		a.Hooks[name] = h
	}
}
