package tlog

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"
)

// MaxCheckpoint is the largest signed checkpoint, in bytes, that is read. Witnesses seen in the field stop at 10 KiB;
// the rest is room for cosignatures.
const MaxCheckpoint = 64 << 10

// A Checkpoint states that the first Size entries of the log Origin have this root (c2sp.org/tlog-checkpoint).
type Checkpoint struct {
	Origin string // the log's name; also the name of its key
	Size   uint64 // at most 2^63-1
	Root   Hash
}

// Text returns the note text: origin, size and root, a line each. We write no extension lines: some witnesses refuse
// them and ML-DSA cosignatures do not cover them.
func (c Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// MaxOrigin is the longest origin, in bytes: as much as an ML-DSA-44 cosignature can name.
const MaxOrigin = 255

// CheckOrigin says whether origin can name a log: it is a line of a note and the name of a key, so it has none of the
// spaces and pluses that signed-note keeps out of names, and no control characters.
func CheckOrigin(origin string) error {
	if origin == "" || len(origin) > MaxOrigin {
		return fmt.Errorf("tlog: an origin has 1 to %d bytes, not %d", MaxOrigin, len(origin))
	}
	if !validKeyName(origin) || strings.ContainsFunc(origin, unicode.IsControl) {
		return fmt.Errorf("tlog: the origin %q has a space, a plus sign or a control character; use a schema-less URL such as log.example/2026", origin)
	}
	return nil
}

// ParseCheckpoint reads the text of a checkpoint note. Extension lines are allowed and ignored; a size of zero must
// have the root of the empty tree.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	var c Checkpoint
	if len(text) > MaxCheckpoint {
		return c, fmt.Errorf("tlog: a checkpoint of %d bytes is over the limit of %d", len(text), MaxCheckpoint)
	}
	if err := checkNoteText(string(text)); err != nil {
		return c, err
	}
	s, ok := strings.CutSuffix(string(text), "\n")
	if !ok {
		return c, errors.New("tlog: a checkpoint does not end in a line break")
	}
	lines := strings.Split(s, "\n")
	if len(lines) < 3 {
		return c, fmt.Errorf("tlog: a checkpoint has %d lines and needs 3: origin, size, root", len(lines))
	}
	for i, l := range lines {
		if l == "" {
			return c, fmt.Errorf("tlog: line %d of a checkpoint is empty", i+1)
		}
	}
	if err := CheckOrigin(lines[0]); err != nil {
		return c, err
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] || size > math.MaxInt64 {
		return c, fmt.Errorf("tlog: the checkpoint's size %.40q is not a decimal number below 2^63 without leading zeros", lines[1])
	}
	root, err := ParseHash(lines[2])
	if err != nil {
		return c, fmt.Errorf("the checkpoint's root: %w", err)
	}
	if size == 0 && root != EmptyRoot() {
		return c, errors.New("tlog: a checkpoint of size 0 has another root than the empty tree")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// UnverifiedCheckpoint reads a signed checkpoint without a key: what it says, and not whether anyone said it. An
// error means that the bytes are no signed checkpoint at all.
func UnverifiedCheckpoint(signed []byte) (Checkpoint, error) {
	n, err := parseNote(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	return ParseCheckpoint([]byte(n.text))
}

// OpenCheckpoint reads a signed checkpoint and verifies it with the log's own keys: at least one of them signed, none
// that is known failed, and the origin is the name of the keys. Signatures by unknown keys are ignored. The note holds
// the signatures that were verified, one a key, and those of unknown keys.
//
// A signature that failed is a [note.InvalidSignatureError], the absence of any by these keys a
// [note.UnverifiedNoteError]; other errors say that the bytes are no checkpoint of this log.
func OpenCheckpoint(signed []byte, keys ...note.Verifier) (Checkpoint, *note.Note, error) {
	if len(keys) == 0 {
		return Checkpoint{}, nil, errors.New("tlog: no key of the log is known; name one")
	}
	n, err := parseNote(signed)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := ParseCheckpoint([]byte(n.text))
	if err != nil {
		return Checkpoint{}, nil, err
	}
	for _, k := range keys {
		if k.Name() != c.Origin {
			return Checkpoint{}, nil, fmt.Errorf("tlog: the checkpoint is of the log %q and the key of %q", c.Origin, k.Name())
		}
	}
	known, unknown, err := n.verify(keys)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint of %q: %w", c.Origin, err)
	}
	if len(known) == 0 {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint of %q: %w", c.Origin, &note.UnverifiedNoteError{Note: n.asNote(known, unknown)})
	}
	return c, n.asNote(known, unknown), nil
}

// SignCheckpoint signs a checkpoint, one that [ParseCheckpoint] would read back, with all of a log's keys, a line for
// each. The signers' name must be the origin.
func SignCheckpoint(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	text := c.Text()
	if _, err := ParseCheckpoint(text); err != nil {
		return nil, err
	}
	if len(signers) == 0 {
		return nil, errors.New("tlog: no key to sign a checkpoint with")
	}
	for _, s := range signers {
		if s.Name() != c.Origin {
			return nil, fmt.Errorf("tlog: the key of %q cannot sign for the log %q", s.Name(), c.Origin)
		}
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint of size %d: %w", c.Size, err)
	}
	return signed, nil
}
