// Package mask finds in texts what must not be written down, and puts in its place a mask that says of what kind it was.
//
// What it reads are the fields of records: bodies in JSON, forms, multipart or plain text, headers, targets, and streams of
// events, in which a value may lie in pieces across many events, in a channel of its own beside others. A text is searched as it
// stands and in every plainer reading of it: with look-alike characters folded, with escapes of JSON, URLs and HTML undone, with
// base64 opened. Masks are put where the value was in the original bytes; JSON stays JSON, and events keep their number, order and time.
//
// A mask is ⟦KIND:token⟧, where the token is an HMAC of the canonical value under a key of the tenant, so that the same value has the
// same mask; or ⟦KIND:…1111⟧; or ⟦KIND⟧. What has the form of a mask is not masked again.
//
// What it does not do: it does not change traffic, it does not know people or places that no list names, and it does not read
// what is compressed or encrypted. MASKING.md says for each kind what is believed and what is not.
package mask

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// An Action says what becomes of a value that was found.
type Action uint8

const (
	Token Action = iota // ⟦KIND:…⟧ with a token by which equal values can be told
	Last4               // ⟦KIND:…1111⟧ with its last four characters
	Drop                // ⟦KIND⟧
	Keep                // counted, and left as it is
)

// A Rule finds values of the configuration's own.
type Rule struct {
	Name   string
	Kind   Kind   // 2 to 32 of A-Z and _
	Expr   string // RE2: what it matches is the value, or the first group if it has one; empty for everything at Path
	Path   string // JSON path, such as $.user, $.messages[*].name, $..password: where in JSON bodies; empty for everywhere
	Action Action
}

// Config says what a Masker looks for. The zero value looks for everything that is built in except [Optional] kinds, and has no
// key, which is an error.
type Config struct {
	Key     []byte            // of the tenant, for tokens: at least MinKey bytes
	Secrets *Secrets          // rules of keys and tokens; nil for none
	Only    []Kind            // if not empty, no other built-in kinds are looked for
	Without []Kind            // kinds that are not looked for
	With    []Kind            // kinds of Optional that are looked for
	Actions map[Kind]Action   // of kinds that are not to become tokens; what must always be dropped is dropped
	Lists   map[Kind][]string // words and names that are values by themselves, in any case: Person and whatever else is listed
	Words   map[Kind][]string // more words of context
	Rules   []Rule            // of the configuration's own
	Regions []string          // where telephone numbers without a country code may be from, the likeliest first; ISO 3166
}

// defaultRegions are the regions of telephone numbers where none are configured.
var defaultRegions = []string{"US", "GB", "DE", "FR", "IT", "ES", "IN", "BR", "AU", "TR", "PH"}

// A Finding says how often something was found.
type Finding struct {
	Kind  Kind
	Rule  string // the rule, of secrets and of the configuration's own
	Count int
}

// MarshalJSON writes [kind, rule, count], as the field findings of a record has it.
func (f Finding) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{f.Kind, f.Rule, f.Count})
}

// Findings are what was found in one or more texts, by kind and rule.
type Findings []Finding

// Count returns how many values of a kind were found.
func (f Findings) Count(k Kind) int {
	n := 0
	for _, x := range f {
		if x.Kind == k {
			n += x.Count
		}
	}
	return n
}

// Add adds others to f.
func (f *Findings) Add(others Findings) {
	for _, x := range others {
		f.add(x.Kind, x.Rule, x.Count)
	}
}

func (f *Findings) add(k Kind, rule string, n int) {
	for i := range *f {
		if (*f)[i].Kind == k && (*f)[i].Rule == rule {
			(*f)[i].Count += n
			return
		}
	}
	*f = append(*f, Finding{k, rule, n})
}

// A Masker masks by one set of rules, as one route has. It is safe for concurrent use. It keeps buffers as large as the largest
// texts it has masked, wiped.
type Masker struct {
	key      []byte
	secrets  *Secrets
	folding  *folding
	enabled  map[Kind]bool
	on       struct{ card, cvv, pin, track, iban, email, phone, ip, mac, crypto, birth, secret bool } // the same, without looking it up
	actions  map[Kind]Action
	forms    [maxNumber + 1][]*shape // by length
	contexts *contextWords
	codes    *contextWords // of CVV and PIN
	lists    *words
	listOf   []Kind
	rules    []rule
	paths    bool
	regions  []string
	pool     sync.Pool
}

type rule struct {
	Rule
	expr *regexp.Regexp
	path path
}

// New makes a masker.
func New(c Config) (*Masker, error) {
	if _, err := newMaker(c.Key); err != nil {
		return nil, fmt.Errorf("mask: %w", err)
	}
	m := &Masker{key: slices.Clone(c.Key), secrets: c.Secrets, folding: newFolding(), regions: c.Regions,
		enabled: make(map[Kind]bool), actions: make(map[Kind]Action)}
	if len(m.regions) == 0 {
		m.regions = defaultRegions
	}
	known := Kinds()
	for _, ks := range [][]Kind{c.Only, c.Without, c.With} {
		for _, k := range ks {
			if !slices.Contains(known, k) {
				return nil, fmt.Errorf("mask: there is no kind %q", k)
			}
		}
	}
	for _, k := range known {
		m.enabled[k] = (len(c.Only) == 0 && !optional[k] || slices.Contains(c.Only, k) || slices.Contains(c.With, k)) && !slices.Contains(c.Without, k)
	}
	for k, on := range map[Kind]*bool{Card: &m.on.card, CVV: &m.on.cvv, PIN: &m.on.pin, Track: &m.on.track, IBAN: &m.on.iban, Email: &m.on.email, Phone: &m.on.phone,
		IP: &m.on.ip, MAC: &m.on.mac, Crypto: &m.on.crypto, Birth: &m.on.birth, Secret: &m.on.secret} {
		*on = m.enabled[k]
	}
	for k, a := range c.Actions {
		if a > Keep {
			return nil, fmt.Errorf("mask: the action of %s is none", k)
		}
		if always[k] && a != Drop {
			return nil, fmt.Errorf("mask: %s must be dropped (PCI DSS 4.0.1, 3.3.1)", k)
		}
		m.actions[k] = a
	}
	for k := range always {
		m.actions[k] = Drop
	}
	for i := range shapes {
		if sh := &shapes[i]; m.enabled[sh.kind] {
			m.forms[len(sh.form)] = append(m.forms[len(sh.form)], sh)
		}
	}
	if err := m.addContexts(c.Words); err != nil {
		return nil, err
	}
	if err := m.addLists(c.Lists); err != nil {
		return nil, err
	}
	for _, r := range c.Rules {
		if err := checkKind(r.Kind); err != nil {
			return nil, err
		}
		if r.Name == "" || r.Expr == "" && r.Path == "" || r.Action > Keep {
			return nil, fmt.Errorf("mask: the rule %q has no name, or neither expression nor path, or no action there is", r.Name)
		}
		made := rule{Rule: r}
		var err error
		if r.Expr != "" {
			if made.expr, err = regexp.Compile(r.Expr); err != nil {
				return nil, fmt.Errorf("mask: the rule %q: %w", r.Name, err)
			}
		}
		if r.Path != "" {
			if made.path, err = parsePath(r.Path); err != nil {
				return nil, fmt.Errorf("mask: the rule %q: %w", r.Name, err)
			}
			m.paths = true
		}
		m.rules = append(m.rules, made)
	}
	return m, nil
}

// addContexts gathers the words of context: those of the kinds that are looked for, and more.
func (m *Masker) addContexts(more map[Kind][]string) error {
	byWord := make(map[string][]Kind)
	put := func(k Kind, list []string) error {
		for _, w := range list {
			b := m.folding.fold(nil, []byte(w), false, nil)
			for i, c := range b {
				b[i] = contextSpace[c]
			}
			if w = string(b); len(w) > longest {
				return fmt.Errorf("mask: the word %q is too long to be looked for; %d bytes are the most", w, longest)
			}
			if !slices.Contains(byWord[w], k) {
				byWord[w] = append(byWord[w], k)
			}
		}
		return nil
	}
	for k, list := range contexts {
		if m.enabled[k] || k == phoneToo {
			if err := put(k, list); err != nil {
				return err
			}
		}
	}
	for k, list := range more {
		if err := checkKind(k); err != nil {
			return err
		}
		if err := put(k, list); err != nil {
			return err
		}
	}
	m.contexts = newContextWords(byWord)
	maps.DeleteFunc(byWord, func(_ string, ks []Kind) bool { return !slices.Contains(ks, CVV) && !slices.Contains(ks, PIN) })
	m.codes = newContextWords(byWord)
	return nil
}

// addLists makes the automaton of the words that are values by themselves.
func (m *Masker) addLists(lists map[Kind][]string) error {
	var list []string
	var kinds []Kind
	for k := range lists {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		if err := checkKind(k); err != nil {
			return err
		}
		for _, w := range lists[k] {
			w = strings.ToLower(string(m.folding.fold(nil, []byte(strings.TrimSpace(w)), false, nil)))
			if len(w) < 2 {
				return fmt.Errorf("mask: %q in the list of %s is too short to be looked for", w, k)
			}
			list = append(list, w)
			m.listOf = append(m.listOf, k)
		}
	}
	if len(list) == 0 {
		return nil
	}
	var err error
	if m.lists, err = newWords(list, ' ', '\n', '\t'); err != nil {
		return fmt.Errorf("mask: lists of words: %w", err)
	}
	return nil
}

func (m *Masker) scratch() *scratch {
	if s, ok := m.pool.Get().(*scratch); ok {
		return s
	}
	mac, _ := newMaker(m.key) // its length was checked
	s := &scratch{m: m, mac: mac}
	s.doc.every = m.paths
	return s
}

// release takes a scratch back.
func (m *Masker) release(s *scratch) {
	s.wipe()
	m.pool.Put(s)
}

// listed finds the words of the lists, and what the configuration's own rules match.
func (v *view) listed() {
	if m := v.m; m.lists != nil {
		p := progress{w: m.lists}
		p.upTo(v.b, v.opened, v.end)
		for i := len(p.hits) - 1; i >= 0; i-- { // backwards, so that of two the one that ends later and is longer comes first
			h := p.hits[i]
			from, to := int(h.end)-int(m.lists.size[h.word]), int(h.end)
			if (from == 0 || !isLetterAt(v.b, from-1) || !isWord(v.b[from])) && (to == len(v.b) || !isLetterAt(v.b, to) || !isWord(v.b[to-1])) {
				v.form = lowered(v.form[:0], v.b[from:to])
				v.add(from, to, m.listOf[h.word], v.form)
			}
		}
	}
	for i := range v.m.rules {
		if r := &v.m.rules[i]; r.path == nil {
			v.own(r, v.opened, v.end)
		}
	}
}

// isLetterAt reports whether the byte at i goes on a word.
func isLetterAt(b []byte, i int) bool { return isWord(b[i]) || b[i] >= 0x80 }

// own finds what a rule of the configuration matches in [from, to).
func (v *view) own(r *rule, from, to int) {
	matches(r.expr, v.b, from, to, func(f, t int) {
		if n := len(v.found); v.addRule(f, t, r.Kind, r.Name, v.b[f:t]) > 0 {
			v.found[n].act = r.Action
		}
	})
}
