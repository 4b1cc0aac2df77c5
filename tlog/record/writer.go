package record

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A Draft is an entry that has not been numbered yet, with its payload. The writer fills in By, Boot, Seq and Time,
// and Prev where After is given.
type Draft struct {
	Entry   Entry
	Payload []byte  // sealed; its digest and size must stand in Entry already; must not change until the ticket is done
	After   *Ticket // the session's entry before this one, submitted earlier to the same writer; nil for none
}

// A Ticket is a submitted draft on its way into the log.
type Ticket struct {
	draft Draft
	done  chan struct{}
	// Set before done is closed.
	index uint64
	leaf  tlog.Hash
	entry []byte
	err   error
}

// Done is closed when the outcome is known.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait returns when the entry is durable, or says why it is not. If ctx ends first the entry stays on its way.
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
	ID       string        // stands in every entry as "by"; see CheckWriter
	Log      tlog.Appender // where the entries go
	Reader   tlog.Reader   // the same log, to find what earlier boots left unfinished; nil for a writer without sessions
	Software string        // name and version, for the start entry
	Mode     string        // for the start entry: strict, overlap, open, none

	// MaxQueue and MaxQueueBytes bound what is submitted and not yet durable. Zero means 4096 drafts and 256 MiB.
	MaxQueue      int
	MaxQueueBytes int
	// Heartbeat is the time between heartbeat entries. Zero means 10 seconds; negative means none.
	Heartbeat time.Duration
}

// A Writer is the pen of one gateway for one boot. It gives every entry the next number and a time that never goes
// back, and appends them in that order, so that in the log the numbers of a boot rise by one: an entry that is missing
// is a number that is missing.
//
// To keep that promise across a crash only one Append is under way at a time. What waits meanwhile goes with the next:
// the log syncs in groups anyway, so this costs nothing but order.
type Writer struct {
	cfg  WriterConfig
	boot ID

	mu     sync.Mutex
	queue  []*Ticket
	bytes  int       // of the payloads of what is queued or being appended
	count  int       // of what is queued or being appended
	lost   uint64    // calls that left no entry since the last gap entry
	since  time.Time // of the first of them
	why    string
	shed   uint64
	broken error // set once the outcome of an append is unknown
	closed bool
	wake   chan struct{} // has a value when there is something to do

	found      chan struct{} // closed once unfinished is known
	unfinished []Unfinished

	// Owned by Run.
	next uint64
	last time.Time
	open map[ID]uint64 // open sessions, earlier boots' included, by the index of their request
}

// NewWriter returns a writer with a fresh boot. It writes nothing until Run.
func NewWriter(cfg WriterConfig) (*Writer, error) {
	if err := CheckWriter(cfg.ID); err != nil {
		return nil, err
	}
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
	return &Writer{
		cfg: cfg, boot: NewID(time.Now()), wake: make(chan struct{}, 1), found: make(chan struct{}), open: make(map[ID]uint64),
	}, nil
}

// Boot returns the boot that stands in the writer's entries.
func (w *Writer) Boot() ID { return w.boot }

// Submit puts a draft on its way. ErrBusy means that too much is waiting; ErrHalted that the outcome of an earlier
// append is unknown and this writer will write no more.
func (w *Writer) Submit(d Draft) (*Ticket, error) {
	t := newTicket(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.broken != nil:
		return nil, w.broken
	case w.closed:
		return nil, tlog.ErrClosed
	case w.count >= w.cfg.MaxQueue || w.bytes+len(d.Payload) > w.cfg.MaxQueueBytes && w.count > 0:
		return nil, tlog.ErrBusy
	}
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

// Lose counts calls that will leave no entry. The next batch gives them numbers and a gap entry that says so. A gateway
// that never blocks traffic calls it where Submit or Wait failed.
func (w *Writer) Lose(n uint64, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == 0 {
		w.since, w.why = time.Now(), reason
	}
	w.lost += n
	w.poke()
}

// Shed counts calls that were refused before their caller was known. The next heartbeat tells how many.
func (w *Writer) Shed(n uint64) {
	w.mu.Lock()
	w.shed += n
	w.mu.Unlock()
}

// Broken returns why the writer will write no more, or nil.
func (w *Writer) Broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// batchBytes bounds the payloads that go in one Append, so that a batch stays a batch.
const batchBytes = 8 << 20

// Unfinished waits until Run has found the sessions that earlier boots left open, and returns them. Whoever runs the
// writer closes each with a response entry; until then every heartbeat counts them.
func (w *Writer) Unfinished(ctx context.Context) ([]Unfinished, error) {
	select {
	case <-w.found:
		return w.unfinished, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run writes the start entry, finds what earlier boots left open, and then writes what is submitted, in order; when ctx
// ends it writes what was submitted until then and the stop entry, and returns. It returns early, with the cause, when
// the outcome of an append is unknown.
func (w *Writer) Run(ctx context.Context) error {
	// Appends are not cut short by ctx: what was taken is seen through.
	seen := context.WithoutCancel(ctx)
	if err := w.begin(ctx); err != nil {
		return w.fail(err)
	}
	var beat <-chan time.Time
	if w.cfg.Heartbeat > 0 {
		tick := time.NewTicker(w.cfg.Heartbeat)
		defer tick.Stop()
		beat = tick.C
	}
	for {
		var err error
		select {
		case <-w.wake:
			err = w.flush(seen, false)
		case <-beat:
			err = w.flush(seen, true)
		case <-ctx.Done():
			return w.end(seen)
		}
		if err != nil {
			return w.fail(err)
		}
	}
}

// begin writes the start entry, trying again while the log takes nothing: a gateway that starts beside a full disk
// comes to life when there is room. Then it finds what is unfinished, before any heartbeat could forget it.
func (w *Writer) begin(ctx context.Context) error {
	t := newTicket(Draft{})
	for {
		t = newTicket(Draft{Entry: Entry{Kind: Start, Software: w.cfg.Software, Mode: w.cfg.Mode}})
		if err := w.append(ctx, []*Ticket{t}); err != nil {
			return err
		}
		if t.err == nil {
			break
		}
		w.refuse(t.err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(w.found)
	if w.cfg.Reader == nil || t.index == 0 {
		return nil
	}
	if _, err := Await(ctx, w.cfg.Reader, t.index); err != nil {
		return err
	}
	found, err := FindUnfinished(ctx, w.cfg.Reader, w.cfg.ID, t.index)
	if err != nil {
		return fmt.Errorf("look for unfinished sessions: %w", err)
	}
	w.unfinished = found
	for _, u := range found {
		w.open[u.Session] = u.Index
	}
	return nil
}

// refuse answers everything queued with err: nothing of it was appended.
func (w *Writer) refuse(err error) {
	w.mu.Lock()
	queue := w.queue
	w.queue, w.count, w.bytes = nil, 0, 0
	w.mu.Unlock()
	for _, t := range queue {
		t.err = err
		close(t.done)
	}
}

func newTicket(d Draft) *Ticket { return &Ticket{draft: d, done: make(chan struct{})} }

// end writes what is queued, then the stop entry.
func (w *Writer) end(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for {
		w.mu.Lock()
		rest := len(w.queue)
		w.mu.Unlock()
		if rest == 0 {
			break
		}
		if err := w.flush(ctx, false); err != nil {
			return w.fail(err)
		}
	}
	w.mu.Lock()
	shed := w.shed
	w.mu.Unlock()
	t := newTicket(Draft{Entry: Entry{Kind: Stop, Beat: true, Shed: shed}})
	if err := w.append(ctx, []*Ticket{t}); err != nil {
		return w.fail(err)
	}
	return t.err
}

// fail refuses everything from now on: numbers were given whose fate is unknown. A writer that was stopped before it
// had begun promised nothing, and has no error.
func (w *Writer) fail(err error) error {
	stopped := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	if !stopped {
		err = fmt.Errorf("%w: %w", tlog.ErrHalted, err)
	}
	w.mu.Lock()
	w.broken = err
	w.mu.Unlock()
	w.refuse(err)
	if stopped {
		return nil
	}
	return err
}

// flush appends what is queued, and with it a gap entry if calls were lost and a heartbeat if one is due.
func (w *Writer) flush(ctx context.Context, beat bool) error {
	w.mu.Lock()
	n, size := 0, 0
	for n < len(w.queue) && n < w.cfg.MaxQueue && (n == 0 || size+len(w.queue[n].draft.Payload) <= batchBytes) {
		size += len(w.queue[n].draft.Payload)
		n++
	}
	batch := make([]*Ticket, 0, n+2)
	if beat {
		// First of all: what it says of open sessions is true of everything before it.
		batch = append(batch, newTicket(Draft{Entry: Entry{Kind: Heartbeat, Beat: true, Shed: w.shed}}))
	}
	batch = append(batch, w.queue[:n]...)
	w.queue = slices.Delete(w.queue, 0, n)
	lost, since, why, shed := w.lost, w.since, w.why, w.shed
	w.lost = 0
	if beat {
		w.shed = 0
	}
	if len(w.queue) > 0 {
		w.poke()
	}
	w.mu.Unlock()

	if lost > 0 {
		gap := Entry{Kind: Gap, To: lost, Since: stampOf(since), Reason: why} // From and To are fixed when numbered
		batch = append(batch, newTicket(Draft{Entry: gap}))
	}
	if len(batch) == 0 {
		return nil
	}
	err := w.append(ctx, batch)
	refused := err == nil && batch[len(batch)-1].err != nil

	w.mu.Lock()
	w.count -= n
	w.bytes -= size
	if refused {
		// Nothing of it was appended: what the log itself was to be told is told later.
		if lost > 0 {
			if w.lost == 0 {
				w.since, w.why = since, why
			}
			w.lost += lost
		}
		if beat {
			w.shed += shed
		}
	}
	w.mu.Unlock()
	return err
}

func stampOf(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// append numbers the tickets and appends them as one. An error is an unknown outcome; that nothing was appended is
// the tickets' own error and takes their numbers back.
func (w *Writer) append(ctx context.Context, batch []*Ticket) error {
	leaves := make([]tlog.Leaf, 0, len(batch))
	taken := make([]*Ticket, 0, len(batch))
	next, last := w.next, w.last
	for _, t := range batch {
		e := &t.draft.Entry
		e.By, e.Boot = w.cfg.ID, w.boot
		e.Time = stampOf(time.Now())
		if e.Time.Before(last) {
			e.Time = last
		}
		// An entry that was lost leaves Prev empty: there is nothing to refer to.
		if a := t.draft.After; a != nil && len(a.entry) > 0 {
			e.Prev = tlog.HashLeaf(a.entry)
		}
		e.Seq = next
		switch e.Kind {
		case Gap:
			e.From, e.To = next, next+e.To-1
			e.Seq = e.To + 1
		case Heartbeat, Stop:
			e.Open = uint64(len(w.open))
			e.Floor = w.floor()
		}
		b, err := e.Append(make([]byte, 0, 512))
		if err != nil {
			// The draft's own fault: it takes no number and holds nobody else up.
			t.err = err
			close(t.done)
			continue
		}
		last = e.Time
		next = e.Seq + 1
		t.entry = b
		taken = append(taken, t)
		leaves = append(leaves, tlog.Leaf{Entry: b, Payload: t.draft.Payload})
	}
	if len(taken) == 0 {
		return nil
	}
	indices, err := w.cfg.Log.Append(ctx, leaves...)
	if err == nil && len(indices) != len(leaves) {
		err = fmt.Errorf("record: the log gave %d indices for %d leaves", len(indices), len(leaves))
	}
	nothing := errors.Is(err, tlog.ErrBusy) || errors.Is(err, tlog.ErrFull) || errors.Is(err, tlog.ErrTooLarge) || errors.Is(err, tlog.ErrQuarantine)
	if err == nil {
		w.next, w.last = next, last
	}
	for i, t := range taken {
		switch {
		case err == nil:
			t.index, t.leaf = indices[i], tlog.HashLeaf(t.entry)
			w.note(t)
		default:
			t.entry, t.err = nil, err
		}
		t.draft.Payload = nil
		close(t.done)
	}
	if err != nil && !nothing {
		return err
	}
	return nil
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
	var floor uint64
	first := true
	for _, i := range w.open {
		if first || i < floor {
			floor, first = i, false
		}
	}
	return floor
}
