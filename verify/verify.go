// Package verify is the auditor: it believes nothing, holds no key, and answers claim by claim.
//
// It reads what somebody else hands over — a bundle of sessions, a receipt, a proof, a whole log — and says of each [Claim] that it
// holds or that it is false. What is always true:
//
//   - nothing is believed but the keys of the policy: every other byte is hashed up to a checkpoint that they signed;
//   - what cannot be read is an error, an [*Unreadable]; what can be read and is false is a finding of the [Report];
//   - a report says what it does not prove, in its own words, whether anybody asked or not;
//   - no input makes it read or write a file, reach a network, or hold more than a small multiple of the input in memory.
//
// BUNDLE.md and RECEIPT.md beside this file have the formats of a bundle and a receipt, byte by byte, for whoever checks
// the same claims again.
package verify

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// A Claim is one thing that is so or is not. The words are part of what the commands print, and are not changed.
type Claim string

// The claims about a bundle and its first line.
const (
	BundleReadable  Claim = "bundle-readable"  // it is a bundle, in one piece, within the limits
	BundleIntact    Claim = "bundle-intact"    // the first line has the digest of all that follows
	BundleCanonical Claim = "bundle-canonical" // it is written in the one way in which a bundle is written
)

// The claims about a checkpoint, for a bundle, a proof and a log alike.
const (
	CheckpointSigned   Claim = "checkpoint-signed"   // by a log that the policy names
	CheckpointCosigned Claim = "checkpoint-cosigned" // by the quorum that the policy asks for
)

// The claims about entries and sessions in a bundle, and about the entry of a proof.
const (
	ProofReadable   Claim = "proof-readable"   // it is a proof
	EntryCanonical  Claim = "entry-canonical"  // it is an entry, in its one form
	EntryInTree     Claim = "entry-in-tree"    // it stands at its index in the tree of the checkpoint
	FieldsMatch     Claim = "fields-match"     // shown and withheld fields are together the record that the entry commits to
	SessionChain    Claim = "session-chain"    // a session's entries follow each other by hash, first to last
	SessionComplete Claim = "session-complete" // it has its end
	// A session that needed people's yes has one, used once, and nothing was sent before it. Of a bundle that shows records:
	// by other people than the caller, as many as were asked for, and for the same call.
	ApprovalGiven  Claim = "approval-given"
	TimesOrdered   Claim = "times-ordered"   // no entry states an earlier time than the one before it
	TimesBracketed Claim = "times-bracketed" // no entry's time contradicts what witnesses state
)

// The claims about a whole log, besides those above.
const (
	LogReadable       Claim = "log-readable"       // everything the checkpoint covers was there to be read
	TilesMatch        Claim = "tiles-match"        // every tile of every level is what the entries hash to
	RootMatches       Claim = "root-matches"       // the checkpoint's root is what the entries hash to
	HistoryConsistent Claim = "history-consistent" // so is that of every earlier checkpoint that was kept
	BootsOrdered      Claim = "boots-ordered"      // a writer lives one life at a time, from its start entry to its stop entry
	NumbersWhole      Claim = "numbers-whole"      // within a boot no number is missing, but for declared losses, and none comes twice
	LossesDeclared    Claim = "losses-declared"    // what is missing was declared to be
	SessionsFinished  Claim = "sessions-finished"  // no request was given up without a response
	HeartbeatTrue     Claim = "heartbeat-true"     // heartbeats count the open sessions right
	PolicyNamed       Claim = "policy-named"       // the policy that a request names is an entry, of the same boot and before it

	// No boot whose start entry says how often it beats was silent for longer than three of its beats: from its start to its
	// first heartbeat, from one to the next, and from the last to its stop or to whatever it wrote last. These are times that
	// the entries state. As times-bracketed keeps each of them within ClockSkew of what witnesses saw, a boot that wrote
	// nothing while witnesses watched is silent by one of the two claims, whatever it wrote afterwards.
	HeartbeatsSteady Claim = "heartbeats-steady"
	// The log continues every checkpoint of it that the auditor brought along.
	CheckpointsHonoured Claim = "checkpoints-honoured"
)

// A Finding says of one subject whether a claim holds.
type Finding struct {
	Claim   Claim  `json:"claim"`
	Subject string `json:"subject"` // what it is about: "entry 12", "session 0198…", "checkpoint"
	OK      bool   `json:"ok"`
	Detail  string `json:"detail,omitempty"` // for people; may quote what was checked, so escape it before it is shown
}

// A Report is the answer to everything that was asked.
type Report struct {
	Findings  []Finding `json:"findings"`
	NotProven []string  `json:"not_proven"` // for people; escape it as well
	// Forks are pairs of checkpoints that this log signed and no history can have, the evidence for what was found false of
	// kept checkpoints: A as it was kept, B as the log shows it now. At most 20.
	Forks []tlog.ForkError `json:"-"`
	// Proven is the bundle that was checked, if every claim about it holds: what it shows is what was recorded. Nil otherwise.
	Proven *Bundle `json:"-"`

	wrong int // findings that are false
}

// OK says whether there are findings and every claim holds.
func (r *Report) OK() bool {
	for _, f := range r.Findings {
		if !f.OK {
			return false
		}
	}
	return len(r.Findings) > 0
}

func (r *Report) holds(c Claim, subject, format string, a ...any) {
	r.Findings = append(r.Findings, Finding{Claim: c, Subject: subject, OK: true, Detail: fmt.Sprintf(format, a...)})
}

func (r *Report) isFalse(c Claim, subject, format string, a ...any) {
	r.wrong++
	r.Findings = append(r.Findings, Finding{Claim: c, Subject: subject, Detail: fmt.Sprintf(format, a...)})
}

// is adds a claim that holds unless there is an error.
func (r *Report) is(c Claim, subject string, err error, format string, a ...any) {
	if err != nil {
		r.isFalse(c, subject, "%v", err)
		return
	}
	r.holds(c, subject, format, a...)
}

func (r *Report) notProven(format string, a ...any) {
	r.NotProven = append(r.NotProven, fmt.Sprintf(format, a...))
}

// An Unreadable says that something could not be read, and so not be judged. It is neither true nor false.
type Unreadable struct {
	What string // "the bundle", "the log"
	Err  error
}

func (u *Unreadable) Error() string { return u.What + " could not be read: " + u.Err.Error() }

func (u *Unreadable) Unwrap() error { return u.Err }

// unreadable makes the claim c false and returns the error that goes with it.
func (r *Report) unreadable(c Claim, what string, err error) error {
	r.isFalse(c, what, "%v", err)
	return &Unreadable{What: what, Err: err}
}

// Trust is what the auditor brings along, from somewhere else than what is checked.
type Trust struct {
	// Policy names the logs and the witnesses to believe. Nil believes nobody.
	Policy *tlog.Policy
	// Kept are checkpoints that were kept elsewhere, by the auditor or by witnesses. A whole log is held against them;
	// those that are not signed by that log are told and not used.
	Kept []Kept
}

// ClockSkew is how far the clocks of writers and witnesses may disagree, and how long an entry may take from its stamp
// into the log, before a time is called false.
const ClockSkew = 5 * time.Minute

// A judge is a policy, taken apart: what the log must have done, and what its witnesses.
type judge struct {
	whole *tlog.Policy
	logs  *tlog.Policy // the same logs, and no witness
	none  bool         // it asks for no witness
	keys  map[string]bool
}

func newJudge(t Trust) judge {
	j := judge{whole: t.Policy, keys: make(map[string]bool)}
	if j.whole == nil {
		j.whole = new(tlog.Policy)
	}
	text := j.whole.Text()
	j.none = bytes.HasSuffix(append([]byte("\n"), text...), []byte("\nquorum none\n"))
	var only []byte
	for _, l := range j.whole.Logs() {
		only = fmt.Appendf(only, "log %s\n", l.Key)
		j.keys[keyOf(l.Key)] = true
	}
	for _, w := range j.whole.Witnesses() {
		j.keys[keyOf(w.Key)] = true
	}
	var err error
	if j.logs, err = tlog.ParsePolicy(append(only, "quorum none\n"...)); err != nil {
		j.logs = new(tlog.Policy) // of a policy that was not parsed: nobody is believed
	}
	return j
}

// keyOf returns the name and the id of a verifier key, without its bytes.
func keyOf(vkey string) string {
	if i := strings.LastIndexByte(vkey, '+'); i >= 0 {
		// The bytes are base64 and may have a plus too: name and id end at the second one.
		name, rest, _ := strings.Cut(vkey, "+")
		id, _, _ := strings.Cut(rest, "+")
		return name + "+" + id
	}
	return vkey
}

// A witnessed checkpoint is what the policy makes of a signed one.
type witnessed struct {
	tlog.Checkpoint
	read           bool // Checkpoint is what the note says
	signed         bool // and the log said it
	cosigs         []tlog.Cosignature
	from, by       time.Time // see seen
	unknownSigners []string  // of lines that nothing was made of
}

// judge reads a signed checkpoint. The first error is the log's, the second its witnesses'.
func (j judge) judge(signed []byte) (w witnessed, signedErr, cosignedErr error) {
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		err = fmt.Errorf("not a signed checkpoint: %w", err)
		return w, err, err
	}
	w.Checkpoint, w.read = c, true
	var quorum *tlog.QuorumError
	if _, w.cosigs, cosignedErr = j.whole.Check(signed); cosignedErr != nil && !errors.As(cosignedErr, &quorum) {
		// Is it the log's word that is wanting, or a witness's that is wrong?
		_, _, signedErr = j.logs.Check(signed)
	}
	w.signed = signedErr == nil
	w.from, w.by = j.seen(w.cosigs)
	return w, signedErr, cosignedErr
}

// seen returns two times of a tree: by the second a quorum had seen it, and from the first on, or later, each of a quorum
// still knew of nothing larger. So one witness whose clock is wrong, or who says what he is asked to, moves neither where more
// than his word is asked for. Where the policy asks for none, or too few have signed, they are the first and the
// last time of all; they are zero without any.
func (j judge) seen(cosigs []tlog.Cosignature) (from, by time.Time) {
	n := len(cosigs)
	if n == 0 {
		return from, by
	}
	s := slices.Clone(cosigs)
	slices.SortFunc(s, func(a, b tlog.Cosignature) int { return cmp.Compare(a.Time, b.Time) })
	i, k := 0, n-1 // of from and by
	if !j.none && j.whole.Met(s) {
		for i = n - 1; !j.whole.Met(s[i:]); i-- {
		}
		for k = 0; !j.whole.Met(s[:k+1]); k++ {
		}
	}
	return s[i].At(), s[k].At()
}

// unknown returns who signed by keys that the policy does not have. The note has been parsed.
func (j judge) unknown(signed []byte) []string {
	var names []string
	i := bytes.LastIndex(signed, []byte("\n\n"))
	for line := range strings.Lines(string(signed[i+2:])) {
		parts := strings.Fields(line)
		if len(parts) != 3 {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(parts[2])
		if err != nil || len(raw) < 4 {
			continue
		}
		if key := fmt.Sprintf("%s+%08x", parts[1], binary.BigEndian.Uint32(raw)); !j.keys[key] {
			names = append(names, key)
		}
	}
	return names
}

// checkpoint judges a signed checkpoint and reports the two claims about it. If whoever handed it over said what log
// it is of, that is origin.
func (r *Report) checkpoint(j judge, signed []byte, origin string) witnessed {
	w, signedErr, cosignedErr := j.judge(signed)
	if w.read {
		w.unknownSigners = j.unknown(signed)
	}
	if w.signed && origin != "" && origin != w.Origin {
		signedErr = fmt.Errorf("it is of the log %q, and was handed over as one of %q", w.Origin, origin)
	}
	r.is(CheckpointSigned, "checkpoint", signedErr, "of %s, size %d", w.Origin, w.Size)
	var invalid *note.InvalidSignatureError
	switch {
	case !w.signed && !errors.As(cosignedErr, &invalid):
		// Said already; whether a quorum signed what the log did not is not asked.
		r.isFalse(CheckpointCosigned, "checkpoint", "the log has not signed it")
	case cosignedErr != nil:
		r.isFalse(CheckpointCosigned, "checkpoint", "%v", cosignedErr)
	case j.none:
		r.holds(CheckpointCosigned, "checkpoint", "no witness was required")
	default:
		var names []string
		for _, s := range w.cosigs {
			names = append(names, fmt.Sprintf("%s at %s", s.Name, stamp(s.At())))
		}
		r.holds(CheckpointCosigned, "checkpoint", "by %s", strings.Join(names, ", "))
	}
	return w
}

// notProvenOf says what a checkpoint leaves open.
func (r *Report) notProvenOf(j judge, w witnessed) {
	if j.none {
		r.notProven("that the log shows everybody the same tree: no witness was required")
	}
	if len(w.cosigs) == 0 {
		r.notProven("when anything happened: times are those of the writers' own clocks, and no witness vouches for them")
	} else {
		r.notProven("when an entry was written, but for the bounds that cosignatures give: this checkpoint was seen by %s", stamp(w.by))
	}
	for i, s := range w.unknownSigners {
		if i == maxListed {
			r.notProven("%d further signatures by keys that are not in the policy", len(w.unknownSigners)-i)
			break
		}
		r.notProven("a signature by %s, whose key is not in the policy", s)
	}
}

// maxWrong is how many false claims of a bundle are enough: whoever has read a thousand needs no more, and a file made of
// nothing else must not fill the memory with them.
const maxWrong = 1000

// maxListed is how many findings of one kind are listed one by one.
const maxListed = 20

// count returns a number of things by their name.
func count[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
