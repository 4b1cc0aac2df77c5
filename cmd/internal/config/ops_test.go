package config

import (
	"os"
	"strings"
	"testing"
)

func TestOps(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{"ops: {listen: 127.0.0.1:9464, models: [gpt-5]}", ""},
		{"ops: {listen: '10.0.0.1:9464', profiles: true}", ""},
		{"ops: {listen: ':9464'}", "for everybody"},
		{"ops: {listen: 9464}", "missing port"},
		{"ops: {models: [gpt-5]}", "no ops.listen"},
		{"ops: {listen: 127.0.0.1:9464, models: [other]}", "up to 50 names"},
		{"ops: {listen: 127.0.0.1:9464, secret: x}", "secret"},
		{"traces: {}", ""},
		{"traces: {endpoint: 'https://collector.example/v1/traces', headers: {api-key: {file: key}}, sample: 0.1, callers: parent, models: true}", ""},
		{"traces: {endpoint: 127.0.0.1:4318}", "traces.endpoint"},
		{"traces: {endpoint: 'http://me:hunter2@collector.example'}", "without a user"},
		{"traces: {sample: 3}", "traces.sample"},
		{"traces: {callers: everything}", "traces.callers"},
		{"traces: {headers: {api-key: plain}}", "api-key"},
	} {
		got, err := Parse([]byte(good+"\n"+c.text+"\n"), "/etc/tally")
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v", c.text, err)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: it tells the password: %v", c.text, err)
		case err == nil && got.Traces != nil && len(got.Traces.Headers) > 0 && got.Traces.Headers["api-key"].File != "/etc/tally/key":
			t.Errorf("%s: %v", c.text, got.Traces.Headers)
		}
	}
	for at, private := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, "10.0.0.1:1": false} {
		if (Ops{Listen: at}).Private() != private {
			t.Errorf("%s", at)
		}
	}
}

// What the README shows of it is taken.
func TestReadmeOps(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"ops", "traces"} {
		_, block, ok := strings.Cut(string(text), "\n    "+key+":\n")
		block, _, _ = strings.Cut(block, "\n\n")
		if !ok {
			t.Fatalf("the README has no %s any more", key)
		}
		c, err := Parse([]byte(good+"\n"+key+":\n"+strings.ReplaceAll("\n"+block, "\n    ", "\n")+"\n"), "/etc/tally")
		if err != nil || key == "ops" && len(c.Ops.Models) != 2 || key == "traces" && c.Traces.Sample != 0.1 {
			t.Errorf("%s: %v", key, err)
		}
	}
}
