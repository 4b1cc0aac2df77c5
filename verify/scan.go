package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// parseBody reads what follows the first line. It follows Append step by step, and no step accepts two spellings, so
// there is nothing to compare afterwards; and no input makes it hold more than about twice the input.
func parseBody(body []byte) (*Bundle, error) {
	s := &scanner{b: body}
	b := new(Bundle)
	s.lit(`{"format":"` + Format + `","origin":`)
	b.Origin = string(s.text())
	s.lit(`,"checkpoint":`)
	b.Checkpoint = s.text()
	s.lit(`,"sessions":[`)
	for more := true; more && s.err == nil; more = s.next() {
		s.lit("\n")
		b.Sessions = append(b.Sessions, s.session())
	}
	s.lit("\n]}\n")
	if s.err == nil && s.at != len(s.b) {
		s.fail("%d bytes follow the end of the bundle", len(s.b)-s.at)
	}
	if s.err != nil {
		return nil, s.err
	}
	return b, nil
}

// A scanner reads the canonical form of a bundle. After its first error it reads no more.
type scanner struct {
	b       []byte
	at      int
	entries int
	err     error
}

func (s *scanner) fail(format string, a ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("byte %d after the first line: %w", s.at, fmt.Errorf(format, a...))
	}
}

// rest is what has not been read; it is empty after an error.
func (s *scanner) rest() []byte {
	if s.err != nil {
		return nil
	}
	return s.b[s.at:]
}

func (s *scanner) has(lit string) bool {
	return s.err == nil && len(s.b)-s.at >= len(lit) && string(s.b[s.at:s.at+len(lit)]) == lit
}

// lit reads exactly these bytes.
func (s *scanner) lit(lit string) {
	if s.has(lit) {
		s.at += len(lit)
		return
	}
	rest := s.rest()
	if bytes.HasPrefix([]byte(lit), rest) {
		s.fail("the bundle is cut off")
		return
	}
	s.fail("%q where %q stands in a bundle", rest[:min(len(rest), 40)], lit)
}

// next says whether another item of a list follows, and reads the comma before it.
func (s *scanner) next() bool {
	if s.has(",") {
		s.at++
		return true
	}
	return false
}

func (s *scanner) session() Session {
	var out Session
	s.lit(`{"id":"`)
	id, err := record.ParseID(string(s.until('"', 36)))
	if err != nil {
		s.fail("%w", err)
	}
	out.ID = id
	s.lit(`","entries":[`)
	for more := true; more && s.err == nil; more = s.next() {
		s.lit("\n")
		out.Entries = append(out.Entries, s.entry())
	}
	s.lit("\n]}")
	return out
}

func (s *scanner) entry() Entry {
	var e Entry
	if s.entries++; s.entries > MaxEntries {
		s.fail("more than %d entries", MaxEntries)
	}
	s.lit(`{"index":`)
	e.Index = s.number()
	s.lit(`,"entry":`)
	e.Bytes = s.object()
	s.lit(`,"proof":[`)
	if !s.has("]") {
		for more := true; more && s.err == nil; more = s.next() {
			if len(e.Proof) == maxProof {
				s.fail("a proof of more than %d hashes", maxProof)
			}
			e.Proof = append(e.Proof, s.hash())
		}
	}
	s.lit(`],"fields":[`)
	if !s.has("]") {
		for more := true; more && s.err == nil; more = s.next() {
			if len(e.Fields) == record.MaxFields {
				s.fail("a record of more than %d fields", record.MaxFields)
			}
			s.lit("\n")
			e.Fields = append(e.Fields, s.field())
		}
		s.lit("\n")
	}
	s.lit("]}")
	return e
}

func (s *scanner) field() Field {
	if s.has(`{"withheld":`) {
		s.lit(`{"withheld":`)
		f := Field{Withheld: s.hash()}
		s.lit("}")
		return f
	}
	f := new(record.Field)
	s.lit(`{"name":"`)
	f.Name = string(s.until('"', record.MaxName))
	if err := record.CheckName(f.Name); err != nil {
		s.fail("%w", err)
	}
	s.lit(`","salt":"`)
	if salt := s.base64(base64.StdEncoding.EncodedLen(record.SaltBytes)); len(salt) == record.SaltBytes {
		copy(f.Salt[:], salt)
	} else {
		s.fail("a salt has %d bytes, not %d", record.SaltBytes, len(salt))
	}
	s.lit(`","`)
	if s.has(`text":`) {
		s.lit(`text":`)
		f.Value = s.text()
	} else {
		s.lit(`base64":"`)
		f.Value = s.base64(base64.StdEncoding.EncodedLen(record.MaxRecord))
		if s.err == nil && record.IsText(f.Value) {
			s.fail("the field %q is text and stands in base64", f.Name)
		}
		s.lit(`"`)
	}
	if len(f.Value) > record.MaxRecord {
		s.fail("the field %q has %d bytes, over the limit of %d", f.Name, len(f.Value), record.MaxRecord)
	}
	s.lit("}")
	return Field{Shown: f}
}

// until reads up to the byte end, which must come within max bytes and is not read.
func (s *scanner) until(end byte, max int) []byte {
	rest := s.rest()
	if i := bytes.IndexByte(rest[:min(len(rest), max+1)], end); i >= 0 {
		s.at += i
		return rest[:i:i]
	}
	s.fail("no %q within %d bytes", end, max)
	return nil
}

// base64 reads standard base64 with padding and without loose bits, up to a quotation mark.
func (s *scanner) base64(max int) []byte {
	raw := s.until('"', max)
	// The decoder would pass over line breaks.
	if bytes.ContainsAny(raw, "\r\n") {
		s.fail("base64 with a line break")
	}
	if s.err != nil {
		return nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Strict().Decode(out, raw)
	if err != nil {
		s.fail("not standard base64: %w", err)
		return nil
	}
	return out[:n:n]
}

func (s *scanner) hash() tlog.Hash {
	s.lit(`"`)
	h, err := tlog.ParseHash(string(s.until('"', 44)))
	if err != nil {
		s.fail("%w", err)
	}
	s.lit(`"`)
	return h
}

func (s *scanner) number() uint64 {
	rest := s.rest()
	n := 0
	for n < len(rest) && n < 20 && '0' <= rest[n] && rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(rest[:n]), 10, 64)
	if err != nil || v > math.MaxInt64 || strconv.FormatUint(v, 10) != string(rest[:n]) {
		s.fail("an index is a decimal number below 2^63 without leading zeros")
		return 0
	}
	s.at += n
	return v
}

// object reads an entry: a JSON object of any spelling, for the entry's own canonical form is a claim of its own.
func (s *scanner) object() []byte {
	rest := s.rest()
	rest = rest[:min(len(rest), tlog.MaxEntry)]
	depth, quoted := 0, false
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
		if depth == 0 {
			rest = rest[: i+1 : i+1]
			break
		}
	}
	if err := checkRaw(rest); err != nil {
		s.fail("%w", err)
		return nil
	}
	s.at += len(rest)
	return rest
}

var errEscape = errors.New(`an escape other than \" \\ \n \r \t`)

// text reads a string of text.
func (s *scanner) text() []byte {
	s.lit(`"`)
	rest := s.rest()
	n, escapes := 0, 0
	for n < len(rest) && rest[n] != '"' {
		if rest[n] == '\\' {
			n++
			escapes++
		}
		n++
	}
	if n >= len(rest) {
		s.fail("a string without an end")
		return nil
	}
	raw := rest[:n:n]
	if bytes.ContainsAny(raw, "\t\n\r") || !record.IsText(raw) {
		s.fail("a string with a control character, or not UTF-8")
		return nil
	}
	out := raw
	if escapes > 0 {
		var err error
		if out, err = unescape(raw, escapes); err != nil {
			s.fail("%w", err)
			return nil
		}
	}
	s.at += n
	s.lit(`"`)
	return out
}

func unescape(raw []byte, escapes int) ([]byte, error) {
	out := make([]byte, 0, len(raw)-escapes)
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return slices.Clip(append(out, raw...)), nil
		}
		out = append(out, raw[:i]...)
		switch raw[i+1] { // text saw to it that there is one
		case '"', '\\':
			out = append(out, raw[i+1])
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			return nil, errEscape
		}
		raw = raw[i+2:]
	}
}

// isJSON says whether a body that is not canonical is at least JSON.
func isJSON(body []byte) bool { return utf8.Valid(body) && json.Valid(body) }
