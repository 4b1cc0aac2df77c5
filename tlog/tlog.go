// Package tlog holds the nouns of a transparency log and the mathematics between them: leaves, tiles,
// checkpoints, proofs, policies, and the few interfaces by which rooms that know none of each other meet.
//
// It stores nothing, signs nothing by itself and imports no other room. What is always true here:
//
//   - a hash is a tree hash of RFC 6962 §2.1: SHA-256(0x00 || entry) for a leaf, SHA-256(0x01 || left || right) above;
//   - bytes that were parsed are the bytes that would be written again: every parser refuses what its writer would not write;
//   - nothing a [Reader] returns is believed until it has been hashed up to the root of a signed checkpoint.
//
// The formats are those of C2SP: signed-note, tlog-checkpoint, tlog-tiles, tlog-proof, tlog-cosignature, tlog-policy.
package tlog

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// MaxEntry is the largest entry, in bytes, that an engine of ours appends. The tile format would take 65,535;
// an entry is a statement of a few hundred bytes, and one that nears this limit carries something it should not.
const MaxEntry = 4096

// MaxPayload is the largest sealed payload, in bytes, that an engine of ours appends beside an entry.
const MaxPayload = 256 << 20

// MaxTail is the most entries, and MaxTailBytes the most bytes of them, that one call of Tail returns.
const (
	MaxTail      = 4096
	MaxTailBytes = 1 << 20
)

// What an engine answers, named after the caller's next move.
var (
	ErrBusy       = errors.New("tlog: too many leaves in flight; slow down and try again")                            // nothing was appended
	ErrFull       = errors.New("tlog: the log's disk is nearly full; free space and try again")                       // nothing was appended
	ErrTooLarge   = errors.New("tlog: an entry or payload is over the limit; send less")                              // nothing was appended
	ErrHalted     = errors.New("tlog: the outcome of a write is unknown and sequencing has stopped; restart the log") // may or may not be durable
	ErrQuarantine = errors.New("tlog: the log is in quarantine: it serves reads and signs nothing")                   // see the evidence it wrote
	ErrNotFound   = errors.New("tlog: not found")
	ErrClosed     = errors.New("tlog: the log is closed")
)

// A Leaf is what is appended: the entry that is hashed into the tree, and the private half that is only stored.
type Leaf struct {
	Entry   []byte // 1 to MaxEntry bytes, public by construction
	Payload []byte // sealed; nil for none; found again by the SHA-256 of these bytes
}

// An Appender makes leaves part of a log.
type Appender interface {
	// Append returns once every leaf is durable and its index fixed for ever. The leaves of one call lie side by
	// side in their order, all of them or none. The slices must not change until Append returns.
	// ErrBusy, ErrFull and ErrTooLarge mean that nothing was appended; any other error leaves the outcome unknown.
	// Safe for concurrent use.
	Append(ctx context.Context, leaves ...Leaf) (indices []uint64, err error)
}

// A Reader gives what a log publishes. Nothing of it is to be trusted until checked against a checkpoint.
type Reader interface {
	// Checkpoint returns the newest published checkpoint, a signed note, or ErrNotFound before the first.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Tile returns the tile's bytes, or ErrNotFound. A log keeps a partial tile available, by itself or as the
	// head of a wider one, for every size it published.
	Tile(ctx context.Context, t Tile) ([]byte, error)
}

// A Tailer shows what is durable before it is published: to those who write to the log, so that they know what became of
// their own and of each other's entries. It is not the log's word yet, for no checkpoint covers it and no proof leads to
// it. So it is never served to everybody, and nobody shows it to others as what the log says.
type Tailer interface {
	// Tail returns the entries that are durable from the index from on, published or not, in their order: all of them, or as
	// many as MaxTail and MaxTailBytes let one call return, which is at least one. Each keeps its index for ever. Where there
	// are none it waits for some, at most as long as wait says, and then returns none; it may return none earlier than that.
	// From a log in quarantine the answer is ErrQuarantine, whatever is there. The caller may keep what is returned.
	// Safe for concurrent use.
	Tail(ctx context.Context, from uint64, wait time.Duration) ([][]byte, error)
}

// A History is a Reader that also kept earlier checkpoints.
type History interface {
	// Sizes returns the tree sizes, ascending, of at most max kept checkpoints larger than after. All of them stay, but for
	// the newest, which a log that publishes often may keep only until the next.
	Sizes(ctx context.Context, after uint64, max int) ([]uint64, error)
	// CheckpointAt returns the kept checkpoint of exactly that size, or ErrNotFound.
	CheckpointAt(ctx context.Context, size uint64) ([]byte, error)
}

// Payloads are the private halves, found by the SHA-256 of their sealed bytes.
type Payloads interface {
	// Payload returns the sealed bytes, or ErrNotFound where there never were any or they were discarded.
	Payload(ctx context.Context, sum Hash) ([]byte, error)
	// Discard makes the payload unreadable for ever. Discarding twice is no error.
	Discard(ctx context.Context, sum Hash) error
}

// A Log is a whole engine.
type Log interface {
	Appender
	Reader
	Tailer
	Payloads
	// Run sequences, anchors, signs and publishes until ctx ends, and then publishes what is still unpublished.
	// Append blocks while Run has not been called.
	Run(ctx context.Context) error
}

// Latest is the anchor: where the newest checkpoint of each log is remembered by compare-and-swap, outside the
// log's own disk. What Swap accepted is never forgotten.
type Latest interface {
	// Load returns what is remembered for origin, or nil when nothing is.
	Load(ctx context.Context, origin string) ([]byte, error)
	// Swap replaces old (nil for nothing) by new. ErrConflict means that something else is remembered: load again.
	// Any other error leaves the outcome unknown.
	Swap(ctx context.Context, origin string, old, new []byte) error
}

// ErrConflict says that the anchor remembers something else than the caller believed.
var ErrConflict = errors.New("tlog: the anchor remembers another checkpoint; load it again")

// A Cosigner has checkpoints cosigned by those outside.
type Cosigner interface {
	// Cosign returns signed, a checkpoint with the log's own signatures, and behind them the cosignatures that came. prove
	// proves that the checkpoint's tree continues the tree of the first old entries.
	// A *QuorumError comes with the note and says that too few cosigned: nothing is wrong, ask again later.
	// A *ForkError says that a witness knows a tree of this log that this one does not continue: show it to someone.
	Cosign(ctx context.Context, signed []byte, prove func(ctx context.Context, old uint64) (Proof, error)) ([]byte, error)
}

// A ForkError is two statements of one log that no history can have. The error is the evidence: show both.
type ForkError struct {
	A, B   []byte // checkpoints, signed or not, as they were found
	Reason string
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("tlog: two checkpoints that no history can have: %s", e.Reason)
}

// Hash is a SHA-256 value. Its text form is standard base64 with padding, 44 characters.
type Hash [sha256.Size]byte

// String returns the text form.
func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }

// AppendText appends the text form.
func (h Hash) AppendText(b []byte) ([]byte, error) {
	return base64.StdEncoding.AppendEncode(b, h[:]), nil
}

// MarshalText returns the text form.
func (h Hash) MarshalText() ([]byte, error) { return h.AppendText(nil) }

// UnmarshalText accepts exactly what MarshalText writes.
func (h *Hash) UnmarshalText(b []byte) error {
	p, err := ParseHash(string(b))
	if err == nil {
		*h = p
	}
	return err
}

// ParseHash reads the text form and nothing else: no other alphabet, no line breaks, no loose trailing bits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 44 {
		return h, fmt.Errorf("tlog: a hash is 44 characters of base64, not %d", len(s))
	}
	// 44 characters make 33 bytes, or 32 when the last one is the one padding character that they may end in.
	var b [33]byte
	n, err := base64.StdEncoding.Strict().Decode(b[:], []byte(s))
	if err != nil || n != len(h) {
		return h, errors.New("tlog: a hash is not standard base64 of 32 bytes")
	}
	copy(h[:], b[:])
	return h, nil
}

// EmptyRoot is the root of the tree without leaves: SHA-256 of nothing.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// HashLeaf returns SHA-256(0x00 || entry). It does not allocate for entries of up to MaxEntry bytes, and clears no
// more of the stack than the usual entry of a few hundred bytes needs.
func HashLeaf(entry []byte) Hash {
	switch {
	case len(entry) < 1024:
		var buf [1024]byte
		return sha256.Sum256(buf[:1+copy(buf[1:], entry)])
	case len(entry) <= MaxEntry:
		var buf [1 + MaxEntry]byte
		return sha256.Sum256(buf[:1+copy(buf[1:], entry)])
	}
	d := sha256.New()
	d.Write([]byte{0})
	d.Write(entry)
	return Hash(d.Sum(nil))
}

// HashChildren returns SHA-256(0x01 || left || right). It does not allocate.
func HashChildren(left, right Hash) Hash {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+sha256.Size:], right[:])
	return sha256.Sum256(buf[:])
}
