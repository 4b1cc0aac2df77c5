package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	bookRead = 16 * tlog.TileWidth // entries that are looked through for boots, heartbeats and gaps
	bookMost = 25                  // of each that are listed
	growth   = 40                  // places at which the log's growth is measured
)

// A bookPage is the log as anybody can read it.
type bookPage struct {
	Head   *head
	Policy bool
	Read   uint64 // entries that were looked through
	Kinds  []tally
	Boots  []boot
	Gaps   []gap
	Events []bookEvent
	Growth chart
	Since  time.Time // of the first entry
	Checks []Check
}

// A boot is one life of a writer, as far as it was looked through.
type boot struct {
	By       string
	ID       record.ID
	Begun    time.Time // zero for before
	Software string
	Mode     string
	Last     time.Time
	Kind     string // of its last entry
	Seq      uint64
	Open     uint64 // at its last heartbeat
	Shed     uint64 // since its start, as far as it was looked through
	Stopped  bool
	Missing  uint64 // numbers that should be there and are not
	next     uint64
	seen     bool
}

// A gap is entries that were lost, and said to be.
type gap struct {
	Index    uint64
	By       string
	From, To uint64
	Since    time.Time
	Until    time.Time
	Why      string
}

// A bookEvent is a start, a stop or a change of the rules.
type bookEvent struct {
	Index uint64
	Time  time.Time
	By    string
	Kind  string
	Says  string
}

func (o *Console) book(v *visit) error {
	ctx := v.req.Context()
	page := bookPage{Policy: o.policy != nil}
	var err error
	if page.Head, err = o.head(ctx); err != nil && !errors.Is(err, tlog.ErrNotFound) {
		return err
	}
	if o.c.Health != nil {
		page.Checks = o.c.Health(ctx)
	}
	if page.Head != nil && page.Head.Size > 0 {
		if err := o.leafThrough(ctx, &page); err != nil {
			return err
		}
		if err := o.grown(ctx, &page); err != nil {
			return err
		}
	}
	return o.show(v, http.StatusOK, "log", "Log", page)
}

// leafThrough reads the newest entries.
func (o *Console) leafThrough(ctx context.Context, p *bookPage) error {
	size := p.Head.Size
	from := size - min(size, bookRead)
	p.Read = size - from
	kinds := make(map[string]int)
	at := make(map[record.ID]int)
	err := o.entries(ctx, size, from, size, func(index uint64, e record.Entry) {
		kinds[string(e.Kind)]++
		i, ok := at[e.Boot]
		if !ok {
			i = len(p.Boots)
			at[e.Boot] = i
			p.Boots = append(p.Boots, boot{By: e.By, ID: e.Boot})
		}
		b := &p.Boots[i]
		if b.seen && e.Seq > b.next {
			b.Missing += e.Seq - b.next
		}
		b.seen, b.next = true, e.Seq+1
		b.Last, b.Kind, b.Seq = e.Time, string(e.Kind), e.Seq
		b.Stopped = e.Kind == record.Stop
		b.Shed += e.Shed
		switch e.Kind {
		case record.Start:
			b.Begun, b.Software, b.Mode = e.Time, e.Software, e.Mode
			p.Events = append(p.Events, bookEvent{index, e.Time, e.By, "start", e.Software + ", " + e.Mode})
		case record.Stop:
			p.Events = append(p.Events, bookEvent{index, e.Time, e.By, "stop", e.Reason})
		case record.Policy:
			p.Events = append(p.Events, bookEvent{index, e.Time, e.By, "policy", "rules or keys changed"})
		case record.Heartbeat:
			b.Open = e.Open
		case record.Gap:
			p.Gaps = append(p.Gaps, gap{index, e.By, e.From, e.To, e.Since, e.Time, e.Reason})
			if n := e.To - e.From + 1; b.Missing >= n {
				b.Missing -= n // it is announced
			}
		}
	})
	if err != nil {
		return err
	}
	p.Kinds = tallies(kinds, int(p.Read))
	p.Boots, p.Gaps, p.Events = backward(p.Boots), backward(p.Gaps), backward(p.Events)
	return nil
}

// backward returns the last of all, the newest first.
func backward[T any](all []T) []T {
	var out []T
	for i := len(all) - 1; i >= 0 && len(out) < bookMost; i-- {
		out = append(out, all[i])
	}
	return out
}

// grown measures the log's growth by the times of some of its entries.
func (o *Console) grown(ctx context.Context, p *bookPage) error {
	size := p.Head.Size
	type point struct {
		at time.Time
		n  uint64
	}
	var points []point
	n := min(size, growth)
	for i := range n {
		index := uint64(0)
		if n > 1 {
			index = uint64(float64(size-1) * float64(i) / float64(n-1))
		}
		err := o.entries(ctx, size, index, index+1, func(index uint64, e record.Entry) {
			points = append(points, point{e.Time, index + 1})
		})
		if err != nil {
			return err
		}
	}
	first, last := points[0].at, points[len(points)-1].at
	p.Since = first
	// Entries at each of so many times, by the nearest that was looked at before.
	span := max(last.Sub(first)/growth, time.Millisecond)
	var starts []time.Time
	var grown []float64
	k := 0
	for i := range growth {
		at := first.Add(span * time.Duration(i+1))
		for k+1 < len(points) && !points[k+1].at.After(at) {
			k++
		}
		value := float64(points[k].n)
		if k+1 < len(points) && points[k+1].at.After(points[k].at) && at.After(points[k].at) {
			part := float64(at.Sub(points[k].at)) / float64(points[k+1].at.Sub(points[k].at))
			value += part * float64(points[k+1].n-points[k].n)
		}
		starts, grown = append(starts, first.Add(span*time.Duration(i))), append(grown, value)
	}
	p.Growth = lines("growth", "Entries in the log", starts, span, plainNumber, series{"entries", "c1", grown})
	p.Growth.Says = count(size) + " entries since " + clock(first) + "."
	return nil
}

// checkpoint answers with the newest checkpoint, as it is signed.
func (o *Console) checkpoint(v *visit) error {
	signed, err := o.c.Log.Checkpoint(v.req.Context())
	if err != nil {
		return err
	}
	return v.attachment("checkpoint", "text/plain; charset=utf-8", signed)
}

// policyFile answers with the policy by which checkpoints are judged.
func (o *Console) policyFile(v *visit) error {
	if o.policy == nil {
		return errNoPage
	}
	return v.bytes("text/plain; charset=utf-8", o.c.Policy)
}
