package cel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

// fiftyRules are what a large company might write: none of them refuses or asks of the call of theCall, and the last allows.
func fiftyRules() []byte {
	var b strings.Builder
	b.WriteString("otherwise: refuse\nrules:\n")
	for i := range 50 {
		when := []string{
			"request.size > %d00000 && !('big' in caller.groups)",
			"has(request.model) && request.model in ['m%d', 'gpt-5-pro', 'o9']",
			"has(request.max_tokens) && request.max_tokens > 8%d00 && !('research' in caller.groups)",
			"request.tools.exists(t, t in ['shell-%d', 'browser', 'payments'])",
			"findings.count('CARD') > %d && caller.name.startsWith('okta:')",
		}[i%5]
		then := []string{"refuse", "ask"}[i%2]
		if i == 49 {
			when, then = "'staff' in caller.groups && request.api == 'openai' // %d", "allow"
		}
		fmt.Fprintf(&b, "  - name: rule-%d\n    when: |\n      %s\n    then: %s\n", i, fmt.Sprintf(when, i+1), then)
	}
	return []byte(b.String())
}

func theCall() *gateway.Facts {
	return &gateway.Facts{
		Caller: &gateway.Principal{Name: "okta:00u1", How: gateway.ByOIDC, Issuer: "https://okta.example", Groups: []string{"staff", "dev"}},
		Route:  "main", API: "openai", Method: "POST", Path: "/v1/chat/completions", Size: 2048,
		Known: gateway.KnownCaller | gateway.KnownBody | gateway.KnownFindings,
		Model: "gpt-5", MaxTokens: 1000, HasMaxTokens: true,
		Messages: []gateway.Message{{Role: "system", Size: 100}, {Role: "user", Size: 1500}}, Tools: []string{"search", "read"},
		Findings: []gateway.Finding{{Kind: "EMAIL", Count: 1}}, Now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
	}
}

func BenchmarkJudge(b *testing.B) {
	p, err := Parse("fifty.yaml", fiftyRules(), Names{})
	if err != nil {
		b.Fatal(err)
	}
	f := theCall()
	if j := p.Judge(f); j.Verdict != gateway.Allow || j.Rule != "rule-49" || len(j.Failed) > 0 {
		b.Fatalf("%+v %v", j, p.Failures(f))
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Judge(f)
	}
}
