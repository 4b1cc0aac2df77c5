package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// chunk is how many entries an examination reads through one iterator, which keeps old files from being deleted.
const chunk = 4096

// Check reads everything the log has and believes none of it: every entry is hashed up to the root, every tile of
// hashes compared, every payload that was not discarded hashed, every kept checkpoint verified with the pinned key and
// held against the entries, and so are the head file and the anchor. It works on a log that runs, too. progress, if not
// nil, is told from time to time how many of the entries are done.
//
// A contradiction is returned as an error that holds a *tlog.ForkError or says which row is wrong; a log that is not
// read-only goes into quarantine over it.
func (l *Log) Check(ctx context.Context, progress func(done, total uint64)) error {
	return l.check(ctx, nil, progress)
}

func (l *Log) check(ctx context.Context, pace *budget, progress func(done, total uint64)) error {
	err := l.withStore(func(db *pebble.DB) error { return l.examine(ctx, db, pace, progress) })
	var d *damageError
	if errors.As(err, &d) && l.cfg.ReadOnly {
		return err
	}
	return l.judge(err)
}

// scrubs checks everything once in a while, slowly.
func (l *Log) scrubs(ctx context.Context) {
	t := time.NewTicker(l.cfg.ScrubEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		case <-l.broken:
			return
		}
		begun := time.Now()
		if err := l.check(ctx, &budget{rate: l.cfg.ScrubRate}, nil); err == nil {
			l.counts.scrubs.Add(1)
			l.cfg.Logger.Info("scrub: everything agrees", "origin", l.cfg.Origin, "entries", l.Size(), "took", time.Since(begun))
		} else if ctx.Err() == nil {
			l.cfg.Logger.Error("scrub", "origin", l.cfg.Origin, "error", err)
		}
	}
}

// examine is Check and scrub.
func (l *Log) examine(ctx context.Context, db *pebble.DB, pace *budget, progress func(done, total uint64)) error {
	d := *l.durable.Load()
	r, err := recountFrom(db, 0)
	if err != nil {
		return err
	}
	r.budget = pace
	indexed := l.indexed.Load()
	r.seen = func(index uint64, row entryRow) error {
		if err := l.examinePayload(ctx, db, pace, index, row); err != nil || !row.paid || index >= indexed {
			return err
		}
		key := digestKey(row.sum, index)
		_, err := get(db, key[:])
		if errors.Is(err, tlog.ErrNotFound) {
			return damagef("entry %d, whose payload has the digest %s, is not in the index of digests", index, row.sum)
		}
		return err
	}
	kept, err := l.keptUpTo(db, d.size)
	if err != nil {
		return err
	}
	for done := uint64(0); ; {
		next := min(done+chunk, d.size)
		if len(kept) > 0 && kept[0].Size <= next {
			next = kept[0].Size
		}
		if err := r.entries(ctx, next); err != nil {
			return err
		}
		for len(kept) > 0 && kept[0].Size == next {
			if err := l.same("signed", state{kept[0].Size, kept[0].Root}, "found in the store", r.edge.state()); err != nil {
				return err
			}
			kept = kept[1:]
		}
		done = next
		if progress != nil {
			progress(done, d.size)
		}
		if done == d.size {
			break
		}
	}
	found, err := r.extend(ctx, d.size)
	if err != nil {
		return err
	}
	if err := l.same("acknowledged", d, "found in the store", found); err != nil {
		return err
	}
	return l.examineOthers(ctx, db, r)
}

// examinePayload reads the payload of an entry that has one.
func (l *Log) examinePayload(ctx context.Context, db *pebble.DB, pace *budget, index uint64, row entryRow) error {
	if !row.paid {
		return nil
	}
	data, err := l.keptPayload(db, index, row.sum)
	if errors.Is(err, tlog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return pace.spend(ctx, len(data))
}

// keptUpTo reads and verifies the kept checkpoints.
func (l *Log) keptUpTo(db *pebble.DB, size uint64) ([]tlog.Checkpoint, error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowCheckpoint}, UpperBound: checkpointKey(size + 1)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var kept []tlog.Checkpoint
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		c, _, err := tlog.OpenCheckpoint(v, l.terms.Load().all...)
		if err == nil && c.Size != indexOf(it.Key()) {
			err = fmt.Errorf("it is of size %d", c.Size)
		}
		if err != nil {
			return nil, damagef("the checkpoint kept for size %d is none of this log: %v", indexOf(it.Key()), err)
		}
		kept = append(kept, c)
	}
	return kept, it.Error()
}

// examineOthers compares the head file and the anchor with what r counted.
func (l *Log) examineOthers(ctx context.Context, db *pebble.DB, r *recount) error {
	tiles := tlog.Tiles{Reader: storeTiles{db, &r.edge}, Size: r.edge.size}
	agrees := func(who string, c tlog.Checkpoint, evidence []byte) error {
		if c.Size > r.edge.size {
			return nil // it grew meanwhile
		}
		root, err := tiles.Root(ctx, c.Size)
		if err != nil {
			return err
		}
		return l.same("known to "+who, state{c.Size, c.Root}, "found in the store", state{c.Size, root})
	}
	if st, err := openHead(l.cfg.FS, l.cfg.Head, l.cfg.Origin).load(); err == nil {
		if err := agrees("the head file", st.checkpoint(l.cfg.Origin), nil); err != nil {
			return err
		}
	}
	if l.cfg.Latest == nil {
		return nil
	}
	got, err := l.load(ctx)
	if err != nil {
		return err
	}
	if len(got) == 0 {
		return nil
	}
	c, err := tlog.ParseCheckpoint(got)
	if err != nil {
		return damagef("what the anchor remembers is no checkpoint: %v", err)
	}
	return agrees("the anchor", c, got)
}
