// Package audit is reading, by people who hold keys. The [Desk] is the only way to the content of a record, and what is
// always true of it: who asks, and why, is a parameter, and stands in the log before anything is shown.
package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// Log is what a desk needs of the log it reads.
type Log interface {
	tlog.Reader
	tlog.Payloads
}

// Keys opens the data keys of payloads, makes one for the record of each reading, and can be sealed anew.
type Keys interface {
	New(ctx context.Context) (id string, key []byte, err error)
	// Open returns the key of that name, which whoever asked may clear: tlog.ErrNotFound where it was erased, ErrNotHere where it
	// is not one of these keys.
	Open(ctx context.Context, id string) (key []byte, err error)
	// Erase destroys the key of that name for ever: it is on the disk when it returns nil. To erase a key again does no harm.
	Erase(ctx context.Context, id string) error
	// Rewrap seals all keys anew, by the newest key above them, and says what it did and what it needs from now on.
	Rewrap(ctx context.Context) (said string, err error)
}

// An Asker is who wants to see something, why, and in which roles. Name and reason must be given.
type Asker struct {
	Name   string // a person or a service, as whoever let it in knows it
	Reason string // in words
	Roles  Roles  // what it may do here
}

// ErrOpen says that a session has not ended yet: ask again when it has.
var ErrOpen = errors.New("audit: the session has not ended yet; try again when it has")

// ErrNobody says that nobody asked, or for no reason.
var ErrNobody = errors.New("audit: a record is shown to somebody, for a reason; give both")

// A Desk shows records. Safe for concurrent use.
type Desk struct {
	log   Log
	keys  Keys
	pen   *record.Writer
	coder *record.Coder
	eraser
	searcher
}

// NewDesk returns a desk that reads log and writes down every reading with pen, which somebody runs.
func NewDesk(log Log, keys Keys, pen *record.Writer) (*Desk, error) {
	coder, err := record.NewCoder(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	return &Desk{log: log, keys: keys, pen: pen, coder: coder}, nil
}

// nobody says whether nobody asks, or for no reason.
func (a Asker) nobody() bool {
	return strings.TrimSpace(a.Name) == "" || strings.TrimSpace(a.Reason) == ""
}

// admit turns away who may not, and writes the access entry: who, why, what is done, and with which fields, where it is not with
// all. Nothing is shown before it is durable.
func (d *Desk) admit(ctx context.Context, who Asker, act Act, session record.ID, detail string, fields ...string) error {
	if err := who.may(act); err != nil {
		return err
	}
	what := act.String()
	if detail != "" {
		what += ", " + detail
	}
	var r record.Record
	r.Add(record.FieldActor, []byte(who.Name))
	r.Add(record.FieldReason, []byte(who.Reason))
	r.Add(record.FieldWhat, []byte(what))
	if len(fields) > 0 {
		r.Add(record.FieldFields, []byte(strings.Join(fields, "\n")))
	}
	if err := d.write(ctx, record.Access, session, r); err != nil {
		return fmt.Errorf("the reading could not be recorded, so nothing is shown: %w", err)
	}
	return nil
}

// Announce puts on record, as a policy entry, that the log's keys changed: who says so, why, and which keys there are now.
func (d *Desk) Announce(ctx context.Context, who Asker, keys string) error {
	return d.change(ctx, who, record.FieldLogKeys, keys)
}

// Rewrap has the data keys sealed anew, which takes its time and hinders nobody, and returns what [Keys] said of it. That it
// was begun, by whom and why, goes on record first, as a policy entry.
func (d *Desk) Rewrap(ctx context.Context, who Asker) (said string, err error) {
	if err := d.change(ctx, who, record.FieldWhat, "the data keys are sealed anew"); err != nil {
		return "", err
	}
	return d.keys.Rewrap(ctx)
}

// change writes a policy entry.
func (d *Desk) change(ctx context.Context, who Asker, field, value string) error {
	if err := who.may(Rekey); err != nil {
		return err
	}
	var r record.Record
	r.Add(record.FieldActor, []byte(who.Name))
	r.Add(record.FieldReason, []byte(who.Reason))
	r.Add(field, []byte(value))
	return d.write(ctx, record.Policy, record.ID{}, r)
}

// write appends an entry with a record of its own, sealed with a key of its own.
func (d *Desk) write(ctx context.Context, kind record.Kind, session record.ID, r record.Record) error {
	return d.writeEntry(ctx, record.Entry{Kind: kind, Session: session}, r)
}

func (d *Desk) writeEntry(ctx context.Context, e record.Entry, r record.Record) error {
	id, key, err := d.keys.New(ctx)
	if err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	draft, err := d.coder.Draft(e, r, key, id)
	if err == nil {
		_, err = d.pen.Write(ctx, draft)
	}
	return err
}

// record opens the record behind an entry. It is not exported: content leaves by methods that admit first.
func (d *Desk) record(ctx context.Context, e record.Entry) (record.Record, error) {
	return d.coder.Read(ctx, &e, d.log.Payload, d.keys.Open)
}

// Export returns a bundle of whole sessions with every field shown, under the newest checkpoint. The bundle is checked
// against the tree before it is handed out. Of a session that used the yes which another one got, that one is in the bundle
// too: without it nobody could see who said yes, and to what.
func (d *Desk) Export(ctx context.Context, who Asker, sessions ...record.ID) ([]byte, error) {
	return d.Bundle(ctx, who, Export, "", sessions...)
}

// Bundle is Export for the sake of another act: what is handed out is the same, and what is on record is what is done with it,
// and the detail in words, if there is one. It is for acts that begin with a bundle: Export to Certify, Play, Mock and Compare. To
// Play, which viewers may, sealed originals are withheld.
func (d *Desk) Bundle(ctx context.Context, who Asker, act Act, detail string, sessions ...record.ID) ([]byte, error) {
	if len(sessions) == 0 {
		return nil, errors.New("audit: no session is named")
	}
	switch act {
	case Play, Export, ExportHAR, ExportCURL, ExportJSONL, ExportCast, ExportCSV, Certify, Mock, Compare:
	default:
		return nil, fmt.Errorf("%w: %q takes no bundle", errRequest, act)
	}
	for _, id := range sessions {
		if err := d.admit(ctx, who, act, id, detail); err != nil {
			return nil, err
		}
	}
	return d.bundle(ctx, who, act, sessions, func(_ uint64, name string) bool { return act != Play || masked(name) })
}

// bundle makes a bundle of sessions whose reading is on record, and shows of each entry, by its index, the fields that show
// names. act is what is done, for the record of reading sessions whose yes was used.
func (d *Desk) bundle(ctx context.Context, who Asker, act Act, sessions []record.ID, show func(index uint64, name string) bool) ([]byte, error) {
	b := &verify.Bundle{}
	var found [][]record.Found
	last := uint64(0)
	sessions = slices.Clone(sessions)
	for i := 0; i < len(sessions); i++ { // they become more
		id := sessions[i]
		at, err := d.whole(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("session %s: %w", id, err)
		}
		found = append(found, at)
		last = max(last, at[len(at)-1].Index)
		asked, err := d.askedFor(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("session %s: %w", id, err)
		}
		if asked.IsZero() || slices.Contains(sessions, asked) {
			continue
		}
		if err := d.admit(ctx, who, act, asked, "for the approval that "+id.String()+" used"); err != nil {
			return nil, err
		}
		sessions = append(sessions, asked)
	}
	// One checkpoint for all of them.
	c, err := record.Await(ctx, d.log, last)
	if err != nil {
		return nil, err
	}
	if b.Checkpoint, err = d.log.Checkpoint(ctx); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if c, err = tlog.UnverifiedCheckpoint(b.Checkpoint); err != nil {
		return nil, err
	}
	b.Origin = c.Origin
	ts := tlog.Tiles{Reader: d.log, Size: c.Size}
	for i, id := range sessions {
		s := verify.Session{ID: id}
		for _, l := range found[i] {
			proof, err := ts.Inclusion(ctx, l.Index)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", l.Index, err)
			}
			if err := tlog.VerifyInclusion(tlog.HashLeaf(l.Bytes), l.Index, c.Size, c.Root, proof); err != nil {
				return nil, fmt.Errorf("the log does not hold what it serves; run `tally fsck`: %w", err)
			}
			r, err := d.record(ctx, l.Entry)
			if err != nil && !errors.Is(err, tlog.ErrNotFound) { // it was erased: what the log has is shown
				return nil, fmt.Errorf("entry %d: %w", l.Index, err)
			}
			s.Entries = append(s.Entries, verify.Entry{
				Index: l.Index, Bytes: l.Bytes, Proof: proof, Fields: verify.Fields(r, func(name string) bool { return show(l.Index, name) }),
			})
		}
		b.Sessions = append(b.Sessions, s)
	}
	return b.Append(nil)
}
