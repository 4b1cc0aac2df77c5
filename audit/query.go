package audit

import (
	"errors"
	"time"
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
	ByOutcome  = "outcome"  //
	ByRule     = "rule"     //
	ByVerdict  = "verdict"  //
	ByApproval = "approval" // what was said, or who said it
	ByFinding  = "finding"  // a kind
	BySession  = "session"  //
	ByTokens   = "tokens"   // a number: of request and answer together
	ByDuration = "duration" // microseconds
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

	said string // as it is shown
}

// ParseQuery reads a query. All its terms must hold, with one blank or more between two:
//
//	word  "words in a row"  begin*       in the text of requests, answers and what people said
//	caller:alice  group:  model:  route:  rule:    begin* too, and "with blanks"
//	status:404  status:4xx  status:>=400  tokens:>1000  duration:>2s  duration:<300ms
//	outcome:truncated  verdict:ask  approval:denied  finding:CARD  session:ID
//	since:2h  since:2026-11-01  until:2026-11-01T12:00:00Z    when it began
//	value:"4111 1111 1111 1111"          what stands in records as a mask; so does it in words, if it is found there
//	-word  -"words in a row"  -field:value    does not hold
func ParseQuery(text string, now time.Time) (Wanted, error) {
	return nil, ErrQuery
}

func (w Wanted) masked(masks []Masker) (Wanted, []string) { return w, nil }

func (w Wanted) words() bool { return false }

// String returns the query as it is put on record.
func (w Wanted) String() string { return "" }
