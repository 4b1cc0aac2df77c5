package peers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// A matter is a bundle and a policy, of which both checks must say the same.
type matter struct {
	name   string
	bundle []byte
	policy string
	claim  verify.Claim // which must be false; "" where the test does not know
	open   []string     // what a browser cannot tell: claims
}

// An answer is what the browser says.
type answer struct {
	Verdict string
	False   []string // claim and subject
	Open    []string
	Error   string
}

const agreePage = `<!doctype html><meta charset="utf-8"><title>agree</title><script type="module" src="/agree.js"></script>`

const agreeScript = `import { checkBundle, parsePolicy } from "/static/verify.js";
const get = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
window.judge = async (from, to) => {
  const out = [];
  for (let i = from; i < to; i++) {
    try {
      let policy = null;
      try {
        policy = await parsePolicy(await get("/policy/" + i));
      } catch (e) {
        out.push({ Verdict: "no policy", Error: String(e) });
        continue;
      }
      const r = await checkBundle(await get("/bundle/" + i), policy);
      const of = (ok) => r.findings.filter((f) => f.ok === ok).map((f) => f.claim + " " + f.subject);
      out.push({ Verdict: r.verdict, False: of(false), Open: of(null) });
    } catch (e) {
      out.push({ Verdict: "thrown", Error: String(e.stack ?? e) });
    }
  }
  return out;
};
`

// judge has a browser judge all of them, under the headers of the console.
func judge(t *testing.T, matters []matter) []answer {
	t.Helper()
	b := open(t)
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static())))
	serve := func(pattern, kind string, body func(i int) []byte) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, req *http.Request) {
			i, _ := strconv.Atoi(req.PathValue("i"))
			w.Header().Set("Content-Type", kind)
			w.Write(body(i))
		})
	}
	serve("/{$}", "text/html; charset=utf-8", func(int) []byte { return []byte(agreePage) })
	serve("/agree.js", "text/javascript", func(int) []byte { return []byte(agreeScript) })
	serve("/favicon.ico", "image/x-icon", func(int) []byte { return nil })
	serve("/bundle/{i}", "application/json", func(i int) []byte { return matters[i].bundle })
	serve("/policy/{i}", "text/plain", func(i int) []byte { return []byte(matters[i].policy) })
	b.goTo(site(t, strict(mux)) + "/")
	b.until("window.judge")
	var answers []answer
	for from := 0; from < len(matters); from += 100 {
		to := min(from+100, len(matters))
		answers = append(answers, eval[[]answer](b, fmt.Sprintf("judge(%d, %d)", from, to))...)
	}
	return answers
}

// agree has Go and the browser judge, and fails where they do not say the same of each claim about each subject.
func agree(t *testing.T, matters []matter) {
	t.Helper()
	counts := make(map[string]int)
	for i, a := range judge(t, matters) {
		m := matters[i]
		p, err := tlog.ParsePolicy([]byte(m.policy))
		if err != nil {
			if a.Verdict != "no policy" {
				t.Errorf("%s: Go refuses the policy (%v), and the browser says %+v", m.name, err, a)
			}
			continue
		}
		r, err := verify.Check(m.bundle, verify.Trust{Policy: p})
		var wrong []string
		for _, f := range r.Findings {
			if !f.OK && !slices.Contains(m.open, string(f.Claim)) {
				wrong = append(wrong, string(f.Claim)+" "+f.Subject)
			}
		}
		if slices.ContainsFunc(wrong, func(s string) bool { return strings.HasPrefix(s, string(verify.SessionChain)) }) {
			// Of approvals that stand in no order at all, one may say more than the other.
			approval := func(s string) bool { return strings.HasPrefix(s, string(verify.ApprovalGiven)) }
			wrong, a.False = slices.DeleteFunc(wrong, approval), slices.DeleteFunc(a.False, approval)
		}
		slices.Sort(wrong)
		slices.Sort(a.False)
		verdict := "holds"
		switch {
		case err != nil:
			verdict = "unreadable"
		case len(wrong) > 0:
			verdict = "refused"
		case len(m.open) > 0:
			verdict = "not proven"
		}
		counts[verdict]++
		var open []string
		for _, o := range a.Open {
			claim, _, _ := strings.Cut(o, " ")
			open = append(open, claim)
		}
		if a.Verdict != verdict || !slices.Equal(wrong, a.False) || !slices.Equal(open, m.open) {
			t.Errorf("%s:\nGo:      %s %q (%v)\nbrowser: %s %q, open %q %s", m.name, verdict, wrong, err, a.Verdict, a.False, a.Open, a.Error)
			if dir := os.Getenv("SCREENSHOTS"); dir != "" {
				os.WriteFile(dir+"/disagreed-"+strconv.Itoa(i)+".bundle", m.bundle, 0o644)
			}
		}
		if m.claim != "" && !slices.ContainsFunc(a.False, func(s string) bool { return strings.HasPrefix(s, string(m.claim)+" ") }) {
			t.Errorf("%s: the browser does not say that %s is false: %s %q", m.name, m.claim, a.Verdict, a.False)
		}
	}
	t.Logf("%d bundles: %v", len(matters), counts)
}

// load returns the vectors of the bundle's format, and a policy under which everything about them holds.
func load(t *testing.T) (day, approvals *verify.Bundle, policy, alone string) {
	t.Helper()
	parse := func(name string) *verify.Bundle {
		raw, err := os.ReadFile("../../verify/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := verify.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raw, err := os.ReadFile("../../verify/testdata/day.policy")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	return parse("day.bundle"), parse("approvals.bundle"), string(raw), first + "\nquorum none\n"
}

func write(t *testing.T, b *verify.Bundle) []byte {
	t.Helper()
	raw, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// again writes a body under a digest of its own.
func again(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(verify.Format+" sha256:"+hex.EncodeToString(sum[:])+"\n"), body...)
}

const head = len(verify.Format+" sha256:") + 64 + 1

// Each way of tampering makes the claim false that names it, here as there, and of what nobody touched all holds.
func TestBrowserAgrees(t *testing.T) {
	_, _, policy, alone := load(t)
	var matters []matter
	add := func(name string, claim verify.Claim, policy string, edit func(day, approvals *verify.Bundle) *verify.Bundle) {
		day, approvals, _, _ := load(t)
		matters = append(matters, matter{name: name, bundle: write(t, edit(day, approvals)), policy: policy, claim: claim})
	}
	raw := func(name string, claim verify.Claim, policy string, edit func([]byte) []byte) {
		day, _, _, _ := load(t)
		matters = append(matters, matter{name: name, bundle: edit(write(t, day)), policy: policy, claim: claim})
	}
	body := func(name string, claim verify.Claim, old, new string) {
		raw(name, claim, policy, func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("%s: the bundle has no %s", name, old)
			}
			return again(bytes.Replace(b[head:], []byte(old), []byte(new), 1))
		})
	}
	type bundle = verify.Bundle

	add("day", "", policy, func(day, _ *bundle) *bundle { return day })
	add("approvals", "", alone, func(_, a *bundle) *bundle { return a })
	add("a session alone", "", policy, func(day, _ *bundle) *bundle { day.Sessions = day.Sessions[:1]; return day })
	add("in another order", "", policy, func(day, _ *bundle) *bundle { slices.Reverse(day.Sessions); return day })
	add("no records", "", policy, func(day, _ *bundle) *bundle {
		for i := range day.Sessions {
			for k := range day.Sessions[i].Entries {
				day.Sessions[i].Entries[k].Fields = nil
			}
		}
		return day
	})
	add("all withheld", "", policy, func(day, _ *bundle) *bundle {
		for i := range day.Sessions {
			for k := range day.Sessions[i].Entries {
				for n, f := range day.Sessions[i].Entries[k].Fields {
					if f.Shown != nil {
						day.Sessions[i].Entries[k].Fields[n] = verify.Field{Withheld: f.Shown.Hash()}
					}
				}
			}
		}
		return day
	})

	shown := func(b *bundle) (*verify.Entry, *record.Field) {
		e := &b.Sessions[0].Entries[0]
		for i := range e.Fields {
			if e.Fields[i].Shown != nil && len(e.Fields[i].Shown.Value) > 0 {
				return e, e.Fields[i].Shown
			}
		}
		t.Fatal("the first entry shows nothing")
		return nil, nil
	}
	for name, edit := range map[string]func(*verify.Entry, *record.Field){
		"a value": func(_ *verify.Entry, f *record.Field) { f.Value = append([]byte("x"), f.Value[1:]...) },
		"a value, longer": func(_ *verify.Entry, f *record.Field) {
			f.Value = append(slices.Clone(f.Value), ' ')
		},
		"a value of bytes": func(_ *verify.Entry, f *record.Field) { f.Value = []byte{0xff, 0} },
		"a salt":           func(_ *verify.Entry, f *record.Field) { f.Salt[3] ^= 1 },
		"a name":           func(_ *verify.Entry, f *record.Field) { f.Name = "x" + f.Name },
		"a field twice":    func(e *verify.Entry, f *record.Field) { e.Fields = append(e.Fields, verify.Field{Shown: f}) },
		"a field too few":  func(e *verify.Entry, _ *record.Field) { e.Fields = e.Fields[1:] },
		"a field instead of another": func(e *verify.Entry, f *record.Field) {
			e.Fields[1].Shown, e.Fields[1].Withheld = f, tlog.Hash{}
		},
		"fields in another order": func(e *verify.Entry, _ *record.Field) { slices.Reverse(e.Fields) },
		"a withheld hash": func(e *verify.Entry, f *record.Field) {
			h := f.Hash()
			h[0] ^= 1
			e.Fields[0] = verify.Field{Withheld: h}
		},
	} {
		add(name, verify.FieldsMatch, policy, func(day, _ *bundle) *bundle { edit(shown(day)); return day })
	}

	entry := func(b *bundle) *verify.Entry { return &b.Sessions[0].Entries[0] }
	for name, edit := range map[string]func(*verify.Entry){
		"a hash of a proof":       func(e *verify.Entry) { e.Proof[0][5] ^= 1 },
		"the last hash":           func(e *verify.Entry) { e.Proof[len(e.Proof)-1][5] ^= 1 },
		"a proof too short":       func(e *verify.Entry) { e.Proof = e.Proof[1:] },
		"a proof too long":        func(e *verify.Entry) { e.Proof = append(e.Proof, tlog.Hash{}) },
		"no proof":                func(e *verify.Entry) { e.Proof = nil },
		"an index":                func(e *verify.Entry) { e.Index ^= 1 },
		"an index beyond doubles": func(e *verify.Entry) { e.Index = 1<<63 - 1 },
		"an index behind the end": func(e *verify.Entry) { e.Index += 1 << 40 },
		"a second of an entry": func(e *verify.Entry) {
			e.Bytes = bytes.Replace(e.Bytes, []byte(`00Z"`), []byte(`01Z"`), 1)
		},
		"an entry's writer": func(e *verify.Entry) {
			e.Bytes = bytes.Replace(e.Bytes, []byte(`"by":"gw-1"`), []byte(`"by":"gw-2"`), 1)
		},
	} {
		add(name, verify.EntryInTree, policy, func(day, _ *bundle) *bundle { edit(entry(day)); return day })
	}
	for name, edit := range map[string][2]string{
		"white space in an entry":   {`{"v":1,`, `{"v": 1,`},
		"a line break in an entry":  {`{"v":1,`, "{\"v\":1,\n"},
		"an escape in an entry":     {`"by":"gw-1"`, `"by":"gw\u002d1"`},
		"a member twice":            {`{"v":1,`, `{"v":1,"v":1,`},
		"a member more":             {`{"v":1,`, `{"v":1,"x":0,`},
		"members in another order":  {`{"v":1,"kind":"request"`, `{"kind":"request","v":1`},
		"another version":           {`{"v":1,`, `{"v":2,`},
		"a number over 63 bits":     {`"seq":`, `"seq":9999999999999999999`},
		"30 February":               {`"time":"2026-11-02`, `"time":"2026-02-30`},
		"a kind that there is not":  {`"kind":"request"`, `"kind":"requests"`},
		"a kind with other parts":   {`"kind":"request"`, `"kind":"heartbeat"`},
		"an entry that is an array": {`"entry":{"v":1,`, `"entry":{"v":[1],`},
	} {
		body(name, verify.EntryCanonical, edit[0], edit[1])
	}
	for name, edit := range map[string][2]string{
		"a space":                    {`,"sessions":[`, `, "sessions":[`},
		"a line break":               {`,"sessions":[`, ",\n\"sessions\":["},
		"a member of the bundle":     {`{"format":`, `{"by":"x","format":`},
		"an escape":                  {`"origin":"log`, `"origin":"\u006cog`},
		"a slash escaped":            {`"origin":"log.example/`, `"origin":"log.example\/`},
		"an index in another way":    {`{"index":1,`, `{"index":1.0,`},
		"a text in base64":           {`"text":"alice@example.com"`, `"base64":"YWxpY2VAZXhhbXBsZS5jb20="`},
		"base64 with a loose bit":    {`"proof":["`, `"proof":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAF=","`},
		"base64 without padding":     {`"proof":["`, `"proof":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","`},
		"an id with capitals":        {`{"id":"019a`, `{"id":"019A`},
		"another format":             {`{"format":"tallystick-bundle/v1"`, `{"format":"tallystick-bundle/v2"`},
		"a withheld field with more": {`{"withheld":`, `{"name":"x","withheld":`},
	} {
		day, _, _, _ := load(t)
		if bytes.Contains(write(t, day), []byte(edit[0])) {
			body(name, verify.BundleCanonical, edit[0], edit[1])
		}
	}
	body("a tab in a text", verify.BundleReadable, `"text":"alice@example.com"`, "\"text\":\"alice@\texample.com\"")
	body("a line break in a text", verify.BundleReadable, `"text":"alice@example.com"`, "\"text\":\"alice@\nexample.com\"")
	body("an index with a zero", verify.BundleReadable, `{"index":1,`, `{"index":01,`)
	raw("a digest", verify.BundleIntact, policy, func(b []byte) []byte {
		b[head-2] ^= 1
		return b
	})
	raw("a digest in capitals", verify.BundleIntact, policy, func(b []byte) []byte {
		return slices.Concat(b[:head-65], bytes.ToUpper(b[head-65:head-1]), b[head-1:])
	})
	raw("something after the end", verify.BundleCanonical, policy, func(b []byte) []byte { return again(append(b[head:], '\n')) })
	for _, n := range []int{0, 1, head - 1, head, head + 1, head + 100} {
		raw(fmt.Sprintf("cut off after %d bytes", n), verify.BundleReadable, policy, func(b []byte) []byte { return b[:n] })
	}
	raw("cut off in its body", verify.BundleReadable, policy, func(b []byte) []byte { return b[:len(b)-200] })
	raw("a byte order mark", verify.BundleReadable, policy, func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) })
	raw("not UTF-8", verify.BundleReadable, policy, func(b []byte) []byte { return again(append(b[head:len(b)-1:len(b)-1], 0xff)) })
	raw("HTML instead", verify.BundleReadable, policy, func([]byte) []byte { return []byte("<!doctype html><title>Sign in</title>") })
	raw("another version of the format", verify.BundleReadable, policy, func(b []byte) []byte { return bytes.Replace(b, []byte("/v1"), []byte("/v2"), 1) })

	day, _, _, _ := load(t)
	c, err := tlog.UnverifiedCheckpoint(day.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(c *tlog.Checkpoint){
		"another size":   func(c *tlog.Checkpoint) { c.Size++ },
		"another root":   func(c *tlog.Checkpoint) { c.Root[0] ^= 1 },
		"another origin": func(c *tlog.Checkpoint) { c.Origin = "log.example/other" },
	} {
		add(name, verify.CheckpointSigned, policy, func(day, _ *bundle) *bundle {
			changed := c
			edit(&changed)
			day.Checkpoint = bytes.Replace(day.Checkpoint, c.Text(), changed.Text(), 1)
			return day
		})
	}
	// The lines behind the empty one are the log's signature and two cosignatures.
	lines := strings.SplitAfter(string(day.Checkpoint), "\n")
	flip := func(line string) string {
		return line[:len(line)-20] + string(line[len(line)-20]^1) + line[len(line)-19:]
	}
	for name, is := range map[string]struct {
		claim verify.Claim
		lines []string
	}{
		"the log's signature":           {verify.CheckpointSigned, []string{flip(lines[4]), lines[5], lines[6]}},
		"no signature of the log":       {verify.CheckpointSigned, lines[5:]},
		"a cosignature":                 {verify.CheckpointCosigned, []string{lines[4], flip(lines[5]), lines[6]}},
		"a cosignature too few":         {verify.CheckpointCosigned, lines[4:6]},
		"a cosignature twice":           {verify.CheckpointCosigned, []string{lines[4], lines[5], lines[5]}},
		"a good and a bad one":          {verify.CheckpointCosigned, []string{lines[4], lines[5], lines[6], flip(lines[6])}},
		"no signature at all":           {verify.CheckpointSigned, nil},
		"a signature that is no base64": {verify.CheckpointSigned, []string{lines[4], "— x %%%%%%%%\n"}},
		"a stranger's signature":        {"", append(slices.Clone(lines[4:]), "— example.com/x AAAAAAAAAAA=\n")},
		"one name, another id":          {verify.CheckpointSigned, []string{strings.Replace(lines[4], "test M", "test N", 1), lines[5], lines[6]}},
	} {
		add(name, is.claim, policy, func(day, _ *bundle) *bundle {
			day.Checkpoint = []byte(strings.Join(lines[:4], "") + strings.Join(is.lines, ""))
			return day
		})
	}
	// What a log has signed, and is no checkpoint all the same.
	log, _ := tlogtest.Key(tlogtest.Origin)
	root := c.Root.String()
	for name, text := range map[string]string{
		"a root that is none":       "log.example/test\n12\n" + strings.Repeat("A", 42) + "B=\n",
		"a root without padding":    "log.example/test\n12\n" + root[:43] + "\n",
		"a size with a zero":        "log.example/test\n012\n" + root + "\n",
		"a size over 63 bits":       "log.example/test\n9223372036854775808\n" + root + "\n",
		"a size of nothing":         "log.example/test\n0\n" + root + "\n",
		"two lines":                 "log.example/test\n12\n",
		"an empty line":             "log.example/test\n12\n" + root + "\n\nx\n",
		"an origin with a space":    "log.example/te st\n12\n" + root + "\n",
		"an origin with a new line": "log.example/test\u2028\n12\n" + root + "\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, log)
		if err != nil {
			t.Fatal(err)
		}
		add(name, verify.CheckpointSigned, alone, func(day, _ *bundle) *bundle { day.Checkpoint = signed; return day })
	}
	// One log of the policy signs for another.
	_, otherKey := tlogtest.Key("log.example/other")
	theirs, err := note.Sign(&note.Note{Text: "log.example/other\n12\n" + root + "\n"}, log)
	if err != nil {
		t.Fatal(err)
	}
	add("signed by another log", verify.CheckpointSigned, "log "+otherKey+"\n"+alone, func(day, _ *bundle) *bundle {
		day.Origin, day.Checkpoint = "log.example/other", theirs
		return day
	})
	extended, err := note.Sign(&note.Note{Text: string(c.Text()) + "an extension\n"}, log)
	if err != nil {
		t.Fatal(err)
	}
	add("a line more", "", alone, func(day, _ *bundle) *bundle { day.Checkpoint = extended; return day })
	add("no checkpoint", verify.CheckpointSigned, policy, func(day, _ *bundle) *bundle { day.Checkpoint = nil; return day })
	add("another log than it says", verify.CheckpointSigned, policy, func(day, _ *bundle) *bundle { day.Origin = "log.example/other"; return day })

	for name, edit := range map[string]func(b *bundle){
		"a session's id":            func(b *bundle) { b.Sessions[0].ID[7] ^= 1 },
		"a session twice":           func(b *bundle) { b.Sessions = append(b.Sessions, b.Sessions[0]) },
		"entries in another order":  func(b *bundle) { slices.Reverse(b.Sessions[0].Entries) },
		"an entry twice":            func(b *bundle) { b.Sessions[0].Entries = append(b.Sessions[0].Entries, b.Sessions[0].Entries[0]) },
		"an entry of another":       func(b *bundle) { b.Sessions[0].Entries = append(b.Sessions[0].Entries, b.Sessions[1].Entries...) },
		"without the first of them": func(b *bundle) { b.Sessions[0].Entries = b.Sessions[0].Entries[1:] },
	} {
		add(name, verify.SessionChain, policy, func(day, _ *bundle) *bundle { edit(day); return day })
	}
	add("without its end", verify.SessionComplete, policy, func(day, _ *bundle) *bundle {
		s := &day.Sessions[0]
		s.Entries = s.Entries[:1]
		return day
	})

	for name, p := range map[string]string{
		"a policy of nobody":              "quorum none\n",
		"a policy of no witness":          alone,
		"a policy without its end":        strings.TrimSuffix(policy, "\n"),
		"a policy with a carriage return": strings.ReplaceAll(policy, "\n", "\r\n"),
		"a policy with a comment":         "# ours\n\n\t" + policy,
		"a policy of any":                 strings.Replace(policy, "group g all", "group g any", 1),
		"a policy of one":                 strings.Replace(policy, "group g all", "group g 1", 1),
		"a policy of two":                 strings.Replace(policy, "group g all", "group g 2", 1),
		"a policy of three of two":        strings.Replace(policy, "group g all", "group g 3", 1),
		"a policy of a word":              policy + "trust everybody\n",
		"a policy of two quorums":         policy + "quorum none\n",
		"a policy with a key twice":       policy + strings.SplitAfter(policy, "\n")[0],
		"a policy of an unknown":          strings.Replace(policy, "quorum g", "quorum h", 1),
		"a policy with a key's other id":  strings.Replace(policy, "+31a213e6+", "+31a213e7+", 1),
		"a policy with its keys changed":  strings.Replace(policy, "log log.example/test", "log log.example/tesT", 1),
		"a witness alone":                 strings.Replace(policy, "quorum g", "quorum w1", 1),
		"a policy cut off in a comment":   policy + "# cut",
		"a policy with a member twice":    strings.Replace(policy, "all w0 w1", "any w0 w0", 1),
		"a policy with a member of two":   strings.Replace(policy, "quorum g", "group h any w0 w1\nquorum h", 1),
		"a policy with a group of none":   strings.Replace(policy, "all w0 w1", "any none", 1),
		"a policy of a witness as a log":  "log" + strings.TrimPrefix(strings.SplitAfter(policy, "\n")[1], "witness w0") + "quorum none\n",
		"a policy of a log as a witness":  "witness w" + strings.TrimPrefix(strings.SplitAfter(policy, "\n")[0], "log") + "quorum w\n",
		"a policy with a name twice":      strings.Replace(policy, "witness w1", "witness w0", 1),
		"a policy with a zero in front":   strings.Replace(policy, "group g all", "group g 02", 1),
		"nothing":                         "",
	} {
		add(name, "", p, func(day, _ *bundle) *bundle { return day })
	}
	// The writer itself is wrong, and everything else right.
	for name, c := range map[string]struct {
		claim verify.Claim
		edit  func(is map[uint64]*record.Entry)
	}{
		"erased before its end": {verify.SessionChain, func(is map[uint64]*record.Entry) { is[8].Kind, is[8].Reason = record.Erasure, "request" }},
		"an approval after its end": {verify.SessionChain, func(is map[uint64]*record.Entry) {
			a, r := *is[8], *is[9]
			*is[8], *is[9] = r, a
			is[8].Seq, is[8].Time, is[8].Prev, is[8].Fields = a.Seq, a.Time, a.Prev, a.Fields
			is[9].Seq, is[9].Time, is[9].Prev, is[9].Fields = r.Seq, r.Time, r.Prev, r.Fields
		}},
		"another writer":  {verify.SessionChain, func(is map[uint64]*record.Entry) { is[3].By = "gw-2" }},
		"the same number": {verify.SessionChain, func(is map[uint64]*record.Entry) { is[3].Seq = is[1].Seq }},
		"another's hash":  {verify.SessionChain, func(is map[uint64]*record.Entry) { is[3].Prev = is[9].Prev }},
		"two requests":    {verify.SessionChain, func(is map[uint64]*record.Entry) { *is[8] = *is[7]; is[8].Seq++ }},
		"fields too many": {verify.FieldsMatch, func(is map[uint64]*record.Entry) { is[1].Fields++ }},
		"fields too few":  {verify.FieldsMatch, func(is map[uint64]*record.Entry) { is[1].Fields-- }},
		"a time before":   {verify.TimesOrdered, func(is map[uint64]*record.Entry) { is[3].Time = is[1].Time.Add(-time.Microsecond) }},
		"a time long before": {verify.TimesOrdered, func(is map[uint64]*record.Entry) {
			is[3].Boot[15]++
			is[3].Time = is[1].Time.Add(-verify.ClockSkew - time.Microsecond)
		}},
		"a time before, on another clock": {"", func(is map[uint64]*record.Entry) {
			is[3].Boot[15]++
			is[3].Time = is[1].Time.Add(-verify.ClockSkew)
		}},
	} {
		day, _, _, _ := load(t)
		b := retell(t, day, func(entries []*verify.Entry, is []*record.Entry) {
			at := make(map[uint64]*record.Entry)
			for i, e := range entries {
				at[e.Index] = is[i]
			}
			c.edit(at)
		})
		if b == nil {
			t.Fatalf("%s: no entry", name)
		}
		matters = append(matters, matter{name: name, bundle: write(t, b), policy: alone, claim: c.claim})
	}
	type story struct {
		leaf  map[uint64]tlog.Hash // of what was
		field func(index uint64, name string) *record.Field
	}
	for name, edit := range map[string]func(is map[uint64]*record.Entry, was story){
		"asked twice": func(is map[uint64]*record.Entry, _ story) {
			is[8].Reason, is[8].Tag, is[8].Until = "", is[5].Tag, is[5].Until
		},
		"used after it had expired": func(is map[uint64]*record.Entry, was story) {
			is[8].Reason, is[9].Reason, is[11].Grant = record.Granted, record.Expired, was.leaf[8]
			was.field(5, record.FieldNeed).Value = []byte("1")
		},
		"a no is used":         func(is map[uint64]*record.Entry, _ story) { is[16].Reason = record.No },
		"used too late":        func(is map[uint64]*record.Entry, _ story) { is[5].Until = is[9].Time.Add(1000) },
		"answered too late":    func(is map[uint64]*record.Entry, _ story) { is[15].Until = is[15].Time.Add(1000) },
		"sent all the same":    func(is map[uint64]*record.Entry, _ story) { is[22].Outcome = record.Complete },
		"two yeses are needed": func(is map[uint64]*record.Entry, _ story) { is[16].Reason = record.Granted },
		"sent before its yes": func(_ map[uint64]*record.Entry, was story) {
			was.field(13, record.FieldTimes).Value = []byte(`{"sent":"2026-11-02T09:20:00Z"}`)
		},
		"sent and waiting": func(_ map[uint64]*record.Entry, was story) {
			was.field(7, record.FieldTimes).Value = []byte(`{"sent":"2026-11-02T09:30:02Z"}`)
		},
		"sent at no time": func(_ map[uint64]*record.Entry, was story) {
			was.field(7, record.FieldTimes).Value = []byte(`{"sent":"soon"}`)
		},
		"by the caller": func(_ map[uint64]*record.Entry, was story) { was.field(16, record.FieldActor).Value = []byte("alice") },
		"by the caller's mail": func(_ map[uint64]*record.Entry, was story) {
			was.field(16, record.FieldActorEmail).Value = []byte("ALICE@example.com")
		},
		"by one for two":   func(_ map[uint64]*record.Entry, was story) { was.field(9, record.FieldActor).Value = []byte("bob") },
		"of nobody":        func(_ map[uint64]*record.Entry, was story) { was.field(10, record.FieldCaller).Value = nil },
		"for another call": func(_ map[uint64]*record.Entry, was story) { was.field(10, record.FieldBody).Value = []byte("{}") },
		"for a call in other bytes": func(_ map[uint64]*record.Entry, was story) { // which, a character for each byte, are the same text
			was.field(4, record.FieldBody).Value, was.field(10, record.FieldBody).Value = []byte("é"), []byte("\xe9")
		},
		"by the caller's mail, dotted": func(_ map[uint64]*record.Entry, was story) {
			was.field(14, record.FieldEmail).Value, was.field(16, record.FieldActorEmail).Value = []byte("İ@example.com"), []byte("i@example.com")
		},
		"by the caller's mail in Greek": func(_ map[uint64]*record.Entry, was story) {
			was.field(14, record.FieldEmail).Value, was.field(16, record.FieldActorEmail).Value = []byte("ΑΣ@example.com"), []byte("ασ@example.com")
		},
		"by the caller's mail, no text": func(_ map[uint64]*record.Entry, was story) {
			was.field(14, record.FieldEmail).Value, was.field(16, record.FieldActorEmail).Value = []byte("É\x01"), []byte("é\x01")
		},
		"sent at 24 o'clock": func(_ map[uint64]*record.Entry, was story) {
			was.field(13, record.FieldTimes).Value = []byte(`{"sent":"2026-11-02T24:00:00Z"}`)
		},
		"sent on the 31st of November": func(_ map[uint64]*record.Entry, was story) {
			was.field(13, record.FieldTimes).Value = []byte(`{"sent":"2026-11-31T09:30:02Z"}`)
		},
		"of another session": func(_ map[uint64]*record.Entry, was story) {
			was.field(11, record.FieldApproval).Value = []byte(record.ID{1}.String())
		},
		"none are needed":  func(_ map[uint64]*record.Entry, was story) { was.field(5, record.FieldNeed).Value = []byte("0") },
		"three are needed": func(_ map[uint64]*record.Entry, was story) { was.field(5, record.FieldNeed).Value = []byte("3") },
	} {
		_, approvals, _, _ := load(t)
		b := retell(t, approvals, func(entries []*verify.Entry, is []*record.Entry) {
			at, was := make(map[uint64]*record.Entry), story{leaf: make(map[uint64]tlog.Hash)}
			for i, e := range entries {
				at[e.Index], was.leaf[e.Index] = is[i], tlog.HashLeaf(e.Bytes)
			}
			was.field = func(index uint64, name string) *record.Field {
				for _, e := range entries {
					for _, f := range e.Fields {
						if e.Index == index && f.Shown.Name == name {
							return f.Shown
						}
					}
				}
				t.Fatalf("entry %d has no %s", index, name)
				return nil
			}
			edit(at, was)
		})
		if b == nil {
			t.Fatalf("%s: no entry", name)
		}
		matters = append(matters, matter{name: name, bundle: write(t, b), policy: alone, claim: verify.ApprovalGiven})
	}
	agree(t, matters)
}

// A bit of a bundle that was turned over, with the digest as it was or made again, is judged the same.
func TestBrowserAgreesAboutBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	day, approvals, policy, alone := load(t)
	var matters []matter
	for i := range 400 {
		b, p := day, policy
		if i%4 == 3 {
			b, p = approvals, alone
		}
		raw := write(t, b)
		var at []int
		for range 1 + i%3 {
			n := dice.IntN(len(raw) * 8)
			raw[n/8] ^= 1 << (n % 8)
			at = append(at, n)
		}
		if i%8 != 0 && slices.Min(at)/8 >= head {
			raw = again(raw[head:])
		}
		matters = append(matters, matter{name: fmt.Sprintf("bits %v of %d", at, len(raw)*8), bundle: raw, policy: p})
	}
	agree(t, matters)
}

// A witness cosigns with a clock of its own.
type witness struct {
	*tlog.CosignatureSigner
	key ed25519.PrivateKey
	at  time.Time
}

func (w witness) Sign(msg []byte) ([]byte, error) {
	at := uint64(w.at.Unix())
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, msg))...), nil
}

func sign(t *testing.T, name string, at time.Time) witness {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), ed25519.SeedSize))
	s, err := tlog.NewCosigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return witness{s, key, at}
}

// retell makes another log of what a bundle tells, in which everything is right but what edit did to it: entries are changed before
// they are hashed, and what refers to them follows. It returns nil where what edit made can be no entry.
func retell(t *testing.T, b *verify.Bundle, edit func(entries []*verify.Entry, is []*record.Entry), signers ...note.Signer) *verify.Bundle {
	t.Helper()
	out := &verify.Bundle{Origin: b.Origin}
	var entries []*verify.Entry
	var is []*record.Entry
	for _, s := range b.Sessions {
		s.Entries = slices.Clone(s.Entries)
		for k := range s.Entries {
			e := &s.Entries[k]
			e.Fields = slices.Clone(e.Fields)
			for n := range e.Fields {
				if f := e.Fields[n].Shown; f != nil {
					f := *f
					e.Fields[n].Shown = &f
				}
			}
			p, err := record.ParseEntry(e.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			entries, is = append(entries, e), append(is, &p)
		}
		out.Sessions = append(out.Sessions, s)
	}
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(entries[a].Index) - int(entries[b].Index) })
	counts := make([]int, len(is))
	for i, p := range is {
		counts[i] = p.Fields
	}
	edit(entries, is)
	leaves := make(map[tlog.Hash]tlog.Hash) // what was and what is
	var last uint64
	for _, i := range order {
		e, p := entries[i], is[i]
		was := tlog.HashLeaf(e.Bytes)
		if now, ok := leaves[p.Prev]; ok {
			p.Prev = now
		}
		if now, ok := leaves[p.Grant]; ok {
			p.Grant = now
		}
		if n := len(e.Fields); n > 0 {
			hashes := make([]tlog.Hash, n)
			for k, f := range e.Fields {
				if hashes[k] = f.Withheld; f.Shown != nil {
					hashes[k] = f.Shown.Hash()
				}
			}
			p.Root, p.Fields = record.RootOf(hashes), n+p.Fields-counts[i] // edit may have it state another number
		}
		text, err := p.Append(nil)
		if err != nil {
			return nil
		}
		e.Bytes = text
		leaves[was] = tlog.HashLeaf(text)
		last = max(last, e.Index)
	}
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	filler := make([]tlog.Leaf, last+3)
	for i := range filler {
		filler[i].Entry = fmt.Appendf(nil, "%d", i)
	}
	for _, e := range entries {
		filler[e.Index].Entry = e.Bytes
	}
	if _, err := l.Append(t.Context(), filler...); err != nil {
		t.Fatal(err)
	}
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	log, _ := tlogtest.Key(tlogtest.Origin)
	if out.Checkpoint, err = note.Sign(&note.Note{Text: string(c.Text())}, append([]note.Signer{log}, signers...)...); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Proof, err = (tlog.Tiles{Reader: l, Size: c.Size}).Inclusion(context.Background(), e.Index); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Where every hash and signature is right, and what is told is not, both find the same wrong with it: chains, times, approvals.
func TestBrowserAgreesAboutStories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 2))
	day, approvals, _, alone := load(t)
	_, logKey := tlogtest.Key(tlogtest.Origin)
	began := time.Date(2026, 11, 2, 9, 30, 0, 0, time.UTC)
	pick := func(words ...string) string { return words[dice.IntN(len(words))] }
	var matters []matter
	for i := 0; len(matters) < 500; i++ {
		b := approvals
		if i%4 == 0 {
			b = day
		}
		var did []string
		edits := dice.IntN(3)
		edit := func(entries []*verify.Entry, is []*record.Entry) {
			for range edits {
				n, k := dice.IntN(len(is)), dice.IntN(len(is))
				e, x := is[n], entries[n]
				what := pick("time", "seq", "by", "boot", "prev", "session", "outcome", "reason", "until", "grant", "asks", "kind", "places", "count", "field", "field", "field", "field", "drop", "withhold", "add", "none")
				did = append(did, fmt.Sprintf("%s of %d (%s %s)", what, x.Index, e.Kind, e.Reason))
				switch what {
				case "time":
					e.Time = e.Time.Add(time.Duration(dice.IntN(3)-1) * []time.Duration{time.Microsecond, time.Second, 6 * time.Minute, time.Hour}[dice.IntN(4)])
				case "seq":
					e.Seq += uint64(dice.IntN(3)) - 1
				case "by":
					e.By = pick("gw-1", "gw-2")
				case "boot":
					e.Boot = is[k].Boot
					e.Boot[15] ^= byte(dice.IntN(2))
				case "prev":
					e.Prev = is[k].Prev
				case "session":
					e.Session = is[k].Session
				case "outcome":
					if e.Outcome != "" {
						e.Outcome = record.Outcome(pick("complete", "truncated", "denied", "waiting", "resumed", "client_gone", "upstream_error", "internal", "interrupted", "limit"))
					}
				case "reason":
					if e.Reason != "" {
						e.Reason = pick(record.Agreed, record.Granted, record.Glass, record.No, record.Expired, record.Used)
					}
				case "until":
					if !e.Until.IsZero() {
						e.Until = e.Time.Add(time.Duration(1 + dice.IntN(2_000_000_000)).Truncate(time.Microsecond))
					}
				case "grant":
					if e.Grant != (tlog.Hash{}) {
						e.Grant = tlog.HashLeaf(entries[k].Bytes)
					}
				case "asks":
					e.Asks = !e.Asks
				case "kind":
					e.Kind = is[k].Kind
				case "count":
					e.Fields += dice.IntN(3) - 1
				case "places":
					entries[n].Index, entries[k].Index = entries[k].Index, entries[n].Index
				case "field":
					if len(x.Fields) == 0 {
						break
					}
					if f := x.Fields[dice.IntN(len(x.Fields))].Shown; f != nil {
						f.Value = []byte(pick("alice", "bob", "carol", "1", "2", "", "ask", "Alice@example.com", "bob@example.com", "{}", `{"sent":1}`,
							`{"sent":"2026-11-02T09:30:02Z"}`, `{"sent":"2026-11-02T08:30:02.123456789+00:00"}`, e.Session.String(), "\xff\x00", "\ufeff\u2028<b>&amp;"))
					}
				case "drop":
					if len(x.Fields) > 1 {
						x.Fields = slices.Delete(x.Fields, 0, 1+dice.IntN(len(x.Fields)-1))
					}
				case "withhold":
					if len(x.Fields) > 0 {
						f := &x.Fields[dice.IntN(len(x.Fields))]
						if f.Shown != nil {
							*f = verify.Field{Withheld: f.Shown.Hash()}
						}
					}
				case "add":
					if len(x.Fields) > 0 {
						name := pick(record.FieldTimes, record.FieldVerdict, record.FieldCaller, record.FieldActor, record.FieldEmail, record.FieldApproval, record.FieldNeed, record.FieldActorEmail)
						f := &record.Field{Name: name, Value: []byte(pick("ask", "alice", "bob@example.com", "2", `{"sent":"2026-11-02T09:30:02Z"}`, `{"sent":"2026-11-02T09:20:02Z"}`))}
						x.Fields = append(x.Fields, verify.Field{Shown: f})
					}
				}
			}
		}
		var signers []note.Signer
		policy := alone
		if dice.IntN(2) == 0 {
			policy = "log " + logKey + "\n"
			names := []string{"a.example/w", "b.example/w", "c.example/w"}
			var members []string
			for k, name := range names {
				w := sign(t, name, began.Add(time.Duration(dice.IntN(20)-8)*time.Minute))
				policy += fmt.Sprintf("witness w%d %s\n", k, w.VerifierKey())
				members = append(members, fmt.Sprintf("w%d", k))
				if dice.IntN(5) > 0 {
					signers = append(signers, w)
				}
			}
			policy += fmt.Sprintf("group g %s %s\n", pick("all", "any", "2"), strings.Join(members, " "))
			policy += "quorum " + pick("g", "g", "g", "w0", "none") + "\n"
		}
		out := retell(t, b, edit, signers...)
		if out == nil {
			continue
		}
		switch dice.IntN(12) {
		case 0:
			s := dice.IntN(len(out.Sessions))
			out.Sessions = slices.Delete(out.Sessions, s, s+1)
			did = append(did, fmt.Sprintf("without session %d", s))
		case 1:
			s := &out.Sessions[dice.IntN(len(out.Sessions))]
			if n := dice.IntN(len(s.Entries)); len(s.Entries) > 1 {
				did = append(did, fmt.Sprintf("without entry %d", s.Entries[n].Index))
				s.Entries = slices.Delete(s.Entries, n, n+1)
			}
		}
		matters = append(matters, matter{name: strings.Join(did, ", "), bundle: write(t, out), policy: policy})
	}
	agree(t, matters)
}

// What a browser cannot check it does not call true: a log or a witness that signs with ML-DSA-44.
func TestBrowserDoesNotGuess(t *testing.T) {
	day, _, _, _ := load(t)
	_, logKey := tlogtest.Key(tlogtest.Origin)
	pq, err := tlog.NewMLDSACosigner("pq.example/w", bytes.Repeat([]byte{7}, tlog.MLDSASeedSize))
	if err != nil {
		t.Fatal(err)
	}
	policy := "log " + logKey + "\nwitness pq " + pq.VerifierKey() + "\n"
	b := retell(t, day, func([]*verify.Entry, []*record.Entry) {}, pq)
	good := write(t, b)
	other, err := note.Sign(&note.Note{Text: "log.example/test\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, pq)
	if err != nil {
		t.Fatal(err)
	}
	signature := func(signed []byte) []byte { return signed[bytes.LastIndex(signed, []byte("— pq.example/w")):] }
	b.Checkpoint = bytes.Replace(b.Checkpoint, signature(b.Checkpoint), signature(other), 1)
	open := []string{string(verify.CheckpointCosigned)}
	// A witness that can be checked, long before anything happened: when the other one saw the tree is not known here.
	early := sign(t, "early.example/w", time.Date(2026, 11, 2, 1, 0, 0, 0, time.UTC))
	both := write(t, retell(t, day, func([]*verify.Entry, []*record.Entry) {}, pq, early))
	of := policy + "witness early " + early.VerifierKey() + "\ngroup g all pq early\nquorum g\n"
	// A time of nothing is none, however well it is signed.
	never := sign(t, "never.example/w", time.Unix(0, 0))
	zero := write(t, retell(t, day, func([]*verify.Entry, []*record.Entry) {}, never))
	matters := []matter{}
	// When a call was sent, said twice, or by a name that is another one for some.
	for _, times := range []string{`{"sent":"soon","sent":"2026-11-02T23:30:02Z"}`, `{"sent":"soon","s\u0065nt":"2026-11-02T23:30:02Z"}`, `{"ſent":"2026-11-02T01:30:02Z"}`, `{"Sent" : "2026-11-02T01:30:02Z"}`,
		"{\":\":\"\",\n\":sent\":\":\",\"sent\":\"soon\",\"sent\":\"2026-11-02T23:30:02Z\"}",
	} {
		_, approvals, _, alone := load(t)
		b := retell(t, approvals, func(entries []*verify.Entry, _ []*record.Entry) {
			for _, e := range entries {
				for _, f := range e.Fields {
					if e.Index == 13 && f.Shown.Name == record.FieldTimes {
						f.Shown.Value = []byte(times)
					}
				}
			}
		})
		matters = append(matters, matter{name: times, bundle: write(t, b), policy: alone, open: []string{string(verify.ApprovalGiven)}})
	}
	agree(t, append(matters, []matter{
		{name: "with another", bundle: both, policy: of, open: open},
		{name: "never", bundle: zero, policy: "log " + logKey + "\nwitness never " + never.VerifierKey() + "\nquorum never\n", claim: verify.CheckpointCosigned},
		{name: "asked for", bundle: good, policy: policy + "quorum pq\n", open: open},
		{name: "not asked for", bundle: good, policy: policy + "quorum none\n", open: open},
		{name: "of another tree", bundle: write(t, b), policy: policy + "quorum none\n", open: open},
	}...))
}

// The vectors of entries are read, and refused, as the format's description has it.
func TestEntryVectors(t *testing.T) {
	b := open(t)
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static())))
	mux.HandleFunc("GET /favicon.ico", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<!doctype html><title>entries</title>")) })
	b.goTo(site(t, strict(mux)) + "/")
	for _, file := range []string{"entries.json", "log.json", "entries-bad.json"} {
		raw, err := os.ReadFile("../../tlog/record/testdata/vectors/" + file)
		if err != nil {
			t.Fatal(err)
		}
		wrong := eval[[]string](b, `import("/static/verify.js").then(({ parseEntry }) => {
			const file = `+string(raw)+`, wrong = [];
			for (const { name, entry } of Array.isArray(file) ? file : file.entries) {
				let read = true;
				try {
					parseEntry(entry);
				} catch (e) {
					read = false;
				}
				if (read === `+strconv.FormatBool(file == "entries-bad.json")+`) wrong.push(name);
			}
			return wrong;
		})`)
		if len(wrong) > 0 {
			t.Errorf("%s: %q", file, wrong)
		}
	}
}

// A p256 signs as a log with a key of type 0x02.
type p256 struct {
	key  *ecdsa.PrivateKey
	spki []byte
}

func (s p256) Name() string    { return tlogtest.Origin }
func (s p256) KeyHash() uint32 { sum := sha256.Sum256(s.spki); return binary.BigEndian.Uint32(sum[:]) }
func (s p256) Sign(msg []byte) ([]byte, error) {
	sum := sha256.Sum256(msg)
	return ecdsa.SignASN1(crand.Reader, s.key, sum[:])
}

// A log may sign with ECDSA, and with several keys: one that fails is enough to refuse it.
func TestBrowserAgreesAboutKeys(t *testing.T) {
	day, _, _, _ := load(t)
	c, err := tlog.UnverifiedCheckpoint(day.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	ed, edKey := tlogtest.Key(tlogtest.Origin)
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := tlog.LogVerifierKey(tlogtest.Origin, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ec := p256{key, spki}
	both := "log " + edKey + "\nlog " + vkey + "\nquorum none\n"
	alone := "log " + vkey + "\nquorum none\n"
	var matters []matter
	add := func(name, policy string, claim verify.Claim, edit func([]byte) []byte, signers ...note.Signer) {
		signed, err := tlog.SignCheckpoint(c, signers...)
		if err != nil {
			t.Fatal(err)
		}
		day.Checkpoint = edit(signed)
		matters = append(matters, matter{name: name, bundle: write(t, day), policy: policy, claim: claim})
	}
	as := func(b []byte) []byte { return b }
	for i := range 20 { // their signatures have several lengths
		add(fmt.Sprintf("ECDSA %d", i), alone, "", as, ec)
	}
	add("both", both, "", as, ed, ec)
	add("the other one", alone, verify.CheckpointSigned, as, ed)
	// Each byte of an ECDSA signature, and of what is around it.
	signed, err := tlog.SignCheckpoint(c, ed, ec)
	if err != nil {
		t.Fatal(err)
	}
	begin := bytes.LastIndexByte(signed[:len(signed)-1], ' ') + 1
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(signed[begin:])))
	if err != nil {
		t.Fatal(err)
	}
	for i := 4; i < len(blob); i++ {
		flipped := slices.Clone(blob)
		flipped[i] ^= 1 << (i % 8)
		day.Checkpoint = slices.Concat(signed[:begin], []byte(base64.StdEncoding.EncodeToString(flipped)), []byte("\n"))
		matters = append(matters, matter{name: fmt.Sprintf("byte %d of ECDSA", i), bundle: write(t, day), policy: both, claim: verify.CheckpointSigned})
	}
	for _, n := range []int{5, 6, 12, len(blob) - 1} {
		day.Checkpoint = slices.Concat(signed[:begin], []byte(base64.StdEncoding.EncodeToString(blob[:n])), []byte("\n"))
		matters = append(matters, matter{name: fmt.Sprintf("%d bytes of ECDSA", n), bundle: write(t, day), policy: both, claim: verify.CheckpointSigned})
	}
	agree(t, matters)
}
