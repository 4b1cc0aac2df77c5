// Package monitor follows logs for as long as it runs, and remembers what they have shown: it reads what is new, holds it
// against what was there before, and keeps the evidence when the two cannot both be true.
//
// What is always true:
//
//   - the checkpoint that it remembers of a log met the policy, everything below it was read and judged as
//     [verify.CheckLog] does, and nothing that was served or that kills the process makes it forget that one;
//   - a log is accused by its own signatures only: of every contradiction both checkpoints are on the disk before
//     anybody is told. What may as well be a server out of reach or witnesses away is an alert. A tree that is smaller than
//     it was, three looks in a row, is a finding, though a stale cache can show one;
//   - an event is told before what it follows from is remembered, so that a death in between tells it twice, and
//     never not at all.
//
// One round looks at one log:
//
//  1. the checkpoint     the log's signature, the policy, how old it is
//  2. the tree           larger: every new entry and tile is read on to the new root; the same size: the same root;
//     smaller or another root: evidence
//  3. the books          numbers, boots, sessions, silence and times of what was read, continued from the round before
//  4. other views        what witnesses and peers were shown is a part of the same tree, or else evidence
//
// What was read once is not read again, so that a tile that is served otherwise years later is noticed only if it is the
// last and not yet full one, or is part of a proof; Config.Full reads everything anew when it begins.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/verify"
)

// Config says what a monitor follows and how.
type Config struct {
	URLs   []string     // of logs: for each the prefix before /checkpoint, and of each log one
	Policy *tlog.Policy // whom to believe
	Dir    string       // what it remembers, and the evidence; of one monitor at a time; made if it is missing

	// Tell is given every event, one at a time, and should not wait. Nil for nobody.
	Tell func(Event)
	// Webhook is told of alerts and findings besides; nil for none.
	Webhook *Webhook

	// Witnesses are the monitoring prefixes of witnesses (c2sp.org/tlog-witness): what each has seen of a log is held
	// against what the log shows.
	Witnesses []string
	// Peers are other places that show a checkpoint of one of the logs, at the prefix before /checkpoint: a mirror, or what
	// somebody else is served.
	Peers []string

	Interval time.Duration // from one round to the next; zero means 10 seconds
	MaxAge   time.Duration // how old the newest cosignature may be, or without any the newest growth; zero means that it is not asked
	Patience time.Duration // how long a log may be unreachable or uncosigned, or behind its witnesses, before that is an alert; zero means 5 minutes

	Full      bool // first read again all that was read before
	Once      bool // one round for each log; what is not as it should be is told without patience
	KeepGoing bool // after a contradiction too, instead of ending with it

	// Client makes the requests to logs, witnesses and peers. Nil is one that waits a minute for each.
	Client *http.Client
}

// A Monitor follows logs. It is made by New and run once.
type Monitor struct {
	c      Config
	client *http.Client
	hook   *hook // nil for none
	memory *memory

	mu       sync.Mutex        // held while an event is told
	origins  map[string]string // the URL at which each log is followed in this run
	findings int
	first    Event // of the findings
}

// Found is the error of a run in which something that was read is false.
type Found struct {
	Count int
	First Event
}

func (f *Found) Error() string {
	s := fmt.Sprintf("monitor: %s: %s", f.First.Log, f.First.Reason)
	if f.Count > 1 {
		s += fmt.Sprintf("; and %d more", f.Count-1)
	}
	return s
}

// New checks the configuration. It reads and reaches nothing yet.
func New(c Config) (*Monitor, error) {
	switch {
	case len(c.URLs) == 0:
		return nil, errors.New("monitor: no log to follow; name its URL")
	case c.Dir == "":
		return nil, errors.New("monitor: no directory to remember anything in; name one")
	case c.Policy == nil || len(c.Policy.Logs()) == 0:
		return nil, errors.New("monitor: the policy names no log, so that none would be believed")
	case c.Interval < 0 || c.MaxAge < 0 || c.Patience < 0:
		return nil, errors.New("monitor: a time below zero")
	}
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = 5 * time.Minute
	}
	if c.Tell == nil {
		c.Tell = func(Event) {}
	}
	m := &Monitor{c: c, client: c.Client, origins: make(map[string]string)}
	if m.client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 16 // tiles are read several at a time
		m.client = &http.Client{Timeout: time.Minute, Transport: t}
	}
	seen := make(map[string]bool)
	for _, u := range c.URLs {
		if _, err := m.reader(u); err != nil {
			return nil, err
		}
		if u = strings.TrimRight(u, "/"); seen[u] {
			return nil, fmt.Errorf("monitor: %s is named twice", u)
		}
		seen[u] = true
	}
	for _, u := range slices.Concat(c.Witnesses, c.Peers) {
		if _, err := m.reader(u); err != nil {
			return nil, err
		}
	}
	if c.Webhook != nil {
		var err error
		if m.hook, err = newHook(*c.Webhook); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// maxBundle is the largest tile of entries that is read: entries as engines of ours take them, and no larger ones.
const maxBundle = tlog.TileWidth * (2 + tlog.MaxEntry)

func (m *Monitor) reader(url string) (*tiles.URL, error) {
	return tiles.FromURL(url, m.client, tiles.Limits{Bundle: maxBundle})
}

// Run follows the logs until ctx ends, and returns nil if nothing was found meanwhile or else a [*Found]. A
// contradiction ends it, unless it is to keep going. It returns other errors where it cannot remember: where the directory cannot be
// written, or does not hold what a monitor wrote there. With Config.Once it returns after a round, with a
// [*verify.Unreadable] if a log could not be read.
//
// Before it returns, the webhook is given half a minute to take what it has not yet been told.
func (m *Monitor) Run(ctx context.Context) error {
	var err error
	if m.memory, err = openMemory(m.c.Dir); err != nil {
		return err
	}
	defer m.memory.close()
	if m.c.Client == nil {
		defer m.client.CloseIdleConnections()
	}
	if m.hook != nil {
		defer m.hook.start(m.untold)()
	}
	follow, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(m.c.URLs))
	var wg sync.WaitGroup
	for i, url := range m.c.URLs {
		wg.Go(func() {
			w := &watch{m: m, url: strings.TrimRight(url, "/"), troubles: make(map[string]*trouble)}
			if errs[i] = w.run(follow); errs[i] != nil && !m.c.Once {
				stop()
			}
			w.sum()
		})
	}
	wg.Wait()
	// What was found counts for more than what could not be read.
	for _, err := range errs {
		var unread *verify.Unreadable
		if err != nil && err != errEnd && !errors.As(err, &unread) {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.findings > 0 {
		return &Found{m.findings, m.first}
	}
	return errors.Join(errs...)
}

// errEnd ends a run with what was found.
var errEnd = errors.New("monitor: a contradiction was found")

// tell tells an event to everybody whom it concerns.
func (m *Monitor) tell(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Time = time.Now().UTC().Truncate(time.Millisecond)
	if e.Level == Finding {
		if m.findings++; m.findings == 1 {
			m.first = e
		}
	}
	m.c.Tell(e)
	if m.hook != nil && (e.Level != Note || e.Kind == Over) && !m.hook.put(e) {
		m.untoldLocked(e, errFull)
	}
}

// untold says that the webhook could not be told of something.
func (m *Monitor) untold(e Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.untoldLocked(e, err)
}

func (m *Monitor) untoldLocked(e Event, err error) {
	m.c.Tell(Event{Time: time.Now().UTC().Truncate(time.Millisecond), Kind: Untold, Level: Alert, Log: e.Log, URL: e.URL,
		Reason: fmt.Sprintf("the webhook was not told that %s: %v", e.Kind, err)})
}

// claim makes a log's origin that of one URL in this run.
func (m *Monitor) claim(origin, url string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if other := m.origins[origin]; other != "" && other != url {
		return fmt.Errorf("monitor: %s and %s are one log, %s; follow it at one, and name the other as its peer", other, url, origin)
	}
	m.origins[origin] = url
	return nil
}
