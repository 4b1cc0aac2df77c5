package ring

import (
	"crypto/aes"
	"crypto/cipher"
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

	headerSize = 1024
	headerTwin = 4096 // offset of the second header
	slotsStart = 8192
	maxWrapped = headerSize - 30 - 4
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

// newSeal returns AES-256-GCM with random nonces, written before the ciphertext.
func newSeal(key [keySize]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // no length but 32 is possible
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	return aead
}

func slotCRC(id ID, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], crcTable), crcTable, b[:slotSize-4])
}

// appendSlot seals key for the place that id names.
func appendSlot(b []byte, id ID, key Key, seal cipher.AEAD) []byte {
	n := len(b)
	b = seal.Seal(b, nil, key.Bytes(), id[:])
	return binary.BigEndian.AppendUint32(b, slotCRC(id, b[n:n+slotSize-4]))
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
// forged CRC gets no further than here.
func openSlot(slot *[slotSize]byte, id ID, seal cipher.AEAD) (Key, error) {
	key := new([keySize]byte)
	if _, err := seal.Open(key[:0], nil, slot[:slotSize-4], id[:]); err != nil {
		return Key{}, fmt.Errorf("its seal does not open: %w", ErrCorrupt)
	}
	return newKey(key), nil
}

// erasedSlot returns what stands in the place of a key that was erased.
func erasedSlot(id ID) (slot [slotSize]byte) {
	binary.BigEndian.PutUint32(slot[slotSize-4:], slotCRC(id, slot[:]))
	return slot
}

// header is what a ring's file and each segment begin with, twice.
type header struct {
	kind    string // kindRing or kindSegment: the magic bytes, with the version of the format
	ring    [4]byte
	segment uint64
	wrapped []byte // 1 to maxWrapped bytes
}

const (
	kindRing    = "tallyring-dir/1\n"
	kindSegment = "tallyring-seg/1\n"
)

// aad returns the first 28 bytes of the header.
func (h header) aad() []byte {
	b := append([]byte(h.kind), h.ring[:]...)
	return binary.BigEndian.AppendUint64(b, h.segment)
}

func appendHeader(b []byte, h header) []byte {
	n := len(b)
	b = append(b, h.aad()...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.wrapped)))
	b = append(b, h.wrapped...)
	b = append(b, make([]byte, n+headerSize-4-len(b))...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[n:], crcTable))
}

// parseHeader is the inverse of appendHeader and accepts nothing else.
func parseHeader(b []byte) (header, error) {
	if len(b) != headerSize || crc32.Checksum(b[:headerSize-4], crcTable) != binary.BigEndian.Uint32(b[headerSize-4:]) {
		return header{}, ErrCorrupt
	}
	h := header{kind: string(b[:16]), ring: [4]byte(b[16:]), segment: binary.BigEndian.Uint64(b[20:])}
	n := int(binary.BigEndian.Uint16(b[28:]))
	if h.kind != kindRing && h.kind != kindSegment || (h.kind == kindRing) != (h.segment == 0) || n < 1 || n > maxWrapped {
		return header{}, ErrCorrupt
	}
	h.wrapped = append(h.wrapped, b[30:30+n]...)
	for _, c := range b[30+n : headerSize-4] {
		if c != 0 {
			return header{}, ErrCorrupt
		}
	}
	return h, nil
}

// appendHeaders appends both headers and the zeros between and after: slotsStart bytes.
func appendHeaders(b []byte, h header) []byte {
	n := len(b)
	b = appendHeader(b, h)
	b = append(b, make([]byte, n+headerTwin-len(b))...)
	b = appendHeader(b, h)
	return append(b, make([]byte, n+slotsStart-len(b))...)
}

// readHeader returns the first header of r that is whole, and whether it was the second. The
// error is ErrCorrupt, unless it was reading that failed.
func readHeader(r io.ReaderAt) (h header, second bool, err error) {
	var b [headerSize]byte
	for _, off := range []int64{0, headerTwin} {
		if _, err = r.ReadAt(b[:], off); err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrCorrupt
			}
			continue
		}
		if h, err = parseHeader(b[:]); err == nil {
			return h, off != 0, nil
		}
	}
	return header{}, false, err
}
