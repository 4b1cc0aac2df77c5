package peers

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
)

// maxUnanchored is how much a house takes in that its anchor does not know.
const maxUnanchored = 60

// TestHouseOutage kills the engines under a house and starts them again, and has them hang.
func TestHouseOutage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "engines")
	s := startTransit(t, "-dir", dir, "-listen", freePort(t))
	h := newHouse(t, s, vault.Ed25519, nil)
	address := strings.TrimPrefix(s.url, "http://")
	outageStory(h, []outage{
		{"killed", func() { s.cmd.Process.Kill(); s.cmd.Wait() }, func() { s = startTransit(t, "-dir", dir, "-listen", address) }},
		{"hung", func() { s.signal(t, syscall.SIGSTOP) }, func() { s.signal(t, syscall.SIGCONT) }},
	})
}

// TestHouseStartsInOutage starts a house whose log's key and anchor are in engines that are away. What it needs besides is at
// hand, so calls pass and are on record, though nothing can be published; and what was left open before is closed when the
// engines are back.
func TestHouseStartsInOutage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "engines")
	s := startTransit(t, "-dir", dir, "-listen", freePort(t))
	h := newHouse(t, s, vault.Ed25519, nil)
	h.tally("keys", "new-kek", "kek.key")
	h.write("model.key", "sk-model\n")
	h.init = regexp.MustCompile(`(?m)^data_keys: .*$`).ReplaceAllString(h.init, "data_keys: {dir: data/ring, kek: kek.key}")
	h.credential = "{file: model.key}"
	h.configure("max_unanchored_age: 1h\n")
	h.start()
	sessions := []string{}
	call := func(prompt string) {
		t.Helper()
		session, _, err := h.call(prompt)
		if err != nil {
			t.Fatalf("%v\n%s", err, h.out)
		}
		sessions = append(sessions, session)
	}
	call("before")
	before := h.settle()
	go h.call("/hang")
	await(t, "a call to be under way", func() error {
		v, err := h.metric("size")
		if c, cerr := tlog.UnverifiedCheckpoint(before); err == nil && cerr == nil && v <= float64(c.Size) {
			err = errors.New("it is not")
		}
		return err
	})
	before = h.settle()
	h.kill()
	s.cmd.Process.Kill()
	s.cmd.Wait()
	h.start()
	for range 5 {
		call("while nothing is published")
	}
	if code, b, err := h.get("/checkpoint"); err != nil || code != http.StatusOK || string(b) != string(before) {
		t.Errorf("readers get %d %v\n%s", code, err, b)
	}
	startTransit(t, "-dir", dir, "-listen", strings.TrimPrefix(s.url, "http://"))
	h.settle()
	h.complete(sessions)
	await(t, "what was left open to be closed", func() error {
		for session, o := range h.outcomes() {
			if o == "" {
				return fmt.Errorf("%s is open", session)
			}
		}
		return nil
	})
	h.stop()
	h.tally("fsck", "--config", "tally.yaml")
}

// An outage of Vault begins and ends.
type outage struct {
	name       string
	begin, end func()
}

// outageStory has a house live through outages under load. Calls pass until as much is unanchored as may be, and are
// answered 503 from then on; readers have the checkpoint of before; and its age shows. When Vault is back all goes on
// by itself, one checkpoint covers what has piled up, and everything that was answered is in the log.
func outageStory(h *house, outages []outage) {
	t := h.t
	// By number, so that it takes as long as it takes.
	h.configure(fmt.Sprintf("max_unanchored: %d\nmax_unanchored_age: 1h\n", maxUnanchored))
	h.start()
	defer h.kill()
	l := h.look(h.vkey)
	var sessions []string
	for _, o := range outages {
		before := h.settle()
		o.begin()
		seen := len(l.sightings())
		var mu sync.Mutex
		refused, passed := 0, 0
		var load sync.WaitGroup
		for range 4 {
			load.Go(func() {
				for enough := 0; enough < 3; { // refusals in a row
					session, _, err := h.call("during an outage: " + o.name)
					var no *statusError
					mu.Lock()
					switch {
					case err == nil:
						sessions = append(sessions, session)
						passed++
						enough = 0
					case errors.As(err, &no) && no.status == http.StatusServiceUnavailable && strings.Contains(no.body, "record_unavailable"):
						refused++
						enough++
					default:
						t.Errorf("%s: a call: %v", o.name, err)
						enough = 3
					}
					mu.Unlock()
				}
			})
		}
		load.Wait()
		// Each call that passed is two entries. What was under way when it became too much still came in.
		if passed < maxUnanchored/2-8 || passed > maxUnanchored || refused == 0 {
			t.Errorf("%s: %d calls passed and %d were refused", o.name, passed, refused)
		}
		if code, b, err := h.get("/checkpoint"); err != nil || code != http.StatusOK || string(b) != string(before) {
			t.Errorf("%s: readers get %d %v\n%s", o.name, code, err, b)
		}
		if code, b, err := h.get("/.tallystick/health"); err != nil || code != http.StatusServiceUnavailable || !strings.Contains(string(b), "not yet anchored") {
			t.Errorf("%s: health says %d %v %s", o.name, code, err, b)
		}
		for name, least := range map[string]float64{"unanchored_entries": maxUnanchored, "unanchored_age_seconds": 0.001} {
			if v, err := h.metric(name); err != nil || v < least {
				t.Errorf("%s: %s is %v, %v", o.name, name, v, err)
			}
		}
		if v, err := h.metric("takes_entries"); err != nil || v != 0 {
			t.Errorf("%s: takes_entries is %v, %v", o.name, v, err)
		}
		old, err := h.metric("checkpoint_timestamp_seconds")
		if err != nil || time.Since(time.UnixMilli(int64(old*1000))) <= 0 {
			t.Errorf("%s: the checkpoint is of %v, %v", o.name, old, err)
		}
		size, err := h.metric("size")
		if err != nil {
			t.Fatal(err)
		}
		o.end()
		h.settle()
		await(t, "calls to pass after it was "+o.name, func() error {
			session, _, err := h.call("after an outage")
			if err == nil {
				sessions = append(sessions, session)
			}
			return err
		})
		h.settle()
		// One was on its way when it began, and is finished exactly as it was.
		between := 0
		for _, s := range l.sightings()[seen:] {
			if float64(s.Size) < size {
				between++
			}
		}
		if between > 1 {
			t.Errorf("%s: %d checkpoints were made of what had piled up", o.name, between)
		}
		t.Logf("%s: %d calls passed, %d were refused, and %d entries had piled up", o.name, passed, refused, int(size))
	}
	l.end()
	h.complete(sessions)
	h.stop()
	h.tally("fsck", "--config", "tally.yaml")
}
