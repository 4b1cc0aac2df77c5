// Package ship follows a log and hands what is new in it to a system elsewhere: a file that an agent reads, an HTTPS endpoint, a
// syslog collector. One [Shipper] serves one such place, its [Sink].
//
// What is always true:
//
//   - every entry arrives at least once and in the order of the log: where shipping stopped is written down after the sink has
//     acknowledged, never before, so that a death at any moment leads to lines that come again, and to none that is missing;
//   - a line says which entry it is, in its member id, by which whoever receives it drops those that come again;
//   - of records only the named fields of [Fields] are ever shipped, as they are on record: no body, no head, no address of a
//     request, and no original of what was masked; and only after it is on record that they are;
//   - at most a batch of 256 entries is in memory, however far the sink is behind;
//   - a log that is not the one that was shipped, because it was put back or is another one, is not shipped, and said to be that. No more
//     than that is held against it: to believe nothing is for tally-verify.
//
// # A line
//
// A line is a JSON object (RFC 8259) in UTF-8 without a line break in it, of these members in this order:
//
//	id      the log's origin, a colon, and the index: the same for the same entry, for ever
//	time    the time that the entry states, RFC 3339 in UTC
//	kind    the kind of the entry: request, response, refused, approval, access, erasure, heartbeat, …
//	origin  the log's name
//	index   the entry's place in the log
//	leaf    its leaf hash in base64: SHA-256(0x00 || entry), which stands in the log's tree
//	entry   the entry itself, byte for byte as it is hashed; tlog/record/FORMAT.md says what its members are
//	record  with the content metadata: an object of what [Fields] names and the record has; none where the entry has no record
//	missing with the content metadata: erased or unreadable, in the place of record
//
// Of the fields, status is a number, findings is an object of numbers by the kind of what the masker saw, caller.groups is an array,
// and all others are strings. A string longer than 256 bytes is cut, and ends with "…" then.
package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A Desk feeds entries with their records; see [audit.Desk.Feed].
type Desk interface {
	Feed(ctx context.Context, who audit.Asker, detail string, from uint64, each func(ctx context.Context, batch []audit.Seen) error) error
}

// A Sink is where lines go.
type Sink interface {
	// Deliver returns nil when all lines have been taken for good, in their order. Each line ends with a line break, and none is
	// empty. After an error the same lines are handed over again, so that some may be taken twice; a [*RefusedError] says that this is
	// of no use, and a [*LaterError] when it is. One call at a time.
	Deliver(ctx context.Context, lines [][]byte) error
	Close() error
	// String says where that is, without a credential.
	String() string
}

// A RefusedError says that a sink will not take what it was given, however often it is asked: somebody must look.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// A LaterError says when a sink wants to be asked again, at the soonest.
type LaterError struct {
	After time.Duration
	Err   error
}

func (e *LaterError) Error() string { return e.Err.Error() }

func (e *LaterError) Unwrap() error { return e.Err }

// ErrHistory says that the log is not the one of which entries were shipped before: look at it with tally-verify, before its mark
// is removed and all of it is shipped again.
var ErrHistory = errors.New("ship: the log is not the one that was shipped")

// Config says what is shipped, and where to.
type Config struct {
	Name string      // of this follower, in messages and on record
	Log  tlog.Reader // the log; what of it is published is shipped
	Sink Sink        // whoever made it closes it, after Run has returned
	Mark string      // the path of the file that remembers how far it came; its directory must exist
	From uint64      // the index to begin at where there is no mark; by default the first
	// Desk has the metadata of records shipped, too; nil for the public log alone. Who asks it, for the record, is Who.
	Desk Desk
	Who  audit.Asker
	// Fields are those of Fields that are shipped where there is a desk; nil for all.
	Fields []string
	// Once ends Run when everything has been shipped that was published when it began.
	Once   bool
	Logger *slog.Logger
}

const (
	maxChunk = 512 << 10       // the most bytes in one delivery, but for a single line that is longer
	minPause = time.Second / 4 // after the first failure; then twice as long each time
	maxPause = time.Minute     // but for a sink that says for how long
	mostWait = 10 * time.Minute
	pollTime = 100 * time.Millisecond // between two looks whether the log has grown
)

// A Shipper follows a log for one sink. Run is called once at a time; the other methods at any time.
type Shipper struct {
	c      Config
	fields map[string]bool
	status status
}

// Status is how far a shipper is.
type Status struct {
	Name  string
	Next  uint64    // the index of the first entry that is not known to have arrived; 0 before Run has read its mark
	Entry time.Time // what the newest entry that has arrived states as its time; zero for none in this life
	Last  time.Time // when the sink last acknowledged; zero for never in this life
	Fails int       // attempts in a row that failed, since then
	Err   error     // why the last of them did; nil while all is well
}

type status struct {
	mu sync.Mutex
	Status
}

// New returns a shipper.
func New(c Config) (*Shipper, error) {
	switch {
	case c.Log == nil || c.Sink == nil:
		return nil, errors.New("ship: there is no log, or nowhere to ship it to")
	case c.Mark == "":
		return nil, errors.New("ship: no file is named that remembers how far it came")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Shipper{c: c, fields: make(map[string]bool)}
	if c.Fields == nil {
		c.Fields = Fields()
	}
	if err := CheckFields(c.Fields); err != nil {
		return nil, err
	}
	for _, f := range c.Fields {
		s.fields[f] = true
	}
	s.status.Name = c.Name
	return s, nil
}

// Status says how far it is now.
func (s *Shipper) Status() Status {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	return s.status.Status
}

// Lag returns how many published entries are not known to have arrived. It asks the log for its newest checkpoint.
func (s *Shipper) Lag(ctx context.Context) (uint64, error) {
	c, err := s.published(ctx)
	if err != nil {
		return 0, err
	}
	next := s.Status().Next
	return c.Size - min(next, c.Size), nil
}

func (s *Shipper) change(f func(*Status)) {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	f(&s.status.Status)
}

// published returns the newest checkpoint; the empty one where there is none yet.
func (s *Shipper) published(ctx context.Context) (tlog.Checkpoint, error) {
	signed, err := s.c.Log.Checkpoint(ctx)
	if errors.Is(err, tlog.ErrNotFound) {
		return tlog.Checkpoint{}, nil
	}
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("ship: checkpoint: %w", err)
	}
	return tlog.UnverifiedCheckpoint(signed)
}

// errDone ends a feed that has come as far as it was to.
var errDone = errors.New("ship: done")

// Run ships until ctx ends, and then returns nil. What fails for now, at either end, is tried again for as long as it takes. An error
// is one that waiting does not mend: the sink refuses ([*RefusedError]), the log is not the one it was ([ErrHistory]), or the mark
// cannot be kept. To Run again goes on where it stopped.
//
// The order is the whole of its promise: read the mark; hold the last entry that was shipped against the log's; and then, for
// each batch, deliver, write the mark, read on.
func (s *Shipper) Run(ctx context.Context) error {
	m, err := s.start(ctx)
	if err != nil {
		return quiet(ctx, err)
	}
	f := &follower{Shipper: s, mark: m}
	if s.c.Once {
		c, err := s.published(ctx)
		if err != nil {
			return quiet(ctx, err)
		}
		if f.until = c.Size; f.until <= m.next {
			return nil
		}
	}
	for pause := minPause; ; {
		was := f.mark.next
		err := s.feed(ctx, f.from(), f.take)
		switch {
		case ctx.Err() != nil || errors.Is(err, errDone):
			return nil
		case f.fatal != nil:
			s.failed(f.fatal)
			return f.fatal
		case err == nil:
			err = errors.New("ship: the feed ended") // no desk does that
		}
		if f.mark.next > was {
			pause = minPause
		}
		s.failed(err)
		s.c.Logger.Warn("a log cannot be read for shipping, and is read again", "ship", s.c.Name, "from", f.mark.next, "err", err)
		if pause = s.wait(ctx, pause, 0); pause == 0 {
			return nil
		}
	}
}

// start reads the mark, and says whether the log can be the one that it is about. A log that cannot be reached yet is waited for.
func (s *Shipper) start(ctx context.Context) (mark, error) {
	for pause := minPause; ; {
		c, err := s.published(ctx)
		if err == nil && c.Origin != "" {
			m, err := s.load(c)
			if err == nil {
				s.change(func(st *Status) { st.Next = m.next })
			}
			return m, err
		}
		if err != nil {
			s.failed(err)
			s.c.Logger.Warn("a log cannot be read for shipping, and is read again", "ship", s.c.Name, "err", err)
		}
		if s.c.Once {
			return mark{}, errors.Join(err, errors.New("ship: there is no checkpoint to ship up to"))
		}
		if pause = s.wait(ctx, pause, 0); pause == 0 {
			return mark{}, ctx.Err()
		}
	}
}

func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// feed reads on from an index: at the desk, or the public log.
func (s *Shipper) feed(ctx context.Context, from uint64, each func(context.Context, []audit.Seen) error) error {
	if s.c.Desk != nil {
		return s.c.Desk.Feed(ctx, s.c.Who, "to ship to "+s.c.Sink.String(), from, each)
	}
	tiles := tlog.Tiles{Reader: s.c.Log}
	for {
		c, err := s.published(ctx)
		if err != nil {
			return err
		}
		for tiles.Size = c.Size; from < c.Size; {
			batch, err := readTile(ctx, tiles, from)
			if err != nil {
				return err
			}
			if err := each(ctx, batch); err != nil {
				return err
			}
			from += uint64(len(batch))
		}
		select {
		case <-time.After(pollTime):
		case <-ctx.Done():
			return nil
		}
	}
}

// readTile returns the entries from one index to the end of its tile.
func readTile(ctx context.Context, tiles tlog.Tiles, from uint64) ([]audit.Seen, error) {
	t := tlog.TileAt(tlog.EntriesLevel, from, tiles.Size)
	data, err := tlog.ReadTile(ctx, tiles.Reader, t)
	if err != nil {
		return nil, err
	}
	entries, err := tlog.ParseBundle(data, t.Width)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Path(), err)
	}
	var batch []audit.Seen
	for first := t.Index * tlog.TileWidth; from < first+uint64(t.Width); from++ {
		b := entries[from-first]
		e, err := record.ParseEntry(b)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", from, err)
		}
		batch = append(batch, audit.Seen{Found: record.Found{Index: from, Bytes: b, Entry: e}})
	}
	return batch, nil
}

// A follower is one run.
type follower struct {
	*Shipper
	mark  mark
	until uint64 // where it ends; 0 for never
	fatal error  // why it cannot go on
}

// from is where to read on: at the last entry that was shipped, which is held against the log's.
func (f *follower) from() uint64 { return f.mark.next - min(f.mark.next, f.mark.known()) }

// take ships a batch.
func (f *follower) take(ctx context.Context, batch []audit.Seen) error {
	for len(batch) > 0 && batch[0].Index < f.mark.next {
		if leaf := tlog.HashLeaf(batch[0].Bytes); batch[0].Index+1 == f.mark.next && leaf != f.mark.leaf {
			f.fatal = fmt.Errorf("%w: entry %d of %s has the leaf hash %s, and what was shipped had %s", ErrHistory, batch[0].Index, f.mark.origin, leaf, f.mark.leaf)
			return f.fatal
		}
		batch = batch[1:]
	}
	for len(batch) > 0 {
		var lines [][]byte
		for size := 0; len(lines) < len(batch); {
			line, err := f.line(f.mark.origin, &batch[len(lines)])
			if err != nil {
				f.fatal = err
				return err
			}
			if size += len(line); size > maxChunk && len(lines) > 0 {
				break
			}
			lines = append(lines, line)
		}
		if err := f.deliver(ctx, lines); err != nil {
			return err
		}
		last := batch[len(lines)-1]
		m := mark{origin: f.mark.origin, next: last.Index + 1, leaf: tlog.HashLeaf(last.Bytes)}
		if err := m.save(f.c.Mark); err != nil {
			f.fatal = err
			return err
		}
		f.mark = m
		f.change(func(s *Status) {
			s.Next, s.Entry, s.Last, s.Fails, s.Err = m.next, last.Entry.Time, time.Now(), 0, nil
		})
		if f.until > 0 && m.next >= f.until {
			return errDone
		}
		batch = batch[len(lines):]
	}
	return nil
}

// deliver has the sink take lines, and tries until it does, or refuses, or ctx ends.
func (f *follower) deliver(ctx context.Context, lines [][]byte) error {
	for pause := minPause; ; {
		err := f.c.Sink.Deliver(ctx, lines)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if refused := new(RefusedError); errors.As(err, &refused) {
			f.fatal = fmt.Errorf("ship: %s refuses entry %d and what follows: %w", f.c.Sink, f.mark.next, err)
			return f.fatal
		}
		f.failed(err)
		var least time.Duration
		if later := new(LaterError); errors.As(err, &later) {
			least = min(later.After, mostWait)
		}
		f.c.Logger.Warn("a sink takes nothing, and is tried again", "ship", f.c.Name, "to", f.c.Sink.String(), "from", f.mark.next, "err", err)
		if pause = f.wait(ctx, pause, least); pause == 0 {
			return ctx.Err()
		}
	}
}

func (s *Shipper) failed(err error) { s.change(func(st *Status) { st.Fails++; st.Err = err }) }

// wait sleeps for half to all of a pause, or for what a sink asked for, and returns the next pause; 0 where ctx ended.
func (s *Shipper) wait(ctx context.Context, pause, least time.Duration) time.Duration {
	t := time.NewTimer(max(pause/2+rand.N(pause/2), least))
	defer t.Stop()
	select {
	case <-t.C:
		return min(2*pause, maxPause)
	case <-ctx.Done():
		return 0
	}
}
