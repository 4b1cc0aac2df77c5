package masktest

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"testing"
)

// A value is seen in whatever spelling it leaks, in pieces of ten bytes, and not in shorter ones.
func TestLeaks(t *testing.T) {
	l := NewLeaks([]Bypass{
		{ID: "card", Secret: "4111-1111-1111-1111", Text: "4111 1111 1111 1111", MustMask: true},
		{ID: "mail", Secret: "jane.doe@example.com", Text: "ｊａｎｅ.doe@example.com", MustMask: true},
		{ID: "ssn", Secret: "078-05-1120", Text: "078-05-1120", MustMask: true},
		{ID: "not promised", Secret: "nobody@example.org", Text: "nobody@example.org"},
	})
	mail := []byte("jane.doe@example.com")
	for _, s := range []string{
		"4111-1111-1111-1111", "4111111111111111", "4111 1111 1111 1111", "x 111-1111-1 y", "078051120", "078-05-1120",
		string(mail), url.QueryEscape(string(mail)), "ｊａｎｅ", `\u006a\u0061\u006e\u0065`, "&#106;&#97;&#110;&#101;",
		"%6A%61%6E%65%2E", "mail=jane.doe%40example.com", hex.EncodeToString(mail),
		base64.StdEncoding.EncodeToString(mail), base64.URLEncoding.EncodeToString([]byte("a" + string(mail))), base64.StdEncoding.EncodeToString([]byte("ab" + string(mail) + "c")),
	} {
		if l.In([]byte("before "+s+" behind")) == "" {
			t.Errorf("%q is not seen", s)
		}
	}
	for _, s := range []string{"", "nobody@example.org", "⟦CARD:q7k3abcd⟧ and ⟦EMAIL:abcd⟧", "doe@exam", "07805112", "4111 1111"} {
		if found := l.In([]byte(s)); found != "" {
			t.Errorf("in %q is seen %s", s, found)
		}
	}
	for _, c := range []struct {
		text, value, want string
		n                 int
	}{{"a 12345 b", "0123456", "12345", 5}, {"a 1234 b", "0123456", "", 5}, {"a 123 b", "123", "123", 5}, {"", "123", "", 5}, {"x", "", "", 5}} {
		if got := Leak([]byte(c.text), c.value, c.n); got != c.want {
			t.Errorf("of %q in %q: %q, want %q", c.value, c.text, got, c.want)
		}
	}
}
