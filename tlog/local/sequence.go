package local

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// What a batch and a call may carry. A batch stays far below half a memtable, beyond which Pebble would turn it into
// a memtable of its own.
const (
	maxBatchLeaves = 4096
	maxBatchBytes  = 4 << 20
	// MaxAppend is the most leaves that one call of Append takes.
	MaxAppend = maxBatchLeaves
)

// An item is one call of Append on its way. Whoever takes it off the queue, or off the flights, finishes it.
type item struct {
	leaves []tlog.Leaf
	hashes []tlog.Hash // of the entries
	sums   []tlog.Hash // of the payloads
	bytes  int
	barred uint64 // the count of discards against which the payloads were checked
	drop   []bool // payloads that were discarded before; nil for none

	first uint64 // index of the first leaf
	err   error
	done  chan struct{} // holds one
	taken bool          // guarded by queue.mu

	oneHash, oneSum [1]tlog.Hash
}

func (it *item) finish(err error) {
	it.err = err
	it.done <- struct{}{}
}

// A queue holds what waits for the sequencer.
//
// Batches make themselves: what comes while the disk syncs goes into the next one. But the callers that a sync wakes come
// back one by one, and a batch begun with the first of them would make the others wait for two syncs. So the sequencer
// lets all run that can before it takes what is there, and while a batch is on its way it begins another only when
// enough waits to make up for the sync.
type queue struct {
	wake  chan struct{} // holds one; look again
	spare sync.Pool     // of *item

	mu      sync.Mutex // guards what follows
	items   []*item
	waiting room  // of items
	taken   room  // on their way to the disk
	air     int   // batches on their way
	shut    error // why nothing is let in any more
}

// item returns one that nobody uses.
func (q *queue) item() *item {
	if it, ok := q.spare.Get().(*item); ok {
		return it
	}
	return &item{done: make(chan struct{}, 1)}
}

// room is what leaves take up.
type room struct{ leaves, bytes int }

func (r *room) add(it *item) {
	r.leaves += len(it.leaves)
	r.bytes += it.bytes
}

func (r *room) sub(it *item) {
	r.leaves -= len(it.leaves)
	r.bytes -= it.bytes
}

// What must wait before a batch is begun beside one that is on its way.
const (
	secondLeaves = 64
	secondBytes  = 128 << 10
)

// ripe says whether a batch should be begun. q.mu is held.
func (q *queue) ripe() bool {
	return len(q.items) > 0 && (q.air == 0 || q.waiting.leaves >= secondLeaves || q.waiting.bytes >= secondBytes)
}

func (q *queue) worth() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ripe()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// gather lets the goroutines run that are ready to, until none of them brings anything more.
func (q *queue) gather() {
	for last, still := 0, 0; still < 3; runtime.Gosched() {
		q.mu.Lock()
		n, enough := len(q.items), q.waiting.leaves >= 2*secondLeaves || q.waiting.bytes >= 2*secondBytes
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

// Append makes leaves durable; see [tlog.Appender]. At most MaxAppend go into one call. A context that ends while the
// call still waits for the sequencer takes its leaves back, and nothing was appended; once the sequencer has them,
// Append waits for the outcome. Beyond what the tlog package names, it answers tlog.ErrHalted or tlog.ErrQuarantine
// when those are the state of the log, and tlog.ErrClosed after Run has ended.
func (l *Log) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	if len(leaves) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.admit(); err != nil {
		return nil, err
	}
	it := l.queue.item()
	if err := it.prepare(leaves); err != nil {
		return nil, err
	}
	if err := l.bar(it); err != nil {
		return nil, err
	}
	if err := l.enqueue(it); err != nil {
		return nil, err
	}
	select {
	case <-it.done:
	case <-ctx.Done():
		if l.withdraw(it) {
			return nil, ctx.Err()
		}
		<-it.done
	}
	if it.err != nil {
		return nil, it.err // an item that failed is not used again: two may still hold it
	}
	indices := make([]uint64, len(leaves))
	for i := range indices {
		indices[i] = it.first + uint64(i)
	}
	it.leaves, it.drop, it.taken = nil, nil, false
	l.queue.spare.Put(it)
	return indices, nil
}

// prepare checks the limits and hashes, in the caller's goroutine.
func (it *item) prepare(leaves []tlog.Leaf) error {
	if len(leaves) > MaxAppend {
		return fmt.Errorf("%d leaves in one call, over the limit of %d: %w", len(leaves), MaxAppend, tlog.ErrTooLarge)
	}
	it.leaves, it.bytes = leaves, 0
	it.hashes, it.sums = it.oneHash[:0], it.oneSum[:0]
	for i, leaf := range leaves {
		switch {
		case len(leaf.Entry) == 0:
			return fmt.Errorf("entry %d of the call: %w", i, errEmpty)
		case len(leaf.Entry) > tlog.MaxEntry:
			return fmt.Errorf("entry of %d bytes, over the limit of %d: %w", len(leaf.Entry), tlog.MaxEntry, tlog.ErrTooLarge)
		case len(leaf.Payload) > tlog.MaxPayload:
			return fmt.Errorf("payload of %d bytes, over the limit of %d: %w", len(leaf.Payload), tlog.MaxPayload, tlog.ErrTooLarge)
		}
		it.hashes = append(it.hashes, tlog.HashLeaf(leaf.Entry))
		var sum tlog.Hash
		if len(leaf.Payload) > 0 {
			sum = sha256.Sum256(leaf.Payload)
		}
		it.sums = append(it.sums, sum)
		it.bytes += len(leaf.Entry) + len(leaf.Payload)
	}
	return nil
}

var errEmpty = errors.New("tlog/local: an entry has at least one byte")

// enqueue hands a prepared item to the sequencer, or says at once that there is no room.
func (l *Log) enqueue(it *item) error {
	q := &l.queue
	q.mu.Lock()
	if q.shut != nil {
		defer q.mu.Unlock()
		return q.shut
	}
	// A call too large for the bounds is let in when nothing else is.
	leaves, bytes := q.waiting.leaves+q.taken.leaves, q.waiting.bytes+q.taken.bytes
	if leaves > 0 && (leaves+len(it.leaves) > l.cfg.MaxLeaves || bytes+it.bytes > l.cfg.MaxBytes) {
		q.mu.Unlock()
		l.counts.busy.Add(1)
		return tlog.ErrBusy
	}
	before := q.ripe()
	q.waiting.add(it)
	q.items = append(q.items, it)
	ripe := q.ripe()
	q.mu.Unlock()
	if ripe && !before {
		q.signal()
	}
	return nil
}

// withdraw takes an item back that the sequencer has not taken.
func (l *Log) withdraw(it *item) bool {
	q := &l.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.items, it)
	if it.taken || i < 0 {
		return false
	}
	q.items = slices.Delete(q.items, i, i+1)
	q.waiting.sub(it)
	return true
}

// take moves what waits, within the bounds of a batch, to out.
func (q *queue) take(out []*item) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch room
	n := 0
	for _, it := range q.items {
		batch.add(it)
		if n > 0 && (batch.leaves > maxBatchLeaves || batch.bytes > maxBatchBytes) {
			break
		}
		it.taken = true
		q.waiting.sub(it)
		q.taken.add(it)
		n++
	}
	out = append(out, q.items[:n]...)
	q.items = slices.Delete(q.items, 0, n)
	if n > 0 {
		q.air++
	}
	return out
}

// landed gives back the room of the items of a batch that reached the disk.
func (q *queue) landed(done []*item) {
	q.mu.Lock()
	for _, it := range done {
		q.taken.sub(it)
	}
	q.air--
	ripe := q.ripe()
	q.mu.Unlock()
	if ripe {
		q.signal()
	}
}

// close lets nothing in any more, for the reason given, and turns away what still waits. The first reason stays
// unless a graver one comes.
func (q *queue) close(reason error) {
	q.mu.Lock()
	if q.shut == nil || gravity(reason) > gravity(q.shut) {
		q.shut = reason
	}
	turned := q.items
	q.items = nil
	for _, it := range turned {
		q.waiting.sub(it)
		it.taken = true
	}
	q.mu.Unlock()
	for _, it := range turned {
		it.finish(reason)
	}
}

func gravity(err error) int {
	switch {
	case errors.Is(err, tlog.ErrQuarantine):
		return 2
	case errors.Is(err, tlog.ErrHalted):
		return 1
	}
	return 0
}

// A flight is a batch on its way to the disk.
type flight struct {
	items []*item
	batch *pebble.Batch
	state state // of the log once the batch is durable
	count int
}

// flights are the batches whose outcome somebody waits for. Taking a flight off the list gives the right, and the
// duty, to finish its items.
type flights struct {
	mu   sync.Mutex
	list []*flight
}

func (f *flights) add(fl *flight) {
	f.mu.Lock()
	f.list = append(f.list, fl)
	f.mu.Unlock()
}

func (f *flights) remove(fl *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.list, fl)
	if i < 0 {
		return false
	}
	f.list = slices.Delete(f.list, i, i+1)
	return true
}

func (f *flights) removeAll() []*flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.list
	f.list = nil
	return all
}

// sequence is the one writer of entries. It builds the next batch while commit waits for the disk to take the last,
// when that is worth the two syncs.
func (l *Log) sequence(stop <-chan struct{}) error {
	defer close(l.committing)
	for {
		var fl *flight
		select {
		case fl = <-l.idle:
		case <-l.broken:
			return nil
		case <-stop:
			return nil
		}
		for len(fl.items) == 0 {
			if !l.pause.wait(stop, l.broken) {
				return nil
			}
			if l.queue.worth() {
				l.queue.gather()
				fl.items = l.queue.take(fl.items)
				continue
			}
			select {
			case <-l.queue.wake:
			case <-l.broken:
				return nil
			case <-stop:
				return nil
			}
		}
		l.flights.add(fl)
		if err := l.build(fl); err != nil {
			err = fmt.Errorf("batch at %d: %w", l.edge.size, err)
			l.halt(err)
			return err
		}
		l.committing <- fl
	}
}

// build fills the batch of a flight and applies it to the store without waiting for the disk.
func (l *Log) build(fl *flight) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	b := fl.batch
	b.Reset()
	size := l.edge.size
	index := size
	paid, payloads := l.paid[:0], 0
	for _, it := range fl.items {
		it.first = index
		if it.barred != l.discards.Load() {
			if err := l.barAgain(it); err != nil {
				return err
			}
		}
		for i, leaf := range it.leaves {
			op := b.SetDeferred(9, entryRowLen(leaf))
			op.Key[0] = rowEntry
			binary.BigEndian.PutUint64(op.Key[1:], index)
			putEntryRow(op.Value, leaf, it.sums[i])
			if err := op.Finish(); err != nil {
				return err
			}
			if len(leaf.Payload) > 0 && !(it.drop != nil && it.drop[i]) {
				payloads += len(leaf.Payload)
				paid = append(paid, payloadAt{index, leaf.Payload})
			}
			if err := l.edge.add(it.hashes[i], l.fullTile); err != nil {
				return err
			}
			index++
		}
	}
	// A payload too large for one batch goes ahead, unsynced: behind the size of the log its rows mean nothing, and
	// the synced batch that gives them meaning comes after them in the write-ahead log.
	ahead := payloads > 2*maxBatchBytes
	for _, p := range paid {
		if err := l.putPayload(b, p, ahead); err != nil {
			return err
		}
	}
	for _, t := range l.full {
		op := b.SetDeferred(10, tlog.TileBytes)
		op.Key[0], op.Key[1] = rowTile, byte(t.level)
		binary.BigEndian.PutUint64(op.Key[2:], t.index)
		joinHashes(op.Value[:0], t.hashes)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	l.full = l.full[:0]
	fl.state = l.edge.state()
	fl.count = int(fl.state.size - size)
	op := b.SetDeferred(1, sizeRowLen)
	op.Key[0] = rowSize
	putSizeRow(op.Value, fl.state, time.Now().UnixNano())
	if err := op.Finish(); err != nil {
		return err
	}
	clear(paid)
	l.paid = paid[:0]
	return l.apply(l.db, b)
}

// apply hands a batch to Pebble, which makes it visible and starts the sync; settle waits for that.
func (l *Log) apply(db *pebble.DB, b *pebble.Batch) (err error) {
	return l.unbroken(func() error { return db.ApplyNoSyncWait(b, pebble.Sync) })
}

// unbroken calls write, unless the log has stopped. Pebble panics, with its locks held, when the write-ahead log has failed before: the log is then
// past closing.
func (l *Log) unbroken(write func() error) (err error) {
	if err := l.stopReason(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("write-ahead log: %v", r)
			l.ruin(err)
		}
	}()
	return write()
}

// settle waits until a batch is on the disk. An error is final: what a disk failed to sync once may be gone, whatever it
// says the second time.
func (l *Log) settle(b *pebble.Batch) error {
	err := b.SyncWait()
	if err != nil {
		err = fmt.Errorf("sync of the write-ahead log: %w", err)
		l.ruin(err)
	}
	return err
}

// write applies a batch and waits for the disk.
func (l *Log) write(db *pebble.DB, b *pebble.Batch) error {
	if err := l.apply(db, b); err != nil {
		return err
	}
	return l.settle(b)
}

// ruin halts the log and notes that the store cannot be closed any more.
func (l *Log) ruin(cause error) {
	l.mu.Lock()
	l.ruined = true
	l.mu.Unlock()
	l.halt(cause)
}

// A payloadAt is a payload to write and where.
type payloadAt struct {
	index   uint64
	payload []byte
}

// putPayload writes a payload in parts, into the batch or, without a sync, ahead of it.
func (l *Log) putPayload(b *pebble.Batch, p payloadAt, ahead bool) error {
	for part, rest := 0, p.payload; len(rest) > 0; part++ {
		n := min(len(rest), partBytes)
		if ahead {
			err := l.unbroken(func() error { return l.db.Set(payloadKey(p.index, part), rest[:n], pebble.NoSync) })
			if err != nil {
				return err
			}
		} else {
			op := b.SetDeferred(11, n)
			op.Key[0] = rowPayload
			binary.BigEndian.PutUint64(op.Key[1:], p.index)
			op.Key[9], op.Key[10] = byte(part>>8), byte(part)
			copy(op.Value, rest[:n])
			if err := op.Finish(); err != nil {
				return err
			}
		}
		rest = rest[n:]
	}
	return nil
}

// A fullTile is a tile that a batch completed.
type fullTile struct {
	level  int
	index  uint64
	hashes []tlog.Hash
}

// fullTile keeps a completed tile until its batch is written.
func (l *Log) fullTile(level int, index uint64, hs []tlog.Hash) error {
	l.full = append(l.full, fullTile{level, index, slices.Clone(hs)})
	return nil
}

// commit waits for the disk, batch by batch, and tells the callers. The order is:
//
//  1. the batch is synced         what it holds cannot be lost any more
//  2. the head file is written    a killed process leaves behind what it acknowledged
//  3. the size is raised          publish may go so far
//  4. the callers are woken
func (l *Log) commit() error {
	for fl := range l.committing {
		if err := l.settle(fl.batch); err != nil {
			return err
		}
		l.wrote(fl.batch.Len())
		if err := l.head.write(fl.state); err != nil {
			l.halt(err)
			return err
		}
		if !l.flights.remove(fl) {
			return nil // somebody stopped the log and answered for this flight
		}
		l.grown(fl.state)
		l.counts.leaves.Add(uint64(fl.count))
		l.counts.batches.Add(1)
		l.queue.landed(fl.items)
		for _, it := range fl.items {
			it.finish(nil)
		}
		clear(fl.items)
		fl.items = fl.items[:0]
		l.idle <- fl
	}
	return nil
}
