package cel

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/tallystick/tallystick/gateway"
)

// The values that expressions see are views of gateway.Facts: no map is filled in for a judgement, and what an expression
// does not read is not made. A view says of each fact whether it is there, is absent, or is unknown; to ask for one that is
// unknown, be it by has(), is an error, as it is to read one that is absent.

// The types of the four variables and of what is in their lists, as the checker knows them.
var (
	callerType  = types.NewObjectType("Caller", traits.IndexerType|traits.FieldTesterType)
	requestType = types.NewObjectType("Request", traits.IndexerType|traits.FieldTesterType)
	messageType = types.NewObjectType("Message", traits.IndexerType)
	findingType = types.NewObjectType("Finding", traits.IndexerType)
)

// A field is one fact, as expressions may use it.
type field struct {
	of       *types.Type // what it is a field of
	name     string
	typ      *types.Type
	optional bool     // it can be absent, and must be asked for with has()
	words    []string // all that it can be; nil for anything
	largest  uint64   // elements of a list, or bytes of a text, for estimates; 0 for what has no size
}

// fields are all of them, in the order in which they are told to people.
func fields() []field {
	text, number, list := types.StringType, types.IntType, types.NewListType
	return []field{
		{callerType, "name", text, false, nil, 200},
		{callerType, "how", text, false, []string{gateway.ByKey, gateway.ByToken, gateway.ByOIDC, gateway.ByCert}, 8},
		{callerType, "key", text, true, nil, 200},
		{callerType, "issuer", text, true, nil, 2048},
		{callerType, "subject", text, true, nil, 2048},
		{callerType, "email", text, true, nil, 320},
		{callerType, "groups", list(text), false, nil, 1000},
		{callerType, "at", types.TimestampType, true, nil, 0},
		{callerType, "until", types.TimestampType, true, nil, 0},

		{requestType, "route", text, false, nil, 64},
		{requestType, "api", text, false, []string{"openai", "anthropic", "http"}, 16},
		{requestType, "method", text, false, nil, 32},
		{requestType, "path", text, false, nil, 8192},
		{requestType, "size", number, false, nil, 0},
		{requestType, "model", text, true, nil, 256},
		{requestType, "stream", types.BoolType, false, nil, 0},
		{requestType, "max_tokens", number, true, nil, 0},
		{requestType, "temperature", types.DoubleType, true, nil, 0},
		{requestType, "messages", list(messageType), false, nil, 10_000},
		{requestType, "tools", list(text), false, nil, 1024},
		{requestType, "params", types.NewMapType(text, types.DynType), false, nil, 128},

		{messageType, "role", text, false, nil, 128},
		{messageType, "size", number, false, nil, 0},
		{messageType, "parts", number, false, nil, 0},

		{findingType, "kind", text, false, nil, 64},
		{findingType, "rule", text, false, nil, 64},
		{findingType, "count", number, false, nil, 0},
	}
}

// variables are what expressions begin with.
func variables() map[string]*types.Type {
	return map[string]*types.Type{
		"caller": callerType, "request": requestType, "findings": types.NewListType(findingType), "now": types.TimestampType,
	}
}

// Why a fact cannot be had. Checking a policy sees to it that an absent one is never read.
var (
	errUnknown = errors.New("it is not known of this call")
	errAbsent  = errors.New("it is absent, and is read without has()")
)

// no is the error of a fact that cannot be had.
func no(name string, why error) ref.Val { return types.WrapErr(fmt.Errorf("%s: %w", name, why)) }

// A view is all that the expressions of one judgement see.
type view struct {
	f *gateway.Facts

	caller   caller
	request  request
	messages list[gateway.Message]
	findings list[gateway.Finding]
	tools    list[string]
	groups   list[string]
	params   params
	made     [allMade]ref.Val // texts and times that were made already
}

var _ interpreter.Activation = (*view)(nil)

// Places in view.made.
const (
	madeName = iota
	madeRoute
	madeMethod
	madePath
	madeModel
	madeEmail
	madeAPI
	madeSize
	madeTokens
	madeNow
	allMade
)

// look turns the view to the facts of a call, or with nil away from them.
func (v *view) look(f *gateway.Facts) {
	if f == nil {
		*v = view{}
		return
	}
	v.f = f
	v.caller.v, v.request.v = v, v
	v.messages = list[gateway.Message]{of: f.Messages, box: boxMessage}
	v.findings = list[gateway.Finding]{of: f.Findings, box: boxFinding}
	v.tools = list[string]{of: f.Tools, box: boxString}
	v.groups = list[string]{box: boxString}
	if f.Caller != nil {
		v.groups.of = f.Caller.Groups
	}
	v.params = f.Params
}

// ResolveName returns a variable.
func (v *view) ResolveName(name string) (any, bool) {
	switch name {
	case "request":
		return &v.request, true
	case "caller":
		return &v.caller, true
	case "findings":
		if v.f.Known&gateway.KnownFindings == 0 {
			return no("findings", errUnknown), true
		}
		return &v.findings, true
	case "now":
		if v.made[madeNow] == nil {
			v.made[madeNow] = types.Timestamp{Time: v.f.Now}
		}
		return v.made[madeNow], true
	}
	return nil, false
}

// Parent returns nil: there is nothing else.
func (v *view) Parent() interpreter.Activation { return nil }

// text makes a value of a text that is read again and again, once.
func (v *view) text(at int, s string) ref.Val {
	if v.made[at] == nil {
		v.made[at] = types.String(s)
	}
	return v.made[at]
}

// number is the same for a number.
func (v *view) number(at int, n int64) ref.Val {
	if v.made[at] == nil {
		v.made[at] = types.Int(n)
	}
	return v.made[at]
}

// A structure is a value that has fields, and nothing else that values can have.
type structure struct{}

func (structure) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("cel: there is no %v of this value", t)
}
func (structure) ConvertToType(t ref.Type) ref.Val {
	return types.NewErr("there is no %s of this value", t.TypeName())
}

// told is the answer to has(): whether a fact is there, if that is known.
func told(of string, name types.String, known, there bool) ref.Val {
	if !known {
		return no(of+string(name), errUnknown)
	}
	return types.Bool(there)
}

// missing is what is read where a fact is not.
func missing(of string, name types.String, known bool) ref.Val {
	if !known {
		return no(of+string(name), errUnknown)
	}
	return no(of+string(name), errAbsent)
}

// A caller is the variable of that name.
type caller struct {
	structure
	v *view
}

var _ interface {
	traits.Indexer
	traits.FieldTester
	ref.Val
} = (*caller)(nil)

func (c *caller) Type() ref.Type              { return callerType }
func (c *caller) Value() any                  { return c }
func (c *caller) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(c)) }

// state says whether a fact is known, and whether it is there.
func (c *caller) state(name types.String) (known, there bool) {
	p := c.v.f.Caller
	if p == nil {
		return false, false
	}
	known, there = c.v.f.Known&gateway.KnownCaller != 0, true
	switch name {
	case "name":
		known = true
	case "key":
		known, there = true, p.Key != ""
	case "issuer":
		there = p.Issuer != ""
	case "subject":
		there = p.Subject != ""
	case "email":
		there = p.Email != ""
	case "at":
		there = !p.At.IsZero()
	case "until":
		there = !p.Until.IsZero()
	}
	return known, there
}

// IsSet says whether a fact is there.
func (c *caller) IsSet(name ref.Val) ref.Val {
	n := name.(types.String)
	known, there := c.state(n)
	return told("caller.", n, known, there)
}

// Get returns a fact.
func (c *caller) Get(name ref.Val) ref.Val {
	n := name.(types.String)
	known, there := c.state(n)
	if !known || !there {
		return missing("caller.", n, known)
	}
	p := c.v.f.Caller
	switch n {
	case "name":
		return c.v.text(madeName, p.Name)
	case "how":
		return types.String(p.How)
	case "key":
		return types.String(p.Key)
	case "issuer":
		return types.String(p.Issuer)
	case "subject":
		return types.String(p.Subject)
	case "email":
		return c.v.text(madeEmail, p.Email)
	case "groups":
		return &c.v.groups
	case "at":
		return types.Timestamp{Time: p.At}
	case "until":
		return types.Timestamp{Time: p.Until}
	}
	return missing("caller.", n, true)
}

// A request is the variable of that name.
type request struct {
	structure
	v *view
}

var _ interface {
	traits.Indexer
	traits.FieldTester
	ref.Val
} = (*request)(nil)

func (r *request) Type() ref.Type              { return requestType }
func (r *request) Value() any                  { return r }
func (r *request) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(r)) }

// state says whether a fact is known, and whether it is there.
func (r *request) state(name types.String) (known, there bool) {
	f := r.v.f
	of := func(k gateway.Known) bool { return f.Known&k != 0 }
	switch name {
	case "model":
		return of(gateway.KnownModel), f.Model != ""
	case "stream":
		return of(gateway.KnownStream), true
	case "max_tokens":
		return of(gateway.KnownMaxTokens), f.HasMaxTokens
	case "temperature":
		return of(gateway.KnownTemperature), f.HasTemperature
	case "messages":
		return of(gateway.KnownMessages), true
	case "tools":
		return of(gateway.KnownTools), true
	case "params":
		return of(gateway.KnownParams), true
	}
	return true, true
}

// IsSet says whether a fact is there.
func (r *request) IsSet(name ref.Val) ref.Val {
	n := name.(types.String)
	known, there := r.state(n)
	return told("request.", n, known, there)
}

// Get returns a fact.
func (r *request) Get(name ref.Val) ref.Val {
	n := name.(types.String)
	known, there := r.state(n)
	if !known || !there {
		return missing("request.", n, known)
	}
	f := r.v.f
	switch n {
	case "route":
		return r.v.text(madeRoute, f.Route)
	case "api":
		return r.v.text(madeAPI, f.API)
	case "method":
		return r.v.text(madeMethod, f.Method)
	case "path":
		return r.v.text(madePath, f.Path)
	case "size":
		return r.v.number(madeSize, f.Size)
	case "model":
		return r.v.text(madeModel, f.Model)
	case "stream":
		return types.Bool(f.Stream)
	case "max_tokens":
		return r.v.number(madeTokens, f.MaxTokens)
	case "temperature":
		return types.Double(f.Temperature)
	case "messages":
		return &r.v.messages
	case "tools":
		return &r.v.tools
	case "params":
		return &r.v.params
	}
	return missing("request.", n, true)
}

// A message is one of request.messages.
type message gateway.Message

func boxMessage(m *gateway.Message) ref.Val { return (*message)(m) }

func (*message) ConvertToNative(t reflect.Type) (any, error) { return structure{}.ConvertToNative(t) }
func (*message) ConvertToType(t ref.Type) ref.Val            { return structure{}.ConvertToType(t) }
func (*message) Type() ref.Type                              { return messageType }
func (m *message) Value() any                                { return m }
func (m *message) Equal(other ref.Val) ref.Val {
	o, ok := other.(*message)
	return types.Bool(ok && *m == *o)
}

// Get returns a field.
func (m *message) Get(name ref.Val) ref.Val {
	switch name.(types.String) {
	case "role":
		return types.String(m.Role)
	case "size":
		return types.Int(m.Size)
	case "parts":
		return types.Int(m.Parts)
	}
	return no("message", errAbsent)
}

// A finding is one of findings.
type finding gateway.Finding

func boxFinding(f *gateway.Finding) ref.Val { return (*finding)(f) }

func (*finding) ConvertToNative(t reflect.Type) (any, error) { return structure{}.ConvertToNative(t) }
func (*finding) ConvertToType(t ref.Type) ref.Val            { return structure{}.ConvertToType(t) }
func (*finding) Type() ref.Type                              { return findingType }
func (f *finding) Value() any                                { return f }
func (f *finding) Equal(other ref.Val) ref.Val {
	o, ok := other.(*finding)
	return types.Bool(ok && *f == *o)
}

// Get returns a field.
func (f *finding) Get(name ref.Val) ref.Val {
	switch name.(types.String) {
	case "kind":
		return types.String(f.Kind)
	case "rule":
		return types.String(f.Rule)
	case "count":
		return types.Int(f.Count)
	}
	return no("finding", errAbsent)
}

func boxString(s *string) ref.Val { return types.String(*s) }

// A list shows a slice as a list, each element as box makes it.
type list[T comparable] struct {
	of   []T
	box  func(*T) ref.Val
	made []ref.Val // the first elements, once they were gone over
}

// at is an element. The first ones are made once for all rules of a judgement.
func (l *list[T]) at(i int) ref.Val {
	if i >= manyMade {
		return l.box(&l.of[i])
	}
	if l.made == nil {
		l.made = make([]ref.Val, min(len(l.of), manyMade))
	}
	if l.made[i] == nil {
		l.made[i] = l.box(&l.of[i])
	}
	return l.made[i]
}

const manyMade = 64

var (
	_ traits.Lister   = (*list[string])(nil)
	_ traits.Foldable = (*list[string])(nil)
)

func (*list[T]) ConvertToNative(t reflect.Type) (any, error) { return structure{}.ConvertToNative(t) }
func (*list[T]) ConvertToType(t ref.Type) ref.Val            { return structure{}.ConvertToType(t) }
func (*list[T]) Type() ref.Type                              { return types.ListType }
func (l *list[T]) Value() any                                { return l.of }
func (l *list[T]) Size() ref.Val                             { return types.Int(len(l.of)) }

// Add is not in the language.
func (l *list[T]) Add(other ref.Val) ref.Val { return types.MaybeNoSuchOverloadErr(other) }

// Contains says whether an element is in the list.
func (l *list[T]) Contains(v ref.Val) ref.Val {
	if s, ok := v.(types.String); ok {
		if strs, ok := any(l.of).([]string); ok {
			for i := range strs {
				if strs[i] == string(s) {
					return types.True
				}
			}
			return types.False
		}
	}
	for i := range l.of {
		if l.at(i).Equal(v) == types.True {
			return types.True
		}
	}
	return types.False
}

// Equal compares with any other list.
func (l *list[T]) Equal(other ref.Val) ref.Val {
	o, ok := other.(traits.Lister)
	if !ok || o.Size() != l.Size() {
		return types.False
	}
	for i := range l.of {
		if l.at(i).Equal(o.Get(types.Int(i))) != types.True {
			return types.False
		}
	}
	return types.True
}

// Get returns an element.
func (l *list[T]) Get(index ref.Val) ref.Val {
	i, ok := index.(types.Int)
	if !ok || i < 0 || int64(i) >= int64(len(l.of)) {
		return types.NewErr("the list has no element %v", index.Value())
	}
	return l.at(int(i))
}

// Fold goes over the elements.
func (l *list[T]) Fold(f traits.Folder) {
	for i := range l.of {
		if !f.FoldEntry(types.IntZero, l.at(i)) { // no macro of ours tells the index
			return
		}
	}
}

// Iterator goes over the elements.
func (l *list[T]) Iterator() traits.Iterator {
	return &iterator{n: len(l.of), at: l.at}
}

// An iterator goes over n values.
type iterator struct {
	structure
	at   func(int) ref.Val
	i, n int
}

func (*iterator) Type() ref.Type         { return types.IteratorType }
func (*iterator) Equal(ref.Val) ref.Val  { return types.False }
func (it *iterator) Value() any          { return it }
func (it *iterator) HasNext() ref.Val    { return types.Bool(it.i < it.n) }
func (it *iterator) Next() (val ref.Val) { val = it.at(it.i); it.i++; return val }

// params are request.params.
type params []gateway.Param

var (
	_ traits.Mapper   = (*params)(nil)
	_ traits.Foldable = (*params)(nil)
)

func (*params) ConvertToNative(t reflect.Type) (any, error) { return structure{}.ConvertToNative(t) }
func (*params) ConvertToType(t ref.Type) ref.Val            { return structure{}.ConvertToType(t) }
func (*params) Type() ref.Type                              { return types.MapType }
func (p *params) Value() any                                { return p }
func (p *params) Size() ref.Val                             { return types.Int(len(*p)) }
func (p *params) Equal(other ref.Val) ref.Val               { return types.Bool(other == ref.Val(p)) }

// Find returns a member of the body. One that differs only in case might be taken for it by the model, so it is unknown
// whether it is there.
func (p *params) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	at := -1
	for i := range *p {
		switch m := &(*p)[i]; {
		case m.Name == string(name):
			at = i
		case strings.EqualFold(m.Name, string(name)):
			return no("request.params."+string(name), errors.New("the body spells it otherwise")), false
		}
	}
	if at < 0 {
		return nil, false
	}
	return param((*p)[at].Value), true
}

// param is the value of a member. Null stands for what is neither number, text nor truth.
func param(v any) ref.Val {
	switch v := v.(type) {
	case bool:
		return types.Bool(v)
	case int64:
		return types.Int(v)
	case float64:
		return types.Double(v)
	case string:
		return types.String(v)
	}
	return types.NullValue
}

// Get returns a member.
func (p *params) Get(key ref.Val) ref.Val {
	v, ok := p.Find(key)
	if !ok && v == nil {
		return no("request.params", errAbsent)
	}
	return v
}

// Contains says whether a member is there.
func (p *params) Contains(key ref.Val) ref.Val {
	v, ok := p.Find(key)
	if !ok && v != nil {
		return v
	}
	return types.Bool(ok)
}

// Fold goes over the members.
func (p *params) Fold(f traits.Folder) {
	for i := range *p {
		if !f.FoldEntry(types.String((*p)[i].Name), types.NullValue) { // no macro of ours tells the value
			return
		}
	}
}

// Iterator goes over the members' names.
func (p *params) Iterator() traits.Iterator {
	return &iterator{n: len(*p), at: func(i int) ref.Val { return types.String((*p)[i].Name) }}
}
