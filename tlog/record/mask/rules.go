package mask

import (
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
	ofWord [][]keyword // by word: what it is a keyword of
	always []int32     // rules that have no keywords
}

type secretRule struct {
	id      string
	expr    *regexp.Regexp
	group   int
	entropy float64
	allow   []allowlist
	names   []string // of the groups of expr

	// How to look for it with little asked of expr, which is slow.
	start *regexp.Regexp // expr at the beginning of a text, if all that it matches begins with a keyword
	word  bool           // what it matches begins a word
	past  int            // bytes after a keyword, or a run of dense bytes, that expr may want to see
	name  *regexp.Regexp // of rules that are a name, an operator and a value: the name from a keyword on, up to the operator
	value *regexp.Regexp // and from the operator on
	joins bool           // is looked for across the end of a line: it begins with fixed characters
}

// A keyword of a rule: inside, if it stands in the secret itself and not before it.
type keyword struct {
	rule   int32
	inside bool
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

// DefaultSecrets reads the rules that the package brings: gitleaks' own of version 8, and a few of ours, rules/more.toml; and
// then further ones, as ParseSecrets does. It takes some tens of milliseconds.
func DefaultSecrets(more ...[]byte) (*Secrets, error) {
	return ParseSecrets(append([][]byte{gitleaksRules, moreRules}, more...)...)
}

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
			rule.names = rule.expr.SubexpNames()
			if r.ID == "" || rule.group < 0 || rule.group > rule.expr.NumSubexp() || len(s.rules) >= maxRules {
				return nil, fmt.Errorf("mask: the rule %q has no id, or no group %d, or is one too many", r.ID, rule.group)
			}
			if rule.allow, err = compileAllows(r.Allowlist, r.Allowlists); err != nil {
				return nil, fmt.Errorf("mask: the rule %q: its allowlist: %w", r.ID, err)
			}
			rule.allow = append(rule.allow, ofFile...)
			tight := rule.study(r.Regex, r.Keywords)
			at, again := byID[r.ID]
			if again {
				for w := range s.ofWord {
					s.ofWord[w] = slices.DeleteFunc(s.ofWord[w], func(k keyword) bool { return k.rule == int32(at) })
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
				s.ofWord[w] = append(s.ofWord[w], keyword{int32(at), tight && strings.Contains(strings.ReplaceAll(strings.ToLower(r.Regex), `\`, ""), k)})
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

// study sees from a rule's expression how it can be looked for, and whether what it matches has no spaces in it but at the end.
func (r *secretRule) study(expr string, keywords []string) (tight bool) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return false
	}
	alternatives := re.Op == syntax.OpAlternate
	re = re.Simplify()
	r.past = min(max(lengthOf(re), windowPast), maxPast)
	begin, _ := heads(re)
	starts := len(begin) > 0
	least := 1 << 10
	for _, h := range begin {
		least = min(least, len(h))
		starts = starts && slices.ContainsFunc(keywords, func(k string) bool { return strings.HasPrefix(h, strings.ToLower(k)) })
	}
	r.joins = len(begin) > 0 && least >= 3
	flags := ""
	if strings.HasPrefix(expr, "(?i)") {
		flags = "(?i)"
	}
	if starts {
		r.start, _ = regexp.Compile("^(?:" + expr + ")")
		r.word = strings.HasPrefix(strings.TrimPrefix(expr, flags), `\b`)
	}
	// gitleaks writes all rules of assignments with the same operators, and lets the same stand before the name.
	if name, value, ok := strings.Cut(strings.ReplaceAll(expr, anyBefore, ""), operators); ok && !alternatives && !starts {
		x, err := regexp.Compile(flags + "^(?:" + strings.TrimPrefix(name, flags) + ")$")
		if err == nil && !slices.ContainsFunc(keywords, func(k string) bool { return !x.MatchString(k) }) {
			if r.value, err = regexp.Compile(flags + "^(?:" + operators + value + ")"); err == nil {
				r.name = x
			}
		}
	}
	if re.Op == syntax.OpConcat && len(re.Sub) > 1 {
		re.Sub = re.Sub[:len(re.Sub)-1]
	}
	return !spaced(re)
}

const (
	operators = `(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)`
	anyBefore = `[\w.-]{0,50}?`
)

// maxHeads is how many ways of beginning are told apart.
const maxHeads = 64

// heads returns the fixed characters, in lower case, that all matches begin with, in all ways that there are, and whether they are all
// of a match; none if there are too many.
func heads(re *syntax.Regexp) (list []string, whole bool) {
	switch re.Op {
	case syntax.OpLiteral:
		return []string{strings.ToLower(string(re.Rune))}, true
	case syntax.OpEmptyMatch, syntax.OpWordBoundary, syntax.OpNoWordBoundary, syntax.OpBeginLine, syntax.OpBeginText:
		return []string{""}, true
	case syntax.OpCapture:
		return heads(re.Sub[0])
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			for r := re.Rune[i]; r <= re.Rune[i+1]; r++ {
				if list = append(list, strings.ToLower(string(r))); len(list) > 8 {
					return []string{""}, false
				}
			}
		}
		slices.Sort(list)
		return slices.Compact(list), true
	case syntax.OpAlternate:
		whole = true
		for _, sub := range re.Sub {
			l, w := heads(sub)
			list, whole = append(list, l...), whole && w
		}
		if len(list) > maxHeads {
			return []string{""}, false
		}
		return list, whole
	case syntax.OpConcat:
		list, whole = []string{""}, true
		for _, sub := range re.Sub {
			l, w := heads(sub)
			if len(l)*len(list) > maxHeads {
				return list, false
			}
			var longer []string
			for _, a := range list {
				for _, b := range l {
					longer = append(longer, a+b)
				}
			}
			if list = longer; !w {
				return list, false
			}
		}
		return list, whole
	}
	return []string{""}, false
}

func spaced(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCharClass:
		return classHas(re, ' ')
	case syntax.OpLiteral:
		return slices.Contains(re.Rune, ' ')
	}
	return slices.ContainsFunc(re.Sub, spaced)
}

// lengthOf returns the greatest length of a match, or 1 << 20 where there is none, runs of characters without spaces aside.
func lengthOf(re *syntax.Regexp) int {
	const any = 1 << 20
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpStar, syntax.OpPlus:
		switch s := re.Sub[0]; {
		case s.Op == syntax.OpCharClass && !classHas(s, ' '):
			return 64 // within one run
		case s.Op == syntax.OpAnyCharNotNL, s.Op == syntax.OpCharClass && !(classHas(s, '\n') && classHas(s, '"') && classHas(s, '\'')):
			return 256 // a line, or what is quoted
		}
		return any
	case syntax.OpCapture, syntax.OpQuest:
		return lengthOf(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, s := range re.Sub {
			n = min(any, n+lengthOf(s))
		}
		return n
	case syntax.OpAlternate:
		n := 0
		for _, s := range re.Sub {
			n = max(n, lengthOf(s))
		}
		return n
	case syntax.OpRepeat:
		if re.Max < 0 {
			return lengthOf(&syntax.Regexp{Op: syntax.OpStar, Sub: re.Sub})
		}
		return min(any, re.Max*lengthOf(re.Sub[0]))
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
