package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A finding page is what was looked for and what was found.
type finding struct {
	Query   string // as it was searched
	Plain   string // of it what stands in no field of the form
	Fields  map[string]string
	Page    audit.Page
	Problem string // why there is no page
	// Quiet says that what is looked for is kept out of addresses: it was sent by the form for values.
	Quiet  bool
	More   bool // this is a further page
	Filter bool // a field of the form is filled in
}

// formFields are those of the form, and how each stands in a query; what %s is stands in quotes where it must.
var formFields = []string{"caller", "group", "model", "route", "status", "outcome", "rule", "approval", "finding", "since", "until"}

func (o *Console) search(v *visit) error {
	v.req.Body = http.MaxBytesReader(v.w, v.req.Body, 64<<10)
	if err := v.req.ParseForm(); err != nil {
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	f := v.req.Form
	page := finding{Fields: make(map[string]string), Quiet: v.req.Method == http.MethodPost, More: f.Get("after") != ""}
	var terms []string
	if q := strings.TrimSpace(f.Get("q")); q != "" {
		page.Plain = q
		terms = append(terms, q)
	}
	for _, name := range formFields {
		value := strings.TrimSpace(f.Get(name))
		if value == "" {
			continue
		}
		page.Fields[name] = value
		page.Filter = true
		terms = append(terms, name+":"+quoted(value))
	}
	if value := strings.TrimSpace(f.Get("value")); value != "" {
		page.Fields["value"] = value
		terms = append(terms, "value:"+quoted(value))
	}
	page.Query = strings.Join(terms, " ")
	if !page.Quiet && valueTerm.MatchString(page.Query) {
		return fmt.Errorf("%w: %w", errAsked, errValue)
	}
	if id, err := record.ParseID(strings.ToLower(page.Query)); err == nil { // it can only mean one thing
		http.Redirect(v.w, v.req, "/sessions/"+id.String(), http.StatusSeeOther)
		return nil
	}
	var err error
	page.Page, err = o.c.Desk.Search(v.req.Context(), v.asker(), audit.Query{Text: page.Query, After: f.Get("after"), Most: audit.UsualHits})
	status := http.StatusOK
	if err != nil {
		// The form is shown again, with what is wrong with it.
		switch page.Problem = said(err); {
		case errors.Is(err, tlog.ErrNotFound):
			page.Problem = "Nothing is published in the log yet. Search again in a moment."
		case errors.Is(err, audit.ErrQuery), errors.Is(err, audit.ErrCursor):
			status = http.StatusBadRequest
		case errors.Is(err, audit.ErrNoIndex):
			status = http.StatusServiceUnavailable
		default:
			return err
		}
	}
	for i := range page.Page.Hits {
		h := &page.Page.Hits[i]
		for _, fact := range []*string{&h.Caller, &h.Model, &h.Route, &h.Rule, &h.Refusal} {
			*fact = brief(*fact)
		}
	}
	return o.show(v, status, "search", "Search", page)
}

// valueTerm finds a term of a query that is about a value.
var valueTerm = regexp.MustCompile(`(?i)(?:^|\s)-?value:`)

// quoted puts a value of the form in quotes where the query's language would take it apart.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t\"") {
		return `"` + strings.ReplaceAll(s, `"`, "") + `"`
	}
	return s
}

// Outcomes are what the form offers.
func (finding) Outcomes() []string {
	return []string{"open", string(record.Complete), string(record.Truncated), "refused", string(record.Denied), string(record.Waiting), string(record.Resumed), string(record.ClientGone),
		string(record.UpstreamError), string(record.Limit), string(record.Internal), string(record.Interrupted)}
}

// Next returns where the next page is.
func (f finding) Next() string {
	q := f.values()
	q.Set("after", f.Page.Next)
	return "/search?" + q.Encode()
}

// Link returns where this search is.
func (f finding) Link() string { return "/search?" + f.values().Encode() }

func (f finding) values() url.Values {
	q := url.Values{}
	if f.Plain != "" {
		q.Set("q", f.Plain)
	}
	for name, value := range f.Fields {
		if name != "value" {
			q.Set(name, value)
		}
	}
	return q
}

// marked takes a snippet apart, with what was looked for marked.
func marked(text string, marks [][2]int) []span {
	var all []span
	from := 0
	for _, m := range marks {
		if m[0] < from || m[1] < m[0] || m[1] > len(text) || !boundary(text, m[0]) || !boundary(text, m[1]) {
			continue
		}
		all = append(all, spans(text[from:m[0]])...)
		for _, s := range spans(text[m[0]:m[1]]) {
			if s.Kind == "" {
				s.Kind = "hit"
			}
			all = append(all, s)
		}
		from = m[1]
	}
	return append(all, spans(text[from:])...)
}

func boundary(s string, at int) bool { return at == len(s) || utf8.RuneStart(s[at]) }
