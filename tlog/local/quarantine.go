package local

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/tallystick/tallystick/tlog"
)

// A damageError says that the store contradicts itself, the head file or the anchor: nothing may be signed any more.
type damageError struct {
	reason string
	a, b   []byte // the two statements, as far as there are two
}

func (e *damageError) Error() string { return "tlog/local: " + e.reason }

func damagef(format string, args ...any) error {
	return &damageError{reason: fmt.Sprintf(format, args...)}
}

// judge puts the log in quarantine when err is a contradiction or a damaged store, and returns what to say of it.
func (l *Log) judge(err error) error {
	var d *damageError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		l.quarantine(d)
		return l.Quarantined()
	case pebble.IsCorruptionError(err):
		l.quarantine(&damageError{reason: err.Error()})
		return l.Quarantined()
	}
	return err
}

// Contradict tells the log of two statements about it that no history can have, found by somebody else: it goes into
// quarantine, with both as its evidence.
func (l *Log) Contradict(f *tlog.ForkError) {
	l.quarantine(&damageError{reason: f.Reason, a: f.A, b: f.B})
}

// quarantine stops everything but reading, for good, and writes down why.
func (l *Log) quarantine(d *damageError) {
	if d.a == nil && d.b == nil {
		if p := l.published.Load(); p != nil {
			d = &damageError{reason: d.reason, a: p.signed}
		}
	}
	reason := fmt.Errorf("%w: %w", tlog.ErrQuarantine, &tlog.ForkError{A: d.a, B: d.b, Reason: d.reason})
	l.stop(reason, reason)
	if l.Quarantined() != reason || l.cfg.ReadOnly {
		return
	}
	place, err := l.writeEvidence(d)
	if err != nil {
		l.cfg.Logger.Error("evidence not written", "origin", l.cfg.Origin, "dir", l.cfg.Evidence, "error", err)
		return
	}
	l.cfg.Logger.Error("log in quarantine", "origin", l.cfg.Origin, "reason", d.reason, "evidence", place)
	// From here on a start checks everything first: what was found need not lie among the newest entries.
	if err := writeFile(l.cfg.FS, l.markPath(), []byte(place+"\n")); err != nil {
		l.cfg.Logger.Error("quarantine not marked", "origin", l.cfg.Origin, "error", err)
	}
}

func (l *Log) markPath() string { return l.cfg.FS.PathJoin(l.dir, "QUARANTINE") }

const evidenceText = `The log %s is in quarantine since %s.

What was found:

  %s

The files "a" and "b" beside this one hold the two statements that no single history of the log can have, as they were
found: a is what the log itself says, b what somebody else remembers. Signed or not, keep both and show them to someone.

The log serves reads and signs nothing. Nothing was repaired and nothing shortened. There are two ways out:

  1. Put back the right data: the store (directory "pebble"), the head file, or what the anchor remembered, whichever is
     wrong, from where it can still be had. The next start checks every entry and leaves quarantine if all agree.
     If there is a directory "safety" beside the store, it holds the store's files as they were before the last start.
  2. End this log: never sign under this name again, and start a new log with a new name and a new key whose first entry
     names this one's last checkpoint.

If another process runs on a copy of this directory, stop it first: the anchor has accepted its checkpoint, and it, not
this one, is the log now.
`

// writeEvidence writes both statements and what they mean to a new directory and returns its name.
func (l *Log) writeEvidence(d *damageError) (string, error) {
	fs := l.cfg.FS
	now := time.Now().UTC()
	place := fs.PathJoin(l.cfg.Evidence, now.Format("20060102T150405.000Z"))
	for i := 1; ; i++ {
		taken, err := exists(fs, place)
		if err != nil {
			return "", err
		}
		if !taken {
			break
		}
		place = fs.PathJoin(l.cfg.Evidence, now.Format("20060102T150405.000Z")+"-"+strconv.Itoa(i))
	}
	if err := fs.MkdirAll(place, 0o755); err != nil {
		return "", err
	}
	readme := fmt.Sprintf(evidenceText, l.cfg.Origin, now.Format(time.RFC3339), d.reason)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"README.txt", []byte(readme)}, {"a", d.a}, {"b", d.b}} {
		if f.content == nil {
			continue
		}
		if err := writeFile(fs, fs.PathJoin(place, f.name), f.content); err != nil {
			return "", err
		}
	}
	for _, dir := range []string{l.cfg.Evidence, l.dir} {
		if err := syncDir(fs, dir); err != nil {
			return "", err
		}
	}
	return place, nil
}
