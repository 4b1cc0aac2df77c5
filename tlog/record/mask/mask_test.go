package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// Equal values have equal masks however they are written, others have others, and another key gives others again.
func TestTokens(t *testing.T) {
	m := masker(t, mask.Config{})
	one := func(m *mask.Masker, s string) string {
		out, f := m.Text(nil, []byte(s))
		if len(f) != 1 || f[0].Count != 1 {
			t.Fatalf("%v in %q", f, s)
		}
		return string(out)
	}
	card := one(m, "4111111111111111")
	for _, s := range []string{"4111 1111 1111 1111", "4111-1111-1111-1111", "４１１１１１１１１１１１１１１１"} {
		if got := one(m, s); got != card {
			t.Errorf("%s: %s and %s", s, got, card)
		}
	}
	if one(m, "5555555555554444") == card {
		t.Error("two cards have one mask")
	}
	if one(m, "JANE@example.com") != one(m, "jane%40example.com") || one(m, "+1 415 555 2671") != one(m, "(415) 555-2671") {
		t.Error("one value has two masks")
	}
	other, err := mask.New(mask.Config{Key: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	if one(other, "4111111111111111") == card {
		t.Error("two tenants have one mask")
	}
	// What is masked is not masked again, and what only looks like a mask hides nothing.
	if got, f := m.Text(nil, []byte(card)); string(got) != card || len(f) != 0 {
		t.Errorf("%s became %s", card, got)
	}
	for _, s := range []string{"⟦A4111111111111111⟧", "⟦CARD:4111111111111111⟧", "⟦CARD:…4111111111111111⟧", "⟦4111111111111111⟧"} {
		if got, _ := m.Text(nil, []byte(s)); strings.Contains(string(got), "4111") {
			t.Errorf("%s became %s", s, got)
		}
	}
}

func TestActions(t *testing.T) {
	m := masker(t, mask.Config{
		Actions: map[mask.Kind]mask.Action{mask.Card: mask.Last4, mask.Email: mask.Drop, mask.IP: mask.Keep, mask.IBAN: mask.Last4},
		Without: []mask.Kind{mask.Phone, "US_SSN"}, With: []mask.Kind{"UK_POSTCODE"},
	})
	in := "4111 1111 1111 1111, cvv 123, x@y.org, 10.0.0.1, +1 415 555 2671, 078-05-1120, SW1A 1AA, GB82 WEST 1234 5698 7654 32"
	out, f := m.Text(nil, []byte(in))
	want := "⟦CARD:…1111⟧, cvv ⟦CVV⟧, ⟦EMAIL⟧, 10.0.0.1, +1 415 555 2671, 078-05-1120, ⟦UK_POSTCODE⟧, ⟦IBAN:…5432⟧"
	got := string(out)
	if i := strings.Index(got, "⟦UK_POSTCODE:"); i > 0 {
		got = got[:i] + "⟦UK_POSTCODE⟧" + got[i+strings.Index(got[i:], "⟧")+len("⟧"):]
	}
	if got != want {
		t.Errorf("%s\n%s", got, want)
	}
	for k, n := range map[mask.Kind]int{mask.Card: 1, mask.CVV: 1, mask.Email: 1, mask.IP: 1, mask.Phone: 0, "US_SSN": 0, mask.IBAN: 1} {
		if f.Count(k) != n {
			t.Errorf("%s: %d in %v", k, f.Count(k), f)
		}
	}
	only := masker(t, mask.Config{Only: []mask.Kind{mask.Card}})
	if out, _ := only.Text(nil, []byte("4111111111111111 x@y.org 10.0.0.1 00:1A:2B:3C:4D:5E https://a:bcdefg@h.org AKIAIOSFODNN7EXAMPLE")); !strings.HasSuffix(string(out), "⟧ x@y.org 10.0.0.1 00:1A:2B:3C:4D:5E https://a:bcdefg@h.org AKIAIOSFODNN7EXAMPLE") {
		t.Errorf("%s", out)
	}
}

// Names are masked by lists, and what a configuration knows by expression or by path.
func TestOwnRules(t *testing.T) {
	m := masker(t, mask.Config{
		Lists: map[mask.Kind][]string{mask.Person: {"Jane Doe", "Müller", "Jane"}, "PROJECT": {"bluebird"}},
		Words: map[mask.Kind][]string{mask.Medical: {"fallnummer"}},
		Rules: []mask.Rule{
			{Name: "ticket", Kind: "TICKET", Expr: `\bTCK-([0-9]{6})\b`},
			{Name: "employee", Kind: "EMPLOYEE", Expr: `E[0-9]{4}`, Path: "$.staff[*].id", Action: mask.Drop},
			{Name: "system", Kind: "PROMPT", Path: "$.messages[0].content", Action: mask.Drop},
			{Name: "deep", Kind: "SALARY", Path: "$..salary", Action: mask.Drop},
		},
	})
	for in, want := range map[string]string{
		"Jane Doe, JANE DOE, Müller and Muller met Janet": "⟦PERSON⟧, ⟦PERSON⟧, ⟦PERSON⟧ and ⟦PERSON⟧ met Janet",
		"TCK-123456 and XTCK-123456 of Bluebird":          "TCK-⟦TICKET⟧ and XTCK-123456 of ⟦PROJECT⟧",
		"Fallnummer 482913":                               "Fallnummer ⟦MEDICAL⟧",
	} {
		out, _ := m.Text(nil, []byte(in))
		if got := plainMasks(string(out)); got != want {
			t.Errorf("%s\n%s", got, want)
		}
	}
	in := `{"messages":[{"role":"system","content":"You \n are"},{"role":"user","content":"E1234"}],"staff":[{"id":"x E1234 y"},{"id":"E12"}],"pay":{"salary":5000,"more":[{"salary":null},{"salary":{"sum":"much","n":[1]}}]}}`
	want := `{"messages":[{"role":"system","content":"⟦PROMPT⟧"},{"role":"user","content":"E1234"}],"staff":[{"id":"x ⟦EMPLOYEE⟧ y"},{"id":"E12"}],"pay":{"salary":"⟦SALARY⟧","more":[{"salary":"⟦SALARY⟧"},{"salary":{"sum":"⟦SALARY⟧","n":["⟦SALARY⟧"]}}]}}`
	out, f := m.JSON(nil, []byte(in))
	if string(out) != want || !json.Valid(out) {
		t.Errorf("%v\n%s\n%s", f, out, want)
	}
}

func TestConfigErrors(t *testing.T) {
	key := make([]byte, mask.MinKey)
	for _, c := range []struct {
		why string
		c   mask.Config
	}{
		{"no key", mask.Config{}},
		{"a short key", mask.Config{Key: key[:mask.MinKey-1]}},
		{"no such kind", mask.Config{Key: key, Only: []mask.Kind{"KARD"}}},
		{"no such kind", mask.Config{Key: key, Without: []mask.Kind{"KARD"}}},
		{"cvv kept", mask.Config{Key: key, Actions: map[mask.Kind]mask.Action{mask.CVV: mask.Keep}}},
		{"cvv as token", mask.Config{Key: key, Actions: map[mask.Kind]mask.Action{mask.Track: mask.Token}}},
		{"no such action", mask.Config{Key: key, Actions: map[mask.Kind]mask.Action{mask.Card: 9}}},
		{"bad expression", mask.Config{Key: key, Rules: []mask.Rule{{Name: "x", Kind: "X_", Expr: "("}}}},
		{"bad path", mask.Config{Key: key, Rules: []mask.Rule{{Name: "x", Kind: "X_", Path: "messages"}}}},
		{"bad kind", mask.Config{Key: key, Rules: []mask.Rule{{Name: "x", Kind: "x⟧", Expr: "a"}}}},
		{"digits in a kind", mask.Config{Key: key, Rules: []mask.Rule{{Name: "x", Kind: "A4111", Expr: "a"}}}},
		{"nothing to look for", mask.Config{Key: key, Rules: []mask.Rule{{Name: "x", Kind: "X_"}}}},
		{"no name", mask.Config{Key: key, Rules: []mask.Rule{{Kind: "X_", Expr: "a"}}}},
		{"a short word", mask.Config{Key: key, Lists: map[mask.Kind][]string{mask.Person: {"J"}}}},
	} {
		if _, err := mask.New(c.c); err == nil || !strings.HasPrefix(err.Error(), "mask: ") {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

// One masker serves many at once.
func TestConcurrent(t *testing.T) {
	m := masker(t, mask.Config{})
	want := make([]string, len(sentences))
	for i, s := range sentences {
		out, _ := m.Text(nil, []byte(s))
		want[i] = string(out)
	}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				k := (g + i) % len(sentences)
				if out, _ := m.Text(nil, []byte(sentences[k])); string(out) != want[k] {
					t.Errorf("%s\n%s", out, want[k])
				}
			}
		})
	}
	all.Wait()
}

// Rules in gitleaks' format: what is used of it, and what is refused.
func TestParseSecrets(t *testing.T) {
	s, err := mask.ParseSecrets([]byte(`
title = "ours"
[allowlist]
stopwords = ["example"]
[[rules]]
id = "acme"
description = "a key of ours"
regex = '''\b(acme_[a-z0-9]{16})\b'''
keywords = ["acme_"]
entropy = 2
[[rules.allowlists]]
regexes = ['''^acme_0000''']
[[rules]]
id = "assigned"
regex = '''(?i)[\w.-]{0,50}?(?:widget)(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}([a-z0-9]{12})(?:[\x60'"\s;]|\\[nr]|$)'''
keywords = ["widget"]
[[rules]]
id = "paths"
path = '''\.pem$'''
[[rules]]
id = "always"
regex = '''\bzz[0-9]{10}zz\b'''
`))
	if err != nil {
		t.Fatal(err)
	}
	m := masker(t, mask.Config{Secrets: s})
	for in, rule := range map[string]string{
		"x acme_abcd1234efgh5678 y":   "acme",
		"acme_00001234efgh5678":       "",
		"acme_example1234efgh":        "",
		"acme_aaaaaaaaaaaaaaaa":       "",
		"xacme_abcd1234efgh5678":      "",
		"widget_key = 'abc123def456'": "assigned",
		"the widget costs 12":         "",
		"zz1234567890zz":              "always",
		"AKIAIOSFODNN7EXAMPLE":        "",
	} {
		found := m.Find([]byte(in))
		if rule == "" && len(found) > 0 || rule != "" && (len(found) != 1 || found[0].Rule != rule) {
			t.Errorf("%q: %v, want %q", in, found, rule)
		}
	}
	for _, bad := range []string{
		"[[rules", "[[rules]]\nid = \"x\"\nregex = '('", "[[rules]]\nregex = 'a'", "[[rules]]\nid = \"x\"\nregex = 'a'\nsecretGroup = 3",
		"[[rules]]\nid = \"x\"\nregex = 'a'\n[[rules.allowlists]]\nregexes = ['(']", "[allowlist]\nregexes = ['[']",
	} {
		if _, err := mask.ParseSecrets([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// FuzzSecrets: no file of rules makes the parser or a search with them panic.
func FuzzSecrets(f *testing.F) {
	f.Add([]byte("[[rules]]\nid = \"x\"\nregex = '''\\b(a[0-9]{3,}(b)?)'''\nkeywords = [\"a\"]\nsecretGroup = 2\nentropy = 0.5"), []byte("key = a1234567b89"))
	f.Add([]byte("[[rules]]\nid = \"x\"\nregex = '''(?i)[\\w.-]{0,50}?(?:k)(?:=|>|:{1,3}=|\\|\\||:|=>|\\?=|,)(v{3})'''\nkeywords = [\"k\"]"), []byte("k=vvv0000000"))
	key := make([]byte, mask.MinKey)
	f.Fuzz(func(t *testing.T, rules, text []byte) {
		s, err := mask.ParseSecrets(rules)
		if err != nil {
			return
		}
		m, err := mask.New(mask.Config{Key: key, Secrets: s, Only: []mask.Kind{mask.Secret}})
		if err != nil {
			t.Fatal(err)
		}
		m.Find(text)
	})
}

// FuzzPath: every path that is taken can be followed.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"$.a", "$..b[*]", "$['x y'][0].*", "$[1]..c"} {
		f.Add(p, []byte(`{"a":[{"b":[1,"x"]},{"x y":["z"]}],"c":null}`))
	}
	key := make([]byte, mask.MinKey)
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		m, err := mask.New(mask.Config{Key: key, Only: []mask.Kind{mask.CVV}, Rules: []mask.Rule{{Name: "r", Kind: "KIND", Path: path, Action: mask.Drop}}})
		if err != nil {
			return
		}
		if out, _ := m.JSON(nil, body); json.Valid(body) && !json.Valid(out) {
			t.Fatalf("%s: %s became %s", path, body, out)
		}
	})
}

// A value is found in every spelling that is promised.
func TestSpellings(t *testing.T) {
	m := masker(t, mask.Config{})
	each := func(f func(r rune) string) func(string) string {
		return func(s string) string {
			var b strings.Builder
			for _, r := range s {
				b.WriteString(f(r))
			}
			return b.String()
		}
	}
	digits := func(zero rune) func(string) string {
		return each(func(r rune) string {
			if '0' <= r && r <= '9' {
				r += zero - '0'
			}
			return string(r)
		})
	}
	between := func(sep string) func(string) string {
		return func(s string) string { return strings.Join(strings.Split(s, ""), sep) }
	}
	middle := func(sep string) func(string) string {
		return func(s string) string { return s[:len(s)/2] + sep + s[len(s)/2:] }
	}
	format := func(f string) func(string) string { return each(func(r rune) string { return fmt.Sprintf(f, r) }) }
	twice := func(f func(string) string) func(string) string { return func(s string) string { return f(f(s)) } }
	spellings := map[string]func(string) string{
		"percent": format("%%%02X"), "percent twice": twice(format("%%%02x")), "decimal": format("&#%d;"), "hexadecimal": format("&#x%x;"), "escaped": format(`\u%04x`),
		"escaped twice": format(`\\u%04X`), "quoted": func(s string) string { return `\"` + s + `\"` }, "full width": each(func(r rune) string { return string(r - '!' + '！') }),
		"no width": between("\u200b"), "joined": between("\u200d"), "soft hyphens": between("\u00ad"), "combining": between("\u034f"), "zeros": between("\x00"), "selectors": between("\ufe0f"),
		"mathematical": digits('𝟎'), "arabic": digits('٠'), "thai": digits('๐'), "line end": middle("\n"), "line end, too": middle("\r\n"), "bold": middle("**"),
		"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }, "base64 of URLs": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"bytes": func(s string) string { return hex.EncodeToString([]byte(s)) }, "in a sentence": func(s string) string { return "It is " + s + ", I think." },
		"twice": func(s string) string {
			return base64.StdEncoding.EncodeToString([]byte(`{"a":"` + format(`\u%04x`)(s) + `"}`))
		},
	}
	for name, spell := range spellings {
		for _, v := range []string{
			"jane.doe@example.com", "4111111111111111", "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD", "AKIAIOSFODNN7EXAMPLE", "078-05-1120", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
			"DE89370400440532013000", "ghp_1234567890abcdefABCDEF1234567890abcd", "203.0.113.77", "xoxb-123456789012-123456789012-abcdefABCDEF123456789012",
		} {
			in := spell(v)
			out, f := m.Text(nil, []byte(in))
			if len(f) != 1 || f[0].Count != 1 {
				t.Errorf("%s: %v in %q", name, f, in)
			} else if part := masktest.Leak(out, v, 5); part != "" {
				t.Errorf("%s: %q leaks %q", name, out, part)
			}
		}
	}
}
