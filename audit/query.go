package audit

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog/record"
)

// MaxQuery is how long a query may be, in bytes, and MaxTerms of how many terms.
const (
	MaxQuery = 4 << 10
	MaxTerms = 32
)

// ErrQuery says that a query cannot be read; the error says what to write instead.
var ErrQuery = errors.New("audit: the query cannot be read")

// The fields that a term can be about.
const (
	ByText     = ""         // words
	ByCaller   = "caller"   // its name, or its e-mail address
	ByGroup    = "group"    //
	ByModel    = "model"    //
	ByRoute    = "route"    //
	ByStatus   = "status"   // a number
	ByOutcome  = "outcome"  // one of record's, or refused, or open; of a refusal, why
	ByRule     = "rule"     //
	ByVerdict  = "verdict"  //
	ByApproval = "approval" // what was said, or who said it; none where nobody was asked
	ByFinding  = "finding"  // a kind
	BySession  = "session"  //
	ByTokens   = "tokens"   // a number: of request and answer together; none where nobody said how many
	ByDuration = "duration" // microseconds; none while a session is open
	ByTime     = "time"     // when it began, in microseconds since 1970
)

// Wanted is a query that was read: sessions of which all terms hold. None is every session.
type Wanted []Term

// A Term is one thing that must hold of a session, or must not.
type Term struct {
	Not   bool
	Field string // one of the By constants
	// Of words: the session's text has one of these, each one or more words in a row; Prefix says that the last word may go on. Of the
	// fields with words: the field is that, in any case; Prefix likewise.
	Any    []string
	Prefix bool
	// Of the fields with numbers: the number is there and in between, both included.
	From, To int64

	bare  bool   // a word without quotes: those in a row are searched for values together
	value bool   // it was said to be one
	said  string // as it was written, the field and the minus left out
	field string // as it was written
}

// ParseQuery reads a query. All its terms must hold, with one blank or more between two:
//
//	word  "words in a row"  begin*       in the text of requests, answers and what people said
//	caller:alice  group:  model:  route:  rule:    begin* too, and "with blanks"
//	status:404  status:4xx  status:>=400  tokens:>1000  tokens:10..20  duration:>2s  duration:<300ms
//	outcome:truncated  verdict:ask  approval:denied  approval:bob  finding:CARD  session:ID
//	since:2h  since:7d  since:2026-11-01  until:2026-11-01T12:00:00Z    when it began
//	value:"4111 1111 1111 1111"          what stands in records as a mask; so does it in words, if it is found there
//	-word  -"words in a row"  -field:value    does not hold
//
// A day is one of UTC; until a day is until its end. Times like 2h are before now.
func ParseQuery(text string, now time.Time) (Wanted, error) {
	if len(text) > MaxQuery || !utf8.ValidString(text) {
		return nil, fmt.Errorf("%w: it is UTF-8 of at most %d bytes", ErrQuery, MaxQuery)
	}
	var w Wanted
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		var t Term
		var err error
		if t, text, err = parseTerm(text, now); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrQuery, err)
		}
		if w = append(w, t); len(w) > MaxTerms {
			return nil, fmt.Errorf("%w: it has more than %d terms; put words that follow each other in quotes", ErrQuery, MaxTerms)
		}
	}
	return w, nil
}

// parseTerm reads the first term of a text, and returns what follows.
func parseTerm(text string, now time.Time) (t Term, rest string, err error) {
	whole := text
	if after, ok := strings.CutPrefix(text, "-"); ok && after != "" && !unicode.IsSpace(firstRune(after)) {
		t.Not, text = true, after
	}
	n := 0
	for n < len(text) && ('a' <= text[n]|0x20 && text[n]|0x20 <= 'z' || text[n] == '_') {
		n++
	}
	if n > 0 && n < len(text) && text[n] == ':' {
		t.field, text = strings.ToLower(text[:n]), text[n+1:]
	}
	value, quoted := "", false
	if open := firstRune(text); open == '"' || open == '“' || open == '„' {
		quoted = true
		inner := text[utf8.RuneLen(open):]
		end := strings.IndexAny(inner, "\"”")
		if open == '„' {
			end = strings.IndexAny(inner, "\"“”")
		}
		if end < 0 {
			return t, "", fmt.Errorf(`the quotes at %s do not end; write "words in a row"`, shorten(text))
		}
		value, text = inner[:end], inner[end+utf8.RuneLen(firstRune(inner[end:])):]
	} else {
		end := strings.IndexFunc(text, unicode.IsSpace)
		if end < 0 {
			end = len(text)
		}
		if value, text = text[:end], text[end:]; strings.HasSuffix(value, "*") {
			value, text = value[:len(value)-1], "*"+text
		}
	}
	if after, ok := strings.CutPrefix(text, "*"); ok {
		t.Prefix, text = true, after
	}
	if text != "" && !unicode.IsSpace(firstRune(text)) {
		return t, "", fmt.Errorf("a blank is missing before %s", shorten(text))
	}
	t.said, t.bare = value, !quoted && t.field == "" && !t.Prefix && !t.Not
	if !quoted && t.field == "" && (value == "AND" || value == "OR" || value == "NOT") {
		return t, "", fmt.Errorf(`there is no %s: all terms must hold, and -word is what must not; write "%s" for the word itself`, value, value)
	}
	return t, text, t.fill(value, whole, now)
}

// fill puts a value into a term as its field wants it.
func (t *Term) fill(value, whole string, now time.Time) (err error) {
	t.Field = t.field
	switch t.field {
	case "", "value":
		t.Field, t.value = ByText, t.field == "value"
		if !strings.ContainsFunc(value, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }) {
			return fmt.Errorf("there is no letter or digit in %s to look for", shorten(whole))
		}
		t.Any = []string{value}
		return nil
	case ByCaller, ByGroup, ByModel, ByRoute, ByRule, ByFinding, ByApproval, ByOutcome, ByVerdict:
		if value == "" && !t.Prefix {
			return fmt.Errorf("what is %s: to be? Write %s:NAME, or %s:* for any", t.field, t.field, t.field)
		}
		t.Any = []string{value}
		if !t.Prefix {
			err = oneOf(t.field, value)
		}
		return err
	}
	if t.Prefix {
		return fmt.Errorf("%s: takes no *", t.field)
	}
	switch t.field {
	case BySession:
		id, err := record.ParseID(strings.ToLower(value))
		if err != nil {
			return fmt.Errorf("%s is no session's id; write all 36 characters of it", shorten(value))
		}
		t.Any = []string{id.String()}
		return nil
	case ByStatus:
		return t.status(value)
	case ByTokens:
		return t.between(value, "tokens:>1000, tokens:<=50 or tokens:10..20", func(s string) (int64, error) {
			n, err := strconv.ParseInt(s, 10, 64)
			if err == nil && n < 0 {
				err = errors.New("below zero")
			}
			return n, err
		})
	case ByDuration:
		usage := "duration:>2s, duration:<300ms or duration:1s..2m"
		if !strings.ContainsAny(value, "<>.") {
			return fmt.Errorf("no call takes exactly %s; write %s", shorten(value), usage)
		}
		return t.between(value, usage, func(s string) (int64, error) {
			d, err := time.ParseDuration(s)
			if err == nil && d < 0 {
				err = errors.New("below zero")
			}
			return d.Microseconds(), err
		})
	case "since", "until":
		from, to, err := moment(value, now)
		if err != nil {
			return fmt.Errorf("%s:%s: write %s:2h, %s:7d, %s:2026-11-01 or %s:2026-11-01T12:00:00Z", t.field, shorten(value), t.field, t.field, t.field, t.field)
		}
		t.Field, t.From, t.To = ByTime, from.UnixMicro(), math.MaxInt64
		if t.field == "until" {
			t.From, t.To = math.MinInt64, to.UnixMicro()
		}
		return nil
	}
	return fmt.Errorf("there is no field %s; there are caller, group, model, route, rule, status, outcome, verdict, approval, finding, session, tokens, duration, since, until and value. "+
		"To look for the words, write them in quotes", shorten(t.field))
}

// words that a field can have, where they are few.
var wordsOf = map[string][]string{
	ByVerdict: {"allow", "ask", "refuse"},
	ByOutcome: {
		string(record.Complete), string(record.Truncated), string(record.Denied), string(record.ClientGone), string(record.UpstreamError), string(record.Limit),
		string(record.Internal), string(record.Interrupted), string(record.Waiting), string(record.Resumed), "refused", "open",
	},
}

// oneOf says what else a field can be. Why a call was refused stands with the outcomes, and those words are the gateway's.
func oneOf(field, value string) error {
	words := wordsOf[field]
	if words == nil || slices.Contains(words, strings.ToLower(value)) {
		return nil
	}
	if field == ByOutcome && strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" && len(value) <= 40 {
		return nil
	}
	return fmt.Errorf("%s: is never %s; it is one of %s", field, shorten(value), strings.Join(words, ", "))
}

func (t *Term) status(value string) error {
	const usage = "status:404, status:4xx, status:>=400 or status:400..499"
	if len(value) == 3 && strings.EqualFold(value[1:], "xx") && '1' <= value[0] && value[0] <= '9' {
		t.From = int64(value[0]-'0') * 100
		t.To = t.From + 99
		return nil
	}
	return t.between(value, usage, func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil && (n < 100 || n > 999) {
			err = errors.New("no status")
		}
		return n, err
	})
}

// between reads a number, an inequality, or two numbers.
func (t *Term) between(value, usage string, read func(string) (int64, error)) (err error) {
	t.From, t.To = 0, math.MaxInt64
	number := func(s string) (n int64) {
		if err == nil {
			n, err = read(s)
		}
		return n
	}
	if a, b, ok := strings.Cut(value, ".."); ok {
		t.From, t.To = number(a), number(b)
	} else if s, ok := strings.CutPrefix(value, ">="); ok {
		t.From = number(s)
	} else if s, ok := strings.CutPrefix(value, ">"); ok {
		t.From = number(s)
		if t.From < math.MaxInt64 {
			t.From++
		}
	} else if s, ok := strings.CutPrefix(value, "<="); ok {
		t.To = number(s)
	} else if s, ok := strings.CutPrefix(value, "<"); ok {
		t.To = number(s) - 1
	} else {
		t.From = number(value)
		t.To = t.From
	}
	if err != nil {
		return fmt.Errorf("%s: cannot be %s; write %s", t.field, shorten(value), usage)
	}
	return nil
}

// moment reads a time, or so long before now; a day has a beginning and an end.
func moment(s string, now time.Time) (from, to time.Time, err error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day, day.AddDate(0, 0, 1).Add(-time.Microsecond), nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, at, nil
	}
	n := len(s) - 1
	days := 0
	switch {
	case n < 1:
		return from, to, errRequest
	case s[n] == 'd':
		days = 1
	case s[n] == 'w':
		days = 7
	}
	var before time.Duration
	if days > 0 {
		k, err := strconv.ParseUint(s[:n], 10, 14)
		if err != nil {
			return from, to, err
		}
		before = time.Duration(k) * time.Duration(days) * 24 * time.Hour
	} else if before, err = time.ParseDuration(s); err != nil || before < 0 {
		return from, to, errRequest
	}
	return now.Add(-before), now.Add(-before), nil
}

func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// shorten quotes what stands first in a text, for a message.
func shorten(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strconv.Quote(s)
}

// String returns the query in words like those that were read, each run of words that was masked in quotes.
func (w Wanted) String() string {
	var b strings.Builder
	for i := range w {
		t := &w[i]
		if i > 0 {
			b.WriteByte(' ')
		}
		if t.Not {
			b.WriteByte('-')
		}
		if t.field != "" {
			b.WriteString(t.field + ":")
		}
		if strings.ContainsFunc(t.said, unicode.IsSpace) || t.said == "" {
			b.WriteString(`"` + t.said + `"`)
		} else {
			b.WriteString(t.said)
		}
		if t.Prefix {
			b.WriteByte('*')
		}
	}
	return b.String()
}

// words says whether words are looked for that may be shown.
func (w Wanted) words() bool {
	return slices.ContainsFunc(w, func(t Term) bool { return t.Field == ByText && !t.Not })
}

// masked returns the query with, of each value that a masker finds, the masks it makes as what is looked for as well, and with masks
// in place of it in what the query says. notes are what to know of it.
func (w Wanted) masked(masks []Masker) (out Wanted, notes []string) {
	for i := 0; i < len(w); i++ {
		if !w[i].bare {
			t, said := w[i].withMasks(masks)
			out, notes = append(out, t), append(notes, said...)
			continue
		}
		// Words in a row may be one value, such as a card's number in groups of four.
		n := i
		for n < len(w) && w[n].bare {
			n++
		}
		run, said := maskRun(w[i:n], masks)
		out, notes = append(out, run...), append(notes, said...)
		i = n - 1
	}
	slices.Sort(notes)
	return out, slices.Compact(notes)
}

// all puts the masks of all maskers into a text.
func all(text string, masks []Masker) string {
	for _, m := range masks {
		text = m(text)
	}
	return text
}

// withMasks looks for values in one term.
func (t Term) withMasks(masks []Masker) (Term, []string) {
	t.said = all(t.said, masks)
	if t.Field != ByText {
		return t, nil
	}
	text := t.Any[0]
	t.Any = []string{text}
	var notes []string
	found := false
	for _, m := range masks {
		masked := m(text)
		found = found || masked != text
		notes = append(notes, t.or(masked)...)
	}
	if t.value && !found {
		notes = append(notes, "no mask is made of "+shorten(t.said)+"; it was looked for as words")
	}
	return t, notes
}

// or has a term look for a text as well, unless nothing in it is to be found.
func (t *Term) or(text string) (notes []string) {
	if slices.Contains(t.Any, text) {
		return nil
	}
	if left := dropped.ReplaceAllString(text, ""); left != text && !strings.ContainsFunc(left, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }) {
		for _, m := range dropped.FindAllStringSubmatch(text, -1) {
			notes = append(notes, fmt.Sprintf("of a %s nothing stays in records, so that it cannot be looked for; finding:%s finds where one was", m[1], m[1]))
		}
		return notes
	}
	t.Any = append(t.Any, text)
	return nil
}

// dropped is a mask that tells of a value only what kind it was of.
var dropped = regexp.MustCompile(`⟦([A-Z0-9_]{2,32})⟧`)

// maskRun looks for values in words that stand in a row. Where it finds some, the words from the first that is a part of one to the
// last become one term.
func maskRun(run Wanted, masks []Masker) (Wanted, []string) {
	var words []string
	for _, t := range run {
		words = append(words, t.said)
	}
	text := strings.Join(words, " ")
	var forms [][]string
	head, tail := len(words), len(words) // how many words all forms have in common
	for _, m := range append(slices.Clone(masks), func(s string) string { return all(s, masks) }) {
		form := strings.Split(m(text), " ")
		forms = append(forms, form)
		n := 0
		for n < min(head, len(form)) && form[n] == words[n] {
			n++
		}
		head = n
		n = 0
		for n < min(tail, len(form)-head, len(words)-head) && form[len(form)-1-n] == words[len(words)-1-n] {
			n++
		}
		tail = n
	}
	if head == len(words) {
		return run, nil
	}
	part := func(form []string) string { return strings.Join(form[head:max(head, len(form)-tail)], " ") }
	t := Term{Any: []string{part(words)}, said: part(forms[len(forms)-1])}
	var notes []string
	for _, form := range forms[:len(forms)-1] {
		notes = append(notes, t.or(part(form))...)
	}
	out := append(slices.Clone(run[:head]), t)
	return append(out, run[len(run)-tail:]...), notes
}
