package audit

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// located is an entry and where it is.
type located struct {
	index uint64
	bytes []byte
	entry record.Entry
}

// slack is how far the clocks of a log's writers may lie apart before a session is looked for in the whole log.
const slack = 2 * time.Minute

// find returns the entries of a session, which has ended. No index is needed: a session's ID tells when it began, and
// the times in a log rise, so its first entry is found by halving, and the others lie behind it.
func (d *Desk) find(ctx context.Context, id record.ID) ([]located, error) {
	signed, err := d.log.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	ts := tlog.Tiles{Reader: d.log, Size: c.Size}
	var failed error
	from := sort.Search(int(c.Size), func(i int) bool {
		b, err := ts.Entry(ctx, uint64(i))
		if err == nil {
			var e record.Entry
			if e, err = record.ParseEntry(b); err == nil {
				return !e.Time.Before(id.Time().Add(-slack))
			}
		}
		failed = err
		return true
	})
	if failed != nil {
		return nil, failed
	}
	at, err := d.gather(ctx, ts, id, uint64(from))
	if err == nil && len(at) == 0 && from > 0 {
		at, err = d.gather(ctx, ts, id, 0)
	}
	switch {
	case err != nil:
		return nil, err
	case len(at) == 0:
		return nil, fmt.Errorf("no such session among %d entries: %w", c.Size, tlog.ErrNotFound)
	}
	if k := at[len(at)-1].entry.Kind; k != record.Response && k != record.Refused {
		return nil, ErrOpen
	}
	return at, nil
}

// gather collects a session's entries from one index on, until its last.
func (d *Desk) gather(ctx context.Context, ts tlog.Tiles, id record.ID, from uint64) ([]located, error) {
	var at []located
	for next := from; next < ts.Size; {
		t := tlog.TileAt(tlog.EntriesLevel, next, ts.Size)
		data, err := tlog.ReadTile(ctx, ts.Reader, t)
		if err != nil {
			return nil, err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		for ; next < t.Index*tlog.TileWidth+uint64(t.Width); next++ {
			b := entries[next%tlog.TileWidth]
			e, err := record.ParseEntry(b)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", next, err)
			}
			if e.Session != id || e.Kind == record.Access || e.Kind == record.Erasure {
				continue
			}
			at = append(at, located{next, b, e})
			if e.Kind == record.Response || e.Kind == record.Refused {
				return at, nil
			}
		}
	}
	return at, nil
}
