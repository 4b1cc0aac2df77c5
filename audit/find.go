package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// askedFor returns the session whose yes a session used; zero where it used none. An erased one does not say whose.
func (d *Desk) askedFor(ctx context.Context, session []record.Found) (id record.ID, err error) {
	for _, f := range session {
		if f.Entry.Kind != record.Approval || f.Entry.Reason != record.Used {
			continue
		}
		r, err := d.record(ctx, f.Entry)
		if errors.Is(err, tlog.ErrNotFound) {
			return id, nil
		}
		if err != nil {
			return id, err
		}
		v, _ := r.Get(record.FieldApproval)
		return record.ParseID(string(v))
	}
	return id, nil
}

// find returns the entries of a session, which has ended.
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
		return nil, ErrOpen
	}
	return at, nil
}
