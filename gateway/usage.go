package gateway

import "bytes"

// A spent is what an answer says that it used; -1 is for what it does not say.
type spent struct {
	in, out          int64
	cacheRead, cache int64 // of in: what was read from a cache of the model's, and what was written to it
}

var untold = spent{-1, -1, -1, -1}

// both is what was used of what was asked and of what was answered together; -1 where nothing is said. It is for quotas: a
// model that says nothing, or no number, is taken to have used what was reserved.
func (t spent) both() int64 {
	if t.in < 0 && t.out < 0 {
		return -1
	}
	return add(max(t.in, 0), max(t.out, 0))
}

// usedTokens reads what an answer says that it used. It goes over the body once and allocates nothing.
func usedTokens(api API, body []byte, stream bool) spent {
	used := untold
	if api == HTTP || !bytes.Contains(body, usageWord) {
		return used
	}
	if !stream {
		for m := walk(body); m.next(); {
			if string(m.name) == "usage" {
				used = tokensIn(m.value)
			}
		}
		return used
	}
	// In a stream usage stands in the events that begin and end it: the last word on each counts.
	for event := range dataWith(body, usageWord) {
		for m := walk(event); m.next(); {
			switch string(m.name) {
			case "usage":
				used.take(tokensIn(m.value))
			case "message", "response":
				for inner := walk(m.value); inner.next(); {
					if string(inner.name) == "usage" {
						used.take(tokensIn(inner.value))
					}
				}
			}
		}
	}
	return used
}

var usageWord = []byte(`"usage"`)

// dataWith goes over the data of those events of a stream in which a word stands.
func dataWith(body, word []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for {
			i := bytes.Index(body, word)
			if i < 0 {
				return
			}
			line := body[bytes.LastIndexByte(body[:i], '\n')+1:]
			body = nil
			if end := bytes.IndexByte(line, '\n'); end >= 0 {
				line, body = line[:end], line[end:]
			}
			if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && !yield(data) {
				return
			}
		}
	}
}

// take puts in what is said later.
func (t *spent) take(later spent) {
	t.in, t.out = max(t.in, later.in), max(t.out, later.out)
	t.cacheRead, t.cache = max(t.cacheRead, later.cacheRead), max(t.cache, later.cache)
}

// tokensIn reads a usage of either family. Where one of its numbers is none, nothing is said.
func tokensIn(raw []byte) spent {
	prompt, completion, input, output := int64(-1), int64(-1), int64(-1), int64(-1)
	t, within := untold, false // cached tokens are a part of the input
	for m := walk(raw); m.next(); {
		var to *int64
		switch string(m.name) {
		case "prompt_tokens":
			to = &prompt
		case "completion_tokens":
			to = &completion
		case "input_tokens":
			to = &input
		case "output_tokens":
			to = &output
		case "cache_creation_input_tokens":
			to = &t.cache
		case "cache_read_input_tokens":
			to = &t.cacheRead
		case "prompt_tokens_details", "input_tokens_details":
			for d := walk(m.value); d.next(); {
				if string(d.name) == "cached_tokens" {
					if n, ok := wholeNumber(d.value); ok {
						t.cacheRead, within = n, true
					}
				}
			}
			continue
		default:
			continue
		}
		n, ok := wholeNumber(m.value)
		if !ok {
			return untold
		}
		*to = n
	}
	if prompt >= 0 || completion >= 0 {
		t.in, t.out = prompt, completion
		return t
	}
	t.in, t.out = input, output
	for _, beside := range [...]int64{t.cache, t.cacheRead} {
		if beside >= 0 && !within {
			t.in = add(max(t.in, 0), beside)
		}
	}
	return t
}

// wholeNumber reads a number that is whole, which a model can have used; -1 is for null, and for one below zero.
func wholeNumber(b []byte) (n int64, ok bool) {
	if string(b) == "null" {
		return -1, true
	}
	below := len(b) > 1 && b[0] == '-'
	if below {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 {
		return -1, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1, false
		}
		if n > (1<<63-1-int64(c-'0'))/10 {
			return -1, false
		}
		n = n*10 + int64(c-'0')
	}
	if below {
		return -1, true
	}
	return n, true
}

// A walker goes over the members of a JSON object without a copy. It looks for where values end, and not if they are in order:
// what is no JSON has an end sooner or later, and members that nobody should rely on. A name with an escape in it is not undone.
type walker struct {
	rest        []byte
	name, value []byte
}

// walk begins with the first byte that is no space.
func walk(b []byte) walker {
	b = trimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return walker{}
	}
	return walker{rest: b[1:]}
}

// next goes on to the next member, if there is one that is whole.
func (m *walker) next() bool {
	b := trimSpace(m.rest)
	if len(b) > 0 && b[0] == ',' {
		b = trimSpace(b[1:])
	}
	m.rest = nil
	if len(b) == 0 || b[0] != '"' {
		return false
	}
	n := valueEnd(b)
	if n < 0 {
		return false
	}
	m.name = b[1 : n-1]
	if b = trimSpace(b[n:]); len(b) == 0 || b[0] != ':' {
		return false
	}
	b = trimSpace(b[1:])
	if n = valueEnd(b); n <= 0 {
		return false
	}
	m.value, m.rest = b[:n], b[n:]
	return true
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// valueEnd returns where the JSON value ends that b begins with, or -1.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := stringEnd(b[i:])
			if n < 0 {
				return -1
			}
			if i += n - 1; depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i // what came before it is a number or a word
			}
			if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}

// stringEnd returns where the JSON string ends that b begins with, or -1.
func stringEnd(b []byte) int {
	for i := 1; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n + 1
		escapes := 0
		for j := i - 2; j > 0 && b[j] == '\\'; j-- {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
}
