package tlogtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// Origin is the name of the logs that [NewLog] makes.
const Origin = "log.example/test"

// Config says how a memory log behaves. The zero value is a log called [Origin] on storage of its own.
type Config struct {
	Origin   string        // "" for the constant Origin
	Interval time.Duration // from growth to its checkpoint while Run runs; 0 for 5 ms
	Manual   bool          // publish only when Publish is called and when Run ends
	Prune    bool          // a partial tile is gone once the full one is published
	Latest   tlog.Latest   // the anchor; nil for none
	Signer   note.Signer   // nil for the key that Key derives from the origin
	Storage  *Storage      // what outlives the log; nil for new storage
}

// A Log is a log in memory: a tlog.Log and a tlog.History whose faults can be chosen. It keeps every contract of
// package tlog and takes no liberty that an engine may not take too: it serves a partial tile only where a
// published checkpoint implies it. Two logs of one origin have one key, so a fork is made by making two.
// Safe for concurrent use.
type Log struct {
	c        Config
	signer   note.Signer
	verifier note.Verifier
	vkey     string
	disk     *Storage
	running  chan struct{} // closed by the first Run
	start    func()        // closes running
	grown    chan struct{} // holds at most one word of growth

	publishing sync.Mutex // held from the anchor to the published checkpoint

	mu         sync.Mutex
	faults     Faults
	runs       int   // Runs that have not ended
	down       error // why nothing is appended any more: ErrClosed or ErrQuarantine
	unreadable bool  // after Close
}

var (
	_ tlog.Log     = (*Log)(nil)
	_ tlog.History = (*Log)(nil)
)

// NewLog returns a log of the default Config that runs until the test ends. Leaves can be appended at once.
func NewLog(t testing.TB) *Log {
	t.Helper()
	return Start(t, Config{})
}

// Start opens a log and runs it until the test ends.
func Start(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	l.begin() // here, so that the first leaf need not wait for the goroutine
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Logf("the log %s: Run ended: %v", l.Origin(), err)
		}
	})
	return l
}

// Open opens a log, which nobody runs. Storage that is open is not opened again.
func Open(c Config) (*Log, error) {
	if c.Origin == "" {
		c.Origin = Origin
	}
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return nil, err
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Millisecond
	}
	signer, vkey := Key(c.Origin)
	if c.Signer != nil {
		signer = c.Signer
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if c.Storage == nil {
		c.Storage = new(Storage)
	}
	if err := c.Storage.lock(); err != nil {
		return nil, err
	}
	l := &Log{
		c: c, signer: signer, verifier: verifier, vkey: vkey, disk: c.Storage,
		running: make(chan struct{}), grown: make(chan struct{}, 1),
	}
	l.start = sync.OnceFunc(func() { close(l.running) })
	return l, nil
}

// Origin returns the log's name.
func (l *Log) Origin() string { return l.c.Origin }

// Verifier returns the verifier of the log's key.
func (l *Log) Verifier() note.Verifier { return l.verifier }

// VerifierKey returns the log's key in the text form of c2sp.org/signed-note.
func (l *Log) VerifierKey() string { return l.vkey }

// Policy returns a policy (c2sp.org/tlog-policy) that trusts the log's key and asks for no witness.
func (l *Log) Policy() []byte { return []byte("log " + l.vkey + "\nquorum none\n") }

// Size returns how many entries are durable, published or not.
func (l *Log) Size() uint64 { return l.disk.size() }

// Inject replaces the faults. Inject(Faults{}) heals.
func (l *Log) Inject(f Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

func (l *Log) injected() Faults {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.faults
}

// Close ends the use of the storage, which can then be opened again. It publishes nothing: what ends like this
// without an earlier end of Run has crashed.
func (l *Log) Close() {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.unreadable {
		l.down, l.unreadable = tlog.ErrClosed, true
		l.disk.unlock()
	}
}

func (l *Log) readable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unreadable {
		return tlog.ErrClosed
	}
	return nil
}

func (l *Log) quarantined() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.down, tlog.ErrQuarantine) {
		return l.down
	}
	return nil
}

// Append implements tlog.Appender.
func (l *Log) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	f := l.injected()
	if f.Append != nil {
		if err := f.Append(ctx, leaves); err != nil {
			return nil, err
		}
	}
	for i, leaf := range leaves {
		switch {
		case len(leaf.Entry) > tlog.MaxEntry:
			return nil, fmt.Errorf("leaf %d with an entry of %d bytes: %w", i, len(leaf.Entry), tlog.ErrTooLarge)
		case len(leaf.Payload) > tlog.MaxPayload:
			return nil, fmt.Errorf("leaf %d with a payload of %d bytes: %w", i, len(leaf.Payload), tlog.ErrTooLarge)
		case len(leaf.Entry) == 0:
			return nil, fmt.Errorf("tlogtest: leaf %d has no entry; nothing was appended", i)
		}
	}
	select {
	case <-l.running:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	indices, err := l.store(leaves)
	if err != nil {
		return nil, err
	}
	select {
	case l.grown <- struct{}{}:
	default:
	}
	if f.Appended != nil {
		if err := f.Appended(ctx, indices); err != nil {
			return nil, err
		}
	}
	return indices, nil
}

func (l *Log) store(leaves []tlog.Leaf) ([]uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	return l.disk.append(leaves), nil
}

// Run implements tlog.Log. It may be called on a log that runs already, as those of NewLog do. When the last Run
// has ended, Append answers ErrClosed; reads go on until Close.
func (l *Log) Run(ctx context.Context) error {
	l.begin()
	return l.run(ctx)
}

func (l *Log) begin() {
	l.mu.Lock()
	l.runs++
	l.mu.Unlock()
	l.start()
}

func (l *Log) run(ctx context.Context) error {
	err := l.publishGrowth(ctx)
	l.mu.Lock()
	l.runs--
	if l.runs == 0 && l.down == nil {
		l.down = tlog.ErrClosed
	}
	l.mu.Unlock()
	if err == nil && l.Size() > 0 {
		_, err = l.Publish()
	}
	if errors.Is(err, tlog.ErrClosed) {
		return nil // closed under a running log: the crash that was asked for
	}
	return err
}

func (l *Log) publishGrowth(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.grown:
		}
		if l.c.Manual {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(l.c.Interval):
		}
		if _, err := l.Publish(); err != nil {
			return err
		}
	}
}

// Publish signs and publishes what has been appended, be it nothing, and returns the checkpoint. Where nothing grew
// since the last one it returns that.
func (l *Log) Publish() ([]byte, error) {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	if err := l.readable(); err != nil {
		return nil, err
	}
	c := tlog.Checkpoint{Origin: l.c.Origin}
	c.Size, c.Root = l.disk.head()
	if signed, err := l.disk.checkpointAt(c.Size); err == nil {
		return signed, nil
	}
	if f := l.injected(); f.Publish != nil {
		if err := f.Publish(c); err != nil {
			return nil, err
		}
	}
	if err := l.anchor(c); err != nil {
		return nil, err
	}
	signed, err := tlog.SignCheckpoint(c, l.signer)
	if err != nil {
		return nil, err
	}
	l.disk.publish(c.Size, signed)
	return slices.Clone(signed), nil
}

// anchor makes the anchor remember c, if this log's past is what the anchor remembers. Otherwise nothing is
// signed or appended any more.
func (l *Log) anchor(c tlog.Checkpoint) error {
	if l.c.Latest == nil {
		return nil
	}
	ctx := context.Background()
	old, err := l.c.Latest.Load(ctx, c.Origin)
	if err != nil {
		return err
	}
	if old != nil {
		was, err := parseAnchor(old)
		if err != nil {
			return err
		}
		root, err := tlog.Tiles{Reader: everything{l.disk}, Size: c.Size}.Root(ctx, was.Size)
		if err != nil || root != was.Root || was.Origin != c.Origin {
			l.mu.Lock()
			l.down = tlog.ErrQuarantine
			l.mu.Unlock()
			return fmt.Errorf("%w: %w", tlog.ErrQuarantine,
				&tlog.ForkError{A: old, B: c.Text(), Reason: "the anchor remembers another past"})
		}
		if was == c {
			return nil
		}
	}
	return l.c.Latest.Swap(ctx, c.Origin, old, c.Text())
}

// Checkpoint implements tlog.Reader.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	return l.checkpoint(ctx, l.disk.newest)
}

// CheckpointAt implements tlog.History.
func (l *Log) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	return l.checkpoint(ctx, func() ([]byte, error) { return l.disk.checkpointAt(size) })
}

func (l *Log) checkpoint(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	if err := errors.Join(ctx.Err(), l.readable()); err != nil {
		return nil, err
	}
	signed, err := read()
	if err != nil {
		return nil, err
	}
	if f := l.injected(); f.Checkpoint != nil {
		return f.Checkpoint(signed)
	}
	return signed, nil
}

// Sizes implements tlog.History. Every published checkpoint is kept.
func (l *Log) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	if err := errors.Join(ctx.Err(), l.readable()); err != nil {
		return nil, err
	}
	return l.disk.sizesAfter(after, max), nil
}

// Tile implements tlog.Reader.
func (l *Log) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if err := errors.Join(ctx.Err(), l.readable()); err != nil {
		return nil, err
	}
	data, err := l.disk.publishedTile(t, l.c.Prune)
	if err != nil {
		return nil, err
	}
	if f := l.injected(); f.Tile != nil {
		return f.Tile(t, data)
	}
	return data, nil
}

// Tail implements tlog.Tailer.
func (l *Log) Tail(ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		if err := errors.Join(ctx.Err(), l.readable(), l.quarantined()); err != nil {
			return nil, err
		}
		entries, more := l.disk.tail(from)
		if len(entries) > 0 {
			if f := l.injected(); f.Tail != nil {
				return f.Tail(from, entries)
			}
			return entries, nil
		}
		if wait <= 0 {
			return nil, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
		case <-late.C:
			return nil, nil
		}
	}
}

// Payload implements tlog.Payloads.
func (l *Log) Payload(ctx context.Context, sum tlog.Hash) ([]byte, error) {
	if err := errors.Join(ctx.Err(), l.readable()); err != nil {
		return nil, err
	}
	sealed, err := l.disk.payload(sum)
	if err != nil {
		return nil, err
	}
	if f := l.injected(); f.Payload != nil {
		return f.Payload(sum, sealed)
	}
	return sealed, nil
}

// Discard implements tlog.Payloads.
func (l *Log) Discard(ctx context.Context, sum tlog.Hash) error {
	if err := errors.Join(ctx.Err(), l.readable()); err != nil {
		return err
	}
	l.disk.discard(sum)
	return nil
}

// everything reads tiles of entries that are durable and not yet published.
type everything struct{ disk *Storage }

func (e everything) Checkpoint(context.Context) ([]byte, error) { return nil, tlog.ErrNotFound }

func (e everything) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	return e.disk.tile(t)
}

// payloadSum names a payload.
func payloadSum(sealed []byte) tlog.Hash { return sha256.Sum256(sealed) }
