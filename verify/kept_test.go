package verify

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A witnessedLog is a log of some hours, with everything that a log can hold, and what witnesses have of it.
type witnessedLog struct {
	entries   [][]byte
	kept      []Kept // cosigned by both witnesses, by size
	witnesses []*cosigner
}

func newWitnessedLog(t testing.TB) *witnessedLog {
	c := newChronicle(t)
	a, b := c.writer("gw-1"), c.writer("gw-2")
	a.every, b.every = 20*time.Minute, 20*time.Minute
	seen := make(map[uint64]time.Time)
	mark := func() {
		c.mark()
		seen[uint64(len(c.entries))] = c.now.Add(time.Second)
	}
	a.start()
	b.start()
	for i := range 30 {
		c.after(10 * time.Minute)
		a.heartbeat()
		b.heartbeat()
		x, y := a.request(), b.request()
		z := a.request()
		a.approval(z)
		a.response(x, record.Complete)
		b.response(y, record.Truncated)
		if i%7 == 3 {
			a.gap(2)
		}
		a.response(z, record.Denied)
		switch i % 5 {
		case 0:
			a.put(record.Entry{Kind: record.Policy, Root: tlog.Hash{1, byte(i)}, Fields: 3})
		case 1:
			b.refused()
		case 2:
			e := about(record.Access, x, requestRecord(x))
			b.put(e)
		case 3:
			a.erasure(x)
		case 4:
			a.stop()
			a.start()
		}
		if i == 12 {
			left := b.request()
			b.start() // it died
			b.heartbeat()
			b.response(left, record.Interrupted)
		}
		if i%3 == 2 {
			mark()
		}
	}
	b.stop()
	mark()
	w := &witnessedLog{entries: c.entries, witnesses: []*cosigner{newCosigner(t, "witness.example/a", began), newCosigner(t, "witness.example/b", began)}}
	l := c.publish()
	for _, size := range slices.Sorted(maps.Keys(seen)) {
		signed, err := l.CheckpointAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range w.witnesses {
			x.at = seen[size].Add(time.Duration(i) * time.Second)
		}
		w.kept = append(w.kept, Kept{Name: fmt.Sprintf("kept-%d", size), Signed: cosign(t, signed, w.witnesses...)})
	}
	return w
}

// trust knows the witnesses and does not ask that the newest checkpoint have their word: whatever is found is found by
// what was kept.
func (w *witnessedLog) trust(t testing.TB) Trust {
	t.Helper()
	text := bytes.TrimSuffix(policy(t, "all", w.witnesses...).Policy.Text(), []byte("quorum g\n"))
	p, err := tlog.ParsePolicy(append(text, "quorum none\n"...))
	if err != nil {
		t.Fatal(err)
	}
	return Trust{Policy: p}
}

// publishEntries makes a log of entries, signed by the log's key, that shows one checkpoint and no earlier one.
func publishEntries(t testing.TB, entries [][]byte) tlog.Reader {
	t.Helper()
	c := newChronicle(t)
	c.entries = entries
	return plain{c.publish()}
}

func parseEntries(t testing.TB, raw [][]byte) []record.Entry {
	t.Helper()
	es := make([]record.Entry, len(raw))
	for i, b := range raw {
		var err error
		if es[i], err = record.ParseEntry(b); err != nil {
			t.Fatal(err)
		}
	}
	return es
}

// retell writes entries down as their writers would have, if all this had happened: the numbers of every boot, what each
// entry refers to, and what heartbeats count are made anew.
func retell(t testing.TB, es []record.Entry) [][]byte {
	t.Helper()
	next := make(map[record.ID]uint64)
	leaf := make(map[record.ID]tlog.Hash)
	open := make(map[string]map[record.ID]uint64)
	out := make([][]byte, len(es))
	for i, e := range es {
		if open[e.By] == nil {
			open[e.By] = make(map[record.ID]uint64)
		}
		e.Seq = next[e.Boot]
		switch e.Kind {
		case record.Gap:
			n := e.To - e.From
			e.From, e.To = e.Seq, e.Seq+n
			e.Seq = e.To + 1
			if e.Since.After(e.Time) {
				e.Since = e.Time
			}
		case record.Approval, record.Response:
			e.Prev = leaf[e.Session]
		case record.Erasure:
			if e.Prev != (tlog.Hash{}) {
				e.Prev = leaf[e.Session]
			}
		case record.Heartbeat, record.Stop:
			e.Open, e.Floor = uint64(len(open[e.By])), 0
			for _, at := range open[e.By] {
				if e.Floor == 0 || at < e.Floor {
					e.Floor = at
				}
			}
		}
		next[e.Boot] = e.Seq + 1
		b, err := e.Append(nil)
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		switch e.Kind {
		case record.Request:
			open[e.By][e.Session] = uint64(i)
		case record.Response:
			delete(open[e.By], e.Session)
		}
		if !e.Session.IsZero() && e.Kind != record.Access {
			leaf[e.Session] = tlog.HashLeaf(b)
		}
		out[i] = b
	}
	return out
}

// The forgeries. Each does one thing to entry k, and cleverly: what would stand out is changed with it. ok is false where
// it cannot be done to that entry.
var forgeries = map[string]func(es []record.Entry, k int) (forged []record.Entry, ok bool){
	"delete": func(es []record.Entry, k int) ([]record.Entry, bool) {
		dead, e := es[k], es[k]
		gone := func(x record.Entry) bool { return x.Boot == dead.Boot && x.Seq == dead.Seq }
		if e.Kind == record.Start {
			gone = func(x record.Entry) bool { return x.Boot == dead.Boot }
		}
		es = slices.DeleteFunc(es, gone)
		// What is about a session that never was goes too.
		begun := make(map[record.ID]bool)
		return slices.DeleteFunc(es, func(x record.Entry) bool {
			if x.Kind == record.Request || x.Kind == record.Refused {
				begun[x.Session] = true
			}
			return !x.Session.IsZero() && !begun[x.Session]
		}), true
	},
	"back-date": func(es []record.Entry, k int) ([]record.Entry, bool) {
		// With all of the boot before it, so that no time goes back.
		for i := range es[:k+1] {
			if es[i].Boot == es[k].Boot {
				es[i].Time = es[i].Time.Add(-30 * time.Minute)
				if es[i].Kind == record.Gap {
					es[i].Since = es[i].Time
				}
			}
		}
		return es, true
	},
	"re-order": func(es []record.Entry, k int) ([]record.Entry, bool) {
		for j := k + 1; j < len(es) && j < k+12; j++ {
			a, b := &es[k], &es[j]
			bound := func(x *record.Entry) bool { return x.Kind == record.Start || x.Kind == record.Stop }
			if a.By == b.By && (bound(a) || bound(b) || a.Boot != b.Boot) {
				continue
			}
			between := slices.ContainsFunc(es[k+1:j+1], func(x record.Entry) bool {
				return x.Session == a.Session && !a.Session.IsZero() || x.By == a.By && (bound(a) || bound(&x))
			}) || slices.ContainsFunc(es[k:j], func(x record.Entry) bool {
				return x.Session == b.Session && !b.Session.IsZero() || x.By == b.By && (bound(b) || bound(&x))
			})
			if between {
				continue
			}
			// Every place keeps the time that its writer's entries have there.
			times := make(map[record.ID][]time.Time)
			for _, x := range es[k : j+1] {
				times[x.Boot] = append(times[x.Boot], x.Time)
			}
			*a, *b = *b, *a
			for i := range es[k : j+1] {
				x := &es[k+i]
				x.Time, times[x.Boot] = times[x.Boot][0], times[x.Boot][1:]
			}
			return es, true
		}
		return es, false
	},
	"replace": func(es []record.Entry, k int) ([]record.Entry, bool) {
		e := &es[k]
		switch e.Kind {
		case record.Start:
			e.Software = "tally/2"
		case record.Stop:
			e.Reason = "because"
		case record.Heartbeat:
			e.Shed++
		case record.Gap:
			e.Reason = "disk_full"
		case record.Erasure:
			e.Reason = "gdpr_6"
		case record.Response:
			e.Outcome = record.ClientGone
		default:
			e.Root[0] ^= 1
		}
		return es, true
	},
	"insert": func(es []record.Entry, k int) ([]record.Entry, bool) {
		at := k + 1
		if es[k].Kind == record.Stop {
			at = k
		}
		id := record.ID{0xff, byte(k >> 8), byte(k), 15: 1}
		e := about(record.Refused, id, requestRecord(id))
		e.Reason, e.By, e.Boot, e.Time, e.Seq = "no_route", es[k].By, es[k].Boot, es[k].Time, 1
		return slices.Insert(es, at, e), true
	},
	"truncate": func(es []record.Entry, k int) ([]record.Entry, bool) { return es[:k], k > 0 },
	"rewrite all": func(es []record.Entry, k int) ([]record.Entry, bool) {
		for i := range es {
			es[i].Time = es[i].Time.Add(time.Duration(k) * time.Microsecond)
			if es[i].Fields > 0 {
				es[i].Root[31] ^= byte(k + 1)
			}
		}
		return es, true
	},
}

// Whoever holds the log's disk and its key can make it say anything: he tells a consistent story, builds the tree anew and
// signs it, and by itself it cannot be told from the true one. The checkpoints that witnesses have of the true one tell,
// each for itself: those over what was changed contradict it, by name, and the others do not.
func TestForgedLogs(t *testing.T) {
	w := newWitnessedLog(t)
	if n := len(w.entries); n < 290 || len(w.kept) < 8 {
		t.Fatalf("%d entries, %d kept checkpoints", n, len(w.kept))
	}
	if again := retell(t, parseEntries(t, w.entries)); !slices.EqualFunc(again, w.entries, bytes.Equal) {
		t.Fatal("the entries as they are, told again, are others: the forger is not as good as he should be")
	}
	trust := w.trust(t)
	trust.Kept = w.kept
	if r := check(t, publishEntries(t, w.entries), trust); !r.OK() || len(r.Forks) != 0 {
		show(t, r)
		t.Fatalf("the true log: false: %v", falseClaims(r))
	}
	kinds := make(map[record.Kind][]int)
	for i, e := range parseEntries(t, w.entries) {
		kinds[e.Kind] = append(kinds[e.Kind], i)
	}
	if len(kinds) != 11 {
		t.Fatalf("the log has entries of %d kinds", len(kinds))
	}
	done := make(map[string]int)
	for _, name := range slices.Sorted(maps.Keys(forgeries)) {
		for kind, at := range kinds {
			for _, k := range []int{at[0], at[len(at)/2], at[len(at)-1]} {
				es, ok := forgeries[name](parseEntries(t, w.entries), k)
				if !ok {
					continue
				}
				done[name]++
				forged := retell(t, es)
				l := publishEntries(t, forged)
				if r := check(t, l, w.trust(t)); !r.OK() {
					show(t, r)
					t.Fatalf("%s entry %d, a %s: by itself it shows: %v", name, k, kind, falseClaims(r))
				}
				r := check(t, l, trust)
				same := 0
				for same < min(len(forged), len(w.entries)) && bytes.Equal(forged[same], w.entries[same]) {
					same++
				}
				want, got := contradicted(t, w.kept, same), subjects(r, CheckpointsHonoured)
				if len(want) == 0 || !slices.Equal(got, want) {
					show(t, r)
					t.Fatalf("%s entry %d, a %s, the first %d are the same: contradicted by %q, want %q", name, k, kind, same, got, want)
				}
				// A time moved past a witness is false by itself, too.
				for _, c := range falseClaims(r) {
					if c != CheckpointsHonoured && c != TimesBracketed {
						t.Fatalf("%s entry %d, a %s: false: %v", name, k, kind, falseClaims(r))
					}
				}
				for _, f := range r.Forks {
					checkFork(t, trust, &f)
				}
				if len(r.Forks) != len(got) {
					t.Errorf("%d contradictions and %d pairs of checkpoints", len(got), len(r.Forks))
				}
			}
		}
	}
	t.Logf("forged: %v", done)
	for _, name := range slices.Sorted(maps.Keys(forgeries)) {
		if done[name] < 20 {
			t.Errorf("%s was done %d times", name, done[name])
		}
	}
}

// contradicted returns the subjects of the kept checkpoints that a log contradicts whose first entries, and no others, are
// the same.
func contradicted(t *testing.T, kept []Kept, same int) (names []string) {
	t.Helper()
	for _, k := range kept {
		c, err := tlog.UnverifiedCheckpoint(k.Signed)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size > uint64(same) {
			names = append(names, fmt.Sprintf("checkpoint of size %d (%s)", c.Size, k.Name))
		}
	}
	return names
}

func subjects(r Report, c Claim) (names []string) {
	for _, f := range r.Findings {
		if f.Claim == c && !f.OK {
			names = append(names, f.Subject)
		}
	}
	return names
}

// checkFork wants two checkpoints that the log signed, of which the first is witnessed.
func checkFork(t *testing.T, trust Trust, f *tlog.ForkError) {
	t.Helper()
	_, cosigs, err := trust.Policy.Check(f.A)
	if err != nil || len(cosigs) != 2 {
		t.Errorf("the first: %v, %d cosignatures", err, len(cosigs))
	}
	if _, _, err := trust.Policy.Check(f.B); err != nil || bytes.Equal(f.A, f.B) || f.Reason == "" {
		t.Errorf("the second: %v; %q", err, f.Reason)
	}
}

// What no kept checkpoint covers can still be forged, but not into the time before the newest one.
func TestForgedTail(t *testing.T) {
	w := newWitnessedLog(t)
	trust := w.trust(t)
	trust.Kept = w.kept[:5]
	last, err := tlog.UnverifiedCheckpoint(trust.Kept[4].Signed)
	if err != nil {
		t.Fatal(err)
	}
	k := int(last.Size) + 20
	for _, c := range []struct {
		name  string
		claim Claim
		forge func(es []record.Entry) []record.Entry
	}{
		{"an entry deleted that no witness has seen", "", func(es []record.Entry) []record.Entry {
			es, _ = forgeries["delete"](es, k)
			return es
		}},
		{"a boot added, as of a time that witnesses have seen the end of", TimesBracketed, func(es []record.Entry) []record.Entry {
			boot := record.ID{0xfe, 15: 1}
			at := es[10].Time
			call := about(record.Refused, record.ID{0xfd, 15: 1}, requestRecord(record.ID{0xfd, 15: 1}))
			call.Reason, call.By, call.Boot, call.Time, call.Seq = "no_route", "gw-3", boot, at, 1
			return append(es, record.Entry{Kind: record.Start, By: "gw-3", Boot: boot, Time: at, Software: "tally/1", Mode: "strict"}, call)
		}},
		{"cut back, to less than witnesses have seen", CheckpointsHonoured, func(es []record.Entry) []record.Entry { return es[:last.Size-1] }},
	} {
		r := check(t, publishEntries(t, retell(t, c.forge(parseEntries(t, w.entries)))), trust)
		var want []Claim
		if c.claim != "" {
			want = []Claim{c.claim}
		}
		if got := falseClaims(r); !slices.Equal(got, want) {
			show(t, r)
			t.Errorf("%s: false: %v, want %v", c.name, got, want)
		}
	}
}

// What was brought along and is not this log's word accuses nobody.
func TestKeptOfOthers(t *testing.T) {
	w := newWitnessedLog(t)
	signed := func(origin string, size uint64, root tlog.Hash, by ...string) []byte {
		s := logSigner(origin)
		if len(by) > 0 {
			s = impostor(by[0])
		}
		out, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: origin, Size: size, Root: root}, s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const other = "log.example/other"
	_, vkey := tlogtest.Key(other)
	p, err := tlog.ParsePolicy([]byte("log " + vkey + "\n" + string(policy(t, "").Policy.Text())))
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Policy: p, Kept: []Kept{
		{"garbage", []byte("garbage")},
		{"nothing", nil},
		{"of another log", signed(other, 40, tlog.Hash{1})},
		{"of a log that nobody knows", signed("log.example/third", 40, tlog.Hash{1})},
		{"under another key", signed(tlogtest.Origin, 40, tlog.Hash{1}, "another")},
		{"empty", signed(tlogtest.Origin, 0, tlog.EmptyRoot())},
	}}
	r := check(t, publishEntries(t, w.entries), trust)
	if !r.OK() {
		show(t, r)
		t.Errorf("false: %v", falseClaims(r))
	}
	wantDetail(t, r, CheckpointsHonoured, "1 checkpoint that was brought along")
	for _, k := range trust.Kept[:5] {
		wantNotProven(t, r, "anything by the checkpoint "+k.Name)
	}
	// Nobody cosigned this one, and the log signed it all the same.
	trust.Kept = []Kept{{"a file", signed(tlogtest.Origin, 40, tlog.Hash{1})}}
	r = check(t, publishEntries(t, w.entries), trust)
	if got := falseClaims(r); !slices.Equal(got, []Claim{CheckpointsHonoured}) {
		show(t, r)
		t.Errorf("false: %v", got)
	}
	// A thousand that are of no use, and a thousand that are false, are a list that a person can read.
	trust.Kept = nil
	for i := range 1000 {
		trust.Kept = append(trust.Kept, Kept{fmt.Sprint("garbage ", i), nil}, Kept{fmt.Sprint("false ", i), signed(tlogtest.Origin, uint64(i+1), tlog.Hash{1})})
	}
	r = check(t, publishEntries(t, w.entries), trust)
	if len(r.Findings) > 100 || len(r.NotProven) > 100 || len(r.Forks) > 20 {
		t.Errorf("%d findings, %d not proven, %d forks", len(r.Findings), len(r.NotProven), len(r.Forks))
	}
	if all := strings.Join(r.NotProven, "\n"); !strings.Contains(all, "further checkpoints that were brought along") {
		t.Errorf("not told how many: %s", all)
	}
	wantDetail(t, r, CheckpointsHonoured, "and 980 times more")
}
