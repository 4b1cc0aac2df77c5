package gateway

import (
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

	"github.com/tallystick/tallystick/tlog/record"
)

// A journal keeps, for as long as it is not in the log, what the models' streams have brought: a piece is written here
// before it is passed on, so that after a crash the record of an interrupted session holds at least what its caller saw.
// Pieces are sealed under a key derived from the session's data key: no plaintext touches the disk.
//
// The journal is a row of segment files, written only at their end. A segment is deleted when no session in it is open
// and it is not the one being written. Pieces reach the kernel before they are passed on, which survives the death of
// the process, and the disk within syncEvery, which survives the death of the machine.
//
// A frame is: its length (uint32, of what follows), the session (16 bytes), its number within the session (uint32), the
// length of the key's name (one byte; the name stands in a session's first frame only) and the name, and then the sealed
// bytes: AES-256-GCM under HKDF-SHA256(data key, info "tallystick journal v1"), nonce the number, everything before as
// additional data. Sealed are one byte of kind, eight bytes of microseconds, and the piece itself.
type journal struct {
	dir  string
	boot record.ID
	keys Keys

	mu      sync.Mutex
	current *segment
	live    []*segment // with open sessions, the current one included
	serial  int
	broken  atomic.Pointer[error]

	old []string // segments of earlier boots, until their sessions are closed
}

// A segment is one file of the journal.
type segment struct {
	file  *os.File
	size  atomic.Int64
	dirty atomic.Bool
	open  int // sessions with pieces here, and one for being current; under journal.mu
}

const (
	segmentBytes  = 64 << 20
	syncEvery     = 50 * time.Millisecond
	journalInfo   = "tallystick journal v1"
	journalSuffix = ".journal"
	frameFixed    = 4 + 16 + 4 + 1
	maxFrame      = 80 << 20

	frameHead  = 'h' // status as uint16, then the recorded header; microseconds are the time the head came, since 1970
	framePiece = 'p' // a piece of the body; microseconds are since the piece before
)

func newJournal(dir string, boot record.ID, keys Keys) *journal {
	return &journal{dir: dir, boot: boot, keys: keys}
}

// open makes the first segment and notes those that earlier boots left.
func (j *journal) open() error {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("gateway: the stream journal: %w", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), journalSuffix) {
			j.old = append(j.old, filepath.Join(j.dir, f.Name()))
		}
	}
	slices.Sort(j.old)
	_, err = j.make()
	return err
}

// make begins the segment that new sessions are written to.
func (j *journal) make() (*segment, error) {
	name := filepath.Join(j.dir, fmt.Sprintf("%s-%06d%s", j.boot, j.serial, journalSuffix))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("gateway: the stream journal: %w", err)
	}
	j.serial++
	s := &segment{file: f, open: 1}
	j.mu.Lock()
	j.current = s
	j.live = append(j.live, s)
	j.mu.Unlock()
	return s, nil
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
		live, current := slices.Clone(j.live), j.current
		j.mu.Unlock()
		for _, s := range live {
			if !s.dirty.Swap(false) {
				continue
			}
			if err := s.file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
				// What a failed sync lost is not to be known, and another would say that all is well.
				j.fail(fmt.Errorf("gateway: the stream journal: %w", err))
				return
			}
		}
		if current.size.Load() > segmentBytes {
			if _, err := j.make(); err != nil {
				j.fail(err)
				return
			}
			j.release(current)
		}
	}
}

func (j *journal) fail(err error) { j.broken.CompareAndSwap(nil, &err) }

// release lets go of a segment once; the last one to do so deletes it.
func (j *journal) release(s *segment) {
	j.mu.Lock()
	s.open--
	last := s.open == 0
	if last {
		j.live = slices.DeleteFunc(j.live, func(l *segment) bool { return l == s })
	}
	j.mu.Unlock()
	if last {
		s.file.Close()
		os.Remove(s.file.Name())
	}
}

// close removes the journal's own segment if nothing in it is needed any more.
func (j *journal) close() error {
	j.mu.Lock()
	s := j.current
	j.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.file.Sync()
	j.release(s)
	return err
}

// A track is one session's part of the journal. A nil track takes everything and keeps nothing.
type track struct {
	j       *journal
	seg     *segment
	session record.ID
	keyName string
	aead    cipher.AEAD
	n       uint32
	frame   []byte
	plain   []byte
}

// begin starts a session's track.
func (j *journal) begin(session record.ID, keyName string, key []byte) (*track, error) {
	aead, err := journalCipher(key)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.current.open++
	return &track{j: j, seg: j.current, session: session, keyName: keyName, aead: aead}, nil
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
func (t *track) head(status int, header []byte, sent, first time.Time) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(header)), uint16(status))
	return t.write(frameHead, first.UnixMicro(), append(b, header...))
}

// piece writes down a piece of the body. When it returns the piece survives this process.
func (t *track) piece(b []byte, gap time.Duration) error {
	return t.write(framePiece, gap.Microseconds(), b)
}

func (t *track) write(kind byte, micros int64, b []byte) error {
	if t == nil {
		return nil
	}
	if err := t.j.broken.Load(); err != nil {
		return *err
	}
	name := ""
	if t.n == 0 {
		name = t.keyName
	}
	f := append(t.frame[:0], 0, 0, 0, 0)
	f = append(f, t.session[:]...)
	f = binary.BigEndian.AppendUint32(f, t.n)
	f = append(f, byte(len(name)))
	f = append(f, name...)
	binary.BigEndian.PutUint32(f, uint32(len(f)-4+9+len(b)+t.aead.Overhead()))
	p := append(t.plain[:0], kind)
	p = binary.BigEndian.AppendUint64(p, uint64(micros))
	p = append(p, b...)
	f = t.aead.Seal(f, frameNonce(t.n), p, f)
	t.frame, t.plain = f, p
	t.n++
	// One write to a file that is only appended to: whole or torn at the end, never mixed with another's.
	if _, err := t.seg.file.Write(f); err != nil {
		err = fmt.Errorf("gateway: the stream journal: %w", err)
		t.j.fail(err)
		return err
	}
	t.seg.size.Add(int64(len(f)))
	t.seg.dirty.Store(true)
	return nil
}

func frameNonce(n uint32) []byte {
	var nonce [12]byte
	binary.BigEndian.PutUint32(nonce[8:], n)
	return nonce[:]
}

// end lets go of the track: what it kept is in the log. If it is not, the segment stays for the next boot.
func (t *track) end(logged bool) {
	if t == nil || !logged {
		return
	}
	clear(t.plain[:cap(t.plain)])
	t.j.release(t.seg)
}

// A remnant is what the journal kept of one session.
type remnant struct {
	keyName string
	status  int
	header  []byte
	first   time.Time
	body    []byte
	table   []byte // of pieces, in the form of record.FieldEvents
	pieces  int
	torn    bool // more came than could be read
}

// remnants reads what earlier boots left of the sessions that are wanted. What is torn or does not open ends a session's
// remnant and no other's.
func (j *journal) remnants(ctx context.Context, wanted map[record.ID]bool) (map[record.ID]*remnant, error) {
	found := make(map[record.ID]*remnant)
	ciphers := make(map[record.ID]cipher.AEAD)
	next := make(map[record.ID]uint32)
	for _, name := range j.old {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("gateway: the stream journal: %w", err)
		}
		err = readFrames(f, func(fr frame) error {
			if !wanted[fr.session] {
				return nil
			}
			m := found[fr.session]
			if m == nil {
				m = &remnant{keyName: fr.keyName, table: []byte{'['}}
				found[fr.session] = m
				if key, err := j.keys.Open(ctx, fr.keyName); err == nil {
					if ciphers[fr.session], err = journalCipher(key); err != nil {
						return err
					}
				}
			}
			a := ciphers[fr.session]
			if a == nil || m.torn || fr.n != next[fr.session] {
				m.torn = true
				return nil
			}
			plain, err := a.Open(nil, frameNonce(fr.n), fr.sealed, fr.aad)
			if err != nil || len(plain) < 9 {
				m.torn = true
				return nil
			}
			next[fr.session]++
			m.add(plain[0], int64(binary.BigEndian.Uint64(plain[1:])), plain[9:])
			return nil
		})
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	for _, m := range found {
		m.table = append(m.table, ']')
	}
	return found, nil
}

func (m *remnant) add(kind byte, micros int64, b []byte) {
	switch {
	case kind == frameHead && len(b) >= 2:
		m.status, m.header, m.first = int(binary.BigEndian.Uint16(b)), b[2:], time.UnixMicro(micros)
	case kind == framePiece:
		m.body = append(m.body, b...)
		m.table = appendEvent(m.table, len(b), time.Duration(micros)*time.Microsecond)
		m.pieces++
	}
}

type frame struct {
	session record.ID
	n       uint32
	keyName string
	aad     []byte
	sealed  []byte
}

// readFrames calls f for every whole frame. A torn last one is where the crash was, and the end.
func readFrames(r io.Reader, f func(frame) error) error {
	for {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return endOfFrames(err)
		}
		n := binary.BigEndian.Uint32(length[:])
		if n < frameFixed-4 || n > maxFrame {
			return nil
		}
		b := make([]byte, 4+n)
		copy(b, length[:])
		if _, err := io.ReadFull(r, b[4:]); err != nil {
			return endOfFrames(err)
		}
		fr := frame{session: record.ID(b[4:20]), n: binary.BigEndian.Uint32(b[20:24])}
		head := frameFixed + int(b[24])
		if head > len(b) {
			return nil
		}
		fr.keyName, fr.aad, fr.sealed = string(b[frameFixed:head]), b[:head], b[head:]
		if err := f(fr); err != nil {
			return err
		}
	}
}

func endOfFrames(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
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
