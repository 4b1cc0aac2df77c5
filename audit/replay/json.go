package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// decode reads one JSON value, with numbers as they are spelt.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// canonical returns JSON in one spelling: names in order, no white space, numbers as they are; and what is not JSON as it is.
func canonical(b []byte) []byte {
	v, err := decode(b)
	if err != nil {
		return b
	}
	out, err := spell(v)
	if err != nil {
		return b
	}
	return out
}

func spell(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// A Change is a place in which two JSON values differ. Where one of them has no such place its text is "".
type Change struct {
	Path string `json:"path"` // such as .choices[0].text; "" for the whole value
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
}

// diffJSON returns the places in which two decoded values differ, in the order of their names and indices, most of them at most.
// Strings that differ in what is masked are alike. Places that skip names are passed over; it may be nil.
func diffJSON(a, b any, most int, skip func(path string) bool) []Change {
	d := jsonDiff{most: most, skip: skip}
	d.walk("", a, b)
	return d.found
}

type jsonDiff struct {
	most  int
	skip  func(string) bool
	found []Change
}

func (d *jsonDiff) walk(path string, a, b any) {
	if len(d.found) >= d.most || d.skip != nil && d.skip(path) {
		return
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			names := slices.Sorted(maps.Keys(x))
			for name := range y {
				if _, both := x[name]; !both {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			for _, name := range names {
				d.member(path+"."+label(name), x, y, name)
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				at := path + "[" + strconv.Itoa(i) + "]"
				switch {
				case i >= len(y):
					d.add(at, text(x[i]), "")
				case i >= len(x):
					d.add(at, "", text(y[i]))
				default:
					d.walk(at, x[i], y[i])
				}
			}
			return
		}
	case json.Number:
		if y, ok := b.(json.Number); ok && sameNumber(x, y) {
			return
		}
	case string:
		if y, ok := b.(string); ok && alike(x, y) {
			return
		}
	default: // true, false and null
		if y, ok := b.(bool); a == nil && b == nil || ok && a == y {
			return
		}
	}
	d.add(path, text(a), text(b))
}

func (d *jsonDiff) member(path string, x, y map[string]any, name string) {
	a, inA := x[name]
	b, inB := y[name]
	switch {
	case !inA:
		d.add(path, "", text(b))
	case !inB:
		d.add(path, text(a), "")
	default:
		d.walk(path, a, b)
	}
}

func (d *jsonDiff) add(path, a, b string) {
	if len(d.found) < d.most && (d.skip == nil || !d.skip(path)) {
		d.found = append(d.found, Change{path, a, b})
	}
}

// label is a name in a path: quoted where it would not stand for itself.
func label(name string) string {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return !(r == '_' || r == '-' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	}) {
		return strconv.Quote(name)
	}
	return name
}

// text spells a value.
func text(v any) string {
	b, err := spell(v)
	if err != nil {
		return "?"
	}
	return string(b)
}

// sameNumber says whether two numbers are one, spelt differently perhaps, as long as a float can tell.
func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, err := a.Float64()
	y, yerr := b.Float64()
	return err == nil && yerr == nil && x == y && math.Abs(x) < 1<<53
}
