package gateway

import "testing"

func TestUsedTokens(t *testing.T) {
	for _, c := range []struct {
		name   string
		api    API
		body   string
		stream bool
		want   int64
	}{
		{"chat", OpenAI, `{"id":"x","usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}`, false, 18},
		{"embeddings", OpenAI, `{"usage":{"prompt_tokens":5,"total_tokens":5}}`, false, 5},
		{"responses", OpenAI, `{"usage":{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":2}}}`, false, 7},
		{"messages", Anthropic, `{"usage":{"input_tokens":3,"output_tokens":4,"cache_creation_input_tokens":100,"cache_read_input_tokens":50}}`, false, 157},
		{"another API", HTTP, `{"usage":{"input_tokens":3}}`, false, -1},
		{"nothing said", OpenAI, `{"id":"x"}`, false, -1},
		{"null", OpenAI, `{"usage":null}`, false, -1},
		{"words", OpenAI, `{"usage":{"prompt_tokens":"many"}}`, false, -1},
		{"less than nothing", OpenAI, `{"usage":{"prompt_tokens":-5,"completion_tokens":-1}}`, false, -1},
		{"more than there are numbers", OpenAI, `{"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807}}`, false, 1<<63 - 1},
		{"no JSON", OpenAI, `<html>`, false, -1},
		{"empty", OpenAI, ``, false, -1},
		{"a chat's stream", OpenAI, "data: {\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n", true, 11},
		{"a stream that says nothing", OpenAI, "data: {\"choices\":[]}\n\ndata: [DONE]\n\n", true, -1},
		{"a stream of messages", Anthropic, "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n", true, 40},
		{"a stream of responses", OpenAI, "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\ndata:{\"response\":{\"usage\":{\"input_tokens\":8,\"output_tokens\":1}}}\n\n", true, 9},
	} {
		if got := usedTokens(c.api, []byte(c.body), c.stream).both(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func FuzzUsedTokens(f *testing.F) {
	f.Add([]byte(`{"usage":{"prompt_tokens":11,"completion_tokens":7}}`), true)
	f.Add([]byte("data: {\"message\":{\"usage\":{\"input_tokens\":25}}}\n\n"), false)
	f.Fuzz(func(t *testing.T, body []byte, stream bool) {
		for _, api := range []API{OpenAI, Anthropic, HTTP} {
			if n := usedTokens(api, body, stream).both(); n < -1 {
				t.Error(n)
			}
		}
	})
}
