package verify

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A log that keeps its newest checkpoint too may show it there with fewer cosignatures, or others, than in its own place. That
// does not make up for what the quorum says of when it saw it.
func TestBracketedByTheNewest(t *testing.T) {
	at := newCosigner(t, "witness.example/a", began)
	lax := newCosigner(t, "witness.example/b", began)
	lax.at = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	w.heartbeat()
	w.edit(func(e *record.Entry) { e.Time = e.Time.Add(24 * time.Hour) }).heartbeat() // stated for tomorrow
	l := &served{Log: c.publish()}
	l.checkpoint = func(signed []byte) []byte {
		at.at = c.now
		return cosign(t, signed, at)
	}
	trust := policy(t, "any", at, lax)
	for name, by := range map[string][]*cosigner{"as it is": {at}, "by nobody": nil, "by another, for a later time": {lax}} {
		l.checkpointAt = func(_ uint64, signed []byte) ([]byte, error) { return cosign(t, signed, by...), nil }
		r := check(t, l, trust)
		if got := falseClaims(r); !slices.Equal(got, []Claim{TimesBracketed}) {
			show(t, r)
			t.Errorf("kept cosigned %s: false: %v", name, got)
		}
	}
}

// Entries that are served otherwise than the log signed them, by whoever stands in between or for a bad disk, are no evidence
// against the log: of the pairs of checkpoints that do not fit them none contradicts the other.
func TestDamageAccusesNobody(t *testing.T) {
	c := newChronicle(t)
	season(c)
	honest := c.publish()
	newest, err := honest.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trust := policy(t, "")
	trust.Kept = []Kept{{Name: "the newest", Signed: newest}}
	s := &served{Log: honest, tile: tlogtest.Replace(3, []byte("garbage"))}
	r := check(t, s, trust)
	if !has(r, RootMatches) || !has(r, HistoryConsistent) || !has(r, CheckpointsHonoured) {
		t.Errorf("false: %v", falseClaims(r))
	}
	for _, f := range r.Forks {
		t.Errorf("the log is accused: %s\n%s%s", f.Reason, f.A, f.B)
	}

	// Where the two are of one size they need no entries to contradict each other.
	other, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: tlogtest.Origin, Size: uint64(len(c.entries)), Root: tlog.Hash{1}}, logSigner(tlogtest.Origin))
	if err != nil {
		t.Fatal(err)
	}
	trust.Kept = []Kept{{Name: "another", Signed: other}}
	if r := check(t, s, trust); len(r.Forks) != 1 || string(r.Forks[0].A) != string(other) {
		t.Errorf("%d pairs of checkpoints", len(r.Forks))
	}
}

// A witness's clock may say anything, and that is no reason not to remember a log.
func TestClocksBeyondTheCalendar(t *testing.T) {
	at := newCosigner(t, "witness.example/a", began)
	for _, sec := range []int64{1, 1 << 40, 1 << 60, math.MaxInt64} {
		c := newChronicle(t)
		w := c.writer("gw-1")
		w.start()
		w.heartbeat()
		l := &served{Log: c.publish()}
		l.checkpoint = func(signed []byte) []byte {
			at.at = time.Unix(sec, 0)
			return cosign(t, signed, at)
		}
		l.checkpointAt = func(_ uint64, signed []byte) ([]byte, error) { return l.checkpoint(signed), nil }
		trust := policy(t, "all", at)
		f := NewFollower(trust)
		signed, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Follow(t.Context(), l, signed, nil)
		if err != nil || has(r, TimesBracketed) != (sec == 1) {
			show(t, r)
			t.Errorf("cosigned at %d: false: %v, %v", sec, falseClaims(r), err)
		}
		b, err := f.Append(nil)
		if err != nil {
			t.Errorf("cosigned at %d: %v", sec, err)
			continue
		}
		if _, err := ParseFollower(b, trust); err != nil {
			t.Errorf("cosigned at %d: read back: %v", sec, err)
		}
	}
}

// What is counted does not begin anew at nothing, however much of it a log states.
func TestCountsDoNotWrap(t *testing.T) {
	c := newChronicle(t)
	for i := range 3 {
		w := c.writer(fmt.Sprintf("gw-%d", i))
		w.start()
		w.edit(func(e *record.Entry) { e.Shed = math.MaxInt64 }).heartbeat()
		n := uint64(math.MaxInt64 - 3)
		if i == 2 {
			n = 8 // the three together are 2^64
		}
		w.gap(n)
	}
	r := check(t, c.publish(), policy(t, ""))
	if !r.OK() {
		show(t, r)
		t.Errorf("false: %v", falseClaims(r))
	}
	wantDetail(t, r, LossesDeclared, "18446744073709551615 entries lost")
	wantNotProven(t, r, "the 18446744073709551615 lost entries", "the 18446744073709551615 calls")
}

// A session that is under way cannot have been erased: the log says so of itself as a bundle does.
func TestLogErasedWhileOpen(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	id := w.request()
	leaf := w.leaf[id]
	w.erasure(id)
	w.leaf[id] = leaf
	w.response(id, record.Complete)
	w.heartbeat()
	r := check(t, c.publish(), policy(t, ""))
	if got := falseClaims(r); !slices.Equal(got, []Claim{SessionChain}) {
		show(t, r)
		t.Errorf("false: %v", got)
	}
	wantDetail(t, r, SessionChain, "erases")
}

// Clocks of two machines may lie apart, and no bundle is false for that; those of one boot may not.
func TestTimesOfSeveralClocks(t *testing.T) {
	for _, x := range []struct {
		name  string
		back  time.Duration
		boots bool
		ok    bool
	}{
		{"another boot, a little behind", 3 * time.Second, true, true},
		{"another boot, by more than clocks may be apart", ClockSkew + time.Second, true, false},
		{"the same boot", time.Millisecond, false, false},
	} {
		c := newChronicle(t)
		w := c.writer("gw-1")
		w.start()
		c.now = c.now.Add(time.Hour)
		id := w.request()
		back := func(e *record.Entry) { e.Time = e.Time.Add(-250*time.Millisecond - x.back) }
		if x.boots {
			w.edit(back).start()
			c.now = c.now.Add(-x.back - 500*time.Millisecond)
			w.response(id, record.Interrupted)
		} else {
			w.edit(back).response(id, record.Complete)
		}
		l := c.publish()
		signed, err := l.Publish()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Check(appendBundle(t, export(t, l, signed, all, id)), policy(t, ""))
		if err != nil || r.OK() != x.ok || !x.ok && !slices.Equal(falseClaims(r), []Claim{TimesOrdered}) {
			show(t, r)
			t.Errorf("%s: false: %v, %v", x.name, falseClaims(r), err)
		}
	}
}

// One of three witnesses says whatever suits the operator, and his word alone widens no bracket: where two are asked for, it is
// what two of them saw that bounds the times, in a log and in a bundle.
func TestOneWitnessLies(t *testing.T) {
	a, b := newCosigner(t, "witness.example/a", began), newCosigner(t, "witness.example/b", began)
	liar := newCosigner(t, "witness.example/c", began)
	for _, x := range []struct {
		name string
		lie  time.Time
		edit func(w *writer)
		want []Claim
	}{
		{"nobody is to be deceived", began, func(*writer) {}, nil},
		{"back-dated, and it saw nothing before", time.Unix(1, 0), func(w *writer) {
			w.start() // of a boot that has no other entry, so that no time goes back
			w.edit(func(e *record.Entry) { e.Time = began }).start()
		}, []Claim{TimesBracketed}},
		{"stated for later, and it saw all of it then", began.Add(24 * time.Hour), func(w *writer) {
			w.edit(func(e *record.Entry) { e.Time = began.Add(23 * time.Hour) }).heartbeat()
		}, []Claim{TimesBracketed}},
		{"it accuses an honest log of the past", time.Unix(1, 0), func(w *writer) { w.heartbeat() }, nil},
		{"it accuses an honest log of the future", began.Add(24 * time.Hour), func(w *writer) { w.heartbeat() }, nil},
	} {
		c := newChronicle(t)
		w := c.writer("gw-1")
		w.start()
		w.heartbeat()
		c.mark()
		seen := map[uint64]time.Time{2: began.Add(2 * time.Hour)}
		c.now = began.Add(2*time.Hour + time.Minute)
		id := w.request()
		w.response(id, record.Complete)
		x.edit(w)
		size := uint64(len(c.entries))
		seen[size] = began.Add(2*time.Hour + 2*time.Minute)
		l := &served{Log: c.publish()}
		sign := func(size uint64, signed []byte) []byte {
			a.at, b.at, liar.at = seen[size], seen[size].Add(time.Minute), x.lie
			return cosign(t, signed, liar, a, b)
		}
		l.checkpoint = func(signed []byte) []byte { return sign(size, signed) }
		l.checkpointAt = func(size uint64, signed []byte) ([]byte, error) { return sign(size, signed), nil }
		if r := check(t, l, policy(t, "2", a, b, liar)); !slices.Equal(falseClaims(r), x.want) {
			show(t, r)
			t.Errorf("%s: false: %v, want %v", x.name, falseClaims(r), x.want)
		}
	}

	// And in a bundle.
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	id := w.request()
	w.edit(func(e *record.Entry) { e.Time = began.Add(23 * time.Hour) }).response(id, record.Complete)
	l := c.publish()
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	a.at, b.at, liar.at = c.now, c.now.Add(time.Minute), began.Add(24*time.Hour)
	raw := appendBundle(t, export(t, l, cosign(t, signed, liar, a, b), all, id))
	for rule, want := range map[string][]Claim{"2": {TimesBracketed}, "any": {TimesBracketed}, "all": nil, "": nil} {
		if r, err := Check(raw, policy(t, rule, a, b, liar)); err != nil || !slices.Equal(falseClaims(r), want) {
			show(t, r)
			t.Errorf("quorum %q: false: %v, want %v, %v", rule, falseClaims(r), want, err)
		}
	}
}

// What a quorum had seen once it does not unsee, though a clock of one of its witnesses goes back: the floor stays where it was.
func TestFloorDoesNotSink(t *testing.T) {
	a, b := newCosigner(t, "witness.example/a", began), newCosigner(t, "witness.example/b", began)
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	c.mark()
	w.heartbeat()
	c.mark()
	w.edit(func(e *record.Entry) { e.Time = began.Add(30 * time.Minute) }).start() // back-dated by half an hour
	l := &served{Log: c.publish()}
	hour := began.Add(time.Hour)
	seen := map[uint64][2]time.Time{1: {hour, hour}, 2: {began, hour.Add(time.Minute)}, 3: {hour.Add(2 * time.Minute), hour.Add(2 * time.Minute)}}
	sign := func(size uint64, signed []byte) ([]byte, error) {
		a.at, b.at = seen[size][0], seen[size][1]
		return cosign(t, signed, a, b), nil
	}
	l.checkpointAt = sign
	l.checkpoint = func(signed []byte) []byte { signed, _ = sign(3, signed); return signed }
	r := check(t, l, policy(t, "all", a, b))
	if got := subjects(r, TimesBracketed); !slices.Equal(got, []string{"entry 1", "entry 2"}) {
		show(t, r)
		t.Errorf("false: %v", got)
	}
}
