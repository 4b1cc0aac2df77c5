package ship

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

var began = time.Date(2026, 11, 2, 9, 30, 0, 0, time.UTC)

// heartbeats are the i-th entries of a log, from one to before another.
func heartbeats(t testing.TB, from, to int) []tlog.Leaf {
	t.Helper()
	var all []tlog.Leaf
	for i := from; i < to; i++ {
		e := record.Entry{Kind: record.Heartbeat, By: "gw-1", Boot: record.ID{1}, Seq: uint64(i + 1), Time: began.Add(time.Duration(i) * time.Second), Beat: true}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tlog.Leaf{Entry: b})
	}
	return all
}

// A filled log has n entries, published.
func filled(t testing.TB, n int) *tlogtest.Log {
	t.Helper()
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	grow(t, l, n)
	return l
}

func grow(t testing.TB, l *tlogtest.Log, n int) {
	t.Helper()
	from := int(l.Size())
	if n > 0 {
		if _, err := l.Append(t.Context(), heartbeats(t, from, from+n)...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Publish(); err != nil {
		t.Fatal(err)
	}
}

// A memory is a sink that keeps what it is given, and fails as it is told.
type memory struct {
	mu    sync.Mutex
	lines []string
	calls int
	fail  func(call int, lines [][]byte) error // before anything is kept
	after func(call int) error                 // when it is kept, and not acknowledged
}

func (m *memory) Deliver(ctx context.Context, lines [][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.fail != nil {
		if err := m.fail(m.calls, lines); err != nil {
			return err
		}
	}
	for _, l := range lines {
		m.lines = append(m.lines, string(l))
	}
	if m.after != nil {
		return m.after(m.calls)
	}
	return nil
}

func (m *memory) Close() error   { return nil }
func (m *memory) String() string { return "memory:" }

func (m *memory) got() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.lines...)
}

// A shipped line, as whoever receives it reads it.
type shipped struct {
	ID      string
	Time    time.Time
	Kind    record.Kind
	Origin  string
	Index   uint64
	Leaf    tlog.Hash
	Entry   json.RawMessage
	Record  map[string]any
	Missing string
}

// whole says what is wrong with lines that are to be the first n entries of a log: each at least once, none before one that comes
// earlier in the log, each as the log has it. Those that are no JSON were torn; the next one is whole.
func whole(l tlog.Reader, lines []string, n int) error {
	seen := make(map[string]bool)
	next := uint64(0)
	for _, line := range lines {
		var s shipped
		if !json.Valid([]byte(line)) {
			continue
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			return err
		}
		switch {
		case s.ID != fmt.Sprintf("%s:%d", tlogtest.Origin, s.Index) || s.Origin != tlogtest.Origin:
			return fmt.Errorf("the id %q", s.ID)
		case s.Index > next:
			return fmt.Errorf("entry %d comes after %d", s.Index, next)
		case tlog.HashLeaf(s.Entry) != s.Leaf:
			return fmt.Errorf("entry %d has another leaf hash", s.Index)
		}
		e, err := record.ParseEntry(s.Entry)
		if err != nil || e.Kind != s.Kind || !e.Time.Equal(s.Time) {
			return fmt.Errorf("entry %d: %v, %+v", s.Index, err, s)
		}
		next = max(next, s.Index+1)
		seen[s.ID] = true
	}
	if len(seen) != n {
		return fmt.Errorf("%d entries came, not %d", len(seen), n)
	}
	return nil
}

// A following is a shipper that runs.
type following struct {
	*Shipper
	stop func() error
}

// follow runs a shipper until the test ends or it is stopped.
func follow(t testing.TB, c Config) *following {
	t.Helper()
	if c.Mark == "" {
		c.Mark = filepath.Join(t.TempDir(), "mark")
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	return &following{s, stop}
}

func split(b []byte) []string {
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// until waits until something is so.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
