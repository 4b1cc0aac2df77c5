package audit

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

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
