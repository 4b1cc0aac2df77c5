package tlog

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// maxNoteSignatures is how many signature lines a note may have. The specification asks for 16.
const maxNoteSignatures = 100

// A signedNote is a note of c2sp.org/signed-note taken apart, with nothing of it verified.
//
// It is read here and not by note.Open for two reasons: note.Open verifies the first signature of each key only, so
// that a good one hides a bad one behind it; and it reads base64 that nobody would write, so that one note has
// many spellings.
type signedNote struct {
	text string // ends in a line break
	sigs []noteSignature
}

type noteSignature struct {
	note.Signature
	blob []byte // what follows the key id
}

// keyID is what ties a signature to a key: no two keys of one list may share it.
type keyID struct {
	name string
	hash uint32
}

// validKeyName is the rule of signed-note for names of keys.
func validKeyName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == '+' || unicode.IsSpace(r) })
}

func parseNote(signed []byte) (signedNote, error) {
	var n signedNote
	if len(signed) > MaxCheckpoint {
		return n, fmt.Errorf("tlog: a signed checkpoint of %d bytes is over the limit of %d", len(signed), MaxCheckpoint)
	}
	s := string(signed)
	if err := checkNoteText(s); err != nil {
		return n, err
	}
	// The text may have empty lines of its own: the last one is the mark.
	i := strings.LastIndex(s, "\n\n")
	if i < 0 {
		return n, errors.New("tlog: a signed note has no empty line between its text and its signatures")
	}
	n.text = s[:i+1]
	block, ok := strings.CutSuffix(s[i+2:], "\n")
	if !ok {
		return n, errors.New("tlog: a signed note has no signature, or one cut off before its line break")
	}
	for l := range strings.SplitSeq(block, "\n") {
		if len(n.sigs) == maxNoteSignatures {
			return n, fmt.Errorf("tlog: a signed note has more than %d signatures", maxNoteSignatures)
		}
		sig, err := parseSignatureLine(l)
		if err != nil {
			return n, fmt.Errorf("tlog: signature line %d of a note %w", len(n.sigs)+1, err)
		}
		n.sigs = append(n.sigs, sig)
	}
	return n, nil
}

// checkNoteText says whether s has only characters that a note may have.
func checkNoteText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("tlog: a note is not UTF-8")
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\n' }); i >= 0 {
		return fmt.Errorf("tlog: a note has the control character %#02x at byte %d; lines end in \\n alone", s[i], i)
	}
	return nil
}

func parseSignatureLine(line string) (noteSignature, error) {
	var sig noteSignature
	rest, ok := strings.CutPrefix(line, "— ")
	if !ok {
		return sig, errors.New("does not begin with an em dash and a space")
	}
	name, b64, ok := strings.Cut(rest, " ")
	if !ok || !validKeyName(name) {
		return sig, errors.New("has no name of a key and a space behind it")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || len(raw) < 5 {
		return sig, errors.New("is not base64 of a key id and a signature")
	}
	sig.Name, sig.Hash, sig.Base64 = name, binary.BigEndian.Uint32(raw), b64
	sig.blob = raw[4:]
	return sig, nil
}

// verify returns the signatures that keys verify, each of a key that signed more than once, and those of
// unknown keys. A signature by a known key that fails rejects the whole note: it is a note.InvalidSignatureError.
func (n signedNote) verify(keys []note.Verifier) (known, unknown []noteSignature, err error) {
	byID := make(map[keyID]note.Verifier, len(keys))
	for _, k := range keys {
		id := keyID{k.Name(), k.KeyHash()}
		if _, ok := byID[id]; ok {
			return nil, nil, fmt.Errorf("tlog: two keys are %s+%08x; name each key once", id.name, id.hash)
		}
		byID[id] = k
	}
	for _, sig := range n.sigs {
		k, ok := byID[keyID{sig.Name, sig.Hash}]
		if !ok {
			unknown = append(unknown, sig)
			continue
		}
		if !k.Verify([]byte(n.text), sig.blob) {
			return nil, nil, &note.InvalidSignatureError{Name: sig.Name, Hash: sig.Hash}
		}
		known = append(known, sig)
	}
	return known, unknown, nil
}

// asNote returns the note as x/mod's package has it: one signature of each known key, and no line of an unknown one
// twice.
func (n signedNote) asNote(known, unknown []noteSignature) *note.Note {
	out := &note.Note{Text: n.text}
	seen := make(map[keyID]bool)
	for _, sig := range known {
		if id := (keyID{sig.Name, sig.Hash}); !seen[id] {
			seen[id] = true
			out.Sigs = append(out.Sigs, sig.Signature)
		}
	}
	twice := make(map[note.Signature]bool)
	for _, sig := range unknown {
		if !twice[sig.Signature] {
			twice[sig.Signature] = true
			out.UnverifiedSigs = append(out.UnverifiedSigs, sig.Signature)
		}
	}
	return out
}
