// Package ring holds data keys: one 256-bit key a session, each to be opened again for as
// long as it is not erased, and never after. A payload is sealed with its key; erasing the
// key erases the payload wherever copies of it lie, and leaves the log as it was.
//
// What is always true:
//
//   - A key that New handed out is on the disk, and so is the name of its file.
//   - An ID names one key for ever, also after a crash, a restart, or a restored backup:
//     a life of the process never makes keys in a file of an earlier life.
//   - Open returns the key that New returned, or an error; never another key.
//   - When Erase has returned nil, the sealed key was overwritten with zeros and the disk
//     has said so. Nothing the ring does afterwards brings it back, however it is interrupted.
//   - No key lies on the disk unsealed, and the tenant key, which all seals hang on, never
//     lies in the directory.
//
// What it does not do: write down that a key was erased, and by whom (the log does), or
// reach what is outside the files it overwrites. A backup of the directory, a file system
// that keeps old blocks (copy on write, snapshots), and the spare cells of a solid-state
// disk may still hold the old sixty-four bytes. What makes them worthless stands under
// Backups.
//
// # Keys
//
// There are four kinds, each sealed by the one before:
//
//	tenant key    a [Wrapper]: a key file, or a key in Vault, which never leaves it
//	epoch key     one at a time; begins with the ring, and with each Rewrap
//	segment key   one for each file of some ten thousand slots
//	data key      one for each session
//
// The tenant key is asked when the ring is opened, when an epoch begins, for an older epoch
// when one of its keys is first opened, and by Run, four times in Config.MaxStale, whether it
// still gives the epoch key: each time a question about 32 bytes. No New and no Open asks it
// while the epoch key is in memory and was confirmed less than MaxStale ago. After that they
// ask, and answer ErrStale if it does not give the key: so an outage of its keeper as long as
// MaxStale, less the quarter that may have passed since the last confirmation, goes unnoticed
// but for the log, and withdrawing the tenant key ends the ring within MaxStale. No difference is
// made between a keeper that is away and one that says no: a slip in a policy is an outage as
// well. The ring is opened only while the tenant key is within reach. Erase needs no key, and
// that a key was erased can be told without one.
//
// New and Open keep that time to the moment. Run clears the keys that were not confirmed from
// the memory, with those that hang on them, and Rewrap those that are not needed any more.
// Data keys in stock stay until they are handed out: nothing is sealed with them yet. What
// the runtime may have copied of a key on its way is not reached.
//
// # Backups
//
// Erase zeroes a slot in the ring. The slot in an older backup is sealed by a segment key, that
// by an epoch key, and that by a version of the tenant key: who has the backup and may use the
// tenant key opens it still. What takes that from him, and from the ring's own operator, is to
//
//  1. rotate the tenant key: a new version in Vault, or a new key file as Config.KEK with
//     the old one in Config.Former
//  2. call [Ring.Rewrap], which begins an epoch under the newest version and seals every key
//     that is not erased anew, by new segment keys, until it returns nil
//  3. make a new backup
//  4. retire what [Ring.Needed] does not name: in Vault raise min_decryption_version to the
//     lowest version named, and when nothing else needs the older ones trim the key to it, so
//     that nobody can lower it again; destroy the old key file and its copies
//
// Let a thief have backups of the ring from any time, the ring as it is now, and leave to use
// the tenant key as it is now, and let him lack what was retired. Then he opens
//
//   - from the ring as it is: every key that is not erased, for that is what the tenant key
//     is for
//   - from a backup that was made before step 2 began: nothing at all. Neither what was erased
//     since, nor the rest, nor what is erased later
//   - from a backup that was made after that: what was erased since the backup, until all the
//     steps are done again
//
// So what was erased before step 2 began is out of his reach, wherever it was copied. After the
// steps 1 and 2 alone nothing has changed for him. After step 4 the backups of before open nothing
// for their owner either. Step 4 done too early keeps the ring itself from opening: that is why
// it names what it needs, and names nothing while there is a part of it that it cannot read.
// Needed speaks of one ring; who has several under one tenant key asks each of them. Backups of
// the tenant key's keeper, which may hold versions that were retired, are out of its sight.
//
// # On the disk
//
// A ring is a directory. It holds the file "ring", and segments "<id>.seg", id being
// sixteen lower-case hex digits. What ends in ".new" was not finished, and is taken away when
// the ring is opened. One process at a time has the ring, by an flock(2) on the directory
// itself. Numbers are big-endian, offsets in bytes.
//
// Both kinds of file begin with the same header, twice, at 0 and at 4096, so that no single
// damaged block takes a segment's keys with it; slots begin at 8192. A header is 1024
// bytes:
//
//	   0  16  "tallyring-dir/2\n" in the file ring, "tallyring-seg/2\n" in a segment
//	  16   4  ring id, random, the same in every file of the ring
//	  20   8  segment id, random, never zero; zero in the file ring
//	  28   8  epoch, from 1
//	  36  60  the segment key, sealed by the epoch key; the associated data are bytes 0 to 35
//	  96   2  length n of the wrapped epoch key, 1 to 922
//	  98   n  the epoch key, wrapped by the tenant key; the associated data are
//	          "tallyring-epo/2\n" || ring id[4] || epoch[8]
//	98+n      zeros
//	1020   4  CRC-32C of bytes 0 to 1019
//
// Sealed is AES-256-GCM with a random nonce: nonce[12] || ciphertext || tag[16]. What is sealed
// in the file ring is thirty-two zero bytes: a wrong tenant key is told when the ring is
// opened. The file ring has the current epoch, which new segments are of. Every segment has
// its own epoch's key in its header, and needs nothing but the tenant key: no epoch is lost
// with another file, and none is left when the last segment has moved on.
//
// A slot is 64 bytes at 8192 + 64·slot, within one sector, so that overwriting it is not
// torn:
//
//	 0  60  the data key, sealed by the segment key; the associated data are the sixteen
//	        bytes of the key's ID
//	60   4  CRC-32C of the sixteen bytes of the ID and bytes 0 to 59
//
// An erased slot has zeros in bytes 0 to 59 and the CRC of that. A slot of sixty-four zeros
// was never written. An ID is ring id[4] || segment id[8] || slot[4].
//
// Keys are made in batches ahead of need. A batch is written at once and synced; only then
// may a key of it be handed out. What a crash leaves of a batch that was not synced was
// handed out to nobody and is not looked at again; so are the keys a life had in stock at
// its end. A segment whose write or sync failed is given up: nothing is retried on it, and
// the next batch begins another.
//
// The first version of the format had no epochs: its header has "tallyring-dir/1\n" or
// "tallyring-seg/1\n", no bytes 28 to 95, and what is wrapped, by the tenant key and with
// bytes 0 to 27 for associated data, is the segment key itself, or the thirty-two zeros.
// Such a ring gets its first epoch, and a file ring of this version, when it is opened. Its
// segments are read and erased in as they are, the tenant key being asked for each, and a
// Rewrap moves them. The first version's programs do not open it again.
package ring

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrUnknown: the ring never held this key, or lost it with its segment. Look in
	// another ring or in a backup.
	ErrUnknown = errors.New("keys/ring: unknown key")

	// ErrErased: the key was erased. Nothing will bring it back.
	ErrErased = errors.New("keys/ring: key was erased")

	// ErrCorrupt: the bytes at the key's place are damaged. Restore its segment from a
	// backup; other keys of the segment may be whole.
	ErrCorrupt = errors.New("keys/ring: damaged")

	// ErrWrongKEK: the tenant key given is not the one that wrapped this. Give that one.
	ErrWrongKEK = errors.New("keys/ring: wrong tenant key")

	// ErrStale: the tenant key has not confirmed the epoch key for Config.MaxStale, or it is
	// one that it was not asked for before. Bring the tenant key within reach, or give back
	// the right to use it; the ring then goes on by itself.
	ErrStale = errors.New("keys/ring: the tenant key has not confirmed the epoch key")

	// ErrInUse: another process, or another Ring of this one, has the directory open.
	// Stop it, or ask it.
	ErrInUse = errors.New("keys/ring: in use")

	// ErrClosed: the ring was closed.
	ErrClosed = errors.New("keys/ring: closed")
)

// Config says how a ring is kept.
type Config struct {
	// KEK is the tenant key. It wraps epoch keys, and is asked when the ring is opened, when
	// an epoch begins, and four times in MaxStale. Required.
	KEK Wrapper

	// Former are tenant keys that wrapped epochs before, and are asked to unwrap what KEK
	// says is not its own: another file, another key in Vault. After a Rewrap none of them
	// is needed.
	Former []Wrapper

	// MaxStale is how long keys are made and opened while the tenant key does not answer, or
	// says no: so long may an outage of its keeper last unnoticed, and as long it takes at
	// most until withdrawing the tenant key has an effect. 0 means an hour. With a
	// nanosecond every New and Open asks.
	MaxStale time.Duration

	// Timeout ends a question to the tenant key. 0 means 10 s.
	Timeout time.Duration

	// Pace is how many bytes a second Rewrap reads at most, and writes as many. 0 means
	// 32 MiB, less than 0 as many as it can.
	Pace int

	// Batch is how many keys are made, written and synced at a time, 1 to 8192. 0 means
	// 512. The stock holds up to four batches: choose four times what may be asked for
	// while one sync takes its time.
	Batch int

	// Segment is how many keys a segment file has room for, 64 bytes each, from Batch to
	// 2^24. 0 means 65536.
	Segment int

	// Logger is told when a batch could not be made, when the tenant key does not answer and
	// when it does again, and when a segment is read by its second header. Nil means
	// silence.
	Logger *slog.Logger

	disk *disk // tests only
}

const (
	defaultBatch    = 512
	maxBatch        = 8192
	defaultSegment  = 1 << 16
	maxSegment      = 1 << 24
	stockBatches    = 4
	defaultMaxStale = time.Hour
	defaultTimeout  = 10 * time.Second
	defaultPace     = 32 << 20
)

// Ring is an open ring. Its methods are safe for concurrent use.
type Ring struct {
	dir      string
	id       [4]byte
	keks     []Wrapper // Config.KEK, then Config.Former
	batch    int
	segment  int
	maxStale time.Duration
	timeout  time.Duration
	pace     int
	log      *slog.Logger
	disk     *disk
	flock    *os.File // the directory

	stock  chan made     // handed out by New; filled by whoever holds making
	low    chan struct{} // tells Run that the stock has room for a batch
	making chan struct{} // a lock that a context can leave: full while a batch is being made

	live *segment // owner: making. The segment being filled, nil before the first and after a fault

	current  atomic.Pointer[epoch] // changed by whoever holds making
	epochsMu sync.Mutex
	epochs   map[string]*epoch // guarded by epochsMu: the current and others that were met, by header.epochName
	seals    sealCache

	closing sync.Once
	closed  chan struct{}

	moving   chan struct{} // a lock that a context can leave: full while segments are being moved to an epoch
	swap     sync.RWMutex  // held by an Erase from looking for the file until the disk has the zeros; alone, while a file gives place to another
	swaps    atomic.Uint64 // how many did
	doubtful atomic.Bool   // whether one may have without the disk having said so

	mu    sync.RWMutex // a slot is not read while it is being overwritten, and nothing is written once closed
	moved uint64       // guarded by mu: the segment of which a copy is being made, 0 for none
	late  []uint32     // guarded by mu: its slots that were erased since
}

// made is a key in stock: sealed, on the disk, and known to nobody.
type made struct {
	id  ID
	key Key
}

// Open opens the ring in dir, or makes one if there is none: the directory and those above
// it, mode 0700. It reads one small file, takes away what an unfinished write left, and has
// the tenant key unwrap the current epoch's, for which it must be within reach. A ring of the
// format's first version gets its first epoch. The errors are ErrInUse, ErrWrongKEK,
// ErrCorrupt, or what the file system or the tenant key said.
func Open(dir string, cfg Config) (*Ring, error) {
	defaults(&cfg.Batch, defaultBatch)
	defaults(&cfg.Segment, defaultSegment)
	defaults(&cfg.MaxStale, defaultMaxStale)
	defaults(&cfg.Timeout, defaultTimeout)
	defaults(&cfg.Pace, defaultPace)
	switch {
	case dir == "":
		return nil, errors.New("keys/ring: no directory given")
	case cfg.KEK == nil || slices.Contains(cfg.Former, nil):
		return nil, errors.New("keys/ring: no tenant key given")
	case cfg.Batch < 1 || cfg.Batch > maxBatch:
		return nil, fmt.Errorf("keys/ring: batch of %d keys: choose 1 to %d", cfg.Batch, maxBatch)
	case cfg.Segment < cfg.Batch || cfg.Segment > maxSegment:
		return nil, fmt.Errorf("keys/ring: segment of %d keys: choose %d (one batch) to %d", cfg.Segment, cfg.Batch, maxSegment)
	case cfg.MaxStale < 0 || cfg.Timeout < 0:
		return nil, fmt.Errorf("keys/ring: a time cannot be negative: %v, %v", cfg.MaxStale, cfg.Timeout)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.disk == nil {
		cfg.disk = &realDisk
	}
	r := &Ring{
		dir: dir, keks: append([]Wrapper{cfg.KEK}, cfg.Former...), batch: cfg.Batch, segment: cfg.Segment,
		maxStale: cfg.MaxStale, timeout: cfg.Timeout, pace: cfg.Pace, log: cfg.Logger, disk: cfg.disk,
		stock:  make(chan made, stockBatches*cfg.Batch),
		low:    make(chan struct{}, 1),
		making: make(chan struct{}, 1),
		moving: make(chan struct{}, 1),
		closed: make(chan struct{}),
		epochs: map[string]*epoch{},
	}
	if err := mkdirSynced(dir); err != nil {
		return nil, fmt.Errorf("keys/ring: %w", err)
	}
	flock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	r.flock = flock
	r.doubtful.Store(true) // the life before may have ended between a file's new name and its sync
	if err := r.load(context.Background()); err != nil {
		flock.Close()
		return nil, fmt.Errorf("ring %s: %w", dir, err)
	}
	return r, nil
}

func defaults[T comparable](v *T, to T) {
	if *v == *new(T) {
		*v = to
	}
}

// lock takes one of the ring's locks that a context can leave.
func (r *Ring) lock(ctx context.Context, l chan struct{}) (unlock func(), err error) {
	if r.isClosed() {
		return nil, ErrClosed
	}
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.closed:
		return nil, ErrClosed
	}
}

func (r *Ring) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// Run keeps the stock filled, ahead of need, and has the tenant key confirm the epoch key in
// use, until ctx is done or the ring is closed, and then returns nil. A batch that cannot be
// made is logged and tried again, in a new segment, after 50 ms and then ever longer, up to
// 5 s; meanwhile New hands out what is in stock, and then meets the error itself. Without Run
// New is slower, and once in MaxStale a New or Open waits for the tenant key.
func (r *Ring) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(ctx)
	}()
	r.fill(ctx)
	cancel()
	<-watched
	return nil
}

// fill keeps the stock filled.
func (r *Ring) fill(ctx context.Context) {
	const first, most = 50 * time.Millisecond, 5 * time.Second
	pause := first
	for {
		if cap(r.stock)-len(r.stock) < r.batch {
			select {
			case <-r.low:
			case <-ctx.Done():
				return
			case <-r.closed:
				return
			}
			continue
		}
		unlock, err := r.lock(ctx, r.making)
		if err != nil {
			return
		}
		err = r.restock(ctx)
		unlock()
		if err == nil {
			pause = first
			continue
		}
		if ctx.Err() != nil || r.isClosed() {
			return
		}
		r.log.Error("keys/ring: no new data keys", "err", err, "stock", len(r.stock), "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		case <-r.closed:
			return
		}
		pause = min(2*pause, most)
	}
}

// New returns a key that nobody has had before, and its ID. The key is already on the disk:
// New costs no write, no sync and no question to the tenant key while there is stock and the
// epoch key is confirmed. When there is none it makes a batch itself, or waits for whoever is
// making one; and so with the question. The errors are ctx's, ErrStale, ErrClosed, or why no
// batch could be made.
func (r *Ring) New(ctx context.Context) (ID, Key, error) {
	if err := r.ready(ctx, r.current.Load()); err != nil {
		return ID{}, Key{}, fmt.Errorf("ring %s: no new data keys: %w", r.dir, err)
	}
	for {
		select {
		case m := <-r.stock:
			r.taken()
			return m.id, m.key, nil
		default:
		}
		if err := ctx.Err(); err != nil {
			return ID{}, Key{}, err
		}
		select {
		case m := <-r.stock:
			r.taken()
			return m.id, m.key, nil
		case <-ctx.Done():
			return ID{}, Key{}, ctx.Err()
		case <-r.closed:
			return ID{}, Key{}, ErrClosed
		case r.making <- struct{}{}:
		}
		var err error
		if len(r.stock) == 0 { // else another was quicker
			err = r.restock(ctx)
		}
		<-r.making
		if err != nil {
			return ID{}, Key{}, fmt.Errorf("ring %s: no new data keys: %w", r.dir, err)
		}
	}
}

// taken tells Run when there is room for another batch.
func (r *Ring) taken() {
	if cap(r.stock)-len(r.stock) >= r.batch {
		select {
		case r.low <- struct{}{}:
		default: // it was told
		}
	}
}

// restock makes one batch and puts it in stock, which has room for it. The caller holds
// making. The order is the whole of its safety:
//
//  1. seal, write, sync      the keys can be opened again, whatever happens
//  2. sync the directory     so can the file they are in, if it is new
//  3. put them in stock      only now can anybody have one
//
// After a fault in 1 or 2 nothing of the batch was seen by anybody, and the segment is left:
// what is on the disk beyond its last good sync is unknown, and stays so.
func (r *Ring) restock(ctx context.Context) error {
	if r.isClosed() {
		return ErrClosed
	}
	if r.live == nil || int(r.live.next) == r.segment {
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	batch, err := r.live.extend(r.disk, r.dir, min(r.batch, r.segment-int(r.live.next)))
	if err != nil {
		r.live.leave(r.disk)
		r.live = nil
		return err
	}
	for _, m := range batch {
		r.stock <- m
	}
	return nil
}

// begin leaves the live segment and makes an empty one, with a name no segment has had. Its
// key hangs on the current epoch: the tenant key is not asked.
func (r *Ring) begin(ctx context.Context) error {
	if r.live != nil {
		r.live.leave(r.disk)
		r.live = nil
	}
	var id uint64
	for id == 0 {
		var b [8]byte
		rand.Read(b[:])
		id = binary.BigEndian.Uint64(b[:])
	}
	e := r.current.Load()
	h, s, err := r.newSegmentKey(ctx, id, e)
	if err != nil {
		return err
	}
	path := r.path(id)
	f, err := r.disk.create(path + unfinished)
	if err != nil {
		s.drop()
		return err
	}
	r.live = &segment{header: h, epoch: e, path: path, f: f, seal: s}
	return nil
}

// newSegmentKey makes a key for a segment, and the header that keeps it.
func (r *Ring) newSegmentKey(ctx context.Context, id uint64, e *epoch) (h header, s *seal, err error) {
	h = header{kind: kindSegment, ring: r.id, segment: id, epoch: e.number, wrapped: e.wrapped}
	var key [keySize]byte
	rand.Read(key[:])
	err = r.with(ctx, e, func(s *seal) (err error) {
		h.sealed, err = s.seal(nil, key[:], h.aad())
		return err
	})
	if err != nil {
		clear(key[:])
		return header{}, nil, err
	}
	return h, newSeal(&key), nil
}

func (r *Ring) path(segment uint64) string {
	return filepath.Join(r.dir, segmentName(segment))
}

// Open returns the key with this ID: ErrUnknown, ErrErased and ErrCorrupt say why there is
// none, ErrWrongKEK that its epoch was wrapped with another tenant key, ErrStale that the
// tenant key has not confirmed the epoch's for too long.
func (r *Ring) Open(ctx context.Context, id ID) (Key, error) {
	for {
		swaps := r.swaps.Load()
		key, err := r.open(ctx, id)
		if err == nil {
			return newKey(key), nil
		}
		// What was looked up may be gone from the memory since, or from the disk: a file
		// that gave place to another has keys that are dropped soon after.
		if errors.Is(err, errDropped) || r.swaps.Load() != swaps {
			continue
		}
		return Key{}, fmt.Errorf("data key %v: %w", id, err)
	}
}

func (r *Ring) open(ctx context.Context, id ID) (*[keySize]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := r.find(id, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var slot [slotSize]byte
	if err := r.readSlot(f, id, &slot); err != nil {
		return nil, err
	}
	// What the slot says of itself goes first: that a key was erased can be known
	// without a tenant key.
	if err := checkSlot(&slot, id); err != nil {
		return nil, err
	}
	if s, ok := r.seals.get(id.segment()); ok && s.epoch.fresh(r.maxStale) {
		if key, err := openSlot(&slot, id, s.seal); err == nil {
			return key, nil
		} // or the segment was given another key since: its header says which
	}
	h, err := r.readHeader(f, id.segment())
	if err != nil {
		return nil, err
	}
	s, err := r.unseal(ctx, h)
	if err != nil {
		return nil, err
	}
	return openSlot(&slot, id, s.seal)
}

// readHeader returns the header of a segment.
func (r *Ring) readHeader(f file, segment uint64) (header, error) {
	h, second, err := readHeader(f)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return header{}, err
	}
	if err != nil || h.ofRing() || h.ring != r.id || h.segment != segment {
		return header{}, fmt.Errorf("header of segment %s: %w", segmentName(segment), ErrCorrupt)
	}
	if second {
		r.log.Warn("keys/ring: the first header of a segment is damaged, the second was used: a Rewrap writes both anew", "segment", segmentName(segment))
	}
	return h, nil
}

// find opens the segment that id is in.
func (r *Ring) find(id ID, flag int) (file, error) {
	if r.isClosed() {
		return nil, ErrClosed
	}
	if id.ring() != r.id {
		return nil, fmt.Errorf("it is of ring %x, and this is ring %x: %w", id.ring(), r.id, ErrUnknown)
	}
	f, err := r.disk.open(r.path(id.segment()), flag)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no segment %s: %w", r.dir, segmentName(id.segment()), ErrUnknown)
	}
	return f, err
}

// readSlot reads the slot of id, or says ErrUnknown if the segment ends before its end: what
// was handed out is there whole.
func (r *Ring) readSlot(f file, id ID, slot *[slotSize]byte) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, err := f.ReadAt(slot[:], id.offset())
	if errors.Is(err, io.EOF) {
		return ErrUnknown
	}
	return err
}

// Erase destroys the key with this ID: its slot is overwritten and synced before Erase
// returns. To erase a key again does no harm and costs as much. It needs no tenant key, and
// erases a damaged slot like any other. The error is ErrUnknown if there never was
// such a key; after any other error, do it again.
func (r *Ring) Erase(ctx context.Context, id ID) error {
	if err := r.erase(ctx, id); err != nil {
		return fmt.Errorf("erasing data key %v: %w", id, err)
	}
	return nil
}

func (r *Ring) erase(ctx context.Context, id ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.swap.RLock()
	defer r.swap.RUnlock()
	f, err := r.find(id, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	var slot [slotSize]byte
	if err := r.readSlot(f, id, &slot); err != nil {
		return err
	}
	if slot == [slotSize]byte{} {
		return ErrUnknown
	}
	if err := r.overwrite(f, id); err != nil {
		return err
	}
	// Also when it was erased before: that the page says so does not mean that the
	// disk does, if the sync of that time failed.
	if err := f.Datasync(); err != nil {
		return err
	}
	return r.settle()
}

// overwrite zeroes a slot, of which there may be a copy in the making: that is told.
func (r *Ring) overwrite(f file, id ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isClosed() { // the directory may have another owner by now
		return ErrClosed
	}
	if r.moved == id.segment() {
		r.late = append(r.late, id.slot())
	}
	erased := erasedSlot(id)
	return writeAll(f, erased[:], id.offset())
}

// settle returns when the disk has said that it has the name of every file that took another's place, also in the
// life before.
func (r *Ring) settle() error {
	if !r.doubtful.Load() {
		return nil
	}
	if err := r.disk.syncDir(r.dir); err != nil {
		return err
	}
	r.doubtful.Store(false)
	return nil
}

// String returns the word ring and the directory.
func (r *Ring) String() string { return "ring " + r.dir }

// Format writes what String returns, whatever the verb: a Ring holds keys.
func (r *Ring) Format(f fmt.State, verb rune) { io.WriteString(f, r.String()) }

// Stock returns how many keys can be handed out without making more, and how many there is
// room for.
func (r *Ring) Stock() (ready, room int) { return len(r.stock), cap(r.stock) }

// Close ends New, Open, Erase, Rewrap and Run, which answer ErrClosed from then on (Run nil),
// waits for a batch being made and a segment being moved, drops the stock and all keys, and
// gives the directory up. The second Close does nothing.
func (r *Ring) Close() error {
	var err error
	r.closing.Do(func() {
		r.mu.Lock()
		close(r.closed)
		r.mu.Unlock()
		r.making <- struct{}{} // for good
		r.moving <- struct{}{}
		for len(r.stock) > 0 {
			select {
			case m := <-r.stock:
				clear(m.key.Bytes())
			default: // a New was quicker
			}
		}
		if r.live != nil {
			r.live.leave(r.disk)
			r.live = nil
		}
		for _, e := range r.known() {
			r.forget(e)
		}
		r.seals.drop(func(uint64, cached) bool { return true })
		err = r.flock.Close()
	})
	return err
}
