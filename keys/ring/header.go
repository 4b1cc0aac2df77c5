package ring

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

const (
	headerSize = 1024
	headerTwin = 4096 // offset of the second header
	slotsStart = 8192

	maxWrapped  = headerSize - 98 - 4
	maxWrapped1 = headerSize - 30 - 4
)

// header is what a ring's file and each segment begin with, twice.
type header struct {
	kind    string // the magic bytes, with the version of the format
	ring    [4]byte
	segment uint64 // zero in the ring's file
	epoch   uint64 // from 1; zero in the first version, which has none
	sealed  []byte // the segment key, by the epoch key; nil in the first version
	wrapped []byte // the epoch key, by the tenant key; in the first version the segment key
}

const (
	kindRing     = "tallyring-dir/2\n"
	kindSegment  = "tallyring-seg/2\n"
	kindEpoch    = "tallyring-epo/2\n" // begins the associated data of an epoch key
	kindRing1    = "tallyring-dir/1\n"
	kindSegment1 = "tallyring-seg/1\n"
)

// ofRing says whether h is of a ring's file; else it is of a segment.
func (h header) ofRing() bool { return h.kind == kindRing || h.kind == kindRing1 }

// aad returns what the header has before its keys: what is sealed is bound to it, and in the first version what is wrapped.
func (h header) aad() []byte {
	b := append([]byte(h.kind), h.ring[:]...)
	b = binary.BigEndian.AppendUint64(b, h.segment)
	if h.epoch == 0 {
		return b
	}
	return binary.BigEndian.AppendUint64(b, h.epoch)
}

// epochAAD returns what a wrapped epoch key is bound to.
func (h header) epochAAD() []byte {
	b := append([]byte(kindEpoch), h.ring[:]...)
	return binary.BigEndian.AppendUint64(b, h.epoch)
}

// epochName tells the epoch of h from all others, also from one of the same number that a ring had in another life.
func (h header) epochName() string { return string(h.epochAAD()) + string(h.wrapped) }

func appendHeader(b []byte, h header) []byte {
	n := len(b)
	b = append(b, h.aad()...)
	b = append(b, h.sealed...)
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
	rest, most := b[28:headerSize-4], maxWrapped1
	switch h.kind {
	case kindRing1, kindSegment1:
	case kindRing, kindSegment:
		if h.epoch = binary.BigEndian.Uint64(rest); h.epoch == 0 {
			return header{}, ErrCorrupt
		}
		h.sealed = append(h.sealed, rest[8:8+sealedSize]...)
		rest, most = rest[8+sealedSize:], maxWrapped
	default:
		return header{}, ErrCorrupt
	}
	n := int(binary.BigEndian.Uint16(rest))
	if h.ofRing() != (h.segment == 0) || n < 1 || n > most {
		return header{}, ErrCorrupt
	}
	h.wrapped = append(h.wrapped, rest[2:2+n]...)
	for _, c := range rest[2+n:] {
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
