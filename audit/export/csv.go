package export

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// columns are those of the table, in their order. FORMATS.md says what they mean.
var columns = []struct {
	name  string
	value func(*cargo, *session) string
}{
	{"session", func(_ *cargo, s *session) string { return s.ID.String() }},
	{"began", func(_ *cargo, s *session) string { return s.began().UTC().Format("2006-01-02T15:04:05.000Z") }},
	{"duration_ms", func(_ *cargo, s *session) string { return ms(s.Times.Duration()) }},
	{"first_byte_ms", func(_ *cargo, s *session) string { return ms(s.Times.FirstByte()) }},
	{"outcome", func(_ *cargo, s *session) string { return s.end() }},
	{"status", func(_ *cargo, s *session) string { return number(int64(s.Answer.Status), s.Answer.Status > 0) }},
	{"refused", func(_ *cargo, s *session) string { return s.Refused }},
	{"caller", func(_ *cargo, s *session) string { return s.Caller.Name }},
	{"caller_how", func(_ *cargo, s *session) string { return s.Caller.How }},
	{"remote", func(_ *cargo, s *session) string { return s.Remote }},
	{"route", func(_ *cargo, s *session) string { return s.Route }},
	{"model", func(_ *cargo, s *session) string { return s.Model }},
	{"answered_by", func(_ *cargo, s *session) string { return s.Answerer }},
	{"shape", func(_ *cargo, s *session) string { return string(s.Shape) }},
	{"stream", func(_ *cargo, s *session) string { return strconv.FormatBool(s.Answer.Stream) }},
	{"finish", func(_ *cargo, s *session) string {
		if len(s.Replies) == 0 {
			return ""
		}
		return s.Replies[0].Finish
	}},
	{"tokens_in", func(_ *cargo, s *session) string { return number(s.Usage.In, s.Usage.In >= 0) }},
	{"tokens_out", func(_ *cargo, s *session) string { return number(s.Usage.Out, s.Usage.Out >= 0) }},
	{"request_bytes", func(_ *cargo, s *session) string { return strconv.Itoa(len(s.Request.Body)) }},
	{"answer_bytes", func(_ *cargo, s *session) string { return strconv.Itoa(len(s.Answer.Body)) }},
	{"tool_calls", func(_ *cargo, s *session) string {
		var names []string
		for _, c := range s.Calls() {
			names = append(names, c.Name)
		}
		return strings.Join(names, " ")
	}},
	{"verdict", func(_ *cargo, s *session) string { return s.Verdict }},
	{"rule", func(_ *cargo, s *session) string { return s.Rule }},
	{"approval", func(_ *cargo, s *session) string { return s.approval() }},
	{"decided_by", func(_ *cargo, s *session) string {
		var names []string
		if s.Approval != nil {
			for _, w := range s.Approval.Words {
				names = append(names, w.Actor)
			}
		}
		return strings.Join(names, " ")
	}},
	{"findings", func(_ *cargo, s *session) string { return s.findings() }},
	{"erased", func(_ *cargo, s *session) string { return strconv.FormatBool(s.Erased) }},
	{"error", func(_ *cargo, s *session) string { return s.Answer.Error }},
	{"log", func(c *cargo, _ *session) string { return c.origin }},
	{"first_entry", func(_ *cargo, s *session) string { return strconv.FormatUint(s.Transcript.Entries[0].Index, 10) }},
	{"last_entry", func(_ *cargo, s *session) string {
		return strconv.FormatUint(s.Transcript.Entries[s.last()].Index, 10)
	}},
	{"last_leaf", func(_ *cargo, s *session) string { return s.leaf(s.last()).String() }},
	{"checkpoint", func(c *cargo, _ *session) string { return strconv.FormatUint(c.tree.Size, 10) }},
}

// csv writes a table as RFC 4180 has it, with a line of names before a row for each session.
func (c *cargo) csv() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true
	row := make([]string, len(columns))
	for i := range columns {
		row[i] = columns[i].name
	}
	w.Write(row)
	for k := range c.sessions {
		for i := range columns {
			row[i] = cell(columns[i].value(c, &c.sessions[k]))
		}
		w.Write(row)
	}
	w.Flush()
	return b.Bytes(), w.Error()
}

// cell makes a value harmless to a spreadsheet: what could begin a formula, at its beginning or where a reader with other ideas of
// separators could begin a cell, has an apostrophe before it, and control characters are spaces. A hash in base64, which may begin with a plus,
// has one as well.
func cell(s string) string {
	var b strings.Builder
	begins := true
	for _, r := range s {
		if strings.ContainsRune("\r\n\t", r) {
			begins, r = true, ' '
		}
		if begins && strings.ContainsRune("=+-@\uff1d\uff0b\uff0d\uff20", r) {
			b.WriteByte('\'')
		}
		if r < ' ' || 0x7f <= r && r < 0xa0 {
			r = ' '
		}
		b.WriteRune(r)
		begins = begins && r == ' ' || r == ';' || r == ','
	}
	return b.String()
}

func ms(d time.Duration) string {
	if d < 0 {
		return ""
	}
	return strconv.FormatFloat(millis(d), 'f', -1, 64)
}

func number(n int64, known bool) string {
	if !known {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// last returns the place of the entry that ends the session, or of the last one where it has not ended.
func (s *session) last() int {
	for i, e := range slices.Backward(s.Transcript.Entries) {
		if e.Kind == record.Response || e.Kind == record.Refused {
			return i
		}
	}
	return len(s.Transcript.Entries) - 1
}

// approval says in one word what became of the question to people; "" where nobody was asked.
func (s *session) approval() string {
	a := s.Approval
	switch {
	case a == nil:
		return ""
	case !a.Used.IsZero():
		return "used"
	case !a.Expired.IsZero():
		return "expired"
	case len(a.Words) > 0:
		return a.Words[len(a.Words)-1].Said
	}
	return "asked"
}

func (s *session) findings() string {
	var all []string
	for _, f := range s.Findings {
		all = append(all, fmt.Sprintf("%s %s×%d", f.In, f.Kind, f.Count))
	}
	return strings.Join(all, ", ")
}
