package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
)

func (t *tally) search(ctx context.Context, args []string) error {
	fs := t.flags("search [QUERY] [--json] [--most N] [--after NEXT | --all]", `Finds sessions, the newest first. That it was asked, by whom and why, goes on record first, with
masks in the place of values. All that a query says must hold; it is best put in single quotes:
  refund                       a word of what was asked or answered; refund* also how it may go on
  "refund the card"            words in a row
  caller:alice group: model: route: rule: finding:CARD
  outcome:truncated verdict:ask approval:denied session:ID
  status:404 status:4xx status:>=400 tokens:>1000 duration:>2s
  since:2h since:2026-11-01 until:2026-11-30T12:00:00Z
  value:"4111 1111 1111 1111"  what stands in records as a mask
  -word -caller:bob            does not hold; put the query after -- if it begins with a hyphen`)
	var s source
	asJSON := fs.Bool("json", false, "print each page as one line of JSON")
	most := fs.Int("most", audit.UsualHits, fmt.Sprintf("how many sessions are on a page, at most %d", audit.MaxHits))
	after := fs.String("after", "", "go on after the `page` that said so")
	all := fs.Bool("all", false, "print all pages")
	who := s.flags(fs, "search on the command line")
	rest, err := parse(fs, args, 0, audit.MaxTerms)
	if err != nil {
		return err
	}
	if *most < 1 || *most > audit.MaxHits {
		return cli.Usagef("search: --most is 1 to %d", audit.MaxHits)
	}
	if *all && *after != "" {
		return cli.Usagef("search: --all begins at the beginning; leave out --after")
	}
	q := audit.Query{Text: strings.Join(rest, " "), After: *after, Most: *most}
	if _, err := audit.ParseQuery(q.Text, time.Now()); err != nil {
		return cli.Usagef("search: %s", cli.Escape(strings.TrimPrefix(err.Error(), "audit: ")))
	}
	wide := width(t.terminal, t.lookup)
	show := func(p *audit.Page) error {
		if *asJSON {
			return cli.WriteJSON(t.stdout, p)
		}
		var b bytes.Buffer
		showHits(&b, p.Hits, wide, t.terminal)
		if _, err := t.stdout.Write(b.Bytes()); err != nil {
			return err
		}
		t.aboutPage(p, *all)
		return nil
	}
	err = t.searching(ctx, &s, func(ctx context.Context, page func(audit.Query) (audit.Page, error)) error {
		for {
			p, err := page(q)
			if err != nil {
				return err
			}
			if err := show(&p); err != nil || !*all || p.Next == "" {
				return err
			}
			q.After = p.Next
		}
	}, *who)
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

// aboutPage says, beside the table, what to know of a page.
func (t *tally) aboutPage(p *audit.Page, all bool) {
	for _, n := range p.Notes {
		fmt.Fprintf(t.stderr, "note: %s\n", cli.Escape(n))
	}
	if p.Size > p.Indexed {
		fmt.Fprintf(t.stderr, "note: the newest %d of %d entries of the log are not in the index yet\n", p.Size-p.Indexed, p.Size)
	}
	switch {
	case all:
	case p.Short:
		fmt.Fprintf(t.stderr, "the search was broken off because it takes long; go on with --after %s, or with --all\n", p.Next)
	case p.Next != "":
		fmt.Fprintf(t.stderr, "there are more; go on with --after %s, or with --all\n", p.Next)
	case len(p.Hits) == 0:
		fmt.Fprintln(t.stderr, "no session is found")
	}
}

// searching has do search in a running log or in a closed one.
func (t *tally) searching(ctx context.Context, s *source, do func(ctx context.Context, page func(audit.Query) (audit.Page, error)) error, who audit.Asker) error {
	base, err := s.url()
	if err != nil {
		return err
	}
	if base != "" {
		err := do(ctx, func(q audit.Query) (p audit.Page, err error) {
			form := url.Values{"q": {q.Text}, "after": {q.After}, "most": {strconv.Itoa(q.Most)}}
			return p, t.askDesk(ctx, base, s.tokenFile, who, http.MethodPost, "search", form, &p)
		})
		if refused := new(url.Error); !errors.As(err, &refused) || s.log != "" {
			return err
		} // it said that it runs, and does not: it died
	}
	return t.atIndex(ctx, s, func(ctx context.Context, desk *audit.Desk, caughtUp func() error) error {
		if err := caughtUp(); err != nil {
			return err
		}
		return do(ctx, func(q audit.Query) (audit.Page, error) { return desk.Search(ctx, who, q) })
	})
}

// askDesk asks the desk of a running log for something in JSON. What the form says, if there is one, stands in no address, and so in no
// error either.
func (t *tally) askDesk(ctx context.Context, base, tokenFile string, who audit.Asker, method, path string, form url.Values, into any) error {
	token, err := t.operatorToken(base, tokenFile)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+audit.Prefix+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", who.Name)
	req.Header.Set("Tallystick-Reason", who.Reason)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("the desk answered %s: %s", resp.Status, strings.TrimSpace(string(b[:min(len(b), 500)])))
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the desk's answer cannot be read: %w", err)
	}
	return nil
}

// atIndex opens a log that nobody has open, with its index, which follows it meanwhile; caughtUp waits until it has all of it.
func (t *tally) atIndex(ctx context.Context, s *source, do func(ctx context.Context, desk *audit.Desk, caughtUp func() error) error) error {
	c, err := s.load()
	if err != nil {
		return err
	}
	env := t.env(slog.New(slog.DiscardHandler))
	env.Brief = true
	v, err := assemble.OpenVault(c, env)
	if err != nil {
		return err
	}
	desk, pen, follow, err := v.SearchDesk("tally-search")
	if err != nil {
		return errors.Join(err, v.Close())
	}
	return assemble.While(ctx, v, pen, func(ctx context.Context) error {
		if err := v.Quarantined(); err != nil {
			return err
		}
		following, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- follow(following) }()
		err := do(ctx, desk, func() error { return t.catchUp(ctx, desk.Progress) })
		stop()
		return errors.Join(err, <-ended)
	})
}

// catchUp waits until the index has what the log had when it was asked, and says how far it is where that takes long.
func (t *tally) catchUp(ctx context.Context, progress func(context.Context) (audit.Progress, error)) error {
	first, err := progress(ctx)
	if err != nil {
		return err
	}
	begun, said := time.Now(), time.Now()
	for p := first; p.Indexed < first.Size; {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if p, err = progress(ctx); err != nil {
			return err
		}
		if time.Since(said) > time.Second {
			said = time.Now()
			rate := float64(p.Indexed-min(first.Indexed, p.Indexed)) / time.Since(begun).Seconds()
			fmt.Fprintf(t.stderr, "%d of %d entries are indexed, %.0f a second\n", p.Indexed, first.Size, rate)
		}
	}
	return nil
}

func (t *tally) reindex(ctx context.Context, args []string) error {
	fs := t.flags("reindex", `Makes the index of sessions again from the log: what tally search and the console search in. It is
derived from the records, and can be made again at any time; the former one is destroyed with its key.
While a running log makes it, sessions are found as far as it has come.`)
	var s source
	who := s.flags(fs, "the index is made again")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if err := t.again(ctx, &s, *who); err != nil {
		return fmt.Errorf("reindex: %w", err)
	}
	return nil
}

func (t *tally) again(ctx context.Context, s *source, who audit.Asker) error {
	said := func(p audit.Progress, err error) error {
		if err == nil {
			fmt.Fprintf(t.stdout, "the index has all %d entries\n", p.Indexed)
		}
		return err
	}
	base, err := s.url()
	if err != nil {
		return err
	}
	if base != "" {
		err := t.askDesk(ctx, base, s.tokenFile, who, http.MethodPost, "reindex", nil, nil)
		if refused := new(url.Error); !errors.As(err, &refused) || s.log != "" {
			progress := func(ctx context.Context) (p audit.Progress, err error) {
				return p, t.askDesk(ctx, base, s.tokenFile, who, http.MethodGet, "index", nil, &p)
			}
			if err == nil {
				err = t.catchUp(ctx, progress)
			}
			if err != nil {
				return err
			}
			return said(progress(ctx))
		}
	}
	return t.atIndex(ctx, s, func(ctx context.Context, desk *audit.Desk, caughtUp func() error) error {
		if err := desk.Reindex(ctx, who); err != nil {
			return err
		}
		if err := caughtUp(); err != nil {
			return err
		}
		return said(desk.Progress(ctx))
	})
}

// usualWidth is how wide a table is where nobody knows how wide the terminal is.
const usualWidth = 100

// width returns how many columns there are to write in.
func width(terminal bool, lookup func(string) (string, bool)) int {
	if s, ok := lookup("COLUMNS"); ok {
		if n, err := strconv.Atoi(s); err == nil && n >= 40 {
			return min(n, 400)
		}
	}
	if terminal {
		if n := columns(os.Stdout); n > 0 {
			return max(n, 40)
		}
	}
	return usualWidth
}

// showHits writes a table of sessions: two lines each, and a third where something was found in its words. Nothing of a stranger's
// reaches the terminal as it is.
func showHits(out *bytes.Buffer, hits []audit.Hit, wide int, bold bool) {
	if len(hits) == 0 {
		return
	}
	head := []string{"BEGAN (UTC)", "CALLER", "MODEL", "ROUTE", "HOW IT ENDED", "TOKENS", "TOOK"}
	rows := [][]string{head}
	for i := range hits {
		h := &hits[i]
		rows = append(rows, []string{
			h.Began.UTC().Format("2006-01-02 15:04:05"), cli.Escape(cmp.Or(h.Caller, "-")), cli.Escape(cmp.Or(h.Model, "-")), cli.Escape(cmp.Or(h.Route, "-")),
			cli.Escape(ending(h)), used(h), took(h),
		})
	}
	widths := make([]int, len(head))
	for _, r := range rows {
		for i, s := range r {
			widths[i] = max(widths[i], breadth(s))
		}
	}
	// What strangers name gives way, the widest first.
	total := 2 * (len(head) - 1)
	for _, w := range widths {
		total += w
	}
	for total > wide {
		most := 1
		for _, i := range []int{2, 3, 4} {
			if widths[i] > widths[most] {
				most = i
			}
		}
		if widths[most] <= 6 {
			break
		}
		widths[most]--
		total--
	}
	for i, r := range rows {
		var line strings.Builder
		for j, s := range r {
			s = fit(s, widths[j])
			pad := strings.Repeat(" ", widths[j]-breadth(s))
			if j >= 5 {
				s = pad + s
			} else if j < len(r)-1 {
				s += pad
			}
			if line.WriteString(s); j < len(r)-1 {
				line.WriteString("  ")
			}
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
		if i == 0 {
			continue
		}
		h := &hits[i-1]
		fmt.Fprintf(out, "  %s", h.Session)
		if len(h.Findings) > 0 {
			fmt.Fprint(out, fit("  masked: "+cli.Escape(strings.Join(h.Findings, ", ")), max(wide-38, 12)))
		}
		fmt.Fprintln(out)
		if h.Snippet != "" {
			showSnippet(out, h, wide, bold)
		}
	}
}

// showSnippet writes what was found, as much of it as is on one line, from a little before the first place on.
func showSnippet(out *bytes.Buffer, h *audit.Hit, wide int, bold bool) {
	from := 0
	if len(h.Marks) > 0 {
		if start := h.Marks[0][0]; start > wide/2 && start <= len(h.Snippet) {
			from = start - wide/3
			for from < start && !utf8.RuneStart(h.Snippet[from]) {
				from++
			}
		}
	}
	left := wide - 2
	fmt.Fprint(out, "  ")
	write := func(s string, strong bool) {
		s = fit(cli.Escape(s), left)
		left -= breadth(s)
		if strong && bold && s != "" {
			s = "\x1b[1m" + s + "\x1b[0m"
		}
		out.WriteString(s)
	}
	for _, m := range h.Marks {
		if m[0] < from || m[1] < m[0] || m[1] > len(h.Snippet) {
			continue // it comes from elsewhere, and is not believed
		}
		write(h.Snippet[from:m[0]], false)
		write(h.Snippet[m[0]:m[1]], true)
		from = m[1]
	}
	write(h.Snippet[from:], false)
	fmt.Fprintln(out)
}

// ending says how a session ended.
func ending(h *audit.Hit) string {
	s := h.Outcome
	if h.Status > 0 {
		s = strconv.Itoa(h.Status) + " " + s
	}
	if h.Refusal != "" {
		s += ": " + h.Refusal
	}
	if h.Approval != "" {
		s += " (" + h.Approval + ")"
	}
	return s
}

func used(h *audit.Hit) string {
	if h.In < 0 && h.Out < 0 {
		return "-"
	}
	number := func(n int64) string {
		if n < 0 {
			return "?"
		}
		return strconv.FormatInt(n, 10)
	}
	return number(h.In) + "+" + number(h.Out)
}

func took(h *audit.Hit) string {
	d := h.Duration
	switch {
	case h.Ended.IsZero():
		return "-"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// breadth is how many columns a text takes that was escaped.
func breadth(s string) (n int) {
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

func columnsOf(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul), 0x1f300 <= r && r < 0x1fb00, 0xff01 <= r && r <= 0xff60, 0x3000 <= r && r < 0x3040:
		return 2
	}
	return 1
}

// fit cuts a text to so many columns.
func fit(s string, most int) string {
	if breadth(s) <= most {
		return s
	}
	n := 0
	for i, r := range s {
		if n += columnsOf(r); n > most-1 {
			if most < 1 {
				return ""
			}
			return s[:i] + "…"
		}
	}
	return s
}
