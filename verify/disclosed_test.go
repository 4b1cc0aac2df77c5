package verify

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// disclosed is a bundle of two sessions in which caller and status are shown, and nothing else.
func (d *day) disclosed(t testing.TB) *Bundle {
	return export(t, d.log, d.signed, func(name string) bool { return name == record.FieldCaller || name == record.FieldStatus }, d.first, d.second)
}

// What a maker of bundles can do to what it shows and withholds, each of which is found, and none of which is then taken for proven.
func TestDisclosureForged(t *testing.T) {
	d := newDay(t)
	trust := policy(t, "all", d.witnesses...)
	r, err := Check(appendBundle(t, d.disclosed(t)), trust)
	if err != nil || !r.OK() || r.Proven == nil {
		show(t, r)
		t.Fatalf("as it is: %v", err)
	}
	const caller, status = 1, 1 // their places
	for _, x := range []struct {
		name  string
		forge func(request, response, other []Field) (req, resp []Field)
	}{
		{"another value", func(q, p, _ []Field) ([]Field, []Field) {
			p[status].Shown.Value = []byte("500")
			return q, p
		}},
		{"another name", func(q, p, _ []Field) ([]Field, []Field) {
			q[caller].Shown.Name = record.FieldSubject
			return q, p
		}},
		{"a byte of the value into the name", func(q, p, _ []Field) ([]Field, []Field) {
			f := q[caller].Shown
			f.Name, f.Value = f.Name+string(f.Value[:1]), f.Value[1:]
			return q, p
		}},
		{"another salt", func(q, p, _ []Field) ([]Field, []Field) {
			p[status].Shown.Salt[3] ^= 1
			return q, p
		}},
		{"at another index", func(q, p, _ []Field) ([]Field, []Field) {
			q[caller], q[caller+1] = q[caller+1], q[caller]
			return q, p
		}},
		{"in another record of the session", func(q, p, _ []Field) ([]Field, []Field) {
			p[status] = q[caller]
			return q, p
		}},
		{"the opening of another session's record", func(q, p, other []Field) ([]Field, []Field) {
			q[0] = other[0]
			return q, p
		}},
		{"all of another record", func(q, p, other []Field) ([]Field, []Field) { return other, p }},
		{"two records exchanged", func(q, p, _ []Field) ([]Field, []Field) { return p, q }},
		{"shown, and withheld as well", func(q, p, _ []Field) ([]Field, []Field) {
			return q, append(p, Field{Withheld: p[status].Shown.Hash()})
		}},
		{"shown in the place of what is withheld", func(q, p, _ []Field) ([]Field, []Field) {
			p[3] = Field{Shown: &record.Field{Name: record.FieldFinish, Salt: [16]byte{1}, Value: []byte("message_stop")}}
			return q, p
		}},
		{"shown with the salt of another", func(q, p, _ []Field) ([]Field, []Field) {
			p[3] = Field{Shown: &record.Field{Name: record.FieldFinish, Salt: p[status].Shown.Salt, Value: []byte("message_stop")}}
			return q, p
		}},
		{"its hash as its value", func(q, p, _ []Field) ([]Field, []Field) {
			p[3] = Field{Shown: &record.Field{Name: record.FieldFinish, Value: bytes.Clone(p[3].Withheld[:])}}
			return q, p
		}},
		{"withheld by another hash", func(q, p, _ []Field) ([]Field, []Field) {
			p[2].Withheld = sha256.Sum256([]byte("nothing"))
			return q, p
		}},
		{"left out", func(q, p, _ []Field) ([]Field, []Field) { return q, p[:3] }},
		{"two leaves as their node", func(q, p, _ []Field) ([]Field, []Field) {
			return q, append(p[:2:2], Field{Withheld: tlog.HashChildren(p[2].Withheld, p[3].Withheld)})
		}},
		{"shown twice", func(q, p, _ []Field) ([]Field, []Field) {
			p[2] = Field{Shown: p[status].Shown}
			return q, p
		}},
	} {
		b := d.disclosed(t)
		s := &b.Sessions[0]
		clone(b)
		s.Entries[0].Fields, s.Entries[1].Fields = x.forge(s.Entries[0].Fields, s.Entries[1].Fields, slices.Clone(b.Sessions[1].Entries[0].Fields))
		r, err := Check(appendBundle(t, b), trust)
		if err != nil || !slices.Equal(falseClaims(r), []Claim{FieldsMatch}) {
			show(t, r)
			t.Errorf("%s: false: %v, %v", x.name, falseClaims(r), err)
		}
		if r.Proven != nil {
			t.Errorf("%s: it is taken for proven", x.name)
		}
	}

	// The record and its entry moved to another session, or index.
	b := d.disclosed(t)
	b.Sessions[0].Entries[0], b.Sessions[1].Entries[0] = b.Sessions[1].Entries[0], b.Sessions[0].Entries[0]
	if r, err := Check(appendBundle(t, b), trust); err != nil || !slices.Contains(falseClaims(r), SessionChain) || r.Proven != nil {
		t.Errorf("in another session: false: %v, %v", falseClaims(r), err)
	}
	b = d.disclosed(t)
	b.Sessions[0].Entries[0].Index++
	if r, err := Check(appendBundle(t, b), trust); err != nil || !slices.Contains(falseClaims(r), EntryInTree) || r.Proven != nil {
		t.Errorf("at another place in the log: false: %v, %v", falseClaims(r), err)
	}
	// A field that says of itself both.
	raw := appendBundle(t, d.disclosed(t))
	raw = bytes.Replace(raw, []byte(`{"withheld":`), []byte(`{"name":"body","withheld":`), 1)
	seal(raw)
	if r, err := Check(raw, trust); err != nil || !slices.Equal(falseClaims(r), []Claim{BundleCanonical}) || r.Proven != nil {
		t.Errorf("with a name beside the hash: false: %v, %v", falseClaims(r), err)
	}
}

// clone gives shown fields memory of their own.
func clone(b *Bundle) {
	for _, s := range b.Sessions {
		for _, e := range s.Entries {
			for i, f := range e.Fields {
				if f.Shown != nil {
					c := *f.Shown
					c.Value = bytes.Clone(c.Value)
					e.Fields[i].Shown = &c
				}
			}
		}
	}
}
