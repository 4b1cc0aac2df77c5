package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/verify"
)

func TestParseQuery(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	micro := func(s string) int64 {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.UnixMicro()
	}
	const id = "0198f2c1-667b-7728-960c-f5ec8c385e21"
	for _, c := range []struct {
		text string
		want Term
	}{
		{"word", Term{Any: []string{"word"}}},
		{"-Word", Term{Not: true, Any: []string{"Word"}}},
		{`"in a row"`, Term{Any: []string{"in a row"}}},
		{"“in a row”", Term{Any: []string{"in a row"}}},
		{"„in a row“", Term{Any: []string{"in a row"}}},
		{`-"in a row"*`, Term{Not: true, Any: []string{"in a row"}, Prefix: true}},
		{"begin*", Term{Any: []string{"begin"}, Prefix: true}},
		{"don't", Term{Any: []string{"don't"}}},
		{`"AND"`, Term{Any: []string{"AND"}}},
		{"caller:alice", Term{Field: ByCaller, Any: []string{"alice"}}},
		{"CALLER:alice", Term{Field: ByCaller, Any: []string{"alice"}}},
		{`-caller:"Carol Ann"`, Term{Not: true, Field: ByCaller, Any: []string{"Carol Ann"}}},
		{"group:eng*", Term{Field: ByGroup, Any: []string{"eng"}, Prefix: true}},
		{"model:*", Term{Field: ByModel, Any: []string{""}, Prefix: true}},
		{"route:chat", Term{Field: ByRoute, Any: []string{"chat"}}},
		{"status:404", Term{Field: ByStatus, From: 404, To: 404}},
		{"status:4XX", Term{Field: ByStatus, From: 400, To: 499}},
		{"status:>=400", Term{Field: ByStatus, From: 400, To: math.MaxInt64}},
		{"status:<400", Term{Field: ByStatus, To: 399}},
		{"status:400..499", Term{Field: ByStatus, From: 400, To: 499}},
		{"outcome:truncated", Term{Field: ByOutcome, Any: []string{"truncated"}}},
		{"outcome:no_approval", Term{Field: ByOutcome, Any: []string{"no_approval"}}},
		{"verdict:ask", Term{Field: ByVerdict, Any: []string{"ask"}}},
		{"approval:denied", Term{Field: ByApproval, Any: []string{"denied"}}},
		{"finding:CARD", Term{Field: ByFinding, Any: []string{"CARD"}}},
		{"tokens:>1000", Term{Field: ByTokens, From: 1001, To: math.MaxInt64}},
		{"tokens:10..20", Term{Field: ByTokens, From: 10, To: 20}},
		{"duration:>2s", Term{Field: ByDuration, From: 2_000_001, To: math.MaxInt64}},
		{"-duration:<=300ms", Term{Not: true, Field: ByDuration, To: 300_000}},
		{"since:2h", Term{Field: ByTime, From: micro("2026-11-25T10:00:00Z"), To: math.MaxInt64}},
		{"since:7d", Term{Field: ByTime, From: micro("2026-11-18T12:00:00Z"), To: math.MaxInt64}},
		{"since:2026-11-01", Term{Field: ByTime, From: micro("2026-11-01T00:00:00Z"), To: math.MaxInt64}},
		{"until:2026-11-01", Term{Field: ByTime, From: math.MinInt64, To: micro("2026-11-01T23:59:59.999999Z")}},
		{"until:2026-11-01T12:00:00+01:00", Term{Field: ByTime, From: math.MinInt64, To: micro("2026-11-01T11:00:00Z")}},
		{"session:" + strings.ToUpper(id), Term{Field: BySession, Any: []string{id}}},
		{`value:"4111 1111 1111 1111"`, Term{Any: []string{"4111 1111 1111 1111"}}},
	} {
		w, err := ParseQuery("  "+c.text+"\n", now)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		g := w[0]
		if len(w) != 1 || g.Not != c.want.Not || g.Field != c.want.Field || !slices.Equal(g.Any, c.want.Any) || g.Prefix != c.want.Prefix || g.From != c.want.From || g.To != c.want.To {
			t.Errorf("%s: %+v", c.text, w)
		}
	}
	if w, err := ParseQuery("a \t b -c caller:d", now); err != nil || len(w) != 4 || w.String() != "a b -c caller:d" {
		t.Errorf("%v, %v", w, err)
	}
	if w, err := ParseQuery("", now); err != nil || len(w) != 0 {
		t.Errorf("nothing: %v, %v", w, err)
	}
}

// A mistake is told with what to write instead.
func TestParseQueryHelps(t *testing.T) {
	for text, says := range map[string]string{
		`"in a row`:                   "quotes",
		`"in a row"x`:                 "blank",
		"a OR b":                      "all terms must hold",
		"NOT b":                       "-word",
		"***":                         "no letter",
		`"a"**`:                       "blank",
		"*":                           "no letter",
		"--":                          "no letter",
		"⟦⟧":                          "no letter",
		"caller:":                     "caller:NAME",
		"colour:red":                  "no field \"colour\"",
		"https://example.com":         "in quotes",
		"status:teapot":               "status:404",
		"status:99":                   "status:4xx",
		"status:4*":                   "takes no *",
		"tokens:-1":                   "tokens:>1000",
		"tokens:>many":                "tokens:>1000",
		"duration:2s":                 "duration:>2s",
		"duration:>2":                 "duration:>2s",
		"since:yesterday":             "since:7d",
		"until:2026-13-01":            "until:2026-11-01",
		"since:99999999999999999999d": "since:2h",
		"since:-2h":                   "since:2h",
		"session:12":                  "all 36",
		"verdict:perhaps":             "allow, ask, refuse",
		"outcome:Not-Good":            "complete, truncated",
		strings.Repeat("a ", 33):      "32 terms",
		strings.Repeat("a", 5000):     "4096 bytes",
		"\xff":                        "UTF-8",
	} {
		_, err := ParseQuery(text, time.Now())
		if !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{`a "b c" -d* caller:"e f" status:>=400`, "since:2h until:2026-11-01", `value:“4111 1111 1111 1111”`, "tokens:1..2 duration:<3s", "-\"", ":", "-:*"} {
		f.Add(s)
	}
	maskers := testMaskers(f)
	now := time.Now()
	f.Fuzz(func(t *testing.T, text string) {
		w, err := ParseQuery(text, now)
		if err != nil {
			if !errors.Is(err, ErrQuery) {
				t.Fatal(err)
			}
			return
		}
		m, _ := w.masked(maskers)
		for _, t2 := range m {
			if (t2.Field == ByText) != (len(t2.Any) > 0 && t2.field == "" || t2.field == "value") {
				t.Fatalf("%+v", t2)
			}
		}
		// What is put on record can be read again and means as much.
		if again, err := ParseQuery(w.String(), now); err != nil || len(again) != len(w) {
			t.Fatalf("%q became %q: %v", text, w.String(), err)
		}
	})
}

// testMaskers are two sets of masks: they have other keys, and one keeps only the last four digits of a card.
func testMaskers(t testing.TB) []Masker {
	t.Helper()
	var all []Masker
	for i, actions := range []map[mask.Kind]mask.Action{nil, {mask.Card: mask.Last4, mask.IBAN: mask.Drop}} {
		m, err := mask.New(mask.Config{Key: []byte(strings.Repeat(string(rune('a'+i)), 32)), Actions: actions})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, func(s string) string { b, _ := m.Text(nil, []byte(s)); return string(b) })
	}
	return all
}

// A value is looked for by what stands for it in records, wherever in a query it is, and in what is put on record it is not.
func TestValuesAreLookedForByTheirMasks(t *testing.T) {
	maskers := testMaskers(t)
	const card, iban = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"
	token, last4 := maskers[0](card), maskers[1](card)
	if !strings.HasPrefix(token, "⟦CARD:") || last4 != "⟦CARD:…1111⟧" {
		t.Fatal(token, last4)
	}
	for _, c := range []struct {
		text  string
		terms int
		any   []string // of the term that has the value
		notes string
	}{
		{`value:"4111 1111 1111 1111"`, 1, []string{card, token, last4}, ""},
		{"leaked " + card + " today", 3, []string{card, token, last4}, ""},
		{"4111111111111111", 1, []string{"4111111111111111", token, last4}, ""},
		{`-"4111-1111-1111-1111"`, 1, []string{"4111-1111-1111-1111", token, last4}, ""},
		{`"pay with 4111 1111 1111 1111 now"`, 1, []string{"pay with " + card + " now", "pay with " + token + " now", "pay with " + last4 + " now"}, ""},
		{iban, 1, []string{iban, maskers[0](iban)}, "of a IBAN nothing stays"},
		{"value:hello", 1, []string{"hello"}, "no mask is made of"},
	} {
		w, err := ParseQuery(c.text, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		m, notes := w.masked(maskers)
		if len(m) != c.terms || !slices.ContainsFunc(m, func(t Term) bool { return slices.Equal(t.Any, c.any) }) {
			t.Errorf("%s: %+v", c.text, m)
		}
		if got := strings.Join(notes, "; "); !strings.Contains(got, c.notes) || (got == "") != (c.notes == "") {
			t.Errorf("%s: notes %q", c.text, got)
		}
		said := all(m.String(), maskers)
		if strings.Contains(said, "1111 1111") || strings.Contains(said, "11111111") || strings.Contains(said, "3704 0044") {
			t.Errorf("%s: on record is %s", c.text, said)
		}
	}
}

// fakeIndex finds what it is told to.
type fakeIndex struct {
	asked []Wanted
	page  Page
	built int
}

func (x *fakeIndex) Find(_ context.Context, want Wanted, after string, most int) (Page, error) {
	x.asked = append(x.asked, want)
	p := x.page
	p.Hits = slices.Clone(p.Hits)
	return p, nil
}

func (x *fakeIndex) Snippet(s verify.Session, want Wanted) (string, [][2]int) {
	var text string
	for _, e := range s.Entries {
		for _, f := range e.Fields {
			text += string(f.Shown.Value) + ";"
		}
	}
	return text, nil
}

func (x *fakeIndex) Rebuild(context.Context) error           { x.built++; return nil }
func (x *fakeIndex) Forget(context.Context, record.ID) error { return nil }

// A search is on record before anything is found, with masks in it; what was found is shown with words of its records while they are
// there; and so it is over HTTP.
func TestSearch(t *testing.T) {
	w := newWorld(t)
	if _, err := w.desk.Search(t.Context(), somebody, Query{}); !errors.Is(err, ErrNoIndex) {
		t.Errorf("without an index: %v", err)
	}
	index := &fakeIndex{}
	w.desk.Indexed(index, testMaskers(t)...)
	id := w.session(record.NewID(time.Now()))
	size := w.published()
	for _, e := range w.entries() {
		if e.Session == id {
			index.page.Hits = []Hit{{Session: id, Entries: []uint64{size - 2, size - 1}}}
		}
	}
	index.page.Indexed = size
	p, err := w.desk.Search(t.Context(), somebody, Query{Text: "answered 4111 1111 1111 1111 caller:4111111111111111"})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Hits[0].Snippet; !strings.Contains(s, "asked in "+id.String()) || !strings.Contains(s, "answered in") {
		t.Errorf("snippet %q", s)
	}
	if len(index.asked[0]) != 3 || len(index.asked[0][1].Any) != 3 {
		t.Errorf("asked %+v", index.asked[0])
	}
	w.published()
	trail, _, err := w.desk.Trail(t.Context(), somebody, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(trail, func(r Reading) bool { return strings.HasPrefix(r.What, "search, answered") })
	if i < 0 || strings.Contains(trail[i].What, "1111 1111") || strings.Contains(trail[i].What, "11111111") || !strings.Contains(trail[i].What, "⟦CARD:") {
		t.Errorf("on record: %+v", trail)
	}
	w.erase(id, "b")
	if p, err = w.desk.Search(t.Context(), somebody, Query{Text: "answered"}); err != nil || p.Hits[0].Snippet != "" {
		t.Errorf("of what was erased is shown %q, %v", p.Hits[0].Snippet, err)
	}
	viewer := Asker{Name: "eve", Reason: "curiosity", Roles: Admin}
	if _, err := w.desk.Search(t.Context(), viewer, Query{}); !errors.Is(err, ErrRole) {
		t.Errorf("an admin who is no viewer: %v", err)
	}

	h := Handler(w.desk, sha256.Sum256([]byte("secret")), slog.New(slog.DiscardHandler))
	ask := func(method, path string) *httptest.ResponseRecorder {
		path, form, _ := strings.Cut(path, "?")
		req := httptest.NewRequest(method, Prefix+path, strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", "Bearer secret")
		req.Header.Set("Tallystick-Actor", "ann")
		req.Header.Set("Tallystick-Reason", "a complaint")
		out := httptest.NewRecorder()
		h.ServeHTTP(out, req)
		return out
	}
	out := ask("POST", "search?"+url.Values{"q": {"answered"}, "most": {"7"}}.Encode())
	if err := json.Unmarshal(out.Body.Bytes(), &p); err != nil || out.Code != http.StatusOK || len(p.Hits) != 1 || p.Hits[0].Session != id {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	for path, code := range map[string]int{"search?q=colour:red": 400, "search?q=a&most=x": 400, "search?q=a&most=1000": 400, "search?q=%zz": 400} {
		if out := ask("POST", path); out.Code != code {
			t.Errorf("%s: %d %s", path, out.Code, out.Body)
		}
	}
	if out := ask("GET", "search"); out.Code != http.StatusMethodNotAllowed {
		t.Errorf("a query may stand in an address: %d", out.Code)
	}
	if out := ask("GET", "index"); out.Code != http.StatusOK {
		t.Errorf("index: %d %s", out.Code, out.Body)
	}
	if out := ask("POST", "reindex"); out.Code != http.StatusNoContent || index.built != 1 {
		t.Errorf("reindex: %d %s", out.Code, out.Body)
	}
}
