package cel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/common/env"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/tallystick/tallystick/gateway"
)

// A Mistake is one thing that is wrong with a policy: where, what, and what to write instead.
type Mistake struct {
	File         string // as it was given
	Line, Column int    // from 1; a column counts characters
	Rule         string // its name; "" outside rules
	What         string
}

func (m *Mistake) Error() string {
	rule := ""
	if m.Rule != "" {
		rule = "rule " + m.Rule + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s%s", m.File, m.Line, m.Column, rule, m.What)
}

// A document is a policy's text while it is read.
type document struct {
	file     string
	text     string
	lines    []int // where each begins
	rule     string
	mistakes []*Mistake
}

func newDocument(file string, text []byte) *document {
	d := &document{file: file, text: string(text), lines: []int{0}}
	for i, b := range text {
		if b == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	return d
}

func (d *document) mistake(line, column int, format string, args ...any) {
	d.mistakes = append(d.mistakes, &Mistake{d.file, max(1, line), max(1, column), d.rule, fmt.Sprintf(format, args...)})
}

func (d *document) at(n ast.Node, format string, args ...any) {
	line, column := place(n)
	d.mistake(line, column, format, args...)
}

func place(n ast.Node) (line, column int) {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		n = m.Values[0].Key // a mapping's own token is its first colon
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1, 1
	}
	return n.GetToken().Position.Line, n.GetToken().Position.Column
}

// err is all that is wrong, from top to bottom; nil for nothing.
func (d *document) err() error {
	slices.SortStableFunc(d.mistakes, func(a, b *Mistake) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	var errs []error
	for i, m := range d.mistakes {
		if i == 0 || *m != *d.mistakes[i-1] {
			errs = append(errs, m)
		}
	}
	return errors.Join(errs...)
}

// root reads the text as one YAML mapping, of the part of YAML that has one meaning.
func (d *document) root() ast.Node {
	for i, r := range d.text {
		if r == utf8.RuneError || unicode.Is(unicode.Cf, r) || unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' {
			line, found := slices.BinarySearch(d.lines, i)
			if !found {
				line--
			}
			d.mistake(line+1, utf8.RuneCountInString(d.text[d.lines[line]:i])+1, "a policy is text in UTF-8, without a byte order mark, control characters, or such as nobody sees")
			return nil
		}
	}
	f, err := parser.ParseBytes([]byte(d.text), 0)
	if err != nil {
		var s *yaml.SyntaxError
		if errors.As(err, &s) && s.Token != nil && s.Token.Position != nil {
			d.mistake(s.Token.Position.Line, s.Token.Position.Column,
				"this is not YAML: %s; an expression that begins with a quote or !, or has ': ' or ' #' in it, is written on a line of its own below `when: |`", s.Message)
		} else {
			d.mistake(1, 1, "this is not YAML: %v", err)
		}
		return nil
	}
	var bodies []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		d.mistake(1, 1, "the policy is empty; write at least `otherwise: refuse`")
		return nil
	case len(bodies) > 1:
		d.at(bodies[1], "a policy is one document; leave out directives and ---")
		return nil
	}
	return bodies[0]
}

// An entry is one member of a mapping.
type entry struct {
	name  string
	key   ast.Node
	value ast.Node
}

// mapping reads a mapping that has no other members than those.
func (d *document) mapping(n ast.Node, what string, names ...string) (entries map[string]entry, ok bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.at(n, "%s is written as names and values, one `name: value` a line", what)
		return nil, false
	}
	entries = make(map[string]entry)
	for _, v := range values {
		key, isText := v.Key.(*ast.StringNode)
		if !isText {
			d.at(v.Key, "%s has %s, each a plain name", what, strings.Join(names, ", "))
			continue
		}
		if !slices.Contains(names, key.Value) {
			instead := "it has " + strings.Join(names, ", ")
			if near := nearest(key.Value, names); near != "" {
				instead = "write " + near
			}
			d.at(key, "%s has no %q; %s", what, key.Value, instead)
			entries[""] = entry{} // what is missed may be what was meant
			continue
		}
		if _, twice := entries[key.Value]; twice {
			d.at(key, "%s has %s twice", what, key.Value)
			continue
		}
		entries[key.Value] = entry{key.Value, key, v.Value}
	}
	return entries, true
}

// nearest is the name that somebody may have meant, or "".
func nearest(name string, names []string) (best string) {
	near := 3
	for _, n := range names {
		if d := env.EditDistance(name, n); d < near && d < len(name) {
			best, near = n, d
		}
	}
	return best
}

// sequence reads a list.
func (d *document) sequence(n ast.Node, what string) []ast.Node {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.at(n, "%s is a list; write each on a line that begins with -, or all of them in [ ]", what)
		return nil
	}
	return s.Values
}

// scalar reads a single value as it is written, without YAML's guess at its type.
func (d *document) scalar(n ast.Node, what string) (s string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.LiteralNode:
		s = n.Value.Value
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		s = n.GetToken().Value
	case *ast.TagNode:
		d.at(n, "a value that begins with ! is read as something else by YAML; write it on a line of its own below `%s: |`, or in quotes", what)
		return "", false
	case *ast.AnchorNode, *ast.AliasNode:
		d.at(n, "values are written out; & and * have no meaning here")
		return "", false
	default:
		d.at(n, "%s is one value", what)
		return "", false
	}
	if s = strings.TrimSpace(s); s == "" {
		d.at(n, "%s is empty", what)
		return "", false
	}
	return s, true
}

// words reads a list of names.
func (d *document) words(n ast.Node, what string) (words []string) {
	nodes := d.sequence(n, what)
	for _, n := range nodes {
		w, ok := d.scalar(n, what)
		switch {
		case !ok:
		case slices.Contains(words, w):
			d.at(n, "%s has %q twice", what, w)
		default:
			words = append(words, w)
		}
	}
	if s, ok := n.(*ast.SequenceNode); ok && len(nodes) == 0 {
		d.at(s, "%s is empty; leave it out, or name some", what)
	}
	return words
}

// A written rule is one as it stands in the text.
type written struct {
	name     string
	when     string
	node     ast.Node // of when
	then     gateway.Verdict
	message  string
	approval gateway.Approval
	routes   []string
}

// rules reads the whole document.
func (d *document) rules(names Names) (rules []written, otherwise written) {
	root := d.root()
	if root == nil {
		return nil, otherwise
	}
	top, ok := d.mapping(root, "a policy", "otherwise", "rules")
	if !ok {
		return nil, otherwise
	}
	if e, ok := top["otherwise"]; !ok {
		d.mistake(1, 1, "it does not say what becomes of a call to which no rule applies; write `otherwise: refuse`, or ask, or allow")
	} else if m, isMap := e.value.(*ast.MappingNode); isMap {
		if entries, ok := d.mapping(m, "otherwise", "then", "message", "approval"); ok {
			d.verdict(&otherwise, m, entries)
		}
	} else {
		otherwise.then = d.then(e.value)
	}
	if e, ok := top["rules"]; ok {
		nodes := d.sequence(e.value, "rules")
		if len(nodes) > maxRules {
			d.at(nodes[maxRules], "a policy has at most %d rules", maxRules)
			return nil, otherwise
		}
		for _, n := range nodes {
			if r, ok := d.one(n, names); ok {
				if i := slices.IndexFunc(rules, func(o written) bool { return o.name == r.name && r.name != "" }); i >= 0 {
					d.at(n, "another rule is named %s; a name stands in records, and is given once", r.name)
				}
				rules = append(rules, r)
			}
		}
	}
	return rules, otherwise
}

// one reads a rule.
func (d *document) one(n ast.Node, names Names) (r written, ok bool) {
	defer func() { d.rule = "" }()
	entries, ok := d.mapping(n, "a rule", "name", "when", "then", "message", "approval", "routes")
	if !ok {
		return r, false
	}
	if e, ok := entries["name"]; !ok {
		d.at(n, "the rule has no name; write `name: no-cards`")
	} else if s, ok := d.scalar(e.value, "name"); ok {
		if d.rule = s; !isName(s) {
			d.rule = ""
			d.at(e.value, "a rule's name has 1 to %d of a-z, 0-9, '-', '_', '.'", maxName)
		} else {
			r.name = s
		}
	}
	if e, ok := entries["when"]; !ok {
		d.at(n, "it does not say when it applies; write `when: EXPRESSION`, or `when: true` for always")
	} else if _, list := e.value.(*ast.SequenceNode); list {
		d.at(e.value, "when is one expression; write `a && b` if all of it must be so, `a || b` if one is enough")
	} else if s, ok := d.scalar(e.value, "when"); ok {
		r.when, r.node = s, e.value
	}
	d.verdict(&r, n, entries)
	if e, ok := entries["routes"]; ok {
		r.routes = d.words(e.value, "routes")
		for _, route := range r.routes {
			if names.Routes != nil && !slices.Contains(names.Routes, route) {
				instead := "one of " + strings.Join(names.Routes, ", ")
				if near := nearest(route, names.Routes); near != "" {
					instead = near
				}
				d.at(e.value, "there is no route %s; write %s", route, instead)
			}
		}
	}
	return r, true
}

// isName says whether a rule can be called that.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

// then reads a verdict's word.
func (d *document) then(n ast.Node) gateway.Verdict {
	s, ok := d.scalar(n, "then")
	for _, v := range []gateway.Verdict{gateway.Refuse, gateway.Ask, gateway.Allow} {
		if v.String() == s {
			return v
		}
	}
	if ok {
		d.at(n, "there is no verdict %q; write refuse, ask or allow", s)
	}
	return gateway.Refuse
}

// verdict reads what becomes of a call: then, message and approval.
func (d *document) verdict(r *written, n ast.Node, entries map[string]entry) {
	e, ok := entries["then"]
	if _, misspelled := entries[""]; !ok && misspelled {
		return
	}
	if !ok {
		d.at(n, "it does not say what becomes of the call; write `then: refuse`, or ask, or allow")
		return
	}
	r.then = d.then(e.value)
	if e, ok := entries["message"]; ok {
		s, ok := d.scalar(e.value, "message")
		switch {
		case !ok:
		case r.then == gateway.Allow:
			d.at(e.key, "a call that is allowed is told nothing; leave message out")
		case len(s) > maxMessage || strings.ContainsFunc(s, unicode.IsControl):
			d.at(e.value, "a message has at most %d bytes, and is one line", maxMessage)
		default:
			r.message = s
		}
	}
	if e, ok := entries["approval"]; ok {
		if r.then != gateway.Ask {
			d.at(e.key, "only a rule that asks needs approval; leave it out, or write `then: ask`")
			return
		}
		r.approval = d.approval(e.value)
	}
}

// approval reads whose yes is needed.
func (d *document) approval(n ast.Node) (a gateway.Approval) {
	entries, ok := d.mapping(n, "approval", "groups", "count", "within", "valid", "hold")
	if !ok {
		return a
	}
	if e, ok := entries["groups"]; ok {
		a.Groups = d.words(e.value, "groups")
	}
	if e, ok := entries["count"]; ok {
		a.Count = int(d.number(e.value, "count", "how many people must say yes", maxPersons))
	}
	if e, ok := entries["within"]; ok {
		a.Within = d.duration(e.value, "within", "how long people have", time.Second, maxWithin)
	}
	if e, ok := entries["valid"]; ok {
		a.Valid = d.duration(e.value, "valid", "how long a yes can be used", time.Second, maxWithin)
	}
	if e, ok := entries["hold"]; ok {
		if s, ok := d.scalar(e.value, "hold"); ok && s == "none" {
			a.Hold = -1
		} else if ok {
			a.Hold = d.duration(e.value, "hold", "how long the call itself waits, or none for not at all", time.Second, maxHold)
		}
		if a.Within > 0 && a.Hold > a.Within {
			d.at(e.value, "the call is held for %v and people have %v; hold it no longer than that", a.Hold, a.Within)
		}
	}
	return a
}

// number reads a whole number from 1 on; 0 where it is none, which was said.
func (d *document) number(n ast.Node, name, what string, most int64) int64 {
	s, ok := d.scalar(n, name)
	if !ok {
		return 0
	}
	v, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
	if err != nil || v < 1 || v > most {
		d.at(n, "%s is %s, from 1 to %d", name, what, most)
		return 0
	}
	return v
}

// duration reads a length of time; 0 where it is none, which was said.
func (d *document) duration(n ast.Node, name, what string, least, most time.Duration) time.Duration {
	s, ok := d.scalar(n, name)
	if !ok {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < least || v > most {
		d.at(n, "%s is %s, from %v to %v; write it as in 90s, 15m or 2h", name, what, least, most)
		return 0
	}
	return v
}

// slip turns what is wrong within an expression into what is wrong with the text.
func (d *document) slip(r *written, s slip) {
	line, column := d.find(r, s)
	d.rule = r.name
	d.mistake(line, column, "%s", s.what)
	d.rule = ""
}

// find says where a place in an expression is in the text. YAML folds lines and drops indents, but it leaves alone what is
// not space, so the same character is looked for by counting those; in quotes with escapes it is the first quote.
func (d *document) find(r *written, s slip) (line, column int) {
	line, column = place(r.node)
	skip := 0 // characters that are not space, before the place
	for i, l := range strings.Split(r.when, "\n") {
		if i == s.line-1 {
			l = string([]rune(l)[:min(s.column, utf8.RuneCountInString(l))])
		}
		if i >= s.line {
			break
		}
		skip += utf8.RuneCountInString(strings.Join(strings.Fields(l), ""))
	}
	start := d.lines[min(line, len(d.lines))-1]
	if _, block := r.node.(*ast.LiteralNode); block {
		start = d.lines[min(line+1, len(d.lines))-1]
	} else {
		for range column - 1 {
			_, n := utf8.DecodeRuneInString(d.text[start:])
			start += n
		}
	}
	rest := strings.TrimLeft(d.text[start:], `"'`)
	start = len(d.text) - len(rest)
	expected := []rune(strings.Join(strings.Fields(r.when), ""))
	n, at := 0, -1
	for i, c := range rest {
		if unicode.IsSpace(c) {
			continue
		}
		if n == skip && n < len(expected) {
			at = start + i
			break
		}
		if n >= len(expected) || expected[n] != c {
			break // escapes
		}
		if n++; n == skip && n == len(expected) {
			at = start + i + utf8.RuneLen(c)
			break
		}
	}
	if at < 0 {
		return line, column
	}
	l, found := slices.BinarySearch(d.lines, at)
	if !found {
		l--
	}
	return l + 1, utf8.RuneCountInString(d.text[d.lines[l]:at]) + 1
}
