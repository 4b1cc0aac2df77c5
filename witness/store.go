package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
)

// A Store is the state of a witness in a directory, which it has for itself until it is closed or its process ends:
//
//	lock                      held by the witness that runs
//	logs/<sum>/<sum>          the newest cosigned checkpoint of a log, a file of package latest
//	evidence/<sum>/<kind>-…/  two checkpoints that contradict each other, and the request that brought the second
//
// where <sum> is the SHA-256 of a log's origin in hexadecimal. Each log has a directory, and so a lock and syncs, of its own:
// with one directory for all of them, logs that submit at the same time wait for one another, some of them for seconds.
// Safe for concurrent use.
type Store struct {
	dir  string
	lock *os.File // nil where it was opened for reading

	mu   sync.Mutex
	logs map[string]*latest.Dir // by origin

	keeping sync.Mutex // held while evidence is counted and written
}

var (
	_ State    = (*Store)(nil)
	_ Evidence = (*Store)(nil)
)

// OpenStore uses the directory path, making it if it is missing. While another process uses it, it is refused.
func OpenStore(path string) (*Store, error) {
	if path == "" {
		return nil, errors.New("witness: no directory for the state: name one, on a local disk")
	}
	// Made by latest, for what it does beside: it refuses network file systems and makes the names durable.
	for _, dir := range []string{path, filepath.Join(path, "logs")} {
		if _, err := latest.Open(dir); err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("witness: another process uses %s; stop it, or give this witness a key and a directory of its own", path)
		}
		return nil, fmt.Errorf("witness: lock %s: %w", f.Name(), err)
	}
	return &Store{dir: path, lock: f, logs: make(map[string]*latest.Dir)}, nil
}

// Close lets go of the directory. What was accepted is on the disk already.
func (s *Store) Close() error { return s.lock.Close() }

// log returns the place of a log, or nil if there is none and it is not to be made.
func (s *Store) log(origin string, create bool) (*latest.Dir, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.logs[origin]; ok {
		return d, nil
	}
	path := filepath.Join(s.dir, "logs", originSum(origin))
	if !create {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	d, err := latest.Open(path)
	if err == nil {
		s.logs[origin] = d
	}
	return d, err
}

// Load implements tlog.Latest.
func (s *Store) Load(ctx context.Context, origin string) ([]byte, error) {
	d, err := s.log(origin, false)
	if d == nil || err != nil {
		return nil, err
	}
	return d.Load(ctx, origin)
}

// Swap implements tlog.Latest.
func (s *Store) Swap(ctx context.Context, origin string, old, new []byte) error {
	d, err := s.log(origin, true)
	if err != nil {
		return err
	}
	return d.Swap(ctx, origin, old, new)
}

// Origins implements State.
func (s *Store) Origins(context.Context) (origins []string, damaged []error, err error) {
	for r, err := range readLogs(s.dir) {
		switch {
		case err != nil:
			return nil, nil, err
		case r.Err != nil:
			damaged = append(damaged, fmt.Errorf("%s: %w", r.Path, r.Err))
		default:
			origins = append(origins, r.Checkpoint.Origin)
		}
	}
	return origins, damaged, nil
}

// A Remembered is what a Store remembers of one log, as the file says it: no signature is verified.
type Remembered struct {
	Checkpoint tlog.Checkpoint
	Signed     []byte
	Cosigners  []string // names of the keys that cosigned, in the order of the file
	Time       uint64   // the latest that a cosignature states
	Path       string
	Err        error // why the file is no such checkpoint; nothing but Path is set then
}

// ReadStore returns what is remembered in the directory path, in no order, also while a witness uses it.
func ReadStore(path string) ([]Remembered, error) {
	var out []Remembered
	for r, err := range readLogs(path) {
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// readLogs reads the files of all logs, and names whatever else lies there: it may be one that was put back into the wrong
// place. After an error there is no more.
func readLogs(dir string) iter.Seq2[Remembered, error] {
	return func(yield func(Remembered, error) bool) {
		entries, err := os.ReadDir(filepath.Join(dir, "logs"))
		if err != nil {
			yield(Remembered{}, fmt.Errorf("witness: no state of a witness: %w", err))
			return
		}
		for _, e := range entries {
			r := Remembered{Path: filepath.Join(dir, "logs", e.Name())}
			if b, hexErr := hex.DecodeString(e.Name()); hexErr != nil || len(b) != sha256.Size || hex.EncodeToString(b) != e.Name() {
				err = errors.New("it is not the place of a log")
			} else {
				r.Path = filepath.Join(r.Path, e.Name())
				r.Signed, err = os.ReadFile(r.Path)
				if errors.Is(err, fs.ErrNotExist) {
					continue // the first write of this log did not come to its end
				}
				if err == nil {
					err = r.read(e.Name())
				}
			}
			if err != nil {
				r = Remembered{Path: r.Path, Err: err}
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (r *Remembered) read(sum string) error {
	c, err := tlog.UnverifiedCheckpoint(r.Signed)
	if err != nil {
		return err
	}
	if originSum(c.Origin) != sum {
		return fmt.Errorf("it is of the log %q, whose place is %s", c.Origin, originSum(c.Origin))
	}
	r.Checkpoint = c
	var n *note.UnverifiedNoteError
	if _, err := note.Open(r.Signed, note.VerifierList()); !errors.As(err, &n) {
		return err
	}
	for _, sig := range n.Note.UnverifiedSigs {
		if sig.Name != c.Origin { // a log's key may state a time as well
			r.Cosigners = append(r.Cosigners, sig.Name)
			r.Time = max(r.Time, signatureTime(sig))
		}
	}
	return nil
}

// How much evidence is kept. One fork says all there is to say about a log; what is unproven may be no more than
// somebody's replay of an old checkpoint with a proof that is none.
const (
	maxForks    = 8    // of one log
	maxUnproven = 4    // of one log
	maxEvidence = 1000 // of all
)

// Keep implements Evidence. The same two texts are kept once, and each file is a signed note as it was found.
func (s *Store) Keep(ctx context.Context, c Contradiction) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.keeping.Lock()
	defer s.keeping.Unlock()
	kind, most := "unproven", maxUnproven
	if c.Fork {
		kind, most = "fork", maxForks
	}
	dir := filepath.Join(s.dir, "evidence", originSum(c.Origin))
	id := sha256.New()
	for _, signed := range [][]byte{c.Stored, c.Submitted} {
		text, _, _ := bytes.Cut(signed, []byte("\n\n"))
		id.Write(text)
		id.Write([]byte{0})
	}
	name := kind + "-" + hex.EncodeToString(id.Sum(nil)[:8])
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		return nil
	}
	of, all, err := s.countEvidence(dir, kind)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	if of >= most || all >= maxEvidence {
		return fmt.Errorf("witness: there is enough evidence of this kind: %d of this log, %d of all; move some of %s away", of, all, filepath.Join(s.dir, "evidence"))
	}
	temp := filepath.Join(dir, ".new") // and whatever one who died left there goes
	if err := errors.Join(os.RemoveAll(temp), os.MkdirAll(temp, 0o755)); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	defer os.RemoveAll(temp)
	about := fmt.Appendf(nil, "%s\n%s\n%s\n", c.Time.UTC().Format("2006-01-02T15:04:05Z"), kind, c.Reason)
	for file, content := range map[string][]byte{"stored": c.Stored, "submitted": c.Submitted, "request": c.Request, "about": about} {
		if err := writeSynced(filepath.Join(temp, file), content); err != nil {
			return fmt.Errorf("witness: %w", err)
		}
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	for _, d := range []string{filepath.Join(dir, name), dir, filepath.Dir(dir), s.dir} {
		if err := syncPath(d); err != nil {
			return fmt.Errorf("witness: %w", err)
		}
	}
	return nil
}

// countEvidence returns how much there is of a kind in the directory of one log, and of all kinds in all of them.
func (s *Store) countEvidence(dir, kind string) (of, all int, err error) {
	logs, err := os.ReadDir(filepath.Dir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for _, l := range logs {
		if !l.IsDir() {
			continue
		}
		kept, err := os.ReadDir(filepath.Join(filepath.Dir(dir), l.Name()))
		if err != nil {
			return 0, 0, err
		}
		for _, k := range kept {
			if strings.HasPrefix(k.Name(), ".") {
				continue // unfinished
			}
			all++
			if l.Name() == filepath.Base(dir) && strings.HasPrefix(k.Name(), kind+"-") {
				of++
			}
		}
	}
	return of, all, nil
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
