package peers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// A notary stands before a Vault and writes down what it has signed.
type notary struct {
	mu     sync.Mutex
	signed []tlog.Checkpoint
}

// before returns the address of a notary before s.
func (n *notary) before(t *testing.T, s *server) string {
	t.Helper()
	behind, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(behind)
	forward.ErrorLog = log.New(io.Discard, "", 0) // who is killed leaves in the middle
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/transit/sign/") {
			forward.ServeHTTP(w, r)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var body struct{ Input []byte }
		c, perr := tlog.Checkpoint{}, json.Unmarshal(b, &body)
		if perr == nil {
			c, perr = tlog.ParseCheckpoint(body.Input)
		}
		if perr != nil {
			t.Errorf("what is to be signed is no checkpoint: %v: %s", perr, b)
		}
		n.mu.Lock()
		n.signed = append(n.signed, c) // whether the signature arrives or not
		n.mu.Unlock()
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// agree says that all that was ever signed is the history of one log: that which h serves.
func (n *notary) agree(h *house) {
	t := h.t
	t.Helper()
	n.mu.Lock()
	signed := slices.Clone(n.signed)
	n.mu.Unlock()
	c, err := tlog.UnverifiedCheckpoint(h.settle())
	if err != nil {
		t.Fatal(err)
	}
	r, err := tiles.FromURL("http://"+h.reads, http.DefaultClient, tiles.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	all := tlog.Tiles{Reader: r, Size: c.Size}
	for _, s := range signed {
		if s.Size > c.Size {
			t.Errorf("signed were %d entries, and the log that went on has %d", s.Size, c.Size)
		} else if root, err := all.Root(t.Context(), s.Size); err != nil {
			t.Error(err)
		} else if root != s.Root {
			t.Errorf("signed was the root %s for %d entries, and in the log that went on these have %s", s.Root, s.Size, root)
		}
	}
}

// twin returns a house with a copy of h's directory.
func (h *house) twin() *house {
	h.t.Helper()
	t := *h
	t.dir, t.calls, t.reads = h.t.TempDir(), freePort(h.t), freePort(h.t)
	if err := os.CopyFS(t.dir, os.DirFS(h.dir)); err != nil {
		h.t.Fatal(err)
	}
	t.configure("")
	return &t
}

// TestTwins has the engines be asked by twins.
func TestTwins(t *testing.T) {
	t.Parallel()
	twinsStories(t, startTransit(t), nil)
}

// twinsStories starts two processes on copies of one directory at once, with one Vault, again and again. Exactly one goes
// on. The other signs nothing from then on, takes no calls, and says so; and all that is ever signed is one history.
func twinsStories(t *testing.T, s *server, who func(h *house) string) {
	n := new(notary)
	h := newHouse(t, s, vault.Ed25519, who)
	h.who = strings.ReplaceAll(h.who, s.url, n.before(t, s))
	h.configure("")
	h.start()
	h.stop()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 6 {
		h = twinsStory(t, h, n, rnd, round)
	}
}

// twinsStory starts two copies of h, under load, and returns the one that goes on, stopped.
func twinsStory(t *testing.T, h *house, n *notary, rnd *rand.Rand, round int) *house {
	both := []*house{h.twin(), h.twin()}
	acked := make([][]string, len(both)) // by one goroutine each
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i, twin := range both {
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		twin.launch()
		pause := time.Duration(rnd.IntN(20)+1) * time.Millisecond
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
				if session, _, err := twin.call("from a twin"); err == nil {
					acked[i] = append(acked[i], session)
				}
			}
		})
	}
	lost := -1
	await(t, "one of two to be in quarantine", func() error {
		for i, twin := range both {
			if twin.ended() {
				t.Fatalf("round %d: it ended with %v\n%s", round, twin.end, twin.out)
			}
			if q, err := twin.metric("quarantined"); err == nil && q == 1 {
				lost = i
				return nil
			}
		}
		return errors.New("none is")
	})
	loser, winner := both[lost], both[1-lost]
	await(t, "the other to take calls", func() error { _, _, err := winner.call("who is there"); return err })
	close(stop)
	load.Wait()
	winner.complete(acked[1-lost])
	if q, err := winner.metric("quarantined"); err != nil || q != 0 {
		t.Fatalf("round %d: both are in quarantine: %v\n%s\n%s", round, err, winner.out, loser.out)
	}
	var refused *statusError
	if _, _, err := loser.call("anybody"); !errors.As(err, &refused) || refused.status != http.StatusServiceUnavailable || !strings.Contains(refused.body, "record_unavailable") {
		t.Errorf("round %d: a call to the log in quarantine: %v\n%s", round, err, loser.out)
	}
	if evidence, err := os.ReadDir(filepath.Join(loser.dir, "data", "log", "quarantine")); err != nil || len(evidence) == 0 {
		t.Errorf("round %d: no evidence: %v", round, err)
	}
	n.agree(winner)
	loser.kill()
	winner.stop()
	return winner
}
