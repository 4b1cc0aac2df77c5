package keys

import (
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const canary = "canary-5up3r-s3cr3t"

// traces are the forms a canary takes in careless output: text, hex, decimal, octal, Go
// syntax, JSON numbers, base64.
var traces = []string{
	canary, "canary", "63616e617279", "63616E617279", "99 97 110 97", "143 141 156 141",
	"0x63, 0x61", "99,97,110", "Y2FuYXJ5", "c a n a r y", "63 61 6e", "U+0063",
}

func wantNoTrace(t *testing.T, out string) {
	t.Helper()
	for _, s := range traces {
		if strings.Contains(out, s) {
			t.Errorf("the secret shows as %q", s)
		}
	}
}

func TestSecretDoesNotShow(t *testing.T) {
	s := NewSecret([]byte(canary))
	type inner struct{ s Secret }
	type holder struct {
		Secret Secret
		Ptr    *Secret
		Any    any
		hidden Secret
		ptr    *Secret
		deep   map[string][]inner
	}
	h := holder{s, &s, s, s, &s, map[string][]inner{"k": {{s}}}}
	var out strings.Builder
	for _, v := range []any{s, &s, h, &h, []Secret{s}, [1]Secret{s}, map[string]Secret{"k": s}, inner{s}, &inner{s}, fmt.Errorf("x: %v", s)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "% #v", "%s", "%q", "%x", "% x", "%X", "%d", "%c", "%U", "%o", "%b", "%t", "%e", "%p", "%T", "%w", "%z", "%100s", "%.3s"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{
			slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil),
		} {
			slog.New(h).With("with", v).Info("m", "v", v, slog.Group("g", "v", v))
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if b, err := xml.Marshal(v); err == nil {
			out.Write(b)
		}
		gob.NewEncoder(&out).Encode(v) // fails for some, which is as good
	}
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(s)
	}()
	wantNoTrace(t, out.String())
	if n := strings.Count(out.String(), "[redacted]"); n < 100 {
		t.Errorf("%d times [redacted]: this test means to print a lot", n)
	}
	b, err := json.Marshal(h.Secret)
	if err != nil || string(b) != `"[redacted]"` {
		t.Errorf("JSON: %s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`"x"`), &s); err == nil {
		t.Error("a secret was read out of JSON")
	}
}

func TestReveal(t *testing.T) {
	b := []byte(canary)
	s := NewSecret(b)
	clear(b)
	if string(s.Reveal()) != canary {
		t.Error("a Secret shares memory with what it was made of")
	}
	if b := (Secret{}).Reveal(); b != nil {
		t.Errorf("the zero Secret is %q", b)
	}
	if (Secret{}).String() != "[redacted]" {
		t.Error("the zero Secret shows that it is")
	}
}

func TestCredential(t *testing.T) {
	long := strings.Repeat("x", MaxCredential)
	for _, c := range []struct{ name, content, want, err string }{
		{"plain", canary, canary, ""},
		{"newline", canary + "\n", canary, ""},
		{"spaces inside", "Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNz", ""},
		{"not ASCII", "schlüssel", "schlüssel", ""},
		{"longest", long, long, ""},
		{"longest, newline", long + "\n", long, ""},
		{"empty", "", "", "is empty"},
		{"only a newline", "\n", "", "is empty"},
		{"two newlines", canary + "\n\n", "", "more than one line"},
		{"two lines", canary + "\n" + canary, "", "more than one line"},
		{"leading newline", "\n" + canary, "", "more than one line"},
		{"carriage return", canary + "\r\n", "", "control character at byte 19"},
		{"tab", canary + "\t", "", "control character"},
		{"NUL", "a\x00" + canary, "", "control character at byte 1"},
		{"DEL", canary + "\x7f", "", "control character"},
		{"C1", canary + "\u0085", "", "control character"},
		{"not UTF-8", canary + "\xff", "", "not UTF-8"},
		{"too long", long + "x", "", "longer than 65536 bytes"},
		{"too long, newline", long + "x\n", "", "longer than 65536 bytes"},
		{"much too long", long + long, "", "longer than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "credential")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			lookup := func(name string) (string, bool) { return c.content, name == "API_KEY" }
			for _, ref := range []Credential{{File: path}, {Env: "API_KEY"}} {
				s, err := ref.Load(lookup)
				if got := string(s.Reveal()); got != c.want {
					t.Errorf("%v: got %q, want %q", ref, got, c.want)
				}
				if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v: error %v, want %q", ref, err, c.err)
				}
				if err != nil {
					wantNoTrace(t, err.Error())
					if !strings.Contains(err.Error(), ref.File+ref.Env) {
						t.Errorf("error does not say where: %v", err)
					}
				}
			}
		})
	}
}

func TestCredentialReference(t *testing.T) {
	lookup := func(string) (string, bool) { return "", false }
	for _, c := range []struct {
		name   string
		ref    Credential
		lookup func(string) (string, bool)
		err    string
	}{
		{"nothing", Credential{}, lookup, "refers to nothing"},
		{"both", Credential{Env: "A", File: "b"}, lookup, "keep one"},
		{"not set", Credential{Env: "API_KEY"}, lookup, "API_KEY is not set"},
		{"no environment", Credential{Env: "API_KEY"}, nil, "API_KEY"},
		{"the secret itself", Credential{Env: canary}, lookup, "not its value"},
		{"lower case", Credential{Env: "canary"}, lookup, "not its value"},
		{"begins with a digit", Credential{Env: "1A"}, lookup, "not its value"},
		{"no file", Credential{File: "/nonexistent/credential"}, nil, "/nonexistent/credential"},
		{"directory", Credential{File: t.TempDir()}, nil, "is a directory"},
	} {
		s, err := c.ref.Load(c.lookup)
		if err == nil || !strings.Contains(err.Error(), c.err) || s.Reveal() != nil {
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		} else {
			wantNoTrace(t, err.Error())
		}
	}
	if !(Credential{}).IsZero() || (Credential{Env: "A"}).IsZero() {
		t.Error("IsZero")
	}
}

func FuzzCredential(f *testing.F) {
	f.Add([]byte("sk-abc"))
	f.Add([]byte("sk-abc\n"))
	f.Add([]byte("a\nb"))
	f.Add([]byte("\r\n"))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseCredential(b)
		if err != nil {
			return
		}
		got := string(s.Reveal())
		if got != string(b) && got+"\n" != string(b) {
			t.Fatalf("%q became %q", b, got)
		}
		if got == "" || len(got) > MaxCredential || strings.ContainsAny(got, "\n\r\x00\t") {
			t.Fatalf("%q was accepted", b)
		}
	})
}
