package config

import (
	"strings"
	"testing"
	"time"
)

const withRetention = good + `retain_every: 12h
retention:
  - {name: all, erase_after: 90d, basis: storage limitation}
  - {name: bank, routes: [openai, of-before], callers: [alice], keep: 2y, erase_after: 3y}
  - {name: case, sessions: [0198f2c1-667b-7728-960c-f5ec8c385e21], hold: "2026-17"}
`

func TestRetention(t *testing.T) {
	c, err := Parse([]byte(withRetention), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := c.Rules()
	if err != nil || len(rules) != 3 || rules[0].EraseAfter.Days != 90 || rules[1].Keep.Years != 2 || len(rules[2].Sessions) != 1 || rules[2].Hold != "2026-17" {
		t.Errorf("%+v, %v", rules, err)
	}
	if c.RetainPeriod() != 12*time.Hour {
		t.Errorf("every %s", c.RetainPeriod())
	}
	if c, err := Parse([]byte(good), "/"); err != nil || c.RetainPeriod() != 24*time.Hour {
		t.Errorf("%v", err)
	}
}

// Every wrong file is refused with the word that leads to the fault.
func TestRetentionRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "erase_after: 90d", "erase: 90d", "erase"},
		{"no name", "name: all, ", "", "number 1: name is missing"},
		{"a name twice", "name: bank", "name: all", `"all" is there twice`},
		{"a rule that says nothing", ", hold: \"2026-17\"", "", `"case" says nothing`},
		{"a ground for nothing", "erase_after: 90d, basis", "keep: 90d, basis", "has a basis"},
		{"erased before it may be", "erase_after: 3y", "erase_after: 23mo", "shorter than keep"},
		{"months or minutes", "90d", "90m", "90d, 26w, 6mo or 2y"},
		{"a Go duration", "keep: 2y", "keep: 1h", "90d, 26w, 6mo or 2y"},
		{"not a session", "0198f2c1-", "", `"case"`},
		{"a period of nothing", "retention:", "retentions:", "retentions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(withRetention, c.old) {
				t.Fatalf("the good file has no %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(withRetention, c.old, c.new, 1)), ".")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not speak of %q", err, c.want)
			}
		})
	}
	if _, err := Parse([]byte(good+"retain_every: 1h\n"), "."); err == nil || !strings.Contains(err.Error(), "no retention") {
		t.Errorf("a period without rules: %v", err)
	}
	only := withRetention[:strings.Index(withRetention, "data_keys:")] + "listen: 127.0.0.1:8081\nserve_log: {listen: 127.0.0.1:8082, clients: [{name: gw, writers: [gw-1], tokens: [\"00\"]}]}\n" + withRetention[strings.Index(withRetention, "retain_every:"):]
	if _, err := Parse([]byte(only), "."); err == nil || !strings.Contains(err.Error(), "gateway's file") {
		t.Errorf("in the log's own process: %v", err)
	}
}
