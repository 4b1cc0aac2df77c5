package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

const (
	firstWait = 50 * time.Millisecond // after the first failure; then twice as long each time
	longWait  = 5 * time.Second       // at most
	leaseFor  = 30 * time.Second      // after so long without an index, a lease is taken anew, so that a search need not go back far
	alongside = time.Second           // so long what is on its way may go on when a lease is lost
)

// errOpen says what a caller who leaves does not know.
var errOpen = errors.New("tlog/remote: the leaves may or may not be in the log")

// Append appends leaves in the other process; see [tlog.Appender]. At most MaxAppend of them, and MaxCall bytes, go into one
// call. It tries, and finds out what became of what it tried, until ctx ends; tlog.ErrBusy, ErrFull, ErrTooLarge and
// ErrRefused mean that nothing was appended. When ctx ends before the call was sent, or after it is known that nothing of
// it is in the log, the error is that of ctx alone; otherwise the outcome is unknown. ErrDenied, ErrFenced,
// tlog.ErrHalted, ErrQuarantine and ErrClosed are answered at once, with the outcome unknown.
func (l *Log) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	if len(leaves) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := newCall(leaves)
	if err != nil {
		return nil, err
	}
	if err := l.queue.enter(c); err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		left, clear := l.queue.leave(c)
		switch {
		case left && clear:
			return nil, ctx.Err()
		case left:
			return nil, fmt.Errorf("%w: %w", errOpen, ctx.Err())
		}
		<-c.done
	}
	if c.err != nil {
		return nil, c.err
	}
	indices := make([]uint64, len(leaves))
	for i := range indices {
		indices[i] = c.first + uint64(i)
	}
	return indices, nil
}

// Run takes a lease and appends what is asked for until ctx ends; then it lets nothing in, waits a little for what is on
// its way, and returns nil. It returns early with ErrFenced; with tlog.ErrQuarantine when the log has lost what it
// acknowledged to us, or is another log; and, before the first lease, with what another try would not mend.
func (l *Log) Run(ctx context.Context) error {
	if l.ran.Swap(true) {
		return errors.New("tlog/remote: Run was called before; make another Log")
	}
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var late <-chan time.Time // when what is on its way beside a lost lease is given up
	for begun := false; ; {
		if ctx.Err() != nil {
			return l.end(stop, nil)
		}
		if len(l.air) == 0 {
			late = nil
			if l.leased && time.Since(l.heard) > leaseFor && !l.queue.idle() {
				l.leased = false
			}
			if !l.leased && (!begun || len(l.open) > 0 || !l.queue.idle()) {
				if err := l.renew(ctx); err != nil {
					return l.end(stop, err)
				}
				begun = true
			}
		}
		for l.leased && l.send(sending) {
		}
		if !l.leased && len(l.air) > 0 && late == nil {
			late = time.After(alongside)
		}
		select {
		case <-ctx.Done():
		case <-l.queue.wake:
		case b := <-l.landed:
			if err := l.land(b); err != nil {
				return l.end(stop, err)
			}
		case <-late:
			for b := range l.air {
				b.stop()
			}
		}
	}
}

// end lets nothing in any more and ends Run, for a reason or because it was asked to.
func (l *Log) end(stop context.CancelFunc, reason error) error {
	shut := cmp.Or(reason, tlog.ErrClosed)
	l.queue.close(shut)
	grace := time.AfterFunc(l.cfg.Grace, stop)
	defer grace.Stop()
	for len(l.air) > 0 {
		if err := l.land(<-l.landed); reason == nil {
			reason = err
		}
	}
	for _, b := range l.open {
		l.queue.tell(b, 0, fmt.Errorf("%w: %w", errOpen, shut))
	}
	l.queue.turnAway(shut) // what came back
	l.transport.CloseIdleConnections()
	return reason
}

// send sends the next batch on its way, if one is ripe.
func (l *Log) send(ctx context.Context) bool {
	if !l.queue.worth() {
		return false
	}
	l.queue.gather()
	ctx, stop := context.WithCancel(ctx)
	b := l.queue.take(stop)
	if b == nil {
		stop()
		return false
	}
	b.from = max(l.lease.size, l.acked.Load())
	l.air[b] = true
	go func(e epoch) {
		defer stop()
		b.out, b.err = l.attempt(ctx, b, e)
		l.landed <- b
	}(l.lease.epoch)
	return true
}

// attempt sends a batch once and, where that settles it, tells the callers.
func (l *Log) attempt(ctx context.Context, b *batch, e epoch) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Stall+transfer(b.body.length))
	defer cancel()
	req, err := l.request(ctx, http.MethodPost, pathAppend+l.cfg.Writer, b.body, b.body.length)
	if err != nil {
		b.body.release()
		l.queue.tell(b, 0, err)
		return told, err
	}
	req.Header.Set("Content-Type", typeLeaves)
	req.Header.Set(headEpoch, e.String())
	if b.body.length > drainBytes {
		req.Header.Set("Expect", "100-continue") // whether it is taken at all is known before it is sent
	}
	answer, err := l.exchange(req, maxAnswer)
	all := b.body.release()
	var said *answered
	switch {
	case err == nil:
		if b.first, err = parseFirst(answer, b.leaves); err != nil {
			return unknown, err
		}
		if b.first < b.from {
			err = fmt.Errorf("%w: it gave the index %d, and had %d entries before", tlog.ErrQuarantine, b.first, b.from)
			l.queue.tell(b, 0, err)
			return lost, err
		}
		l.told(b)
		return told, nil
	case errors.As(err, &said):
		switch {
		case said.is == errStale || said.is == errCut:
			return again, err
		case len(b.calls) > 1 && (said.is == ErrRefused || said.is == tlog.ErrTooLarge):
			return single, err
		}
		l.queue.tell(b, 0, err)
		return told, err
	case !all:
		return again, err
	}
	return unknown, err
}

// told tells the callers of a batch that it begins at b.first.
func (l *Log) told(b *batch) {
	end := b.first + uint64(b.leaves)
	for was := l.acked.Load(); was < end && !l.acked.CompareAndSwap(was, end); was = l.acked.Load() {
	}
	l.queue.tell(b, b.first, nil)
}

// land notes what became of a batch. An error ends Run.
func (l *Log) land(b *batch) error {
	delete(l.air, b)
	l.queue.down(b)
	if b.out == again || b.out == unknown {
		if l.leased {
			l.failures++ // others fail with it, and count as one
		}
		l.leased = false
		if !errors.Is(b.err, errStale) {
			l.cfg.Logger.Warn("an append did not come through, and goes on", "writer", l.cfg.Writer, "sent", b.out == unknown, "error", b.err)
		}
	}
	switch b.out {
	case told:
		l.failures = 0
		if b.err == nil {
			l.heard = time.Now()
			l.claim(b)
		}
	case again:
		l.queue.back(b, false)
	case single:
		l.queue.back(b, true)
	case unknown:
		l.open = append(l.open, b)
	case lost:
		return b.err
	}
	return nil
}

// claim keeps the place of a batch from being taken for that of another with the same bytes, which was under way beside it.
func (l *Log) claim(b *batch) {
	s := span{b.first, b.first + uint64(b.leaves)}
	for o := range l.air {
		o.not = append(o.not, s)
	}
	for _, o := range l.open {
		o.not = append(o.not, s)
	}
}

// renew takes a lease and settles what the one before left open, as often as it takes. It returns with l.leased set, or
// when the server said that it will give none and everybody has been told, or when ctx has ended. An error ends Run.
func (l *Log) renew(ctx context.Context) error {
	for warned := false; ; {
		if l.failures > 1 {
			if wait(ctx, backoff(l.failures-1)) != nil {
				return nil
			}
		}
		err := l.settle(ctx)
		var said *answered
		var s *strange
		var cert *tls.CertificateVerificationError
		first := l.lease.epoch == epoch{}
		switch {
		case err == nil:
			l.leased = true
			if warned {
				l.cfg.Logger.Info("the log answers again", "writer", l.cfg.Writer)
			}
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFenced), errors.Is(err, errOther):
			return err
		case first && errors.As(err, &s) && s.status/100 == 4 && s.status != http.StatusRequestTimeout && s.status != http.StatusTooManyRequests,
			first && errors.As(err, &cert),
			first && (errors.Is(err, ErrDenied) || errors.Is(err, ErrRefused)):
			return err
		case errors.As(err, &said) && said.is != errStale && said.is != errFailed, errors.Is(err, ErrDenied):
			for _, b := range l.open {
				l.queue.tell(b, 0, fmt.Errorf("%w: %w", errOpen, err))
			}
			l.open = nil
			l.queue.turnAway(err)
			return nil
		}
		l.failures++
		if !warned {
			l.cfg.Logger.Warn("the log cannot be reached, and is asked again and again", "writer", l.cfg.Writer, "error", err)
			warned = true
		}
	}
}

// errOther says that the log is not the one that we wrote to.
var errOther = fmt.Errorf("tlog/remote: this is not the log that it was: %w", tlog.ErrQuarantine)

// settle takes a lease and finds out what became of the batches whose outcome is open. The order is the whole of its
// safety:
//
//  1. nothing of ours is on its way
//  2. the lease is taken          the server refuses what still comes under the old one, and has answered for the rest
//  3. the leaves are looked for   between where they could begin and what was durable at 2, published or not
//  4. found: their callers are told. Not found: they are not in the log and will not come; they are appended again
func (l *Log) settle(ctx context.Context) error {
	l.leases.Add(1)
	g, err := l.takeLease(ctx)
	if err != nil {
		return err
	}
	if g.origin != l.cfg.Origin {
		return fmt.Errorf("%w: it is called %q and is to be %q", errOther, g.origin, l.cfg.Origin)
	}
	if acked := l.acked.Load(); g.size < acked {
		return fmt.Errorf("%w: it acknowledged entry %d and has %d entries", errOther, acked-1, g.size)
	}
	l.lease, l.heard = g, time.Now()
	for _, b := range l.open {
		if b.until == 0 {
			b.until = g.size
		}
	}
	if !slices.ContainsFunc(l.open, l.queue.waited) {
		l.open = nil // nobody is left to be told
		return nil
	}
	seen, err := l.seek(ctx)
	if err != nil {
		return fmt.Errorf("what became of an append: %w", err)
	}
	l.resolve(seen)
	return nil
}

// resolve settles the open batches by where their leaves were seen. The longest come first: what is short could lie within
// what is long, and be taken for it.
func (l *Log) resolve(seen []place) {
	slices.SortStableFunc(l.open, func(a, b *batch) int { return b.leaves - a.leaves })
	for len(l.open) > 0 {
		b := l.open[0]
		l.open = l.open[1:]
		if b.in(seen) {
			l.found.Add(1)
			l.failures = 0
			l.told(b)
			l.claim(b)
		} else {
			l.queue.back(b, false)
		}
	}
}

// A place is a leaf that is somewhere in the log.
type place struct {
	at   uint64
	leaf tlog.Hash
}

// seek returns where in the log, between the bounds of the open batches, their leaves stand.
func (l *Log) seek(ctx context.Context) ([]place, error) {
	from, until := l.open[0].from, uint64(0)
	sought := make(map[tlog.Hash]bool)
	for _, b := range l.open {
		from, until = min(from, b.from), max(until, b.until)
		b.leafs = b.hashes()
		for _, h := range b.leafs {
			sought[h] = true
		}
	}
	if from >= until {
		return nil, nil
	}
	l.sought.Add(1)
	var seen []place
	for n := from; n < until; {
		entries, err := l.Tail(ctx, n, 0)
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return nil, fmt.Errorf("%d entries are durable, and %d are shown", until, n)
		}
		for _, entry := range entries {
			if h := tlog.HashLeaf(entry); sought[h] {
				seen = append(seen, place{n, h})
			}
			n++
		}
	}
	return seen, nil
}

// in looks for the whole batch, side by side, and sets b.first to where it begins.
func (b *batch) in(seen []place) bool {
	for i := range seen {
		if b.is(seen[i:]) {
			b.first = seen[i].at
			return true
		}
	}
	return false
}

func (b *batch) is(seen []place) bool {
	if len(seen) < len(b.leafs) || seen[0].at < b.from || seen[0].at+uint64(b.leaves) > b.until {
		return false
	}
	for i, h := range b.leafs {
		if seen[i].at != seen[0].at+uint64(i) || seen[i].leaf != h {
			return false
		}
	}
	return !slices.ContainsFunc(b.not, func(s span) bool { return seen[0].at < s.end && s.first < seen[0].at+uint64(b.leaves) })
}

// backoff is how long to wait after so many failures: between half and all of what doubles each time.
func backoff(failures int) time.Duration {
	d := min(longWait, firstWait<<min(failures-1, 16))
	return d/2 + rand.N(d/2)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
