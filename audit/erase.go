package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// ErrNotHere says that a data key is not one of this desk's: ask where the session was recorded.
var ErrNotHere = errors.New("audit: the data key is kept elsewhere; ask at the desk of the gateway that recorded the session")

// ErrNoBasis says that an erasure was asked for on no ground.
var ErrNoBasis = errors.New("audit: what is erased is erased on a legal ground; give it")

// The reasons of erasure entries: whether somebody asked for it or its time had come. Who, why and on what ground stand in the
// entry's record.
const (
	onRequest   = "request"
	onRetention = "retention"
)

// Derived is data that somebody derived from records: an index, say. Whoever keeps any gives it to [Desk.Forgets], or, in another
// process, follows the erasure entries of the log.
type Derived interface {
	// Forget destroys everything that was derived from a session. It may be called again for one that is forgotten.
	Forget(ctx context.Context, session record.ID) error
}

// Forgets has further data forget sessions that are erased. Call it before the desk is used.
func (d *Desk) Forgets(further ...Derived) { d.derived = append(d.derived, further...) }

// An Order says what shall be erased: the sessions that are named, or all of a caller's, or all that ended before a time, or
// those of that caller that did.
type Order struct {
	Sessions []record.ID
	Caller   string    // "" for any
	Before   time.Time // zero for any
	Basis    string    // the legal ground, in words
	Try      bool      // erase nothing, say what would be
}

// What became of a session.
const (
	Erased  = "erased"
	Would   = "would be erased"
	Already = "erased before"
	Kept    = "kept"      // a rule of retention forbids it; the refusal is on record
	Open    = "open"      // it has not ended; ask again when it has
	Unknown = "not found" // the log has no such session
	Failed  = "failed"
)

// A Fate is what became of a session.
type Fate struct {
	Session  record.ID `json:"session"`
	Fate     string    `json:"fate"`
	Why      string    `json:"why,omitempty"`
	Caller   string    `json:"caller,omitempty"`
	Route    string    `json:"route,omitempty"`
	Ended    time.Time `json:"ended,omitzero"`
	Payloads int       `json:"payloads,omitempty"` // destroyed, or to be
	Bytes    int64     `json:"bytes,omitempty"`    // of these, sealed
}

// eraser is what a desk needs for erasing.
type eraser struct {
	derived   []Derived
	retention func() Retention // nil for no rules

	mu    sync.Mutex  // held while anything is erased
	begun []record.ID // under mu: announced, and not destroyed yet
}

// Erase destroys what the records of sessions hold, and tells each what became of every session as it goes. An error of each
// ends it. It returns an error where it cannot go on, and none where single sessions failed: their fate says why.
//
// For each session the order is the whole of its safety:
//
//  1. look          all payloads open with keys that are ours, no rule forbids it, and the log lets us discard
//  2. announce      the erasure entry is durable, with who, why and on what ground
//  3. data keys     nobody opens the payloads any more, wherever copies lie
//  4. derived data
//  5. payloads      only now are the names of the keys lost
//
// After 2 it is finished whatever happens: by [Desk.Recover] at the next start, or when it is ordered again. Nothing is destroyed
// that was not announced, and nothing stays announced that is not destroyed.
func (d *Desk) Erase(ctx context.Context, who Asker, o Order, each func(Fate) error) error {
	if err := who.may(Erase); err != nil {
		return err
	}
	switch {
	case strings.TrimSpace(o.Basis) == "":
		return ErrNoBasis
	case len(o.Sessions) > 0 && (o.Caller != "" || !o.Before.IsZero()):
		return fmt.Errorf("%w: name sessions, or say whose or how old", errRequest)
	case len(o.Sessions) == 0 && o.Caller == "" && o.Before.IsZero():
		return fmt.Errorf("%w: say what shall be erased: sessions, a caller's, or those that ended before a time", errRequest)
	}
	e := erasing{desk: d, who: who, basis: o.Basis, word: onRequest, try: o.Try, each: each, now: time.Now()}
	if len(o.Sessions) == 0 || o.Try {
		// To choose by content is to read it, and so is to be told of it.
		var which []string
		if o.Try {
			which = append(which, "only to see what that would be")
		}
		if o.Caller != "" {
			which = append(which, "of "+o.Caller)
		}
		if !o.Before.IsZero() {
			which = append(which, "ended before "+o.Before.UTC().Format(time.RFC3339))
		}
		if err := d.admit(ctx, who, Erase, record.ID{}, strings.Join(which, ", ")); err != nil {
			return err
		}
	}
	for _, id := range o.Sessions {
		chain, err := d.find(ctx, id)
		switch {
		case errors.Is(err, tlog.ErrNotFound):
			err = each(Fate{Session: id, Fate: Unknown})
		case errors.Is(err, ErrOpen):
			err = each(Fate{Session: id, Fate: Open, Why: "it has not ended"})
		case err == nil:
			err = e.session(ctx, chain)
		}
		if err != nil {
			return err
		}
	}
	if len(o.Sessions) > 0 {
		return nil
	}
	return d.ended(ctx, o.Before, func(chain []record.Found) error {
		if o.Caller != "" {
			r, err := d.record(ctx, chain[0].Entry)
			if errors.Is(err, tlog.ErrNotFound) || errors.Is(err, ErrNotHere) {
				return nil // it was erased, or is another desk's: whose it is nobody can tell here
			}
			if err != nil {
				return fmt.Errorf("session %s: %w", chain[0].Entry.Session, err)
			}
			if name, _ := r.Get(record.FieldCaller); string(name) != o.Caller {
				return nil
			}
		}
		return e.session(ctx, chain)
	})
}

// Retain erases what the rules of retention want erased by now, and tells each what became of every session that was due.
func (d *Desk) Retain(ctx context.Context, who Asker, try bool, each func(Fate) error) error {
	if err := who.may(Erase); err != nil {
		return err
	}
	e := erasing{desk: d, who: who, word: onRetention, try: try, each: each, now: time.Now()}
	until, any := d.rules().due(e.now)
	if !any {
		return nil
	}
	if try {
		if err := d.admit(ctx, who, Erase, record.ID{}, "only to see what retention would"); err != nil {
			return err
		}
	}
	return d.ended(ctx, until, func(chain []record.Found) error { return e.session(ctx, chain) })
}

// rules returns the rules of now.
func (d *Desk) rules() Retention {
	if d.retention == nil {
		return nil
	}
	return d.retention()
}

// Retention has the desk keep to rules, which are asked for whenever something is to be erased. Call it before the desk is used.
func (d *Desk) Retention(rules func() Retention) { d.retention = rules }

// An erasing is one order under way.
type erasing struct {
	desk  *Desk
	who   Asker
	basis string
	word  string // in the erasure entry
	try   bool
	each  func(Fate) error
	now   time.Time // by which rules are judged
	may   bool      // the log lets the desk discard payloads
}

// session erases one session, which has ended.
func (e *erasing) session(ctx context.Context, chain []record.Found) error {
	f, err := e.erase(ctx, chain)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		if f.Fate == "" {
			f.Caller, f.Route = "", "" // that they were told is not on record
		}
		f.Fate, f.Why = Failed, err.Error()
		// What the log will not take for one session it will not take for the next.
		for _, end := range []error{tlog.ErrHalted, tlog.ErrClosed, tlog.ErrFull, tlog.ErrQuarantine} {
			if errors.Is(err, end) {
				return errors.Join(e.each(f), fmt.Errorf("session %s: %w", f.Session, err))
			}
		}
	}
	if f.Fate == "" {
		return nil // retention has nothing to say of it
	}
	return e.each(f)
}

func (e *erasing) erase(ctx context.Context, chain []record.Found) (f Fate, err error) {
	d, last := e.desk, chain[len(chain)-1]
	f = Fate{Session: last.Entry.Session, Ended: last.Entry.Time}
	d.mu.Lock()
	defer d.mu.Unlock()
	held, first, err := d.holdings(ctx, chain)
	if err != nil {
		if errors.Is(err, ErrNotHere) && e.word == onRetention {
			return f, nil
		}
		return f, err
	}
	if len(held) == 0 {
		if e.word == onRequest {
			f.Fate = Already
		}
		return f, nil
	}
	for _, h := range held {
		f.Payloads++
		f.Bytes += h.bytes
	}
	begun := slices.Contains(d.begun, f.Session)
	if !begun && partly(chain, held) {
		announced, err := d.erasures(ctx, f.Session, last.Index+1)
		if err != nil {
			return f, err
		}
		if begun = len(announced) > 0; !begun {
			return f, errors.New("a part of its records is gone, and no erasure of it is on record; look at the ring of data keys, or run `tally fsck`")
		}
	}
	if begun { // and broken off
		if f.Fate = Would; e.try {
			return f, nil
		}
		f.Fate = Erased
		return f, d.destroy(context.WithoutCancel(ctx), f.Session, held)
	}
	caller, _ := first.Get(record.FieldCaller)
	route, _ := first.Get(record.FieldRoute)
	f.Caller, f.Route = string(caller), string(route)
	basis, rule := e.basis, ""
	judged := d.rules().judge(f.Session, f.Caller, f.Route, f.Ended)
	why, keeper := judged.forbids(e.now)
	switch {
	case e.word == onRetention && (keeper != nil || !judged.isDue(e.now)):
		return f, nil
	case e.word == onRetention:
		rule, basis = judged.dueBy.Name, judged.dueBy.basis()
	case keeper != nil:
		if f.Fate, f.Why = Kept, why; e.try {
			return f, nil
		}
		return f, d.refuse(ctx, e.who, f, basis, keeper.Name)
	}
	if e.try {
		f.Fate = Would
		return f, nil
	}
	if !e.may { // asked with a digest that no payload has
		if err := d.log.Discard(ctx, tlog.Hash{}); err != nil {
			return f, fmt.Errorf("the log lets nothing be discarded, so nothing was erased: %w", err)
		}
		e.may = true
	}
	// From here on nobody who goes away leaves it half done.
	ctx = context.WithoutCancel(ctx)
	var r record.Record
	r.Add(record.FieldSession, []byte(f.Session.String()))
	r.Add(record.FieldActor, []byte(e.who.Name))
	r.Add(record.FieldReason, []byte(e.who.Reason))
	r.Add(record.FieldBasis, []byte(basis))
	if rule != "" {
		r.Add(record.FieldRule, []byte(rule))
	}
	if err := d.writeEntry(ctx, record.Entry{Kind: record.Erasure, Session: f.Session, Reason: e.word}, r); err != nil {
		return f, fmt.Errorf("the erasure could not be recorded, so nothing was erased: %w", err)
	}
	f.Fate = Erased
	return f, d.destroy(ctx, f.Session, held)
}

// refuse puts on record that somebody wanted something erased that must be kept.
func (d *Desk) refuse(ctx context.Context, who Asker, f Fate, basis, rule string) error {
	var r record.Record
	r.Add(record.FieldActor, []byte(who.Name))
	r.Add(record.FieldReason, []byte(who.Reason))
	r.Add(record.FieldWhat, []byte("erase, refused: "+f.Why))
	r.Add(record.FieldBasis, []byte(basis))
	r.Add(record.FieldRule, []byte(rule))
	return d.write(ctx, record.Access, f.Session, r)
}

// A holding is a payload that is still there.
type holding struct {
	sum     tlog.Hash
	key     string // its name
	bytes   int64
	keyless bool // the key was erased
}

// holdings returns the payloads of a session that are still there, with the names of their keys, and the record of its first entry if
// it can be read. A key's name is believed when the payload opens with it for its entry: or else who wrote a payload could have
// another session's key destroyed.
func (d *Desk) holdings(ctx context.Context, chain []record.Found) (held []holding, first record.Record, err error) {
	for i, l := range chain {
		e := l.Entry
		sealed, err := d.log.Payload(ctx, e.Payload)
		if errors.Is(err, tlog.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("payload of entry %d: %w", l.Index, err)
		}
		if record.Sum(sealed) != e.Payload {
			return nil, nil, fmt.Errorf("entry %d: the stored payload is not the one that the entry commits to; run `tally fsck`", l.Index)
		}
		h := holding{sum: e.Payload, bytes: int64(len(sealed))}
		if h.key, err = record.KeyOf(sealed); err != nil {
			return nil, nil, fmt.Errorf("entry %d: %w", l.Index, err)
		}
		key, err := d.keys.Open(ctx, h.key)
		switch {
		case errors.Is(err, tlog.ErrNotFound):
			h.keyless = true
		case err != nil:
			return nil, nil, fmt.Errorf("data key of entry %d: %w", l.Index, err)
		default:
			r, err := d.coder.Open(sealed, key, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
			clear(key)
			if err != nil {
				return nil, nil, fmt.Errorf("entry %d: the payload does not open with the key that it names: %w", l.Index, err)
			}
			if i == 0 {
				first = r
			}
		}
		held = append(held, h)
	}
	return held, first, nil
}

// destroy destroys what was announced. What fails is remembered, and tried again by Run. d.mu is held.
func (d *Desk) destroy(ctx context.Context, id record.ID, held []holding) (err error) {
	defer func() {
		d.begun = slices.DeleteFunc(d.begun, func(b record.ID) bool { return b == id })
		if err != nil {
			d.begun = append(d.begun, id)
			err = fmt.Errorf("its erasure is on record and not finished; it is tried again: %w", err)
		}
	}()
	done := make(map[string]bool)
	for _, h := range held {
		if done[h.key] {
			continue
		}
		// Also one that was erased before: the last word of the disk may not have come.
		if err := d.keys.Erase(ctx, h.key); err != nil {
			return fmt.Errorf("data key: %w", err)
		}
		done[h.key] = true
	}
	for _, f := range d.derived {
		if err := f.Forget(ctx, id); err != nil {
			return fmt.Errorf("derived data: %w", err)
		}
	}
	for _, h := range held {
		if err := d.log.Discard(ctx, h.sum); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	}
	return nil
}

// finish destroys what an erasure entry announces, as far as it is there. What is another desk's is left to that one.
func (d *Desk) finish(ctx context.Context, id record.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	chain, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	held, _, err := d.holdings(ctx, chain)
	if errors.Is(err, ErrNotHere) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.destroy(ctx, id, held) // also when nothing is held: what was derived may be left
}

// A Mark remembers, across restarts, up to which entry of the log the erasures are known to be carried out.
type Mark interface {
	Load() (uint64, error) // 0 where nothing is remembered
	Save(uint64) error
}

// Recover carries out what erasure entries announce that an earlier life did not finish: those from the mark on to the desk's own
// start entry. An erasure that cannot be finished does not keep the others from it.
func (d *Desk) Recover(ctx context.Context, at Mark) error {
	from, err := at.Load()
	if err != nil {
		return err
	}
	start, err := d.started(ctx)
	if err != nil {
		return err
	}
	if from > start { // of another log, or of one that was put back
		from = 0
	}
	var wrong []error
	seen := make(map[record.ID]bool)
	err = d.durable(ctx, from, start, func(index uint64, b []byte) error {
		e, err := parseErasure(index, b)
		if err != nil || e.Session.IsZero() || seen[e.Session] {
			return err
		}
		seen[e.Session] = true
		if err := d.finish(ctx, e.Session); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			wrong = append(wrong, fmt.Errorf("session %s, erased by entry %d: %w", e.Session, index, err))
		}
		return nil
	})
	if err = errors.Join(append(wrong, err)...); err != nil {
		return err
	}
	return at.Save(start)
}

// started waits for the desk's start entry and returns its index.
func (d *Desk) started(ctx context.Context) (uint64, error) {
	for {
		if t := d.pen.Begun(); t != nil {
			return t.Index(), nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// retry is the time between attempts to finish an erasure.
const retry = 30 * time.Second

// Run finishes what an earlier life announced and did not destroy, and tries again what this one could not, until ctx ends.
func (d *Desk) Run(ctx context.Context, at Mark, failed func(error)) error {
	recovered := false
	for {
		var wrong []error
		if !recovered {
			err := d.Recover(ctx, at)
			recovered = err == nil
			wrong = append(wrong, err)
		}
		d.mu.Lock()
		begun := slices.Clone(d.begun)
		d.mu.Unlock()
		for _, id := range begun {
			if err := d.finish(ctx, id); err != nil {
				wrong = append(wrong, fmt.Errorf("session %s: %w", id, err))
			}
		}
		if err := errors.Join(wrong...); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return nil
		}
	}
}

// ErrNoPurge says that the log's files are in another process, which takes what was discarded off its disk in its own time.
var ErrNoPurge = errors.New("audit: the log is in another process, which purges its disk by itself")

// Purge takes what was erased off the log's disk now, or says ErrNoPurge.
func (d *Desk) Purge(ctx context.Context) error {
	p, ok := d.log.(interface{ Purge(context.Context) error })
	if !ok {
		return ErrNoPurge
	}
	return p.Purge(ctx)
}

// erasures returns the erasure entries of a session from an index on, published or not.
func (d *Desk) erasures(ctx context.Context, id record.ID, from uint64) (found []record.Found, err error) {
	text := []byte(id.String())
	err = d.durable(ctx, from, math.MaxUint64, func(index uint64, b []byte) error {
		if !bytes.Contains(b, text) {
			return nil
		}
		e, err := parseErasure(index, b)
		if err == nil && e.Session == id {
			found = append(found, record.Found{Index: index, Bytes: b, Entry: e})
		}
		return err
	})
	return found, err
}

// published returns those of the entries that a checkpoint covers, or does before long.
func (d *Desk) published(ctx context.Context, found []record.Found) []record.Found {
	if len(found) == 0 {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	if _, err := record.Await(soon, d.log, found[len(found)-1].Index); err == nil {
		return found
	}
	size, _ := d.size(ctx)
	return slices.DeleteFunc(found, func(l record.Found) bool { return l.Index >= size })
}

// publishWait is how long a bundle waits for a checkpoint over the erasure of what it shows.
const publishWait = 5 * time.Second

// isErased says whether a session was erased: its first record goes first.
func (d *Desk) isErased(ctx context.Context, chain []record.Found) (bool, error) {
	_, err := d.record(ctx, chain[0].Entry)
	if errors.Is(err, tlog.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// partly says whether of a session, with what is still there of it, something is gone.
func partly(chain []record.Found, held []holding) bool {
	return len(held) < len(chain) || slices.ContainsFunc(held, func(h holding) bool { return h.keyless })
}

var erasureBegins = []byte(`{"v":1,"kind":"erasure",`)

// parseErasure reads an entry if it is an erasure; of any other the session is zero.
func parseErasure(index uint64, b []byte) (e record.Entry, err error) {
	if !bytes.HasPrefix(b, erasureBegins) {
		return e, nil
	}
	if e, err = record.ParseEntry(b); err != nil {
		return record.Entry{}, fmt.Errorf("entry %d: %w", index, err)
	}
	return e, nil
}

// size returns how many entries are published.
func (d *Desk) size(ctx context.Context) (uint64, error) {
	signed, err := d.log.Checkpoint(ctx)
	if err != nil {
		return 0, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	return c.Size, err
}

// scan reads the published entries from one index to before another. What f is given it may keep.
func (d *Desk) scan(ctx context.Context, from, to uint64, f func(index uint64, b []byte) error) error {
	size, err := d.size(ctx)
	if err != nil {
		return err
	}
	for to = min(to, size); from < to; {
		t := tlog.TileAt(tlog.EntriesLevel, from, size)
		data, err := tlog.ReadTile(ctx, d.log, t)
		if err != nil {
			return err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path(), err)
		}
		first := t.Index * tlog.TileWidth
		for ; from < min(first+uint64(t.Width), to); from++ {
			if err := f(from, entries[from-first]); err != nil {
				return err
			}
		}
	}
	return nil
}

// durable reads the entries from one index to before another, and those that are not published yet where the log shows them: a
// log whose witnesses are away publishes nothing, and what was announced is to be finished all the same.
func (d *Desk) durable(ctx context.Context, from, to uint64, f func(index uint64, b []byte) error) error {
	size, err := d.size(ctx)
	if err != nil && !errors.Is(err, tlog.ErrNotFound) {
		return err
	}
	if from < size {
		if err := d.scan(ctx, from, min(to, size), f); err != nil {
			return err
		}
	}
	t, ok := d.log.(tlog.Tailer)
	for from = max(from, size); ok && from < to; {
		entries, err := t.Tail(ctx, from, 0)
		if errors.Is(err, tlog.ErrQuarantine) {
			return nil
		}
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, b := range entries[:min(uint64(len(entries)), to-from)] {
			if err := f(from, b); err != nil {
				return err
			}
			from++
		}
	}
	return nil
}

// clockSlack is how far the clocks of a log's writers may lie apart.
const clockSlack = 2 * time.Minute

var errEnough = errors.New("enough")

// ended calls f with the chain of every session that ended before a time, in the order in which they ended; the zero time is
// any.
func (d *Desk) ended(ctx context.Context, before time.Time, f func(chain []record.Found) error) error {
	size, err := d.size(ctx)
	if errors.Is(err, tlog.ErrNotFound) {
		return nil // nothing is published yet
	}
	if err != nil {
		return err
	}
	open := make(map[record.ID][]record.Found)
	err = d.scan(ctx, 0, size, func(index uint64, b []byte) error {
		e, err := record.ParseEntry(b)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if !before.IsZero() && e.Time.After(before.Add(clockSlack)) {
			return errEnough
		}
		l := record.Found{Index: index, Bytes: b, Entry: e}
		switch e.Kind {
		case record.Request:
			open[e.Session] = []record.Found{l}
			return nil
		case record.Approval:
			open[e.Session] = append(open[e.Session], l)
			return nil
		case record.Response, record.Refused:
		default:
			return nil
		}
		chain := append(open[e.Session], l)
		delete(open, e.Session)
		if !before.IsZero() && !e.Time.Before(before) {
			return nil
		}
		return f(chain)
	})
	if err == errEnough {
		err = nil
	}
	return err
}
