package verify

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func TestCheckHolds(t *testing.T) {
	d := newDay(t)
	for name, c := range map[string]struct {
		bundle    *Bundle
		trust     Trust
		notProven []string // what must be among it
		silent    []string // and what must not
	}{
		"everything shown": {
			d.bundle(t, d.first, d.second, d.third), policy(t, "all", d.witnesses...),
			[]string{"what was written down is what happened", "the model behaved", "no other sessions"},
			[]string{"witness", "withheld", "does not have it", "policy"},
		},
		"one of two witnesses": {
			d.bundle(t, d.first), policy(t, "any", d.witnesses[0], newCosigner(t, "witness.example/other", began)),
			[]string{"a signature by witness.example/b"}, nil,
		},
		"no witness required": {
			d.bundle(t, d.first), policy(t, ""),
			[]string{"no witness was required", "writers' own clocks", "witness.example/a", "witness.example/b"}, nil,
		},
		"all withheld": {
			export(t, d.log, d.signed, func(string) bool { return false }, d.first), policy(t, "all", d.witnesses...),
			[]string{"3 of 3 fields of entry 1", "4 of 4 fields of entry 3"}, nil,
		},
		"one withheld": {
			export(t, d.log, d.signed, func(n string) bool { return n != record.FieldBody }, d.first), policy(t, "all", d.witnesses...),
			[]string{"1 of 3 fields of entry 1"}, nil,
		},
		"record not there": {
			edited(d.bundle(t, d.first), func(b *Bundle) { b.Sessions[0].Entries[0].Fields = nil }), policy(t, "all", d.witnesses...),
			[]string{"record of entry 1: the bundle does not have it"}, nil,
		},
		"approved, denied, erased": {
			d.bundle(t, d.erased), policy(t, "all", d.witnesses...),
			[]string{"entry 11 announces", "gdpr_17"}, nil,
		},
		"sessions in another order": {
			d.bundle(t, d.second, d.first), policy(t, "all", d.witnesses...), nil, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Check(appendBundle(t, c.bundle), c.trust)
			if err != nil || !r.OK() {
				show(t, r)
				t.Fatalf("false: %v, %v", falseClaims(r), err)
			}
			all := strings.Join(r.NotProven, "\n")
			for _, s := range c.notProven {
				if !strings.Contains(all, s) {
					t.Errorf("it does not say that %q is not proven:\n%s", s, all)
				}
			}
			for _, s := range c.silent {
				if strings.Contains(all, s) {
					t.Errorf("it says that %q is not proven:\n%s", s, all)
				}
			}
		})
	}
}

func edited(b *Bundle, f func(*Bundle)) *Bundle {
	f(b)
	return b
}

// Each thing that may be wrong in a bundle makes its own claim false, whatever else it breaks.
func TestCheckFalse(t *testing.T) {
	d := newDay(t)
	trust := policy(t, "all", d.witnesses...)
	otherLog := tlogtest.Start(t, tlogtest.Config{Origin: "log.example/other", Manual: true})
	otherSigned, err := otherLog.Publish()
	if err != nil {
		t.Fatal(err)
	}
	// A longer chronicle with the same beginning.
	later := newChronicle(t)
	w := later.writer("gw-1")
	for _, e := range newDayEntries(t, d) {
		later.entries = append(later.entries, e)
	}
	w.start()
	longer := later.publish()
	longerSigned, err := longer.Publish()
	if err != nil {
		t.Fatal(err)
	}
	early := []*cosigner{newCosigner(t, "witness.example/a", began.Add(-time.Hour)), newCosigner(t, "witness.example/b", began.Add(-time.Hour))}
	lone := cosign(t, d.signed, d.witnesses[0])
	bad := *d.witnesses[1]
	bad.at = bad.at.Add(time.Second)
	tampered := bytes.Replace(d.signed, sigLine(t, d.signed, 2), forged(t, d, &bad), 1)

	first := func(b *Bundle) []Entry { return b.Sessions[0].Entries }
	for _, c := range []struct {
		name  string
		trust Trust
		claim Claim
		edit  func(b *Bundle)
	}{
		{"no policy", Trust{}, CheckpointSigned, nil},
		{"a policy that knows nobody", Trust{Policy: new(tlog.Policy)}, CheckpointSigned, nil},
		{"a checkpoint of another log", trust, CheckpointSigned, func(b *Bundle) { b.Origin, b.Checkpoint = otherLog.Origin(), otherSigned }},
		{"a checkpoint of another log, the origin left", trust, CheckpointSigned, func(b *Bundle) { b.Checkpoint = otherSigned }},
		{"the origin of another log", trust, CheckpointSigned, func(b *Bundle) { b.Origin = otherLog.Origin() }},
		{"another log in its own name", trust, CheckpointSigned, func(b *Bundle) {
			b.Checkpoint = signedBy(t, tlog.Checkpoint{Origin: tlogtest.Origin, Size: 1, Root: tlog.Hash{1}}, impostor("another"))
		}},
		{"a checkpoint that is none", trust, CheckpointSigned, func(b *Bundle) { b.Checkpoint = []byte("hello\n") }},
		{"a later checkpoint of the log", policy(t, ""), EntryInTree, func(b *Bundle) { b.Checkpoint = longerSigned }},
		{"one witness is missing", trust, CheckpointCosigned, func(b *Bundle) { b.Checkpoint = lone }},
		{"one witness signed something else", trust, CheckpointCosigned, func(b *Bundle) { b.Checkpoint = tampered }},
		{"witnesses of the policy have not signed", policy(t, "all", newCosigner(t, "witness.example/c", began)), CheckpointCosigned, nil},
		{"witnesses saw it before it was", trust, TimesBracketed, func(b *Bundle) { b.Checkpoint = cosign(t, d.signed, early...) }},

		{"an entry changed", trust, EntryInTree, func(b *Bundle) {
			first(b)[1].Bytes = bytes.Replace(first(b)[1].Bytes, []byte(`"complete"`), []byte(`"truncated"`), 1)
		}},
		{"an entry that is no entry", trust, EntryCanonical, func(b *Bundle) { first(b)[1].Bytes = []byte(`{"v":1}`) }},
		{"an entry in another spelling", trust, EntryCanonical, func(b *Bundle) {
			first(b)[1].Bytes = bytes.Replace(first(b)[1].Bytes, []byte(`,`), []byte(`, `), 1)
		}},
		{"another index", trust, EntryInTree, func(b *Bundle) { first(b)[0].Index++ }},
		{"an index beyond the log", trust, EntryInTree, func(b *Bundle) { first(b)[0].Index = 1 << 40 }},
		{"entries swapped", trust, SessionChain, func(b *Bundle) { e := first(b); e[0], e[1] = e[1], e[0] }},
		{"proofs swapped", trust, EntryInTree, func(b *Bundle) { e := first(b); e[0].Proof, e[1].Proof = e[1].Proof, e[0].Proof }},
		{"a proof cut short", trust, EntryInTree, func(b *Bundle) { first(b)[0].Proof = first(b)[0].Proof[1:] }},
		{"a proof too long", trust, EntryInTree, func(b *Bundle) { first(b)[0].Proof = append(first(b)[0].Proof, tlog.Hash{}) }},

		{"a value changed", trust, FieldsMatch, func(b *Bundle) { show := first(b)[0].Fields[1].Shown; change(show, "mallory") }},
		{"a value changed to bytes", trust, FieldsMatch, func(b *Bundle) { show := first(b)[0].Fields[1].Shown; change(show, "\x00") }},
		{"a salt changed", trust, FieldsMatch, func(b *Bundle) {
			f := *first(b)[0].Fields[1].Shown
			f.Salt[0]++
			first(b)[0].Fields[1].Shown = &f
		}},
		{"a name changed", trust, FieldsMatch, func(b *Bundle) {
			f := *first(b)[0].Fields[1].Shown
			f.Name = "victim"
			first(b)[0].Fields[1].Shown = &f
		}},
		{"a field left out", trust, FieldsMatch, func(b *Bundle) { first(b)[0].Fields = first(b)[0].Fields[:2] }},
		{"a field added", trust, FieldsMatch, func(b *Bundle) { first(b)[0].Fields = append(first(b)[0].Fields, first(b)[0].Fields[0]) }},
		{"fields in another order", trust, FieldsMatch, func(b *Bundle) { f := first(b)[0].Fields; f[0], f[1] = f[1], f[0] }},
		{"a field twice", trust, FieldsMatch, func(b *Bundle) { f := first(b)[0].Fields; f[1] = f[0] }},
		{"the record of another entry", trust, FieldsMatch, func(b *Bundle) { first(b)[0].Fields = b.Sessions[1].Entries[0].Fields }},
		{"two withheld hashes for four", trust, FieldsMatch, func(b *Bundle) {
			// The root is the same: only the number of fields tells a node from a leaf.
			h := responseRecord(d.first).Hashes()
			first(b)[1].Fields = []Field{{Withheld: tlog.HashChildren(h[0], h[1])}, {Withheld: tlog.HashChildren(h[2], h[3])}}
		}},
		{"a withheld hash changed", trust, FieldsMatch, func(b *Bundle) { first(b)[0].Fields[0] = Field{Withheld: tlog.Hash{1}} }},
		{"a record for an entry without one", trust, FieldsMatch, func(b *Bundle) {
			e := b.Sessions[2].Entries
			e[3].Fields = e[0].Fields
		}},

		{"no response", trust, SessionComplete, func(b *Bundle) { b.Sessions[0].Entries = first(b)[:1] }},
		{"no request", trust, SessionChain, func(b *Bundle) { b.Sessions[0].Entries = first(b)[1:] }},
		{"an approval left out", trust, SessionChain, func(b *Bundle) {
			b.Sessions[2].Entries = slices.Delete(b.Sessions[2].Entries, 1, 2)
		}},
		{"an entry of another session", trust, SessionChain, func(b *Bundle) { first(b)[1] = b.Sessions[1].Entries[1] }},
		{"another session's entries", trust, SessionChain, func(b *Bundle) { b.Sessions[0].ID = d.second }},
		{"a session by another name", trust, SessionChain, func(b *Bundle) { b.Sessions[0].ID = record.ID{9} }},
		{"an entry twice", trust, SessionChain, func(b *Bundle) { b.Sessions[0].Entries = append(first(b), first(b)[1]) }},
		{"a session twice", trust, SessionChain, func(b *Bundle) { b.Sessions = append(b.Sessions, b.Sessions[0]) }},
		{"an erasure first", trust, SessionChain, func(b *Bundle) { b.Sessions[2].Entries = b.Sessions[2].Entries[3:] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := d.bundle(t, d.first, d.second, d.erased)
			if c.edit != nil {
				c.edit(b)
			}
			r, err := Check(appendBundle(t, b), c.trust)
			if err != nil {
				t.Fatal(err)
			}
			if !has(r, c.claim) {
				show(t, r)
				t.Errorf("false: %v, and not %s", falseClaims(r), c.claim)
			}
			for _, f := range falseClaims(r) {
				if strings.HasPrefix(string(f), "bundle-") {
					t.Errorf("%s is false of a bundle that is well made", f)
				}
			}
		})
	}
}

// What a gateway wrote may be in the log, and proven, and still be false.
func TestCheckGatewayLies(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim Claim
		story func(w *writer) record.ID
	}{
		{"the response is of another session's request", SessionChain, func(w *writer) record.ID {
			a, b := w.request(), w.request()
			w.edit(func(e *record.Entry) { e.Prev = w.leaf[a] }).response(b, record.Complete)
			return b
		}},
		{"the response refers to nothing", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.edit(func(e *record.Entry) { e.Prev = tlog.Hash{} }).response(a, record.Complete)
			return a
		}},
		{"two responses", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.response(a, record.Complete)
			w.response(a, record.Truncated)
			return a
		}},
		{"an approval after the end", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.response(a, record.Complete)
			w.approval(a)
			return a
		}},
		{"two requests", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.put(about(record.Request, a, requestRecord(a)))
			w.response(a, record.Complete)
			return a
		}},
		{"the response is by somebody else", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.edit(func(e *record.Entry) { e.By = "gw-2" }).response(a, record.Complete)
			return a
		}},
		{"the number does not rise", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.edit(func(e *record.Entry) { e.Seq = 1 }).response(a, record.Complete)
			return a
		}},
		{"an erasure of something else", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.response(a, record.Complete)
			w.edit(func(e *record.Entry) { e.Prev = tlog.Hash{7} }).erasure(a)
			return a
		}},
		{"an erasure before the end", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.erasure(a)
			w.response(a, record.Complete)
			return a
		}},
		{"an erasure that passes over another", SessionChain, func(w *writer) record.ID {
			a := w.request()
			w.response(a, record.Complete)
			leaf := w.leaf[a]
			w.erasure(a)
			w.edit(func(e *record.Entry) { e.Prev = leaf }).erasure(a)
			return a
		}},
		{"the response came before the request", TimesOrdered, func(w *writer) record.ID {
			a := w.request()
			w.edit(func(e *record.Entry) { e.Time = began }).response(a, record.Complete)
			return a
		}},
		{"a response from the future", TimesBracketed, func(w *writer) record.ID {
			a := w.request()
			w.edit(func(e *record.Entry) { e.Time = began.Add(24 * time.Hour) }).response(a, record.Complete)
			return a
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := newChronicle(t)
			w := ch.writer("gw-1")
			w.start()
			id := c.story(w)
			l := ch.publish()
			signed, err := l.Publish()
			if err != nil {
				t.Fatal(err)
			}
			by := newCosigner(t, "witness.example/a", ch.now)
			b := export(t, l, cosign(t, signed, by), all, id)
			r, err := Check(appendBundle(t, b), policy(t, "all", by))
			if err != nil {
				t.Fatal(err)
			}
			if got := falseClaims(r); !slices.Equal(got, []Claim{c.claim}) {
				show(t, r)
				t.Errorf("false: %v, not %s alone", got, c.claim)
			}
		})
	}
}

// Who read a session stands in its bundle where it stands in the log, and refers to nothing.
func TestCheckAccess(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	id := w.request()
	w.put(about(record.Access, id, requestRecord(id)))
	w.leaf[id] = tlog.HashLeaf(c.entries[1])
	w.response(id, record.Complete)
	w.erasure(id)
	w.erasure(id)
	w.edit(func(e *record.Entry) { e.Prev = tlog.Hash{} }).erasure(id)
	l := c.publish()
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	b := export(t, l, signed, all, id)
	if r, err := Check(appendBundle(t, b), policy(t, "")); err != nil || !r.OK() || len(b.Sessions[0].Entries) != 6 {
		show(t, r)
		t.Errorf("false: %v, %v", falseClaims(r), err)
	}
	e := b.Sessions[0].Entries
	e[1], e[2] = e[2], e[1]
	if r, err := Check(appendBundle(t, b), policy(t, "")); err != nil || !has(r, SessionChain) {
		t.Errorf("in another order: false: %v, %v", falseClaims(r), err)
	}
}

// A file that is false from end to end is not answered at a greater length than its own.
func TestCheckStops(t *testing.T) {
	b := &Bundle{Origin: "o", Checkpoint: []byte("c\n"), Sessions: []Session{{ID: record.ID{1}}, {ID: record.ID{2}}}}
	for range 100_000 {
		b.Sessions[0].Entries = append(b.Sessions[0].Entries, Entry{Bytes: []byte("{}")})
	}
	b.Sessions[1].Entries = b.Sessions[0].Entries[:1]
	r, err := Check(appendBundle(t, b), Trust{})
	if err != nil || len(r.Findings) > 1100 || r.OK() {
		t.Errorf("%d findings, %v", len(r.Findings), err)
	}
	wantNotProven(t, r, "the rest was not judged")
}

// What has not ended cannot have been erased.
func TestCheckErasedWhileOpen(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	id := w.request()
	w.erasure(id)
	l := c.publish()
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Check(appendBundle(t, export(t, l, signed, all, id)), policy(t, ""))
	if want := []Claim{SessionChain, SessionComplete}; err != nil || !slices.Equal(falseClaims(r), want) {
		t.Errorf("false: %v, want %v; %v", falseClaims(r), want, err)
	}
}

func TestNoFindingsAreNoVerdict(t *testing.T) {
	if (&Report{}).OK() {
		t.Error("a report without findings says that all is well")
	}
}

// Both names stand in the tree as they are: the root is right, and the record is none.
func TestFieldsHaveOneName(t *testing.T) {
	r := requestRecord(record.ID{1})
	r = append(r, r[1])
	e := record.Entry{Fields: len(r), Root: r.Root()}
	if _, err := matchFields(&e, Fields(r, all)); err == nil {
		t.Error("a record that names one thing twice matches")
	}
}

// Every single bit of a bundle's file, flipped: it is never believed, always for a claim that has a name. Then the same
// with the first line made to fit, as somebody would who knows the format: the claims below must see it by themselves.
func TestEveryBitFlipped(t *testing.T) {
	d := newDay(t)
	trust := policy(t, "all", d.witnesses...)
	b := export(t, d.log, d.signed, func(n string) bool { return n != record.FieldCaller }, d.first)
	raw := appendBundle(t, b)
	if r, err := Check(raw, trust); err != nil || !r.OK() {
		show(t, r)
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		from   int
		reseal bool
	}{{"as it is", 0, false}, {"resealed", bundleHead, true}} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			first := make(map[Claim]int)
			unreadable := 0
			var wg sync.WaitGroup
			const parts = 4
			for part := range parts {
				wg.Go(func() {
					mine := bytes.Clone(raw)
					for bit := c.from*8 + part; bit < len(raw)*8; bit += parts {
						mine[bit/8] ^= 1 << (bit % 8)
						if c.reseal {
							seal(mine)
						}
						r, err := Check(mine, trust)
						mine[bit/8] ^= 1 << (bit % 8)
						if r.OK() || len(falseClaims(r)) == 0 {
							t.Errorf("bit %d of byte %d: it is believed, or nothing is named: %v", bit%8, bit/8, err)
							continue
						}
						if c.reseal && has(r, BundleIntact) {
							t.Errorf("bit %d of byte %d: resealed and not intact", bit%8, bit/8)
						}
						if err != nil && !has(r, BundleReadable) {
							t.Errorf("bit %d of byte %d: unreadable, and false is %v", bit%8, bit/8, falseClaims(r))
						}
						mu.Lock()
						first[falseClaims(r)[0]]++
						if err != nil {
							unreadable++
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			n := 0
			for _, k := range slices.Sorted(maps.Keys(first)) {
				t.Logf("%6d flips, first false: %s", first[k], k)
				n += first[k]
			}
			t.Logf("%6d flips in %d bytes, %d of them unreadable", n, len(raw)-c.from, unreadable)
			if n != (len(raw)-c.from)*8 {
				t.Errorf("%d of %d flips were seen", n, (len(raw)-c.from)*8)
			}
		})
	}
}

// A bundle cut off at any byte is unreadable, and says so.
func TestEveryTruncation(t *testing.T) {
	d := newDay(t)
	raw := appendBundle(t, d.bundle(t, d.first))
	for n := range raw {
		for _, reseals := range []bool{false, true} {
			cut := bytes.Clone(raw[:n])
			if reseals {
				if n < bundleHead {
					continue
				}
				seal(cut)
			}
			r, err := Check(cut, policy(t, ""))
			if r.OK() {
				t.Fatalf("believed when cut off after %d of %d bytes", n, len(raw))
			}
			// The last line break is all that a body can lack and still be JSON.
			if want := n != len(raw)-1; (err != nil) != want {
				t.Fatalf("cut off after %d of %d bytes: %v, false: %v", n, len(raw), err, falseClaims(r))
			}
		}
	}
}

func change(f *record.Field, value string) { f.Value = []byte(value) }

func newDayEntries(t *testing.T, d *day) [][]byte {
	t.Helper()
	ts := tlog.Tiles{Reader: d.log, Size: d.log.Size()}
	var out [][]byte
	for i := range d.log.Size() {
		b, err := ts.Entry(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func signedBy(t *testing.T, c tlog.Checkpoint, s note.Signer) []byte {
	t.Helper()
	signed, err := tlog.SignCheckpoint(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// impostor is another key that has the log's name.
func impostor(seed string) note.Signer {
	s, _, err := note.GenerateKey(strings.NewReader(strings.Repeat(seed, 32)), tlogtest.Origin)
	if err != nil {
		panic(err)
	}
	signer, err := note.NewSigner(s)
	if err != nil {
		panic(err)
	}
	return signer
}

// sigLine returns the i-th signature line.
func sigLine(t *testing.T, signed []byte, i int) []byte {
	t.Helper()
	_, sigs, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok {
		t.Fatal("no signatures")
	}
	return slices.Collect(bytes.Lines(sigs))[i]
}

// forged is a cosignature line by a witness of the policy that is over another text.
func forged(t *testing.T, d *day, by *cosigner) []byte {
	t.Helper()
	other := tlog.Checkpoint{Origin: tlogtest.Origin, Size: 12, Root: tlog.Hash{5}}
	signed, err := note.Sign(&note.Note{Text: string(other.Text())}, logSigner(tlogtest.Origin), by)
	if err != nil {
		t.Fatal(fmt.Errorf("cosign: %w", err))
	}
	return sigLine(t, signed, 1)
}
