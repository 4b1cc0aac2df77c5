package tlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// MaxPolicy is the largest policy file, in bytes, that is read: several hundred keys of every kind.
const MaxPolicy = 1 << 20

// noQuorum is the word that asks for no cosignature at all.
const noQuorum = "none"

// A Policy says whose word about a log is enough: the keys of the logs, the keys of the witnesses, and which of the
// witnesses must have cosigned a checkpoint (c2sp.org/tlog-policy). It comes from [ParsePolicy] and never changes, so
// it is safe for concurrent use. The zero Policy, and a nil one, know no log and refuse everything.
type Policy struct {
	logs      []policyLog
	witnesses []policyWitness
	groups    []policyGroup // each after its members
	quorum    string        // a witness, a group, or noQuorum
}

type policyLog struct {
	key verifierKey
	url string
}

type policyWitness struct {
	name string
	key  verifierKey
	url  string
}

type policyGroup struct {
	name    string
	k       int // of the members, 1 to all of them
	members []string
}

// A PolicyLog is a log that a policy knows. A log with several keys stands in it several times.
type PolicyLog struct {
	Origin string // the log's name
	Key    string // verifier key
	URL    string // "" where the policy has none; its meaning is for the application
}

// A PolicyWitness is a witness that a policy knows.
type PolicyWitness struct {
	Name string // what the policy calls it
	Key  string // verifier key
	URL  string // "" where the policy has none; the submission prefix, by recommendation
}

// Logs returns the logs in the order of the file.
func (p *Policy) Logs() []PolicyLog {
	out := make([]PolicyLog, len(p.logs))
	for i, l := range p.logs {
		out[i] = PolicyLog{Origin: l.key.name, Key: l.key.text, URL: l.url}
	}
	return out
}

// Witnesses returns the witnesses in the order of the file.
func (p *Policy) Witnesses() []PolicyWitness {
	out := make([]PolicyWitness, len(p.witnesses))
	for i, w := range p.witnesses {
		out[i] = PolicyWitness{Name: w.name, Key: w.key.text, URL: w.url}
	}
	return out
}

// ParsePolicy reads a policy file. It is as strict as the specification allows, because a policy that was not read as
// it was meant is worse than none: an unknown word, an item too many, a name or key used twice, a member that is not
// yet defined, a file cut off within a line, and a policy without quorum are errors, which name the line.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > MaxPolicy {
		return nil, fmt.Errorf("tlog: a policy of %d bytes is over the limit of %d", len(data), MaxPolicy)
	}
	r := policyReader{
		p:      new(Policy),
		named:  map[string]bool{noQuorum: true},
		member: make(map[string]bool),
		pubs:   make(map[string]bool),
		ids:    make(map[keyID]bool),
	}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("tlog: policy line %d does not end in a line break; the file may be cut off", n)
		}
		if err := r.line(string(line)); err != nil {
			return nil, fmt.Errorf("tlog: policy line %d: %w", n, err)
		}
	}
	if r.p.quorum == "" {
		return nil, errors.New(`tlog: the policy has no quorum; add the line "quorum <name>", or "quorum none" to ask for no cosignature`)
	}
	return r.p, nil
}

// A policyReader is a policy while it is read.
type policyReader struct {
	p      *Policy
	named  map[string]bool // witnesses, groups, and what no one may be called
	member map[string]bool // of some group
	pubs   map[string]bool // bytes of public keys
	ids    map[keyID]bool
}

func (r *policyReader) line(line string) error {
	// The file is octets: names and addresses may be of any encoding, and only these are control characters.
	if i := strings.IndexFunc(line, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }); i >= 0 {
		return fmt.Errorf("the control character %#02x at byte %d; lines end in \\n alone", line[i], i)
	}
	items := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
	if len(items) == 0 || items[0][0] == '#' {
		return nil
	}
	switch word, items := items[0], items[1:]; word {
	case "log":
		return r.log(items)
	case "witness":
		return r.witness(items)
	case "group":
		return r.group(items)
	case "quorum":
		return r.quorum(items)
	default:
		return fmt.Errorf("%.40q is no word of a policy; it has log, witness, group and quorum", word)
	}
}

func (r *policyReader) log(items []string) error {
	if len(items) != 1 && len(items) != 2 {
		return fmt.Errorf("a log has a key and perhaps an address, not %d items", len(items))
	}
	k, err := r.key(items[0])
	if err != nil {
		return err
	}
	if err := k.ofLog(); err != nil {
		return err
	}
	url, err := policyURL(items[1:])
	if err != nil {
		return err
	}
	r.p.logs = append(r.p.logs, policyLog{key: k, url: url})
	return nil
}

func (r *policyReader) witness(items []string) error {
	if len(items) != 2 && len(items) != 3 {
		return fmt.Errorf("a witness has a name, a key and perhaps an address, not %d items", len(items))
	}
	if err := r.define(items[0]); err != nil {
		return err
	}
	k, err := r.key(items[1])
	if err != nil {
		return err
	}
	if err := k.ofWitness(); err != nil {
		return err
	}
	url, err := policyURL(items[2:])
	if err != nil {
		return err
	}
	r.p.witnesses = append(r.p.witnesses, policyWitness{name: items[0], key: k, url: url})
	return nil
}

// key reads a key that the policy does not have yet. Keys are the same when their bytes are, whatever they are called:
// or else one witness could count for two, and a log for its own witness.
func (r *policyReader) key(s string) (verifierKey, error) {
	k, err := parseVerifierKey(s)
	if err != nil {
		return k, err
	}
	id := keyID{k.name, k.hash}
	if r.pubs[string(k.pub)] || r.ids[id] {
		return k, fmt.Errorf("the key %s+%08x is in the policy already, perhaps by another name; a key stands in it once", k.name, k.hash)
	}
	r.pubs[string(k.pub)], r.ids[id] = true, true
	return k, nil
}

func policyURL(items []string) (string, error) {
	if len(items) == 0 {
		return "", nil
	}
	if items[0][0] == '#' {
		return "", errors.New("a comment stands on a line of its own")
	}
	return items[0], nil
}

// define takes a name of the one space that witnesses and groups share.
func (r *policyReader) define(name string) error {
	if r.named[name] {
		return fmt.Errorf("the name %q is taken; witnesses and groups need one each, and %s is none", name, noQuorum)
	}
	r.named[name] = true
	return nil
}

func (r *policyReader) group(items []string) error {
	if len(items) < 3 {
		return errors.New("a group has a name, all, any or a number, and at least one member")
	}
	g := policyGroup{name: items[0], members: items[2:]}
	switch items[1] {
	case "all":
		g.k = len(g.members)
	case "any":
		g.k = 1
	default:
		k, err := strconv.Atoi(items[1])
		if err != nil || strconv.Itoa(k) != items[1] || k < 1 || k > len(g.members) {
			return fmt.Errorf("%.40q of %d members; the number is all, any, or 1 to %d", items[1], len(g.members), len(g.members))
		}
		g.k = k
	}
	for _, m := range g.members {
		switch {
		case m == noQuorum || !r.named[m]:
			return fmt.Errorf("the member %q is no witness or group of a line before this one", m)
		case r.member[m]:
			return fmt.Errorf("%q is a member already; a witness or group is one once", m)
		}
		r.member[m] = true
	}
	// Only now, so that no group is its own member.
	if err := r.define(g.name); err != nil {
		return err
	}
	r.p.groups = append(r.p.groups, g)
	return nil
}

func (r *policyReader) quorum(items []string) error {
	switch {
	case len(items) != 1:
		return fmt.Errorf("a quorum is one name, not %d; put several into a group", len(items))
	case r.p.quorum != "":
		return errors.New("a second quorum; a policy has one")
	case !r.named[items[0]]:
		return fmt.Errorf("the quorum %q is no witness or group of a line before this one", items[0])
	}
	r.p.quorum = items[0]
	return nil
}

// Text returns a policy file that reads back as this policy: the same lines without comments, logs first, the quorum
// last.
func (p *Policy) Text() []byte {
	var b []byte
	line := func(items ...string) {
		for i, it := range items {
			if i > 0 && it != "" {
				b = append(b, ' ')
			}
			b = append(b, it...)
		}
		b = append(b, '\n')
	}
	for _, l := range p.logs {
		line("log", l.key.text, l.url)
	}
	for _, w := range p.witnesses {
		line("witness", w.name, w.key.text, w.url)
	}
	for _, g := range p.groups {
		k := strconv.Itoa(g.k)
		switch g.k {
		case len(g.members):
			k = "all"
		case 1:
			k = "any"
		}
		line(append([]string{"group", g.name, k}, g.members...)...)
	}
	if p.quorum != "" {
		line("quorum", p.quorum)
	}
	return b
}

// A QuorumError says that a checkpoint is the log's and that too few witnesses cosigned it. It names them as the
// policy does.
type QuorumError struct {
	Origin  string
	Size    uint64
	Quorum  string   // what was asked for
	Signed  []string // witnesses whose cosignature was verified
	Missing []string // all other witnesses
}

func (e *QuorumError) Error() string {
	list := func(names []string) string {
		if len(names) == 0 {
			return "nobody"
		}
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("tlog: the quorum %q has not cosigned the checkpoint of size %d of %q: signed by %s; missing %s",
		e.Quorum, e.Size, e.Origin, list(e.Signed), list(e.Missing))
}

// Check reads a signed checkpoint and verifies it by the policy: it is of a log that the policy knows, that log
// signed it, no signature by a key that the policy has for it fails, and the quorum cosigned it. It returns every
// cosignature that was verified, in the order of the note; a witness that cosigned twice is in it twice and counts once.
//
// With a [QuorumError], checkpoint and cosignatures are returned too, for they are verified as far as they go; with
// any other error they are not. Whether the times of the cosignatures are plausible is for the caller to say.
func (p *Policy) Check(signed []byte) (Checkpoint, []Cosignature, error) {
	if p == nil {
		p = new(Policy)
	}
	n, err := parseNote(signed)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := ParseCheckpoint([]byte(n.text))
	if err != nil {
		return Checkpoint{}, nil, err
	}
	keys, err := p.keys(c.Origin)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	known, unknown, err := n.verify(keys)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint of %q: %w", c.Origin, err)
	}
	ok := make(map[string]bool) // witnesses and groups, by name
	logSigned := false
	var cosigs []Cosignature
	for _, sig := range known {
		i := slices.IndexFunc(p.witnesses, func(w policyWitness) bool { return w.key.name == sig.Name && w.key.hash == sig.Hash })
		if i < 0 {
			logSigned = true
			continue
		}
		ok[p.witnesses[i].name] = true
		t, _ := cosignatureTime(p.witnesses[i].key.alg, sig.blob)
		cosigs = append(cosigs, Cosignature{Name: sig.Name, KeyID: sig.Hash, Time: t})
	}
	if !logSigned {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint of %q: the log has not signed it with a key of the policy: %w", c.Origin, &note.UnverifiedNoteError{Note: n.asNote(known, unknown)})
	}
	if !p.met(ok) {
		return c, cosigs, p.quorumError(c, ok)
	}
	return c, cosigs, nil
}

// Met says whether the witnesses of these cosignatures, which Check has returned, are a quorum by themselves.
func (p *Policy) Met(cosigs []Cosignature) bool {
	ok := make(map[string]bool)
	for _, w := range p.witnesses {
		ok[w.name] = slices.ContainsFunc(cosigs, func(c Cosignature) bool { return c.Name == w.key.name && c.KeyID == w.key.hash })
	}
	return p.met(ok)
}

// keys returns the verifiers of the log's keys and of all witnesses'.
func (p *Policy) keys(origin string) ([]note.Verifier, error) {
	var keys []note.Verifier
	for _, l := range p.logs {
		if l.key.name == origin {
			keys = append(keys, l.key.verifier())
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("tlog: the policy has no log %q; add a log line with its key if it is to be believed", origin)
	}
	for _, w := range p.witnesses {
		keys = append(keys, w.key.verifier())
	}
	return keys, nil
}

// met says whether the witnesses in ok are a quorum. It adds the groups that they make.
func (p *Policy) met(ok map[string]bool) bool {
	for _, g := range p.groups {
		n := 0
		for _, m := range g.members {
			if ok[m] {
				n++
			}
		}
		ok[g.name] = n >= g.k
	}
	return p.quorum == noQuorum || ok[p.quorum]
}

func (p *Policy) quorumError(c Checkpoint, ok map[string]bool) *QuorumError {
	e := &QuorumError{Origin: c.Origin, Size: c.Size, Quorum: p.quorum}
	for _, w := range p.witnesses {
		if ok[w.name] {
			e.Signed = append(e.Signed, w.name)
			continue
		}
		e.Missing = append(e.Missing, w.name)
	}
	return e
}
