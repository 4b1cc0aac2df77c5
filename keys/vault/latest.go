package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// A Latest is an anchor in a KV v2 engine. There is one secret for each log, named by the SHA-256 of its origin in hex, whose
// field "checkpoint" is what is remembered, byte for byte; the other fields are for people. It is replaced by
// check-and-set with the version that was read. What is always true:
//
//   - an engine, or a secret in it, that takes writes without check-and-set, or that forgets versions after a time, is not
//     used: the error says with which command that is changed;
//   - a newest version that was deleted or destroyed is an error for people, and never nothing;
//   - the newest version is what counts. Older ones are kept for people, as many as max_versions says; that limit drops
//     the oldest, so it never loses the newest.
//
// What it cannot keep from happening: whoever may write there may write an older checkpoint as a new version, and whoever
// administers Vault may delete all of it. Give the anchor a token that may do nothing else ([Latest.Policy]), and have
// witnesses. Where reads are served by standbys that lag (performance standbys of Vault Enterprise), use the address
// of the active node.
//
// It is safe for concurrent use, and so are several on one path, in one process or in many.
type Latest struct {
	c      *Client
	mount  string
	prefix string

	mu     sync.Mutex
	proper map[string]bool // guarded by mu: origins whose place was found to be as it must
}

var _ tlog.Latest = (*Latest)(nil)

// Latest returns the anchor below ref, vault:MOUNT/PATH. Nothing is asked now.
func (c *Client) Latest(ref keys.Reference) (*Latest, error) {
	if _, err := ref.MarshalText(); err != nil {
		return nil, err
	}
	mount, prefix, ok := strings.Cut(ref.Path, "/")
	if ref.Scheme != keys.SchemeVault || ref.Version != "" || ref.Field != "" || !ok {
		return nil, fmt.Errorf("keys/vault: %s is no place for an anchor: write vault:MOUNT/PATH", ref)
	}
	return &Latest{c: c, mount: mount, prefix: prefix, proper: make(map[string]bool)}, nil
}

// path is where the anchor of a log lies in the engine.
func (l *Latest) path(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return l.prefix + "/" + hex.EncodeToString(sum[:])
}

// Load returns what is remembered for origin, or nil; see [tlog.Latest].
func (l *Latest) Load(ctx context.Context, origin string) ([]byte, error) {
	current, err := l.inspect(ctx, origin)
	if err != nil {
		return nil, l.errorf(origin, err)
	}
	b, version, err := l.read(ctx, origin)
	if err == nil && version == 0 && current != 0 {
		err = fmt.Errorf("it has %d versions, and no newest one: look at it with vault kv metadata get -mount=%s %s", current, l.mount, l.path(origin))
	}
	if err != nil {
		return nil, l.errorf(origin, err)
	}
	return b, nil
}

// Swap replaces old by new; see [tlog.Latest]. new must be a checkpoint of that log, signed or not. It asks for what is
// remembered, compares, and writes with the version it was told; so it is two requests, after the first time.
func (l *Latest) Swap(ctx context.Context, origin string, old, new []byte) error {
	c, err := checkpointOf(origin, new)
	if err != nil {
		return l.errorf(origin, fmt.Errorf("nothing was changed: %w", err))
	}
	l.mu.Lock()
	proper := l.proper[origin]
	l.mu.Unlock()
	if !proper {
		if _, err := l.inspect(ctx, origin); err != nil {
			return l.errorf(origin, fmt.Errorf("nothing was changed: %w", err))
		}
	}
	is, version, err := l.read(ctx, origin)
	if err != nil {
		return l.errorf(origin, fmt.Errorf("nothing was changed: %w", err))
	}
	if !bytes.Equal(is, old) {
		return tlog.ErrConflict
	}
	r := request{method: http.MethodPost, path: l.mount + "/data/" + l.path(origin), body: map[string]any{
		"options": map[string]any{"cas": version},
		"data": map[string]any{
			"checkpoint": string(new),
			"origin":     origin,
			"size":       strconv.FormatUint(c.Size, 10),
			"root":       c.Root.String(),
			"written":    time.Now().UTC().Format(time.RFC3339Nano),
		},
	}}
	var made struct{ Version uint64 }
	err = l.c.call(ctx, r, &made)
	switch {
	case says(err, "check-and-set parameter did not match the current version"):
		return tlog.ErrConflict
	case err != nil:
		return l.errorf(origin, err)
	case made.Version != version+1:
		return l.errorf(origin, fmt.Errorf("version %d was to follow %d, and %d did", version+1, version, made.Version))
	}
	return nil
}

func (l *Latest) errorf(origin string, err error) error {
	return fmt.Errorf("anchor of %s at vault:%s/%s: %w", origin, l.mount, l.path(origin), err)
}

// inspect says whether the engine and the secret are what they must be, and which version is the newest, 0 for none.
func (l *Latest) inspect(ctx context.Context, origin string) (current uint64, err error) {
	type settings struct {
		CAS         *bool   `json:"cas_required"`
		DeleteAfter *string `json:"delete_version_after"`
	}
	var engine settings
	r := request{method: http.MethodGet, path: l.mount + "/config"}
	err = l.c.call(ctx, r, &engine)
	switch {
	case isNothing(err), says(err, "no handler for route"), err == nil && (engine.CAS == nil || engine.DeleteAfter == nil):
		return 0, fmt.Errorf("there is no KV engine of version 2: vault secrets enable -path=%s -version=2 kv", l.mount)
	case forbids(err):
		return 0, fmt.Errorf("whether check-and-set is required cannot be seen: allow read on %s/config: %w", l.mount, err)
	case err != nil:
		return 0, err
	}
	var secret struct {
		settings
		Current uint64 `json:"current_version"`
	}
	r = request{method: http.MethodGet, path: l.mount + "/metadata/" + l.path(origin)}
	err = l.c.call(ctx, r, &secret)
	switch {
	case isNothing(err):
	case forbids(err):
		return 0, fmt.Errorf("whether check-and-set is required cannot be seen: allow read on %s: %w", r.path, err)
	case err != nil:
		return 0, err
	}
	if !*engine.CAS && (secret.CAS == nil || !*secret.CAS) {
		return 0, fmt.Errorf("it takes writes without check-and-set, so anybody's late write would win: vault kv metadata put -mount=%s -cas-required=true %s", l.mount, l.path(origin))
	}
	// A negative one on the engine switches them all off.
	if forgets(*engine.DeleteAfter) {
		return 0, fmt.Errorf("the engine deletes versions after %.40q, and an anchor must not be forgotten: vault write %s/config delete_version_after=0s", *engine.DeleteAfter, l.mount)
	}
	if secret.DeleteAfter != nil && forgets(*secret.DeleteAfter) {
		return 0, fmt.Errorf("it deletes versions after %.40q, and an anchor must not be forgotten: vault kv metadata put -mount=%s -delete-version-after=0s %s", *secret.DeleteAfter, l.mount, l.path(origin))
	}
	l.mu.Lock()
	l.proper[origin] = true
	l.mu.Unlock()
	return secret.Current, nil
}

func forgets(after string) bool {
	d, err := time.ParseDuration(after)
	return err != nil || d > 0
}

// A version is what the engine tells of one version of a secret. Data is null where it was deleted.
type version struct {
	Data     map[string]json.RawMessage `json:"data"`
	Metadata struct {
		Version   uint64 `json:"version"`
		Deleted   string `json:"deletion_time"` // may lie ahead
		Destroyed bool   `json:"destroyed"`
	} `json:"metadata"`
}

// readVersion reads a version of a secret, 0 for the newest. found is false where the engine says that there is nothing.
func (c *Client) readVersion(ctx context.Context, mount, path, number string) (v version, found bool, err error) {
	r := request{method: http.MethodGet, path: mount + "/data/" + path}
	if number != "" {
		r.query = url.Values{"version": {number}}
	}
	err = c.call(ctx, r, &v)
	if isNothing(err) {
		return v, false, nil
	}
	var e *refusal
	if errors.As(err, &e) && e.data != nil {
		err = r.decode(answer{Data: e.data}, &v) // a version that was deleted
		v.Data = nil
	}
	if err != nil {
		return v, false, err
	}
	if v.Metadata.Version == 0 {
		return v, false, r.senseless("no version of a secret in it")
	}
	if v.Data == nil || v.Metadata.Destroyed {
		how := fmt.Sprintf("was deleted at %.40q: vault kv undelete -mount=%s -versions=%d %s", v.Metadata.Deleted, mount, v.Metadata.Version, path)
		if v.Metadata.Destroyed {
			how = "was destroyed, and nothing brings it back"
		}
		return v, false, fmt.Errorf("version %d %s", v.Metadata.Version, how)
	}
	return v, true, nil
}

// read returns the remembered checkpoint and its version, nil and 0 for nothing.
func (l *Latest) read(ctx context.Context, origin string) ([]byte, uint64, error) {
	v, found, err := l.c.readVersion(ctx, l.mount, l.path(origin), "")
	if err != nil || !found {
		return nil, 0, err
	}
	var text string
	if err := json.Unmarshal(v.Data["checkpoint"], &text); err != nil {
		return nil, 0, fmt.Errorf("version %d holds no checkpoint: put the right one back", v.Metadata.Version)
	}
	if _, err := checkpointOf(origin, []byte(text)); err != nil {
		return nil, 0, fmt.Errorf("version %d does not hold a checkpoint of the log; put the right one back: %w", v.Metadata.Version, err)
	}
	return []byte(text), v.Metadata.Version, nil
}

// checkpointOf reads a checkpoint of origin, signed or not.
func checkpointOf(origin string, b []byte) (tlog.Checkpoint, error) {
	parse := tlog.ParseCheckpoint
	if bytes.Contains(b, []byte("\n\n")) {
		parse = tlog.UnverifiedCheckpoint
	}
	c, err := parse(b)
	if err == nil && c.Origin != origin {
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	return c, err
}
