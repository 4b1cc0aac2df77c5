package mask

import (
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Secrets are rules that say what keys, tokens and passwords look like. They do not change, and many maskers may share them.
type Secrets struct {
	rules  []secretRule
	allow  allowlist
	words  *words
	ofWord [][]int32 // by word: the rules that it is a keyword of
	always []int32   // rules that have no keywords
}

type secretRule struct {
	id      string
	expr    *regexp.Regexp
	group   int
	entropy float64
	allow   []allowlist
	long    bool // may span many lines
	joins   bool // is looked for across the end of a line: it begins with fixed characters
}

// An allowlist says which matches are none.
type allowlist struct {
	exprs  []*regexp.Regexp
	target string // "secret", "match" or "line"
	words  *words
	and    bool
}

//go:embed rules/gitleaks.toml
var gitleaksRules []byte

//go:embed rules/more.toml
var moreRules []byte

// DefaultSecrets reads the rules that the package brings: gitleaks' own of version 8, and a few of ours, rules/more.toml. It takes
// some tens of milliseconds.
func DefaultSecrets() (*Secrets, error) { return ParseSecrets(gitleaksRules, moreRules) }

// gitleaksFile is the part of gitleaks' format that is of use where there are no files and no commits. Paths are not looked at,
// so a rule for files of one name is one for all texts, and an allowlist of paths allows nothing.
type gitleaksFile struct {
	Allowlist  *gitleaksAllow  `toml:"allowlist"`
	Allowlists []gitleaksAllow `toml:"allowlists"`
	Rules      []struct {
		ID          string          `toml:"id"`
		Regex       string          `toml:"regex"`
		SecretGroup int             `toml:"secretGroup"`
		Entropy     float64         `toml:"entropy"`
		Keywords    []string        `toml:"keywords"`
		Allowlist   *gitleaksAllow  `toml:"allowlist"`
		Allowlists  []gitleaksAllow `toml:"allowlists"`
	} `toml:"rules"`
}

type gitleaksAllow struct {
	Condition   string   `toml:"condition"`
	Commits     []string `toml:"commits"`
	Paths       []string `toml:"paths"`
	RegexTarget string   `toml:"regexTarget"`
	Regexes     []string `toml:"regexes"`
	StopWords   []string `toml:"stopwords"`
}

// maxRules is how many rules there may be.
const maxRules = 1 << 14

// ParseSecrets reads rules in gitleaks' format, from several files: a rule replaces one of the same id before it.
func ParseSecrets(files ...[]byte) (*Secrets, error) {
	s := &Secrets{}
	byID := make(map[string]int)
	keywords := make(map[string]int)
	var list []string
	for n, file := range files {
		var f gitleaksFile
		if err := toml.Unmarshal(file, &f); err != nil {
			return nil, fmt.Errorf("mask: rules of secrets, file %d: %w", n+1, err)
		}
		ofFile, err := compileAllows(f.Allowlist, f.Allowlists)
		if err != nil {
			return nil, fmt.Errorf("mask: rules of secrets, file %d: the allowlist: %w", n+1, err)
		}
		for _, r := range f.Rules {
			if r.Regex == "" {
				continue // one of paths alone
			}
			rule := secretRule{id: r.ID, group: r.SecretGroup, entropy: r.Entropy}
			if rule.expr, err = regexp.Compile(r.Regex); err != nil {
				return nil, fmt.Errorf("mask: the rule %q: %w", r.ID, err)
			}
			if r.ID == "" || rule.group < 0 || rule.group > rule.expr.NumSubexp() || len(s.rules) >= maxRules {
				return nil, fmt.Errorf("mask: the rule %q has no id, or no group %d, or is one too many", r.ID, rule.group)
			}
			if rule.allow, err = compileAllows(r.Allowlist, r.Allowlists); err != nil {
				return nil, fmt.Errorf("mask: the rule %q: its allowlist: %w", r.ID, err)
			}
			rule.allow = append(rule.allow, ofFile...)
			rule.study(r.Regex)
			at, again := byID[r.ID]
			if again {
				for w := range s.ofWord {
					s.ofWord[w] = slices.DeleteFunc(s.ofWord[w], func(k int32) bool { return k == int32(at) })
				}
				s.rules[at] = rule
			} else {
				at = len(s.rules)
				byID[r.ID] = at
				s.rules = append(s.rules, rule)
			}
			for _, k := range r.Keywords {
				k = strings.ToLower(k)
				w, seen := keywords[k]
				if !seen {
					w = len(list)
					keywords[k] = w
					list = append(list, k)
					s.ofWord = append(s.ofWord, nil)
				}
				s.ofWord[w] = append(s.ofWord[w], int32(at))
			}
			if len(r.Keywords) == 0 {
				s.always = append(s.always, int32(at))
			}
		}
	}
	var err error
	if s.words, err = newWords(list); err != nil {
		return nil, fmt.Errorf("mask: keywords of secrets: %w", err)
	}
	return s, nil
}

// compileAllows leaves out lists that can allow nothing here. Those of a file are for its own rules.
func compileAllows(one *gitleaksAllow, more []gitleaksAllow) (all []allowlist, err error) {
	if one != nil {
		more = append(more[:len(more):len(more)], *one)
	}
	for _, a := range more {
		l := allowlist{target: a.RegexTarget, and: strings.EqualFold(a.Condition, "and")}
		if l.and && len(a.Paths)+len(a.Commits) > 0 || len(a.Regexes)+len(a.StopWords) == 0 {
			continue
		}
		for _, e := range a.Regexes {
			x, err := regexp.Compile(e)
			if err != nil {
				return nil, err
			}
			l.exprs = append(l.exprs, x)
		}
		if len(a.StopWords) > 0 {
			if l.words, err = newWords(a.StopWords); err != nil {
				return nil, err
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// study sees from a rule's expression how it must be searched for.
func (r *secretRule) study(expr string) {
	if re, err := syntax.Parse(expr, syntax.Perl); err == nil {
		re = re.Simplify()
		r.long, r.joins = longest(re) > 600, literal(re) >= 3
	}
}

// literal returns how many fixed characters an expression begins with, word boundaries aside.
func literal(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCapture:
		return literal(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, sub := range re.Sub {
			switch sub.Op {
			case syntax.OpWordBoundary, syntax.OpEmptyMatch:
				continue
			}
			m := literal(sub)
			if n += m; m == 0 || sub.Op != syntax.OpLiteral && sub.Op != syntax.OpCapture {
				break
			}
			if sub.Op == syntax.OpCapture {
				return n
			}
		}
		return n
	case syntax.OpAlternate:
		n := 1 << 10
		for _, sub := range re.Sub {
			n = min(n, literal(sub))
		}
		return n
	case syntax.OpCharClass:
		if len(re.Rune) == 2 && re.Rune[0] == re.Rune[1] {
			return 1
		}
	}
	return 0
}

// longest returns the greatest length of a match, or 1 << 20 where there is none, runs of characters without spaces aside.
func longest(re *syntax.Regexp) int {
	const any = 1 << 20
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpStar, syntax.OpPlus:
		for _, s := range re.Sub {
			if s.Op == syntax.OpCharClass && !classHas(s, ' ') {
				return 64 // within one run
			}
		}
		return any
	case syntax.OpCapture, syntax.OpQuest:
		return longest(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, s := range re.Sub {
			n = min(any, n+longest(s))
		}
		return n
	case syntax.OpAlternate:
		n := 0
		for _, s := range re.Sub {
			n = max(n, longest(s))
		}
		return n
	case syntax.OpRepeat:
		if re.Max < 0 {
			return any
		}
		return min(any, re.Max*longest(re.Sub[0]))
	}
	return 0
}

func classHas(re *syntax.Regexp, r rune) bool {
	for i := 0; i+1 < len(re.Rune); i += 2 {
		if re.Rune[i] <= r && r <= re.Rune[i+1] {
			return true
		}
	}
	return false
}

const (
	keyBefore  = 160 // bytes before a run of dense bytes in which keywords count
	window     = 120 // bytes before a keyword that an expression is shown
	windowPast = 48  // bytes after the run
	longPast   = 16 << 10
)

// dense looks at the run of dense bytes around i: whether a rule knows it, and whether it is text in base64 or hexadecimal.
func (v *view) dense(i int) int {
	b := v.b
	if !is(b[i], isDense) {
		return 0
	}
	from, to := i, i
	for from > v.opaque && from > v.done && is(b[from-1], isDense) {
		from--
	}
	digits := false
	for to < len(b) && is(b[to], isDense) {
		digits = digits || is(b[to], isDigit)
		to++
	}
	v.opaque = to
	n := to - from
	if n < 8 || !digits && n < minDense {
		return 0
	}
	if end := v.secret(from, to); end > i {
		return end
	}
	if n == 17 {
		if end := v.dashedMAC(from); end > 0 {
			return end
		}
	}
	if n >= minDense {
		if end := v.encoded(from, to); end > i {
			return end
		}
		if n >= 42 {
			for ws := from; ws < to; {
				we := ws
				for we < to && isWord(b[we]) {
					we++
				}
				if end := v.bech(ws, we); end > 0 {
					return end
				}
				ws = we + 1
			}
		}
	}
	return 0
}

// secret tries the rules whose keywords are in the run [from, to) or before it.
func (v *view) secret(from, to int) int {
	s := v.m.secrets
	if s == nil || !v.m.on(Secret) {
		return 0
	}
	b := v.b
	v.keys.upTo(b, from-keyBefore-64, min(to, from+512))
	tried := v.tried[:0]
	end := 0
	try := func(r int32, at int) {
		rule := &s.rules[r]
		lo := max(0, v.done, at-window)
		for k := 0; k < 64 && lo > v.done && lo > 0 && isWord(b[lo]) && (isWord(b[lo-1]) || b[lo-1] == '_'); k++ {
			lo--
		}
		past := windowPast
		if rule.long {
			past = longPast
		}
		hi := min(len(b), to+past)
		if lo >= hi {
			return // another rule found something longer
		}
		if e := v.tryRule(rule, b[lo:hi], lo, nil); e > end {
			end = e
		}
	}
	for _, r := range s.always {
		try(r, from)
	}
	hits := v.keys.since(from - keyBefore)
	for _, h := range hits {
		for _, r := range s.ofWord[h.word] {
			if !slices.Contains(tried, r) {
				tried = append(tried, r)
				try(r, int(h.end)-int(s.words.size[h.word]))
			}
		}
	}
	if end == 0 && len(hits) > 0 {
		end = v.cut(from, to, tried)
	}
	v.tried = tried
	return end
}

// cut tries rules on the run [from, to) with what goes on in the next line, or began in the line before.
func (v *view) cut(from, to int, tried []int32) int {
	b := v.b
	left, right := from, to
	at, gap := from, 0
	if to < len(b) && (b[to] == '\n' || b[to] == '\r') {
		at = to
		gap = 1
		if b[to] == '\r' && to+1 < len(b) && b[to+1] == '\n' {
			gap = 2
		}
		for right = to + gap; right < len(b) && right-to < 256 && is(b[right], isDense); right++ {
		}
	}
	if right <= to+gap && from > v.done && b[from-1] == '\n' {
		gap = 1
		if from-1 > v.done && b[from-2] == '\r' {
			gap = 2
		}
		at, right = from-gap, to
		for left = at; left > v.done && at-left < 256 && is(b[left-1], isDense); left-- {
		}
	}
	if gap == 0 || left == at || right == at+gap {
		return 0
	}
	v.spare = append(append(v.spare[:0], b[left:at]...), b[at+gap:right]...)
	joined, end := v.spare, 0
	for _, r := range tried {
		if rule := &v.m.secrets.rules[r]; rule.joins {
			end = max(end, v.tryRule(rule, joined, left, &[2]int{at - left, gap}))
		}
	}
	return end
}

// tryRule looks for a rule's secrets in a window of the text that begins at lo. In a window that is joined from two lines, gap
// tells where, and how many bytes were left out.
func (v *view) tryRule(r *secretRule, w []byte, lo int, gap *[2]int) int {
	for skip := 0; skip < len(w); {
		m := r.expr.FindSubmatchIndex(w[skip:])
		if m == nil {
			return 0
		}
		for i := range m {
			if m[i] >= 0 {
				m[i] += skip
			}
		}
		if at, to := r.secret(m); to > at && (gap == nil || at < gap[0] && to > gap[0]) && !v.allowed(r, w, at, to, m[0], m[1]) {
			for to-at > 2 && (w[at] == '"' || w[at] == '\'') && w[to-1] == w[at] { // the quotes may stay
				at++
				to--
			}
			v.form = append(v.form[:0], w[at:to]...)
			if gap != nil {
				to += gap[1]
			}
			return v.addRule(lo+at, lo+to, Secret, r.id, v.form)
		}
		skip = max(m[1], skip+1)
	}
	return 0
}

// leastSecret is the length of a group from which it is taken for the secret, and not for a repeated part of it.
const leastSecret = 6

// secret returns where in a match the secret is: in the group that the rule names, or the first without a name that may be one, or
// all of it.
func (r *secretRule) secret(m []int) (from, to int) {
	if r.group > 0 {
		return m[2*r.group], m[2*r.group+1]
	}
	names := r.expr.SubexpNames()
	for g := 1; g < len(names); g++ {
		if names[g] == "" && m[2*g] >= 0 && m[2*g+1]-m[2*g] >= leastSecret {
			return m[2*g], m[2*g+1]
		}
	}
	return m[0], m[1]
}

// allowed reports whether what a rule's expression matched is no secret.
func (v *view) allowed(r *secretRule, w []byte, at, to, from, end int) bool {
	secret := w[at:to]
	if r.entropy > 0 && entropy(secret) <= r.entropy || r.id == "generic-api-key" && !bytes.ContainsAny(secret, "0123456789") {
		return true
	}
	lineFrom, lineTo := bytes.LastIndexByte(w[:from], '\n')+1, len(w)
	if n := bytes.IndexByte(w[end:], '\n'); n >= 0 {
		lineTo = end + n
	}
	match, line := w[from:end], w[lineFrom:lineTo]
	return slices.ContainsFunc(r.allow, func(a allowlist) bool { return a.allows(secret, match, line) })
}

func (a *allowlist) allows(secret, match, line []byte) bool {
	target := secret
	switch a.target {
	case "match":
		target = match
	case "line":
		target = line
	}
	byExpr := slices.ContainsFunc(a.exprs, func(x *regexp.Regexp) bool { return x.Match(target) })
	byWord := a.words != nil && a.words.in(secret)
	if a.and {
		return (byExpr || len(a.exprs) == 0) && (byWord || a.words == nil)
	}
	return byExpr || byWord
}
