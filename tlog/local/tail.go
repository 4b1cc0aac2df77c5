package local

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// Tail returns durable entries, published or not; see [tlog.Tailer]. Where there are none it asks memory alone. Unlike those
// of Tile, entries are not held against the tree on their way out: they are before they are signed for. A log that has
// stopped says why once there is nothing more to return.
func (l *Log) Tail(ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
	if err := l.Quarantined(); err != nil {
		return nil, err
	}
	size, err := l.reach(ctx, from, wait)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	sum := 0
	err = l.withStore(func(db *pebble.DB) error {
		return eachEntry(db, from, min(size, from+tlog.MaxTail), func(_ uint64, row entryRow) error {
			if sum += len(row.entry); sum > tlog.MaxTailBytes {
				return errEnough
			}
			entries = append(entries, bytes.Clone(row.entry))
			return nil
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return entries, nil
}

// reach returns the durable size, as soon as it is above from or when wait is over.
func (l *Log) reach(ctx context.Context, from uint64, wait time.Duration) (uint64, error) {
	var late <-chan time.Time
	for {
		more := l.growth.next() // before the size is read, or what comes between would be slept through
		size := l.Size()
		if size > from {
			return size, nil
		}
		if err := l.stopReason(); err != nil {
			return 0, err
		}
		if err := ctx.Err(); err != nil || wait <= 0 {
			return size, err
		}
		if late == nil {
			t := time.NewTimer(wait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-more:
		case <-l.broken:
		case <-ctx.Done():
		case <-late:
			wait = 0
		}
	}
}

// A bell wakes all who wait. While nobody does, ringing it costs nothing worth naming.
type bell struct{ waiting atomic.Pointer[chan struct{}] }

// next returns what is closed when the bell is rung next.
func (b *bell) next() <-chan struct{} {
	for {
		if c := b.waiting.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		if b.waiting.CompareAndSwap(nil, &c) {
			return c
		}
	}
}

func (b *bell) ring() {
	if c := b.waiting.Swap(nil); c != nil {
		close(*c)
	}
}
