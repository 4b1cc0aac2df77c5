package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// readers is how many tiles of a log are fetched at a time.
const readers = 8

// CheckLog answers for a whole log. It reads the newest checkpoint and every entry below it, once and in order, and
// keeps no more of them than what is still open:
//
//  1. the checkpoint is signed and cosigned          or else nothing below it is anybody's word
//  2. every leaf is hashed from its entry            and every served tile compared, level by level
//  3. every kept checkpoint's root is compared       when the entries below it have been hashed: those that the log
//     kept, and those that the auditor brought along
//  4. every entry is read                            and the books of its writer continued
//  5. the root is compared
//
// Where r is a [tlog.History] its earlier checkpoints are checked as well. progress, if not nil, is told now and then how
// many of the entries were done; it runs on the caller's goroutine.
//
// An error is an [*Unreadable]; the report then has what was found until then.
func CheckLog(ctx context.Context, r tlog.Reader, trust Trust, progress func(done, size uint64)) (Report, error) {
	var rep Report
	signed, err := r.Checkpoint(ctx)
	if err != nil {
		if errors.Is(err, tlog.ErrNotFound) {
			err = fmt.Errorf("there is no checkpoint; is this the place of a log, and has it published? %w", err)
		}
		return rep, rep.unreadable(LogReadable, "log", err)
	}
	return NewFollower(trust).Follow(ctx, r, signed, progress)
}

// An audit is one reading of a log, from where its follower has come to up to the checkpoint head.
type audit struct {
	*Follower
	r      tlog.Reader
	from   uint64 // the size of what was read before
	head   witnessed
	signed []byte // head, as it was found
	wrong  wrongs
	past   past
	kept   kept
}

func newAudit(f *Follower, r tlog.Reader, head witnessed, signed []byte) *audit {
	a := &audit{Follower: f, r: r, from: f.head.Size, head: head, signed: signed, wrong: make(wrongs)}
	a.past = past{judge: f.judge, after: a.from, upTo: head.Size}
	a.past.history, _ = r.(tlog.History)
	a.books.wrong, a.books.crashed, a.books.gaps = a.wrong, listed[string]{}, listed[Finding]{}
	return a
}

// read goes through the log once.
func (a *audit) read(ctx context.Context, progress func(done, size uint64)) error {
	size := a.head.Size
	a.honour(a.from, a.tree.leaves)
	err := readBatches(ctx, a.r, a.from, size, func(b *batch) error {
		begin := a.again(b)
		for i := begin; i < len(b.entries); i++ {
			if index := b.first + uint64(i); index > a.from {
				if err := a.checkpoints(ctx, index, b.leaves[:i]); err != nil {
					return err
				}
			}
			a.entry(&b.entries[i])
		}
		if err := a.grow(ctx, b); err != nil {
			return err
		}
		if progress != nil {
			progress(b.first+uint64(len(b.entries)), size)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rest, err := a.last(ctx)
	if err != nil {
		return err
	}
	if size > a.from {
		if err := a.checkpoints(ctx, size, rest); err != nil {
			return err
		}
	}
	a.beyond()
	if root := a.tree.root(rest); root != a.head.Root {
		a.wrong.add(RootMatches, "log", "the entries hash to %s, and the checkpoint states %s", root, a.head.Root)
	} else {
		a.kept.proven()
	}
	a.clock.seen(a.wrong, a.head)
	return nil
}

// again compares the entries of a batch that were read before with what they were then, which is what counts, and
// returns how many these are.
func (a *audit) again(b *batch) int {
	if b.first >= a.from {
		return 0
	}
	known := a.tree.leaves
	for i, was := range known {
		if b.leaves[i] != was {
			a.wrong.add(TilesMatch, subjectEntry(b.first+uint64(i)), "it is served as another than the one that was read before: it hashes to %s and did to %s", b.leaves[i], was)
		}
	}
	return copy(b.leaves, known)
}

func (a *audit) entry(st *statement) {
	if st.err != nil {
		a.wrong.add(EntryCanonical, subjectEntry(st.index), "%v", st.err)
		return
	}
	a.clock.entry(a.wrong, st)
	a.books.entry(st)
}

// checkpoints checks the kept checkpoints of exactly this size, if there are any: the log's own, and those that were
// brought along. leaves are those of the last tile, up to the size.
func (a *audit) checkpoints(ctx context.Context, size uint64, leaves []tlog.Hash) error {
	a.honour(size, leaves)
	signed, err := a.past.at(ctx, size)
	if signed == nil || err != nil {
		return err
	}
	subject := fmt.Sprintf("checkpoint of size %d", size)
	w, signedErr, _ := a.judge.judge(signed)
	switch root := a.tree.root(leaves); {
	case signedErr != nil:
		a.wrong.add(HistoryConsistent, subject, "%v", signedErr)
	case w.Origin != a.head.Origin || w.Size != size:
		a.wrong.add(HistoryConsistent, subject, "in its place stands one of %q, size %d", w.Origin, w.Size)
	case w.Root != root:
		a.wrong.add(HistoryConsistent, subject, "the log signed the root %s, and its entries now hash to %s: its history was changed", w.Root, root)
		a.fork(w.Checkpoint, signed, fmt.Sprintf("the log itself kept the first, of size %d, and its entries now hash to another root there", size))
	case size < a.head.Size: // or else it is the newest once more, whose own cosignatures count
		a.clock.seen(a.wrong, w)
	}
	return nil
}

// grow adds a batch to the tree and compares the tiles that it completes.
func (a *audit) grow(ctx context.Context, b *batch) error {
	a.compare(tlog.TileAt(0, b.first, a.head.Size), b.leaves, b.served)
	if len(b.leaves) < tlog.TileWidth {
		a.tree.leaves = b.leaves
		return nil
	}
	a.tree.leaves = nil
	for _, t := range a.tree.add(b.leaves) {
		if err := a.compareServed(ctx, t.tile, t.hashes); err != nil {
			return err
		}
	}
	return nil
}

// last compares the partial tiles above level 0, and returns the leaves of the last tile, if it is partial.
func (a *audit) last(ctx context.Context) ([]tlog.Hash, error) {
	for level, hs := range a.tree.levels {
		if level == 0 || len(hs) == 0 {
			continue
		}
		last := a.head.Size>>(tlog.TileHeight*level) - 1
		if err := a.compareServed(ctx, tlog.TileAt(level, last, a.head.Size), hs); err != nil {
			return nil, err
		}
	}
	return a.tree.leaves, nil
}

func (a *audit) compareServed(ctx context.Context, t tlog.Tile, want []tlog.Hash) error {
	data, err := tlog.ReadTile(ctx, a.r, t)
	if err != nil {
		return err
	}
	served, err := tlog.ParseHashes(data, t.Width)
	if err != nil {
		return err
	}
	a.compare(t, want, served)
	return nil
}

func (a *audit) compare(t tlog.Tile, want, served []tlog.Hash) {
	a.tree.compared++
	for i := range want {
		if want[i] != served[i] {
			a.wrong.add(TilesMatch, t.Path(), "hash %d is served as %s, and the entries hash to %s", i, served[i], want[i])
			return
		}
	}
}

// wrongs are what was found false, by claim: the first few at length, the others counted.
type wrongs map[Claim]*wrong

type wrong struct {
	listed []Finding
	more   int
}

func (w wrongs) add(c Claim, subject, format string, a ...any) {
	x := w[c]
	if x == nil {
		x = new(wrong)
		w[c] = x
	}
	if len(x.listed) == maxListed {
		x.more++
		return
	}
	x.listed = append(x.listed, Finding{Claim: c, Subject: subject, Detail: fmt.Sprintf(format, a...)})
}

// report adds a claim: what was found false of it, or else that it holds.
func (w wrongs) report(r *Report, c Claim, format string, a ...any) {
	x := w[c]
	if x == nil {
		r.holds(c, "log", format, a...)
		return
	}
	r.Findings = append(r.Findings, x.listed...)
	if x.more > 0 {
		r.isFalse(c, "log", "and %d times more", x.more)
	}
}

// report puts everything in its order. After an error a claim that was not found false is not said to hold.
func (a *audit) report(r *Report, err error) {
	r.Forks = a.kept.forks
	if err != nil {
		for _, c := range []Claim{EntryCanonical, TilesMatch, HistoryConsistent, CheckpointsHonoured, BootsOrdered, NumbersWhole, LossesDeclared, SessionChain, SessionsFinished, PolicyNamed, ApprovalGiven, HeartbeatTrue, HeartbeatsSteady, TimesOrdered, TimesBracketed} {
			if a.wrong[c] != nil {
				a.wrong.report(r, c, "")
			}
		}
		r.isFalse(LogReadable, "log", "%v", err)
		r.notProven("anything else: the log was not read to its end")
		return
	}
	b := &a.books
	b.end()
	r.holds(LogReadable, "log", "%s", count(a.head.Size, "entry", "entries"))
	a.wrong.report(r, EntryCanonical, "%s", count(a.head.Size, "entry", "entries"))
	a.wrong.report(r, TilesMatch, "%s", count(a.tree.compared, "tile", "tiles"))
	a.wrong.report(r, RootMatches, "%s", a.head.Root)
	switch {
	case a.past.history == nil:
		r.notProven("that earlier checkpoints agree with this one: the log shows none")
	default:
		a.wrong.report(r, HistoryConsistent, "%s", count(a.compared+a.past.count, "kept checkpoint", "kept checkpoints"))
		r.notProven("that no other checkpoint was ever signed: these are the ones that were kept")
	}
	if a.kept.held > 0 {
		a.wrong.report(r, CheckpointsHonoured, "%s", count(a.kept.held, "checkpoint that was brought along", "checkpoints that were brought along"))
	}
	a.wrong.report(r, BootsOrdered, "%s of %s", count(b.Boots, "boot", "boots"), count(len(b.pens), "writer", "writers"))
	a.wrong.report(r, NumbersWhole, "of every boot")
	r.Findings = append(r.Findings, b.gaps.first...)
	a.wrong.report(r, LossesDeclared, "%s lost, in %s", count(b.Lost, "entry", "entries"), count(b.Gaps, "gap", "gaps"))
	a.wrong.report(r, SessionChain, "%s, and %d refused", count(b.Sessions, "session", "sessions"), b.Refused)
	a.wrong.report(r, SessionsFinished, "but for %d that are still open", len(b.open))
	if b.Judged > 0 || a.wrong[PolicyNamed] != nil {
		a.wrong.report(r, PolicyNamed, "by %s", count(b.Judged, "request or refusal", "requests and refusals"))
	}
	if b.Approved > 0 || a.wrong[ApprovalGiven] != nil {
		a.wrong.report(r, ApprovalGiven, "used once by %s", count(b.Approved, "session", "sessions"))
	}
	a.wrong.report(r, HeartbeatTrue, "%s", count(b.Beats, "heartbeat or stop", "heartbeats and stops"))
	if b.Paced > 0 {
		a.wrong.report(r, HeartbeatsSteady, "of %s, by what their start entries say", count(b.Paced, "boot", "boots"))
	}
	a.wrong.report(r, TimesOrdered, "within every boot")
	if a.clock.checkpoints > 0 {
		a.wrong.report(r, TimesBracketed, "by %s; clocks may be %s apart", count(a.clock.checkpoints, "cosigned checkpoint", "cosigned checkpoints"), ClockSkew)
	}
	for _, why := range a.kept.unused.first {
		r.notProven("%s", why)
	}
	if n := a.kept.unused.more; n > 0 {
		r.notProven("anything by %d further checkpoints that were brought along", n)
	}
	b.notProven(r, a.clock.newest)
	r.notProvenOf(a.judge, a.head)
	r.notProven("that what was written down is what happened, or that every call went through a gateway that writes to this log")
	r.notProven("that an id is not given to a second session after the first has ended")
}

// A batch is the entries of one tile and what they hash to.
type batch struct {
	first   uint64 // index of the first entry
	entries []statement
	leaves  []tlog.Hash // computed
	served  []tlog.Hash // as the log has them in its tile
	err     error
}

// readBatches reads all entries below size, from the tile on that has the entry from, several tiles at a time, and hands them
// over in order.
func readBatches(ctx context.Context, r tlog.Reader, from, size uint64, use func(*batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	type job struct {
		first uint64
		done  chan *batch
	}
	jobs := make(chan job)
	order := make(chan chan *batch, 2*readers) // bounds what is read ahead
	wg.Go(func() {
		defer close(jobs)
		defer close(order)
		for first := from - from%tlog.TileWidth; first < size; first += tlog.TileWidth {
			j := job{first, make(chan *batch, 1)}
			select {
			case order <- j.done:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return
			}
		}
	})
	for range readers {
		wg.Go(func() {
			for j := range jobs {
				j.done <- readBatch(ctx, r, j.first, size)
			}
		})
	}
	for done := range order {
		var b *batch
		select {
		case b = <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if b.err != nil {
			return b.err
		}
		if err := use(b); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func readBatch(ctx context.Context, r tlog.Reader, first, size uint64) *batch {
	b := &batch{first: first}
	t := tlog.TileAt(tlog.EntriesLevel, first, size)
	data, err := tlog.ReadTile(ctx, r, t)
	if err != nil {
		b.err = err
		return b
	}
	raw, err := tlog.ParseBundle(data, t.Width)
	if err != nil {
		b.err = fmt.Errorf("%s: %w", t.Path(), err)
		return b
	}
	b.entries, b.leaves = make([]statement, len(raw)), make([]tlog.Hash, len(raw))
	for i := range raw {
		st := &b.entries[i]
		st.index, st.leaf = first+uint64(i), tlog.HashLeaf(raw[i])
		st.record, st.err = record.ParseEntry(raw[i])
		b.leaves[i] = st.leaf
	}
	t = tlog.TileAt(0, first, size)
	if data, err = tlog.ReadTile(ctx, r, t); err == nil {
		b.served, err = tlog.ParseHashes(data, t.Width)
	}
	b.err = err
	return b
}
