package record

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A Found is an entry and where it was found.
type Found struct {
	Index uint64
	Bytes []byte // as they are hashed
	Entry Entry
}

const (
	// clockSlack is how far the clocks of a log's writers may lie apart.
	clockSlack = 2 * time.Minute
	// firstWithin is how long after the time in its ID a session's first entry may be stamped, when the search is bounded: a
	// log that is busy keeps a request waiting.
	firstWithin = 15 * time.Minute
)

// FindSession returns the entries of a session's chain (FORMAT.md §6.4), erasures left out, among the first size entries
// of r, in their order; size must be that of a published checkpoint. The last one is a response or a refusal, unless the
// session has not ended yet. None are no error: there is no such session.
//
// No index is needed: a session's ID tells when it began, and the times in a log rise, so its first entry is found by
// halving, and the others lie behind it. most is how many entries are read from there on, so that looking for what does
// not exist has an end; of a session that ends further on the end is not found. With 0 all are, and where the ID has not
// told when, the whole log.
func FindSession(ctx context.Context, r tlog.Reader, size uint64, id ID, most uint64) ([]Found, error) {
	s := search{Tiles: tlog.Tiles{Reader: r, Size: size}, id: id, end: size, until: time.Unix(1<<40, 0)}
	from, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	if most > 0 {
		s.end, s.until = from+min(most, size-from), id.Time().Add(firstWithin)
	}
	found, err := s.read(ctx, from)
	if err == nil && len(found) == 0 && most == 0 {
		s.end = from
		found, err = s.read(ctx, 0)
	}
	return found, err
}

// A search is for one session.
type search struct {
	tlog.Tiles
	id    ID
	end   uint64    // it ends there,
	until time.Time // or at an entry of that time, if there was nothing before
}

// begin returns the first index at which the session may have begun.
func (s *search) begin(ctx context.Context) (uint64, error) {
	return Since(ctx, s.Reader, s.Size, s.id.Time())
}

// Since returns the index, among the first size entries of r, from which on everything lies that was written since a time,
// as far as the clocks of a log's writers can be trusted to two minutes; size must be that of a published checkpoint.
func Since(ctx context.Context, r tlog.Reader, size uint64, t time.Time) (uint64, error) {
	var failed error
	early := t.Add(-clockSlack)
	tiles := tlog.Tiles{Reader: r, Size: size}
	from := sort.Search(int(min(size, math.MaxInt)), func(i int) bool {
		if failed != nil {
			return true
		}
		b, err := tiles.Entry(ctx, uint64(i))
		if err == nil {
			var e Entry
			if e, err = ParseEntry(b); err == nil {
				return !e.Time.Before(early)
			}
			err = fmt.Errorf("entry %d: %w", i, err)
		}
		failed = err
		return true
	})
	return uint64(from), failed
}

// read returns the session's entries from an index on.
func (s *search) read(ctx context.Context, from uint64) ([]Found, error) {
	var found []Found
	text := []byte(s.id.String())
	for next := from; next < s.end; {
		t := tlog.TileAt(tlog.EntriesLevel, next, s.Size)
		data, err := tlog.ReadTile(ctx, s.Reader, t)
		if err != nil {
			return nil, err
		}
		entries, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Path(), err)
		}
		last := len(entries) - 1
		for first := t.Index * tlog.TileWidth; next < min(first+uint64(t.Width), s.end); next++ {
			i := int(next - first)
			ours := bytes.Contains(entries[i], text)
			if !ours && (i < last || len(found) > 0) {
				continue
			}
			e, err := ParseEntry(entries[i])
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", next, err)
			}
			switch {
			case ours && e.Session == s.id && e.Kind != Access && e.Kind != Erasure:
				found = append(found, Found{next, entries[i], e})
				if e.Kind == Response || e.Kind == Refused {
					return found, nil
				}
			case len(found) == 0 && i == last && e.Time.After(s.until):
				return nil, nil
			}
		}
	}
	return found, nil
}
