package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// memKeys keeps data keys in memory.
type memKeys struct {
	mu   sync.Mutex
	keys map[string][]byte
}

func (k *memKeys) New(context.Context) (string, []byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := make([]byte, record.KeyBytes)
	rand.Read(key)
	id := fmt.Sprintf("k%d", len(k.keys))
	k.keys[id] = key
	return id, bytes.Clone(key), nil
}

func (k *memKeys) Erase(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[id] = nil
	return nil
}

func (k *memKeys) Rewrap(context.Context) (string, error) { return "", nil }

func (k *memKeys) Open(_ context.Context, id string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[id]
	switch {
	case !ok:
		return nil, audit.ErrNotHere
	case key == nil:
		return nil, tlog.ErrNotFound
	}
	return bytes.Clone(key), nil
}

// A world is a console before a log with a desk, and people who come by a header.
type world struct {
	t       testing.TB
	log     *tlogtest.Log
	keys    *memKeys
	coder   *record.Coder
	pen     *record.Writer // the gateway's
	desk    *audit.Desk
	index   *fakeIndex
	waiting *fakeApprovals
	console *Console
	rules   audit.Retention
}

// stage lets in whoever the header Person names, in the roles of the header Roles.
type stage struct{}

func (stage) Who(req *http.Request) (Person, bool) {
	name := req.Header.Get("Person")
	if name == "" {
		return Person{}, false
	}
	var roles audit.Roles
	for _, r := range strings.FieldsFunc(req.Header.Get("Roles"), func(r rune) bool { return r == ',' || r == ' ' }) {
		one, err := audit.ParseRole(r)
		if err != nil {
			panic(err)
		}
		roles |= one
	}
	return Person{Name: name, Roles: roles, How: "a test", Session: "s-" + name}, true
}

func (stage) Way(back string) string { return "/login/?to=" + url.QueryEscape(back) }

func (stage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	io.WriteString(w, "the stage: "+req.URL.Path)
}

// A fakeIndex finds what it is told to.
type fakeIndex struct {
	mu    sync.Mutex
	hits  []audit.Hit
	asked []audit.Wanted
	count func() // called whenever it counts; nil for nothing
}

func (x *fakeIndex) Forget(context.Context, record.ID) error { return nil }

func (x *fakeIndex) Find(_ context.Context, want audit.Wanted, after string, most int) (audit.Page, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked = append(x.asked, want)
	p := audit.Page{Hits: append([]audit.Hit(nil), x.hits...)}
	if after == "" && len(p.Hits) > 0 {
		p.Next = "2"
	}
	return p, nil
}

func (x *fakeIndex) Snippet(verify.Session, audit.Wanted) (string, [][2]int) {
	return "a word here", [][2]int{{2, 6}}
}

func (x *fakeIndex) Rebuild(context.Context) error { return nil }

func (x *fakeIndex) Count(_ context.Context, from, to time.Time, spans int) (*audit.Stats, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.count != nil {
		x.count()
	}
	s := audit.NewStats(from, to, spans)
	for i := range x.hits {
		s.Add(&x.hits[i])
	}
	s.Sum()
	s.Indexed = math.MaxUint64 >> 1
	return s, nil
}

// fakeApprovals are calls that wait, and what was done with them.
type fakeApprovals struct {
	mu      sync.Mutex
	list    []Approval
	looked  []string
	decided []string
	changed chan struct{}
}

func (a *fakeApprovals) List(_ context.Context, who Person) ([]Approval, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []Approval
	for _, q := range a.list {
		q.Yours, q.Request = q.Caller == who.Name, nil
		all = append(all, q)
	}
	return all, nil
}

func (a *fakeApprovals) Look(_ context.Context, who Person, id record.ID) (Approval, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.list {
		if q.ID != id {
			continue
		}
		if q.Yours = q.Caller == who.Name; q.Yours {
			q.Request = nil
		} else {
			a.looked = append(a.looked, who.Name+" "+id.String())
		}
		return q, nil
	}
	return Approval{}, ErrGone
}

func (a *fakeApprovals) Decide(_ context.Context, who Person, id record.ID, decision, reason string) (Approval, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.list {
		if q := &a.list[i]; q.ID == id {
			if q.Caller == who.Name {
				return Approval{}, ErrNotYours
			}
			a.decided = append(a.decided, strings.Join([]string{who.Name, id.String(), decision, reason}, " "))
			q.State, q.Open = "granted", false
			return *q, nil
		}
	}
	return Approval{}, ErrGone
}

func (a *fakeApprovals) Changes(context.Context) <-chan struct{} { return a.changed }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, log: tlogtest.NewLog(t), keys: &memKeys{keys: make(map[string][]byte)}, index: &fakeIndex{}, waiting: &fakeApprovals{changed: make(chan struct{}, 1)}}
	var err error
	if w.coder, err = record.NewCoder(1); err != nil {
		t.Fatal(err)
	}
	w.pen = w.writer("gw")
	if w.desk, err = audit.NewDesk(w.log, w.keys, w.writer("desk")); err != nil {
		t.Fatal(err)
	}
	w.desk.Indexed(w.index)
	w.desk.Retention(func() audit.Retention { return w.rules })
	w.console, err = New(Config{
		Desk: w.desk, Log: w.log, Hosts: []string{"console.example"}, SignIn: stage{}, Approvals: w.waiting, Policy: w.log.Policy(),
		Health: func(context.Context) []Check {
			return []Check{{"Log", Well, "It takes entries.", time.Time{}}, {"Witnesses", Warning, "One of three did not answer.", time.Now().Add(-time.Minute)}}
		},
		Numbers:  func(context.Context) []Number { return []Number{{"Open sessions", 3, ""}} },
		Settings: func() []Setting { return []Setting{{"log.origin", "log.example/test", "the log's name"}} },
		Software: "tallystick/test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) writer(id string) *record.Writer {
	w.t.Helper()
	pen, err := record.NewWriter(record.WriterConfig{ID: id, Log: w.log, Software: "tallystick/test", Mode: "strict", Heartbeat: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pen.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return pen
}

// write seals a record and appends its entry.
func (w *world) write(e record.Entry, after *record.Ticket, namesAndValues ...string) *record.Ticket {
	w.t.Helper()
	var r record.Record
	for i := 0; i < len(namesAndValues); i += 2 {
		r.Add(namesAndValues[i], []byte(namesAndValues[i+1]))
	}
	id, key, err := w.keys.New(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	d, err := w.coder.Draft(e, r, key, id)
	if err != nil {
		w.t.Fatal(err)
	}
	d.After = after
	t, err := w.pen.Write(context.Background(), d)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// A call is what is recorded of one session.
type call struct {
	caller, model, agent, prompt, reply, reason string
	stream                                      bool
	words                                       bool // the stream has an event for each
	turns                                       int  // as many messages more
}

// session writes a whole session and returns its ID.
func (w *world) session(c call) record.ID {
	w.t.Helper()
	id := record.NewID(time.Now())
	quote := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	began := time.Now().UTC().Add(-1500 * time.Millisecond).Truncate(time.Microsecond)
	messages := []map[string]string{{"role": "system", "content": "Be brief."}, {"role": "user", "content": c.prompt}}
	for i := range c.turns {
		messages = append(messages, map[string]string{"role": "user", "content": fmt.Sprint("turn ", i)})
	}
	body := quote(map[string]any{"model": c.model, "stream": c.stream, "messages": messages})
	q := w.write(record.Entry{Kind: record.Request, Session: id}, nil,
		record.FieldSession, id.String(), record.FieldCaller, c.caller, record.FieldHow, "key", record.FieldRemote, "192.0.2.7:41234", record.FieldRoute, "chat", record.FieldUpstream, "https://model.example/v1",
		record.FieldModel, c.model, record.FieldMethod, "POST", record.FieldTarget, "/v1/chat/completions", record.FieldVerdict, "allow", record.FieldRule, "default",
		record.FieldHeaders, quote([][2]string{{"User-Agent", c.agent}, {"Content-Type", "application/json"}}), record.FieldBody, body,
		record.FieldFindings, `[["CARD","",1]]`, record.FieldTimes, quote(map[string]time.Time{"received": began, "sent": began.Add(3 * time.Millisecond)}))
	var answer, events strings.Builder
	kind := "application/json"
	if c.stream {
		kind = "text/event-stream"
		events.WriteByte('[')
		add := func(data string, after int) {
			line := "data: " + data + "\n\n"
			if events.Len() > 1 {
				events.WriteByte(',')
			}
			fmt.Fprintf(&events, "[%d,%d]", len(line), after)
			answer.WriteString(line)
		}
		words := []string{c.reply}
		if c.words {
			words = strings.SplitAfter(c.reply, " ")
		}
		for i, word := range words {
			gap := 21000
			if i == 4 {
				gap = 480000
			}
			add(quote(map[string]any{"object": "chat.completion.chunk", "model": c.model, "choices": []any{map[string]any{"index": 0, "delta": map[string]string{"content": word}}}}), gap)
		}
		add(`{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":34}}`, 1200)
		add("[DONE]", 100)
		events.WriteByte(']')
	} else {
		answer.WriteString(quote(map[string]any{"object": "chat.completion", "model": c.model, "choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]string{"role": "assistant", "content": c.reply}}},
			"usage": map[string]int{"prompt_tokens": 21, "completion_tokens": 34}}))
	}
	fields := []string{record.FieldStatus, "200", record.FieldHeaders, quote([][2]string{{"Content-Type", kind}}), record.FieldBody, answer.String(), record.FieldFinish, "done",
		record.FieldTimes, quote(map[string]time.Time{"first": began.Add(240 * time.Millisecond), "ended": began.Add(1400 * time.Millisecond)})}
	if c.stream {
		fields = append(fields, record.FieldEvents, events.String())
	}
	w.write(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, fields...)
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	w.index.hits = append(w.index.hits, audit.Hit{Session: id, Began: began, Ended: began.Add(1400 * time.Millisecond), Caller: c.caller, Route: "chat", Model: c.model, Method: "POST", Target: "/v1/chat/completions",
		Status: 200, Outcome: "complete", In: 21, Out: 34, Duration: 1400 * time.Millisecond, FirstByte: 240 * time.Millisecond, Findings: []string{"CARD"}, Snippet: c.prompt})
	return id
}

// publish makes everything that was appended readable.
func (w *world) publish() uint64 {
	w.t.Helper()
	signed, err := w.log.Publish()
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Size
}

// readings returns what is on record of readings from an entry on: their words, as the log's own trail has them.
func (w *world) readings(from uint64) []record.Entry {
	w.t.Helper()
	ts := tlog.Tiles{Reader: w.log, Size: w.publish()}
	var all []record.Entry
	for i := from; i < ts.Size; i++ {
		b, err := ts.Entry(context.Background(), i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			w.t.Fatal(err)
		}
		switch e.Kind {
		case record.Access, record.Erasure, record.Policy:
			all = append(all, e)
		}
	}
	return all
}

// A visitor asks the console.
type visitor struct {
	w     *world
	name  string
	roles audit.Roles
	why   string
}

func (v visitor) request(method, target string, form url.Values) *http.Request {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req := httptest.NewRequest(method, "http://console.example"+target, body)
	req.Host = "console.example"
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if v.name != "" {
		req.Header.Set("Person", v.name)
		if v.roles != 0 {
			req.Header.Set("Roles", v.roles.String())
		}
	}
	if v.why != "" {
		rec := httptest.NewRecorder()
		v.w.console.keepReason(&visit{w: rec, req: req, who: Person{Name: v.name}}, v.why)
		for _, k := range rec.Result().Cookies() {
			req.AddCookie(k)
		}
	}
	return req
}

func (v visitor) do(req *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	v.w.console.ServeHTTP(rec, req)
	return rec
}

func (v visitor) get(target string) *httptest.ResponseRecorder {
	return v.do(v.request("GET", target, nil))
}

func (v visitor) post(target string, form url.Values) *httptest.ResponseRecorder {
	return v.do(v.request("POST", target, form))
}
