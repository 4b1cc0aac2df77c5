package console

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// ranges are the times that the overview is about, and in how many spans each is drawn.
var ranges = [...]timeRange{
	{"10m", 10 * time.Minute, 40},
	{"1h", time.Hour, 60},
	{"24h", 24 * time.Hour, 48},
	{"7d", 7 * 24 * time.Hour, 56},
	{"30d", 30 * 24 * time.Hour, 60},
}

const usualRange = 2 // 24h

type timeRange struct {
	Word  string
	Long  time.Duration
	Spans int
}

// An overview is numbers: nothing in it is content, and nothing of it is recorded.
type overview struct {
	Ranges   []rangeLink
	Stats    *audit.Stats
	NoStats  string
	Sessions chart
	Latency  chart
	Tokens   chart
	Outcomes []tally
	Refusals []tally
	Refused  int
	Waiting  int // -1 where the console or the person has none
	WaitsBy  string
	Head     *head
	Checks   []Check
	Worst    State
	Numbers  []Number
	Newest   []newest
}

type rangeLink struct {
	Word    string
	Current bool
}

// A tally is how often something was.
type tally struct {
	Name  string
	Count int
	Share string // in words, of all
	Part  int    // in thousandths of all
}

// A newest is a session as the log's public entries have it.
type newest struct {
	Session record.ID
	Began   time.Time
	Ended   time.Time
	How     string // outcome, or "refused", or "open"
	Why     string // of a refusal
	Index   uint64
}

// Took is how long it took, by its entries.
func (n newest) Took() time.Duration {
	if n.Ended.IsZero() || n.Began.IsZero() {
		return -1
	}
	return n.Ended.Sub(n.Began)
}

func (o *Console) overview(v *visit) error {
	ctx := v.req.Context()
	page := overview{Waiting: -1}
	var err error
	if page.Stats, err = o.stats(ctx, v.req.URL.Query().Get("range"), &page); err != nil {
		page.NoStats = said(err)
		if !errors.Is(err, audit.ErrNoIndex) {
			o.log.Error("the sessions could not be counted", "err", err)
		}
	} else {
		page.draw()
	}
	if o.c.Approvals != nil && v.who.Roles.Any(audit.Approver) {
		list, err := o.c.Approvals.List(ctx, v.who)
		if err != nil {
			page.WaitsBy = said(err)
		}
		page.Waiting = 0
		for _, a := range list {
			if a.Open && !a.Yours {
				page.Waiting++
			}
		}
	}
	if page.Head, err = o.head(ctx); err != nil && !errors.Is(err, tlog.ErrNotFound) {
		return err
	}
	if o.c.Health != nil {
		page.Checks = o.c.Health(ctx)
	}
	for _, c := range page.Checks {
		page.Worst = max(page.Worst, c.State)
	}
	if o.c.Numbers != nil {
		page.Numbers = o.c.Numbers(ctx)
	}
	if page.Head != nil {
		if page.Newest, err = o.newest(ctx, page.Head.Size); err != nil {
			return err
		}
	}
	return o.show(v, http.StatusOK, "overview", "Overview", page, "overview.js")
}

// stats counts over the range that was asked for; where none was, over the last day, or less if nothing is older.
func (o *Console) stats(ctx context.Context, word string, page *overview) (*audit.Stats, error) {
	at := slices.IndexFunc(ranges[:], func(r timeRange) bool { return r.Word == word })
	asked := at >= 0
	if !asked {
		at = usualRange
	}
	s, err := o.counted[at].get(ctx, o, ranges[at])
	for err == nil && !asked && at > 0 && s.All.Sessions > 0 {
		less, wrong := o.counted[at-1].get(ctx, o, ranges[at-1])
		if err = wrong; err != nil || less.All.Sessions < s.All.Sessions {
			break
		}
		at, s = at-1, less
	}
	for i, r := range ranges {
		page.Ranges = append(page.Ranges, rangeLink{r.Word, i == at})
	}
	return s, err
}

// A counted is what was counted over one range, for all who look at it. It is counted anew after ten times as long as it took, so
// that however many sessions there are, and however many look, a tenth of one core's time goes into it.
type counted struct {
	mu    sync.Mutex
	stats *audit.Stats // never changed
	until time.Time
}

func (c *counted) get(ctx context.Context, o *Console, r timeRange) (*audit.Stats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begun := o.now()
	if c.stats != nil && begun.Before(c.until) {
		return c.stats, nil
	}
	span := r.Long / time.Duration(r.Spans)
	to := begun.UTC().Truncate(span).Add(span)
	s, err := o.c.Desk.Stats(ctx, to.Add(-r.Long), to, r.Spans)
	if err != nil {
		return nil, err
	}
	done := o.now()
	c.stats, c.until = s, done.Add(10*done.Sub(begun))
	return s, nil
}

// draw makes the charts and tallies of the numbers.
func (p *overview) draw() {
	s := p.Stats
	var whole, other, refused, quick, slow, in, out []float64
	for i := range s.Spans {
		c := &s.Spans[i]
		done, no := c.Outcomes[string(record.Complete)], c.Outcomes["refused"]
		whole, refused, other = append(whole, float64(done)), append(refused, float64(no)), append(other, float64(c.Sessions-done-no))
		quick, slow = append(quick, seconds(c.Duration.P50, c.Duration.N)), append(slow, seconds(c.Duration.P99, c.Duration.N))
		in, out = append(in, float64(c.In)), append(out, float64(c.Out))
	}
	starts := make([]time.Time, len(s.Spans))
	for i := range s.Spans {
		starts[i] = s.Spans[i].From
	}
	p.Sessions = bars("sessions", "Sessions over time", starts, s.Span, plainNumber, series{"complete", "c1", whole}, series{"other ends", "c2", other}, series{"refused", "c3", refused})
	p.Latency = lines("latency", "How long calls took", starts, s.Span, secondsText, series{"median", "c1", quick}, series{"99th percentile", "c3", slow})
	p.Tokens = bars("tokens", "Tokens over time", starts, s.Span, plainNumber, series{"in", "c1", in}, series{"out", "c4", out})
	p.Outcomes = tallies(s.All.Outcomes, s.All.Sessions)
	p.Refused = s.All.Outcomes["refused"]
	p.Refusals = tallies(s.All.Refusals, p.Refused)
}

func seconds(d time.Duration, n int) float64 {
	if n == 0 {
		return -1 // nothing was there
	}
	return d.Seconds()
}

func secondsText(f float64) string { return short(time.Duration(f * float64(time.Second))) }

func plainNumber(f float64) string { return count(int64(f)) }

// tallies returns what was most first.
func tallies(m map[string]int, all int) []tally {
	var out []tally
	for _, name := range slices.Sorted(maps.Keys(m)) {
		t := tally{Name: name, Count: m[name]}
		if all > 0 {
			t.Part = 1000 * t.Count / all
			t.Share = strconv.FormatFloat(100*float64(t.Count)/float64(all), 'f', 1, 64) + " %"
		}
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(a, b tally) int { return b.Count - a.Count })
	return out
}

// A head is the newest checkpoint, and what is thought of it.
type head struct {
	Origin  string
	Size    uint64
	Root    tlog.Hash
	Text    string // the signed note
	Judged  bool   // there is a policy
	Good    bool   // and it holds
	Problem string // why not, or what is missing
	Newest  time.Time
	Witness []witness
	// Age is since the newest cosignature, or -1 where there is none.
	Age time.Duration
}

// A witness is one that the policy knows, and when it last cosigned what we know of.
type witness struct {
	Name string
	URL  string
	At   time.Time // zero for not
}

// head reads and judges the newest checkpoint. What it finds wrong it says, and it is not an error.
func (o *Console) head(ctx context.Context) (*head, error) {
	signed, err := o.c.Log.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	h := &head{Origin: c.Origin, Size: c.Size, Root: c.Root, Text: string(signed), Age: -1}
	if o.policy == nil {
		h.Problem = "The console has no policy, so nothing is judged here."
		return h, nil
	}
	h.Judged = true
	_, cosigs, err := o.policy.Check(signed)
	if err != nil {
		h.Problem = said(err)
	}
	h.Good = err == nil
	for _, w := range o.policy.Witnesses() {
		at := witness{Name: w.Name, URL: w.URL}
		verifier, err := tlog.NewCosignatureVerifier(w.Key)
		if err != nil {
			continue
		}
		for _, s := range cosigs {
			if s.Name == verifier.Name() && s.KeyID == verifier.KeyHash() && s.At().After(at.At) {
				at.At = s.At()
			}
		}
		if at.At.After(h.Newest) {
			h.Newest = at.At
		}
		h.Witness = append(h.Witness, at)
	}
	if !h.Newest.IsZero() {
		h.Age = o.now().Sub(h.Newest)
	}
	return h, nil
}

const (
	newestRead = 3 * tlog.TileWidth // entries that are looked through for the newest sessions
	newestMost = 12
)

// newest finds the newest sessions in the entries, which are public.
func (o *Console) newest(ctx context.Context, size uint64) ([]newest, error) {
	found := make(map[record.ID]*newest)
	err := o.entries(ctx, size, size-min(size, newestRead), size, func(index uint64, e record.Entry) {
		if e.Session.IsZero() || e.Kind == record.Access || e.Kind == record.Erasure {
			return
		}
		n := found[e.Session]
		if n == nil {
			n = &newest{Session: e.Session, How: "open"}
			found[e.Session] = n
		}
		n.Index = index
		switch e.Kind {
		case record.Request:
			n.Began = e.Time
		case record.Response:
			n.Ended, n.How = e.Time, string(e.Outcome)
		case record.Refused:
			n.Began, n.Ended, n.How, n.Why = e.Time, e.Time, "refused", e.Reason
		}
	})
	if err != nil {
		return nil, err
	}
	var all []newest
	for _, n := range found {
		if !n.Began.IsZero() {
			all = append(all, *n)
		}
	}
	slices.SortFunc(all, func(a, b newest) int {
		if n := b.Began.Compare(a.Began); n != 0 {
			return n
		}
		return int(b.Index) - int(a.Index)
	})
	return all[:min(len(all), newestMost)], nil
}

// entries reads the public entries from one index to before another, of a log of a published size.
func (o *Console) entries(ctx context.Context, size, from, to uint64, f func(index uint64, e record.Entry)) error {
	for from < to {
		t := tlog.TileAt(tlog.EntriesLevel, from, size)
		data, err := tlog.ReadTile(ctx, o.c.Log, t)
		if err != nil {
			return err
		}
		raw, err := tlog.ParseBundle(data, t.Width)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path(), err)
		}
		first := t.Index * tlog.TileWidth
		for ; from < min(first+uint64(t.Width), to); from++ {
			e, err := record.ParseEntry(raw[from-first])
			if err != nil {
				return fmt.Errorf("entry %d: %w", from, err)
			}
			f(from, e)
		}
	}
	return nil
}
