package mask_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// A wire says pieces of a text as a protocol streams them, and reads them back.
type wire struct {
	name  string
	event func(piece string) string
	end   func(whole string) string
	read  func(data string) string // the piece in an event's data
	said  func(data string) string // the whole text in an event's data, if it says it again
}

// quote writes a string as JSON does, every character as it is where that is allowed.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s)
	return strings.TrimSuffix(b.String(), "\n")
}

// escape writes a string as JSON may, every character as an escape. A piece that ends within a character ends within its bytes.
func escape(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r >= 0x10000 {
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			continue
		}
		fmt.Fprintf(&b, `\u%04X`, r)
	}
	return b.String() + `"`
}

func get(data string, path ...any) string {
	var v any
	if json.Unmarshal([]byte(data), &v) != nil {
		return ""
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			a, _ := v.([]any)
			if p >= len(a) {
				return ""
			}
			v = a[p]
		}
	}
	s, _ := v.(string)
	return s
}

var wires = []wire{
	{
		name: "chat content",
		event: func(p string) string {
			return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764087600,"model":"m","choices":[{"index":0,"delta":{"content":` + quote(p) + `},"finish_reason":null}]}` + "\n\n"
		},
		end: func(string) string {
			return `data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"
		},
		read: func(d string) string { return get(d, "choices", 0, "delta", "content") },
	},
	{
		name: "chat content escaped",
		event: func(p string) string {
			return `data: {"choices":[{"delta":{"content":` + escape(p) + `},"index":0}]}` + "\n\n"
		},
		read: func(d string) string { return get(d, "choices", 0, "delta", "content") },
	},
	{
		name: "chat tool arguments",
		event: func(p string) string {
			return `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":` + quote(p) + `}}]}}]}` + "\n\n"
		},
		read: func(d string) string { return get(d, "choices", 0, "delta", "tool_calls", 0, "function", "arguments") },
	},
	{
		name: "chat logprobs",
		event: func(p string) string {
			return `data: {"choices":[{"index":0,"delta":{},"logprobs":{"content":[{"token":` + quote(p) + `,"logprob":-0.1,"bytes":[49,50,51],"top_logprobs":[{"token":` + quote(p) + `,"logprob":-0.1,"bytes":[49,50,51]}]}]}}]}` + "\n\n"
		},
		read: func(d string) string { return get(d, "choices", 0, "logprobs", "content", 0, "token") },
	},
	{
		name: "responses text",
		event: func(p string) string {
			return "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","item_id":"msg_1","output_index":0,"content_index":0,"delta":` + quote(p) + `,"obfuscation":"aB3"}` + "\n\n"
		},
		end: func(w string) string {
			return "event: response.output_text.done\n" + `data: {"type":"response.output_text.done","item_id":"msg_1","output_index":0,"content_index":0,"text":` + quote(w) + `}` + "\n\n" +
				"event: response.completed\n" + `data: {"type":"response.completed","response":{"id":"resp_1","output":[{"type":"message","content":[{"type":"output_text","text":` + quote(w) + `}]}]}}` + "\n\n"
		},
		read: func(d string) string { return get(d, "delta") },
		said: func(d string) string {
			if s := get(d, "text"); s != "" {
				return s
			}
			return get(d, "response", "output", 0, "content", 0, "text")
		},
	},
	{
		name: "responses reasoning",
		event: func(p string) string {
			return `data: {"type":"response.reasoning_summary_text.delta","item_id":"rs_1","output_index":0,"summary_index":0,"delta":` + quote(p) + `}` + "\n\n"
		},
		read: func(d string) string { return get(d, "delta") },
	},
	{
		name: "responses arguments",
		event: func(p string) string {
			return `data: {"type":"response.function_call_arguments.delta","item_id":"fc_1","output_index":2,"delta":` + quote(p) + `}` + "\n\n"
		},
		end: func(w string) string {
			return `data: {"type":"response.function_call_arguments.done","item_id":"fc_1","output_index":2,"arguments":` + quote(w) + `}` + "\n\n"
		},
		read: func(d string) string { return get(d, "delta") },
		said: func(d string) string { return get(d, "arguments") },
	},
	{
		name: "responses transcript",
		event: func(p string) string {
			return `data: {"type":"response.output_audio_transcript.delta","item_id":"au_1","output_index":0,"content_index":0,"delta":` + quote(p) + `}` + "\n\n"
		},
		read: func(d string) string { return get(d, "delta") },
	},
	{
		name: "messages text",
		event: func(p string) string {
			return "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":` + quote(p) + `}}` + "\n\n"
		},
		end:  func(string) string { return "event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n" },
		read: func(d string) string { return get(d, "delta", "text") },
	},
	{
		name: "messages input",
		event: func(p string) string {
			return `data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":` + quote(p) + `}}` + "\n\n"
		},
		read: func(d string) string { return get(d, "delta", "partial_json") },
	},
	{
		name: "messages thinking",
		event: func(p string) string {
			return `data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":` + quote(p) + `}}` + "\r\n\r\n"
		},
		read: func(d string) string { return get(d, "delta", "thinking") },
	},
	{
		name:  "another's JSON",
		event: func(p string) string { return `data: {"response":` + quote(p) + `,"done":false}` + "\n\n" },
		read:  func(d string) string { return get(d, "response") },
	},
	{
		name:  "text",
		event: func(p string) string { return "data: " + p + "\n\n" },
		read:  func(d string) string { return d },
	},
}

// stream is the events of a text in pieces, and their table.
func (w wire) stream(pieces []string) (body, table []byte) {
	table = []byte{'['}
	add := func(event string) {
		body = append(body, event...)
		if len(table) > 1 {
			table = append(table, ',')
		}
		table = fmt.Appendf(table, "[%d,%d]", len(event), 1000+len(table))
	}
	for _, p := range pieces {
		add(w.event(p))
	}
	if w.end != nil {
		add(w.end(strings.Join(pieces, "")))
	}
	return body, append(table, ']')
}

// text is what the pieces say, and what is said again of the whole.
func (w wire) text(body []byte) (pieces string, again []string) {
	for line := range strings.SplitSeq(strings.ReplaceAll(string(body), "\r", ""), "\n") {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		pieces += w.read(data)
		if w.said != nil {
			if s := w.said(data); s != "" {
				again = append(again, s)
			}
		}
	}
	return pieces, again
}

// check masks the pieces, and holds the result against what masking the whole gives.
func (w wire) check(t *testing.T, m *mask.Masker, pieces []string, want, secret string) {
	t.Helper()
	body, table := w.stream(pieces)
	masked, newTable, _, err := m.Stream(nil, body, table)
	if err != nil {
		t.Fatalf("%s %q: %v", w.name, pieces, err)
	}
	got, again := w.text(masked)
	if got != want {
		t.Fatalf("%s: %q comes out as\n%q, whole as\n%q", w.name, pieces, got, want)
	}
	for _, a := range again {
		if a != want {
			t.Fatalf("%s: %q is said again as %q, whole as %q", w.name, pieces, a, want)
		}
	}
	if w.said != nil && len(again) == 0 {
		t.Fatalf("%s: nothing is said again: this test sees nothing", w.name)
	}
	if part := masktest.Leak(bytes.ReplaceAll(masked, []byte("response.completed"), nil), secret, 5); part != "" {
		t.Fatalf("%s: %q leaks %q:\n%s", w.name, pieces, part, masked)
	}
	var was, is [][2]int
	if json.Unmarshal(table, &was) != nil || json.Unmarshal(newTable, &is) != nil || len(was) != len(is) {
		t.Fatalf("%s: the table %s became %s", w.name, table, newTable)
	}
	at := 0
	for i := range is {
		if is[i][1] != was[i][1] {
			t.Fatalf("%s: event %d came after %d and now after %d", w.name, i, was[i][1], is[i][1])
		}
		event := masked[at : at+is[i][0]]
		at += is[i][0]
		if !bytes.HasSuffix(event, []byte("\n\n")) && !bytes.HasSuffix(event, []byte("\r\n\r\n")) {
			t.Fatalf("%s: event %d has become %q", w.name, i, event)
		}
		for line := range bytes.Lines(event) {
			if data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data: {")); ok && w.name != "text" && !json.Valid(append([]byte("{"), data...)) {
				t.Fatalf("%s: not JSON: %s", w.name, line)
			}
		}
	}
	if at != len(masked) {
		t.Fatalf("%s: the table has %d of %d bytes", w.name, at, len(masked))
	}
}

// thorough names the variable that makes TestBypassesSplit try every split into three, which takes minutes.
const thorough = "MASKS"

// What must be masked is, split into two events anywhere, into three in many places, and into events of one character to
// thirty-two; and what comes out is what masking the whole gives.
func TestBypassesSplit(t *testing.T) {
	m := masker(t, mask.Config{})
	cases, err := masktest.Bypasses()
	if err != nil {
		t.Fatal(err)
	}
	all := os.Getenv(thorough) != ""
	rng := rand.New(rand.NewPCG(1, 2))
	must, twos, threes, sizes := 0, 0, 0, 0
	for _, c := range cases {
		out, f := m.Text(nil, []byte(c.Text))
		if !c.MustMask {
			if len(f) == 0 {
				t.Logf("not masked, and not promised: %s", c.ID)
			}
			continue
		}
		must++
		if len(f) != 1 || f[0].Count != 1 {
			t.Errorf("%s: %v in %q", c.ID, f, c.Text)
			continue
		}
		if part := masktest.Leak(out, c.Secret, 5); part != "" {
			t.Errorf("%s: %q leaks %q", c.ID, out, part)
		}
		if kind := map[string]mask.Kind{"email": mask.Email, "card": mask.Card, "ssn": "US_SSN"}[c.Kind]; kind != "" && f.Count(kind) != 1 {
			t.Errorf("%s: %v", c.ID, f)
		}
		runes := []rune(c.Text)
		for _, w := range wires {
			if w.name == "text" && strings.ContainsAny(c.Text, "\n\r") {
				continue // a line of an event cannot say it
			}
			three := func(i, j int) {
				w.check(t, m, []string{string(runes[:i]), string(runes[i:j]), string(runes[j:])}, string(out), c.Secret)
				threes++
			}
			for i := 1; i < len(runes); i++ {
				w.check(t, m, []string{string(runes[:i]), string(runes[i:])}, string(out), c.Secret)
				twos++
				for j := i + 1; all && j < len(runes); j++ {
					three(i, j)
				}
			}
			for range 8 {
				i := 1 + rng.IntN(len(runes)-1)
				three(i, i+rng.IntN(len(runes)-i))
			}
			for n := 1; n <= 32; n++ {
				var pieces []string
				for p := range slices.Chunk(runes, n) {
					pieces = append(pieces, string(p))
				}
				w.check(t, m, pieces, string(out), c.Secret)
				sizes++
			}
		}
	}
	t.Logf("%d cases over %d wires: %d splits into two, %d into three, %d sizes of events", must, len(wires), twos, threes, sizes)
	if must < 40 {
		t.Errorf("%d cases: this test sees nothing", must)
	}
}

// sentences have values between words, as answers do.
var sentences = []string{
	"Your card 4111 1111 1111 1111 is on file, and so is jane.doe@example.com; call +1 415 555 2671 or write to Bob.",
	"The IBAN is DE89 3704 0044 0532 0130 00, the SSN 078-05-1120, and 10.0.0.17 is the host. Nothing else is secret: 12 apples, 1998, 3.14159.",
	`{"name":"Jane","card":4111111111111111,"note":"her mail is jane@example.org","cvv":"123","ok":true}`,
	"-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgwMbRvI0MBZhpI\nabcdef0123456789ABCDEF0123456789abcdefABCDEF0123456789abcdefABCD\n-----END RSA PRIVATE KEY-----\nand text after it",
	`token = "ghp_1234567890abcdefABCDEF1234567890abcd" and https://bob:hunter22@example.com/x?key=AIzaSyA1234567890abcdefghijklmnopqrstuv`,
	"She was born on 5 May 1980; NHS number 943 476 5919, MRN: 00482913. Ça coûte 30 € – voilà. 😀 4000-0566-5566-5556.",
}

// A text split at every point across events masks the same as whole.
func TestSplitAsWhole(t *testing.T) {
	m := masker(t, mask.Config{})
	rng := rand.New(rand.NewPCG(3, 4))
	for _, s := range sentences {
		whole, f := m.Text(nil, []byte(s))
		if len(f) == 0 {
			t.Fatalf("nothing in %q", s)
		}
		runes := []rune(s)
		for _, w := range wires {
			if w.name == "text" && strings.Contains(s, "\n") || strings.HasPrefix(s, "{") && w.name == "text" {
				continue
			}
			want := string(whole)
			if s[0] == '{' { // JSON in a string stays JSON
				body, table := w.stream([]string{s})
				masked, _, _, err := m.Stream(nil, body, table)
				if err != nil {
					t.Fatal(err)
				}
				if want, _ = w.text(masked); !json.Valid([]byte(want)) || strings.Contains(want, "4111") || strings.Contains(want, "123") {
					t.Fatalf("%s: %q", w.name, want)
				}
			}
			for i := 1; i < len(runes); i++ {
				w.check(t, m, []string{string(runes[:i]), string(runes[i:])}, want, "")
			}
			for range 20 {
				var pieces []string
				for rest := runes; len(rest) > 0; {
					n := min(1+rng.IntN(6), len(rest))
					pieces = append(pieces, string(rest[:n]))
					rest = rest[n:]
				}
				w.check(t, m, pieces, want, "")
			}
		}
	}
}

// Channels that are told apart by their places do not mix.
func TestChannelsApart(t *testing.T) {
	m := masker(t, mask.Config{})
	body := "" +
		`data: {"choices":[{"index":0,"delta":{"content":"4111 1111 "}},{"index":1,"delta":{"content":"5500 0000 "}}]}` + "\n\n" +
		`data: {"choices":[{"index":1,"delta":{"content":"0000 0004."}}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{"content":"1111 1111!","tool_calls":[{"index":0,"function":{"arguments":"{\"n\":\"378282"}}]}}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"n\":5}"}}]}}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"246310005\"}"}}]}}]}` + "\n\n"
	out, f := m.Body(nil, "text/event-stream; charset=utf-8", []byte(body))
	if f.Count(mask.Card) != 3 || strings.Count(string(out), "⟦CARD:") != 3 {
		t.Errorf("%v in\n%s", f, out)
	}
	for _, part := range []string{"1111", "0000", "2463", "3782"} {
		if bytes.Contains(out, []byte(part)) {
			t.Errorf("%s is left in\n%s", part, out)
		}
	}
	if !bytes.Contains(out, []byte(`{\"n\":5}`)) {
		t.Errorf("another call's arguments are changed:\n%s", out)
	}
}

// A stream that was cut in the middle of an event has no leak where it was cut.
func TestStreamCut(t *testing.T) {
	m := masker(t, mask.Config{})
	whole := `data: {"choices":[{"index":0,"delta":{"content":"card 4111 1111 11"}}]}` + "\n\n" + `data: {"choices":[{"index":0,"delta":{"content":"11 1111, thank you"}}]}` + "\n\n"
	cut := strings.Index(whole, ", thank")
	for n := cut; n < len(whole); n++ {
		out, f := m.Body(nil, "text/event-stream", []byte(whole[:n]))
		if f.Count(mask.Card) != 1 || bytes.Contains(out, []byte("1111")) {
			t.Fatalf("%v in %s", f, out)
		}
	}
}

// The log-probabilities' bytes and alternatives say the value once more: they go with it, and the rest stays.
func TestLogprobs(t *testing.T) {
	m := masker(t, mask.Config{})
	token := func(s string) string {
		return fmt.Sprintf(`{"token":%s,"logprob":-0.5,"bytes":[%d,0],"top_logprobs":[{"token":%s,"logprob":-0.5}]}`, quote(s), s[0], quote(s))
	}
	list := func(tokens ...string) string {
		for i := range tokens {
			tokens[i] = token(tokens[i])
		}
		return strings.Join(tokens, ",")
	}
	body := `{"choices":[{"index":0,"message":{"content":"Mail jane@example.com now"},"logprobs":{"content":[` +
		list("Mail", " jane", "@", "example", ".com", " now") + `]}},{"index":1,"logprobs":{"content":[` + list("Hi") + `]}}]}`
	out, f := m.JSON(nil, []byte(body))
	if !json.Valid(out) || f.Count(mask.Email) != 2 || bytes.Contains(out, []byte("jane")) || bytes.Contains(out, []byte("exam")) {
		t.Fatalf("%v in %s", f, out)
	}
	for _, s := range []string{`{"token":"Mail","logprob":-0.5,"bytes":[77,0]`, `{"token":" now","logprob":-0.5,"bytes":[32,0]`, `{"token":"Hi"`, `{"token":"","logprob":-0.5,"bytes":[],"top_logprobs":[]}`} {
		if !bytes.Contains(out, []byte(s)) {
			t.Errorf("%s is not in %s", s, out)
		}
	}
}

// A table that is not the body's is an error, and says so.
func TestStreamTables(t *testing.T) {
	m := masker(t, mask.Config{})
	for _, table := range []string{"", "[", "[]", "[[5,0]]", "[[7,0]]", "[[3,0],[3,0]x]", "[[6]]", "[[6,a]]", "[[-1,0],[7,0]]", "{}", "[[6,0],]", "[[6 ,0]]"} {
		if _, _, _, err := m.Stream(nil, []byte("data:\n"), []byte(table)); err == nil {
			t.Errorf("%s was taken", table)
		}
	}
	for _, table := range []string{"[[6,0]]", "[[2,1],[4,200000]]", "[[0,0],[6,1]]"} {
		out, again, _, err := m.Stream(nil, []byte("data:\n"), []byte(table))
		if err != nil || string(out) != "data:\n" || string(again) != table {
			t.Errorf("%s: %q %s %v", table, out, again, err)
		}
	}
}

// FuzzStream holds a stream's masking to what must be true of all: the table fits, events stay events, JSON stays JSON.
func FuzzStream(f *testing.F) {
	for _, w := range wires {
		body, _ := w.stream([]string{"card 4111 1111 ", "1111 1111", "", " x@y.org"})
		f.Add(body, 3)
	}
	f.Add([]byte("data: {\"a\":\"\\ud835\"}\r\rdata:{\"a\":\"\\udfd2\"}\n: c\n\ndata: 1\ndata: 2"), 5)
	m := masker(f, mask.Config{})
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		table, left := []byte{'['}, len(body)
		for n = max(1, n%64); left > 0; {
			k := min(left, n)
			if left -= k; len(table) > 1 {
				table = append(table, ',')
			}
			table = fmt.Appendf(table, "[%d,7]", k)
		}
		table = append(table, ']')
		out, newTable, _, err := m.Stream(nil, body, table)
		if err != nil {
			t.Fatal(err)
		}
		var sizes [][2]int
		if err := json.Unmarshal(newTable, &sizes); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, s := range sizes {
			if sum += s[0]; s[0] < 0 {
				t.Fatalf("%s", newTable)
			}
		}
		if sum != len(out) {
			t.Fatalf("%d of %d bytes: %s", sum, len(out), newTable)
		}
		if utf8.Valid(body) && !utf8.Valid(out) {
			t.Fatalf("%q became %q", body, out)
		}
		lines := func(b []byte) (n int, valid []bool) {
			for line := range bytes.FieldsFuncSeq(b, func(r rune) bool { return r == '\n' || r == '\r' }) {
				n++
				data, ok := bytes.CutPrefix(line, []byte("data:"))
				data = bytes.TrimLeft(data, " \t")
				valid = append(valid, ok && len(data) > 0 && (data[0] == '{' || data[0] == '[') && json.Valid(data))
			}
			return n, valid
		}
		was, wasJSON := lines(body)
		is, isJSON := lines(out)
		if was != is {
			t.Fatalf("%d lines became %d:\n%q\n%q", was, is, body, out)
		}
		for i := range wasJSON {
			if wasJSON[i] && !isJSON[i] {
				t.Fatalf("line %d was JSON:\n%q\n%q", i, body, out)
			}
		}
	})
}
