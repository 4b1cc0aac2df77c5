package peers

import (
	"reflect"
	"strings"
	"testing"
)

// shape checks a value an SDK has decoded against the SDK's own type: every member the type requires was there,
// every member there is known to the type and had the right kind, in all depths.
func shape(t *testing.T, v any) {
	t.Helper()
	members := 0
	walk(t, reflect.ValueOf(v), reflect.TypeOf(v).String(), &members)
	if members == 0 {
		t.Errorf("%T: no member was looked at", v)
	}
}

// field is respjson.Field of either SDK.
type field interface {
	Raw() string
	Valid() bool
}

func walk(t *testing.T, v reflect.Value, at string, members *int) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			walk(t, v.Elem(), at, members)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(t, v.Index(i), at+"[]", members)
		}
	case reflect.Struct:
		walkStruct(t, v, at, members)
	}
}

func walkStruct(t *testing.T, v reflect.Value, at string, members *int) {
	t.Helper()
	if variant := v.MethodByName("AsAny"); variant.IsValid() && variant.Type().NumIn() == 0 {
		if got := variant.Call(nil)[0]; !got.IsNil() {
			walk(t, got.Elem(), at+"."+got.Elem().Type().Name(), members)
			return
		}
		t.Errorf("%s: no variant of the union fits", at)
		return
	}
	facts := v.FieldByName("JSON")
	if !facts.IsValid() {
		return
	}
	if extra := facts.FieldByName("ExtraFields"); extra.IsValid() {
		for _, k := range extra.MapKeys() {
			t.Errorf("%s: the type knows no member %q", at, k)
		}
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		known := facts.FieldByName(f.Name)
		if !known.IsValid() {
			continue
		}
		fact := known.Interface().(field)
		_, constant := f.Tag.Lookup("default")
		required := constant || f.Tag.Get("api") == "required"
		*members++
		switch raw := fact.Raw(); {
		case raw == "" && required:
			t.Errorf("%s: the required member %q is not there", at, name)
		case raw == "" || raw == "null":
		case !fact.Valid():
			t.Errorf("%s: member %q has the wrong kind: %s", at, name, raw)
		default:
			walk(t, v.Field(i), at+"."+f.Name, members)
		}
	}
}
