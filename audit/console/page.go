package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A view is what every page is made of.
type view struct {
	Title   string
	Nav     []navItem
	Who     Person
	Why     string
	Here    string   // path and query, to come back to
	Modules []string // of this page, under /static/
	Demo    string   // that anybody is let in; "" where that is not so
	Stuff   any      // of the page itself
}

type navItem struct {
	Path, Name string
	Current    bool
}

// nav has the pages that somebody may open.
func (o *Console) nav(v *visit) []navItem {
	var all []navItem
	for _, p := range [...]struct{ path, name, pattern string }{
		{"/", "Overview", "/{$}"},
		{"/search", "Search", "/search"},
		{"/approvals", "Approvals", "/approvals"},
		{"/log", "Log", "/log"},
		{"/trail", "Trail", "/trail"},
		{"/settings", "Settings", "/settings"},
	} {
		if p.path == "/approvals" && o.c.Approvals == nil {
			continue
		}
		for i := range o.routes {
			if r := &o.routes[i]; r.path == p.pattern && r.method == "GET" && v.who.Roles.Any(r.whom) {
				here := v.req.URL.Path
				current := here == p.path || p.path != "/" && strings.HasPrefix(here, p.path+"/") || p.path == "/search" && strings.HasPrefix(here, "/sessions/")
				all = append(all, navItem{p.path, p.name, current})
			}
		}
	}
	return all
}

// show writes a page.
func (o *Console) show(v *visit, status int, name, title string, stuff any, modules ...string) error {
	page := view{Title: title, Who: v.who, Why: v.why, Here: v.req.URL.RequestURI(), Modules: modules, Demo: o.c.Demonstration, Stuff: stuff}
	if v.who.Name != "" {
		page.Nav = o.nav(v)
	}
	if v.req.Method != http.MethodGet {
		page.Here = "/" // nobody can come back to what was posted
	}
	var b bytes.Buffer
	if err := o.pages[name].ExecuteTemplate(&b, "layout", page); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	v.w.WriteHeader(status)
	v.w.Write(b.Bytes())
	return nil
}

// done says what went wrong, if anything did.
func (o *Console) done(v *visit, err error) {
	if err != nil {
		o.fail(v, err)
	}
}

var (
	errNoPage    = errors.New("there is no such page")
	errStranger  = errors.New("nobody is signed in here, or not any more")
	errOtherSite = errors.New("the request comes from a page of another site, and is not carried out")
	errAhead     = errors.New("a page that shows records is not fetched ahead: that it is looked at goes on record, so somebody must want to see it")
	errHead      = errors.New("a page that shows records answers to GET alone")
	errWhy       = errors.New("say in a few words why you look; it goes on record")
	errAsked     = errors.New("what was asked for cannot be read")
	errValue     = errors.New("a value that is looked for does not stand in an address, which browsers and proxies keep; use the form for values that are masked")
	errSure      = errors.New("the box that says that you are sure was not ticked, so nothing was erased")
)

// A fault is an error that is meant for somebody: with which status it is answered, and what he does next.
type fault struct {
	err    error
	status int
	title  string
	next   string
}

var faults = []fault{
	{errNoPage, http.StatusNotFound, "No such page", "Go on from the overview."},
	{errStranger, http.StatusUnauthorized, "Not signed in", "Sign in, and do it again."},
	{errOtherSite, http.StatusForbidden, "From another site", "Open the page here, and do it there. If you came from a bookmark or another program, nothing was changed."},
	{errAhead, http.StatusServiceUnavailable, "Not ahead of time", "Open the page when you want to see it."},
	{errHead, http.StatusMethodNotAllowed, "Not this way", "Open the page."},
	{errWhy, http.StatusBadRequest, "Why?", "Go back, and give a reason that somebody else understands: a case number, a complaint, an incident."},
	{errSure, http.StatusBadRequest, "Nothing was erased", "Go back, tick the box if you are sure, and do it again."},
	{errAsked, http.StatusBadRequest, "Cannot be read", "Go back, and change what was asked."},
	{audit.ErrRole, http.StatusForbidden, "Not in your role", "Ask somebody who has the role, or ask whoever runs the log to be given it. Nothing was read, and that you tried is not on record."},
	{audit.ErrNobody, http.StatusBadRequest, "Why?", "Go back, and give a reason."},
	{audit.ErrQuery, http.StatusBadRequest, "The query cannot be read", "Change it, and search again."},
	{audit.ErrCursor, http.StatusBadRequest, "No such page of results", "Search again from the beginning."},
	{audit.ErrNoIndex, http.StatusServiceUnavailable, "No index", "Whoever runs the log sets one up. Sessions can be opened by their ID all the same."},
	{audit.ErrNoField, http.StatusBadRequest, "No such field", "Go back to the session, and choose among its fields."},
	{audit.ErrNoBasis, http.StatusBadRequest, "On what ground?", "Go back, and give the legal basis."},
	{audit.ErrOpen, http.StatusConflict, "Not ended yet", "The session can be looked at as it is now. Try again when it has ended."},
	{audit.ErrNotHere, http.StatusConflict, "Kept elsewhere", "Ask at the console of the gateway that recorded the session."},
	{ErrGone, http.StatusNotFound, "Not waiting", "Look at the list of what waits."},
	{ErrNotYours, http.StatusForbidden, "Others decide", "Ask one of those who are asked."},
	{ErrNotTaken, http.StatusConflict, "Not taken", "Look at the call again, and at how it stands."},
	{tlog.ErrNotFound, http.StatusNotFound, "Not in the log", "Compare the ID with where you have it from. A session of the last second may not be published yet: try again in a moment."},
	{tlog.ErrFull, http.StatusServiceUnavailable, "The log is full", "Nothing is shown that cannot be recorded. Tell whoever runs the log."},
	{tlog.ErrBusy, http.StatusServiceUnavailable, "The log is busy", "Nothing is shown that cannot be recorded. Try again in a moment."},
	{tlog.ErrHalted, http.StatusServiceUnavailable, "The log takes nothing", "Nothing is shown that cannot be recorded. Tell whoever runs the log."},
	{tlog.ErrQuarantine, http.StatusServiceUnavailable, "The log is in quarantine", "It contradicts what was remembered of it. Nothing is shown that cannot be recorded. Tell whoever runs the log."},
	{tlog.ErrClosed, http.StatusServiceUnavailable, "The log is closing", "Try again when it runs again."},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "It took too long", "Try again, or ask for less."},
}

// said is an error in words for people, who need not know which part of the program it comes from.
func said(err error) string { return rooms.Replace(err.Error()) }

var rooms = strings.NewReplacer("audit: ", "", "tlog: ", "", "record: ", "", "verify: ", "", "export: ", "", "gateway: ", "")

// A problem is an error as a page shows it.
type problem struct {
	Status      int
	What, Next  string
	Back, Label string // where to go, and what it is called
}

// fail answers with an error: a page for a person, text for a module.
func (o *Console) fail(v *visit, err error) {
	if errors.Is(err, context.Canceled) && v.req.Context().Err() != nil {
		return // nobody is there any more
	}
	p := problem{Status: http.StatusInternalServerError, What: said(err), Next: "Try again. If it happens again, tell whoever runs the log, and when it was.", Back: "/", Label: "Overview"}
	title := "It failed"
	if i := slices.IndexFunc(faults, func(f fault) bool { return errors.Is(err, f.err) }); i >= 0 {
		p.Status, title, p.Next = faults[i].status, faults[i].title, faults[i].next
	}
	switch {
	case p.Status >= 500 && !errors.Is(err, errAhead):
		o.log.Error("a page of the console failed", "path", v.req.URL.Path, "by", v.who.Name, "err", err)
	case errors.Is(err, errOtherSite):
		o.log.Warn("a request from another site is refused", "path", v.req.URL.Path, "origin", v.req.Header.Get("Origin"))
	}
	switch {
	case v.who.Name == "" && errors.Is(err, errStranger):
		p.Back, p.Label = o.c.SignIn.Way("/"), "Sign in"
	case v.req.PathValue("session") != "" && v.who.Roles.Any(audit.View.May()) && p.Status != http.StatusNotFound && v.here != "/sessions/{session}" && !strings.HasPrefix(v.here, "/approvals"):
		p.Back, p.Label = "/sessions/"+url.PathEscape(v.req.PathValue("session")), "The session"
	case strings.HasPrefix(v.here, "/approvals"):
		p.Back, p.Label = "/approvals", "What waits"
	case v.here == "/sessions/{session}" && errors.Is(err, audit.ErrRole) && v.who.Roles.Any(audit.Erase.May()):
		p.Back, p.Label = "/sessions/"+url.PathEscape(v.req.PathValue("session"))+"/erase", "What you may do with it"
	case v.here == "/search":
		p.Back, p.Label = "/search", "Search"
	case v.who.Name != "" && v.who.Roles == 0:
		p.Back, p.Label = "/me", "Who you are here"
	}
	if accept := v.req.Header.Get("Accept"); accept != "" && !strings.Contains(accept, "text/html") {
		http.Error(v.w, fmt.Sprintf("%s: %s\n%s", title, p.What, p.Next), p.Status)
		return
	}
	if err := o.show(v, p.Status, "error", title, p); err != nil {
		o.log.Error("the page of an error failed", "err", err)
		http.Error(v.w, p.What, p.Status)
	}
}

// parsePages reads the pages, each with the layout and what pages have in common.
func parsePages(o *Console) (map[string]*template.Template, error) {
	all := make(map[string]*template.Template)
	base, err := template.New("").Funcs(template.FuncMap{
		"spans": spans, "marked": marked, "ago": func(t time.Time) string { return ago(o.now(), t) }, "span": short, "size": size, "count": count, "clock": clock,
		"stamp": stamp, "hash": func(h tlog.Hash) string { return h.String() }, "words": words, "who": who,
		"add":    func(a, b int) int { return a + b },
		"mayAct": func(p Person, act string) bool { return mayAct(p.Roles, act) }, "tone": tone, "offset": offset, "measure": measure,
		"size64": func(n int) string { return size(int64(n)) }, "sub": func(a, b uint64) uint64 { return a - min(a, b) },
	}).ParseFS(pages, "pages/layout.html", "pages/parts.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(pages, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := strings.TrimSuffix(path.Base(f), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(pages, f)
		}
		if err != nil {
			return nil, err
		}
		all[name] = t
	}
	return all, nil
}

// mayAct says whether roles may do what has those words.
func mayAct(r audit.Roles, words string) bool {
	act, err := audit.ParseAct(words)
	return err == nil && r.Any(act.May())
}

// stamp is a time as <time> has it for machines, and people read it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// clock is a time for people: to the second, in UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return "not on record"
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// ago says how long before now something was.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return "in " + long(-d)
	}
	if d < 2*time.Second {
		return "just now"
	}
	return long(d) + " ago"
}

func long(d time.Duration) string {
	n, unit := 0, ""
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		n, unit = int(d/time.Hour), "hour"
	default:
		n, unit = int(d/(24*time.Hour)), "day"
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// short is how long something took, with three digits; a dash for what is not known.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "–"
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return three(float64(d)/1e3) + " µs"
	case d < time.Second:
		return three(float64(d)/1e6) + " ms"
	case d < 2*time.Minute:
		return three(d.Seconds()) + " s"
	}
	return long(d)
}

func three(f float64) string {
	switch {
	case f >= 100:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

// offset is a time since something began, in milliseconds to the microsecond.
func offset(d time.Duration) string {
	if d < 0 {
		return "–"
	}
	return strconv.FormatFloat(float64(d)/1e6, 'f', 3, 64)
}

// measure is a number with its unit.
func measure(n Number) string {
	switch n.Unit {
	case "":
		return count(n.Value)
	case "bytes":
		return size(int64(n.Value))
	case "seconds":
		return short(time.Duration(n.Value * float64(time.Second)))
	}
	return count(n.Value) + " " + n.Unit
}

// size is a number of bytes.
func size(n int64) string {
	switch f := float64(n); {
	case n < 0:
		return "–"
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case f < 1e6:
		return three(f/1e3) + " kB"
	case f < 1e9:
		return three(f/1e6) + " MB"
	default:
		return three(f/1e9) + " GB"
	}
}

// count writes a number with its thousands apart; a dash for one that nobody said.
func count(v any) string {
	var n int64
	switch v := v.(type) {
	case int:
		n = int64(v)
	case int64:
		n = v
	case uint64:
		n = int64(min(v, math.MaxInt64))
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1e15 {
			return strconv.FormatFloat(v, 'g', 6, 64)
		}
		n = int64(v)
	}
	if n < 0 {
		return "–"
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// words joins words.
func words(all []string, between string) string { return strings.Join(all, between) }

// who is a person with his address, where it says more than the name.
func who(name, email string) string {
	if email == "" || email == name {
		return name
	}
	return name + " <" + email + ">"
}

// tone is how an outcome is coloured.
func tone(outcome string) string {
	switch outcome {
	case string(record.Complete):
		return "good"
	case string(record.UpstreamError), string(record.Internal), string(record.Interrupted):
		return "bad"
	case "open", string(record.Waiting), string(record.Resumed), "":
		return "calm"
	}
	return "warn"
}
