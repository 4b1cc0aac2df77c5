package bench

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
)

type workload interface {
	Run(context.Context) (Result, error)
}

// The workloads run and measure something on both arms. How much is not judged here: machines are noisy.
func TestWorkloadsRun(t *testing.T) {
	for _, w := range []struct {
		name string
		workload
	}{
		{"append", Append{Dir: t.TempDir(), Producers: 4, Entry: 350, Payload: 1698, Rounds: 1, Time: 100 * time.Millisecond}},
		{"strict", Pass{Dir: t.TempDir(), Callers: 2, Rounds: 1, Time: 100 * time.Millisecond}},
		{"stream", Pass{Dir: t.TempDir(), Mode: gateway.Overlap, Callers: 2, Stream: true, Rounds: 1, Time: 100 * time.Millisecond}},
		{"decide", Decide{Dir: t.TempDir(), Rules: 50, Callers: 2, Rounds: 1, Time: 100 * time.Millisecond}},
	} {
		t.Run(w.name, func(t *testing.T) {
			r, err := w.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if median(r.Ours) <= 0 || median(r.Peer) <= 0 {
				t.Errorf("nothing was measured: %+v", r)
			}
			var line bytes.Buffer
			r.Write(&line)
			if !strings.Contains(line.String(), "ratio ") {
				t.Errorf("%q", line.String())
			}
		})
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{5, 1, 3}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

// The index is made, searched, and follows a log.
func TestSearchRuns(t *testing.T) {
	var out bytes.Buffer
	if err := (Search{Dir: t.TempDir(), Sessions: 700, Queries: 5, Rates: []int{50}, Time: 2 * time.Second}).Run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"index of 700 sessions", "by fields", "by phrases", "follows a log of 50 sessions a second"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, out.String())
		}
	}
}

// What is made up is a log: each session begins once, and ends after that.
func TestMadeIsALog(t *testing.T) {
	for _, n := range []int{1, 150, 201, 999} {
		m := newMade(n)
		began, ended := make(map[record.ID]bool), 0
		for i := range uint64(2 * n) {
			s, err := m.entry(i)
			if err != nil {
				t.Fatal(err)
			}
			switch id := s.Entry.Session; {
			case s.Entry.Kind == record.Request && !began[id]:
				began[id] = true
			case s.Entry.Kind == record.Response && began[id]:
				ended++
			default:
				t.Fatalf("%d of %d: %s of %s", i, n, s.Entry.Kind, id)
			}
		}
		if len(began) != n || ended != n {
			t.Errorf("of %d: %d began, %d ended", n, len(began), ended)
		}
	}
}
