package search

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	// stretch is how many entries of the log a slow search goes through before anybody looks at the clock: first, and then more or
	// fewer, by how long that took.
	stretch = 1 << 16
	// patience is how long a search goes on that has not filled its page: after it, another stretch is not begun, nor one that would
	// end, if it took as long as the one before, after half as much again.
	patience = 600 * time.Millisecond
)

// Find returns the newest sessions of which all terms hold; see [audit.Index].
func (ix *Index) Find(ctx context.Context, want audit.Wanted, after string, most int) (p audit.Page, err error) {
	err = ix.read(ctx, "search", func(s *store) error {
		p, err = s.find(ctx, want, after, most, patience)
		return err
	})
	return p, err
}

// read reads the store of now. One that turns out to be damaged is made again; verb is what its reader does once more then.
func (ix *Index) read(ctx context.Context, verb string, do func(*store) error) error {
	ix.life.RLock()
	s := ix.s
	err := do(s)
	ix.life.RUnlock()
	if useless(err) {
		err = errors.Join(fmt.Errorf("the index was damaged, and is made again; %s again in a while: %w", verb, err), ix.drop(context.WithoutCancel(ctx), s, err))
	}
	return err
}

// look begins a reading, all of which sees the same index: one of the entries before next. Roll it back when it is done.
func (s *store) look(ctx context.Context) (tx *sql.Tx, next int64, err error) {
	if tx, err = s.r.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); err != nil {
		return nil, 0, err
	}
	if err := tx.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'next'").Scan(&next); err != nil {
		tx.Rollback()
		return nil, 0, err
	}
	return tx, next, nil
}

func (s *store) find(ctx context.Context, want audit.Wanted, after string, most int, patience time.Duration) (p audit.Page, err error) {
	begun := time.Now()
	p.Hits = []audit.Hit{}
	tx, next, err := s.look(ctx)
	if err != nil {
		return p, err
	}
	defer tx.Rollback()
	p.Indexed = uint64(next)
	pl, err := newPlan(ctx, tx, want, next)
	if err != nil {
		return p, err
	}
	top := pl.to
	if after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		if err != nil || n < 0 || after != strconv.FormatInt(n, 10) {
			return p, audit.ErrCursor
		}
		top = min(top, n-1)
	}
	for span := int64(stretch); top >= pl.from; {
		at, low := time.Now(), pl.from
		if pl.slow {
			low = max(low, top-span+1)
		}
		hits, err := pl.stretch(ctx, tx, low, top, most+1-len(p.Hits))
		if err != nil {
			return p, err
		}
		if p.Hits = append(p.Hits, hits...); len(p.Hits) > most {
			p.Hits = p.Hits[:most]
			p.Next = strconv.FormatUint(p.Hits[most-1].Entries[0], 10)
			break
		}
		// A stretch without a hit can be read to the index's end, and the next one would be again.
		if top = low - 1; top >= pl.from && (time.Since(begun) > patience || time.Since(begun)+time.Since(at) > patience*3/2) {
			p.Short, p.Next = true, strconv.FormatInt(low, 10)
			break
		}
		switch took := time.Since(at); {
		case took < patience/30:
			span *= 4
		case took < patience/10:
			span *= 2
		case took > patience/5:
			span = max(span/2, 1<<10)
		}
	}
	return p, nil
}

// A plan is how sessions are found of which all terms hold.
type plan struct {
	want     audit.Wanted
	match    string   // of those that have ended, what their words and terms must match
	where    []string // and what more must hold of them
	args     []any
	from, to int64 // among which ids
	// slow says that a phrase is looked for: of the words in it all places are read, and frequent ones have many. What is not slow is
	// looked for in one go, as to begin costs something, too; most of all where words are looked for by how they begin, which are
	// brought together first.
	slow bool
}

// newPlan makes a plan. Nothing of what somebody asked for becomes a part of a statement, but as a parameter; in the expression
// to match stand folded words, which are letters and digits, and terms, which are made here.
func newPlan(ctx context.Context, tx *sql.Tx, want audit.Wanted, next int64) (*plan, error) {
	p := &plan{want: want, to: next - 1}
	var yes, no []string
	for i := range want {
		t := &want[i]
		var any []string // of these expressions one must match
		switch t.Field {
		case audit.ByStatus:
			rows, err := tx.QueryContext(ctx, "SELECT status FROM statuses WHERE status BETWEEN ? AND ?", t.From, t.To)
			if err != nil {
				return nil, err
			}
			for rows.Next() {
				var n int
				if err := rows.Scan(&n); err != nil {
					return nil, errors.Join(err, rows.Close())
				}
				any = append(any, quote(term(nil, status, strconv.Itoa(n), false)))
			}
			if err := rows.Err(); err != nil {
				return nil, err
			}
		case audit.ByTokens:
			any = p.number(t, tokens, "e.tokens")
		case audit.ByDuration:
			any = p.number(t, duration, "e.duration")
		case audit.ByTime:
			if err := p.time(ctx, tx, t); err != nil {
				return nil, err
			}
			continue
		case audit.BySession:
			id, err := record.ParseID(t.Any[0])
			if err != nil {
				return nil, err
			}
			var row int64 = -1
			err = tx.QueryRowContext(ctx, "SELECT id FROM ended WHERE session = ?1 UNION ALL SELECT id FROM open WHERE session = ?1", id[:]).Scan(&row)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return nil, err
			}
			if t.Not {
				p.where, p.args = append(p.where, "e.id <> ?"), append(p.args, row)
			} else {
				p.from, p.to = max(p.from, row, 0), min(p.to, row)
			}
			continue
		default:
			any = expressions(t)
			p.slow = p.slow || slices.ContainsFunc(any, func(e string) bool { return strings.Contains(e, " ") && !t.Prefix })
		}
		switch {
		case t.Not:
			no = append(no, any...)
		case len(any) == 0:
			p.to = -1 // it holds of none
		case len(any) == 1:
			yes = append(yes, any[0])
		default:
			yes = append(yes, "("+strings.Join(any, " OR ")+")")
		}
	}
	if yes == nil {
		yes = []string{quote(term(nil, every, "", false))}
	}
	if p.match = strings.Join(yes, " AND "); no != nil {
		p.match = "(" + p.match + ") NOT (" + strings.Join(no, " OR ") + ")"
	}
	return p, nil
}

// quote makes a phrase of folded words, each of which has a blank before it.
func quote(words []byte) string {
	return `"` + string(words[1:]) + `"`
}

// expressions returns what a term matches that is about words.
func expressions(t *audit.Term) (any []string) {
	for _, words := range phrases(t) {
		e := quote(words)
		if t.Prefix {
			e += " *"
		}
		any = append(any, e)
	}
	return any
}

// phrases returns the folded words of a term, of which some must stand in a row.
func phrases(t *audit.Term) (any [][]byte) {
	for _, text := range t.Any {
		var words []byte
		if k, ok := kinds[t.Field]; ok {
			words = term(nil, k, text, t.Prefix)
		} else if words = fold(nil, text); len(words) == 0 {
			continue
		}
		any = append(any, words)
	}
	return any
}

// kinds are what stands as a term.
var kinds = map[string]kind{
	audit.ByCaller: caller, audit.ByGroup: grouped, audit.ByModel: model, audit.ByRoute: route, audit.ByOutcome: outcome,
	audit.ByRule: rule, audit.ByVerdict: verdict, audit.ByApproval: approval, audit.ByFinding: finding,
}

// number plans a term about a number.
func (p *plan) number(t *audit.Term, k kind, column string) []string {
	cond, from, to := column+" BETWEEN ? AND ?", step(t.From), step(t.To)
	if t.Not {
		cond = "NOT coalesce(" + cond + ", 0)"
		// Of the steps at the ends some may be in and some not.
		from, to = from+1, to-1
		if t.From <= 0 {
			from = 0
		}
		if t.To == math.MaxInt64 {
			to++
		}
	}
	p.where, p.args = append(p.where, cond), append(p.args, t.From, t.To)
	if t.To < 0 || from > to || to > step(math.MaxInt64) {
		return nil
	}
	var any []string
	for _, c := range cover(k, from, to) {
		any = append(any, `"`+c+`"`)
	}
	return any
}

// time plans a term about when a session began. Times rise with ids, but for how far the clocks of writers lie apart.
func (p *plan) time(ctx context.Context, tx *sql.Tx, t *audit.Term) error {
	const cond = "e.began BETWEEN ? AND ?"
	p.args = append(p.args, t.From, t.To)
	if t.Not {
		p.where = append(p.where, "NOT "+cond)
		return nil
	}
	p.where = append(p.where, cond)
	var skew int64
	if err := tx.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'skew'").Scan(&skew); err != nil {
		return err
	}
	if t.From > math.MinInt64 {
		n, err := p.firstPast(ctx, tx, t.From-1)
		if err != nil {
			return err
		}
		p.from = max(p.from, n)
	}
	if t.To < math.MaxInt64-skew {
		n, err := p.firstPast(ctx, tx, t.To+skew)
		if err != nil {
			return err
		}
		p.to = min(p.to, n-1)
	}
	return nil
}

// firstPast returns an id from which on all sessions have a high that is past a time, and before which none has.
func (p *plan) firstPast(ctx context.Context, tx *sql.Tx, at int64) (int64, error) {
	q, err := tx.PrepareContext(ctx, "SELECT high FROM (SELECT id, high FROM (SELECT id, high FROM ended WHERE id >= ?1 ORDER BY id LIMIT 1) UNION ALL SELECT id, high FROM (SELECT id, high FROM open WHERE id >= ?1 ORDER BY id LIMIT 1)) ORDER BY id LIMIT 1")
	if err != nil {
		return 0, err
	}
	defer q.Close()
	low, high := int64(0), p.to+1
	for low < high {
		mid := low + (high-low)/2
		var h int64
		err := q.QueryRowContext(ctx, mid).Scan(&h)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		if err != nil || h > at {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low, nil
}

// stretch returns the newest hits among some ids, at most that many.
func (p *plan) stretch(ctx context.Context, tx *sql.Tx, low, top int64, most int) ([]audit.Hit, error) {
	query := "SELECT w.rowid FROM words w"
	if p.where != nil {
		query += " CROSS JOIN ended e ON e.id = w.rowid"
	}
	query += " WHERE w.words MATCH ? AND w.rowid BETWEEN ? AND ?"
	for _, c := range p.where {
		query += " AND " + c
	}
	query += " ORDER BY w.rowid DESC LIMIT ?"
	rows, err := tx.QueryContext(ctx, query, append(append([]any{p.match, low, top}, p.args...), most)...)
	if err != nil {
		return nil, err
	}
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	hits, err := p.open(ctx, tx, low, top, most)
	if err != nil {
		return nil, err
	}
	q, err := tx.PrepareContext(ctx, "SELECT hit FROM kept WHERE id = ?")
	if err != nil {
		return nil, err
	}
	defer q.Close()
	for _, id := range ids {
		var b []byte
		if err := q.QueryRowContext(ctx, id).Scan(&b); err != nil {
			return nil, err
		}
		var h audit.Hit
		if err := json.Unmarshal(b, &h); err != nil {
			return nil, fmt.Errorf("%w: %w", errDrop, err)
		}
		hits = append(hits, h)
	}
	slices.SortFunc(hits, func(a, b audit.Hit) int { return int(int64(b.Entries[0]) - int64(a.Entries[0])) })
	return hits[:min(len(hits), most)], nil
}

// open returns the newest hits among sessions that have not ended. There are few, and they are looked at one by one.
func (p *plan) open(ctx context.Context, tx *sql.Tx, low, top int64, most int) (hits []audit.Hit, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT hit, text, terms FROM open WHERE id BETWEEN ? AND ? ORDER BY id DESC", low, top)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for len(hits) < most && rows.Next() {
		var hit []byte
		var d doc
		if err := rows.Scan(&hit, &d.text, &d.terms); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(hit, &d.hit); err != nil {
			return nil, fmt.Errorf("%w: %w", errDrop, err)
		}
		if d.hold(p.want) {
			hits = append(hits, d.hit)
		}
	}
	return hits, rows.Err()
}

// hold says whether all terms hold of a session.
func (d *doc) hold(want audit.Wanted) bool {
	for i := range want {
		if d.holds(&want[i]) == want[i].Not {
			return false
		}
	}
	return true
}

// holds says whether a term holds, its Not left out.
func (d *doc) holds(t *audit.Term) bool {
	in := func(n int64, known bool) bool { return known && t.From <= n && n <= t.To }
	h := &d.hit
	switch t.Field {
	case audit.ByStatus:
		return in(int64(h.Status), h.Status > 0)
	case audit.ByTokens:
		return in(tokensOf(h))
	case audit.ByDuration:
		return in(h.Duration.Microseconds(), !h.Ended.IsZero())
	case audit.ByTime:
		return in(h.Began.UnixMicro(), true)
	case audit.BySession:
		return h.Session.String() == t.Any[0]
	}
	text := d.text
	if t.Field != audit.ByText {
		text = d.terms
	}
	for _, words := range phrases(t) {
		if strings.Contains(text+" ", string(words)+" ") || t.Prefix && strings.Contains(text, string(words)) {
			return true
		}
	}
	return false
}
