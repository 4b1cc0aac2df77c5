package gateway

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A policy that is set while the first one could not be recorded yet is not undone by the first.
func TestSetBeforeTheFirst(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	held, release := make(chan struct{}), make(chan struct{})
	w := newAsking(t, func(c *Config) {
		c.Log.(*tlogtest.Log).Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
			if !holds(leaves, record.Policy) {
				return nil
			}
			if tries.Add(1) == 1 {
				close(held)
				<-release
				return tlog.ErrBusy
			}
			time.Sleep(2 * closePause) // the first one is tried again meanwhile
			return nil
		}})
	})
	<-held
	set := make(chan error, 1)
	go func() { set <- w.g.SetPolicy(t.Context(), words{text: "rules 2"}) }()
	close(release)
	if err := <-set; err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * closePause)
	if law := w.g.law.Load(); string(law.Text()) != "rules 2" {
		t.Errorf("in force is %q", law.Text())
	}
}
