package monitor

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// impostor signs in the name of the test's log with another key.
func impostor(t *testing.T) note.Signer {
	t.Helper()
	skey, _, err := note.GenerateKey(zeros{}, tlogtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func resign(t *testing.T, signed []byte, s note.Signer, edit func(*tlog.Checkpoint)) []byte {
	t.Helper()
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&c)
	}
	out, err := note.Sign(&note.Note{Text: string(c.Text())}, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every fault that a log, or whoever stands before it, can have, and what is said of it. Each story begins with a log of 300
// entries that is followed and well.
func TestFaults(t *testing.T) {
	logSigner, _ := tlogtest.Key(tlogtest.Origin)
	for _, c := range []struct {
		name string
		conf func(*Config)
		do   func(w *world)
		wait time.Duration // from then on; a minute if zero
		told string
		says string // part of what is told first
		ends bool   // by itself, with what was found
		kept int    // pieces of evidence
		heal func(w *world)
		then string // told after that
	}{
		// What accuses the log.
		{name: "a fork", do: func(w *world) {
			f, _ := w.fork(200, 150)
			w.serve(f)
		}, told: "fork", says: "whose first 300 are not those that it signed before", ends: true, kept: 1},
		{name: "a fork, and it goes on", conf: func(c *Config) { c.KeepGoing = true }, do: func(w *world) {
			f, p := w.fork(200, 150)
			w.serve(f)
			go func() {
				for range 10 {
					time.Sleep(7 * time.Second)
					p.beat(1)
				}
			}()
		}, wait: 2 * time.Minute, told: "fork", kept: 1, heal: func(w *world) { w.serve(w.log) }, then: "over"},
		{name: "a fork at the same size", do: func(w *world) {
			f, _ := w.fork(299, 1)
			w.serve(f)
		}, told: "fork", says: "two roots of its first 300 entries", ends: true, kept: 1},
		{name: "a fork that nobody cosigned", do: func(w *world) {
			f, _ := w.fork(200, 150)
			f.checkpoint, f.kept = nil, nil
			w.serve(f)
		}, told: "fork", ends: true, kept: 1},
		{name: "a fork that is smaller, and shows the tiles of the larger one", do: func(w *world) {
			f, _ := w.fork(100, 50)
			w.log.bend(func(s *source) {
				s.checkpoint = func([]byte) ([]byte, error) {
					signed, err := f.Log.Checkpoint(w.t.Context())
					if err != nil {
						return nil, err
					}
					return w.witness.cosign(signed)
				}
			})
		}, told: "fork", says: "no part of the one of 300", ends: true, kept: 1},
		{name: "a fork that shows no tile", do: func(w *world) {
			f, _ := w.fork(200, 150)
			f.tile = func(t tlog.Tile, data []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, len(data)), nil }
			w.serve(f)
		}, wait: 10 * time.Minute, told: "unreachable", kept: 0},
		{name: "a fork that shows wrong tiles", do: func(w *world) {
			f, _ := w.fork(200, 150)
			f.tile = tlogtest.Flip(0, 290)
			w.serve(f)
		}, told: "unproven", says: "nothing that it shows under it", ends: true, kept: 1},
		{name: "an earlier checkpoint that it signed and kept", do: func(w *world) {
			w.pen.beat(1)
			w.log.bend(func(s *source) {
				s.kept = func(size uint64, signed []byte) ([]byte, error) {
					return resign(w.t, signed, logSigner, func(c *tlog.Checkpoint) { c.Root[0] ^= 1 }), nil
				}
			})
			w.pen.beat(1)
		}, told: "fork fork", says: "the log itself kept", ends: true, kept: 2}, // of sizes 301 and 302
		{name: "put back", do: func(w *world) {
			f := w.newLog(tlogtest.Config{Manual: true})
			w.copy(f, 290)
			w.serve(f)
		}, told: "rollback", says: "had 300 entries and now shows 290", ends: true, kept: 1},
		{name: "put back, and it goes on and comes again", conf: func(c *Config) { c.KeepGoing = true }, do: func(w *world) {
			f := w.newLog(tlogtest.Config{Manual: true})
			w.copy(f, 290)
			w.serve(f)
		}, told: "rollback", kept: 1, heal: func(w *world) { w.serve(w.log) }, then: "over"},
		{name: "a stale cache", do: func(w *world) {
			w.log.bend(func(s *source) {
				s.checkpoint = func([]byte) ([]byte, error) {
					signed, err := s.Log.CheckpointAt(w.t.Context(), 100)
					if err != nil {
						return nil, err
					}
					return w.witness.cosign(signed)
				}
			})
		}, told: "rollback", says: "a cache before it is stale", ends: true, kept: 1},
		{name: "a cache that is stale for a moment", do: func(w *world) {
			n := 0
			w.log.bend(func(s *source) {
				s.checkpoint = func(signed []byte) ([]byte, error) {
					if n++; n <= 2 {
						signed, _ = s.Log.CheckpointAt(w.t.Context(), 100)
					}
					return w.witness.cosign(signed)
				}
			})
		}},
		{name: "a witness was shown another tree", do: func(w *world) {
			f, _ := w.fork(150, 50)
			signed, _ := f.Checkpoint(w.t.Context())
			w.witness.set(func(x *witness) { x.shown = signed })
		}, told: "split-view", says: "no part of the 300", ends: true, kept: 1},
		{name: "a witness was shown another tree of the same size", do: func(w *world) {
			f, _ := w.fork(299, 1)
			signed, _ := f.Checkpoint(w.t.Context())
			w.witness.set(func(x *witness) { x.shown = signed })
		}, told: "split-view", ends: true, kept: 1},
		{name: "a witness was shown another tree that is larger, which the log comes to", do: func(w *world) {
			f, _ := w.fork(299, 6)
			signed, _ := f.Checkpoint(w.t.Context())
			w.witness.set(func(x *witness) { x.shown = signed })
			go func() {
				time.Sleep(15 * time.Second)
				w.witness.set(func(x *witness) { x.shown = nil }) // what it said is remembered
				w.pen.beat(10)
			}()
		}, told: "split-view", says: "305 entries that is no part of the 310", ends: true, kept: 1},
		{name: "a peer is served another tree", conf: func(c *Config) { c.Peers = []string{"http://peer.test/x/"} }, do: func(w *world) {
			f, _ := w.fork(150, 50)
			signed, _ := f.Checkpoint(w.t.Context())
			w.net.set("peer.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
				if req.URL.Path != "/x/checkpoint" {
					http.NotFound(rw, req)
				}
				rw.Write(signed)
			}))
		}, told: "split-view", ends: true, kept: 1},

		// What is false, and contradicts no other word of the log.
		{name: "a number is missing", do: func(w *world) {
			w.pen.seq++
			w.pen.beat(1)
		}, told: "false", says: "should be 300"},
		{name: "a silence", do: func(w *world) {
			time.Sleep(45 * time.Second)
			w.pen.beat(1)
		}, told: "false", says: "was silent for 50s"},
		{name: "an entry that is none", do: func(w *world) {
			if _, err := w.log.Append(w.t.Context(), tlog.Leaf{Entry: []byte("garbage")}); err != nil {
				w.t.Error(err)
			}
			w.pen.publish()
		}, told: "false"},
		{name: "an entry is served otherwise", do: func(w *world) {
			w.log.bend(func(s *source) { s.tile = tlogtest.Replace(302, []byte("garbage")) })
			w.pen.beat(5)
		}, told: "tampered", says: "does not hash to the root that the log signed; tile/0/001", heal: func(w *world) {
			w.log.bend(func(s *source) { s.tile = nil })
		}, then: "over"},
		{name: "an entry that was read is served otherwise", do: func(w *world) {
			w.log.bend(func(s *source) { s.tile = tlogtest.Replace(299, []byte("garbage")) })
			w.pen.beat(1)
		}, told: "tampered", says: "than the one that was read before", heal: func(w *world) {
			w.log.bend(func(s *source) { s.tile = nil })
		}, then: "over"},
		{name: "a tile of hashes is served otherwise", do: func(w *world) {
			w.log.bend(func(s *source) { s.tile = tlogtest.Flip(0, 301) })
			w.pen.beat(5)
		}, told: "tampered", says: "tile/0/001.p/49: hash 45 is served as"},
		{name: "a tile is served otherwise that only a proof needs", do: func(w *world) {
			w.log.bend(func(s *source) { s.tile = tlogtest.Flip(0, 10) })
			signed, _ := w.log.Log.CheckpointAt(w.t.Context(), 100)
			w.witness.set(func(x *witness) { x.shown = signed })
		}, told: "tampered", says: "cannot be compared", heal: func(w *world) {
			w.log.bend(func(s *source) { s.tile = nil })
		}, then: "over"},

		// What accuses nobody.
		{name: "unreachable for a while", do: func(w *world) { w.net.set(logHost, nil) }, wait: 4 * time.Minute,
			heal: func(w *world) { w.serve(w.log) }},
		{name: "unreachable for long", do: func(w *world) { w.net.set(logHost, nil) }, wait: 30 * time.Minute, told: "unreachable", says: "connection refused",
			heal: func(w *world) { w.serve(w.log); w.pen.beat(1) }, then: "false over"},
		{name: "it does not answer", do: func(w *world) {
			w.net.set(logHost, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(hang) }))
		}, wait: 30 * time.Minute, told: "unreachable", says: "deadline exceeded"},
		{name: "it fails", do: func(w *world) {
			w.net.set(logHost, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", 503) }))
		}, wait: 30 * time.Minute, told: "unreachable", says: "answers 503"},
		{name: "its tiles are not there", do: func(w *world) {
			w.log.bend(func(s *source) {
				s.tile = func(tlog.Tile, []byte) ([]byte, error) { return nil, tlog.ErrNotFound }
			})
			w.pen.beat(1)
		}, wait: 30 * time.Minute, told: "unreachable", says: "tile/entries/001"},
		{name: "a checkpoint of a gigabyte", do: func(w *world) {
			w.net.set(logHost, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(make([]byte, 8<<20)) }))
		}, wait: 30 * time.Minute, told: "unreachable", says: "longer than 65536 bytes"},
		{name: "tiles that are far too large", do: func(w *world) {
			w.log.bend(func(s *source) {
				s.tile = func(tile tlog.Tile, data []byte) ([]byte, error) {
					if tile.Level == tlog.EntriesLevel {
						data = nil
						for range tile.Width {
							data = tlog.AppendBundleEntry(data, make([]byte, 65535))
						}
					}
					return data, nil
				}
			})
			w.pen.beat(1)
		}, wait: 30 * time.Minute, told: "unreachable", says: "longer than"},
		{name: "garbage for a checkpoint", do: func(w *world) {
			w.net.set(logHost, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write([]byte("<html>log in</html>")) }))
		}, wait: 30 * time.Minute, told: "unreachable", says: "is none"},
		{name: "signed by nobody known", do: func(w *world) {
			w.log.bend(func(s *source) {
				s.checkpoint = func(signed []byte) ([]byte, error) { return resign(w.t, signed, impostor(w.t), nil), nil }
			})
		}, told: "unsigned", heal: func(w *world) { w.log.bend(func(s *source) { s.checkpoint = w.witness.cosign }) }, then: "over"},
		{name: "another log at its address", do: func(w *world) {
			other := tlogtest.Start(w.t, tlogtest.Config{Origin: "log.example/other", Manual: true})
			if _, err := other.Publish(); err != nil {
				w.t.Error(err)
			}
			w.serve(other)
		}, conf: func(c *Config) {
			_, vkey := tlogtest.Key("log.example/other")
			p, err := tlog.ParsePolicy([]byte("log " + vkey + "\n" + string(c.Policy.Text())))
			if err != nil {
				panic(err)
			}
			c.Policy = p
		}, told: "another-log", says: "shows the log log.example/other, and showed log.example/test", heal: func(w *world) { w.serve(w.log) }, then: "over"},
		{name: "the witness is away for a while", do: func(w *world) {
			w.witness.set(func(x *witness) { x.away = true })
			w.pen.beat(1)
		}, wait: 4 * time.Minute, heal: func(w *world) {
			w.witness.set(func(x *witness) { x.away = false })
		}},
		{name: "the witness is away for long", do: func(w *world) {
			w.witness.set(func(x *witness) { x.away = true })
			w.pen.beat(1)
		}, wait: 30 * time.Minute, told: "uncosigned", says: "missing w", heal: func(w *world) {
			w.witness.set(func(x *witness) { x.away = false })
			w.pen.beat(1)
		}, then: "over false"},
		{name: "its newest cosignature is old", conf: func(c *Config) { c.MaxAge = time.Hour }, do: func(w *world) {
			signed, _ := w.log.Checkpoint(w.t.Context())
			w.log.bend(func(s *source) { s.checkpoint = func([]byte) ([]byte, error) { return signed, nil } })
		}, wait: 2 * time.Hour, told: "silent stale", heal: func(w *world) {
			w.log.bend(func(s *source) { s.checkpoint = w.witness.cosign })
		}, then: "over"},
		{name: "cosignatures of the future", conf: func(c *Config) { c.MaxAge = time.Hour }, do: func(w *world) {
			w.witness.set(func(x *witness) { x.fast = 2 * time.Hour })
		}, told: "stale", says: "yet to come", heal: func(w *world) { w.witness.set(func(x *witness) { x.fast = 0 }) }, then: "over"},
		{name: "without witnesses it has not grown", conf: func(c *Config) {
			c.MaxAge = time.Hour
			c.Policy = noWitness(c.Policy)
		}, do: func(*world) {}, wait: 2 * time.Hour, told: "silent stale", says: "gw-1 beats every 10s and has written nothing since"},
		{name: "a witness that is ahead for a moment", do: func(w *world) {
			w.pen.beat(2)
			signed, _ := w.log.Checkpoint(w.t.Context())
			before, _ := w.log.CheckpointAt(w.t.Context(), 300)
			w.log.bend(func(s *source) { s.checkpoint = func([]byte) ([]byte, error) { return before, nil } })
			w.witness.set(func(x *witness) { x.shown = signed })
		}, heal: func(w *world) { w.log.bend(func(s *source) { s.checkpoint = w.witness.cosign }) }},
		{name: "a witness that is ahead for long", do: func(w *world) {
			w.pen.beat(2)
			signed, _ := w.log.Checkpoint(w.t.Context())
			before, _ := w.log.CheckpointAt(w.t.Context(), 300)
			w.log.bend(func(s *source) { s.checkpoint = func([]byte) ([]byte, error) { return before, nil } })
			w.witness.set(func(x *witness) { x.shown = signed })
		}, wait: 6 * time.Minute, told: "behind silent", says: "http://witness.test was shown 302 entries", heal: func(w *world) {
			w.log.bend(func(s *source) { s.checkpoint = w.witness.cosign })
		}, then: "over"},
		{name: "a witness that is behind", do: func(w *world) {
			signed, _ := w.log.CheckpointAt(w.t.Context(), 100)
			w.witness.set(func(x *witness) { x.shown = signed })
		}},
		{name: "a witness that nobody reaches", do: func(w *world) { w.net.set(witnessHost, nil) }, wait: 6 * time.Minute, told: "view-away silent",
			heal: func(w *world) { w.net.set(witnessHost, w.witness) }, then: "over"},
		{name: "a witness that has seen nothing", do: func(*world) {}, wait: 6 * time.Minute, told: "silent"},
		{name: "a witness that forgot", do: func(w *world) {
			signed, _ := w.log.CheckpointAt(w.t.Context(), 100)
			w.witness.set(func(x *witness) { x.shown = signed })
			time.Sleep(time.Minute)
			w.witness.set(func(x *witness) { x.shown = nil })
		}, wait: 4*time.Minute + 30*time.Second, told: ""},
		{name: "a witness that forgot for long", do: func(w *world) {
			signed, _ := w.log.CheckpointAt(w.t.Context(), 100)
			w.witness.set(func(x *witness) { x.shown = signed })
			time.Sleep(time.Minute)
			w.witness.set(func(x *witness) { x.shown = nil })
		}, wait: 6 * time.Minute, told: "silent view-forgot", says: "", heal: func(w *world) {
			signed, _ := w.log.CheckpointAt(w.t.Context(), 300)
			w.witness.set(func(x *witness) { x.shown = signed })
		}, then: "over"},
		{name: "a witness that shows nonsense", do: func(w *world) {
			w.witness.set(func(x *witness) { x.shown = []byte("nonsense") })
		}, told: "view-unsigned", heal: func(w *world) { w.witness.set(func(x *witness) { x.shown = nil }) }},
		{name: "a witness that shows what the log has not signed", do: func(w *world) {
			signed, _ := w.log.CheckpointAt(w.t.Context(), 100)
			forged := resign(w.t, signed, impostor(w.t), func(c *tlog.Checkpoint) { c.Root[0] ^= 1 })
			w.witness.set(func(x *witness) { x.shown = forged })
		}, told: "view-unsigned"},
		{name: "a writer that stops", do: func(w *world) {
			w.pen.put(record.Entry{Kind: record.Stop, Beat: true})
			w.pen.publish()
		}, wait: time.Hour},
		{name: "a writer that dies and comes back", do: func(*world) {}, wait: 10 * time.Minute, told: "silent", says: "gw-1 beats every 10s", heal: func(w *world) {
			w.pen.start()
			w.pen.beat(1)
		}, then: "over"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.pen.start()
				w.pen.beat(99)
				w.pen.beat(200)
				edit := func(conf *Config) {
					conf.Witnesses = []string{"http://" + witnessHost}
					if c.conf != nil {
						c.conf(conf)
					}
				}
				r := w.start(edit)
				time.Sleep(5 * time.Second)
				w.want("")
				if got := w.remembered(); got.Size != 300 {
					t.Fatalf("it remembers %d", got.Size)
				}
				c.do(w)
				if c.wait == 0 {
					c.wait = time.Minute
				}
				time.Sleep(c.wait)
				es := w.want(c.told)
				if len(es) > 0 && !strings.Contains(es[0].Reason, c.says) {
					t.Errorf("it says %q, and not %q", es[0].Reason, c.says)
				}
				if r.ended() != c.ends {
					t.Errorf("it ended: %v, %v", r.ended(), r.err)
				}
				if got := w.evidences(); len(got) != c.kept {
					t.Errorf("%d pieces of evidence: %+v", len(got), got)
				}
				for _, e := range es {
					if (len(e.Evidence) > 0) != (c.kept > 0) && e.Level == Finding {
						t.Errorf("%s names the evidence %q", e.Kind, e.Evidence)
					}
					for _, f := range e.Evidence {
						if _, err := os.Stat(f); err != nil {
							t.Error(err)
						}
					}
				}
				if c.heal != nil {
					c.heal(w)
					time.Sleep(time.Minute)
					w.want(c.then)
				}
				r.stop()
				var found *Found
				if errors.As(r.err, &found) != (accuses(es) || strings.Contains(c.then, "false")) {
					t.Errorf("it ended with %v", r.err)
				}
				// Whatever it was, what was remembered is there, and it goes on from it.
				if got := w.remembered(); got.Size < 300 {
					t.Errorf("it remembers %d", got.Size)
				}
			})
		})
	}
}

// accuses says whether there is a finding among the events.
func accuses(es []Event) bool {
	for _, e := range es {
		if e.Level == Finding {
			return true
		}
	}
	return false
}

func noWitness(p *tlog.Policy) *tlog.Policy {
	p, err := tlog.ParsePolicy([]byte("log " + p.Logs()[0].Key + "\nquorum none\n"))
	if err != nil {
		panic(err)
	}
	return p
}

// copy appends the first entries of the world's log to another.
func (w *world) copy(to *source, n uint64) {
	w.t.Helper()
	ts := tlog.Tiles{Reader: w.log.Log, Size: w.log.Size()}
	for i := range n {
		b, err := ts.Entry(w.t.Context(), i)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := to.Append(w.t.Context(), tlog.Leaf{Entry: b}); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := to.Publish(); err != nil {
		w.t.Fatal(err)
	}
}

// What the log signed and could not be followed to is remembered: it cannot be dropped for another tree later.
func TestWhatWasNotFollowed(t *testing.T) {
	for _, c := range []struct {
		name string
		show func(w *world, f *source)
		told string
	}{
		{"it showed no tiles", func(w *world, f *source) {
			f.tile = func(t tlog.Tile, data []byte) ([]byte, error) { return nil, tlog.ErrNotFound }
		}, "unreachable"},
		{"nobody had cosigned it", func(w *world, f *source) { w.witness.away = true }, "uncosigned"},
		{"its entries were not those", func(w *world, f *source) { f.tile = tlogtest.Replace(302, []byte("garbage")) }, "tampered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.pen.start()
				w.pen.beat(299)
				r := w.start()
				time.Sleep(5 * time.Second)
				f, p := w.fork(300, 5)
				c.show(w, f)
				w.serve(f)
				time.Sleep(10 * time.Minute)
				w.want(c.told)
				p.beat(1)
				time.Sleep(30 * time.Second)
				r.stop()
				// Another run, another tree.
				w.witness.away = false
				w.serve(w.log)
				w.pen.start()
				w.pen.beat(2)
				r = w.start()
				time.Sleep(time.Minute)
				if r.ended() {
					t.Fatal("it knows already")
				}
				if now := w.remembered().Size; now != 303 {
					t.Errorf("it remembers %d", now)
				}
				w.pen.beat(9)
				time.Sleep(time.Minute)
				es := w.told()
				if !r.ended() || kinds(es[len(es)-1:]) != "split-view" {
					t.Errorf("told: %q", kinds(es))
				}
				if got := w.evidences(); len(got) != 1 {
					t.Errorf("%d pieces of evidence", len(got))
				}
			})
		})
	}
}
