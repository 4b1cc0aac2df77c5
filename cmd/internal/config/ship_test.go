package config

import (
	"strings"
	"testing"
)

func TestShip(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{"{name: siem, to: 'https://siem.example/in', content: metadata, fields: [caller, status], token: {file: siem.token}, scheme: Splunk, roots: ca.pem}", ""},
		{"{name: a, to: 'file:out.jsonl'}, {name: b, to: 'syslog+tls://h:6514', tls: {cert: c, key: k}}, {name: c, to: 'syslog+unix:s', mark: m, from: 7}", ""},
		{"{to: 'file:x'}", "its name"},
		{"{name: A, to: 'file:x'}", "its name"},
		{"{name: a, to: 'file:x'}, {name: a, to: 'file:y'}", "its name"},
		{"{name: a}", "ship.a.to is missing"},
		{"{name: a, to: 'http://siem.example/'}", "loopback"},
		{"{name: a, to: 'https://me:hunter2@siem.example/'}", "password"},
		{"{name: a, to: 'file:x', content: all}", "entries or metadata"},
		{"{name: a, to: 'file:x', content: metadata, fields: [body]}", "body"},
		{"{name: a, to: 'file:x', fields: [caller]}", "content: metadata"},
		{"{name: a, to: 'file:x', token: {file: t}}", "for https://"},
		{"{name: a, to: 'https://h/', header: X-Key}", "has none"},
		{"{name: a, to: 'https://h/', tls: {cert: c}}", "both cert and key"},
		{"{name: a, to: 'https://h/', token: hunter2}", "token"},
	} {
		got, err := Parse([]byte(good+"\nship: ["+c.text+"]\n"), "/etc/tally")
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v", c.text, err)
		case err == nil && len(got.Ship) == 1 && (got.Ship[0].Token.File != "/etc/tally/siem.token" || got.Ship[0].Roots != "/etc/tally/ca.pem" || !got.Ship[0].Metadata() || !strings.HasSuffix(got.Ship[0].Mark, "/ship-siem.mark")):
			t.Errorf("%+v", got.Ship[0])
		case err == nil && len(got.Ship) == 3 && (got.Ship[0].To != "file:/etc/tally/out.jsonl" || got.Ship[2].To != "syslog+unix:/etc/tally/s" || got.Ship[2].Mark != "/etc/tally/m" || got.Ship[1].TLS.Key != "/etc/tally/k"):
			t.Errorf("%+v", got.Ship)
		}
	}
	// A log without a gateway has no keys of records.
	const log = `log: local:data/log
origin: log.example/2026
key: keys/log.key
anchor: dir:/elsewhere/anchor
listen: 127.0.0.1:8081
serve_log: {listen: 127.0.0.1:8082, clients: [{name: gw, tokens: ["00"], writers: [gw-1]}]}
ship: [{name: a, to: "file:x"`
	if _, err := Parse([]byte(log+"}]\n"), "/etc/tally"); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte(log+", content: metadata}]\n"), "/etc/tally"); err == nil || !strings.Contains(err.Error(), "no keys of records") {
		t.Error(err)
	}
}
