// Package token keeps the gateway's own tokens: what a person or a program is given after a log-in elsewhere, to show at
// calls for some hours.
//
// A store is a directory with a file for each token. What is always true:
//
//   - a token itself is nowhere in it: 200 random bits are handed out once, and only their SHA-256 is kept;
//   - a token that was handed out is on the disk, and one whose revocation returned is not;
//   - no token lives longer than was said when it was made, nor longer than Longest;
//   - a file that is not a token of this room makes nobody known. It is reported, and left where it is.
//
// Whoever can write to the directory can make tokens of anybody: it is for the gateway's user alone, and a directory that
// others can write to is refused. One gateway keeps its store; that two share one, on one machine or on a shared disk, is
// not provided for. Commands that list and revoke may work beside the gateway: it notices within Notice.
package token

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/gateway"
)

// A Kind says what a token is for. One is never taken for the other.
type Kind string

const (
	Bearer  Kind = "bearer"  // shown at calls to models
	Session Kind = "session" // in the cookie of a browser
)

// Prefix begins every token of the kind Bearer, so that people and scanners know one when they see it.
const Prefix = "tg-"

const (
	sessionPrefix = "ts-"
	random        = 25 // bytes, which base32 writes as 40 characters without padding
	length        = len(Prefix) + random*8/5

	// Longest is how long a token can live at most.
	Longest = 7 * 24 * time.Hour
	// Notice is the longest time until a running store knows what was done to its directory.
	Notice = 2 * time.Second
	// Most is how many tokens a store has at most. Expired ones do not count.
	Most = 100_000
)

// ErrFull is what Mint answers when the store has Most tokens. Revoke some, or let some expire.
var ErrFull = errors.New("token: the store is full")

// ErrNotFound is what Revoke answers where there is no such token, or none any more.
var ErrNotFound = errors.New("token: no such token")

// A Token is what is known of one. The token itself is not.
type Token struct {
	ID      string // 24 hex digits, the first of its SHA-256: it may be shown
	Kind    Kind
	Name    string // what it was called when it was made: a machine's name, for one
	Created time.Time
	Expires time.Time
	// Principal is whom it makes known: Key is ID, Until is Expires, How is gateway.ByToken.
	Principal *gateway.Principal
}

// A Store keeps tokens. Make one with Open. Safe for concurrent use.
type Store struct {
	dir string
	log *slog.Logger

	mu     sync.RWMutex
	tokens map[[sha256.Size]byte]*Token
	files  map[string][sha256.Size]byte // of the files that were read, by id
	bad    map[string]bool              // ids of files that could not be
	seen   time.Time                    // when the directory had changed last as it was read

	change sync.Mutex // held by whoever changes the directory or reads it anew
}

var _ gateway.Identifier = (*Store)(nil)

// Open uses the directory dir, making it if it is missing. A nil logger is none.
func Open(dir string, logger *slog.Logger) (*Store, error) {
	if dir == "" {
		return nil, errors.New("token: no directory for tokens")
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("token: others can write to %s (mode %04o), and so be anybody; chmod 700 it", dir, st.Mode().Perm())
	}
	s := &Store{dir: dir, log: logger, tokens: make(map[[sha256.Size]byte]*Token), files: make(map[string][sha256.Size]byte), bad: make(map[string]bool)}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if err := s.reread(); err != nil {
		return nil, err
	}
	return s, nil
}

// Run forgets tokens that expire, and notices what commands do to the directory, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	look := time.NewTicker(Notice / 2)
	defer look.Stop()
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			err = s.reread()
		case <-sweep.C:
			err = s.sweep()
		}
		if err != nil {
			s.log.WarnContext(ctx, "token: the store could not be looked through", "error", err)
		}
	}
}

// Identify tells whose token is shown; see [gateway.Identifier]. What does not begin with Prefix is none.
func (s *Store) Identify(_ context.Context, shown gateway.Shown) (*gateway.Principal, error) {
	if len(shown.Bearer) < len(Prefix) || string(shown.Bearer[:len(Prefix)]) != Prefix {
		return nil, gateway.ErrNotMine
	}
	t, err := s.find(shown.Bearer, Bearer)
	if err != nil {
		return nil, err
	}
	return t.Principal, nil
}

// Session returns the token in a browser's cookie. Errors are those of Identify.
func (s *Store) Session(value string) (*Token, error) {
	if !strings.HasPrefix(value, sessionPrefix) {
		return nil, gateway.ErrNotMine
	}
	t, err := s.find([]byte(value), Session)
	if err != nil {
		return nil, err
	}
	c := *t
	return &c, nil
}

// find finds a token by its SHA-256. How long that takes depends on the hash, of which nobody learns the token.
func (s *Store) find(value []byte, kind Kind) (*Token, error) {
	if len(value) != length {
		return nil, unknown
	}
	sum := sha256.Sum256(value)
	s.mu.RLock()
	t := s.tokens[sum]
	s.mu.RUnlock()
	switch {
	case t == nil || t.Kind != kind:
		return nil, unknown
	case !time.Now().Before(t.Expires):
		return nil, expired
	}
	return t, nil
}

var (
	unknown = &gateway.Stranger{Why: "unknown", Message: "the gateway does not know this token, or it was revoked; log in with `tally login`"}
	expired = &gateway.Stranger{Why: "expired", Message: "the token has expired; log in with `tally login`"}
)

// Mint makes a token of a kind that makes p known for life, which is at most Longest. name says what it is for. When it
// returns, the token is durable; it is returned here and never again.
func (s *Store) Mint(p *gateway.Principal, kind Kind, name string, life time.Duration) (string, *Token, error) {
	prefix := map[Kind]string{Bearer: Prefix, Session: sessionPrefix}[kind]
	switch {
	case prefix == "":
		return "", nil, fmt.Errorf("token: no kind %q", kind)
	case p == nil || p.Name == "" || len(p.Name) > 200 || !plain(p.Name):
		return "", nil, errors.New("token: a token for nobody that can be named")
	case life <= 0 || life > Longest:
		return "", nil, fmt.Errorf("token: a life of %v; choose at most %v", life, Longest)
	case len(name) > 100 || !plain(name):
		return "", nil, errors.New("token: its name is longer than 100 bytes or has control characters")
	}
	b := make([]byte, random)
	rand.Read(b)
	value := prefix + encoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(value))
	now := time.Now().UTC().Truncate(time.Second)
	t := &Token{ID: id(sum), Kind: kind, Name: name, Created: now, Expires: now.Add(life), Principal: p}
	t.complete()

	s.change.Lock()
	defer s.change.Unlock()
	s.mu.RLock()
	full := len(s.tokens) >= Most
	s.mu.RUnlock()
	if full {
		return "", nil, ErrFull
	}
	content, err := json.MarshalIndent(fileOf(sum, t), "", "\t")
	if err != nil {
		return "", nil, fmt.Errorf("token: %w", err)
	}
	if err := s.write(t.ID, append(content, '\n')); err != nil {
		return "", nil, fmt.Errorf("token: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[sum], s.files[t.ID] = t, sum
	return value, t, nil
}

// encoding is that of RFC 4648 §6 in lower case: no character in it needs care in a shell, a header or a URL.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func id(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:12]) }

// complete makes the principal that of the token.
func (t *Token) complete() {
	p := *t.Principal
	p.How, p.Key, p.Until = gateway.ByToken, t.ID, t.Expires
	p.Groups, p.Routes = slices.Clone(p.Groups), slices.Clone(p.Routes)
	t.Principal = &p
}

func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Revoke ends the token of that id. When it returns, that is durable.
func (s *Store) Revoke(id string) error {
	if !isID(id) {
		return ErrNotFound
	}
	s.change.Lock()
	defer s.change.Unlock()
	s.forget(id) // first: whatever becomes of the file, this process takes the token no more
	err := os.Remove(filepath.Join(s.dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	// A revocation that died between the two leaves a file that is gone, and may come back with a loss of power.
	return cmp.Or(syncDir(s.dir), err)
}

func (s *Store) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, s.files[id])
	delete(s.files, id)
	delete(s.bad, id)
}

// List returns what is known of all tokens that have not expired, the oldest first.
func (s *Store) List() []Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Token, 0, len(s.tokens))
	for t := range maps.Values(s.tokens) {
		if time.Now().Before(t.Expires) {
			list = append(list, *t)
		}
	}
	slices.SortFunc(list, func(a, b Token) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return list
}

// sweep takes away the files of expired tokens.
func (s *Store) sweep() error {
	s.change.Lock()
	defer s.change.Unlock()
	var over []string
	s.mu.RLock()
	for t := range maps.Values(s.tokens) {
		if !time.Now().Before(t.Expires) {
			over = append(over, t.ID)
		}
	}
	s.mu.RUnlock()
	var first error
	for _, id := range over {
		s.forget(id)
		// Not synced: a file that comes back is of a token that has expired.
		if err := os.Remove(filepath.Join(s.dir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			first = cmp.Or(first, err)
		}
	}
	return first
}
