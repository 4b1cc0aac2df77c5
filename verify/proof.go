package verify

import (
	"errors"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// ErrNoEntry says that a proof was to be checked and nobody said what it proves: hand over the entry's bytes.
var ErrNoEntry = errors.New("verify: the proof file does not hold the entry that it proves; hand over the entry's bytes")

// CheckProof answers for a proof file (c2sp.org/tlog-proof@v1). The entry is what is proven to be in the log; if it is
// nil it is taken from the file's extra data, which nothing authenticates but that its hash is the leaf that is proven.
//
// An error is an [*Unreadable]; it is ErrNoEntry inside when there is neither.
func CheckProof(raw, entry []byte, trust Trust) (Report, error) {
	var r Report
	j := newJudge(trust)
	f, err := tlog.ParseProofFile(raw)
	if err != nil {
		return r, r.unreadable(ProofReadable, "proof", err)
	}
	if entry == nil {
		if entry = f.Extra; len(entry) == 0 {
			return r, r.unreadable(ProofReadable, "proof", ErrNoEntry)
		}
	}
	r.holds(ProofReadable, "proof", "of %s", subjectEntry(f.Index))
	tree := r.checkpoint(j, f.Checkpoint, "")
	subject := subjectEntry(f.Index)
	e, err := record.ParseEntry(entry)
	r.is(EntryCanonical, subject, err, "%s by %s at %s", e.Kind, e.By, stamp(e.Time))
	r.inTree(subject, tlog.HashLeaf(entry), f.Index, f.Proof, tree)
	if err == nil {
		r.bracket(subject, []statement{{index: f.Index, record: e}}, tree)
	}
	r.notProvenOf(j, tree)
	r.notProven("that what was written down is what happened")
	r.notProven("anything about other entries, or about the record behind this one")
	return r, nil
}
