package record

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
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
	Request   Kind = "request"   // a call as it will be sent to the model, if nobody denies it; a session's first entry
	Response  Kind = "response"  // how a call ended, sent or not; after it a session can only be erased
	Refused   Kind = "refused"   // a call that was turned away and sent nowhere; a session's only entry
	Policy    Kind = "policy"    // the rules changed
	Approval  Kind = "approval"  // a person was asked, or decided
	Access    Kind = "access"    // a person read a record, logged in or out, or was given a token or revoked one
	Erasure   Kind = "erasure"   // the payloads of a session's request, approvals and response were destroyed
	Gap       Kind = "gap"       // numbers that were given to entries that were lost
)

// An Outcome says how a session ended. The values are part of the format.
type Outcome string

// The outcomes of a response entry.
const (
	Complete      Outcome = "complete"       // transport and protocol both came to their own end
	Truncated     Outcome = "truncated"      // the answer stopped before its end
	Denied        Outcome = "denied"         // an approver said no, or nobody said yes in time; nothing was sent to the model
	ClientGone    Outcome = "client_gone"    // the caller left before the end
	UpstreamError Outcome = "upstream_error" // the model could not be reached, or its answer could not be read
	Limit         Outcome = "limit"          // a time or size limit of the gateway ended the call
	Internal      Outcome = "internal"       // a fault of the gateway ended the call
	Interrupted   Outcome = "interrupted"    // the gateway died; a later boot closes the session with what was kept
	Waiting       Outcome = "waiting"        // people who had been asked before had not decided in time; nothing was sent to the model
	Resumed       Outcome = "resumed"        // another session used this one's approval; of this one nothing was sent to the model
)

// kinds says, for each kind, which parts an entry has: must, may, or (if absent) must not.
var kinds = map[Kind]parts{
	Start:     {software: must, mode: must, beat: may, promise: may},
	Stop:      {open: must, reason: may},
	Heartbeat: {open: must},
	Request:   {session: must, record: must, payload: must, policy: may, verdict: may},
	Response:  {session: must, prev: may, outcome: must, record: must, payload: must},
	Refused:   {session: must, reason: must, record: must, payload: must, policy: may},
	Policy:    {record: must, payload: may},
	Approval:  {session: must, prev: must, reason: may, record: must, payload: must, ask: may, grant: may},
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
	session, prev, outcome, record, payload, open, gap, reason, software, mode, beat, promise, policy, verdict, ask, grant presence
}

// An Entry is one public statement in the log: a few hundred bytes of canonical JSON, hashed as a leaf. Which parts an
// entry has depends on its kind; the zero value of a part means that it is absent.
type Entry struct {
	Kind Kind
	By   string    // the writer: 1 to 64 of a-z, 0-9, '-', '.'; a gateway's id
	Boot ID        // one life of the writer
	Seq  uint64    // 0 for the boot's first entry, then one more each, without a gap
	Time time.Time // UTC, whole microseconds, never before the boot's entry before it

	Session ID        // the call this is about
	Prev    tlog.Hash // the leaf hash of the session's entry before this one; access entries do not count
	Outcome Outcome   // of a response

	Root   tlog.Hash // the root of the record tree
	Fields int       // its number of fields; 0 means no record

	Payload     tlog.Hash // SHA-256 of the entry's own sealed payload
	PayloadSize int64     // its length in bytes; 0 means no payload

	Beat  bool   // set on a heartbeat and a stop, which state Open, Floor and Shed even when all are zero
	Open  uint64 // how many of the writer's sessions are open, those that earlier boots left behind included
	Floor uint64 // no open session's request has a smaller index in the log
	Shed  uint64 // calls refused since the one before, whose caller was never identified

	From, To uint64    // of a gap: the numbers that were lost, both included
	Since    time.Time // of a gap: when the first of them was, not after Time

	Reason   string // a word of a-z, 0-9, '_'; at most 40
	Software string // of a start: name and version, at most 64 of a-z, A-Z, 0-9, '.', '_', '-', '+', '/', ':', '(', ')'
	Mode     string // of a start: strict, overlap, open, or none for a writer that passes no calls
	// Every, of a start, is the time between heartbeats, in whole milliseconds, at most a day; 0 for a writer that says
	// nothing of it, or writes none.
	Every time.Duration
	// Promise, of a start, is the Ed25519 public key by which the boot promises, before there is a proof, that an entry is
	// in the log; zero for none.
	Promise [32]byte

	Policy uint64    // of a request or a refusal: the number, in its boot, of the policy entry by which it was judged; 0 for none
	Asks   bool      // of a request: by its rules people must say yes before anything is sent
	Tag    tlog.Hash // of a question: what it is about, to those who share a key; see FORMAT.md §6.9
	Until  time.Time // of a question: when no answer becomes no
	Grant  tlog.Hash // of a use: the leaf hash of the yes that is used up
}

// The reasons of approval entries: what people said, or what became of the question. A question has none.
const (
	Agreed  = "agreed"      // one person's yes, where more are needed
	Granted = "granted"     // the last yes that was needed
	Glass   = "broke_glass" // a yes by one person who may give it alone, in an emergency
	No      = "denied"      // one person's no
	Expired = "expired"     // nobody's answer in time
	Used    = "used"        // a yes was used up: the call goes to the model now
)

// verdictAsk is the one verdict that a request states.
const verdictAsk = `,"verdict":"ask"`

// timeFormat is RFC 3339 in UTC with exactly six digits of a second.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// Append appends the canonical bytes of the entry, fewer than a thousand. It fails when the entry has a part that its
// kind must not have, lacks one that it must, or has half of one.
func (e *Entry) Append(b []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
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
	if e.To != 0 {
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
	if e.Every != 0 {
		b = strconv.AppendInt(append(b, `,"beat":`...), e.Every.Milliseconds(), 10)
	}
	if e.Promise != [32]byte{} {
		b = appendHash(append(b, `,"promise":"`...), e.Promise)
	}
	if e.Policy != 0 {
		b = strconv.AppendUint(append(b, `,"policy":`...), e.Policy, 10)
	}
	if e.Asks {
		b = append(b, verdictAsk...)
	}
	if e.Tag != (tlog.Hash{}) {
		b = appendHash(append(b, `,"ask":{"tag":"`...), e.Tag)
		b = e.Until.AppendFormat(append(b, `,"until":"`...), timeFormat)
		b = append(b, `"}`...)
	}
	if e.Grant != (tlog.Hash{}) {
		b = appendHash(append(b, `,"grant":"`...), e.Grant)
	}
	return append(b, '}'), nil
}

func appendHash(b []byte, h tlog.Hash) []byte {
	b, _ = h.AppendText(b)
	return append(b, '"')
}

func appendWord(b []byte, s string) []byte { return append(append(b, s...), '"') }

// ParseEntry reads an entry. It accepts exactly the bytes that Append writes: another order, spelling or spacing, a
// field twice or one that is not known is refused.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > tlog.MaxEntry {
		return Entry{}, fmt.Errorf("record: an entry of %d bytes is over the limit of %d", len(b), tlog.MaxEntry)
	}
	var e Entry
	s := scan{b: b}
	s.must(`{"v":`)
	if v := s.number(); s.err == nil && v != Version {
		return Entry{}, fmt.Errorf("record: an entry of version %d; this program reads version %d", v, Version)
	}
	s.must(`,"kind":"`)
	e.Kind = Kind(s.word())
	s.must(`,"by":"`)
	e.By = s.word()
	s.must(`,"boot":"`)
	e.Boot = s.id()
	s.must(`,"seq":`)
	e.Seq = s.number()
	s.must(`,"time":"`)
	e.Time = s.time()
	if s.may(`,"session":"`) {
		e.Session = s.id()
	}
	if s.may(`,"prev":"`) {
		e.Prev = s.hash()
	}
	if s.may(`,"outcome":"`) {
		e.Outcome = Outcome(s.word())
	}
	if s.may(`,"record":{"root":"`) {
		e.Root = s.hash()
		s.must(`,"fields":`)
		e.Fields = int(s.number())
		s.must(`}`)
	}
	if s.may(`,"payload":{"sha256":"`) {
		e.Payload = s.hash()
		s.must(`,"size":`)
		e.PayloadSize = int64(s.number())
		s.must(`}`)
	}
	if s.may(`,"open":{"count":`) {
		e.Beat, e.Open = true, s.number()
		s.must(`,"floor":`)
		e.Floor = s.number()
		s.must(`,"shed":`)
		e.Shed = s.number()
		s.must(`}`)
	}
	if s.may(`,"gap":{"from":`) {
		e.From = s.number()
		s.must(`,"to":`)
		e.To = s.number()
		s.must(`,"since":"`)
		e.Since = s.time()
		s.must(`}`)
	}
	if s.may(`,"reason":"`) {
		e.Reason = s.word()
	}
	if s.may(`,"software":"`) {
		e.Software = s.word()
	}
	if s.may(`,"mode":"`) {
		e.Mode = s.word()
	}
	if s.may(`,"beat":`) {
		e.Every = time.Duration(min(s.number(), maxEvery+1)) * time.Millisecond
	}
	if s.may(`,"promise":"`) {
		e.Promise = s.hash()
	}
	if s.may(`,"policy":`) {
		e.Policy = s.number()
	}
	e.Asks = s.may(verdictAsk)
	if s.may(`,"ask":{"tag":"`) {
		e.Tag = s.hash()
		s.must(`,"until":"`)
		e.Until = s.time()
		s.must(`}`)
	}
	if s.may(`,"grant":"`) {
		e.Grant = s.hash()
	}
	s.must(`}`)
	if s.err == nil && s.at != len(b) {
		s.fail("the entry's end")
	}
	if s.err != nil {
		return Entry{}, s.err
	}
	// What was read is what would be written again, whatever the scan let through.
	again, err := e.Append(make([]byte, 0, 512))
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(again, b) {
		return Entry{}, errors.New("record: an entry that is not in its canonical form")
	}
	return e, nil
}

// A scan reads an entry from left to right. After the first thing that is not where it must be it reads nothing more.
type scan struct {
	b   []byte
	at  int
	err error
}

func (s *scan) fail(want string) {
	if s.err == nil {
		s.err = fmt.Errorf("record: not an entry: byte %d is not the beginning of %s", s.at, want)
	}
}

func (s *scan) rest() []byte {
	if s.err != nil {
		return nil
	}
	return s.b[s.at:]
}

// may reads literal bytes if they are what follows.
func (s *scan) may(literal string) bool {
	if r := s.rest(); len(r) >= len(literal) && string(r[:len(literal)]) == literal {
		s.at += len(literal)
		return true
	}
	return false
}

func (s *scan) must(literal string) {
	if !s.may(literal) {
		s.fail(literal)
	}
}

// quoted reads to the next quote, which it reads too. No string of an entry has an escape or more than 64 characters.
func (s *scan) quoted() []byte {
	r := s.rest()
	n := bytes.IndexByte(r[:min(len(r), 65)], '"')
	if n < 0 {
		s.fail("a text of at most 64 characters and its quote")
		return nil
	}
	s.at += n + 1
	return r[:n]
}

// word reads a text, which is not empty: a part that is absent is not written at all.
func (s *scan) word() string {
	q := s.quoted()
	if len(q) == 0 {
		s.fail("a text that is not empty")
	}
	return string(q)
}

// number reads a decimal number of at most 2^63-1.
func (s *scan) number() uint64 {
	r := s.rest()
	n := 0
	for n < len(r) && '0' <= r[n] && r[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(r[:n]), 10, 63)
	if err != nil || n > 1 && r[0] == '0' {
		s.fail("a decimal number below 2^63 without leading zeros")
		return 0
	}
	s.at += n
	return v
}

func (s *scan) id() ID {
	id, err := ParseID(string(s.quoted()))
	if err != nil {
		s.fail("an id")
	}
	return id
}

func (s *scan) hash() tlog.Hash {
	h, err := tlog.ParseHash(string(s.quoted()))
	if err != nil {
		s.fail("a hash")
	}
	return h
}

func (s *scan) time() time.Time {
	t, err := time.Parse(timeFormat, string(s.quoted()))
	if err != nil {
		s.fail("a time such as 2026-01-02T15:04:05.000000Z")
	}
	return t.UTC()
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
		{"record", p.record, e.Fields != 0},
		{"payload", p.payload, e.PayloadSize != 0},
		{"open", p.open, e.Beat},
		{"gap", p.gap, e.To != 0},
		{"reason", p.reason, e.Reason != ""},
		{"software", p.software, e.Software != ""},
		{"mode", p.mode, e.Mode != ""},
		{"beat", p.beat, e.Every != 0},
		{"promise", p.promise, e.Promise != [32]byte{}},
		{"policy", p.policy, e.Policy != 0},
		{"verdict", p.verdict, e.Asks},
		{"ask", p.ask, e.Tag != tlog.Hash{}},
		{"grant", p.grant, e.Grant != tlog.Hash{}},
	} {
		if c.has && c.want == mustNot {
			return fmt.Errorf("record: a %s entry must not have %q", e.Kind, c.name)
		}
		if !c.has && c.want == must {
			return fmt.Errorf("record: a %s entry lacks %q", e.Kind, c.name)
		}
	}
	// What Append would leave out must not be there to be left out.
	switch {
	case e.Fields == 0 && e.Root != tlog.Hash{}:
		return errors.New("record: an entry with the root of a record of no fields")
	case e.PayloadSize == 0 && e.Payload != tlog.Hash{}:
		return errors.New("record: an entry with the digest of a payload of no bytes")
	case !e.Beat && (e.Open != 0 || e.Floor != 0 || e.Shed != 0):
		return errors.New("record: an entry that counts open or shed calls and is no beat")
	case e.To == 0 && (e.From != 0 || !e.Since.IsZero()):
		return errors.New("record: an entry with the beginning of a gap and no end")
	case e.Tag == tlog.Hash{} && !e.Until.IsZero():
		return errors.New("record: an entry with the end of a question and no question")
	case e.PayloadSize != 0 && e.Fields == 0:
		return errors.New("record: an entry with a payload and no record")
	case e.Open == 0 && e.Floor != 0:
		return errors.New("record: an entry with a floor under no open session")
	}
	if err := CheckWriter(e.By); err != nil {
		return err
	}
	if e.Boot.IsZero() {
		return errors.New("record: an entry lacks its boot")
	}
	if e.Seq > math.MaxInt64 || e.Open > math.MaxInt64 || e.Floor > math.MaxInt64 || e.Shed > math.MaxInt64 || e.To > math.MaxInt64 || e.Policy > math.MaxInt64 {
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
		if e.Since.After(e.Time) {
			return errors.New("record: a gap that begins after the entry that states it")
		}
	}
	if e.Policy != 0 && e.Policy >= e.Seq {
		return fmt.Errorf("record: the entry numbered %d is judged by the policy numbered %d; it comes before it", e.Seq, e.Policy)
	}
	if (e.Reason == Used) != (e.Grant != tlog.Hash{}) && e.Kind == Approval {
		return errors.New("record: a use names the yes that it uses, and nothing else does")
	}
	if e.Tag != (tlog.Hash{}) {
		if err := checkTime(e.Until); err != nil {
			return err
		}
		if e.Reason != "" || !e.Until.After(e.Time) {
			return errors.New("record: a question has an end after it was asked, and no reason")
		}
	}
	switch e.Outcome {
	case "", Complete, Truncated, Denied, ClientGone, UpstreamError, Limit, Internal, Interrupted, Waiting, Resumed:
	default:
		return fmt.Errorf("record: the unknown outcome %.40q", string(e.Outcome))
	}
	switch e.Mode {
	case "", "strict", "overlap", "open", "none":
	default:
		return fmt.Errorf("record: the unknown mode %.40q", e.Mode)
	}
	if e.Every < 0 || e.Every%time.Millisecond != 0 || e.Every > maxEvery*time.Millisecond {
		return fmt.Errorf("record: heartbeats every %v; it is a whole number of milliseconds, at most a day", e.Every)
	}
	if len(e.Reason) > maxReason || !only(e.Reason, isReason) {
		return fmt.Errorf("record: the reason %.50q is not one word of a-z, 0-9, '_', at most %d characters", e.Reason, maxReason)
	}
	if len(e.Software) > maxSoftware || !only(e.Software, isSoftware) {
		return fmt.Errorf("record: the software's name %.80q is not at most %d of letters, digits and . _ - + / : ( )", e.Software, maxSoftware)
	}
	return nil
}

const (
	maxReason   = 40
	maxSoftware = 64
	maxEvery    = 24 * 60 * 60 * 1000 // milliseconds
)

func isReason(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' }

func isSoftware(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-+/:()", c) >= 0
}

// only says whether s has no character but those.
func only(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
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
