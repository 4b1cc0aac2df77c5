package config

import (
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	for _, c := range []struct{ line, dir string }{
		{"", "/etc/tally/data/search"}, {"search: idx\n", "/etc/tally/idx"}, {"search: /srv/idx\n", "/srv/idx"}, {"search: off\n", ""},
	} {
		conf, err := Parse([]byte(c.line+good), "/etc/tally")
		if err != nil {
			t.Fatal(err)
		}
		if dir := conf.SearchDir(); dir != c.dir {
			t.Errorf("%q: %q", c.line, dir)
		}
	}
	alone := "log: local:data/log\norigin: log.example/x\nkey: keys/log.key\nanchor: dir:/a\nlisten: 127.0.0.1:8081\nserve_log: {listen: 127.0.0.1:8082, clients: [{name: gw, writers: [gw-1], tokens: [\"00\"]}]}\n"
	if conf, err := Parse([]byte(alone), "/etc/tally"); err != nil || conf.SearchDir() != "" {
		t.Errorf("a log without records: %v", err)
	}
	if _, err := Parse([]byte(alone+"search: idx\n"), "/etc/tally"); err == nil || !strings.Contains(err.Error(), "search") {
		t.Errorf("an index of a log without records: %v", err)
	}
}
