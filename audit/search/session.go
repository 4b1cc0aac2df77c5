package search

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A session is one while its entries come.
type session struct {
	verify.Session
	high int64 // the latest time of all entries up to its first
	doc  doc   // made when the group is written
}

// id is the index of its first entry: newer sessions have greater ones.
func (s *session) id() int64 { return int64(s.Entries[0].Index) }

// A doc is what is indexed of a session.
type doc struct {
	hit   audit.Hit
	text  string // folded words
	terms string // and terms that are none
}

// A group is entries that are written in one transaction.
type group struct {
	ctx        context.Context
	tx         *sql.Tx
	high, skew int64
	of         map[record.ID]*session // that have an entry in it, and were not erased
	erased     []record.ID
}

// see takes the next entry.
func (g *group) see(s *audit.Seen) error {
	at := s.Entry.Time.UnixMicro()
	g.high = max(g.high, at)
	g.skew = max(g.skew, g.high-at)
	id := s.Entry.Session
	switch s.Entry.Kind {
	case record.Request, record.Refused:
		if s.Missing != nil {
			return nil // it was erased, or nobody here can read it
		}
		// One that has begun does not begin again, whoever wrote so; and of one that is gone nothing comes in that was on its way.
		known := g.of[id] != nil
		if !known {
			const there = "SELECT EXISTS(SELECT 1 FROM gone WHERE session = ?1) OR EXISTS(SELECT 1 FROM open WHERE session = ?1) OR EXISTS(SELECT 1 FROM ended WHERE session = ?1)"
			if err := g.tx.QueryRowContext(g.ctx, there, id[:]).Scan(&known); err != nil {
				return err
			}
		}
		if known {
			return nil
		}
		g.of[id] = &session{Session: verify.Session{ID: id}, high: g.high}
	case record.Approval, record.Response:
		if g.of[id] == nil {
			known, err := load(g.ctx, g.tx, id)
			if err != nil || known == nil {
				return err
			}
			g.of[id] = known
		}
	case record.Erasure:
		delete(g.of, id)
		g.erased = append(g.erased, id)
		return nil
	default:
		return nil
	}
	known := g.of[id]
	known.Entries = append(known.Entries, verify.Entry{Index: s.Index, Bytes: s.Bytes, Fields: verify.Fields(s.Record, func(string) bool { return true })})
	return nil
}

// load returns a session that is open, or nil.
func load(ctx context.Context, tx *sql.Tx, id record.ID) (*session, error) {
	var packed []byte
	s := &session{Session: verify.Session{ID: id}}
	err := tx.QueryRowContext(ctx, "SELECT high, entries FROM open WHERE session = ?", id[:]).Scan(&s.high, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil {
		s.Entries, err = parseEntries(packed)
	}
	return s, err
}

// write writes what the group's entries come to.
func (g *group) write() error {
	for _, id := range g.erased {
		if err := forget(g.ctx, g.tx, id); err != nil {
			return err
		}
		// All its entries have been seen: none is on its way any more.
		if _, err := g.tx.ExecContext(g.ctx, "DELETE FROM gone WHERE session = ?", id[:]); err != nil {
			return err
		}
	}
	var all []*session
	for _, s := range g.of {
		all = append(all, s)
	}
	// In order: words are written to the disk whenever an id is smaller than the one before.
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.id(), b.id()) })
	var wg sync.WaitGroup
	n := min(runtime.GOMAXPROCS(0), len(all))
	for i := range n {
		wg.Go(func() {
			for at := i; at < len(all); at += n {
				all[at].doc = docOf(all[at].Session)
			}
		})
	}
	wg.Wait()
	w, err := prepare(g.ctx, g.tx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, s := range all {
		if err := w.put(g.ctx, s); err != nil {
			return fmt.Errorf("session %s: %w", s.ID, err)
		}
	}
	return nil
}

// A writer is the statements that write sessions.
type writer struct {
	words, ended, kept, status, open, opened *sql.Stmt
	statuses                                 map[int]bool
	packer                                   *flate.Writer
}

func prepare(ctx context.Context, tx *sql.Tx) (w *writer, err error) {
	w = &writer{statuses: make(map[int]bool)}
	for _, p := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&w.words, "INSERT INTO words(rowid, text) VALUES(?, ?)"},
		{&w.ended, "INSERT INTO ended VALUES(?, ?, ?, ?, ?, ?, ?)"},
		{&w.kept, "INSERT INTO kept VALUES(?, ?, ?)"},
		{&w.status, "INSERT OR IGNORE INTO statuses VALUES(?)"},
		{&w.open, "INSERT OR REPLACE INTO open VALUES(?, ?, ?, ?, ?, ?, ?, ?)"},
		{&w.opened, "DELETE FROM open WHERE id = ?"},
	} {
		if *p.to, err = tx.PrepareContext(ctx, p.query); err != nil {
			w.close()
			return nil, err
		}
	}
	w.packer, err = flate.NewWriter(nil, flate.BestSpeed)
	return w, err
}

func (w *writer) close() {
	for _, s := range []*sql.Stmt{w.words, w.ended, w.kept, w.status, w.open, w.opened} {
		if s != nil {
			s.Close()
		}
	}
}

// put writes one session, which is not there, or open.
func (w *writer) put(ctx context.Context, s *session) error {
	d := &s.doc
	hit, err := json.Marshal(&d.hit)
	if err != nil {
		return err
	}
	began := d.hit.Began.UnixMicro()
	if d.hit.Ended.IsZero() {
		_, err := w.open.ExecContext(ctx, s.id(), s.ID[:], began, s.high, hit, d.text, d.terms, appendEntries(nil, s.Entries))
		return err
	}
	if _, err := w.opened.ExecContext(ctx, s.id()); err != nil {
		return err
	}
	if _, err := w.words.ExecContext(ctx, s.id(), d.text+d.terms); err != nil {
		return err
	}
	var status, tokens any
	if d.hit.Status > 0 {
		status = d.hit.Status
		if !w.statuses[d.hit.Status] {
			if _, err := w.status.ExecContext(ctx, d.hit.Status); err != nil {
				return err
			}
			w.statuses[d.hit.Status] = true
		}
	}
	if n, ok := tokensOf(&d.hit); ok {
		tokens = n
	}
	if _, err := w.ended.ExecContext(ctx, s.id(), s.ID[:], began, s.high, status, tokens, d.hit.Duration.Microseconds()); err != nil {
		return err
	}
	var b bytes.Buffer
	w.packer.Reset(&b)
	for _, t := range distinct(d.text + d.terms) {
		io.WriteString(w.packer, t)
		w.packer.Write([]byte{' '})
	}
	if err := w.packer.Close(); err != nil {
		return err
	}
	_, err = w.kept.ExecContext(ctx, s.id(), hit, b.Bytes())
	return err
}

func unpack(b []byte) ([]byte, error) {
	out, err := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDrop, err)
	}
	return out, nil
}

// tokensOf returns how many tokens a session took, if anybody said.
func tokensOf(h *audit.Hit) (int64, bool) {
	return max(h.In, 0) + max(h.Out, 0), h.In >= 0 || h.Out >= 0
}

// docOf reads a session.
func docOf(s verify.Session) doc {
	t := transcript.Of(s)
	h := audit.Hit{
		Session: s.ID, Caller: t.Caller.Name, Email: t.Caller.Email, Groups: t.Caller.Groups, Route: t.Route, Model: t.Model,
		Method: t.Request.Method, Target: t.Request.Target, Status: t.Answer.Status, Outcome: string(t.Outcome), Refusal: t.Refused,
		Verdict: t.Verdict, Rule: t.Rule, In: t.Usage.In, Out: t.Usage.Out, FirstByte: max(t.Times.FirstByte(), 0),
	}
	last := len(t.Entries) - 1
	h.Began = t.Entries[0].Time
	switch t.Entries[last].Kind {
	case record.Response:
		h.Ended = t.Entries[last].Time
	case record.Refused:
		h.Ended, h.Outcome = t.Entries[last].Time, "refused"
	default:
		h.Outcome = "open"
	}
	if !h.Ended.IsZero() {
		h.Duration = h.Ended.Sub(h.Began)
	}
	for _, e := range t.Entries {
		h.Entries = append(h.Entries, e.Index)
		if e.Kind == record.Approval {
			h.Approval = cmp.Or(e.Reason, "asked")
		}
	}
	for _, f := range t.Findings {
		if !slices.Contains(h.Findings, f.Kind) {
			h.Findings = append(h.Findings, f.Kind)
		}
	}
	slices.Sort(h.Findings)
	if t.Approval != nil {
		for _, w := range t.Approval.Words {
			if w.Actor != "" && !slices.Contains(h.DecidedBy, w.Actor) {
				h.DecidedBy = append(h.DecidedBy, w.Actor)
			}
		}
	}
	return doc{hit: h, text: string(fold(nil, textOf(t))), terms: string(termsOf(nil, &h))}
}

// textOf is what can be found by its words.
func textOf(t *transcript.Transcript) string {
	text := t.Text()
	if t.Approval != nil {
		for _, w := range t.Approval.Words {
			text += "\n" + w.Reason
		}
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}

// termsOf appends the terms that are no words.
func termsOf(dst []byte, h *audit.Hit) []byte {
	one := func(k kind, value string) {
		if value != "" {
			dst = term(dst, k, value, false)
		}
	}
	dst = term(dst, every, "", false)
	one(caller, h.Caller)
	if !strings.EqualFold(h.Email, h.Caller) {
		one(caller, h.Email)
	}
	for _, g := range h.Groups {
		one(grouped, g)
	}
	one(model, h.Model)
	one(route, h.Route)
	one(outcome, h.Outcome)
	one(outcome, h.Refusal)
	one(rule, h.Rule)
	one(verdict, h.Verdict)
	one(approval, cmp.Or(h.Approval, "none"))
	for _, a := range h.DecidedBy {
		one(approval, a)
	}
	for _, f := range h.Findings {
		one(finding, f)
	}
	if h.Status > 0 {
		one(status, strconv.Itoa(h.Status))
	}
	if n, ok := tokensOf(h); ok {
		dst = climb(dst, tokens, n)
	}
	if !h.Ended.IsZero() {
		dst = climb(dst, duration, h.Duration.Microseconds())
	}
	return dst
}

// appendEntries writes entries with their records, for a session that is open.
func appendEntries(dst []byte, entries []verify.Entry) []byte {
	for _, e := range entries {
		dst = binary.AppendUvarint(dst, e.Index)
		dst = binary.AppendUvarint(dst, uint64(len(e.Bytes)))
		dst = append(dst, e.Bytes...)
		var r record.Record
		for _, f := range e.Fields {
			r = append(r, *f.Shown)
		}
		var b []byte
		if len(r) > 0 {
			b, _ = r.Append(nil) // it was read from such bytes
		}
		dst = binary.AppendUvarint(dst, uint64(len(b)))
		dst = append(dst, b...)
	}
	return dst
}

func parseEntries(b []byte) (entries []verify.Entry, err error) {
	bad := fmt.Errorf("%w: a session cannot be read", errDrop)
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			err, b = bad, nil
			return 0
		}
		b = b[size:]
		return n
	}
	part := func() []byte {
		n := number()
		if n > uint64(len(b)) {
			err, b = bad, nil
			return nil
		}
		out := b[:n:n]
		b = b[n:]
		return out
	}
	for len(b) > 0 {
		e := verify.Entry{Index: number(), Bytes: part()}
		if plain := part(); len(plain) > 0 && err == nil {
			r, perr := record.ParseRecord(plain)
			if perr != nil {
				return nil, fmt.Errorf("%w: %w", bad, perr)
			}
			e.Fields = verify.Fields(r, func(string) bool { return true })
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil, bad
	}
	return entries, nil
}
