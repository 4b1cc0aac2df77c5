package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// ErrNoField says that a session has no such field, or more than one that could be meant: ask for the names that it has.
var ErrNoField = errors.New("audit: a field cannot be told")

// maxPatterns is how many fields can be named at once: each record has at most record.MaxFields.
const maxPatterns = 1024

// A place is one entry of a session with the names of its record's fields. As fields are addressed, it is called by its kind, and
// approvals and erasures, of which there can be several, approval-1, approval-2 and so on.
type place struct {
	index uint64
	name  string
	names []string
}

// A pick is one field of a session: by the index of its entry, and its name.
type pick struct {
	index uint64
	name  string
}

// choose returns the fields of a session that patterns name, and their full names in the order of the log, each once. A pattern is
//
//	request.NAME, response.NAME, refused.NAME, approval-2.NAME     that field of that entry
//	approval.NAME                                                  that field of whichever approval has it, if only one has
//	request.*, request.caller.*, approval.*                        all fields there whose names begin so; at least one
//	NAME                                                           that field of whichever entry has it, if only one has
func choose(session []place, patterns []string) (picked map[pick]bool, full []string, err error) {
	if len(patterns) == 0 || len(patterns) > maxPatterns {
		return nil, nil, fmt.Errorf("%w: name 1 to %d", ErrNoField, maxPatterns)
	}
	picked = make(map[pick]bool)
	for _, pattern := range patterns {
		at, name, wild := within(session, pattern)
		var found []string
		for _, p := range at {
			for _, n := range p.names {
				if n == name || wild && strings.HasPrefix(n, name) {
					found = append(found, p.name+"."+n)
					picked[pick{p.index, n}] = true
				}
			}
		}
		switch {
		case len(found) == 0:
			return nil, nil, fmt.Errorf("%w: the session has no %.80q", ErrNoField, pattern)
		case len(found) > 1 && !wild:
			return nil, nil, fmt.Errorf("%w: %q can be %s", ErrNoField, pattern, strings.Join(found, " or "))
		}
	}
	for _, p := range session {
		for _, n := range p.names {
			if picked[pick{p.index, n}] {
				full = append(full, p.name+"."+n)
			}
		}
	}
	return picked, full, nil
}

// within returns the entries that a pattern is about, and the name in it, or the beginning of names.
func within(session []place, pattern string) (at []place, name string, wild bool) {
	first, rest, dotted := strings.Cut(pattern, ".")
	for _, p := range session {
		if kind, _, _ := strings.Cut(p.name, "-"); dotted && (p.name == first || kind == first) {
			at = append(at, p)
		}
	}
	if len(at) == 0 {
		return session, pattern, false // a short name has no star, so with one it is none
	}
	if name, wild = strings.CutSuffix(rest, "*"); wild && name != "" && !strings.HasSuffix(name, ".") {
		return at, rest, false
	}
	return at, name, wild
}

// look finds the places of a session, which has ended. What was erased has no fields any more.
func (d *Desk) look(ctx context.Context, id record.ID) ([]place, error) {
	session, err := d.whole(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", id, err)
	}
	all := make([]place, 0, len(session))
	n := make(map[record.Kind]int)
	for _, f := range session {
		p := place{index: f.Index, name: string(f.Entry.Kind)}
		if k := f.Entry.Kind; k == record.Approval || k == record.Erasure {
			n[k]++
			p.name += "-" + strconv.Itoa(n[k])
		}
		r, err := d.record(ctx, f.Entry)
		if err != nil && !errors.Is(err, tlog.ErrNotFound) {
			return nil, fmt.Errorf("entry %d: %w", f.Index, err)
		}
		for i := range r {
			p.names = append(p.names, r[i].Name)
		}
		all = append(all, p)
	}
	return all, nil
}

// Fields returns the full names of all fields that a session's records have, as Disclose takes them. Names are content too: that
// they were read is on record first.
func (d *Desk) Fields(ctx context.Context, who Asker, id record.ID) ([]string, error) {
	if err := d.admit(ctx, who, Names, id, ""); err != nil {
		return nil, err
	}
	session, err := d.look(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, p := range session {
		for _, n := range p.names {
			all = append(all, p.name+"."+n)
		}
	}
	return all, nil
}

// Disclose returns a bundle of a session in which those fields are shown and all others withheld. Which fields they are, by their
// full names, is on record before it is handed out, or else what was asked for in vain. Of a session that used the yes which another one
// got, that one is in the bundle too, and nothing of it is shown.
func (d *Desk) Disclose(ctx context.Context, who Asker, id record.ID, fields ...string) ([]byte, error) {
	return d.disclose(ctx, who, id, Disclose, fields, choose)
}

// Unseal returns a bundle in which one field is shown: the original of the field that is named, as a field is in Disclose but without
// stars, still sealed to its recipients (tlog/record/FORMAT.md §3.2). With no name it is the session's only original. That it was
// unsealed is on record first, whoever can then open it.
func (d *Desk) Unseal(ctx context.Context, who Asker, id record.ID, field string) ([]byte, error) {
	return d.disclose(ctx, who, id, Unseal, []string{field}, chooseOriginal)
}

// chooseOriginal chooses one of a session's originals by the name of the field that it is the original of, or the only one there is.
func chooseOriginal(session []place, fields []string) (picked map[pick]bool, full []string, err error) {
	picked = make(map[pick]bool)
	asked := fields[0]
	for _, p := range session {
		kind, _, _ := strings.Cut(p.name, "-")
		for _, n := range p.names {
			of, ok := strings.CutPrefix(n, record.FieldOriginal)
			if ok && (asked == "" || asked == of || asked == kind+"."+of || asked == p.name+"."+of) {
				picked[pick{p.index, n}] = true
				full = append(full, p.name+"."+n)
			}
		}
	}
	switch {
	case len(full) == 0 && asked == "":
		return nil, nil, fmt.Errorf("%w: the session has no sealed originals", ErrNoField)
	case len(full) == 0:
		return nil, nil, fmt.Errorf("%w: the session has no sealed original of %.80q", ErrNoField, asked)
	case len(full) > 1:
		return nil, nil, fmt.Errorf("%w: there are %s; say which of them by its name without %q", ErrNoField, strings.Join(full, " and "), record.FieldOriginal)
	}
	return picked, full, nil
}

// disclose finds a session's fields, has which say what to show, puts that on record, and shows them.
func (d *Desk) disclose(ctx context.Context, who Asker, id record.ID, act Act, fields []string, which func([]place, []string) (map[pick]bool, []string, error)) ([]byte, error) {
	if err := who.may(act); err != nil {
		return nil, err
	}
	session, err := d.look(ctx, id)
	if err != nil {
		return nil, err
	}
	picked, full, err := which(session, fields)
	if err != nil {
		// Whether a field is there is something as well.
		if failed := d.admit(ctx, who, act, id, "in vain", fields[:min(len(fields), maxPatterns)]...); failed != nil {
			return nil, failed
		}
		return nil, err
	}
	if err := d.admit(ctx, who, act, id, "", full...); err != nil {
		return nil, err
	}
	return d.bundle(ctx, who, act, []record.ID{id}, func(index uint64, name string) bool { return picked[pick{index, name}] })
}
