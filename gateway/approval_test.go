package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// words is a policy that goes by what a body says its user is: "ask" asks, "two" asks two people, "no" refuses.
type words struct {
	text   string
	quotas []*Quota
}

func (p words) Text() []byte       { return []byte(p.text) }
func (p words) Version() tlog.Hash { return sha256.Sum256([]byte(p.text)) }
func (p words) Judge(f *Facts) Judgement {
	word := ""
	for _, m := range f.Params {
		if m.Name == "user" {
			word, _ = m.Value.(string)
		}
	}
	switch word {
	case "ask":
		return Judgement{Verdict: Ask, Rule: "risky", Message: "this model needs a yes"}
	case "two":
		return Judgement{Verdict: Ask, Rule: "very-risky", Approval: Approval{Groups: []string{"officers"}, Count: 2}}
	case "valid":
		return Judgement{Verdict: Ask, Approval: Approval{Valid: time.Second, Hold: -1}}
	case "brief":
		return Judgement{Verdict: Ask, Rule: "brief", Approval: Approval{Within: 1500 * time.Millisecond}}
	case "no":
		return Judgement{Verdict: Refuse, Rule: "never"}
	}
	return Judgement{Verdict: Allow, Quotas: p.quotas}
}

const (
	carolsKey = "tk-carol-00112233445566778899"
	daveKey   = "tk-dave-99887766554433221100"
	erinKey   = "tk-erin-0f1e2d3c4b5a69788796"
	aliceTwo  = "tk-alice-phone-00001111222233"
)

// newAsking is a world whose gateway asks carol and dave (officers), and lets erin break the glass.
func newAsking(t *testing.T, change func(*Config)) *world {
	t.Helper()
	return newWorld(t, asking(change))
}

func asking(change func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Policy = words{text: "rules 1"}
		c.Callers = append(c.Callers,
			Caller{Name: "carol", SHA256: hashOf(carolsKey), Groups: []string{"approvers", "officers"}, Email: "carol@example.org"},
			Caller{Name: "dave", SHA256: hashOf(daveKey), Groups: []string{"officers", "approvers"}},
			Caller{Name: "erin", SHA256: hashOf(erinKey), Groups: []string{"fire"}},
			Caller{Name: "carol-2", SHA256: hashOf(aliceTwo), Groups: []string{"approvers", "officers"}, Email: "Carol@example.org"},
		)
		c.Approvals = Approvals{Key: []byte(strings.Repeat("k", 32)), Groups: []string{"approvers"}, Glass: []string{"fire"}, Hold: 20 * time.Second, URL: "https://gw.example"}
		if change != nil {
			change(c)
		}
	}
}

func ask(model, prompt string) string {
	return fmt.Sprintf(`{"model":"fake-1","user":%q,"messages":[{"role":"user","content":%q}]}`, model, prompt)
}

// An answer is what a call got.
type answer struct {
	status  int
	body    string
	header  http.Header
	session string
}

func (w *world) call(key, path, body string) answer {
	w.t.Helper()
	resp, err := w.doAs(context.Background(), key, "POST", path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, string(b), resp.Header, resp.Header.Get(SessionHeader)}
}

// calling calls, and gives the answer when it is there.
func (w *world) calling(key, path, body string) <-chan answer {
	done := make(chan answer, 1)
	go func() { done <- w.call(key, path, body) }()
	return done
}

// waiting returns the approvals that key may decide, once there are n.
func (w *world) waiting(key string, n int) []Question {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var out struct{ Approvals []Question }
		code, body := w.own(key, "GET", "", "")
		if err := json.Unmarshal([]byte(body), &out); err != nil || code != 200 {
			w.t.Fatalf("%d %s", code, body)
		}
		if len(out.Approvals) == n {
			return out.Approvals
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d approvals wait, not %d", len(out.Approvals), n)
		}
	}
}

// own calls the endpoint for approvals.
func (w *world) own(key, method, id, body string) (int, string) {
	w.t.Helper()
	path := approvalsPath
	if id != "" {
		path += "/" + id
	}
	resp, err := w.doAs(context.Background(), key, method, path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// decide looks and decides.
func (w *world) decide(key, id, what string) (int, string) {
	w.t.Helper()
	if code, body := w.own(key, "GET", id, ""); code != 200 {
		return code, body
	}
	return w.own(key, "POST", id, fmt.Sprintf(`{"decision":%q,"reason":"because of reasons"}`, what))
}

func (w *world) must(key, id, what string) {
	w.t.Helper()
	if code, body := w.decide(key, id, what); code != 200 {
		w.t.Fatalf("%s: %d %s", what, code, body)
	}
}

// story is a session's chain in words: kinds, and reasons or outcomes.
func (k keptSession) story() string {
	var s []string
	for _, e := range k.entries {
		word := string(e.Kind)
		switch {
		case e.Tag != tlog.Hash{}:
			word = "question"
		case e.Kind == record.Approval, e.Kind == record.Refused:
			word = e.Reason
		case e.Outcome != "":
			word = string(e.Outcome)
		}
		s = append(s, word)
	}
	return strings.Join(s, " ")
}

// tells awaits that a session's story is as it is to be.
func (w *world) tells(id, want string) keptSession {
	w.t.Helper()
	sid, err := record.ParseID(id)
	if err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		k := w.sessions()[sid]
		if k.story() == want {
			return k
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("session %s: %q, want %q", id, k.story(), want)
		}
	}
}

func (w *world) modelGot() int { return w.model.Count() }

// A yes lets the call pass that waits on its connection, streaming or not, and is used by it.
func TestApproved(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Overlap, Open} {
		w := newAsking(t, func(c *Config) { c.Mode = mode })
		for _, stream := range []bool{false, true} {
			body := fmt.Sprintf(`{"model":"fake-1","user":"ask","stream":%v,"messages":[{"role":"user","content":"please"}]}`, stream)
			before := w.modelGot()
			done := w.calling(callerKey, "/v1/chat/completions", body)
			q := w.waiting(carolsKey, 1)[0]
			if q.Caller != "alice" || q.Rule != "risky" || q.Model != "fake-1" || q.Need != 1 || q.State != "waiting" {
				t.Errorf("%+v", q)
			}
			if n := w.modelGot(); n != before {
				t.Errorf("%d calls went to the model before the yes", n-before)
			}
			code, seen := w.own(carolsKey, "GET", q.ID, "")
			var v Question
			if err := json.Unmarshal([]byte(seen), &v); err != nil || code != 200 || v.Request == nil || v.Request.Body == nil || *v.Request.Body != body {
				t.Fatalf("%d %s", code, seen)
			}
			w.must(carolsKey, q.ID, "approve")
			if a := <-done; a.status != 200 || a.session != q.ID {
				t.Errorf("%+v", a)
			}
			k := w.tells(q.ID, "request question access access granted used complete")
			if e := k.entries[5]; e.Grant != leafOf(t, k.entries[4]) || mode != Open && k.entries[0].Policy == 0 || !k.entries[0].Asks {
				t.Errorf("%+v", e)
			}
			if get(k.records[4], record.FieldActor) != "carol" || get(k.records[4], record.FieldActorEmail) != "carol@example.org" || get(k.records[0], record.FieldVerdict) != "ask" {
				t.Errorf("the records do not say who decided")
			}
		}
	}
}

func leafOf(t *testing.T, e record.Entry) tlog.Hash {
	t.Helper()
	b, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return tlog.HashLeaf(b)
}

// Whoever cannot wait is told to come back, and then passes once.
func TestApprovedLater(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
	w.faulty = true // questions are left open
	a := w.call(callerKey, "/v1/chat/completions", ask("ask", "later"))
	if a.status != 409 || a.header.Get("X-Should-Retry") != "true" || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "approval_pending") || !strings.Contains(a.body, "https://gw.example/.tallystick/approvals/"+a.session) {
		t.Fatalf("%+v", a)
	}
	id := a.session
	if b := w.call(callerKey, "/v1/chat/completions", ask("ask", "later")); b.status != 409 || b.session == id || !strings.Contains(b.body, id) {
		t.Errorf("%+v", b)
	} else {
		w.tells(b.session, "request waiting")
	}
	w.must(daveKey, id, "approve")
	// Approve A, then send B: in each of these something is not what was approved.
	for name, other := range map[string]func() answer{
		"another prompt": func() answer { return w.call(callerKey, "/v1/chat/completions", ask("ask", "later!")) },
		"another caller": func() answer { return w.call(bobKey, "/v1/chat/completions", ask("ask", "later")) },
		"a query":        func() answer { return w.call(callerKey, "/v1/chat/completions?x=1", ask("ask", "later")) },
		"a space more":   func() answer { return w.call(callerKey, "/v1/chat/completions", ask("ask", "later")+" ") },
		"another header": func() answer {
			req, _ := http.NewRequest("POST", w.base+"/v1/chat/completions", strings.NewReader(ask("ask", "later")))
			req.Header.Set("Authorization", "Bearer "+callerKey)
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("OpenAI-Organization", "org-2")
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return answer{status: resp.StatusCode, session: resp.Header.Get(SessionHeader)}
		},
	} {
		if b := other(); b.status != 409 {
			t.Errorf("%s: %+v", name, b)
		}
	}
	if w.modelGot() != 0 {
		t.Fatal("something went to the model")
	}
	b := w.call(callerKey, "/v1/chat/completions", ask("ask", "later"))
	if b.status != 200 {
		t.Fatalf("%+v", b)
	}
	w.tells(b.session, "request used complete")
	k := w.tells(id, "request question access granted resumed")
	if u := w.sessions()[mustID(t, b.session)]; u.entries[1].Grant != leafOf(t, k.entries[3]) || get(u.records[1], record.FieldApproval) != id {
		t.Error("the use does not name the yes")
	}
	// A second use is another question.
	if c := w.call(callerKey, "/v1/chat/completions", ask("ask", "later")); c.status != 409 || w.modelGot() != 1 {
		t.Errorf("a second use: %+v, %d calls at the model", c, w.modelGot())
	}
}

func mustID(t *testing.T, s string) record.ID {
	t.Helper()
	id, err := record.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// No is no, now and when the caller asks again, and nobody's answer is one.
func TestDenied(t *testing.T) {
	t.Parallel()
	w := newAsking(t, nil)
	done := w.calling(callerKey, "/v1/chat/completions", ask("ask", "no?"))
	id := w.waiting(daveKey, 1)[0].ID
	if code, body := w.own(daveKey, "POST", id, `{"decision":"deny"}`); code != 400 {
		t.Errorf("a no without a reason: %d %s", code, body)
	}
	if code, body := w.own(daveKey, "POST", id, `{"decision":"deny","reason":"not on a Friday"}`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	if a := <-done; a.status != 403 || !strings.Contains(a.body, "approval_denied") || !strings.Contains(a.body, "not on a Friday") || a.header.Get("X-Should-Retry") != "false" || !strings.Contains(a.body, "permission_error") {
		t.Errorf("%+v", a)
	}
	w.tells(id, "request question denied denied")
	a := w.call(callerKey, "/v1/chat/completions", ask("ask", "no?"))
	if a.status != 403 {
		t.Errorf("asked again: %+v", a)
	}
	w.tells(a.session, "approval_denied")

	done = w.calling(callerKey, "/v1/chat/completions", ask("brief", "quick"))
	id = w.waiting(daveKey, 1)[0].ID
	if a := <-done; a.status != 403 || !strings.Contains(a.body, "approval_expired") {
		t.Errorf("%+v", a)
	}
	w.tells(id, "request question expired denied")
	if code, body := w.decide(daveKey, id, "approve"); code != 409 {
		t.Errorf("a stale link: %d %s", code, body)
	}
	if a := w.call(callerKey, "/v1/chat/completions", ask("no", "x")); a.status != 403 || !strings.Contains(a.body, "policy_denied") {
		t.Errorf("%+v", a)
	}
	if w.modelGot() != 0 {
		t.Error("something went to the model")
	}
}

// Who may say yes, and how often.
func TestWhoDecides(t *testing.T) {
	t.Parallel()
	w := newAsking(t, nil)
	done := w.calling(carolsKey, "/v1/chat/completions", ask("two", "mine"))
	id := w.waiting(daveKey, 1)[0].ID
	post := func(key, what string) (int, string) {
		return w.own(key, "POST", id, fmt.Sprintf(`{"decision":%q,"reason":"because of reasons"}`, what))
	}
	for _, row := range []struct {
		what string
		do   func() (int, string)
		code int
		word string
	}{
		{"nobody", func() (int, string) { return post("tk-nobody-1234567890abcdef", "approve") }, 401, "invalid_api_key"},
		{"not asked", func() (int, string) { return post(callerKey, "approve") }, 404, "unknown_approval"},
		{"not asked, a look", func() (int, string) { return w.own(callerKey, "GET", id, "") }, 404, "unknown_approval"},
		{"her own", func() (int, string) { return post(carolsKey, "approve") }, 403, "self_approval"},
		{"her own, denied", func() (int, string) { return post(carolsKey, "deny") }, 403, "self_approval"},
		{"herself under another name", func() (int, string) { return w.decide(aliceTwo, id, "approve") }, 403, "self_approval"},
		{"without a look", func() (int, string) { return post(daveKey, "approve") }, 428, "look_first"},
		{"the glass, without a look", func() (int, string) { return post(erinKey, "break_glass") }, 428, "look_first"},
		{"the glass, by one who may not", func() (int, string) { return w.decide(daveKey, id, "break_glass") }, 404, "unknown_approval"},
		{"a GET that decides", func() (int, string) { return w.own(daveKey, "GET", id+"?decision=approve&reason=x", "") }, 404, ""},
		{"a mail scanner's HEAD", func() (int, string) { return w.own(daveKey, "HEAD", id, "") }, 405, ""},
		{"OPTIONS", func() (int, string) { return w.own(daveKey, "OPTIONS", id, "") }, 405, ""},
		{"PUT", func() (int, string) { return w.own(daveKey, "PUT", id, "{}") }, 405, ""},
		{"no JSON", func() (int, string) { return w.own(daveKey, "POST", id, "decision=approve") }, 400, "invalid_json"},
		{"two JSONs", func() (int, string) { return w.own(daveKey, "POST", id, `{"decision":"approve"}{}`) }, 400, "invalid_json"},
		{"an unknown member", func() (int, string) { return w.own(daveKey, "POST", id, `{"decision":"approve","for":"x"}`) }, 400, "invalid_json"},
		{"no decision", func() (int, string) { return w.own(daveKey, "POST", id, `{}`) }, 400, "no_decision"},
		{"another approval", func() (int, string) {
			return w.own(daveKey, "POST", record.NewID(time.Now()).String(), `{"decision":"approve"}`)
		}, 404, "unknown_approval"},
		{"no id", func() (int, string) { return w.own(daveKey, "POST", "x", `{"decision":"approve"}`) }, 404, "unknown_approval"},
		{"one yes", func() (int, string) { return w.decide(daveKey, id, "approve") }, 200, `"waiting"`},
		{"the same once more", func() (int, string) { return w.decide(daveKey, id, "approve") }, 409, "decided_before"},
	} {
		if code, body := row.do(); code != row.code || !strings.Contains(body, row.word) {
			t.Errorf("%s: %d %s", row.what, code, body)
		}
	}
	for name, head := range map[string][3]string{
		"a form":           {"Content-Type", "application/x-www-form-urlencoded"},
		"plain text":       {"Content-Type", "text/plain"},
		"another origin":   {"Origin", "https://evil.example"},
		"an opaque origin": {"Origin", "null"},
		"cross-site":       {"Sec-Fetch-Site", "cross-site"},
		"same-site":        {"Sec-Fetch-Site", "same-site"},
	} {
		req, _ := http.NewRequest("POST", w.base+approvalsPrefix+id, strings.NewReader(`{"decision":"deny","reason":"x"}`))
		req.Header.Set("Authorization", "Bearer "+daveKey)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(head[0], head[1])
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 403 && resp.StatusCode != 415 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	if w.modelGot() != 0 {
		t.Error("something went to the model")
	}
	if code, body := w.decide(erinKey, id, "break_glass"); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if a := <-done; a.status != 200 {
		t.Errorf("%+v", a)
	}
	if !strings.Contains(w.said.String(), "BROKE THE GLASS") {
		t.Error("nobody is told that the glass was broken")
	}
	if code, body := w.decide(daveKey, id, "deny"); code != 409 && code != 404 {
		t.Errorf("after it: %d %s", code, body)
	}
	for _, k := range w.sessions() {
		if k.entries[0].Session.String() == id && !strings.HasSuffix(strings.ReplaceAll(k.story(), " access", ""), "request question agreed broke_glass used complete") {
			t.Error(k.story())
		}
	}
}

// A caller who leaves does not take the question away, and many that wait for one yes do not all pass.
func TestOneYesOneCall(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = 10 * time.Second })
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		resp, err := w.do(ctx, "POST", "/v1/chat/completions", ask("ask", "race"))
		if err == nil {
			resp.Body.Close()
		}
		close(gone)
	}()
	id := w.waiting(carolsKey, 1)[0].ID
	cancel()
	<-gone
	var all []<-chan answer
	for range 8 {
		all = append(all, w.calling(callerKey, "/v1/chat/completions", ask("ask", "race")))
	}
	for n := 0; n < 9; time.Sleep(5 * time.Millisecond) {
		n = 0
		for _, k := range w.sessions() {
			if k.entries[0].Asks {
				n++
			}
		}
	}
	w.must(carolsKey, id, "approve")
	passed := 0
	for _, c := range all {
		switch a := <-c; {
		case a.status == 200:
			passed++
			w.tells(a.session, "request used complete")
		case a.status != 409 || !strings.Contains(a.body, "approval_used"):
			t.Errorf("%+v", a)
		default:
			w.tells(a.session, "request waiting")
		}
	}
	if passed != 1 || w.modelGot() != 1 {
		t.Errorf("%d passed, and the model got %d", passed, w.modelGot())
	}
	w.tells(id, "request question access granted resumed")
}

// A gateway that dies in any state of a question goes on with it in its next life.
func TestAskedBeforeARestart(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]struct {
		do   func(w *world, id string)
		then func(w *world, id string)
	}{
		"asked": {func(*world, string) {}, func(w *world, id string) {
			w.must(carolsKey, id, "approve")
			w.must(daveKey, id, "approve")
		}},
		"half": {func(w *world, id string) { w.must(carolsKey, id, "approve") }, func(w *world, id string) {
			if code, body := w.decide(carolsKey, id, "approve"); code != 409 || !strings.Contains(body, "decided_before") {
				w.t.Errorf("carol once more: %d %s", code, body)
			}
			w.must(daveKey, id, "approve")
		}},
		"granted": {func(w *world, id string) { w.must(carolsKey, id, "approve"); w.must(daveKey, id, "approve") }, func(w *world, id string) {
			if code, body := w.decide(daveKey, id, "approve"); code != 409 {
				w.t.Errorf("dave once more: %d %s", code, body)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newAsking(t, func(c *Config) { c.Approvals.Hold = -1 })
			a := w.call(callerKey, "/v1/chat/completions", ask("two", "restart"))
			step.do(w, a.session)
			w.faulty = true
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			w.start(asking(func(c *Config) { c.Approvals.Hold = -1 }))
			w.waiting(carolsKey, 1)
			step.then(w, a.session)
			b := w.call(callerKey, "/v1/chat/completions", ask("two", "restart"))
			if b.status != 200 || w.modelGot() != 1 {
				t.Fatalf("%+v", b)
			}
			w.tells(b.session, "request used complete")
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				s := strings.ReplaceAll(w.sessions()[mustID(t, a.session)].story(), " access", "")
				if s == "request question agreed granted resumed" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(s)
				}
			}
			if c := w.call(callerKey, "/v1/chat/completions", ask("two", "restart")); c.status != 409 || w.modelGot() != 1 {
				t.Errorf("a second use: %+v", c)
			}
		})
	}
}

// Two gateways that share a log: asked at one, decided there, resumed at the other; and of one yes there is one use, whoever
// is asked to use it at once.
func TestTwoGateways(t *testing.T) {
	t.Parallel()
	shared := func(id string, log *tlogtest.Log) func(*Config) {
		return asking(func(c *Config) {
			c.ID, c.Log = id, log
			c.Approvals.Hold = 300 * time.Millisecond
			c.Approvals.Tail = log
		})
	}
	one := newWorld(t, func(c *Config) { shared("gw-one", c.Log.(*tlogtest.Log))(c) })
	two := newWorld(t, func(c *Config) { shared("gw-two", one.log)(c) })
	two.log, two.keys = one.log, one.keys
	one.faulty, two.faulty = true, true
	two.stop()
	two.start(func(c *Config) { shared("gw-two", one.log)(c); c.Keys = one.keys })

	for i := range 6 {
		body := ask("ask", fmt.Sprint("shared ", i))
		first := one.calling(callerKey, "/v1/chat/completions", body)
		q := one.waiting(carolsKey, 1)[0].ID
		before := one.modelGot() + two.modelGot()
		a := <-first
		if a.status != 409 {
			t.Fatalf("%+v", a)
		}
		var all []<-chan answer
		if i%3 > 0 {
			all = append(all, two.calling(callerKey, "/v1/chat/completions", body)) // waits there
		}
		one.must(carolsKey, q, "approve")
		all = append(all, two.calling(callerKey, "/v1/chat/completions", body))
		if i%3 > 1 {
			all = append(all, one.calling(callerKey, "/v1/chat/completions", body))
		}
		passed := 0
		for _, c := range all {
			if b := <-c; b.status == 200 {
				passed++
			} else if b.status != 409 {
				t.Errorf("%+v", b)
			}
		}
		if n := one.modelGot() + two.modelGot() - before; passed != 1 || n != 1 {
			t.Errorf("round %d: %d passed, and the models got %d", i, passed, n)
		}
		one.tells(q, "request question access granted resumed")
		for _, w := range []*world{one, two} {
			for _, v := range w.open4(carolsKey) {
				w.own(carolsKey, "POST", v.ID, `{"decision":"deny","reason":"enough"}`)
			}
		}
		one.waiting(carolsKey, 0)
	}
}

func (w *world) open4(key string) []Question {
	var out struct{ Approvals []Question }
	_, body := w.own(key, "GET", "", "")
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		w.t.Fatal(err)
	}
	return out.Approvals
}

// What the log does not take does not count: no question, no decision, no use, and then no call.
func TestApprovalsNeedTheLog(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Open} {
		w := newAsking(t, func(c *Config) { c.Mode = mode })
		w.faulty = true
		w.call(callerKey, "/v1/chat/completions", ask("fine", "first"))
		calls := w.modelGot()
		failOn := func(reason string) func() {
			w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
				for _, l := range leaves {
					if e, err := record.ParseEntry(l.Entry); err == nil && (e.Kind == record.Approval && (e.Reason == reason || reason == "question" && e.Tag != tlog.Hash{}) || reason == "access" && e.Kind == record.Access) {
						return tlog.ErrBusy
					}
				}
				return nil
			}})
			return func() { w.log.Inject(tlogtest.Faults{}) }
		}
		heal := failOn("question")
		if a := w.call(callerKey, "/v1/chat/completions", ask("ask", "1")); a.status != 503 {
			t.Errorf("%+v", a)
		}
		heal()
		done := w.calling(callerKey, "/v1/chat/completions", ask("ask", "2"))
		id := w.waiting(carolsKey, 1)[0].ID
		heal = failOn("access")
		if code, body := w.own(carolsKey, "GET", id, ""); code != 503 || strings.Contains(body, "messages") {
			t.Errorf("%d %s", code, body)
		}
		heal()
		heal = failOn(record.Granted)
		if code, body := w.decide(carolsKey, id, "approve"); code != 503 {
			t.Errorf("%d %s", code, body)
		}
		heal()
		heal = failOn(record.Used)
		w.must(carolsKey, id, "approve")
		if a := <-done; a.status != 503 {
			t.Errorf("%+v", a)
		}
		if n := w.modelGot(); n != calls {
			t.Errorf("%v: the model got %d", mode, n-calls)
		}
		heal()
		if a := w.call(callerKey, "/v1/chat/completions", ask("ask", "2")); a.status != 200 {
			t.Errorf("the yes was lost: %+v", a)
		}
		w.tells(id, "request question access access granted resumed")
	}
}

// Another version of the policy is an entry of its own, and each request names the one that judged it.
func TestPolicyOnRecord(t *testing.T) {
	t.Parallel()
	w := newAsking(t, nil)
	first := w.call(callerKey, "/v1/chat/completions", ask("fine", "x"))
	if err := w.g.SetPolicy(t.Context(), words{text: "rules 2"}); err != nil {
		t.Fatal(err)
	}
	second := w.call(callerKey, "/v1/chat/completions", ask("fine", "x"))
	w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
		if holds(leaves, record.Policy) {
			return tlog.ErrBusy
		}
		return nil
	}})
	if err := w.g.SetPolicy(t.Context(), words{text: "rules 3"}); !errors.Is(err, tlog.ErrBusy) {
		t.Error(err)
	}
	third := w.call(callerKey, "/v1/chat/completions", ask("fine", "x"))
	w.log.Inject(tlogtest.Faults{})
	entries := w.entries()
	rules := func(s answer) string {
		k := w.session(s.session)
		i := slices.IndexFunc(entries, func(e record.Entry) bool {
			return e.Kind == record.Policy && e.Boot == k.entries[0].Boot && e.Seq == k.entries[0].Policy
		})
		if i < 0 {
			return "none"
		}
		return get(w.open(entries[i]), record.FieldRules)
	}
	if a, b, c := rules(first), rules(second), rules(third); a != "rules 1" || b != "rules 2" || c != "rules 2" {
		t.Error(a, b, c)
	}
}

// Notices tell people, and have no content.
func TestNotices(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	w := newAsking(t, func(c *Config) {
		c.Approvals.Notify = func(n Notice) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %s %s %d/%d %s %v", n.Event, n.Caller, n.Rule, n.Got, n.Need, n.Actor, n.URL == "https://gw.example/.tallystick/approvals/"+n.Approval.String()))
		}
	})
	done := w.calling(callerKey, "/v1/chat/completions", ask("two", "x"))
	id := w.waiting(carolsKey, 1)[0].ID
	w.must(carolsKey, id, "approve")
	w.must(daveKey, id, "approve")
	<-done
	mu.Lock()
	defer mu.Unlock()
	want := []string{"asked alice very-risky 0/2 alice true", "agreed alice very-risky 1/2 carol true", "granted alice very-risky 2/2 dave true"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A yes may be good for less than the question's time, and a call need not be kept waiting at all.
func TestYesUntil(t *testing.T) {
	t.Parallel()
	w := newAsking(t, nil)
	a := w.call(callerKey, "/v1/chat/completions", ask("valid", "x"))
	if a.status != 409 {
		t.Fatalf("%+v", a)
	}
	w.must(carolsKey, a.session, "approve")
	w.tells(a.session, "request question access granted expired denied")
	if b := w.call(callerKey, "/v1/chat/completions", ask("valid", "x")); b.status != 403 || w.modelGot() != 0 {
		t.Errorf("%+v", b)
	}
}

// Quotas count calls that pass, and what they used, for each principal.
func TestQuotas(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) {
		c.Policy = words{text: "q", quotas: []*Quota{{Name: "few", Requests: 4, Tokens: 1_000_000, Window: time.Hour, Concurrent: 1}}}
	})
	for i := range 4 {
		if a := w.call(callerKey, "/v1/chat/completions", ask("fine", "x")); a.status != 200 {
			t.Fatalf("%d: %+v", i, a)
		}
	}
	a := w.call(callerKey, "/v1/chat/completions", ask("fine", "x"))
	if a.status != 429 || !strings.Contains(a.body, "quota few") || !strings.Contains(a.body, "rate_limit_error") || a.header.Get("Retry-After") == "" || a.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%+v", a)
	}
	w.tells(a.session, "quota_exceeded")
	if a := w.call(bobKey, "/v1/chat/completions", ask("fine", "x")); a.status != 200 {
		t.Errorf("another principal: %+v", a)
	}
	slow := `{"model":"fake-1","messages":[{"role":"user","content":"/wait 2s /say x"}]}`
	one := w.calling(daveKey, "/v1/chat/completions", slow)
	for w.modelGot() < 6 {
		time.Sleep(time.Millisecond)
	}
	if a := w.call(daveKey, "/v1/chat/completions", ask("fine", "x")); a.status != 429 || a.header.Get("X-Should-Retry") != "true" {
		t.Errorf("a second at a time: %+v", a)
	}
	<-one
	if a := w.call(daveKey, "/v1/chat/completions", ask("fine", "x")); a.status != 200 {
		t.Errorf("after it: %+v", a)
	}
}

// Whoever waits for a stream hears comments once it has waited in silence, and then the stream, or an error event.
func TestWaitsInTheStream(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) { c.Approvals.Hold = 100 * time.Millisecond })
	body := func(prompt string) string {
		return fmt.Sprintf(`{"model":"fake-1","user":"ask","stream":true,"max_tokens":100,"messages":[{"role":"user","content":%q}]}`, prompt)
	}
	for _, c := range []struct {
		name, path, prompt, decide string
		has                        []string
		story                      string
	}{
		{"approved", "/v1/chat/completions", "/say one two", "approve", []string{": waiting for approval ", "two", "data: [DONE]\n\n"}, "granted used complete"},
		{"approved, messages", "/v1/messages", "/say one two", "approve", []string{": waiting for approval ", "two", "event: message_stop\n"}, "granted used complete"},
		{"denied", "/v1/chat/completions", "x", "deny", []string{`data: {"type":"error","error":{"type":"permission_error"`, "approval_denied"}, "denied denied"},
		{"denied, messages", "/v1/messages", "x", "deny", []string{"event: error\ndata: {", `"permission_error"`}, "denied denied"},
		{"the model refuses", "/v1/chat/completions", "/error 429", "approve", []string{`"rate_limit_error"`}, "granted used complete"},
		{"the model cuts it", "/v1/chat/completions", "/cut 2 /say one two three", "approve", nil, "granted used truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			type out struct {
				head int
				body string
				id   string
				err  error
			}
			done := make(chan out, 1)
			begun := make(chan struct{})
			go func() {
				resp, err := w.do(context.Background(), "POST", c.path, body(c.prompt))
				if err != nil {
					close(begun)
					done <- out{err: err}
					return
				}
				defer resp.Body.Close()
				close(begun)
				b, err := io.ReadAll(resp.Body)
				done <- out{resp.StatusCode, string(b), resp.Header.Get(SessionHeader), err}
			}()
			id := w.waiting(carolsKey, 1)[0].ID
			<-begun // its head came before anybody decided
			w.must(carolsKey, id, c.decide)
			got := <-done
			if got.head != 200 || got.id != id || (got.err != nil) != (c.has == nil) {
				t.Fatalf("%+v", got)
			}
			for _, s := range c.has {
				if !strings.Contains(got.body, s) {
					t.Errorf("%q does not say %q", got.body, s)
				}
			}
			w.tells(id, "request question access "+c.story)
		})
	}
	t.Run("the caller leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := w.do(ctx, "POST", "/v1/chat/completions", body("leaving"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		resp.Body.Close()
		id := w.waiting(carolsKey, 1)[0].ID
		for w.g.active.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		w.must(carolsKey, id, "approve")
		before := w.modelGot()
		b := w.call(callerKey, "/v1/chat/completions", body("leaving"))
		if b.status != 200 || w.modelGot() != before+1 {
			t.Errorf("%+v", b)
		}
		w.tells(id, "request question access granted resumed")
	})
	t.Run("the gateway stops", func(t *testing.T) {
		resp, err := w.do(t.Context(), "POST", "/v1/chat/completions", body("stopping"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		w.faulty = true
		stopped := make(chan error, 1)
		go func() { stopped <- w.stop() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(b), "approval_pending") {
			t.Errorf("%q %v", b, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
