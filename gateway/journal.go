package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tallystick/tallystick/tlog/record"
)

// A journal keeps, for as long as it is not in the log, what the models' streams have brought: a piece is written here
// before it is passed on, so that after a crash the record of an interrupted session holds at least what its caller saw.
// Pieces are sealed under a key derived from the session's data key: no plaintext touches the disk.
//
// The journal is a row of segment files, written only at their end, in a directory that one gateway has at a time. A
// segment is deleted when no session in it is open and it is not the one being written; one that could not be written
// or synced is left at once, for its sessions' ends are not to be relied on, and the next session begins another.
// Pieces reach the kernel before they are passed on, which survives the death of the process, and the disk within
// syncEvery, which survives the death of the machine.
//
// A frame is: its length (uint32, of what follows), the session (16 bytes), its number within the session (uint32), the
// length of the key's name (one byte; the name stands in a session's first frame only) and the name, and then the sealed
// bytes: AES-256-GCM under HKDF-SHA256(data key, info "tallystick journal v1"), nonce the number, everything before as
// additional data. Sealed are one byte of kind, eight bytes of microseconds, and the piece itself.
type journal struct {
	dir  string
	boot record.ID
	keys Keys
	full int64    // bytes of a segment after which another is begun
	lock *os.File // the directory, flocked

	mu      sync.Mutex
	current *segment   // under mu
	live    []*segment // under mu: with open sessions, the current one included
	serial  int        // under mu

	old []string // segments of earlier boots, until their sessions are closed
}

// A segment is one file of the journal.
type segment struct {
	file  *os.File
	size  atomic.Int64
	dirty atomic.Bool
	bad   atomic.Pointer[error] // why nothing more is written here
	open  int                   // sessions with pieces here, and one for being current; under journal.mu
}

const (
	segmentBytes  = 64 << 20
	syncEvery     = 50 * time.Millisecond
	journalInfo   = "tallystick journal v1"
	journalSuffix = ".journal"
	frameFixed    = 4 + 16 + 4 + 1
	maxFrame      = 80 << 20 // more than an event may have

	frameHead  = 'h' // status as uint16, then the recorded header; microseconds are the time the head came, since 1970
	framePiece = 'p' // a piece of the body; microseconds are since the piece before
)

func newJournal(dir string, boot record.ID, keys Keys) *journal {
	return &journal{dir: dir, boot: boot, keys: keys, full: segmentBytes}
}

// open takes the directory, notes the segments that earlier boots left, and makes the first of its own.
func (j *journal) open() error {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	var err error
	if j.lock, err = os.Open(j.dir); err != nil {
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		j.lock.Close()
		return fmt.Errorf("gateway: the stream journal in %s is another gateway's, which is running; give each its own directory: %w", j.dir, err)
	}
	files, err := os.ReadDir(j.dir)
	if err != nil {
		j.lock.Close()
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), journalSuffix) {
			j.old = append(j.old, filepath.Join(j.dir, f.Name()))
		}
	}
	slices.Sort(j.old)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err = j.turn(); err != nil {
		j.lock.Close()
	}
	return err
}

// turn begins the segment that new sessions are written to. j.mu is held.
func (j *journal) turn() error {
	name := filepath.Join(j.dir, fmt.Sprintf("%s-%06d%s", j.boot, j.serial, journalSuffix))
	j.serial++
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	if err := j.lock.Sync(); err != nil { // so that the file is found again
		f.Close()
		os.Remove(name)
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	was := j.current
	j.current = &segment{file: f, open: 1}
	j.live = append(j.live, j.current)
	if was != nil {
		j.drop(was)
	}
	return nil
}

// run syncs what was written, and begins a new segment when one is full, until ctx ends.
func (j *journal) run(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		j.mu.Lock()
		if j.current.size.Load() > j.full {
			if err := j.turn(); err != nil {
				j.current.fail(err)
			}
		}
		live := slices.Clone(j.live)
		j.mu.Unlock()
		for _, s := range live {
			s.sync()
		}
	}
}

// sync brings a segment to the disk. What a failed sync lost is not to be known, and another would say that all is well.
func (s *segment) sync() {
	if s.bad.Load() != nil || !s.dirty.Swap(false) {
		return
	}
	if err := s.file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		s.fail(fmt.Errorf("gateway: the stream journal: %w", err))
	}
}

func (s *segment) fail(err error) { s.bad.CompareAndSwap(nil, &err) }

// release lets go of a segment once.
func (j *journal) release(s *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.drop(s)
}

// drop is release with j.mu held. The last one to let go of a segment deletes it.
func (j *journal) drop(s *segment) {
	if s.open--; s.open > 0 {
		return
	}
	j.live = slices.DeleteFunc(j.live, func(l *segment) bool { return l == s })
	s.file.Close()
	os.Remove(s.file.Name())
}

// close ends the use of the directory. Segments with sessions that are not closed stay for the next boot.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.current == nil {
		return nil
	}
	j.drop(j.current)
	j.current = nil
	var errs []error
	for _, s := range j.live {
		errs = append(errs, s.file.Sync(), s.file.Close())
	}
	j.live = nil
	return errors.Join(append(errs, j.lock.Close())...)
}

// A track is one session's part of the journal. A nil track takes everything and keeps nothing.
type track struct {
	j       *journal
	seg     *segment
	session record.ID
	keyName string
	aead    cipher.AEAD
	n       uint32
	nonce   [12]byte
	frames  []byte // sealed, not yet written
	plain   []byte
	over    bool
}

// begin starts a session's track, which works in the buffers it is given.
func (j *journal) begin(session record.ID, keyName string, key []byte, frames, plain []byte) (*track, error) {
	aead, err := journalCipher(key)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.current.bad.Load() != nil {
		if err := j.turn(); err != nil {
			return nil, err
		}
	}
	j.current.open++
	return &track{j: j, seg: j.current, session: session, keyName: keyName, aead: aead, frames: frames[:0], plain: plain[:0]}, nil
}

func journalCipher(key []byte) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, nil, journalInfo, record.KeyBytes)
	if err != nil {
		return nil, fmt.Errorf("gateway: the stream journal's key: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("gateway: the stream journal's key: %w", err)
	}
	return cipher.NewGCM(block)
}

// head writes down the head of the answer.
func (t *track) head(status int, header []byte, first time.Time) error {
	if t == nil {
		return nil
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(header)), uint16(status))
	t.add(frameHead, first.UnixMicro(), append(b, header...))
	return t.flush()
}

// piece takes a piece of the body. It is not written before flush.
func (t *track) piece(b []byte, gap time.Duration) {
	if t != nil {
		t.add(framePiece, gap.Microseconds(), b)
	}
}

func (t *track) add(kind byte, micros int64, b []byte) {
	name := ""
	if t.n == 0 {
		name = t.keyName
	}
	p := append(t.plain[:0], kind)
	p = binary.BigEndian.AppendUint64(p, uint64(micros))
	p = append(p, b...)
	t.plain = p
	at := len(t.frames)
	f := binary.BigEndian.AppendUint32(t.frames, uint32(frameFixed-4+len(name)+len(p)+t.aead.Overhead()))
	f = append(f, t.session[:]...)
	f = binary.BigEndian.AppendUint32(f, t.n)
	f = append(f, byte(len(name)))
	f = append(f, name...)
	f = slices.Grow(f, len(p)+t.aead.Overhead()) // or what is authenticated would move away from under the sealing
	frameNonce(&t.nonce, t.n)
	t.frames = t.aead.Seal(f, t.nonce[:], p, f[at:])
	t.n++
}

// flush writes the pieces that were taken. When it returns they survive this process.
func (t *track) flush() error {
	if t == nil || len(t.frames) == 0 {
		return nil
	}
	f := t.frames
	t.frames = t.frames[:0]
	if err := t.seg.bad.Load(); err != nil {
		return *err
	}
	// One write to a file that is only appended to: whole or torn at the end, never mixed with another's.
	if _, err := t.seg.file.Write(f); err != nil {
		err = fmt.Errorf("gateway: the stream journal: %w", err)
		t.seg.fail(err) // it may end in half a frame
		return err
	}
	t.seg.size.Add(int64(len(f)))
	t.seg.dirty.Store(true)
	return nil
}

func frameNonce(nonce *[12]byte, n uint32) { binary.BigEndian.PutUint32(nonce[8:], n) }

// end lets go of the track, once: what it kept is in the log. If it is not, the segment stays for the next boot.
func (t *track) end(logged bool) {
	if t == nil || t.over {
		return
	}
	t.over = true
	if logged {
		t.j.release(t.seg)
	}
}

// A remnant is what the journal kept of one session.
type remnant struct {
	keyName string
	aead    cipher.AEAD // nil if the key does not open
	next    uint32      // the number of the frame that comes next
	status  int
	header  []byte
	first   time.Time
	body    []byte
	table   []byte // of pieces, in the form of record.FieldEvents
	pieces  int
	torn    bool // more came than could be read
}

// remnants are what earlier boots left.
type remnants struct {
	of      map[record.ID]*remnant
	damaged bool // a segment could not be read to its end: of any session there may have been more
}

// remnants reads what earlier boots left of the sessions that are wanted.
func (j *journal) remnants(ctx context.Context, wanted map[record.ID]bool) (remnants, error) {
	all := remnants{of: make(map[record.ID]*remnant)}
	for _, name := range j.old {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		f, err := os.Open(name)
		if err != nil {
			return all, fmt.Errorf("gateway: the stream journal: %w", err)
		}
		err = all.read(ctx, bufio.NewReaderSize(f, 256<<10), wanted, j.keys)
		f.Close()
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// read reads one segment. What does not open ends a session's remnant and no other's.
func (all *remnants) read(ctx context.Context, r io.Reader, wanted map[record.ID]bool, keys Keys) error {
	whole, err := readFrames(r, func(fr frame) {
		if !wanted[fr.session] {
			return
		}
		m := all.of[fr.session]
		if m == nil {
			m = &remnant{keyName: fr.keyName, table: []byte{'['}}
			all.of[fr.session] = m
			if key, err := keys.Open(ctx, fr.keyName); err == nil {
				m.aead, _ = journalCipher(key)
			}
		}
		m.take(fr)
	})
	all.damaged = all.damaged || !whole
	return err
}

// take adds a frame, if it is the next one and opens.
func (m *remnant) take(fr frame) {
	if m.torn {
		return
	}
	m.torn = true
	if m.aead == nil || fr.n != m.next {
		return
	}
	var nonce [12]byte
	frameNonce(&nonce, fr.n)
	plain, err := m.aead.Open(nil, nonce[:], fr.sealed, fr.aad)
	if err != nil || len(plain) < 9 {
		return
	}
	micros, b := int64(binary.BigEndian.Uint64(plain[1:])), plain[9:]
	switch {
	case plain[0] == frameHead && len(b) >= 2:
		m.status, m.header, m.first = int(binary.BigEndian.Uint16(b)), b[2:], time.UnixMicro(micros)
	case plain[0] == framePiece:
		m.body = append(m.body, b...)
		m.table = record.AppendEvent(m.table, record.Event{Bytes: len(b), After: time.Duration(micros) * time.Microsecond})
		m.pieces++
	}
	m.next++
	m.torn = false
}

type frame struct {
	session record.ID
	n       uint32
	keyName string
	aad     []byte
	sealed  []byte
}

// readFrames calls f for every frame until one cannot be read, and tells whether that was the end. A torn last one is
// where a crash was; it was not passed on.
func readFrames(r io.Reader, f func(frame)) (whole bool, err error) {
	var b bytes.Buffer
	for {
		b.Reset()
		if n, err := io.CopyN(&b, r, 4); err != nil {
			return n == 0 && err == io.EOF, endOfFrames(err)
		}
		n := int64(binary.BigEndian.Uint32(b.Bytes()))
		if n < frameFixed-4 || n > maxFrame {
			return false, nil
		}
		if _, err := io.CopyN(&b, r, n); err != nil {
			return false, endOfFrames(err)
		}
		whole := b.Bytes()
		fr := frame{session: record.ID(whole[4:20]), n: binary.BigEndian.Uint32(whole[20:24])}
		head := frameFixed + int(whole[24])
		if head > len(whole) {
			return false, nil
		}
		fr.keyName, fr.aad, fr.sealed = string(whole[frameFixed:head]), whole[:head], whole[head:]
		f(fr)
	}
}

func endOfFrames(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("gateway: the stream journal: %w", err)
}

// forget deletes what earlier boots left: their sessions are closed, and durable.
func (j *journal) forget() error {
	var errs []error
	for _, name := range j.old {
		errs = append(errs, os.Remove(name))
	}
	j.old = nil
	return errors.Join(errs...)
}
