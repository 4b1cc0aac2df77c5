package gateway

import (
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// errTooLong is a stream whose next event is longer than the scanner's limit:
// give the stream up, what it would say cannot be held.
var errTooLong = errors.New("gateway: event longer than the limit; end the stream")

// defaultMaxEvent is the longest line the official SDKs accept, and so the longest event worth holding.
const defaultMaxEvent = 32 << 20

// keptBuffer is the largest buffer a scanner keeps when it is reset for another stream.
const keptBuffer = 1 << 20

var byteOrderMark = []byte("\xef\xbb\xbf")

// An event is one block of an event stream, as the WHATWG HTML standard (§9.2.6, "Interpreting an event stream")
// reads it. Its slices lie in the scanner's buffers: copy what must outlive the call of emit.
type event struct {
	Dispatched bool   // a client hears of it; false for comments, blank lines and blocks without a data field
	Type       []byte // the event field; empty when the block names none, which clients read as "message"
	Data       []byte // the data lines joined by LF; a single line is a slice of raw
	ID         []byte // the last event id the stream has set, by this block or an earlier one
	Retry      int    // the last reconnection time the stream has set, in milliseconds; 0 when it has set none
}

// An eventScanner splits a stream into events while it arrives, and keeps every byte: the raw pieces it emits,
// one after the other, followed by Rest, are the input.
//
// A piece reaches from the end of the one before it through the line end that closes an event, with the comments
// and blank lines that stand before that event. What needs no event to be complete does not wait for one: when a
// call of Scan has read all it was given, comments, blank lines and blocks that dispatch nothing are emitted as
// one piece with Dispatched false. So a keep-alive leaves at once, and the LF of a CRLF whose CR came alone and
// closed an event leaves as the head of a later piece or by itself.
//
// The dispatched events, and the stream at which errTooLong strikes, do not depend on how the bytes were cut;
// only the borders of undispatched pieces do.
//
// The zero value is ready. A scanner serves one stream and one goroutine; Reset makes it ready for another.
type eventScanner struct {
	// Max is the longest event in bytes, from its first field to the end of its last line, without the blank line.
	// A comment has the same limit. 0 means 32 MiB.
	Max int

	buf   []byte // bytes not yet emitted start at start; everything below counts from buf[0]
	start int    // end of the last piece
	safe  int    // end of the comments, blank lines and undispatched blocks after start; the event begins here
	pos   int    // start of the line being read

	lf, cr int // no LF in [pos, lf), no CR in [pos, cr): the bytes searched once are not searched again

	tooLong bool // errTooLong has been returned
	skipLF  bool // the last line ended with the CR that was the last byte so far
	begun   bool // the first line is over, and with it the place for a byte order mark
	open    bool // the block has a line that is neither comment nor blank
	hasData bool // the block has a data line
	joined  bool // it has several, and they stand in join

	typ, data bufSpan // in buf
	join      []byte  // data lines joined
	id        []byte
	retry     int
}

// bufSpan is a part of the scanner's buffer that survives the buffer's moves.
type bufSpan struct{ lo, hi int }

// Reset forgets the stream, and keeps Max and the buffers unless they have grown large.
func (s *eventScanner) Reset() {
	buf, join := s.buf[:0], s.join[:0]
	if cap(buf) > keptBuffer {
		buf = nil
	}
	if cap(join) > keptBuffer {
		join = nil
	}
	*s = eventScanner{Max: s.Max, buf: buf, join: join, id: s.id[:0]}
}

// Scan takes the bytes p that have just arrived and calls emit for each piece they complete, in order. It does
// not keep p. raw is valid until the next call of Scan, what ev points to until emit returns.
//
// An error of emit ends the call and is returned; the piece counts as emitted, and what follows it is still there
// for the next call. errTooLong is final: the events before the long one have been emitted, Rest holds what came
// after them, and further calls take nothing.
func (s *eventScanner) Scan(p []byte, emit func(raw []byte, ev event) error) error {
	if s.tooLong {
		return errTooLong
	}
	s.compact()
	s.buf = append(s.buf, p...)
	if s.skipLF && s.pos < len(s.buf) {
		s.skipLF = false
		if s.buf[s.pos] == '\n' {
			s.pos++
			if !s.open {
				s.safe = s.pos
			}
		}
	}
	for {
		line, ok := s.line()
		if line.hi > line.lo && line.hi-s.safe > s.max() {
			s.tooLong = true
			return errTooLong
		}
		if !ok {
			break
		}
		if !s.field(line) {
			continue
		}
		// A blank line: the block is over.
		ev := s.event()
		s.open, s.hasData, s.joined = false, false, false
		s.typ, s.safe = bufSpan{}, s.pos
		if !ev.Dispatched {
			continue
		}
		raw := s.buf[s.start:s.pos]
		s.start = s.pos
		if err := emit(raw, ev); err != nil {
			return err
		}
	}
	if s.safe > s.start {
		raw := s.buf[s.start:s.safe]
		s.start = s.safe
		return emit(raw, event{ID: s.id, Retry: s.retry})
	}
	return nil
}

// Rest returns the bytes that belong to no piece yet: an event without its blank line, or the unfinished line of
// a comment. It is valid until the next call of Scan.
func (s *eventScanner) Rest() []byte { return s.buf[s.start:] }

func (s *eventScanner) max() int {
	if s.Max > 0 {
		return s.Max
	}
	return defaultMaxEvent
}

// compact moves what is left to the front of the buffer. It runs once per call of Scan and moves at most what
// arrived since the last piece.
func (s *eventScanner) compact() {
	n := s.start
	if n == 0 {
		return
	}
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	s.start = 0
	s.safe -= n
	s.pos -= n
	s.lf = max(s.lf-n, 0)
	s.cr = max(s.cr-n, 0)
	s.typ = s.typ.move(n)
	s.data = s.data.move(n)
}

func (p bufSpan) move(n int) bufSpan {
	if p.lo < n {
		return bufSpan{} // of a block that is over
	}
	return bufSpan{p.lo - n, p.hi - n}
}

// line takes the next complete line, without its end. Without one it returns what is there of it, and false.
func (s *eventScanner) line() (bufSpan, bool) {
	s.lf = s.find('\n', s.lf)
	s.cr = s.find('\r', s.cr)
	lo, hi := s.pos, min(s.lf, s.cr)
	if hi == len(s.buf) {
		return bufSpan{lo, hi}, false
	}
	s.pos = hi + 1
	if s.buf[hi] == '\r' {
		switch {
		case s.pos == len(s.buf):
			s.skipLF = true
		case s.buf[s.pos] == '\n':
			s.pos++
		}
	}
	if !s.begun {
		s.begun = true
		if bytes.HasPrefix(s.buf[lo:hi], byteOrderMark) {
			lo += len(byteOrderMark)
		}
	}
	return bufSpan{lo, hi}, true
}

// find returns where c next stands at or after pos, or the end of the buffer. None stands in [pos, from).
func (s *eventScanner) find(c byte, from int) int {
	from = max(from, s.pos)
	if i := bytes.IndexByte(s.buf[from:], c); i >= 0 {
		return from + i
	}
	return len(s.buf)
}

// field reads one line into the block, and reports whether it is the blank one that ends it.
func (s *eventScanner) field(line bufSpan) (blank bool) {
	l := s.buf[line.lo:line.hi]
	if len(l) == 0 {
		return true
	}
	colon := bytes.IndexByte(l, ':')
	if colon == 0 { // a comment
		if !s.open {
			s.safe = s.pos
		}
		return false
	}
	s.open = true
	name, value := l, bufSpan{line.hi, line.hi}
	if colon > 0 {
		name, value.lo = l[:colon], line.lo+colon+1
		if value.lo < value.hi && s.buf[value.lo] == ' ' {
			value.lo++
		}
	}
	v := s.buf[value.lo:value.hi]
	switch string(name) {
	case "event":
		s.typ = value
	case "data":
		switch {
		case !s.hasData:
			s.hasData, s.data = true, value
		case !s.joined:
			s.joined = true
			s.join = append(s.join[:0], s.buf[s.data.lo:s.data.hi]...)
			fallthrough
		default:
			s.join = append(append(s.join, '\n'), v...)
		}
	case "id":
		if bytes.IndexByte(v, 0) < 0 {
			s.id = append(s.id[:0], v...)
		}
	case "retry":
		if n, ok := reconnection(v); ok {
			s.retry = n
		}
	}
	return false
}

// event returns the block that has just ended.
func (s *eventScanner) event() event {
	ev := event{Dispatched: s.hasData, ID: s.id, Retry: s.retry}
	if !s.hasData {
		return ev
	}
	ev.Type = s.buf[s.typ.lo:s.typ.hi]
	ev.Data = s.buf[s.data.lo:s.data.hi]
	if s.joined {
		ev.Data = s.join
	}
	return ev
}

// reconnection reads the value of a retry field: ASCII digits alone; a number above 2^31-1 counts as that.
func reconnection(b []byte) (n int, ok bool) {
	const most = 1<<31 - 1
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int(c-'0'), most)
	}
	return n, len(b) > 0
}

// A protocol is the manner in which an upstream's answers end.
type protocol uint8

const (
	protocolHTTP      protocol = iota // no end of its own: the transport's end is the end
	protocolOpenAI                    // chat/completions, completions, responses
	protocolAnthropic                 // messages
)

// An endKind is what an event says about the end of its stream.
type endKind uint8

const (
	endNone  endKind = iota // the stream goes on; a transport that ends here has truncated it
	endDone                 // the protocol's own end. A response.failed or .incomplete is one: the model gave up, and said all it had to say
	endError                // the provider's error in place of the rest of the stream
)

// terminal tells what ev says about the end of a stream of the protocol. It knows the exact markers and nothing
// that only looks like one, so that text of the model's cannot end a record:
//
//	OpenAI      data [DONE]; or an event named response.completed, response.failed, response.incomplete
//	            error: an event named error, or a data object whose top-level member error is not null
//	Anthropic   an event named message_stop
//	            error: an event named error
//
// OpenAI's events without an event field are named by the data object's top-level member type; where both are
// there, the event field counts, as it does for clients. JSON that is not valid, or says a name twice, says nothing.
func terminal(api protocol, ev event) endKind {
	if !ev.Dispatched {
		return endNone
	}
	switch api {
	case protocolAnthropic:
		switch string(ev.Type) {
		case "message_stop":
			return endDone
		case "error":
			return endError
		}
	case protocolOpenAI:
		if string(ev.Data) == "[DONE]" {
			return endDone
		}
		named := len(ev.Type) > 0 && string(ev.Type) != "message"
		if named && string(ev.Type) == "error" {
			return endError
		}
		// Nearly all events are deltas: those that cannot be an end are told by a search, the others are parsed.
		var typ []byte
		if bytes.Contains(ev.Data, []byte(`"error"`)) || !named && bytes.Contains(ev.Data, []byte(`"response.`)) {
			var failed bool
			if typ, failed = outline(ev.Data); failed {
				return endError
			}
		}
		if named {
			typ = ev.Type
		}
		switch string(typ) {
		case "response.completed", "response.failed", "response.incomplete":
			return endDone
		case "error":
			return endError
		}
	}
	return endNone
}

// outline reads two top-level members of a JSON object: its type, and whether it has an error. Of what is not one
// whole object it says nothing.
func outline(data []byte) (typ []byte, failed bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return nil, false
	}
	for dec.PeekKind() != '}' {
		tok, err := dec.ReadToken()
		if err != nil {
			return nil, false
		}
		name := tok.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		switch {
		case name == "error" && value.Kind() != 'n':
			failed = true
		case name == "type" && value.Kind() == '"':
			if typ, err = jsontext.AppendUnquote(nil, value); err != nil {
				return nil, false
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil { // the closing brace
		return nil, false
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, false
	}
	return typ, failed
}
