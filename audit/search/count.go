package search

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/tallystick/tallystick/audit"
)

const (
	countEach = 4096                    // sessions that are counted before anybody looks at the clock
	countTime = 1500 * time.Millisecond // for as long sessions are counted, the newest first
)

var _ audit.Counter = (*Index)(nil)

// Count counts sessions; see [audit.Counter]. Those that cannot be counted in time are the oldest, and it says so.
func (ix *Index) Count(ctx context.Context, from, to time.Time, spans int) (all *audit.Stats, err error) {
	err = ix.read(ctx, "look", func(s *store) error {
		all, err = s.count(ctx, from, to, spans, countTime)
		return err
	})
	return all, err
}

func (s *store) count(ctx context.Context, from, to time.Time, spans int, patience time.Duration) (*audit.Stats, error) {
	begun := time.Now()
	all := audit.NewStats(from, to, spans)
	tx, next, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	all.Indexed = uint64(next)
	if _, _, err := add(ctx, tx, all, "SELECT id, high, hit FROM open WHERE id < ? ORDER BY id DESC LIMIT ?", math.MaxInt64, math.MaxInt64); err != nil {
		return nil, err
	}
	// No session that lies before one began after the latest time until that one.
	for low, high := int64(math.MaxInt64), int64(math.MaxInt64); low > 0 && high >= from.UnixMicro(); {
		if time.Since(begun) > patience {
			all.Since = time.UnixMicro(high).UTC()
			break
		}
		if low, high, err = add(ctx, tx, all, "SELECT e.id, e.high, k.hit FROM ended e CROSS JOIN kept k ON k.id = e.id WHERE e.id < ? ORDER BY e.id DESC LIMIT ?", low, countEach); err != nil {
			return nil, err
		}
	}
	all.Sum()
	return all, nil
}

// add counts the newest sessions before an id, and returns the oldest of them and its latest time; 0 where there were none.
func add(ctx context.Context, tx *sql.Tx, all *audit.Stats, query string, before, most int64) (low, high int64, err error) {
	rows, err := tx.QueryContext(ctx, query, before, most)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	var b sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&low, &high, &b); err != nil {
			return 0, 0, err
		}
		var h audit.Hit
		if err := json.Unmarshal(b, &h); err != nil {
			return 0, 0, fmt.Errorf("%w: %w", errDrop, err)
		}
		all.Add(&h)
	}
	return low, high, rows.Err()
}
