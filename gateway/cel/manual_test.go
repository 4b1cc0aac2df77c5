package cel

import (
	"os"
	"strings"
	"testing"
)

// An example is a block of YAML in the manual.
type example struct {
	line int
	text string
}

// examples are the whole policies that stand in a text in Markdown.
func examples(manual string) (all []example) {
	var in *example
	for i, line := range strings.SplitAfter(manual, "\n") {
		switch {
		case in == nil && strings.TrimSpace(line) == "```yaml":
			in = &example{line: i + 2}
		case in != nil && strings.TrimSpace(line) == "```":
			all, in = append(all, *in), nil
		case in != nil:
			in.text += line
		}
	}
	return all
}

// Every example of the manual is a policy; and the manual names every field, every member and every limit.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	all := examples(string(b))
	for _, e := range all {
		if _, err := Parse("POLICY.md", []byte(e.text), Names{}); err != nil {
			t.Errorf("the example in line %d: %v", e.line, err)
		}
	}
	if len(all) < 5 {
		t.Errorf("the manual has %d examples", len(all))
	}
	for _, f := range fields() {
		of := map[string]string{"Caller": "caller.", "Request": "request.", "Message": "", "Finding": ""}[f.of.TypeName()]
		if !strings.Contains(string(b), "| `"+of+f.name+"` |") {
			t.Errorf("the manual does not tell of %s%s", of, f.name)
		}
	}
}
