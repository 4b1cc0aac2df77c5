package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// is says whether an entry is what a word of a session's story says: a kind, a reason, an outcome, or "question".
func is(e record.Entry, word string) bool {
	return word == "question" && e.Tag != tlog.Hash{} || word == string(e.Kind) && e.Tag == tlog.Hash{} || word == e.Reason || word == "to "+string(e.Outcome)
}

// onEntry is a fault that runs f for each append that has such an entry.
func onEntry(word string, f func() error) tlogtest.Faults {
	return tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
		for _, l := range leaves {
			if e, err := record.ParseEntry(l.Entry); err == nil && is(e, word) {
				return f()
			}
		}
		return nil
	}}
}

// Who comes back and cannot use the yes ends in its own chain, and the yes is still there.
func TestUseNotTaken(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
	id := w.call(callerKey, "/v1/chat/completions", ask("ask", "again")).session
	w.must(carolsKey, id, "approve")
	w.log.Inject(onEntry(record.Used, func() error { return tlog.ErrBusy }))
	b := w.call(callerKey, "/v1/chat/completions", ask("ask", "again"))
	w.log.Inject(tlogtest.Faults{})
	if b.status != 503 || w.modelGot() != 0 {
		t.Errorf("%+v", b)
	}
	if k := w.tells(b.session, "request internal"); k.entries[1].Prev != leafOf(t, k.entries[0]) {
		t.Error("its end does not stand behind its request")
	}
	if c := w.call(callerKey, "/v1/chat/completions", ask("ask", "again")); c.status != 200 {
		t.Errorf("%+v", c)
	}
	w.tells(id, "request question access granted resumed")
}

// The log takes an entry and says so only when the gateway, which stops, does not wait for it any more. Whatever it was,
// nothing is written that contradicts it, and the next boot goes on from what is there.
func TestUnknownAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		word, user string
		hold       time.Duration
		decide     string
		then       string // of the session that asked, once the next boot has seen to it
	}{
		"question":         {"question", "ask", time.Minute, "", "request question internal"},
		"agreed":           {record.Agreed, "two", -1, "approve", "request question access agreed"},
		"yes":              {record.Granted, "ask", -1, "approve", "request question access granted"},
		"yes, held":        {record.Granted, "ask", time.Minute, "approve", "request question access granted"},
		"no":               {record.No, "ask", -1, "deny", "request question access denied denied"},
		"no, held":         {record.No, "ask", time.Minute, "deny", "request question access denied denied"},
		"end after a no":   {"to denied", "ask", time.Minute, "deny", "request question access denied denied"},
		"end, nobody held": {"to denied", "ask", -1, "deny", "request question access denied denied"},
		"use":              {record.Used, "ask", time.Minute, "approve", "request question access granted used interrupted"},
		"time":             {record.Expired, "brief", -1, "", "request question expired denied"},
		"time, held":       {record.Expired, "brief", time.Minute, "", "request question expired denied"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newAsking(t, func(c *Config) {
				c.Approvals.Hold, c.Limits.Drain, c.lastWords = row.hold, 100*time.Millisecond, time.Second
			})
			w.faulty = true
			reached, g := make(chan struct{}), w.g
			once := sync.OnceFunc(func() { close(reached) })
			w.log.Inject(onEntry(row.word, func() error {
				once()
				<-g.silenced.Done()
				time.Sleep(300 * time.Millisecond) // while it is not waited for, but for the writer's end
				return nil
			}))
			var all sync.WaitGroup
			all.Go(func() {
				if resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", ask(row.user, "the end")); err == nil {
					resp.Body.Close()
				}
			})
			if row.decide != "" {
				id := w.waiting(carolsKey, 1)[0].ID
				w.own(carolsKey, "GET", id, "")
				all.Go(func() {
					resp, err := w.doAs(context.Background(), carolsKey, "POST", approvalsPrefix+id, fmt.Sprintf(`{"decision":%q,"reason":"because"}`, row.decide))
					if err == nil {
						resp.Body.Close()
					}
				})
			}
			<-reached
			w.stop() // and then the log is audited
			all.Wait()
			w.log.Inject(tlogtest.Faults{})
			w.start(asking(nil))
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				var story string
				for _, k := range w.sessions() {
					story = k.story()
				}
				if story == row.then {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%q, want %q", story, row.then)
				}
			}
			if w.modelGot() != 0 {
				t.Error("something went to the model")
			}
		})
	}
}

// bombKeys panic when the nth key from now is made.
type bombKeys struct {
	Keys
	left atomic.Int64
}

func (k *bombKeys) New(ctx context.Context) (string, []byte, error) {
	if k.left.Add(-1) == 0 {
		panic("a fault of ours")
	}
	return k.Keys.New(ctx)
}

// A fault of ours before people are asked leaves no question behind that nobody can answer.
func TestPanicBeforeAsking(t *testing.T) {
	t.Parallel()
	var keys *bombKeys
	w := newAsking(t, func(c *Config) {
		keys = &bombKeys{Keys: c.Keys}
		c.Keys, c.Approvals.Hold = keys, -1
	})
	w.faulty = true // a question is left open
	w.call(callerKey, "/v1/chat/completions", ask("fine", "the policy is in force"))
	keys.left.Store(1)
	if a := w.call(callerKey, "/v1/chat/completions", ask("ask", "boom")); a.status != 500 {
		t.Fatalf("%+v", a)
	}
	a := w.call(callerKey, "/v1/chat/completions", ask("ask", "boom"))
	if a.status != 409 || !strings.Contains(a.body, a.session) {
		t.Errorf("%+v", a)
	}
	w.waiting(carolsKey, 1)
}

// A fault of ours before the use is on its way does not lose the yes.
func TestPanicBeforeUse(t *testing.T) {
	g := &Gateway{}
	g.book = newBook(g, Approvals{})
	q := &question{state: granted, grant: tlog.Hash{1}, useBy: time.Now().Add(time.Hour), changed: make(chan struct{})}
	c := &call{g: g, question: q, ctx: context.Background(), keyName: "k", key: make([]byte, record.KeyBytes)}
	if ours, _, _ := g.book.take(c); !ours {
		t.Fatal("it has not got the yes")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic: this has shown nothing")
			}
		}()
		c.useYes() // there is no coder
	}()
	if q.state != granted || !q.by.IsZero() {
		t.Errorf("the question is %v", q.state)
	}
}

// What a decision says it says once, as it is spelt; and who may break the glass may do no more than that.
func TestDecisionsOfOneMeaning(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
	w.faulty = true
	id := w.call(callerKey, "/v1/chat/completions", ask("ask", "x")).session
	for _, body := range []string{
		`{"decision":"deny","reason":"x","decision":"approve"}`, `{"Decision":"approve"}`, `{"decision":"approve","reason":"x","reason":"y"}`,
		`{"decision":"approve","reason":"` + "\xff" + `"}`, `["approve"]`, `null`, `{"decision":null}`, `{"decision":["approve"]}`,
	} {
		w.own(carolsKey, "GET", id, "")
		if code, answer := w.own(carolsKey, "POST", id, body); code != 400 {
			t.Errorf("%q: %d %s", body, code, answer)
		}
	}
	if code, body := w.own(erinKey, "GET", id, ""); code != 200 || !strings.Contains(body, `"body"`) {
		t.Errorf("%d %s", code, body)
	}
	for _, what := range []string{"approve", "deny"} {
		if code, body := w.decide(erinKey, id, what); code != 404 {
			t.Errorf("%s by one who may only break the glass: %d %s", what, code, body)
		}
	}
	w.waiting(erinKey, 1)
	w.must(erinKey, id, "break_glass")
}

// A chronicler writes the entries of gateways that are not there.
type chronicler struct {
	t   *testing.T
	seq uint64
}

func (c *chronicler) entry(by string, session record.ID, e record.Entry) []byte {
	c.t.Helper()
	c.seq++
	e.By, e.Session, e.Boot, e.Seq, e.Time = by, session, record.ID{1}, c.seq, time.Now().UTC().Truncate(time.Microsecond)
	e.Prev, e.Root, e.Fields, e.Payload, e.PayloadSize = tlog.Hash{1}, tlog.Hash{2}, 1, tlog.Hash{3}, 1
	b, err := e.Append(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// hear tells a world's gateway of an entry as if the log had it.
func (w *world) hear(index uint64, raw []byte) {
	w.g.book.mu.Lock()
	defer w.g.book.mu.Unlock()
	w.g.book.heard(index, raw)
}

// What other gateways ask is theirs to decide about, and of several questions about one call the one that is open counts.
func TestOthersQuestions(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
	w.faulty = true
	body := ask("ask", "elsewhere")
	own := mustID(t, w.call(callerKey, "/v1/chat/completions", body).session)
	// What the call is, as only the tag of another gateway's question tells.
	var sum callSum
	b := w.g.book
	b.mu.Lock()
	for s := range b.byCall {
		sum = s
	}
	delete(b.byCall, sum)
	delete(b.byID, own)
	b.mu.Unlock()
	c := &chronicler{t: t}
	index := uint64(1000)
	say := func(id record.ID, e record.Entry) {
		if e.Kind == "" {
			e.Kind = record.Approval
		}
		index++
		w.hear(index, c.entry("gw-other", id, e))
	}
	asks := func() record.ID {
		id := record.NewID(time.Now())
		h := hmac.New(sha256.New, b.c.Key)
		h.Write(id[:])
		h.Write(sum[:])
		say(id, record.Entry{Tag: tlog.Hash(h.Sum(nil)), Until: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)})
		return id
	}
	pending := func(id record.ID) {
		t.Helper()
		if a := w.call(callerKey, "/v1/chat/completions", body); a.status != 409 || !strings.Contains(a.body, "approval "+id.String()) {
			t.Errorf("%+v", a)
		}
	}
	for range 20 {
		say(asks(), record.Entry{Reason: record.No})
	}
	open := asks()
	pending(open)
	for _, what := range []string{"break_glass", "approve"} {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // less than a look may take
		resp, err := w.doAs(ctx, erinKey, "POST", approvalsPrefix+open.String(), fmt.Sprintf(`{"decision":%q,"reason":"because of reasons"}`, what))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 404 {
			t.Errorf("%s: %d", what, resp.StatusCode)
		}
		cancel()
	}
	if code, _ := w.own(carolsKey, "GET", open.String(), ""); code != 404 {
		t.Errorf("a look: %d", code)
	}
	// It ends with a fault over there: nobody has said no.
	say(open, record.Entry{Kind: record.Response, Outcome: record.Internal})
	next := asks()
	pending(next)
	say(next, record.Entry{Reason: record.No})
	if a := w.call(callerKey, "/v1/chat/completions", body); a.status != 403 {
		t.Errorf("%+v", a)
	}
	if w.modelGot() != 0 {
		t.Error("something went to the model")
	}
}

// While a use cannot be recorded another gateway uses the yes: the question is over, and does not wait for its time.
func TestUsedElsewhereMeanwhile(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
	w.faulty = true
	id := w.call(callerKey, "/v1/chat/completions", ask("ask", "x")).session
	w.must(carolsKey, id, "approve")
	grant := leafOf(t, w.tells(id, "request question access granted").entries[3])
	c := &chronicler{t: t}
	other := c.entry("gw-other", record.NewID(time.Now()), record.Entry{Kind: record.Approval, Reason: record.Used, Grant: grant})
	w.log.Inject(onEntry(record.Used, func() error {
		w.hear(1000, other)
		return tlog.ErrBusy
	}))
	if a := w.call(callerKey, "/v1/chat/completions", ask("ask", "x")); a.status != 503 {
		t.Errorf("%+v", a)
	}
	w.log.Inject(tlogtest.Faults{})
	w.tells(id, "request question access granted resumed")
}

// The first use in the log that stands before the question's end counts, by FORMAT.md §6.9, in whatever order log and gateway
// come to know of things.
func TestFirstUse(t *testing.T) {
	const (
		asks = iota
		saidYes
		ourUse
		theirUse
		late    // expired
		end     // the response of the session that asked
		decided // no entry: whoever said yes at this gateway goes on
		words
	)
	c := &chronicler{t: t}
	asker, ours, theirs := record.ID{1}, record.ID{2}, record.ID{3}
	for _, by := range []string{"gw-us", "gw-them"} {
		raw := [words][]byte{
			asks:    c.entry(by, asker, record.Entry{Kind: record.Approval, Tag: tlog.Hash{7}, Until: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)}),
			saidYes: c.entry(by, asker, record.Entry{Kind: record.Approval, Reason: record.Granted}),
			late:    c.entry(by, asker, record.Entry{Kind: record.Approval, Reason: record.Expired}),
			end:     c.entry(by, asker, record.Entry{Kind: record.Response, Outcome: record.Resumed}),
		}
		grant := tlog.HashLeaf(raw[saidYes])
		raw[ourUse] = c.entry("gw-us", ours, record.Entry{Kind: record.Approval, Reason: record.Used, Grant: grant})
		raw[theirUse] = c.entry("gw-them", theirs, record.Entry{Kind: record.Approval, Reason: record.Used, Grant: grant})
		n := 0
		try := func(order []int) {
			n++
			g := &Gateway{cfg: Config{ID: "gw-us"}}
			b := newBook(g, Approvals{})
			g.book = b
			b.tagged[record.ID{9}] = nil // responses are read
			var q *question
			if by == "gw-us" {
				q = &question{id: asker, state: waiting, changed: make(chan struct{})}
				b.byID[asker] = q
			}
			var yes, over bool    // by the oracle
			counts := record.ID{} // the session whose use counts
			index := uint64(10)
			for _, o := range order {
				if raw[o] != nil {
					index++
					b.heard(index, raw[o])
				}
				switch o {
				case asks:
					q = b.byID[asker]
				case saidYes:
					yes = !over
				case late, end:
					over = true
				case ourUse, theirUse:
					if yes && !over {
						over = true
						counts = map[int]record.ID{ourUse: ours, theirUse: theirs}[o]
					}
				case decided:
					q.grant = grant
					b.lost(q, granted)
				}
			}
			if got := q.usedFirst() && q.use.leaf == tlog.HashLeaf(raw[ourUse]); got != (counts == ours) {
				t.Fatalf("%s asked, %v: our use counts: %v", by, order, got)
			}
			if got := q.usedFirst() && q.use.session == theirs; got != (counts == theirs) {
				t.Fatalf("%s asked, %v: their use counts: %v", by, order, got)
			}
			if told := by == "gw-them" || slices.Contains(order, decided); told && counts.IsZero() == (q.state == used) {
				t.Fatalf("%s asked, %v: the question is %v", by, order, q.state)
			}
		}
		// All orders of all sets of these in which the question is first, and a use behind its yes.
		var next func(order []int)
		next = func(order []int) {
			try(order)
			for o := saidYes; o < words; o++ {
				said := slices.Contains(order, saidYes)
				if slices.Contains(order, o) || (o == ourUse || o == theirUse || o == decided) && !said || o == decided && by != "gw-us" {
					continue
				}
				next(append(order[:len(order):len(order)], o))
			}
		}
		next([]int{asks})
		t.Logf("%s asked: %d orders", by, n)
	}
}

// Many questions that end at once go into the log together.
func TestManyExpire(t *testing.T) {
	t.Parallel()
	var appends, ended atomic.Int64
	w := newAsking(t, func(c *Config) {
		c.Approvals.Hold = -1
		c.Log.(*tlogtest.Log).Inject(tlogtest.Faults{Append: func(ctx context.Context, leaves []tlog.Leaf) error {
			n := int64(0)
			for _, l := range leaves {
				if e, err := record.ParseEntry(l.Entry); err == nil && e.Reason == record.Expired {
					n++
				}
			}
			if n > 0 {
				appends.Add(1)
				ended.Add(n)
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		}})
	})
	const many = 60
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { w.call(callerKey, "/v1/chat/completions", ask("brief", fmt.Sprint("many ", i))) })
	}
	all.Wait()
	for w.open4(callerKey); ended.Load() < many; time.Sleep(10 * time.Millisecond) {
	}
	if n := appends.Load(); n > many/2 {
		t.Errorf("%d questions ended in %d appends", many, n)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		open := 0
		for _, k := range w.sessions() {
			if e, _ := k.last(); e.Kind != record.Response {
				open++
			}
		}
		if open == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions have not ended", open)
		}
	}
}

// Whoever is one person for an auditor is one here.
func TestSamePerson(t *testing.T) {
	for _, row := range []struct {
		a, b person
		same bool
	}{
		{person{"carol", ""}, person{"carol", "x@example.org"}, true},
		{person{"carol", ""}, person{"dave", ""}, false},
		{person{"carol", " "}, person{"dave", " "}, false},
		{person{"carol", "c@example.org"}, person{"dave", "C@Example.ORG"}, true},
		{person{"carol", "c@example.org"}, person{"dave", "c@example.org "}, true},
		{person{"carol", "c@example.org"}, person{"dave", "c@example.com"}, false},
		{person{"carol", "ki\u017f@example.org"}, person{"dave", "\u212aIS@example.org"}, true},
		{person{"carol", "\u0130@example.org"}, person{"dave", "i@example.org"}, true},
		{person{"Carol", ""}, person{"carol", ""}, false},
	} {
		if row.a.same(row.b) != row.same || row.b.same(row.a) != row.same {
			t.Errorf("%q and %q", row.a, row.b)
		}
		if verify := strings.ToLower(row.a.email) == strings.ToLower(row.b.email) && row.a.email != ""; verify && strings.TrimSpace(row.a.email) != "" && !row.a.same(row.b) {
			t.Errorf("%q and %q are one for verify", row.a, row.b)
		}
	}
}

// goneKeys are keys of which some cannot be opened, for one reason or another.
type goneKeys struct {
	Keys
	why atomic.Pointer[error]
}

func (k *goneKeys) Open(ctx context.Context, name string) ([]byte, error) {
	if why := k.why.Load(); why != nil {
		return nil, *why
	}
	return k.Keys.Open(ctx, name)
}

// A question whose record is gone, or is not what it was, ends; one whose keys are out of reach waits for them.
func TestRestoredWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		err   error
		spoil bool
		story string
	}{
		"erased":       {fmt.Errorf("no such key: %w", tlog.ErrNotFound), false, "request question interrupted"},
		"spoilt":       {nil, true, "request question interrupted"},
		"out of reach": {fmt.Errorf("the vault is away"), false, "request question"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
			w.faulty = true
			id := w.call(callerKey, "/v1/chat/completions", ask("ask", "x")).session
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			keys := &goneKeys{Keys: w.keys}
			if row.err != nil {
				keys.why.Store(&row.err)
			}
			if row.spoil {
				sum := w.sessions()[mustID(t, id)].entries[1].Payload
				w.log.Inject(tlogtest.Faults{Payload: func(s tlog.Hash, sealed []byte) ([]byte, error) {
					if s == sum {
						sealed[len(sealed)-1] ^= 1
					}
					return sealed, nil
				}})
			}
			w.start(asking(func(c *Config) { c.Keys = keys }))
			if row.err != nil && row.story == "request question" {
				time.Sleep(100 * time.Millisecond)
				w.tells(id, row.story)
				keys.why.Store(nil)
				w.waiting(carolsKey, 1)
				return
			}
			for deadline := time.Now().Add(20 * time.Second); !strings.Contains(w.said.String(), "closed the sessions"); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the session is not closed")
				}
			}
			w.log.Inject(tlogtest.Faults{})
			w.tells(id, row.story)
		})
	}
}

// What an approver writes reaches caller and approvers as text, whatever is in it.
func TestReasonIsText(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = 50 * time.Millisecond })
	evil := "no\"}\r\n\r\ndata: [DONE]\r\nevent: x\n\u2028<script>\x00"
	reason, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range []bool{false, true} {
		body := fmt.Sprintf(`{"model":"fake-1","user":"ask","stream":%v,"messages":[{"role":"user","content":"a secret of mine"}]}`, stream)
		var done <-chan answer
		if stream {
			done = w.calling(callerKey, "/v1/chat/completions", body)
		} else {
			w.call(callerKey, "/v1/chat/completions", body)
		}
		id := w.waiting(carolsKey, 1)[0].ID
		time.Sleep(100 * time.Millisecond)
		if code, body := w.own(carolsKey, "POST", id, fmt.Sprintf(`{"decision":"deny","reason":%s}`, reason)); code != 200 || strings.Contains(body, "a secret of mine") {
			t.Fatalf("%d %s", code, body)
		}
		var got answer
		if stream {
			got = <-done
		} else {
			got = w.call(callerKey, "/v1/chat/completions", body)
		}
		text := got.body
		if stream {
			if n := strings.Count(text, "\ndata: ") + strings.Count(text, "\nevent: "); n != 1 {
				t.Errorf("%d fields in %q", n, text)
			}
			_, text, _ = strings.Cut(text, "data: ")
		}
		var said struct{ Error struct{ Message string } }
		if err := json.Unmarshal([]byte(text), &said); err != nil || !strings.Contains(said.Error.Message, strings.TrimSpace(evil)) || strings.ContainsAny(strings.TrimSpace(text), "<\x00\r\n") {
			t.Errorf("%v %q", err, text)
		}
		for name := range got.header {
			if strings.EqualFold(name, "event") {
				t.Error(name)
			}
		}
	}
	if strings.Contains(w.said.String(), "a secret of mine") {
		t.Error("the gateway says what was asked about")
	}
}

// A yes is nobody's who has left, nor anybody's after its time.
func TestCanTake(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	leave()
	for _, row := range []struct {
		state asked
		ctx   context.Context
		for_  time.Duration
		want  bool
	}{
		{granted, t.Context(), time.Hour, true},
		{granted, gone, time.Hour, false},
		{granted, t.Context(), -time.Second, false},
		{waiting, t.Context(), time.Hour, false},
		{using, t.Context(), time.Hour, false},
		{used, t.Context(), time.Hour, false},
	} {
		q := &question{state: row.state, useBy: time.Now().Add(row.for_)}
		if got := q.canTake(&call{ctx: row.ctx}); got != row.want {
			t.Errorf("%+v: %v", row, got)
		}
	}
}

// Another gateway's session is its to end, whatever became of the question here.
func TestForeignIsNotEnded(t *testing.T) {
	b := newBook(&Gateway{}, Approvals{Key: make([]byte, approvalKeyBytes)})
	for state := used; state <= unasked; state++ {
		q := &question{id: record.NewID(time.Now()), foreign: "gw-other", state: state, changed: make(chan struct{}), forget: time.Now().Add(time.Hour)}
		b.byID[q.id] = q
	}
	done := make(chan struct{})
	go func() { b.tidy(t.Context()); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it is still at it")
	}
}
