package gatewaytest

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"time"
)

// An Outcome is how a request ended.
type Outcome uint8

// The ways a request ends.
const (
	Open   Outcome = iota // it has not ended
	Done                  // the answer was written to its end, or to the end a directive asked for
	Failed                // an error of the provider's was answered
	Faulty                // the connection was broken, or HTTP was, as a directive asked
	Gone                  // the caller left first
)

// A Request is what a Model received.
type Request struct {
	N       int         // counts from 1
	Time    time.Time   // when its body had been read
	Conn    string      // the caller's end of the connection: equal for requests on the same one
	Method  string      //
	Target  string      // as it stood in the request line
	Proto   string      // such as HTTP/1.1
	Host    string      //
	Header  http.Header // without Host; names in canonical form
	Chunked bool        // Transfer-Encoding: chunked
	Body    []byte      // the first Config.KeepBody bytes
	Size    int64       // of the whole body
	Head    []byte      // the exact bytes of the head; by RunRaw alone
	Outcome Outcome
}

// ledger remembers requests.
type ledger struct {
	keep int

	mu      sync.Mutex
	ring    []*Request // guarded by mu, and what they point to; the oldest at count%keep once full
	count   int
	busy    int
	changed chan struct{} // closed at the next change, if someone waits
}

// open remembers a request that has been read.
func (l *ledger) open(r *http.Request, body []byte, keepBody int) *Request {
	e := &Request{
		Time: time.Now(), Conn: r.RemoteAddr, Method: r.Method, Target: r.RequestURI, Proto: r.Proto, Host: r.Host,
		Size: int64(len(body)), Chunked: len(r.TransferEncoding) > 0,
	}
	if l.keep > 0 {
		e.Header = r.Header.Clone()
		e.Body = bytes.Clone(body[:min(len(body), keepBody)])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	l.busy++
	e.N = l.count
	switch {
	case l.keep < 0:
	case len(l.ring) < l.keep:
		l.ring = append(l.ring, e)
	default:
		l.ring[(l.count-1)%l.keep] = e
	}
	l.wake()
	return e
}

// close notes how a request ended.
func (l *ledger) close(e *Request, o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Outcome = o
	l.busy--
	l.wake()
}

// wake tells those who wait; mu is held.
func (l *ledger) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// await waits until ok, which is called with mu held.
func (l *ledger) await(ctx context.Context, ok func() bool) error {
	for {
		l.mu.Lock()
		if ok() {
			l.mu.Unlock()
			return nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Requests returns the requests remembered, the oldest first. Header and Body are shared; do not change them.
func (m *Model) Requests() []Request {
	l := &m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Request, 0, len(l.ring))
	for i := range l.ring {
		if len(l.ring) == l.keep {
			i = (l.count + i) % l.keep
		}
		out = append(out, *l.ring[i])
	}
	return out
}

// Last returns the newest request; ok is false when none is remembered.
func (m *Model) Last() (r Request, ok bool) {
	l := &m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) == 0 {
		return Request{}, false
	}
	return *l.ring[(l.count-1)%l.keep], true
}

// Count returns how many requests have been received, remembered or not.
func (m *Model) Count() int {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	return m.ledger.count
}

// Await waits until n requests have been received in all, answered or not, or ctx is done.
func (m *Model) Await(ctx context.Context, n int) error {
	return m.ledger.await(ctx, func() bool { return m.ledger.count >= n })
}

// Idle waits until no request is being answered, or ctx is done. A test that waits for a caller's departure to
// reach the model waits for this, and then finds Gone in Last.
func (m *Model) Idle(ctx context.Context) error {
	return m.ledger.await(ctx, func() bool { return m.ledger.busy == 0 })
}

// note adds the exact bytes of the head.
func (l *ledger) note(e *Request, head []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keep > 0 {
		e.Head = head
	}
}
