package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/tallystick/tallystick/audit/ship"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
)

func (t *tally) ship(ctx context.Context, args []string) error {
	fs := t.flags("ship --to ADDRESS [--mark FILE] [--once]", `Follows a log and hands what is new in it on, as JSON lines, until it is interrupted: to a file, an
HTTPS endpoint or a syslog collector. Each entry arrives at least once and in its order; begun again, it goes on where it
stopped. It ships the public log alone, and verifies nothing: see tally-verify monitor. The metadata of records is shipped by the gateway itself: key ship of its configuration.`)
	var s source
	to := fs.String("to", "", "`where` to: file:PATH, https://host/path, syslog+tls://host:port, syslog+unix:PATH")
	mark := fs.String("mark", "", "the `file` that remembers how far it came; of a file, by default that with .mark behind its name")
	from := fs.Uint64("from", 0, "the `index` to begin at, where there is no mark yet")
	once := fs.Bool("once", false, "end when everything is shipped that is published now")
	bearer := fs.String("bearer", "", "the `file` with the token of an HTTPS endpoint")
	roots := fs.String("roots", "", "a PEM `file` of the authorities that its certificate comes from; by default the system's")
	fs.StringVar(&s.log, "log", "", "the `URL` of a running log")
	fs.StringVar(&s.data, "data", "", "the data `directory` of a log, running or closed; by default "+defaultData)
	fs.StringVar(&s.config, "config", "", "the configuration `file` of a log, running or closed")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(*to, "file:"); ok && *mark == "" {
		*mark = path + ".mark"
	}
	switch {
	case *to == "":
		return cli.Usagef("ship: say where to, with --to")
	case *mark == "":
		return cli.Usagef("ship: name the file that remembers how far it came, with --mark")
	}
	o := ship.Options{}
	if *bearer != "" {
		token, err := keys.Credential{File: *bearer}.Load(nil)
		if err != nil {
			return fmt.Errorf("ship: %w", err)
		}
		o.Token = token
	}
	if *roots != "" {
		pem, err := os.ReadFile(*roots)
		if err != nil {
			return fmt.Errorf("ship: --roots: %w", err)
		}
		if o.Roots = x509.NewCertPool(); !o.Roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ship: --roots: no certificate in %s", *roots)
		}
	}
	sink, err := ship.Open(*to, o)
	if err != nil {
		return cli.Usagef("%v", err)
	}
	log, done, err := t.follow(&s)
	if err != nil {
		return fmt.Errorf("ship: %w", err)
	}
	f, err := ship.New(ship.Config{
		Name: "tally ship", Log: log, Sink: sink, Mark: *mark, From: *from, Once: *once, Logger: slog.New(slog.NewTextHandler(t.stderr, nil)),
	})
	if err == nil {
		err = f.Run(ctx)
	}
	return errors.Join(err, sink.Close(), done())
}

// follow returns the public log that s names: the running one, or a closed one's.
func (t *tally) follow(s *source) (log tlog.Reader, done func() error, err error) {
	base, err := s.url()
	if err != nil {
		return nil, nil, err
	}
	if base != "" {
		log, err := tiles.FromURL(base, http.DefaultClient, tiles.Limits{})
		return log, func() error { return nil }, err
	}
	c, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	l, err := assemble.OpenReadOnly(c, t.env(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, nil, err
	}
	return l, l.Close, nil
}
