package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	// Format names the format of a bundle, in its first line and again in its body.
	Format = "tallystick-bundle/v1"
	// MaxBundle is the largest bundle, in bytes, that is written or read.
	MaxBundle = 1 << 30
	// MaxEntries is the largest number of entries in a bundle, so that one of small parts does not grow in memory.
	MaxEntries = 1 << 20
	// maxProof is the longest inclusion proof: one hash for each level that a tree of ours can have.
	maxProof = 63

	bundleMagic = Format + " sha256:"
	bundleHead  = len(bundleMagic) + 2*sha256.Size + 1 // the first line, its line break included
)

// A Bundle is what an auditor is handed: sessions, their entries with what is shown of the records behind them, the
// proofs that the entries are in the log, and the one checkpoint that all proofs lead to. BUNDLE.md has the format.
type Bundle struct {
	Origin     string // the log's name, as the checkpoint has it
	Checkpoint []byte // the signed note, with all its cosignatures
	Sessions   []Session
}

// A Session is the entries about one call that are in a bundle, in the order of the log.
type Session struct {
	ID      record.ID
	Entries []Entry // at least one
}

// An Entry is one entry of the log.
type Entry struct {
	Index  uint64     // its place in the log
	Bytes  []byte     // as they are hashed; a JSON object
	Proof  tlog.Proof // to the size of the checkpoint
	Fields []Field    // all of its record, in the order of the record tree; none when the record is not in the bundle
}

// A Field is one field of a record, shown or withheld.
type Field struct {
	Shown    *record.Field // nil when it is withheld
	Withheld tlog.Hash     // its leaf in the record tree, when it is withheld
}

// Fields returns a record's fields for a bundle: those that show names are shown, and the others withheld.
func Fields(r record.Record, show func(name string) bool) []Field {
	fs := make([]Field, len(r))
	for i := range r {
		if show(r[i].Name) {
			fs[i].Shown = &r[i]
		} else {
			fs[i].Withheld = r[i].Hash()
		}
	}
	return fs
}

// Append appends the bytes of the bundle. It fails when a part cannot be written: an entry that is not a JSON object,
// a checkpoint or origin that is not text, too many fields or hashes, more than MaxEntries entries or MaxBundle bytes. Whether what it writes
// is true is for Check to say.
func (b *Bundle) Append(dst []byte) ([]byte, error) {
	from := len(dst)
	dst = append(dst, bundleMagic...)
	dst = append(dst, make([]byte, bundleHead-len(bundleMagic))...)
	var err error
	if dst, err = b.appendBody(dst); err != nil {
		return nil, err
	}
	if len(dst)-from > MaxBundle {
		return nil, fmt.Errorf("verify: a bundle of %d bytes is over the limit of %d; split it by sessions: %w", len(dst)-from, MaxBundle, tlog.ErrTooLarge)
	}
	seal(dst[from:])
	return dst, nil
}

// seal writes the digest into the first line of a bundle.
func seal(raw []byte) {
	sum := sha256.Sum256(raw[bundleHead:])
	hex.Encode(raw[len(bundleMagic):], sum[:])
	raw[bundleHead-1] = '\n'
}

func (b *Bundle) appendBody(dst []byte) ([]byte, error) {
	if !record.IsText([]byte(b.Origin)) || !record.IsText(b.Checkpoint) {
		return nil, errors.New("verify: a bundle's origin and checkpoint are text; one has control characters or is not UTF-8")
	}
	if len(b.Sessions) == 0 {
		return nil, errors.New("verify: a bundle holds at least one session")
	}
	n := 0
	for i := range b.Sessions {
		n += len(b.Sessions[i].Entries)
	}
	if n > MaxEntries {
		return nil, fmt.Errorf("verify: a bundle of %d entries is over the limit of %d; split it by sessions: %w", n, MaxEntries, tlog.ErrTooLarge)
	}
	dst = append(dst, `{"format":"`+Format+`","origin":`...)
	dst = appendString(dst, []byte(b.Origin))
	dst = append(dst, `,"checkpoint":`...)
	dst = appendString(dst, b.Checkpoint)
	dst = append(dst, `,"sessions":[`...)
	for i := range b.Sessions {
		s := &b.Sessions[i]
		if s.ID.IsZero() || len(s.Entries) == 0 {
			return nil, errors.New("verify: a session in a bundle has an id and at least one entry")
		}
		dst = appendNext(dst, i)
		dst = append(dst, `{"id":"`...)
		dst = append(dst, s.ID.String()...)
		dst = append(dst, `","entries":[`...)
		for j := range s.Entries {
			dst = appendNext(dst, j)
			var err error
			if dst, err = s.Entries[j].append(dst); err != nil {
				return nil, fmt.Errorf("entry %d: %w", s.Entries[j].Index, err)
			}
			if len(dst) > MaxBundle { // no need to go on; Append says how much it is
				break
			}
		}
		dst = append(dst, "\n]}"...)
	}
	return append(dst, "\n]}\n"...), nil
}

// appendNext begins the i-th item of a list: each stands on a line of its own.
func appendNext(dst []byte, i int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return append(dst, '\n')
}

func (e *Entry) append(dst []byte) ([]byte, error) {
	switch {
	case e.Index > math.MaxInt64:
		return nil, errors.New("verify: an index is below 2^63")
	case len(e.Proof) > maxProof:
		return nil, fmt.Errorf("verify: a proof of %d hashes; a tree has at most %d levels", len(e.Proof), maxProof)
	case len(e.Fields) > record.MaxFields:
		return nil, fmt.Errorf("verify: %d fields; a record has at most %d", len(e.Fields), record.MaxFields)
	}
	if err := checkRaw(e.Bytes); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	dst = strconv.AppendUint(append(dst, `{"index":`...), e.Index, 10)
	dst = append(append(dst, `,"entry":`...), e.Bytes...)
	dst = append(dst, `,"proof":[`...)
	for i, h := range e.Proof {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendHash(dst, h)
	}
	dst = append(dst, `],"fields":[`...)
	for i := range e.Fields {
		dst = appendNext(dst, i)
		var err error
		if dst, err = e.Fields[i].append(dst); err != nil {
			return nil, err
		}
	}
	if len(e.Fields) > 0 {
		dst = append(dst, '\n')
	}
	return append(dst, "]}"...), nil
}

func (f *Field) append(dst []byte) ([]byte, error) {
	if f.Shown == nil {
		dst = appendHash(append(dst, `{"withheld":`...), f.Withheld)
		return append(dst, '}'), nil
	}
	if f.Withheld != (tlog.Hash{}) {
		return nil, fmt.Errorf("verify: the field %q is both shown and withheld", f.Shown.Name)
	}
	if err := record.CheckName(f.Shown.Name); err != nil {
		return nil, err
	}
	if len(f.Shown.Value) > record.MaxRecord {
		return nil, fmt.Errorf("verify: the field %q has %d bytes, over the limit of %d: %w", f.Shown.Name, len(f.Shown.Value), record.MaxRecord, tlog.ErrTooLarge)
	}
	dst = append(append(dst, `{"name":"`...), f.Shown.Name...)
	dst = base64.StdEncoding.AppendEncode(append(dst, `","salt":"`...), f.Shown.Salt[:])
	if record.IsText(f.Shown.Value) {
		dst = appendString(append(dst, `","text":`...), f.Shown.Value)
	} else {
		dst = base64.StdEncoding.AppendEncode(append(dst, `","base64":"`...), f.Shown.Value)
		dst = append(dst, '"')
	}
	return append(dst, '}'), nil
}

func appendHash(dst []byte, h tlog.Hash) []byte {
	dst, _ = h.AppendText(append(dst, '"'))
	return append(dst, '"')
}

// checkRaw says whether b can stand in a bundle as an entry: a JSON object, with nothing around it.
func checkRaw(b []byte) error {
	switch {
	case len(b) > tlog.MaxEntry:
		return fmt.Errorf("an entry of %d bytes is over the limit of %d", len(b), tlog.MaxEntry)
	case len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' || !json.Valid(b) || !utf8.Valid(b):
		return errors.New("an entry in a bundle is a JSON object")
	}
	return nil
}

// appendString appends text as a JSON string. Five characters are escaped, each in one way; all others stand as they are.
func appendString(dst, text []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i, c := range text {
		var short byte
		switch c {
		case '"', '\\':
			short = c
		case '\n':
			short = 'n'
		case '\r':
			short = 'r'
		case '\t':
			short = 't'
		default:
			continue
		}
		dst = append(dst, text[from:i]...)
		dst = append(dst, '\\', short)
		from = i + 1
	}
	dst = append(dst, text[from:]...)
	return append(dst, '"')
}

// Parse is the exact inverse of Append: it accepts the bytes that Append writes and no others. The bundle may alias raw.
func Parse(raw []byte) (*Bundle, error) {
	if err := checkHead(raw); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if !intact(raw) {
		return nil, errors.New("verify: the bundle has another digest than its first line says")
	}
	b, err := parseBody(raw[bundleHead:])
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return b, nil
}

// checkHead says whether raw begins as a bundle and is not over the limit.
func checkHead(raw []byte) error {
	switch {
	case len(raw) > MaxBundle:
		return fmt.Errorf("%d bytes are over the limit of %d for a bundle", len(raw), MaxBundle)
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		return errors.New("the file begins with a byte order mark: an editor has rewritten it; ask for the original")
	case !bytes.HasPrefix(raw, []byte(bundleMagic)):
		if bytes.HasPrefix(raw, []byte("tallystick-bundle/v")) {
			return fmt.Errorf("the file is not a bundle of the version %s, which is what this program reads", Format)
		}
		return fmt.Errorf("the file does not begin with %q: it is not a bundle, or damaged", bundleMagic)
	case len(raw) < bundleHead || raw[bundleHead-1] != '\n':
		return fmt.Errorf("the first line is not %q, 64 hex digits and \\n: the file is cut off, or an editor has rewritten it; ask for the original", bundleMagic)
	}
	return nil
}

// intact says whether the first line has the digest of the rest.
func intact(raw []byte) bool {
	sum := sha256.Sum256(raw[bundleHead:])
	return string(raw[len(bundleMagic):bundleHead-1]) == hex.EncodeToString(sum[:])
}
