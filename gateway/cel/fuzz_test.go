package cel

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tallystick/tallystick/gateway"
)

// FuzzLoad: whatever a policy's text is, it is read or every mistake of it lies within it; and what was read judges.
func FuzzLoad(f *testing.F) {
	f.Add(string(fiftyRules()))
	for _, row := range traps {
		f.Add(policyOf(row.when))
	}
	for _, row := range mistakes {
		f.Add(row.text)
	}
	if manual, err := os.ReadFile("POLICY.md"); err == nil {
		for _, e := range examples(string(manual)) {
			f.Add(e.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse("p", []byte(text), testNames)
		if err == nil {
			if string(p.Text()) != text {
				t.Fatal("its text is another")
			}
			p.Judge(theCall())
			p.Judge(&gateway.Facts{})
			return
		}
		if p != nil {
			t.Fatal("there is an error and a policy")
		}
		lines := strings.Split(text, "\n")
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok {
			joined = one{err}
		}
		for _, err := range joined.Unwrap() {
			var m *Mistake
			if !errors.As(err, &m) {
				t.Fatalf("not a mistake: %v", err)
			}
			if m.Line < 1 || m.Line > len(lines) || m.Column < 1 || m.Column > utf8.RuneCountInString(lines[m.Line-1])+1 || m.What == "" {
				t.Fatalf("%q\n%v: it lies outside", text, m)
			}
		}
	})
}

type one [1]error

func (o one) Unwrap() []error { return o[:] }

// FuzzJudge: whatever an expression and a call are, the call is judged, again in the same way, and never allowed by an
// expression that was not evaluated. A call of which nothing is known is not allowed by what needs to know.
func FuzzJudge(f *testing.F) {
	for _, when := range []string{
		"true", "request.tools.exists(t, t == caller.name)", "has(request.params.n) && request.params.n > 3", "request.path.matches('^/v1/.*')",
		"now.getHours('Europe/Berlin') > 3", "findings.count('CARD') > request.messages.size()", "request.size / 7 == 3 || has(request.model)",
	} {
		f.Add(when, "okta:1", "/v1/x", "gpt", "n", "text", int64(7), uint16(1<<10-1), uint16(3))
	}
	f.Fuzz(func(t *testing.T, when, name, path, model, param, text string, number int64, known, n uint16) {
		p, err := Parse("p", []byte(policyOf(when)), Names{})
		if err != nil {
			return
		}
		some := int(n % 1000)
		call := &gateway.Facts{
			Caller: &gateway.Principal{Name: name, Email: text, Groups: strings.Split(text, ",")}, Route: param, Path: path, Size: number, Known: gateway.Known(known),
			Model: model, MaxTokens: number, HasMaxTokens: n&1 > 0, Temperature: float64(number) / 3, HasTemperature: n&2 > 0, Stream: n&4 > 0,
			Messages: make([]gateway.Message, some), Tools: strings.Split(path, "/"),
			Params:   []gateway.Param{{Name: param, Value: number}, {Name: "n", Value: text}, {Name: "x", Value: float64(number)}, {Name: "y"}},
			Findings: []gateway.Finding{{Kind: text, Count: int(number)}},
		}
		j, again := p.Judge(call), p.Judge(call)
		if j.Verdict != again.Verdict || j.Rule != again.Rule || len(j.Failed) != len(again.Failed) {
			t.Fatalf("%s: %+v, and then %+v", when, j, again)
		}
		failed := len(p.Failures(call)) > 0
		switch {
		case failed != (j.Verdict == gateway.Ask), failed != (len(j.Failed) == 1), j.Verdict == gateway.Allow && j.Rule != "trap", j.Verdict == gateway.Refuse && j.Rule != "":
			t.Fatalf("%s: %+v, failures %v", when, j, p.Failures(call))
		}
		p.Judge(&gateway.Facts{})
		p.Judge(&gateway.Facts{Caller: &gateway.Principal{}, Known: 1<<16 - 1})
	})
}
