package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// A view is another place that shows what it knows of the log: a witness or a peer.
type view struct {
	name   string // its URL
	peer   bool   // it shows one log, and not every one that it knows
	reader tlog.Reader
	agreed []byte // what it showed last that was found to be a part of the log
}

// A verdict is how one checkpoint of a log stands to a larger one, by the tiles that are served.
type verdict int

const (
	unproven    verdict = iota // the tiles are not those of the larger one
	continues                  // the larger tree continues the smaller one
	contradicts                // it has another root over as many entries
)

// reconcile says how small stands to large. Where they contradict each other and have not the same size, it returns the root
// that large's tree has over small's entries, and the proof of that. An error says that tiles could not be read.
func reconcile(ctx context.Context, r tlog.Reader, small, large tlog.Checkpoint) (verdict, *tlog.Hash, tlog.Proof, error) {
	switch {
	case small.Size == large.Size && small.Root != large.Root:
		return contradicts, nil, nil, nil
	case small.Size == large.Size, small.Size == 0: // the root of no entries is always the same
		return continues, nil, nil, nil
	}
	ts := tlog.Tiles{Reader: r, Size: large.Size}
	proof, err := ts.Consistency(ctx, small.Size)
	if err != nil {
		return unproven, nil, nil, err
	}
	if tlog.VerifyConsistency(small.Size, large.Size, small.Root, large.Root, proof) == nil {
		return continues, nil, nil, nil
	}
	root, err := ts.Root(ctx, small.Size)
	if err != nil {
		return unproven, nil, nil, err
	}
	if root != small.Root && tlog.VerifyConsistency(small.Size, large.Size, root, large.Root, proof) == nil {
		return contradicts, &root, proof, nil
	}
	return unproven, nil, nil, nil
}

// others holds what other places show of the log, and what it showed itself and was not followed, against what is
// remembered of it.
func (w *watch) others(ctx context.Context, now *shown) error {
	if w.follower == nil {
		return nil
	}
	if i, waits := w.ahead(w.url); waits {
		signed := []byte(w.state.Ahead[i].Signed)
		_, head := w.follower.Checkpoint()
		// In between, it shows what is not followed, and that is told as such.
		if c, err := tlog.UnverifiedCheckpoint(signed); err != nil || c.Size <= head.Size || c.Size > now.Size {
			if err := w.other(ctx, &view{name: w.url}, signed); err != nil {
				return err
			}
		}
	}
	for _, v := range w.views {
		signed, err := v.reader.Checkpoint(ctx)
		switch {
		case errors.Is(err, tlog.ErrNotFound): // it has seen nothing of this log
			w.well(ViewAway, v.name, "")
			if _, knew := slices.BinarySearch(w.state.Showed, v.name); knew {
				w.ail(Event{Kind: ViewForgot, Level: Alert, From: v.name, Reason: "it showed this log, and now says that it has seen nothing of it: it forgot what it had seen, and would cosign another history, or answers for another"}, w.m.c.Patience)
			}
		case err != nil:
			w.ail(Event{Kind: ViewAway, Level: Alert, From: v.name, Reason: err.Error()}, w.m.c.Patience)
		default:
			w.well(ViewAway, v.name, "")
			w.well(ViewForgot, v.name, "")
		}
		if ctx.Err() != nil {
			return unreadable(ctx.Err())
		}
		// What it showed earlier and the log had not come to then is first.
		if i, waits := w.ahead(v.name); waits {
			if err := w.other(ctx, v, []byte(w.state.Ahead[i].Signed)); err != nil {
				return err
			}
		}
		if err != nil {
			continue
		}
		if err := w.other(ctx, v, signed); err != nil {
			return err
		}
	}
	return nil
}

// ahead finds what is remembered of a view that the log has not come to yet.
func (w *watch) ahead(name string) (int, bool) {
	return slices.BinarySearchFunc(w.state.Ahead, name, func(a ahead, name string) int { return strings.Compare(a.From, name) })
}

// other holds one checkpoint that a view shows against the log.
func (w *watch) other(ctx context.Context, v *view, signed []byte) error {
	c, err := w.judge(signed)
	if err == nil && c.Origin != w.origin {
		if v.peer {
			return nil // another log's peer
		}
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	if err != nil {
		w.ail(Event{Kind: ViewUnsaid, Level: Alert, From: v.name, Reason: "what it shows is not this log's word: " + err.Error()}, 0)
		return nil
	}
	w.well(ViewUnsaid, v.name, "")
	if i, knew := slices.BinarySearch(w.state.Showed, v.name); !knew {
		w.state.Showed = slices.Insert(w.state.Showed, i, v.name)
		if err := w.save(); err != nil {
			return err
		}
	}
	if bytes.Equal(signed, v.agreed) {
		return nil
	}
	shown := v.name + " was shown"
	if v.name == w.url {
		shown = "the log itself has shown"
	}
	own, head := w.follower.Checkpoint()
	i, waits := w.ahead(v.name)
	if c.Size > head.Size {
		if !waits {
			w.state.Ahead = slices.Insert(w.state.Ahead, i, ahead{v.name, time.Now().UTC().Truncate(time.Millisecond), string(signed)})
			return w.save()
		}
		if a := w.state.Ahead[i]; time.Since(a.Since) >= w.m.c.Patience {
			w.ail(Event{Kind: Behind, Level: Alert, From: v.name, Reason: fmt.Sprintf("%s %d entries by %s, and the log now shows %d: it holds them back, or was put back", shown, c.Size, a.Since.Format(time.RFC3339), head.Size)}.was(head).is(c.Checkpoint), 0)
		}
		return nil
	}
	verdict, prefix, proof, err := reconcile(ctx, w.reader, c.Checkpoint, head)
	if err != nil {
		return unreadable(err)
	}
	switch verdict {
	case contradicts:
		e := Event{Kind: SplitView, Level: Finding, From: v.name, Reason: fmt.Sprintf("%s a tree of %d entries that is no part of the %d that are followed", shown, c.Size, head.Size)}
		return w.contradict(e.was(c.Checkpoint).is(head), contradiction{a: signed, b: own, prefix: prefix, proof: proof})
	case unproven:
		w.ail(Event{Kind: Tampered, Level: Finding, From: v.name, Reason: "the tiles that are served do not hash to the root that the log signed, so that what was shown elsewhere cannot be compared"}.is(head), 0)
		return nil
	}
	w.well(SplitView, v.name, "")
	w.well(Tampered, v.name, "")
	w.well(Behind, v.name, "")
	v.agreed = signed
	if waits && w.state.Ahead[i].Signed == string(signed) {
		w.state.Ahead = slices.Delete(w.state.Ahead, i, i+1)
		return w.save()
	}
	return nil
}
