package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A Reading is what the log has of somebody who looked at records, erased some, logged in, or changed keys or rules.
type Reading struct {
	Index   uint64      `json:"index"` // of its entry
	Kind    record.Kind `json:"kind"`  // access, erasure or policy
	By      string      `json:"by"`    // the writer
	Time    time.Time   `json:"time"`
	Session record.ID   `json:"session,omitzero"` // zero where it is about none
	Actor   string      `json:"actor,omitempty"`
	Reason  string      `json:"reason,omitempty"` // as the actor gave it
	What    string      `json:"what,omitempty"`
	Basis   string      `json:"basis,omitempty"`
	Fields  []string    `json:"fields,omitempty"`  // which were handed out, where not all were
	Missing bool        `json:"missing,omitempty"` // its own record cannot be read here
}

// maxTrail is how many readings one call returns at most.
const maxTrail = 1000

// Trail returns who read what, newest first: at most that many, of the entries before an index, or of all where it is 0. next is
// the index to go on before, 0 where there are no more. That the trail was read is on record first, and so stands in it.
func (d *Desk) Trail(ctx context.Context, who Asker, before uint64, most int) (all []Reading, next uint64, err error) {
	if most < 1 || most > maxTrail {
		return nil, 0, fmt.Errorf("%w: ask for 1 to %d readings", errRequest, maxTrail)
	}
	if err := d.admit(ctx, who, Trail, record.ID{}, ""); err != nil {
		return nil, 0, err
	}
	size, err := d.size(ctx)
	if err != nil {
		return nil, 0, err
	}
	if before == 0 || before > size {
		before = size
	}
	for to := before; to > 0 && len(all) < most; {
		from := (to - 1) &^ (tlog.TileWidth - 1)
		var found []record.Found
		err := d.scan(ctx, from, to, func(index uint64, b []byte) error {
			e, err := record.ParseEntry(b)
			if err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
			switch e.Kind {
			case record.Access, record.Erasure, record.Policy:
				found = append(found, record.Found{Index: index, Bytes: b, Entry: e})
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
		for _, f := range slices.Backward(found) {
			if len(all) == most {
				return all, all[most-1].Index, nil
			}
			r, err := d.reading(ctx, f)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, r)
		}
		to = from
		next = from
	}
	return all, next, nil
}

// reading opens one.
func (d *Desk) reading(ctx context.Context, f record.Found) (Reading, error) {
	out := Reading{Index: f.Index, Kind: f.Entry.Kind, By: f.Entry.By, Time: f.Entry.Time, Session: f.Entry.Session}
	if f.Entry.PayloadSize == 0 {
		return out, nil
	}
	r, err := d.record(ctx, f.Entry)
	switch {
	case errors.Is(err, tlog.ErrNotFound), errors.Is(err, ErrNotHere):
		out.Missing = true
		return out, nil
	case err != nil:
		return out, fmt.Errorf("entry %d: %w", f.Index, err)
	}
	text := func(name string) string { v, _ := r.Get(name); return string(v) }
	out.Actor, out.Reason, out.What, out.Basis = text(record.FieldActor), text(record.FieldReason), text(record.FieldWhat), text(record.FieldBasis)
	if names := text(record.FieldFields); names != "" {
		out.Fields = strings.Split(names, "\n")
	}
	return out, nil
}
