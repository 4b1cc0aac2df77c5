package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// secret stands in what the sessions of these tests hold. No page shows it that was not let.
const secret = "the-word-of-the-day"

// A try is a request for one route, as somebody makes it who may.
type try struct {
	whom   audit.Roles // who may; nobody in particular where anybody is served
	target string
	form   url.Values
	status int // what he who may is answered
	reads  int // entries of readings that it leaves
	looks  int // looks that the gateway records
	shows  bool
}

// tries returns one for each route, made for a session of its own.
func (w *world) tries() map[string]try {
	id := w.session(call{caller: "alice", model: "m", agent: "a", prompt: "It is " + secret, reply: "I see " + secret, stream: true})
	w.publish()
	w.waiting.mu.Lock()
	w.waiting.list = []Approval{{ID: id, State: "waiting", Open: true, Caller: "alice", Need: 1, Rule: "r", Until: time.Now().Add(time.Minute), Request: &Request{Body: []byte(secret)}}}
	w.waiting.mu.Unlock()
	s, reason := "/sessions/"+id.String(), url.Values{"reason": {"a test"}}
	with := func(kv ...string) url.Values {
		f := url.Values{}
		for k, v := range reason {
			f[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			f.Set(kv[i], kv[i+1])
		}
		return f
	}
	entry := "0"
	at, err := record.FindSession(w.t.Context(), w.log, w.publish(), id, 0)
	if err != nil || len(at) == 0 {
		w.t.Fatal(err)
	}
	entry = fmt.Sprint(at[0].Index)
	const anyRole, readers = audit.Viewer | audit.Approver | audit.Auditor | audit.Admin, audit.Viewer | audit.Auditor
	return map[string]try{
		"GET /{$}":                          {whom: anyRole, target: "/", status: 200},
		"GET /search":                       {whom: readers, target: "/search?q=word", status: 200, reads: 1, shows: true},
		"POST /search":                      {whom: readers, target: "/search", form: url.Values{"value": {"4111 1111 1111 1111"}}, status: 200, reads: 1, shows: true},
		"GET /sessions/{session}":           {whom: readers, target: s, status: 200, reads: 1, shows: true},
		"GET /sessions/{session}/body":      {whom: readers, target: s + "/body?field=body&entry=" + entry, status: 200, reads: 1, shows: true},
		"GET /sessions/{session}/bundle":    {whom: readers, target: s + "/bundle", status: 200, reads: 1, shows: true},
		"POST /sessions/{session}/export":   {whom: audit.Auditor, target: s + "/export", form: with("format", "bundle"), status: 200, reads: 1, shows: true},
		"POST /sessions/{session}/disclose": {whom: audit.Auditor, target: s + "/disclose", form: with("field", "request.body"), status: 200, reads: 1, shows: true},
		"POST /sessions/{session}/unseal":   {whom: audit.Admin, target: s + "/unseal", form: reason, status: 400, reads: 1}, // there is none, which is on record too
		"GET /sessions/{session}/erase":     {whom: audit.Admin, target: s + "/erase", status: 200, reads: 1},
		"POST /sessions/{session}/erase":    {whom: audit.Admin, target: s + "/erase", form: with("basis", "a law", "sure", "yes"), status: 200, reads: 1},
		"GET /approvals":                    {whom: audit.Approver, target: "/approvals", status: 200},
		"GET /approvals/changes":            {whom: audit.Approver, target: "/approvals/changes", status: 200},
		"GET /approvals/{session}":          {whom: audit.Approver, target: "/approvals/" + id.String(), status: 200, looks: 1, shows: true},
		"POST /approvals/{session}":         {whom: audit.Approver, target: "/approvals/" + id.String(), form: with("decision", "approve"), status: 200},
		"GET /log":                          {whom: anyRole, target: "/log", status: 200},
		"GET /log/checkpoint":               {whom: anyRole, target: "/log/checkpoint", status: 200},
		"GET /policy":                       {whom: anyRole, target: "/policy", status: 200},
		"GET /trail":                        {whom: audit.Auditor | audit.Admin, target: "/trail", status: 200, reads: 1},
		"GET /settings":                     {whom: audit.Auditor | audit.Admin, target: "/settings", status: 200},
		"GET /me":                           {target: "/me", status: 200},
		"POST /reason":                      {target: "/reason", form: with("back", "/search"), status: 303},
		"GET /static/{name}":                {target: "/static/console.css", status: 200},
		" /login/":                          {target: "/login/oidc", status: 200},
		"POST /logout":                      {target: "/logout", form: url.Values{}, status: 200},
		" /":                                {target: "/nothing", status: 404},
	}
}

func (r *route) name() string { return r.method + " " + r.path }

func (r *route) verb() string {
	if r.method == "" {
		return "GET"
	}
	return r.method
}

// ask makes a request; a stream of changes is left after its first event.
func (v visitor) ask(r *route, t try) *httptest.ResponseRecorder {
	req := v.request(r.verb(), t.target, t.form)
	if strings.HasSuffix(r.path, "/changes") {
		v.w.waiting.mu.Lock()
		v.w.waiting.changed = make(chan struct{})
		close(v.w.waiting.changed)
		v.w.waiting.mu.Unlock()
	}
	return v.do(req)
}

func (w *world) looks() int {
	w.waiting.mu.Lock()
	defer w.waiting.mu.Unlock()
	return len(w.waiting.looked)
}

// Every route, by everybody: whoever has one of its roles is served, and what he reads is on record, once; whoever has none is turned
// away, is shown nothing, and nothing is read for him; who is not signed in is sent to sign in.
func TestRoutesByRoles(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.console.routes {
		tries := w.tries()
		for roles := range audit.Operator + 1 {
			if r.method == "POST" {
				tries = w.tries() // anew: some are done once
			}
			one, ok := tries[r.name()]
			if !ok {
				t.Fatalf("%s is not tried", r.name())
			}
			if len(tries) != len(w.console.routes) {
				t.Fatalf("%d routes, %d tries", len(w.console.routes), len(tries))
			}
			before, looked := w.publish(), w.looks()
			rec := visitor{w, "ann", roles, "a test"}.ask(&r, one)
			reads, looks := len(w.readings(before)), w.looks()-looked
			shown := strings.Contains(rec.Body.String(), secret)
			switch may := one.whom == 0 || roles.Any(one.whom); {
			case may && (rec.Code != one.status || reads != one.reads || looks != one.looks || one.shows != shown):
				t.Errorf("%s by %s: %d, %d readings, %d looks, shown: %v; want %+v\n%.900s", r.name(), roles, rec.Code, reads, looks, shown, one, rec.Body)
			case !may && (rec.Code != http.StatusForbidden || reads+looks > 0 || shown):
				t.Errorf("%s by %s: %d, %d readings, %d looks, shown: %v", r.name(), roles, rec.Code, reads, looks, shown)
			}
		}
		tries = w.tries()
		before := w.publish()
		rec := visitor{w: w, why: "a test"}.ask(&r, tries[r.name()])
		want := http.StatusUnauthorized
		if r.verb() == "GET" {
			want = http.StatusSeeOther
		}
		if r.other == anybody && r.path != "/" {
			want = http.StatusOK
		}
		if rec.Code != want || len(w.readings(before)) > 0 || strings.Contains(rec.Body.String(), secret) {
			t.Errorf("%s by nobody: %d, want %d", r.name(), rec.Code, want)
		}
	}
}

// A route for nobody is for nobody; and each that reads content says so.
func TestRoutesSayWhatTheyAre(t *testing.T) {
	w := newWorld(t)
	var r route
	r.do = func(*Console, *visit) error { t.Error("it was served"); return nil }
	req := visitor{w, "ann", audit.Operator, "a test"}.request("GET", "/", nil)
	rec := httptest.NewRecorder()
	w.console.serve(rec, req, &r)
	if rec.Code != http.StatusForbidden {
		t.Errorf("a route that says nothing: %d", rec.Code)
	}
	for _, r := range w.console.routes {
		one := w.tries()[r.name()]
		if r.method == "GET" && r.content != (one.reads+one.looks > 0) {
			t.Errorf("%s: content: %v, but it leaves %d readings and %d looks", r.name(), r.content, one.reads, one.looks)
		}
		if r.content && r.other != byRole {
			t.Errorf("%s shows content to whoever comes", r.name())
		}
	}
}

// What shows content is not fetched ahead, is not answered to HEAD, and not to somebody who has not said why he looks.
func TestContentIsWanted(t *testing.T) {
	w := newWorld(t)
	tries := w.tries()
	ann := visitor{w, "ann", audit.Operator, "a test"}
	for _, r := range w.console.routes {
		if !r.content || r.method != "GET" {
			continue
		}
		one := tries[r.name()]
		before, looked := w.publish(), w.looks()
		check := func(how string, rec *httptest.ResponseRecorder, want int) {
			t.Helper()
			if rec.Code != want || strings.Contains(rec.Body.String(), secret) {
				t.Errorf("%s, %s: %d, want %d\n%.300s", r.name(), how, rec.Code, want, rec.Body)
			}
		}
		check("HEAD", ann.do(ann.request("HEAD", one.target, nil)), http.StatusMethodNotAllowed)
		for _, h := range [][2]string{{"Sec-Purpose", "prefetch"}, {"Sec-Purpose", "prefetch;prerender"}, {"Sec-Purpose", "prefetch;anonymous-client-ip"}, {"Purpose", "prefetch"}, {"X-Moz", "prefetch"}, {"X-Purpose", "preview"}} {
			req := ann.request("GET", one.target, nil)
			req.Header.Set(h[0], h[1])
			check(h[0]+": "+h[1], ann.do(req), http.StatusServiceUnavailable)
		}
		for _, h := range [][3]string{
			{"same-site", "no-cors", "image"}, {"same-site", "cors", "empty"}, {"cross-site", "no-cors", "script"}, {"same-site", "navigate", "iframe"}, {"same-site", "", ""}, {"cross-site", "navigate", "embed"},
		} {
			req := ann.request("GET", one.target, nil)
			for i, name := range []string{"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
				req.Header.Set(name, h[i])
			}
			check(fmt.Sprint("by a page of another site: ", h), ann.do(req), http.StatusForbidden)
		}
		if !r.unasked {
			silent := visitor{w, "ann", audit.Operator, ""}
			rec := silent.get(one.target)
			check("no reason", rec, http.StatusPreconditionRequired)
			if body := rec.Body.String(); !strings.Contains(body, `action="/reason"`) || !strings.Contains(body, `name="back" value="`+strings.ReplaceAll(one.target, "&", "&amp;")) {
				t.Errorf("%s: who has given no reason is not asked for one, to come back: %s", r.name(), body)
			}
			req := silent.request("GET", one.target, nil)
			req.Header.Set("Accept", "application/json")
			check("no reason, by a module", silent.do(req), http.StatusBadRequest)
			// A reason that somebody else gave in this browser is not his.
			req = visitor{w, "bob", audit.Operator, "bob's own"}.request("GET", one.target, nil)
			req.Header.Set("Person", "ann")
			check("another's reason", ann.do(req), http.StatusPreconditionRequired)
		}
		if n := len(w.readings(before)) + w.looks() - looked; n > 0 {
			t.Errorf("%s: %d readings are on record that were none", r.name(), n)
		}
	}
}

// What cannot be recorded is not shown.
func TestNothingIsShownUnrecorded(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.console.routes {
		one := w.tries()[r.name()]
		if one.reads == 0 {
			continue
		}
		w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
		rec := visitor{w, "ann", audit.Operator, "a test"}.ask(&r, one)
		w.log.Inject(tlogtest.Faults{})
		failed := strings.Contains(rec.Body.String(), audit.Failed) // an erasure says so of the session
		if (rec.Code != http.StatusServiceUnavailable && !failed) || strings.Contains(rec.Body.String(), secret) {
			t.Errorf("%s with a full log: %d\n%.600s", r.name(), rec.Code, rec.Body)
		}
	}
}

// Whatever is answered has the headers that keep it where it is.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	tries := w.tries()
	check := func(what string, rec *httptest.ResponseRecorder) {
		t.Helper()
		h := rec.Result().Header
		csp := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "require-trusted-types-for 'script'", "trusted-types 'none'"} {
			if !strings.Contains(csp+";", part) {
				t.Errorf("%s: the policy of contents lacks %s: %s", what, part, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "data:") {
			t.Errorf("%s: %s", what, csp)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q", what, name, got)
			}
		}
		if c := h.Get("Cache-Control"); c != "no-store" && !(c == "no-cache" && strings.HasPrefix(what, "GET /static/")) {
			t.Errorf("%s is cached: %q", what, c)
		}
	}
	for _, r := range w.console.routes {
		check(r.name(), visitor{w, "ann", audit.Operator, "a test"}.ask(&r, tries[r.name()]))
		check(r.name()+" by who may not", visitor{w, "ann", 0, "a test"}.ask(&r, tries[r.name()]))
		check(r.name()+" by nobody", visitor{w: w}.ask(&r, tries[r.name()]))
	}
	ann := visitor{w, "ann", audit.Operator, "a test"}
	req := ann.request("GET", "/", nil)
	req.Host = "evil.example"
	check("another host", ann.do(req))
	check("another method", ann.do(ann.request("DELETE", "/", nil)))
}

// It answers to its own names alone, with the scheme's port or without.
func TestHosts(t *testing.T) {
	w := newWorld(t)
	w.console.c.Hosts = []string{"console.example", "127.0.0.1:8080", "[::1]:8080"}
	for host, ours := range map[string]bool{
		"console.example": true, "CONSOLE.example": true, "console.example:443": true, "console.example:80": true, "127.0.0.1:8080": true, "[::1]:8080": true,
		"console.example:8080": false, "127.0.0.1": false, "evil.example": false, "console.example.evil.example": false, "": false, "console.example.": false, "localhost:8080": false,
	} {
		ann := visitor{w, "ann", audit.Operator, "a test"}
		req := ann.request("GET", "/", nil)
		req.Host = host
		if rec := ann.do(req); (rec.Code == http.StatusOK) != ours || !ours && rec.Code != http.StatusMisdirectedRequest {
			t.Errorf("%q: %d", host, rec.Code)
		}
	}
}

// What changes something, or hands something out, comes from a page of the console's own.
func TestOtherSites(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.console.routes {
		if r.method != "POST" {
			continue
		}
		for _, from := range []map[string]string{
			{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
		} {
			one := w.tries()[r.name()]
			before := w.publish()
			ann := visitor{w, "ann", audit.Operator, "a test"}
			req := ann.request("POST", one.target, one.form)
			for k, v := range from {
				req.Header.Set(k, v)
			}
			rec := ann.do(req)
			if rec.Code != http.StatusForbidden || len(w.readings(before)) > 0 || len(w.waiting.decided) > 0 || len(rec.Result().Cookies()) > 0 || strings.Contains(rec.Body.String(), "the stage") {
				t.Errorf("%s from %v: %d", r.name(), from, rec.Code)
			}
		}
		one := w.tries()[r.name()]
		ann := visitor{w, "ann", audit.Operator, "a test"}
		req := ann.request("POST", one.target, one.form)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		req.Header.Set("Origin", "http://console.example")
		if rec := ann.do(req); rec.Code != one.status {
			t.Errorf("%s from here: %d", r.name(), rec.Code)
		}
		w.waiting.decided = nil
	}
	// An identity provider answers with a form from its own site.
	req := visitor{w: w}.request("POST", "/login/saml/acs", url.Values{})
	req.Header.Set("Origin", "https://idp.example")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if rec := (visitor{w: w}).do(req); rec.Code != http.StatusOK {
		t.Errorf("an answer of an identity provider: %d", rec.Code)
	}
}

// Nobody is sent anywhere else from here.
func TestBack(t *testing.T) {
	w := newWorld(t)
	for back, want := range map[string]string{
		"/search?q=a&b=c": "/search?q=a&b=c", "/sessions/x#e17": "/sessions/x#e17", "": "/", "//evil.example/": "/", "https://evil.example/": "/", "/\\evil.example": "/", "\\/evil.example": "/",
		"javascript:alert(1)": "/", "evil.example": "/", "/\tevil": "/", "/a\r\nSet-Cookie: x=y": "/", "http:/evil": "/", "/" + strings.Repeat("a", 3000): "/", "///evil.example": "/", "/%2f/evil.example": "/%2f/evil.example",
	} {
		rec := visitor{w, "ann", audit.Viewer, ""}.post("/reason", url.Values{"reason": {"a case"}, "back": {back}})
		if got := rec.Header().Get("Location"); rec.Code != http.StatusSeeOther || got != want {
			t.Errorf("back to %q: %d, %q", back, rec.Code, got)
		}
	}
	rec := visitor{w: w}.get("/search?q=a&b=c")
	if got := rec.Header().Get("Location"); got != "/login/?to="+url.QueryEscape("/search?q=a&b=c") {
		t.Errorf("sent to sign in by %q", got)
	}
}

// A reason is kept in the browser of whoever gave it, for a day's work, and for nobody else.
func TestReason(t *testing.T) {
	w := newWorld(t)
	id := w.session(call{caller: "alice", model: "m", prompt: "p", reply: "r"})
	w.publish()
	ann := visitor{w, "ann", audit.Viewer | audit.Auditor, ""}
	rec := ann.post("/reason", url.Values{"reason": {"  Case 4711: “refund”  "}, "back": {"/sessions/" + id.String()}})
	ks := rec.Result().Cookies()
	if len(ks) != 1 || !ks[0].HttpOnly || ks[0].SameSite != http.SameSiteStrictMode || ks[0].MaxAge != 0 {
		t.Fatalf("the cookie: %+v", ks)
	}
	look := func(name string) *httptest.ResponseRecorder {
		req := visitor{w, name, audit.Viewer | audit.Auditor, ""}.request("GET", "/sessions/"+id.String(), nil)
		req.AddCookie(ks[0])
		return ann.do(req)
	}
	if rec := look("ann"); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "Case 4711: “refund”") {
		t.Errorf("with the reason: %d", rec.Code)
	}
	w.publish()
	all, _, err := w.desk.Trail(t.Context(), audit.Asker{Name: "test", Reason: "a test", Roles: audit.Admin}, 0, 10)
	all = slices.DeleteFunc(all, func(r audit.Reading) bool { return r.Actor == "test" }) // its own, if that is published already
	if err != nil || len(all) != 1 || all[0].Actor != "ann" || all[0].Reason != "Case 4711: “refund”" || all[0].Session != id || all[0].What != "view" {
		t.Errorf("on record: %+v, %v", all, err)
	}
	if page := (visitor{w, "ann", audit.Viewer, "a case\u202eof"}).get("/me").Body.String(); !strings.Contains(page, `forces writing to right-to-left">RLO</span>of`) {
		t.Error("the reason stands on the page as it came")
	}
	req := ann.request("GET", "/sessions/"+id.String(), nil) // a link elsewhere, which somebody follows
	for k, v := range map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"} {
		req.Header.Set(k, v)
	}
	req.AddCookie(ks[0])
	if rec := ann.do(req); rec.Code != http.StatusOK {
		t.Errorf("by a link: %d", rec.Code)
	}
	// Under TLS nobody at another host of the domain says why somebody looks.
	w.console.c.Secure = true
	if rec := look("ann"); rec.Code != http.StatusPreconditionRequired {
		t.Errorf("a reason that another host can have set: %d", rec.Code)
	}
	rec = ann.post("/reason", url.Values{"reason": {"Case 4712"}})
	if k := rec.Result().Cookies()[0]; !strings.HasPrefix(k.Name, "__Host-") || !k.Secure || k.Path != "/" || k.Domain != "" {
		t.Errorf("the cookie under TLS: %+v", k)
	}
	w.console.c.Secure = false
	if rec := look("bob"); rec.Code != http.StatusPreconditionRequired {
		t.Errorf("another person, in the same browser: %d", rec.Code)
	}
	now := w.console.now
	w.console.now = func() time.Time { return now().Add(whyLasts + time.Second) }
	if rec := look("ann"); rec.Code != http.StatusPreconditionRequired {
		t.Errorf("the next day: %d", rec.Code)
	}
	w.console.now = now
	for _, bad := range []string{"", "   ", strings.Repeat("x", maxWhy+1), "a\xff"} {
		if rec := ann.post("/reason", url.Values{"reason": {bad}}); rec.Code != http.StatusBadRequest || len(rec.Result().Cookies()) > 0 {
			t.Errorf("the reason %.20q: %d", bad, rec.Code)
		}
	}
	if rec := ann.post("/logout", url.Values{}); len(rec.Result().Cookies()) != 1 || rec.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("signing out leaves the reason: %v", rec.Result().Cookies())
	}
	// What is handed out says why, by itself.
	for _, path := range []string{"export", "disclose", "unseal", "erase"} {
		for _, why := range [][]string{nil, {" "}, {strings.Repeat("x", maxWhy+1)}} {
			before := w.publish()
			rec := visitor{w, "ann", audit.Operator, "what was said before"}.post("/sessions/"+id.String()+"/"+path, url.Values{"format": {"bundle"}, "field": {"request.body"}, "basis": {"a law"}, "sure": {"yes"}, "reason": why})
			if rec.Code != http.StatusBadRequest || len(w.readings(before)) > 0 {
				t.Errorf("%s for the reason %.20q: %d", path, why, rec.Code)
			}
		}
	}
}

// What is erased is gone, what must be kept is kept, and the page says what became of it and by which rule.
func TestErase(t *testing.T) {
	w := newWorld(t)
	kept := w.session(call{caller: "alice", model: "m", prompt: secret, reply: "r"})
	gone := w.session(call{caller: "bob", model: "m", prompt: secret, reply: "r"})
	w.publish()
	w.rules = audit.Retention{{Name: "trial", Callers: []string{"alice"}, Hold: "Doe v. Acme"}}
	ada := visitor{w, "ada", audit.Admin, "an order"}
	page := ada.get("/sessions/" + kept.String() + "/erase").Body.String()
	if !strings.Contains(page, "Doe v. Acme") || strings.Contains(page, "Legal basis") {
		t.Errorf("what must be kept is offered: %s", page)
	}
	form := url.Values{"reason": {"an order"}, "basis": {"GDPR Art. 17"}, "sure": {"yes"}}
	if rec := ada.post("/sessions/"+kept.String()+"/erase", form); rec.Code != http.StatusConflict || !strings.Contains(rec.Body.String(), "Doe v. Acme") {
		t.Errorf("what must be kept: %d", rec.Code)
	}
	if page := ada.get("/sessions/" + gone.String() + "/erase").Body.String(); !strings.Contains(page, "would be erased") || !strings.Contains(page, "Legal basis") {
		t.Errorf("what may be erased: %s", page)
	}
	for name, bad := range map[string]url.Values{
		"not sure": {"reason": {"an order"}, "basis": {"GDPR Art. 17"}}, "no ground": {"reason": {"an order"}, "sure": {"yes"}}, "no reason": {"basis": {"GDPR"}, "sure": {"yes"}, "reason": {" "}},
	} {
		if rec := ada.post("/sessions/"+gone.String()+"/erase", bad); rec.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
	if rec := ada.post("/sessions/"+gone.String()+"/erase", form); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), audit.Erased) {
		t.Errorf("erasing: %d\n%s", rec.Code, rec.Body)
	}
	w.publish()
	rec := visitor{w, "ann", audit.Auditor, "a test"}.get("/sessions/" + gone.String())
	if body := rec.Body.String(); rec.Code != http.StatusOK || strings.Contains(body, secret) || !strings.Contains(body, "Its records were destroyed") || !strings.Contains(body, "GDPR Art. 17") {
		t.Errorf("what was erased: %d\n%s", rec.Code, body)
	}
}

// Whoever decides sees the whole of it, and his word arrives as he gave it; his own call he does not decide.
func TestApprovals(t *testing.T) {
	w := newWorld(t)
	id := record.NewID(time.Now())
	long := strings.Repeat("all of it ", 50_000) + "to the end"
	w.waiting.list = []Approval{{ID: id, State: "waiting", Open: true, Glass: true, Caller: "alice", Need: 2, Yes: []string{"bob"}, Rule: "costly", Message: "over 8000 tokens", Until: time.Now().Add(time.Minute),
		Request: &Request{Headers: [][2]string{{"X-Odd", "a\u202eb"}}, Body: []byte(long)}}}
	cid := visitor{w, "cid", audit.Approver, ""}
	path := "/approvals/" + id.String()
	if page := cid.get("/approvals").Body.String(); !strings.Contains(page, id.String()) || strings.Contains(page, "all of it") || !strings.Contains(page, "1 of 2") {
		t.Errorf("the list: %s", page)
	}
	page := cid.get(path).Body.String()
	if !strings.Contains(page, "to the end") || !strings.Contains(page, "over 8000 tokens") || !strings.Contains(page, "RLO") || !strings.Contains(page, `value="break_glass"`) {
		t.Errorf("the whole request is not there: %.2000s", page)
	}
	w.waiting.list[0].Request.Body = []byte(strings.Repeat("x", approvalPart) + "the last of it")
	if page := cid.get(path).Body.String(); strings.Contains(page, "the last of it") || !strings.Contains(page, "part 1 of 2") || !strings.Contains(page, `href="?part=2"`) {
		t.Error("what is longer than a page is not in parts")
	}
	if page := cid.get(path + "?part=2").Body.String(); !strings.Contains(page, "the last of it") || !strings.Contains(page, `name="decision"`) {
		t.Error("the last part is not there")
	}
	for _, bad := range []url.Values{{}, {"decision": {"maybe"}, "reason": {"x"}}, {"decision": {Deny}}, {"decision": {Deny}, "reason": {"  "}}, {"decision": {BreakGlass}, "reason": {"quick"}}, {"decision": {Approve}, "reason": {strings.Repeat("x", maxDecision+1)}}} {
		if rec := cid.post(path, bad); rec.Code != http.StatusBadRequest {
			t.Errorf("%.60v: %d", bad, rec.Code)
		}
	}
	if rec := (visitor{w, "alice", audit.Approver, ""}).post(path, url.Values{"decision": {Approve}}); rec.Code != http.StatusForbidden {
		t.Errorf("one's own: %d", rec.Code)
	}
	if page := (visitor{w, "alice", audit.Approver, ""}).get(path).Body.String(); strings.Contains(page, `name="decision"`) {
		t.Error("one's own can be decided")
	}
	if len(w.waiting.decided) > 0 {
		t.Fatalf("decided: %q", w.waiting.decided)
	}
	rec := cid.post(path, url.Values{"decision": {Deny}, "reason": {" not this quarter "}})
	if rec.Code != http.StatusOK || len(w.waiting.decided) != 1 || w.waiting.decided[0] != "cid "+id.String()+" deny not this quarter" || strings.Contains(rec.Body.String(), "all of it") {
		t.Errorf("a no: %d, %q", rec.Code, w.waiting.decided)
	}
	if rec := cid.get("/approvals/" + record.NewID(time.Now()).String()); rec.Code != http.StatusNotFound {
		t.Errorf("one that there is not: %d", rec.Code)
	}
	w.console.c.Approvals = nil
	for _, p := range []string{"/approvals", path, "/approvals/changes"} {
		if rec := cid.get(p); rec.Code != http.StatusNotFound {
			t.Errorf("%s where nothing waits: %d", p, rec.Code)
		}
	}
	if page := cid.get("/").Body.String(); strings.Contains(page, "/approvals") {
		t.Error("the overview leads to approvals that there are not")
	}
}

// Errors are told from each other, and each says what to do.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	for _, f := range faults {
		rec := httptest.NewRecorder()
		v := &visit{w: rec, req: visitor{w, "ann", audit.Viewer, ""}.request("GET", "/log", nil), who: Person{Name: "ann", Roles: audit.Viewer}}
		w.console.fail(v, fmt.Errorf("wrapped: %w", f.err))
		if rec.Code != f.status || !strings.Contains(rec.Body.String(), "What now:") {
			t.Errorf("%v: %d\n%s", f.err, rec.Code, rec.Body)
		}
	}
	rec := httptest.NewRecorder()
	v := &visit{w: rec, req: visitor{w, "ann", audit.Viewer, ""}.request("GET", "/log", nil), who: Person{Name: "ann"}}
	w.console.fail(v, errors.New("<b>something</b>"))
	if rec.Code != http.StatusInternalServerError || !strings.Contains(rec.Body.String(), "&lt;b&gt;something") {
		t.Errorf("what nobody foresaw: %d\n%s", rec.Code, rec.Body)
	}
	ann := visitor{w, "ann", audit.Operator, "a test"}
	for target, want := range map[string]int{
		"/sessions/nonsense": 404, "/sessions/" + record.NewID(time.Now()).String(): 404, "/nothing": 404, "/sessions/" + record.NewID(time.Now()).String() + "/body?entry=x&field=body": 400,
		"/static/nothing.css": 404, "/static/..%2fserve.go": 404, "/search?value=4111": 400,
	} {
		if rec := ann.get(target); rec.Code != want {
			t.Errorf("%s: %d, want %d", target, rec.Code, want)
		}
	}
}

// What is handed out is a file, in each format, and on record in the words of what was done with it; not for those who only look.
func TestHandsOut(t *testing.T) {
	w := newWorld(t)
	id := w.session(call{caller: "alice", model: "m", prompt: "p", reply: "all of it", stream: true, words: true})
	w.publish()
	ann := visitor{w, "ann", audit.Auditor, ""}
	for _, f := range export.Formats() {
		rec := ann.post("/sessions/"+id.String()+"/export", url.Values{"format": {string(f)}, "reason": {"for the court"}})
		name := rec.Header().Get("Content-Disposition")
		if rec.Code != http.StatusOK || !strings.HasPrefix(name, `attachment; filename="`) || !strings.Contains(name, id.String()) || rec.Body.Len() == 0 {
			t.Errorf("%s: %d, %s, %d bytes\n%.300s", f, rec.Code, name, rec.Body.Len(), rec.Body)
		}
		w.publish()
		all, _, err := w.desk.Trail(t.Context(), audit.Asker{Name: "test", Reason: "a test", Roles: audit.Admin}, 0, 2)
		for _, r := range all {
			if r.Actor == "test" {
				continue
			}
			if r.Actor != "ann" || r.What != f.Act().String()+", in the console" || r.Reason != "for the court" || r.Session != id {
				t.Errorf("%s is on record as %+v", f, r)
			}
			break
		}
		if err != nil {
			t.Error(err)
		}
		if about[f] == "" {
			t.Errorf("nobody is told what %s is", f)
		}
	}
	rec := ann.post("/sessions/"+id.String()+"/disclose", url.Values{"field": {"request.model", "response.status"}, "reason": {"for the court"}})
	b, err := verify.Parse(rec.Body.Bytes())
	if err != nil {
		t.Fatalf("%d: %v", rec.Code, err)
	}
	shown := 0
	for _, e := range b.Sessions[0].Entries {
		for _, f := range e.Fields {
			if f.Shown != nil {
				shown++
			}
		}
	}
	if shown != 2 || strings.Contains(rec.Body.String(), "all of it") {
		t.Errorf("%d fields are disclosed", shown)
	}
	for _, bad := range []url.Values{{"reason": {"x"}}, {"field": {"request.nothing"}, "reason": {"x"}}} {
		if rec := ann.post("/sessions/"+id.String()+"/disclose", bad); rec.Code != http.StatusBadRequest {
			t.Errorf("%v: %d", bad, rec.Code)
		}
	}
	if rec := ann.post("/sessions/"+id.String()+"/export", url.Values{"format": {"zip"}, "reason": {"x"}}); rec.Code != http.StatusBadRequest {
		t.Errorf("as zip: %d", rec.Code)
	}
	if page := ann.get("/sessions/" + id.String()).Body.String(); strings.Contains(page, "/export") {
		t.Error("a page without a reason")
	}
	ann.why = "a test"
	if page := ann.get("/sessions/" + id.String()).Body.String(); !strings.Contains(page, "/export") || strings.Contains(page, "/erase") {
		t.Error("an auditor's page has no export, or an erasure")
	}
	if page := (visitor{w, "vic", audit.Viewer, "a test"}).get("/sessions/" + id.String()).Body.String(); strings.Contains(page, "/export") {
		t.Error("who only looks is offered an export")
	}
}
