package ring

import (
	"bytes"
	"context"
	"crypto/aes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/tallystick/tallystick/keys"
)

var errSealed = errors.New("503, sealed")

// faults are the ways in which a tenant key does not answer as it should.
var faults = []struct {
	name  string
	fault fault
	want  error // besides ErrStale
}{
	{"down", func(context.Context) (func([]byte) []byte, error) { return nil, errSealed }, errSealed},
	{"hung", func(ctx context.Context) (func([]byte) []byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, context.DeadlineExceeded},
	{"slow", func(ctx context.Context) (func([]byte) []byte, error) {
		select {
		case <-time.After(time.Minute):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, context.DeadlineExceeded},
	{"denied", func(context.Context) (func([]byte) []byte, error) { return nil, keys.ErrDenied }, keys.ErrDenied},
	{"gone", func(context.Context) (func([]byte) []byte, error) { return nil, keys.ErrGone }, keys.ErrGone},
	{"another key", func(context.Context) (func([]byte) []byte, error) { return nil, keys.ErrWrongKey }, ErrWrongKEK},
	{"a wrong answer", func(context.Context) (func([]byte) []byte, error) {
		return func(key []byte) []byte { key[7] ^= 1; return key }, nil
	}, ErrWrongKEK},
	{"a short answer", func(context.Context) (func([]byte) []byte, error) {
		return func(key []byte) []byte { return key[:16] }, nil
	}, ErrWrongKEK},
	{"an empty answer", func(context.Context) (func([]byte) []byte, error) {
		return func(key []byte) []byte { return nil }, nil
	}, ErrWrongKEK},
}

// lives says whether r makes keys and opens those of w; if not, the errors must be want.
func (w world) lives(t *testing.T, r *Ring, want ...error) {
	t.Helper()
	_, _, err := r.New(t.Context())
	check := func(what string, err error) {
		t.Helper()
		if len(want) == 0 && err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, want := range want {
			if !errors.Is(err, want) {
				t.Fatalf("%s: %v, want %v", what, err, want)
			}
		}
	}
	check("New", err)
	for id, key := range w {
		got, err := r.Open(t.Context(), id)
		if key == nil {
			if !errors.Is(err, ErrErased) { // that can always be said
				t.Fatalf("Open of an erased key: %v", err)
			}
			continue
		}
		check("Open", err)
		if err == nil && !bytes.Equal(got.Bytes(), key) {
			t.Fatalf("%v: a wrong key", id)
		}
	}
}

// held says how many keys that open others r has in memory.
func held(r *Ring) (n int) {
	for _, e := range r.known() {
		e.mu.RLock()
		if e.key != nil {
			n++
		}
		e.mu.RUnlock()
	}
	r.seals.mu.Lock()
	defer r.seals.mu.Unlock()
	n += len(r.seals.m)
	r.making <- struct{}{}
	if r.live != nil {
		n++
	}
	<-r.making
	return n
}

// An hour is how long a ring goes on while its tenant key is at fault, and not longer; and
// then it recovers by itself. In virtual time.
func TestStale(t *testing.T) {
	for _, row := range faults {
		t.Run(row.name, func(t *testing.T) {
			dir, d, k := t.TempDir(), newMemDisk(), newTenant()
			synctest.Test(t, func(t *testing.T) {
				var log lines
				r := open(t, dir, Config{KEK: k, Batch: 4, Segment: 64, disk: d.disk(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
				defer r.Close()
				go r.Run(t.Context())
				w := world{}
				ids := w.take(t, r, 40)
				w.erase(t, r, ids[3])
				w.lives(t, r)

				// A day without faults: asked four times an hour, and nothing to tell.
				k.questions()
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				w.lives(t, r)
				if n := k.questions(); n < 90 || n > 100 {
					t.Errorf("asked %d times in a day", n)
				}
				if n := log.count(); n != 0 {
					t.Errorf("%d lines in the log: %s", n, log.String())
				}

				// Away for half an hour: nobody notices, but for the log.
				k.setFault(row.fault)
				time.Sleep(30 * time.Minute)
				w.lives(t, r)
				k.setFault(nil)
				time.Sleep(3 * time.Minute)
				w.lives(t, r)
				if got := log.String(); log.count() != 2 || !strings.Contains(got, "does not confirm") || !strings.Contains(got, "confirms its epoch key again") {
					t.Errorf("%d lines in the log: %s", log.count(), got)
				}

				// Away for longer.
				time.Sleep(time.Minute)
				confirmed := r.current.Load().confirmedAt()
				k.setFault(row.fault)
				time.Sleep(time.Until(confirmed.Add(time.Hour - time.Second)))
				w.lives(t, r)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if n := held(r); n != 0 {
					t.Errorf("an hour after the last confirmation %d keys are in memory", n)
				}
				k.questions()
				w.lives(t, r, ErrStale, row.want)
				w.erase(t, r, ids[4]) // needs no key
				w.lives(t, r, ErrStale)
				time.Sleep(5 * time.Hour)
				w.lives(t, r, ErrStale, row.want)
				if n := k.questions(); n > 6*60*3+200 {
					t.Errorf("asked %d times in five hours, of a keeper that may be in trouble", n)
				}
				if k.most > 1 {
					t.Errorf("%d questions at a time", k.most)
				}
				if n := held(r); n != 0 {
					t.Errorf("%d keys are in memory", n)
				}
				for _, canary := range []string{"%!", "\\x"} {
					if strings.Contains(log.String(), canary) {
						t.Errorf("the log has %q: %s", canary, log.String())
					}
				}

				// And back.
				k.setFault(nil)
				time.Sleep(2 * time.Minute)
				k.questions()
				w.lives(t, r)
				ids = w.take(t, r, 40)
				w.lives(t, r)
				if n := k.questions(); n != 0 {
					t.Errorf("asked %d times", n)
				}
				said := log.count()
				time.Sleep(5 * time.Hour)
				if n := log.count(); n != said {
					t.Errorf("%d lines more in the log: %s", n-said, log.String())
				}
			})
		})
	}
}

// A keeper that takes longer than there is time left does not get it.
func TestStaleInTheMiddleOfAQuestion(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 4, Timeout: time.Hour, disk: d.disk()})
		defer r.Close()
		go r.Run(t.Context())
		w := world{}
		w.take(t, r, 10)
		w.lives(t, r)
		k.setFault(faults[1].fault)
		time.Sleep(time.Hour - time.Second)
		w.lives(t, r)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := held(r); n != 0 {
			t.Errorf("%d keys are in memory", n)
		}
	})
}

// A machine slept for too long, and wakes without its network: the keys do not stay in memory while the keeper is being
// asked.
func TestStaleAfterSleep(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 4, disk: d.disk()})
		defer r.Close()
		w := world{}
		w.take(t, r, 10)
		w.lives(t, r)
		if held(r) == 0 {
			t.Error("no key is in memory")
		}
		time.Sleep(2 * time.Hour)
		k.setFault(faults[1].fault)
		go r.Run(t.Context())
		time.Sleep(defaultTimeout / 2)
		synctest.Wait()
		if n := held(r); n != 0 {
			t.Errorf("%d keys are in memory", n)
		}
	})
}

// What a keeper confirms late it confirms of the time when it was asked.
func TestStaleSinceItWasAsked(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 64, Timeout: time.Hour, disk: d.disk()})
		defer r.Close()
		w := world{}
		w.take(t, r, 10)
		time.Sleep(2 * time.Hour)
		k.setFault(func(context.Context) (func([]byte) []byte, error) {
			time.Sleep(20 * time.Minute)
			return nil, nil
		})
		asked := time.Now()
		w.lives(t, r)
		k.setFault(faults[0].fault)
		time.Sleep(time.Until(asked.Add(time.Hour - time.Second)))
		w.lives(t, r)
		time.Sleep(2 * time.Second)
		w.lives(t, r, ErrStale, errSealed)
		r.Close()

		// Likewise a new epoch: two questions.
		k.setFault(func(context.Context) (func([]byte) []byte, error) {
			time.Sleep(20 * time.Minute)
			return nil, nil
		})
		asked = time.Now()
		r = open(t, t.TempDir(), Config{KEK: k, Batch: 64, Timeout: time.Hour, disk: newMemDisk().disk()})
		defer r.Close()
		k.setFault(faults[0].fault)
		time.Sleep(time.Until(asked.Add(time.Hour - time.Second)))
		w = world{}
		w.take(t, r, 1)
		time.Sleep(2 * time.Second)
		w.lives(t, r, ErrStale, errSealed)
	})
}

// The keys of segments of the first version, which hang on no epoch, live no longer than
// others.
func TestStaleVersion1(t *testing.T) {
	dir, w := fixture(t, "v1")
	kek := newKEK('k')
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: kek, Batch: 4})
		defer r.Close()
		go r.Run(t.Context())
		time.Sleep(20 * time.Minute)
		w.lives(t, r)
		kek.setDown(errSealed)
		time.Sleep(39 * time.Minute)
		w.lives(t, r)
		time.Sleep(22 * time.Minute)
		synctest.Wait()
		w.lives(t, r, ErrStale, errSealed)
		if n := held(r); n != 0 {
			t.Errorf("%d keys are in memory", n)
		}
		kek.setDown(nil)
		time.Sleep(2 * time.Minute)
		w.lives(t, r)
	})
}

// What hangs on no epoch is dropped in its own time, whenever that of the epoch in use is confirmed.
func TestStaleVersion1InItsOwnTime(t *testing.T) {
	dir, w := fixture(t, "v1")
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: newKEK('k'), Batch: 4})
		defer r.Close()
		cached := func() int {
			r.seals.mu.Lock()
			defer r.seals.mu.Unlock()
			return len(r.seals.m)
		}
		go r.Run(t.Context())
		time.Sleep(20 * time.Minute)
		w.lives(t, r)
		time.Sleep(time.Hour - time.Second)
		if n := cached(); n == 0 {
			t.Error("no key is in memory")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := cached(); n != 0 {
			t.Errorf("%d keys are in memory", n)
		}
		w.lives(t, r)
	})
}

// With an epoch goes what hangs on it.
func TestForget(t *testing.T) {
	r := open(t, t.TempDir(), Config{Batch: 4, Segment: 4})
	w := world{}
	w.take(t, r, 8)
	w.check(t, r, nil)
	if len(r.seals.m) != 2 {
		t.Fatalf("%d keys are in memory", len(r.seals.m))
	}
	r.forget(r.current.Load())
	if len(r.seals.m) != 0 || len(r.known()) != 0 || r.current.Load().key != nil {
		t.Errorf("%d keys and %d epochs are in memory", len(r.seals.m), len(r.known()))
	}
}

// An answer that comes when the ring is closed is not kept.
func TestClosedWhileAsking(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 4, MaxStale: time.Minute, disk: d.disk()})
		w := world{}
		id := w.take(t, r, 1)[0]
		time.Sleep(time.Hour)
		k.setFault(func(context.Context) (func([]byte) []byte, error) {
			time.Sleep(5 * time.Second)
			return nil, nil
		})
		opened := make(chan error)
		go func() { _, err := r.Open(t.Context(), id); opened <- err }()
		time.Sleep(time.Second)
		e := r.current.Load()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-opened; !errors.Is(err, ErrClosed) {
			t.Errorf("Open: %v", err)
		}
		if e.key != nil {
			t.Error("a key is left")
		}
	})
}

// Without Run the time is the same: whoever comes too late has the tenant key asked.
func TestStaleWithoutRun(t *testing.T) {
	for _, row := range faults {
		t.Run(row.name, func(t *testing.T) {
			dir, d, k := t.TempDir(), newMemDisk(), newTenant()
			synctest.Test(t, func(t *testing.T) {
				r := open(t, dir, Config{KEK: k, Batch: 4, Segment: 8, MaxStale: 10 * time.Minute, disk: d.disk()})
				defer r.Close()
				w := world{}
				w.take(t, r, 40)
				k.questions()
				k.setFault(row.fault)
				time.Sleep(10*time.Minute - time.Second)
				w.lives(t, r)
				if n := k.questions(); n != 0 {
					t.Errorf("asked %d times", n)
				}
				time.Sleep(time.Second)
				// A hundred at once share one answer.
				begin := time.Now()
				var wg sync.WaitGroup
				for id := range w {
					wg.Go(func() {
						if _, err := r.Open(t.Context(), id); !errors.Is(err, ErrStale) || !errors.Is(err, row.want) {
							t.Errorf("Open: %v", err)
						}
						if _, _, err := r.New(t.Context()); !errors.Is(err, ErrStale) || !errors.Is(err, row.want) {
							t.Errorf("New: %v", err)
						}
					})
				}
				wg.Wait()
				if n, took := k.questions(), time.Since(begin); n > 2 || took > 2*defaultTimeout {
					t.Errorf("asked %d times, and it took %v", n, took)
				}
				// Who has no time leaves, and what it leaves behind does nobody any harm.
				time.Sleep(time.Minute)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, _, err := r.New(ctx)
				cancel()
				if row.want == context.DeadlineExceeded && (!errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrStale)) {
					t.Errorf("New, in a hurry: %v", err)
				}
				k.setFault(nil)
				time.Sleep(2 * time.Second)
				k.questions()
				w.lives(t, r)
				if n := k.questions(); n != 1 {
					t.Errorf("asked %d times, want 1", n)
				}
			})
		})
	}
}

// Withdrawing the right to the tenant key ends a ring that is in the middle of moving to
// another epoch too, and it goes on from there.
func TestStaleWhileMoving(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 64, Segment: 64, Pace: 64 * slotSize / 600, disk: d.disk()})
		defer r.Close()
		go r.Run(t.Context())
		w := world{}
		ids := w.take(t, r, 64*12) // two hours to move
		k.rotate()
		moved := make(chan error)
		go func() { _, err := r.Rewrap(t.Context()); moved <- err }()
		time.Sleep(30 * time.Minute)
		w.lives(t, r)
		k.setFault(faults[3].fault)
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		w.erase(t, r, ids[700])
		w.lives(t, r, ErrStale, keys.ErrDenied)
		if n := held(r); n != 0 {
			t.Errorf("%d keys are in memory", n)
		}
		if err := <-moved; !errors.Is(err, keys.ErrDenied) {
			t.Fatalf("Rewrap: %v", err)
		}
		k.setFault(nil)
		time.Sleep(2 * time.Minute)
		w.lives(t, r)
		m, err := r.Rewrap(t.Context())
		if err != nil || m.Epoch != 3 {
			t.Fatalf("%+v, %v", m, err)
		}
		w.lives(t, r)
	})
}

// A ring does not start while its tenant key is at fault, and says why; and soon.
func TestStartWithoutTenantKey(t *testing.T) {
	for _, row := range faults {
		dir, d, k := t.TempDir(), newMemDisk(), newTenant()
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{KEK: k, Batch: 4, Timeout: 3 * time.Second, disk: d.disk()}
			fails := func() {
				t.Helper()
				k.setFault(row.fault)
				begin := time.Now()
				if r, err := Open(dir, cfg); err == nil {
					r.Close()
					t.Errorf("%s: opened", row.name)
				} else if !errors.Is(err, row.want) || time.Since(begin) > 6*time.Second {
					t.Errorf("%s: %v, after %v", row.name, err, time.Since(begin))
				}
				k.setFault(nil)
			}
			fails() // to make one
			r := open(t, dir, cfg)
			w := world{}
			w.take(t, r, 3)
			r.Close()
			fails()
			r = open(t, dir, cfg)
			w.lives(t, r)
			// And a Rewrap does not begin.
			k.setFault(row.fault)
			if _, err := r.Rewrap(t.Context()); !errors.Is(err, row.want) {
				t.Errorf("%s: Rewrap: %v", row.name, err)
			}
			w.lives(t, r)
			k.setFault(nil)
			r.Close()
		})
	}
}

// With a MaxStale of nothing, every New and every Open has the tenant key asked.
func TestNoCache(t *testing.T) {
	k := newTenant()
	r := open(t, t.TempDir(), Config{KEK: k, Batch: 4, Segment: 4, MaxStale: 1})
	w := world{}
	k.questions()
	w.take(t, r, 40)
	if n := k.questions(); n < 40 {
		t.Errorf("asked %d times for 40 keys", n)
	}
	w.check(t, r, nil)
	if n := k.questions(); n < 40 {
		t.Errorf("asked %d times to open 40 keys", n)
	}
	if _, err := r.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t, r, nil)
}

// Whoever comes while the tenant key is being asked waits for the next answer, which all of them share.
func TestAnswersAreShared(t *testing.T) {
	dir, d, k := t.TempDir(), newMemDisk(), newTenant()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, dir, Config{KEK: k, Batch: 64, MaxStale: 1, disk: d.disk()})
		defer r.Close()
		r.making <- struct{}{}
		r.restock(t.Context())
		<-r.making
		k.questions()
		k.setFault(func(context.Context) (func([]byte) []byte, error) {
			time.Sleep(time.Second)
			return nil, nil
		})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i+1) * time.Millisecond)
				if _, _, err := r.New(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := k.questions(); n != 2 {
			t.Errorf("asked %d times for 50 keys at once, want 2", n)
		}
	})
}

// While the machine sleeps one clock stands still, and whoever sets the other back gains
// nothing.
func TestAge(t *testing.T) {
	if a := age(time.Now().Add(-time.Hour)); a < time.Hour || a > 2*time.Hour {
		t.Error(a)
	}
	if a := age(time.Now().Round(0).Add(-time.Hour)); a < time.Hour || a > 2*time.Hour { // no monotonic clock in it
		t.Error(a)
	}
	// A Time is its wall clock's second, from bit 30 of the first word on, and the other clock in the second word.
	odd := func(wall, other time.Duration) time.Time {
		t := time.Now()
		words := (*[2]uint64)(unsafe.Pointer(&t))
		words[0] += uint64(wall/time.Second) << 30
		words[1] += uint64(other)
		return t
	}
	if was := odd(-time.Minute, -time.Second); time.Since(was).Round(time.Second) != time.Second || time.Since(was.Round(0)).Round(time.Second) != time.Minute {
		t.Fatal("this test knows no more how the standard library is built")
	}
	if a := age(odd(-time.Hour, 0)); a < time.Hour || a > 2*time.Hour {
		t.Errorf("a machine slept: %v", a)
	}
	if a := age(odd(time.Hour, -time.Hour)); a < time.Hour || a > 2*time.Hour {
		t.Errorf("a clock was set back: %v", a)
	}
	if a := age(time.Time{}); a < 100*365*24*time.Hour {
		t.Error(a)
	}
}

// What is dropped is zeros, in this Go.
func TestDrop(t *testing.T) {
	key := [keySize]byte{0x78, 0x56, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12}
	shows := func(cipher reflect.Value) bool { // the first round keys are the key itself
		s := fmt.Sprint(cipher.Interface())
		return strings.Contains(s, fmt.Sprint(0x12345678)) || strings.Contains(s, fmt.Sprint(0x78563412))
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	if !shows(reflect.ValueOf(block).Elem()) {
		t.Error("this test knows no more how the standard library is built")
	}
	wipe(block)
	if shows(reflect.ValueOf(block).Elem()) {
		t.Error("wipe knows no more how the standard library is built")
	}

	s := newSeal(&key)
	if key != [keySize]byte{} {
		t.Error("the key is still where it came from")
	}
	sealed, err := s.seal(nil, []byte("text"), nil)
	if err != nil {
		t.Fatal(err)
	}
	gcm := reflect.ValueOf(s.aead).Field(0).Elem() // as somebody would find it in the memory
	if !shows(gcm) {
		t.Error("this test knows no more how the standard library is built")
	}
	s.drop()
	if shows(gcm) || !gcm.IsZero() {
		t.Error("wipe knows no more how the standard library is built")
	}
	if _, err := s.open(nil, sealed, nil); !errors.Is(err, errDropped) {
		t.Error(err)
	}
	if _, err := s.seal(nil, nil, nil); !errors.Is(err, errDropped) {
		t.Error(err)
	}
	s.drop()

	// Close drops them all.
	k := newTenant()
	r := open(t, t.TempDir(), Config{KEK: k, Batch: 4, Segment: 4})
	w := world{}
	w.take(t, r, 6)
	w.check(t, r, nil)
	epoch, live := r.current.Load().key, r.live.seal
	var all []*seal
	for _, c := range r.seals.m {
		all = append(all, c.seal)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range append(all, epoch, live) {
		if s.aead != nil {
			t.Error("a key is left")
		}
	}
}
