package transcript

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// A value is a JSON value as it stands in a body. It is read where it is asked for and no further, so that a body that breaks off is
// read as far as it goes, and one of millions of values costs what is wanted of it. Names count as they are spelled; of one that is
// there twice the last counts, as for most readers. What is no JSON reads as some of what it seems to be, or as nothing.
type value []byte

// valueOf returns the value in b, or nil where none begins. Whether it is JSON json.Valid says.
func valueOf(b []byte) value {
	i := skipSpace(b, 0)
	end := skipValue(b, i)
	if end == i {
		return nil
	}
	return value(b[i:end])
}

// kind is the value's first byte, 0 of none: '{', '[', '"', or the first of a number or word.
func (v value) kind() byte {
	if len(v) == 0 {
		return 0
	}
	return v[0]
}

// members calls each for the members of an object, of anything else for none.
func (v value) members(each func(name string, v value)) {
	if v.kind() != '{' {
		return
	}
	for i := skipSpace(v, 1); i < len(v) && v[i] == '"'; {
		end := skipValue(v, i)
		name := v[i:end]
		if i = skipSpace(v, end); i == len(v) || v[i] != ':' {
			return
		}
		i = skipSpace(v, i+1)
		end = skipValue(v, i)
		if end == i {
			return
		}
		each(name.text(), v[i:end])
		if i = skipSpace(v, end); i == len(v) || v[i] != ',' {
			return
		}
		i = skipSpace(v, i+1)
	}
}

// get returns the member of that name, nil where there is none.
func (v value) get(names ...string) value {
	for _, want := range names {
		var found value
		v.members(func(name string, m value) {
			if name == want {
				found = m
			}
		})
		v = found
	}
	return v
}

// items calls each for the elements of an array, until it returns false; of anything else for none.
func (v value) items(each func(v value) bool) {
	if v.kind() != '[' {
		return
	}
	for i := skipSpace(v, 1); i < len(v); {
		end := skipValue(v, i)
		if end == i || !each(v[i:end]) {
			return
		}
		if i = skipSpace(v, end); i == len(v) || v[i] != ',' {
			return
		}
		i = skipSpace(v, i+1)
	}
}

// text returns what a string says, of anything else "". Of a string that breaks off it is what is there.
func (v value) text() string {
	if v.kind() != '"' {
		return ""
	}
	in, most := []byte(v[1:]), 5
	if _, closed := stringEnd(v, 0); closed {
		in, most = in[:len(in)-1], 0
	}
	if bytes.IndexByte(in, '\\') < 0 {
		return strings.ToValidUTF8(string(in), "\uFFFD")
	}
	quoted := append(append(append(make([]byte, 0, len(in)+2), '"'), in...), '"')
	var s string
	// An escape may be what breaks off: \, \u, \u1, \u12, \u123.
	for cut := 0; cut <= min(most, len(in)); cut++ {
		quoted[len(quoted)-1-cut] = '"'
		if json.Unmarshal(quoted[:len(quoted)-cut], &s) == nil {
			return s
		}
	}
	return strings.ToValidUTF8(string(in), "\uFFFD")
}

// int returns a whole number that is not negative, or -1.
func (v value) int() int64 {
	n, err := strconv.ParseInt(string(v[:min(len(v), 20)]), 10, 64)
	if err != nil || n < 0 || len(v) > 20 {
		return -1
	}
	return n
}

// yes says whether the value is the word true.
func (v value) yes() bool { return string(v) == "true" }

// there says whether the value is there, and not null.
func (v value) there() bool { return len(v) > 0 && string(v) != "null" }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns where the value that begins at i ends; i where none does. What breaks off ends with b.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return i
	}
	switch b[i] {
	case '"':
		end, _ := stringEnd(b, i)
		return end
	case '{', '[':
		deep := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i, _ = stringEnd(b, i)
				continue
			case '{', '[':
				deep++
			case '}', ']':
				if deep--; deep == 0 {
					return i + 1
				}
			}
			i++
		}
		return i
	}
	for i < len(b) && !strings.ContainsRune(",]} \n\r\t:\"{[", rune(b[i])) {
		i++
	}
	return i
}

// stringEnd returns what follows the string that begins with a quote at i, and whether it has an end.
func stringEnd(b []byte, i int) (end int, closed bool) {
	from := i + 1
	for i = from; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b), false
		}
		i += n
		slashes := 0
		for i-slashes > from && b[i-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1, true
		}
	}
}
