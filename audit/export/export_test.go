package export

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

func TestFormats(t *testing.T) {
	raw := bundleOf(t, chatStream())
	for _, f := range Formats() {
		again, err := ParseFormat(string(f))
		if err != nil || again != f || f.Act() == 0 || !f.Act().May().Any(audit.Auditor) {
			t.Errorf("%s: %v, %v, %v", f, again, err, f.Act())
		}
	}
	if b := as(t, Bundle, raw); !bytes.Equal(b, raw) {
		t.Error("a bundle is not exported as it is")
	}
	for _, f := range []Format{"", "HAR", "zip"} {
		if _, _, _, err := As(f, raw, About{}); err == nil || f.Act() != 0 {
			t.Errorf("%q is a format", f)
		}
	}
	b, err := verify.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	b.Sessions[0].Entries[1].Bytes = []byte("{}")
	odd, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Formats() {
		if _, _, _, err := As(f, odd, About{Policy: new(tlog.Policy)}); err == nil {
			t.Errorf("%s: of what is no entry", f)
		}
	}
	raw[len(raw)-3] ^= 1
	if _, _, _, err := As(HAR, raw, About{}); err == nil {
		t.Error("a damaged bundle is exported")
	}
}

func TestHAR(t *testing.T) {
	binary := call{method: "PUT", target: "/files/a", headers: [][2]string{{"Content-Type", "application/octet-stream"}}, body: "\x00\xff'", status: 201, answer: "\xfe\x00"}
	refused := call{method: "POST", target: "/v1/chat/completions", headers: jsonHead, body: chatRequest, status: 403, refused: "route_not_allowed"}
	denied := call{method: "POST", target: "/v1/chat/completions", headers: jsonHead, body: chatRequest, status: 403, outcome: record.Denied, unsent: true}
	b := as(t, HAR, bundleOf(t, chatStream(), binary, refused, denied, message()))
	var h struct {
		Log struct {
			Version string
			Creator struct{ Name, Version string }
			Entries []harEntry
		}
	}
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	if h.Log.Version != "1.2" || h.Log.Creator.Name != "tallystick" || h.Log.Creator.Version != "0.0.1" || len(h.Log.Entries) != 5 {
		t.Fatalf("%+v", h.Log)
	}
	for i, e := range h.Log.Entries {
		if _, err := time.Parse(time.RFC3339, e.Started); err != nil {
			t.Error(err)
		}
		sum := 0.0
		for _, n := range []float64{e.Timings.Blocked, e.Timings.DNS, e.Timings.Connect, e.Timings.Send, e.Timings.Wait, e.Timings.Receive} {
			if n > 0 {
				sum += n
			}
		}
		if e.Time < 0 || math.Abs(sum-e.Time) > 1e-9 {
			t.Errorf("entry %d: %v and %+v", i, e.Time, e.Timings)
		}
		if e.Of.Origin != "log.example/test" || e.Of.Checkpoint.Size != 40 || e.Of.Leaf == (tlog.Hash{}) || e.Of.Session == "" {
			t.Errorf("entry %d: %+v", i, e.Of)
		}
	}
	e := h.Log.Entries[0]
	if e.Request.URL != "https://api.example.com/v1/chat/completions?trace=a%20b&x" || len(e.Request.QueryString) != 2 || e.Request.QueryString[0].Value != "a b" {
		t.Errorf("%+v", e.Request)
	}
	if e.Timings.Blocked != 1.5 || e.Timings.Wait != 20 || e.Timings.Receive != 312.793 || e.Time != 334.293 {
		t.Errorf("%+v", e.Timings)
	}
	if !e.SSE || len(e.Events) != 7 || e.Events[6].Data != "data: [DONE]\n\n" || e.Events[1].Time != 61.5 {
		t.Errorf("%v, %+v", e.SSE, e.Events)
	}
	if e.Request.PostData == nil || e.Request.PostData.Text != chatRequest || e.Request.BodySize != len(chatRequest) || e.Of.Caller != "alice" || e.Of.Outcome != "complete" {
		t.Errorf("%+v", e)
	}
	e = h.Log.Entries[1]
	if e.Request.PostData.Encoding != "base64" || e.Request.PostData.Text != base64.StdEncoding.EncodeToString([]byte("\x00\xff'")) || e.Response.Content.Encoding != "base64" || e.Response.Content.Size != 2 {
		t.Errorf("%+v", e)
	}
	if e = h.Log.Entries[2]; e.Of.Outcome != "refused" || e.Response.Status != 403 || e.Response.Error != "it may not" || e.Time != 0 {
		t.Errorf("%+v", e)
	}
	if e = h.Log.Entries[3]; e.Timings.Blocked != 334.293 || e.Timings.Wait != 0 {
		t.Errorf("%+v", e.Timings)
	}
	if bytes.Contains(b, []byte("(left out)")) != true {
		t.Error("that a credential was left out is not in it")
	}
}

func TestJSONL(t *testing.T) {
	b := as(t, JSONL, bundleOf(t, chatStream(), message(), response(), call{method: "GET", target: "/x", status: 204}))
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range []string{
		`[{"role":"system","content":"Be brief."},{"role":"user","content":"What is a tally stick?"},{"role":"assistant","content":"A stick, split in two.","tool_calls":[{"id":"call_1","type":"function","function":{"name":"look_up","arguments":"{\"q\":\"tally\"}"}}]}]`,
		`[{"role":"system","content":"Be brief."},{"role":"user","content":"hello"},{"role":"assistant","content":null,"tool_calls":[{"id":"tu_1","type":"function","function":{"name":"look_up","arguments":"{\"q\":\"x\"}"}}]},{"role":"tool","content":"found","tool_call_id":"tu_1"},{"role":"user","content":"so?"},{"role":"assistant","content":"Hi."}]`,
		`[{"role":"system","content":"Be brief."},{"role":"user","content":"weather?"},{"role":"assistant","content":"Rain.","tool_calls":[{"id":"call_9","type":"function","function":{"name":"look_up","arguments":"{\"q\":\"rain\"}"}}]}]`,
		`[]`,
	} {
		var l struct {
			Messages json.RawMessage
			Tools    []struct {
				Type     string
				Function struct{ Name string }
			}
			Metadata metadata
		}
		if err := json.Unmarshal([]byte(lines[i]), &l); err != nil {
			t.Fatal(err)
		}
		if string(l.Messages) != want {
			t.Errorf("line %d:\n%s\nwant\n%s", i, l.Messages, want)
		}
		if i < 3 && (len(l.Tools) != 1 || l.Tools[0].Function.Name != "look_up" || l.Tools[0].Type != "function" || !l.Metadata.Replied) {
			t.Errorf("line %d: %+v, %+v", i, l.Tools, l.Metadata)
		}
		said := strings.Join(l.Metadata.LeftOut, "; ")
		for _, w := range [][]string{nil, {"1 of the kind media"}, {"previous_response_id", "1 of the kind reasoning", "1 of the tools that the provider runs"}, {"no conversation"}}[i] {
			if !strings.Contains(said, w) {
				t.Errorf("line %d: %q is not said to be left out: %q", i, w, said)
			}
		}
		if i == 0 && (l.Metadata.Usage["output_tokens"] != 7 || l.Metadata.Finish != "tool_calls" || said != "") {
			t.Errorf("%+v", l.Metadata)
		}
	}
}

func TestJSONLAnthropic(t *testing.T) {
	events, table := stream(
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_7\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-x-1\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
		"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
		"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":3}}\n\n",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	streamed := message()
	streamed.answer, streamed.events, streamed.answerHeaders = events, table, [][2]string{{"Content-Type", "text/event-stream"}}
	b := as(t, JSONLAnthropic, bundleOf(t, message(), streamed, chatStream(), response()))
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range [][2]string{
		{message().body, message().answer},
		{message().body, `{"id":"msg_7","type":"message","role":"assistant","model":"claude-x-1","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":3}}`},
		{
			`{"model":"fake-1","system":"Be brief.","messages":[{"role":"user","content":[{"type":"text","text":"What is a tally stick?"}]}],"tools":[{"name":"look_up","description":"looks it up","input_schema":{"type":"object","properties":{"q":{"type":"string"}}}}]}`,
			`{"type":"message","role":"assistant","model":"fake-1-2026","content":[{"type":"text","text":"A stick, split in two."},{"type":"tool_use","id":"call_1","name":"look_up","input":{"q":"tally"}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":11,"output_tokens":7}}`,
		},
		{
			`{"model":"fake-1","system":"Be brief.","messages":[{"role":"user","content":[{"type":"text","text":"weather?"}]}],"tools":[{"name":"look_up","input_schema":{"type":"object"}}]}`,
			`{"id":"resp_1","type":"message","role":"assistant","model":"fake-1-2026","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"Rain."},{"type":"tool_use","id":"call_9","name":"look_up","input":{"q":"rain"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":4}}`,
		},
	} {
		var l struct{ Request, Response json.RawMessage }
		if err := json.Unmarshal([]byte(lines[i]), &l); err != nil {
			t.Fatal(err)
		}
		if string(l.Request) != want[0] || string(l.Response) != want[1] {
			t.Errorf("line %d:\n%s\n%s\nwant\n%s\n%s", i, l.Request, l.Response, want[0], want[1])
		}
	}
}

// Lines are lines for every reader, whatever is in them.
func TestLinesAreLines(t *testing.T) {
	c := chatStream()
	c.body = "{\"model\":\"m\",\n \"messages\":[{\"role\":\"user\",\"content\":\"a\u2028b\\nc\u0085\"}]}"
	bad := c
	bad.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}"
	for _, f := range []Format{JSONL, JSONLAnthropic} {
		b := as(t, f, bundleOf(t, c, bad))
		if n := strings.Count(string(b), "\n"); n != 2 || strings.Contains(string(b), "\u2028") || !json.Valid(b[:bytes.IndexByte(b, '\n')]) || strings.ToValidUTF8(string(b), "") != string(b) {
			t.Errorf("%s: %d lines: %q", f, n, b)
		}
	}
}

func TestCSV(t *testing.T) {
	hostile := chatStream()
	hostile.more = map[string]string{record.FieldModel: "=cmd|' /C calc'!A0\t+1;@x", record.FieldRule: "-2+3", record.FieldVerdict: "allow"}
	raw := bundleOf(t, hostile, call{method: "GET", target: "/x", status: 403, refused: "no_route", more: map[string]string{record.FieldModel: "a,\"b\"\r\n＝x"}})
	b := as(t, CSV, raw)
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || len(rows[0]) != len(columns) {
		t.Fatalf("%d rows", len(rows))
	}
	get := func(row int, name string) string {
		for i, c := range rows[0] {
			if c == name {
				return rows[row][i]
			}
		}
		t.Fatalf("no column %s", name)
		return ""
	}
	for _, c := range []struct {
		row        int
		name, want string
	}{
		{1, "model", "'=cmd|' /C calc'!A0 '+1;'@x"}, {1, "rule", "'-2+3"}, {1, "caller", "alice"}, {1, "tokens_out", "7"}, {1, "duration_ms", "334.293"},
		{1, "tool_calls", "look_up"}, {1, "outcome", "complete"}, {1, "began", "2026-11-25T19:27:06.810Z"},
		{2, "model", "a,\"b\"  '＝x"}, {2, "outcome", "refused"}, {2, "refused", "no_route"}, {2, "tokens_in", ""}, {2, "duration_ms", ""}, {2, "status", "403"},
	} {
		if got := get(c.row, c.name); got != c.want {
			t.Errorf("row %d, %s: %q, not %q", c.row, c.name, got, c.want)
		}
	}
	for _, line := range strings.SplitAfter(string(b), "\n") {
		if line != "" && !strings.HasSuffix(line, "\r\n") {
			t.Errorf("a line ends otherwise than RFC 4180 has it: %q", line)
		}
	}
	doc, err := os.ReadFile("FORMATS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		if !strings.Contains(string(doc), "`"+c.name+"`") {
			t.Errorf("FORMATS.md does not tell of the column %s", c.name)
		}
	}
}

// A header and lines as asciicast v3 has them.
func readCast(t testing.TB, b []byte) (head map[string]any, frames [][3]any) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		switch {
		case i == 0:
			if err := json.Unmarshal([]byte(line), &head); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(line, "#"):
		default:
			var f []any
			if err := json.Unmarshal([]byte(line), &f); err != nil || len(f) != 3 {
				t.Fatalf("%q: %v", line, err)
			}
			frames = append(frames, [3]any(f))
		}
	}
	return head, frames
}

func TestCast(t *testing.T) {
	c := chatStream()
	c.body = strings.Replace(c.body, "Be brief.", `\u001b]0;owned\u0007\u001b[2Jx\u009bA\u202e`, 1)
	head, frames := readCast(t, as(t, Cast, bundleOf(t, c)))
	term := head["term"].(map[string]any)
	if head["version"] != 3.0 || head["timestamp"] != float64(began.Unix()) || term["cols"] != 100.0 || term["rows"] != 30.0 {
		t.Errorf("%v", head)
	}
	at, screen := 0.0, ""
	marks := map[string]float64{}
	for i, f := range frames {
		interval, data := f[0].(float64), f[2].(string)
		if interval < 0 {
			t.Errorf("frame %d goes back", i)
		}
		at += interval
		switch f[1] {
		case "o":
			screen += data
			if data == "split in two." && math.Abs(at-0.0815) > 1e-6 {
				t.Errorf("it comes after %v", at)
			}
		case "m":
			marks[data] = at
		case "x":
			if i != len(frames)-1 || data != "0" || math.Abs(at-0.334293) > 1e-6 {
				t.Errorf("frame %d of %d: %v at %v", i, len(frames), f, at)
			}
		default:
			t.Errorf("%v", f)
		}
	}
	plain := strings.NewReplacer(dim, "", plane, "").Replace(screen)
	for _, r := range plain {
		if r < ' ' && r != '\r' && r != '\n' || 0x7f <= r && r < 0xa0 || r == 0x202e {
			t.Errorf("%q steers the terminal", r)
		}
	}
	for _, want := range []string{"␛]0;owned␇", "What is a tally stick?", "A stick, split in two.\r\n-> look_up {\"q\":\"tally\"}", "complete"} {
		if !strings.Contains(plain, want) {
			t.Errorf("%q is not shown in %q", want, plain)
		}
	}
	if math.Abs(marks["the answer begins"]-0.0215) > 1e-6 || math.Abs(marks["sent to the model"]-0.0015) > 1e-6 {
		t.Errorf("%v", marks)
	}
	c = chatStream()
	c.outcome, c.answer = record.Truncated, c.answer[:len(c.answer)-20]
	_, frames = readCast(t, as(t, Cast, bundleOf(t, c)))
	if last := frames[len(frames)-1]; last[1] != "x" || last[2] != "1" {
		t.Errorf("a call that was cut ends with %v", last)
	}
}
