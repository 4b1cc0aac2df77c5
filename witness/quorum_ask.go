package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// maxRetries is how often a witness that says another size is asked again in one call.
const maxRetries = 3

// A member is one witness of a Quorum: a submission prefix, and the keys that sign there.
type member struct {
	names      []string // in the policy
	keys       map[keyID]bool
	submission string
	monitoring string

	// turn holds a value while somebody asks. What follows belongs to him.
	turn chan struct{}
	next time.Time // nothing is submitted before
	size uint64    // that it was last heard to have
	held uint64    // the largest that it cosigned

	mu     sync.Mutex
	stats  Status
	claim  string // what it last said against us without proof; "" once it cosigned
	kept   answer // its newest cosignatures
	keptOf string // the checkpoint that they are over
}

// String names the witness.
func (m *member) String() string { return "the witness " + strings.Join(m.names, ", ") }

// An answer is what came of asking a witness in one call: cosignatures or none. A fork is the Quorum's to keep.
type answer struct {
	from  *member
	lines [][]byte
}

// A lapse is a failure that is the witness's own doing. One with a claim says that we are wrong.
type lapse struct {
	what  string
	claim bool
}

func (f *lapse) Error() string { return f.what }

// ask has one witness cosign. The order:
//
//  1. wait for its turn, and for the time when it may be asked again
//  2. submit, with the proof from the tree that it is known to have
//  3. another size was said: note it and go back to 1, maxRetries times
//  4. what came is verified; if it contradicts us, the witness's own checkpoint is fetched and decides
//
// begun is called when the first submission is under way, or has to wait: before, the call does not return, or a witness that is
// not as near as the others would never be asked. Once the call has returned, only a request under way is brought to its
// end, and what it contradicts looked into.
func (q *Quorum) ask(m *member, r *round, begun func()) answer {
	defer begun()
	select {
	case m.turn <- struct{}{}:
	default:
		begun()
		select {
		case m.turn <- struct{}{}:
		case <-r.ctx.Done():
			return answer{from: m} // an earlier call waits for it, and counts the failure if it is one
		}
	}
	defer func() { <-m.turn }()
	if a, ok := m.collected(r.text); ok {
		return a
	}
	for try := 0; ; try++ {
		if time.Until(m.next) > 0 {
			begun()
		}
		if m.size > r.c.Size || !waitUntil(r.ctx, m.next) {
			return answer{from: m} // it has a later checkpoint of ours, or may not be asked yet
		}
		proof, err := r.proof(m.size)
		if err != nil {
			return answer{from: m} // for Cosign to tell: it is no fault of the witness
		}
		begun()
		lines, err := q.submit(m, r, proof)
		switch {
		case err == nil && lines != nil:
			return answer{from: m, lines: lines}
		case err == nil && try < maxRetries:
			continue
		case err == nil:
			err = &lapse{what: fmt.Sprintf("it said another size %d times", try+1)}
		}
		var f *lapse
		if errors.As(err, &f) && f.claim {
			get := func(url string) (*response, error) { return q.send(http.MethodGet, url, nil) }
			fork, why := evidence(get, q.c.Policy, r.offer, m, m.monitoring, f.what, q.known, r.proof)
			if fork != nil {
				m.failed(q, fork)
				q.keepFork(fork)
				return answer{from: m}
			}
			f.what += "; " + why
		}
		m.failed(q, err)
		return answer{from: m}
	}
}

// submit offers the checkpoint to a witness and reads what it answers. Neither lines nor an error means that it has another
// size, which is noted, and is to be asked again.
func (q *Quorum) submit(m *member, r *round, proof tlog.Proof) ([][]byte, error) {
	m.next = time.Now().Add(q.c.Interval)
	resp, err := q.send(http.MethodPost, m.submission+"/add-checkpoint", (&addCheckpoint{old: m.size, proof: proof, signed: r.signed}).append(nil))
	if err != nil {
		return nil, err
	}
	switch resp.status {
	case http.StatusOK:
		lines, stated, err := cosignatures(q.c.Policy, m.keys, r.offer, resp.body, q.c.Skew)
		if err != nil {
			return nil, &lapse{what: err.Error(), claim: errors.Is(err, errSignature)}
		}
		m.size, m.held = r.c.Size, max(m.held, r.c.Size)
		m.cosigned(r.text, answer{from: m, lines: lines}, r.c.Size, stated)
		return lines, nil
	case http.StatusConflict:
		size, err := resp.size()
		switch {
		case err != nil:
			return nil, &lapse{what: err.Error()}
		case size > r.c.Size && size > q.known():
			return nil, &lapse{what: fmt.Sprintf("it says that it has %d entries of the log, and the checkpoint has %d", size, r.c.Size), claim: true}
		case size == m.size:
			return nil, &lapse{what: fmt.Sprintf("it says that it has %d entries, and does not take the proof from there", size)}
		case size < m.held:
			m.forgot(q, size)
		}
		m.size = size
		return nil, nil
	case http.StatusUnprocessableEntity:
		return nil, &lapse{what: fmt.Sprintf("it says that the tree of size %d does not continue its own of size %d", r.c.Size, m.size), claim: true}
	}
	return nil, resp.unexpected()
}

// send makes a request that lasts Timeout at most, whatever becomes of the call that it is made for.
func (q *Quorum) send(method, url string, body []byte) (*response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), q.c.Timeout)
	defer cancel()
	return exchange(ctx, q.c.Client, method, url, body, nil)
}

// evidence fetches the checkpoint of an outsider that contradicts an offer, and returns the fork that it proves, or why it
// proves none. known returns up to which size outsiders may know the log by now: those who have a larger tree than that
// have what the log does not know. prove proves that the offer's tree continues that of the first old entries.
func evidence(fetch func(url string) (*response, error), p *tlog.Policy, o offer, who fmt.Stringer, monitoring, what string, known func() uint64, prove func(old uint64) (tlog.Proof, error)) (*tlog.ForkError, string) {
	resp, err := fetch(monitoring + "/" + originSum(o.c.Origin) + "/checkpoint")
	if err == nil && resp.status != http.StatusOK {
		err = resp.unexpected()
	}
	if err != nil {
		return nil, fmt.Sprintf("its own checkpoint cannot be had: %v", err)
	}
	theirs, err := checkLogSigned(p, o.c.Origin, resp.body)
	if err != nil {
		return nil, fmt.Sprintf("its own checkpoint is none that the log signed: %v", err)
	}
	fork := func(format string, a ...any) (*tlog.ForkError, string) {
		return &tlog.ForkError{A: o.signed, B: resp.body, Reason: fmt.Sprintf("%s: %s; it shows a checkpoint signed by the log ", who, what) + fmt.Sprintf(format, a...)}, ""
	}
	switch {
	case theirs == o.c:
		return nil, "its own checkpoint is this one"
	case theirs.Size == o.c.Size:
		return fork("of the same size with the root %s, not %s", theirs.Root, o.c.Root)
	case theirs.Size > o.c.Size && theirs.Size <= known():
		return nil, fmt.Sprintf("its own checkpoint, of size %d, may be a later one of ours", theirs.Size)
	case theirs.Size > o.c.Size:
		return fork("with %d entries, and this one has %d", theirs.Size, o.c.Size)
	}
	proof, err := prove(theirs.Size)
	if err != nil {
		return nil, fmt.Sprintf("whether ours continues its own checkpoint of size %d is not known: %v", theirs.Size, err)
	}
	if err := tlog.VerifyConsistency(theirs.Size, o.c.Size, theirs.Root, o.c.Root, proof); err != nil {
		return fork("with %d entries, which this one of %d entries does not continue", theirs.Size, o.c.Size)
	}
	return nil, fmt.Sprintf("ours continues its own checkpoint, of size %d", theirs.Size)
}

// failed counts a failure, sets the pause until the next try, and raises the alarm.
func (m *member) failed(q *Quorum, err error) {
	m.mu.Lock()
	m.stats.Failures++
	m.stats.Err = err
	level := slog.LevelWarn
	var f *lapse
	if errors.As(err, &f) {
		m.stats.Faults++
		if f.claim {
			m.claim, level = f.what, slog.LevelError
		}
	}
	if errors.As(err, new(*tlog.ForkError)) {
		level = slog.LevelError
	}
	n := m.stats.Failures
	m.mu.Unlock()
	again := pause(q.c.Interval, q.c.Backoff, n)
	m.next = time.Now().Add(again)
	q.c.Log.Log(context.Background(), level, "a witness has not cosigned", "witness", strings.Join(m.names, ", "), "origin", q.c.Origin, "failures", n, "again", again, "err", err)
}

// forgot counts that a witness says a smaller size than it cosigned.
func (m *member) forgot(q *Quorum, size uint64) {
	q.c.Log.Error("a witness has forgotten what it cosigned", "witness", strings.Join(m.names, ", "), "origin", q.c.Origin, "cosigned", m.held, "says", size)
	m.held = size
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Faults++
}

func (m *member) cosigned(text string, a answer, size, stated uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Size, m.stats.Cosigned = size, time.Unix(int64(stated), 0)
	m.stats.Failures, m.stats.Err, m.claim = 0, nil, ""
	m.kept, m.keptOf = a, text
}

// collected returns the cosignatures that came for this checkpoint and were not yet enough, or came too late.
func (m *member) collected(text string) (answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept, m.keptOf == text
}

func (m *member) forget(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keptOf == text {
		m.kept, m.keptOf = answer{}, ""
	}
}

func (m *member) openClaim() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claim
}

func (m *member) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats
}

// waitUntil returns true at t, and false when ctx ends before, at once if that is known already.
func waitUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	if end, ok := ctx.Deadline(); ok && end.Before(t) {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pause returns how long to wait after so many failures in a row, one at least.
func pause(first, longest time.Duration, failures int) time.Duration {
	for range failures - 1 {
		if first >= longest/2 {
			return longest
		}
		first *= 2
	}
	return min(first, longest)
}
