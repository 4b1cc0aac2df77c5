// Package witness holds both ends of c2sp.org/tlog-witness: the [Witness], which a third party runs and which cosigns what
// logs submit, and the [Quorum] of witnesses that a log asks; and [Probe], which asks any witness whether it keeps to the
// specification.
//
// A witness has never seen an entry. It says one thing: at this time the largest tree that I had seen of this log was this
// one, and it continues all those that I had seen before. What is always true of the one here:
//
//   - a cosignature leaves only after what it says is on the disk: a witness that answered with size N does not
//     accept an older size afterwards, whatever dies in between and whoever asks at the same time;
//   - what it remembers of a log it remembers for ever, also when the log leaves the list and comes back;
//   - for one log the times it states never go back, and with an absurd clock it states none;
//   - two signed checkpoints that contradict each other are kept as evidence, and neither is forgotten for the other;
//   - logs do not wait for one another: each has its own turn and its own place on the disk.
//
// What it cannot do: notice that its own directory was replaced by an older copy, or that its keys are used by another
// witness elsewhere. Keep one directory to a key, and never put an old copy back.
package witness

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// Config says whose checkpoints a witness cosigns, with what, and where it remembers them.
type Config struct {
	// Keys cosign, every one of them every checkpoint: Ed25519, ML-DSA-44, or both; at least one and at most MaxKeys.
	// They are used for nothing else.
	Keys []*tlog.CosignatureSigner

	// Logs are those that are known at first; SetLogs replaces them. Nil knows none.
	Logs *LogList

	// State is where the newest cosigned checkpoint of each log is remembered: a *Store. It belongs to one Witness alone.
	State State

	// Evidence keeps contradicting checkpoints: the same *Store. Nil only logs them.
	Evidence Evidence

	Limits Limits

	// ClockJump is how far after the newest cosignature of all logs the clock may stand. A clock that is years ahead for a
	// moment would have its times remembered for ever, and could cosign nothing until they have come. 0 for 366 days.
	ClockJump time.Duration

	Log     *slog.Logger          // nil for none
	Metrics prometheus.Registerer // nil for none
}

// Limits bound what others can make a witness do, in submissions a second. Zero values are the defaults, negative ones
// are no limit. Up to two seconds' worth may come at once.
type Limits struct {
	// Overall counts every submission before it is looked at. The default is 2,000.
	Overall float64
	// Log counts the new checkpoints of one log that are cosigned, which only the log can make, so that nobody else can use
	// it up. As much again is there for what anybody can send who has seen one: the newest once more, or one with a proof
	// that is none. The default is 10. A list that says how much a log may submit a day goes before it.
	Log float64
}

// MaxKeys is the most keys that a witness has, and that one log has: so a checkpoint with all of their signatures
// is below tlog.MaxCheckpoint.
const MaxKeys = 4

// A State remembers, for each log, the newest checkpoint that was cosigned, as tlog.Latest does, and can say of which.
type State interface {
	tlog.Latest
	// Origins returns the logs of which something is remembered; and, each by its name, what is in their place and cannot be
	// read. err says that nothing is known of any log.
	Origins(ctx context.Context) (origins []string, damaged []error, err error)
}

// Evidence keeps what logs did that they should not have been able to do. An error says that it was not kept.
type Evidence interface {
	Keep(ctx context.Context, c Contradiction) error
}

// A Contradiction is two checkpoints signed by one log of which no one has shown that one continues the other.
type Contradiction struct {
	Origin string
	// Fork says that they are two trees of one size, which is proof by itself. Otherwise the proof that came with Submitted
	// did not connect them: the log's fault, or that of whoever submitted it for the log.
	Fork      bool
	Stored    []byte // signed by the log and by the witness
	Submitted []byte // signed by the log
	Request   []byte // the whole body
	Reason    string
	Time      time.Time
}

// A Witness cosigns what logs submit, over HTTP: see Handler. It is safe for concurrent use and starts nothing.
type Witness struct {
	c       Config
	keys    []witnessKey
	log     *slog.Logger
	metrics *metrics
	overall *bucket
	now     func() time.Time // for tests, which cannot turn a clock back otherwise

	newest  atomic.Uint64 // the latest time that any cosignature states
	failing atomic.Bool   // the last write to the state failed

	mu   sync.RWMutex
	list *LogList
	logs map[string]*logState // by origin; never shrinks
	sums map[string]*logState // by hex SHA-256 of the origin, as monitors ask
}

// A witnessKey is a key with what verifies it.
type witnessKey struct {
	*tlog.CosignatureSigner
	verifier note.Verifier
}

// A logState is one log, listed or not.
type logState struct {
	origin string
	limits limits // replaced with the list

	// turn holds one value. Whoever took it may store, and puts it back.
	turn chan struct{}
	// seen is what is on the disk, as far as is known; nil before it was read and while a write has an unknown outcome.
	// It is written in the log's turn.
	seen atomic.Pointer[seen]
	// shown is the last seen that was not nil, for monitors, who do not wait.
	shown  atomic.Pointer[seen]
	broken atomic.Bool // it could not be read when it was last tried
}

// limits are one log's, nil for none: of what only the log can send, and of what others can send again.
type limits struct{ own, again *bucket }

// A seen is the newest checkpoint cosigned of a log. The zero one, with the root of the empty tree, is of a log that was
// never cosigned.
type seen struct {
	tlog.Checkpoint
	note []byte // signed by the log and the witness; nil if never cosigned
	time uint64 // that the witness's newest cosignature states; 0 if none is by a key of now
}

// New reads what is remembered of every log. A log of which that cannot be read is refused until it can, alone.
func New(ctx context.Context, c Config) (*Witness, error) {
	if c.State == nil {
		return nil, errors.New("witness: no state: a witness that forgets is none; open a Store")
	}
	if len(c.Keys) == 0 || len(c.Keys) > MaxKeys {
		return nil, fmt.Errorf("witness: %d keys; a witness has 1 to %d", len(c.Keys), MaxKeys)
	}
	if c.ClockJump == 0 {
		c.ClockJump = 366 * 24 * time.Hour
	}
	w := &Witness{
		c: c, log: c.Log, now: time.Now,
		overall: newBucket(orDefault(c.Limits.Overall, 2000)),
		logs:    make(map[string]*logState), sums: make(map[string]*logState),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	names := make(map[string]string) // by type and public key: what an Ed25519 key signs does not say under which name
	for _, k := range c.Keys {
		vkey := k.VerifierKey()
		parts := strings.SplitN(vkey, "+", 3)
		if was, ok := names[parts[2]]; ok {
			return nil, fmt.Errorf("witness: the key of %s stands there again, as that of %s; each key is of one witness, and named once", was, k.Name())
		}
		names[parts[2]] = k.Name()
		v, err := tlog.NewCosignatureVerifier(vkey)
		if err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
		w.keys = append(w.keys, witnessKey{k, v})
	}
	var err error
	if w.metrics, err = newMetrics(c.Metrics); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if c.Logs == nil {
		c.Logs = new(LogList)
	}
	if err := w.SetLogs(c.Logs); err != nil {
		return nil, err
	}
	origins, damaged, err := c.State.Origins(ctx)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	for _, err := range damaged {
		w.log.Error("part of the state cannot be read, and nothing is cosigned of the log that it is of; put the right one back", "err", err)
	}
	if len(origins)+len(damaged) == 0 {
		w.log.Warn("nothing is remembered of any log, which is right for a new witness; one whose keys have cosigned before is to be stopped, and its state put back")
	}
	for _, origin := range append(origins, c.Logs.Origins()...) {
		w.mu.Lock()
		l := w.state(origin)
		w.mu.Unlock()
		w.load(ctx, l) // says itself what is wrong
	}
	return w, nil
}

// VerifierKeys returns the witness's keys as policies have them, in the order of Config.Keys.
func (w *Witness) VerifierKeys() []string {
	out := make([]string, len(w.keys))
	for i, k := range w.keys {
		out[i] = k.VerifierKey()
	}
	return out
}

// SetLogs replaces the list of logs. Those that are no longer on it are unknown from now on, and what is remembered of them
// stays. An error changes nothing.
func (w *Witness) SetLogs(list *LogList) error {
	for _, k := range w.keys {
		if _, ok := list.logs[k.Name()]; ok {
			return fmt.Errorf("witness: the log %q has the name of a key of this witness; a log and its witness are two", k.Name())
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = list
	for origin, listed := range list.logs {
		l := w.state(origin)
		rate := orDefault(w.c.Limits.Log, 10)
		if listed.perDay > 0 && rate > 0 {
			rate = listed.perDay / (24 * 60 * 60)
		}
		if l.limits.own == nil || l.limits.own.rate != rate {
			l.limits = limits{newBucket(rate), newBucket(rate)}
		}
	}
	w.metrics.logs.Set(float64(len(list.logs)))
	return nil
}

// state returns the state of a log, made if there is none. The caller holds mu.
func (w *Witness) state(origin string) *logState {
	l, ok := w.logs[origin]
	if !ok {
		l = &logState{origin: origin, turn: make(chan struct{}, 1)}
		l.turn <- struct{}{}
		w.logs[origin], w.sums[originSum(origin)] = l, l
	}
	return l
}

// find returns a log of the list, its keys and its limits, or nil.
func (w *Witness) find(origin string) (*logState, []note.Verifier, limits) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	listed, ok := w.list.logs[origin]
	if !ok {
		return nil, nil, limits{}
	}
	l := w.logs[origin]
	return l, listed.keys, l.limits
}

// addCheckpoint is the trip of a submission: the body that came, and the signature lines that leave. The order of its
// checks is that of the specification. Its error is a *refusal.
func (w *Witness) addCheckpoint(ctx context.Context, body []byte) ([]byte, error) {
	req, err := parseAddCheckpoint(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "malformed", err)
	}
	l, keys, limits := w.find(req.origin)
	if l == nil {
		return nil, refuse(http.StatusNotFound, "unknown-log", fmt.Errorf("the log %q is not known here; ask the witness's operator to add it", req.origin))
	}
	c, sigs, err := req.verify(keys)
	if err != nil {
		return nil, refuse(http.StatusForbidden, "signature", err)
	}
	if req.old > c.Size {
		return nil, refuse(http.StatusBadRequest, "old-over-size", fmt.Errorf("the old size %d is over the checkpoint's, %d", req.old, c.Size))
	}

	// From here on one at a time, until what is answered is on the disk.
	select {
	case <-l.turn:
		defer func() { l.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, refuse(http.StatusServiceUnavailable, "gone", ctx.Err())
	}
	if l.seen.Load() == nil { // the disk will be read
		if err := w.spend(limits.again, c.Origin); err != nil {
			return nil, err
		}
	}
	was, err := w.load(ctx, l)
	if err != nil {
		return nil, refuse(http.StatusInternalServerError, "state", errors.New("the state of this log cannot be read; nothing was cosigned"))
	}
	if was.note != nil && c.Size == was.Size && c.Root != was.Root {
		if err := w.spend(limits.again, c.Origin); err != nil {
			return nil, err
		}
		w.contradicts(ctx, req, c, was, true, fmt.Sprintf("two trees of size %d", c.Size)) // whatever the old size says
	}
	if req.old != was.Size {
		return nil, &refusal{status: http.StatusConflict, reason: "conflict", size: was.Size, err: fmt.Errorf("the old size is %d and the newest cosigned %d", req.old, was.Size)}
	}
	if c.Size == 0 && c.Root != tlog.EmptyRoot() {
		return nil, refuse(http.StatusUnprocessableEntity, "empty-root", errors.New("a checkpoint of size 0 has another root than the empty tree"))
	}
	if err := tlog.VerifyConsistency(was.Size, c.Size, was.Root, c.Root, req.proof); err != nil {
		if was.note != nil && c.Size > was.Size {
			if err := w.spend(limits.again, c.Origin); err != nil {
				return nil, err
			}
			w.contradicts(ctx, req, c, was, false, err.Error())
		}
		return nil, refuse(http.StatusUnprocessableEntity, "inconsistent", err)
	}

	limit := limits.own
	if was.note != nil && c.Size == was.Size {
		limit = limits.again
	}
	if err := w.spend(limit, c.Origin); err != nil {
		return nil, err
	}
	now, lines, err := w.cosign(req.text, was)
	if err != nil {
		return nil, err
	}
	signed := append(append(append([]byte(req.text), '\n'), signatureLines(sigs)...), lines...)
	// The client may leave; what was begun is brought to its end.
	store, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := w.c.State.Swap(store, c.Origin, was.note, signed); err != nil {
		l.seen.Store(nil) // the outcome is unknown: read it again before anything else is said of this log
		w.failing.Store(true)
		w.metrics.storeErrors.Inc()
		w.log.Error("a checkpoint could not be stored; nothing was cosigned", "origin", c.Origin, "size", c.Size, "err", err)
		return nil, refuse(http.StatusInternalServerError, "store", errors.New("the checkpoint could not be stored; nothing was cosigned; try again later"))
	}
	w.failing.Store(false)
	w.remember(l, &seen{Checkpoint: c, note: signed, time: now})
	w.log.Info("cosigned", "origin", c.Origin, "old", was.Size, "size", c.Size)
	return lines, nil
}

// spend counts a submission that costs more than its answer, as a 409 does not. Its error is a *refusal.
func (w *Witness) spend(limit *bucket, origin string) error {
	if wait := limit.take(w.now()); wait > 0 {
		return &refusal{status: http.StatusTooManyRequests, reason: "log-limit", retry: wait, err: fmt.Errorf("too many submissions of the log %q; slow down", origin)}
	}
	return nil
}

// storeTimeout is how long a write may wait for its place on the disk.
const storeTimeout = 10 * time.Second

// load returns what is remembered of a log, from the disk if need be. The caller has the log's turn, or the witness is not
// yet in use.
func (w *Witness) load(ctx context.Context, l *logState) (*seen, error) {
	if s := l.seen.Load(); s != nil {
		return s, nil
	}
	s := &seen{Checkpoint: tlog.Checkpoint{Origin: l.origin, Root: tlog.EmptyRoot()}}
	b, err := w.c.State.Load(context.WithoutCancel(ctx), l.origin)
	if err == nil && b != nil {
		s, err = w.open(l.origin, b)
	}
	l.broken.Store(err != nil)
	if err != nil {
		w.log.Error("the state of a log cannot be read, and nothing of it is cosigned until it can", "origin", l.origin, "err", err)
		return nil, err
	}
	w.remember(l, s)
	return s, nil
}

// open reads a remembered checkpoint. It must be signed by one of our keys, or, should these all have changed, by one of
// the log's: a damaged file is not taken for another tree.
func (w *Witness) open(origin string, signed []byte) (*seen, error) {
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	var keys []note.Verifier
	for _, k := range w.keys {
		keys = append(keys, k.verifier)
	}
	w.mu.RLock()
	if listed, ok := w.list.logs[origin]; ok {
		keys = append(keys, listed.keys...)
	}
	w.mu.RUnlock()
	n, err := note.Open(signed, note.VerifierList(keys...))
	if err != nil {
		return nil, fmt.Errorf("what is remembered of the log %q is signed by no key of this witness or of the log: the file is damaged, or all keys have changed; put the right file back, or list the log's former key as well until it is cosigned again: %w", origin, err)
	}
	if c.Origin != origin {
		return nil, fmt.Errorf("what is remembered of the log %q is of %q", origin, c.Origin)
	}
	s := &seen{Checkpoint: c, note: signed}
	for _, sig := range n.Sigs {
		for _, k := range w.keys {
			if k.Name() == sig.Name && k.KeyHash() == sig.Hash {
				s.time = max(s.time, signatureTime(sig))
			}
		}
	}
	return s, nil
}

// remember makes s what is known of l. It is on the disk already.
func (w *Witness) remember(l *logState, s *seen) {
	l.seen.Store(s)
	l.shown.Store(s)
	for was := w.newest.Load(); s.time > was && !w.newest.CompareAndSwap(was, s.time); was = w.newest.Load() {
	}
	if s.note != nil {
		w.metrics.size.WithLabelValues(l.origin).Set(float64(s.Size))
		w.metrics.time.WithLabelValues(l.origin).Set(float64(s.time))
	}
}

// Before and after these times, in seconds since 1970, no clock is right: before this program was written, and after its
// last user.
const (
	earliestTime = 1767225600 // 2026-01-01
	latestTime   = 4102444800 // 2100-01-01
)

// clockSlack is by how many seconds a clock may be set back between two cosignatures of one log: the earlier time
// is then stated once more.
const clockSlack = 60

// cosign returns the witness's signature lines for a checkpoint's text, and the time they state. Its error is a *refusal.
func (w *Witness) cosign(text string, was *seen) (uint64, []byte, error) {
	now := w.now().Unix()
	refuseClock := func(retry time.Duration, format string, a ...any) (uint64, []byte, error) {
		err := fmt.Errorf(format, a...)
		w.metrics.clockErrors.Inc()
		w.log.Error("the clock is wrong; nothing was cosigned", "err", err)
		return 0, nil, &refusal{status: http.StatusServiceUnavailable, reason: "clock", retry: retry, err: err}
	}
	if now < earliestTime || now >= latestTime {
		return refuseClock(time.Minute, "the witness's clock says %s, which cannot be; nothing was cosigned", stamp(now))
	}
	t := uint64(now)
	if newest := w.newest.Load(); newest > 0 && t > newest && time.Duration(t-newest) > w.c.ClockJump/time.Second {
		return refuseClock(time.Hour, "the witness's clock says %s, and its newest cosignature %s; its operator must say that this is right; nothing was cosigned", stamp(now), stamp(int64(newest)))
	}
	if t < was.time {
		if behind := was.time - t; behind > clockSlack {
			return refuseClock(time.Duration(min(behind, 3600))*time.Second, "the witness's clock is %d seconds behind its newest cosignature of this log; nothing was cosigned", behind)
		}
		t = was.time
	}
	var lines []byte
	for _, k := range w.keys {
		blob, err := k.SignAt([]byte(text), t)
		if err == nil && !k.verifier.Verify([]byte(text), blob) {
			err = fmt.Errorf("the key %s+%08x made a signature that is none", k.Name(), k.KeyHash()) // memory or processor at fault
		}
		if err != nil {
			w.log.Error("signing failed; nothing was cosigned", "err", err)
			return 0, nil, refuse(http.StatusInternalServerError, "signing", errors.New("signing failed; nothing was cosigned"))
		}
		lines = appendSignatureLine(lines, k.Name(), k.KeyHash(), blob)
	}
	return t, lines, nil
}

// contradicts tells of two checkpoints that contradict each other, and keeps them. That it could not keep them changes nothing
// for the client, who is refused anyway.
func (w *Witness) contradicts(ctx context.Context, req *addCheckpoint, c tlog.Checkpoint, was *seen, fork bool, reason string) {
	kind := "unproven"
	if fork {
		kind = "fork"
	}
	w.metrics.contradictions.WithLabelValues(c.Origin, kind).Inc()
	w.log.Error("a log contradicts itself", "origin", c.Origin, "kind", kind, "size", was.Size, "root", was.Root.String(),
		"submitted_size", c.Size, "submitted_root", c.Root.String(), "reason", reason)
	if w.c.Evidence == nil {
		return
	}
	err := w.c.Evidence.Keep(context.WithoutCancel(ctx), Contradiction{
		Origin: c.Origin, Fork: fork, Stored: was.note, Submitted: req.signed, Request: req.body, Reason: reason, Time: w.now(),
	})
	if err != nil {
		w.log.Error("evidence was not kept", "origin", c.Origin, "kind", kind, "err", err)
	}
}

// signSubtree is the trip of a request for the cosignature of a subtree. Its error is a *refusal.
func (w *Witness) signSubtree(body []byte) ([]byte, error) {
	req, err := parseSignSubtree(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "malformed", err)
	}
	if l, _, _ := w.find(req.c.Origin); l == nil {
		return nil, refuse(http.StatusNotFound, "unknown-log", fmt.Errorf("the log %q is not known here", req.c.Origin))
	}
	cosigned, subtree := w.subtreeKeys(req.signed)
	if !cosigned {
		return nil, refuse(http.StatusForbidden, "signature", errors.New("the checkpoint has no valid cosignature of this witness"))
	}
	if err := tlog.VerifySubtreeConsistency(req.start, req.end, req.c.Size, req.root, req.c.Root, req.proof); err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "inconsistent", err)
	}
	var lines []byte
	for _, k := range subtree {
		blob, err := k.SignSubtree(req.c.Origin, req.start, req.end, req.root)
		if err != nil {
			w.log.Error("signing a subtree failed", "err", err)
			return nil, refuse(http.StatusInternalServerError, "signing", errors.New("signing failed; nothing was cosigned"))
		}
		lines = appendSignatureLine(lines, k.Name(), k.KeyHash(), blob)
	}
	return lines, nil
}

// subtreeKeys says whether any of the witness's keys cosigned a checkpoint and none only seems to have, and which keys are to
// cosign its subtrees: of those that can, those that cosigned the checkpoint; all of them if none of those did.
func (w *Witness) subtreeKeys(signed []byte) (cosigned bool, subtree []witnessKey) {
	var verifiers []note.Verifier
	for _, k := range w.keys {
		verifiers = append(verifiers, k.verifier)
	}
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return false, nil
	}
	var can []witnessKey
	for _, k := range w.keys {
		if !k.Subtrees() {
			continue
		}
		can = append(can, k)
		if slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return s.Name == k.Name() && s.Hash == k.KeyHash() }) {
			subtree = append(subtree, k)
		}
	}
	if subtree == nil {
		subtree = can
	}
	return true, subtree
}

// Health says what is wrong with the witness, for whoever watches it, or nil.
func (w *Witness) Health() error {
	var errs []error
	if w.failing.Load() {
		errs = append(errs, errors.New("the last write to the state failed; look at the disk of the state directory"))
	}
	if now := w.now().Unix(); now < earliestTime || now >= latestTime {
		errs = append(errs, fmt.Errorf("the clock says %s; set it", stamp(now)))
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, origin := range w.list.Origins() {
		if w.logs[origin].broken.Load() {
			errs = append(errs, fmt.Errorf("the state of the log %q cannot be read; see what was logged of it", origin))
		}
	}
	return errors.Join(errs...)
}

// signatureTime returns the time that a cosignature states.
func signatureTime(sig note.Signature) uint64 {
	b, err := signatureBlob(sig)
	if err != nil || len(b) < 12 {
		return 0
	}
	return binary.BigEndian.Uint64(b[4:])
}

// signatureBlob returns key id and signature.
func signatureBlob(sig note.Signature) ([]byte, error) {
	return base64.StdEncoding.DecodeString(sig.Base64)
}

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
