package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// FactsOf returns the facts of a recorded call, from the record of its request or of its refusal, so that a policy can be
// tried on what has passed. routes are those of today, which say what API a route speaks; of a route that is not among
// them the path tells.
//
// It has what the record has. What the masker found, and in a record of before how the caller was told, may not be there, and
// is unknown then: a rule that needs it cannot be evaluated, and counts as Ask. When what a caller showed ends is never on
// record, and seems not to be known to anybody.
func FactsOf(r record.Record, routes []Route) (*Facts, error) {
	f := &Facts{Caller: &Principal{}}
	for _, want := range []struct {
		name string
		to   *string
		must bool
	}{
		{record.FieldCaller, &f.Caller.Name, true},
		{record.FieldKey, &f.Caller.Key, false},
		{record.FieldHow, &f.Caller.How, false},
		{record.FieldIssuer, &f.Caller.Issuer, false},
		{record.FieldSubject, &f.Caller.Subject, false},
		{record.FieldEmail, &f.Caller.Email, false},
		{record.FieldRoute, &f.Route, false}, // a call that found no route is on record, too
		{record.FieldMethod, &f.Method, true},
		{record.FieldTarget, &f.Path, true},
	} {
		v, ok := r.Get(want.name)
		if !ok && want.must {
			return nil, fmt.Errorf("gateway: the record is not of a request: it has no field %q", want.name)
		}
		*want.to = string(v)
	}
	f.Path, _, _ = strings.Cut(f.Path, "?")
	f.API = apiOf(f.Path).String()
	if i := slices.IndexFunc(routes, func(route Route) bool { return route.Name == f.Route }); i >= 0 {
		f.API = routes[i].API.String()
	}
	var times struct{ Received time.Time }
	var head [][2]string
	var found [][3]any
	for _, want := range []struct {
		name string
		to   any
	}{
		{record.FieldTimes, &times}, {record.FieldHeaders, &head}, {record.FieldGroups, &f.Caller.Groups}, {record.FieldFindings, &found},
	} {
		if v, ok := r.Get(want.name); ok {
			if err := json.Unmarshal(v, want.to); err != nil {
				return nil, fmt.Errorf("gateway: the record's field %q cannot be read: %w", want.name, err)
			}
		}
	}
	f.Now = times.Received
	if v, ok := r.Get(record.FieldAuthed); ok {
		var err error
		if f.Caller.At, err = time.Parse(time.RFC3339, string(v)); err != nil {
			return nil, fmt.Errorf("gateway: the record's field %q cannot be read: %w", record.FieldAuthed, err)
		}
	}
	if f.Caller.How != "" {
		f.Known |= KnownCaller
	}
	if _, ok := r.Get(record.FieldFindings); ok {
		f.Known |= KnownFindings
	}
	for _, row := range found {
		kind, ok := row[0].(string)
		rule, ok2 := row[1].(string)
		count, ok3 := row[2].(float64)
		if !ok || !ok2 || !ok3 {
			return nil, fmt.Errorf("gateway: the record's field %q cannot be read: it has a row other than [kind, rule, how often]", record.FieldFindings)
		}
		f.Findings = append(f.Findings, Finding{kind, rule, int(count)})
	}
	body, ok := r.Get(record.FieldBody)
	if f.Size = int64(len(body)); ok {
		f.readBody(body, slices.ContainsFunc(head, func(h [2]string) bool { return codes([]byte(h[0]), []byte(h[1])) })) // what is not JSON is unknown
	}
	return f, nil
}

// apiOf tells from a path what API it is of, whatever the route's prefix is.
func apiOf(path string) API {
	for _, a := range []API{Anthropic, OpenAI} {
		for _, p := range a.endpoints() {
			if strings.HasSuffix(path, p) || strings.HasSuffix(p, "/") && strings.Contains(path, p) {
				return a
			}
		}
	}
	return HTTP
}
