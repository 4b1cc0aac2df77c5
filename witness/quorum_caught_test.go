package witness

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// outsiders are three witnesses of the kind that we serve ourselves, of which two are enough.
type outsiders struct {
	t     *testing.T
	cfg   QuorumConfig
	wires wires
	kept  map[string]*contradictions // by name
}

// contradictions are evidence in memory.
type contradictions struct {
	mu   sync.Mutex
	kept []Contradiction
}

func (e *contradictions) Keep(_ context.Context, c Contradiction) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, c)
	return nil
}

// fork waits until a fork has been kept: the first witness that shows one ends the call, not the others' work.
func (e *contradictions) fork() bool {
	for range 1000 {
		e.mu.Lock()
		found := slices.ContainsFunc(e.kept, func(c Contradiction) bool { return c.Fork })
		e.mu.Unlock()
		if found {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func newOutsiders(t *testing.T) *outsiders {
	o := &outsiders{t: t, wires: make(wires), kept: make(map[string]*contradictions)}
	_, vkey := tlogtest.Key(tlogtest.Origin)
	text := "log " + vkey + "\n"
	for _, name := range []string{"a", "b", "c"} {
		o.open(name, new(memory))
		text += "witness " + name + " " + cosigners(t, "witness.example/"+name)[1].VerifierKey() + " http://" + name + "/\n"
	}
	p, err := tlog.ParsePolicy([]byte(text + "group q 2 a b c\nquorum q\n"))
	if err != nil {
		t.Fatal(err)
	}
	o.cfg = QuorumConfig{Policy: p, Origin: tlogtest.Origin, Client: &http.Client{Transport: o.wires}, Interval: time.Millisecond, All: true}
	return o
}

// open starts a witness on what it remembers.
func (o *outsiders) open(name string, s State) {
	_, vkey := tlogtest.Key(tlogtest.Origin)
	o.kept[name] = new(contradictions)
	w, err := New(o.t.Context(), Config{Keys: cosigners(o.t, "witness.example/"+name), Logs: logList(o.t, "log "+vkey+"\n"), State: s, Evidence: o.kept[name], Limits: noLimits})
	if err != nil {
		o.t.Fatal(err)
	}
	o.wires[name] = w.Handler()
}

// cosign has a log's newest checkpoint cosigned in a process that has just started.
func (o *outsiders) cosign(l chain) ([]byte, *Quorum, error) {
	signed, err := l.Checkpoint(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	q := mustQuorum(o.t, o.cfg)
	out, err := q.Cosign(o.t.Context(), signed, l.prove(signed))
	return out, q, err
}

// must has it cosigned by these.
func (o *outsiders) must(l chain, names ...string) *Quorum {
	o.t.Helper()
	out, q, err := o.cosign(l)
	if got := cosignedBy(o.t, o.cfg.Policy, out); err != nil || !slices.Equal(got, names) {
		o.t.Fatalf("cosigned by %v: %v", got, err)
	}
	return q
}

// The faults that outsiders are there for: each with what is caught, and by whom. The log here has its key in hand and
// signs whatever it is told to; what the engine does about it is the engine's.
func TestWhatIsCaughtAndByWhom(t *testing.T) {
	isFork := func(t *testing.T, err error, why string) {
		t.Helper()
		var fork *tlog.ForkError
		if !errors.As(err, &fork) || !strings.Contains(fork.Reason, why) {
			t.Fatalf("not caught: %v", err)
		}
	}
	for _, c := range []struct {
		fault, caught, by string
		test              func(t *testing.T, o *outsiders)
	}{
		{"fork", "two trees of one size, both signed by the log", "every witness that has seen the other, which refuses and keeps both; the Quorum, which is shown the other", func(t *testing.T, o *outsiders) {
			o.must(newChain(t, 9, ""), "a", "b", "c")
			_, _, err := o.cosign(newChain(t, 9, "other"))
			isFork(t, err, "of the same size")
			for name, kept := range o.kept {
				if !kept.fork() {
					t.Errorf("%s has not kept it", name)
				}
			}
		}},
		{"a fork that grew", "a tree that does not continue the one before", "every witness; the Quorum", func(t *testing.T, o *outsiders) {
			o.must(newChain(t, 9, ""), "a", "b", "c")
			_, _, err := o.cosign(newChain(t, 20, "other"))
			isFork(t, err, "does not continue")
		}},
		{"rollback", "a larger checkpoint that the log signed", "the Quorum, at the first call after the start, from any one witness", func(t *testing.T, o *outsiders) {
			o.must(newChain(t, 20, ""), "a", "b", "c")
			delete(o.wires, "a")
			delete(o.wires, "b")
			_, _, err := o.cosign(newChain(t, 9, ""))
			isFork(t, err, "with 20 entries")
		}},
		{"everything lost", "a larger checkpoint that the log signed", "the Quorum, asked with a checkpoint of the empty tree", func(t *testing.T, o *outsiders) {
			o.must(newChain(t, 20, ""), "a", "b", "c")
			_, _, err := o.cosign(newChain(t, 0, ""))
			isFork(t, err, "with 20 entries")
		}},
		{"split view", "a view without a quorum; both views, as soon as one of them is shown to all", "the policy of whoever is shown the view; then the Quorum", func(t *testing.T, o *outsiders) {
			ours, theirs := newChain(t, 9, ""), newChain(t, 9, "other")
			all := o.wires
			show := func(l chain, names ...string) ([]byte, error) {
				some := make(wires)
				for _, name := range names {
					some[name] = all[name]
				}
				o.cfg.Client = &http.Client{Transport: some}
				out, _, err := o.cosign(l)
				return out, err
			}
			if _, err := show(ours, "a", "b"); err != nil {
				t.Fatal(err)
			}
			out, err := show(theirs, "c")
			var quorum *tlog.QuorumError
			if _, _, perr := o.cfg.Policy.Check(out); !errors.As(err, &quorum) || !errors.As(perr, &quorum) {
				t.Errorf("the second view is accepted: %v, %v", err, perr)
			}
			for _, l := range []chain{ours, theirs} {
				_, err := show(l, "a", "b", "c")
				isFork(t, err, "of the same size")
			}
		}},
		{"stale witness", "a smaller size", "the witness's 409, answered with a proof from there", func(t *testing.T, o *outsiders) {
			l := newChain(t, 3, "")
			o.must(l, "a", "b", "c")
			l.grow(t, 9, "")
			c := o.wires["c"]
			delete(o.wires, "c") // it sleeps
			o.must(l, "a", "b")
			o.wires["c"] = c
			l.grow(t, 9, "")
			if s := statusOf(o.must(l, "a", "b", "c"), "c"); s.Faults != 0 || s.Size != 21 {
				t.Errorf("status %+v", s)
			}
		}},
		{"a witness whose store was put back", "a smaller size than it cosigned", "the Quorum, which names it and has it cosign again", func(t *testing.T, o *outsiders) {
			l := newChain(t, 3, "")
			q := o.must(l, "a", "b", "c")
			o.open("c", new(memory))
			signed := l.grow(t, 9, "")
			time.Sleep(2 * time.Millisecond)
			out, err := q.Cosign(t.Context(), signed, l.prove(signed))
			if got := cosignedBy(t, o.cfg.Policy, out); err != nil || len(got) != 3 {
				t.Errorf("cosigned by %v, %v", got, err)
			}
			if s := statusOf(q, "c"); s.Faults != 1 || s.Failures != 0 {
				t.Errorf("status %+v", s)
			}
		}},
		{"equivocating witness", "a view with one cosignature; one key on two trees of one size", "the policy of whoever is shown the view; whoever holds both", func(t *testing.T, o *outsiders) {
			// c cosigns whatever the log signed, from a clean sheet each time.
			ours, theirs := newChain(t, 9, ""), newChain(t, 9, "other")
			o.must(ours, "a", "b", "c")
			o.open("c", new(memory))
			delete(o.wires, "a")
			delete(o.wires, "b")
			out, _, err := o.cosign(theirs)
			var quorum *tlog.QuorumError
			if got := cosignedBy(t, o.cfg.Policy, out); !errors.As(err, &quorum) || !slices.Equal(got, []string{"c"}) {
				t.Errorf("cosigned by %v: %v", got, err)
			}
		}},
		{"wrong cosignature", "a signature that does not verify over this checkpoint", "the Quorum, which does not take it and names the witness", func(t *testing.T, o *outsiders) {
			f := newFake(t, "c")
			f.keys = cosigners(t, "witness.example/c")[1:]
			f.answer = func(req *addCheckpoint, _ []byte) []byte {
				return f.sign(string(tlog.Checkpoint{Origin: req.origin, Size: 9, Root: tlog.HashLeaf(nil)}.Text()), time.Now())
			}
			f.monitor = func([]byte) []byte { return nil }
			l := newChain(t, 9, "")
			q := o.must(l, "a", "b", "c")
			o.wires["c"] = f
			signed := l.grow(t, 1, "")
			time.Sleep(2 * time.Millisecond)
			f.saw(t, l.at(t, 9))
			out, err := q.Cosign(t.Context(), signed, l.prove(signed))
			if got := cosignedBy(t, o.cfg.Policy, out); err != nil || !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("cosigned by %v, %v", got, err)
			}
			if s := statusOf(q, "c"); s.Faults != 1 || !strings.Contains(s.Err.Error(), "does not verify") {
				t.Errorf("status %+v", s)
			}
		}},
		{"witness down", "silence", "the Quorum, which goes on and names the witness", func(t *testing.T, o *outsiders) {
			delete(o.wires, "b")
			l := newChain(t, 9, "")
			if s := statusOf(o.must(l, "a", "c"), "b"); s.Failures != 1 || s.Err == nil {
				t.Errorf("status %+v", s)
			}
		}},
		{"too many witnesses down", "silence", "the Quorum, by a QuorumError, which is to wait and ask again", func(t *testing.T, o *outsiders) {
			b := o.wires["b"]
			delete(o.wires, "b")
			delete(o.wires, "c")
			l := newChain(t, 9, "")
			_, q, err := o.cosign(l)
			var quorum *tlog.QuorumError
			if !errors.As(err, &quorum) || !slices.Equal(quorum.Missing, []string{"b", "c"}) {
				t.Fatal(err)
			}
			o.wires["b"] = b
			time.Sleep(5 * time.Millisecond)
			signed := l.at(t, 9)
			if _, err := q.Cosign(t.Context(), signed, l.prove(signed)); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			c.test(t, newOutsiders(t))
			t.Logf("%s: %s; by %s", c.fault, c.caught, c.by)
		})
	}
}
