package witness

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
)

// What is accepted has one spelling, and what it says is what its parts say.
func FuzzAddCheckpointRequest(f *testing.F) {
	l, _ := newSmallLog(testOrigin)
	f.Add(l.body(4, 9))
	f.Add(l.body(0, 0))
	f.Add([]byte("old 0\n\n"))
	r := addCheckpoint{signed: l.sign(tlog.Checkpoint{Origin: l.origin, Root: tlog.Hash{1}})}
	f.Add(r.append(nil))
	r = addCheckpoint{old: 1 << 63, proof: make(tlog.Proof, 63), signed: l.sign(l.at(9), "extension")}
	f.Add(r.append(nil))
	f.Add(bytes.ReplaceAll(l.body(4, 9), []byte(l.origin), []byte("rekor.example - 42")))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseAddCheckpoint(body)
		if err != nil {
			return
		}
		if again := r.append(nil); !bytes.Equal(again, body) {
			t.Errorf("%q is read as %q", body, again)
		}
		if len(r.proof) > maxProof || len(r.text) > maxText || bytes.ContainsAny(body, "\r\x00") {
			t.Errorf("accepted %q", body)
		}
		if !strings.HasPrefix(string(r.signed), r.text+"\n") || !strings.HasPrefix(r.text, r.origin+"\n") {
			t.Errorf("origin %q and text %q of %q", r.origin, r.text, r.signed)
		}
		if tlog.CheckOrigin(r.origin) == nil && !r.badEmpty {
			if _, err := tlog.UnverifiedCheckpoint(r.signed); err != nil {
				t.Errorf("accepted %q: %v", r.signed, err)
			}
		}
	})
}

func FuzzSignSubtreeRequest(f *testing.F) {
	l, _ := newSmallLog(testOrigin)
	r := signSubtree{start: 8, end: 13, proof: make(tlog.Proof, 4), signed: l.sign(l.at(14))}
	f.Add(r.append(nil))
	f.Add([]byte("subtree 0 1\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseSignSubtree(body)
		if err != nil {
			return
		}
		if again := r.append(nil); !bytes.Equal(again, body) {
			t.Errorf("%q is read as %q", body, again)
		}
		if r.start >= r.end || r.end > r.c.Size || !tlog.ValidSubtree(r.start, r.end) || len(r.proof) > maxProof {
			t.Errorf("accepted %q", body)
		}
	})
}

// Whatever a file says, a list has no log without a key, and none of more keys than there is room for.
func FuzzLogList(f *testing.F) {
	_, line := newSmallLog(testOrigin)
	f.Add([]byte(line + "quorum none\n"))
	f.Add([]byte(networkList))
	f.Add([]byte("logs/v0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLogList(data)
		if err != nil {
			return
		}
		for origin, log := range l.logs {
			if tlog.CheckOrigin(origin) != nil || len(log.keys) == 0 || len(log.keys) > MaxKeys {
				t.Errorf("%q has %d keys", origin, len(log.keys))
			}
			for _, k := range log.keys {
				if k.Name() != origin {
					t.Errorf("the key of %q stands under %q", k.Name(), origin)
				}
			}
		}
	})
}

const networkList = `#
# List: 10qps-100klogs
#
logs/v0

vkey sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8
origin none
qpd 86400
contact nobody
`

func TestLogList(t *testing.T) {
	const sum = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	_, line := newSmallLog(testOrigin)
	pq := must(tlog.NewMLDSACosigner(testOrigin, seedOf("log"))).VerifierKey()
	network := func(items ...string) string { return "logs/v0\n" + strings.Join(items, "\n") + "\n" }
	entry := func(vkey, origin, qpd string) string {
		return "vkey " + vkey + "\norigin " + origin + "\nbastion none\nqpd " + qpd + "\ncontact somebody (at) example.com"
	}
	var crowd string
	for i := range MaxKeys + 1 {
		crowd += "log " + must(tlog.NewMLDSACosigner(testOrigin, seedOf(string(rune('a'+i))))).VerifierKey() + "\n"
	}
	for _, c := range []struct {
		name, file string
		origins    string // "" for an error
		skipped    int
		err        string
	}{
		{"one log", line + "quorum none\n", testOrigin, 0, ""},
		{"an address and a comment", "# ours\n" + strings.TrimSpace(line) + " https://log.example/\nquorum none\n", testOrigin, 0, ""},
		{"two logs", "log " + sum + "\n" + line + "quorum none\n", testOrigin + " sum.golang.org", 0, ""},
		{"two keys of one log", line + "log " + pq + "\nquorum none\n", testOrigin, 0, ""},
		{"no log", "quorum none\n", "none", 0, ""},
		{"empty", "", "", 0, "no quorum"},
		{"cut off before its end", line, "", 0, "no quorum"},
		{"cut off in a line", line + "quorum non", "", 0, "cut off"},
		{"a key twice", line + line + "quorum none\n", "", 0, "once"},
		{"a witness's key", "log " + cosignerKey() + "\nquorum none\n", "", 0, "is a witness's"},
		{"too many keys", crowd + "quorum none\n", "", 0, "more than 4 keys"},
		{"a whole policy", line + "witness w " + cosignerKey() + "\nquorum w\n", "", 0, "has a witness"},
		{"a witness to no end", line + "witness w " + cosignerKey() + "\nquorum none\n", "", 0, "has a witness"},
		{"CRLF", strings.ReplaceAll(line+"quorum none\n", "\n", "\r\n"), "", 0, "control character"},
		{"YAML", "logs:\n- origin: x\n", "", 0, "no word"},

		{"network", "# a list\n" + network(entry(sum, "none", "24"), "# next", "", entry(pq, testOrigin, "86400")), testOrigin + " sum.golang.org", 0, ""},
		{"network, empty", network(), "none", 0, ""},
		{"network, called otherwise", network(entry(sum, "go.sum", "24"), entry(pq, "none", "24")), testOrigin, 1, ""},
		{"network, another kind of key", network(entry(sum[:14]+"+12345678+AgAA", "none", "24"), entry(pq, "none", "24")), testOrigin, 1, ""},
		{"network, a key twice", network(entry(sum, "none", "24"), entry(sum, "none", "24")), "sum.golang.org", 1, ""},
		{"network, keys alone", network("vkey "+sum, "vkey "+pq), testOrigin + " sum.golang.org", 0, ""},
		{"network, two keys of one log", network("vkey "+pq, "vkey "+strings.Fields(line)[1]), testOrigin, 0, ""},
		{"network, words of tomorrow", network("vkey "+sum, "colour blue"), "sum.golang.org", 0, ""},
		{"network, cut off in a line", network(entry(sum, "none", "24")) + "vkey", "", 0, "cut off"},
		{"network, no key", network("origin none", "vkey "+sum), "", 0, `line 2 is not "vkey"`},
		{"network, an empty key", network("vkey", "origin none"), "", 0, `line 2 is not "vkey"`},
		{"network, no number", network(entry(sum, "none", "many")), "", 0, "not a number"},
		{"network, zero a day", network(entry(sum, "none", "0")), "", 0, "not a number"},
		{"network, not a number", network(entry(sum, "none", "NaN")), "", 0, "not a number"},
		{"network of another version", strings.Replace(network(entry(sum, "none", "24")), "v0", "v1", 1), "", 0, "no word"},
	} {
		l, err := ParseLogList([]byte(c.file))
		if c.origins == "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		origins := strings.Join(l.Origins(), " ")
		if origins == "" {
			origins = "none"
		}
		if origins != c.origins || len(l.Skipped()) != c.skipped {
			t.Errorf("%s: %s, skipped %q", c.name, origins, l.Skipped())
		}
	}
}

func cosignerKey() string {
	return must(tlog.NewCosigner(testWitness, edKey(testWitness))).VerifierKey()
}
