package tlogtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// Faults are what goes wrong in a memory log; nil is nothing. They run on the caller's goroutine, many at once.
type Faults struct {
	// Append runs before anything is appended, and its error is what Append answers. It may wait. See Always, Times
	// and Delay.
	Append func(ctx context.Context, leaves []tlog.Leaf) error
	// Appended runs when the leaves are durable. Its error leaves the caller not knowing that they are.
	Appended func(ctx context.Context, indices []uint64) error
	// Publish runs before a checkpoint is anchored and signed; its error ends Run.
	Publish func(c tlog.Checkpoint) error

	// These see a copy of what would be served, and what they return is served instead. Checkpoint is for earlier
	// checkpoints too. See Flip and Replace.
	Checkpoint func(signed []byte) ([]byte, error)
	Tile       func(t tlog.Tile, data []byte) ([]byte, error)
	Payload    func(sum tlog.Hash, sealed []byte) ([]byte, error)
	Tail       func(from uint64, entries [][]byte) ([][]byte, error) // where there are any
}

// Always is a fault of Append: every one answers err.
func Always(err error) func(context.Context, []tlog.Leaf) error {
	return func(context.Context, []tlog.Leaf) error { return err }
}

// Times is a fault of Append: the next n of them answer err, and then it is over.
func Times(n int, err error) func(context.Context, []tlog.Leaf) error {
	var done atomic.Int64
	return func(context.Context, []tlog.Leaf) error {
		if done.Add(1) > int64(n) {
			return nil
		}
		return err
	}
}

// Delay is a fault of Append: every one waits for d, or for its context.
func Delay(d time.Duration) func(context.Context, []tlog.Leaf) error {
	return func(ctx context.Context, _ []tlog.Leaf) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Flip is a fault of Tile: one bit of one hash of the tree is served wrong, in every tile that holds it.
func Flip(level int, n uint64) func(tlog.Tile, []byte) ([]byte, error) {
	return func(t tlog.Tile, data []byte) ([]byte, error) {
		i := int(n % tlog.TileWidth)
		if t.Level == level && t.Index == n/tlog.TileWidth && i < t.Width {
			data[i*len(tlog.Hash{})] ^= 1
		}
		return data, nil
	}
}

// Replace is a fault of Tile: every bundle that holds the entry at index serves another instead. The hashes stay.
func Replace(index uint64, entry []byte) func(tlog.Tile, []byte) ([]byte, error) {
	return func(t tlog.Tile, data []byte) ([]byte, error) {
		at := int(index % tlog.TileWidth)
		if t.Level != tlog.EntriesLevel || t.Index != index/tlog.TileWidth || at >= t.Width {
			return data, nil
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		entries[at] = entry
		var bundle []byte
		for _, e := range entries {
			bundle = tlog.AppendBundleEntry(bundle, e)
		}
		return bundle, nil
	}
}
