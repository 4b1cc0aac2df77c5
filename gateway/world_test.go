package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

const (
	callerKey = "tk-alice-0123456789abcdef"
	canary    = "sk-canary-5f0e1c9a7b3d2468"
)

// plain is a Secret in the clear.
type plain string

func (p plain) Reveal() []byte { return []byte(p) }

// memKeys keeps data keys in memory.
type memKeys struct {
	mu   sync.Mutex
	keys map[string][]byte
}

func (k *memKeys) New(context.Context) (string, []byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := make([]byte, record.KeyBytes)
	rand.Read(key)
	if k.keys == nil {
		k.keys = make(map[string][]byte)
	}
	id := fmt.Sprintf("k%d", len(k.keys))
	k.keys[id] = key
	return id, bytes.Clone(key), nil
}

func (k *memKeys) Open(_ context.Context, id string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.keys[id]; key != nil {
		return bytes.Clone(key), nil
	}
	return nil, errors.New("no such key")
}

// A world is a gateway between a client and a fake model, writing to a log in memory.
type world struct {
	t       *testing.T
	log     *tlogtest.Log
	keys    *memKeys
	journal string
	model   *gatewaytest.Model
	modelAt string // host:port of the model
	base    string // URL of the gateway
	g       *Gateway
	client  *http.Client
	stop    func() error // ends the gateway and returns what Run did
}

// newWorld starts everything. change may alter the configuration.
func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, log: tlogtest.NewLog(t), keys: &memKeys{}, journal: t.TempDir()}
	w.model = gatewaytest.New(gatewaytest.Config{Key: canary})
	ln := loopback(t)
	w.modelAt = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.model.Run(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-done })
	w.start(change)
	return w
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (w *world) start(change func(*Config)) {
	t := w.t
	t.Helper()
	up, err := url.Parse("http://" + w.modelAt)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(callerKey))
	cfg := Config{
		ID: "gw-test", Software: "tallystick/test", Log: w.log, Keys: w.keys, Journal: w.journal,
		Routes: []Route{
			{Name: "openai", API: OpenAI, Upstream: up, Credential: plain(canary)},
			{Name: "anthropic", API: Anthropic, Upstream: up, Credential: plain(canary)},
			{Name: "any", API: HTTP, Prefix: "/any/", Upstream: up, Credential: plain(canary), Header: "Authorization", Scheme: "Bearer"},
		},
		Callers: []Caller{{Name: "alice", SHA256: hex.EncodeToString(sum[:])}},
		Limits:  Limits{Drain: 5 * time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := loopback(t)
	w.g, w.base = g, "http://"+ln.Addr().String()
	w.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, ln) }()
	w.stop = sync.OnceValue(func() error {
		w.client.CloseIdleConnections()
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil && !t.Failed() {
			t.Errorf("the gateway ended with: %v", err)
		}
	})
}

// chat is the body of a chat completion whose prompt is given.
func chat(prompt string, stream bool) string {
	return fmt.Sprintf(`{"model":"fake-1","stream":%v,"messages":[{"role":"user","content":%q}]}`, stream, prompt)
}

// post calls the gateway with the test's key.
func (w *world) post(path, body string) *http.Response {
	w.t.Helper()
	resp, err := w.do(context.Background(), "POST", path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *world) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+callerKey)
	if strings.HasPrefix(path, "/v1/messages") {
		req.Header.Set("Anthropic-Version", "2023-06-01")
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return w.client.Do(req)
}

// A kept session is what the log holds of one.
type keptSession struct {
	entries []record.Entry
	records []record.Record
}

// last returns the session's last entry and its record.
func (k keptSession) last() (record.Entry, record.Record) {
	return k.entries[len(k.entries)-1], k.records[len(k.records)-1]
}

func get(r record.Record, name string) string {
	v, _ := r.Get(name)
	return string(v)
}

// sessions reads the whole log and opens every payload.
func (w *world) sessions() map[record.ID]keptSession {
	w.t.Helper()
	out := make(map[record.ID]keptSession)
	for _, e := range w.entries() {
		if e.Session.IsZero() {
			continue
		}
		k := out[e.Session]
		k.entries = append(k.entries, e)
		k.records = append(k.records, w.open(e))
		out[e.Session] = k
	}
	return out
}

// entries reads every entry that is published now.
func (w *world) entries() []record.Entry {
	w.t.Helper()
	ctx := context.Background()
	if _, err := w.log.Publish(); err != nil {
		w.t.Fatal(err)
	}
	ts := tlog.Tiles{Reader: w.log, Size: w.log.Size()}
	var out []record.Entry
	for i := range ts.Size {
		b, err := ts.Entry(ctx, i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			w.t.Fatalf("entry %d: %v", i, err)
		}
		out = append(out, e)
	}
	return out
}

func (w *world) open(e record.Entry) record.Record {
	w.t.Helper()
	payload, err := w.log.Payload(context.Background(), e.Payload)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := record.KeyOf(payload)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := w.keys.Open(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := record.NewCoder(1)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := c.Open(payload, key, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// session reads one session once it has ended.
func (w *world) session(id string) keptSession {
	w.t.Helper()
	sid, err := record.ParseID(id)
	if err != nil {
		w.t.Fatalf("%s: %v", SessionHeader, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		k := w.sessions()[sid]
		if n := len(k.entries); n > 0 && k.entries[n-1].Kind != record.Request {
			return k
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the session %s has not ended: %d entries", id, len(k.entries))
		}
		time.Sleep(10 * time.Millisecond) // the session ends in its own time: there is nobody to ask
	}
}

// slurp reads a body to its end.
func slurp(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read the answer: %v after %q", err, b)
	}
	return string(b)
}
