// Package bench measures what we promise to be fast, always as a ratio to a limit or a peer in the same run: machines are
// noisy, and a figure alone says more of the machine than of us. A workload is a Config and its Run; the commands that run
// them print the command beside the result.
package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A Result is what one workload showed.
type Result struct {
	Name string // the workload and its size
	Unit string // of Ours and Peer
	Ours []float64
	Peer []float64 // the limit or peer, measured in turns with Ours
	Note string
}

// Ratio returns the median of Ours over the median of Peer.
func (r Result) Ratio() float64 { return median(r.Ours) / median(r.Peer) }

// Write prints the result as one line: medians, their ratio, and the spread of the rounds.
func (r Result) Write(w io.Writer) {
	fmt.Fprintf(w, "%-34s ours %9.0f %-8s peer %9.0f %-8s ratio %.2f  (rounds: %s)", r.Name, median(r.Ours), r.Unit, median(r.Peer), r.Unit, r.Ratio(), rounds(r))
	if r.Note != "" {
		fmt.Fprintf(w, "  %s", r.Note)
	}
	fmt.Fprintln(w)
}

func rounds(r Result) string {
	var s []string
	for i := range min(len(r.Ours), len(r.Peer)) {
		s = append(s, fmt.Sprintf("%.2f", r.Ours[i]/r.Peer[i]))
	}
	return strings.Join(s, " ")
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// percentile returns the p-th percentile (0 to 100) of durations, which it sorts.
func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(float64(len(d))*p/100))]
}
