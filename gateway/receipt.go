package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A caller keeps receipts of its sessions (verify/RECEIPT.md):
//
//	GET /.tallystick/receipts/SESSION              the receipt
//	GET /.tallystick/receipts/SESSION.tlog-proof   the proof of the session's last entry alone, c2sp.org/tlog-proof
//
// It shows what it shows at a call. A session of another caller and one that nobody had are the same 404.
//
// In strict and overlap a receipt is there when the caller has the end of its answer: at first with a promise, signed with
// a key that lives as long as the boot, and as soon as a checkpoint covers its entries with the proof. In open an answer
// may be ahead of its record: then 409, and 404 where the record was lost. Retry-After says that there is more to come.
//
// A receipt shows nothing that the caller did not send or get, and what it needs to show that again to others; so that
// it was asked for is not on record. What was given cannot be erased: who has a body and its salt can show it for ever.
const (
	receiptsPrefix = ownPrefix + "receipts/"
	proofSuffix    = ".tlog-proof"
)

const (
	recentSessions = 4096             // how many sessions are found without a search
	receiptsAtOnce = 4                // how many are made at a time, each of which may have to open bodies of the largest size
	searchesAtOnce = 2                // and how many look for their session in the log meanwhile, of one caller one
	searchEntries  = 1 << 18          // how many entries a search looks at behind the session's beginning
	receiptWait    = 5 * time.Second  // how long one waits for its turn
	receiptTime    = 30 * time.Second // how long one may take
	shownBytes     = 16 << 10         // the longest value of a field that is shown
)

// callersOwn are the fields of a record of which a caller gets the value. Where the call was sent, from where it seemed to
// come, and what the model said in headers that were not passed on is not its business.
var callersOwn = []string{
	record.FieldSession, record.FieldCaller, record.FieldRoute, record.FieldModel, record.FieldMethod, record.FieldTarget,
	record.FieldStatus, record.FieldTimes, record.FieldFinish, record.FieldExact,
}

// A recentSession is one that has ended, or is about to.
type recentSession struct {
	id      record.ID
	caller  string         // the principal's name
	request *record.Ticket // nil where the session was refused
	end     *record.Ticket // of the response or the refusal; nil where it was lost
	nonces  [2][]byte      // of the exact bytes of what was masked, request and answer
}

// recent are the newest sessions, so that each has a receipt before the log publishes it. One is two tickets of less than
// 2 KiB each: their number bounds the memory they take.
type recent struct {
	mu   sync.Mutex
	at   map[record.ID]int // under mu: the session's place in ring
	ring []recentSession   // under mu
	next int               // under mu: the place of the oldest, once the ring is full
}

func (r *recent) put(s recentSession) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, again := r.at[s.id]
	switch {
	case again:
	case len(r.ring) < recentSessions:
		if r.at == nil {
			r.at = make(map[record.ID]int, recentSessions)
		}
		i = len(r.ring)
		r.ring = append(r.ring, recentSession{})
	default:
		i = r.next
		r.next = (r.next + 1) % recentSessions
		delete(r.at, r.ring[i].id)
	}
	r.ring[i], r.at[s.id] = s, i
}

func (r *recent) get(id record.ID) (recentSession, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.at[id]
	if !ok {
		return recentSession{}, false
	}
	return r.ring[i], true
}

// turns keep receipts from taking what the calls need.
type turns struct {
	making chan struct{} // holds a value for each receipt that is made

	mu        sync.Mutex
	searching map[string]bool // under mu: by caller
}

// take waits for a turn to make a receipt.
func (t *turns) take(ctx context.Context) error {
	wait := time.NewTimer(receiptWait)
	defer wait.Stop()
	select {
	case t.making <- struct{}{}:
		return nil
	case <-wait.C:
		return noTurn
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turns) done() { <-t.making }

// search gives a caller its turn to search, if there is one.
func (t *turns) search(caller string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.searching[caller] || len(t.searching) >= searchesAtOnce {
		return false
	}
	t.searching[caller] = true
	return true
}

func (t *turns) searched(caller string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.searching, caller)
}

// Why there is no receipt.
var (
	noSuchSession = &refusal{http.StatusNotFound, "unknown_session", "no session of yours with that id is on record; one that has ended is found as soon as the log has published it"}
	sessionLost   = &refusal{http.StatusNotFound, "session_lost", "the session passed but could not be recorded, so there is no receipt of it; the log says how many were lost"}
	sessionOpen   = &refusal{http.StatusConflict, "session_open", "the session has not ended, or its end is not on record yet; try again"}
	notPublished  = &refusal{http.StatusConflict, "not_published", "no checkpoint covers the session yet; try again"}
	noTurn        = &refusal{http.StatusTooManyRequests, "too_many_receipts", "too many receipts are asked for at once; try again"}
	noReceipt     = &refusal{http.StatusServiceUnavailable, "receipt_unavailable", "the log or its keys cannot be read; try again, and tell whoever runs the gateway"}
)

// serveReceipt answers who asks for a receipt.
func (g *Gateway) serveReceipt(ctx *fasthttp.RequestCtx, name string) {
	h := &ctx.Response.Header
	body, kind, more, no := g.receiptFor(ctx, name)
	if no != nil {
		g.answer(ctx, record.ID{}, no)
		switch no.status {
		case http.StatusConflict, http.StatusTooManyRequests:
			h.Set("X-Should-Retry", "true")
			h.Set("Retry-After", "1")
		case http.StatusMethodNotAllowed:
			h.Set("Allow", http.MethodGet)
		}
	} else {
		ctx.SetContentType(kind)
		if more {
			h.Set("Retry-After", "1")
		}
		ctx.SetBody(body)
		ctx.SetWriteDeadline(g.writeTime(len(body)))
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// receiptFor returns what is asked for, its media type, and whether a later one will prove more.
func (g *Gateway) receiptFor(ctx *fasthttp.RequestCtx, name string) (body []byte, kind string, more bool, no *refusal) {
	from := g.visitor(ctx)
	if from.caller == nil {
		g.writer.Shed(1)
		return nil, "", false, from.no
	}
	if !ctx.IsGet() {
		return nil, "", false, &refusal{http.StatusMethodNotAllowed, "method_not_allowed", "a receipt is fetched with GET"}
	}
	name, bare := strings.CutSuffix(name, proofSuffix)
	id, err := record.ParseID(name)
	if err != nil {
		return nil, "", false, noSuchSession
	}
	work, cancel := context.WithTimeout(g.stopping, receiptTime)
	defer cancel()
	r, err := g.receipt(work, from.caller.Name, id)
	if err == nil && !bare {
		body, err = r.Append(nil)
		return body, "application/json", r.Promise != nil, g.whyNoReceipt(id, err)
	}
	if err == nil {
		last := r.Entries[len(r.Entries)-1]
		if last.Proof == nil {
			return nil, "", false, notPublished
		}
		body, err = (&tlog.ProofFile{Extra: last.Bytes, Index: last.Index, Proof: last.Proof, Checkpoint: r.Checkpoint}).Append(nil)
	}
	return body, "text/plain; charset=utf-8", false, g.whyNoReceipt(id, err)
}

// whyNoReceipt says what to tell the caller of an error, whose details are nothing to it.
func (g *Gateway) whyNoReceipt(id record.ID, err error) *refusal {
	var no *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		return no
	}
	g.log.Error("a receipt could not be made", "session", id, "err", err)
	return noReceipt
}

// receipt makes a receipt, in this order: a turn; the session's entries, from memory or by a search; what the caller may
// have of the records behind them, if it is its session; proofs as far as the newest checkpoint reaches; and for what it
// does not reach a promise. Nothing of it holds a lock that a call could wait for longer than a look into a map takes.
func (g *Gateway) receipt(ctx context.Context, caller string, id record.ID) (*record.Receipt, error) {
	if err := g.turns.take(ctx); err != nil {
		return nil, err
	}
	defer g.turns.done()
	found, err := g.remembered(caller, id)
	ours := found != nil
	if err == nil && !ours {
		found, err = g.search(ctx, caller, id)
	}
	if err != nil {
		return nil, err
	}
	r := &record.Receipt{Session: id}
	for i, f := range found {
		e := record.ReceiptEntry{Index: f.Index, Bytes: f.Bytes}
		if i == 0 || f.Entry.Kind != record.Approval { // what an approver saw is not the caller's
			fields, err := g.coder.Read(ctx, &f.Entry, g.cfg.Log.Payload, g.cfg.Keys.Open)
			erased := errors.Is(err, tlog.ErrNotFound)
			if err != nil && !erased {
				return nil, fmt.Errorf("entry %d: %w", f.Index, err)
			}
			if i == 0 && !ours && !erased {
				if name, ok := fields.Get(record.FieldCaller); !ok || string(name) != caller {
					return nil, noSuchSession
				}
				ours = true
			}
			// Whose an erased session was nobody knows any more. What is left of it is public.
			if ours && !erased {
				e.Fields = receiptFields(fields)
				g.addNonce(e.Fields, id, f.Entry.Kind)
			}
		}
		r.Entries = append(r.Entries, e)
	}
	tree, err := g.published(ctx)
	if err == nil && r.Entries[len(r.Entries)-1].Index >= tree.Size {
		err = g.promise(r)
	}
	if err == nil {
		err = g.prove(ctx, r, tree)
	}
	return r, err
}

// remembered returns the entries of a session of the caller's that ended lately, or nothing.
func (g *Gateway) remembered(caller string, id record.ID) ([]record.Found, error) {
	s, ok := g.recent.get(id)
	switch {
	case !ok:
		return nil, nil
	case s.caller != caller:
		return nil, noSuchSession
	case s.end == nil:
		return nil, sessionLost
	}
	var found []record.Found
	for _, t := range []*record.Ticket{s.request, s.end} {
		if t == nil {
			continue
		}
		select {
		case <-t.Done():
		default:
			return nil, sessionOpen
		}
		if t.Wait(context.Background()) != nil {
			return nil, sessionLost
		}
		e, err := record.ParseEntry(t.Entry())
		if err != nil {
			return nil, err
		}
		if t == s.end && s.request != nil && e.Prev != s.request.Leaf() {
			return nil, nil // there is something between them: the log has all of it
		}
		found = append(found, record.Found{Index: t.Index(), Bytes: t.Entry(), Entry: e})
	}
	return found, nil
}

// search looks for a session in the published log.
func (g *Gateway) search(ctx context.Context, caller string, id record.ID) ([]record.Found, error) {
	if !g.turns.search(caller) {
		return nil, noTurn
	}
	defer g.turns.searched(caller)
	tree, err := g.published(ctx)
	if err != nil {
		return nil, err
	}
	found, err := record.FindSession(ctx, g.cfg.Log, tree.Size, id, searchEntries)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, noSuchSession
	}
	switch found[len(found)-1].Entry.Kind {
	case record.Response, record.Refused:
		return found, nil
	}
	return nil, sessionOpen
}

// addNonce adds to the field exact what its caller needs to show its bytes by, if the session is one that is remembered.
func (g *Gateway) addNonce(fields []record.ReceiptField, id record.ID, kind record.Kind) {
	s, ok := g.recent.get(id)
	if !ok {
		return
	}
	for i := range fields {
		if fields[i].Name != record.FieldExact {
			continue
		}
		nonce := s.nonces[0]
		if kind == record.Response {
			nonce = s.nonces[1]
		}
		if nonce != nil {
			fields[i].Nonce = nonce
		}
	}
}

func receiptFields(r record.Record) []record.ReceiptField {
	out := make([]record.ReceiptField, len(r))
	for i := range r {
		switch f := &r[i]; {
		case f.Name == record.FieldBody:
			out[i] = f.Kept()
		case len(f.Value) <= shownBytes && slices.Contains(callersOwn, f.Name):
			out[i] = f.Shown()
		default:
			out[i] = f.Withheld()
		}
	}
	return out
}

// A tree is what the newest checkpoint states; the zero tree is that of a log which has published none.
type tree struct {
	tlog.Checkpoint
	signed []byte
}

// published returns the newest tree.
func (g *Gateway) published(ctx context.Context) (tree, error) {
	signed, err := g.cfg.Log.Checkpoint(ctx)
	if errors.Is(err, tlog.ErrNotFound) {
		return tree{}, nil
	}
	if err != nil {
		return tree{}, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err == nil && g.cfg.Origin != "" && c.Origin != g.cfg.Origin {
		err = fmt.Errorf("the log is %q, and the gateway was told that it is %q", c.Origin, g.cfg.Origin)
	}
	return tree{c, signed}, err
}

// promise adds a promise for the session's entries, which are of this boot where the newest tree does not have them, and
// for the start entry, which states the key and is added too.
func (g *Gateway) promise(r *record.Receipt) error {
	start := g.writer.Begun()
	if g.promiser == nil || start == nil || len(r.Entries) >= record.MaxPromised {
		return notPublished
	}
	r.Start = &record.ReceiptEntry{Index: start.Index(), Bytes: start.Entry()}
	p := record.Promise{
		Origin: g.cfg.Origin, Boot: g.writer.Boot(), Time: time.Now().UTC().Truncate(time.Microsecond),
		Leaves: []record.Promised{{Index: start.Index(), Leaf: start.Leaf()}},
	}
	for _, e := range r.Entries {
		p.Leaves = append(p.Leaves, record.Promised{Index: e.Index, Leaf: tlog.HashLeaf(e.Bytes)})
	}
	signed, err := p.Sign(g.promiser)
	r.Promise = &signed
	return err
}

// prove adds the proofs of the entries that a tree has, and its checkpoint if there are any. What the log serves is
// checked before it is handed out.
func (g *Gateway) prove(ctx context.Context, r *record.Receipt, t tree) error {
	prove := func(e *record.ReceiptEntry) (err error) {
		if e == nil || e.Index >= t.Size {
			return nil
		}
		if e.Proof, err = (tlog.Tiles{Reader: g.cfg.Log, Size: t.Size}).Inclusion(ctx, e.Index); err == nil {
			err = tlog.VerifyInclusion(tlog.HashLeaf(e.Bytes), e.Index, t.Size, t.Root, e.Proof)
		}
		if err != nil {
			return fmt.Errorf("the log does not prove what it acknowledged; run `tally fsck`: %w", err)
		}
		r.Checkpoint = t.signed
		return nil
	}
	err := prove(r.Start)
	for i := range r.Entries {
		err = errors.Join(err, prove(&r.Entries[i]))
	}
	return err
}
