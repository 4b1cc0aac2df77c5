package record_test

// This file is a second implementation, made from FORMAT.md and from nothing else: it calls nothing of the package it
// stands beside. The vectors must satisfy both.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

const (
	num  = `0|[1-9][0-9]{0,18}`
	uuid = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	hash = `[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=`
	when = `[2-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z`
)

// entryForm is the whole of an entry's spelling (FORMAT.md, "Entries").
var entryForm = regexp.MustCompile(`\A\{"v":1` +
	`,"kind":"(?P<kind>start|stop|heartbeat|request|response|refused|policy|approval|access|erasure|gap)"` +
	`,"by":"(?P<by>[a-z0-9.-]{1,64})"` +
	`,"boot":"(?P<boot>` + uuid + `)"` +
	`,"seq":(?P<seq>` + num + `)` +
	`,"time":"(?P<time>` + when + `)"` +
	`(?:,"session":"(?P<session>` + uuid + `)")?` +
	`(?:,"prev":"(?P<prev>` + hash + `)")?` +
	`(?:,"outcome":"(?P<outcome>complete|truncated|denied|client_gone|upstream_error|limit|internal|interrupted|waiting|resumed)")?` +
	`(?P<record>,"record":\{"root":"(?P<root>` + hash + `)","fields":(?P<fields>` + num + `)\})?` +
	`(?P<payload>,"payload":\{"sha256":"(?P<sha256>` + hash + `)","size":(?P<size>` + num + `)\})?` +
	`(?P<open>,"open":\{"count":(?P<count>` + num + `),"floor":(?P<floor>` + num + `),"shed":(?P<shed>` + num + `)\})?` +
	`(?P<gap>,"gap":\{"from":(?P<from>` + num + `),"to":(?P<to>` + num + `),"since":"(?P<since>` + when + `)"\})?` +
	`(?:,"reason":"(?P<reason>[a-z0-9_]{1,40})")?` +
	`(?:,"software":"(?P<software>[A-Za-z0-9._+/:()-]{1,64})")?` +
	`(?:,"mode":"(?P<mode>strict|overlap|open|none)")?` +
	`(?:,"beat":(?P<beat>` + num + `))?` +
	`(?:,"promise":"(?P<promise>` + hash + `)")?` +
	`(?:,"policy":(?P<policy>` + num + `))?` +
	`(?:,"verdict":"(?P<verdict>ask)")?` +
	`(?P<ask>,"ask":\{"tag":"(?P<tag>` + hash + `)","until":"(?P<until>` + when + `)"\})?` +
	`(?:,"grant":"(?P<grant>` + hash + `)")?` +
	`\}\z`)

// entryParts is the table of FORMAT.md: + must, ? may, and what is not named must not.
var entryParts = map[string]string{
	"start":     "software+ mode+ beat? promise?",
	"stop":      "open+ reason?",
	"heartbeat": "open+",
	"request":   "session+ record+ payload+ policy? verdict?",
	"response":  "session+ prev? outcome+ record+ payload+",
	"refused":   "session+ record+ payload+ reason+ policy?",
	"policy":    "record+ payload?",
	"approval":  "session+ prev+ record+ payload+ reason? ask? grant?",
	"access":    "session? record+ payload+",
	"erasure":   "session+ prev? record? payload? reason+",
	"gap":       "gap+ reason+",
}

// readEntry returns the parts of an entry as they are written, or why it is none.
func readEntry(b []byte) (map[string]string, error) {
	if len(b) > 4096 {
		return nil, errors.New("over 4096 bytes")
	}
	m := entryForm.FindSubmatch(b)
	if m == nil {
		return nil, errors.New("not the form of an entry")
	}
	e := make(map[string]string)
	for i, name := range entryForm.SubexpNames() {
		if name != "" && len(m[i]) > 0 {
			e[name] = string(m[i])
		}
	}
	for _, name := range strings.Fields("session prev outcome record payload open gap reason software mode beat promise policy verdict ask grant") {
		parts := " " + entryParts[e["kind"]]
		_, has := e[name]
		must := strings.Contains(parts, " "+name+"+")
		may := strings.Contains(parts, " "+name+"?")
		if has && !must && !may || !has && must {
			return nil, fmt.Errorf("a %s entry and %q", e["kind"], name)
		}
	}
	for _, name := range strings.Fields("seq fields size count floor shed from to beat policy") {
		if e[name] != "" && number(e[name]) < 0 {
			return nil, fmt.Errorf("%s is over 2^63-1", name)
		}
	}
	for _, name := range []string{"time", "since", "until"} {
		if e[name] == "" {
			continue
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000Z", e[name]); err != nil {
			return nil, fmt.Errorf("%s is no time", name)
		}
	}
	zeroHash := strings.Repeat("A", 43) + "="
	switch {
	case strings.Trim(e["boot"], "0-") == "" || e["session"] != "" && strings.Trim(e["session"], "0-") == "":
		return nil, errors.New("an id of zeros")
	case e["prev"] == zeroHash || e["promise"] == zeroHash || e["tag"] == zeroHash || e["grant"] == zeroHash:
		return nil, errors.New("a prev, a key, a tag or a grant of zeros")
	case e["policy"] != "" && (number(e["policy"]) < 1 || number(e["policy"]) >= number(e["seq"])):
		return nil, errors.New("a policy comes before what it judged")
	case e["kind"] == "approval" && (e["reason"] == "used") != (e["grant"] != ""):
		return nil, errors.New("a use has a grant, and nothing else")
	case e["ask"] != "" && (e["reason"] != "" || e["until"] <= e["time"]):
		return nil, errors.New("a question ends after it was asked, and has no reason")
	case e["beat"] != "" && (number(e["beat"]) < 1 || number(e["beat"]) > 86400000):
		return nil, errors.New("a beat is 1 to 86400000 milliseconds")
	case (e["kind"] == "start") != (e["seq"] == "0"):
		return nil, errors.New("start is number 0, and nothing else is")
	case e["record"] != "" && (number(e["fields"]) < 1 || number(e["fields"]) > 64):
		return nil, errors.New("fields are 1 to 64")
	case e["payload"] != "" && (number(e["size"]) < 1 || number(e["size"]) > 268435456):
		return nil, errors.New("a payload has 1 to 268435456 bytes")
	case e["payload"] != "" && e["record"] == "":
		return nil, errors.New("a payload without a record")
	case e["count"] == "0" && e["floor"] != "0":
		return nil, errors.New("a floor and nothing open")
	case e["gap"] != "" && (number(e["from"]) < 1 || number(e["to"]) < number(e["from"]) || number(e["seq"]) != number(e["to"])+1):
		return nil, errors.New("a gap entry follows the gap")
	case e["gap"] != "" && e["since"] > e["time"]:
		return nil, errors.New("a gap from the future")
	}
	return e, nil
}

// number returns -1 for what is over 2^63-1.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// readPromise is FORMAT.md's "Promises".
func readPromise(text string, signature, key []byte) error {
	if len(key) != 32 || len(signature) != 64 || smallOrder(key) || !ed25519.Verify(key, []byte(text), signature) {
		return errors.New("not signed by that key")
	}
	m := promiseForm.FindStringSubmatch(text)
	if m == nil || !utf8.ValidString(m[1]) || len(m[1]) > 255 || strings.Trim(m[2], "0-") == "" {
		return errors.New("not the form of a promise")
	}
	if strings.ContainsFunc(m[1], func(r rune) bool { return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errors.New("not an origin")
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000000Z", m[3]); err != nil {
		return errors.New("no time")
	}
	last := int64(-1)
	for _, line := range strings.Split(strings.TrimSuffix(m[4], "\n"), "\n") {
		digits, _, _ := strings.Cut(line, " ")
		n := number(digits)
		if n <= last {
			return errors.New("the indices rise, to 2^63-1 at most")
		}
		last = n
	}
	return nil
}

var promiseForm = regexp.MustCompile(`\Atallystick promise v1\n([^\n]+)\n(` + uuid + `)\n(` + when + `)\n((?:(?:` + num + `) ` + hash + `\n){1,16})\z`)

// smallOrder says whether an Ed25519 public key is a point whose order divides 8: its y is 0, 1 or -1, or its double has
// the y 0, which is so when d·y⁴ + 2y² = 1.
func smallOrder(key []byte) bool {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	mod := func(x *big.Int) *big.Int { return x.Mod(x, p) }
	b := bytes.Clone(key)
	b[31] &= 0x7f
	slices.Reverse(b)
	y := mod(new(big.Int).SetBytes(b))
	d := mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p)))
	yy := mod(new(big.Int).Mul(y, y))
	dyyyy := mod(new(big.Int).Mul(d, mod(new(big.Int).Mul(yy, yy))))
	eight := mod(new(big.Int).Add(dyyyy, new(big.Int).Lsh(yy, 1)))
	one := big.NewInt(1)
	return y.Sign() == 0 || yy.Cmp(one) == 0 || eight.Cmp(one) == 0
}

func sha(parts ...[]byte) []byte {
	h := sha256.Sum256(bytes.Join(parts, nil))
	return h[:]
}

func leafHash(b []byte) []byte { return sha([]byte{0}, b) }

// treeRoot is MTH of RFC 6962 §2.1, over leaf hashes.
func treeRoot(leaves [][]byte) []byte {
	if len(leaves) == 0 {
		return sha()
	}
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return sha([]byte{1}, treeRoot(leaves[:k]), treeRoot(leaves[k:]))
}

type field struct{ name, salt, value string }

func (f field) leaf() []byte {
	return sha([]byte{0}, []byte(f.salt), []byte{byte(len(f.name))}, []byte(f.name), []byte(f.value))
}

var fieldName = regexp.MustCompile(`\A[a-z0-9._-]{1,64}\z`)

// checkOpening is FORMAT.md's "Openings", which is RFC 9162 §2.1.3.2.
func checkOpening(f field, index, count int, proof [][]byte, root []byte, fields int) error {
	if count != fields || count < 1 || count > 64 || index < 0 || index >= count || !fieldName.MatchString(f.name) || len(f.salt) != 16 {
		return errors.New("impossible")
	}
	fn, sn, r := index, count-1, f.leaf()
	for _, p := range proof {
		if sn == 0 {
			return errors.New("too long")
		}
		if fn%2 == 1 || fn == sn {
			r = sha([]byte{1}, p, r)
			for fn%2 == 0 && fn != 0 {
				fn, sn = fn/2, sn/2
			}
		} else {
			r = sha([]byte{1}, r, p)
		}
		fn, sn = fn/2, sn/2
	}
	if sn != 0 || !bytes.Equal(r, root) {
		return errors.New("not proven")
	}
	return nil
}

// readPlain reads the plain bytes of a record.
func readPlain(b []byte) ([]field, error) {
	r := bytes.NewReader(b)
	take := func(n int) string {
		p := make([]byte, min(n, r.Len()+1))
		if m, _ := r.Read(p); m != n {
			panic(errors.New("ends early"))
		}
		return string(p)
	}
	var fields []field
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = r.(error)
			}
		}()
		if take(4) != "TSR1" {
			return errors.New("magic")
		}
		seen := map[string]bool{}
		count := int(take(1)[0])
		for range count {
			var f field
			f.name = take(int(take(1)[0]))
			f.salt = take(16)
			if n := int(binary.BigEndian.Uint32([]byte(take(4)))); n > 0 {
				f.value = take(n)
			}
			if !fieldName.MatchString(f.name) || seen[f.name] {
				panic(errors.New("name"))
			}
			seen[f.name] = true
			fields = append(fields, f)
		}
		if r.Len() != 0 || count < 1 || count > 64 {
			panic(errors.New("count or trailing bytes"))
		}
		return nil
	}()
	return fields, err
}

// openPayload is FORMAT.md's "Payloads".
func openPayload(payload, key []byte, kind, session string, root []byte) ([]byte, error) {
	if len(payload) < 5 || string(payload[:4]) != "TSP1" {
		return nil, errors.New("magic")
	}
	n := int(payload[4])
	if n < 1 || n > 64 || len(payload) < 5+n+12+16 {
		return nil, errors.New("header")
	}
	header, nonce, sealed := payload[:5+n], payload[5+n:5+n+12], payload[5+n+12:]
	block, err := aes.NewCipher(key)
	if err != nil || len(key) != 32 {
		return nil, errors.New("key")
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	packed, err := gcm.Open(nil, nonce, sealed, sealedFor(header, kind, session, root))
	if err != nil {
		return nil, err
	}
	if err := oneFrame(packed); err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(192<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	plain, err := d.DecodeAll(packed, nil)
	if err != nil {
		return nil, err
	}
	fields, err := readPlain(plain)
	if err != nil {
		return nil, err
	}
	var leaves [][]byte
	for _, f := range fields {
		leaves = append(leaves, f.leaf())
	}
	if !bytes.Equal(treeRoot(leaves), root) {
		return nil, errors.New("another record")
	}
	return plain, nil
}

// sealedFor is the additional data of a payload.
func sealedFor(header []byte, kind, session string, root []byte) []byte {
	id := make([]byte, 16)
	hex.Decode(id, []byte(strings.ReplaceAll(session, "-", "")))
	return bytes.Join([][]byte{header, {byte(len(kind))}, []byte(kind), id, root}, nil)
}

// oneFrame says whether b is exactly one zstd frame that states its size, at most 192 MiB, and no dictionary.
func oneFrame(b []byte) error {
	bad := errors.New("not one frame")
	if len(b) < 6 || binary.LittleEndian.Uint32(b) != 0xFD2FB528 {
		return bad
	}
	d := b[4]
	at := 5
	if d&0x20 == 0 {
		at++ // window descriptor
	}
	if d&3 != 0 {
		return bad // a dictionary; ours never states one, not even 0
	}
	size := uint64(0)
	n := [4]int{0, 2, 4, 8}[d>>6]
	if n == 0 && d&0x20 != 0 {
		n = 1
	}
	if n == 0 || len(b) < at+n {
		return bad
	}
	for i := range n {
		size |= uint64(b[at+i]) << (8 * i)
	}
	if n == 2 {
		size += 256
	}
	if at += n; size > 192<<20 {
		return bad
	}
	room := uint64(0)
	for last := false; !last; room += 128 << 10 {
		if len(b) < at+3 {
			return bad
		}
		h := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		last = h&1 == 1
		if at += 3; h>>1&3 == 1 {
			at++
		} else {
			at += h >> 3
		}
	}
	if d&4 != 0 {
		at += 4
	}
	if at != len(b) || size > room {
		return bad
	}
	return nil
}

// A reading is what a log's entries say when they are read forward, one after the other (FORMAT.md, "The writer").
type reading struct {
	boots map[string]*bootRead
	newst map[string]string           // the leaf of a session's newest entry
	known map[string]bool             // sessions with an entry of the chain
	open  map[string]map[string]int64 // by writer: open sessions, and the index of their request
}

type bootRead struct {
	by, time string
	seq      int64
	stopped  bool
}

func newReading() *reading {
	return &reading{boots: map[string]*bootRead{}, newst: map[string]string{}, known: map[string]bool{}, open: map[string]map[string]int64{}}
}

// next reads the entry at index, and returns which rule of the writer it breaks.
func (l *reading) next(index int64, entry []byte) error {
	e, err := readEntry(entry)
	if err != nil {
		return err
	}
	b := l.boots[e["boot"]]
	kind, session, by := e["kind"], e["session"], e["by"]
	switch {
	case kind == "start" && b != nil:
		return errors.New("a boot starts twice")
	case kind == "start":
		b = &bootRead{by: by, seq: -1}
		l.boots[e["boot"]] = b
	case b == nil:
		return errors.New("a boot without its start")
	case b.by != by:
		return errors.New("one boot, two writers")
	case b.stopped:
		return errors.New("an entry after the stop")
	}
	first := number(e["seq"])
	if kind == "gap" {
		first = number(e["from"])
	}
	if first != b.seq+1 {
		return fmt.Errorf("number %d follows %d", first, b.seq)
	}
	if e["time"] < b.time {
		return errors.New("time goes back")
	}
	b.seq, b.time, b.stopped = number(e["seq"]), e["time"], kind == "stop"
	if l.open[by] == nil {
		l.open[by] = map[string]int64{}
	}
	switch kind {
	case "request", "response", "refused", "approval", "erasure":
		if e["prev"] != l.newst[session] && !(kind == "erasure" && e["prev"] == "") {
			return fmt.Errorf("prev of a %s entry names another entry", kind)
		}
		if (kind == "request" || kind == "refused") && l.known[session] {
			return errors.New("a session begins twice")
		}
		l.known[session] = true
		l.newst[session] = base64.StdEncoding.EncodeToString(leafHash(entry))
	}
	switch kind {
	case "request":
		l.open[by][session] = index
	case "response":
		delete(l.open[by], session)
	case "heartbeat", "stop":
		floor, n := int64(0), 0
		for _, i := range l.open[by] {
			if n == 0 || i < floor {
				floor = i
			}
			n++
		}
		if number(e["count"]) != int64(n) || number(e["floor"]) != floor {
			return fmt.Errorf("%s open above %s; it is %d above %d", e["count"], e["floor"], n, floor)
		}
	}
	return nil
}
