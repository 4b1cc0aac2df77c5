package tlogtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// Key returns the signer and the verifier key of the Ed25519 key that belongs to a name in tests. One name has one
// key, always. It panics where the name cannot name a key.
func Key(name string) (note.Signer, string) {
	seed := sha256.Sum256([]byte("tlogtest key of " + name))
	private := ed25519.NewKeyFromSeed(seed[:])
	vkey, err := note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	hash := strings.Split(strings.TrimPrefix(vkey, name), "+")[1]
	skey := base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...))
	signer, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%s+%s", name, hash, skey))
	if err != nil {
		panic(err)
	}
	return signer, vkey
}

// A Latest is an anchor in memory whose faults can be chosen. The zero value remembers nothing. Safe for concurrent
// use; the hooks are set before it is used.
type Latest struct {
	// BeforeSwap and AfterSwap run around every Swap, the second where it succeeded; an error is what Swap answers.
	BeforeSwap, AfterSwap func(origin string, new []byte) error

	mu         sync.Mutex
	remembered map[string][]byte
}

var _ tlog.Latest = (*Latest)(nil)

// Load implements tlog.Latest.
func (l *Latest) Load(ctx context.Context, origin string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.remembered[origin]), nil
}

// Swap implements tlog.Latest.
func (l *Latest) Swap(ctx context.Context, origin string, old, new []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.BeforeSwap != nil {
		if err := l.BeforeSwap(origin, new); err != nil {
			return err
		}
	}
	l.mu.Lock()
	if is := l.remembered[origin]; !bytes.Equal(is, old) {
		l.mu.Unlock()
		return tlog.ErrConflict
	}
	if l.remembered == nil {
		l.remembered = make(map[string][]byte)
	}
	l.remembered[origin] = bytes.Clone(new)
	l.mu.Unlock()
	if l.AfterSwap != nil {
		return l.AfterSwap(origin, new)
	}
	return nil
}

// Set makes the anchor remember anything, as somebody else's Swap would.
func (l *Latest) Set(origin string, remembered []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remembered == nil {
		l.remembered = make(map[string][]byte)
	}
	l.remembered[origin] = bytes.Clone(remembered)
}

// parseAnchor reads a remembered checkpoint, signed or not.
func parseAnchor(b []byte) (tlog.Checkpoint, error) {
	text, _, signed := bytes.Cut(b, []byte("\n\n"))
	if signed {
		text = append(bytes.Clone(text), '\n')
	}
	c, err := tlog.ParseCheckpoint(text)
	if err != nil {
		return c, fmt.Errorf("anchor: %w", err)
	}
	return c, nil
}
