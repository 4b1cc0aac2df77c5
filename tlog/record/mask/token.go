package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"hash"
)

// TokenBytes is the length of the part of a token that stands for the value: 100 bits in base 32, lower case.
const TokenBytes = 20

// MinKey is the shortest key, in bytes, that tokens are made with.
const MinKey = 16

const (
	begin = "⟦"
	end   = "⟧"
	dots  = ":…"
)

// base32 of RFC 4648, in lower case: no digit that a number begins with is in it but 2 to 7.
var alphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// A maker makes tokens with one key.
type maker struct {
	mac hash.Hash
	sum [sha256.Size]byte
	out [base32Len]byte
}

const base32Len = (sha256.Size*8 + 4) / 5

func newMaker(key []byte) (*maker, error) {
	if len(key) < MinKey {
		return nil, fmt.Errorf("a key of %d bytes; %d is the least", len(key), MinKey)
	}
	return &maker{mac: hmac.New(sha256.New, key)}, nil
}

// append appends the mask of a value: ⟦KIND:…⟧ with the first TokenBytes characters of
// base32(HMAC-SHA-256(key, kind || 0x00 || value)).
func (t *maker) append(dst []byte, k Kind, value []byte) []byte {
	t.mac.Reset()
	t.mac.Write([]byte(k))
	t.mac.Write([]byte{0})
	t.mac.Write(value)
	alphabet.Encode(t.out[:], t.mac.Sum(t.sum[:0]))
	dst = append(append(append(dst, begin...), k...), ':')
	return append(append(dst, t.out[:TokenBytes]...), end...)
}

// appendDropped appends the mask that says nothing of the value: ⟦KIND⟧.
func appendDropped(dst []byte, k Kind) []byte {
	return append(append(append(dst, begin...), k...), end...)
}

// appendLast4 appends a mask that ends with the value's last four characters, ⟦KIND:…1111⟧, or, of a value of fewer than eight,
// the mask that says nothing.
func appendLast4(dst []byte, k Kind, value []byte) []byte {
	if len(value) < 8 {
		return appendDropped(dst, k)
	}
	for _, c := range value[len(value)-4:] {
		if !isAlnum(c) {
			return appendDropped(dst, k)
		}
	}
	dst = append(append(append(dst, begin...), k...), dots...)
	return append(append(dst, value[len(value)-4:]...), end...)
}

// maxKind is the longest name of a kind.
const maxKind = 32

func checkKind(k Kind) error {
	if len(k) < 2 || len(k) > maxKind || k[0] < 'A' || k[0] > 'Z' {
		return fmt.Errorf("mask: %.40q is no name of a kind: 2 to %d of A-Z and _, a letter first", k, maxKind)
	}
	for i := range len(k) {
		if c := k[i]; !('A' <= c && c <= 'Z' || c == '_') {
			return fmt.Errorf("mask: the kind %q has a character outside A-Z and _", k)
		}
	}
	return nil
}

// maskLen returns the length of the mask that b begins with, or 0. What has the form of a mask is never masked again, so the form has
// no room for a number.
func maskLen(b []byte) int {
	i := len(begin)
	if len(b) < i || string(b[:i]) != begin {
		return 0
	}
	from := i
	for i < len(b) && ('A' <= b[i] && b[i] <= 'Z' || i > from && b[i] == '_') {
		i++
	}
	if i-from < 2 || i-from > maxKind {
		return 0
	}
	switch {
	case len(b) >= i+len(dots) && string(b[i:i+len(dots)]) == dots:
		if i += len(dots); len(b) < i+4 {
			return 0
		}
		for _, c := range b[i : i+4] {
			if !isAlnum(c) {
				return 0
			}
		}
		i += 4
	case i < len(b) && b[i] == ':':
		if i++; len(b) < i+TokenBytes {
			return 0
		}
		for _, c := range b[i : i+TokenBytes] {
			if !('a' <= c && c <= 'z' || '2' <= c && c <= '7') {
				return 0
			}
		}
		i += TokenBytes
	}
	if len(b) < i+len(end) || string(b[i:i+len(end)]) != end {
		return 0
	}
	return i + len(end)
}
