package export

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

// A frame is an event of a recording.
type frame struct {
	at   time.Duration // since the call began
	code string        // o for output, m for a marker, x for the end
	data string
}

// A reel gathers frames.
type reel struct{ frames []frame }

func (r *reel) out(at time.Duration, text string)  { r.frames = append(r.frames, frame{at, "o", text}) }
func (r *reel) mark(at time.Duration, text string) { r.frames = append(r.frames, frame{at, "m", text}) }

// What is ours on the screen, and not the caller's or the model's, is dim; what the model thought is, too.
const (
	dim   = "\x1b[2m"
	plane = "\x1b[0m"
)

// cast writes a recording in the format asciicast v3 (docs.asciinema.org/manual/asciicast/v3): what was asked, then the answer as it
// streamed, by its own clock. There is a marker where people were asked and answered, where the call was sent, where the answer began,
// where a mask stands and where the answer was cut off. The end says 0 of a call that came to its own end, 1 of any other.
func (c *cargo) cast() ([]byte, error) {
	s := &c.sessions[0]
	r := &reel{}
	s.casts(r)
	slices.SortStableFunc(r.frames, func(a, b frame) int { return cmp.Compare(a.at, b.at) })
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	head := struct {
		Version int `json:"version"`
		Term    struct {
			Cols int    `json:"cols"`
			Rows int    `json:"rows"`
			Type string `json:"type"`
		} `json:"term"`
		Timestamp int64  `json:"timestamp"`
		Title     string `json:"title"`
	}{Version: 3, Timestamp: s.began().Unix(), Title: "session " + s.ID.String()}
	head.Term.Cols, head.Term.Rows, head.Term.Type = 100, 30, "xterm-256color"
	if err := enc.Encode(head); err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "# session %s of the log %s; it proves nothing: the bundle does\n", s.ID, c.origin)
	was := time.Duration(0)
	for _, f := range r.frames {
		// Intervals are differences of whole microseconds, so that they add up to what is on record.
		at := max(f.at, was).Truncate(time.Microsecond)
		interval := json.Number(strconv.FormatFloat((at - was).Seconds(), 'f', 6, 64))
		was = at
		if err := enc.Encode([]any{interval, f.code, f.data}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// since returns how long after the beginning of the call something was; 0 where that is not known.
func (s *session) since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(t.Sub(s.began()), 0)
}

func (s *session) casts(r *reel) {
	end := s.since(s.ended())
	r.out(0, dim+screen(fmt.Sprintf("%s %s  %s as %s\n", s.Request.Method, s.Request.Target, s.Model, s.Caller.Name))+plane)
	for _, m := range s.Messages {
		r.out(0, dim+screen(m.Role+":\n")+plane+said(m.Parts)+"\r\n")
	}
	if len(s.Messages) == 0 && len(s.Request.Body) > 0 {
		r.out(0, screen(string(s.Request.Body))+"\r\n")
	}
	s.castApproval(r)
	if !s.Times.Sent.IsZero() {
		r.mark(s.since(s.Times.Sent), "sent to the model")
	}
	first := s.since(s.Times.First)
	if !s.Times.First.IsZero() {
		r.mark(first, "the answer begins")
	}
	switch {
	case s.castEvents(r, first):
	case len(s.Replies) > 0:
		for _, p := range s.Replies {
			r.out(end, said(p.Parts)+"\r\n")
		}
	case len(s.Answer.Body) > 0:
		r.out(end, screen(string(s.Answer.Body))+"\r\n")
	}
	how := s.end()
	if s.Refused != "" {
		how = "refused: " + s.Refused
	}
	switch s.Outcome {
	case record.Truncated, record.Interrupted, record.ClientGone, record.Limit, record.UpstreamError:
		r.mark(end, "cut: "+how)
	}
	r.out(end, "\r\n"+dim+screen(how)+plane+"\r\n")
	code := "1"
	if s.Outcome == record.Complete {
		code = "0"
	}
	r.frames = append(r.frames, frame{end, "x", code})
}

func (s *session) castApproval(r *reel) {
	a := s.Approval
	if a == nil {
		return
	}
	tell := func(t time.Time, text string) {
		if !t.IsZero() {
			r.mark(s.since(t), screenLine(text))
			r.out(s.since(t), dim+screen(text+"\n")+plane)
		}
	}
	tell(a.Asked, "people are asked: "+a.Rule)
	for _, w := range a.Words {
		tell(w.Time, w.Said+" by "+w.Actor)
	}
	tell(a.Expired, "nobody answered in time")
	tell(a.Used, "the yes is used")
}

// castEvents plays the answer as it came, of its first choice, and says whether there was anything to play.
func (s *session) castEvents(r *reel, first time.Duration) bool {
	if len(s.Events) == 0 {
		return false
	}
	var kind transcript.Kind
	part := -1
	at := first
	for _, e := range s.Events {
		at = max(at, first+max(e.At, 0))
		if e.Masked {
			r.mark(at, "a mask")
		}
		if e.Type == transcript.Piece {
			r.out(at, screen(string(e.Raw)))
		}
		for _, d := range e.Says {
			if d.Choice != 0 {
				continue
			}
			text := screen(d.Text)
			if d.Part != part || d.Kind != kind {
				if d.Kind == transcript.ToolCall {
					text = dim + "-> " + screen(d.Name) + " " + plane + text
				}
				if part >= 0 {
					text = "\r\n" + text
				}
				part, kind = d.Part, d.Kind
			}
			if d.Kind == transcript.Reasoning {
				text = dim + text + plane
			}
			if text != "" {
				r.out(at, text)
			}
		}
		if e.Problem != "" {
			r.out(at, "\r\n"+screen(e.Problem)+"\r\n")
		}
		if e.Type == transcript.Cut {
			r.mark(at, "cut within an event")
		}
	}
	return true
}

// said writes parts of a message for a screen.
func said(parts []transcript.Part) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteString("\r\n")
		}
		switch {
		case p.Kind == transcript.ToolCall && p.Call != nil:
			b.WriteString(dim + "-> " + screen(p.Call.Name) + " " + plane + screen(p.Call.Arguments))
		case p.Kind == transcript.Reasoning:
			b.WriteString(dim + screen(p.Text) + plane)
		case p.Kind == transcript.Media:
			b.WriteString(dim + "(something that is not text)" + plane)
		default:
			b.WriteString(screen(p.Text))
		}
	}
	return b.String()
}

// screen makes text of others harmless to a terminal: what would steer it is shown as a picture of itself, and what turns the direction of
// writing is replaced. Lines end as a terminal wants them to.
func screen(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("\r\n")
		case r == '\t':
			b.WriteRune(r)
		case r == '\r': // it would let what follows cover what stands there
		case r < ' ':
			b.WriteRune(0x2400 + r)
		case r == 0x7f:
			b.WriteRune(0x2421)
		case 0x80 <= r && r < 0xa0, 0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x061c, r == 0x2028, r == 0x2029:
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func screenLine(s string) string { return strings.ReplaceAll(screen(s), "\r\n", " ") }
