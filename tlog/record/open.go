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
	Leaf    tlog.Hash // of the session's newest entry, which the one that closes it names as Prev

	// Of a session in which people were asked, or which used somebody's yes (FORMAT.md §6.9):
	Entries []Found // all of its chain, in order; nil for any other session
	Uses    bool    // it used a yes, so what it asks for may have been sent
	By      ID      // the session that used the yes that this one got in time: this one, or another; zero while none did
}

// FindUnfinished returns the sessions of a writer that lie unfinished among the first size entries, oldest first; size
// must be that of a checkpoint that r published. It reads backwards, and only as far as it must: to the floor that the
// writer's last heartbeat or stop states, below which nothing is open. It is how a gateway knows, after a crash, what to
// close.
func FindUnfinished(ctx context.Context, r tlog.Reader, writer string, size uint64) ([]Unfinished, error) {
	ended := make(map[ID]bool)
	newest := make(map[ID]tlog.Hash)
	approvals := make(map[ID][]Found) // the newest first
	uses := make(map[tlog.Hash]Found) // of a yes, its first use
	var found []Unfinished
	floor, bounded := uint64(0), false
	for end := size; end > floor; {
		t := tlog.TileAt(tlog.EntriesLevel, end-1, size)
		data, err := tlog.ReadTile(ctx, r, t)
		if err != nil {
			return nil, err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		end = t.Index * tlog.TileWidth
		for i := t.Width - 1; i >= 0 && end+uint64(i) >= floor; i-- {
			index := end + uint64(i)
			e, err := ParseEntry(entries[i])
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", index, err)
			}
			if e.Kind == Approval && e.Reason == Used {
				uses[e.Grant] = Found{index, entries[i], e} // whoever wrote it
			}
			if e.By != writer {
				continue
			}
			switch e.Kind {
			case Response:
				ended[e.Session] = true
			case Approval, Request:
				if ended[e.Session] {
					continue
				}
				if _, ok := newest[e.Session]; !ok {
					newest[e.Session] = tlog.HashLeaf(entries[i])
				}
				f := Found{index, entries[i], e}
				if e.Kind == Approval {
					approvals[e.Session] = append(approvals[e.Session], f)
					continue
				}
				u := Unfinished{Session: e.Session, Boot: e.Boot, Index: index, Leaf: newest[e.Session]}
				if a := approvals[e.Session]; a != nil {
					u.Entries = append(a, f)
					slices.Reverse(u.Entries)
				}
				found = append(found, u)
			case Heartbeat, Stop:
				if bounded {
					continue
				}
				bounded = true
				if floor = e.Floor; e.Open == 0 {
					floor = index
				}
			}
		}
	}
	slices.Reverse(found)
	for i := range found {
		u, used := &found[i], uint64(0)
		for _, f := range u.Entries {
			switch f.Entry.Reason {
			case Used:
				u.Uses = true
			case Granted, Glass:
				if use, ok := uses[tlog.HashLeaf(f.Bytes)]; ok {
					u.By, used = use.Entry.Session, use.Index
				}
			case Expired:
				if used > f.Index {
					u.By = ID{} // it was over
				}
			}
		}
	}
	return found, nil
}
