package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A Draft is an entry that has not been numbered yet, with its payload. The writer fills in By, Boot, Seq and Time,
// and Prev where After is given.
type Draft struct {
	Entry   Entry
	Payload []byte  // sealed; its digest and size must stand in Entry already; must not change until the ticket is done
	After   *Ticket // the session's entry before this one, submitted earlier to the same writer; nil for none
	// Together says that this entry means nothing without After: where After was lost, it is not written either, and
	// its ticket says why After was not.
	Together bool
	// Before, if it is set, is when the entry would say what is not true any more: where it cannot be stamped earlier than
	// that, nothing is appended, and its ticket says ErrLate.
	Before time.Time
}

// ErrLate is what a ticket says whose entry would have been appended too late; see [Draft.Before].
var ErrLate = errors.New("record: too late to be recorded")

// A Ticket is a submitted draft on its way into the log.
type Ticket struct {
	draft Draft
	done  chan struct{}
	// Owned by Run until done is closed, and then never changed.
	index uint64
	leaf  tlog.Hash
	entry []byte // nil unless it is in the log
	err   error
}

func newTicket(d Draft) *Ticket { return &Ticket{draft: d, done: make(chan struct{})} }

// settle makes the outcome known.
func (t *Ticket) settle(err error) {
	t.draft.Payload = nil
	if t.err = err; err != nil {
		t.entry = nil
	} else {
		t.draft.After = nil // who follows t needs to look no further back
	}
	close(t.done)
}

// prev returns the leaf hash that t's entry names: of the entry before it that is in the log, or is going there in the
// same batch. One that was lost is passed over, and what it would have named stands in for it.
func (t *Ticket) prev() tlog.Hash {
	for a := t.draft.After; a != nil; a = a.draft.After {
		if a.entry != nil {
			return a.leaf
		}
		t = a
	}
	return t.draft.Entry.Prev
}

// lostWith returns why t cannot be written because the entry before it was not; nil where it can be.
func (t *Ticket) lostWith() error {
	a := t.draft.After
	if a == nil || !t.draft.Together {
		return nil
	}
	select {
	case <-a.done:
		if a.err != nil {
			return fmt.Errorf("record: the entry before it was lost: %w", a.err)
		}
	default: // in the same batch: both or neither
	}
	return nil
}

// Done is closed when the outcome is known.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait returns when the entry is durable, or says why it is not: tlog.ErrBusy, ErrFull and ErrTooLarge mean that
// nothing was appended, tlog.ErrHalted that nobody knows. If ctx ends first the entry stays on its way.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	default:
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Index returns the entry's place in the log. Only after Done, without an error.
func (t *Ticket) Index() uint64 { return t.index }

// Entry returns the entry's bytes. Only after Done, without an error.
func (t *Ticket) Entry() []byte { return t.entry }

// Leaf returns the entry's leaf hash. Only after Done, without an error.
func (t *Ticket) Leaf() tlog.Hash { return t.leaf }

// WriterConfig is what a writer needs.
type WriterConfig struct {
	ID       string        // stands in every entry as "by"; see CheckWriter; of one process at a time
	Log      tlog.Appender // where the entries go
	Reader   tlog.Reader   // the same log, to find what earlier boots left unfinished; nil for an id that never has sessions
	Software string        // name and version, for the start entry
	Mode     string        // for the start entry: strict, overlap, open, none

	// MaxQueue and MaxQueueBytes bound what is submitted and not yet durable. Zero means 4096 drafts and 256 MiB.
	MaxQueue      int
	MaxQueueBytes int
	// Heartbeat is the time between heartbeat entries, at most a day; the start entry states it in whole milliseconds.
	// Zero means 10 seconds; negative means none.
	Heartbeat time.Duration
	// Promise is the public key that the start entry states, for promises that whoever holds the private one makes in the
	// writer's name; zero for none.
	Promise [32]byte
}

// A Writer is the pen of one gateway for one boot. It gives every entry the next number and a time that never goes
// back, and appends them in that order, so that in the log the numbers of a boot rise by one: an entry that is missing
// is a number that is missing.
//
// To keep that promise across a crash only one Append is under way at a time. What waits meanwhile goes with the next:
// the log syncs in groups anyway, so this costs nothing but order. Of an Append that answered that nothing was
// appended, the numbers are given again. After one whose outcome is unknown no number can be given: the writer ends,
// and the next boot begins at zero.
type Writer struct {
	cfg  WriterConfig
	boot ID
	wake chan struct{} // holds a value while there may be something to append

	mu    sync.Mutex
	queue []*Ticket
	count int    // of what is queued or being appended
	bytes int    // of the payloads of these
	lost  lost   // since the last gap entry
	shed  uint64 // since the last heartbeat
	ended error  // why nothing more is taken

	begun      atomic.Pointer[Ticket] // of the start entry, once it is durable
	found      chan struct{}          // closed once unfinished is known
	unfinished []Unfinished
	over       chan struct{} // closed when Run returns

	// Owned by Run.
	next uint64
	last time.Time
	open map[ID]uint64 // open sessions, earlier boots' included, by the index of their request
}

// lost is what a gap entry tells.
type lost struct {
	count  uint64
	since  time.Time
	reason string
}

const (
	// batchBytes bounds the payloads that go in one Append, so that a batch stays a batch.
	batchBytes = 8 << 20
	// pause is how long the writer waits before it tries again what the log would not take.
	pause = 200 * time.Millisecond
	// tries is how often the last entry of a boot is tried, and how often a log that answers is read for what was left open.
	tries = 5
	// lastLook is how long the end of a boot waits to know what earlier ones left open.
	lastLook = 2 * time.Second
)

// NewWriter returns a writer with a fresh boot. It writes nothing until Run.
func NewWriter(cfg WriterConfig) (*Writer, error) {
	if cfg.Log == nil {
		return nil, errors.New("record: a writer needs a log")
	}
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = 4096
	}
	if cfg.MaxQueueBytes == 0 {
		cfg.MaxQueueBytes = 256 << 20
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 10 * time.Second
	}
	w := &Writer{
		cfg: cfg, boot: NewID(time.Now()), open: make(map[ID]uint64),
		wake: make(chan struct{}, 1), found: make(chan struct{}), over: make(chan struct{}),
	}
	// What is wrong with the start entry is wrong with the configuration.
	e := w.start().draft.Entry
	e.By, e.Boot, e.Time = cfg.ID, w.boot, stampOf(time.Now())
	if err := e.check(); err != nil {
		return nil, err
	}
	return w, nil
}

// Boot returns the boot that stands in the writer's entries.
func (w *Writer) Boot() ID { return w.boot }

// Begun returns the ticket of the boot's start entry, which is done, or nil before that entry is durable.
func (w *Writer) Begun() *Ticket { return w.begun.Load() }

// Submit puts a draft on its way. tlog.ErrBusy means that too much is waiting, ErrTooLarge that the payload is over
// tlog.MaxPayload, ErrClosed that Run has ended or is about to. ErrHalted means that the outcome of an earlier append is
// unknown; this writer will write no more.
func (w *Writer) Submit(d Draft) (*Ticket, error) {
	switch k := d.Entry.Kind; {
	case k == Start || k == Stop || k == Heartbeat || k == Gap:
		return nil, fmt.Errorf("record: a %s entry is the writer's own; it is not submitted", k)
	case int64(len(d.Payload)) != d.Entry.PayloadSize:
		return nil, fmt.Errorf("record: a %s entry that states a payload of %d bytes, with one of %d", k, d.Entry.PayloadSize, len(d.Payload))
	case len(d.Payload) > tlog.MaxPayload:
		return nil, fmt.Errorf("record: a payload of %d bytes: %w", len(d.Payload), tlog.ErrTooLarge)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended != nil:
		return nil, w.ended
	case w.count >= w.cfg.MaxQueue || w.count > 0 && w.bytes+len(d.Payload) > w.cfg.MaxQueueBytes:
		return nil, tlog.ErrBusy
	}
	t := newTicket(d)
	w.queue = append(w.queue, t)
	w.count++
	w.bytes += len(d.Payload)
	w.poke()
	return t, nil
}

// Write submits a draft and waits until it is durable.
func (w *Writer) Write(ctx context.Context, d Draft) (*Ticket, error) {
	t, err := w.Submit(d)
	if err != nil {
		return nil, err
	}
	return t, t.Wait(ctx)
}

// Lose counts entries that will not be written. The next batch that the log takes gives them numbers, and a gap entry
// that says so. A gateway that never blocks traffic calls it where Submit or Wait failed. The reason is a word of a-z,
// 0-9, '_'; of several until the gap entry the first counts. After Run nobody is told.
func (w *Writer) Lose(n uint64, reason string) {
	if reason == "" || len(reason) > maxReason || !only(reason, isReason) {
		reason = "unspecified"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost.add(lost{n, time.Now(), reason})
	w.poke()
}

// Untold returns how many entries were lost of which no gap entry tells yet.
func (w *Writer) Untold() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost.count
}

// add adds what was lost later; nothing to nothing is nothing.
func (l *lost) add(more lost) {
	if l.count == 0 {
		l.since, l.reason = more.since, more.reason
	}
	l.count += more.count
}

// Shed counts calls that were refused before their caller was known. The next heartbeat tells how many.
func (w *Writer) Shed(n uint64) {
	w.mu.Lock()
	w.shed += n
	w.mu.Unlock()
}

// Broken returns why the writer will write no more, or nil if it writes or ended in order.
func (w *Writer) Broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == tlog.ErrClosed {
		return nil
	}
	return w.ended
}

// Unfinished waits until Run has found the sessions that earlier boots left open, and returns them, oldest first.
// Whoever runs the writer closes each with a response entry; until then every heartbeat counts them. When Run ends
// before it has found them, the error says why.
func (w *Writer) Unfinished(ctx context.Context) ([]Unfinished, error) {
	select {
	case <-w.found:
		return w.unfinished, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.over:
	}
	select {
	case <-w.found:
		return w.unfinished, nil
	default:
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return nil, w.ended
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes the start entry, and then what is submitted, in order. Beside that it looks for what earlier boots left open,
// which it can read once the log has published the start entry; until it knows, there is no heartbeat. When ctx ends it
// writes what was submitted until then and the stop entry, and returns nil; where it does not know by then what is open,
// it can state nothing about that, and ends as a crash would, without a stop entry. It returns early, with the cause,
// when the outcome of an append is unknown or the log cannot be read. Call it once.
func (w *Writer) Run(ctx context.Context) error {
	err := w.run(ctx)
	w.mu.Lock()
	w.ended = err
	if err == nil {
		w.ended = tlog.ErrClosed
	}
	ended := w.ended
	w.mu.Unlock()
	w.refuse(ended)
	close(w.over)
	return err
}

func (w *Writer) run(ctx context.Context) error {
	begun, err := w.begin(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // a writer that was stopped before it had begun promised nothing
		}
		return err
	}
	// From here on appends are not cut short by ctx: what was taken is seen through.
	through := context.WithoutCancel(ctx)
	var ticks, beat, again <-chan time.Time // again is when to try a heartbeat again that the log would not take
	if w.cfg.Heartbeat > 0 {
		tick := time.NewTicker(w.cfg.Heartbeat)
		defer tick.Stop()
		ticks = tick.C
	}
	looked := make(chan sight, 1)
	look, stop := context.WithCancel(through)
	var looking sync.WaitGroup
	looking.Go(func() { looked <- w.look(look, begun) })
	defer looking.Wait()
	defer stop()
	for {
		var err, refused error
		select {
		case <-w.wake:
			_, err = w.flush(through, "")
		case s := <-looked:
			err = w.find(s)
			beat = ticks // no heartbeat before it could forget what is open
		case <-beat:
			refused, err = w.flush(through, Heartbeat)
			again = nil
		case <-again:
			refused, err = w.flush(through, Heartbeat)
			again = nil
		case <-ctx.Done():
			return w.end(through, looked)
		}
		if err != nil {
			return err
		}
		if refused != nil {
			again = time.After(pause)
		}
	}
}

// begin writes the start entry, trying again while the log takes nothing: a gateway that starts beside a full disk
// comes to life when there is room.
func (w *Writer) begin(ctx context.Context) (*Ticket, error) {
	for {
		t := w.start()
		refused, err := w.append(ctx, []*Ticket{t})
		if err != nil {
			return nil, err
		}
		if refused == nil {
			w.begun.Store(t)
			return t, nil
		}
		w.refuse(refused)
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// A sight is what a look at earlier boots showed.
type sight struct {
	unfinished []Unfinished
	err        error
}

// look finds what earlier boots left open. It waits until the log has published the start entry, and nobody waits for
// it: a log that acknowledges and cannot publish, because its key is out of reach, takes entries all the same. One that went away
// while it was read is read again when it is back.
func (w *Writer) look(ctx context.Context, begun *Ticket) sight {
	if w.cfg.Reader == nil || begun.index == 0 {
		return sight{}
	}
	var us []Unfinished
	for try := 1; ; try++ {
		c, err := Await(ctx, w.cfg.Reader, begun.index) // for as long as the log is away
		if err != nil {
			return sight{nil, err}
		}
		if us, err = FindUnfinished(ctx, w.cfg.Reader, w.cfg.ID, c.Size); err == nil {
			break
		}
		if try == tries {
			return sight{nil, fmt.Errorf("look for unfinished sessions: %w", err)}
		}
		if err := wait(ctx, pause); err != nil {
			return sight{nil, err}
		}
	}
	return sight{slices.DeleteFunc(us, func(u Unfinished) bool { return u.Boot == w.boot }), nil}
}

// find takes in what a look showed.
func (w *Writer) find(s sight) error {
	if s.err != nil {
		return s.err
	}
	for _, u := range s.unfinished {
		w.open[u.Session] = u.Index
	}
	w.unfinished = s.unfinished
	close(w.found)
	return nil
}

func (w *Writer) start() *Ticket {
	e := Entry{Kind: Start, Software: w.cfg.Software, Mode: w.cfg.Mode, Promise: w.cfg.Promise}
	if w.cfg.Heartbeat > 0 {
		e.Every = max(w.cfg.Heartbeat.Truncate(time.Millisecond), time.Millisecond)
	}
	return newTicket(Draft{Entry: e})
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end takes nothing more, writes what is queued, and then the stop entry, if it comes to be known in time what is open.
func (w *Writer) end(ctx context.Context, looked <-chan sight) error {
	w.mu.Lock()
	w.ended = tlog.ErrClosed
	rest := len(w.queue)
	w.mu.Unlock()
	for rest > 0 {
		if _, err := w.flush(ctx, ""); err != nil {
			return err
		}
		w.mu.Lock()
		rest = len(w.queue)
		w.mu.Unlock()
	}
	select {
	case <-w.found:
	default:
		select {
		case s := <-looked:
			if err := w.find(s); err != nil {
				return err
			}
		case <-time.After(lastLook):
			return nil
		}
	}
	for try := 1; ; try++ {
		refused, err := w.flush(ctx, Stop)
		switch {
		case err != nil:
			return err
		case refused == nil:
			return nil
		case try == tries:
			return fmt.Errorf("the stop entry of %s: %w", w.cfg.ID, refused)
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// refuse answers everything queued with err: nothing of it was appended.
func (w *Writer) refuse(err error) {
	w.mu.Lock()
	queue := w.queue
	w.queue = nil
	w.count -= len(queue)
	w.bytes -= payloadBytes(queue)
	w.mu.Unlock()
	for _, t := range queue {
		t.settle(err)
	}
}

func payloadBytes(ts []*Ticket) int {
	n := 0
	for _, t := range ts {
		n += len(t.draft.Payload)
	}
	return n
}

// flush appends a batch: a heartbeat if own says so, what is queued, a gap entry if calls were lost, and a stop entry
// if own says so, for which nothing may be queued. That nothing was appended is refused; err is an unknown outcome.
func (w *Writer) flush(ctx context.Context, own Kind) (refused, err error) {
	w.mu.Lock()
	n, size := 0, 0
	for n < len(w.queue) && (n == 0 || size+len(w.queue[n].draft.Payload) <= batchBytes) {
		size += len(w.queue[n].draft.Payload)
		n++
	}
	queued := slices.Clone(w.queue[:n])
	w.queue = slices.Delete(w.queue, 0, n)
	if len(w.queue) > 0 {
		w.poke()
	}
	gap, shed := w.lost, uint64(0)
	w.lost = lost{}
	if own != "" {
		shed, w.shed = w.shed, 0
	}
	w.mu.Unlock()

	batch := make([]*Ticket, 0, n+2)
	beat := newTicket(Draft{Entry: Entry{Kind: own, Beat: true, Shed: shed}})
	if own == Heartbeat {
		batch = append(batch, beat) // first: what it says of open sessions is true of everything before it
	}
	batch = append(batch, queued...)
	if gap.count > 0 {
		// From and To are fixed when it is numbered; until then To is how many.
		batch = append(batch, newTicket(Draft{Entry: Entry{Kind: Gap, To: gap.count, Since: stampOf(gap.since), Reason: gap.reason}}))
	}
	if own == Stop {
		batch = append(batch, beat)
	}
	refused, err = w.append(ctx, batch)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.count -= n
	w.bytes -= size
	if refused != nil {
		// What the log was to be told it is told later.
		w.shed += shed
		if gap.count > 0 {
			gap.add(w.lost)
			w.lost = gap
		}
	}
	return refused, err
}

func stampOf(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// append numbers the tickets, appends them as one and settles them. If nothing was appended, refused says why, and the
// numbers are given again. If the outcome is unknown, err is ErrHalted and says why.
func (w *Writer) append(ctx context.Context, batch []*Ticket) (refused, err error) {
	leaves := make([]tlog.Leaf, 0, len(batch))
	taken := make([]*Ticket, 0, len(batch))
	next, last := w.next, w.last
	for _, t := range batch {
		if err := t.lostWith(); err != nil {
			t.settle(err)
			continue
		}
		e := &t.draft.Entry
		e.By, e.Boot, e.Seq, e.Prev = w.cfg.ID, w.boot, next, t.prev()
		if e.Time = stampOf(time.Now()); e.Time.Before(last) {
			e.Time = last
		}
		if before := t.draft.Before; !before.IsZero() && !e.Time.Before(before) {
			t.settle(ErrLate)
			continue
		}
		switch e.Kind {
		case Gap:
			e.From, e.To = next, next+e.To-1
			e.Seq = e.To + 1
			if e.Since.After(e.Time) {
				e.Since = e.Time
			}
		case Heartbeat, Stop:
			e.Open, e.Floor = uint64(len(w.open)), w.floor()
		}
		b, err := e.Append(make([]byte, 0, 512))
		if err != nil {
			// The draft's own fault: it takes no number and holds nobody else up.
			t.settle(err)
			continue
		}
		t.entry, t.leaf = b, tlog.HashLeaf(b)
		taken = append(taken, t)
		leaves = append(leaves, tlog.Leaf{Entry: b, Payload: t.draft.Payload})
		next, last = e.Seq+1, e.Time
	}
	if len(taken) == 0 {
		return nil, nil
	}
	indices, err := w.cfg.Log.Append(ctx, leaves...)
	switch {
	case errors.Is(err, tlog.ErrHalted): // because its disk is full, say: that is not to have taken nothing
	case errors.Is(err, tlog.ErrBusy) || errors.Is(err, tlog.ErrFull) || errors.Is(err, tlog.ErrTooLarge):
		refused, err = err, nil
	case err == nil && len(indices) != len(leaves):
		err = fmt.Errorf("record: the log gave %d indices for %d leaves", len(indices), len(leaves))
	}
	if err != nil && !errors.Is(err, tlog.ErrHalted) {
		err = fmt.Errorf("%w: %w", tlog.ErrHalted, err)
	}
	if err == nil && refused == nil {
		w.next, w.last = next, last
		for i, t := range taken {
			t.index = indices[i]
			w.note(t)
		}
	}
	for _, t := range taken {
		t.settle(cmp.Or(refused, err))
	}
	return refused, err
}

// note keeps the book of open sessions.
func (w *Writer) note(t *Ticket) {
	switch t.draft.Entry.Kind {
	case Request:
		w.open[t.draft.Entry.Session] = t.index
	case Response:
		delete(w.open, t.draft.Entry.Session)
	}
}

// floor returns the smallest index of an open session's request, or 0 when none is open. It is called once a heartbeat.
func (w *Writer) floor() uint64 {
	floor, first := uint64(0), true
	for _, i := range w.open {
		if first || i < floor {
			floor, first = i, false
		}
	}
	return floor
}
