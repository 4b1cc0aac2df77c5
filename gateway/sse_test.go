package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// heard is a dispatched event as plain values.
type heard struct {
	Type, Data, ID string
	Retry          int
}

// listen feeds pieces to a fresh scanner and checks after each call that no byte is lost, doubled or moved.
func listen(t testing.TB, limit int, pieces ...[]byte) (events []heard, quiet [][]byte, err error) {
	t.Helper()
	s := eventScanner{Max: limit}
	var in, out []byte
	for _, p := range pieces {
		in = append(in, p...)
		p = bytes.Clone(p)
		err = s.Scan(p, func(raw []byte, ev event) error {
			out = append(out, raw...)
			if len(raw) == 0 {
				t.Fatalf("an empty piece")
			}
			if !ev.Dispatched {
				if len(ev.Type)+len(ev.Data) > 0 {
					t.Fatalf("an undispatched piece carries %q %q", ev.Type, ev.Data)
				}
				quiet = append(quiet, bytes.Clone(raw))
				return nil
			}
			events = append(events, heard{string(ev.Type), string(ev.Data), string(ev.ID), ev.Retry})
			return nil
		})
		clear(p) // the scanner keeps no hold on what it was lent
		if err != nil {
			break
		}
		if len(out)+len(s.Rest()) != len(in) || !bytes.HasSuffix(in, s.Rest()) {
			t.Fatalf("%d bytes of pieces and the rest %q, the stream is\n%q", len(out), s.Rest(), in)
		}
	}
	if got := append(out, s.Rest()...); !bytes.Equal(got, in) {
		t.Fatalf("after %v pieces and rest are\n%q, the stream is\n%q", err, got, in)
	}
	return events, quiet, err
}

// cuts returns in in pieces of n bytes.
func cuts(in []byte, n int) (pieces [][]byte) {
	for ; len(in) > n; in = in[n:] {
		pieces = append(pieces, in[:n])
	}
	return append(pieces, in)
}

type sseCase struct {
	Name   string  `json:"name"`
	Input  string  `json:"input"`
	Events []heard `json:"events"`
	Retry  int     `json:"retry"`
}

func sseCases(t testing.TB) []sseCase {
	t.Helper()
	b, err := os.ReadFile("testdata/sse/sse_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []sseCase }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 45 {
		t.Fatalf("%d cases, want 45", len(file.Cases))
	}
	return file.Cases
}

func (c sseCase) check(t *testing.T, how string, got []heard) {
	t.Helper()
	same := len(got) == len(c.Events)
	for i := 0; same && i < len(got); i++ {
		g, w := got[i], c.Events[i]
		if g.Type == "" {
			g.Type = "message"
		}
		w.Retry = c.Retry
		same = g == w
	}
	if !same {
		t.Errorf("%s: heard %+v, want %+v with retry %d", how, got, c.Events, c.Retry)
	}
}

func TestEventCases(t *testing.T) {
	runs := 0
	for _, c := range sseCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			in := []byte(c.Input)
			for _, n := range []int{len(in) + 1, 1, 2, 3} {
				got, _, err := listen(t, 0, cuts(in, n)...)
				if err != nil {
					t.Fatal(err)
				}
				c.check(t, fmt.Sprintf("in pieces of %d", n), got)
				runs++
			}
			for i := range in {
				got, _, err := listen(t, 0, in[:i], in[i:])
				if err != nil {
					t.Fatal(err)
				}
				c.check(t, fmt.Sprintf("cut at %d", i), got)
				runs++
			}
		})
	}
	t.Logf("%d runs over 45 cases", runs)
}

// What arrives in one read leaves as these pieces: nothing that is complete waits for what comes later.
func TestEventPieces(t *testing.T) {
	for _, c := range []struct {
		name  string
		reads []string
		want  []string // pieces; a quiet one begins with ~
		rest  string
	}{
		{"comment and blank line", []string{": ping\n\n"}, []string{"~: ping\n\n"}, ""},
		{"comment line alone", []string{": ping\n"}, []string{"~: ping\n"}, ""},
		{"half a comment waits", []string{": pi"}, nil, ": pi"},
		{"comment before half an event", []string{": ping\n\ndata: a"}, []string{"~: ping\n\n"}, "data: a"},
		{"comment before an event goes with it", []string{": ping\n\ndata: a\n\n"}, []string{": ping\n\ndata: a\n\n"}, ""},
		{"blank lines", []string{"\n\n\r\n"}, []string{"~\n\n\r\n"}, ""},
		{"after an event", []string{"data: a\n\n: ping\n\n"}, []string{"data: a\n\n", "~: ping\n\n"}, ""},
		{"comment inside a block waits with it", []string{"data: a\n: ping\n"}, nil, "data: a\n: ping\n"},
		{"block without data", []string{"event: x\nid: 1\n\n"}, []string{"~event: x\nid: 1\n\n"}, ""},
		{"unknown field alone waits", []string{"color: blue\n"}, nil, "color: blue\n"},
		{"LF late", []string{"data: a\r\n\r", "\n"}, []string{"data: a\r\n\r", "~\n"}, ""},
		{"LF late, with the next event", []string{"data: a\r\n\r", "\ndata: b\n\n"}, []string{"data: a\r\n\r", "\ndata: b\n\n"}, ""},
		{"LF late inside an event", []string{"data: a\r", "\ndata: b\n\n"}, []string{"data: a\r\ndata: b\n\n"}, ""},
		{"LF late after a comment", []string{": a\r", "\n", "\n"}, []string{"~: a\r", "~\n", "~\n"}, ""},
		{"CR CR", []string{"data: a\r\rdata"}, []string{"data: a\r\r"}, "data"},
		{"byte order mark waits for its line", []string{"\xef\xbb", "\xbf"}, nil, "\xef\xbb\xbf"},
		{"byte order mark alone on a line", []string{"\xef\xbb\xbf\n"}, []string{"~\xef\xbb\xbf\n"}, ""},
		{"empty reads", []string{"", "data: a\r", "", "\n\n", ""}, []string{"data: a\r\n\n"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s eventScanner
			var got []string
			for _, r := range c.reads {
				if err := s.Scan([]byte(r), func(raw []byte, ev event) error {
					if !ev.Dispatched {
						raw = append([]byte("~"), raw...)
					}
					got = append(got, string(raw))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Join(got, "|") != strings.Join(c.want, "|") || string(s.Rest()) != c.rest {
				t.Errorf("pieces %q rest %q, want %q and %q", got, s.Rest(), c.want, c.rest)
			}
		})
	}
}

func TestEventFields(t *testing.T) {
	in := "event: a\nevent: b\nid: 7\nretry: 15\ndata: one\ndata:two\ndata\n\nretry: 99999999999999999999\ndata: x\n\nretry: 1 \ndata: y\n\n"
	want := []heard{{"b", "one\ntwo\n", "7", 15}, {"", "x", "7", 1<<31 - 1}, {"", "y", "7", 1<<31 - 1}}
	for n := 1; n <= len(in); n++ {
		got, _, err := listen(t, 0, cuts([]byte(in), n)...)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("in pieces of %d: %v %v, want %v", n, got, err, want)
		}
	}
}

// A single data line is not copied: Data lies in raw.
func TestEventDataIsRaw(t *testing.T) {
	var s eventScanner
	err := s.Scan([]byte("event: e\ndata: abc\n\n"), func(raw []byte, ev event) error {
		ev.Data[0], ev.Type[0] = 'X', 'Y'
		if string(raw) != "event: Y\ndata: Xbc\n\n" {
			t.Errorf("raw %q does not hold Data and Type", raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEventTooLong(t *testing.T) {
	for _, c := range []struct {
		name, in string
		events   int
		long     bool
	}{
		{"at the limit", "data: 3456789\n\n", 1, false},
		{"one over", "data: 34567890\n\n", 0, true},
		{"one over, unfinished", "data: 34567890", 0, true},
		{"at the limit, CRLF", "data: 3456789\r\n\r\n", 1, false},
		{"two lines", "data: 3\ndata: \n\n", 0, true},
		{"a comment", ": 456789012345\n\n", 0, true},
		{"many comments", strings.Repeat(": ping\n", 9) + "data: 1\n\n", 1, false},
		{"comments in a block", "id:1\n:ping\n:ping\ndata:1\n\n", 0, true},
		{"second event", "data: 1\n\ndata: 2\n\ndata: 34567890123\n\n", 2, true},
		{"many short", strings.Repeat("data: 1\r\n\r\n", 50), 50, false},
		{"block without data", "event: x\n\nevent: 3456789\n\n", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := 1; n <= len(c.in); n++ {
				got, _, err := listen(t, 13, cuts([]byte(c.in), n)...)
				if len(got) != c.events || errors.Is(err, errTooLong) != c.long {
					t.Fatalf("in pieces of %d: %d events, %v; want %d, too long %v", n, len(got), err, c.events, c.long)
				}
			}
		})
	}

	var s eventScanner
	s.Max = 4
	none := func([]byte, event) error { return nil }
	if err := s.Scan([]byte("data: 1"), none); err != errTooLong {
		t.Fatal(err)
	}
	if err := s.Scan(make([]byte, 1<<20), none); err != errTooLong || len(s.Rest()) != 7 {
		t.Fatalf("%v, and %d bytes kept; want errTooLong to be final", err, len(s.Rest()))
	}
}

// An error of emit ends the call and no more: the scanner goes on where it stood.
func TestEventEmitError(t *testing.T) {
	stop := errors.New("stop")
	var s eventScanner
	var got []string
	emit := func(raw []byte, _ event) error {
		got = append(got, string(raw))
		if len(got)%2 == 1 {
			return stop
		}
		return nil
	}
	if err := s.Scan([]byte("data: 1\n\ndata: 2\n\ndata: 3\n\n: ping\n\ndata"), emit); err != stop {
		t.Fatal(err)
	}
	for range 4 {
		if err := s.Scan(nil, emit); err != nil && err != stop {
			t.Fatal(err)
		}
	}
	if strings.Join(got, "|") != "data: 1\n\n|data: 2\n\n|data: 3\n\n|: ping\n\n" || string(s.Rest()) != "data" {
		t.Errorf("pieces %q, rest %q", got, s.Rest())
	}
}

func TestEventReset(t *testing.T) {
	var s eventScanner
	s.Max = 100
	none := func([]byte, event) error { return nil }
	for range 2 {
		if err := s.Scan([]byte("\xef\xbb\xbfid: 1\nretry: 5\ndata: a\n\ndata: b\r"), none); err != nil {
			t.Fatal(err)
		}
		s.Reset()
		if len(s.Rest()) != 0 || s.Max != 100 {
			t.Fatalf("rest %q, Max %d", s.Rest(), s.Max)
		}
		err := s.Scan([]byte("\n\xef\xbb\xbfdata: a\n\ndata: x\n\n"), func(raw []byte, ev event) error {
			if ev.Dispatched && (string(ev.Data) != "x" || len(ev.ID) > 0 || ev.Retry != 0) {
				t.Errorf("%q %q %d: the stream before shows", ev.Data, ev.ID, ev.Retry)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Reset()
	}
}

// One long event in small reads, and a flood of CRs in one read, cost time in proportion to their length: some
// 20 ms, where a scanner that searches its bytes twice takes half a minute.
func TestEventLinear(t *testing.T) {
	start := time.Now()
	defer func() {
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	}()
	long := "data: " + strings.Repeat("x", 2<<20) + "\n\n"
	if got, _, err := listenFast(cuts([]byte(long), 7)); err != nil || got != 1 {
		t.Fatal(got, err)
	}
	if got, _, err := listenFast([][]byte{[]byte(strings.Repeat("data:\r\r", 300_000))}); err != nil || got != 300_000 {
		t.Fatal(got, err)
	}
}

func listenFast(pieces [][]byte) (dispatched, quiet int, err error) {
	var s eventScanner
	for _, p := range pieces {
		if err = s.Scan(p, func(_ []byte, ev event) error {
			if ev.Dispatched {
				dispatched++
			} else {
				quiet++
			}
			return nil
		}); err != nil {
			break
		}
	}
	return dispatched, quiet, err
}

func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		api    protocol
		stream string
		want   endKind
	}{
		{protocolOpenAI, "data: [DONE]\n\n", endDone},
		{protocolOpenAI, "data:[DONE]\n\n", endDone},
		{protocolOpenAI, "event: done\ndata: [DONE]\n\n", endDone},
		{protocolOpenAI, "data: [DONE] \n\n", endNone},
		{protocolOpenAI, "data:  [DONE]\n\n", endNone},
		{protocolOpenAI, "data: [done]\n\n", endNone},
		{protocolOpenAI, "data: [DONE]\ndata:\n\n", endNone},
		{protocolOpenAI, "data: [DONE][DONE]\n\n", endNone},
		{protocolOpenAI, "event: [DONE]\ndata:\n\n", endNone},
		{protocolOpenAI, ": data: [DONE]\n\n", endNone},
		{protocolOpenAI, "data: \"[DONE]\"\n\n", endNone},
		{protocolOpenAI, `data: {"t":"data: [DONE]"}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"t":"\r\n\r\ndata: [DONE]"}` + "\n\n", endNone},
		{protocolOpenAI, "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n", endDone},
		{protocolOpenAI, "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n", endDone},
		{protocolOpenAI, "event: response.incomplete\ndata: {}\n\n", endDone},
		{protocolOpenAI, "event: response.completed\n\n", endNone}, // dispatches nothing
		{protocolOpenAI, "event: response.completed.x\ndata: {}\n\n", endNone},
		{protocolOpenAI, "event: response.output_text.delta\ndata: {\"type\":\"response.completed\"}\n\n", endNone},
		{protocolOpenAI, "event: message\ndata: {\"type\":\"response.completed\"}\n\n", endDone},
		{protocolOpenAI, `data: {"type":"response.completed","response":{"error":null}}` + "\n\n", endDone},
		{protocolOpenAI, `data: {"response":{"error":null},"type" : "response.incomplete"}` + "\n\n", endDone},
		{protocolOpenAI, `data: {"type":"response.f\u0061iled"}` + "\n\n", endDone},
		{protocolOpenAI, `data: {"type":"response.created"}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"response":{"type":"response.completed"}}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":"response.output_text.delta","delta":"\"type\":\"response.completed\""}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":"response.created","type":"response.completed"}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":"response.completed"} {}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":"response.completed"` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":"response.completed"},` + "\n\n", endNone},
		{protocolOpenAI, `data: [{"type":"response.completed"}]` + "\n\n", endNone},
		{protocolOpenAI, `data: "response.completed"` + "\n\n", endNone},
		{protocolOpenAI, `data: {"type":["response.completed"]}` + "\n\n", endNone},
		{protocolOpenAI, "data: {\"type\":\ndata: \"response.completed\"}\n\n", endDone},
		{protocolOpenAI, `data: {"error":{"message":"overloaded","type":"server_error"}}` + "\n\n", endError},
		{protocolOpenAI, `data: {"error":"overloaded"}` + "\n\n", endError},
		{protocolOpenAI, `data: {"id":"x","error":{}}` + "\n\n", endError},
		{protocolOpenAI, `data: {"error":null,"choices":[]}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"choices":[{"error":{}}]}` + "\n\n", endNone},
		{protocolOpenAI, `data: {"choices":[{"delta":{"content":"{\"error\":{}}"}}]}` + "\n\n", endNone},
		{protocolOpenAI, "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"m\"}\n\n", endError},
		{protocolOpenAI, "event: x\ndata: {\"error\":{}}\n\n", endError},
		{protocolOpenAI, `data: {"type":"error"}` + "\n\n", endError},
		{protocolOpenAI, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", endNone},
		{protocolAnthropic, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", endDone},
		{protocolAnthropic, "event: message_stop\n\n", endNone},
		{protocolAnthropic, "data: {\"type\":\"message_stop\"}\n\n", endNone}, // official clients do not hear it
		{protocolAnthropic, "event: message_delta\ndata: {\"delta\":{\"text\":\"event: message_stop\"}}\n\n", endNone},
		{protocolAnthropic, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n", endError},
		{protocolAnthropic, "data: [DONE]\n\n", endNone},
		{protocolHTTP, "data: [DONE]\n\n", endNone},
		{protocolHTTP, "event: message_stop\ndata: {}\n\n", endNone},
		{protocolHTTP, "event: error\ndata: {}\n\n", endNone},
		{protocol(9), "data: [DONE]\n\n", endNone},
	} {
		seen := endNone
		var s eventScanner
		if err := s.Scan([]byte(c.stream), func(_ []byte, ev event) error {
			if k := terminal(c.api, ev); k != endNone {
				seen = k
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if seen != c.want {
			t.Errorf("protocol %d, %q: %d, want %d", c.api, c.stream, seen, c.want)
		}
	}
}

// FuzzEvents: whatever the cuts, the same events, and the same bytes.
func FuzzEvents(f *testing.F) {
	for i, c := range sseCases(f) {
		f.Add([]byte(c.Input), uint64(i), 0)
	}
	f.Add([]byte("\xef\xbb\xbf: a\r\n\r\n\r\ndata\r\rdata:\ndata: b\n\n"), uint64(1), 9)
	f.Add([]byte("data: 1\r\n\r\n: x\rdata: [DONE]\r\n\r\nid\nid: \x00\nretry: 9\n"), uint64(2), 14)
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, limit int) {
		limit = max(0, limit)
		want, _, wantErr := listen(t, limit, in)
		rng := rand.New(rand.NewPCG(seed, 1))
		var random [][]byte
		for rest := in; len(rest) > 0; {
			n := 1 + rng.IntN(min(len(rest), 1+rng.IntN(40)))
			random, rest = append(random, rest[:n]), rest[n:]
		}
		for how, pieces := range map[string][][]byte{"byte by byte": cuts(in, 1), "at random": random} {
			got, _, err := listen(t, limit, pieces...)
			if fmt.Sprint(got) != fmt.Sprint(want) || (err != nil) != (wantErr != nil) {
				t.Fatalf("%s: %+v %v, whole: %+v %v", how, got, err, want, wantErr)
			}
		}
		for _, api := range []protocol{protocolHTTP, protocolOpenAI, protocolAnthropic} {
			var s eventScanner
			_ = s.Scan(in, func(_ []byte, ev event) error { terminal(api, ev); return nil })
		}
	})
}

func BenchmarkEvents(b *testing.B) {
	chunk := `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	typed := "event: content_block_delta\r\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}` + "\r\n\r\n"
	lines := "id: 5\ndata: one\ndata: two\ndata: three\n\n"
	for _, c := range []struct {
		name, event string
		read        int // bytes a read
	}{
		{"one-event-a-read", chunk, 0},
		{"crlf-typed", typed, 0},
		{"three-data-lines", lines, 0},
		{"32KiB-reads", chunk, 32 << 10},
		{"16-byte-reads", chunk, 16},
	} {
		b.Run(c.name, func(b *testing.B) {
			stream := []byte(strings.Repeat(c.event, 1000))
			read := c.read
			if read == 0 {
				read = len(c.event)
			}
			pieces := cuts(stream, read)
			var s eventScanner
			n := 0
			emit := func(_ []byte, ev event) error {
				if terminal(protocolOpenAI, ev) == endNone {
					n++
				}
				return nil
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				s.Reset()
				for _, p := range pieces {
					if err := s.Scan(p, emit); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
		})
	}
}

// In the steady state an event costs no allocation, whatever its shape.
func TestEventAllocs(t *testing.T) {
	var s eventScanner
	pieces := cuts([]byte(strings.Repeat("id: 1\nevent: e\ndata: a\ndata: b\n\ndata: {\"a\":1}\r\n\r\n: ping\n\n", 50)), 37)
	n := 0
	emit := func(_ []byte, ev event) error { n += int(terminal(protocolOpenAI, ev)); return nil }
	run := func() {
		for _, p := range pieces {
			if err := s.Scan(p, emit); err != nil {
				t.Fatal(err)
			}
		}
	}
	run()
	if got := testing.AllocsPerRun(20, run); got != 0 {
		t.Errorf("%v allocations a stream, want 0", got)
	}
}
