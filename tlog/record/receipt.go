package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog"
)

const (
	// ReceiptFormat names the format of a receipt, in the file itself.
	ReceiptFormat = "tallystick-receipt/v1"
	// MaxReceipt is the largest receipt, in bytes, that is written or read.
	MaxReceipt = 4 << 20
	// MaxReceiptEntries is the largest number of entries in a receipt, the start entry not counted.
	MaxReceiptEntries = 64

	maxProof = 63 // hashes: one for each level that a tree of ours can have
)

// A Receipt is what a caller keeps of one session: its entries, that they are in the log or will be, and what it takes
// to show that bytes which the caller has are the ones that were recorded. verify/RECEIPT.md has the file, byte by byte,
// and says what is claimed by it; here is its one spelling.
type Receipt struct {
	Session    ID
	Checkpoint []byte         // signed, with its cosignatures; nil where nothing is proven yet
	Promise    *SignedPromise // nil for none
	Start      *ReceiptEntry  // the start entry of the promise's boot, nil if there is no promise; it has no fields
	Entries    []ReceiptEntry // the session's, in the order of the log
}

// A ReceiptEntry is one entry in a receipt.
type ReceiptEntry struct {
	Index  uint64
	Bytes  []byte         // as they are hashed; a JSON object
	Proof  tlog.Proof     // to the size of the checkpoint, of no hashes in a tree of one; nil where it is not proven
	Fields []ReceiptField // all of its record, in the order of the record tree; none if the record is not in the receipt
}

// A ReceiptField is one field of a record: shown, or withheld, or, if it is the body, without its value, which the caller
// has itself.
type ReceiptField struct {
	Name  string // "" if it is withheld
	Salt  [SaltBytes]byte
	Value []byte    // not nil if it is shown
	Nonce []byte    // of the field exact, if it is known: NonceBytes of them
	Leaf  tlog.Hash // its leaf in the record tree, unless it is shown
}

// NonceBytes is the length of what hides the exact bytes of a body that was masked.
const NonceBytes = 32

// Exactly returns the value of the field exact: what commits to the bytes of a body of which the record has a masked copy. The
// nonce, which nobody can guess, is given to the caller with its receipt, and is written down nowhere: to whoever reads the
// record the field tells nothing of what was masked.
func Exactly(nonce, body []byte) []byte {
	h := sha256.New()
	h.Write(nonce)
	h.Write(body)
	return h.Sum(nil)
}

// Shown returns a field with its value.
func (f *Field) Shown() ReceiptField {
	return ReceiptField{Name: f.Name, Salt: f.Salt, Value: append([]byte{}, f.Value...)}
}

// Kept returns a body without its value.
func (f *Field) Kept() ReceiptField {
	return ReceiptField{Name: f.Name, Salt: f.Salt, Leaf: f.Hash()}
}

// Withheld returns a field of which nothing is told.
func (f *Field) Withheld() ReceiptField { return ReceiptField{Leaf: f.Hash()} }

// Hash returns the field's leaf in the record tree, as the receipt has it or makes it.
func (f *ReceiptField) Hash() tlog.Hash {
	if f.Value != nil {
		return f.Holding(f.Value)
	}
	return f.Leaf
}

// Holding returns the leaf that the field would have with that value.
func (f *ReceiptField) Holding(value []byte) tlog.Hash {
	return (&Field{Name: f.Name, Salt: f.Salt, Value: value}).Hash()
}

// The file, as JSON has it. What is absent is null, so that every member stands in every file.
type (
	receiptFile struct {
		Format     string       `json:"format"`
		Session    ID           `json:"session"`
		Checkpoint *string      `json:"checkpoint"`
		Promise    *promiseFile `json:"promise"`
		Start      *entryFile   `json:"start"`
		Entries    []entryFile  `json:"entries"`
	}
	promiseFile struct {
		Text      string `json:"text"`
		Signature []byte `json:"signature"`
	}
	entryFile struct {
		Index  uint64          `json:"index"`
		Entry  json.RawMessage `json:"entry"`
		Proof  tlog.Proof      `json:"proof"`
		Fields []fieldFile     `json:"fields"`
	}
	fieldFile struct {
		Name     string     `json:"name,omitempty"`
		Salt     []byte     `json:"salt,omitempty"`
		Text     *string    `json:"text,omitempty"`
		Base64   *[]byte    `json:"base64,omitempty"`
		Nonce    []byte     `json:"nonce,omitempty"`
		Leaf     *tlog.Hash `json:"leaf,omitempty"`
		Withheld *tlog.Hash `json:"withheld,omitempty"`
	}
)

// Append appends the receipt's file. It fails when a part cannot be written: an entry that is not a JSON object, a
// checkpoint that is not text, too many entries, fields or hashes, more than MaxReceipt bytes. Whether it is true is not asked.
func (r *Receipt) Append(b []byte) ([]byte, error) {
	f := receiptFile{Format: ReceiptFormat, Session: r.Session, Entries: make([]entryFile, len(r.Entries))}
	switch {
	case r.Session.IsZero():
		return nil, errors.New("record: a receipt is of a session")
	case len(r.Entries) == 0 || len(r.Entries) > MaxReceiptEntries:
		return nil, fmt.Errorf("record: a receipt has 1 to %d entries, not %d", MaxReceiptEntries, len(r.Entries))
	case (r.Promise == nil) != (r.Start == nil):
		return nil, errors.New("record: a receipt has a promise with the start entry of its boot, or neither")
	case r.Start != nil && len(r.Start.Fields) > 0:
		return nil, errors.New("record: a start entry has no record")
	case r.Checkpoint != nil && !IsText(r.Checkpoint) || r.Promise != nil && !IsText(r.Promise.Text):
		return nil, errors.New("record: a receipt's checkpoint and promise are text; one has control characters or is not UTF-8")
	}
	if r.Checkpoint != nil {
		s := string(r.Checkpoint)
		f.Checkpoint = &s
	}
	if r.Promise != nil {
		f.Promise = &promiseFile{string(r.Promise.Text), r.Promise.Signature[:]}
		start, err := r.Start.file()
		if err != nil {
			return nil, fmt.Errorf("the start entry in a receipt: %w", err)
		}
		f.Start = &start
	}
	for i := range r.Entries {
		var err error
		if f.Entries[i], err = r.Entries[i].file(); err != nil {
			return nil, fmt.Errorf("entry %d in a receipt: %w", r.Entries[i].Index, err)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if out.Len() > MaxReceipt {
		return nil, fmt.Errorf("record: a receipt of %d bytes is over the limit of %d: %w", out.Len(), MaxReceipt, tlog.ErrTooLarge)
	}
	return append(b, out.Bytes()...), nil
}

func (e *ReceiptEntry) file() (entryFile, error) {
	f := entryFile{Index: e.Index, Entry: e.Bytes, Proof: e.Proof, Fields: make([]fieldFile, len(e.Fields))}
	var compact bytes.Buffer
	switch {
	case e.Index > math.MaxInt64:
		return f, errors.New("record: an index is below 2^63")
	case len(e.Proof) > maxProof:
		return f, fmt.Errorf("record: a proof of %d hashes; a tree has at most %d levels", len(e.Proof), maxProof)
	case len(e.Fields) > MaxFields:
		return f, fmt.Errorf("record: %d fields; a record has at most %d", len(e.Fields), MaxFields)
	case len(e.Bytes) > tlog.MaxEntry || len(e.Bytes) == 0 || e.Bytes[0] != '{' || !utf8.Valid(e.Bytes) ||
		json.Compact(&compact, e.Bytes) != nil || !bytes.Equal(compact.Bytes(), e.Bytes):
		return f, fmt.Errorf("record: an entry in a receipt is a JSON object of at most %d bytes without white space", tlog.MaxEntry)
	}
	for i := range e.Fields {
		d := &e.Fields[i]
		switch {
		case d.Name == "":
			f.Fields[i].Withheld = &d.Leaf
			continue
		case CheckName(d.Name) != nil:
			return f, CheckName(d.Name)
		case d.Nonce != nil && (d.Name != FieldExact || d.Value == nil || len(d.Nonce) != NonceBytes):
			return f, fmt.Errorf("record: a field of a receipt with a nonce of %d bytes is the %s, shown, with one of %d", len(d.Nonce), FieldExact, NonceBytes)
		case d.Value == nil && d.Name != FieldBody: // what it is called nothing would vouch for
			return f, fmt.Errorf("record: a field of a receipt that has a name and no value is the %s, not %q", FieldBody, d.Name)
		case d.Value == nil:
			f.Fields[i].Leaf = &d.Leaf
		case IsText(d.Value):
			s := string(d.Value)
			f.Fields[i].Text = &s
		default:
			f.Fields[i].Base64 = &d.Value
		}
		f.Fields[i].Name, f.Fields[i].Salt, f.Fields[i].Nonce = d.Name, d.Salt[:], d.Nonce
	}
	return f, nil
}

// ParseReceipt is the exact inverse of Append: it accepts the bytes that Append writes and no others.
func ParseReceipt(b []byte) (*Receipt, error) {
	if len(b) > MaxReceipt {
		return nil, fmt.Errorf("record: a receipt of %d bytes is over the limit of %d", len(b), MaxReceipt)
	}
	var f receiptFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("record: not a receipt: %w", err)
	}
	if f.Format != ReceiptFormat {
		return nil, fmt.Errorf("record: a receipt of the format %.40q; this program reads %s", f.Format, ReceiptFormat)
	}
	r := &Receipt{Session: f.Session}
	if f.Checkpoint != nil {
		r.Checkpoint = []byte(*f.Checkpoint)
	}
	if f.Promise != nil {
		r.Promise = &SignedPromise{Text: []byte(f.Promise.Text)}
		copy(r.Promise.Signature[:], f.Promise.Signature)
	}
	if f.Start != nil {
		start := f.Start.entry()
		r.Start = &start
	}
	for i := range f.Entries {
		r.Entries = append(r.Entries, f.Entries[i].entry())
	}
	// JSON has many spellings of one thing, and more members than these. What was read is what would be written again, or
	// it is no receipt.
	again, err := r.Append(nil)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("record: a receipt that is not in its one form")
	}
	return r, nil
}

func (f *entryFile) entry() ReceiptEntry {
	e := ReceiptEntry{Index: f.Index, Bytes: f.Entry, Proof: f.Proof}
	for i := range f.Fields {
		d := &f.Fields[i]
		out := ReceiptField{Name: d.Name, Nonce: d.Nonce}
		copy(out.Salt[:], d.Salt)
		switch {
		case d.Withheld != nil:
			out.Leaf = *d.Withheld
		case d.Leaf != nil:
			out.Leaf = *d.Leaf
		case d.Text != nil:
			out.Value = []byte(*d.Text)
		case d.Base64 != nil:
			out.Value = *d.Base64
		}
		e.Fields = append(e.Fields, out)
	}
	return e
}

// IsText says whether a value is written as text in a receipt or a bundle: valid UTF-8 whose only control characters
// (U+0000 to U+001F, U+007F to U+009F) are tab, line feed and carriage return.
func IsText(v []byte) bool {
	for i, c := range v {
		switch {
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c == 0x7f:
			return false
		case c == 0xc2 && i+1 < len(v) && v[i+1] < 0xa0:
			return false
		}
	}
	return utf8.Valid(v)
}
