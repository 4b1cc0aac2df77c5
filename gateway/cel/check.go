package cel

import (
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/tallystick/tallystick/gateway"
)

// A slip is something wrong with an expression, and what to write instead. Line counts from 1, column from 0, both within
// the expression and in characters.
type slip struct {
	line, column int
	what         string
}

// compile makes a program of an expression, or says all that is wrong with it. Beyond CEL's own checks, these are errors:
//
//   - to read a fact that can be absent, unless has() has said before that it is there: what is absent would make an
//     evaluation fail, and every call like it would wait for people's approval;
//   - to compare a fact with a word that it never is: the rule would never apply, and nobody would see it;
//   - a regular expression, a time zone or a kind of finding that is not written out, and so cannot be checked;
//   - a regular expression that leaves open where in a text it is found, an element of a list by its number, and what can
//     only fail;
//   - an estimate of more than maxCost.
func (l *language) compile(expression string) (programs, []slip) {
	parsed, issues := l.env.Compile(expression)
	if issues.Err() != nil {
		var slips []slip
		for _, e := range issues.Errors() {
			at := slip{line: max(1, e.Location.Line()), column: max(0, e.Location.Column())}
			if strings.Contains(e.Message, "'<EOF>'") {
				lines := strings.Split(expression, "\n")
				at.line, at.column = len(lines), utf8.RuneCountInString(lines[len(lines)-1])
			}
			at.what = l.better(e.Message, before(expression, at))
			slips = append(slips, at)
			if strings.HasPrefix(e.Message, syntaxError) {
				break // what follows from it is noise
			}
		}
		return programs{}, slips
	}
	c := checker{l: l, ast: parsed.NativeRep()}
	c.expr(c.ast.Expr(), nil)
	if out := parsed.OutputType(); !out.IsExactType(types.BoolType) {
		what := fmt.Sprintf("it is %s, and must be true or false; write a comparison", typeName(out))
		if out.IsExactType(types.DynType) {
			what = "what stands in a body can be anything, and must be true or false; write `… == true`"
		}
		c.slips = append(c.slips, slip{1, 0, what})
	}
	if len(c.slips) > 0 {
		return programs{}, c.slips
	}
	estimate, err := l.env.EstimateCost(parsed, estimator{l})
	if err != nil {
		return programs{}, []slip{{1, 0, "its cost cannot be estimated: " + err.Error()}}
	}
	if estimate.Max > maxCost {
		return programs{}, []slip{{1, 0, fmt.Sprintf("it could cost %d, and %d is the most; do not loop within a loop, and match less text", estimate.Max, maxCost)}}
	}
	folder, err := cel.NewConstantFoldingOptimizer()
	if err == nil {
		var o *cel.StaticOptimizer
		if o, err = cel.NewStaticOptimizer(folder); err == nil {
			if parsed, issues = o.Optimize(l.env, parsed); issues.Err() != nil {
				err = issues.Err()
			}
		}
	}
	p := programs{most: estimate.Max}
	if err == nil {
		p.free, err = l.env.Program(parsed, cel.EvalOptions(cel.OptOptimize))
	}
	if p.bounded = p.free; err == nil && c.loops {
		p.bounded, err = l.env.Program(parsed, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	}
	if err != nil {
		return programs{}, []slip{{1, 0, "it cannot be made ready: " + err.Error()}}
	}
	if !c.facts {
		if _, err := p.eval(&view{f: &gateway.Facts{}}, nil, true); err != nil {
			return programs{}, []slip{{1, 0, "it always fails: " + err.Error()}}
		}
	}
	return p, nil
}

// programs are what an expression was made into. Counting what it costs takes longer than most expressions do, so it is
// counted only where there is much to go through; what the estimate is of may be larger than it was taken for.
type programs struct {
	free    cel.Program
	bounded cel.Program // the same, with a limit of maxCost; one that does not loop needs none
	most    uint64      // what it can cost, by the estimate
}

// A checker goes through an expression that CEL has checked.
type checker struct {
	l     *language
	ast   *ast.AST
	loops bool // something in it takes time that depends on the facts
	facts bool // it reads some
	slips []slip
}

func (c *checker) slip(e ast.Expr, format string, args ...any) {
	first := e // CEL has a.b at its dot
	for first.Kind() == ast.SelectKind && !first.AsSelect().IsTestOnly() {
		first = first.AsSelect().Operand()
	}
	at := c.ast.SourceInfo().GetStartLocation(first.ID())
	c.slips = append(c.slips, slip{max(1, at.Line()), max(0, at.Column()), fmt.Sprintf(format, args...)})
}

// facts are the names of facts that are known to be there.
type facts map[string]bool

func (f facts) and(g facts) facts {
	if len(f) == 0 {
		return g
	}
	all := maps.Clone(f)
	maps.Copy(all, g)
	return all
}

func (f facts) both(g facts) facts {
	common := facts{}
	for name := range f {
		if g[name] {
			common[name] = true
		}
	}
	return common
}

// fact names the fact that an expression reads, such as request.model or request.params.n, or is "".
func (c *checker) fact(e ast.Expr) string {
	var of ast.Expr
	var name string
	switch e.Kind() {
	case ast.IdentKind:
		if _, ok := variables()[e.AsIdent()]; ok {
			return e.AsIdent()
		}
		return ""
	case ast.SelectKind:
		of, name = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		call := e.AsCall()
		key, ok := literal(lastArg(call))
		if call.FunctionName() != operators.Index || !ok {
			return ""
		}
		of, name = call.Args()[0], key
	default:
		return ""
	}
	if f := c.fact(of); f != "" {
		return f + "." + name
	}
	return ""
}

func lastArg(call ast.CallExpr) ast.Expr {
	if n := len(call.Args()); n > 0 {
		return call.Args()[n-1]
	}
	return nil
}

// literal is the text of a literal.
func literal(e ast.Expr) (string, bool) {
	if e == nil || e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// there says which facts are there if the expression is of that truth.
func (c *checker) there(e ast.Expr, truth bool) facts {
	switch e.Kind() {
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() && truth {
			if f := c.fact(e.AsSelect().Operand()); f != "" {
				return facts{f + "." + e.AsSelect().FieldName(): true}
			}
		}
	case ast.CallKind:
		call := e.AsCall()
		args := call.Args()
		switch call.FunctionName() {
		case operators.LogicalNot:
			return c.there(args[0], !truth)
		case operators.LogicalAnd, operators.LogicalOr:
			a, b := c.there(args[0], truth), c.there(args[1], truth)
			if (call.FunctionName() == operators.LogicalAnd) == truth {
				return a.and(b)
			}
			return a.both(b)
		case operators.Conditional:
			yes := c.there(args[0], true).and(c.there(args[1], truth))
			return yes.both(c.there(args[0], false).and(c.there(args[2], truth)))
		case operators.In:
			if name, ok := literal(args[0]); ok && truth && c.fact(args[1]) == "request.params" {
				return facts{"request.params." + name: true}
			}
		}
	}
	return nil
}

// expr checks an expression that is evaluated where those facts are there.
func (c *checker) expr(e ast.Expr, there facts) {
	switch e.Kind() {
	case ast.IdentKind:
		c.facts = true
	case ast.SelectKind:
		s := e.AsSelect()
		c.expr(s.Operand(), there)
		c.flat(e, s.Operand())
		if s.IsTestOnly() {
			if f := c.field(s.Operand(), s.FieldName()); f != nil && !f.optional {
				c.slip(e, "%s is always there; leave out has()", c.named(s.Operand(), s.FieldName()))
			}
			return
		}
		c.read(e, s.Operand(), s.FieldName(), there)
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			c.expr(element, there)
		}
	case ast.MapKind, ast.StructKind:
		c.slip(e, "rules have no use for a { }; compare with a list or a single value")
	case ast.ComprehensionKind:
		loop := e.AsComprehension()
		c.loops = true
		if _, taken := variables()[loop.IterVar()]; taken {
			c.slip(e, "%s is already the name of something; give each element another name, such as x", loop.IterVar())
		}
		c.flat(loop.IterRange(), loop.IterRange())
		for _, part := range []ast.Expr{loop.IterRange(), loop.AccuInit(), loop.LoopCondition(), loop.LoopStep(), loop.Result()} {
			c.expr(part, there)
		}
	case ast.CallKind:
		c.call(e, there)
	}
}

// flat checks that nothing is looked for in a member of the body: what has something in it is null here.
func (c *checker) flat(e, of ast.Expr) {
	if t := c.ast.GetType(of.ID()); t != nil && t.Kind() == types.DynKind {
		c.slip(e, "lists and objects in a body are not looked into; compare a member that is a number, a text or a truth")
	}
}

// field is what an expression of one of our types has by that name.
func (c *checker) field(of ast.Expr, name string) *field {
	t := c.ast.GetType(of.ID())
	if t == nil || t.Kind() != types.StructKind {
		return nil
	}
	return c.l.field(t.TypeName(), name)
}

func (c *checker) named(of ast.Expr, name string) string {
	if f := c.fact(of); f != "" {
		return f + "." + name
	}
	return name
}

// read checks that what is read is there.
func (c *checker) read(e, of ast.Expr, name string, there facts) {
	f := c.field(of, name)
	param := f == nil && c.fact(of) == "request.params"
	full := c.named(of, name)
	if (param || f != nil && f.optional) && !there[full] {
		c.slip(e, "%s can be absent; write `has(%[1]s) && …` before it, or `!has(%[1]s) || …` where a call without it is meant, too", full)
	}
}

func (c *checker) call(e ast.Expr, there facts) {
	call := e.AsCall()
	args := call.Args()
	function := call.FunctionName()
	switch function {
	case operators.LogicalAnd:
		c.expr(args[0], there)
		c.expr(args[1], there.and(c.there(args[0], true)))
		return
	case operators.LogicalOr:
		c.expr(args[0], there)
		c.expr(args[1], there.and(c.there(args[0], false)))
		return
	case operators.Conditional:
		c.expr(args[0], there)
		c.expr(args[1], there.and(c.there(args[0], true)))
		c.expr(args[2], there.and(c.there(args[0], false)))
		return
	}
	if call.IsMemberFunction() {
		c.expr(call.Target(), there)
	}
	for _, a := range args {
		c.expr(a, there)
	}
	switch function {
	case operators.Index:
		c.flat(args[0], args[0])
		switch t := c.ast.GetType(args[0].ID()); {
		case t != nil && t.Kind() == types.ListKind:
			c.slip(args[0], "an element can be absent; write .exists(x, …) or .all(x, …)")
		case c.fact(args[0]) == "request.params":
			if name, ok := literal(args[1]); ok {
				c.read(e, args[0], name, there)
			} else {
				c.slip(args[1], "which member of the body is read must be written out; write request.params.NAME, or request.params['NAME']")
			}
		}
	case operators.Equals, operators.NotEquals:
		c.word(args[0], args[1])
		c.word(args[1], args[0])
	case operators.In:
		if args[1].Kind() == ast.ListKind {
			for _, element := range args[1].AsList().Elements() {
				c.word(args[0], element)
			}
		} else {
			c.flat(args[1], args[1])
			c.loops = true
		}
	case overloads.StartsWith:
		if prefix, ok := literal(lastArg(call)); ok && c.fact(call.Target()) == "request.path" && !strings.HasPrefix(prefix, "/") {
			c.slip(lastArg(call), "a path begins with a slash; write '/%s'", prefix)
		}
	case operators.Divide, operators.Modulo:
		if divisor := args[1]; divisor.Kind() == ast.LiteralKind && divisor.AsLiteral().Equal(types.IntZero) == types.True {
			c.slip(divisor, "nothing can be divided by zero")
		}
	case overloads.Matches:
		c.loops = true
		if pattern, ok := literal(lastArg(call)); !ok {
			c.slip(e, "a regular expression must be written out; write .matches('…')")
		} else if re, err := syntax.Parse(pattern, syntax.Perl); err == nil && !(bound(re, true) && bound(re, false)) {
			c.slip(lastArg(call), "a regular expression is found anywhere in a text, and this one leaves open where; "+
				"write '^…$', with each of several alternatives in it as in '^(a|b)$', and .* at an end where anything may stand")
		}
	case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDate, overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes:
		c.zone(e, lastArg(call))
	case "has", "count":
		kind, ok := literal(lastArg(call))
		if f := c.l.field("Finding", "kind"); !ok {
			c.slip(e, "a kind of finding must be written out; write findings.%s('…')", function)
		} else {
			c.kind(lastArg(call), "findings of the kind", f.words, kind)
		}
	}
}

// bound says whether a regular expression tells what is at the beginning of a text, or at its end: an anchor, or anything.
func bound(re *syntax.Regexp, begin bool) bool {
	switch re.Op {
	case syntax.OpBeginText:
		return begin
	case syntax.OpEndText:
		return !begin
	case syntax.OpStar:
		return re.Sub[0].Op == syntax.OpAnyChar || re.Sub[0].Op == syntax.OpAnyCharNotNL
	case syntax.OpCapture:
		return bound(re.Sub[0], begin)
	case syntax.OpConcat:
		if begin {
			return bound(re.Sub[0], begin)
		}
		return bound(re.Sub[len(re.Sub)-1], begin)
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			if !bound(sub, begin) {
				return false
			}
		}
		return true
	}
	return false
}

// word checks what a fact is compared with, if it has few values.
func (c *checker) word(fact, value ast.Expr) {
	if fact.Kind() != ast.SelectKind {
		return
	}
	s := fact.AsSelect()
	f := c.field(s.Operand(), s.FieldName())
	text, ok := literal(value)
	if f == nil || !ok {
		return
	}
	full := c.named(s.Operand(), s.FieldName())
	if f.of == findingType && f.name == "kind" {
		c.kind(value, full, f.words, text)
		return
	}
	c.among(value, full, f.words, text)
	switch {
	case full == "request.method" && text != strings.ToUpper(text):
		c.slip(value, "methods are in upper case; write '%s'", strings.ToUpper(text))
	case full == "request.path" && !strings.HasPrefix(text, "/"):
		c.slip(value, "a path begins with a slash; write '/%s'", text)
	}
}

// among checks that a word is one of those that there are.
func (c *checker) among(e ast.Expr, what string, words []string, word string) {
	if words != nil && !slices.Contains(words, word) {
		c.slip(e, "%s is never '%s'; write one of '%s'", what, word, strings.Join(words, "', '"))
	}
}

// kind checks a kind of findings.
func (c *checker) kind(e ast.Expr, what string, words []string, kind string) {
	if upper := strings.ToUpper(kind); kind != upper && (words == nil || slices.Contains(words, upper)) {
		c.slip(e, "kinds of findings are in upper case; write '%s'", upper)
		return
	}
	c.among(e, what, words, kind)
}

// zone checks a time zone and keeps it.
func (c *checker) zone(e, zone ast.Expr) {
	name, ok := literal(zone)
	if !ok {
		c.slip(e, "a time zone must be written out; write 'UTC', or a name such as 'Europe/Berlin'")
		return
	}
	where, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		c.slip(zone, "there is no time zone '%s'; write 'UTC', or a name such as 'Europe/Berlin'", name)
		return
	}
	c.l.zones[name] = where
}

// typeName is a type in words.
func typeName(t *types.Type) string {
	switch t.Kind() {
	case types.StringKind:
		return "a text"
	case types.IntKind, types.UintKind, types.DoubleKind:
		return "a number"
	case types.ListKind:
		return "a list"
	case types.MapKind:
		return "a map"
	case types.TimestampKind:
		return "a time"
	case types.DurationKind:
		return "a length of time"
	}
	return t.String()
}

const syntaxError = "Syntax error:"

// before is what stands before a place in an expression.
func before(expression string, at slip) string {
	line, _, _ := strings.Cut(expression, "\n")
	for range at.line - 1 {
		_, expression, _ = strings.Cut(expression, "\n")
		line, _, _ = strings.Cut(expression, "\n")
	}
	runes := []rune(line)
	return string(runes[:min(at.column, len(runes))])
}

// better says of CEL's messages what to write instead, where that can be told.
func (l *language) better(message, before string) string {
	quoted := func() string {
		_, rest, _ := strings.Cut(message, "'")
		name, _, _ := strings.Cut(rest, "'")
		return strings.TrimPrefix(name, ".")
	}
	switch {
	case strings.HasPrefix(message, "expression code point size"):
		return fmt.Sprintf("it is longer than %d characters", maxExpression)
	case strings.HasPrefix(message, "expression recursion limit"), strings.HasPrefix(message, "max recursion"):
		return fmt.Sprintf("it is nested deeper than %d", maxDepth)
	case strings.HasPrefix(message, "undeclared reference to"):
		name := quoted()
		return fmt.Sprintf("there is no %s%s", name, l.instead(name))
	case strings.HasPrefix(message, "undefined field"):
		name := quoted()
		return fmt.Sprintf("there is no field %s%s", name, l.instead(name))
	case strings.HasPrefix(message, "found no matching overload for"):
		return l.overload(message)
	case strings.HasPrefix(message, "invalid matches argument"):
		return fmt.Sprintf("it is no regular expression of RE2's kind, or one of more than %d instructions", maxRegex)
	case strings.HasPrefix(message, "invalid timestamp argument"):
		return "it is no time; write timestamp('2026-01-02T15:04:05Z')"
	case strings.HasPrefix(message, "invalid duration argument"):
		return "it is no length of time; write duration('90m')"
	case strings.HasPrefix(message, "expected type"):
		return "what stands in a list is of one type: " + message
	case strings.HasPrefix(message, syntaxError):
		// What the parser would have taken instead is half the language.
		short, _, _ := strings.Cut(message, " expecting ")
		short = "it cannot be read here: " + strings.TrimSpace(strings.TrimPrefix(short, syntaxError))
		switch word := strings.TrimSpace(quoted()); {
		case strings.Contains(message, "'<EOF>'"):
			return "it ends too early"
		case strings.HasSuffix(strings.TrimSpace(before), "not"):
			return short + "; write !(…) instead of not"
		case word == "and":
			return short + "; write &&"
		case word == "or":
			return short + "; write ||"
		case word == "not":
			return short + "; write !"
		case strings.HasPrefix(word, "="):
			return short + "; write == to compare"
		case word == "&":
			return short + "; write &&"
		case word == "|":
			return short + "; write ||"
		}
		return short
	}
	return message
}

// instead finds what somebody may have meant by a name.
func (l *language) instead(name string) string {
	switch name {
	case "and":
		return "; write &&"
	case "or":
		return "; write ||"
	case "not":
		return "; write !(…)"
	case "map", "filter":
		return "; a rule says true or false: write .exists(x, …) or .all(x, …)"
	case "type", "dyn", "string", "bool", "bytes", "uint":
		return "; a fact has the type that it has, and only int() and double() turn one number into another"
	}
	best, near := "", 3
	for v, t := range variables() {
		if d := env.EditDistance(name, v); d < near {
			best, near = v, d
		}
		for i := range l.fields {
			if f := &l.fields[i]; f.of == t {
				if d := env.EditDistance(name, f.name); d < near {
					best, near = v+"."+f.name, d
				}
			}
		}
	}
	for i := range l.fields {
		if f := &l.fields[i]; (f.of == messageType || f.of == findingType) && best == "" && env.EditDistance(name, f.name) < near {
			best = fmt.Sprintf(".%s of one of %s", f.name, map[*types.Type]string{messageType: "request.messages", findingType: "findings"}[f.of])
		}
	}
	if best == "" {
		return "; there are " + strings.Join(slices.Sorted(maps.Keys(variables())), ", ") + ", and the body's other members in request.params"
	}
	return "; write " + best
}

// overload says of a function or an operator what it cannot be used on.
func (l *language) overload(message string) string {
	_, rest, _ := strings.Cut(message, "'")
	function, rest, _ := strings.Cut(rest, "'")
	_, rest, _ = strings.Cut(rest, "'")
	on := strings.TrimSuffix(rest, "'")
	name := strings.Trim(function, "_")
	switch {
	case strings.HasPrefix(function, "get"):
		return fmt.Sprintf("name a time zone; write .%s('UTC'), or with a name such as 'Europe/Berlin'", function)
	case function == operators.Equals || function == operators.NotEquals:
		switch {
		case strings.HasPrefix(on, "(list(") && !strings.HasSuffix(on, "list(string))"):
			return fmt.Sprintf("a list is never the same as one value %s; write VALUE in LIST", on)
		case on == "(double, int)" || on == "(int, double)":
			return "a number with a fraction is never written as one without; write the whole number as 1.0"
		case strings.Contains(on, "string"):
			return fmt.Sprintf("%s compares what is not of one type %s; a text stands in quotes, a number does not", name, on)
		}
	case function == operators.In && strings.Contains(on, ", list("):
		return fmt.Sprintf("in looks for a value among others of its type, and not for %s; write a whole number as 1.0 to compare it with one that has a fraction", on)
	case function == operators.In:
		return fmt.Sprintf("in looks into a list, not into %s; write VALUE in LIST, or TEXT.contains('…')", on)
	case function == operators.Add:
		return fmt.Sprintf("+ adds numbers, and times and lengths of time, and not %s", on)
	case function == operators.LogicalNot:
		return fmt.Sprintf("! turns true and false, and not %s", on)
	case function == operators.LogicalAnd || function == operators.LogicalOr:
		return fmt.Sprintf("%s stands between two that are true or false, and not %s", name, on)
	}
	return fmt.Sprintf("%s cannot be used on %s", name, on)
}
