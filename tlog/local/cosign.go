package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// Two cadences: checkpoints are anchored, signed and kept at every Interval, for ourselves; the newest of them is cosigned
// at every CosignEvery, and what the policy accepts is published. So a witness that is slow or gone holds back what
// readers see, and neither appending nor anchoring.
//
// After a start the witnesses are asked first. They are asked by submitting what is signed already: the newest kept
// checkpoint, or, in a log that never signed one, that of the empty tree, with which every history begins. A witness
// that saw more than that, or something else, is evidence that this store is an old copy and its anchor with it. Until
// the cosigner is content nothing new is anchored or signed. What was anchored before and not signed is signed all the
// same, exactly as it is: it was this log's word already.

// errUnasked says that the witnesses must be asked before anything new is signed.
var errUnasked = errors.New("the witnesses have not yet said what they last saw of this log, and nothing is signed before; see Config.Unwitnessed")

// A cosigning is what stands between kept and published.
type cosigning struct {
	asked  atomic.Bool   // since the start the witnesses have been asked and knew nothing more
	fresh  chan struct{} // holds one: a checkpoint was kept
	answer chan struct{} // holds one: the witnesses were asked for the first time

	mu sync.Mutex // held while the row of a checkpoint is written, replaced or deleted
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// mayBegin says whether a new checkpoint may be begun.
func (l *Log) mayBegin() bool {
	return l.cfg.Cosigner == nil || l.cfg.Unwitnessed || l.cosigning.asked.Load()
}

// accepts says whether a signed checkpoint may be published.
func (l *Log) accepts(signed []byte) bool {
	p := l.terms.Load().policy
	if p == nil {
		return true
	}
	_, _, err := p.Check(signed)
	return err == nil
}

// cosignAll has the newest kept checkpoint cosigned whenever it is not the one that is published.
func (l *Log) cosignAll(ctx context.Context) {
	failures := 0
	for {
		wait := l.cfg.CosignEvery
		if l.uncosigned() {
			if err := l.cosign(ctx); err == nil {
				failures = 0
			} else if ctx.Err() == nil && l.stopReason() == nil {
				failures++
				l.cfg.Logger.Warn("cosigning delayed", "origin", l.cfg.Origin, "error", err)
				wait = min(wait<<min(failures, 6), max(30*time.Second, wait))
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-l.broken:
		}
		t.Stop()
		for !l.uncosigned() && ctx.Err() == nil && l.stopReason() == nil {
			select {
			case <-l.cosigning.fresh:
			case <-ctx.Done():
			case <-l.broken:
			}
		}
		if ctx.Err() != nil || l.stopReason() != nil {
			return
		}
	}
}

// uncosigned says whether there is something to have cosigned.
func (l *Log) uncosigned() bool {
	kept, shown := l.kept.Load(), l.published.Load()
	return kept != nil && (!l.cosigning.asked.Load() || shown == nil || shown.size < kept.size)
}

// cosign submits the newest kept checkpoint once. The order is:
//
//  1. submit what is signed and kept
//  2. hold what came back against what was submitted, and against the policy
//  3. keep it, synced, in the place of what was submitted
//  4. publish it
func (l *Log) cosign(ctx context.Context) error {
	v := l.kept.Load()
	got, err := l.terms.Load().cosigner.Cosign(ctx, v.signed, func(ctx context.Context, old uint64) (p tlog.Proof, err error) {
		err = l.withStore(func(db *pebble.DB) error {
			p, err = tlog.Tiles{Reader: storeTiles{db, v.edge}, Size: v.size}.Consistency(ctx, old)
			return err
		})
		return p, err
	})
	var fork *tlog.ForkError
	if errors.As(err, &fork) {
		return l.judge(&damageError{reason: fork.Reason, a: fork.A, b: fork.B})
	}
	var quorum *tlog.QuorumError
	if err != nil {
		l.counts.cosignErrors.Add(1)
		if jerr := l.judge(err); jerr != err || !errors.As(err, &quorum) {
			return jerr // a proof could not be made because of what the store has, or nothing came back
		}
	}
	if serr := l.sameCheckpoint(v.signed, got); serr != nil {
		return errors.Join(serr, err)
	}
	if err == nil && l.cosigning.asked.CompareAndSwap(false, true) {
		poke(l.cosigning.answer)
	}
	if !l.accepts(got) {
		if err == nil {
			l.counts.cosignErrors.Add(1)
			_, _, err = l.terms.Load().policy.Check(got)
		}
		return err
	}
	if kerr := l.keepCosigned(&published{size: v.size, signed: got, edge: v.edge, at: time.Now()}); kerr != nil {
		return kerr
	}
	return err
}

// sameCheckpoint says whether what came back from a cosigner is what was submitted, with the log's signatures in place.
func (l *Log) sameCheckpoint(submitted, got []byte) error {
	c, _, err := tlog.OpenCheckpoint(got, l.terms.Load().all...)
	if err != nil {
		return fmt.Errorf("what the cosigner gave back: %w", err)
	}
	if want, err := tlog.UnverifiedCheckpoint(submitted); err != nil || want != c {
		return fmt.Errorf("tlog/local: the cosigner gave back a checkpoint of size %d, not the one submitted", c.Size)
	}
	return nil
}

// keepCosigned stores a cosigned checkpoint and publishes it.
func (l *Log) keepCosigned(v *published) error {
	l.cosigning.mu.Lock()
	defer l.cosigning.mu.Unlock()
	err := l.withStore(func(db *pebble.DB) error {
		b := db.NewBatch()
		defer b.Close()
		if err := b.Set(checkpointKey(v.size), v.signed, nil); err != nil {
			return err
		}
		return l.write(db, b)
	})
	if err != nil {
		return fmt.Errorf("keep the cosigned checkpoint of size %d: %w", v.size, err)
	}
	l.published.Store(v)
	return nil
}
