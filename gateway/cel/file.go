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
	In           string // such as "rule no-cards" or "quota everyone"; "" outside of them
	What         string
}

func (m *Mistake) Error() string {
	in := ""
	if m.In != "" {
		in = m.In + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s%s", m.File, m.Line, m.Column, in, m.What)
}

// A document is a policy's text while it is read.
type document struct {
	file     string
	text     string
	lines    []int  // where each begins
	in       string // what is being read
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
	// YAML's parser has some places a little beside the text.
	line = min(max(1, line), len(d.lines))
	end := len(d.text)
	if line < len(d.lines) {
		end = d.lines[line] - 1
	}
	column = min(max(1, column), utf8.RuneCountInString(d.text[d.lines[line-1]:end])+1)
	d.mistakes = append(d.mistakes, &Mistake{d.file, line, column, d.in, fmt.Sprintf(format, args...)})
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
	if line := tooDeep(d.text); line > 0 {
		d.mistake(line, 1, "this is nested deeper than a policy ever is")
		return nil
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

// tooDeep is the line in which a text is nested so deeply that YAML's parser would take minutes over it; 0 for none.
func tooDeep(text string) (line int) {
	open := 0
	for l := range strings.SplitSeq(text, "\n") {
		line++
		if n := len(l) - len(strings.TrimLeft(l, "-? ")); n > 1000 || strings.Count(l[:n], "-")+strings.Count(l[:n], "?") > 16 {
			return line
		}
		for i := range len(l) {
			switch l[i] {
			case '[', '{':
				if open++; open > 256 {
					return line
				}
			case ']', '}':
				open = max(0, open-1)
			}
		}
	}
	return 0
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

// A written rule or quota is one as it stands in the text.
type written struct {
	what     string // rule or quota
	name     string
	when     string
	node     ast.Node // of when
	then     gateway.Verdict
	message  string
	approval gateway.Approval
	routes   []string
	quota    gateway.Quota
}

// policy reads the whole document.
func (d *document) policy(names Names) (rules, quotas []written, otherwise written) {
	root := d.root()
	if root == nil {
		return nil, nil, otherwise
	}
	top, ok := d.mapping(root, "a policy", "otherwise", "rules", "quotas")
	if !ok {
		return nil, nil, otherwise
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
		rules = d.each(e.value, "rule", maxRules, func(n ast.Node) (written, bool) { return d.one(n, names) })
	}
	if e, ok := top["quotas"]; ok {
		quotas = d.each(e.value, "quota", maxQuotas, func(n ast.Node) (written, bool) { return d.quota(n, names) })
	}
	return rules, quotas, otherwise
}

// each reads a list of what has names.
func (d *document) each(n ast.Node, what string, most int, read func(ast.Node) (written, bool)) (all []written) {
	nodes := d.sequence(n, what+"s")
	if len(nodes) > most {
		d.at(nodes[most], "a policy has at most %d %ss", most, what)
		return nil
	}
	for _, n := range nodes {
		w, ok := read(n)
		d.in = ""
		if !ok {
			continue
		}
		if slices.ContainsFunc(all, func(o written) bool { return o.name == w.name && w.name != "" }) {
			d.at(n, "another %s is named %s; a name stands in records, and is given once", what, w.name)
		}
		all = append(all, w)
	}
	return all
}

// one reads a rule.
func (d *document) one(n ast.Node, names Names) (r written, ok bool) {
	entries, ok := d.mapping(n, "a rule", "name", "when", "then", "message", "approval", "routes")
	if !ok {
		return r, false
	}
	d.name(&r, n, "rule", entries)
	if e, ok := entries["when"]; ok {
		d.condition(&r, e)
	} else {
		d.at(n, "it does not say when it applies; write `when: EXPRESSION`, or `when: true` for always")
	}
	d.verdict(&r, n, entries)
	d.forRoutes(&r, names, entries)
	return r, true
}

// quota reads a quota.
func (d *document) quota(n ast.Node, names Names) (w written, ok bool) {
	entries, ok := d.mapping(n, "a quota", "name", "when", "requests", "tokens", "window", "concurrent", "message", "routes")
	if !ok {
		return w, false
	}
	d.name(&w, n, "quota", entries)
	q := &w.quota
	q.Name = w.name
	if e, ok := entries["when"]; ok {
		d.condition(&w, e)
	}
	if e, ok := entries["requests"]; ok {
		q.Requests = d.number(e.value, "requests", "how many calls there are in a window", maxUsed)
	}
	if e, ok := entries["tokens"]; ok {
		q.Tokens = d.number(e.value, "tokens", "how many tokens there are in a window", maxUsed)
	}
	if e, ok := entries["concurrent"]; ok {
		q.Concurrent = d.number(e.value, "concurrent", "how many calls there are at a time", maxUsed)
	}
	_, requests := entries["requests"]
	_, tokens := entries["tokens"]
	_, concurrent := entries["concurrent"]
	_, misspelled := entries[""]
	switch e, windowed := entries["window"]; {
	case windowed:
		q.Window = d.duration(e.value, "window", "in what time requests and tokens are counted", time.Second, maxWindow)
		if !requests && !tokens && !misspelled {
			d.at(e.key, "calls at a time are not counted in a window; leave it out, or say how many requests or tokens it has")
		}
	case requests || tokens:
		d.at(n, "it does not say in what time; write `window: 1m`, or 1h, or 24h")
	case !concurrent && !misspelled:
		d.at(n, "it limits nothing; write `requests: 100`, or tokens, or concurrent")
	}
	if e, ok := entries["message"]; ok {
		q.Message = d.message(e.value)
	}
	d.forRoutes(&w, names, entries)
	return w, true
}

// name reads a name, for what is said of the rest, too.
func (d *document) name(w *written, n ast.Node, what string, entries map[string]entry) {
	e, ok := entries["name"]
	if !ok {
		d.at(n, "the %s has no name; write `name: no-cards`", what)
		return
	}
	s, ok := d.scalar(e.value, "name")
	switch {
	case !ok:
	case !isName(s):
		d.at(e.value, "a %s's name has 1 to %d of a-z, 0-9, '-', '_', '.'", what, maxName)
	default:
		w.name, w.what = s, what
		d.in = what + " " + s
	}
}

// condition reads the expression of when.
func (d *document) condition(w *written, e entry) {
	if _, list := e.value.(*ast.SequenceNode); list {
		d.at(e.value, "when is one expression; write `a && b` if all of it must be so, `a || b` if one is enough")
	} else if s, ok := d.scalar(e.value, "when"); ok {
		w.when, w.node = s, e.value
	}
}

// forRoutes reads which routes it is for.
func (d *document) forRoutes(w *written, names Names, entries map[string]entry) {
	e, ok := entries["routes"]
	if !ok {
		return
	}
	w.routes = d.words(e.value, "routes")
	for _, route := range w.routes {
		if names.Routes == nil || slices.Contains(names.Routes, route) {
			continue
		}
		instead := "one of " + strings.Join(names.Routes, ", ")
		if near := nearest(route, names.Routes); near != "" {
			instead = near
		}
		d.at(e.value, "there is no route %s; write %s", route, instead)
	}
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
		if r.then == gateway.Allow {
			d.at(e.key, "a call that is allowed is told nothing; leave message out")
		} else {
			r.message = d.message(e.value)
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

// message reads what callers are told.
func (d *document) message(n ast.Node) string {
	s, ok := d.scalar(n, "message")
	if ok && (len(s) > maxMessage || strings.ContainsFunc(s, unicode.IsControl)) {
		d.at(n, "a message has at most %d bytes, and is one line", maxMessage)
		return ""
	}
	return s
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
		if a.Within > 0 && a.Valid > a.Within {
			d.at(e.value, "a yes would be valid for %v and people have %v, with which it ends; make that longer, or this shorter", a.Valid, a.Within)
		}
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
	d.in = r.what + " " + r.name
	d.mistake(line, column, "%s", s.what)
	d.in = ""
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
		if start < len(d.text) && (d.text[start] == '"' || d.text[start] == '\'') {
			start++
		}
	}
	rest := d.text[start:]
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
