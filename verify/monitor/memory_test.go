package monitor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func (w *world) statePath() string {
	sum := sha256.Sum256([]byte(tlogtest.Origin))
	return filepath.Join(w.dir, hex.EncodeToString(sum[:]), "state")
}

// What is remembered and damaged is an error that names the file, nothing is begun anew by itself, and the copy put back
// is as good as it was.
func TestStateDamaged(t *testing.T) {
	w := newWorld(t)
	w.pen.start()
	w.pen.beat(299)
	if err := w.once(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(w.statePath())
	if err != nil {
		t.Fatal(err)
	}
	// reseal makes the digest fit, as one does who means harm.
	reseal := func(b []byte) []byte {
		sum := sha256.Sum256(b[stateHead:])
		return append([]byte(stateMagic+hex.EncodeToString(sum[:])+"\n"), b[stateHead:]...)
	}
	swap := func(old, new string) func([]byte) []byte {
		return func(b []byte) []byte { return reseal(bytes.Replace(b, []byte(old), []byte(new), 1)) }
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":                   func(b []byte) []byte { return nil },
		"cut in the first line":   func(b []byte) []byte { return b[:40] },
		"cut":                     func(b []byte) []byte { return b[:len(b)/2] },
		"a byte short":            func(b []byte) []byte { return b[:len(b)-1] },
		"a bit":                   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"a bit of the digest":     func(b []byte) []byte { b[stateHead-5] ^= 1; return b },
		"another version":         func(b []byte) []byte { return bytes.Replace(b, []byte("/v1"), []byte("/v9"), 1) },
		"something else":          func(b []byte) []byte { return []byte("hello\n") },
		"not JSON":                func(b []byte) []byte { return reseal(append(b[:stateHead:stateHead], "hello\n"...)) },
		"more after it":           func(b []byte) []byte { return reseal(append(b[:len(b):len(b)], "{}\n"...)) },
		"a space":                 swap(`,"url"`, `, "url"`),
		"a member nobody knows":   swap(`,"url"`, `,"more":1,"url"`),
		"of another log":          swap(`"origin":"log.example/test"`, `"origin":"log.example/else"`),
		"another size":            swap(`test\n300\n`, `test\n299\n`),
		"another leaf":            swap(`"leaves":["`, `"leaves":["AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","`),
		"a checkpoint of nobody":  swap(`— log.example/test `, `— log.example/else `),
		"a follower of version 9": swap(`"log":{"v":1`, `"log":{"v":9`),
	} {
		spoilt := spoil(bytes.Clone(good))
		if bytes.Equal(spoilt, good) {
			t.Errorf("%s: nothing was spoilt", name)
		}
		if err := os.WriteFile(w.statePath(), spoilt, 0o644); err != nil {
			t.Fatal(err)
		}
		err := w.once()
		var found *Found
		if err == nil || errors.As(err, &found) || !strings.Contains(err.Error(), filepath.Dir(w.statePath())) || !strings.Contains(err.Error(), "put a copy back") {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(w.statePath()); !bytes.Equal(now, spoilt) {
			t.Errorf("%s: it was written over", name)
		}
	}
	// A death in the middle of writing leaves this.
	if err := os.WriteFile(w.statePath()+".new", good[:100], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.statePath(), good, 0o644); err != nil {
		t.Fatal(err)
	}
	w.pen.beat(1)
	if err := w.once(); err != nil || w.remembered().Size != 301 {
		t.Errorf("the copy put back: %v, size %d", err, w.remembered().Size)
	}
}

// One monitor to a directory.
func TestLocked(t *testing.T) {
	w := newWorld(t)
	w.pen.start()
	w.pen.beat(1)
	first, err := openMemory(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.once(); err == nil || !strings.Contains(err.Error(), "another monitor") {
		t.Errorf("a second monitor: %v", err)
	}
	first.close()
	if err := w.once(); err != nil {
		t.Error(err)
	}
	// And where it cannot write, it says so and does not go on.
	w.dir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(w.dir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.conf.Dir = w.dir
	if err := w.once(); err == nil {
		t.Error("a file is a directory")
	}
}

// Evidence is kept once, never replaced, and not without end.
func TestEvidence(t *testing.T) {
	m, err := openMemory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	signer, _ := tlogtest.Key(tlogtest.Origin)
	sign := func(size uint64, root byte) []byte {
		signed, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: size, Root: tlog.Hash{root}}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	keep := func(kind Kind, from, reason string, a, b []byte) []string {
		t.Helper()
		files, err := m.keepEvidence(evidence{Kind: kind, From: from, Reason: reason, Log: tlogtest.Origin}, a, b)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	one := keep(Fork, "", "first", sign(1, 1), sign(2, 2))
	before := make(map[string][]byte)
	for _, f := range one {
		if before[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	if again := keep(Fork, "", "second", sign(1, 1), sign(2, 2)); strings.Join(again, " ") != strings.Join(one, " ") {
		t.Errorf("kept again as %q", again)
	}
	for f, was := range before {
		if now, _ := os.ReadFile(f); !bytes.Equal(now, was) {
			t.Errorf("%s was replaced", f)
		}
	}
	// What a death in the middle left is made whole.
	if err := os.Remove(one[2]); err != nil {
		t.Fatal(err)
	}
	keep(Fork, "", "third", sign(1, 1), sign(2, 2))
	if now, _ := os.ReadFile(one[2]); !bytes.Contains(now, []byte("third")) {
		t.Errorf("%s", now)
	}
	for i, other := range [][]string{
		keep(SplitView, "", "", sign(1, 1), sign(2, 2)), keep(Fork, "w", "", sign(1, 1), sign(2, 2)),
		keep(Fork, "", "", sign(1, 2), sign(2, 2)), keep(Fork, "", "", sign(1, 1), sign(2, 3)),
	} {
		if len(other) != 3 || other[0] == one[0] {
			t.Errorf("%d: another piece of evidence is kept as %q", i, other)
		}
	}
	if testing.Short() {
		return
	}
	for i := range 3 * maxEvidence {
		os.WriteFile(filepath.Join(m.dir, "evidence", fmt.Sprint(i)), nil, 0o644)
	}
	if more := keep(Fork, "", "", sign(5, 1), sign(6, 2)); more != nil {
		t.Errorf("kept without end: %q", more)
	}
	if again := keep(Fork, "", "", sign(1, 1), sign(2, 2)); len(again) != 3 {
		t.Errorf("what is kept is named no more: %q", again)
	}
}

// One round, for whoever has another clock to begin it: its exit is what was seen in it.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.once(); err == nil {
			t.Error("there is no checkpoint")
		}
		w.want("unreachable")
		w.pen.start()
		w.pen.beat(299)
		ok := func(what, told string, edit ...func(*Config)) {
			t.Helper()
			if err := w.once(edit...); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			w.want(told)
		}
		found := func(what, told string, edit ...func(*Config)) {
			t.Helper()
			var f *Found
			if err := w.once(edit...); !errors.As(err, &f) {
				t.Errorf("%s: %v", what, err)
			}
			w.want(told)
		}
		ok("the first round", "")
		ok("the second", "")
		w.pen.seq++
		w.pen.beat(1)
		found("a number is missing", "false")
		ok("that was told", "")
		w.witness.set(func(x *witness) { x.away = true })
		found("nobody cosigns", "uncosigned")
		w.witness.set(func(x *witness) { x.away = false })
		signed, _ := w.log.Checkpoint(t.Context())
		w.log.bend(func(s *source) { s.checkpoint = func([]byte) ([]byte, error) { return signed, nil } })
		time.Sleep(2 * time.Hour)
		found("it is old", "stale silent", func(c *Config) { c.MaxAge = time.Hour })
		w.log.bend(func(s *source) { s.checkpoint = w.witness.cosign })

		// A witness that is ahead is remembered from one run to the next, and told when it lasts.
		f, _ := w.fork(301, 3)
		signed, _ = f.Checkpoint(t.Context())
		w.witness.set(func(x *witness) { x.shown = signed })
		ahead := func(c *Config) { c.Witnesses = []string{"http://" + witnessHost} }
		ok("a witness is ahead", "silent", ahead)
		time.Sleep(4 * time.Minute)
		ok("it still is", "silent", ahead)
		time.Sleep(2 * time.Minute)
		ok("it is for long", "silent behind", ahead)
		w.witness.set(func(x *witness) { x.shown = nil })
		w.pen.start()
		w.pen.beat(9)
		found("the log comes to it, and is another", "view-forgot split-view", ahead)
		found("it still is", "view-forgot split-view", ahead)
		if got := w.evidences(); len(got) != 1 {
			t.Errorf("%d pieces of evidence", len(got))
		}
	})
}

// Who has shown the log is remembered from one run to the next, and of nobody else it is told that he shows nothing of it.
func TestOnceForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.pen.start()
		w.pen.beat(9)
		const silent = "other.test"
		w.net.set(silent, http.NotFoundHandler())
		views := func(c *Config) {
			c.Witnesses = []string{"http://" + silent, "http://" + witnessHost}
			c.Peers = []string{"http://yonder.test"}
		}
		w.net.set("yonder.test", tiles.Handler(w.log, tiles.Options{}))
		signed, _ := w.log.Checkpoint(t.Context())
		w.witness.set(func(x *witness) { x.shown = signed })
		round := func(told string, from ...string) {
			t.Helper()
			if err := w.once(views); err != nil {
				t.Error(err)
			}
			for i, e := range w.want(told) {
				if e.From != "http://"+from[i] || e.Level != Alert {
					t.Errorf("told: %+v", e)
				}
			}
		}
		round("")
		w.net.set("yonder.test", http.NotFoundHandler())
		w.witness.set(func(x *witness) { x.shown = nil })
		round("view-forgot view-forgot", witnessHost, "yonder.test")
		w.net.set("yonder.test", nil)
		w.net.set(silent, nil)
		round("view-away view-forgot view-away", silent, witnessHost, "yonder.test")
		w.witness.set(func(x *witness) { x.shown = signed })
		round("view-away view-away", silent, "yonder.test")
	})
}

// With Full, what was read years ago is read again.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.pen.start()
		w.pen.beat(699)
		if err := w.once(); err != nil {
			t.Fatal(err)
		}
		full := func(c *Config) { c.Full = true }
		if err := w.once(full); err != nil {
			t.Fatal(err)
		}
		w.log.bend(func(s *source) { s.tile = tlogtest.Replace(100, []byte("garbage")) })
		if err := w.once(); err != nil {
			t.Errorf("without it the entry was read: %v", err)
		}
		w.want("")
		var f *Found
		if err := w.once(full); !errors.As(err, &f) {
			t.Errorf("%v", err)
		}
		w.want("tampered") // and not that the log contradicts itself: nobody knows whose doing it is
		if got := w.evidences(); len(got) != 0 {
			t.Errorf("the log is accused: %+v", got)
		}
	})
}

// What somebody else has put into its order, or wrote twice, was not written by a monitor.
func TestStateOutOfOrder(t *testing.T) {
	at := time.Unix(1, 0).UTC()
	for name, s := range map[string]state{
		"ahead, out of order":   {Ahead: []ahead{{"b", at, "x"}, {"a", at, "x"}}},
		"ahead, twice":          {Ahead: []ahead{{"a", at, "x"}, {"a", at, "y"}}},
		"has shown it, twice":   {Showed: []string{"a", "a"}},
		"out of order as shown": {Showed: []string{"b", "a"}},
	} {
		s.Origin, s.Log = "log.example/test", json.RawMessage(`{"v":1}`)
		b, err := s.append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseState(b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func FuzzParseState(f *testing.F) {
	log := json.RawMessage(`{"v":1}`)
	for _, s := range []*state{
		{Origin: "log.example/test", URL: "http://log.test", Log: log},
		{Origin: "log.example/test", URL: "http://log.test", Seen: time.Unix(1800000000, 123456000).UTC(), Log: log,
			Ahead: []ahead{{"a", time.Unix(1, 0).UTC(), "x\n1\n"}, {"b", time.Unix(2, 0).UTC(), "<&>\u2028"}}, Showed: []string{"a", "c"}},
	} {
		b, err := s.append(nil)
		if err != nil {
			f.Fatal(err)
		}
		if again, err := parseState(b); err != nil || again.Origin != s.Origin {
			f.Fatal(err)
		}
		f.Add(b[stateHead:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		b := append([]byte(stateMagic+hex.EncodeToString(sum[:])+"\n"), body...)
		s, err := parseState(b)
		if err != nil {
			return
		}
		if again, err := s.append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v\n%q\n%q", err, b, again)
		}
	})
}
