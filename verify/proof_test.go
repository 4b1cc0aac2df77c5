package verify

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

func TestProof(t *testing.T) {
	d := newDay(t)
	trust := policy(t, "all", d.witnesses...)
	raw, err := os.ReadFile("testdata/day.tlog-proof")
	if err != nil {
		t.Fatal(err)
	}
	f, err := tlog.ParseProofFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	entry := f.Extra
	build := func(edit func(f *tlog.ProofFile)) []byte {
		f, err := tlog.ParseProofFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		edit(f)
		out, err := f.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	early := []*cosigner{newCosigner(t, "witness.example/a", began.Add(-time.Hour)), newCosigner(t, "witness.example/b", began.Add(-time.Hour))}
	for _, c := range []struct {
		name  string
		raw   []byte
		entry []byte
		trust Trust
		want  []Claim
	}{
		{"as it was", raw, nil, trust, nil},
		{"the entry handed over", raw, entry, trust, nil},
		{"the entry handed over alone", build(func(f *tlog.ProofFile) { f.Extra = nil }), entry, trust, nil},
		{"what is handed over counts", build(func(f *tlog.ProofFile) { f.Extra = []byte("something else") }), entry, trust, nil},
		{"another entry", raw, bytes.Replace(entry, []byte("complete"), []byte("internal"), 1), trust, []Claim{EntryInTree}},
		{"an entry that is none", raw, []byte{}, trust, []Claim{EntryCanonical, EntryInTree}},
		{"extra that is not the entry", build(func(f *tlog.ProofFile) { f.Extra = []byte("something else") }), nil, trust, []Claim{EntryCanonical, EntryInTree}},
		{"another index", build(func(f *tlog.ProofFile) { f.Index++ }), nil, trust, []Claim{EntryInTree}},
		{"a proof cut short", build(func(f *tlog.ProofFile) { f.Proof = f.Proof[1:] }), nil, trust, []Claim{EntryInTree}},
		{"nobody is believed", raw, nil, Trust{}, []Claim{CheckpointSigned, CheckpointCosigned}},
		{"too few witnesses", build(func(f *tlog.ProofFile) { f.Checkpoint = cosign(t, f.Checkpoint, d.witnesses[0]) }), nil, trust, []Claim{CheckpointCosigned}},
		{"seen before it was", build(func(f *tlog.ProofFile) { f.Checkpoint = cosign(t, f.Checkpoint, early...) }), nil, trust, []Claim{TimesBracketed}},
	} {
		r, err := CheckProof(c.raw, c.entry, c.trust)
		if err != nil || !slices.Equal(falseClaims(r), c.want) {
			t.Errorf("%s: false: %v, want %v; %v", c.name, falseClaims(r), c.want, err)
		}
	}
	r, err := CheckProof(build(func(f *tlog.ProofFile) { f.Extra = nil }), nil, trust)
	if !errors.Is(err, ErrNoEntry) || r.OK() {
		t.Errorf("without an entry: %v", err)
	}
	for i := range raw {
		r, err := CheckProof(raw[:i], nil, trust)
		if r.OK() || (err != nil) != has(r, ProofReadable) || len(falseClaims(r)) == 0 {
			t.Fatalf("cut off after %d of %d bytes: %v, false: %v", i, len(raw), err, falseClaims(r))
		}
	}
}
