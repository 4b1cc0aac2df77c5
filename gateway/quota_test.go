package gateway

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func reserve(t *testing.T, m *Meter, caller string, tokens int64, quotas ...*Quota) *Reservation {
	t.Helper()
	r, over := m.Reserve(caller, quotas, tokens)
	if over != nil {
		t.Fatalf("%s: %v", caller, over)
	}
	return r
}

func overQuota(t *testing.T, m *Meter, caller string, tokens int64, what string, after time.Duration, quotas ...*Quota) {
	t.Helper()
	r, over := m.Reserve(caller, quotas, tokens)
	switch {
	case over == nil:
		r.Cancel()
		t.Fatalf("%s: it was let through", caller)
	case over.What != what || over.RetryAfter != after:
		t.Fatalf("%s: %s, after %v; want %s, after %v", caller, over.What, over.RetryAfter, what, after)
	}
}

func TestQuotaOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		q := &Quota{Name: "q", Requests: 3, Window: 16 * time.Minute}
		reserve(t, &m, "a", 0, q).Settle(0)
		time.Sleep(8 * time.Minute)
		reserve(t, &m, "a", 0, q).Settle(0)
		reserve(t, &m, "a", 0, q)
		overQuota(t, &m, "a", 0, "requests", 9*time.Minute, q) // the first counts for its window, and to the end of its part
		reserve(t, &m, "b", 0, q)                              // others have their own
		reserve(t, &m, "a", 0, &Quota{Name: "other", Requests: 1, Window: time.Hour})
		time.Sleep(9*time.Minute - 1)
		overQuota(t, &m, "a", 0, "requests", 1, q)
		time.Sleep(1)
		reserve(t, &m, "a", 0, q)
		overQuota(t, &m, "a", 0, "requests", 8*time.Minute, q)
		time.Sleep(24 * time.Hour)
		for range 3 {
			reserve(t, &m, "a", 0, q)
		}
		overQuota(t, &m, "a", 0, "requests", 17*time.Minute, q)
		raised := &Quota{Name: "q", Requests: 4, Window: q.Window} // by another policy: what was used still counts
		reserve(t, &m, "a", 0, raised)
		overQuota(t, &m, "a", 0, "requests", 17*time.Minute, raised)
	})
}

func TestQuotaOfTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		q := &Quota{Name: "q", Tokens: 1000, Window: 16 * time.Second, Message: "ask the platform team"}
		r := reserve(t, &m, "a", 900, q)
		overQuota(t, &m, "a", 101, "tokens", 17*time.Second, q) // two at a time do not use together what is there for one
		r.Settle(100)                                           // it used less
		r.Settle(5000)
		r.Cancel()
		reserve(t, &m, "a", 900, q).Settle(-1) // nobody knows what it used: as much as it could
		overQuota(t, &m, "a", 1, "tokens", 17*time.Second, q)
		time.Sleep(17 * time.Second)
		r = reserve(t, &m, "a", 10, q)
		r.Settle(3000) // it used more than it said
		overQuota(t, &m, "a", 1, "tokens", 17*time.Second, q)
		time.Sleep(17 * time.Second)
		reserve(t, &m, "a", 1000, q).Cancel()
		r = reserve(t, &m, "a", 1000, q) // a long call
		time.Sleep(time.Minute)
		reserve(t, &m, "a", 1, q)
		r.Settle(999) // counts from now
		overQuota(t, &m, "a", 1, "tokens", 17*time.Second, q)
		overQuota(t, &m, "a", 1001, "tokens", 0, q) // never
		_, over := m.Reserve("a", []*Quota{q}, 1001)
		if s := over.Error(); !strings.Contains(s, "ask the platform team") || !strings.Contains(s, "1001 tokens") || !strings.Contains(s, "1000 in 16s") {
			t.Error(s)
		}
	})
}

func TestQuotaOfCallsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		q := &Quota{Name: "q", Concurrent: 2}
		a, b := reserve(t, &m, "a", 1, q), reserve(t, &m, "a", 1<<62, q)
		overQuota(t, &m, "a", 0, "concurrent", time.Second, q)
		time.Sleep(1000 * time.Hour)
		overQuota(t, &m, "a", 0, "concurrent", time.Second, q)
		a.Settle(1)
		a.Settle(1)
		c := reserve(t, &m, "a", 0, q)
		overQuota(t, &m, "a", 0, "concurrent", time.Second, q)
		b.Cancel()
		c.Cancel()
		reserve(t, &m, "a", 0, q)
	})
}

// Of several quotas all count or none, and the one that takes longest is told.
func TestSeveralQuotas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		short, long := &Quota{Name: "short", Requests: 2, Window: 16 * time.Second}, &Quota{Name: "long", Tokens: 10, Window: 16 * time.Hour}
		reserve(t, &m, "a", 10, short, long)
		for range 5 {
			overQuota(t, &m, "a", 1, "tokens", 17*time.Hour, short, long)
		}
		reserve(t, &m, "a", 1, short)
		overQuota(t, &m, "a", 1, "tokens", 17*time.Hour, short, long)
		overQuota(t, &m, "a", 11, "tokens", 0, short, long)
		if r, over := m.Reserve("a", nil, 1<<62); r != nil || over != nil {
			t.Error("without quotas there is something")
		}
		var none *Reservation
		none.Settle(1)
		none.Cancel()
	})
}

// In whatever time of a window's length one looks, no more was let through than the quota has; and what is told of when
// there is room again is true.
func TestQuotaSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		rng := rand.New(rand.NewPCG(1, 2))
		q := &Quota{Name: "q", Requests: 10, Tokens: 500, Window: 100 * time.Second}
		type passed struct {
			at     time.Time
			tokens int64
		}
		var all []passed
		for range 5000 {
			tokens := rng.Int64N(200)
			r, over := m.Reserve("a", []*Quota{q}, tokens)
			if over != nil {
				if rng.IntN(4) > 0 {
					time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second))))
					continue
				}
				if time.Sleep(over.RetryAfter - 1); over.RetryAfter > 1 {
					if _, again := m.Reserve("a", []*Quota{q}, tokens); again == nil {
						t.Fatal("there was room before it was said")
					}
				}
				time.Sleep(1)
				if r, over = m.Reserve("a", []*Quota{q}, tokens); over != nil && over.What == "requests" {
					t.Fatalf("there is no room when it was said: %v", over)
				} else if over != nil {
					continue // the other limit
				}
			}
			r.Settle(tokens)
			all = append(all, passed{time.Now(), tokens})
			requests, sum := 0, int64(0)
			for i := len(all) - 1; i >= 0 && time.Since(all[i].at) <= q.Window; i-- {
				requests, sum = requests+1, sum+all[i].tokens
			}
			if int64(requests) > q.Requests || sum > q.Tokens {
				t.Fatalf("%d requests and %d tokens in one window", requests, sum)
			}
		}
		if len(all) < 500 {
			t.Errorf("only %d of 5000 passed", len(all))
		}
	})
}

// Who is gone is forgotten.
func TestMeterForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		q := &Quota{Name: "q", Requests: 3, Window: time.Minute}
		held := reserve(t, &m, "held", 0, &Quota{Name: "c", Concurrent: 1})
		for i := range 100_000 {
			reserve(t, &m, fmt.Sprint(i), 0, q).Settle(0)
			time.Sleep(time.Second)
		}
		if len(m.used) > 3000 {
			t.Errorf("%d are kept", len(m.used))
		}
		overQuota(t, &m, "held", 0, "concurrent", time.Second, &Quota{Name: "c", Concurrent: 1})
		held.Settle(0)
	})
}

// A caller is told which quota it is over, and what it has.
func TestOverQuotaSays(t *testing.T) {
	q := &Quota{Name: "q", Requests: 3, Tokens: 1000, Window: time.Hour, Concurrent: 2}
	for _, row := range []struct {
		over OverQuota
		want string
	}{
		{OverQuota{q, "requests", time.Minute, 1}, "the quota q is used up: 3 calls in 1h0m0s are the most"},
		{OverQuota{q, "tokens", time.Minute, 70}, "the quota q is used up: 1000 tokens in 1h0m0s are the most, and the call may use 70"},
		{OverQuota{q, "concurrent", time.Second, 1}, "the quota q is used up: 2 calls at a time are the most"},
	} {
		if got := row.over.Error(); got != row.want {
			t.Errorf("%q, want %q", got, row.want)
		}
	}
}

func TestTokensOfFacts(t *testing.T) {
	for _, row := range []struct {
		f    Facts
		want int64
	}{
		{Facts{Size: 1001}, 251},
		{Facts{Size: 1001, Known: KnownMessages}, 0},
		{Facts{Size: 1001, Known: KnownMessages, Messages: []Message{{Size: 100}, {Size: 301}}, MaxTokens: 50, HasMaxTokens: true}, 151},
		{Facts{Size: 8, MaxTokens: 1<<63 - 1}, 1<<63 - 1},
		{Facts{MaxTokens: -5}, 0},
	} {
		if got := row.f.Tokens(); got != row.want {
			t.Errorf("%+v: %d, want %d", row.f, got, row.want)
		}
	}
}

func BenchmarkMeter(b *testing.B) {
	var m Meter
	quotas := []*Quota{{Name: "a", Requests: 1 << 40, Window: time.Minute}, {Name: "b", Tokens: 1 << 40, Window: time.Hour, Concurrent: 9}}
	b.ReportAllocs()
	for b.Loop() {
		r, over := m.Reserve("okta:00u1", quotas, 100)
		if over != nil {
			b.Fatal(over)
		}
		r.Settle(50)
	}
}
