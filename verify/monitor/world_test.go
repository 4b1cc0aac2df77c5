package monitor

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A net is the hosts that a monitor under test can reach, without a network: so a test can live in a bubble of its own time.
type net struct {
	mu    sync.Mutex
	hosts map[string]http.Handler
	asked []string // "host/path" of every request
}

func newNet() *net { return &net{hosts: make(map[string]http.Handler)} }

func (n *net) set(host string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = h
}

// requests returns and forgets what was asked.
func (n *net) requests() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.asked
	n.asked = nil
	return r
}

var errRefused = errors.New("connection refused")

// hang is a panic of a handler that never answers.
var hang = errors.New("no answer")

func (n *net) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	n.mu.Lock()
	h := n.hosts[req.URL.Host]
	n.asked = append(n.asked, req.URL.Host+req.URL.Path)
	n.mu.Unlock()
	if h == nil {
		return nil, errRefused
	}
	defer func() {
		if p := recover(); p == hang {
			<-req.Context().Done()
			resp, err = nil, req.Context().Err()
		} else if p != nil {
			panic(p)
		}
	}()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	resp = w.Result()
	resp.Request = req
	return resp, nil
}

// A source is what a log serves, as a test bends it.
type source struct {
	*tlogtest.Log
	mu         sync.Mutex
	checkpoint func(signed []byte) ([]byte, error)
	kept       func(size uint64, signed []byte) ([]byte, error)
	tile       func(t tlog.Tile, data []byte) ([]byte, error)
}

func (s *source) bend(f func(s *source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *source) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := s.Log.Checkpoint(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.checkpoint != nil {
		return s.checkpoint(signed)
	}
	return signed, err
}

func (s *source) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	signed, err := s.Log.CheckpointAt(ctx, size)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.kept != nil {
		return s.kept(size, signed)
	}
	return signed, err
}

func (s *source) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	data, err := s.Log.Tile(ctx, t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.tile != nil {
		return s.tile(t, data)
	}
	return data, err
}

// A world is a log, its writer, a witness, and a monitor that follows.
type world struct {
	t       *testing.T
	net     *net
	log     *source
	witness *witness
	pen     *pen
	dir     string
	conf    Config

	mu     sync.Mutex
	events []Event
}

const (
	logHost     = "log.test"
	witnessHost = "witness.test"
)

func newWorld(t *testing.T) *world {
	w := &world{t: t, net: newNet(), dir: filepath.Join(t.TempDir(), "state")}
	w.witness = newWitness(t, "witness.example/a")
	w.log = w.newLog(tlogtest.Config{Manual: true})
	w.pen = newPen(t, w.log.Log)
	w.serve(w.log)
	w.net.set(witnessHost, w.witness)
	w.conf = Config{
		URLs: []string{"http://" + logHost}, Dir: w.dir, Policy: w.policy("all"), Tell: w.tell,
		Client: &http.Client{Transport: w.net, Timeout: time.Minute},
	}
	return w
}

func (w *world) newLog(c tlogtest.Config) *source {
	s := &source{Log: tlogtest.Start(w.t, c)}
	s.checkpoint = w.witness.cosign
	s.kept = func(_ uint64, signed []byte) ([]byte, error) { return w.witness.cosign(signed) }
	return s
}

// serve makes a log the one that is reached.
func (w *world) serve(r tlog.Reader) { w.net.set(logHost, tiles.Handler(r, tiles.Options{})) }

func (w *world) policy(rule string) *tlog.Policy {
	w.t.Helper()
	_, vkey := tlogtest.Key(tlogtest.Origin)
	text := "log " + vkey + "\nwitness w " + w.witness.VerifierKey() + "\n"
	if rule == "none" {
		text += "quorum none\n"
	} else {
		text += "group g " + rule + " w\nquorum g\n"
	}
	p, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) tell(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// told returns the events until now, but for what is in the ordinary course, and forgets them all.
func (w *world) told() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	es := slices.DeleteFunc(slices.Clone(w.events), func(e Event) bool { return e.Level == Note && e.Kind != Over })
	w.events = nil
	return es
}

func kinds(es []Event) string {
	var ks []string
	for _, e := range es {
		ks = append(ks, string(e.Kind))
	}
	return strings.Join(ks, " ")
}

// want wants these kinds of events to have been told since the last time, and returns them.
func (w *world) want(kindsWanted string) []Event {
	w.t.Helper()
	es := w.told()
	if got := kinds(es); got != kindsWanted {
		for _, e := range es {
			w.t.Logf("%+v", e)
		}
		w.t.Fatalf("told: %q, want %q", got, kindsWanted)
	}
	return es
}

// A running monitor.
type running struct {
	stop func()
	done chan struct{}
	err  error
}

// start runs a monitor of the world until the test, or stop, ends it.
func (w *world) start(edit ...func(*Config)) *running {
	w.t.Helper()
	c := w.conf
	for _, f := range edit {
		f(&c)
	}
	m, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &running{done: make(chan struct{})}
	r.stop = func() { cancel(); <-r.done }
	go func() { defer close(r.done); r.err = m.Run(ctx) }()
	w.t.Cleanup(r.stop)
	return r
}

// ended says whether it ended by itself.
func (r *running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// once runs one round.
func (w *world) once(edit ...func(*Config)) error {
	w.t.Helper()
	r := w.start(append(edit, func(c *Config) { c.Once = true })...)
	<-r.done
	return r.err
}

// remembered returns the checkpoint in the directory.
func (w *world) remembered() tlog.Checkpoint {
	w.t.Helper()
	sum := sha256.Sum256([]byte(tlogtest.Origin))
	signed, err := os.ReadFile(filepath.Join(w.dir, hex.EncodeToString(sum[:]), "checkpoint"))
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// A witness cosigns whatever it is shown, at the time of the test, and shows what it is told to.
type witness struct {
	*tlog.CosignatureSigner
	mu    sync.Mutex
	away  bool
	fast  time.Duration // its clock is
	shown []byte
	log   note.Signer
}

func newWitness(t *testing.T, name string) *witness {
	seed := sha256.Sum256([]byte(name))
	s, err := tlog.NewCosigner(name, ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	log, _ := tlogtest.Key(tlogtest.Origin)
	return &witness{CosignatureSigner: s, log: log}
}

// cosign adds its cosignature, unless it is away.
func (w *witness) cosign(signed []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return signed, nil
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: string(c.Text())}, w.log, w)
}

// Sign signs at the time of its clock.
func (w *witness) Sign(msg []byte) ([]byte, error) {
	return w.SignAt(msg, uint64(time.Now().Add(w.fast).Unix()))
}

func (w *witness) set(f func(w *witness)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// ServeHTTP is its monitoring prefix.
func (w *witness) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := sha256.Sum256([]byte(tlogtest.Origin))
	if w.shown == nil || req.URL.Path != "/"+hex.EncodeToString(sum[:])+"/checkpoint" {
		http.NotFound(rw, req)
		return
	}
	rw.Write(w.shown)
}

// A pen writes entries of one gateway by hand, so that it can do it wrong.
type pen struct {
	t    *testing.T
	log  *tlogtest.Log
	by   string
	boot record.ID
	seq  uint64
	last time.Time
}

func newPen(t *testing.T, l *tlogtest.Log) *pen { return &pen{t: t, log: l, by: "gw-1"} }

func (p *pen) put(e record.Entry) {
	p.t.Helper()
	e.By, e.Boot, e.Seq, e.Time = p.by, p.boot, p.seq, time.Now().UTC().Truncate(time.Microsecond)
	p.seq++
	b, err := e.Append(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.log.Append(p.t.Context(), tlog.Leaf{Entry: b}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pen) start() {
	p.boot, p.seq = record.NewID(time.Now()), 0
	p.put(record.Entry{Kind: record.Start, Software: "tally/1", Mode: "strict", Every: 10 * time.Second})
}

// beat writes n heartbeats at once and publishes them.
func (p *pen) beat(n int) {
	p.t.Helper()
	for range n {
		p.put(record.Entry{Kind: record.Heartbeat, Beat: true})
	}
	p.publish()
}

func (p *pen) publish() []byte {
	p.t.Helper()
	signed, err := p.log.Publish()
	if err != nil {
		p.t.Fatal(err)
	}
	return signed
}

// fork returns a log with the same first entries and then others.
func (w *world) fork(same uint64, others int) (*source, *pen) {
	w.t.Helper()
	f := w.newLog(tlogtest.Config{Manual: true})
	ts := tlog.Tiles{Reader: w.log.Log, Size: w.log.Size()}
	for i := range same {
		b, err := ts.Entry(w.t.Context(), i)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := f.Append(w.t.Context(), tlog.Leaf{Entry: b}); err != nil {
			w.t.Fatal(err)
		}
	}
	p := newPen(w.t, f.Log)
	p.by = "gw-2"
	p.start()
	p.beat(others - 1)
	return f, p
}

// evidences reads what is kept, and proves each piece again from its files alone.
func (w *world) evidences() []evidence {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "evidence", "*.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	var all []evidence
	for _, f := range files {
		all = append(all, w.proven(f))
	}
	return all
}
