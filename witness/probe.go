package witness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// ProbeConfig says which witness is asked, and as which log.
type ProbeConfig struct {
	// URL is the witness's submission prefix.
	URL string
	// Monitor is its monitoring prefix, if that is another one.
	Monitor string
	// Log signs for a log that the witness knows by this Ed25519 key alone, and that has nothing to do but this: what it
	// grows by is made up. A log that was never cosigned is asked more than one that was.
	Log note.Signer
	// Keys are the witness's verifier keys. Without them cosignatures are looked at and not verified.
	Keys []string
	// Client carries the requests; nil for one of the probe's own.
	Client *http.Client
}

// A Level is how much the specification wants what a case asks.
type Level string

// The words of RFC 2119, from the sentence that a case quotes.
const (
	Must   Level = "MUST"
	Should Level = "SHOULD"
	May    Level = "MAY"
)

// A Verdict is what came of a case.
type Verdict string

const (
	Conforms Verdict = "ok"
	Deviates Verdict = "deviates"
	Skipped  Verdict = "skipped" // it could not be asked; Answered says why
)

// A ProbeCase is a row of the table of what is asked: see ProbeCases.
type ProbeCase struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	Asks  string `json:"asks"` // what is sent
	Says  string `json:"says"` // what the specification says to that, quoted in short
	Wants string `json:"wants"`

	fresh bool // only a log that was never cosigned can ask it
	run   func(context.Context, *prober) outcome
}

// A ProbeResult is a case and what the witness answered.
type ProbeResult struct {
	ProbeCase
	Answered string  `json:"answered"`
	Verdict  Verdict `json:"verdict"`
}

// An outcome is what a case found.
type outcome struct {
	answered string
	verdict  Verdict
}

// Probe asks a witness every case of the table, in its order, and returns what it answered. It speaks only for the log of
// the config and for one that no witness knows, one request after the other but for eight at once in the race, and waits
// when it is told to slow down. An error says that the witness could not be probed, or not to the end.
func Probe(ctx context.Context, c ProbeConfig) ([]ProbeResult, error) {
	p, err := newProber(c)
	if err != nil {
		return nil, err
	}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	var out []ProbeResult
	for _, pc := range ProbeCases() {
		if !pc.fresh && p.size < leastProbeLog {
			if err := p.settle(ctx); err != nil {
				return out, err
			}
		}
		o := outcome{"the log was cosigned before; make a new key to ask this", Skipped}
		if p.fresh || !pc.fresh {
			o = pc.run(ctx, p)
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if p.lost != nil {
			return out, fmt.Errorf("at %s: %w", pc.ID, p.lost)
		}
		out = append(out, ProbeResult{pc, o.answered, o.verdict})
	}
	return out, nil
}

// A prober is a probe under way. It plays the log.
type prober struct {
	c         ProbeConfig
	log       *smallLog
	verifiers []note.Verifier

	first  *probeAnswer // to the very first request
	fresh  bool         // the log has never been cosigned
	size   uint64       // that the witness has, as far as is known
	lines  string       // the newest cosignatures, of the tree of size
	signed []byte       // the checkpoint they are of
	reused bool         // the last request went over a connection that had been used
	lost   error        // why it cannot go on
}

func newProber(c ProbeConfig) (*prober, error) {
	if c.Log == nil {
		return nil, errors.New("witness: no key of a log to probe with")
	}
	if !strings.HasPrefix(c.URL, "http://") && !strings.HasPrefix(c.URL, "https://") {
		return nil, fmt.Errorf("witness: %.100q is no address of a witness: it begins with http:// or https://", c.URL)
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	c.Monitor = strings.TrimSuffix(cmp.Or(c.Monitor, c.URL), "/")
	if c.Client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = racers
		c.Client = &http.Client{Transport: t, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	p := &prober{c: c, log: &smallLog{origin: c.Log.Name(), signers: []note.Signer{c.Log}}}
	for _, k := range c.Keys {
		v, err := tlog.NewCosignatureVerifier(k)
		if err != nil {
			return nil, err
		}
		p.verifiers = append(p.verifiers, v)
	}
	if _, err := tlog.SignCheckpoint(tlog.Checkpoint{Origin: c.Log.Name(), Root: tlog.EmptyRoot()}, c.Log); err != nil {
		return nil, err
	}
	return p, nil
}

const (
	// maxProbeLog is the largest log that is made up again.
	maxProbeLog = 100_000
	// leastProbeLog is the smallest that all cases can be asked of.
	leastProbeLog = 5
)

// settle brings the log to its least size.
func (p *prober) settle(ctx context.Context) error {
	a, err := p.grow(ctx, leastProbeLog-p.size)
	if err != nil {
		return fmt.Errorf("the witness cannot be reached: %w", err)
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("the witness answered %s to a submission as it should be: nothing more can be asked", a)
	}
	return nil
}

// begin learns what the witness knows of the log. It asks for the tree of size 2 after that of size 1 without a proof, which a
// witness in no state can cosign.
func (p *prober) begin(ctx context.Context) error {
	a, err := p.post(ctx, "add-checkpoint", p.request(1, 2, nil))
	if err != nil {
		return fmt.Errorf("the witness cannot be reached: %w", err)
	}
	p.first = a
	switch a.status {
	case http.StatusNotFound:
		return fmt.Errorf("the witness does not know the log %q (or there is no witness at %s): give its operator the log's verifier key, and probe then", p.log.origin, p.c.URL)
	case http.StatusForbidden:
		return fmt.Errorf("the witness knows the log %q by another key: use that one, or another name", p.log.origin)
	case http.StatusConflict:
		size, ok := a.size()
		if ok {
			p.size = size
		}
		p.fresh = size == 0
	case http.StatusUnprocessableEntity:
		p.size = 1
	case http.StatusOK:
		p.size = 2
	default:
		return fmt.Errorf("the witness answered %s to the first request", a)
	}
	if p.size > maxProbeLog {
		return fmt.Errorf("the log %q has grown to %d entries: make a new key for it", p.log.origin, p.size)
	}
	p.log.grow(p.size)
	if p.fresh {
		return nil
	}
	if a, err = p.post(ctx, "add-checkpoint", p.log.body(p.size, p.size)); err != nil {
		return err
	}
	if a.status == http.StatusUnprocessableEntity {
		return fmt.Errorf("the witness knows another tree of the log %q: make a new key that is used for probes alone", p.log.origin)
	}
	return nil
}

// request writes the body for the log's tree of size after that of old, with a proof of the caller's choice.
func (p *prober) request(old, size uint64, proof tlog.Proof) []byte {
	r := addCheckpoint{old: old, proof: proof, signed: p.log.sign(p.log.at(size))}
	return r.append(nil)
}

// A probeAnswer is what came back.
type probeAnswer struct {
	status int
	header http.Header
	body   []byte
}

// String is the answer in short.
func (a *probeAnswer) String() string {
	if a.status == http.StatusOK {
		return fmt.Sprintf("200 with %d bytes", len(a.body))
	}
	return fmt.Sprintf("%d %.80q", a.status, a.body)
}

// size reads the body of a 409, more kindly than it may be written.
func (a *probeAnswer) size() (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(string(a.body)), 10, 63)
	return n, err == nil
}

// post sends a body to the submission prefix.
func (p *prober) post(ctx context.Context, path string, body []byte) (*probeAnswer, error) {
	return p.send(ctx, http.MethodPost, p.c.URL+"/"+path, body)
}

// get asks the monitoring prefix.
func (p *prober) get(ctx context.Context, sum string) (*probeAnswer, error) {
	return p.send(ctx, http.MethodGet, p.c.Monitor+"/"+sum+"/checkpoint", nil)
}

// maxAnswer bounds what is read of an answer: a hundred of the largest signatures would be less.
const maxAnswer = 512 << 10

// send asks until the answer is not to slow down. It waits a few minutes at most.
func (p *prober) send(ctx context.Context, method, url string, body []byte) (*probeAnswer, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { p.reused = i.Reused }})
	var waited time.Duration
	for {
		a, err := p.once(ctx, method, url, body)
		if err != nil || a.status != http.StatusTooManyRequests || waited > 3*time.Minute {
			return a, err
		}
		seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
		pause := time.Duration(min(max(seconds, 1), 60)) * time.Second
		waited += pause
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *prober) once(ctx context.Context, method, url string, body []byte) (*probeAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "tally-witness-probe")
	resp, err := p.c.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return &probeAnswer{resp.StatusCode, resp.Header, b}, err
}

// sync learns the size that the witness has now, from a request that can change nothing, and says whether that is another
// one than was known.
func (p *prober) sync(ctx context.Context) (moved bool) {
	body := p.log.body(0, p.size)
	if p.size == 0 {
		// Nothing is stored or the empty tree is: from nothing nobody can go to 2 by way of 1.
		body = p.request(1, 2, nil)
	}
	a, err := p.post(ctx, "add-checkpoint", body)
	if err != nil {
		p.lost = err
		return false
	}
	was := p.size
	if size, ok := a.size(); ok && a.status == http.StatusConflict && size <= maxProbeLog {
		p.size = size
	}
	return p.size != was
}

// grow has the next n entries cosigned, as any log would, and remembers the answer if it is one.
func (p *prober) grow(ctx context.Context, n uint64) (*probeAnswer, error) {
	size := p.size + n
	return p.submit(ctx, size, p.log.body(p.size, size), p.log.sign(p.log.at(size)))
}

// submit sends a body that should be cosigned and bring the witness to size. If it is not, what it did is learnt.
func (p *prober) submit(ctx context.Context, size uint64, body, signed []byte) (*probeAnswer, error) {
	a, err := p.post(ctx, "add-checkpoint", body)
	switch {
	case err != nil:
	case a.status == http.StatusOK:
		p.size, p.lines, p.signed = size, string(a.body), signed
	default:
		p.sync(ctx)
	}
	return a, err
}

// A probeLine is a signature line of an answer.
type probeLine struct {
	name string
	id   uint32
	blob []byte // what follows the key id
}

// time is what a cosignature states.
func (l probeLine) time() uint64 { return binary.BigEndian.Uint64(l.blob) }

// The lengths of cosignatures, with their times and without the key id.
const (
	edCosignature    = 8 + 64
	mldsaCosignature = 8 + 2420
)

// cosignatureLines reads the lines of an answer that are cosignatures by their length, and says whether all that was answered
// is signature lines.
func cosignatureLines(answer string) (lines []probeLine, whole bool) {
	if answer == "" || !strings.HasSuffix(answer, "\n") {
		return nil, false
	}
	_, err := note.Open([]byte("x\n\n"+answer), note.VerifierList())
	var un *note.UnverifiedNoteError
	if !errors.As(err, &un) {
		return nil, false
	}
	for _, s := range un.Note.UnverifiedSigs {
		b, err := signatureBlob(s)
		if err != nil || len(b) < 4 {
			return nil, false
		}
		if len(b) == 4+edCosignature || len(b) == 4+mldsaCosignature {
			lines = append(lines, probeLine{s.Name, s.Hash, b[4:]})
		}
	}
	return lines, true
}

// verified returns which of the witness's keys have cosigned signed in lines, and which have not.
func (p *prober) verified(signed []byte, lines string) (did, not []string) {
	found, _ := cosignatureLines(lines)
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	text = append(slices.Clone(text), '\n')
	for _, v := range p.verifiers {
		key := fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash())
		if slices.ContainsFunc(found, func(l probeLine) bool {
			return l.name == v.Name() && l.id == v.KeyHash() && v.Verify(text, l.blob)
		}) {
			did = append(did, key)
		} else {
			not = append(not, key)
		}
	}
	return did, not
}
