package monitor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// A log with a real writer is followed for an hour and more, through restarts of both: nothing is ever wrong with it, every
// entry is read once, and what was read is remembered.
func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.log.bend(func(s *source) {
			s.Log = tlogtest.Start(t, tlogtest.Config{Interval: 300 * time.Millisecond})
		})
		life := func() (stop func()) {
			p, err := record.NewWriter(record.WriterConfig{ID: "gw-1", Log: w.log.Log, Reader: w.log.Log, Software: "tally/1", Mode: "strict"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		stop := life()
		time.Sleep(time.Second)
		var size uint64
		for round := range 6 {
			r := w.start(func(c *Config) { c.MaxAge = time.Minute })
			time.Sleep(12 * time.Minute)
			if round%2 == 1 {
				stop()
				stop = life()
			}
			time.Sleep(time.Minute)
			r.stop()
			if r.err != nil {
				t.Fatal(r.err)
			}
			w.mu.Lock()
			grown := 0
			for _, e := range w.events {
				switch {
				case e.Kind == Grown:
					grown++
					if round > 0 || grown > 1 {
						if *e.OldSize != size || *e.Size <= size {
							t.Errorf("from %d to %d, and it was at %d", *e.OldSize, *e.Size, size)
						}
					}
					size = *e.Size
				case e.Kind == Following && round > 0 && *e.Size != size:
					t.Errorf("it goes on from %d, and was at %d", *e.Size, size)
				}
			}
			w.mu.Unlock()
			if grown < 60 {
				t.Errorf("it saw %d growths in twelve minutes of heartbeats", grown)
			}
			w.want("")
			if got := w.remembered(); got.Size != size {
				t.Errorf("it remembers %d, and was at %d", got.Size, size)
			}
			read := w.net.requests()
			if round == 5 {
				for _, path := range read {
					if strings.Contains(path, "tile/entries/000") {
						t.Errorf("it read %s again, of a log of %d entries", path, size)
					}
				}
			}
		}
		stop()
		// Whoever comes new reads it all, and is of the same mind.
		if err := w.once(); err != nil {
			t.Fatal(err)
		}
		if size < 450 {
			t.Errorf("%d entries in all that time", size)
		}
	})
}

// Logs beside each other are followed beside each other, and remembered each by itself.
func TestFollowsSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.pen.start()
		w.pen.beat(3)
		w.net.set("mirror.test", w.net.hosts[logHost])
		r := w.start(func(c *Config) { c.URLs = []string{"http://nowhere.test", "http://" + logHost + "/"} })
		time.Sleep(10 * time.Minute)
		es := w.want("unreachable silent")
		if es[0].URL != "http://nowhere.test" || !strings.Contains(es[0].Reason, errRefused.Error()) {
			t.Errorf("%+v", es[0])
		}
		if got := w.remembered(); got.Size != 4 {
			t.Errorf("it remembers %d", got.Size)
		}
		r.stop()
		if r.err != nil {
			t.Error(r.err)
		}
		// Two logs, each with a peer that knows the one.
		const other = "log.example/other"
		second := tlogtest.Start(t, tlogtest.Config{Origin: other, Manual: true})
		if _, err := second.Append(t.Context(), tlog.Leaf{Entry: []byte("not an entry")}); err != nil {
			t.Fatal(err)
		}
		if _, err := second.Publish(); err != nil {
			t.Fatal(err)
		}
		w.net.set("other.test", tiles.Handler(second, tiles.Options{}))
		r = w.start(func(c *Config) {
			p, err := tlog.ParsePolicy([]byte("log " + second.VerifierKey() + "\n" + string(w.policy("none").Text())))
			if err != nil {
				t.Fatal(err)
			}
			c.Policy = p
			c.URLs = []string{"http://other.test", "http://" + logHost}
			c.Peers = []string{"http://mirror.test", "http://other.test/", "http://" + logHost}
		})
		time.Sleep(time.Minute)
		r.stop()
		for _, e := range w.told() {
			if e.Kind != Silent && (e.Kind != False || e.Log != other || e.Claim != verify.EntryCanonical) {
				t.Errorf("%+v", e)
			}
		}
		var found *Found
		if !errors.As(r.err, &found) || found.First.Log != other {
			t.Errorf("two logs, of which one has nonsense in it: %v", r.err)
		}
		// One log at two addresses is a mistake, and said to be.
		r = w.start(func(c *Config) { c.URLs = []string{"http://mirror.test", "http://" + logHost} })
		<-r.done
		if r.err == nil || !strings.Contains(r.err.Error(), "are one log") {
			t.Errorf("one log twice: %v", r.err)
		}
		if errors.As(r.err, &found) {
			t.Errorf("one log twice is a finding: %v", r.err)
		}
	})
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*Config){
		"no log":             func(c *Config) { c.URLs = nil },
		"no URL":             func(c *Config) { c.URLs = []string{""} },
		"a log twice":        func(c *Config) { c.URLs = []string{"http://a.test", "http://a.test/"} },
		"another scheme":     func(c *Config) { c.URLs = []string{"ftp://a.test"} },
		"no directory":       func(c *Config) { c.Dir = "" },
		"no policy":          func(c *Config) { c.Policy = nil },
		"a witness of none":  func(c *Config) { c.Witnesses = []string{"witness"} },
		"a peer of none":     func(c *Config) { c.Peers = []string{""} },
		"a negative time":    func(c *Config) { c.MaxAge = -1 },
		"a webhook nowhere":  func(c *Config) { c.Webhook = &Webhook{URL: "example.com"} },
		"a webhook of files": func(c *Config) { c.Webhook = &Webhook{URL: "file:///etc/passwd"} },
	} {
		c := w.conf
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
