package export

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// What follows is HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/). Members whose names begin with _ are ours, as the
// specification has it.
type (
	harLog struct {
		Version string     `json:"version"`
		Creator harCreator `json:"creator"`
		Entries []harEntry `json:"entries"`
		Comment string     `json:"comment"`
	}
	harCreator struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	harEntry struct {
		Started  string      `json:"startedDateTime"`
		Time     float64     `json:"time"`
		Request  harRequest  `json:"request"`
		Response harResponse `json:"response"`
		Cache    struct{}    `json:"cache"`
		Timings  harTimings  `json:"timings"`
		Comment  string      `json:"comment,omitempty"`
		Kind     string      `json:"_resourceType"` // what Chromium's DevTools file it under
		SSE      bool        `json:"_sse,omitempty"`
		Events   []harEvent  `json:"_events,omitempty"`
		Of       harOf       `json:"_tallystick"`
	}
	harPair struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	harRequest struct {
		Method      string    `json:"method"`
		URL         string    `json:"url"`
		HTTPVersion string    `json:"httpVersion"`
		Cookies     []harPair `json:"cookies"`
		Headers     []harPair `json:"headers"`
		QueryString []harPair `json:"queryString"`
		PostData    *harPost  `json:"postData,omitempty"`
		HeadersSize int       `json:"headersSize"`
		BodySize    int       `json:"bodySize"`
	}
	harPost struct {
		MimeType string `json:"mimeType"`
		Text     string `json:"text"`
		Encoding string `json:"_encoding,omitempty"` // base64 where the body is not text, for which HAR has no way
	}
	harResponse struct {
		Status      int        `json:"status"`
		StatusText  string     `json:"statusText"`
		HTTPVersion string     `json:"httpVersion"`
		Cookies     []harPair  `json:"cookies"`
		Headers     []harPair  `json:"headers"`
		Content     harContent `json:"content"`
		RedirectURL string     `json:"redirectURL"`
		HeadersSize int        `json:"headersSize"`
		BodySize    int        `json:"bodySize"`
		Error       string     `json:"_error,omitempty"`
	}
	harContent struct {
		Size     int    `json:"size"`
		MimeType string `json:"mimeType"`
		Text     string `json:"text,omitempty"`
		Encoding string `json:"encoding,omitempty"`
	}
	harTimings struct {
		Blocked float64 `json:"blocked"`
		DNS     float64 `json:"dns"`
		Connect float64 `json:"connect"`
		Send    float64 `json:"send"`
		Wait    float64 `json:"wait"`
		Receive float64 `json:"receive"`
		SSL     float64 `json:"ssl"`
	}
	harEvent struct {
		Time     float64 `json:"time"` // milliseconds after startedDateTime; -1 where that is not on record
		Type     string  `json:"type"`
		Data     string  `json:"data"` // the bytes as they came
		Encoding string  `json:"encoding,omitempty"`
		Masked   bool    `json:"masked,omitempty"`
	}
	harOf struct {
		Session    string         `json:"session"`
		Caller     string         `json:"caller,omitempty"`
		Route      string         `json:"route,omitempty"`
		Target     string         `json:"target,omitempty"`
		Outcome    string         `json:"outcome"`
		Refused    string         `json:"refused,omitempty"`
		Verdict    string         `json:"verdict,omitempty"`
		Rule       string         `json:"rule,omitempty"`
		Erased     bool           `json:"erased,omitempty"`
		Origin     string         `json:"origin"`
		Checkpoint harCheckpoint  `json:"checkpoint"`
		Leaf       tlog.Hash      `json:"leaf"` // of the entry that ends the session
		Entries    []harStatement `json:"entries"`
		Notes      []string       `json:"notes,omitempty"`
	}
	harCheckpoint struct {
		Size uint64    `json:"size"`
		Root tlog.Hash `json:"root"`
	}
	harStatement struct {
		Index uint64      `json:"index"`
		Kind  record.Kind `json:"kind"`
		Leaf  tlog.Hash   `json:"leaf"`
	}
)

func (c *cargo) har() ([]byte, error) {
	name, version := c.software()
	l := harLog{
		Version: "1.2", Creator: harCreator{name, version},
		Comment: "Made of records of the log " + c.origin + ". It proves nothing: the bundle of the same sessions does. Credentials are not on record, and values may be masked.",
	}
	for i := range c.sessions {
		l.Entries = append(l.Entries, c.harEntry(&c.sessions[i]))
	}
	b, err := json.MarshalIndent(struct {
		Log harLog `json:"log"`
	}{l}, "", "  ")
	return append(b, '\n'), err
}

func (c *cargo) harEntry(s *session) harEntry {
	e := harEntry{
		Started: s.began().UTC().Format("2006-01-02T15:04:05.000000Z"), Kind: "fetch",
		Request: harRequest{
			Method: s.Request.Method, URL: s.url(), HTTPVersion: "HTTP/1.1", Cookies: []harPair{}, Headers: pairs(s.Request.Headers),
			QueryString: query(s.Request.Target), HeadersSize: -1, BodySize: len(s.Request.Body),
		},
		Response: harResponse{
			Status: s.Answer.Status, StatusText: http.StatusText(s.Answer.Status), HTTPVersion: "HTTP/1.1", Cookies: []harPair{}, Headers: pairs(s.Answer.Headers),
			RedirectURL: transcript.HeaderOf(s.Answer.Headers, "Location"), HeadersSize: -1, BodySize: len(s.Answer.Body), Error: s.Answer.Error,
		},
		SSE: s.Answer.Stream, Timings: s.harTimings(),
		Of: harOf{
			Session: s.ID.String(), Caller: s.Caller.Name, Route: s.Route, Target: s.Request.Target, Outcome: s.end(), Refused: s.Refused, Verdict: s.Verdict, Rule: s.Rule,
			Erased: s.Erased, Origin: c.origin, Checkpoint: harCheckpoint{c.tree.Size, c.tree.Root}, Notes: s.Notes,
		},
	}
	if s.Erased {
		e.Comment = "a record of this session was erased: what is empty here may not have been"
	}
	e.Time = e.Timings.Blocked + e.Timings.Send + e.Timings.Wait + e.Timings.Receive
	if len(s.Request.Body) > 0 {
		p := &harPost{MimeType: transcript.HeaderOf(s.Request.Headers, "Content-Type")}
		p.Text, p.Encoding = asText(s.Request.Body)
		e.Request.PostData = p
	}
	e.Response.Content = harContent{Size: len(s.Answer.Body), MimeType: mediaType(transcript.HeaderOf(s.Answer.Headers, "Content-Type"))}
	e.Response.Content.Text, e.Response.Content.Encoding = asText(s.Answer.Body)
	for _, ev := range s.Events {
		at := -1.0
		if ev.At >= 0 && s.Times.FirstByte() >= 0 {
			at = millis(s.Times.FirstByte() + ev.At)
		}
		h := harEvent{Time: at, Type: ev.Type, Masked: ev.Masked}
		h.Data, h.Encoding = asText(ev.Raw)
		e.Events = append(e.Events, h)
	}
	for i, st := range s.Transcript.Entries {
		leaf := s.leaf(i)
		e.Of.Entries = append(e.Of.Entries, harStatement{st.Index, st.Kind, leaf})
		if st.Kind == record.Response || st.Kind == record.Refused || e.Of.Leaf == (tlog.Hash{}) {
			e.Of.Leaf = leaf
		}
	}
	return e
}

// harTimings divides the time of a call: blocked until it was sent, while it was judged, recorded, and people were asked; then waiting
// for the model; then receiving. Of one that was never sent all of it is blocked. They add up to the entry's time.
func (s *session) harTimings() harTimings {
	began, ended := s.began(), s.ended()
	sent, first := s.Times.Sent, s.Times.First
	if first.IsZero() || first.After(ended) {
		first = ended
	}
	if sent.IsZero() {
		if sent = first; !s.Times.First.IsZero() {
			sent = began // it was, and when is not on record
		}
	}
	between := func(a, b time.Time) float64 { return millis(max(b.Sub(a), 0)) }
	return harTimings{Blocked: between(began, sent), DNS: -1, Connect: -1, SSL: -1, Wait: between(sent, first), Receive: between(first, ended)}
}

// millis returns milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// asText returns bytes as they are, or in base64 where they are not text.
func asText(b []byte) (text, encoding string) {
	if isText(b) {
		return string(b), ""
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

func pairs(hs []transcript.Header) []harPair {
	out := []harPair{}
	for _, h := range hs {
		out = append(out, harPair(h))
	}
	return out
}

func mediaType(s string) string {
	if s == "" {
		return "x-unknown"
	}
	return s
}

// query returns the parameters of a target, decoded, in their order; what cannot be decoded stands as it is.
func query(target string) []harPair {
	out := []harPair{}
	_, q, _ := strings.Cut(target, "?")
	for q != "" {
		var p string
		p, q, _ = strings.Cut(q, "&")
		if p == "" {
			continue
		}
		name, value, _ := strings.Cut(p, "=")
		out = append(out, harPair{unescape(name), unescape(value)})
	}
	return out
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
