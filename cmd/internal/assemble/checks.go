package assemble

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit/console"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/witness"
)

// When what is shown of the log is worth a warning, and when it fails. cmd/tally/alerts.yaml has the like for whoever is called at night.
const (
	slowCheckpoint = 30 * time.Second
	lateCheckpoint = 5 * time.Minute
	slowAnchor     = 5 * time.Second
	lateCosigner   = time.Minute
	muchBehind     = 10_000 // entries
	littleDisk     = 2 << 30
	noDisk         = 256 << 20
)

// checks say how everything is that the console's people depend on.
func (h *House) checks(context.Context) (all []console.Check) {
	v := h.Vault
	size := uint64(0)
	if v.local == nil {
		all = append(all, console.Check{Name: "Log", State: console.Unknown, Says: "The log is in another process, at " + v.c.Log + "; look there, at /.tallystick/health of its read API."})
	} else {
		s := v.local.Stats()
		size = s.Published
		all = append(all, logCheck(s, v.Quarantined()), checkpointCheck(s), anchorCheck(s), diskCheck(s))
	}
	if q := v.quorum.Load(); q != nil {
		for _, s := range q.Stats() {
			all = append(all, onlookerCheck("Witness "+s.Name, s))
		}
	} else if v.local != nil {
		all = append(all, console.Check{Name: "Witnesses", State: console.Warning, Says: "Nobody outside watches this log. Name witnesses in its policy: what they cosigned cannot be rewritten unseen."})
	}
	for _, m := range v.mirrors {
		s := m.Stats()
		all = append(all, onlookerCheck("Mirror "+s.Name, s))
	}
	if h.Gateway != nil {
		all = append(all, gatewayCheck(h.Gateway.Ready(), h.Gateway.Stats()))
	}
	for _, name := range slices.Sorted(maps.Keys(h.watch.followers)) {
		all = append(all, followerCheck(name, h.watch.followers[name](), size))
	}
	return all
}

func logCheck(s local.Stats, quarantined error) console.Check {
	c := console.Check{Name: "Log", State: console.Well, Says: fmt.Sprintf("It takes entries in; %d are durable, %d anchored, %d published.", s.Size, s.Anchored, s.Published)}
	switch {
	case quarantined != nil:
		c.State, c.Says = console.Failing, "The log is in quarantine: it contradicts what was remembered of it, serves reads, and signs nothing. The evidence is in its directory. "+quarantined.Error()
	case s.Err != nil:
		c.State, c.Says = console.Failing, "The log takes nothing in before it is opened again. "+s.Err.Error()
	case s.Refuses != nil:
		c.State, c.Says = console.Failing, "The log takes nothing in for now. "+s.Refuses.Error()
	}
	return c
}

// checkpointCheck looks how old the newest checkpoint is that readers see, while there is something newer to see.
func checkpointCheck(s local.Stats) console.Check {
	age := time.Since(s.PublishedAt).Round(time.Second)
	c := console.Check{Name: "Checkpoint", State: console.Well, At: s.PublishedAt, Says: fmt.Sprintf("Readers see %d of %d entries; the newest checkpoint is from %v ago.", s.Published, s.Size, age)}
	switch behind := s.Published < s.Size; {
	case behind && age > lateCheckpoint:
		c.State = console.Failing
		c.Says += " Nothing newer can be shown or proven: see whether the anchor, the key and enough witnesses can be reached."
	case behind && age > slowCheckpoint:
		c.State = console.Warning
		c.Says += " It is late: see whether the anchor, the key and the witnesses can be reached."
	}
	return c
}

func anchorCheck(s local.Stats) console.Check {
	c := console.Check{Name: "Anchor", State: console.Well, Says: "It knows the newest entries."}
	if s.Unanchored > slowAnchor {
		c.State, c.Says = console.Warning, fmt.Sprintf("Entries have waited for it for %v. After some time nothing is taken in: see whether the anchor can be reached.", s.Unanchored.Round(time.Second))
	}
	return c
}

func diskCheck(s local.Stats) console.Check {
	c := console.Check{Name: "Disk", State: console.Well, Says: fmt.Sprintf("%.1f GiB are free where the log is.", float64(s.Free)/(1<<30))}
	switch {
	case s.Free == 0:
		c.State, c.Says = console.Unknown, "It was not looked yet how much is free where the log is."
	case s.Free < noDisk:
		c.State = console.Failing
		c.Says += " Make room now: a full log takes nothing in."
	case s.Free < littleDisk:
		c.State = console.Warning
		c.Says += " Make room."
	}
	return c
}

func onlookerCheck(name string, s witness.Status) console.Check {
	c := console.Check{Name: name, State: console.Well, At: s.Cosigned, Says: fmt.Sprintf("It cosigned a tree of %d entries.", s.Size)}
	switch {
	case s.Faults > 0:
		c.State, c.Says = console.Failing, fmt.Sprintf("It lied, forgot, or signed something else, %d times. Ask whoever runs it.", s.Faults)
	case s.Failures > 0 && time.Since(s.Cosigned) > lateCosigner:
		c.State, c.Says = console.Warning, fmt.Sprintf("It did not cosign %d times in a row.", s.Failures)
	case s.Cosigned.IsZero():
		c.State, c.Says = console.Unknown, "It has not cosigned anything yet."
	}
	if s.Err != nil {
		c.Says += " " + s.Err.Error()
	}
	return c
}

// gatewayCheck looks whether calls pass, and whether what passed is on record.
func gatewayCheck(err error, s gateway.Stats) console.Check {
	c := console.Check{Name: "Gateway", State: console.Well, Says: "Calls pass, and are on record."}
	unrecorded := s.Unrecorded["request"] + s.Unrecorded["response"] + s.Unrecorded["journal"]
	switch {
	case err != nil:
		c.State, c.Says = console.Failing, "No call passes. "+err.Error()
	case s.Untold > 0:
		c.State, c.Says = console.Failing, fmt.Sprintf("%d sessions passed that are not on record, and the log does not tell of them yet.", s.Untold)
	case s.Lost > 0:
		c.State, c.Says = console.Warning, fmt.Sprintf("%d sessions passed since the start that are not on record; gap entries in the log say how many, and when.", s.Lost)
	case unrecorded > 0:
		c.State, c.Says = console.Warning, fmt.Sprintf("%d times since the start something could not be written down, and the call did not pass, or not whole.", unrecorded)
	case s.Panics > 0:
		c.State, c.Says = console.Warning, fmt.Sprintf("%d times since the start it met a fault of its own; what it says has where. Report it.", s.Panics)
	}
	return c
}

// followerCheck looks how far something is behind that is derived from the log.
func followerCheck(name string, entries, size uint64) console.Check {
	behind := max(size, entries) - entries
	c := console.Check{Name: strings.ToUpper(name[:1]) + name[1:], State: console.Well, Says: fmt.Sprintf("It has taken in %d entries.", entries)}
	if behind > 0 {
		c.Says = fmt.Sprintf("It has taken in %d entries, and is %d behind.", entries, behind)
	}
	if behind > muchBehind {
		c.State = console.Warning
		c.Says += " What is newer is not found there yet."
	}
	return c
}

// numbers are what is counted of a log and a gateway in this process.
func (h *House) numbers(context.Context) (all []console.Number) {
	add := func(name string, value float64, unit string) {
		all = append(all, console.Number{Name: name, Value: value, Unit: unit})
	}
	if h.Gateway != nil {
		s := h.Gateway.Stats()
		add("calls under way", float64(h.watch.underWay()), "")
		add("calls that wait for a yes", float64(s.Waiting), "")
		if s.Waiting > 0 {
			add("the oldest of them has waited", s.Oldest.Round(time.Second).Seconds(), "seconds")
		}
	}
	if h.Vault.local != nil {
		s := h.Vault.local.Stats()
		add("entries since the log was opened", float64(s.Leaves), "")
		add("checkpoints since then", float64(s.Checkpoints), "")
		add("entries that the anchor does not know yet", float64(s.Size-min(s.Size, s.Anchored)), "")
		add("free on the log's disk", float64(s.Free), "bytes")
	}
	return all
}
