package config

import (
	"reflect"
	"strings"
	"testing"
)

// TestEditKeys rotates through a file and back, and everything else in it stays.
func TestEditKeys(t *testing.T) {
	const dir = "/etc/tally"
	text := strings.Replace("# The first line.\n"+good, "anchor:", "# Where it is remembered.\nanchor:", 1)
	first := KeysOf{Key: "keys/log.key"}
	overlap := KeysOf{
		Key: "vault:transit/log?version=2", PublicKey: "log.example/2026+00000002+AQ==",
		Also: []AlsoKey{{"keys/pq.key", ""}, {"vault:transit/log?version=1", "log.example/2026+00000001+AQ=="}},
	}
	after := overlap
	after.Also, after.Former = overlap.Also[:1], []string{"log.example/2026+00000001+AQ=="}
	now := []byte(text)
	for _, k := range []KeysOf{first, overlap, after, overlap, first} {
		next, err := EditKeys(now, dir, k)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(next, dir)
		if err != nil || !reflect.DeepEqual(c.Keys(), k) {
			t.Errorf("%+v, %v", c.Keys(), err)
		}
		for _, line := range []string{"# The first line.", "# Where it is remembered.", "  limits: {silence: 90s, body: 1048576}"} {
			if !strings.Contains(string(next), line+"\n") {
				t.Errorf("%q is gone:\n%s", line, next)
			}
		}
		now = next
	}
	if string(now) != text {
		t.Errorf("there and back:\n%s", now)
	}
	for name, odd := range map[string]string{
		"all in one line": "{" + strings.NewReplacer("\n", "").Replace(`log: local:data/log, origin: log.example/2026, key: keys/log.key, anchor: dir:/a, listen: "127.0.0.1:1",
 serve_log: {listen: "127.0.0.1:2", clients: [{name: a, tokens: [b]}]}`) + "}\n",
		"not a file of ours": "key: x\n",
	} {
		if _, err := EditKeys([]byte(odd), dir, overlap); err == nil {
			t.Errorf("%s: edited", name)
		}
	}
}

func TestAddLogKey(t *testing.T) {
	const policy = "# ours\nlog a+1 https://log.example\nwitness w w+2\nquorum w\n"
	got, err := AddLogKey([]byte(policy), "a+1", "a+3")
	if want := strings.Replace(policy, "witness", "log a+3 https://log.example\nwitness", 1); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if again, err := AddLogKey(got, "a+1", "a+3"); err != nil || string(again) != string(got) {
		t.Errorf("twice: %q, %v", again, err)
	}
	if _, err := AddLogKey([]byte(policy), "a+9", "a+3"); err == nil {
		t.Error("a policy of another log")
	}
}
