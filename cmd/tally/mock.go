package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

func (t *tally) mock(ctx context.Context, args []string) error {
	fs := t.flags("mock SESSION... | --query QUERY | --bundle FILE...", `Serves recorded answers as a model would, for a rehearsal: the same bytes, with the times between
them, and broken off where they broke off. No model is asked and no tool is called. A request gets
the answer to the same request, or else, as far as --match allows, to one with the same last words
of the user, or to the next in order. Whose answer it is says the header Tallystick-Mock.

Sessions come from a log, where it goes on record first who has them served and why, or from bundles
at hand, which are read and not checked: tally-verify does that. What is masked is served masked.`)
	var s source
	var ids []record.ID
	var files []string
	addID := func(v string) error {
		for _, v := range strings.Split(v, ",") {
			id, err := record.ParseID(v)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	}
	fs.Func("session", "a `session` of the log; may be given again", addID)
	fs.Func("bundle", "a bundle's `file` in place of a log; may be given again", func(v string) error { files = append(files, v); return nil })
	query := fs.String("query", "", "all sessions that a `query` finds, as 'tally search' takes it; the oldest first")
	addr := fs.String("listen", "127.0.0.1:0", "the `address` to serve at; port 0 takes a free one")
	beyond := fs.Bool("beyond-loopback", false, "serve at an address that others reach, who then read what is served")
	speed := fs.Float64("speed", 1, "how many `times` faster than recorded")
	noDelay := fs.Bool("no-delay", false, "answer at once")
	match := fs.String("match", "", "the loosest `way` to match a request: request, message, or order; by default order, and message with --query")
	once := fs.Bool("once", false, "serve each session once, and end")
	who := s.flags(fs, "rehearsal on the command line")
	rest, err := parse(fs, args, 0, maxMocked)
	if err != nil {
		return err
	}
	for _, v := range rest {
		if len(files) > 0 && len(ids) == 0 {
			files = append(files, v)
		} else if err := addID(v); err != nil {
			return cli.Usagef("mock: %v", err)
		}
	}
	if n := map[bool]int{true: 1}; n[len(ids) > 0]+n[len(files) > 0]+n[*query != ""] != 1 {
		return cli.Usagef("mock: name sessions, or give a --query, or --bundle files")
	}
	c := replay.MockConfig{Speed: *speed, NoDelay: *noDelay, Once: *once, AnyHost: *beyond, Match: replay.InOrder}
	switch {
	case *speed <= 0:
		return cli.Usagef("mock: --speed is above 0")
	case *match != "":
		if c.Match, err = replay.ParseMatch(*match); err != nil {
			return cli.Usagef("mock: %v", err)
		}
	case *query != "":
		c.Match = replay.ByMessage
	}
	if _, err := audit.ParseQuery(*query, time.Now()); err != nil {
		return cli.Usagef("mock: %s", cli.Escape(strings.TrimPrefix(err.Error(), "audit: ")))
	}
	if err := onlyHere(*addr); err != nil && !*beyond {
		return cli.Usagef("mock: %v", err)
	}
	var sessions []verify.Session
	switch {
	case len(files) > 0:
		sessions, err = sessionsInFiles(files)
	default:
		if *query != "" {
			if ids, err = t.queried(ctx, &s, *who, *query); err != nil {
				return fmt.Errorf("mock: %w", err)
			}
		}
		sessions, err = t.sessions(ctx, &s, *who, audit.Mock, "", ids)
	}
	if err != nil {
		return fmt.Errorf("mock: %w", err)
	}
	// Of those that were named each must be there. Of those that were found some may have nothing to serve.
	if len(files)+len(ids) > 1 || *query != "" {
		sessions = slices.DeleteFunc(sessions, func(s verify.Session) bool {
			err := replay.Servable(s)
			if err != nil {
				fmt.Fprintf(t.stderr, "tally: session %s is left out: %s\n", s.ID, printable(err.Error()))
			}
			return err != nil
		})
	}
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("mock: %w", err)
	}
	return t.serveMock(ctx, ln, c, sessions)
}

// maxMocked is how many sessions are served at most.
const maxMocked = 10_000

// onlyHere says whether an address is one that only this machine reaches.
func onlyHere(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("whoever reaches %q can read what is served, without a key; say --beyond-loopback if that is meant", addr)
}

// sessions fetches sessions for the sake of an act, in their order. What else a bundle has, for their approvals, is left out.
func (t *tally) sessions(ctx context.Context, s *source, who audit.Asker, act audit.Act, detail string, ids []record.ID) (all []verify.Session, err error) {
	err = t.bundlesFor(ctx, s, who, act, detail, ids, func(id record.ID, bundle []byte) error {
		b, err := verify.Parse(bundle)
		if err != nil {
			return err
		}
		for _, s := range b.Sessions {
			if s.ID == id {
				all = append(all, s)
				return nil
			}
		}
		return errors.New("the bundle does not have it")
	})
	return all, err
}

// sessionsInFiles reads bundles. A session that is in one because another of it used its yes is left out.
func sessionsInFiles(files []string) (all []verify.Session, err error) {
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		b, err := verify.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		asked := make(map[record.ID]bool)
		for _, s := range b.Sessions {
			if a := transcript.Of(s).Approval; a != nil && !a.Of.IsZero() {
				asked[a.Of] = true
			}
		}
		for i, s := range b.Sessions {
			if i == 0 || !asked[s.ID] {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// serveMock serves until ctx ends, or until each session was served once, where that is all that is to be.
func (t *tally) serveMock(ctx context.Context, ln net.Listener, c replay.MockConfig, sessions []verify.Session) error {
	r := &rehearsal{out: t.stdout}
	c.Served = r.served
	m, err := replay.NewMock(c, sessions...)
	if err != nil {
		ln.Close()
		return fmt.Errorf("mock: %w", err)
	}
	r.begin(ln.Addr(), c, m.Playing())
	srv := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 20, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = errors.Join(srv.Close(), <-ended)
	case <-m.Done():
		err = errors.Join(srv.Shutdown(ctx), <-ended) // when the last answer has been taken
	}
	r.end()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// A rehearsal tells what a mock does while it does it.
type rehearsal struct {
	mu     sync.Mutex
	out    io.Writer
	n, got int             // requests, and those that got a recorded answer
	late   []time.Duration // of events
}

// begin says what is served, where, and how a request finds its answer.
func (r *rehearsal) begin(at net.Addr, c replay.MockConfig, all []replay.Playing) {
	var b strings.Builder
	fmt.Fprintf(&b, "A mock model of %s at http://%s, until interrupted. It asks no model, calls no tool, and takes any key.\n", several(len(all), "recorded session"), at)
	fmt.Fprintf(&b, "The base URL is http://%s/v1 for OpenAI's SDKs, and http://%s for Anthropic's.\n\n", at, at)
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	masked := 0
	for i, p := range all {
		if p.Masked {
			masked++
		}
		if i < 20 {
			fmt.Fprintf(w, "  %s\t%s %s\t%s\t%s\n", p.Session, cli.Escape(p.Method), cli.Escape(p.Target), cli.Escape(p.Model), told(p))
		}
	}
	w.Flush()
	if len(all) > 20 {
		fmt.Fprintf(&b, "  and %d more\n", len(all)-20)
	}
	fmt.Fprintf(&b, "\nA request gets the answer to the same request")
	if c.Match >= replay.ByMessage {
		b.WriteString(", or to one with the same last words of the user")
	}
	if c.Match >= replay.InOrder {
		b.WriteString(", or the next in order")
	}
	b.WriteString(".\n")
	if masked > 0 {
		fmt.Fprintf(&b, "Values are masked in %s, and are served masked. A mask in a recorded request stands for any value.\n", several(masked, "session"))
	}
	b.WriteString("\n")
	io.WriteString(r.out, b.String())
}

// told says in words what an answer is like.
func told(p replay.Playing) string {
	var words []string
	add := func(format string, a ...any) { words = append(words, fmt.Sprintf(format, a...)) }
	switch {
	case p.Status == 0:
		add("no answer")
	case p.Refused != "":
		add("%d, refused by the gateway", p.Status)
	default:
		add("%d", p.Status)
	}
	if p.Streamed {
		add("%s", several(p.Events, "event"))
	}
	add("in %s", p.Duration.Round(100*time.Microsecond))
	if p.Cut {
		add("cut")
	}
	if p.Masked {
		add("masked")
	}
	return strings.Join(words, ", ")
}

// served tells of one request.
func (r *rehearsal) served(s replay.Served) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	line := fmt.Sprintf("%s  %s %s  ", time.Now().Format(time.TimeOnly), cli.Escape(s.Method), cli.Escape(s.Path))
	switch {
	case s.Session.IsZero():
		line += fmt.Sprintf("%d, of the mock itself", s.Status)
	default:
		r.got++
		line += fmt.Sprintf("%d of %s, by %s", s.Status, s.Session, s.By)
	}
	if s.Cut && !s.Left {
		line += ", cut as it was"
	}
	if s.Left {
		line += ", the client left"
	}
	fmt.Fprintln(r.out, line)
	if len(r.late) < 1<<20 {
		r.late = append(r.late, s.Late...)
	}
}

// end sums up.
func (r *rehearsal) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%s, %d with a recorded answer", several(r.n, "request"), r.got)
	if len(r.late) > 0 {
		slices.Sort(r.late)
		ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
		fmt.Fprintf(r.out, "; %s, sent %s after their time, in the middle, and %s at most", several(len(r.late), "event"), ms(r.late[len(r.late)/2]), ms(r.late[len(r.late)-1]))
	}
	fmt.Fprintln(r.out, ".")
}

// queried returns the sessions that a query finds and that have ended, the oldest first.
func (t *tally) queried(ctx context.Context, s *source, who audit.Asker, query string) (ids []record.ID, err error) {
	err = t.searching(ctx, s, func(ctx context.Context, page func(audit.Query) (audit.Page, error)) error {
		ids = nil
		for q := (audit.Query{Text: query, Most: audit.MaxHits}); ; {
			p, err := page(q)
			if err != nil {
				return err
			}
			for _, h := range p.Hits {
				if h.Ended.IsZero() {
					continue
				}
				if ids = append(ids, h.Session); len(ids) > maxMocked {
					return fmt.Errorf("the query finds more than %d sessions; narrow it", maxMocked)
				}
			}
			if q.After = p.Next; q.After == "" {
				return nil
			}
		}
	}, who)
	if err == nil && len(ids) == 0 {
		err = errors.New("the query finds no session that has ended")
	}
	slices.Reverse(ids)
	return ids, err
}
