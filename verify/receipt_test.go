package verify

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A kept day is a log with one session that its caller keeps receipts of, and what the caller has.
type keptDay struct {
	log               *tlogtest.Log
	key               ed25519.PrivateKey // of the boot
	boot, id, refused record.ID
	early, late       []byte // checkpoints, cosigned: before the session, and after it
	witnesses         []*cosigner
	start, request    int // indices
	response          int
	chronicle         *chronicle
}

func newKeptDay(t testing.TB) *keptDay {
	d := new(keptDay)
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, "the key of a boot")
	d.key = ed25519.NewKeyFromSeed(seed)
	c := newChronicle(t)
	d.chronicle = c
	w := c.writer("gw-1")
	w.edit(func(e *record.Entry) { e.Promise = [32]byte(d.key.Public().(ed25519.PublicKey)) })
	w.start()
	d.boot = w.boot
	w.heartbeat()
	c.mark()
	d.witnesses = []*cosigner{newCosigner(t, "witness.example/a", c.now.Add(time.Second)), newCosigner(t, "witness.example/b", c.now.Add(2*time.Second))}
	d.request = len(c.entries)
	d.id = w.request()
	w.request()
	d.response = len(c.entries)
	w.response(d.id, record.Complete)
	d.refused = w.refused()
	d.log = c.publish()
	early, err := d.log.CheckpointAt(context.Background(), 2)
	if err != nil {
		t.Fatal(err)
	}
	d.early = cosign(t, early, d.witnesses...)
	late, err := d.log.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	d.late = cosign(t, late, d.witnesses...)
	return d
}

func (d *keptDay) entry(t testing.TB, i int, signed []byte) record.ReceiptEntry {
	t.Helper()
	e := record.ReceiptEntry{Index: uint64(i), Bytes: d.chronicle.entries[i]}
	if signed == nil {
		return e
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	if e.Index < c.Size {
		if e.Proof, err = (tlog.Tiles{Reader: d.log, Size: c.Size}).Inclusion(context.Background(), e.Index); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func fieldsOf(r record.Record) (fs []record.ReceiptField) {
	for i := range r {
		switch f := &r[i]; f.Name {
		case record.FieldBody:
			fs = append(fs, f.Kept())
		case record.FieldFinish:
			fs = append(fs, f.Withheld())
		default:
			fs = append(fs, f.Shown())
		}
	}
	return fs
}

// receipt is what the caller is given: a promise while the newest checkpoint does not cover the session, nil for none.
func (d *keptDay) receipt(t testing.TB, signed []byte) *record.Receipt {
	t.Helper()
	r := &record.Receipt{Session: d.id, Checkpoint: signed}
	q, a := d.entry(t, d.request, signed), d.entry(t, d.response, signed)
	q.Fields, a.Fields = fieldsOf(requestRecord(d.id)), fieldsOf(responseRecord(d.id))
	r.Entries = []record.ReceiptEntry{q, a}
	if a.Proof == nil {
		start := d.entry(t, d.start, signed)
		r.Start = &start
		d.promise(t, r, nil)
	}
	return r
}

// promise makes the receipt's promise, changed.
func (d *keptDay) promise(t testing.TB, r *record.Receipt, change func(*record.Promise)) {
	t.Helper()
	p := record.Promise{Origin: tlogtest.Origin, Boot: d.boot, Time: began.Add(3 * time.Second)}
	for _, e := range append([]record.ReceiptEntry{*r.Start}, r.Entries...) {
		p.Leaves = append(p.Leaves, record.Promised{Index: e.Index, Leaf: tlog.HashLeaf(e.Bytes)})
	}
	if change != nil {
		change(&p)
	}
	signed, err := p.Sign(d.key)
	if err != nil {
		t.Fatal(err)
	}
	r.Promise = &signed
}

func appendReceipt(t testing.TB, r *record.Receipt) []byte {
	t.Helper()
	raw, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func bodyOf(r record.Record) []byte {
	b, _ := r.Get(record.FieldBody)
	return b
}

// own is what the caller has.
func (d *keptDay) own() Beside {
	return Beside{Request: bodyOf(requestRecord(d.id)), Response: bodyOf(responseRecord(d.id))}
}

// The vectors are what the first version wrote.
func TestReceiptVectors(t *testing.T) {
	d := newKeptDay(t)
	vector(t, "kept.promise", appendReceipt(t, d.receipt(t, d.early)))
	vector(t, "kept.receipt", appendReceipt(t, d.receipt(t, d.late)))
	vector(t, "kept.policy", policy(t, "all", d.witnesses...).Policy.Text())
	vector(t, "kept.request", d.own().Request)
	vector(t, "kept.response", d.own().Response)
	const dir = "testdata/kept.log"
	if *write {
		if _, err := tiles.Copy(t.Context(), dir, older{d.log, d.late}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := tiles.FromDir(dir, tiles.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"kept.promise", "kept.receipt"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		beside := d.own()
		beside.Log = l
		if r, err := CheckReceipt(t.Context(), raw, beside, policy(t, "all", d.witnesses...)); err != nil || !r.OK() {
			t.Errorf("%s beside its log: %v", name, err)
			show(t, r)
		}
	}
}

func TestCheckReceiptHolds(t *testing.T) {
	d := newKeptDay(t)
	both := policy(t, "all", d.witnesses...)
	ofRefusal := &record.Receipt{Session: d.refused, Checkpoint: d.late, Entries: []record.ReceiptEntry{d.entry(t, d.response+1, d.late)}}
	ofRefusal.Entries[0].Fields = fieldsOf(requestRecord(d.refused))
	erased := d.receipt(t, d.late)
	erased.Entries[0].Fields, erased.Entries[1].Fields = nil, nil
	proven := d.receipt(t, d.early)
	for _, e := range []*record.ReceiptEntry{proven.Start, &proven.Entries[0], &proven.Entries[1]} {
		e.Proof = d.entry(t, int(e.Index), d.late).Proof
	}
	proven.Checkpoint = d.late
	inLog := d.own()
	inLog.Log = d.log
	kept := []Claim{RequestMatches, ResponseMatches}
	for name, c := range map[string]struct {
		receipt   *record.Receipt
		beside    Beside
		trust     Trust
		claims    []Claim // that are made
		unclaimed []Claim // and not
		notProven []string
		silent    []string
	}{
		"a promise, and nothing else": {
			d.receipt(t, nil), d.own(), both, append(kept, PromiseSigned, PromiseCovers, FieldsMatch, SessionChain, SessionComplete, TimesOrdered),
			[]Claim{CheckpointSigned, EntryInTree, PromiseKept, TimesBracketed},
			[]string{"entry 0, the start entry of the boot, is in the log", "the promise is kept: of 2 entries", "no witness vouches", "withheld", "not what the model was sent"},
			[]string{"hand over"},
		},
		"a promise whose boot is proven": {
			d.receipt(t, d.early), Beside{}, both, []Claim{PromiseSigned, PromiseCovers, CheckpointSigned, CheckpointCosigned, EntryInTree},
			[]Claim{PromiseKept, TimesBracketed, RequestMatches, ResponseMatches},
			[]string{"the promise is kept", "which bytes were the request", "which bytes were the response"}, []string{"start entry"},
		},
		"a proof": {
			d.receipt(t, d.late), d.own(), both, append(kept, CheckpointSigned, CheckpointCosigned, EntryInTree, FieldsMatch, TimesBracketed),
			[]Claim{PromiseSigned, PromiseCovers, PromiseKept}, []string{"1 of 4 fields of entry 4"}, []string{"promise", "which bytes"},
		},
		"a proof without witnesses": {
			d.receipt(t, d.late), d.own(), policy(t, ""), append(kept, CheckpointSigned, EntryInTree), nil,
			[]string{"no witness was required", "witness.example/a"}, nil,
		},
		"a promise and its proof": {
			proven, d.own(), both, append(kept, PromiseSigned, PromiseCovers, PromiseKept), nil, nil, []string{"start entry", "the promise is kept"},
		},
		"a promise that the log has kept": {
			d.receipt(t, d.early), inLog, policy(t, ""), append(kept, PromiseKept, CheckpointsHonoured), nil, nil, []string{"the promise is kept", "start entry"},
		},
		"a promise without a checkpoint that the log has kept": {
			d.receipt(t, nil), inLog, policy(t, ""), append(kept, PromiseKept), []Claim{CheckpointsHonoured}, nil, []string{"the promise is kept", "start entry"},
		},
		"a proof that the log bears out": {
			d.receipt(t, d.late), inLog, policy(t, ""), append(kept, CheckpointsHonoured), []Claim{PromiseKept}, nil, nil,
		},
		"of a refusal": {
			ofRefusal, Beside{Request: bodyOf(requestRecord(d.refused))}, both, []Claim{RequestMatches, SessionComplete}, []Claim{ResponseMatches},
			[]string{"which bytes were the response: the receipt has no entry with a response"}, nil,
		},
		"of an erased session": {
			erased, Beside{}, both, []Claim{EntryInTree, SessionComplete}, kept,
			[]string{"record of entry 2: the receipt does not have it; it was erased", "the body of entry 4: it was erased"}, nil,
		},
	} {
		r, err := CheckReceipt(t.Context(), appendReceipt(t, c.receipt), c.beside, c.trust)
		if err != nil || !r.OK() {
			t.Errorf("%s: %v", name, err)
			show(t, r)
			continue
		}
		made := make(map[Claim]bool)
		for _, f := range r.Findings {
			made[f.Claim] = true
		}
		for _, claim := range append(c.claims, ReceiptReadable, ReceiptCanonical, EntryCanonical) {
			if !made[claim] {
				t.Errorf("%s: %s is not claimed", name, claim)
			}
		}
		for _, claim := range c.unclaimed {
			if made[claim] {
				t.Errorf("%s: %s is claimed", name, claim)
			}
		}
		open := strings.Join(r.NotProven, "\n")
		for _, s := range c.notProven {
			if !strings.Contains(open, s) {
				t.Errorf("%s: it does not say that it does not prove %q:\n%s", name, s, open)
			}
		}
		for _, s := range c.silent {
			if strings.Contains(open, s) {
				t.Errorf("%s: it says that it does not prove %q:\n%s", name, s, open)
			}
		}
	}
}

// What is false is found by the claim that names it.
func TestCheckReceiptFalse(t *testing.T) {
	d := newKeptDay(t)
	both := policy(t, "all", d.witnesses...)
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	atOnce := func(change func(*record.Receipt)) func() *record.Receipt {
		return func() *record.Receipt { r := d.receipt(t, d.early); change(r); return r }
	}
	later := func(change func(*record.Receipt)) func() *record.Receipt {
		return func() *record.Receipt { r := d.receipt(t, d.late); change(r); return r }
	}
	promised := func(change func(*record.Promise)) func() *record.Receipt {
		return atOnce(func(r *record.Receipt) { d.promise(t, r, change) })
	}
	nothing := func(*record.Receipt) {}
	with := func(change func(*Beside)) Beside { b := d.own(); change(&b); return b }
	for name, c := range map[string]struct {
		receipt func() *record.Receipt
		beside  Beside
		trust   Trust
		want    []Claim
		detail  string
	}{
		"a byte of the request": {
			later(nothing), with(func(b *Beside) { b.Request = bytes.Replace(b.Request, []byte("hi"), []byte("ho"), 1) }), both, []Claim{RequestMatches}, "not the ones that were recorded",
		},
		"a byte more": {
			later(nothing), with(func(b *Beside) { b.Response = append(b.Response, '\n') }), both, []Claim{ResponseMatches}, "",
		},
		"nothing instead of the response": {
			atOnce(nothing), with(func(b *Beside) { b.Response = []byte{} }), both, []Claim{ResponseMatches}, "these 0 bytes",
		},
		"request and response exchanged": {
			atOnce(nothing), with(func(b *Beside) { b.Request, b.Response = b.Response, b.Request }), both, []Claim{RequestMatches, ResponseMatches}, "",
		},
		"bytes of a record that is not there": {
			later(func(r *record.Receipt) { r.Entries[0].Fields = nil }), d.own(), both, []Claim{RequestMatches}, "does not have the body of entry 2",
		},
		"bytes of a body that is withheld": {
			later(func(r *record.Receipt) {
				r.Entries[0].Fields[2] = record.ReceiptField{Leaf: r.Entries[0].Fields[2].Leaf}
			}), d.own(), both, []Claim{RequestMatches}, "",
		},
		"another salt": {
			later(func(r *record.Receipt) { r.Entries[0].Fields[2].Salt[3] ^= 1 }), d.own(), both, []Claim{RequestMatches}, "",
		},
		"another leaf": {
			later(func(r *record.Receipt) { r.Entries[0].Fields[2].Leaf[3] ^= 1 }), d.own(), both, []Claim{FieldsMatch, RequestMatches}, "",
		},
		"a body of one's own in another's record": {
			later(func(r *record.Receipt) {
				f := field(record.FieldBody, "mine")
				r.Entries[0].Fields[2] = f.Kept()
			}), with(func(b *Beside) { b.Request = []byte("mine") }), both, []Claim{FieldsMatch}, "",
		},
		"two bodies": {
			later(func(r *record.Receipt) { r.Entries[0].Fields[1] = r.Entries[0].Fields[2] }), d.own(), both, []Claim{FieldsMatch}, "two fields are named",
		},
		"another value": {
			later(func(r *record.Receipt) { r.Entries[0].Fields[1].Value = []byte("mallory@example.com") }), d.own(), both, []Claim{FieldsMatch}, "",
		},
		"a field less": {
			later(func(r *record.Receipt) { r.Entries[0].Fields = r.Entries[0].Fields[1:] }), d.own(), both, []Claim{FieldsMatch}, "2 fields and the entry states 3",
		},
		"another session": {
			later(func(r *record.Receipt) { r.Session = d.refused }), d.own(), both, []Claim{SessionChain}, "not of this session",
		},
		"the response left out": {
			later(func(r *record.Receipt) { r.Entries = r.Entries[:1] }), with(func(b *Beside) { b.Response = nil }), both, []Claim{SessionComplete}, "",
		},
		"the request left out": {
			later(func(r *record.Receipt) { r.Entries = r.Entries[1:] }), d.own(), both, []Claim{SessionChain, RequestMatches}, "",
		},
		"no proof and no promise": {
			later(func(r *record.Receipt) { r.Entries[1].Proof = nil }), d.own(), both, []Claim{EntryInTree}, "neither proven nor promised",
		},
		"a proof and no checkpoint": {
			later(func(r *record.Receipt) { r.Checkpoint = nil }), d.own(), both, []Claim{EntryInTree}, "no checkpoint",
		},
		"another index": {
			later(func(r *record.Receipt) { r.Entries[1].Index++ }), d.own(), both, []Claim{EntryInTree}, "",
		},
		"another proof": {
			later(func(r *record.Receipt) { r.Entries[1].Proof = r.Entries[0].Proof }), d.own(), both, []Claim{EntryInTree}, "",
		},
		"a checkpoint that nobody signed": {
			later(func(r *record.Receipt) {
				r.Checkpoint = bytes.Replace(r.Checkpoint, []byte("\n6\n"), []byte("\n7\n"), 1)
			}), d.own(), both, []Claim{CheckpointSigned, CheckpointCosigned, EntryInTree}, "",
		},
		"a checkpoint that one of two witnesses signed": {
			later(func(r *record.Receipt) { r.Checkpoint = cosign(t, r.Checkpoint, d.witnesses[0]) }), d.own(), both, []Claim{CheckpointCosigned}, "",
		},
		"a log that the policy does not name": {
			later(nothing), d.own(), Trust{}, []Claim{CheckpointSigned, CheckpointCosigned}, "",
		},
		"a promise for a log that the policy does not name": {
			func() *record.Receipt { return d.receipt(t, nil) }, d.own(), Trust{}, []Claim{PromiseSigned, EntryInTree}, "which the policy does not name",
		},
		"a promise for another log": {
			promised(func(p *record.Promise) { p.Origin = "log.example/other" }), d.own(), both, []Claim{PromiseSigned, EntryInTree}, "the checkpoint is of",
		},
		"a promise of another boot": {
			promised(func(p *record.Promise) { p.Boot = d.id }), d.own(), both, []Claim{PromiseSigned, EntryInTree}, "it is of the boot",
		},
		"a promise of another response": {
			promised(func(p *record.Promise) { p.Leaves[2].Leaf[0] ^= 1 }), d.own(), both, []Claim{PromiseCovers, EntryInTree}, "another entry 4 than the receipt has",
		},
		"a promise of another place": {
			promised(func(p *record.Promise) { p.Leaves[2].Index++ }), d.own(), both, []Claim{PromiseCovers, EntryInTree}, "another entry 5",
		},
		"a promise by another boot": {
			func() *record.Receipt {
				r := d.receipt(t, nil)
				e, err := record.ParseEntry(r.Start.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				e.Boot = record.ID{9}
				if r.Start.Bytes, err = e.Append(nil); err != nil {
					t.Fatal(err)
				}
				d.promise(t, r, func(p *record.Promise) { p.Boot = e.Boot })
				return r
			}, d.own(), both, []Claim{PromiseCovers}, "it promises entry 2, which is of another boot",
		},
		"a promise of less": {
			promised(func(p *record.Promise) { p.Leaves = p.Leaves[:2] }), d.own(), both, []Claim{EntryInTree}, "neither proven nor promised",
		},
		"a signature by another key": {
			atOnce(func(r *record.Receipt) {
				d := *d
				d.key = other
				d.promise(t, r, nil)
			}), d.own(), both, []Claim{PromiseSigned, EntryInTree}, "not signed by that key",
		},
		"a start entry that was never in the log": {
			atOnce(func(r *record.Receipt) {
				d := *d
				d.key = other
				e, err := record.ParseEntry(r.Start.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				e.Promise = [32]byte(other.Public().(ed25519.PublicKey))
				if r.Start.Bytes, err = e.Append(nil); err != nil {
					t.Fatal(err)
				}
				d.promise(t, r, nil)
			}), d.own(), both, []Claim{EntryInTree}, "entry 0 is not proven",
		},
		"a start entry that states no key": {
			atOnce(func(r *record.Receipt) {
				e, err := record.ParseEntry(r.Start.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				e.Promise = [32]byte{}
				if r.Start.Bytes, err = e.Append(nil); err != nil {
					t.Fatal(err)
				}
				r.Start.Proof = nil
			}), d.own(), both, []Claim{PromiseSigned, EntryInTree}, "states no key",
		},
		"a start entry that is another": {
			atOnce(func(r *record.Receipt) { *r.Start = r.Entries[0]; r.Start.Fields = nil }), d.own(), both, []Claim{PromiseSigned, EntryInTree}, "is a request entry",
		},
		"a start entry that is none": {
			atOnce(func(r *record.Receipt) { r.Start.Bytes = []byte("{}") }), d.own(), both, []Claim{EntryCanonical, EntryInTree, PromiseSigned}, "no entry",
		},
		"an entry that is none": {
			later(func(r *record.Receipt) { r.Entries[1].Bytes = []byte(`{"v":1}`) }), d.own(), both, []Claim{EntryCanonical, EntryInTree, FieldsMatch, SessionChain, ResponseMatches}, "",
		},
	} {
		r, err := CheckReceipt(t.Context(), appendReceipt(t, c.receipt()), c.beside, c.trust)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := falseClaims(r); !slices.Equal(got, c.want) {
			t.Errorf("%s: false are %v, want %v", name, got, c.want)
			show(t, r)
		}
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.OK && strings.Contains(f.Detail, c.detail) }) {
			t.Errorf("%s: no finding says %q", name, c.detail)
			show(t, r)
		}
	}
}

// fork makes the log of another history: the entry at an index is another, and so is what follows.
func (d *keptDay) fork(t testing.TB, at int) *keptDay {
	t.Helper()
	f := *d
	c := *d.chronicle
	c.entries = slices.Clone(c.entries)
	e, err := record.ParseEntry(c.entries[at])
	if err != nil {
		t.Fatal(err)
	}
	e.Time = e.Time.Add(time.Microsecond)
	if c.entries[at], err = e.Append(nil); err != nil {
		t.Fatal(err)
	}
	f.chronicle = &c
	f.log = c.publish()
	signed, err := f.log.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	f.late = cosign(t, signed, d.witnesses...)
	return &f
}

// A log that shows another history than was promised is caught with the promise in its hand: by what it proves in a
// receipt, and by what it serves.
func TestPromiseAndProofAreEvidence(t *testing.T) {
	d := newKeptDay(t)
	f := d.fork(t, d.response)
	both := policy(t, "all", d.witnesses...)
	promised := d.receipt(t, d.early)
	r := f.receipt(t, f.late)
	start := f.entry(t, d.start, f.late)
	r.Promise, r.Start = promised.Promise, &start
	got, err := CheckReceipt(t.Context(), appendReceipt(t, r), d.own(), both)
	if err != nil || !slices.Equal(falseClaims(got), []Claim{PromiseKept}) {
		t.Errorf("%v, %v", falseClaims(got), err)
		show(t, got)
	}
	told := func(r Report, claim Claim, words string) {
		t.Helper()
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.OK && f.Claim == claim && strings.Contains(f.Detail, words) }) {
			t.Errorf("it does not say what this is evidence of:")
			show(t, r)
		}
	}
	told(got, PromiseKept, "in the tree of 6 entries that the log signed")
	told(got, PromiseKept, "promise and proof together are evidence against the log or its writer; keep both")

	// The same without a signature proves nothing of the kind.
	r.Checkpoint = bytes.Replace(r.Checkpoint, []byte("\n6\n"), []byte("\n7\n"), 1)
	got, err = CheckReceipt(t.Context(), appendReceipt(t, r), d.own(), both)
	if err != nil || slices.Contains(falseClaims(got), PromiseKept) || !slices.Contains(falseClaims(got), PromiseCovers) {
		t.Errorf("%v, %v", falseClaims(got), err)
	}

	// Nor is a promise by a key that anybody may have made: it accuses nobody.
	made := d.receipt(t, nil)
	e, err := record.ParseEntry(made.Start.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	forger := *d
	forger.key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	e.Promise = [32]byte(forger.key.Public().(ed25519.PublicKey))
	if made.Start.Bytes, err = e.Append(nil); err != nil {
		t.Fatal(err)
	}
	made.Entries[1].Index++ // where another stands
	forger.promise(t, made, nil)
	looking := d.own()
	looking.Log = d.log
	got, err = CheckReceipt(t.Context(), appendReceipt(t, made), looking, policy(t, ""))
	if err != nil || !slices.Equal(falseClaims(got), []Claim{PromiseKept}) {
		t.Errorf("%v, %v", falseClaims(got), err)
	}
	told(got, PromiseKept, "it is not proven that the start entry with the promise's key was ever in the log")
	for _, finding := range got.Findings {
		if strings.Contains(finding.Detail, "evidence") {
			t.Errorf("anybody can accuse the log: %+v", finding)
		}
	}

	for name, c := range map[string]struct {
		receipt *record.Receipt
		log     tlog.Reader
		want    []Claim
		forks   int
	}{
		"a promise, and the log":                      {d.receipt(t, nil), f.log, []Claim{PromiseKept}, 0},
		"a promise over the common past, and the log": {promised, f.log, []Claim{PromiseKept}, 0},
		"a proof, and the log":                        {d.receipt(t, d.late), f.log, []Claim{CheckpointsHonoured, EntryInTree}, 1},
		"the log's own":                               {f.receipt(t, f.late), f.log, nil, 0},
		"a promise before a change of the past":       {promised, d.fork(t, 1).log, []Claim{CheckpointsHonoured}, 1},
		"a log that was cut back":                     {d.receipt(t, d.late), older{d.log, d.early}, []Claim{CheckpointsHonoured}, 1},
		"a log that has not got so far":               {promised, older{d.log, d.early}, nil, 0},
	} {
		looking.Log = c.log
		got, err := CheckReceipt(t.Context(), appendReceipt(t, c.receipt), looking, policy(t, ""))
		if err != nil || !slices.Equal(falseClaims(got), c.want) || len(got.Forks) != c.forks {
			t.Errorf("%s: %v, %v, %d forks", name, falseClaims(got), err, len(got.Forks))
			show(t, got)
		}
		for _, claim := range c.want {
			if claim != EntryInTree {
				told(got, claim, "evidence against the log")
			}
		}
		if name == "a log that has not got so far" && !strings.Contains(strings.Join(got.NotProven, "\n"), "entry 4 is in the log: the log shows 2 entries") {
			show(t, got)
			t.Error("it does not say how far the log has got")
		}
	}
}

// An older log is one that shows an earlier checkpoint.
type older struct {
	tlog.Reader
	signed []byte
}

func (o older) Checkpoint(context.Context) ([]byte, error) { return o.signed, nil }

// A log that cannot be read, or serves what it did not sign, is neither true nor false.
func TestReceiptWithABrokenLog(t *testing.T) {
	d := newKeptDay(t)
	f := d.fork(t, d.response)
	beside := d.own()
	broken := errors.New("the wire is cut")
	for name, l := range map[string]tlog.Reader{
		"no checkpoint":        readerFunc{func() ([]byte, error) { return nil, broken }, d.log.Tile},
		"no tiles":             readerFunc{func() ([]byte, error) { return d.late, nil }, func(context.Context, tlog.Tile) ([]byte, error) { return nil, broken }},
		"the tiles of another": readerFunc{func() ([]byte, error) { return d.late, nil }, f.log.Tile},
	} {
		for _, r := range []*record.Receipt{d.receipt(t, nil), d.receipt(t, d.early), d.receipt(t, d.late)} {
			beside.Log = l
			got, err := CheckReceipt(t.Context(), appendReceipt(t, r), beside, policy(t, ""))
			var unreadable *Unreadable
			if !errors.As(err, &unreadable) || !slices.Equal(falseClaims(got), []Claim{LogReadable}) {
				t.Errorf("%s: %v, %v", name, falseClaims(got), err)
				show(t, got)
			}
		}
	}
	foreign := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/other"})
	signed, err := foreign.Publish()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*record.Receipt{d.receipt(t, nil), d.receipt(t, d.late)} {
		beside.Log = older{d.log, signed}
		got, err := CheckReceipt(t.Context(), appendReceipt(t, r), beside, policy(t, ""))
		if err != nil || !slices.Equal(falseClaims(got), []Claim{CheckpointSigned, CheckpointCosigned}) {
			t.Errorf("another log: %v, %v", falseClaims(got), err)
			show(t, got)
		}
	}
}

type readerFunc struct {
	checkpoint func() ([]byte, error)
	tile       func(context.Context, tlog.Tile) ([]byte, error)
}

func (r readerFunc) Checkpoint(context.Context) ([]byte, error) { return r.checkpoint() }
func (r readerFunc) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	return r.tile(ctx, t)
}

// Whatever bit of a receipt is flipped, a claim is false or nothing can be read: of what is promised, and of what is
// proven. Without the bytes that it is about it is so for every bit but those of their two salts.
func TestEveryBitOfAReceipt(t *testing.T) {
	d := newKeptDay(t)
	both := policy(t, "all", d.witnesses...)
	for _, name := range []string{"kept.promise", "kept.receipt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			for _, beside := range []Beside{d.own(), {}} {
				if r, err := CheckReceipt(t.Context(), good, beside, both); err != nil || !r.OK() {
					t.Fatalf("as it is: %v", err)
				}
			}
			found := make(map[Claim]int)
			salts := 0
			for i := range 8 * len(good) {
				bad := bytes.Clone(good)
				bad[i/8] ^= 1 << (i % 8)
				r, err := CheckReceipt(t.Context(), bad, Beside{}, both)
				if err == nil && r.OK() {
					// Who has the bytes sees it.
					if r, err = CheckReceipt(t.Context(), bad, d.own(), both); err == nil && r.OK() {
						t.Fatalf("bit %d of byte %d flipped, %q: everything holds", i%8, i/8, bad[max(0, i/8-30):min(len(bad), i/8+30)])
					}
					if !onlySalts(t, bad, good) {
						t.Errorf("bit %d of byte %d flipped, %q: who has not the bytes does not see it", i%8, i/8, bad[max(0, i/8-30):min(len(bad), i/8+30)])
					}
					salts++
				}
				falses := falseClaims(r)
				if len(falses) == 0 {
					t.Fatalf("bit %d: %v and no claim", i, err)
				}
				found[falses[0]]++
			}
			t.Logf("%d bits: %v; %d were of a body's salt", 8*len(good), found, salts)
		})
	}
}

// onlySalts says whether two receipts differ in salts of bodies alone.
func onlySalts(t *testing.T, a, b []byte) bool {
	t.Helper()
	plain := func(raw []byte) string {
		r, err := record.ParseReceipt(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Entries {
			for i := range e.Fields {
				if e.Fields[i].Name == record.FieldBody {
					e.Fields[i].Salt = [record.SaltBytes]byte{}
				}
			}
		}
		return string(appendReceipt(t, r))
	}
	return plain(a) == plain(b)
}

// Every bit of what the caller has counts.
func TestEveryBitOfTheCallers(t *testing.T) {
	d := newKeptDay(t)
	raw := appendReceipt(t, d.receipt(t, d.late))
	for _, c := range []struct {
		claim Claim
		of    func(*Beside) *[]byte
	}{{RequestMatches, func(b *Beside) *[]byte { return &b.Request }}, {ResponseMatches, func(b *Beside) *[]byte { return &b.Response }}} {
		own := d.own()
		for i := range 8 * len(*c.of(&own)) {
			own := d.own()
			p := c.of(&own)
			*p = bytes.Clone(*p)
			(*p)[i/8] ^= 1 << (i % 8)
			r, err := CheckReceipt(t.Context(), raw, own, policy(t, ""))
			if err != nil || !slices.Equal(falseClaims(r), []Claim{c.claim}) {
				t.Fatalf("bit %d: %v, %v", i, falseClaims(r), err)
			}
		}
	}
}

func TestReceiptThatCannotBeRead(t *testing.T) {
	d := newKeptDay(t)
	good := string(appendReceipt(t, d.receipt(t, d.late)))
	for name, raw := range map[string]string{
		"nothing": "", "not JSON": "receipt", "a bundle": `{"format":"tallystick-bundle/v1"}`, "another version": strings.Replace(good, "receipt/v1", "receipt/v2", 1),
		"cut off": good[:len(good)/2], "not UTF-8": strings.Replace(good, "witness.example/a", "witness.example/\xff", 1), "too long": good + strings.Repeat(" ", record.MaxReceipt),
	} {
		r, err := CheckReceipt(t.Context(), []byte(raw), Beside{}, policy(t, ""))
		var unreadable *Unreadable
		if !errors.As(err, &unreadable) || !slices.Equal(falseClaims(r), []Claim{ReceiptReadable}) {
			t.Errorf("%s: %v, %v", name, falseClaims(r), err)
		}
	}
	for name, raw := range map[string]string{
		"spaces": strings.ReplaceAll(good, `,"`, `, "`), "no line break": strings.TrimSuffix(good, "\n"), "a member more": strings.Replace(good, `"session"`, `"x":1,"session"`, 1),
	} {
		r, err := CheckReceipt(t.Context(), []byte(raw), Beside{}, policy(t, ""))
		if err != nil || !slices.Equal(falseClaims(r), []Claim{ReceiptCanonical}) || len(r.Findings) != 2 {
			t.Errorf("%s: %v, %v", name, falseClaims(r), err)
		}
	}
}

func FuzzCheckReceipt(f *testing.F) {
	d := newKeptDay(f)
	for _, signed := range [][]byte{nil, d.early, d.late} {
		f.Add(appendReceipt(f, d.receipt(f, signed)))
	}
	trust := policy(f, "all", d.witnesses...)
	beside := d.own()
	beside.Log = d.log
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := CheckReceipt(t.Context(), raw, beside, trust)
		if len(r.Findings) == 0 || err != nil && r.OK() {
			t.Fatalf("%v with %v", err, r.Findings)
		}
		if err != nil || !r.OK() {
			return
		}
		// What holds is one of the three: nobody else has the keys.
		rc, err := record.ParseReceipt(raw)
		if err != nil || rc.Session != d.id || fmt.Sprint(rc.Entries[0].Index, rc.Entries[1].Index) != fmt.Sprint(d.request, d.response) {
			t.Fatalf("%v: %+v", err, rc)
		}
	})
}
