package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

const (
	testOrigin = "log.example/remote"
	testWriter = "gw-1"
	testToken  = "canary-token-0123456789abcdef"
	patience   = time.Minute // for what happens at once where nobody else uses the machine
)

// plain is a Secret in the clear.
type plain string

func (p plain) Reveal() []byte { return []byte(p) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// everything is a client that may do everything, by testToken.
func everything() Client {
	return Client{Name: "gateway", Tokens: []string{digest([]byte(testToken))}, Writers: []string{testWriter}, Payloads: true, Discard: true}
}

// anything is a Check that takes every entry.
func anything(string, []byte) error { return nil }

// A site is where the log's process runs: a disk, an address, and at times a server. Its client finds it again at the same
// address after every start.
type site struct {
	t        testing.TB
	addr     string
	server   ServerConfig
	set      tlogtest.Setting
	cosigner *cosigner // nil for none
	// between wraps the engine for the server; nil for no wrapping.
	between func(*local.Log) Engine

	dir      string
	fs       vfs.FS
	interval time.Duration // between checkpoints
	logger   *slog.Logger  // of clients; nil for none

	mu      sync.Mutex
	up      *process
	leashes map[*Log]*leash
	strays  sync.WaitGroup // processes that crashed, and still end
}

// A process is one life of the log's process.
type process struct {
	log    *local.Log
	server *Server
	ln     *wires
	anchor *cutAnchor
	stop   context.CancelFunc
	served chan error
	ran    chan error
	end    context.CancelFunc
}

func newSetting(origin string) tlogtest.Setting {
	key, vkey := tlogtest.Key(origin)
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		panic(err)
	}
	return tlogtest.Setting{Origin: origin, Signer: key, Verifier: verifier, Latest: new(tlogtest.Latest)}
}

// newSite makes a site with an empty disk in memory that loses power well, where nothing is up.
func newSite(t testing.TB) *site {
	ln := listen(t, "127.0.0.1:0")
	s := &site{t: t, addr: ln.Addr().String(), set: newSetting(testOrigin), dir: "/log", fs: vfs.NewCrashableMem(), interval: 10 * time.Millisecond, leashes: make(map[*Log]*leash)}
	ln.Close()
	s.server = ServerConfig{Origin: testOrigin, Clients: []Client{everything()}, Check: anything}
	t.Cleanup(func() {
		s.down()
		s.strays.Wait()
	})
	return s
}

// listen listens, waiting for an address that is still in use.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return ln
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// start opens the log and serves it.
func (s *site) start() *process {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up != nil {
		s.t.Fatal("the site is up")
	}
	p := &process{anchor: &cutAnchor{Latest: s.set.Latest}, served: make(chan error, 1), ran: make(chan error, 1)}
	var err error
	c := local.Config{
		Origin: s.set.Origin, Signer: s.set.Signer, Verifier: s.set.Verifier, Latest: p.anchor, FS: s.fs,
		Interval: s.interval, AnchorTimeout: 2 * time.Second, MinFree: -1, Ballast: -1,
	}
	if s.cosigner != nil {
		c.Cosigner, c.Policy, c.CosignEvery, c.LastWait = s.cosigner, s.cosigner.policy, s.interval, 10*time.Millisecond
	}
	p.log, err = local.Open(s.dir, c)
	if err != nil {
		s.t.Fatal(err)
	}
	var engine Engine = p.log
	if s.between != nil {
		engine = s.between(p.log)
	}
	s.server.Origin = s.set.Origin
	if p.server, err = NewServer(engine, s.server); err != nil {
		s.t.Fatal(err)
	}
	p.ln = &wires{Listener: listen(s.t, s.addr), conns: make(map[net.Conn]bool)}
	var run, serve context.Context
	run, p.end = context.WithCancel(context.Background())
	serve, p.stop = context.WithCancel(context.Background())
	go func() { p.ran <- p.log.Run(run) }()
	go func() { p.served <- p.server.Run(serve, p.ln) }()
	s.up = p
	return p
}

// quiet waits until all that is durable is published.
func (p *process) quiet(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if st := p.log.Stats(); st.Published == st.Size {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all is published: %+v", p.log.Stats())
		}
	}
}

// settled waits until the engine has answered for every append.
func (p *process) settled(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		flying := 0
		p.server.mu.Lock()
		for _, l := range p.server.leases {
			flying += l.flying
		}
		p.server.mu.Unlock()
		if flying == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the engine does not answer for %d appends", flying)
		}
	}
}

// down ends the process in order, if there is one.
func (s *site) down() {
	s.t.Helper()
	s.mu.Lock()
	p := s.up
	s.up = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	p.stop()
	if err := <-p.served; err != nil {
		s.t.Logf("the server ended: %v", err)
	}
	p.end()
	if err := <-p.ran; err != nil {
		s.t.Logf("the log ended: %v", err)
	}
	if err := p.log.Close(); err != nil {
		s.t.Logf("the log is closed: %v", err)
	}
}

// crash ends the process as a loss of power does: nobody hears of it any more, then the disk is as it is, less what was not
// synced. The process itself goes on for a while on a disk that is not the site's any more, unheard.
func (s *site) crash(unsynced int) {
	s.t.Helper()
	s.mu.Lock()
	p := s.up
	s.up = nil
	s.mu.Unlock()
	p.ln.cut()
	p.anchor.cut()
	s.fs = s.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: newRand()})
	p.stop()
	s.strays.Go(func() {
		p.end()
		<-p.served
		<-p.ran
		p.log.Close()
	})
}

// config is the Config of a client of the site.
func (s *site) config() Config {
	scheme := "http://"
	if s.server.TLS != nil {
		scheme = "https://"
	}
	return Config{URL: scheme + s.addr, Origin: s.set.Origin, Writer: testWriter, Token: plain(testToken), Stall: 20 * time.Second, Logger: s.logger}
}

// client makes a client.
func (s *site) client(c Config) *Log {
	s.t.Helper()
	l, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	h := new(leash)
	l.transport.DialContext = h.dial
	s.mu.Lock()
	s.leashes[l] = h
	s.mu.Unlock()
	return l
}

// run runs a client until the test ends or stop is called, which returns Run's answer.
func run(t testing.TB, l *Log) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		defer l.Close()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run does not end with its context")
		}
	})
	t.Cleanup(func() { stop() })
	return stop
}

// A cosigner is a witness that signs whatever comes, while it is not away, and a policy that publishes nothing without it.
type cosigner struct {
	key    *tlog.CosignatureSigner
	policy *tlog.Policy
	away   atomic.Bool
}

func newCosigner(t testing.TB) *cosigner {
	t.Helper()
	key, err := tlog.NewCosigner("witness.example/w", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	_, vkey := tlogtest.Key(testOrigin)
	policy, err := tlog.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness w %s\nquorum w\n", vkey, key.VerifierKey()))
	if err != nil {
		t.Fatal(err)
	}
	return &cosigner{key: key, policy: policy}
}

func (w *cosigner) Cosign(_ context.Context, signed []byte, _ func(context.Context, uint64) (tlog.Proof, error)) ([]byte, error) {
	if w.away.Load() {
		return nil, errors.New("the witness is away")
	}
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	blob, err := w.key.Sign(append(bytes.Clone(text), '\n'))
	if err != nil {
		return nil, err
	}
	blob = append(binary.BigEndian.AppendUint32(nil, w.key.KeyHash()), blob...)
	return fmt.Appendf(bytes.Clone(signed), "— %s %s\n", w.key.Name(), base64.StdEncoding.EncodeToString(blob)), nil
}

// A cutAnchor is an anchor that a process loses touch with.
type cutAnchor struct {
	tlog.Latest
	mu   sync.RWMutex
	gone bool
}

var errGone = errors.New("the anchor cannot be reached")

func (a *cutAnchor) Load(ctx context.Context, origin string) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.gone {
		return nil, errGone
	}
	return a.Latest.Load(ctx, origin)
}

func (a *cutAnchor) Swap(ctx context.Context, origin string, old, new []byte) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.gone {
		return errGone
	}
	return a.Latest.Swap(ctx, origin, old, new)
}

func (a *cutAnchor) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
}

// wires are the connections of a server, which can all be cut at once.
type wires struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	dead  bool
}

func (w *wires) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		c.Close()
		return nil, net.ErrClosed
	}
	k := &wire{c, w}
	w.conns[k] = true
	return k, nil
}

// cut closes everything; what was not sent yet never is.
func (w *wires) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	w.Listener.Close()
	for c := range w.conns {
		c.(*wire).Conn.(*net.TCPConn).SetLinger(0)
		c.(*wire).Conn.Close()
	}
}

// sever closes the connections that there are.
func (w *wires) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.(*wire).Conn.Close()
	}
}

type wire struct {
	net.Conn
	of *wires
}

func (w *wire) Close() error {
	w.of.mu.Lock()
	delete(w.of.conns, w)
	w.of.mu.Unlock()
	return w.Conn.Close()
}

// A leash is the connections of a client, which can all be cut, for ever.
type leash struct {
	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func (h *leash) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		c.Close()
		return nil, errors.New("the process has ended")
	}
	h.conns = append(h.conns, c)
	return c, nil
}

func (h *leash) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = true
	for _, c := range h.conns {
		c.Close()
	}
}

// crashClient ends a client as the end of its process does: nothing that it sends arrives any more. What has arrived is
// settled when it returns, for another client has taken the lease.
func (s *site) crashClient(l *Log) {
	s.t.Helper()
	s.mu.Lock()
	h := s.leashes[l]
	s.mu.Unlock()
	h.cut()
	next := s.client(s.config())
	defer next.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := next.takeLease(ctx); err != nil {
		s.t.Error(err)
	}
}
