package webhook

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// memKeys keeps data keys in memory.
type memKeys struct{ keys sync.Map }

func (k *memKeys) New(context.Context) (string, []byte, error) {
	key := make([]byte, record.KeyBytes)
	rand.Read(key)
	name := hex.EncodeToString(key[:8])
	k.keys.Store(name, bytes.Clone(key))
	return name, key, nil
}

func (k *memKeys) Open(_ context.Context, name string) ([]byte, error) {
	if key, ok := k.keys.Load(name); ok {
		return bytes.Clone(key.([]byte)), nil
	}
	return nil, tlog.ErrNotFound
}

// asks is a policy that asks about everything.
type asks struct{}

func (asks) Text() []byte       { return []byte("ask") }
func (asks) Version() tlog.Hash { return sha256.Sum256([]byte("ask")) }
func (asks) Judge(*gateway.Facts) gateway.Judgement {
	return gateway.Judgement{Verdict: gateway.Ask, Rule: "always"}
}

const (
	aliceKey = "tk-alice-0123456789abcdef"
	carolKey = "tk-carol-0123456789abcdef"
)

func caller(name, key string, groups ...string) gateway.Caller {
	sum := sha256.Sum256([]byte(key))
	return gateway.Caller{Name: name, SHA256: hex.EncodeToString(sum[:]), Groups: groups}
}

// Another system is told of a question, and sends on what people said of it; the gateway counts what may be counted.
func TestStory(t *testing.T) {
	messages := make(chan []byte, 16)
	told := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		messages <- b
	}))
	defer told.Close()
	sender, err := NewSender(SenderConfig{Targets: []Target{{URL: told.URL, Kind: Slack, Buttons: true}}})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	model, calls := listen(), listen()
	fake := gatewaytest.New(gatewaytest.Config{Key: "sk-model"})
	up, err := url.Parse("http://" + model.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + calls.Addr().String()
	g, err := gateway.New(gateway.Config{
		ID: "gw-test", Software: "tallystick/test", Log: tlogtest.NewLog(t), Keys: &memKeys{}, Journal: t.TempDir(), Policy: asks{},
		Routes:  []gateway.Route{{Name: "openai", API: gateway.OpenAI, Upstream: up, Credential: plain("sk-model")}},
		Callers: []gateway.Caller{caller("alice", aliceKey, "approvers"), caller("carol", carolKey, "approvers")},
		Approvals: gateway.Approvals{
			Key: bytes.Repeat([]byte{7}, 32), Groups: []string{"approvers"}, Glass: []string{"oncall"}, Hold: time.Minute, URL: "https://gw.example",
			Notify: sender.Notify, Hooks: map[string]gateway.Hook{"slack": newReader(t, Slack), "json": newReader(t, JSON)},
		},
		Limits: gateway.Limits{Drain: 5 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { fake.Run(ctx, model) })
	all.Go(func() { sender.Run(ctx) })
	all.Go(func() {
		if err := g.Run(ctx, calls); err != nil {
			t.Error(err)
		}
	})
	defer func() { cancel(); all.Wait() }()

	do := func(method, path, body string, head map[string]string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range head {
			req.Header.Set(name, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	hook := func(name string, s sent) (int, string) {
		return do("POST", "/.tallystick/hooks/"+name, s.body, s.head)
	}
	message := func(word string) string {
		t.Helper()
		select {
		case b := <-messages:
			if !bytes.Contains(b, []byte(word)) || bytes.Contains(b, []byte("a secret of mine")) {
				t.Fatalf("no %q in %s", word, b)
			}
			return string(b)
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody is told of %q", word)
		}
		return ""
	}
	type answer struct {
		code int
		body string
	}
	ask := func(prompt string) <-chan answer {
		done := make(chan answer, 1)
		go func() {
			code, body := do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":"fake-1","messages":[{"role":"user","content":"a secret of mine %s"}]}`, prompt),
				map[string]string{"Authorization": "Bearer " + aliceKey, "Content-Type": "application/json"})
			done <- answer{code, body}
		}()
		return done
	}

	done := ask("one")
	var m struct {
		Blocks []struct {
			Elements []struct{ Value string }
		}
	}
	if err := json.Unmarshal([]byte(message("A call waits for a yes")), &m); err != nil {
		t.Fatal(err)
	}
	id := m.Blocks[len(m.Blocks)-1].Elements[0].Value
	right := slacked(slackSecret, time.Now(), pressed(id, "approve", "U012AB3CD"))
	for _, c := range []struct {
		name, hook string
		s          sent
		code       int
		word       string
	}{
		{"forged", "slack", right.with("X-Slack-Signature", "v0=00"), 401, "hook_refused"},
		{"by another's hook", "json", right, 401, "hook_refused"},
		{"by a hook that there is none of", "teams", right, 404, "unknown_path"},
		{"nobody known", "slack", slacked(slackSecret, time.Now(), pressed(id, "approve", "U999")), 401, "hook_refused"},
		{"the caller's own", "slack", slacked(slackSecret, time.Now(), pressed(id, "approve", "U0MALLORY")), 403, "self_approval"},
		{"the caller's own, a no", "json", standard(ourSecret, "msg_1", time.Now(), decision(id, "deny", "U0MALLORY")), 403, "self_approval"},
		{"the glass, by one who may not", "json", standard(ourSecret, "msg_2", time.Now(), strings.Replace(decision(id, "break_glass", "U012AB3CD"), "seen", "the house is on fire", 1)), 404, "unknown_approval"},
		{"another approval", "slack", slacked(slackSecret, time.Now(), pressed(record.NewID(time.Now()).String(), "approve", "U012AB3CD")), 404, "unknown_approval"},
		{"without a look", "slack", right, 428, "look_first"},
		{"the same again", "slack", right, 401, "hook_refused"},
	} {
		if code, body := hook(c.hook, c.s); code != c.code || !strings.Contains(body, c.word) {
			t.Errorf("%s: %d %s", c.name, code, body)
		}
	}
	if code, body := do("GET", "/.tallystick/approvals/"+id, "", map[string]string{"Authorization": "Bearer " + carolKey}); code != 200 || !strings.Contains(body, "a secret of mine") {
		t.Fatalf("%d %s", code, body)
	}
	if code, body := hook("slack", right); code != 401 {
		t.Errorf("what was sent before the look counts after it: %d %s", code, body)
	}
	if fake.Count() != 0 {
		t.Fatal("something went to the model")
	}
	if code, body := hook("json", standard(ourSecret, "msg_3", time.Now(), decision(id, "approve", "U012AB3CD"))); code != 200 || !strings.Contains(body, `"granted"`) && !strings.Contains(body, `"us`) {
		t.Errorf("%d %s", code, body)
	}
	if a := <-done; a.code != 200 || fake.Count() != 1 {
		t.Errorf("%+v", a)
	}
	message("A call was approved")

	done = ask("two")
	if err := json.Unmarshal([]byte(message("A call waits for a yes")), &m); err != nil {
		t.Fatal(err)
	}
	id = m.Blocks[len(m.Blocks)-1].Elements[0].Value
	if code, body := hook("slack", slacked(slackSecret, time.Now(), pressed(id, "deny", "U012AB3CD"))); code != 200 {
		t.Errorf("a no without a look: %d %s", code, body)
	}
	if a := <-done; a.code != 403 || !strings.Contains(a.body, "approval_denied") || !strings.Contains(a.body, "by a button in Slack") || fake.Count() != 1 {
		t.Errorf("%+v", a)
	}
	message("A call was denied")
}
