package search

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// someTerm is a term of a query, in its text.
func someTerm(r *rand.Rand, base time.Time) string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	word := func() string { return vocabulary[r.IntN(len(vocabulary))] }
	not := pick("", "", "-")
	switch r.IntN(14) {
	case 0, 1, 2:
		return not + `"` + word() + `"`
	case 3:
		return not + `"` + word() + " " + word() + `"`
	case 4:
		return not + pick("k*", "ke*", "key*", "zur*", `"the ke"*`, "x*")
	case 5:
		return not + pick("caller:alice", "caller:ALICE@example.com", `caller:"carol ann"`, "caller:a*", "caller:nobody", "caller:*")
	case 6:
		return not + pick("model:gpt-5", "model:gpt*", "model:zoë/mod", "route:chat", "group:eng", "rule:pii", "verdict:ask", "finding:card", "finding:IBAN")
	case 7:
		return not + pick("status:200", "status:4xx", "status:>=500", "status:<300", "status:100", "status:429..500")
	case 8:
		return not + pick("outcome:complete", "outcome:open", "outcome:refused", "outcome:policy", "approval:none", "approval:asked", "approval:granted", "approval:denied", "approval:erin")
	case 9, 10:
		return not + fmt.Sprintf("tokens:%s%d", pick(">", "<", ">=", "<=", ""), r.IntN(5000))
	case 11, 12:
		return not + fmt.Sprintf("duration:%s%dms", pick(">", "<", ">=", "<="), r.IntN(3000))
	}
	return not + pick("since:", "until:") + base.Add(time.Duration(r.IntN(200))*time.Second).Format(time.RFC3339)
}

// What the index finds is what one finds who looks at every session; page by page, while sessions are open and when they have
// ended, after a restart, and in an index that was made again.
func TestFindsWhatHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
	base := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	w := newWorld(t, false)
	var queries []string
	for range 150 {
		var terms []string
		for range 1 + r.IntN(3) {
			terms = append(terms, someTerm(r, base))
		}
		queries = append(queries, strings.Join(terms, " "))
	}
	check := func() {
		t.Helper()
		w.caughtUp(t)
		var docs []doc
		of := make(map[record.ID]*verify.Session)
		var order []record.ID
		for _, s := range w.seen {
			id := s.Entry.Session
			if of[id] == nil {
				of[id] = &verify.Session{ID: id}
				order = append(order, id)
			}
			of[id].Entries = append(of[id].Entries, verify.Entry{Index: s.Index, Bytes: s.Bytes, Fields: verify.Fields(s.Record, func(string) bool { return true })})
		}
		for _, id := range slices.Backward(order) {
			docs = append(docs, docOf(*of[id]))
		}
		some := 0
		for _, q := range queries {
			want, err := audit.ParseQuery(q, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			var holds []record.ID
			for i := range docs {
				if docs[i].hold(want) {
					holds = append(holds, docs[i].hit.Session)
				}
			}
			if len(holds) > 0 {
				some++
			}
			if found := w.find(t, q, 1+r.IntN(40)); !slices.Equal(found, holds) {
				t.Fatalf("%s: found %d, and of %d it holds\n%v\n%v", q, len(found), len(holds), found, holds)
			}
		}
		if some < len(queries)/4 {
			t.Fatalf("only %d of %d queries find anything", some, len(queries))
		}
	}
	var under []*call
	for i := range 200 {
		at := base.Add(time.Duration(i)*time.Second - time.Duration(r.IntN(30))*time.Second) // clocks differ
		c := someCall(r, at)
		c.begin(t, w.testLog)
		for _, reason := range c.ask {
			c.decide(t, w.testLog, reason)
		}
		under = append(under, c)
		for len(under) > 20 {
			n := r.IntN(len(under))
			under[n].end(t, w.testLog)
			under = slices.Delete(under, n, n+1)
		}
		if i == 100 {
			check()
			w.reopen(t)
		}
	}
	check()
	for _, c := range under {
		c.end(t, w.testLog)
	}
	check()
	if err := w.ix.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}
