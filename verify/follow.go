package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A Follower is an auditor who stays: it has read a log up to some checkpoint, and whenever it is shown a larger one it
// reads on from there. What it remembers is the edge of the tree and the books that [CheckLog] keeps, so that growth is
// judged as if everything had been read again; an entry or a tile that was read once is not read a second time, and if
// it is served otherwise later, only [CheckLog] tells.
//
// It can be written down and read back: see [Follower.Append]. It is not safe for concurrent use.
type Follower struct {
	judge    judge
	trust    Trust
	signed   []byte          // the checkpoint that it has come to; nil at the beginning
	head     tlog.Checkpoint // the same
	tree     tree
	clock    clock
	books    books
	compared int   // of the log's kept checkpoints
	spent    error // why it follows no more
}

// NewFollower returns one that has read nothing yet. The first checkpoint that it is shown says which log it follows.
func NewFollower(trust Trust) *Follower {
	f := &Follower{judge: newJudge(trust), trust: trust}
	f.books = books{pens: make(map[string]*pen), owners: make(map[record.ID]string), open: make(map[record.ID]*session), yeses: make(yeses)}
	return f
}

// Checkpoint returns what the Follower has come to: the checkpoint as it was signed, nil before the first, and what it says.
func (f *Follower) Checkpoint() (signed []byte, c tlog.Checkpoint) { return f.signed, f.head }

// Follow reads on to the checkpoint signed, which must not be smaller than the one before, and answers for all that was
// read, as CheckLog does: its findings are of this reading, its counts of all. Two checkpoints of one size with other
// cosignatures are one after the other too: times are then bracketed by the newer ones as well.
//
// It has come to the new checkpoint if the log has signed it, and the report has no false [RootMatches], and there is no
// error, be other claims false or not. If the log has not signed it nothing was read, and nothing has changed. In all other
// cases the Follower is spent: go on with what was written down before. An error is an [*Unreadable].
func (f *Follower) Follow(ctx context.Context, r tlog.Reader, signed []byte, progress func(done, size uint64)) (Report, error) {
	var rep Report
	if f.spent != nil {
		return rep, f.spent
	}
	head := rep.checkpoint(f.judge, signed, f.head.Origin)
	if !head.signed || f.signed != nil && head.Origin != f.head.Origin {
		rep.notProven("anything else: the checkpoint is nobody's word, so nothing below it was read")
		return rep, nil
	}
	if head.Size < f.head.Size {
		return rep, fmt.Errorf("verify: a checkpoint of size %d cannot follow one of size %d", head.Size, f.head.Size)
	}
	f.spent = errors.New("verify: the Follower did not come to the end of an earlier reading; read back what was written down")
	a := newAudit(f, r, head, signed)
	a.sort(f.trust.Kept)
	err := a.read(ctx, progress)
	a.report(&rep, err)
	if err != nil {
		return rep, &Unreadable{What: "log", Err: err}
	}
	if a.wrong[RootMatches] == nil {
		f.signed, f.head, f.spent = signed, head.Checkpoint, nil
		f.compared += a.past.count
	}
	return rep, nil
}

// A Silence is a writer whose last boot has no stop entry and from which more than three of its beats, and ClockSkew, are
// missing by now: it is gone, or the log leaves it waiting, or it lives and does not write.
type Silence struct {
	By    string
	Boot  record.ID
	Every time.Duration // its beat
	Since time.Time     // what its last entry states
}

// Silent returns who is silent at the time now, by name. It is no finding: see [HeartbeatsSteady] for what the log shows
// afterwards.
func (f *Follower) Silent(now time.Time) []Silence {
	var quiet []Silence
	for _, by := range slices.Sorted(maps.Keys(f.books.pens)) {
		p := f.books.pens[by]
		if p.every > 0 && !p.stopped && now.Sub(p.last) > silence*p.every+ClockSkew {
			quiet = append(quiet, Silence{by, p.boot, p.every, p.last})
		}
	}
	return quiet
}
