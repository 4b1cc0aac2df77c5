package peers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cel"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// Two gateways of one log ask, are refused entries by it, are slow, stop and start again, while callers go from one to the other,
// leave, and come back, and people decide. Whatever happens, of each yes there is one use, what was sent had one, and an auditor
// of the log, and of each session, finds nothing false.
func TestAuditedAsking(t *testing.T) {
	if direct {
		t.Skip("a model asks nobody")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var dice struct {
		sync.Mutex
		*mathrand.Rand
	}
	dice.Rand = mathrand.New(mathrand.NewPCG(seed, 0))
	roll := func(n int) int {
		dice.Lock()
		defer dice.Unlock()
		return dice.IntN(n)
	}
	ln := listen(t)
	fake := gatewaytest.New(gatewaytest.Config{Key: modelKey})
	run(t, func(ctx context.Context) error { return fake.Run(ctx, ln) })
	up, err := url.Parse("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := tlogtest.NewLog(t), openRing(t)
	var calm atomic.Bool
	l.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
		time.Sleep(time.Duration(roll(4)) * time.Millisecond)
		if roll(6) == 0 && !calm.Load() {
			return tlog.ErrBusy
		}
		return nil
	}})
	p, err := cel.Parse("rules", fmt.Appendf(nil, rules, "1s"), cel.Names{})
	if err != nil {
		t.Fatal(err)
	}
	hash := func(key string) string {
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	type gate struct {
		sync.Mutex
		base string
		stop func()
	}
	var gates [2]gate
	start := func(i int) {
		g, err := gateway.New(gateway.Config{
			ID: fmt.Sprintf("gw-%d", i), Software: "tallystick/peers", Log: l, Origin: tlogtest.Origin, Keys: keys, Journal: t.TempDir(), Policy: p,
			Routes: []gateway.Route{{Name: "openai", API: gateway.OpenAI, Upstream: up, Credential: secret(modelKey)}},
			Callers: []gateway.Caller{
				{Name: "sdk", SHA256: hash(callerKey)},
				{Name: "approver", SHA256: hash(approverKey), Groups: []string{"approvers"}},
			},
			Approvals: gateway.Approvals{Key: bytes.Repeat([]byte("k"), 32), Groups: []string{"approvers"}, Hold: 100 * time.Millisecond, Again: time.Second, Tail: l},
			Limits:    gateway.Limits{Drain: 2 * time.Second},
		})
		if err != nil {
			t.Error(err)
			return
		}
		ln := listen(t)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx, ln) }()
		gates[i].Lock()
		defer gates[i].Unlock()
		gates[i].base = "http://" + ln.Addr().String()
		gates[i].stop = func() {
			cancel()
			if err := <-ended; err != nil && calm.Load() {
				t.Errorf("gateway %d: %v", i, err)
			}
		}
	}
	base := func(i int) string {
		gates[i].Lock()
		defer gates[i].Unlock()
		return gates[i].base
	}
	do := func(ctx context.Context, key, method, url, body string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, ""
		}
		return resp.StatusCode, string(b)
	}
	start(0)
	start(1)

	over, quiet := make(chan struct{}), make(chan struct{})
	var callers, approver sync.WaitGroup
	passed, sending := make(map[string]bool), sync.Mutex{}
	for n := range 8 {
		callers.Go(func() {
			for i := 0; ; i++ {
				prompt := fmt.Sprintf("/say it is done %d by %d", i, n)
				body := fmt.Sprintf(`{"model":"fake-1","stream":%v,"messages":[{"role":"user","content":%q}]}`, i%4 == 3, prompt)
				for tries := 0; tries < 30; tries++ {
					select {
					case <-over:
						return
					default:
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+roll(400))*time.Millisecond)
					code, answer := do(ctx, callerKey, "POST", base(roll(2))+"/v1/chat/completions", body)
					cancel()
					if code == 200 && strings.Contains(answer, "done") {
						sending.Lock()
						passed[prompt] = true
						sending.Unlock()
						break
					}
					if code == 403 {
						break
					}
					time.Sleep(time.Duration(roll(50)) * time.Millisecond)
				}
			}
		})
	}
	for i := range 2 {
		approver.Go(func() {
			for {
				select {
				case <-quiet:
					return
				case <-time.After(20 * time.Millisecond):
				}
				_, list := do(t.Context(), approverKey, "GET", base(i)+"/.tallystick/approvals", "")
				var l struct{ Approvals []struct{ ID, State string } }
				json.Unmarshal([]byte(list), &l)
				for _, q := range l.Approvals {
					at := base(i) + "/.tallystick/approvals/" + q.ID
					switch n := roll(8); {
					case q.State != "waiting", n == 0: // nobody answers, for now
					case n == 1:
						do(t.Context(), approverKey, "POST", at, `{"decision":"deny","reason":"for a test"}`)
					default:
						do(t.Context(), approverKey, "GET", at, "")
						do(t.Context(), approverKey, "POST", at, `{"decision":"approve"}`)
					}
				}
			}
		})
	}
	for i := range 3 {
		time.Sleep(800 * time.Millisecond)
		gates[i%2].stop()
		start(i % 2)
	}
	time.Sleep(500 * time.Millisecond)
	close(over)
	callers.Wait()
	close(quiet)
	approver.Wait()
	calm.Store(true)
	time.Sleep(1500 * time.Millisecond) // what is still asked ends
	for i := range gates {
		gates[i].stop()
	}

	if _, err := l.Publish(); err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy(l.Policy())
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.CheckLog(t.Context(), l, verify.Trust{Policy: policy}, nil)
	if err != nil || !r.OK() {
		t.Errorf("an honest log: %v", err)
		for _, f := range r.Findings {
			if !f.OK {
				t.Error(f)
			}
		}
	}
	signed, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	reader := tlog.Tiles{Reader: l, Size: c.Size}
	used, ended, sessions := make(map[tlog.Hash]int), make(map[string]int), []record.ID{}
	for i := range c.Size {
		b, err := reader.Entry(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Reason == record.Used:
			used[e.Grant]++
			ended["used"]++
		case e.Kind == record.Approval:
			ended[e.Reason]++
		case e.Kind == record.Response:
			ended["to "+string(e.Outcome)]++
			sessions = append(sessions, e.Session)
		}
	}
	if n := fake.Count(); n > len(used) || n == 0 || len(passed) > n {
		t.Errorf("the model got %d calls, of %d yeses that were used; %d callers have answers", n, len(used), len(passed))
	}
	t.Logf("%d entries, %v; the model got %d calls; %d callers have answers", c.Size, ended, fake.Count(), len(passed))
	pen, err := record.NewWriter(record.WriterConfig{ID: "desk", Log: l, Software: "tallystick/peers", Mode: "none"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, pen.Run)
	desk, err := audit.NewDesk(l, readOnly{keys}, pen)
	if err != nil {
		t.Fatal(err)
	}
	for len(sessions) > 0 {
		some := sessions[:min(len(sessions), 50)]
		sessions = sessions[len(some):]
		raw, err := desk.Export(t.Context(), audit.Asker{Name: "auditor", Reason: "a test", Roles: audit.Auditor}, some...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := verify.Check(raw, verify.Trust{Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Findings {
			if !f.OK && !strings.Contains(f.Detail, "in no session of this bundle") {
				t.Error(f)
			}
		}
	}
}
