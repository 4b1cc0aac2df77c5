package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

const (
	testWitness = "witness.example/w1"
	testOrigin  = "log.example/probe"
)

func seedOf(name string) []byte {
	s := sha256.Sum256([]byte(name))
	return s[:]
}

func edKey(name string) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seedOf(name)) }

// cosigners are an Ed25519 and an ML-DSA-44 key of one name.
func cosigners(t testing.TB, name string) []*tlog.CosignatureSigner {
	t.Helper()
	return []*tlog.CosignatureSigner{
		must(tlog.NewCosigner(name, edKey(name))),
		must(tlog.NewMLDSACosigner(name, seedOf("ML-DSA "+name))),
	}
}

// newSmallLog returns a log with an Ed25519 key, and its line for a list.
func newSmallLog(origin string) (*smallLog, string) {
	signer, vkey := tlogtest.Key(origin)
	return &smallLog{origin: origin, signers: []note.Signer{signer}}, "log " + vkey + "\n"
}

func logList(t testing.TB, lines ...string) *LogList {
	t.Helper()
	l, err := ParseLogList([]byte(strings.Join(lines, "") + "quorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// memory is a State in memory.
type memory struct {
	tlogtest.Latest
	mu      sync.Mutex
	origins []string
	lost    error  // what Origins answers
	leave   func() // called before a Swap begins; nil for nothing
}

func (m *memory) Swap(ctx context.Context, origin string, old, new []byte) error {
	if m.leave != nil {
		m.leave()
	}
	err := m.Latest.Swap(ctx, origin, old, new)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.origins, origin) {
		m.origins = append(m.origins, origin)
	}
	return err
}

func (m *memory) Origins(context.Context) ([]string, []error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.origins), nil, m.lost
}

// noLimits is for tests that ask more often than a log does.
var noLimits = Limits{Overall: -1, Log: -1}

// newWitness returns a witness of one log, with both kinds of key and a state in memory unless the config says otherwise.
func newWitness(t testing.TB, c Config) (*Witness, *smallLog) {
	t.Helper()
	l, line := newSmallLog(testOrigin)
	if c.Keys == nil {
		c.Keys = cosigners(t, testWitness)
	}
	if c.Logs == nil {
		c.Logs = logList(t, line)
	}
	if c.State == nil {
		c.State = new(memory)
	}
	if c.Limits == (Limits{}) {
		c.Limits = noLimits
	}
	w, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return w, l
}

func request(h http.Handler, method, path string, body []byte) *http.Response {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, path, bytes.NewReader(body)))
	return rec.Result()
}

func submit(w *Witness, body []byte) (int, string) {
	r := request(w.Handler(), "POST", "/add-checkpoint", body)
	return r.StatusCode, string(must(io.ReadAll(r.Body)))
}

// submits wants one status, and returns the body.
func submits(t testing.TB, w *Witness, body []byte, status int) string {
	t.Helper()
	got, answer := submit(w, body)
	if got != status {
		t.Fatalf("status %d and %q, want %d", got, answer, status)
	}
	return answer
}

// wantCosigned verifies the lines of an answer over a checkpoint, one for each key, and returns the times they state.
func wantCosigned(t testing.TB, signed []byte, lines string, vkeys ...string) []uint64 {
	t.Helper()
	var verifiers []note.Verifier
	for _, k := range vkeys {
		verifiers = append(verifiers, must(tlog.NewCosignatureVerifier(k)))
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	n, err := note.Open([]byte(text+"\n\n"+lines), note.VerifierList(verifiers...))
	if err != nil {
		t.Fatalf("%v: %q", err, lines)
	}
	if len(n.Sigs) != len(vkeys) || len(n.UnverifiedSigs) > 0 {
		t.Fatalf("%d signatures verify and %d are others', want %d", len(n.Sigs), len(n.UnverifiedSigs), len(vkeys))
	}
	var times []uint64
	for _, s := range n.Sigs {
		times = append(times, signatureTime(s))
	}
	return times
}

// A log grows and is cosigned; what is cosigned is shown; a witness that starts again goes on where it was.
func TestStory(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir)
	w, l := newWitness(t, Config{State: store})
	monitorPath := "/" + originSum(l.origin) + "/checkpoint"
	if r := request(w.Handler(), "GET", monitorPath, nil); r.StatusCode != 404 {
		t.Fatalf("before the first: %d", r.StatusCode)
	}
	if got := submits(t, w, l.body(3, 5), 409); got != "0\n" {
		t.Fatalf("a log never cosigned has size %q", got)
	}
	sizes := []uint64{0, 0, 1, 1, 2, 5, 5, 256, 300, 700}
	old := uint64(0)
	for i, size := range sizes {
		before := uint64(time.Now().Unix())
		lines := submits(t, w, l.body(old, size), 200)
		for _, at := range wantCosigned(t, l.sign(l.at(size)), lines, w.VerifierKeys()...) {
			if at < before || at > uint64(time.Now().Unix()) {
				t.Errorf("step %d: the time %d is not now", i, at)
			}
		}
		shown := request(w.Handler(), "GET", monitorPath, nil)
		b := must(io.ReadAll(shown.Body))
		if shown.StatusCode != 200 || shown.Header.Get("Content-Type") != "text/plain; charset=utf-8" || shown.Header.Get("Cache-Control") == "" {
			t.Fatalf("step %d: %d %v", i, shown.StatusCode, shown.Header)
		}
		logKey := must(tlog.NewLogVerifier(strings.Fields(string(logKeyLine(l)))[1]))
		if c, _, err := tlog.OpenCheckpoint(b, logKey); err != nil || c != l.at(size) {
			t.Fatalf("step %d: shown is %v, %v", i, c, err)
		}
		if !strings.HasSuffix(string(b), lines) {
			t.Fatalf("step %d: shown is not what was answered", i)
		}
		old = size
		if i%3 == 2 { // another process takes over
			store.Close()
			store = openStore(t, dir)
			w, _ = newWitness(t, Config{State: store})
		}
	}
	for _, size := range []uint64{0, 1, 699, 701} {
		if got := submits(t, w, l.body(size, 701), 409); got != "700\n" {
			t.Errorf("from %d: %q", size, got)
		}
	}
	remembered := must(ReadStore(dir))
	if len(remembered) != 1 || remembered[0].Checkpoint != l.at(700) || remembered[0].Err != nil || remembered[0].Time == 0 ||
		!slices.Equal(remembered[0].Cosigners, []string{testWitness, testWitness}) {
		t.Errorf("%+v", remembered)
	}
}

func logKeyLine(l *smallLog) []byte {
	_, line := newSmallLog(l.origin)
	return []byte(line)
}

// A fault is one thing wrong with a submission. They stand in the order in which a witness must find them.
type fault struct {
	name   string
	status int
	wreak  func(*submission)
}

// A submission is a request before it is written down.
type submission struct {
	addCheckpoint
	log         *smallLog
	c           tlog.Checkpoint
	spoilParse  bool
	spoilSigned bool
}

var faultsInOrder = []fault{
	{"malformed", 400, func(s *submission) { s.spoilParse = true }},
	{"unknown log", 404, func(s *submission) {
		s.log, _ = newSmallLog("unknown.example/log")
		s.c.Origin = s.log.origin
	}},
	{"signature fails", 403, func(s *submission) { s.spoilSigned = true }},
	{"old over size", 400, func(s *submission) { s.old = s.c.Size + 1 }},
	{"old is not stored", 409, func(s *submission) {
		if s.old <= s.c.Size { // or else it is over it already
			s.old = s.c.Size
			s.proof = nil
		}
	}},
	{"inconsistent", 422, func(s *submission) { s.proof = append(s.proof, tlog.Hash{1}) }},
}

func (s *submission) body() []byte {
	signed := s.log.sign(s.c)
	if s.spoilSigned {
		i := bytes.LastIndexByte(signed, '=')
		signed = bytes.Clone(signed)
		signed[i-10] ^= 1 // in the middle of the signature: 'A' and '@' apart, still base64
		if _, err := tlog.UnverifiedCheckpoint(signed); err != nil {
			signed[i-10] ^= 3
		}
	}
	r := s.addCheckpoint
	r.signed = signed
	b := r.append(nil)
	if s.spoilParse {
		b = bytes.Replace(b, []byte("old "), []byte("old +"), 1)
	}
	return b
}

// Of two things wrong the first in the order of the specification is answered, and nothing is stored.
func TestOrderOfChecks(t *testing.T) {
	for i, a := range faultsInOrder {
		for _, b := range faultsInOrder[i:] {
			t.Run(a.name+"+"+b.name, func(t *testing.T) {
				w, l := newWitness(t, Config{})
				submits(t, w, l.body(0, 4), 200)
				s := submission{addCheckpoint: addCheckpoint{old: 4, proof: l.prove(4, 9)}, log: l, c: l.at(9)}
				a.wreak(&s)
				if a.name != b.name {
					b.wreak(&s)
				}
				if got, answer := submit(w, s.body()); got != a.status {
					t.Errorf("status %d and %q, want %d", got, answer, a.status)
				}
				submits(t, w, l.body(4, 9), 200)
			})
		}
	}
}

// Cases of one fault each, that the pairs above do not have.
func TestAddCheckpointRefuses(t *testing.T) {
	other, _ := newSmallLog("other.example/log")
	l, _ := newSmallLog(testOrigin)
	req := func(old uint64, p tlog.Proof, signed []byte) []byte {
		r := addCheckpoint{old: old, proof: p, signed: signed}
		return r.append(nil)
	}
	empty := func(root tlog.Hash) []byte { return l.sign(tlog.Checkpoint{Origin: l.origin, Root: root}) }
	unsigned := func(signed []byte, by string) []byte {
		return bytes.ReplaceAll(signed, []byte("— "+l.origin), []byte("— "+by))
	}
	twice := func(signed []byte) []byte { // a good signature before a bad one of the same key
		line := signed[bytes.LastIndex(signed, []byte("— ")):]
		bad := bytes.Clone(line)
		copy(bad[len(bad)-20:], "AAAA")
		return append(bytes.Clone(signed), bad...)
	}
	for _, c := range []struct {
		name   string
		stored uint64
		body   []byte
		status int
		answer string
	}{
		{"old 0 to learn the size", 4, req(0, nil, l.sign(l.at(9))), 409, "4\n"},
		{"smaller than stored, as it is", 4, req(4, nil, l.sign(l.at(3))), 400, ""},
		{"smaller than stored, from itself", 4, req(3, nil, l.sign(l.at(3))), 409, "4\n"},
		{"size 0 over size 4", 4, req(0, nil, empty(tlog.EmptyRoot())), 409, "4\n"},
		{"empty, another root", 0, req(0, nil, empty(tlog.Hash{1})), 422, ""},
		{"empty, another root, and a proof", 0, req(0, tlog.Proof{{}}, empty(tlog.Hash{1})), 422, ""},
		{"empty, another root, but 4 is stored", 4, req(0, nil, empty(tlog.Hash{1})), 409, "4\n"},
		{"empty, another root, old 1", 0, req(1, nil, empty(tlog.Hash{1})), 400, ""},
		{"empty, another root, unsigned", 0, req(0, nil, unsigned(empty(tlog.Hash{1}), "somebody")), 403, ""},
		{"empty, another root, of an unknown log", 0, req(0, nil, other.sign(tlog.Checkpoint{Origin: other.origin, Root: tlog.Hash{1}})), 404, ""},
		{"empty, right, with a proof", 0, req(0, tlog.Proof{{}}, empty(tlog.EmptyRoot())), 422, ""},
		{"from nothing, with a proof", 0, req(0, tlog.Proof{{}}, l.sign(l.at(4))), 422, ""},
		{"equal sizes, with a proof", 4, req(4, tlog.Proof{{}}, l.sign(l.at(4))), 422, ""},
		{"equal sizes, another root", 4, req(4, nil, l.sign(l.fork(4))), 422, ""},
		{"another tree", 4, req(4, l.prove(4, 9), l.sign(l.fork(9))), 422, ""},
		{"no proof", 4, req(4, nil, l.sign(l.at(9))), 422, ""},
		{"proof cut short", 4, req(4, l.prove(4, 9)[:1], l.sign(l.at(9))), 422, ""},
		{"proof from elsewhere", 4, req(4, l.prove(3, 9), l.sign(l.at(9))), 422, ""},
		{"63 lines of proof", 4, req(4, make(tlog.Proof, 63), l.sign(l.at(9))), 422, ""},
		{"64 lines of proof", 4, req(4, make(tlog.Proof, 64), l.sign(l.at(9))), 400, ""},
		{"signed by nobody known", 4, req(4, l.prove(4, 9), unsigned(l.sign(l.at(9)), "somebody")), 403, ""},
		{"signed twice, once badly", 4, req(4, l.prove(4, 9), twice(l.sign(l.at(9)))), 403, ""},
		{"signed by the witness alone", 0, nil, 403, ""},
		{"an origin that is none of ours", 0, req(0, nil, bytes.ReplaceAll(l.sign(l.at(4)), []byte(l.origin+"\n"), []byte("rekor.example - 42\n"))), 404, ""},
		{"too large", 0, make([]byte, MaxRequest+1), 413, ""},
		{"nothing", 0, nil, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, l := newWitness(t, Config{})
			if c.stored > 0 {
				submits(t, w, l.body(0, c.stored), 200)
			}
			if c.name == "signed by the witness alone" {
				lines := submits(t, w, l.body(0, 0), 200)
				c.body = req(0, nil, []byte(string(l.at(0).Text())+"\n"+lines))
			}
			answer := submits(t, w, c.body, c.status)
			if c.answer != "" && answer != c.answer {
				t.Errorf("%q, want %q", answer, c.answer)
			}
			if strings.Contains(answer, "— ") {
				t.Errorf("a refusal has a signature: %q", answer)
			}
			submits(t, w, l.body(c.stored, c.stored+5), 200)
		})
	}
}

// What is no checkpoint of the specification's making, and what is for all its oddity.
func TestAddCheckpointForms(t *testing.T) {
	l, _ := newSmallLog(testOrigin)
	good := string(l.body(4, 9))
	signed := string(l.sign(l.at(9)))
	var many strings.Builder // fifteen signatures as large as they come, by others
	for i := range 15 {
		many.Write(appendSignatureLine(nil, fmt.Sprintf("other.example/%d", i), uint32(i), make([]byte, 2428)))
	}
	repl := func(old, new string) string {
		out := strings.Replace(good, old, new, 1)
		if out == good {
			t.Fatalf("%q is not in the body", old)
		}
		return out
	}
	proof := l.prove(4, 9)[0].String()
	for _, c := range []struct {
		name, body string
		status     int
	}{
		{"as it is", good, 200},
		{"16 signatures", good + many.String(), 200},
		{"unknown key of the log's name", good + string(appendSignatureLine(nil, l.origin, 7, make([]byte, 64))), 200},
		{"extension lines", strings.Replace(good, signed, string(l.sign(l.at(9), "an extension", "and another")), 1), 200},
		{"leading zero", repl("old 4", "old 04"), 400},
		{"many leading zeros", repl("old 4", "old 0004"), 400},
		{"plus sign", repl("old 4", "old +4"), 400},
		{"minus zero", repl("old 4", "old -0"), 400},
		{"no number", repl("old 4", "old "), 400},
		{"hexadecimal", repl("old 4", "old 0x4"), 400},
		{"underscore", repl("old 4", "old 4_0"), 400},
		{"two spaces", repl("old 4", "old  4"), 400},
		{"a tab", repl("old 4", "old\t4"), 400},
		{"space behind", repl("old 4", "old 4 "), 400},
		{"OLD", repl("old 4", "OLD 4"), 400},
		{"over 2^64", repl("old 4", "old 18446744073709551620"), 400},
		{"over the size", repl("old 4", "old 18446744073709551615"), 400},
		{"byte order mark", "\ufeff" + good, 400},
		{"an empty line before", "\n" + good, 400},
		{"CRLF everywhere", strings.ReplaceAll(good, "\n", "\r\n"), 400},
		{"CRLF in the first line", repl("old 4\n", "old 4\r\n"), 400},
		{"CRLF in the proof", repl(proof+"\n", proof+"\r\n"), 400},
		{"CRLF in the origin", repl(l.origin+"\n", l.origin+"\r\n"), 400},
		{"CRLF in the empty line", repl("\n\n", "\n\r\n"), 400},
		{"base64 without padding", repl(proof, strings.TrimRight(proof, "=")), 400},
		{"base64 with loose bits", repl(proof, loosen(proof)), 400},
		{"base64url", repl(proof, strings.NewReplacer("+", "-", "/", "_").Replace(strings.Repeat("+", 43)+"=")), 400},
		{"a short hash", repl(proof, proof[4:]), 400},
		{"hexadecimal hash", repl(proof, fmt.Sprintf("%x", make([]byte, 32))), 400},
		{"space before a hash", repl(proof, " "+proof), 400},
		{"no empty line before the checkpoint", repl("\n\n"+l.origin, "\n"+l.origin), 400},
		{"two empty lines", repl("\n\n"+l.origin, "\n\n\n"+l.origin), 400},
		{"cut off within the first line", "old 4", 400},
		{"cut off after the first line", "old 4\n", 400},
		{"cut off before the checkpoint", good[:strings.Index(good, l.origin)], 400},
		{"cut off in the signature", good[:len(good)-10], 400},
		{"no last line break", good[:len(good)-1], 400},
		{"trailing junk", good + "junk\n", 400},
		{"trailing empty line", good + "\n", 400},
		{"trailing zero byte", good + "\x00", 400},
		{"size with leading zero", repl("\n9\n", "\n09\n"), 400},
		{"size over 2^63", repl("\n9\n", "\n9223372036854775808\n"), 400},
		{"no size", repl("\n9\n", "\n\n"), 400},
		{"root with loose bits", repl(l.at(9).Root.String(), loosen(l.at(9).Root.String())), 400},
		{"no signatures", good[:strings.Index(good, "— ")], 400},
		{"hyphen for a dash", repl("— ", "- "), 400},
		{"not UTF-8", repl(l.origin+"\n", l.origin+"\xff\n"), 400},
		{"no origin", repl(l.origin+"\n9", "\n9"), 400},
		{"an origin too long", repl(l.origin+"\n9", strings.Repeat("x", 256)+"\n9"), 400},
		{"a long text", strings.Replace(good, signed, string(l.sign(l.at(9), strings.Repeat("x", maxText))), 1), 400},
		{"JSON", `{"old": 4}`, 400},
		{"multipart", "--b\r\nContent-Disposition: form-data\r\n\r\n" + good + "\r\n--b--\r\n", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, l := newWitness(t, Config{})
			submits(t, w, l.body(0, 4), 200)
			submits(t, w, []byte(c.body), c.status)
		})
	}
}

// loosen sets a bit of base64 that no byte has.
func loosen(b64 string) string {
	b := []byte(b64)
	i := len(b) - 2
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b[i] = alphabet[strings.IndexByte(alphabet, b[i])|1]
	return string(b)
}

func TestMethodsAndPaths(t *testing.T) {
	w, l := newWitness(t, Config{})
	submits(t, w, l.body(0, 4), 200)
	sum := originSum(l.origin)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/add-checkpoint", 405, "POST"},
		{"PUT", "/add-checkpoint", 405, "POST"},
		{"HEAD", "/add-checkpoint", 405, "POST"},
		{"GET", "/sign-subtree", 405, "POST"},
		{"POST", "/" + sum + "/checkpoint", 405, "GET, HEAD"},
		{"GET", "/" + sum + "/checkpoint", 200, ""},
		{"HEAD", "/" + sum + "/checkpoint", 200, ""},
		{"GET", "/" + strings.ToUpper(sum) + "/checkpoint", 404, ""},
		{"GET", "/" + originSum("nobody") + "/checkpoint", 404, ""},
		{"GET", "/" + sum + "/checkpoint/", 404, ""},
		{"GET", "/" + sum, 404, ""},
		{"GET", "/", 404, ""},
		{"POST", "/add-checkpoint/", 404, ""},
		{"POST", "/add-entries", 404, ""},
		// Each address has one spelling, and nobody is sent from another to it.
		{"GET", "/" + sum + "/checkpoint?x", 200, ""},
		{"GET", "//" + sum + "/checkpoint", 404, ""},
		{"GET", "/" + sum + "//checkpoint", 404, ""},
		{"GET", "/./" + sum + "/checkpoint", 404, ""},
		{"GET", "/x/../" + sum + "/checkpoint", 404, ""},
		{"GET", "/x/" + sum + "/checkpoint", 404, ""},
		{"GET", fmt.Sprintf("/%%%x%s/checkpoint", sum[0], sum[1:]), 404, ""},
		{"GET", "/" + sum + "%2fcheckpoint", 404, ""},
		{"GET", "/" + sum + "/checkpoint%20", 404, ""},
		{"GET", "/" + sum[1:] + "/checkpoint", 404, ""},
		{"GET", "/0" + sum + "/checkpoint", 404, ""},
		{"GET", "/" + strings.Repeat("x", 64) + "/checkpoint", 404, ""},
		{"GET", "/" + strings.Repeat("%00", 64) + "/checkpoint", 404, ""},
		{"GET", "/" + l.origin + "/checkpoint", 404, ""},
		{"GET", "//checkpoint", 404, ""},
		{"GET", "/checkpoint", 404, ""},
		{"POST", "/checkpoint", 404, ""},
		{"POST", "//add-checkpoint", 404, ""},
		{"POST", "/%61dd-checkpoint", 404, ""},
		{"POST", "/x/../add-checkpoint", 404, ""},
	} {
		r := request(w.Handler(), c.method, c.path, nil)
		if r.StatusCode != c.status || r.Header.Get("Allow") != c.allow || r.Header.Get("Location") != "" {
			t.Errorf("%s %s: %d, allowed %q, sent to %q", c.method, c.path, r.StatusCode, r.Header.Get("Allow"), r.Header.Get("Location"))
		}
	}
	if r := request(w.MonitorHandler(), "POST", "/add-checkpoint", l.body(4, 5)); r.StatusCode != 404 {
		t.Errorf("the monitoring handler takes submissions: %d", r.StatusCode)
	}
	r := request(w.Handler(), "POST", "/add-checkpoint", l.body(0, 5))
	if ct := r.Header["Content-Type"]; len(ct) != 1 || ct[0] != "text/x.tlog.size" {
		t.Errorf("409 is of type %q", ct)
	}
	get := httptest.NewRequest("GET", "/"+sum+"/checkpoint", nil)
	get.Header.Set("If-None-Match", request(w.Handler(), "GET", "/"+sum+"/checkpoint", nil).Header.Get("ETag"))
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, get)
	if rec.Code != 304 || rec.Body.Len() != 0 {
		t.Errorf("unchanged: %d with %d bytes", rec.Code, rec.Body.Len())
	}
	submits(t, w, l.body(4, 5), 200)
	rec = httptest.NewRecorder()
	if w.Handler().ServeHTTP(rec, get); rec.Code != 200 || rec.Body.Len() == 0 {
		t.Errorf("changed: %d with %d bytes", rec.Code, rec.Body.Len())
	}
}

// Many submit at once, of few logs and from whatever they know. No log ever goes back, and each size is reached by one.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var lines []string
	var logs []*smallLog
	for i := range 4 {
		l, line := newSmallLog(fmt.Sprintf("log.example/%d", i))
		l.grow(2000)
		logs, lines = append(logs, l), append(lines, line)
	}
	w, _ := newWitness(t, Config{State: openStore(t, dir), Logs: logList(t, lines...), Keys: cosigners(t, testWitness)[:1]})
	var wg sync.WaitGroup
	var cosigned [4]atomic.Uint64
	for i := range 16 {
		wg.Go(func() {
			l := logs[i%4]
			known := uint64(0)
			for n := range 60 {
				size := known + uint64(n*i)%7
				status, answer := submit(w, l.body(known, size))
				switch status {
				case 200:
					// Whoever is told of a size is not told of a smaller one afterwards.
					for was := cosigned[i%4].Load(); was < size && !cosigned[i%4].CompareAndSwap(was, size); was = cosigned[i%4].Load() {
					}
					known = size
				case 409:
					now := must(strconv.ParseUint(strings.TrimSuffix(answer, "\n"), 10, 64))
					if now < known {
						t.Errorf("%s went back from %d to %d", l.origin, known, now)
					}
					known = now
				default:
					t.Errorf("%d: %s", status, answer)
				}
			}
		})
	}
	wg.Wait()
	for _, r := range must(ReadStore(dir)) {
		for i, l := range logs {
			if r.Checkpoint.Origin == l.origin && (r.Checkpoint != l.at(cosigned[i].Load()) || r.Checkpoint.Size == 0) {
				t.Errorf("%s: stored is %d, answered %d", l.origin, r.Checkpoint.Size, cosigned[i].Load())
			}
		}
	}
}

// Of many that race from one size one wins, also among different trees.
func TestRace(t *testing.T) {
	w, l := newWitness(t, Config{})
	submits(t, w, l.body(0, 4), 200)
	l.grow(40)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 20 {
		body := l.body(4, uint64(5+i))
		wg.Go(func() {
			if status, answer := submit(w, body); status == 200 {
				won.Add(1)
			} else if status != 409 {
				t.Errorf("%d: %s", status, answer)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of them won", won.Load())
	}
}

// A log that waits for its disk holds up nobody else, not even its own monitors.
func TestLogsDoNotWait(t *testing.T) {
	a, lineA := newSmallLog("log.example/a")
	b, lineB := newSmallLog("log.example/b")
	state := new(memory)
	w, _ := newWitness(t, Config{State: state, Logs: logList(t, lineA, lineB)})
	submits(t, w, a.body(0, 1), 200)
	stuck, release := make(chan bool), make(chan bool)
	state.BeforeSwap = func(origin string, _ []byte) error {
		if origin == a.origin {
			stuck <- true
			<-release
		}
		return nil
	}
	done := make(chan int)
	go func() {
		status, _ := submit(w, a.body(1, 2))
		done <- status
	}()
	<-stuck
	submits(t, w, b.body(0, 3), 200)
	submits(t, w, b.body(3, 4), 200)
	if r := request(w.Handler(), "GET", "/"+originSum(a.origin)+"/checkpoint", nil); r.StatusCode != 200 {
		t.Errorf("its monitors: %d", r.StatusCode)
	}
	// One that waits for its turn may go away.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.addCheckpoint(ctx, a.body(1, 2)); err == nil {
		t.Error("cosigned out of turn")
	}
	release <- true
	if status := <-done; status != 200 {
		t.Errorf("%d", status)
	}
}

// A client that leaves while its checkpoint is stored does not undo it.
func TestClientLeaves(t *testing.T) {
	state := new(memory)
	w, l := newWitness(t, Config{State: state})
	ctx, cancel := context.WithCancel(t.Context())
	state.leave = cancel
	if _, err := w.addCheckpoint(ctx, l.body(0, 4)); err != nil {
		t.Fatal(err)
	}
	if got := submits(t, w, l.body(0, 5), 409); got != "4\n" {
		t.Errorf("%q", got)
	}
}

// Faults of our own: what could not be stored is not cosigned, and what may have been stored is not denied.
func TestStateFaults(t *testing.T) {
	failure := errors.New("disk on fire")
	for _, c := range []struct {
		name   string
		before error // what Swap answers, nothing stored
		after  error // what Swap answers although it stored
		size   string
	}{
		{"cannot be written", failure, nil, "4\n"},
		{"disk full", syscall.ENOSPC, nil, "4\n"},
		{"written by somebody else", tlog.ErrConflict, nil, "4\n"},
		{"written, and it was not said", nil, failure, "9\n"},
		{"written, and the wait was over", nil, context.DeadlineExceeded, "9\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := new(memory)
			registry := prometheus.NewRegistry()
			w, l := newWitness(t, Config{State: state, Metrics: registry})
			submits(t, w, l.body(0, 4), 200)
			state.BeforeSwap = func(string, []byte) error { return c.before }
			state.AfterSwap = func(string, []byte) error { return c.after }
			for range 3 {
				answer := submits(t, w, l.body(4, 9), map[string]int{"4\n": 500, "9\n": 500}[c.size])
				if strings.Contains(answer, "— ") {
					t.Errorf("a cosignature left: %q", answer)
				}
				if r := request(w.Handler(), "GET", "/"+originSum(l.origin)+"/checkpoint", nil); r.StatusCode != 200 {
					t.Errorf("monitors are answered %d", r.StatusCode)
				}
				if c.size == "9\n" {
					break // the next one is told so
				}
			}
			if err := w.Health(); err == nil {
				t.Error("healthy")
			}
			if text := gathered(t, registry); strings.Contains(text, "\ntally_witness_store_errors_total 0\n") {
				t.Error("nothing was counted")
			}
			state.BeforeSwap, state.AfterSwap = nil, nil
			if got := submits(t, w, l.body(3, 9), 409); got != c.size {
				t.Errorf("then the size is %q, want %q", got, c.size)
			}
			old := must(strconv.ParseUint(strings.TrimSuffix(c.size, "\n"), 10, 64))
			submits(t, w, l.body(old, 12), 200)
			if err := w.Health(); err != nil {
				t.Error(err)
			}
		})
	}
}

// On a real directory: a place that cannot be written, a disk that is full.
func TestStoreFaults(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, temp string) error{
		"cannot be written": func(_ *testing.T, temp string) error { return os.Mkdir(temp, 0o755) },
		"disk full": func(t *testing.T, temp string) error {
			if _, err := os.Stat("/dev/full"); err != nil {
				t.Skip("no /dev/full")
			}
			return os.Symlink("/dev/full", temp)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, l := newWitness(t, Config{State: openStore(t, dir)})
			submits(t, w, l.body(0, 4), 200)
			sum := originSum(l.origin)
			temp := filepath.Join(dir, "logs", sum, sum+".new")
			if err := spoil(t, temp); err != nil {
				t.Fatal(err)
			}
			submits(t, w, l.body(4, 9), 500)
			if got := submits(t, w, l.body(0, 9), 409); got != "4\n" {
				t.Errorf("%q", got)
			}
			if err := os.Remove(temp); err != nil {
				t.Fatal(err)
			}
			submits(t, w, l.body(4, 9), 200)
		})
	}
}

// Of several cosignatures on a remembered checkpoint the latest time counts, in whatever order they stand.
func TestLatestTimeCounts(t *testing.T) {
	w, l := newWitness(t, Config{})
	c := l.at(4)
	line := func(k *tlog.CosignatureSigner, at uint64) []byte {
		return appendSignatureLine(nil, k.Name(), k.KeyHash(), must(k.SignAt(c.Text(), at)))
	}
	const early, late = earliestTime + 100, earliestTime + 200
	for _, at := range [][2]uint64{{early, late}, {late, early}} {
		s, err := w.open(l.origin, slices.Concat(l.sign(c), line(w.c.Keys[0], at[0]), line(w.c.Keys[1], at[1])))
		if err != nil || s.time != late || s.Checkpoint != c {
			t.Errorf("cosigned at %d: %+v, %v", at, s, err)
		}
	}
}

// One that died before it put a file into its place has not accepted it, and is in nobody's way.
func TestDiedBeforeRename(t *testing.T) {
	dir := t.TempDir()
	store := openStore(t, dir)
	w, l := newWitness(t, Config{State: store})
	submits(t, w, l.body(0, 4), 200)
	store.Close()
	sum := originSum(l.origin)
	if err := os.WriteFile(filepath.Join(dir, "logs", sum, sum+".new"), l.sign(l.at(9))[:50], 0o644); err != nil {
		t.Fatal(err)
	}
	// And one of a log that had nothing before.
	other, line := newSmallLog("log.example/other")
	if err := os.MkdirAll(filepath.Join(dir, "logs", originSum(other.origin)), 0o755); err != nil {
		t.Fatal(err)
	}
	w, _ = newWitness(t, Config{State: openStore(t, dir), Logs: logList(t, string(logKeyLine(l)), line)})
	if got := submits(t, w, l.body(0, 9), 409); got != "4\n" {
		t.Errorf("%q", got)
	}
	submits(t, w, l.body(4, 9), 200)
	submits(t, w, other.body(0, 3), 200)
	if n := len(must(ReadStore(dir))); n != 2 {
		t.Errorf("%d logs are remembered", n)
	}
}

// A damaged file is never taken for another tree: its log is refused, alone, until the right one is put back.
func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	a, lineA := newSmallLog("log.example/a")
	b, lineB := newSmallLog("log.example/b")
	list := logList(t, lineA, lineB)
	store := openStore(t, dir)
	w, _ := newWitness(t, Config{State: store, Logs: list})
	submits(t, w, a.body(0, 4), 200)
	submits(t, w, b.body(0, 4), 200)
	store.Close()
	path := filepath.Join(dir, "logs", originSum(a.origin), originSum(a.origin))
	good := must(os.ReadFile(path))
	type damage struct {
		name    string
		content []byte
	}
	damages := []damage{
		{"emptied", nil}, {"zeroed", make([]byte, len(good))},
		{"signatures gone", append(a.at(4).Text(), '\n')},
		{"unsigned", a.at(4).Text()},
		{"signed by others", bytes.ReplaceAll(good, []byte("— "), []byte("— x"))},
		{"another log's", must(os.ReadFile(filepath.Join(dir, "logs", originSum(b.origin), originSum(b.origin))))},
	}
	for n := 0; n < len(good)-1; n += 1 + len(good)/200 {
		flipped := bytes.Clone(good)
		flipped[n] ^= 1 << (n % 8)
		damages = append(damages, damage{fmt.Sprintf("cut to %d", n), good[:n]}, damage{fmt.Sprintf("bit flipped in byte %d", n), flipped})
	}
	for _, d := range damages {
		if err := os.WriteFile(path, d.content, 0o644); err != nil {
			t.Fatal(err)
		}
		store := openStore(t, dir)
		w, _ := newWitness(t, Config{State: store, Logs: list})
		status, answer := submit(w, a.body(4, 5))
		if status != 500 {
			// Lines of other keys than ours may be lost or harmed without any loss to what the file says.
			text, _, _ := bytes.Cut(d.content, []byte("\n\n"))
			if !bytes.HasPrefix(good, append(text, "\n\n"...)) {
				t.Errorf("%s: %d %s", d.name, status, answer)
			}
		} else {
			if w.Health() == nil {
				t.Errorf("%s: healthy", d.name)
			}
			submits(t, w, b.body(4, 4), 200)
			if now := must(os.ReadFile(path)); !bytes.Equal(now, d.content) {
				t.Fatalf("%s: the file was changed", d.name)
			}
			if err := os.WriteFile(path, good, 0o644); err != nil {
				t.Fatal(err)
			}
			submits(t, w, a.body(4, 4), 200)
			if err := w.Health(); err != nil {
				t.Errorf("%s, mended: %v", d.name, err)
			}
		}
		store.Close()
	}
}

// What is remembered is said at the start: nothing at all, which may be a state that is missing; and what cannot be read, by
// its name, of whichever log it is.
func TestStartSays(t *testing.T) {
	const nothing = "nothing is remembered of any log"
	dir := t.TempDir()
	start := func() string {
		t.Helper()
		var said bytes.Buffer
		store := openStore(t, dir)
		defer store.Close()
		w, l := newWitness(t, Config{State: store, Log: slog.New(slog.NewTextHandler(&said, nil))})
		if status, _ := submit(w, l.body(0, 4)); status == 500 {
			t.Error("the log itself is refused")
		}
		return said.String()
	}
	if said := start(); !strings.Contains(said, "level=WARN msg=\""+nothing) {
		t.Errorf("a new witness says %q", said)
	}
	if said := start(); strings.Contains(said, nothing) || strings.Contains(said, "level=ERROR") {
		t.Errorf("one that goes on says %q", said)
	}
	logs := filepath.Join(dir, "logs")
	sum := originSum("log.example/other")
	for name, make := range map[string]func(path string) error{
		sum:                  func(path string) error { return os.WriteFile(path, nil, 0o644) },
		sum + ".bak":         func(path string) error { return os.Mkdir(path, 0o755) },
		strings.ToUpper(sum): func(path string) error { return os.Mkdir(path, 0o755) },
		sum[:62]:             func(path string) error { return os.Mkdir(path, 0o755) },
		"checkpoint":         func(path string) error { return os.WriteFile(path, nil, 0o644) },
		originSum("moved"):   func(path string) error { return os.CopyFS(path, os.DirFS(filepath.Join(logs, originSum(testOrigin)))) },
	} {
		path := filepath.Join(logs, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if name == originSum("moved") {
			if err := os.Rename(filepath.Join(path, originSum(testOrigin)), filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
		}
		if said := start(); strings.Contains(said, nothing) || !strings.Contains(said, "level=ERROR") || !strings.Contains(said, path) {
			t.Errorf("with %s there it says %q", name, said)
		}
		bad := 0
		for _, r := range must(ReadStore(dir)) {
			if r.Err != nil {
				bad++
				if !strings.HasPrefix(r.Path, path) || r.Signed != nil || r.Checkpoint.Origin != "" {
					t.Errorf("%s is read as %+v", name, r)
				}
			}
		}
		if bad != 1 {
			t.Errorf("%s: %d places are damaged", name, bad)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	// The only one that there is.
	if err := os.Truncate(filepath.Join(logs, originSum(testOrigin), originSum(testOrigin)), 0); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	newWitness(t, Config{State: openStore(t, dir), Logs: new(LogList), Log: slog.New(slog.NewTextHandler(&said, nil))})
	if strings.Contains(said.String(), nothing) || !strings.Contains(said.String(), originSum(testOrigin)) {
		t.Errorf("with nothing but a damaged file it says %q", said.String())
	}
}

// Two witnesses do not share a directory, and readers do not mind.
func TestStoreIsOnesOwn(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := OpenStore(dir); err == nil || !strings.Contains(err.Error(), "another process uses "+dir) {
		t.Errorf("%v", err)
	}
	if _, err := ReadStore(dir); err != nil {
		t.Error(err)
	}
	s.Close()
	openStore(t, dir)
	if _, err := ReadStore(filepath.Join(dir, "nothing")); err == nil {
		t.Error("a directory that is none has a state")
	}
	if _, err := OpenStore(""); err == nil {
		t.Error("no directory has a state")
	}
}

// New keys go on where the old ones were, as long as the log's key vouches for what is stored.
func TestKeysChange(t *testing.T) {
	state := new(memory)
	w, l := newWitness(t, Config{State: state})
	submits(t, w, l.body(0, 4), 200)
	w, _ = newWitness(t, Config{State: state, Keys: cosigners(t, "witness.example/w2")})
	if got := submits(t, w, l.body(0, 9), 409); got != "4\n" {
		t.Errorf("%q", got)
	}
	lines := submits(t, w, l.body(4, 9), 200)
	wantCosigned(t, l.sign(l.at(9)), lines, w.VerifierKeys()...)
	// Neither the witness's nor the log's key is known any more: it stays, and that is told as long as the log is listed.
	keys := cosigners(t, "witness.example/w3")
	w, _ = newWitness(t, Config{State: state, Keys: keys, Logs: new(LogList)})
	if err := w.Health(); err != nil {
		t.Error(err)
	}
	pq := must(tlog.NewMLDSACosigner(l.origin, seedOf("new")))
	line := "log " + pq.VerifierKey() + "\n"
	w, _ = newWitness(t, Config{State: state, Keys: keys, Logs: logList(t, line)})
	if err := w.Health(); err == nil {
		t.Error("healthy")
	}
	renewed := &smallLog{origin: l.origin, signers: []note.Signer{pq}}
	submits(t, w, renewed.body(9, 10), 500)
	w.SetLogs(logList(t, line, string(logKeyLine(l))))
	submits(t, w, renewed.body(9, 10), 200)
	w.SetLogs(logList(t, line))
	submits(t, w, renewed.body(10, 11), 200)
}

func TestClock(t *testing.T) {
	start := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	state := new(memory)
	w, l := newWitness(t, Config{State: state})
	now := start
	w.now = func() time.Time { return now }
	size := uint64(0)
	var last uint64
	for _, c := range []struct {
		name   string
		at     time.Duration
		status int
		states time.Duration // the time that is stated
	}{
		{"begins", 0, 200, 0},
		{"goes on", time.Second, 200, time.Second},
		{"stands still", time.Second, 200, time.Second},
		{"back a little", -10 * time.Second, 200, time.Second},
		{"back a minute", -59 * time.Second, 200, time.Second},
		{"back an hour", -time.Hour, 503, 0},
		{"back for years", -30 * 365 * 24 * time.Hour, 503, 0},
		{"at the epoch", -start.Sub(time.Unix(0, 0)), 503, 0},
		{"before it", -start.Sub(time.Unix(-1, 0)), 503, 0},
		{"right again", 2 * time.Second, 200, 2 * time.Second},
		{"years ahead", 12 * 365 * 24 * time.Hour, 503, 0},
		{"a century ahead", 100 * 365 * 24 * time.Hour, 503, 0},
		{"right again", 3 * time.Second, 200, 3 * time.Second},
		{"a year of silence", 365 * 24 * time.Hour, 200, 365 * 24 * time.Hour},
	} {
		now = start.Add(c.at)
		answer := submits(t, w, l.body(size, size+1), c.status)
		if c.status != 200 {
			if strings.Contains(answer, "— ") {
				t.Errorf("%s: %q", c.name, answer)
			}
			continue
		}
		size++
		for _, at := range wantCosigned(t, l.sign(l.at(size)), answer, w.VerifierKeys()...) {
			if want := uint64(start.Add(c.states).Unix()); at != want || at < last {
				t.Errorf("%s: it states %d, want %d", c.name, at, want)
			}
			last = at
		}
	}
	// A restart forgets none of it.
	w, _ = newWitness(t, Config{State: state})
	now = start
	w.now = func() time.Time { return now }
	submits(t, w, l.body(size, size+1), 503)
	now = start.Add(3 * 366 * 24 * time.Hour)
	submits(t, w, l.body(size, size+1), 503)
	w, _ = newWitness(t, Config{State: state, ClockJump: 5 * 366 * 24 * time.Hour})
	w.now = func() time.Time { return now }
	submits(t, w, l.body(size, size+1), 200)
}

func TestLimits(t *testing.T) {
	a, lineA := newSmallLog("log.example/a")
	b, lineB := newSmallLog("log.example/b")
	w, _ := newWitness(t, Config{Logs: logList(t, lineA, lineB), Limits: Limits{Log: 2, Overall: 50}})
	now := time.Now()
	w.now = func() time.Time { return now }
	// Others' garbage in its name costs a log nothing.
	forged := bytes.Replace(a.body(0, 1), []byte("\n1\n"), []byte("\n2\n"), 1)
	for range 20 {
		submits(t, w, forged, 403)
	}
	for i := range uint64(10) {
		submits(t, w, a.body(i, i+1), 200)
	}
	r := request(w.Handler(), "POST", "/add-checkpoint", a.body(10, 11))
	if r.StatusCode != 429 || r.Header.Get("Retry-After") != "1" {
		t.Errorf("%d, retry after %q", r.StatusCode, r.Header.Get("Retry-After"))
	}
	submits(t, w, b.body(0, 1), 200) // another log has its own
	now = now.Add(time.Second)
	submits(t, w, a.body(10, 11), 200)
	submits(t, w, a.body(11, 12), 200)
	submits(t, w, a.body(12, 13), 429)
	now = now.Add(-time.Hour) // a clock set back gives nothing and takes nothing
	submits(t, w, b.body(0, 1), 409)
	now = now.Add(time.Hour)
	for i := 0; ; i++ {
		if status, _ := submit(w, []byte("garbage")); status == 429 {
			break
		} else if status != 400 || i > 500 {
			t.Fatalf("%d after %d", status, i)
		}
	}
	w.SetLogs(must(ParseLogList([]byte("logs/v0\nvkey " + strings.Fields(lineB)[1] + "\norigin none\nbastion none\nqpd 86400\ncontact x\n"))))
	if _, _, limits := w.find(b.origin); limits.own.rate != 1 || limits.again.rate != 1 {
		t.Errorf("86,400 a day are %f and %f a second", limits.own.rate, limits.again.rate)
	}
}

// Whoever has seen what a log publishes can send it to the witness as often as he likes, and costs the log nothing by it.
func TestLimitsOfOthers(t *testing.T) {
	unproven := func(l *smallLog) []byte {
		r := addCheckpoint{old: 4, proof: l.prove(4, 9)[:1], signed: l.sign(l.at(9))}
		return r.append(nil)
	}
	for _, c := range []struct {
		name  string
		body  func(l *smallLog) []byte
		again int // how often it is looked at
		as    int
		then  int
	}{
		{"the newest once more", func(l *smallLog) []byte { return l.body(4, 4) }, 10, 200, 429},
		{"a later one with a proof that is none", unproven, 10, 422, 429},
		{"a fork", func(l *smallLog) []byte { return (&addCheckpoint{signed: l.sign(l.fork(4)), old: 4}).append(nil) }, 10, 422, 429},
		{"an earlier one", func(l *smallLog) []byte { return l.body(1, 3) }, 30, 409, 409},
		{"a later one from elsewhere", func(l *smallLog) []byte { return l.body(3, 9) }, 30, 409, 409},
		{"an old size over the checkpoint's", func(l *smallLog) []byte { return (&addCheckpoint{signed: l.sign(l.at(3)), old: 4}).append(nil) }, 30, 400, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept := new(contradictions)
			w, l := newWitness(t, Config{Limits: Limits{Log: 1, Overall: -1}, Evidence: kept})
			now := time.Now()
			w.now = func() time.Time { return now }
			submits(t, w, l.body(0, 4), 200)
			for range c.again {
				submits(t, w, c.body(l), c.as)
			}
			n := len(kept.kept)
			submits(t, w, c.body(l), c.then)
			if len(kept.kept) != n {
				t.Error("what was over the limit was looked at")
			}
			submits(t, w, l.body(0, 9), 409) // a client that does not know where the witness is learns it
			submits(t, w, l.body(4, 9), 200)
		})
	}
}

// A state that cannot be read is not read, and that not said, more often than a log may submit.
func TestLimitOfBrokenState(t *testing.T) {
	state := new(memory)
	w, l := newWitness(t, Config{State: state})
	submits(t, w, l.body(0, 4), 200)
	state.Set(l.origin, []byte("garbage"))
	w, _ = newWitness(t, Config{State: state, Limits: Limits{Log: 1, Overall: -1}})
	for range 10 {
		submits(t, w, l.body(4, 9), 500)
	}
	submits(t, w, l.body(4, 9), 429)
}

// The list changes while logs submit. Who left is unknown, is still shown, and comes back to where it was.
func TestSetLogs(t *testing.T) {
	a, lineA := newSmallLog("log.example/a")
	b, lineB := newSmallLog("log.example/b")
	state := new(memory)
	w, _ := newWitness(t, Config{State: state, Logs: logList(t, lineA)})
	submits(t, w, b.body(0, 4), 404)
	submits(t, w, a.body(0, 4), 200)
	if err := w.SetLogs(logList(t, lineB)); err != nil {
		t.Fatal(err)
	}
	submits(t, w, a.body(4, 5), 404)
	submits(t, w, b.body(0, 4), 200)
	monitor := "/" + originSum(a.origin) + "/checkpoint"
	if r := request(w.Handler(), "GET", monitor, nil); r.StatusCode != 200 {
		t.Errorf("shown: %d", r.StatusCode)
	}
	w, _ = newWitness(t, Config{State: state, Logs: logList(t, lineB)})
	if r := request(w.Handler(), "GET", monitor, nil); r.StatusCode != 200 {
		t.Errorf("shown after a restart: %d", r.StatusCode)
	}
	if err := w.SetLogs(logList(t, lineA, lineB)); err != nil {
		t.Fatal(err)
	}
	if got := submits(t, w, a.body(0, 5), 409); got != "4\n" {
		t.Errorf("it comes back to %q", got)
	}
	// A log cannot be its own witness.
	_, own := newSmallLog(testWitness)
	if err := w.SetLogs(logList(t, own)); err == nil {
		t.Error("the witness witnesses itself")
	}
	submits(t, w, a.body(4, 5), 200)

	var wg sync.WaitGroup
	stop := make(chan bool)
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.SetLogs(logList(t, []string{lineA, lineB}[i%2], "# a comment\n"))
			}
		}
	})
	size := uint64(5)
	for range 200 {
		status, answer := submit(w, a.body(size, size+1))
		switch status {
		case 200:
			size++
		case 404:
		default:
			t.Errorf("%d %s", status, answer)
		}
	}
	close(stop)
	wg.Wait()
	w.SetLogs(logList(t, lineA))
	if got := submits(t, w, a.body(0, size+1), 409); got != fmt.Sprintln(size) {
		t.Errorf("it is at %q, answered was %d", got, size)
	}
}

// A log with both kinds of key, of which each by itself is enough.
func TestLogKeys(t *testing.T) {
	ed, vkey := tlogtest.Key(testOrigin)
	pq := must(tlog.NewMLDSACosigner(testOrigin, seedOf("log")))
	list := logList(t, "log "+vkey+"\nlog "+pq.VerifierKey()+"\n")
	state := new(memory)
	w, _ := newWitness(t, Config{Logs: list, State: state})
	size := uint64(0)
	for _, signers := range [][]note.Signer{{ed}, {pq}, {ed, pq}, {pq, ed}} {
		l := &smallLog{origin: testOrigin, signers: signers}
		submits(t, w, l.body(size, size+3), 200)
		size += 3
		stored := must(state.Load(t.Context(), testOrigin))
		if n := bytes.Count(stored, []byte("— "+testOrigin+" ")); n != len(signers) {
			t.Errorf("%d of %d signatures of the log are kept", n, len(signers))
		}
		bad := bytes.Replace(l.body(size, size+3), []byte(l.at(size+3).Root.String()), []byte(l.at(size+2).Root.String()), 1)
		submits(t, w, bad, 403)
	}
	both := &smallLog{origin: testOrigin, signers: []note.Signer{ed, pq}}
	one := must(note.Open(both.sign(both.at(size)), note.VerifierList(must(tlog.NewLogVerifier(vkey))))).UnverifiedSigs[0]
	half := append(append(append([]byte(string(both.at(size+1).Text())), '\n'), signatureLines(must(note.Open(both.sign(both.at(size+1)), note.VerifierList(must(tlog.NewLogVerifier(vkey))))).Sigs)...), signatureLines([]note.Signature{one})...)
	r := addCheckpoint{old: size, proof: both.prove(size, size+1), signed: half}
	submits(t, w, r.append(nil), 403) // one good, one of another checkpoint
}

func TestNewRefuses(t *testing.T) {
	keys := cosigners(t, testWitness)
	for name, c := range map[string]Config{
		"no state":          {Keys: keys},
		"no keys":           {State: new(memory)},
		"too many keys":     {State: new(memory), Keys: slices.Repeat(keys, 3)},
		"two names":         {State: new(memory), Keys: []*tlog.CosignatureSigner{keys[0], must(tlog.NewCosigner("witness.example/w2", edKey(testWitness)))}},
		"a key twice":       {State: new(memory), Keys: []*tlog.CosignatureSigner{keys[0], keys[0]}},
		"no logs to be had": {State: &memory{lost: errors.New("disk on fire")}, Keys: keys},
		"its own log":       {State: new(memory), Keys: keys, Logs: logList(t, string(logKeyLine(&smallLog{origin: testWitness})))},
	} {
		if _, err := New(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	registry := prometheus.NewRegistry()
	newWitness(t, Config{Metrics: registry})
	if _, err := New(t.Context(), Config{State: new(memory), Keys: keys, Metrics: registry}); err == nil {
		t.Error("two witnesses count as one")
	}
}

// Contradictions are kept, the same once, and no more than there is room for.
func TestEvidence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [b] *") // no pattern
	store := openStore(t, dir)
	w, l := newWitness(t, Config{State: store, Evidence: store})
	submits(t, w, l.body(0, 4), 200)
	req := func(old uint64, p tlog.Proof, signed []byte) []byte {
		r := addCheckpoint{old: old, proof: p, signed: signed}
		return r.append(nil)
	}
	kept := func(kind string) []string {
		entries, err := os.ReadDir(filepath.Join(dir, "evidence", originSum(l.origin)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), kind) {
				out = append(out, filepath.Join(dir, "evidence", originSum(l.origin), e.Name()))
			}
		}
		return out
	}
	for _, c := range []struct {
		name            string
		body            []byte
		status          int
		forks, unproven int
	}{
		{"smaller, and right", req(3, nil, l.sign(l.at(3))), 409, 0, 0},
		{"equal, and right", req(3, nil, l.sign(l.at(4))), 409, 0, 0},
		{"not signed by the log", bytes.Replace(req(4, nil, l.sign(l.fork(4))), []byte("— log"), []byte("— fog"), 1), 403, 0, 0},
		{"fork", req(4, nil, l.sign(l.fork(4))), 422, 1, 0},
		{"again", req(4, nil, l.sign(l.fork(4))), 422, 1, 0},
		{"fork from another size", req(0, nil, l.sign(l.fork(4))), 409, 1, 0},
		{"unproven", req(4, l.prove(4, 9), l.sign(l.fork(9))), 422, 1, 1},
		{"unproven with another proof", req(4, nil, l.sign(l.fork(9))), 422, 1, 1},
		{"right tree, no proof", req(4, nil, l.sign(l.at(9))), 422, 1, 2},
		{"larger, from another size", req(3, nil, l.sign(l.fork(10))), 409, 1, 2},
	} {
		submits(t, w, c.body, c.status)
		if f, u := len(kept("fork")), len(kept("unproven")); f != c.forks || u != c.unproven {
			t.Fatalf("%s: %d forks and %d unproven are kept, want %d and %d", c.name, f, u, c.forks, c.unproven)
		}
	}
	fork := kept("fork")[0]
	key := must(tlog.NewLogVerifier(strings.Fields(string(logKeyLine(l)))[1]))
	a, _, errA := tlog.OpenCheckpoint(must(os.ReadFile(filepath.Join(fork, "stored"))), key)
	b, _, errB := tlog.OpenCheckpoint(must(os.ReadFile(filepath.Join(fork, "submitted"))), key)
	if errA != nil || errB != nil || a != l.at(4) || b != l.fork(4) {
		t.Errorf("the evidence is %v, %v and %v, %v", a, errA, b, errB)
	}
	if about := string(must(os.ReadFile(filepath.Join(fork, "about")))); !strings.HasSuffix(about, "\nfork\ntwo trees of size 4\n") {
		t.Errorf("%q", about)
	}
	for i := range uint64(20) {
		submits(t, w, req(4, nil, l.sign(l.at(10+i))), 422)
		submits(t, w, l.body(4, 4), 200)
	}
	if n := len(kept("unproven")); n != maxUnproven {
		t.Errorf("%d unproven are kept", n)
	}
	if n := len(kept(".new")); n != 0 {
		t.Errorf("%d unfinished", n)
	}
}

func TestSignSubtree(t *testing.T) {
	w, l := newWitness(t, Config{})
	lines := submits(t, w, l.body(0, 14), 200)
	pq := w.VerifierKeys()[1]
	cosigned := func(keep func(line string) bool) []byte {
		out := string(l.at(14).Text()) + "\n"
		for line := range strings.Lines(lines) {
			if keep(line) {
				out += line
			}
		}
		return []byte(out)
	}
	all := func(string) bool { return true }
	large := func(line string) bool { return len(line) > 1000 }
	small := func(line string) bool { return len(line) < 1000 }
	req := func(start, end uint64, signed []byte) *signSubtree {
		tree := l.tree(14)
		return &signSubtree{start: start, end: end, root: must(tree.SubtreeRoot(t.Context(), start, end)),
			proof: must(tree.SubtreeConsistency(t.Context(), start, end)), signed: signed}
	}
	ask := func(body []byte) (int, string) {
		r := request(w.Handler(), "POST", "/sign-subtree", body)
		return r.StatusCode, string(must(io.ReadAll(r.Body)))
	}
	for start := range uint64(14) {
		for end := start + 1; end <= 14; end++ {
			if !tlog.ValidSubtree(start, end) {
				continue
			}
			for _, keep := range []func(string) bool{all, large, small} {
				r := req(start, end, cosigned(keep))
				status, answer := ask(r.append(nil))
				if status != 200 {
					t.Fatalf("[%d, %d): %d %s", start, end, status, answer)
				}
				sig := must(base64Of(answer))
				if err := tlog.VerifySubtreeCosignature(pq, l.origin, start, end, r.root, sig[4:]); err != nil {
					t.Fatal(err)
				}
				if strings.Count(answer, "\n") != 1 {
					t.Fatalf("%q", answer)
				}
			}
		}
	}
	good := string(req(8, 13, cosigned(all)).append(nil))
	other := *l
	other.origin = "unknown.example/log"
	wrong := req(8, 13, cosigned(all))
	wrong.root[0] ^= 1
	long := req(8, 13, cosigned(all))
	long.proof = make(tlog.Proof, 64)
	foreign := req(8, 13, l.sign(l.at(14)))
	damaged := req(8, 13, bytes.Replace(cosigned(all), []byte("\n14\n"), []byte("\n15\n"), 1))
	outside := req(8, 13, bytes.Replace(cosigned(all), []byte("\n14\n"), []byte("\n12\n"), 1))
	unknown := req(8, 13, bytes.ReplaceAll(cosigned(all), []byte(l.origin), []byte("unknown.example/log")))
	for _, c := range []struct {
		name, body string
		status     int
	}{
		{"as it is", good, 200},
		{"no subtree", strings.Replace(good, "subtree 8 13", "subtree 7 13", 1), 400},
		{"empty", strings.Replace(good, "subtree 8 13", "subtree 8 8", 1), 400},
		{"backwards", strings.Replace(good, "subtree 8 13", "subtree 13 8", 1), 400},
		{"leading zero", strings.Replace(good, "subtree 8 13", "subtree 08 13", 1), 400},
		{"plus", strings.Replace(good, "subtree 8 13", "subtree 8 +13", 1), 400},
		{"three numbers", strings.Replace(good, "subtree 8 13", "subtree 8 13 14", 1), 400},
		{"one number", strings.Replace(good, "subtree 8 13", "subtree 8", 1), 400},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), 400},
		{"past the tree", string(outside.append(nil)), 400},
		{"no hash", strings.Replace(good, secondLine(good), "\n", 1), 400},
		{"64 lines of proof", string(long.append(nil)), 400},
		{"trailing junk", good + "junk\n", 400},
		{"an add-checkpoint", string(l.body(14, 14)), 400},
		{"unknown log", string(unknown.append(nil)), 404},
		{"not cosigned", string(foreign.append(nil)), 403},
		{"cosigned, another tree", string(damaged.append(nil)), 403},
		{"another root", string(wrong.append(nil)), 422},
		{"no proof", string((&signSubtree{start: 8, end: 13, root: req(8, 13, nil).root, signed: cosigned(all)}).append(nil)), 422},
	} {
		if status, answer := ask([]byte(c.body)); status != c.status {
			t.Errorf("%s: %d %s", c.name, status, answer)
		}
	}
	// A witness that has no key for it does not have the address.
	w, l = newWitness(t, Config{Keys: cosigners(t, testWitness)[:1]})
	submits(t, w, l.body(0, 14), 200)
	if status, _ := ask([]byte(good)); status != 404 {
		t.Errorf("without such a key: %d", status)
	}
}

func secondLine(body string) string { return strings.SplitAfterN(body, "\n", 3)[1] }

func base64Of(line string) ([]byte, error) {
	n, err := note.Open([]byte("x\n\n"+line), note.VerifierList())
	var un *note.UnverifiedNoteError
	if !errors.As(err, &un) {
		return nil, fmt.Errorf("%v: %v", n, err)
	}
	return signatureBlob(un.Note.UnverifiedSigs[0])
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w, l := newWitness(t, Config{Metrics: registry})
	submits(t, w, l.body(0, 4), 200)
	submits(t, w, l.body(0, 4), 409)
	submits(t, w, []byte("junk"), 400)
	r := addCheckpoint{old: 4, signed: l.sign(l.fork(4))}
	submits(t, w, r.append(nil), 422)
	text := gathered(t, registry)
	for _, want := range []string{
		`contradictions_total{kind="fork",origin="log.example/probe"} 1`,
		`http_requests_total{code="200",endpoint="add-checkpoint"} 1`,
		`http_requests_total{code="400",endpoint="add-checkpoint"} 1`,
		`http_requests_total{code="409",endpoint="add-checkpoint"} 1`,
		`http_requests_total{code="422",endpoint="add-checkpoint"} 1`,
		`http_request_duration_seconds_count{endpoint="add-checkpoint"} 4`,
		`http_requests_in_flight{endpoint="add-checkpoint"} 0`,
		`log_size{origin="log.example/probe"} 4`,
		`logs 1`,
		`refusals_total{reason="conflict"} 1`,
		`refusals_total{reason="inconsistent"} 1`,
		`refusals_total{reason="malformed"} 1`,
		`store_errors_total 0`,
		`clock_errors_total 0`,
	} {
		if !strings.Contains(text, "\ntally_witness_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// gathered is what a scraper sees.
func gathered(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	r := request(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "GET", "/metrics", nil)
	return string(must(io.ReadAll(r.Body)))
}
