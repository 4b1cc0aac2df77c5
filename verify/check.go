package verify

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Check answers for a bundle, as it lies in its file. The order is that of belief: the file before what stands in it,
// the checkpoint before what hangs from it, the entry before the fields that it commits to, each entry before the
// session that they make.
//
// An error is an [*Unreadable]; the report then has the claim that names the fault and those that were judged before it.
func Check(raw []byte, trust Trust) (Report, error) {
	var r Report
	j := newJudge(trust)
	b, err := r.bundle(raw)
	if b == nil {
		return r, err
	}
	tree := r.checkpoint(j, b.Checkpoint, b.Origin)
	seen := make(map[record.ID]bool, len(b.Sessions))
	decided := decisions(b)
	for i := range b.Sessions {
		s := &b.Sessions[i]
		entries := make([]statement, 0, min(len(s.Entries), maxWrong))
		for k := range s.Entries {
			if r.wrong > maxWrong {
				r.notProven("anything about what follows entry %d of the bundle's session %d: more than %d claims are false, and the rest was not judged", k, i+1, maxWrong)
				return r, nil
			}
			entries = append(entries, r.entry(&s.Entries[k], tree))
		}
		r.session(s, entries, tree, seen[s.ID])
		if d := decided[i]; d != nil {
			r.approved(d)
		}
		seen[s.ID] = true
	}
	r.notProvenOf(j, tree)
	r.notProven("that what was written down is what happened: the log proves what the gateway wrote and that it has not been changed since")
	r.notProven("that the model behaved, or that it is the one that was asked for")
	r.notProven("that there are no other sessions, or later entries about these: a bundle holds what was picked for it; check the whole log for that")
	if r.OK() {
		r.Proven = b
	}
	return r, nil
}

// bundle judges the file and reads it. It returns no bundle where nothing more can be said, with an error if what
// there is cannot be read.
func (r *Report) bundle(raw []byte) (*Bundle, error) {
	if err := checkHead(raw); err != nil {
		return nil, r.unreadable(BundleReadable, "bundle", err)
	}
	if intact(raw) {
		r.holds(BundleIntact, "bundle", "%d bytes", len(raw))
	} else {
		r.isFalse(BundleIntact, "bundle", "it has another digest than its first line says: it was changed or cut off after it was written")
	}
	body := raw[bundleHead:]
	b, err := parseBody(body)
	switch {
	case err == nil:
		r.holds(BundleReadable, "bundle", "")
		r.holds(BundleCanonical, "bundle", "")
	case isJSON(body):
		r.holds(BundleReadable, "bundle", "it is JSON")
		r.isFalse(BundleCanonical, "bundle", "%v; nothing in it was judged: ask for the original", err)
	default:
		return nil, r.unreadable(BundleReadable, "bundle", err)
	}
	return b, nil
}

// A statement is an entry that was looked at.
type statement struct {
	index  uint64
	leaf   tlog.Hash
	record record.Entry
	err    error // why it is no entry
}

func subjectEntry(index uint64) string { return fmt.Sprintf("entry %d", index) }

// entry judges one entry by itself: what it is, where it stands, what is shown of its record.
func (r *Report) entry(e *Entry, tree witnessed) statement {
	subject := subjectEntry(e.Index)
	st := statement{index: e.Index, leaf: tlog.HashLeaf(e.Bytes)}
	st.record, st.err = record.ParseEntry(e.Bytes)
	r.is(EntryCanonical, subject, st.err, "%s by %s at %s", st.record.Kind, st.record.By, stamp(st.record.Time))
	r.inTree(subject, st.leaf, e.Index, e.Proof, tree)
	if st.err != nil {
		r.isFalse(FieldsMatch, subject, "it is no entry, and so commits to nothing")
		return st
	}
	withheld, err := matchFields(&st.record, e.Fields)
	r.is(FieldsMatch, subject, err, "%d shown, %d withheld, %d stated", len(e.Fields)-withheld, withheld, st.record.Fields)
	switch {
	case withheld > 0:
		r.notProven("what stands in %d of %d fields of %s: they are withheld", withheld, len(e.Fields), subject)
	case st.record.Fields > 0 && len(e.Fields) == 0:
		r.notProven("what stands in the record of %s: the bundle does not have it", subject)
	}
	return st
}

func (r *Report) inTree(subject string, leaf tlog.Hash, index uint64, p tlog.Proof, tree witnessed) {
	if !tree.read {
		r.isFalse(EntryInTree, subject, "there is no checkpoint that it could be under")
		return
	}
	err := tlog.VerifyInclusion(leaf, index, tree.Size, tree.Root, p)
	r.is(EntryInTree, subject, err, "of %s, size %d", tree.Origin, tree.Size)
}

// matchFields says whether what is shown and withheld is the record that the entry commits to, and how much is
// withheld. No fields at all are no contradiction: the record is not there, erased perhaps.
func matchFields(e *record.Entry, fields []Field) (withheld int, err error) {
	if len(fields) == 0 {
		return 0, nil
	}
	leaves := make([]tlog.Hash, len(fields))
	names := make(map[string]bool)
	for i, f := range fields {
		if f.Shown == nil {
			leaves[i] = f.Withheld
			withheld++
			continue
		}
		leaves[i] = f.Shown.Hash()
		if names[f.Shown.Name] {
			return withheld, fmt.Errorf("two fields are named %q", f.Shown.Name)
		}
		names[f.Shown.Name] = true
	}
	if len(fields) != e.Fields {
		return withheld, fmt.Errorf("there are %d fields and the entry states %d", len(fields), e.Fields)
	}
	if root := record.RootOf(leaves); root != e.Root {
		return withheld, fmt.Errorf("the fields hash to %s and the entry states %s: one was changed, or is of another record", root, e.Root)
	}
	return withheld, nil
}

// session judges the entries of a session together.
func (r *Report) session(s *Session, entries []statement, tree witnessed, again bool) {
	subject := "session " + s.ID.String()
	for i := range entries {
		if entries[i].err != nil {
			r.isFalse(SessionChain, subject, "%s is no entry", subjectEntry(entries[i].index))
			return
		}
	}
	err := chain(s.ID, entries)
	if err == nil && again {
		err = errors.New("the bundle has this session twice")
	}
	r.is(SessionChain, subject, err, "%s", count(len(entries), "entry", "entries"))
	end := entries[0]
	for i, st := range entries {
		switch st.record.Kind {
		case record.Response, record.Refused:
			end = st
		case record.Erasure:
			r.notProven("what stood in the records of %s that are not shown here: %s announces that they were erased on %s%s (%s)", subject, subjectEntry(st.index),
				stamp(st.record.Time), erasedBy(s.Entries[i].Fields), st.record.Reason)
		}
	}
	switch end.record.Kind {
	case record.Response:
		r.holds(SessionComplete, subject, "it ended with %s as %s", subjectEntry(end.index), end.record.Outcome)
	case record.Refused:
		r.holds(SessionComplete, subject, "it was refused: %s", end.record.Reason)
	default:
		r.isFalse(SessionComplete, subject, "it has no response: it had not ended, or its end was left out")
	}
	r.times(subject, entries, tree)
}

// erasedBy says who erased something and on what ground, as far as it is shown.
func erasedBy(fields []Field) (said string) {
	x := shown{fields: fields}
	for _, f := range []struct{ word, name string }{{"by", record.FieldActor}, {"on the ground of", record.FieldBasis}} {
		if v, has, _ := x.text(f.name); has {
			said += fmt.Sprintf(" %s %.200q", f.word, v)
		}
	}
	return said
}

// times says whether the times of entries rise, as far as clocks can tell: within a boot always, and from one clock to another
// but for ClockSkew.
func (r *Report) times(subject string, entries []statement, tree witnessed) {
	var err error
	latest := &entries[0]
	boots := make(map[record.ID]*statement)
	for i := range entries {
		st := &entries[i]
		t := st.record.Time
		before := boots[st.record.Boot]
		if before == nil || !t.Before(before.record.Time) {
			before = latest
			t = t.Add(ClockSkew)
		}
		if t.Before(before.record.Time) {
			err = fmt.Errorf("%s states %s, before the %s of %s", subjectEntry(st.index), stamp(st.record.Time), stamp(before.record.Time), subjectEntry(before.index))
			break
		}
		boots[st.record.Boot] = st
		if st.record.Time.After(latest.record.Time) {
			latest = st
		}
	}
	first, last := entries[0].record.Time, entries[len(entries)-1].record.Time
	r.is(TimesOrdered, subject, err, "from %s, for %s", stamp(first), last.Sub(first))
	r.bracket(subject, entries, tree)
}

// bracket holds the times of entries against those of the checkpoint's cosignatures, if it has any.
func (r *Report) bracket(subject string, entries []statement, tree witnessed) {
	if tree.by.IsZero() {
		return
	}
	var err error
	for i := range entries {
		if t := entries[i].record.Time; t.After(tree.by.Add(ClockSkew)) {
			err = fmt.Errorf("%s states %s, and witnesses had seen it by %s", subjectEntry(entries[i].index), stamp(t), stamp(tree.by))
			break
		}
	}
	r.is(TimesBracketed, subject, err, "seen by witnesses by %s; clocks may be %s apart", stamp(tree.by), ClockSkew)
}

// chain says whether the entries are those of one session, in order (tlog/record/FORMAT.md §6.4): a request, approvals,
// and a response, or a refusal alone, and then erasures, each stating the leaf hash of the one before it, which an erasure
// may leave out; and any time after the first, who read it.
func chain(id record.ID, entries []statement) error {
	first := &entries[0]
	if k := first.record.Kind; k != record.Request && k != record.Refused {
		return fmt.Errorf("%s, its first, is a %s entry; a session begins with a request or is refused", subjectEntry(first.index), k)
	}
	last := first
	for i := range entries {
		st := &entries[i]
		e := &st.record
		name := subjectEntry(st.index)
		if e.Session != id {
			return fmt.Errorf("%s is not of this session", name)
		}
		if i == 0 {
			continue
		}
		if st.index <= entries[i-1].index {
			return fmt.Errorf("%s stands after %s", name, subjectEntry(entries[i-1].index))
		}
		ended := last.record.Kind != record.Request && last.record.Kind != record.Approval
		switch e.Kind {
		case record.Access:
			continue
		case record.Approval, record.Response:
			switch was := &last.record; {
			case ended:
				return fmt.Errorf("%s comes after the session's end", name)
			case e.By != was.By:
				return fmt.Errorf("%s is by %s and %s by %s", name, e.By, subjectEntry(last.index), was.By)
			case e.Boot == was.Boot && e.Seq <= was.Seq:
				return fmt.Errorf("%s has the number %d and %s before it %d", name, e.Seq, subjectEntry(last.index), was.Seq)
			}
		case record.Erasure:
			if !ended {
				return fmt.Errorf("%s erases before the session's end", name)
			}
		default:
			return fmt.Errorf("%s is a %s entry and does not continue a session", name, e.Kind)
		}
		if e.Prev != last.leaf && (e.Kind != record.Erasure || e.Prev != tlog.Hash{}) {
			return fmt.Errorf("%s does not refer to %s, the session's entry before it", name, subjectEntry(last.index))
		}
		last = st
	}
	return nil
}
