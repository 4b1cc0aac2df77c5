package cel

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

var testNames = Names{Routes: []string{"main", "claude"}, Findings: []string{"CARD", "EMAIL", "SECRET"}}

// The traps of the trade, each of which is an error when a policy is read: what was written, where the mistake is, and
// what is said of it.
var traps = []struct {
	name, when string
	column     int // of the expression, from 1
	want       string
}{
	{"what can be absent is read", `request.model == 'x'`, 1, "request.model can be absent; write `has(request.model) && …` before it"},
	{"absent where it is negated", `!has(request.model) && request.model == 'x'`, 24, "request.model can be absent"},
	{"absent on one branch", `has(request.model) || request.model == 'x'`, 23, "request.model can be absent"},
	{"asked for after it was read", `request.model == 'x' && has(request.model)`, 1, "request.model can be absent"},
	{"another was asked for", `has(caller.email) && caller.subject == 'x'`, 22, "caller.subject can be absent"},
	{"only one of two branches asked", `(has(request.model) || request.stream) && request.model == 'x'`, 43, "request.model can be absent"},
	{"absent in what or begins with", `request.model == 'x' || request.stream`, 1, "request.model can be absent"},
	{"absent in a condition", `request.model == 'x' ? request.stream : true`, 1, "request.model can be absent"},
	{"absent in an argument", `request.path.startsWith(caller.email)`, 25, "caller.email can be absent"},
	{"absent in a list", `'x' in [request.model]`, 9, "request.model can be absent"},
	{"absent in what is negated", `!(request.model == 'x')`, 3, "request.model can be absent"},
	{"asked for where it is not, in a condition", `(has(request.model) ? request.stream : request.size > 3) && request.model == 'x'`, 61, "request.model can be absent"},
	{"in a member of the body", `has(request.params.a) && request.params.a.b == 1`, 26, "are not looked into"},
	{"asked for in a member of the body", `has(request.params.a.b)`, 4, "are not looked into"},
	{"an element of a member of the body", `has(request.params.a) && request.params.a['b'] == 1`, 26, "are not looked into"},
	{"among a member of the body", `has(request.params.stop) && 'x' in request.params.stop`, 36, "are not looked into"},
	{"a loop over a member of the body", `has(request.params.stop) && request.params.stop.exists(x, x == 'y')`, 29, "are not looked into"},
	{"asked for in a condition", `request.stream ? request.model == 'x' : true`, 18, "request.model can be absent"},
	{"absent within a loop", `request.tools.exists(t, t == request.model)`, 30, "request.model can be absent"},
	{"asked for within a loop only", `request.tools.all(t, has(request.model)) && request.model == 'x'`, 45, "request.model can be absent"},
	{"a member of the body", `request.params.n > 3`, 1, "request.params.n can be absent"},
	{"a member by index", `request.params['n'] > 3`, 15, "request.params.n can be absent"},
	{"a missing claim denies in silence", `caller.email.endsWith('@example.com')`, 1, "caller.email can be absent"},
	{"asked for what is always there", `has(request.size) && request.size > 3`, 4, "request.size is always there; leave out has()"},
	{"a member that is not written out", `request.params[request.path] == 1`, 16, "must be written out"},
	{"an element that may not be there", `request.messages[0].role == 'system'`, 1, "an element can be absent; write .exists(x, …) or .all(x, …)"},

	{"a word that never is", `request.api == 'opnai'`, 16, "request.api is never 'opnai'; write one of 'openai', 'anthropic', 'http'"},
	{"a word that never is, turned round", `'opnai' == request.api`, 1, "request.api is never 'opnai'"},
	{"a word that never is, in a list", `request.api in ['openai', 'antropic']`, 27, "request.api is never 'antropic'"},
	{"a route that is not there", `request.route != 'mian'`, 18, "request.route is never 'mian'; write one of 'main', 'claude'"},
	{"a finding that is not there", `findings.has('CRAD')`, 14, "findings of the kind is never 'CRAD'; write one of 'CARD', 'EMAIL', 'SECRET'"},
	{"a finding in lower case", `findings.has('card')`, 14, "kinds of findings are in upper case; write 'CARD'"},
	{"a finding in lower case in a loop", `findings.exists(x, x.kind == 'card')`, 30, "kinds of findings are in upper case; write 'CARD'"},
	{"a finding in a loop", `findings.exists(x, x.kind == 'CRAD')`, 30, "kind is never 'CRAD'"},
	{"a kind that is not written out", `findings.count(request.path) > 0`, 15, "a kind of finding must be written out"},
	{"how callers are told", `caller.how == 'saml'`, 15, "caller.how is never 'saml'; write one of 'key', 'token', 'oidc', 'cert'"},
	{"a method in lower case", `request.method == 'post'`, 19, "methods are in upper case; write 'POST'"},
	{"a path without a slash", `request.path == 'v1/chat'`, 17, "a path begins with a slash; write '/v1/chat'"},
	{"a path without a slash, by prefix", `request.path.startsWith('v1')`, 25, "a path begins with a slash; write '/v1'"},

	{"text and number", `request.size == '3'`, 14, "== compares what is not of one type (int, string); a text stands in quotes, a number does not"},
	{"text and number in order", `request.size > '3'`, 14, "> cannot be used on (int, string)"},
	{"int and double", `has(request.temperature) && request.temperature == 1`, 49, "write the whole number as 1.0"},
	{"a number in a list of others", `has(request.temperature) && request.temperature in [0, 1]`, 49, "in looks for"},
	{"a list and one value", `caller.groups == 'x'`, 15, "a list is never the same as one value"},
	{"part of a text with in", `'x' in caller.name`, 5, "in looks into a list"},
	{"a number is no truth", `request.size`, 1, "it is a number, and must be true or false; write a comparison"},
	{"a member of the body is no truth", `has(request.params.n) ? request.params.n : false`, 1, "write `… == true`"},
	{"a list of several types", `request.path in ['/v1', 1]`, 25, "what stands in a list is of one type"},
	{"divided by nothing", `request.size / 0 > 1`, 16, "nothing can be divided by zero"},
	{"what can only fail", `9223372036854775807 + 1 > 0`, 1, "it always fails: "},

	{"a regular expression that is open", `request.path.matches('/v1/chat')`, 22, "leaves open where"},
	{"one of which an alternative is open", `request.path.matches('^/v1/chat|/v1/responses$')`, 22, "leaves open where"},
	{"an anchor that is a character", `request.path.matches('^/v1\\$')`, 22, "leaves open where"},
	{"one that is none", `request.path.matches('[')`, 22, "it is no regular expression"},
	{"one that explodes", `request.path.matches('(a{1000}){1000}')`, 22, "it is no regular expression of RE2's kind, or one of more than 1000 instructions"},
	{"one that a caller writes", `request.path.matches(request.method)`, 21, "a regular expression must be written out"},

	{"hours of no place", `now.getHours() > 18`, 13, "name a time zone; write .getHours('UTC')"},
	{"hours of a place that is not there", `now.getHours('Mars') > 18`, 14, "there is no time zone 'Mars'"},
	{"hours of the machine", `now.getHours('Local') > 18`, 14, "there is no time zone 'Local'"},
	{"hours of a place that a caller says", `now.getHours(request.path) > 18`, 13, "a time zone must be written out"},
	{"no time", `timestamp('tomorrow') < now`, 11, "it is no time"},
	{"no length of time", `has(caller.at) && now - caller.at > duration('1 day')`, 46, "it is no length of time"},

	{"a loop in a loop", `request.messages.exists(m, request.messages.exists(n, n.size > m.size))`, 1, "it could cost "},
	{"a loop that hides a variable", `request.tools.exists(request, request == 'x')`, 21, "request is already the name of something"},
	{"a list is made", `request.messages.map(m, m.size) == [1]`, 21, "there is no map; a rule says true or false"},
	{"a text is made", `caller.name + request.path == 'x'`, 13, "+ adds numbers"},
	{"a type is dropped", `dyn(request.size) == 'x'`, 4, "there is no dyn"},
	{"a map", `{'a': 1} == {'a': 2}`, 1, "rules have no use for a { }"},

	{"a fact that is misspelled", `has(request.modle) && request.size > 3`, 4, "there is no field modle; write request.model"},
	{"a fact without its variable", `model == 'x'`, 1, "there is no model; write request.model"},
	{"a variable that is misspelled", `reqest.size > 3`, 1, "there is no reqest; write request"},
	{"a field of an element", `findings.exists(x, x.knd == 'CARD')`, 21, "there is no field knd; write .kind of one of findings"},
	{"a header that a caller writes", `request.headers['x-user'] == 'me'`, 8, "there is no field headers"},

	{"and", `request.size > 3 and true`, 18, "write &&"},
	{"or", `request.size > 3 or true`, 18, "write ||"},
	{"not", `not request.stream`, 5, "write !(…) instead of not"},
	{"one =", `request.path = '/x'`, 14, "write == to compare"},
	{"one &", `request.stream & true`, 16, "write &&"},
	{"a quote that does not end", `caller.name == "abc`, 16, "it cannot be read here"},
	{"a parenthesis that does not end", `(request.stream`, 16, "it ends too early"},
	{"an optional", `request.?model == 'x'`, 8, "unsupported syntax"},
}

func policyOf(when string) string {
	return "otherwise: refuse\nrules:\n  - name: trap\n    then: allow\n    when: |\n      " + strings.ReplaceAll(when, "\n", "\n      ") + "\n"
}

func TestTraps(t *testing.T) {
	for _, row := range traps {
		t.Run(row.name, func(t *testing.T) {
			p, err := Parse("p.yaml", []byte(policyOf(row.when)), testNames)
			if err == nil {
				t.Fatalf("%s: it was taken", row.when)
			}
			if p != nil {
				t.Error("there is an error and a policy")
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			want := fmt.Sprintf("p.yaml:6:%d: rule trap: ", row.column+6)
			if !strings.HasPrefix(first, want) || !strings.Contains(first, row.want) {
				t.Errorf("%s\n got %s\nwant %s… %s", row.when, err, want, row.want)
			}
			var m *Mistake
			if !errors.As(err, &m) || m.In != "rule trap" || m.File != "p.yaml" {
				t.Errorf("%#v", err)
			}
		})
	}
}

// What looks like a trap and is none.
func TestNoTraps(t *testing.T) {
	for _, when := range []string{
		`true`,
		`has(request.model) && request.model == 'x'`,
		`!has(request.model) || request.model in ['a', 'b']`,
		`!(has(request.model) && request.model == 'x')`,
		`!(!has(request.model) || request.stream) && request.model == 'x'`,
		`has(request.model) ? request.model == 'x' : true`,
		`(has(request.model) && request.stream || has(request.model) && !request.stream) && request.model == 'x'`,
		`(request.stream ? has(request.model) : has(request.model) && request.size > 3) && request.model == 'x'`,
		`has(request.model) && has(caller.email) && has(caller.key) && request.model == 'x' && caller.email == 'y' && caller.key == 'z'`,
		`!has(request.model) || !has(caller.email) || request.model == caller.email`,
		`has(request.model) && request.tools.exists(t, t == request.model)`,
		`has(request.params.n) && request.params.n > 3`,
		`has(request.params.n) && request.params.n == true`,
		`has(request.params.store) && request.params.store`,
		`'n' in request.params && request.params['n'] > 3`,
		`has(request.params.service_tier) && request.params.service_tier != 'flex'`,
		`(has(caller.email) && caller.email.endsWith('@example.com')) || 'admins' in caller.groups`,
		`request.path.matches('^/v1/(chat|responses)/.*')`,
		`request.path.matches('(?i)^/v1/chat$') || request.path.matches('.*chat.*') || request.path.matches('^a$|^b$')`,
		`has(request.temperature) && (request.temperature > 1 || request.temperature == 0.0)`,
		`has(request.max_tokens) && request.max_tokens * 2 > request.size / 3`,
		`now.getHours('Europe/Berlin') >= 18 || now.getDayOfWeek('UTC') in [0, 6]`,
		`has(caller.at) && now - caller.at > duration('12h')`,
		`now < timestamp('2027-01-01T00:00:00Z')`,
		`request.messages.exists(m, m.role == 'system' && m.size > 10000) || request.messages.exists_one(m, m.parts > 0)`,
		`findings.has('CARD') || findings.count('EMAIL') > 10 || findings.exists(x, x.kind == 'SECRET' && x.count > 1)`,
		`findings.all(x, x.kind != 'CARD') && size(findings) < 5 && request.messages.size() < 100`,
	} {
		if _, err := Parse("p.yaml", []byte(policyOf(when)), testNames); err != nil {
			t.Errorf("%s\n%v", when, err)
		}
	}
}
