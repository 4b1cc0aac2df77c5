package config

import (
	"os"
	"strings"
	"testing"
)

const withApprovals = `  policy: policy.yaml
  approvals:
    groups: [approvers]
    glass: [oncall]
    within: 20m
    longest: 8h
    hold: none
    url: https://gw-1.example
    key: {file: approvals.key}
    shared: true
    notify:
      - {url: "https://hooks.example/tally", kind: json, secret: {file: out.secret}, roots: ca.pem}
      - {url_from: {file: slack.url}, kind: slack}
    hooks:
      slack:
        kind: slack
        secret: {file: slack.secret}
        people:
          U012AB3CD: {name: carol, email: carol@example.org, groups: [approvers]}
  journal:`

func TestApprovals(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(good, "  journal:", withApprovals, 1)), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	a := c.Gateway.Approvals
	for _, p := range []struct{ got, want string }{
		{c.Gateway.Policy, "/etc/tally/policy.yaml"}, {a.Key.File, "/etc/tally/approvals.key"}, {a.Notify[0].Secret.File, "/etc/tally/out.secret"},
		{a.Notify[0].Roots, "/etc/tally/ca.pem"}, {a.Notify[1].URLFrom.File, "/etc/tally/slack.url"}, {a.Hooks["slack"].Secret.File, "/etc/tally/slack.secret"},
		{a.Hooks["slack"].People["U012AB3CD"].Email, "carol@example.org"}, {c.ApprovalsKey(), "/etc/tally/data/approvals.key"},
	} {
		if p.got != p.want {
			t.Errorf("%q, want %q", p.got, p.want)
		}
	}
	if a.Hold >= 0 || !c.SharedApprovals() {
		t.Errorf("%+v", a)
	}
	// Nothing of it must be there.
	c, err = Parse([]byte(strings.Replace(good, "  journal:", "  policy: policy.yaml\n  approvals: {}\n  journal:", 1)), "/")
	if err != nil || c.Gateway.Approvals == nil || c.SharedApprovals() {
		t.Errorf("%v, %+v", err, c)
	}
}

// Every wrong file is refused with the word that leads to the fault.
func TestApprovalsRefuses(t *testing.T) {
	file := strings.Replace(good, "  journal:", withApprovals, 1)
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "glass:", "glas:", "glas"},
		{"an unknown key of a person", "email: carol@", "mail: carol@", "mail"},
		{"nothing that asks", "  policy: policy.yaml\n", "", "gateway.policy"},
		{"no key where gateways share a log", "    key: {file: approvals.key}\n", "", "gateway.approvals.key is missing"},
		{"a hold without unit", "hold: none", "hold: 3", "nor none"},
		{"a message to nobody", "url: \"https://hooks.example/tally\", ", "", "number 1 needs one of url and url_from"},
		{"two addresses", "{url_from: {file: slack.url}", "{url: \"https://x.example\", url_from: {file: slack.url}", "number 2 needs one of"},
		{"another kind of message", "kind: json", "kind: xml", "none of json, slack"},
		{"a message that nobody signed", ", secret: {file: out.secret}", "", "number 1: secret is missing"},
		{"a secret for Slack", "kind: slack}", "kind: slack, secret: {env: X}}", "not signed"},
		{"a hook's name with a slash", "      slack:\n", "      a/b:\n", `"a/b"`},
		{"another kind of hook", "        kind: slack\n", "        kind: teams\n", "gateway.approvals.hooks.slack"},
		{"a hook without secret", "        secret: {file: slack.secret}\n", "", "anybody could decide"},
		{"a hook of nobody's", "        people:\n          U012AB3CD: {name: carol, email: carol@example.org, groups: [approvers]}\n", "", "people is empty"},
		{"a person without groups", ", groups: [approvers]}", "}", "people.U012AB3CD needs a name and groups"},
		{"a person without a name", "name: carol, ", "", "people.U012AB3CD needs a name and groups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(file, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(file, c.old, c.new, 1)), ".")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not speak of %q", err, c.want)
			}
		})
	}
	// A log in another process has other writers, unless the file says that it has none.
	i, j := strings.Index(file, "log: "), strings.Index(file, "data_keys:")
	remote := "log: https://log.example:8082\norigin: log.example/2026\nlog_access: {token: {file: log.token}}\n" + strings.Replace(file[:i]+file[j:], "    key: {file: approvals.key}\n    shared: true\n", "", 1)
	if _, err := Parse([]byte(remote), "."); err == nil || !strings.Contains(err.Error(), "tally keys new-approvals") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := Parse([]byte(strings.Replace(remote, "    hold: none\n", "    hold: none\n    shared: false\n", 1)), "."); err != nil {
		t.Error(err)
	}
}

// The example over Approvals is one that is read.
func TestApprovalsExample(t *testing.T) {
	b, err := os.ReadFile("approvals.go")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(b), "//\tapprovals:\n")
	example, _, _ = strings.Cut(example, "//\n// ")
	text := "  policy: rules.yaml\n  approvals:\n" + strings.ReplaceAll(example, "//\t", "  ")
	c, err := Parse([]byte(strings.Replace(good, "  journal:", text+"  journal:", 1)), "/x")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if a := c.Gateway.Approvals; len(a.Notify) != 1 || a.Notify[0].Kind != KindSlack || a.Hooks["slack"].People["U012AB3CD"].Name != "carol" {
		t.Errorf("%+v", a)
	}
}
