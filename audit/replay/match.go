package replay

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

// Match says in which way a request was matched to a session. The stricter ways are tried first. Where several sessions match in the
// same way, the one is served that was served least often, and of those the first in the mock's order.
type Match uint8

const (
	// ByRequest wants the same method, path, query and body. Of a path one may have more in front of it: what a gateway has
	// routes by, a model has not. JSON may be spelt in any way, and a mask in the recorded request stands for whatever was there.
	ByRequest Match = iota
	// ByMessage wants the same method and path, the same model, the same last words of the user, a last message in the same role, and
	// a stream where one was asked for then. So a conversation goes on with what tools say now.
	ByMessage
	// InOrder wants the same method and path, and a stream where one was asked for then.
	InOrder
)

var matchNames = [...]string{"request", "message", "order"}

// String returns the match's word.
func (m Match) String() string {
	if int(m) >= len(matchNames) {
		return "?"
	}
	return matchNames[m]
}

// ParseMatch reads the word of a match.
func ParseMatch(s string) (Match, error) {
	for i, name := range matchNames {
		if s == name {
			return Match(i), nil
		}
	}
	return 0, fmt.Errorf("replay: %.40q is no way to match; there are %s", s, strings.Join(matchNames[:], ", "))
}

// A question is a request as far as it is matched.
type question struct {
	method, path, query string
	body                []byte // in one spelling, if it is JSON
	stream              bool
	model               string
	said                string // the user's last words
	role                string // of the last message; "" where there is none
}

// questionOf reads a recorded request.
func questionOf(t *transcript.Transcript) question {
	q := question{method: t.Request.Method, stream: t.Request.Stream, model: t.Model}
	q.path, q.query, _ = strings.Cut(t.Request.Target, "?")
	q.body = canonical(t.Request.Body)
	for _, m := range t.Messages {
		if q.role = m.Role; m.Role == "user" {
			q.said = words(m.Parts)
		}
	}
	return q
}

// words are those of a message, with what its tools are called with or said.
func words(parts []transcript.Part) string {
	var all []string
	for _, p := range parts {
		if p.Call != nil {
			all = append(all, p.Call.Name+"("+p.Call.Arguments+")")
		}
		all = append(all, p.Text)
	}
	return strings.Join(all, "\n")
}

// ask reads a request that has just come, as a recorded one is read.
func ask(r *http.Request, body []byte) question {
	var fields record.Record
	fields.Add(record.FieldMethod, []byte(r.Method))
	target := r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	fields.Add(record.FieldTarget, []byte(target))
	fields.Add(record.FieldHeaders, pairs([][2]string{{"Content-Type", r.Header.Get("Content-Type")}}))
	fields.Add(record.FieldBody, body)
	if v, err := decode(body); err == nil {
		if o, ok := v.(map[string]any); ok {
			if model, ok := o["model"].(string); ok {
				fields.Add(record.FieldModel, []byte(model))
			}
		}
	}
	now := time.Now()
	return questionOf(transcript.Of(unrecorded(record.NewID(now), now, piece{kind: record.Request, fields: fields})))
}

// is says whether a recorded request matches one that was asked.
func (q *question) is(asked *question, by Match) bool {
	if q.method != asked.method || !samePath(q.path, asked.path) {
		return false
	}
	switch by {
	case ByRequest:
		return fits(q.query, asked.query) && fits(string(q.body), string(asked.body))
	case ByMessage:
		return q.stream == asked.stream && q.role != "" && q.role == asked.role && fits(q.model, asked.model) && fits(q.said, asked.said)
	case InOrder:
		return q.stream == asked.stream
	}
	return false
}

// samePath says whether two paths are the same, or one is the other with more in front of it.
func samePath(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	return a == b || len(b) > 1 && b[0] == '/' && strings.HasSuffix(a, b)
}

// A mask stands where a value was, with or without something that is the same for the same value.
var maskPattern = regexp.MustCompile(`⟦[A-Z][A-Z0-9_]*(:[^⟦⟧"\\]{1,64})?⟧`)

func hasMask(s string) bool { return maskPattern.MatchString(s) }

// fits says whether a recorded text is another one, where each mask in it stands for up to maxMasked bytes without a quote.
func fits(recorded, asked string) bool {
	if recorded == asked {
		return true
	}
	at := maskPattern.FindAllStringIndex(recorded, -1)
	if at == nil {
		return false
	}
	var parts []string
	from := 0
	for _, m := range at {
		parts = append(parts, recorded[from:m[0]])
		from = m[1]
	}
	parts = append(parts, recorded[from:])
	rest, ok := strings.CutPrefix(asked, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if i < 0 || i > maxMasked || strings.Contains(rest[:i], `"`) {
			return false
		}
		rest = rest[i+len(p):]
	}
	gone, ok := strings.CutSuffix(rest, last)
	return ok && len(gone) <= maxMasked && !strings.Contains(gone, `"`)
}

// maxMasked is the longest value, in bytes, that a mask can stand for.
const maxMasked = 64 << 10

// find returns the session to serve a request with, and how it was found; or none, and why.
func (m *Mock) find(q question) (*played, Match, problem) {
	var ways [InOrder + 1][]*played
	for by := ByRequest; by <= min(m.c.Match, InOrder); by++ {
		for _, p := range m.all {
			if p.asked.is(&q, by) {
				ways[by] = append(ways[by], p)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.c.Once && m.left == 0 {
		return nil, 0, problem{http.StatusNotFound, "all_served", "this mock model serves each of its recorded sessions once, and has served them all"}
	}
	for by, found := range ways {
		var next *played
		for _, p := range found {
			if !(m.c.Once && p.served > 0) && (next == nil || p.served < next.served) {
				next = p
			}
		}
		if next == nil {
			continue
		}
		if next.served++; next.served == 1 {
			if m.left--; m.left == 0 && m.c.Once {
				close(m.done)
			}
		}
		return next, Match(by), problem{}
	}
	return nil, 0, problem{http.StatusNotFound, "no_recorded_session", m.nearest(&q)}
}

// nearest says in words which session came nearest to a request, and where they differ.
func (m *Mock) nearest(q *question) string {
	best, most := m.all[0], -1
	for _, p := range m.all {
		if n := p.asked.near(q); n > most {
			best, most = p, n
		}
	}
	say := fmt.Sprintf("no recorded session matches this request by %s; the nearest of %d is %s", m.c.Match, len(m.all), best.Session)
	r := &best.asked
	switch {
	case r.method != q.method || !samePath(r.path, q.path):
		return say + fmt.Sprintf(", of %s %s", r.method, short(r.path))
	case m.c.Once && best.served > 0:
		say += ", which has been served"
	}
	if r.stream != q.stream {
		return say + map[bool]string{true: ", which was streamed; this request asks for no stream", false: ", which was not streamed; this request asks for a stream"}[r.stream]
	}
	if m.c.Match == ByRequest && !fits(r.query, q.query) {
		return say + fmt.Sprintf("; the query differs: recorded %s, asked %s", short(r.query), short(q.query))
	}
	if m.c.Match == ByMessage && r.said != q.said {
		return say + fmt.Sprintf("; the user's last words were %s, and are %s", short(r.said), short(q.said))
	}
	a, aerr := decode(r.body)
	b, berr := decode(q.body)
	if aerr != nil || berr != nil {
		return say + "; the bodies differ"
	}
	for _, c := range diffJSON(a, b, 100, nil) {
		if !fits(c.A, c.B) {
			return say + fmt.Sprintf("; its body differs at %s: recorded %s, asked %s", short(c.Path), short(c.A), short(c.B))
		}
	}
	return say
}

// near says how near a recorded request comes to one: more is nearer.
func (q *question) near(asked *question) (n int) {
	if q.method == asked.method && samePath(q.path, asked.path) {
		n += 8000
	}
	if q.said != "" && q.said == asked.said {
		n += 4000
	}
	if q.stream == asked.stream {
		n += 2000
	}
	if q.model == asked.model {
		n += 1000
	}
	common := 0
	for common < min(len(q.body), len(asked.body)) && q.body[common] == asked.body[common] {
		common++
	}
	return n + 999*common/max(1, len(q.body), len(asked.body))
}

// short is a text as it stands in a message: in quotes, and not all of it.
func short(s string) string {
	const most = 80
	if s == "" {
		return "nothing"
	}
	if len(s) <= most {
		return strconv.Quote(s)
	}
	for s = s[:most]; !utf8.ValidString(s) && len(s) > most-utf8.UTFMax; {
		s = s[:len(s)-1]
	}
	return strconv.Quote(s) + "…"
}
