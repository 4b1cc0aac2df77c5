package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// Version is the version of the entry format that this package writes, and the only one it reads.
const Version = 1

// A Kind says what an entry states. The values are part of the format.
type Kind string

// The kinds.
const (
	Start     Kind = "start"     // a writer began a boot; its first entry
	Stop      Kind = "stop"      // a writer ended a boot in order; its last entry
	Heartbeat Kind = "heartbeat" // the writer lives; which sessions are open
	Request   Kind = "request"   // a call as it was sent to the model; a session's first entry
	Response  Kind = "response"  // how a call ended; a session's last entry
	Refused   Kind = "refused"   // a call that was turned away and sent nowhere; a session's only entry
	Policy    Kind = "policy"    // the rules changed
	Approval  Kind = "approval"  // a person was asked, or decided
	Access    Kind = "access"    // a person read a record
	Erasure   Kind = "erasure"   // a payload was destroyed
	Gap       Kind = "gap"       // numbers that were given to entries that were lost
)

// An Outcome says how a session ended. The values are part of the format.
type Outcome string

// The outcomes of a response entry.
const (
	Complete      Outcome = "complete"       // transport and protocol both came to their own end
	Truncated     Outcome = "truncated"      // the answer stopped before its end
	ClientGone    Outcome = "client_gone"    // the caller left before the end
	UpstreamError Outcome = "upstream_error" // the model could not be reached, or its answer could not be read
	Limit         Outcome = "limit"          // a time or size limit of the gateway ended the call
	Internal      Outcome = "internal"       // a fault of the gateway ended the call
	Interrupted   Outcome = "interrupted"    // the gateway died; a later boot closes the session with what was kept
)

// kinds says, for each kind, which parts an entry has: must, may, or (if absent) must not.
var kinds = map[Kind]parts{
	Start:     {software: must, mode: must},
	Stop:      {open: must, reason: may},
	Heartbeat: {open: must},
	Request:   {session: must, record: must, payload: must},
	Response:  {session: must, prev: may, outcome: must, record: must, payload: must},
	Refused:   {session: must, reason: must, record: must, payload: must},
	Policy:    {record: must, payload: may},
	Approval:  {session: must, prev: must, reason: may, record: must, payload: must},
	Access:    {session: may, record: must, payload: must},
	Erasure:   {session: must, prev: may, reason: must, record: may, payload: may},
	Gap:       {gap: must, reason: must},
}

type presence uint8

const (
	mustNot presence = iota
	may
	must
)

type parts struct {
	session, prev, outcome, record, payload, open, gap, reason, software, mode presence
}

// An Entry is one public statement in the log: a few hundred bytes of canonical JSON, hashed as a leaf. Which parts an
// entry has depends on its kind; the zero value of a part means that it is absent.
type Entry struct {
	Kind Kind
	By   string    // the writer: 1 to 64 of a-z, 0-9, '-', '.'; a gateway's id
	Boot ID        // one life of the writer
	Seq  uint64    // 0 for the boot's first entry, then one more each, without a gap
	Time time.Time // UTC, whole microseconds, never before the writer's entry before it

	Session ID        // the call this is about
	Prev    tlog.Hash // the leaf hash of the session's entry before this one
	Outcome Outcome   // of a response

	Root   tlog.Hash // the root of the record tree
	Fields int       // its number of fields; 0 means no record

	Payload     tlog.Hash // SHA-256 of the sealed payload
	PayloadSize int64     // its length in bytes; 0 means no payload

	Beat  bool   // set on a heartbeat and a stop, which state Open, Floor and Shed even when all are zero
	Open  uint64 // how many of the writer's sessions are open, those that earlier boots left behind included
	Floor uint64 // no open session's request has a smaller index in the log
	Shed  uint64 // calls refused since the one before, whose caller was never identified

	From, To uint64    // of a gap: the numbers that were lost, both included
	Since    time.Time // of a gap: when the first of them was

	Reason   string // a word of a-z, 0-9, '_'; at most 40
	Software string // of a start: name and version, at most 64 of printable ASCII without spaces, quotes, backslash, <, >, &
	Mode     string // of a start: strict, overlap, open, or none for a writer that passes no calls
}

// timeFormat is RFC 3339 in UTC with exactly six digits of a second.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// Append appends the canonical bytes of the entry. It fails when the entry has a part that its kind must not have,
// lacks one that it must, or would be over tlog.MaxEntry bytes.
func (e *Entry) Append(b []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	from := len(b)
	b = append(b, `{"v":1,"kind":"`...)
	b = append(b, e.Kind...)
	b = append(b, `","by":"`...)
	b = append(b, e.By...)
	b = append(b, `","boot":"`...)
	b = e.Boot.append(b)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	b = append(b, `,"time":"`...)
	b = e.Time.AppendFormat(b, timeFormat)
	b = append(b, '"')
	if !e.Session.IsZero() {
		b = append(b, `,"session":"`...)
		b = e.Session.append(b)
		b = append(b, '"')
	}
	if e.Prev != (tlog.Hash{}) {
		b = appendHash(append(b, `,"prev":"`...), e.Prev)
	}
	if e.Outcome != "" {
		b = appendWord(append(b, `,"outcome":"`...), string(e.Outcome))
	}
	if e.Fields != 0 {
		b = appendHash(append(b, `,"record":{"root":"`...), e.Root)
		b = strconv.AppendInt(append(b, `,"fields":`...), int64(e.Fields), 10)
		b = append(b, '}')
	}
	if e.PayloadSize != 0 {
		b = appendHash(append(b, `,"payload":{"sha256":"`...), e.Payload)
		b = strconv.AppendInt(append(b, `,"size":`...), e.PayloadSize, 10)
		b = append(b, '}')
	}
	if e.Beat {
		b = strconv.AppendUint(append(b, `,"open":{"count":`...), e.Open, 10)
		b = strconv.AppendUint(append(b, `,"floor":`...), e.Floor, 10)
		b = strconv.AppendUint(append(b, `,"shed":`...), e.Shed, 10)
		b = append(b, '}')
	}
	if e.Kind == Gap {
		b = strconv.AppendUint(append(b, `,"gap":{"from":`...), e.From, 10)
		b = strconv.AppendUint(append(b, `,"to":`...), e.To, 10)
		b = e.Since.AppendFormat(append(b, `,"since":"`...), timeFormat)
		b = append(b, `"}`...)
	}
	if e.Reason != "" {
		b = appendWord(append(b, `,"reason":"`...), e.Reason)
	}
	if e.Software != "" {
		b = appendWord(append(b, `,"software":"`...), e.Software)
	}
	if e.Mode != "" {
		b = appendWord(append(b, `,"mode":"`...), e.Mode)
	}
	b = append(b, '}')
	if len(b)-from > tlog.MaxEntry {
		return nil, fmt.Errorf("record: an entry of %d bytes: %w", len(b)-from, tlog.ErrTooLarge)
	}
	return b, nil
}

func appendHash(b []byte, h tlog.Hash) []byte {
	b, _ = h.AppendText(b)
	return append(b, '"')
}

func appendWord(b []byte, s string) []byte { return append(append(b, s...), '"') }

// wire is an entry as JSON has it. It is only read through; Append writes.
type wire struct {
	V       int        `json:"v"`
	Kind    Kind       `json:"kind"`
	By      string     `json:"by"`
	Boot    ID         `json:"boot"`
	Seq     uint64     `json:"seq"`
	Time    stamp      `json:"time"`
	Session *ID        `json:"session"`
	Prev    *tlog.Hash `json:"prev"`
	Outcome Outcome    `json:"outcome"`
	Record  *struct {
		Root   tlog.Hash `json:"root"`
		Fields int       `json:"fields"`
	} `json:"record"`
	Payload *struct {
		SHA256 tlog.Hash `json:"sha256"`
		Size   int64     `json:"size"`
	} `json:"payload"`
	Open *struct {
		Count uint64 `json:"count"`
		Floor uint64 `json:"floor"`
		Shed  uint64 `json:"shed"`
	} `json:"open"`
	Gap *struct {
		From  uint64 `json:"from"`
		To    uint64 `json:"to"`
		Since stamp  `json:"since"`
	} `json:"gap"`
	Reason   string `json:"reason"`
	Software string `json:"software"`
	Mode     string `json:"mode"`
}

type stamp struct{ time.Time }

func (s *stamp) UnmarshalText(b []byte) error {
	t, err := time.Parse(timeFormat, string(b))
	s.Time = t.UTC()
	return err
}

// ParseEntry reads an entry. It accepts exactly the bytes that Append writes: another order, spelling or spacing, a
// field twice or one that is not known is refused.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > tlog.MaxEntry {
		return Entry{}, fmt.Errorf("record: an entry of %d bytes is over the limit of %d", len(b), tlog.MaxEntry)
	}
	var w wire
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return Entry{}, fmt.Errorf("record: not an entry: %w", err)
	}
	if w.V != Version {
		return Entry{}, fmt.Errorf("record: an entry of version %d; this program reads version %d", w.V, Version)
	}
	e := Entry{
		Kind: w.Kind, By: w.By, Boot: w.Boot, Seq: w.Seq, Time: w.Time.Time, Outcome: w.Outcome,
		Reason: w.Reason, Software: w.Software, Mode: w.Mode,
	}
	if w.Session != nil {
		e.Session = *w.Session
	}
	if w.Prev != nil {
		e.Prev = *w.Prev
	}
	if w.Record != nil {
		e.Root, e.Fields = w.Record.Root, w.Record.Fields
	}
	if w.Payload != nil {
		e.Payload, e.PayloadSize = w.Payload.SHA256, w.Payload.Size
	}
	if w.Open != nil {
		e.Beat, e.Open, e.Floor, e.Shed = true, w.Open.Count, w.Open.Floor, w.Open.Shed
	}
	if w.Gap != nil {
		e.From, e.To, e.Since = w.Gap.From, w.Gap.To, w.Gap.Since.Time
	}
	again, err := e.Append(make([]byte, 0, len(b)))
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(again, b) {
		return Entry{}, errors.New("record: an entry that is not in its canonical form")
	}
	return e, nil
}

// check says whether the entry states what its kind states.
func (e *Entry) check() error {
	p, ok := kinds[e.Kind]
	if !ok {
		return fmt.Errorf("record: an entry of the unknown kind %.40q", string(e.Kind))
	}
	for _, c := range [...]struct {
		name string
		want presence
		has  bool
	}{
		{"session", p.session, !e.Session.IsZero()},
		{"prev", p.prev, e.Prev != tlog.Hash{}},
		{"outcome", p.outcome, e.Outcome != ""},
		{"record", p.record, e.Fields != 0 || e.Root != tlog.Hash{}},
		{"payload", p.payload, e.PayloadSize != 0 || e.Payload != tlog.Hash{}},
		{"open", p.open, e.Beat || e.Open != 0 || e.Floor != 0 || e.Shed != 0},
		{"gap", p.gap, e.From != 0 || e.To != 0 || !e.Since.IsZero()},
		{"reason", p.reason, e.Reason != ""},
		{"software", p.software, e.Software != ""},
		{"mode", p.mode, e.Mode != ""},
	} {
		if c.has && c.want == mustNot {
			return fmt.Errorf("record: a %s entry must not have %q", e.Kind, c.name)
		}
		if !c.has && c.want == must {
			return fmt.Errorf("record: a %s entry lacks %q", e.Kind, c.name)
		}
	}
	if err := CheckWriter(e.By); err != nil {
		return err
	}
	if e.Boot.IsZero() {
		return errors.New("record: an entry lacks its boot")
	}
	if e.Seq > math.MaxInt64 || e.Open > math.MaxInt64 || e.Floor > math.MaxInt64 || e.Shed > math.MaxInt64 || e.To > math.MaxInt64 {
		return errors.New("record: a number of an entry is over 2^63-1")
	}
	if (e.Kind == Start) != (e.Seq == 0) {
		return fmt.Errorf("record: a %s entry has the number %d; a boot begins with a start entry, number 0", e.Kind, e.Seq)
	}
	if err := checkTime(e.Time); err != nil {
		return err
	}
	if e.Fields < 0 || e.Fields > MaxFields {
		return fmt.Errorf("record: an entry with %d fields; a record has 1 to %d", e.Fields, MaxFields)
	}
	if e.PayloadSize < 0 || e.PayloadSize > tlog.MaxPayload {
		return fmt.Errorf("record: an entry with a payload of %d bytes", e.PayloadSize)
	}
	if e.Kind == Gap {
		if e.From == 0 || e.From > e.To || e.Seq != e.To+1 {
			return fmt.Errorf("record: a gap entry numbered %d for the numbers %d to %d; it follows them", e.Seq, e.From, e.To)
		}
		if err := checkTime(e.Since); err != nil {
			return err
		}
	}
	switch e.Outcome {
	case "", Complete, Truncated, ClientGone, UpstreamError, Limit, Internal, Interrupted:
	default:
		return fmt.Errorf("record: the unknown outcome %.40q", string(e.Outcome))
	}
	switch e.Mode {
	case "", "strict", "overlap", "open", "none":
	default:
		return fmt.Errorf("record: the unknown mode %.40q", e.Mode)
	}
	if len(e.Reason) > 40 {
		return errors.New("record: a reason is one word of at most 40 characters")
	}
	for i := range len(e.Reason) {
		if c := e.Reason[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_') {
			return fmt.Errorf("record: the reason %q is not a word of a-z, 0-9 and '_'", e.Reason)
		}
	}
	if len(e.Software) > 64 {
		return errors.New("record: the software's name has at most 64 characters")
	}
	for i := range len(e.Software) {
		switch c := e.Software[i]; {
		case c <= ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return fmt.Errorf("record: the software's name %q has a character that it must not have", e.Software)
		}
	}
	return nil
}

func checkTime(t time.Time) error {
	if t.Location() != time.UTC || !t.Equal(t.Truncate(time.Microsecond)) || t.Year() < 2000 || t.Year() > 9999 {
		return errors.New("record: an entry's time is UTC, in whole microseconds, after the year 2000")
	}
	return nil
}

// CheckWriter says whether a gateway or other writer can have that id.
func CheckWriter(id string) error {
	if id == "" || len(id) > 64 {
		return errors.New("record: a writer's id has 1 to 64 characters")
	}
	for i := range len(id) {
		if c := id[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return fmt.Errorf("record: the writer's id %q has a character outside a-z, 0-9, '-', '.'", id)
		}
	}
	return nil
}
