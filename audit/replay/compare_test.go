package replay

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

// calls is an answer that calls tools: names and arguments in turn.
func calls(tools ...string) string {
	var list []string
	for i := 0; i < len(tools); i += 2 {
		args, _ := json.Marshal(tools[i+1])
		list = append(list, fmt.Sprintf(`{"id":"call_%d","type":"function","function":{"name":%q,"arguments":%s}}`, rand.IntN(1000), tools[i], args))
	}
	return `{"id":"c` + fmt.Sprint(rand.IntN(1000)) + `","object":"chat.completion","created":1,"model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[` +
		strings.Join(list, ",") + `]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`
}

// message is an answer of the other kind, whole.
func message(text, tool, args string) string {
	return `{"id":"msg_` + fmt.Sprint(rand.IntN(1000)) + `","type":"message","role":"assistant","model":"m-2","content":[{"type":"text","text":` + fmt.Sprintf("%q", text) + `},{"type":"tool_use","id":"toolu_` + fmt.Sprint(rand.IntN(1000)) +
		`","name":"` + tool + `","input":` + args + `}],"stop_reason":"tool_use","usage":{"input_tokens":9,"output_tokens":4}}`
}

// Every way in which two answers can differ is named, the weightiest first.
func TestCompare(t *testing.T) {
	chat := func(answer string) told {
		return told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: answer}
	}
	claude := func(answer string) told {
		return told{target: "/v1/messages", model: "m-2", anthropic: true, ask: asks("m-2", "hi", false), status: 200, head: jsonHead, answer: answer}
	}
	stream := func(words ...string) told {
		w := told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), status: 200, head: streamHead, answer: streams(words...), finish: "[DONE]"}
		for i := range len(words) + 2 {
			w.events = append(w.events, time.Duration(i)*time.Millisecond)
		}
		return w
	}
	change := func(w told, f func(*told)) told { f(&w); return w }
	two := `{"n":1,"deep":{"list":[1,2,{"x":"a"}]}}`
	for _, c := range []struct {
		name string
		a, b told
		want string // the first difference; "" for none
		more int    // how many there are that count, 0 for one
	}{
		{name: "the same", a: chat(says("hello")), b: chat(says("hello"))},
		{name: "another id", a: chat(calls("w", "{}")), b: chat(calls("w", "{}"))},
		{name: "another spelling of arguments", a: chat(calls("w", `{"a":1,"b":[2.0]}`)), b: chat(calls("w", `{"b":[2],"a":1}`))},
		{name: "another time", a: chat(says("x")), b: change(chat(says("x")), func(w *told) { w.first, w.ended = time.Second, 2*time.Second })},
		{name: "a stream, divided otherwise", a: stream("a b ", "c"), b: stream("a ", "b c")},
		{name: "whole and streamed", a: change(chat(says("a b")), func(w *told) { w.answer = strings.Replace(w.answer, `"usage"`, `"other"`, 1) }), b: stream("a ", "b"), want: `header, "Content-Type": "application/json" in a, "text/event-stream; charset=utf-8" in b`},

		{name: "a word", a: chat(says("the cat sat on the mat")), b: chat(says("the dog sat on the mat")), want: `text, "from byte 4 on": "cat" in a, "dog" in b`},
		{name: "a word less", a: chat(says("one two three")), b: chat(says("one three")), want: `text, "from byte 4 on": only in a: "two "`},
		{name: "a word in a stream", a: stream("one ", "two"), b: stream("one ", "2"), want: `text, "from byte 4 on": "two" in a, "2" in b`},
		{name: "no text", a: chat(says("")), b: chat(says("x")), want: `text, "from byte 0 on": only in b: "x"`},
		{name: "a choice", a: chat(strings.Replace(says("x"), `}],"usage"`, `},{"index":1,"message":{"role":"assistant","content":"y"},"finish_reason":"stop"}],"usage"`, 1)), b: chat(says("x")), want: `choices: "2" in a, "1" in b`, more: 3},

		{name: "the first tool call", a: chat(calls("w", `{"city":"Oslo"}`, "v", two)), b: chat(calls("w", `{"city":"Rome"}`, "v", `{"n":2}`)), want: `tool call 1, "w", arguments at ".city": "\"Oslo\"" in a, "\"Rome\"" in b`, more: 3},
		{name: "the second tool call", a: chat(calls("w", `{}`, "v", two)), b: chat(calls("w", `{}`, "v", strings.Replace(two, `"a"`, `"b"`, 1))), want: `tool call 2, "v", arguments at ".deep.list[2].x": "\"a\"" in a, "\"b\"" in b`},
		{name: "a tool's name", a: chat(calls("w", `{"a":1}`)), b: chat(calls("v", `{"a":2}`)), want: `tool call 1, the name: "w" in a, "v" in b`, more: 2},
		{name: "an argument less", a: chat(calls("w", `{"a":1,"b":2}`)), b: chat(calls("w", `{"b":2}`)), want: `tool call 1, "w", arguments at ".a": only in a: "1"`},
		{name: "an argument that is null", a: chat(calls("w", `{"a":null}`)), b: chat(calls("w", `{}`)), want: `tool call 1, "w", arguments at ".a": only in a: "null"`},
		{name: "an argument of another kind", a: chat(calls("w", `{"a":[1]}`)), b: chat(calls("w", `{"a":{"0":1}}`)), want: `tool call 1, "w", arguments at ".a": "[1]" in a, "{\"0\":1}" in b`},
		{name: "large numbers", a: chat(calls("w", `{"a":9007199254740993}`)), b: chat(calls("w", `{"a":9007199254740992}`)), want: `tool call 1, "w", arguments at ".a": "9007199254740993" in a, "9007199254740992" in b`},
		{name: "arguments that are no JSON", a: chat(calls("w", `{"a":`)), b: chat(calls("w", `{"a":1}`)), want: `tool call 1, "w", arguments: "{\"a\":" in a, "{\"a\":1}" in b`},
		{name: "no call", a: chat(calls("w", `{}`)), b: chat(says("no")), want: `tool call 1, "w": only in a: "w({})"`, more: 3},
		{name: "a call more", a: chat(calls("w", `{}`)), b: chat(calls("w", `{}`, "w", `{"x":1}`)), want: `tool call 2, "w": only in b: "w({\"x\":1})"`},
		{name: "a call of the other kind", a: claude(message("hm", "w", `{"city":"Oslo","days":1}`)), b: claude(message("hm", "w", `{"city":"Oslo","days":3}`)), want: `tool call 1, "w", arguments at ".days": "1" in a, "3" in b`},
		{name: "a name with a dot", a: chat(calls("w", `{"a.b":{"":1}}`)), b: chat(calls("w", `{"a.b":{"":2}}`)), want: `tool call 1, "w", arguments at ".\"a.b\".\"\"": "1" in a, "2" in b`},

		{name: "why it stopped", a: chat(says("x")), b: chat(strings.Replace(says("x"), `"stop"`, `"length"`, 1)), want: `finish: "stop" in a, "length" in b`},
		{name: "what it used", a: chat(says("x")), b: chat(strings.Replace(says("x"), `"completion_tokens":2`, `"completion_tokens":7`, 1)), want: `usage, "out": "2" in a, "7" in b`},
		{name: "no usage", a: chat(says("x")), b: chat(strings.Replace(says("x"), `"usage"`, `"other"`, 1)), want: `usage, "in": only in a: "3"`, more: 2},

		{name: "an error", a: chat(says("x")), b: change(chat(`{"error":{"type":"rate_limit","message":"slow"}}`), func(w *told) { w.status = 429 }), want: `status: "200" in a, "429" in b`, more: 7},
		{name: "another error", a: change(chat(`{"error":{"message":"a"},"request_id":"1"}`), func(w *told) { w.status = 500 }), b: change(chat(`{"error":{"message":"b"},"request_id":"2"}`), func(w *told) { w.status = 500 }), want: `body, ".error.message": "\"a\"" in a, "\"b\"" in b`},
		{name: "another status, the same body", a: chat(says("x")), b: change(chat(says("x")), func(w *told) { w.status = 201 }), want: `status: "200" in a, "201" in b`},
		{name: "cut", a: stream("a", "b"), b: change(stream("a", "b"), func(w *told) { w.outcome, w.err = record.Truncated, "cut" }), want: `end: "whole" in a, "cut" in b`},
		{name: "no answer", a: stream("a"), b: told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", true), outcome: record.Interrupted}, want: `end: "whole" in a, "none" in b`, more: 6},
		{name: "a body of no known shape", a: change(chat(`{"x":[1,{"id":3,"y":1}]}`), func(w *told) { w.target = "/any" }), b: change(chat(`{"x":[1,{"id":4,"y":2}]}`), func(w *told) { w.target = "/any" }), want: `body, ".x[1].y": "1" in a, "2" in b`},
		{name: "no JSON", a: change(chat("abc"), func(w *told) { w.target = "/any" }), b: change(chat("abd"), func(w *told) { w.target = "/any" }), want: `body: "abc" in a, "abd" in b`},
		{name: "when to come again", a: chat(says("x")), b: change(chat(says("x")), func(w *told) { w.head = append([][2]string{{"Retry-After", "3"}}, jsonHead...) }), want: `header, "Retry-After": only in b: "3"`},

		{name: "masked", a: chat(says("card ⟦CARD:abc⟧ of ⟦EMAIL⟧")), b: chat(says("card 4111 of x@y.example"))},
		{name: "masked arguments", a: chat(calls("pay", `{"card":"⟦CARD:abc⟧","sum":3}`)), b: chat(calls("pay", `{"card":"4111","sum":3}`))},
		{name: "masked, and another", a: chat(calls("pay", `{"card":"⟦CARD:abc⟧","sum":3}`)), b: chat(calls("pay", `{"card":"4111","sum":4}`)), want: `tool call 1, "pay", arguments at ".sum": "3" in a, "4" in b`},
	} {
		a, b := transcript.Of(c.a.session(t)), transcript.Of(c.b.session(t))
		d := Compare(a, b)
		got, n := "", 0
		for _, x := range d.Differences {
			if x.Counts {
				n++
			}
		}
		if d.First != nil {
			got = d.First.String()
		}
		if c.want != "" {
			c.more = max(c.more, 1)
		}
		if got != c.want || n != c.more || d.Same != (c.want == "") || d.Same != (d.First == nil) {
			t.Errorf("%s: %s\nwant %s\n%+v", c.name, got, c.want, d.Differences)
		}
		if c.want != "" && d.Exact {
			t.Errorf("%s: exact", c.name)
		}
		if e := Compare(b, a); e.Same != d.Same || len(e.Differences) != len(d.Differences) {
			t.Errorf("%s: otherwise in the other direction: %+v", c.name, e.Differences)
		}
		if e := Compare(a, a); !e.Same || !e.Exact || len(e.Differences) != 0 {
			t.Errorf("%s: it differs from itself: %+v", c.name, e.Differences)
		}
		if _, err := json.Marshal(d); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The first differing tool call is named with its index, its name, the place in its arguments and both values.
func TestCompareNamesTheCall(t *testing.T) {
	of := func(args string) *transcript.Transcript {
		return transcript.Of(told{target: chatPath, model: "m-1", ask: asks("m-1", "hi", false), status: 200, head: jsonHead, answer: calls("look", `{}`, "delete_file", args)}.session(t))
	}
	d := Compare(of(`{"path":"/tmp/a","force":false}`), of(`{"path":"/tmp/a","force":true}`))
	want := &Difference{Part: PartCall, Where: "arguments", Call: &CallAt{Index: 1, Name: "delete_file", Path: ".force"}, In: InBoth, A: "false", B: "true", Counts: true}
	if !reflect.DeepEqual(d.First, want) {
		t.Errorf("%+v, %+v", d.First, d.First.Call)
	}
}

// Nothing that a model writes gets to a terminal as it is.
func TestCompareHostile(t *testing.T) {
	evil := "\x1b]0;x\a\u202e\u200b\r\n\x9b2J"
	of := func(more string) *transcript.Transcript {
		args, _ := json.Marshal(map[string]string{evil: evil + more})
		w := told{target: chatPath, model: evil, ask: asks("m", "hi", false), status: 200, head: [][2]string{{"Content-Type", evil + more}}}
		name, _ := json.Marshal(evil + more)
		w.answer = `{"model":` + string(name) + `,"choices":[{"message":{"content":` + string(name) + `,"tool_calls":[{"id":"x","type":"function","function":{"name":` + string(name) + `,"arguments":` + fmt.Sprintf("%q", strings.ReplaceAll(string(args), "\\", "\\\\")) + `}}]},"finish_reason":` + string(name) + `}]}`
		return transcript.Of(w.session(t))
	}
	d := Compare(of("a"), of("b"))
	if len(d.Differences) < 4 {
		t.Errorf("%+v", d.Differences)
	}
	for _, x := range d.Differences {
		if s := x.String(); strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", s)
		}
	}
}

// Whatever the words, what both have and what one has make up the two texts, and no way is longer than needed on small texts.
func TestDiffWords(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	some := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString([]string{"a", "b", " ", "c d", "\n", ".", "é", "\xff", "世"}[r.IntN(9)])
		}
		return b.String()
	}
	for range 3000 {
		a, b := some(r.IntN(30)), some(r.IntN(30))
		if r.IntN(3) == 0 {
			b = a[:len(a)/2] + some(2) + a[len(a)/2:]
		}
		spans := diffWords(a, b)
		edits := joins(t, a, b, spans)
		if want := leastEdits(splitWords(a), splitWords(b)); edits != want {
			t.Fatalf("%q to %q in %d edits, and %d are enough: %q", a, b, edits, want, spans)
		}
	}
	long := strings.Repeat("the same words again ", 30000)
	spans := diffWords(long+"x "+long, long+"y "+long)
	if joins(t, long+"x "+long, long+"y "+long, spans) != 2 || len(spans) != 4 {
		t.Errorf("%d spans", len(spans))
	}
	a, b := some(40000), some(40000)
	joins(t, a, b, diffWords(a, b)) // without much in common, which takes no longer
}

// joins sees that spans are two texts, and returns how many words only one of them has.
func joins(t *testing.T, a, b string, spans []Span) (edits int) {
	t.Helper()
	var x, y strings.Builder
	last := Has("")
	for _, s := range spans {
		if s.Text == "" || s.In == last || s.In == InA && last == InB {
			t.Fatalf("%q to %q: %q", a, b, spans)
		}
		if last = s.In; s.In != InB {
			x.WriteString(s.Text)
		}
		if s.In != InA {
			y.WriteString(s.Text)
		}
		if s.In != InBoth {
			edits += len(splitWords(s.Text))
		}
	}
	if x.String() != a || y.String() != b {
		t.Fatalf("%q to %q: %q", a, b, spans)
	}
	return edits
}

// leastEdits is the length of the shortest way, by the book.
func leastEdits(a, b []string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		corner := row[0]
		row[0]++
		for j := range b {
			next := min(row[j+1], row[j]) + 1
			if a[i] == b[j] {
				next = corner
			}
			corner, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// Whatever the bodies, a comparison ends, says the same in both directions, and finds nothing between an answer and itself.
func FuzzCompare(f *testing.F) {
	f.Add(chatPath, says("a"), says("b"), uint8(0))
	f.Add(chatPath, streams("a", "b"), streams("a"), uint8(1))
	f.Add("/v1/messages", message("a", "w", "{}"), message("a", "w", `{"a":1}`), uint8(0))
	f.Add(chatPath, calls("w", `{"a":⟦CARD⟧}`), calls("w", "⟦CARD:x⟧"), uint8(2))
	f.Add("/any", `{"a":[1,2,{"b":null}]}`, `{"a":[1,2,{"b":1e400}]}`, uint8(0))
	f.Add("/any", "⟦A⟧⟦B⟧", "⟦B⟧⟦A⟧", uint8(3))
	f.Fuzz(func(t *testing.T, path, x, y string, how uint8) {
		of := func(answer string) *transcript.Transcript {
			w := told{target: path, model: "m", ask: asks("m", "hi", how&1 > 0), status: 200, head: jsonHead, answer: answer}
			if how&1 > 0 {
				w.head = streamHead
			}
			if how&2 > 0 {
				w.status = 500
			}
			return transcript.Of(w.session(t))
		}
		a, b := of(x), of(y)
		d, e := Compare(a, b), Compare(b, a)
		if d.Same != e.Same || len(d.Differences) != len(e.Differences) || d.Same != (d.First == nil) {
			t.Errorf("%+v\n%+v", d.Differences, e.Differences)
		}
		if s := Compare(a, a); !s.Same || !s.Exact || len(s.Differences) > 0 {
			t.Errorf("it differs from itself: %+v", s.Differences)
		}
		if d.Exact && x != y {
			t.Error("not the same to the byte")
		}
		if _, err := json.Marshal(d); err != nil {
			t.Error(err)
		}
		for _, x := range d.Differences {
			if s := x.String(); strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q", s)
			}
		}
		if d.Words != nil {
			var p, q strings.Builder
			for _, s := range d.Words {
				if s.In != InB {
					p.WriteString(s.Text)
				}
				if s.In != InA {
					q.WriteString(s.Text)
				}
			}
			if p.String() == q.String() {
				t.Errorf("the same words: %q", d.Words)
			}
		}
	})
}
