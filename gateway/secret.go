package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// The service credential is put on the wire and nowhere else. A model that sends it back, in one piece, finds it struck
// out: by asterisks, as many as it is long, so that lengths stay what they were. Bytes are looked at as they came: a
// model that sends its credential in pieces of several events, or encoded, can still tell it to a caller. Who runs
// such a model has the credential anyway.

// A credential can be another one from one look to the next, while calls are under way that showed a model the one before.

// forms are the ways in which a credential is looked for: as it is, first, and as JSON writes it where that is another.
type forms [][]byte

// forms are those of the credential of now, nil for none. They are made anew where it is another than at the last look.
func (r *Route) forms() forms {
	if r.Credential == nil {
		return nil
	}
	secret := r.Credential.Reveal()
	if f := r.looked.Load(); f != nil && bytes.Equal((*f)[0], secret) {
		return *f
	}
	f := append(forms{bytes.Clone(secret)}, escapedForms(secret)...)
	r.looked.Store(&f)
	return f
}

// forms are those of what the call showed the model, and of what it would show it now.
func (c *call) forms() forms {
	now := c.route.forms()
	if c.showed == nil || now != nil && bytes.Equal(c.showed[0], now[0]) {
		return now
	}
	return slices.Concat(c.showed, now)
}

// CheckCredential says what is wrong with a credential, by which whoever fetches one anew can tell before it is used.
func CheckCredential(secret []byte) error {
	if len(secret) < 8 || bytes.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return errors.New("gateway: the credential is shorter than 8 characters or has characters that a header cannot carry")
	}
	return nil
}

// escapedForms returns how JSON may write a credential, without the ways that are the credential itself.
func escapedForms(secret []byte) [][]byte {
	var out [][]byte
	add := func(b []byte) {
		if !bytes.Equal(b, secret) && !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, b) }) {
			out = append(out, b)
		}
	}
	for _, html := range []bool{false, true} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(html)
		if enc.Encode(string(secret)) != nil {
			continue
		}
		inner := bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimSpace(b.Bytes()), []byte{'"'}), []byte{'"'})
		add(inner)
		add(bytes.ReplaceAll(inner, []byte("/"), []byte(`\/`)))
	}
	return out
}

// strike puts asterisks where the service credential stands in b, in place, and counts how often it did.
func (c *call) strike(b []byte) {
	for _, form := range c.forms() {
		for from := 0; ; c.struck++ {
			i := bytes.Index(b[from:], form)
			if i < 0 {
				break
			}
			from += i + len(form)
			stars(b[from-len(form) : from])
		}
	}
}

func stars(b []byte) {
	for i := range b {
		b[i] = '*'
	}
}

// begun returns how many of the last bytes of b could be the beginning of the credential.
func (c *call) begun(b []byte) int {
	most := 0
	for _, form := range c.forms() {
		for k := min(len(form)-1, len(b)); k > most; k-- {
			if bytes.HasSuffix(b, form[:k]) {
				most = k
			}
		}
	}
	return most
}

// telling returns how much of the credential's beginning says something of the rest. Less is what all of a provider's
// have in common, and what every other word begins with.
func (r *Route) telling() int { return min(max(len(r.Credential.Reveal())/4, 1), 8) }

// strikeEnd strikes the beginning of a credential out of the end of an answer that was cut there, and of which before
// has been passed on.
func (c *call) strikeEnd(before, b []byte) {
	if c.route.Credential == nil {
		return
	}
	if k := c.begun(slices.Concat(before, b)); k >= c.route.telling() && len(b) > 0 {
		stars(b[max(0, len(b)-k):])
		c.struck++
	}
}

// strikeHead does the same for a model's head, names included, and takes out what the head itself says is for this
// connection only.
func (c *call) strikeHead(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); !strings.EqualFold(name, "Connection") {
				h.Del(name)
			}
		}
	}
	for _, form := range c.forms() {
		secret := string(form)
		lower := strings.ToLower(secret)
		for name, values := range h {
			if strings.Contains(strings.ToLower(name), lower) {
				delete(h, name)
				c.struck++
				continue
			}
			for i, v := range values {
				if n := strings.Count(v, secret); n > 0 {
					values[i] = strings.ReplaceAll(v, secret, strings.Repeat("*", len(secret)))
					c.struck += n
				}
			}
		}
	}
}

// maxWhy is the longest text of an error, in bytes, that goes on record.
const maxWhy = 1 << 10

// safe is the text of an error without the service credential.
func (c *call) safe(err error) string {
	if err == nil {
		return ""
	}
	b := []byte(err.Error())
	if c.route != nil {
		c.strike(b)
	}
	if len(b) > maxWhy {
		b = append(b[:maxWhy:maxWhy], "…"...)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
