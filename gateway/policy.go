package gateway

import (
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A Verdict says what becomes of a call. The zero value refuses.
type Verdict uint8

const (
	Refuse Verdict = iota
	Ask            // let people decide, before the model sees anything
	Allow
)

// String returns the verdict's word.
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Ask:
		return "ask"
	}
	return "refuse"
}

// A Judgement is what a policy says of one call, and which rule said it.
type Judgement struct {
	Verdict Verdict
	Rule    string // the name of the deciding rule: 1 to 64 of a-z, 0-9, '-', '_', '.'; "" where none applied
	Message string // for the caller, where it is not allowed; "" for a general one
	// Failed names rules that could not be evaluated. Such a rule counts as Ask.
	Failed []string
	// Approval says who must be asked, where the verdict is Ask.
	Approval Approval
	// Quotas are those that the call counts against, where it is not refused. They are the policy's own, and not changed.
	Quotas []*Quota
}

// An Approval says whose yes a call needs. The zero value needs one person of any group that may approve at all.
type Approval struct {
	Groups []string      // of whom; nil for all approvers
	Count  int           // how many distinct persons, none of them the caller; 0 means 1
	Within time.Duration // how long they have; 0 means the gateway's default. No answer is no
	Valid  time.Duration // how long a yes can be used, which ends with Within in any case; 0 means until then
	Hold   time.Duration // how long the call itself is kept waiting; 0 means the gateway's default, less means not at all
}

// Facts are what rules are about: who calls, what is asked for, and what is known of it. Strings and slices are valid during
// the judgement.
//
// A fact of the second half can be there, can be absent, or can be unknown: a body that is packed says nothing, and a
// member that is not of its kind could be read otherwise by the model. To take the unknown for the absent would let a
// caller choose what rules see, so Known says what is known. Nothing is, by default.
type Facts struct {
	Caller *Principal

	Route  string // the route's name
	API    string // openai, anthropic or http
	Method string
	Path   string // without query
	Size   int64  // bytes of the body

	Known Known

	// Of a body that is JSON.
	Model          string // as the body names it; "" where there is none
	Stream         bool   // the answer is asked for as a stream
	MaxTokens      int64  // the most that the answer may have
	HasMaxTokens   bool   // MaxTokens stands in the body
	Temperature    float64
	HasTemperature bool
	Messages       []Message // the conversation, instructions to the model first
	Tools          []string  // names of the tools that the model may use; of one built in that has no name, its type
	Params         []Param   // the body's other top-level members, in their order

	Findings []Finding // what the masker saw in the request
	Now      time.Time
}

// Known is a set of facts that are known. The others of Facts always are, as are a principal's name and key.
type Known uint16

const (
	KnownCaller Known = 1 << iota // what else there is of the principal
	KnownModel
	KnownStream
	KnownMaxTokens
	KnownTemperature
	KnownMessages
	KnownTools
	KnownParams
	KnownFindings

	// KnownBody is all that a body can say.
	KnownBody = KnownModel | KnownStream | KnownMaxTokens | KnownTemperature | KnownMessages | KnownTools | KnownParams
)

// A Message is one turn of a conversation, without its content.
type Message struct {
	Role  string // of an item without a role, its type
	Size  int    // bytes of its text, with what it tells tools and what tools told it
	Parts int    // images, files and so on beside the text
}

// A Param is a top-level member of a body. Value is an int64, a float64, a bool, a string of at most 256 bytes, or nil for
// anything else: null, a list, an object, a longer string.
type Param struct {
	Name  string
	Value any
}

// A Finding says how often something that the masker knows stands in a request. It has no value in it.
type Finding struct {
	Kind  string // as the masker names it, in upper case: CARD, IBAN, EMAIL, SECRET …
	Rule  string // which rule of that kind; "" for the built-in one
	Count int
}

// A Policy judges calls. It never changes: another version is another Policy. Safe for concurrent use, and a judgement costs
// microseconds.
type Policy interface {
	Judge(f *Facts) Judgement
	// Version is the SHA-256 of Text, by which request entries name the policy that judged them.
	Version() tlog.Hash
	// Text is the policy as it was written.
	Text() []byte
}
