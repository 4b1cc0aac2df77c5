package cel

import (
	"fmt"
	"time"
	_ "time/tzdata" // a policy means the same on a machine without a time zone database

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/decls"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/tallystick/tallystick/gateway"
)

// How much a policy may ask for. What is beyond is an error when the policy is read.
const (
	maxText       = 256 << 10 // bytes of a policy
	maxRules      = 500
	maxQuotas     = 50
	maxExpression = 4096 // characters of an expression
	maxNodes      = 2000 // of an expression, once its macros are expanded
	maxDepth      = 48   // of an expression
	maxRegex      = 1000 // instructions of a regular expression's program
	maxName       = 64   // bytes of a rule's name
	maxMessage    = 500  // bytes of a message
	maxPersons    = 20   // that one call can need
	maxWithin     = 7 * 24 * time.Hour
	maxHold       = time.Hour // that a call waits; SDKs wait ten minutes
	maxUsed       = 1_000_000_000_000
	maxWindow     = 31 * 24 * time.Hour

	// maxCost is what one expression may cost at the most, in CEL's units, of which one is about ten nanoseconds: by its
	// estimate when a policy is read, and in fact when it is evaluated.
	maxCost = 1_000_000
	// maxCostOfAll is what all expressions of a policy may cost together, by their estimates.
	maxCostOfAll = 10_000_000
)

// A language is what the expressions of one policy are written in: CEL's standard, less what a rule about a call has no use
// for. It makes no text and no list, so that what it holds is never more than the facts; loops are has, all, exists and
// exists_one, which stop when they know; and where time is told, a time zone is named.
type language struct {
	env    *cel.Env
	fields []field
	zones  map[string]*time.Location // those that the policy names; filled in while it is read
}

func newLanguage(names Names) (*language, error) {
	l := &language{fields: fields(), zones: make(map[string]*time.Location)}
	for i, f := range l.fields {
		switch {
		case f.of == requestType && f.name == "route":
			l.fields[i].words = names.Routes
		case f.of == findingType && f.name == "kind":
			l.fields[i].words = names.Findings
		}
	}
	options := []cel.EnvOption{
		cel.CustomTypeProvider(l),
		cel.StdLib(cel.StdLibSubset(standard())),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(8),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegex),
		cel.HomogeneousAggregateLiterals(),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
		// That the list is of findings was checked; to look again at each call is to look at its elements.
		cel.Function("has", decls.DisableTypeGuards(true),
			cel.MemberOverload("findings_has", []*cel.Type{cel.ListType(findingType), cel.StringType}, cel.BoolType, cel.BinaryBinding(findingsHas))),
		cel.Function("count", decls.DisableTypeGuards(true),
			cel.MemberOverload("findings_count", []*cel.Type{cel.ListType(findingType), cel.StringType}, cel.IntType, cel.BinaryBinding(findingsCount))),
	}
	for name, t := range variables() {
		options = append(options, cel.Variable(name, t))
	}
	for _, g := range []struct {
		name, overload string
		of             func(time.Time) int
	}{
		{overloads.TimeGetFullYear, overloads.TimestampToYearWithTz, time.Time.Year},
		{overloads.TimeGetMonth, overloads.TimestampToMonthWithTz, func(t time.Time) int { return int(t.Month()) - 1 }},
		{overloads.TimeGetDate, overloads.TimestampToDayOfMonthOneBasedWithTz, time.Time.Day},
		{overloads.TimeGetDayOfWeek, overloads.TimestampToDayOfWeekWithTz, func(t time.Time) int { return int(t.Weekday()) }},
		{overloads.TimeGetHours, overloads.TimestampToHoursWithTz, time.Time.Hour},
		{overloads.TimeGetMinutes, overloads.TimestampToMinutesWithTz, time.Time.Minute},
	} {
		of := g.of
		options = append(options, cel.Function(g.name, cel.MemberOverload(g.overload, []*cel.Type{cel.TimestampType, cel.StringType}, cel.IntType,
			cel.BinaryBinding(func(at, zone ref.Val) ref.Val {
				t, ok := at.(types.Timestamp)
				where := l.zones[string(zone.(types.String))]
				if !ok || where == nil {
					return types.NewErr("no such time zone")
				}
				return types.Int(of(t.In(where)))
			}))))
	}
	var err error
	if l.env, err = cel.NewCustomEnv(options...); err != nil {
		return nil, fmt.Errorf("cel: the language: %w", err)
	}
	return l, nil
}

// standard is what the language has of CEL's standard library.
func standard() *env.LibrarySubset {
	s := &env.LibrarySubset{IncludeMacros: []string{operators.Has, operators.All, operators.Exists, operators.ExistsOne}}
	for _, f := range []struct {
		name      string
		overloads []string // nil for all
	}{
		{operators.Conditional, nil}, {operators.LogicalAnd, nil}, {operators.LogicalOr, nil}, {operators.LogicalNot, nil},
		{operators.NotStrictlyFalse, nil}, // loops are made with it
		{operators.Equals, nil}, {operators.NotEquals, nil},
		{operators.Less, nil}, {operators.LessEquals, nil}, {operators.Greater, nil}, {operators.GreaterEquals, nil},
		{operators.In, nil}, {operators.Index, nil},
		{operators.Add, []string{overloads.AddInt64, overloads.AddDouble, overloads.AddDurationDuration, overloads.AddTimestampDuration, overloads.AddDurationTimestamp}},
		{operators.Subtract, []string{overloads.SubtractInt64, overloads.SubtractDouble, overloads.SubtractDurationDuration, overloads.SubtractTimestampDuration, overloads.SubtractTimestampTimestamp}},
		{operators.Multiply, []string{overloads.MultiplyInt64, overloads.MultiplyDouble}},
		{operators.Divide, []string{overloads.DivideInt64, overloads.DivideDouble}},
		{operators.Modulo, []string{overloads.ModuloInt64}},
		{operators.Negate, nil},
		{overloads.Size, []string{overloads.SizeListInst, overloads.SizeMapInst, overloads.SizeStringInst, overloads.SizeList, overloads.SizeMap, overloads.SizeString}},
		{overloads.Contains, nil}, {overloads.StartsWith, nil}, {overloads.EndsWith, nil}, {overloads.Matches, nil},
		{overloads.TypeConvertTimestamp, []string{overloads.StringToTimestamp}},
		{overloads.TypeConvertDuration, []string{overloads.StringToDuration}},
		{overloads.TypeConvertInt, []string{overloads.DoubleToInt, overloads.IntToInt}},
		{overloads.TypeConvertDouble, []string{overloads.IntToDouble, overloads.DoubleToDouble}},
	} {
		s.IncludeFunctions = append(s.IncludeFunctions, env.NewFunction(f.name, func() (os []*env.Overload) {
			for _, id := range f.overloads {
				os = append(os, &env.Overload{ID: id})
			}
			return os
		}()...))
	}
	return s
}

// findingsHas says whether anything of a kind was found.
func findingsHas(all, kind ref.Val) ref.Val {
	n := findingsCount(all, kind)
	if n, ok := n.(types.Int); ok {
		return types.Bool(n > 0)
	}
	return n
}

// findingsCount says how much of a kind was found.
func findingsCount(all, kind ref.Val) ref.Val {
	l, ok := all.(*list[gateway.Finding])
	if !ok {
		return types.MaybeNoSuchOverloadErr(all)
	}
	n := 0
	for i := range l.of {
		if l.of[i].Kind == string(kind.(types.String)) {
			n += l.of[i].Count
		}
	}
	return types.Int(n)
}

// field returns a field of a type, or nil.
func (l *language) field(of, name string) *field {
	for i := range l.fields {
		if f := &l.fields[i]; f.of.TypeName() == of && f.name == name {
			return f
		}
	}
	return nil
}

var _ types.Provider = (*language)(nil)

// EnumValue knows none.
func (l *language) EnumValue(string) ref.Val { return types.NewErr("there are no enumerations") }

// FindIdent knows no names but the variables.
func (l *language) FindIdent(string) (ref.Val, bool) { return nil, false }

// FindStructType returns a type of ours.
func (l *language) FindStructType(name string) (*types.Type, bool) {
	for i := range l.fields {
		if t := l.fields[i].of; t.TypeName() == name {
			return types.NewTypeTypeWithParam(t), true
		}
	}
	return nil, false
}

// FindStructFieldNames returns the names of a type's fields.
func (l *language) FindStructFieldNames(of string) (names []string, ok bool) {
	for i := range l.fields {
		if f := &l.fields[i]; f.of.TypeName() == of {
			names = append(names, f.name)
		}
	}
	return names, names != nil
}

// FindStructFieldType returns a field's type. How it is had is the values' own business.
func (l *language) FindStructFieldType(of, name string) (*types.FieldType, bool) {
	if f := l.field(of, name); f != nil {
		return &types.FieldType{Type: f.typ}, true
	}
	return nil, false
}

// NewValue makes none: rules make no facts.
func (l *language) NewValue(of string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("there are no values of %s to make", of)
}

// An estimator says how large facts can be.
type estimator struct{ l *language }

var _ cost.Estimator = estimator{}

// EstimateSize goes by the table of fields.
func (e estimator) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	last := path[len(path)-1]
	switch {
	case last == "findings":
		return &cost.SizeEstimate{Max: 100}
	case last == "@items", last == "@keys", len(path) > 2 && path[1] == "params":
		return &cost.SizeEstimate{Max: 256}
	}
	for i := range e.l.fields {
		if f := &e.l.fields[i]; f.name == last && f.largest > 0 {
			return &cost.SizeEstimate{Max: f.largest}
		}
	}
	return nil
}

// EstimateCallCost knows what our own functions cost.
func (e estimator) EstimateCallCost(function, overload string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if overload == "findings_has" || overload == "findings_count" {
		return &cost.CallEstimate{CostEstimate: cost.CostEstimate{Min: 1, Max: 100}}
	}
	return nil
}
