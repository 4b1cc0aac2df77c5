package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/tlog"
)

// How calls are put together into bodies.
const (
	batchBytes = 1 << 20   // a body of several calls has no more
	bulkBytes  = 256 << 10 // a call of more goes by itself, and its payloads are sent from the caller's own slices
	maxAir     = 4         // so many bodies of small calls are on their way at a time
	maxBulk    = 2         // and beside them so many of one large call

	// What must wait before a body is sent beside one that is on its way.
	secondLeaves = 64
	secondBytes  = 128 << 10
)

// A call is one call of Append on its way.
type call struct {
	n      int         // leaves
	bytes  int         // of them
	buf    []byte      // the leaves, encoded; of a bulk call without the payloads
	leaves []tlog.Leaf // of a bulk call: the caller's, who may have them back once its body is closed
	bulk   bool
	alone  bool // it is to be tried by itself

	first uint64 // index of the first leaf
	err   error
	done  chan struct{} // holds one

	// Guarded by queue.mu.
	batch *batch // in which it is on its way, or its outcome open; nil while it waits
	over  bool   // its outcome is told
	gone  bool   // its caller has left without waiting for the outcome
}

// newCall checks the limits and copies what is small, in the caller's goroutine.
func newCall(leaves []tlog.Leaf) (*call, error) {
	if len(leaves) > MaxAppend {
		return nil, fmt.Errorf("%d leaves in one call, over the limit of %d: %w", len(leaves), MaxAppend, tlog.ErrTooLarge)
	}
	c := &call{n: len(leaves), done: make(chan struct{}, 1)}
	for i, leaf := range leaves {
		if err := checkLeaf(i, len(leaf.Entry), len(leaf.Payload)); err != nil {
			return nil, err
		}
		c.bytes += len(leaf.Entry) + len(leaf.Payload)
	}
	if c.bytes > MaxCall {
		return nil, fmt.Errorf("%d bytes in one call, over the limit of %d: %w", c.bytes, MaxCall, tlog.ErrTooLarge)
	}
	if c.bulk = c.bytes > bulkBytes; c.bulk {
		c.leaves = leaves
		for _, leaf := range leaves {
			c.buf = appendLeafHead(c.buf, leaf)
		}
		return c, nil
	}
	c.buf = make([]byte, 0, c.bytes+leafHeadLen*len(leaves))
	for _, leaf := range leaves {
		c.buf = appendLeaf(c.buf, leaf)
	}
	return c, nil
}

// pieces appends what is to be sent, in order.
func (c *call) pieces(p [][]byte) [][]byte {
	if !c.bulk {
		return append(p, c.buf)
	}
	rest := c.buf
	for _, leaf := range c.leaves {
		n := leafHeadLen + len(leaf.Entry)
		p = append(p, rest[:n], leaf.Payload)
		rest = rest[n:]
	}
	return p
}

// A batch is the calls of one body: their leaves lie side by side in the log, all of them or none.
type batch struct {
	calls  []*call
	leaves int
	bulk   bool
	gone   int // calls whose callers have left; guarded by queue.mu
	body   *body

	stop context.CancelFunc // ends its attempt; nil when that has landed. Guarded by queue.mu

	// Run's own.
	from  uint64 // its leaves have no smaller index than this
	until uint64 // nor one that reaches this; 0 while that is not known
	not   []span // what lies between and belongs to another batch of ours, which may have had the same bytes

	out   outcome // of the attempt, once it has landed
	err   error
	first uint64      // index of the first leaf, once that is known
	leafs []tlog.Hash // the leaf hashes, while they are looked for
}

// A span is leaves that lie side by side.
type span struct{ first, end uint64 }

// An outcome is what became of an attempt.
type outcome int

const (
	told    outcome = iota // the callers know; nothing is left to do
	again                  // nothing was appended, for want of a lease or of a connection
	single                 // nothing was appended because of one of the calls
	unknown                // the server may have it
	lost                   // the log has lost what it had, and the callers know
)

// hashes returns the leaf hashes of a batch.
func (b *batch) hashes() []tlog.Hash {
	hs := make([]tlog.Hash, 0, b.leaves)
	for _, c := range b.calls {
		hs = hashHeads(hs, c.buf, !c.bulk)
	}
	return hs
}

// A body gives out the bytes of a batch once.
type body struct {
	length int64

	mu     sync.Mutex // held while bytes are copied
	pieces [][]byte
	closed bool
}

func newBody(b *batch) *body {
	p := &body{pieces: make([][]byte, 1, 1+len(b.calls))}
	p.pieces[0] = appendCount(nil, b.leaves)
	for _, c := range b.calls {
		p.pieces = c.pieces(p.pieces)
	}
	for _, piece := range p.pieces {
		p.length += int64(len(piece))
	}
	return p
}

func (p *body) Read(to []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, errReleased
	}
	for len(p.pieces) > 0 && n < len(to) {
		c := copy(to[n:], p.pieces[0])
		n += c
		if p.pieces[0] = p.pieces[0][c:]; len(p.pieces[0]) == 0 {
			p.pieces = p.pieces[1:]
		}
	}
	if n == 0 && len(p.pieces) == 0 {
		return 0, io.EOF
	}
	return n, nil
}

var errReleased = errors.New("tlog/remote: the body was taken back")

// Close implements io.Closer.
func (p *body) Close() error {
	p.release()
	return nil
}

// release ends the use of the bytes, for good. It returns whether all of them had been given out: if not, no server can have
// had the whole body, and nothing was appended.
func (p *body) release() (all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return len(p.pieces) == 0
}

// A queue holds the calls that wait, and knows what is on its way. As in the log itself, batches make themselves: what comes
// while one is on its way goes into the next; and the callers that an answer wakes come back one by one, so the next waits
// until all have come that can.
type queue struct {
	maxLeaves, maxBytes int
	wake                chan struct{} // holds one; look again

	mu      sync.Mutex // guards what follows
	small   []*call
	bulk    []*call
	waiting room  // of small
	all     room  // of every call whose outcome is not told
	air     int   // batches of small calls on their way
	airBulk int   // batches of bulk calls
	strays  int   // calls on their way whose callers have left
	shut    error // why nothing is let in any more
}

// room is what leaves take up.
type room struct{ leaves, bytes int }

func (r *room) add(c *call) {
	r.leaves += c.n
	r.bytes += c.bytes
}

func (r *room) sub(c *call) {
	r.leaves -= c.n
	r.bytes -= c.bytes
}

func (q *queue) init(leaves, bytes int) {
	q.maxLeaves, q.maxBytes, q.wake = leaves, bytes, make(chan struct{}, 1)
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// ripe says whether a batch should be sent: of small calls, or a bulk call. q.mu is held. While calls whose callers have
// left are on their way none is: the leaves of a call that returned, whatever it answered, do not land behind those of one
// that began later.
func (q *queue) ripe() (small, bulk bool) {
	if q.strays > 0 {
		return false, false
	}
	small = len(q.small) > 0 && (q.air == 0 || q.air < maxAir && (q.waiting.leaves >= secondLeaves || q.waiting.bytes >= secondBytes))
	bulk = len(q.bulk) > 0 && q.airBulk < maxBulk
	return small, bulk
}

func (q *queue) isRipe() bool {
	small, bulk := q.ripe()
	return small || bulk
}

func (q *queue) worth() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isRipe()
}

// enter puts a call into the queue, or says at once that there is no room.
func (q *queue) enter(c *call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.shut != nil {
		return q.shut
	}
	if q.all.leaves > 0 && (q.all.leaves+c.n > q.maxLeaves || q.all.bytes+c.bytes > q.maxBytes) {
		return tlog.ErrBusy
	}
	before := q.isRipe()
	q.all.add(c)
	q.put(c)
	if !before && q.isRipe() {
		q.signal()
	}
	return nil
}

// put appends a call to those that wait. q.mu is held.
func (q *queue) put(c *call) {
	if c.bulk {
		q.bulk = append(q.bulk, c)
		return
	}
	q.small = append(q.small, c)
	q.waiting.add(c)
}

// leave is the end of a caller's patience. left is false where the outcome was told meanwhile; clear says that nothing of
// the call is in the log or will be.
func (q *queue) leave(c *call) (left, clear bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.over {
		return false, false
	}
	b := c.batch
	if b == nil {
		list := &q.small
		if c.bulk {
			list = &q.bulk
		} else {
			q.waiting.sub(c)
		}
		i := slices.Index(*list, c)
		*list = slices.Delete(*list, i, i+1)
		q.all.sub(c)
		c.over = true
		return true, true
	}
	c.gone = true
	b.gone++
	if b.stop != nil { // on its way, not only open
		q.strays++
		if c.bulk {
			b.body.release() // the slices are the caller's again
			b.stop()
		}
	}
	return true, false
}

// gather lets the goroutines run that are ready to, until none of them brings anything more.
func (q *queue) gather() {
	for last, still := 0, 0; still < 3; runtime.Gosched() {
		q.mu.Lock()
		n, enough := len(q.small), q.waiting.leaves >= 2*secondLeaves || q.waiting.bytes >= 2*secondBytes
		q.mu.Unlock()
		if enough {
			return
		}
		if n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
}

// take returns what is to be sent next, or nil. stop ends its attempt.
func (q *queue) take(stop context.CancelFunc) *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	small, bulk := q.ripe()
	b := &batch{stop: stop}
	switch {
	case bulk:
		b.bulk = true
		b.add(q.bulk[0])
		q.bulk = slices.Delete(q.bulk, 0, 1)
		q.airBulk++
	case small:
		bytes := 0
		for _, c := range q.small {
			if bytes += c.bytes; len(b.calls) > 0 && (c.alone || b.calls[0].alone || b.leaves+c.n > MaxAppend || bytes > batchBytes) {
				break
			}
			b.add(c)
			q.waiting.sub(c)
		}
		q.small = slices.Delete(q.small, 0, len(b.calls))
		q.air++
	default:
		return nil
	}
	for _, c := range b.calls {
		c.batch = b
	}
	b.body = newBody(b)
	return b
}

func (b *batch) add(c *call) {
	b.calls = append(b.calls, c)
	b.leaves += c.n
}

// tell gives the callers of a batch the outcome.
func (q *queue) tell(b *batch, first uint64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range b.calls {
		if !c.over {
			c.first = first
			q.finish(c, err)
		}
		first += uint64(c.n)
	}
}

// finish gives a caller the outcome. q.mu is held.
func (q *queue) finish(c *call, err error) {
	c.over, c.err = true, err
	c.leaves = nil
	q.all.sub(c)
	c.done <- struct{}{}
}

// down notes that a batch is not on its way any more.
func (q *queue) down(b *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.bulk {
		q.airBulk--
	} else {
		q.air--
	}
	q.strays -= b.gone
	b.stop = nil
	if q.isRipe() {
		q.signal()
	}
}

// back puts the calls of a batch, of which nothing was appended, before those that wait. Those whose callers have left are
// dropped.
func (q *queue) back(b *batch, alone bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	small, bulk := q.small, q.bulk
	q.small, q.bulk = nil, nil
	for _, c := range b.calls {
		c.batch = nil
		c.alone = c.alone || alone
		if c.gone {
			c.over = true
			q.all.sub(c)
			continue
		}
		q.put(c)
	}
	q.small, q.bulk = append(q.small, small...), append(q.bulk, bulk...)
	if q.isRipe() {
		q.signal()
	}
}

// waited says whether anybody waits for the outcome of a batch.
func (q *queue) waited(b *batch) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return b.gone < len(b.calls)
}

// idle says whether no call waits to be sent.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.small)+len(q.bulk) == 0
}

// turnAway answers all calls that wait to be sent.
func (q *queue) turnAway(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range slices.Concat(q.small, q.bulk) {
		q.finish(c, err)
	}
	q.small, q.bulk, q.waiting = nil, nil, room{}
}

// close lets nothing in any more, for the reason given, and turns away what waits. The first reason stays.
func (q *queue) close(reason error) {
	q.mu.Lock()
	if q.shut == nil {
		q.shut = reason
	}
	reason = q.shut
	q.mu.Unlock()
	q.turnAway(reason)
}
