package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

const (
	// maxProof is the most lines that a consistency proof has.
	maxProof = 63
	// maxText is the longest text of a checkpoint, in bytes, extension lines and all. With the signatures of
	// MaxKeys keys of the log and as many of the witness it stays below tlog.MaxCheckpoint.
	maxText = 16 << 10
	// MaxRequest is the largest body of a submission, in bytes: the largest checkpoint, the longest proof, and what stands
	// before them.
	MaxRequest = tlog.MaxCheckpoint + 4<<10
)

// An addCheckpoint is the body of a request of that name, taken apart, with nothing of it verified.
type addCheckpoint struct {
	body   []byte
	old    uint64
	proof  tlog.Proof
	signed []byte // the checkpoint with its signatures

	text   string
	origin string
	// badEmpty says that the checkpoint is of size 0 with another root than the empty tree's: well-formed, and wrong.
	badEmpty bool
}

// parseAddCheckpoint reads the body, and accepts only what one who follows the specification would write.
func parseAddCheckpoint(body []byte) (*addCheckpoint, error) {
	r := addCheckpoint{body: body}
	line, rest, ok := cutLine(body)
	if !ok {
		return nil, errors.New("the body does not begin with a line")
	}
	size, ok := strings.CutPrefix(line, "old ")
	if !ok {
		return nil, errors.New(`the first line is not "old", a space and a size`)
	}
	var err error
	if r.old, err = parseSize(size); err != nil {
		return nil, fmt.Errorf("the old size: %w", err)
	}
	if r.proof, r.signed, err = parseProof(rest); err != nil {
		return nil, err
	}
	return &r, r.readCheckpoint()
}

// append writes the body that reads back as r.
func (r *addCheckpoint) append(b []byte) []byte {
	b = strconv.AppendUint(append(b, "old "...), r.old, 10)
	b = appendProof(append(b, '\n'), r.proof)
	return append(append(b, '\n'), r.signed...)
}

// readCheckpoint reads who the checkpoint claims to be of. Two things that make a text no checkpoint for tlog have answers of
// their own here, so they are set right first and the rest is read: a root that is not the empty tree's, and an origin
// that no log of ours can have, but one of another rule perhaps.
func (r *addCheckpoint) readCheckpoint() error {
	signed := string(r.signed)
	i := strings.LastIndex(signed, "\n\n")
	if i < 0 {
		return errors.New("the checkpoint has no empty line before its signatures")
	}
	r.text = signed[:i+1]
	if len(r.text) > maxText {
		return fmt.Errorf("the text of the checkpoint has %d bytes, over the limit of %d", len(r.text), maxText)
	}
	c, err := tlog.UnverifiedCheckpoint(r.signed)
	if err == nil {
		r.origin = c.Origin
		return nil
	}
	lines := strings.SplitN(signed, "\n", 4)
	if len(lines) < 4 || lines[0] == "" || !utf8.ValidString(lines[0]) {
		return err
	}
	plain := append([]string{strings.Map(plainName, lines[0])}, lines[1:]...)
	if root, rootErr := tlog.ParseHash(lines[2]); rootErr == nil && lines[1] == "0" && root != tlog.EmptyRoot() {
		r.badEmpty = true
		plain[2] = tlog.EmptyRoot().String()
	}
	if _, plainErr := tlog.UnverifiedCheckpoint([]byte(strings.Join(plain, "\n"))); plainErr != nil {
		return err
	}
	r.origin = lines[0]
	return nil
}

// plainName makes a character one that a name may have, unless no note may have it.
func plainName(r rune) rune {
	if r == '+' || r >= ' ' && unicode.IsSpace(r) {
		return '_'
	}
	return r
}

// verify verifies the checkpoint by a log's keys, and returns it with their signatures. Origin and keys are of one log.
func (r *addCheckpoint) verify(keys []note.Verifier) (tlog.Checkpoint, []note.Signature, error) {
	if r.badEmpty {
		// Of such a one it only matters whether the log said it.
		n, err := note.Open(r.signed, note.VerifierList(keys...))
		if err != nil {
			return tlog.Checkpoint{}, nil, err
		}
		root, err := tlog.ParseHash(strings.Split(r.text, "\n")[2])
		return tlog.Checkpoint{Origin: r.origin, Root: root}, n.Sigs, err
	}
	c, n, err := tlog.OpenCheckpoint(r.signed, keys...)
	if err != nil {
		return c, nil, err
	}
	return c, n.Sigs, nil
}

// A signSubtree is the body of a request of that name, taken apart, with nothing of it verified.
type signSubtree struct {
	start, end uint64
	root       tlog.Hash
	proof      tlog.Proof
	signed     []byte // the reference checkpoint with its signatures
	c          tlog.Checkpoint
}

// parseSignSubtree reads the body, as strictly as parseAddCheckpoint.
func parseSignSubtree(body []byte) (*signSubtree, error) {
	var r signSubtree
	line, rest, ok := cutLine(body)
	if !ok {
		return nil, errors.New("the body does not begin with a line")
	}
	span, ok := strings.CutPrefix(line, "subtree ")
	start, end, ok2 := strings.Cut(span, " ")
	if !ok || !ok2 {
		return nil, errors.New(`the first line is not "subtree" and two numbers`)
	}
	var err error
	if r.start, err = parseSize(start); err != nil {
		return nil, fmt.Errorf("the start: %w", err)
	}
	if r.end, err = parseSize(end); err != nil {
		return nil, fmt.Errorf("the end: %w", err)
	}
	if r.start == r.end || !tlog.ValidSubtree(r.start, r.end) {
		return nil, fmt.Errorf("[%d, %d) is no subtree", r.start, r.end)
	}
	if line, rest, ok = cutLine(rest); !ok {
		return nil, errors.New("the body ends before the hash of the subtree")
	}
	if r.root, err = tlog.ParseHash(line); err != nil {
		return nil, fmt.Errorf("the hash of the subtree: %w", err)
	}
	if r.proof, r.signed, err = parseProof(rest); err != nil {
		return nil, err
	}
	if r.c, err = tlog.UnverifiedCheckpoint(r.signed); err != nil {
		return nil, err
	}
	if r.end > r.c.Size {
		return nil, fmt.Errorf("[%d, %d) is no subtree of a tree of size %d", r.start, r.end, r.c.Size)
	}
	return &r, nil
}

// append writes the body that reads back as r.
func (r *signSubtree) append(b []byte) []byte {
	b = fmt.Appendf(b, "subtree %d %d\n%s\n", r.start, r.end, r.root)
	return append(append(appendProof(b, r.proof), '\n'), r.signed...)
}

// cutLine returns the first line without its line break, and what follows it.
func cutLine(b []byte) (line string, rest []byte, ok bool) {
	l, rest, ok := bytes.Cut(b, []byte("\n"))
	return string(l), rest, ok
}

// parseSize reads a decimal number that has one spelling.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a decimal number without leading zeros", s)
	}
	return n, nil
}

// parseProof reads the lines of a proof up to the empty line, and returns what follows that.
func parseProof(b []byte) (tlog.Proof, []byte, error) {
	p := tlog.Proof{}
	for {
		line, rest, ok := cutLine(b)
		switch {
		case !ok:
			return nil, nil, errors.New("there is no empty line before the checkpoint")
		case line == "":
			return p, rest, nil
		case len(p) == maxProof:
			return nil, nil, fmt.Errorf("the proof has more than %d lines", maxProof)
		}
		h, err := tlog.ParseHash(line)
		if err != nil {
			return nil, nil, fmt.Errorf("line %d of the proof: %w", len(p)+1, err)
		}
		p, b = append(p, h), rest
	}
}

func appendProof(b []byte, p tlog.Proof) []byte {
	for _, h := range p {
		b, _ = h.AppendText(b) // never fails
		b = append(b, '\n')
	}
	return b
}

// appendSignatureLine appends a signature line of c2sp.org/signed-note.
func appendSignatureLine(b []byte, name string, id uint32, blob []byte) []byte {
	b = append(append(append(b, "— "...), name...), ' ')
	b = base64.StdEncoding.AppendEncode(b, append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(blob)), id), blob...))
	return append(b, '\n')
}

// signatureLines returns the lines of signatures that were read from a note.
func signatureLines(sigs []note.Signature) []byte {
	var b []byte
	for _, s := range sigs {
		b = append(append(append(b, "— "...), s.Name...), ' ')
		b = append(append(b, s.Base64...), '\n')
	}
	return b
}
