// Package transcript reads what a session's records hold into what people and exports need: who asked which model what, what it
// answered and when, which tools it called, what it cost, who said yes, and how it ended. It reads the shapes of OpenAI's chat,
// completions, responses and embeddings and of Anthropic's messages, as JSON and as streams, and takes everything else as it is.
//
// What it is given was written by callers and models, masked or not, whole or cut, and may be meant to harm. So it never fails:
// what it cannot read it leaves as bytes, and says so in Notes. Nothing in a transcript is safe to print as it is, but for what
// comes from entries; whoever shows it escapes it. It proves nothing, either: that is for tally-verify and the bundle.
package transcript

import (
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A Shape is what a call's bodies look like.
type Shape string

// The shapes. Which API a route speaks is not on record: the path tells, and where it does not, the body.
const (
	Chat        Shape = "chat"        // OpenAI's /v1/chat/completions
	Completions Shape = "completions" // OpenAI's /v1/completions
	Responses   Shape = "responses"   // OpenAI's /v1/responses
	Embeddings  Shape = "embeddings"  // OpenAI's /v1/embeddings
	Messages    Shape = "messages"    // Anthropic's /v1/messages
	HTTP        Shape = "http"        // anything else
)

// A Transcript is one session as it is on record. What is not there is zero, but for what says otherwise.
type Transcript struct {
	Session record.ID      `json:"session"`
	Open    bool           `json:"open,omitempty"`    // it has not ended
	Outcome record.Outcome `json:"outcome,omitempty"` // how it ended, if it was not refused
	Refused string         `json:"refused,omitempty"` // the code by which it was turned away
	Erased  bool           `json:"erased,omitempty"`  // a record of it is gone; see Erasures

	Caller   Caller `json:"caller,omitzero"`
	Remote   string `json:"remote,omitempty"` // the caller's network address
	Route    string `json:"route,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	Shape    Shape  `json:"shape,omitempty"`
	Model    string `json:"model,omitempty"`       // that was asked for
	Answerer string `json:"answered_by,omitempty"` // the model that the answer names

	Policy   string    `json:"policy,omitempty"` // SHA-256, in hex, of the rules by which it was judged
	Verdict  string    `json:"verdict,omitempty"`
	Rule     string    `json:"rule,omitempty"`   // that said so
	Failed   []string  `json:"failed,omitempty"` // rules that could not be evaluated
	Approval *Approval `json:"approval,omitempty"`

	Times   Times   `json:"times"`
	Request Request `json:"request,omitzero"`
	Answer  Answer  `json:"answer,omitzero"`

	Messages []Message `json:"messages,omitempty"` // what was asked, in its order; a system prompt first
	Replies  []Reply   `json:"replies,omitempty"`  // what was answered, one for each choice, in their order
	Usage    Usage     `json:"usage"`
	Events   []Event   `json:"events,omitempty"` // of an answer that came as a stream, or of which the pieces are on record

	Findings []Finding `json:"findings,omitempty"` // what the masker saw
	Erasures []Erasure `json:"erasures,omitempty"`
	Entries  []Entry   `json:"entries"` // of the log, from which all this comes
	Notes    []string  `json:"notes,omitempty"`
}

// A Caller is who asked, and how that was told.
type Caller struct {
	Name    string    `json:"name,omitempty"`
	Key     string    `json:"key,omitempty"`    // which of its keys it showed, never the key
	How     string    `json:"how,omitempty"`    // key, token, oidc, cert, saml
	Issuer  string    `json:"issuer,omitempty"` // who vouches for it
	Subject string    `json:"subject,omitempty"`
	Email   string    `json:"email,omitempty"`
	Groups  []string  `json:"groups,omitempty"`
	At      time.Time `json:"at,omitzero"` // when it logged in
}

// Times are when things happened, by the gateway's clock; zero for what did not happen or is not on record.
type Times struct {
	Received time.Time `json:"received,omitzero"` // the request was there
	Sent     time.Time `json:"sent,omitzero"`     // it went to the model
	First    time.Time `json:"first,omitzero"`    // the answer began
	Ended    time.Time `json:"ended,omitzero"`    // and ended
	Closed   time.Time `json:"closed,omitzero"`   // a later boot gave a session that was cut off its end
}

// Duration returns how long the call took, -1 where that is not on record.
func (t Times) Duration() time.Duration { return between(t.Received, t.Ended) }

// FirstByte returns how long after the request the answer began, -1 where that is not on record.
func (t Times) FirstByte() time.Duration { return between(t.Received, t.First) }

func between(from, to time.Time) time.Duration {
	if from.IsZero() || to.Before(from) {
		return -1
	}
	return to.Sub(from)
}

// A Header is one of a head, as it is on record: credentials are left out.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// A Request is what was sent.
type Request struct {
	Method  string   `json:"method,omitempty"`
	Target  string   `json:"target,omitempty"` // path and query
	Headers []Header `json:"headers,omitempty"`
	Body    Bytes    `json:"body,omitempty"`
	Stream  bool     `json:"stream,omitempty"` // a stream was asked for
	Params  []Param  `json:"params,omitempty"` // what else was asked for, beside the conversation and the tools
	Tools   []Tool   `json:"tools,omitempty"`  // that the model may call
}

// A Param is a member of a request's body, in JSON.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// A Tool is one that a model may call.
type Tool struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// An Answer is what came back, to the caller: the model's answer, or the gateway's in its place.
type Answer struct {
	Status   int      `json:"status,omitempty"` // 0 where there is none on record
	Headers  []Header `json:"headers,omitempty"`
	Body     Bytes    `json:"body,omitempty"`
	Stream   bool     `json:"stream,omitempty"`   // it is a stream of events
	Finish   string   `json:"finish,omitempty"`   // the protocol's own end, as the gateway saw it
	Error    string   `json:"error,omitempty"`    // what went wrong, as the gateway says
	Problem  string   `json:"problem,omitempty"`  // what went wrong, as the body says
	Kept     string   `json:"kept,omitempty"`     // of an interrupted session: what was kept of it
	Redacted int      `json:"redacted,omitempty"` // how often the service's credential was struck out
}

// A Message is one of a conversation.
type Message struct {
	Role  string `json:"role"`           // system, user, assistant, tool, …, as it was given
	Name  string `json:"name,omitempty"` // of who speaks, where one is given
	Parts []Part `json:"parts"`
}

// A Reply is one choice of an answer. Responses and messages have one.
type Reply struct {
	Choice int    `json:"choice"`
	Role   string `json:"role,omitempty"`
	Parts  []Part `json:"parts"`
	Finish string `json:"finish,omitempty"` // why the model stopped, in the provider's word
}

// A Kind says what a part is.
type Kind string

// The kinds of parts.
const (
	Text      Kind = "text"
	Reasoning Kind = "reasoning" // what the model thought
	Refusal   Kind = "refusal"   // the model's words for why it does not answer
	ToolCall  Kind = "call"      // the model wants a tool called
	Result    Kind = "result"    // what a tool said
	Media     Kind = "media"     // an image, a sound, a file
	Other     Kind = "other"     // JSON of some other kind
)

// A Part is a piece of a message.
type Part struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text,omitempty"` // the words, of a result too; of something other the JSON
	Call *Call  `json:"call,omitempty"` // of a call; of a result its ID, and its name if that is given
	File *File  `json:"file,omitempty"` // of media
}

// A Call is a model's wish to have a tool called.
type Call struct {
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments,omitempty"` // JSON, if the model made it well
}

// A File is something that is not text. Its content stays in the body.
type File struct {
	Type string `json:"type,omitempty"` // image, audio, document, …, or a media type
	Name string `json:"name,omitempty"`
	URL  string `json:"url,omitempty"`  // where it lies, if it is not in the body
	Size int    `json:"size,omitempty"` // in bytes as it stands in the body, in base 64
}

// Usage is what an answer says that it used, in tokens; -1 for what it does not say.
type Usage struct {
	In         int64 `json:"in"` // of what was asked, what came from a cache or went into one included
	Out        int64 `json:"out"`
	CacheRead  int64 `json:"cache_read"`
	CacheWrite int64 `json:"cache_write"`
	Reasoning  int64 `json:"reasoning"` // of Out
}

// An Event is a piece of an answer, as it came: of a stream of events one of them, with the comments before it.
type Event struct {
	Raw Bytes `json:"raw"`
	// At is when it was there, after the answer began (Times.First), to the microsecond; -1 where that is not on record. An event
	// is never before the one before it. Add it to Times.FirstByte for the time since the request.
	At    time.Duration `json:"-"`
	Type  string        `json:"type"`            // see below
	Says  []Delta       `json:"says,omitempty"`  // what it adds to the replies
	Ended string        `json:"ended,omitempty"` // why the model stopped, in the provider's word
	// Problem is what went wrong, in the provider's words, where it says so.
	Problem string `json:"problem,omitempty"`
	Masked  bool   `json:"masked,omitempty"` // a mask stands in it
}

// The types of events that are no event of their protocol's. Of others, the type is the name that the event has, or that its data
// has: chat.completion.chunk, content_block_delta, response.output_text.delta, …; [DONE] is OpenAI's end.
const (
	Comment = "comment" // nothing that a client hears of
	Piece   = "piece"   // of a body that is no stream of events
	Data    = "data"    // data of no known form
	Cut     = "cut"     // an event that has no end
)

// A Delta is what an event adds to one part of one reply.
type Delta struct {
	Choice int    `json:"choice"`
	Part   int    `json:"part"`           // in the reply's Parts
	Kind   Kind   `json:"kind"`           // of the part
	Text   string `json:"text"`           // of a call, to its arguments
	Name   string `json:"name,omitempty"` // of a call, in its first delta
}

// An Approval is the story of a question to people.
type Approval struct {
	Asked   time.Time `json:"asked,omitzero"`
	Rule    string    `json:"rule,omitempty"`    // by which they were asked
	Message string    `json:"message,omitempty"` // the rule's words
	Need    int       `json:"need,omitempty"`    // how many must say yes
	Groups  []string  `json:"groups,omitempty"`  // who is asked; none for all who approve
	Until   time.Time `json:"until,omitzero"`    // when no answer becomes no
	Valid   string    `json:"valid,omitempty"`   // how long a yes can be used, such as 1h30m; "" for Until
	Words   []Word    `json:"words,omitempty"`   // what they said
	Expired time.Time `json:"expired,omitzero"`  // nobody answered, or nobody used the yes, in time
	Used    time.Time `json:"used,omitzero"`     // the yes was used, by this session
	// Of is the session that asked, where this one used the yes that another one got. Of that one's story nothing else is here.
	Of record.ID `json:"of,omitzero"`
}

// A Word is what one person said.
type Word struct {
	Time   time.Time `json:"time"`
	Said   string    `json:"said"` // agreed, granted, broke_glass or denied, as in FORMAT.md §6.9
	Actor  string    `json:"actor,omitempty"`
	Email  string    `json:"email,omitempty"`
	How    string    `json:"how,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Yes says whether the word was a yes.
func (w Word) Yes() bool {
	return w.Said == record.Agreed || w.Said == record.Granted || w.Said == record.Glass
}

// A Finding is what the masker saw.
type Finding struct {
	In    string `json:"in"` // request or answer
	Kind  string `json:"kind"`
	Rule  string `json:"rule"`
	Count int    `json:"count"`
}

// An Erasure says that records were destroyed.
type Erasure struct {
	Time   time.Time `json:"time"`
	Cause  string    `json:"cause"` // request or retention
	Actor  string    `json:"actor,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Basis  string    `json:"basis,omitempty"` // the legal ground
}

// An Entry is one of the log's about the session.
type Entry struct {
	Index   uint64         `json:"index"`
	Kind    record.Kind    `json:"kind"`
	By      string         `json:"by"`
	Time    time.Time      `json:"time"`
	Outcome record.Outcome `json:"outcome,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	// Fields is how many its record has, and Shown how many are here: fewer where some are withheld, 0 where it was erased.
	Fields int `json:"fields"`
	Shown  int `json:"shown"`
}
