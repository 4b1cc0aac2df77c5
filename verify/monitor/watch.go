package monitor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/verify"
)

// A watch follows one log. Everything in it belongs to the goroutine that runs it.
type watch struct {
	m      *Monitor
	url    string
	reader tlog.Reader
	trust  verify.Trust

	origin   string           // "" until the log was recognised
	state    *state           // what is remembered; nil until then
	follower *verify.Follower // the same, alive; nil while nothing is
	whole    bool             // all of it was read in this run, or need not be
	views    []*view

	troubles map[string]*trouble
	rounds   int // that came to their end
}

const (
	// maxBackoff is the longest time between two tries to reach a log, unless the interval itself is longer.
	maxBackoff = 5 * time.Minute
	// A checkpoint that is smaller than the one before is asked for again, so often and after such a pause, before it counts:
	// an answer may have been on its way for long.
	looks = 3
	blink = time.Second
)

// run looks at the log again and again. It returns nil when ctx ends; errEnd after a contradiction; what kept it from
// remembering; and, if there is to be but one round, what kept that from its end.
func (w *watch) run(ctx context.Context) error {
	reader, err := w.m.reader(w.url)
	if err != nil {
		return err
	}
	w.reader, w.trust = reader, verify.Trust{Policy: w.m.c.Policy}
	for failed := 0; ; {
		err := w.round(ctx)
		var unread *verify.Unreadable
		switch {
		case err == nil:
			failed = 0
			w.rounds++
			w.well(Unreachable, "", "")
		case !errors.As(err, &unread):
			return err
		case ctx.Err() != nil:
			return nil
		default:
			failed++
			w.ail(Event{Kind: Unreachable, Level: Alert, Reason: err.Error()}, w.m.c.Patience)
		}
		if w.m.c.Once {
			return err
		}
		wait := w.m.c.Interval
		for range min(failed, 10) {
			wait = min(2*wait, max(maxBackoff, w.m.c.Interval))
		}
		if sleep(ctx, wait) != nil {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func unreadable(err error) error { return &verify.Unreadable{What: "log", Err: err} }

// round looks at the log once. The order is that of belief. An Unreadable says that it was not seen to the end.
func (w *watch) round(ctx context.Context) error {
	now, err := w.look(ctx)
	if now == nil || err != nil {
		return err
	}
	if known, err := w.recognise(now.Origin); !known || err != nil {
		return err
	}
	if err := w.compare(ctx, now); err != nil {
		var unread *verify.Unreadable
		if errors.As(err, &unread) && ctx.Err() == nil {
			err = cmp.Or(w.await(now, false), err)
		}
		return err
	}
	if err := w.again(ctx); err != nil {
		return err
	}
	w.age(now)
	w.silent(now)
	return w.others(ctx, now)
}

// A shown is the checkpoint that the log shows as its newest, and has signed.
type shown struct {
	tlog.Checkpoint
	signed []byte
	quorum *tlog.QuorumError // who is missing; nil where the policy is met
	newest time.Time         // of its cosignatures; zero without any
}

// look fetches the newest checkpoint. It returns nil where what is served is no log's word.
func (w *watch) look(ctx context.Context) (*shown, error) {
	signed, err := w.reader.Checkpoint(ctx)
	if err != nil {
		return nil, unreadable(err)
	}
	if _, err := tlog.UnverifiedCheckpoint(signed); err != nil {
		return nil, unreadable(fmt.Errorf("what it serves as its checkpoint is none: %w", err))
	}
	now, err := w.judge(signed)
	if err != nil {
		w.ail(Event{Kind: Unsigned, Level: Alert, Reason: err.Error()}, 0)
		return nil, nil
	}
	w.well(Unsigned, "", "")
	return now, nil
}

// judge makes what the policy does of a signed checkpoint. An error says that no log signed it.
func (w *watch) judge(signed []byte) (*shown, error) {
	s := &shown{signed: signed}
	c, cosigs, err := w.m.c.Policy.Check(signed)
	if err != nil && !errors.As(err, &s.quorum) {
		return nil, err
	}
	s.Checkpoint = c
	for _, x := range cosigs {
		if t := x.At(); t.After(s.newest) {
			s.newest = t
		}
	}
	return s, nil
}

// recognise says whether the log is the one that is followed here, and the first time finds what is remembered of it.
func (w *watch) recognise(origin string) (bool, error) {
	if w.origin == "" {
		var err error
		if w.origin, err = w.m.memory.followedAt(w.url); err != nil {
			return false, err
		}
		w.origin = cmp.Or(w.origin, origin)
	}
	if origin != w.origin {
		w.ail(Event{Kind: AnotherLog, Level: Alert, Reason: fmt.Sprintf("the address shows the log %s, and showed %s before; that is not followed in its place", origin, w.origin)}, 0)
		return false, nil
	}
	w.well(AnotherLog, "", "")
	if w.state != nil {
		return true, nil
	}
	if err := w.m.claim(origin, w.url); err != nil {
		return false, err
	}
	s, err := w.m.memory.load(origin)
	if err != nil {
		return false, err
	}
	if s == nil {
		s = &state{Origin: origin}
	}
	s.URL, w.state = w.url, s
	if err := w.revive(); err != nil {
		return false, err
	}
	w.whole = !w.m.c.Full || w.follower == nil
	e := Event{Kind: Following, Level: Note, Reason: "from its beginning: nothing is remembered of it"}
	if w.follower != nil {
		_, head := w.follower.Checkpoint()
		e = e.is(head)
		e.Reason = fmt.Sprintf("from size %d, which is remembered", head.Size)
	}
	w.tell(e)
	return true, w.open(origin)
}

// open finds the other places at which the log can be seen.
func (w *watch) open(origin string) error {
	sum := sha256.Sum256([]byte(origin))
	for i, url := range slices.Concat(w.m.c.Witnesses, w.m.c.Peers) {
		v := &view{name: strings.TrimRight(url, "/"), peer: i >= len(w.m.c.Witnesses)}
		if v.name == w.url || slices.ContainsFunc(w.views, func(x *view) bool { return x.name == v.name }) {
			continue // it is looked at already
		}
		at := v.name
		if !v.peer {
			at += "/" + hex.EncodeToString(sum[:])
		}
		var err error
		if v.reader, err = w.m.reader(at); err != nil {
			return err
		}
		w.views = append(w.views, v)
	}
	return nil
}

// revive makes the follower what was remembered last.
func (w *watch) revive() error {
	w.follower = nil
	if w.state.Log == nil {
		return nil
	}
	f, err := verify.ParseFollower(w.state.Log, w.trust)
	if err != nil {
		return damaged(w.m.memory.place(w.origin), err)
	}
	w.follower = f
	return nil
}

// save remembers what the follower has come to.
func (w *watch) save() error {
	b, err := w.follower.Append(nil)
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	w.state.Log = b
	signed, _ := w.follower.Checkpoint()
	return w.m.memory.save(w.state, signed)
}

// again reads the whole log again, once, if that is asked for and an earlier run has read some of it.
func (w *watch) again(ctx context.Context) error {
	if w.whole || w.follower == nil {
		return nil
	}
	signed, _ := w.follower.Checkpoint()
	trust := w.trust
	trust.Kept = []verify.Kept{{Name: "remembered", Signed: signed}}
	rep, err := verify.CheckLog(ctx, w.reader, trust, w.progress())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(rep.Findings, func(f verify.Finding) bool { return f.Claim == verify.LogReadable }) {
		return nil // its checkpoint was not signed this time, and nothing was read
	}
	w.whole = true
	if slices.ContainsFunc(rep.Findings, func(f verify.Finding) bool { return f.Claim == verify.RootMatches && !f.OK }) {
		w.tamper(Event{}, rep) // and whatever else is false of it need not be of what the log signed
		return nil
	}
	return w.report(ctx, rep)
}

// report tells what a report finds false. Whether the checkpoint is signed and cosigned is told elsewhere.
func (w *watch) report(ctx context.Context, rep verify.Report) error {
	var served *verify.Finding
	for i, f := range rep.Findings {
		switch {
		case f.OK, f.Claim == verify.CheckpointSigned, f.Claim == verify.CheckpointCosigned:
		case f.Claim == verify.TilesMatch:
			// It may be read again and again; while it lasts it is told once.
			if served == nil {
				served = &rep.Findings[i]
			}
		case len(rep.Forks) > 0 && (f.Claim == verify.HistoryConsistent || f.Claim == verify.CheckpointsHonoured):
			// With their evidence, below.
		default:
			w.tell(Event{Kind: False, Level: Finding, Claim: f.Claim, Subject: f.Subject, Reason: f.Detail})
		}
	}
	if served != nil {
		w.ail(Event{Kind: Tampered, Level: Finding, Claim: served.Claim, Reason: fmt.Sprintf("what is served is not what the log signed: %s: %s", served.Subject, served.Detail)}, 0)
	} else {
		w.well(Tampered, "", "")
	}
	var end error
	for _, f := range rep.Forks {
		a, errA := tlog.UnverifiedCheckpoint(f.A)
		b, errB := tlog.UnverifiedCheckpoint(f.B)
		if errA != nil || errB != nil {
			continue // they were verified when they were put into the report
		}
		e := Event{Kind: Fork, Level: Finding, Subject: fmt.Sprintf("checkpoint of size %d", a.Size), Reason: f.Reason}.was(a).is(b)
		c := contradiction{a: f.A, b: f.B}
		if a.Size > b.Size {
			e.Kind, c.a, c.b = Rollback, f.B, f.A
		} else if v, prefix, proof, _ := reconcile(ctx, w.reader, a, b); v == contradicts {
			c.prefix, c.proof = prefix, proof
		}
		if err := w.contradict(e, c); err != nil {
			end = err
		}
	}
	return end
}

// compare holds what the log shows now against what is remembered, and reads on to it.
func (w *watch) compare(ctx context.Context, now *shown) error {
	if w.follower == nil {
		return w.advance(ctx, now)
	}
	signed, head := w.follower.Checkpoint()
	for range looks - 1 {
		if now.Size >= head.Size {
			break
		}
		if err := sleep(ctx, blink); err != nil {
			return unreadable(err)
		}
		next, err := w.look(ctx)
		if next == nil || err != nil {
			return err
		}
		if next.Origin != w.origin {
			return nil // the next round says so
		}
		*now = *next
	}
	fork := Event{Kind: Fork, Level: Finding}.was(head).is(now.Checkpoint)
	switch {
	case now.Size < head.Size:
		v, prefix, proof, _ := reconcile(ctx, w.reader, now.Checkpoint, head)
		switch v {
		case contradicts:
			fork.Reason = fmt.Sprintf("the log now shows a tree of %d entries that is no part of the one of %d that it showed before", now.Size, head.Size)
			return w.contradict(fork, contradiction{a: now.signed, b: signed, prefix: prefix, proof: proof})
		case continues:
			fork.Reason = fmt.Sprintf("the log had %d entries and now shows %d of the same: it was put back, or a cache before it is stale", head.Size, now.Size)
		default:
			fork.Reason = fmt.Sprintf("the log had %d entries and now shows %d, and not that these are the same: it was put back", head.Size, now.Size)
		}
		fork.Kind = Rollback
		return w.contradict(fork, contradiction{a: now.signed, b: signed})
	case now.Size == head.Size && now.Root != head.Root:
		fork.Reason = fmt.Sprintf("the log signed two roots of its first %d entries", now.Size)
		return w.contradict(fork, contradiction{a: signed, b: now.signed})
	case now.Size == head.Size:
		w.sound()
		if now.quorum == nil && w.fresher(now, signed) {
			return w.advance(ctx, now)
		}
		w.cosigned(now)
		return nil
	case now.quorum != nil:
		w.cosigned(now)
		// It is not followed there, but it is the log's word: it must continue what is remembered, and the word before it.
		befores := []contradiction{{a: signed}}
		if i, waits := w.ahead(w.url); waits {
			befores = append(befores, contradiction{a: []byte(w.state.Ahead[i].Signed)})
		}
		for _, c := range befores {
			before, err := tlog.UnverifiedCheckpoint(c.a)
			if err != nil || before.Size > now.Size {
				continue
			}
			var v verdict
			if v, c.prefix, c.proof, err = reconcile(ctx, w.reader, before, now.Checkpoint); err != nil {
				return unreadable(err)
			}
			if c.b = now.signed; v != continues {
				return w.growth(v, fork.was(before), c)
			}
		}
		w.sound()
		return w.await(now, true)
	}
	return w.advance(ctx, now)
}

// await remembers a larger checkpoint that the log has signed and that was not followed: what is followed later must come to
// it. Of several it is the first, unless this one is proven to continue it.
func (w *watch) await(now *shown, proven bool) error {
	if w.follower == nil {
		return nil
	}
	i, waits := w.ahead(w.url)
	if _, head := w.follower.Checkpoint(); now.Size <= head.Size || waits && (!proven || w.state.Ahead[i].Signed == string(now.signed)) {
		return nil
	}
	a := ahead{w.url, time.Now().UTC().Truncate(time.Millisecond), string(now.signed)}
	if waits {
		w.state.Ahead[i] = a
	} else {
		w.state.Ahead = slices.Insert(w.state.Ahead, i, a)
	}
	return w.save()
}

// growth says what there is to say of a larger tree that does not continue what was signed before.
func (w *watch) growth(v verdict, e Event, c contradiction) error {
	e.Reason = fmt.Sprintf("the log signed a tree of %d entries whose first %d are not those that it signed before", *e.Size, *e.OldSize)
	if v != contradicts {
		e.Kind, c.prefix, c.proof = Unproven, nil, nil
		e.Reason = fmt.Sprintf("the log signed a tree of %d entries, and nothing that it shows under it has that root or continues the %d that it signed before", *e.Size, *e.OldSize)
	}
	return w.contradict(e, c)
}

// sound says that what the log shows goes with what is remembered.
func (w *watch) sound() {
	for _, k := range []Kind{Fork, Rollback, Unproven} {
		w.well(k, "", "")
	}
}

// cosigned sees whether the policy is met.
func (w *watch) cosigned(now *shown) {
	if now.quorum != nil {
		w.ail(Event{Kind: Uncosigned, Level: Alert, Reason: now.quorum.Error()}.is(now.Checkpoint), w.m.c.Patience)
		return
	}
	w.well(Uncosigned, "", "")
}

// fresher says whether the same checkpoint has a newer cosignature than the one that is remembered.
func (w *watch) fresher(now *shown, signed []byte) bool {
	was, err := w.judge(signed)
	return err == nil && now.newest.After(was.newest)
}

// advance reads on to what the log shows, tells what was found on the way, and remembers it.
func (w *watch) advance(ctx context.Context, now *shown) error {
	w.cosigned(now)
	if now.quorum != nil {
		return nil // nothing is remembered yet, and this will not be
	}
	var signed []byte
	var head tlog.Checkpoint
	var rep verify.Report
	for try := 1; ; try++ {
		if w.follower == nil {
			w.follower = verify.NewFollower(w.trust)
		}
		signed, head = w.follower.Checkpoint()
		var err error
		rep, err = w.follower.Follow(ctx, w.reader, now.signed, w.progress())
		if got, _ := w.follower.Checkpoint(); err == nil && bytes.Equal(got, now.signed) {
			break
		}
		if err := w.revive(); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		// What was served does not hash to the root. Is it another tree, or is the right one served wrong?
		v, c := continues, contradiction{a: signed, b: now.signed}
		if signed != nil {
			if v, c.prefix, c.proof, err = reconcile(ctx, w.reader, head, now.Checkpoint); err != nil {
				return unreadable(err)
			}
		}
		if v == contradicts || v == unproven && try > 1 {
			return w.growth(v, Event{Kind: Fork, Level: Finding}.was(head).is(now.Checkpoint), c)
		}
		if try > 1 {
			w.tamper(Event{}.is(now.Checkpoint), rep)
			return w.await(now, false)
		}
	}
	w.sound()
	ended := w.report(ctx, rep)
	if ended != nil && ended != errEnd {
		return ended
	}
	if now.Size > head.Size || signed == nil {
		w.state.Seen = time.Now().UTC().Truncate(time.Millisecond)
	}
	if err := w.save(); err != nil {
		return err
	}
	if now.Size > head.Size || signed == nil {
		e := Event{Kind: Grown, Level: Note, Reason: fmt.Sprintf("%d entries, all read and remembered", now.Size)}.is(now.Checkpoint)
		if signed != nil {
			e = e.was(head)
		}
		w.tell(e)
	}
	return ended
}

// tamper says that the entries that are served do not hash to the root that the log signed.
func (w *watch) tamper(e Event, rep verify.Report) {
	e.Kind, e.Level, e.Reason = Tampered, Finding, "what is served does not hash to the root that the log signed"
	for _, f := range rep.Findings {
		if !f.OK && (f.Claim == verify.TilesMatch || f.Claim == verify.RootMatches) {
			e.Reason += fmt.Sprintf("; %s: %s", f.Subject, f.Detail)
			break
		}
	}
	w.ail(e, 0)
}

// A contradiction is two checkpoints that no history can have; b is the larger one, or the later. prefix is the root that
// the tree of b has over as many entries as a has, and proof proves it; both nil where there is nothing to prove.
type contradiction struct {
	a, b   []byte
	prefix *tlog.Hash
	proof  tlog.Proof
}

// contradict keeps the evidence and tells the finding, unless it has been told and lasts. It returns errEnd unless the
// monitor is to keep going.
func (w *watch) contradict(e Event, c contradiction) error {
	if !w.ailing(e.Kind, e.From, e.Subject) {
		var err error
		e.Evidence, err = w.m.memory.keepEvidence(evidence{
			Kind: e.Kind, Log: w.origin, URL: w.url, From: e.From, Time: time.Now().UTC().Truncate(time.Second),
			Reason: e.Reason, Prefix: c.prefix, Proof: c.proof,
		}, c.a, c.b)
		if err != nil {
			return err
		}
		w.ail(e, 0)
	}
	if w.m.c.KeepGoing {
		return nil
	}
	return errEnd
}

// age sees how old what the log shows is.
func (w *watch) age(now *shown) {
	if w.m.c.MaxAge == 0 || w.follower == nil {
		return
	}
	what, since := "its newest cosignature", now.newest
	if since.IsZero() {
		what, since = "its newest growth", w.state.Seen
	}
	e := Event{Kind: Stale, Level: Alert}.is(now.Checkpoint)
	switch old := time.Since(since); {
	case old > w.m.c.MaxAge:
		e.Reason = fmt.Sprintf("%s is of %s, more than %s ago", what, since.Format(time.RFC3339), w.m.c.MaxAge)
	case old < -verify.ClockSkew:
		e.Reason = fmt.Sprintf("%s is of %s, which is yet to come: a witness's clock is wrong, or this one", what, since.Format(time.RFC3339))
	default:
		w.well(Stale, "", "")
		return
	}
	w.ail(e, 0)
}

// silent sees who should have beaten by now. While the log is not read to its end nobody can tell.
func (w *watch) silent(now *shown) {
	if w.follower == nil {
		return
	}
	if _, head := w.follower.Checkpoint(); head != now.Checkpoint {
		return
	}
	quiet := make(map[string]bool)
	for _, s := range w.follower.Silent(time.Now()) {
		quiet[s.By] = true
		w.ail(Event{Kind: Silent, Level: Alert, Subject: s.By, Reason: fmt.Sprintf("%s beats every %s and has written nothing since %s: it ended without a stop entry, or is cut off from the log", s.By, s.Every, s.Since.Format(time.RFC3339))}, 0)
	}
	for _, t := range w.troubles {
		if t.last.Kind == Silent && !quiet[t.last.Subject] {
			w.well(Silent, "", t.last.Subject)
		}
	}
}

// progress tells now and then how far a long reading has come.
func (w *watch) progress() func(done, size uint64) {
	last := time.Now()
	return func(done, size uint64) {
		if time.Since(last) >= 10*time.Second {
			last = time.Now()
			w.tell(Event{Kind: Reading, Level: Note, Reason: fmt.Sprintf("%d of %d entries", done, size)})
		}
	}
}

// sum tells what has come of it.
func (w *watch) sum() {
	e := Event{Kind: Stopped, Level: Note, Reason: "nothing is remembered of it"}
	if w.follower != nil {
		if signed, head := w.follower.Checkpoint(); signed != nil {
			e = e.is(head)
			e.Reason = fmt.Sprintf("%d entries are remembered", head.Size)
		}
	}
	e.Reason += fmt.Sprintf("; rounds: %d", w.rounds)
	for _, key := range slices.Sorted(maps.Keys(w.troubles)) {
		if t := w.troubles[key]; t.told {
			e.Reason += fmt.Sprintf("; still %s", strings.TrimSpace(key))
		}
	}
	w.tell(e)
}
