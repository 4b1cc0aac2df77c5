package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// maxExported is how many sessions one bundle is asked for at most: their ids stand in a URL.
const maxExported = 200

// bundleOf fetches one bundle of all sessions, for the sake of an act.
func (t *tally) bundleOf(ctx context.Context, s *source, who audit.Asker, act audit.Act, ids []record.ID) ([]byte, error) {
	query := url.Values{"as": {act.String()}}
	newest := ids[0]
	for _, id := range ids[1:] {
		query.Add("also", id.String())
		if id.Time().After(newest.Time()) {
			newest = id
		}
	}
	return t.ask(ctx, s, who, newest, "export/"+ids[0].String()+"?"+query.Encode(), func(ctx context.Context, desk *audit.Desk) ([]byte, error) {
		return desk.Bundle(ctx, who, act, "", ids...)
	})
}

// trusted reads whom a certificate's check is to believe: from a file that was named, or the one that the log's configuration names.
func (t *tally) trusted(s *source, path string) (*tlog.Policy, error) {
	if path == "" {
		c, err := s.load()
		if err != nil || c.Policy == "" {
			return nil, errors.Join(err, errors.New("a certificate says whom its check believed; name the file with --policy FILE"))
		}
		path = c.Policy
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	policy, err := tlog.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return policy, nil
}

// writeExport writes a bundle in a format, and with a certificate the bundle that it is about.
func (t *tally) writeExport(f export.Format, bundle []byte, about export.About, out string) error {
	if out != "" {
		about.Name = filepath.Base(beside(out))
	}
	name, _, b, err := export.As(f, bundle, about)
	if err != nil {
		return err
	}
	if out == "" {
		out = name
	}
	switch {
	case out == "-":
		_, err := t.stdout.Write(b)
		return err
	case f == export.Bundle:
		return t.writeBundle(out, b)
	}
	if err := os.WriteFile(out, b, 0o600); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	fmt.Fprintf(t.stderr, "wrote %s, %d bytes\n", out, len(b))
	if f != export.Certificate {
		return nil
	}
	if err := t.writeBundle(beside(out), bundle); err != nil {
		return err
	}
	if r, err := verify.Check(bundle, verify.Trust{Policy: about.Policy}); err != nil || !r.OK() {
		return errors.Join(err, errors.New("export: not every claim about the bundle holds: the page says which, and has nothing to sign"))
	}
	return nil
}

// beside returns where the bundle is written that a certificate is about.
func beside(certificate string) string {
	return strings.TrimSuffix(strings.TrimSuffix(certificate, ".html"), ".certificate") + ".bundle"
}

func (t *tally) writeBundle(path string, bundle []byte) error {
	if err := os.WriteFile(path, bundle, 0o600); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	fmt.Fprintf(t.stderr, "wrote %s, %d bytes; check it with: tally-verify bundle %s --policy POLICY\n", path, len(bundle), path)
	return nil
}
