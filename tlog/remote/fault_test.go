package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
)

// A ledger is what the callers of Append know: what was acknowledged and where, and how often it was asked for.
type ledger struct {
	mu    sync.Mutex
	at    map[uint64]tlog.Leaf
	asked map[string]int // calls for an entry, but those that were refused
	open  map[string]int // of these, with an unknown outcome
}

func newLedger() *ledger {
	return &ledger{at: make(map[uint64]tlog.Leaf), asked: make(map[string]int), open: make(map[string]int)}
}

// append appends and writes down what came of it. Like any caller it uses its slices for something else then.
func (g *ledger) append(ctx context.Context, l tlog.Appender, leaves ...tlog.Leaf) ([]uint64, error) {
	kept := make([]tlog.Leaf, len(leaves))
	for i, leaf := range leaves {
		kept[i] = tlog.Leaf{Entry: bytes.Clone(leaf.Entry), Payload: bytes.Clone(leaf.Payload)}
	}
	indices, err := l.Append(ctx, leaves...)
	for _, leaf := range leaves {
		clear(leaf.Entry)
		clear(leaf.Payload)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if nothingAppended(err) || errors.Is(err, ErrRefused) {
		return nil, err
	}
	for i, leaf := range kept {
		g.asked[string(leaf.Entry)]++
		if err != nil {
			g.open[string(leaf.Entry)]++
			continue
		}
		if was, ok := g.at[indices[i]]; ok {
			return nil, fmt.Errorf("index %d was given to %.40q and to %.40q", indices[i], was.Entry, leaf.Entry)
		}
		g.at[indices[i]] = leaf
	}
	return indices, err
}

// verify reads the log, on the spot and whole, and compares it with the ledger: what was acknowledged stands at its place;
// nothing stands there more often than it was asked for; and what was refused does not.
func (g *ledger) verify(t testing.TB, p *process) {
	t.Helper()
	p.quiet(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	size := p.log.Size()
	count := make(map[string]int)
	acked := make(map[string]int)
	for n := uint64(0); n < size; n += tlog.TileWidth {
		tile := tlog.TileAt(tlog.EntriesLevel, n, size)
		data, err := tlog.ReadTile(ctx, p.log, tile)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := tlog.ParseBundle(data, tile.Width)
		if err != nil {
			t.Fatal(err)
		}
		for i, entry := range entries {
			count[string(entry)]++
			if leaf, ok := g.at[n+uint64(i)]; ok && !bytes.Equal(leaf.Entry, entry) {
				t.Errorf("entry %d is %.60q and was acknowledged as %.60q", n+uint64(i), entry, leaf.Entry)
			}
		}
	}
	for index, leaf := range g.at {
		acked[string(leaf.Entry)]++
		if index >= size {
			t.Errorf("entry %d was acknowledged, of a log of %d", index, size)
		}
		if leaf.Payload == nil {
			continue
		}
		if got, err := p.log.Payload(ctx, sha256.Sum256(leaf.Payload)); err != nil || !bytes.Equal(got, leaf.Payload) {
			t.Errorf("the payload of entry %d: %d bytes, %v; want %d bytes", index, len(got), err, len(leaf.Payload))
		}
	}
	for entry, n := range count {
		if most, least := g.asked[entry], acked[entry]; n > most || n < least {
			t.Errorf("%.60q stands in the log %d times; it was appended %d times, %d of them acknowledged", entry, n, most, least)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// leaf makes a leaf that no other equals, with a payload.
func leaf(format string, a ...any) tlog.Leaf {
	name := fmt.Sprintf(format, a...)
	return tlog.Leaf{Entry: []byte("entry " + name), Payload: []byte("payload " + name)}
}

// A fault is where a connection that carries an append is cut.
type fault struct {
	sent int // after so many bytes of the request; negative for never
	read int // after so many bytes of the answer, where sent is negative
}

// faulty is a connection that takes a fault with the next append that it carries.
type faulty struct {
	net.Conn
	d *faultyDialer

	mu          sync.Mutex
	fault       *fault
	wrote, read int // since an append began
}

func (c *faulty) Write(b []byte) (int, error) {
	c.mu.Lock()
	if bytes.HasPrefix(b, []byte("POST /append/")) {
		c.fault, c.wrote, c.read = c.d.next.Swap(nil), 0, 0
	}
	n, cut := len(b), false
	if f := c.fault; f != nil && f.sent >= 0 && c.wrote+n > f.sent {
		n, cut = f.sent-c.wrote, true
	}
	c.wrote += n
	c.d.length.Store(int64(c.wrote))
	c.mu.Unlock()
	if cut {
		c.Conn.Write(b[:n])
		c.Conn.Close()
		return n, errors.New("cut")
	}
	return c.Conn.Write(b)
}

// Read has mostly begun before the request whose answer it reads is written.
func (c *faulty) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fault; f != nil && f.sent < 0 && c.read+n > f.read {
		n = f.read - c.read
		c.Conn.Close()
		if n == 0 {
			return 0, errors.New("cut")
		}
	}
	c.read += n
	c.d.answer.Store(int64(c.read))
	return n, err
}

// A faultyDialer makes such connections.
type faultyDialer struct {
	next           atomic.Pointer[fault]
	length, answer atomic.Int64 // bytes of the last append
}

func (d *faultyDialer) into(l *Log) {
	l.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &faulty{Conn: c, d: d}, nil
	}
}

// TestCut cuts the connection after every byte of a request and after every byte of its answer. Every call succeeds all the
// same, once.
func TestCut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.interval = time.Millisecond
	p := s.start()
	l := s.client(s.config())
	var d faultyDialer
	d.into(l)
	stop := run(t, l)
	g := newLedger()
	ctx := context.Background()
	step := 1
	if testing.Short() {
		step = 23
	}
	if _, err := g.append(ctx, l, leaf("first")); err != nil {
		t.Fatal(err)
	}
	length, answer := int(d.length.Load()), int(d.answer.Load())
	if length < 300 || answer < 100 {
		t.Fatalf("a request of %d bytes and an answer of %d", length, answer)
	}
	cut := func(name string, f fault, leaves ...tlog.Leaf) {
		t.Helper()
		d.next.Store(&f)
		if _, err := g.append(ctx, l, leaves...); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.next.Load() != nil {
			t.Fatalf("%s: nothing was cut", name)
		}
	}
	for n := 0; n <= length; n += step {
		cut(fmt.Sprintf("request cut after %d bytes", n), fault{sent: n}, leaf("request %03d", n))
	}
	for n := 0; n < answer; n += step {
		cut(fmt.Sprintf("answer cut after %d bytes", n), fault{sent: -1, read: n}, leaf("answer %d", n), leaf("answer %d, second", n))
	}
	g.verify(t, p)
	stats := l.Stats()
	if stats.Found < uint64(answer/step) {
		t.Errorf("%d searches found %d bodies; every cut answer is to be found", stats.Searches, stats.Found)
	}
	// Equal leaves, as often as they are asked for.
	for n := 0; n < answer; n += 10 * step {
		cut("twice", fault{sent: -1, read: n}, leaf("twice"))
		cut("twice in one call", fault{sent: length}, leaf("twice"), leaf("twice"))
		cut("cut request", fault{sent: n}, leaf("twice"))
	}
	g.verify(t, p)
	// Payloads that are streamed, cut here and there.
	for _, n := range []int{0, 400, 5000, 1 << 20, 3 << 20} {
		big := leaf("large %d", n)
		big.Payload = bytes.Repeat([]byte{byte(n >> 4)}, 3<<20)
		cut("large", fault{sent: n}, big)
		big = leaf("large answer %d", n)
		big.Payload = bytes.Repeat([]byte{byte(n >> 4), 1}, 1<<20)
		cut("answer to large", fault{sent: -1, read: n % answer}, big)
	}
	g.verify(t, p)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// hooked is an engine with faults.
type hooked struct {
	*local.Log
	hooks *hooks
}

// hooks run on the server's goroutines.
type hooks struct {
	mu     sync.Mutex
	before func(leaves []tlog.Leaf) error          // an error is answered, and nothing appended
	after  func(indices []uint64, err error) error // an error is answered, whatever was appended
}

func (h *hooks) set(before func([]tlog.Leaf) error, after func([]uint64, error) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.after = before, after
}

func (h *hooks) get() (func([]tlog.Leaf) error, func([]uint64, error) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.before, h.after
}

func (e hooked) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	before, after := e.hooks.get()
	if before != nil {
		if err := before(leaves); err != nil {
			return nil, err
		}
	}
	indices, err := e.Log.Append(ctx, leaves...)
	if after != nil {
		if err := after(indices, err); err != nil {
			return nil, err
		}
	}
	return indices, err
}

// hook puts hooks between server and log, from the next start on.
func (s *site) hook() *hooks {
	h := new(hooks)
	s.between = func(l *local.Log) Engine { return hooked{l, h} }
	return h
}

// once returns a function that calls f the first time.
func once(f func()) func() {
	var o sync.Once
	return func() { o.Do(f) }
}

// crowd appends from many goroutines until stop is called, which returns when all have had their answer.
func (g *ledger) crowd(t testing.TB, l tlog.Appender, name string) (stop func()) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	var over atomic.Bool
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !over.Load(); i++ {
				var leaves []tlog.Leaf
				for j := range 1 + w%3 {
					leaves = append(leaves, leaf("%s %d %d %d", name, w, i, j))
				}
				if _, err := g.append(ctx, l, leaves...); err != nil {
					t.Errorf("Append: %v", err)
					return
				}
			}
		})
	}
	return func() {
		over.Store(true)
		wg.Wait()
		cancel()
	}
}

// TestWitnessAway cuts connections, and kills the server, while a witness is away without which nothing is published. The
// leaves are durable, and so their callers are told: at once, and not when the witness is back. Nothing is appended twice.
func TestWitnessAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.cosigner = newCosigner(t)
	h := s.hook()
	p := s.start()
	l := s.client(s.config())
	var d faultyDialer
	d.into(l)
	stop := run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := g.append(ctx, l, leaf("with the witness")); err != nil {
		t.Fatal(err)
	}
	p.quiet(t)
	length := int(d.length.Load())
	s.cosigner.away.Store(true)
	published := p.log.Stats().Published
	append := func(name string, leaves ...tlog.Leaf) {
		t.Helper()
		if _, err := g.append(ctx, l, leaves...); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for i, f := range []fault{{sent: -1, read: 0}, {sent: -1, read: 90}, {sent: length / 2}, {sent: -1, read: 1}} {
		d.next.Store(&f)
		append(fmt.Sprintf("%+v", f), leaf("cut %d", i), leaf("cut %d, second", i))
		if d.next.Load() != nil {
			t.Errorf("%+v: nothing was cut", f)
		}
		append("after that", leaf("equal"))
	}
	if found := l.Stats().Found; found != 3 {
		t.Errorf("%d bodies were found; three answers were cut", found)
	}
	// The same with load, and with a server that dies when the leaves are durable.
	for round := range 3 {
		enough := g.crowd(t, l, fmt.Sprint(round))
		p.ln.sever()
		killed := make(chan struct{})
		kill := once(func() {
			s.crash(0)
			h.set(nil, nil)
			close(killed)
		})
		h.set(nil, func([]uint64, error) error { kill(); return nil })
		<-killed
		p = s.start()
		enough()
	}
	if now := p.log.Stats().Published; now != published {
		t.Errorf("%d entries are published without the witness, and %d were with it", now, published)
	}
	s.cosigner.away.Store(false)
	g.verify(t, p)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestServerKilled kills the server at the points where it matters, under load, and starts it again on what the disk has.
// No call fails.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		unsynced int // percent that is kept of what was not synced
		hook     func(h *hooks, kill func())
	}{
		{"before the engine has the leaves", 0, func(h *hooks, kill func()) {
			h.set(func([]tlog.Leaf) error { kill(); return nil }, nil)
		}},
		{"between commit and answer", 0, func(h *hooks, kill func()) {
			h.set(nil, func([]uint64, error) error { kill(); return nil })
		}},
		{"between commit and answer, which is an error", 50, func(h *hooks, kill func()) {
			h.set(nil, func([]uint64, error) error { kill(); return errors.New("the disk is gone") })
		}},
		{"while a batch is on its way to the disk", 50, func(h *hooks, kill func()) {
			h.set(func([]tlog.Leaf) error { go kill(); return nil }, nil)
		}},
		{"at any time", 100, func(h *hooks, kill func()) { time.AfterFunc(3*time.Millisecond, kill) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.hook()
			s.start()
			l := s.client(s.config())
			stop := run(t, l)
			g := newLedger()
			for round := range 6 {
				enough := g.crowd(t, l, fmt.Sprint(round))
				killed := make(chan struct{})
				c.hook(h, once(func() {
					s.crash(c.unsynced)
					h.set(nil, nil)
					close(killed)
				}))
				<-killed
				p := s.start()
				if round%2 == 0 {
					time.Sleep(time.Duration(round) * time.Millisecond)
				}
				enough()
				g.verify(t, p)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestServerRestarted stops and starts the server in order, under load.
func TestServerRestarted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	for round := range 8 {
		enough := g.crowd(t, l, fmt.Sprint(round))
		time.Sleep(3 * time.Millisecond)
		s.down()
		p = s.start()
		enough()
		g.verify(t, p)
	}
}

// TestConnectionsSevered cuts every connection again and again, under load, while the server goes on.
func TestConnectionsSevered(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	enough := g.crowd(t, l, "severed")
	for range 30 {
		time.Sleep(2 * time.Millisecond)
		p.ln.sever()
	}
	enough()
	g.verify(t, p)
	if l.Stats().Leases < 2 {
		t.Error("no connection was cut under an append")
	}
}

// TestSilence is a server that takes the leaves and does not answer in time. The engine answers later than the client waits:
// the lease waits for that, and then they are found.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	p := s.start()
	c := s.config()
	c.Stall = 200 * time.Millisecond
	l := s.client(c)
	run(t, l)
	g := newLedger()
	ctx := context.Background()
	var calls atomic.Int32
	h.set(nil, func([]uint64, error) error {
		if calls.Add(1) == 1 {
			time.Sleep(time.Second)
		}
		return nil
	})
	indices, err := g.append(ctx, l, leaf("slow"))
	if err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 1 || indices[0] != 0 {
		t.Errorf("appended %d times, index %d", calls.Load(), indices[0])
	}
	g.verify(t, p)
}

// TestFenced is two processes that append as one writer. The first has an append under way in the engine when the second
// begins: the second waits for it, and the first ends.
func TestFenced(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	p := s.start()
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old := s.client(s.config())
	ended := make(chan error, 1)
	go func() { ended <- old.Run(context.Background()) }()
	if _, err := g.append(ctx, old, leaf("old")); err != nil {
		t.Fatal(err)
	}
	inEngine, release := make(chan struct{}), make(chan struct{})
	h.set(func([]tlog.Leaf) error { close(inEngine); <-release; h.set(nil, nil); return nil }, nil)
	var late []uint64
	var lateErr error
	var wg sync.WaitGroup
	wg.Go(func() { late, lateErr = g.append(ctx, old, leaf("under way")) })
	<-inEngine

	young := s.client(s.config())
	run(t, young)
	var first []uint64
	var firstErr error
	wg.Go(func() { first, firstErr = g.append(ctx, young, leaf("young")) })
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	if lateErr != nil || firstErr != nil || late[0] >= first[0] {
		t.Fatalf("what was under way: %d, %v; the first of the new process: %d, %v", late, lateErr, first, firstErr)
	}
	if _, err := g.append(ctx, old, leaf("too late")); !errors.Is(err, ErrFenced) {
		t.Errorf("an append of the old process: %v", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrFenced) {
			t.Errorf("the old process ends: %v", err)
		}
	case <-ctx.Done():
		t.Error("the old process does not end")
	}
	if _, err := old.Append(ctx, leaf("after the end")); !errors.Is(err, ErrFenced) {
		t.Errorf("an append after that: %v", err)
	}
	if _, err := g.append(ctx, young, leaf("goes on")); err != nil {
		t.Error(err)
	}
	g.verify(t, p)
	for entry, n := range g.asked {
		if strings.Contains(entry, "too late") && n > g.open[entry] {
			t.Errorf("%q was acknowledged", entry)
		}
	}
}

// TestFencedAfterCrash is the boot of a gateway that was killed: what was still on its way to the server, be it half a
// body, does not land behind the first entry of the next boot.
func TestFencedAfterCrash(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old := s.client(s.config())
	lease, err := old.takeLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	body := appendLeaf(appendCount(nil, 1), leaf("of the boot that was killed"))
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /append/%s HTTP/1.1\r\nHost: log\r\nAuthorization: Bearer %s\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		testWriter, testToken, headEpoch, lease.epoch, typeLeaves, len(body))
	conn.Write(body[:len(body)-1])

	young := s.client(s.config())
	run(t, young)
	if _, err := g.append(ctx, young, leaf("start")); err != nil {
		t.Fatal(err)
	}
	conn.Write(body[len(body)-1:])
	answer := make([]byte, 1000)
	n, err := conn.Read(answer)
	if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 409 ") {
		t.Errorf("the rest of an earlier boot's append is answered %q, %v", answer[:n], err)
	}
	g.verify(t, p)
}

// TestAbandoned is callers who leave while their call is under way. They have their slices back at once, and nothing of
// theirs lands behind what is appended later.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := g.append(ctx, l, leaf("first")); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, bulkBytes + 1, 5 << 20} {
		for _, cut := range []bool{false, true} {
			inEngine, release := make(chan struct{}), make(chan struct{})
			h.set(func([]tlog.Leaf) error { h.set(nil, nil); close(inEngine); <-release; return nil }, nil)
			short, leave := context.WithCancel(ctx)
			gone := make(chan error, 1)
			name := fmt.Sprintf("abandoned, %d bytes, cut %v", size, cut)
			left := leaf("%s", name)
			left.Payload = append(left.Payload, make([]byte, size)...)
			go func() {
				_, err := g.append(short, l, left)
				gone <- err
			}()
			<-inEngine
			leave()
			if err := <-gone; !errors.Is(err, context.Canceled) || !errors.Is(err, errOpen) {
				t.Errorf("%s: %v", name, err)
			}
			var after []uint64
			var err error
			var wg sync.WaitGroup
			var many []tlog.Leaf // enough to be sent beside what is on its way, if that were allowed
			for i := range secondLeaves {
				many = append(many, leaf("after %s, %d", name, i))
			}
			wg.Go(func() { after, err = g.append(ctx, l, many...) })
			if cut {
				p.ln.sever()
			}
			time.Sleep(20 * time.Millisecond)
			close(release)
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			p.settled(t) // what is still in the engine, too
			if size, last := p.log.Size(), after[len(after)-1]; size != last+1 {
				t.Errorf("%s: the log has %d entries after one at %d", name, size, last)
			}
		}
	}
	g.verify(t, p)
}

// TestEqualBeside is two calls of one leaf that are on their way together. One is acknowledged; of the other, which the
// engine did not take, the answer is lost. It is not told the place of the first.
func TestEqualBeside(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.hook()
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	equal := func() tlog.Leaf { return tlog.Leaf{Entry: []byte("equal"), Payload: make([]byte, secondBytes)} }
	var calls atomic.Int32
	one, two, told := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h.set(func([]tlog.Leaf) error {
		switch calls.Add(1) {
		case 1:
			close(one)
			<-two
		case 2:
			close(two)
			<-told
			p.ln.sever()
			return tlog.ErrBusy
		}
		return nil
	}, nil)
	var wg sync.WaitGroup
	call := func(then func()) {
		wg.Go(func() {
			defer then()
			if _, err := g.append(ctx, l, equal()); err != nil {
				t.Error(err)
			}
		})
	}
	call(func() { close(told) })
	<-one // or both would go in one body
	call(func() {})
	wg.Wait()
	if size := p.log.Size(); size != 2 {
		t.Errorf("the log has %d entries", size)
	}
	g.verify(t, p)
}

// TestEqual is equal leaves in calls that are under way together, while connections are cut.
func TestEqual(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start()
	l := s.client(s.config())
	run(t, l)
	g := newLedger()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for range 20 {
				leaves := []tlog.Leaf{leaf("equal")}
				if w%2 == 0 {
					leaves = append(leaves, leaf("equal"))
				}
				if w == 5 { // by a body of its own
					leaves = []tlog.Leaf{{Entry: []byte("equal and large"), Payload: make([]byte, bulkBytes+1)}}
				}
				if _, err := g.append(ctx, l, leaves...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for cut := true; cut; {
		select {
		case <-done:
			cut = false
		case <-time.After(3 * time.Millisecond):
			p.ln.sever()
		}
	}
	g.verify(t, p)
}

// TestEverythingAtOnce is two writers, patient and impatient callers, and whatever can happen to a server, in any order.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	rounds := 25
	if testing.Short() {
		rounds = 6
	}
	s := newSite(t)
	h := s.hook()
	s.server.Clients[0].Writers = []string{"gw-1", "gw-2"}
	p := s.start()
	rng := newRand()
	logs := make([]*Log, 2)
	for i := range logs {
		c := s.config()
		c.Writer = fmt.Sprintf("gw-%d", i+1)
		c.Stall = 2 * time.Second
		logs[i] = s.client(c)
		run(t, logs[i])
	}
	g := newLedger()
	for round := range rounds {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		var over atomic.Bool
		var wg sync.WaitGroup
		for w := range 12 {
			l, seed := logs[w%2], rng.Uint64()
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 0))
				for i := 0; !over.Load(); i++ {
					var leaves []tlog.Leaf
					for j := range 1 + rng.IntN(4) {
						leaves = append(leaves, leaf("%d %d %d %d", round, w, i, j))
					}
					if rng.IntN(30) == 0 {
						leaves[0].Payload = bytes.Repeat(leaves[0].Entry, bulkBytes/10)
					}
					short, leave := ctx, context.CancelFunc(func() {})
					if w >= 8 {
						short, leave = context.WithTimeout(ctx, time.Duration(rng.IntN(8000))*time.Microsecond)
					}
					if _, err := g.append(short, l, leaves...); err != nil && short.Err() == nil {
						t.Errorf("Append: %v", err)
					}
					leave()
				}
			})
		}
		for range 1 + rng.IntN(4) {
			time.Sleep(time.Duration(rng.IntN(8000)) * time.Microsecond)
			switch rng.IntN(5) {
			case 0:
				s.crash(rng.IntN(101))
				p = s.start()
			case 1:
				s.down()
				p = s.start()
			case 2: // between commit and answer
				killed := make(chan struct{})
				kill := once(func() {
					s.crash(50)
					close(killed)
				})
				h.set(nil, func([]uint64, error) error { kill(); return nil })
				<-killed
				h.set(nil, nil)
				p = s.start()
			default:
				p.ln.sever()
			}
		}
		over.Store(true)
		wg.Wait()
		cancel()
		p.settled(t)
		g.verify(t, p)
	}
}
