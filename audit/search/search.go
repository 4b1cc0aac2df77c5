// Package search finds sessions by words, phrases and fields: an index that follows the log and is derived from the records behind it,
// so that it can be deleted and made again at any time.
//
// What is always true:
//
//   - what of the log is in the index, and how far it has come, is committed together; a process that is killed goes on where it was;
//   - nothing of the index is readable on the disk: its files are encrypted under a data key of the ring, which is its own;
//   - of a session that was erased no word is left in the files when [Index.Forget] returns, and none comes back that was read before;
//   - an index of another log, of another version, or damaged, is not believed: it is made again, and that is logged;
//   - no part of a statement comes from a query.
//
// # How it is kept
//
// It is SQLite with FTS5, in Go (github.com/ncruces/go-sqlite3). A session is one row, by the index of its first entry, so that
// newer ones have greater ids and are found first. The row has its words, folded by this package, and a term for each of its fields,
// which no word can be: so FTS5 itself intersects fields and words. Numbers are terms, too, of steps on three ladders, and the rows at
// the ends of a range are looked at. The text itself is not kept: a snippet is cut out of the records, which the desk opens. What is
// kept, for FTS5 to be told what to take out, are each session's terms. FTS5 takes them out of its pages at once (secure-delete),
// SQLite zeroes what is free (secure_delete), and the write-ahead log is emptied before Forget returns. Where a page begins, as
// much of a word can stay as tells it from the word before: a letter or a few.
//
// Sessions that have not ended lie in a table with their text, and are looked at one by one: there are as many as there are calls under
// way. Of a session's text the first 4 MiB are indexed, and of a word 64 bytes.
//
// The pages are encrypted by Adiantum, a cipher over whole pages, each with a checksum inside: what was changed without the key is
// noticed. It is deterministic: who has two copies of a file sees which pages changed between them. Destroying the key in the ring
// destroys the index.
//
// # Why it is this
//
// Measured on two cores that others used as well, with 50,000 sessions of 150 to 300 words, a line for each: inserted a second; bytes a
// session; a phrase of five of the commonest words; whether deleting takes words out of the files; encryption.
//
//	modernc.org/sqlite v1.62, FTS5              5,768   1,191    25 ms   yes   none: its file systems are read-only
//	ncruces/go-sqlite3 v0.37, FTS5              3,829   1,222    31 ms   yes
//	ncruces/go-sqlite3 v0.37, FTS5, adiantum    3,325   1,222    34 ms   yes   whole pages
//	ncruces/go-sqlite3 v0.37, FTS5, xts         2,903   1,222    40 ms   yes   blocks of 16 bytes
//	blevesearch/bleve v2.6                      2,120   3,190   197 ms   no, it marks them; merging takes them out in its own time
//
// FTS5's own contentless-delete tables mark, too, and merge later: hence the terms that are kept. With a million sessions, made up
// as tally-bench --run search makes them, an index takes 3.1 KB a session. A search by fields took 5 ms at the median and 20 ms of a
// processor at most, one by fields that few sessions have together 32 ms at most, one by a phrase 55 ms at the median and 470 ms at
// most. A phrase of nothing but the commonest words can take two seconds to be looked for everywhere: after 600 ms a search says
// how far it came, and goes on where it is asked to.
package search

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Keys keeps the key of the index.
type Keys interface {
	New(ctx context.Context) (id string, key []byte, err error)
	Open(ctx context.Context, id string) (key []byte, err error) // tlog.ErrNotFound, audit.ErrNotHere
	Erase(ctx context.Context, id string) error
}

// Source is the log that an index is made from: an [audit.Desk].
type Source interface {
	Size(ctx context.Context) (uint64, error)
	Feed(ctx context.Context, who audit.Asker, detail string, from uint64, each func(ctx context.Context, batch []audit.Seen) error) error
}

// Config says where an index lies.
type Config struct {
	Dir  string // its own; made where it is not there
	Keys Keys   // a data key is taken from it for each index that is begun
	Name string // of who follows the log, for the access entry
	Log  *slog.Logger

	naked bool // not encrypted, so that a test can look for words in the files
}

// An Index is an index of sessions. Safe for concurrent use.
type Index struct {
	c Config

	life    sync.RWMutex  // held while s is used; for writing while it is replaced
	s       *store        // guarded by life
	changed chan struct{} // guarded by life; closed when s is replaced
	mu      sync.Mutex    // held while anything is written, under life
}

var _ audit.Index = (*Index)(nil)

// Open opens an index, or begins one where there is none, or none of use. Whoever uses it runs it, and closes it.
func Open(ctx context.Context, c Config) (*Index, error) {
	s, said, err := openStore(ctx, &c)
	if err != nil {
		return nil, err
	}
	if said != nil {
		c.Log.Warn("the index of sessions is of no use", "err", said)
	}
	return &Index{c: c, s: s, changed: make(chan struct{})}, nil
}

// Close closes the files. Run must have returned.
func (ix *Index) Close() error {
	ix.life.Lock()
	defer ix.life.Unlock()
	return ix.s.close()
}

// Indexed returns how many of the log's entries are in the index.
func (ix *Index) Indexed() uint64 {
	ix.life.RLock()
	defer ix.life.RUnlock()
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.s.next
}

// Rebuild destroys the index, with its key, and begins an empty one, which Run fills from the log's first entry on.
func (ix *Index) Rebuild(ctx context.Context) error {
	ix.life.Lock()
	defer ix.life.Unlock()
	return ix.rebuild(ctx)
}

func (ix *Index) rebuild(ctx context.Context) error {
	ix.s.close() // whatever it says: it goes away
	ix.s.shut = true
	s, err := newStore(ctx, &ix.c, ix.s.key)
	if err != nil {
		return err
	}
	ix.s = s
	close(ix.changed)
	ix.changed = make(chan struct{})
	return nil
}

// drop begins anew what is of no use, unless somebody else did.
func (ix *Index) drop(ctx context.Context, s *store, why error) error {
	ix.life.Lock()
	defer ix.life.Unlock()
	if ix.s != s {
		return nil
	}
	ix.c.Log.Warn("the index of sessions is of no use", "err", why)
	return ix.rebuild(ctx)
}

// Run waits so long before it tries again, and ever longer.
const (
	firstAgain = time.Second
	lastAgain  = time.Minute
)

// Run follows the log until ctx ends. What goes wrong is logged, and tried again: who cannot search can do everything else.
func (ix *Index) Run(ctx context.Context, src Source) error {
	again := firstAgain
	for ctx.Err() == nil {
		ix.life.RLock()
		s, changed := ix.s, ix.changed
		ix.life.RUnlock()
		begun := time.Now()
		err := ix.follow(ctx, s, changed, src)
		if time.Since(begun) > lastAgain {
			again = firstAgain
		}
		if useless(err) {
			err = ix.drop(ctx, s, err)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		ix.c.Log.Error("the index of sessions does not follow the log", "err", err)
		select {
		case <-time.After(again):
			again = min(2*again, lastAgain)
		case <-ctx.Done():
		}
	}
	return nil
}

// atOnce is how many entries are written in one transaction: as many as have come meanwhile, and no more than these.
const atOnce = 4096

// follow feeds one store until ctx ends or it is replaced.
func (ix *Index) follow(ctx context.Context, s *store, changed <-chan struct{}, src Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next uint64
	err := ix.with(s, func() error {
		if next = s.next; s.shut {
			return fmt.Errorf("%w: it could not be begun before", errDrop)
		}
		return nil
	})
	if errors.Is(err, errReplaced) {
		return nil
	}
	if err != nil {
		return err
	}
	if next > 0 {
		size, err := src.Size(ctx)
		if err != nil {
			return err
		}
		if size < next {
			return fmt.Errorf("%w: it has %d entries, and the log %d; it is another one's", errDrop, next, size)
		}
	}
	batches := make(chan []audit.Seen, atOnce/tlog.TileWidth)
	fed := make(chan error, 1)
	go func() {
		who := audit.Asker{Name: ix.c.Name, Reason: "the index of sessions follows the log", Roles: audit.Admin}
		// The last entry is read again: is it that of the same log?
		fed <- src.Feed(ctx, who, "an index of sessions", max(next, 1)-1, func(ctx context.Context, batch []audit.Seen) error {
			select {
			case batches <- batch:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for {
		var group []audit.Seen
		select {
		case <-changed:
			cancel()
			<-fed
			return nil
		case err := <-fed:
			return err
		case group = <-batches:
		}
		for more := true; more && len(group) < atOnce; {
			select {
			case b := <-batches:
				group = append(group, b...)
			default:
				more = false
			}
		}
		if err := ix.with(s, func() error { return ix.take(ctx, s, group) }); err != nil && ctx.Err() == nil {
			cancel()
			<-fed
			if errors.Is(err, errReplaced) {
				return nil
			}
			return err
		}
	}
}

var errReplaced = errors.New("search: the index was begun anew")

// with does something while nobody else writes, if s is still in use.
func (ix *Index) with(s *store, do func() error) error {
	ix.life.RLock()
	defer ix.life.RUnlock()
	if ix.s != s {
		return errReplaced
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return do()
}

// take writes entries into the index: the sessions that they end, what is new of those that are open, and how far it has come, in
// one transaction. The caller holds mu.
func (ix *Index) take(ctx context.Context, s *store, seen []audit.Seen) (err error) {
	ctx = context.WithoutCancel(ctx) // half of it is thrown away, and it takes a moment
	tx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if seen, err = s.fresh(ctx, tx, seen); err != nil || len(seen) == 0 {
		return err
	}
	g := group{ctx: ctx, tx: tx, high: s.high, skew: s.skew, of: make(map[record.ID]*session)}
	for i := range seen {
		if err := g.see(&seen[i]); err != nil {
			return err
		}
	}
	if err := g.write(); err != nil {
		return err
	}
	last := &seen[len(seen)-1]
	leaf := tlog.HashLeaf(last.Bytes)
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO meta VALUES('next', ?), ('high', ?), ('skew', ?), ('leaf', ?)`, int64(last.Index+1), g.high, g.skew, leaf[:])
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return err
	}
	s.next, s.high, s.skew = last.Index+1, g.high, g.skew
	if len(g.erased) > 0 {
		if err := s.settle(ctx); err != nil {
			return fmt.Errorf("what was erased is out of the index, and stands in its write-ahead log for now: %w", err)
		}
	}
	return nil
}

// fresh returns the entries that are not in the index yet.
func (s *store) fresh(ctx context.Context, tx *sql.Tx, seen []audit.Seen) ([]audit.Seen, error) {
	if len(seen) == 0 {
		return nil, nil
	}
	if s.next > 0 && seen[0].Index == s.next-1 {
		var leaf []byte
		if err := tx.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'leaf'").Scan(&leaf); err != nil {
			return nil, err
		}
		if is := tlog.HashLeaf(seen[0].Bytes); !slices.Equal(is[:], leaf) {
			return nil, fmt.Errorf("%w: entry %d of the log is another one; it is another log's", errDrop, seen[0].Index)
		}
		seen = seen[1:]
	}
	if len(seen) > 0 && seen[0].Index != s.next {
		return nil, fmt.Errorf("search: entry %d came where %d was to", seen[0].Index, s.next)
	}
	return seen, nil
}

// Forget takes everything that was derived from a session out of the index and its files, and remembers that nothing of it may come
// in again: its records may have been read before they were erased, and be on their way here.
func (ix *Index) Forget(ctx context.Context, id record.ID) error {
	ix.life.RLock()
	defer ix.life.RUnlock()
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	tx, err := ix.s.w.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	defer tx.Rollback()
	if err = forget(ctx, tx, id); err == nil {
		if _, err = tx.ExecContext(ctx, "INSERT OR IGNORE INTO gone VALUES(?)", id[:]); err == nil {
			err = tx.Commit()
		}
	}
	if err == nil {
		err = ix.s.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

// settle has what was written reach the file itself, and the write-ahead log be empty: in it stand pages as they were.
func (s *store) settle(ctx context.Context) error {
	var busy, pages, moved int
	for range 50 {
		if err := s.w.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil || busy == 0 {
			return err
		}
		time.Sleep(100 * time.Millisecond) // somebody searches
	}
	return errors.New("searches hold the index; try again")
}

// forget takes a session out of all tables.
func forget(ctx context.Context, tx *sql.Tx, id record.ID) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM open WHERE session = ?", id[:]); err != nil {
		return err
	}
	var row int64
	err := tx.QueryRowContext(ctx, "SELECT id FROM ended WHERE session = ?", id[:]).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	var packed []byte
	if err := tx.QueryRowContext(ctx, "SELECT terms FROM kept WHERE id = ?", row).Scan(&packed); err != nil {
		return err
	}
	terms, err := unpack(packed)
	if err != nil {
		return err
	}
	for _, q := range []struct {
		query string
		args  []any
	}{
		{"INSERT INTO words(words, rowid, text) VALUES('delete', ?, ?)", []any{row, string(terms)}},
		{"DELETE FROM ended WHERE id = ?", []any{row}},
		{"DELETE FROM kept WHERE id = ?", []any{row}},
	} {
		if _, err := tx.ExecContext(ctx, q.query, q.args...); err != nil {
			return err
		}
	}
	return nil
}
