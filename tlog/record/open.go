package record

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// Await returns the newest checkpoint of r, unverified, once it covers the entry at index.
func Await(ctx context.Context, r tlog.Reader, index uint64) (tlog.Checkpoint, error) {
	for {
		signed, err := r.Checkpoint(ctx)
		if err == nil {
			c, err := unverified(signed)
			if err != nil {
				return c, err
			}
			if c.Size > index {
				return c, nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return tlog.Checkpoint{}, fmt.Errorf("wait for a checkpoint over entry %d: %w", index, ctx.Err())
		}
	}
}

// unverified reads the text of a signed checkpoint of our own log.
func unverified(signed []byte) (tlog.Checkpoint, error) {
	text, _, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok {
		return tlog.Checkpoint{}, fmt.Errorf("record: a checkpoint without signatures")
	}
	return tlog.ParseCheckpoint(append(text, '\n'))
}

// An Unfinished session has a request and no response.
type Unfinished struct {
	Session ID
	Boot    ID        // of the request
	Index   uint64    // of the request
	Leaf    tlog.Hash // of the request
}

// FindUnfinished returns the sessions of a writer that lie unfinished among the first size entries, oldest first. It
// reads backwards, and only as far as it must: to the floor that the writer's last heartbeat or stop states, below which
// nothing is open. It is how a gateway knows, after a crash, what to close.
func FindUnfinished(ctx context.Context, r tlog.Reader, writer string, size uint64) ([]Unfinished, error) {
	ts := tlog.Tiles{Reader: r, Size: size}
	ended := make(map[ID]bool)
	var found []Unfinished
	floor, bounded := uint64(0), false
	for end := size; end > 0; {
		t := tlog.TileAt(tlog.EntriesLevel, end-1, size)
		data, err := tlog.ReadTile(ctx, ts.Reader, t)
		if err != nil {
			return nil, err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		for i := t.Width - 1; i >= 0; i-- {
			index := t.Index*tlog.TileWidth + uint64(i)
			if index >= size {
				continue
			}
			if bounded && index < floor {
				slices.Reverse(found)
				return found, nil
			}
			e, err := ParseEntry(entries[i])
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", index, err)
			}
			if e.By != writer {
				continue
			}
			switch e.Kind {
			case Response:
				ended[e.Session] = true
			case Request:
				if !ended[e.Session] {
					found = append(found, Unfinished{Session: e.Session, Boot: e.Boot, Index: index, Leaf: tlog.HashLeaf(entries[i])})
				}
			case Heartbeat, Stop:
				if !bounded {
					bounded = true
					if floor = e.Floor; e.Open == 0 {
						floor = index
					}
				}
			}
		}
		end = t.Index * tlog.TileWidth
	}
	slices.Reverse(found)
	return found, nil
}
