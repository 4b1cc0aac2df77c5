package config

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// fill puts a canary of its own into every text of a configuration, and something into everything else.
func fill(path string, v reflect.Value, n *int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(path, v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(path+"."+f.Name, v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(path, v.Index(0), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(path+".key", key, n)
		fill(path, e, n)
		v.SetMapIndex(key, e)
	case reflect.String:
		*n++
		v.SetString("canary" + path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Uint64:
		v.SetUint(1)
	default:
		panic(v.Kind())
	}
}

// Of a configuration with a text of its own everywhere those in testdata/shown.txt are shown and no others: whoever wants a new one
// to be seen says so there, too.
func TestShown(t *testing.T) {
	var c Config
	n := 0
	fill("", reflect.ValueOf(&c).Elem(), &n)
	var out strings.Builder
	for _, s := range c.Shown() {
		if strings.Contains(s.Value, "canary") {
			fmt.Fprintf(&out, "%s\n", strings.TrimPrefix(s.Value, "canary."))
		}
	}
	golden := "testdata/shown.txt"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("shown are\n%s", out.String())
		if os.Getenv("WRITE_SHOWN") != "" {
			os.WriteFile(golden, []byte(out.String()), 0o644)
		}
	}
	if n < 100 {
		t.Errorf("%d texts", n)
	}
	for _, never := range []string{
		"SHA256", "Env", "File", "Vault", "Secret", "Token", "Tokens", "KeyPassword", "RoleID", "Lists", "Words", "Expr", "URLFrom", "People.Email", "Callers.Email",
		"Originals", "Proxy", "Notify.URL", "Key", "KEK", "Login", "Revoked", "SPKI",
	} {
		for line := range strings.Lines(out.String()) {
			if line = strings.TrimSpace(line); line == never || strings.HasSuffix(line, "."+never) {
				t.Errorf("it shows %s", line)
			}
		}
	}
}

// A URL is shown without the password in it.
func TestShownURL(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(good, "https://api.openai.com", "https://me:hunter2@api.example/v1?key=hunter3#hunter4", 1)), "/etc/tally")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(c.Shown())
	if strings.Contains(text, "hunter") || !strings.Contains(text, "{gateway.routes.openai.upstream https://api.example/v1}") || !strings.Contains(text, "{gateway.routes.openai.credential a secret in a file}") {
		t.Error(text)
	}
}
