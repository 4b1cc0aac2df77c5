package peers

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
)

// TestLossy puts a proxy before the engines that loses every third write to the anchor and every fifth signature, half of
// them before they arrive and half of the answers after. The log goes on by itself: what is published is what was
// anchored, of each size there is one tree, and nobody finds a fork.
func TestLossy(t *testing.T) {
	t.Parallel()
	s := startTransit(t)
	s.do(t, "POST", "transit/keys/log", `{"type":"ed25519"}`)
	s.do(t, "POST", "secret/config", `{"cas_required":true}`)
	behind, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(behind)
	var mu sync.Mutex
	lost := map[string]int{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lose := ""
		mu.Lock()
		switch {
		case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/secret/data/") && rand.N(3) == 0:
			lose = "swap"
		case strings.HasPrefix(r.URL.Path, "/v1/transit/sign/") && rand.N(5) == 0:
			lose = "signature"
		}
		after := rand.N(2) == 0
		if lose != "" {
			if after {
				lose += " answered"
			}
			lost[lose]++
		}
		mu.Unlock()
		if lose == "" {
			forward.ServeHTTP(w, r)
			return
		}
		if after {
			forward.ServeHTTP(httptest.NewRecorder(), r)
		} else {
			io.Copy(io.Discard, r.Body)
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}))
	defer proxy.Close()
	c, err := vault.New(vault.Config{Address: proxy.URL, Login: vault.Login{Token: keys.Credential{File: file(t, s.root)}}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	signer, err := c.Signer(ctx, ref(t, "vault:transit/log?version=1"), origin, "")
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := c.Latest(ref(t, "vault:secret/log"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "log")
	seen := map[uint64]tlog.Hash{}
	next := uint64(0)
	for range 3 { // lives
		l, err := local.Open(dir, local.Config{Origin: origin, Signer: signer, Verifier: signer.Verifier(), Latest: anchor, Interval: 10 * time.Millisecond, MaxUnanchoredAge: time.Hour, MinFree: -1, Ballast: -1})
		if err != nil {
			t.Fatal(err)
		}
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- l.Run(rctx) }()
		for range 15 {
			if _, err := l.Append(ctx, tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d", next)}); err != nil {
				t.Fatal(err)
			}
			next++
			await(t, fmt.Sprintf("a checkpoint of size %d", next), func() error {
				if q := l.Quarantined(); q != nil {
					t.Fatalf("in quarantine: %v", q)
				}
				signed, err := l.Checkpoint(ctx)
				if err != nil {
					return err
				}
				cp, _, err := tlog.OpenCheckpoint(signed, signer.Verifier())
				if err != nil {
					t.Fatal(err)
				}
				if root, ok := seen[cp.Size]; ok && root != cp.Root {
					t.Fatalf("two trees of %d entries", cp.Size)
				}
				seen[cp.Size] = cp.Root
				if cp.Size != next {
					return fmt.Errorf("it has %d", cp.Size)
				}
				return nil
			})
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	remembered, err := anchor.Load(ctx, origin)
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := tlog.ParseCheckpoint(remembered); err != nil || cp.Size != next || cp.Root != seen[next] {
		t.Errorf("the anchor remembers %q, %v", remembered, err)
	}
	t.Logf("lost: %v", lost)
	for _, what := range []string{"swap", "swap answered", "signature", "signature answered"} {
		if lost[what] == 0 {
			t.Logf("no %s was lost this time", what)
		}
	}
	if lost["swap"]+lost["swap answered"] == 0 {
		t.Error("nothing was lost: this test sees nothing")
	}
}
