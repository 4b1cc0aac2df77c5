package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"golang.org/x/mod/sumdb/note"
)

// A Config says which log it is, who remembers and signs for it, and how much it may take. Origin, Signer, Verifier
// and Latest are needed; the rest has defaults.
type Config struct {
	// Origin is the log's name, for ever, and the name of its key.
	Origin string
	// Signer signs checkpoints. It is called from one goroutine and must give up by itself when its key is out of
	// reach. Not needed with ReadOnly.
	Signer note.Signer
	// Verifier is the pinned key. What Signer returned is checked with it before anybody sees it, and so are the
	// checkpoints found in the store.
	Verifier note.Verifier
	// Also are further keys of the log, of other kinds than the first, which sign beside it and are pinned like it: an
	// ML-DSA-44 key, say. A checkpoint is signed by all keys or not at all.
	Also []Key
	// Former are public keys that signed for the log before and do so no more. Checkpoints of then, which the store keeps,
	// are believed by them.
	Former []note.Verifier
	// Latest is the anchor. It remembers, outside this disk, the text of the newest checkpoint. Not needed with
	// ReadOnly, but then nothing is compared with it.
	Latest tlog.Latest

	// Cosigner has checkpoints cosigned by witnesses, nil for by nobody. With one, nothing new is anchored or signed after
	// a start before the witnesses have been asked what they last saw, and nothing is published that Policy does not
	// accept.
	Cosigner tlog.Cosigner
	// Policy says which checkpoints may be published. It names this log. nil accepts what is signed, however many
	// witnesses have cosigned it.
	Policy *tlog.Policy
	// CosignEvery is the time between submissions to witnesses while the log grows, by default 1 s.
	CosignEvery time.Duration
	// Unwitnessed has the log sign after a start without having asked its witnesses first. What it then signs after it
	// was put back to an old copy together with its anchor, witnesses will refuse, but it has been signed.
	Unwitnessed bool

	// Head is the path of the head file, by default HEAD in the log's directory. Put it on another file system
	// than the store where there is one.
	Head string
	// NewHead accepts that the head file was lost and starts a new one. What was acknowledged after the newest
	// anchored checkpoint is then known to nobody but the store. For one start only, and by hand.
	NewHead bool
	// Evidence is the directory under which contradictions are written down, by default quarantine in the log's
	// directory.
	Evidence string

	// Interval is the time between checkpoints while the log grows, by default 100 ms.
	Interval time.Duration
	// MaxLeaves and MaxBytes bound what is in flight between Append and the disk: 16,384 leaves and 64 MiB by
	// default. What comes beyond is answered tlog.ErrBusy at once.
	MaxLeaves int
	MaxBytes  int
	// MaxUnanchored and MaxUnanchoredAge bound what is durable and not yet anchored: 1,048,576 leaves and 30 s by
	// default. Beyond, Append answers tlog.ErrBusy until the anchor can be reached again.
	MaxUnanchored    uint64
	MaxUnanchoredAge time.Duration
	// AnchorTimeout is how long one call of Latest may take, by default 10 s.
	AnchorTimeout time.Duration
	// LastWait is how long Run tries, at its end, to have the last entries anchored, signed and cosigned, by default
	// as long as AnchorTimeout.
	LastWait time.Duration

	// MinFree is how many bytes must be free on the store's disk, by default 128 MiB; below, Append answers
	// tlog.ErrFull. A negative number turns the guard off.
	MinFree int64
	// Ballast is the size in bytes of a file that only an operator removes, to have room to move on a full disk.
	// By default 64 MiB on a disk of 8 GiB or more and none on a smaller one. A negative number means none.
	Ballast int64
	// Cache is the size in bytes of the block cache, by default 64 MiB.
	Cache int64

	// Rehash is how many of the newest entries Open hashes again, by default 1,048,576: about a second's work.
	Rehash uint64
	// ScrubEvery is the time between scrubs of everything, by default 24 h; ScrubRate is their pace in bytes a
	// second, by default 32 MiB. The first comes one period after Run was called.
	ScrubEvery time.Duration
	ScrubRate  int
	// PurgeEvery is the time between purges where something was discarded, by default 1 h: so long the bytes of a
	// discarded payload stay on the disk at most. The first comes after a sixtieth of it.
	PurgeEvery time.Duration

	// ReadOnly opens for reading and checking: nothing is written, Append answers tlog.ErrClosed.
	ReadOnly bool
	// FS is the file system of the store and of the head file, by default vfs.Default.
	FS vfs.FS
	// Logger is told what an operator should know, by default nobody.
	Logger *slog.Logger
	// Fatal is called when Pebble cannot go on, for instance when the write-ahead log cannot be written. It must
	// not return. By default the process panics.
	Fatal func(msg string)
}

// A Key is a key of the log and the pinned half of it.
type Key struct {
	Signer   note.Signer // not needed with ReadOnly
	Verifier note.Verifier
}

// The terms of a log are who signs and who cosigns, and what may be published: the part of a configuration that can change while a log
// runs.
type terms struct {
	signers  []note.Signer
	pinned   []note.Verifier // of the signers
	all      []note.Verifier // these, and the former ones
	cosigner tlog.Cosigner
	policy   *tlog.Policy
}

// terms checks them.
func (c *Config) terms() (*terms, error) {
	t := &terms{cosigner: c.Cosigner, policy: c.Policy}
	for _, k := range append([]Key{{c.Signer, c.Verifier}}, c.Also...) {
		if err := c.checkKey(k); err != nil {
			return nil, err
		}
		t.signers, t.pinned = append(t.signers, k.Signer), append(t.pinned, k.Verifier)
	}
	t.all = slices.Clone(t.pinned)
	for _, v := range c.Former {
		if v.Name() != c.Origin {
			return nil, fmt.Errorf("tlog/local: a former key is of %q and the log is %q", v.Name(), c.Origin)
		}
		if !slices.ContainsFunc(t.all, func(k note.Verifier) bool { return k.KeyHash() == v.KeyHash() }) {
			t.all = append(t.all, v)
		}
	}
	if c.Policy != nil && !slices.ContainsFunc(c.Policy.Logs(), func(l tlog.PolicyLog) bool { return l.Origin == c.Origin }) {
		return nil, fmt.Errorf("tlog/local: the policy does not know the log %q; add a log line with its key", c.Origin)
	}
	return t, nil
}

func (c *Config) checkKey(k Key) error {
	switch {
	case k.Verifier == nil:
		return errors.New("tlog/local: no verifier: name the log's public key")
	case k.Verifier.Name() != c.Origin:
		return fmt.Errorf("tlog/local: the public key is of %q and the log is %q", k.Verifier.Name(), c.Origin)
	case c.ReadOnly:
	case k.Signer == nil:
		return errors.New("tlog/local: no signer: name the log's key")
	case k.Signer.Name() != c.Origin || k.Signer.KeyHash() != k.Verifier.KeyHash():
		return fmt.Errorf("tlog/local: the signer is %s+%08x and the public key %s+%08x", k.Signer.Name(), k.Signer.KeyHash(), k.Verifier.Name(), k.Verifier.KeyHash())
	}
	return nil
}

// Rekey has the log go on, from its next checkpoint, with the keys, the former keys, the policy and the cosigner of c, of which
// it looks at nothing else. The keys of until now are former ones from then on. Whoever follows the log must know one of the
// new keys before it signs alone: let old and new sign together for a while.
func (l *Log) Rekey(c Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.terms.Load()
	c.Origin, c.ReadOnly = l.cfg.Origin, false
	c.Former = append(slices.Clone(c.Former), old.all...)
	now, err := c.terms()
	switch {
	case err != nil:
		return err
	case l.cfg.ReadOnly:
		return fmt.Errorf("a log opened for reading only signs nothing: %w", tlog.ErrClosed)
	case (old.cosigner == nil) != (now.cosigner == nil):
		return errors.New("tlog/local: witnesses can be changed while the log runs, and not be taken up or given up: open it again")
	}
	l.terms.Store(now)
	return nil
}

func (c *Config) defaults(dir string) error {
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return err
	}
	if _, err := c.terms(); err != nil {
		return err
	}
	if c.Latest == nil && !c.ReadOnly {
		return errors.New("tlog/local: no anchor: name where the newest checkpoint is remembered")
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	or(&c.Head, c.FS.PathJoin(dir, "HEAD"))
	or(&c.Evidence, c.FS.PathJoin(dir, "quarantine"))
	or(&c.Interval, 100*time.Millisecond)
	or(&c.MaxLeaves, 16384)
	or(&c.MaxBytes, 64<<20)
	or(&c.MaxUnanchored, 1<<20)
	or(&c.MaxUnanchoredAge, 30*time.Second)
	or(&c.AnchorTimeout, 10*time.Second)
	or(&c.LastWait, c.AnchorTimeout)
	or(&c.CosignEvery, time.Second)
	or(&c.MinFree, 128<<20)
	or(&c.Cache, 64<<20)
	or(&c.Rehash, 1<<20)
	or(&c.ScrubEvery, 24*time.Hour)
	or(&c.ScrubRate, 32<<20)
	or(&c.PurgeEvery, time.Hour)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fatal == nil {
		c.Fatal = func(msg string) { panic(msg) }
	}
	return nil
}

// or sets *p to def where it is zero.
func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// A Log is one log in one directory. Its methods are safe for concurrent use. Between Open and Close, Run is called once.
type Log struct {
	cfg    Config
	dir    string
	terms  atomic.Pointer[terms]
	lock   *pebble.Lock
	cache  *pebble.Cache
	head   *head
	health health
	counts counts
	tiles  tileCache
	closer func() // of the file system's wrapper
	start  time.Time

	// open is held for reading by everything that touches db, and for writing by Close.
	open   sync.RWMutex
	db     *pebble.DB // nil when it could not be opened
	closed bool

	queue   queue
	pause   gate
	flights flights
	// The sequencer's own.
	edge       edge
	full       []fullTile
	paid       []payloadAt
	idle       chan *flight
	committing chan *flight
	// writing is held while rows are written that payloads and discards could both touch.
	writing  sync.Mutex
	discards atomic.Uint64 // how many payloads were ever discarded
	purging  sync.Mutex    // one purge at a time
	renew    atomic.Bool   // write-ahead logs are not written over old ones

	durable   atomic.Pointer[state]     // what is acknowledged
	growth    bell                      // rung when durable was raised
	indexed   atomic.Uint64             // up to which entry the index of digests reaches
	kept      atomic.Pointer[published] // the newest signed checkpoint; what readers see once the policy accepts it
	published atomic.Pointer[published] // what readers see
	publisher publisher                 // Run's own
	cosigning cosigning

	// mu guards how the log ended.
	mu          sync.Mutex
	reason      error         // why it stopped; nil while it goes
	quarantined error         // likewise, when that is the quarantine
	broken      chan struct{} // closed when reason is set
	ruined      bool          // Pebble cannot go on, not even to be closed
	ended       chan struct{} // closed when what Run started has ended; nil before Run
}

var (
	_ tlog.Log     = (*Log)(nil)
	_ tlog.History = (*Log)(nil)
)

type counts struct {
	leaves, batches, busy, full, checkpoints, anchorErrors, signErrors, cosignErrors, diskSlow, writeStalls, backgroundErrors, scrubs atomic.Uint64
}

// Stats is a snapshot of what the log did since Open, and where it stands.
type Stats struct {
	Size         uint64 // durable entries
	Anchored     uint64 // entries the anchor knows
	Signed       uint64 // entries of the newest signed checkpoint
	Published    uint64 // entries of the newest checkpoint shown
	Waiting      int    // leaves between Append and the disk
	WaitingBytes int

	Unanchored  time.Duration // for how long entries have been durable that the anchor does not know; 0 for none
	SignedAt    time.Time     // when the newest checkpoint was signed, or the log opened if that was later
	PublishedAt time.Time     // when the newest checkpoint was shown, or the log opened if that was later

	Leaves, Batches  uint64 // appended
	Busy, Full       uint64 // calls of Append refused with tlog.ErrBusy and tlog.ErrFull
	Checkpoints      uint64 // signed and kept
	CosignErrors     uint64 // calls of Cosigner that brought too little
	AnchorErrors     uint64 // calls of Latest that failed
	SignErrors       uint64 // signatures that were not made, or not by the pinned key
	DiskSlow         uint64 // writes that took over five seconds
	WriteStalls      uint64 // times Pebble held writes back
	BackgroundErrors uint64 // flushes and compactions that failed; the first closes admission
	Scrubs           uint64 // finished scrubs of everything
	Free             uint64 // bytes free on the store's disk when last looked at
	Refuses          error  // why nothing is admitted now, Err among others, or nil
	Err              error  // why nothing is admitted any more, or nil
}

// Stats returns where the log stands.
func (l *Log) Stats() Stats {
	l.queue.mu.Lock()
	waiting, bytes, shut := l.queue.waiting.leaves+l.queue.taken.leaves, l.queue.waiting.bytes+l.queue.taken.bytes, l.queue.shut
	l.queue.mu.Unlock()
	c := &l.counts
	s := Stats{
		Size: l.Size(), Anchored: l.publisher.anchored.Load(), Waiting: waiting, WaitingBytes: bytes,
		Leaves: c.leaves.Load(), Batches: c.batches.Load(), Busy: c.busy.Load(), Full: c.full.Load(),
		Checkpoints: c.checkpoints.Load(), AnchorErrors: c.anchorErrors.Load(), SignErrors: c.signErrors.Load(),
		CosignErrors: c.cosignErrors.Load(),
		DiskSlow:     c.diskSlow.Load(), WriteStalls: c.writeStalls.Load(), BackgroundErrors: c.backgroundErrors.Load(),
		Scrubs: c.scrubs.Load(), Free: l.health.free.Load(), Refuses: shut, Err: shut,
	}
	if shut == nil {
		s.Refuses = l.refuses()
	}
	if since := l.publisher.waiting.Load(); since != 0 {
		s.Unanchored = time.Duration(l.now() - since)
	}
	s.Signed, s.SignedAt = l.kept.Load().since(l.start)
	s.Published, s.PublishedAt = l.published.Load().since(l.start)
	return s
}

// Size returns how many entries are durable. They need not be published yet.
func (l *Log) Size() uint64 {
	if d := l.durable.Load(); d != nil {
		return d.size
	}
	return 0
}

// Quarantined returns why the log is in quarantine, or nil. The error is tlog.ErrQuarantine and holds a
// *tlog.ForkError with the two statements that contradict each other.
func (l *Log) Quarantined() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quarantined
}

// Run sequences, anchors, signs, publishes and scrubs until ctx ends; then it lets nothing in, finishes what it has
// begun, publishes the rest and returns nil. It returns early, with tlog.ErrHalted, when the outcome of a write is
// unknown. In quarantine it does nothing but wait for ctx to end and returns why.
func (l *Log) Run(ctx context.Context) error {
	if l.cfg.ReadOnly {
		return errors.New("tlog/local: the log was opened for reading only")
	}
	ended := make(chan struct{})
	l.mu.Lock()
	again := l.ended != nil
	if !again {
		l.ended = ended
	}
	l.mu.Unlock()
	if again {
		return errors.New("tlog/local: Run was called before; open the log again")
	}
	var wg sync.WaitGroup
	stop := make(chan struct{}) // for the sequencer
	side, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.Quarantined() == nil {
		wg.Go(func() { l.sequence(stop) })
		wg.Go(func() { l.commit() })
		wg.Go(func() { l.publishAll(side) })
		if l.cfg.Cosigner != nil {
			wg.Go(func() { l.cosignAll(side) })
		}
		wg.Go(func() { l.watchDisk(side) })
		wg.Go(func() { l.scrubs(side) })
		wg.Go(func() { l.purges(side) })
	}
	select {
	case <-ctx.Done():
	case <-l.broken:
		if l.Quarantined() == nil {
			go func() { defer close(ended); wg.Wait() }() // they may hang in Pebble: Close waits a little
			return l.stopReason()
		}
		<-ctx.Done()
	}
	l.queue.close(tlog.ErrClosed)
	close(stop)
	wg.Wait()
	close(ended)
	if err := l.stopReason(); err != nil {
		return err
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.LastWait)
	defer done()
	return l.publishLast(last)
}

// Close releases the directory. Run must have returned, or never have been called; readers get tlog.ErrClosed.
func (l *Log) Close() error {
	l.queue.close(tlog.ErrClosed)
	l.mu.Lock()
	stuck, ended := l.ruined, l.ended
	l.mu.Unlock()
	// Not under the lock of the store: what ends may be waiting for it.
	if !stuck && ended != nil {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			stuck = true
		}
	}
	l.open.Lock()
	defer l.open.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if stuck {
		return fmt.Errorf("%w: the store cannot be closed; the end of the process releases the directory", tlog.ErrHalted)
	}
	var errs []error
	if l.db != nil {
		errs = append(errs, l.db.Close())
	}
	errs = append(errs, l.head.close())
	l.release()
	return errors.Join(errs...)
}

func (l *Log) release() {
	if l.cache != nil {
		l.cache.Unref()
	}
	if l.closer != nil {
		l.closer()
	}
	if l.lock != nil {
		l.lock.Close()
	}
}

// halt stops the log because the outcome of a write is unknown, and answers for all that is under way.
func (l *Log) halt(cause error) {
	l.stop(fmt.Errorf("%w: %w", tlog.ErrHalted, cause), nil)
}

// stop ends sequencing for good. The first reason stays, but quarantine outweighs a halt.
func (l *Log) stop(reason, quarantined error) {
	l.mu.Lock()
	first := l.reason == nil
	if first {
		close(l.broken)
	}
	if first || (quarantined != nil && l.quarantined == nil) {
		l.reason, l.quarantined = reason, quarantined
	}
	reason = l.reason
	l.mu.Unlock()
	if first {
		l.cfg.Logger.Error("log stopped", "origin", l.cfg.Origin, "reason", reason)
	}
	l.queue.close(reason)
	for _, fl := range l.flights.removeAll() {
		for _, it := range fl.items {
			it.finish(reason)
		}
	}
}

func (l *Log) stopReason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

// grown raises the durable size.
func (l *Log) grown(s state) {
	l.publisher.waiting.CompareAndSwap(0, l.now())
	l.durable.Store(&s)
	l.growth.ring()
}

// A gate holds the sequencer while the anchor is asked what it remembers.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // nil when open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// wait returns true once the gate is open, false when a or b ends first.
func (g *gate) wait(a, b <-chan struct{}) bool {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut == nil {
		return true
	}
	select {
	case <-shut:
		return true
	case <-a:
	case <-b:
	}
	return false
}
