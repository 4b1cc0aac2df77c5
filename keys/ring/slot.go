package ring

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

const (
	keySize  = 32
	slotSize = 64 // nonce, sealed key, tag, CRC
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// ID names one data key for ever. It is ring id[4] || segment id[8] || slot[4], and says
// nothing about the key. The zero ID names none. Its text form is those three parts, in hex,
// hex and decimal: 1f2e3d4c-0123456789abcdef-42.
type ID [16]byte

func newID(ring [4]byte, segment uint64, slot uint32) (id ID) {
	copy(id[:4], ring[:])
	binary.BigEndian.PutUint64(id[4:], segment)
	binary.BigEndian.PutUint32(id[12:], slot)
	return id
}

func (id ID) ring() [4]byte   { return [4]byte(id[:4]) }
func (id ID) segment() uint64 { return binary.BigEndian.Uint64(id[4:]) }
func (id ID) slot() uint32    { return binary.BigEndian.Uint32(id[12:]) }
func (id ID) offset() int64   { return slotsStart + slotSize*int64(id.slot()) }

// ParseID parses the text form of an ID, and nothing but what String writes.
func ParseID(s string) (ID, error) {
	var id ID
	bad := errors.New("keys/ring: a data key's ID looks like 1f2e3d4c-0123456789abcdef-42: eight and sixteen lower-case hex digits and a number")
	ring, rest, _ := strings.Cut(s, "-")
	segment, slot, _ := strings.Cut(rest, "-")
	if len(ring) != 8 || len(segment) != 16 || len(slot) > 10 {
		return ID{}, bad
	}
	n, err := strconv.ParseUint(slot, 10, 32)
	if err != nil {
		return ID{}, bad
	}
	if _, err := hex.Decode(id[:4], []byte(ring)); err != nil {
		return ID{}, bad
	}
	if _, err := hex.Decode(id[4:12], []byte(segment)); err != nil {
		return ID{}, bad
	}
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	if id.String() != s {
		return ID{}, bad
	}
	return id, nil
}

// String returns the text form.
func (id ID) String() string {
	return fmt.Sprintf("%x-%x-%d", id[:4], id[4:12], id.slot())
}

// MarshalText returns the text form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Key is a data key of 256 bits. Printed, it is the word "[data key]". Copies of a Key are
// the same key.
type Key struct {
	// A closure, because fmt reaches into unexported fields without asking for
	// methods: it follows a slice, and a pointer too when the verb does not fit.
	bytes func() []byte
}

func newKey(b *[keySize]byte) Key { return Key{func() []byte { return b[:] }} }

// Bytes returns the 32 bytes of the key themselves, nil for the zero Key. The caller must
// not change them; who is done with the key for good may clear them, for every copy.
func (k Key) Bytes() []byte {
	if k.bytes == nil {
		return nil
	}
	return k.bytes()
}

const redacted = "[data key]"

// String does not show the key.
func (k Key) String() string { return redacted }

// GoString does not show the key.
func (k Key) GoString() string { return redacted }

// Format does not show the key, whatever the verb.
func (k Key) Format(f fmt.State, verb rune) { io.WriteString(f, redacted) }

// MarshalText does not show the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func slotCRC(id ID, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], crcTable), crcTable, b[:slotSize-4])
}

// appendSlot seals key for the place that id names. The only error is errDropped.
func appendSlot(b []byte, id ID, key []byte, s *seal) ([]byte, error) {
	n := len(b)
	b, err := s.seal(b, key, id[:])
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint32(b, slotCRC(id, b[n:n+slotSize-4])), nil
}

// checkSlot says whether slot is whole and holds a sealed key: nil, ErrErased, ErrUnknown if
// nothing was ever written there, or ErrCorrupt.
func checkSlot(slot *[slotSize]byte, id ID) error {
	if *slot == [slotSize]byte{} {
		return ErrUnknown
	}
	if binary.BigEndian.Uint32(slot[slotSize-4:]) != slotCRC(id, slot[:]) {
		return ErrCorrupt
	}
	if [slotSize - 4]byte(slot[:]) == [slotSize - 4]byte{} {
		return ErrErased
	}
	return nil
}

// openSlot returns the key in a slot that checkSlot passed. The seal is what decides: a
// forged CRC gets no further than here. The errors are ErrCorrupt and errDropped.
func openSlot(slot *[slotSize]byte, id ID, s *seal) (*[keySize]byte, error) {
	key := new([keySize]byte)
	switch _, err := s.open(key[:0], slot[:slotSize-4], id[:]); {
	case errors.Is(err, errDropped):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("its seal does not open: %w", ErrCorrupt)
	}
	return key, nil
}

// erasedSlot returns what stands in the place of a key that was erased.
func erasedSlot(id ID) (slot [slotSize]byte) {
	binary.BigEndian.PutUint32(slot[slotSize-4:], slotCRC(id, slot[:]))
	return slot
}
