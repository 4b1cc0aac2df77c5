package replay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

const ms = time.Millisecond

// streamed is a stream of words that came at times after the answer began.
func streamed(t testing.TB, at ...time.Duration) *transcript.Transcript {
	words := make([]string, len(at)-2)
	for i := range words {
		words[i] = "word "
	}
	return transcript.Of(told{
		target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams(words...), events: at,
		first: 30 * ms, ended: at[len(at)-1] + 80*ms, finish: "[DONE]", upstream: "http://model.example",
	}.session(t))
}

// A clock notes when what was written.
type clock struct {
	start time.Time
	at    []time.Duration
	wrote []string
	slow  time.Duration // how long each writing takes
}

func (c *clock) Write(b []byte) (int, error) {
	c.at, c.wrote = append(c.at, time.Since(c.start)), append(c.wrote, string(b))
	time.Sleep(c.slow)
	return len(b), nil
}

// when returns when each line was written that has a word of the answer in it.
func (c *clock) when() (at []time.Duration) {
	for i, w := range c.wrote {
		if strings.Contains(w, "word") {
			at = append(at, c.at[i])
		}
	}
	return at
}

// In a bubble, where only what is waited for takes time, every event is written exactly at its time, at any speed; and where each writing
// takes its time, none is late but by that, for they are due at times counted from the beginning.
func TestPlayTimes(t *testing.T) {
	var at []time.Duration
	for i := range 1000 {
		at = append(at, time.Duration(i)*7*ms+time.Duration(i*i%13)*100*time.Microsecond)
	}
	slices.Sort(at)
	for _, c := range []struct {
		name   string
		player Player
		slow   time.Duration
		want   func(at time.Duration) time.Duration // after the request
		most   time.Duration                        // how late
	}{
		{"as it was", Player{}, 0, func(at time.Duration) time.Duration { return at + 30*ms }, 0},
		{"speed 1", Player{Speed: 1}, 0, func(at time.Duration) time.Duration { return at + 30*ms }, 0},
		{"eight times", Player{Speed: 8}, 0, func(at time.Duration) time.Duration { return (at + 30*ms) / 8 }, 0},
		{"a tenth", Player{Speed: 0.1}, 0, func(at time.Duration) time.Duration { return (at + 30*ms) * 10 }, time.Microsecond},
		{"on a screen", Player{Screen: true}, 0, func(at time.Duration) time.Duration { return at + 30*ms }, 0},
		{"a slow terminal", Player{}, 5 * ms, func(at time.Duration) time.Duration { return at + 30*ms }, 5 * ms},
		{"at once", Player{NoDelay: true}, 0, func(time.Duration) time.Duration { return 0 }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := streamed(t, at...)
			out := &clock{start: time.Now(), slow: c.slow}
			p := c.player
			p.Out = out
			events := 0
			p.Late = func(late time.Duration) {
				events++
				if late < 0 || late > c.most {
					t.Errorf("%s: an event was played %s after its time", c.name, late)
				}
			}
			if err := p.Play(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			got := out.when()
			if len(got) != len(at)-2 || events != len(at) && !p.NoDelay || events != 0 && p.NoDelay {
				t.Fatalf("%s: %d words and %d events of %d", c.name, len(got), events, len(at))
			}
			for i, g := range got {
				if late := g - c.want(at[i]); late < 0 || late > c.most {
					t.Fatalf("%s: word %d was written %s after the request, and was due at %s", c.name, i, g, c.want(at[i]))
				}
			}
		})
	}
}

// The same by a real clock, where others want the processor too: no event is ever early, and how late they were is told.
func TestPlayRealTimes(t *testing.T) {
	var at []time.Duration
	for i := range 100 {
		at = append(at, time.Duration(i)*3*ms)
	}
	var late []time.Duration
	out := &clock{start: time.Now()}
	p := Player{Out: out, Late: func(d time.Duration) { late = append(late, d) }}
	if err := p.Play(t.Context(), streamed(t, at...)); err != nil {
		t.Fatal(err)
	}
	for i, g := range out.when() {
		if g < at[i]+30*ms {
			t.Errorf("word %d was written %s after the request, before its time", i, g)
		}
	}
	slices.Sort(late)
	if len(late) != len(at) || late[0] < 0 {
		t.Fatalf("%d events, the first %s late", len(late), late[0])
	}
	t.Logf("%d events were played %s after their time in the median, %s at most", len(late), late[len(late)/2], late[len(late)-1])
}

// How late events are played on this machine.
func BenchmarkPlay(b *testing.B) {
	var at []time.Duration
	for i := range 1000 {
		at = append(at, time.Duration(i)*5*ms)
	}
	x := streamed(b, at...)
	var late []time.Duration
	for b.Loop() {
		p := Player{Out: io.Discard, Late: func(d time.Duration) { late = append(late, d) }}
		if err := p.Play(b.Context(), x); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2])/1e6, "ms-median")
	b.ReportMetric(float64(late[len(late)*99/100])/1e6, "ms-p99")
	b.ReportMetric(float64(late[len(late)-1])/1e6, "ms-max")
}

// A long silence is as long as it was, or as long as is wanted; it is told of in any case.
func TestPlaySilence(t *testing.T) {
	for idle, want := range map[time.Duration]time.Duration{0: 95*time.Minute + 130*ms, time.Second: time.Second + 130*ms, time.Minute: time.Minute + 130*ms} {
		synctest.Test(t, func(t *testing.T) {
			x := streamed(t, 0, 50*ms, 95*time.Minute+50*ms, 95*time.Minute+50*ms)
			out := &clock{start: time.Now()}
			if err := (Player{Out: out, Idle: idle}).Play(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(out.start); took != want {
				t.Errorf("with silences of %s at most it took %s, not %s", idle, took, want)
			}
			if text := strings.Join(out.wrote, ""); strings.Count(text, "silence") != 1 || !strings.Contains(text, "nothing for 5700.000 s") {
				t.Errorf("%s", text)
			}
		})
	}
}

// It can be broken off at any time, and ends its line.
func TestPlayBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := streamed(t, 0, time.Second, 2*time.Second, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*ms)
		defer cancel()
		out := &clock{start: time.Now()}
		if err := (Player{Out: out, Screen: true}).Play(ctx, x); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(out.start); took != 1500*ms {
			t.Errorf("it ended after %s", took)
		}
		if text := strings.Join(out.wrote, ""); !strings.HasSuffix(text, "word \n") {
			t.Errorf("%q", text)
		}
	})
	lost := errors.New("the terminal is gone")
	if err := (Player{Out: gone{lost}, NoDelay: true}).Play(t.Context(), streamed(t, 0, 0, 0)); !errors.Is(err, lost) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type gone struct{ err error }

func (b gone) Write([]byte) (int, error) { return 0, b.err }

// Step by step it waits for whoever looks, and not for time.
func TestPlaySteps(t *testing.T) {
	for _, c := range []struct {
		end   error
		after int
		want  error
		lines int
	}{{nil, 1000, nil, 7}, {io.EOF, 3, nil, 5}, {context.Canceled, 2, context.Canceled, 4}, {io.EOF, 0, nil, 2}} {
		x := streamed(t, 0, time.Hour, 2*time.Hour, 3*time.Hour)
		var b bytes.Buffer
		n := 0
		err := Player{Out: &b, Next: func(context.Context) error {
			if n++; n > c.after {
				return c.end
			}
			return nil
		}}.Play(t.Context(), x)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("after %d steps: %v", c.after, err)
		}
		if got := strings.Count(strings.ReplaceAll(b.String(), "silence", ""), "\n") - strings.Count(b.String(), "silence"); got != c.lines {
			t.Errorf("after %d steps there are %d lines:\n%s", c.after, got, b.String())
		}
	}
}

// What stands on the screen, and what in a file.
func TestPlaySays(t *testing.T) {
	asked := epoch
	x := &transcript.Transcript{
		Caller: transcript.Caller{Name: "ann"}, Model: "m-1", Upstream: "http://model.example", Outcome: record.Truncated,
		Request: transcript.Request{Method: "POST", Target: "/v1/x", Stream: true, Body: []byte("{}"), Headers: []transcript.Header{{Name: "A", Value: "b"}}},
		Times:   transcript.Times{Received: asked, Sent: asked.Add(3 * time.Second), First: asked.Add(4 * time.Second), Ended: asked.Add(9 * time.Second)},
		Approval: &transcript.Approval{Asked: asked.Add(ms), Rule: "risky", Need: 2, Groups: []string{"bosses"}, Message: "this costs", Used: asked.Add(3 * time.Second), Words: []transcript.Word{
			{Time: asked.Add(time.Second), Said: record.Agreed, Actor: "bob", Reason: "why not"}, {Time: asked.Add(2 * time.Second), Said: record.Granted, Actor: "eve"},
		}},
		Messages: []transcript.Message{{Role: "user", Parts: []transcript.Part{{Kind: transcript.Text, Text: "Pay\nnow"}, {Kind: transcript.Media, File: &transcript.File{Type: "image/png", Name: "a", Size: 8}}}}},
		Answer:   transcript.Answer{Status: 200, Headers: []transcript.Header{{Name: "C", Value: "d"}}, Stream: true, Error: "the line broke"},
		Replies:  []transcript.Reply{{Finish: "tool_calls"}},
		Events: []transcript.Event{
			{Raw: []byte("data: 1\n\n"), Type: "x", Says: []transcript.Delta{{Kind: transcript.Reasoning, Text: "Hm"}}},
			{Raw: []byte(": ping\n\n"), At: ms, Type: transcript.Comment},
			{Raw: []byte("data: 2\n\n"), At: 2 * ms, Type: "x", Says: []transcript.Delta{{Kind: transcript.Reasoning, Text: "."}, {Part: 1, Kind: transcript.Text, Text: "Well ⟦CARD:…1111⟧"}}, Masked: true},
			{Raw: []byte("data: 3\n\n"), At: 2003 * ms, Type: "x", Says: []transcript.Delta{{Part: 2, Kind: transcript.ToolCall, Name: "pay"}}},
			{Raw: []byte("data: 4\n\n"), At: 2004 * ms, Type: "x", Says: []transcript.Delta{{Part: 2, Kind: transcript.ToolCall, Text: `{"a":`}}},
			{Raw: []byte("data: 5\n\n"), At: 2005 * ms, Type: "x", Says: []transcript.Delta{{Part: 2, Kind: transcript.ToolCall, Text: `1}`}, {Choice: 1, Kind: transcript.Refusal, Text: "No"}}, Problem: "too much"},
			{Raw: []byte("data: 6"), At: -1, Type: transcript.Cut},
		},
		Usage: transcript.Usage{In: 10, Out: 2, CacheRead: 4, CacheWrite: -1, Reasoning: -1},
	}
	for name, c := range map[string]struct {
		player Player
		want   string
	}{
		"lines": {Player{}, `   0.000000  request  ann asks m-1: POST /v1/x, as a stream
   0.000000  says     user: Pay\nnow
   0.000000  says     user: [image/png a, 8 B]
   0.001000  asked    bosses are asked by the rule risky, and 2 of them must say yes: this costs
   1.000000  said     bob says yes, and others are needed: why not
   2.000000  said     eve says yes
   3.000000  used     the yes is used
   3.000000  sent     to http://model.example
   4.000000  answer   begins: status 200
   4.000000  thinks   Hm
   4.002000  thinks   .
   4.002000  text     Well ⟦CARD:…1111⟧
   6.003000  silence  nothing for 2.001 s
   6.003000  calls    pay
   6.004000  calls    {"a":
   6.005000  calls    1}
   6.005000  refuses 2 No
   6.005000  error    too much
   6.005000  cut      7 B of an event that has no end
   9.000000  silence  nothing for 2.995 s
   9.000000  end      CUT: the answer stopped before its end; finish tool_calls; 10 tokens in, 4 of them from a cache, 2 out; the line broke
`},
		"screen": {Player{Screen: true}, `{    0.000  request  ann asks m-1: POST /v1/x, as a stream}
{user: }Pay
now
{user: }[image/png a, 8 B]
{    0.001  asked    bosses are asked by the rule risky, and 2 of them must say yes: this costs}
{    1.000  said     bob says yes, and others are needed: why not}
{    2.000  said     eve says yes}
{    3.000  used     the yes is used}
{    3.000  sent     to http://model.example}
{    4.000  answer   begins: status 200}
{thinks: }Hm.
Well [⟦CARD:…1111⟧}
{    6.003  silence  nothing for 2.001 s}
{calls }pay {"a":1}
{refuses 2: }No
{    6.005  error    too much}
{    6.005  cut      7 B of an event that has no end}
{    9.000  silence  nothing for 2.995 s}
{    9.000  end      CUT: the answer stopped before its end; finish tool_calls; 10 tokens in, 4 of them from a cache, 2 out; the line broke}
`},
		"wire": {Player{Wire: true}, `   0.000000  request  ann asks m-1: POST /v1/x, as a stream
             | POST /v1/x
             | A: b
             |
             | {}
   0.001000  asked    bosses are asked by the rule risky, and 2 of them must say yes: this costs
   1.000000  said     bob says yes, and others are needed: why not
   2.000000  said     eve says yes
   3.000000  used     the yes is used
   3.000000  sent     to http://model.example
   4.000000  answer   begins: status 200
             | C: d
   4.000000  event    x, 9 B
             | data: 1
   4.001000  event    comment, 8 B
             | : ping
   4.002000  event    x, 9 B, masked
             | data: 2
   6.003000  silence  nothing for 2.001 s
   6.003000  event    x, 9 B
             | data: 3
   6.004000  event    x, 9 B
             | data: 4
   6.005000  event    x, 9 B
             | data: 5
   6.005000  event    cut, 7 B
             | data: 6
   9.000000  silence  nothing for 2.995 s
   9.000000  end      CUT: the answer stopped before its end; finish tool_calls; 10 tokens in, 4 of them from a cache, 2 out; the line broke
`},
	} {
		var b bytes.Buffer
		p := c.player
		p.Out, p.NoDelay = &b, true
		if err := p.Play(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		if got := strings.NewReplacer(dim, "{", plain, "}", inverse, "[").Replace(b.String()); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

// A whole answer comes at its end; of a refusal there is only that; of what is erased, or open, what is known.
func TestPlayWhole(t *testing.T) {
	for name, c := range map[string]struct {
		w    told
		want []string
	}{
		"whole":   {told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: says("Hello\nthere"), first: 90 * ms, ended: 100 * ms}, []string{"0.100000  text     Hello\\nthere\n", "0.100000  end      complete; finish stop; 3 tokens in, 2 out\n"}},
		"error":   {told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 429, head: jsonHead, answer: `{"error":{"message":"too fast"}}`, ended: 100 * ms}, []string{"error    too fast\n", "end      complete: the model answered with an error; status 429\n"}},
		"other":   {told{target: "/x", ask: "a\x1bb", status: 200, head: [][2]string{{"Content-Type", "text/plain"}}, answer: "one\ntwo", ended: 100 * ms}, []string{"| a\\x1bb\n", "body     7 B\n             | one\n             | two\n"}},
		"refused": {told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 403, refused: "policy_refused", err: "not here"}, []string{"end      refused: policy_refused; nothing was sent to the model; status 403; not here\n"}},
	} {
		var b bytes.Buffer
		if err := (Player{Out: &b, NoDelay: true}).Play(t.Context(), transcript.Of(c.w.session(t))); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %q is not in\n%s", name, want, b.String())
			}
		}
	}
	// Of one that was cut off with the gateway there are pieces.
	var b bytes.Buffer
	pieces := &transcript.Transcript{Outcome: record.Interrupted, Times: transcript.Times{Received: epoch, First: epoch}, Events: []transcript.Event{{Raw: []byte("one"), Type: transcript.Piece}, {Raw: []byte("two"), Type: transcript.Piece, At: ms}}}
	if err := (Player{Out: &b, NoDelay: true}).Play(t.Context(), pieces); err != nil || !strings.Contains(b.String(), "             | one\n             | two\n") {
		t.Errorf("pieces: %v %s", err, b.String())
	}
	b.Reset()
	pieces.Replies = []transcript.Reply{{Parts: []transcript.Part{{Kind: transcript.Text, Text: "three"}}}}
	if err := (Player{Out: &b, NoDelay: true}).Play(t.Context(), pieces); err != nil || strings.Contains(b.String(), "one") || !strings.Contains(b.String(), "0.001000  text     three\n") {
		t.Errorf("pieces that can be read: %v %s", err, b.String())
	}
	b.Reset()
	mixed := &transcript.Transcript{Answer: transcript.Answer{Body: []byte("{}")}, Replies: []transcript.Reply{{Parts: []transcript.Part{
		{Kind: transcript.Reasoning, Text: "hm"}, {Kind: transcript.Media, File: &transcript.File{Type: "image"}}, {Kind: transcript.ToolCall, Call: &transcript.Call{Name: "pay", Arguments: "{}"}},
	}}}}
	if err := (Player{Out: &b}).Play(t.Context(), mixed); err != nil || !strings.Contains(b.String(), "thinks   hm\n   0.000000  media    [image]\n   0.000000  calls    pay {}\n") {
		t.Errorf("parts: %v %s", err, b.String())
	}
	b.Reset()
	if err := (Player{Out: &b}).Play(t.Context(), &transcript.Transcript{Open: true}); err != nil || !strings.Contains(b.String(), "what, is not here") {
		t.Errorf("nothing: %v %s", err, b.String())
	}
}

// Nothing of what was recorded does anything to a terminal, wherever it stands.
func TestPlayHostile(t *testing.T) {
	bad := "\x1b[31m\x1b]0;t\x07\u009b2J\x00\r\b\u202e\u2066\u200f\xff\u2028"
	x := &transcript.Transcript{
		Caller: transcript.Caller{Name: bad}, Model: bad, Route: bad, Upstream: bad, Outcome: record.Outcome(bad), Refused: bad,
		Request:  transcript.Request{Method: bad, Target: bad, Body: []byte(bad), Headers: []transcript.Header{{Name: bad, Value: bad}}},
		Times:    transcript.Times{Received: epoch, Sent: epoch, First: epoch, Ended: epoch},
		Approval: &transcript.Approval{Asked: epoch, Rule: bad, Message: bad, Groups: []string{bad}, Words: []transcript.Word{{Time: epoch, Said: bad, Actor: bad, Reason: bad}}, Expired: epoch, Used: epoch},
		Answer:   transcript.Answer{Status: 200, Headers: []transcript.Header{{Name: bad, Value: bad}}, Body: []byte(bad), Error: bad, Problem: bad, Kept: bad, Stream: true},
		Messages: []transcript.Message{{Role: bad, Parts: []transcript.Part{
			{Kind: transcript.Text, Text: bad}, {Kind: transcript.ToolCall, Call: &transcript.Call{ID: bad, Name: bad, Arguments: bad}},
			{Kind: transcript.Result, Text: bad, Call: &transcript.Call{ID: bad}}, {Kind: transcript.Media, File: &transcript.File{Type: bad, Name: bad, URL: bad, Size: 1}}, {Kind: transcript.Other, Text: bad},
		}}},
		Replies: []transcript.Reply{{Finish: bad, Parts: []transcript.Part{{Kind: transcript.Text, Text: bad}}}},
	}
	for _, kind := range []transcript.Kind{transcript.Text, transcript.Reasoning, transcript.Refusal, transcript.ToolCall, transcript.Other, transcript.Kind(bad)} {
		x.Events = append(x.Events, transcript.Event{Raw: []byte(bad), Type: bad, Problem: bad, Says: []transcript.Delta{{Kind: kind, Text: bad, Name: bad}, {Kind: kind, Text: bad + "⟦CARD:" + "x\x1b[0m⟧"}}})
	}
	whole := *x
	whole.Events = nil
	for _, x := range []*transcript.Transcript{x, &whole} {
		for _, p := range []Player{{}, {Screen: true}, {Wire: true}, {Wire: true, Screen: true}} {
			var b bytes.Buffer
			p.Out, p.NoDelay = &b, true
			if err := p.Play(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			harmless(t, b.String())
		}
	}
}

// harmless checks that text has no control characters but line breaks, tabs, and what the player itself makes dim or inverse.
func harmless(t *testing.T, s string) {
	t.Helper()
	for i, r := range strings.NewReplacer(dim, "", inverse, "", plain, "").Replace(s) {
		if r == utf8.RuneError || r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)) {
			t.Fatalf("there is %U at %d of %q", r, i, s)
		}
	}
}

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n\ttext": "plain\n\ttext", "a\r\nb": "a\nb", "a\rb": `a\rb`, "\x1b[2J": `\x1b[2J`, "\u202eevil": `\u202eevil`, "\xffx": `\xffx`, "\uFFFD": "\uFFFD",
		"é 你好 😀": "é 你好 😀", "\u200b": `\u200b`, "\x7f\u0085": `\x7f\u0085`, "\U000e0041": `\U000e0041`, "": "",
	} {
		if got := Safe(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := SafeLine("a\nb\tc\r\n"); got != `a\nb\tc\n` {
		t.Errorf("a line: %q", got)
	}
}

func FuzzSafe(f *testing.F) {
	f.Add("a\x1b[0m\xff\u202e\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "\uFFFD") {
			return // harmless takes it for what could not be read
		}
		harmless(t, Safe(s))
	})
}
