package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// A published is what readers see: a checkpoint and the right edge of a tree at least as large.
type published struct {
	size   uint64
	signed []byte
	edge   *edge
	at     time.Time // when it came to be; zero where it was found at Open
}

// since returns the size of p and when it came to be, start where that was before.
func (p *published) since(start time.Time) (size uint64, at time.Time) {
	switch {
	case p == nil:
		return 0, start
	case p.at.IsZero():
		return p.size, start
	}
	return p.size, p.at
}

// A publisher is what stands between durable and shown. But for the atomics it belongs to Run's publishing goroutine.
type publisher struct {
	anchored atomic.Uint64 // the size that the anchor remembers
	waiting  atomic.Int64  // since when, in l.now, entries are durable and not anchored; 0 for none

	known      bool   // the anchor has told what it remembers
	remembered []byte // what that is, as far as we know; nil for nothing

	recount *recount // nil after a read failed
	counted state    // what recount last agreed on with the sequencer
	fresh   fresh    // what recount read that the index of digests lacks

	// A checkpoint on its way. Only one is, and nothing of a larger size is begun before it has been shown.
	attempt []byte           // its text, while the anchor may or may not remember it
	aiming  tlog.Checkpoint  // attempt, parsed
	unknown bool             // the outcome of the last Swap of attempt is unknown: ask before anything else
	unsure  bool             // some Swap of attempt had an unknown outcome: it may yet be applied
	refused bool             // some Swap of attempt met another checkpoint
	pending *tlog.Checkpoint // anchored, to be signed exactly as it is

	// Kept checkpoints: the newest, when it came, and when the one before came that stays.
	kept           uint64
	keptAt, stayed time.Time
}

// now is a clock that only goes forward, in nanoseconds, and is never 0.
func (l *Log) now() int64 { return int64(time.Since(l.start)) + 1 }

// publishAll publishes at every interval while the log grows. What fails is tried again, at a slower pace.
func (l *Log) publishAll(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	var wait time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.broken:
			return
		case <-l.cosigning.answer:
		case <-t.C:
		}
		begun := time.Now()
		err := l.publish(ctx)
		l.index(ctx)
		if err == nil || errors.Is(err, errUnasked) {
			wait = max(l.cfg.Interval-time.Since(begun), l.cfg.Interval/10)
		} else if ctx.Err() == nil && l.stopReason() == nil {
			l.cfg.Logger.Warn("checkpoint delayed", "origin", l.cfg.Origin, "error", err)
			wait = min(max(2*wait, l.cfg.Interval), max(2*time.Second, l.cfg.Interval))
		}
		t.Reset(wait)
	}
}

// ErrUnsigned is how Run ends where the anchor, the signer or the witnesses did not answer in time. Nothing is lost: open
// the log again when they do.
var ErrUnsigned = errors.New("tlog/local: durable and not yet signed for; the next Run does that")

// publishLast publishes all that is durable, for the end of Run.
func (l *Log) publishLast(ctx context.Context) error {
	wait := l.cfg.Interval / 10
	for {
		err := l.publish(ctx)
		l.index(ctx)
		if errors.Is(err, errUnasked) {
			if err = l.cosign(ctx); err == nil {
				continue
			}
		}
		if reason := l.stopReason(); reason != nil {
			return reason
		}
		if p := l.kept.Load(); err == nil && (l.Size() == 0 || p != nil && p.size == l.Size()) {
			l.cosignLast(ctx)
			return nil
		}
		if err != nil {
			select {
			case <-time.After(wait):
				wait *= 2
			case <-ctx.Done():
				return fmt.Errorf("%d entries: %w: %w", l.Size(), ErrUnsigned, err)
			}
		}
	}
}

// index extends the index of digests. It lies beside the order of publish, and what fails is tried again: what the
// index does not reach is found without it.
func (l *Log) index(ctx context.Context) {
	if err := l.judge(l.extendIndex(ctx)); err != nil && ctx.Err() == nil && l.stopReason() == nil {
		l.cfg.Logger.Warn("index of digests delayed", "origin", l.cfg.Origin, "error", err)
	}
}

// publish makes the tree that is durable now visible. The order is the whole of its safety:
//
//  1. read the new entries back and hash them again, three ways; all must give the sequencer's root
//  2. sync the head file, so that it knows them
//  3. anchor by compare-and-swap     from here on this history is ours, whatever happens
//  4. sign exactly what was anchored, and check the signature with the pinned key
//  5. keep it in the store, synced
//  6. show it, or have it cosigned first: see cosign
//
// With witnesses, nothing new is begun after a start before they have been asked.
//
// It goes on where it stopped. A crash between any two steps converges at the next start by the same steps: what the
// store holds and the anchor does not is anchored; what is anchored and not kept is signed exactly again.
func (l *Log) publish(ctx context.Context) error {
	p := &l.publisher
	if !p.known || p.unknown {
		if err := l.ask(ctx); err != nil {
			return err
		}
	}
	if p.pending == nil {
		if p.attempt == nil {
			d, err := l.due()
			if err != nil || d == nil {
				return err
			}
			if err := l.reread(ctx, *d); err != nil {
				return l.judge(err)
			}
			p.aiming = d.checkpoint(l.cfg.Origin)
			p.attempt = p.aiming.Text()
		}
		if err := l.syncHead(p.aiming.Size); err != nil {
			return err
		}
		if err := l.anchor(ctx); err != nil {
			return err
		}
	}
	if err := l.syncHead(p.pending.Size); err != nil {
		return err
	}
	signed, err := l.sign(*p.pending)
	if err != nil {
		l.counts.signErrors.Add(1)
		return err
	}
	if err := l.keep(p.pending.Size, signed); err != nil {
		return err
	}
	p.pending = nil
	return nil
}

// due returns what is to be anchored next, nil for nothing.
func (l *Log) due() (*state, error) {
	d := l.durable.Load()
	switch {
	case l.mayBegin():
		if d.size == l.publisher.anchored.Load() {
			return nil, nil
		}
		return d, nil
	case l.kept.Load() != nil:
		return nil, errUnasked
	}
	return &state{0, tlog.EmptyRoot()}, nil // what the witnesses of a log that never signed are asked with
}

// cosignLast has the last checkpoint of this Run cosigned. Where it is not, the next Run does that first of all.
func (l *Log) cosignLast(ctx context.Context) {
	if l.cfg.Cosigner == nil || !l.uncosigned() {
		return
	}
	if err := l.cosign(ctx); err != nil {
		l.cfg.Logger.Warn("the last checkpoint is not cosigned yet", "origin", l.cfg.Origin, "error", err)
	}
}

func (l *Log) syncHead(size uint64) error {
	if err := l.head.sync(size); err != nil {
		l.halt(err) // a sync that failed once is not to be believed the second time
		return err
	}
	return nil
}

// reread counts the durable entries again and compares with what the sequencer says.
func (l *Log) reread(ctx context.Context, d state) error {
	p := &l.publisher
	if d.size == 0 {
		return nil
	}
	return l.withStore(func(db *pebble.DB) error {
		if p.recount == nil {
			r, err := recountFrom(db, p.counted.size&^(tlog.TileWidth-1))
			if err != nil {
				return err
			}
			again, err := r.extend(ctx, p.counted.size)
			if err != nil {
				return err
			}
			if err := l.same("counted before", p.counted, "counted again", again); err != nil {
				return err
			}
			p.recount = r
		}
		p.recount.seen = p.fresh.add
		found, err := p.recount.extend(ctx, d.size)
		if err == nil {
			err = l.same("sequenced", d, "found in the store", found)
		}
		if err != nil {
			p.recount, p.fresh = nil, fresh{from: noEntry}
			return err
		}
		p.counted = found
		return nil
	})
}

// same says that two states of one log contradict each other unless they are equal.
func (l *Log) same(what string, a state, than string, b state) error {
	if a == b {
		return nil
	}
	return &damageError{
		reason: fmt.Sprintf("the log was %s with %d entries and root %s, and is %s with %d entries and root %s", what, a.size, a.root, than, b.size, b.root),
		a:      a.checkpoint(l.cfg.Origin).Text(),
		b:      b.checkpoint(l.cfg.Origin).Text(),
	}
}

// anchor tries once to make the anchor remember p.attempt.
func (l *Log) anchor(ctx context.Context) error {
	p := &l.publisher
	call, cancel := context.WithTimeout(ctx, l.cfg.AnchorTimeout)
	defer cancel()
	err := l.cfg.Latest.Swap(call, l.cfg.Origin, p.remembered, p.attempt)
	switch {
	case err == nil:
		l.anchoredAttempt()
		return nil
	case errors.Is(err, tlog.ErrConflict):
		p.refused = true
	default:
		l.counts.anchorErrors.Add(1)
		p.unsure = true
	}
	p.unknown = true
	if aerr := l.ask(ctx); aerr != nil {
		return errors.Join(err, aerr)
	}
	if p.attempt != nil {
		return fmt.Errorf("anchor: the swap was not applied: %w", err)
	}
	return nil
}

func (l *Log) anchoredAttempt() {
	p := &l.publisher
	c := p.aiming
	p.remembered, p.attempt = p.attempt, nil
	p.unknown, p.unsure, p.refused = false, false, false
	p.pending = &c
	l.anchoredUpTo(c.Size)
}

func (l *Log) anchoredUpTo(size uint64) {
	p := &l.publisher
	p.anchored.Store(size)
	p.waiting.Store(0)
	if l.Size() > size {
		p.waiting.CompareAndSwap(0, l.now())
	}
}

// ask loads what the anchor remembers and goes on only if that is exactly what was there before, and the swap is
// tried again with the same checkpoint, or exactly what was to be there. Anything else is another writer.
// The sequencer stands still meanwhile, for a second at most: what it would take in could be of a history that is
// already lost. An anchor that does not answer is asked again at the next interval, and admission ends when too much
// is unanchored.
func (l *Log) ask(ctx context.Context) error {
	p := &l.publisher
	l.pause.close()
	defer l.pause.open()
	defer time.AfterFunc(time.Second, l.pause.open).Stop()
	got, err := l.load(ctx)
	if err != nil {
		l.counts.anchorErrors.Add(1)
		return err
	}
	switch {
	case !p.known:
		return l.judge(l.withStore(func(db *pebble.DB) error { return l.learn(ctx, db, got) }))
	case p.unsure && bytes.Equal(got, p.attempt):
		l.anchoredAttempt()
		return nil
	case !p.refused && bytes.Equal(got, p.remembered):
		p.unknown = false
		return nil
	}
	return l.judge(&damageError{
		reason: "the anchor remembers a checkpoint that this log did not put there: another writer holds a copy of this log",
		a:      p.attempt, b: got,
	})
}

func (l *Log) load(ctx context.Context) ([]byte, error) {
	call, cancel := context.WithTimeout(ctx, l.cfg.AnchorTimeout)
	defer cancel()
	got, err := l.cfg.Latest.Load(call, l.cfg.Origin)
	if err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return got, nil
}

// learn takes in what the anchor remembers at start and holds the store against it.
func (l *Log) learn(ctx context.Context, store pebble.Reader, got []byte) error {
	p := &l.publisher
	mine := l.durable.Load().checkpoint(l.cfg.Origin).Text()
	if len(got) == 0 {
		if p.kept > 0 {
			return &damageError{reason: fmt.Sprintf("the anchor remembers nothing, and the store keeps a signed checkpoint of size %d", p.kept), a: l.kept.Load().signed}
		}
		p.known, p.remembered = true, nil
		l.anchoredUpTo(0)
		return nil
	}
	c, err := tlog.ParseCheckpoint(got)
	if err == nil && c.Origin != l.cfg.Origin {
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	if err != nil {
		return &damageError{reason: fmt.Sprintf("what the anchor remembers is no checkpoint of this log: %v", err), a: mine, b: got}
	}
	if c.Size < p.kept {
		return &damageError{reason: fmt.Sprintf("the anchor remembers %d entries, and the store keeps a signed checkpoint of %d", c.Size, p.kept), a: l.kept.Load().signed, b: got}
	}
	if err := l.continues(ctx, store, "the anchor", c, got); err != nil {
		return err
	}
	p.known, p.remembered = true, got
	if c.Size > p.kept {
		p.pending = &c
	}
	l.anchoredUpTo(c.Size)
	return nil
}

// continues holds the store against a checkpoint that who remembers: as many entries, and with the first of them the
// same root.
func (l *Log) continues(ctx context.Context, store pebble.Reader, who string, c tlog.Checkpoint, evidence []byte) error {
	d := l.durable.Load()
	mine := d.checkpoint(l.cfg.Origin)
	if c.Size > d.size {
		return &damageError{reason: fmt.Sprintf("%s knows %d entries, and the store has %d: it lost some, or is an old copy", who, c.Size, d.size), a: mine.Text(), b: evidence}
	}
	root, err := tlog.Tiles{Reader: storeTiles{store, &l.publisher.recount.edge}, Size: l.publisher.recount.edge.size}.Root(ctx, c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return &damageError{
			reason: fmt.Sprintf("%s knows the root %s of the first %d entries, and the store has other entries, with root %s", who, c.Root, c.Size, root),
			a:      state{c.Size, root}.checkpoint(l.cfg.Origin).Text(), b: evidence,
		}
	}
	return nil
}

// sign signs c and believes nobody: the bytes are opened again with the pinned key.
func (l *Log) sign(c tlog.Checkpoint) ([]byte, error) {
	keys := l.terms.Load()
	signed, err := tlog.SignCheckpoint(c, keys.signers...)
	if err != nil {
		return nil, err
	}
	got, n, err := tlog.OpenCheckpoint(signed, keys.pinned...)
	if err != nil {
		return nil, fmt.Errorf("the signer's signature is not by the pinned key: %w", err)
	}
	if len(n.Sigs) != len(keys.pinned) || len(n.UnverifiedSigs) != 0 {
		return nil, fmt.Errorf("tlog/local: %d of %d signatures are by the pinned keys", len(n.Sigs), len(keys.pinned))
	}
	if got != c {
		return nil, fmt.Errorf("tlog/local: signed a checkpoint of size %d where one of %d was due", got.Size, c.Size)
	}
	return signed, nil
}

// keep stores a signed checkpoint, shows it where nobody needs to cosign it, and says that it is there. Of those that
// came within a second only the last stays; with witnesses, those that were published.
func (l *Log) keep(size uint64, signed []byte) error {
	l.cosigning.mu.Lock()
	defer l.cosigning.mu.Unlock()
	p := &l.publisher
	now := time.Now()
	thin := p.kept > 0 && p.keptAt.Sub(p.stayed) < time.Second
	if l.cfg.Cosigner != nil {
		shown := l.published.Load()
		thin = p.kept > 0 && p.kept != size && (shown == nil || shown.size != p.kept)
	}
	err := l.withStore(func(db *pebble.DB) error {
		b := db.NewBatch()
		defer b.Close()
		if err := b.Set(checkpointKey(size), signed, nil); err != nil {
			return err
		}
		if thin {
			if err := b.Delete(checkpointKey(p.kept), nil); err != nil {
				return err
			}
		}
		return l.write(db, b)
	})
	if err != nil {
		return fmt.Errorf("keep checkpoint of size %d: %w", size, err)
	}
	if !thin {
		p.stayed = p.keptAt
	}
	p.kept, p.keptAt = size, now
	l.counts.checkpoints.Add(1)
	view := &published{size: size, signed: signed, edge: p.recount.edge.clone(), at: now}
	l.kept.Store(view)
	if l.cfg.Cosigner == nil && l.accepts(signed) {
		l.published.Store(view)
	}
	poke(l.cosigning.fresh)
	return nil
}
