package replay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// MockHeader names, in every answer of a mock, the session whose answer it is, or says "none".
const MockHeader = "Tallystick-Mock"

// MockConfig says how a mock answers. The zero value serves what was asked exactly so, with its own timing, to this machine.
type MockConfig struct {
	// Speed is how many times faster than recorded answers come; 0 is 1.
	Speed float64
	// NoDelay sends answers at once.
	NoDelay bool
	// Match is the loosest way in which a request may be matched to a session.
	Match Match
	// Once serves each session once. When all were, every request gets an error, and Done is closed.
	Once bool
	// AnyHost answers requests that name another host than this machine. Without it a page in somebody's browser, whose name leads
	// here, is told nothing.
	AnyHost bool
	// Served, if it is set, is told of every answer when it has ended. It may be called by several goroutines at once.
	Served func(Served)
}

// A Served is what became of one request to a mock.
type Served struct {
	Method, Path string    // as they were asked; they may hold anything
	Session      record.ID // whose answer it got; zero where it got none
	By           Match     // how that was found
	Status       int       // 0 where the connection was cut without a head
	Cut          bool      // the answer was cut, as the recorded one was
	Left         bool      // the client left before the end
	// Late is, for each event, how long after its time it was sent. The time is counted from when the request was there.
	Late []time.Duration
}

// A Mock is recorded answers in a model's place: it answers a request as that request, or one like it, was answered when it was
// recorded, with the same status, the same bytes and the same times between them. What is always true of it:
//
//   - it asks no model and runs no tool: what it says was said before;
//   - what was masked is served masked, what was erased is not served;
//   - an answer that broke off breaks off, by a connection that is cut, where the caller's did;
//   - an event is due at a time counted from the request, so that a late one makes no other late;
//   - the header Tallystick-Mock of every answer says whose it is.
//
// It is an http.Handler, safe for concurrent use.
type Mock struct {
	c    MockConfig
	all  []*played
	done chan struct{}

	mu   sync.Mutex // guards the times each was served
	left int        // under mu: how many have not been served yet
}

// A played is one recorded session, ready to be served.
type played struct {
	Playing
	t      *transcript.Transcript
	asked  question
	head   []transcript.Header
	body   []byte
	frames []frame
	begin  time.Duration // when the head is due, after the request
	end    time.Duration // when the last byte is

	served int // under the mock's mu
}

// A frame is a piece of a body and when it is due, after the request.
type frame struct {
	at time.Duration
	b  []byte
}

// A Playing is what a mock serves of one session, for whoever is to know.
type Playing struct {
	Session  record.ID
	Method   string
	Target   string
	Model    string // "" for none
	Status   int    // 0 where the caller got no head
	Streamed bool
	Cut      bool          // it breaks off
	Refused  string        // the gateway's word for why it was turned away; "" where it was not
	Masked   bool          // values in the request or the answer are masked
	Events   int           // pieces in which it comes
	Duration time.Duration // how long it takes as it was recorded
}

// maxMock is how many sessions one mock serves at most.
const maxMock = 10_000

// NewMock returns a mock that serves the answers of sessions, in the order in which they are given where one of several must be
// chosen. A session that has no answer to serve, because it has not ended or was erased, is an error.
func NewMock(c MockConfig, sessions ...verify.Session) (*Mock, error) {
	switch {
	case len(sessions) == 0:
		return nil, errors.New("replay: a mock of no sessions has nothing to say")
	case len(sessions) > maxMock:
		return nil, fmt.Errorf("replay: %d sessions are more than the %d that one mock serves", len(sessions), maxMock)
	case c.Speed < 0 || c.Speed != c.Speed:
		return nil, errors.New("replay: the speed of a mock is above 0")
	}
	c.Speed = cmp.Or(c.Speed, 1)
	m := &Mock{c: c, done: make(chan struct{}), left: len(sessions)}
	for _, s := range sessions {
		p, err := play(transcript.Of(s))
		if err != nil {
			return nil, fmt.Errorf("session %s: %w", s.ID, err)
		}
		m.all = append(m.all, p)
	}
	return m, nil
}

// Playing says what the mock serves, in its order.
func (m *Mock) Playing() []Playing {
	all := make([]Playing, len(m.all))
	for i, p := range m.all {
		all[i] = p.Playing
	}
	return all
}

// Done is closed when each session was served once, where that is all that is to be.
func (m *Mock) Done() <-chan struct{} { return m.done }

// ErrNoAnswer says that a session has no answer that could be served: leave it out.
var ErrNoAnswer = errors.New("replay: there is no answer to serve")

// Servable says whether a session has an answer that a mock can serve: nil, or why not, which is an ErrNoAnswer.
func Servable(s verify.Session) error {
	_, err := play(transcript.Of(s))
	return err
}

// play makes a session ready.
func play(t *transcript.Transcript) (*played, error) {
	a := &t.Answer
	switch {
	case t.Open:
		return nil, fmt.Errorf("%w: the session has not ended", ErrNoAnswer)
	case t.Erased:
		return nil, fmt.Errorf("%w: it was erased", ErrNoAnswer)
	case !shownWhole(t, record.Request, record.Response, record.Refused):
		return nil, fmt.Errorf("%w: not all of its request and its answer is shown", ErrNoAnswer)
	case t.Request.Method == "" || t.Request.Target == "":
		return nil, fmt.Errorf("%w: it has no request", ErrNoAnswer)
	case a.Status == 0 && t.Outcome != record.Interrupted || a.Status != 0 && (a.Status < 200 || a.Status > 599):
		return nil, fmt.Errorf("%w: its status is %d", ErrNoAnswer, a.Status)
	}
	p := &played{t: t, asked: questionOf(t)}
	p.Playing = Playing{
		Session: t.Session, Method: t.Request.Method, Target: t.Request.Target, Model: t.Model, Status: a.Status, Streamed: a.Stream,
		Refused: t.Refused, Cut: broken(t), Masked: masked(t),
	}
	base := t.Times.Sent
	if base.IsZero() {
		base = t.Times.Received // nothing was sent to the model: what took its time was the gateway, or people
	}
	p.begin = since(base, t.Times.First)
	p.end = max(p.begin, since(base, t.Times.Ended))
	p.head, p.body = given(t)
	p.frames = p.cutUp()
	for _, f := range p.frames {
		p.end = max(p.end, f.at)
	}
	if p.Events = len(p.frames); p.Events <= 1 && !p.Streamed {
		p.begin = p.end // the gateway gave head and body together, when it had all of it
	}
	p.Duration = p.end
	return p, nil
}

// shownWhole says whether all fields of a session's entries of these kinds are here.
func shownWhole(t *transcript.Transcript, kinds ...record.Kind) bool {
	return !slices.ContainsFunc(t.Entries, func(e transcript.Entry) bool { return slices.Contains(kinds, e.Kind) && e.Shown < e.Fields })
}

// since is how long after base something was, or 0 where that is not on record.
func since(base, t time.Time) time.Duration {
	if base.IsZero() || t.Before(base) {
		return 0
	}
	return t.Sub(base)
}

// broken says whether what the caller got broke off: the model's answer had begun, and then something went wrong.
func broken(t *transcript.Transcript) bool {
	return t.Outcome == record.Interrupted || t.Answer.Error != "" && len(t.Answer.Headers) > 0
}

// masked says whether there are masks where there was something else.
func masked(t *transcript.Transcript) bool {
	return len(t.Findings) > 0 || slices.ContainsFunc(t.Events, func(e transcript.Event) bool { return e.Masked }) ||
		hasMask(string(t.Request.Body)) || hasMask(string(t.Answer.Body))
}

// cutUp divides an answer into what is sent at a time.
func (p *played) cutUp() []frame {
	var frames []frame
	whole := func(events []transcript.Event) bool {
		n := 0
		for _, e := range events {
			n += len(e.Raw)
		}
		return n == len(p.body)
	}
	if len(p.t.Events) == 0 || !whole(p.t.Events) {
		if len(p.body) > 0 {
			frames = []frame{{p.end, p.body}}
		}
		return frames
	}
	for _, e := range p.t.Events {
		// The end of an answer that broke off was withheld, if it had come at all.
		if p.Cut && p.t.Answer.Finish != "" && (e.Type == p.t.Answer.Finish || p.t.Answer.Finish == "error" && e.Problem != "") {
			break
		}
		frames = append(frames, frame{p.begin + max(0, e.At), e.Raw})
	}
	return frames
}

// ServeHTTP answers one request. The order: it is read whole, a session is found for it, and then the clock that began when it was
// there says when what is due.
func (m *Mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	served := Served{Method: r.Method, Path: r.URL.Path}
	if m.c.Served != nil {
		defer func() { m.c.Served(served) }() // of a connection that is cut, too
	}
	w.Header().Set(MockHeader, "none")
	if !m.c.AnyHost && !isHere(r.Host) {
		served.Status = refuse(w, problem{http.StatusForbidden, "wrong_host", "this mock model answers to this machine's own names only, and the request names another host"})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAsked))
	start := time.Now()
	if err != nil {
		served.Status = refuse(w, problem{http.StatusRequestEntityTooLarge, "request_too_large", fmt.Sprintf("the request could not be read, or is over %d bytes", maxAsked)})
		return
	}
	q := ask(r, body)
	p, by, why := m.find(q)
	if p == nil {
		if list, ok := m.models(r); ok {
			served.Status = http.StatusOK
			write(w, http.StatusOK, list)
			return
		}
		served.Status = refuse(w, why)
		return
	}
	served.Session, served.By, served.Status, served.Cut = p.Session, by, p.Status, p.Cut
	m.give(w, r, p, start, &served)
}

// maxAsked is the largest request that is read, in bytes.
const maxAsked = 64 << 20

// isHere says whether a host, with or without a port, is this machine by a name that nobody else can give it.
func isHere(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// writeTime is how long one piece of an answer may take to be taken.
const writeTime = time.Minute

// give sends a session's answer. What is due at a time is sent at that time; what is overdue is sent at once, and what follows at its
// own.
func (m *Mock) give(w http.ResponseWriter, r *http.Request, p *played, start time.Time, served *Served) {
	h := w.Header()
	h.Set(MockHeader, p.Session.String())
	if p.Status == 0 {
		m.wait(r.Context(), start, p.end)
		panic(http.ErrAbortHandler)
	}
	for _, x := range p.head {
		if returned(x.Name) && !(hasMask(x.Value) && strings.EqualFold(x.Name, "content-encoding")) {
			h.Add(x.Name, x.Value)
		}
	}
	if h.Get("Content-Type") == "" {
		h["Content-Type"] = nil // or one would be guessed
	}
	length := len(p.body)
	if p.Cut {
		length = lengthIn(p.t.Answer.Headers)
	}
	if !p.Streamed && r.Method != http.MethodHead && length >= len(p.body) && !bodiless(p.Status) {
		h.Set("Content-Length", strconv.Itoa(length))
	}
	if !m.wait(r.Context(), start, p.begin) {
		served.Left = true
		return
	}
	out := http.NewResponseController(w)
	flush := func() bool {
		out.SetWriteDeadline(time.Now().Add(writeTime)) // of a writer that has none the error says nothing
		return out.Flush() == nil
	}
	w.WriteHeader(p.Status)
	if (len(p.frames) == 0 || p.frames[0].at > p.begin) && !flush() {
		served.Left = true
		return
	}
	for i, f := range p.frames {
		if !m.wait(r.Context(), start, f.at) {
			served.Left = true
			return
		}
		served.Late = append(served.Late, time.Since(start)-m.due(f.at))
		if _, err := w.Write(f.b); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			served.Left = true
			return
		}
		// What is due by now goes together.
		if due := i+1 < len(p.frames) && m.due(p.frames[i+1].at) <= time.Since(start); !due && !flush() {
			served.Left = true
			return
		}
	}
	if !m.wait(r.Context(), start, p.end) {
		served.Left = true
		return
	}
	if p.Cut {
		panic(http.ErrAbortHandler) // the connection is cut, and the client sees that more was due
	}
}

// due is when, after the request, something happens that happened at a time when it was recorded.
func (m *Mock) due(at time.Duration) time.Duration {
	if m.c.NoDelay {
		return 0
	}
	return time.Duration(min(float64(at)/m.c.Speed, 1<<62))
}

// wait waits until something is due, and reports whether the client is still there.
func (m *Mock) wait(ctx context.Context, start time.Time, at time.Duration) bool {
	d := m.due(at) - time.Since(start)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// bodiless says whether an answer with a status has no body and so no length.
func bodiless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

// lengthIn returns the length that a head states; -1 for none.
func lengthIn(head []transcript.Header) int {
	for _, h := range head {
		if strings.EqualFold(h.Name, "content-length") {
			if n, err := strconv.Atoi(h.Value); err == nil && n >= 0 {
				return n
			}
		}
	}
	return -1
}

// returnedHeaders are the headers of an answer that mean something to whoever called a model; a name that ends in '-' stands for all
// that begin so. They are what a gateway passes on by itself. What else a record has was between it and the model: framing, cookies,
// dates.
var returnedHeaders = []string{
	"content-type", "content-encoding", "content-language", "content-disposition", "content-range", "accept-ranges",
	"cache-control", "etag", "last-modified", "expires", "vary", "link", "location", "allow", "deprecation", "sunset", "warning",
	"retry-after", "retry-after-ms", "x-should-retry", "www-authenticate", "x-request-id", "request-id", "openai-", "anthropic-", "x-ratelimit-", "ratelimit",
}

func returned(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(returnedHeaders, func(w string) bool {
		return name == w || strings.HasSuffix(w, "-") && strings.HasPrefix(name, w)
	})
}

// A problem is an error of the mock's own, or of the gateway that it stands in for.
type problem struct {
	status  int
	code    string
	message string
}

// body is an error in the one shape that the SDKs of both families turn into a typed error, which is the gateway's too. Without an id
// it leaves that out.
func (p problem) body(id string) []byte {
	type inner struct {
		Type    string  `json:"type"`
		Message string  `json:"message"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	b, err := json.Marshal(struct {
		Type      string `json:"type"`
		Error     inner  `json:"error"`
		RequestID string `json:"request_id,omitempty"`
	}{"error", inner{errorType(p.status), p.message, nil, p.code}, id})
	if err != nil {
		return nil
	}
	return b
}

// errorType is the word that the SDKs of both families know for a status.
func errorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

// given is the head and the body that the caller was given. Where that was the gateway's own answer, the head is not on record, and of
// a call that it turned away nor is the body; but the status, the code and the words are, and from these it makes both.
func given(t *transcript.Transcript) ([]transcript.Header, []byte) {
	a := &t.Answer
	if a.Status == 0 || len(a.Headers) > 0 {
		return a.Headers, a.Body
	}
	if t.Refused == "" {
		return ownHead(a.Status, t.Session), a.Body
	}
	return ownHead(a.Status, t.Session), problem{a.Status, t.Refused, a.Error}.body(t.Session.String())
}

// ownHead is the head of a gateway's own answers. How long it told a caller to wait is not on record: where it always tells one to, a
// second stands for it, and of a quota nothing is said.
func ownHead(status int, id record.ID) []transcript.Header {
	head := []transcript.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "X-Request-Id", Value: id.String()}, {Name: "Request-Id", Value: id.String()}}
	switch {
	case status == http.StatusUnauthorized:
		head = append(head, transcript.Header{Name: "WWW-Authenticate", Value: "Bearer"})
		fallthrough
	case status < 500 && status != http.StatusConflict:
		head = append(head, transcript.Header{Name: "X-Should-Retry", Value: "false"})
	case status == http.StatusConflict: // people have not decided yet
		head = append(head, transcript.Header{Name: "X-Should-Retry", Value: "true"}, transcript.Header{Name: "Retry-After", Value: "1"})
	case status == http.StatusServiceUnavailable:
		head = append(head, transcript.Header{Name: "Retry-After", Value: "1"})
	}
	return head
}

// refuse answers with an error, which no client is to try again about: it would get the same.
func refuse(w http.ResponseWriter, p problem) int {
	w.Header().Set("X-Should-Retry", "false")
	write(w, p.status, p.body(""))
	return p.status
}

func write(w http.ResponseWriter, status int, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}

// models lists the models of all sessions, or tells of one, in the shape of the family that asks: Anthropic's clients say which
// version they speak.
func (m *Mock) models(r *http.Request) ([]byte, bool) {
	i := strings.LastIndex(r.URL.Path, "/models")
	if r.Method != http.MethodGet || i < 0 {
		return nil, false
	}
	rest := r.URL.Path[i+len("/models"):]
	one, single := strings.CutPrefix(rest, "/")
	if rest != "" && !single {
		return nil, false
	}
	first := make(map[string]time.Time)
	for _, p := range m.all {
		at := p.Session.Time()
		if was, known := first[p.Model]; p.Model != "" && (!known || at.Before(was)) {
			first[p.Model] = at
		}
	}
	names := slices.Sorted(maps.Keys(first))
	anthropic := r.Header.Get("Anthropic-Version") != ""
	items := make([]any, len(names))
	for i, name := range names {
		if anthropic {
			items[i] = struct {
				Type    string    `json:"type"`
				ID      string    `json:"id"`
				Name    string    `json:"display_name"`
				Created time.Time `json:"created_at"`
			}{"model", name, name, first[name].UTC().Truncate(time.Second)}
		} else {
			items[i] = struct {
				ID      string `json:"id"`
				Object  string `json:"object"`
				Created int64  `json:"created"`
				OwnedBy string `json:"owned_by"`
			}{name, "model", first[name].Unix(), "tallystick-mock"}
		}
	}
	var said any
	switch at := slices.Index(names, one); {
	case single && at < 0:
		return nil, false
	case single:
		said = items[at]
	case anthropic:
		page := struct {
			Data  []any   `json:"data"`
			More  bool    `json:"has_more"`
			First *string `json:"first_id"` // null where the list is empty
			Last  *string `json:"last_id"`
		}{Data: items}
		if len(names) > 0 {
			page.First, page.Last = &names[0], &names[len(names)-1]
		}
		said = page
	default:
		said = struct {
			Object string `json:"object"`
			Data   []any  `json:"data"`
		}{"list", items}
	}
	b, err := json.Marshal(said)
	return b, err == nil
}
