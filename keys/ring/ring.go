// Package ring holds data keys: one 256-bit key a session, each to be opened again for as
// long as it is not erased, and never after. A payload is sealed with its key; erasing the
// key erases the payload wherever copies of it lie, and leaves the log as it was.
//
// What is always true:
//
//   - A key that New handed out is on the disk, and so is the name of its file.
//   - An ID names one key for ever, also after a crash, a restart, or a restored backup:
//     a life of the process never writes into a file of an earlier life.
//   - Open returns the key that New returned, or an error; never another key.
//   - When Erase has returned nil, the sealed key was overwritten with zeros and the disk
//     has said so.
//   - No key lies on the disk unsealed, and the key that seals the seals (the
//     key-encryption key, a [Wrapper]) never lies in the directory.
//
// What it does not do: write down that a key was erased, and by whom (the log does), or
// reach what is outside the file it overwrites. A backup of the directory, a file system
// that keeps old blocks (copy on write, snapshots), and the spare cells of a solid-state
// disk may still hold the old sixty-four bytes: they are worthless only to those who do not
// have the key-encryption key.
//
// # On the disk
//
// A ring is a directory. It holds the file "ring", and segments "<id>.seg", id being
// sixteen lower-case hex digits. One process at a time has it, by an flock(2) on the
// directory itself. Numbers are big-endian, offsets in bytes.
//
// Both kinds of file begin with the same header, twice, at 0 and at 4096, so that no single
// damaged block takes a segment's keys with it; slots begin at 8192. A header is 1024
// bytes:
//
//	   0  16  "tallyring-dir/1\n" in the file ring, "tallyring-seg/1\n" in a segment
//	  16   4  ring id, random, the same in every file of the ring
//	  20   8  segment id, random, never zero; zero in the file ring
//	  28   2  length n of the wrapped key, 1 to 990
//	  30   n  the wrapped key, by the key-encryption key, associated data bytes 0 to 27
//	30+n      zeros
//	1020   4  CRC-32C of bytes 0 to 1019
//
// What is wrapped in the file ring is thirty-two zero bytes: a wrong key-encryption key is
// told when the ring is opened. In a segment it is the segment key, random, 32 bytes, which
// seals this segment's slots and nothing else. So the key-encryption key is asked for once a
// segment and not once a session; it may be slow, and for a while absent.
//
// A slot is 64 bytes at 8192 + 64·slot, within one sector, so that overwriting it is not
// torn:
//
//	 0  12  nonce, random
//	12  32  the data key, sealed with AES-256-GCM by the segment key; the associated
//	        data are the sixteen bytes of the key's ID
//	44  16  tag
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
	"sync"
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

	// ErrWrongKEK: the key-encryption key given is not the one the ring was made with.
	// Give that one.
	ErrWrongKEK = errors.New("keys/ring: wrong key-encryption key")

	// ErrInUse: another process, or another Ring of this one, has the directory open.
	// Stop it, or ask it.
	ErrInUse = errors.New("keys/ring: in use")

	// ErrClosed: the ring was closed.
	ErrClosed = errors.New("keys/ring: closed")
)

// Wrapper is a key-encryption key, here or far away. Wrap and Unwrap append to dst and
// return the longer slice; aad is bound to the wrapped form, which is at most 990 bytes for
// a key of 32. Unwrap answers keys.ErrWrongKey to what this key did not wrap; any other
// error means that it could not be asked. Both must be safe for concurrent use.
type Wrapper interface {
	Wrap(ctx context.Context, dst, key, aad []byte) ([]byte, error)
	Unwrap(ctx context.Context, dst, wrapped, aad []byte) ([]byte, error)
}

// Config says how a ring is kept.
type Config struct {
	// KEK wraps the key of each segment. Required.
	KEK Wrapper

	// Batch is how many keys are made, written and synced at a time, 1 to 8192. 0 means
	// 512. The stock holds up to four batches: choose four times what may be asked for
	// while one sync takes its time.
	Batch int

	// Segment is how many keys a segment file has room for, 64 bytes each, from Batch to
	// 2^24. 0 means 65536. The key-encryption key is asked twice for each segment begun.
	Segment int

	// Logger is told when a batch could not be made, and when a segment is read by its
	// second header. Nil means silence.
	Logger *slog.Logger

	disk *disk // tests only
}

const (
	defaultBatch   = 512
	maxBatch       = 8192
	defaultSegment = 1 << 16
	maxSegment     = 1 << 24
	stockBatches   = 4
)

// Ring is an open ring. Its methods are safe for concurrent use.
type Ring struct {
	dir     string
	id      [4]byte
	kek     Wrapper
	batch   int
	segment int
	log     *slog.Logger
	disk    *disk
	lock    *os.File // the directory, flocked

	stock  chan made     // handed out by New; filled by whoever holds making
	low    chan struct{} // tells Run that the stock has room for a batch
	making chan struct{} // a lock that a context can leave: full while a batch is being made

	live *segment // owner: making. The segment being filled, nil before the first and after a fault

	closing sync.Once
	closed  chan struct{}

	mu    sync.RWMutex // a slot is not read while it is being overwritten, and nothing is written once closed
	seals sealCache
}

// made is a key in stock: sealed, on the disk, and known to nobody.
type made struct {
	id  ID
	key Key
}

// Open opens the ring in dir, or makes one if there is none: the directory and those above
// it, mode 0700. It reads one small file. The errors are ErrInUse, ErrWrongKEK, ErrCorrupt,
// or what the file system or the key-encryption key said.
func Open(dir string, cfg Config) (*Ring, error) {
	if cfg.Batch == 0 {
		cfg.Batch = defaultBatch
	}
	if cfg.Segment == 0 {
		cfg.Segment = defaultSegment
	}
	switch {
	case dir == "":
		return nil, errors.New("keys/ring: no directory given")
	case cfg.KEK == nil:
		return nil, errors.New("keys/ring: no key-encryption key given")
	case cfg.Batch < 1 || cfg.Batch > maxBatch:
		return nil, fmt.Errorf("keys/ring: batch of %d keys: choose 1 to %d", cfg.Batch, maxBatch)
	case cfg.Segment < cfg.Batch || cfg.Segment > maxSegment:
		return nil, fmt.Errorf("keys/ring: segment of %d keys: choose %d (one batch) to %d", cfg.Segment, cfg.Batch, maxSegment)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.disk == nil {
		cfg.disk = &realDisk
	}
	r := &Ring{
		dir: dir, kek: cfg.KEK, batch: cfg.Batch, segment: cfg.Segment, log: cfg.Logger, disk: cfg.disk,
		stock:  make(chan made, stockBatches*cfg.Batch),
		low:    make(chan struct{}, 1),
		making: make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	if err := mkdirSynced(dir); err != nil {
		return nil, fmt.Errorf("keys/ring: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	r.lock = lock
	if err := r.load(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("ring %s: %w", dir, err)
	}
	return r, nil
}

// Run keeps the stock filled, ahead of need, until ctx is done or the ring is closed, and
// then returns nil. A batch that cannot be made is logged and tried again, in a new
// segment, after 50 ms and then ever longer, up to 5 s; meanwhile New hands out what is in
// stock, and then meets the error itself. New works without Run, and is slower then.
func (r *Ring) Run(ctx context.Context) error {
	const first, most = 50 * time.Millisecond, 5 * time.Second
	pause := first
	for {
		if cap(r.stock)-len(r.stock) < r.batch {
			select {
			case <-r.low:
			case <-ctx.Done():
				return nil
			case <-r.closed:
				return nil
			}
			continue
		}
		select {
		case r.making <- struct{}{}:
		case <-ctx.Done():
			return nil
		case <-r.closed:
			return nil
		}
		err := r.restock()
		<-r.making
		if err == nil {
			pause = first
			continue
		}
		r.log.Error("keys/ring: no new data keys", "err", err, "stock", len(r.stock), "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		case <-r.closed:
			return nil
		}
		pause = min(2*pause, most)
	}
}

// New returns a key that nobody has had before, and its ID. The key is already on the disk:
// New costs no write and no sync while there is stock. When there is none it makes a batch
// itself, or waits for whoever is making one. The errors are ctx's, ErrClosed, or why no
// batch could be made.
func (r *Ring) New(ctx context.Context) (ID, Key, error) {
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
			err = r.restock()
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
func (r *Ring) restock() error {
	select {
	case <-r.closed:
		return ErrClosed
	default:
	}
	if r.live == nil || int(r.live.next) == r.segment {
		if err := r.begin(); err != nil {
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

// begin leaves the live segment and makes an empty one, with a name no segment has had.
func (r *Ring) begin() error {
	if r.live != nil {
		r.live.leave(r.disk)
		r.live = nil
	}
	h := header{kind: kindSegment, ring: r.id}
	for h.segment == 0 {
		var b [8]byte
		rand.Read(b[:])
		h.segment = binary.BigEndian.Uint64(b[:])
	}
	var key [keySize]byte
	rand.Read(key[:])
	if err := r.wrap(&h, key[:]); err != nil {
		return err
	}
	path := r.path(h.segment)
	f, err := r.disk.create(path)
	if err != nil {
		return err
	}
	r.live = &segment{header: h, path: path, f: f, seal: newSeal(key)}
	return nil
}

func (r *Ring) path(segment uint64) string {
	return filepath.Join(r.dir, segmentName(segment))
}

// Open returns the key with this ID: ErrUnknown, ErrErased and ErrCorrupt say why there is
// none, ErrWrongKEK that its segment was wrapped with another key-encryption key.
func (r *Ring) Open(ctx context.Context, id ID) (Key, error) {
	key, err := r.open(ctx, id)
	if err != nil {
		return Key{}, fmt.Errorf("data key %v: %w", id, err)
	}
	return key, nil
}

func (r *Ring) open(ctx context.Context, id ID) (Key, error) {
	if err := ctx.Err(); err != nil {
		return Key{}, err
	}
	f, err := r.find(id, os.O_RDONLY)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	var slot [slotSize]byte
	if err := r.readSlot(f, id, &slot); err != nil {
		return Key{}, err
	}
	// What the slot says of itself goes first: that a key was erased can be known
	// without a key-encryption key.
	if err := checkSlot(&slot, id); err != nil {
		return Key{}, err
	}
	seal, ok := r.seals.get(id.segment())
	if !ok {
		h, second, err := readHeader(f)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return Key{}, err
		}
		if err != nil || h.kind != kindSegment || h.ring != r.id || h.segment != id.segment() {
			return Key{}, fmt.Errorf("header of segment %s: %w", segmentName(id.segment()), ErrCorrupt)
		}
		if second {
			r.log.Warn("keys/ring: the first header of a segment is damaged, the second was used: copy the segment from a backup", "segment", segmentName(id.segment()))
		}
		b, err := r.unwrap(h)
		if err != nil {
			return Key{}, err
		}
		seal = newSeal([keySize]byte(b))
		r.seals.put(id.segment(), seal)
	}
	return openSlot(&slot, id, seal)
}

// find opens the segment that id is in.
func (r *Ring) find(id ID, flag int) (file, error) {
	select {
	case <-r.closed:
		return nil, ErrClosed
	default:
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
// returns. To erase a key again does no harm and costs as much. It needs no key-encryption
// key, and erases a damaged slot like any other. The error is ErrUnknown if there never was
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
	return f.Datasync()
}

func (r *Ring) overwrite(f file, id ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.closed: // the directory may have another owner by now
		return ErrClosed
	default:
	}
	erased := erasedSlot(id)
	_, err := f.WriteAt(erased[:], id.offset())
	return err
}

// String returns the word ring and the directory.
func (r *Ring) String() string { return "ring " + r.dir }

// Format writes what String returns, whatever the verb: a Ring holds keys.
func (r *Ring) Format(f fmt.State, verb rune) { io.WriteString(f, r.String()) }

// Stock returns how many keys can be handed out without making more, and how many there is
// room for.
func (r *Ring) Stock() (ready, room int) { return len(r.stock), cap(r.stock) }

// Close ends New, Open, Erase and Run, which answer ErrClosed from then on (Run nil), waits
// for a batch being made, drops the stock, and gives the directory up. The second Close
// does nothing.
func (r *Ring) Close() error {
	var err error
	r.closing.Do(func() {
		r.mu.Lock()
		close(r.closed)
		r.mu.Unlock()
		r.making <- struct{}{} // for good
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
		err = r.lock.Close()
	})
	return err
}
