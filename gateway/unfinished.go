package gateway

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// closeUnfinished gives an end to the sessions that earlier boots left open: a response with the outcome interrupted,
// holding what the journal kept. It runs beside the serving of new calls, once a boot, and when it has been cut short
// the next boot does the rest.
func (g *Gateway) closeUnfinished(ctx context.Context) error {
	open, err := g.writer.Unfinished(ctx)
	if err != nil {
		return err
	}
	wanted := make(map[record.ID]bool, len(open))
	for _, u := range open {
		wanted[u.Session] = true
	}
	kept, err := g.journal.remnants(ctx, wanted)
	if err != nil {
		return err
	}
	var tickets []*record.Ticket
	for _, u := range open {
		d, err := g.interrupted(ctx, u, kept[u.Session])
		if err != nil {
			return fmt.Errorf("close the interrupted session %s: %w", u.Session, err)
		}
		for {
			t, err := g.writer.Submit(d)
			if err == nil {
				tickets = append(tickets, t)
				break
			}
			// Busy: those before are on their way.
			if g.writer.Broken() != nil || len(tickets) == 0 {
				return fmt.Errorf("close the interrupted session %s: %w", u.Session, err)
			}
			if err := tickets[len(tickets)-1].Wait(ctx); err != nil {
				return err
			}
		}
	}
	for _, t := range tickets {
		if err := t.Wait(ctx); err != nil {
			return err
		}
	}
	if len(open) > 0 {
		g.log.Info("closed the sessions that an earlier boot left open", "sessions", len(open))
	}
	return g.journal.forget()
}

// interrupted drafts the end of a session from what is left of it.
func (g *Gateway) interrupted(ctx context.Context, u record.Unfinished, m *remnant) (record.Draft, error) {
	r := make(record.Record, 0, 8)
	r.Add(record.FieldSession, []byte(u.Session.String()))
	var key []byte
	var name string
	kept := "nothing of an answer: the gateway died before one came, or before any of it was passed on"
	first := time.Time{}
	if m != nil {
		name = m.keyName
		key, _ = g.cfg.Keys.Open(ctx, name)
		first = m.first
		kept = fmt.Sprintf("%d pieces of the answer, %d bytes: at most these had been passed on", m.pieces, len(m.body))
		if m.torn {
			kept += "; the journal ends in a piece that cannot be read"
		}
		r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(m.status), 10))
		r.Add(record.FieldHeaders, m.header)
		r.Add(record.FieldEvents, m.table)
		r.Add(record.FieldBody, m.body)
	}
	r.Add(record.FieldKept, []byte(kept))
	r.Add(record.FieldTimes, appendTimes(nil, "first", first, "closed", time.Now()))
	if key == nil {
		var err error
		if name, key, err = g.cfg.Keys.New(ctx); err != nil {
			return record.Draft{}, fmt.Errorf("data key: %w", err)
		}
	}
	e := record.Entry{Kind: record.Response, Outcome: record.Interrupted, Session: u.Session, Prev: u.Leaf, Root: r.Root(), Fields: len(r)}
	sealed, err := g.coder.Seal(r, key, name, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		return record.Draft{}, err
	}
	e.Payload, e.PayloadSize = record.Sum(sealed), int64(len(sealed))
	return record.Draft{Entry: e, Payload: sealed}, nil
}
