package replay

import (
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

func TestTell(t *testing.T) {
	call := &transcript.Call{ID: "c1", Name: "pay", Arguments: `{"a":1}`}
	for want, p := range map[string]transcript.Part{
		"words":                            {Kind: transcript.Text, Text: "words"},
		"thinks: hm":                       {Kind: transcript.Reasoning, Text: "hm"},
		"refuses: no":                      {Kind: transcript.Refusal, Text: "no"},
		`calls pay {"a":1}`:                {Kind: transcript.ToolCall, Call: call},
		"calls a tool ":                    {Kind: transcript.ToolCall, Call: &transcript.Call{}},
		"calls":                            {Kind: transcript.ToolCall, Text: "calls"},
		"result of pay: done":              {Kind: transcript.Result, Text: "done", Call: call},
		"result of c2: done":               {Kind: transcript.Result, Text: "done", Call: &transcript.Call{ID: "c2"}},
		"result of a call: done":           {Kind: transcript.Result, Text: "done", Call: &transcript.Call{}},
		"result":                           {Kind: transcript.Result, Text: "result"},
		"[image]":                          {Kind: transcript.Media, File: &transcript.File{Type: "image"}},
		"[a/b c.pdf at http://x.y/z, 7 B]": {Kind: transcript.Media, File: &transcript.File{Type: "a/b", Name: "c.pdf", URL: "http://x.y/z", Size: 7}},
		"media":                            {Kind: transcript.Media, Text: "media"},
		`{"x":1}`:                          {Kind: transcript.Other, Text: `{"x":1}`},
	} {
		if got := TellPart(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, w := range map[string]transcript.Word{
		"bob says yes": {Said: record.Granted, Actor: "bob"}, "bob says yes, and others are needed": {Said: record.Agreed, Actor: "bob"},
		"bob says yes alone, in an emergency: fire": {Said: record.Glass, Actor: "bob", Reason: "fire"}, "somebody says no": {Said: record.No}, "bob odd": {Said: "odd", Actor: "bob"},
	} {
		if got := TellWord(w); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	until := time.Date(2026, 1, 2, 15, 4, 5, 0, time.FixedZone("", 3600))
	for want, a := range map[string]transcript.Approval{
		"people are asked": {Need: 1}, "a, b are asked by the rule r, and 2 of them must say yes, until 2026-01-02T14:04:05Z: why": {Groups: []string{"a", "b"}, Rule: "r", Need: 2, Until: until, Message: "why"},
	} {
		if got := TellQuestion(&a); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	none := transcript.Usage{In: -1, Out: -1, CacheRead: -1, CacheWrite: -1, Reasoning: -1}
	for want, u := range map[string]transcript.Usage{
		"": none, "7 tokens in, 0 out": {In: 7, CacheRead: 0, CacheWrite: 0, Reasoning: 0}, "0 tokens in": {Out: -1},
		"9 tokens in, 4 of them from a cache, 2 into one, 5 out, 3 of them for reasoning": {In: 9, Out: 5, CacheRead: 4, CacheWrite: 2, Reasoning: 3},
	} {
		if got := TellUsage(u); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, x := range map[string]transcript.Transcript{
		"it has not ended": {Open: true, Outcome: record.Complete},
		"refused: quota; nothing was sent to the model; status 429; too much": {Refused: "quota", Answer: transcript.Answer{Status: 429, Error: "too much"}},
		"refused: quota; nothing was sent to the model":                       {Refused: "quota"},
		"complete": {Outcome: record.Complete, Answer: transcript.Answer{Status: 399}},
		"complete: the model answered with an error; status 400":                            {Outcome: record.Complete, Answer: transcript.Answer{Status: 400}},
		"CUT: the caller left before the end; finish stop":                                  {Outcome: record.ClientGone, Replies: []transcript.Reply{{}, {Finish: "stop"}, {Finish: "length"}}},
		"CUT: the gateway died, or stopped; kept: 3 bytes":                                  {Outcome: record.Interrupted, Answer: transcript.Answer{Kept: "3 bytes"}},
		"failed: the model could not be reached, or its answer not be read; status 502; no": {Outcome: record.UpstreamError, Answer: transcript.Answer{Status: 502, Error: "no"}},
		"denied: nothing was sent to the model; status 403":                                 {Outcome: record.Denied, Answer: transcript.Answer{Status: 403, Error: "denied", Problem: "it was denied"}},
		"of another kind": {Outcome: "of another kind"},
	} {
		x.Usage = none
		if got := TellEnd(&x); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, x := range map[string]transcript.Transcript{
		"ann asks m-1: POST /x":           {Caller: transcript.Caller{Name: "ann"}, Model: "m-1", Route: "r", Request: transcript.Request{Method: "POST", Target: "/x"}},
		"somebody asks r: GET /x":         {Route: "r", Request: transcript.Request{Method: "GET", Target: "/x"}},
		"somebody asks something: GET /x": {Request: transcript.Request{Method: "GET", Target: "/x"}},
		"who asked what is erased":        {Erased: true},
		"ann asks; what, is not here":     {Caller: transcript.Caller{Name: "ann"}},
	} {
		if got := TellRequest(&x); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for o := range outcomes {
		if o == "" || len(outcomes) != 10 {
			t.Errorf("%d outcomes have names", len(outcomes))
		}
	}
}

// A timeline is in order whatever the times are, and says what has no time of its own.
func TestTimeline(t *testing.T) {
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	for name, c := range map[string]struct {
		x    transcript.Transcript
		want []Moment
	}{
		"open": {transcript.Transcript{Open: true, Times: transcript.Times{Received: epoch}}, []Moment{{What: Received, Known: true}}},
		"times that go back": {
			transcript.Transcript{Times: transcript.Times{Received: epoch, Sent: at(-time.Second), First: at(time.Second), Ended: at(500 * time.Millisecond)}, Answer: transcript.Answer{Body: []byte("a")}},
			[]Moment{{What: Received, Known: true}, {What: Sent, Known: true}, {What: Begun, At: time.Second, Known: true}, {What: Came, At: time.Second, Known: true}, {What: Ended, At: time.Second, Known: true}},
		},
		"no times": {transcript.Transcript{Answer: transcript.Answer{Body: []byte("a")}}, []Moment{{What: Received}, {What: Came}, {What: Ended}}},
		"only its entries have times": {
			transcript.Transcript{Entries: []transcript.Entry{{Time: epoch}}, Times: transcript.Times{First: at(time.Second)}},
			[]Moment{{What: Received, Known: true}, {What: Begun, At: time.Second, Known: true}, {What: Ended, At: time.Second}},
		},
		"silence": {
			transcript.Transcript{Times: transcript.Times{Received: epoch, Sent: at(5 * time.Second), First: at(9 * time.Second), Ended: at(12 * time.Second)}, Events: []transcript.Event{{At: 999 * time.Millisecond}, {At: 1999 * time.Millisecond}}},
			[]Moment{
				{What: Received, Known: true}, {What: Sent, At: 5 * time.Second, Known: true}, {What: Begun, At: 9 * time.Second, Known: true}, {What: Came, At: 9999 * time.Millisecond, Known: true},
				{What: Came, At: 10999 * time.Millisecond, Known: true, Silence: time.Second}, {What: Ended, At: 12 * time.Second, Known: true, Silence: 1001 * time.Millisecond},
			},
		},
		"refused": {transcript.Transcript{Refused: "quota", Times: transcript.Times{Received: epoch}}, []Moment{{What: Received, Known: true}, {What: Ended, Known: true}}},
		"nobody answered": {
			transcript.Transcript{Times: transcript.Times{Received: epoch, Ended: at(time.Hour)}, Approval: &transcript.Approval{Asked: at(1), Expired: at(time.Hour)}},
			[]Moment{{What: Received, Known: true}, {What: Asked, At: 1, Known: true}, {What: Expired, At: time.Hour, Known: true}, {What: Ended, At: time.Hour, Known: true}},
		},
	} {
		got := Timeline(&c.x)
		for i := range got {
			got[i].Event, got[i].Word = nil, nil
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %+v, want %+v", name, got[i], c.want[i])
			}
		}
	}
	long := []Moment{{At: 0}, {At: 5}, {At: 15}, {At: 16}, {At: 100}}
	for limit, want := range map[time.Duration][]time.Duration{0: {0, 5, 15, 16, 100}, 10: {0, 5, 15, 16, 26}, 5: {0, 5, 10, 11, 16}, 1: {0, 1, 2, 3, 4}} {
		for i, m := range Compress(long, limit) {
			if m.At != want[i] {
				t.Errorf("with silences of %d: moment %d at %d", limit, i, m.At)
			}
		}
	}
}
