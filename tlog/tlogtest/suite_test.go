package tlogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// memory is the world of the memory log.
func memory(c Config) World {
	c.Storage = new(Storage)
	return World{
		Open: func(t testing.TB, s Setting) tlog.Log {
			c.Origin, c.Signer, c.Latest = s.Origin, s.Signer, s.Latest
			l, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		Close: func(_ testing.TB, l tlog.Log) { l.(*Log).Close() },
		Crash: func(_ testing.TB, l tlog.Log) { l.(*Log).Close() },
	}
}

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) World { return memory(Config{}) })
}

func TestMemoryPrunes(t *testing.T) {
	Run(t, func(*testing.T) World {
		w := memory(Config{Prune: true, Interval: time.Millisecond})
		w.Large = 3000
		return w
	})
}

// A verdict is a test that may fail without anybody minding.
type verdict struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (v *verdict) say(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said = append(v.said, s)
}
func (v *verdict) Helper()                   {}
func (v *verdict) Fail()                     { v.say("failed") }
func (v *verdict) Error(args ...any)         { v.say(fmt.Sprint(args...)) }
func (v *verdict) Errorf(f string, a ...any) { v.say(fmt.Sprintf(f, a...)) }
func (v *verdict) FailNow()                  { v.Fail(); runtime.Goexit() }
func (v *verdict) Fatal(args ...any)         { v.Error(args...); runtime.Goexit() }
func (v *verdict) Fatalf(f string, a ...any) { v.Errorf(f, a...); runtime.Goexit() }
func (v *verdict) Failed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.said) > 0
}

// tell tells the story and returns the step at which it failed, and what it said.
func tell(t *testing.T, w World) (failed string, said []string) {
	v := &verdict{TB: t}
	w.Large = 600
	s := newStory(v, w)
	s.patience = 3 * time.Second
	for _, step := range s.steps() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			step.do(v)
		}()
		<-done
		if v.Failed() {
			failed = step.name
			break
		}
	}
	if s.log != nil && s.cancel != nil {
		s.cancel()
		<-s.ended
	}
	return failed, v.said
}

// A liar is an engine with a fault: what is nil is as in the memory log.
type liar struct {
	*Log
	append     func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error)
	checkpoint func(l *Log, ctx context.Context) ([]byte, error)
	tile       func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error)
	payload    func(l *Log, ctx context.Context, sum tlog.Hash) ([]byte, error)
	tail       func(l *Log, ctx context.Context, from uint64, wait time.Duration) ([][]byte, error)
	sizes      func(l *Log, ctx context.Context, after uint64, max int) ([]uint64, error)
	at         func(l *Log, ctx context.Context, size uint64) ([]byte, error)
	run        func(l *Log, ctx context.Context) error
	lost       func(d *Storage) // at a crash and at a close
	config     func(c *Config)
}

func (f *liar) Append(ctx context.Context, leaves ...tlog.Leaf) ([]uint64, error) {
	if f.append != nil {
		return f.append(f.Log, ctx, leaves)
	}
	return f.Log.Append(ctx, leaves...)
}
func (f *liar) Checkpoint(ctx context.Context) ([]byte, error) {
	if f.checkpoint != nil {
		return f.checkpoint(f.Log, ctx)
	}
	return f.Log.Checkpoint(ctx)
}
func (f *liar) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if f.tile != nil {
		return f.tile(f.Log, ctx, t)
	}
	return f.Log.Tile(ctx, t)
}
func (f *liar) Payload(ctx context.Context, sum tlog.Hash) ([]byte, error) {
	if f.payload != nil {
		return f.payload(f.Log, ctx, sum)
	}
	return f.Log.Payload(ctx, sum)
}
func (f *liar) Tail(ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
	if f.tail != nil {
		return f.tail(f.Log, ctx, from, wait)
	}
	return f.Log.Tail(ctx, from, wait)
}
func (f *liar) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	if f.sizes != nil {
		return f.sizes(f.Log, ctx, after, max)
	}
	return f.Log.Sizes(ctx, after, max)
}
func (f *liar) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	if f.at != nil {
		return f.at(f.Log, ctx, size)
	}
	return f.Log.CheckpointAt(ctx, size)
}
func (f *liar) Run(ctx context.Context) error {
	if f.run != nil {
		return f.run(f.Log, ctx)
	}
	return f.Log.Run(ctx)
}

func (f *liar) world() World {
	c := Config{Storage: new(Storage)}
	end := func(testing.TB, tlog.Log) {
		f.Log.Close()
		if f.lost != nil {
			f.lost(c.Storage)
		}
	}
	return World{
		Open: func(t testing.TB, s Setting) tlog.Log {
			c.Origin, c.Signer, c.Latest = s.Origin, s.Signer, s.Latest
			if f.config != nil {
				f.config(&c)
			}
			l, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			f.Log = l
			return f
		},
		Close: end, Crash: end,
	}
}

// TestStoryNotices is the test of the test: engines that break one promise each, and the step that must notice.
func TestStoryNotices(t *testing.T) {
	var mu sync.Mutex
	aliased := make(map[uint64][]byte)
	var first []byte
	calls := 0
	busy := false
	for _, c := range []struct {
		fault string
		step  string
		liar  liar
	}{
		{"none", "", liar{}},
		{"Append does not wait for Run", "empty", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			return l.disk.append(leaves), nil
		}}},
		{"the signature is not the log's", "first", liar{config: func(c *Config) {
			_, c.Signer = c.Signer, other{c.Signer}
		}}},
		{"nothing is anchored", "first", liar{config: func(c *Config) { c.Latest = nil }}},
		{"signed before anchored", "first", liar{config: func(c *Config) {
			was := c.Latest
			c.Latest = &Latest{AfterSwap: func(origin string, new []byte) error {
				old, _ := was.Load(context.Background(), origin)
				go was.Swap(context.Background(), origin, old, new)
				return nil
			}}
		}}},
		{"nothing is published", "first", liar{config: func(c *Config) { c.Manual = true }}},
		{"the index is always 0", "edges", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			indices, err := l.Append(ctx, leaves...)
			for i := range indices {
				indices[i] = uint64(i)
			}
			return indices, err
		}}},
		{"one index too many", "first", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			indices, err := l.Append(ctx, leaves...)
			return append(indices, 77), err
		}}},
		{"groups are reversed", "edges", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			backwards := slices.Clone(leaves)
			slices.Reverse(backwards)
			return l.Append(ctx, backwards...)
		}}},
		{"groups are torn apart", "crowd", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			var all []uint64
			for _, leaf := range leaves {
				i, err := l.Append(ctx, leaf)
				if err != nil {
					return nil, err
				}
				all = append(all, i...)
				runtime.Gosched()
			}
			return all, nil
		}}},
		{"leaves are not copied", "first", liar{
			append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
				indices, err := l.Append(ctx, leaves...)
				mu.Lock()
				defer mu.Unlock()
				for i := range indices {
					aliased[indices[i]] = leaves[i].Entry
				}
				return indices, err
			},
			tile: func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error) {
				data, err := l.Tile(ctx, t)
				if err == nil && t.Level == tlog.EntriesLevel {
					data = nil
					mu.Lock()
					defer mu.Unlock()
					for i := range uint64(t.Width) {
						data = tlog.AppendBundleEntry(data, aliased[t.Index*256+i])
					}
				}
				return data, err
			}}},
		{"leaves are deduplicated", "twice", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			if len(leaves) == 1 && string(leaves[0].Entry) == "twice" {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls == 2 {
					return []uint64{l.Size() - 1}, nil
				}
			}
			return l.Append(ctx, leaves...)
		}}},
		{"busy, and appended all the same", "crowd", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			indices, err := l.Append(ctx, leaves...)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && indices[0] > 600 && !busy {
				busy = true
				return nil, tlog.ErrBusy
			}
			return indices, err
		}}},
		{"what is too large is taken", "refused", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			indices, err := l.Append(ctx, leaves...)
			if errors.Is(err, tlog.ErrTooLarge) {
				return l.disk.append(leaves), nil
			}
			return indices, err
		}}},
		{"what is too large is half taken", "refused", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			indices, err := l.Append(ctx, leaves...)
			if errors.Is(err, tlog.ErrTooLarge) && len(leaves[0].Entry) < 5000 {
				l.disk.append(leaves[:1])
			}
			return indices, err
		}}},
		{"a cancelled group is half taken", "cancelled", liar{append: func(l *Log, ctx context.Context, leaves []tlog.Leaf) ([]uint64, error) {
			if ctx.Err() != nil && len(leaves) > 1 && l.Size() > 0 {
				l.disk.append(leaves[:1])
				return nil, ctx.Err()
			}
			return l.Append(ctx, leaves...)
		}}},
		{"a discarded payload is served", "discard", liar{payload: func(l *Log, ctx context.Context, sum tlog.Hash) ([]byte, error) {
			p, err := l.Payload(ctx, sum)
			if l.disk.discarded[sum] {
				return []byte("still here"), nil
			}
			return p, err
		}}},
		{"a payload is cut", "discard", liar{payload: func(l *Log, ctx context.Context, sum tlog.Hash) ([]byte, error) {
			p, err := l.Payload(ctx, sum)
			return p[:min(len(p), 1<<20)], err
		}}},
		{"old checkpoints come back", "edges", liar{checkpoint: func(l *Log, ctx context.Context) ([]byte, error) {
			signed, err := l.Checkpoint(ctx)
			if err == nil && first == nil {
				first = signed
			}
			if l.Size() > 500 {
				return first, nil
			}
			return signed, err
		}}},
		{"a tile is wrong", "edges", liar{tile: func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error) {
			data, err := l.Tile(ctx, t)
			if err == nil {
				data, err = Flip(1, 1)(t, data)
			}
			return data, err
		}}},
		{"an entry is replaced", "edges", liar{tile: func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error) {
			data, err := l.Tile(ctx, t)
			if err == nil {
				data, err = Replace(300, []byte("other"))(t, data)
			}
			return data, err
		}}},
		{"partial tiles are forgotten", "edges", liar{tile: func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error) {
			if size := l.Size(); t.Width != tlog.TileWidth && t.Level == 1 && t.Width != int(size>>8) {
				return nil, tlog.ErrNotFound
			}
			return l.Tile(ctx, t)
		}}},
		{"tiles are made up", "empty", liar{tile: func(l *Log, ctx context.Context, t tlog.Tile) ([]byte, error) {
			data, err := l.Tile(ctx, t)
			if errors.Is(err, tlog.ErrNotFound) && t.Width == 256 && t.Level == 0 {
				return make([]byte, tlog.TileBytes), nil
			}
			return data, err
		}}},
		{"the history is shuffled", "edges", liar{sizes: func(l *Log, ctx context.Context, after uint64, max int) ([]uint64, error) {
			sizes, err := l.Sizes(ctx, after, max)
			slices.Reverse(sizes)
			return sizes, err
		}}},
		{"the history has no limit", "edges", liar{sizes: func(l *Log, ctx context.Context, after uint64, max int) ([]uint64, error) {
			return l.Sizes(ctx, after, max+1)
		}}},
		{"the history always answers", "first", liar{at: func(l *Log, ctx context.Context, size uint64) ([]byte, error) {
			return l.Checkpoint(ctx)
		}}},
		{"Run ends without publishing", "reopen", liar{run: func(l *Log, ctx context.Context) error {
			l.begin()
			return l.publishGrowth(ctx)
		}}},
		{"Run ends with an error", "reopen", liar{run: func(l *Log, ctx context.Context) error {
			return errors.Join(l.Run(ctx), errors.New("hm"))
		}}},
		{"the last published checkpoint is lost", "reopen", liar{lost: func(d *Storage) {
			d.sizes = d.sizes[:len(d.sizes)-1]
		}}},
		{"leaves are lost", "reopen", liar{lost: func(d *Storage) {
			kept := d.entries[:len(d.entries)-2]
			d.entries, d.levels, d.edge = nil, nil, nil
			for _, e := range kept {
				d.append([]tlog.Leaf{{Entry: e}})
			}
		}}},
		{"unpublished leaves are lost", "crash", liar{lost: func(d *Storage) {
			kept := d.entries[:d.sizes[len(d.sizes)-1]]
			d.entries, d.levels, d.edge = nil, nil, nil
			for _, e := range kept {
				d.append([]tlog.Leaf{{Entry: e}})
			}
		}}},
		{"the tail lacks the newest entry", "first", liar{tail: func(l *Log, ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
			entries, err := l.Tail(ctx, from, wait)
			if n := len(entries); n > 0 && from+uint64(n) == l.Size() {
				entries = entries[:n-1]
			}
			return entries, err
		}}},
		{"the tail shows the wrong entries", "edges", liar{tail: func(l *Log, ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
			entries, err := l.Tail(ctx, from, wait)
			if len(entries) > 2 {
				entries[1], entries[2] = entries[2], entries[1]
			}
			return entries, err
		}}},
		{"the tail shows what is not durable", "crowd", liar{tail: func(l *Log, ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
			entries, err := l.Tail(ctx, from, wait)
			if from > 0 && wait > 0 {
				entries = append(entries, []byte("on its way"))
			}
			return entries, err
		}}},
		{"the tail is shown without end", "first", liar{tail: func(l *Log, ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
			return l.Tail(ctx, min(from, max(l.Size(), 1)-1), wait)
		}}},
		{"a payload is lost", "reopen", liar{lost: func(d *Storage) {
			for sum := range d.payloads {
				delete(d.payloads, sum)
				break
			}
		}}},
		{"a past is rewritten", "reopen", liar{lost: func(d *Storage) {
			entries := d.entries
			d.entries, d.levels, d.edge = nil, nil, nil
			for i, e := range entries {
				if i == 99 {
					e = append(bytes.Clone(e), '!')
				}
				d.append([]tlog.Leaf{{Entry: e}})
			}
		}}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			failed, said := tell(t, c.liar.world())
			if failed != c.step {
				t.Errorf("noticed at %q, not at %q: %.300q", failed, c.step, said)
			} else if len(said) > 0 {
				t.Logf("%s: %.200q", failed, said[0])
			}
		})
	}
}

// other signs the right note with the wrong key.
type other struct{ note.Signer }

func (o other) Sign(msg []byte) ([]byte, error) {
	sig, err := o.Signer.Sign(msg)
	if err == nil {
		sig[3] ^= 1
	}
	return sig, err
}
