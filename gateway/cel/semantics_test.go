package cel

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(text), Names{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

// One rule of each outcome, in every order, gives one verdict; and of rules of one kind the first in the text decides.
func TestVerdicts(t *testing.T) {
	const fails = "request.size / (request.size - request.size) > 0"
	type line struct{ name, when, then string }
	for _, row := range []struct {
		name  string
		rules []line
		want  gateway.Verdict
		rule  string
	}{
		{"none applies", []line{{"no", "false", "allow"}}, gateway.Refuse, ""},
		{"allow", []line{{"no", "false", "refuse"}, {"yes", "true", "allow"}}, gateway.Allow, "yes"},
		{"ask beats allow", []line{{"yes", "true", "allow"}, {"ask", "true", "ask"}}, gateway.Ask, "ask"},
		{"refuse beats ask and allow", []line{{"yes", "true", "allow"}, {"ask", "true", "ask"}, {"no", "true", "refuse"}}, gateway.Refuse, "no"},
		{"one that would allow fails", []line{{"failed", fails, "allow"}}, gateway.Ask, "failed"},
		{"one that would allow fails beside one that does", []line{{"yes", "true", "allow"}, {"failed", fails, "allow"}}, gateway.Ask, "failed"},
		{"one that would ask fails", []line{{"yes", "true", "allow"}, {"failed", fails, "ask"}}, gateway.Ask, "failed"},
		{"one that would refuse fails", []line{{"yes", "true", "allow"}, {"failed", fails, "refuse"}}, gateway.Ask, "failed"},
		{"one that refuses beats one that fails", []line{{"failed", fails, "refuse"}, {"no", "true", "refuse"}, {"yes", "true", "allow"}}, gateway.Refuse, "no"},
		{"one that asks says who, though another fails", []line{{"failed", fails, "refuse"}, {"ask", "true", "ask"}}, gateway.Ask, "ask"},
		{"what fails beside what is true is true", []line{{"yes", "true || " + fails, "allow"}}, gateway.Allow, "yes"},
		{"what fails beside what is false is false", []line{{"yes", "true", "allow"}, {"no", fails + " && false", "refuse"}}, gateway.Allow, "yes"},
	} {
		for order := range permutations(len(row.rules)) {
			var b strings.Builder
			b.WriteString("otherwise: refuse\nrules:\n")
			for _, i := range order {
				fmt.Fprintf(&b, "  - {name: %s, then: %s, when: \"%s\"}\n", row.rules[i].name, row.rules[i].then, row.rules[i].when)
			}
			j := parse(t, b.String()).Judge(theCall())
			if j.Verdict != row.want || j.Rule != row.rule {
				t.Errorf("%s, in the order %v: %v by %q, want %v by %q", row.name, order, j.Verdict, j.Rule, row.want, row.rule)
			}
			if failed := strings.Contains(row.name, "fails") && !strings.HasPrefix(row.name, "what fails"); (len(j.Failed) > 0) != failed &&
				!(j.Verdict == gateway.Refuse && len(j.Failed) == 0) { // behind one that refuses nothing is looked at
				t.Errorf("%s, in the order %v: failed are %q", row.name, order, j.Failed)
			}
		}
	}
	first := parse(t, "otherwise: refuse\nrules:\n  - {name: b, when: true, then: ask, message: to b}\n  - {name: a, when: true, then: ask}\n")
	if j := first.Judge(theCall()); j.Rule != "b" || j.Message != "to b" {
		t.Errorf("%+v: the first does not decide", j)
	}
}

// permutations goes over the orders of n things.
func permutations(n int) func(yield func([]int) bool) {
	return func(yield func([]int) bool) {
		order := make([]int, n)
		var place func(i int) bool
		place = func(i int) bool {
			if i == n {
				return yield(slices.Clone(order))
			}
			for v := range n {
				if !slices.Contains(order[:i], v) {
					order[i] = v
					if !place(i + 1) {
						return false
					}
				}
			}
			return true
		}
		place(0)
	}
}

// What was not read, and what is not there, refuses.
func TestZeroRefuses(t *testing.T) {
	var none *Policy
	for _, p := range []*Policy{none, {}} {
		if j := p.Judge(theCall()); !reflect.DeepEqual(j, gateway.Judgement{}) {
			t.Errorf("%+v", j)
		}
		if p.Text() != nil || p.Version() != [32]byte{} || p.Failures(theCall()) != nil {
			t.Errorf("%v has something", p)
		}
	}
}

func TestTextAndVersion(t *testing.T) {
	text := []byte("otherwise: allow # for now\n")
	p, err := Parse("p.yaml", text, Names{})
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	copy(text, "XXXX")
	p.Text()[0] = 'X'
	if string(p.Text()) != want || p.Version() != sha256.Sum256([]byte(want)) {
		t.Errorf("%q %x", p.Text(), p.Version())
	}
	if j := p.Judge(theCall()); j.Verdict != gateway.Allow || j.Rule != "" {
		t.Errorf("%+v", j)
	}
}

func TestApproval(t *testing.T) {
	p := parse(t, `
otherwise:
  then: ask
  message: nobody has said anything about this
  approval: {groups: [platform]}
rules:
  - name: tools
    when: request.tools.exists(t, t == 'search')
    then: ask
    message: tools are used with the consent of two
    approval:
      groups: [security, platform]
      count: 2
      within: 2h
      valid: 10m
      hold: none
  - name: failing
    when: findings.has('CARD')
    then: refuse
`)
	f := theCall()
	if got, want := p.Judge(f), (gateway.Judgement{
		Verdict: gateway.Ask, Rule: "tools", Message: "tools are used with the consent of two",
		Approval: gateway.Approval{Groups: []string{"security", "platform"}, Count: 2, Within: 2 * time.Hour, Valid: 10 * time.Minute, Hold: -1},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	f.Tools = nil
	if got, want := p.Judge(f), (gateway.Judgement{
		Verdict: gateway.Ask, Message: "nobody has said anything about this", Approval: gateway.Approval{Groups: []string{"platform"}},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	f.Known &^= gateway.KnownFindings
	if got, want := p.Judge(f), (gateway.Judgement{Verdict: gateway.Ask, Rule: "failing", Failed: []string{"failing"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestRoutes(t *testing.T) {
	p := parse(t, `
otherwise: refuse
rules:
  - {name: all, when: true, then: allow}
  - {name: some, when: true, then: ask, routes: [main, other]}
  - {name: one, when: true, then: refuse, routes: [other]}
`)
	for route, want := range map[string]string{"main": "some", "other": "one", "third": "all", "": "all"} {
		f := theCall()
		f.Route = route
		if j := p.Judge(f); j.Rule != want {
			t.Errorf("route %q: by %q, want %q", route, j.Rule, want)
		}
	}
}

func TestQuotas(t *testing.T) {
	all := parse(t, "otherwise: allow\nquotas:\n  - {name: a, requests: 10, tokens: 1_000_000, window: 1h, concurrent: 4, message: ask us}\n  - {name: b, concurrent: 9}\n")
	want := []*gateway.Quota{{Name: "a", Requests: 10, Tokens: 1_000_000, Window: time.Hour, Concurrent: 4, Message: "ask us"}, {Name: "b", Concurrent: 9}}
	if j := all.Judge(theCall()); !reflect.DeepEqual(j.Quotas, want) {
		t.Errorf("%+v", j)
	}
	some := parse(t, `
otherwise: ask
rules:
  - {name: no, then: refuse, when: request.stream}
quotas:
  - {name: mine, concurrent: 1, when: "'dev' in caller.groups"}
  - {name: theirs, concurrent: 1, when: "'ops' in caller.groups"}
  - {name: here, concurrent: 1, routes: [main]}
  - {name: there, concurrent: 1, routes: [other]}
  - {name: failing, concurrent: 1, when: "has(request.params.n) && request.params.n > 3"}
  - {name: every, concurrent: 1}
`)
	names := func(j gateway.Judgement) string {
		var names []string
		for _, q := range j.Quotas {
			names = append(names, q.Name)
		}
		return strings.Join(names, " ")
	}
	f := theCall()
	if got := names(some.Judge(f)); got != "mine here every" {
		t.Error(got)
	}
	f.Params = []gateway.Param{{Name: "n", Value: "many"}}
	if got := names(some.Judge(f)); got != "mine here failing every" {
		t.Error(got)
	}
	if why := some.Failures(f); len(why) != 1 || !strings.HasPrefix(why[0].Error(), "quota failing: ") {
		t.Error(why)
	}
	f.Stream = true
	if j := some.Judge(f); j.Verdict != gateway.Refuse || j.Quotas != nil {
		t.Errorf("%+v", j)
	}
}

// Every fact, by expressions that are true of one call, by some that are false of it, and by some that cannot be
// evaluated, because the fact is not known or the number overflows.
func TestFacts(t *testing.T) {
	call := func() *gateway.Facts {
		f := theCall()
		f.Caller = &gateway.Principal{
			Name: "okta:00u1", How: gateway.ByOIDC, Key: "laptop", Issuer: "https://okta.example", Subject: "00u1", Email: "a@example.com", Groups: []string{"staff", "dev"},
			At: f.Now.Add(-time.Hour), Until: f.Now.Add(time.Hour),
		}
		f.Temperature, f.HasTemperature, f.Stream = 0.5, true, true
		f.Messages = []gateway.Message{{Role: "system", Size: 100}, {Role: "user", Size: 1500, Parts: 1}}
		f.Findings = []gateway.Finding{{Kind: "CARD", Rule: "visa", Count: 2}, {Kind: "CARD", Count: 1}, {Kind: "EMAIL", Count: 0}}
		f.Params = []gateway.Param{{Name: "n", Value: int64(3)}, {Name: "top_p", Value: 0.5}, {Name: "store", Value: true}, {Name: "user", Value: "u1"}, {Name: "metadata"}, {Name: "Seed", Value: int64(1)}}
		return f
	}
	empty := func() *gateway.Facts {
		return &gateway.Facts{Caller: &gateway.Principal{}, Known: gateway.KnownCaller | gateway.KnownBody | gateway.KnownFindings}
	}
	unknown := func() *gateway.Facts { return &gateway.Facts{} }
	for _, row := range []struct {
		of   func() *gateway.Facts
		want string // "true", "false" or "error"
		is   []string
	}{
		{call, "true", []string{
			"caller.name == 'okta:00u1'", "caller.how == 'oidc'", "has(caller.key) && caller.key == 'laptop'", "has(caller.issuer) && caller.issuer == 'https://okta.example'",
			"has(caller.subject) && caller.subject == '00u1'", "has(caller.email) && caller.email.endsWith('@example.com')", "'dev' in caller.groups",
			"caller.groups == ['staff', 'dev']", "caller.groups.size() == 2", "caller.groups.all(g, g in ['staff', 'dev', 'x'])",
			"has(caller.at) && now - caller.at == duration('1h')", "has(caller.until) && caller.until > now",
			"request.route == 'main'", "request.api == 'openai'", "request.method == 'POST'", "request.path == '/v1/chat/completions'", "request.size == 2048",
			"has(request.model) && request.model in ['gpt-4', 'gpt-5']", "request.stream", "has(request.max_tokens) && request.max_tokens == 1000",
			"has(request.temperature) && request.temperature < 1 && request.temperature == 0.5",
			"request.messages.size() == 2", "request.messages.exists(m, m.role == 'user' && m.size == 1500 && m.parts == 1)", "request.messages.exists_one(m, m.parts > 0)",
			"'search' in request.tools", "request.tools.exists(t, t.startsWith('sea'))", "request.tools == ['search', 'read']", "request.tools != ['search']",
			"has(request.params.n) && request.params.n == 3", "'n' in request.params && request.params['n'] >= 3", "has(request.params.top_p) && request.params.top_p < 1",
			"has(request.params.store) && request.params.store", "has(request.params.user) && request.params.user == 'u1'",
			"has(request.params.metadata) && request.params.metadata == null", "request.params.size() == 6", "request.params.exists(name, name == 'Seed')",
			"!has(request.params.absent)", "!('absent' in request.params)",
			"findings.has('CARD')", "findings.count('CARD') == 3", "findings.exists(x, x.kind == 'CARD' && x.rule == 'visa' && x.count == 2)", "!findings.has('EMAIL')", "size(findings) == 3",
			"now == timestamp('2026-11-25T12:00:00Z')", "now.getHours('Europe/Berlin') == 13", "now.getDayOfWeek('UTC') == 3", "now.getFullYear('UTC') == 2026", "now.getMonth('UTC') == 10",
			"now.getDate('UTC') == 25", "now.getMinutes('Asia/Kolkata') == 30",
			"findings.all(x, x in findings)", "!findings.exists(x, x.kind != x.kind)", "request.params == request.params", "findings == findings", "!(request.messages != request.messages)",
			"double(request.size) / 2.0 == 1024.0", "int(2.9) == 2", "request.size % 1000 == 48", "-request.size < 0",
		}},
		{call, "false", []string{
			"has(request.params.n) && request.params.n == '3'", "has(request.params.metadata) && request.params.metadata == 1", "findings.has('SECRET')", "findings.count('SECRET') > 0",
			"has(request.model) && request.model.startsWith('GPT')", "'x' in request.tools",
		}},
		{call, "error", []string{
			"has(request.params.user) && request.params.user > 3", "has(request.params.n) && request.params.n", "has(request.params.n) && request.params.n.startsWith('x')",
			"has(request.params.seed)", "'SEED' in request.params", // the body has Seed, which a model might take for it
			"request.size + 9223372036854775807 > 0", "request.size / (request.size - 2048) > 0", "request.size % (request.size - 2048) > 0",
		}},
		{empty, "true", []string{
			"!has(caller.key)", "!has(caller.issuer)", "!has(caller.subject)", "!has(caller.email)", "!has(caller.at)", "!has(caller.until)", "caller.groups.size() == 0",
			"!has(request.model)", "!request.stream", "!has(request.max_tokens)", "!has(request.temperature)", "request.messages.size() == 0", "request.tools.all(t, false)",
			"!has(request.params.n)", "!findings.has('CARD')", "request.route == ''",
		}},
		{unknown, "error", []string{
			"caller.name == ''", "caller.how == 'key'", "has(caller.key)", "has(caller.email)", "'x' in caller.groups", "!('x' in caller.groups)",
			"has(request.model)", "!has(request.model)", "request.stream", "!request.stream", "has(request.max_tokens)", "has(request.temperature)", "request.messages.size() == 0",
			"request.messages.all(m, true)", "'x' in request.tools", "!('x' in request.tools)", "request.tools.size() == 0", "has(request.params.n)", "!('n' in request.params)",
			"findings.has('CARD')", "!findings.has('CARD')", "findings.count('CARD') > 0", "findings.all(x, false)", "size(findings) == 0",
		}},
		{unknown, "true", []string{"request.size == 0", "request.route == '' || request.stream", "now < timestamp('2026-01-01T00:00:00Z')"}},
	} {
		for _, when := range row.is {
			for _, much := range []bool{false, true} {
				p, err := Parse("p.yaml", []byte(policyOf(when)), Names{})
				if err != nil {
					t.Errorf("%s: %v", when, err)
					break
				}
				f := row.of()
				if much { // the way of calls that have much in them
					f.Path += strings.Repeat("/", 1025)
					if strings.Contains(when, "request.path") {
						continue
					}
				}
				got := "false"
				switch j := p.Judge(f); {
				case j.Verdict == gateway.Allow:
					got = "true"
				case len(j.Failed) > 0:
					got = "error"
				}
				if got != row.want {
					t.Errorf("%s is %s, want %s %v", when, got, row.want, p.Failures(f))
				}
			}
		}
	}
}

// A call with as much in it as a gateway lets through costs no more than the limit, and what goes beyond fails.
func TestMuch(t *testing.T) {
	f := theCall()
	f.Messages = make([]gateway.Message, 10_000)
	p := parse(t, `
otherwise: allow
rules:
  - {name: messages, then: refuse, when: "request.messages.exists(m, m.role == 'tool' || m.size > 3 || m.parts > 9)"}
`)
	if j := p.Judge(f); j.Verdict != gateway.Allow || len(j.Failed) > 0 {
		t.Errorf("%+v %v", j, p.Failures(f))
	}
	f = theCall()
	f.Caller = &gateway.Principal{Groups: make([]string, 200_000)}
	p = parse(t, `
otherwise: allow
rules:
  - {name: groups, then: refuse, when: "caller.groups.exists(g, g == 'x' || g == 'y' || g.startsWith('zzzzz'))"}
`)
	if j := p.Judge(f); j.Verdict != gateway.Ask || len(j.Failed) != 1 {
		t.Errorf("%+v: more groups than there ever are were gone through", j)
	} else if why := p.Failures(f); len(why) != 1 || !strings.Contains(why[0].Error(), "cost limit") {
		t.Errorf("%v", why)
	}
}

// One policy judges many calls at a time, and nothing of one is seen in another.
func TestTogether(t *testing.T) {
	p := parse(t, string(fiftyRules())+"  - {name: mine, then: refuse, when: \"request.tools.exists(t, t == caller.name)\"}\n")
	done := make(chan error)
	for g := range 8 {
		go func() {
			for i := range 500 {
				f := theCall()
				f.Caller = &gateway.Principal{Name: fmt.Sprint("caller-", g), Groups: []string{"staff"}}
				f.Tools = []string{"x", fmt.Sprint("caller-", g+i%2)}
				j := p.Judge(f)
				if want := []gateway.Verdict{gateway.Refuse, gateway.Allow}[i%2]; j.Verdict != want || len(j.Failed) > 0 {
					done <- fmt.Errorf("%d, %d: %+v", g, i, j)
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
