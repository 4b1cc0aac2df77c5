package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys/vault"
)

// TestHouse runs the product with everything in the engines.
func TestHouse(t *testing.T) {
	t.Parallel()
	s := startTransit(t)
	for _, kind := range []string{vault.Ed25519, vault.ECDSAP256} {
		t.Run(kind, func(t *testing.T) {
			h := newHouse(t, s, kind, nil)
			houseStory(h, kind)
			rotationStory(h, "")
		})
	}
}

// houseStory serves calls, hands one out, has the auditor's tool and verifiers that are not ours check it, and starts again.
func houseStory(h *house, kind string) {
	t := h.t
	h.start()
	var sessions []string
	for i := range 5 {
		session, answer, err := h.call(fmt.Sprintf("call %d", i))
		if err != nil || !strings.Contains(answer, `"choices"`) {
			t.Fatalf("%v: %s", err, answer)
		}
		sessions = append(sessions, session)
	}
	h.complete(sessions)
	h.tally("export", sessions[0], "--config", "tally.yaml", "-o", "session.bundle")
	h.verify(0, "bundle", "session.bundle", "--policy", "policy")
	h.verify(0, "log", "--url", "http://"+h.reads, "--policy", "policy")
	signed := h.settle()
	theirs, err := formats.NewVerifier(h.vkey)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(signed, note.VerifierList(theirs)); err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		t.Errorf("by transparency-dev's formats: %v\n%s", err, signed)
	}
	if kind == vault.Ed25519 {
		xmod, err := note.NewVerifier(h.vkey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, note.VerifierList(xmod)); err != nil {
			t.Errorf("by x/mod's note: %v", err)
		}
	}
	h.stop()
	h.tally("fsck", "--config", "tally.yaml")
	h.start()
	h.complete(sessions)
	h.stop()
	// Nothing of all that is a key, but for the token to come to Vault with, and the keys in the ring are wrapped there.
	err = filepath.WalkDir(h.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "PRIVATE") || strings.Contains(string(b), "sk-model") {
			t.Errorf("%s has a key in it", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if ring, err := os.ReadDir(filepath.Join(h.dir, "data", "ring")); err != nil || len(ring) == 0 {
		t.Errorf("the ring: %v, %v", ring, err)
	} else if s := h.read("data/ring/ring"); !strings.Contains(s, "vault:v1:") {
		t.Error("the ring's key is not wrapped in Vault")
	}
}

// rotationStory gives the log another version of its key while calls pass, and lets it sign alone. Nobody ever sees a
// checkpoint with a key that was not announced; who has either key follows through the overlap; what was handed out before
// verifies. Then versions that cannot be right are put into the configuration: nothing is published by them, nor by any
// other.
func rotationStory(h *house, policies string) {
	t := h.t
	h.start()
	defer h.kill()
	l := h.look(h.vkey)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var sessions []string
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			session, _, err := h.call("under load")
			if err != nil {
				t.Errorf("a call while the key is rotated: %v", err)
				return
			}
			sessions = append(sessions, session)
		}
	})
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	bundle := func(name string) {
		t.Helper()
		session, _, err := h.call(name)
		if err != nil {
			t.Fatal(err)
		}
		h.tally("export", session, "--config", "tally.yaml", "-o", name)
	}
	bundle("before")
	h.write("old.policy", h.read("policy"))
	h.tally("keys", "rotate", "--config", "tally.yaml", "--policies", policies)
	next := regexp.MustCompile(`(?m)^public_key: (\S+)$`).FindStringSubmatch(h.read("tally.yaml"))[1]
	if next == h.vkey {
		t.Fatal("the key is the one of before")
	}
	h.write("new.policy", "log "+next+"\nquorum none\n")
	l.know(next)
	h.reload()
	bundle("both")
	h.settle()
	overlap := len(l.sightings())
	h.tally("keys", "rotate", "--config", "tally.yaml", "--policies", policies, "--finish")
	h.reload()
	bundle("after")
	h.settle()
	end()
	h.complete(sessions)
	for _, b := range []struct {
		name, policy string
		code         int
	}{
		{"before", "old.policy", 0}, {"before", "policy", 0}, {"before", "new.policy", 1},
		{"both", "old.policy", 0}, {"both", "policy", 0}, {"both", "new.policy", 0},
		{"after", "old.policy", 1}, {"after", "policy", 0}, {"after", "new.policy", 0},
	} {
		h.verify(b.code, "bundle", b.name, "--policy", b.policy)
	}
	h.verify(0, "log", "--url", "http://"+h.reads, "--policy", "policy")
	// One after another: the old key, both, the new one.
	old, new := keyHash(t, h.vkey), keyHash(t, next)
	phase, phases := "", []string{}
	for i, s := range l.sightings() {
		now := fmt.Sprintf("old %t new %t", s.keys[old], s.keys[new])
		if now != phase {
			phase, phases = now, append(phases, now)
		}
		if i < overlap && !s.keys[old] {
			t.Errorf("who has the old key could not follow to %d entries, and the rotation was not finished", s.Size)
		}
	}
	if got := strings.Join(phases, ", "); got != "old true new false, old true new true, old false new true" {
		t.Errorf("seen were: %s", got)
	}

	good := h.read("tally.yaml")
	key := "vault:transit/" + h.name
	archive := func(from string) {
		h.vault.do(t, "POST", "transit/keys/"+h.name+"/config", `{"min_encryption_version":`+from+`,"min_decryption_version":1}`)
	}
	for _, wrong := range []struct {
		what, version, pinned string
		begin, end            func()
	}{
		{"a version that was never made", "9", next, nil, nil},
		{"a version with another public key", "1", next, nil, nil},
		{"the old version, pinned to the old key, which is archived", "1", h.vkey, func() { archive("2") }, func() { archive("0") }},
	} {
		bad := strings.Replace(good, "key: "+key+"?version=2", "key: "+key+"?version="+wrong.version, 1)
		bad = strings.Replace(bad, "public_key: "+next, "public_key: "+wrong.pinned, 1)
		if bad == good {
			t.Fatalf("%s: the configuration is written in another way:\n%s", wrong.what, good)
		}
		h.write("tally.yaml", bad)
		if wrong.begin != nil {
			wrong.begin()
		}
		h.reload()
		// What was on its way with the good key may still come out.
		h.says("checkpoint delayed", func() { h.call("a") })
		_, before, err := h.get("/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		h.says("checkpoint delayed", func() {
			for range 3 {
				if _, _, err := h.call("b"); err != nil {
					t.Errorf("%s: a call: %v", wrong.what, err)
				}
			}
		})
		if _, b, err := h.get("/checkpoint"); err != nil || string(b) != string(before) {
			t.Errorf("%s: published was %v\n%s", wrong.what, err, b)
		}
		if wrong.end != nil {
			wrong.end()
		}
		h.write("tally.yaml", good)
		h.reload()
		h.settle()
	}
	l.end()
	h.stop()
	h.tally("fsck", "--config", "tally.yaml")
}

func keyHash(t *testing.T, vkey string) uint32 {
	t.Helper()
	v, err := formats.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v.KeyHash()
}
