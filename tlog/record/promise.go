package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// MaxPromised is the largest number of entries in one promise.
const MaxPromised = 16

const promiseHeader = "tallystick promise v1\n"

// A Promise says of entries, before there is a proof, that they are in a log for good: in every tree of the log that is
// larger than an index, that leaf stands there. Whoever holds it and a proof of another leaf there holds evidence.
// FORMAT.md §6.8 has its bytes.
type Promise struct {
	Origin string     // of the log
	Boot   ID         // the boot that wrote the entries, and by whose key it is signed
	Time   time.Time  // when it was made: UTC, whole microseconds
	Leaves []Promised // 1 to MaxPromised, their indices rising
}

// A Promised is one entry that a promise is about.
type Promised struct {
	Index uint64
	Leaf  tlog.Hash // the entry's leaf hash
}

// A SignedPromise is a promise as it is handed out.
type SignedPromise struct {
	Text      []byte                      // what was signed
	Signature [ed25519.SignatureSize]byte // Ed25519 (RFC 8032)
}

// ErrPromise means that a promise was not signed by the key that it was checked with.
var ErrPromise = errors.New("record: the promise is not signed by that key")

// Append appends the text of the promise, what is signed.
func (p *Promise) Append(b []byte) ([]byte, error) {
	if err := tlog.CheckOrigin(p.Origin); err != nil {
		return nil, err
	}
	switch {
	case p.Boot.IsZero():
		return nil, errors.New("record: a promise lacks its boot")
	case len(p.Leaves) == 0 || len(p.Leaves) > MaxPromised:
		return nil, fmt.Errorf("record: a promise is about 1 to %d entries, not %d", MaxPromised, len(p.Leaves))
	}
	if err := checkTime(p.Time); err != nil {
		return nil, err
	}
	b = append(append(append(b, promiseHeader...), p.Origin...), '\n')
	b = append(p.Boot.append(b), '\n')
	b = append(p.Time.AppendFormat(b, timeFormat), '\n')
	for i, l := range p.Leaves {
		if l.Index > math.MaxInt64 || i > 0 && l.Index <= p.Leaves[i-1].Index {
			return nil, errors.New("record: the indices of a promise rise, and are below 2^63")
		}
		b = append(strconv.AppendUint(b, l.Index, 10), ' ')
		b, _ = l.Leaf.AppendText(b)
		b = append(b, '\n')
	}
	return b, nil
}

// ParsePromise is the exact inverse of Append. It says nothing of who signed.
func ParsePromise(text []byte) (Promise, error) {
	var p Promise
	rest, ok := strings.CutPrefix(string(text), promiseHeader)
	lines := strings.SplitN(rest, "\n", 4+MaxPromised)
	if !ok || len(lines) < 5 || len(lines) == 4+MaxPromised && lines[3+MaxPromised] != "" {
		return p, fmt.Errorf("record: not a promise of 1 to %d entries", MaxPromised)
	}
	p.Origin = lines[0]
	var err error
	if p.Boot, err = ParseID(lines[1]); err != nil {
		return p, fmt.Errorf("the boot of a promise: %w", err)
	}
	if p.Time, err = time.Parse(timeFormat, lines[2]); err != nil {
		return p, fmt.Errorf("record: the time of a promise: %.40q is not one such as 2026-01-02T15:04:05.000000Z", lines[2])
	}
	p.Time = p.Time.UTC()
	for _, l := range lines[3 : len(lines)-1] {
		digits, leaf, _ := strings.Cut(l, " ")
		var e Promised
		if e.Index, err = strconv.ParseUint(digits, 10, 63); err != nil {
			return p, fmt.Errorf("record: a promise about an entry whose index is %.40q", digits)
		}
		if e.Leaf, err = tlog.ParseHash(leaf); err != nil {
			return p, fmt.Errorf("the leaf of entry %d in a promise: %w", e.Index, err)
		}
		p.Leaves = append(p.Leaves, e)
	}
	// What was read is what would be written again, whatever was let through above.
	again, err := p.Append(nil)
	if err != nil {
		return p, err
	}
	if !bytes.Equal(again, text) {
		return p, errors.New("record: a promise that is not in its one form")
	}
	return p, nil
}

// Sign signs the promise with the private half of the key that the boot's start entry states. Whoever calls it answers
// for the entries being acknowledged by the log.
func (p *Promise) Sign(key ed25519.PrivateKey) (SignedPromise, error) {
	text, err := p.Append(nil)
	if err != nil {
		return SignedPromise{}, err
	}
	return SignedPromise{Text: text, Signature: [ed25519.SignatureSize]byte(ed25519.Sign(key, text))}, nil
}

// Open returns what was promised if key, the one that the boot's start entry states, signed it: ErrPromise if it did not.
// That the start entry is in the log, and that the promise is kept, is for the caller to see to. A key of small order is
// refused, for it verifies what nobody signed.
func (s *SignedPromise) Open(key [ed25519.PublicKeySize]byte) (Promise, error) {
	if smallOrder(key) {
		return Promise{}, fmt.Errorf("%w: it is of small order, and binds nobody", ErrPromise)
	}
	if !ed25519.Verify(key[:], s.Text, s.Signature[:]) {
		return Promise{}, ErrPromise
	}
	return ParsePromise(s.Text)
}

// smallOrder says whether an Ed25519 public key is one of the eight points whose order divides 8, in any encoding that a
// verifier takes: with one as the key there are signatures that hold for many messages, and no private half.
func smallOrder(key [ed25519.PublicKeySize]byte) bool {
	key[31] &= 0x7f // the sign of x
	return slices.Contains(smallOrders, hex.EncodeToString(key[:]))
}

// smallOrders are the y of these points: 0, 1, the two of order 8, -1, and 0 and 1 again as p and p+1.
var smallOrders = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}
