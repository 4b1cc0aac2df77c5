package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	// followerVersion is that of the form in which a Follower is written down.
	followerVersion = 1
	// maxBoots is how many of the boots that began last are written down. What is older than that is remembered by no name
	// any more: an entry of such a boot is one of a boot without a start entry then.
	maxBoots = 10_000
)

// A followerState is a Follower as it is written down: JSON in the one spelling that encoding/json gives it. What can be
// computed from the rest is left out.
type followerState struct {
	V          int           `json:"v"`
	Checkpoint string        `json:"checkpoint"`       // signed
	Levels     [][]tlog.Hash `json:"levels,omitempty"` // from level 1: the hashes of the last, not yet full tile
	Leaves     []tlog.Hash   `json:"leaves,omitempty"` // of the last tile, if it is not full
	Tiles      int           `json:"tiles"`            // compared, ever
	Compared   int           `json:"compared"`         // kept checkpoints of the log's, ever
	Clock      clockState    `json:"clock"`
	Tally      tally         `json:"tally"`
	Boots      []bootState   `json:"boots,omitempty"`   // those that began last, in that order
	Writers    []penState    `json:"writers,omitempty"` // by name
}

type clockState struct {
	Checkpoints int       `json:"checkpoints"`
	Floor       time.Time `json:"floor,omitzero"`
	Newest      time.Time `json:"newest,omitzero"`
	Latest      at        `json:"latest,omitzero"`
}

type bootState struct {
	Boot record.ID `json:"boot"`
	By   string    `json:"by"`
}

type penState struct {
	By       string         `json:"by"`
	Boot     record.ID      `json:"boot,omitzero"`
	Next     uint64         `json:"next"`
	Last     time.Time      `json:"last,omitzero"`
	Stopped  bool           `json:"stopped,omitempty"`
	Lost     uint64         `json:"lost,omitempty"`
	Orphans  uint64         `json:"orphans,omitempty"`
	Every    time.Duration  `json:"every,omitempty"` // nanoseconds
	Beat     time.Time      `json:"beat,omitzero"`
	Policies []uint64       `json:"policies,omitempty"`
	Open     []sessionState `json:"open,omitempty"` // by index
}

type sessionState struct {
	ID    record.ID `json:"id"`
	Index uint64    `json:"index"`
	Leaf  tlog.Hash `json:"leaf"`

	Asks bool      `json:"asks,omitempty"`
	Used bool      `json:"used,omitempty"`
	Void bool      `json:"void,omitempty"`
	Ask  *question `json:"ask,omitempty"`
}

// Append appends what the Follower remembers, one line of JSON without a line break: a few hundred bytes for each writer,
// boot and open session, and some 40 KB for the edge of a large tree. A Follower that is spent, or has read nothing, has
// nothing to write down.
func (f *Follower) Append(dst []byte) ([]byte, error) {
	if f.spent != nil {
		return dst, f.spent
	}
	if f.signed == nil {
		return dst, errors.New("verify: a Follower that has read nothing cannot be written down")
	}
	s := followerState{
		V: followerVersion, Checkpoint: string(f.signed), Leaves: f.tree.leaves, Tiles: f.tree.compared, Compared: f.compared,
		Clock: clockState{f.clock.checkpoints, f.clock.floor, f.clock.newest, f.clock.latest},
		Tally: f.books.tally,
	}
	if len(f.tree.levels) > 1 {
		s.Levels = f.tree.levels[1:]
	}
	for _, boot := range f.books.begun[max(0, len(f.books.begun)-maxBoots):] {
		s.Boots = append(s.Boots, bootState{boot, f.books.owners[boot]})
	}
	for _, by := range slices.Sorted(maps.Keys(f.books.pens)) {
		p := f.books.pens[by]
		ps := penState{By: by, Boot: p.boot, Next: p.next, Last: p.last, Stopped: p.stopped, Lost: p.lost, Orphans: p.orphans, Every: p.every, Beat: p.beat, Policies: p.policies}
		for _, x := range p.order {
			if !x.ended {
				ps.Open = append(ps.Open, sessionState{x.id, x.index, x.leaf, x.asks, x.used, x.void, x.ask})
			}
		}
		s.Writers = append(s.Writers, ps)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return dst, fmt.Errorf("verify: %w", err)
	}
	return append(dst, b...), nil
}

// ParseFollower reads back what Append wrote, and nothing else: another spelling, another version, a tree that does not
// hash to the checkpoint, and a checkpoint that no log of the policy signed are errors. Whether witnesses cosigned it is not
// asked again. Books that somebody changed and that could be those of such a log are not noticed: keep them where only
// the auditor writes.
func ParseFollower(data []byte, trust Trust) (*Follower, error) {
	var s followerState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("verify: what was written down of a log: %w", err)
	}
	if s.V != followerVersion {
		return nil, fmt.Errorf("verify: what was written down of a log is of version %d, and this program reads %d", s.V, followerVersion)
	}
	if again, err := json.Marshal(s); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("verify: what was written down of a log is not in the form in which it is written")
	}
	f := NewFollower(trust)
	w, signedErr, _ := f.judge.judge([]byte(s.Checkpoint))
	if signedErr != nil {
		return nil, fmt.Errorf("the checkpoint that was remembered: %w", signedErr)
	}
	f.signed, f.head, f.compared = []byte(s.Checkpoint), w.Checkpoint, s.Compared
	f.clock = clock{s.Clock.Checkpoints, s.Clock.Floor, s.Clock.Newest, s.Clock.Latest}
	if err := f.restoreTree(&s); err != nil {
		return nil, err
	}
	if err := f.restoreBooks(&s); err != nil {
		return nil, err
	}
	return f, nil
}

// restoreTree makes the edge of the tree again, which must be that of the checkpoint.
func (f *Follower) restoreTree(s *followerState) error {
	t, size := &f.tree, f.head.Size
	t.full, t.leaves, t.compared = size/tlog.TileWidth, s.Leaves, s.Tiles
	levels := 0
	for n := t.full; n > 0; n /= tlog.TileWidth {
		levels++
	}
	if len(s.Levels) != levels || uint64(len(s.Leaves)) != size%tlog.TileWidth {
		return fmt.Errorf("verify: what was written down has another tree than its checkpoint, of size %d", size)
	}
	if levels > 0 {
		t.levels = append([][]tlog.Hash{nil}, s.Levels...)
	}
	n := t.full
	for level := 1; level <= levels; level++ {
		if hs := t.levels[level]; uint64(len(hs)) != n%tlog.TileWidth || len(hs) == 0 && hs != nil {
			return fmt.Errorf("verify: what was written down has another tree than its checkpoint, of size %d", size)
		}
		n /= tlog.TileWidth
	}
	// The roots of the perfect trees, the largest first: those within each level's hashes, from the top.
	for level := levels; level > 0; level-- {
		for hs := t.levels[level]; len(hs) > 0; {
			n := 1
			for 2*n <= len(hs) {
				n *= 2
			}
			t.edge = append(t.edge, record.RootOf(hs[:n]))
			hs = hs[n:]
		}
	}
	if t.root(t.leaves) != f.head.Root {
		return fmt.Errorf("verify: what was written down has another tree than its checkpoint, of size %d", size)
	}
	return nil
}

func (f *Follower) restoreBooks(s *followerState) error {
	b := &f.books
	b.tally = s.Tally
	for _, x := range s.Boots {
		if _, twice := b.owners[x.Boot]; twice || x.Boot.IsZero() {
			return fmt.Errorf("verify: what was written down has the boot %s twice, or one that is none", x.Boot)
		}
		b.owners[x.Boot] = x.By
		b.begun = append(b.begun, x.Boot)
	}
	for i, x := range s.Writers {
		if i > 0 && x.By <= s.Writers[i-1].By {
			return fmt.Errorf("verify: what was written down has its writers out of order, at %q", x.By)
		}
		if x.Every < 0 || x.Every > math.MaxInt64/silence || x.Next > math.MaxInt64+1 {
			return fmt.Errorf("verify: what was written down of the writer %q cannot be", x.By)
		}
		p := &pen{boot: x.Boot, next: x.Next, last: x.Last, stopped: x.Stopped, lost: x.Lost, orphans: x.Orphans, every: x.Every, beat: x.Beat, policies: x.Policies, open: len(x.Open)}
		b.pens[x.By] = p
		for k, o := range x.Open {
			if b.open[o.ID] != nil || o.Index >= f.head.Size || k > 0 && o.Index <= x.Open[k-1].Index {
				return fmt.Errorf("verify: what was written down has the session %s twice, or out of order", o.ID)
			}
			one := &session{id: o.ID, by: x.By, index: o.Index, leaf: o.Leaf, asks: o.Asks, used: o.Used, void: o.Void, ask: o.Ask}
			b.open[o.ID] = one
			if o.Ask != nil && o.Ask.Yes != (tlog.Hash{}) {
				b.yeses[o.Ask.Yes] = one
			}
			p.order = append(p.order, one)
		}
	}
	return nil
}
