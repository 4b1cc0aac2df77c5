package verify

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// reread writes a follower down and reads it back.
func reread(t testing.TB, f *Follower, trust Trust) *Follower {
	t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err = ParseFollower(b, trust)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if again, err := f.Append(nil); err != nil || !bytes.Equal(again, b) {
		t.Fatalf("written down again it is another: %v\n%s\n%s", err, b, again)
	}
	return f
}

// followed returns the claims that are false by the time somebody has followed a log through some of its kept
// checkpoints, written down and read back at each; in order.
func followed(t testing.TB, l *tlogtest.Log, trust Trust) []Claim {
	t.Helper()
	sizes, err := l.Sizes(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	last := sizes[len(sizes)-1]
	f := NewFollower(trust)
	var wrong []Claim
	for i, size := range sizes {
		if i%17 != 0 && size != last {
			continue
		}
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Follow(t.Context(), l, signed, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range falseClaims(r) {
			if !slices.Contains(wrong, c) {
				wrong = append(wrong, c)
			}
		}
		f = reread(t, f, trust)
	}
	slices.Sort(wrong)
	return wrong
}

// Whoever follows a log comes to the same books as whoever reads it at once, in steps of whatever length, through the edges
// of tiles, with or without being written down in between.
func TestFollow(t *testing.T) {
	c := newChronicle(t)
	season(c)
	w := c.writer("gw-3")
	w.every = time.Second
	w.start()
	for range 20 {
		w.heartbeat()
		c.mark()
	}
	l := c.publish()
	trust := policy(t, "")
	whole := check(t, l, trust)
	sizes, err := l.Sizes(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		f := NewFollower(trust)
		var last Report
		for i := -1; i < len(sizes)-1; {
			i = min(i+1+rnd.IntN(1+len(sizes)/(1+int(seed))), len(sizes)-1)
			signed, err := l.CheckpointAt(t.Context(), sizes[i])
			if err != nil {
				t.Fatal(err)
			}
			var done uint64
			if last, err = f.Follow(t.Context(), l, signed, func(d, _ uint64) { done = d }); err != nil || !last.OK() {
				show(t, last)
				t.Fatalf("seed %d, size %d: %v", seed, sizes[i], err)
			}
			if got, c := f.Checkpoint(); !bytes.Equal(got, signed) || c.Size != sizes[i] || done != c.Size {
				t.Fatalf("seed %d: it came to %d, and read up to %d, where %d was shown", seed, c.Size, done, sizes[i])
			}
			if rnd.IntN(2) == 0 {
				f = reread(t, f, trust)
			}
		}
		for _, claim := range []Claim{LogReadable, RootMatches, HistoryConsistent, BootsOrdered, SessionChain, SessionsFinished, HeartbeatTrue, HeartbeatsSteady} {
			if a, b := detail(whole, claim), detail(last, claim); a != b {
				t.Errorf("seed %d: %s: followed: %q, at once: %q", seed, claim, b, a)
			}
		}
		if a, b := slices.DeleteFunc(slices.Clone(whole.NotProven), crash), slices.DeleteFunc(last.NotProven, crash); !slices.Equal(a, b) {
			t.Errorf("seed %d: not proven: %q, at once: %q", seed, b, a)
		}
	}
}

func crash(s string) bool { return strings.Contains(s, "as in a crash") }

// detail returns what is said of the whole log of a claim that holds.
func detail(r Report, c Claim) string {
	for _, f := range r.Findings {
		if f.Claim == c && f.Subject == "log" {
			return f.Detail
		}
	}
	return ""
}

// A tree of three levels, followed through all of them.
func TestFollowThreeLevels(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a log of 70,000 entries")
	}
	l := manyEntries(t, 70_000)
	if wrong := followed(t, l, policy(t, "")); len(wrong) > 0 {
		t.Errorf("false: %v", wrong)
	}
}

// What is told is told once.
func TestFollowTellsOnce(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.every = time.Second
	told := make(map[Claim]int)
	step := func() {
		w.heartbeat()
		c.mark()
	}
	w.start()
	step()
	w.seq++ // numbers-whole
	step()
	w.edit(func(e *record.Entry) { e.Open++ }) // heartbeat-true
	step()
	c.after(time.Hour) // heartbeats-steady, with no heartbeat yet
	w.refused()
	c.mark()
	step()
	x := c.writer("gw-2")
	x.start()
	x.response(c.id(), record.Complete) // losses-declared, at the stop
	x.stop()
	step()
	step()
	l := c.publish()
	trust := policy(t, "")
	f := NewFollower(trust)
	sizes, _ := l.Sizes(t.Context(), 0, 1000)
	for _, size := range sizes {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.Follow(t.Context(), l, signed, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Findings {
			if !f.OK {
				told[f.Claim]++
			}
		}
		f = reread(t, f, trust)
	}
	for _, claim := range []Claim{NumbersWhole, HeartbeatTrue, HeartbeatsSteady, LossesDeclared} {
		if told[claim] != 1 {
			t.Errorf("%s: told %d times", claim, told[claim])
		}
	}
	if len(told) != 4 {
		t.Errorf("told: %v", told)
	}
}

// What a follower does not come to leaves no trace, or else it says that it is spent.
func TestFollowNot(t *testing.T) {
	c := newChronicle(t)
	season(c)
	l := c.publish()
	trust := policy(t, "")
	at := func(size uint64, root *tlog.Hash, by string) []byte {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := tlog.UnverifiedCheckpoint(signed)
		if root != nil {
			c.Root = *root
		}
		s := logSigner(tlogtest.Origin)
		if by != "" {
			s = impostor(by)
		}
		if signed, err = tlog.SignCheckpoint(c, s); err != nil {
			t.Fatal(err)
		}
		return signed
	}
	sizes, _ := l.Sizes(t.Context(), 0, 1000)
	small, mid, large := sizes[5], sizes[40], sizes[140]
	begin := func(t *testing.T) *Follower {
		f := NewFollower(trust)
		if r, err := f.Follow(t.Context(), l, at(mid, nil, ""), nil); err != nil || !r.OK() {
			t.Fatal(err)
		}
		return f
	}
	same := func(t *testing.T, f *Follower) {
		if _, c := f.Checkpoint(); c.Size != mid {
			t.Errorf("it is at %d", c.Size)
		}
		if r, err := f.Follow(t.Context(), l, at(large, nil, ""), nil); err != nil || !r.OK() {
			t.Errorf("it does not go on: %v, false: %v", err, falseClaims(r))
		}
	}
	spent := func(t *testing.T, f *Follower) {
		if _, c := f.Checkpoint(); c.Size != mid {
			t.Errorf("it is at %d", c.Size)
		}
		if _, err := f.Follow(t.Context(), l, at(large, nil, ""), nil); err == nil {
			t.Error("it goes on")
		}
		if _, err := f.Append(nil); err == nil {
			t.Error("it is written down")
		}
	}
	t.Run("under another key", func(t *testing.T) {
		f := begin(t)
		r, err := f.Follow(t.Context(), l, at(large, nil, "another"), nil)
		if err != nil || !has(r, CheckpointSigned) {
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		same(t, f)
	})
	t.Run("smaller", func(t *testing.T) {
		f := begin(t)
		if _, err := f.Follow(t.Context(), l, at(small, nil, ""), nil); err == nil {
			t.Error("no error")
		}
		same(t, f)
	})
	t.Run("of another log", func(t *testing.T) {
		const other = "log.example/other"
		_, vkey := tlogtest.Key(other)
		p, err := tlog.ParsePolicy([]byte("log " + vkey + "\n" + string(trust.Policy.Text())))
		if err != nil {
			t.Fatal(err)
		}
		f := NewFollower(Trust{Policy: p})
		if r, err := f.Follow(t.Context(), l, at(mid, nil, ""), nil); err != nil || !r.OK() {
			t.Fatal(err)
		}
		_, c := f.Checkpoint()
		c.Origin = other
		signed, _ := tlog.SignCheckpoint(c, logSigner(other))
		r, err := f.Follow(t.Context(), l, signed, nil)
		if err != nil || !has(r, CheckpointSigned) {
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		same(t, f)
	})
	t.Run("another root", func(t *testing.T) {
		f := begin(t)
		r, err := f.Follow(t.Context(), l, at(large, &tlog.Hash{1}, ""), nil)
		if err != nil || !has(r, RootMatches) {
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		spent(t, f)
	})
	t.Run("another root at the same size", func(t *testing.T) {
		f := begin(t)
		r, err := f.Follow(t.Context(), l, at(mid, &tlog.Hash{1}, ""), nil)
		if err != nil || !has(r, RootMatches) {
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		spent(t, f)
	})
	t.Run("a tile that is not there", func(t *testing.T) {
		f := begin(t)
		s := &served{Log: l, tile: func(tile tlog.Tile, data []byte) ([]byte, error) { return nil, tlog.ErrNotFound }}
		if _, err := f.Follow(t.Context(), s, at(large, nil, ""), nil); err == nil {
			t.Error("no error")
		}
		spent(t, f)
	})
	t.Run("what was read is served otherwise", func(t *testing.T) {
		f := begin(t)
		// The tile that is not full yet is read again; what was in it counts.
		s := &served{Log: l, tile: tlogtest.Replace(mid-1, []byte("garbage"))}
		r, err := f.Follow(t.Context(), s, at(large, nil, ""), nil)
		if err != nil || !slices.Equal(falseClaims(r), []Claim{TilesMatch}) {
			show(t, r)
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		if _, c := f.Checkpoint(); c.Size != large {
			t.Errorf("it is at %d, and the tree is proven", c.Size)
		}
	})
	t.Run("the same again", func(t *testing.T) {
		f := begin(t)
		r, err := f.Follow(t.Context(), l, at(mid, nil, ""), nil)
		if err != nil || !r.OK() {
			t.Errorf("%v, false: %v", err, falseClaims(r))
		}
		same(t, f)
	})
	if _, err := NewFollower(trust).Append(nil); err == nil {
		t.Error("nothing is written down")
	}
}

// A checkpoint that is cosigned again, later, while the log does not grow, brackets what comes after it.
func TestFollowCosignedAgain(t *testing.T) {
	c := newChronicle(t)
	w := c.writer("gw-1")
	w.start()
	w.heartbeat()
	c.mark()
	first := c.now
	w.heartbeat() // as of the moment, though it comes an hour later
	l := c.publish()
	at := newCosigner(t, "witness.example/a", began)
	trust := policy(t, "all", at)
	f := NewFollower(trust)
	step := func(size uint64, when time.Time) Report {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		at.at = when
		r, err := f.Follow(t.Context(), plain{l}, cosign(t, signed, at), nil)
		if err != nil {
			t.Fatal(err)
		}
		f = reread(t, f, trust)
		return r
	}
	for _, when := range []time.Time{first, first.Add(time.Hour)} {
		if r := step(2, when); !r.OK() {
			t.Fatalf("false: %v", falseClaims(r))
		}
	}
	if r := step(3, first.Add(time.Hour+time.Second)); !slices.Equal(falseClaims(r), []Claim{TimesBracketed}) {
		show(t, r)
		t.Errorf("false: %v", falseClaims(r))
	}
}

// Who has not written for longer than three of its beats, and was not stopped, is silent.
func TestFollowSilent(t *testing.T) {
	c := newChronicle(t)
	for i, every := range []time.Duration{10 * time.Second, 10 * time.Second, time.Hour, 0} {
		w := c.writer([]string{"gw-1", "gw-2", "gw-3", "gw-4"}[i])
		w.every = every
		w.start()
		if i == 1 {
			w.stop()
		}
	}
	l := c.publish()
	trust := policy(t, "")
	f := NewFollower(trust)
	signed, _ := l.Checkpoint(t.Context())
	if _, err := f.Follow(t.Context(), l, signed, nil); err != nil {
		t.Fatal(err)
	}
	f = reread(t, f, trust)
	for _, c := range []struct {
		after time.Duration
		who   string
	}{{0, ""}, {5*time.Minute + 30*time.Second + 250*time.Millisecond, ""}, {5*time.Minute + 30*time.Second + 250*time.Millisecond + 1, "gw-1"}, {3 * time.Hour, "gw-1"}, {4 * time.Hour, "gw-1 gw-3"}} {
		var who []string
		for _, s := range f.Silent(began.Add(c.after)) {
			who = append(who, s.By)
		}
		if got := strings.Join(who, " "); got != c.who {
			t.Errorf("after %s: %q, want %q", c.after, got, c.who)
		}
	}
}

// seeds are followers as they are written down, and as somebody may spoil them.
func writtenDown(t testing.TB) (Trust, [][]byte) {
	c := newChronicle(t)
	season(c)
	l := c.publish()
	trust := policy(t, "")
	var all [][]byte
	sizes, _ := l.Sizes(t.Context(), 0, 1000)
	f := NewFollower(trust)
	for i, size := range sizes {
		if i%50 != 0 && i != len(sizes)-1 {
			continue
		}
		signed, _ := l.CheckpointAt(t.Context(), size)
		if _, err := f.Follow(t.Context(), l, signed, nil); err != nil {
			t.Fatal(err)
		}
		b, err := f.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return trust, all
}

func TestFollowerSpoilt(t *testing.T) {
	trust, seeds := writtenDown(t)
	good := seeds[len(seeds)-1]
	for name, edit := range map[string]func(string) string{
		"cut":                func(s string) string { return s[:len(s)-1] },
		"empty":              func(s string) string { return "" },
		"another version":    func(s string) string { return strings.Replace(s, `{"v":1`, `{"v":2`, 1) },
		"a space":            func(s string) string { return strings.Replace(s, `"tiles":`, `"tiles": `, 1) },
		"a key nobody knows": func(s string) string { return strings.Replace(s, `"tiles":`, `"more":1,"tiles":`, 1) },
		"a key twice":        func(s string) string { return strings.Replace(s, `"tiles":`, `"tiles":1,"tiles":`, 1) },
		"more after it":      func(s string) string { return s + "{}" },
		"another checkpoint": func(s string) string { return strings.Replace(s, `log.example/test\n`, `log.example/else\n`, 1) },
		"another size":       func(s string) string { return strings.Replace(s, `log.example/test\n12`, `log.example/test\n13`, 1) },
		"a leaf less": func(s string) string {
			i := strings.Index(s, `"leaves":[`) + len(`"leaves":[`)
			return s[:i] + s[i+47:]
		},
		"a leaf changed": func(s string) string {
			i := strings.Index(s, `"leaves":[`) + len(`"leaves":[`)
			return s[:i] + `"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="` + s[i+46:]
		},
		"a level less":        func(s string) string { return strings.Replace(s, `"levels":[[`, `"levels":[[],[`, 1) },
		"writers in disorder": func(s string) string { return strings.Replace(s, `{"by":"gw-1"`, `{"by":"gw-9"`, 1) },
		"a session twice": func(s string) string {
			return strings.Replace(s, `"open":[{`, `"open":[{"id":"019a4200-0000-7000-8000-000000000001","index":0,"leaf":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},{"id":"019a4200-0000-7000-8000-000000000001","index":1,"leaf":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},{`, 1)
		},
		"a session beyond": func(s string) string { return strings.Replace(s, `","index":`, `","index":9`, 1) },
	} {
		spoilt := edit(string(good))
		if spoilt == string(good) {
			t.Errorf("%s: nothing was spoilt", name)
		}
		if _, err := ParseFollower([]byte(spoilt), trust); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
	if _, err := ParseFollower(good, Trust{}); err == nil {
		t.Error("it is read by who knows no log")
	}
}

func FuzzParseFollower(f *testing.F) {
	trust, seeds := writtenDown(f)
	for _, s := range seeds {
		f.Add(s)
	}
	l := tlogtest.Start(f, tlogtest.Config{Manual: true})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseFollower(b, trust)
		if err != nil {
			return
		}
		if again, err := x.Append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v\n%s\n%s", err, b, again)
		}
		// Whatever was written down, nothing that follows from it falls over.
		signed, c := x.Checkpoint()
		x.Silent(began)
		if _, err := x.Follow(t.Context(), l, signed, nil); err == nil && c.Size%tlog.TileWidth != 0 {
			t.Fatal("tiles that are nowhere were read")
		}
	})
}
