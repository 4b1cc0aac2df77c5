package gateway

import (
	"bytes"
	"encoding/json"
)

// usedTokens is what an answer says that it used, of what was asked and of what was answered together; -1 where it does not
// say. It is for quotas: a model that says nothing, or no number, is taken to have used what was reserved.
func usedTokens(api API, body []byte, stream bool) int64 {
	if api == HTTP || len(body) == 0 {
		return -1
	}
	if !stream {
		var b struct {
			Usage json.RawMessage `json:"usage"`
		}
		if json.Unmarshal(body, &b) != nil {
			return -1
		}
		in, out := tokensIn(b.Usage)
		return bothTokens(in, out)
	}
	// In a stream usage stands in the events that begin and end it: the last word on each counts.
	in, out := int64(-1), int64(-1)
	for line := range bytes.Lines(body) {
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok || !bytes.Contains(data, []byte(`"usage"`)) {
			continue
		}
		var e struct {
			Usage   json.RawMessage `json:"usage"`
			Message struct {
				Usage json.RawMessage `json:"usage"`
			} `json:"message"`
			Response struct {
				Usage json.RawMessage `json:"usage"`
			} `json:"response"`
		}
		if json.Unmarshal(data, &e) != nil {
			continue
		}
		for _, u := range []json.RawMessage{e.Message.Usage, e.Response.Usage, e.Usage} {
			i, o := tokensIn(u)
			in, out = max(in, i), max(out, o)
		}
	}
	return bothTokens(in, out)
}

// tokensIn reads a usage of either family; -1 is for what is not said.
func tokensIn(raw json.RawMessage) (in, out int64) {
	u := struct {
		Prompt     *int64 `json:"prompt_tokens"`
		Completion *int64 `json:"completion_tokens"`
		Input      *int64 `json:"input_tokens"`
		Output     *int64 `json:"output_tokens"`
		Made       *int64 `json:"cache_creation_input_tokens"`
		Read       *int64 `json:"cache_read_input_tokens"`
	}{}
	if len(raw) == 0 || json.Unmarshal(raw, &u) != nil {
		return -1, -1
	}
	of := func(some ...*int64) int64 {
		n := int64(-1)
		for _, p := range some {
			if p != nil && *p >= 0 {
				n = add(max(n, 0), *p)
			}
		}
		return n
	}
	if u.Prompt != nil || u.Completion != nil {
		return of(u.Prompt), of(u.Completion)
	}
	return of(u.Input, u.Made, u.Read), of(u.Output)
}

func bothTokens(in, out int64) int64 {
	if in < 0 && out < 0 {
		return -1
	}
	return add(max(in, 0), max(out, 0))
}
