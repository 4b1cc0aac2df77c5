package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// View shows one session as it is now, ended or not: its entries, with all fields of those whose records can be read, in the form
// of a bundle's but without proofs. An entry whose record was erased has no fields, and the erasures follow. Sealed originals are
// withheld: those leave by Unseal. That it was viewed is on record first; detail says in words what of it, where that is not all.
func (d *Desk) View(ctx context.Context, who Asker, id record.ID, detail string) (verify.Session, error) {
	s := verify.Session{ID: id}
	if err := d.admit(ctx, who, View, id, detail); err != nil {
		return s, err
	}
	chain, err := d.whole(ctx, id)
	if err != nil && !errors.Is(err, ErrOpen) {
		return s, fmt.Errorf("session %s: %w", id, err)
	}
	for _, f := range chain {
		r, err := d.record(ctx, f.Entry)
		if err != nil && !errors.Is(err, tlog.ErrNotFound) {
			return s, fmt.Errorf("entry %d: %w", f.Index, err)
		}
		s.Entries = append(s.Entries, verify.Entry{Index: f.Index, Bytes: f.Bytes, Fields: verify.Fields(r, masked)})
	}
	return s, nil
}

// AppendView appends a session as [Desk.View] shows it, on its way from a desk to a reader: in the form of a bundle that names no
// log, has no checkpoint and proves nothing.
func AppendView(dst []byte, s verify.Session) ([]byte, error) {
	return (&verify.Bundle{Sessions: []verify.Session{s}}).Append(dst)
}

// ParseView reads what AppendView writes. What it returns may lie in raw.
func ParseView(raw []byte) (verify.Session, error) {
	b, err := verify.Parse(raw)
	if err != nil || len(b.Sessions) != 1 {
		return verify.Session{}, fmt.Errorf("audit: it is no view of a session: %w", cmp.Or(err, errRequest))
	}
	return b.Sessions[0], nil
}

// masked says whether a field is not a sealed original: those are for who may Unseal, and that is on record as what it is.
func masked(name string) bool { return !strings.HasPrefix(name, record.FieldOriginal) }

// A Seen is one entry of the log with the record behind it, as it is fed to what is derived from records.
type Seen struct {
	record.Found
	Record record.Record // nil where the entry has none
	// Missing says why a record that the entry has is not there: tlog.ErrNotFound where it was erased, ErrNotHere where another
	// desk keeps its key, or, where a part of the log is damaged, what is wrong with it.
	Missing error
}

// Feed gives each, in batches of at most 256 and in the order of the log, all entries from one index on, with their records: for
// an index, or a system elsewhere, that is derived from them and follows the log. It returns when ctx ends, with no error, or when
// each fails, with that. That the log is read on from there, by whom and why, is on record before the first batch; detail says for
// what. Only what is published is fed, so that nothing is derived from what no checkpoint covers. What each is given it may keep.
//
// Whoever derives forgets what was erased when it is fed the erasure entry; see also [Derived].
func (d *Desk) Feed(ctx context.Context, who Asker, detail string, from uint64, each func(ctx context.Context, batch []Seen) error) error {
	if err := d.admit(ctx, who, Derive, record.ID{}, fmt.Sprintf("%s, from entry %d on", detail, from)); err != nil {
		return err
	}
	for {
		size, err := d.size(ctx)
		if err != nil && !errors.Is(err, tlog.ErrNotFound) {
			return feedError(ctx, err)
		}
		for from < size {
			to := min(size, (from/tlog.TileWidth+1)*tlog.TileWidth)
			batch := make([]Seen, 0, to-from)
			err := d.scan(ctx, from, to, func(index uint64, b []byte) error {
				e, err := record.ParseEntry(b)
				if err != nil {
					return fmt.Errorf("entry %d: %w", index, err)
				}
				batch = append(batch, Seen{Found: record.Found{Index: index, Bytes: b, Entry: e}})
				return nil
			})
			if err != nil {
				return feedError(ctx, err)
			}
			begun := time.Now()
			for pause := feedEvery; d.open(ctx, batch) && time.Since(begun) < feedPatience; pause = min(2*pause, 5*time.Second) {
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
			if ctx.Err() != nil {
				return nil
			}
			if err := each(ctx, batch); err != nil {
				return feedError(ctx, err)
			}
			from = to
		}
		select {
		case <-time.After(feedEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

const (
	feedEvery    = 100 * time.Millisecond // between two looks whether the log has grown
	feedPatience = time.Minute            // for records that cannot be read for now: what is passed over once never comes again
)

// feedError is nil where a feed was ended.
func feedError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// open reads the records of a batch that were not read yet, several at a time. It says whether any of them may be read later: what keeps
// payloads, or what opens keys, failed.
func (d *Desk) open(ctx context.Context, batch []Seen) (again bool) {
	var wg sync.WaitGroup
	var failed atomic.Bool
	n := min(runtime.GOMAXPROCS(0), len(batch))
	for i := range n {
		wg.Go(func() {
			later := false
			hear := func(b []byte, err error) ([]byte, error) {
				later = err != nil && !errors.Is(err, tlog.ErrNotFound) && !errors.Is(err, ErrNotHere)
				return b, err
			}
			for at := i; at < len(batch) && ctx.Err() == nil; at += n {
				s := &batch[at]
				if s.Entry.PayloadSize == 0 || s.Record != nil || errors.Is(s.Missing, tlog.ErrNotFound) || errors.Is(s.Missing, ErrNotHere) {
					continue
				}
				later = false
				s.Record, s.Missing = d.coder.Read(ctx, &s.Entry,
					func(ctx context.Context, sum tlog.Hash) ([]byte, error) { return hear(d.log.Payload(ctx, sum)) },
					func(ctx context.Context, id string) ([]byte, error) { return hear(d.keys.Open(ctx, id)) })
				if later {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return failed.Load()
}
