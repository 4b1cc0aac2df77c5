package mask

import (
	"bytes"
	"regexp"
	"slices"
)

const (
	minWord    = 20  // bytes of a secret without digits
	keyBefore  = 160 // bytes before a run of dense bytes in which keywords count
	window     = 120 // bytes before a keyword that an expression is shown
	windowPast = 48  // bytes after the run
	manyLines  = 600 // the same, from which a rule spans lines
	maxPast    = 16 << 10
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
	digits, hexes, word, longest := false, true, 0, 0
	for ; to < len(b) && is(b[to], isDense); to++ {
		c := b[to]
		digits = digits || is(c, isDigit)
		hexes = hexes && (is(c, isHex) || c == ':')
		if word++; c == '.' || c == '/' || c == ':' || c == '%' {
			word = 0
		}
		longest = max(longest, word)
	}
	v.opaque = to
	n := to - from
	if n == 17 {
		if end := v.dashedMAC(from); end > 0 {
			return end
		}
	}
	// What has no digit in it is a secret only if it is long, and of one piece; paths and qualified names are not.
	if n < 8 || !digits && (n < minDense || longest < minWord && !hexes) {
		return 0
	}
	if end := v.secret(from, to); end > i {
		return end
	}
	if n >= minEncoded {
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
	if s == nil || !v.m.on.secret {
		return 0
	}
	b := v.b
	v.keys.upTo(b, from-keyBefore-64, min(to, from+512))
	v.tried = v.tried[:0]
	end := 0
	for _, r := range s.always {
		end = max(end, v.tryRule(&s.rules[r], max(v.done, from-window), to+s.rules[r].past))
	}
	hits := v.keys.since(from - keyBefore)
	assigned := v.assigned(from, to)
	for _, h := range hits {
		at, after := int(h.end)-int(s.words.size[h.word]), int(h.end)
		for _, k := range s.ofWord[h.word] {
			rule := &s.rules[k.rule]
			switch {
			case k.inside && after <= from || at < v.done:
			case rule.value != nil:
				if assigned && after >= from-assignBefore {
					end = max(end, v.assigns(rule, at, after, to))
				}
			case rule.start != nil:
				if !(rule.word && at > 0 && (isWord(b[at-1]) || b[at-1] == '_')) && !v.again(k.rule, at) {
					end = max(end, v.startRule(rule, at))
				}
			case !slices.Contains(v.tried, k.rule):
				v.tried = append(v.tried, k.rule)
				lo := max(v.done, at-window)
				for k := 0; k < 64 && lo > v.done && isWord(b[lo]) && (isWord(b[lo-1]) || b[lo-1] == '_'); k++ {
					lo--
				}
				end = max(end, v.tryRule(rule, lo, to+rule.past))
			}
		}
	}
	if len(hits) > 0 && (end == 0 || end >= to) { // what a name makes a secret may be the first half of a key
		end = max(end, v.cut(from, to, hits))
	}
	return end
}

// again reports whether a rule was tried at a keyword already, and notes that it was.
func (v *view) again(rule int32, at int) bool {
	for i := len(v.starts) - 1; i >= 0 && i >= len(v.starts)-32; i-- {
		if v.starts[i] == [2]int{int(rule), at} {
			return true
		}
	}
	v.starts = append(v.starts, [2]int{int(rule), at})
	return false
}

// startRule tries a rule where a keyword stands that all it matches begins with.
func (v *view) startRule(r *secretRule, at int) int {
	if !v.afford(r) {
		return 0
	}
	w := v.b[at:min(len(v.b), at+r.past)]
	m := r.start.FindSubmatchIndex(w)
	if m == nil {
		v.spend(r, len(w))
		return 0
	}
	from, to := secretIn(m, r.group, r.names)
	return v.admit(r, w, at, from, to, m[0], m[1])
}

// assignBefore is how far before a value its name may end.
const assignBefore = 34

// assigns tries a rule of assignments: whether from a keyword in [at, after) on there is a name, an operator and a value.
func (v *view) assigns(r *secretRule, at, after, to int) int {
	b := v.b
	for i := after; i < min(len(b), to, after+assignBefore); i++ {
		if !oneOf(b[i], "=>:|?,") {
			continue
		}
		m := r.value.FindSubmatchIndex(b[i:min(len(b), i+r.past+16)])
		if m == nil || !r.name.Match(b[at:i]) {
			continue
		}
		from, end := secretIn(m, r.group, r.names)
		// What may stand before the name belongs to the match, for those who allow matches.
		start := at
		for start > 0 && at-start < 50 && (isWord(b[start-1]) || oneOf(b[start-1], "_.-")) {
			start--
		}
		if e := v.admit(r, b[start:min(len(b), i+m[1]+windowPast)], start, i-start+from, i-start+end, 0, i-start+m[1]); e > 0 {
			return e
		}
	}
	return 0
}

// assigned reports whether the run of dense bytes [from, to) may be a value that something is set to, or may have one in it.
func (v *view) assigned(from, to int) bool {
	b := v.b
	for i := from; i < to-7; i++ {
		if b[i] == '=' || b[i] == ':' {
			return true
		}
	}
	i := from - 1
	for k := 0; k < 5 && i >= 0 && (b[i] == ' ' || b[i] == '"' || b[i] == '\'' || b[i] == '`' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r'); k++ {
		i--
	}
	return i >= 0 && oneOf(b[i], "=>:|,")
}

// cut tries rules on the run [from, to) with what goes on in the next line, or began in the line before.
func (v *view) cut(from, to int, hits []hit) int {
	b := v.b
	if to < len(b) && (b[to] == '\n' || b[to] == '\r') {
		gap := 1
		if b[to] == '\r' && to+1 < len(b) && b[to+1] == '\n' {
			gap = 2
		}
		right := to + gap
		for right < len(b) && right-to < 256 && is(b[right], isDense) {
			right++
		}
		if end := v.across(from, to, gap, right, hits); end > 0 {
			return end
		}
	}
	if from > v.done && b[from-1] == '\n' {
		gap := 1
		if from-1 > v.done && b[from-2] == '\r' {
			gap = 2
		}
		left := from - gap
		for left > v.done && from-gap-left < 256 && is(b[left-1], isDense) {
			left--
		}
		return v.across(left, from-gap, gap, to, hits)
	}
	return 0
}

// across tries rules on [left, right) without the end of a line that stands at at and has gap bytes, where what is before it is
// not enough for them.
func (v *view) across(left, at, gap, right int, hits []hit) int {
	if left == at || right <= at+gap {
		return 0
	}
	b := v.b
	v.spare = append(append(v.spare[:0], b[left:at]...), b[at+gap:right]...)
	joined, end := v.spare, 0
	v.tried = v.tried[:0]
	for _, h := range hits {
		for _, k := range v.m.secrets.ofWord[h.word] {
			rule := &v.m.secrets.rules[k.rule]
			if !rule.joins || slices.Contains(v.tried, k.rule) {
				continue
			}
			v.tried = append(v.tried, k.rule)
			if m := rule.expr.FindSubmatchIndex(joined); m != nil && !rule.expr.Match(joined[:at-left]) {
				f, t := secretIn(m, rule.group, rule.names)
				if f < at-left && t > at-left && !v.allowed(rule, joined, f, t, m[0], m[1]) {
					v.form = append(v.form[:0], joined[f:t]...)
					end = max(end, v.addRule(left+f, left+t+gap, Secret, rule.id, v.form))
				}
			}
		}
	}
	return end
}

// afford reports whether an expression that spans lines may be shown more of this text: they are slow, and a text that has their
// keywords again and again would take for ever. The others are not bounded.
func (v *view) afford(r *secretRule) bool {
	return r.past <= manyLines || v.spent <= 256<<10+2*len(v.b)
}

// spend notes what a rule's expression was shown in vain.
func (v *view) spend(r *secretRule, n int) {
	if r.past > manyLines {
		v.spent += n
	}
}

// tryRule looks for a rule's secrets in b[lo:hi].
func (v *view) tryRule(r *secretRule, lo, hi int) int {
	if !v.afford(r) {
		return 0
	}
	for hi = min(hi, len(v.b)); lo < hi; {
		w := v.b[lo:hi]
		m := r.expr.FindSubmatchIndex(w)
		if m == nil {
			v.spend(r, len(w))
			return 0
		}
		from, to := secretIn(m, r.group, r.names)
		if end := v.admit(r, w, lo, from, to, m[0], m[1]); end > 0 {
			return end
		}
		lo += max(m[1], 1)
	}
	return 0
}

// admit notes the secret w[from:to] of the match w[at:end], if no allowlist allows it; w begins at lo.
func (v *view) admit(r *secretRule, w []byte, lo, from, to, at, end int) int {
	if from >= to || v.allowed(r, w, from, to, at, end) {
		return 0
	}
	for to-from > 2 && (w[from] == '"' || w[from] == '\'') && w[to-1] == w[from] { // the quotes may stay
		from++
		to--
	}
	for to-from > leastSecret && w[to-1] == '.' { // the end of a sentence
		to--
	}
	return v.addRule(lo+from, lo+to, Secret, r.id, w[from:to])
}

// leastSecret is the length of a group from which it is taken for the secret, and not for a repeated part of it.
const leastSecret = 6

// secretIn returns where in a match the secret is: in the group that the rule names, or the first without a name that may be one, or
// all of it.
func secretIn(m []int, group int, names []string) (from, to int) {
	if group > 0 {
		return m[2*group], m[2*group+1]
	}
	for g := 1; 2*g < len(m); g++ {
		if (g >= len(names) || names[g] == "") && m[2*g] >= 0 && m[2*g+1]-m[2*g] >= leastSecret {
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
