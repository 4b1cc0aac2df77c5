package monitor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A memory is the directory in which a monitor remembers:
//
//	lock                         held by the one monitor that writes here
//	<hex SHA-256 of origin>/
//	    state                    what is remembered of the log, see state
//	    checkpoint               the newest checkpoint in it, once more, to hand to somebody
//	evidence/                    see keepEvidence
//
// A file is replaced as a whole, and what was replaced is on the disk before anything follows from it. Whoever dies in
// the middle leaves the old file or the new one.
type memory struct {
	dir  string
	lock io.Closer
}

const (
	stateFormat = "tallystick-monitor/v1"
	stateMagic  = stateFormat + " sha256:"
	stateHead   = len(stateMagic) + 2*sha256.Size + 1 // the first line, its line break included
	// maxState is the largest state, in bytes: some hundred thousand open sessions.
	maxState = 64 << 20
)

// A state is what is remembered of one log: one line with the digest of the rest, and JSON in the one spelling that
// encoding/json gives it.
type state struct {
	Origin string          `json:"origin"`
	URL    string          `json:"url"`              // where it was followed
	Seen   time.Time       `json:"seen"`             // when the remembered size was first seen, by this machine's clock
	Ahead  []ahead         `json:"ahead,omitempty"`  // what others have seen of it that is larger, by name
	Showed []string        `json:"showed,omitempty"` // who has shown it, by name
	Log    json.RawMessage `json:"log"`              // a verify.Follower
}

// An ahead is a checkpoint of a tree that the log has not shown yet.
type ahead struct {
	From   string    `json:"from"`
	Since  time.Time `json:"since"`
	Signed string    `json:"signed"`
}

// append appends the file's content.
func (s *state) append(dst []byte) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return dst, err
	}
	body = append(body, '\n')
	if len(body) > maxState {
		return dst, fmt.Errorf("%d bytes are over the limit of %d for what is remembered of a log: it has too many open sessions or writers", len(body), maxState)
	}
	sum := sha256.Sum256(body)
	dst = append(dst, stateMagic...)
	dst = append(hex.AppendEncode(dst, sum[:]), '\n')
	return append(dst, body...), nil
}

// parseState is the exact inverse of append. It does not judge what it says of the log.
func parseState(b []byte) (*state, error) {
	switch {
	case len(b) > stateHead+maxState:
		return nil, fmt.Errorf("%d bytes are over the limit", len(b))
	case !bytes.HasPrefix(b, []byte(stateMagic)):
		return nil, fmt.Errorf("it does not begin with %q", stateMagic)
	case len(b) < stateHead || b[stateHead-1] != '\n':
		return nil, errors.New("it ends within its first line")
	}
	body := b[stateHead:]
	if sum := sha256.Sum256(body); string(b[len(stateMagic):stateHead-1]) != hex.EncodeToString(sum[:]) {
		return nil, errors.New("it has another digest than its first line says: it was changed or cut off")
	}
	s := new(state)
	if err := json.Unmarshal(body, s); err != nil {
		return nil, err
	}
	if again, err := s.append(nil); err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("it is not in the form in which it is written")
	}
	if err := tlog.CheckOrigin(s.Origin); err != nil {
		return nil, err
	}
	for i, a := range s.Ahead {
		if i > 0 && a.From <= s.Ahead[i-1].From {
			return nil, errors.New("what others have seen is out of order")
		}
	}
	for i, name := range s.Showed {
		if i > 0 && name <= s.Showed[i-1] {
			return nil, errors.New("who has shown it is out of order")
		}
	}
	return s, nil
}

// openMemory opens the directory, making it if it is missing, and takes its lock.
func openMemory(dir string) (*memory, error) {
	m := &memory{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "evidence"), 0o755); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	// The directory, and its name, must survive what the first state in it survives.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := syncDir(d); err != nil {
			return nil, fmt.Errorf("monitor: %w", err)
		}
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("monitor: %s is in use by another monitor, or cannot be locked: %w", dir, err)
	}
	m.lock = lock
	return m, nil
}

func (m *memory) close() { m.lock.Close() }

func (m *memory) place(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:]))
}

// load returns what is remembered of a log, or nil.
func (m *memory) load(origin string) (*state, error) {
	return m.read(m.place(origin))
}

// read reads the state in the place of one log.
func (m *memory) read(place string) (*state, error) {
	path := filepath.Join(place, "state")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(stateHead+maxState)+1))
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	s, err := parseState(b)
	if err == nil && m.place(s.Origin) != place {
		err = fmt.Errorf("it is of the log %q, whose place is another", s.Origin)
	}
	if err != nil {
		return nil, damaged(path, err)
	}
	return s, nil
}

// damaged says what to do about a file that is not what was written there.
func damaged(path string, err error) error {
	return fmt.Errorf("monitor: %s is not what a monitor wrote there: %w; put a copy back, or, knowing that what was remembered is lost, move its directory away and begin anew", path, err)
}

// followedAt returns the origin of the log that was followed at a URL, or "".
func (m *memory) followedAt(url string) (string, error) {
	places, err := os.ReadDir(m.dir)
	if err != nil {
		return "", fmt.Errorf("monitor: %w", err)
	}
	for _, p := range places {
		s, err := m.read(filepath.Join(m.dir, p.Name()))
		if err != nil {
			return "", err
		}
		if s != nil && s.URL == url {
			return s.Origin, nil
		}
	}
	return "", nil
}

// save makes s what is remembered of its log, and then shows its checkpoint.
func (m *memory) save(s *state, checkpoint []byte) error {
	b, err := s.append(nil)
	if err != nil {
		return fmt.Errorf("monitor: %s: %w", s.Origin, err)
	}
	dir := m.place(s.Origin)
	if err := os.Mkdir(dir, 0o755); err == nil {
		if err := syncDir(m.dir); err != nil {
			return fmt.Errorf("monitor: %w", err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("monitor: %w", err)
	}
	if err := m.replace(filepath.Join(dir, "state"), b); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	if err := m.replace(filepath.Join(dir, "checkpoint"), checkpoint); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	return nil
}

// replace puts content in the place of the file, all of it or nothing, and returns when that is durable.
func (m *memory) replace(path string, content []byte) error {
	temp := path + ".new" // ours alone, and whatever one who died left there is overwritten
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// An evidence is what is kept of two checkpoints that no history can have. B is the larger one, if their sizes differ.
type evidence struct {
	Format string    `json:"format"` // evidenceFormat
	Kind   Kind      `json:"kind"`
	Log    string    `json:"log"`
	URL    string    `json:"url"`
	From   string    `json:"from,omitempty"` // who showed the one that the log's own does not go with
	Time   time.Time `json:"time"`           // when it was found, by this machine's clock
	Reason string    `json:"reason"`
	A      string    `json:"a"` // the file of each
	B      string    `json:"b"`
	// The tree of B has another root over as many entries as A has than A states, and this proves it: a consistency proof
	// (RFC 6962 §2.1.2) from that root to B's. Absent where nothing is to be proven, or nothing could be.
	Prefix *tlog.Hash `json:"prefix_root,omitempty"`
	Proof  tlog.Proof `json:"proof,omitempty"`
}

const (
	evidenceFormat = "tallystick-evidence/v1"
	// maxEvidence is how many pieces of evidence are kept; whoever has so many needs no more, and a log that lies anew every
	// second must not fill the disk.
	maxEvidence = 100
)

// keepEvidence writes evidence down: the two checkpoints, as they were signed, and what is to be said of them. The files are
// named by what the two state, whoever cosigned that and when, so that the same evidence is kept once; and they are never
// replaced. It returns their names, none when there is enough evidence already.
func (m *memory) keepEvidence(e evidence, a, b []byte) ([]string, error) {
	dir := filepath.Join(m.dir, "evidence")
	id := sha256.New()
	fmt.Fprintf(id, "%s\n%s\n", e.Kind, e.From)
	for _, signed := range [][]byte{a, b} {
		c, err := tlog.UnverifiedCheckpoint(signed)
		if err != nil {
			return nil, fmt.Errorf("monitor: evidence: %w", err)
		}
		id.Write(c.Text())
	}
	name := string(e.Kind) + "-" + hex.EncodeToString(id.Sum(nil)[:8])
	e.Format, e.A, e.B = evidenceFormat, name+".a.checkpoint", name+".b.checkpoint"
	said, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	files := []string{filepath.Join(dir, e.A), filepath.Join(dir, e.B), filepath.Join(dir, name+".json")}
	kept, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	if _, err := os.Lstat(files[2]); err != nil && len(kept) >= len(files)*maxEvidence {
		return nil, nil
	}
	for i, content := range [][]byte{a, b, append(said, '\n')} {
		if _, err := os.Lstat(files[i]); err == nil {
			continue // whole, for it was renamed into its place
		}
		if err := m.replace(files[i], content); err != nil {
			return nil, fmt.Errorf("monitor: evidence: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("monitor: evidence: %w", err)
	}
	return files, nil
}
