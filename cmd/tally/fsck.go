package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
)

func (t *tally) fsck(ctx context.Context, args []string) error {
	fs := t.flags("fsck", "Reads everything that a closed log has stored and hashes it again: entries against tiles, tiles\nagainst the newest checkpoint and the anchor, payloads against the entries. It writes nothing.")
	var s source
	fs.StringVar(&s.data, "data", "", "the data `directory` of the log; by default "+defaultData)
	fs.StringVar(&s.config, "config", "", "the configuration `file` of the log")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	c, err := s.load()
	if err != nil {
		return err
	}
	l, err := assemble.OpenReadOnly(c, t.env(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	defer l.Close()
	if err := l.Quarantined(); err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	n := l.Size()
	err = l.Check(ctx, func(done, all uint64) {})
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	fmt.Fprintf(t.stdout, "all is well: %d entries, their payloads and tiles, and every checkpoint kept\n", n)
	return nil
}
