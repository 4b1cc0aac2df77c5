// Package record says what one call leaves behind: the [Entry] that is hashed into the log and is public, and the
// record behind it, a list of salted fields that is private, compressed, sealed and erasable.
//
// What is always true:
//
//   - an entry is canonical: [ParseEntry] accepts exactly the bytes that [Entry.Append] writes;
//   - an entry holds commitments and no content: numbers, times, identifiers made here, hashes of salted or sealed bytes;
//   - every field of a record has a salt of its own, so that showing one says nothing of another, and the root over
//     all of them stands in the entry, so that none can be changed, added or left out unseen;
//   - a payload opens only under its key and only for the entry it was sealed for.
//
// FORMAT.md beside this file is the same in prose, byte by byte, for whoever implements it again.
package record

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/tallystick/tallystick/tlog"
)

// An ID names a session or a boot: 16 bytes, written as 8-4-4-4-12 lower-case hex digits. The ones made here are UUIDs
// of version 7 (RFC 9562), so that they sort by the time they were made.
type ID [16]byte

// NewID returns a fresh ID whose first 48 bits are now in milliseconds and whose rest is random.
func NewID(now time.Time) ID {
	var id ID
	rand.Read(id[:])
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Time returns the millisecond in which NewID made the ID.
func (id ID) Time() time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).UTC()
}

// IsZero reports whether the ID is no ID.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the text form, 36 characters.
func (id ID) String() string { return string(id.append(make([]byte, 0, 36))) }

func (id ID) append(b []byte) []byte {
	b = hex.AppendEncode(b, id[0:4])
	for i := 4; i < 10; i += 2 {
		b = hex.AppendEncode(append(b, '-'), id[i:i+2])
	}
	return hex.AppendEncode(append(b, '-'), id[10:16])
}

// MarshalText returns the text form.
func (id ID) MarshalText() ([]byte, error) { return id.append(nil), nil }

// UnmarshalText accepts exactly what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) error {
	p, err := ParseID(string(b))
	if err == nil {
		*id = p
	}
	return err
}

// ParseID reads the text form and no other spelling of it.
func ParseID(s string) (ID, error) {
	var id ID
	var digits [2 * len(id)]byte
	var again [36]byte
	if len(s) == len(again) {
		n := copy(digits[:], s[0:8])
		for _, part := range [...]string{s[9:13], s[14:18], s[19:23], s[24:36]} {
			n += copy(digits[n:], part)
		}
		hex.Decode(id[:], digits[:]) // what it cannot read differs below
	}
	if id.IsZero() || string(id.append(again[:0])) != s {
		return ID{}, fmt.Errorf("record: %.60q is not an id such as 0198f2c1-7d3a-7b11-8c55-2f6e9a4b1d03", s)
	}
	return id, nil
}

const (
	// SaltBytes is the length of a field's salt: 128 bits, from the system's random source.
	SaltBytes = 16
	// MaxFields is the largest number of fields in a record.
	MaxFields = 64
	// MaxName is the longest name of a field, in bytes.
	MaxName = 64
)

// The fields of a session's record. A reader must expect others.
const (
	FieldSession  = "session"  // the session's ID, text
	FieldCaller   = "caller"   // the principal's name
	FieldKey      = "key"      // which of the principal's keys it showed, never the key
	FieldRemote   = "remote"   // the caller's network address
	FieldRoute    = "route"    // the route's name
	FieldUpstream = "upstream" // where the call was sent, a URL without query or credential
	FieldModel    = "model"    // the model that was asked for
	FieldMethod   = "method"   // the request's method
	FieldTarget   = "target"   // the request's target as the caller sent it
	FieldHeaders  = "headers"  // JSON: an array of [name, value], in the order they came; credentials left out
	FieldBody     = "body"     // the exact bytes
	FieldStatus   = "status"   // the status the caller was given, decimal
	FieldExact    = "exact"    // SHA-256 of a nonce and the exact bytes, of a body that was masked; see [Exactly]
	FieldEvents   = "events"   // JSON: an array of [bytes, microseconds since the one before] for each event of the body
	FieldTimes    = "times"    // JSON: an object of RFC 3339 times by name
	FieldError    = "error"    // what went wrong, for people
	FieldRedacted = "redacted" // how often the service credential was struck out of the answer, decimal
	FieldKept     = "kept"     // of an interrupted session: what the journal kept, in words
	FieldActor    = "actor"    // who looked, decided, or did something
	FieldReason   = "reason"   // why
	FieldBasis    = "basis"    // of an erasure, or a refusal of one: on what legal ground, in words
	FieldWhat     = "what"     // of a reading, or what somebody had done: what it was, in words
	FieldFields   = "fields"   // of a reading: which fields were shown, one a line, as request.caller; without it all, or as what says
	FieldLogKeys  = "log_keys" // which keys sign for the log, and which did before
	FieldFinish   = "finish"   // the protocol's own end as it was seen

	FieldHow     = "caller.how"     // how the caller was told: key, token, oidc, cert, saml
	FieldIssuer  = "caller.issuer"  // who vouches for the caller
	FieldSubject = "caller.subject" // as the issuer knows the caller
	FieldEmail   = "caller.email"   // if the issuer verified it
	FieldGroups  = "caller.groups"  // JSON: an array of names
	FieldAuthed  = "caller.authed"  // when the caller logged in at the issuer, RFC 3339

	FieldPolicy   = "policy"   // the version of the policy that judged: SHA-256 of its text, hex
	FieldVerdict  = "verdict"  // what it said: allow, ask, refuse
	FieldRule     = "rule"     // the name of the rule that said so
	FieldFailed   = "failed"   // names of rules that could not be evaluated, one a line
	FieldFindings = "findings" // JSON: an array of [kind, rule, how often], what the masker saw
	FieldRules    = "rules"    // of a policy entry: the policy's text

	FieldNeed       = "need"        // of a question: how many people must say yes
	FieldAsked      = "asked"       // of a question: JSON, the groups of those who are asked; none for all who approve
	FieldUntil      = "until"       // of a question: when no answer becomes no, RFC 3339
	FieldValid      = "valid"       // of a question: how long a yes can be used, a Go duration; none for until the question ends
	FieldApproval   = "approval"    // of the use of a yes: the session that asked
	FieldActorEmail = "actor.email" // of who decided, looked or logged in, if the issuer verified it
	FieldActorHow   = "actor.how"   // how that person was told, as caller.how

	// FieldOriginal begins the name of a field that holds, sealed to people elsewhere, what the field named by the rest held before it
	// was masked; see tlog/record/original.
	FieldOriginal = "original."
)

// A Field is one value of a record, with the salt that hides it until it is shown.
type Field struct {
	Name  string // 1 to MaxName bytes of a-z, 0-9, '-', '_', '.'
	Salt  [SaltBytes]byte
	Value []byte
}

// CheckName says whether a field can have that name.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("record: a field's name has 1 to %d bytes", MaxName)
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("record: the field name %q has a character outside a-z, 0-9, '-', '_', '.'", name)
		}
	}
	return nil
}

// Hash returns the field's leaf in the record tree, for a name that CheckName takes:
// SHA-256(0x00 || salt || len(name) as one byte || name || value).
func (f *Field) Hash() tlog.Hash {
	var head [2 + SaltBytes + MaxName]byte
	n := 1 + copy(head[1:], f.Salt[:])
	head[n] = byte(len(f.Name))
	n += 1 + copy(head[n+1:], f.Name)
	d := sha256.New()
	d.Write(head[:n])
	d.Write(f.Value)
	var h tlog.Hash
	d.Sum(h[:0])
	return h
}

// A Record is the private half of an entry: its fields, in the order of the record tree.
type Record []Field

// Add appends a field with a fresh salt. The value is not copied.
func (r *Record) Add(name string, value []byte) {
	f := Field{Name: name, Value: value}
	rand.Read(f.Salt[:])
	*r = append(*r, f)
}

// Get returns the value of the first field of that name.
func (r Record) Get(name string) (value []byte, ok bool) {
	for i := range r {
		if r[i].Name == name {
			return r[i].Value, true
		}
	}
	return nil, false
}

// check says whether a record can be written: names well formed and used once, and not too many.
func (r Record) check() error {
	if len(r) == 0 || len(r) > MaxFields {
		return fmt.Errorf("record: %d fields; a record has 1 to %d", len(r), MaxFields)
	}
	for i := range r {
		if err := CheckName(r[i].Name); err != nil {
			return err
		}
		for j := range i {
			if r[j].Name == r[i].Name {
				return fmt.Errorf("record: two fields named %q", r[i].Name)
			}
		}
		if len(r[i].Value) > MaxRecord {
			return fmt.Errorf("record: the field %q has %d bytes, over the limit of %d: %w", r[i].Name, len(r[i].Value), MaxRecord, tlog.ErrTooLarge)
		}
	}
	return nil
}

// Hashes returns the leaves of the record tree.
func (r Record) Hashes() []tlog.Hash {
	hs := make([]tlog.Hash, len(r))
	for i := range r {
		hs[i] = r[i].Hash()
	}
	return hs
}

// Root returns the root of the record tree, an RFC 6962 tree over the fields' leaves.
func (r Record) Root() tlog.Hash { return RootOf(r.Hashes()) }

// RootOf returns the RFC 6962 root over leaf hashes, of which some may belong to fields that are not shown.
func RootOf(leaves []tlog.Hash) tlog.Hash {
	if len(leaves) == 0 {
		return tlog.EmptyRoot()
	}
	// Rows of the tree in place: pairs hash upward and an odd last one rises as it is, which is RFC 6962's tree.
	row := append(make([]tlog.Hash, 0, MaxFields), leaves...)
	for len(row) > 1 {
		n := 0
		for i := 0; i+1 < len(row); i += 2 {
			row[n] = tlog.HashChildren(row[i], row[i+1])
			n++
		}
		if len(row)%2 == 1 {
			row[n] = row[len(row)-1]
			n++
		}
		row = row[:n]
	}
	return row[0]
}

// An Opening shows one field of a record and proves that it is the field at Index of Count under a root. It says
// nothing of the other fields.
type Opening struct {
	Index, Count int
	Field        Field
	Proof        tlog.Proof
}

// Open makes the opening of the field at index.
func (r Record) Open(index int) (Opening, error) {
	if index < 0 || index >= len(r) {
		return Opening{}, fmt.Errorf("record: field %d of a record of %d: %w", index, len(r), tlog.ErrNotFound)
	}
	nodes, err := proof.Inclusion(uint64(index), uint64(len(r)))
	if err != nil {
		return Opening{}, fmt.Errorf("record: %w", err)
	}
	leaves := r.Hashes()
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h := subtree(leaves, id)
		hashes[i] = h[:]
	}
	hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return Opening{}, fmt.Errorf("record: %w", err)
	}
	o := Opening{Index: index, Count: len(r), Field: r[index], Proof: make(tlog.Proof, len(hashes))}
	for i := range hashes {
		copy(o.Proof[i][:], hashes[i])
	}
	return o, nil
}

// subtree returns the hash of a perfect subtree over some of the leaves.
func subtree(leaves []tlog.Hash, id compact.NodeID) tlog.Hash {
	from := id.Index << id.Level
	return RootOf(leaves[from : from+1<<id.Level])
}

// Verify says whether the opening belongs to the record with that root and number of fields, both as the entry states them.
func (o Opening) Verify(root tlog.Hash, count int) error {
	if o.Count != count {
		return fmt.Errorf("record: the opening is of a record of %d fields and the entry states %d", o.Count, count)
	}
	if o.Index < 0 || o.Count < 1 || o.Count > MaxFields {
		return errors.New("record: the opening's place in the record is impossible")
	}
	if err := CheckName(o.Field.Name); err != nil {
		return err
	}
	if err := tlog.VerifyInclusion(o.Field.Hash(), uint64(o.Index), uint64(o.Count), root, o.Proof); err != nil {
		return fmt.Errorf("record: the field %q is not proven to be in the record: %w", o.Field.Name, err)
	}
	return nil
}
