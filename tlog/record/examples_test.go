package record_test

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// What the vectors are made of: everything that is random in life is derived from a name here.

func hashOf(name string) tlog.Hash { return sha256.Sum256([]byte(name)) }

func saltOf(name string) (s [SaltBytes]byte) {
	h := hashOf("salt " + name)
	copy(s[:], h[:])
	return s
}

func idOf(name string) (id ID) {
	h := hashOf("id " + name)
	copy(id[:], h[:])
	binary.BigEndian.PutUint32(id[:], 0x0198f2c1)
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id
}

var epoch = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// An example is an entry with a name.
type example struct {
	Name  string
	Entry Entry
}

// exampleLog is a log that two gateways and a desk wrote: an ordinary call, one that an approver let pass, one that was
// denied, one that was refused, two that were lost, a crash with two calls open, and what the next boot made of them.
func exampleLog(t testing.TB) []example {
	t.Helper()
	var log []example
	now := epoch
	seqs := map[ID]uint64{}
	newest := map[ID]tlog.Hash{}
	add := func(name string, e Entry) {
		now = now.Add(1_234_567 * time.Microsecond)
		e.Time = now
		e.Seq = seqs[e.Boot]
		if e.Kind == Gap {
			e.From, e.To, e.Seq = e.Seq, e.Seq+e.To-1, e.Seq+e.To
			e.Since = now.Add(-time.Second)
		}
		seqs[e.Boot] = e.Seq + 1
		if e.Kind == Response || e.Kind == Approval || e.Kind == Erasure {
			e.Prev = newest[e.Session]
		}
		if e.Kind != Start && e.Kind != Stop && e.Kind != Heartbeat && e.Kind != Gap && e.Kind != Erasure {
			e.Root, e.Fields = hashOf("root "+name), len(name)
			e.Payload, e.PayloadSize = hashOf("payload "+name), int64(1000+7*len(name))
		}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !e.Session.IsZero() && e.Kind != Access {
			newest[e.Session] = tlog.HashLeaf(b)
		}
		log = append(log, example{name, e})
	}
	gw := func(k Kind, session string) Entry {
		e := Entry{Kind: k, By: "gw-1", Boot: idOf("gw-1 boot 1")}
		if session != "" {
			e.Session = idOf(session)
		}
		return e
	}
	again := func(k Kind, session string) Entry {
		e := gw(k, session)
		e.Boot = idOf("gw-1 boot 2")
		return e
	}
	other := func(k Kind, session string) Entry {
		e := gw(k, session)
		e.By, e.Boot = "gw-2.eu", idOf("gw-2 boot 1")
		return e
	}
	desk := func(k Kind, session string) Entry {
		e := gw(k, session)
		e.By, e.Boot = "desk", idOf("desk boot 1")
		return e
	}
	with := func(e Entry, change func(*Entry)) Entry { change(&e); return e }
	start := func(e *Entry) { e.Software, e.Mode = "tally/1.0.0", "strict" }
	outcome := func(o Outcome) func(*Entry) { return func(e *Entry) { e.Outcome = o } }
	reason := func(r string) func(*Entry) { return func(e *Entry) { e.Reason = r } }
	beat := func(open, floor, shed uint64) func(*Entry) {
		return func(e *Entry) { e.Beat, e.Open, e.Floor, e.Shed = true, open, floor, shed }
	}

	add("start", with(gw(Start, ""), start))
	add("policy", gw(Policy, ""))
	add("heartbeat, nothing open", with(gw(Heartbeat, ""), beat(0, 0, 0)))
	add("request", gw(Request, "plain"))
	add("start of another gateway", with(other(Start, ""), start))
	add("request of another gateway", other(Request, "elsewhere"))
	add("response", with(gw(Response, "plain"), outcome(Complete)))
	add("request to be approved", gw(Request, "approved"))
	add("approval asked", gw(Approval, "approved"))
	add("refused", with(gw(Refused, "refused"), reason("policy_denied")))
	add("heartbeat, one open", with(gw(Heartbeat, ""), beat(1, 7, 3)))
	add("approval given", with(gw(Approval, "approved"), reason("granted")))
	add("response, approved", with(gw(Response, "approved"), outcome(ClientGone)))
	add("request to be denied", gw(Request, "denied"))
	add("approval denied", with(gw(Approval, "denied"), reason("denied")))
	add("response, denied", with(gw(Response, "denied"), outcome(Denied)))
	add("gap", with(gw(Gap, ""), func(e *Entry) { e.To, e.Reason = 2, "log_busy" }))
	add("response whose request was lost", with(gw(Response, "half lost"), outcome(Truncated)))
	add("request that waits", gw(Request, "waits"))
	add("approval asked in vain", gw(Approval, "waits"))
	add("request cut off", gw(Request, "cut off"))
	// Here the first gateway dies.
	add("start of the desk", with(desk(Start, ""), func(e *Entry) { start(e); e.Mode = "none" }))
	add("access", desk(Access, "plain"))
	add("access to no one session", desk(Access, ""))
	add("start again", with(again(Start, ""), start))
	add("response, interrupted", with(again(Response, "cut off"), outcome(Interrupted)))
	add("erasure", with(desk(Erasure, "plain"), func(e *Entry) {
		e.Reason = "gdpr_17_1_b"
		e.Root, e.Fields = hashOf("root erasure"), 4
		e.Payload, e.PayloadSize = hashOf("payload erasure"), 512
	}))
	add("heartbeat with one left behind", with(again(Heartbeat, ""), beat(1, 18, 0)))
	add("response, interrupted while it waited", with(again(Response, "waits"), outcome(Interrupted)))
	add("erasure without a record", with(desk(Erasure, "denied"), reason("retention")))
	add("stop", with(again(Stop, ""), beat(0, 0, 1)))
	add("stop, with a reason", with(desk(Stop, ""), func(e *Entry) { beat(0, 0, 0)(e); e.Reason = "upgrade" }))
	return log
}

// exampleEntries are the edges: the shortest and the longest of what an entry can say.
func exampleEntries() []example {
	long := Entry{By: strings.Repeat("w", 64), Boot: idOf("long"), Seq: 1<<63 - 1, Time: time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), Session: idOf("long")}
	full := func(e Entry) Entry {
		e.Root, e.Fields = hashOf("a"), MaxFields
		e.Payload, e.PayloadSize = hashOf("b"), tlog.MaxPayload
		return e
	}
	response, refused, approval, erasure, access := full(long), full(long), full(long), full(long), full(long)
	response.Kind, response.Prev, response.Outcome = Response, hashOf("c"), UpstreamError
	refused.Kind, refused.Reason = Refused, strings.Repeat("r", 40)
	approval.Kind, approval.Prev, approval.Reason = Approval, hashOf("c"), strings.Repeat("_", 40)
	erasure.Kind, erasure.Prev, erasure.Reason = Erasure, hashOf("c"), strings.Repeat("0", 40)
	access.Kind = Access
	none := func(k Kind) Entry {
		e := long
		e.Kind, e.Session = k, ID{}
		return e
	}
	start, stop, heartbeat, gap, policy := none(Start), none(Stop), none(Heartbeat), none(Gap), none(Policy)
	start.Seq, start.Software, start.Mode = 0, strings.Repeat("Z", 64), "overlap"
	stop.Beat, stop.Open, stop.Floor, stop.Shed, stop.Reason = true, 1<<63-1, 1<<63-1, 1<<63-1, strings.Repeat("z", 40)
	heartbeat.Beat, heartbeat.Open, heartbeat.Floor, heartbeat.Shed = true, 1<<63-1, 1<<63-1, 1<<63-1
	gap.From, gap.To, gap.Since, gap.Reason = 1<<63-3, 1<<63-2, long.Time, strings.Repeat("9", 40)
	policy.Root, policy.Fields = hashOf("a"), 1
	least := Entry{Kind: Start, By: ".", Boot: ID{15: 1}, Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Software: "(", Mode: "none"}
	says, little := start, least
	says.Every, says.Promise = 24*time.Hour, hashOf("promise")
	little.Every = time.Millisecond
	judged, turned, question, use := full(long), full(long), full(long), full(long)
	judged.Kind, judged.Policy, judged.Asks = Request, 1<<63-2, true
	turned.Kind, turned.Reason, turned.Policy = Refused, "refused_by_rule", 1
	turned.Seq = 2
	question.Kind, question.Prev, question.Time = Approval, hashOf("c"), epoch
	question.Tag, question.Until = hashOf("tag"), epoch.Add(time.Microsecond)
	use.Kind, use.Prev, use.Reason, use.Grant = Approval, hashOf("c"), Used, hashOf("grant")
	waits, resumed := response, response
	waits.Outcome, resumed.Outcome = Waiting, Resumed
	floor := none(Heartbeat)
	floor.By, floor.Seq, floor.Time, floor.Beat, floor.Open = "-", 1, time.Date(2024, 2, 29, 0, 0, 0, 1000, time.UTC), true, 1
	one := none(Gap)
	one.Seq, one.From, one.To, one.Since, one.Reason = 2, 1, 1, least.Time, "_"
	return []example{
		{"longest response", response}, {"longest refused", refused}, {"longest approval", approval}, {"longest erasure", erasure},
		{"longest access", access}, {"longest start", start}, {"longest stop", stop}, {"longest heartbeat", heartbeat},
		{"longest gap", gap}, {"policy without a payload", policy}, {"shortest start", least},
		{"one session open since the log's first entry", floor}, {"gap of one", one},
		{"start that promises and says when it beats", says}, {"start that says when it beats", little},
		{"request that was judged and waits for people", judged}, {"refused by a policy", turned}, {"question", question}, {"use of a yes", use},
		{"response, nobody had decided", waits}, {"response, gone on as another", resumed},
	}
}

// exampleRecords are records of one to nine fields, with values of every sort.
func exampleRecords() []Record {
	values := []struct {
		name  string
		value string
	}{
		{FieldSession, idOf("plain").String()},
		{FieldBody, `{"model":"m","messages":[{"role":"user","content":"Guten Tag, žluťoučký kůň, 你好"}]}`},
		{FieldError, ""},
		{FieldHeaders, `[["content-type","application/json"]]`},
		{FieldCaller, "team-a"},
		{"x", "\x00\x01\xff"},
		{strings.Repeat("n", MaxName), strings.Repeat("data: {}\n\n", 40)},
		{"a-b_c.9", "seven"},
		{FieldTimes, `{"begin":"2026-01-02T15:04:05.000000Z"}`},
	}
	var rs []Record
	for n := 1; n <= len(values); n++ {
		var r Record
		for i, v := range values[:n] {
			r = append(r, Field{Name: v.name, Salt: saltOf(string(rune('0'+n)) + " " + string(rune('0'+i))), Value: []byte(v.value)})
		}
		rs = append(rs, r)
	}
	return rs
}
