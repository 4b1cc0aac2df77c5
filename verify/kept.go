package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/tlog"
)

// A Kept is a checkpoint that somebody kept, elsewhere than with the log that signed it.
type Kept struct {
	Name   string // where it comes from, for people: the name of a file, an address
	Signed []byte // as the log signed it, with the cosignatures of witnesses
}

// kept are the checkpoints that were brought along, and what comes of holding the log against them. The log's own
// signature makes one binding. What its cosignatures add is when others saw it; whoever has the log's key can sign whatever
// he likes, but not that somebody had seen it before.
type kept struct {
	rest   []keptOne // by size, those that are larger than what was read so far
	held   int
	agreed uint64 // the largest size at which the log was found to be what it was
	broken bool   // and there was one, further on, at which it was not
	unused listed[string]
	forks  []tlog.ForkError
	// Those that need the entries to tell that they contradict each other. Until these are known to be what the second of
	// each has signed, whoever serves them could accuse the log.
	unproven []tlog.ForkError
}

type keptOne struct {
	Kept
	witnessed
	quorum bool // witnesses cosigned it, as many as the policy asks for
}

// fork keeps two checkpoints that no history can have: c, which was signed, and the one that is read.
func (a *audit) fork(c tlog.Checkpoint, signed []byte, reason string) {
	forks := &a.kept.forks
	if c.Size < a.head.Size || c.Root == a.head.Root {
		forks = &a.kept.unproven
	}
	if len(*forks) < maxListed {
		*forks = append(*forks, tlog.ForkError{A: signed, B: a.signed, Reason: reason})
	}
}

// proven is called when the entries were found to be what the checkpoint that is read has signed.
func (k *kept) proven() {
	k.forks = append(k.unproven, k.forks...)
	k.forks, k.unproven = k.forks[:min(len(k.forks), maxListed)], nil
}

// sort takes those among the checkpoints that were brought along that are this log's word.
func (a *audit) sort(brought []Kept) {
	k := &a.kept
	for _, b := range brought {
		w, signedErr, cosignedErr := a.judge.judge(b.Signed)
		switch {
		case signedErr != nil:
			k.unused.add(fmt.Sprintf("anything by the checkpoint %s: %v", b.Name, signedErr))
		case w.Origin != a.head.Origin:
			k.unused.add(fmt.Sprintf("anything by the checkpoint %s: it is of another log, %s", b.Name, w.Origin))
		case w.Size < a.from:
			k.unused.add(fmt.Sprintf("anything by the checkpoint %s: it is of size %d, and the log was read up to %d before", b.Name, w.Size, a.from))
		default:
			k.rest = append(k.rest, keptOne{b, w, cosignedErr == nil && len(w.cosigs) > 0})
		}
	}
	slices.SortStableFunc(k.rest, func(a, b keptOne) int { return cmp.Compare(a.Size, b.Size) })
	k.held = len(k.rest)
}

// who says whose word a checkpoint is, besides the log's.
func (k *keptOne) who() string {
	if len(k.cosigs) == 0 {
		return "signed it"
	}
	var names []string
	for _, s := range k.cosigs {
		names = append(names, fmt.Sprintf("%s saw it at %s", s.Name, stamp(s.At())))
	}
	return "signed it, and " + strings.Join(names, ", ")
}

func (k *keptOne) subject() string { return fmt.Sprintf("checkpoint of size %d (%s)", k.Size, k.Name) }

// honour holds the tree of exactly this size against what was brought along. leaves are those of the last tile, up to the
// size.
func (a *audit) honour(size uint64, leaves []tlog.Hash) {
	k := &a.kept
	for len(k.rest) > 0 && k.rest[0].Size == size {
		c := &k.rest[0]
		k.rest = k.rest[1:]
		if root := a.tree.root(leaves); root != c.Root {
			k.broken = true
			a.wrong.add(CheckpointsHonoured, c.subject(), "the log %s: the root %s. Its entries now hash to %s: among entries %d to %d something was changed, removed, added or moved", c.who(), c.Root, root, k.agreed, size-1)
			a.fork(c.Checkpoint, c.Signed, fmt.Sprintf("the first %d entries hashed to the first's root, and those that are now shown under the second hash to %s", size, root))
			continue
		}
		if !k.broken {
			k.agreed = size
		}
		if c.quorum {
			a.clock.seen(a.wrong, c.witnessed)
		}
	}
}

// beyond sees to the checkpoints that are larger than the log as it is shown.
func (a *audit) beyond() {
	for i := range a.kept.rest {
		c := &a.kept.rest[i]
		a.wrong.add(CheckpointsHonoured, c.subject(), "the log %s: it had %d entries, and now shows %d: it was cut back, or what is shown is an older state of it", c.who(), c.Size, a.head.Size)
		a.fork(c.Checkpoint, c.Signed, fmt.Sprintf("the log had %d entries under the first and shows %d under the second", c.Size, a.head.Size))
	}
	a.kept.rest = nil
}
