package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// MaxHits is how many hits a page has at most, and UsualHits how many where nobody says.
const (
	MaxHits   = 200
	UsualHits = 50
)

// A Query says which sessions are looked for.
type Query struct {
	Text  string // in the language of [ParseQuery]; "" for all
	After string // Page.Next of the page before; "" for the first
	Most  int    // how many hits, 1 to MaxHits; 0 for UsualHits
}

// A Hit is a session that was found: what an index knows of it.
type Hit struct {
	Session   record.ID     `json:"session"`
	Began     time.Time     `json:"began"`           // of its first entry
	Ended     time.Time     `json:"ended,omitzero"`  // of its last; zero while it is open
	Caller    string        `json:"caller"`          // "" where nobody was known
	Email     string        `json:"email,omitempty"` // if the issuer verified it
	Groups    []string      `json:"groups,omitempty"`
	Route     string        `json:"route"`
	Model     string        `json:"model"`
	Method    string        `json:"method"`
	Target    string        `json:"target"`
	Status    int           `json:"status,omitempty"`     // that the caller was given; 0 while there is none
	Outcome   string        `json:"outcome"`              // one of record's, or "refused", or "open"
	Refusal   string        `json:"refusal,omitempty"`    // why it was refused, a word
	Verdict   string        `json:"verdict,omitempty"`    // of the rules: allow, ask, refuse
	Rule      string        `json:"rule,omitempty"`       // that said so
	Approval  string        `json:"approval,omitempty"`   // the last that was said: "asked", or one of record's reasons; "" where nobody was asked
	DecidedBy []string      `json:"decided_by,omitempty"` // who said it
	In        int64         `json:"tokens_in"`            // -1 where nobody said
	Out       int64         `json:"tokens_out"`           //
	Duration  time.Duration `json:"duration"`             // nanoseconds from the first entry to the last; 0 while it is open
	FirstByte time.Duration `json:"first_byte,omitempty"` // nanoseconds until the answer's first byte; 0 where nobody knows
	Findings  []string      `json:"findings,omitempty"`   // kinds that the masker saw
	Entries   []uint64      `json:"entries"`              // indices of its entries, in order
	// Snippet is a part of its text around what was looked for, with the masks in it; "" where only fields were asked for, or the text
	// cannot be read any more. Marks are where in it, in bytes, from and to, the words are. It is text by a stranger.
	Snippet string   `json:"snippet,omitempty"`
	Marks   [][2]int `json:"marks,omitempty"`
}

// A Page is one answer to a query: the newest sessions first, by where they begin in the log.
type Page struct {
	Hits []Hit  `json:"hits"`
	Next string `json:"next,omitempty"` // Query.After of the page after; "" where there is none
	// Short says that the search stopped for the time it took before the page was full: go on with Next.
	Short   bool          `json:"short,omitempty"`
	Indexed uint64        `json:"indexed"`         // the index has the entries before this one
	Size    uint64        `json:"size"`            // of the log when it was asked; where it is more than Indexed, the newest are not found yet
	Notes   []string      `json:"notes,omitempty"` // what the asker should know of the answer, in words
	Took    time.Duration `json:"took"`            // nanoseconds, without what it took to record that it was asked
}

// An Index finds sessions. Safe for concurrent use.
type Index interface {
	Derived
	// Find returns the newest sessions of which all terms hold, at most that many, that come after a page's Next. It sets Hits without
	// snippets, Next, Short and Indexed.
	Find(ctx context.Context, want Wanted, after string, most int) (Page, error)
	// Snippet cuts, out of a session's text, a few words around what was looked for.
	Snippet(s verify.Session, want Wanted) (text string, marks [][2]int)
	// Rebuild forgets everything, and begins again with the log's first entry.
	Rebuild(ctx context.Context) error
}

// ErrNoIndex says that there is nothing to search in.
var ErrNoIndex = errors.New("audit: there is no index of sessions here; set search: in the configuration, and run `tally reindex`")

// ErrCursor says that a page does not follow from what was given as the one before it: search again from the beginning.
var ErrCursor = errors.New("audit: this is no page's next")

// A Masker puts masks into a text as they stand in records.
type Masker func(text string) string

// searcher is what a desk needs for searching.
type searcher struct {
	index Index // nil for none
	masks []Masker
}

// Indexed has the desk search in an index, which somebody runs. Values are looked for by the masks that each of the maskers makes
// of them: give those of all routes. Call it before the desk is used.
func (d *Desk) Indexed(ix Index, masks ...Masker) { d.index, d.masks = ix, masks }

// Search returns the newest sessions that a query wants. What was asked is on record first, with masks in the place of what the
// maskers find, so that a card's number that is looked for is written down nowhere. Of the hits the records are opened, to show a
// few words around what was found; what was erased is not.
func (d *Desk) Search(ctx context.Context, who Asker, q Query) (Page, error) {
	if err := who.may(Search); err != nil {
		return Page{}, err
	}
	if d.index == nil {
		return Page{}, ErrNoIndex
	}
	if q.Most == 0 {
		q.Most = UsualHits
	}
	if q.Most < 1 || q.Most > MaxHits {
		return Page{}, fmt.Errorf("%w: ask for 1 to %d hits", errRequest, MaxHits)
	}
	want, err := ParseQuery(q.Text, time.Now())
	if err != nil {
		return Page{}, err
	}
	want, notes := want.masked(d.masks)
	detail := all(want.String(), d.masks) // once more: what stands in one term may tell what the next one is
	if q.After != "" {
		detail += " (a further page)"
	}
	size, err := d.size(ctx) // before the search itself is in it
	if err != nil && !errors.Is(err, tlog.ErrNotFound) {
		return Page{}, err
	}
	if err := d.admit(ctx, who, Search, record.ID{}, detail); err != nil {
		return Page{}, err
	}
	from := time.Now()
	p, err := d.index.Find(ctx, want, q.After, q.Most)
	if err != nil {
		return Page{}, fmt.Errorf("search: %w", err)
	}
	p.Size = max(size, p.Indexed)
	p.Notes = append(p.Notes, notes...)
	if want.words() {
		for i := range p.Hits {
			d.snippet(ctx, &p.Hits[i], want)
		}
	}
	p.Took = time.Since(from)
	return p, nil
}

// Reindex has the index forget everything and begin again, which takes its time; that it was wanted is on record first.
func (d *Desk) Reindex(ctx context.Context, who Asker) error {
	if err := who.may(Derive); err != nil {
		return err
	}
	if d.index == nil {
		return ErrNoIndex
	}
	if err := d.admit(ctx, who, Derive, record.ID{}, "an index, again from the beginning"); err != nil {
		return err
	}
	return d.index.Rebuild(ctx)
}

// snippet shows a few words of a hit. What cannot be read shows none: that it was found is what was asked for.
func (d *Desk) snippet(ctx context.Context, h *Hit, want Wanted) {
	s := verify.Session{ID: h.Session}
	for _, index := range h.Entries {
		err := d.scan(ctx, index, index+1, func(index uint64, b []byte) error {
			e, err := record.ParseEntry(b)
			if err != nil || e.Session != h.Session {
				return err
			}
			r, err := d.record(ctx, e)
			if err == nil {
				s.Entries = append(s.Entries, verify.Entry{Index: index, Bytes: b, Fields: verify.Fields(r, func(string) bool { return true })})
			}
			return err
		})
		if err != nil {
			return
		}
	}
	if len(s.Entries) > 0 {
		h.Snippet, h.Marks = d.index.Snippet(s, want)
	}
}

// Size returns how many entries of the log are published: tlog.ErrNotFound where it has no checkpoint yet.
func (d *Desk) Size(ctx context.Context) (uint64, error) { return d.size(ctx) }
