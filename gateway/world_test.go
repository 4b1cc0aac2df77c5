package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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
	bobKey    = "tk-bob-fedcba9876543210"
	canary    = "sk-canary-5f0e1c9a7b3d2468"
)

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

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
	return nil, fmt.Errorf("no such key: %w", tlog.ErrNotFound)
}

// A world is a gateway between a client and a fake model, writing to a log in memory.
type world struct {
	t       *testing.T
	log     *tlogtest.Log
	keys    *memKeys
	journal string
	said    *lines // what the gateway logs
	model   *gatewaytest.Model
	modelAt string // host:port of the model
	base    string // URL of the gateway
	at      string // host:port of the gateway
	g       *Gateway
	client  *http.Client
	stop    func() error // ends the gateway and returns what Run did
	ended   func() error // waits for it to end by itself

	coder  func() *record.Coder
	faulty bool // the end of the gateway may be an error, and entries may be missing: the test looks for itself
}

// newWorld starts everything. change may alter the configuration.
func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	return newWorldWith(t, (*gatewaytest.Model).Run, change)
}

// newRawWorld is a world whose model answers with the bytes that answer gives.
func newRawWorld(t *testing.T, answer func(*gatewaytest.Model, *http.Request) gatewaytest.Wire, change func(*Config)) *world {
	t.Helper()
	return newWorldWith(t, func(m *gatewaytest.Model, ctx context.Context, ln net.Listener) error {
		return m.RunRaw(ctx, ln, func(r *http.Request) gatewaytest.Wire { return answer(m, r) })
	}, change)
}

// newServedWorld is a world whose model is an http.Handler.
func newServedWorld(t *testing.T, h http.HandlerFunc, change func(*Config)) *world {
	t.Helper()
	return newWorldWith(t, func(_ *gatewaytest.Model, ctx context.Context, ln net.Listener) error {
		srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		context.AfterFunc(ctx, func() { srv.Close() })
		srv.Serve(ln)
		return nil
	}, change)
}

func newWorldWith(t *testing.T, run func(*gatewaytest.Model, context.Context, net.Listener) error, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, log: tlogtest.NewLog(t), keys: &memKeys{}, journal: t.TempDir(), said: &lines{}}
	w.coder = sync.OnceValue(func() *record.Coder {
		c, err := record.NewCoder(1)
		if err != nil {
			panic(err)
		}
		return c
	})
	w.model = gatewaytest.New(gatewaytest.Config{Key: canary})
	ln := loopback(t)
	w.modelAt = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(w.model, ctx, ln) }()
	t.Cleanup(func() { cancel(); <-done })
	w.start(change)
	return w
}

// lines keeps what was written, for a test to look at.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
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
	cfg := Config{
		ID: "gw-test", Software: "tallystick/test", Log: w.log, Origin: tlogtest.Origin, Keys: w.keys, Journal: w.journal,
		Routes: []Route{
			{Name: "openai", API: OpenAI, Upstream: up, Credential: plain(canary)},
			{Name: "anthropic", API: Anthropic, Upstream: up, Credential: plain(canary)},
			{Name: "any", API: HTTP, Prefix: "/any/", Upstream: up, Credential: plain(canary), Header: "Authorization", Scheme: "Bearer"},
		},
		Callers: []Caller{
			{Name: "alice", SHA256: hashOf(callerKey)},
			{Name: "bob", Key: "laptop", SHA256: hashOf(bobKey), Routes: []string{"openai", "any"}},
		},
		Limits: Limits{Drain: 5 * time.Second},
		Logger: slog.New(slog.NewTextHandler(w.said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := loopback(t)
	w.g, w.at = g, ln.Addr().String()
	w.base = "http://" + w.at
	w.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, ln) }()
	w.ended = sync.OnceValue(func() error { defer cancel(); return <-done })
	w.stop = func() error {
		w.client.CloseIdleConnections()
		cancel()
		return w.ended()
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil && !w.faulty && !t.Failed() {
			t.Errorf("the gateway ended with: %v", err)
		}
		w.audit()
	})
}

// audit goes over the whole world once everything has ended: the numbers of each boot rise by one, every session has a
// request and one end, in that order and chained, every payload opens, and no secret stands anywhere.
func (w *world) audit() {
	t := w.t
	next := make(map[record.ID]uint64)
	open := make(map[record.ID]tlog.Hash)
	var all bytes.Buffer
	for i, e := range w.entries() {
		from := e.Seq
		if e.Kind == record.Gap {
			from = e.From
		}
		if from != next[e.Boot] {
			t.Errorf("entry %d has the number %d, want %d", i, from, next[e.Boot])
		}
		next[e.Boot] = e.Seq + 1
		b, err := e.Append(nil)
		if err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		all.Write(b)
		if e.Session.IsZero() {
			continue
		}
		for _, f := range w.open(e) {
			fmt.Fprintf(&all, "%s\n%s\n", f.Name, f.Value)
		}
		switch prev, ok := open[e.Session]; {
		case e.Kind == record.Request:
			open[e.Session] = tlog.HashLeaf(b)
		case e.Kind == record.Approval:
			if !ok || e.Prev != prev {
				t.Errorf("entry %d is not behind the one before it of the session %s", i, e.Session)
			}
			open[e.Session] = tlog.HashLeaf(b)
		case e.Kind == record.Response:
			if !ok || e.Prev != prev {
				t.Errorf("entry %d ends the session %s, which has not begun or has ended", i, e.Session)
			}
			delete(open, e.Session)
		}
	}
	if len(open) > 0 && !w.faulty {
		t.Errorf("%d sessions have no end", len(open))
	}
	filepath.WalkDir(w.journal, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			all.Write(b)
			if !w.faulty {
				t.Errorf("%s is left, %d bytes", path, len(b))
			}
		}
		return err
	})
	for _, secret := range []string{canary, callerKey, bobKey} {
		for _, place := range []struct{ name, text string }{{"the log and the journal", all.String()}, {"what the gateway said", w.said.String()}} {
			if i := strings.Index(place.text, secret); i >= 0 {
				t.Errorf("%s stands in %s: …%q…", secret, place.name, place.text[max(0, i-60):min(len(place.text), i+60)])
			}
		}
	}
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
	return w.doAs(ctx, callerKey, method, path, body)
}

func (w *world) doAs(ctx context.Context, key, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if strings.Contains(path, "/v1/messages") {
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
	signed, err := w.log.Publish()
	if err != nil {
		w.t.Fatal(err)
	}
	c, _, err := tlog.OpenCheckpoint(signed, w.log.Verifier())
	if err != nil {
		w.t.Fatal(err)
	}
	var out []record.Entry
	for i := uint64(0); i < c.Size; i += tlog.TileWidth {
		tile := tlog.TileAt(tlog.EntriesLevel, min(i+tlog.TileWidth, c.Size)-1, c.Size)
		data, err := tlog.ReadTile(ctx, w.log, tile)
		if err != nil {
			w.t.Fatal(err)
		}
		bundle, err := tlog.ParseBundle(data, tile.Width)
		if err != nil {
			w.t.Fatal(err)
		}
		for j, b := range bundle {
			e, err := record.ParseEntry(b)
			if err != nil {
				w.t.Fatalf("entry %d: %v", int(i)+j, err)
			}
			out = append(out, e)
		}
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
	r, err := w.coder().Open(payload, key, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
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
		var k keptSession
		for _, e := range w.entries() {
			if e.Session == sid {
				k.entries = append(k.entries, e)
			}
		}
		if n := len(k.entries); n > 0 && k.entries[n-1].Kind != record.Request {
			for _, e := range k.entries {
				k.records = append(k.records, w.open(e))
			}
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

func bufioOf(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
