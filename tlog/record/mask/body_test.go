package mask_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// JSON stays JSON: masks stand in strings, in the place of numbers as strings, in names, and in JSON within strings.
func TestJSON(t *testing.T) {
	m := masker(t, mask.Config{})
	for _, c := range []struct{ in, gone, kept string }{
		{`{"card":4111111111111111,"n":12}`, "4111", `"n":12`},
		{`{"messages":[{"role":"user","content":"mail jane@example.com \n \"now\""}]}`, "jane", `\n \"now\""`},
		{`{"jane@example.com":{"a":[1,2]}}`, "jane", `"a":[1,2]`},
		{`{"a":"{\"ssn\":\"078-05-1120\",\"card\":4111111111111111,\"x\":7}"}`, "4111", `\"x\":7}`},
		{`{"a":"{\"card\":4111111111111111}"}`, "1111", `{\"card\":\"⟦CARD`},
		{`{"a":"\u0034\u0031\u0031\u0031111111111111"}`, "1111", `{"a":"⟦CARD`},
		{`{"ssn":"078051120","id":"078051121"}`, "078051120", `"id":"078051121"`},
		{`{"ssn":78051120,"npi":1234567893}`, "1234567893", `"npi":"⟦US_NPI`},
		{`{"payment":{"cvv":"123","cvc":456,"pin":"9876"}}`, "123", `{"cvv":"⟦CVV⟧","cvc":"⟦CVV⟧","pin":"⟦PIN⟧"}`},
		{`{"dob":"1980-05-05","created":"2024-05-05"}`, "1980", `"created":"2024-05-05"`},
		{`{"emails":["a.b@example.com","c@example.org"],"phone":["+14155552671"]}`, "@", `"phone":["⟦PHONE`},
		{`{"patient_id":"A0048291","password":"hunter-2000-xyz"}`, "48291", `"patient_id":"⟦MEDICAL`},
		{`"just jane@example.com"`, "jane", `"just ⟦EMAIL`},
		{`[[[["4111-1111-1111-1111"]]]]`, "1111", `[[[["⟦CARD`},
		{`{"vector":[0.4111111111111111,0.5,-0.25,41111,4111111111111111.0]}`, "", `{"vector":[0.4111111111111111,0.5,-0.25,41111,4111111111111111.0]}`},
		{`{"text":"Z:\\users\\jane","n":-1,"e":1.5e10,"t":true,"x":null}`, "", `Z:\\users\\jane`},
		{`{"usage":{"prompt_tokens":1234,"completion_tokens":378282},"created":1764087600,"id":"chatcmpl-9x8y7z"}`, "", `1764087600`},
	} {
		out, _ := m.JSON(nil, []byte(c.in))
		if !json.Valid(out) || c.gone != "" && bytes.Contains(out, []byte(c.gone)) || !bytes.Contains(out, []byte(c.kept)) {
			t.Errorf("%s became\n%s", c.in, out)
		}
		if c.gone == "" && string(out) != c.in {
			t.Errorf("%s became\n%s", c.in, out)
		}
	}
	var inner string
	out, _ := m.JSON(nil, []byte(`{"arguments":"{\"card\": 4111111111111111, \"who\": \"jane@example.com\"}"}`))
	var outer struct{ Arguments string }
	if json.Unmarshal(out, &outer) != nil {
		t.Fatalf("%s", out)
	}
	if inner = outer.Arguments; !json.Valid([]byte(inner)) || strings.Contains(inner, "4111") {
		t.Errorf("%s", inner)
	}
	// What is no JSON is text.
	for _, s := range []string{`{"a":"jane@example.com"`, `{"a":jane@example.com}`, `jane@example.com`, `{"a":"jane@example.com"}{"b":1}`} {
		if out, f := m.JSON(nil, []byte(s)); f.Count(mask.Email) != 1 || bytes.Contains(out, []byte("jane")) {
			t.Errorf("%s became %s", s, out)
		}
	}
}

// What must be masked is, among words, in JSON that breaks off, and beside lines of JSON.
func TestBypassesAmongOthers(t *testing.T) {
	m := masker(t, mask.Config{})
	cases, err := masktest.Bypasses()
	if err != nil {
		t.Fatal(err)
	}
	leaks := masktest.NewLeaks(cases)
	for _, c := range cases {
		if !c.MustMask {
			continue
		}
		for _, s := range []string{"Remember %s for me", "(%s)", "token=%s", "token=%s\nthank you", "1. %s\n2. another", `{"messages":"%s`, "{\"messages\":\n\"%s\"", "{\"a\":1}\n%s\n{\"b\":2}\n", "{\"a\":1}\n\n%s"} {
			in := fmt.Sprintf(s, c.Text)
			for _, kind := range []string{"application/json", "text/plain", "application/jsonl"} {
				out, f := m.Body(nil, kind, []byte(in))
				if found := leaks.In(out); found != "" || len(f) == 0 {
					t.Errorf("%s: %q became %q: %s", kind, in, out, found)
				}
				// What is beside it is left: but where a short value is set to a name, it takes a word of the next line with it.
				if strings.HasPrefix(in, "{\"a\":1}\n") && !bytes.HasPrefix(out, []byte("{\"a\":1}\n")) || strings.HasSuffix(in, "\n{\"b\":2}\n") && !bytes.HasSuffix(out, []byte("\n{\"b\":2}\n")) ||
					c.Kind != "ssn" && strings.HasSuffix(in, "\nthank you") && !bytes.HasSuffix(out, []byte("\nthank you")) {
					t.Errorf("%s: %q became %q", kind, in, out)
				}
			}
		}
	}
}

// What must be masked is, in every form of a body, and where an event ends between the halves of a character.
func TestBypassesInBodies(t *testing.T) {
	m := masker(t, mask.Config{})
	cases, err := masktest.Bypasses()
	if err != nil {
		t.Fatal(err)
	}
	leaks := masktest.NewLeaks(cases)
	for _, c := range cases {
		if !c.MustMask {
			continue
		}
		check := func(kind, body string) {
			t.Helper()
			if out, f := m.Body(nil, kind, []byte(body)); leaks.In(out) != "" || len(f) != 1 {
				t.Errorf("%s: %v in %q, which became %q: %s", c.ID, f, body, out, leaks.In(out))
			}
		}
		check("application/json", `{"arguments":`+quote(`{"b":`+quote(c.Text)+`}`)+`}`)
		check("application/x-www-form-urlencoded", "a="+url.QueryEscape(c.Text)+"&b=1")
		check("multipart/form-data; boundary=XX", "--XX\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n"+c.Text+"\r\n--XX--\r\n")
		check("text/event-stream", "data: "+strings.ReplaceAll(c.Text, "\n", "\ndata: ")+"\n\n")
		event := func(half []uint16) string {
			var b strings.Builder
			for _, u := range half {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
			return `data: {"choices":[{"delta":{"content":"` + b.String() + `"},"index":0}]}` + "\n\n"
		}
		for u, i := utf16.Encode([]rune(c.Text)), 1; i < len(u); i++ {
			check("text/event-stream", event(u[:i])+event(u[i:]))
		}
	}
}

func TestBodies(t *testing.T) {
	m := masker(t, mask.Config{})
	multipart := "--XX\r\nContent-Disposition: form-data; name=\"ssn\"\r\n\r\n078051120\r\n--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"jane@example.com.json\"\r\nContent-Type: application/json\r\n\r\n" +
		"{\"card\":4111111111111111}\r\n--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XX--\r\n"
	for _, c := range []struct {
		kind, in string
		want     string
		f        map[mask.Kind]int
	}{
		{"application/x-www-form-urlencoded", "card=4111+1111+1111+1111&mail=jane%40example.com&cvv=123&x=1+2", "card=⟦CARD⟧&mail=⟦EMAIL⟧&cvv=⟦CVV⟧&x=1+2", map[mask.Kind]int{mask.Card: 1, mask.Email: 1, mask.CVV: 1}},
		{"multipart/form-data; boundary=XX", multipart, strings.NewReplacer("078051120", "⟦US_SSN⟧", "jane@example.com.json", "⟦EMAIL⟧", "4111111111111111", `"⟦CARD⟧"`).Replace(multipart), map[mask.Kind]int{"US_SSN": 1, mask.Email: 1, mask.Card: 1}},
		{"text/plain", "4111111111111111\n", "⟦CARD⟧\n", map[mask.Kind]int{mask.Card: 1}},
		{"", `{"a":4111111111111111}`, `{"a":"⟦CARD⟧"}`, map[mask.Kind]int{mask.Card: 1}},
		{"application/jsonl", "{\"a\":4111111111111111}\n\n{\"b\":\"x@y.org\"}\n", "{\"a\":\"⟦CARD⟧\"}\n\n{\"b\":\"⟦EMAIL⟧\"}\n", map[mask.Kind]int{mask.Card: 1, mask.Email: 1}},
		{"application/json", "{\"error\":{\"message\":\"Incorrect API key provided: sk-proj-abcdEFGH1234abcdEFGH1234.\"}}", "{\"error\":{\"message\":\"Incorrect API key provided: ⟦SECRET⟧.\"}}", map[mask.Kind]int{mask.Secret: 1}},
		{"text/event-stream", "event: error\ndata: {\"error\":\"for jane@example.com\"}\n\n: ping jane@example.com\n\n", "event: error\ndata: {\"error\":\"for ⟦EMAIL⟧\"}\n\n: ping ⟦EMAIL⟧\n\n", map[mask.Kind]int{mask.Email: 2}},
		{"multipart/form-data; boundary", "x@y.org", "⟦EMAIL⟧", map[mask.Kind]int{mask.Email: 1}},
	} {
		out, f := m.Body(nil, c.kind, []byte(c.in))
		if got := plainMasks(string(out)); got != c.want {
			t.Errorf("%s:\n%s\nbecame\n%s\nnot\n%s", c.kind, c.in, got, c.want)
		}
		for k, n := range c.f {
			if f.Count(k) != n {
				t.Errorf("%s: %v", c.kind, f)
			}
		}
	}
}

// plainMasks leaves of each mask its kind.
func plainMasks(s string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "⟦")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		in, after, _ := strings.Cut(rest, "⟧")
		kind, _, _ := strings.Cut(in, ":")
		b.WriteString("⟦" + kind + "⟧")
		s = after
	}
}

func TestHeadersAndTargets(t *testing.T) {
	m := masker(t, mask.Config{})
	in := `[["User-Agent","curl/8.5.0"],["X-User-Email","jane@example.com"],["X-SSN","078051120"],["Cookie","session=Zm9vYmFyMTIzNDU2Nzg5MA; theme=dark"],["Authorization","Bearer abcdEFGH1234abcdEFGH1234"],["X-Request-Id","0198f2c1-667b-7728-960c-f5ec8c385e21"],["Content-Length","1234"]]`
	want := `[["User-Agent","curl/8.5.0"],["X-User-Email","⟦EMAIL⟧"],["X-SSN","⟦US_SSN⟧"],["Cookie","session=⟦SECRET⟧; theme=dark"],["Authorization","Bearer ⟦SECRET⟧"],["X-Request-Id","0198f2c1-667b-7728-960c-f5ec8c385e21"],["Content-Length","1234"]]`
	out, f := m.Headers(nil, []byte(in))
	if got := plainMasks(string(out)); got != want || !json.Valid(out) {
		t.Errorf("%v\n%s\n%s", f, got, want)
	}
	for in, want := range map[string]string{
		"/v1/chat/completions":                           "/v1/chat/completions",
		"/v1/files?user=jane%40example.com&limit=20":     "/v1/files?user=⟦EMAIL⟧&limit=20",
		"/v1/x?ssn=078051120&key=AIzaSyA1234567890ab":    "/v1/x?ssn=⟦US_SSN⟧&key=⟦SECRET⟧",
		"/pay?n=4111+1111+1111+1111":                     "/pay?n=⟦CARD⟧",
		"/v1/%6A%61%6E%65%40%65%78.com/4111111111111111": "/v1/⟦EMAIL⟧/⟦CARD⟧",
	} {
		if out, _ := m.Target(nil, []byte(in)); plainMasks(string(out)) != want {
			t.Errorf("%s became %s", in, out)
		}
	}
}

// A compressed or binary body is no text; nothing in it is broken, and nothing panics.
func TestBinary(t *testing.T) {
	m := masker(t, mask.Config{})
	b := make([]byte, 4096)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	for _, kind := range []string{"", "image/png", "application/json", "text/event-stream", "multipart/form-data; boundary=x"} {
		m.Body(nil, kind, b)
	}
}

// FuzzBody holds masking to what must be true whatever the bytes are: JSON stays JSON, UTF-8 stays UTF-8, nothing new is found in what
// was masked that was not there, and a value that is put in is not there any more.
func FuzzBody(f *testing.F) {
	for _, s := range sentences {
		f.Add("application/json", []byte(s))
	}
	f.Add("text/plain", []byte("+1 (415) 555-2671 %34%31 &#x34;&#49; \\u0034 ⟦CARD⟧ ⟦CARD:…1111⟧"))
	f.Add("multipart/form-data; boundary=a", []byte("--a\r\nContent-Type: application/json\r\n\r\n{\"a\":1}\r\n--a--"))
	f.Add("application/x-www-form-urlencoded", []byte("a=4111+1111+1111+1111&b=%2B"))
	f.Add("application/jsonl", []byte("{\"a\":[{\"b\":\"\\ud835\"}]}\n[]\n\"x\""))
	f.Add("", []byte(`{"a":"{\"b\":\"{\\\"c\\\":4111111111111111}\",\"d\":5500000000000004}"}`))
	f.Add("", []byte("NDExMTExMTExMTExMTExMQ=="))
	m := masker(f, mask.Config{})
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		out, found := m.Body(nil, kind, body)
		if len(found) == 0 && !bytes.Equal(out, body) {
			t.Fatalf("nothing found, and %q became %q", body, out)
		}
		if utf8.Valid(body) && !utf8.Valid(out) {
			t.Fatalf("%q became %q", body, out)
		}
		if json.Valid(body) {
			if out, _ = m.JSON(nil, body); !json.Valid(out) {
				t.Fatalf("%q became %q", body, out)
			}
			q, _ := json.Marshal(map[string]string{"arguments": string(body)})
			var outer map[string]string
			if out, _ = m.JSON(nil, q); json.Unmarshal(out, &outer) != nil {
				t.Fatalf("%q became %q", q, out)
			}
			if inner := strings.TrimLeft(outer["arguments"], " \t\r\n"); utf8.Valid(body) && inner != "" && (inner[0] == '{' || inner[0] == '[') && !json.Valid([]byte(inner)) {
				t.Fatalf("%q became within a string %q", body, inner)
			}
		}
		for _, x := range m.Find(body) {
			if x.From >= x.To || x.From < 0 || x.To > len(body) || x.Kind == "" {
				t.Fatalf("%v in %q", x, body)
			}
		}
		m.Headers(nil, body)
		m.Target(nil, body)
		put := fmt.Appendf(nil, "%s , 4111-1111-1111-1111 , ", body)
		if out, _ := m.Text(nil, put); bytes.Contains(out, []byte(" 4111-1111-1111-1111 ")) {
			t.Fatalf("%q keeps its card", out)
		}
	})
}
