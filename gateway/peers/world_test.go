package peers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
)

// direct: the clients talk to the model itself. Status 000, and an end of the transport without the protocol's own, then
// look fine to them; the gateway in between must turn both into errors.
var direct bool

// Every test runs twice: against the model, which shows what the clients make of it, and through the gateway, which must
// change nothing but that.
func TestMain(m *testing.M) {
	for _, direct = range []bool{true, false} {
		fmt.Println("direct:", direct)
		if code := m.Run(); code != 0 {
			os.Exit(code)
		}
	}
}

const (
	modelKey  = "sk-test-key-of-the-model"
	callerKey = "tk-test-key-of-the-caller"
)

// world starts what the clients talk to, and returns the base URLs of the two APIs and the key they accept, which is key().
func world(t *testing.T) (openaiBase, anthropicBase, shown string) {
	t.Helper()
	ln := listen(t)
	run(t, func(ctx context.Context) error {
		return gatewaytest.New(gatewaytest.Config{Key: modelKey}).Run(ctx, ln)
	})
	base := "http://" + ln.Addr().String()
	if direct {
		return base + "/v1", base, key()
	}
	base, _ = passing(t, base)
	return base + "/v1", base + "/anthropic", key()
}

// passing starts a gateway before a model, and returns its base URL and a policy that names its log.
func passing(t *testing.T, model string) (base string, policy *tlog.Policy) {
	t.Helper()
	l, policy := openLog(t)
	return through(t, model, l, openRing(t), nil), policy
}

// through starts a gateway before a model that writes to a log. change may alter its configuration.
func through(t *testing.T, model string, l *local.Log, keys ring.ByName, change func(*gateway.Config)) (base string) {
	t.Helper()
	up, err := url.Parse(model)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(callerKey))
	cfg := gateway.Config{
		ID: "gw-peers", Software: "tallystick/peers", Log: l, Origin: origin, Keys: keys, Journal: t.TempDir(),
		Routes: []gateway.Route{
			{Name: "openai", API: gateway.OpenAI, Upstream: up, Credential: secret(modelKey)},
			{Name: "anthropic", API: gateway.Anthropic, Prefix: "/anthropic/", Upstream: up, Credential: secret(modelKey)},
		},
		Callers: []gateway.Caller{{Name: "sdk", SHA256: hex.EncodeToString(sum[:])}},
	}
	if change != nil {
		change(&cfg)
	}
	g, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	calls := listen(t)
	run(t, func(ctx context.Context) error { return g.Run(ctx, calls) })
	return "http://" + calls.Addr().String()
}

// key is what a client shows: the model's own, or the caller's at the gateway.
func key() string {
	if direct {
		return modelKey
	}
	return callerKey
}

type secret string

func (s secret) Reveal() []byte { return []byte(s) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// run runs something until the test ends. What was started last ends first.
func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

const origin = "peers.example/log"

// openLog makes a log on the disk, and a policy that names it. When the test ends, every session in it must have ended.
func openLog(t *testing.T) (*local.Log, *tlog.Policy) {
	t.Helper()
	dir := t.TempDir()
	signer, err := file.Create(filepath.Join(dir, "key"), origin)
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := latest.Open(filepath.Join(dir, "anchor"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := local.Open(filepath.Join(dir, "log"), local.Config{
		Origin: origin, Signer: signer, Verifier: signer.Verifier(), Latest: anchor, Head: filepath.Join(dir, "HEAD"), Ballast: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		finished(t, l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	run(t, l.Run)
	policy, err := tlog.ParsePolicy([]byte("log " + signer.VerifierKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	return l, policy
}

// finished reads the whole log.
func finished(t *testing.T, l *local.Log) {
	ctx := context.Background()
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Error(err)
		return
	}
	left, err := record.FindUnfinished(ctx, l, "gw-peers", c.Size)
	if err != nil || len(left) > 0 {
		t.Errorf("%d sessions have not ended: %v", len(left), err)
	}
}

func openRing(t *testing.T) ring.ByName {
	t.Helper()
	dir := t.TempDir()
	kek, err := file.CreateKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek, Batch: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	run(t, r.Run)
	return ring.ByName{Ring: r}
}
