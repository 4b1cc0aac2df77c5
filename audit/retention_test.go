package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func aged(t testing.TB, s string) Age {
	t.Helper()
	if s == "" {
		return Age{}
	}
	a, err := ParseAge(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func day(s string) time.Time {
	d, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return d
}

func TestAge(t *testing.T) {
	for _, c := range []struct{ age, from, then string }{
		{"0d", "2024-02-29", "2024-02-29"}, {"90d", "2026-01-01", "2026-04-01"}, {"2w", "2026-01-01", "2026-01-15"},
		{"6mo", "2026-01-31", "2026-07-31"}, {"1mo", "2026-01-31", "2026-03-03"}, {"1y", "2024-02-29", "2025-03-01"}, {"2y", "2024-01-01", "2026-01-01"},
		{"", "2024-02-29", "2024-02-29"},
	} {
		a := aged(t, c.age)
		if got := a.After(day(c.from)); !got.Equal(day(c.then)) {
			t.Errorf("%s after %s is %s, not %s", c.age, c.from, got, c.then)
		}
	}
	for _, s := range []string{"", "d", "90", "90 d", "-1d", "+1d", "01d", "1.5d", "1h", "1m", "1M", "1D", "1year", "36501d", "5215w", "1001y", "12001mo", "99999999999999999999d", "1d1d", "１d"} {
		if a, err := ParseAge(s); err == nil {
			t.Errorf("%q is read as %+v", s, a)
		}
	}
}

func FuzzParseAge(f *testing.F) {
	for _, s := range []string{"90d", "2y", "6mo", "26w", "0d", "36500d", "", "1", "d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAge(s)
		if err != nil {
			return
		}
		if again, err := ParseAge(a.String()); err != nil || again.After(day("2024-02-29")) != a.After(day("2024-02-29")) {
			t.Errorf("%q is %+v, which is written %q and read as %+v, %v", s, a, a, again, err)
		}
		if then := a.After(day("2026-11-25")); then.Before(day("2026-11-25")) || then.Year() > 9999 {
			t.Errorf("%q after today is %s", s, then)
		}
	})
}

// Whatever stands in which order, a hold is above everything, then what must be kept, then what must go.
func TestJudge(t *testing.T) {
	held := record.NewID(day("2026-01-01"))
	rules := Retention{
		{Name: "all", EraseAfter: aged(t, "90d")},
		{Name: "bank", Routes: []string{"bank"}, Keep: aged(t, "1y"), EraseAfter: aged(t, "2y")},
		{Name: "boss", Callers: []string{"boss"}, Keep: aged(t, "2y")},
		{Name: "case", Sessions: []record.ID{held}, Hold: "2026-17"},
		{Name: "both", Routes: []string{"x"}, Callers: []string{"y"}, EraseAfter: aged(t, "0d"), Basis: "nobody needs it"},
	}
	ended := day("2026-01-01")
	for _, c := range []struct {
		name, caller, route string
		id                  record.ID
		now                 string
		due                 bool
		by, why             string
	}{
		{"young", "a", "r", record.ID{1}, "2026-03-31", false, "", ""},
		{"due", "a", "r", record.ID{1}, "2026-04-01", true, "", ""},
		{"due and kept", "a", "bank", record.ID{1}, "2026-04-01", true, "bank", "until 2027-01-01T00:00:00Z, by the rule bank"},
		{"due and not kept any more", "a", "bank", record.ID{1}, "2027-01-01", true, "", ""},
		{"kept by the longest", "boss", "bank", record.ID{1}, "2027-06-01", true, "boss", "until 2028-01-01T00:00:00Z, by the rule boss"},
		{"held", "boss", "bank", held, "2030-01-01", true, "case", "the legal hold 2026-17 is on it, by the rule case"},
		{"half a match", "y", "r", record.ID{1}, "2026-01-02", false, "", ""},
		{"a whole match", "y", "x", record.ID{1}, "2026-01-01", true, "", ""},
	} {
		for range 20 {
			rules := slices.Clone(rules)
			slices.Reverse(rules[:3])
			j := rules.judge(c.id, c.caller, c.route, ended)
			why, by := j.forbids(day(c.now))
			name := ""
			if by != nil {
				name = by.Name
			}
			if j.isDue(day(c.now)) != c.due || name != c.by || !strings.Contains(why, c.why) {
				t.Errorf("%s: due %v, by %q: %s", c.name, j.isDue(day(c.now)), name, why)
			}
		}
	}
	if before, any := rules.due(day("2026-11-25")); !any || before.Before(day("2026-11-25")) {
		t.Errorf("due are those before %s, %v", before, any)
	}
	if _, any := rules[2:4].due(day("2026-11-25")); any {
		t.Error("something is due, and no rule wants anything erased")
	}
}

// No session that its rule wants erased is passed over because it ended too late to be looked at.
func FuzzDue(f *testing.F) {
	f.Add("90d", int64(0), int64(90*24))
	f.Add("1mo", int64(24*30), int64(24*31))
	f.Add("1y", int64(24*59), int64(24*366))
	f.Fuzz(func(t *testing.T, s string, from, hours int64) {
		a, err := ParseAge(s)
		if err != nil || from < 0 || hours < 0 || from > 24*40000 || hours > 24*40000 {
			return
		}
		ended := day("2000-01-01").Add(time.Duration(from) * time.Hour)
		now := ended.Add(time.Duration(hours) * time.Hour)
		rules := Retention{{Name: "r", EraseAfter: a}}
		j := rules.judge(record.ID{1}, "", "", ended)
		if before, any := rules.due(now); j.isDue(now) && (!any || !ended.Before(before)) {
			t.Errorf("%s: what ended at %s is due at %s, and only what ended before %s is looked at", s, ended, now, before)
		}
	})
}

// Rules refuse what people order, and the refusal is on record; and they have erased what is due, on their own ground.
func TestRetain(t *testing.T) {
	w := newWorld(t)
	call := func(caller, route string) record.ID {
		id := record.NewID(time.Now())
		q := w.put(record.Entry{Kind: record.Request, Session: id}, nil, of(record.FieldCaller, caller, record.FieldRoute, route, record.FieldBody, "b"))
		w.put(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, q, of(record.FieldBody, "a"))
		return id
	}
	due, kept, held, young := call("alice", "chat"), call("alice", "bank"), call("bob", "chat"), call("carol", "other")
	w.published()
	rules := Retention{
		{Name: "chat", Routes: []string{"chat"}, EraseAfter: aged(t, "0d"), Basis: "storage limitation"},
		{Name: "bank", Routes: []string{"bank"}, Keep: aged(t, "2y"), EraseAfter: aged(t, "0d")},
		{Name: "hold", Callers: []string{"bob"}, Hold: "case 17"},
		{Name: "rest", EraseAfter: aged(t, "90d")},
	}
	w.desk.Retention(func() Retention { return rules })
	for id, why := range map[record.ID]string{kept: "by the rule bank", held: "case 17"} {
		if f := w.is(id, Order{Try: true}); f.Fate != Kept || !strings.Contains(f.Why, why) {
			t.Errorf("to try it: %+v", f)
		}
		if f := w.is(id, Order{}); f.Fate != Kept || !strings.Contains(f.Why, why) || w.gone(id) {
			t.Errorf("%+v", f)
		}
		if got := w.readings(id); len(got) != 1 || !strings.HasPrefix(got[0], "ann; a complaint; erase, refused: ") || !strings.Contains(got[0], why) {
			t.Errorf("on record is %q", got)
		}
	}
	scheduled := Asker{Name: "gw-1", Reason: "schedule", Roles: Admin}
	retain := func(try bool) (said []string) {
		err := w.desk.Retain(t.Context(), scheduled, try, func(f Fate) error { said = append(said, f.Session.String()+" "+f.Fate); return nil })
		if err != nil {
			t.Error(err)
		}
		w.published()
		return said
	}
	if got := retain(true); !slices.Equal(got, []string{due.String() + " " + Would}) || w.gone(due) {
		t.Errorf("to try it: %q", got)
	}
	if got := retain(false); !slices.Equal(got, []string{due.String() + " " + Erased}) {
		t.Errorf("%q", got)
	}
	if got := retain(false); len(got) > 0 {
		t.Errorf("the second time: %q", got)
	}
	if !w.gone(due) || w.gone(kept) || w.gone(held) || w.gone(young) {
		t.Error("what is gone is not what was due")
	}
	for _, e := range w.entries() {
		if e.Kind != record.Erasure {
			continue
		}
		r, err := w.desk.record(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, name := range []string{record.FieldActor, record.FieldReason, record.FieldBasis, record.FieldRule} {
			v, _ := r.Get(name)
			said += string(v) + "; "
		}
		if e.Session != due || e.Reason != onRetention || said != "gw-1; schedule; storage limitation; chat; " {
			t.Errorf("%s is erased for %s: %s", e.Session, e.Reason, said)
		}
	}
	if err := w.desk.Retain(t.Context(), Asker{}, false, nil); !errors.Is(err, ErrNobody) {
		t.Errorf("for nobody: %v", err)
	}
	// Without rules nothing is due, and nothing is forbidden.
	rules = nil
	if got := retain(false); len(got) > 0 {
		t.Errorf("without rules: %q", got)
	}
	if f := w.is(kept, Order{}); f.Fate != Erased {
		t.Errorf("without rules: %+v", f)
	}
}

// When the log takes nothing, nothing is erased, and the desk says so instead of going on.
func TestEraseStops(t *testing.T) {
	w := newWorld(t)
	named := record.NewID(time.Now())
	w.put(record.Entry{Kind: record.Refused, Session: named, Reason: "by_rule"}, nil, of(record.FieldCaller, "alice", record.FieldRoute, "chat"))
	ids := []record.ID{named, w.session(record.NewID(time.Now()))}
	w.published()
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	var said []Fate
	err := w.desk.Erase(t.Context(), somebody, Order{Sessions: ids, Basis: "b"}, func(f Fate) error { said = append(said, f); return nil })
	if !errors.Is(err, tlog.ErrFull) || len(said) != 1 || said[0].Fate != Failed || said[0].Caller != "" || said[0].Route != "" {
		t.Errorf("%v, %+v", err, said)
	}
	w.log.Inject(tlogtest.Faults{})
	if w.gone(ids[0]) || w.gone(ids[1]) || len(w.erased()) > 0 {
		t.Error("something was erased")
	}
	// And when nobody listens any more.
	gone := errors.New("gone")
	if err := w.desk.Erase(t.Context(), somebody, Order{Sessions: ids, Basis: "b"}, func(Fate) error { return gone }); err != gone || w.gone(ids[1]) || !w.gone(ids[0]) {
		t.Errorf("%v", err)
	}
}

// A purging is a log with files.
type purging struct {
	Log
	err    error
	purged int
}

func (p *purging) Purge(context.Context) error { p.purged++; return p.err }

func TestOrders(t *testing.T) {
	w := newWorld(t)
	ids := []record.ID{w.session(record.NewID(time.Now())), w.session(record.NewID(time.Now())), w.session(record.NewID(time.Now()))}
	w.published()
	files := &purging{Log: w.log}
	w.desk.log = files
	const token = "op-0123456789abcdef0123"
	srv := httptest.NewServer(Handler(w.desk, sha256.Sum256([]byte(token)), slog.New(slog.DiscardHandler)))
	defer srv.Close()
	sessions := func(ids ...record.ID) string {
		b, err := json.Marshal(ids)
		if err != nil {
			t.Fatal(err)
		}
		return `{"basis":"b","sessions":` + string(b)
	}
	for _, c := range []struct {
		name, path, auth, actor, body string
		status                        int
		want                          string // the fates, and the last line
	}{
		{"to try it", "erase", token, "ann", sessions(ids[0]) + `,"try":true,"purge":true}`, 200, Would + `,{"done":true}`},
		{"one", "erase", token, "ann", sessions(ids[0]) + `}`, 200, Erased + `,{"done":true}`},
		{"another, and now", "erase", token, "ann", sessions(ids[1]) + `,"purge":true}`, 200, Erased + `,{"done":true,"purged":true}`},
		{"both again, and one that is not there", "erase", token, "ann", sessions(ids[0], ids[1], record.NewID(time.Now())) + `}`, 200, Already + "," + Already + "," + Unknown + `,{"done":true}`},
		{"nobody's", "erase", token, "ann", `{"basis":"b","caller":"nobody"}`, 200, `{"done":true}`},
		{"old ones", "erase", token, "ann", `{"basis":"b","before":"2001-01-01T00:00:00Z"}`, 200, `{"done":true}`},
		{"by nobody", "erase", token, "", sessions(ids[2]) + `}`, 400, ""},
		{"without a token", "erase", "op-x", "ann", sessions(ids[2]) + `}`, 401, ""},
		{"on no ground", "erase", token, "ann", `{"caller":"x"}`, 400, ""},
		{"everything", "erase", token, "ann", `{"basis":"b"}`, 400, ""},
		{"no order", "erase", token, "ann", ``, 400, ""},
		{"an order with what is not known", "erase", token, "ann", `{"basis":"b","calller":"x"}`, 400, ""},
		{"two orders", "erase", token, "ann", sessions(ids[2]) + `}{}`, 400, ""},
		{"too long an order", "erase", token, "ann", `{"basis":"` + strings.Repeat("b", maxBody) + `"}`, 400, ""},
		{"too many sessions", "erase", token, "ann", sessions(slices.Repeat([]record.ID{ids[2]}, MaxOrdered+1)...) + `}`, 400, ""},
		{"retention", "retain", token, "ann", `{}`, 200, `{"done":true}`},
		{"retention, and now", "retain", token, "ann", `{"purge":true}`, 200, `{"done":true,"purged":true}`},
		{"retention of somebody", "retain", token, "ann", `{"caller":"x"}`, 400, ""},
		{"retention by nobody", "retain", token, "", `{}`, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+Prefix+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+c.auth)
			req.Header.Set("Tallystick-Actor", c.actor)
			req.Header.Set("Tallystick-Reason", "a test")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var body bytes.Buffer
			body.ReadFrom(resp.Body)
			resp.Body.Close()
			w.published()
			if resp.StatusCode != c.status {
				t.Fatalf("status %d: %s", resp.StatusCode, body.String())
			}
			if c.status != 200 {
				return
			}
			var got []string
			for _, line := range strings.Split(strings.TrimSpace(body.String()), "\n") {
				var f Fate
				if err := json.Unmarshal([]byte(line), &f); err != nil || f.Fate == "" {
					got = append(got, line)
				} else {
					got = append(got, f.Fate)
				}
			}
			if s := strings.Join(got, ","); s != c.want {
				t.Errorf("%s", s)
			}
		})
	}
	if files.purged != 2 || w.gone(ids[2]) {
		t.Errorf("purged %d times", files.purged)
	}
	files.err = ErrNoPurge
	var b bytes.Buffer
	req := httptest.NewRequest(http.MethodPost, Prefix+"retain", strings.NewReader(`{"purge":true}`))
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", "ann")
	req.Header.Set("Tallystick-Reason", "a test")
	resp := httptest.NewRecorder()
	resp.Body = &b
	srv.Config.Handler.ServeHTTP(resp, req)
	if b.String() != `{"done":true}`+"\n" {
		t.Errorf("of a log that is elsewhere: %s", b.String())
	}
	if err := (&Desk{log: w.log}).Purge(t.Context()); !errors.Is(err, ErrNoPurge) {
		t.Errorf("of a log without files: %v", err)
	}
}

func FuzzParseOrdered(f *testing.F) {
	id := record.NewID(time.Now())
	f.Add([]byte(fmt.Sprintf(`{"sessions":["%s"],"basis":"b"}`, id)))
	f.Add([]byte(`{"caller":"a","before":"2026-01-01T00:00:00Z","try":true,"purge":true}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOrdered(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseOrdered(again)
		if err != nil || !slices.Equal(p.Sessions, o.Sessions) || p.Caller != o.Caller || !p.Before.Equal(o.Before) || p.Basis != o.Basis || p.Try != o.Try || p.Purge != o.Purge {
			t.Errorf("%s is %+v, written %s, read %+v, %v", b, o, again, p, err)
		}
	})
}
