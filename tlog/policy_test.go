package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/mod/sumdb/note"
)

// A cast is a log, a second one, and witnesses W0 to W7, with keys of their own.
type cast struct {
	log, log2   note.Signer
	logKey      string
	log2Key     string
	witness     []*tlog.CosignatureSigner
	witnessKeys []string
}

func newCast(tb testing.TB) *cast {
	c := new(cast)
	c.log, c.logKey = logKey(tb, "log.example/1", 1)
	c.log2, c.log2Key = logKey(tb, "log.example/2", 2)
	for i := range 8 {
		w, err := tlog.NewCosigner(fmt.Sprintf("witness.example/w%d", i), seedKey(byte(100+i)))
		if err != nil {
			tb.Fatal(err)
		}
		c.witness = append(c.witness, w)
		c.witnessKeys = append(c.witnessKeys, w.VerifierKey())
	}
	return c
}

// policy replaces LOG, LOG2 and KEY0 to KEY7 in text by keys, and ALL by lines for log and witnesses.
func (c *cast) policy(text string) string {
	all := "log LOG\n"
	for i := range c.witness {
		all += fmt.Sprintf("witness W%d KEY%d\n", i, i)
	}
	pairs := []string{"LOG2", c.log2Key, "LOG", c.logKey, "MLDSA", vkey("pq.example", 6, make([]byte, 1312))}
	for i, k := range c.witnessKeys {
		pairs = append(pairs, fmt.Sprintf("KEY%d", i), k)
	}
	return strings.NewReplacer(pairs...).Replace(strings.Replace(text, "ALL\n", all, 1))
}

func (c *cast) mustParse(tb testing.TB, text string) *tlog.Policy {
	tb.Helper()
	p, err := tlog.ParsePolicy([]byte(c.policy(text)))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// sign has the log and some witnesses sign a checkpoint.
func (c *cast) sign(tb testing.TB, cp tlog.Checkpoint, witnesses ...int) []byte {
	tb.Helper()
	signers := []note.Signer{c.log}
	for _, i := range witnesses {
		signers = append(signers, c.witness[i])
	}
	signed, err := note.Sign(&note.Note{Text: string(cp.Text())}, signers...)
	if err != nil {
		tb.Fatal(err)
	}
	return signed
}

var policyRows = []struct {
	name string
	text string
	err  string // "" for a good one; otherwise part of the error
}{
	{"the least", "quorum none\n", ""},
	{"logs alone", "log LOG\nlog LOG2 https://log.example/2/\nquorum none\n", ""},
	{"one witness", "log LOG\nwitness W KEY0\nquorum W\n", ""},
	{"all kinds of white", " \t log\tLOG \t\n\t\n  # a comment\n#another\n  quorum\t none  \n", ""},
	{"comments of any octets", "#\xff\xfe\u00e9 +\nquorum none\n", ""},
	{"names of any octets", "witness \xff KEY0\nwitness \u212a KEY1\nwitness K KEY2\ngroup g 3 \xff \u212a K\nquorum g\n", ""},
	{"names that are words", "witness all KEY0\nwitness any KEY1\nwitness log KEY2\ngroup 2 2 all any log\nquorum 2\n", ""},
	{"a name with a number sign", "witness #1 KEY0\nquorum #1\n", ""},
	{"groups", "ALL\ngroup a all W0 W1\ngroup b any W2 W3\ngroup c 2 W4 W5 W6\ngroup d 2 a b c\nquorum d\n", ""},
	{"lines after the quorum", "witness W KEY0\nquorum W\nlog LOG\nwitness W1 KEY1\ngroup g all W W1\n", ""},
	{"a group of one", "witness W KEY0\ngroup g 1 W\nquorum g\n", ""},
	{"a quorum that is a member", "ALL\ngroup g any W0 W1\nquorum W0\n", ""},
	{"an address", "log LOG https://例え.example/\nwitness W KEY0 https://w.example/x?y#z\nquorum none\n", ""},
	{"ML-DSA", "witness W MLDSA\nquorum W\n", ""},
	{"an ML-DSA log", "log MLDSA\nquorum none\n", ""},
	{"two keys of one log", "log LOG\nlog " + vkeyOf("log.example/1", 1, 77) + "\nquorum none\n", ""},

	{"nothing", "", "no quorum"},
	{"a comment alone", "# nothing\n", "no quorum"},
	{"no quorum", "log LOG\n", "no quorum"},
	{"two quorums", "quorum none\nquorum none\n", "line 2: a second quorum"},
	{"two quorums, other", "witness W KEY0\nquorum W\nquorum none\n", "line 3: a second quorum"},
	{"a quorum of two", "ALL\nquorum W0 W1\n", "put several into a group"},
	{"a quorum of none", "quorum\n", "one name"},
	{"a quorum before", "quorum W\nwitness W KEY0\n", "line 1: the quorum \"W\" is no witness or group"},
	{"a quorum by key name", "witness W KEY0\nquorum witness.example/w0\n", "no witness or group"},
	{"cut off", "log LOG\nquorum none", "line 2 does not end in a line break"},
	{"an unknown word", "logs LOG\nquorum none\n", "line 1: \"logs\" is no word"},
	{"a word in capitals", "Quorum none\n", "is no word"},
	{"a byte order mark", "\ufeffquorum none\n", "is no word"},
	{"a carriage return", "quorum none\r\n", "control character 0x0d"},
	{"a NUL", "quorum\x00none\n", "control character 0x00"},
	{"a DEL in a comment", "# \x7f\nquorum none\n", "control character 0x7f"},
	{"a vertical tab", "quorum\vnone\n", "control character 0x0b"},
	{"a no-break space is none", "quorum\u00a0none\n", "is no word"},
	{"a comment behind", "log LOG # mine\nquorum none\n", "not 3 items"},
	{"a comment behind, close", "log LOG #mine\nquorum none\n", "a line of its own"},
	{"a comment behind a witness", "witness W KEY0 #mine\nquorum none\n", "a line of its own"},
	{"a comment behind the quorum", "quorum none #really\n", "one name"},
	{"a log without key", "log\nquorum none\n", "not 0 items"},
	{"a named log", "log L LOG\nquorum none\n", "not <name>+"},
	{"a witness without key", "witness W\nquorum none\n", "not 1 items"},
	{"a witness without name", "witness KEY0\nquorum none\n", "not 1 items"},
	{"a witness with two addresses", "witness W KEY0 https://a/ https://b/\nquorum none\n", "not 4 items"},
	{"a witness as log", "log KEY0\nquorum none\n", "is a witness's"},
	{"a log as witness", "witness W LOG\nquorum none\n", "is a log's"},
	{"a log twice", "log LOG\nlog LOG\nquorum none\n", "line 2: the key log.example/1+"},
	{"a log's key by another name", "log LOG\nlog " + vkeyOf("other", 1, 1) + "\nquorum none\n", "in the policy already"},
	{"a witness twice", "witness W KEY0\nwitness V KEY0\nquorum none\n", "in the policy already"},
	{"a witness's key by another name", "witness W KEY0\nwitness V " + vkeyOf("other", 4, 100) + "\nquorum none\n", "in the policy already"},
	{"a log as its own witness", "log LOG\nwitness W " + vkeyOf("other", 4, 1) + "\nquorum W\n", "in the policy already"},
	{"a name twice", "witness W KEY0\nwitness W KEY1\nquorum none\n", "line 2: the name \"W\" is taken"},
	{"a group called as a witness", "witness W KEY0\nwitness V KEY1\ngroup W any V\nquorum none\n", "is taken"},
	{"a witness called as a group", "witness W KEY0\ngroup g any W\nwitness g KEY1\nquorum none\n", "is taken"},
	{"a witness called none", "witness none KEY0\nquorum none\n", "is taken"},
	{"a group called none", "witness W KEY0\ngroup none any W\nquorum none\n", "is taken"},
	{"none as a member", "witness W KEY0\ngroup g any W none\nquorum g\n", "\"none\" is no witness"},
	{"a member that is not", "witness W KEY0\ngroup g any W V\nquorum g\n", "\"V\" is no witness or group"},
	{"a member that comes later", "witness W KEY0\ngroup g any W V\nwitness V KEY1\nquorum g\n", "line 2: the member \"V\""},
	{"a group in itself", "witness W KEY0\ngroup g any W g\nquorum g\n", "\"g\" is no witness"},
	{"a member twice", "witness W KEY0\nwitness V KEY1\ngroup g 2 W W V\nquorum g\n", "\"W\" is a member already"},
	{"a member of two groups", "ALL\ngroup a any W0 W1\ngroup b any W1 W2\nquorum b\n", "\"W1\" is a member already"},
	{"a group twice a member", "ALL\ngroup a any W0 W1\ngroup b any a\ngroup c any a\nquorum c\n", "\"a\" is a member already"},
	{"a group of none", "group g any\nquorum g\n", "at least one member"},
	{"a group without number", "ALL\ngroup g W0 W1\nquorum g\n", "\"W0\" of 1 members"},
	{"of too many", "ALL\ngroup g 3 W0 W1\nquorum g\n", "\"3\" of 2 members; the number is all, any, or 1 to 2"},
	{"of zero", "ALL\ngroup g 0 W0 W1\nquorum g\n", "\"0\" of 2"},
	{"of minus one", "ALL\ngroup g -1 W0 W1\nquorum g\n", "\"-1\" of 2"},
	{"of plus one", "ALL\ngroup g +1 W0 W1\nquorum g\n", "\"+1\" of 2"},
	{"of 01", "ALL\ngroup g 01 W0 W1\nquorum g\n", "\"01\" of 2"},
	{"of 0x1", "ALL\ngroup g 0x1 W0 W1\nquorum g\n", "\"0x1\" of 2"},
	{"of very many", "ALL\ngroup g 18446744073709551617 W0 W1\nquorum g\n", "of 2 members"},
	{"All", "ALL\ngroup g All W0 W1\nquorum g\n", "\"All\" of 2"},
	{"a key with a wrong id", "witness W " + strings.Replace(vkeyOf("w", 4, 5), "w+", "v+", 1) + "\nquorum W\n", "another key id"},
	{"an ECDSA log", "log " + ecdsaKey + "\nquorum none\n", ""},
	{"an ECDSA log of no point", "log " + vkey("l", 2, make([]byte, 91)) + "\nquorum none\n", "no SubjectPublicKeyInfo"},
	{"an ECDSA witness", "witness W " + ecdsaKey + "\nquorum W\n", "is a log's, of type 0x02"},
	{"an RFC 6962 log", "log " + vkey("l", 5, make([]byte, 91)) + "\nquorum none\n", "type 0x05"},
	{"not base64", "log l+00000000+####\nquorum none\n", "not standard base64"},
	{"too large", "#" + strings.Repeat("x", tlog.MaxPolicy) + "\n", "over the limit"},
}

func vkeyOf(name string, alg, seed byte) string {
	return vkey(name, alg, seedKey(seed).Public().(ed25519.PublicKey))
}

func TestParsePolicy(t *testing.T) {
	c := newCast(t)
	for _, row := range policyRows {
		p, err := tlog.ParsePolicy([]byte(c.policy(row.text)))
		switch {
		case row.err == "" && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.err == "":
			again, err := tlog.ParsePolicy(p.Text())
			if err != nil || !bytes.Equal(again.Text(), p.Text()) || !slices.Equal(again.Logs(), p.Logs()) || !slices.Equal(again.Witnesses(), p.Witnesses()) {
				t.Errorf("%s: written as %q, which reads otherwise: %v", row.name, p.Text(), err)
			}
		case err == nil:
			t.Errorf("%s: was read", row.name)
		case !strings.Contains(err.Error(), row.err):
			t.Errorf("%s: error %q, want %q in it", row.name, err, row.err)
		}
	}
}

func TestPolicyText(t *testing.T) {
	c := newCast(t)
	const want = "log LOG https://log.example/1/\nlog LOG2\nwitness A KEY0 https://a.example/\nwitness B KEY1\nwitness C KEY2\n" +
		"group ab all A B\ngroup g any ab C\nquorum g\n"
	p := c.mustParse(t, "# ours\nwitness A KEY0 https://a.example/\nlog LOG  https://log.example/1/\n witness B KEY1\ngroup ab 2 A B\nwitness C KEY2\nlog LOG2\ngroup g 1 ab C\nquorum g\n")
	if got := string(p.Text()); got != c.policy(want) {
		t.Errorf("the policy is written as\n%s\nwant\n%s", got, c.policy(want))
	}
	if got := p.Logs(); len(got) != 2 || got[0] != (tlog.PolicyLog{Origin: "log.example/1", Key: c.logKey, URL: "https://log.example/1/"}) {
		t.Errorf("logs: %v", got)
	}
	if got := p.Witnesses(); len(got) != 3 || got[0] != (tlog.PolicyWitness{Name: "A", Key: c.witnessKeys[0], URL: "https://a.example/"}) {
		t.Errorf("witnesses: %v", got)
	}
}

// The specification asks for 32 of everything.
func TestPolicyOfMany(t *testing.T) {
	const n = 300
	var b strings.Builder
	for i := range n {
		seed := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16)
		pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		fmt.Fprintf(&b, "log %s\n", vkey(fmt.Sprintf("log.example/%d", i), 1, pub))
		seed[31] = 0xff
		pub = ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		fmt.Fprintf(&b, "witness w%d %s\n", i, vkey("w", 4, pub))
		if i == 0 {
			fmt.Fprintf(&b, "group g0 all w0\n")
		} else {
			fmt.Fprintf(&b, "group g%d all g%d w%d\n", i, i-1, i)
		}
	}
	fmt.Fprintf(&b, "quorum g%d\n", n-1)
	p, err := tlog.ParsePolicy([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Logs()) != n || len(p.Witnesses()) != n {
		t.Errorf("%d logs, %d witnesses", len(p.Logs()), len(p.Witnesses()))
	}
}

// Every subset of eight witnesses, against what the quorum means.
func TestPolicyQuorums(t *testing.T) {
	c := newCast(t)
	cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
	count := func(s uint, of ...int) (n int) {
		for _, i := range of {
			n += int(s >> i & 1)
		}
		return n
	}
	for _, row := range []struct {
		text string
		want func(s uint) bool
	}{
		{"quorum none\n", func(uint) bool { return true }},
		{"quorum W3\n", func(s uint) bool { return s&8 != 0 }},
		{"group g all W0 W1 W2\nquorum g\n", func(s uint) bool { return count(s, 0, 1, 2) == 3 }},
		{"group g any W0 W1 W2\nquorum g\n", func(s uint) bool { return count(s, 0, 1, 2) >= 1 }},
		{"group g 2 W0 W1 W2\nquorum g\n", func(s uint) bool { return count(s, 0, 1, 2) >= 2 }},
		{"group g 2 W0 W1 W2\nquorum W7\n", func(s uint) bool { return s&128 != 0 }},
		{"group x 2 W0 W1 W2\ngroup y any W3 W4 W5\ngroup z all x y\nquorum z\n",
			func(s uint) bool { return count(s, 0, 1, 2) >= 2 && count(s, 3, 4, 5) >= 1 }},
		{"group x all W0 W1\ngroup y 2 x W2 W3\ngroup z any W4 W5\ngroup q 2 y z W6\nquorum q\n", func(s uint) bool {
			x := count(s, 0, 1) == 2
			y := btoi(x)+count(s, 2, 3) >= 2
			z := count(s, 4, 5) >= 1
			return btoi(y)+btoi(z)+count(s, 6) >= 2
		}},
	} {
		p := c.mustParse(t, "ALL\n"+row.text)
		for s := range uint(256) {
			var by []int
			for i := range 8 {
				if s>>i&1 == 1 {
					by = append(by, i)
				}
			}
			got, cosigs, err := p.Check(c.sign(t, cp, by...))
			var quorum *tlog.QuorumError
			if err != nil && !errors.As(err, &quorum) {
				t.Fatalf("%q, witnesses %v: %v", row.text, by, err)
			}
			if (err == nil) != row.want(s) {
				t.Fatalf("%q, witnesses %v: %v", row.text, by, err)
			}
			if p.Met(cosigs) != row.want(s) {
				t.Fatalf("%q, witnesses %v: met by their cosignatures: %v", row.text, by, p.Met(cosigs))
			}
			if got != cp || len(cosigs) != len(by) {
				t.Fatalf("%q, witnesses %v: %v with %d cosignatures", row.text, by, got, len(cosigs))
			}
			if err != nil && (len(quorum.Signed) != len(by) || len(quorum.Missing) != 8-len(by)) {
				t.Fatalf("%q, witnesses %v: the error says %v signed, %v did not", row.text, by, quorum.Signed, quorum.Missing)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestPolicyCheck(t *testing.T) {
	c := newCast(t)
	cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
	p := c.mustParse(t, "log LOG\nlog LOG2\nwitness A KEY0\nwitness B KEY1\ngroup g all A B\nquorum g\n")
	good := c.sign(t, cp, 0, 1)
	lines := strings.SplitAfter(string(good), "\n")
	text, logLine, a, b := strings.Join(lines[:4], ""), lines[4], lines[5], lines[6]
	note1 := func(parts ...string) []byte { return []byte(text + strings.Join(parts, "")) }
	spoil := func(line string) string {
		name, b64, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "— "), "\n"), " ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			t.Fatal(err)
		}
		raw[30] ^= 1
		return "— " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
	}
	signAs := func(text string, signers ...note.Signer) []byte {
		signed, err := note.Sign(&note.Note{Text: text}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	stranger, _ := logKey(t, "log.example/1", 50)
	third, _ := logKey(t, "log.example/3", 51)
	cp2, cp3 := cp, cp
	cp2.Origin, cp3.Origin = "log.example/2", "log.example/3"

	for _, row := range []struct {
		name   string
		signed []byte
		err    string
	}{
		{"good", good, ""},
		{"in another order", note1(b, a, logLine), ""},
		{"a witness twice", note1(logLine, a, a, b), ""},
		{"a stranger beside", note1(logLine, "— nobody AAAAAAAAAAAA\n", a, b), ""},
		{"the second log", signAs(string(cp2.Text()), c.log2, c.witness[0], c.witness[1]), ""},
		{"a witness that is not in the policy", c.sign(t, cp, 0, 1, 5), ""},
		{"one witness", note1(logLine, a), "signed by A; missing B"},
		{"no witness", note1(logLine), "signed by nobody; missing A, B"},
		{"a bad cosignature", note1(logLine, spoil(a), b), "invalid signature"},
		{"a bad cosignature behind a good one", note1(logLine, a, b, spoil(a)), "invalid signature"},
		{"a bad signature of the log", note1(spoil(logLine), a, b), "invalid signature"},
		{"a bad signature of the log behind a good one", note1(logLine, a, b, spoil(logLine)), "invalid signature"},
		{"witnesses without the log", note1(a, b), "the log has not signed it"},
		{"a stranger as the log", signAs(string(cp.Text()), stranger, c.witness[0], c.witness[1]), "the log has not signed it"},
		{"another log of the policy", signAs(string(cp.Text()), c.log2, c.witness[0], c.witness[1]), "the log has not signed it"},
		{"a log that is not in the policy", signAs(string(cp3.Text()), third, c.witness[0], c.witness[1]), "the policy has no log \"log.example/3\""},
		{"the body of another", bytes.Replace(good, []byte("\n10\n"), []byte("\n11\n"), 1), "invalid signature"},
		{"no signatures", []byte(text), "no signature"},
		{"not a note", []byte("hello\n"), "no empty line"},
		{"not a checkpoint", signAs("hello\n", c.log), "lines and needs 3"},
		{"nothing", nil, "no empty line"},
		{"too large", append(bytes.Clone(good), make([]byte, tlog.MaxCheckpoint)...), "over the limit"},
	} {
		got, cosigs, err := p.Check(row.signed)
		if row.err == "" {
			if err != nil || got.Size != 10 || len(cosigs) < 2 {
				t.Errorf("%s: %v, %d cosignatures, %v", row.name, got, len(cosigs), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: error %v, want %q in it", row.name, err, row.err)
		}
		var quorum *tlog.QuorumError
		if !errors.As(err, &quorum) && (got != tlog.Checkpoint{} || cosigs != nil) {
			t.Errorf("%s: refused, and yet %v was returned", row.name, got)
		}
	}
	// Every bit of a cosigned checkpoint counts: its text, its signatures, its key ids and names. A witness that is
	// not recognised any more is missing.
	for bit := range 8 * len(good) {
		spoilt := bytes.Clone(good)
		spoilt[bit/8] ^= 1 << (bit % 8)
		if _, _, err := p.Check(spoilt); err == nil {
			t.Fatalf("bit %d was flipped, and the policy is content: %q", bit, spoilt)
		}
	}
	for _, p := range []*tlog.Policy{nil, new(tlog.Policy)} {
		if _, _, err := p.Check(good); err == nil {
			t.Error("a policy of nothing is content")
		}
	}
}

func TestPolicyMLDSA(t *testing.T) {
	c := newCast(t)
	cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
	q, err := tlog.NewMLDSACosigner("pq.example", mldsaSeed(1))
	if err != nil {
		t.Fatal(err)
	}
	line := func(s note.Signer, cp tlog.Checkpoint) string {
		blob, err := s.Sign(cp.Text())
		if err != nil {
			t.Fatal(err)
		}
		raw := append(binary.BigEndian.AppendUint32(nil, s.KeyHash()), blob...)
		return "— " + s.Name() + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
	}
	signed := c.sign(t, cp, 0)
	p := c.mustParse(t, "log LOG\nwitness A KEY0\nwitness Q "+q.VerifierKey()+"\ngroup g all A Q\nquorum g\n")
	var quorum *tlog.QuorumError
	if _, _, err := p.Check(signed); !errors.As(err, &quorum) || !slices.Equal(quorum.Missing, []string{"Q"}) {
		t.Errorf("without the second: %v", err)
	}
	both := append(bytes.Clone(signed), line(q, cp)...)
	if _, cosigs, err := p.Check(both); err != nil || len(cosigs) != 2 || cosigs[1].Name != "pq.example" || cosigs[1].Time == 0 {
		t.Errorf("with both: %v, %v", cosigs, err)
	}
	cp.Size++
	var invalid *note.InvalidSignatureError
	if _, _, err := p.Check(append(bytes.Clone(signed), line(q, cp)...)); !errors.As(err, &invalid) {
		t.Errorf("with one over another tree: %v", err)
	}
	cp.Size--
	l, err := tlog.NewMLDSACosigner("log.example/1", mldsaSeed(2))
	if err != nil {
		t.Fatal(err)
	}
	alone, err := tlog.SignCheckpoint(cp, l)
	if err != nil {
		t.Fatal(err)
	}
	p = c.mustParse(t, "log "+l.VerifierKey()+"\nquorum none\n")
	if _, _, err := p.Check(alone); err != nil {
		t.Errorf("a log with an ML-DSA-44 key alone: %v", err)
	}
	if _, _, err := p.Check(signed); err == nil {
		t.Error("the log's other key was not asked for")
	}
}

func TestCosignatureTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCast(t)
		cp := tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}
		p := c.mustParse(t, "log LOG\nwitness A KEY0\nwitness B KEY1\nquorum A\n")
		first := uint64(time.Now().Unix())
		signed := c.sign(t, cp, 0, 1)
		time.Sleep(time.Hour)
		later := c.sign(t, cp, 0)
		_, line, _ := bytes.Cut(later, []byte("— witness"))
		signed = append(signed, append([]byte("— witness"), line...)...)

		_, cosigs, err := p.Check(signed)
		if err != nil {
			t.Fatal(err)
		}
		w0, w1 := c.witness[0], c.witness[1]
		want := []tlog.Cosignature{
			{Name: w0.Name(), KeyID: w0.KeyHash(), Time: first},
			{Name: w1.Name(), KeyID: w1.KeyHash(), Time: first},
			{Name: w0.Name(), KeyID: w0.KeyHash(), Time: first + 3600},
		}
		if !slices.Equal(cosigs, want) {
			t.Errorf("cosignatures %v, want %v", cosigs, want)
		}
	})
	for seconds, want := range map[uint64]string{
		1: "1970-01-01T00:00:01Z", 253402300799: "9999-12-31T23:59:59Z", 253402300800: "9999-12-31T23:59:59Z", 1<<63 - 1: "9999-12-31T23:59:59Z",
	} {
		if b, err := (tlog.Cosignature{Time: seconds}).At().MarshalText(); err != nil || string(b) != want {
			t.Errorf("%d seconds are %q, %v, want %s", seconds, b, err, want)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	c := newCast(f)
	for _, row := range policyRows {
		if len(row.text) < 4096 {
			f.Add([]byte(c.policy(row.text)))
		}
	}
	signed := c.sign(f, tlog.Checkpoint{Origin: "log.example/1", Size: 10, Root: tlog.HashLeaf(nil)}, 0, 1, 2)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := tlog.ParsePolicy(data)
		if err != nil {
			return
		}
		text := p.Text()
		again, err := tlog.ParsePolicy(text)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", data, text, err)
		}
		if !bytes.Equal(again.Text(), text) {
			t.Fatalf("%q is written as %q and then as %q", data, text, again.Text())
		}
		_, cosigs, err := p.Check(signed)
		_, cosigs2, err2 := again.Check(signed)
		if fmt.Sprint(err) != fmt.Sprint(err2) || !slices.Equal(cosigs, cosigs2) {
			t.Fatalf("%q and %q do not say the same: %v, %v", data, text, err, err2)
		}
	})
}
