package mask

import (
	"github.com/nyaruka/phonenumbers"
)

// maxAsked is how often the library is asked for one body.
const maxAsked = 1000

// phone finds a telephone number whose first digits are at ws. The library is asked of few: it takes as long as scanning a
// page does.
func (v *view) phone(ws int) int {
	b := v.b
	if !v.m.on.phone {
		return 0
	}
	from, international := ws, false
	for k := 0; k < 2 && from > v.done && (b[from-1] == '(' || b[from-1] == '+'); k++ {
		from--
		international = international || b[from] == '+'
	}
	if from > 0 && isWord(b[from-1]) {
		return 0
	}
	to, n, groups, seps, longest, run := ws, 0, 0, uint16(0), 0, 0
	for i := ws; i < len(b) && i-ws < 32; i++ {
		c := b[i]
		if is(c, isDigit) {
			if run == 0 {
				groups++
			}
			run++
			longest = max(longest, run)
			n++
			to = i + 1
			continue
		}
		run = 0
		gap := i - to
		if gap >= 2 && !(gap == 2 && c == '(') || !oneOf(c, " -./()\t") {
			break
		}
		switch c {
		case '.':
			seps |= dot
		case '-':
			seps |= dash
		case '/':
			seps |= slash
		default:
			seps |= space
		}
	}
	if n < 7 || n > 15 || to < len(b) && (is(b[to], isLetter) && b[to]|0x20 != 'x' || b[to] == '@' || b[to] == '_') {
		return 0
	}
	international = international || n > 10 && b[ws] == '0' && b[ws+1] == '0'
	bracket := from < ws && b[from] == '('
	if left, right := v.joined(from, to); right || left && !international {
		return 0
	}
	if seps == dot && groups < 3 || seps == slash && !international {
		return 0
	}
	if dFrom, dTo := v.date(ws, ws); dTo == to && dFrom == ws && groups == 3 && n == 8 {
		return 0
	}
	region, sure := "", false
	switch {
	case international:
		sure = v.told(Phone, from, to, 24)
	case v.told(Phone, from, to, 24):
		sure = n <= 12 && (groups > 1 || n >= 7)
	case v.told(phoneToo, from, to, 32) && n <= 12 && (groups > 1 && longest <= 7 || b[ws] == '0' && n >= 9):
		sure = seps&(dot|slash) == 0 || groups >= 3
	case nanp(b[ws:to]) && (bracket || inThree(b[ws:to])) && !v.crowded(from, to):
		region = "US"
	case v.only(from, to) && n >= 10 && (b[ws] == '0' || bracket) && longest <= 11:
	default:
		return 0
	}
	var canon []byte
	ok := false
	if v.asked++; v.asked < maxAsked {
		canon, ok = v.valid(b[from:to], region, international, sure)
	} else {
		sure = true // there are too many: each is believed
	}
	if !ok && !sure {
		return 0
	}
	if !ok {
		form := v.form[:0]
		for _, c := range b[ws:to] {
			if is(c, isDigit) {
				form = append(form, c)
			}
		}
		v.form, canon = form, form
	}
	// An extension goes with it.
	if e := to; e < len(b) {
		for k := 0; k < 2 && e < len(b) && b[e] == ' '; k++ {
			e++
		}
		if e+3 < len(b) && lower(b[e]) == 'e' && lower(b[e+1]) == 'x' && lower(b[e+2]) == 't' {
			for e += 3; e < len(b) && oneOf(b[e], ". "); e++ {
			}
		} else if e < len(b) && b[e]|0x20 == 'x' {
			e++
		}
		at := e
		for e < len(b) && e-at < 6 && is(b[e], isDigit) {
			e++
		}
		if e > at && at > to && lower(b[at-1]) != ' ' && (e == len(b) || !isWord(b[e])) {
			to = e
		}
	}
	return v.add(from, to, Phone, canon)
}

// nanp reports whether the digits of b may be a number of the North American plan: ten, area and exchange not beginning with 0 or
// 1, perhaps after a 1.
func nanp(b []byte) bool {
	var d [16]byte
	n := 0
	for _, c := range b {
		if is(c, isDigit) && n < len(d) {
			d[n] = c
			n++
		}
	}
	v := d[:n]
	if n == 11 && v[0] == '1' {
		v = v[1:]
	}
	return len(v) == 10 && v[0] >= '2' && v[3] >= '2'
}

// inThree reports whether the digits of b end with groups of three, three and four.
func inThree(b []byte) bool {
	i := len(b) - 1
	for _, n := range [...]int{4, 3, 3} {
		at := i
		for i >= 0 && is(b[i], isDigit) {
			i--
		}
		if at-i != n {
			return false
		}
		for i >= 0 && !is(b[i], isDigit) {
			i--
		}
	}
	return true
}

// valid asks whether a number is in use in the region, or, if no region is named, in one of those that are configured.
func (v *view) valid(b []byte, region string, international, quick bool) (canon []byte, ok bool) {
	text := string(b)
	regions := v.m.regions
	switch {
	case international:
		if len(text) > 2 && text[:2] == "00" {
			text = "+" + text[2:]
		}
		regions = []string{""}
	case region != "":
		regions = []string{region}
	case quick:
		regions = regions[:min(1, len(regions))] // only for its canonical form
	}
	for _, r := range regions {
		num, err := phonenumbers.Parse(text, r)
		if err == nil && phonenumbers.IsValidNumber(num) {
			return []byte(phonenumbers.Format(num, phonenumbers.E164)), true
		}
	}
	return nil, false
}
