package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// The claims about a receipt, besides those about checkpoints, entries and sessions.
const (
	ReceiptReadable  Claim = "receipt-readable"  // it is a receipt, within the limits
	ReceiptCanonical Claim = "receipt-canonical" // it is written in the one way in which a receipt is written
	PromiseSigned    Claim = "promise-signed"    // by the key in the start entry of its boot, for a log that the policy names
	PromiseCovers    Claim = "promise-covers"    // it is about the entries in the receipt
	PromiseKept      Claim = "promise-kept"      // what was promised stands where it was promised, in a tree that the log signed
	RequestMatches   Claim = "request-matches"   // the bytes at hand are the ones that were recorded as the request's body
	ResponseMatches  Claim = "response-matches"  // and these as the response's
)

// Beside is what its holder has beside a receipt.
type Beside struct {
	// Request and Response are the bodies, byte for byte as they went over the wire, without the framing of HTTP. Nil where
	// they are not at hand.
	Request, Response []byte
	// Log is the log itself, or a copy, in which to look for what was promised. Nil for none.
	Log tlog.Reader
}

// CheckReceipt answers for a receipt, as it lies in its file. The order is that of belief: the file, the checkpoint, the
// promise, the entries, what the caller has, and last what the log shows today, if it was named. RECEIPT.md says what each
// claim rests on.
//
// An error is an [*Unreadable]; the report then has the claim that names the fault and those that were judged before it.
func CheckReceipt(ctx context.Context, raw []byte, beside Beside, trust Trust) (Report, error) {
	var r Report
	c := receiptCheck{Report: &r, judge: newJudge(trust)}
	var err error
	if c.rc, err = r.receipt(raw); c.rc == nil {
		return r, err
	}
	if c.rc.Checkpoint != nil {
		c.tree = r.checkpoint(c.judge, c.rc.Checkpoint, "")
	}
	c.promise()
	c.entries()
	c.kept()
	c.matches(RequestMatches, "request", beside.Request, record.Request, record.Refused)
	c.matches(ResponseMatches, "response", beside.Response, record.Response)
	if beside.Log != nil {
		err = c.log(ctx, beside.Log)
	}
	if c.rc.Start != nil && c.rc.Start.Proof == nil && !c.found {
		r.notProven("that %s, the start entry of the boot, is in the log: whoever made the receipt may have made it too, with its key", subjectEntry(c.rc.Start.Index))
	}
	if c.alone > 0 && !c.found {
		r.notProven("that the promise is kept: of %s there is no proof here; ask for the receipt again, or have it looked for in the log", count(c.alone, "entry", "entries"))
	}
	if c.rc.Checkpoint != nil {
		r.notProvenOf(c.judge, c.tree)
	} else {
		r.notProven("when anything happened: times are those of the writer's own clock, and no witness vouches for them")
	}
	r.notProven("that what was written down is what happened: the log proves what the gateway wrote, not what the model was sent and answered")
	r.notProven("that there are no later entries about the session: an erasure, say, or that somebody read it")
	return r, err
}

// receipt judges the file and reads it. It returns no receipt where nothing more can be said, with an error if what there
// is cannot be read.
func (r *Report) receipt(raw []byte) (*record.Receipt, error) {
	rc, err := record.ParseReceipt(raw)
	if err == nil {
		r.holds(ReceiptReadable, "receipt", "of session %s", rc.Session)
		r.holds(ReceiptCanonical, "receipt", "")
		return rc, nil
	}
	var head struct {
		Format string `json:"format"`
	}
	if len(raw) > record.MaxReceipt || !utf8.Valid(raw) || json.Unmarshal(raw, &head) != nil || head.Format != record.ReceiptFormat {
		return nil, r.unreadable(ReceiptReadable, "receipt", err)
	}
	r.holds(ReceiptReadable, "receipt", "it is JSON of the format %s", head.Format)
	r.isFalse(ReceiptCanonical, "receipt", "%v; nothing in it was judged: ask for the original", err)
	return nil, nil
}

// A receiptCheck is a receipt while it is judged.
type receiptCheck struct {
	*Report
	judge    judge
	rc       *record.Receipt
	tree     witnessed // of the receipt's checkpoint
	at       record.Promise
	promised map[uint64]tlog.Hash // nil without a promise that is signed
	// authentic: that the key which signed it is the writer's is proven by a tree that the log signed
	authentic bool
	judged    []statement // the session's entries
	alone     int         // how many of them are promised and not proven
	found     bool        // the log that is at hand proves every entry
}

// all returns the entries of the receipt, the start entry first if there is one.
func (c *receiptCheck) all() []*record.ReceiptEntry {
	var es []*record.ReceiptEntry
	if c.rc.Start != nil {
		es = append(es, c.rc.Start)
	}
	for i := range c.rc.Entries {
		es = append(es, &c.rc.Entries[i])
	}
	return es
}

// promise judges the promise, if there is one: the start entry, the signature by the key that it states, and that it is
// about these entries.
func (c *receiptCheck) promise() {
	if c.rc.Promise == nil {
		return
	}
	start := c.entry(c.rc.Start)
	p, err := c.open(start)
	c.is(PromiseSigned, "promise", err, "by %s in the boot %s, for %s, at %s", start.record.By, start.record.Boot, p.Origin, stamp(p.Time))
	if err != nil {
		return
	}
	c.at, c.promised, c.authentic = p, make(map[uint64]tlog.Hash), c.stands(c.rc.Start)
	here := make(map[uint64]*record.ReceiptEntry)
	for _, e := range c.all() {
		here[e.Index] = e
	}
	for _, l := range p.Leaves {
		c.promised[l.Index] = l.Leaf
		e := here[l.Index]
		if e == nil || tlog.HashLeaf(e.Bytes) != l.Leaf && !c.stands(e) {
			err = errors.Join(err, fmt.Errorf("it promises another %s than the receipt has", subjectEntry(l.Index)))
		} else if of, perr := record.ParseEntry(e.Bytes); perr == nil && of.Boot != p.Boot {
			err = errors.Join(err, fmt.Errorf("it promises %s, which is of another boot", subjectEntry(l.Index)))
		}
	}
	c.is(PromiseCovers, "promise", err, "%s", count(len(p.Leaves), "entry", "entries"))
}

// open returns what was promised, if it is a promise of the boot with that start entry.
func (c *receiptCheck) open(start statement) (record.Promise, error) {
	e := &start.record
	switch {
	case start.err != nil:
		return record.Promise{}, errors.New("what should be its start entry is no entry")
	case e.Kind != record.Start:
		return record.Promise{}, fmt.Errorf("%s is a %s entry, and states no key", subjectEntry(start.index), e.Kind)
	case e.Promise == [32]byte{}:
		return record.Promise{}, fmt.Errorf("%s states no key to promise by", subjectEntry(start.index))
	}
	p, err := c.rc.Promise.Open(e.Promise)
	if err != nil {
		return p, err
	}
	if p.Boot != e.Boot {
		return p, fmt.Errorf("it is of the boot %s, and %s is of the boot %s", p.Boot, subjectEntry(start.index), e.Boot)
	}
	if c.tree.read && p.Origin != c.tree.Origin {
		return p, fmt.Errorf("it is for the log %q, and the checkpoint is of %q", p.Origin, c.tree.Origin)
	}
	for _, l := range c.judge.whole.Logs() {
		if l.Origin == p.Origin {
			return p, nil
		}
	}
	return p, fmt.Errorf("it is for the log %q, which the policy does not name", p.Origin)
}

// entry judges one entry by itself, and that it is proven where there is a proof.
func (c *receiptCheck) entry(e *record.ReceiptEntry) statement {
	subject := subjectEntry(e.Index)
	st := statement{index: e.Index, leaf: tlog.HashLeaf(e.Bytes)}
	st.record, st.err = record.ParseEntry(e.Bytes)
	c.is(EntryCanonical, subject, st.err, "%s by %s at %s", st.record.Kind, st.record.By, stamp(st.record.Time))
	if e.Proof != nil {
		c.inTree(subject, st.leaf, e.Index, e.Proof, c.tree)
	}
	return st
}

// entries judges the entries of the session, each by itself and all together.
func (c *receiptCheck) entries() {
	for i := range c.rc.Entries {
		e := &c.rc.Entries[i]
		subject := subjectEntry(e.Index)
		st := c.entry(e)
		c.judged = append(c.judged, st)
		if e.Proof == nil {
			if c.promised[e.Index] == st.leaf {
				c.alone++
			} else {
				c.isFalse(EntryInTree, subject, "it is neither proven nor promised")
			}
		}
		if st.err != nil {
			c.isFalse(FieldsMatch, subject, "it is no entry, and so commits to nothing")
			continue
		}
		shown, withheld, err := receiptFields(&st.record, e.Fields)
		c.is(FieldsMatch, subject, err, "%d shown, %d withheld, %d stated", shown, withheld, st.record.Fields)
		switch {
		case withheld > 0:
			c.notProven("what stands in %d of %d fields of %s: they are withheld", withheld, len(e.Fields), subject)
		case st.record.Fields > 0 && len(e.Fields) == 0:
			c.notProven("what stands in the record of %s: the receipt does not have it; it was erased, or left out", subject)
		}
	}
	tree := c.tree
	if c.alone > 0 {
		tree = witnessed{} // an older one, whose witnesses say nothing of these entries
	}
	c.session(&Session{ID: c.rc.Session}, c.judged, tree, false)
	c.approval()
}

// approval says what a receipt shows of people's yes, where one was needed: that one was used, not who gave it to what.
func (c *receiptCheck) approval() {
	subject := "session " + c.rc.Session.String()
	asks, used := false, false
	for i := range c.judged {
		switch e := &c.judged[i].record; {
		case e.Kind == record.Request:
			asks = e.Asks
		case e.Kind == record.Approval:
			used = used || e.Reason == record.Used
		case e.Kind == record.Response && asks && !used && !unsent(e.Outcome):
			c.isFalse(ApprovalGiven, subject, "it ended as %s, needed a yes, and used none", e.Outcome)
		}
	}
	if used {
		c.notProven("who approved %s, or that it was for this call: a receipt does not show it; a bundle does", subject)
	}
}

// receiptFields says whether the fields of a receipt are the record that the entry commits to, and how many have a value
// and how many have not even a name.
func receiptFields(e *record.Entry, fields []record.ReceiptField) (shown, withheld int, err error) {
	all := make([]Field, len(fields))
	names := make(map[string]bool)
	for i := range fields {
		f := &fields[i]
		switch {
		case f.Value != nil:
			shown++
		case f.Name == "":
			withheld++
		}
		if f.Name != "" && names[f.Name] {
			err = fmt.Errorf("two fields are named %q", f.Name)
		}
		names[f.Name] = true
		all[i].Withheld = f.Hash()
	}
	if err == nil {
		_, err = matchFields(e, all)
	}
	return shown, withheld, err
}

// stands says whether an entry of the receipt is proven to be in the log, by the log's own word.
func (c *receiptCheck) stands(e *record.ReceiptEntry) bool {
	return e.Proof != nil && c.tree.signed && tlog.VerifyInclusion(tlog.HashLeaf(e.Bytes), e.Index, c.tree.Size, c.tree.Root, e.Proof) == nil
}

// broken reports that another entry than was promised is proven in a tree. Against whom that is depends on whose key it is
// that promised: the log itself says so, if it has the start entry.
func (c *receiptCheck) broken(index uint64, tree witnessed, is tlog.Hash) {
	against := "promise and proof together are evidence against the log or its writer; keep both"
	if !c.authentic {
		against = "but it is not proven that the start entry with the promise's key was ever in the log, and so not whose promise it is"
	}
	c.isFalse(PromiseKept, subjectEntry(index), "it was promised as %s, and in the tree of %d entries that the log signed it is %s: %s", c.promised[index], tree.Size, is, against)
}

// kept says whether the promise is kept, as far as the receipt itself can tell.
func (c *receiptCheck) kept() {
	whole := len(c.promised) > 0
	for _, e := range c.all() {
		want, ok := c.promised[e.Index]
		if !ok || !c.stands(e) {
			whole = false
			continue
		}
		if leaf := tlog.HashLeaf(e.Bytes); leaf != want {
			c.broken(e.Index, c.tree, leaf)
			whole = false
		}
	}
	if whole {
		c.holds(PromiseKept, "promise", "all stand where they were promised in the tree of %d entries", c.tree.Size)
	}
}

// matches holds the bytes that the caller has against the body of an entry of those kinds.
func (c *receiptCheck) matches(claim Claim, subject string, have []byte, kinds ...record.Kind) {
	var body, exact *record.ReceiptField
	why := fmt.Sprintf("the receipt has no entry with a %s", subject)
	for i, st := range c.judged {
		for _, k := range kinds {
			if st.err != nil || st.record.Kind != k {
				continue
			}
			why = fmt.Sprintf("the receipt does not have the body of %s: it was erased, or left out", subjectEntry(st.index))
			for n := range c.rc.Entries[i].Fields {
				switch f := &c.rc.Entries[i].Fields[n]; f.Name {
				case record.FieldBody:
					body = f
				case record.FieldExact:
					exact = f // it is shown, or it would have no name
				}
			}
		}
	}
	switch {
	case have == nil && body == nil:
		c.notProven("which bytes were the %s: %s", subject, why)
	case have == nil:
		c.notProven("which bytes were the %s: they stand not in a receipt; hand over the file in which they were kept", subject)
	case body == nil:
		c.isFalse(claim, subject, "%s", why)
	case exact != nil && exact.Nonce == nil:
		c.notProven("that these %d bytes are the %s: it was masked before it was written down, and the receipt was not taken soon enough to say what it was before", len(have), subject)
	case exact != nil && !bytes.Equal(record.Exactly(exact.Nonce, have), exact.Value):
		c.isFalse(claim, subject, "these %d bytes are not the ones that were recorded, before they were masked", len(have))
	case exact != nil:
		c.holds(claim, subject, "%d bytes, the ones of which a masked copy was recorded", len(have))
	case body.Holding(have) != body.Hash():
		c.isFalse(claim, subject, "these %d bytes are not the ones that were recorded", len(have))
	default:
		c.holds(claim, subject, "%d bytes, the ones that were recorded", len(have))
	}
}

// log looks into the log for what was promised or proven.
func (c *receiptCheck) log(ctx context.Context, l tlog.Reader) error {
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		return c.unreadable(LogReadable, "log", fmt.Errorf("checkpoint: %w", err))
	}
	origin := c.at.Origin
	if c.tree.signed {
		origin = c.tree.Origin
	}
	first := len(c.Findings)
	now := c.checkpoint(c.judge, signed, origin)
	for i := range c.Findings[first:] {
		c.Findings[first+i].Subject = "log's checkpoint"
	}
	if !now.signed || origin != "" && now.Origin != origin {
		return nil // said already; what hangs from it is not asked
	}
	ts := tlog.Tiles{Reader: l, Size: now.Size}
	if c.tree.signed {
		if err := c.honoured(ctx, ts, now, signed); err != nil {
			return err
		}
	}
	c.found = true
	for _, e := range c.all() {
		want, promised := c.promised[e.Index]
		if !promised {
			want = tlog.HashLeaf(e.Bytes)
		}
		if e.Index >= now.Size {
			c.notProven("that %s is in the log: the log shows %d entries and has not got so far", subjectEntry(e.Index), now.Size)
			c.found = false
			continue
		}
		other, err := c.standsIn(ctx, ts, now, e.Index, want)
		switch {
		case err != nil:
			c.found = false
			return err
		case other == want:
			c.authentic = c.authentic || e == c.rc.Start // which is the first
			continue
		case promised:
			c.broken(e.Index, now, other)
		default:
			c.isFalse(EntryInTree, subjectEntry(e.Index), "in the tree that the log shows, of %d entries, it is another", now.Size)
		}
		c.found = false
	}
	if c.found {
		claim := EntryInTree
		if c.promised != nil {
			claim = PromiseKept
		}
		c.holds(claim, "log", "all entries of the receipt stand where they should in the tree that the log shows, of %d entries", now.Size)
	}
	return nil
}

// standsIn returns the leaf that the log proves to stand at an index, which is want if that can be proven.
func (c *receiptCheck) standsIn(ctx context.Context, ts tlog.Tiles, now witnessed, index uint64, want tlog.Hash) (tlog.Hash, error) {
	p, err := ts.Inclusion(ctx, index)
	if err != nil {
		return want, c.unreadable(LogReadable, "log", err)
	}
	if tlog.VerifyInclusion(want, index, now.Size, now.Root, p) == nil {
		return want, nil
	}
	b, err := ts.Entry(ctx, index)
	if err != nil {
		return want, c.unreadable(LogReadable, "log", err)
	}
	leaf := tlog.HashLeaf(b)
	if err := tlog.VerifyInclusion(leaf, index, now.Size, now.Root, p); err != nil {
		return want, c.unreadable(LogReadable, "log", fmt.Errorf("what it serves is not what it signed: %w", err))
	}
	return leaf, nil
}

// honoured says whether the tree that the log shows continues the one in the receipt.
func (c *receiptCheck) honoured(ctx context.Context, ts tlog.Tiles, now witnessed, signed []byte) error {
	subject := fmt.Sprintf("checkpoint of size %d (receipt)", c.tree.Size)
	why := fmt.Sprintf("the log had %d entries and shows %d", c.tree.Size, now.Size)
	if c.tree.Size <= now.Size {
		p, err := ts.Consistency(ctx, c.tree.Size)
		if err != nil {
			return c.unreadable(LogReadable, "log", err)
		}
		if tlog.VerifyConsistency(c.tree.Size, now.Size, c.tree.Root, now.Root, p) == nil {
			c.holds(CheckpointsHonoured, subject, "the log's %d entries continue it", now.Size)
			return nil
		}
		// Another past than the receipt's is evidence only if it is proven to be the past of what was signed now.
		root := now.Root
		if c.tree.Size < now.Size {
			if root, err = ts.Root(ctx, c.tree.Size); err == nil {
				err = tlog.VerifyConsistency(c.tree.Size, now.Size, root, now.Root, p)
			}
			if err != nil {
				return c.unreadable(LogReadable, "log", fmt.Errorf("what it serves is not what it signed: %w", err))
			}
		}
		why = fmt.Sprintf("the first %d entries hashed to %s, and now to %s", c.tree.Size, c.tree.Root, root)
	}
	c.isFalse(CheckpointsHonoured, subject, "%s: the receipt's checkpoint and the log's together are evidence against the log; keep both", why)
	c.Forks = append(c.Forks, tlog.ForkError{A: c.rc.Checkpoint, B: signed, Reason: why})
	return nil
}
