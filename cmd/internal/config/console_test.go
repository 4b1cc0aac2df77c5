package config

import (
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
)

const withConsole = `console:
  listen: 127.0.0.1:8082
  public: https://tally.example
  hosts: [tally.example, "tally.example:8443"]
  roles:
    viewer: [support, "second line"]
    approver: [approvers]
    auditor: [compliance]
  people:
    okta:00u1: [admin, viewer]
  sign_in: [entra]
  policy: trust.policy
gateway:`

func consoleFile() string {
	text := strings.Replace(good, "  journal:", withIdentity, 1)
	return strings.Replace(text, "gateway:", withConsole, 1)
}

func TestConsole(t *testing.T) {
	c, err := Parse([]byte(consoleFile()), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	k := c.Console
	if k.Policy != "/etc/tally/trust.policy" || c.SessionLife() != 8*time.Hour || !k.Signs("entra") || k.Signs("okta") || !(&Console{}).Signs("okta") {
		t.Errorf("%+v", k)
	}
	for _, p := range []struct {
		name   string
		groups []string
		want   audit.Roles
	}{
		{"okta:00u2", nil, 0},
		{"okta:00u2", []string{"staff", "Support", "support "}, 0},
		{"okta:00u2", []string{"staff", "support"}, audit.Viewer},
		{"okta:00u2", []string{"second line", "approvers", "compliance"}, audit.Viewer | audit.Approver | audit.Auditor},
		{"okta:00u1", nil, audit.Admin | audit.Viewer},
		{"okta:00u1", []string{"approvers"}, audit.Admin | audit.Viewer | audit.Approver},
		{"viewer", []string{"viewer", "admin"}, 0},
		{"", []string{""}, 0},
	} {
		if got := k.RolesOf(p.name, p.groups); got != p.want {
			t.Errorf("%s in %q: %s, want %s", p.name, p.groups, got, p.want)
		}
	}
	c, err = Parse([]byte(strings.Replace(consoleFile(), "  sign_in: [entra]\n", "  life: 30m\n  tls: {cert: c.pem, key: c.key}\n", 1)), "/etc/tally")
	if err != nil || c.SessionLife() != 30*time.Minute || c.Console.TLS.Key != "/etc/tally/c.key" {
		t.Errorf("%v %+v", err, c)
	}
	for _, other := range []string{"[::1]:8082", "localhost:8082", "127.1.2.3:0"} {
		if _, err := Parse([]byte(strings.Replace(consoleFile(), "127.0.0.1:8082", "'"+other+"'", 1)), "."); err != nil {
			t.Error(err)
		}
	}
	if _, err := Parse([]byte(strings.Replace(consoleFile(), "https://tally.example\n", "http://[::1]:8082/\n", 1)), "."); err != nil {
		t.Error(err)
	}
}

// Every wrong file is refused with the word that leads to the fault.
func TestConsoleRefuses(t *testing.T) {
	file := consoleFile()
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "  hosts:", "  host:", "host"},
		{"nowhere to listen", "  listen: 127.0.0.1:8082\n  public", "  public", "console.listen is missing"},
		{"nowhere to be found", "  public: https://tally.example\n", "", "console.public is missing"},
		{"plain HTTP for all", "127.0.0.1:8082\n  public", "0.0.0.0:8082\n  public", "there is no console.tls"},
		{"plain HTTP by every name", "127.0.0.1:8082\n  public", "\":8082\"\n  public", "there is no console.tls"},
		{"half of TLS", "  policy: trust", "  tls: {cert: c.pem}\n  policy: trust", "console.tls needs both"},
		{"a URL with a path", "https://tally.example\n", "https://tally.example/console\n", "without a path"},
		{"no URL", "https://tally.example\n", "tally.example\n", "without a path"},
		{"plain HTTP for browsers", "https://tally.example\n", "http://tally.example\n", "make it https"},
		{"a URL of another kind", "https://tally.example\n", "ftp://tally.example\n", "without a path"},
		{"no host", "\"tally.example:8443\"", "\"https://tally.example\"", "is no host"},
		{"an empty host", "\"tally.example:8443\"", "\"\"", "is no host"},
		{"nobody who may anything", "  roles:\n    viewer: [support, \"second line\"]\n    approver: [approvers]\n    auditor: [compliance]\n  people:\n    okta:00u1: [admin, viewer]\n", "", "console.roles is empty"},
		{"a role that there is not", "    auditor: [", "    auditors: [", "auditors"},
		{"a role of nobody's", "    auditor: [compliance]", "    auditor: []", "console.roles.auditor names no group"},
		{"a role of everybody's", "    auditor: [compliance]", "    auditor: ['']", "console.roles.auditor names no group"},
		{"a person's role that there is not", "[admin, viewer]", "[root]", "console.people.okta:00u1"},
		{"a person without a role", "[admin, viewer]", "[]", "has no role"},
		{"a person without a name", "okta:00u1:", "'':", "no name"},
		{"a provider that there is not", "[entra]", "[entry]", "there are okta, entra"},
		{"a log-in for ever", "  sign_in: [entra]", "  life: 1000h", "console.life"},
		{"a log-in for a moment", "  sign_in: [entra]", "  life: 1s", "console.life"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(file, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(file, c.old, c.new, 1)), ".")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	// Nobody who logs people in, and no gateway at all.
	for text, want := range map[string]string{
		strings.Replace(good, "gateway:", strings.Replace(withConsole, "  sign_in: [entra]\n", "", 1), 1): "nobody who logs people in",
		"log: local:data/log\norigin: log.example/2026\nkey: keys/log.key\nanchor: dir:/elsewhere/anchor\nlisten: 127.0.0.1:8081\n" +
			"serve_log: {listen: 127.0.0.1:8083, clients: [{name: a, tokens: ['00'], writers: [gw-1]}]}\n" + strings.TrimSuffix(withConsole, "gateway:"): "put console into the gateway's file",
	} {
		if _, err := Parse([]byte(text), "."); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
