package bench

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
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
