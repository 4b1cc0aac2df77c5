package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A house is a chronicle in which people must say yes, with the records behind its entries.
type house struct {
	*chronicle
	records map[tlog.Hash]record.Record
	a, b    *writer // two gateways, of which each has the policy with the number 1
	extra   []record.Field
	yes     tlog.Hash // the leaf hash of the newest yes
	// foretold is what the newest yes of the whole story will be: whoever makes up a log knows it before it is written.
	foretold tlog.Hash
}

// tell tells a story in a house of its own.
func tell(t *testing.T, story func(h *house) []record.ID) (*house, []record.ID) {
	t.Helper()
	var foretold tlog.Hash
	for {
		h := &house{chronicle: newChronicle(t), records: make(map[tlog.Hash]record.Record), foretold: foretold}
		h.a, h.b = h.writer("gw-1"), h.writer("gw-2")
		h.begin(h.a)
		h.begin(h.b)
		ids := story(h)
		h.a.heartbeat()
		h.b.heartbeat()
		if h.yes == foretold {
			return h, ids
		}
		foretold = h.yes
	}
}

// begin begins a boot with its policy.
func (h *house) begin(w *writer) {
	w.start()
	r := record.Record{field(record.FieldRules, "ask everything")}
	w.put(record.Entry{Kind: record.Policy, Root: r.Root(), Fields: len(r)})
}

// with adds a field to the next record, or puts it in the place of the one of that name.
func (h *house) with(name, value string) *house {
	h.extra = append(h.extra, field(name, value))
	return h
}

// put writes an entry about a session, with a record of these fields.
func (h *house) put(w *writer, e record.Entry, fields ...string) {
	var r record.Record
	for i := 0; i < len(fields); i += 2 {
		r = append(r, field(fields[i], fields[i+1]))
	}
	for _, f := range h.extra {
		r = slices.DeleteFunc(r, func(x record.Field) bool { return x.Name == f.Name })
		if len(f.Value) > 0 {
			r = append(r, f)
		}
	}
	h.extra = nil
	of := about(e.Kind, e.Session, r)
	e.Root, e.Fields, e.Payload, e.PayloadSize = of.Root, of.Fields, of.Payload, of.PayloadSize
	w.put(e)
	h.records[w.leaf[e.Session]] = r
}

// ask is a request of alice's, of which the rules say that people must be asked.
func (h *house) ask(w *writer) record.ID {
	id := h.id()
	w.open[id] = uint64(len(h.entries))
	h.put(w, record.Entry{Kind: record.Request, Session: id, Asks: true, Policy: 1},
		record.FieldSession, id.String(), record.FieldCaller, "alice", record.FieldEmail, "alice@example.com", record.FieldRoute, "chat",
		record.FieldMethod, "POST", record.FieldTarget, "/v1/messages", record.FieldBody, `{"model":"m"}`, record.FieldVerdict, "ask")
	return id
}

// approve writes an approval entry.
func (h *house) approve(w *writer, id record.ID, e record.Entry, fields ...string) {
	e.Kind, e.Session, e.Prev = record.Approval, id, w.leaf[id]
	h.put(w, e, append(fields, record.FieldSession, id.String())...)
	if e.Reason == record.Granted || e.Reason == record.Glass {
		h.yes = w.leaf[id]
	}
}

// question asks so many people, for ten minutes.
func (h *house) question(w *writer, id record.ID, need string) {
	h.approve(w, id, record.Entry{Tag: tlog.Hash{7}, Until: h.now.Add(10 * time.Minute)}, record.FieldNeed, need)
}

// asked is a request and its question.
func (h *house) asked(w *writer, need string) record.ID {
	id := h.ask(w)
	h.question(w, id, need)
	return id
}

func (h *house) answer(w *writer, id record.ID, reason, who string) {
	h.approve(w, id, record.Entry{Reason: reason}, record.FieldActor, who, record.FieldActorEmail, who+"@example.com")
}

// ends is an answer that nobody gave.
func (h *house) ends(w *writer, id record.ID) {
	h.approve(w, id, record.Entry{Reason: record.Expired})
}

// use uses the yes that the session of got.
func (h *house) use(w *writer, id, of record.ID, yes tlog.Hash) {
	h.approve(w, id, record.Entry{Reason: record.Used, Grant: yes}, record.FieldApproval, of.String())
}

// end ends a session. What went to the model has a time at which it was sent.
func (h *house) end(w *writer, id record.ID, o record.Outcome) {
	times := `{"received":"2026-11-02T09:30:00Z"}`
	if !unsent(o) {
		times = fmt.Sprintf(`{"received":"2026-11-02T09:30:00Z","sent":%q}`, stamp(h.now))
	}
	delete(w.open, id)
	h.put(w, record.Entry{Kind: record.Response, Session: id, Prev: w.leaf[id], Outcome: o},
		record.FieldSession, id.String(), record.FieldStatus, "200", record.FieldTimes, times)
}

// bundle exports sessions, with what show says of each record.
func (h *house) bundle(l tlog.Reader, show func(record.Record) []Field, ids ...record.ID) *Bundle {
	h.t.Helper()
	ctx := h.t.Context()
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		h.t.Fatal(err)
	}
	ts := tlog.Tiles{Reader: l, Size: c.Size}
	b := &Bundle{Origin: c.Origin, Checkpoint: signed}
	for _, id := range ids {
		s := Session{ID: id}
		for i, raw := range h.entries {
			e, err := record.ParseEntry(raw)
			if err != nil || e.Session != id {
				continue
			}
			p, err := ts.Inclusion(ctx, uint64(i))
			if err != nil {
				h.t.Fatal(err)
			}
			s.Entries = append(s.Entries, Entry{Index: uint64(i), Bytes: raw, Proof: p, Fields: show(h.records[tlog.HashLeaf(raw)])})
		}
		b.Sessions = append(b.Sessions, s)
	}
	return b
}

func everything(r record.Record) []Field { return Fields(r, all) }

// stepwise returns the claims that are false for somebody who follows a log entry by entry and writes down each step.
func stepwise(t *testing.T, h *house) []Claim {
	t.Helper()
	trust := policy(t, "")
	h.marks = nil
	for i := range h.entries {
		h.marks = append(h.marks, i+1)
	}
	l := h.publish()
	f := NewFollower(trust)
	var wrong []Claim
	for size := range h.entries {
		signed, err := l.CheckpointAt(t.Context(), uint64(size+1))
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Follow(t.Context(), l, signed, nil)
		if err != nil {
			t.Fatal(err)
		}
		wrong = append(wrong, falseClaims(r)...)
		f = reread(t, f, trust)
	}
	slices.Sort(wrong)
	return slices.Compact(wrong)
}

var (
	fine  []Claim
	given = []Claim{ApprovalGiven}
)

// What people must say yes to has a yes, by its log and by a bundle of it; and whatever else somebody makes of it is false, by
// the log where entries show it and else by the records in the bundle.
func TestApprovals(t *testing.T) {
	for _, c := range []struct {
		name        string
		log, bundle []Claim
		says        string // a detail of approval-given in the bundle
		story       func(h *house) []record.ID
	}{
		// Honest ones.
		{"one yes", fine, fine, `by "bob", with entry 6, for this call`, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"two people", fine, fine, `by "bob" and "carol", with entry 7`, func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Agreed, "bob")
			h.answer(h.a, id, record.Granted, "carol")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Truncated)
			return []record.ID{id}
		}},
		{"break-glass", fine, fine, `by "bob" and "dora", who broke the glass`, func(h *house) []record.ID {
			id := h.asked(h.a, "3")
			h.answer(h.a, id, record.Agreed, "bob")
			h.answer(h.a, id, record.Glass, "dora")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.UpstreamError)
			return []record.ID{id}
		}},
		{"denied", fine, fine, "ended as denied: nothing was sent", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Agreed, "bob")
			h.answer(h.a, id, record.No, "carol")
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"nobody answered", fine, fine, "ended as denied: nothing was sent", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.after(10 * time.Minute)
			h.ends(h.a, id)
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"nobody used it", fine, fine, "nothing was sent", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.ends(h.a, id)
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"waiting, then resumed at another gateway", fine, fine, `by "bob", with entry 8, for this call`, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			early := h.ask(h.b)
			h.end(h.b, early, record.Waiting)
			h.answer(h.a, id, record.Granted, "bob")
			late := h.ask(h.b)
			h.use(h.b, late, id, h.yes)
			h.end(h.a, id, record.Resumed)
			h.end(h.b, late, record.Complete)
			return []record.ID{late, early, id} // in whatever order
		}},
		{"two came back at once", fine, fine, "used no yes that counts, and ended as waiting", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			first, second := h.ask(h.a), h.ask(h.b)
			h.use(h.a, first, id, h.yes)
			h.use(h.b, second, id, h.yes)
			h.end(h.b, second, record.Waiting)
			h.end(h.a, first, record.Complete)
			h.end(h.a, id, record.Resumed)
			return []record.ID{id, first, second}
		}},
		{"used, and expired a moment later", fine, fine, "for this call", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			again := h.ask(h.b)
			h.use(h.b, again, id, h.yes)
			h.ends(h.a, id)
			h.end(h.a, id, record.Denied)
			h.end(h.b, again, record.Complete)
			return []record.ID{id, again}
		}},
		{"a yes survives a crash", fine, fine, "for this call", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.begin(h.a)
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"a question does not", fine, fine, "ended as interrupted: nothing was sent", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.begin(h.a)
			h.end(h.a, id, record.Interrupted)
			return []record.ID{id}
		}},
		{"at the last moment", fine, fine, "for this call", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.after(10*time.Minute - 750*time.Millisecond)
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"the caller left after the yes was used", fine, fine, "for this call", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.with(record.FieldTimes, fmt.Sprintf(`{"sent":%q}`, stamp(h.now))).end(h.a, id, record.ClientGone)
			return []record.ID{id}
		}},

		// What records show.
		{"by the caller", fine, given, "by the caller", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "alice")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"by the caller under another name", fine, given, "by the caller", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.with(record.FieldActorEmail, "Alice@Example.com").answer(h.a, id, record.Granted, "key-7")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"by the caller, who breaks the glass", fine, given, "by the caller", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Glass, "alice")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"the same person twice", fine, given, "said yes before", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Agreed, "bob")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"the same person under two names", fine, given, "said yes before", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Agreed, "bob")
			h.with(record.FieldActorEmail, "bob@example.com").answer(h.a, id, record.Granted, "key-7")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"too few", fine, given, "1 person said yes, and 2 were needed", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"nobody was needed", fine, given, `asks for "0" people`, func(h *house) []record.ID {
			id := h.asked(h.a, "0")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"by nobody", fine, given, "entry 6 does not say whose answer it is", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.with(record.FieldActor, "").with(record.FieldActorEmail, "").answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"a call of nobody's", fine, given, "entry 4 does not say whose call it is", func(h *house) []record.ID {
			id := h.with(record.FieldCaller, "").asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"other bytes were sent", fine, given, "another body than what was sent", resumed(record.FieldBody, `{"model":"M"}`)},
		{"another target", fine, given, "another target", resumed(record.FieldTarget, "/v1/files")},
		{"another method", fine, given, "another method", resumed(record.FieldMethod, "DELETE")},
		{"another route", fine, given, "another route", resumed(record.FieldRoute, "admin")},
		{"no body", fine, given, "another body", resumed(record.FieldBody, "")},
		{"another caller", fine, given, "another caller", resumed(record.FieldCaller, "mallory")},
		{"another caller, who said yes himself", fine, given, "by the caller", resumed(record.FieldCaller, "bob")},
		{"the e-mail address of who said yes", fine, given, "by the caller", resumed(record.FieldEmail, "BOB@example.com")},
		{"it names another yes than it uses", fine, given, "uses that of the session", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			again := h.ask(h.b)
			h.use(h.b, again, again, h.yes)
			h.end(h.a, id, record.Resumed)
			h.end(h.b, again, record.Complete)
			return []record.ID{id, again}
		}},
		{"sent before the yes", fine, given, "before the yes was used", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			sent := stamp(h.now)
			h.after(9 * time.Minute)
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.with(record.FieldTimes, fmt.Sprintf(`{"sent":%q}`, sent)).end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"sent at no time that is one", fine, given, "cannot be read", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.with(record.FieldTimes, `{"sent":"then"}`).end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"sent without a yes, and the caller left", fine, given, "was sent at", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.with(record.FieldTimes, `{"sent":"2026-11-02T09:30:00Z"}`).end(h.a, id, record.ClientGone)
			return []record.ID{id}
		}},
		{"the request does not say that people must be asked", fine, given, "needed a yes, and used none", func(h *house) []record.ID {
			h.a.edit(func(e *record.Entry) { e.Asks = false })
			id := h.ask(h.a)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"the yes is not in the bundle", fine, given, "is in no session of this bundle", func(h *house) []record.ID {
			return resumed(record.FieldMethod, "POST")(h)[1:]
		}},

		// What entries show.
		{"no yes, and complete", given, given, "needed a yes, and used none", func(h *house) []record.ID {
			id := h.ask(h.a)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"asked, and not waited for", given, given, "needed a yes, and used none", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.end(h.a, id, record.UpstreamError)
			return []record.ID{id}
		}},
		{"a yes, and it was not used", given, given, "needed a yes, and used none", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.Truncated)
			return []record.ID{id}
		}},
		{"one of two, and used", given, given, "or is none", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, record.Agreed, "bob")
			h.use(h.a, id, id, h.a.leaf[id])
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"denied, and answered all the same", given, given, "needed a yes, and used none", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.No, "bob")
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"denied, and then not", given, given, "was answered or had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.No, "bob")
			h.answer(h.a, id, record.Granted, "carol")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"granted, and then denied", given, given, "was answered or had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "carol")
			h.answer(h.a, id, record.No, "bob")
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"expired, and answered", given, given, "was answered or had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.ends(h.a, id)
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"expired, and used", given, given, "had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.ends(h.a, id)
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"expired twice", given, given, "that had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.ends(h.a, id)
			h.ends(h.a, id)
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"denied and expired", given, given, "that had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.No, "bob")
			h.ends(h.a, id)
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"an answer when it was too late", given, given, "an answer of", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.after(10*time.Minute - 250*time.Millisecond) // to the moment
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"used when it was too late", given, given, "that was good until", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.after(10*time.Minute - 500*time.Millisecond) // to the moment
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		{"used before it was given", given, given, "comes later", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			again := h.ask(h.b)
			yes := h.foretold
			if yes == (tlog.Hash{}) {
				yes[0] = 1
			}
			h.use(h.b, again, id, yes)
			h.end(h.b, again, record.Complete)
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.Interrupted)
			return []record.ID{id, again}
		}},
		{"used a second time", given, given, "was used before", func(h *house) []record.ID {
			ids := resumed(record.FieldMethod, "POST")(h)
			id := h.asked(h.a, "1") // and keep one open
			h.end(h.a, id, record.Denied)
			again := h.ask(h.b)
			h.use(h.b, again, ids[0], h.yes)
			h.end(h.b, again, record.Complete)
			return append(ids, again)
		}},
		{"used by two at once", given, given, "was used before", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			first, second := h.ask(h.a), h.ask(h.b)
			h.use(h.a, first, id, h.yes)
			h.use(h.b, second, id, h.yes)
			h.end(h.b, second, record.Complete)
			h.end(h.a, first, record.Complete)
			h.end(h.a, id, record.Resumed)
			return []record.ID{second, first, id}
		}},
		{"used by another, and by the session that asked", given, given, "was used before", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			again := h.ask(h.b)
			h.use(h.b, again, id, h.yes)
			h.end(h.b, again, record.Complete)
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id, again}
		}},
		{"the session that asked had ended", given, given, "had ended", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.ClientGone)
			again := h.ask(h.b)
			h.use(h.b, again, id, h.yes)
			h.end(h.b, again, record.Complete)
			return []record.ID{id, again}
		}},
		{"two yeses used by one", given, given, "after the use of a yes", func(h *house) []record.ID {
			one := h.asked(h.a, "1")
			h.answer(h.a, one, record.Granted, "bob")
			first := h.yes
			other := h.asked(h.a, "1")
			h.answer(h.a, other, record.Granted, "bob")
			again := h.ask(h.b)
			h.use(h.b, again, one, first)
			h.use(h.b, again, other, h.yes)
			h.end(h.b, again, record.Complete)
			h.end(h.a, one, record.Resumed)
			h.end(h.a, other, record.Denied)
			return []record.ID{one, other, again}
		}},
		{"used where another was faster, and a second one then", given, given, "after the use of a yes", func(h *house) []record.ID {
			one := h.asked(h.a, "1")
			h.answer(h.a, one, record.Granted, "bob")
			first := h.yes
			faster := h.ask(h.a)
			h.use(h.a, faster, one, first)
			again := h.ask(h.b)
			h.use(h.b, again, one, first)
			h.question(h.b, again, "1")
			h.answer(h.b, again, record.Granted, "bob")
			h.use(h.b, again, again, h.yes)
			h.end(h.b, again, record.Complete)
			h.end(h.a, one, record.Resumed)
			h.end(h.a, faster, record.Complete)
			return []record.ID{one, faster, again}
		}},
		{"it asks, and uses another's", given, given, "people were asked in it", func(h *house) []record.ID {
			id, other := h.asked(h.a, "1"), h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, other, id, h.yes)
			h.end(h.a, other, record.Denied)
			h.end(h.a, id, record.Denied)
			return []record.ID{id, other}
		}},
		{"asked a second time, for longer", given, given, "was asked before", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.after(9 * time.Minute)
			h.question(h.a, id, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"asked where nobody need be", given, given, "none is due", func(h *house) []record.ID {
			h.a.edit(func(e *record.Entry) { e.Asks = false })
			id := h.with(record.FieldVerdict, "allow").ask(h.a)
			h.question(h.a, id, "1")
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"no yes was needed, and one that is none was used", given, given, "is in no session", func(h *house) []record.ID {
			h.a.edit(func(e *record.Entry) { e.Asks = false })
			id := h.with(record.FieldVerdict, "allow").ask(h.a)
			h.use(h.a, id, id, tlog.Hash{1})
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"answered before it was asked", given, given, "nothing was asked", func(h *house) []record.ID {
			id := h.ask(h.a)
			h.answer(h.a, id, record.Agreed, "bob")
			h.question(h.a, id, "2")
			h.answer(h.a, id, record.Granted, "carol")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"what is no answer is to count", given, given, "neither a question nor an answer", func(h *house) []record.ID {
			id := h.asked(h.a, "2")
			h.answer(h.a, id, "noted", "bob")
			h.answer(h.a, id, record.Granted, "carol")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		{"resumed, and by nobody", given, fine, "nothing was sent", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.Resumed)
			return []record.ID{id}
		}},
		{"resumed, and by itself", given, fine, "for this call", func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Resumed)
			return []record.ID{id}
		}},
		{"resumed, and nobody was asked", given, fine, "nothing was sent", func(h *house) []record.ID {
			id := h.ask(h.a)
			h.end(h.a, id, record.Resumed)
			return []record.ID{id}
		}},

		// Which policy.
		{"the policy is none", []Claim{PolicyNamed}, fine, "nothing was sent", func(h *house) []record.ID {
			h.a.heartbeat()
			h.a.edit(func(e *record.Entry) { e.Policy = 2 })
			id := h.ask(h.a)
			h.end(h.a, id, record.Waiting)
			return []record.ID{id}
		}},
		{"the policy is of an earlier boot", []Claim{PolicyNamed}, fine, "nothing was sent", func(h *house) []record.ID {
			h.a.start()
			h.a.heartbeat()
			id := h.ask(h.a)
			h.end(h.a, id, record.Waiting)
			return []record.ID{id}
		}},
		{"the policy is another gateway's", []Claim{PolicyNamed}, fine, "nothing was sent", func(h *house) []record.ID {
			h.a.heartbeat()
			r := record.Record{field(record.FieldRules, "ask nobody")}
			h.b.put(record.Entry{Kind: record.Policy, Root: r.Root(), Fields: len(r)})
			h.a.edit(func(e *record.Entry) { e.Policy = 2 })
			id := h.ask(h.a)
			h.end(h.a, id, record.Waiting)
			return []record.ID{id}
		}},
		{"refused by a policy that is none", []Claim{PolicyNamed}, fine, "nothing was sent", func(h *house) []record.ID {
			id := h.ask(h.a)
			h.end(h.a, id, record.Waiting)
			h.a.edit(func(e *record.Entry) { e.Policy = 2 }).refused()
			return []record.ID{id}
		}},
		{"policies change, and the old one is named once more", fine, fine, "nothing was sent", func(h *house) []record.ID {
			r := record.Record{field(record.FieldRules, "ask nobody")}
			h.a.put(record.Entry{Kind: record.Policy, Root: r.Root(), Fields: len(r)})
			h.a.edit(func(e *record.Entry) { e.Policy = 2 }).refused()
			id := h.ask(h.a)
			h.end(h.a, id, record.Waiting)
			return []record.ID{id}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, ids := tell(t, c.story)
			l := h.publish()
			r := check(t, l, policy(t, ""))
			if got := falseClaims(r); !slices.Equal(got, c.log) {
				show(t, r)
				t.Errorf("the log: false: %v, want %v", got, c.log)
			}
			if got := stepwise(t, h); !slices.Equal(got, c.log) {
				t.Errorf("the log, entry by entry: false: %v, want %v", got, c.log)
			}
			r, err := Check(appendBundle(t, h.bundle(l, everything, ids...)), policy(t, ""))
			if got := falseClaims(r); err != nil || !slices.Equal(got, c.bundle) {
				show(t, r)
				t.Errorf("the bundle: false: %v, want %v, %v", got, c.bundle, err)
			}
			if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
				return f.Claim == ApprovalGiven && f.OK == (len(c.bundle) == 0) && strings.Contains(f.Detail, c.says)
			}) {
				show(t, r)
				t.Errorf("the bundle does not say %q", c.says)
			}
		})
	}
}

// resumed is the story of a call that was asked about and sent by another session, of which one field is another.
func resumed(name, value string) func(h *house) []record.ID {
	return func(h *house) []record.ID {
		id := h.asked(h.a, "1")
		h.answer(h.a, id, record.Granted, "bob")
		again := h.with(name, value).ask(h.b)
		h.use(h.b, again, id, h.yes)
		h.end(h.a, id, record.Resumed)
		h.end(h.b, again, record.Complete)
		return []record.ID{id, again}
	}
}

// What was left out of a bundle, or withheld in it, is told, and neither clears nor accuses anybody; what is shown counts.
func TestApprovalsWithheld(t *testing.T) {
	h, ids := tell(t, resumed(record.FieldMethod, "POST"))
	l := h.publish()
	judge := func(show func(record.Record) []Field) Report {
		t.Helper()
		r, err := Check(appendBundle(t, h.bundle(l, show, ids...)), policy(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const open = "who approved session"
	if r := judge(everything); strings.Contains(strings.Join(r.NotProven, "\n"), open) {
		show(t, r)
		t.Error("all is shown")
	} else {
		wantNotProven(t, r, "may approve", "no session outside of this bundle")
	}
	r := judge(func(record.Record) []Field { return nil })
	if !r.OK() {
		t.Errorf("no records: false: %v", falseClaims(r))
	}
	wantNotProven(t, r, open)
	wantDetail(t, r, ApprovalGiven, "it used the yes of entry 6")
	// What any of these withholds could have said otherwise. An e-mail address that is withheld could be the caller's.
	for _, name := range []string{record.FieldCaller, record.FieldEmail, record.FieldRoute, record.FieldMethod, record.FieldTarget, record.FieldBody, record.FieldNeed, record.FieldActor, record.FieldActorEmail} {
		r := judge(func(r record.Record) []Field { return Fields(r, func(n string) bool { return n != name }) })
		if !r.OK() {
			show(t, r)
			t.Errorf("%s withheld: false: %v", name, falseClaims(r))
		}
		wantNotProven(t, r, open)
	}
	// And whoever withholds the rest is not cleared by that.
	for _, c := range []struct{ name, value, says string }{
		{record.FieldCaller, "bob", "by the caller"}, {record.FieldEmail, "bob@example.com", "by the caller"}, {record.FieldBody, "x", "another body"},
	} {
		h, ids := tell(t, resumed(c.name, c.value))
		r, err := Check(appendBundle(t, h.bundle(h.publish(), func(r record.Record) []Field {
			return Fields(r, func(n string) bool {
				return n == c.name || c.name == record.FieldCaller && n == record.FieldActor || c.name == record.FieldEmail && n == record.FieldActorEmail
			})
		}, ids...)), policy(t, ""))
		if err != nil || !slices.Equal(falseClaims(r), given) {
			show(t, r)
			t.Errorf("only %s is shown: false: %v, %v", c.name, falseClaims(r), err)
		}
		wantDetail(t, r, ApprovalGiven, c.says)
	}
}

// A session of which something cannot be read may have had a no among it.
func TestApprovalsUnread(t *testing.T) {
	h, ids := tell(t, resumed(record.FieldMethod, "POST"))
	b := h.bundle(h.publish(), everything, ids...)
	b.Sessions[0].Entries = slices.Insert(b.Sessions[0].Entries, 1, Entry{Index: 99, Bytes: []byte(`{}`)})
	r, err := Check(appendBundle(t, b), policy(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Claim == ApprovalGiven && !f.OK && f.Subject == "session "+ids[0].String() && strings.Contains(f.Detail, "no entry")
	}) {
		show(t, r)
		t.Error("it is judged as if all of it were read")
	}
}

// Of a session of before there were questions, or in which something else is called an approval, nothing is said.
func TestApprovalsOfBefore(t *testing.T) {
	h, ids := tell(t, func(h *house) []record.ID {
		h.a.edit(func(e *record.Entry) { e.Asks = false })
		id := h.with(record.FieldVerdict, "allow").ask(h.a)
		h.answer(h.a, id, record.Granted, "alice")
		h.with(record.FieldTimes, "some time").end(h.a, id, record.Complete)
		return []record.ID{id}
	})
	r, err := Check(appendBundle(t, h.bundle(h.publish(), everything, ids...)), policy(t, ""))
	if err != nil || !r.OK() || slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Claim == ApprovalGiven }) {
		show(t, r)
		t.Error(err)
	}
}

// A whole log says how often people said yes, and that it does not show who; and of a log without questions nothing is said.
func TestApprovalsCounted(t *testing.T) {
	h, _ := tell(t, func(h *house) []record.ID {
		ids := resumed(record.FieldMethod, "POST")(h)
		late := h.ask(h.a)
		h.use(h.a, late, ids[0], h.yes)
		h.end(h.a, late, record.Waiting)
		return resumed(record.FieldMethod, "POST")(h)
	})
	r := check(t, h.publish(), policy(t, ""))
	wantDetail(t, r, ApprovalGiven, "used once by 2 sessions")
	wantDetail(t, r, PolicyNamed, "by 5 requests and refusals")
	wantNotProven(t, r, "who said yes to 2 sessions")

	c := newChronicle(t)
	season(c)
	for _, f := range check(t, c.publish(), policy(t, "")).Findings {
		if f.Claim == ApprovalGiven || f.Claim == PolicyNamed {
			t.Errorf("of a log without questions: %+v", f)
		}
	}
}

// A session that its writer gave up is open no more, and its yes went with it, for whoever reads on as for whoever reads anew.
func TestApprovalsGivenUp(t *testing.T) {
	h, _ := tell(t, func(h *house) []record.ID {
		id := h.asked(h.a, "1")
		h.answer(h.a, id, record.Granted, "bob")
		delete(h.a.open, id)
		h.a.heartbeat()
		again := h.ask(h.b)
		h.use(h.b, again, id, h.yes)
		h.end(h.b, again, record.Complete)
		return nil
	})
	want := []Claim{ApprovalGiven, HeartbeatTrue, SessionsFinished}
	got := falseClaims(check(t, h.publish(), policy(t, "")))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("false: %v", got)
	}
	if got := stepwise(t, h); !slices.Equal(got, want) {
		t.Errorf("entry by entry: false: %v", got)
	}
}

// However often the rules change, what is remembered of them stays small, and the newest are among it.
func TestManyPolicies(t *testing.T) {
	h, _ := tell(t, func(h *house) []record.ID {
		r := record.Record{field(record.FieldRules, "ask everything")}
		for range 3 * maxPolicies {
			h.a.put(record.Entry{Kind: record.Policy, Root: r.Root(), Fields: len(r)})
		}
		for _, back := range []uint64{0, maxPolicies} {
			n := h.a.seq - 1 - back
			if back > 0 {
				n = 3*maxPolicies + 1 - back
			}
			h.a.edit(func(e *record.Entry) { e.Policy = n }).refused()
		}
		return nil
	})
	l := h.publish()
	if r := check(t, l, policy(t, "")); !r.OK() {
		show(t, r)
		t.Error("the newest policies are not known")
	}
	f := NewFollower(policy(t, ""))
	signed, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Follow(t.Context(), l, signed, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(f.books.pens["gw-1"].policies); n > maxPolicies+1 {
		t.Errorf("%d policies are remembered", n)
	}
}

// The vector has every kind of approval entry, for whoever checks bundles by another program.
func TestApprovalVector(t *testing.T) {
	h, ids := tell(t, func(h *house) []record.ID {
		id := h.asked(h.a, "2")
		early := h.ask(h.b)
		h.end(h.b, early, record.Waiting)
		h.answer(h.a, id, record.Agreed, "bob")
		h.answer(h.a, id, record.Granted, "carol")
		late := h.ask(h.b)
		h.use(h.b, late, id, h.yes)
		h.end(h.a, id, record.Resumed)
		h.end(h.b, late, record.Complete)
		glass := h.asked(h.a, "2")
		h.answer(h.a, glass, record.Glass, "dora")
		h.use(h.a, glass, glass, h.yes)
		h.end(h.a, glass, record.Complete)
		no := h.asked(h.a, "1")
		h.answer(h.a, no, record.No, "bob")
		h.end(h.a, no, record.Denied)
		silent := h.asked(h.a, "1")
		h.after(10 * time.Minute)
		h.ends(h.a, silent)
		h.end(h.a, silent, record.Denied)
		return []record.ID{id, early, late, glass, no, silent}
	})
	raw := appendBundle(t, h.bundle(h.publish(), everything, ids...))
	vector(t, "approvals.bundle", raw)
	r, err := Check(raw, policy(t, ""))
	if err != nil || !r.OK() {
		show(t, r)
		t.Error(err)
	}
}

// A receipt shows that a yes was used, or was not, and not whose it was.
func TestReceiptOfApproved(t *testing.T) {
	const open = "who approved"
	for name, c := range map[string]struct {
		ok, open bool
		story    func(h *house) []record.ID
	}{
		"with its own yes": {true, true, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.use(h.a, id, id, h.yes)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		"with another's": {true, true, func(h *house) []record.ID { return resumed(record.FieldMethod, "POST")(h)[1:] }},
		"denied": {true, false, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.No, "bob")
			h.end(h.a, id, record.Denied)
			return []record.ID{id}
		}},
		"no need": {true, false, func(h *house) []record.ID {
			h.a.edit(func(e *record.Entry) { e.Asks = false })
			id := h.ask(h.a)
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
		"a yes, and it was not used": {false, false, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.answer(h.a, id, record.Granted, "bob")
			h.end(h.a, id, record.Complete)
			return []record.ID{id}
		}},
	} {
		h, ids := tell(t, c.story)
		b := h.bundle(h.publish(), everything, ids...)
		rc := &record.Receipt{Session: ids[0], Checkpoint: b.Checkpoint}
		for _, e := range b.Sessions[0].Entries {
			rc.Entries = append(rc.Entries, record.ReceiptEntry{Index: e.Index, Bytes: e.Bytes, Proof: e.Proof, Fields: fieldsOf(h.records[tlog.HashLeaf(e.Bytes)])})
		}
		r, err := CheckReceipt(t.Context(), appendReceipt(t, rc), Beside{}, policy(t, ""))
		if err != nil || r.OK() != c.ok || !c.ok && !slices.Equal(falseClaims(r), given) {
			show(t, r)
			t.Errorf("%s: false: %v, %v", name, falseClaims(r), err)
		}
		if got := strings.Contains(strings.Join(r.NotProven, "\n"), open); got != c.open {
			show(t, r)
			t.Errorf("%s: it says that it is not proven %s: %v", name, open, got)
		}
	}
}

// Every outcome says whether something went to the model, and only that asks for a yes.
func TestApprovalsByOutcome(t *testing.T) {
	for o, want := range map[record.Outcome][]Claim{
		record.Complete: given, record.Truncated: given, record.UpstreamError: given,
		record.Denied: fine, record.Waiting: fine, record.Resumed: fine, record.ClientGone: fine, record.Limit: fine, record.Internal: fine, record.Interrupted: fine,
	} {
		h, ids := tell(t, func(h *house) []record.ID {
			id := h.asked(h.a, "1")
			h.end(h.a, id, o)
			return []record.ID{id}
		})
		r, err := Check(appendBundle(t, h.bundle(h.publish(), everything, ids...)), policy(t, ""))
		if got := falseClaims(r); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: false: %v, want %v, %v", o, got, want, err)
		}
	}
}
