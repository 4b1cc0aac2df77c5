package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
)

// A Player plays a session back for people. The zero value, with an Out, plays it line by line at the speed at which it happened.
type Player struct {
	Out io.Writer
	// Speed is how many times faster than recorded it plays; 0 is 1.
	Speed float64
	// NoDelay plays without waiting.
	NoDelay bool
	// Idle is the longest silence that is played, before Speed; 0 for all of every one.
	Idle time.Duration
	// Next, if it is set, is waited for before each moment after the first, in place of time. What it returns ends the playing;
	// io.EOF ends it in order.
	Next func(context.Context) error
	// Wire shows events and heads as they were, in place of what they say.
	Wire bool
	// Screen is for a terminal: the text flows as it came, and what is the player's own is dim. Without it each moment is a line.
	Screen bool
	// Late, if it is set, is told of each event how long after its time it was written, where time is waited for. Never is it
	// written before.
	Late func(time.Duration)
}

// Play plays a session to its end, or until ctx is done, which is no error. What it writes is safe for a terminal.
//
// Each moment is due at a time counted from the beginning, so that one that is late, because the terminal was slow, makes no other
// late.
func (p Player) Play(ctx context.Context, t *transcript.Transcript) error {
	moments := Compress(Timeline(t), p.Idle)
	s := &stage{t: t, wire: p.Wire, screen: p.Screen}
	start := time.Now()
	for i, m := range moments {
		if p.Next != nil && i > 0 {
			if err := p.Next(ctx); err != nil {
				p.Out.Write(s.close())
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
		due := p.due(m.At)
		if p.Next == nil && !p.wait(ctx, start, due) {
			_, err := p.Out.Write(s.close())
			return err
		}
		if m.What == Came && p.Late != nil && p.Next == nil && !p.NoDelay {
			p.Late(time.Since(start) - due)
		}
		if b := s.play(m); len(b) > 0 {
			if _, err := p.Out.Write(b); err != nil {
				return err
			}
		}
	}
	_, err := p.Out.Write(s.close())
	return err
}

// due is when, after the beginning, something is played that happened at a time.
func (p Player) due(at time.Duration) time.Duration {
	switch {
	case p.NoDelay || p.Next != nil:
		return 0
	case p.Speed > 0:
		return time.Duration(min(float64(at)/p.Speed, 1<<62))
	}
	return at
}

// wait waits until something is due, and says whether ctx still is not done.
func (p Player) wait(ctx context.Context, start time.Time, due time.Duration) bool {
	for {
		d := due - time.Since(start)
		if d <= 0 || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// A stage turns moments into what is written of them.
type stage struct {
	t            *transcript.Transcript
	wire, screen bool

	b   bytes.Buffer
	at  time.Duration // of the moment at hand
	mid bool          // the last line on the screen has no end
	on  *voice        // whose words flow on the screen
}

// A voice is one part of one reply: its words go on where they ended.
type voice struct {
	choice, part int
	kind         transcript.Kind
}

const (
	dim     = "\x1b[2m"
	inverse = "\x1b[7m"
	plain   = "\x1b[0m"
)

// play returns what is written of a moment.
func (s *stage) play(m Moment) []byte {
	s.b.Reset()
	s.at = m.At
	if m.Silence > 0 {
		s.mark("silence", "nothing for %s", seconds(m.Silence))
	}
	t := s.t
	switch m.What {
	case Received:
		s.request()
	case Asked:
		s.mark("asked", "%s", TellQuestion(t.Approval))
	case Said:
		s.mark("said", "%s", TellWord(*m.Word))
	case Expired:
		s.mark("expired", "nobody said yes in time, or used the yes")
	case Used:
		if t.Approval.Of.IsZero() {
			s.mark("used", "the yes is used")
		} else {
			s.mark("used", "the yes that session %s got is used", t.Approval.Of)
		}
	case Sent:
		s.mark("sent", "to %s", cmp.Or(t.Upstream, t.Route, "the model"))
	case Begun:
		s.mark("answer", "begins: status %d", t.Answer.Status)
		s.head(t.Answer.Headers)
	case Came:
		s.came(m.Event)
	case Ended:
		s.mark("end", "%s", TellEnd(t))
	}
	return s.b.Bytes()
}

// close ends a line that has no end.
func (s *stage) close() []byte {
	s.b.Reset()
	s.newline()
	return s.b.Bytes()
}

func (s *stage) newline() {
	if s.mid {
		s.b.WriteByte('\n')
	}
	s.mid, s.on = false, nil
}

// mark writes a line of the player's own.
func (s *stage) mark(what, format string, a ...any) {
	s.newline()
	text := SafeLine(fmt.Sprintf(format, a...))
	if s.screen {
		fmt.Fprintf(&s.b, "%s%9.3f  %-8s %s%s\n", dim, s.at.Seconds(), what, text, plain)
		return
	}
	fmt.Fprintf(&s.b, "%11.6f  %-8s %s\n", s.at.Seconds(), what, text)
}

func (s *stage) request() {
	t := s.t
	s.mark("request", "%s", TellRequest(t))
	if s.wire {
		s.raw([]byte(t.Request.Method + " " + t.Request.Target))
		s.head(t.Request.Headers)
		s.raw([]byte("\n" + string(t.Request.Body)))
		return
	}
	for _, m := range t.Messages {
		for _, p := range m.Parts {
			s.say(cmp.Or(m.Role, "item"), p)
		}
	}
	if len(t.Messages) == 0 {
		s.raw(t.Request.Body)
	}
}

// say writes a part that is there as a whole.
func (s *stage) say(who string, p transcript.Part) {
	text := TellPart(p)
	if !s.screen {
		s.mark("says", "%s: %s", who, text)
		return
	}
	s.newline()
	s.b.WriteString(dim + SafeLine(who) + ": " + plain)
	s.flow(text)
	s.newline()
}

// flow writes words to the screen.
func (s *stage) flow(text string) {
	if text = Safe(text); text == "" {
		return
	}
	s.b.WriteString(maskPattern.ReplaceAllString(text, inverse+"${0}"+plain))
	s.mid = !strings.HasSuffix(text, "\n")
}

// came writes an event, or an answer that has none.
func (s *stage) came(e *transcript.Event) {
	t := s.t
	if e == nil {
		switch {
		case s.wire || len(t.Replies) == 0 && t.Answer.Problem == "":
			s.mark("body", "%d B", len(t.Answer.Body))
			s.raw(t.Answer.Body)
		case len(t.Replies) == 0:
			s.mark("error", "%s", t.Answer.Problem)
		}
		if s.wire {
			return
		}
		for _, r := range t.Replies {
			for i, p := range r.Parts {
				d := transcript.Delta{Choice: r.Choice, Part: i, Kind: p.Kind, Text: p.Text}
				if p.Call != nil {
					d.Name, d.Text = p.Call.Name, p.Call.Arguments
				}
				if p.File != nil {
					d.Text = TellPart(p)
				}
				s.delta(d)
			}
		}
		return
	}
	if s.wire {
		masked := ""
		if e.Masked {
			masked = ", masked"
		}
		s.mark("event", "%s, %d B%s", cmp.Or(e.Type, "event"), len(e.Raw), masked)
		s.raw(e.Raw)
		return
	}
	for _, d := range e.Says {
		s.delta(d)
	}
	if e.Problem != "" {
		s.mark("error", "%s", e.Problem)
	}
	switch {
	case e.Type != transcript.Piece:
	case len(t.Replies) == 0:
		s.raw(e.Raw)
	case e == &t.Events[len(t.Events)-1]: // what they say together can be read now
		s.came(nil)
	}
	if e.Type == transcript.Cut {
		s.mark("cut", "%d B of an event that has no end", len(e.Raw))
	}
}

// delta writes what is added to a part of a reply.
func (s *stage) delta(d transcript.Delta) {
	v := voice{d.Choice, d.Part, d.Kind}
	label := map[transcript.Kind]string{
		transcript.Text: "text", transcript.Reasoning: "thinks", transcript.Refusal: "refuses", transcript.ToolCall: "calls", transcript.Result: "result",
		transcript.Media: "media",
	}[d.Kind]
	label = cmp.Or(label, "other")
	if d.Choice > 0 {
		label += fmt.Sprintf(" %d", d.Choice+1)
	}
	if !s.screen {
		text := d.Text
		if d.Kind == transcript.ToolCall && d.Name != "" {
			text = strings.TrimSpace(d.Name + " " + text)
		}
		s.mark(label, "%s", text)
		return
	}
	if s.on == nil || *s.on != v {
		s.newline()
		switch {
		case d.Kind == transcript.ToolCall:
			s.b.WriteString(dim + label + " " + plain + SafeLine(cmp.Or(d.Name, "a tool")) + " ")
		case d.Kind != transcript.Text || d.Choice > 0:
			s.b.WriteString(dim + label + ": " + plain)
		}
		s.mid, s.on = true, &v
	}
	s.flow(d.Text)
	s.on = &v
}

// head writes headers, where the wire is shown.
func (s *stage) head(headers []transcript.Header) {
	if !s.wire {
		return
	}
	for _, h := range headers {
		s.raw([]byte(h.Name + ": " + h.Value))
	}
}

// raw writes bytes as they were, set apart, a line for each of theirs.
func (s *stage) raw(b []byte) {
	if len(b) == 0 {
		return
	}
	s.newline()
	for l := range strings.SplitSeq(strings.TrimRight(Safe(string(b)), "\n"), "\n") {
		s.b.WriteString(strings.TrimRight("             | "+l, " "))
		s.b.WriteByte('\n')
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
