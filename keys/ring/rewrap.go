package ring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/tallystick/tallystick/keys"
)

// Moved is what a Rewrap did.
type Moved struct {
	Epoch    uint64 // the number of the epoch that is current now
	Segments int    // how many were moved to it
	Keys     int    // how many data keys were sealed anew in them
}

// Rewrap begins a new epoch, wrapped by the newest version of the tenant key, and moves every
// segment to it: its keys are sealed anew, by a new segment key, in a file that takes the
// place of the old one. What was erased stays so, and is in no copy. When Rewrap has returned
// nil, no epoch key and no segment key is left in the ring that was there when it was called;
// the package's documentation says what that is good for.
//
// It reads and writes the whole ring, at the pace of Config.Pace and with room for one
// segment more, while New, Open, Erase and Run go on. The tenant key is asked a few times. If
// it ends before its time, what it moved stays moved, and the next Rewrap begins with what is
// oldest; nothing needs to be repaired.
//
// A segment that is damaged, or of which a key is, stays where it is, with the epoch it
// needs, and Rewrap tells which after it has moved the others; the error is ErrCorrupt then,
// or ErrWrongKEK or keys.ErrGone for one whose epoch cannot be unwrapped any more, or what
// reading it met. Restore the segment, or erase the keys that are lost, and do it again. Other
// errors are ErrClosed, ctx's, and what the tenant key or the file system said. One Rewrap
// waits for another.
func (r *Ring) Rewrap(ctx context.Context) (Moved, error) {
	m, err := r.rewrap(ctx)
	if err != nil {
		return m, fmt.Errorf("ring %s: rewrap: %w", r.dir, err)
	}
	return m, nil
}

// The order is the whole of its safety:
//
//  1. a new epoch, in the ring's file    segments begun from here on are of it
//  2. each segment, oldest epoch first   the old file is whole until the disk has the new one
//  3. forget the keys of older epochs    nothing on the disk needs them
func (r *Ring) rewrap(ctx context.Context) (m Moved, err error) {
	unlock, err := r.lock(ctx, r.moving)
	if err != nil {
		return m, err
	}
	defer unlock()
	if err := r.enter(ctx, r.current.Load().number+1); err != nil {
		return m, err
	}
	e := r.current.Load()
	m.Epoch = e.number
	segments, left, err := r.survey(ctx)
	if err != nil {
		return m, err
	}
	p := pacer{ring: r, since: time.Now()}
	for _, h := range segments {
		if h.epochName() == e.check.epochName() {
			continue // begun since
		}
		n, err := r.move(ctx, h, e, &p)
		switch {
		case err == nil:
			m.Segments++
			m.Keys += n
		case stays(err):
			left = append(left, err)
		default:
			return m, fmt.Errorf("segment %s: %w", segmentName(h.segment), err)
		}
	}
	if len(left) > 0 {
		const most = 10
		if n := len(left) - most; n > 0 {
			left = append(left[:most:most], fmt.Errorf("and %d more", n))
		}
		return m, fmt.Errorf("not everything was moved: %w", errors.Join(left...))
	}
	for _, o := range r.known() {
		if o != e {
			r.forget(o)
		}
	}
	return m, nil
}

// errUnread: a segment, or a part of it, could not be read.
var errUnread = errors.New("cannot be read")

// stays says whether err concerns one segment, which stays where it is.
func stays(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, errUnread) || errors.Is(err, ErrWrongKEK) || errors.Is(err, keys.ErrGone)
}

// survey returns the headers of all segments, those of the oldest epochs first, and why others
// have none. The caller holds moving.
func (r *Ring) survey(ctx context.Context) (segments []header, left []error, err error) {
	names, err := r.disk.list(r.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		id := segmentOf(name)
		if id == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if r.isClosed() {
			return nil, nil, ErrClosed
		}
		h, err := func() (header, error) {
			f, err := r.disk.open(r.path(id), os.O_RDONLY)
			if err != nil {
				return header{}, err
			}
			defer f.Close()
			return r.readHeader(f, id)
		}()
		if err != nil {
			left = append(left, fmt.Errorf("segment %s: restore it from a backup, or if there is none take it away: %w: %w", name, errUnread, err))
			continue
		}
		segments = append(segments, h)
	}
	slices.SortFunc(segments, func(a, b header) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.segment, b.segment))
	})
	return segments, left, nil
}

// chunk is how many slots are read at a time.
const chunk = 1024

// move makes a copy of a segment, with a new key of epoch e, and puts it in the segment's
// place. The order is the whole of its safety:
//
//  1. copy what is not erased, sync   the segment is as it was, and Erase works on it
//  2. hold every Erase                those that are done are on the disk
//  3. erase in the copy, and sync,    now they are the same
//     what was erased since 1 began
//  4. rename, sync the directory      the segment is one or the other, and both will do
//  5. let Erase go on                 on the copy
//
// After a fault before 4 the copy is taken away. After one in 4 it is the segment, and an
// Erase does not say that the disk has the zeros before it has said that it has the name. It
// returns how many keys it copied. The caller holds moving.
func (r *Ring) move(ctx context.Context, h header, e *epoch, p *pacer) (n int, err error) {
	key, err := r.segmentKey(ctx, h)
	if err != nil {
		return 0, fmt.Errorf("segment %s: %w", segmentName(h.segment), err)
	}
	from := newSeal(&key)
	defer from.drop()
	h, to, err := r.newSegmentKey(ctx, h.segment, e)
	if err != nil {
		return 0, err
	}
	defer to.drop()
	path := r.path(h.segment)
	old, err := r.disk.open(path, os.O_RDONLY)
	if err != nil {
		return 0, fmt.Errorf("segment %s: %w: %w", segmentName(h.segment), errUnread, err)
	}
	defer old.Close()
	f, err := r.createOver(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r.copying(h.segment)
	defer r.copying(0)
	if err = writeAll(f, appendHeaders(nil, h), 0); err == nil {
		n, err = r.copySlots(ctx, f, old, h.segment, from, to, p)
	}
	if err == nil {
		err = f.Datasync()
	}
	if err == nil {
		err = r.put(f, path, h.segment)
	}
	if err != nil {
		r.disk.remove(path + unfinished)
	}
	return n, err
}

// copying says of which segment a copy is being made.
func (r *Ring) copying(segment uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved, r.late = segment, nil
}

// put is steps 2 to 5 of move.
func (r *Ring) put(f file, path string, segment uint64) error {
	r.swap.Lock()
	defer r.swap.Unlock()
	r.mu.RLock()
	late := r.late
	r.mu.RUnlock()
	for _, slot := range late {
		id := newID(r.id, segment, slot)
		erased := erasedSlot(id)
		if err := writeAll(f, erased[:], id.offset()); err != nil {
			return err
		}
	}
	if len(late) > 0 {
		if err := f.Datasync(); err != nil {
			return err
		}
	}
	defer r.swaps.Add(1)
	err := r.replace(path)
	r.seals.drop(func(other uint64, _ cached) bool { return other == segment })
	return err
}

// copySlots copies the slots of old to f, those that hold a key sealed anew, and returns how
// many these were.
func (r *Ring) copySlots(ctx context.Context, f, old file, segment uint64, from, to *seal, p *pacer) (n int, err error) {
	b := make([]byte, chunk*slotSize)
	out := make([]byte, 0, chunk*slotSize)
	for first := uint32(0); ; first += chunk {
		off := newID(r.id, segment, first).offset()
		r.mu.RLock()
		got, err := old.ReadAt(b, off)
		r.mu.RUnlock()
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return n, fmt.Errorf("segment %s: %w: %w", segmentName(segment), errUnread, err)
		}
		out = out[:0]
		for i := range got / slotSize { // less than a slot, at the end, is none
			slot := [slotSize]byte(b[i*slotSize:])
			id := newID(r.id, segment, first+uint32(i))
			switch err := checkSlot(&slot, id); {
			case errors.Is(err, ErrErased), errors.Is(err, ErrUnknown):
				out = append(out, slot[:]...)
				continue
			case err != nil:
				return n, lost(id, err)
			}
			key, err := openSlot(&slot, id, from)
			if err != nil {
				return n, lost(id, err)
			}
			out, err = appendSlot(out, id, key[:], to)
			clear(key[:])
			if err != nil {
				return n, err
			}
			n++
		}
		if err := writeAll(f, out, off); err != nil {
			return n, err
		}
		if err := p.pause(ctx, got); err != nil {
			return n, err
		}
		if last {
			return n, nil
		}
	}
}

func lost(id ID, err error) error {
	return fmt.Errorf("data key %v: restore its segment from a backup, or erase it: %w", id, err)
}

// pacer holds a Rewrap to its pace.
type pacer struct {
	ring  *Ring
	since time.Time
	bytes int
}

// pause waits until n bytes more are not too many. The error is ctx's, or ErrClosed.
func (p *pacer) pause(ctx context.Context, n int) error {
	p.bytes += n
	var ahead time.Duration
	if p.ring.pace > 0 {
		ahead = time.Duration(float64(p.bytes)/float64(p.ring.pace)*float64(time.Second)) - time.Since(p.since)
	}
	if ahead < time.Millisecond {
		if p.ring.isClosed() {
			return ErrClosed
		}
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ring.closed:
		return ErrClosed
	case <-time.After(ahead):
		return nil
	}
}

// Need is a version of a tenant key that the ring is not without.
type Need struct {
	KEK      Wrapper // Config.KEK, or one of Config.Former
	Version  int     // of KEK, if it is Versioned; 0 if not, or if it cannot tell
	Segments int     // how many segments need it; the ring's own file is none of them
}

// Needed returns which versions of which tenant keys the ring needs, the newest tenant key
// first and of each the oldest version. Only when there is no error is a version that it does
// not name of no more use to the ring, and may be retired. It reads the header of every
// segment and waits for a Rewrap; tenant keys are asked for epochs that were not met before.
func (r *Ring) Needed(ctx context.Context) ([]Need, error) {
	needs, err := r.needed(ctx)
	if err != nil {
		return nil, fmt.Errorf("ring %s: needed versions of the tenant key: %w", r.dir, err)
	}
	return needs, nil
}

func (r *Ring) needed(ctx context.Context) ([]Need, error) {
	unlock, err := r.lock(ctx, r.moving)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.settle(); err != nil {
		return nil, err
	}
	h, _, err := r.readRing()
	if err != nil {
		return nil, err
	}
	segments, left, err := r.survey(ctx)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, errors.Join(left...)
	}
	type version struct{ by, n int }
	segmentsOf := map[version]int{}
	for i, h := range append(segments, h, r.current.Load().check) {
		by, err := r.wrappedBy(ctx, h)
		if err != nil {
			return nil, err
		}
		v := version{by: by}
		if k, ok := r.keks[by].(Versioned); ok {
			v.n = k.Version(h.wrapped)
		}
		if i < len(segments) {
			segmentsOf[v]++
		} else {
			segmentsOf[v] += 0 // the ring itself
		}
	}
	versions := slices.SortedFunc(maps.Keys(segmentsOf), func(a, b version) int {
		return cmp.Or(cmp.Compare(a.by, b.by), cmp.Compare(a.n, b.n))
	})
	var needs []Need
	for _, v := range versions {
		needs = append(needs, Need{r.keks[v.by], v.n, segmentsOf[v]})
	}
	return needs, nil
}

// wrappedBy returns the index in Ring.keks of the tenant key that wrapped what h holds.
func (r *Ring) wrappedBy(ctx context.Context, h header) (by int, err error) {
	if h.epoch == 0 {
		key, by, err := r.unwrap(ctx, r.timeout, h.wrapped, h.aad(), -1)
		clear(key[:])
		return by, err
	}
	e := r.epochOf(h)
	err = r.with(ctx, e, func(*seal) error {
		e.mu.RLock()
		defer e.mu.RUnlock()
		by = e.by
		return nil
	})
	if err != nil {
		return -1, fmt.Errorf("epoch %d: %w", h.epoch, err)
	}
	return by, nil
}
