package assemble

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/config"
)

const maskedConfig = `log: local:data/log
origin: log.example/2026
key: log.key
anchor: dir:anchor
data_keys: {dir: data/ring, kek: kek.key}
listen: 127.0.0.1:0
gateway:
  id: gw-1
  listen: 127.0.0.1:0
  journal: data/journal
  callers: [{name: alice, sha256: %s}]
  masking:
    sets:
      strict:
        actions: {CARD: last4, EMAIL: drop}
        lists: {PERSON: ["Ada Lovelace"]}
        files: {PROJECT: projects.txt}
        secrets: [ours.toml]
        rules:
          - {name: badge, kind: BADGE, expr: 'B-\d{6}', action: keep}
          - {name: user, kind: USER, path: $.user}
      lax: {only: [CARD]}
  routes:
    - {name: usual, api: openai, upstream: "http://127.0.0.1:1"}
    - {name: strict, api: http, prefix: /strict/, upstream: "http://127.0.0.1:1", mask: strict}
    - {name: lax, api: http, prefix: /lax/, upstream: "http://127.0.0.1:1", mask: lax}
    - {name: bare, api: http, prefix: /bare/, upstream: "http://127.0.0.1:1", mask: none}
`

// Each route's records are masked by its own set; the key of masks is made once, and stays.
func TestMaskers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"projects.txt": "Bluebird\n\n  Magpie \n",
		"ours.toml":    "[[rules]]\nid = \"our-key\"\nregex = '''\\b(ourkey-[a-z0-9]{12})\\b'''\nkeywords = [\"ourkey\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Parse([]byte(fmt.Sprintf(maskedConfig, strings.Repeat("0", 64))), dir)
	if err != nil {
		t.Fatal(err)
	}
	refs := NewKeyring(c, Env{LookupEnv: os.LookupEnv})
	masks, err := readMaskers(c, refs)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"user":"u-77","m":"4111 1111 1111 1111 ada lovelace a@b.example Magpie B-123456 ourkey-abcdef123456"}`
	for _, row := range []struct {
		route     string
		has, lost []string
	}{
		{"usual", []string{"⟦CARD:", "ada lovelace", "⟦EMAIL:", "Magpie", "u-77", "ourkey-"}, []string{"4111", "a@b"}},
		{"strict", []string{"⟦CARD:…1111⟧", "⟦EMAIL⟧", "⟦PERSON:", "⟦PROJECT:", "B-123456", "⟦USER:", "⟦SECRET:"}, []string{"4111 ", "lovelace", "a@b", "Magpie", "u-77", "ourkey-"}},
		{"lax", []string{"⟦CARD:", "a@b.example"}, []string{"4111"}},
		{"bare", []string{text}, nil},
	} {
		i := slices.IndexFunc(c.Gateway.Routes, func(r config.Route) bool { return r.Name == row.route })
		got := []byte(text)
		if m := masks.of(&c.Gateway.Routes[i]).mask; m != nil {
			got, _ = m.JSON(nil, got)
		}
		for _, s := range row.has {
			if !strings.Contains(string(got), s) {
				t.Errorf("%s: %s has no %s", row.route, got, s)
			}
		}
		for _, s := range row.lost {
			if strings.Contains(string(got), s) {
				t.Errorf("%s: %s has %s", row.route, got, s)
			}
		}
	}
	again, err := readMaskers(c, refs)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := masks["default"].mask.Text(nil, []byte("a@b.example"))
	two, _ := again["default"].mask.Text(nil, []byte("a@b.example"))
	if string(one) != string(two) {
		t.Error("the key of masks is another one the second time")
	}
	names := PolicyNames(&c.Gateway)
	for _, kind := range []string{"CARD", "BADGE", "PROJECT", "PERSON"} {
		if !slices.Contains(names.Findings, kind) {
			t.Errorf("rules cannot speak of %s", kind)
		}
	}
	for what, bad := range map[string][2]string{
		"an identity as recipient": {"only: [CARD]", "only: [CARD], originals: [AGE-SECRET-KEY-1X]"},
		"live, by none":            {"mask: none", "mask: none, live: true"},
		"a set that is none":       {"mask: lax", "mask: lacks"},
		"an action":                {"last4", "last5"},
		"a kind":                   {"only: [CARD]", "only: [CART]"},
		"an expression":            {`B-\d{6}`, `B-(\d{6}`},
		"a path":                   {"path: $.user", "path: user"},
		"no file":                  {"projects.txt", "nowhere.txt"},
		"no rules of secrets":      {"ours.toml", "projects.txt"},
		"a word too many":          {"rules:", "rule:"},
	} {
		c, err := config.Parse([]byte(strings.Replace(fmt.Sprintf(maskedConfig, strings.Repeat("0", 64)), bad[0], bad[1], 1)), dir)
		if err == nil {
			_, err = readMaskers(c, refs)
		}
		if err == nil {
			t.Errorf("%s: no error", what)
		} else {
			t.Log(err)
		}
	}
}

// The README's sets of rules are ones that mask as it says.
func TestREADMEMasking(t *testing.T) {
	b, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(b), "\n    gateway:\n      masking:\n        key:")
	block, _, ok := strings.Cut("      masking:\n        key:"+block, "\n\n")
	if !ok {
		t.Fatal("the README does not say any more how to mask")
	}
	head, _, _ := strings.Cut(maskedConfig, "  masking:\n")
	var text strings.Builder
	fmt.Fprintf(&text, head, strings.Repeat("0", 64))
	for line := range strings.SplitSeq(block, "\n") {
		text.WriteString(strings.TrimPrefix(line, "    ") + "\n")
	}
	dir := t.TempDir()
	c, err := config.Parse([]byte(text.String()), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateMaskKey(filepath.Join(dir, "keys", "mask.key")); err != nil {
		t.Fatal(err)
	}
	masks, err := readMaskers(c, NewKeyring(c, Env{LookupEnv: os.LookupEnv}))
	if err != nil {
		t.Fatal(err)
	}
	const said = "4111 1111 1111 1111, a@b.example, ada lovelace, TCK-123456, 203.0.113.7, cvv 123"
	for i, want := range [][2][]string{
		{{"⟦CARD:…1111⟧", "⟦EMAIL⟧", "⟦PERSON:", "⟦TICKET:", "203.0.113.7", "⟦CVV⟧"}, {"4111 ", "a@b", "lovelace", "123456"}},
		{{"⟦CARD:", "a@b.example", "ada lovelace", "TCK-123456", "⟦CVV⟧"}, {"1111"}},
	} {
		r := &c.Gateway.Routes[i]
		out, _ := masks.of(r).mask.Text(nil, []byte(said))
		if slices.ContainsFunc(want[0], func(s string) bool { return !strings.Contains(string(out), s) }) ||
			slices.ContainsFunc(want[1], func(s string) bool { return strings.Contains(string(out), s) }) || r.Live != (i == 1) {
			t.Errorf("%s, live %v: %s", r.Name, r.Live, out)
		}
	}
}
