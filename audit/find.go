package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// askedFor returns the session whose yes a session used; zero where it used none. One that was erased does not say whose, and the
// log is read back for it.
func (d *Desk) askedFor(ctx context.Context, session []record.Found) (id record.ID, err error) {
	for _, f := range session {
		if f.Entry.Kind != record.Approval || f.Entry.Reason != record.Used {
			continue
		}
		r, err := d.record(ctx, f.Entry)
		if errors.Is(err, tlog.ErrNotFound) {
			return d.whose(ctx, f.Entry.Grant, f.Index)
		}
		if err != nil {
			return id, err
		}
		v, _ := r.Get(record.FieldApproval)
		return record.ParseID(string(v))
	}
	return id, nil
}

// whose returns the session of an entry with that leaf hash, which lies before an index; zero where there is none.
func (d *Desk) whose(ctx context.Context, leaf tlog.Hash, before uint64) (id record.ID, err error) {
	for to := before; to > 0; {
		from := (to - 1) &^ (tlog.TileWidth - 1)
		err := d.scan(ctx, from, to, func(index uint64, b []byte) error {
			if tlog.HashLeaf(b) != leaf {
				return nil
			}
			e, err := record.ParseEntry(b)
			if err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
			id = e.Session
			return errEnough
		})
		if err == errEnough {
			return id, nil
		}
		if err != nil {
			return id, err
		}
		to = from
	}
	return id, nil
}

// find returns the entries of a session; with ErrOpen where it has not ended.
func (d *Desk) find(ctx context.Context, id record.ID) ([]record.Found, error) {
	signed, err := d.log.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	at, err := record.FindSession(ctx, d.log, c.Size, id, 0)
	if err != nil {
		return nil, err
	}
	if len(at) == 0 {
		return nil, fmt.Errorf("no such session among %d entries: %w", c.Size, tlog.ErrNotFound)
	}
	if k := at[len(at)-1].Entry.Kind; k != record.Response && k != record.Refused {
		return at, ErrOpen
	}
	return at, nil
}

// whole returns the entries of a session, and of one that was erased the erasures too; with ErrOpen where it has not ended.
func (d *Desk) whole(ctx context.Context, id record.ID) ([]record.Found, error) {
	at, err := d.find(ctx, id)
	if err != nil {
		return at, err
	}
	gone, err := d.isErased(ctx, at)
	if err != nil || !gone {
		return at, err
	}
	erasures, err := d.erasures(ctx, id, at[len(at)-1].Index+1)
	return append(at, d.published(ctx, erasures)...), err
}
