package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
)

func (t *tally) erase(ctx context.Context, args []string) error {
	fs := t.flags("erase SESSION... | --caller NAME | --before TIME | --session-file FILE, with --reason TEXT --basis TEXT", `Destroys what the records of sessions hold: first who erases it, why and on what ground goes on
record, then the data keys are destroyed, so that nobody opens what was sealed, wherever copies
lie, and then the sealed bytes. The log's entries stay, and every proof with them. Sessions that
have not ended are left, and so are those that a rule of retention keeps; that refusal is on
record. Broken off, it is finished at the next start, or when it is run again. Exit 1: not all of
it is erased.`)
	var s source
	var o audit.Ordered
	who := s.flags(fs, "")
	fs.StringVar(&o.Basis, "basis", "", "the legal `ground`, for the record, such as \"GDPR Art. 17(1)(b)\"")
	fs.StringVar(&o.Caller, "caller", "", "all sessions of this `caller`; with --before those that ended before")
	before := fs.String("before", "", "all that ended before a `time`: 2026-01-31, an RFC 3339 time, or an age such as 90d")
	file := fs.String("session-file", "", "the sessions in a `file`, one a line; - is standard input")
	fs.BoolVar(&o.Try, "dry-run", false, "erase nothing, say what would be")
	fs.BoolVar(&o.Purge, "now", false, "take the sealed bytes off the log's disk at once, not within the hour")
	out := fs.Bool("json", false, "print a line of JSON for each session")
	rest, err := parse(fs, args, 0, 1<<20)
	if err != nil {
		return err
	}
	for _, a := range rest {
		id, err := record.ParseID(a)
		if err != nil {
			return cli.Usagef("erase: %v", err)
		}
		o.Sessions = append(o.Sessions, id)
	}
	if *file != "" {
		ids, err := t.sessionFile(*file)
		if err != nil {
			return fmt.Errorf("erase: %w", err)
		}
		o.Sessions = append(o.Sessions, ids...)
	}
	if *before != "" {
		if o.Before, err = parseBefore(*before, time.Now()); err != nil {
			return cli.Usagef("erase: --before: %v", err)
		}
	}
	chosen := o.Caller != "" || *before != ""
	switch {
	case strings.TrimSpace(who.Reason) == "" || strings.TrimSpace(o.Basis) == "":
		return cli.Usagef("erase: say why with --reason and on what ground with --basis; both go on record")
	case *file != "" && len(o.Sessions) == 0:
		return fmt.Errorf("erase: there is no session in %s", *file)
	case len(o.Sessions) == 0 && !chosen:
		fs.Usage()
		return cli.Usagef("erase: name sessions, or say whose or how old with --caller or --before")
	case len(o.Sessions) > 0 && chosen:
		return cli.Usagef("erase: name sessions, or say whose or how old, and not both")
	}
	return t.order(ctx, &s, *who, "erase", o, *out, func(ctx context.Context, desk *audit.Desk, o audit.Ordered, each func(audit.Fate) error) error {
		return desk.Erase(ctx, *who, audit.Order{Sessions: o.Sessions, Caller: o.Caller, Before: o.Before, Basis: o.Basis, Try: o.Try}, each)
	})
}

func (t *tally) retain(ctx context.Context, args []string) error {
	fs := t.flags("retain", `Erases what the rules of retention in the configuration want erased by now, as 'tally serve'
does on schedule. Who had it done, and by which rule, goes on record.`)
	var s source
	var o audit.Ordered
	who := s.flags(fs, "retention on the command line")
	fs.BoolVar(&o.Try, "dry-run", false, "erase nothing, say what would be")
	fs.BoolVar(&o.Purge, "now", false, "take the sealed bytes off the log's disk at once, not within the hour")
	out := fs.Bool("json", false, "print a line of JSON for each session")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	return t.order(ctx, &s, *who, "retain", o, *out, func(ctx context.Context, desk *audit.Desk, o audit.Ordered, each func(audit.Fate) error) error {
		return desk.Retain(ctx, *who, o.Try, each)
	})
}

// errLeft says that not everything was erased.
var errLeft = errors.New("not everything was erased")

// order has an order carried out: by the desk of a running log, or at a closed one.
func (t *tally) order(ctx context.Context, s *source, who audit.Asker, name string, o audit.Ordered, asJSON bool, closed func(context.Context, *audit.Desk, audit.Ordered, func(audit.Fate) error) error) error {
	fates := make(map[string]int)
	var bytes int64
	each := func(f audit.Fate) error {
		fates[f.Fate]++
		if f.Fate == audit.Erased || f.Fate == audit.Would {
			bytes += f.Bytes
		}
		if asJSON {
			b, err := json.Marshal(f)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.stdout, "%s\n", b)
			return err
		}
		_, err := fmt.Fprintln(t.stdout, fateLine(f))
		return err
	}
	purged, err := t.carryOut(ctx, s, who, name, o, each, closed)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	done := audit.Erased
	if o.Try {
		done = audit.Would
	}
	fmt.Fprintf(t.stderr, "%s: %d sessions, %d sealed bytes", done, fates[done], bytes)
	left := 0
	for _, f := range []string{audit.Already, audit.Kept, audit.Open, audit.Unknown, audit.Failed} {
		if n := fates[f]; n > 0 {
			fmt.Fprintf(t.stderr, "; %s: %d", f, n)
		}
		if f != audit.Already {
			left += fates[f]
		}
	}
	fmt.Fprintln(t.stderr)
	switch {
	case purged:
		fmt.Fprintln(t.stderr, "The sealed bytes are off the log's disk.")
	case !o.Try && fates[audit.Erased] > 0:
		fmt.Fprintln(t.stderr, "Nobody can open what was erased. The sealed bytes leave the log's disk within an hour while it runs, or with --now.")
	}
	if left > 0 && !o.Try {
		return fmt.Errorf("%s: %w", name, errLeft)
	}
	return nil
}

func fateLine(f audit.Fate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", f.Session, f.Fate)
	if f.Why != "" {
		fmt.Fprintf(&b, ": %s", printable(f.Why))
	}
	if f.Payloads > 0 {
		fmt.Fprintf(&b, "  %d records, %d bytes", f.Payloads, f.Bytes)
	}
	if f.Caller != "" {
		fmt.Fprintf(&b, "  of %s", printable(f.Caller))
	}
	if f.Route != "" {
		fmt.Fprintf(&b, "  by %s", printable(f.Route))
	}
	if !f.Ended.IsZero() {
		fmt.Fprintf(&b, "  ended %s", f.Ended.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// carryOut tells whether the log's disk was purged, too.
func (t *tally) carryOut(ctx context.Context, s *source, who audit.Asker, name string, o audit.Ordered, each func(audit.Fate) error, closed func(context.Context, *audit.Desk, audit.Ordered, func(audit.Fate) error) error) (purged bool, err error) {
	base, err := s.url()
	if err != nil {
		return false, err
	}
	for base != "" {
		part, more := o, false
		if len(o.Sessions) > audit.MaxOrdered {
			part.Sessions, part.Purge, more = o.Sessions[:audit.MaxOrdered], false, true
		}
		last, err := t.orderRunning(ctx, base, s.tokenFile, who, name, part, each)
		if refused := new(url.Error); errors.As(err, &refused) && s.log == "" && ctx.Err() == nil {
			break // it said that it runs, and does not: it died
		}
		if err != nil || !more {
			return last.Purged, err
		}
		o.Sessions = o.Sessions[audit.MaxOrdered:]
	}
	c, err := s.load()
	if err != nil {
		return false, err
	}
	if !c.HasGateway() {
		return false, cli.Usagef("%s: this process has no data keys; name the gateway's configuration, or its desk with --log", name)
	}
	env := t.env(slog.New(slog.DiscardHandler))
	env.Brief = true
	v, err := assemble.OpenVault(c, env)
	if err != nil {
		return false, err
	}
	desk, pen, err := v.Desk("tally-erase")
	if err != nil {
		return false, errors.Join(err, v.Close())
	}
	err = assemble.While(ctx, v, pen, func(ctx context.Context) error {
		if err := v.Quarantined(); err != nil {
			return err
		}
		if err := desk.Recover(ctx, v.Mark()); err != nil {
			return err
		}
		if err := closed(ctx, desk, o, each); err != nil {
			return err
		}
		if o.Purge && !o.Try {
			err := desk.Purge(ctx)
			if purged = err == nil; !errors.Is(err, audit.ErrNoPurge) {
				return err
			}
		}
		return nil
	})
	return purged, err
}

// orderRunning gives an order to the desk of a running gateway, and hands on what it tells as it comes.
func (t *tally) orderRunning(ctx context.Context, base, tokenFile string, who audit.Asker, name string, o audit.Ordered, each func(audit.Fate) error) (last audit.Last, err error) {
	token, err := t.operatorToken(base, tokenFile)
	if err != nil {
		return last, err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return last, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+audit.Prefix+name, bytes.NewReader(body))
	if err != nil {
		return last, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", who.Name)
	req.Header.Set("Tallystick-Reason", who.Reason)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return last, fmt.Errorf("the desk answered %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f, end, err := parseLine(lines.Bytes())
		switch {
		case err != nil:
			return last, err
		case end == nil:
			if err := each(f); err != nil {
				return last, err
			}
		case end.Error != "":
			return *end, errors.New(end.Error)
		default:
			return *end, nil
		}
	}
	return last, errors.Join(errors.New("the desk's answer was cut off; run it again, which does no harm"), lines.Err())
}

// parseLine reads a line of a desk's answer to an order: a fate, or the last.
func parseLine(b []byte) (f audit.Fate, last *audit.Last, err error) {
	if err := json.Unmarshal(b, &f); err != nil {
		return f, nil, fmt.Errorf("the desk's answer cannot be read: %w", err)
	}
	if f.Fate != "" {
		return f, nil, nil
	}
	last = new(audit.Last)
	if err := json.Unmarshal(b, last); err != nil || !last.Done && last.Error == "" {
		return f, nil, errors.Join(errors.New("the desk's answer cannot be read"), err)
	}
	return f, last, nil
}

// sessionFile reads sessions, one a line; what follows a # is a comment.
func (t *tally) sessionFile(path string) ([]record.ID, error) {
	if path == "-" {
		return parseSessions(t.stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids, err := parseSessions(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ids, nil
}

func parseSessions(r io.Reader) (ids []record.ID, err error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		id, err := record.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		ids = append(ids, id)
	}
	return ids, lines.Err()
}

// parseBefore reads a day, which begins in UTC, a time, or an age.
func parseBefore(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, s); err == nil {
			return at, nil
		}
	}
	age, err := audit.ParseAge(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%.40q is none of 2026-01-31, 2026-01-31T12:00:00Z, 90d", s)
	}
	return age.Before(now), nil
}
