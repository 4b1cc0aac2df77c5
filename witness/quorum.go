package witness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// QuorumConfig says whose checkpoints are cosigned by whom, and how long that may take. Policy and Origin are needed; the
// rest has defaults.
type QuorumConfig struct {
	// Policy has the log's keys, the witnesses with their keys and submission prefixes, and which of them are enough.
	// Witnesses with one submission prefix are one witness with several keys, which is asked once.
	Policy *tlog.Policy
	// Origin is the log. A Quorum serves one.
	Origin string
	// Monitoring has the monitoring prefixes of witnesses, by their names in the policy, where those are not the
	// submission prefixes.
	Monitoring map[string]string

	// Grace is how long Cosign waits for the other witnesses once the quorum is met, by default 200 ms. A negative
	// number means not at all.
	Grace time.Duration
	// All has Cosign wait for all witnesses, whatever the quorum is.
	All bool
	// Wait is the longest that Cosign waits for anybody, by default 10 s.
	Wait time.Duration
	// Timeout is the longest that one request takes, by default 10 s.
	Timeout time.Duration
	// Interval is the shortest time between two submissions to one witness, by default 1 s.
	Interval time.Duration
	// Backoff is the longest pause after failures in a row, by default 1 min. It begins at Interval and doubles.
	Backoff time.Duration
	// Skew is how far the time that a cosignature states may be from now, by default 10 min.
	Skew time.Duration

	// Start is how many witnesses must have cosigned before the first Cosign succeeds, by default those that are
	// enough for the policy. See Quorum.
	Start int

	// Client carries requests, for its transport and cookies: a proxy, or certificates. Redirects are never followed.
	// nil for one of the Quorum's own, which keeps connections open.
	Client *http.Client
	// Log is told when a witness fails, lies or knows another tree. nil for nobody.
	Log *slog.Logger
}

// A Quorum has the checkpoints of one log cosigned by the witnesses of a policy (the client of c2sp.org/tlog-witness). It is
// a tlog.Cosigner, safe for concurrent use, and starts nothing by itself.
//
// All witnesses are asked at once, and none waits for another. Each is asked with the tree that it is known to have, at
// first the empty one, and when it says that it has another one (409), with that. What is sent is the text of
// the checkpoint and the log's own signatures: no extension lines and no cosignatures, which witnesses in the field refuse.
// What comes back counts if it verifies with the witness's key in the policy, over this very checkpoint, and states a time
// near ours.
//
// Cosign returns when enough have cosigned, and requests that are under way then are still waited for by their own
// goroutines, for Timeout at most: what such a witness did is known the next time, and its cosignature is not lost if
// the same checkpoint is offered again because there were too few. prove is not called any more once Cosign has returned.
//
// # Who is believed
//
// The Quorum asks because it might be wrong itself: the log could have been put back to an old copy, or two copies of it
// could be running. A witness can be wrong too, or lie. What decides is the log's own signature, because nobody but the log
// could have made it:
//
//   - A witness that is behind, or whose own store was put back, says a smaller size. It is given the proof from there
//     and cosigns; that it forgot what it had cosigned before is an alarm, and no harm to us.
//   - A witness that says a larger size than the checkpoint has, or refuses a proof that we computed (422), or cosigns something
//     else, contradicts us. It is asked for its own checkpoint at its monitoring prefix. If the log signed that one, and it is
//     larger than ours or of another tree, this is a *tlog.ForkError, with ours as A and theirs as B: an honest
//     witness after our rollback looks like this, and a witness that was shown a fork, and no lie can look like this. A
//     checkpoint that is no larger than one offered here since is not held against us: by now it may be public, and
//     anybody may have brought it to the witness.
//   - A witness that contradicts us and has nothing to show for it that the log signed has failed: it is counted, named in an
//     alarm, and treated as one that has not cosigned. So a witness that lies costs its own cosignature and nothing
//     else: the log goes on as long as the others are a quorum.
//   - A witness that cosigns our tree and elsewhere another one is not noticed here: whoever sees both, a monitor, notices
//     it, and the policy is to ask for enough witnesses that those who lie are not.
//
// # The start
//
// The first Cosign is different, because only then may the log have forgotten something. Offered the newest checkpoint that
// the log kept, or, where it kept none, a signed checkpoint of the empty tree, which every history continues, it asks
// all witnesses what they last saw and waits for all of them, Wait at most. It succeeds when the quorum, and Start witnesses,
// have cosigned, and nobody says without proof to know more. Such a claim, of a larger tree or of another one, holds the start
// although it may be a lie: the log has nothing to put against it yet, some witnesses have no monitoring prefix, and that of
// others may be an hour behind. It is forgotten when that witness cosigns; if it lies for ever, take it out of the policy.
// All of this is a *tlog.QuorumError: sign nothing yet, and ask again.
//
// A ForkError whose B is larger than A can be no fork in one case: the log showed others a newer checkpoint than it had ever
// offered, and they took it to the witness. A log that shows only what Cosign has returned cannot come to this.
type Quorum struct {
	c       QuorumConfig
	members []*member // in the order of the policy

	mu      sync.Mutex
	started bool
	largest uint64          // size of the largest tree that was ever offered
	fork    *tlog.ForkError // found, and not returned yet
}

var _ tlog.Cosigner = (*Quorum)(nil)

// NewQuorum checks the configuration. It asks nobody.
func NewQuorum(c QuorumConfig) (*Quorum, error) {
	if c.Policy == nil {
		return nil, errors.New("witness: no policy: name the witnesses and which of them are enough")
	}
	if !slices.ContainsFunc(c.Policy.Logs(), func(l tlog.PolicyLog) bool { return l.Origin == c.Origin }) {
		return nil, fmt.Errorf("witness: the policy has no log %q; add a log line with its key", c.Origin)
	}
	c.Grace = cmp.Or(c.Grace, 200*time.Millisecond)
	c.Wait = cmp.Or(c.Wait, 10*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.Backoff = max(cmp.Or(c.Backoff, time.Minute), c.Interval)
	c.Skew = cmp.Or(c.Skew, 10*time.Minute)
	c.Client = newClient(c.Client)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	q := &Quorum{c: c}
	monitoring := maps.Clone(c.Monitoring)
	for _, w := range c.Policy.Witnesses() {
		if err := q.add(w, monitoring[w.Name]); err != nil {
			return nil, err
		}
		delete(monitoring, w.Name)
	}
	for name := range monitoring {
		return nil, fmt.Errorf("witness: a monitoring prefix for %q, which is no witness of the policy", name)
	}
	if c.Start > len(q.members) {
		return nil, fmt.Errorf("witness: %d witnesses are to cosign at the start, and the policy has %d", c.Start, len(q.members))
	}
	return q, nil
}

func (q *Quorum) add(w tlog.PolicyWitness, monitoring string) error {
	submission, err := checkPrefix(w.URL)
	if err != nil {
		return fmt.Errorf("witness: the submission prefix of %s in the policy: %w", w.Name, err)
	}
	key, err := tlog.NewCosignatureVerifier(w.Key)
	if err != nil {
		return fmt.Errorf("witness: %s: %w", w.Name, err)
	}
	i := slices.IndexFunc(q.members, func(m *member) bool { return m.submission == submission })
	if i < 0 {
		i = len(q.members)
		q.members = append(q.members, &member{submission: submission, monitoring: submission, keys: make(map[keyID]bool), turn: make(chan struct{}, 1)})
	}
	m := q.members[i]
	m.names = append(m.names, w.Name)
	m.keys[keyID{key.Name(), key.KeyHash()}] = true
	if monitoring != "" {
		if m.monitoring, err = checkPrefix(monitoring); err != nil {
			return fmt.Errorf("witness: the monitoring prefix of %s: %w", w.Name, err)
		}
	}
	return nil
}

// A keyID tells keys apart as signature lines do.
type keyID struct {
	name string
	hash uint32
}

// Cosign has a checkpoint cosigned: see Quorum. signed may have cosignatures, which are left away. Besides the errors of
// tlog.Cosigner there are those of prove, joined to the QuorumError of which they are the reason, those of ctx, and
// those of a checkpoint that the policy does not take for one of this log; with the last there is no note.
func (q *Quorum) Cosign(ctx context.Context, signed []byte, prove func(ctx context.Context, old uint64) (tlog.Proof, error)) ([]byte, error) {
	o, err := newOffer(q.c.Policy, q.c.Origin, signed)
	if err != nil {
		return nil, err
	}
	q.offered(o.c.Size)
	call, cancel := context.WithTimeout(ctx, q.c.Wait)
	r := &round{offer: o, ctx: call, prove: prove, proofs: make(map[uint64]tlog.Proof)}
	defer r.end() // after cancel, so that it does not wait long for a proof
	defer cancel()
	var begun sync.WaitGroup
	defer begun.Wait()

	answers := make(chan answer, len(q.members))
	for _, m := range q.members {
		begun.Add(1)
		go func() { answers <- q.ask(m, r, sync.OnceFunc(begun.Done)) }()
	}
	var (
		waiting = len(q.members)
		got     []answer
		out     = o.signed
		grace   <-chan time.Time
		short   = q.enough(&out, o, got)
	)
	for waiting > 0 {
		if short == nil && grace == nil && !q.c.All && q.hasStarted() {
			if q.c.Grace < 0 {
				break
			}
			grace = time.After(q.c.Grace)
		}
		select {
		case a := <-answers:
			waiting--
			if fork := q.takeFork(); fork != nil {
				return out, fork
			}
			got = append(got, a)
			short = q.enough(&out, o, got)
			continue
		case <-grace:
		case <-call.Done():
		}
		break
	}
	if fork := q.takeFork(); fork != nil {
		return out, fork
	}
	if short != nil {
		return out, errors.Join(short, r.proofError(), ctx.Err())
	}
	q.succeeded(o.text)
	return out, nil
}

// enough makes the note of the cosignatures that came, and says why they are not enough, or nil.
func (q *Quorum) enough(out *[]byte, o offer, got []answer) error {
	*out = bytes.Clone(o.signed)
	cosigned := 0
	for _, m := range q.members {
		i := slices.IndexFunc(got, func(a answer) bool { return a.from == m })
		if i < 0 || len(got[i].lines) == 0 {
			continue
		}
		cosigned++
		for _, line := range got[i].lines {
			if len(*out)+len(line) <= tlog.MaxCheckpoint {
				*out = append(*out, line...)
			}
		}
	}
	_, _, err := q.c.Policy.Check(*out)
	if err != nil || q.hasStarted() {
		return err
	}
	why := ""
	if cosigned < q.c.Start {
		why = fmt.Sprintf("%d of the %d witnesses that it is to hear have cosigned", cosigned, q.c.Start)
	}
	for _, m := range q.members {
		if claim := m.openClaim(); claim != "" {
			why = fmt.Sprintf("%s contradicts it without proof: %s", m, claim)
		}
	}
	if why == "" {
		return nil
	}
	e := &tlog.QuorumError{Origin: o.c.Origin, Size: o.c.Size, Quorum: "start"}
	for _, m := range q.members {
		if slices.ContainsFunc(got, func(a answer) bool { return a.from == m && len(a.lines) > 0 }) {
			e.Signed = append(e.Signed, m.names...)
		} else {
			e.Missing = append(e.Missing, m.names...)
		}
	}
	return fmt.Errorf("witness: the log starts, and %s: %w", why, e)
}

func (q *Quorum) hasStarted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.started
}

// succeeded ends the start, and forgets the cosignatures of a checkpoint that had enough: offered again, it gets new ones.
func (q *Quorum) succeeded(text string) {
	q.mu.Lock()
	q.started = true
	q.mu.Unlock()
	for _, m := range q.members {
		m.forget(text)
	}
}

// offered notes that a tree of that size is about to be known outside.
func (q *Quorum) offered(size uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.largest = max(q.largest, size)
}

// known returns up to which size outsiders may know the log by now.
func (q *Quorum) known() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.largest
}

// keepFork keeps a fork for the call that is under way, or for the next if that has just returned.
func (q *Quorum) keepFork(f *tlog.ForkError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fork = f
}

// takeFork returns what was kept.
func (q *Quorum) takeFork() *tlog.ForkError {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.fork
	q.fork = nil
	return f
}

// Status is how a witness of a Quorum does, or a mirror.
type Status struct {
	Name     string    // in the policy, or that of a mirror's key
	Size     uint64    // of the newest tree that it cosigned
	Cosigned time.Time // what its newest cosignature states; zero before the first
	Failures int       // in a row: it could not be reached, or did not cosign
	Faults   int       // in all: it lied, forgot, or signed something else
	Err      error     // of the newest failure, nil once it cosigns again
}

// Stats returns the status of every witness, in the order of the policy.
func (q *Quorum) Stats() []Status {
	byName := make(map[string]Status)
	for _, m := range q.members {
		s := m.status()
		for _, name := range m.names {
			s.Name = name
			byName[name] = s
		}
	}
	var all []Status
	for _, w := range q.c.Policy.Witnesses() {
		all = append(all, byName[w.Name])
	}
	return all
}

// An offer is a checkpoint as outsiders get it.
type offer struct {
	c      tlog.Checkpoint
	text   string
	signed []byte // the text and the log's own signature lines
}

// newOffer takes from a checkpoint what is the log's own, after its signature has been verified. Whether enough have cosigned
// it does not matter.
func newOffer(p *tlog.Policy, origin string, signed []byte) (offer, error) {
	c, err := checkLogSigned(p, origin, signed)
	if err != nil {
		return offer{}, err
	}
	end := bytes.LastIndex(signed, []byte("\n\n")) // it is there, or it would be no note
	o := offer{c: c, text: string(signed[:end+1])}
	if o.text != string(c.Text()) {
		return offer{}, errors.New("witness: the checkpoint has extension lines, which witnesses refuse and some cosignatures do not cover")
	}
	o.signed = append([]byte(o.text), '\n')
	for line := range bytes.Lines(signed[end+2:]) {
		if bytes.HasPrefix(line, []byte("— "+origin+" ")) {
			o.signed = append(o.signed, line...)
		}
	}
	return o, nil
}

// checkLogSigned reads a checkpoint that the log signed with a key of the policy.
func checkLogSigned(p *tlog.Policy, origin string, signed []byte) (tlog.Checkpoint, error) {
	c, _, err := p.Check(signed)
	var quorum *tlog.QuorumError
	if err != nil && !errors.As(err, &quorum) {
		return tlog.Checkpoint{}, err
	}
	if c.Origin != origin {
		return tlog.Checkpoint{}, fmt.Errorf("witness: the checkpoint is of the log %q, not %q", c.Origin, origin)
	}
	return c, nil
}

// maxLines is how many signature lines an answer may have: each costs the time to verify the log's signature once more.
const maxLines = 64

// errSignature says that a signature by a known key is none over this checkpoint.
var errSignature = errors.New("its cosignature does not verify over this checkpoint")

// cosignatures returns, of the signature lines that came for an offer, one for each of these keys, each with its line break,
// and the latest time that they state. Lines by other keys are ignored; a line that is none, a signature by a known key
// that fails, or a time too far from now is an error for all of them.
func cosignatures(p *tlog.Policy, keys map[keyID]bool, o offer, body []byte, skew time.Duration) (lines [][]byte, stated uint64, err error) {
	if n := bytes.Count(body, []byte("\n")); n == 0 || n > maxLines || body[len(body)-1] != '\n' {
		return nil, 0, fmt.Errorf("its answer is no signature lines, 1 to %d and whole", maxLines)
	}
	done := make(map[keyID]bool)
	for line := range bytes.Lines(body) {
		_, cosigs, err := p.Check(append(bytes.Clone(o.signed), line...))
		var quorum *tlog.QuorumError
		var invalid *note.InvalidSignatureError
		switch {
		case errors.As(err, &invalid):
			return nil, 0, errSignature
		case err != nil && !errors.As(err, &quorum):
			return nil, 0, fmt.Errorf("its answer has the line %.60q, which is no signature line", line)
		}
		for _, s := range cosigs {
			id := keyID{s.Name, s.KeyID}
			if !keys[id] || done[id] {
				continue
			}
			if d := time.Since(time.Unix(int64(s.Time), 0)); d > skew || d < -skew {
				return nil, 0, fmt.Errorf("its cosignature states the time %s, which is not now", stamp(int64(s.Time)))
			}
			done[id] = true
			lines = append(lines, line)
			stated = max(stated, s.Time)
		}
	}
	if len(lines) == 0 {
		return nil, 0, fmt.Errorf("its answer has no cosignature by %s", keyNames(keys))
	}
	return lines, stated, nil
}

func keyNames(keys map[keyID]bool) string {
	var names []string
	for id := range keys {
		names = append(names, fmt.Sprintf("%s+%08x", id.name, id.hash))
	}
	slices.Sort(names)
	return strings.Join(names, " or ")
}

// A round is one call of Cosign.
type round struct {
	offer
	ctx   context.Context // of the call
	prove func(ctx context.Context, old uint64) (tlog.Proof, error)

	mu     sync.Mutex // held while prove runs
	over   bool       // the call has returned
	proofs map[uint64]tlog.Proof
	failed error // of prove
}

// errOver says that the call has returned, and so nothing more is asked of the log.
var errOver = errors.New("the call had returned")

// proof returns the proof that the checkpoint's tree continues that of the first old entries.
func (r *round) proof(old uint64) (tlog.Proof, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.proofs[old]; ok {
		return p, nil
	}
	if old == 0 || old == r.c.Size {
		return nil, nil
	}
	if r.over {
		return nil, errOver
	}
	p, err := r.prove(r.ctx, old)
	if err != nil {
		err = fmt.Errorf("prove that the tree of size %d continues that of size %d: %w", r.c.Size, old, err)
		if r.ctx.Err() == nil {
			r.failed = err
		}
		return nil, err
	}
	r.proofs[old] = p
	return p, nil
}

func (r *round) proofError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *round) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}
