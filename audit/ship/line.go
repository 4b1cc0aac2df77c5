package ship

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// maxValue is the longest string of a record in a line, in bytes.
const maxValue = 256

// fields are all that can be shipped of a record. What is not here cannot be named: bodies, heads, targets, which have queries, words
// that people typed, and originals.
var fields = []string{
	record.FieldCaller, record.FieldKey, record.FieldHow, record.FieldIssuer, record.FieldGroups, record.FieldRemote,
	record.FieldRoute, record.FieldModel, record.FieldMethod, record.FieldStatus, record.FieldFinish,
	record.FieldPolicy, record.FieldVerdict, record.FieldRule, record.FieldFindings,
	record.FieldNeed, record.FieldApproval, record.FieldActor, record.FieldActorHow, record.FieldWhat, record.FieldBasis,
}

// Fields returns the names of the fields that can be shipped: who called and from where, by which route for which model, how that was
// judged and what the masker counted, how it ended; and of approvals, readings and erasures, who did what, but not what was searched for.
func Fields() []string { return slices.Clone(fields) }

// CheckFields says whether fields of these names can be shipped.
func CheckFields(names []string) error {
	for _, n := range names {
		if !slices.Contains(fields, n) {
			return fmt.Errorf("ship: the field %.60q is not shipped; there are %s", n, strings.Join(fields, ", "))
		}
	}
	return nil
}

// line returns an entry as it is shipped.
func (s *Shipper) line(origin string, e *audit.Seen) ([]byte, error) {
	b := make([]byte, 0, 1024)
	b = appendText(append(b, `{"id":`...), fmt.Sprintf("%s:%d", origin, e.Index))
	b = e.Entry.Time.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	b = appendText(append(b, `","kind":`...), string(e.Entry.Kind))
	b = appendText(append(b, `,"origin":`...), origin)
	b = strconv.AppendUint(append(b, `,"index":`...), e.Index, 10)
	leaf := tlog.HashLeaf(e.Bytes)
	b, _ = leaf.AppendText(append(b, `,"leaf":"`...))
	// An entry is canonical: JSON without white space. What is not would break lines for everybody behind it.
	if bytes.ContainsAny(e.Bytes, "\r\n") || !json.Valid(e.Bytes) {
		return nil, fmt.Errorf("ship: entry %d is no JSON on one line", e.Index)
	}
	b = append(append(b, `","entry":`...), e.Bytes...)
	if s.c.Desk != nil && e.Entry.PayloadSize > 0 {
		b = s.appendRecord(b, e)
	}
	return append(b, "}\n"...), nil
}

func (s *Shipper) appendRecord(b []byte, e *audit.Seen) []byte {
	switch {
	case errors.Is(e.Missing, tlog.ErrNotFound):
		return append(b, `,"missing":"erased"`...)
	case e.Missing != nil:
		return append(b, `,"missing":"unreadable"`...)
	}
	b = append(b, `,"record":{`...)
	first := true
	for _, name := range fields {
		v, ok := e.Record.Get(name)
		if !ok || !s.fields[name] {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendText(b, name)
		b = appendValue(append(b, ':'), name, v)
	}
	return append(b, '}')
}

func appendValue(b []byte, name string, v []byte) []byte {
	switch name {
	case record.FieldStatus:
		if n, err := strconv.ParseUint(string(v), 10, 16); err == nil {
			return strconv.AppendUint(b, n, 10)
		}
	case record.FieldGroups:
		var groups []string
		if json.Unmarshal(v, &groups) == nil {
			b = append(b, '[')
			for i, g := range groups[:min(len(groups), 64)] {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendText(b, cut(g))
			}
			return append(b, ']')
		}
	case record.FieldFindings:
		if counts, ok := findings(v); ok {
			return append(b, counts...)
		}
	case record.FieldWhat:
		// What somebody searched for are words that people typed.
		if words := audit.Search.String(); strings.HasPrefix(string(v), words+", ") {
			return appendText(b, words)
		}
	}
	return appendText(b, cut(string(v)))
}

// findings returns how often the masker saw things of each kind, as a JSON object. Which of its rules saw them stays in the record.
func findings(v []byte) ([]byte, bool) {
	var rows [][]any
	if json.Unmarshal(v, &rows) != nil {
		return nil, false
	}
	counts := make(map[string]float64)
	for _, row := range rows {
		if len(row) != 3 {
			return nil, false
		}
		kind, isText := row[0].(string)
		n, isNumber := row[2].(float64)
		if !isText || !isNumber {
			return nil, false
		}
		counts[cut(kind)] += n
	}
	out, err := json.Marshal(counts) // which sorts
	return out, err == nil
}

// cut returns s, or as much of its beginning as may be shipped.
func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	n := maxValue - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// appendText appends a JSON string. What is not UTF-8 in it is replaced; what ends a line for some reader is escaped.
func appendText(b []byte, s string) []byte {
	text, _ := json.Marshal(s) // of a string it does not fail
	return append(b, text...)
}
