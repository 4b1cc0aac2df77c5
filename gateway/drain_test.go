package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A gateway that is asked to stop under load finishes the calls that are under way, takes no new ones, loses nothing,
// and writes that it stopped as the last thing. Nothing is left of it. No other test runs beside this one.
func TestDrainUnderLoad(t *testing.T) {
	for _, mode := range []Mode{Strict, Overlap, Open} {
		w := newWorld(t, func(cfg *Config) { cfg.Mode = mode })
		w.log.Inject(tlogtest.Faults{Append: tlogtest.Delay(5 * time.Millisecond)}) // some wait for it when the end comes
		var all sync.WaitGroup
		var answered, stopped atomic.Int64
		var began sync.WaitGroup
		began.Add(16)
		for i := range 16 {
			all.Go(func() {
				first := sync.OnceFunc(began.Done)
				defer first()
				for n := 0; ; n++ {
					prompt := fmt.Sprintf("/slow 2ms /say caller %d call %d here", i, n)
					resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", chat(prompt, i%2 == 0))
					if err != nil {
						return // no answer at all: the door is closed
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					switch {
					case resp.StatusCode == 503:
						stopped.Add(1)
						return
					case err != nil || resp.StatusCode != 200 || i%2 == 0 && !strings.HasSuffix(string(b), "data: [DONE]\n\n"):
						t.Errorf("%v: a call that was under way: status %d, %v, …%q", mode, resp.StatusCode, err, b[max(0, len(b)-60):])
					}
					answered.Add(1)
					first()
				}
			})
		}
		began.Wait()
		began2 := time.Now()
		if err := w.stop(); err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		took := time.Since(began2)
		if conn, err := net.Dial("tcp", w.at); err == nil {
			conn.Close()
			t.Errorf("%v: a gateway that has stopped takes connections", mode)
		}
		all.Wait()
		if n := stopped.Load(); n > 0 {
			t.Errorf("%v: %d calls that were let in were not finished, though there was time", mode, n)
		}
		es := w.entries()
		if last := es[len(es)-1]; last.Kind != record.Stop {
			t.Errorf("%v: the last entry is a %s", mode, last.Kind)
		}
		complete, half := 0, 0
		for _, k := range w.sessions() {
			switch e, _ := k.last(); {
			case e.Kind == record.Request:
				half++
			case e.Outcome == record.Complete:
				complete++
			}
		}
		if half > 0 || int64(complete) != answered.Load() || lost(es) != 0 {
			t.Errorf("%v: %d calls were answered, %d are on record whole and %d half, %d are counted as lost", mode, answered.Load(), complete, half, lost(es))
		}
		t.Logf("%v: %d calls answered and on record; stopped in %v", mode, answered.Load(), took.Round(time.Millisecond))
	}
	noneLeft(t)
}

// When the time to drain is over, what is still under way is cut, on record as interrupted, and the gateway ends. It does
// not wait for callers who have connected and say nothing, or half of something, or who read nothing.
func TestDrainIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Limits.Drain = 200 * time.Millisecond })
	type end struct {
		status int
		err    error
		body   string
	}
	ends := make(chan end, 3)
	for _, c := range []struct {
		prompt string
		stream bool
	}{{"/hang", false}, {"/hang", true}, {"/stall 3 hello out there in the world", true}} {
		go func() {
			resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", chat(c.prompt, c.stream))
			if err != nil {
				ends <- end{0, err, ""}
				return
			}
			b, err := io.ReadAll(resp.Body)
			ends <- end{resp.StatusCode, err, string(b)}
		}()
	}
	if err := w.model.Await(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	send(t, w.dial(), "")
	send(t, w.dial(), "POST /v1/chat/comp")
	body := chat("hello", false)
	send(t, w.dial(), strings.TrimSuffix(request("POST", "/v1/chat/completions", body), body[5:]))
	deaf := w.dial()
	deaf.(*net.TCPConn).SetReadBuffer(4 << 10)
	send(t, deaf, request("POST", "/v1/chat/completions", chat("/endless hello", true)))
	if err := w.model.Await(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	if took > 30*time.Second {
		t.Errorf("it stopped after %v", took)
	}
	t.Logf("stopped in %v", took.Round(time.Millisecond))
	statuses := make(map[int]int)
	for range 3 {
		e := <-ends
		statuses[e.status]++
		if e.status == 200 && e.err == nil || e.status == 503 && !strings.Contains(e.body, `"stopping"`) {
			t.Errorf("a call that was cut: status %d, %v: %s", e.status, e.err, e.body)
		}
	}
	if statuses[503] != 2 || statuses[200] != 1 {
		t.Errorf("statuses %v", statuses)
	}
	outcomes := make(map[record.Outcome]int)
	for _, k := range w.sessions() {
		e, _ := k.last()
		outcomes[e.Outcome]++
	}
	if outcomes[record.Interrupted] != 4 || len(w.sessions()) != 4 {
		t.Errorf("on record: %v", outcomes)
	}
}

// A gateway ends though its log does not answer: it says that it does not know, and the next boot will.
func TestDrainBesideAHangingLog(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Overlap, Open} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *Config) {
				cfg.Mode, cfg.Limits.Drain, cfg.lastWords = mode, 100*time.Millisecond, 700*time.Millisecond
			})
			w.faulty = true
			slurp(t, w.post("/v1/chat/completions", chat("the boot has begun", true)).Body)
			release := make(chan struct{})
			w.log.Inject(tlogtest.Faults{Append: func(context.Context, []tlog.Leaf) error { <-release; return nil }})
			for i := range 8 {
				go func() {
					if resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", chat("hello", i%2 == 0)); err == nil {
						b, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if mode != Open && resp.StatusCode == 200 && err == nil {
							t.Errorf("a whole answer that is not on record: %s", b)
						}
					}
				}()
			}
			for w.g.active.Load() < 8 && mode != Open {
				time.Sleep(time.Millisecond) // until all are under way
			}
			began := time.Now()
			err := w.stop()
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it stopped after %v", took)
			} else {
				t.Logf("stopped in %v: %v", took.Round(time.Millisecond), err)
			}
			if err == nil || !strings.Contains(err.Error(), "did not take the last entries") {
				t.Errorf("it ended with %v", err)
			}
			close(release)
			w.log.Inject(tlogtest.Faults{})
		})
	}
}

// A gateway that is stopped before it was started stops.
func TestStoppedAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		w := newWorld(t, nil)
		w.faulty = true // its boot may not have begun
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A listener that fails ends the gateway with its error, and in order.
func TestListenerFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.stop()
	g, err := New(w.g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := &failing{Listener: loopback(t), after: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- g.Run(context.Background(), ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send(t, conn, request("POST", "/v1/chat/completions", chat("/wait 100ms hello", false)))
	if err := w.model.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	close(ln.after)
	ln.Listener.Close()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, resp, 503, "stopping", true)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the listener failed: out of everything") {
		t.Errorf("it ended with %v", err)
	}
	if e, _ := w.session(resp.Header.Get(SessionHeader)).last(); e.Outcome != record.Interrupted {
		t.Errorf("on record as %s", e.Outcome)
	}
}

type failing struct {
	net.Listener
	after chan struct{}
}

func (f *failing) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		<-f.after
		return nil, fmt.Errorf("out of everything")
	}
	return conn, nil
}
