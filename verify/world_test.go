package verify

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// began is when every story of these tests begins.
var began = time.Date(2026, 11, 2, 9, 30, 0, 0, time.UTC)

// A chronicle is the entries of a log while a test makes them up. Everything in it is the same every time.
type chronicle struct {
	t       testing.TB
	entries [][]byte
	marks   []int // sizes at which a checkpoint is published, besides the last
	now     time.Time
	ids     uint16
}

func newChronicle(t testing.TB) *chronicle { return &chronicle{t: t, now: began} }

// id makes up the next ID.
func (c *chronicle) id() record.ID {
	c.ids++
	return record.ID{1, 0x9a, 0x42, 6: 0x70, 8: 0x80, 14: byte(c.ids >> 8), 15: byte(c.ids)}
}

// mark has a checkpoint published here.
func (c *chronicle) mark() { c.marks = append(c.marks, len(c.entries)) }

// publish makes a log of it.
func (c *chronicle) publish() *tlogtest.Log {
	c.t.Helper()
	l := tlogtest.Start(c.t, tlogtest.Config{Manual: true})
	from := 0
	for _, to := range append(slices.Clone(c.marks), len(c.entries)) {
		for ; from < to; from++ {
			if _, err := l.Append(context.Background(), tlog.Leaf{Entry: c.entries[from]}); err != nil {
				c.t.Fatal(err)
			}
		}
		if _, err := l.Publish(); err != nil {
			c.t.Fatal(err)
		}
	}
	return l
}

// A writer is one gateway of a chronicle, as honest as nobody edits it.
type writer struct {
	c     *chronicle
	by    string
	boot  record.ID
	every time.Duration // what its starts say of heartbeats
	seq   uint64
	open  map[record.ID]uint64
	leaf  map[record.ID]tlog.Hash
	edits []func(*record.Entry)
}

func (c *chronicle) writer(by string) *writer {
	return &writer{c: c, by: by, open: make(map[record.ID]uint64), leaf: make(map[record.ID]tlog.Hash)}
}

// edit changes the next entry, and what follows does not know.
func (w *writer) edit(f func(*record.Entry)) *writer {
	w.edits = append(w.edits, f)
	return w
}

func (w *writer) put(e record.Entry) record.Entry {
	w.c.t.Helper()
	w.c.now = w.c.now.Add(250 * time.Millisecond)
	e.By, e.Boot, e.Time, e.Seq = w.by, w.boot, w.c.now, w.seq
	if e.Kind == record.Gap {
		e.From, e.To, e.Since = w.seq, w.seq+e.To-1, w.c.now
		e.Seq = e.To + 1
	}
	w.seq = e.Seq + 1
	for _, f := range w.edits {
		f(&e)
	}
	w.edits = nil
	b, err := e.Append(nil)
	if err != nil {
		w.c.t.Fatal(err)
	}
	if !e.Session.IsZero() {
		w.leaf[e.Session] = tlog.HashLeaf(b)
	}
	w.c.entries = append(w.c.entries, b)
	return e
}

func (w *writer) start() {
	w.boot, w.seq = w.c.id(), 0
	w.put(record.Entry{Kind: record.Start, Software: "tally/1", Mode: "strict", Every: w.every})
}

func (w *writer) beat(k record.Kind) {
	e := record.Entry{Kind: k, Beat: true, Open: uint64(len(w.open))}
	for _, i := range w.open {
		if e.Floor == 0 || i < e.Floor {
			e.Floor = i
		}
	}
	w.put(e)
}

func (w *writer) heartbeat() { w.beat(record.Heartbeat) }
func (w *writer) stop()      { w.beat(record.Stop) }

func (w *writer) gap(n uint64) { w.put(record.Entry{Kind: record.Gap, To: n, Reason: "busy"}) }

// about fills in what an entry about a session has.
func about(k record.Kind, id record.ID, r record.Record) record.Entry {
	sealed := fmt.Sprintf("sealed %s %s", k, id)
	return record.Entry{Kind: k, Session: id, Root: r.Root(), Fields: len(r), Payload: record.Sum([]byte(sealed)), PayloadSize: int64(len(sealed))}
}

func (w *writer) request() record.ID {
	id := w.c.id()
	w.open[id] = uint64(len(w.c.entries))
	w.put(about(record.Request, id, requestRecord(id)))
	return id
}

func (w *writer) approval(id record.ID) {
	e := about(record.Approval, id, requestRecord(id))
	e.Prev = w.leaf[id]
	w.put(e)
}

func (w *writer) response(id record.ID, o record.Outcome) {
	e := about(record.Response, id, responseRecord(id))
	e.Outcome, e.Prev = o, w.leaf[id]
	delete(w.open, id)
	w.put(e)
}

func (w *writer) refused() record.ID {
	id := w.c.id()
	e := about(record.Refused, id, requestRecord(id))
	e.Reason = "no_route"
	w.put(e)
	return id
}

func (w *writer) erasure(id record.ID) {
	e := record.Entry{Kind: record.Erasure, Session: id, Prev: w.leaf[id], Reason: "gdpr_17"}
	w.put(e)
}

func field(name string, value string) record.Field {
	f := record.Field{Name: name, Value: []byte(value)}
	copy(f.Salt[:], name+"................")
	return f
}

func requestRecord(id record.ID) record.Record {
	return record.Record{field(record.FieldSession, id.String()), field(record.FieldCaller, "alice@example.com"), field(record.FieldBody, `{"model":"m","messages":[{"role":"user","content":"say \"hi\"\n"}]}`)}
}

func responseRecord(id record.ID) record.Record {
	return record.Record{field(record.FieldSession, id.String()), field(record.FieldStatus, "200"), field(record.FieldBody, "\x1f\x8b\x08 not text"), field(record.FieldFinish, "message_stop")}
}

// cosigner is a witness whose watch a test sets.
type cosigner struct {
	*tlog.CosignatureSigner
	key ed25519.PrivateKey
	at  time.Time
}

func newCosigner(t testing.TB, name string, at time.Time) *cosigner {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	key := ed25519.NewKeyFromSeed(seed)
	s, err := tlog.NewCosigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return &cosigner{s, key, at}
}

func (c *cosigner) Sign(msg []byte) ([]byte, error) {
	at := uint64(c.at.Unix())
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, msg)
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(c.key, signed)...), nil
}

// cosign adds cosignatures to a checkpoint of the test's log.
func cosign(t testing.TB, signed []byte, by ...*cosigner) []byte {
	t.Helper()
	signers := []note.Signer{logSigner(tlogtest.Origin)}
	for _, c := range by {
		signers = append(signers, c)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	out, err := note.Sign(&note.Note{Text: string(c.Text())}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func logSigner(origin string) note.Signer {
	s, _ := tlogtest.Key(origin)
	return s
}

// policy is one that asks for these witnesses; rule is any, all or a number, or "" for none.
func policy(t testing.TB, rule string, by ...*cosigner) Trust {
	t.Helper()
	_, vkey := tlogtest.Key(tlogtest.Origin)
	text := "log " + vkey + "\n"
	members := ""
	for i, c := range by {
		text += fmt.Sprintf("witness w%d %s\n", i, c.VerifierKey())
		members += fmt.Sprintf(" w%d", i)
	}
	if rule == "" {
		text += "quorum none\n"
	} else {
		text += "group g " + rule + members + "\nquorum g\n"
	}
	p, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Trust{Policy: p}
}

// export makes a bundle of sessions, by the entries that are about them.
func export(t testing.TB, l *tlogtest.Log, signed []byte, show func(string) bool, ids ...record.ID) *Bundle {
	t.Helper()
	ctx := context.Background()
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	ts := tlog.Tiles{Reader: l, Size: c.Size}
	b := &Bundle{Origin: c.Origin, Checkpoint: signed}
	for _, id := range ids {
		s := Session{ID: id}
		for i := range c.Size {
			raw, err := ts.Entry(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			e, err := record.ParseEntry(raw)
			if err != nil || e.Session != id {
				continue
			}
			p, err := ts.Inclusion(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			entry := Entry{Index: i, Bytes: raw, Proof: p}
			switch {
			case e.Fields == 0:
			case e.Kind == record.Response:
				entry.Fields = Fields(responseRecord(id), show)
			default:
				entry.Fields = Fields(requestRecord(id), show)
			}
			s.Entries = append(s.Entries, entry)
		}
		b.Sessions = append(b.Sessions, s)
	}
	return b
}

// A day is the log that most tests about bundles hand out: two sessions side by side, one refused, one open, one that
// waited for approval and was erased later.
type day struct {
	log                                *tlogtest.Log
	signed                             []byte // cosigned by both witnesses
	witnesses                          []*cosigner
	first, second, third, open, erased record.ID
}

func newDay(t testing.TB) *day {
	c := newChronicle(t)
	w := c.writer("gw-1")
	d := new(day)
	w.start()
	d.first = w.request()
	d.second = w.request()
	w.response(d.first, record.Complete)
	w.response(d.second, record.Truncated)
	d.third = w.refused()
	d.open = w.request()
	d.erased = w.request()
	w.approval(d.erased)
	w.response(d.erased, record.Denied)
	w.heartbeat()
	w.erasure(d.erased)
	d.log = c.publish()
	signed, err := d.log.Publish()
	if err != nil {
		t.Fatal(err)
	}
	d.witnesses = []*cosigner{newCosigner(t, "witness.example/a", c.now.Add(time.Second)), newCosigner(t, "witness.example/b", c.now.Add(2*time.Second))}
	d.signed = cosign(t, signed, d.witnesses...)
	return d
}

func all(string) bool { return true }

func (d *day) bundle(t testing.TB, ids ...record.ID) *Bundle {
	return export(t, d.log, d.signed, all, ids...)
}

func appendBundle(t testing.TB, b *Bundle) []byte {
	t.Helper()
	raw, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// falseClaims returns the claims that a report finds false, each once, in its order.
func falseClaims(r Report) []Claim {
	var cs []Claim
	for _, f := range r.Findings {
		if !f.OK && !slices.Contains(cs, f.Claim) {
			cs = append(cs, f.Claim)
		}
	}
	return cs
}

func show(t testing.TB, r Report) {
	t.Helper()
	for _, f := range r.Findings {
		t.Logf("%v %s %s: %s", f.OK, f.Claim, f.Subject, f.Detail)
	}
	for _, s := range r.NotProven {
		t.Logf("not proven: %s", s)
	}
}
