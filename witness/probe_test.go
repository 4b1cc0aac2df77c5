package witness

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

var updateDoc = flag.Bool("update-probe-doc", false, "write PROBE.md from the table")

// probed asks a handler everything, as the log that newWitness knows.
func probed(t testing.TB, h http.Handler, keys []string) ([]ProbeResult, error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	signer, _ := tlogtest.Key(testOrigin)
	return Probe(t.Context(), ProbeConfig{URL: s.URL, Log: signer, Keys: keys})
}

// Our own server conforms in everything, when it has not seen the log, when it has, and with either kind of key alone.
func TestProbeOurs(t *testing.T) {
	for name, keys := range map[string][]*tlog.CosignatureSigner{
		"both": cosigners(t, testWitness), "Ed25519": cosigners(t, testWitness)[:1], "ML-DSA-44": cosigners(t, testWitness)[1:],
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := newWitness(t, Config{Keys: keys})
			may := map[string]Verdict{}
			if name == "Ed25519" {
				may["answer-ml-dsa"] = Deviates // it has no such key
			}
			for round := range 2 {
				results, err := probed(t, w.Handler(), w.VerifierKeys())
				if err != nil {
					t.Fatal(err)
				}
				if len(results) != len(ProbeCases()) {
					t.Errorf("%d of %d cases", len(results), len(ProbeCases()))
				}
				for _, r := range results {
					want := Conforms
					if v, ok := may[r.ID]; ok {
						want = v
					}
					if round == 1 && r.fresh || name == "Ed25519" && strings.HasPrefix(r.ID, "subtree") {
						want = Skipped
					}
					if r.Verdict != want {
						t.Errorf("round %d: %s is %s: %s", round, r.ID, r.Verdict, r.Answered)
					}
				}
			}
		})
	}
}

// Without the witness's keys what it signed is looked at and not verified.
func TestProbeWithoutKeys(t *testing.T) {
	w, _ := newWitness(t, Config{})
	results, err := probed(t, w.Handler(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if want := map[bool]Verdict{true: Skipped, false: Conforms}[r.ID == "answer-verifies"]; r.Verdict != want {
			t.Errorf("%s is %s: %s", r.ID, r.Verdict, r.Answered)
		}
	}
}

// It slows down when it is told to, and finds the same.
func TestProbeSlowsDown(t *testing.T) {
	w, _ := newWitness(t, Config{})
	h := w.Handler()
	n := 0
	slow := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if n++; n == 40 || n == 90 {
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(429)
			return
		}
		h.ServeHTTP(rw, r)
	})
	var mu sync.Mutex
	results, err := probed(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		slow.ServeHTTP(rw, r)
	}), w.VerifierKeys())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Verdict != Conforms {
			t.Errorf("%s is %s: %s", r.ID, r.Verdict, r.Answered)
		}
	}
}

// A reply is what a handler answered, before it goes out.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// A saboteur breaks one rule of a server that keeps them all: before sees the request and may change its body, after the
// answer to it;
// whole may answer by itself.
type saboteur struct {
	w      *Witness
	l      *smallLog
	before func(s *saboteur, r *http.Request, body []byte) []byte
	after  func(s *saboteur, r *http.Request, body []byte, a *reply)
	whole  func(s *saboteur, rw http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex // held while it answers
	shown   []byte
	answers int
}

func (s *saboteur) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole != nil && s.whole(s, rw, r) {
		return
	}
	body := must(io.ReadAll(r.Body))
	sent := body
	if s.before != nil {
		sent = s.before(s, r, body)
	}
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(sent))
	rec := httptest.NewRecorder()
	s.w.Handler().ServeHTTP(rec, again)
	a := &reply{rec.Code, rec.Header(), rec.Body.Bytes()}
	if s.after != nil {
		s.after(s, r, body, a)
	}
	for k, v := range a.header {
		rw.Header()[k] = v
	}
	rw.Header().Del("Content-Length")
	rw.WriteHeader(a.status)
	rw.Write(a.body)
}

func isAdd(r *http.Request) bool     { return r.URL.Path == "/add-checkpoint" }
func isSubtree(r *http.Request) bool { return r.URL.Path == "/sign-subtree" }
func isMonitor(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/checkpoint") }

// onStatus changes answers of one status to add-checkpoint.
func onStatus(status int, change func(s *saboteur, body []byte, a *reply)) func(*saboteur, *http.Request, []byte, *reply) {
	return func(s *saboteur, r *http.Request, body []byte, a *reply) {
		if isAdd(r) && a.status == status {
			change(s, body, a)
		}
	}
}

// mending is a witness that takes what it should not, by making it right first.
func mending(old, new string) func(*saboteur, *http.Request, []byte) []byte {
	re := regexp.MustCompile(old)
	return func(_ *saboteur, r *http.Request, body []byte) []byte {
		if !isAdd(r) {
			return body
		}
		return re.ReplaceAll(body, []byte(new))
	}
}

// size is that of the newest tree that was cosigned.
func (s *saboteur) size() uint64 {
	if now := s.w.logs[testOrigin].shown.Load(); now != nil {
		return now.Size
	}
	return 0
}

// forged cosigns a checkpoint without asking anybody, at time t.
func (s *saboteur) forged(body []byte, t uint64) []byte {
	req, err := parseAddCheckpoint(body)
	if err != nil {
		panic(err)
	}
	var out []byte
	for _, k := range s.w.keys {
		if t != 0 {
			out = appendSignatureLine(out, k.Name(), k.KeyHash(), must(k.SignAt([]byte(req.text), t)))
			continue
		}
		blob := must(k.SignAt([]byte(req.text), 1))
		binary.BigEndian.PutUint64(blob, 0)
		out = appendSignatureLine(out, k.Name(), k.KeyHash(), blob)
	}
	return out
}

// cosigned answers as if it had cosigned.
func (s *saboteur) cosigned(body []byte, a *reply) {
	a.status, a.body = 200, s.forged(body, uint64(time.Now().Unix()))
	a.header.Set("Content-Type", "text/plain; charset=utf-8")
}

// has says whether a request, well-formed or not, contains something.
func has(body []byte, s string) bool { return bytes.Contains(body, []byte(s)) }

// Each of these servers breaks a rule, and exactly the cases that are named find it.
func TestProbeSabotage(t *testing.T) {
	for _, c := range []struct {
		name   string
		s      *saboteur
		finds  string
		config Config
	}{
		{"409 without a line break", &saboteur{after: onStatus(409, func(_ *saboteur, _ []byte, a *reply) { a.body = bytes.TrimSuffix(a.body, []byte("\n")) })}, "conflict-body", Config{}},
		{"409 with words", &saboteur{after: onStatus(409, func(_ *saboteur, _ []byte, a *reply) { a.body = append(a.body, '\n') })}, "conflict-body", Config{}},
		{"409 as plain text", &saboteur{after: onStatus(409, func(_ *saboteur, _ []byte, a *reply) { a.header.Set("Content-Type", "text/plain") })}, "conflict-type", Config{}},
		{"409 with a charset", &saboteur{after: onStatus(409, func(_ *saboteur, _ []byte, a *reply) {
			a.header.Set("Content-Type", "text/x.tlog.size; charset=utf-8")
		})}, "conflict-type", Config{}},
		{"400 where 404 is due", &saboteur{after: onStatus(404, func(_ *saboteur, _ []byte, a *reply) { a.status = 400 })}, "unknown-log order-log-signature", Config{}},
		{"500 where 403 is due", &saboteur{after: onStatus(403, func(_ *saboteur, _ []byte, a *reply) { a.status = 500 })}, "unsigned signature-fails signature-fails-second order-signature-old", Config{}},
		{"400 where 422 is due", &saboteur{after: onStatus(422, func(_ *saboteur, body []byte, a *reply) {
			if !has(body, "old 1\n") { // the question by which a probe begins
				a.status = 400
			}
		})}, "fresh-empty-root fresh-proof proof-none proof-wrong proof-cut proof-long proof-63 fork fork-equal proof-equal", Config{}},
		{"201 for 200", &saboteur{after: onStatus(200, func(s *saboteur, _ []byte, a *reply) {
			if s.answers++; s.answers == 3 {
				a.status = 201
			}
		})}, "grow", Config{}},
		{"leading zeros", &saboteur{before: mending(`^old 0+([1-9])`, "old $1")}, "form-old-zeros", Config{}},
		{"plus signs", &saboteur{before: mending(`^old \+`, "old ")}, "form-old-plus", Config{}},
		{"hexadecimal", &saboteur{before: func(_ *saboteur, _ *http.Request, body []byte) []byte {
			var n uint64
			if _, err := fmt.Sscanf(string(body), "old 0x%x\n", &n); err == nil {
				_, rest, _ := bytes.Cut(body, []byte("\n"))
				return append(fmt.Appendf(nil, "old %d\n", n), rest...)
			}
			return body
		}}, "form-old-hex", Config{}},
		{"spaces", &saboteur{before: mending(`^old +([0-9]+) *\n`, "old $1\n")}, "form-old-spaces form-old-space-behind", Config{}},
		{"CRLF", &saboteur{before: mending(`\r\n`, "\n")}, "form-crlf form-crlf-old form-crlf-proof", Config{}},
		{"base64 without padding", &saboteur{before: mending(`(?m)^([A-Za-z0-9+/]{43})$`, "$1=")}, "form-hash-unpadded", Config{}},
		{"trailing junk", &saboteur{before: mending(`junk\n$`, "")}, "form-junk", Config{}},
		{"no last line break", &saboteur{before: mending(`([^\n])$`, "$1\n")}, "form-cut", Config{}},
		{"another verb than old", &saboteur{before: mending(`^size `, "old ")}, "form-old-word", Config{}},
		{"any method", &saboteur{before: func(_ *saboteur, r *http.Request, body []byte) []byte {
			if isAdd(r) {
				r.Method = "POST"
			}
			return body
		}}, "form-get", Config{}},
		{"64 lines of proof", &saboteur{after: onStatus(400, func(_ *saboteur, body []byte, a *reply) {
			if bytes.Count(body, []byte(tlog.Hash{}.String())) == 64 {
				a.status = 422
			}
		})}, "form-proof-64", Config{}},
		{"a limit of 10 KiB", &saboteur{whole: func(_ *saboteur, rw http.ResponseWriter, r *http.Request) bool {
			if r.ContentLength > 10<<10 {
				rw.WriteHeader(400)
				return true
			}
			return false
		}}, "signatures-16-large", Config{}},
		{"no limit at all", &saboteur{after: onStatus(413, func(_ *saboteur, _ []byte, a *reply) { a.status = 200 })}, "form-large", Config{}},
		{"no extension lines", &saboteur{whole: func(_ *saboteur, rw http.ResponseWriter, r *http.Request) bool {
			body := must(io.ReadAll(r.Body))
			r.Body = io.NopCloser(bytes.NewReader(body))
			if has(body, "\nan extension\n") {
				rw.WriteHeader(400)
				return true
			}
			return false
		}}, "extension-lines", Config{}},
		{"extension lines not cosigned", &saboteur{after: func(s *saboteur, r *http.Request, body []byte, a *reply) {
			if isAdd(r) && a.status == 200 && has(body, "\nan extension\n") {
				a.body = s.forged(bytes.Replace(body, []byte("an extension\n"), nil, 1), uint64(time.Now().Unix()))
			}
		}}, "extension-lines", Config{}},
		{"a second signature is not looked at", &saboteur{before: func(s *saboteur, r *http.Request, body []byte) []byte {
			i := bytes.Index(body, []byte("\n— "+testOrigin))
			if j := bytes.LastIndex(body, []byte("\n— "+testOrigin)); isAdd(r) && i > 0 && j > i && !has(body, "— probe.invalid/") {
				return body[:j+1]
			}
			return body
		}}, "signature-fails-second", Config{}},
		{"unknown signatures are wrong", &saboteur{whole: func(_ *saboteur, rw http.ResponseWriter, r *http.Request) bool {
			body := must(io.ReadAll(r.Body))
			r.Body = io.NopCloser(bytes.NewReader(body))
			if isAdd(r) && has(body, "— probe.invalid/somebody") && has(body, "\n— "+testOrigin) {
				rw.WriteHeader(403)
				return true
			}
			return false
		}}, "unknown-signatures", Config{}},
		{"a replay is cosigned", &saboteur{after: func(s *saboteur, r *http.Request, body []byte, a *reply) {
			if isAdd(r) && bytes.Equal(body, s.shown) && a.status == 409 {
				s.cosigned(body, a)
			} else if a.status == 200 {
				s.shown = body
			}
		}}, "replay", Config{}},
		{"two win a race", &saboteur{after: onStatus(409, func(s *saboteur, body []byte, a *reply) {
			req := must(parseAddCheckpoint(body))
			c, _ := tlog.UnverifiedCheckpoint(req.signed)
			if req.old > 300 && c.Size != s.size() && len(req.proof) > 0 {
				s.cosigned(body, a)
			}
		})}, "race", Config{}},
		{"a larger tree is taken without a proof", &saboteur{before: func(s *saboteur, r *http.Request, body []byte) []byte {
			req, err := parseAddCheckpoint(body)
			if err != nil || !isAdd(r) || len(req.proof) > 0 || req.old == 0 {
				return body
			}
			if c, err := tlog.UnverifiedCheckpoint(req.signed); err == nil && c.Size > req.old && c == s.l.at(c.Size) && req.old == s.size() {
				req.proof = s.l.prove(req.old, c.Size)
				return req.append(nil)
			}
			return body
		}}, "proof-none", Config{}},
		{"a fork is cosigned", &saboteur{after: onStatus(422, func(s *saboteur, body []byte, a *reply) {
			if c, err := tlog.UnverifiedCheckpoint(must(parseAddCheckpoint(body)).signed); err == nil && c == s.l.fork(c.Size) {
				s.cosigned(body, a)
			}
		})}, "fork fork-equal", Config{}},
		{"no timestamp", &saboteur{after: onStatus(200, func(s *saboteur, body []byte, a *reply) { a.body = s.forged(body, 0) })},
			"extension-lines answer-time-zero answer-time-now answer-verifies monitor-cosignatures", Config{}},
		{"a clock a day behind", &saboteur{after: onStatus(200, func(s *saboteur, body []byte, a *reply) {
			a.body = s.forged(body, uint64(time.Now().Unix())-86400)
		})}, "answer-time-now monitor-cosignatures", Config{}},
		{"a clock that goes back", &saboteur{after: onStatus(200, func(s *saboteur, body []byte, a *reply) {
			s.answers++
			a.body = s.forged(body, uint64(time.Now().Unix())-uint64(s.answers))
		})}, "time-order monitor-cosignatures", Config{}},
		{"another key signs", &saboteur{after: onStatus(200, func(s *saboteur, body []byte, a *reply) {
			lines, _ := cosignatureLines(string(a.body))
			a.body = nil
			for _, l := range lines {
				l.blob[len(l.blob)-1] ^= 1
				a.body = appendSignatureLine(a.body, l.name, l.id, l.blob)
			}
		})}, "extension-lines answer-verifies monitor-cosignatures", Config{}},
		{"one key of two signs", &saboteur{after: onStatus(200, func(s *saboteur, _ []byte, a *reply) {
			_, a.body, _ = bytes.Cut(a.body, []byte("\n"))
		})}, "extension-lines answer-verifies", Config{}},
		{"an answer with words", &saboteur{after: onStatus(200, func(_ *saboteur, _ []byte, a *reply) { a.body = append([]byte("thanks\n"), a.body...) })},
			"answer-lines answer-cosignature answer-time-zero answer-time-now answer-verifies answer-ml-dsa extension-lines monitor-cosignatures", Config{}},
		{"no ML-DSA key", &saboteur{}, "answer-ml-dsa", Config{Keys: cosigners(t, testWitness)[:1]}},
		{"no monitoring", &saboteur{after: func(_ *saboteur, r *http.Request, _ []byte, a *reply) {
			if isMonitor(r) {
				a.status, a.body = 404, nil
			}
		}}, "monitor", Config{}},
		{"monitoring shows all an empty answer", &saboteur{after: func(_ *saboteur, r *http.Request, _ []byte, a *reply) {
			if isMonitor(r) && a.status == 404 {
				a.status, a.body = 200, nil
			}
		}}, "fresh-monitor monitor-unknown", Config{}},
		{"monitoring without the log's signature", &saboteur{after: func(_ *saboteur, r *http.Request, _ []byte, a *reply) {
			if isMonitor(r) && a.status == 200 {
				a.body = regexp.MustCompile(`(?m)^— log\.example/probe .*\n`).ReplaceAll(a.body, nil)
			}
		}}, "monitor-log-signature", Config{}},
		{"monitoring without the witness's signature", &saboteur{after: func(_ *saboteur, r *http.Request, _ []byte, a *reply) {
			if isMonitor(r) && a.status == 200 {
				a.body = regexp.MustCompile(`(?m)^— witness\.example/w1 .*\n`).ReplaceAll(a.body, nil)
			}
		}}, "monitor-cosignatures", Config{}},
		{"monitoring is late", &saboteur{after: func(s *saboteur, r *http.Request, _ []byte, a *reply) {
			if isMonitor(r) && a.status == 200 {
				if s.shown == nil {
					s.shown = a.body
				}
				a.body = s.shown
			}
		}}, "", Config{}},
		{"connections are closed", &saboteur{whole: func(_ *saboteur, rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Connection", "close")
			return false
		}}, "keep-alive", Config{}},
		{"subtrees with a time", &saboteur{after: func(s *saboteur, r *http.Request, _ []byte, a *reply) {
			if isSubtree(r) && a.status == 200 {
				sig := must(base64Of(string(a.body)))
				binary.BigEndian.PutUint64(sig[4:], uint64(time.Now().Unix()))
				a.body = appendSignatureLine(nil, testWitness, binary.BigEndian.Uint32(sig), sig[4:])
			}
		}}, "subtree-signature", Config{}},
		{"subtrees of anything", &saboteur{after: func(s *saboteur, r *http.Request, _ []byte, a *reply) {
			if isSubtree(r) && a.status == 422 {
				a.status = 200
			}
		}}, "subtree-proof", Config{}},
		{"subtrees for anybody", &saboteur{after: func(s *saboteur, r *http.Request, _ []byte, a *reply) {
			if isSubtree(r) && a.status == 403 {
				a.status = 200
			}
		}}, "subtree-not-cosigned subtree-cosigned-other", Config{}},
		{"no subtrees", &saboteur{whole: func(_ *saboteur, rw http.ResponseWriter, r *http.Request) bool {
			if isSubtree(r) {
				rw.WriteHeader(404)
			}
			return isSubtree(r)
		}}, "", Config{}},
		{"old over size is a conflict", &saboteur{after: onStatus(400, func(s *saboteur, body []byte, a *reply) {
			if req, err := parseAddCheckpoint(body); err == nil {
				if c, err := tlog.UnverifiedCheckpoint(req.signed); err == nil && req.old > c.Size {
					a.status, a.body = 409, fmt.Appendf(nil, "%d\n", s.size())
				}
			}
		})}, "old-over-size order-old-conflict", Config{}},
		{"the empty tree is nothing", &saboteur{after: onStatus(200, func(_ *saboteur, body []byte, a *reply) {
			if has(body, "\n0\n") {
				a.status = 400
			}
		})}, "fresh-size-zero", Config{}},
		{"it trusts at first use", &saboteur{before: func(s *saboteur, r *http.Request, body []byte) []byte {
			if s.answers++; s.answers == 1 && isAdd(r) {
				return bytes.Replace(body, []byte("old 1\n"), []byte("old 0\n"), 1)
			}
			return body
		}}, "begin", Config{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.State = new(memory)
			c.s.w, c.s.l = newWitness(t, c.config)
			results, err := probed(t, c.s, c.s.w.VerifierKeys())
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, r := range results {
				if r.Verdict == Deviates {
					found = append(found, r.ID)
				}
			}
			want := strings.Fields(c.finds)
			slices.Sort(found)
			slices.Sort(want)
			if !slices.Equal(found, want) {
				t.Errorf("found %q\nwant  %q", found, want)
				for _, r := range results {
					if r.Verdict == Deviates && !slices.Contains(want, r.ID) {
						t.Logf("%s: %s", r.ID, r.Answered)
					}
				}
			}
		})
	}
}

// A witness that cannot be probed is an error, and says what to do.
func TestProbeErrors(t *testing.T) {
	signer, vkey := tlogtest.Key(testOrigin)
	other, _ := note.NewSigner("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
	w, l := newWitness(t, Config{})
	foreign, _ := newWitness(t, Config{})
	r := addCheckpoint{signed: l.sign(l.fork(7))}
	submits(t, foreign, r.append(nil), 200)
	huge, _ := newWitness(t, Config{})
	r = addCheckpoint{signed: l.sign(tlog.Checkpoint{Origin: l.origin, Size: 1 << 40, Root: tlog.Hash{1}})}
	submits(t, huge, r.append(nil), 200)
	refusing := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(418) })
	for _, c := range []struct {
		name string
		h    http.Handler
		c    ProbeConfig
		err  string
	}{
		{"unknown log", w.Handler(), ProbeConfig{Log: other}, "give its operator the log's verifier key"},
		{"no witness", http.NotFoundHandler(), ProbeConfig{Log: signer}, "or there is no witness at"},
		{"another tree", foreign.Handler(), ProbeConfig{Log: signer}, "knows another tree of the log"},
		{"a large tree", huge.Handler(), ProbeConfig{Log: signer}, "make a new key"},
		{"a teapot", refusing, ProbeConfig{Log: signer}, "answered 418"},
		{"no key", w.Handler(), ProbeConfig{}, "no key of a log"},
		{"a log's key for a witness's", w.Handler(), ProbeConfig{Log: signer, Keys: []string{vkey}}, "a witness has one of type"},
	} {
		s := httptest.NewServer(c.h)
		c.c.URL = s.URL
		if _, err := Probe(t.Context(), c.c); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		s.Close()
	}
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	if _, err := Probe(t.Context(), ProbeConfig{URL: s.URL, Log: signer}); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := Probe(t.Context(), ProbeConfig{URL: "localhost:1", Log: signer}); err == nil {
		t.Error("no address: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Probe(ctx, ProbeConfig{URL: s.URL, Log: signer}); err == nil {
		t.Error("cancelled: no error")
	}
}

// The table that people read is the table that is asked.
func TestProbeDocument(t *testing.T) {
	const path = "PROBE.md"
	doc, err := os.ReadFile(path)
	if err != nil && !*updateDoc {
		t.Fatal(err)
	}
	const mark = "| case | level |"
	head, _, _ := strings.Cut(string(doc), mark)
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(mark + " asks | the specification says | wanted |\n|---|---|---|---|---|\n")
	ids := make(map[string]bool)
	for _, c := range ProbeCases() {
		if ids[c.ID] || c.Asks == "" || c.Says == "" || c.Wants == "" {
			t.Errorf("case %q stands twice or says too little", c.ID)
		}
		ids[c.ID] = true
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", c.ID, c.Level, c.Asks, c.Says, c.Wants)
	}
	if *updateDoc {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if b.String() != string(doc) {
		t.Error("PROBE.md is not the table of today: go test ./witness -run TestProbeDocument -update-probe-doc")
	}
}
