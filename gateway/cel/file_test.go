package cel

import (
	"fmt"
	"strings"
	"testing"
)

// What can be wrong with a policy outside of expressions: the text, and where and what the mistakes are, one a line.
var mistakes = []struct{ name, text, want string }{
	{"nothing", "", "1:1: the policy is empty"},
	{"only a comment", "# later\n", "1:1: the policy is empty"},
	{"no default", "rules:\n  - name: a\n    when: true\n    then: allow\n", "1:1: it does not say what becomes of a call to which no rule applies; write `otherwise: refuse`"},
	{"a default that is no verdict", "otherwise: deny\n", "1:12: there is no verdict \"deny\"; write refuse, ask or allow"},
	{"not YAML", "otherwise: [refuse\n", "this is not YAML"},
	{"not a mapping", "- otherwise\n", "1:1: a policy is written as names and values"},
	{"two documents", "otherwise: refuse\n---\notherwise: allow\n", "3:1: a policy is one document"},
	{"bytes that are no text", "otherwise: refuse\n# \xff\n", "2:3: a policy is text in UTF-8"},
	{"a character that nobody sees", "otherwise: refuse\n#\u202e\n", "2:2: a policy is text"},
	{"a member that there is not", "otherwise: refuse\nrule: []\n", "2:1: a policy has no \"rule\"; write rules"},
	{"a member that nobody meant", "otherwise: refuse\nversion: 2\n", "2:1: a policy has no \"version\"; it has otherwise, rules, quotas"},
	{"a member twice", "otherwise: refuse\notherwise: allow\n", "2:1: "},
	{"a value from elsewhere", "otherwise: &x refuse\nrules: []\n", "values are written out"},

	{"a rule without a name", "otherwise: refuse\nrules:\n  - when: true\n    then: allow\n", "3:5: the rule has no name"},
	{"a rule without a condition", "otherwise: refuse\nrules:\n  - name: a\n    then: allow\n", "3:5: rule a: it does not say when it applies"},
	{"a rule without a verdict", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n", "3:5: rule a: it does not say what becomes of the call"},
	{"a rule's member that there is not", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    than: allow\n",
		"5:5: a rule has no \"than\"; write then"},
	{"a list of conditions", "otherwise: refuse\nrules:\n  - name: a\n    when: [request.stream, request.size > 3]\n    then: allow\n",
		"4:11: rule a: when is one expression; write `a && b` if all of it must be so, `a || b` if one is enough"},
	{"a name that is none", "otherwise: refuse\nrules:\n  - name: No Cards\n    when: true\n    then: refuse\n", "3:11: a rule's name has 1 to 64 of a-z"},
	{"a name twice", "otherwise: refuse\nrules:\n  - {name: a, when: true, then: allow}\n  - {name: a, when: true, then: ask}\n", "another rule is named a"},
	{"a message to nobody", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: allow\n    message: hello\n", "6:5: rule a: a call that is allowed is told nothing"},
	{"a long message", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: refuse\n    message: " + strings.Repeat("x", 501) + "\n", "6:14: rule a: a message has at most 500 bytes"},
	{"approval of what is not asked", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: refuse\n    approval: {count: 1}\n", "6:5: rule a: only a rule that asks needs approval"},
	{"nobody's approval", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {count: 0}\n", "rule a: count is how many people must say yes, from 1 to 20"},
	{"no groups", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {groups: []}\n", "rule a: groups is empty"},
	{"no time", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {within: 15}\n", "rule a: within is how long people have"},
	{"too long held", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {hold: 2h}\n", "rule a: hold is how long the call itself waits"},
	{"held longer than people have", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {within: 1m, hold: 2m}\n", "rule a: the call is held for 2m0s and people have 1m0s"},
	{"valid for longer than people have", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {within: 1m, valid: 2m}\n", "6:35: rule a: a yes would be valid for 2m0s and people have 1m0s"},
	{"valid for ever", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    approval: {valid: forever}\n", "rule a: valid is how long a yes can be used"},
	{"a route that is not there", "otherwise: refuse\nrules:\n  - name: a\n    when: true\n    then: ask\n    routes: [main, mian]\n", "rule a: there is no route mian; write main"},
	{"what YAML takes for a tag", "otherwise: refuse\nrules:\n  - name: a\n    when: !has(request.model)\n    then: ask\n", "3:5: rule a: it does not say what becomes of the call\n4:11: rule a: a value that begins with ! is read as something else by YAML"},
	{"what YAML takes for a quote", "otherwise: refuse\nrules:\n  - name: a\n    when: 'x' in request.tools\n    then: ask\n", "this is not YAML"},
	{"what YAML takes for a comment", "otherwise: refuse\nrules:\n  - name: a\n    when: request.path == '/a #b'\n    then: ask\n", "it cannot be read here"},
	{"a truth in other words", "otherwise: refuse\nrules:\n  - name: a\n    when: yes\n    then: ask\n", "4:11: rule a: there is no yes"},

	{"a quota without a name", "otherwise: refuse\nquotas:\n  - {requests: 3, window: 1m}\n", "the quota has no name"},
	{"a quota without a window", "otherwise: refuse\nquotas:\n  - name: a\n    requests: 3\n", "3:5: quota a: it does not say in what time; write `window: 1m`"},
	{"a window of nothing", "otherwise: refuse\nquotas:\n  - name: a\n    concurrent: 3\n    window: 1m\n", "5:5: quota a: calls at a time are not counted in a window"},
	{"a quota that limits nothing", "otherwise: refuse\nquotas:\n  - name: a\n", "3:5: quota a: it limits nothing; write `requests: 100`"},
	{"a quota's member that there is not", "otherwise: refuse\nquotas:\n  - name: a\n    request: 3\n    window: 1m\n", "4:5: a quota has no \"request\"; write requests"},
	{"a quota of nothing", "otherwise: refuse\nquotas:\n  - name: a\n    tokens: 0\n    window: 1m\n", "4:13: quota a: tokens is how many tokens there are in a window, from 1 to"},
	{"a window that is none", "otherwise: refuse\nquotas:\n  - name: a\n    tokens: 5\n    window: month\n", "5:13: quota a: window is in what time requests and tokens are counted, from 1s to 744h0m0s"},
	{"a quota twice", "otherwise: refuse\nquotas:\n  - {name: a, concurrent: 3}\n  - {name: a, concurrent: 4}\n", "another quota is named a"},
	{"a quota's expression", "otherwise: refuse\nquotas:\n  - name: a\n    when: \"'x' in caller.group\"\n    concurrent: 3\n", "4:25: quota a: there is no field group; write caller.groups"},
	{"several at once", "otherwise: no\nrules:\n  - name: a\n    when: request.modle == 'x'\n    then: ask\n  - name: b\n    when: request.size == '3'\n    then: allow\n",
		"1:12: there is no verdict \"no\"\n4:18: rule a: there is no field modle; write request.model\n7:24: rule b: == compares what is not of one type"},
	{"in a folded expression", "otherwise: refuse\nrules:\n  - name: a\n    when: >\n      request.stream &&\n      request.siez > 3\n    then: ask\n", "6:14: rule a: there is no field siez; write request.size"},
	{"in a plain one of two lines", "otherwise: refuse\nrules:\n  - name: a\n    when: request.stream &&\n      request.siez > 3\n    then: ask\n", "5:14: rule a: there is no field siez"},
	{"in quotes", "otherwise: refuse\nrules:\n  - name: a\n    when: \"request.siez > 3\"\n    then: ask\n", "4:19: rule a: there is no field siez"},
	{"in quotes with escapes", "otherwise: refuse\nrules:\n  - name: a\n    when: \"request.path == \\\"/x\\\" && request.siez > 3\"\n    then: ask\n", "4:11: rule a: there is no field siez"},
	{"behind what is not ASCII", "otherwise: refuse\nrules:\n  - name: a\n    when: caller.name == 'Zoë' && request.siez > 3\n    then: ask\n", "4:42: rule a: there is no field siez"},
}

func TestMistakes(t *testing.T) {
	for _, row := range mistakes {
		t.Run(row.name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte(row.text), testNames)
			if err == nil {
				t.Fatal("it was taken")
			}
			got, want := strings.Split(err.Error(), "\n"), strings.Split(row.want, "\n")
			if len(got) != len(want) {
				t.Fatalf("%d mistakes, want %d:\n%v", len(got), len(want), err)
			}
			for i := range want {
				if rest, ok := strings.CutPrefix(got[i], "p.yaml:"); !ok || !strings.Contains(rest, want[i]) || want[i][0] <= '9' && !strings.HasPrefix(rest, want[i]) {
					t.Errorf("got  %s\nwant %s", got[i], want[i])
				}
			}
		})
	}
}

// What a policy may ask for has an end, and is told where it is passed.
func TestLimits(t *testing.T) {
	rules := func(n int, when string) string {
		var b strings.Builder
		b.WriteString("otherwise: refuse\nrules:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - {name: r%d, then: ask, when: \"%s\"}\n", i, when)
		}
		return b.String()
	}
	long := "request.path == '/" + strings.Repeat("x", 4100) + "'"
	for _, row := range []struct{ name, text, want string }{
		{"rules", rules(501, "true"), "503:"},
		{"bytes", "otherwise: refuse\n" + strings.Repeat("#\n", 128<<10), "262162 bytes, and 262144 are the most"},
		{"characters", policyOf(long), "it is longer than 4096 characters"},
		{"depth", policyOf(strings.Repeat("!(", 100) + "true" + strings.Repeat(")", 100)), "6:7: rule trap: it is nested deeper than 48"},
		{"brackets", "otherwise: " + strings.Repeat("[", 100_000), "p.yaml:1:1: this is nested deeper"},
		{"dashes", "otherwise: refuse\n" + strings.Repeat("- ", 100_000), "p.yaml:2:1: this is nested deeper"},
		{"cost of all", rules(300, "request.messages.exists(m, m.role == 'tool' && m.size > 3)"), "all expressions together could cost"},
	} {
		_, err := Parse("p.yaml", []byte(row.text), testNames)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %.300v, want %s", row.name, err, row.want)
		}
	}
	most := "otherwise: refuse\t# as much as there can be\r\nrules:\n  - name: " + strings.Repeat("a", 64) + "\n    when: true\n    then: ask\n    message: " + strings.Repeat("x", 500) +
		"\n    approval: {count: 20, within: 168h, valid: 168h, hold: 1h}\n  - {name: valid, when: true, then: ask, approval: {valid: 1h}}\n  - {name: held, when: true, then: ask, approval: {hold: 1h}}\nquotas:\n  - {name: a, requests: 1_000_000_000_000, window: 744h}\n"
	for _, text := range []string{rules(500, "request.size > 3"), most} {
		if _, err := Parse("p.yaml", []byte(text), testNames); err != nil {
			t.Errorf("%.100s…: %v", text, err)
		}
	}
}
