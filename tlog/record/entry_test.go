package record_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

var (
	allKinds = []Kind{Start, Stop, Heartbeat, Request, Response, Refused, Policy, Approval, Access, Erasure, Gap}
	outcomes = []Outcome{Complete, Truncated, Denied, ClientGone, UpstreamError, Limit, Internal, Interrupted, Waiting, Resumed}
)

// setters set one part each, as its name in the table of FORMAT.md.
var setters = map[string]func(*Entry){
	"session":  func(e *Entry) { e.Session = idOf("s") },
	"prev":     func(e *Entry) { e.Prev = hashOf("prev") },
	"outcome":  func(e *Entry) { e.Outcome = Complete },
	"record":   func(e *Entry) { e.Root, e.Fields = hashOf("root"), 3 },
	"payload":  func(e *Entry) { e.Payload, e.PayloadSize = hashOf("payload"), 99 },
	"open":     func(e *Entry) { e.Beat, e.Open, e.Floor, e.Shed = true, 1, 2, 3 },
	"gap":      func(e *Entry) { e.From, e.To, e.Since = 3, 6, epoch },
	"reason":   func(e *Entry) { e.Reason = "because" },
	"software": func(e *Entry) { e.Software = "t/1" },
	"mode":     func(e *Entry) { e.Mode = "strict" },
	"beat":     func(e *Entry) { e.Every = 10 * time.Second },
	"promise":  func(e *Entry) { e.Promise = hashOf("promise") },
	"policy":   func(e *Entry) { e.Policy = 1 },
	"verdict":  func(e *Entry) { e.Asks = true },
	"ask":      func(e *Entry) { e.Tag, e.Until = hashOf("tag"), epoch.Add(time.Hour) },
	"grant":    func(e *Entry) { e.Grant, e.Reason = hashOf("grant"), Used },
}

func blank(k Kind) Entry {
	e := Entry{Kind: k, By: "gw-1", Boot: idOf("b"), Seq: 7, Time: epoch}
	if k == Start {
		e.Seq = 0
	}
	return e
}

// withMust has the parts that the kind must have.
func withMust(k Kind) Entry {
	e := blank(k)
	for name, set := range setters {
		if strings.Contains(" "+entryParts[string(k)], " "+name+"+") {
			set(&e)
		}
	}
	return e
}

// Each kind with each part: must, may, must not.
func TestEntryParts(t *testing.T) {
	rows := 0
	for _, k := range allKinds {
		e := withMust(k)
		if _, err := e.Append(nil); err != nil {
			t.Errorf("%s with what it must have: %v", k, err)
		}
		for name, set := range setters {
			rows++
			parts := " " + entryParts[string(k)]
			must, may := strings.Contains(parts, " "+name+"+"), strings.Contains(parts, " "+name+"?")
			with, without := withMust(k), blank(k)
			set(&with)
			for other, set := range setters {
				if other != name && strings.Contains(parts, " "+other+"+") {
					set(&without)
				}
			}
			if name == "payload" && may && with.Fields == 0 { // a payload is never without its record
				setters["record"](&with)
			}
			if _, err := with.Append(nil); (err == nil) != (must || may) {
				t.Errorf("%s with %s: %v", k, name, err)
			}
			if name == "record" && without.PayloadSize != 0 {
				must = true
			}
			if _, err := without.Append(nil); (err != nil) != must {
				t.Errorf("%s without %s: %v", k, name, err)
			}
		}
	}
	t.Logf("%d kinds by parts", rows)
}

// What Append cannot write it must not leave out in silence.
func TestEntryHalfParts(t *testing.T) {
	for _, k := range allKinds {
		for name, set := range map[string]func(*Entry){
			"a root without fields":      func(e *Entry) { e.Root, e.Fields = hashOf("r"), 0 },
			"a digest without a size":    func(e *Entry) { e.Payload, e.PayloadSize = hashOf("p"), 0 },
			"a count that is not stated": func(e *Entry) { e.Beat, e.Open = false, 1 },
			"a floor that is not stated": func(e *Entry) { e.Beat, e.Floor = false, 1 },
			"shed that is not stated":    func(e *Entry) { e.Beat, e.Shed = false, 1 },
			"a gap without an end":       func(e *Entry) { e.From, e.To = 1, 0 },
			"a gap's time alone":         func(e *Entry) { e.Since, e.To = epoch, 0 },
			"fewer than no fields":       func(e *Entry) { e.Fields = -1 },
			"fewer than no bytes":        func(e *Entry) { e.PayloadSize = -1 },
			"a time in another zone":     func(e *Entry) { e.Time = epoch.In(time.FixedZone("x", 3600)) },
			"a local time":               func(e *Entry) { e.Time = epoch.In(time.FixedZone("UTC", 0)) },
			"a nanosecond":               func(e *Entry) { e.Time = epoch.Add(1) },
			"no time":                    func(e *Entry) { e.Time = time.Time{} },
			"no boot":                    func(e *Entry) { e.Boot = ID{} },
			"no writer":                  func(e *Entry) { e.By = "" },
			"no kind":                    func(e *Entry) { e.Kind = "" },
			"a number over the limit":    func(e *Entry) { e.Seq = 1 << 63 },
			"a count over the limit":     func(e *Entry) { e.Beat, e.Open = true, 1<<63 },
			"a floor over the limit":     func(e *Entry) { e.Beat, e.Open, e.Floor = true, 1, 1<<63 },
			"a policy over the limit":    func(e *Entry) { e.Policy = 1 << 63 },
			"a policy that is not yet":   func(e *Entry) { e.Policy = e.Seq + 1 },
			"a policy that it is itself": func(e *Entry) { e.Policy = max(e.Seq, 1) },
			"an end without a question":  func(e *Entry) { e.Tag, e.Until = tlog.Hash{}, epoch.Add(time.Hour) },
			"a question without an end":  func(e *Entry) { e.Tag, e.Until = hashOf("tag"), time.Time{} },
			"a question that has ended":  func(e *Entry) { e.Tag, e.Until = hashOf("tag"), epoch },
			"a question and an answer":   func(e *Entry) { e.Tag, e.Until, e.Reason = hashOf("tag"), epoch.Add(1e9), Granted },
			"a use of no grant":          func(e *Entry) { *e = withMust(Approval); e.Reason = Used },
			"a grant that is not used":   func(e *Entry) { *e = withMust(Approval); e.Grant, e.Reason = hashOf("grant"), Granted },
			"shed over the limit":        func(e *Entry) { e.Beat, e.Shed = true, 1<<63 },
		} {
			e := withMust(k)
			set(&e)
			if b, err := e.Append([]byte("x")); err == nil {
				t.Errorf("%s with %s: %s", k, name, b)
			} else if b != nil {
				t.Errorf("%s with %s: bytes beside an error", k, name)
			}
		}
	}
}

// Every deletion, every insertion of a byte that could matter, every flip of a bit and every swap of neighbours in
// one example of each kind: refused, or another entry in its own canonical form. The second reading agrees.
func TestEntryMutations(t *testing.T) {
	insert := []byte(" \t\n\r\x00\x0b\x7f\x80\xc3\xef\"\\/,:{}[]+-.=_0123456789aAbBeEfFgnruUzZ")
	tried, read := 0, 0
	try := func(b []byte) {
		tried++
		e, err := ParseEntry(b)
		if err != nil {
			if tried%37 == 0 {
				if _, err := readEntry(b); err == nil {
					t.Fatalf("the second reading reads %q", b)
				}
			}
			return
		}
		read++
		again, err := e.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q is read, and written again as %q, %v", b, again, err)
		}
		if _, err := readEntry(b); err != nil {
			t.Fatalf("%q is read; the second reading: %v", b, err)
		}
	}
	seen := map[Kind]bool{}
	for _, x := range exampleLog(t) {
		if seen[x.Entry.Kind] {
			continue
		}
		seen[x.Entry.Kind] = true
		b, err := x.Entry.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		m := make([]byte, 0, len(b)+1)
		for i := range len(b) + 1 {
			for _, c := range insert {
				try(append(append(append(m[:0], b[:i]...), c), b[i:]...))
			}
			if i == len(b) {
				break
			}
			try(append(append(m[:0], b[:i]...), b[i+1:]...))
			try(append(m[:0], b[:i]...))
			m = append(m[:0], b...)
			for bit := range 8 {
				m[i] ^= 1 << bit
				try(m)
				m[i] ^= 1 << bit
			}
			if i > 0 && m[i] != m[i-1] {
				m[i], m[i-1] = m[i-1], m[i]
				try(m)
			}
		}
	}
	t.Logf("%d mutations, %d of them other entries", tried, read)
}

// What an entry says in letters is from closed alphabets, whoever fills it in: text of people has no place in it.
func TestEntryHoldsNoText(t *testing.T) {
	texts := []string{
		"", "a", "gw-1", "policy_denied", "tally/1.0.0", "tally/(devel)", "Jane Doe", "jane@example.com", "jane.doe", "JANE", "+49 170 1234567", "4111 1111 1111 1111",
		"žluť", "你好", "a\nb", "a\"b", "a\\b", "<script>", "a&b", "\u202e", "strict", "complete", strings.Repeat("a", 64), strings.Repeat("a", 65), "\x00", "\xff", "a\u0301",
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	any := func(usual string) string {
		switch rnd.IntN(6) {
		case 0:
			return texts[rnd.IntN(len(texts))]
		case 1:
			b := make([]byte, rnd.IntN(70))
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			return string(b)
		}
		return usual
	}
	written := 0
	for range 40_000 {
		e := withMust(allKinds[rnd.IntN(len(allKinds))])
		for name, set := range setters {
			if rnd.IntN(4) == 0 && strings.Contains(" "+entryParts[string(e.Kind)], " "+name+"?") {
				set(&e)
			}
		}
		e.By = any(e.By)
		e.Reason, e.Software, e.Mode = any(e.Reason), any(e.Software), any(e.Mode)
		e.Outcome = Outcome(any(string(e.Outcome)))
		if rnd.IntN(9) == 0 {
			e.Kind = Kind(any(string(e.Kind)))
		}
		b, err := e.Append(nil)
		if err != nil {
			continue
		}
		written++
		if _, err := readEntry(b); err != nil {
			t.Fatalf("written, and the second reading refuses it: %v\n%s", err, b)
		}
		if got, err := ParseEntry(b); err != nil || got != e {
			t.Fatalf("written as %+v and read as %+v, %v", e, got, err)
		}
	}
	if written < 2000 {
		t.Errorf("only %d of the generated entries were entries", written)
	}
}

// An entry is small: a few hundred bytes usually, and never near the limit.
func TestEntrySize(t *testing.T) {
	sum, n, longest := map[Kind]int{}, map[Kind]int{}, 0
	for _, x := range exampleLog(t) {
		b, err := x.Entry.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		sum[x.Entry.Kind] += len(b)
		n[x.Entry.Kind]++
	}
	for _, k := range allKinds {
		t.Logf("a usual %s entry has %d bytes", k, sum[k]/n[k])
		if sum[k]/n[k] > 450 {
			t.Errorf("a usual %s entry has %d bytes", k, sum[k]/n[k])
		}
	}
	// The longest of every part at once, in every kind that may have it.
	for _, k := range allKinds {
		var e Entry
		for _, x := range exampleEntries() {
			if x.Entry.Kind == k {
				e = x.Entry
			}
		}
		e.Kind, e.By, e.Boot = k, strings.Repeat("w", 64), idOf("b")
		if e.Time.IsZero() { // request: no example of its own
			e = exampleEntries()[4].Entry
			e.Kind = k
		}
		for _, o := range outcomes {
			if e.Outcome != "" && len(o) > len(e.Outcome) {
				e.Outcome = o
			}
		}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		longest = max(longest, len(b))
	}
	if longest != 542 || longest > tlog.MaxEntry {
		t.Errorf("the longest entry has %d bytes; FORMAT.md says 542", longest)
	}
}

func TestID(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 678e6, time.UTC)
	a, b := NewID(now), NewID(now.Add(time.Millisecond))
	if a.Time() != now || a.String() >= b.String() || a[6]>>4 != 7 || a[8]>>6 != 2 {
		t.Errorf("%s of %v", a, a.Time())
	}
	if got, err := ParseID(a.String()); err != nil || got != a {
		t.Error(got, err)
	}
	var c ID
	if text, _ := a.MarshalText(); c.UnmarshalText(text) != nil || c != a {
		t.Errorf("%s is read as %s", text, c)
	}
	good := a.String()
	for i := range good {
		for _, c := range "0aAgG-{ \x00\x80" {
			s := good[:i] + string(c) + good[i+1:]
			if id, err := ParseID(s); err == nil && id.String() != s {
				t.Errorf("%q is read", s)
			}
		}
	}
	for _, s := range []string{"", "x", good[1:], good + "0", strings.ToUpper(good), strings.ReplaceAll(good, "-", ""), "00000000-0000-0000-0000-000000000000", "{" + good + "}", strings.Repeat("-", 36)} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
}

func FuzzEntry(f *testing.F) {
	for _, x := range append(exampleLog(f), exampleEntries()...) {
		b, err := x.Entry.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, v := range badEntries(f)[:40] {
		f.Add([]byte(v.Entry))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		_, other := readEntry(b)
		if (err == nil) != (other == nil) {
			t.Fatalf("%v; the second reading: %v", err, other)
		}
		if err != nil {
			return
		}
		if again, err := e.Append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("written again as %s, %v", again, err)
		}
	})
}
