package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
)

// Pass measures calls through the gateway, recorded and durable, against the same calls to the same fake model directly.
// Callers, gateway, log and model share the machine.
type Pass struct {
	Dir     string
	Mode    gateway.Mode
	Callers int           // each makes its next call when the one before is answered
	Wait    time.Duration // the model takes this long before it answers
	Stream  bool          // answers are event streams
	Rounds  int           // of each, in turns
	Time    time.Duration // of a round

	policy gateway.Policy // nil for none
}

const benchKey = "tk-bench-0123456789abcdef"

// Run measures calls a second, and in the note the median and 99th percentile of a call's time (of its first byte, for
// streams).
func (c Pass) Run(ctx context.Context) (Result, error) {
	kind := "json"
	if c.Stream {
		kind = "stream"
	}
	r := Result{Name: fmt.Sprintf("pass %s %s, %d callers, model %v", c.Mode, kind, c.Callers, c.Wait), Unit: "call/s"}
	dir, err := os.MkdirTemp(c.Dir, "tally-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	direct, through, stop, err := c.open(ctx, dir)
	if err != nil {
		return r, err
	}
	var near, far []time.Duration
	for range c.Rounds {
		for _, arm := range []struct {
			base string
			rate *[]float64
			took *[]time.Duration
		}{{direct, &r.Peer, &near}, {through, &r.Ours, &far}} {
			rate, took, err := c.load(ctx, arm.base)
			if err != nil {
				return r, errors.Join(err, stop())
			}
			*arm.rate = append(*arm.rate, rate)
			*arm.took = append(*arm.took, took...)
		}
	}
	r.Note = fmt.Sprintf("p50 %v against %v, p99 %v against %v",
		percentile(far, 50).Round(10*time.Microsecond), percentile(near, 50).Round(10*time.Microsecond),
		percentile(far, 99).Round(10*time.Microsecond), percentile(near, 99).Round(10*time.Microsecond))
	return r, stop()
}

// open starts a model and a gateway before it, with a log on the disk.
func (c Pass) open(ctx context.Context, dir string) (direct, through string, stop func() error, err error) {
	model, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, err
	}
	calls, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, err
	}
	l, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return "", "", nil, err
	}
	kek, err := file.CreateKEK(filepath.Join(dir, "kek.key"))
	if err != nil {
		return "", "", nil, err
	}
	keys, err := ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek})
	if err != nil {
		return "", "", nil, err
	}
	up, err := url.Parse("http://" + model.Addr().String())
	if err != nil {
		return "", "", nil, err
	}
	sum := sha256.Sum256([]byte(benchKey))
	g, err := gateway.New(gateway.Config{
		ID: "bench", Software: "tallystick/bench", Log: l, Keys: ring.ByName{Ring: keys}, Journal: filepath.Join(dir, "journal"), Mode: c.Mode,
		Routes:  []gateway.Route{{Name: "openai", API: gateway.OpenAI, Upstream: up}},
		Callers: []gateway.Caller{{Name: "bench", SHA256: hex.EncodeToString(sum[:]), Groups: []string{"staff", "bench"}}},
		Policy:  c.policy,
	})
	if err != nil {
		return "", "", nil, err
	}
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 3)
	go func() { done <- gatewaytest.New(gatewaytest.Config{Keep: -1, Wait: c.Wait}).Run(run, model) }()
	go func() { done <- keys.Run(run) }()
	go func() { done <- g.Run(run, calls) }()
	return up.String(), "http://" + calls.Addr().String(), func() error {
		cancel()
		return errors.Join(<-done, <-done, <-done, closeLog(), keys.Close())
	}, nil
}

// load makes calls for the time of a round.
func (c Pass) load(ctx context.Context, base string) (rate float64, took []time.Duration, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: c.Callers, DisableCompression: true}}
	defer client.CloseIdleConnections()
	prompt := bytes.Repeat([]byte("What is a tally stick, and who keeps the other half? "), 100)
	body := fmt.Appendf(nil, `{"model":"fake-1","stream":%t,"messages":[{"role":"user","content":"%s"}]}`, c.Stream, prompt)
	end := time.Now().Add(c.Time)
	var mu sync.Mutex
	var all sync.WaitGroup
	begin := time.Now()
	for range c.Callers {
		all.Add(1)
		go func() {
			defer all.Done()
			var mine []time.Duration
			for time.Now().Before(end) {
				t, cerr := call(ctx, client, base, body)
				if cerr != nil {
					mu.Lock()
					err = cerr
					mu.Unlock()
					return
				}
				mine = append(mine, t)
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		}()
	}
	all.Wait()
	return float64(len(took)) / time.Since(begin).Seconds(), took, err
}

// call makes one call and returns the time to its first byte, and for a body to its last.
func call(ctx context.Context, client *http.Client, base string, body []byte) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+benchKey)
	req.Header.Set("Content-Type", "application/json")
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var first [1]byte
	if _, err := io.ReadFull(resp.Body, first[:]); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("bench: %s", resp.Status)
	}
	return took, nil
}
