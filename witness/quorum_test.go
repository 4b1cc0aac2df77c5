package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A log that grows is cosigned by all, who get the text and the log's signatures and nothing else.
func TestCosign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newFake(t, "a"), newFake(t, "b"), newFake(t, "c", cosigners(t, "witness.example/c")...)
		cfg, _ := world(t, "all", a, b, c)
		q := mustQuorum(t, cfg)
		l := newChain(t, 0, "")
		for _, n := range []int{0, 0, 1, 1, 5, 0, 300} {
			signed := l.grow(t, n, "")
			out, err := q.Cosign(t.Context(), append(bytes.Clone(signed), a.sign(string(signed[:bytes.LastIndex(signed, []byte("\n\n"))+1]), time.Now())...), l.prove(signed))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(out, signed) {
				t.Errorf("it does not begin with what the log signed:\n%s", out)
			}
			if got := cosignedBy(t, cfg.Policy, out); !slices.Equal(got, []string{"a", "b", "c", "c-1"}) {
				t.Errorf("cosigned by %v", got)
			}
			for _, f := range []*fake{a, b, c} {
				if !bytes.Equal(f.last.signed, signed) {
					t.Errorf("the witness was sent more than the log's own:\n%s", f.last.signed)
				}
			}
			// Who cosigned the same again states a new time: it is the same tree, now.
			for _, s := range q.Stats() {
				if s.Size != l.Size() || s.Failures != 0 || s.Faults != 0 || s.Err != nil || time.Since(s.Cosigned) > 3*time.Second {
					t.Errorf("status %+v", s)
				}
			}
			time.Sleep(time.Second)
		}
		if n := a.submissions(); n != 7 {
			t.Errorf("%d submissions for 7 checkpoints", n)
		}
	})
}

// Every way in which one witness of three can be bad. The other two are a quorum: what is caught, and that the log neither waits
// nor stops. at says what the very same does when a log starts: hold, or nothing.
func TestOneBadWitness(t *testing.T) {
	answers := func(status int, kind, body string) func(*fake, *world3) {
		return func(f *fake, _ *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				if kind != "" {
					rw.Header().Set("Content-Type", kind)
				}
				rw.WriteHeader(status)
				io.WriteString(rw, body)
				return true
			}
		}
	}
	lines := func(change func(f *fake, req *addCheckpoint, lines []byte) []byte) func(*fake, *world3) {
		return func(f *fake, _ *world3) {
			f.answer = func(req *addCheckpoint, l []byte) []byte { return change(f, req, l) }
		}
	}
	signed := func(f *fake, text string, at time.Time) []byte { return f.sign(text, at) }
	wrong := func(f *fake, req *addCheckpoint) []byte {
		blob := must(f.keys[0].Sign([]byte(req.text)))
		blob[20] ^= 1
		return appendSignatureLine(nil, f.keys[0].Name(), f.keys[0].KeyHash(), blob)
	}
	const size = "text/x.tlog.size"
	for _, c := range []struct {
		name   string
		fault  func(f *fake, w *world3)
		says   string // part of the error; "" where it cosigns after all
		faults int    // what of it is counted as the witness's own doing
		holds  bool   // a log that starts
	}{
		{"by the book", func(*fake, *world3) {}, "", 0, false},
		{"behind", func(f *fake, w *world3) { f.saw(w.t, w.l.at(w.t, 3)) }, "", 0, false},
		{"put back after it cosigned", func(f *fake, w *world3) { f.saw(w.t, w.l.at(w.t, 3)) }, "", 0, false}, // see TestForgetful
		{"unknown signatures beside its own", lines(func(f *fake, req *addCheckpoint, l []byte) []byte {
			other := newFake(t, f.name, append(cosigners(t, "witness.example/unknown"), cosigners(t, "witness.example/c")[1])...)
			return append(other.sign(req.text, time.Now()), l...)
		}), "", 0, false},
		{"signs twice", lines(func(f *fake, req *addCheckpoint, l []byte) []byte {
			return append(l, signed(f, req.text, time.Now().Add(time.Second))...)
		}), "", 0, false},

		{"wrong signature", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte { return wrong(f, req) }), "does not verify", 1, true},
		{"a good signature and a wrong one", lines(func(f *fake, req *addCheckpoint, l []byte) []byte { return append(l, wrong(f, req)...) }), "does not verify", 1, true},
		{"another key", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte {
			return newFake(t, f.name, cosigners(t, "witness.example/unknown")...).sign(req.text, time.Now())
		}), "no cosignature by", 1, false},
		{"another witness's key", lines(func(_ *fake, req *addCheckpoint, _ []byte) []byte {
			return newFake(t, "a").sign(req.text, time.Now())
		}), "no cosignature by", 1, false},
		{"time 0", lines(func(f *fake, _ *addCheckpoint, _ []byte) []byte {
			return appendSignatureLine(nil, f.keys[0].Name(), f.keys[0].KeyHash(), make([]byte, 72))
		}), "does not verify", 1, true},
		{"a time to come", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte {
			return signed(f, req.text, time.Now().Add(time.Hour))
		}), "which is not now", 1, false},
		{"a time long past", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte {
			return signed(f, req.text, time.Now().Add(-time.Hour))
		}), "which is not now", 1, false},
		{"cosigns another tree", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte {
			return signed(f, string(tlog.Checkpoint{Origin: req.origin, Size: 9, Root: tlog.HashLeaf(nil)}.Text()), time.Now())
		}), "does not verify", 1, true},
		{"cosigns with an extension line", lines(func(f *fake, req *addCheckpoint, _ []byte) []byte {
			return signed(f, req.text+"extension\n", time.Now())
		}), "does not verify", 1, true},
		{"sends the note back", lines(func(_ *fake, req *addCheckpoint, l []byte) []byte {
			return slices.Concat([]byte(req.text), []byte("\n"), l)
		}), "no signature line", 1, false},
		{"an empty line between", lines(func(_ *fake, _ *addCheckpoint, l []byte) []byte { return append([]byte("\n"), l...) }), "no signature line", 1, false},
		{"cut off", lines(func(_ *fake, _ *addCheckpoint, l []byte) []byte { return l[:len(l)-1] }), "no signature lines", 1, false},
		{"nothing", lines(func(*fake, *addCheckpoint, []byte) []byte { return nil }), "no signature lines", 1, false},
		{"too many lines", lines(func(f *fake, req *addCheckpoint, l []byte) []byte {
			return append(bytes.Repeat(appendSignatureLine(nil, "x", 1, make([]byte, 8)), maxLines), l...)
		}), "no signature lines", 1, false},
		{"a huge answer", lines(func(_ *fake, _ *addCheckpoint, l []byte) []byte { return bytes.Repeat(l, 1+maxResponse/len(l)) }), "longer than", 1, false},
		{"an answer without end", func(f *fake, _ *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				for {
					if _, err := rw.Write(make([]byte, 1000)); err != nil {
						return true
					}
				}
			}
		}, "longer than", 1, false},
		{"an encoded answer", func(f *fake, _ *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				rw.Header().Set("Content-Encoding", "gzip")
				return false
			}
		}, "encoded", 1, false},

		{"400", answers(400, "", "no"), "400", 0, false},
		{"403", answers(403, "", "no"), "another key of the log", 0, false},
		{"404", answers(404, "", "no"), "does not know the log", 0, false},
		{"429", answers(429, "", "no"), "too often", 0, false},
		{"500", answers(500, "", "no"), "500", 0, false},
		{"503", answers(503, "", "no"), "503", 0, false},
		{"204", answers(204, "", ""), "204", 0, false},
		{"a redirect", func(f *fake, w *world3) {
			w.wires["elsewhere"] = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { w.t.Error("the redirect was followed") })
			f.before = func(rw http.ResponseWriter, r *http.Request, _ *addCheckpoint) bool {
				http.Redirect(rw, r, "http://elsewhere/add-checkpoint", http.StatusTemporaryRedirect)
				return true
			}
		}, "a redirect", 0, false},
		{"down", func(f *fake, w *world3) { delete(w.wires, f.name) }, "refused", 0, false},
		{"TLS fails", func(f *fake, w *world3) { w.broken = &tls.CertificateVerificationError{Err: errors.New("expired")} }, "expired", 0, false},
		{"hangs", func(f *fake, _ *world3) {
			f.before = func(_ http.ResponseWriter, r *http.Request, _ *addCheckpoint) bool {
				<-r.Context().Done()
				return true
			}
		}, "deadline", 0, false},
		{"drips", func(f *fake, _ *world3) {
			f.answer = nil
			f.before = func(rw http.ResponseWriter, r *http.Request, req *addCheckpoint) bool {
				for _, b := range f.sign(req.text, time.Now()) {
					time.Sleep(time.Second)
					if _, err := rw.Write([]byte{b}); err != nil {
						break
					}
				}
				return true
			}
		}, "deadline", 0, false},

		{"409 without a size", answers(409, "text/plain", "3\n"), "says no size", 1, false},
		{"409 with a size that is none", answers(409, size, "+3\n"), "no size and a line break", 1, false},
		{"409 without a line break", answers(409, size, "3"), "no size and a line break", 1, false},
		{"409 for ever", func(f *fake, _ *world3) {
			n := uint64(0)
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
				n = n%3 + 1
				conflict(rw, n)
				return true
			}
		}, "another size 4 times", 1, false},
		{"409 with what it was given", func(f *fake, _ *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, req *addCheckpoint) bool {
				conflict(rw, req.old)
				return true
			}
		}, "does not take the proof", 1, false},
		{"a larger size and nothing to show", func(f *fake, _ *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte { return nil }
		}, "cannot be had", 1, true},
		{"a larger size, shown an old checkpoint", func(f *fake, w *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte { return w.l.at(w.t, 3) }
		}, "ours continues its own checkpoint, of size 3", 1, true},
		{"a larger size, shown this checkpoint", func(f *fake, w *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte { return f.last.signed }
		}, "its own checkpoint is this one", 1, true},
		{"a larger size, shown a checkpoint that it made up", func(f *fake, w *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte {
				text := string(tlog.Checkpoint{Origin: tlogtest.Origin, Size: 1 << 40, Root: tlog.HashLeaf(nil)}.Text())
				return append([]byte(text+"\n"), f.sign(text, time.Now())...)
			}
		}, "none that the log signed", 1, true},
		{"a larger size, shown a forged signature of the log", func(f *fake, w *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte {
				return bytes.Replace(f.last.signed, []byte(fmt.Sprintf("\n%d\n", w.l.Size())), []byte("\n1099511627776\n"), 1)
			}
		}, "none that the log signed", 1, true},
		{"a larger size, and its monitor hangs", func(f *fake, w *world3) {
			f.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 1<<40); return true }
			f.monitor = func([]byte) []byte { time.Sleep(9 * time.Second); return nil }
		}, "cannot be had", 1, true},
		{"refuses the proof and has nothing to show", func(f *fake, _ *world3) {
			f.before = answersOf(422)
			f.monitor = func([]byte) []byte { return nil }
		}, "cannot be had", 1, true},
		{"refuses a proof from what it has", func(f *fake, w *world3) {
			f.before = answersOf(422)
			f.monitor = func([]byte) []byte { return w.l.at(w.t, 3) }
		}, "ours continues its own checkpoint", 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld3(t)
				if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				c.fault(w.bad, w)
				before := w.bad.submissions()
				signed := w.l.at(t, 9)
				begun := time.Now()
				out, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed))
				if err != nil {
					t.Fatalf("the log stops: %v", err)
				}
				if d := time.Since(begun); d > time.Second {
					t.Errorf("the log waited for %v", d)
				}
				time.Sleep(30 * time.Second) // until the last request has been given up
				got := cosignedBy(t, w.q.c.Policy, out)
				if !slices.Contains(got, "a") || !slices.Contains(got, "b") {
					t.Errorf("cosigned by %v", got)
				}
				s := statusOf(w.q, "c")
				check := func(s Status) {
					t.Helper()
					if c.says == "" && (s.Err != nil || s.Failures != 0) || c.says != "" && (s.Err == nil || !strings.Contains(s.Err.Error(), c.says) || s.Failures != 1) || s.Faults != c.faults {
						t.Errorf("it is said: %+v", s)
					}
				}
				if c.name == "behind" || c.name == "put back after it cosigned" {
					s.Faults = 0 // it forgot; TestForgetful
				}
				if c.name != "409 for ever" || s.Err != nil { // its fourth answer comes after the log went on
					check(s)
				}
				if c.says != "" && slices.Contains(got, "c") {
					t.Error("its cosignature was taken")
				}
				if n := bytes.Count(out, []byte("\n— ")); n != 1+len(got) {
					t.Errorf("%d signature lines, of the log and %v", n, got)
				}
				if n := w.bad.submissions() - before; n > 4 {
					t.Errorf("it was asked %d times", n)
				}
				for _, f := range w.good {
					if s := statusOf(w.q, f.name); s.Failures != 0 || s.Faults != 0 {
						t.Errorf("another witness: %+v", s)
					}
				}

				// The same for a log that starts: it hears all, and none can make it sign over a claim.
				w = newWorld3(t)
				c.fault(w.bad, w)
				begun = time.Now()
				out, err = w.q.Cosign(t.Context(), signed, w.l.prove(signed))
				if d := time.Since(begun); d > w.q.c.Wait {
					t.Errorf("at the start the log waited for %v", d)
				}
				var quorum *tlog.QuorumError
				if c.holds != errors.As(err, &quorum) || !c.holds && err != nil {
					t.Errorf("at the start: %v", err)
				}
				if got := cosignedBy(t, w.q.c.Policy, out); len(got) < 2 || c.says == "" && len(got) != 3 {
					t.Errorf("at the start cosigned by %v", got)
				}
				time.Sleep(30 * time.Second)
				check(statusOf(w.q, "c"))
			})
		})
	}
}

// A world3 is a log of nine entries, and three witnesses of which two are enough and one is bad.
type world3 struct {
	t     *testing.T
	l     chain
	q     *Quorum
	good  []*fake
	bad   *fake
	wires wires

	broken error // of the transport to the bad one
}

func newWorld3(t *testing.T) *world3 {
	w := &world3{t: t, l: newChain(t, 3, ""), good: []*fake{newFake(t, "a"), newFake(t, "b")}, bad: newFake(t, "c")}
	w.l.grow(t, 2, "")
	w.l.grow(t, 4, "")
	var cfg QuorumConfig
	cfg, w.wires = world(t, "2", w.good[0], w.good[1], w.bad)
	cfg.Client.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
		if w.broken != nil && req.URL.Host == w.bad.name {
			return nil, w.broken
		}
		return w.wires.RoundTrip(req)
	})
	w.q = mustQuorum(t, cfg)
	t.Cleanup(func() { time.Sleep(time.Minute) }) // until what was left behind has ended
	return w
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func answersOf(status int) func(http.ResponseWriter, *http.Request, *addCheckpoint) bool {
	return func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
		rw.WriteHeader(status)
		return true
	}
}

// A witness whose store was put back says a smaller size than it cosigned before. It cosigns again, and is named.
func TestForgetful(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld3(t)
		w.q.c.All = true
		if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
			t.Fatal(err)
		}
		w.bad.saw(t, w.l.at(t, 3))
		out, err := w.q.Cosign(t.Context(), w.l.at(t, 9), w.l.prove(w.l.at(t, 9)))
		if got := cosignedBy(t, w.q.c.Policy, out); err != nil || len(got) != 3 {
			t.Errorf("cosigned by %v, %v", got, err)
		}
		if s := statusOf(w.q, "c"); s.Faults != 1 || s.Failures != 0 || s.Size != 9 {
			t.Errorf("status %+v", s)
		}
	})
}

// Whoever shows two checkpoints that the log signed shows a fork, and one witness that has the other is enough to see it,
// whatever the others say and whenever it is.
func TestContradiction(t *testing.T) {
	for _, c := range []struct {
		name   string
		theirs func(t *testing.T, ours chain) []byte // what the one witness has cosigned
		why    string
	}{
		{"the same size", func(t *testing.T, _ chain) []byte { return newChain(t, 9, "other").at(t, 9) }, "of the same size"},
		{"a smaller tree", func(t *testing.T, _ chain) []byte { return newChain(t, 7, "other").at(t, 7) }, "does not continue"},
		{"a smaller tree of a power of two", func(t *testing.T, _ chain) []byte { return newChain(t, 8, "other").at(t, 8) }, "does not continue"},
		{"a larger tree", func(t *testing.T, _ chain) []byte { return newChain(t, 12, "other").at(t, 12) }, "with 12 entries"},
		{"our own later tree", func(t *testing.T, l chain) []byte { return l.grow(t, 4, "") }, "with 13 entries"},
	} {
		for _, started := range []bool{false, true} {
			for _, slow := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/started %v/slow %v", c.name, started, slow), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld3(t)
						if started {
							if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
								t.Fatal(err)
							}
							time.Sleep(time.Second)
						}
						signed := w.l.at(t, 9)
						theirs := c.theirs(t, w.l)
						w.bad.saw(t, theirs)
						if slow {
							w.bad.before = func(http.ResponseWriter, *http.Request, *addCheckpoint) bool { time.Sleep(time.Second); return false }
						}
						var err error
						for range 5 { // a witness that is slower than the quorum is heard in a later call
							if _, err = w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
								break
							}
							time.Sleep(5 * time.Second)
						}
						var fork *tlog.ForkError
						if !errors.As(err, &fork) {
							t.Fatalf("no fork was seen: %v; %+v", err, statusOf(w.q, "c"))
						}
						if !bytes.Equal(fork.A, signed) || !bytes.HasPrefix(fork.B, theirs) || !strings.Contains(fork.Reason, c.why) || !strings.Contains(fork.Reason, "witness c:") {
							t.Errorf("%v\n%s\n%s", fork, fork.A, fork.B)
						}
						// Anybody with the log's key can see that both are its word.
						for _, signed := range [][]byte{fork.A, fork.B} {
							if _, err := checkLogSigned(w.q.c.Policy, w.q.c.Origin, signed); err != nil {
								t.Error(err)
							}
						}
					})
				})
			}
		}
	}
}

// The start: what a log that may have forgotten something asks before it signs.
func TestStart(t *testing.T) {
	claims := func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 100); return true }
	var quorum *tlog.QuorumError

	t.Run("a claim holds it until it is taken back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld3(t)
			w.bad.before = claims
			signed := w.l.at(t, 9)
			for range 3 {
				out, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed))
				if !errors.As(err, &quorum) || !strings.Contains(err.Error(), "100 entries") || !slices.Equal(quorum.Signed, []string{"a", "b"}) || !slices.Equal(quorum.Missing, []string{"c"}) {
					t.Fatal(err)
				}
				if got := cosignedBy(t, w.q.c.Policy, out); len(got) != 2 {
					t.Errorf("cosigned by %v", got)
				}
				time.Sleep(10 * time.Second)
			}
			if n := w.good[0].submissions(); n != 1 {
				t.Errorf("who had cosigned was asked %d times", n)
			}
			// It dies: what it said is not forgotten.
			delete(w.wires, "c")
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); !errors.As(err, &quorum) {
				t.Fatal(err)
			}
			w.wires["c"], w.bad.before = w.bad, nil
			time.Sleep(time.Minute)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
				t.Fatal(err)
			}
			// From now on it may lie.
			w.bad.before = claims
			time.Sleep(time.Second)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("no quorum, no start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld3(t)
			delete(w.wires, "a")
			delete(w.wires, "b")
			signed := w.l.at(t, 9)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); !errors.As(err, &quorum) {
				t.Fatal(err)
			}
			w.wires["a"] = w.good[0]
			time.Sleep(2 * time.Second)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("as many as are asked for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld3(t)
			w.q.c.Start = 3
			delete(w.wires, "c")
			signed := w.l.at(t, 9)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); !errors.As(err, &quorum) || !strings.Contains(err.Error(), "2 of the 3 witnesses") {
				t.Fatal(err)
			}
			w.wires["c"] = w.bad
			time.Sleep(time.Minute)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
				t.Fatal(err)
			}
			delete(w.wires, "c") // later two are enough
			time.Sleep(time.Minute)
			if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("nothing was kept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// The log's directory was lost. It offers the empty tree, which says nothing, and learns what it had signed.
			w := newWorld3(t)
			w.good[0].saw(t, w.l.at(t, 9))
			empty := newChain(t, 0, "")
			_, err := w.q.Cosign(t.Context(), empty.at(t, 0), empty.prove(empty.at(t, 0)))
			var fork *tlog.ForkError
			if !errors.As(err, &fork) || !bytes.HasPrefix(fork.B, w.l.at(t, 9)) {
				t.Fatal(err)
			}
		})
	})
	t.Run("an honest first start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld3(t)
			l := newChain(t, 0, "")
			for _, n := range []int{0, 4} {
				signed := l.grow(t, n, "")
				out, err := w.q.Cosign(t.Context(), signed, l.prove(signed))
				if got := cosignedBy(t, w.q.c.Policy, out); err != nil || len(got) != 3 {
					t.Errorf("cosigned by %v, %v", got, err)
				}
			}
		})
	})
}

// A witness is never asked more than once in an interval, however often Cosign is called and whatever it answers, and what it
// then gets is the newest that there is.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld3(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		n := uint64(0)
		w.good[1].before = func(rw http.ResponseWriter, _ *http.Request, req *addCheckpoint) bool {
			if n++; n%3 == 0 {
				conflict(rw, n%7) // confused now and then
				return true
			}
			return false
		}
		for ctx.Err() == nil {
			signed := w.l.grow(t, 1, "")
			begun := time.Now()
			if _, err := w.q.Cosign(ctx, signed, w.l.prove(signed)); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if c := w.bad.has(); ctx.Err() == nil && c.Size != w.l.Size() && c.Size != 0 {
				t.Errorf("after %v it has %d of %d entries", time.Since(begun), c.Size, w.l.Size())
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, f := range append(w.good, w.bad) {
			for i := 1; i < len(f.asked); i++ {
				if d := f.asked[i].Sub(f.asked[i-1]); d < time.Second {
					t.Errorf("%s was asked again after %v", f.name, d)
				}
			}
		}
		if n := w.good[0].submissions(); n < 15 || n > 21 {
			t.Errorf("%d submissions in 20 s", n)
		}
	})
}

// A dead witness is asked less and less, and at once again once it answers; the log does not notice.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld3(t)
		var tries []time.Time
		down := true
		w.bad.before = func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool {
			tries = append(tries, time.Now())
			if down {
				rw.WriteHeader(500)
			}
			return down
		}
		cosign := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				signed := w.l.grow(t, 1, "")
				begun := time.Now()
				if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(begun); d > time.Second {
					t.Fatalf("the log waited for %v", d)
				}
			}
		}
		cosign(5 * time.Minute)
		for i, least := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			if d := tries[i+1].Sub(tries[i]); d < least*time.Second || d > (2*least+2)*time.Second {
				t.Errorf("pause %d is %v", i, d)
			}
		}
		if s := statusOf(w.q, "c"); s.Failures != len(tries) || s.Faults != 0 || !s.Cosigned.IsZero() {
			t.Errorf("status %+v after %d tries", s, len(tries))
		}
		down = false
		cosign(2 * time.Minute)
		if s := statusOf(w.q, "c"); s.Failures != 0 || s.Err != nil || s.Size+1 < w.l.Size() {
			t.Errorf("status %+v after it came back", s)
		}
	})
}

// The waits: for the quorum and a grace, for all, for nobody.
func TestWaits(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*QuorumConfig)
		takes  time.Duration // at most, and more than half of it
		got    []string
	}{
		{"a grace by default", func(*QuorumConfig) {}, 200 * time.Millisecond, []string{"a", "b"}},
		{"a longer grace", func(c *QuorumConfig) { c.Grace = 2 * time.Second }, time.Second, []string{"a", "b", "c"}},
		{"no grace", func(c *QuorumConfig) { c.Grace = -1 }, 0, []string{"a", "b"}},
		{"all", func(c *QuorumConfig) { c.All = true }, time.Second, []string{"a", "b", "c"}},
		{"all, but not for ever", func(c *QuorumConfig) { c.All, c.Wait = true, 500*time.Millisecond }, 500 * time.Millisecond, []string{"a", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld3(t)
				if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				c.change(&w.q.c)
				w.bad.before = func(http.ResponseWriter, *http.Request, *addCheckpoint) bool { time.Sleep(time.Second); return false }
				begun := time.Now()
				out, err := w.q.Cosign(t.Context(), w.l.at(t, 9), w.l.prove(w.l.at(t, 9)))
				if got := cosignedBy(t, w.q.c.Policy, out); err != nil || !slices.Equal(got, c.got) {
					t.Errorf("cosigned by %v, %v", got, err)
				}
				if d := time.Since(begun); d > c.takes || d < c.takes/2 {
					t.Errorf("it took %v", d)
				}
				time.Sleep(2 * time.Second)
				if s := statusOf(w.q, "c"); s.Size != 9 || s.Failures != 0 {
					t.Errorf("what the slow one did is not known: %+v", s)
				}
			})
		})
	}
}

// A cosignature that comes too late is not lost when the same checkpoint is offered again; nobody is asked twice for it.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, slow := newFake(t, "a"), newFake(t, "slow")
		cfg, _ := world(t, "all", a, slow)
		cfg.Wait = time.Second
		q := mustQuorum(t, cfg)
		l := newChain(t, 5, "")
		signed := l.at(t, 5)
		slow.before = func(http.ResponseWriter, *http.Request, *addCheckpoint) bool {
			time.Sleep(3500 * time.Millisecond)
			return false
		}
		var over atomic.Bool
		prove := func(ctx context.Context, old uint64) (tlog.Proof, error) {
			if over.Load() {
				t.Error("prove is called after Cosign returned")
			}
			return l.prove(signed)(ctx, old)
		}
		for _, want := range []string{"a", "a", "a", "a slow"} {
			over.Store(false)
			out, err := q.Cosign(t.Context(), signed, prove)
			over.Store(true)
			if got := strings.Join(cosignedBy(t, cfg.Policy, out), " "); got != want || (err == nil) != (want == "a slow") {
				t.Errorf("cosigned by %s, not %s: %v", got, want, err)
			}
		}
		if a.submissions() != 1 || slow.submissions() != 1 {
			t.Errorf("asked %d and %d times", a.submissions(), slow.submissions())
		}
		// What had enough is cosigned anew: the times of cosignatures are how fresh a checkpoint is.
		time.Sleep(2 * time.Second)
		if _, err := q.Cosign(t.Context(), signed, prove); err == nil || a.submissions() != 2 {
			t.Errorf("asked %d times, %v", a.submissions(), err)
		}
		time.Sleep(10 * time.Second)
	})
}

// What comes when Cosign has returned is looked into, and the log is asked for nothing any more, nor the witness again.
func TestAfterwards(t *testing.T) {
	for name, fault := range map[string]func(w *world3) func(http.ResponseWriter, *http.Request, *addCheckpoint) bool{
		"another size": func(w *world3) func(http.ResponseWriter, *http.Request, *addCheckpoint) bool {
			return func(rw http.ResponseWriter, _ *http.Request, _ *addCheckpoint) bool { conflict(rw, 3); return true }
		},
		"a refusal that needs a proof to be judged": func(w *world3) func(http.ResponseWriter, *http.Request, *addCheckpoint) bool {
			w.bad.monitor = func([]byte) []byte { return w.l.at(w.t, 3) }
			return answersOf(422)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld3(t)
				if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				answer := fault(w)
				w.bad.before = func(rw http.ResponseWriter, r *http.Request, req *addCheckpoint) bool {
					time.Sleep(2 * time.Second)
					return answer(rw, r, req)
				}
				n := w.bad.submissions()
				var over atomic.Bool
				signed := w.l.at(t, 9)
				_, err := w.q.Cosign(t.Context(), signed, func(ctx context.Context, old uint64) (tlog.Proof, error) {
					if over.Load() {
						t.Error("prove was called")
					}
					return w.l.prove(signed)(ctx, old)
				})
				over.Store(true)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if n := w.bad.submissions() - n; n != 1 {
					t.Errorf("it was asked %d times", n)
				}
			})
		})
	}
}

// A witness that is slower than the others can be past a checkpoint when it is asked for it: a later one has been published
// since, and anybody may have brought that to it, or it fetched it itself. However it puts that, it is no fork.
func TestOvertaken(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, *addCheckpoint) bool{
		"and says so":             func(http.ResponseWriter, *http.Request, *addCheckpoint) bool { return false },
		"and refuses the proof":   answersOf(422),
		"and signs the later one": nil, // it has to be made when that is there
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld3(t)
				w.q.c.Grace = -1
				cosign := func(size uint64) {
					t.Helper()
					signed := w.l.at(t, size)
					if _, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed)); err != nil {
						t.Errorf("the checkpoint of size %d: %v", size, err)
					}
					time.Sleep(time.Second)
				}
				cosign(3)
				later := w.l.at(t, 9)
				w.bad.before = func(rw http.ResponseWriter, r *http.Request, req *addCheckpoint) bool {
					w.bad.before = nil
					time.Sleep(2500 * time.Millisecond)
					w.bad.saw(t, later)
					if answer == nil {
						rw.Write(w.bad.sign(string(later[:bytes.Index(later, []byte("\n\n"))+1]), time.Now()))
						return true
					}
					return answer(rw, r, req)
				}
				cosign(5) // c is asked, and takes its time
				cosign(9) // published by the word of the others
				time.Sleep(5 * time.Second)
				if name == "and says so" {
					_, err := w.q.Cosign(t.Context(), w.l.at(t, 5), func(_ context.Context, old uint64) (tlog.Proof, error) {
						return nil, fmt.Errorf("a proof from %d, which no older checkpoint has", old)
					})
					if !errors.As(err, new(*tlog.QuorumError)) || strings.Contains(err.Error(), "a proof from") {
						t.Errorf("an older checkpoint, of witnesses that have the later one: %v", err)
					}
				}
				w.l.grow(t, 3, "")
				cosign(12)
				cosign(12)
				if s := statusOf(w.q, "c"); s.Size != 12 || s.Err != nil || name == "and says so" && s.Faults != 0 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// A fork that is found in the moment in which Cosign returns is not lost: it is the result of that call or of the next.
func TestForkInTheLastMoment(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld3(t)
			if _, err := w.q.Cosign(t.Context(), w.l.at(t, 5), w.l.prove(w.l.at(t, 5))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			w.bad.saw(t, newChain(t, 9, "other").at(t, 9))
			w.bad.before = func(rw http.ResponseWriter, r *http.Request, req *addCheckpoint) bool {
				time.Sleep(w.q.c.Grace)
				return answersOf(422)(rw, r, req)
			}
			signed := w.l.at(t, 9)
			var fork *tlog.ForkError
			_, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed))
			if !errors.As(err, &fork) {
				synctest.Wait()
				_, err = w.q.Cosign(t.Context(), signed, w.l.prove(signed)) // too soon to ask the witness again
			}
			if !errors.As(err, &fork) {
				t.Fatalf("no fork was seen: %v; %+v", err, statusOf(w.q, "c"))
			}
		})
	}
}

// Calls side by side, of checkpoints in any order: an older one finds that its witnesses are past it, and contradicts nobody.
func TestSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld3(t)
		var wg sync.WaitGroup
		for i := range 20 {
			signed := w.l.grow(t, 1, "")
			wg.Go(func() {
				if i%2 == 0 {
					time.Sleep(time.Duration(20-i) * 100 * time.Millisecond)
				}
				_, err := w.q.Cosign(t.Context(), signed, w.l.prove(signed))
				var quorum *tlog.QuorumError
				if err != nil && !errors.As(err, &quorum) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, s := range w.q.Stats() {
			if s.Faults != 0 || s.Failures != 0 {
				t.Errorf("status %+v", s)
			}
		}
	})
}

// What fails in the log is the log's to tell, and no fault of a witness; and a caller that goes is not held.
func TestOwnFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld3(t)
		for _, f := range append(w.good, w.bad) {
			f.saw(t, w.l.at(t, 3))
		}
		signed := w.l.at(t, 9)
		broken := errors.New("the store is broken")
		out, err := w.q.Cosign(t.Context(), signed, func(context.Context, uint64) (tlog.Proof, error) { return nil, broken })
		var quorum *tlog.QuorumError
		if !errors.Is(err, broken) || !errors.As(err, &quorum) || len(out) == 0 {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		for _, f := range append(w.good, w.bad) {
			f.before = func(_ http.ResponseWriter, r *http.Request, _ *addCheckpoint) bool { <-r.Context().Done(); return true }
		}
		begun := time.Now()
		if _, err := w.q.Cosign(ctx, signed, w.l.prove(signed)); !errors.Is(err, context.Canceled) || !errors.As(err, &quorum) || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		for _, s := range w.q.Stats() {
			if s.Faults != 0 {
				t.Errorf("status %+v", s)
			}
		}
		time.Sleep(time.Minute)
	})
}

// What is not the log's own checkpoint is not offered to anybody.
func TestNotOffered(t *testing.T) { synctest.Test(t, testNotOffered) }

func testNotOffered(t *testing.T) {
	w := newWorld3(t)
	signed := w.l.at(t, 9)
	signer, _ := tlogtest.Key("log.example/other")
	foreign, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: "log.example/other", Root: tlog.EmptyRoot()}, signer)
	if err != nil {
		t.Fatal(err)
	}
	ours, _ := tlogtest.Key(tlogtest.Origin)
	extended := []byte(strings.TrimSuffix(string(signed[:bytes.Index(signed, []byte("\n\n"))+1]), "") + "extension\n")
	blob, err := ours.Sign(extended)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing":         nil,
		"unsigned":        signed[:bytes.Index(signed, []byte("\n\n"))+1],
		"changed":         bytes.Replace(signed, []byte("\n9\n"), []byte("\n8\n"), 1),
		"another log's":   foreign,
		"extension lines": appendSignatureLine(append(bytes.Clone(extended), '\n'), ours.Name(), ours.KeyHash(), blob),
	} {
		if out, err := w.q.Cosign(t.Context(), bad, nil); err == nil || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, f := range append(w.good, w.bad) {
		if f.submissions() != 0 {
			t.Error("it was offered")
		}
	}
}

func TestQuorumConfig(t *testing.T) {
	_, vkey := tlogtest.Key(tlogtest.Origin)
	k := cosigners(t, "witness.example/a")[0].VerifierKey()
	policy := func(text string) *tlog.Policy {
		p, err := tlog.ParsePolicy([]byte("log " + vkey + "\n" + text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ok := policy("witness a " + k + " https://witness.example/a/\nquorum a\n")
	for name, c := range map[string]QuorumConfig{
		"no policy":              {Origin: tlogtest.Origin},
		"another log":            {Origin: "log.example/other", Policy: ok},
		"no URL":                 {Origin: tlogtest.Origin, Policy: policy("witness a " + k + "\nquorum a\n")},
		"not HTTP":               {Origin: tlogtest.Origin, Policy: policy("witness a " + k + " ftp://s3cret.example/\nquorum a\n")},
		"a password":             {Origin: tlogtest.Origin, Policy: policy("witness a " + k + " https://a:s3cret@witness.example/\nquorum a\n")},
		"a query":                {Origin: tlogtest.Origin, Policy: policy("witness a " + k + " https://witness.example/?s3cret\nquorum a\n")},
		"no host":                {Origin: tlogtest.Origin, Policy: policy("witness a " + k + " https:s3cret\nquorum a\n")},
		"no URL at all":          {Origin: tlogtest.Origin, Policy: policy("witness a " + k + " https://%s3cret\nquorum a\n")},
		"monitoring of nobody":   {Origin: tlogtest.Origin, Policy: ok, Monitoring: map[string]string{"b": "https://witness.example"}},
		"monitoring by no URL":   {Origin: tlogtest.Origin, Policy: ok, Monitoring: map[string]string{"a": "s3cret"}},
		"more than there are":    {Origin: tlogtest.Origin, Policy: ok, Start: 2},
		"a policy with no logs?": {Origin: "", Policy: ok},
	} {
		if _, err := NewQuorum(c); err == nil {
			t.Errorf("%s is accepted", name)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells what it should not: %v", name, err)
		}
	}
	q := mustQuorum(t, QuorumConfig{Origin: tlogtest.Origin, Policy: ok, Monitoring: map[string]string{"a": "https://elsewhere.example/m/"}})
	if m := q.members[0]; m.submission != "https://witness.example/a" || m.monitoring != "https://elsewhere.example/m" {
		t.Errorf("%+v", m)
	}
}

// A policy that asks for nobody is met by nobody.
func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newChain(t, 5, "")
		signed := l.at(t, 5)
		cfg, _ := world(t, "none")
		if out, err := mustQuorum(t, cfg).Cosign(t.Context(), signed, l.prove(signed)); err != nil || !bytes.Equal(out, signed) {
			t.Errorf("%v\n%s", err, out)
		}
		cfg, _ = world(t, "none", newFake(t, "a"))
		if out, err := mustQuorum(t, cfg).Cosign(t.Context(), signed, l.prove(signed)); err != nil || len(cosignedBy(t, cfg.Policy, out)) != 1 {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// Prefixes may have in their paths what only the log is to know. No error and no line of the log has it.
func TestNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fault := range []func(*fake, wires){
			func(f *fake, w wires) { delete(w, f.name) },
			func(f *fake, w wires) { f.before = answersOf(500) },
			func(f *fake, w wires) { f.before = answersOf(422) },
			func(f *fake, w wires) {
				f.before = func(_ http.ResponseWriter, r *http.Request, _ *addCheckpoint) bool { <-r.Context().Done(); return true }
			},
		} {
			f := newFake(t, "a")
			cfg, w := world(t, "all", f)
			p, err := tlog.ParsePolicy(bytes.ReplaceAll(cfg.Policy.Text(), []byte("http://a/w"), []byte("http://a/s3cret")))
			if err != nil {
				t.Fatal(err)
			}
			var told bytes.Buffer
			cfg.Policy, cfg.Log = p, slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug}))
			fault(f, w)
			l := newChain(t, 5, "")
			q := mustQuorum(t, cfg)
			_, err = q.Cosign(t.Context(), l.at(t, 5), l.prove(l.at(t, 5)))
			time.Sleep(time.Minute)
			synctest.Wait()
			if told.Len() == 0 {
				t.Error("no alarm")
			}
			for _, s := range []string{fmt.Sprint(err), fmt.Sprint(q.Stats()), told.String()} {
				if strings.Contains(s, "s3cret") {
					t.Error(s)
				}
			}
		}
	})
}
