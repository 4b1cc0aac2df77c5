// Package tlogtest holds one story that every engine of a log is told ([Run]), and a log in memory whose faults can
// be chosen ([NewLog]), for the tests of rooms that need a log.
//
// The story keeps a ledger of its own: what it appended, what was acknowledged and at which index, what was refused,
// and what it cannot know. After each step it reads the whole log back and compares it with the ledger and with a
// tree that it computes itself, by the definition of RFC 6962 §2.1. What is always true, and so is asked each time:
//
//   - an acknowledged leaf stands at its index, and groups lie side by side, in order, whole or not at all;
//   - nothing is in the log that was not appended, and nothing that was refused;
//   - a checkpoint verifies, has the root of the entries, and never shrinks for anyone;
//   - what is acknowledged is in the tail at once, and what the tail has shown is published later, at its index, whatever
//     happens in between;
//   - nothing was signed that the anchor did not remember before.
package tlogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// A World is one place of storage, empty at first, and how an engine uses it. The test that its functions are given
// lasts as long as the story.
type World struct {
	// Open opens the engine on the storage. The story calls Run on what it returns.
	Open func(t testing.TB, s Setting) tlog.Log
	// Close closes the engine when its Run has ended. nil where there is nothing to close.
	Close func(t testing.TB, l tlog.Log)
	// Crash ends the engine while it runs and appends, as a loss of power does: what it did not sync may be gone, and
	// the next Open finds the rest. It makes Run and every Append return. nil leaves the crashes out of the story.
	Crash func(t testing.TB, l tlog.Log)
	// Unanchored says that the engine anchors elsewhere than in Setting.Latest.
	Unanchored bool
	// Elsewhere says that sequencing happens in another process: Append need not wait for Run here, and the end of
	// Run publishes nothing.
	Elsewhere bool
	// Large is the number of entries that the log has at the end of the story; 0 is 66,000, for tiles of level 2.
	Large uint64
}

// A Setting is what the story gives to the engine. The signer is watched.
type Setting struct {
	Origin   string
	Signer   note.Signer
	Verifier note.Verifier
	Latest   tlog.Latest
}

// Run tells the story to the engine that open prepares, as subtests.
func Run(t *testing.T, open func(t *testing.T) World) {
	s := newStory(t, open(t))
	for _, step := range s.steps() {
		if !t.Run(step.name, func(t *testing.T) { step.do(t) }) {
			break
		}
	}
	s.end()
}

// A story is the state of one telling.
type story struct {
	t        testing.TB // lasts longer than a step
	w        World
	patience time.Duration // what may take longer is given up
	set      Setting
	signer   *watchedSigner
	log      tlog.Log
	cancel   context.CancelFunc // ends Run; nil while nothing runs
	ended    chan error         // Run's answer
	ledger   ledger
	tree     tree // of the entries that were compared with the ledger

	mu     sync.Mutex
	newest uint64                        // largest size seen by anyone
	tailed []tlog.Hash                   // leaf hashes of all that the tail ever showed, from the first entry on
	seen   map[uint64]tlog.Checkpoint    // everything published that was seen, by size
	signed map[tlog.Checkpoint]time.Time // everything that was signed
}

type step struct {
	name string
	do   func(t testing.TB)
}

func newStory(t testing.TB, w World) *story {
	if w.Large == 0 {
		w.Large = 66_000
	}
	origin := "log.example/story"
	key, vkey := Key(origin)
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, w: w, patience: time.Minute, seen: make(map[uint64]tlog.Checkpoint), signed: make(map[tlog.Checkpoint]time.Time)}
	s.signer = &watchedSigner{Signer: key, story: s}
	s.set = Setting{Origin: origin, Signer: s.signer, Verifier: verifier, Latest: new(Latest)}
	return s
}

func (s *story) steps() []step {
	steps := []step{
		{"empty", s.empty},
		{"first", s.first},
		{"edges", s.edges},
		{"crowd", s.crowd},
		{"twice", s.twice},
		{"refused", s.refused},
		{"cancelled", s.cancelled},
		{"discard", s.discard},
		{"reopen", s.reopen},
	}
	if s.w.Crash != nil {
		steps = append(steps, step{"crash", s.crash})
	}
	return append(steps, step{"large", s.large}, step{"reopen large", s.reopen})
}

// A watchedSigner notes what it is asked to sign, and that the anchor knew of it.
type watchedSigner struct {
	note.Signer
	story *story
}

func (w *watchedSigner) Sign(msg []byte) ([]byte, error) {
	s := w.story
	c, err := tlog.ParseCheckpoint(msg)
	if err != nil {
		s.t.Errorf("the engine signs what is no checkpoint: %v", err)
		return nil, err
	}
	s.mu.Lock()
	s.signed[c] = time.Now()
	s.mu.Unlock()
	if !s.w.Unanchored {
		anchored, err := s.set.Latest.Load(context.Background(), s.set.Origin)
		if err != nil || !bytes.HasPrefix(anchored, c.Text()) {
			s.t.Errorf("the engine signs a checkpoint of size %d that the anchor does not remember; it remembers %q, %v", c.Size, anchored, err)
		}
	}
	return w.Signer.Sign(msg)
}

// open opens the engine; nobody runs it.
func (s *story) open(t testing.TB) {
	s.log = s.w.Open(s.t, s.set)
	if s.log == nil {
		t.Fatal("the world opens no log")
	}
}

func (s *story) run() {
	ctx, cancel := context.WithCancel(context.Background())
	l, ended := s.log, make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	s.cancel, s.ended = cancel, ended
}

// stop ends Run and returns its answer.
func (s *story) stop(t testing.TB) error {
	s.cancel()
	s.cancel = nil
	select {
	case err := <-s.ended:
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return err
	case <-time.After(s.patience):
		t.Fatal("Run does not end with its context")
		return nil
	}
}

func (s *story) close() {
	if s.w.Close != nil {
		s.w.Close(s.t, s.log)
	}
	s.log = nil
}

// end stops and closes what a step left behind.
func (s *story) end() {
	if s.log == nil {
		return
	}
	if s.cancel != nil {
		if err := s.stop(s.t); err != nil {
			s.t.Errorf("Run ended: %v", err)
		}
	}
	s.close()
}

// context lives as long as a step may take.
func (s *story) context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.patience)
	t.Cleanup(cancel)
	return ctx
}

// observe reads the newest checkpoint as one client among many. It is no older than any that somebody held before
// the call, and it is of entries that somebody began to append.
func (s *story) observe(ctx context.Context) (tlog.Checkpoint, error) {
	s.mu.Lock()
	before := s.newest
	s.mu.Unlock()
	signed, err := s.log.Checkpoint(ctx)
	if err != nil {
		if errors.Is(err, tlog.ErrNotFound) && before > 0 {
			err = fmt.Errorf("a checkpoint of size %d was seen and now there is none", before)
		}
		return tlog.Checkpoint{}, err
	}
	c, err := s.opened(signed)
	if err != nil {
		return c, err
	}
	if c.Size < before {
		return c, fmt.Errorf("a checkpoint of size %d was seen, and later one of size %d", before, c.Size)
	}
	if began := s.ledger.begun(); c.Size > began {
		return c, fmt.Errorf("a checkpoint of size %d where only %d leaves were ever appended", c.Size, began)
	}
	return c, s.see(c)
}

// opened verifies a checkpoint of the story's log.
func (s *story) opened(signed []byte) (tlog.Checkpoint, error) {
	c, _, err := tlog.OpenCheckpoint(signed, s.set.Verifier)
	if err != nil {
		return c, fmt.Errorf("a published checkpoint does not verify: %w\n%s", err, signed)
	}
	return c, nil
}

// see remembers a published checkpoint.
func (s *story) see(c tlog.Checkpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.seen[c.Size]; ok && was != c {
		return fmt.Errorf("two checkpoints of size %d: %s and %s", c.Size, was.Root, c.Root)
	}
	s.seen[c.Size] = c
	s.newest = max(s.newest, c.Size)
	return nil
}

// await returns the first checkpoint seen that has at least size entries.
func (s *story) await(ctx context.Context, t testing.TB, size uint64) tlog.Checkpoint {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(s.patience)
	for {
		c, err := s.observe(ctx)
		if err != nil && !errors.Is(err, tlog.ErrNotFound) {
			t.Fatal(err)
		}
		if err == nil && c.Size >= size {
			return c
		}
		select {
		case <-late:
			t.Fatalf("no checkpoint of %d entries appears: %v after %v", size, c.Size, s.patience)
		case <-tick.C:
		}
	}
}
