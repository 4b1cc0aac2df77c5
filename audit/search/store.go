package search

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/ext/fts5"
	_ "github.com/ncruces/go-sqlite3/vfs/adiantum" // what encrypts the files

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
)

// version is that of what stands in the files; an index of another one is made again.
const version = 1

const schema = `
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, tokenize='ascii');
INSERT INTO words(words, rank) VALUES('secure-delete', 1);
INSERT INTO words(words, rank) VALUES('hashsize', 8388608);
-- What a search by numbers looks at: sessions that have ended, by the index of their first entry. high is the latest time of all
-- entries up to that one.
CREATE TABLE ended(id INTEGER PRIMARY KEY, session BLOB NOT NULL UNIQUE, began INTEGER NOT NULL, high INTEGER NOT NULL, status INTEGER, tokens INTEGER, duration INTEGER);
CREATE TABLE kept(id INTEGER PRIMARY KEY, hit BLOB NOT NULL, terms BLOB NOT NULL);
-- Sessions that have not ended, with their text and their records so far.
CREATE TABLE open(id INTEGER PRIMARY KEY, session BLOB NOT NULL UNIQUE, began INTEGER NOT NULL, high INTEGER NOT NULL, hit BLOB NOT NULL, text TEXT NOT NULL, terms TEXT NOT NULL, entries BLOB NOT NULL);
CREATE TABLE statuses(status INTEGER PRIMARY KEY);
-- Sessions that were erased and of which entries may still be under way to here.
CREATE TABLE gone(session BLOB PRIMARY KEY) WITHOUT ROWID;
`

// A store is the files of an index, open.
type store struct {
	w    *sql.DB // one connection
	r    *sql.DB
	key  string // the name of the key that it opened with
	shut bool   // guarded by Index.life: it was closed to be replaced, and could not be
	next uint64 // entries before this one are in it; guarded by Index.mu
	high int64  // the latest time of theirs, in microseconds
	skew int64  // how much earlier one of them was, at most, than one before it
}

// errDrop says that the files are of no use, and why.
var errDrop = errors.New("it is made again from the log")

const (
	fileName = "index.db"
	// KeyFile is the file in the index's directory that names its key. Where it is, an index was begun.
	KeyFile = "key"
)

// openStore opens the files, or makes new ones where there are none or they are of no use; said is why they were not.
func openStore(ctx context.Context, c *Config) (s *store, said error, err error) {
	name, err := readKeyName(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	former := "" // the key of what is of no use, if it is certain that it is
	if name != "" {
		s, err = c.openUnder(ctx, name)
		if err == nil {
			return s, nil, nil
		}
		if !useless(err) {
			return nil, nil, fmt.Errorf("search: %w", err)
		}
		if said = err; s != nil {
			former = name
			s.close()
		}
	}
	s, err = newStore(ctx, c, former)
	return s, said, err
}

// openUnder opens the files with a key that somebody named. With an error it returns the store as well if the key is its own for sure.
func (c *Config) openUnder(ctx context.Context, name string) (*store, error) {
	key, err := c.Keys.Open(ctx, name)
	if errors.Is(err, tlog.ErrNotFound) || errors.Is(err, audit.ErrNotHere) {
		return nil, fmt.Errorf("%w: its key is gone", errDrop)
	}
	if err != nil {
		return nil, fmt.Errorf("its data key: %w", err)
	}
	defer clear(key)
	s, err := c.open(key)
	if err != nil {
		return nil, err
	}
	s.key = name
	opened, err := s.load(ctx)
	switch {
	case err == nil, opened:
		return s, err
	case useless(err):
		err = fmt.Errorf("%w: %w", errDrop, err)
	}
	return nil, errors.Join(err, s.close())
}

// newStore removes what there is, destroys its key, and makes new files under a new one. Only what opened with a key may have it
// destroyed: or else who can write into the directory could have that of a record destroyed, by naming it there.
func newStore(ctx context.Context, c *Config, former string) (*store, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	if err := c.clear(ctx, former); err != nil {
		return nil, err
	}
	name, key, err := c.Keys.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("search: a data key: %w", err)
	}
	defer clear(key)
	if err := writeKeyName(c.Dir, name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, fileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // or else others could read it
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	f.Close()
	s, err := c.open(key)
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	s.key = name
	if err := s.make(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("search: %w", err), s.close())
	}
	return s, nil
}

// clear removes the files and destroys the key that they opened with, if there is one.
func (c *Config) clear(ctx context.Context, former string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(filepath.Join(c.Dir, fileName+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("search: %w", err)
		}
	}
	if former != "" {
		if err := c.Keys.Erase(ctx, former); err != nil && !errors.Is(err, tlog.ErrNotFound) && !errors.Is(err, audit.ErrNotHere) {
			return fmt.Errorf("search: the key of the former index: %w", err)
		}
	}
	return nil
}

// Remove destroys an index that was begun, with its key. Where nobody follows the log any more it would keep the words of what is erased
// from then on. That there is none is no error.
func Remove(ctx context.Context, c Config) error {
	name, err := readKeyName(c.Dir)
	if err != nil || name == "" {
		return err
	}
	former := ""
	s, err := c.openUnder(ctx, name)
	if err != nil && !useless(err) {
		return fmt.Errorf("search: %w", err)
	}
	if s != nil {
		former = name
		s.close()
	}
	if err := c.clear(ctx, former); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.Dir, KeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

func readKeyName(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("search: %w", err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// writeKeyName remembers which key the files are under. It names it and says nothing of it.
func writeKeyName(dir, name string) error {
	path := filepath.Join(dir, KeyFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	_, err = f.WriteString(name + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

// open opens the files under a key, which is 32 bytes.
func (c *Config) open(key []byte) (*store, error) {
	dsn := "file:" + (&url.URL{Path: filepath.Join(c.Dir, fileName)}).EscapedPath()
	if !c.naked {
		dsn += "?vfs=adiantum"
	}
	hexkey := hex.EncodeToString(key)
	prepare := func(cacheMB int) func(*sqlite3.Conn) error {
		return func(conn *sqlite3.Conn) error {
			if !c.naked {
				if err := conn.Exec("PRAGMA hexkey='" + hexkey + "'"); err != nil {
					return err
				}
			}
			if err := fts5.Register(conn); err != nil {
				return err
			}
			return conn.Exec(fmt.Sprintf("PRAGMA busy_timeout=10000; PRAGMA temp_store=memory; PRAGMA secure_delete=ON; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-%d", cacheMB<<10))
		}
	}
	w, err := driver.Open(dsn, prepare(64))
	if err != nil {
		return nil, err
	}
	w.SetMaxOpenConns(1)
	r, err := driver.Open(dsn, prepare(32))
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r.SetMaxOpenConns(readers)
	return &store{w: w, r: r}, nil
}

// readers is how many searches run at a time; others wait.
const readers = 4

// make makes the tables.
func (s *store) make(ctx context.Context) error {
	conn, err := s.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A page's checksum is encrypted with it, so that what was changed without the key does not go unseen.
	err = conn.Raw(func(c any) error { return c.(driver.Conn).Raw().EnableChecksums("main") })
	if err != nil {
		return err
	}
	for _, q := range []string{"PRAGMA journal_mode=WAL", schema, fmt.Sprintf("INSERT INTO meta VALUES('version', %d), ('next', 0), ('high', 0), ('skew', 0), ('leaf', x'')", version)} {
		if _, err := conn.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// load reads how far it has come. opened says that the key is its own.
func (s *store) load(ctx context.Context) (opened bool, err error) {
	var v int64
	err = s.w.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'version'").Scan(&v)
	if errors.Is(err, sql.ErrNoRows) || errors.Is(err, sqlite3.ERROR) { // no such table: it was never finished
		err = fmt.Errorf("%w: it is not whole", errDrop)
	}
	if err != nil {
		return false, err
	}
	if v != version {
		return true, fmt.Errorf("%w: its version is %d and not %d", errDrop, v, version)
	}
	return true, s.w.QueryRowContext(ctx, `SELECT (SELECT value FROM meta WHERE name = 'next'), (SELECT value FROM meta WHERE name = 'high'), (SELECT value FROM meta WHERE name = 'skew')`).
		Scan(&s.next, &s.high, &s.skew)
}

func (s *store) close() error { return errors.Join(s.r.Close(), s.w.Close()) }

// useless says whether an error means that the files are damaged, or otherwise of no use.
func useless(err error) bool {
	return errors.Is(err, errDrop) || errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.IOERR_DATA) ||
		errors.Is(err, sqlite3.IOERR_SHORT_READ) || errors.Is(err, sqlite3.IOERR_CORRUPTFS)
}
