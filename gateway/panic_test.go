package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A bomb is a secret that blows up when it is looked at, the nth time from when it was set.
type bomb struct {
	secret string
	left   atomic.Int64
}

func (b *bomb) Reveal() []byte {
	if b.left.Add(-1) == 0 {
		panic("the secret is " + b.secret)
	}
	return []byte(b.secret)
}

// A fault of ours, at any point of a call, ends that call: with 500, or by a cut where the answer had begun; on record as
// internal. The others do not notice.
func TestPanic(t *testing.T) {
	t.Parallel()
	b := &bomb{secret: canary}
	w := newWorld(t, func(cfg *Config) { cfg.Routes[2].Credential = b })
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := w.do(context.Background(), "POST", "/v1/chat/completions", chat("/say I am fine", true))
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || err != nil || !strings.Contains(string(got), "fine") {
					t.Errorf("another call: status %d, %v", resp.StatusCode, err)
				}
				resp.Body.Close()
				select {
				case <-stop:
				case <-time.After(5 * time.Millisecond): // that they are there is what counts
				}
			}
		})
	}
	saw := make(map[string]int)
	for _, c := range []struct {
		name, prompt string
		stream       bool
	}{
		{"a body", "hello out there", false},
		{"a stream", "hello out there", true},
		{"a body in pieces", "/raw sse-torn hello out there", false},
		{"an answer that is cut", "/cut 30 hello out there", false},
		{"a stream that is cut", "/cut 3 hello out there", true},
	} {
		for n := int64(1); ; n++ {
			b.left.Store(n)
			resp := w.post("/any/v1/chat/completions", chat(c.prompt, c.stream))
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if b.left.Load() > 0 {
				b.left.Store(0)
				break // it was not looked at so often
			}
			k := w.session(resp.Header.Get(SessionHeader))
			e, r := k.last()
			saw[fmt.Sprint(c.name, ", ", resp.StatusCode, ", ", e.Outcome)]++
			switch {
			case resp.StatusCode == 500:
			case resp.StatusCode == 200 && err != nil:
			case resp.StatusCode == 502 && e.Outcome != record.Complete: // it met the fault in words about the model's
			default:
				t.Errorf("%s, at %d: status %d, a clean end of %q, on record as %s", c.name, n, resp.StatusCode, got, e.Outcome)
			}
			if e.Outcome != record.Internal {
				t.Errorf("%s, at %d: on record as %s: %s", c.name, n, e.Outcome, get(r, record.FieldError))
			}
			if resp.StatusCode == 500 && !strings.Contains(string(got), `"internal"`) {
				t.Errorf("%s, at %d: %s", c.name, n, got)
			}
			if n > 200 {
				t.Fatal("it is looked at for ever")
			}
		}
	}
	close(stop)
	others.Wait()
	if err := w.model.Idle(t.Context()); err != nil {
		t.Error("a model is still being heard")
	}
	if !strings.Contains(w.said.String(), "panicked") {
		t.Error("nothing was said of it")
	}
	t.Log(saw)
}

// A fault in whoever keeps the keys is one of ours, too: nothing was sent, and nothing is on record.
func TestPanicOfTheKeys(t *testing.T) {
	t.Parallel()
	var k *panickyKeys
	w := newWorld(t, func(cfg *Config) {
		k = &panickyKeys{Keys: cfg.Keys}
		cfg.Keys = k
	})
	k.now.Store(true)
	resp := w.post("/v1/chat/completions", chat("hello", false))
	wantRefusal(t, resp, 500, "internal", true)
	k.now.Store(false)
	if resp := w.post("/v1/chat/completions", chat("hello", false)); resp.StatusCode != 200 || w.model.Count() != 1 {
		t.Errorf("the call after it: status %d, %d calls of the model", resp.StatusCode, w.model.Count())
	}
}

type panickyKeys struct {
	Keys
	now atomic.Bool
}

func (k *panickyKeys) New(ctx context.Context) (string, []byte, error) {
	if k.now.Load() {
		panic(fmt.Errorf("no keys"))
	}
	return k.Keys.New(ctx)
}
