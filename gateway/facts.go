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
// It has what the record has: what a caller's issuer said of it, and what the masker found, are unknown. A rule that needs
// them cannot be evaluated, and counts as Ask.
func FactsOf(r record.Record, routes []Route) (*Facts, error) {
	f := &Facts{Caller: &Principal{}}
	for _, want := range []struct {
		name string
		to   *string
		must bool
	}{
		{record.FieldCaller, &f.Caller.Name, true},
		{record.FieldKey, &f.Caller.Key, false},
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
	if v, ok := r.Get(record.FieldTimes); ok {
		if err := json.Unmarshal(v, &times); err != nil {
			return nil, fmt.Errorf("gateway: the record's field %q cannot be read: %w", record.FieldTimes, err)
		}
	}
	f.Now = times.Received
	var head [][2]string
	if v, ok := r.Get(record.FieldHeaders); ok {
		if err := json.Unmarshal(v, &head); err != nil {
			return nil, fmt.Errorf("gateway: the record's field %q cannot be read: %w", record.FieldHeaders, err)
		}
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
