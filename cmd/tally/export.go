package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/verify"
)

// A source is where a command finds a log: running at a URL, or closed in a directory.
type source struct {
	log, data, config, tokenFile string
}

// defaultData is where the demo lives when nothing else is said.
const defaultData = "demo"

func (s *source) url() (string, error) {
	if s.log != "" {
		return s.log, nil
	}
	c, err := s.load()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(c.Dir(), runningFile))
	if err != nil {
		return "", nil
	}
	s.tokenFile = c.Operators
	return strings.TrimSpace(string(b)), nil
}

// load reads the configuration of a closed log.
func (s *source) load() (*config.Config, error) {
	path := s.config
	if path == "" {
		data := s.data
		if data == "" {
			data = defaultData
		}
		path = filepath.Join(data, configFile)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s; say where the log is with --log URL, --data DIR or --config FILE", path)
		}
	}
	return config.Load(path)
}

// flags makes the flags that say where a log is, and who asks it and why.
func (s *source) flags(fs *flag.FlagSet, reason string) *audit.Asker {
	who := &audit.Asker{Roles: audit.Operator}
	fs.StringVar(&who.Reason, "reason", reason, "`why`, for the record")
	fs.StringVar(&who.Name, "as", userName(), "`who` asks, for the record")
	fs.StringVar(&s.log, "log", "", "the `URL` of a running log")
	fs.StringVar(&s.data, "data", "", "the data `directory` of a log, running or closed; by default "+defaultData)
	fs.StringVar(&s.config, "config", "", "the configuration `file` of a log, running or closed")
	fs.StringVar(&s.tokenFile, "token-file", "", "the `file` with the operators' token of a running log")
	return who
}

func (t *tally) export(ctx context.Context, args []string) error {
	var words []string
	for _, f := range export.Formats() {
		words = append(words, string(f))
	}
	fs := t.flags("export SESSION... [--format FORMAT] [-o FILE] | export --all -o DIR", `Writes a bundle: the sessions' entries, what their records hold, and the proofs that
tally-verify checks without us. That it was exported, in which format, by whom and why, goes on record first.
With --format it writes what other programs read, which proves nothing: har, csv, and jsonl in the shapes of two APIs,
of any number of sessions; curl, a command that makes the call again, and cast, a recording for asciinema, of one; and
certificate, a draft certificate of custody to print and sign, with the bundle that it is about beside it.
With --all it copies the public log instead, entries and tiles and no content, into a directory.`)
	var s source
	format := fs.String("format", string(export.Bundle), strings.Join(words, ", "))
	out := fs.String("o", "", "the `file` to write, - for standard output; by default it has the name of the session")
	policy := fs.String("policy", "", "for a certificate: the `file` (c2sp.org/tlog-policy) that says whom to believe; by default that of the log's configuration")
	all := fs.Bool("all", false, "copy the whole public log into the directory -o")
	who := s.flags(fs, "export on the command line")
	rest, err := parse(fs, args, 0, maxExported)
	if err != nil {
		return err
	}
	if *all {
		if *out == "" || len(rest) > 0 {
			return cli.Usagef("export --all takes -o DIR and no session")
		}
		base, err := s.url()
		if err != nil {
			return err
		}
		return t.exportAll(ctx, &s, base, *out)
	}
	f, err := export.ParseFormat(*format)
	if err != nil {
		return cli.Usagef("export: %v", err)
	}
	switch {
	case len(rest) == 0:
		return cli.Usagef("export: name a session; every answer of the gateway has it in the header Tallystick-Session")
	case len(rest) > 1 && f.One():
		return cli.Usagef("export: %s is of one session", f)
	case f == export.Certificate && *out == "-":
		return cli.Usagef("export: a certificate is about a bundle, which is written beside it; name a file with -o")
	case f != export.Certificate && *policy != "":
		return cli.Usagef("export: --policy is for a certificate")
	}
	var ids []record.ID
	for _, r := range rest {
		id, err := record.ParseID(r)
		if err != nil {
			return cli.Usagef("export: %v", err)
		}
		if slices.Contains(ids, id) {
			return cli.Usagef("export: the session %s is named twice", id)
		}
		ids = append(ids, id)
	}
	about := export.About{By: who.Name, Reason: who.Reason, Software: software()}
	if f == export.Certificate {
		if about.Policy, err = t.trusted(&s, *policy); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	bundle, err := t.bundleOf(ctx, &s, *who, f.Act(), ids)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	about.At = time.Now()
	return t.writeExport(f, bundle, about, *out)
}

// bundles exports sessions one by one, from the log that s names.
func (t *tally) bundles(ctx context.Context, s *source, who audit.Asker, ids []record.ID, each func(record.ID, []byte) error) error {
	return t.bundlesFor(ctx, s, who, audit.Export, "", ids, each)
}

// bundlesFor fetches sessions one by one, from the log that s names, for the sake of an act; detail says in words what of it, see
// [audit.Desk.Bundle].
func (t *tally) bundlesFor(ctx context.Context, s *source, who audit.Asker, act audit.Act, detail string, ids []record.ID, each func(record.ID, []byte) error) error {
	base, err := s.url()
	if err != nil {
		return err
	}
	for base != "" && len(ids) > 0 {
		path := "export/" + ids[0].String() + "?" + url.Values{"as": {act.String()}, "detail": {detail}}.Encode()
		bundle, err := t.askRunning(ctx, base, s.tokenFile, who, ids[0], path)
		if refused := new(url.Error); errors.As(err, &refused) && s.log == "" {
			break // it said that it runs, and does not: it died
		}
		if err != nil {
			return err // the desk says which session it is about
		}
		if err := each(ids[0], bundle); err != nil {
			return fmt.Errorf("session %s: %w", ids[0], err)
		}
		ids = ids[1:]
	}
	if len(ids) == 0 {
		return nil
	}
	return t.atDesk(ctx, s, func(ctx context.Context, desk *audit.Desk) error {
		for _, id := range ids {
			bundle, err := desk.Bundle(ctx, who, act, detail, id)
			if err != nil {
				return err
			}
			if err := each(id, bundle); err != nil {
				return fmt.Errorf("session %s: %w", id, err)
			}
		}
		return nil
	})
}

// ask asks for something of one session: the desk of a running log by a path, or a closed log's own.
func (t *tally) ask(ctx context.Context, s *source, who audit.Asker, id record.ID, path string, closed func(context.Context, *audit.Desk) ([]byte, error)) ([]byte, error) {
	base, err := s.url()
	if err != nil {
		return nil, err
	}
	if base != "" {
		b, err := t.askRunning(ctx, base, s.tokenFile, who, id, path)
		if refused := new(url.Error); !errors.As(err, &refused) || s.log != "" {
			return b, err
		} // it said that it runs, and does not: it died
	}
	var b []byte
	err = t.atDesk(ctx, s, func(ctx context.Context, desk *audit.Desk) (err error) {
		b, err = closed(ctx, desk)
		return err
	})
	return b, err
}

// askRunning asks a running log's desk for something of a session. A session that has just been answered may not be published yet,
// or not be cosigned, and is asked for again.
func (t *tally) askRunning(ctx context.Context, base, tokenFile string, who audit.Asker, id record.ID, path string) ([]byte, error) {
	token, err := t.operatorToken(base, tokenFile)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+audit.Prefix+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Tallystick-Actor", who.Name)
		req.Header.Set("Tallystick-Reason", who.Reason)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, verify.MaxBundle+1))
		resp.Body.Close()
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusOK:
			return b, nil
		case time.Since(id.Time()) < time.Minute && attempt < 60 && (resp.StatusCode == http.StatusConflict || resp.StatusCode == http.StatusNotFound):
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		default:
			return nil, fmt.Errorf("the log answered %s: %s", resp.Status, strings.TrimSpace(string(b[:min(len(b), 500)])))
		}
	}
}

// atDesk opens a log that nobody has open, has a desk there write into it who asks, and closes it again.
func (t *tally) atDesk(ctx context.Context, s *source, do func(context.Context, *audit.Desk) error) error {
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
	desk, pen, err := v.Desk("tally-export")
	if err != nil {
		return errors.Join(err, v.Close())
	}
	return assemble.While(ctx, v, pen, func(ctx context.Context) error {
		if err := v.Quarantined(); err != nil {
			return err
		}
		return do(ctx, desk)
	})
}

// exportAll copies the public log.
func (t *tally) exportAll(ctx context.Context, s *source, base, dir string) (err error) {
	var src tlog.Reader
	if base != "" {
		if src, err = tiles.FromURL(base, http.DefaultClient, tiles.Limits{}); err != nil {
			return err
		}
	} else {
		c, err := s.load()
		if err != nil {
			return err
		}
		l, err := assemble.OpenReadOnly(c, t.env(slog.New(slog.DiscardHandler)))
		if err != nil {
			return err
		}
		defer l.Close()
		src = l
	}
	c, err := tiles.Copy(ctx, dir, src)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	fmt.Fprintf(t.stderr, "wrote %d entries of %s to %s; check them with: tally-verify log --dir %s --policy POLICY\n", c.Size, c.Origin, dir, dir)
	return nil
}
