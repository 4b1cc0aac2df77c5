package mask

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A doc is a JSON text as a list of its values, in the order they begin. It is read leniently: what matters is where strings and
// numbers are, and that what is no JSON is told from what is.
type doc struct {
	b     []byte
	nodes []node
	stack []int32
	every bool // keep short numbers and fractions in arrays too
}

// A node is a value.
type node struct {
	from, to         int // of a string what is between the quotes
	nameFrom, nameTo int // of a member its name, between the quotes; nameTo is 0 for an element
	parent           int32
	pos              int32 // among the parent's values
	had              int32 // of a container: how many values were read
	kind             uint8
}

const (
	inObject = iota
	inArray
	aString
	aNumber
	aWord // true, false, null
)

// maxNesting is how deep arrays and objects may lie in each other.
const maxNesting = 1000

var errJSON = errors.New("mask: not JSON")

// parse reads one value of b[from:to] and what is around it. The nodes of what it read before it met an error are there, a string
// that does not end included.
func (d *doc) parse(b []byte, from, to int) error {
	d.b, d.nodes, d.stack = b, d.nodes[:0], d.stack[:0]
	err := d.read(b, from, to)
	for _, i := range d.stack { // what was not closed ends with the text
		d.nodes[i].to = to
	}
	return err
}

func (d *doc) read(b []byte, from, to int) error {
	b = b[:to]
	i := from
	skip := func() {
		for i < to && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
			i++
		}
	}
	nameFrom, nameTo := 0, 0
	for {
		// A value.
		skip()
		if i == to {
			return errJSON
		}
		n := node{from: i, nameFrom: nameFrom, nameTo: nameTo, parent: -1}
		if k := len(d.stack); k > 0 {
			n.parent = d.stack[k-1]
			p := &d.nodes[n.parent]
			n.pos = p.had
			p.had++
		}
		nameTo = 0
		opened := false
		switch c := b[i]; {
		case c == '{' || c == '[':
			if len(d.stack) == maxNesting {
				return errJSON
			}
			if c == '[' {
				n.kind = inArray
			}
			d.stack = append(d.stack, int32(len(d.nodes)))
			d.nodes = append(d.nodes, n)
			i++
			skip()
			if i < to && (c == '{' && b[i] == '}' || c == '[' && b[i] == ']') {
				break // empty: closed below
			}
			opened = true
		case c == '"':
			end, ok := stringEnd(b, i+1)
			n.from, n.to, n.kind = i+1, end, aString
			d.nodes = append(d.nodes, n)
			if !ok {
				return errJSON
			}
			i = end + 1
		default:
			j := i
			for j < to && (isWord(b[j]) || b[j] == '-' || b[j] == '+' || b[j] == '.') {
				j++
			}
			n.to, n.kind = j, aNumber
			switch word := string(b[i:j]); {
			case word == "true" || word == "false" || word == "null":
				n.kind = aWord
			case j == i || !isNumber(b[i:j]):
				return errJSON
			}
			// Vectors are long, and nothing that is looked for has a fraction or two digits.
			if d.every || n.kind != aNumber || n.parent < 0 || d.nodes[n.parent].kind != inArray || j-i > 2 && bytes.IndexByte(b[i:j], '.') < 0 {
				d.nodes = append(d.nodes, n)
			}
			i = j
		}
		// What follows it.
		for !opened {
			skip()
			k := len(d.stack)
			if k == 0 {
				if i < to {
					return errJSON
				}
				return nil
			}
			if i == to {
				return errJSON
			}
			p := &d.nodes[d.stack[k-1]]
			switch c := b[i]; {
			case c == ',':
				i++
				opened = true
			case c == '}' && p.kind == inObject, c == ']' && p.kind == inArray:
				i++
				p.to = i
				d.stack = d.stack[:k-1]
			default:
				return errJSON
			}
		}
		// In an object a name comes first.
		if d.nodes[d.stack[len(d.stack)-1]].kind == inObject {
			skip()
			if i == to || b[i] != '"' {
				return errJSON
			}
			end, ok := stringEnd(b, i+1)
			if !ok {
				return errJSON
			}
			nameFrom, nameTo = i+1, end
			i = end + 1
			skip()
			if i == to || b[i] != ':' {
				return errJSON
			}
			i++
		}
	}
}

// stringEnd returns where the quote is that ends the string whose first byte is at i; the end of b if none is.
func stringEnd(b []byte, i int) (int, bool) {
	from := i
	for {
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
			return i, true
		}
		i++
	}
}

// isNumber reports whether b is a number of JSON.
func isNumber(b []byte) bool {
	i := 0
	digits := func() bool {
		at := i
		for i < len(b) && is(b[i], isDigit) {
			i++
		}
		return i > at
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return false
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(b)
}

// name returns a node's name, or that of the nearest of those it is in that have one, as it is written.
func (d *doc) name(n *node) []byte {
	for n.nameTo == 0 {
		if n.parent < 0 {
			return nil
		}
		n = &d.nodes[n.parent]
	}
	return d.b[n.nameFrom:n.nameTo]
}

// A path is a JSON path: names, positions, * for any, and .. for any depth.
type path []step

type step struct {
	name string
	pos  int // -1 if it goes by name
	any  bool
	deep bool // at any depth below
}

// parsePath reads $, .name, ..name, ['name'], [3], [*] and .*.
func parsePath(s string) (path, error) {
	wrong := func() (path, error) { return nil, fmt.Errorf("%q is no JSON path such as $.messages[*].content", s) }
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return wrong()
	}
	var p path
	for rest != "" {
		st := step{pos: -1}
		switch {
		case strings.HasPrefix(rest, ".."):
			st.deep = true
			rest = rest[2:]
		case rest[0] == '.':
			rest = rest[1:]
		}
		if strings.HasPrefix(rest, "[") {
			in, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return wrong()
			}
			rest = after
			switch n, err := strconv.Atoi(in); {
			case in == "*":
				st.any = true
			case err == nil && n >= 0:
				st.pos = n
			case len(in) > 2 && (in[0] == '\'' || in[0] == '"') && in[len(in)-1] == in[0]:
				st.name = in[1 : len(in)-1]
			default:
				return wrong()
			}
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			st.name = rest[:end]
			rest = rest[end:]
			st.any = st.name == "*"
		}
		if st.name == "" && !st.any && st.pos < 0 {
			return wrong()
		}
		p = append(p, st)
	}
	if len(p) == 0 {
		return wrong()
	}
	return p, nil
}

// at reports whether the path leads to the node, or to something it is in.
func (d *doc) at(p path, i int32) bool {
	for ; i >= 0; i = d.nodes[i].parent {
		if d.ends(p, i) {
			return true
		}
	}
	return false
}

// ends reports whether the path leads to the node.
func (d *doc) ends(p path, i int32) bool {
	if len(p) == 0 {
		return d.nodes[i].parent < 0
	}
	n := &d.nodes[i]
	if n.parent < 0 {
		return false
	}
	last := p[len(p)-1]
	switch {
	case last.any:
	case last.pos >= 0:
		if d.nodes[n.parent].kind != inArray || int(n.pos) != last.pos {
			return false
		}
	case n.nameTo == 0 || string(d.b[n.nameFrom:n.nameTo]) != last.name:
		return false
	}
	rest := p[:len(p)-1]
	if !last.deep {
		return d.ends(rest, n.parent)
	}
	for up := n.parent; up >= 0; up = d.nodes[up].parent {
		if d.ends(rest, up) {
			return true
		}
	}
	return false
}
