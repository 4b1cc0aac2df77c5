package remote

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tallystick/tallystick/tlog"
)

// Limits of what goes over the wire. Both ends keep them.
const (
	// MaxAppend is the most leaves that one call of Append takes.
	MaxAppend = 4096
	// MaxCall is the most bytes that the entries and payloads of one call of Append may have together.
	MaxCall = 2 * tlog.MaxPayload

	maxBody    = MaxCall + countLen + MaxAppend*leafHeadLen
	maxAnswer  = 4096 // bytes of an answer that is no payload
	maxWords   = 500  // bytes of an error's words that are believed
	maxTail    = tlog.MaxTailBytes + 2*tlog.MaxTail
	maxWait    = 20 * time.Second // for a tail
	maxHead    = 16 << 10
	drainBytes = batchBytes + 64<<10 // a refused body of so many bytes is read to its end, so that the answer is seen
)

// The names of the protocol.
const (
	pathLease   = "/lease/"
	pathAppend  = "/append/"
	pathPayload = "/payload/"
	pathTail    = "/tail/"

	headEpoch   = "Tallystick-Epoch"
	headVerdict = "Tallystick-Verdict"
	typeLeaves  = "application/x-tallystick-leaves"
	typeText    = "text/plain; charset=utf-8"
	typeBytes   = "application/octet-stream"
)

// forClients says whether a path is not for everybody.
func forClients(path string) bool {
	return strings.HasPrefix(path, pathLease) || strings.HasPrefix(path, pathAppend) || strings.HasPrefix(path, pathPayload) || strings.HasPrefix(path, pathTail)
}

// What the protocol adds to the errors of package tlog, named after the caller's next move.
var (
	// ErrRefused says that the server takes no such entry from this writer; mend it. Nothing was appended.
	ErrRefused = errors.New("tlog/remote: the log does not take this")
	// ErrDenied says that the credential is missing, unknown, or not good for this; give another.
	ErrDenied = errors.New("tlog/remote: the log does not know this client, or does not let it do this")
	// ErrFenced says that another process took a lease as the same writer; end this one.
	ErrFenced = errors.New("tlog/remote: another process writes to the log under this writer's name")

	errStale  = errors.New("tlog/remote: the lease is not the newest of its writer; take a new one") // nothing was appended
	errCut    = errors.New("tlog/remote: the body did not come; send it again")                      // likewise
	errFailed = errors.New("tlog/remote: the log cannot do this at the moment")
)

// A verdict is how an error travels: a status, and a word in a header that tells the server's own answers from those
// of whatever stands in between.
type verdict struct {
	word   string
	status int
	err    error
}

// verdicts are in the order in which an error is matched: a log that halted because its disk is full has halted.
var verdicts = []verdict{
	{"quarantine", http.StatusServiceUnavailable, tlog.ErrQuarantine},
	{"halted", http.StatusServiceUnavailable, tlog.ErrHalted},
	{"closed", http.StatusServiceUnavailable, tlog.ErrClosed},
	{"full", http.StatusInsufficientStorage, tlog.ErrFull},
	{"busy", http.StatusServiceUnavailable, tlog.ErrBusy},
	{"too-large", http.StatusRequestEntityTooLarge, tlog.ErrTooLarge},
	{"not-found", http.StatusNotFound, tlog.ErrNotFound},
	{"refused", http.StatusBadRequest, ErrRefused},
	{"unknown-client", http.StatusUnauthorized, errUnknownClient},
	{"forbidden", http.StatusForbidden, ErrDenied},
	{"cut-short", http.StatusRequestTimeout, errCut},
	{"stale", http.StatusConflict, errStale},
	{"fenced", http.StatusConflict, ErrFenced},
	{"failed", http.StatusInternalServerError, errFailed},
}

// errUnknownClient is ErrDenied to somebody who did not say who he is.
var errUnknownClient = fmt.Errorf("%w: no credential that it knows", ErrDenied)

func verdictOf(err error) verdict {
	for _, v := range verdicts {
		if errors.Is(err, v.err) {
			return v
		}
	}
	return verdicts[len(verdicts)-1]
}

// An answered error is what the other process said, with the sentinel that says what to do about it.
type answered struct {
	words string
	is    error
}

func (e *answered) Error() string { return "the log answers: " + e.words }
func (e *answered) Unwrap() error { return e.is }

// readVerdict returns the error that an answer of our server states, or nil where it is not one of those.
func readVerdict(status int, head http.Header, body []byte) error {
	word := head.Get(headVerdict)
	for _, v := range verdicts {
		if v.word == word && v.status == status {
			words := clean(body)
			if words == "" {
				words = v.err.Error()
			}
			return &answered{words, v.err}
		}
	}
	return nil
}

// clean makes what a peer wrote fit for one line of a terminal or a log.
func clean(b []byte) string {
	b = b[:min(len(b), maxWords)]
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, string(b))
	return strings.TrimSpace(s)
}

// An epoch names a lease. The client names it when it asks, so that no two are called the same, whichever server gives
// them. The zero epoch is none.
type epoch struct {
	boot [8]byte // drawn when the client was made
	n    uint64  // one more with every request
}

func (e epoch) String() string {
	return hex.EncodeToString(binary.BigEndian.AppendUint64(e.boot[:], e.n))
}

// parseEpoch accepts exactly what String writes, of an epoch whose number is not zero.
func parseEpoch(s string) (epoch, error) {
	var e epoch
	b, err := hex.DecodeString(s)
	if err == nil && len(b) == 16 {
		copy(e.boot[:], b)
		e.n = binary.BigEndian.Uint64(b[8:])
	}
	if e.n == 0 || e.String() != s {
		return epoch{}, errors.New("tlog/remote: an epoch is 32 lower-case digits of hexadecimal, and the last 16 are not all zero")
	}
	return e, nil
}

// A grant is the answer to who asked for a lease.
type grant struct {
	origin string // of the log that answers
	epoch  epoch  // of the lease
	size   uint64 // whatever older leases brought lies below, and what this one brings will not
}

func (g grant) append(b []byte) []byte {
	b = append(append(b, g.origin...), '\n')
	b = append(append(b, g.epoch.String()...), '\n')
	return append(strconv.AppendUint(b, g.size, 10), '\n')
}

func parseGrant(b []byte) (grant, error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return grant{}, fmt.Errorf("tlog/remote: a lease has three lines, not those that begin %.100q", b)
	}
	g := grant{origin: lines[0]}
	if err := tlog.CheckOrigin(g.origin); err != nil {
		return grant{}, fmt.Errorf("lease: %w", err)
	}
	var err error
	if g.epoch, err = parseEpoch(lines[1]); err != nil {
		return grant{}, err
	}
	var ok bool
	if g.size, ok = parseNumber(lines[2]); !ok {
		return grant{}, fmt.Errorf("tlog/remote: a lease with the size %.40q", lines[2])
	}
	return g, nil
}

// parseFirst reads the answer to an append of n leaves: the index of the first.
func parseFirst(b []byte, n int) (uint64, error) {
	s, ok := strings.CutSuffix(string(b), "\n")
	first, number := parseNumber(s)
	if !ok || !number || first > 1<<63-1-uint64(n) {
		return 0, fmt.Errorf("tlog/remote: %.40q is not the index of a first leaf", b)
	}
	return first, nil
}

// parseNumber reads a decimal number below 2^63 in its only spelling.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// The body of an append is, big-endian,
//
//	uint32   the number of leaves, 1 to MaxAppend
//	for each leaf:
//	uint16   the length of its entry, 1 to tlog.MaxEntry
//	uint32   the length of its payload, 0 to tlog.MaxPayload; 0 for none
//	         the entry
//	         the payload
//
// and nothing after it.
const (
	countLen    = 4
	leafHeadLen = 6
)

func appendCount(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

// appendLeafHead appends what stands before a leaf's payload: the lengths and the entry.
func appendLeafHead(b []byte, leaf tlog.Leaf) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(leaf.Entry)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(leaf.Payload)))
	return append(b, leaf.Entry...)
}

// appendLeaf appends one leaf.
func appendLeaf(b []byte, leaf tlog.Leaf) []byte {
	return append(appendLeafHead(b, leaf), leaf.Payload...)
}

// checkLeaf returns why no log takes the leaf, or nil. i is its number in the call.
func checkLeaf(i, entry, payload int) error {
	switch {
	case entry == 0:
		return fmt.Errorf("entry %d of the call is empty; an entry has at least one byte: %w", i, ErrRefused)
	case entry > tlog.MaxEntry:
		return fmt.Errorf("entry %d of the call has %d bytes, over the limit of %d: %w", i, entry, tlog.MaxEntry, tlog.ErrTooLarge)
	case payload > tlog.MaxPayload:
		return fmt.Errorf("payload %d of the call has %d bytes, over the limit of %d: %w", i, payload, tlog.MaxPayload, tlog.ErrTooLarge)
	}
	return nil
}

// parseLeaves reads the body of an append. The leaves alias b. Whatever is wrong is ErrRefused or tlog.ErrTooLarge.
func parseLeaves(b []byte) ([]tlog.Leaf, error) {
	if len(b) < countLen {
		return nil, fmt.Errorf("a body of %d bytes: %w", len(b), ErrRefused)
	}
	n := binary.BigEndian.Uint32(b)
	rest := b[countLen:]
	switch {
	case n == 0:
		return nil, fmt.Errorf("a body of no leaves: %w", ErrRefused)
	case n > MaxAppend:
		return nil, fmt.Errorf("%d leaves in one call, over the limit of %d: %w", n, MaxAppend, tlog.ErrTooLarge)
	case int(n)*(leafHeadLen+1) > len(rest):
		return nil, fmt.Errorf("a body of %d bytes cannot hold %d leaves: %w", len(b), n, ErrRefused)
	}
	leaves := make([]tlog.Leaf, n)
	for i := range leaves {
		var err error
		if leaves[i], rest, err = cutLeaf(i, rest); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes after the last leaf: %w", len(rest), ErrRefused)
	}
	return leaves, nil
}

// cutLeaf reads one leaf from the beginning of b.
func cutLeaf(i int, b []byte) (leaf tlog.Leaf, rest []byte, err error) {
	if len(b) < leafHeadLen {
		return leaf, nil, fmt.Errorf("the body ends before leaf %d: %w", i, ErrRefused)
	}
	entry, payload := int(binary.BigEndian.Uint16(b)), int(min(binary.BigEndian.Uint32(b[2:]), tlog.MaxPayload+1))
	if err := checkLeaf(i, entry, payload); err != nil {
		return leaf, nil, err
	}
	if rest = b[leafHeadLen:]; len(rest) < entry+payload {
		return leaf, nil, fmt.Errorf("the body ends within leaf %d: %w", i, ErrRefused)
	}
	leaf.Entry = rest[:entry:entry]
	if payload > 0 {
		leaf.Payload = rest[entry : entry+payload : entry+payload]
	}
	return leaf, rest[entry+payload:], nil
}

// hashHeads appends the leaf hashes of leaves that appendLeafHead or, with their payloads, appendLeaf wrote.
func hashHeads(hashes []tlog.Hash, b []byte, payloads bool) []tlog.Hash {
	for len(b) > 0 {
		end := leafHeadLen + int(binary.BigEndian.Uint16(b))
		hashes = append(hashes, tlog.HashLeaf(b[leafHeadLen:end]))
		if payloads {
			end += int(binary.BigEndian.Uint32(b[2:]))
		}
		b = b[end:]
	}
	return hashes
}

// payloadPath returns the path of a payload.
func payloadPath(sum tlog.Hash) string { return pathPayload + hex.EncodeToString(sum[:]) }

// tailPath returns the path and query of a tail.
func tailPath(from uint64, wait time.Duration) string {
	path := pathTail + strconv.FormatUint(from, 10)
	if ms := wait.Milliseconds(); ms > 0 {
		path += "?wait=" + strconv.FormatInt(ms, 10)
	}
	return path
}

// parseTailPath reads what stands behind pathTail, and the query. A wait over maxWait is cut to that.
func parseTailPath(index, query string) (from uint64, wait time.Duration, ok bool) {
	if from, ok = parseNumber(index); !ok || query == "" {
		return from, 0, ok
	}
	text, ok := strings.CutPrefix(query, "wait=")
	ms, number := parseNumber(text)
	return from, time.Duration(min(ms, uint64(maxWait/time.Millisecond))) * time.Millisecond, ok && number
}

// parseTail reads the answer to who asked for a tail: entries, each behind its length, as in an entry bundle. They alias b.
func parseTail(b []byte) ([][]byte, error) {
	var entries [][]byte
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, errors.New("tlog/remote: a tail ends within a length")
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n == 0 || n > tlog.MaxEntry || n > len(b) || len(entries) == tlog.MaxTail {
			return nil, fmt.Errorf("tlog/remote: a tail has %d entries, and then one of %d bytes where %d are left", len(entries), n, len(b))
		}
		entries, b = append(entries, b[:n:n]), b[n:]
	}
	return entries, nil
}

// parseSum reads the last part of a payload's path.
func parseSum(s string) (sum tlog.Hash, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) || !bytes.Equal(hex.AppendEncode(nil, b), []byte(s)) {
		return sum, false
	}
	return tlog.Hash(b), true
}
