package gateway

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// A Quota is how much each principal may use. What is zero is not limited.
type Quota struct {
	Name       string        // as a rule's
	Requests   int64         // calls within Window
	Tokens     int64         // tokens within Window, of what is asked and of what is answered
	Window     time.Duration // a time that slides: whatever time of that length one looks at, there is no more in it
	Concurrent int64         // calls at a time
	Message    string        // for the caller that is over it; "" for a general one
}

// windowSlots are the parts that a window slides by: what was used counts for a window and up to a part of it more.
const windowSlots = 16

// A Meter counts what principals use of their quotas, in memory: it starts from nothing with its process, and each gateway
// counts for itself. The zero value is ready. Safe for concurrent use.
//
// A call is counted by Reserve before it is sent, with as many tokens as it may come to use, so that calls at the same time
// cannot use together what is there for one; Settle puts in their place what it used.
type Meter struct {
	mu     sync.Mutex
	used   map[metered]*usage
	swept  int       // how many there were, when those that count for nothing were last taken out
	origin time.Time // what slots are counted from
}

// metered is who uses what. Another window is another quota; another limit is not.
type metered struct {
	caller, quota string
	window        time.Duration
}

// A usage is what one principal used of one quota.
type usage struct {
	slot     int64                  // the newest, counted from the meter's origin
	requests [windowSlots + 1]int64 // by slot, modulo their number
	tokens   [windowSlots + 1]int64
	inUse    int64 // calls that were not settled yet
}

// An OverQuota says why a call cannot be made now.
type OverQuota struct {
	Quota *Quota
	What  string // requests, tokens or concurrent
	// RetryAfter is when it could be made, if nobody else of that name calls until then; of calls at a time, which end when
	// they like, it is a second. Zero means never: the call alone asks for more than there is.
	RetryAfter time.Duration
	asked      int64
}

// Error tells the caller.
func (o *OverQuota) Error() string {
	q := o.Quota
	var why string
	switch {
	case o.What == "concurrent":
		why = fmt.Sprintf("%d calls at a time are the most", q.Concurrent)
	case o.RetryAfter == 0:
		why = fmt.Sprintf("the call asks for up to %d tokens, and %d in %v are the most; send less text, or set a lower limit for the answer", o.asked, q.Tokens, q.Window)
	case o.What == "tokens":
		why = fmt.Sprintf("%d tokens in %v are the most, and the call may use %d", q.Tokens, q.Window, o.asked)
	default:
		why = fmt.Sprintf("%d calls in %v are the most", q.Requests, q.Window)
	}
	if q.Message != "" {
		why = q.Message + " (" + why + ")"
	}
	return fmt.Sprintf("the quota %s is used up: %s", q.Name, why)
}

// Tokens is how many tokens a call may come to use: of its text, a token for every four bytes, and of the answer as many as
// the body allows. Where the text is not known, it is the whole body.
func (f *Facts) Tokens() int64 {
	n := f.Size
	if f.Known&KnownMessages != 0 {
		n = 0
		for i := range f.Messages {
			n += int64(f.Messages[i].Size)
		}
	}
	n = (n + 3) / 4
	if f.MaxTokens > 0 {
		n = add(n, f.MaxTokens)
	}
	return n
}

// add adds what is not negative, up to the largest number.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// A Reservation is what one call holds of its quotas. Nil holds nothing.
type Reservation struct {
	m      *Meter
	caller string
	quotas []*Quota
	tokens int64
	slots  []int64 // of each quota
}

// Reserve counts a call of up to so many tokens against quotas, all of them or, where one is used up, none. Whoever gets a
// Reservation settles or cancels it once the call has ended, however it ends. Without quotas there is none, and no error.
func (m *Meter) Reserve(caller string, quotas []*Quota, tokens int64) (*Reservation, *OverQuota) {
	if len(quotas) == 0 {
		return nil, nil
	}
	r := &Reservation{m: m, caller: caller, quotas: quotas, tokens: max(0, tokens), slots: make([]int64, len(quotas))}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var over *OverQuota
	for _, q := range quotas {
		if o := m.of(caller, q, now).room(q, r.tokens, now); o != nil && (over == nil || over.RetryAfter != 0 && (o.RetryAfter == 0 || o.RetryAfter > over.RetryAfter)) {
			over = o
		}
	}
	if over != nil {
		return nil, over
	}
	for i, q := range quotas {
		u := m.of(caller, q, now)
		r.slots[i] = u.slot
		u.inUse++
		u.requests[at(u.slot)]++
		u.tokens[at(u.slot)] = add(u.tokens[at(u.slot)], r.tokens)
	}
	m.sweep(now)
	return r, nil
}

// Settle says that the call has ended and what it used; less than zero means that nobody knows, and leaves what was
// reserved. A second one does nothing.
func (r *Reservation) Settle(tokens int64) { r.end(tokens, false) }

// Cancel says that the call was not made, and takes it back as if it had never been counted. After Settle it does nothing.
func (r *Reservation) Cancel() { r.end(0, true) }

func (r *Reservation) end(tokens int64, undo bool) {
	if r == nil {
		return
	}
	m := r.m
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for i, q := range r.quotas {
		u := m.of(r.caller, q, now)
		u.inUse--
		if undo && u.counts(r.slots[i]) {
			u.requests[at(r.slots[i])]--
		}
		if tokens < 0 {
			continue
		}
		// What was used counts from when it is known.
		if u.counts(r.slots[i]) {
			u.tokens[at(r.slots[i])] -= r.tokens
		}
		u.tokens[at(u.slot)] = add(u.tokens[at(u.slot)], tokens)
	}
	r.quotas = nil
}

// now is the time since the meter was first used.
func (m *Meter) now() time.Duration {
	if m.origin.IsZero() {
		m.origin, m.used = time.Now(), make(map[metered]*usage)
	}
	return time.Since(m.origin)
}

// part is how long one slot of a quota is.
func (q *Quota) part() time.Duration { return max(1, q.Window/windowSlots) }

// of returns what a caller used of a quota, without what counts no longer.
func (m *Meter) of(caller string, q *Quota, now time.Duration) *usage {
	key := metered{caller, q.Name, q.Window}
	u := m.used[key]
	if u == nil {
		u = new(usage)
		m.used[key] = u
	}
	u.slide(int64(now / q.part()))
	return u
}

func (u *usage) slide(slot int64) {
	for s := max(u.slot+1, slot-windowSlots); s <= slot; s++ {
		u.requests[at(s)], u.tokens[at(s)] = 0, 0
	}
	u.slot = max(u.slot, slot)
}

// at is where a slot is kept.
func at(slot int64) int { return int(slot % (windowSlots + 1)) }

// counts says whether what was used in a slot is still counted.
func (u *usage) counts(slot int64) bool { return slot >= u.slot-windowSlots }

// room says why a call has no room in a quota; nil if it has.
func (u *usage) room(q *Quota, tokens int64, now time.Duration) *OverQuota {
	if q.Concurrent > 0 && u.inUse >= q.Concurrent {
		return &OverQuota{q, "concurrent", time.Second, 1}
	}
	if wait, ok := u.wait(&u.requests, q.Requests, 1, q.part(), now); !ok {
		return &OverQuota{q, "requests", wait, 1}
	}
	if wait, ok := u.wait(&u.tokens, q.Tokens, tokens, q.part(), now); !ok {
		return &OverQuota{q, "tokens", wait, tokens}
	}
	return nil
}

// wait is how long it takes until so much has room under a limit; zero for ever, unless it is ok now.
func (u *usage) wait(used *[windowSlots + 1]int64, limit, more int64, part, now time.Duration) (wait time.Duration, ok bool) {
	if limit <= 0 {
		return 0, true
	}
	if more > limit {
		return 0, false
	}
	var sum int64
	for _, n := range used {
		sum = add(sum, n)
	}
	for s := max(0, u.slot-windowSlots); ; s++ {
		if sum <= limit-more {
			return wait, wait == 0
		}
		sum -= used[at(s)]
		wait = time.Duration(s+windowSlots+1)*part - now
	}
}

// sweep takes out what counts for nothing, whenever there is twice as much as there was after the last time.
func (m *Meter) sweep(now time.Duration) {
	if len(m.used) < 2*m.swept+1024 {
		return
	}
	for key, u := range m.used {
		slot := int64(now / (&Quota{Window: key.window}).part())
		if u.inUse == 0 && u.slot < slot-windowSlots {
			delete(m.used, key)
		}
	}
	m.swept = len(m.used)
}
