package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A Target is where a recorded request is sent again: a sandbox.
type Target struct {
	// URL is the base URL, as an SDK takes it: with /v1 at its end or without. It has no user, query or fragment.
	URL *url.URL
	// Path is sent to in the place of the recorded one; "" for the recorded one, from its /v1/ on, if it has that: what a gateway has
	// before it to tell routes by, a model has not.
	Path string
	// Credential is shown as the API has it, in Authorization or X-Api-Key; "" for none. What callers showed is not on record.
	Credential string
	// Upstream allows the service that the recorded call went to.
	Upstream bool
	// Time and Bytes bound the answer; 0 for ten minutes and 64 MiB.
	Time  time.Duration
	Bytes int64
}

// ErrUpstream says that a target is the service that the recorded call went to: name a sandbox, or say that it is meant.
var ErrUpstream = errors.New("replay: that is the service itself, not a sandbox")

// ErrRequest says that a session has no request that could be sent again: choose another.
var ErrRequest = errors.New("replay: there is no request to send")

// Again sends a session's request once more, to a target, and returns the answer as a transcript reads those on record, with what is
// different about the request in its Notes. It follows no redirect, tries nothing twice, calls no tool, and writes nothing down:
// whoever calls it puts that on record first. client may be nil; of one that is given only the transport is used.
func Again(ctx context.Context, client *http.Client, s verify.Session, to Target) (*transcript.Transcript, error) {
	was := transcript.Of(s)
	req, notes, err := requestOf(was, to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(to.Time, 10*time.Minute))
	defer cancel()
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if client != nil {
		c.Transport = client.Transport
	}
	if c.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableKeepAlives = true
		t.MaxResponseHeaderBytes = 1 << 20
		c.Transport = t
	}
	sent := time.Now()
	resp, err := c.Do(req.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("replay: it was not answered: %w", err)
	}
	defer resp.Body.Close()
	first := time.Now()
	body, table, cut := read(resp, first, cmp.Or(to.Bytes, 64<<20))
	ended := time.Now()

	response := piece{kind: record.Response, outcome: record.Complete}
	add := func(name string, value []byte) { response.fields.Add(name, value) }
	add(record.FieldStatus, strconv.AppendInt(nil, int64(resp.StatusCode), 10))
	add(record.FieldHeaders, headPairs(resp.Header))
	if table != nil {
		add(record.FieldEvents, table)
	}
	add(record.FieldBody, body)
	add(record.FieldTimes, spellTimes(map[string]time.Time{"received": sent, "sent": sent, "first": first, "ended": ended}))
	request := piece{kind: record.Request, fields: requestFields(s)}
	id := record.NewID(sent)
	t := transcript.Of(unrecorded(id, ended, request, response))
	if cut == nil && !endedWell(t) {
		cut = errors.New("the stream stopped before its protocol's end")
	}
	if cut != nil {
		response.outcome = record.Truncated
		add(record.FieldError, []byte(cut.Error()))
		t = transcript.Of(unrecorded(id, ended, request, response))
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		notes = append(notes, "the answer leads elsewhere, and was not followed")
	}
	t.Session, t.Entries = record.ID{}, nil // it is in no log
	t.Notes = append(t.Notes, notes...)
	return t, nil
}

// requestOf makes the request to send, and says what is different about it.
func requestOf(t *transcript.Transcript, to Target) (*http.Request, []string, error) {
	r := &t.Request
	u := to.URL
	switch {
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, nil, errors.New("replay: a target is a base URL such as http://127.0.0.1:8000/v1, without user, query or fragment")
	case t.Erased || r.Method == "" || r.Target == "" || !shownWhole(t, record.Request, record.Refused):
		return nil, nil, fmt.Errorf("%w: it was erased, or not all of it is shown", ErrRequest)
	case strings.HasPrefix(string(r.Body), leftOut):
		return nil, nil, fmt.Errorf("%w: its body is not on record", ErrRequest)
	case !to.Upstream && sameService(u, t.Upstream):
		return nil, nil, fmt.Errorf("%w: the recorded call went to %s", ErrUpstream, t.Upstream)
	}
	var notes []string
	path, query, _ := strings.Cut(r.Target, "?")
	if i := strings.LastIndex(path, "/v1/"); i >= 0 {
		path = path[i:]
	}
	path = cmp.Or(to.Path, path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // what a caller made up is not to go on with the host's name, or be one
	}
	base := strings.TrimSuffix(u.EscapedPath(), "/")
	if strings.HasPrefix(path, "/v1/") {
		base = strings.TrimSuffix(base, "/v1")
	}
	raw := u.Scheme + "://" + u.Host + base + path
	if query != "" {
		raw += "?" + query
	}
	req, err := http.NewRequest(r.Method, raw, bytes.NewReader(r.Body))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	for _, h := range r.Headers {
		switch name := strings.ToLower(h.Name); {
		case !slices.ContainsFunc(repeated, func(w string) bool { return name == w || strings.HasSuffix(w, "-") && strings.HasPrefix(name, w) }):
		case hasMask(h.Value) || strings.HasSuffix(name, "-key") || strings.HasSuffix(name, "-token"):
			notes = append(notes, "a header is not sent, because its value is masked or may be a credential: "+h.Name)
		default:
			req.Header.Add(h.Name, h.Value)
		}
	}
	req.Header.Set("User-Agent", "tallystick-replay")
	req.Header.Set("Accept-Encoding", "identity")
	if to.Credential != "" {
		if t.Shape == transcript.Messages || req.Header.Get("Anthropic-Version") != "" {
			req.Header.Set("X-Api-Key", to.Credential)
		} else {
			req.Header.Set("Authorization", "Bearer "+to.Credential)
		}
	}
	if hasMask(string(r.Body)) || hasMask(r.Target) {
		notes = append(notes, "the recorded request is masked, and was sent as it is recorded: it is not the request that was sent then")
	}
	return req, notes, nil
}

// leftOut begins what a gateway writes down in the place of a body that it could not mask.
const leftOut = "(left out:"

// repeated are the headers of a request that are sent again; a name that ends in '-' stands for all that begin so. What names a call,
// such as an idempotency key or a trace, is not among them: this is another call.
var repeated = []string{"accept", "accept-language", "content-type", "content-encoding", "openai-", "anthropic-"}

// sameService says whether a URL leads to the host that a recorded call went to.
func sameService(u *url.URL, upstream string) bool {
	was, err := url.Parse(upstream)
	return err == nil && was.Host != "" && strings.EqualFold(hostOf(u), hostOf(was)) && portOf(u) == portOf(was)
}

// hostOf is a host's name; the dot that one may end with says that it is whole.
func hostOf(u *url.URL) string { return strings.TrimSuffix(u.Hostname(), ".") }

func portOf(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// requestFields are the fields of a session's request, as they are shown.
func requestFields(s verify.Session) record.Record {
	var r record.Record
	for _, e := range s.Entries {
		entry, err := record.ParseEntry(e.Bytes)
		if err != nil || entry.Kind != record.Request && entry.Kind != record.Refused {
			continue
		}
		for _, f := range e.Fields {
			if f.Shown != nil && slices.Contains([]string{
				record.FieldRoute, record.FieldModel, record.FieldMethod, record.FieldTarget, record.FieldHeaders, record.FieldBody, record.FieldFindings,
			}, f.Shown.Name) {
				r = append(r, *f.Shown)
			}
		}
		return r
	}
	return r
}

// headPairs spells an answer's head as a record has it.
func headPairs(h http.Header) []byte {
	list := [][2]string{}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			list = append(list, [2]string{name, v})
		}
	}
	return pairs(list)
}

// endedWell says whether a stream of a known protocol came to its protocol's end.
func endedWell(t *transcript.Transcript) bool {
	if !t.Answer.Stream || t.Answer.Status >= 300 {
		return true
	}
	var ends []string
	switch t.Shape {
	case transcript.Chat, transcript.Completions:
		ends = []string{"[DONE]"}
	case transcript.Messages:
		ends = []string{"message_stop"}
	case transcript.Responses:
		ends = []string{"response.completed", "response.incomplete", "response.failed"}
	default:
		return true
	}
	return slices.ContainsFunc(t.Events, func(e transcript.Event) bool { return slices.Contains(ends, e.Type) || e.Problem != "" })
}

// errTooMuch says that an answer is over its limit.
var errTooMuch = errors.New("the answer is over the limit")

// read reads an answer, and of a stream of events when each was there, as a record has it. cut says why the answer ended before its
// end.
func read(resp *http.Response, first time.Time, most int64) (body, table []byte, cut error) {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	stream := kind == "text/event-stream"
	buf := make([]byte, 16<<10)
	last, from := first, 0
	var events splitter
	if stream {
		table = []byte{'['}
	}
	add := func(to int, now time.Time) {
		gap := now.Sub(last).Truncate(time.Microsecond)
		table = record.AppendEvent(table, record.Event{Bytes: to - from, After: gap})
		from, last = to, last.Add(gap)
	}
	for {
		n, err := resp.Body.Read(buf)
		now := time.Now()
		body = append(body, buf[:n]...)
		if int64(len(body)) > most {
			err, body = errTooMuch, body[:most]
		}
		for stream {
			end := events.next(body)
			if end == 0 {
				break
			}
			add(end, now)
		}
		if err == nil {
			continue
		}
		if stream {
			if from < len(body) {
				add(len(body), now)
			}
			table = append(table, ']')
		}
		if err == io.EOF {
			err = nil
		}
		return body, table, plainly(err)
	}
}

// plainly is why an answer broke off, without the addresses that a net error has.
func plainly(err error) error {
	var ne net.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return errors.New("the answer took too long")
	case errors.Is(err, errTooMuch):
		return err
	}
	return errors.New("the connection was cut before the answer's end")
}

// A splitter finds the ends of a stream's events as the stream comes. What it has looked at once it does not look at again.
type splitter struct {
	line int // where the line begins that is looked at
	seen int // up to here there is no end of that line
}

// next returns the end of the next event of b, the blank line included, which is the beginning of the one after; 0 while that has not
// come.
func (s *splitter) next(b []byte) int {
	for {
		i := bytes.IndexAny(b[s.seen:], "\r\n")
		if i < 0 {
			s.seen = len(b)
			return 0
		}
		end := s.seen + i + 1
		if b[end-1] == '\r' {
			if end == len(b) {
				s.seen = end - 1 // an LF may follow, which belongs to it
				return 0
			}
			if b[end] == '\n' {
				end++
			}
		}
		blank := s.seen+i == s.line
		s.line, s.seen = end, end
		if blank {
			return end
		}
	}
}
