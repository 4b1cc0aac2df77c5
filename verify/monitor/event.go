package monitor

import (
	"fmt"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/verify"
)

// A Kind is what an event is. The words are part of what the command prints, and are not changed.
type Kind string

// What happens in the ordinary course.
const (
	Following Kind = "following" // a log is followed from here: what is remembered of it, or nothing
	Reading   Kind = "reading"   // a long reading goes on
	Grown     Kind = "grown"     // the log has grown, and all that is new was read, judged and remembered
	Over      Kind = "over"      // an alert, or a finding that lasted, is over
	Stopped   Kind = "stopped"   // the log is followed no more; what has come of it
)

// What somebody should look at. None of these accuses the log.
const (
	Unreachable Kind = "unreachable"   // it could not be read, for longer than the patience
	Unsigned    Kind = "unsigned"      // what is served as its checkpoint is signed by no log of the policy
	AnotherLog  Kind = "another-log"   // its address shows another log than before
	Uncosigned  Kind = "uncosigned"    // too few witnesses cosigned it, for longer than the patience
	Stale       Kind = "stale"         // its newest cosignature, or growth, is too old
	Silent      Kind = "silent"        // a writer should have beaten by now
	Behind      Kind = "behind"        // a witness or peer has a larger tree, for longer than the patience
	ViewAway    Kind = "view-away"     // a witness or peer could not be read, for longer than the patience
	ViewForgot  Kind = "view-forgot"   // a witness or peer that showed the log shows nothing of it, for longer than the patience
	ViewUnsaid  Kind = "view-unsigned" // what a witness or peer shows is not the log's word
	Untold      Kind = "untold"        // the webhook could not be told of an event
)

// What was read and is false.
const (
	False     Kind = "false"      // a claim of the audit does not hold
	Tampered  Kind = "tampered"   // what is served is not what the log signed, though the log has what it signed
	Fork      Kind = "fork"       // two checkpoints that no history can have
	Unproven  Kind = "unproven"   // the log signed a checkpoint and shows nothing under it that continues the one before
	Rollback  Kind = "rollback"   // it shows less than it did
	SplitView Kind = "split-view" // a witness or peer was shown another tree
)

// A Level is how much an event matters.
type Level string

const (
	Note    Level = "note"
	Alert   Level = "alert"
	Finding Level = "finding"
)

// An Event is what a monitor tells. Its JSON is what the webhook is sent and what the command prints with --json.
type Event struct {
	Time  time.Time `json:"time"`
	Kind  Kind      `json:"kind"`
	Level Level     `json:"level"`
	Log   string    `json:"log,omitempty"` // its origin, once it is known
	URL   string    `json:"url"`
	From  string    `json:"from,omitempty"` // the witness or peer that it is about

	// Of the checkpoint that is remembered, and of the one that this is about, where there are such.
	OldSize *uint64    `json:"old_size,omitempty"`
	OldRoot *tlog.Hash `json:"old_root,omitempty"`
	Size    *uint64    `json:"size,omitempty"`
	Root    *tlog.Hash `json:"root,omitempty"`

	Claim    verify.Claim `json:"claim,omitempty"` // the one that is false
	Subject  string       `json:"subject,omitempty"`
	Reason   string       `json:"reason"`             // for people; may quote what was read, so escape it before it is shown
	Evidence []string     `json:"evidence,omitempty"` // files
}

// was and is put a checkpoint into an event.
func (e Event) was(c tlog.Checkpoint) Event {
	e.OldSize, e.OldRoot = &c.Size, &c.Root
	return e
}

func (e Event) is(c tlog.Checkpoint) Event {
	e.Size, e.Root = &c.Size, &c.Root
	return e
}

// A trouble is an alert or finding that lasts.
type trouble struct {
	since time.Time
	last  Event
	told  bool
}

// ail says that something is not as it should be. It is told once it has lasted for the patience, and not again until it is
// over. It says whether it is told now.
func (w *watch) ail(e Event, patience time.Duration) bool {
	key := string(e.Kind) + " " + e.From + " " + e.Subject
	t := w.troubles[key]
	if t == nil {
		t = &trouble{since: time.Now()}
		w.troubles[key] = t
	}
	if w.m.c.Once && (e.Kind == Unsigned || e.Kind == AnotherLog || e.Kind == Uncosigned || e.Kind == Stale) {
		e.Level = Finding // nobody waits for it to pass
	}
	t.last = e
	if t.told || !w.m.c.Once && time.Since(t.since) < patience {
		return false
	}
	t.told = true
	w.tell(e)
	return true
}

// ailing says whether that is known already.
func (w *watch) ailing(k Kind, from, subject string) bool {
	t := w.troubles[string(k)+" "+from+" "+subject]
	return t != nil && t.told
}

// well says that it is as it should be.
func (w *watch) well(k Kind, from, subject string) {
	key := string(k) + " " + from + " " + subject
	t := w.troubles[key]
	if t == nil {
		return
	}
	delete(w.troubles, key)
	if t.told {
		w.tell(Event{Kind: Over, Level: Note, From: from, Subject: subject, Reason: fmt.Sprintf("%s for %s: %s", k, time.Since(t.since).Round(time.Second), t.last.Reason)})
	}
}

func (w *watch) tell(e Event) {
	e.URL, e.Log = w.url, w.origin
	w.m.tell(e)
}
