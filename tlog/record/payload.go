package record

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/tallystick/tallystick/tlog"
)

const (
	// MaxRecord is the largest record, in bytes before compression, that is sealed or opened.
	MaxRecord = 192 << 20
	// KeyBytes is the length of a data key.
	KeyBytes = 32
	// MaxKeyID is the longest name of a data key, in bytes.
	MaxKeyID = 64

	recordMagic  = "TSR1"
	payloadMagic = "TSP1"
	nonceBytes   = 12
	tagBytes     = 16
	// window is how far back the compressor looks, and maxWindow how far back a decoder lets one look.
	window    = 1 << 20
	maxWindow = 8 << 20
)

// Append appends the plain bytes of the record: "TSR1", the number of fields as one byte, then for each field the
// length of its name as one byte, the name, the salt, the length of the value as uint32 big-endian, and the value.
func (r Record) Append(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b = append(b, recordMagic...)
	b = append(b, byte(len(r)))
	for i := range r {
		f := &r[i]
		b = append(b, byte(len(f.Name)))
		b = append(b, f.Name...)
		b = append(b, f.Salt[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(f.Value)))
		b = append(b, f.Value...)
	}
	return b, nil
}

// size returns the number of bytes that Append will write.
func (r Record) size() int {
	n := len(recordMagic) + 1
	for i := range r {
		n += 1 + len(r[i].Name) + SaltBytes + 4 + len(r[i].Value)
	}
	return n
}

// ParseRecord is the exact inverse of Append. The values alias b.
func ParseRecord(b []byte) (Record, error) {
	rest, ok := bytes.CutPrefix(b, []byte(recordMagic))
	if !ok || len(rest) == 0 {
		return nil, errors.New("record: not a record")
	}
	count := int(rest[0])
	rest = rest[1:]
	r := make(Record, 0, min(count, MaxFields))
	for i := range count {
		var f Field
		if len(rest) < 1 || len(rest) < 1+int(rest[0])+SaltBytes+4 {
			return nil, fmt.Errorf("record: ends within field %d of %d", i, count)
		}
		n := int(rest[0])
		f.Name = string(rest[1 : 1+n])
		rest = rest[1+n:]
		rest = rest[copy(f.Salt[:], rest):]
		size := int64(binary.BigEndian.Uint32(rest))
		rest = rest[4:]
		if int64(len(rest)) < size {
			return nil, fmt.Errorf("record: ends within the value of field %d of %d", i, count)
		}
		f.Value = rest[:size:size]
		rest = rest[size:]
		r = append(r, f)
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("record: %d bytes after the last field", len(rest))
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// A Binding is what a payload is sealed for: the kind, session and root of its entry. A payload opens for no other.
type Binding struct {
	Kind    Kind
	Session ID        // zero where the entry has none
	Root    tlog.Hash // the root of the record tree
}

// append appends what is authenticated beside the header.
func (b Binding) append(a []byte) []byte {
	a = append(a, byte(len(b.Kind)))
	a = append(a, b.Kind...)
	a = append(a, b.Session[:]...)
	return append(a, b.Root[:]...)
}

// A Coder compresses and seals records, and opens them. Safe for concurrent use; make one and keep it.
type Coder struct {
	enc     *zstd.Encoder
	dec     *zstd.Decoder
	scratch sync.Pool // of *scratch
}

// A scratch is what sealing needs on the way to a payload. It is cleared after each use.
type scratch struct{ plain, packed []byte }

// maxScratch is the largest buffer, in bytes, that is kept for the next record; larger ones are rare.
const maxScratch = 1 << 20

func (c *Coder) keep(s *scratch) {
	clear(s.plain)
	clear(s.packed[:min(cap(s.packed), len(s.plain)+1024)]) // the encoder may have written more than it kept
	if cap(s.plain) <= maxScratch && cap(s.packed) <= maxScratch {
		c.scratch.Put(s)
	}
}

// NewCoder returns a coder that uses at most workers encoders, and as many decoders, at a time. As many as there are
// cores is best, and what zero means.
func NewCoder(workers int) (*Coder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(workers),
		zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderMaxMemory(MaxRecord),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Coder{enc: enc, dec: dec, scratch: sync.Pool{New: func() any { return new(scratch) }}}, nil
}

// Seal returns the record compressed with zstd and sealed with AES-256-GCM under a data key, for one entry only.
//
//	"TSP1" || len(keyID) as one byte || keyID || nonce[12] || ciphertext || tag[16]
//
// keyID names the key to whoever keeps keys; it stands in the clear and is authenticated, as is the binding, whose
// root must be the record's: a payload sealed for another root never opens. A key may seal up to 2^32 payloads:
// nonces are random.
func (c *Coder) Seal(r Record, key []byte, keyID string, b Binding) ([]byte, error) {
	if len(keyID) == 0 || len(keyID) > MaxKeyID {
		return nil, fmt.Errorf("record: the name of a data key has 1 to %d bytes", MaxKeyID)
	}
	n := r.size()
	if n > MaxRecord {
		return nil, fmt.Errorf("record: %d bytes are over the limit of %d: %w", n, MaxRecord, tlog.ErrTooLarge)
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	s := c.scratch.Get().(*scratch)
	defer c.keep(s)
	plain, err := r.Append(slices.Grow(s.plain[:0], n))
	if err != nil {
		return nil, err
	}
	s.plain = plain
	s.packed = c.pack(s.packed[:0], plain)

	header := len(payloadMagic) + 1 + len(keyID)
	out := make([]byte, 0, header+nonceBytes+len(s.packed)+tagBytes)
	out = append(out, payloadMagic...)
	out = append(out, byte(len(keyID)))
	out = append(out, keyID...)
	aad := b.append(append(make([]byte, 0, 256), out...))
	return gcm.Seal(out, nil, s.packed, aad), nil // prepends its random nonce
}

// Draft seals the record of an entry under a data key, as Seal does, and returns the entry's draft. Of e it fills in what is
// about record and payload; its kind and session must stand.
func (c *Coder) Draft(e Entry, r Record, key []byte, keyID string) (Draft, error) {
	e.Root, e.Fields = r.Root(), len(r)
	sealed, err := c.Seal(r, key, keyID, Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		return Draft{}, err
	}
	e.Payload, e.PayloadSize = Sum(sealed), int64(len(sealed))
	return Draft{Entry: e, Payload: sealed}, nil
}

// pack appends one zstd frame that states its size.
func (c *Coder) pack(b, plain []byte) []byte {
	if len(plain) >= 256 {
		return c.enc.EncodeAll(plain, b)
	}
	// The compressor states no size this small. There is nothing to gain either: a single segment, and one raw block.
	b = append(b, 0x28, 0xb5, 0x2f, 0xfd, 0x20, byte(len(plain)))
	b = append(b, byte(len(plain)<<3|1), byte(len(plain)>>5), 0)
	return append(b, plain...)
}

// KeyOf returns the name of the key that a payload was sealed under, as the payload itself has it: unproven until
// the payload opens.
func KeyOf(payload []byte) (string, error) {
	header, err := payloadHeader(payload)
	if err != nil {
		return "", err
	}
	return string(header[len(payloadMagic)+1:]), nil
}

func payloadHeader(payload []byte) ([]byte, error) {
	n := len(payloadMagic) + 1
	if len(payload) < n || string(payload[:len(payloadMagic)]) != payloadMagic {
		return nil, errors.New("record: not a payload")
	}
	n += int(payload[n-1])
	if n == len(payloadMagic)+1 || n > len(payloadMagic)+1+MaxKeyID || len(payload) < n+nonceBytes+tagBytes {
		return nil, errors.New("record: not a payload")
	}
	return payload[:n:n], nil
}

// ErrSealed means that a payload does not open: another key, another entry, or changed bytes. It does not say which.
var ErrSealed = errors.New("record: the payload does not open with this key for this entry")

// Open returns the record of a payload whose entry states the binding. The record's root is checked against it, so
// that what is returned is what the entry commits to. A payload that would unpack to more than MaxRecord is refused
// before it does. ErrSealed is the answer to another key, another entry or changed bytes; after that gate an error
// means that whoever sealed it did not follow the format.
func (c *Coder) Open(payload, key []byte, b Binding) (Record, error) {
	header, err := payloadHeader(payload)
	if err != nil {
		return nil, err
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	packed, err := gcm.Open(nil, nil, payload[len(header):], b.append(slices.Clone(header)))
	if err != nil {
		return nil, ErrSealed
	}
	plain, err := c.unpack(packed)
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord(plain)
	if err != nil {
		return nil, err
	}
	if r.Root() != b.Root {
		return nil, errors.New("record: the payload holds another record than its entry commits to")
	}
	return r, nil
}

// Read returns the record behind an entry: its payload, fetched by digest, opened with the key whose name it has. The
// key is cleared afterwards. An error of payload or key is returned as it is, wrapped once.
func (c *Coder) Read(ctx context.Context, e *Entry, payload func(context.Context, tlog.Hash) ([]byte, error), key func(context.Context, string) ([]byte, error)) (Record, error) {
	sealed, err := payload(ctx, e.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if Sum(sealed) != e.Payload {
		return nil, errors.New("record: the stored payload is not the one that the entry commits to; run `tally fsck`")
	}
	id, err := KeyOf(sealed)
	if err != nil {
		return nil, err
	}
	k, err := key(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("data key %s: %w", id, err)
	}
	defer clear(k)
	return c.Open(sealed, k, Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
}

// unpack decompresses one zstd frame that states its size, at most MaxRecord.
func (c *Coder) unpack(packed []byte) ([]byte, error) {
	if err := checkFrame(packed); err != nil {
		return nil, err
	}
	plain, err := c.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("record: unpack: %w", err)
	}
	return plain, nil
}

// checkFrame says whether packed is exactly one zstd frame (RFC 8878 §3.1.1) whose header states its size, without
// unpacking any of it: memory is given for what is stated, so that must be believable. No block unpacks to more than
// 128 KiB, so few blocks that state much are a lie.
func checkFrame(packed []byte) error {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return fmt.Errorf("record: unpack: %w", err)
	}
	switch {
	case h.Skippable || !h.HasFCS || packed[4]&3 != 0: // the bits that announce a dictionary's id, be it 0
		return errors.New("record: a payload is one zstd frame that states its size and needs no dictionary")
	case h.FrameContentSize > MaxRecord:
		return fmt.Errorf("record: a payload that unpacks to %d bytes is over the limit of %d", h.FrameContentSize, MaxRecord)
	}
	rest := packed[h.HeaderSize:]
	room := uint64(0)
	for last := false; !last; {
		if len(rest) < 3 {
			return errors.New("record: a payload's zstd frame ends early")
		}
		b := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		n := b >> 3
		last = b&1 == 1
		if b>>1&3 == 1 { // one byte, repeated
			n = 1
		}
		if rest = rest[3:]; len(rest) < n {
			return errors.New("record: a payload's zstd frame ends early")
		}
		rest = rest[n:]
		room += 128 << 10
	}
	sum := 0
	if h.HasCheckSum {
		sum = 4
	}
	if len(rest) != sum || h.FrameContentSize > room {
		return errors.New("record: a payload's zstd frame does not end where its bytes do, or states more than it has")
	}
	return nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	if len(key) != KeyBytes {
		return nil, fmt.Errorf("record: a data key has %d bytes, not %d", KeyBytes, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Sum returns the digest by which a payload is found: SHA-256 of its sealed bytes.
func Sum(payload []byte) tlog.Hash { return sha256.Sum256(payload) }
