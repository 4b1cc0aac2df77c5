package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// holds says whether one of the leaves is an entry of that kind.
func holds(leaves []tlog.Leaf, kind record.Kind) bool {
	for _, l := range leaves {
		if e, err := record.ParseEntry(l.Entry); err == nil && e.Kind == kind {
			return true
		}
	}
	return false
}

// What each mode waits for: strict does not send before the request is durable, overlap sends and holds the answer back,
// open holds nothing back.
func TestModesHoldBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode           Mode
		sent, answered bool // before the request is durable
	}{{Strict, false, false}, {Overlap, true, false}, {Open, true, true}} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v stream=%v", c.mode, stream), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(cfg *Config) { cfg.Mode = c.mode })
				w.post("/v1/chat/completions", chat("first, so that the boot has begun", false)).Body.Close()
				held, release := make(chan struct{}, 100), make(chan struct{})
				w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
					if holds(leaves, record.Request) {
						held <- struct{}{}
						<-release
					}
					return nil
				}})
				done := make(chan string, 1)
				go func() {
					resp, err := w.do(t.Context(), "POST", "/v1/chat/completions", chat("hello there", stream))
					if err != nil {
						done <- err.Error()
						return
					}
					b, err := io.ReadAll(resp.Body)
					done <- fmt.Sprint(resp.StatusCode, " ", string(b), err)
				}()
				<-held
				if c.sent {
					if err := w.model.Await(t.Context(), 2); err != nil {
						t.Fatal(err)
					}
				}
				if c.answered {
					if got := <-done; !strings.HasPrefix(got, "200 ") {
						t.Errorf("answered %.200s", got)
					}
					close(release)
					return
				}
				select {
				case got := <-done:
					t.Errorf("answered before the request was durable: %.200s", got)
				case <-time.After(50 * time.Millisecond): // long enough for an answer that does not wait
				}
				if !c.sent && w.model.Count() != 1 {
					t.Error("the model was called before the request was durable")
				}
				close(release)
				if got := <-done; !strings.HasPrefix(got, "200 ") || !strings.HasSuffix(got, "<nil>") {
					t.Errorf("answered %.200s", got)
				}
			})
		}
	}
}

// In strict and overlap no caller holds the end of an answer before its record is durable: not while the model may still
// say more, and not while the log has the record in hand.
func TestTheEndWaitsForTheRecord(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Overlap} {
		for _, c := range []struct {
			name, path, kind string
			pieces, end      string
			h2               bool
			withheld         int // bytes; 0 for all of the end, -1 for one at least
		}{
			{"a stream", "/v1/chat/completions", "text/event-stream", "data: {}\n\ndata: {}\n\n", "data: [DONE]\n\n", false, 0},
			{"a stream with more behind its end", "/v1/messages", "text/event-stream", "event: ping\ndata: {}\n\n", "event: message_stop\ndata: {}\n\n: bye\n\n", false, 0},
			{"a stream that ends in an error", "/v1/chat/completions", "text/event-stream", "data: {}\n\n", "data: {\"error\":{}}\n\n", false, 0},
			{"a stream over HTTP/2", "/v1/responses", "text/event-stream", "event: response.created\ndata: {}\n\n", "event: response.completed\ndata: {}\n\n", true, 0},
			{"a long body", "/any/x", "text/plain", strings.Repeat("x", wholeBytes), "end", false, -1},
			{"a long body over HTTP/2", "/any/x", "text/plain", strings.Repeat("x", wholeBytes), "end", true, 1},
			{"a body", "/v1/chat/completions", "application/json", "", `{"a":1}`, false, 0},
		} {
			t.Run(fmt.Sprint(mode, " ", c.name), func(t *testing.T) {
				t.Parallel()
				goOn := make(chan struct{})
				h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					rw.Header().Set("Content-Type", c.kind)
					if c.kind != "text/event-stream" {
						rw.Header().Set("Content-Length", fmt.Sprint(len(c.pieces)+len(c.end)))
					}
					io.WriteString(rw, c.pieces+c.end)
					http.NewResponseController(rw).Flush()
					<-goOn // it has said all, and has not said so
				})
				_, change := tlsModel(t, c.h2, h)
				w := newWorld(t, func(cfg *Config) { change(cfg); cfg.Mode = mode })
				held, release := make(chan struct{}), make(chan struct{})
				w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
					if holds(leaves, record.Response) {
						held <- struct{}{}
						<-release
					}
					return nil
				}})
				got := &reader{}
				done := make(chan error, 1)
				go func() {
					resp, err := w.do(t.Context(), "POST", c.path, `{}`)
					if err == nil {
						defer resp.Body.Close()
						_, err = io.Copy(got, resp.Body)
					}
					done <- err
				}()
				whole := c.pieces + c.end
				want := c.pieces
				if c.withheld != 0 {
					want = whole[:len(whole)-1]
				}
				check := func(when string) {
					t.Helper()
					for deadline := time.Now().Add(10 * time.Second); c.withheld >= 0 && len(got.seen()) < len(want) && time.Now().Before(deadline); {
						time.Sleep(time.Millisecond) // for what may pass to arrive
					}
					time.Sleep(20 * time.Millisecond) // and for what may not, not to
					if seen := got.seen(); seen != want && (c.withheld >= 0 || !strings.HasPrefix(want, seen)) {
						t.Errorf("%s the caller has %d bytes, may have %d: …%q", when, len(seen), len(want), seen[max(0, len(seen)-60):])
					}
				}
				check("before the model has ended")
				close(goOn)
				<-held
				check("before the record is durable")
				close(release)
				if err := <-done; err != nil || got.seen() != whole {
					t.Errorf("in the end the caller has %d bytes of %d, %v", len(got.seen()), len(whole), err)
				}
			})
		}
	}
}

// In overlap, where the request is not recorded, nothing of the answer passes, and the response is not recorded alone.
func TestOverlapWithoutItsRequest(t *testing.T) {
	t.Parallel()
	for _, body := range []string{chat("/wait 30ms hello there", false), chat("/wait 30ms hello there", true), chat("/wait 30ms /error 400", false)} {
		w := newWorld(t, func(cfg *Config) { cfg.Mode = Overlap })
		w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
			if holds(leaves, record.Request) {
				return tlog.ErrBusy
			}
			return nil
		}})
		resp := w.post("/v1/chat/completions", body)
		got := slurp(t, resp.Body)
		if resp.StatusCode != 503 || !strings.Contains(got, `"record_unavailable"`) {
			t.Errorf("%s: status %d: %s", body, resp.StatusCode, got)
		}
		if w.model.Count() != 1 {
			t.Errorf("%s: the model was called %d times", body, w.model.Count())
		}
		if n := len(w.sessions()); n != 0 {
			t.Errorf("%s: %d sessions are on record", body, n)
		}
	}
}

// lost adds up the gap entries.
func lost(es []record.Entry) (n int) {
	for _, e := range es {
		if e.Kind == record.Gap {
			n += int(e.To-e.From) + 1
		}
	}
	return n
}

// load makes n calls, some at once, and wants all of them answered.
func (w *world) load(n int) {
	w.t.Helper()
	var all sync.WaitGroup
	next := make(chan int)
	for range 8 {
		all.Go(func() {
			for i := range next {
				resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", chat(fmt.Sprint("hello ", i), i%4 == 0))
				if err != nil {
					w.t.Error(err)
					continue
				}
				b, err := io.ReadAll(resp.Body)
				if resp.Body.Close(); resp.StatusCode != 200 || err != nil {
					w.t.Errorf("call %d: status %d, %v: %s", i, resp.StatusCode, err, b)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

// complete counts the sessions that are on record to their end, and those that are not.
func (w *world) complete() (whole, half int) {
	for _, k := range w.sessions() {
		if e, _ := k.last(); e.Kind == record.Response {
			whole++
		} else {
			half++
		}
	}
	return whole, half
}

// In open, traffic flows whatever the log answers, and what is not on record is counted, each session once.
func TestOpenCountsWhatIsLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault func() func(context.Context, []tlog.Leaf) error
	}{
		{"a full disk", func() func(context.Context, []tlog.Leaf) error { return tlogtest.Always(tlog.ErrFull) }},
		{"busy now and then", func() func(context.Context, []tlog.Leaf) error {
			rnd := rand.New(rand.NewPCG(1, 2)) // the writer asks one at a time
			return func(context.Context, []tlog.Leaf) error {
				if rnd.IntN(2) == 0 {
					return fmt.Errorf("wrapped: %w", tlog.ErrBusy)
				}
				return nil
			}
		}},
		{"no requests", func() func(context.Context, []tlog.Leaf) error {
			return func(_ context.Context, leaves []tlog.Leaf) error {
				if holds(leaves, record.Request) {
					return tlog.ErrBusy
				}
				return nil
			}
		}},
		{"no responses", func() func(context.Context, []tlog.Leaf) error {
			return func(_ context.Context, leaves []tlog.Leaf) error {
				if holds(leaves, record.Response) {
					return tlog.ErrBusy
				}
				return nil
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) { cfg.Mode = Open })
			w.faulty = true
			const n = 200
			w.load(10)
			w.log.Inject(tlogtest.Faults{Append: c.fault()})
			w.load(n)
			w.log.Inject(tlogtest.Faults{})
			w.load(10)
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			whole, half := w.complete()
			if got := lost(w.entries()); got != n+20-whole {
				t.Errorf("%d calls were answered, %d are on record whole, %d half, and %d are counted as lost", n+20, whole, half, got)
			} else {
				t.Logf("%d calls: %d on record, %d counted as lost, of these %d with their request", n+20, whole, got, half)
			}
		})
	}
}

// In open with a log that is broken for good, traffic flows on, and when the gateway ends it says how much is not on
// record.
func TestOpenBeyondTheLog(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{errors.New("the disk is on fire"), tlog.ErrQuarantine} {
		w := newWorld(t, func(cfg *Config) { cfg.Mode = Open })
		w.faulty = true
		w.load(10)
		w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(fault)})
		w.load(100)
		health, err := w.client.Get(w.base + "/.tallystick/health")
		if err != nil || health.StatusCode != 503 {
			t.Errorf("the health of a gateway that records nothing: %v, %v", health, err)
		}
		err = w.stop()
		whole, _ := w.complete()
		if want := fmt.Sprintf("%d sessions passed unrecorded", 110-whole); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it ended with %v; %d are on record", err, whole)
		}
	}
}

// In open with a log that hangs, traffic flows on, what waits is bounded, and the gateway ends all the same.
func TestOpenBesideAHangingLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Mode = Open; cfg.Limits.Drain = 50 * time.Millisecond })
	w.faulty = true
	w.load(10)
	release := make(chan struct{})
	w.log.Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error { <-release; return nil }})
	before := runtime.NumGoroutine()
	const n = 2400 // of which each is two drafts: more than the writer holds
	w.load(n)
	if grown := runtime.NumGoroutine() - before; grown > 4096 {
		t.Errorf("%d more goroutines", grown)
	}
	if n := w.g.writer.Untold(); n < 300 {
		t.Errorf("%d sessions were counted as lost with a queue of 4096", n)
	}
	close(release)
	w.log.Inject(tlogtest.Faults{})
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	whole, half := w.complete()
	if got := lost(w.entries()); got != n+10-whole {
		t.Errorf("%d calls, %d on record whole, %d half, %d lost", n+10, whole, half, got)
	}
	t.Logf("%d calls beside a log that hung: %d on record afterwards, %d counted as lost", n, whole, lost(w.entries()))
}

// stuckKeys hands out no keys once they are stuck.
type stuckKeys struct {
	*memKeys
	stuck chan struct{} // closed when they are
	err   error         // nil: New waits for its context
}

func (k stuckKeys) New(ctx context.Context) (string, []byte, error) {
	select {
	case <-k.stuck:
	default:
		return k.memKeys.New(ctx)
	}
	if k.err != nil {
		return "", nil, k.err
	}
	<-ctx.Done()
	return "", nil, ctx.Err()
}

// Without data keys nothing can be sealed: strict sends nothing, open passes and counts.
func TestNoKeys(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{errors.New("no keys today"), nil} {
		for _, mode := range []Mode{Strict, Open} {
			k := stuckKeys{stuck: make(chan struct{}), err: fault}
			w := newWorld(t, func(cfg *Config) {
				if cfg.Mode = mode; mode == Strict {
					cfg.Limits.Total = time.Second
				}
				k.memKeys = cfg.Keys.(*memKeys)
				cfg.Keys = k
			})
			w.load(1)
			close(k.stuck)
			if mode == Open {
				const n = spareKeys + 24
				w.load(n)
				if err := w.stop(); err != nil {
					t.Fatal(err)
				}
				whole, _ := w.complete()
				if got := lost(w.entries()); got != n+1-whole || got < n-spareKeys-2 {
					t.Errorf("%v: %d calls, %d on record, %d lost", fault, n+1, whole, got)
				}
				continue
			}
			calls := w.model.Count()
			resp := w.post("/v1/chat/completions", chat("hello", false))
			if b := slurp(t, resp.Body); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(b, "record_unavailable") {
				t.Errorf("%v: status %d: %s", fault, resp.StatusCode, b)
			}
			if w.model.Count() != calls {
				t.Error("the model was called without a record")
			}
		}
	}
}
