package ring

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/keys"
)

// Wrapper is a tenant key, here or far away. Wrap and Unwrap append to dst and return the
// longer slice; aad is bound to the wrapped form, which is at most 922 bytes for a key of
// 32. Unwrap answers keys.ErrWrongKey to what this key did not wrap; any other error means
// that it could not be asked, or may not be. Both end when ctx does, and are safe for
// concurrent use.
type Wrapper interface {
	Wrap(ctx context.Context, dst, key, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, dst, wrapped, aad []byte) ([]byte, error)
}

// Versioned is a Wrapper whose key has versions, of which the older can be retired.
type Versioned interface {
	Wrapper
	Version(wrapped []byte) int // the version that wrapped this, from 1; 0 if that cannot be told
}

// An epoch is a key that seals segment keys, as the tenant key wrapped it. That key is in
// memory once it was needed, and for as long as the tenant key confirms it: gives it again
// when it is asked.
type epoch struct {
	number  uint64 // from 1; 0 is none: a segment key that the tenant key wrapped itself, as the first version did
	wrapped []byte
	aad     []byte
	check   header // whose sealed form the key must open, unless number is 0

	asking chan struct{} // a lock that a context can leave: full while the tenant key is being asked

	mu        sync.RWMutex
	key       *seal     // guarded by mu; nil before it was needed, and when it was dropped
	by        int       // guarded by mu: the index in Ring.keks of what wrapped it, -1 before that is known
	confirmed time.Time // guarded by mu: when the question was sent that was last answered with the key
	failed    time.Time // guarded by mu: when a question last failed, zero once another was answered
	cause     error     // guarded by mu: of that
}

func newEpoch(h header) *epoch {
	e := &epoch{number: h.epoch, wrapped: h.wrapped, aad: h.epochAAD(), check: h, asking: make(chan struct{}, 1), by: -1}
	if h.epoch == 0 {
		e.aad = h.aad()
	}
	return e
}

// age returns how long ago t was, by whichever clock says more: the monotonic one stands
// still while a machine sleeps, and the other may be set back.
func age(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// fresh says whether the key is in memory and may be used.
func (e *epoch) fresh(maxStale time.Duration) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.key != nil && age(e.confirmed) < maxStale
}

// drop forgets the key.
func (e *epoch) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.key != nil {
		e.key.drop()
		e.key = nil
	}
}

// refusal says why the key cannot be used. The caller holds mu, and a question has failed.
func (e *epoch) refusal() error {
	since := ""
	if !e.confirmed.IsZero() {
		since = " since " + e.confirmed.UTC().Format(time.RFC3339)
	}
	return fmt.Errorf("%w%s: %w", ErrStale, since, e.cause)
}

// refusalShared is how long an answer that was none is given to all who ask after it.
const refusalShared = time.Second

// ready returns nil when the key of e may be used: at once when it was confirmed not long
// ago, and else when the tenant key has given it now. Whoever comes while it is being asked
// shares its answer.
func (r *Ring) ready(ctx context.Context, e *epoch) error {
	if e.fresh(r.maxStale) {
		return nil
	}
	came := time.Now()
	unlock, err := r.lock(ctx, e.asking)
	if err != nil {
		return err
	}
	defer unlock()
	e.mu.RLock()
	confirmed := e.key != nil && (e.confirmed.After(came) || age(e.confirmed) < r.maxStale)
	if !confirmed && e.failed.After(came.Add(-refusalShared)) {
		err = e.refusal()
	}
	e.mu.RUnlock()
	if confirmed || err != nil {
		return err
	}
	return r.ask(ctx, e, r.timeout)
}

// ask has the tenant key give the key of e, once. The caller holds e.asking.
func (r *Ring) ask(ctx context.Context, e *epoch, timeout time.Duration) error {
	e.mu.RLock()
	by := e.by
	e.mu.RUnlock()
	sent := time.Now()
	key, by, err := r.unwrap(ctx, timeout, e.wrapped, e.aad, by)
	if ctx.Err() != nil {
		clear(key[:])
		return ctx.Err() // who asked has left: nothing is known of the tenant key
	}
	var s *seal
	if err == nil {
		s = newSeal(&key)
		if e.number != 0 {
			err = opens(s, e.check)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.isClosed() { // which drops keys, and may have come past this one
		if s != nil {
			s.drop()
		}
		return ErrClosed
	}
	if err != nil {
		if s != nil {
			s.drop()
		}
		if e.failed.IsZero() && !e.confirmed.IsZero() {
			r.log.Warn("keys/ring: the tenant key does not confirm its epoch key", "err", err, "epoch", e.number, "left", max(0, r.maxStale-age(e.confirmed)))
		}
		e.failed, e.cause = time.Now(), err
		return e.refusal()
	}
	if !e.failed.IsZero() {
		r.log.Info("keys/ring: the tenant key confirms its epoch key again", "epoch", e.number)
	}
	if e.key == nil {
		e.key = s
	} else {
		s.drop()
	}
	e.by, e.confirmed, e.failed, e.cause = by, sent, time.Time{}, nil
	return nil
}

// opens says whether s is the seal of what is sealed in h; ErrWrongKEK if not.
func opens(s *seal, h header) error {
	var key [keySize]byte
	defer clear(key[:])
	if _, err := s.open(key[:0], h.sealed, h.aad()); err != nil {
		return fmt.Errorf("what was unwrapped is not the key of epoch %d: %w", h.epoch, ErrWrongKEK)
	}
	return nil
}

// with gives f the key of e. It runs f again if the key was dropped meanwhile.
func (r *Ring) with(ctx context.Context, e *epoch, f func(s *seal) error) error {
	for {
		if err := r.ready(ctx, e); err != nil {
			if e.confirmedAt().IsZero() {
				r.forget(e) // it may never have been one
			}
			return err
		}
		e.mu.RLock()
		s := e.key
		e.mu.RUnlock()
		if s == nil {
			continue
		}
		if err := f(s); !errors.Is(err, errDropped) {
			return err
		}
	}
}

// epochOf returns the epoch that a segment's header is of, which may not have been confirmed
// yet.
func (r *Ring) epochOf(h header) *epoch {
	r.epochsMu.Lock()
	defer r.epochsMu.Unlock()
	e, ok := r.epochs[h.epochName()]
	if !ok {
		e = newEpoch(h)
		r.epochs[h.epochName()] = e
	}
	return e
}

// known returns the epochs that were met.
func (r *Ring) known() []*epoch {
	r.epochsMu.Lock()
	defer r.epochsMu.Unlock()
	return slices.Collect(maps.Values(r.epochs))
}

// forget drops e and the segment keys that hang on it. It is met again if it is needed.
func (r *Ring) forget(e *epoch) {
	r.epochsMu.Lock()
	maps.DeleteFunc(r.epochs, func(_ string, o *epoch) bool { return o == e })
	r.epochsMu.Unlock()
	e.drop()
	r.seals.drop(func(_ uint64, s cached) bool { return s.epoch == e })
}

// segmentKey returns the key of the segment that h is the header of. The errors are
// ErrStale and what ready returns, and ErrCorrupt.
func (r *Ring) segmentKey(ctx context.Context, h header) (key [keySize]byte, err error) {
	if h.epoch == 0 {
		key, _, err = r.unwrap(ctx, r.timeout, h.wrapped, h.aad(), -1)
		return key, err
	}
	e := r.epochOf(h)
	err = r.with(ctx, e, func(s *seal) error {
		_, err := s.open(key[:0], h.sealed, h.aad())
		if err != nil && !errors.Is(err, errDropped) {
			err = fmt.Errorf("the key in the header of segment %s does not open: %w", segmentName(h.segment), ErrCorrupt)
		}
		return err
	})
	return key, err
}

// unseal returns the seal of the segment that h is the header of, and remembers it.
func (r *Ring) unseal(ctx context.Context, h header) (cached, error) {
	var s cached
	if h.epoch == 0 {
		s.epoch = newEpoch(h)
		if err := r.with(ctx, s.epoch, func(key *seal) error { s.seal = key; return nil }); err != nil {
			return cached{}, err
		}
		return r.seals.put(h.segment, s), nil
	}
	key, err := r.segmentKey(ctx, h)
	if err != nil {
		return cached{}, err
	}
	return r.seals.put(h.segment, cached{r.epochOf(h), newSeal(&key)}), nil
}

// mint makes epoch number: a new key, wrapped by the newest version of the tenant key, which
// has shown that it unwraps it. A tenant key that only wraps would lose every key, and be
// noticed at the next start. It returns the header of the ring's file in that epoch too.
func (r *Ring) mint(ctx context.Context, number uint64) (*epoch, header, error) {
	var key, back [keySize]byte
	defer clear(key[:])
	rand.Read(key[:])
	h := header{kind: kindRing, ring: r.id, epoch: number}
	sent := time.Now()
	w, err := r.wrap(ctx, key[:], h.epochAAD())
	if err != nil {
		return nil, header{}, err
	}
	back, _, err = r.unwrap(ctx, r.timeout, w, h.epochAAD(), 0)
	if err != nil {
		return nil, header{}, err
	}
	defer clear(back[:])
	if subtle.ConstantTimeCompare(back[:], key[:]) == 0 {
		return nil, header{}, fmt.Errorf("the tenant key does not give back what it wrapped: %w", ErrWrongKEK)
	}
	s := newSeal(&back)
	h.wrapped = w
	if h.sealed, err = s.seal(nil, make([]byte, keySize), h.aad()); err != nil {
		return nil, header{}, err
	}
	e := newEpoch(h)
	e.key, e.by, e.confirmed = s, 0, sent
	return e, h, nil
}

// wrap has the tenant key wrap key.
func (r *Ring) wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	w, err := r.keks[0].Wrap(ctx, nil, key, aad)
	if err != nil {
		return nil, fmt.Errorf("wrapping with the tenant key: %w", err)
	}
	if len(w) == 0 || len(w) > maxWrapped {
		return nil, fmt.Errorf("the tenant key wraps a key into %d bytes, and there is room for 1 to %d", len(w), maxWrapped)
	}
	return w, nil
}

// unwrap has the tenant key unwrap a key: the one with index by, or where that is -1 each in
// turn, until one does not say that it is not its own. It returns which one that was.
func (r *Ring) unwrap(ctx context.Context, timeout time.Duration, wrapped, aad []byte, by int) (key [keySize]byte, who int, err error) {
	for i, kek := range r.keks {
		if by >= 0 && i != by {
			continue
		}
		b, err := func() ([]byte, error) {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return kek.Unwrap(ctx, nil, wrapped, aad)
		}()
		switch {
		case errors.Is(err, keys.ErrWrongKey):
			continue
		case err != nil:
			return key, -1, fmt.Errorf("unwrapping with the tenant key: %w", err)
		case len(b) != keySize:
			clear(b)
			return key, -1, ErrWrongKEK
		}
		defer clear(b)
		return [keySize]byte(b), i, nil
	}
	return key, -1, ErrWrongKEK
}

// watch has the tenant key confirm the epochs in use, until ctx is done or the ring is
// closed, and drops the keys that it did not confirm in time.
func (r *Ring) watch(ctx context.Context) {
	for {
		pause := r.confirm(ctx)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		case <-r.closed:
			return
		}
	}
}

const (
	askParts   = 4 // the tenant key is asked when a fourth of MaxStale is over
	retryParts = 60
	leastPause = 100 * time.Millisecond
	mostRetry  = time.Minute
)

// confirm does what watch has to do now, and returns after how long there may be more. What is overdue is dropped before
// the tenant key is asked for anything, which may hang.
func (r *Ring) confirm(ctx context.Context) time.Duration {
	for _, e := range r.known() {
		e.mu.RLock()
		overdue := e.key != nil && age(e.confirmed) >= r.maxStale
		e.mu.RUnlock()
		if overdue {
			r.log.Error("keys/ring: the tenant key has not confirmed its epoch key, which is dropped now: no keys are made and none opened until it does", "epoch", e.number, "after", r.maxStale)
			r.expire(ctx, e)
		}
	}
	next := r.maxStale / askParts
	r.seals.drop(func(_ uint64, s cached) bool {
		if !s.epoch.fresh(r.maxStale) {
			return true
		}
		if s.epoch.number == 0 {
			next = min(next, r.maxStale-age(s.epoch.confirmedAt()))
		}
		return false
	})
	for _, e := range r.known() {
		next = min(next, r.confirmEpoch(ctx, e))
	}
	return max(next, leastPause)
}

// confirmEpoch has the tenant key confirm one epoch, if it is time to.
func (r *Ring) confirmEpoch(ctx context.Context, e *epoch) time.Duration {
	retry := min(max(r.maxStale/retryParts, leastPause), mostRetry)
	e.mu.RLock()
	held, failed, left := e.key != nil, e.failed, r.maxStale-age(e.confirmed)
	e.mu.RUnlock()
	if held && left <= 0 {
		return 0
	}
	if !held && e != r.current.Load() {
		return r.maxStale // whoever needs it asks
	}
	due := left - r.maxStale + r.maxStale/askParts
	if !failed.IsZero() {
		due = retry - age(failed)
	}
	if held {
		due = min(due, left)
	}
	if due > 0 {
		return due
	}
	unlock, err := r.lock(ctx, e.asking)
	if err != nil {
		return retry
	}
	timeout := r.timeout
	if held {
		timeout = min(timeout, left)
	}
	err = r.ask(ctx, e, timeout)
	unlock()
	switch {
	case err == nil:
		return r.maxStale / askParts
	case held:
		return min(retry, r.maxStale-age(e.confirmedAt()))
	}
	return retry
}

func (e *epoch) confirmedAt() time.Time {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.confirmed
}

// expire drops the key of e, and that of the segment being filled if it hangs on it. Those of segments that were read
// confirm drops.
func (r *Ring) expire(ctx context.Context, e *epoch) {
	if e != r.current.Load() {
		r.forget(e)
		return
	}
	e.drop()
	unlock, err := r.lock(ctx, r.making)
	if err != nil {
		return // the ring is being closed, which drops all of them, or is not run any more
	}
	defer unlock()
	if r.live != nil && r.live.epoch == e {
		r.live.leave(r.disk)
		r.live = nil
	}
}
