package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
)

// closeUnfinished gives an end to the sessions that earlier boots left open: a response with the outcome interrupted,
// holding what the journal kept. It runs beside the serving of new calls, once a boot, and when it has been cut short
// the next boot does the rest.
func (g *Gateway) closeUnfinished(ctx context.Context) {
	open, err := g.writer.Unfinished(ctx)
	if err == nil {
		var asked []record.Unfinished
		open, asked = askedIn(open)
		open = append(open, g.book.restoreAll(ctx, asked)...)
		if ctx.Err() == nil {
			close(g.book.restored)
		}
		err = g.closeEach(ctx, open)
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, tlog.ErrQuarantine):
	case err != nil:
		g.log.Error("the sessions that an earlier boot left open could not all be closed; the next boot tries again", "sessions", len(open), "err", err)
	case len(open) > 0:
		g.log.Info("closed the sessions that an earlier boot left open", "sessions", len(open))
	}
}

// askedIn divides what is open into what has to be closed and what people were asked about, and may still decide.
func askedIn(open []record.Unfinished) (rest, asked []record.Unfinished) {
	for _, u := range open {
		if len(u.Entries) > 1 && !u.Uses {
			asked = append(asked, u)
		} else {
			rest = append(rest, u)
		}
	}
	return rest, asked
}

// closeTogether is how many sessions are closed at once, and closePause how long the log is left alone when it took one
// not.
const (
	closeTogether = 128
	closePause    = 200 * time.Millisecond
)

func (g *Gateway) closeEach(ctx context.Context, open []record.Unfinished) error {
	wanted := make(map[record.ID]bool, len(open))
	for _, u := range open {
		wanted[u.Session] = true
	}
	kept, err := g.journal.remnants(ctx, wanted)
	if err != nil {
		return err
	}
	for len(open) > 0 {
		batch, rest := open[:min(len(open), closeTogether)], open[min(len(open), closeTogether):]
		again, err := g.closeBatch(ctx, batch, kept)
		if err != nil {
			return err
		}
		if open = append(again, rest...); len(again) > 0 {
			select {
			case <-time.After(closePause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return g.journal.forget()
}

// closeBatch closes sessions and returns those that the log did not take.
func (g *Gateway) closeBatch(ctx context.Context, batch []record.Unfinished, kept remnants) (again []record.Unfinished, err error) {
	refused := func(err error) bool { return errors.Is(err, tlog.ErrBusy) || errors.Is(err, tlog.ErrFull) }
	tickets := make([]*record.Ticket, len(batch))
	for i, u := range batch {
		d, err := g.interrupted(ctx, u, kept)
		if err == nil {
			tickets[i], err = g.writer.Submit(d)
		}
		if err != nil && !refused(err) {
			return nil, fmt.Errorf("close the interrupted session %s: %w", u.Session, err)
		}
	}
	for i, t := range tickets {
		err := tlog.ErrBusy
		if t != nil {
			err = t.Wait(ctx)
		}
		switch {
		case refused(err):
			again = append(again, batch[i])
		case err != nil:
			return nil, fmt.Errorf("close the interrupted session %s: %w", batch[i].Session, err)
		}
	}
	return again, nil
}

// interrupted drafts the end of a session from what is left of it.
func (g *Gateway) interrupted(ctx context.Context, u record.Unfinished, kept remnants) (record.Draft, error) {
	m := kept.of[u.Session]
	r := make(record.Record, 0, 8)
	r.Add(record.FieldSession, []byte(u.Session.String()))
	var key []byte
	var name string
	var first time.Time
	what := "nothing of an answer in the journal"
	if m != nil {
		name, first = m.keyName, m.first
		key, _ = g.cfg.Keys.Open(ctx, name) // if it does not open, another seals what there is to say
		what = fmt.Sprintf("%d bytes of the answer in %d pieces, journaled before they were passed on", len(m.body), m.pieces)
		r.Add(record.FieldStatus, strconv.AppendInt(nil, int64(m.status), 10))
		header, body, events := m.header, m.body, append(m.table, ']')
		masker, originals := g.maskOf(ctx, u)
		if masker != nil {
			var found mask.Findings
			kind, coding := headOf(header)
			header, body, events, found = maskAnswer(masker, header, kind, coding, body, events)
			addFindings(&r, findingsOf(found))
		}
		r.Add(record.FieldHeaders, header)
		if events != nil {
			r.Add(record.FieldEvents, events)
		}
		r.Add(record.FieldBody, body)
		if err := errors.Join(originals.Add(&r, record.FieldHeaders, m.header), originals.Add(&r, record.FieldBody, m.body)); err != nil {
			g.log.Error("an original could not be sealed, and is not kept", "session", u.Session, "err", err)
		}
	}
	if kept.damaged || m != nil && m.torn {
		what += "; the journal is damaged: more may have been passed on than can be read"
	}
	r.Add(record.FieldKept, []byte(what))
	r.Add(record.FieldTimes, append(appendTime(appendTime(nil, "first", first), "closed", time.Now()), '}'))
	if key == nil {
		var err error
		if name, key, err = g.cfg.Keys.New(ctx); err != nil {
			return record.Draft{}, fmt.Errorf("data key: %w", err)
		}
	}
	return g.coder.Draft(record.Entry{Kind: record.Response, Outcome: record.Interrupted, Session: u.Session, Prev: u.Leaf}, r, key, name)
}
