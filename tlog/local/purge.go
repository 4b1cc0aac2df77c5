package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// What was discarded is deleted for readers at once. Its bytes stay in the store's files: in the tables until a compaction
// happens to write them anew, and in write-ahead logs, which Pebble does not delete but writes over, from the start, when
// it needs another. A purge takes them out of all of these. What is to be purged stands in g rows, written in the batch
// that discards, so that a purge that was broken off, or never begun, is made up for by the next.

// purgePatience is how long a purge waits for files that somebody still reads.
const purgePatience = 30 * time.Second

// purgeNear is how many entries may lie between two discarded payloads that are compacted together.
const purgeNear = 1024

func purgeKey(index uint64) []byte { return appendIndexKey(make([]byte, 0, 9), rowPurge, index) }

// ErrRead says that a purge is not finished because somebody reads what the files held before. Purge again.
var ErrRead = errors.New("tlog/local: a file that holds what was discarded is still being read; purge again")

// Purge takes the bytes of every payload that was discarded before out of the store's files: when it has returned nil, no
// file in the log's directory has them. What the file system and the disk keep of files that were deleted it does not
// reach. It rewrites the tables in which the payloads lay, and may be called while the log runs; Run calls it every
// Config.PurgeEvery when something was discarded. After an error, ErrRead or another, call it again.
func (l *Log) Purge(ctx context.Context) error {
	if l.cfg.ReadOnly {
		return fmt.Errorf("purge in a log opened for reading only: %w", tlog.ErrClosed)
	}
	l.purging.Lock()
	defer l.purging.Unlock()
	return l.withStore(func(db *pebble.DB) error {
		return l.unbroken(func() error { return l.purge(ctx, db) })
	})
}

// The order is the whole of its safety:
//
//  1. flush             the deletions are in tables, and no write-ahead log is needed for what was before
//  2. compact           no table that is in use has the rows
//  3. await, rotate     no table or write-ahead log of before is in the directory
//  4. delete the g rows only now is it forgotten that there is something to do
func (l *Log) purge(ctx context.Context, db *pebble.DB) error {
	marks, err := purgeMarks(db)
	if err != nil || len(marks) == 0 {
		return err
	}
	logs, err := l.storeFiles(".log")
	if err != nil {
		return err
	}
	l.renew.Store(true)
	defer l.renew.Store(false)
	if err := db.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	spans := purgeSpans(marks)
	before, err := tablesIn(db, spans)
	if err != nil {
		return err
	}
	for _, s := range spans {
		if err := db.Compact(ctx, payloadKey(s.from, 0), payloadKey(s.to+1, 0), false); err != nil {
			return fmt.Errorf("compaction: %w", err)
		}
	}
	after, err := tablesIn(db, spans)
	if err != nil {
		return err
	}
	before = slices.DeleteFunc(before, func(name string) bool { return slices.Contains(after, name) })
	if err := l.awaitGone(ctx, ".sst", before, func() error { return nil }); err != nil {
		return err
	}
	// Every flush begins another write-ahead log, in place of an old one, which is deleted while renew is set.
	if err := l.awaitGone(ctx, ".log", logs, db.Flush); err != nil {
		return err
	}
	b := db.NewBatch()
	defer b.Close()
	for _, index := range marks {
		if err := b.Delete(purgeKey(index), nil); err != nil {
			return err
		}
	}
	if err := l.write(db, b); err != nil {
		return err
	}
	l.cfg.Logger.Info("what was discarded is off the disk", "origin", l.cfg.Origin, "payloads", len(marks))
	return nil
}

// purgeMarks returns at which entries payloads lay that are not purged yet.
func purgeMarks(db *pebble.DB) (marks []uint64, err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowPurge}, UpperBound: after(rowPurge)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		marks = append(marks, indexOf(it.Key()))
	}
	return marks, it.Error()
}

// A span is of entries, both included.
type span struct{ from, to uint64 }

// purgeSpans joins what lies close together. The marks rise.
func purgeSpans(marks []uint64) (spans []span) {
	for _, m := range marks {
		if n := len(spans); n > 0 && m-spans[n-1].to <= purgeNear {
			spans[n-1].to = m
			continue
		}
		spans = append(spans, span{m, m})
	}
	return spans
}

// tablesIn returns the names of the tables in use that may hold payloads of the spans.
func tablesIn(db *pebble.DB, spans []span) (names []string, err error) {
	for _, s := range spans {
		levels, err := db.SSTables(pebble.WithKeyRangeFilter(payloadKey(s.from, 0), payloadKey(s.to+1, 0)))
		if err != nil {
			return nil, err
		}
		for _, level := range levels {
			for _, t := range level {
				names = append(names, fmt.Sprintf("%06d.sst", uint64(t.FileNum)))
			}
		}
	}
	return names, nil
}

// storeFiles lists the store's files of a kind.
func (l *Log) storeFiles(suffix string) ([]string, error) {
	names, err := l.cfg.FS.List(l.storeDir())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, suffix) }), nil
}

// awaitGone waits until none of the files is there, and calls push before every look but the first.
func (l *Log) awaitGone(ctx context.Context, suffix string, names []string, push func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, purgePatience, ErrRead)
	defer cancel()
	for {
		there, err := l.storeFiles(suffix)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(there, name) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond): // files are deleted in Pebble's own time
		}
		if err := push(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
}

// purges purges when something was discarded, first soon after the start, for what the life before left.
func (l *Log) purges(ctx context.Context) {
	t := time.NewTimer(l.cfg.PurgeEvery / 60)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		case <-l.broken:
			return
		}
		if err := l.Purge(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Error("what was discarded is still on the disk", "origin", l.cfg.Origin, "error", err)
		}
		t.Reset(l.cfg.PurgeEvery)
	}
}
