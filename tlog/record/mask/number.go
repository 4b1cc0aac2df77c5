package mask

import (
	"bytes"
)

// A part is a word of a number that is written in parts.
type part struct {
	from, to int
	sep      uint16 // what stands before it
}

const (
	maxParts  = 20
	maxNumber = 34 // digits and letters
	maxWord   = 48
)

// number finds what the word at i may be, alone or with the words that follow it, and returns where to look on.
func (v *view) number(i int) int {
	b := v.b
	ws, we := i, i
	for ws > v.done && ws > i-maxWord && isWord(b[ws-1]) {
		ws--
	}
	for we < len(b) && isWord(b[we]) {
		we++
	}
	n := we - ws
	if n > maxNumber {
		if end := v.inWord(ws, we, i); end > 0 {
			return end
		}
		if n > maxWord {
			return we
		}
	}
	digits := allDigits(b[ws:we])
	word := we+2 < len(b) && b[we] == ' ' && 'a' <= b[we+1] && 'z' >= b[we+1] && !is(b[we+2], isDigit) // follows, as after most numbers in prose
	if word && n <= 2 && digits && b[we+1] != 'o' && b[we+1] != 'd' {
		if k := contextKey(b, we+1); monthKeys[k/32]&(1<<(k%32)) == 0 {
			return we // too short for anything, and no day of a month
		}
	}
	parts := v.group(ws)
	goes := len(parts) > 1 || !word && we+1 < len(b) && oneOf(b[we], " -./(),")
	if n <= 2 && !goes && !word {
		return we
	}
	if goes && n <= 4 {
		if digits && v.m.on.ip && n <= 3 && b[we] == '.' {
			if end := v.quad(ws); end > 0 {
				return end
			}
		}
		if n == 2 && (b[we] == '-' || ws > 0 && b[ws-1] == '-') || n == 4 && (b[we] == '.' || ws > 0 && b[ws-1] == '.') {
			if end := v.dashedMAC(i); end > 0 {
				return end
			}
		}
	}
	if !digits && n > 4 {
		if end := v.inWord(ws, we, i); end > 0 {
			return end
		}
		if n >= 26 {
			if end := v.crypto(ws, we); end > 0 {
				return end
			}
		}
	}
	if !digits || (goes || word) && n != 3 || n == 8 {
		if end := v.birth(ws, we); end > 0 {
			return end
		}
	}
	if end := v.match(parts); end > 0 {
		return end
	}
	// A number whose first part is letters, and separate: AB 12 34 56 C.
	if from, sep := v.lead(ws); sep != 0 && len(parts) < maxParts {
		copy(v.parts[1:], parts)
		v.parts[0] = part{from, from, 0}
		for isWord(b[v.parts[0].to]) {
			v.parts[0].to++
		}
		v.parts[1].sep = sep
		if end := v.match(v.parts[:len(parts)+1]); end > 0 {
			return end
		}
	}
	if goes || n >= 7 {
		if end := v.phone(ws); end > 0 {
			return end
		}
	}
	if end := v.pinOrCode(ws, we, digits); end > 0 {
		return end
	}
	if n > 3 || goes {
		if end := v.labelled(ws); end > 0 {
			return end
		}
	}
	return we
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// inWord finds card numbers that have letters before or after them in a word.
func (v *view) inWord(ws, we, i int) int {
	b := v.b
	if we-ws < 14 || allDigits(b[ws:we]) {
		return 0
	}
	for from := i; from < we; from++ {
		if !is(b[from], isDigit) {
			continue
		}
		to := from
		for to < we && is(b[to], isDigit) {
			to++
		}
		if n := to - from; (from == i || !is(b[from-1], isDigit)) && 13 <= n && n <= 19 && luhn(b[from:to]) && network(b[from:to]) && v.m.on.card {
			if we-ws-n <= 6 || n >= 15 && !allHex(b[ws:we]) {
				return v.card(from, to, b[from:to])
			}
		}
		from = to
	}
	return 0
}

func allHex(b []byte) bool {
	for _, c := range b {
		if !is(c, isHex) {
			return false
		}
	}
	return true
}

// group returns the words that may be parts of one number, from the one that begins at from.
func (v *view) group(from int) []part {
	b := v.b
	ps := v.parts[:0]
	total, sep := 0, uint16(0)
	for len(ps) < maxParts-1 {
		to := from
		for to < len(b) && isWord(b[to]) {
			to++
		}
		if total += to - from; total > maxNumber && len(ps) > 0 {
			break
		}
		ps = append(ps, part{from, to, sep})
		var n int
		if sep, n = separator(b[to:]); n == 0 {
			break
		}
		from = to + n
		end, digits, low := from, false, false
		for end < len(b) && isWord(b[end]) {
			digits = digits || is(b[end], isDigit)
			low = low || 'a' <= b[end]
			end++
		}
		if !digits && (low && !ibanHead(b[ps[0].from:ps[0].to]) || end-from > 4) && !(end-from == 1 && sep != space) {
			break
		}
	}
	return ps
}

// ibanHead reports whether an IBAN that is written in groups may begin so.
func ibanHead(b []byte) bool {
	return len(b) == 4 && is(b[0], isLetter) && is(b[1], isLetter) && is(b[2], isDigit) && is(b[3], isDigit)
}

// separator returns what separates two parts at the beginning of b, and its length; 0 if nothing does, or too much.
func separator(b []byte) (sep uint16, n int) {
	for n < len(b) && n < 4 && !isWord(b[n]) {
		s := uint16(0)
		switch b[n] {
		case ' ', '\t':
			if sep != 0 {
				n++
				continue
			}
			s = space
		case '-':
			s = dash
		case '.':
			s = dot
		case '/':
			s = slash
		case '_':
			s = under
		case ':':
			s = colon
		case '+':
			s = plus
		case '\n', '\r':
			s = line
		default:
			return 0, 0
		}
		if sep != 0 && sep != space && sep != s {
			return 0, 0
		}
		sep = s
		n++
	}
	if n == len(b) || n > 0 && !isWord(b[n]) {
		return 0, 0
	}
	return sep, n
}

// lead returns where a word of one to three letters begins that stands before a number, and what is between.
func (v *view) lead(ws int) (from int, sep uint16) {
	b := v.b
	i := ws - 1
	for i >= v.done && ws-i < 4 && (b[i] == ' ' || b[i] == '-') {
		i--
	}
	to := i + 1
	if to == ws || to <= v.done {
		return 0, 0
	}
	for i >= v.done && 'A' <= b[i]&^0x20 && b[i]&^0x20 <= 'Z' {
		i--
	}
	if n := to - i - 1; n < 1 || n > 3 || i >= 0 && isWord(b[i]) {
		return 0, 0
	}
	if sep, _ = separator(b[to:]); sep == space && !isUpper(b[i+1]) {
		return 0, 0 // a word
	}
	return i + 1, sep
}

const digits36 = "0123456789abcdefghijklmnopqrstuvwxyz"

// match finds the number that begins with the first part: the longest that is one.
func (v *view) match(ps []part) int {
	b := v.b
	form, lens := v.form[:0], v.lens[:0]
	for _, p := range ps {
		for _, c := range b[p.from:min(p.to, p.from+maxWord)] {
			form = append(form, upper(c))
		}
		lens = append(lens, digits36[min(p.to-p.from, 35)])
	}
	v.form, v.lens = form, lens
	size := len(form)
	for e := len(ps) - 1; e >= 0; e-- {
		if e < len(ps)-1 {
			size -= ps[e+1].to - ps[e+1].from
		}
		if size < 4 || size > maxNumber {
			continue
		}
		if end := v.matchTo(ps[:e+1], form[:size], lens[:e+1]); end > 0 {
			return end
		}
	}
	return 0
}

func (v *view) matchTo(ps []part, form, lens []byte) int {
	b := v.b
	from, to := ps[0].from, ps[len(ps)-1].to
	seps, uniform := uint16(0), true
	for _, p := range ps[1:] {
		sep := p.sep
		if sep == line {
			sep = space // as any other, if a word of context is near
		}
		uniform = uniform && (seps&^line == 0 || seps&^line == sep)
		seps |= p.sep | sep
	}
	lines := seps&line != 0
	n := len(form)
	if 12 <= n && n <= 19 && v.m.on.card && v.isCard(ps, form, lens, seps) {
		return v.card(from, to, form)
	}
	if 15 <= n && lens[0] != '1' && !is(form[0], isDigit) && !is(form[1], isDigit) && is(form[2], isDigit) && is(form[3], isDigit) && v.m.on.iban &&
		seps&^(space|dash|line) == 0 && iban(form) {
		return v.add(from, to, IBAN, form)
	}
	if n >= len(v.m.forms) || len(v.m.forms[n]) == 0 {
		return 0
	}
	left, right := v.joined(from, to)
	var best *shape
	least := 3 * far
	for k, sh := range v.m.forms[n] {
		need := sh.whole
		if len(ps) > 1 {
			if need = sh.parted; need == never || seps&^line&^sh.seps != 0 || !uniform && sh.seps&mixed == 0 || !wayOf(sh.parts, lens) {
				continue
			}
		}
		if need == never || !fits(sh.form, form) || sh.check != nil && !sh.check(form) {
			continue
		}
		most := before
		if sh.check == nil {
			most = 48
		}
		d := v.distance(sh.kind, from, to, most)
		if d == far {
			if left || right || lines || need == told || need == alone && !v.only(from, to) {
				continue
			}
			if len(ps) > 1 && seps == space && sh.check == nil && v.crowded(from, to) {
				continue
			}
			if len(ps) > 1 && 'a' <= b[from] && sh.check == nil {
				continue
			}
			if d = far + k; need == alone {
				d += far
			}
		} else if left && d > 8 || right {
			continue
		}
		if d < least {
			best, least = sh, d
		}
	}
	if best == nil {
		return 0
	}
	return v.add(from, to, best.kind, form)
}

// joined reports whether what is left or right of a number makes it a piece of something longer.
func (v *view) joined(from, to int) (left, right bool) {
	b := v.b
	if from > 1 && (is(b[from-2], isDigit) && (b[from-1] == '-' || b[from-1] == '.' || b[from-1] == '/' || b[from-1] == '+') || b[from-1] == '+') {
		left = true
	}
	if from > 0 && (b[from-1] == '$' || b[from-1] == '%') || from > 2 && (string(b[from-3:from]) == "€" || string(b[from-2:from]) == "£") {
		left = true
	}
	if to+1 < len(b) && (b[to] == '-' || b[to] == '.' || b[to] == '/' || b[to] == '+') && is(b[to+1], isDigit) {
		right = true
	}
	if to < len(b) && b[to] == '%' {
		right = true
	}
	return left, right
}

// crowded reports whether more digits stand beside a number that is written with spaces.
func (v *view) crowded(from, to int) bool {
	b := v.b
	return from > 1 && b[from-1] == ' ' && is(b[from-2], isDigit) || to+1 < len(b) && b[to] == ' ' && is(b[to+1], isDigit)
}

// wayOf reports whether lens is one of the ways, separated by spaces, or there are none.
func wayOf(ways string, lens []byte) bool {
	if ways == "" {
		return true
	}
	for at := 0; at < len(ways); {
		end := at
		for end < len(ways) && ways[end] != ' ' {
			end++
		}
		if ways[at:end] == string(lens) {
			return true
		}
		at = end + 1
	}
	return false
}

// fits reports whether a number has a form of the same length.
func fits(form string, v []byte) bool {
	for i, c := range v {
		switch f := form[i]; {
		case f == '*':
		case f == '9':
			if c > '9' {
				return false
			}
		case f == 'A':
			if c < 'A' {
				return false
			}
		case f != lower(c):
			return false
		}
	}
	return true
}

// isCard reports whether digits in parts are a card's number.
func (v *view) isCard(ps []part, form, lens []byte, seps uint16) bool {
	if !allDigits(form) || !luhn(form) || same(form) {
		return false
	}
	from, to := ps[0].from, ps[len(ps)-1].to
	left, right := v.joined(from, to)
	if b := v.b; left && (b[from-1] == '.' || b[from-1] == '+') || right && b[to] == '.' {
		return false
	}
	if seps&^(space|dash|dot|line|under|slash) != 0 {
		return false
	}
	known := network(form)
	if known && !left && !right || known && len(ps) == 1 && len(form) >= 15 {
		switch {
		case len(ps) == 1:
			return true
		case seps&(seps-1) == 0 || seps == space|line || seps == dash|space|line:
			switch string(lens) {
			case "4444", "465", "464", "4443", "4441", "4442", "44443", "6d", "88", "544":
				return true
			}
			if len(lens) >= 12 && bytes.Count(lens, []byte{'1'}) == len(lens) || len(ps) == 2 && seps&line != 0 {
				return len(form) >= 15
			}
		}
	}
	if left || right {
		return false
	}
	return v.told(Card, from, to, 48)
}

// card notes a card's number, and the whole of the magnetic stripe that it may stand in.
func (v *view) card(from, to int, form []byte) int {
	b := v.b
	if to+5 < len(b) && (b[to] == '^' || b[to] == '=' || b[to] == 'D' && is(b[to+1], isDigit) && is(b[to+4], isDigit)) && v.m.on.track {
		end := to + 1
		for end < len(b) && end-to < 120 && b[end] != '?' && b[end] != '\n' && b[end] != '"' && (b[to] == '^' || b[end] != ' ') {
			end++
		}
		if carets := bytes.Count(b[to:end], []byte{'^'}); b[to] == '^' && carets >= 2 || b[to] != '^' && end-to >= 8 && allDigits(b[to+1:to+5]) {
			if end < len(b) && b[end] == '?' {
				end++
			}
			switch {
			case from > 1 && b[from-1]&^0x20 == 'B' && b[from-2] == '%':
				from -= 2
			case from > 0 && b[from-1] == ';':
				from--
			}
			return v.add(from, end, Track, b[from:end])
		}
	}
	end := v.add(from, to, Card, form)
	// The security code after number and expiry, as people write the three in a row: 4111 1111 1111 1111 12/27 123.
	i := to
	skip := func(set string) {
		for i < len(b) && i-to < 24 && oneOf(b[i], set) {
			i++
		}
	}
	count := func() int {
		n := 0
		for i < len(b) && is(b[i], isDigit) {
			i++
			n++
		}
		return n
	}
	skip(" ,;|\t\n")
	if n := count(); n == 1 || n == 2 {
		if i < len(b) && oneOf(b[i], "/-") {
			i++
			if n := count(); n == 2 || n == 4 {
				skip(" ,;|\t\n")
				at := i
				if n := count(); (n == 3 || n == 4) && (i == len(b) || !isWord(b[i])) && v.m.on.cvv {
					end = v.add(at, i, CVV, b[at:i])
				}
			}
		}
	}
	return end
}

// pinOrCode finds security codes and personal numbers of cards: three to eight digits that a word right beside them names.
func (v *view) pinOrCode(ws, we int, digits bool) int {
	if n := we - ws; !digits || n < 3 || n > 8 {
		return 0
	} else if left, right := v.joined(ws, we); left || right {
		return 0
	} else if n <= 4 && v.m.on.cvv && v.code.distance(v.b, CVV, ws, we, 20) < far {
		return v.add(ws, we, CVV, v.b[ws:we])
	} else if n >= 4 && v.m.on.pin && v.code.distance(v.b, PIN, ws, we, 14) < far {
		return v.add(ws, we, PIN, v.b[ws:we])
	}
	return 0
}

// labelled finds numbers that have no form of their own, right after a word that says what they are.
func (v *view) labelled(ws int) int {
	b := v.b
	to, digits, size := ws, 0, 0
	for to < len(b) && size <= 20 && (isWord(b[to]) || b[to] == '-' && to+1 < len(b) && isWord(b[to+1])) {
		if is(b[to], isDigit) {
			digits++
		}
		if b[to] != '-' {
			size++
		}
		to++
	}
	from := ws
	for from > v.done && ws-from <= 8 && !oneOf(b[from-1], " \t\n:=\"'(#") {
		from--
	}
	if from < ws && ws-from <= 8 { // AB-123456
		letters := true
		for _, c := range b[from:ws] {
			letters = letters && (is(c, isLetter) || c == '-')
		}
		if letters {
			size += ws - from
			ws = from
		}
	}
	if digits < 4 || size > 20 || size < 5 || ws < v.from {
		return 0
	}
	kind, least := Kind(""), far
	for _, k := range [...]Kind{Medical, Account, Licence, Passport} {
		if k == Account && digits != size || k != Medical && digits*2 < size && size > 9 || k == Passport && (size < 6 || size > 10) || !v.m.enabled[k] {
			continue
		}
		if d := v.distance(k, ws, to, 24); d < least {
			kind, least = k, d
		}
	}
	if kind == "" {
		return 0
	}
	form := v.form[:0]
	for _, c := range b[ws:to] {
		if isWord(c) {
			form = append(form, upper(c))
		}
	}
	v.form = form
	return v.add(ws, to, kind, form)
}

// crypto finds addresses of Bitcoin, Ethereum and their kin.
func (v *view) crypto(ws, we int) int {
	w := v.b[ws:we]
	if !v.m.on.crypto {
		return 0
	}
	switch n := len(w); {
	case n <= 35 && oneOf(w[0], "13LMDX") && base58check(w):
		return v.add(ws, we, Crypto, w)
	case n == 42 && w[0] == '0' && w[1] == 'x' && allHex(w[2:]):
		v.form = lowered(v.form[:0], w)
		return v.add(ws, we, Crypto, v.form)
	}
	return 0
}

// bech finds addresses of BIP 173, which are longer than other words.
func (v *view) bech(ws, we int) int {
	w := v.b[ws:we]
	if len(w) < 42 || len(w) > 64 || !v.m.on.crypto || !(w[3] == '1' && (w[2]|0x20 == 'c')) && w[2] != '1' {
		return 0
	}
	v.form = lowered(v.form[:0], w)
	at := bytes.IndexByte(v.form, '1')
	if head := string(v.form[:at+1]); (head == "bc1" || head == "ltc1" || head == "tb1") && bech32(v.form, at) {
		return v.add(ws, we, Crypto, v.form)
	}
	return 0
}

var months = [...]string{"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
	"januar", "februar", "marz", "mai", "juni", "juli", "oktober", "dezember", "janvier", "fevrier", "mars", "avril", "juin", "juillet", "aout",
	"septembre", "octobre", "novembre", "decembre", "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre",
	"octubre", "noviembre", "diciembre"}

// monthKeys tells by three letters what may be a month.
var monthKeys = func() (t [1 << 15 / 32]uint32) {
	for _, m := range months {
		k := contextKey([]byte(m), 0)
		t[k/32] |= 1 << (k % 32)
	}
	return t
}()

// month returns the length of the name of a month, or of its first three letters, that b begins with.
func month(b []byte) int {
	if len(b) < 3 {
		return 0
	}
	if k := contextKey(b, 0); monthKeys[k/32]&(1<<(k%32)) == 0 {
		return 0
	}
	n := 0
	for n < len(b) && is(b[n], isLetter) {
		n++
	}
	if n < 3 || n > 10 {
		return 0
	}
	for _, m := range months {
		if (n == 3 || n == len(m)) && n <= len(m) && bytes.EqualFold(b[:n], []byte(m[:n])) {
			return n
		}
	}
	return 0
}

// birth finds a date that a word says is of a birth; the word at ws is in it and has a digit.
func (v *view) birth(ws, we int) int {
	if !v.m.on.birth || we-ws > 11 {
		return 0
	}
	from, to := v.date(ws, we)
	if to == 0 || !v.told(Birth, from, to, 32) {
		return 0
	}
	form := v.form[:0]
	for _, c := range v.b[from:to] {
		if isWord(c) {
			form = append(form, lower(c))
		}
	}
	v.form = form
	return v.add(from, to, Birth, form)
}

// date returns the bounds of the date that the word at [ws, we) begins, or stands second in. Whether there is such a day is not asked.
func (v *view) date(ws, we int) (from, to int) {
	b := v.b
	count := func(i int) int {
		n := 0
		for i+n < len(b) && is(b[i+n], isDigit) {
			n++
		}
		return n
	}
	n := count(ws)
	if n == 0 {
		return 0, 0
	}
	i := ws + n
	if n == 8 && i == we {
		if y := number(b[ws : ws+4]); 1850 < y && y < 2100 {
			return ws, we
		}
		if y := number(b[ws+4 : we]); 1850 < y && y < 2100 {
			return ws, we
		}
		return 0, 0
	}
	if n > 4 || n == 3 {
		return 0, 0
	}
	// Three numbers.
	if sep, k := separator(b[i:]); k > 0 && k <= 3 && sep&(dash|dot|slash|space) != 0 {
		if m := count(i + k); m == 1 || m == 2 || m == 3 {
			j := i + k + m
			if s, l := separator(b[j:]); l > 0 && s == sep {
				if y := count(j + l); (n == 4 && y <= 2 || n <= 2 && (y == 2 || y == 4)) && y > 0 && m <= 2 {
					return ws, j + l + y
				}
			}
		}
	}
	// 5 May 1980, 5th of May, 1980, 5-May-80.
	year := func(i int) int {
		for k := 0; k < 3 && i < len(b) && oneOf(b[i], " ,.-/'"); k++ {
			i++
		}
		if y := count(i); y == 4 || y == 2 {
			return i + y
		}
		return 0
	}
	if n <= 2 {
		j := i
		for _, s := range [...]string{"st", "nd", "rd", "th"} {
			if j+2 <= len(b) && bytes.EqualFold(b[j:j+2], []byte(s)) {
				j += 2
				break
			}
		}
		k := j
		for k < len(b) && k < j+3 && oneOf(b[k], " .-/") {
			k++
		}
		for _, s := range [...]string{"of ", "de "} {
			if k+3 <= len(b) && bytes.EqualFold(b[k:k+3], []byte(s)) {
				k += 3
			}
		}
		if m := month(b[k:]); m > 0 {
			e := k + m
			if e+4 < len(b) && bytes.EqualFold(b[e:e+4], []byte(" de ")) {
				e += 3
			}
			if y := year(e); y > 0 {
				return ws, y
			}
			return ws, k + m
		}
		// May 5, 1980.
		at := ws
		for at > v.done && ws-at < 2 && oneOf(b[at-1], " .") {
			at--
		}
		end := at
		for at > v.done && end-at < 11 && is(b[at-1], isLetter) {
			at--
		}
		if at < end && month(b[at:]) == end-at {
			if y := year(j); y > 0 {
				return at, y
			}
			return at, j
		}
	}
	return 0, 0
}
