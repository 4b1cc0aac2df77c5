package search

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// testKeys are keys in memory.
type testKeys struct {
	mu   sync.Mutex
	n    int
	keys map[string][]byte
}

func (k *testKeys) New(context.Context) (string, []byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = make(map[string][]byte)
	}
	k.n++
	name, key := fmt.Sprint("key-", k.n), make([]byte, 32)
	for i := range key {
		key[i] = byte(k.n * (i + 3))
	}
	k.keys[name] = key
	return name, append([]byte(nil), key...), nil
}

func (k *testKeys) Open(_ context.Context, name string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.keys[name]; key != nil {
		return append([]byte(nil), key...), nil
	}
	return nil, fmt.Errorf("%s: %w", name, tlog.ErrNotFound)
}

func (k *testKeys) Erase(_ context.Context, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name)
	return nil
}

// testLog is a log in memory, with its records.
type testLog struct {
	mu   sync.Mutex
	seen []audit.Seen
	more chan struct{} // closed when there is more
	boot record.ID
	hold func(batch []audit.Seen) // called before a batch is given
}

func newTestLog() *testLog {
	return &testLog{more: make(chan struct{}), boot: record.ID{1}}
}

func (l *testLog) add(t testing.TB, e record.Entry, r record.Record) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.By, e.Boot, e.Seq = "gw", l.boot, uint64(len(l.seen)+1)
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	if r != nil {
		e.Root, e.Fields, e.Payload, e.PayloadSize = tlog.Hash{3}, len(r), tlog.Hash{1}, 1 // salts are not the same in two processes
	}
	if e.Kind == record.Approval && e.Prev == (tlog.Hash{}) {
		e.Prev = tlog.Hash{1}
	}
	b, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(len(l.seen))
	l.seen = append(l.seen, audit.Seen{Found: record.Found{Index: index, Bytes: b, Entry: e}, Record: r})
	close(l.more)
	l.more = make(chan struct{})
	return index
}

// erase makes the records of a session unreadable.
func (l *testLog) erase(id record.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.seen {
		if s := &l.seen[i]; s.Entry.Session == id && s.Entry.Kind != record.Erasure {
			s.Record, s.Missing = nil, tlog.ErrNotFound
		}
	}
}

func (l *testLog) Size(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) == 0 {
		return 0, tlog.ErrNotFound
	}
	return uint64(len(l.seen)), nil
}

func (l *testLog) Feed(ctx context.Context, who audit.Asker, detail string, from uint64, each func(context.Context, []audit.Seen) error) error {
	for {
		l.mu.Lock()
		to := min(uint64(len(l.seen)), (from/tlog.TileWidth+1)*tlog.TileWidth)
		var batch []audit.Seen
		if from < to {
			batch = append(batch, l.seen[from:to]...)
		}
		more, hold := l.more, l.hold
		l.mu.Unlock()
		if batch == nil {
			select {
			case <-more:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if hold != nil {
			hold(batch)
		}
		if err := each(ctx, batch); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		from = to
	}
}

// A call is what a test has recorded.
type call struct {
	id             record.ID
	at             time.Time
	caller, email  string
	groups         []string
	model, route   string
	prompt, answer string
	status         int
	in, out        int64
	took           time.Duration
	outcome        record.Outcome // "" for a refusal
	verdict, rule  string
	findings       []string
	ask            []string // reasons of approval entries, "" for the question
	by             string   // who decided
}

func (c *call) request() record.Record {
	var r record.Record
	add := func(name, value string) {
		if value != "" {
			r.Add(name, []byte(value))
		}
	}
	body, _ := json.Marshal(map[string]any{"model": c.model, "messages": []any{map[string]any{"role": "user", "content": c.prompt}}})
	groups, _ := json.Marshal(c.groups)
	add(record.FieldSession, c.id.String())
	add(record.FieldCaller, c.caller)
	add(record.FieldEmail, c.email)
	if c.groups != nil {
		add(record.FieldGroups, string(groups))
	}
	add(record.FieldRoute, c.route)
	add(record.FieldModel, c.model)
	add(record.FieldMethod, "POST")
	add(record.FieldTarget, "/v1/chat/completions")
	add(record.FieldHeaders, `[["Content-Type","application/json"]]`)
	add(record.FieldBody, string(body))
	add(record.FieldVerdict, c.verdict)
	add(record.FieldRule, c.rule)
	if c.findings != nil {
		var f []any
		for _, k := range c.findings {
			f = append(f, []any{k, "", 1})
		}
		b, _ := json.Marshal(f)
		add(record.FieldFindings, string(b))
	}
	return r
}

func (c *call) response() record.Record {
	var r record.Record
	answer := map[string]any{
		"object": "chat.completion", "model": c.model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": c.answer}}},
	}
	if c.in >= 0 {
		answer["usage"] = map[string]any{"prompt_tokens": c.in, "completion_tokens": c.out}
	}
	body, _ := json.Marshal(answer)
	r.Add(record.FieldStatus, []byte(strconv.Itoa(c.status)))
	r.Add(record.FieldHeaders, []byte(`[["Content-Type","application/json"]]`))
	r.Add(record.FieldBody, body)
	return r
}

// begin, decide and end append what a call leaves behind.
func (c *call) begin(t testing.TB, l *testLog) uint64 {
	if c.outcome == "" {
		return l.add(t, record.Entry{Kind: record.Refused, Session: c.id, Time: c.at, Reason: "policy"}, c.request())
	}
	return l.add(t, record.Entry{Kind: record.Request, Session: c.id, Time: c.at}, c.request())
}

func (c *call) decide(t testing.TB, l *testLog, reason string) {
	e := record.Entry{Kind: record.Approval, Session: c.id, Time: c.at.Add(time.Millisecond), Reason: reason}
	var r record.Record
	r.Add(record.FieldRule, []byte("rule"))
	if reason != "" {
		r.Add(record.FieldActor, []byte(c.by))
		r.Add(record.FieldReason, []byte("because "+c.by+" looked"))
	} else {
		e.Tag, e.Until = tlog.Hash{2}, c.at.Add(time.Hour)
	}
	l.add(t, e, r)
}

func (c *call) end(t testing.TB, l *testLog) {
	if c.outcome != "" {
		l.add(t, record.Entry{Kind: record.Response, Session: c.id, Time: c.at.Add(c.took), Outcome: c.outcome}, c.response())
	}
}

func (c *call) record(t testing.TB, l *testLog) {
	c.begin(t, l)
	for _, reason := range c.ask {
		c.decide(t, l, reason)
	}
	c.end(t, l)
}

// someCall makes one of which much is said.
func someCall(r *rand.Rand, at time.Time) *call {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	words := func(n int) (text string) {
		for range n {
			text += vocabulary[min(r.IntN(len(vocabulary)), r.IntN(len(vocabulary)))] + pick(" ", " ", ", ", "\n", ". ")
		}
		return text
	}
	c := &call{
		id: record.NewID(at), at: at, caller: pick("alice", "bob", "Carol Ann", "dave@example.com"), model: pick("gpt-5", "gpt-5-mini", "claude", "Zoë/mod"), route: pick("chat", "code"),
		prompt: words(r.IntN(20)), answer: words(r.IntN(20)), status: []int{200, 200, 200, 404, 429, 500, 503}[r.IntN(7)], in: int64(r.IntN(3000)) - 500, out: int64(r.IntN(3000)),
		took: time.Duration(r.IntN(5000)) * time.Duration(r.IntN(1000)+1) * time.Microsecond, verdict: pick("", "allow", "ask", "refuse"), rule: pick("", "big", "pii"),
		outcome: []record.Outcome{record.Complete, record.Complete, record.Truncated, record.ClientGone, ""}[r.IntN(5)],
	}
	if c.in < 0 {
		c.in = -1
	}
	if r.IntN(2) == 0 {
		c.email = "Alice@Example.com"
	}
	if r.IntN(2) == 0 {
		c.groups = []string{"staff", pick("eng", "law")}
	}
	if r.IntN(3) == 0 {
		c.findings = []string{pick("CARD", "EMAIL"), "IBAN"}
	}
	if c.outcome != "" && r.IntN(4) == 0 {
		c.by = pick("erin", "frank")
		c.ask = [][]string{{""}, {"", record.Granted, record.Used}, {"", record.No}}[r.IntN(3)]
		if len(c.ask) == 3 {
			c.ask = c.ask[:2] // the use has a grant, and what one that was denied comes to is not told here
		}
	}
	return c
}

var vocabulary = []string{
	"the", "of", "card", "⟦CARD:abcdefghij2345abcdef⟧", "naïve", "Straße", "東京", "привет", "deploy", "don't", "x_1", "42", "3.14", "Zürich", "keys", "key", "keyed", "ﬁne", "a", "to",
}

// world is an index that follows a log.
type world struct {
	*testLog
	ix   *Index
	keys *testKeys
	stop func()
}

func newWorld(t *testing.T, naked bool) *world {
	w := &world{testLog: newTestLog(), keys: &testKeys{}}
	w.open(t, t.TempDir(), naked)
	return w
}

func (w *world) open(t *testing.T, dir string, naked bool) {
	t.Helper()
	var err error
	if w.ix, err = Open(t.Context(), Config{Dir: dir, Keys: w.keys, Name: "index", Log: slog.New(slog.DiscardHandler), naked: naked}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.ix.Run(ctx, w) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ran, w.ix.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
}

// reopen is a restart.
func (w *world) reopen(t *testing.T) {
	w.stop()
	w.open(t, w.ix.c.Dir, w.ix.c.naked)
}

// caughtUp waits until the index has all entries.
func (w *world) caughtUp(t *testing.T) {
	t.Helper()
	for range 3000 {
		if size, _ := w.Size(t.Context()); w.ix.Indexed() == size {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	size, _ := w.Size(t.Context())
	t.Fatalf("the index has %d entries of %d", w.ix.Indexed(), size)
}

// find returns all sessions that a query finds, page by page.
func (w *world) find(t *testing.T, query string, most int) (ids []record.ID) {
	t.Helper()
	want, err := audit.ParseQuery(query, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	after := ""
	for {
		p, err := w.ix.Find(t.Context(), want, after, most)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, h := range p.Hits {
			ids = append(ids, h.Session)
		}
		if after = p.Next; after == "" {
			return ids
		}
	}
}
