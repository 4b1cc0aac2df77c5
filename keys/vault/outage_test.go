package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
)

// A pipeline is a network of one address, in memory, so that a client and a server meet there in virtual time.
type pipeline struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once

	mu   sync.Mutex
	down bool // nobody listens
}

func newPipeline() *pipeline {
	return &pipeline{accepted: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipeline) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipeline) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipeline) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8200} }

func (p *pipeline) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	select {
	case p.accepted <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An outage is a fault of Vault that begins and ends.
type outage struct {
	name  string
	begin func(w *outageWorld)
	end   func(w *outageWorld) // nil: what faults there were are over
	// goesOn says that checkpoints are signed in spite of it.
	goesOn bool
}

// answering is an outage in which requests below a path are answered so. The answer may leave some to the fake.
func answering(name, below string, answer func(w http.ResponseWriter, r *http.Request, body map[string]any) bool) outage {
	return outage{name: name, begin: func(o *outageWorld) {
		o.vault.fail(func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			return strings.HasPrefix(r.URL.Path, "/v1/"+below) && answer(w, r, body)
		}, nil)
	}}
}

func refusing(code int, says string) func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
	return func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		refuse(w, code, says)
		return true
	}
}

func hang(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
	<-r.Context().Done()
	return true
}

// fail chooses faults while others ask.
func (f *fake) fail(fault func(w http.ResponseWriter, r *http.Request, body map[string]any) bool, lose func(r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.lose = fault, lose
}

// change does something to the fake while others ask.
func change(do func(f *fake)) func(o *outageWorld) {
	return func(o *outageWorld) {
		o.vault.mu.Lock()
		defer o.vault.mu.Unlock()
		do(o.vault)
	}
}

var outages = []outage{
	{name: "sealed", begin: change(func(f *fake) { f.sealed = true }), end: change(func(f *fake) { f.sealed = false })},
	{name: "down", begin: func(o *outageWorld) { o.net.setDown(true); o.server.Close() }, end: func(o *outageWorld) { o.serve() }},
	answering("hung", "", hang),
	answering("slow, 30 s", "", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		time.Sleep(30 * time.Second)
		return false
	}),
	answering("cut off", "", func(http.ResponseWriter, *http.Request, map[string]any) bool { panic(errCut) }),
	answering("403", "", refusing(403, "1 error occurred:\n\t* permission denied\n\n")),
	answering("403 to sign", "transit/", refusing(403, "1 error occurred:\n\t* permission denied\n\n")),
	answering("403 to the anchor", "secret/", refusing(403, "1 error occurred:\n\t* permission denied\n\n")),
	answering("429", "", refusing(429, "request path \"x\": rate limit quota exceeded")),
	answering("500", "", refusing(500, "1 error occurred:\n\t* storage is down\n\n")),
	answering("502 of a proxy", "", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		w.WriteHeader(502)
		fmt.Fprint(w, "<html>Bad Gateway</html>")
		return true
	}),
	answering("standby without an active node", "", refusing(500, "local node not active but active cluster node not found")),
	{
		name:  "the token expired, and no log-in",
		begin: change(func(f *fake) { f.secretID += "-changed"; expire(f) }), end: change(func(f *fake) { f.secretID = canary + "secret-id" }),
	},
	{
		name:  "the token revoked, and no log-in",
		begin: change(func(f *fake) { f.secretID += "-changed"; clear(f.tokens) }), end: change(func(f *fake) { f.secretID = canary + "secret-id" }),
	},
	{name: "the token expired", begin: change(expire), goesOn: true},
	{name: "the token revoked", begin: change(func(f *fake) { clear(f.tokens) }), goesOn: true},
	answering("a wrong signature", "transit/sign/", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		reply(w, map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(make([]byte, 64))})
		return true
	}),
	answering("a signature by another version", "transit/sign/", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		body["key_version"] = "2" // the server below answers so
		return false
	}),
	{
		name:  "another key in its place",
		begin: change(func(f *fake) { f.keys["log"], f.keys["aside"] = f.keys["other"], f.keys["log"] }),
		end:   change(func(f *fake) { f.keys["log"] = f.keys["aside"] }),
	},
	{name: "the key deleted", begin: change(func(f *fake) { f.keys["aside"] = f.keys["log"]; delete(f.keys, "log") }), end: change(func(f *fake) { f.keys["log"] = f.keys["aside"] })},
	{name: "its version archived", begin: change(func(f *fake) { f.keys["log"].min = 2 }), end: change(func(f *fake) { f.keys["log"].min = 0 })},
	{
		name: "the anchor deleted",
		begin: change(func(f *fake) {
			for _, s := range f.kv {
				s.versions[len(s.versions)-1].deleted = "2026-01-01T00:00:00Z"
			}
		}),
		end: change(func(f *fake) {
			for _, s := range f.kv {
				s.versions[len(s.versions)-1].deleted = ""
			}
		}),
	},
	{name: "swaps applied, and their answers lost", begin: func(o *outageWorld) { o.vault.fail(nil, isSwap) }, goesOn: true},
	{
		// The last thing that Vault does is to take in a swap.
		name: "a swap applied and its answer lost, and then nothing",
		begin: func(o *outageWorld) {
			gone := false
			o.vault.fail(func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				o.mu.Lock()
				hung := gone
				gone = gone || isSwap(r)
				o.mu.Unlock()
				return hung && hang(w, r, body)
			}, isSwap)
		},
	},
	answering("swaps not applied, and no answer", "secret/data/", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		return isSwap(r) && hang(w, r, body)
	}),
	answering("swaps not applied, and cut off", "secret/data/", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		if isSwap(r) {
			panic(errCut)
		}
		return false
	}),
}

// expire ends all tokens.
func expire(f *fake) {
	for _, t := range f.tokens {
		t.until = time.Now()
	}
}

// An outageWorld is a log in memory whose key and anchor lie in a fake Vault, and what an outsider knows of both.
type outageWorld struct {
	t      *testing.T
	vault  *fake
	net    *pipeline
	server *http.Server
	fs     *vfs.MemFS
	client *Client
	config local.Config

	mu     sync.Mutex
	acked  []tlog.Leaf
	signed []tlog.Checkpoint // in the order in which Vault was asked to sign them, each as often as it was

	log  *local.Log
	end  func() error
	idle func() // closes idle connections
}

func newOutageWorld(t *testing.T) *outageWorld {
	o := &outageWorld{t: t, vault: newFake(), fs: vfs.NewMem()}
	o.vault.ttl = time.Hour
	o.vault.engine["cas_required"] = true
	o.vault.signing = o.signing
	key := o.vault.addKey(t, "log", Ed25519)
	key.rotate(t)
	o.vault.addKey(t, "other", Ed25519)
	o.serve()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return o.network().dial(ctx, network, addr)
	}}
	o.idle = transport.CloseIdleConnections
	o.client = o.vault.client(t, func(c *Config) {
		c.Address, c.transport = "http://127.0.0.1:8200", transport
		c.Lookup = func(string) (string, bool) { return canary + "secret-id", true }
	})
	signer, err := o.client.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, key.vkey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := o.client.Latest(ref(t, "vault:secret/anchors"))
	if err != nil {
		t.Fatal(err)
	}
	o.config = local.Config{
		Origin: origin, Signer: signer, Verifier: signer.Verifier(), Latest: anchor, FS: o.fs, Cache: 1 << 20, MinFree: -1, Ballast: -1,
		MaxUnanchoredAge: time.Hour,
	}
	return o
}

// network is where Vault is found now.
func (o *outageWorld) network() *pipeline {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.net
}

func (p *pipeline) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// serve has Vault listen.
func (o *outageWorld) serve() {
	p, server := newPipeline(), &http.Server{Handler: o.vault}
	o.mu.Lock()
	o.net, o.server = p, server
	o.mu.Unlock()
	go server.Serve(p)
}

// signing is told what Vault signs, by whatever key: nothing that the anchor does not remember.
func (o *outageWorld) signing(msg []byte) {
	c, err := tlog.ParseCheckpoint(msg)
	if err != nil {
		o.t.Errorf("Vault is asked to sign %q: %v", msg, err)
	}
	for _, s := range o.vault.kv {
		if is := s.versions[len(s.versions)-1].data["checkpoint"]; is != string(msg) {
			o.t.Errorf("Vault is asked to sign %q, and the anchor remembers %q", msg, is)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, before := range o.signed {
		if before.Size == c.Size && before.Root != c.Root || before.Size > c.Size {
			o.t.Errorf("signed %q after %q", msg, before.Text())
		}
	}
	o.signed = append(o.signed, c)
}

// open opens the log and runs it.
func (o *outageWorld) open() {
	o.t.Helper()
	l, err := local.Open("/log", o.config)
	if err != nil {
		o.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	o.log, o.end = l, sync.OnceValue(func() error { cancel(); return errors.Join(<-ended, l.Close()) })
}

// close ends what goes on, whatever became of it.
func (o *outageWorld) close() {
	if o.end != nil {
		o.end()
	}
	o.idle()
	o.server.Close()
	time.Sleep(time.Minute) // who answers slowly does so to the end
}

// add appends a leaf, and notes that it was acknowledged.
func (o *outageWorld) add() error {
	n := len(o.acked)
	leaf := tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d", n), Payload: fmt.Appendf(nil, "payload %d", n)}
	at, err := o.log.Append(o.t.Context(), leaf)
	if err == nil && at[0] != uint64(n) {
		o.t.Fatalf("entry %d is at %d", n, at[0])
	}
	if err == nil {
		o.acked = append(o.acked, leaf)
	}
	return err
}

// fill appends n leaves, all of which must be taken.
func (o *outageWorld) fill(n int) {
	o.t.Helper()
	for range n {
		if err := o.add(); err != nil {
			o.t.Fatal(err)
		}
	}
}

// shown is the size of what readers see, by the pinned key.
func (o *outageWorld) shown() uint64 {
	o.t.Helper()
	signed, err := o.log.Checkpoint(o.t.Context())
	if errors.Is(err, tlog.ErrNotFound) {
		return 0
	}
	if err != nil {
		o.t.Fatal(err)
	}
	c, _, err := tlog.OpenCheckpoint(signed, o.config.Verifier)
	if err != nil {
		o.t.Fatal(err)
	}
	return c.Size
}

// settle waits until all that was acknowledged is published, and returns how long that took.
func (o *outageWorld) settle() time.Duration {
	o.t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if n, took := o.shown(), time.Since(begun); n == uint64(len(o.acked)) {
			return took
		} else if took > 10*time.Minute {
			o.t.Fatalf("%v after it, %d of %d entries are published", took, n, len(o.acked))
		}
	}
}

// whole reads everything back and holds it against what was acknowledged.
func (o *outageWorld) whole() {
	o.t.Helper()
	if err := o.log.Quarantined(); err != nil {
		o.t.Fatal(err)
	}
	if err := o.log.Check(o.t.Context(), nil); err != nil {
		o.t.Error(err)
	}
	n := uint64(len(o.acked))
	for first := uint64(0); first < n; first += tlog.TileWidth {
		tile := tlog.TileAt(tlog.EntriesLevel, first, n)
		data, err := tlog.ReadTile(o.t.Context(), o.log, tile)
		if err != nil {
			o.t.Fatal(err)
		}
		entries, err := tlog.ParseBundle(data, tile.Width)
		if err != nil {
			o.t.Fatal(err)
		}
		for i, e := range entries {
			if want := o.acked[first+uint64(i)]; !bytes.Equal(e, want.Entry) {
				o.t.Errorf("entry %d is %q, and acknowledged was %q", first+uint64(i), e, want.Entry)
			}
		}
	}
	for i, leaf := range o.acked {
		if b, err := o.log.Payload(o.t.Context(), sha256.Sum256(leaf.Payload)); err != nil || !bytes.Equal(b, leaf.Payload) {
			o.t.Errorf("the payload of entry %d: %q, %v", i, b, err)
		}
	}
}

// TestOutages has Vault at fault for half an hour of virtual time, in every way, while a log goes on whose key and anchor
// are there; in the middle of it the log is ended and opened again. Wanted is: everything is taken in and acknowledged;
// readers see the last checkpoint, and no other is signed, with any key; when the fault is over, what was on its way is
// signed, and one checkpoint for all the rest, within a minute and without anybody's doing; and nothing acknowledged is
// lost.
func TestOutages(t *testing.T) {
	for _, row := range outages {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutageWorld(t)
				defer o.close()
				o.open()
				o.fill(20)
				o.settle()
				before, begun := uint64(len(o.acked)), time.Now()
				row.begin(o)
				for restarted := false; time.Since(begun) < 30*time.Minute; time.Sleep(7 * time.Second) {
					o.fill(1)
					if n := o.shown(); n != before && !row.goesOn {
						t.Fatalf("a checkpoint of %d entries is shown, and nobody can have signed it", n)
					}
					if !restarted && time.Since(begun) > 15*time.Minute {
						restarted = true
						if err := o.end(); errors.Is(err, local.ErrUnsigned) == row.goesOn || row.goesOn && err != nil {
							t.Errorf("ended in the middle: %v", err)
						}
						o.open()
					}
				}
				time.Sleep(rand.N(3 * time.Second))
				o.mu.Lock()
				o.signed = o.signed[:0]
				o.mu.Unlock()
				if o.vault.fail(nil, nil); row.end != nil {
					row.end(o)
				}
				took := o.settle()
				t.Logf("all %d entries published %v after it", len(o.acked), took)
				if took > time.Minute {
					t.Errorf("it took %v", took)
				}
				sizes := map[uint64]bool{}
				for _, c := range o.signed {
					sizes[c.Size] = true
				}
				if n := len(sizes); n > 2 || n == 0 && !row.goesOn {
					t.Errorf("%d checkpoints were signed after it: %v", n, sizes)
				}
				o.fill(5)
				o.settle()
				if err := o.end(); err != nil {
					t.Error(err)
				}
				o.open()
				o.fill(5)
				o.settle()
				o.whole()
				if err := o.end(); err != nil {
					t.Error(err)
				}
				remembered, err := o.config.Latest.Load(t.Context(), origin)
				if c, perr := tlog.ParseCheckpoint(remembered); err != nil || perr != nil || c.Size != uint64(len(o.acked)) {
					t.Errorf("the anchor remembers %q, %v", remembered, err)
				}
			})
		})
	}
}

// TestOutageLimits has the log take in no more than it may while Vault is sealed, and go on by itself afterwards.
func TestOutageLimits(t *testing.T) {
	for name, limit := range map[string]func(c *local.Config){
		"count": func(c *local.Config) { c.MaxUnanchored = 50 },
		"age":   func(c *local.Config) { c.MaxUnanchoredAge = 30 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutageWorld(t)
				defer o.close()
				limit(&o.config)
				o.open()
				o.fill(20)
				o.settle()
				outages[0].begin(o)
				taken := 0
				for refused := 0; refused < 600; time.Sleep(time.Second) {
					switch err := o.add(); {
					case errors.Is(err, tlog.ErrBusy):
						refused++
					case err != nil:
						t.Fatal(err)
					case refused > 0:
						t.Fatal("taken in after it was too much")
					default:
						taken++
					}
				}
				if taken < 25 || taken > 51 {
					t.Errorf("%d entries were taken in", taken)
				}
				if s := o.log.Stats(); !errors.Is(s.Refuses, tlog.ErrBusy) || s.Err != nil || s.Busy != 600 || s.Unanchored < 10*time.Minute || time.Since(s.SignedAt) < 10*time.Minute || s.Signed != 20 {
					t.Errorf("by its own account: %+v", s)
				}
				outages[0].end(o)
				o.settle()
				o.fill(20)
				o.settle()
				o.whole()
				if s := o.log.Stats(); s.Refuses != nil || s.Unanchored != 0 || time.Since(s.SignedAt) > time.Second || time.Since(s.PublishedAt) > time.Second {
					t.Errorf("by its own account, after it: %+v", s)
				}
			})
		})
	}
}
